"""Kalman decoding: equal to plain Gaussian conditioning, to textbook loops, and the best there is on its own system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.baselines_decoding import trace_fits
from eval.kalman import INFLATIONS, SHRINKAGES, LinearSystem, kalman_filter, kalman_fit, read_out, rts_smoother
from eval.metrics import r2
from eval.session_view import RowCovariate, SessionView
from foundation.recording import CovariateSpec
from foundation.splits import TEST, TRAIN, VAL


def _system(size: int, rng: np.random.Generator) -> LinearSystem:
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
    half = rng.normal(size=(2, size, size))
    return LinearSystem(0.9 * turn, half[0] @ half[0].T * 0.1, rng.normal(size=size), half[1] @ half[1].T)


def _joint(system: LinearSystem, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the stacked states of a trial, `(T * s,)` and its square, written out bin by bin."""
    size = len(system.initial_mean)
    mean, covariance = [system.initial_mean], np.zeros((bins * size, bins * size))
    at = [slice(t * size, (t + 1) * size) for t in range(bins)]
    covariance[at[0], at[0]] = system.initial_covariance
    for t in range(1, bins):
        mean.append(system.transition @ mean[-1])
        for u in range(t):
            covariance[at[t], at[u]] = system.transition @ covariance[at[t - 1], at[u]]
            covariance[at[u], at[t]] = covariance[at[t], at[u]].T
        covariance[at[t], at[t]] = system.transition @ covariance[at[t - 1], at[t - 1]] @ system.transition.T
        covariance[at[t], at[t]] += system.process
    return np.concatenate(mean), covariance


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 3), seed=st.integers(0, 10_000), unseen=st.integers(0, 3))
def test_filter_and_smoother_are_gaussian_conditioning(size: int, seed: int, unseen: int) -> None:
    """Against the joint Gaussian of all states and observations of a trial, inverted whole."""
    rng = np.random.default_rng(seed)
    system, lengths, units = _system(size, rng), np.array([7, 4]), 5
    if seed % 2 and size > 1:
        # A state that remembers: two of its numbers are the same at first, so that its covariance is singular.
        flat = np.eye(size)
        flat[1] = flat[0]
        system = replace(system, initial_covariance=flat @ system.initial_covariance @ flat.T)
    emissions, halves = rng.normal(size=(2, units, size)), rng.normal(size=(2, units, units))
    noises = [h @ h.T + 0.1 * np.eye(units) for h in halves]
    z = rng.normal(size=(2, 7, units))
    weights = np.stack([np.linalg.solve(q, c) for q, c in zip(noises, emissions)])
    information = np.stack([c.T @ w for c, w in zip(emissions, weights)])
    evidence = np.einsum("ntu,kus->knts", z, weights)
    filtered = kalman_filter(system, evidence, information, np.arange(7) >= unseen)
    smooth = rts_smoother(system, filtered, lengths)
    for k in range(2):
        for n, bins in enumerate(lengths):
            mean, covariance = _joint(system, bins)
            for upto in range(bins):
                for last, found in ((upto + 1, filtered.mean[k, n, upto]), (bins, smooth[k, n, upto])):
                    times = range(unseen, last)
                    read = np.zeros((len(times) * units, bins * size))
                    for i, t in enumerate(times):
                        read[i * units : (i + 1) * units, t * size : (t + 1) * size] = emissions[k]
                    noise = np.kron(np.eye(len(times)), noises[k])
                    error = z[n, unseen:last].reshape(-1) - read @ mean
                    gain = covariance @ read.T @ np.linalg.inv(read @ covariance @ read.T + noise)
                    here = slice(upto * size, (upto + 1) * size)
                    np.testing.assert_allclose(found, (mean + gain @ error)[here], rtol=1e-5, atol=1e-6)
                    if found is not smooth and last == upto + 1:
                        left = (covariance - gain @ read @ covariance)[here, here]
                        np.testing.assert_allclose(filtered.covariance[k, upto], left, rtol=1e-5, atol=1e-6)


def test_the_fits_are_least_squares() -> None:
    rng = np.random.default_rng(3)
    lengths = np.array([30, 2, 40, 25])
    trial = np.repeat(np.arange(4), lengths)
    state, keep = rng.normal(size=(len(trial), 2)), rng.random(len(trial)) < 0.9
    state[~keep] = np.nan
    system = LinearSystem.fit(state, trial, keep)
    pairs = [(t - 1, t) for t in range(1, len(trial)) if keep[t] and keep[t - 1] and trial[t] == trial[t - 1]]
    before, now = (state[[p[i] for p in pairs]] for i in (0, 1))
    transition = np.linalg.lstsq(before, now, rcond=None)[0].T
    np.testing.assert_allclose(system.transition, transition, atol=1e-6)
    noise = now - before @ transition.T
    np.testing.assert_allclose(system.process, noise.T @ noise / len(pairs), rtol=1e-5)
    start = state[[min(t for t in range(len(trial)) if keep[t] and trial[t] == k) for k in range(4)]]
    np.testing.assert_allclose(system.initial_covariance, np.cov(start.T, bias=True), atol=1e-12)
    spikes = rng.normal(size=(len(trial), 6)) @ rng.normal(size=(6, 6))
    weights, information = read_out(spikes, state, keep)
    emission = np.linalg.lstsq(state[keep], spikes[keep], rcond=None)[0].T
    rest = spikes[keep] - state[keep] @ emission.T
    noise = rest.T @ rest / keep.sum()
    k = 0
    for share in SHRINKAGES:
        for inflation in INFLATIONS:
            shrunken = inflation * ((1 - share) * noise + share * np.trace(noise) / 6 * np.eye(6))
            np.testing.assert_allclose(weights[k], np.linalg.inv(shrunken) @ emission, rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(information[k], emission.T @ weights[k], rtol=1e-5)
            k += 1
    # Where every second bin is known, no two in a row are: bins are independent then.
    sparse = (np.arange(len(trial)) % 2 == 0) & keep
    alone = LinearSystem.fit(state, trial, sparse)
    np.testing.assert_array_equal(alone.transition, np.zeros((2, 2)))
    np.testing.assert_allclose(alone.process, state[sparse].T @ state[sparse] / sparse.sum())
    with pytest.raises(ValueError, match="none of 97 rows"):
        LinearSystem.fit(state, trial, np.zeros(len(trial), bool))


def _slopes(num_units: int) -> np.ndarray:
    return np.random.default_rng(99).normal(size=num_units) * 0.05


def planted_view(num_trials: int = 120, num_units: int = 25, seed: int = 0) -> SessionView:
    """A state with momentum, the covariate `speed`, read linearly by square roots of counts in trials of 0.5 to 1 s.

    Square roots of Poisson counts of a mean well above 1 have a variance of 1/4: a linear Gaussian system.
    """
    rng = np.random.default_rng(seed)
    num_bins = rng.integers(25, 51, num_trials)
    states = []
    for bins in num_bins:
        x, v = [rng.normal()], rng.normal() * 0.1
        for _ in range(bins - 1):
            v = 0.9 * v + rng.normal() * 0.06
            x.append(0.99 * x[-1] + v)
        states.append(np.array(x))
    state = np.concatenate(states)
    rate = (2 + state[:, None] * _slopes(num_units)) ** 2
    roles = np.array([TRAIN, TRAIN, VAL, TRAIN, TEST])[np.arange(num_trials) // 5 % 5]
    return SessionView(
        dataset="planted",
        session="rat_a",
        split="interleaved",
        fold=0,
        bin_size_s=0.02,
        unit=np.arange(num_units),
        region=np.full(num_units, ""),
        source_trial=np.arange(num_trials),
        roles=roles,
        full_roles=roles,
        num_bins=num_bins,
        start_s=np.arange(num_trials) * 2.0,
        trial=np.repeat(np.arange(num_trials), num_bins),
        bin=np.concatenate([np.arange(n) for n in num_bins]),
        counts=np.minimum(rng.poisson(rate), 255).astype(np.uint8),
        row_covariates={
            "speed": RowCovariate(
                CovariateSpec("speed", "continuous", "time"), state[:, None], np.ones(len(state), bool)
            )
        },
    )


def _with_true_parameters(view: SessionView) -> np.ndarray:
    """The state as the filter finds it that knows what `planted_view` used."""
    slope = _slopes(view.counts.shape[1])
    momentum = LinearSystem(
        np.array([[0.99, 0.9], [0.0, 0.9]]), 0.06**2 * np.ones((2, 2)), np.zeros(2), np.diag([1.0, 0.01])
    )
    error = np.sqrt(view.counts) - np.sqrt(4 - 0.25)
    out = np.zeros(len(view.trial))
    for trial in range(len(view.num_bins)):
        rows = view.trial == trial
        evidence = np.stack([error[rows] @ slope * 4, np.zeros(rows.sum())], axis=1)
        information = np.diag([slope @ slope * 4, 0.0])[None]
        found = kalman_filter(momentum, evidence[None, None], information, np.ones(rows.sum(), bool))
        out[rows] = found.mean[0, 0, :, 0]
    return out


def test_is_the_best_on_a_linear_gaussian_system() -> None:
    """Better than the Wiener decoder, near the filter that knows the parameters; the smoother knows still more."""
    view = planted_view()
    test, truth = view.rows_in("test"), view.row_covariates["speed"].values[:, 0]
    scores = {}
    for causal in (True, False):
        fits = trace_fits(view, "speed", causal=causal)
        scores |= {(name, causal): r2(truth[test], fit.value[test]) for name, fit in fits.items()}
        assert fits["kalman"].validation_loss < 0.95 * fits["ridge"].validation_loss
        assert scores["kalman", causal] > scores["ridge", causal] + 0.02
    best = r2(truth[test], _with_true_parameters(view)[test])
    assert best - 0.06 < scores["kalman", True] < best + 0.01
    assert scores["kalman", False] > scores["kalman", True] + 0.02


def test_looks_neither_ahead_nor_at_test_trials() -> None:
    view = planted_view(60, 8)
    test = view.rows_in("test")
    counts, late = view.counts.copy(), view.bin >= 15
    counts[test & late] += 3
    values = view.row_covariates["speed"].values.copy()
    values[test] += 100
    speed = replace(view.row_covariates["speed"], values=values)
    changed = replace(view, counts=counts, row_covariates={"speed": speed})
    for causal, same in ((True, ~test | ~late), (False, ~test)):
        one, other = (kalman_fit(v, "speed", causal=causal) for v in (view, changed))
        np.testing.assert_array_equal(one.value[same], other.value[same])
        assert one.validation_loss == other.validation_loss
        assert np.isfinite(one.value).all()
        assert not np.allclose(one.value[test], other.value[test])


def test_decodes_a_behavior_that_is_seen_in_every_other_bin() -> None:
    view = planted_view(40, 6)
    speed = view.row_covariates["speed"]
    sparse = replace(view, row_covariates={"speed": replace(speed, observed=view.bin % 2 == 0)})
    fit = kalman_fit(sparse, "speed", causal=True)
    assert np.isfinite(fit.value).all()
    assert fit.validation_loss < float(np.var(speed.values[view.rows_in("val")]))
