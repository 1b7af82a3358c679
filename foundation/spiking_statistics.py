"""How units spike beyond what a model expects: dispersion, pull of their own past, coupling; builds no expectation.

Counts and expected counts are rows of windows, one window after the other. Units are treated alike and their order is
never read, so permuting the units permutes the rows of every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from foundation.poisson_ridge import fit_poisson_ridge, log_rate

BLOCKS_S = (0.02, 0.06, 0.12, 0.24)
OWN_LAGS_S = (0.02, 0.04, 0.06, 0.1, 0.18, 0.28, 0.4)
NUM_COUPLINGS = 7
# Ridge under which the likelihood of history weights is looked at; its pull is taken out again.
_RIDGE = 3.0
_TOLERANCE = 1e-6
_FLOOR = 1e-4


def lag_edges(lags_s: Sequence[float], bin_size_s: float) -> np.ndarray:
    """Edges `(L + 1,)`, in bins from 0, of lag windows that end at `lags_s` seconds; a bin at least, none twice."""
    return np.unique([0, *(max(1, round(lag / bin_size_s)) for lag in lags_s)])


def dispersion(counts: np.ndarray, rates: np.ndarray, lengths: np.ndarray, bin_size_s: float) -> np.ndarray:
    """Dispersion left after the model, `(N, 10)`, 0 where counts are Poisson.

    Log ratios to a Poisson process of the expected rates: numbers of bins with 0, 1, 2, 3 or more spikes; Fano factors
    of the residuals in blocks of `BLOCKS_S` and in whole windows; number of silent windows.

    Args:
        counts: `(R, N)`.
        rates: `(R, N)` expected counts, above 0.
        lengths: `(W,)` bins of each window.
        bin_size_s: Seconds.
    """
    columns, poisson, left = [], np.exp(-rates), 1.0
    for k in range(3):
        columns.append(_log_ratio((counts == k).sum(axis=0), poisson.sum(axis=0)))
        left, poisson = left - poisson, poisson * rates / (k + 1)
    columns.append(_log_ratio((counts >= 3).sum(axis=0), np.maximum(left, 0).sum(axis=0)))
    window, step = _places(lengths)
    for block_s in BLOCKS_S:
        size = min(max(1, round(block_s / bin_size_s)), int(lengths.max()))
        whole = step < (lengths // size * size)[window]
        blocks = np.cumsum((step % size == 0)[whole])
        columns.append(_log_fano(_sums(counts[whole], blocks), _sums(rates[whole], blocks)))
    total, expected = _sums(counts, window), _sums(rates, window)
    columns.append(_log_fano(total, expected))
    columns.append(_log_ratio((total == 0).sum(axis=0), np.exp(-expected).sum(axis=0)))
    return np.stack(columns, axis=1)


def coupling(counts: np.ndarray, rates: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Correlations of a unit's residuals with every other unit's, `(N, NUM_COUPLINGS)`; zeros for a single unit.

    Mean and standard deviation over the others in the same bin; means when this unit follows and when it leads by 1 and
    by 2 to 4 bins (summed); mean for whole windows. Means do not grow with the number of units recorded.

    Args:
        counts: `(R, N)`.
        rates: `(R, N)` expected counts, above 0.
        lengths: `(W,)` bins of each window.
    """
    num = counts.shape[1]
    if num == 1:
        return np.zeros((1, NUM_COUPLINGS))
    window, _ = _places(lengths)
    z = _standardized((counts - rates) / np.sqrt(np.maximum(rates, _FLOOR)))
    pairs = _others(z.T @ z / len(z))
    columns = [pairs.mean(axis=1), pairs.std(axis=1)]
    for lags in ((1,), (2, 3, 4)):
        both = np.zeros((num, num))
        for lag in lags:
            rows = np.flatnonzero(window[lag:] == window[:-lag])
            both += z[rows + lag].T @ z[rows] / max(len(rows), 1)
        columns += [_others(both).mean(axis=1), _others(both.T).mean(axis=1)]
    whole = _standardized(_sums(z, window) / np.sqrt(lengths)[:, None])
    columns.append(_others(whole.T @ whole / len(whole)).mean(axis=1))
    return np.stack(columns, axis=1)


def history_evidence(
    counts: np.ndarray, log_rates: np.ndarray, lengths: np.ndarray, bin_size_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """What counts say of each unit's L history weights, as a Gaussian: precisions `(N, L, L)`, linear terms `(N, L)`.

    The log rate is the model's plus weights on the unit's recent residuals (counts less expected counts, 0 before the
    window starts) summed in lag windows of `OWN_LAGS_S`; a constant is fitted beside and integrated out. Laplace's
    approximation of the likelihood, at the minimum under a weak ridge.

    Args:
        counts: `(R, N)`.
        log_rates: `(R, N)` log expected counts.
        lengths: `(W,)` bins of each window.
        bin_size_s: Seconds.
    """
    row, first = np.arange(len(counts)), np.arange(len(counts)) - _places(lengths)[1]
    total = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts - np.exp(log_rates), axis=0)])
    reach = [
        (np.maximum(row - a, first), np.maximum(row - b, first)) for a, b in pairwise(lag_edges(OWN_LAGS_S, bin_size_s))
    ]
    pulled = np.arange(len(reach) + 1) > 0
    precisions, linear = [], []
    for n in range(counts.shape[1]):
        design = np.stack([np.ones(len(row)), *(total[a, n] - total[b, n] for a, b in reach)], axis=1)
        offset = log_rates[:, [n]]
        found = fit_poisson_ridge(design, counts[:, [n]], _RIDGE, offset=offset, penalized=pulled, tolerance=_TOLERANCE)
        hessian = (design * np.exp(log_rate(design, found, offset))).T @ design
        # Integrating the constant out leaves the Schur complement.
        inner = hessian[1:, 1:] - np.outer(hessian[1:, 0], hessian[0, 1:]) / max(hessian[0, 0], _FLOOR)
        precisions.append(inner)
        linear.append(inner @ found[1:, 0] + _RIDGE * found[1:, 0])
    return np.stack(precisions), np.stack(linear)


def history_prior(precisions: np.ndarray, linear: np.ndarray, rounds: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Mean `(L,)` and covariance `(L, L)` of history weights over units, from their evidence.

    Expectation maximization (Dempster et al. 1977), as `foundation.weight_prior` does for weights on shared features.
    """
    size = linear.shape[1]
    mean, covariance = np.zeros(size), 0.3 * np.eye(size)
    for _ in range(rounds):
        centers = history_weights(precisions, linear, mean, covariance)
        mean = centers.mean(axis=0)
        away = centers - mean
        spread = np.linalg.inv(precisions + np.linalg.inv(covariance)).mean(axis=0)
        covariance = spread + away.T @ away / len(away)
    return mean, covariance


def history_weights(precisions: np.ndarray, linear: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Posterior means `(N, L)` under a prior."""
    pull = np.linalg.inv(covariance)
    return np.asarray(np.linalg.solve(precisions + pull, (linear + pull @ mean)[:, :, None])[:, :, 0])


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Window of each row, and bin within it: `(R,)` each."""
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(np.arange(len(lengths)), lengths), np.arange(len(first)) - first


def _sums(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums over runs of rows of the same group."""
    return np.add.reduceat(values, np.flatnonzero(np.diff(group, prepend=-1)), axis=0, dtype=float)


def _log_ratio(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.log((observed + 1.0) / (expected + 1.0))


def _log_fano(counts: np.ndarray, rates: np.ndarray) -> np.ndarray:
    return np.log(((counts - rates) ** 2).mean(axis=0) + 0.01) - np.log(rates.mean(axis=0) + 0.01)


def _standardized(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1, or 0 where constant."""
    away = values - values.mean(axis=0)
    scale = away.std(axis=0)
    return np.asarray(away / np.where(scale > 1e-9, scale, np.inf))


def _others(square: np.ndarray) -> np.ndarray:
    """`(N, N - 1)`: rows without the diagonal."""
    return square[~np.eye(len(square), dtype=bool)].reshape(len(square), -1)
