"""How scores grow with the number of pretraining animals, with the control that picks sessions beside it.

Reads result rows of runs that differ in what they were pretrained on; the evaluated sessions are the same in all, so
everything is paired. Resampling is of evaluated animals, then of their sessions (protocol, section 2). One line in
log2 of the number of animals, fixed beforehand, is fitted; no shape is searched for. It trains and scores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from eval.report_figures import ACCENT, PALETTE, finish, metric_title, plain
from eval.statistics import (
    DRAWS,
    Interval,
    Summary,
    animal_interval,
    paired_differences,
    per_session,
    seed_mean,
    summarize,
)

# A slope takes so many different numbers of animals.
MIN_SIZES = 3


@dataclass(frozen=True)
class Point:
    """All runs of one number of pretraining animals (or one selection of sessions).

    Attributes:
        num_animals: Pretraining animals; for a selection of sessions those they are of, so that it stands beside it.
        label: Such as "8 animals" or "best sessions".
        sessions: Columns `subject` and `value`, one row per evaluated session, averaged over seeds and choices of
            pretraining animals.
        summary: Of `sessions`.
        num_seeds: Seeds (and choices) averaged.
        sem: Standard error over them of the mean over sessions; NaN with one.
    """

    num_animals: int
    label: str
    sessions: pd.DataFrame
    summary: Summary
    num_seeds: int
    sem: float


@dataclass(frozen=True)
class Scaling:
    """Scores over numbers of pretraining animals.

    Attributes:
        metric: Of the scores.
        points: In order of the number of animals.
        steps: Each point minus the one before, paired by session.
        slope: Score gained per doubling of the number of animals, mean of animals, two-level bootstrap.
        controls: Selections of sessions.
        against_all: Each control minus the point with most animals, paired by session, by label.
    """

    metric: str
    points: tuple[Point, ...]
    steps: tuple[Summary, ...]
    slope: Interval
    controls: tuple[Point, ...] = ()
    against_all: Mapping[str, Summary] | None = None


def make_point(rows: pd.DataFrame, num_animals: int, label: str = "", seed: int = 0) -> Point:
    """One point from its result rows.

    Args:
        rows: Of one model, split, task, metric and number of train trials; several seeds, and several choices of
            pretraining animals as further seeds.
        num_animals: Pretraining animals.
        label: Default "<n> animals".
        seed: Of the resampling.

    Raises:
        ValueError: No animals, or rows of several models, tasks or metrics.
    """
    if num_animals < 1:
        raise ValueError(
            f"{num_animals} pretraining animals; expected at least one, a model from scratch is a baseline"
        )
    sessions, seeds = per_session(rows), seed_mean(rows)
    label = label or f"{num_animals} animal{'s' if num_animals > 1 else ''}"
    return Point(num_animals, label, sessions, summarize(sessions, seed), seeds.num, seeds.sem)


def fit_scaling(points: Sequence[Point], metric: str, controls: Sequence[Point] = (), seed: int = 0) -> Scaling:
    """Steps between neighbors, and the slope per doubling.

    Args:
        points: Of different numbers of animals, on the same evaluated sessions.
        metric: Of the scores.
        controls: Selections of sessions, on the same evaluated sessions.
        seed: Of the resampling.

    Raises:
        ValueError: Fewer than three numbers, one twice, or other sessions in one of them.
    """
    points = tuple(sorted(points, key=lambda point: point.num_animals))
    sizes = [point.num_animals for point in points]
    if len(set(sizes)) < max(MIN_SIZES, len(sizes)):
        raise ValueError(f"numbers of animals {sizes}; expected at least {MIN_SIZES}, each once")
    steps = tuple(summarize(paired_differences(b.sessions, a.sessions), seed) for a, b in pairwise(points))
    versus = {c.label: summarize(paired_differences(c.sessions, points[-1].sessions), seed) for c in controls}
    return Scaling(metric, points, steps, slope_per_doubling(points, seed), tuple(controls), versus)


def scalings(rows: pd.DataFrame, seed: int = 0) -> dict[tuple[str, str, str], Scaling]:
    """The scaling of the headline metric of every task, by dataset, task and split.

    Args:
        rows: Result rows of one model with two columns more: `num_animals` that it was pretrained on, and `control`,
            the name of a selection of sessions, "" where all sessions of these animals were in pretraining. Repeats are
            seeds.
        seed: Of the resampling.

    Raises:
        ValueError: A column is missing; few numbers of animals, or other sessions in one of them.
    """
    if missing := sorted({"num_animals", "control", "fold", "value"} - set(rows)):
        raise ValueError(f"scaling rows: no column {missing}; expected result rows with num_animals and control")
    found = {}
    for (dataset, task, split), part in rows.groupby(["dataset", "task", "split"], sort=False):
        part = part[part["metric"] == part["metric"].iloc[0]]
        whole, chosen = part[part["control"] == ""], part[part["control"] != ""]
        points = [make_point(own, int(str(size)), seed=seed) for size, own in whole.groupby("num_animals")]
        # Random sessions of another draw may be of fewer animals.
        controls = [
            make_point(own, round(own["num_animals"].mean()), str(label), seed)
            for label, own in chosen.groupby("control", sort=False)
        ]
        key = (str(dataset), str(task), str(split))
        found[key] = fit_scaling(points, str(part["metric"].iloc[0]), controls, seed)
    return found


def slope_per_doubling(points: Sequence[Point], seed: int = 0, draws: int = DRAWS) -> Interval:
    """Least-squares slope of the score on log2 of the number of animals: score gained per doubling.

    Each evaluated session has a slope of its own; they are averaged and resampled as any score is (animals, then
    sessions). Because the fit is linear in the scores, the slope of the mean curve is the mean of the slopes.

    Args:
        points: On the same sessions.
        seed: Of the resampling.
        draws: Bootstrap samples.
    """
    x = np.log2([point.num_animals for point in points])
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    sessions = points[0].sessions
    scores = np.stack([point.sessions["value"].reindex(sessions.index).to_numpy(float) for point in points])
    return animal_interval(weights @ scores, sessions["subject"].to_numpy(str), seed, draws)


def scaling_table(scaling: Scaling) -> pd.DataFrame:
    """One row per point and control, to print.

    Returns:
        Columns `label`, `num_animals`, `mean`, `low`, `high` (mean of animal means, two-level interval), `seeds`, `sem`
        (over seeds), `step`, `step_low`, `step_high` (on the point before it; a control on the point with most
        animals), `positive` (sessions in which the step is above 0) and `sessions`.
    """
    versus = scaling.against_all or {}
    lines: list[tuple[Point, Summary | None]] = list(zip(scaling.points, (None, *scaling.steps)))
    lines += [(control, versus[control.label]) for control in scaling.controls]
    rows = []
    for point, step in lines:
        whole, gain = point.summary.animals, step.animals if step else None
        rows.append(
            {
                "label": point.label,
                "num_animals": point.num_animals,
                "mean": whole.mean,
                "low": whole.low,
                "high": whole.high,
                "seeds": point.num_seeds,
                "sem": point.sem,
                "step": gain.mean if gain else np.nan,
                "step_low": gain.low if gain else np.nan,
                "step_high": gain.high if gain else np.nan,
                "positive": step.num_positive if step else 0,
                "sessions": len(point.sessions),
            }
        )
    return pd.DataFrame(rows)


def scaling_figure(scaling: Scaling) -> go.Figure:
    """Score against the number of pretraining animals (log axis): mean, interval, animals, fitted line, controls."""
    fig, x = go.Figure(), [point.num_animals for point in scaling.points]
    animals = list(scaling.points[0].summary.per_animal)
    for k, animal in enumerate(animals):
        y = [point.summary.per_animal[animal] for point in scaling.points]
        line = {"color": PALETTE[(k + 1) % len(PALETTE)], "width": 1, "dash": "dot"}
        fig.add_scatter(x=x, y=y, name=plain(animal), mode="lines+markers", line=line, opacity=0.6)
    wholes = [point.summary.animals for point in scaling.points]
    middle, center = np.log2(x), np.mean([whole.mean for whole in wholes])
    gain = scaling.slope
    text = f"{gain.mean:+.4f} per doubling ({gain.low:+.4f} to {gain.high:+.4f})"
    line_y = center + gain.mean * (middle - middle.mean())
    fig.add_scatter(x=x, y=line_y, name=text, mode="lines", line={"color": ACCENT, "width": 1, "dash": "dash"})
    fig.add_scatter(
        x=x, y=[w.mean for w in wholes], name="mean of animals", mode="markers",
        marker={"color": ACCENT, "size": 10}, error_y=_bars(wholes, ACCENT),
    )  # fmt: skip
    for k, control in enumerate(scaling.controls):
        # Beside the points and each other where they are of as many animals.
        whole, color = control.summary.animals, PALETTE[(k + 2) % len(PALETTE)]
        fig.add_scatter(
            x=[control.num_animals * 1.04 ** (k + 1)], y=[whole.mean], name=plain(control.label), mode="markers",
            marker={"color": color, "symbol": "diamond-open", "size": 12}, error_y=_bars([whole], color),
        )  # fmt: skip
    ticks = sorted({*x, *(control.num_animals for control in scaling.controls)})
    fig.update_xaxes(title_text="pretraining animals", type="log", tickvals=ticks, ticktext=[str(t) for t in ticks])
    fig.update_yaxes(title_text=metric_title(scaling.metric))
    return finish(fig, 400, top=30 + 24 * (1 + len(fig.data) // 3))


def _bars(intervals: Sequence[Interval], color: str) -> dict[str, object]:
    return {
        "type": "data",
        "array": [one.high - one.mean for one in intervals],
        "arrayminus": [one.mean - one.low for one in intervals],
        "color": color,
        "thickness": 1.2,
        "width": 3,
    }
