"""Parts of the report made from `eval.details`: noise ceilings, other conventions, and where a model fails.

Tables in, HTML out; averages what was scored, scores nothing.
"""

from __future__ import annotations

from html import escape

import pandas as pd

from eval import report_activity as activity
from eval.details import Details
from eval.examples import TrialExample
from eval.failures import MIN_SPIKES, by_session, judged, worst_units
from eval.report_calibration import STRONGEST
from eval.report_figures import figure_html
from eval.report_tables import interval_text, metric_name, models_of, number, table
from eval.statistics import Interval, per_session, summarize

NUM_SESSIONS = 8
# With fewer blocks of trials an interval leaves out what is true more than once in eight times.
MIN_BLOCKS = 10


def ceilings_html(details: Details, rows: pd.DataFrame) -> str:
    """What condition and time alone could reach on the same trials, beside what was reached.

    Args:
        details: Of one task.
        rows: Result rows of the same task.
    """
    if not len(details.ceilings):
        return ""
    html = []
    for (split, name), part in details.ceilings.groupby(["split", "metric"], sort=False):
        metric = str(name)
        ceiling = part.set_index("session")[["subject", "value"]]
        track = rows[(rows["split"] == split) & (rows["metric"] == metric) & (rows["train_trials"] == 0)]
        first, meaning = _CEILINGS[metric]
        lines = {first: ("", ceiling)}
        for kind, model in models_of(track):
            if kind != "null":
                lines[model] = (kind, per_session(track[track["model"] == model]))
        animals = list(dict.fromkeys(part["subject"]))
        body = []
        for model, (kind, sessions) in lines.items():
            sessions = sessions[sessions.index.isin(ceiling.index)]
            if not len(sessions):
                continue
            summary = summarize(sessions)
            means = [number(summary.per_animal[a], metric) if a in summary.per_animal else "–" for a in animals]
            cells = [escape(model), kind, *means, interval_text(summary.sessions, metric), str(summary.sessions.n)]
            if metric == "psth_r2":
                top = ceiling.loc[sessions.index, "value"].mean()
                cells.append(f"{summary.sessions.mean / top:.0%}" if min(top, summary.sessions.mean) > 0 else "–")
            body.append((kind, cells))
        told = f"<strong>{escape(metric_name(metric))}, {escape(str(split))}.</strong> {meaning}"
        head = ["", "kind", *map(escape, animals), "mean over sessions [95 %]", "sessions"]
        html.append(table(told, [*head, "of the ceiling"] if metric == "psth_r2" else head, body))
    return f"<h3>Noise ceilings</h3>{''.join(html)}"


# What stands in the first line, and what it is.
_CEILINGS = {
    "psth_r2": (
        "noise ceiling",
        "What the true means of trials with equal categorical trial covariates would reach in these very trials, by "
        "split halves (Spearman-Brown), mean over units; the rest of the variance is noise of finite trials.",
    ),
    "bps": (
        "oracle of condition and time",
        "Each test trial predicted from the other test trials of its condition, smoothed as predicts best: what "
        "condition and time alone could tell. A model that knows more of a trial than its condition may pass it, and "
        "with few trials of a condition it is low.",
    ),
}


def paired_html(details: Details) -> str:
    """Each session's difference to the strongest baseline on the same test trials, with its interval over trials."""
    if not len(details.paired):
        return ""
    html = []
    for (split, model, metric), part in details.paired.groupby(["split", "model", "metric"], sort=False):
        name = str(metric)
        about = ["session", "subject", "baseline", "blocks"]
        seeds = part.groupby(about, sort=False, as_index=False)[["difference", "low", "high"]].mean()
        lines = sorted(seeds.to_dict("records"), key=lambda line: -line["difference"])
        body = []
        for line in lines:
            gain = Interval(line["difference"], line["low"], line["high"], line["blocks"])
            names = [line["session"], line["subject"], line["baseline"].replace("_", " ")]
            cells = [*map(escape, names), interval_text(gain, name, signed=True), str(gain.n)]
            body.append(("model", cells))
        enough = [line for line in lines if line["blocks"] >= MIN_BLOCKS]
        above, below = sum(line["low"] > 0 for line in enough), sum(line["high"] < 0 for line in enough)
        what = f"gain in {metric_name(name)}" if name != "cross_entropy_bits" else "gain in bits per trial"
        counted = (
            f"Of {len(enough)} sessions with {MIN_BLOCKS} blocks or more the interval lies above 0 in {above}, below "
            f"in {below}; with fewer it is too narrow, and is not counted."
            if enough
            else f"No session has {MIN_BLOCKS} blocks: every interval is too narrow."
        )
        told = (
            f"<strong>{escape(str(model))}, {escape(str(split))}: {what}.</strong> {counted} Test trials drawn again "
            "in blocks of five in a row (seeds averaged): how sure the difference is for this session, not for animals."
        )
        html.append(table(told, ["session", "animal", "baseline", "gain [95 % over trials]", "blocks"], body))
    summary = "Session by session against the strongest baseline, on the same test trials"
    return f"<details><summary>{summary}</summary>{''.join(html)}</details>"


def conventions_html(details: Details) -> str:
    """The same predictions under the conventions in use, mean over sessions; models and the strongest baseline."""
    if not len(details.conventions):
        return ""
    html = []
    for split, part in details.conventions.groupby("split", sort=False):
        part = part.assign(model=part["model"].where(part["kind"] == "model", STRONGEST))
        seeds = part.groupby(["name", "model", "session"], sort=False)[["value", "num_units"]].mean()
        means = seeds.groupby(["name", "model"], sort=False).mean()
        meaning = part.groupby("name", sort=False)["meaning"].first()
        models = sorted(dict.fromkeys(part["model"]), key=lambda model: model == STRONGEST)
        body = []
        for name, text in meaning.items():
            values = [means["value"].get((name, model), float("nan")) for model in models]
            cells = ["–" if v != v else number(v, "bps") for v in values]
            units = f"{means['num_units'].get((name, models[0]), float('nan')):.0f}"
            body.append(("meant", [f"{escape(str(name))}<br><span>{escape(str(text))}</span>", units, *cells]))
        sessions = part["session"].nunique()
        told = (
            f"<strong>{escape(str(split))}.</strong> One set of predicted rates of each, mean over {sessions} "
            f"session{'s' if sessions > 1 else ''} (seeds averaged first), in the units that the protocol scores. Only "
            "numbers of one line may be compared; this project's is <em>bps, pooled, train null</em>."
        )
        html.append(table(told, ["convention", "units per session", *map(escape, models)], body))
    return f"<details><summary>The same predictions under other conventions</summary>{''.join(html)}</details>"


def failures_html(details: Details, examples: list[TrialExample]) -> str:
    """Worst sessions and units as tables, and their trials as recorded, as predicted, and as the baseline predicts."""
    units = judged(details.units)
    if not len(units):
        return "<p>No baseline was fitted beside a model of spike rates, so no unit or session can be called worst.</p>"
    first = units.iloc[0]
    about = f"{escape(first['task'])}, {escape(first['split'])}: {escape(first['model'])} minus the strongest baseline"
    sessions = by_session(units)
    below, worst = int((units["difference"] < 0).sum()), worst_units(units)
    html = [
        f"<p>{below} of {len(units)} units and {int((sessions['difference'] < 0).sum())} of {len(sessions)} sessions "
        f"are below the baseline ({about}, bits/spike against the train mean, seeds averaged). The worst of many are "
        "partly the unluckiest: this is where to look first, not how bad they are.</p>"
    ]
    body = [
        ("model", [escape(r["session"]), escape(r["subject"]), str(r["units"]), f"{r['spikes']:,}", *_values(r)])
        for _, r in sessions.head(NUM_SESSIONS).iterrows()
    ]
    scores = ["model", "baseline", "difference"]
    html.append(
        table(
            "<strong>Worst sessions</strong>, pooled over units.",
            ["session", "animal", "units", "test spikes", *scores],
            body,
        )
    )
    body = [
        (
            "model",
            [escape(r["unit_id"]), escape(r["region"] or "–"), escape(r["session"]), f"{r['spikes']:,}", *_values(r)],
        )
        for _, r in worst.iterrows()
    ]
    if not body:
        html.append(f"<p>No unit has {MIN_SPIKES} spikes in the scored test bins, so none is listed.</p>")
    else:
        head = ["unit", "region", "session", "test spikes", *scores]
        told = f"<strong>Worst units</strong> of those with at least {MIN_SPIKES} spikes in the scored test bins."
        html.append(table(told, head, body))
    if not examples:
        return "".join(html) + "<p>No trials of them were kept with these results.</p>"
    singles = {
        f"{t.note}: {_place(t)}, {name}": activity.single_trials(t, u)
        for t in examples
        for u, name in enumerate(t.units)
    }
    html.append(
        figure_html(
            singles,
            "Test trials, sorted by condition and length: recorded spikes, the rate that the model predicted, and the "
            "rate that the strongest baseline predicted, on one color scale. One seed.",
        )
    )
    averages = {f"{t.note}: {_place(t)}": activity.psth(t) for t in examples}
    html.append(
        figure_html(
            averages,
            "Averages over the same trials by condition: solid recorded, dashed the model, dotted the baseline; where "
            "at least three trials last.",
        )
    )
    return "".join(html)


def _values(row: pd.Series) -> list[str]:
    values = [number(row[name], "bps") for name in ("bps", "baseline_bps")]
    return [*values, number(row["difference"], "bps", signed=True)]


def _place(example: TrialExample) -> str:
    return f"{example.subject}, {example.session}"
