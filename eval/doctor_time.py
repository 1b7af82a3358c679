"""The doctor's figures on the session clock: 20 seconds of everything, and the whole session.

Figures aligned to events are in doctor_aligned.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from eval.doctor_axes import (
    GAP,
    MAX_COVARIATES,
    WIDTH_IN,
    bin_size,
    color,
    cut,
    mark_trials,
    overview,
    region_ticks,
    regions,
    seconds_inside,
    shade_gaps,
    trace,
    unit_order,
)
from eval.doctor_clock import event_times
from eval.report_figures import ACCENT, PALETTE
from foundation.recording import Recording

WINDOW_S = 20.0
STRETCHES = 400
MAX_EVENT_ROWS = 12


def moment(recording: Recording) -> Figure:
    """Raster, rates by region, events and covariates of the same 20 s near the middle, on one time axis."""
    start = busy_window(recording)
    stop = min(start + WINDOW_S, float(recording.domain[-1, 1]))
    names, row = regions(recording)
    shown = [c for c in recording.covariates.values() if c.times is not None and c.spec.kind != "event"]
    shown = shown[:MAX_COVARIATES]
    moments = {name: t[(t >= start) & (t < stop)] for name, t in event_times(recording).items()}
    moments.pop("trial start", None)  # a line through all axes
    moments = dict(list(moments.items())[:MAX_EVENT_ROWS])
    heights = [4.2, 1.4, *([0.24 * len(moments) + 0.15] if moments else []), *[0.8] * len(shown)]
    fig = Figure(figsize=(WIDTH_IN, 1.0 + 1.12 * sum(heights)), layout="constrained")
    axes = list(fig.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
    times, units = recording.spikes_between(start, stop)
    height = np.empty(recording.num_units)
    height[unit_order(recording, row)] = np.arange(recording.num_units)
    size = bin_size(recording, 0.1)
    edges = start + size * np.arange(int((stop - start) / size) + 1)
    inside = seconds_inside(edges, recording.domain) > 0.5 * size
    long = max(1.0, min(9.0, 260 / recording.num_units))
    for k in range(len(names)):
        mine = row[units] == k
        axes[0].plot(
            times[mine],
            height[units[mine]],
            linestyle="",
            color=color(k, names),
            marker="|",
            markersize=long,
            markeredgewidth=0.7,
        )
        rate = np.histogram(times[mine], edges)[0] / size / max(1, int((row == k).sum()))
        axes[1].plot((edges[:-1] + edges[1:]) / 2, np.where(inside, rate, np.nan), color=color(k, names), linewidth=1)
    axes[0].set_ylim(-1, recording.num_units)
    region_ticks(axes[0], names, row)
    axes[0].set_ylabel(_units(recording))
    axes[1].set_ylabel("spikes/s\nper unit")
    axes[1].set_ylim(bottom=0)
    if moments:
        for k, at in enumerate(moments.values()):
            axes[2].vlines(at, k - 0.38, k + 0.38, color=PALETTE[k % len(PALETTE)], linewidth=1.2)
        axes[2].set_yticks(range(len(moments)), [cut(name, 22) for name in moments])
        axes[2].set_ylim(len(moments) - 0.4, -0.6)
    for axis, covariate in zip(axes[len(heights) - len(shown) :], shown):
        trace(axis, covariate, start, stop)
    for axis in axes:
        shade_gaps(axis, recording.domain, start, stop, 3000)
        mark_trials(axis, recording, start, stop)
        axis.set_xlim(start, stop)
    axes[-1].set_xlabel("time on the session clock (s)")
    return fig


def session(recording: Recording) -> Figure:
    """Every unit's rate, rates by region, and covariates over the whole session; gaps of the domain are gray."""
    names, row = regions(recording)
    span = float(recording.domain[0, 0]), float(recording.domain[-1, 1])
    shown = [c for c in recording.covariates.values() if c.times is not None][:MAX_COVARIATES]
    heights = [2.6, 1.4, *([0.5] if len(recording.trials) else []), *[0.75] * len(shown)]
    fig = Figure(figsize=(WIDTH_IN, 1.0 + 1.12 * sum(heights)), layout="constrained")
    axes = list(fig.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
    # At least two seconds of data in a stretch of a session cut into trials.
    number = int(np.clip(recording.duration_s / 2, 60, STRETCHES))
    edges = np.linspace(*span, number + 1)
    cuts = recording.spike_times.searchsorted(edges)
    counts = [np.bincount(recording.spike_units[a:b], minlength=recording.num_units) for a, b in pairwise(cuts)]
    covered = seconds_inside(edges, recording.domain)
    enough = covered > 0.02 * np.diff(edges)
    rate = np.full((number, recording.num_units), np.nan)
    rate[enough] = np.stack(counts)[enough] / covered[enough][:, None]
    relative = np.sqrt(rate / np.maximum(rate[enough].mean(axis=0), 1e-9))
    axes[0].set_facecolor(GAP)
    axes[0].imshow(
        relative[:, unit_order(recording, row)].T.astype(np.float32),
        aspect="auto",
        origin="lower",
        extent=(span[0], span[1], 0.0, float(recording.num_units)),
        cmap="magma",
        vmin=0,
        vmax=2,
        interpolation="nearest",
        zorder=1,
    )
    region_ticks(axes[0], names, row)
    axes[0].set_ylabel(_units(recording))
    axes[0].set_title("rate of each unit over its own mean: black none, orange twice the mean", loc="left")
    for k in range(len(names)):
        mean = rate[:, row == k].mean(axis=1)
        axes[1].plot((edges[:-1] + edges[1:]) / 2, mean, color=color(k, names), linewidth=1)
    axes[1].set_ylabel("spikes/s\nper unit")
    axes[1].set_ylim(bottom=0)
    if len(recording.trials):
        bounds, usable = recording.trials[["start_s", "stop_s"]].to_numpy(float), recording.trials["usable"].to_numpy()
        for mask, shade in ((usable, ACCENT), (~usable, "#ff8a50")):
            axes[2].broken_barh([(a, b - a) for a, b in bounds[mask]], (0, 1), color=shade, linewidth=0.3)
        axes[2].set_yticks([])
        axes[2].set_ylabel("trials", rotation=0, ha="right", va="center")
    for axis, covariate in zip(axes[len(heights) - len(shown) :], shown):
        overview(axis, covariate, edges, covered)
    for axis in axes:
        shade_gaps(axis, recording.domain, *span, number / 2)
        axis.set_xlim(*span)
    axes[-1].set_xlabel("time on the session clock (s)")
    return fig


def busy_window(recording: Recording) -> float:
    """Start (s) of the window near the middle that holds most data."""
    first, last = float(recording.domain[0, 0]), float(recording.domain[-1, 1])
    starts = np.linspace(first, max(first, last - WINDOW_S), 121)
    middle = np.argsort(np.abs(starts - (first + last - WINDOW_S) / 2), kind="stable")
    clocks = [c.times for c in recording.covariates.values() if c.times is not None and len(c.times)]
    best, most = first, -1.0
    for start in starts[middle]:
        quarters = start + WINDOW_S * np.arange(5) / 4
        covered = float(seconds_inside(quarters[[0, -1]], recording.domain)[0])
        seen = np.mean([np.diff(times.searchsorted(quarters)) > 0 for times in clocks]) if clocks else 0.0
        # A window away from the middle has to hold a tenth more.
        if covered * (1 + seen) > 1.1 * most:
            best, most = float(start), covered * (1 + seen)
    return best


def _units(recording: Recording) -> str:
    return f"{recording.num_units} unit{'' if recording.num_units == 1 else 's'}"
