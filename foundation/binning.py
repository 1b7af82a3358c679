"""Counts and covariate values per bin for a stretch of a recording. Pure functions of NumPy arrays.

Bin k of a stretch covers `[start + k*bin_size, start + (k+1)*bin_size)` seconds.
"""

from __future__ import annotations

import numpy as np

from foundation.recording import Covariate, Recording

# Times are stored in double precision; a spike this close below an edge belongs to the bin above it.
_EDGE_S = 1e-9


def check_bin_size(recording: Recording, bin_size_s: float) -> None:
    """Raise ValueError when the recording cannot be binned at `bin_size_s` seconds."""
    if not 0 < bin_size_s < np.inf:
        raise ValueError(
            f"{recording.info.recording_id}: bin size {bin_size_s} s, expected a positive number of seconds"
        )
    finest = recording.info.min_bin_size_s
    ratio = bin_size_s / finest if finest else 1.0
    if ratio < 1 - 1e-6 or abs(ratio - round(ratio)) > 1e-6:
        raise ValueError(
            f"{recording.info.recording_id}: bin size {bin_size_s} s; its source only has counts in bins of "
            f"{finest} s, so give a whole multiple of that"
        )


def bin_spikes(recording: Recording, start_s: float, num_bins: int, bin_size_s: float) -> np.ndarray:
    """Spike counts `(num_bins, N)` uint8, saturating at 255 spikes per bin."""
    num_units = recording.num_units
    times, units = recording.spikes_between(start_s - _EDGE_S, start_s + num_bins * bin_size_s - _EDGE_S)
    # Narrow indices and counts are what makes this quick.
    position = times - (start_s - _EDGE_S)
    position *= 1.0 / bin_size_s
    bins = position.astype(np.int32 if num_bins * num_units < 2**31 else np.int64)
    np.minimum(bins, num_bins - 1, out=bins)
    cell = bins * num_units + units
    # Bins are sorted as times are: no count can pass 255 unless two spikes 255 apart share a bin.
    if (bins[255:] == bins[:-255]).any():
        counts = np.minimum(np.bincount(cell, minlength=num_bins * num_units), 255).astype(np.uint8)
    else:
        counts = np.zeros(num_bins * num_units, np.uint8)
        np.add.at(counts, cell, np.uint8(1))
    return counts.reshape(num_bins, num_units)


def bin_events(times: np.ndarray, start_s: float, num_bins: int, bin_size_s: float) -> np.ndarray:
    """Events per bin `(num_bins,)` float32."""
    edges = start_s + bin_size_s * np.arange(num_bins + 1) - _EDGE_S
    return np.diff(times.searchsorted(edges)).astype(np.float32)


def bin_covariate(
    covariate: Covariate, start_s: float, num_bins: int, bin_size_s: float, max_gap_s: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """Values and observed mask of a time-scope covariate per bin.

    Args:
        covariate: Scope `time`.
        start_s: Start of bin 0, seconds.
        num_bins: T.
        bin_size_s: Seconds.
        max_gap_s: A bin without samples is interpolated only between samples no further apart than this
            (or two bins, if longer).

    Returns:
        `(T, dim)` float32 (classes and counts as float32) and `(T,)` bool. Unobserved values are 0.
    """
    spec, times = covariate.spec, covariate.times
    assert times is not None, spec.name
    if spec.kind == "event":
        return bin_events(times, start_s, num_bins, bin_size_s)[:, None], np.ones(num_bins, bool)
    edges = start_s + bin_size_s * np.arange(num_bins + 1) - _EDGE_S
    cuts = times.searchsorted(edges)
    values = covariate.values.reshape(len(times), spec.dim)
    if not len(times):
        return np.zeros((num_bins, spec.dim), np.float32), np.zeros(num_bins, bool)
    if spec.resample == "last" or spec.kind == "categorical":
        last = cuts[1:] - 1
        row = np.maximum(last, 0)
        observed = (last >= 0) & covariate.observed[row]
        return np.where(observed[:, None], values[row], 0).astype(np.float32), observed
    lo, hi = int(cuts[0]), int(cuts[-1])
    seen = covariate.observed[lo:hi]
    where = np.repeat(np.arange(num_bins), np.diff(cuts))[seen]
    number = np.bincount(where, minlength=num_bins)
    out = np.zeros((num_bins, spec.dim), np.float32)
    for d in range(spec.dim):
        out[:, d] = np.bincount(where, values[lo:hi, d][seen], minlength=num_bins) / np.maximum(number, 1)
    observed = number > 0
    gaps = np.flatnonzero(~observed)
    if len(gaps):
        _interpolate(covariate, values, edges, gaps, max(max_gap_s, 2 * bin_size_s), out, observed)
    return out, observed


def _interpolate(
    covariate: Covariate,
    values: np.ndarray,
    edges: np.ndarray,
    gaps: np.ndarray,
    max_gap_s: float,
    out: np.ndarray,
    observed: np.ndarray,
) -> None:
    """Fill bins without samples from the two observed neighbors, in place, where these are near enough."""
    times = covariate.times
    assert times is not None
    lo = int(times.searchsorted(edges[0] - max_gap_s))
    hi = int(times.searchsorted(edges[-1] + max_gap_s))
    near = np.flatnonzero(covariate.observed[lo:hi]) + lo
    if len(near) < 2:
        return
    known, centers = times[near], (edges[gaps] + edges[gaps + 1]) / 2
    right = known.searchsorted(centers)
    inside = (right > 0) & (right < len(near))
    right = np.clip(right, 1, len(near) - 1)
    span = known[right] - known[right - 1]
    fill = gaps[inside & (span <= max_gap_s + _EDGE_S)]
    for d in range(values.shape[1]):
        out[fill, d] = np.interp((edges[fill] + edges[fill + 1]) / 2, known, values[near, d])
    observed[fill] = True
