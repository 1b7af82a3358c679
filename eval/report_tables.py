"""Result rows as comparisons, verdicts in words, and HTML tables; knows nothing of figures, files or the whole page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal

import pandas as pd

from eval.predictions import traced
from eval.results import KINDS, scratch_of
from eval.statistics import Interval, Summary, Verdict, judge, paired_differences, per_session, seed_mean, summarize

Against = Literal["baseline", "scratch", "null"]
# What scores of two models have to share to be paired.
REPEAT = ["session", "fold", "draw"]

MARKS = {"claim": "▲", "unproven": "△", "none": "○", "below": "▼"}
OUTCOMES = {
    "claim": "above (claim)",
    "unproven": "above, no claim",
    "none": "no difference shown",
    "below": "below",
}
METRICS = {
    "bps": "bits/spike",
    "bps_nlb": "bits/spike (test-mean null)",
    "bps_unit": "bits/spike (mean of units)",
    "d2": "deviance explained",
    "trial_r2": "single-trial R²",
    "psth_r2": "PSTH R²",
    "psth_r2_weighted": "PSTH R² (weighted by variance)",
    "within_d2": "deviance explained within conditions",
    "within_d2_unit": "deviance explained within conditions (mean of units)",
    "within_r2": "single-trial R² within conditions",
    "cross_entropy_bits": "cross entropy (bits)",
    "r2": "R²",
    "partial_r2": "partial R²",
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
}
TASKS = {
    "encode": "Encoding: behavior to spikes",
    "cosmooth": "Co-smoothing: some neurons from the others",
    "intra_region": "Within a region: some of its neurons from its others",
    "inter_region": "Across regions: all neurons of a region from other regions",
    "forecast": "Forecasting: the end of a trial from its beginning",
    "choice": "Choice: right or left from spikes",
    "choice_t": "Choice in time: right or left from the spikes so far",
    "evidence": "Evidence: accumulated clicks from spikes",
    "region": "Regions: where a unit sits",
    "cell_type": "Cell types: what a unit is",
    "session_identity": "Session identity: a leak meter, best at 0.5",
}


@dataclass(frozen=True)
class Comparison:
    """A model against its baseline, its null, or the same network from scratch, paired by session; above 0 is better.

    Attributes:
        model: Name.
        against: Name of what it is compared with.
        kind: Which of the three.
        summary: Of the per-session differences, signed so that above 0 is better.
        verdict: What may be said.
        num_seeds: Seeds averaged.
        sem: Standard error over seeds of the model's mean score; NaN with one seed.
    """

    model: str
    against: str
    kind: Against
    summary: Summary
    verdict: Verdict
    num_seeds: int
    sem: float


def task_title(task: str) -> str:
    """Heading of a task; a qualifier behind the first word is kept."""
    name, _, rest = task.partition(" ")
    return _plain(name) + (f" ({rest})" if rest else "")


def task_name(task: str) -> str:
    """The short form of `task_title`: the part before the colon, and the qualifier."""
    name, _, rest = task.partition(" ")
    return _plain(name).partition(":")[0] + (f" ({rest})" if rest else "")


def _plain(name: str) -> str:
    """A task in words; a decoded covariate by its own name."""
    decoded = traced(name)
    if name in TASKS or decoded is None:
        return TASKS.get(name, name)
    return f"Decoding {decoded.replace('_', ' ')}: from spikes, bin by bin"


def metric_name(metric: str) -> str:
    """A metric as one writes it in a sentence."""
    return METRICS.get(metric, metric)


def headline(rows: pd.DataFrame) -> str:
    """The headline metric of a task: the first one written."""
    return str(rows["metric"].iloc[0])


def models_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs (kind, model): models, then baselines, then nulls, each in order of appearance."""
    pairs = list(rows[["kind", "model"]].drop_duplicates().itertuples(index=False, name=None))
    return sorted(pairs, key=lambda pair: KINDS.index(pair[0]))


def compare(rows: pd.DataFrame, model: str, kind: Against) -> Comparison | None:
    """Compare a model within one task, split, metric and number of train trials; None where there is nothing to pair.

    Args:
        rows: Result rows of one dataset, task, split, metric and number of train trials, of all models.
        model: Of kind "model".
        kind: `baseline` and `null` take the values beside the model's own rows; `scratch` the model of the same family
            whose name ends in "/scratch", on the sessions that both have.
    """
    own = rows[rows["model"] == model]
    if kind == "scratch":
        against = scratch_of(model)
        twin = rows[rows["model"] == against]
        # The same test trials on both sides: a fold or draw that one of them lacks is left out.
        both = own.merge(twin, on=REPEAT)[REPEAT].drop_duplicates()
        own, twin = (part.merge(both, on=REPEAT) for part in (own, twin))
        if model == against or not len(own):
            return None
        second = per_session(twin)
    else:
        own = own[own[f"{kind}_value"].notna()]
        if not len(own):
            return None
        against = " / ".join(dict.fromkeys(own[kind]))
        second = per_session(own, f"{kind}_value")
    difference = paired_differences(per_session(own), second)
    if not own["higher_is_better"].iloc[0]:
        difference["value"] = -difference["value"]
    seeds = int(own.groupby(REPEAT)["seed"].nunique().min())
    summary = summarize(difference)
    return Comparison(model, against, kind, summary, judge(summary, seeds), seeds, _seed_error(own))


def number(value: float, metric: str, signed: bool = False) -> str:
    """A score as text: four decimals for bits per spike, three otherwise, with a typographic minus."""
    digits = 4 if "bps" in metric else 3
    # Adding 0 turns the -0 that rounding leaves into 0.
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval_text(interval: Interval, metric: str, signed: bool = False) -> str:
    """`mean [low, high]`; the mean alone where a single value was resampled."""
    text = number(interval.mean, metric, signed)
    if interval.n < 2:
        return text
    low, high = number(interval.low, metric, signed), number(interval.high, metric, signed)
    return f'{text} <span class="interval">[{low}, {high}]</span>'


def table(caption: str, head: Iterable[str], body: Iterable[tuple[str, Iterable[str]]]) -> str:
    """An HTML table; cells are HTML already, the first column is text.

    Args:
        caption: HTML.
        head: Column titles.
        body: CSS class and cells of each line.
    """
    lines = [f"<th>{title}</th>" for title in head]
    rows = [f'<tr class="{css}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for css, cells in body]
    return (
        f'<p class="faint">{caption}</p><div class="scroll"><table><thead><tr>{"".join(lines)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def score_table(rows: pd.DataFrame, metric: str, caption: str, scored: str) -> str:
    """Every model, baseline and null: each animal, mean over sessions, mean of animal means, seeds.

    Args:
        rows: Result rows of one dataset, task, split, metric and number of train trials.
        metric: For the number of decimals.
        caption: HTML.
        scored: What a value belongs to, "sessions" or "animals".
    """
    animals = list(dict.fromkeys(rows["subject"]))
    body = []
    for kind, model in models_of(rows):
        own = rows[rows["model"] == model]
        summary = summarize(per_session(own))
        means = [number(summary.per_animal[a], metric) if a in summary.per_animal else "–" for a in animals]
        both = [interval_text(summary.sessions, metric), interval_text(summary.animals, metric)]
        seeds = [str(own["seed"].nunique()), _error_text(_seed_error(own), metric)]
        cells = [escape(model), kind, *means, *both, str(summary.sessions.n), *seeds]
        body.append((kind, cells))
    titles = ["", "kind", *map(escape, animals), f"mean over {scored} [95 %]", "mean of animal means [95 %]", scored]
    return table(caption, [*titles, "seeds", "SEM over seeds"], body)


def _seed_error(rows: pd.DataFrame) -> float:
    """Standard error over seeds of the mean over the sessions that every seed has; NaN with one seed or none such."""
    if rows["seed"].nunique() < 2:
        return float("nan")
    seeds = rows.groupby(REPEAT)["seed"].transform("nunique")
    common = rows[seeds == rows["seed"].nunique()]
    return seed_mean(common).sem if len(common) else float("nan")


def _error_text(sem: float, metric: str) -> str:
    return "–" if sem != sem else f"± {number(sem, metric)}"


def paired_table(comparisons: list[Comparison], metric: str, caption: str, scored: str) -> str:
    """Paired differences with their intervals, every animal, the error over seeds and the verdict."""
    animals = list(dict.fromkeys(a for c in comparisons for a in c.summary.per_animal))
    body = []
    for c in comparisons:
        means = [
            number(c.summary.per_animal[a], metric, signed=True) if a in c.summary.per_animal else "–" for a in animals
        ]
        cells = [
            escape(c.model),
            escape(c.against),
            f'<span class="{c.verdict.outcome}">{MARKS[c.verdict.outcome]} {OUTCOMES[c.verdict.outcome]}</span>',
            *means,
            interval_text(c.summary.sessions, metric, signed=True),
            interval_text(c.summary.animals, metric, signed=True),
            f"{c.summary.num_positive} of {c.summary.sessions.n}",
            _error_text(c.sem, metric),
        ]
        body.append((f"paired against-{c.kind}", cells))
    head = [
        "model",
        "against",
        "verdict",
        *map(escape, animals),
        f"mean over {scored} [95 %]",
        "mean of animal means [95 %]",
    ]
    return table(caption, [*head, f"{scored} above 0", "SEM over seeds"], body)


def sentence(rows: pd.DataFrame, c: Comparison, metric: str, scored: str) -> str:
    """What one comparison with the strongest baseline says, in plain words (HTML), with the null and the scratch twin.

    Args:
        rows: Result rows of one dataset, task, split, metric and number of train trials, of all models.
        c: Of kind `baseline`.
        metric: The headline metric.
        scored: "sessions" or "animals".
    """
    own = rows[(rows["model"] == c.model) & rows["baseline_value"].notna()]
    value, base = (per_session(own, column)["value"].mean() for column in ("value", "baseline_value"))
    verdicts = {
        "claim": "It beats the baseline by the rule of the protocol",
        "unproven": "It is above the baseline, which is not yet a claim",
        "none": "No difference from the baseline is shown",
        "below": "<strong>A miss:</strong> it is below the baseline",
    }
    reasons = f" ({escape('; '.join(c.verdict.reasons))})" if c.verdict.outcome in ("unproven", "none") else ""
    positive = f"above in {c.summary.num_positive} of {c.summary.sessions.n} {scored}"
    text = (
        f"{escape(c.model)} reaches {number(value, metric)} {escape(metric_name(metric))}, {escape(c.against)} "
        f"{number(base, metric)}: {interval_text(c.summary.sessions, metric, signed=True)}, {positive}. "
        f'<span class="{c.verdict.outcome}">{verdicts[c.verdict.outcome]}</span>{reasons}.'
    )
    if twin := compare(rows, c.model, "scratch"):
        text += (
            f" Against the same network without pretraining: "
            f"{interval_text(twin.summary.sessions, metric, signed=True)}, {OUTCOMES[twin.verdict.outcome]}."
        )
    null = compare(rows, c.model, "null")
    if null and null.summary.sessions.low <= 0:
        text += f" <strong>It does not clearly exceed its null</strong> ({escape(null.against)})."
    return text


def verdict_grid(cells: dict[tuple[str, str], dict[str, tuple[Comparison, str]]]) -> str:
    """One line per task and model, one column per condition, each cell the paired difference to the baseline.

    Args:
        cells: (task title, model) to condition to the comparison and its metric.
    """
    conditions = list(dict.fromkeys(condition for line in cells.values() for condition in line))
    body = []
    for (title, model), line in cells.items():
        texts = []
        for condition in conditions:
            if condition not in line:
                texts.append('<span class="none">–</span>')
                continue
            c, metric = line[condition]
            hint = f"{c.model} against {c.against}; " + ("; ".join(c.verdict.reasons) or OUTCOMES["claim"])
            value = number(c.summary.sessions.mean, metric, signed=True)
            outcome = c.verdict.outcome
            texts.append(f'<span class="{outcome}" title="{escape(hint)}">{MARKS[outcome]} {value}</span>')
        metric = next(iter(line.values()))[1]
        body.append(("", [f"{escape(title)}<br>{escape(model)}", escape(metric_name(metric)), *texts]))
    legend = ", ".join(f'<span class="{o}">{MARKS[o]} {text}</span>' for o, text in OUTCOMES.items())
    caption = (
        "Paired difference to the strongest baseline, which reads every covariate that the task allows, "
        f"mean over sessions: {legend}."
    )
    return table(caption, ["task, model", "metric", *map(escape, conditions)], body)
