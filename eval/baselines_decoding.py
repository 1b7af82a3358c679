"""Classical predictions of labels and of behavior in time from spikes, and what the stimulus alone tells of them.

Linear models (L2 logistic regression, ridge) fitted on train trials; penalties and windows chosen on validation trials.
Predicting spikes is elsewhere.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from eval.design import standardize, window_sum
from eval.linear_fits import ScalarFit, log_loss, logistic, ridge
from eval.scoring import choice_by_time, target_rows
from eval.session_view import SessionView
from foundation.task_basis import hats

# Windows of the rates that a trial's label is read from: fractions of the trial, or seconds before its end.
WINDOW_SETS: dict[str, tuple[tuple[float, float], ...]] = {
    "whole": ((0.0, 1.0),),
    "halves": ((0.0, 0.5), (0.5, 1.0)),
    "quarters": ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
    "last 100 ms": ((-0.1, 0.0),),
    "last 200 ms": ((-0.2, 0.0),),
    "last 400 ms": ((-0.4, 0.0),),
    "last 100 ms and before": ((-0.1, 0.0), (-10.0, -0.1)),
    "last 100, 200 ms and before": ((-0.1, 0.0), (-0.3, -0.1), (-10.0, -0.3)),
}
# Lag windows of evidence decoding in bins of 20 ms, (nearest, farthest): to 320 ms.
EVIDENCE_WINDOWS = ((0, 0), (1, 1), (2, 3), (4, 6), (7, 10), (11, 15))


def window_rates(view: SessionView, windows: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Square roots of each trial's mean rates (Hz) in windows, `(M, len(windows) * U)`.

    Args:
        view: The session.
        windows: Pairs; both in 0..1: fractions of the trial; else seconds relative to its end, clipped to the trial.
    """
    total = np.concatenate([np.zeros((1, view.counts.shape[1])), np.cumsum(view.counts, axis=0, dtype=float)])
    first, num = view.first_row(), view.num_bins
    blocks = []
    for low, high in windows:
        if low >= 0:
            start, stop = np.round(low * num), np.round(high * num)
        else:
            start, stop = num + np.round(low / view.bin_size_s), num + np.round(high / view.bin_size_s)
        start, stop = np.clip(start, 0, num).astype(np.int64), np.clip(stop, 0, num).astype(np.int64)
        spikes = total[first + np.maximum(stop, start)] - total[first + start]
        seconds = np.maximum(stop - start, 1)[:, None] * view.bin_size_s
        blocks.append(np.sqrt(spikes / seconds))
    return np.concatenate(blocks, axis=1)


def stimulus_features(view: SessionView, *, until: np.ndarray | None = None) -> np.ndarray:
    """What is known of a trial without its spikes, `(M, F)`, standardized on train trials and scaled by a prior.

    Stimulus events: totals, differences between two kinds (also in quarters of the trial, as tanh and as a ratio);
    trial-scope stimulus and task covariates; the trial's index, and its number of bins.

    Args:
        view: The session.
        until: `(M,)` bins of each trial that may be read. Trial-scope stimuli (summaries of the whole trial) and the
            trial's length are then left out. None: all of it.
    """
    events = {
        n: c.values[:, 0] for n, c in view.row_covariates.items() if (c.spec.kind, c.spec.role) == ("event", "stimulus")
    }
    first, num = view.first_row(), view.num_bins if until is None else np.minimum(until, view.num_bins)
    details, columns = [np.arange(len(num)).astype(float)], []
    if until is None:
        details.append(num.astype(float))
    totals = {name: np.concatenate([[0.0], np.cumsum(v, dtype=float)]) for name, v in events.items()}
    details += [t[first + num] - t[first] for t in totals.values()]
    for one, other in combinations(totals.values(), 2):
        edges = [first + np.round(q * num).astype(np.int64) for q in (0, 0.25, 0.5, 0.75, 1)]
        quarters = [(one[b] - one[a]) - (other[b] - other[a]) for a, b in pairwise(edges)]
        both = one[edges[-1]] - one[edges[0]] + other[edges[-1]] - other[edges[0]]
        difference = np.sum(quarters, axis=0)
        details += quarters
        columns += [difference, np.tanh(difference / 3), np.tanh(difference / 8), difference / np.maximum(both, 1)]
    for covariate in view.trial_covariates.values():
        role, classes = covariate.spec.role, covariate.spec.num_classes
        if role == "behavior" or (role == "stimulus" and until is not None and events):
            continue
        values = np.where(covariate.observed, covariate.values, 0)
        columns += list(np.eye(classes)[values.astype(np.int64)].T) if classes > 2 else [values.astype(float)]
    scaled = standardize(np.stack(details + columns, axis=1), view.trials_in("train"))
    # The sums say nearly all; index, length, totals and quarters must earn more to count as much.
    return scaled * np.where(np.arange(scaled.shape[1]) < len(details), 0.3, 1.0)


def label_fits(view: SessionView, name: str) -> dict[str, ScalarFit]:
    """Logits `(M,)` of a trial-scope label of two classes: `logistic` (spikes), `logistic_with_stimulus`, and nulls.

    The nulls are `majority` (the train share of the classes) and `stimulus`.
    """
    label, train, val = _labels(view, name)
    stimulus = stimulus_features(view)
    share = (label[train].sum() + 0.5) / (len(train) + 1)
    majority = np.full(len(label), np.log(share / (1 - share)))
    fits = {
        "majority": ScalarFit(majority, log_loss(majority[val], label[val])),
        "stimulus": logistic(stimulus, label, train, val),
    }
    spikes, features = _best_windows(view, label, train, val)
    # Stimulus columns are few against hundreds of rates; weight 2 gives each of them four times the prior variance.
    both = np.concatenate([features, 2 * stimulus], axis=1)
    return {**fits, "logistic": spikes, "logistic_with_stimulus": logistic(both, label, train, val)}


def _best_windows(
    view: SessionView, label: np.ndarray, train: np.ndarray, val: np.ndarray
) -> tuple[ScalarFit, np.ndarray]:
    best: tuple[ScalarFit, np.ndarray] | None = None
    for windows in WINDOW_SETS.values():
        features = standardize(window_rates(view, windows), train)
        fit = logistic(features, label, train, val)
        if best is None or fit.validation_loss < best[0].validation_loss:
            best = fit, features
    assert best is not None
    return best


def label_fit(view: SessionView, name: str) -> ScalarFit:
    """`logistic` of `label_fits` alone."""
    return _best_windows(view, *_labels(view, name))[0]


def value_fits(view: SessionView, name: str) -> dict[str, ScalarFit]:
    """Values `(M,)` of a continuous trial-scope covariate: `ridge` (spikes) and the null `train_mean`."""
    target, train, val = _values(view, name)
    mean = np.full(len(target), target[train].mean())
    loss = float(np.mean((mean[val] - target[val]) ** 2))
    return {"train_mean": ScalarFit(mean, loss), "ridge": value_fit(view, name)}


def value_fit(view: SessionView, name: str) -> ScalarFit:
    """`ridge` of `value_fits` alone."""
    target, train, val = _values(view, name)
    fits = [
        ridge(standardize(window_rates(view, windows), train), target, train, val) for windows in WINDOW_SETS.values()
    ]
    return min(fits, key=lambda fit: fit.validation_loss)


def _values(view: SessionView, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values `(M,)`, and the train and val trials that have one."""
    covariate = view.trial_covariates[name]
    train, val = (t[covariate.observed[t]] for t in (view.trials_in("train"), view.trials_in("val")))
    return covariate.values.astype(float), train, val


def choice_in_time_fits(view: SessionView) -> dict[str, ScalarFit]:
    """Logits of the choice `(R,)` at the decoding times, from spikes (`logistic`) or clicks (`stimulus`) up to then."""
    label, train, val = _labels(view, "choice")
    rows = target_rows(view, "choice_t")
    first = view.first_row()
    counts = view.counts.astype(float)
    row_first = first[view.trial]
    recent = np.sqrt(window_sum(counts, row_first, 0, max(1, round(0.1 / view.bin_size_s)) - 1) / 0.1)
    rate = np.sqrt(window_sum(counts, row_first, 0, len(counts)) / view.time_s[:, None])
    logits = {name: np.zeros(len(counts)) for name in ("logistic", "stimulus", "majority")}
    losses = dict.fromkeys(logits, 0.0)
    times = np.unique(view.bin[rows])
    for at in times:
        there = view.num_bins > at
        t, v = train[there[train]], val[there[val]]
        where = (first + np.minimum(at, view.num_bins - 1)).clip(0, len(counts) - 1)
        share = (label[t].sum() + 0.5) / (len(t) + 1)
        spikes = np.concatenate([standardize(recent[where], t), standardize(rate[where], t)], axis=1)
        fits = {"majority": _constant(np.log(share / (1 - share)), label, v)}
        if len(t) and len(v):
            clicks = stimulus_features(view, until=np.full(len(first), at + 1))
            fits |= {"logistic": logistic(spikes, label, t, v), "stimulus": logistic(clicks, label, t, v)}
        for name in logits:
            fit = fits.get(name, fits["majority"])
            logits[name][where[there]] = fit.value[there]
            losses[name] += fit.validation_loss / len(times)
    return {name: ScalarFit(logits[name], losses[name]) for name in logits}


def _constant(logit: float, label: np.ndarray, val: np.ndarray) -> ScalarFit:
    value = np.full(len(label), logit)
    return ScalarFit(value, log_loss(value[val], label[val]) if len(val) else float(np.log(2)))


def trace_fits(view: SessionView, name: str, *, causal: bool) -> dict[str, ScalarFit]:
    """A continuous behavior in time `(R,)`: `ridge` on lag windows and running counts, and nulls.

    The nulls are `time` (time in trial) and `true_choice_by_time`; acausal also the baselines `decoded_choice_by_time`
    and `ridge_with_decoded_choice`, whose choice is read from the spikes of the whole trial.
    """
    target, train, val, time, neural = _trace_design(view, name, causal)
    fits = {"time": ridge(time, target, train, val), "ridge": ridge(neural, target, train, val)}
    if "choice" in view.trial_covariates:
        # A few columns on thousands of rows need no shrinking, and a shrunken null would be an easy one.
        fits["true_choice_by_time"] = ridge(choice_by_time(view), target, train, val, penalties=(1.0,))
    if "choice" in view.trial_covariates and not causal:
        logit = _out_of_fold_choice(view)[view.trial][:, None]
        decoded = 3 * standardize(np.concatenate([np.tanh(logit / 2) * time, logit * time], axis=1), train)
        fits["decoded_choice_by_time"] = ridge(np.concatenate([3 * time, decoded], axis=1), target, train, val)
        fits["ridge_with_decoded_choice"] = ridge(np.concatenate([neural, decoded], axis=1), target, train, val)
    return fits


def trace_fit(view: SessionView, name: str, *, causal: bool) -> ScalarFit:
    """`ridge` of `trace_fits` alone."""
    target, train, val, _, neural = _trace_design(view, name, causal)
    return ridge(neural, target, train, val)


def _trace_design(
    view: SessionView, name: str, causal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Target, train and val rows, hats of the time in trial, and lagged counts beside them."""
    behavior = view.row_covariates[name]
    train, val = view.rows_in("train") & behavior.observed, view.rows_in("val") & behavior.observed
    time = hats(view.time_s, np.linspace(view.bin_size_s, float(view.time_s[train].max()), 8))
    neural = np.concatenate([standardize(_lagged_counts(view, causal), train), 3 * time], axis=1)
    return behavior.values[:, 0].astype(float), train, val, time, neural


def _lagged_counts(view: SessionView, causal: bool) -> np.ndarray:
    """Square roots of counts in lag windows and of running counts, `(R, F)`; acausal: also ahead, to its end."""
    first = view.first_row()[view.trial]
    counts = view.counts.astype(float)
    scale = 0.02 / view.bin_size_s
    spans = [(round(a * scale), max(round((b + 1) * scale) - 1, round(a * scale))) for a, b in EVIDENCE_WINDOWS]
    columns = [np.sqrt(window_sum(counts, first, a, b)) for a, b in spans]
    running = window_sum(counts, first, 0, len(counts))
    columns += [np.sqrt(running), running]
    if not causal:
        # Reversed, the rows of a trial run from its end; its first row is then the one of its last bin.
        back = counts[::-1]
        last = first + view.num_bins[view.trial] - 1
        back_first = (len(counts) - 1 - last)[::-1]
        columns += [np.sqrt(window_sum(back, back_first, a, b))[::-1] for a, b in spans[1:]]
        columns.append(np.sqrt(window_sum(back, back_first, 0, len(counts)))[::-1])
    return np.concatenate(columns, axis=1)


def _out_of_fold_choice(view: SessionView, num_folds: int = 5) -> np.ndarray:
    """Logit of the choice `(M,)`; that of a train trial comes from a fit without it, so that it errs like a new one."""
    label, train, val = _labels(view, "choice")
    fit, features = _best_windows(view, label, train, val)
    logit = fit.value.copy()
    for part in np.array_split(train, min(num_folds, len(train))):
        rest = np.setdiff1d(train, part)
        logit[part] = logistic(features, label, rest, val).value[part]
    return logit


def _labels(view: SessionView, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels `(M,)`, and the train and val trials that have one."""
    covariate = view.trial_covariates.get(name)
    if covariate is None or covariate.spec.num_classes != 2:
        raise ValueError(
            f"{view.dataset}/{view.session}: {name!r} is not a trial covariate of two classes; "
            f"there are {list(view.trial_covariates)}"
        )
    train, val = (t[covariate.observed[t]] for t in (view.trials_in("train"), view.trials_in("val")))
    if not len(train) or not len(val):
        raise ValueError(f"{view.session}: {len(train)} train and {len(val)} val trials with {name!r}; expected some")
    return np.asarray(covariate.values, np.int64), train, val
