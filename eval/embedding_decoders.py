"""Decoding labels from embeddings or activity: kNN, ridge, logistic; k and penalty chosen on validation. No models.

Labels have one of three kinds. `continuous`: floats. `circular`: radians. `discrete`: integers. Circular and discrete
labels are decoded through their unit vectors and class indicators, so that one neighbor search and one ridge serve all.
After the choice the decoder is fitted again on train and validation rows together; test rows are scored once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter1d
from sklearn.neighbors import NearestNeighbors

from eval.embedding_controls import runs
from foundation.linear_decoders import ridge_path, softmax_path

Kind = Literal["continuous", "circular", "discrete"]
Distance = Literal["cosine", "euclidean"]

NEIGHBORS = (1, 2, 3, 5, 9, 15, 25, 36, 49, 64, 81, 100, 144)
PENALTIES = tuple(np.geomspace(1e4, 1e-4, 17).tolist())
"""Ridge: times the rows and the features' mean variance. Logistic: divided by 100 more."""
SMOOTHING_BINS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)


@dataclass(frozen=True)
class Split:
    """Row numbers of three stretches of time.

    Attributes:
        train: Where decoders (and encoders) are fitted.
        val: Where k, penalty and smoothing are chosen.
        test: Scored once.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def stretch(self) -> np.ndarray:
        """`(T,)` 0, 1, 2 for train, validation and test, -1 for neither."""
        out = np.full(1 + max(int(part.max()) for part in (self.train, self.val, self.test)), -1)
        for number, part in enumerate((self.train, self.val, self.test)):
            out[part] = number
        return out

    def apart(self, trial: np.ndarray | None, length: int) -> np.ndarray:
        """`(T,)` a number that changes with the stretch and with the trial `(T,)`, if given."""
        stretch = np.full(length, -1)
        stretch[: len(self.stretch())] = self.stretch()
        return (
            stretch if trial is None else np.unique(np.stack([trial, stretch]), axis=1, return_inverse=True)[1].ravel()
        )


@dataclass(frozen=True)
class Decoded:
    """Predictions for the test rows.

    Attributes:
        name: Decoder and its inputs, in words.
        prediction: `(R,)` or `(R, L)`, as the labels.
        choice: What validation chose: `{"k": 25}`, `{"penalty": .1}`...
        validation_loss: Mean squared error of the (indicator or unit-vector) targets; logistic: log loss in nats.
    """

    name: str
    prediction: np.ndarray
    choice: dict[str, float]
    validation_loss: float


def split_in_time(length: int, test_share: float = 0.2, val_share: float = 0.16) -> Split:
    """First stretch train, then validation, last stretch test; shares of all rows.

    Raises:
        ValueError: A stretch would be empty.
    """
    first_test = round((1 - test_share) * length)
    first_val = round((1 - test_share - val_share) * length)
    if not 0 < first_val < first_test < length:
        raise ValueError(
            f"{length} rows with test_share={test_share} and val_share={val_share} leave an empty stretch; "
            "expected shares above 0 that sum to less than 1"
        )
    rows = np.arange(length)
    return Split(rows[:first_val], rows[first_val:first_test], rows[first_test:])


def decode_knn(
    embedding: np.ndarray,
    label: np.ndarray,
    split: Split,
    kind: Kind,
    *,
    distance: Distance = "cosine",
    neighbors: tuple[int, ...] = NEIGHBORS,
) -> Decoded:
    """Plain mean (continuous, circular) or vote (discrete) of the k nearest rows.

    Args:
        embedding: `(T, D)`.
        label: `(T,)` or `(T, L)`.
        split: Rows.
        kind: Of the label.
        distance: Cosine for embeddings on the sphere. A row of zeros has cosine distance 1 to all.
        neighbors: Values of k to choose from; those above the number of train rows are left out.

    Raises:
        ValueError: Labels that do not match, are not finite, or not of their kind.
    """
    target = _targets(label, kind, len(embedding))
    sizes = np.array(sorted(k for k in neighbors if k <= len(split.train)))
    guess = _neighbor_means(embedding, target, split.train, split.val, sizes, distance)
    losses = ((guess - target[split.val]) ** 2).mean(axis=(1, 2))
    best = int(losses.argmin())
    known = np.concatenate([split.train, split.val])
    final = _neighbor_means(embedding, target, known, split.test, sizes[best : best + 1], distance)[0]
    return Decoded(f"kNN, {distance}", _read(final, label, kind), {"k": float(sizes[best])}, float(losses[best]))


def decode_smoothed_knn(
    rows: np.ndarray,
    label: np.ndarray,
    split: Split,
    kind: Kind,
    *,
    trial: np.ndarray | None = None,
    distance: Distance = "cosine",
) -> Decoded:
    """`decode_knn` after a Gaussian in time, its width chosen on validation; it sees more time than its rows do.

    Args:
        rows: `(T, D)` embeddings or activity.
        label: `(T,)` or `(T, L)`.
        split: Rows.
        kind: Of the label.
        trial: `(T,)` numbers; the Gaussian crosses neither trials nor stretches of the split.
        distance: As in `decode_knn`.
    """
    apart = split.apart(trial, len(rows))
    found = []
    for width in SMOOTHING_BINS:
        parts = [gaussian_filter1d(rows[a:b].astype(float), width, axis=0) for a, b in runs(apart, len(rows))]
        one = decode_knn(np.concatenate(parts), label, split, kind, distance=distance)
        found.append(Decoded("kNN, smoothed", one.prediction, one.choice | {"width": width}, one.validation_loss))
    return min(found, key=lambda one: one.validation_loss)


def decode_ridge(features: np.ndarray, label: np.ndarray, split: Split, kind: Kind) -> Decoded:
    """Ridge regression on features scaled by one common number, with a free constant.

    Args:
        features: `(T, F)`.
        label: `(T,)` or `(T, L)`.
        split: Rows.
        kind: Of the label; a class is the greatest of the regressed indicators.
    """
    target = _targets(label, kind, len(features))

    def fit(rows: np.ndarray, penalties: list[float], at: np.ndarray) -> np.ndarray:
        center, mean = features[rows].mean(axis=0), target[rows].mean(axis=0)
        x = features[rows] - center
        scale = len(rows) * float((x * x).mean()) + 1e-300
        weights = ridge_path(x, target[rows] - mean, [p * scale for p in penalties])
        return (features[at] - center) @ weights + mean

    losses = ((fit(split.train, list(PENALTIES), split.val) - target[split.val]) ** 2).mean(axis=(1, 2))
    best = int(losses.argmin())
    final = fit(np.concatenate([split.train, split.val]), [PENALTIES[best]], split.test)[0]
    return Decoded("ridge", _read(final, label, kind), {"penalty": PENALTIES[best]}, float(losses[best]))


def decode_logistic(features: np.ndarray, label: np.ndarray, split: Split) -> Decoded:
    """Multinomial logistic regression for integer labels `(T,)`; the penalty by validation log loss."""
    _targets(label, "discrete", len(features))
    classes = np.unique(label)
    code = classes.searchsorted(label)
    known = np.concatenate([split.train, split.val])

    def fit(rows: np.ndarray, penalties: list[float], at: np.ndarray) -> np.ndarray:
        center, scale = features[rows].mean(axis=0), float(features[rows].std()) + 1e-300
        x = (features - center) / scale
        scaled = [p * len(rows) / 100 for p in penalties]
        weights, constants = softmax_path(x[rows], code[rows], len(classes), scaled)
        logits = x[at] @ weights + constants[:, None]
        return logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)

    log_odds = fit(split.train, list(PENALTIES), split.val)
    losses = -np.take_along_axis(log_odds, code[split.val][None, :, None], axis=2).mean(axis=(1, 2))
    best = int(losses.argmin())
    final = fit(known, [PENALTIES[best]], split.test)[0]
    return Decoded("logistic", classes[final.argmax(axis=1)], {"penalty": PENALTIES[best]}, float(losses[best]))


def scores(truth: np.ndarray, prediction: np.ndarray, kind: Kind) -> dict[str, float]:
    """Scores of test rows; errors in the label's own unit (circular: radians).

    Args:
        truth: `(R,)` or `(R, L)`.
        prediction: The same shape.
        kind: Of the label.

    Returns:
        `continuous`: `r2` (mean over columns), `r2_weighted` (columns weighted by variance), `median_error` (Euclidean
        over columns). `circular`: `r2` = 1 - mean(1 - cos error) / (1 - |mean direction of the truth|), which is 0 for
        the best constant; `median_error`. `discrete`: `accuracy`, `balanced_accuracy` (mean over the true classes).

    Raises:
        ValueError: Shapes differ or the truth is constant.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape}; expected the same shape")
    if kind == "discrete":
        right = truth == prediction
        return {
            "accuracy": float(right.mean()),
            "balanced_accuracy": float(np.mean([right[truth == c].mean() for c in np.unique(truth)])),
        }
    truth, prediction = _matrix(truth), _matrix(prediction)
    if kind == "circular":
        turned = (prediction - truth + np.pi) % (2 * np.pi) - np.pi
        spread = 1 - np.abs(np.exp(1j * truth).mean(axis=0))
        _not_constant(spread)
        r2 = float(np.mean(1 - (1 - np.cos(turned)).mean(axis=0) / spread))
        return {"r2": r2, "median_error": float(np.median(np.linalg.norm(turned, axis=1)))}
    error = ((truth - prediction) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    _not_constant(total)
    return {
        "r2": float(np.mean(1 - error / total)),
        "r2_weighted": float(1 - error.sum() / total.sum()),
        "median_error": float(np.median(np.linalg.norm(truth - prediction, axis=1))),
    }


def _neighbor_means(
    embedding: np.ndarray, target: np.ndarray, known: np.ndarray, asked: np.ndarray, sizes: np.ndarray, distance: str
) -> np.ndarray:
    """Mean target of the k nearest known rows for every k of `sizes`: `(K, R, W)`."""
    if distance not in ("cosine", "euclidean"):
        raise ValueError(f"distance {distance!r}, expected cosine or euclidean")
    search = NearestNeighbors(n_neighbors=int(sizes[-1]), metric=distance).fit(embedding[known])
    index = search.kneighbors(embedding[asked], return_distance=False)
    # Sums over the neighbors so far, one after the other: no (R, k, W) table.
    out, total, done = [], np.zeros((len(asked), target.shape[1])), 0
    for k in sizes:
        for column in range(done, k):
            total += target[known][index[:, column]]
        done = k
        out.append(total / k)
    return np.stack(out)


def _targets(label: np.ndarray, kind: Kind, length: int) -> np.ndarray:
    """`(T, W)`: the columns of the label, their sines and cosines, or class indicators."""
    label = np.asarray(label)
    if len(label) != length:
        raise ValueError(f"{len(label)} labels for {length} rows; expected as many")
    if not np.isfinite(label).all():
        raise ValueError(f"{int((~np.isfinite(label)).sum())} labels are not finite; leave those rows out")
    if kind == "discrete":
        if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
            raise ValueError(f"discrete labels are {label.dtype} {label.shape}, expected integers (T,)")
        return np.equal.outer(label, np.unique(label)).astype(float)
    if kind == "circular":
        return np.concatenate([np.cos(_matrix(label)), np.sin(_matrix(label))], axis=1)
    if kind != "continuous":
        raise ValueError(f"kind {kind!r}, expected continuous, circular or discrete")
    return _matrix(label).astype(float)


def _read(value: np.ndarray, label: np.ndarray, kind: Kind) -> np.ndarray:
    """Targets `(R, W)` back to labels."""
    if kind == "discrete":
        return np.unique(label)[value.argmax(axis=1)]
    if kind == "circular":
        cosine, sine = np.split(value, 2, axis=1)
        value = np.arctan2(sine, cosine) % (2 * np.pi)
    return value.reshape(len(value), *np.shape(label)[1:])


def _matrix(label: np.ndarray) -> np.ndarray:
    return label.reshape(len(label), -1)


def _not_constant(spread: np.ndarray) -> None:
    if (spread <= 0).any():
        raise ValueError("R2: the truth is constant in a column, expected at least two different values")
