"""The stimuli of the Allen Neuropixels sessions and the covariates that each gives; reads no table.

Adding a stimulus is a line in `STIMULI` and one in `HELD` for each of its parameters.

Source: Visual Coding Neuropixels white paper (Allen Institute 2019), Siegle et al. 2021; Visual Behavior Neuropixels
technical white paper (Allen Institute 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

from foundation.recording import CovariateSpec

# Stimulus by how the name of its table begins, in lower case; the first that fits.
STIMULI = {
    "spontaneous": "spontaneous",
    "natural_movie_one_shuffled": "natural_movie_one_shuffled",
    "natural_movie_one": "natural_movie_one",
    "natural_movie_three": "natural_movie_three",
    "natural_scenes": "natural_scenes",
    "natural_images": "natural_images",
    "drifting_gratings": "drifting_gratings",
    "static_gratings": "static_gratings",
    "flash": "flashes",
    "gabor": "gabors",
    "dot_motion": "dot_motion",
}
STIMULUS_NAMES = (*dict.fromkeys(STIMULI.values()), "other")
NUM_IMAGES = 118


@dataclass(frozen=True)
class Held:
    """A covariate that is one column of a stimulus.

    Attributes:
        spec: Categorical or continuous, resample `last`.
        stimulus: A value of `STIMULI`.
        columns: Names of the column in either data set, the first that is there.
        levels: Value of each class; () where values are classes, or continuous.
    """

    spec: CovariateSpec
    stimulus: str
    columns: tuple[str, ...]
    levels: tuple[float, ...] = ()


def _held(
    name: str,
    stimulus: str,
    columns: str,
    description: str,
    levels: tuple[float, ...] = (),
    num_classes: int = 0,
    unit: str = "",
) -> Held:
    number = num_classes or len(levels)
    kind = "categorical" if number else "continuous"
    spec = CovariateSpec(name, kind, "time", number, 1, "last", unit, "stimulus", description)  # type: ignore[arg-type]
    return Held(spec, stimulus, tuple(columns.split()), levels)


_GRATING, _STATIC = "drifting_gratings", "static_gratings"
HELD = (
    _held("natural_movie_one_frame", "natural_movie_one", "frame", "frame of natural movie one", (), 900),
    _held("natural_movie_three_frame", "natural_movie_three", "frame", "frame of natural movie three", (), 3600),
    _held(
        "natural_movie_one_shuffled_frame",
        "natural_movie_one_shuffled",
        "frame",
        "position in natural movie one with its frames in a fixed random order",
        (),
        900,
    ),
    _held("natural_scene", "natural_scenes", "frame", "natural scene 0 to 117; 118 is a blank", (), NUM_IMAGES + 1),
    _held(
        "drifting_grating_direction",
        _GRATING,
        "orientation",
        "direction of the drifting grating, in steps of 45 degrees",
        tuple(45.0 * k for k in range(8)),
    ),
    _held(
        "drifting_grating_frequency",
        _GRATING,
        "temporal_frequency",
        "temporal frequency of the drifting grating: 1, 2, 4, 8, 15 Hz",
        (1.0, 2.0, 4.0, 8.0, 15.0),
    ),
    _held("drifting_grating_contrast", _GRATING, "contrast", "contrast of the drifting grating, 0 to 1"),
    _held(
        "static_grating_orientation",
        _STATIC,
        "orientation",
        "orientation of the static grating, in steps of 30 degrees",
        tuple(30.0 * k for k in range(6)),
    ),
    _held(
        "static_grating_frequency",
        _STATIC,
        "spatial_frequency",
        "spatial frequency of the static grating: .02, .04, .08, .16, .32 cycles per degree",
        (0.02, 0.04, 0.08, 0.16, 0.32),
    ),
    _held(
        "static_grating_phase",
        _STATIC,
        "phase",
        "phase of the static grating, in quarters of a cycle",
        (0.0, 0.25, 0.5, 0.75),
    ),
    _held("flash_polarity", "flashes", "color", "full-field flash: 0 dark, 1 bright", (-1.0, 1.0)),
    _held("gabor_x", "gabors", "x_position position_x", "horizontal position of the Gabor patch", unit="deg"),
    _held("gabor_y", "gabors", "y_position position_y", "vertical position of the Gabor patch", unit="deg"),
    _held("gabor_orientation", "gabors", "orientation", "orientation: 0, 45, 90 degrees", (0.0, 45.0, 90.0)),
    _held("dot_direction", "dot_motion", "Dir", "direction of the moving dots", unit="deg"),
    _held("dot_speed", "dot_motion", "Speed", "speed of the moving dots", unit="deg/s"),
)
STIMULUS = CovariateSpec(
    "stimulus_type",
    "categorical",
    "time",
    num_classes=len(STIMULUS_NAMES),
    resample="last",
    role="stimulus",
    description="block of the session: " + ", ".join(f"{k} {name}" for k, name in enumerate(STIMULUS_NAMES)),
)
IMAGE = CovariateSpec(
    "image",
    "categorical",
    "time",
    num_classes=NUM_IMAGES,
    resample="last",
    role="stimulus",
    description="image on the screen in the change detection task, by the number in its name (im065 is 65)",
)
CHANGE = CovariateSpec("image_change", "event", "time", role="stimulus", description="onset of a changed image")
OMISSION = CovariateSpec("image_omission", "event", "time", role="stimulus", description="time of an omitted image")
ACTIVE = CovariateSpec(
    "task_active",
    "categorical",
    "time",
    num_classes=2,
    resample="last",
    role="task",
    description="0 passive replay of the images, 1 change detection task with the spout in reach",
)


def stimulus_of(table: str) -> str:
    """The stimulus that the name of a presentation table means, "other" if none that is known."""
    return next((name for prefix, name in STIMULI.items() if table.lower().startswith(prefix)), "other")
