"""A Gaussian prior over the regression weights of units, learned from many units; NumPy only, builds no features.

Each unit u has weights w_u ~ N(m, S) on standardized features z, and fires as Poisson with log-rate c_u + w_u·z. The
maximum a posteriori weights are a convex problem (`foundation.poisson_ridge` on z S^1/2); m and S are the mean and the
spread of the units' posteriors, by expectation maximization with a Laplace approximation (empirical Bayes; Bishop 2006,
Pattern Recognition and Machine Learning, section 9.4). Units of a session then move the prior a little towards what
they have in common, which is a soft form of reduced-rank regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foundation.poisson_newton import SharedCurvature
from foundation.poisson_ridge import fit_poisson_ridge

# A fit ends when a step gains less than this share of a nat per spike: far below what a validation trial can tell.
TOLERANCE = 1e-5
# Directions of the prior keep at least this share of the largest variance.
_FLOOR = 1e-5


@dataclass(frozen=True)
class WeightPrior:
    """w ~ N(center, root root') on features (x - mean) / scale.

    Attributes:
        mean: `(F,)`.
        scale: `(F,)`; infinite for a feature that is left out.
        center: `(F,)`.
        root: `(F, F)`.
    """

    mean: np.ndarray
    scale: np.ndarray
    center: np.ndarray
    root: np.ndarray

    def standardize(self, features: np.ndarray) -> np.ndarray:
        """`(R, F)` features that weights multiply."""
        return (np.asarray(features, dtype=float) - self.mean) / self.scale

    @property
    def covariance(self) -> np.ndarray:
        """`(F, F)`."""
        return self.root @ self.root.T

    def with_moments(self, center: np.ndarray, covariance: np.ndarray) -> WeightPrior:
        """The same features under another mean and covariance of weights."""
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, _FLOOR * values.max())
        return WeightPrior(self.mean, self.scale, center, (vectors * np.sqrt(values)) @ vectors.T)


@dataclass(frozen=True)
class Posterior:
    """Weights of the N units of a session.

    Attributes:
        constant: `(N,)`.
        weights: `(F, N)` on standardized features.
        covariance: `(F, F)` sum over units of the covariance of their weights.
    """

    constant: np.ndarray
    weights: np.ndarray
    covariance: np.ndarray


def fit_weights(prior: WeightPrior, features: np.ndarray, counts: np.ndarray, strength: float = 1.0) -> Posterior:
    """Maximum a posteriori weights, with a free constant per unit.

    Args:
        prior: Over the weights.
        features: `(R, F)`, not standardized.
        counts: `(R, N)`.
        strength: Multiplies the prior's precision; above 1 to make up for bins that tell less than independent ones.
    """
    z = prior.standardize(features)
    design = np.concatenate([np.ones((len(z), 1)), z @ prior.root], axis=1)
    expected = z @ prior.center
    offset = np.repeat(expected[:, None], counts.shape[1], axis=1)
    penalized = np.arange(design.shape[1]) > 0
    curvature = SharedCurvature.of(design, np.exp(expected - expected.max()), penalized)
    found = fit_poisson_ridge(
        design, counts, strength, offset=offset, penalized=penalized, tolerance=TOLERANCE, curvature=curvature
    )
    # Every unit's Hessian is taken as its number of spikes times the shared one.
    variance = (1.0 / (curvature.values[:, None] * counts.sum(axis=0) + strength)).sum(axis=1)
    half = prior.root @ curvature.vectors[1:]
    return Posterior(found[0], prior.center[:, None] + prior.root @ found[1:], (half * variance) @ half.T)


def learned_prior(prior: WeightPrior, posteriors: Sequence[Posterior]) -> WeightPrior:
    """The M step: mean and covariance of the weights of all units of some sessions.

    Args:
        prior: That the posteriors were fitted under.
        posteriors: At least one unit in all.
    """
    weights = np.concatenate([posterior.weights for posterior in posteriors], axis=1)
    spread = np.sum([posterior.covariance for posterior in posteriors], axis=0)
    center = weights.mean(axis=1)
    away = weights - center[:, None]
    return prior.with_moments(center, (away @ away.T + spread) / weights.shape[1])


def session_prior(prior: WeightPrior, posterior: Posterior, pseudo_units: float) -> WeightPrior:
    """The prior after the units of one session, which `pseudo_units` units of the population outweigh."""
    away = posterior.weights - prior.center[:, None]
    total = pseudo_units * prior.covariance + away @ away.T + posterior.covariance
    return prior.with_moments(prior.center, total / (pseudo_units + away.shape[1]))
