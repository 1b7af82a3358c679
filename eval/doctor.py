"""What is in a corpus and what is wrong with it: verified files, tables, findings with cures. Draws nothing itself.

One pass: every recording is hashed, opened, examined (doctor_facts, doctor_checks) and let go. Here stands what only
shows between recordings. Pages of plots are written by doctor_page for some recordings, those with findings first.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from textwrap import wrap

import numpy as np
from tqdm import tqdm

from eval.doctor_checks import CURES, SURE_Z, Finding, findings_of
from eval.doctor_facts import Facts, facts_of
from eval.doctor_table import WIDTH, contents, many, warnings
from foundation.corpus import Corpus

Findings = dict[str, list[Finding]]
# A lag this far from that of the other recordings, which have at least so many.
ODD_LAG_S, MIN_OTHERS = 0.3, 4

CORPUS_CURES = {
    "damaged": "delete the folders of these recordings and run `foundation prepare` again: it writes what is missing",
    "same spikes twice": "one session under two names: leave one out, or train and test share data",
    "session names as animals": "`subject_id` must name the animal: sessions of one animal as several animals leak "
    "from pretraining into held-out animals. Ignore this if every animal has one session",
    "animals spelled in several ways": "give one spelling, or one animal is in pretraining and held out at once",
    "one covariate, several meanings": "same name, other kind, unit or classes: rename one of them, or convert units",
    "lag unlike the other recordings": "the same signal sits elsewhere in these sessions: check their synchronization",
    "not in the manifest": "a killed `prepare`: run it again, it completes the manifest",
}


class DamagedCorpus(ValueError):
    """Recordings whose files differ from what was written; the message lists them.

    Attributes:
        text: What `examine` found in the recordings that are whole.
    """

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def examine(
    corpus_path: str | Path,
    out: str | Path | None = None,
    recordings: list[str] | None = None,
    max_pages: int | None = 12,
) -> str:
    """Verify a corpus, examine its recordings and write pages of plots.

    Args:
        corpus_path: Corpus folder.
        out: Folder of the pages; default `<corpus>/doctor`.
        recordings: Examine only these, and write a page for each.
        max_pages: Write pages for at most so many recordings, those with most findings first; None for all, 0 for none
            (then no folder is made).

    Returns:
        The text to print, at most 120 columns wide.

    Raises:
        DamagedCorpus: A file is missing or changed, or breaks the format. Its `text` is the examination of the rest,
            whose pages are written.
        CorpusError: No manifest, or a recording that is not in the corpus.
    """
    corpus = Corpus.open(corpus_path)
    if not len(corpus):
        raise ValueError(f"{corpus_path}: the corpus is empty; run `foundation prepare` into this folder")
    chosen = corpus.select(recordings=recordings) if recordings else corpus
    facts, findings, damaged = _examine_all(chosen)
    text = "\n".join(_text(chosen, facts, findings, damaged))
    pages = choose_pages(facts, findings, len(facts) if recordings or max_pages is None else max_pages)
    if pages:
        from eval.doctor_page import write_pages

        index = write_pages(chosen, facts, findings, pages, text, Path(out) if out else corpus.path / "doctor")
        text += f"\npages: {index} ({len(pages)} of {len(facts)} recordings"
        text += ")" if len(pages) == len(facts) else "; name others with --recordings)"
    if damaged:
        lines = [f"{len(damaged)} of {len(chosen)} recordings are damaged", *damaged.values()]
        raise DamagedCorpus("\n  ".join([*lines, f"cure: {CORPUS_CURES['damaged']}"]), text)
    return text


def _examine_all(corpus: Corpus) -> tuple[list[Facts], Findings, dict[str, str]]:
    facts: list[Facts] = []
    findings: Findings = {}
    damaged = {}
    for recording_id in tqdm(corpus.ids, unit="session", desc="doctor", disable=not sys.stderr.isatty()):
        try:
            corpus.verify(recording_id)
            recording = corpus[recording_id]
        except (ValueError, OSError, KeyError) as error:
            damaged[recording_id] = f"{recording_id}: {error}"
            continue
        facts.append(facts_of(recording))
        findings[recording_id] = findings_of(recording, facts[-1])
    return facts, findings, damaged


def choose_pages(facts: list[Facts], findings: Findings, most: int) -> list[str]:
    """Recordings to draw: those with most findings first, among equals one of each animal before a second."""
    turn: Counter[str] = Counter()
    order = []
    for fact in facts:
        order.append((-len(findings[fact.recording_id]), turn[fact.subject], fact.recording_id))
        turn[fact.subject] += 1
    return sorted(recording_id for *_, recording_id in sorted(order)[:most])


def corpus_findings(corpus: Corpus, facts: list[Facts]) -> dict[str, list[str]]:
    """Check to lines, for what only shows between recordings."""
    found: dict[str, list[str]] = defaultdict(list)
    trains, names = defaultdict(list), defaultdict(set)
    for fact in facts:
        files = json.loads((corpus.folder(fact.recording_id) / "info.json").read_bytes())["files"]
        trains[files["spikes.arrow"]].append(fact.recording_id)
        names["".join(filter(str.isalnum, fact.subject)).casefold()].add(fact.subject)
    found["same spikes twice"] = [" = ".join(ids) for ids in trains.values() if len(ids) > 1]
    found["animals spelled in several ways"] = [", ".join(sorted(map(repr, s))) for s in names.values() if len(s) > 1]
    equal = [
        f.recording_id for f in facts if f.subject.casefold() in (_session(f).casefold(), f.recording_id.casefold())
    ]
    if len(equal) > 1:
        text = f"{len(equal)} of {len(facts)} recordings have the name of the session as animal, such as {equal[0]}"
        found["session names as animals"].append(text)
    found["one covariate, several meanings"] = _conflicts(facts)
    found["lag unlike the other recordings"] = _odd_lags(facts)
    stored = {f"{p.parent.parent.name}/{p.parent.name}" for p in corpus.path.glob("recordings/*/*/info.json")}
    known = set(Corpus.open(corpus.path).ids)
    found["not in the manifest"] = sorted(
        f"{name}: a folder that the manifest does not know" for name in stored - known
    )
    return {check: lines for check, lines in found.items() if lines}


def _session(fact: Facts) -> str:
    return fact.recording_id.split("/")[1]


def _conflicts(facts: list[Facts]) -> list[str]:
    meanings: dict[str, dict[tuple[object, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for fact in facts:
        for name, (s, _) in fact.covariates.items():
            meanings[name][(s.kind, s.scope, s.num_classes, s.dim, s.unit)].append(fact.recording_id)
    lines = []
    for name, kinds in meanings.items():
        if len(kinds) > 1:
            parts = [
                f"{kind} per {scope}{f', {classes} classes' if classes else ''}{f', {dim} values' if dim != 1 else ''}"
                f"{f', {unit}' if unit else ''} in {len(ids)} ({ids[0]})"
                for (kind, scope, classes, dim, unit), ids in kinds.items()
            ]
            lines.append(f"{name}: {'; '.join(parts[:4])}")
    return lines


def _odd_lags(facts: list[Facts]) -> list[str]:
    """Signals whose lag in one recording is far from the median of the dataset, where little is left at that lag."""
    sure = defaultdict(list)
    for fact in facts:
        for a in fact.alignments:
            if a.related and a.z >= SURE_Z and a.paired > 0.5 and not a.periodic:
                sure[fact.recording_id.split("/")[0], a.signal].append((fact.recording_id, a))
    lines = []
    for (_, signal), known in sure.items():
        if len(known) <= MIN_OTHERS:
            continue
        lags = np.array([a.lag_s for _, a in known])
        middle = float(np.median(lags))
        spread = 1.4826 * float(np.median(np.abs(lags - middle)))
        for recording_id, a in known:
            there = float(np.interp(middle, a.lags_s, a.profile)) - a.control[0]
            if abs(a.lag_s - middle) > max(ODD_LAG_S, 4 * spread) and there < 0.5 * (a.profile.max() - a.control[0]):
                text = f"{signal}: {a.lag_s:+.2f} s, median of {len(known)} recordings {middle:+.2f} s"
                lines.append(f"{recording_id}: {text}")
    return sorted(lines)


def _text(corpus: Corpus, facts: list[Facts], findings: Findings, damaged: dict[str, str]) -> list[str]:
    animals = len({fact.subject for fact in facts})
    whole = "all files as written" if not damaged else f"{len(damaged)} DAMAGED"
    head = f"{corpus.path}: {many(len(facts) + len(damaged), 'recording')} of {many(animals, 'animal')}, {whole}"
    listed = {"damaged": list(damaged.values())} if damaged else {}
    listed |= corpus_findings(corpus, facts)
    affected = {}
    for check in CURES:
        cases = [(name, finding) for name, group in findings.items() for finding in group if finding.check == check]
        if cases:
            cases.sort(key=lambda case: -case[1].weight)
            listed[check] = [f"{name}: {finding.text}" for name, finding in cases]
            affected[check] = len({name for name, _ in cases})
    return [
        *wrap(head, WIDTH),
        *(contents(facts) if facts else []),
        "",
        *warnings(listed, affected, CORPUS_CURES | CURES, len(facts)),
    ]
