"""The sequential VAE: finds planted dynamics, reads nothing that it must not, repeats itself bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.baselines_networks import sequential_cosmooth, sequential_forecast
from eval.metrics import r2
from eval.scoring import forecast_rows
from eval.sequential_vae import PaddedTrials, VaeConfig, fit_sequential_vae
from eval.session_view import SessionView
from eval.unit_folds import unit_folds
from foundation.splits import TEST, TRAIN, VAL

SMALL = VaeConfig(
    hidden=16, initial=4, inputs=1, factors=3, dropout=0.1, learning_rate=0.02, batch_size=10, warm_up=50, max_epochs=18
)
BRIEF = replace(SMALL, max_epochs=2)
NUM_UNITS = 24


def planted_view() -> tuple[SessionView, np.ndarray, np.ndarray]:
    """A state that turns with a phase and size of its own in every trial, and units whose log-rates read it.

    Returns:
        The view, the state `(R, 2)`, and the true expected counts `(R, U)`.
    """
    rng = np.random.default_rng(0)
    num_trials = 100
    num_bins = rng.integers(18, 26, num_trials)
    trial, bins = np.repeat(np.arange(num_trials), num_bins), np.concatenate([np.arange(n) for n in num_bins])
    angle = rng.uniform(0, 2 * np.pi, num_trials)[trial] + 0.2 * bins
    state = rng.uniform(0.7, 1.6, num_trials)[trial, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rate = 0.5 * np.exp(0.6 * state @ rng.normal(size=(2, NUM_UNITS)))
    roles = np.array([TRAIN, TRAIN, VAL, TRAIN, TEST])[np.arange(num_trials) // 5 % 5]
    view = SessionView(
        dataset="planted",
        session="rat_a",
        split="interleaved",
        fold=0,
        bin_size_s=0.02,
        unit=np.arange(NUM_UNITS),
        region=np.full(NUM_UNITS, ""),
        source_trial=np.arange(num_trials),
        roles=roles,
        full_roles=roles,
        num_bins=num_bins,
        start_s=np.arange(num_trials) * 1.0,
        trial=trial,
        bin=bins,
        counts=np.minimum(rng.poisson(rate), 255).astype(np.uint8),
    )
    return view, state, rate


def _padded(view: SessionView, known_share: float) -> tuple[PaddedTrials, np.ndarray]:
    """All trials, and `(N, T)` bool of the bins that there are."""
    inside = np.arange(view.num_bins.max()) < view.num_bins[:, None]
    counts = np.zeros((*inside.shape, NUM_UNITS), np.float32)
    counts[inside] = view.counts
    return PaddedTrials(counts, view.num_bins, np.maximum(1, (known_share * view.num_bins).astype(np.int64))), inside


def _loss(counts: np.ndarray, rate: np.ndarray) -> float:
    return float((rate - counts * np.log(rate)).mean())


def test_factors_are_the_planted_state_also_where_nothing_is_read() -> None:
    view, state, _ = planted_view()
    trials, inside = _padded(view, 0.6)
    every = np.ones((1, NUM_UNITS), bool)
    (factors,) = fit_sequential_vae(
        trials, every, every, view.trials_in("train"), view.trials_in("val"), seed=0, config=SMALL
    )
    assert factors.shape == (*inside.shape, 3)
    x = np.concatenate([factors[inside], np.ones((len(state), 1))], axis=1)
    weights = np.linalg.lstsq(x[view.rows_in("train")], state[view.rows_in("train")], rcond=None)[0]
    for known, least in ((True, 0.7), (False, 0.5)):
        rows = view.rows_in("test") & ((view.bin < trials.known_bins[view.trial]) == known)
        assert min(r2(state[rows, i], (x @ weights)[rows, i]) for i in (0, 1)) > least


def test_reads_neither_test_trials_nor_hidden_units_nor_later_bins() -> None:
    view, _, _ = planted_view()
    trials, inside = _padded(view, 0.6)
    train, val, test = (view.trials_in(role) for role in ("train", "val", "test"))
    readable = np.ones((2, NUM_UNITS), bool)
    readable[0, :4] = readable[1, 4:8] = False

    def fit(counts: np.ndarray, seed: int = 0) -> list[np.ndarray]:
        torch.rand(3)
        return fit_sequential_vae(
            replace(trials, counts=counts), readable, ~readable, train, val, seed=seed, config=BRIEF
        )

    before = fit(trials.counts)
    hidden, later = trials.counts.copy(), trials.counts.copy()
    hidden[test, :, :4] += 3
    bins = np.arange(inside.shape[1])
    later[test] += 5 * (inside & (bins >= trials.known_bins[:, None]))[test][:, :, None]
    changed = fit(hidden)
    np.testing.assert_array_equal(changed[0], before[0])
    assert not np.allclose(changed[1][test], before[1][test])
    for k in (0, 1):
        np.testing.assert_array_equal(changed[k][train], before[k][train])
        np.testing.assert_array_equal(changed[k][val], before[k][val])
        np.testing.assert_array_equal(fit(later)[k], before[k])
    assert not np.array_equal(fit(trials.counts, seed=1)[0], before[0])


def test_cosmoothing_beats_the_mean_and_adds_to_an_offset() -> None:
    view, _, truth = planted_view()
    test, folds = view.rows_in("test"), unit_folds(view, "cosmooth")
    held = np.concatenate([fold.held_out for fold in folds])
    fit = sequential_cosmooth(view, "cosmooth", config=SMALL)
    assert np.isnan(np.delete(fit.rate, held, axis=1)).all()
    counts = view.counts[test][:, held]
    mean, best = (_loss(counts, rate[test][:, held]) for rate in (view.train_mean() + 0 * truth, truth))
    found = _loss(counts, fit.rate[test][:, held])
    # All that there is to know is worth 1.
    assert 0.6 < (mean - found) / (mean - best) < 1
    given = sequential_cosmooth(view, "cosmooth", np.log(truth), config=SMALL)
    assert _loss(counts, given.rate[test][:, held]) < found
    assert given.validation_loss < fit.validation_loss


def test_cosmoothing_does_not_read_the_held_out_units() -> None:
    view, _, _ = planted_view()
    first, *others = unit_folds(view, "cosmooth")
    counts = view.counts.copy()
    counts[np.ix_(view.rows_in("test"), first.held_out)] += 2
    before, after = (
        sequential_cosmooth(v, "cosmooth", config=BRIEF).rate for v in (view, replace(view, counts=counts))
    )
    np.testing.assert_array_equal(after[:, first.held_out], before[:, first.held_out])
    assert not np.allclose(after[:, others[0].held_out], before[:, others[0].held_out])


def test_forecasts_run_on_from_what_is_known() -> None:
    view, _, truth = planted_view()
    mean = np.log(view.train_mean()) + 0 * truth
    rows = view.rows_in("test") & forecast_rows(view)
    fit = sequential_forecast(view, mean, config=SMALL)
    worst, best, found = (_loss(view.counts[rows], rate[rows]) for rate in (np.exp(mean), truth, fit.rate))
    assert 0.5 < (worst - found) / (worst - best) < 1
    counts = view.counts.copy()
    counts[rows] += 3
    before, after = (sequential_forecast(v, mean, config=BRIEF) for v in (view, replace(view, counts=counts)))
    np.testing.assert_array_equal(after.rate, before.rate)
    assert after.validation_loss == pytest.approx(before.validation_loss)
