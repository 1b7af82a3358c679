"""How the doctor's figures look, and what they share: regions, gaps, traces of covariates. Holds no whole figure.

The colors are those of the report. Long traces are averaged in equal stretches.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from eval.report_figures import ACCENT, FAINT, PALETTE, PANEL, TEXT
from foundation.recording import Covariate, Recording

MAX_REGIONS, MAX_COVARIATES, MAX_DIMS = 7, 8, 4
WIDTH_IN, DPI = 11.4, 120
# Of one image; noise is stored with loss.
MAX_BYTES = 250_000
GAP = "#2b3843"
STYLE: Any = {
    "figure.facecolor": PANEL,
    "axes.facecolor": PANEL,
    "axes.edgecolor": "#4a5964",
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": TEXT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "font.family": "DejaVu Sans",
    "lines.linewidth": 1.2,
}


def webp(fig: Figure) -> bytes:
    """The figure as WebP, `DPI` dots to the inch: lossless where that is small."""
    fig.set_dpi(DPI)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, method=1)
    if buffer.tell() > MAX_BYTES:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=78, method=2)
    return buffer.getvalue()


def regions(recording: Recording) -> tuple[list[str], np.ndarray]:
    """Names of the regions with most units (the rest is "others", unknown is "?"), and each unit's `(N,)` place."""
    names = recording.units["region"].fillna("").astype(str).replace("", "?")
    common = names.value_counts()
    shown = sorted(common.index[:MAX_REGIONS] if len(common) > MAX_REGIONS + 1 else common.index)
    place = {name: k for k, name in enumerate(shown)}
    row = names.map(lambda name: place.get(name, len(shown))).to_numpy(np.int64)
    return [*shown, "others"] if (row == len(shown)).any() else shown, row


def color(k: int, names: list[str]) -> str:
    """Color of a region."""
    return FAINT if names[k] in ("others", "?") else PALETTE[k % len(PALETTE)]


def unit_order(recording: Recording, row: np.ndarray) -> np.ndarray:
    """Units `(N,)` by region, then by depth where the units table has a column of it."""
    depth = np.zeros(recording.num_units)
    for column in recording.units.columns:
        if any(word in str(column).lower() for word in ("depth", "from_tip", "axial")):
            depth = pd.to_numeric(recording.units[column], errors="coerce").fillna(0).to_numpy(float)
            break
    return np.lexsort((depth, recording.units["region"].fillna("").astype(str), row))


def bin_size(recording: Recording, wanted_s: float) -> float:
    """About `wanted_s` seconds that the recording can be binned at."""
    finest = recording.info.min_bin_size_s
    return finest * max(1, round(wanted_s / finest)) if finest else wanted_s


def seconds_inside(edges: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Seconds of the domain `(S,)` between consecutive `edges` `(S+1,)`."""
    lengths = domain[:, 1] - domain[:, 0]
    piece = np.maximum(domain[:, 0].searchsorted(edges, side="right") - 1, 0)
    before = (np.cumsum(lengths) - lengths)[piece] + np.clip(edges - domain[piece, 0], 0, lengths[piece])
    return np.diff(before)


def region_ticks(axis: Axes, names: list[str], row: np.ndarray) -> None:
    """Names of regions beside their units, where there is room."""
    sizes = np.bincount(row, minlength=len(names))
    centers = np.cumsum(sizes) - sizes / 2
    kept: list[int] = []
    for k in np.argsort(-sizes):
        if all(abs(centers[k] - centers[j]) > 0.05 * len(row) for j in kept):
            kept.append(int(k))
    axis.set_yticks(centers[kept], [cut(names[k], 14) for k in kept])
    for tick, k in zip(axis.get_yticklabels(), kept):
        tick.set_color(color(k, names))


def trace(axis: Axes, covariate: Covariate, start: float, stop: float) -> None:
    """Samples of a covariate as they are, broken where it is not observed."""
    assert covariate.times is not None
    lo, hi = covariate.times.searchsorted((start, stop))
    lo, hi = max(0, lo - 1), min(len(covariate.times), hi + 1)
    rows = np.unique(np.linspace(lo, hi - 1, min(max(hi - lo, 0), 6000)).astype(int)) if hi > lo else np.zeros(0, int)
    values = np.where(
        covariate.observed[rows][:, None], covariate.values[rows].reshape(len(rows), covariate.spec.dim), np.nan
    )
    times = covariate.times[rows]
    if len(times) > 1 and covariate.spec.kind == "continuous":
        # A pause of the clock is a gap in the line.
        pause = np.flatnonzero(np.diff(times) > max(0.25, 5 * float(np.median(np.diff(times))))) + 1
        values, times = np.insert(values, pause, np.nan, axis=0), np.insert(times, pause, times[pause - 1])
    holds = covariate.spec.kind == "categorical" or covariate.spec.resample == "last"
    for d in range(min(values.shape[1], MAX_DIMS)):
        axis.plot(times, values[:, d], color=PALETTE[d], drawstyle="steps-post" if holds else "default", linewidth=1)
    _name(axis, covariate)


def overview(axis: Axes, covariate: Covariate, edges: np.ndarray, covered: np.ndarray) -> None:
    """Mean and range of a covariate, or the rate of events, in each stretch of the session."""
    assert covariate.times is not None
    center, size = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    if covariate.spec.kind == "event":
        rate = np.where(covered > 0, np.histogram(covariate.times, edges)[0] / size, np.nan)
        axis.plot(center, rate, color=ACCENT, linewidth=1)
        axis.set_ylim(bottom=0)
        _name(axis, covariate, "1/s")
        return
    seen = covariate.observed
    times, values = covariate.times[seen], covariate.values.reshape(len(seen), covariate.spec.dim)[seen]
    cuts = times.searchsorted(edges)
    full = np.flatnonzero(np.diff(cuts) > 0)
    for d in range(min(values.shape[1], MAX_DIMS)):
        low, high, mean = (np.full(len(center), np.nan) for _ in range(3))
        if len(full):
            column, at = values[: cuts[-1], d].astype(np.float64), cuts[full]
            low[full], high[full] = np.minimum.reduceat(column, at), np.maximum.reduceat(column, at)
            mean[full] = np.add.reduceat(column, at) / np.diff(cuts)[full]
        axis.fill_between(center, low, high, color=PALETTE[d], alpha=0.3, linewidth=0)
        axis.plot(center, mean, color=PALETTE[d], linewidth=1, marker="." if len(full) < 60 else "", markersize=3)
    _name(axis, covariate)


def _name(axis: Axes, covariate: Covariate, unit: str = "") -> None:
    spec = covariate.spec
    unit = unit or spec.unit
    dims = f"\n{MAX_DIMS} of {spec.dim} values" if spec.dim > MAX_DIMS else ""
    text = f"{cut(spec.name, 20)}{dims}" + (f"\n({cut(unit, 12)})" if unit else "")
    axis.set_ylabel(text, rotation=0, ha="right", va="center")
    axis.locator_params(axis="y", nbins=3)


def shade_gaps(axis: Axes, domain: np.ndarray, start: float, stop: float, parts: float) -> None:
    """Shade what is not in the domain, as one collection; gaps below 1/`parts` of the axis are left out."""
    left, right = np.append(start, domain[:, 1]), np.append(domain[:, 0], stop)
    left, right = np.clip(left, start, stop), np.clip(right, start, stop)
    wide = right - left > (stop - start) / parts
    spans = [(a, b - a) for a, b in zip(left[wide], right[wide])]
    axis.broken_barh(spans, (0, 1), transform=axis.get_xaxis_transform(), color=GAP, linewidth=0, zorder=0.5)


def mark_trials(axis: Axes, recording: Recording, start: float, stop: float) -> None:
    """A line at the start of each trial."""
    begins = recording.trials["start_s"].to_numpy(float)
    for at in begins[(begins >= start) & (begins < stop)]:
        axis.axvline(at, color=TEXT, linewidth=0.7, alpha=0.6, zorder=0.8)


def cut(text: str, most: int) -> str:
    """Text for a figure, at most so long; without the dollar signs that matplotlib reads as mathematics."""
    text = text.replace("$", "")
    return text if len(text) <= most else text[: most - 1] + "…"
