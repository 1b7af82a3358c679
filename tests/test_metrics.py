"""The metrics against scikit-learn and naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from eval import metrics


@pytest.fixture
def spikes() -> tuple[np.ndarray, np.ndarray]:
    """Rates and counts `(300, 4)`, one count of 0 and one rate below the floor among them."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(2, 0.1, (300, 4))
    counts = rng.poisson(rate).astype(float)
    rate[0, 0], counts[0, 0] = 0.0, 0.0
    return rate, counts


def test_bits_per_spike_equals_a_naive_loop(spikes: tuple[np.ndarray, np.ndarray]) -> None:
    rate, counts = spikes
    null = np.array([0.2, 0.1, 0.3, 0.25])
    each, pooled, total = [], 0.0, 0.0
    for u in range(4):
        gain = 0.0
        for r in range(len(rate)):
            for sign, value in ((1, max(rate[r, u], 1e-9)), (-1, null[u])):
                y = counts[r, u]
                gain += sign * (y * math.log(value) - value - math.lgamma(y + 1))
        each.append(gain / (counts[:, u].sum() * math.log(2)))
        pooled, total = pooled + gain, total + counts[:, u].sum()
    np.testing.assert_allclose(metrics.bits_per_spike(rate, counts, null), each, rtol=1e-10)
    assert metrics.pooled_bits_per_spike(rate, counts, null) == pytest.approx(pooled / (total * math.log(2)))
    assert metrics.pooled_bits_per_spike(np.tile(null, (300, 1)), counts, null) == pytest.approx(0, abs=1e-15)


def test_d2_equals_scikit_learn(spikes: tuple[np.ndarray, np.ndarray]) -> None:
    rate, counts = np.maximum(spikes[0], 1e-9), spikes[1]
    mean = counts.mean(axis=0)
    units = metrics.d2_of_units(rate, counts, mean)
    for u in range(4):
        theirs = sk.d2_tweedie_score(counts[:, u], rate[:, u], power=1)
        assert units[u] == pytest.approx(theirs)
        assert metrics.d2(rate[:, [u]], counts[:, [u]], mean[[u]]) == pytest.approx(theirs)
    deviance = [sk.mean_poisson_deviance(counts[:, u], rate[:, u]) for u in range(4)]
    null = [sk.mean_poisson_deviance(counts[:, u], np.full(300, mean[u])) for u in range(4)]
    assert metrics.d2(rate, counts, mean) == pytest.approx(1 - sum(deviance) / sum(null))


def test_silent_units_score_nan_and_are_not_scored(spikes: tuple[np.ndarray, np.ndarray]) -> None:
    rate, counts = spikes
    counts[:, 1] = 0
    assert np.isnan(metrics.bits_per_spike(rate, counts, np.full(4, 0.1)))[1]
    assert np.isfinite(metrics.bits_per_spike(rate, counts, np.full(4, 0.1)))[[0, 2, 3]].all()
    np.testing.assert_array_equal(
        metrics.scored_units(np.array([50, 49, 1000, 50]), np.array([10, 100, 9, 11])), [True, False, False, True]
    )


@pytest.mark.parametrize(("bad", "message"), [(np.nan, "non-finite"), (np.inf, "non-finite"), (-0.1, "log-rates")])
def test_a_bad_rate_is_an_error(spikes: tuple[np.ndarray, np.ndarray], bad: float, message: str) -> None:
    rate, counts = spikes
    rate[5, 2] = bad
    with pytest.raises(ValueError, match=message):
        metrics.pooled_bits_per_spike(rate, counts, np.full(4, 0.1))


def test_decoding_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        label = (rng.random(60) < 0.3).astype(int)
        # Rounded, so that there are ties, and zeros, which are called class 0.
        logit = np.round(rng.normal(size=60) + label, 1)
        assert metrics.auc(label, logit) == pytest.approx(sk.roc_auc_score(label, logit))
        assert metrics.balanced_accuracy(label, logit) == pytest.approx(
            sk.balanced_accuracy_score(label, (logit > 0).astype(int))
        )
        assert metrics.cross_entropy_bits(label, logit) == pytest.approx(
            sk.log_loss(label, 1 / (1 + np.exp(-logit))) / np.log(2)
        )
        truth, value = rng.normal(size=60), rng.normal(size=60)
        assert metrics.r2(truth, value) == pytest.approx(sk.r2_score(truth, value))
        assert metrics.r_squared(truth, value) == pytest.approx(np.corrcoef(truth, value)[0, 1] ** 2)


def test_extreme_logits_do_not_overflow_and_one_class_has_no_auc() -> None:
    assert metrics.cross_entropy_bits(np.array([1, 0]), np.array([-1e4, -1e4])) == pytest.approx(5e3 / np.log(2))
    assert np.isnan(metrics.auc(np.ones(3), np.arange(3)))
    assert metrics.balanced_accuracy(np.ones(2), np.array([1.0, -1.0])) == 0.5


def test_macro_f1_leaves_out_classes_absent_from_the_truth() -> None:
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(0, 3, 80), rng.integers(0, 5, 80)
    assert metrics.macro_f1(truth, predicted) == pytest.approx(
        sk.f1_score(truth, predicted, labels=[0, 1, 2], average="macro")
    )
    names = np.array(["a", "b", "c", "d", "e"])
    assert metrics.macro_f1(names[truth], names[predicted]) == metrics.macro_f1(truth, predicted)
    with pytest.warns(UserWarning, match="not in y_true"):
        theirs = sk.balanced_accuracy_score(truth, predicted)
    assert metrics.class_balanced_accuracy(truth, predicted) == pytest.approx(theirs)


def test_partial_r2_equals_the_gain_of_a_regression() -> None:
    rng = np.random.default_rng(3)
    beyond = rng.normal(size=(200, 3))
    value = beyond @ [1.0, 2.0, 0.0] + rng.normal(size=200)
    truth = beyond @ [1.0, -1.0, 0.5] + 0.7 * value + rng.normal(size=200)

    def sse(*columns: np.ndarray) -> float:
        x = np.column_stack([np.ones(200), *columns])
        return float(((truth - x @ np.linalg.lstsq(x, truth, rcond=None)[0]) ** 2).sum())

    expected = 1 - sse(beyond, value) / sse(beyond)
    assert metrics.partial_r2(truth, value, beyond) == pytest.approx(expected)
    assert metrics.partial_r2(truth, beyond @ [1.0, 1.0, 1.0], beyond) == 0.0


@pytest.mark.parametrize("metric", [metrics.r2, metrics.r_squared, metrics.auc, metrics.balanced_accuracy])
def test_missing_values_and_shapes_are_errors(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="non-finite"):
        metric(np.array([0.0, 1.0]), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="same shape"):
        metric(np.array([0.0, 1.0]), np.array([0.0]))


def test_constant_truth_and_labels_other_than_0_and_1_are_errors() -> None:
    with pytest.raises(ValueError, match="constant"):
        metrics.r2(np.ones(4), np.arange(4))
    with pytest.raises(ValueError, match="expected 0 and 1"):
        metrics.auc(np.array([0, 2]), np.array([0.0, 1.0]))
