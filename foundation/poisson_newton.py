"""Newton and quasi-Newton steps for Poisson regressions of many units at once; whose fits these are is elsewhere.

Gradients of all units are two matrix products, while every Hessian costs R·F^2; a unit therefore keeps its Hessian,
over steps and over a grid of penalties, for as long as the steps taken with it keep converging fast (Boyd and
Vandenberghe 2004, Convex Optimization, section 9.5). For hundreds of features there are quasi-Newton steps, that start
from one Hessian of all units.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.linalg

# Above this log-rate the exponential goes on as its tangent: convex, differentiable, and never infinite.
MAX_LOG_RATE = 20.0
# Pull on unpenalized weights: a silent unit would otherwise send its intercept to minus infinity.
_FREE_PENALTY = 1e-8
# A step that leaves more than this share of the Newton decrement asks for a fresh Hessian.
_SLOW = 0.1
# Steps that a quasi-Newton direction remembers.
_MEMORY = 5


@dataclass(frozen=True)
class PoissonProblem:
    """Checked arrays in double precision; shapes as in `foundation.poisson_ridge.fit_poisson_ridge`."""

    features: np.ndarray
    counts: np.ndarray
    offset: np.ndarray | None
    center: np.ndarray
    penalized: np.ndarray

    @classmethod
    def check(
        cls,
        features: np.ndarray,
        counts: np.ndarray,
        offset: np.ndarray | None,
        center: np.ndarray | None,
        penalized: np.ndarray | None,
    ) -> PoissonProblem:
        """Arrays of the right shapes and finite, or a ValueError that names what is not."""
        x, y = np.ascontiguousarray(features, dtype=float), np.ascontiguousarray(counts, dtype=float)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
            raise ValueError(f"features {x.shape} and counts {y.shape}; expected (R, F) and (R, U) with the same R > 0")
        shape = (x.shape[1], y.shape[1])
        o = None if offset is None else np.ascontiguousarray(offset, dtype=float)
        c = np.zeros(shape) if center is None else np.ascontiguousarray(center, dtype=float)
        p = np.ones(shape[0], bool) if penalized is None else np.asarray(penalized, dtype=bool)
        for name, array, expected in (("offset", o, y.shape), ("center", c, shape), ("penalized", p, shape[:1])):
            if array is not None and array.shape != expected:
                raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
        for name, array in (("features", x), ("counts", y), ("offset", o), ("center", c)):
            if array is not None and not np.isfinite(array).all():
                raise ValueError(f"{name} holds {int((~np.isfinite(array)).sum())} non-finite values; drop those rows")
        if (y < 0).any():
            raise ValueError(f"counts holds {y.min()}, expected spikes per bin >= 0")
        return cls(x, y, o, c, p)

    def start(self) -> np.ndarray:
        """The center, with the mean log-rate in the first free constant column: Newton's own first steps, for free."""
        weights = self.center.copy()
        constant = ~self.penalized & (self.features == self.features[0]).all(axis=0) & (self.features[0] != 0)
        if constant.any():
            column = int(np.argmax(constant))
            expected = len(self.counts) if self.offset is None else np.exp(np.minimum(self.offset, 20)).sum(axis=0)
            mean = (self.counts.sum(axis=0) + 0.1) / (np.maximum(expected, 1e-6) + 0.1)
            weights[column] = np.log(mean) / self.features[0, column]
        return weights

    def ridge(self, penalty: np.ndarray) -> np.ndarray:
        """Diagonal of the penalty's Hessian, `(F, U)`."""
        return np.where(self.penalized[:, None], penalty[None, :], _FREE_PENALTY)

    def log_rates(self, weights: np.ndarray) -> np.ndarray:
        """`(R, U)`, before the bound."""
        eta = self.features @ weights
        return eta if self.offset is None else eta + self.offset

    def loss(self, weights: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        """Penalized negative log likelihood of each unit, without the factorial term."""
        return self.loss_at(self.log_rates(weights), weights, self.ridge(penalty), np.arange(weights.shape[1]))

    def loss_at(self, eta: np.ndarray, weights: np.ndarray, ridge: np.ndarray, units: np.ndarray) -> np.ndarray:
        """The same of `units` (A), where their log-rates `(R, A)` and weights `(F, A)` are at hand."""
        over = np.maximum(eta - MAX_LOG_RATE, 0)
        rate = np.exp(eta - over)
        if over.any():
            rate *= 1 + over
        pull = 0.5 * ridge[:, units] * (weights - self.center[:, units]) ** 2
        return rate.sum(axis=0) - np.einsum("ru,ru->u", self.counts[:, units], eta) + pull.sum(axis=0)


class _Point(NamedTuple):
    """Where steps of the active units (A of U) start.

    Attributes:
        active: `(A,)` indices.
        weights: `(F, U)`.
        rate: `(R, A)`.
        gradient: `(F, A)`.
        ridge: `(F, U)` diagonal of the penalty's Hessian.
        before: `(U,)` gain of each unit's last step.
    """

    active: np.ndarray
    weights: np.ndarray
    rate: np.ndarray
    gradient: np.ndarray
    ridge: np.ndarray
    before: np.ndarray


class Newton:
    """Damped Newton steps; holds each unit's likelihood Hessian between steps and between calls."""

    def __init__(self, problem: PoissonProblem, tolerance: float, max_steps: int) -> None:
        num_features, num_units = problem.center.shape
        self.problem = problem
        self.max_steps = max_steps
        self.threshold = tolerance * (1 + problem.counts.sum(axis=0))
        self.hessians = np.zeros((num_units, num_features, num_features))
        self.stale = np.ones(num_units, bool)

    def minimize(self, weights: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        """Weights `(F, U)` at the minimum, starting from `weights`."""
        problem, weights = self.problem, weights.copy()
        ridge = problem.ridge(penalty)
        active = np.arange(weights.shape[1])
        eta = problem.log_rates(weights)
        loss = problem.loss_at(eta, weights, ridge, active)
        before = np.full(weights.shape[1], np.inf)
        for _ in range(self.max_steps):
            rate = np.exp(np.minimum(eta[:, active], MAX_LOG_RATE))
            gradient = problem.features.T @ (rate - problem.counts[:, active])
            gradient += ridge[:, active] * (weights - problem.center)[:, active]
            step, gain = self._steps(_Point(active, weights, rate, gradient, ridge, before))
            before[active] = gain
            going = gain > self.threshold[active]
            active, step, gain = active[going], step[:, going], gain[going]
            if not len(active):
                break
            done = self._search(weights, eta, active, step, gain, loss, ridge)
            active = active[~done]
            if not len(active):
                break
        return weights

    def _steps(self, at: _Point) -> tuple[np.ndarray, np.ndarray]:
        """Newton steps `(F, A)` and half their decrements `(A,)`, the expected gains in nats."""
        active, _, rate, gradient, ridge, before = at
        step, gain = np.empty_like(gradient), np.empty(len(active))
        for k, unit in enumerate(active):
            for _ in range(2):
                if self.stale[unit]:
                    weighted = self.problem.features * np.sqrt(rate[:, k])[:, None]
                    self.hessians[unit] = weighted.T @ weighted
                step[:, k] = _solve(self.hessians[unit], ridge[:, unit], gradient[:, k])
                gain[k] = 0.5 * float(gradient[:, k] @ step[:, k])
                fresh, self.stale[unit] = self.stale[unit], False
                if fresh or gain[k] <= max(_SLOW * before[unit], self.threshold[unit]):
                    break
                self.stale[unit] = True
        return step, gain

    def _search(
        self,
        weights: np.ndarray,
        eta: np.ndarray,
        active: np.ndarray,
        step: np.ndarray,
        gain: np.ndarray,
        loss: np.ndarray,
        ridge: np.ndarray,
    ) -> np.ndarray:
        """Backtracking (Armijo) along each unit's step, in place; True where no shorter step lowers the loss."""
        pending, scale = np.arange(len(active)), 1.0
        # Log-rates are linear in the step: a shorter one costs no product with the features.
        change = self.problem.features @ step
        for _ in range(30):
            units = active[pending]
            trial, rates = weights[:, units] - scale * step[:, pending], eta[:, units] - scale * change[:, pending]
            now = self.problem.loss_at(rates, trial, ridge, units)
            better = now <= loss[units] - 0.2 * scale * gain[pending] + 1e-12 * np.abs(loss[units])
            accepted = units[better]
            weights[:, accepted], eta[:, accepted], loss[accepted] = trial[:, better], rates[:, better], now[better]
            pending, scale = pending[~better], scale / 2
            if not len(pending):
                break
            # A shortened step means that the curvature no longer fits.
            self.stale[active[pending]] = True
        failed = np.zeros(len(active), bool)
        failed[pending] = True
        return failed


@dataclass(frozen=True)
class SharedCurvature:
    """Eigenvectors of X'WX / sum(W) for one profile W of rates: every unit's Hessian is near a multiple of it.

    Attributes:
        values: `(F,)`.
        vectors: `(F, F)`.
        size: `(F,)` what each feature was divided by; free ones by so little that a ridge on them does not matter.
    """

    values: np.ndarray
    vectors: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, rate: np.ndarray, penalized: np.ndarray) -> SharedCurvature:
        """Of features `(R, F)` under a rate profile `(R,)`; `penalized` `(F,)` bool."""
        size = np.where(penalized, 1.0, 1e-4)
        weighted = (features / size) * np.sqrt(rate / rate.mean())[:, None]
        values, vectors = np.linalg.eigh(weighted.T @ weighted / len(rate))
        return cls(np.maximum(values, 0), vectors, size)


class QuasiNewton(Newton):
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.4) that starts from the shared curvature times a unit's rates.

    No Hessian per unit, and the same minimum.
    """

    def __init__(self, problem: PoissonProblem, tolerance: float, max_steps: int, curvature: SharedCurvature) -> None:
        self.problem, self.max_steps, self.curvature = problem, max_steps, curvature
        self.threshold = tolerance * (1 + problem.counts.sum(axis=0))
        self.stale = np.ones(problem.counts.shape[1], bool)
        # Weights and gradients of all units, of the last steps.
        self.past: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_MEMORY + 1)

    def minimize(self, weights: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        """As of Newton; gradients of another penalty are of no use."""
        self.past.clear()
        return super().minimize(weights, penalty)

    def _steps(self, at: _Point) -> tuple[np.ndarray, np.ndarray]:
        active, weights, rate, gradient, ridge, _ = at
        everyone = np.zeros_like(weights)
        everyone[:, active] = gradient
        self.past.append((weights.copy(), everyone))
        pairs = [(w[:, active] - v[:, active], g[:, active] - h[:, active]) for (v, h), (w, g) in pairwise(self.past)]
        c, step, taken = self.curvature, gradient, []
        for move, change in reversed(pairs):
            # The problem is convex: what is not above zero here is round-off, or a unit that stayed.
            bend = _dot(move, change)
            weight = np.divide(1.0, bend, out=np.zeros_like(bend), where=bend > 0)
            taken.append((move, change, weight, weight * _dot(move, step)))
            step = step - taken[-1][3] * change
        diagonal = c.values[:, None] * rate.sum(axis=0) + ridge[:, active].max(axis=0)
        turned = c.vectors.T @ (step / c.size[:, None])
        step = (c.vectors @ (turned / np.maximum(diagonal, np.finfo(float).tiny))) / c.size[:, None]
        for move, change, weight, along in reversed(taken):
            step = step + move * (along - weight * _dot(change, step))
        return step, 0.5 * _dot(gradient, step)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products `(U,)` of columns `(F, U)`."""
    return np.asarray(np.einsum("fu,fu->u", a, b))


def _solve(hessian: np.ndarray, ridge: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(H + diag(ridge))^-1 g; the diagonal grows until the matrix is positive definite to machine precision."""
    matrix = hessian + np.diag(ridge)
    jitter = 1e-12 * (float(np.trace(matrix)) / len(matrix) + 1e-300)
    for _ in range(12):
        try:
            factor = scipy.linalg.cho_factor(matrix, lower=True, check_finite=False)
            return np.asarray(scipy.linalg.cho_solve(factor, gradient, check_finite=False))
        except scipy.linalg.LinAlgError:
            matrix[np.diag_indices_from(matrix)] += jitter
            jitter *= 10
    return gradient / np.maximum(np.diag(matrix), 1e-12)
