"""The doctor's text: what is in a corpus and what is wrong with it, in lines of at most 120 columns.

It examines nothing: facts come from doctor_facts, findings from doctor_checks and doctor.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from textwrap import wrap

import numpy as np

from eval.doctor_facts import Facts
from foundation.recording import CovariateSpec

WIDTH = 120
# Above this many recordings the table has one line per animal only.
MAX_LINES = 30
# Lines of each finding, of covariates and of counts.
MAX_EXAMPLES, MAX_ROWS = 5, 40


def contents(facts: list[Facts]) -> list[str]:
    """Tables of animals, regions, covariates, alignment, and of what the recipe left out."""
    tables = [_table, _regions, _covariates, _lags, _counts]
    return [line for table in tables for line in ["", *table(facts)]]


def many(number: int, noun: str) -> str:
    """Such as "1 animal" or "1,200 animals"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _table(facts: list[Facts]) -> list[str]:
    """One line per animal (and recording, when there are few) and one for all."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for fact in facts:
        groups[fact.subject].append(fact)
    head = ["animal", "sessions", "units", "spikes", "hours", "usable", "trials", "Hz 5 %", "median", "95 %", "<1.5 ms"]
    rows = [head]
    for subject in sorted(groups):
        rows.append(_row(subject, groups[subject]))
        if len(facts) <= MAX_LINES and len(groups[subject]) > 1:
            rows += [_row(f"  {fact.recording_id.split('/')[1]}", [fact]) for fact in groups[subject]]
    if len(groups) > 1:
        rows.append(_row("all", facts))
    return columns(rows)


def _row(name: str, facts: list[Facts]) -> list[str]:
    slow, middle, fast = np.quantile(np.concatenate([fact.rates_hz for fact in facts]), [0.05, 0.5, 0.95])
    spikes = np.array([fact.num_spikes for fact in facts], float)
    violations = np.array([fact.violations for fact in facts])
    known = np.isfinite(violations)
    pooled = f"{100 * np.average(violations[known], weights=spikes[known]):.2f} %" if known.any() else "-"
    hours = sum(fact.duration_s for fact in facts) / 3600
    return [
        name,
        str(len(facts)),
        f"{sum(fact.num_units for fact in facts):,}",
        f"{spikes.sum() / 1e6:.3g} M",
        f"{hours:.2f}",
        f"{sum(fact.trials[0] for fact in facts):,}",
        f"{sum(fact.trials[1] for fact in facts):,}",
        *(f"{rate:.3g}" for rate in (slow, middle, fast)),
        pooled,
    ]


def columns(rows: list[list[str]], left: Iterable[int] = (0,)) -> list[str]:
    """Rows as lines with aligned columns; names are cut so that a line fits."""
    text = set(left)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    widths[0] = max(8, min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    cut = [[r[0] if len(r[0]) <= widths[0] else r[0][: widths[0] - 1] + "…", *r[1:]] for r in rows]
    lines = [
        "  ".join(f"{v:<{w}}" if k in text else f"{v:>{w}}" for k, (v, w) in enumerate(zip(r, widths))) for r in cut
    ]
    return [line.rstrip()[:WIDTH] for line in lines]


def _paragraph(head: str, items: list[str]) -> list[str]:
    return wrap(f"{head}: {', '.join(items)}", WIDTH, subsequent_indent="  ", break_long_words=False)


def _regions(facts: list[Facts]) -> list[str]:
    total: Counter[str] = Counter()
    for fact in facts:
        total.update(fact.regions)
    common = [f"{name or '(unknown)'} {number:,}" for name, number in total.most_common(MAX_ROWS)]
    more = [f"and {len(total) - MAX_ROWS} more"] if len(total) > MAX_ROWS else []
    return _paragraph(f"units of {many(len(total), 'region')}", common + more)


def _covariates(facts: list[Facts]) -> list[str]:
    specs: dict[str, CovariateSpec] = {}
    shares = defaultdict(list)
    for fact in facts:
        for name, (spec, share) in fact.covariates.items():
            specs.setdefault(name, spec)
            shares[name].append(share)
    if not specs:
        return ["no covariates"]
    rows = [["covariate", "kind", "per", "size", "unit", "role", "sessions", "observed: mean", "lowest"]]
    for name, spec in list(specs.items())[:MAX_ROWS]:
        size = f"{spec.num_classes} classes" if spec.num_classes else f"{spec.dim}"
        seen = [f"{100 * f(shares[name]):.0f} %" if spec.kind != "event" else "-" for f in (np.mean, np.min)]
        rows.append([name, spec.kind, spec.scope, size, spec.unit or "-", spec.role, str(len(shares[name])), *seen])
    more = [f"and {len(specs) - MAX_ROWS} more"] if len(specs) > MAX_ROWS else []
    return [*columns(rows, left=(0, 1, 2, 4, 5)), *more]


def _lags(facts: list[Facts]) -> list[str]:
    """How each signal sits on the spikes, over recordings."""
    found = defaultdict(list)
    for fact in facts:
        for a in fact.alignments:
            found[a.signal].append(a)
    if not found:
        return ["alignment: no signal in time, or sessions too short to shift"]
    rows = [["alignment of spikes with", "sessions", "related", "lag: median", "5 %", "95 %", "z: median"]]
    for name, group in list(found.items())[:MAX_ROWS]:
        related = [a for a in group if a.related and not a.periodic]
        z = f"{np.median([a.z for a in group]):.0f}"
        shown = ["-"] * 3
        if related:
            shown = [f"{lag:+.2f} s" for lag in np.quantile([a.lag_s for a in related], [0.5, 0.05, 0.95])]
        repeats = all(a.periodic for a in group)
        rows.append([name, str(len(group)), "repeats" if repeats else str(len(related)), *shown, z])
    note = (
        "lag > 0: spikes follow. z: height of the peak over circularly shifted controls, whose highest is about 4 to 8."
    )
    return [*columns(rows), *wrap(note, WIDTH)]


def _counts(facts: list[Facts]) -> list[str]:
    total: Counter[str] = Counter()
    for fact in facts:
        total.update(fact.counts)
    if not total:
        return ["the recipe counted nothing in or out"]
    things: dict[str, list[str]] = defaultdict(list)
    for name, number in sorted(
        total.items(), key=lambda entry: (entry[0].endswith(" kept"), not entry[0].endswith(" in"))
    ):
        thing, _, what = name.partition(" ")
        things[thing].append(f"{what or thing} {number:,}")
    lines = ["in, left out and kept by the recipe:"]
    for thing, items in list(things.items())[:MAX_ROWS]:
        lines += ["  " + line for line in wrap(f"{thing}: {'; '.join(items)}", WIDTH - 2, subsequent_indent="  ")]
    return lines


def warnings(listed: dict[str, list[str]], affected: dict[str, int], cures: dict[str, str], total: int) -> list[str]:
    """Every check with its worst cases, how many recordings it concerns, and its cure.

    Args:
        listed: Check to cases, worst first.
        affected: Check to number of recordings, where it is one of recordings.
        cures: Check to what to do.
        total: Recordings that were examined.
    """
    if not listed:
        return ["no warnings"]
    lines = [f"{many(len(listed), 'warning')}:"]
    for check, texts in listed.items():
        number = f" ({affected[check]} of {many(total, 'recording')})" if check in affected else ""
        lines.append(f"! {check}{number}")
        for text in texts[:MAX_EXAMPLES]:
            lines += wrap(text, WIDTH, initial_indent="    ", subsequent_indent="      ")
        if len(texts) > MAX_EXAMPLES:
            lines.append(f"    and {len(texts) - MAX_EXAMPLES} more")
        lines += wrap(f"cure: {cures[check]}", WIDTH, initial_indent="    ", subsequent_indent="      ")
    return lines
