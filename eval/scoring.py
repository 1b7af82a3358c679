"""Scores of a prediction on one session (protocol, sections 2 and 3); writes and reads no files.

Which rows are scored is decided here, from the `SessionView` alone; what a model predicted beyond them is ignored, and
what it left out is an error. Regions span sessions and are scored elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eval import metrics
from eval.predictions import LABEL_TASKS, RATE_TASKS, VALUE_TASKS, Prediction, traced
from eval.psth import MIN_TRIALS, Cells, given_the_sums, psth_r2_of_units, residuals
from eval.session_view import SessionView
from eval.unit_folds import UNIT_TASKS, held_out_units

# Share of a trial's bins that forecasting may read, and the times after trial start at which choice is decoded.
FORECAST_KNOWN = 0.8
CHOICE_TIMES_S = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


class Score(NamedTuple):
    """A metric's value, the convention that makes it comparable, and how many rows, trials or units it rests on."""

    value: float
    convention: str
    n: int


def known_bins(view: SessionView) -> np.ndarray:
    """`(M,)` how many bins of each trial forecasting may read: floor(0.8 n)."""
    return np.floor(FORECAST_KNOWN * view.num_bins + 1e-9).astype(np.int64)


def forecast_rows(view: SessionView) -> np.ndarray:
    """`(R,)` bool: the last 20 % of each trial's bins, the others being known."""
    return view.bin >= known_bins(view)[view.trial]


def target_rows(view: SessionView, task: str) -> np.ndarray:
    """`(R,)` bool: the rows, of trials in any role, at which a task with rows is trained and scored."""
    if task == "forecast":
        return forecast_rows(view)
    if task == "choice_t":
        at = np.round(np.asarray(CHOICE_TIMES_S) / view.bin_size_s).astype(np.int64) - 1
        return np.isin(view.bin, at) & _observed_trials(view, "choice")[view.trial]
    if (name := traced(task)) is not None:
        return view.row_covariates[name].observed
    return np.ones(len(view.trial), bool)


def conditions(view: SessionView) -> np.ndarray:
    """`(M,)` condition of each trial: trials that agree in every categorical covariate of scope trial share one.

    -1 for a trial with an unobserved one, and for all trials of a session without such covariates. Continuous
    covariates (contrast, difficulty) do not divide: nearly every trial would be a condition of its own.
    """
    names = [name for name, c in view.trial_covariates.items() if c.spec.kind == "categorical"]
    if not names:
        return np.full(len(view.source_trial), -1)
    observed = np.all([_observed_trials(view, name) for name in names], axis=0)
    values = np.column_stack([view.trial_covariates[name].values for name in names])
    # Numbered by the observed trials, so that what an unobserved one holds cannot matter.
    found = np.full(len(observed), -1)
    if observed.any():
        found[observed] = np.unique(values[observed], axis=0, return_inverse=True)[1].reshape(-1)
    return found


class ScoredRates(NamedTuple):
    """What a score of rates rests on.

    Attributes:
        rate: `(K, U)` predicted expected counts of the scored rows and units.
        counts: `(K, U)` spikes.
        null: `(U,)` mean count of the train rows.
        rows: `(K,)` of the view.
        columns: `(U,)` of the view's units.
    """

    rate: np.ndarray
    counts: np.ndarray
    null: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


class ScoredValues(NamedTuple):
    """What a score of labels or values rests on.

    Attributes:
        truth: `(K,)` label or value.
        value: `(K,)` what was predicted: a logit, or a value.
        rows: `(K,)` of the view, or its trials for a task that is asked once per trial.
        trial: `(K,)` trial of each.
    """

    truth: np.ndarray
    value: np.ndarray
    rows: np.ndarray
    trial: np.ndarray


def score(prediction: Prediction, view: SessionView) -> dict[str, Score]:
    """Score a prediction on the test trials of a view.

    Returns:
        Metric name -> value, convention, n; the first is the headline. Rate tasks: bps, bps_nlb, bps_unit, d2, d2_unit,
        frac_units_positive, trial_r2, and where the session has conditions psth_r2, psth_r2_weighted, and of single
        trials beyond their condition within_d2, within_d2_unit, within_r2 (d2 is NeuroPaint's DFE). Label tasks:
        auc, balanced_accuracy, cross_entropy_bits; `choice_t`: their means over the decoding times, and the scores at
        each time. Value tasks: r2, r_squared; `evidence` also partial_r2.

    Raises:
        ValueError: Another session, split, fold or bin size; a scored row or unit is missing, twice or not finite.
    """
    prediction.validate()
    for key, value in (("dataset", view.dataset), ("session", view.session), ("split", view.split)):
        if getattr(prediction, key) != value:
            raise ValueError(
                f"prediction of {prediction.model!r}: {key} is {getattr(prediction, key)!r}, not {value!r}"
            )
    if prediction.fold != view.fold or abs(prediction.bin_ms - view.bin_size_s * 1000) > 1e-6:
        raise ValueError(
            f"prediction of {prediction.model!r}: fold {prediction.fold}, {prediction.bin_ms} ms bins; "
            f"expected fold {view.fold}, {view.bin_size_s * 1000:g} ms"
        )
    if prediction.task in RATE_TASKS:
        return _score_rates(prediction, view)
    if prediction.task in LABEL_TASKS:
        scored = scored_values(prediction, view)
        return _label_scores(scored.truth, scored.value)
    if prediction.task in VALUE_TASKS:
        scored = scored_values(prediction, view)
        return _value_scores(scored.truth, scored.value, "test trials")
    if prediction.task == "choice_t":
        return _score_choice_in_time(prediction, view)
    if traced(prediction.task) is not None:
        return _score_trace(prediction, view)
    raise ValueError(f"task {prediction.task!r} is not scored against one session; regions have their own scorer")


def scored_rates(prediction: Prediction, view: SessionView) -> ScoredRates:
    """Rates and counts in the test rows and units that are scored.

    Raises:
        ValueError: No unit has the spikes for it; a row or unit is missing, twice or not finite.
    """
    target = target_rows(view, prediction.task)
    test = np.flatnonzero(view.rows_in("test", full=True) & target)
    train = view.counts[view.rows_in("train", full=True) & target]
    counts = view.counts[test].astype(float)
    keep = metrics.scored_units(train.sum(axis=0, dtype=float), counts.sum(axis=0))
    if prediction.task in UNIT_TASKS:
        keep &= np.isin(np.arange(len(keep)), held_out_units(view, prediction.task))
    if not keep.any():
        raise ValueError(f"{view.session}: no unit with enough spikes to be scored; leave the session out")
    rows = _find(prediction, _row_keys(view)[test], _file_keys(prediction), "row (trial, bin)")
    columns = _find(prediction, view.unit[keep], prediction.arrays["unit"], "unit")
    rate = prediction.arrays["rate"][np.ix_(rows, columns)].astype(float)
    return ScoredRates(rate, counts[:, keep], train.mean(axis=0, dtype=float)[keep], test, np.flatnonzero(keep))


def scored_values(prediction: Prediction, view: SessionView) -> ScoredValues:
    """Truth and prediction in the test trials that are scored (label and value tasks), or in their bins (traces).

    Raises:
        ValueError: A trial or row is missing, twice or not finite.
    """
    if (name := traced(prediction.task)) is not None:
        rows = np.flatnonzero(view.rows_in("test", full=True) & target_rows(view, prediction.task))
        found = _find(prediction, _row_keys(view)[rows], _file_keys(prediction), "row (trial, bin)")
        truth = view.row_covariates[name].values[rows, 0]
        return ScoredValues(truth, prediction.arrays["value"][found], rows, view.trial[rows])
    trials = view.trials_in("test", full=True)
    trials = trials[_observed_trials(view, prediction.task)[trials]]
    found = _find(prediction, view.source_trial[trials], prediction.arrays["trial"], "trial")
    field = "logit" if prediction.task in LABEL_TASKS else "value"
    truth = view.trial_covariates[prediction.task].values[trials]
    return ScoredValues(truth, prediction.arrays[field][found], trials, trials)


def _score_rates(prediction: Prediction, view: SessionView) -> dict[str, Score]:
    rate, counts, null, test, columns = scored_rates(prediction, view)
    test_mean, units, spikes = counts.mean(axis=0), len(columns), int(counts.sum())
    per_unit, per_unit_d2 = metrics.bits_per_spike(rate, counts, null), metrics.d2_of_units(rate, counts, null)
    cells = Cells.of(conditions(view)[view.trial[test]], view.bin[test])
    return {
        "bps": Score(
            metrics.pooled_bits_per_spike(rate, counts, null), "bits/spike, null train mean, pooled units", spikes
        ),
        "bps_nlb": Score(
            metrics.pooled_bits_per_spike(rate, counts, test_mean), "bits/spike, null test mean, pooled units", spikes
        ),
        "bps_unit": Score(float(per_unit.mean()), "bits/spike, null train mean, mean over units", units),
        "d2": Score(metrics.d2(rate, counts, null), "deviance explained, null train mean, pooled units", spikes),
        "d2_unit": Score(float(np.nanmean(per_unit_d2)), "deviance explained, null train mean, mean over units", units),
        "frac_units_positive": Score(float((per_unit > 0).mean()), "share of units with bps > 0", units),
        "trial_r2": _mean_r2(metrics.r2_of_columns(counts, rate), "R2 of counts in single trials and bins"),
        **_psth_scores(rate, counts, cells),
        **_within_scores(rate, counts, cells),
    }


def _psth_scores(rate: np.ndarray, counts: np.ndarray, cells: Cells) -> dict[str, Score]:
    """R2 of condition means; empty where no condition has the trials for them, or all means are equal."""
    if len(cells.size) < 2 or not np.isfinite(each := psth_r2_of_units(rate, counts, cells)).any():
        return {}
    what = (
        "R2 of means over test trials with equal categorical trial covariates, of each bin that "
        f"{MIN_TRIALS} or more of them reach"
    )
    weighted = metrics.r2_variance_weighted(cells.means(counts), cells.means(rate))
    return {
        "psth_r2": _mean_r2(each, what),
        "psth_r2_weighted": Score(weighted, f"{what}, units weighted by variance", int(np.isfinite(each).sum())),
    }


def _within_scores(rate: np.ndarray, counts: np.ndarray, cells: Cells) -> dict[str, Score]:
    """What tells trials of one condition apart, over units that do not fire alike in all of them; empty without any."""
    varies = (np.abs(residuals(counts, cells)) > 1e-9).any(axis=0)
    if not varies.any():
        return {}
    rate, counts = rate[:, varies], counts[:, varies]
    fitted, truth, null = given_the_sums(rate, counts, cells)
    what = (
        f"deviance explained within cells of {MIN_TRIALS} or more test trials with equal categorical trial covariates, "
        "each bin apart, the spikes of a cell given, null all its trials alike"
    )
    each = metrics.d2_of_units(fitted, truth, null)
    r2 = metrics.r2_of_columns(residuals(counts, cells), residuals(rate, cells))
    return {
        "within_d2": Score(metrics.d2(fitted, truth, null), f"{what}, pooled units", int(truth.sum())),
        "within_d2_unit": Score(float(each.mean()), f"{what}, mean over units", len(each)),
        "within_r2": _mean_r2(r2, "R2 of counts in single trials and bins, both less the means of those cells"),
    }


def _mean_r2(each: np.ndarray, what: str) -> Score:
    varies = np.isfinite(each)
    convention = f"{what}, each unit about its test mean, mean over units"
    return Score(float(each[varies].mean()) if varies.any() else float("nan"), convention, int(varies.sum()))


def _label_scores(truth: np.ndarray, logit: np.ndarray) -> dict[str, Score]:
    n = len(truth)
    return {
        "auc": Score(metrics.auc(truth, logit), "Mann-Whitney, ties 1/2", n),
        "balanced_accuracy": Score(metrics.balanced_accuracy(truth, logit), "at logit 0", n),
        "cross_entropy_bits": Score(metrics.cross_entropy_bits(truth, logit), "bits per trial", n),
    }


def _value_scores(truth: np.ndarray, value: np.ndarray, what: str) -> dict[str, Score]:
    """NaN where the truth has no two values in the scored trials: it has no R2 there."""
    varies = len(truth) > 0 and truth.min() < truth.max()
    r2, r_squared = (metrics.r2(truth, value), metrics.r_squared(truth, value)) if varies else (np.nan, np.nan)
    return {
        "r2": Score(r2, f"about the test mean, {what} pooled", len(truth)),
        "r_squared": Score(r_squared, f"squared correlation, {what} pooled", len(truth)),
    }


def _score_choice_in_time(prediction: Prediction, view: SessionView) -> dict[str, Score]:
    rows = np.flatnonzero(view.rows_in("test", full=True) & target_rows(view, "choice_t"))
    found = _find(prediction, _row_keys(view)[rows], _file_keys(prediction), "row (trial, bin)")
    logit = prediction.arrays["logit"][found]
    truth = view.trial_covariates["choice"].values[view.trial[rows]]
    at_ms = np.round((view.bin[rows] + 1) * view.bin_size_s * 1000).astype(np.int64)
    scores: dict[str, Score] = {}
    for ms in np.unique(at_ms):
        here = at_ms == ms
        for name, one in _label_scores(truth[here], logit[here]).items():
            scores[f"{name}_{ms}ms"] = one
    means: dict[str, Score] = {}
    for name in ("auc", "balanced_accuracy", "cross_entropy_bits"):
        parts = [s.value for key, s in scores.items() if key.startswith(name)]
        means[name] = Score(float(np.nanmean(parts)), "mean over decoding times, trials that last that long", len(rows))
    return {**means, **scores}


def _score_trace(prediction: Prediction, view: SessionView) -> dict[str, Score]:
    truth, value, rows, _ = scored_values(prediction, view)
    scores = _value_scores(truth, value, "test bins")
    if "choice" in view.trial_covariates and np.isfinite(scores["r2"].value):
        partial = metrics.partial_r2(truth, value, choice_by_time(view)[rows])
        convention = "squared partial correlation beyond true choice x time, test bins"
        scores["partial_r2"] = Score(partial, convention, len(rows))
    return scores


def choice_by_time(view: SessionView) -> np.ndarray:
    """`(R, 16)`: 1 and the true choice (-1, 1), each times 8 hats of time: all that choice says of evidence."""
    choice = 2.0 * view.trial_covariates["choice"].values[view.trial] - 1
    knots = np.linspace(view.bin_size_s, float(view.time_s.max()), 8)
    bumps = np.stack([np.interp(view.time_s, knots, row) for row in np.eye(len(knots))], axis=1)
    return np.concatenate([bumps, bumps * choice[:, None]], axis=1)


def _observed_trials(view: SessionView, name: str) -> np.ndarray:
    if name not in view.trial_covariates:
        raise ValueError(
            f"{view.dataset}/{view.session}: no covariate {name!r}; there are {list(view.trial_covariates)}"
        )
    return view.trial_covariates[name].observed


def _row_keys(view: SessionView) -> np.ndarray:
    return view.source_row_trial.astype(np.int64) << 32 | view.bin.astype(np.int64)


def _file_keys(prediction: Prediction) -> np.ndarray:
    return prediction.arrays["trial"].astype(np.int64) << 32 | prediction.arrays["bin"].astype(np.int64)


def _find(prediction: Prediction, wanted: np.ndarray, given: np.ndarray, what: str) -> np.ndarray:
    """Position in `given` of each wanted key, each there exactly once."""
    order = np.argsort(given, kind="stable")
    ranked = given[order]
    lo, hi = ranked.searchsorted(wanted, side="left"), ranked.searchsorted(wanted, side="right")
    for bad, word in ((hi == lo, "missing"), (hi - lo > 1, "given more than once")):
        if bad.any():
            first = int(wanted[bad][0])
            shown = (first >> 32, first & 0xFFFFFFFF) if what.startswith("row") else first
            raise ValueError(
                f"prediction of {prediction.model!r} for {prediction.task}: {int(bad.sum())} of {len(wanted)} scored "
                f"{what}s {word}, the first {shown}; give each scored {what} once"
            )
    return order[lo]
