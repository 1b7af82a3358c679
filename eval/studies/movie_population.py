"""The population that the frame study decodes: V1 units of one or many sessions in the Allen layout, or simulated ones.

Units of several sessions are put side by side by showing and frame, a "pseudo-mouse" as in the CEBRA study; what
varies together within a session only is broken apart between sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_recipes import allen
from data_recipes.allen_frames import FrameDesign, frame_design
from eval.studies.simulated_v1 import simulated_v1
from foundation.recording import Recording


@dataclass(frozen=True)
class Population:
    """Activity of units in every showing of a movie.

    Attributes:
        activity: `(R, F, N)` float32, spikes per bin averaged over the four bins of a frame.
        elapsed_s: `(R, F)` time since the showing began, of the first session.
        num_drawn: Units before those that are silent in a showing were left out.
        source: What they are, in words.
        left_out: Sessions that are not used, with the reason.
    """

    activity: np.ndarray
    elapsed_s: np.ndarray
    num_drawn: int
    source: str
    left_out: tuple[str, ...] = ()


def simulated_population(features: np.ndarray, num_units: int, num_showings: int, seed: int) -> Population:
    """Simulated units, which follow these features `(F, D)`; see `simulated_v1`."""
    design = _design(simulated_v1(features, num_units, num_showings, seed), "natural_movie_one", "VISp")
    assert isinstance(design, FrameDesign)
    source = f"simulated: {num_units} V1 units in one session, seed {seed}; no animal"
    return _together([design], num_units, num_showings, seed, source, ())


def recorded_population(
    source: str, movie: str, region: str, num_units: int, num_showings: int, seed: int
) -> Population:
    """Units of a region from every session of a folder, a file or a dandiset, read by the recipe `allen`.

    Args:
        source: As of the recipe; its thresholds of unit quality apply.
        movie: Such as `natural_movie_one`.
        region: Acronym of the files, such as VISp for V1.
        num_units: Draw this many of all; fewer if there are fewer.
        num_showings: The first complete showings of each session; a session with fewer is left out.
        seed: Of the draw.

    Raises:
        ValueError: No session is of use.
    """
    designs, names, left_out = [], [], []
    for key, job in allen.sessions(source).items():
        found = _design(allen.read(**job), movie, region)
        if isinstance(found, FrameDesign) and len(found.activity) >= num_showings:
            designs.append(found)
            names.append(key)
            continue
        reason = found if isinstance(found, str) else f"{len(found.activity)} complete showings of {num_showings}"
        left_out.append(f"{key}: {reason}")
    if not designs:
        raise ValueError(f"{source}: no session of use for {movie} in {region}; {'; '.join(left_out) or 'no session'}")
    words = f"{len(names)} session{'s' if len(names) > 1 else ''} in the Allen layout, region {region}: {names[0]}" + (
        "..." if len(names) > 1 else ""
    )
    return _together(designs, num_units, num_showings, seed, words, tuple(left_out))


def _design(recording: Recording, movie: str, region: str) -> FrameDesign | str:
    """The design of the units of a region, or why there is none."""
    acronyms = recording.units["region_allen" if "region_allen" in recording.units else "region"]
    rows = np.flatnonzero(acronyms.astype(str).to_numpy() == region)
    if not len(rows):
        return f"no unit in {region}, only in {sorted(set(acronyms.astype(str)))[:8]}"
    try:
        design = frame_design(recording, movie, drop_silent=False)
    except ValueError as error:
        return str(error)
    return FrameDesign(design.activity[:, :, rows], design.frame, design.repeat, design.start_s, rows)


def _together(
    designs: list[FrameDesign], num_units: int, num_showings: int, seed: int, source: str, left_out: tuple[str, ...]
) -> Population:
    frames = {design.activity.shape[1] for design in designs}
    assert len(frames) == 1, frames
    activity = np.concatenate([design.activity[:num_showings] for design in designs], axis=2)
    available = activity.shape[2]
    drawn = np.sort(np.random.default_rng(seed).choice(available, min(num_units, available), replace=False))
    activity = activity[:, :, drawn]
    kept = (activity > 0).any(axis=1).all(axis=0)
    if not kept.any():
        raise ValueError(f"{source}: each of {len(drawn)} units is silent in some showing; expected one that is not")
    onset = designs[0].start_s[:num_showings]
    return Population(activity[:, :, kept], onset - onset[:, :1], len(drawn), source, left_out)
