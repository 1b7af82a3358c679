"""Whether spikes and behavior of a recording run on one clock: lag profiles against shifted controls. Draws nothing.

For every signal (a covariate in time, its rate of change, events, trial starts, time columns of the trials table) the
profile R²(k) is the share of the signal's variance that the leading principal components of the units explain when read
k bins after it. The components are whitened, so R² is the sum of their squared correlations, and one FFT gives all lags
at once: those within `MAX_LAG_S` are the profile, all others are the circularly shifted controls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from foundation.binning import bin_covariate
from foundation.recording import Recording

BIN_S = 0.05
MAX_LAG_S = 2.0
# Slower changes than this are drift of the rig or of arousal: they have no lag.
SLOWEST_S = 10.0
MAX_UNITS, MAX_COMPONENTS = 64, 16
# A control window this far from zero lag shares nothing with the profile.
GUARD_S = 6.0
# A signal that repeats itself this well at another lag fits there too.
PERIODIC = 0.5
# Fewer windows of controls than this cannot tell a relation from chance.
MIN_CONTROLS = 20


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
        """Bins of about `bin_size_s`: a whole multiple of what the recording allows, and at least that long."""
        finest = recording.info.min_bin_size_s
        size = finest * max(1, round(bin_size_s / finest)) if finest else bin_size_s
        num = np.floor((recording.domain[:, 1] - recording.domain[:, 0]) / size + 1e-6).astype(np.int64)
        start, num = recording.domain[num > 0, 0], num[num > 0]
        gap = np.append(start[1:], np.inf) - (start + num * size)
        pad = np.minimum(np.round(gap / size, 0), round(MAX_LAG_S / size)).astype(np.int64)
        first = np.cumsum(num + pad) - (num + pad)
        mask = np.zeros(int((num + pad).sum()), bool)
        for at, bins in zip(first, num):
            mask[at : at + bins] = True
        return cls(size, start, num, first, mask)

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


@dataclass(frozen=True)
class Alignment:
    """How one signal sits on the spikes of one recording.

    Attributes:
        signal: Such as "wheel_speed", "change of position" or "trial start".
        kind: `behavior`, `stimulus` or `task`; "trial" for times of the trials table.
        lag_s: Where the profile peaks; positive when spikes follow the signal.
        z: Height of the peak in standard deviations of the controls.
        p: Share of the windows of controls, each as wide as the profile, whose highest point is no lower.
        at_zero: Height at zero lag as a share of the peak, both above the mean of the controls.
        best_elsewhere_s: Lag of the highest point outside of the profile, and
        z_elsewhere: its height.
        periodic: The signal repeats itself, so that controls fit as well as the profile.
        drift_s: By how much the second half of the session lags behind the first; NaN where either shows no relation.
        lags_s: `(2H+1,)` lags of the profile.
        profile: `(2H+1,)` R².
        control: Mean and 99th percentile of R² over the controls.
    """

    signal: str
    kind: str
    lag_s: float
    z: float
    p: float
    at_zero: float
    best_elsewhere_s: float
    z_elsewhere: float
    periodic: bool
    drift_s: float
    lags_s: np.ndarray
    profile: np.ndarray
    control: tuple[float, float]

    @property
    def related(self) -> bool:
        """Whether spikes and signal have to do with each other within `MAX_LAG_S`."""
        return self.z >= 6 and self.p <= 0.05


def align(recording: Recording) -> list[Alignment]:
    """Lag profile of every signal of a recording; empty when it has none or is too short for controls."""
    clock = Clock.of(recording)
    windows = (len(clock.mask) - 2 * GUARD_S / clock.bin_size_s) / (2 * MAX_LAG_S / clock.bin_size_s + 1)
    signals = time_signals(recording, clock)
    if windows < MIN_CONTROLS or not signals:
        return []
    activity = components(recording, clock)
    length = fft.next_fast_len(len(clock.mask), real=True)
    spectrum = fft.rfft(activity, length, axis=0)
    inside = fft.rfft(clock.mask.astype(np.float32), length)
    found = []
    for name, (kind, values, seen) in signals.items():
        y = clock.high_pass(values, seen)
        if y.any():
            found.append(_align_one(name, kind, y, seen, activity, spectrum, inside, length, clock))
    return found


def components(recording: Recording, clock: Clock) -> np.ndarray:
    """Whitened leading principal components `(L, P)` float32 of the square-root counts of the busiest units."""
    number = np.bincount(recording.spike_units, minlength=recording.num_units)
    chosen = np.argsort(-number, kind="stable")[:MAX_UNITS]
    column = np.full(recording.num_units, -1, np.int64)
    column[chosen] = np.arange(len(chosen))
    counts = np.zeros(len(clock.mask) * len(chosen), np.float32)
    for lo in range(0, len(recording.spike_times), 2_000_000):
        where = column[recording.spike_units[lo : lo + 2_000_000]]
        mine = np.flatnonzero(where >= 0)
        bins = clock.bins(recording.spike_times[lo : lo + 2_000_000][mine])
        cell = bins[bins >= 0] * len(chosen) + where[mine][bins >= 0]
        cells, times = np.unique(cell, return_counts=True)
        counts[cells] += times
    x = clock.high_pass(np.sqrt(counts).reshape(len(clock.mask), len(chosen)), clock.mask)
    values, vectors = np.linalg.eigh(x.T @ x / max(1, int(clock.mask.sum())))
    keep = np.argsort(-values)[:MAX_COMPONENTS]
    keep = keep[values[keep] > 1e-6]
    return x @ (vectors[:, keep] / np.sqrt(values[keep])).astype(np.float32)


def time_signals(recording: Recording, clock: Clock) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Name to kind, values `(L,)` or `(L, dim)` and seen `(L,)` of everything in a recording that has a time."""
    signals: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}
    for name, times in event_times(recording).items():
        kind = recording.covariates[name].spec.role if name in recording.covariates else "trial"
        signals[name] = (kind, clock.counts(times), clock.mask)
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


def _align_one(
    name: str,
    kind: str,
    y: np.ndarray,
    seen: np.ndarray,
    activity: np.ndarray,
    spectrum: np.ndarray,
    inside: np.ndarray,
    length: int,
    clock: Clock,
) -> Alignment:
    window, guard = round(MAX_LAG_S / clock.bin_size_s), round(GUARD_S / clock.bin_size_s)
    y = y.reshape(len(y), -1)
    overlap = fft.irfft(inside * fft.rfft(seen.astype(np.float32), length).conj(), length)
    enough = overlap > 0.1 * overlap[0]
    r2, repeats = np.zeros(length), np.zeros(length)
    for column in y.T:
        other = fft.rfft(column, length).conj()[:, None]
        crossed = fft.irfft(spectrum * other, length, axis=0)
        r2 += (crossed.astype(np.float64) ** 2).sum(axis=1) / y.shape[1]
        own = fft.irfft(other[:, 0] * other[:, 0].conj(), length)
        repeats = np.maximum(repeats, own / max(own[0], 1e-9))
    # Of R² at chance, 1/n is the mean at every lag, whatever the overlap n.
    r2 = np.where(enough, r2 / np.maximum(overlap, 1) / max(float(seen.sum()), 1.0), 0)
    near = r2[np.arange(-window, window + 1)]
    outside = np.arange(window + 1, length - window)
    outside = outside[enough[outside]]
    controls = r2[outside[(outside >= guard) & (outside <= length - guard)]]
    mean, sd = float(controls.mean()), float(controls.std()) + 1e-12
    blocks = controls[: len(controls) // len(near) * len(near)].reshape(-1, len(near)).max(axis=1)
    peak, elsewhere = int(np.argmax(near)), int(outside[np.argmax(r2[outside])])
    return Alignment(
        signal=name,
        kind=kind,
        lag_s=(peak - window) * clock.bin_size_s,
        z=(float(near[peak]) - mean) / sd,
        p=(1 + int((blocks >= near[peak]).sum())) / (1 + len(blocks)),
        at_zero=(float(near[window]) - mean) / max(float(near[peak]) - mean, 1e-12),
        best_elsewhere_s=(elsewhere if elsewhere < length / 2 else elsewhere - length) * clock.bin_size_s,
        z_elsewhere=(float(r2[elsewhere]) - mean) / sd,
        periodic=bool(repeats[guard : length - guard].max(initial=0) > PERIODIC),
        drift_s=_drift(activity, y, window) * clock.bin_size_s,
        lags_s=np.arange(-window, window + 1) * clock.bin_size_s,
        profile=near,
        control=(mean, float(np.quantile(controls, 0.99))),
    )


def _drift(activity: np.ndarray, y: np.ndarray, window: int) -> float:
    """Bins by which the cross-correlograms of the second half must be moved to look like those of the first."""
    cut = len(y) // 2
    halves = [_correlograms(activity[part], y[part], window) for part in (slice(0, cut), slice(cut, None))]
    shifts = np.arange(-window, window + 1)
    alike = np.array([_overlap_correlation(*halves, int(shift)) for shift in shifts])
    best = int(np.argmax(alike))
    if alike[best] < 0.5 or alike[best] - alike[window] < 0.1:
        return 0.0 if alike[window] >= 0.3 else float("nan")
    return float(shifts[best])


def _correlograms(x: np.ndarray, y: np.ndarray, window: int) -> np.ndarray:
    """Cross-correlograms `(2H+1, P * dim)` of components and signal within the window."""
    length = fft.next_fast_len(len(y) + window, real=True)
    spectrum = fft.rfft(x, length, axis=0)
    lags = np.arange(-window, window + 1)
    parts = [fft.irfft(spectrum * fft.rfft(column, length).conj()[:, None], length, axis=0)[lags] for column in y.T]
    return np.concatenate(parts, axis=1)


def _overlap_correlation(first: np.ndarray, second: np.ndarray, shift: int) -> float:
    """Correlation of `first` at lag k with `second` at lag k + shift, over the lags that both have."""
    size = len(first) - abs(shift)
    if size < len(first) // 2:
        return -1.0
    a = first[max(0, -shift) :][:size].ravel()
    b = second[max(0, shift) :][:size].ravel()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else 0.0
