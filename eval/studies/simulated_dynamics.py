"""Sessions that share one planted linear system, each seen by its own neurons, and how far eigenvalues are from it.

The plan of systems.md, section 6, for CANDY: two decaying rotations. Knows no method of finding them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from foundation.linear_dynamics import sorted_eigenvalues

# Decay per bin and angle per bin of the two rotations.
ROTATIONS = ((0.97, 0.25), (0.93, 0.60))


@dataclass(frozen=True)
class Planted:
    """Sessions of trials of one length.

    Attributes:
        activity: Per session `(trials, T, N)`.
        behavior: Per session `(trials, T, L)`.
        state: Per session `(trials, T, 4)`.
        maps: Per session `(N, 4)`; activity is `state @ map.T` plus noise.
    """

    activity: list[np.ndarray]
    behavior: list[np.ndarray]
    state: list[np.ndarray]
    maps: list[np.ndarray]


def transition() -> np.ndarray:
    """A of the planted system `(4, 4)`: the rotations, block by block."""
    a = np.zeros((4, 4))
    for k, (size, angle) in enumerate(ROTATIONS):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        a[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = size * turn
    return a


def simulate(
    num_neurons: Sequence[int],
    num_trials: int,
    num_bins: int,
    observation_noise: float,
    seed: int,
    *,
    process_noise: float = 0.1,
    behavior_noise: float = 0.1,
    behavior_columns: Sequence[int] = (0, 1, 2, 3),
) -> Planted:
    """Draw states from the stationary system, maps of standard normal numbers, and independent Gaussian noise.

    Args:
        num_neurons: Per session.
        num_trials: Of each session.
        num_bins: Of each trial.
        observation_noise: Standard deviation per neuron.
        seed: Of everything.
        process_noise: Standard deviation per state and bin.
        behavior_noise: Standard deviation per column of behavior; states have .28 to .41.
        behavior_columns: States that behavior shows.
    """
    rng = np.random.default_rng(seed)
    a = transition()
    start = np.repeat([process_noise / np.sqrt(1 - size**2) for size, _ in ROTATIONS], 2)
    planted = Planted([], [], [], [])
    for neurons in num_neurons:
        state = np.empty((num_trials, num_bins, 4))
        state[:, 0] = start * rng.normal(size=(num_trials, 4))
        for t in range(1, num_bins):
            state[:, t] = state[:, t - 1] @ a.T + process_noise * rng.normal(size=(num_trials, 4))
        observation = rng.normal(size=(neurons, 4))
        noise = rng.normal(size=(num_trials, num_bins, neurons))
        shown = state[..., list(behavior_columns)]
        planted.activity.append(state @ observation.T + observation_noise * noise)
        planted.behavior.append(shown + behavior_noise * rng.normal(size=shown.shape))
        planted.state.append(state)
        planted.maps.append(observation)
    return planted


def shuffled_across(behavior: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Every session gets the behavior of the next one, trials in random order: lengths and dynamics stay."""
    rng = np.random.default_rng(seed)
    following = [*behavior[1:], behavior[0]]
    return [trials[rng.permutation(len(trials))] for trials in following]


def shuffled_within(behavior: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Every trial gets the behavior of another of its session."""
    rng = np.random.default_rng(seed)
    return [trials[rng.permutation(len(trials))] for trials in behavior]


def lag_one(latents: Sequence[np.ndarray]) -> np.ndarray:
    """Eigenvalues of the regression of x_{t+1} on x_t over sessions `(trials, T, d)`; noise in x shrinks them."""
    c0, c1, _ = _covariances(latents)
    return sorted_eigenvalues(np.linalg.solve(c0, c1.T).T)


def lag_two_over_one(latents: Sequence[np.ndarray]) -> np.ndarray:
    """Eigenvalues of C2 C1^-1, C_k the covariance of x_{t+k} with x_t: noise independent over bins drops out."""
    _, c1, c2 = _covariances(latents)
    return sorted_eigenvalues(np.linalg.solve(c1.T, c2.T).T)


def _covariances(latents: Sequence[np.ndarray]) -> list[np.ndarray]:
    centered = [x - x.mean(axis=(0, 1)) for x in latents]
    return [sum(np.einsum("bti,btj->ij", x[:, k : x.shape[1] - 2 + k], x[:, :-2]) for x in centered) for k in range(3)]


def eigenvalue_errors(found: np.ndarray) -> np.ndarray:
    """Distance `(4,)` in the complex plane of every planted eigenvalue from its own one of `found`, best assignment.

    Args:
        found: At least four; those left over are not counted.
    """
    planted = sorted_eigenvalues(transition())
    distance = np.abs(planted[:, None] - found[None])
    rows, columns = linear_sum_assignment(distance)
    return distance[rows, columns]
