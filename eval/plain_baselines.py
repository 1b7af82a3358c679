"""What any embedding must beat: neighbors of components, of sums and of smoothed counts, and a ridge on lags."""

from __future__ import annotations

import numpy as np

from eval.embedding_controls import pad_ends, pca_embedding, runs, window_sums
from eval.embedding_decoders import Decoded, Kind, Split, decode_knn, decode_ridge, decode_smoothed_knn


def plain_baselines(
    activity: np.ndarray,
    label: np.ndarray,
    split: Split,
    kind: Kind,
    *,
    receptive_field: int = 10,
    trial: np.ndarray | None = None,
    dimensions: tuple[int, ...] = (3, 8),
) -> dict[str, Decoded]:
    """What any embedding must beat, with the same rows, window and label. Windows cross neither trials nor stretches.

    Args:
        activity: `(T, N)` counts.
        label: `(T,)` or `(T, L)`.
        split: Rows.
        kind: Of the label.
        receptive_field: Bins of the window, as of the encoder that is compared.
        trial: `(T,)` numbers.
        dimensions: Of the PCA.

    Returns:
        By name: `PCA 3-d` ... (principal components of window sums, kNN, Euclidean as in the protocol's table), `kNN on
        all units` (window sums, cosine), `kNN, smoothed` (Gaussian of a width chosen on validation, cosine; sees more
        time than the window) and `ridge on lags` (every bin of the window of every unit).
    """
    apart = split.apart(trial, len(activity))
    sums = window_sums(activity, receptive_field, apart)
    found = {
        f"PCA {d}-d": decode_knn(pca_embedding(sums, split.train, d), label, split, kind, distance="euclidean")
        for d in dimensions
        if d <= activity.shape[1]
    }
    found["kNN on all units"] = decode_knn(sums, label, split, kind)
    found["kNN, smoothed"] = decode_smoothed_knn(activity, label, split, kind, trial=trial)
    found["ridge on lags"] = decode_ridge(_lags(activity, receptive_field, apart), label, split, kind)
    return {name: Decoded(name, one.prediction, one.choice, one.validation_loss) for name, one in found.items()}


def _lags(activity: np.ndarray, receptive_field: int, trial: np.ndarray) -> np.ndarray:
    """`(T, r N)`: the counts of every bin of the window, one after the other."""
    out = np.empty((len(activity), receptive_field, activity.shape[1]))
    for start, stop in runs(trial, len(activity)):
        padded = pad_ends(np.asarray(activity[start:stop], dtype=float), receptive_field)
        for lag in range(receptive_field):
            out[start:stop, lag] = padded[lag : lag + stop - start]
    return out.reshape(len(activity), -1)
