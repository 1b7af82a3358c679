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

from eval.doctor_clock import MAX_LAG_S, Clock, time_signals
from foundation.recording import Recording

MAX_UNITS, MAX_COMPONENTS = 64, 16
# A control window this far from zero lag shares nothing with the profile.
GUARD_S = 6.0
# A signal that repeats itself this well at another lag fits there too.
PERIODIC = 0.5
# Fewer seconds of samples say nothing.
MIN_SEEN_S = 10.0
# Fewer windows of controls than this cannot tell a relation from chance.
MIN_CONTROLS = 20


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
        paired: Share of the bins that have a partner at the lag of the peak; less than 1 in a domain cut into trials.
        best_elsewhere_s: Lag of the highest point outside of the profile; NaN in a domain cut into trials, and
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
    paired: float
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
        if y.any() and seen.sum() * clock.bin_size_s >= MIN_SEEN_S:
            found.append(_align_one(name, kind, y, seen, activity, spectrum, inside, length, clock))
    return found


def components(recording: Recording, clock: Clock) -> np.ndarray:
    """Whitened leading principal components `(L, P)` float32 of the square-root counts of the busiest units."""
    number = np.bincount(recording.spike_units, minlength=recording.num_units)
    chosen = np.argsort(-number, kind="stable")[:MAX_UNITS]
    column = np.full(recording.num_units, -1, np.int64)
    column[chosen] = np.arange(len(chosen))
    counts = clock.table(recording.spike_times, recording.spike_units, column, len(chosen))
    x = clock.high_pass(np.sqrt(counts), clock.mask)
    values, vectors = np.linalg.eigh(x.T @ x / max(1, int(clock.mask.sum())))
    keep = np.argsort(-values)[:MAX_COMPONENTS]
    keep = keep[values[keep] > 1e-6]
    return x @ (vectors[:, keep] / np.sqrt(values[keep])).astype(np.float32)


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
    elsewhere -= length * (elsewhere > length / 2)
    return Alignment(
        signal=name,
        kind=kind,
        lag_s=(peak - window) * clock.bin_size_s,
        z=(float(near[peak]) - mean) / sd,
        p=(1 + int((blocks >= near[peak]).sum())) / (1 + len(blocks)),
        at_zero=(float(near[window]) - mean) / max(float(near[peak]) - mean, 1e-12),
        paired=float(overlap[peak - window] / max(overlap[0], 1e-9)),
        best_elsewhere_s=elsewhere * clock.bin_size_s if clock.whole else float("nan"),
        z_elsewhere=(float(r2[elsewhere]) - mean) / sd if clock.whole else float("nan"),
        periodic=bool(repeats[guard : length - guard].max(initial=0) > PERIODIC),
        drift_s=_drift(activity, y, seen, window) * clock.bin_size_s,
        lags_s=np.arange(-window, window + 1) * clock.bin_size_s,
        profile=near,
        control=(mean, float(np.quantile(controls, 0.99))),
    )


def _drift(activity: np.ndarray, y: np.ndarray, seen: np.ndarray, window: int) -> float:
    """Bins by which the cross-correlograms of the first seen half must be moved to look like those of the second."""
    cut = int(np.median(np.flatnonzero(seen)))
    first, second = (_correlograms(activity[part], y[part], window) for part in (slice(0, cut), slice(cut, None)))
    shifts = np.arange(-window, window + 1)
    alike = np.array([_overlap_correlation(first, second, int(shift)) for shift in shifts])
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
