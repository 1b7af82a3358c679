"""Classes of units told from their embeddings: `eval.probes` on a pretrained model and its adapted animals, as rows.

Regions, and cell types where a recording's units table has a column `cell_type`.

Vectors of pretraining units come from the pretrained run, those of a held-out animal from the model adapted to it; both
live on the same trunk. They are fingerprints (`foundation.fingerprint`) where every session has one, with the adapter
rows beside; else the adapter rows. Region labels are read here and nowhere before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from data_recipes.regions import known_regions
from eval.adapted import Adapted
from eval.examples import ConfusionExample
from eval.probes import Found, NoFoldError, RegionResult, probe_regions
from eval.results import ResultRow
from eval.unit_features import rate_only, unit_features
from foundation.checkpoint import load_model
from foundation.corpus import Corpus
from foundation.fingerprint import FINGERPRINT
from foundation.model import FoundationModel

# Columns of the units table that are probed where they are filled.
PLURAL = {"region": "regions", "cell_type": "cell types"}
COLUMNS = tuple(PLURAL)


# Name, seed and split to the pretrained runs, each with the models that were adapted from it.
Families = dict[tuple[str, int, str], dict[str, list[Adapted]]]


def probed_together(models: list[Adapted], base: str | None, *, every_animal: bool = False) -> Families:
    """The full-data adapter models by name, seed and split, and by pretrained run; of each animal one.

    Args:
        models: Adapted models.
        base: Pretrained run; by default the one that each model remembers.
        every_animal: Whether pretraining animals are to be left out in turn too.

    Raises:
        ValueError: `every_animal`, and several pretrained runs of one name and seed.
    """
    families: Families = {}
    for a in models:
        path = base or a.model.provenance.get("base")
        if path and a.track == "adapter" and not a.is_few_shot:
            group = families.setdefault((a.name, _seed(a), _split(a)), {}).setdefault(path, [])
            if a.subject not in {other.subject for other in group}:
                group.append(a)
    for (name, seed, _), runs in families.items():
        if every_animal and len(runs) > 1:
            raise ValueError(
                f"{name}, seed {seed}: regions of every animal are probed on one pretrained run, got {sorted(runs)}; "
                "leave out --all-regions, or give --base"
            )
    return families


def region_rows(
    families: Families,
    corpus: Corpus,
    *,
    every_animal: bool = False,
    columns: Sequence[str] = COLUMNS,
    thorough: bool = True,
) -> tuple[list[ResultRow], list[ConfusionExample]]:
    """Rows and confusions of the unit probes for the full-data adapter models; empty where too few classes are known.

    Models of one name, seed, split and pretrained run are probed together, each of their animals left out in turn.
    Where each animal was left out of a pretraining of its own, so of one name and seed there are several runs, nothing
    is pooled over animals.

    Args:
        families: As from `probed_together`.
        corpus: Holds their recordings and those of the pretraining animals.
        every_animal: Leave out pretraining animals in turn too.
        columns: Of `COLUMNS`.
        thorough: See `eval.probes.probe_regions`.

    Returns:
        Rows, those of baselines and nulls once, and the confusions of the first name and seed.
    """
    rows: dict[tuple[object, ...], ResultRow] = {}
    confusions: list[ConfusionExample] = []
    # Baselines and controls are the same for all seeds.
    seen: dict[str, Found] = {}
    for family, runs in families.items():
        for path, group in runs.items():
            found, drawn = _of_one_run(group, corpus, path, every_animal, columns, thorough, seen)
            for row in found:
                if row.subject != "all" or len(runs) == 1:
                    rows.setdefault(row.key, row)
                elif row.task.startswith("session_identity"):
                    left_out = " and ".join(a.subject for a in group)
                    row = replace(row, subject=left_out, session=left_out)
                    rows.setdefault(row.key, row)
            confusions += drawn if family == next(iter(families)) else []
    return list(rows.values()), confusions


def _of_one_run(
    group: list[Adapted],
    corpus: Corpus,
    path: str,
    every_animal: bool,
    columns: Sequence[str],
    thorough: bool,
    seen: dict[str, Found],
) -> tuple[list[ResultRow], list[ConfusionExample]]:
    """Rows and confusions of the animals that were adapted from one pretrained run."""
    pretrained = load_model(path)
    owner: dict[str, FoundationModel] = {}
    for model in (pretrained, *(a.model for a in group)):
        owner |= dict.fromkeys(model.adapters.sessions["recording_id"], model)
    rows: list[ResultRow] = []
    confusions: list[ConfusionExample] = []
    test_subjects = None if every_animal else [a.subject for a in group]
    first = group[0]
    # Of an animal that is left out, what was pretrained on is no test.
    new = {key for a in group for key in a.model.adapters.sessions["recording_id"]}
    tested = {a.subject for a in group}
    owner = {key: m for key, m in owner.items() if every_animal or key in new or corpus.subjects[key] not in tested}
    for column in columns:
        units = {key: corpus[key].units for key in owner}
        # The probe knows its classes by the name of the first of them.
        known = {
            key: table.assign(region=known_regions(table[column].fillna("")))
            for key, table in units.items()
            if column in table
        }
        found = _probed({key: owner[key] for key in known}, known, corpus, pretrained, test_subjects, thorough, seen)
        if found is not None:
            datasets = {corpus.subjects[key]: key.split("/")[0] for key in known}
            rows += _rows(found.scores, column, first, datasets) + _leak_rows(
                found.session_identity, column, first, datasets
            )
            confusions += _confusions(found.confusion, column)
    return rows, confusions


def _probed(
    owner: dict[str, FoundationModel],
    units: dict[str, pd.DataFrame],
    corpus: Corpus,
    pretrained: FoundationModel,
    test_subjects: list[str] | None,
    thorough: bool,
    seen: dict[str, Found],
) -> RegionResult | None:
    """The probe on the recordings that have labels; None where there are no two classes, or no animal to leave out."""
    labelled = {key for key, table in units.items() if (table["region"] != "").any()}
    if len({region for key in labelled for region in units[key]["region"]} - {""}) < 2:
        return None
    size = pretrained.config.bin_size_s
    owner = {key: model for key, model in owner.items() if key in labelled}
    vectors = {key: model.adapter_rows(key) for key, model in owner.items()}
    others = {"activity statistics": aligned({key: unit_features(corpus[key], size) for key in owner})}
    if all(FINGERPRINT in model.readouts.get(key, {}) for key, model in owner.items()):
        others = {"adapter rows": vectors} | others
        vectors = {key: model.unit_embeddings(key) for key, model in owner.items()}
    try:
        return probe_regions(
            vectors,
            {key: units[key] for key in vectors},
            {key: corpus.subjects[key] for key in vectors},
            rates={key: rate_only(corpus[key], size) for key in vectors},
            baselines=others,
            train_subjects=pretrained.provenance["pretraining_subjects"],
            test_subjects=test_subjects,
            thorough=thorough,
            seen=seen,
        )
    except NoFoldError as error:
        # The other tasks need no classes of units.
        print(f"classes of units are not probed: {error}", file=sys.stderr)
        return None


def aligned(features: Mapping[str, tuple[np.ndarray, list[str]]]) -> dict[str, np.ndarray]:
    """Features of sessions whose covariates differ, `(N, F)` each over all names that any session has.

    A column that a session lacks gets the mean of the sessions that have it, which says nothing.

    Args:
        features: `(N, F_s)` and the F_s names, per recording id.
    """
    names = list(dict.fromkeys(name for _, own in features.values() for name in own))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for values, own in features.values():
        for name, column in zip(own, values.T):
            columns[name].append(column)
    mean = np.array([np.concatenate(columns[name]).mean() for name in names])
    out = {}
    for key, (values, own) in features.items():
        out[key] = np.tile(mean, (len(values), 1))
        out[key][:, [names.index(name) for name in own]] = values
    return out


def _rows(scores: pd.DataFrame, column: str, adapted: Adapted, datasets: dict[str, str]) -> list[ResultRow]:
    """One row per animal, input, probe and metric; the baseline is the best of its probes."""
    names = _names(adapted)
    rows = []
    keys = ["protocol", "group", "subject", "reading"]
    for (protocol, group, subject, reading), part in scores.groupby(keys, sort=False):
        task = f"{column} {protocol} {group}" + (", all units" if subject == "all" else "")
        task += ", multi-unit" if reading == "multi" else ""
        present = f"the {PLURAL[column]} present, one score per animal"
        for metric, convention in (
            ("macro_f1", f"macro-F1 over {present}"),
            ("balanced_accuracy", f"mean recall over {present}"),
        ):
            classical = part[part["input"] == "activity statistics"]
            best = classical.sort_values(metric).iloc[-1]
            permuted = part.groupby("input")["null_95"].max()
            for _, row in part.iterrows():
                model, kind = names.get(row["input"], (row["input"], "null"))
                is_model = kind == "model"
                has_null = is_model and metric == "macro_f1"
                rows.append(
                    ResultRow(
                        dataset=datasets.get(str(subject), next(iter(datasets.values()))),
                        subject=str(subject),
                        session=str(subject) if subject != "all" else "pooled",
                        split=_split(adapted),
                        task=task,
                        model=_named(model, row["probe"]),
                        kind=kind,
                        train_trials=0,
                        draw=0,
                        seed=_seed(adapted) if is_model else 0,
                        metric=metric,
                        convention=convention,
                        value=float(row[metric]),
                        n=int(row["num_units"]),
                        baseline=_named("activity statistics", best["probe"]) if is_model else "",
                        baseline_value=float(best[metric]) if is_model else None,
                        null="labels permuted within session, 95th percentile" if has_null else "",
                        null_value=float(permuted[row["input"]]) if has_null else None,
                    )
                )
    return rows


def _leak_rows(leaks: pd.DataFrame, column: str, adapted: Adapted, datasets: dict[str, str]) -> list[ResultRow]:
    """One row per input and kind of pairs: how well two sessions are told apart; the lower the better."""
    names = _names(adapted)
    return [
        ResultRow(
            dataset=next(iter(datasets.values())),
            subject="all",
            session="pooled",
            split=_split(adapted),
            task=f"session_identity {row['pairs']}, {column}",
            model=names.get(row["input"], (row["input"], ""))[0],
            kind="null",
            train_trials=0,
            draw=0,
            seed=_seed(adapted),
            metric="balanced_accuracy",
            convention=f"two sessions told apart by units of one {column}, mean over pairs, held-out folds; chance 0.5",
            value=float(row["balanced_accuracy"]),
            n=int(row["num_pairs"]),
            higher_is_better=False,
        )
        for _, row in leaks.iterrows()
        if row["num_pairs"]
    ]


def _names(adapted: Adapted) -> dict[str, tuple[str, str]]:
    """Name of the model and kind of the row by input."""
    return {
        "features": (adapted.name, "model"),
        "adapter rows": (f"{adapted.name}, adapter rows", "model"),
        "activity statistics": ("activity statistics", "baseline"),
    }


def _seed(adapted: Adapted) -> int:
    return int(adapted.model.provenance.get("seed", 0))


def _split(adapted: Adapted) -> str:
    return str(next(iter(adapted.model.provenance["adapted"].values()))["split"])


def _named(model: str, probe: str) -> str:
    return model if probe == "logistic" else f"{model}, {probe}"


def _confusions(confusion: dict[tuple[str, str, str, str], pd.DataFrame], column: str) -> list[ConfusionExample]:
    prefix = "" if column == COLUMNS[0] else f"{column}, "
    return [
        ConfusionExample(f"{prefix}{protocol}, {subject}, {probe}", [str(c) for c in counts.columns], counts.to_numpy())
        for (protocol, subject, source, probe), counts in confusion.items()
        if source == "features" and probe == "logistic" and protocol != "transductive"
    ]
