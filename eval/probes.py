"""The region probe: which brain region a unit sits in, told from one vector per unit; any other class of units too.

Of an animal never seen (inductive: `group`, `pooled`), or of one whose other units are known (`transductive`); alone,
or together with its neighbors on the probe. Vectors of any origin (a model's embeddings, classical statistics) go
through the same code, with the same controls, nulls and leak meters (protocol, section 4). Does not compute the
vectors, and does not write files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.base import ClassifierMixin
from sklearn.model_selection import StratifiedKFold

from eval.bwb_export import neighbors
from eval.probe_fits import PROBES
from eval.probe_table import (
    MIN_UNITS_AVERAGED,
    MIN_UNITS_OF_CLASS,
    Fold,
    ProbeTable,
    derive_groups,
    frequent_regions,
    group_folds,
    pooled_folds,
    probe_table,
)
from eval.region_scores import Pooling, RegionPrediction, score_regions, session_names
from eval.session_identity import session_identity

UNIT_FOLDS = 5


class NoFoldError(ValueError):
    """Too few labeled units in common for any animal to be left out."""


@dataclass(frozen=True)
class RegionResult:
    """All scores and what they came from.

    Attributes:
        scores: One row per protocol, group, subject, input, probe and reading ("single", "multi": with its neighbors)
            with what `score_regions` returns, `averaged` (enough units to count in a mean) and `held_out` (not a
            pretraining animal). Subject "all": units pooled.
        session_identity: See `eval.session_identity`; by `input`.
        predictions: By (protocol, input, probe).
        confusion: By (protocol, subject, input, probe), single units: counts, true regions in rows.
    """

    scores: pd.DataFrame
    session_identity: pd.DataFrame
    predictions: dict[tuple[str, str, str], RegionPrediction]
    confusion: dict[tuple[str, str, str, str], pd.DataFrame]

    def summary(self, held_out_only: bool = False) -> pd.DataFrame:
        """Mean over animals of what they share; animals with few units and pooled rows left out."""
        rows = self.scores[self.scores["averaged"] & (self.scores["subject"] != "all")]
        rows = rows[rows["held_out"]] if held_out_only else rows
        columns = ["macro_f1", "balanced_accuracy", "chance", "null_95"]
        grouped = rows.groupby(["protocol", "group", "input", "probe", "reading"], sort=False)
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
    thorough: bool = True,
    seed: int = 0,
    seen: dict[str, Found] | None = None,
) -> RegionResult:
    """Probe unit vectors for their region, with every control of protocol section 4.

    Args:
        embeddings: `(N, D)` per recording id, rows as in `units`.
        units: Units tables with `region`; units with region "" are left out, so blank those that must not count.
            `source_index`, when there, is the unit's position in the source; else its row is. Where all have
            `unit_id`, whose third part is the probe, and `depth_um`, units are read with their neighbors too.
        subjects: Animal of each recording id.
        rates: `(N,)` or `(N, 1)` mean rate in Hz of each unit: the rate-only control.
        baselines: Further inputs by name, such as classical features, each like `embeddings`.
        groups: Animals among which one is left out at a time; default `derive_groups`.
        train_subjects: Pretraining animals; the pooled protocol trains on them and tests on all others. None: no
            pooled protocol, and every animal counts as held out.
        test_subjects: Leave only these out in the groups; by default every animal in turn.
        thorough: False: no network, animals never seen alone, controls by the linear probe alone, and the leak meter
            of `features` alone. Controls never get the network, a forest being as free and cheaper; known animals no
            forest.
        seed: Of forests and resampling. The order of units is drawn from the recording id alone.
        seen: Answers of earlier calls; those of inputs that are the same here are taken from it, new ones are added.

    Returns:
        Scores of the inputs `features`, each baseline, `rate only`, `depth only` (along the probe, where the tables
        have it), `array index` (the order the probe is given, after permutation: must be at chance) and `stored index`
        (what the source's order would give away).

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
    depth = {key: units[key].get("depth_um", pd.Series(dtype=float)).to_numpy(float) for key in embeddings}
    if all(np.isfinite(d).any() for d in depth.values()):
        # The few units whose depth nobody knows get that of the middle.
        middle = np.nanmedian(np.concatenate(list(depth.values())))
        filled = {key: np.where(np.isfinite(d), d, middle)[:, None] for key, d in depth.items()}
        inputs["depth only"] = probe_table(filled, units, subjects).features
    inputs["array index"] = _index_features(table.session, _position_in_session(table.session))
    inputs["stored index"] = _index_features(table.session, table.unit)
    folds = group_folds(table, derive_groups(table) if groups is None else groups)
    if train_subjects is not None:
        folds += pooled_folds(table, train_subjects)
    if thorough:
        folds += transductive_folds(table)
    if test_subjects is not None:
        folds = [fold for fold in folds if set(fold.test) & set(test_subjects)]
    if not folds:
        raise NoFoldError(
            f"no fold: animals {sorted(map(str, set(table.subject)))} share no two regions with {MIN_UNITS_OF_CLASS} "
            "units each; give other groups"
        )
    places = _places(units)
    seen = {} if seen is None else seen
    scores: list[dict[str, Any]] = []
    leaks: list[pd.DataFrame] = []
    predictions: dict[tuple[str, str, str], RegionPrediction] = {}
    confusion: dict[tuple[str, str, str, str], pd.DataFrame] = {}
    for name, features in inputs.items():
        probed = replace(table, features=features)
        is_control, is_index = name not in {"features", *(baselines or {})}, name.endswith("index")
        asked = Asked(
            folds=tuple(folds),
            protocols={probe: _protocols(probe, folds, is_control, is_index, thorough) for probe in PROBES},
            is_metered=name == "features" or (thorough and not is_index),
            train_subjects=None if train_subjects is None else tuple(train_subjects),
            seed=seed,
        )
        key = _digest(probed, asked, places)
        if key not in seen:
            seen[key] = probe_input(probed, asked, places)
        found = seen[key]
        scores += [row | {"input": name} for row in found.scores]
        leaks += [found.leaks.assign(input=name)] if asked.is_metered else []
        predictions |= {(protocol, name, probe): made for (protocol, probe), made in found.predictions.items()}
        confusion |= {
            (protocol, who, name, probe): counts for (protocol, who, probe), counts in found.confusion.items()
        }
    first = ["protocol", "group", "subject", "input", "probe", "reading"]
    frame = pd.DataFrame(scores)
    frame = frame[first + [column for column in frame if column not in first]]
    return RegionResult(frame, pd.concat(leaks, ignore_index=True), predictions, confusion)


@dataclass(frozen=True)
class Asked:
    """What is asked of one input.

    Attributes:
        folds: Who is trained on and who tested, of all protocols.
        protocols: Of each probe of `PROBES`; none leaves it out.
        is_metered: How well two sessions are told apart, too.
        train_subjects: As for `probe_regions`.
        seed: Of forests and resampling.
    """

    folds: tuple[Fold, ...]
    protocols: Mapping[str, tuple[str, ...]]
    is_metered: bool
    train_subjects: tuple[str, ...] | None
    seed: int


@dataclass(frozen=True)
class Found:
    """What one input answers: `scores`, `predictions` and so on as in `RegionResult`, without the input's name."""

    scores: list[dict[str, Any]]
    leaks: pd.DataFrame
    predictions: dict[tuple[str, str], RegionPrediction]
    confusion: dict[tuple[str, str, str], pd.DataFrame]


def _protocols(probe: str, folds: Sequence[Fold], is_control: bool, is_index: bool, thorough: bool) -> tuple[str, ...]:
    """What a probe is asked of an input; the cost of the networks and forests that would tell nothing is saved."""
    if (probe == "mlp" and (is_control or not thorough)) or (probe == "forest" and is_control and not thorough):
        return ()
    protocols = dict.fromkeys(fold.protocol for fold in folds)
    return tuple(p for p in protocols if p != "transductive" or not (probe == "forest" or is_index))


def _digest(table: ProbeTable, asked: Asked, places: Mapping[tuple[str, int], tuple[float, str]]) -> str:
    """Of everything that the answer depends on."""
    rows = [names.tolist() for names in (table.region, table.subject, table.session, table.unit)]
    told = hashlib.sha256(repr((asked, sorted(places.items()), rows, table.features.shape)).encode())
    told.update(np.ascontiguousarray(table.features, dtype=np.float64).tobytes())
    return told.hexdigest()


def probe_input(table: ProbeTable, asked: Asked, places: Mapping[tuple[str, int], tuple[float, str]]) -> Found:
    """All answers of one input.

    Args:
        table: Its features, and regions.
        asked: Of it.
        places: Depth in um and probe of each (session name, unit); empty where not known.
    """
    seed = asked.seed
    scores: list[dict[str, Any]] = []
    predictions: dict[tuple[str, str], RegionPrediction] = {}
    confusion: dict[tuple[str, str, str], pd.DataFrame] = {}
    for probe, protocols in asked.protocols.items():
        known: Answers = {}
        for protocol in protocols:
            mine = [fold for fold in asked.folds if fold.protocol == protocol]
            if protocol == "transductive":
                prediction = predict_known_animals(table, mine[0].classes, PROBES[probe], seed)
            else:
                prediction = predict_folds(table, mine, PROBES[probe], seed, known)
            predictions[protocol, probe] = prediction
            readings: dict[str, Pooling | None] = {"single": None}
            # A known animal's neighbors were predicted by fits that knew the unit: they would give its label back.
            if places and protocol != "transductive":
                readings["multi"] = pooling(prediction, places)
            for reading, pool in readings.items():
                for row, counts in score_folds(prediction, table, mine, seed, pool):
                    row |= {"probe": probe, "reading": reading}
                    row["held_out"] = asked.train_subjects is None or row["subject"] not in asked.train_subjects
                    scores.append(row)
                    if reading == "single":
                        confusion[protocol, str(row["subject"]), probe] = counts
    return Found(scores, session_identity(table, seed) if asked.is_metered else pd.DataFrame(), predictions, confusion)


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


def transductive_folds(table: ProbeTable) -> list[Fold]:
    """One fold per animal, all with the same classes, each with a unit for every part; those it has are scored."""
    everyone = tuple(sorted(set(table.subject)))
    classes = tuple(sorted(frequent_regions(table.region, UNIT_FOLDS)))
    return [
        Fold("transductive", "/".join(classes), everyone, (name,), classes)
        for name in everyone
        if len(set(classes) & frequent_regions(table.region[table.subject == name])) > 1
    ]


def predict_known_animals(
    table: ProbeTable, classes: Sequence[str], fit: Callable[[ProbeTable, int], ClassifierMixin], seed: int = 0
) -> RegionPrediction:
    """Every unit from a fit to four fifths of the others, so that its own animal and session are known.

    The transductive question; its scores are no measure of what is known about an animal never seen.

    Args:
        table: Features and regions.
        classes: Regions on offer, each with `UNIT_FOLDS` units or more.
        fit: One of `PROBES`.
        seed: Of the folds and the fits.
    """
    inside = table.where(np.isin(table.region, classes))
    prob = np.zeros((len(inside.unit), len(classes)))
    parts = StratifiedKFold(UNIT_FOLDS, shuffle=True, random_state=seed)
    for train, test in parts.split(inside.features, inside.region):
        probe = fit(inside.where(train), seed)
        prob[np.ix_(test, np.searchsorted(classes, probe.classes_))] = probe.predict_proba(inside.features[test])
    return RegionPrediction(np.array(classes), session_names(inside.session), inside.unit, prob)


def pooling(prediction: RegionPrediction, places: Mapping[tuple[str, int], tuple[float, str]]) -> Pooling:
    """Weights `(M, M)`: the mean over the five nearest predicted units within 60 um of the probe, the unit itself too.

    As Brain-Wide Bench pools; a unit without a depth stays alone.

    Args:
        prediction: Of single units.
        places: Depth in um and probe of each (session name, unit).
    """
    where = [places[key] for key in zip(prediction.session_of_unit.tolist(), prediction.unit.tolist())]
    depth = np.array([d if np.isfinite(d) else 1e9 * (1 + i) for i, (d, _) in enumerate(where)])
    near = neighbors(depth, np.array([p for _, p in where]))
    number = np.array([len(rows) for rows in near])
    values = np.repeat(1 / number, number)
    starts = np.concatenate([[0], np.cumsum(number)])
    return csr_matrix((values, np.concatenate(near), starts), shape=(len(near), len(near)))


def _places(units: Mapping[str, pd.DataFrame]) -> dict[tuple[str, int], tuple[float, str]]:
    """Depth in um and probe of each (session name, unit); empty where a table does not know them."""
    if not all({"depth_um", "unit_id"} <= set(table.columns) for table in units.values()):
        return {}
    found = {}
    for key, table in units.items():
        (name,) = session_names(np.array([key]))
        probe = table["unit_id"].str.split("/").str[2].fillna("")
        source = table.get("source_index", pd.Series(range(len(table)))).to_numpy(np.int64)
        for unit, depth, label in zip(source.tolist(), table["depth_um"].to_numpy(float).tolist(), probe):
            found[str(name), unit] = depth, f"{key}/{label}"
    return found


def score_folds(
    prediction: RegionPrediction,
    table: ProbeTable,
    folds: Sequence[Fold],
    seed: int = 0,
    pool: Pooling | None = None,
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Score a prediction, ours or read from a file, per test animal: rows of `RegionResult.scores` and confusions."""
    scored = []
    for fold in folds:
        tests = [(name, (name,)) for name in fold.test] + ([("all", fold.test)] if len(fold.test) > 1 else [])
        for name, members in tests:
            truth = table.where(np.isin(table.region, fold.classes) & np.isin(table.subject, members))
            if not len(truth.unit):
                continue
            row, counts = score_regions(prediction, truth.region, truth.session, truth.unit, fold.classes, seed, pool)
            who = {"protocol": fold.protocol, "group": fold.group, "subject": name}
            scored.append(({**who, **row, "averaged": len(truth.unit) >= MIN_UNITS_AVERAGED}, counts))
    return scored


def _index_features(session: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Position `(M,)` in the array and as a share of the session's largest, `(M, 2)`."""
    largest = pd.Series(position).groupby(session).transform("max").to_numpy()
    return np.stack([position, position / np.maximum(largest, 1)], axis=1).astype(np.float64)


def _position_in_session(session: np.ndarray) -> np.ndarray:
    return pd.Series(session).groupby(session).cumcount().to_numpy()
