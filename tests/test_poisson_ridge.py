"""The Poisson ridge against scikit-learn, SciPy's optimizer, its own optimality condition, and bad inputs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import PoissonRegressor

from foundation.poisson_newton import SharedCurvature
from foundation.poisson_ridge import choose_penalty, fit_poisson_ridge, log_rate


def _data(
    rows: int = 800, features: int = 6, units: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.concatenate([np.ones((rows, 1)), rng.normal(size=(rows, features - 1))], axis=1)
    w = 0.4 * rng.normal(size=(features, units))
    w[0] = rng.uniform(-3, 0, units)
    return x, rng.poisson(np.exp(x @ w)).astype(float), np.arange(features) > 0


def test_equals_scikit_learn() -> None:
    x, y, penalized = _data()
    penalty = np.array([0.5, 3.0, 20.0, 200.0])
    ours = fit_poisson_ridge(x, y, penalty, penalized=penalized)
    for u in range(y.shape[1]):
        # Their objective is the mean half deviance plus alpha / 2 ||w||^2.
        theirs = PoissonRegressor(alpha=penalty[u] / len(x), tol=1e-10, max_iter=1000).fit(x[:, 1:], y[:, u])
        np.testing.assert_allclose(ours[1:, u], theirs.coef_, atol=2e-5)
        np.testing.assert_allclose(ours[0, u], theirs.intercept_, atol=2e-5)


def test_gradient_vanishes_with_offset_center_and_free_columns() -> None:
    x, y, penalized = _data(seed=1)
    rng = np.random.default_rng(2)
    offset, center = 0.3 * rng.normal(size=y.shape), 0.2 * rng.normal(size=(x.shape[1], y.shape[1]))
    w = fit_poisson_ridge(x, y, 7.0, offset=offset, center=center, penalized=penalized, tolerance=1e-14)
    gradient = x.T @ (np.exp(x @ w + offset) - y) + 7.0 * penalized[:, None] * (w - center)
    assert np.abs(gradient).max() < 1e-4


def test_equals_a_general_optimizer() -> None:
    x, y, _ = _data(rows=200, units=1, seed=3)

    def loss(w: np.ndarray) -> float:
        return float(np.sum(np.exp(x @ w) - y[:, 0] * (x @ w)) + 0.5 * 4.0 * w @ w)

    found = scipy.optimize.minimize(loss, np.zeros(x.shape[1]), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(fit_poisson_ridge(x, y, 4.0)[:, 0], found.x, atol=1e-5)


def test_shared_curvature_finds_the_same_minimum_in_few_steps() -> None:
    # Sizes that fall over three decades, an offset of each unit's own, and rates far from the profile.
    rng = np.random.default_rng(5)
    x, _, penalized = _data(rows=1500, features=60, seed=5)
    x[:, 1:] = x[:, 1:] @ rng.normal(size=(59, 59)) * np.geomspace(3, 3e-3, 59)
    offset = rng.normal(size=(1500, 5)) - 1
    y = rng.poisson(np.exp(np.minimum(offset + x @ (0.1 * rng.normal(size=(60, 5))), 4))).astype(float)
    curvature = SharedCurvature.of(x, np.exp(offset).sum(axis=1), penalized)
    exact = fit_poisson_ridge(x, y, 1.0, offset=offset, penalized=penalized, tolerance=1e-12)
    found = fit_poisson_ridge(
        x, y, 1.0, offset=offset, penalized=penalized, tolerance=1e-8, curvature=curvature, max_steps=60
    )

    def loss(w: np.ndarray) -> np.ndarray:
        return (np.exp(x @ w + offset) - y * (x @ w + offset)).sum(axis=0) + 0.5 * (w[1:] ** 2).sum(axis=0)

    np.testing.assert_allclose(loss(found), loss(exact), rtol=1e-6)


def test_start_does_not_matter_and_a_strong_penalty_gives_the_center() -> None:
    x, y, penalized = _data(seed=4)
    far = np.random.default_rng(0).normal(size=(x.shape[1], y.shape[1])) * 3
    np.testing.assert_allclose(
        fit_poisson_ridge(x, y, 2.0, penalized=penalized, init=far),
        fit_poisson_ridge(x, y, 2.0, penalized=penalized),
        atol=1e-4,
    )
    center = np.full((x.shape[1], y.shape[1]), 0.1)
    strong = fit_poisson_ridge(x, y, 1e12, center=center, penalized=penalized)
    np.testing.assert_allclose(strong[1:], 0.1, atol=1e-6)
    # With the rest fixed, the free intercept makes the expected number of spikes right.
    np.testing.assert_allclose(np.exp(x @ strong).sum(axis=0), y.sum(axis=0), rtol=1e-4)


def test_silent_units_separable_columns_and_collinear_features_stay_finite() -> None:
    x, y, penalized = _data(seed=5)
    y[:, 0] = 0
    y[:, 1] = 50.0 * (x[:, 1] > 2)
    x = np.concatenate([x, x[:, 1:2], np.zeros((len(x), 1)), 1e4 * x[:, 2:3]], axis=1)
    penalized = np.append(penalized, [True, True, True])
    for penalty in (0.0, 1.0):
        w = fit_poisson_ridge(x, y, penalty, penalized=penalized)
        assert np.isfinite(w).all()
        assert np.isfinite(np.exp(log_rate(x, w))).all()
        assert np.exp(log_rate(x, w))[:, 0].sum() < 0.01


def test_choose_penalty_keeps_the_best_on_validation() -> None:
    x, y, penalized = _data(rows=600, features=20, units=5, seed=6)
    train, val = slice(0, 200), slice(200, None)
    grid = [100.0, 0.01, 10.0, 1.0]
    chosen = choose_penalty(x[train], y[train], x[val], y[val], grid, penalized=penalized, tolerance=1e-12)
    losses = np.empty((len(grid), y.shape[1]))
    for i, penalty in enumerate(grid):
        eta = x[val] @ fit_poisson_ridge(x[train], y[train], penalty, penalized=penalized, tolerance=1e-13)
        losses[i] = (np.exp(eta) - y[val] * eta).sum(axis=0)
    np.testing.assert_allclose(chosen.validation_loss, losses, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(chosen.penalty, np.array(grid)[losses.argmin(axis=0)])
    refit = fit_poisson_ridge(x[train], y[train], chosen.penalty, penalized=penalized)
    np.testing.assert_allclose(chosen.weights, refit, atol=1e-4)
    shared = choose_penalty(x[train], y[train], x[val], y[val], grid, penalized=penalized, per_unit=False)
    assert set(shared.penalty) == {grid[int(losses.sum(axis=1).argmin())]}


def test_one_penalty_for_all_stops_past_the_valley_and_misses_nothing() -> None:
    x, y, penalized = _data(rows=120, seed=3)
    train, val = slice(0, 60), slice(60, 120)
    grid = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0]
    shared = choose_penalty(x[train], y[train], x[val], y[val], grid, penalized=penalized, per_unit=False)
    every = choose_penalty(x[train], y[train], x[val], y[val], grid, penalized=penalized, per_unit=True)
    tried = np.isfinite(shared.validation_loss).all(axis=1)
    best = int(every.validation_loss.sum(axis=1).argmin())
    assert set(shared.penalty) == {grid[best]}
    assert tried.tolist() == [k >= best - 2 for k in range(len(grid))]
    assert best > 2
    np.testing.assert_allclose(shared.validation_loss[tried], every.validation_loss[tried], rtol=1e-6)


def test_offset_enters_train_and_validation() -> None:
    x, y, penalized = _data(rows=300, seed=7)
    offset = np.full(y.shape, 0.7)
    plain = choose_penalty(x[:200], y[:200], x[200:], y[200:], [1.0], penalized=penalized, tolerance=1e-12)
    moved = choose_penalty(
        x[:200],
        y[:200],
        x[200:],
        y[200:],
        [1.0],
        penalized=penalized,
        offset=offset[:200],
        validation_offset=offset[200:],
        tolerance=1e-12,
    )
    np.testing.assert_allclose(moved.weights[0] + 0.7, plain.weights[0], atol=1e-4)
    np.testing.assert_allclose(moved.validation_loss, plain.validation_loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((3, 2))}, "same R"),
        ({"counts": np.full((4, 2), -1.0)}, ">= 0"),
        ({"counts": np.full((4, 2), np.nan)}, "non-finite"),
        ({"features": np.full((4, 2), np.inf)}, "non-finite"),
        ({"penalty": -1.0}, "penalty"),
        ({"offset": np.zeros((4, 3))}, "offset has shape"),
        ({"center": np.zeros((3, 2))}, "center has shape"),
        ({"penalized": np.ones(3, bool)}, "penalized has shape"),
        ({"init": np.ones((3, 3))}, "init has shape"),
    ],
)
def test_bad_input_is_named(change: dict[str, np.ndarray], message: str) -> None:
    arguments = {"features": np.ones((4, 2)), "counts": np.ones((4, 2)), "penalty": 1.0} | change
    with pytest.raises(ValueError, match=message):
        fit_poisson_ridge(**arguments)


def test_choose_penalty_rejects_an_empty_grid_and_half_an_offset() -> None:
    x, y = np.ones((4, 1)), np.ones((4, 1))
    with pytest.raises(ValueError, match="empty"):
        choose_penalty(x, y, x, y, [])
    with pytest.raises(ValueError, match="one of the two"):
        choose_penalty(x, y, x, y, [1.0], offset=y)
