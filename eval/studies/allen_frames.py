"""Which frame of a natural movie did a mouse see: decoders of V1 and of its latents, scored on two axes.

The study of the user's brief (rows 001-1 to 001-43) with its traps closed: every setting is chosen on the validation
showings, every latent is scored on frames and on the activity that it keeps, and nulls and plain decoders stand beside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from eval.studies.activity_decoder import from_frame_alone, read_back
from eval.studies.allen_frames_figures import first_raster, spaces, two_axes, within_frames
from eval.studies.allen_frames_tables import (
    OnBothAxes,
    facts_table,
    first_ten,
    over_seeds,
    scores_by_seed,
    turns_table,
    two_axes_table,
)
from eval.studies.allen_frames_words import captions, claims, remarks
from eval.studies.frame_decoders import Decoded, Showings, by_role, decode_knn
from eval.studies.frame_latents import (
    ARMS,
    VARIANTS,
    Contrast,
    Latents,
    Variant,
    autoencoder,
    contrastive,
    embed,
    principal_components,
    scaled,
)
from eval.studies.frame_reads import Grids, Read, baselines, every_showing, nulls, read_latents
from eval.studies.guided_vae import VaeConfig
from eval.studies.movie_features import MovieFeatures, movie_features
from eval.studies.movie_population import Population, recorded_population, simulated_population
from eval.studies.study import Figure, Findings, Table
from foundation.estimator import ContrastiveEmbedding
from foundation.progress import Progress

NULL_ARM = ARMS[0]


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        source: Folder, file or dandiset in the Allen layout; None for simulated units.
        features: `.npy` of `(frames, D)` features of the movie's frames; None for a random stand-in. Simulated units
            follow these.
        movie: Name of the movie.
        region: Acronym of the units' region.
        units: Units drawn from all sessions.
        showings: The last is the test.
        validation: Showings before it on which settings are chosen.
        seeds: Of what is trained (of some latents the first alone, see `every_seed`); the first also draws units and
            nulls.
        frames: Of the simulated movie, at most 900.
        components: Numbers of principal components of the activity.
        feature_components: Principal components of the features that guide and label.
        epochs: Of the autoencoders, at most.
        contrast: Of the contrastive embeddings.
        temperatures: Of the contrastive embeddings to choose from, with the first seed.
        grids: Of the decoders.
    """

    source: str | None = None
    features: str | None = None
    movie: str = "natural_movie_one"
    region: str = "VISp"
    units: int = 800
    showings: int = 10
    validation: int = 2
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    frames: int = 900
    components: list[int] = field(default_factory=lambda: [3, 10, 30, 100, 305])
    feature_components: int = 32
    epochs: int = 200
    contrast: Contrast = field(default_factory=Contrast)
    temperatures: list[float] = field(default_factory=lambda: [1.0, 0.1])
    grids: Grids = field(default_factory=Grids)


def run(config: Config) -> Findings:
    """Read or simulate the population, fit everything, score it on both axes.

    Raises:
        ValueError: Settings that cannot be, features of another length, or no session of use.
    """
    _check(config)
    seed = config.seeds[0]
    population, features = _inputs(config)
    components, kept_share = features.components(config.feature_components)
    activity = by_role(population.activity, config.validation)
    frames = activity.fit.shape[1]
    fits = [
        (made, trained) for trained in config.seeds for made in (*VARIANTS, *ARMS) if made.every_seed or trained == seed
    ]
    progress = Progress("allen_frames", 0, len(fits) + len(config.temperatures) + 4, shown=True, unit="step")

    reads = baselines(activity, population.elapsed_s, config.validation, config.grids)
    progress.update(done="baselines")
    pcs, variance = principal_components(activity, max(config.components))
    latents = [
        Latents(f"{count} PCs", "components", None, len(variance), pcs.map(partial(_leading, count=count)))
        for count in config.components
        if count <= len(variance)
    ]
    temperature = _temperature(activity, components, config, progress)
    models = {}
    for made, trained in fits:
        if isinstance(made, Variant):
            vae = VaeConfig(epochs=config.epochs)
            latents.append(autoencoder(activity, features.values, components, made, vae, trained))
        else:
            found, models[made, trained] = contrastive(
                activity, components, made, config.contrast, temperature, trained
            )
            latents.append(found)
        progress.update(done=made.name)

    axes = []
    for item in latents:
        mine = read_latents(item, config.grids, logistic=item.seed in (None, seed))
        reads += mine
        back = read_back(item.showings, activity, item.seed or 0)
        axes.append(OnBothAxes(item.kind, item.name, item.num_units, mine, back, item))
    axes += _references(reads, activity, seed)
    progress.update(done="read-outs")
    rng = np.random.default_rng([seed, 1])
    reads += nulls(activity, config.grids, rng)
    own = next(item for item in latents if item.name == NULL_ARM.name and item.seed == seed)
    reads += _contrastive_nulls(activity, components, config, temperature, own, models[NULL_ARM, seed], rng)
    progress.update(done="nulls")
    turns = turns_table(every_showing(population.activity, config.validation, config.grids), frames)
    scores = scores_by_seed(reads, frames)
    tables = {
        "frames": over_seeds(scores),
        "latents": two_axes_table(axes, frames),
        "population": facts_table(population, activity, variance, components, kept_share),
        "first_ten": first_ten(reads, seed),
        "every_showing": turns,
        "frames_by_seed": scores,
    }
    tables["claims"] = claims(tables, config.features is None)
    where = f"{population.source}; test on showing {config.showings}; seeds {config.seeds}"
    figures = _figures(reads, latents, tables["latents"], population, activity, seed)
    progress.update(done="figures")
    progress.close()
    return Findings(
        "Which frame of a natural movie did the mouse see?",
        f"{config.showings} showings of a movie of {frames} frames, {population.activity.shape[2]} units of "
        f"{config.region}. How well do decoders tell the frames of a showing they have not seen, from the activity and "
        "from latents of it; and how much of the activity does each latent keep?",
        [Table(name, caption, tables[name]) for name, caption in captions(where).items()],
        figures,
        remarks(population, features.source, tables["frames"], tables["latents"], temperature),
    )


def _check(config: Config) -> None:
    if not config.seeds or not 50 <= config.frames <= 900 or config.units < 20:
        raise ValueError(
            f"got seeds {config.seeds}, {config.frames} frames and {config.units} units; expected a seed or more, 50 "
            "to 900 frames and at least 20 units"
        )
    if not 0 < config.validation < config.showings - 1:
        raise ValueError(
            f"got {config.validation} validation showings of {config.showings}; expected at least one, and one to fit "
            "beside the last, which is the test"
        )
    if not config.temperatures or not config.components or config.feature_components < 1:
        raise ValueError(
            f"got temperatures {config.temperatures}, components {config.components} and {config.feature_components} "
            "feature components; expected at least one of each"
        )


def _inputs(config: Config) -> tuple[Population, MovieFeatures]:
    seed = config.seeds[0]
    if config.source is None:
        features = movie_features(config.features, config.frames, seed)
        return simulated_population(features.values, config.units, config.showings, seed), features
    population = recorded_population(config.source, config.movie, config.region, config.units, config.showings, seed)
    return population, movie_features(config.features, population.activity.shape[1], seed)


def _leading(showings: np.ndarray, count: int) -> np.ndarray:
    return showings[:, :, :count]


def _temperature(activity: Showings, components: np.ndarray, config: Config, progress: Progress) -> float:
    """The temperature with which an embedding labelled by features gives most validation frames by kNN, first seed.

    Of single frames, as those are quick to train.
    """
    exact = {}
    for temperature in config.temperatures:
        found, _ = contrastive(activity, components, ARMS[1], config.contrast, temperature, config.seeds[0])
        exact[temperature] = decode_knn(found.showings, config.grids.neighbors).validation_exact
        progress.update(done=f"temperature {temperature:g}")
    return max(exact, key=exact.__getitem__)


def _contrastive_nulls(
    activity: Showings,
    components: np.ndarray,
    config: Config,
    temperature: float,
    own: Latents,
    model: ContrastiveEmbedding,
    rng: np.random.Generator,
) -> list[Read]:
    """The first arm with the test's neurons mixed, and trained with the labels of each showing moved on.

    Read with true labels, the second is no null: misplaced labels still make an encoder that keeps some of the movie.
    """
    seed, test = config.seeds[0], scaled(activity).test
    mixed = embed(model, test[:, :, rng.permutation(test.shape[2])])
    shift = [int(by) for by in rng.integers(1, activity.fit.shape[1], len(activity.fit))]
    shifted, _ = contrastive(activity, components, NULL_ARM, config.contrast, temperature, seed, shift)
    found = {
        ("null", "neurons shuffled"): Showings(own.showings.fit, own.showings.validation, mixed),
        ("null", "labels shifted in training and read-out"): _moved(shifted.showings, shift, rng),
        ("reference", "labels shifted in training alone"): shifted.showings,
    }
    return [
        Read(group, f"{NULL_ARM.name}, {name}", "kNN", seed, decode_knn(showings, config.grids.neighbors))
        for (group, name), showings in found.items()
    ]


def _moved(showings: Showings, shift: list[int], rng: np.random.Generator) -> Showings:
    """Fit showings moved so that row t has the label it was trained with; validation at random; test as it is."""
    fit = np.stack([np.roll(rows, -by, axis=0) for rows, by in zip(showings.fit, shift, strict=True)])
    frames = fit.shape[1]
    validation = np.stack([np.roll(rows, int(rng.integers(1, frames)), axis=0) for rows in showings.validation])
    return Showings(fit, validation, showings.test)


def _references(reads: list[Read], activity: Showings, seed: int) -> list[OnBothAxes]:
    """The activity itself, and the true frame: what stands beside the latents."""
    units, frames = activity.fit.shape[2], activity.fit.shape[1]
    mine = [r for r in reads if r.input == "all units, 1 frame" and r.decoder in ("kNN", "logistic")]
    known = Read("reference", "the true frame alone", "kNN", None, Decoded(np.arange(frames), 1.0, "", 1.0))
    alone = from_frame_alone(activity, [1, 2, 4, 8, 16])
    return [
        OnBothAxes("activity", "all units, as they are", units, mine, read_back(activity, activity, seed)),
        OnBothAxes("reference", "the true frame alone", units, [known], alone),
    ]


def _figures(
    reads: list[Read],
    latents: list[Latents],
    two: pd.DataFrame,
    population: Population,
    activity: Showings,
    seed: int,
) -> list[Figure]:
    def best(kind: str) -> Latents:
        table = two[two["kind"] == kind]
        name = table["latent"].iloc[int(table["knn_exact"].argmax())]
        return next(item for item in latents if item.name == name and item.seed in (None, seed))

    chosen = [best(kind) for kind in ("components", "autoencoder", "contrastive")]
    curves = {f"{r.decoder}, {r.input}": r.decoded.predicted for r in reads if r.group == "baseline"}
    for item in chosen[1:]:
        read = next(r for r in reads if r.input == item.name and r.decoder == "kNN" and r.seed in (None, seed))
        curves[f"kNN, {item.name}"] = read.decoded.predicted
    frames = activity.fit.shape[1]
    return [
        Figure(
            "two_axes",
            f"Frames by kNN against the activity that a latent keeps (R2, mean over units), test showing of {frames} "
            "frames, means over seeds; bars: standard deviation. Dashed: R2 of what the true "
            "frame alone gives, and frames by kNN from all units as they are.",
            two_axes(two),
        ),
        Figure(
            "within_frames",
            f"Share of {frames} test frames that are decoded within k frames, first seed. Dashed: a uniform guess.",
            within_frames(curves, frames),
        ),
        Figure(
            "spaces",
            "The first three principal axes of each latent, test showing, first seed, the best of each kind by kNN "
            "(picked on test, for the picture only); right: t-SNE of two fit showings. Color: frame.",
            spaces({item.name: item.showings for item in chosen}, activity.fit[:2], seed),
        ),
        Figure("raster", "First showing: frames in which a unit has a spike.", first_raster(population.activity)),
    ]
