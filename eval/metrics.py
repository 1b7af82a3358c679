"""The metrics of the evaluation protocol (section 2) as pure functions of arrays; no files, models or sessions.

Names carry the convention. The null of spike scores is an argument: protocol `bps` and `d2` give the mean count of the
TRAIN rows, `bps_nlb` that of the TEST rows. `_uniform` is a mean over columns, `_variance_weighted` weighs them by the
variance of the truth, no suffix pools all entries. A non-finite prediction where a score is asked for is an error,
never left out of a mean. Condition means: `eval.psth`; calibration: `eval.calibration`; in chunks: `eval.metric_sums`.
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


def checked_rates(rate: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates and counts `(R, U)` as doubles, the rates floored at 1e-9.

    Args:
        rate: `(R, U)` or `(U,)` expected count per bin.
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
    return np.broadcast_to(np.maximum(rate, RATE_FLOOR), counts.shape), counts


def poisson_log_likelihood(rate: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Log likelihood of each unit `(U,)` in nats, without the factorial term, which cancels in every difference.

    Args and errors as in `checked_rates`.
    """
    rate, counts = checked_rates(rate, counts)
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
    """1 - SSE / SST about the mean of the truth, all entries pooled; unclipped.

    Raises:
        ValueError: Shapes differ, a value is not finite, or the truth is constant.
    """
    truth, value = _pair(truth, value)
    truth, value = truth.reshape(-1), value.reshape(-1)
    # By its values: the mean of equal numbers may be off by rounding, and SST then is tiny instead of 0.
    if truth.min() == truth.max():
        raise ValueError("R2: the truth is constant, expected at least two different values")
    return 1 - float(((truth - value) ** 2).sum()) / float(((truth - truth.mean()) ** 2).sum())


def r2_of_columns(truth: np.ndarray, value: np.ndarray) -> np.ndarray:
    """1 - SSE / SST of each column about its own mean, `(D,)`, unclipped; NaN where the truth is constant.

    scikit-learn's `r2_score(multioutput="raw_values")`, which calls a constant column 1 or 0 instead.

    Args:
        truth: `(R, D)`, such as counts of D units or D kinematic variables.
        value: `(R, D)`.
    """
    error, total = _column_errors(truth, value)
    return np.asarray(1 - np.divide(error, total, out=np.full(len(total), np.nan), where=total > 0))


def r2_uniform(truth: np.ndarray, value: np.ndarray) -> float:
    """Unweighted mean of `r2_of_columns` over the columns whose truth varies (NEDS, NLB).

    Raises:
        ValueError: No column varies.
    """
    return float(np.nanmean(_some_column(r2_of_columns(truth, value))))


def r2_variance_weighted(truth: np.ndarray, value: np.ndarray) -> float:
    """1 - (sum of SSE) / (sum of SST) over the columns whose truth varies, each about its own mean (FALCON).

    Equal to the mean of `r2_of_columns` weighted by the variance of the truth.

    Raises:
        ValueError: No column varies.
    """
    _some_column(r2_of_columns(truth, value))
    error, total = _column_errors(truth, value)
    return float(1 - error[total > 0].sum() / total.sum())


def r_squared(truth: np.ndarray, value: np.ndarray) -> float:
    """Squared Pearson correlation, all entries pooled; 0 for a constant prediction. Blind to scale, offset and sign."""
    truth, value = _pair(truth, value)
    truth, value = truth.reshape(-1), value.reshape(-1)
    t, v = truth - truth.mean(), value - value.mean()
    power = float((t @ t) * (v @ v))
    return 0.0 if power == 0 else float(t @ v) ** 2 / power


def r_squared_uniform(truth: np.ndarray, value: np.ndarray) -> float:
    """Unweighted mean over the columns whose truth varies of their squared Pearson correlation; arguments `(R, D)`.

    What some papers print as "R2" (STSBench); never below `r2_uniform`.

    Raises:
        ValueError: No column varies.
    """
    varies = np.isfinite(_some_column(r2_of_columns(truth, value)))
    return float(np.mean([r_squared(t, v) for t, v in zip(np.asarray(truth).T[varies], np.asarray(value).T[varies])]))


def partial_r2(truth: np.ndarray, value: np.ndarray, beyond: np.ndarray) -> float:
    """Squared correlation of truth and value after both are regressed, in these rows, on `beyond` and a constant.

    Args:
        truth: `(R,)`.
        value: `(R,)`.
        beyond: `(R, F)` what the value must add to.
    """
    truth, value = _pair(truth, value)
    truth, value = truth.reshape(-1), value.reshape(-1)
    design = np.column_stack([np.ones(len(truth)), beyond])
    coefficients = np.linalg.lstsq(design, np.column_stack([truth, value]), rcond=None)[0]
    residual = np.column_stack([truth, value]) - design @ coefficients
    # What is left of a value that lies in the span of `beyond` is rounding, and must not correlate with anything.
    if residual[:, 1].std() <= 1e-9 * (np.abs(value).max() + 1e-300):
        return 0.0
    return r_squared(residual[:, 0], residual[:, 1])


def binary_labels(truth: np.ndarray, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits `(M,)` of a decoder of two classes, checked.

    Raises:
        ValueError: Shapes differ, a value is not finite, or a label is neither 0 nor 1.
    """
    label, logit = _pair(truth, logit)
    if not np.isin(label, (0, 1)).all():
        raise ValueError(f"labels {np.unique(label)[:5]}, expected 0 and 1")
    return label.reshape(-1).astype(np.int64), logit.reshape(-1)


def balanced_accuracy(truth: np.ndarray, logit: np.ndarray) -> float:
    """Mean over the classes in the truth of the share of trials called right, calling 1 where the logit is above 0."""
    label, logit = binary_labels(truth, logit)
    return float(np.mean([np.mean((logit[label == k] > 0) == k) for k in np.unique(label)]))


def auc(truth: np.ndarray, logit: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic, ties 1/2; NaN when the truth holds one class only."""
    label, logit = binary_labels(truth, logit)
    positive = int(label.sum())
    negative = len(label) - positive
    if not positive or not negative:
        return float("nan")
    ranks = scipy.stats.rankdata(logit)
    return float((ranks[label == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def cross_entropy_bits(truth: np.ndarray, logit: np.ndarray) -> float:
    """Mean over trials of -log2 p(truth), p the logistic function of the logit."""
    return float(np.mean(cross_entropy_of_trials(truth, logit)))


def cross_entropy_of_trials(truth: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """-log2 p(truth) of each trial `(M,)`, p the logistic function of the logit."""
    label, logit = binary_labels(truth, logit)
    return np.asarray(np.logaddexp(0, np.where(label == 1, -logit, logit)) / np.log(2))


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of the F1 scores of the classes that occur in the truth.

    Args:
        truth: `(M,)` labels of any type.
        predicted: `(M,)` labels; a class that is only predicted lowers the scores of the others, and has none itself.
    """
    truth, predicted = _classes(truth, predicted)
    scores = []
    for label in np.unique(truth):
        hit = int(((truth == label) & (predicted == label)).sum())
        scores.append(2 * hit / (int((truth == label).sum()) + int((predicted == label).sum())))
    return float(np.mean(scores))


def class_balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes that occur in the truth, for any number of classes with labels of any type.

    Args:
        truth: `(M,)`.
        predicted: `(M,)`.
    """
    truth, predicted = _classes(truth, predicted)
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


def _classes(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or not truth.size:
        raise ValueError(f"truth {truth.shape} and predicted {predicted.shape}; expected one label each, at least one")
    return truth, predicted


def _column_errors(truth: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSE and SST about the mean of each column; SST exactly 0 for a constant one."""
    truth, value = _pair(truth, value)
    if truth.ndim != 2:
        raise ValueError(f"R2 by columns: the truth has shape {truth.shape}, expected (rows, columns)")
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return ((truth - value) ** 2).sum(axis=0), np.where(truth.min(axis=0) == truth.max(axis=0), 0, total)


def _some_column(scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).any():
        raise ValueError("R2: the truth is constant in every column, expected at least two different values in one")
    return scores


def _pair(truth: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, value = np.asarray(truth, dtype=float), np.asarray(value, dtype=float)
    if truth.shape != value.shape or not truth.size:
        raise ValueError(f"truth {truth.shape} and prediction {value.shape}; expected the same shape, not empty")
    if not (np.isfinite(truth).all() and np.isfinite(value).all()):
        raise ValueError("non-finite values in scored rows; every scored row needs a prediction")
    return truth, value
