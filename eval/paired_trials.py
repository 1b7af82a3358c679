"""Two predictions of one session on the same test trials: their difference, and how sure it is for this session.

Test trials are drawn again in blocks that follow one another, so that what neighbors share is not counted as evidence.
With one new animal and one session this is the only interval there is; it says nothing of other animals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eval import metrics
from eval.predictions import LABEL_TASKS, RATE_TASKS, VALUE_TASKS, Prediction, traced
from eval.scoring import scored_rates, scored_values
from eval.session_view import SessionView
from eval.statistics import Interval, block_interval, trial_blocks


class PairedTrials(NamedTuple):
    """A metric in which the first prediction is better by `gain.mean`; `gain.n` blocks of trials were drawn."""

    metric: str
    gain: Interval


def paired_trials(first: Prediction, second: Prediction, view: SessionView) -> PairedTrials | None:
    """How much better `first` is than `second` on the test trials of a view.

    Rates in `bps` (pooled over units), values in `r2`, labels in `cross_entropy_bits` (the second's less the first's:
    above 0 is better in all three). None for a task that has no sum over trials (`choice_t`, regions).

    Raises:
        ValueError: A prediction lacks a scored row, trial or unit.
    """
    if first.task in RATE_TASKS:
        one, other = scored_rates(first, view), scored_rates(second, view)
        nats = [metrics.poisson_log_likelihood(each.rate.T, one.counts.T) for each in (one, other)]
        return _paired("bps", (nats[0] - nats[1]) / np.log(2), one.counts.sum(axis=1), view.trial[one.rows], view)
    if first.task not in LABEL_TASKS and first.task not in VALUE_TASKS and traced(first.task) is None:
        return None
    truth, mine, _, trial = scored_values(first, view)
    truth, values = truth.astype(float), [scored_values(second, view).value.astype(float), mine.astype(float)]
    if first.task in LABEL_TASKS:
        bits = [metrics.cross_entropy_of_trials(truth, value) for value in values]
        return _paired("cross_entropy_bits", bits[0] - bits[1], np.ones(len(trial)), trial, view)
    # A value that never changes has no R2; by its values, as in `eval.metrics.r2`.
    if not len(truth) or truth.min() == truth.max():
        return None
    errors = [(truth - value) ** 2 for value in values]
    return _paired("r2", errors[0] - errors[1], (truth - truth.mean()) ** 2, trial, view)


def _paired(
    metric: str, gain: np.ndarray, weight: np.ndarray, trial: np.ndarray, view: SessionView
) -> PairedTrials | None:
    if not weight.sum() > 0:
        return None
    # Blocks of all test trials: one that is not scored breaks no block.
    every = view.trials_in("test", full=True)
    block = trial_blocks(every)[np.searchsorted(every, trial)]
    return PairedTrials(metric, block_interval(gain, weight, block))
