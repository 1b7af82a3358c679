"""The region probe: which brain region a unit of an unseen animal sits in, told from one vector per unit.

Vectors of any origin (a model's embeddings, classical statistics) go through the same code, with the same controls, nulls
and leak meters (protocol, section 4). Does not compute the vectors, and does not write files.
"""

from __future__ import annotations

import zlib
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

from eval.region_scores import RegionPrediction, score_regions

# A region counts in an animal with at least this many units there; an animal is averaged with at least so many units.
MIN_UNITS_OF_CLASS = 3
MIN_UNITS_AVERAGED = 20
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_DEFAULT_PENALTY = 0.1


@dataclass(frozen=True)
class ProbeTable:
    """One row per unit with a known region, sessions one after the other, units of a session in random order.

    Attributes:
        features: `(M, D)` float64.
        region: `(M,)` names.
        subject: `(M,)` animals.
        session: `(M,)` recording ids.
        unit: `(M,)` 0-based position of the unit in the source. For output and the leak meter; never a feature.
    """

    features: np.ndarray
    region: np.ndarray
    subject: np.ndarray
    session: np.ndarray
    unit: np.ndarray

    def where(self, mask: np.ndarray) -> ProbeTable:
        """The rows of a mask `(M,)`."""
        return ProbeTable(
            self.features[mask], self.region[mask], self.subject[mask], self.session[mask], self.unit[mask]
        )


@dataclass(frozen=True)
class Fold:
    """Train a probe on some animals, test it on others.

    Attributes:
        protocol: `group` (leave one animal out inside a group; the main score) or `pooled`.
        group: Name of the group, made of its regions.
        train: Animals.
        test: Animals.
        classes: Regions on both sides, sorted.
    """

    protocol: str
    group: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: tuple[str, ...]


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
        seed: Of forests and resampling. The order of units is drawn from the recording id alone.

    Returns:
        Scores of the inputs `features`, each baseline, `rate only`, `array index` (the order the probe is given, after
        permutation: must be at chance) and `stored index` (what the source's order would give away).

    Raises:
        ValueError: Ids, shapes or animals that do not fit, or values that are not finite.
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
    if not folds:
        raise ValueError(
            f"no fold: animals {sorted(set(table.subject))} share no two regions with {MIN_UNITS_OF_CLASS} units each; "
            "give other groups"
        )
    predictions, scores, confusion = {}, [], {}
    for input_name, features in inputs.items():
        for probe_name, fit in PROBES.items():
            for protocol in dict.fromkeys(fold.protocol for fold in folds):
                mine = [fold for fold in folds if fold.protocol == protocol]
                prediction = predict_folds(replace(table, features=features), mine, fit, seed)
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


def probe_table(
    embeddings: Mapping[str, np.ndarray], units: Mapping[str, pd.DataFrame], subjects: Mapping[str, str]
) -> ProbeTable:
    """Stack the units with a region, permuted within each session by a seed made of the recording id.

    Raises:
        ValueError: Ids, shapes or widths that do not fit, values that are not finite, or no unit with a region.
    """
    parts = []
    for key in sorted(embeddings):
        if key not in units or key not in subjects:
            raise ValueError(f"{key}: has vectors but no units table or subject; give all three for every recording")
        vectors, region = np.asarray(embeddings[key], dtype=np.float64), units[key]["region"].to_numpy(str)
        if vectors.ndim != 2 or len(vectors) != len(region):
            raise ValueError(f"{key}: vectors of shape {vectors.shape}, expected ({len(region)}, D), one row per unit")
        if not np.isfinite(vectors).all():
            raise ValueError(f"{key}: {int((~np.isfinite(vectors)).sum())} values are not finite; mend them first")
        source = units[key].get("source_index", pd.Series(range(len(region)))).to_numpy(np.int64)
        order = np.random.default_rng(zlib.crc32(key.encode())).permutation(len(region))
        order = order[region[order] != ""]
        names = [np.full(len(order), name) for name in (subjects[key], key)]
        parts.append(ProbeTable(vectors[order], region[order], names[0], names[1], source[order]))
    if widths := sorted({part.features.shape[1] for part in parts})[1:]:
        raise ValueError(f"recordings have vectors of other widths ({widths}); give every unit the same dimensions")
    if not sum(len(part.region) for part in parts):
        raise ValueError("no unit has a region; the probe needs units tables with a filled 'region'")
    fields = ("features", "region", "subject", "session", "unit")
    return ProbeTable(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def derive_groups(table: ProbeTable) -> list[list[str]]:
    """Groups of animals recorded in much the same regions.

    An animal joins the first group with every member of which it shares at least two regions and more than half of the
    regions that either has; animals left alone are in no group.
    """
    regions = {name: _regions(table.region[table.subject == name]) for name in sorted(set(table.subject))}
    groups: list[list[str]] = []
    for name, mine in regions.items():
        for group in groups:
            shared = [(len(mine & regions[other]), len(mine | regions[other])) for other in group]
            if all(both >= 2 and both > either / 2 for both, either in shared):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def group_folds(table: ProbeTable, groups: Sequence[Sequence[str]]) -> list[Fold]:
    """Leave one animal out inside each group, on the regions that both sides have.

    Raises:
        ValueError: A group names an animal that is not in the table.
    """
    folds = []
    for group in groups:
        if unknown := sorted(set(group) - set(table.subject)):
            raise ValueError(f"groups name {unknown}; the animals are {sorted(set(table.subject))}")
        for left_out in group:
            rest = tuple(name for name in group if name != left_out)
            fold = _fold(table, "group", rest, (left_out,))
            if len(fold.classes) >= 2:
                folds.append(fold)
    return folds


def pooled_folds(table: ProbeTable, train_subjects: Sequence[str]) -> list[Fold]:
    """Train on the pretraining animals, test on all others; empty where nobody is left or nothing is shared."""
    train = tuple(name for name in train_subjects if name in table.subject)
    test = tuple(sorted(set(table.subject) - set(train)))
    if not train or not test:
        return []
    fold = _fold(table, "pooled", train, test)
    return [fold] if len(fold.classes) >= 2 else []


def fit_logistic(train: ProbeTable, seed: int = 0) -> ClassifierMixin:
    """StandardScaler and class-balanced logistic regression, its C chosen by leaving training animals out.

    Where fewer than two training animals are large enough to be left out, sessions are left out in five folds instead;
    where that fails too, C is 0.1.
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
        scores.append(np.mean(fold_scores))
    return _logistic(_PENALTIES[int(np.argmax(scores))], seed).fit(train.features, train.region)


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
        tested = _regions(train.region[test])
        return len(test) >= MIN_UNITS_AVERAGED and len(tested) >= 2 and tested <= _regions(train.region[fit], 10)

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


def predict_folds(
    table: ProbeTable, folds: Sequence[Fold], fit: Callable[[ProbeTable, int], ClassifierMixin], seed: int = 0
) -> RegionPrediction:
    """Fit on each fold's training animals and predict the units of its test animals; nothing of these reaches the fit.

    Raises:
        ValueError: An animal is tested twice, so that its prediction would be ambiguous.
    """
    tested = [name for fold in folds for name in fold.test]
    if len(set(tested)) < len(tested):
        raise ValueError(f"animals are tested in several folds ({sorted(tested)}); give groups that do not overlap")
    classes = sorted({name for fold in folds for name in fold.classes})
    sessions, units, probs = [], [], []
    for fold in folds:
        known = np.isin(table.region, fold.classes)
        probe = fit(table.where(known & np.isin(table.subject, fold.train)), seed)
        test = table.where(known & np.isin(table.subject, fold.test))
        prob = np.zeros((len(test.unit), len(classes)))
        prob[:, np.searchsorted(classes, probe.classes_)] = probe.predict_proba(test.features)
        sessions.append(test.session)
        units.append(test.unit)
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
        scores = [_tell_apart(table, *all_pairs[k], seed) for k in drawn]
        mean = float(np.mean(scores)) if scores else np.nan
        rows.append({"pairs": kind, "balanced_accuracy": mean, "chance": 0.5, "num_pairs": len(scores)})
    return pd.DataFrame(rows)


def _tell_apart(table: ProbeTable, region: str, a: str, b: str, seed: int) -> float:
    rows = table.where((table.region == region) & np.isin(table.session, (a, b)))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    answer = cross_val_predict(_logistic(_DEFAULT_PENALTY, seed), rows.features, rows.session, cv=folds)
    return float(balanced_accuracy_score(rows.session, answer))


def _logistic(penalty: float, seed: int) -> ClassifierMixin:
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000, random_state=seed)
    )


def _regions(region: np.ndarray, at_least: int = MIN_UNITS_OF_CLASS) -> set[str]:
    """Names that occur often enough."""
    names, numbers = np.unique(region, return_counts=True)
    return set(names[numbers >= at_least].tolist())


def _fold(table: ProbeTable, protocol: str, train: Sequence[str], test: Sequence[str]) -> Fold:
    both = [_regions(table.region[np.isin(table.subject, side)]) for side in (train, test)]
    classes = tuple(sorted(both[0] & both[1]))
    return Fold(protocol, "/".join(classes), tuple(train), tuple(test), classes)


def _index_features(session: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Position `(M,)` in the array and as a share of the session's largest, `(M, 2)`."""
    largest = pd.Series(position).groupby(session).transform("max").to_numpy()
    return np.stack([position, position / np.maximum(largest, 1)], axis=1).astype(np.float64)


def _position_in_session(session: np.ndarray) -> np.ndarray:
    return pd.Series(session).groupby(session).cumcount().to_numpy()
