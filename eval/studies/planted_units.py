"""Planted unit types: does NuCLR tell what only the other units give away, in populations never seen?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.metrics import class_balanced_accuracy, macro_f1
from eval.spike_train_features import rate_and_isi
from eval.statistics import session_interval
from eval.studies.planted_population import TYPES, PlantedPopulation, planted_population
from eval.studies.study import Figure, Findings, Table
from eval.studies.unit_figures import bars, confusions
from eval.unit_recognition import coupling_features, own_train_features, stability_whitening
from foundation.optim import OptimConfig
from foundation.unit_encoder import UnitEncoderConfig
from foundation.unit_identity import UnitIdentity, UnitIdentityConfig, recognized

FULL, BLIND, ISI = "unit embedding", "no attention over units", "rate + ISI"
SCORES = {
    "macro_f1": "Four types, macro-F1",
    "time_constant": "Fast or slow,\nbalanced accuracy",
    "coupling": "Alone or coupled,\nbalanced accuracy",
    "recognized": "Recognized in the\nother half, share",
    "recognized_coupled": "Coupled units\nrecognized, share",
}


def _default_model() -> UnitIdentityConfig:
    return UnitIdentityConfig(encoder=UnitEncoderConfig(dropout=0.0), steps=1000, optim=OptimConfig(lr=2e-3))


@dataclass
class Config:
    """What is planted and learned.

    Attributes:
        train_populations: Populations that the encoder and the probe learn from.
        test_populations: Populations that neither sees.
        units_per_type: Units of each type in a population.
        duration_s: Length of a population.
        bin_size_s: Bin size.
        time_constants_s: Of fast and of slow units.
        shared: Lowest and highest share of a coupled unit's drive that is shared.
        gain: Standard deviation of log rates.
        rate_hz: Mean rate of every unit.
        seeds: Each draws populations, weights and views anew.
        model: Network and training; its seed is replaced.
    """

    train_populations: int = 48
    test_populations: int = 16
    units_per_type: int = 10
    duration_s: float = 200.0
    bin_size_s: float = 0.02
    time_constants_s: list[float] = field(default_factory=lambda: [0.08, 0.8])
    shared: list[float] = field(default_factory=lambda: [0.6, 1.0])
    gain: float = 1.0
    rate_hz: float = 15.0
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    model: UnitIdentityConfig = field(default_factory=_default_model)

    def __post_init__(self) -> None:
        """Reject populations that cannot be drawn or probed."""
        if len(self.time_constants_s) != 2 or len(self.shared) != 2 or not 0 <= self.shared[0] <= self.shared[1] <= 1:
            raise ValueError(
                f"time_constants_s {self.time_constants_s}, shared {self.shared}; expected two time constants, and the "
                "lowest and highest share between 0 and 1"
            )
        if min(self.train_populations, self.test_populations, self.units_per_type) < 1 or not self.seeds:
            raise ValueError("expected at least one train and one test population, unit per type and seed")


def run(config: Config) -> Findings:
    """Train, probe and compare on every seed."""
    rows: list[dict[str, float | int | str]] = []
    counts: dict[str, np.ndarray] = {}
    training: list[dict[str, float | int | str]] = []
    for seed in config.seeds:
        train, test = _populations(config, seed)
        for name, describe in _inputs(config, seed, train, training):
            features = [_halves(describe, population) for population in (*train, *test)]
            told, scored = _scores(name, seed, features[: len(train)], features[len(train) :], train, test)
            rows += scored
            truth = np.concatenate([population.kind for population in test])
            counts[name] = counts.get(name, 0) + confusion_matrix(truth, told, labels=range(4))
    scores = pd.DataFrame(rows)
    summary = _summary(scores)
    num = len(config.seeds) * config.test_populations
    units = 4 * config.units_per_type
    caption = (
        f"{num} populations of {units} units that neither encoder nor probe saw ({len(config.seeds)} seeds); mean over "
        "populations with its 95 % bootstrap interval; sd: of the means of the seeds."
    )
    shown = [name for name in (FULL, BLIND, ISI) if name in counts]
    chance = {"macro_f1": 0.25, "time_constant": 0.5, "coupling": 0.5}
    recognized_chance = dict.fromkeys(("recognized", "recognized_coupled"), 1 / units)
    return Findings(
        title="Planted unit types",
        question=(
            "Units of four types differ in their time constant, which their own spike trains show, and in their "
            "coupling, which only the other units show. Does an encoder trained to recognize units tell all four, in "
            "populations that it never saw?"
        ),
        tables=[
            Table("summary", caption, summary),
            Table("training", "Loss of the kept state on held-out time, and when it was kept.", pd.DataFrame(training)),
            Table("populations", "Every test population and seed.", scores),
        ],
        figures=[
            Figure("scores", f"{caption} Dashed: chance.", bars(summary, SCORES, chance | recognized_chance)),
            Figure(
                "confusions",
                f"Types told by a logistic probe, {num * units} units of populations never seen.",
                confusions({name: counts[name] for name in shown}, TYPES),
            ),
        ],
        remarks=_remarks(summary.set_index("input"), units),
    )


def _populations(config: Config, seed: int) -> tuple[list[PlantedPopulation], list[PlantedPopulation]]:
    number = config.train_populations + config.test_populations
    found = [
        planted_population(
            config.units_per_type,
            config.duration_s,
            config.bin_size_s,
            config.time_constants_s,
            config.shared,
            config.gain,
            config.rate_hz,
            np.random.default_rng([seed, k]),
        )
        for k in range(number)
    ]
    return found[: config.train_populations], found[config.train_populations :]


# Counts to features, and features to what is compared for recognition.
Describe = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray] | None]


def _inputs(
    config: Config, seed: int, train: Sequence[PlantedPopulation], training: list[dict[str, float | int | str]]
) -> Iterator[tuple[str, Describe]]:
    """Name and functions of each input; `training` gets a row per trained model."""
    for name, attend in ((FULL, True), (BLIND, False)):
        encoder = replace(config.model.encoder, attend_units=attend)
        model = UnitIdentity(replace(config.model, seed=seed, encoder=encoder)).fit([p.counts for p in train])
        step, fitted, held_out = min(model.history, key=lambda look: look[2])
        training.append({"model": name, "seed": seed, "step": step, "training_loss": fitted, "held_out_loss": held_out})
        yield name, (model.transform, model.project)
    size = config.bin_size_s
    columns = rate_and_isi(own_train_features(train[0].counts[:100], size)[1])
    yield ISI, (lambda counts: own_train_features(counts, size)[0][:, columns], None)
    yield "all of the own spike train", (lambda counts: own_train_features(counts, size)[0], None)
    yield "correlations with the others", (lambda counts: coupling_features(counts, size), None)
    yield (
        "own train + correlations",
        (lambda c: np.concatenate([own_train_features(c, size)[0], coupling_features(c, size)], axis=1), None),
    )


@dataclass(frozen=True)
class _Halves:
    """Features `(N, D)` of a population, and of its halves what is compared, `(N, E)`, if `ready` as it is."""

    whole: np.ndarray
    first: np.ndarray
    second: np.ndarray
    ready: bool


def _halves(describe: Describe, population: PlantedPopulation) -> _Halves:
    features, compare = describe
    middle = len(population.counts) // 2
    halves = [features(part) for part in (population.counts[:middle], population.counts[middle:])]
    first, second = halves if compare is None else [compare(half) for half in halves]
    return _Halves(features(population.counts), first, second, compare is not None)


def _scores(
    name: str,
    seed: int,
    train_features: Sequence[_Halves],
    test_features: Sequence[_Halves],
    train: Sequence[PlantedPopulation],
    test: Sequence[PlantedPopulation],
) -> tuple[np.ndarray, list[dict[str, float | int | str]]]:
    """Types told for all test units, and the scores of every test population; labels permuted beside the embedding."""
    whitening = None
    if not test_features[0].ready:
        whitening = stability_whitening([f.first for f in train_features], [f.second for f in train_features])
    labels = [population.kind for population in train]
    rng = np.random.default_rng(seed)
    variants = {name: labels}
    if name == FULL:
        variants["unit embedding, labels permuted"] = [rng.permutation(kinds) for kinds in labels]
    rows: list[dict[str, float | int | str]] = []
    told: list[np.ndarray] = []
    for variant, targets in variants.items():
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced", max_iter=5000))
        probe.fit(np.concatenate([f.whole for f in train_features]), np.concatenate(targets))
        for k, (features, population) in enumerate(zip(test_features, test)):
            answer = probe.predict(features.whole)
            row: dict[str, float | int | str] = {"input": variant, "seed": seed, "population": k}
            row |= _type_scores(population.kind, answer)
            if variant == name:
                told.append(answer)
                first, second = (v if whitening is None else v @ whitening for v in (features.first, features.second))
                hits = recognized(first, second)
                row |= {"recognized": hits.mean(), "recognized_coupled": hits[population.kind % 2 == 1].mean()}
            rows.append(row)
    return np.concatenate(told), rows


def _type_scores(truth: np.ndarray, told: np.ndarray) -> dict[str, float]:
    """Scores of the four types, of the time constant, and of the coupling among units of one time constant."""
    coupling = [class_balanced_accuracy(truth[truth // 2 == s] % 2, told[truth // 2 == s] % 2) for s in (0, 1)]
    return {
        "macro_f1": macro_f1(truth, told),
        "balanced_accuracy": class_balanced_accuracy(truth, told),
        "time_constant": class_balanced_accuracy(truth // 2, told // 2),
        "coupling": float(np.mean(coupling)),
        "coupling_fast": coupling[0],
        "coupling_slow": coupling[1],
    }


def _summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over populations, interval and spread of the seeds of every score, a row per input."""
    rows = []
    columns = [c for c in scores.columns if c not in ("input", "seed", "population")]
    for name, part in scores.groupby("input", sort=False):
        row: dict[str, float | str] = {"input": str(name)}
        for column in columns:
            known = part[part[column].notna()]
            interval = session_interval(known[column].to_numpy(float)) if len(known) else None
            row[column] = interval.mean if interval else np.nan
            row[f"{column}_low"] = interval.low if interval else np.nan
            row[f"{column}_high"] = interval.high if interval else np.nan
            row[f"{column}_sd"] = float(known.groupby("seed")[column].mean().std(ddof=1)) if len(known) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _remarks(summary: pd.DataFrame, units: int) -> list[str]:
    def said(name: str, score: str) -> str:
        row = summary.loc[name]
        return f"{row[score]:.2f} [{row[f'{score}_low']:.2f}, {row[f'{score}_high']:.2f}]"

    return [
        f"Alone or coupled, within a time constant: {said(FULL, 'coupling')} from the unit embedding, "
        f"{said(BLIND, 'coupling')} without attention over units, {said(ISI, 'coupling')} from rate and interspike "
        "intervals; chance 0.5.",
        f"Fast or slow: {said(FULL, 'time_constant')}, {said(BLIND, 'time_constant')} and "
        f"{said(ISI, 'time_constant')}: what the own spike train shows, every input has.",
        f"A unit is recognized in the other half of the recording: {said(FULL, 'recognized')} by the embedding, "
        f"{said(ISI, 'recognized')} by rate and intervals (whitened by their change between halves), chance "
        f"{1 / units:.3f}. Who knows the type exactly and nothing more gets {4 / units:.3f}; units alone of one time "
        "constant are alike by construction, so 1 cannot be reached.",
        "Correlations with the other units are a classical feature that sees what was planted; the embedding is given "
        "no such feature and no label.",
        "Coupled and lone units have the same rate and the same law of their own spike trains by construction: any "
        "score above chance there, from one spike train alone, is chance.",
    ]
