"""Design matrices of the classical baselines, made from covariate specs; no fitting and no spikes of the target unit.

Every function returns rows in the order of the `SessionView`. Statistics (means, scales, ranges) come from train rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from eval.session_view import RowCovariate, SessionView
from foundation.task_basis import (
    BEHAVIOR_LAGS,
    EVENT_DECAYS_S,
    EVENT_WINDOWS,
    MOST_CLASSES,
    NUM_COARSE,
    NUM_FINE,
    class_columns,
    dense_knots,
    hats,
)

# Prior standard deviation of each block relative to the others: time courses vary more than effects of trial history.
# The ridge penalty acts on the scaled columns, and validation picks its size.
_WEIGHTS = {"time": 2.0, "end": 2.0, "task": 0.5}


def standardize(block: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance on train rows, column by column; a column that is constant there becomes 0."""
    mean, spread = block[train].mean(axis=0), block[train].std(axis=0)
    return np.where(spread > 1e-9, (block - mean) / np.where(spread > 1e-9, spread, 1), 0.0)


def window_sum(values: np.ndarray, first: np.ndarray, nearest: int, farthest: int) -> np.ndarray:
    """Sum `(R, ...)` over the rows of the same trial from `farthest` to `nearest` bins back.

    Args:
        values: `(R, ...)`.
        first: `(R,)` row of the first bin of each row's trial.
        nearest: Bins back, >= 0.
        farthest: Bins back, >= nearest.
    """
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0, dtype=float)])
    row = np.arange(len(values))
    stop = np.maximum(row - nearest + 1, first)
    return np.asarray(total[stop] - total[np.minimum(np.maximum(row - farthest, first), stop)])


def window_mean(values: np.ndarray, first: np.ndarray, last: np.ndarray, near: int, far: int) -> np.ndarray:
    """Mean `(R, F)` over `near` .. `far` bins back (negative: ahead) of the same trial; 0 where it has none of them.

    Args:
        values: `(R, F)`.
        first: `(R,)` row of the first bin of each row's trial.
        last: `(R,)` row of its last bin.
        near: Nearest bin back.
        far: Farthest bin back, >= near.
    """
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    row = np.arange(len(values))
    low, high = np.maximum(row - far, first), np.minimum(row - near, last) + 1
    high = np.maximum(high, low)
    inside = high <= last + 1
    low, high = np.where(inside, low, first), np.where(inside, high, first)
    number = (high - low)[:, None]
    return np.asarray((total[high] - total[low]) / np.maximum(number, 1))


def drift_features(view: SessionView, num_cosines: int = 20) -> np.ndarray:
    """Slow functions of the session clock `(R, K)`, cos(pi k x) / k: a ridge on them is a random-walk prior.

    x runs from 0 to 1 over the train trials and is held beyond, so that the drift stays where training left it.
    """
    train = view.rows_in("train")
    low, high = view.clock_s[train].min(), view.clock_s[train].max()
    x = np.clip((view.clock_s - low) / max(high - low, 1e-9), 0, 1)
    k = np.arange(1, num_cosines + 1)
    block = np.cos(np.pi * x[:, None] * k) / k
    block = block - block[train].mean(axis=0)
    return np.asarray(4.0 * block / max(float(block[train].std(axis=0).max()), 1e-9))


def task_features(view: SessionView, *, to_end: bool, without: Collection[str] = ()) -> np.ndarray:
    """Everything about the task but drift, `(R, F)`, standardized on train rows.

    Time since the trial's start; time to its end (`to_end`, track E2); trial-scope values times time; events in lag
    windows, their running number and the time since the last; behaviors in time with lags. A trial-scope stimulus is
    left out where the stimulus is there as events: it would tell of events still to come.

    Args:
        view: The session.
        to_end: Whether trial length may be known.
        without: Names of covariates to leave out.
    """
    train = view.rows_in("train")
    blocks = [(_WEIGHTS["time"], _time_hats(view, NUM_FINE))]
    if to_end:
        blocks.append((_WEIGHTS["end"], _end_hats(view, NUM_FINE - 3)))
    rows = {name: c for name, c in view.row_covariates.items() if name not in without}
    events = {name: c.values[:, 0] for name, c in rows.items() if c.spec.kind == "event"}
    has_stimulus_events = any(rows[name].spec.role == "stimulus" for name in events)
    for name, covariate in view.trial_covariates.items():
        if name in without or (covariate.spec.role == "stimulus" and has_stimulus_events):
            continue
        values = _contrasts(covariate.values, covariate.observed, covariate.spec.num_classes)[view.trial]
        weight = _WEIGHTS["task"] if covariate.spec.role == "task" else 1.0
        blocks.append((weight, _products(values, _time_hats(view, NUM_COARSE))))
        if to_end and covariate.spec.role == "behavior":
            blocks.append((weight, _products(values, _end_hats(view, NUM_COARSE - 1))))
    if events:
        blocks.append((1.0, event_features(view, events)))
    blocks += [(1.0, _behavior_features(view, c, train)) for c in rows.values() if c.spec.kind != "event"]
    return np.concatenate([weight * standardize(block, train) for weight, block in blocks], axis=1)


def event_features(view: SessionView, events: dict[str, np.ndarray]) -> np.ndarray:
    """Events `(R,)` per bin in lag windows, their running number, and traces of the last one of any kind, `(R, F)`."""
    first = view.first_row()[view.trial]
    columns = [window_sum(v, first, near, far) for v in events.values() for near, far in EVENT_WINDOWS]
    columns += [window_sum(v, first, 0, len(v)) for v in events.values()]
    row = np.arange(len(first))
    happened = np.sum(list(events.values()), axis=0) > 0
    last = np.maximum(np.maximum.accumulate(np.where(happened, row, -1)), first)
    since_s = (row - last) * view.bin_size_s
    columns += [np.exp(-since_s / decay) for decay in EVENT_DECAYS_S]
    return np.stack(columns, axis=1)


def at_bin(view: SessionView, block: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`block` `(R, F)` read, in every row, at the last of the first `known` `(M,)` bins of the row's trial."""
    row = view.first_row() + np.minimum(np.maximum(known, 1), np.maximum(view.num_bins, 1)) - 1
    return np.asarray(block[row[view.trial]])


def _time_hats(view: SessionView, num: int) -> np.ndarray:
    longest = max(float(view.time_s[view.rows_in("train")].max()), 2 * view.bin_size_s)
    return hats(view.time_s, dense_knots(view.bin_size_s, longest, num))


def _end_hats(view: SessionView, num: int) -> np.ndarray:
    """Hats of the time to the end, those of trials that were cut at the longest length apart from those that ended."""
    longest = max(float(view.to_end_s[view.rows_in("train")].max()), 2 * view.bin_size_s)
    block = hats(view.to_end_s, dense_knots(0.0, 0.75 * longest, num))[:, :-1]
    cut = view.num_bins == view.num_bins[view.trials_in("train")].max()
    if not 0.05 < cut[view.trials_in("train")].mean() < 0.95:
        return block
    is_cut = cut[view.trial][:, None]
    return np.concatenate([block * ~is_cut, block * is_cut], axis=1)


def _contrasts(values: np.ndarray, observed: np.ndarray, num_classes: int) -> np.ndarray:
    """`(M, C)`: -1 and 1 for two classes, indicators for more, the value itself for a number; 0 where not observed."""
    if num_classes == 2:
        columns = (2.0 * values - 1)[:, None]
    elif num_classes > 2:
        columns = np.eye(num_classes)[values]
    else:
        columns = values.astype(float)[:, None]
    return np.where(observed[:, None], columns, 0.0)


def _products(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:, [c]] * basis for c in range(values.shape[1])], axis=1)


def _behavior_features(view: SessionView, covariate: RowCovariate, train: np.ndarray) -> np.ndarray:
    values = np.where(covariate.observed[:, None], covariate.values, 0.0)
    if covariate.spec.kind == "categorical":
        number = covariate.spec.num_classes
        now = class_columns(number)[values[:, 0].astype(np.int64)] * covariate.observed[:, None]
        past = [lag for lag in BEHAVIOR_LAGS if lag > 0] if number <= MOST_CLASSES else []
        row, begin = np.arange(len(now)), view.first_row()[view.trial]
        return np.concatenate([now, *(now[np.maximum(row - lag, begin)] for lag in past)], axis=1)
    z = standardize(values, train)
    shapes: list[Callable[[np.ndarray], np.ndarray]] = [lambda q: q, np.abs, lambda q: np.tanh(2 * q)]
    columns = [shape(z) for shape in shapes] + [z * view.time_s[:, None]]
    if covariate.spec.resample == "mean":
        first = view.first_row()[view.trial]
        last = first + view.num_bins[view.trial] - 1
        row = np.arange(len(z))
        columns += [z[np.clip(row - lag, first, last)] for lag in BEHAVIOR_LAGS]
    return np.concatenate(columns, axis=1)
