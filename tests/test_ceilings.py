"""Ceilings against closed forms for known rates, enumerations of all halves and naive loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from eval import ceilings, metrics
from eval.ceilings import oracle_rates, psth_ceiling_of_units
from eval.psth import Cells, psth_r2_of_units

NUM_CONDITIONS, NUM_BINS = 4, 20


def _rates(rng: np.random.Generator, num_units: int, num_bins: int = NUM_BINS) -> np.ndarray:
    """True expected counts `(conditions, bins, units)`, from units that hardly change to strongly tuned ones."""
    strength = np.linspace(0.1, 0.9, num_units)
    return 0.2 * np.exp(strength * rng.standard_normal((NUM_CONDITIONS, num_bins, num_units)))


def _rows(num_trials: int, num_bins: int = NUM_BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Condition, bin and trial of the rows of `num_trials` trials of each condition, one behind another."""
    trial = np.repeat(np.arange(NUM_CONDITIONS * num_trials), num_bins)
    return trial % NUM_CONDITIONS, np.tile(np.arange(num_bins), NUM_CONDITIONS * num_trials), trial


@pytest.mark.parametrize("num_trials", [5, 20])
def test_psth_ceiling_is_the_closed_form_and_what_true_rates_reach(num_trials: int) -> None:
    """Poisson noise of a mean of n trials has variance rate / n, so the ceiling is var / (var + mean / n)."""
    rng = np.random.default_rng(0)
    rate = _rates(rng, 200, num_bins=100)
    condition, bin, trial = _rows(num_trials, num_bins=100)
    predicted = rate[condition, bin]
    counts = rng.poisson(predicted)
    ceiling = psth_ceiling_of_units(counts, condition, bin, trial, rng=rng, num_splits=10)
    flat = rate.reshape(-1, 200)
    noise = flat.mean(axis=0) / num_trials * (1 - 1 / len(flat))
    closed = flat.var(axis=0) / (flat.var(axis=0) + noise)
    reached = psth_r2_of_units(predicted, counts, Cells.of(condition, bin))
    # Standard errors of the means over 200 units: 0.003 to 0.006; a unit's own ceiling scatters by about 0.07.
    assert ceiling.mean() == pytest.approx(closed.mean(), abs=0.015)
    assert ceiling.mean() == pytest.approx(reached.mean(), abs=0.015)
    assert np.corrcoef(ceiling, closed)[0, 1] > 0.85


def test_psth_ceiling_is_the_mean_over_all_halves() -> None:
    """4 trials have 3 halves: their mean is the unbiased signal power of Sahani & Linden 2003, eq. 1."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(2, 0.5, (1, 30, 5)) * np.ones((4, 1, 1))).astype(float)
    halves = []
    for pair in combinations(range(4), 2):
        a, b = (counts[list(half)].mean(axis=0) for half in (pair, set(range(4)) - set(pair)))
        halves.append([np.cov(a[:, u], b[:, u], bias=True)[0, 1] for u in range(5)])
    mean = counts.mean(axis=0)
    power = (16 * mean.var(axis=0) - counts.var(axis=1).sum(axis=0)) / 12
    np.testing.assert_allclose(np.mean(halves, axis=0), power)
    rows = counts.reshape(-1, 5)
    trial, bin = np.repeat(np.arange(4), 30), np.tile(np.arange(30), 4)
    got = psth_ceiling_of_units(rows, np.zeros(120, int), bin, trial, rng=rng, num_splits=3000)
    np.testing.assert_allclose(got, power / mean.var(axis=0), atol=0.02)
    # Spearman and Brown for one pair of halves, where the correlation is taken against the mean of both variances.
    a, b = counts[:2].mean(axis=0), counts[2:].mean(axis=0)
    covariance = ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).mean(axis=0)
    r = covariance / ((a.var(axis=0) + b.var(axis=0)) / 2)
    np.testing.assert_allclose(2 * r / (1 + r), covariance / mean.var(axis=0))


def test_units_without_signal_have_a_ceiling_about_0_also_when_trials_share_their_gain() -> None:
    """Gain shared by the bins of a trial is noise of the condition means, though it repeats in every bin."""
    rng = np.random.default_rng(2)
    condition, bin, trial = _rows(8)
    gain = rng.gamma(4, 0.25, (trial.max() + 1, 400))[trial]
    counts = rng.poisson(0.3 * gain)
    ceiling = psth_ceiling_of_units(counts, condition, bin, trial, rng=rng, num_splits=20)
    assert abs(ceiling.mean()) < 4 * ceiling.std() / 20
    assert np.isnan(psth_ceiling_of_units(counts * 0, condition, bin, trial, rng=rng, num_splits=2)).all()


def test_psth_ceiling_takes_trials_of_many_lengths_and_repeats_itself() -> None:
    rng = np.random.default_rng(3)
    rate = _rates(rng, 200)
    condition, bin, trial = _rows(12)
    keep = bin < rng.integers(5, NUM_BINS + 1, trial.max() + 1)[trial]
    condition, bin, trial = condition[keep], bin[keep], trial[keep]
    counts = rng.poisson(rate[condition, bin])
    one, two = (
        psth_ceiling_of_units(counts, condition, bin, trial, rng=np.random.default_rng(7), num_splits=20)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    reached = psth_r2_of_units(rate[condition, bin], counts, Cells.of(condition, bin))
    assert one.mean() == pytest.approx(reached.mean(), abs=0.03)
    with pytest.raises(ValueError, match="0 cells"):
        psth_ceiling_of_units(counts, np.full(len(bin), -1), bin, trial, rng=rng)


def test_oracle_rises_to_the_closed_form_and_stays_below() -> None:
    """Expected bits of true rates over their mean: sum rate log2(rate / mean) / sum rate.

    Without smoothing the mean of the other n - 1 trials costs 1 / (2 (n - 1)) nats a trial and cell to second order
    (the divergence of Poisson laws at an estimate of variance rate / (n - 1)); a chosen smoothing costs less.
    """
    rng = np.random.default_rng(4)
    rate = _rates(rng, 30)
    flat = rate.reshape(-1, 30)
    closed = float((flat * np.log2(flat / flat.mean(axis=0))).sum() / flat.sum())
    found = []
    for num_trials in (5, 40, 320):
        condition, bin, trial = _rows(num_trials)
        counts = rng.poisson(rate[condition, bin])
        null = flat.mean(axis=0)
        oracle = oracle_rates(counts, condition, bin, trial, null)
        found.append(metrics.pooled_bits_per_spike(oracle.rate, counts, null))
        true = metrics.pooled_bits_per_spike(rate[condition, bin], counts, null)
        cost = 1 / (2 * (num_trials - 1) * flat.mean() * np.log(2))
        assert 0 < true - found[-1] < 1.1 * cost
    assert 0 < found[0] < found[1] < found[2]
    assert true == pytest.approx(closed, rel=0.02)
    assert true - found[2] == pytest.approx(cost, rel=0.15)
    assert found[2] == pytest.approx(closed, rel=0.1)


def test_oracle_finds_nothing_where_there_is_nothing() -> None:
    rng = np.random.default_rng(5)
    condition, bin, trial = _rows(10)
    counts = rng.poisson(0.2, (len(bin), 50))
    null = np.full(50, 0.2)
    oracle = oracle_rates(counts, condition, bin, trial, null)
    assert abs(metrics.pooled_bits_per_spike(oracle.rate, counts, null)) < 0.001
    assert oracle.prior_trials == max(ceilings.PRIOR_TRIALS)


def test_oracle_equals_a_naive_loop_and_does_not_see_its_own_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "WIDTHS", (1.5,))
    monkeypatch.setattr(ceilings, "PRIOR_TRIALS", (2.0,))
    rng = np.random.default_rng(6)
    length = rng.integers(2, 9, 12)
    trial, bin = np.repeat(np.arange(12), length), np.concatenate([np.arange(n) for n in length])
    condition = rng.integers(-1, 2, 12)[trial]
    order = rng.permutation(len(bin))
    trial, bin, condition = trial[order], bin[order], condition[order]
    counts, null = rng.poisson(0.5, (len(bin), 2)), np.array([0.4, 0.6])
    got = oracle_rates(counts, condition, bin, trial, null).rate
    for r in range(len(bin)):
        top, weight = 2.0 * null, 2.0
        for s in range(len(bin)):
            if condition[r] >= 0 and condition[s] == condition[r] and trial[s] != trial[r]:
                w = np.exp(-0.5 * ((bin[r] - bin[s]) / 1.5) ** 2)
                top, weight = top + w * counts[s], weight + w
        np.testing.assert_allclose(got[r], top / weight, rtol=1e-12)
    changed = counts.copy()
    changed[trial == 3] += rng.poisson(5, changed[trial == 3].shape)
    again = oracle_rates(changed, condition, bin, trial, null).rate
    np.testing.assert_allclose(again[trial == 3], got[trial == 3], rtol=1e-12)
