"""Classical features made comparable for recognizing a unit at another time; the baselines of identity retrieval.

Which unit is recognized is `foundation.unit_identity.recognized`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.spike_train_features import spike_train_features
from foundation.spiking_statistics import coupling

# Ridge on the scatter within units, relative to its mean variance.
_RIDGE = 1e-3
_COUPLING_BINS_S = (0.05, 0.2, 1.0)


def stability_whitening(firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> np.ndarray:
    """Map `(D, D)` after which the change of a unit's features from one time to another is white noise.

    Euclidean distance after it is the Mahalanobis distance of the scatter within units, the best linear measure of
    sameness (Fisher's); features that wander count little, stable ones much.

    Args:
        firsts: `(N_p, D)` features of the units of each training population at one time.
        seconds: `(N_p, D)` of the same units at another.
    """
    change = np.concatenate([a - b for a, b in zip(firsts, seconds)]).astype(np.float64)
    change -= change.mean(axis=0)
    scale = np.maximum(change.std(axis=0), 1e-9)
    values, vectors = np.linalg.eigh((change / scale).T @ (change / scale) / len(change))
    return (vectors / np.sqrt(np.maximum(values, 0) + _RIDGE * values.mean())) / scale[:, None]


def own_train_features(counts: np.ndarray, bin_size_s: float) -> tuple[np.ndarray, list[str]]:
    """`spike_train_features` of counts `(T, N)`, with every spike at the center of its bin."""
    bins, units = np.nonzero(counts)
    times = np.repeat((bins + 0.5) * bin_size_s, counts[bins, units])
    return spike_train_features(times, np.repeat(units, counts[bins, units]), counts.shape[1], len(counts) * bin_size_s)


def coupling_features(counts: np.ndarray, bin_size_s: float) -> np.ndarray:
    """Correlations of each unit with the others of its population at several bin sizes, `(N, F)`.

    Args:
        counts: `(T, N)`.
        bin_size_s: Of the counts; coarser bins are sums.
    """
    columns = []
    for size_s in _COUPLING_BINS_S:
        size = max(1, round(size_s / bin_size_s))
        whole = counts[: len(counts) // size * size].reshape(-1, size, counts.shape[1]).sum(axis=1, dtype=np.float64)
        rates = np.maximum(np.broadcast_to(whole.mean(axis=0), whole.shape), 1e-6)
        columns.append(coupling(whole, rates, np.array([len(whole)])))
    return np.concatenate(columns, axis=1)
