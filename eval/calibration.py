"""Calibration of decoders of two classes: predicted probability against observed share. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from eval.metrics import binary_labels

NUM_BINS = 10


class CalibrationCurve(NamedTuple):
    """Bins of predicted probability that hold a trial: mean prediction, share of class 1, and number of trials."""

    predicted: np.ndarray
    observed: np.ndarray
    number: np.ndarray


def calibration_curve(truth: np.ndarray, logit: np.ndarray, num_bins: int = NUM_BINS) -> CalibrationCurve:
    """Predicted probability of class 1 against its observed share, in bins of equal width on [0, 1].

    A probability on an edge counts for the lower bin, as in scikit-learn's `calibration_curve(strategy="uniform")`.

    Args:
        truth: `(M,)` of 0 and 1.
        logit: `(M,)`.
        num_bins: At least 1.
    """
    label, logit = binary_labels(truth, logit)
    probability = scipy.special.expit(logit)
    bin_of = _bin_of(probability, num_bins)
    number = np.bincount(bin_of, minlength=num_bins)
    used = number > 0
    predicted, observed = (
        np.bincount(bin_of, weights=one, minlength=num_bins)[used] / number[used] for one in (probability, label)
    )
    return CalibrationCurve(predicted, observed, number[used])


def error_of(curve: CalibrationCurve) -> float:
    """Expected calibration error: mean over trials of |predicted - observed| of their bin; 0 at best.

    Of the probability of class 1 (Naeini et al. 2015), where Guo et al. 2017, eq. 3, take the class that is called.
    True probabilities do not reach 0: with few trials in a bin the observed shares scatter.
    """
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.number))


def error_of_truth(curve: CalibrationCurve) -> float:
    """About the error that true probabilities have with as many trials in each bin, by chance alone.

    Mean over trials of E|share - p| of their bin, for normal shares: sqrt(2 p (1 - p) / (pi n)).
    """
    p = curve.predicted
    return float(np.average(np.sqrt(2 * p * (1 - p) / (np.pi * curve.number)), weights=curve.number))


def pooled(curves: Sequence[CalibrationCurve], num_bins: int = NUM_BINS) -> CalibrationCurve:
    """The curve of the trials of several: bin by bin the means, weighted by the number of trials.

    Args:
        curves: Of `num_bins` bins.
        num_bins: Of all.
    """
    predicted, observed, number = (np.concatenate([curve[k] for curve in curves]) for k in range(3))
    # The mean of a bin lies in it.
    bin_of = _bin_of(predicted, num_bins)
    total = np.bincount(bin_of, weights=number, minlength=num_bins)
    used = total > 0
    sums = [np.bincount(bin_of, weights=one * number, minlength=num_bins)[used] for one in (predicted, observed)]
    return CalibrationCurve(sums[0] / total[used], sums[1] / total[used], total[used])


def _bin_of(probability: np.ndarray, num_bins: int) -> np.ndarray:
    return np.linspace(0, 1, num_bins + 1)[1:-1].searchsorted(probability)
