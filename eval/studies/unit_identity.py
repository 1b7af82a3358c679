"""NuCLR on real recordings: units of rats never seen, their regions, and whether they are recognized at another time.

The encoder that describes a rat was never trained on it, and never on any label. Regions enter in the probe alone;
array order, coordinates and probe positions enter nowhere but in the leak meters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.probe_table import ProbeTable, group_folds, probe_table
from eval.probes import predict_folds, score_folds
from eval.session_identity import session_identity
from eval.spike_train_features import rate_and_isi
from eval.studies.study import Findings
from eval.studies.unit_identity_findings import BLIND, BOTH, COUPLING, FULL, INDEX, ISI, OWN, RATE, UNTRAINED, write_up
from eval.unit_recognition import coupling_features, own_train_features, stability_whitening
from foundation.corpus import Corpus
from foundation.optim import OptimConfig
from foundation.unit_encoder import UnitEncoderConfig
from foundation.unit_identity import UnitIdentity, UnitIdentityConfig, recognized
from foundation.unit_views import ViewConfig, recorded_counts

# By session: vectors, row for row the units kept.
Vectors = dict[str, np.ndarray]
Row = dict[str, object]


def _default_model() -> UnitIdentityConfig:
    return UnitIdentityConfig(
        encoder=UnitEncoderConfig(patch_bins=100),
        views=ViewConfig(window_bins=1000, max_distance_bins=3000, max_units=48),
        steps=500,
        optim=OptimConfig(lr=2e-3),
    )


@dataclass
class Config:
    """Recordings, classes and training.

    Attributes:
        corpus: Prepared corpus.
        held_out: Groups of animals; the encoder that describes a group is trained on all others.
        probes: By name, the class of each region that counts; other regions are left out of that probe.
        bin_size_s: Bin size.
        seeds: Of weights, views and dropout.
        model: Network and training; its seed is replaced.
    """

    corpus: str = "corpora/luo2020"
    held_out: list[list[str]] = field(default_factory=list)
    probes: dict[str, dict[str, str]] = field(default_factory=dict)
    bin_size_s: float = 0.02
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    model: UnitIdentityConfig = field(default_factory=_default_model)

    def __post_init__(self) -> None:
        """Reject groups that overlap, and a study of nothing."""
        named = [name for group in self.held_out for name in group]
        if not named or len(set(named)) < len(named) or not self.probes or not self.seeds:
            raise ValueError(
                f"held_out {self.held_out} with {len(self.probes)} probes and {len(self.seeds)} seeds; expected groups "
                "of animals, each animal once, and at least one probe and one seed"
            )


@dataclass(frozen=True)
class _Session:
    """A session: its units that fire in both halves, and their counts."""

    subject: str
    counts: np.ndarray
    units: pd.DataFrame

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts of the first and of the second half."""
        middle = len(self.counts) // 2
        return self.counts[:middle], self.counts[middle:]


def run(config: Config) -> Findings:
    """Train without each group of animals, then probe and recognize the units of that group."""
    sessions = _sessions(config)
    subjects = {session.subject for session in sessions.values()}
    if unknown := sorted({name for group in config.held_out for name in group} - subjects):
        raise ValueError(f"held_out names {unknown}; the animals of {config.corpus} are {sorted(subjects)}")
    classical = _classical(sessions, config.bin_size_s)
    whole = {name: {key: parts[0] for key, parts in vectors.items()} for name, vectors in classical.items()}
    regions: list[Row] = []
    known: list[Row] = []
    training: list[Row] = []
    leaks = []
    for group in config.held_out:
        for name, vectors in classical.items():
            regions += _region_rows(config, sessions, name, whole[name], group, 0)
            known += _recognized_by_features(sessions, name, vectors, group)
        regions += _region_rows(config, sessions, INDEX, None, group, 0)
        for seed in config.seeds:
            for name in (FULL, BLIND, UNTRAINED):
                model = _trained(config, sessions, name, group, seed, training)
                embeddings, rows = _embed(model, sessions, name, group, seed)
                known += rows
                regions += _region_rows(config, sessions, name, embeddings, group, seed)
                if name == FULL:
                    both = {key: np.concatenate([embeddings[key], whole[OWN][key]], axis=1) for key in sessions}
                    regions += _region_rows(config, sessions, BOTH, both, group, seed)
                if name == FULL and seed == config.seeds[0]:
                    leaks += [_leak(config, sessions, FULL, embeddings), _leak(config, sessions, OWN, whole[OWN])]
    return write_up(
        regions=pd.DataFrame(regions),
        known=pd.DataFrame(known),
        training=pd.DataFrame(training),
        leaks=pd.concat(leaks),
        units=_unit_table(config, sessions),
    )


def _sessions(config: Config) -> dict[str, _Session]:
    """Sessions by recording id; units silent in either half are left out, since they cannot be recognized."""
    found = {}
    for recording in Corpus.open(config.corpus):
        counts = recorded_counts(recording, config.bin_size_s)
        middle = len(counts) // 2
        fires = counts[:middle].any(axis=0) & counts[middle:].any(axis=0)
        if fires.any() and middle >= config.model.views.window_bins:
            units = recording.units.assign(source_index=np.arange(recording.num_units))
            units = units.iloc[np.flatnonzero(fires)].reset_index(drop=True)
            found[recording.info.recording_id] = _Session(recording.info.subject_id, counts[:, fires], units)
    if not found:
        raise ValueError(f"{config.corpus}: no recording holds two windows of {config.model.views.window_bins} bins")
    return found


def _classical(sessions: Mapping[str, _Session], size: float) -> dict[str, dict[str, list[np.ndarray]]]:
    """Features of every session as a whole and of its two halves, by input and session."""
    found: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in (RATE, ISI, OWN, COUPLING)}
    for key, session in sessions.items():
        parts = [own_train_features(part, size) for part in (session.counts, *session.halves)]
        names = parts[0][1]
        found[RATE][key] = [values[:, [names.index("log_rate")]] for values, _ in parts]
        found[ISI][key] = [values[:, rate_and_isi(names)] for values, _ in parts]
        found[OWN][key] = [values for values, _ in parts]
        found[COUPLING][key] = [coupling_features(part, size) for part in (session.counts, *session.halves)]
    return found


def _trained(
    config: Config, sessions: Mapping[str, _Session], name: str, group: list[str], seed: int, training: list[Row]
) -> UnitIdentity:
    """An encoder that never saw the animals of the group; `training` gets its row."""
    encoder = replace(config.model.encoder, attend_units=name != BLIND)
    model = UnitIdentity(replace(config.model, seed=seed, encoder=encoder))
    if name != UNTRAINED:
        model.fit([session.counts for session in sessions.values() if session.subject not in group])
        step, fitted, held_out = min(model.history, key=lambda look: look[2])
        losses = {"step": step, "training_loss": fitted, "held_out_loss": held_out}
        training.append({"model": name, "without": " ".join(group), "seed": seed, **losses})
    return model


def _embed(
    model: UnitIdentity, sessions: Mapping[str, _Session], name: str, group: list[str], seed: int
) -> tuple[Vectors, list[Row]]:
    """Embeddings of all sessions, and how well the group's units are recognized between halves."""
    embeddings, rows = {}, []
    for key, session in sessions.items():
        first, second = (model.transform(half) for half in session.halves)
        embeddings[key] = (first + second) / 2
        if session.subject in group:
            hits = recognized(model.project(first), model.project(second))
            rows.append(_recognition(name, key, session, seed, hits))
    return embeddings, rows


def _recognized_by_features(
    sessions: Mapping[str, _Session], name: str, vectors: Mapping[str, list[np.ndarray]], group: list[str]
) -> list[Row]:
    """The group's units recognized by features that are whitened by their change between halves in other animals."""
    others = [vectors[key] for key, session in sessions.items() if session.subject not in group]
    whitening = stability_whitening([first for _, first, _ in others], [second for _, _, second in others])
    rows = []
    for key, session in sessions.items():
        if session.subject in group:
            _, first, second = vectors[key]
            rows.append(_recognition(name, key, session, 0, recognized(first @ whitening, second @ whitening)))
    return rows


def _recognition(name: str, key: str, session: _Session, seed: int, hits: np.ndarray) -> Row:
    scores = {"units": len(hits), "recognized": float(hits.mean()), "chance": 1 / len(hits)}
    return {"input": name, "subject": session.subject, "session": key, "seed": seed, **scores}


def _table(sessions: Mapping[str, _Session], vectors: Vectors | None, classes: Mapping[str, str]) -> ProbeTable:
    """Units of a class, in random order; without vectors their place in the source, the leak meter."""
    units = {key: s.units.assign(region=s.units["region"].map(classes).fillna("")) for key, s in sessions.items()}
    if vectors is None:
        place = {key: u["source_index"].to_numpy(np.float64) for key, u in units.items()}
        vectors = {key: np.stack([p, p / max(p.max(), 1)], axis=1) for key, p in place.items()}
    return probe_table(vectors, units, {key: session.subject for key, session in sessions.items()})


def _region_rows(
    config: Config, sessions: Mapping[str, _Session], name: str, vectors: Vectors | None, group: list[str], seed: int
) -> list[Row]:
    """Scores of every probe in every animal of the group, trained on all other animals."""
    rows = []
    for probe, classes in config.probes.items():
        table = _table(sessions, vectors, classes)
        folds = [fold for fold in group_folds(table, [sorted(set(table.subject))]) if fold.test[0] in group]
        if folds:
            for row, _ in score_folds(predict_folds(table, folds, _logistic, seed), table, folds, seed):
                rows.append({"probe": probe, "input": name, "seed": seed, **row})
    return rows


def _logistic(train: ProbeTable, seed: int) -> ClassifierMixin:
    """The probe of NuCLR: standardized, balanced logistic regression with C = 1, fixed beforehand for every input."""
    probe = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000, random_state=seed)
    return make_pipeline(StandardScaler(), probe).fit(train.features, train.region)


def _leak(config: Config, sessions: Mapping[str, _Session], name: str, vectors: Vectors) -> pd.DataFrame:
    return session_identity(_table(sessions, vectors, next(iter(config.probes.values())))).assign(input=name)


def _unit_table(config: Config, sessions: Mapping[str, _Session]) -> pd.DataFrame:
    rows = []
    for probe, classes in config.probes.items():
        table = pd.DataFrame(
            [(s.subject, classes.get(region, "")) for s in sessions.values() for region in s.units["region"]],
            columns=["subject", "class"],
        )
        counted = table[table["class"] != ""].groupby(["class", "subject"]).size().rename("units").reset_index()
        rows.append(counted.assign(probe=probe))
    return pd.concat(rows, ignore_index=True)
