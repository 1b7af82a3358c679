"""What an embedding must be compared with: shuffled labels and neurons, shifted labels, PCA, UMAP, t-SNE.

| control | kills | keeps |
|---|---|---|
| `shuffled_labels` | any tie of labels to activity, and the labels' course in time | their values, rows whole |
| `shifted_labels` | the tie of labels to activity at the same time | values, course in time, all but one step |
| `shuffled_neurons("shift")` | units firing together, ties to labels and common time | each unit's rate and course |
| `shuffled_neurons("permute")` | the same, and each unit's course in time | each unit's count distribution |

The plain embeddings see train activity only, and never a label. Decoding from them: `embedding_decoders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.linalg
from sklearn.neighbors import NearestNeighbors


def shuffled_labels(labels: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Rows of all label arrays `(T,)` or `(T, L)` in one random order, so that labels of a moment stay together."""
    order = np.random.default_rng(seed).permutation(_length(labels))
    return [label[order] for label in labels]


def shifted_labels(labels: Sequence[np.ndarray], seed: int, min_shift: int) -> list[np.ndarray]:
    """All label arrays rolled in time by one random shift of at least `min_shift` bins either way.

    Raises:
        ValueError: The labels are too short for such a shift.
    """
    length = _length(labels)
    if not 1 <= min_shift <= length // 2:
        raise ValueError(f"min_shift {min_shift} of {length} bins, expected 1 to {length // 2}")
    shift = int(np.random.default_rng(seed).integers(min_shift, length - min_shift + 1))
    return [np.roll(label, shift, axis=0) for label in labels]


def shuffled_neurons(activity: np.ndarray, seed: int, how: Literal["shift", "permute"] = "shift") -> np.ndarray:
    """Every unit of `(T, N)` moved in time on its own: rolled by a random shift, or permuted.

    Raises:
        ValueError: Another `how`.
    """
    if how not in ("shift", "permute"):
        raise ValueError(f"how={how!r}, expected shift or permute")
    rng = np.random.default_rng(seed)
    if how == "permute":
        return rng.permuted(activity, axis=0)
    length = len(activity)
    return np.stack([np.roll(unit, int(rng.integers(1, length))) for unit in activity.T], axis=1)


def window_sums(activity: np.ndarray, receptive_field: int, trial: np.ndarray | None = None) -> np.ndarray:
    """Counts `(T, N)` summed over the bins t - r/2 .. t + (r - 1)/2, the window of an offset encoder of r bins.

    Windows stay within a run of one trial number; past its ends the first or last bin is repeated.

    Args:
        activity: `(T, N)`.
        receptive_field: r in bins.
        trial: `(T,)` numbers; a window does not cross a change. Give train and test different ones to keep them apart.
    """
    out = np.empty(activity.shape, dtype=float)
    for start, stop in runs(trial, len(activity)):
        padded = pad_ends(np.asarray(activity[start:stop], dtype=float), receptive_field)
        total = np.concatenate([np.zeros((1, activity.shape[1])), padded.cumsum(axis=0)])
        out[start:stop] = total[receptive_field:] - total[:-receptive_field]
    return out


def pad_ends(rows: np.ndarray, receptive_field: int) -> np.ndarray:
    """`(T, N)` with r/2 copies of the first row before it and (r - 1)/2 of the last row behind."""
    before = receptive_field // 2
    return np.pad(rows, ((before, receptive_field - 1 - before), (0, 0)), mode="edge")


def runs(trial: np.ndarray | None, length: int) -> list[tuple[int, int]]:
    """Start and stop of every stretch in which the trial number does not change."""
    if trial is None:
        return [(0, length)]
    if len(trial) != length:
        raise ValueError(f"{len(trial)} trial numbers for {length} bins; expected as many")
    edges = np.concatenate([[0], np.flatnonzero(np.diff(trial)) + 1, [length]])
    return list(zip(edges[:-1].tolist(), edges[1:].tolist()))


def pca_embedding(features: np.ndarray, train: np.ndarray, dimension: int) -> np.ndarray:
    """The first principal components of the train rows, for all rows: `(T, F)` to `(T, dimension)`.

    Features keep their scale (units that fire more count for more), as in the PCA of the protocol's table. The sign of
    a component makes its largest loading positive.

    Args:
        features: `(T, F)`.
        train: `(T,)` bool or indices.
        dimension: At most F.

    Raises:
        ValueError: More components than features.
    """
    if not 1 <= dimension <= features.shape[1]:
        raise ValueError(f"{dimension} components of {features.shape[1]} features; expected 1 to that many")
    centered = features - features[train].mean(axis=0)
    fitted = centered[train]
    vectors = scipy.linalg.eigh(fitted.T @ fitted)[1][:, ::-1][:, :dimension]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dimension)])
    return centered @ vectors


def umap_embedding(features: np.ndarray, train: np.ndarray, dimension: int, seed: int) -> np.ndarray:
    """UMAP (McInnes et al. 2018) of the train rows; other rows through its own transform. `(T, F)` to `(T, dimension)`.

    Args:
        features: `(T, F)`.
        train: `(T,)` bool.
        dimension: Of the embedding.
        seed: Of the layout; a seeded UMAP runs on one thread.

    Raises:
        ValueError: umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise ValueError('UMAP needs umap-learn: pip install "foundation[analysis]"') from error
    model = UMAP(n_components=dimension, random_state=seed, n_jobs=1).fit(features[train])
    out = np.empty((len(features), dimension))
    out[train] = model.embedding_
    if (~train).any():
        out[~train] = model.transform(features[~train])
    return out


def tsne_embedding(
    features: np.ndarray, train: np.ndarray, dimension: int, seed: int, neighbors: int = 10
) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008) of the train rows, `(T, F)` to `(T, dimension)`.

    t-SNE has no transform. A held-out row is put at the mean place, weighted by inverse distance, of the train rows
    nearest to it in the features: it moves no train row, and no label is used.

    Args:
        features: `(T, F)`.
        train: `(T,)` bool.
        dimension: At most 3.
        seed: Of the start.
        neighbors: Train rows that place a held-out row.
    """
    from sklearn.manifold import TSNE

    out = np.empty((len(features), dimension))
    out[train] = TSNE(dimension, random_state=seed, init="pca", n_jobs=1).fit_transform(features[train])
    if (~train).any():
        search = NearestNeighbors(n_neighbors=min(neighbors, int(train.sum()))).fit(features[train])
        distance, index = search.kneighbors(features[~train])
        # A row equal to a train row goes to its place.
        weight = 1 / np.maximum(distance, 1e-12)
        out[~train] = np.einsum("rk,rkd->rd", weight / weight.sum(axis=1, keepdims=True), out[train][index])
    return out


def _length(labels: Sequence[np.ndarray]) -> int:
    lengths = {len(label) for label in labels}
    if len(lengths) != 1:
        raise ValueError(f"label arrays of {sorted(lengths)} rows; expected at least one array, all as long")
    return lengths.pop()
