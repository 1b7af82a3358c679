"""One self-contained HTML page per recording for the doctor, and an index of them; measures nothing itself.

The style is that of the report. Images stand inline, no script, nothing is loaded from the network.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from html import escape
from pathlib import Path
from urllib.parse import quote

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from eval.doctor_aligned import distributions, events, lags, trials
from eval.doctor_axes import STYLE, webp
from eval.doctor_checks import CURES, Finding, percent
from eval.doctor_facts import Facts
from eval.doctor_time import moment, session
from eval.report_tables import table
from foundation.corpus import Corpus
from foundation.durable import write_atomic
from foundation.recording import Recording

SECTIONS = {
    "moment": (
        "20 seconds",
        "Spikes (units by region, then depth), rates, events and covariates on one time axis. White lines: trial "
        "starts; gray: outside of the domain. Bursts of spikes and of behavior should stand above each other.",
    ),
    "session": (
        "The session",
        "Bands: lowest to highest value in each stretch; lines: mean. Trials that are not usable are orange, gray is "
        "outside of the domain. A jump of all units is a probe that moved; a step of one covariate a recalibration.",
    ),
    "events": (
        "Around events",
        "Rates by region around each kind of event, in standard deviations of circularly shifted controls; the gray "
        "band is 3 of them. Nothing should answer a stimulus before zero.",
    ),
    "lags": (
        "Lags",
        "Share of each signal's variance that the population explains when read so much later. Dashed: 99th percentile "
        "of circularly shifted controls; dotted: the peak. On one clock, behavior peaks within some 0.3 s of zero.",
    ),
    "trials": (
        "Trial by trial",
        "Each line is a trial, aligned at its start and split by label; gray: not observed. What is locked to the "
        "trial stands upright; a slope over trials is a clock that runs away.",
    ),
    "distributions": ("Distributions", "Of the whole session; intervals of the middle four million spikes."),
}
ABSENT = {
    "events": "The recording has no trials and no events.",
    "lags": "No signal in time, or the session is too short for shifted controls.",
    "trials": "The recording has no usable trials.",
}


def write_pages(
    corpus: Corpus, facts: list[Facts], findings: dict[str, list[Finding]], chosen: list[str], text: str, out: Path
) -> Path:
    """Write the page of each chosen recording, and `index.html` with the whole examination; returns the latter."""
    ids = [fact.recording_id for fact in facts if fact.recording_id in set(chosen)]
    by_id = {fact.recording_id: fact for fact in facts}
    for k, recording_id in enumerate(ids):
        around = {"before": ids[k - 1] if k else "", "after": ids[k + 1] if k + 1 < len(ids) else ""}
        html = page(corpus[recording_id], by_id[recording_id], findings[recording_id], **around)
        write_atomic(out / page_name(recording_id), html.encode())
    write_atomic(out / "index.html", _index(corpus, facts, findings, set(ids), text).encode())
    return out / "index.html"


def page_name(recording_id: str) -> str:
    """File name of a recording's page."""
    return f"{recording_id.replace('/', '--')}.html"


def figures(recording: Recording, facts: Facts) -> dict[str, Figure]:
    """All figures that the recording has data for, by the name of their section."""
    with matplotlib.rc_context(STYLE):
        made = {
            "moment": moment(recording),
            "session": session(recording),
            "events": events(recording),
            "lags": lags(facts),
            "trials": trials(recording),
            "distributions": distributions(recording, facts),
        }
    return {name: fig for name, fig in made.items() if fig is not None}


def page(recording: Recording, facts: Facts, findings: list[Finding], before: str = "", after: str = "") -> str:
    """The page of one recording; `before` and `after` are the recordings that it links to."""
    drawn = figures(recording, facts)
    links = [f'<a href="#{name}">{heading}</a>' for name, (heading, _) in SECTIONS.items()]
    links.append('<a href="index.html">all recordings</a>')
    links += [
        f'<a href="{quote(page_name(x))}">{arrow}</a>' for x, arrow in ((before, "← previous"), (after, "next →")) if x
    ]
    body = [_header(recording, facts), f"<nav><div>{''.join(links)}</div></nav><main>", _findings(findings)]
    for name, (heading, caption) in SECTIONS.items():
        inside = f"<p>{ABSENT.get(name, '')}</p>"
        if name in drawn:
            image = base64.b64encode(webp(drawn[name])).decode()
            alt = f"{heading} of {recording.info.recording_id}"
            wide = round(100 * drawn[name].get_figwidth())
            inside = f'<figure><img alt="{escape(alt)}" width="{wide}" src="data:image/webp;base64,{image}">'
            inside += f"<figcaption>{escape(caption)}</figcaption></figure>"
        body.append(f'<section id="{name}"><h2>{heading}</h2>{inside}</section>')
    body.append(_tables(recording, facts))
    return _document(recording.info.recording_id, "".join(body))


def _document(title: str, body: str) -> str:
    style = re.search(r"<style>.*?</style>", _report_template(), re.DOTALL)
    assert style is not None
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f"<title>{escape(title)}</title>{style.group()}"
        "<style>figure img { max-width: 100%; height: auto; display: block; } pre { white-space: pre; } "
        "td { text-align: left; } th { text-align: left; }</style></head><body>"
        f"{body}</main><footer>Written by <code>foundation doctor</code>.</footer></body></html>\n"
    )


def _report_template() -> str:
    return Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")


def _header(recording: Recording, facts: Facts) -> str:
    info, rates = recording.info, np.quantile(facts.rates_hz, [0.05, 0.5, 0.95])
    usable, trials = facts.trials
    lines = {
        "animal": f"{info.subject_id}{f' ({info.species})' if info.species else ''}",
        "units": f"{facts.num_units:,} in {len(facts.regions)} {'region' if len(facts.regions) == 1 else 'regions'}; "
        f"{facts.num_spikes:,} spikes",
        "rates": f"{rates[1]:.3g} spikes/s (median), {rates[0]:.3g} to {rates[2]:.3g} (5th to 95th percentile)",
        "domain": f"{facts.duration_s / 60:.2f} min in {facts.pieces:,} {'piece' if facts.pieces == 1 else 'pieces'}",
        "trials": f"{usable:,} usable of {trials:,}" if trials else "none",
        "spikes": f"counts in bins of {info.min_bin_size_s:g} s"
        if info.min_bin_size_s
        else "spike times; "
        f"{percent(facts.violations)} of a unit's intervals below 1.5 ms, {percent(facts.duplicates)} below 0.1 ms",
        "source": f"{info.source or 'not said'} (recipe {info.recipe}; {info.licence or 'licence not said'})",
    }
    if info.notes:
        lines["notes"] = info.notes
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in lines.items())
    return f'<header><h1>{escape(info.recording_id)}</h1><dl class="facts">{rows}</dl></header>'


def _findings(findings: list[Finding]) -> str:
    if not findings:
        return "<p>No warnings for this recording.</p>"
    groups = defaultdict(list)
    for finding in findings:
        groups[finding.check].append(finding.text)
    items = [
        f"<li><strong>{escape(check)}</strong>: {'; '.join(map(escape, texts))}. "
        f'<span class="faint">Cure: {escape(CURES[check])}.</span></li>'
        for check, texts in groups.items()
    ]
    return f'<div class="stamp"><strong>Warnings</strong><ul>{"".join(items)}</ul></div>'


def _tables(recording: Recording, facts: Facts) -> str:
    html = ['<section id="tables"><h2>Tables</h2>']
    rows = []
    for name, (spec, share) in facts.covariates.items():
        size = f"{spec.num_classes} classes" if spec.num_classes else str(spec.dim)
        shown = "-" if spec.kind == "event" else percent(share)
        cells = [name, spec.kind, spec.scope, size, spec.unit or "-", spec.role, shown, spec.description]
        rows.append(("", [escape(cell) for cell in cells]))
    if rows:
        head = ["covariate", "kind", "per", "size", "unit", "role", "observed", "description"]
        html.append(table("Covariates; observed: share of the trials or of the domain.", head, rows))
    counted = [("", [escape(name or "(unknown)"), f"{n:,}"]) for name, n in facts.regions.most_common()]
    html.append(table("Units by region.", ["region", "units"], counted))
    if facts.counts:
        counted = [("", [escape(name), f"{number:,}"]) for name, number in facts.counts.items()]
        html.append(table("In, left out and kept by the recipe.", ["what", "number"], counted))
    return "".join(html) + "</section>"


def _index(corpus: Corpus, facts: list[Facts], findings: dict[str, list[Finding]], drawn: set[str], text: str) -> str:
    rows = []
    for fact in facts:
        name = escape(fact.recording_id)
        link = f'<a href="{quote(page_name(fact.recording_id))}">{name}</a>' if fact.recording_id in drawn else name
        usable, trials = fact.trials
        cells = [
            link,
            escape(fact.subject),
            f"{fact.num_units:,}",
            f"{fact.duration_s / 60:.1f}",
            f"{usable:,} of {trials:,}",
        ]
        checks = dict.fromkeys(finding.check for finding in findings[fact.recording_id])
        rows.append(("", [*cells, f"{np.median(fact.rates_hz):.3g}", escape(", ".join(checks)) or "-"]))
    head = ["recording", "animal", "units", "minutes", "usable trials", "median Hz", "warnings"]
    title = f"Doctor: {corpus.path.name}"
    listed = table("Recordings; those with a page of plots are links.", head, rows)
    body = f"<header><h1>{escape(title)}</h1></header><main><pre>{escape(text)}</pre><h2>Recordings</h2>{listed}"
    return _document(title, body)
