"""Classical predictions of labels and of behavior in time from spikes, and what the stimulus alone tells of them.

Every decoder is fitted on train trials, its penalties and windows chosen on validation trials. The decoders themselves,
and predicting spikes, are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from eval.count_decoders import factor_scores, nearest_label, nearest_value, poisson_naive_bayes
from eval.design import standardize, window_mean, window_sum
from eval.kalman import kalman_fit
from eval.linear_fits import ScalarFit, log_loss, logistic, ridge
from eval.scoring import choice_by_time, target_rows
from eval.session_view import SessionView
from eval.stimulus_features import stimulus_features
from eval.trial_windows import WINDOW_SETS, window_means, window_rates, window_spikes
from foundation.task_basis import hats

# Lag windows of evidence decoding in bins of 20 ms, (nearest, farthest): to 320 ms.
EVIDENCE_WINDOWS = ((0, 0), (1, 1), (2, 3), (4, 6), (7, 10), (11, 15))


def label_fits(view: SessionView, name: str) -> dict[str, ScalarFit]:
    """Logits `(M,)` of a trial-scope label of two classes.

    From spikes: `logistic`, `factor_logistic` (the same on factors), `nearest_neighbors`, `naive_bayes`. A
    reference: `logistic_with_stimulus`. The nulls are `majority` (the train share of the classes) and `stimulus`. A
    label that is a stimulus has neither of the two with the stimulus.
    """
    label, train, val = labels_of(view, name)
    share = (label[train].sum() + 0.5) / (len(train) + 1)
    majority = np.full(len(label), np.log(share / (1 - share)))
    fits = {"majority": ScalarFit(majority, log_loss(majority[val], label[val]))}
    spikes, features = _best_windows(view, label, train, val)
    # What is a stimulus itself is no news to whoever is told the stimulus.
    if view.trial_covariates[name].spec.role != "stimulus":
        stimulus = stimulus_features(view)
        fits["stimulus"] = logistic(stimulus, label, train, val)
        # Stimulus columns are few against hundreds of rates; weight 2 gives each of them four times the prior variance.
        both = np.concatenate([features, 2 * stimulus], axis=1)
        fits["logistic_with_stimulus"] = logistic(both, label, train, val)
    return {
        **fits,
        "logistic": spikes,
        "factor_logistic": _least(
            logistic(standardize(window_means(view, factors, windows), train), label, train, val)
            for factors in _factors(view)
            for windows in WINDOW_SETS.values()
        ),
        "nearest_neighbors": _least(
            nearest_label(window_rates(view, windows), label, train, val) for windows in WINDOW_SETS.values()
        ),
        "naive_bayes": _least(
            poisson_naive_bayes(*window_spikes(view, windows), label, train, val) for windows in WINDOW_SETS.values()
        ),
    }


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


def _least(fits: Iterable[ScalarFit]) -> ScalarFit:
    return min(fits, key=lambda fit: fit.validation_loss)


def _factors(view: SessionView) -> list[np.ndarray]:
    """Factors `(R, d)` of square roots of counts in the last 100 ms, for a few d."""
    first = view.first_row()[view.trial]
    recent = np.sqrt(window_sum(view.counts, first, 0, max(1, round(0.1 / view.bin_size_s)) - 1))
    return list(factor_scores(recent, view.rows_in("train")))


def label_fit(view: SessionView, name: str) -> ScalarFit:
    """`logistic` of `label_fits` alone."""
    return _best_windows(view, *labels_of(view, name))[0]


def value_fits(view: SessionView, name: str) -> dict[str, ScalarFit]:
    """Values `(M,)` of a continuous trial-scope covariate, and the null `train_mean`.

    From spikes: `ridge`, `factor_ridge` (the same on factors), `nearest_neighbors`.
    """
    target, train, val = values_of(view, name)
    mean = np.full(len(target), target[train].mean())
    return {
        "train_mean": ScalarFit(mean, float(np.mean((mean[val] - target[val]) ** 2))),
        "ridge": value_fit(view, name),
        "factor_ridge": _least(
            ridge(standardize(window_means(view, factors, windows), train), target, train, val)
            for factors in _factors(view)
            for windows in WINDOW_SETS.values()
        ),
        "nearest_neighbors": _least(
            nearest_value(window_rates(view, windows), target, train, val) for windows in WINDOW_SETS.values()
        ),
    }


def value_fit(view: SessionView, name: str) -> ScalarFit:
    """`ridge` of `value_fits` alone."""
    target, train, val = values_of(view, name)
    rates = (standardize(window_rates(view, windows), train) for windows in WINDOW_SETS.values())
    return _least(ridge(rate, target, train, val) for rate in rates)


def choice_in_time_fits(view: SessionView) -> dict[str, ScalarFit]:
    """Logits of the choice `(R,)` at the decoding times, from spikes (`logistic`) or clicks (`stimulus`) up to then."""
    label, train, val = labels_of(view, "choice")
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


@dataclass(frozen=True)
class TraceInputs:
    """What the decoders of a behavior in time are given.

    Attributes:
        target: `(R,)` first dimension of the behavior.
        train: `(R,)` bool: rows to fit on.
        val: `(R,)` bool.
        time: `(R, 8)` bumps over the time in trial.
        neural: `(R, W * U + 8)` what a decoder may know: square roots of counts in lag windows and of running counts,
            standardized, and the time with three times the prior standard deviation.
    """

    target: np.ndarray
    train: np.ndarray
    val: np.ndarray
    time: np.ndarray
    neural: np.ndarray

    @property
    def lagged(self) -> np.ndarray:
        """`neural` without the time, `(R, W * U)`."""
        return self.neural[:, : -self.time.shape[1]]


def trace_inputs(view: SessionView, name: str, *, causal: bool) -> TraceInputs:
    """Of a continuous covariate of scope `time`; `causal` leaves out counts after the bin."""
    behavior = view.row_covariates[name]
    train, val = view.rows_in("train") & behavior.observed, view.rows_in("val") & behavior.observed
    time = hats(view.time_s, np.linspace(view.bin_size_s, float(view.time_s[train].max()), 8))
    num_rows, num_units = view.counts.shape
    windows = _lag_windows(view, causal)
    neural = np.empty((num_rows, len(windows) * num_units + time.shape[1]))
    # One by one: of many units they are the largest array of an evaluation, of which there should be no second copy.
    for w, window in enumerate(windows):
        neural[:, w * num_units : (w + 1) * num_units] = standardize(window(), train)
    neural[:, -time.shape[1] :] = 3 * time
    return TraceInputs(behavior.values[:, 0].astype(float), train, val, time, neural)


def trace_fits(view: SessionView, name: str, *, causal: bool) -> dict[str, ScalarFit]:
    """A continuous behavior in time `(R,)`, from spikes, and nulls.

    `ridge` is the Wiener decoder: a linear filter of the counts of all units, here in lag windows, with running counts
    and time beside them; `factor_ridge` the same on factors; `kalman` the filter or (acausal) the smoother.

    The nulls are `time` (time in trial) and `true_choice_by_time`; acausal also the baselines `decoded_choice_by_time`
    and `ridge_with_decoded_choice`, whose choice is read from the spikes of the whole trial.
    """
    inputs = trace_inputs(view, name, causal=causal)
    target, train, val, time, neural = inputs.target, inputs.train, inputs.val, inputs.time, inputs.neural
    fits = {"time": ridge(time, target, train, val), "ridge": ridge(neural, target, train, val)}
    fits["kalman"] = kalman_fit(view, name, causal=causal)
    fits["factor_ridge"] = _least(
        ridge(
            np.concatenate([standardize(_lagged_factors(view, factors, causal), train), 3 * time], axis=1),
            target,
            train,
            val,
        )
        for factors in _factors(view)
    )
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
    inputs = trace_inputs(view, name, causal=causal)
    return ridge(inputs.neural, inputs.target, inputs.train, inputs.val)


def _lag_windows(view: SessionView, causal: bool) -> list[Callable[[], np.ndarray]]:
    """Square roots of counts in lag windows and of running counts, `(R, U)` each; acausal: also ahead, to its end.

    Made one at a time, as all of them are large.
    """
    first = view.first_row()[view.trial]
    counts = view.counts.astype(float)
    end = len(counts)
    scale = 0.02 / view.bin_size_s
    spans = [(round(a * scale), max(round((b + 1) * scale) - 1, round(a * scale))) for a, b in EVIDENCE_WINDOWS]

    def behind(near: int, far: int) -> np.ndarray:
        return np.sqrt(window_sum(counts, first, near, far))

    blocks: list[Callable[[], np.ndarray]] = [partial(behind, a, b) for a, b in [*spans, (0, end)]]
    blocks.append(partial(window_sum, counts, first, 0, end))
    if not causal:
        # Reversed, the rows of a trial run from its end; its first row is then the one of its last bin.
        last = first + view.num_bins[view.trial] - 1
        back_first = (end - 1 - last)[::-1]

        def ahead(near: int, far: int) -> np.ndarray:
            return np.sqrt(window_sum(counts[::-1], back_first, near, far))[::-1]

        blocks += [partial(ahead, a, b) for a, b in [*spans[1:], (0, end)]]
    return blocks


def _lagged_factors(view: SessionView, factors: np.ndarray, causal: bool) -> np.ndarray:
    """Factors of the last 100 ms, of those before, and their mean so far; acausal: also ahead, `(R, F)`."""
    first = view.first_row()[view.trial]
    last = first + view.num_bins[view.trial] - 1
    step, end = max(1, round(0.1 / view.bin_size_s)), len(factors)
    spans = [(0, 0), (step, step), (2 * step, 3 * step), (0, end)]
    if not causal:
        # Factors tell of the 100 ms up to their bin: the mean of all that is ahead sees nothing twice that matters.
        spans += [(-step, -step), (-2 * step, -2 * step), (-3 * step, -2 * step), (-end, 0)]
    return np.concatenate([window_mean(factors, first, last, near, far) for near, far in spans], axis=1)


def _out_of_fold_choice(view: SessionView, num_folds: int = 5) -> np.ndarray:
    """Logit of the choice `(M,)`; that of a train trial comes from a fit without it, so that it errs like a new one."""
    label, train, val = labels_of(view, "choice")
    fit, features = _best_windows(view, label, train, val)
    logit = fit.value.copy()
    for part in np.array_split(train, min(num_folds, len(train))):
        rest = np.setdiff1d(train, part)
        logit[part] = logistic(features, label, rest, val).value[part]
    return logit


def values_of(view: SessionView, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers `(M,)` of a trial-scope covariate, and the train and val trials that have one."""
    covariate = view.trial_covariates[name]
    train, val = (t[covariate.observed[t]] for t in (view.trials_in("train"), view.trials_in("val")))
    return covariate.values.astype(float), train, val


def labels_of(view: SessionView, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
