"""Our own scores of Brain-Wide Bench predictions, under the package's conventions, and their mean over seeds.

Where ours and the package's conventions differ, the name is the package's and so is the rule; each is stated in
`CONVENTIONS`. Null of spike scores: the mean of the scored bins. In doubles; the package sums in single precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
from sklearn.metrics import average_precision_score

from eval import metrics
from eval.bwb_files import SuiteFile, Tensors, decode_ids, prediction_files, read_ground_truth, read_suite_prediction
from eval.bwb_tasks import COSMOS, task_of

CONVENTIONS = {
    "bacc": "mean recall over the classes in truth or answer: one that is only answered counts 0 (torchmetrics)",
    "f1": "mean F1 over the classes in truth or answer (torchmetrics)",
    "ap": "mean over the classes in the truth of the average precision of the softmax",
    "r2": "1 - SSE/SST about the test mean, confident samples of all windows pooled, unclipped",
    "mae": "mean absolute error of the scored samples; for licks between log-rate and count, as the package has it",
    "pearson": "Pearson correlation of the scored samples pooled",
    "poisson_d2": "1 - deviance / deviance of the test mean, mean over units whose test count varies",
    "bps": "bits per spike over the test-mean null, pooled over units that spike",
    "macro/precision": "precision, mean over the ten Cosmos classes, 0 where there is none",
    "macro/recall": "recall, mean over the ten Cosmos classes, 0 where there is none",
    "macro/f1-score": "F1, mean over the ten Cosmos classes, 0 where there is none",
}
# Unbounded below: the leaderboard cuts each session and seed at 0 before it takes a mean.
CLIPPED = ("r2", "poisson_d2", "bps")


@dataclass(frozen=True)
class FileScore:
    """The scores of one prediction file.

    Attributes:
        label: Of the submission.
        task: Id.
        recording_id: Session; "" in suite 3.
        seed: Of the model.
        scores: By name of metric.
        n: Trials, windows or units scored.
    """

    label: str
    task: str
    recording_id: str
    seed: int
    scores: dict[str, float]
    n: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Label, task, session and seed."""
        return self.label, self.task, self.recording_id, self.seed


def score_folder(root: str | Path, truth: str | Path, suite: str) -> list[FileScore]:
    """Score all prediction files of a suite under a folder.

    Raises:
        ValueError: No file, no truth for one, a file that misses rows, or two of one label, task, session and seed.
    """
    found = [score_one(read_suite_prediction(path), truth) for path in prediction_files(root, suite)]
    if not found:
        raise ValueError(f"{root}: no prediction of suite {suite}, expected <label>/<task>/.../seed_<n>.safetensors")
    if len({one.key for one in found}) != len(found):
        raise ValueError(f"{root}: two files of one label, task, session and seed; keep one")
    return found


def score_one(file: SuiteFile, truth: str | Path) -> FileScore:
    """Score one prediction against the folder of truths."""
    scores, n = score_tensors(file, read_ground_truth(truth, task_of(file.task), file.recording_id))
    return FileScore(file.label, file.task, file.recording_id, file.seed, scores, n)


def score_tensors(file: SuiteFile, truth: Tensors) -> tuple[dict[str, float], int]:
    """All metrics of a file's task by name, and the number of trials, windows or units.

    Args:
        file: Prediction; rows beyond those of the truth are ignored.
        truth: Of the same task and session.

    Raises:
        ValueError: A scored row is missing, or the units are others.
    """
    task, mine = task_of(file.task), file.tensors
    if task.kind == "region":
        rows = _rows(file, decode_ids(truth["entity_ids"]), decode_ids(mine["entity_ids"]))
        scores = region_scores(truth["targets"], mine["pred_proba"][rows])
        return scores, len(rows)
    if task.kind == "rates":
        units = decode_ids(mine["unit_ids"])
        # The package takes the columns as they stand; a permuted file would be scored as if it were not.
        columns = _rows(file, decode_ids(truth["unit_ids"]), units)
        rows = _rows(file, truth["window_timestamps"].tolist(), mine["window_timestamps"].tolist())
        log_rate = mine["predictions"][rows]
        if log_rate.shape[1] != truth["targets"].shape[1]:
            raise ValueError(f"{file.where}: {log_rate.shape[1]} bins a window, expected {truth['targets'].shape[1]}")
        flat = log_rate[:, :, columns].reshape(-1, len(columns))
        return rate_scores(truth["targets"].reshape(-1, len(columns)), flat), len(rows)
    rows = _rows(file, truth["trial_id"].tolist(), mine["trial_id"].tolist())
    predicted = mine["predictions"][rows].astype(float)
    if task.kind == "class":
        return class_scores(truth["values"][:, 0].astype(int), predicted[:, 0]), len(rows)
    keep = truth["mask"] if "mask" in truth else np.ones(predicted.shape[:2], bool)
    target, value = truth["values"][keep][:, 0].astype(float), predicted[keep][:, 0]
    error = {"mae": float(np.abs(target - value).mean())}
    if task.kind == "count":
        return {"poisson_d2": rate_scores(target[:, None], value[:, None])["poisson_d2"], **error}, len(rows)
    # A constant prediction correlates with nothing; what the package says then is rounding, or NaN.
    varies = value.min() < value.max()
    pearson = {"pearson": float(np.corrcoef(target, value)[0, 1])} if varies else {}
    return {"r2": metrics.r2(target, value), **error, **pearson}, len(rows)


def class_scores(truth: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """`bacc`, `f1` and `ap` of classes `(N,)` and logits `(N, K)`."""
    answer = logits.argmax(axis=1)
    counts = _counts(truth, answer, logits.shape[1])
    present = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    _, recall, f1 = _rates_of(counts)
    probability = scipy.special.softmax(logits, axis=1)
    ap = [average_precision_score(truth == k, probability[:, k]) for k in np.unique(truth)]
    return {"bacc": float(recall[present].mean()), "f1": float(f1[present].mean()), "ap": float(np.mean(ap))}


def rate_scores(counts: np.ndarray, log_rate: np.ndarray) -> dict[str, float]:
    """`poisson_d2` and `bps` of counts and log expected counts `(R, U)`; empty where no unit spikes.

    Rates are floored at 1e-9 (`eval.metrics.RATE_FLOOR`); the package floors none, so a log-rate below -20.7 where
    there is a spike costs more there.
    """
    d2, gain, spikes = [], 0.0, 0.0
    # Unit by unit: a session has millions of bins, since its windows overlap.
    for truth, log in zip(counts.T, log_rate.T):
        y, rate = truth.astype(float)[:, None], np.exp(log.astype(float))[:, None]
        if not y.any():
            continue
        mean = y.mean(axis=0)
        spikes += y.sum()
        gain += float((metrics.poisson_log_likelihood(rate, y) - metrics.poisson_log_likelihood(mean, y)).sum())
        if y.min() < y.max():
            d2.append(metrics.d2(rate, y, mean))
    return ({"poisson_d2": float(np.mean(d2))} if d2 else {}) | ({"bps": gain / (spikes * np.log(2))} if spikes else {})


def region_scores(truth: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of each Cosmos class and their means; targets `(M,)` and probabilities `(M, 10)`."""
    parts = _rates_of(_counts(truth, probability.argmax(axis=1), len(COSMOS)))
    named = dict(zip(("precision", "recall", "f1-score"), parts))
    scores = {f"macro/{name}": float(values.mean()) for name, values in named.items()}
    return scores | {f"{c}/{name}": float(v) for name, values in named.items() for c, v in zip(COSMOS, values)}


def over_seeds(found: Iterable[FileScore]) -> dict[tuple[str, str], dict[str, tuple[float, float | None, int]]]:
    """By label and task, of each metric the mean, its SEM (None for one seed) and the number of seeds.

    As the leaderboard: `CLIPPED` metrics cut at 0 in each session and seed, mean over sessions within a seed, then mean
    and SEM over seeds.
    """
    parts: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    for one in found:
        by_metric = parts.setdefault((one.label, one.task), {})
        for name, value in one.scores.items():
            cut = max(value, 0.0) if name in CLIPPED else value
            by_metric.setdefault(name, {}).setdefault(one.seed, []).append(cut)
    out: dict[tuple[str, str], dict[str, tuple[float, float | None, int]]] = {}
    for key, by_metric in parts.items():
        for name, seeds in by_metric.items():
            means = np.array([np.mean(values) for values in seeds.values()])
            sem = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None
            out.setdefault(key, {})[name] = (float(means.mean()), sem, len(means))
    return out


def _rows(file: SuiteFile, wanted: list[Any], given: list[Any]) -> np.ndarray:
    """Positions in `given` of what is scored."""
    position = {key: row for row, key in enumerate(given)}
    if absent := [key for key in wanted if key not in position]:
        raise ValueError(f"{file.where}: {len(absent)} of {len(wanted)} scored rows or units are missing, such as "
                         f"{absent[0]!r}; predict every one (the package would leave them out)")  # fmt: skip
    return np.array([position[key] for key in wanted])


def _counts(truth: np.ndarray, answer: np.ndarray, num: int) -> np.ndarray:
    """Confusion counts `(num, num)`, truth in rows."""
    return np.bincount(truth * num + answer, minlength=num * num).reshape(num, num)


def _rates_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, 0 where there is none."""
    hits, said, there = np.diagonal(counts), counts.sum(axis=0), counts.sum(axis=1)
    return hits / np.maximum(said, 1), hits / np.maximum(there, 1), 2 * hits / np.maximum(said + there, 1)
