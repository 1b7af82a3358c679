"""The region probe: which brain region a unit of an unseen animal sits in, told from one vector per unit.

Vectors of any origin (a model's embeddings, classical statistics) go through the same code, with the same controls,
nulls and leak meters (protocol, section 4). Does not compute the vectors, and does not write files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.probe_table import (
    MIN_UNITS_OF_CLASS,
    Fold,
    ProbeTable,
    derive_groups,
    frequent_regions,
    group_folds,
    pooled_folds,
    probe_table,
)
from eval.region_scores import RegionPrediction, score_regions, session_names

# An animal enters a mean with at least so many units.
MIN_UNITS_AVERAGED = 20
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_DEFAULT_PENALTY = 0.1


class NoFoldError(ValueError):
    """Too few labeled units in common for any animal to be left out."""


@dataclass(frozen=True)
class RegionResult:
    """All scores and what they came from.

    Attributes:
        scores: One row per protocol, group, subject, input and probe with what `score_regions` returns, `averaged`
            (enough units to count in a mean) and `held_out` (not a pretraining animal). Subject "all": units pooled.
        session_identity: See `session_identity`.
        predictions: By (protocol, input, probe).
        confusion: By (protocol, subject, input, probe): counts, true regions in rows.
    """

    scores: pd.DataFrame
    session_identity: pd.DataFrame
    predictions: dict[tuple[str, str, str], RegionPrediction]
    confusion: dict[tuple[str, str, str, str], pd.DataFrame]

    def summary(self, held_out_only: bool = False) -> pd.DataFrame:
        """Mean over animals by protocol, group, input and probe; animals with few units and pooled rows left out."""
        rows = self.scores[self.scores["averaged"] & (self.scores["subject"] != "all")]
        rows = rows[rows["held_out"]] if held_out_only else rows
        columns = ["macro_f1", "balanced_accuracy", "chance", "null_95"]
        grouped = rows.groupby(["protocol", "group", "input", "probe"], sort=False)
        return grouped[columns].mean().assign(animals=grouped.size()).reset_index()


def probe_regions(
    embeddings: Mapping[str, np.ndarray],
    units: Mapping[str, pd.DataFrame],
    subjects: Mapping[str, str],
    *,
    rates: Mapping[str, np.ndarray],
    baselines: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    train_subjects: Sequence[str] | None = None,
    test_subjects: Sequence[str] | None = None,
    seed: int = 0,
) -> RegionResult:
    """Probe unit vectors for their region, with every control of protocol section 4.

    Args:
        embeddings: `(N, D)` per recording id, rows as in `units`.
        units: Units tables with `region`; units with region "" are left out, so blank those that must not count.
            `source_index`, when there, is the unit's position in the source; else its row is.
        subjects: Animal of each recording id.
        rates: `(N,)` or `(N, 1)` mean rate in Hz of each unit: the rate-only control.
        baselines: Further inputs by name, such as classical features, each like `embeddings`.
        groups: Animals among which one is left out at a time; default `derive_groups`.
        train_subjects: Pretraining animals; the pooled protocol trains on them and tests on all others. None: no
            pooled protocol, and every animal counts as held out.
        test_subjects: Leave only these out in the groups; by default every animal in turn.
        seed: Of forests and resampling. The order of units is drawn from the recording id alone.

    Returns:
        Scores of the inputs `features`, each baseline, `rate only`, `array index` (the order the probe is given, after
        permutation: must be at chance) and `stored index` (what the source's order would give away).

    Raises:
        ValueError: Ids, shapes or animals that do not fit, or values that are not finite.
        NoFoldError: No two animals share enough labeled units.
    """
    table = probe_table(embeddings, units, subjects)
    inputs = {"features": table.features}
    for name, other in (baselines or {}).items():
        inputs[name] = probe_table({key: other[key] for key in embeddings}, units, subjects).features
    log_rates = {key: np.log(np.reshape(rates[key], (-1, 1)) + 0.05) for key in embeddings}
    inputs["rate only"] = probe_table(log_rates, units, subjects).features
    inputs["array index"] = _index_features(table.session, _position_in_session(table.session))
    inputs["stored index"] = _index_features(table.session, table.unit)
    folds = group_folds(table, derive_groups(table) if groups is None else groups)
    if train_subjects is not None:
        folds += pooled_folds(table, train_subjects)
    if test_subjects is not None:
        folds = [fold for fold in folds if set(fold.test) & set(test_subjects)]
    if not folds:
        raise NoFoldError(
            f"no fold: animals {sorted(map(str, set(table.subject)))} share no two regions with {MIN_UNITS_OF_CLASS} "
            "units each; give other groups"
        )
    predictions, scores, confusion = {}, [], {}
    for input_name, features in inputs.items():
        for probe_name, fit in PROBES.items():
            known: Answers = {}
            for protocol in dict.fromkeys(fold.protocol for fold in folds):
                mine = [fold for fold in folds if fold.protocol == protocol]
                prediction = predict_folds(replace(table, features=features), mine, fit, seed, known)
                predictions[protocol, input_name, probe_name] = prediction
                for row, counts in score_folds(prediction, table, mine, seed):
                    row |= {"input": input_name, "probe": probe_name}
                    row["held_out"] = train_subjects is None or row["subject"] not in train_subjects
                    scores.append(row)
                    confusion[protocol, str(row["subject"]), input_name, probe_name] = counts
    first = ["protocol", "group", "subject", "input", "probe"]
    frame = pd.DataFrame(scores)
    frame = frame[first + [column for column in frame if column not in first]]
    return RegionResult(frame, session_identity(table, seed), predictions, confusion)


def fit_logistic(train: ProbeTable, seed: int = 0) -> ClassifierMixin:
    """StandardScaler and class-balanced logistic regression, its C chosen by leaving training animals out.

    The smallest C within one standard error of the best (Breiman et al. 1984): weak penalties win inside a set of
    similar animals and lose on one that differs. Where fewer than two training animals are large enough to be left out,
    sessions are left out in five folds instead; where that fails too, C is 0.1.
    """
    folds = inner_folds(train)
    if not folds:
        return _logistic(_DEFAULT_PENALTY, seed).fit(train.features, train.region)
    scores = []
    for penalty in _PENALTIES:
        fold_scores = []
        for fit, test in folds:
            probe = _logistic(penalty, seed).fit(train.features[fit], train.region[fit])
            truth, answer = train.region[test], probe.predict(train.features[test])
            fold_scores.append(f1_score(truth, answer, labels=np.unique(truth), average="macro", zero_division=0))
        scores.append(fold_scores)
    mean, error = np.mean(scores, axis=1), np.std(scores, axis=1, ddof=1) / np.sqrt(len(folds))
    best = int(mean.argmax())
    chosen = int(np.argmax(mean >= mean[best] - error[best]))
    return _logistic(_PENALTIES[chosen], seed).fit(train.features, train.region)


def fit_forest(train: ProbeTable, seed: int = 0) -> ClassifierMixin:
    """Random forest, classes balanced in every tree."""
    forest = RandomForestClassifier(
        n_estimators=300, min_samples_leaf=3, class_weight="balanced_subsample", random_state=seed
    )
    return forest.fit(train.features, train.region)


PROBES: dict[str, Callable[[ProbeTable, int], ClassifierMixin]] = {"logistic": fit_logistic, "forest": fit_forest}


def inner_folds(train: ProbeTable) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row indices to fit and to test on while choosing hyper-parameters: by animal, else by session, else none."""

    def usable(fit: np.ndarray, test: np.ndarray) -> bool:
        tested = frequent_regions(train.region[test])
        return (
            len(test) >= MIN_UNITS_AVERAGED and len(tested) >= 2 and tested <= frequent_regions(train.region[fit], 10)
        )

    by_animal, by_session = [], []
    if len(set(train.subject)) > 1:
        by_animal = list(LeaveOneGroupOut().split(train.features, groups=train.subject))
    if (num := min(5, len(set(train.session)))) > 1:
        by_session = list(GroupKFold(num).split(train.features, groups=train.session))
    for folds in (by_animal, by_session):
        kept = [(fit, test) for fit, test in folds if usable(fit, test)]
        if len(kept) >= 2:
            return kept
    return []


# Classes, sessions, units and probabilities `(M, K)` of the test units, by what a fold trains, tests and tells apart.
Answers = dict[tuple[Sequence[str], ...], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def predict_folds(
    table: ProbeTable,
    folds: Sequence[Fold],
    fit: Callable[[ProbeTable, int], ClassifierMixin],
    seed: int = 0,
    known: Answers | None = None,
) -> RegionPrediction:
    """Fit on each fold's training animals and predict the units of its test animals; nothing of these reaches the fit.

    Args:
        table: Features and regions.
        folds: Who is trained on and who tested.
        fit: One of `PROBES`.
        seed: Of the fit.
        known: Answers of earlier calls with the same features and fit; protocols may have folds in common.

    Raises:
        ValueError: An animal is tested twice, so that its prediction would be ambiguous.
    """
    tested = [name for fold in folds for name in fold.test]
    if len(set(tested)) < len(tested):
        raise ValueError(f"animals are tested in several folds ({sorted(tested)}); give groups that do not overlap")
    known = {} if known is None else known
    classes = sorted({name for fold in folds for name in fold.classes})
    sessions, units, probs = [], [], []
    for fold in folds:
        key = (tuple(fold.train), tuple(fold.test), tuple(fold.classes))
        if key not in known:
            inside = np.isin(table.region, fold.classes)
            probe = fit(table.where(inside & np.isin(table.subject, fold.train)), seed)
            test = table.where(inside & np.isin(table.subject, fold.test))
            answer = probe.predict_proba(test.features)
            known[key] = np.array(probe.classes_), session_names(test.session), test.unit, answer
        own, session, unit, answer = known[key]
        prob = np.zeros((len(unit), len(classes)))
        prob[:, np.searchsorted(classes, own)] = answer
        sessions.append(session)
        units.append(unit)
        probs.append(prob)
    return RegionPrediction(np.array(classes), np.concatenate(sessions), np.concatenate(units), np.concatenate(probs))


def score_folds(
    prediction: RegionPrediction, table: ProbeTable, folds: Sequence[Fold], seed: int = 0
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Score a prediction, ours or read from a file, per test animal: rows of `RegionResult.scores` and confusions."""
    scored = []
    for fold in folds:
        tests = [(name, (name,)) for name in fold.test] + ([("all", fold.test)] if len(fold.test) > 1 else [])
        for name, members in tests:
            truth = table.where(np.isin(table.region, fold.classes) & np.isin(table.subject, members))
            if not len(truth.unit):
                continue
            row, counts = score_regions(prediction, truth.region, truth.session, truth.unit, fold.classes, seed)
            who = {"protocol": fold.protocol, "group": fold.group, "subject": name}
            scored.append(({**who, **row, "averaged": len(truth.unit) >= MIN_UNITS_AVERAGED}, counts))
    return scored


def session_identity(table: ProbeTable, seed: int = 0, max_pairs: int = 30) -> pd.DataFrame:
    """Leak meter: can a unit's session be told from its features, region held constant?

    For pairs of sessions with at least 10 units of one region each, a logistic probe tells the two apart within that
    region (5-fold cross-validated balanced accuracy, chance 0.5). At 0.5 between animals the features carry nothing but
    the unit; the higher it is, the more of a pooled score can be won by recognizing the animal and thereby its regions.

    Args:
        table: Features to meter.
        seed: Of the draw of pairs and of the folds.
        max_pairs: Pairs drawn of each kind.

    Returns:
        Rows `same animal` and `other animal`: mean `balanced_accuracy`, `num_pairs` (0: NaN, nothing to compare).
    """
    rng = np.random.default_rng(seed)
    pairs: dict[str, list[tuple[str, str, str]]] = {"same animal": [], "other animal": []}
    animal = dict(zip(table.session.tolist(), table.subject.tolist()))
    for region in np.unique(table.region):
        names, numbers = np.unique(table.session[table.region == region], return_counts=True)
        for a, b in combinations(names[numbers >= 10].tolist(), 2):
            pairs["same animal" if animal[a] == animal[b] else "other animal"].append((region, a, b))
    rows = []
    for kind, all_pairs in pairs.items():
        drawn = rng.permutation(len(all_pairs))[:max_pairs]
        scores = [_tell_apart(table, *all_pairs[int(k)], seed=seed) for k in drawn]
        mean = float(np.mean(scores)) if scores else np.nan
        rows.append({"pairs": kind, "balanced_accuracy": mean, "chance": 0.5, "num_pairs": len(scores)})
    return pd.DataFrame(rows)


def _tell_apart(table: ProbeTable, region: str, a: str, b: str, *, seed: int) -> float:
    rows = table.where((table.region == region) & np.isin(table.session, (a, b)))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    answer = cross_val_predict(_logistic(_DEFAULT_PENALTY, seed), rows.features, rows.session, cv=folds)
    return float(balanced_accuracy_score(rows.session, answer))


def _logistic(penalty: float, seed: int) -> ClassifierMixin:
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000, random_state=seed)
    )


def _index_features(session: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Position `(M,)` in the array and as a share of the session's largest, `(M, 2)`."""
    largest = pd.Series(position).groupby(session).transform("max").to_numpy()
    return np.stack([position, position / np.maximum(largest, 1)], axis=1).astype(np.float64)


def _position_in_session(session: np.ndarray) -> np.ndarray:
    return pd.Series(session).groupby(session).cumcount().to_numpy()
