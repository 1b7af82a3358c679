"""The doctor's figures around events: rates, lag profiles, single trials; and distributions of the whole session.

Figures on the session clock are in doctor_time.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from eval.doctor_axes import GAP, MAX_COVARIATES, WIDTH_IN, bin_size, color, cut, regions
from eval.doctor_clock import Clock, event_times
from eval.doctor_facts import REFRACTORY_S, Facts, inside_domain, unit_intervals
from eval.report_figures import ACCENT, FAINT, PALETTE, TEXT
from foundation.binning import bin_covariate
from foundation.recording import Recording

MAX_EVENTS, MAX_PROFILES, MAX_TRIALS, MAX_CLASSES = 9, 12, 400, 8
BEFORE_S, AFTER_S, SMOOTH_S = 1.0, 2.0, 0.03


def events(recording: Recording) -> Figure | None:
    """Rates by region around every kind of event, in standard deviations of circularly shifted controls."""
    clock = Clock.of(recording, bin_size(recording, 0.02))
    found = {name: clock.counts(times) for name, times in event_times(recording).items()}
    found = dict([(name, counts) for name, counts in found.items() if counts.sum() >= 5][:MAX_EVENTS])
    if not found:
        return None
    names, row = regions(recording)
    rates = clock.table(recording.spike_times, recording.spike_units, row, len(names)).T
    # Smoothed inside of each piece alone: what lies outside of the domain is no silence.
    width = SMOOTH_S / clock.bin_size_s
    weight = np.maximum(gaussian_filter1d(clock.mask.astype(np.float32), width, truncate=2), 1e-6)
    rates = np.where(clock.mask, gaussian_filter1d(rates, width, axis=1, truncate=2) / weight, 0)
    lag = np.arange(-round(BEFORE_S / clock.bin_size_s), round(AFTER_S / clock.bin_size_s) + 1)
    scores = _scores(found, rates, clock.mask, lag)
    known = lag[np.isfinite(list(scores.values())).any(axis=(0, 1))] * clock.bin_size_s
    cols = 4 if len(found) in (4, 7, 8) else min(3, len(found))
    rows = -(-len(found) // cols)
    fig = Figure(figsize=(WIDTH_IN * max(0.5, min(1.0, cols / 3)), 0.6 + 2.5 * rows), layout="constrained")
    axes = fig.subplots(rows, cols, squeeze=False, sharex=True).ravel()
    for axis, (name, score) in zip(axes, scores.items()):
        axis.axhspan(-3, 3, color=GAP, linewidth=0)
        axis.axvline(0, color=TEXT, linewidth=0.8)
        for k in range(len(names)):
            axis.plot(lag * clock.bin_size_s, score[k], color=color(k, names), label=cut(names[k], 14))
        axis.set_title(f"{cut(name, 24)} ({int(found[name].sum()):,})", loc="left")
        if len(known) > 1:
            axis.set_xlim(known[0] - 0.02, known[-1] + 0.02)
    _label_grid(axes, len(found), cols, "time from the event (s)", "sd of shifted controls")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=min(len(names), 8 if cols > 2 else 4))
    return fig


def lags(facts: Facts) -> Figure | None:
    """Lag profile of every signal against its shifted controls."""
    shown = sorted(facts.alignments, key=lambda a: -a.z)[:MAX_PROFILES]
    if not shown:
        return None
    cols = min(4, len(shown))
    rows = -(-len(shown) // cols)
    fig = Figure(figsize=(WIDTH_IN * cols / 4, 0.4 + 1.9 * rows), layout="constrained")
    axes = fig.subplots(rows, cols, squeeze=False, sharex=True).ravel()
    for axis, a in zip(axes, shown):
        axis.axhline(a.control[1], color=FAINT, linewidth=1, linestyle="--")
        axis.axvline(0, color=TEXT, linewidth=0.8)
        axis.plot(a.lags_s, a.profile, color=ACCENT if a.related else FAINT)
        axis.axvline(a.lag_s, color=PALETTE[1], linewidth=1, linestyle=":")
        axis.set_title(f"{cut(a.signal, 28)}\n{a.lag_s:+.2f} s, z {a.z:.0f}{', repeats' * a.periodic}", loc="left")
        axis.set_ylim(bottom=0)
        axis.locator_params(axis="y", nbins=3)
    _label_grid(axes, len(shown), cols, "spikes follow by (s)", "R²")
    return fig


def trials(recording: Recording) -> Figure | None:
    """Spikes and covariates around the start of each trial, one line per trial, split by the main label."""
    usable = np.flatnonzero(recording.trials["usable"]) if len(recording.trials) else np.zeros(0, int)
    if len(usable) < 2:
        return None
    label, classes = main_label(recording)
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, MAX_TRIALS).astype(int))]
    chosen = chosen[np.argsort(classes[chosen], kind="stable")]
    start = recording.trials["start_s"].to_numpy(float)[chosen]
    length = recording.trials["stop_s"].to_numpy(float)[chosen] - start
    size = bin_size(recording, 0.05)
    before = round(0.5 / size)
    bins = before + max(2, round(float(np.clip(np.quantile(length, 0.9), 0.5, 4.0)) / size))
    begin = start - before * size
    center = begin[:, None] + size * (np.arange(bins) + 0.5)
    inside = inside_domain(center.ravel(), recording.domain).reshape(center.shape)
    cuts = recording.spike_times.searchsorted(begin[:, None] + size * np.arange(bins + 1) - 1e-9)
    panels = {"spikes/s per unit": np.diff(cuts, axis=1) / size / recording.num_units}
    for c in [c for c in recording.covariates.values() if c.times is not None][: MAX_COVARIATES - 1]:
        values = np.full((len(chosen), bins), np.nan)
        for k, at in enumerate(begin):
            part, seen = bin_covariate(c, float(at), bins, size)
            values[k, seen] = (part[:, 0] if c.spec.dim == 1 else np.linalg.norm(part, axis=1))[seen]
        name = f"|{c.spec.name}|" if c.spec.dim > 1 else c.spec.name
        panels[cut(name + (f" ({c.spec.unit})" if c.spec.unit else ""), 26)] = values
    cols = 3 if len(panels) in (5, 6) else min(4, len(panels))
    rows = -(-len(panels) // cols)
    fig = Figure(figsize=(WIDTH_IN * max(0.4, cols / 4), 0.5 + 3.0 * rows), layout="constrained")
    axes = fig.subplots(rows, cols, squeeze=False, sharex=True, sharey=True).ravel()
    groups = classes[chosen]
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    for axis, (name, raw) in zip(axes, panels.items()):
        values = np.where(inside, raw, np.nan).astype(np.float32)
        seen = values[np.isfinite(values)]
        low, high = np.quantile(seen, [0.02, 0.98]) if len(seen) else (0.0, 1.0)
        image = axis.imshow(
            values,
            aspect="auto",
            extent=(-before * size, (bins - before) * size, float(len(chosen)), 0.0),
            cmap="viridis",
            vmin=low,
            vmax=high if high > low else max(float(seen.max(initial=0)), low + 1e-6),
            interpolation="nearest",
        )
        axis.set_facecolor(GAP)
        axis.axvline(0, color=TEXT, linewidth=0.8)
        for at in starts[1:]:
            axis.axhline(at, color=TEXT, linewidth=0.8)
        bar = fig.colorbar(image, ax=axis, location="top", aspect=30, pad=0.02)
        bar.ax.locator_params(nbins=4)
        bar.set_label(name)
        bar.outline.set_visible(False)
    ticks = (starts + np.append(starts[1:], len(groups))) / 2
    axes[0].set_yticks(ticks, [f"{cut(label, 14)} {groups[k]}" if groups[k] >= 0 else "none" for k in starts])
    if not label:
        axes[0].set_yticks([])
    _label_grid(axes, len(panels), cols, "time from trial start (s)", "")
    axes[0].set_ylabel(f"{len(chosen)} trials" + ("" if label else " in order of time"))
    return fig


def distributions(recording: Recording, facts: Facts) -> Figure:
    """Histograms of unit rates, intervals between a unit's spikes, and trial lengths."""
    intervals = unit_intervals(recording)
    length = (recording.trials["stop_s"] - recording.trials["start_s"]).to_numpy(float)
    drawn = 1 + (len(intervals) > 0) + (len(length) > 0)
    fig = Figure(figsize=(WIDTH_IN * drawn / 3, 2.5), layout="constrained")
    axes = list(fig.subplots(1, drawn, squeeze=False)[0])
    axis, rates = axes.pop(0), facts.rates_hz
    low = max(1e-3, float(rates[rates > 0].min(initial=np.inf))) if (rates > 0).any() else 0.1
    axis.hist(np.maximum(rates, low), np.geomspace(low, max(float(rates.max()), 10 * low), 30), color=ACCENT)
    axis.set_xscale("log")
    axis.set_xlabel("mean rate of a unit (spikes/s)")
    axis.set_ylabel("units")
    axis.set_title(f"median {np.median(rates):.3g} spikes/s", loc="left")
    if len(intervals):
        axis = axes.pop(0)
        axis.hist(1e3 * intervals[intervals < 0.02], np.linspace(0, 20, 81), color=ACCENT)
        axis.axvline(1e3 * REFRACTORY_S, color=PALETTE[1], linewidth=1, linestyle=":")
        axis.set_xlabel("interval within a unit (ms)")
        axis.set_ylabel("intervals")
        axis.set_title(f"{100 * facts.violations:.2g} % below {1e3 * REFRACTORY_S:g} ms", loc="left")
    if len(length):
        axis = axes.pop(0)
        most = float(np.quantile(length, 0.99)) * 1.1
        axis.hist(np.minimum(length, most), np.linspace(0, most, 40), color=ACCENT)
        axis.set_xlabel("length of a trial (s)")
        axis.set_ylabel("trials")
        axis.set_title(f"{length.min():.3g} to {length.max():.3g} s", loc="left")
    return fig


def main_label(recording: Recording) -> tuple[str, np.ndarray]:
    """The trial label that splits trials best into few classes: its name, and classes `(R,)`, -1 where not observed."""
    best, name, classes = 0.0, "", np.zeros(len(recording.trials), np.int64)
    for c in recording.covariates.values():
        if c.times is not None or c.spec.kind != "categorical" or c.spec.num_classes > MAX_CLASSES:
            continue
        share = np.bincount(c.values[c.observed], minlength=2) / max(1, len(c.values))
        evenness = float(-(share[share > 0] * np.log(share[share > 0])).sum()) if (share > 0).sum() > 1 else 0.0
        # What the animal does says most, what it was told before the trial least.
        if (score := evenness * {"behavior": 1.5, "stimulus": 1.0, "task": 0.5}[c.spec.role]) > best:
            best, name, classes = score, c.spec.name, np.where(c.observed, c.values, -1)
    return name, classes


def _scores(
    found: dict[str, np.ndarray], rates: np.ndarray, mask: np.ndarray, lag: np.ndarray
) -> dict[str, np.ndarray]:
    """By event `(G, K)`: mean rate after it, less the mean over all circular shifts and over their deviation."""
    length = fft.next_fast_len(len(mask), real=True)
    spectra, inside = fft.rfft(rates, length, axis=1), fft.rfft(mask.astype(np.float32), length)
    scores = {}
    for name, counts in found.items():
        event = fft.rfft(counts, length).conj()
        paired = fft.irfft(inside * event, length)
        enough = paired > 0.1 * paired.max()
        mean = np.where(enough, fft.irfft(spectra * event, length, axis=1) / np.maximum(paired, 1e-9), np.nan)
        far = np.arange(2 * lag.max(), length - 2 * lag.max())
        far = far[enough[far]]
        scores[name] = np.full((len(rates), len(lag)), np.nan)
        if len(far) > 50:
            deviation = mean[:, far].std(axis=1)[:, None] + 1e-12
            scores[name] = (mean[:, lag] - mean[:, far].mean(axis=1)[:, None]) / deviation
    return scores


def _label_grid(axes: np.ndarray, drawn: int, cols: int, below: str, left: str) -> None:
    """Titles of the outer axes of a grid whose last row may be short."""
    for k, axis in enumerate(axes):
        axis.set_visible(k < drawn)
        if k + cols >= drawn:
            axis.set_xlabel(below)
            axis.tick_params(labelbottom=True)
        if k % cols == 0 and left:
            axis.set_ylabel(left)
