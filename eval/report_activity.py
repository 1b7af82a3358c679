"""Figures of the report that show activity itself: trials, averages, decoded traces, embeddings, confusions.

Scores and training are in report_figures. Long traces are averaged in equal stretches, so that no figure holds more
than a few hundred points per trace.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from eval.examples import ConfusionExample, EmbeddingExample, TrialExample
from eval.report_figures import ACCENT, FAINT, MAX_POINTS, PALETTE, TEXT, finish, plain

MAX_TRIALS, MAX_UNITS, MAX_EMBEDDING, MAX_CLASSES = 40, 4, 1500, 8


def busiest(example: TrialExample) -> list[int]:
    """The few units with the most recorded spikes, in the order of the example."""
    spikes = np.nansum(example.counts, axis=(0, 1))
    return sorted(np.argsort(-spikes, kind="stable")[:MAX_UNITS].tolist())


def psth(example: TrialExample) -> go.Figure:
    """Recorded (solid), predicted (dashed) and a baseline's (dotted) averages by condition, for the busiest units."""
    units = busiest(example)
    fig = make_subplots(cols=len(units), subplot_titles=[plain(example.units[u], 24) for u in units])
    conditions = list(dict.fromkeys(example.condition))[:MAX_CLASSES]
    kinds = [("recorded", "solid", 1.5, example.counts), ("predicted", "dash", 2.5, example.rates)]
    if example.baseline_rates is not None:
        kinds.append(("baseline", "dot", 2.5, example.baseline_rates))
    # The legend names colors and dashes apart: their products would not fit above the panels.
    keys = [(condition, {"color": PALETTE[k], "width": 3}) for k, condition in enumerate(conditions)]
    keys += [(name, {"color": TEXT, "dash": dash, "width": width}) for name, dash, width, _ in kinds]
    for name, line in keys:
        fig.add_scatter(x=[None], y=[None], mode="lines", name=plain(name), line=line, legendgroup=name, row=1, col=1)
    for col, unit in enumerate(units, start=1):
        for k, condition in enumerate(conditions):
            rows = np.array(example.condition) == condition
            for name, dash, width, values in kinds:
                time, mean = _average(values[rows, :, unit], example.bin_size_s)
                fig.add_scatter(
                    x=time,
                    y=mean,
                    mode="lines",
                    name=f"{plain(condition)}, {name}",
                    line={"color": PALETTE[k], "dash": dash, "width": width},
                    showlegend=False,
                    legendgroup=condition,
                    row=1,
                    col=col,
                )
    fig.update_xaxes(title_text="time in trial (s)")
    fig.update_yaxes(title_text="rate (spikes/s)", col=1)
    fig.update_yaxes(rangemode="tozero")
    fig.update_xaxes(rangemode="tozero")
    return finish(fig, 360, top=84)


def single_trials(example: TrialExample, unit: int) -> go.Figure:
    """Recorded counts and predicted rates of one unit, one row per trial, sorted by condition and then length.

    A baseline's rates, where the example has them, stand beside on the same color scale.
    """
    length = (~np.isnan(example.counts[:, :, 0])).sum(axis=1)
    order = np.lexsort((length, np.array(example.condition)))
    order = order[np.unique(np.linspace(0, len(order) - 1, MAX_TRIALS).astype(int))]
    stretch = int(np.ceil(example.counts.shape[1] / MAX_POINTS))
    width_s = example.bin_size_s * stretch
    panels = [_stretches(example.counts[order, :, unit], stretch) * stretch]
    panels.append(_stretches(example.rates[order, :, unit], stretch) / example.bin_size_s)
    titles = [f"recorded, spikes per {width_s * 1000:g}-ms bin", "predicted rate (spikes/s)"]
    if example.baseline_rates is not None:
        panels.append(_stretches(example.baseline_rates[order, :, unit], stretch) / example.bin_size_s)
        titles = [titles[0], f"{plain(example.model, 24)} (spikes/s)", f"{plain(example.baseline, 24)} (spikes/s)"]
    time = (np.arange(panels[0].shape[1]) + 0.5) * width_s
    fig = make_subplots(cols=len(panels), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.12)
    labels = [plain(example.condition[i]) for i in order]
    low, high = float(np.nanmin(panels[1:])), float(np.nanmax(panels[1:]))
    for col, values in enumerate(panels, start=1):
        end = fig.layout[f"xaxis{col if col > 1 else ''}"].domain[1]
        fig.add_heatmap(
            x=time.astype(np.float32),
            z=values.astype(np.float32),
            colorscale=[[0, "#1b2730"], [1, "#ffffff"]] if col == 1 else "Viridis",
            zmin=0.0 if col == 1 else low,
            zmax=float(np.nanmax(values)) if col == 1 else high,
            colorbar={"x": end + 0.01, "thickness": 10, "outlinewidth": 0, "len": 0.9},
            showscale=col < 3,
            hovertemplate="%{x:.2f} s, row %{y}: %{z:.3f}<extra></extra>",
            row=1,
            col=col,
        )
    for k in range(1, len(labels)):
        if labels[k] != labels[k - 1]:
            fig.add_hline(y=k - 0.5, line={"color": ACCENT, "width": 1})
    starts = [k for k in range(len(labels)) if k == 0 or labels[k] != labels[k - 1]]
    centers = [(a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], len(labels)])]
    fig.update_xaxes(title_text="time in trial (s)", showgrid=False)
    fig.update_yaxes(showgrid=False, ticks="")
    fig.update_yaxes(title_text="trials", tickvals=centers, ticktext=[labels[k] for k in starts], col=1)
    return finish(fig, 400, top=50)


def has_trace(truth: np.ndarray) -> bool:
    """Whether any trial of `(R, T)` values has the two bins that a line needs."""
    return bool(((~np.isnan(truth)).sum(axis=1) >= 2).any())


def traces(example: TrialExample, name: str) -> go.Figure:
    """True and decoded values of a covariate in up to eight trials, spread over the trials that are there."""
    truth, predicted = (np.asarray(values, float) for values in example.traces[name])
    seen = np.flatnonzero((~np.isnan(truth)).sum(axis=1) >= 2)
    chosen = seen[np.unique(np.linspace(0, len(seen) - 1, 8).astype(int))] if len(seen) else seen
    cols = min(4, max(1, len(chosen)))
    fig = make_subplots(
        rows=max(1, -(-len(chosen) // cols)),
        cols=cols,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=[f"trial {i}: {plain(example.condition[i])}" for i in chosen],
        vertical_spacing=0.2,
        horizontal_spacing=0.03,
    )
    stretch = int(np.ceil(truth.shape[1] / MAX_POINTS))
    for k, trial in enumerate(chosen):
        for values, label, color in ((truth, "true", TEXT), (predicted, "decoded", ACCENT)):
            part = _stretches(values[trial][None], stretch)[0].astype(np.float32)
            time = ((np.arange(len(part)) + 0.5) * example.bin_size_s * stretch).astype(np.float32)
            kept = ~np.isnan(part)
            line = {"color": color, "width": 2, "dash": "solid" if label == "true" else "dash"}
            place = {"row": k // cols + 1, "col": k % cols + 1}
            shown = {"name": label, "legendgroup": label, "showlegend": k == 0}
            fig.add_scatter(x=time[kept], y=part[kept], mode="lines", line=line, **shown, **place)
    rows = max(1, -(-len(chosen) // cols))
    fig.update_xaxes(rangemode="tozero")
    fig.update_xaxes(title_text="time in trial (s)", row=rows)
    fig.update_yaxes(title_text=plain(name), col=1)
    return finish(fig, 150 + 200 * rows, top=84)


def embedding(example: EmbeddingExample, label: str) -> go.Figure:
    """Points in three dimensions, colored by one of their labels; numbers get a color bar, strings one trace each."""
    keep = np.unique(np.linspace(0, len(example.points) - 1, MAX_EMBEDDING).astype(int))
    points, values = np.asarray(example.points, np.float32)[keep], np.asarray(example.labels[label])[keep]
    fig = go.Figure()
    if values.dtype.kind in "fiu":
        bar = {"title": {"text": plain(label), "side": "right"}, "thickness": 12, "outlinewidth": 0, "len": 0.7}
        color = values.astype(np.float32)
        groups = [("", np.ones(len(points), bool), {"color": color, "colorscale": "Viridis", "colorbar": bar})]
    else:
        names, counts = np.unique(values.astype(str), return_counts=True)
        names = names[np.argsort(-counts, kind="stable")]
        shown = sorted(names[: MAX_CLASSES - 1]) if len(names) > MAX_CLASSES else sorted(names)
        text = values.astype(str)
        groups = [(n, text == n, {"color": PALETTE[k], "symbol": "circle"}) for k, n in enumerate(shown)]
        if len(shown) < len(names):
            groups.append(("others", ~np.isin(text, shown), {"color": FAINT}))
    for name, rows, marker in groups:
        x, y, z = points[rows].T
        marker = {"size": 3, "opacity": 0.85, **marker}
        fig.add_scatter3d(x=x, y=y, z=z, name=plain(name), mode="markers", marker=marker, hoverinfo="name")
    axes = {f"{axis}axis": {"title": {"text": f"dimension {k}"}} for k, axis in enumerate("xyz", start=1)}
    camera = {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.15}}
    scene = {**axes, "aspectmode": "cube", "camera": camera}
    fig.update_layout(scene=scene, uirevision="camera", showlegend=len(groups) > 1)
    fig.update_layout(legend={"itemsizing": "constant"}, margin={"b": 10, "l": 10})
    return finish(fig, 560)


def confusion(example: ConfusionExample) -> go.Figure:
    """Share of each true class by predicted class, with the number of cases written in."""
    counts = np.asarray(example.counts, float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [plain(name) for name in example.classes]
    fig = go.Figure()
    fig.add_heatmap(
        x=names,
        y=names,
        z=share.astype(np.float32),
        text=[[f"{c:.0f}" for c in row] for row in counts],
        texttemplate="%{text}",
        colorscale="Cividis",
        zmin=0,
        zmax=1,
        colorbar={"title": {"text": "share of the true class", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        hovertemplate="true %{y}, predicted %{x}: %{text} (%{z:.2f})<extra></extra>",
    )
    fig.update_xaxes(title_text="predicted", showgrid=False, constrain="domain")
    fig.update_yaxes(title_text="true", showgrid=False, autorange="reversed", scaleanchor="x", constrain="domain")
    side = 54 * max(4, len(names))
    return finish(fig, 110 + side, top=40).update_layout(width=270 + side)


def _stretches(values: np.ndarray, stretch: int) -> np.ndarray:
    """Mean of each `stretch` bins of `(R, T)` values; a stretch without data stays NaN."""
    if stretch == 1:
        return values
    rows, bins = values.shape
    padded = np.full((rows, -(-bins // stretch) * stretch), np.nan)
    padded[:, :bins] = values
    padded = padded.reshape(rows, -1, stretch)
    seen = ~np.isnan(padded)
    sums, number = np.where(seen, padded, 0).sum(axis=2), seen.sum(axis=2)
    return np.where(number > 0, sums / np.maximum(number, 1), np.nan)


def _average(values: np.ndarray, bin_size_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Bin centers and mean rate (spikes/s) of `(R, T)` counts, where at least three trials last that long."""
    seen = ~np.isnan(values)
    number = seen.sum(axis=0)
    mean = np.where(seen, values, 0).sum(axis=0) / np.maximum(number, 1) / bin_size_s
    mean = np.where(number >= 3, mean, np.nan)
    stretch = int(np.ceil(len(mean) / MAX_POINTS))
    mean = _stretches(mean[None], stretch)[0]
    time = (np.arange(len(mean)) + 0.5) * bin_size_s * stretch
    return time.astype(np.float32), mean.astype(np.float32)
