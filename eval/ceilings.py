"""Noise ceilings: how well condition and time alone could predict these very trials; fits no model.

A PSTH of few trials is noisy, so even true rates do not reach R2 = 1, and spikes are random, so even they have a finite
number of bits per spike. Neither ceiling knows of what differs between trials of one condition: a model may pass it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eval.metrics import poisson_log_likelihood
from eval.psth import MIN_TRIALS, Cells

WIDTHS = (0.0, 1.0, 2.0, 4.0, 8.0)
PRIOR_TRIALS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)


def psth_ceiling_of_units(
    counts: np.ndarray,
    condition: np.ndarray,
    bin: np.ndarray,
    trial: np.ndarray,
    *,
    rng: np.random.Generator,
    num_splits: int = 50,
    min_trials: int = MIN_TRIALS,
) -> np.ndarray:
    """The R2 that true condition means reach in `eval.psth.psth_r2_of_units` on these trials, by split halves, `(U,)`.

    Over random halves A, B of the trials of each condition, the mean covariance over cells of the PSTHs of A and of B
    is the variance of the true PSTH, since the noise of two halves is independent; divided by the variance of the PSTH
    of all trials it is the share that is not noise. For halves of equal size and variance this is their correlation r
    with the correction of Spearman and Brown, 2 r / (1 + r), and the squared CC_max of Hsu, Borst & Theunissen 2004
    (Schoppe et al. 2016), but without the pole at r = -1. Whole trials are split, so that noise shared by the
    bins of a trial counts as noise.

    Returns:
        Unclipped: a unit without any signal scatters about 0. NaN where the PSTH is flat. A ratio of two estimates: in
        simulations 0.03 too low with 80 cells of 5 trials, as is the R2 of the true rates, and 0.003 with 400.

    Args:
        counts: `(R, U)`.
        condition: `(R,)` integers, negative for none.
        bin: `(R,)` bin in the trial.
        trial: `(R,)` integers.
        rng: Draws the halves.
        num_splits: More make the ceiling depend less on the draws.
        min_trials: Of a cell, as in `eval.psth.Cells`.

    Raises:
        ValueError: No condition has enough trials.
    """
    cells = Cells.of(condition, bin, min_trials)
    if len(cells.size) < 2:
        raise ValueError(f"ceiling: {len(cells.size)} cells with {min_trials} trials, expected two at least")
    total = cells.sums(counts)
    _, first, of_row = np.unique(trial, return_index=True, return_inverse=True)
    signal, variance = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for _ in range(num_splits):
        half = _halves(condition[first], rng)[of_row]
        size = cells.sums(half[:, None])
        part = cells.sums(counts * half[:, None])
        # A cell of few trials may fall into one half as a whole.
        both = ((size > 0) & (size < cells.size[:, None]))[:, 0]
        size_a, size_all = size[both], cells.size[both, None]
        a, b = part[both] / size_a, (total - part)[both] / (size_all - size_a)
        signal += ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).mean(axis=0)
        variance += (total[both] / size_all).var(axis=0)
    return np.divide(signal, variance, out=np.full(len(signal), np.nan), where=variance > 0)


class OracleRates(NamedTuple):
    """Rates `(R, U)` of each row from the other trials of its condition, and the smoothing that was chosen for them."""

    rate: np.ndarray
    width_bins: float
    prior_trials: float


def oracle_rates(
    counts: np.ndarray, condition: np.ndarray, bin: np.ndarray, trial: np.ndarray, null_rate: np.ndarray
) -> OracleRates:
    """Expected counts of each trial from all others of its condition: their score is the oracle of condition and time.

    The rate in a bin is the mean over the other trials of the condition, weighted by a Gaussian of the distance in bins
    (peak 1), with `prior_trials` more trials at `null_rate`. Width and prior are one pair for all units, the one with
    the highest likelihood of the trials left out; two numbers for a whole session, so what their choice adds is small.
    Score the rates with `eval.metrics.bits_per_spike`. On average they stay below the true condition means, by half a
    nat per unit, condition and bin where nothing is smoothed, however many trials there are: few bits per spike only
    with many spikes.

    Args:
        counts: `(R, U)` of the trials that are scored.
        condition: `(R,)` integers; a row of a negative one gets the null.
        bin: `(R,)` bin in the trial.
        trial: `(R,)` integers.
        null_rate: `(U,)` positive, such as the mean count of train rows.
    """
    counts = np.asarray(counts, dtype=float)
    num_bins = int(bin.max()) + 1
    distance = np.subtract.outer(np.arange(num_bins), np.arange(num_bins))
    groups = [
        [np.flatnonzero((trial == t) & (condition == c)) for t in np.unique(trial[condition == c])]
        for c in np.unique(condition[condition >= 0])
    ]
    best, found = -np.inf, OracleRates(np.tile(null_rate, (len(counts), 1)), 0.0, np.inf)
    for width in WIDTHS:
        kernel = np.exp(-0.5 * (distance / width) ** 2) if width else (distance == 0).astype(float)
        spikes, trials = np.zeros(counts.shape), np.zeros((len(counts), 1))
        for rows_of_trials in groups:
            sums, size = np.zeros((num_bins, counts.shape[1])), np.zeros(num_bins)
            for rows in rows_of_trials:
                sums[bin[rows]] += counts[rows]
                size[bin[rows]] += 1
            sums, size = kernel @ sums, kernel @ size
            for rows in rows_of_trials:
                own = kernel[np.ix_(bin[rows], bin[rows])]
                # Differences of whole numbers times weights: what is left of nothing is rounding, not spikes.
                spikes[rows] = np.maximum(sums[bin[rows]] - own @ counts[rows], 0)
                trials[rows, 0] = np.maximum(size[bin[rows]] - own.sum(axis=1), 0)
        for prior in PRIOR_TRIALS:
            rate = (spikes + prior * null_rate) / (trials + prior)
            if (fit := float(poisson_log_likelihood(rate, counts).sum())) > best:
                best, found = fit, OracleRates(rate, width, prior)
    return found


def _halves(condition: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`(M,)` bool: a random half of the trials of each condition; of an odd number the odd one is in either half."""
    order = rng.permutation(len(condition))
    order = order[np.argsort(condition[order], kind="stable")]
    ranked = condition[order]
    place = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    _, group = np.unique(ranked, return_inverse=True)
    half = np.empty(len(condition), bool)
    half[order] = (place + rng.integers(2, size=group.max() + 1)[group]) % 2 == 0
    return half
