"""The metrics of the evaluation protocol (section 2) as pure functions of arrays; no files, models or sessions.

Names carry the convention: `bps` and `d2` are against the mean count of the TRAIN rows, `bps_nlb` against that of
the TEST rows. A non-finite prediction where a score is asked for is an error, never left out of a mean.
"""

from __future__ import annotations

import numpy as np
import scipy.special
import scipy.stats

RATE_FLOOR = 1e-9
MIN_TRAIN_SPIKES = 50
MIN_TEST_SPIKES = 10


def scored_units(train_spikes: np.ndarray, test_spikes: np.ndarray) -> np.ndarray:
    """Which units are scored, `(U,)` bool: at least 50 train and 10 test spikes in the rows that are scored.

    Args:
        train_spikes: `(U,)` spikes in the rows of train trials.
        test_spikes: `(U,)` spikes in the scored test rows.
    """
    return (np.asarray(train_spikes) >= MIN_TRAIN_SPIKES) & (np.asarray(test_spikes) >= MIN_TEST_SPIKES)


def poisson_log_likelihood(rate: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Log likelihood of each unit `(U,)` in nats, without the factorial term, which cancels in every difference.

    Args:
        rate: `(R, U)` or `(U,)` expected count per bin; floored at 1e-9.
        counts: `(R, U)` spikes per bin.

    Raises:
        ValueError: A rate is not finite or negative, or the shapes disagree.
    """
    rate = np.asarray(rate, dtype=float)
    counts = np.asarray(counts, dtype=float)
    if rate.ndim == 2 and rate.shape != counts.shape:
        raise ValueError(f"rate {rate.shape} and counts {counts.shape}; expected the same shape (rows, units)")
    if not np.isfinite(rate).all():
        raise ValueError(f"{int((~np.isfinite(rate)).sum())} non-finite rates in scored units; every one must be given")
    if (rate < 0).any():
        raise ValueError(f"a rate of {rate.min():.3g}; expected counts per bin >= 0, not log-rates")
    rate = np.broadcast_to(np.maximum(rate, RATE_FLOOR), counts.shape)
    return np.asarray(np.einsum("ru,ru->u", counts, np.log(rate)) - rate.sum(axis=0))


def bits_per_spike(rate: np.ndarray, counts: np.ndarray, null_rate: np.ndarray) -> np.ndarray:
    """(LL(rate) - LL(null)) / (spikes ln 2) of each unit, `(U,)`; a unit without spikes gets NaN.

    Args:
        rate: `(R, U)` expected count per bin.
        counts: `(R, U)`.
        null_rate: `(U,)` constant rate of the null: the train mean for `bps`, the test mean for `bps_nlb`
            (Pei et al. 2021, Neural Latents Benchmark, eq. 3).
    """
    spikes = np.asarray(counts, dtype=float).sum(axis=0)
    gain = poisson_log_likelihood(rate, counts) - poisson_log_likelihood(null_rate, counts)
    return np.divide(gain, spikes * np.log(2), out=np.full(len(spikes), np.nan), where=spikes > 0)


def pooled_bits_per_spike(rate: np.ndarray, counts: np.ndarray, null_rate: np.ndarray) -> float:
    """(sum_u LL(rate) - sum_u LL(null)) / (all spikes ln 2); arguments as in `bits_per_spike`."""
    gain = poisson_log_likelihood(rate, counts).sum() - poisson_log_likelihood(null_rate, counts).sum()
    return float(gain / (np.asarray(counts, dtype=float).sum() * np.log(2)))


def poisson_deviance(rate: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Deviance of each unit `(U,)`: 2 sum [ y ln(y / rate) - y + rate ]."""
    counts = np.asarray(counts, dtype=float)
    saturated = (scipy.special.xlogy(counts, counts) - counts).sum(axis=0)
    return np.asarray(2 * (saturated - poisson_log_likelihood(rate, counts)))


def d2(rate: np.ndarray, counts: np.ndarray, null_rate: np.ndarray) -> float:
    """1 - deviance / deviance of the null, each summed over units before the ratio.

    Args:
        rate: `(R, U)` expected count per bin.
        counts: `(R, U)`.
        null_rate: `(U,)`. With the mean of `counts` and one unit this is scikit-learn's `d2_tweedie_score(power=1)`;
            the protocol takes the train mean, as for `bps`.
    """
    return float(1 - poisson_deviance(rate, counts).sum() / poisson_deviance(null_rate, counts).sum())


def d2_of_units(rate: np.ndarray, counts: np.ndarray, null_rate: np.ndarray) -> np.ndarray:
    """`d2` of each unit alone, `(U,)`; NaN for a unit whose null has no deviance."""
    null = poisson_deviance(null_rate, counts)
    deviance = poisson_deviance(rate, counts)
    return np.asarray(1 - np.divide(deviance, null, out=np.full(len(null), np.nan), where=null > 0))


def r2(truth: np.ndarray, value: np.ndarray) -> float:
    """1 - SSE / SST about the mean of the truth, all entries pooled.

    Raises:
        ValueError: Shapes differ, a value is not finite, or the truth is constant.
    """
    truth, value = _pair(truth, value)
    total = float(((truth - truth.mean()) ** 2).sum())
    if total == 0:
        raise ValueError("R2: the truth is constant, expected at least two different values")
    return 1 - float(((truth - value) ** 2).sum()) / total


def r_squared(truth: np.ndarray, value: np.ndarray) -> float:
    """Squared Pearson correlation, all entries pooled; 0 for a constant prediction."""
    truth, value = _pair(truth, value)
    t, v = truth - truth.mean(), value - value.mean()
    power = float((t @ t) * (v @ v))
    return 0.0 if power == 0 else float(t @ v) ** 2 / power


def partial_r2(truth: np.ndarray, value: np.ndarray, beyond: np.ndarray) -> float:
    """Squared correlation of truth and value after both are regressed, in these rows, on `beyond` and a constant.

    Args:
        truth: `(R,)`.
        value: `(R,)`.
        beyond: `(R, F)` what the value must add to.
    """
    truth, value = _pair(truth, value)
    design = np.column_stack([np.ones(len(truth)), beyond])
    coefficients = np.linalg.lstsq(design, np.column_stack([truth, value]), rcond=None)[0]
    residual = np.column_stack([truth, value]) - design @ coefficients
    # What is left of a value that lies in the span of `beyond` is rounding, and must not correlate with anything.
    if residual[:, 1].std() <= 1e-9 * (np.abs(value).max() + 1e-300):
        return 0.0
    return r_squared(residual[:, 0], residual[:, 1])


def balanced_accuracy(truth: np.ndarray, logit: np.ndarray) -> float:
    """Mean over the classes in the truth of the share of trials called right, calling 1 where the logit is above 0."""
    label, logit = _labels(truth, logit)
    return float(np.mean([np.mean((logit[label == k] > 0) == k) for k in np.unique(label)]))


def auc(truth: np.ndarray, logit: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic, ties 1/2; NaN when the truth holds one class only."""
    label, logit = _labels(truth, logit)
    positive = int(label.sum())
    negative = len(label) - positive
    if not positive or not negative:
        return float("nan")
    ranks = scipy.stats.rankdata(logit)
    return float((ranks[label == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def cross_entropy_bits(truth: np.ndarray, logit: np.ndarray) -> float:
    """Mean over trials of -log2 p(truth), p the logistic function of the logit."""
    label, logit = _labels(truth, logit)
    return float(np.mean(np.logaddexp(0, np.where(label == 1, -logit, logit))) / np.log(2))


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of the F1 scores of the classes that occur in the truth.

    Args:
        truth: `(M,)` labels of any type.
        predicted: `(M,)` labels; a class that is only predicted lowers the scores of the others, and has none itself.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or not len(truth):
        raise ValueError(f"truth {truth.shape} and predicted {predicted.shape}; expected one label each, at least one")
    scores = []
    for label in np.unique(truth):
        hit = int(((truth == label) & (predicted == label)).sum())
        scores.append(2 * hit / (int((truth == label).sum()) + int((predicted == label).sum())))
    return float(np.mean(scores))


def class_balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes that occur in the truth, for labels of any type."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


def _pair(truth: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, value = np.asarray(truth, dtype=float), np.asarray(value, dtype=float)
    if truth.shape != value.shape or not truth.size:
        raise ValueError(f"truth {truth.shape} and prediction {value.shape}; expected the same shape, not empty")
    if not (np.isfinite(truth).all() and np.isfinite(value).all()):
        raise ValueError("non-finite values in scored rows; every scored row needs a prediction")
    return truth.reshape(-1), value.reshape(-1)


def _labels(truth: np.ndarray, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label, logit = _pair(truth, logit)
    if not np.isin(label, (0, 1)).all():
        raise ValueError(f"labels {np.unique(label)[:5]}, expected 0 and 1")
    return label.astype(np.int64), logit
