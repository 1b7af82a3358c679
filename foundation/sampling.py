"""Windows of recordings, batches of windows, and the seeded sampler that draws them.

A batch groups its windows by session, is ragged in units (never padded over them) and padded in time only where its
windows differ in length. Batch k is a pure function of (seed, k), so a sampler is resumed by one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from foundation.binning import bin_covariate, bin_spikes, check_bin_size
from foundation.channels import MIN_BINS, Channel, channel_slices
from foundation.corpus import Corpus
from foundation.recording import Recording
from foundation.splits import ROLES, stretches

# Per-bin facts about trials that any recording offers; see `WindowReader`.
STRUCTURE = ("since_start", "to_end", "last_bin", "in_trial", "session_clock", "session_clock_squared")


@dataclass(frozen=True)
class Window:
    """`num_bins` bins of a recording from `start_s` seconds; `row` is the trial or stretch it lies in."""

    recording_id: str
    start_s: float
    num_bins: int
    row: int


@dataclass
class Batch:
    """Windows grouped by session (B windows, T bins, S sessions, V packed values, C channels).

    Attributes:
        windows: The B windows, in order.
        recording_ids: The S sessions, in order of their windows.
        sizes: Windows of each session, summing to B.
        spikes: S tensors `(b_s, T, N_s)` uint8 counts; 0 past a window's end.
        covariates: `(B, T, V)` float32, normalized; one-hot for classes, counts for events; 0 where not observed.
        observed: `(B, T, C)` bool.
        structure: `(B, T, F)` float32, the features of `STRUCTURE`.
        trial: `(B, T)` int64 ordinal of the trial within the window, -1 outside trials.
        valid: `(B, T)` bool; False past a window's end.
        clock: `(B,)` float32 position of the window in its session, 0 to 1.
        bin_size_s: Seconds.
        regions: S arrays `(N_s,)` int64, units of one number are of one region of their session; -1 unknown.
    """

    windows: list[Window]
    recording_ids: list[str]
    sizes: list[int]
    spikes: list[torch.Tensor]
    covariates: torch.Tensor
    observed: torch.Tensor
    structure: torch.Tensor
    trial: torch.Tensor
    valid: torch.Tensor
    clock: torch.Tensor
    bin_size_s: float
    regions: list[np.ndarray]

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        moved: dict[str, Any] = {
            key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in vars(self).items()
        }
        moved["spikes"] = [spikes.to(device, non_blocking=True) for spikes in self.spikes]
        return Batch(**moved)

    def __len__(self) -> int:
        return len(self.windows)


class WindowReader:
    """Reads windows of one corpus into arrays; recordings are opened when first needed, so it is safe to fork.

    Recordings in memory, by id, do as well.
    """

    def __init__(self, corpus: Corpus | Mapping[str, Recording], channels: list[Channel], bin_size_s: float) -> None:
        self.corpus = corpus
        self.channels = channels
        self.bin_size_s = bin_size_s
        self._slices = channel_slices(channels)
        self._num_values = sum(channel.width for channel in channels)
        self._open: dict[str, tuple[Recording, np.ndarray, np.ndarray]] = {}

    def recording(self, recording_id: str) -> Recording:
        """The open recording."""
        return self._session(recording_id)[0]

    def _session(self, recording_id: str) -> tuple[Recording, np.ndarray, np.ndarray]:
        if recording_id not in self._open:
            recording = self.corpus[recording_id]
            check_bin_size(recording, self.bin_size_s)
            self._check_covariates(recording)
            trials = recording.trials[["start_s", "stop_s"]].to_numpy(dtype=float)
            bounds = stretches(recording)
            self._open[recording_id] = recording, trials, np.array([bounds[0, 0], bounds[-1, 1]])
        return self._open[recording_id]

    def _check_covariates(self, recording: Recording) -> None:
        for channel in self.channels:
            covariate = recording.covariates.get(channel.spec.name)
            if covariate is None:
                continue
            for key in ("kind", "scope", "num_classes", "dim", "unit"):
                got, expected = getattr(covariate.spec, key), getattr(channel.spec, key)
                if got != expected:
                    raise ValueError(
                        f"{recording.info.recording_id}: covariate {channel.spec.name!r} has {key} {got!r}, the model "
                        f"expects {expected!r}; give one of them another name in the recipe"
                    )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def read(self, window: Window) -> dict[str, Any]:
        """One window as arrays: spikes `(T, N)`, covariates `(T, V)`, observed `(T, C)`, structure, trial, clock."""
        recording, trials, span = self._session(window.recording_id)
        size, bins = self.bin_size_s, window.num_bins
        centers = window.start_s + size * (np.arange(bins) + 0.5)
        row = trials[:, 0].searchsorted(centers, side="right") - 1
        inside = (row >= 0) & (centers < trials[np.maximum(row, 0), 1]) if len(trials) else np.zeros(bins, bool)
        row = np.where(inside, row, -1)
        values = np.zeros((bins, self._num_values), np.float32)
        observed = np.zeros((bins, len(self.channels)), bool)
        for c, (channel, where) in enumerate(zip(self.channels, self._slices)):
            covariate = recording.covariates.get(channel.spec.name)
            if covariate is None:
                continue
            if covariate.times is None:
                safe = np.maximum(row, 0)
                seen = inside & covariate.observed[safe] if len(covariate.values) else np.zeros(bins, bool)
                raw = covariate.values[safe].reshape(bins, -1) if seen.any() else np.zeros((bins, 1))
            else:
                raw, seen = bin_covariate(covariate, window.start_s, bins, size)
            observed[:, c] = seen
            if channel.spec.kind == "categorical":
                values[np.flatnonzero(seen), where.start + raw[seen, 0].astype(int)] = 1.0
            elif channel.spec.kind == "event":
                values[:, where] = raw
            else:
                values[:, where] = np.where(seen[:, None], (raw - channel.mean) / np.array(channel.std), 0)
        clock = (window.start_s + 0.5 * bins * size - span[0]) / max(span[1] - span[0], size)
        return {
            "spikes": bin_spikes(recording, window.start_s, bins, size),
            "covariates": values,
            "observed": observed,
            "structure": _structure(trials, row, inside, centers, size, clock),
            "trial": np.where(inside, row - row[inside].min() if inside.any() else 0, -1),
            "clock": np.float32(clock),
        }

    def batch(self, windows: list[Window]) -> Batch:
        """Read windows and group them by session, padding in time to the longest."""
        order = sorted(range(len(windows)), key=lambda i: windows[i].recording_id)
        windows = [windows[i] for i in order]
        samples = [self.read(window) for window in windows]
        num, longest = len(windows), max(window.num_bins for window in windows)
        ids = list(dict.fromkeys(window.recording_id for window in windows))
        sizes = [sum(window.recording_id == key for window in windows) for key in ids]
        valid = np.arange(longest) < np.array([window.num_bins for window in windows])[:, None]

        def stack(key: str, samples: list[dict[str, Any]], fill: float = 0) -> torch.Tensor:
            first = samples[0][key]
            out = np.full((len(samples), longest, *first.shape[1:]), fill, first.dtype)
            for i, sample in enumerate(samples):
                out[i, : len(sample[key])] = sample[key]
            return torch.from_numpy(out)

        starts = np.cumsum([0, *sizes])
        return Batch(
            windows=windows,
            recording_ids=ids,
            sizes=sizes,
            spikes=[stack("spikes", samples[a:b]) for a, b in pairwise(starts)],
            covariates=stack("covariates", samples),
            observed=stack("observed", samples),
            structure=stack("structure", samples),
            trial=stack("trial", samples, fill=-1),
            valid=torch.from_numpy(valid),
            clock=torch.from_numpy(np.array([samples[i]["clock"] for i in range(num)], np.float32)),
            bin_size_s=self.bin_size_s,
            regions=[_region_numbers(self.recording(key)) for key in ids],
        )


def _region_numbers(recording: Recording) -> np.ndarray:
    """`(N,)` a number for each region of the recording, -1 where it is unknown."""
    names, numbers = np.unique(recording.units["region"].to_numpy(str), return_inverse=True)
    return np.where(names[numbers] == "", -1, numbers).astype(np.int64)


def _structure(
    trials: np.ndarray, row: np.ndarray, inside: np.ndarray, centers: np.ndarray, size: float, clock: float
) -> np.ndarray:
    out = np.zeros((len(centers), len(STRUCTURE)), np.float32)
    if inside.any():
        bounds = trials[row[inside]]
        out[inside, 0] = centers[inside] - bounds[:, 0]
        out[inside, 1] = bounds[:, 1] - centers[inside]
        out[inside, 2] = bounds[:, 1] - centers[inside] < 1.5 * size
        out[inside, 3] = 1.0
    out[:, 4] = 2 * clock - 1
    out[:, 5] = (2 * clock - 1) ** 2
    return out


def session_windows(
    recording: Recording,
    roles: np.ndarray,
    role: Literal["train", "val", "test"],
    bin_size_s: float,
    window_s: float,
) -> list[Window]:
    """Every stretch of a role as consecutive windows of at most `window_s`, inside the domain; none overlaps.

    A stretch shorter than the window is a window of its own length; a remainder under `MIN_BINS` bins is dropped.
    """
    most = round(window_s / bin_size_s)
    windows = []
    bounds = stretches(recording)
    for row in np.flatnonzero(roles == ROLES[role]):
        for start, stop in _inside(bounds[row], recording.domain):
            bins = int(np.floor((stop - start) / bin_size_s + 1e-6))
            for first in range(0, bins, most):
                length = min(most, bins - first)
                if length >= MIN_BINS:
                    at = float(start + first * bin_size_s)
                    windows.append(Window(recording.info.recording_id, at, length, int(row)))
    return windows


def _inside(interval: np.ndarray, domain: np.ndarray) -> list[tuple[float, float]]:
    """The parts of an interval that lie in the domain."""
    first = int(domain[:, 1].searchsorted(interval[0], side="right"))
    last = int(domain[:, 0].searchsorted(interval[1], side="left"))
    parts = [(max(interval[0], a), min(interval[1], b)) for a, b in domain[first:last]]
    return [(a, b) for a, b in parts if b > a]


class WindowSampler:
    """Draws batches of windows from many sessions, the same for the same seed whatever the number of workers.

    A step draws `windows_per_step / windows_per_session` sessions, with probability proportional to
    (number of windows)**temperature, and from each that many windows. In a mixture of corpora each session is drawn
    from a corpus drawn by its weight, so that a corpus gets its share whatever its number of sessions. A stretch longer
    than the window is entered at a random point. `batch_windows(k)` depends on (seed, k) only, so that a run resumes
    from the number of its step.
    """

    def __init__(
        self,
        windows: dict[str, list[Window]],
        windows_per_step: int,
        windows_per_session: int,
        seed: int,
        temperature: float = 0.5,
        window_bins: int | None = None,
        bin_size_s: float = 0.02,
        groups: Mapping[str, tuple[float, list[str]]] | None = None,
    ) -> None:
        self.windows = {key: value for key, value in sorted(windows.items()) if value}
        if not self.windows:
            raise ValueError("no session has a window to draw; check the split, the subjects and data.window_s")
        self.per_step, self.per_session = windows_per_step, min(windows_per_session, windows_per_step)
        self.seed = seed
        weight, members = [], []
        for share, ids in (groups or {"": (1.0, list(self.windows))}).values():
            if kept := [key for key in sorted(ids) if key in self.windows]:
                sizes = np.array([len(self.windows[key]) for key in kept], float) ** temperature
                weight.append(share)
                members.append((kept, sizes / sizes.sum()))
        # By the largest first: the sum of two that are huge is infinite.
        shares = np.array(weight) / np.max(weight)
        self._share, self._members = shares / shares.sum(), members
        self._slack = self._find_slack(window_bins, bin_size_s)

    def _find_slack(self, window_bins: int | None, bin_size_s: float) -> dict[Window, tuple[float, float]]:
        """For each full window: where its unbroken run of windows starts, and seconds by which it may start later."""
        slack: dict[Window, tuple[float, float]] = {}
        if window_bins is None:
            return slack
        for windows in self.windows.values():
            run: list[Window] = []
            for window, after in zip(windows, [*windows[1:], None]):
                run.append(window)
                stop = window.start_s + window.num_bins * bin_size_s
                if after is None or after.row != window.row or after.start_s > stop + 1e-6:
                    bins = sum(w.num_bins for w in run)
                    for w in run:
                        if w.num_bins == window_bins and bins > window_bins:
                            slack[w] = run[0].start_s, (bins - window_bins) * bin_size_s
                    run = []
        return slack

    def batch_windows(self, step: int) -> list[Window]:
        """The windows of step `step`."""
        rng = np.random.default_rng([self.seed, step])
        drawn = []
        for session in self._draw_sessions(rng):
            windows = self.windows[session]
            for i in rng.choice(len(windows), self.per_session, replace=len(windows) < self.per_session):
                drawn.append(self._jittered(windows[i], rng))
        return drawn

    def _draw_sessions(self, rng: np.random.Generator) -> list[str]:
        num = max(1, self.per_step // self.per_session)
        single = len(self._members) == 1
        corpora = np.zeros(num, int) if single else rng.choice(len(self._members), num, p=self._share)
        sessions: list[str] = []
        for corpus, count in zip(*np.unique(corpora, return_counts=True)):
            ids, probability = self._members[corpus]
            chosen = rng.choice(len(ids), count, replace=bool(count > len(ids)), p=probability)
            sessions += [ids[i] for i in chosen]
        return sessions

    def _jittered(self, window: Window, rng: np.random.Generator) -> Window:
        if window not in self._slack:
            return window
        first, slack = self._slack[window]
        return Window(window.recording_id, first + rng.uniform(0, slack), window.num_bins, window.row)
