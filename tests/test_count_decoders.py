"""Naive Bayes, neighbors and factors: against scikit-learn, and on the distributions that they are right for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import FactorAnalysis
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from eval.count_decoders import (
    FACTORS,
    NEIGHBORS,
    factor_scores,
    nearest_label,
    nearest_value,
    neighbor_means,
    poisson_naive_bayes,
)
from eval.linear_fits import log_loss, logistic


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), num=st.integers(4, 60))
def test_neighbors_are_those_of_scikit_learn(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(num + 20, 3)), rng.normal(size=num + 20)
    train, val = np.arange(num), np.arange(num, num + 20)
    sizes, means = neighbor_means(x, y, train)
    assert list(sizes) == [k for k in NEIGHBORS if k <= num]
    losses = []
    for k, mean in zip(sizes, means):
        theirs = KNeighborsRegressor(int(k), algorithm="brute").fit(x[train], y[train]).predict(x)
        np.testing.assert_allclose(mean, theirs, atol=1e-12)
        losses.append(np.mean((theirs[val] - y[val]) ** 2))
    assert nearest_value(x, y, train, val).validation_loss == pytest.approx(min(losses))
    label = (y > 0).astype(np.int64)
    label[:2] = 0, 1
    fit = nearest_label(x, label, train, val)
    signs = [KNeighborsClassifier(int(k)).fit(x[train], label[train]).predict_proba(x)[:, 1] for k in sizes]
    prior = (label[train].sum() + 0.5) / (num + 1)
    odds = [np.log((k * p + prior) / (k * (1 - p) + 1 - prior)) for k, p in zip(sizes, signs)]
    best = min(odds, key=lambda o: log_loss(o[val], label[val]))
    np.testing.assert_allclose(fit.value, best, atol=1e-9)


def test_naive_bayes_is_the_posterior_of_poisson_counts() -> None:
    """With many trials and independent units it is the true posterior, which no classifier can beat."""
    rng = np.random.default_rng(0)
    label, seconds = rng.integers(0, 2, 4000), rng.uniform(0.2, 1.0, (4000, 1)) * np.ones(6)
    rate = np.array([[3.0, 8, 1, 20, 5, 0], [5.0, 6, 2, 18, 5, 0]])
    spikes = rng.poisson(rate[label] * seconds)
    train, val, test = np.arange(2000), np.arange(2000, 3000), np.arange(3000, 4000)
    fit = poisson_naive_bayes(spikes, seconds, label, train, val)
    # The last feature never fires, in either class.
    parts = [scipy.stats.poisson.logpmf(spikes[:, :5], r[:5] * seconds[:, :5]).sum(axis=1) for r in rate]
    truth = parts[1] - parts[0]
    assert np.corrcoef(fit.value, truth)[0, 1] > 0.99
    assert log_loss(fit.value[test], label[test]) < log_loss(truth[test], label[test]) + 0.01
    few = np.arange(12)
    small = poisson_naive_bayes(spikes, seconds, label, few, val)
    linear = logistic(np.sqrt(spikes / seconds), label, few, val)
    assert log_loss(small.value[test], label[test]) < log_loss(linear.value[test], label[test])


def test_naive_bayes_stands_silent_and_absent_features() -> None:
    spikes, seconds = np.zeros((8, 2)), np.ones((8, 2))
    seconds[:, 1] = 0
    label = np.array([0, 0, 1, 1, 1, 0, 1, 1])
    fit = poisson_naive_bayes(spikes, seconds, label, np.arange(5), np.arange(5, 8))
    np.testing.assert_allclose(fit.value, np.log(3.5 / 2.5))


def test_factors_are_those_of_all_rows() -> None:
    """The factors that come from the covariance alone span what those of scikit-learn on all rows do."""
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(3000, 10)) * rng.uniform(0.3, 1, 10)
    roots = rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 10)) + noise + 2
    roots = np.concatenate([roots, np.full((3000, 1), 0.7)], axis=1)
    train = np.arange(3000) < 2000
    found = list(factor_scores(roots, train))
    assert [f.shape for f in found] == [(3000, d) for d in FACTORS if 2 * d <= 10]
    model = FactorAnalysis(3, svd_method="lapack", tol=1e-6, max_iter=2000).fit(roots[train][:, :10])
    theirs, ours = model.transform(roots[:, :10]), found[1]
    weights = np.linalg.lstsq(ours, theirs, rcond=None)[0]
    np.testing.assert_allclose(weights @ weights.T, np.eye(3), atol=0.01)
    np.testing.assert_allclose(ours @ weights, theirs, atol=0.05)
    # Other rows than the train rows change nothing.
    roots[~train] = 5
    np.testing.assert_array_equal(list(factor_scores(roots, train))[1][train], ours[train])
    # One unit, and none that fires, have a factor, too.
    assert next(factor_scores(roots[:, :1], train)).shape == (3000, 1)
    assert not next(factor_scores(roots[:, 10:], train)).any()
