"""The numbers of one recording that the doctor prints, draws and judges; what is out of bounds is in doctor_checks.

Reads a `Recording` and nothing else, in few passes and without a second copy of a long session's spikes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from eval.doctor_alignment import Alignment, align
from foundation.recording import Covariate, CovariateSpec, Recording

DUPLICATE_S, REFRACTORY_S = 1e-4, 0.0015
# Intervals between spikes are counted in the middle so many spikes: enough, and no second copy of a long session.
MAX_SPIKES = 4_000_000
# Samples of a continuous covariate further apart than this are not interpolated (foundation.binning.bin_covariate).
MAX_GAP_S = 0.25


@dataclass(frozen=True)
class Facts:
    """Numbers of one recording.

    Attributes:
        recording_id: Of the recording.
        subject: The animal.
        num_units: N.
        num_spikes: K.
        regions: Units by region, "" where unknown.
        duration_s: Of the domain.
        pieces: Intervals of the domain.
        trials: Usable and all.
        unit_spikes: `(N,)` spikes of each unit inside the domain.
        silent: `(N,)` bool, no spike for more than half of the domain at a stretch.
        duplicates: Share of a unit's intervals below 0.1 ms; NaN for sources of counts.
        violations: Share of a unit's intervals below 1.5 ms; NaN for sources of counts.
        covariates: Name to specification and the share of the trials, or of the domain, where it is observed.
        counts: What the recipe let in, left out and kept.
        alignments: See `eval.doctor_alignment`.
    """

    recording_id: str
    subject: str
    num_units: int
    num_spikes: int
    regions: Counter[str]
    duration_s: float
    pieces: int
    trials: tuple[int, int]
    unit_spikes: np.ndarray
    silent: np.ndarray
    duplicates: float
    violations: float
    covariates: dict[str, tuple[CovariateSpec, float]]
    counts: dict[str, int]
    alignments: list[Alignment]

    @property
    def rates_hz(self) -> np.ndarray:
        """Mean rate `(N,)` of each unit over the domain."""
        return self.unit_spikes / self.duration_s


def facts_of(recording: Recording) -> Facts:
    """All numbers of one recording; reads its spikes about three times and its covariates twice."""
    r = recording
    edges = stretch_edges(r.domain, 100)
    counts = spikes_per_stretch(r, edges)
    intervals = unit_intervals(r)
    points = edges.mean(axis=1)
    return Facts(
        recording_id=r.info.recording_id,
        subject=r.info.subject_id,
        num_units=r.num_units,
        num_spikes=len(r.spike_times),
        regions=Counter(r.units["region"].fillna("").astype(str)),
        duration_s=r.duration_s,
        pieces=len(r.domain),
        trials=(int(r.trials["usable"].sum()), len(r.trials)),
        unit_spikes=counts.sum(axis=0),
        silent=silent_units(counts, edges[:, 1] - edges[:, 0]),
        duplicates=float((intervals < DUPLICATE_S).mean()) if len(intervals) else float("nan"),
        violations=float((intervals < REFRACTORY_S).mean()) if len(intervals) else float("nan"),
        covariates={name: (c.spec, observed_share(c, points)) for name, c in r.covariates.items()},
        counts=dict(r.info.counts),
        alignments=align(r),
    )


def stretch_edges(domain: np.ndarray, number: int) -> np.ndarray:
    """Start and stop `(S, 2)` of stretches of the domain, each about 1/`number` of it and inside one piece."""
    length = domain[:, 1] - domain[:, 0]
    parts = np.maximum(1, np.round(length / length.sum() * number).astype(int))
    if len(domain) > number:
        return domain
    pieces = [np.linspace(a, b, n + 1) for (a, b), n in zip(domain, parts)]
    return np.concatenate([np.column_stack([edges[:-1], edges[1:]]) for edges in pieces])


def spikes_per_stretch(recording: Recording, edges: np.ndarray) -> np.ndarray:
    """Spikes `(S, N)` of each unit in stretches `(S, 2)` of time (s)."""
    cuts = recording.spike_times.searchsorted(edges - 1e-9)
    units, num = recording.spike_units, recording.num_units
    return np.stack([np.bincount(units[lo:hi], minlength=num) for lo, hi in cuts])


def unit_intervals(recording: Recording) -> np.ndarray:
    """Intervals (s) between spikes of the same unit, in the middle of the session; none for sources of counts."""
    if recording.info.min_bin_size_s:
        return np.zeros(0)
    spare = max(0, len(recording.spike_times) - MAX_SPIKES) // 2
    part = slice(spare, spare + MAX_SPIKES)
    units = recording.spike_units[part]
    # A stable sort of 16-bit integers is a radix sort.
    order = np.argsort(units.astype(np.uint16) if recording.num_units < 2**16 else units, kind="stable")
    times, units = recording.spike_times[part][order], units[order]
    return np.diff(times)[units[1:] == units[:-1]]


def silent_units(counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`(N,)` bool: no spike in consecutive stretches that add up to more than half, from `(S, N)` counts."""
    if len(counts) < 4:
        return np.zeros(counts.shape[1], bool)
    silence, longest = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for row, length in zip(counts, lengths):
        silence = np.where(row == 0, silence + length, 0)
        longest = np.maximum(longest, silence)
    return longest > 0.5 * lengths.sum() + 1e-9


def observed_share(covariate: Covariate, points: np.ndarray) -> float:
    """Share of the trials, or of `points` (s) of the domain, where a covariate has a value; 1 for events."""
    if covariate.spec.kind == "event":
        return 1.0
    if covariate.times is None:
        return float(covariate.observed.mean()) if len(covariate.observed) else 0.0
    if not covariate.observed.any():
        return 0.0
    if covariate.spec.kind == "continuous" and covariate.spec.resample == "mean":
        known = covariate.times[covariate.observed]
        right = known.searchsorted(points, side="right")
        before = points - np.append(-np.inf, known)[right]
        after = np.append(known, np.inf)[right] - points
        return float(((before + after <= MAX_GAP_S) | (np.minimum(before, after) <= MAX_GAP_S / 2)).mean())
    # A value holds until the next sample, and after the last one not for ever: the clock may have stopped.
    last = covariate.times.searchsorted(points, side="right") - 1
    patience = max(MAX_GAP_S, 10 * float(np.median(np.diff(covariate.times)))) if len(covariate.times) > 2 else np.inf
    held = (last >= 0) & covariate.observed[np.maximum(last, 0)]
    return float((held & (points - covariate.times[-1] <= patience)).mean())


def inside_domain(times: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """`(M,)` bool: which of `times` (s) lie in one of the intervals."""
    piece = np.maximum(domain[:, 0].searchsorted(times + 1e-6, side="right") - 1, 0)
    return (times >= domain[piece, 0] - 1e-6) & (times < domain[piece, 1] + 1e-6)
