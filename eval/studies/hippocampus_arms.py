"""The arms of the hippocampus study: embeddings of one session with and without labels, shuffled, and plain ones.

An encoder sees the train stretch only. Validation chooses what a decoder has to choose; the last stretch is for scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eval.embedding_controls import (
    pca_embedding,
    shuffled_labels,
    shuffled_neurons,
    tsne_embedding,
    umap_embedding,
    window_sums,
)
from eval.embedding_decoders import Distance, Split, split_in_time
from foundation.estimator import ContrastiveEmbedding
from foundation.session_arrays import SessionArrays

POSITION, DIRECTION = "position", "direction"
BOTH, SHUFFLED_LABELS, SHUFFLED_NEURONS = "position + direction", "shuffled labels", "shuffled neurons"


@dataclass(frozen=True)
class Track:
    """A session on a linear track.

    Attributes:
        session: Counts and trials.
        position: `(T,)` in the unit of its source.
        way: `(T,)` 0 or 1, the direction of running; None where the rat is seen in one only.
        split: First stretch train, then validation, last test.
    """

    session: SessionArrays
    position: np.ndarray
    way: np.ndarray | None
    split: Split

    def columns(self, names: tuple[str, ...]) -> np.ndarray:
        """Labels `(T, L)` as CEBRA has them: position, then an indicator for each direction."""
        parts = [self.position] if POSITION in names else []
        if DIRECTION in names and self.way is not None:
            parts += [1.0 - self.way, 1.0 * self.way]
        return np.stack(parts, axis=1)

    def angle(self) -> np.ndarray:
        """`(T,)` place in the cycle in radians: forth is its first half, back the second; with one way that is all."""
        low, high = self.position.min(), self.position.max()
        place = (self.position - low) / (high - low)
        return 2 * np.pi * place if self.way is None else np.pi * np.where(self.way == 0, place, 2 - place)


@dataclass(frozen=True)
class Arm:
    """One way of embedding.

    Attributes:
        name: In tables and figures.
        family: `contrastive`, `control` or `plain`, for the colors of the bars.
        mode: Of the estimator; empty for plain embeddings.
        labels: Which it is given.
    """

    name: str
    family: str
    mode: str = ""
    labels: tuple[str, ...] = ()

    @property
    def distance(self) -> Distance:
        """Of its kNN decoder: contrastive embeddings lie on the sphere."""
        return "cosine" if self.mode else "euclidean"


@dataclass(frozen=True)
class Embedded:
    """One arm, one seed.

    Attributes:
        points: `(T, D)`.
        loss: `(steps,)` nats; empty for plain embeddings.
        bits: Goodness of fit on the train and on the test stretch, in bits; NaN for plain embeddings.
    """

    points: np.ndarray
    loss: np.ndarray
    bits: tuple[float, float]


CONTRASTIVE = (
    Arm(BOTH, "contrastive", "behavior", (POSITION, DIRECTION)),
    Arm("position", "contrastive", "behavior", (POSITION,)),
    Arm("direction", "contrastive", "discrete", (DIRECTION,)),
    Arm("time", "contrastive", "time"),
    Arm("hybrid", "contrastive", "hybrid", (POSITION, DIRECTION)),
    Arm(SHUFFLED_LABELS, "control", "behavior", (POSITION, DIRECTION)),
    Arm(SHUFFLED_NEURONS, "control", "behavior", (POSITION, DIRECTION)),
)
PLAIN: dict[str, Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]] = {
    "PCA": lambda sums, train, dimension, seed: pca_embedding(sums, train, dimension),
    "UMAP": umap_embedding,
    "t-SNE": tsne_embedding,
}


def arms_of(track: Track, plain: list[str]) -> list[Arm]:
    """Those that the session's labels allow: without directions, labels are the position alone.

    Raises:
        ValueError: An unknown plain embedding.
    """
    if unknown := sorted(set(plain) - set(PLAIN)):
        raise ValueError(f"plain: got {unknown}, expected some of {sorted(PLAIN)}")
    arms = list(CONTRASTIVE)
    if track.way is None:
        arms = [replace(arm, labels=tuple(n for n in arm.labels if n != DIRECTION)) for arm in arms]
        arms = [arm for arm in arms if arm.name != BOTH and (arm.labels or arm.mode == "time")]
    return [*arms, *(Arm(name, "plain") for name in plain)]


def read_track(session: SessionArrays, position: str, direction: str, test_share: float, val_share: float) -> Track:
    """A session with its labels checked.

    Raises:
        ValueError: Bins without position or direction, or a direction that has not two classes.
    """
    place = np.asarray(session.labels[position], dtype=float)
    way = np.asarray(session.labels[direction]) if direction else None
    missing = ~np.isfinite(place) if place.ndim == 1 else np.ones(len(place), dtype=bool)
    if way is not None:
        missing = missing | (way < 0)
    if missing.any():
        raise ValueError(
            f"{session.name}: {missing.sum()} bins without {position} or {direction}, expected (T,) in all"
        )
    if way is not None and set(np.unique(way)) != {0, 1}:
        raise ValueError(f"{session.name}: {direction} has classes {np.unique(way).tolist()}, expected 0 and 1")
    return Track(session, place, way, split_in_time(len(place), test_share, val_share))


def embed(track: Track, arm: Arm, options: dict[str, Any], seed: int, units: np.ndarray | None = None) -> Embedded:
    """Train an arm on the train stretch and embed every stretch on its own.

    Args:
        track: The session.
        arm: What to fit.
        options: Of the estimator.
        seed: Of weights, draws and shuffles.
        units: Which to use; default all.

    Returns:
        Embeddings of all bins.
    """
    counts = track.session.activity if units is None else track.session.activity[:, units]
    stretches = (track.split.train, track.split.val, track.split.test)
    if not arm.mode:
        apart = np.unique(np.stack([track.session.trial, track.split.stretch()]), axis=1, return_inverse=True)[
            1
        ].ravel()
        sums = window_sums(counts, int(options["receptive_field"]), apart)
        train = track.split.stretch() == 0
        points = PLAIN[arm.name](sums, train, int(options["output_dimension"]), seed)
        return Embedded(points, np.empty(0), (np.nan, np.nan))
    if arm.name == SHUFFLED_NEURONS:
        counts = np.concatenate([shuffled_neurons(counts[rows], seed) for rows in stretches])
    labels: list[np.ndarray] = []
    if arm.mode == "discrete":
        labels = [np.asarray(track.way)]
    elif arm.mode != "time":
        labels = [track.columns(arm.labels)]
    if arm.name == SHUFFLED_LABELS:
        # Within stretches, so that train and test labels never trade places.
        parts = [shuffled_labels([label[rows] for label in labels], seed) for rows in stretches]
        labels = [np.concatenate(columns) for columns in zip(*parts)]
    trial = track.session.trial
    model = ContrastiveEmbedding(arm.mode, random_state=seed, **options)
    train_rows, test_rows = track.split.train, track.split.test
    model.fit(counts[train_rows], *[label[train_rows] for label in labels], trial=trial[train_rows])
    points = np.concatenate([model.transform(counts[rows], trial=trial[rows]) for rows in stretches])
    train_bits, test_bits = (
        model.score(counts[rows], *[label[rows] for label in labels], trial=trial[rows], num_batches=20)
        for rows in (train_rows, test_rows)
    )
    return Embedded(points.astype(float), model.loss_, (train_bits, test_bits))
