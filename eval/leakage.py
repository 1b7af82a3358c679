"""The leakage detector: every way in which a score may not be of an animal, trial or neuron that is new to the model.

It gathers what is known of a model's past and runs the checks of `leakage_copies`, `leakage_statistics`,
`leakage_covariates` and `leakage_regions`, where thresholds and false-alarm rates are stated. What to do with leaks is
the caller's choice: `refuse(leaks)` raises with all of them, or their texts go into the provenance of the results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from eval.adapted import Adapted
from eval.leak import Leak, LeakageError, refuse
from eval.leakage_copies import adaptation_leaks, animal_leaks, prediction_leaks, recording_leaks, view_leaks
from eval.leakage_covariates import SPIKES, covariate_leaks
from eval.leakage_regions import order_leaks, table_leaks
from eval.leakage_statistics import Normalizer, normalizer_leaks
from eval.predictions import Prediction
from eval.session_view import SessionView
from foundation.corpus import Corpus
from foundation.splits import SplitName

__all__ = ["Leak", "LeakageError", "Past", "find_leaks", "leaks_of", "past_of", "refuse"]


@dataclass(frozen=True)
class Past:
    """What went into a model that is to be scored. What is left empty is not checked.

    Attributes:
        pretraining: Recordings that shaped the shared weights.
        evaluated: Recordings that are scored.
        held_out_sessions: Those of them whose animal is meant to be known: the claim is of sessions, not of animals.
        split: Rule within a session, as the evaluated recordings are split.
        fold: Of the interleaved rule.
        pretraining_split: The rule and fold of the recordings that the normalizers are of.
        bin_size_s: Seconds.
        roles: `(M,)` of each evaluated recording's trials, as adaptation used them; one array for each adaptation.
        normalizers: What is stored of each continuous covariate.
        readable: By target (a covariate, or "spikes") the covariates that may be read when it is predicted.
        regions: Units tables that the region probe read; by default those of the corpus.
        predictions: Of each evaluated recording the model's predictions, each with those of its baselines and nulls.
    """

    pretraining: tuple[str, ...]
    evaluated: tuple[str, ...]
    held_out_sessions: tuple[str, ...] = ()
    split: SplitName = "interleaved"
    fold: int = 0
    pretraining_split: tuple[SplitName, int] = ("interleaved", 0)
    bin_size_s: float = 0.02
    roles: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)
    readable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    regions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    predictions: Mapping[str, Sequence[tuple[Prediction, Sequence[Prediction]]]] = field(default_factory=dict)


def find_leaks(corpus: Corpus, past: Past, *, with_regions: bool = True) -> list[Leak]:
    """All leaks, certain ones first; a check that cannot decide says so.

    Args:
        corpus: Holds the recordings of `past`.
        past: Of the model.
        with_regions: Look at the regions of units too; a score that reads none has nothing to fear from them.

    Raises:
        CorpusError: A recording that the corpus does not have.
    """
    return _find(corpus, past, with_regions, {})


# What was found in sessions by themselves, by all that it depends on.
_OfSessions = dict[tuple[Any, ...], list[Leak]]


def _find(corpus: Corpus, past: Past, with_regions: bool, of_sessions: _OfSessions) -> list[Leak]:
    new = [key for key in past.evaluated if key not in past.held_out_sessions]
    leaks = animal_leaks(corpus.subjects, past.pretraining, new)
    leaks += recording_leaks(corpus, past.pretraining, past.evaluated)
    leaks += normalizer_leaks(past.normalizers, corpus, past.pretraining, past.evaluated, *past.pretraining_split)
    for key in past.evaluated:
        leaks += _session_leaks(corpus, key, past, of_sessions)
    if with_regions:
        tables = {key: corpus[key].units for key in dict.fromkeys([*past.pretraining, *past.evaluated])}
        leaks += table_leaks(past.regions, tables) + order_leaks({**tables, **past.regions}, past.evaluated)
    return sorted(leaks, key=lambda leak: not leak.decided)


def _session_leaks(corpus: Corpus, key: str, past: Past, of_sessions: _OfSessions) -> Iterator[Leak]:
    view = SessionView.of(corpus[key], bin_size_s=past.bin_size_s, split=past.split, fold=past.fold)
    for roles in past.roles.get(key, ()):
        yield from adaptation_leaks(view, np.asarray(roles))
    about = (
        key,
        past.split,
        past.fold,
        past.bin_size_s,
        json.dumps({target: list(names) for target, names in past.readable.items()}),
    )
    if about not in of_sessions:
        of_sessions[about] = [*view_leaks(view), *_readable_leaks(view, past)]
    yield from of_sessions[about]
    for mine, others in past.predictions.get(key, ()):
        yield from prediction_leaks(mine, others, view)


def _readable_leaks(view: SessionView, past: Past) -> Iterator[Leak]:
    for target, names in past.readable.items():
        own = {*view.trial_covariates, *view.row_covariates}
        if target == SPIKES or target in own:
            yield from covariate_leaks(view, target, [name for name in names if name in own])


def leaks_of(models: Sequence[Adapted], corpus: Corpus, *, with_regions: bool = True) -> list[Leak]:
    """All leaks of adapted models of any splits and pretraining runs, each once; certain ones first."""
    groups: dict[tuple[object, ...], list[Adapted]] = {}
    for model in models:
        for used in model.model.provenance["adapted"].values():
            group = groups.setdefault((used["split"], int(used["fold"]), tuple(_pretraining(model))), [])
            if model not in group:
                group.append(model)
    pasts = [past_of(group, corpus) for group in groups.values()]
    of_sessions: _OfSessions = {}
    found = [leak for past in pasts for leak in _find(corpus, past, with_regions, of_sessions)]
    return sorted(dict.fromkeys(found), key=lambda leak: not leak.decided)


def past_of(models: Sequence[Adapted], corpus: Corpus) -> Past:
    """The past of some adapted models of this library, from their provenance.

    Behavior is decoded from spikes alone here (`foundation.predict.hide_behavior`), so only the spikes have readable
    covariates. Normalizers are of pretraining, from every n-th session (`foundation.channels.find_channels`).

    Args:
        models: In one split and fold, of one pretraining.
        corpus: Holds their recordings.

    Raises:
        ValueError: Several splits, folds or pretraining runs.
    """
    pasts = {
        (used["split"], int(used["fold"]), tuple(_pretraining(model)))
        for model in models
        for used in model.model.provenance["adapted"].values()
    }
    if len(pasts) != 1:
        raise ValueError(f"models of {len(pasts)} splits, folds or pretraining runs; look for leaks in each by itself")
    split, fold, pretraining = pasts.pop()
    roles: dict[str, list[np.ndarray]] = {}
    for model in models:
        for key in model.model.adapters.sessions["recording_id"]:
            used = model.model.provenance["adapted"].get(key)
            # Without a record, any trial may have been used.
            roles.setdefault(key, []).append(np.array(used["roles"] if used else []))
    first = models[0].model
    present = tuple(key for key in pretraining if key in corpus.ids)
    sources = present[:: max(1, len(present) // 12)][:12]
    return Past(
        pretraining=present,
        evaluated=tuple(roles),
        held_out_sessions=tuple(first.provenance.get("held_out_sessions", [])),
        split=split,
        fold=fold,
        pretraining_split=(first.provenance.get("split", split), int(first.provenance.get("fold", fold))),
        bin_size_s=first.config.bin_size_s,
        roles=roles,
        normalizers={
            c.spec.name: Normalizer(tuple(c.mean), tuple(c.std), sources)
            for c in first.channels
            if c.spec.kind == "continuous"
        }
        if present
        else {},
        readable={SPIKES: [c.spec.name for c in first.channels if c.is_input]},
    )


def _pretraining(model: Adapted) -> list[str]:
    past = model.model.provenance
    return list(past.get("pretraining_recordings", [])) if past["pretraining_subjects"] else []
