"""Maps from one embedding space to another, linear or a rotation, and how well a mapped space fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy.linalg

Method = Literal["linear", "procrustes"]


def linear_map(source: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares with an intercept, `(R, D)` to `(R, E)`; the smallest weights where that is not unique."""
    center, mean = source.mean(axis=0), target.mean(axis=0)
    weights = scipy.linalg.lstsq(source - center, target - mean)[0]
    return lambda rows: (rows - center) @ weights + mean


def procrustes_map(source: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rotation or reflection, one scale and a shift, `(R, D)` to `(R, E)`; the narrower one is filled up with zeros.

    Schönemann and Carroll 1970 (Psychometrika 35): of U S V' = X'Y, the rotation is UV' and the scale tr(S) / ||X||².
    """
    width = max(source.shape[1], target.shape[1])
    center, mean = source.mean(axis=0), target.mean(axis=0)
    x, y = _widen(source - center, width), _widen(target - mean, width)
    left, size, right = scipy.linalg.svd(x.T @ y)
    power = float((x * x).sum())
    turn = (size.sum() / power if power > 0 else 0.0) * (left @ right)[:, : target.shape[1]]
    return lambda rows: _widen(rows - center, width) @ turn + mean


def map_score(truth: np.ndarray, prediction: np.ndarray, method: Method) -> float:
    """R2 `(R, D)` about the mean of the truth: mean over dimensions (linear) or pooled (procrustes, which mixes them).

    A constant dimension of the truth counts as 1 when met exactly and 0 otherwise, as in scikit-learn.
    """
    error = ((truth - prediction) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    if method == "procrustes":
        error, total = error.sum(keepdims=True), total.sum(keepdims=True)
    ratio = np.divide(error, total, out=(error > 0).astype(float), where=total > 0)
    return float(np.mean(1 - ratio))


def _widen(rows: np.ndarray, width: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
