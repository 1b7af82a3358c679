"""Classical activity statistics of every unit of a recording; knows no region, and fits nothing.

Only spikes inside usable trials count, and the order, ids, labels and positions of the units are never read: permuting
the units permutes the rows of the result and changes nothing else. Which side of the brain a probe is in flips the sign
of every left-right preference, so tuning to a covariate enters as its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foundation.binning import bin_covariate, bin_spikes, check_bin_size
from foundation.recording import Covariate, Recording
from foundation.splits import stretches

# Windows from the start and to the end of a trial, seconds; a trial shorter than a window adds the part it has.
_START_S = (0.0, 0.06, 0.12, 0.18, 0.24, 0.32, 0.4, 0.5, 0.6, 0.8, 1.0)
_END_S = (0.0, 0.06, 0.12, 0.2, 0.3)
_LAGS_S = (0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.18, 0.22, 0.28, 0.34, 0.4)
_EVENT_LAGS_S = (0.0, 0.04, 0.08, 0.12, 0.16, 0.24)
_BLOCKS_S = (0.02, 0.06, 0.12, 0.24)


@dataclass(frozen=True)
class TrialCounts:
    """Counts of all usable trials, one after the other.

    Attributes:
        counts: `(R, N)` float32 spikes per bin.
        trial: `(R,)` which of the kept trials a row belongs to, 0..K-1.
        step: `(R,)` bin within the trial, from 0.
        length: `(K,)` bins of each kept trial.
        start_s: `(K,)` start of each kept trial.
        source: `(K,)` row of each kept trial in `stretches(recording)`.
        bin_size_s: Seconds.
    """

    counts: np.ndarray
    trial: np.ndarray
    step: np.ndarray
    length: np.ndarray
    start_s: np.ndarray
    source: np.ndarray
    bin_size_s: float


def trial_counts(recording: Recording, bin_size_s: float) -> TrialCounts:
    """Bin the usable trials of a recording; what does not fill a bin at the end of a trial is dropped.

    Raises:
        ValueError: The recording cannot be binned so, or no usable trial holds a bin.
    """
    check_bin_size(recording, bin_size_s)
    intervals = stretches(recording)
    length = np.floor((intervals[:, 1] - intervals[:, 0]) / bin_size_s + 1e-6).astype(np.int64)
    keep = length > 0
    if len(recording.trials):
        keep &= recording.trials["usable"].to_numpy(bool)
    source = np.flatnonzero(keep)
    if not len(source):
        raise ValueError(
            f"{recording.info.recording_id}: no usable trial of at least {bin_size_s} s; give shorter bins or leave "
            "the recording out"
        )
    length, start = length[source], intervals[source, 0]
    counts = np.concatenate([bin_spikes(recording, s, int(n), bin_size_s) for s, n in zip(start, length)])
    first = np.cumsum(length) - length
    trial = np.repeat(np.arange(len(length)), length)
    step = np.arange(len(trial)) - first[trial]
    return TrialCounts(counts.astype(np.float32), trial, step, length, start, source, bin_size_s)


def unit_features(recording: Recording, bin_size_s: float = 0.02) -> tuple[np.ndarray, list[str]]:
    """Statistics of each unit's activity in the usable trials.

    Rate; count histogram against Poisson; Fano factors over blocks of 20-240 ms and of whole trials; autocorrelogram;
    slow drift; rate profile from the start and to the end of the trial; size of the tuning to every trial covariate in
    time; response to events and to covariates in time beyond the mean profile; coupling to the other units, lagged too.

    Args:
        recording: One session.
        bin_size_s: Bin size in seconds.

    Returns:
        `(N, F)` float64, finite, and the F names. Names follow the covariates of the recording.

    Raises:
        ValueError: The recording cannot be binned so, or has no usable trial.
    """
    tc = trial_counts(recording, bin_size_s)
    columns = {"log_rate": np.log(rate_only(recording, bin_size_s)[:, 0] + 0.05)}
    residual = _beyond_profile(tc.counts, tc.step)
    columns |= _count_statistics(tc)
    columns |= _autocorrelogram(tc)
    columns |= _drift(tc)
    columns |= _profiles(tc)
    columns |= _trial_tuning(tc, recording)
    columns |= _time_tuning(tc, recording, residual)
    columns |= _coupling(tc, residual)
    return np.stack(list(columns.values()), axis=1), list(columns)


def rate_only(recording: Recording, bin_size_s: float = 0.02) -> np.ndarray:
    """Mean rate `(N, 1)` in Hz over the usable trials, the control of every region probe."""
    tc = trial_counts(recording, bin_size_s)
    return tc.counts.mean(axis=0, dtype=np.float64)[:, None] / bin_size_s


def _log_ratio(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Log of observed over expected numbers, drawn to 0 where few are expected."""
    return np.log((observed + 1.0) / (expected + 1.0))


def _windows(tc: TrialCounts, from_s: float, to_s: float, at_end: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Counts `(K, N)` and bins `(K,)` of each trial in a window from its start, or back from its end."""
    lo, hi = round(from_s / tc.bin_size_s), max(round(to_s / tc.bin_size_s), round(from_s / tc.bin_size_s) + 1)
    position = tc.length[tc.trial] - 1 - tc.step if at_end else tc.step
    rows = (position >= lo) & (position < hi)
    return _sum_by(tc.counts[rows], tc.trial[rows], len(tc.length)), np.clip(tc.length - lo, 0, hi - lo)


def _sum_by(values: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """Sums `(num_groups, N)` of the rows of each group; the groups are sorted."""
    edges = np.searchsorted(group, np.arange(num_groups + 1))
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    return total[edges[1:]] - total[edges[:-1]]


def _beyond_profile(values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Values `(R, N)` less their mean over trials at the same bin of the trial."""
    order = np.argsort(step, kind="stable")
    number = np.bincount(step)
    mean = _sum_by(values[order], step[order], len(number)) / np.maximum(number, 1)[:, None]
    return (values - mean[step]).astype(np.float32)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of the columns of `a (R, N)` with those of `b (R, N)` or `(R, 1)`; 0 for a constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    return (a * b).sum(axis=0) / np.where(norm > 0, norm, np.inf)


def _pairs(tc: TrialCounts, lag: int) -> np.ndarray:
    """Rows r whose row r + lag is in the same trial."""
    return np.flatnonzero(tc.trial[lag:] == tc.trial[: len(tc.trial) - lag])


def _count_statistics(tc: TrialCounts) -> dict[str, np.ndarray]:
    rows, mean = len(tc.counts), tc.counts.mean(axis=0, dtype=np.float64)
    columns, poisson = {}, np.exp(-mean)
    for k in range(3):
        columns[f"bins_with_{k}"] = _log_ratio((tc.counts == k).sum(axis=0), rows * poisson)
        poisson = poisson * mean / (k + 1)
    tail = 1 - np.exp(-mean) * (1 + mean + mean**2 / 2)
    columns["bins_with_3_or_more"] = _log_ratio((tc.counts >= 3).sum(axis=0), rows * tail)
    for block_s in _BLOCKS_S:
        size = max(1, round(block_s / tc.bin_size_s))
        whole = tc.step < (tc.length // size * size)[tc.trial]
        if whole.any():
            blocks = tc.counts[whole].reshape(-1, size, tc.counts.shape[1]).sum(axis=1)
            columns[f"fano_{block_s:g}s"] = np.log((blocks.var(axis=0) + 0.01) / (blocks.mean(axis=0) + 0.01))
    total = _sum_by(tc.counts, tc.trial, len(tc.length))
    rate = total / tc.length[:, None]
    columns["cv_of_trials"] = np.log(rate.std(axis=0) + 1e-3) - np.log(rate.mean(axis=0) + 1e-3)
    expected = tc.length[:, None] * mean
    columns["fano_of_trials"] = np.log(((total - expected) ** 2).mean(axis=0) + 0.01) - np.log(expected.mean(0) + 0.01)
    columns["silent_trials"] = _log_ratio((total == 0).sum(axis=0), np.exp(-expected).sum(axis=0))
    return columns


def _autocorrelogram(tc: TrialCounts) -> dict[str, np.ndarray]:
    mean, columns = tc.counts.mean(axis=0, dtype=np.float64), {}
    for lo, hi in zip((0.0, *_LAGS_S[:-1]), _LAGS_S):
        observed, expected = np.zeros(len(mean)), np.zeros(len(mean))
        for lag in range(round(lo / tc.bin_size_s) + 1, max(round(hi / tc.bin_size_s), 1) + 1):
            rows = _pairs(tc, lag)
            observed += np.einsum("rn,rn->n", tc.counts[rows], tc.counts[rows + lag], dtype=np.float64)
            expected += len(rows) * mean**2
        columns[f"autocorrelogram_{hi:g}s"] = _log_ratio(observed, expected)
    return columns


def _drift(tc: TrialCounts) -> dict[str, np.ndarray]:
    rate = _sum_by(tc.counts, tc.trial, len(tc.length)) / tc.length[:, None]
    columns = {"drift_with_session_time": np.abs(_correlation(rate, tc.start_s[:, None]))}
    for lag in (1, 5, 20):
        if len(rate) > lag + 2:
            columns[f"trial_autocorrelation_{lag}"] = _correlation(rate[lag:], rate[:-lag])
    return columns


def _profiles(tc: TrialCounts) -> dict[str, np.ndarray]:
    mean, columns = tc.counts.mean(axis=0, dtype=np.float64), {}
    for at_end, edges in ((False, _START_S), (True, _END_S)):
        for lo, hi in pairwise(edges):
            counts, bins = _windows(tc, lo, hi, at_end)
            name = f"profile_{'end' if at_end else 'start'}_{lo:g}s"
            columns[name] = _log_ratio(counts.sum(axis=0), bins.sum() * mean)
    return columns


def _trial_tuning(tc: TrialCounts, recording: Recording) -> dict[str, np.ndarray]:
    """Size of the tuning to each trial covariate: correlation ratio (categorical) or |r| of the rate in windows."""
    columns = {}
    windows = [(0.0, 0.12, False), (0.12, 0.24, False), (0.24, 0.5, False), (0.12, 0.3, True), (0.0, 0.12, True)]
    for name, covariate in sorted(recording.covariates.items()):
        if covariate.spec.scope != "trial":
            continue
        seen, values = covariate.observed[tc.source], covariate.values[tc.source]
        for lo, hi, at_end in windows:
            counts, bins = _windows(tc, lo, hi, at_end)
            rows = seen & (bins > 0)
            rate, x = counts[rows] / bins[rows, None], values[rows]
            key = f"{name}_{'end' if at_end else 'start'}_{lo:g}s"
            if covariate.spec.kind == "categorical":
                columns[key] = _correlation_ratio(rate, x)
            else:
                columns[key] = np.abs(_correlation(rate, x[:, None])) if rows.sum() > 2 else np.zeros(rate.shape[1])
    return columns


def _correlation_ratio(rate: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Square root of the share of the variance of `rate (K, N)` between the classes of `label (K,)`."""
    if len(rate) < 3:
        return np.zeros(rate.shape[1])
    classes = np.unique(label)
    mean, total = rate.mean(axis=0), rate.var(axis=0) * len(rate)
    between = sum((label == c).sum() * (rate[label == c].mean(axis=0) - mean) ** 2 for c in classes)
    return np.sqrt(between / np.where(total > 0, total, np.inf))


def _time_tuning(tc: TrialCounts, recording: Recording, residual: np.ndarray) -> dict[str, np.ndarray]:
    """Correlation with events (all together, signed, and the largest of any one) and with covariates in time."""
    columns, events = {}, []
    for name, covariate in sorted(recording.covariates.items()):
        if covariate.spec.scope != "time":
            continue
        x = _beyond_profile(_in_trials(tc, covariate), tc.step)
        if covariate.spec.kind == "event":
            events.append(x)
        else:
            sizes = [np.abs(_correlation(residual, x[:, [d]])) for d in range(x.shape[1])]
            columns[f"{name}_size"] = np.max(sizes, axis=0)
    for lo, hi in pairwise(_EVENT_LAGS_S) if events else ():
        first, last = round(lo / tc.bin_size_s), max(round(hi / tc.bin_size_s), round(lo / tc.bin_size_s) + 1)
        rows = np.flatnonzero(tc.step >= last - 1)
        lagged = np.stack([sum((e[rows - lag] for lag in range(first, last)), np.zeros((1, 1))) for e in events])
        columns[f"events_{lo:g}s"] = _correlation(residual[rows], lagged.sum(axis=0))
        columns[f"largest_event_{lo:g}s"] = np.max([np.abs(_correlation(residual[rows], e)) for e in lagged], axis=0)
    return columns


def _in_trials(tc: TrialCounts, covariate: Covariate) -> np.ndarray:
    """A covariate in time, or events per bin, in the rows of the counts `(R, dim)`; 0 where not observed."""
    parts = []
    for start, num_bins in zip(tc.start_s, tc.length):
        values, observed = bin_covariate(covariate, start, int(num_bins), tc.bin_size_s)
        parts.append(values * observed[:, None])
    return np.concatenate(parts)


def _coupling(tc: TrialCounts, residual: np.ndarray) -> dict[str, np.ndarray]:
    """Correlations with the other units beyond the mean profile: same bin, lagged, of whole trials.

    Means and quantiles over pairs, not the correlation with the summed rest, which grows with the number of units.
    """
    num = residual.shape[1]
    if num == 1:
        residual = np.repeat(residual, 2, axis=1)
    columns = {}
    z = _standardized(residual)
    pairs = _without_diagonal(z.T @ z / len(z))
    columns["coupling"] = pairs.mean(axis=1)
    for q in (0.1, 0.9):
        columns[f"coupling_quantile_{q:g}"] = np.quantile(pairs, q, axis=1)
    for lag in (1, 3):
        rows = _pairs(tc, lag)
        lagged = z[rows + lag].T @ z[rows] / len(rows)
        columns[f"follows_{lag}"] = _without_diagonal(lagged).mean(axis=1)
        columns[f"leads_{lag}"] = _without_diagonal(lagged.T).mean(axis=1)
    trials = _standardized(_sum_by(z, tc.trial, len(tc.length)) / np.sqrt(tc.length)[:, None])
    pairs = _without_diagonal(trials.T @ trials / len(trials))
    columns["coupling_of_trials"] = pairs.mean(axis=1)
    columns["coupling_of_trials_size"] = np.sqrt((pairs**2).mean(axis=1))
    return {name: column[:num] for name, column in columns.items()}


def _standardized(values: np.ndarray) -> np.ndarray:
    scale = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(scale > 0, scale, np.inf)


def _without_diagonal(square: np.ndarray) -> np.ndarray:
    """The entries off the diagonal, `(N, N - 1)`."""
    num = len(square)
    return square[~np.eye(num, dtype=bool)].reshape(num, num - 1)
