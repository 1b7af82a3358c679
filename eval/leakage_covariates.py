"""Whether a covariate that may be read gives the target away without spikes, far beyond the stimulus null.

Per session and target: a ridge and trees on what one covariate says, fitted on train and validation trials and asked on
test trials, and fitted and asked within the test trials alone (what is planted there only shows there). The stimulus
null are all other stimulus and task covariates, trial index and trial length (protocol, section 3).

A covariate leaks when it is exact (score >= .98); when, being no stimulus, it removes more than half of what the null
leaves; when it tells the *next* trial's behavior beyond this trial's own; or when it tells the target in test trials
and not in train trials. The last three also need a test over trials, p < .001 each (the last .0001), which bounds the
false alarms of a covariate that knows nothing: less than .003 for each target and session. A stimulus that drives the
animal to 98 % or more cannot be told from a leak, and a noisy copy of the target that calls itself a stimulus is not
found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, fisher_exact
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.leak import Leak
from eval.session_view import SessionView
from foundation.splits import TEST, TRAIN, VAL

EXACT, BEYOND, P = 0.98, 0.5, 1e-3
# Animals change in a session, so train and test trials differ by more than chance: a tenth of the level.
P_PLANTED = 1e-4
# Fewer test trials with an observed target cannot tell.
MIN_TRIALS = 30
# Target that is no covariate: all spikes of a bin. Covariates that explain it are common, those that are it are not.
SPIKES = "spikes"
_FOLDS, _TREES, _QUARTERS, _MOST_ROWS = 4, 20, 4, 1500
_LAGS = (-25, -10, -5, -2, -1, 0, 1, 2, 5, 10, 25)
_AWAY, _NEXT, _TEST_ONLY = (
    "covariate gives the target away",
    "covariate knows the next trial",
    "covariate tells in test trials only",
)


def covariate_leaks(view: SessionView, target: str, readable: Sequence[str]) -> list[Leak]:
    """Covariates from which a target is known without spikes.

    Args:
        view: The session.
        target: A covariate, or `SPIKES` for the number of spikes in a bin, for which only exactness is tested.
        readable: Covariates that may be read when the target is predicted.

    Raises:
        ValueError: A name that the session does not have.
    """
    specs = {name: one.spec for name, one in view.trial_covariates.items()}
    specs |= {name: one.spec for name, one in view.row_covariates.items()}
    if unknown := sorted(({target, *readable} - {SPIKES}) - set(specs)):
        raise ValueError(f"{view.session}: no covariate {unknown}; there are {sorted(specs)}")
    where, leaks = f"{view.dataset}/{view.session}: {target}", []
    asked = Question.of(view, target)
    if len(np.unique(asked.trial[asked.test])) < MIN_TRIALS:
        return [Leak.undecided(_AWAY, where, len(np.unique(asked.trial[asked.test])), MIN_TRIALS)]
    said = {name: summaries(view, name, asked) for name in specs if name != target}
    structure = np.column_stack([asked.trial, asked.bin, view.num_bins[asked.trial]]).astype(float)
    for name in readable:
        if name == target:
            continue
        rest = [said[k] for k in said if k != name and specs[k].role in ("stimulus", "task")]
        null = np.concatenate([structure, *rest], axis=1)
        may_tell = specs[name].role == "stimulus" or target == SPIKES
        leaks += _judge(asked, said[name], null, f"{where} from {name}", may_tell=may_tell)
        # What the task remembers of a trial (the previous answer) is known from that trial, and no leak.
        if target in view.trial_covariates and specs[target].role == "behavior":
            leaks += _next_trial(asked, said[name], f"{where} from {name}")
    return leaks


@dataclass(frozen=True)
class Question:
    """A target, Q times one per trial or per bin, and who is fitted and who asked.

    Attributes:
        values: `(Q,)` classes, or `(Q, K)` numbers.
        trial: `(Q,)` row of the trial.
        bin: `(Q,)` bin in it; 0 for one per trial.
        row: `(Q,)` row of the view; None for one per trial, where Q is M.
        is_class: Whether `values` are classes.
        fit: Of those with an observed target, the ones of train and validation trials.
        test: The ones of test trials.
    """

    values: np.ndarray
    trial: np.ndarray
    bin: np.ndarray
    row: np.ndarray | None
    is_class: bool
    fit: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, view: SessionView, target: str) -> Question:
        """The question of one covariate, or of the spikes."""
        role = view.full_roles
        if target in view.trial_covariates:
            one, trial = view.trial_covariates[target], np.arange(len(view.num_bins))
            values = one.values if one.spec.kind == "categorical" else one.values[:, None].astype(float)
            row, seen = None, one.observed & (view.num_bins > 0)
            is_class, bins = one.spec.kind == "categorical", np.zeros(len(trial), np.int64)
        else:
            is_spikes = target == SPIKES
            values = view.counts.sum(axis=1, dtype=float)[:, None] if is_spikes else view.row_covariates[target].values
            seen = np.ones(len(values), bool) if is_spikes else view.row_covariates[target].observed
            is_class = not is_spikes and view.row_covariates[target].spec.kind == "categorical"
            # A stride that is no divisor of usual trial lengths, so that all times in trials are asked.
            row = np.arange(0, len(values), 1 + len(values) // _MOST_ROWS)
            values, seen, trial, bins = values[row], seen[row], view.trial[row], view.bin[row]
            values = values[:, 0].astype(np.int64) if is_class else values.astype(float)
        fit = np.flatnonzero(seen & np.isin(role[trial], (TRAIN, VAL)))
        return cls(values, trial, bins, row, is_class, fit, np.flatnonzero(seen & (role[trial] == TEST)))

    def ask(self, features: np.ndarray, fit: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Error of each of `test`: 0 or 1 for classes, else squared; classifier or regressor fitted on `fit`."""
        options = {"n_estimators": _TREES, "min_samples_leaf": 2, "random_state": 0}
        if self.is_class:
            trees = ExtraTreesClassifier(class_weight="balanced", **options).fit(features[fit], self.values[fit])
            return np.asarray(trees.predict(features[test]) != self.values[test], dtype=float)
        line = make_pipeline(StandardScaler(), RidgeCV(10.0 ** np.arange(-3, 5))).fit(features[fit], self.values[fit])
        rest = self.values[fit] - line.predict(features[fit]).reshape(len(fit), -1)
        left = self.values[test] - line.predict(features[test]).reshape(len(test), -1)
        bend = ExtraTreesRegressor(**options).fit(features[fit], rest.squeeze()).predict(features[test])
        return np.asarray(((left - bend.reshape(left.shape)) ** 2).sum(axis=1))

    def ask_within(self, features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The same for each of `chosen`, leaving contiguous quarters of their trials out in turn."""
        errors = np.zeros(len(chosen))
        for part in np.array_split(np.unique(self.trial[chosen]), _FOLDS):
            out = np.isin(self.trial[chosen], part)
            errors[out] = self.ask(features, chosen[~out], chosen[out])
        return errors

    def score(self, errors: np.ndarray, of: np.ndarray) -> float:
        """Balanced accuracy, or R2 about the mean of those asked."""
        truth = self.values[of]
        if self.is_class:
            return float(np.mean([1 - errors[truth == label].mean() for label in np.unique(truth)]))
        return float(1 - errors.sum() / max(((truth - truth.mean(axis=0)) ** 2).sum(), 1e-12))

    def by_trial(self, errors: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Mean error of each trial that was asked."""
        _, group, number = np.unique(self.trial[of], return_inverse=True, return_counts=True)
        return np.bincount(group, weights=errors) / number


def summaries(view: SessionView, name: str, asked: Question) -> np.ndarray:
    """What one covariate says about each of a question's Q targets, `(Q, F)`; where it is observed is said too.

    Per trial: its value, or of one in time means over quarters, sum, first and last value. Per bin: a value in time at
    lags of up to 25 bins either way within the trial, and its sum so far.
    """
    if name in view.trial_covariates:
        one = view.trial_covariates[name]
        return np.column_stack([np.where(one.observed, one.values, 0), one.observed]).astype(float)[asked.trial]
    rows, first = view.row_covariates[name], view.first_row()
    values = np.where(rows.observed[:, None], rows.values, 0).astype(float)
    last = first + np.maximum(view.num_bins, 1) - 1
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    if asked.row is not None:
        at = [np.clip(asked.row + lag, first[asked.trial], last[asked.trial]) for lag in _LAGS]
        so_far = total[asked.row + 1] - total[first[asked.trial]]
        return np.concatenate([*(values[k] for k in at), so_far, rows.observed[asked.row, None]], axis=1)
    edges = first[:, None] + view.num_bins[:, None] * np.arange(_QUARTERS + 1) // _QUARTERS
    seen = np.concatenate([[0], np.cumsum(rows.observed)])
    means = np.diff(total[edges], axis=1) / np.maximum(np.diff(edges, axis=1), 1)[..., None]
    ends = [values[np.minimum(k, len(values) - 1)] for k in (first, last)]
    columns = [means.reshape(len(first), -1), total[edges[:, -1]] - total[first], *ends, np.diff(seen[edges], axis=1)]
    return np.concatenate(columns, axis=1)


def _judge(asked: Question, mine: np.ndarray, null: np.ndarray, where: str, *, may_tell: bool) -> list[Leak]:
    fit, test = asked.fit, asked.test
    score = asked.score(asked.ask(mine, fit, test), test)
    inside = asked.ask_within(mine, test)
    within = asked.score(inside, test)
    if max(score, within) >= EXACT:
        return [Leak.of(_AWAY if score >= EXACT else _TEST_ONLY, where, max(score, within), EXACT)]
    leaks = []
    if not may_tell and (gain := _gain(asked, null, mine, fit, test)) > BEYOND:
        leaks.append(Leak.of(_AWAY, where, gain, BEYOND))
    if within > BEYOND:
        # As many train as test trials, so that both are fitted equally well, and from all of the session.
        known, num = np.unique(asked.trial[fit]), len(np.unique(asked.trial[test]))
        some = known[np.linspace(0, len(known) - 1, min(num, len(known))).round().astype(int)]
        others = fit[np.isin(asked.trial[fit], some)]
        outside = asked.ask_within(mine, others)
        enough = (1 - BEYOND) * max(asked.score(outside, others), 0.0) + BEYOND
        if within > enough and _smaller(asked.by_trial(inside, test), asked.by_trial(outside, others)):
            leaks.append(Leak.of(_TEST_ONLY, where, within, enough))
    return leaks


def _next_trial(asked: Question, mine: np.ndarray, where: str) -> list[Leak]:
    """Whether what a covariate says of the trial before tells the target, beyond the target of that trial."""
    earlier, shifted = (np.concatenate([x[:1], x[:-1]]) for x in (asked.values, mine))
    later = [part[part > 0] for part in (asked.fit, asked.test)]
    gain = _gain(asked, earlier.reshape(len(mine), -1).astype(float), shifted, *later)
    return [Leak.of(_NEXT, where, gain, BEYOND)] if gain > BEYOND else []


def _gain(asked: Question, null: np.ndarray, mine: np.ndarray, fit: np.ndarray, test: np.ndarray) -> float:
    """Share of what the null leaves that `mine` removes; 0 where a sign test over trials does not agree."""
    without, both = asked.ask(null, fit, test), asked.ask(np.concatenate([null, mine], axis=1), fit, test)
    change = asked.by_trial(without, test) - asked.by_trial(both, test)
    better, num = int((change > 0).sum()), int((change != 0).sum())
    if not num or binomtest(better, num, alternative="greater").pvalue >= P:
        return 0.0
    low = asked.score(without, test)
    return (asked.score(both, test) - low) / max(1 - low, 1e-9)


def _smaller(inside: np.ndarray, outside: np.ndarray) -> bool:
    """Whether errors `inside` are smaller than `outside`, by an exact test of how many are below the common median."""
    cut = np.median(np.concatenate([inside, outside]))
    table = [[int((part <= cut).sum()), int((part > cut).sum())] for part in (inside, outside)]
    return bool(fisher_exact(table, alternative="greater").pvalue < P_PLANTED)
