"""A linear dynamical system with learned parameters: Kalman filter, smoother, k-step prediction, eigenvalues.

x_1 ~ N(mu, S), x_{t+1} = A x_t + w, a_t = C x_t + r, with diagonal covariances W of w, R of r, and S (the shared
system of CANDY, NeurIPS 2025). Everything is differentiable, in all parameters and in the observations. Batches are of
trials of unequal length with missing bins. Knows nothing of neurons or sessions: what it observes are embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Beliefs:
    """Gaussian beliefs about the state in every bin.

    Attributes:
        mean: `(B, T, d)`.
        covariance: `(B, T, d, d)`.
    """

    mean: torch.Tensor
    covariance: torch.Tensor


@dataclass(frozen=True)
class Filtered:
    """What the Kalman filter knows.

    Attributes:
        predicted: Of x_t given the observations before bin t.
        updated: Of x_t given those up to and including bin t; the same as `predicted` in a missing bin.
    """

    predicted: Beliefs
    updated: Beliefs


class LinearDynamics(nn.Module):
    """Parameters of the system, and inference under them.

    Attributes:
        transition: A, `(d, d)`; starts as the identity.
        emission: C, `(m, d)`; starts as standard normal numbers.
        log_process: Log of the diagonal of W, `(d,)`.
        log_observation: Log of the diagonal of R, `(m,)`.
        initial_mean: mu, `(d,)`; starts as 0.
        log_initial: Log of the diagonal of S, `(d,)`. This and the two above start as log .5.
    """

    def __init__(self, state_dimension: int, observed_dimension: int, generator: torch.Generator | None = None) -> None:
        """Draw the emission; the rest has a fixed start.

        Args:
            state_dimension: d.
            observed_dimension: m.
            generator: Of the draw.
        """
        super().__init__()
        d, m = state_dimension, observed_dimension
        half = math.log(0.5)
        self.transition = nn.Parameter(torch.eye(d))
        self.emission = nn.Parameter(torch.randn(m, d, generator=generator))
        self.log_process = nn.Parameter(torch.full((d,), half))
        self.log_observation = nn.Parameter(torch.full((m,), half))
        self.initial_mean = nn.Parameter(torch.zeros(d))
        self.log_initial = nn.Parameter(torch.full((d,), half))

    def filter(self, observed: torch.Tensor, mask: torch.Tensor | None = None) -> Filtered:
        """Kalman filter; in a missing bin the gain is 0.

        Covariances do not depend on what was observed, only on which bins were, so they are worked out once per
        distinct row of the mask.

        Args:
            observed: `(B, T, m)`; finite, of any value where the mask is False.
            mask: `(B, T)` Boolean: the bin was observed. False also after the end of a shorter trial. Default all.

        Raises:
            ValueError: Shapes that do not fit.
        """
        observed, mask = self._checked(observed, mask)
        patterns, which = torch.unique(mask, dim=0, return_inverse=True)
        gains, before, after = self._covariances(patterns)
        a, c = self.transition, self.emission
        # x_{t|t} = (1 - K C) x_{t|t-1} + K a_t, with all that does not wait for the bin before worked out at once.
        kept = (torch.eye(len(a), dtype=a.dtype, device=a.device) - gains @ c)[which].unbind(dim=1)
        moved = gains[which] @ torch.where(mask[..., None], observed, 0.0)[..., None]
        mean = self.initial_mean.expand(len(observed), -1)[..., None]
        predicted, updated = [], []
        for t, move in enumerate(moved.unbind(dim=1)):
            if t:
                mean = a @ mean
            predicted.append(mean[..., 0])
            mean = kept[t] @ mean + move
            updated.append(mean[..., 0])
        return Filtered(
            Beliefs(torch.stack(predicted, dim=1), before[which]), Beliefs(torch.stack(updated, dim=1), after[which])
        )

    def smooth(self, filtered: Filtered) -> Beliefs:
        """Rauch-Tung-Striebel smoother: of x_t given all observed bins of the trial.

        Args:
            filtered: As from `filter`.
        """
        predicted, updated = filtered.predicted, filtered.updated
        # J_t = P_{t|t} A' P_{t+1|t}^-1, for all bins at once.
        crossed = self.transition @ updated.covariance[:, :-1]
        back = torch.linalg.solve(predicted.covariance[:, 1:], crossed).mT
        mean, covariance = updated.mean[:, -1], updated.covariance[:, -1]
        means, covariances = [mean], [covariance]
        for t in range(updated.mean.shape[1] - 2, -1, -1):
            mean = updated.mean[:, t] + (back[:, t] @ (mean - predicted.mean[:, t + 1])[..., None])[..., 0]
            surplus = covariance - predicted.covariance[:, t + 1]
            covariance = _symmetric(updated.covariance[:, t] + back[:, t] @ surplus @ back[:, t].mT)
            means.append(mean)
            covariances.append(covariance)
        return Beliefs(torch.stack(means[::-1], dim=1), torch.stack(covariances[::-1], dim=1))

    def log_likelihood(
        self, observed: torch.Tensor, filtered: Filtered, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log density `(B,)` of the observed bins of each trial, in nats.

        Args:
            observed: `(B, T, m)`, as given to `filter`.
            filtered: What `filter` made of it.
            mask: `(B, T)`, as given to `filter`.
        """
        observed, mask = self._checked(observed, mask)
        c = self.emission
        spread = torch.linalg.cholesky(c @ filtered.predicted.covariance @ c.T + self.log_observation.exp().diag())
        innovation = torch.where(mask[..., None], observed - filtered.predicted.mean @ c.T, 0.0)
        white = torch.linalg.solve_triangular(spread, innovation[..., None], upper=False)[..., 0]
        log_root = spread.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        density = -0.5 * white.square().sum(dim=-1) - log_root - 0.5 * observed.shape[-1] * math.log(2 * math.pi)
        return torch.where(mask, density, 0.0).sum(dim=1)

    def predict(self, state: torch.Tensor, horizon: int) -> torch.Tensor:
        """Expected observations C A^k x of the k = 1..horizon bins to come.

        Args:
            state: `(..., d)` x, such as filtered means.
            horizon: Bins ahead.

        Returns:
            `(horizon, ..., m)`.
        """
        steps = []
        for _ in range(horizon):
            state = state @ self.transition.T
            steps.append(state @ self.emission.T)
        return torch.stack(steps)

    def fit(
        self,
        observed: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        max_iterations: int = 300,
        learning_rate: float = 3e-2,
    ) -> np.ndarray:
        """Learn the system from sequences as they are, such as finished embeddings: Adam on their likelihood.

        No randomness. Bring the sequences to unit scale before; the start assumes it.

        Args:
            observed: `(B, T, m)`, as for `filter`; no gradient goes back to it.
            mask: `(B, T)`, as for `filter`.
            max_iterations: Steps on all trials.
            learning_rate: At the start; falls to 0 in a straight line.

        Returns:
            `(max_iterations,)` negative log density per observed number, in nats, before each step.

        Raises:
            ValueError: Shapes that do not fit, or nothing observed.
        """
        observed, mask = self._checked(observed.detach(), mask)
        count = int(mask.sum()) * observed.shape[2]
        if not count:
            raise ValueError(f"got {len(mask)} trials without an observed bin, expected at least one")
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max_iterations)
        losses = np.zeros(max_iterations)
        for step in range(max_iterations):
            loss = -self.log_likelihood(observed, self.filter(observed, mask), mask).sum() / count
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses[step] = loss.item()
        return losses

    @torch.no_grad()
    def cap_singular_values(self, limit: float) -> None:
        """Bring the singular values of A down to a limit, in place; below 1 the system cannot grow in any direction.

        Done to the parameter after a step of the optimizer, not inside the graph: the derivative of a singular value
        decomposition does not exist where singular values are equal, as they are at the start.
        """
        left, size, right = torch.linalg.svd(self.transition)
        self.transition.copy_(left @ size.clamp(max=limit).diag() @ right)

    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues `(d,)` of A, complex, largest first; of a conjugate pair the one above the real axis first."""
        return sorted_eigenvalues(self.transition.detach().double().cpu().numpy())

    def _covariances(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gains `(U, T, d, m)`, and covariances `(U, T, d, d)` before and after each bin, for rows of a mask.

        They converge geometrically while the mask does not change; once they stand still to rounding they are reused.
        """
        a, c = self.transition, self.emission
        noise, process = self.log_observation.exp().diag(), self.log_process.exp().diag()
        unit = torch.eye(len(a), dtype=a.dtype, device=a.device)
        before = self.log_initial.exp().diag().expand(len(mask), -1, -1)
        gains: list[torch.Tensor] = []
        predicted: list[torch.Tensor] = []
        updated: list[torch.Tensor] = []
        still = 8 * torch.finfo(a.dtype).eps
        same = torch.cat([mask[:, :1] & False, mask[:, 1:] == mask[:, :-1]], dim=1).all(dim=0).tolist()
        for t, seen in enumerate(mask.unbind(dim=1)):
            if same[t] and bool((before - predicted[-1]).abs().amax() <= still * before.abs().amax()):
                gains.append(gains[-1])
                predicted.append(predicted[-1])
                updated.append(updated[-1])
                continue
            predicted.append(before)
            crossed = c @ before
            gain = torch.linalg.solve(crossed @ c.T + noise, crossed).mT * seen[:, None, None]
            # Joseph's form stays symmetric and positive under rounding.
            kept = unit - gain @ c
            after = _symmetric(kept @ before @ kept.mT + gain @ noise @ gain.mT)
            gains.append(gain)
            updated.append(after)
            before = a @ after @ a.T + process
        return torch.stack(gains, dim=1), torch.stack(predicted, dim=1), torch.stack(updated, dim=1)

    def _checked(self, observed: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if mask is None:
            mask = torch.ones(observed.shape[:2], dtype=torch.bool, device=observed.device)
        m = len(self.log_observation)
        if observed.ndim != 3 or observed.shape[2] != m or mask.shape != observed.shape[:2] or not observed.shape[1]:
            raise ValueError(
                f"got observations {tuple(observed.shape)} and a mask {tuple(mask.shape)}; expected (B, T, {m}) and "
                "(B, T), with T >= 1"
            )
        return observed, mask.bool()


def sorted_eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """Eigenvalues of a `(d, d)` matrix, complex, largest magnitude first; of a conjugate pair the upper one first."""
    values = np.linalg.eigvals(matrix).astype(np.complex128)
    return values[np.lexsort((-values.imag, -np.abs(values).round(10)))]


def decay_times_s(eigenvalues: np.ndarray, bin_size_s: float) -> np.ndarray:
    """Time in s in which a mode falls to 1/e: -bin / log|lambda|; infinite for a mode that does not fall."""
    size = np.abs(eigenvalues)
    with np.errstate(divide="ignore"):
        return np.where(size < 1, -bin_size_s / np.log(np.minimum(size, 1)), np.inf)


def frequencies_hz(eigenvalues: np.ndarray, bin_size_s: float) -> np.ndarray:
    """Frequency in Hz at which a mode turns: |arg lambda| / (2 pi bin); 0 for a mode that only falls."""
    return np.abs(np.angle(eigenvalues)) / (2 * np.pi * bin_size_s)


def _symmetric(matrix: torch.Tensor) -> torch.Tensor:
    return (matrix + matrix.mT) / 2
