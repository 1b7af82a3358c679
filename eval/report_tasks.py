"""The scores part of the report: the verdict in words and one section per task.

Result rows in, HTML out; reads no files and knows no other part of the page.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go

from eval.details import Details
from eval.report_calibration import calibration_html
from eval.report_details import ceilings_html, conventions_html, paired_html
from eval.report_figures import dots, figure_html, score_curves
from eval.report_tables import (
    MARKS,
    Comparison,
    compare,
    headline,
    metric_name,
    models_of,
    paired_table,
    score_table,
    sentence,
    task_name,
    task_title,
    verdict_grid,
)
from eval.results import UNIT_PROBES, is_scratch
from eval.statistics import Outcome, per_session, session_interval

# Scores at single times, such as `auc_100ms`: a curve, not a table each.
_AT_TIME = re.compile(r"_\d+ms$")
# Further readings of a question, which the grid has and the sentences leave out.
_VARIANT = re.compile("transductive|multi-unit|, adapter rows|, forest|, mlp|, GLM on states")


@dataclass(frozen=True)
class Section:
    """One part of the page: its anchor, its short name in the navigation, its heading, and the HTML below."""

    anchor: str
    name: str
    heading: str
    html: str


def tasks(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each dataset and task, in order of appearance."""
    for _, part in rows.groupby(["dataset", "task"], sort=False):
        yield part


def _conditions(rows: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Split, train trials and rows; the full-data tracks first, then few-shot in rising order."""
    pairs = rows[["split", "train_trials"]].drop_duplicates().itertuples(index=False, name=None)
    for split, trials in sorted(pairs, key=lambda pair: (pair[1], pair[0] != "interleaved")):
        yield split, trials, rows[(rows["split"] == split) & (rows["train_trials"] == trials)]


def _condition_name(split: str, trials: int) -> str:
    return f"{split}, {'all trials' if trials == 0 else f'{trials} trials'}"


def _scored(rows: pd.DataFrame) -> str:
    return "animals" if rows["task"].iloc[0].startswith(UNIT_PROBES) else "sessions"


def _short_title(rows: pd.DataFrame) -> str:
    return f"{task_name(str(rows['task'].iloc[0]))}, {rows['dataset'].iloc[0]}"


def _title(rows: pd.DataFrame) -> str:
    return f"{task_title(str(rows['task'].iloc[0]))} ({rows['dataset'].iloc[0]})"


def verdict(rows: pd.DataFrame) -> str:
    """Pretrained models beside their strongest baselines: all are counted and in a grid, each question in words."""
    sentences: list[str] = []
    cells: dict[tuple[str, str], dict[str, tuple[Comparison, str]]] = {}
    outcomes: list[Outcome] = []
    for part in tasks(rows):
        metric = headline(part)
        for index, (split, trials, track) in enumerate(_conditions(part[part["metric"] == metric])):
            for kind, model in models_of(track):
                c = None if kind != "model" or is_scratch(model) else compare(track, model, "baseline")
                if c is None:
                    continue
                cells.setdefault((_short_title(part), model), {})[_condition_name(split, trials)] = (
                    c,
                    metric,
                )
                outcomes.append(c.verdict.outcome)
                if index == 0 and not _VARIANT.search(f"{part['task'].iloc[0]} {model}"):
                    text = f"<strong>{escape(_title(part))}, {_condition_name(split, trials)}.</strong> "
                    mark = f'<span class="mark {c.verdict.outcome}">{MARKS[c.verdict.outcome]}</span>'
                    sentences.append(f"<li>{mark}{text}{sentence(track, c, metric, _scored(part))}</li>")
    if not outcomes:
        return "<p>No model row names a baseline, so nothing can be said about gains.</p>"
    counts = Counter(outcomes)
    total = (
        f"<p>Of {len(outcomes)} comparisons of a pretrained model with the strongest baseline, which reads all the "
        f"covariates that the task allows, <strong>{counts['claim']}</strong> meet the claim rule, "
        f"{counts['unproven']} are above without meeting it, {counts['none']} show no difference, and "
        f"<strong>{counts['below']}</strong> are below.</p>"
    )
    rule = (
        '<p class="faint">Claim rule: the 95 % interval of the paired per-session difference is above 0, the mean '
        "difference is above 0 in every held-out animal, and at least three seeds were averaged first.</p>"
    )
    return f'{total}<ul class="verdicts">{"".join(sentences)}</ul>{verdict_grid(cells)}{rule}'


def task_section(rows: pd.DataFrame, details: Details) -> Section:
    """Tables, dots, few-shot curves and what stands behind the scores, of one task."""
    task, metric, scored = str(rows["task"].iloc[0]), headline(rows), _scored(rows)
    main = rows[rows["metric"] == metric]
    html: list[str] = []
    panels: dict[str, go.Figure] = {}
    for split, trials, track in _conditions(main[main["train_trials"] == 0]):
        name = _condition_name(split, trials)
        convention = escape(str(track["convention"].iloc[0]))
        caption = f"<strong>{escape(metric_name(metric))}, {name}.</strong> {convention}"
        html.append(score_table(track, metric, caption, scored) + _paired(track, metric, name, scored))
        panels[name] = dots(
            {model: (kind, per_session(track[track["model"] == model])) for kind, model in models_of(track)}, metric
        )
    if panels:
        note = f"Large marks: mean of an animal with its 95 % {scored[:-1]} interval; small marks: its {scored}."
        html.insert(1, figure_html(panels, note if scored == "sessions" else "Marks: animals."))
    html += [_in_time(rows[rows["train_trials"] == 0], metric, scored), _few_shot(main, metric, scored)]
    behind = details.of_task(str(rows["dataset"].iloc[0]), task)
    html += [paired_html(behind), calibration_html(behind), ceilings_html(behind, rows), conventions_html(behind)]
    if len(others := [m for m in dict.fromkeys(rows["metric"]) if m != metric and not _AT_TIME.search(m)]):
        tables = [
            score_table(
                track,
                m,
                f"{escape(metric_name(m))}, {_condition_name(split, trials)}. {escape(track['convention'].iloc[0])}",
                scored,
            )
            for m in others
            for split, trials, track in _conditions(rows[(rows["metric"] == m) & (rows["train_trials"] == 0)])
        ]
        names = escape(", ".join(map(metric_name, others)))
        html.append(f"<details><summary>Other metrics: {names}</summary>{''.join(tables)}</details>")
    dataset = str(rows["dataset"].iloc[0])
    return Section(_anchor(f"{dataset}-{task}"), task_name(task), _title(rows), "".join(html))


def _comparisons(track: pd.DataFrame) -> list[Comparison]:
    models = [model for kind, model in models_of(track) if kind == "model"]
    found = [compare(track, model, kind) for model in models for kind in ("baseline", "scratch", "null")]
    return [c for c in found if c is not None]


def _paired(track: pd.DataFrame, metric: str, name: str, scored: str) -> str:
    comparisons = _comparisons(track)
    if not comparisons:
        return "<p>No row of this track names a baseline or null, so no difference can be paired.</p>"
    return paired_table(
        comparisons, metric, f"Paired differences in {escape(metric_name(metric))}, {name}; above 0 is better.", scored
    )


def _in_time(rows: pd.DataFrame, metric: str, scored: str) -> str:
    """The headline metric at each time of the trial; empty for a task that is not scored at several."""
    at_times = rows[rows["metric"].str.fullmatch(rf"{metric}_\d+ms")]
    variants = {}
    for split, trials, track in _conditions(at_times):
        curves = {}
        for kind, model in models_of(track):
            points = []
            own = track[track["model"] == model]
            for name in dict.fromkeys(own["metric"]):
                interval = session_interval(per_session(own[own["metric"] == name])["value"].to_numpy())
                time = name.removeprefix(f"{metric}_").removesuffix("ms")
                points.append((time, interval.mean, interval.low, interval.high))
            curves[model] = (kind, points)
        variants[_condition_name(split, trials)] = score_curves(curves, metric, "time since the trial began (ms)")
    if not variants:
        return ""
    caption = (
        f"{metric_name(metric)} from what there was up to each time, over the trials that last that long; mean over "
        f"{scored} with 95 % intervals. Solid: models; dashed: baselines; dotted: nulls."
    )
    return f"<h3>In the course of a trial</h3>{figure_html(variants, caption)}"


def _few_shot(rows: pd.DataFrame, metric: str, scored: str) -> str:
    """Curves per split over the sessions that every curve has, and the paired table of each number of trials."""
    if not (rows["train_trials"] > 0).any():
        return "<p class='faint'>No few-shot rows for this task.</p>"
    variants, tables, notes = {}, [], []
    for split, part in rows.groupby("split", sort=False):
        few = part[part["model"].isin(part.loc[part["train_trials"] > 0, "model"])]
        groups = few.groupby(["model", "train_trials"])["session"].agg(set)
        common = set.intersection(*groups) if len(groups) else set()
        if not common or not (few["train_trials"] > 0).any():
            continue
        few = few[few["session"].isin(common)]
        curves = {}
        for kind, model in models_of(few):
            own = few[few["model"] == model]
            points = []
            for trials in sorted(own["train_trials"].unique(), key=lambda k: k or math.inf):
                values = per_session(own[own["train_trials"] == trials])["value"]
                interval = session_interval(values.to_numpy())
                points.append((str(trials) if trials else "all", interval.mean, interval.low, interval.high))
            curves[model] = (kind, points)
        variants[str(split)] = score_curves(curves, metric, "train trials of the held-out session")
        notes.append(f"{split}: {len(common)} of {part['session'].nunique()} {scored}")
        for _, trials, track in _conditions(part[part["train_trials"] > 0]):
            tables.append(_paired(track, metric, _condition_name(str(split), trials), scored))
    if not variants:
        return "<p>No session has every number of train trials, so there is no few-shot curve.</p>"
    caption = (
        f"Mean over the {scored} that have every number of train trials ({', '.join(notes)}), with 95 % intervals, "
        "draws and seeds averaged first. Solid: models; dashed: baselines; dotted: nulls."
    )
    details = f"<details><summary>Paired differences with few trials</summary>{''.join(tables)}</details>"
    return f"<h3>Few trials</h3>{figure_html(variants, caption)}{details}"


def _anchor(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())
