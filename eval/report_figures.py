"""Style and score figures of the report, in plotly; decides nothing about what may be said. Activity: report_activity.

Long traces are averaged in equal stretches, never sampled, so that no figure holds more than a few hundred points per
trace. Axis titles name units. Colors follow Okabe and Ito (2008), lightened where the dark page needs it.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from eval.statistics import session_interval

BACKGROUND, PANEL, TEXT, FAINT, ACCENT = "#0a0f14", "#0f161d", "#d7e0e6", "#8496a3", "#64dcc8"
GRID = "rgba(132,150,163,.18)"
PALETTE = (ACCENT, "#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#ff8a50", "#9aa5ff", "#c8d0d6")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")
KIND_COLORS = {
    "model": (ACCENT, "#56b4e9", "#cc79a7", "#9aa5ff"),
    "baseline": ("#e69f00", "#f0e442", "#ff8a50"),
    "null": ("#8496a3", "#5f6f7b", "#b3c0c9"),
}
MAX_POINTS = 300

METRIC_TITLES = {
    "bps": "bits per spike",
    "bps_nlb": "bits per spike (test-mean null)",
    "bps_unit": "bits per spike (mean of units)",
    "d2": "deviance explained (fraction)",
    "d2_unit": "deviance explained (fraction, mean of units)",
    "frac_units_positive": "units above 0 (fraction)",
    "trial_r2": "single-trial R² (fraction, mean of units)",
    "psth_r2": "PSTH R² (fraction, mean of units)",
    "psth_r2_weighted": "PSTH R² (fraction, weighted by variance)",
    "within_d2": "deviance explained within conditions (fraction)",
    "within_d2_unit": "deviance explained within conditions (fraction, mean of units)",
    "within_r2": "single-trial R² within conditions (fraction, mean of units)",
    "r2": "R² (fraction)",
    "partial_r2": "partial R² (fraction)",
    "auc": "area under the ROC curve",
    "balanced_accuracy": "balanced accuracy (fraction)",
    "cross_entropy_bits": "cross entropy (bits per trial)",
    "macro_f1": "macro-F1 (fraction)",
}


def _axis() -> dict[str, Any]:
    return {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "rgba(132,150,163,.5)",
        "automargin": True,
        "title": {"standoff": 8},
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "rgba(132,150,163,.5)",
    }


def template() -> dict[str, Any]:
    """The plotly template that every figure of the page shares."""
    scene = {"backgroundcolor": BACKGROUND, "gridcolor": GRID, "color": FAINT, "showspikes": False}
    return {
        "layout": {
            "paper_bgcolor": PANEL,
            "plot_bgcolor": PANEL,
            "font": {"color": TEXT, "family": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "size": 13},
            "colorway": list(PALETTE),
            "margin": {"l": 60, "r": 20, "t": 46, "b": 50},
            "legend": {
                "orientation": "h",
                "yref": "container",
                "y": 0.99,
                "yanchor": "top",
                "bgcolor": "rgba(0,0,0,0)",
            },
            "hoverlabel": {"font": {"family": "ui-monospace, 'DejaVu Sans Mono', monospace"}},
            "xaxis": _axis(),
            "yaxis": _axis(),
            "scene": {"xaxis": scene, "yaxis": scene, "zaxis": scene},
            "annotationdefaults": {"font": {"color": FAINT, "size": 12}},
        }
    }


def plain(text: str, most: int = 48) -> str:
    """Text for a figure: cut to `most` characters, and escaped for plotly, which reads some HTML."""
    return escape(text if len(text) <= most else text[: most - 1] + "…", quote=False)


def metric_title(metric: str) -> str:
    """Axis title of a metric: its name with the unit where it is known."""
    return METRIC_TITLES.get(metric, plain(metric))


def training_curves(history: pd.DataFrame, terms: list[str]) -> go.Figure:
    """Loss against step, and its terms on validation data (on training data where there is no validation).

    Args:
        history: Rows of `metrics.jsonl`: `step`, `split`, `loss` and the terms.
        terms: Columns of `history` to draw in the right panel; may be empty.
    """
    where = "val" if (history["split"] == "val").any() else "train"
    titles = ["total loss", f"loss terms, {'validation' if where == 'val' else 'training'}"]
    fig = make_subplots(cols=2 if terms else 1, subplot_titles=titles if terms else titles[:1])
    for split, color, label in (("train", FAINT, "training"), ("val", ACCENT, "validation")):
        x, y = _curve(history[history["split"] == split], "loss")
        if len(x):
            line = {"color": color, "width": 1.5 if split == "train" else 2.5}
            fig.add_scatter(x=x, y=y, name=label, mode=_mode(x), line=line, row=1, col=1)
    for k, term in enumerate(terms):
        x, y = _curve(history[history["split"] == where], term)
        line = {"color": PALETTE[(k + 1) % len(PALETTE)], "width": 2, "dash": "solid" if k < 7 else "dot"}
        fig.add_scatter(x=x, y=y, name=plain(term), mode=_mode(x), line=line, row=1, col=2)
    fig.update_xaxes(title_text="optimizer step", rangemode="tozero")
    fig.update_yaxes(title_text="loss", col=1)
    return finish(fig, 380, top=84)


def adaptation_curves(histories: dict[str, pd.DataFrame]) -> go.Figure:
    """Validation loss (training loss where there is none) against step, one line per adapted animal or session."""
    fig = go.Figure()
    for k, (name, history) in enumerate(histories.items()):
        part = history[history["split"] == "val"]
        x, y = _curve(part if len(part) else history, "loss")
        line = {"color": PALETTE[k % len(PALETTE)], "width": 2}
        fig.add_scatter(x=x, y=y, name=plain(name) + ("" if len(part) else " (training)"), mode=_mode(x), line=line)
    fig.update_xaxes(title_text="optimizer step", rangemode="tozero")
    fig.update_yaxes(title_text="loss")
    return finish(fig, 320)


def dots(scores: dict[str, tuple[str, pd.DataFrame]], metric: str) -> go.Figure:
    """Every session as a faint dot and every animal as a mark with its session interval; one line per model.

    Args:
        scores: Model to kind and per-session values (columns `subject`, `value`), top line first.
        metric: Of the axis.
    """
    animals = list(dict.fromkeys(a for _, sessions in scores.values() for a in sessions["subject"]))
    offsets = np.linspace(0.24, -0.24, len(animals)) if len(animals) > 1 else np.zeros(1)
    fig = go.Figure()
    for k, animal in enumerate(animals):
        color, symbol = PALETTE[k % len(PALETTE)], SYMBOLS[k % len(SYMBOLS)]
        faint_x, faint_y, faint_text = [], [], []
        x, y, low, high = [], [], [], []
        for line, (_, sessions) in enumerate(scores.values()):
            values = sessions.loc[sessions["subject"] == animal, "value"]
            if not len(values):
                continue
            interval = session_interval(values.to_numpy())
            x.append(interval.mean)
            y.append(-line + offsets[k])
            low.append(interval.mean - interval.low)
            high.append(interval.high - interval.mean)
            if len(values) > 1:
                faint_x += values.tolist()
                faint_y += [-line + offsets[k]] * len(values)
                faint_text += [plain(str(name)) for name in values.index]
        fig.add_scatter(
            x=faint_x,
            y=faint_y,
            text=faint_text,
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 5, "opacity": 0.45},
            showlegend=False,
            hovertemplate="%{text}: %{x:.4f}<extra></extra>",
        )
        fig.add_scatter(
            x=x,
            y=y,
            name=plain(animal),
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 10, "line": {"color": PANEL, "width": 1}},
            error_x={"type": "data", "array": high, "arrayminus": low, "color": color, "thickness": 1.5, "width": 3},
            hovertemplate=plain(animal) + ": %{x:.4f}<extra></extra>",
        )
    names = [plain(name) for name in scores]
    fig.update_yaxes(tickvals=[-k for k in range(len(names))], ticktext=names, range=[-len(names) + 0.45, 0.55])
    fig.update_xaxes(title_text=metric_title(metric))
    return finish(fig, 120 + 40 * len(names))


def score_curves(
    curves: dict[str, tuple[str, list[tuple[str, float, float, float]]]], metric: str, axis: str
) -> go.Figure:
    """Score against a number, such as that of train trials, drawn at equal steps.

    Args:
        curves: Model to kind and points `(number, mean, low, high)`, the number as text ("16", ..., "all").
        metric: Of the vertical axis.
        axis: Title of the horizontal one.
    """
    ticks = {t for _, points in curves.values() for t, *_ in points}
    order = sorted(ticks - {"all"}, key=int) + (["all"] if "all" in ticks else [])
    fig, drawn = go.Figure(), {"model": 0, "baseline": 0, "null": 0}
    shift = np.linspace(-0.12, 0.12, len(curves)) if len(curves) > 1 else np.zeros(1)
    dashes = {"model": "solid", "baseline": "dash", "null": "dot"}
    for k, (name, (kind, points)) in enumerate(curves.items()):
        color = KIND_COLORS[kind][drawn[kind] % len(KIND_COLORS[kind])]
        drawn[kind] += 1
        _, mean, low, high = zip(*points)
        x = np.array([order.index(t) for t, *_ in points]) + shift[k]
        error = {"array": np.subtract(high, mean), "arrayminus": np.subtract(mean, low), "thickness": 1.2, "width": 3}
        fig.add_scatter(
            x=x,
            y=mean,
            name=plain(name),
            mode="lines+markers",
            line={"color": color, "dash": dashes[kind], "width": 2},
            marker={"symbol": SYMBOLS[k % len(SYMBOLS)], "size": 8},
            error_y={"type": "data", "color": color, **error},
            hovertemplate=plain(name) + ": %{y:.4f}<extra></extra>",
        )
    fig.update_xaxes(title_text=axis, tickvals=list(range(len(order))), ticktext=order)
    fig.update_yaxes(title_text=metric_title(metric))
    return finish(fig, 400, top=30 + 24 * (1 + len(curves) // 3))


def figure_html(variants: dict[str, go.Figure], caption: str) -> str:
    """A figure element; several variants get a drop-down. The data travel as JSON that no HTML parser can leave."""
    options = "".join(f"<option>{escape(name)}</option>" for name in variants)
    select = f'<select aria-label="what to show">{options}</select>' if len(variants) > 1 else ""
    height = max(int(fig.layout.height) for fig in variants.values())
    drawn = [json.loads(str(fig.to_json())) for fig in variants.values()]
    for figure in drawn:
        figure["layout"].pop("template", None)  # the page's own, once for all figures
    data = to_json(drawn)
    return (
        f'<figure class="plot">{select}<div class="canvas" style="min-height:{height}px"></div>'
        f'<figcaption>{escape(caption)}</figcaption><script type="application/json">{data}</script></figure>'
    )


def to_json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def finish(fig: go.Figure, height: int, top: int = 46) -> go.Figure:
    """Set the height and the room above the plot, in pixels; `template` has the rest of the style."""
    return fig.update_layout(height=height, margin={"t": top})


def _mode(x: np.ndarray) -> str:
    return "lines+markers" if len(x) < 12 else "lines"


def _curve(history: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Step and value of the finite rows, averaged in equal stretches down to `MAX_POINTS`."""
    if column not in history:
        return np.zeros(0), np.zeros(0)
    part = history[["step", column]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    part = part[np.isfinite(part).all(axis=1)]
    pieces = np.array_split(part, min(MAX_POINTS, max(1, len(part))))
    means = np.array([piece.mean(axis=0) for piece in pieces if len(piece)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]
