"""Decoders of labels and numbers from spike counts that are not linear: k nearest neighbors and Poisson naive Bayes.

Also the factors of factor analysis, for linear decoders to read. What is decoded, and from which windows, is for the
caller to say; every parameter is chosen on validation rows, from short grids: a hundred validation trials cannot tell
fine ones apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.decomposition import FactorAnalysis
from sklearn.neighbors import NearestNeighbors

from eval.linear_fits import ScalarFit, log_loss

NEIGHBORS = (1, 3, 5, 9, 15, 25, 40, 65, 100)
# Naive Bayes: seconds (or trials) of firing at the mean of the classes that are added to each class, and the share of
# the log likelihood ratio that is believed: units are not independent, and their sum is too sure.
PRIOR_SECONDS = (1.0, 10.0)
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)
FACTORS = (1, 3, 8, 20)


def neighbor_means(features: np.ndarray, target: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean target of the k nearest train rows in Euclidean distance, for every k of `NEIGHBORS` that there is.

    Args:
        features: `(M, F)`; of all rows.
        target: `(M,)`.
        train: Indices of the train rows; each is a neighbor of itself.

    Returns:
        k, `(K,)`, and the means, `(K, M)`.
    """
    sizes = np.array([k for k in NEIGHBORS if k <= len(train)])
    found = NearestNeighbors(n_neighbors=int(sizes[-1]), algorithm="brute").fit(features[train])
    near = found.kneighbors(features, return_distance=False)
    total = np.cumsum(target[train][near], axis=1, dtype=float)
    return sizes, (total[:, sizes - 1] / sizes).T


def nearest_label(features: np.ndarray, label: np.ndarray, train: np.ndarray, val: np.ndarray) -> ScalarFit:
    """Log odds of the votes of the nearest neighbors and one vote shared as the classes are; k by validation log loss.

    Args:
        features: `(M, F)`, on one scale.
        label: `(M,)` 0 or 1.
        train: Indices.
        val: Likewise.
    """
    sizes, share = neighbor_means(features, label, train)
    prior = (label[train].sum() + 0.5) / (len(train) + 1)
    votes = sizes[:, None] * share
    logits = np.log(votes + prior) - np.log(sizes[:, None] - votes + 1 - prior)
    return _least(logits, [log_loss(logit[val], label[val]) for logit in logits])


def nearest_value(features: np.ndarray, target: np.ndarray, train: np.ndarray, val: np.ndarray) -> ScalarFit:
    """Mean of the nearest neighbors; k by validation squared error. Arguments as in `nearest_label`."""
    _, values = neighbor_means(features, target, train)
    return _least(values, [float(np.mean((value[val] - target[val]) ** 2)) for value in values])


def poisson_naive_bayes(
    spikes: np.ndarray, seconds: np.ndarray, label: np.ndarray, train: np.ndarray, val: np.ndarray
) -> ScalarFit:
    """Log odds of two classes under independent Poisson counts, rates with a Gamma prior about the classes' mean.

    Args:
        spikes: `(M, F)` counts.
        seconds: `(M, F)` over which each was counted; 0 where it was not.
        label: `(M,)` 0 or 1.
        train: Indices.
        val: Likewise.
    """
    # A feature that is silent in training tells nothing.
    fires = spikes[train].sum(axis=0) > 0
    spikes, seconds = spikes[:, fires].astype(float), seconds[:, fires]
    prior = np.log(label[train].sum() + 0.5) - np.log((1 - label[train]).sum() + 0.5)
    count = np.stack([spikes[train][label[train] == c].sum(axis=0) for c in (0, 1)])
    time = np.stack([seconds[train][label[train] == c].sum(axis=0) for c in (0, 1)])
    mean = count.sum(axis=0) / time.sum(axis=0)
    fits = []
    for added in PRIOR_SECONDS:
        rate = (count + added * mean) / (time + added)
        ratio = spikes @ (np.log(rate[1]) - np.log(rate[0])) - (seconds * (rate[1] - rate[0])).sum(axis=1)
        fits += [prior + temperature * ratio for temperature in TEMPERATURES]
    return _least(np.stack(fits), [log_loss(logit[val], label[val]) for logit in fits])


def factor_scores(roots: np.ndarray, train: np.ndarray) -> Iterator[np.ndarray]:
    """Posterior means of the factors of factor analysis, `(R, d)`, for every d of `FACTORS` that the units allow.

    Factor analysis depends on the data through their mean and covariance alone. It is therefore given the 2 U rows
    mean ± sqrt(U) L, with L L' the covariance, instead of thousands: the same maximum, found in a fraction of the time.

    Args:
        roots: `(R, U)` square roots of counts, which have the same noise at any rate (Yu et al. 2009).
        train: `(R,)` bool.
    """
    mean, varies = roots[train].mean(axis=0), np.flatnonzero(roots[train].std(axis=0) > 1e-9)
    if not len(varies):
        yield np.zeros((len(roots), 1))
        return
    centered = roots[:, varies] - mean[varies]
    covariance = centered[train].T @ centered[train] / max(int(train.sum()), 1)
    values, vectors = np.linalg.eigh(covariance)
    half = (vectors * np.sqrt(np.maximum(values, 0) * len(values))).T
    for number in FACTORS:
        # More factors than half the units are not determined by a covariance.
        if 2 * number <= max(len(varies), 2):
            model = FactorAnalysis(number, svd_method="lapack", tol=1e-3, max_iter=300)
            yield model.fit(np.concatenate([half, -half])).transform(centered)


def _least(values: np.ndarray, losses: list[float]) -> ScalarFit:
    best = int(np.argmin(losses))
    return ScalarFit(values[best], losses[best])
