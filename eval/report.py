"""One self-contained HTML page from a run and its results; recomputes no score.

What the page can show is shown, what is missing is said in a sentence. Provenance keys with a place of their own, all
optional: `title`, `summary`, `model`, `parameters`, `data`, `pretraining_subjects`, `held_out_subjects`, `seeds`,
`manifest_sha256`, `versions`, `licences`, and `forced` (a list of rules the evaluation was made to break; it stamps the
page). Any other key is listed as it is.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from eval import report_activity as activity
from eval.details import read_details
from eval.examples import Examples, read_examples
from eval.report_details import failures_html
from eval.report_figures import figure_html, template, to_json
from eval.report_scaling import scaling_html
from eval.report_tables import table
from eval.report_tasks import Section, task_section, tasks, verdict
from eval.report_training import pretrained_run, training_html
from eval.results import UNIT_PROBES, read_results
from foundation.durable import write_atomic

_FACTS = {
    "model": "model",
    "parameters": "parameters",
    "data": "data",
    "pretraining_subjects": "pretraining animals",
    "held_out_subjects": "held-out animals",
    "known_subjects": "animals with held-out sessions",
    "seeds": "seeds",
    "manifest_sha256": "corpus manifest (SHA-256)",
}
_KNOWN = {*_FACTS, "title", "summary", "versions", "licences", "forced"}


def write_report(run: str | Path, results: str | Path, out: str | Path, scaling: str | Path | None = None) -> Path:
    """Write the page.

    Args:
        run: Run folder, or folder of an adaptation: its logs and those below it (one per adapted animal and track)
            are shown; the pretraining log of an adaptation is taken from the run that it came from.
        results: Results folder: `results.parquet`, `results.json`, and perhaps `examples.npz` and the tables of
            `eval.details`.
        out: The HTML file to write; folders are made.
        scaling: Rows of runs on other numbers of animals (`eval.scaling.scalings`), a Parquet file.

    Returns:
        `out`.

    Raises:
        ValueError: The results cannot be read (`eval.results.read_results`), or the scaling rows are none.
    """
    run, out = Path(run), Path(out)
    rows, provenance = read_results(results)
    rows = _in_words(rows)
    examples, details = read_examples(results), read_details(results)
    title = str(provenance.get("title", "Held-out animals: what the model reads and predicts"))
    sections = [
        Section("verdict", "Verdict", "What the numbers say", verdict(rows)),
        *[task_section(part, details) for part in tasks(rows)],
        Section("confusion", "Confusions", "Which regions are taken for which", _confusions(rows, examples)),
        Section("scaling", "Scaling", "More animals, better model?", scaling_html(Path(scaling) if scaling else None)),
        Section("failures", "Failures", "Where the model fails", failures_html(details, examples.failures)),
        Section("trials", "Trials", "Recorded and predicted activity", _trials(examples)),
        Section("traces", "Traces", "Decoded against true behavior", _traces(examples)),
        Section("embedding", "Embedding", "Embedding in three dimensions", _embedding(examples)),
        Section("training", "Training", "Training", training_html(run)),
        Section("methods", "Methods", "How every number was made", _methods(rows)),
        Section("provenance", "Provenance", "Provenance", _provenance(provenance, run)),
    ]
    nav = "".join(f'<a href="#{s.anchor}">{escape(s.name)}</a>' for s in sections)
    parts = [f'<section id="{s.anchor}"><h2>{escape(s.heading)}</h2>{s.html}</section>' for s in sections]
    body = f"{_header(title, rows, provenance)}<nav><div>{nav}</div></nav><main>{''.join(parts)}</main>{_FOOTER}"
    page = Template(Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")).substitute(
        title=escape(title), plotly=get_plotlyjs(), template=to_json(template()), body=body
    )
    write_atomic(out, page.encode())
    return out


def _in_words(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows, baselines and nulls named without the underscores that files have; models keep their names."""
    rows, ours = rows.copy(), rows["kind"] == "model"
    rows["model"] = rows["model"].where(ours, rows["model"].str.replace("_", " "))
    for column in ("baseline", "null"):
        rows[column] = rows[column].str.replace("_", " ")
    return rows


_FOOTER = (
    "<footer>Written by <code>foundation report</code>. The page is complete in itself: it loads nothing from the "
    "network.</footer>"
)


def _header(title: str, rows: pd.DataFrame, provenance: dict[str, Any]) -> str:
    animals = [a for a in dict.fromkeys(rows["subject"]) if a != "all"]
    facts = {"held_out_subjects": animals, **provenance}
    # None of an optional fact, such as animals with held-out sessions, is not worth a line.
    lines = [
        f"<dt>{name}</dt><dd>{_value(facts[key])}</dd>"
        for key, name in _FACTS.items()
        if facts.get(key) not in (None, [])
    ]
    scored = rows[~rows["task"].str.startswith(UNIT_PROBES)]
    sessions = scored["session"].nunique()
    lines.append(
        f"<dt>scored</dt><dd>{sessions} sessions, {rows['task'].nunique()} tasks, {len(rows)} result rows</dd>"
    )
    forced = provenance.get("forced") or []
    stamp = "".join(f"<li>{escape(str(x))}</li>" for x in ([forced] if isinstance(forced, str) else forced))
    stamp = f'<div class="stamp"><strong>Forced evaluation.</strong> Rules were broken:<ul>{stamp}</ul></div>' * bool(
        stamp
    )
    if known := provenance.get("known_subjects"):
        stamp += (
            '<div class="stamp"><strong>Held-out sessions, known animals.</strong> '
            f"Other sessions of {_value(known)} were in pretraining. What is said here of animals holds for new "
            "sessions of them, not for new animals.</div>"
        )
    summary = f"<p>{escape(str(provenance['summary']))}</p>" if provenance.get("summary") else ""
    return f'<header><h1>{escape(title)}</h1>{summary}{stamp}<dl class="facts">{"".join(lines)}</dl></header>'


def _confusions(rows: pd.DataFrame, examples: Examples) -> str:
    if not examples.confusions:
        scored = rows["task"].str.startswith("region").any()
        return "<p>{}</p>".format(
            "No confusion matrix was kept with these results."
            if scored
            else "The results hold no region rows: whether embeddings know brain regions was not evaluated."
        )
    note = (
        "Color: share of the true class; numbers: units. The score within groups of animals is the honest one: a "
        "pooled score can be won by recognizing the group of animals. The nulls in the region tables are leak meters."
    )
    return figure_html({c.name: activity.confusion(c) for c in examples.confusions}, note)


def _trials(examples: Examples) -> str:
    if not examples.trials:
        return "<p>No example trials were kept with these results.</p>"
    averages = {f"{t.subject}, {t.session}: {t.model}": activity.psth(t) for t in examples.trials}
    singles = {
        f"{t.subject}, {t.session}: {t.units[u]}": activity.single_trials(t, u)
        for t in examples.trials
        for u in activity.busiest(t)
    }
    first = (
        "Averages over test trials by condition: solid recorded, dashed predicted; where at least three trials last."
    )
    second = "Single test trials: what was recorded and the rate that was predicted, sorted by condition and length."
    return f"{figure_html(averages, first)}{figure_html(singles, second)}"


def _traces(examples: Examples) -> str:
    variants = {
        f"{t.subject}, {t.session}: {name} by {t.model}": activity.traces(t, name)
        for t in examples.trials
        for name, (truth, _) in t.traces.items()
        if activity.has_trace(truth)
    }
    if not variants:
        return "<p>No decoded traces were kept with these results.</p>"
    return figure_html(
        variants, "Single test trials, spread evenly over those kept; not chosen by how well they are decoded."
    )


def _embedding(examples: Examples) -> str:
    variants = {
        f"{e.name}: colored by {label}": activity.embedding(e, label) for e in examples.embeddings for label in e.labels
    }
    if not variants:
        return "<p>No embedding was kept with these results.</p>"
    return figure_html(variants, "Drag to turn, scroll to zoom; the view stays when another coloring is chosen.")


def _methods(rows: pd.DataFrame) -> str:
    conventions = rows[["task", "metric", "convention"]].drop_duplicates()
    body = [
        ("", [escape(task), escape(metric), escape(text)]) for task, metric, text in conventions.itertuples(index=False)
    ]
    listed = table("Conventions of the metrics.", ["task", "metric", "convention"], body)
    listed = listed.replace("<table>", '<table class="conventions">')
    return (
        "<p>Every score is computed per session. Seeds, folds, and in the few-shot track random draws of trials, are "
        "averaged within a session first. Means over sessions carry a percentile bootstrap over sessions (5,000 "
        "samples); means of animal means a two-level bootstrap (animals, then sessions within each). Models are "
        "compared by paired per-session differences under the same bootstrap. With a handful of sessions the session "
        "interval is rather too narrow, and with many comparisons some intervals exclude 0 by chance. Hence the claim "
        "rule asks for the same sign in every held-out animal. The two-level interval is too narrow with few animals "
        "as well: nominally 95 %, it held the truth in 85 % of 1,000 simulated studies of 3 animals, in 91 % of 6, in "
        "94 % of 12.</p>"
        "<p>The standard error (SEM) over seeds is of the mean over sessions: what training leaves to chance, not how "
        "animals differ. It is no part of the intervals.</p>"
        "<p><strong>Interleaved</strong> split: test blocks of trials lie between training blocks, so a model may "
        "interpolate slow drift. <strong>Temporal</strong> split: the last fifth of the session is the test set, which "
        "is harder. The protocol gives baselines and nulls the same sessions, units, bins and trials.</p>" + listed
    )


def _provenance(provenance: dict[str, Any], run: Path) -> str:
    html = []
    for key, name in (("versions", "Versions"), ("licences", "Licences")):
        entries = provenance.get(key)
        text = _value(entries) if entries else "Not recorded with these results."
        html.append(f"<h3>{name}</h3><p>{text}</p>")
    other = {key: value for key, value in provenance.items() if key not in _KNOWN}
    if other:
        lines = [f"<dt>{escape(str(key))}</dt><dd>{_value(value)}</dd>" for key, value in other.items()]
        html.append(f'<h3>Further</h3><dl class="facts">{"".join(lines)}</dl>')
    configs = sorted(run.rglob("config.yaml"), key=lambda path: (len(path.parts), path))
    if not configs:
        run = pretrained_run(run)
        configs = list(run.glob("config.yaml"))
    if not configs:
        html.append("<p>The run folder holds no <code>config.yaml</code>.</p>")
    for path in configs:
        name = escape(str(path.relative_to(run)))
        text = escape(path.read_text(encoding="utf-8"))
        html.append(f"<details><summary>Exact configuration: <code>{name}</code></summary><pre>{text}</pre></details>")
    return "".join(html)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"{escape(str(k))}: {_value(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_value(v) for v in value)
    return escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
