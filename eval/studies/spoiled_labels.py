"""A decoding task whose labels can be spoiled: noise, few laps, few bins, a lag; and models that are scored on it.

Test rows keep their true labels (but for a lag, which moves them too). Embedding and decoder get the same labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from eval.embedding_controls import pca_embedding, shifted_labels, shuffled_labels, window_sums
from eval.embedding_decoders import Distance, Split, decode_knn, scores, split_in_time
from foundation.estimator import ContrastiveEmbedding
from foundation.session_arrays import SessionArrays

OURS, HYBRID, TIME, SHUFFLED = "ours, behavior", "ours, hybrid", "ours, time", "ours, shuffled labels"
PCA, PCA_FEW, KNN = "PCA + kNN", "PCA of the labeled laps + kNN", "all units + kNN"


class Settings(Protocol):
    """What the fits need to know."""

    receptive_field: int
    output_dimension: int
    steps: int
    learning_rate: float
    unit_dropout: float
    delta: float


@dataclass(frozen=True)
class Task:
    """What one fit is given and scored on.

    Attributes:
        activity: `(T, N)` counts.
        given: `(T,)` labels as embedding and decoder get them.
        truth: `(T,)` labels as the test rows are scored.
        stretch: `(T,)` numbers; windows do not cross a change (trials, and the stretches of the split).
        split: Rows with a label (train, validation) and the test rows.
        recorded: Rows that an embedding may learn from without a label; no test rows.
    """

    activity: np.ndarray
    given: np.ndarray
    truth: np.ndarray
    stretch: np.ndarray
    split: Split
    recorded: np.ndarray


def whole_task(session: SessionArrays, label_name: str, lap_name: str = "") -> tuple[Task, np.ndarray]:
    """All rows with their true labels, split in time, and the lap `(T,)` of each row.

    Rows without a label are left out.

    Args:
        session: Activity and labels.
        label_name: Of a continuous label.
        lap_name: Of a label a change of which begins another lap; with none, laps are the trials.

    Raises:
        ValueError: The label is not one float a bin.
    """
    label = np.asarray(session.labels[label_name])
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim != 1 or label.dtype.kind != "f":
        raise ValueError(f"{label_name!r} is {label.dtype} {label.shape}, expected one float a bin")
    if not np.isfinite(label).all():
        return whole_task(session.take(np.isfinite(label)), label_name, lap_name)
    label = label.astype(np.float64)
    split = split_in_time(len(label))
    stretch = _runs(session.trial, split.stretch())
    lap = _runs(np.asarray(session.labels[lap_name]).reshape(len(label)), stretch) if lap_name else stretch
    return Task(np.asarray(session.activity), label, label, stretch, split, split.train), lap


def noisy(task: Task, level: float, seed: int) -> Task:
    """Gaussian noise of `level` standard deviations of the label on what is given; the truth stays."""
    noise = np.random.default_rng(seed).normal(0, level * task.truth.std(), len(task.truth))
    return replace(task, given=task.given + noise)


def few_laps(task: Task, lap: np.ndarray, number: int, seed: int) -> Task:
    """Labels in `number` random laps of train and validation only; the last fifth of them, at least one, validate.

    Raises:
        ValueError: Fewer than 2, or more than there are.
    """
    rows = np.concatenate([task.split.train, task.split.val])
    laps = np.unique(lap[rows])
    if not 2 <= number <= len(laps):
        raise ValueError(f"laps: got {number}, expected 2 to the {len(laps)} laps before the test stretch")
    chosen = np.sort(np.random.default_rng(seed).choice(laps, number, replace=False))
    first_val = number - max(1, number // 5)
    train, val = (rows[np.isin(lap[rows], part)] for part in (chosen[:first_val], chosen[first_val:]))
    return replace(task, split=Split(train, val, task.split.test), recorded=np.sort(rows))


def few_bins(task: Task, share: float, seed: int) -> Task:
    """Labels of a random `share` of the train and validation rows, at least two of each."""
    rng = np.random.default_rng(seed)
    train, val = (
        np.sort(rng.choice(rows, max(2, round(share * len(rows))), replace=False))
        for rows in (task.split.train, task.split.val)
    )
    return replace(task, split=Split(train, val, task.split.test))


def late(task: Task, bins: int) -> Task:
    """The label of `bins` later (earlier if negative), for learning and for scoring; rows without one are dropped."""
    length = len(task.truth)
    at = np.arange(length) + bins
    inside = np.clip(at, 0, length - 1)
    # Within its own stretch: training must not see labels of the test stretch, and time between trials is unknown.
    there = (at == inside) & (task.stretch[inside] == task.stretch)
    split = Split(*(rows[there[rows]] for rows in (task.split.train, task.split.val, task.split.test)))
    if min(len(split.train), len(split.val), len(split.test)) < 20:
        raise ValueError(f"lags_s: {bins} bins leave too few rows, expected lags shorter than the trials")
    return replace(task, given=task.given[inside], truth=task.truth[inside], split=split)


def shifted(task: Task, seed: int) -> Task:
    """Labels rolled in time by a random shift of at least a quarter of the session: their course without their tie."""
    (label,) = shifted_labels([task.truth], seed, len(task.truth) // 4)
    return replace(task, given=label, truth=label)


def decode(task: Task, model: str, config: Settings, seed: int) -> dict[str, float]:
    """R2 and median absolute error of the true label on the test rows.

    Embeddings learn from the labeled train rows ("behavior"), from all recorded rows and the labels that there are
    ("hybrid"), or without labels ("time", PCA). "Shuffled labels" shuffles them for the embedding, not for the decoder:
    it reaches what an encoder reaches that has learned nothing from labels.
    """
    sums = window_sums(task.activity, config.receptive_field, task.stretch)
    if model == PCA:
        embedding = pca_embedding(sums, task.recorded, config.output_dimension)
    elif model == PCA_FEW:
        embedding = pca_embedding(sums, task.split.train, config.output_dimension)
    elif model == KNN:
        embedding = sums
    else:
        embedding = _embed(task, model, config, seed)
    distance: Distance = "euclidean" if model in (PCA, PCA_FEW) else "cosine"
    decoded = decode_knn(embedding, task.given, task.split, "continuous", distance=distance)
    found = scores(task.truth[task.split.test], decoded.prediction, "continuous")
    return {"r2": found["r2"], "median_error": found["median_error"]}


def _embed(task: Task, model: str, config: Settings, seed: int) -> np.ndarray:
    rows, label = task.split.train, task.given.copy()
    if model == SHUFFLED:
        (label[rows],) = shuffled_labels([label[rows]], seed)
    if model in (HYBRID, TIME):
        unknown = np.setdiff1d(task.recorded, rows)
        label[unknown] = np.nan
        rows = task.recorded
    estimator = ContrastiveEmbedding(
        mode={HYBRID: "hybrid", TIME: "time"}.get(model, "behavior"),
        output_dimension=config.output_dimension,
        receptive_field=config.receptive_field,
        max_iterations=config.steps,
        learning_rate=config.learning_rate,
        unit_dropout=config.unit_dropout,
        query="delta",
        delta=config.delta * float(task.truth[task.split.train].std()),
        allow_missing_labels=True,
        random_state=seed,
    )
    # Rows left out are a border for windows and for differences in time.
    trial = _runs(task.stretch[rows], np.cumsum(np.diff(rows, prepend=rows[0]) != 1))
    estimator.fit(task.activity[rows], None if model == TIME else label[rows], trial=trial)
    return np.asarray(estimator.transform(task.activity, trial=task.stretch))


def _runs(*keys: np.ndarray) -> np.ndarray:
    """`(T,)` number of the run of rows with equal keys `(T,)` that a row is in."""
    change = np.any([np.diff(key, prepend=key[:1]) != 0 for key in keys], axis=0)
    return np.cumsum(change)
