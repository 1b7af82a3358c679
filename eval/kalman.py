"""Kalman filter and smoother that decode behavior in time from spikes; what they are compared with is elsewhere.

The observed-state form of motor decoding (Wu, Gao, Bienenstock, Donoghue & Black 2006, Neural Computation 18:80): the
behavior is the state, x_{t+1} = A x_t + w, and square roots of counts are its noisy linear read-out, z_t = C x_t + q
with full covariance Q. All parameters have closed forms on train trials. States are few and units many, so inference
runs in information form: C' Q^-1 z_t is all that the state has to know of the spikes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from eval.design import standardize, window_mean
from eval.linear_fits import ScalarFit
from eval.session_view import SessionView
from foundation.task_basis import hats

# Chosen on validation, in seconds: the window of the counts; by how much the spikes lead the behavior; how much of the
# behavior's past the state remembers (one bin: its derivative too; more: spikes that follow the behavior).
WINDOWS_S = (0.02, 0.06, 0.12)
LAGS_S = (0.0, 0.04, 0.1)
PASTS_S = (0.0, 0.02, 0.1)
# Share of Q that is replaced by its mean variance times the identity, and what Q is multiplied by: the noise of
# neighboring bins is correlated, which the model does not know and would be too sure of.
SHRINKAGES = (0.01, 0.1, 0.5, 0.9)
INFLATIONS = (1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class LinearSystem:
    """How the state moves, about a mean of zero; s numbers per bin.

    Attributes:
        transition: A, `(s, s)`.
        process: Covariance of w, `(s, s)`.
        initial_mean: Of the state in the first bin of a trial, `(s,)`.
        initial_covariance: `(s, s)`.
    """

    transition: np.ndarray
    process: np.ndarray
    initial_mean: np.ndarray
    initial_covariance: np.ndarray

    @classmethod
    def fit(cls, state: np.ndarray, trial: np.ndarray, keep: np.ndarray) -> LinearSystem:
        """Maximum likelihood with the least ridge that makes it unique (Wu et al. 2006, equation 4.1).

        Args:
            state: `(R, s)`, the bins of a trial in successive rows.
            trial: `(R,)` which trial each row is of.
            keep: `(R,)` bool: rows that may be used and whose state is known. The first of each trial tell of the
                initial state, or all of them where there is only one such trial.

        Where no two successive bins may be used, those of a trial are taken to be independent.

        Raises:
            ValueError: No row may be used.
        """
        used = np.flatnonzero(keep)
        if not len(used):
            raise ValueError(f"none of {len(keep)} rows is a train row with a known state; expected some")
        begin = used[np.unique(trial[used], return_index=True)[1]]
        start = state[begin if len(begin) > 1 else used]
        mean = start.mean(axis=0)
        initial = (start - mean).T @ (start - mean) / len(start)
        after = np.flatnonzero((trial[1:] == trial[:-1]) & keep[1:] & keep[:-1]) + 1
        if not len(after):
            return cls(np.zeros((state.shape[1],) * 2), state[used].T @ state[used] / len(used), mean, initial)
        before, now = state[after - 1], state[after]
        tiny = 1e-8 * np.trace(before.T @ before) / before.shape[1] + 1e-12
        transition = np.linalg.solve(before.T @ before + tiny * np.eye(before.shape[1]), before.T @ now).T
        noise = now - before @ transition.T
        return cls(transition, noise.T @ noise / len(noise), mean, initial)


@dataclass(frozen=True)
class Filtered:
    """Beliefs of N trials of up to T bins under K systems of observation; covariances are the same for all trials.

    Attributes:
        predicted_mean: Of the state given the observations before the bin, `(K, N, T, s)`.
        predicted_covariance: `(K, T, s, s)`.
        mean: Given those of the bin, too.
        covariance: Likewise.
    """

    predicted_mean: np.ndarray
    predicted_covariance: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray


def kalman_filter(system: LinearSystem, evidence: np.ndarray, information: np.ndarray, seen: np.ndarray) -> Filtered:
    """Beliefs about the state from the observations so far.

    Args:
        system: How the state moves.
        evidence: C' Q^-1 z of each bin, `(K, N, T, s)`; beyond a trial's end anything finite.
        information: C' Q^-1 C, `(K, s, s)`.
        seen: `(T,)` bool: bins with an observation.
    """
    kinds, trials, bins, size = evidence.shape
    mean = np.broadcast_to(system.initial_mean, (kinds, trials, size))
    covariance = np.broadcast_to(system.initial_covariance, (kinds, size, size))
    means, covariances = np.empty((2, *evidence.shape)), np.empty((2, kinds, bins, size, size))
    for t in range(bins):
        if t:
            mean = mean @ system.transition.T
            covariance = system.transition @ covariance @ system.transition.T + system.process
        means[0, :, :, t], covariances[0, :, t] = mean, covariance
        if seen[t]:
            # (P^-1 + J)^-1, written so that P may be singular.
            covariance = np.linalg.solve(np.eye(size) + covariance @ information, covariance)
            covariance = (covariance + covariance.swapaxes(-1, -2)) / 2
            mean = mean + (evidence[:, :, t] - mean @ information) @ covariance
        means[1, :, :, t], covariances[1, :, t] = mean, covariance
    return Filtered(means[0], covariances[0], means[1], covariances[1])


def rts_smoother(system: LinearSystem, filtered: Filtered, num_bins: np.ndarray) -> np.ndarray:
    """Means `(K, N, T, s)` given all observations of the trial (Rauch, Tung & Striebel 1965).

    Args:
        system: As in the filter.
        filtered: What the filter found.
        num_bins: `(N,)` length of each trial; what is returned beyond it means nothing.
    """
    mean = filtered.mean.copy()
    for t in range(mean.shape[2] - 2, -1, -1):
        ahead = filtered.predicted_covariance[:, t + 1]
        tiny = 1e-10 * np.trace(ahead, axis1=-2, axis2=-1)[:, None, None] * np.eye(ahead.shape[-1])
        # The gain, transposed; covariances are symmetric.
        gain = np.linalg.solve(ahead + tiny, system.transition @ filtered.covariance[:, t])
        change = (mean[:, :, t + 1] - filtered.predicted_mean[:, :, t + 1]) @ gain
        mean[:, :, t] += np.where((t + 1 < num_bins)[:, None], change, 0.0)
    return mean


def kalman_fit(view: SessionView, name: str, *, causal: bool) -> ScalarFit:
    """The first dimension of a continuous behavior `(R,)`, decoded by the filter, or, acausal, by the smoother.

    The state is the behavior in the last few bins, or all continuous behaviors of the session together (position,
    velocity and acceleration, say). Its mean over the time in trial, and that of the observations, is known.

    Args:
        view: The session.
        name: A continuous covariate of scope `time`.
        causal: Whether spikes after the bin are out of bounds.

    Raises:
        ValueError: No train bin has the behavior.
    """
    behavior = view.row_covariates[name]
    target = behavior.values[:, 0].astype(float)
    train, val = view.rows_in("train"), view.rows_in("val") & behavior.observed
    time = hats(view.time_s, np.linspace(view.bin_size_s, float(view.time_s[train & behavior.observed].max()), 8))
    observations = list(_observations(view, time, causal=causal))
    best: tuple[float, _Decoder, np.ndarray] | None = None
    for state, known in _states(view, name):
        keep = train & known
        course = _time_course(state, time, keep)
        centered = np.where(known[:, None], state - course, 0.0)
        scale = np.maximum(centered[keep].std(axis=0), 1e-9)
        system = LinearSystem.fit(centered / scale, view.trial, keep)
        for near, spikes in observations:
            fitted = keep & (view.bin >= near)
            if not fitted.any():
                continue
            weights, information = read_out(spikes, centered / scale, fitted)
            decoder = _Decoder(system, spikes, weights, information, near, causal)
            value = course[:, 0] + scale[0] * decoder(view, np.unique(view.trial[val]))
            losses = np.mean((value[:, val] - target[val]) ** 2, axis=1)
            k = int(np.argmin(losses))
            if best is None or losses[k] < best[0]:
                chosen = replace(decoder, weights=weights[k : k + 1], information=information[k : k + 1])
                best = float(losses[k]), chosen, np.stack([course[:, 0], np.full(len(target), scale[0])])
    assert best is not None
    loss, decoder, (mean, spread) = best
    return ScalarFit(mean + spread * decoder(view, np.arange(len(view.num_bins)))[0], loss)


def read_out(spikes: np.ndarray, state: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the state has to know of spikes, for each of the K pairs of `SHRINKAGES` and `INFLATIONS`.

    Args:
        spikes: `(R, U)`, zero mean.
        state: `(R, s)`, zero mean.
        keep: `(R,)` bool: rows to fit on.

    Returns:
        Q^-1 C, `(K, U, s)`, and C' Q^-1 C, `(K, s, s)`.
    """
    x, z = state[keep], spikes[keep]
    tiny = 1e-8 * np.trace(x.T @ x) / x.shape[1] + 1e-12
    emission = np.linalg.solve(x.T @ x + tiny * np.eye(x.shape[1]), x.T @ z).T
    noise = z - x @ emission.T
    values, vectors = scipy.linalg.eigh(noise.T @ noise / len(noise))
    values = np.maximum(values, 0)
    weights = []
    for share in SHRINKAGES:
        spread = np.maximum((1 - share) * values + share * values.mean(), 1e-9)
        whole = vectors @ ((vectors.T @ emission) / spread[:, None])
        weights += [whole / inflation for inflation in INFLATIONS]
    return np.stack(weights), np.stack([emission.T @ w for w in weights])


@dataclass(frozen=True)
class _Decoder:
    """K fitted systems that differ in their observation noise; called, they give the state's first number."""

    system: LinearSystem
    spikes: np.ndarray
    weights: np.ndarray
    information: np.ndarray
    near: int
    causal: bool

    def __call__(self, view: SessionView, trials: np.ndarray) -> np.ndarray:
        """`(K, R)`; NaN in other trials than `trials`."""
        num_bins = view.num_bins[trials]
        inside = np.arange(num_bins.max(initial=1)) < num_bins[:, None]
        rows = view.first_row()[trials][:, None] + np.arange(inside.shape[1])
        evidence = np.zeros((len(self.weights), *inside.shape, self.weights.shape[2]))
        evidence[:, inside] = self.spikes[rows[inside]] @ self.weights
        seen = np.arange(inside.shape[1]) >= self.near
        filtered = kalman_filter(self.system, evidence, self.information, seen)
        mean = filtered.mean if self.causal else rts_smoother(self.system, filtered, num_bins)
        value = np.full((len(self.weights), len(view.trial)), np.nan)
        value[:, rows[inside]] = mean[:, inside, 0]
        return value


def _states(view: SessionView, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Candidates for the state, `(R, s)` with the decoded number first, and whether it is known, `(R,)` bool."""
    row, first, train = np.arange(len(view.trial)), view.first_row()[view.trial], view.rows_in("train")
    behaviors = {
        n: c
        for n, c in view.row_covariates.items()
        if (c.spec.kind, c.spec.role) == ("continuous", "behavior") and c.observed.any()
    }
    values = {n: np.where(c.observed[:, None], c.values, 0.0).astype(float) for n, c in behaviors.items()}
    for past_s in PASTS_S:
        # Before its trial the behavior is taken to have stood where it begins.
        rows = [np.maximum(row - back, first) for back in range(1 + round(past_s / view.bin_size_s))]
        known = np.all([behaviors[name].observed[r] for r in rows], axis=0)
        # A behavior that is seen in every other bin has no past to remember.
        if past_s == 0 or (known & train).any():
            yield np.concatenate([values[name][r] for r in rows], axis=1), known
    others = [n for n in behaviors if n != name]
    known = np.all([c.observed for c in behaviors.values()], axis=0)
    if others and (known & train).sum() > 10 * len(behaviors):
        yield np.concatenate([values[n] for n in (name, *others)], axis=1), known


def _observations(view: SessionView, time: np.ndarray, *, causal: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Square roots of counts in one window, `(R, U)`, and how many bins back it ends (negative: ahead)."""
    first = view.first_row()[view.trial]
    last = first + view.num_bins[view.trial] - 1
    train = view.rows_in("train")
    counts, given = view.counts.astype(float), set()
    for window_s in WINDOWS_S:
        width = max(1, round(window_s / view.bin_size_s))
        for lag_s in LAGS_S:
            near = round(lag_s / view.bin_size_s) - (0 if causal else (width - 1) // 2)
            if (width, near) in given:
                continue
            given.add((width, near))
            roots = np.sqrt(window_mean(counts, first, last, near, near + width - 1))
            yield near, standardize(roots - _time_course(roots, time, train), train)


def _time_course(block: np.ndarray, time: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Mean of `block` `(R, F)` over the rows `keep` as a function of the time in trial."""
    gram = time[keep].T @ time[keep]
    return np.asarray(time @ np.linalg.solve(gram + np.eye(len(gram)), time[keep].T @ block[keep]))
