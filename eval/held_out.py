"""Evaluation of adapted models on held-out animals: who may be scored, every task, baselines, nulls, regions, files.

Provenance decides: an animal of the pretraining set is refused, and so is a test trial that adaptation used in another
role; forced, the results are stamped. Scores are made by `eval.scoring`, averaged and shown by others.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import foundation
from eval.adapted import Adapted, ProvenanceError, breaches, find_models, view_of
from eval.area_states import predict_area
from eval.baselines import Baseline, Effort, run_baselines, tasks_of
from eval.baselines_shared import OtherSessions
from eval.details import Details, joined, task_details
from eval.examples import ConfusionExample
from eval.leakage import leaks_of, refuse
from eval.model_predictions import MODEL_TRACKS, predict_task
from eval.predictions import RATE_TASKS, Prediction, file_name, read_prediction, traced, write_prediction
from eval.region_evaluation import COLUMNS, probed_together, region_rows
from eval.report_examples import failure_examples, make_examples
from eval.results import SPLITS, ResultRow, plain, write_results
from eval.session_rows import task_rows
from eval.session_view import SessionView
from eval.shared_work import share_work
from eval.unit_folds import REGION_TASKS
from foundation.corpus import Corpus
from foundation.durable import CorpusError
from foundation.mixture import known_as
from foundation.recording import RecordingError
from foundation.sampling import WindowReader

# Tasks that read the regions of units.
READ_REGIONS = {"region", *REGION_TASKS}


def evaluate(
    runs: list[Path],
    corpus: Corpus,
    subjects: list[str],
    out: Path,
    *,
    tasks: list[str] | None = None,
    base: str | None = None,
    all_regions: bool = False,
    baselines: Effort = "standard",
    force: bool = False,
) -> Path:
    """Score every adapted model of some animals and write results, prediction files and examples for the report.

    The same call in many processes or on many nodes shares the recordings, and one that was interrupted goes on.

    Args:
        runs: Folders made by `foundation.finetune.finetune`.
        corpus: Holds the animals' recordings, and the pretraining animals' for the region probe.
        subjects: Animals to score.
        out: Results folder.
        tasks: Such as ["encode", "choice", "region"]; by default all that the data allow, and the unit probes.
        base: Pretrained run for the region probe; by default the one the models remember.
        all_regions: Probe regions on every animal left out in turn, not on held-out animals alone.
        baselines: Which baselines and nulls to fit; with `none` and `quick` units are not probed thoroughly either.
        force: Score what provenance forbids, and stamp the results.

    Returns:
        `out/results.parquet`.

    Raises:
        ProvenanceError: An animal was in pretraining, a test trial was used in adaptation, or the leak detector
            (`eval.leakage`) is certain of another leak.
        ValueError: An animal has no model, or models of another split or naming than the protocol's.
    """
    models = [adapted for run in runs for adapted in find_models(run, subjects)]
    names = {json.dumps(adapted.model.config.names, sort_keys=True) for adapted in models}
    if len(names) > 1:
        raise ValueError("these models know the covariates by different names; evaluate them one by one")
    for adapted in models:
        splits = {used["split"] for used in adapted.model.provenance["adapted"].values()}
        if other := sorted(splits - set(SPLITS)):
            raise ValueError(
                f"{adapted.folder} was adapted in the split {other[0]!r}, expected {' or '.join(SPLITS)} of the "
                "protocol; evaluate it with --suite, or adapt again with --split interleaved"
            )
    corpus = known_as(corpus, models[0].model.config.names)
    fold = detailed_fold(models)
    probed = [adapted for adapted in models if adapted.fold == fold]
    families = probed_together(probed, base, every_animal=all_regions)
    broken = [problem for adapted in models for problem in breaches(adapted, corpus)]
    if broken and not force:
        raise ProvenanceError("; ".join(broken) + ". Hold the animal out, or pass --force to score it under a stamp")
    leaks = leaks_of(models, corpus, with_regions=tasks is None or not {*tasks}.isdisjoint(READ_REGIONS))
    if not force:
        refuse(leaks)
    broken += [str(leak) for leak in leaks if leak.decided]
    undecided = [str(leak) for leak in leaks if not leak.decided]

    def session(recording_id: str) -> list[dict[str, Any]]:
        """Rows and details of each model of a recording; baselines stand with the first."""
        fitted: dict[tuple[Any, ...], dict[str, Baseline]] = {}
        found = []
        for adapted in by_recording[recording_id]:
            print(f"evaluate {adapted.name} on {recording_id}", file=sys.stderr, flush=True)
            parts = list(_session_scores(adapted, corpus, recording_id, out, tasks, baselines, fitted, fold))
            details = joined(one.plain() for _, one in parts)
            found.append({"rows": [plain(row) for rows, _ in parts for row in rows], "details": details.plain()})
        return found

    def finish(found: dict[str, Any]) -> None:
        """Put the rows into the order of models, add the regions, and write everything."""
        parts = {key: iter(lists) for key, lists in found.items()}
        ordered = [
            next(parts[recording_id])
            for adapted in models
            for recording_id in adapted.model.adapters.sessions["recording_id"]
        ]
        rows = [ResultRow(**row) for part in ordered for row in part["rows"]]
        details = joined(part["details"] for part in ordered)
        confusions: list[ConfusionExample] = []
        if columns := [name for name in COLUMNS if tasks is None or name in tasks]:
            thorough = baselines not in ("none", "quick")
            regions, confusions = region_rows(
                families, corpus, every_animal=all_regions, columns=columns, thorough=thorough
            )
            rows += [replace(row, fold=fold) for row in regions]
        write_examples_of(models, corpus, out, confusions, details)
        details.write(out)
        write_results(out, rows, _provenance(models, corpus, subjects, broken, undecided))

    by_recording: dict[str, list[Adapted]] = {}
    for adapted in models:
        for recording_id in adapted.model.adapters.sessions["recording_id"]:
            by_recording.setdefault(recording_id, []).append(adapted)
    files = [
        hashlib.sha256(p.read_bytes()).hexdigest() for m in models for p in sorted(m.folder.iterdir()) if p.is_file()
    ]
    options = [subjects, tasks, base, all_regions, baselines, force]
    identity = json.dumps([foundation.__version__, corpus.manifest_sha256, files, options])
    pieces = {key: partial(session, key) for key in by_recording}
    share_work(out / ".work", hashlib.sha256(identity.encode()).hexdigest(), pieces, finish)
    return out / "results.parquet"


def _session_scores(
    adapted: Adapted,
    corpus: Corpus,
    recording_id: str,
    out: Path,
    tasks: list[str] | None,
    baselines: Effort,
    fitted: dict[tuple[Any, ...], dict[str, Baseline]],
    shown_fold: int,
) -> Iterator[tuple[list[ResultRow], Details]]:
    """Rows and details of one model on one recording, task by task; predictions are written on the way.

    Details are given of one fold alone: they show what a session looks like, the scores are in the rows.
    """
    used = adapted.model.provenance["adapted"][recording_id]
    view = view_of(corpus, recording_id, adapted)
    reader = WindowReader(corpus, adapted.model.channels, adapted.model.config.bin_size_s)
    few_shot = (int(used["train_trials"]), int(used["draw"]))
    seed = int(adapted.model.provenance.get("seed", 0))
    others = OtherSessions.beside(view, corpus, adapted.model.provenance)
    targets = {c.spec.name for c in adapted.model.channels if c.is_target} | {"choice_t", *RATE_TASKS}
    for task, track in tasks_of(view):
        answered = track in MODEL_TRACKS.get(task, (track,)) and (traced(task) or task) in targets
        if not answered or (tasks is not None and task not in tasks):
            continue
        # Baselines belong to the session, not to the model: fitted, written and listed once.
        key = (recording_id, view.split, view.fold, *few_shot, task, track)
        is_new = key not in fitted
        if is_new:
            fitted[key] = run_baselines(view, task, track, effort=baselines, others=others)
        classical = fitted[key]
        predictions = [predict_task(adapted.model, reader, recording_id, view, task, track, adapted.name)]
        if task == "inter_region":
            states = f"{adapted.name}, GLM on states"
            predictions.append(predict_area(adapted.model, reader, recording_id, view, states))
        predictions = [replace(one, seed=seed) for one in predictions]
        about = (view.session, f"{task} {track}".strip(), view.split)
        repeat: dict[str, Any] = {"fold": view.fold, "few_shot": few_shot}
        for mine in predictions:
            write_prediction(out / "predictions" / file_name(*about, mine.model, seed, **repeat), mine)
        for name, one in classical.items() if is_new else ():
            # What a control predicts is of another session.
            if one.kind not in ("reference", "control"):
                file = file_name(*about, name, **repeat)
                write_prediction(out / "predictions" / file, one.prediction)
        rows = task_rows(
            view,
            adapted.subject,
            predictions,
            classical,
            seeds=[seed] * len(predictions),
            few_shot=few_shot,
            list_baselines=is_new,
        )
        details = Details()
        if not few_shot[0] and view.fold == shown_fold:
            units = corpus[recording_id].units
            details = task_details(
                view, units, adapted.subject, predictions[:1], classical, seeds=[seed], with_session=is_new
            )
        yield rows, details


def detailed_fold(models: list[Adapted]) -> int:
    """The fold that the page shows in detail and whose units are probed: the lowest of the full-data models."""
    return min((a.fold for a in models if not a.is_few_shot), default=min(a.fold for a in models))


def write_examples_of(
    models: list[Adapted], corpus: Corpus, out: Path, confusions: list[ConfusionExample], details: Details
) -> None:
    """Write what the report draws: the first full-data model of each animal, and where a model fails."""
    fold = detailed_fold(models)
    full = [adapted for adapted in models if not adapted.is_few_shot and adapted.fold == fold]
    shown: dict[str, Adapted] = {}
    for adapted in full:
        if adapted.track != "scratch":
            shown.setdefault(adapted.subject, adapted)

    def view(recording_id: str, split: str) -> SessionView:
        views = (view_of(corpus, recording_id, a) for a in full if recording_id in a.model.provenance["adapted"])
        return next(one for one in views if one.split == split)

    def read(session: str, task: str, split: str, model: str, seed: int | None) -> Prediction:
        return read_prediction(out / "predictions" / file_name(session, task, split, model, seed, fold=fold))

    make_examples(
        out,
        [
            (a.name, a.subject, a.model, {k: view_of(corpus, k, a) for k in a.model.adapters.sessions["recording_id"]})
            for a in shown.values()
        ],
        corpus,
        confusions,
        failure_examples(details.units, view, read),
    )


def _provenance(
    models: list[Adapted], corpus: Corpus, subjects: list[str], broken: list[str], undecided: list[str]
) -> dict[str, Any]:
    first = models[0].model
    known = sorted({a.subject for a in models if a.knows_animal})
    licences = set()
    for recording_id in corpus.ids[:: max(1, len(corpus) // 10)]:
        try:
            licences.add(corpus[recording_id].info.licence or "not stated")
        except (CorpusError, RecordingError):
            continue
    return {
        "title": f"{first.provenance.get('name', 'foundation')} on held-out {'sessions' if known else 'animals'}",
        "model": json.loads(json.dumps(first.config.model)),
        "parameters": {
            "shared": sum(p.numel() for p in first.shared_parameters()),
            "per_unit": first.adapters.layout.num_columns,
        },
        "data": ", ".join(sorted({recording_id.split("/")[0] for recording_id in corpus.ids})),
        "pretraining_subjects": first.provenance["pretraining_subjects"],
        "held_out_subjects": [name for name in subjects if name not in known],
        "known_subjects": known,
        "seeds": sorted({int(a.model.provenance.get("seed", 0)) for a in models}),
        "manifest_sha256": corpus.manifest_sha256,
        "versions": {"foundation": foundation.__version__, **first.provenance.get("versions", {})},
        "licences": sorted(licences),
        "forced": broken,
        "leak_checks_undecided": undecided,
        "models": sorted({a.name for a in models}),
    }
