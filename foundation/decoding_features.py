"""What the convex decoding read-out regresses on: square-root spike counts in windows, and trunk states, per trial.

Windows are cut into segments, the part of each trial in them (or what lies outside trials), so that one with several
trials or none needs no rule of its own. Nothing here is fitted, and no label is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foundation.binning import bin_spikes
from foundation.model import FoundationModel
from foundation.predict import answers, hide_behavior
from foundation.sampling import Window, WindowReader
from foundation.task_basis import hats

# Windows of a label's rates: fractions of the trial, or seconds before its end.
FRACTIONS = ((0.0, 1.0), (0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
BEFORE_END_S = ((0.1, 0.0), (0.3, 0.1), (np.inf, 0.3))
RECENT_S = 0.1
# Lag windows of a trace, seconds from the bin's start, nearest and farthest edge.
LAGS_S = ((0.0, 0.02), (0.02, 0.04), (0.04, 0.08), (0.08, 0.14), (0.14, 0.22), (0.22, 0.32))
NUM_HATS = 8


@dataclass
class Segment:
    """Consecutive bins of one window in one trial (T bins, N units, D states).

    Attributes:
        window: The window.
        first: Bin of the window it starts at.
        row: Row of the trial in the recording, -1 outside trials.
        ordinal: Of the trial within the window, -1 outside trials.
        counts: `(T, N)` spikes.
        states: `(T, D)` states of the trunk, behavior hidden.
        heads: Per target channel what the head says: `(T, width)`, or `(width,)` of the segment's trial.
    """

    window: Window
    first: int
    row: int
    ordinal: int
    counts: np.ndarray
    states: np.ndarray
    heads: dict[str, np.ndarray]


def segments(
    model: FoundationModel, reader: WindowReader, windows: list[Window], *, last: bool = False
) -> Iterator[list[Segment]]:
    """The segments of each window of one session, in order; `last`: only the one that the window ends in."""
    recording = reader.recording(windows[0].recording_id)
    bounds = recording.trials[["start_s", "stop_s"]].to_numpy(dtype=float)
    size = reader.bin_size_s
    of_trial = {channel.spec.name for channel in model.channels if channel.spec.scope == "trial"}
    for answer in answers(model, reader, windows, hide_behavior, batch_windows=256 if last else 64):
        window = answer.window
        row = _rows(bounds, window.start_s + size * (np.arange(window.num_bins) + 0.5))
        base = row[row >= 0].min(initial=len(bounds))
        edges = np.flatnonzero(np.diff(row, prepend=-2, append=-2))
        parts = []
        for a, b in list(pairwise(edges))[-1 if last else 0 :]:
            ordinal = int(row[a] - base) if row[a] >= 0 else -1
            heads = {
                name: value[max(ordinal, 0)] if name in of_trial else value[a:b]
                for name, value in answer.covariates.items()
            }
            counts = bin_spikes(recording, window.start_s + a * size, int(b - a), size).astype(float)
            parts.append(Segment(window, int(a), int(row[a]), ordinal, counts, answer.states[a:b].astype(float), heads))
        yield parts


def _rows(bounds: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Row of the trial that each time lies in, -1 outside."""
    if not len(bounds):
        return np.full(len(centers), -1)
    row = bounds[:, 0].searchsorted(centers, side="right") - 1
    return np.where((row >= 0) & (centers < bounds[np.maximum(row, 0), 1]), row, -1)


def label_spikes(segment: Segment, bin_size_s: float, causal: bool) -> np.ndarray:
    """`(1, L, N)` of a trial: square roots of rates (Hz) in windows; causal: of the recent and the running count."""
    counts, num = segment.counts, len(segment.counts)
    recent = max(1, round(RECENT_S / bin_size_s))
    if causal:
        return np.sqrt(np.stack([counts[-recent:].sum(axis=0), counts.sum(axis=0)]))[None]
    spans = [(round(a * num), round(b * num)) for a, b in FRACTIONS]
    for far, near in BEFORE_END_S:
        start = 0 if np.isinf(far) else max(0, num - round(far / bin_size_s))
        spans.append((start, max(start, num - round(near / bin_size_s))))
    rates = [counts[a:b].sum(axis=0) / (max(1, b - a) * bin_size_s) for a, b in spans]
    return np.sqrt(np.stack(rates))[None]


def label_states(segment: Segment, bin_size_s: float) -> np.ndarray:
    """`(1, 2 D)`: mean over the trial, and over its most recent bins."""
    recent = max(1, round(RECENT_S / bin_size_s))
    return np.concatenate([segment.states.mean(axis=0), segment.states[-recent:].mean(axis=0)])[None]


def trace_spikes(segment: Segment, bin_size_s: float, causal: bool) -> np.ndarray:
    """`(T, L, N)`: square roots of counts in lag windows and of running counts, and these plain.

    Acausal: the same ahead. Causal: of the last bin only, T = 1.
    """
    counts = segment.counts
    spans = [(round(a / bin_size_s), max(round(b / bin_size_s), round(a / bin_size_s) + 1)) for a, b in LAGS_S]
    asked = np.arange(len(counts))[-1:] if causal else np.arange(len(counts))
    back = _sums(counts, asked, spans)
    running = _sums(counts, asked, [(0, len(counts))])
    parts = [np.sqrt(back), np.sqrt(running), running]
    if not causal:
        ahead = _sums(counts[::-1], asked, [*spans[1:], (0, len(counts))])[::-1]
        parts.append(np.sqrt(ahead))
    return np.concatenate(parts, axis=1)


def _sums(counts: np.ndarray, asked: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Sums `(A, L, N)` of counts from `near` up to, without, `far` bins back of the bins asked for."""
    total = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
    stop, start = ([np.maximum(asked + 1 - span[k], 0) for span in spans] for k in (0, 1))
    return np.stack([total[b] - total[a] for a, b in zip(start, stop)], axis=1)


def elapsed(segment: Segment, bin_size_s: float, longest_s: float, causal: bool) -> np.ndarray:
    """`(T, NUM_HATS)` hats of the time since the segment's start; causal: of the last bin only."""
    time = (np.arange(len(segment.counts)) + 1) * bin_size_s
    return np.asarray(hats(time[-1:] if causal else time, np.linspace(bin_size_s, longest_s, NUM_HATS)))
