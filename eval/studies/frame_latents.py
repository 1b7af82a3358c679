"""The latents that the frame study compares: components, autoencoders guided or not, contrastive embeddings.

Each is fitted on the fit showings alone and applied to all. What the brief's rows 001-17 to 001-34 name stands in
`VARIANTS` and `ARMS`; scores are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eval.studies.frame_decoders import Showings, flat
from eval.studies.guided_vae import VaeConfig, fit_vae, neural_r2
from foundation.estimator import ContrastiveEmbedding

Labels = Literal["features", "time", "frame"]


@dataclass(frozen=True)
class Variant:
    """One autoencoder.

    Attributes:
        beta: Of the divergence.
        share: Of the variance that its units carry.
        guide: What guides it; `components` are the first principal components of the features.
        dropout: Before the head.
        every_seed: Train it with every seed, not the first alone; for time.
    """

    beta: float
    share: float
    guide: Literal["none", "features", "components", "frame"] = "none"
    dropout: float = 0.0
    every_seed: bool = False

    @property
    def name(self) -> str:
        """In words."""
        guide = {
            "none": "VAE",
            "features": "VAE, all features",
            "components": "VAE, feature PCs",
            "frame": "VAE, frame ID",
        }[self.guide]
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        return f"{guide}{dropout}, beta {self.beta:g}, {_units(self.share)}"


@dataclass(frozen=True)
class Arm:
    """One contrastive embedding.

    Attributes:
        labels: What makes a positive pair.
        receptive_field: Frames that it sees.
        every_seed: As of `Variant`.
    """

    labels: Labels
    receptive_field: int
    every_seed: bool = False

    @property
    def name(self) -> str:
        """In words."""
        pairs = {"features": "feature PCs", "time": "time", "frame": "same frame"}[self.labels]
        return f"contrastive, {pairs}, {_frames(self.receptive_field)}"


@dataclass
class Contrast:
    """Sizes of the contrastive embeddings; the brief takes 10,000 iterations at 3e-4, twenty times as long.

    Attributes:
        dimension: Of the embedding.
        iterations: Of training.
        batch_size: Pairs of an iteration.
        learning_rate: Of Adam.
    """

    dimension: int = 128
    iterations: int = 500
    batch_size: int = 512
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Latents:
    """Latents of every showing.

    Attributes:
        name: Of the variant or arm.
        kind: `activity`, `components`, `autoencoder` or `contrastive`.
        seed: Of its training; None where nothing is drawn.
        num_units: Units it read.
        showings: `(R, F, D)` by role.
        own_r2: Neural R2, validation and test, of an autoencoder's own decoder, over its own units; else NaN.
        course: For an autoencoder the highest neural R2 of the validation showings and that after the last epoch.
        setting: What training chose, in words.
    """

    name: str
    kind: str
    seed: int | None
    num_units: int
    showings: Showings
    own_r2: tuple[float, float] = (np.nan, np.nan)
    course: tuple[float, float] = (np.nan, np.nan)
    setting: str = ""


# Rows 001-17 to 001-28 of the brief.
VARIANTS = (
    Variant(0.05, 1.0, every_seed=True),
    Variant(0.05, 0.9),
    Variant(0.05, 0.95),
    Variant(0.008, 1.0),
    Variant(0.05, 1.0, "features"),
    Variant(0.05, 0.95, "components"),
    Variant(0.008, 0.95, "components"),
    Variant(0.008, 1.0, "components", every_seed=True),
    Variant(0.05, 0.95, "frame", every_seed=True),
    Variant(0.05, 0.95, "frame", 0.2),
    Variant(0.05, 1.0, "frame"),
    Variant(0.008, 0.95, "frame"),
)

# Rows 001-34 to 001-42: features as labels. Beside them the same frame of another showing, which needs no features,
# time alone, which needs no label, and each with a single frame, all that the autoencoders see.
ARMS = (
    Arm("features", 10, every_seed=True),
    Arm("features", 1, every_seed=True),
    Arm("frame", 10),
    Arm("frame", 1, every_seed=True),
    Arm("time", 10),
    Arm("time", 1, every_seed=True),
)


def units_of_share(fit: np.ndarray, share: float) -> np.ndarray:
    """Rows `(n,)` of the fewest units that carry a share of the variance of the fit showings, the trace ratio; sorted.

    Args:
        fit: `(R, F, N)`.
        share: Up to 1, which is every unit.

    Raises:
        ValueError: A share that is none.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share of variance {share}, expected above 0 and at most 1")
    variance = flat(fit).var(axis=0, dtype=float)
    order = np.argsort(-variance, kind="stable")
    if share == 1:
        return np.arange(len(variance))
    cumulative = np.cumsum(variance[order]) / variance.sum()
    return np.sort(order[: int(np.searchsorted(cumulative, share)) + 1])


def scaled(activity: Showings) -> Showings:
    """Every unit z-scored by the fit showings; float32."""
    rows = flat(activity.fit)
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    return activity.map(lambda a: ((a - mean) / scale).astype(np.float32))


def principal_components(activity: Showings, count: int) -> tuple[Showings, np.ndarray]:
    """The first components of the z-scored units of the fit showings, and the variance of every component `(N,)`."""
    z = scaled(activity)
    variance, axes = np.linalg.eigh(np.cov(flat(z.fit).astype(float), rowvar=False))
    axes = axes[:, ::-1][:, :count].astype(np.float32)
    return z.map(lambda a: a @ axes), np.maximum(variance[::-1], 0)


def autoencoder(
    activity: Showings, features: np.ndarray, components: np.ndarray, variant: Variant, config: VaeConfig, seed: int
) -> Latents:
    """Train one variant.

    Args:
        activity: Every unit, by role.
        features: `(F, D)` features of the frames.
        components: `(F, C)` their components.
        variant: Which.
        config: Sizes and epochs; beta, guide and dropout are the variant's.
        seed: Of the training.
    """
    chosen = units_of_share(activity.fit, variant.share)
    activity = activity.map(lambda a: a[:, :, chosen])
    guide = {"features": features, "components": components}.get(variant.guide)
    kind = "features" if guide is not None else variant.guide
    config = replace(config, beta=variant.beta, dropout=variant.dropout, guide=kind)  # type: ignore[arg-type]
    found = fit_vae(activity, guide, config, seed)
    back = found.reconstruction
    return Latents(
        variant.name,
        "autoencoder",
        seed,
        len(chosen),
        found.latents,
        (neural_r2(activity.validation, back.validation), neural_r2(activity.test, back.test)),
        (float(found.validation_r2.max()), float(found.validation_r2[-1])),
        f"epoch {found.epoch + 1} of {len(found.validation_r2)}",
    )


def contrastive(
    activity: Showings,
    components: np.ndarray,
    arm: Arm,
    sizes: Contrast,
    temperature: float,
    seed: int,
    shift: Sequence[int] | None = None,
) -> tuple[Latents, ContrastiveEmbedding]:
    """Train one arm; windows end with the showing, and positives are drawn from every fit showing.

    Args:
        activity: Every unit, by role.
        components: `(F, C)` components of the features, the labels of the arm `features`.
        arm: Which.
        sizes: Of embedding and training.
        temperature: Of the similarity, cosine.
        seed: Of the training.
        shift: Frames by which the labels of each fit showing are moved on, for a null; None for the true labels.
    """
    z = scaled(activity)
    by_showing = np.tile(np.arange(z.fit.shape[1]), (len(z.fit), 1))
    if shift is not None:
        by_showing = np.stack([np.roll(row, by) for row, by in zip(by_showing, shift, strict=True)])
    frame = by_showing.ravel()
    labels = {"features": (components[frame].astype(np.float32),), "frame": (frame.astype(np.int64),), "time": ()}
    model = ContrastiveEmbedding(
        mode={"features": "behavior", "frame": "discrete", "time": "time"}[arm.labels],
        output_dimension=sizes.dimension,
        receptive_field=arm.receptive_field,
        max_iterations=sizes.iterations,
        batch_size=sizes.batch_size,
        learning_rate=sizes.learning_rate,
        temperature=temperature,
        random_state=seed,
    )
    model.fit(flat(z.fit), *labels[arm.labels], trial=showing_of(z.fit))
    name = arm.name if shift is None else f"{arm.name}, labels shifted"
    return Latents(
        name,
        "contrastive",
        seed,
        z.fit.shape[2],
        z.map(lambda a: embed(model, a)),
        setting=f"temperature {temperature:g}, {sizes.iterations} iterations",
    ), model


def embed(model: ContrastiveEmbedding, showings: np.ndarray) -> np.ndarray:
    """Embeddings `(R, F, D)` of z-scored showings `(R, F, N)`."""
    rows = np.asarray(model.transform(flat(showings), trial=showing_of(showings)))
    return rows.reshape(*showings.shape[:2], -1)


def showing_of(showings: np.ndarray) -> np.ndarray:
    """`(R*F,)` number of the showing of every row of `flat(showings)`."""
    return np.repeat(np.arange(len(showings)), showings.shape[1])


def _units(share: float) -> str:
    return "all units" if share == 1 else f"{share:.0%} of variance"


def _frames(number: int) -> str:
    return "1 frame" if number == 1 else f"{number} frames"
