"""Poisson regression with an exponential link and a ridge penalty, for many units at once; NumPy and SciPy only.

It does not build features, and it adds no intercept: give a column of ones and leave it out of `penalized`.

For unit u with features x_r, counts y_ru and offset o_ru it minimizes

    sum_r [ exp(o_ru + x_r·w_u) - y_ru (o_ru + x_r·w_u) ]  +  p_u / 2 * || P (w_u - c_u) ||^2 ,

P the diagonal of `penalized`, by the steps of `foundation.poisson_newton`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundation.poisson_newton import MAX_LOG_RATE, Newton, PoissonProblem, QuasiNewton, SharedCurvature


@dataclass(frozen=True)
class PenaltyChoice:
    """What `choose_penalty` found.

    Attributes:
        weights: `(F, U)` of the chosen penalty of each unit.
        penalty: `(U,)` chosen penalties.
        validation_loss: `(P, U)` Poisson negative log likelihood (nats, without the factorial term) of each penalty, in
            the order they were given; infinite for those not tried.
    """

    weights: np.ndarray
    penalty: np.ndarray
    validation_loss: np.ndarray


def fit_poisson_ridge(
    features: np.ndarray,
    counts: np.ndarray,
    penalty: float | np.ndarray,
    *,
    offset: np.ndarray | None = None,
    center: np.ndarray | None = None,
    penalized: np.ndarray | None = None,
    init: np.ndarray | None = None,
    tolerance: float = 1e-10,
    max_steps: int = 100,
    curvature: SharedCurvature | None = None,
) -> np.ndarray:
    """Weights `(F, U)` that minimize the penalized Poisson negative log likelihood of each unit.

    Args:
        features: `(R, F)`, finite.
        counts: `(R, U)` spikes per bin, >= 0 and finite.
        penalty: Scalar or `(U,)`, >= 0. In units of the summed negative log likelihood, so it does not grow with R.
        offset: `(R, U)` log-rate that is added as it is.
        center: `(F, U)` weights that the penalty pulls towards; zeros by default.
        penalized: `(F,)` bool; False leaves a weight free. All are penalized by default.
        init: `(F, U)` where to start; by default `center` with the mean rate in a free constant column.
        tolerance: A unit is done when a further step would gain less than `tolerance * (1 + spikes)` nats.
        max_steps: So many steps at most; a unit that is not done by then keeps the best weights it has.
        curvature: Of these features, to step by instead of every unit's own; worth it for hundreds of features.

    Raises:
        ValueError: Shapes disagree, or features, counts, offset or penalty hold a value that is not allowed.
    """
    problem = PoissonProblem.check(features, counts, offset, center, penalized)
    penalties = np.broadcast_to(np.asarray(penalty, dtype=float), (problem.counts.shape[1],))
    _check_penalty(penalties)
    weights = problem.start() if init is None else np.array(init, dtype=float)
    if weights.shape != problem.center.shape:
        raise ValueError(f"init has shape {weights.shape}, expected {problem.center.shape} (features, units)")
    newton = Newton(problem, tolerance, max_steps)
    if curvature is not None:
        newton = QuasiNewton(problem, tolerance, max_steps, curvature)
    return newton.minimize(weights, penalties)


def choose_penalty(
    features: np.ndarray,
    counts: np.ndarray,
    validation_features: np.ndarray,
    validation_counts: np.ndarray,
    penalties: np.ndarray | list[float] | tuple[float, ...],
    *,
    per_unit: bool = True,
    offset: np.ndarray | None = None,
    validation_offset: np.ndarray | None = None,
    center: np.ndarray | None = None,
    penalized: np.ndarray | None = None,
    tolerance: float = 1e-8,
) -> PenaltyChoice:
    """Fit every penalty of a grid and keep, for each unit, the one with the lowest validation loss.

    The grid is walked from the strongest penalty to the weakest, each fit starting from the one before. Ties go to the
    stronger penalty. Nothing is refitted on validation rows. With one penalty for all units the walk ends once two in a
    row were worse than the best: the loss along the path has one valley, and the weakest penalties cost the most.

    Args:
        features: `(R, F)` train rows; see `fit_poisson_ridge` for this and the arguments not listed here.
        counts: `(R, U)`.
        validation_features: `(V, F)`.
        validation_counts: `(V, U)`.
        penalties: The grid, in any order.
        per_unit: False takes one penalty for all units, by the summed validation loss.
        offset: `(R, U)`.
        validation_offset: `(V, U)`; needed with `offset`.
        center: `(F, U)`.
        penalized: `(F,)`.
        tolerance: As in `fit_poisson_ridge`.

    Raises:
        ValueError: As `fit_poisson_ridge`; or an empty grid, or only one of the two offsets.
    """
    given = np.asarray(penalties, dtype=float)
    order = np.argsort(given)[::-1]
    grid = given[order]
    if not len(grid):
        raise ValueError("penalties is empty, expected at least one value")
    if (offset is None) != (validation_offset is None):
        raise ValueError("offset and validation_offset: got one of the two, expected both or neither")
    problem = PoissonProblem.check(features, counts, offset, center, penalized)
    held = PoissonProblem.check(validation_features, validation_counts, validation_offset, center, penalized)
    newton, weights = Newton(problem, tolerance, max_steps=100), problem.start()
    path, losses = [], []
    for value in grid:
        penalty = np.full(problem.counts.shape[1], value)
        _check_penalty(penalty)
        weights = newton.minimize(weights, penalty)
        path.append(weights)
        losses.append(held.loss(weights, np.zeros_like(penalty)))
        summed = [one.sum() for one in losses]
        if not per_unit and len(summed) > 2 and min(summed[-2:]) > min(summed):
            break
    loss = np.stack(losses)
    best = np.argmin(loss, axis=0) if per_unit else np.full(loss.shape[1], np.argmin(loss.sum(axis=1)))
    chosen = np.stack(path)[best, :, np.arange(loss.shape[1])].T
    every = np.full((len(grid), loss.shape[1]), np.inf)
    every[: len(loss)] = loss
    return PenaltyChoice(np.ascontiguousarray(chosen), grid[best], every[np.argsort(order)])


def log_rate(features: np.ndarray, weights: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
    """Log of the expected count `(R, U)`, at most 20."""
    eta = features @ weights
    return np.minimum(eta if offset is None else eta + offset, MAX_LOG_RATE)


def _check_penalty(penalty: np.ndarray) -> None:
    if not (np.isfinite(penalty).all() and (penalty >= 0).all()):
        raise ValueError(f"penalty is {penalty}, expected finite numbers >= 0")
