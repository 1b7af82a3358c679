"""Frames read from activity, from latents and from nulls of the frame study, by which decoder; makes no latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from eval.studies.frame_decoders import (
    Decoded,
    Showings,
    by_role,
    decode_bayes,
    decode_knn,
    decode_lasso,
    decode_logistic,
    in_window,
    leave_one_out,
)
from eval.studies.frame_latents import Latents

BINS_PER_FRAME = 4
SLOW_FRAMES = 150  # 5 s


@dataclass
class Grids:
    """What the decoders choose from, on the validation showings.

    Attributes:
        neighbors: k of kNN.
        costs: C of logistic regression.
        logistic_iterations: Of L-BFGS, at most.
        alphas: Penalties of the Lasso.
        smoothing: Frames, widths of the filter of naive Bayes.
        null_draws: Draws of each null.
    """

    neighbors: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 9, 15, 25])
    costs: list[float] = field(default_factory=lambda: [1e-4, 1e-2, 0.4])
    logistic_iterations: int = 15
    alphas: list[float] = field(default_factory=lambda: [0.01, 0.08, 0.3, 1.0, 3.0, 10.0])
    smoothing: list[float] = field(default_factory=lambda: [0.0, 1.0, 2.0, 4.0, 8.0])
    null_draws: int = 5


@dataclass(frozen=True)
class Read:
    """Frames read from one input by one decoder.

    Attributes:
        group: `baseline`, `components`, `autoencoder`, `contrastive`, `null` or `reference`.
        input: What was decoded.
        decoder: By what.
        seed: Of the input's training; None where nothing is drawn.
        decoded: The result.
    """

    group: str
    input: str
    decoder: str
    seed: int | None
    decoded: Decoded


def baselines(activity: Showings, elapsed_s: np.ndarray, num_validation: int, grids: Grids) -> list[Read]:
    """Decoders of the activity of all units, and of no activity at all."""
    counts = activity.map(lambda a: a * BINS_PER_FRAME)
    wide = counts.map(lambda a: in_window(a, 10))
    slow = activity.map(lambda a: in_window(a, SLOW_FRAMES))
    clock = by_role(elapsed_s[:, :, None].astype(np.float32), num_validation)
    knn = grids.neighbors
    found = [
        ("baseline", "all units, 1 frame", "Lasso", decode_lasso(activity, grids.alphas)),
        (
            "baseline",
            "all units, 1 frame",
            "logistic",
            decode_logistic(activity, grids.costs, grids.logistic_iterations),
        ),
        ("baseline", "all units, 1 frame", "kNN", decode_knn(activity, knn)),
        ("baseline", "all units, 1 frame", "naive Bayes", decode_bayes(counts, grids.smoothing)),
        ("baseline", "all units, 10 frames", "kNN", decode_knn(wide, knn)),
        ("baseline", "all units, 10 frames", "naive Bayes", decode_bayes(wide, grids.smoothing)),
        ("reference", "activity averaged over 5 s", "kNN", decode_knn(slow, knn)),
        ("reference", "elapsed time, no neuron", "kNN", decode_knn(clock, knn)),
    ]
    return [Read(group, given, decoder, None, decoded) for group, given, decoder, decoded in found]


def read_latents(item: Latents, grids: Grids, logistic: bool) -> list[Read]:
    """By kNN, by logistic regression if asked for (it takes long), and components also by Lasso."""
    knn = decode_knn(item.showings, grids.neighbors)
    reads = [Read(item.kind, item.name, "kNN", item.seed, knn)]
    if logistic:
        found = decode_logistic(item.showings, grids.costs, grids.logistic_iterations)
        reads.append(Read(item.kind, item.name, "logistic", item.seed, found))
    if item.kind == "components":
        reads.append(Read(item.kind, item.name, "Lasso", None, decode_lasso(item.showings, grids.alphas)))
    return reads


def nulls(activity: Showings, grids: Grids, rng: np.random.Generator) -> Iterator[Read]:
    """Labels of every showing but the test moved on, and neurons of the test mixed, read by kNN and by naive Bayes."""
    num_frames = activity.fit.shape[1]

    def moved(showings: np.ndarray) -> np.ndarray:
        return np.stack([np.roll(a, rng.integers(1, num_frames), axis=0) for a in showings])

    for draw in range(grids.null_draws):
        shifted = Showings(moved(activity.fit), moved(activity.validation), activity.test)
        order = rng.permutation(activity.test.shape[2])
        mixed = Showings(activity.fit, activity.validation, activity.test[:, :, order])
        for name, null in (("labels shifted", shifted), ("neurons shuffled", mixed)):
            given = f"all units, 1 frame, {name}"
            yield Read("null", given, "kNN", draw, decode_knn(null, grids.neighbors))
            counts = null.map(lambda a: a * BINS_PER_FRAME)
            yield Read("null", given, "naive Bayes", draw, decode_bayes(counts, grids.smoothing))


def every_showing(activity: np.ndarray, num_validation: int, grids: Grids) -> dict[str, list[Decoded]]:
    """Cheap decoders of `(R, F, N)` activity, by name, with each showing as the test in turn."""
    knn = leave_one_out(activity, lambda s: decode_knn(s, grids.neighbors), num_validation)
    counts = activity * BINS_PER_FRAME
    return {
        "kNN": knn,
        "naive Bayes": leave_one_out(counts, lambda s: decode_bayes(s, grids.smoothing), num_validation),
    }
