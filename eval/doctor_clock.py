"""The bins of a recording's domain in a row, and everything of the recording that has a time, put onto them.

Serves the doctor's alignment and its figures; windows for models are cut in `foundation.sampling`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundation.binning import bin_covariate
from foundation.recording import Recording

BIN_S = 0.05
MAX_LAG_S = 2.0
# Slower changes than this are drift of the rig or of arousal: they have no lag.
SLOWEST_S = 10.0
# In pieces shorter than this, a lag beyond the profile pairs one piece with another and is no time.
WHOLE_S = 60.0
# Of longer sessions the middle is enough, and of times in milliseconds more than enough.
MAX_S = 4 * 3600.0
# Fewer events say nothing.
MIN_EVENTS = 20


@dataclass(frozen=True)
class Clock:
    """The domain of a recording cut into L bins in a row, with empty bins between its pieces that no lag can cross.

    Attributes:
        bin_size_s: Seconds.
        start_s: `(I,)` start of each piece that holds a bin, seconds on the session clock.
        num_bins: `(I,)` whole bins of each piece.
        first: `(I,)` position of each piece's first bin.
        mask: `(L,)` bool, False for the empty bins.
    """

    bin_size_s: float
    start_s: np.ndarray
    num_bins: np.ndarray
    first: np.ndarray
    mask: np.ndarray

    @classmethod
    def of(cls, recording: Recording, bin_size_s: float = BIN_S) -> Clock:
        """Bins of about `bin_size_s` that the recording allows, over the whole domain or some `MAX_S` in its middle."""
        finest = recording.info.min_bin_size_s
        size = finest * max(1, round(bin_size_s / finest)) if finest else bin_size_s
        domain = recording.domain
        if recording.duration_s > MAX_S:
            before = np.cumsum(domain[:, 1] - domain[:, 0])
            middle = domain[before.searchsorted(before[-1] / 2)]
            domain = np.clip(domain, middle.mean() - MAX_S / 2, middle.mean() + MAX_S / 2)
        num = np.floor((domain[:, 1] - domain[:, 0]) / size + 1e-6).astype(np.int64)
        start, num = domain[num > 0, 0], num[num > 0]
        gap = np.append(start[1:], np.inf) - (start + num * size)
        pad = np.minimum(np.round(gap / size, 0), round(MAX_LAG_S / size)).astype(np.int64)
        first = np.cumsum(num + pad) - (num + pad)
        mask = np.zeros(int((num + pad).sum()), bool)
        for at, bins in zip(first, num):
            mask[at : at + bins] = True
        return cls(size, start, num, first, mask)

    @property
    def whole(self) -> bool:
        """Whether most of the domain lies in pieces of at least `WHOLE_S`."""
        long = self.num_bins * self.bin_size_s >= WHOLE_S
        return bool(self.num_bins[long].sum() > 0.5 * self.num_bins.sum())

    def bins(self, times: np.ndarray) -> np.ndarray:
        """Bin `(M,)` int64 of each of `times` (s); -1 outside of the domain."""
        if not len(self.start_s):
            return np.full(len(times), -1)
        piece = np.maximum(self.start_s.searchsorted(times + 1e-9, side="right") - 1, 0)
        offset = np.floor((times - self.start_s[piece] + 1e-9) / self.bin_size_s).astype(np.int64)
        inside = (offset >= 0) & (offset < self.num_bins[piece])
        return np.where(inside, self.first[piece] + offset, -1)

    def counts(self, times: np.ndarray) -> np.ndarray:
        """Events per bin `(L,)` float32."""
        bins = self.bins(times)
        return np.bincount(bins[bins >= 0], minlength=len(self.mask)).astype(np.float32)

    def table(self, times: np.ndarray, units: np.ndarray, column: np.ndarray, num: int) -> np.ndarray:
        """Spikes per bin `(L, num)` float32, a unit's in its `column` `(N,)`; units of column -1 are left out."""
        counts = np.zeros(len(self.mask) * num, np.float32)
        for lo in range(0, len(times), 1_000_000):  # no second copy of a long session
            place = column[units[lo : lo + 1_000_000]]
            kept = np.flatnonzero(place >= 0)
            bins = self.bins(times[lo : lo + 1_000_000][kept])
            cells = bins[bins >= 0] * num + place[kept][bins >= 0]
            if len(cells):
                low = int(cells.min())
                part = np.bincount(cells - low)
                counts[low : low + len(part)] += part
        return counts.reshape(len(self.mask), num)

    def high_pass(self, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """`(L, ...)` values less their moving mean over `SLOWEST_S` of seen bins, at variance 1; 0 where not seen."""
        flat, rows = values.reshape(len(values), -1), np.flatnonzero(seen)
        out = np.zeros(flat.shape, np.float32)
        if len(rows) > 1:
            part = flat[rows].astype(np.float64)
            half = max(1, int(SLOWEST_S / self.bin_size_s / 2))
            total = np.concatenate([np.zeros((1, part.shape[1])), np.cumsum(part, axis=0)])
            low = np.maximum(np.arange(len(rows)) - half, 0)
            high = np.minimum(np.arange(len(rows)) + half + 1, len(rows))
            part -= (total[high] - total[low]) / (high - low)[:, None]
            part -= part.mean(axis=0)
            scale = part.std(axis=0)
            out[rows] = np.where(scale > 1e-9, part / np.maximum(scale, 1e-9), 0)
        return out.reshape(values.shape)


def time_signals(recording: Recording, clock: Clock) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Name to kind, values `(L,)` or `(L, dim)` and seen `(L,)` of everything in a recording that has a time."""
    signals: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}
    for name, times in event_times(recording).items():
        kind = recording.covariates[name].spec.role if name in recording.covariates else "trial"
        if (counts := clock.counts(times)).sum() >= MIN_EVENTS:
            signals[name] = (kind, counts, clock.mask)
    for name, covariate in recording.covariates.items():
        spec = covariate.spec
        if spec.kind != "continuous" or covariate.times is None or not covariate.observed.any():
            continue
        values, seen = np.zeros((len(clock.mask), spec.dim), np.float32), np.zeros(len(clock.mask), bool)
        change, moved = np.zeros(len(clock.mask), np.float32), np.zeros(len(clock.mask), bool)
        for start, bins, at in zip(clock.start_s, clock.num_bins, clock.first):
            part, observed = bin_covariate(covariate, float(start), int(bins), clock.bin_size_s)
            values[at : at + bins], seen[at : at + bins] = part, observed
            change[at + 1 : at + bins] = np.linalg.norm(np.diff(part, axis=0), axis=1)
            moved[at + 1 : at + bins] = observed[1:] & observed[:-1]
        signals[name] = (spec.role, values, seen)
        signals[f"change of {name}"] = (spec.role, change, moved)
    return signals


def event_times(recording: Recording) -> dict[str, np.ndarray]:
    """Name to times (s) of everything that happens at moments: trials, their time columns, events, changes of class."""
    found: dict[str, np.ndarray] = {}
    if len(recording.trials):
        found["trial start"] = recording.trials["start_s"].to_numpy(float)
        lowest, highest = recording.domain[0, 0] - MAX_LAG_S, recording.domain[-1, 1] + MAX_LAG_S
        for column in recording.trials.columns:
            values = recording.trials[column]
            if column in ("start_s", "stop_s") or not str(column).endswith("_s") or values.dtype.kind != "f":
                continue
            times = values.to_numpy(float)
            times = times[np.isfinite(times)]
            # A duration in seconds is no time on the session clock.
            starts = recording.trials["start_s"].to_numpy(float)[np.isfinite(values.to_numpy(float))]
            near = np.abs(times - starts) < 60
            if len(times) and near.mean() > 0.5 and ((times > lowest) & (times < highest)).mean() > 0.5:
                found[str(column)] = times
    for name, covariate in recording.covariates.items():
        if covariate.times is None or not len(covariate.times):
            continue
        if covariate.spec.kind == "event":
            found[name] = covariate.times
        elif covariate.spec.kind == "categorical":
            rows = np.flatnonzero(covariate.observed)
            changed = np.flatnonzero(np.diff(covariate.values[rows])) + 1
            if len(changed):
                found[name] = covariate.times[rows[changed]]
    return found
