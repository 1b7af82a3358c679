"""Scores of a region prediction against the truth, with the null of protocol section 4; fits nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.metrics import confusion_matrix

from eval import metrics

NUM_DRAWS = 1000
# `(M, M)` weights of each unit's neighbors.
Pooling: TypeAlias = csr_matrix


@dataclass(frozen=True)
class RegionPrediction:
    """Prediction in the form of protocol section 5; `vars` of it are the arrays of a prediction file.

    Attributes:
        classes: `(K,)` region names.
        session_of_unit: `(M,)` session names, without the dataset.
        unit: `(M,)` 0-based position of the unit in the source.
        prob: `(M, K)`; 0 for regions that were not on offer.
    """

    classes: np.ndarray
    session_of_unit: np.ndarray
    unit: np.ndarray
    prob: np.ndarray


def score_regions(
    prediction: RegionPrediction,
    region: np.ndarray,
    session: np.ndarray,
    unit: np.ndarray,
    classes: tuple[str, ...],
    seed: int = 0,
    pool: Pooling | None = None,
) -> tuple[dict[str, float | int], pd.DataFrame]:
    """Score one animal (or several pooled).

    Args:
        prediction: May hold more rows and classes than are scored.
        region: `(M,)` true regions of the scored units, each one of `classes`.
        session: `(M,)` their recording ids, or session names.
        unit: `(M,)` their positions in the source.
        classes: Regions on offer; the most probable of these is the answer.
        seed: Of the bootstrap and the permutations.
        pool: `(M, M)` weights over the prediction's rows, if units are read together with their neighbors.

    Returns:
        `macro_f1` over the classes present in the truth, the 95 % interval `low`, `high` of a bootstrap over units,
        `balanced_accuracy`, `chance` (1 / classes present), and of macro-F1 with labels permuted inside each session
        and predictions fixed `null_mean`, `null_95`, `p`; `num_units`. Then the confusion counts, truth in rows. With
        `pool`, predictions of single units are permuted instead and pooled anew: pooled ones and labels both run in
        bands along a probe, and labels permuted one by one would make too narrow a null.

    Raises:
        ValueError: A scored unit or a class on offer is missing from the prediction, or a probability is not finite.
    """
    rows_of, columns = _scored(prediction, session, unit, classes)

    def answers(prob: np.ndarray) -> np.ndarray:
        pooled = prob if pool is None else np.asarray(pool @ prob)
        return np.asarray(pooled[rows_of][:, columns].argmax(axis=1))

    answer = answers(prediction.prob)
    truth = np.searchsorted(classes, region)
    present = np.unique(truth)
    score = metrics.macro_f1(truth, answer)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(truth), size=(NUM_DRAWS, len(truth)))
    spread = macro_f1_of_draws(truth[draws], answer[draws], present, len(classes))
    permuted = np.tile(truth if pool is None else np.arange(len(prediction.unit)), (NUM_DRAWS, 1))
    within = session if pool is None else prediction.session_of_unit
    for name in np.unique(within):
        rows = np.flatnonzero(within == name)
        permuted[:, rows] = rng.permuted(permuted[:, rows], axis=1)
    shape = (NUM_DRAWS, len(truth))
    if pool is None:
        null = macro_f1_of_draws(permuted, np.broadcast_to(answer, shape), present, len(classes))
    else:
        drawn = np.stack([answers(prediction.prob[order]) for order in permuted])
        null = macro_f1_of_draws(np.broadcast_to(truth, shape), drawn, present, len(classes))
    row: dict[str, float | int] = {
        "macro_f1": score,
        "low": float(np.quantile(spread, 0.025)),
        "high": float(np.quantile(spread, 0.975)),
        "balanced_accuracy": metrics.class_balanced_accuracy(truth, answer),
        "chance": 1 / len(present),
        "null_mean": float(null.mean()),
        "null_95": float(np.quantile(null, 0.95)),
        "p": float((1 + np.sum(null >= score - 1e-12)) / (1 + NUM_DRAWS)),
        "num_units": len(truth),
    }
    counts = confusion_matrix(truth, answer, labels=np.arange(len(classes)))
    return row, pd.DataFrame(counts, index=list(classes), columns=list(classes))


def session_names(ids: np.ndarray) -> np.ndarray:
    """Recording ids `(M,)` without the dataset."""
    return np.array([str(name).split("/")[-1] for name in ids], dtype=str)


def macro_f1_of_draws(truth: np.ndarray, answer: np.ndarray, present: np.ndarray, num_classes: int) -> np.ndarray:
    """Macro-F1 `(P,)` of each row of `truth` and `answer (P, M)`, as scikit-learn's, a thousand at once.

    Args:
        truth: `(P, M)` classes 0..num_classes-1.
        answer: `(P, M)` likewise.
        present: Classes to average over.
        num_classes: K.
    """
    num = len(truth)
    cell = (np.arange(num)[:, None] * num_classes + truth) * num_classes + answer
    counts = np.bincount(cell.ravel(), minlength=num * num_classes**2).reshape(num, num_classes, num_classes)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    both = counts.sum(axis=1) + counts.sum(axis=2)
    return np.asarray((2 * hits / np.maximum(both, 1))[:, present].mean(axis=1))


def _scored(
    prediction: RegionPrediction, session: np.ndarray, unit: np.ndarray, classes: tuple[str, ...]
) -> tuple[np.ndarray, list[int]]:
    """Rows of the scored units in the prediction, and columns of the classes on offer."""
    if missing := sorted(set(classes) - set(prediction.classes.tolist())):
        raise ValueError(f"the prediction has no column for {missing}; its classes are {prediction.classes.tolist()}")
    row_of = {
        key: row
        for row, key in enumerate(zip(session_names(prediction.session_of_unit).tolist(), prediction.unit.tolist()))
    }
    wanted = list(zip(session_names(session).tolist(), unit.tolist()))
    if absent := [key for key in wanted if key not in row_of]:
        raise ValueError(f"{len(absent)} scored units have no prediction, such as {absent[0]}; predict every unit")
    columns = [prediction.classes.tolist().index(name) for name in classes]
    rows = np.array([row_of[key] for key in wanted])
    if not np.isfinite(prediction.prob[rows][:, columns]).all():
        raise ValueError("a scored unit has a probability that is not finite; give numbers from 0 to 1")
    return rows, columns
