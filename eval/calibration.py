"""Calibration of decoders of two classes: predicted probability against observed share. Draws nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from eval.metrics import binary_labels


class CalibrationCurve(NamedTuple):
    """Bins of predicted probability that hold a trial: mean prediction, share of class 1, and number of trials."""

    predicted: np.ndarray
    observed: np.ndarray
    number: np.ndarray


def calibration_curve(truth: np.ndarray, logit: np.ndarray, num_bins: int = 10) -> CalibrationCurve:
    """Predicted probability of class 1 against its observed share, in bins of equal width on [0, 1].

    A probability on an edge counts for the lower bin, as in scikit-learn's `calibration_curve(strategy="uniform")`.

    Args:
        truth: `(M,)` of 0 and 1.
        logit: `(M,)`.
        num_bins: At least 1.
    """
    label, logit = binary_labels(truth, logit)
    probability = scipy.special.expit(logit)
    bin_of = np.linspace(0, 1, num_bins + 1)[1:-1].searchsorted(probability)
    number = np.bincount(bin_of, minlength=num_bins)
    used = number > 0
    predicted, observed = (
        np.bincount(bin_of, weights=one, minlength=num_bins)[used] / number[used] for one in (probability, label)
    )
    return CalibrationCurve(predicted, observed, number[used])


def expected_calibration_error(truth: np.ndarray, logit: np.ndarray, num_bins: int = 10) -> float:
    """Mean over trials of |predicted - observed| of their bin of `calibration_curve`; 0 at best, lower is better.

    Of the probability of class 1 (Naeini et al. 2015), where Guo et al. 2017, eq. 3, take the class that is called.
    True probabilities do not reach 0: with few trials in a bin the observed shares scatter.
    """
    curve = calibration_curve(truth, logit, num_bins)
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.number))
