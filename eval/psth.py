"""Peri-stimulus time histograms: means over trials of one condition in each bin, R2 of predicted ones, and the rest.

Knows arrays alone; which trials share a condition is for the caller to say (`eval.scoring.conditions`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.metrics import RATE_FLOOR, checked_rates, r2_of_columns

MIN_TRIALS = 4


@dataclass(frozen=True)
class Cells:
    """Rows of one condition and bin, C cells.

    Trials start together and end when they end: a cell holds the trials of its condition that last that long, and
    exists where at least `min_trials` do. Nothing is stretched, padded or extrapolated.

    Attributes:
        rows: `(K,)` rows that are in a cell, those of one cell behind one another.
        first: `(C,)` where each cell starts in `rows`.
        size: `(C,)` trials of each cell.
        condition: `(C,)` of each cell.
        bin: `(C,)` of each cell.
    """

    rows: np.ndarray
    first: np.ndarray
    size: np.ndarray
    condition: np.ndarray
    bin: np.ndarray

    @classmethod
    def of(cls, condition: np.ndarray, bin: np.ndarray, min_trials: int = MIN_TRIALS) -> Cells:
        """Group rows.

        Args:
            condition: `(R,)` integers; negative for a row of a trial without a condition.
            bin: `(R,)` bin in the trial; a trial has one row per bin.
            min_trials: Below this a cell is left out.
        """
        rows = np.lexsort((bin, condition))
        rows = rows[condition[rows] >= 0]
        pairs = np.column_stack([condition[rows], bin[rows]])
        keys, size = np.unique(pairs, axis=0, return_counts=True)
        keep = size >= min_trials
        rows, keys, size = rows[np.repeat(keep, size)], keys[keep], size[keep]
        return cls(rows, np.cumsum(size) - size, size, keys[:, 0], keys[:, 1])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of the rows of `values (R, U)` in each cell, `(C, U)`."""
        if not len(self.size):
            return np.zeros((0, values.shape[1]))
        return np.asarray(np.add.reduceat(values[self.rows].astype(float), self.first, axis=0))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of the rows of `values (R, U)` in each cell, `(C, U)`: the PSTHs, conditions one after another."""
        return self.sums(values) / self.size[:, None]


def psth_r2_of_units(rate: np.ndarray, counts: np.ndarray, cells: Cells) -> np.ndarray:
    """R2 of each unit's predicted PSTH over all conditions and bins, `(U,)`; NaN where the true one is flat.

    Both PSTHs are means over the same trials, each cell counts once whatever its number of trials, nothing is smoothed
    or clipped. That of the Neural Latents Benchmark (Pei et al. 2021, `nlb_tools.evaluation.eval_psth`), which smooths
    the true PSTHs beforehand; its score is the mean over units. Even true rates stay below 1: `eval.ceilings`.

    Args:
        rate: `(R, U)` expected count per bin.
        counts: `(R, U)`.
        cells: Of these rows.

    Raises:
        ValueError: No cell, or a rate in one that is not finite.
    """
    if not len(cells.size):
        raise ValueError("PSTH R2: no condition has enough trials, expected one at least; leave the score out")
    return r2_of_columns(cells.means(counts), cells.means(rate))


def given_the_sums(rate: np.ndarray, counts: np.ndarray, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates that have the right sum in every cell, the counts, and the rates of a null: all trials of a cell alike.

    Poisson counts of a cell, given their sum, are multinomial with shares rate / sum of the rates; that likelihood is
    the Poisson one of rates scaled to the sum. Deviances of what this returns therefore say how well a prediction tells
    trials of one condition apart, and nothing else: every prediction that is the same in all trials of a condition, be
    it the true PSTH, has that of the null.

    Args:
        rate: `(R, U)` expected count per bin.
        counts: `(R, U)`.
        cells: Of these rows.

    Returns:
        Each `(K, U)`, rows as in `cells.rows`.

    Raises:
        ValueError: A rate that is not finite or negative.
    """
    rate, counts = checked_rates(rate, counts)
    total = cells.sums(counts)
    scale = total / np.maximum(cells.sums(rate), RATE_FLOOR)
    own = np.repeat(np.arange(len(cells.size)), cells.size)
    return rate[cells.rows] * scale[own], counts[cells.rows], (total / cells.size[:, None])[own]


def residuals(values: np.ndarray, cells: Cells) -> np.ndarray:
    """Rows of `values (R, U)` less the mean of their cell, `(K, U)`, rows as in `cells.rows`."""
    return np.asarray(values[cells.rows] - np.repeat(cells.means(values), cells.size, axis=0))
