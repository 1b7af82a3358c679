"""Place and direction in a rat's hippocampus: what embeddings decode, how alike they come out, what shape they have.

Rat CA1 on a linear track (CRCNS hc-11, Grosmark and Buzsáki 2016), the data of Schneider, Lee and Mathis 2023 (CEBRA).
One animal: its "pseudo-subjects" are disjoint groups of its neurons. Arms, figures and words have files of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pandas as pd
import scipy.stats

from eval.alignment_maps import Method
from eval.consistency import Consistency, between_runs, between_sessions
from eval.embedding_decoders import Decoded, decode_knn, scores
from eval.plain_baselines import plain_baselines
from eval.studies.hippocampus_arms import (
    BOTH,
    SHUFFLED_LABELS,
    Arm,
    Embedded,
    Track,
    arms_of,
    embed,
    read_track,
)
from eval.studies.hippocampus_figures import Results, figures, synthetic
from eval.studies.hippocampus_words import CONSTANT, remarks, tables
from eval.studies.study import Findings
from eval.topology import (
    CONTROL_LEVEL,
    NUM_POINTS,
    Persistence,
    betti_numbers,
    circular_coordinate,
    circular_correlation,
    longest_lives,
    persistence,
)
from foundation.corpus import Corpus
from foundation.progress import Progress
from foundation.session_arrays import SessionArrays, session_arrays

MIN_CONTROLS = 20


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        corpus: Folder or URL.
        recording: Its id.
        position: Continuous covariate, in meters.
        direction: Categorical covariate with classes 0 (forth) and 1 (back); empty where there is one direction only.
        bin_size_s: Of the counts.
        test_share: Last share of the time, for scores.
        val_share: Share before it, for the choice of k and penalty.
        seeds: Of every arm.
        output_dimension: Of every embedding; 3 are drawn.
        receptive_field: Bins, of encoders and plain embeddings alike.
        steps: Of every fit.
        batch_size: Of every fit.
        learning_rate: Of every fit.
        unit_dropout: Share of units silenced in each window of a step; chosen on buddy's validation stretch.
        time_offset: Bins between positives in time, and of label differences.
        temperature: Of the similarity.
        plain: Plain embeddings, some of PCA, UMAP and t-SNE.
        partitions: Disjoint groups of neurons, the pseudo-subjects.
        num_points: Landmarks of the topology.
        synthetic: Draw the synthetic benchmark as well.
    """

    corpus: str = "corpora/hc11"
    recording: str = "hc11/buddy"
    position: str = "position"
    direction: str = "direction"
    bin_size_s: float = 0.025
    test_share: float = 0.2
    val_share: float = 0.16
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    output_dimension: int = 3
    receptive_field: int = 10
    steps: int = 1000
    batch_size: int = 512
    learning_rate: float = 1e-3
    unit_dropout: float = 0.5
    time_offset: int = 10
    temperature: float = 1.0
    plain: list[str] = field(default_factory=lambda: ["PCA"])
    partitions: int = 4
    num_points: int = NUM_POINTS
    synthetic: bool = True


def run(config: Config) -> Findings:
    """Embed, decode, compare, and look for loops.

    Raises:
        ValueError: A covariate the recording lacks, or as `study`.
    """
    labels = [name for name in (config.position, config.direction) if name]
    return study(session_arrays(Corpus.open(config.corpus)[config.recording], config.bin_size_s, labels), config)


def study(session: SessionArrays, config: Config) -> Findings:
    """The study of a given session; see `Config`.

    Raises:
        ValueError: No seed, fewer than two partitions, or labels that are not complete.
    """
    if not config.seeds or config.partitions < 2:
        raise ValueError(f"seeds {config.seeds} and {config.partitions} partitions; expected at least 1 and 2")
    track = read_track(session, config.position, config.direction, config.test_share, config.val_share)
    arms = arms_of(track, config.plain)
    main = BOTH if track.way is not None else config.position
    # PCA has no seed.
    jobs = [(arm, seed) for arm in arms for seed in (config.seeds[:1] if arm.name == "PCA" else config.seeds)]
    groups = np.array_split(np.random.default_rng(0).permutation(session.activity.shape[1]), config.partitions)
    parted = [arm for arm in arms if arm.name in (main, "PCA")]
    progress = Progress("hippocampus", 0, len(jobs) + len(parted) * len(groups), shown=True, unit="fit")
    options: dict[str, Any] = {
        "output_dimension": config.output_dimension,
        "receptive_field": config.receptive_field,
        "max_iterations": config.steps,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "unit_dropout": config.unit_dropout,
        "time_offset": config.time_offset,
        "temperature": config.temperature,
    }
    runs: dict[str, list[Embedded]] = {}
    for arm, seed in jobs:
        runs.setdefault(arm.name, []).append(embed(track, arm, options, seed))
        progress.update(arm=arm.name)
    pseudo: dict[str, list[np.ndarray]] = {}
    for arm in parted:
        for units in groups:
            pseudo.setdefault(arm.name, []).append(embed(track, arm, options, config.seeds[0], units).points)
            progress.update(arm=f"{arm.name}, {len(units)} units")
    progress.close()
    decoding, decoded = _decoding(track, arms, runs, config)
    alike = _consistency(track, runs, pseudo)
    shapes, control, topology = _topology(track, runs, config)
    angles, circular = _circles(track, runs, shapes, topology)
    first = [synthetic(config.seeds[0], config.steps)] if config.synthetic else []
    results = Results(track, arms, config.seeds, runs, decoding, decoded, alike, shapes, control, angles)
    return Findings(
        f"Hippocampus: {session.name}",
        "Does an embedding of hippocampal activity hold the rat's position and direction, does it come out alike from "
        "other seeds and other neurons, and is it a ring, on time that it was not trained on? "
        f"{len(session.activity):,} bins of {1000 * config.bin_size_s:g} ms, {session.activity.shape[1]} units.",
        tables(len(track.split.train), len(track.split.test), config.num_points, decoding, alike, topology, circular),
        first + figures(results, config.num_points, config.batch_size),
        remarks(decoding, alike, topology, circular, main),
    )


def _decoding(
    track: Track, arms: list[Arm], runs: dict[str, list[Embedded]], config: Config
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Scores per arm and seed, with those of the plain baselines; and decoded positions of the first seed."""
    test = track.split.test
    rows: list[dict[str, str | float]] = []
    drawn: dict[str, np.ndarray] = {}

    def score(
        name: str, family: str, seed: int, place: Decoded, way: Decoded | None, bits: tuple[float, float]
    ) -> None:
        found = scores(track.position[test], place.prediction, "continuous")
        row: dict[str, str | float] = {"arm": name, "family": family, "seed": seed, "position_r2": found["r2"]}
        row["median_error_cm"] = 100 * found["median_error"]
        if way is not None and track.way is not None:
            row["direction_accuracy"] = scores(track.way[test], way.prediction, "discrete")["balanced_accuracy"]
        chosen = ", ".join(f"{k} {v:g}" for k, v in place.choice.items())
        rows.append(row | {"bits_train": bits[0], "bits_test": bits[1], "choice": chosen})
        drawn.setdefault(name, place.prediction)

    for arm in arms:
        for seed, one in zip(config.seeds, runs[arm.name]):
            place = decode_knn(one.points, track.position, track.split, "continuous", distance=arm.distance)
            way = None
            if track.way is not None:
                way = decode_knn(one.points, track.way, track.split, "discrete", distance=arm.distance)
            score(arm.name, arm.family, seed, place, way, one.bits)
    counts, trial = track.session.activity, track.session.trial
    every: Any = {"receptive_field": config.receptive_field, "trial": trial, "dimensions": (8,)}
    baselines = plain_baselines(counts, track.position, track.split, "continuous", **every)
    ways = {} if track.way is None else plain_baselines(counts, track.way, track.split, "discrete", **every)
    for name, place in baselines.items():
        score(name, "plain", 0, place, ways.get(name), (np.nan, np.nan))
    middle = np.median(track.position[np.concatenate([track.split.train, track.split.val])])
    constant = Decoded("constant", np.full(len(test), middle), {}, np.nan)
    score(CONSTANT, "control", 0, constant, None, (np.nan, np.nan))
    return pd.DataFrame(rows), drawn


def _consistency(
    track: Track, runs: dict[str, list[Embedded]], pseudo: dict[str, list[np.ndarray]]
) -> dict[str, Consistency]:
    stretch = track.split.stretch()
    train, test = stretch == 0, stretch == 2
    found = {}
    for name, seeds in runs.items():
        if len(seeds) > 1:
            names = [f"run {k}" for k in range(len(seeds))]
            found[f"runs: {name}"] = between_runs([one.points for one in seeds], train, test, names=names)
    labels = [track.position] if track.way is None else [track.position, track.way]
    for name, parts in pseudo.items():
        n = len(parts)
        for method in get_args(Method):
            # Laps repeat with a period, so that a shift of the labels would only turn the ring.
            found[f"pseudo-subjects: {name}, {method}"] = between_sessions(
                parts,
                [labels] * n,
                [train] * n,
                [test] * n,
                num_bins=20,
                min_count=3,
                method=method,
                names=[f"part {k}" for k in range(n)],
                control="permute",
            )
    return found


def _topology(
    track: Track, runs: dict[str, list[Embedded]], config: Config
) -> tuple[dict[str, list[Persistence]], np.ndarray, pd.DataFrame]:
    """Barcodes on time that no encoder saw, longest lives of the controls `(C, 2)`, and what counts."""
    unseen = track.split.stretch() > 0
    shapes = {
        name: [persistence(one.points[unseen], seed, config.num_points) for seed, one in zip(config.seeds, seeds)]
        for name, seeds in runs.items()
    }
    shuffled = runs[SHUFFLED_LABELS]
    draws = -(-MIN_CONTROLS // len(shuffled))
    control = np.array(
        [
            longest_lives(persistence(one.points[unseen], 1000 + draw, config.num_points))
            for one in shuffled
            for draw in range(draws)
        ]
    )
    owner = np.repeat(config.seeds, draws)
    rows = []
    for name, barcodes in shapes.items():
        for seed, barcode in zip(config.seeds, barcodes):
            # No embedding is its own control, unless there is no other.
            others = owner != seed if name == SHUFFLED_LABELS and len(shuffled) > 1 else np.full(len(owner), True)
            components, loops = betti_numbers(barcode, control[others])
            needed = np.quantile(control[others], CONTROL_LEVEL, axis=0)
            first, second = np.append(barcode.lives(1), [0.0, 0.0])[:2]
            rows.append(
                {
                    "arm": name,
                    "seed": seed,
                    "components": components,
                    "loops": loops,
                    # A loop of a cloud in pieces is born when its gaps are bridged: no ring.
                    "ring": components == 1 and loops == 1,
                    "longest_loop": first,
                    "second_loop": second,
                    "needed": needed[1],
                    "longest_gap": longest_lives(barcode)[0],
                    "needed_gap": needed[0],
                }
            )
    return shapes, control, pd.DataFrame(rows)


def _circles(
    track: Track, runs: dict[str, list[Embedded]], shapes: dict[str, list[Persistence]], topology: pd.DataFrame
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Coordinates of all arms and seeds that are rings, on unseen time; of each arm the first such, to draw."""
    unseen = track.split.stretch() > 0
    truth = track.angle()[unseen]
    way = np.zeros(len(truth)) if track.way is None else track.way[unseen]
    ways = {"forth": way == 0} | ({} if track.way is None else {"back": way == 1})
    rows: list[dict[str, str | float]] = []
    drawn: dict[str, np.ndarray] = {}
    for name, barcodes in shapes.items():
        rings = topology.loc[topology["arm"] == name, ["seed", "ring"]].to_numpy()
        for one, barcode, (seed, ring) in zip(runs[name], barcodes, rings):
            if not ring:
                continue
            angle = circular_coordinate(barcode, one.points[unseen])
            rho = circular_correlation(angle, truth)
            steps = _steps(angle if rho > 0 else -angle, truth)
            rows.append(
                {
                    "arm": name,
                    "seed": int(seed),
                    "circular_correlation": abs(rho),
                    "turns": abs(steps.sum()) / (2 * np.pi),
                    "steps_forward": float((steps > 0).mean()),
                    **{
                        f"rank_correlation_{side}": _rank_correlation(angle[here], track.position[unseen][here])
                        for side, here in ways.items()
                    },
                }
            )
            drawn.setdefault(name, angle if rho > 0 else -angle % (2 * np.pi))
    return drawn, pd.DataFrame(rows)


def _steps(angle: np.ndarray, truth: np.ndarray, num_bins: int = 20) -> np.ndarray:
    """Change of the mean angle from each part of the cycle to the next `(num_bins,)`, the last to the first again."""
    code = np.minimum((truth / (2 * np.pi) * num_bins).astype(int), num_bins - 1)
    mean = np.array([np.exp(1j * angle[code == b]).mean() for b in range(num_bins) if (code == b).any()])
    return np.angle(np.roll(mean, -1) / mean)


def _rank_correlation(angle: np.ndarray, position: np.ndarray, num_bins: int = 10) -> float:
    """Spearman's of position and the mean angle of `num_bins` parts of the track, unwrapped: 1 or -1 if monotonic."""
    edges = np.linspace(position.min(), position.max(), num_bins + 1)[1:-1]
    code = np.digitize(position, edges)
    mean = [np.angle(np.exp(1j * angle[code == b]).mean()) for b in range(num_bins) if (code == b).any()]
    return float(scipy.stats.spearmanr(np.arange(len(mean)), np.unwrap(mean)).statistic)
