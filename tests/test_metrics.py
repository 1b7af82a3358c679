"""The metrics, calibration and condition means against scikit-learn, definitions of others and naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import calibration as sk_calibration
from sklearn import metrics as sk

from eval import metrics
from eval.calibration import calibration_curve, error_of
from eval.psth import Cells, psth_r2_of_units
from eval.region_scores import macro_f1_of_draws


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
    many = macro_f1_of_draws(truth[None], predicted[None], np.arange(3), 5)
    assert many[0] == pytest.approx(metrics.macro_f1(truth, predicted), rel=1e-12)
    for metric in (metrics.macro_f1, metrics.class_balanced_accuracy):
        with pytest.raises(ValueError, match="one label each"):
            metric(truth, predicted[1:])


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
    # The mean of equal numbers is off by rounding here, and must not make a score of -1e30 or so.
    with pytest.raises(ValueError, match="constant"):
        metrics.r2(np.full(3, 0.1), np.zeros(3))


def test_nlb_bits_per_spike_as_published() -> None:
    """Pei et al. 2021, eq. 2 and 3, entry by entry, of (trials, bins, neurons); the null is what is scored."""
    rng = np.random.default_rng(5)
    rates = rng.gamma(2, 0.1, (6, 9, 3))
    spikes = rng.poisson(rates)
    rates[0, 0, 0] = 0
    ll = {"model": 0.0, "null": 0.0}
    for n in range(3):
        mean = sum(int(spikes[k, t, n]) for k in range(6) for t in range(9)) / 54
        for k in range(6):
            for t in range(9):
                y = int(spikes[k, t, n])
                for name, rate in (("model", rates[k, t, n] or 1e-9), ("null", mean)):
                    ll[name] += math.log(math.exp(-rate) * rate**y / math.factorial(y))
    co_bps = (ll["model"] - ll["null"]) / (math.log(2) * int(spikes.sum()))
    rate, counts = rates.reshape(54, 3), spikes.reshape(54, 3)
    assert metrics.pooled_bits_per_spike(rate, counts, counts.mean(axis=0)) == pytest.approx(co_bps, rel=1e-9)


def test_r2_over_columns_equals_scikit_learn() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(size=(80, 5)) * [1, 10, 0.1, 3, 1]
    value = truth * rng.uniform(0, 1.5, 5) + rng.normal(size=(80, 5))
    np.testing.assert_allclose(
        metrics.r2_of_columns(truth, value), sk.r2_score(truth, value, multioutput="raw_values"), rtol=1e-12
    )
    assert metrics.r2_uniform(truth, value) == pytest.approx(sk.r2_score(truth, value))
    weighted = sk.r2_score(truth, value, multioutput="variance_weighted")
    assert metrics.r2_variance_weighted(truth, value) == pytest.approx(weighted)
    assert metrics.r2(truth, value) == pytest.approx(sk.r2_score(truth.ravel(), value.ravel()))
    squared = [np.corrcoef(t, v)[0, 1] ** 2 for t, v in zip(truth.T, value.T)]
    assert metrics.r_squared_uniform(truth, value) == pytest.approx(np.mean(squared))
    assert metrics.r_squared_uniform(truth, value) >= metrics.r2_uniform(truth, value)
    # Scale, offset and sign are forgiven by the one and punished by the other.
    assert metrics.r_squared_uniform(truth, 3 - 2 * truth) == pytest.approx(1)
    assert metrics.r2_uniform(truth, 3 - 2 * truth) < -3


def test_constant_columns_are_in_no_mean_over_columns() -> None:
    rng = np.random.default_rng(7)
    truth = np.column_stack([rng.normal(size=50), np.full(50, 0.1)])
    value = rng.normal(size=(50, 2))
    assert np.isnan(metrics.r2_of_columns(truth, value)[1])
    first = sk.r2_score(truth[:, 0], value[:, 0])
    assert metrics.r2_uniform(truth, value) == pytest.approx(first)
    assert metrics.r2_variance_weighted(truth, value) == pytest.approx(first)
    # Theirs takes 0.1, whose mean is off by rounding, for a column that varies; 0.5 it knows to be constant.
    exact = np.column_stack([truth[:, 0], np.full(50, 0.5)])
    weighted = sk.r2_score(exact, value, multioutput="variance_weighted")
    assert metrics.r2_variance_weighted(exact, value) == pytest.approx(weighted) == pytest.approx(first)
    assert metrics.r_squared_uniform(truth, value) == pytest.approx(metrics.r_squared(truth[:, 0], value[:, 0]))
    for metric in (metrics.r2_uniform, metrics.r2_variance_weighted, metrics.r_squared_uniform):
        with pytest.raises(ValueError, match="constant in every column"):
            metric(truth[:, 1:], value[:, 1:])
        with pytest.raises(ValueError, match=r"expected \(rows, columns\)"):
            metric(truth[:, 0], value[:, 0])


def test_calibration_equals_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    label = (rng.random(500) < 0.4).astype(int)
    logit = np.append(rng.normal(size=497) * 2 + label[:497], [0.0, -1e3, 1e3])
    probability = 1 / (1 + np.exp(-np.clip(logit, -500, 500)))
    curve = calibration_curve(label, logit)
    observed, predicted = sk_calibration.calibration_curve(label, probability, n_bins=10)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted, atol=1e-12)
    assert curve.number.sum() == 500
    # Entry by entry, from the definition.
    error = 0.0
    for k in range(10):
        inside = [i for i in range(500) if (k / 10 < probability[i] or k == 0) and probability[i] <= (k + 1) / 10]
        if inside:
            error += abs(sum(label[inside]) - sum(probability[inside])) / 500
    assert error_of(calibration_curve(label, logit)) == pytest.approx(error)


def test_calibration_error_is_small_for_true_probabilities_and_large_for_overconfident_ones() -> None:
    rng = np.random.default_rng(9)
    logit = rng.normal(size=50_000) * 1.5
    label = (rng.random(50_000) < 1 / (1 + np.exp(-logit))).astype(int)
    assert error_of(calibration_curve(label, logit)) < 0.01
    assert error_of(calibration_curve(label, 4 * logit)) > 0.1
    always = error_of(calibration_curve(np.zeros(10), np.full(10, 40.0), num_bins=1))
    assert always == pytest.approx(1)


def _trials_of_many_lengths(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Condition (one trial in six has none), bin and trial of the rows of 30 trials of 3 to 12 bins, shuffled."""
    length = rng.integers(3, 13, 30)
    trial = np.repeat(np.arange(30), length)
    bin = np.concatenate([np.arange(n) for n in length])
    order = rng.permutation(len(trial))
    return rng.integers(-1, 5, 30)[trial][order], bin[order], trial[order]


@pytest.mark.parametrize("min_trials", [1, 4])
def test_psth_r2_equals_a_naive_loop_over_trials_of_many_lengths(min_trials: int) -> None:
    rng = np.random.default_rng(10)
    condition, bin, _ = _trials_of_many_lengths(rng)
    rate = rng.gamma(2, 0.2, (len(bin), 3))
    counts = rng.poisson(rate)
    truth, value = [], []
    for c in range(5):
        for b in range(12):
            rows = [r for r in range(len(bin)) if condition[r] == c and bin[r] == b]
            if len(rows) >= min_trials:
                truth.append([sum(counts[r, u] for r in rows) / len(rows) for u in range(3)])
                value.append([sum(rate[r, u] for r in rows) / len(rows) for u in range(3)])
    got = psth_r2_of_units(rate, counts, Cells.of(condition, bin, min_trials))
    np.testing.assert_allclose(got, sk.r2_score(truth, value, multioutput="raw_values"), rtol=1e-10)


def test_psth_r2_is_that_of_nlb_on_trials_of_one_length() -> None:
    """`eval_psth` of nlb_tools as published: predictions averaged per condition, stacked, R2 averaged over neurons."""
    rng = np.random.default_rng(11)
    condition = np.repeat([0, 1, 2], [5, 7, 4])
    rates, spikes = rng.gamma(2, 0.2, (16, 8, 3)), rng.poisson(0.4, (16, 8, 3))
    psth = [spikes[condition == c].mean(axis=0) for c in range(3)]
    theirs = sk.r2_score(np.vstack(psth), np.vstack([rates[condition == c].mean(axis=0) for c in range(3)]))
    cells = Cells.of(np.repeat(condition, 8), np.tile(np.arange(8), 16))
    assert len(cells.size) == 24
    ours = psth_r2_of_units(rates.reshape(-1, 3), spikes.reshape(-1, 3), cells)
    assert ours.mean() == pytest.approx(theirs)


def test_no_cell_no_psth_r2() -> None:
    cells = Cells.of(np.full(10, -1), np.arange(10))
    assert cells.means(np.ones((10, 2))).shape == (0, 2)
    with pytest.raises(ValueError, match="no condition has enough trials"):
        psth_r2_of_units(np.ones((10, 2)), np.ones((10, 2)), cells)
