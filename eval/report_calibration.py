"""Calibration in the report: curves and errors of label decoders, from bins of `eval.details`; scores nothing."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from eval.calibration import NUM_BINS, CalibrationCurve, error_of, error_of_truth, pooled
from eval.details import Details
from eval.report_figures import FAINT, KIND_COLORS, SYMBOLS, figure_html, finish, plain
from eval.report_tables import table

# The strongest baseline differs between sessions.
STRONGEST = "strongest baseline"


def calibration_html(details: Details) -> str:
    """Curves and errors of a label task, the trials of all sessions together; "" where there are none."""
    if not len(details.calibration):
        return ""
    panels, body = {}, []
    for split, part in details.calibration.groupby("split", sort=False):
        curves = {}
        for kind, model, own in _listed(part):
            seeds = own["seed"].nunique()
            curve = pooled([CalibrationCurve(*own[["predicted", "observed", "number"]].to_numpy(float).T)])
            # Seeds say something about the same trials, which must not count as more of them.
            curve = curve._replace(number=curve.number / seeds)
            curves[model] = (kind, curve)
            trials = f"{curve.number.sum():.0f}"
            errors = [f"{error_of(curve):.3f}", f"{error_of_truth(curve):.3f}"]
            body.append((kind, [escape(model), kind, str(split), trials, str(seeds), *errors]))
        panels[str(split)] = calibration(curves)
    caption = (
        "Share of test trials of class 1 against the predicted probability of class 1, in ten bins of equal width, "
        "trials of all sessions together, seeds averaged. Bars: 95 % Wilson interval of a share of so many trials. On "
        "the diagonal a probability means what it says."
    )
    told = (
        "Expected calibration error: mean over trials of |share - probability| of their bin; 0 at best. Beside it what "
        "true probabilities would have by chance with as many trials in each bin."
    )
    head = ["", "kind", "split", "test trials", "seeds", "calibration error", "of true probabilities, by chance"]
    return f"<h3>Calibration</h3>{figure_html(panels, caption)}{table(told, head, body)}"


def calibration(curves: dict[str, tuple[str, CalibrationCurve]]) -> go.Figure:
    """Observed share against predicted probability, with Wilson intervals, and how many trials each bin holds.

    Args:
        curves: Model to kind and curve.
    """
    fig = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.06)
    line = {"color": FAINT, "width": 1, "dash": "dot"}
    fig.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, showlegend=False, hoverinfo="skip", row=1, col=1)
    drawn = dict.fromkeys(KIND_COLORS, 0)
    for k, (name, (kind, curve)) in enumerate(curves.items()):
        color = KIND_COLORS[kind][drawn[kind] % len(KIND_COLORS[kind])]
        drawn[kind] += 1
        low, high = _wilson(curve.observed, curve.number)
        fig.add_scatter(
            x=curve.predicted,
            y=curve.observed,
            name=plain(name),
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": "solid" if kind == "model" else "dash"},
            marker={"symbol": SYMBOLS[k % len(SYMBOLS)], "size": 8},
            error_y={
                "type": "data",
                "array": high - curve.observed,
                "arrayminus": curve.observed - low,
                "color": color,
                "thickness": 1,
                "width": 3,
            },
            legendgroup=name,
            hovertemplate=plain(name) + ": %{y:.2f} at %{x:.2f}<extra></extra>",
            row=1,
            col=1,
        )
        fig.add_bar(
            x=(np.ceil(curve.predicted * NUM_BINS) - 0.5).clip(0.5) / NUM_BINS,
            y=curve.number,
            marker={"color": color},
            legendgroup=name,
            showlegend=False,
            hovertemplate=plain(name) + ": %{y:.0f} trials<extra></extra>",
            row=2,
            col=1,
        )
    fig.update_xaxes(range=[-0.03, 1.03])
    fig.update_xaxes(title_text="predicted probability", row=2)
    fig.update_yaxes(title_text="observed share", range=[-0.03, 1.03], row=1)
    fig.update_yaxes(title_text="trials", row=2)
    return finish(fig, 520, top=56).update_layout(width=820, bargap=0.1)


def _wilson(share: np.ndarray, number: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a share of so many (Wilson 1927), which neither leaves [0, 1] nor vanishes at its ends."""
    center = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / (1 + z**2 / number)
    return np.minimum(center - half, share), np.maximum(center + half, share)


def _listed(part: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Kind, name and lines: each model, then the strongest baselines of all sessions as one."""
    named = part.assign(model=part["model"].where(part["kind"] == "model", STRONGEST))
    found = [(str(kind), str(model), own) for (kind, model), own in named.groupby(["kind", "model"], sort=False)]
    return sorted(found, key=lambda one: one[0] != "model")
