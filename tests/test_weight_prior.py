"""The prior over regression weights: fits against scipy, recovery of a known prior, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from foundation.weight_prior import WeightPrior, fit_weights, learned_prior, session_prior

F = 4
CENTER = np.array([0.4, -0.2, 0.0, 0.1])
COVARIANCE = np.array([[0.3, 0.2, 0.0, 0.0], [0.2, 0.3, 0.0, 0.0], [0.0, 0.0, 0.05, 0.0], [0.0, 0.0, 0.0, 0.01]])


def flat(std: float) -> WeightPrior:
    return WeightPrior(np.zeros(F), np.ones(F), np.zeros(F), std * np.eye(F))


def simulate(rng: np.random.Generator, rows: int, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features `(R, F)`, counts `(R, N)` and true weights `(F, N)` of units drawn from the known prior."""
    weights = rng.multivariate_normal(CENTER, COVARIANCE, units).T
    features = rng.normal(size=(rows, F))
    return features, rng.poisson(np.exp(-0.5 + features @ weights)).astype(float), weights


def test_weights_are_the_most_probable_ones() -> None:
    rng = np.random.default_rng(0)
    raw, counts, _ = simulate(rng, 120, 3)
    mean, scale = rng.normal(size=F), rng.uniform(0.5, 2, F)
    features = raw * scale + mean
    prior = WeightPrior(mean, scale, np.zeros(F), np.eye(F)).with_moments(CENTER, COVARIANCE)
    found = fit_weights(prior, features, counts, strength=2.5)
    inverse = np.linalg.inv(prior.covariance)
    for unit in range(3):

        def loss(p: np.ndarray, unit: int = unit) -> float:
            rate = p[0] + raw @ p[1:]
            away = p[1:] - CENTER
            return float((np.exp(rate) - counts[:, unit] * rate).sum() + 1.25 * away @ inverse @ away)

        best = scipy.optimize.minimize(loss, np.zeros(F + 1), method="BFGS", options={"gtol": 1e-6})
        got = loss(np.concatenate([found.constant[[unit]], found.weights[:, unit]]))
        assert got <= best.fun + 1e-4 * (1 + counts[:, unit].sum())


def test_rounds_recover_the_prior_of_many_units() -> None:
    rng = np.random.default_rng(1)
    sessions = [simulate(rng, 300, 50)[:2] for _ in range(12)]
    prior = flat(0.3)
    for _ in range(12):
        prior = learned_prior(prior, [fit_weights(prior, x, y) for x, y in sessions])
    np.testing.assert_allclose(prior.center, CENTER, atol=0.06)
    assert np.linalg.norm(prior.covariance - COVARIANCE) < 0.2 * np.linalg.norm(COVARIANCE)


def test_the_learned_prior_helps_where_trials_are_few() -> None:
    rng = np.random.default_rng(2)
    prior = flat(0.3)
    sessions = [simulate(rng, 300, 50)[:2] for _ in range(6)]
    for _ in range(4):
        prior = learned_prior(prior, [fit_weights(prior, x, y) for x, y in sessions])
    features, counts, true = simulate(rng, 12, 200)
    errors = [np.mean((fit_weights(p, features, counts).weights - true) ** 2) for p in (flat(0.3), prior)]
    assert errors[1] < 0.7 * errors[0]


def test_a_session_moves_the_prior_by_its_share_of_units() -> None:
    rng = np.random.default_rng(3)
    prior = flat(0.3).with_moments(CENTER, COVARIANCE)
    posterior = fit_weights(prior, *simulate(rng, 200, 40)[:2])
    np.testing.assert_allclose(session_prior(prior, posterior, 1e9).covariance, prior.covariance, atol=1e-6)
    away = posterior.weights - prior.center[:, None]
    alone = (away @ away.T + posterior.covariance) / 40
    np.testing.assert_allclose(session_prior(prior, posterior, 0.0).covariance, alone, atol=1e-5)
    half = session_prior(prior, posterior, 40.0).covariance
    np.testing.assert_allclose(half, (prior.covariance + alone) / 2, atol=1e-5)


def test_a_left_out_feature_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    features, counts, _ = simulate(rng, 100, 2)
    one = fit_weights(WeightPrior(np.zeros(F), np.array([1, 1, 1, np.inf]), np.zeros(F), np.eye(F)), features, counts)
    other = features.copy()
    other[:, 3] = 7.0
    two = fit_weights(WeightPrior(np.zeros(F), np.array([1, 1, 1, np.inf]), np.zeros(F), np.eye(F)), other, counts)
    assert np.array_equal(one.weights, two.weights)
    assert np.all(one.weights[3] == pytest.approx(0.0))
