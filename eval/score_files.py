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
from eval.predictions import Prediction, read_prediction
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

    def session(key: _View) -> list[dict[str, Any]]:
        return [plain(row) for row in _view_rows(corpus, key, by_view[key], baselines)]

    def finish(found: dict[str, Any]) -> None:
        rows = [ResultRow(**row) for rows in found.values() for row in rows]
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


def _view_rows(corpus: Corpus, key: _View, predictions: list[Prediction], baselines: Effort) -> list[ResultRow]:
    recording_id, split, fold, bin_ms = key
    print(f"score {len(predictions)} predictions of {recording_id}", file=sys.stderr, flush=True)
    if split not in ("interleaved", "temporal"):
        raise ValueError(f"{recording_id}: split is {split!r}, expected interleaved or temporal")
    recording = corpus[recording_id]
    view = SessionView.of(recording, bin_size_s=bin_ms / 1000, split=split, fold=fold)
    known = tasks_of(view)
    if unknown := [(one.task, one.track) for one in predictions if (one.task, one.track) not in known]:
        raise ValueError(f"{recording_id}: no task {unknown[0][0]!r} with track {unknown[0][1]!r}; there are {known}")
    rows = []
    for task, track in known:
        models = [one for one in predictions if (one.task, one.track) == (task, track)]
        if models:
            classical = run_baselines(view, task, track, effort=baselines)
            rows += task_rows(view, recording.info.subject_id, models, classical, seeds=[one.seed for one in models])
    return rows
