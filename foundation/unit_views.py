"""Two views of a population of units: two windows in time, each with its own subset of the units; knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundation.binning import bin_spikes, check_bin_size
from foundation.recording import Recording
from foundation.splits import stretches


@dataclass
class ViewConfig:
    """How views are drawn (NuCLR, arXiv 2512.01199: 10-s windows at most 30 s apart, half to all units).

    Attributes:
        window_bins: Length of a view.
        max_distance_bins: Largest distance between the starts of the two views of a pair; they do not overlap.
        min_kept: Each view keeps a share of the units that is uniform from this to 1.
        max_units: At most so many units of a population are drawn for a pair of views.
    """

    window_bins: int = 500
    max_distance_bins: int = 1500
    min_kept: float = 0.5
    max_units: int = 64

    def __post_init__(self) -> None:
        """Reject what cannot be drawn."""
        if self.window_bins < 1 or self.max_units < 2 or not 0 < self.min_kept <= 1:
            raise ValueError(
                f"views: window_bins {self.window_bins}, max_units {self.max_units}, min_kept {self.min_kept}; "
                "expected 1 or more, 2 or more, and a share above 0"
            )
        if self.max_distance_bins < self.window_bins:
            raise ValueError(
                f"views.max_distance_bins is {self.max_distance_bins}, expected at least window_bins "
                f"({self.window_bins}): overlapping views would share their spikes"
            )


@dataclass(frozen=True)
class Views:
    """Two views of one population.

    Attributes:
        counts: Two arrays `(n, window_bins)` float32, no row all zero.
        pairs: `(M, 2)` rows of the units that are in both.
    """

    counts: tuple[np.ndarray, np.ndarray]
    pairs: np.ndarray

    @property
    def comparable(self) -> bool:
        """Whether a unit is in both views and another unit is there to tell it from."""
        return len(self.pairs) > 0 and len(self.counts[0]) + len(self.counts[1]) > 2


def draw_views(counts: np.ndarray, config: ViewConfig, rng: np.random.Generator) -> Views:
    """Two windows of a population that do not overlap, each with its own subset of the units, in random order.

    Units silent in a window are not in its view.

    Args:
        counts: `(T, N)`, T at least two windows.
        config: Lengths and shares.
        rng: Source of all draws.
    """
    width = config.window_bins
    distance = int(rng.integers(width, min(config.max_distance_bins, len(counts) - width) + 1))
    start = int(rng.integers(0, len(counts) - width - distance + 1))
    pool = rng.permutation(counts.shape[1])[: config.max_units]
    kept = []
    for first in rng.permutation([start, start + distance]):
        share = rng.uniform(config.min_kept, 1)
        units = rng.permutation(pool)[: max(1, round(share * len(pool)))]
        window = counts[first : first + width, units].T
        active = window.any(axis=1)
        kept.append((np.ascontiguousarray(window[active], dtype=np.float32), units[active]))
    (one, units_one), (two, units_two) = kept
    _, rows_one, rows_two = np.intersect1d(units_one, units_two, assume_unique=True, return_indices=True)
    return Views((one, two), np.stack([rows_one, rows_two], axis=1).astype(np.int64))


def recorded_counts(recording: Recording, bin_size_s: float) -> np.ndarray:
    """Counts `(T, N)` uint8 of all usable time of a recording, its trials (or intervals) joined end to end.

    What does not fill a bin at the end of a trial is left out.

    Raises:
        ValueError: The recording cannot be binned so, or has no usable bin.
    """
    check_bin_size(recording, bin_size_s)
    intervals = stretches(recording) if len(recording.trials) else recording.domain
    if len(recording.trials):
        intervals = intervals[recording.trials["usable"].to_numpy(bool)]
    lengths = [int((stop - start) / bin_size_s + 1e-6) for start, stop in intervals]
    parts = [bin_spikes(recording, start, n, bin_size_s) for (start, _), n in zip(intervals, lengths) if n]
    if not parts:
        raise ValueError(f"{recording.info.recording_id}: no usable time of at least {bin_size_s} s; leave it out")
    return np.concatenate(parts)


def checked_counts(population: np.ndarray) -> np.ndarray:
    """The counts `(T, N)` of a population as given.

    Raises:
        ValueError: Another shape, no numbers, or one that is negative or not finite.
    """
    counts = np.asarray(population)
    if counts.ndim != 2 or not counts.size or counts.dtype.kind not in "iufb":
        raise ValueError(
            f"counts of shape {counts.shape} ({counts.dtype}), expected numbers (T, N), one column per unit"
        )
    if counts.dtype.kind == "f" and not np.isfinite(counts).all():
        raise ValueError(f"{int((~np.isfinite(counts)).sum())} counts are not finite; mend or leave out those bins")
    if counts.min() < 0:
        raise ValueError(f"a count of {counts.min():g}; expected spikes per bin, 0 or more")
    return counts
