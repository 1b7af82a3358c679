"""The study of planted dynamics: what it simulates, how it measures, and that it runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from eval.studies.planted_dynamics import ARMS, Config, run
from eval.studies.planted_dynamics_findings import OWN, REFERENCE
from eval.studies.simulated_dynamics import (
    eigenvalue_errors,
    lag_one,
    lag_two_over_one,
    shuffled_across,
    shuffled_within,
    simulate,
    transition,
)

PLANTED = np.array([0.97 * np.exp(0.25j), 0.97 * np.exp(-0.25j), 0.93 * np.exp(0.6j), 0.93 * np.exp(-0.6j)])


def test_states_are_stationary_and_follow_the_planted_system() -> None:
    planted = simulate([5, 6], 2000, 12, 0.1, seed=0)
    covariance = solve_discrete_lyapunov(transition(), 0.01 * np.eye(4))
    for t in (0, 11):
        seen = np.cov(np.concatenate([z[:, t] for z in planted.state]).T)
        np.testing.assert_allclose(seen, covariance, atol=0.012)
    residual = planted.state[0][:, 1:] - planted.state[0][:, :-1] @ transition().T
    np.testing.assert_allclose(np.cov(residual.reshape(-1, 4).T), 0.01 * np.eye(4), atol=5e-4)
    noise = planted.activity[1] - planted.state[1] @ planted.maps[1].T
    assert noise.std() == pytest.approx(0.1, rel=0.01)
    assert eigenvalue_errors(lag_one(planted.state)).max() < 0.02


def test_same_seed_same_sessions() -> None:
    a, b, c = (simulate([5], 3, 4, 0.1, seed) for seed in (0, 0, 1))
    assert np.array_equal(a.activity[0], b.activity[0])
    assert not np.array_equal(a.activity[0], c.activity[0])


def test_noise_shrinks_the_regression_and_not_the_ratio_of_lags() -> None:
    planted = simulate([5, 5], 800, 40, 0.1, seed=0)
    rng = np.random.default_rng(1)
    noisy = [z + 0.3 * rng.normal(size=z.shape) for z in planted.state]
    assert eigenvalue_errors(lag_one(noisy)).max() > 0.3
    assert eigenvalue_errors(lag_two_over_one(noisy)).max() < 0.05


def test_estimators_do_not_depend_on_the_basis() -> None:
    z = simulate([5], 50, 30, 0.1, seed=0).state
    basis = np.random.default_rng(0).normal(size=(4, 4))
    for estimator in (lag_one, lag_two_over_one):
        np.testing.assert_allclose(
            eigenvalue_errors(estimator([x @ basis + 3 for x in z])), eigenvalue_errors(estimator(z)), atol=1e-8
        )


def test_errors_are_those_of_the_best_assignment() -> None:
    np.testing.assert_allclose(eigenvalue_errors(PLANTED[[2, 0, 3, 1]]), 0, atol=1e-12)
    moved = np.append(PLANTED + 0.01, 0.2)
    np.testing.assert_allclose(eigenvalue_errors(moved), 0.01)


def test_shuffles_move_whole_trials_only() -> None:
    behavior = [np.arange(24.0).reshape(4, 3, 2) + 100 * s for s in range(3)]
    for s, (within, across) in enumerate(zip(shuffled_within(behavior, 0), shuffled_across(behavior, 0))):
        for shuffled, source in ((within, behavior[s]), (across, behavior[(s + 1) % 3])):
            order = np.argsort(shuffled[:, 0, 0])
            assert np.array_equal(shuffled[order], source)
    assert not np.array_equal(shuffled_within(behavior, 0)[0], behavior[0])


def test_the_study_runs_and_knows_the_best_from_the_worst() -> None:
    config = Config(
        seeds=[0, 1], observation_noises=[0.1], num_trials=24, num_bins=24, steps=3, refit_steps=2, rank_points=20
    )
    findings = run(config)
    table = findings.tables[0].frame.set_index("arm")
    assert set(table.index) == {*ARMS, OWN}
    assert table.loc["oracle: true maps", "max_error"] < 0.05
    assert table.loc["oracle: true maps", "r2_across"] > 0.95
    assert table.loc[REFERENCE, "max_error"] > 3 * table.loc[OWN, "max_error"]
    assert table.loc[REFERENCE, "r2_across"] < 0.5 < table.loc[REFERENCE, "r2_own"]
    again = run(config).tables[2].frame
    assert again.equals(findings.tables[2].frame)


def test_behavior_of_a_part_of_the_state_is_allowed() -> None:
    config = Config(
        seeds=[0], observation_noises=[0.1], num_trials=8, num_bins=8, steps=2, refit_steps=2, rank_points=20,
        behavior_columns=[0, 2], arms=["behavior alone", "AlignedDynamics"],
    )  # fmt: skip
    table = run(config).tables[0].frame.set_index("arm")
    # Two numbers have no four eigenvalues.
    assert np.isnan(table.loc["behavior alone", "max_error"])
    assert np.isfinite(table.loc["AlignedDynamics", "max_error"])


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="arms: got \\['UMAP'\\]"):
        run(Config(arms=["UMAP"]))
    with pytest.raises(ValueError, match="got no seed"):
        run(Config(seeds=[]))
