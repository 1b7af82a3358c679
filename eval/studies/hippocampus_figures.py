"""The figures of the hippocampus study, in order: the synthetic one, eight of one rat, losses. Computes no score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval import embedding_figures as draw
from eval.consistency import Consistency
from eval.studies import synthetic_latent
from eval.studies.hippocampus_arms import BOTH, SHUFFLED_LABELS, Arm, Embedded, Track
from eval.studies.hippocampus_words import CONSTANT
from eval.studies.study import Figure
from eval.topology import CONTROL_LEVEL, Persistence

TRAJECTORIES = (BOTH, "position", "time", SHUFFLED_LABELS, "kNN on all units")


@dataclass(frozen=True)
class Results:
    """What there is to draw.

    Attributes:
        track: The session.
        arms: In order.
        seeds: Of the arms.
        runs: Embeddings by arm, one per seed.
        decoding: Scores, a row per arm and seed.
        decoded: Position `(R,)` of the test bins by arm, first seed.
        alike: Consistency by comparison.
        shapes: Barcodes by arm, one per seed.
        control: `(C, 2)` longest lives of the controls.
        angles: Circular coordinate of unseen time by arm, where it is a ring.
    """

    track: Track
    arms: list[Arm]
    seeds: list[int]
    runs: dict[str, list[Embedded]]
    decoding: pd.DataFrame
    decoded: dict[str, np.ndarray]
    alike: dict[str, Consistency]
    shapes: dict[str, list[Persistence]]
    control: np.ndarray
    angles: dict[str, np.ndarray]


def figures(found: Results, num_points: int, batch_size: int) -> list[Figure]:
    """All of one rat; the circular coordinate only where there is a ring.

    Args:
        found: Everything.
        num_points: Landmarks of the topology, for the captions.
        batch_size: Of the fits, for the loss of a collapsed embedding.
    """
    track, test = found.track, found.track.split.test
    unseen = track.split.stretch() > 0
    way = None if track.way is None else track.way[unseen]
    coloring = draw.Coloring(track.position[unseen], "position (m)", way, ("forth", "back"))
    seeds, held_out = f"{len(found.seeds)} seeds", f"{len(test):,} held-out bins"
    needed = {dimension: float(np.quantile(found.control[:, dimension], CONTROL_LEVEL)) for dimension in (0, 1)}
    firsts = {name: barcodes[0] for name, barcodes in found.shapes.items()}
    time_s = (test - test[0]) * track.session.bin_size_s
    shown = {name: found.decoded[name] for name in TRAJECTORIES if name in found.decoded}
    constant = found.decoding["arm"] == CONSTANT
    losses = {
        # The hybrid loss is a sum of two.
        arm.name: [one.loss / (2 if arm.mode == "hybrid" else 1) for one in found.runs[arm.name]]
        for arm in found.arms
        if arm.mode
    }
    out = [
        Figure(
            "position_r2",
            f"Held-out R2 of position, {held_out}. Bars: means; points: {seeds}.",
            draw.bars(found.decoding[~constant], "position_r2", "position R², held out"),
        ),
        Figure(
            "embeddings",
            "First seed, time that no encoder saw (validation and test). Labels color the points; no shape is fitted.",
            draw.embedding_3d({arm.name: found.runs[arm.name][0].points[unseen] for arm in found.arms}, coloring),
        ),
        Figure(
            "position_error",
            f"Median error of position, {held_out}. Bars: means; points: {seeds}.",
            draw.bars(found.decoding, "median_error_cm", "median error of position, held out (cm)"),
        ),
        Figure(
            "trajectory",
            f"Decoded position, first seed, {held_out}.",
            draw.decoded_trajectory(time_s, track.position[test], shown, "position", "m"),
        ),
        Figure(
            "consistency_matrices",
            "Held-out R2 of one embedding from another, by a linear map or by rotation and scale (procrustes). "
            "Pseudo-subjects are disjoint neurons of one rat.",
            draw.consistency_matrices(found.alike),
        ),
        Figure(
            "persistence",
            f"First seed, {num_points} points of unseen time. Dashed: life that a loop must exceed, 95th percentile of "
            f"{len(found.control)} clouds of embeddings with shuffled labels.",
            draw.persistence_diagrams(firsts, needed[1]),
        ),
        Figure(
            "lifespans",
            "The longest bars of the same clouds, each from its birth. Dashed: length that a bar must exceed.",
            draw.lifespans(firsts, needed),
        ),
    ]
    if found.angles:
        caption = "Circular coordinate of rings against position, first such seed, unseen time."
        out.append(Figure("circular", caption, draw.circular_against_position(found.angles, coloring)))
    caption = f"Training loss per head, {seeds}; a collapsed embedding has log {batch_size}."
    out.append(Figure("losses", caption, draw.loss_curves(losses, float(np.log(batch_size)))))
    return out


def synthetic(seed: int, steps: int) -> Figure:
    """Ours, PCA, shuffled labels and the truth on 100 Poisson neurons behind a known latent, of the study of its own.

    Args:
        seed: Of data and encoders.
        steps: Of every fit.
    """
    methods = ["ours, behavior", "PCA", "ours, shuffled labels"]
    found = synthetic_latent.run(synthetic_latent.Config(seeds=[seed], steps=steps, methods=methods))
    chosen = next(figure for figure in found.figures if figure.name == "embeddings")
    r2 = found.tables[0].frame.set_index("method")["r2"]
    told = "; ".join(f"{name} {value:.2f}" for name, value in r2.items())
    return Figure("synthetic", f"{chosen.caption} Linear R2 of the latent: {told}.", chosen.figure)
