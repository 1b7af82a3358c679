"""Filter, smoother and likelihood against conditioning of the one joint Gaussian of all states and observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from foundation.linear_dynamics import LinearDynamics, decay_times_s, frequencies_hz, sorted_eigenvalues


def drawn(seed: int = 0, d: int = 3, m: int = 2) -> LinearDynamics:
    """A system with nothing special about it, in float64."""
    generator = torch.Generator().manual_seed(seed)
    dynamics = LinearDynamics(d, m, generator).double()
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.double))
        dynamics.transition.mul_(0.8)
    return dynamics


def joint(dynamics: LinearDynamics, num_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and covariance of all states stacked, the stacked emission, and the observation noise.

    x = L e with e = (x_1, w_1, w_2...): block (t, s) of L is A^(t-s).
    """
    a, c, mu = (p.detach().numpy() for p in (dynamics.transition, dynamics.emission, dynamics.initial_mean))
    w, r, s = (p.detach().exp().numpy() for p in (dynamics.log_process, dynamics.log_observation, dynamics.log_initial))
    power = [np.linalg.matrix_power(a, k) for k in range(num_bins)]
    zero = np.zeros_like(a)
    build = np.block([[power[t - u] if t >= u else zero for u in range(num_bins)] for t in range(num_bins)])
    mean = build @ np.concatenate([mu, np.zeros(len(mu) * (num_bins - 1))])
    covariance = build @ np.diag(np.concatenate([s, np.tile(w, num_bins - 1)])) @ build.T
    return mean, covariance, np.kron(np.eye(num_bins), c), np.diag(np.tile(r, num_bins))


def conditional(
    dynamics: LinearDynamics, observed: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean `(T, d)` and covariances `(T, d, d)` of the states given the bins of the mask, and their log density."""
    num_bins, m = observed.shape
    mean, covariance, emission, noise = joint(dynamics, num_bins)
    keep = np.repeat(mask, m)
    emission, noise = emission[keep], noise[np.ix_(keep, keep)]
    value, d = observed.reshape(-1)[keep], len(dynamics.initial_mean)
    spread = emission @ covariance @ emission.T + noise
    gain = np.linalg.solve(spread, emission @ covariance).T
    after = covariance - gain @ emission @ covariance
    means = (mean + gain @ (value - emission @ mean)).reshape(num_bins, d)
    blocks = np.stack([after[t * d : (t + 1) * d, t * d : (t + 1) * d] for t in range(num_bins)])
    density = multivariate_normal(emission @ mean, spread).logpdf(value) if keep.any() else 0.0
    return means, blocks, float(density)


def trials(seed: int, num_bins: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Five trials: whole, bins missing at random (twice), a short one, nothing observed."""
    rng = np.random.default_rng(seed)
    observed = torch.from_numpy(rng.normal(size=(5, num_bins, 2)))
    mask = torch.ones(5, num_bins, dtype=torch.bool)
    mask[1:3] = torch.from_numpy(rng.random((2, num_bins)) < 0.6)
    mask[3, 4:] = False
    mask[4] = False
    return observed, mask


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_inference_is_conditioning_of_the_joint_gaussian(seed: int) -> None:
    dynamics, (observed, mask) = drawn(seed), trials(seed)
    filtered = dynamics.filter(observed, mask)
    smoothed = dynamics.smooth(filtered)
    density = dynamics.log_likelihood(observed, filtered, mask)
    for b in range(len(mask)):
        value, known = observed[b].numpy(), mask[b].numpy()
        mean, covariance, expected = conditional(dynamics, value, known)
        np.testing.assert_allclose(smoothed.mean[b].detach(), mean, atol=1e-9)
        np.testing.assert_allclose(smoothed.covariance[b].detach(), covariance, atol=1e-9)
        assert density[b].item() == pytest.approx(expected, abs=1e-8)
        for t in range(len(known)):
            for beliefs, past in (
                (filtered.updated, np.arange(len(known)) <= t),
                (filtered.predicted, np.arange(len(known)) < t),
            ):
                mean, covariance, _ = conditional(dynamics, value, known & past)
                np.testing.assert_allclose(beliefs.mean[b, t].detach(), mean[t], atol=1e-9)
                np.testing.assert_allclose(beliefs.covariance[b, t].detach(), covariance[t], atol=1e-9)


def test_a_missing_bin_moves_nothing_and_its_value_is_not_read() -> None:
    dynamics, (observed, mask) = drawn(), trials(1)
    filtered = dynamics.filter(observed, mask)
    torch.testing.assert_close(filtered.updated.mean[~mask], filtered.predicted.mean[~mask])
    other = torch.where(mask[..., None], observed, 1e6)
    again = dynamics.filter(other, mask)
    assert torch.equal(again.updated.mean, filtered.updated.mean)
    assert torch.equal(dynamics.log_likelihood(other, again, mask), dynamics.log_likelihood(observed, filtered, mask))


def test_padding_changes_no_trial() -> None:
    dynamics, (observed, mask) = drawn(), trials(2)
    short = dynamics.smooth(dynamics.filter(observed[3:4, :4], mask[3:4, :4]))
    padded = dynamics.smooth(dynamics.filter(observed, mask))
    torch.testing.assert_close(padded.mean[3, :4], short.mean[0])
    torch.testing.assert_close(padded.covariance[3, :4], short.covariance[0])


def test_default_mask_is_all_observed() -> None:
    dynamics, (observed, mask) = drawn(), trials(3)
    torch.testing.assert_close(
        dynamics.filter(observed).updated.mean, dynamics.filter(observed, torch.ones_like(mask)).updated.mean
    )


def test_gradients_are_those_of_finite_differences() -> None:
    dynamics, (observed, mask) = drawn(), trials(4, num_bins=4)
    names, values = zip(*dynamics.named_parameters())

    def outcome(observed: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        class Bound(LinearDynamics):
            def forward(self, observed: torch.Tensor) -> tuple[torch.Tensor, ...]:
                filtered = self.filter(observed, mask)
                smoothed = self.smooth(filtered)
                ahead = self.predict(filtered.updated.mean, 2)
                return self.log_likelihood(observed, filtered, mask), smoothed.mean, smoothed.covariance, ahead

        module = Bound(3, 2).double()
        return torch.func.functional_call(module, dict(zip(names, values)), (observed,))

    inputs = (observed, *(v.detach().clone() for v in values))
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(outcome, inputs)


def test_long_trials_are_exact_although_settled_gains_are_reused() -> None:
    dynamics = drawn()
    observed = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 120, 2)))
    mask = torch.ones(2, 120, dtype=torch.bool)
    mask[1, 60] = False
    smoothed = dynamics.smooth(filtered := dynamics.filter(observed, mask))
    density = dynamics.log_likelihood(observed, filtered, mask)
    for b in range(2):
        mean, covariance, expected = conditional(dynamics, observed[b].numpy(), mask[b].numpy())
        np.testing.assert_allclose(smoothed.mean[b].detach(), mean, atol=1e-9)
        np.testing.assert_allclose(smoothed.covariance[b].detach(), covariance, atol=1e-9)
        assert density[b].item() == pytest.approx(expected, abs=1e-8)


def test_fit_finds_a_planted_rotation_under_noise_that_ruins_regression() -> None:
    rng = np.random.default_rng(0)
    mode = 0.95 * np.exp(0.4j)
    turn = np.array([[mode.real, -mode.imag], [mode.imag, mode.real]])
    z = np.zeros((60, 40, 2))
    z[:, 0] = rng.normal(size=(60, 2))
    for t in range(1, 40):
        z[:, t] = z[:, t - 1] @ turn.T + 0.3 * rng.normal(size=(60, 2))
    observed = (z @ rng.normal(size=(2, 2)) + 0.7 * rng.normal(size=z.shape)).reshape(-1, 2)
    observed = ((observed - observed.mean(axis=0)) / observed.std(axis=0)).reshape(z.shape)
    before, after = observed[:, :-1].reshape(-1, 2), observed[:, 1:].reshape(-1, 2)
    regression = sorted_eigenvalues(np.linalg.lstsq(before, after, rcond=None)[0].T)
    dynamics = LinearDynamics(2, 2, torch.Generator().manual_seed(0))
    losses = dynamics.fit(torch.from_numpy(observed).float(), max_iterations=100)
    expected = np.array([mode, mode.conj()])
    assert np.abs(dynamics.eigenvalues() - expected).max() < 0.03
    assert np.abs(regression - expected).max() > 0.1
    assert losses[-1] < losses[0]


def test_prediction_is_the_powers_of_the_transition() -> None:
    dynamics = drawn()
    state = torch.randn(4, 5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    ahead = dynamics.predict(state, 3)
    for k in range(3):
        expected = state @ torch.linalg.matrix_power(dynamics.transition, k + 1).T @ dynamics.emission.T
        torch.testing.assert_close(ahead[k], expected)


def test_cap_bounds_singular_values_and_leaves_smaller_ones() -> None:
    dynamics = drawn()
    with torch.no_grad():
        dynamics.transition.copy_(torch.tensor([[0.0, 2.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, -0.9]]))
    dynamics.cap_singular_values(0.95)
    expected = torch.tensor([[0.0, 0.95, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, -0.9]], dtype=torch.double)
    torch.testing.assert_close(dynamics.transition.detach(), expected)


def test_eigenvalues_do_not_depend_on_the_basis_and_are_in_order() -> None:
    turn = 0.9 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    matrix = np.block([[turn, np.zeros((2, 1))], [np.zeros((1, 2)), np.array([[-0.95]])]])
    basis = np.random.default_rng(0).normal(size=(3, 3))
    found = sorted_eigenvalues(basis @ matrix @ np.linalg.inv(basis))
    np.testing.assert_allclose(found, [-0.95, 0.9 * np.exp(0.3j), 0.9 * np.exp(-0.3j)], atol=1e-12)
    dynamics = drawn()
    with torch.no_grad():
        dynamics.transition.copy_(torch.from_numpy(matrix))
    np.testing.assert_allclose(dynamics.eigenvalues(), found, atol=1e-12)


def test_times_and_frequencies_are_those_of_the_mode() -> None:
    # exp((-1/tau + 2 pi i f) bin) with tau .5 s, f 3 Hz, bins of 20 ms; a constant; a mode that falls only.
    modes = np.array([np.exp((-1 / 0.5 + 2j * np.pi * 3) * 0.02), 1.0, np.exp(-0.02 / 0.1), 0.0])
    np.testing.assert_allclose(decay_times_s(modes, 0.02), [0.5, np.inf, 0.1, 0.0])
    np.testing.assert_allclose(frequencies_hz(modes, 0.02), [3, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 0, 2)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, T, 2\)"):
        drawn().filter(torch.zeros(shape, dtype=torch.double))
