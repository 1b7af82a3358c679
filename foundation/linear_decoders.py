"""Ridge and softmax regression along a path of penalties, on given features; no features, no choice among them."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special


def ridge_path(features: np.ndarray, target: np.ndarray, penalties: list[float]) -> np.ndarray:
    """Ridge weights `(P, F, W)` without intercept, exact, by one eigendecomposition of the smaller Gram matrix.

    Args:
        features: `(R, F)`, centered.
        target: `(R, W)`, centered.
        penalties: P values; the minimum is of ||y - x w||^2 + penalty ||w||^2.
    """
    wide = features.shape[0] < features.shape[1]
    values, vectors = scipy.linalg.eigh(features @ features.T if wide else features.T @ features, driver="evd")
    values = np.maximum(values, 0)
    rotated = vectors.T @ (target if wide else features.T @ target)
    found = [vectors @ (rotated / (values + penalty)[:, None]) for penalty in penalties]
    return np.stack([features.T @ w for w in found] if wide else found)


def softmax_path(
    features: np.ndarray, label: np.ndarray, num_classes: int, penalties: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression by L-BFGS, each penalty started from the one before.

    Args:
        features: `(R, F)`.
        label: `(R,)` classes from 0.
        num_classes: W; a class that no row has gets a low constant.
        penalties: P values, best from large to small; the minimum is of the summed log loss + penalty / 2 ||w||^2.

    Returns:
        Weights `(P, F, W)` and free constants `(P, W)`.
    """
    reduced, basis = features, None
    if features.shape[0] < features.shape[1]:
        # The minimum lies in the span of the rows, where the penalty is the same.
        left, size, basis = scipy.linalg.svd(features, full_matrices=False)
        reduced = left * size
    x = np.concatenate([reduced, np.ones((len(reduced), 1))], axis=1)
    hot = np.eye(num_classes)[label]
    shape = x.shape[1], num_classes
    w = np.zeros(shape)
    weights, constants = [], []
    for penalty in penalties:
        # A trace of a penalty keeps the constant finite when a class does not occur.
        ridge = np.append(np.full(x.shape[1] - 1, penalty), 1e-3)[:, None]

        def loss(flat: np.ndarray, ridge: np.ndarray = ridge) -> tuple[float, np.ndarray]:
            v = flat.reshape(shape)
            logits = x @ v
            norm = scipy.special.logsumexp(logits, axis=1)
            gradient = x.T @ (np.exp(logits - norm[:, None]) - hot) + ridge * v
            value = norm.sum() - logits[hot > 0].sum() + 0.5 * (ridge * v * v).sum()
            return float(value), gradient.ravel()

        options = {"maxiter": 300, "ftol": 1e-9}
        w = scipy.optimize.minimize(loss, w.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
        weights.append(w[:-1] if basis is None else basis.T @ w[:-1])
        constants.append(w[-1])
    return np.stack(weights), np.stack(constants)
