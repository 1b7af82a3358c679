"""Frame decoding of a natural movie: activity per showing, frame and unit, from a recording; no decoder, no file.

The design of the CEBRA study of Allen Neuropixels (Schneider, Lee & Mathis 2023, doi:10.1038/s41586-023-06031-6):
10 showings of natural movie one, 900 frames at 30 Hz, spikes in 120-Hz bins of which four are averaged, units dropped
that are silent in any showing; train on showings 1-9, test on 10.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from foundation.recording import Covariate, Recording

# A spike this close below an edge belongs to the bin above it, as in `foundation.binning`.
_EDGE_S = 1e-9


@dataclass(frozen=True)
class FrameDesign:
    """Activity in a movie. R showings, F frames, N units.

    Attributes:
        activity: `(R, F, N)` float32, spikes per bin averaged over the `bins_per_frame` bins of a frame.
        frame: `(F,)` int64 labels 0..F-1; the same for every showing.
        repeat: `(R,)` int64, number of each showing in the session, 0-based, those left out counted.
        start_s: `(R, F)` onset of each frame, seconds.
        units: `(N,)` int64 rows of `Recording.units`.
        counts: What was left out.
    """

    activity: np.ndarray
    frame: np.ndarray
    repeat: np.ndarray
    start_s: np.ndarray
    units: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def samples(self, repeats: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Activity `(r*F, N)` and frame labels `(r*F,)` of some showings (rows of `activity`), one after the other."""
        chosen = self.activity[repeats]
        return chosen.reshape(-1, chosen.shape[2]), np.tile(self.frame, len(chosen))


def movie_runs(movie: Covariate) -> np.ndarray:
    """Showings `(R, 2)` of a movie as sample ranges: first frame, and the first sample after the last one.

    A showing ends where the movie goes off, and where its frame does not rise. The sample after it stands at its end.

    Args:
        movie: A covariate such as `natural_movie_one_frame` of `data_recipes.allen_presentations.hold`.
    """
    seen = movie.observed
    begins = seen & np.append(True, ~seen[:-1] | (movie.values[1:] <= movie.values[:-1]))
    starts = np.flatnonzero(begins)
    ends = np.flatnonzero(~seen | begins)
    # The next sample that is not part of the showing; `hold` puts one at the end of the last.
    stops = np.append(ends, len(seen) - 1)[np.searchsorted(ends, starts, side="right")]
    return np.column_stack([starts, stops])


def frame_counts(recording: Recording, movie: str = "natural_movie_one", bins_per_frame: int = 4) -> FrameDesign:
    """Spike counts in every bin of every complete showing, for rasters; `activity` is `(R, F * bins_per_frame, N)`.

    Bins divide the time from one frame's onset to the next evenly, so that a late frame takes its bins along: at 30
    frames a second, 4 bins are 120 Hz. Showings that lack frames or reach out of the domain are left out and counted.

    Args:
        recording: With the covariate `<movie>_frame`.
        movie: Name of the movie.
        bins_per_frame: Bins in a frame.

    Raises:
        ValueError: No such movie, or no complete showing.
    """
    covariate = recording.covariates.get(f"{movie}_frame")
    if covariate is None:
        movies = sorted(n.removesuffix("_frame") for n in recording.covariates if n.endswith("_frame"))
        raise ValueError(f"{recording.info.recording_id}: no movie {movie!r}; it has {movies}")
    assert covariate.times is not None
    num_frames = covariate.spec.num_classes
    counts, repeats, onsets, dropped = (
        [],
        [],
        [],
        {"showings out: not complete": 0, "showings out: outside the domain": 0},
    )
    for number, (first, after) in enumerate(movie_runs(covariate)):
        if after - first != num_frames or (covariate.values[first:after] != np.arange(num_frames)).any():
            dropped["showings out: not complete"] += 1
            continue
        bounds = covariate.times[first : after + 1]
        if not ((recording.domain[:, 0] <= bounds[0]) & (bounds[-1] <= recording.domain[:, 1])).any():
            dropped["showings out: outside the domain"] += 1
            continue
        at = np.arange(num_frames * bins_per_frame + 1) / bins_per_frame
        counts.append(_count(recording, np.interp(at, np.arange(num_frames + 1), bounds) - _EDGE_S))
        repeats.append(number)
        onsets.append(bounds[:-1])
    if not counts:
        raise ValueError(
            f"{recording.info.recording_id}: no showing of {movie} with all {num_frames} frames inside the domain "
            f"({dropped}); expected at least one"
        )
    return FrameDesign(
        np.stack(counts),
        np.arange(num_frames),
        np.array(repeats),
        np.stack(onsets),
        np.arange(recording.num_units),
        {name: number for name, number in dropped.items() if number},
    )


def frame_design(
    recording: Recording, movie: str = "natural_movie_one", bins_per_frame: int = 4, drop_silent: bool = True
) -> FrameDesign:
    """Mean spikes per bin in every frame of every complete showing.

    Args:
        recording: With the covariate `<movie>_frame`.
        movie: Name of the movie.
        bins_per_frame: Bins averaged in a frame; 4 are 120 Hz.
        drop_silent: Leave out units without a spike in any one of the showings, as the study does. That looks at all
            showings, the test one too; False for a protocol that must not.

    Raises:
        ValueError: As in `frame_counts`, or every unit is silent in some showing.
    """
    fine = frame_counts(recording, movie, bins_per_frame)
    repeats, _, units = fine.activity.shape
    activity = fine.activity.reshape(repeats, -1, bins_per_frame, units).mean(axis=2, dtype=np.float32)
    kept = np.ones(units, bool)
    if drop_silent:
        kept[:] = (fine.activity > 0).any(axis=1).all(axis=0)
        if not kept.any():
            raise ValueError(
                f"{recording.info.recording_id}: all {units} units are silent in some showing of {movie}; "
                "give drop_silent=False"
            )
    dropped = {"units out: silent in a showing": int((~kept).sum())} if (~kept).any() else {}
    return FrameDesign(
        activity[:, :, kept], fine.frame, fine.repeat, fine.start_s, np.flatnonzero(kept), {**fine.counts, **dropped}
    )


def _count(recording: Recording, edges: np.ndarray) -> np.ndarray:
    """Spikes `(len(edges) - 1, N)` uint16 between rising edges (s)."""
    times, units = recording.spikes_between(edges[0], edges[-1])
    bins = np.searchsorted(edges, times, side="right") - 1
    shape = (len(edges) - 1, recording.num_units)
    return np.bincount(bins * shape[1] + units, minlength=shape[0] * shape[1]).astype(np.uint16).reshape(shape)
