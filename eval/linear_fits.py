"""L2 logistic regression and ridge regression, their penalty chosen on validation rows; no features, no spikes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special

# Inverse penalties of the logistic regression on standardized features, per feature.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RIDGE_PENALTIES = tuple(10.0**k for k in np.arange(0, 6.1, 0.5))


@dataclass(frozen=True)
class ScalarFit:
    """A logit or a value for each trial `(M,)` or row `(R,)` of a view, and the validation loss (lower is better)."""

    value: np.ndarray
    validation_loss: float


def fit_logistic(features: np.ndarray, label: np.ndarray, penalty: float) -> np.ndarray:
    """Weights `(F + 1,)`, the intercept last and free, of sum log loss + penalty / 2 · ||w||^2; by L-BFGS.

    Args:
        features: `(M, F)`.
        label: `(M,)` 0 or 1.
        penalty: > 0.
    """
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    ridge = np.full(x.shape[1], penalty)
    # Enough to keep the intercept finite when only one class occurs.
    ridge[-1] = 1e-3
    sign = 2.0 * label - 1

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        gradient = x.T @ (-sign * scipy.special.expit(-margin)) + ridge * w
        return float(np.logaddexp(0, -margin).sum() + 0.5 * (ridge * w * w).sum()), gradient

    found = scipy.optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x)


def log_loss(logit: np.ndarray, label: np.ndarray) -> float:
    """Mean log loss in nats."""
    return float(np.mean(np.logaddexp(0, np.where(label > 0, -logit, logit))))


def logistic(features: np.ndarray, label: np.ndarray, train: np.ndarray, val: np.ndarray) -> ScalarFit:
    """L2 logistic regression; the strength by validation log loss.

    Args:
        features: `(M, F)`, scaled.
        label: `(M,)` 0 or 1.
        train: `(M,)` bool or indices.
        val: The same.
    """
    scale = max(1, features.shape[1])
    fits = []
    for strength in STRENGTHS:
        w = fit_logistic(features[train], label[train], 1 / (strength * 30 / scale))
        logit = features @ w[:-1] + w[-1]
        fits.append(ScalarFit(logit, log_loss(logit[val], label[val])))
    return min(fits, key=lambda fit: fit.validation_loss)


def ridge(
    features: np.ndarray,
    target: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    penalties: tuple[float, ...] = RIDGE_PENALTIES,
) -> ScalarFit:
    """Ridge regression with a free intercept, penalty by validation squared error; exact for the whole grid at once.

    Args:
        features: `(R, F)`, scaled.
        target: `(R,)`.
        train: `(R,)` bool.
        val: The same.
        penalties: Grid.
    """
    center, mean = features[train].mean(axis=0), float(target[train].mean())
    x, y = features[train], target[train] - mean
    x -= center  # in place: with many units this is the largest array but one
    values, vectors = scipy.linalg.eigh(x.T @ x)
    rotated = vectors.T @ (x.T @ y)
    fits = []
    for penalty in penalties:
        w = vectors @ (rotated / (np.maximum(values, 0) + penalty))
        error = (features[val] - center) @ w + mean - target[val]
        fits.append((float(np.mean(error**2)), w))
    loss, w = min(fits, key=lambda fit: fit[0])
    del x
    return ScalarFit((features - center) @ w + mean, loss)
