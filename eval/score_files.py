"""Prediction files of any tool, scored as our own models are: same rows, baselines, nulls and tables. Fits no model.

The format is that of `eval.predictions`; what the tool was trained on is its user's to know, and the page says so.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import foundation
from eval.baselines import Effort, run_baselines, tasks_of
from eval.details import Details, joined, task_details
from eval.examples import Examples, TrialExample, write_examples
from eval.predictions import Prediction, file_name, read_prediction, write_prediction
from eval.report_examples import failure_examples
from eval.results import ResultRow, plain, write_results
from eval.session_rows import task_rows
from eval.session_view import SessionView
from eval.shared_work import share_work
from foundation.corpus import Corpus

# Of one session as one view: recording, split, fold, bin size in ms.
_View = tuple[str, str, int, float]


def score_files(paths: Sequence[Path], corpus: Corpus, out: Path, *, baselines: Effort = "standard") -> Path:
    """Score prediction files and write results for the report.

    The same call in many processes or on many nodes shares the sessions, and one that was interrupted goes on.

    Args:
        paths: Files, or folders of such.
        corpus: Holds the recordings.
        out: Results folder.
        baselines: Which baselines and nulls to fit.

    Returns:
        `out/results.parquet`.

    Raises:
        ValueError: No file, a file that is malformed or names no recording of the corpus, a task that is not scored by
            session, a row or unit that is missing, or two files of one model, task, session and seed.
    """
    files = sorted({file for path in paths for file in (path.rglob("*.npz") if path.is_dir() else [path])})
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))}: no .npz file, expected predictions (see eval/predictions.py)")
    by_view: dict[_View, list[Prediction]] = {}
    for file in files:
        prediction = read_prediction(file)
        recording_id = f"{prediction.dataset}/{prediction.session}"
        if prediction.task == "region" or recording_id not in corpus.ids:
            known = "regions are scored over animals" if prediction.task == "region" else f"not in {corpus.path}"
            raise ValueError(f"{file}: {prediction.task} of {recording_id}: {known}, expected a session of the corpus")
        key = (recording_id, prediction.split, prediction.fold, prediction.bin_ms)
        by_view.setdefault(key, []).append(prediction)

    # The page shows what a session looks like in one fold; the scores of all are in the rows.
    fold = min(key[2] for key in by_view)
    shown = {key: ones for key, ones in by_view.items() if key[2] == fold}

    def session(key: _View) -> dict[str, Any]:
        rows, details = _view_scores(corpus, key, by_view[key], baselines, out)
        return {"rows": [plain(row) for row in rows], "details": details.plain() if key in shown else {}}

    def finish(found: dict[str, Any]) -> None:
        rows = [ResultRow(**row) for part in found.values() for row in part["rows"]]
        details = joined(part["details"] for part in found.values())
        details.write(out)
        write_examples(out, Examples(failures=_failures(details, shown, corpus, out)))
        names = sorted({one.model for ones in by_view.values() for one in ones})
        write_results(
            out,
            rows,
            {
                "title": f"Predictions of {', '.join(names)}",
                "summary": f"{len(files)} prediction files, scored as they are. What these models were trained on is "
                "not in the files: whether the animals are held out is for whoever made them to say.",
                "data": ", ".join(sorted({key[0].split("/")[0] for key in by_view})),
                "seeds": sorted({one.seed for ones in by_view.values() for one in ones}),
                "manifest_sha256": corpus.manifest_sha256,
                "versions": {"foundation": foundation.__version__},
                "models": names,
            },
        )

    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    identity = json.dumps([foundation.__version__, corpus.manifest_sha256, hashes, baselines])
    pieces = {"/".join(map(str, key)): partial(session, key) for key in sorted(by_view)}
    share_work(out / ".work", hashlib.sha256(identity.encode()).hexdigest(), pieces, finish)
    return out / "results.parquet"


def _view_scores(
    corpus: Corpus, key: _View, predictions: list[Prediction], baselines: Effort, out: Path
) -> tuple[list[ResultRow], Details]:
    """Rows and details of all predictions of a view; those of the baselines are written on the way."""
    print(f"score {len(predictions)} predictions of {key[0]}", file=sys.stderr, flush=True)
    view, recording = _view_of(corpus, key), corpus[key[0]]
    known = tasks_of(view)
    if unknown := [(one.task, one.track) for one in predictions if (one.task, one.track) not in known]:
        raise ValueError(f"{key[0]}: no task {unknown[0][0]!r} with track {unknown[0][1]!r}; there are {known}")
    rows, details = [], []
    for task, track in known:
        models = [one for one in predictions if (one.task, one.track) == (task, track)]
        if not models:
            continue
        classical = run_baselines(view, task, track, effort=baselines)
        for name, one in classical.items():
            # What a control predicts is of another session.
            if one.kind not in ("reference", "control"):
                file = file_name(view.session, f"{task} {track}".strip(), view.split, name, fold=view.fold)
                write_prediction(out / "predictions" / file, one.prediction)
        subject, seeds = recording.info.subject_id, [one.seed for one in models]
        rows += task_rows(view, subject, models, classical, seeds=seeds)
        details.append(task_details(view, recording.units, subject, models, classical, seeds=seeds).plain())
    return rows, joined(details)


def _view_of(corpus: Corpus, key: _View) -> SessionView:
    recording_id, split, fold, bin_ms = key
    if split not in ("interleaved", "temporal"):
        raise ValueError(f"{recording_id}: split is {split!r}, expected interleaved or temporal")
    return SessionView.of(corpus[recording_id], bin_size_s=bin_ms / 1000, split=split, fold=fold)


def _failures(
    details: Details, by_view: dict[_View, list[Prediction]], corpus: Corpus, out: Path
) -> list[TrialExample]:
    """Of sessions in one fold."""
    fold = next(iter(by_view))[2]

    def view(recording_id: str, split: str) -> SessionView:
        return _view_of(corpus, next(key for key in by_view if key[:2] == (recording_id, split)))

    def read(session: str, task: str, split: str, model: str, seed: int | None) -> Prediction:
        if seed is None:
            return read_prediction(out / "predictions" / file_name(session, task, split, model, fold=fold))
        wanted = (session, task, split, model, seed)
        held = [one for ones in by_view.values() for one in ones]
        return next(
            one
            for one in held
            if (one.session, f"{one.task} {one.track}".strip(), one.split, one.model, one.seed) == wanted
        )

    return failure_examples(details.units, view, read)
