"""What every recipe does to raw arrays before they are a recording: order, count, leave out. Opens no file.

Nothing is left out silently: a `Tally` counts what came in, what was left out and why, and becomes
`RecordingInfo.counts`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from foundation.recording import Covariate, CovariateSpec, empty_trials

# A mean rate of the units outside of this says that times or bins are not in seconds.
PLAUSIBLE_HZ = (0.05, 500.0)


class Tally:
    """Numbers of things in, out by reason, and kept."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str, number: int) -> None:
        """Count `number` more of `name`; nothing is written for 0."""
        if number:
            self.counts[name] = self.counts.get(name, 0) + int(number)

    def keep(self, what: str, size: int, out: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which of `size` things to keep, counting each that goes under the first reason that it meets.

        Args:
            what: Such as "units".
            size: Number of things that came in.
            out: By reason, `(size,)` bool, True for what goes.

        Returns:
            `(size,)` bool, True for what stays.
        """
        kept = np.ones(size, bool)
        self.add(f"{what} in", size)
        for reason, mask in out.items():
            self.add(f"{what} out: {reason}", int((kept & mask).sum()))
            kept &= ~mask
        self.counts[f"{what} kept"] = self.counts.get(f"{what} kept", 0) + int(kept.sum())
        return kept


def check_seconds(where: str, num_spikes: int, num_units: int, duration_s: float) -> None:
    """Raise ValueError when the mean rate of the units shows that spike times are not in seconds."""
    rate = num_spikes / max(num_units * duration_s, 1e-9)
    if num_spikes and not PLAUSIBLE_HZ[0] <= rate <= PLAUSIBLE_HZ[1]:
        raise ValueError(
            f"{where}: {num_spikes} spikes of {num_units} units in {duration_s:.6g} s are {rate:.3g} Hz per unit, "
            f"expected {PLAUSIBLE_HZ[0]:g} to {PLAUSIBLE_HZ[1]:g}. Are times or bin_size_s in milliseconds or samples? "
            "Give seconds, and leave silent units out"
        )


def check_clock(where: str, times: np.ndarray, span: tuple[float, float]) -> None:
    """Raise ValueError when most of `times` (s) lie outside the span (s) of the spikes."""
    finite = times[np.isfinite(times)]
    inside = (finite >= span[0]) & (finite <= span[1])
    if len(finite) and inside.mean() < 0.5:
        raise ValueError(
            f"{where}: {int((~inside).sum())} of {len(finite)} times lie outside the {span[0]:.6g} to {span[1]:.6g} s "
            f"of the spikes (they run from {finite.min():.6g} to {finite.max():.6g}). Are they in milliseconds, in "
            "samples, or on another clock? Give seconds on the clock of the spikes"
        )


def merge_trains(where: str, trains: list[np.ndarray], tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """One spike train per unit (s, any order) as sorted times `(K,)` float64 and unit rows `(K,)` int32.

    Times that are not finite or lie before 0 are left out and counted.
    """
    times = np.concatenate([np.asarray(train, np.float64).ravel() for train in trains]) if trains else np.zeros(0)
    rows = np.repeat(np.arange(len(trains), dtype=np.int32), [np.size(train) for train in trains])
    return sort_spikes(where, times, rows, tally)


def sort_spikes(where: str, times: np.ndarray, rows: np.ndarray, tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """Sorted times `(K,)` float64 and unit rows `(K,)` int32 of spikes in any order.

    Times that are not finite or lie before 0 are left out and counted.

    Raises:
        ValueError: The two have not one length, or no spike is left.
    """
    times, rows = np.asarray(times, np.float64), np.asarray(rows)
    if times.ndim != 1 or times.shape != rows.shape:
        raise ValueError(f"{where}: spike times {times.shape} and units {rows.shape}, expected vectors of one length")
    finite = np.isfinite(times)
    with np.errstate(invalid="ignore"):
        kept = tally.keep("spikes", len(times), {"time not finite": ~finite, "before 0 s": times < 0})
    if not kept.all():
        times, rows = times[kept], rows[kept]
    if not len(times):
        raise ValueError(f"{where}: no spike is left; see the thresholds of the recipe, or leave the session out")
    if (times[1:] < times[:-1]).any():
        order = np.argsort(times, kind="stable")
        times, rows = times[order], rows[order]
    return times, rows.astype(np.int32, copy=False)


def series(where: str, spec: CovariateSpec, times: np.ndarray, values: np.ndarray, tally: Tally) -> Covariate:
    """A covariate in time from samples in any order; NaN and infinite values are kept as not observed.

    Samples whose time is not finite or lies before 0 are left out and counted: a clock may start before the spikes.

    Args:
        where: Named in errors.
        spec: Scope `time`, `continuous` or `categorical` (negative class: not observed).
        times: `(M,)` seconds.
        values: `(M,)` or `(M, dim)`.
        tally: Counts samples left out and samples out of order.

    Raises:
        ValueError: Lengths differ.
    """
    times, values = np.asarray(times, np.float64), np.asarray(values)
    if times.ndim != 1 or len(values) != len(times):
        raise ValueError(f"{where}: {spec.name}: {len(values)} values at {len(times)} times, expected one value a time")
    finite = np.isfinite(times)
    with np.errstate(invalid="ignore"):
        kept = finite & ~(times < 0)
    tally.add(f"{spec.name} samples out: time not finite", int((~finite).sum()))
    tally.add(f"{spec.name} samples out: before 0 s", int((finite & ~kept).sum()))
    times, values = times[kept], values[kept]
    if (times[1:] < times[:-1]).any():
        tally.add(f"{spec.name} samples out of order", int((times[1:] < times[:-1]).sum()))
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    if spec.kind == "categorical":
        return Covariate.categorical(spec, values, times)
    return Covariate.continuous(spec, np.where(np.isfinite(values), values, np.nan), times)


def events(spec: CovariateSpec, times: np.ndarray, tally: Tally) -> Covariate:
    """Events at `times` (s, any order); those not finite or before 0 are left out and counted."""
    times = np.asarray(times, np.float64).ravel()
    finite = np.isfinite(times)
    tally.add(f"{spec.name} events out: time not finite", int((~finite).sum()))
    tally.add(f"{spec.name} events out: before 0 s", int((times[finite] < 0).sum()))
    return Covariate.events(spec, times[finite & (np.nan_to_num(times) >= 0)])


def trial_table(start_s: np.ndarray, stop_s: np.ndarray, tally: Tally) -> tuple[pd.DataFrame, np.ndarray]:
    """Trials in order of time, from bounds in any order.

    Trials without finite bounds, before 0, or that do not stop after their start are left out and counted; one that
    runs into the next is cut at the start of that and counted.

    Args:
        start_s: `(R,)` seconds.
        stop_s: `(R,)` seconds.
        tally: Counts trials in, out and cut.

    Returns:
        The table of `Recording.trials` (all usable), and the rows `(R',)` of the source that it holds, in its order;
        per-trial values of the source are to be indexed by these.
    """
    start, stop = np.asarray(start_s, np.float64), np.asarray(stop_s, np.float64)
    finite = np.isfinite(start) & np.isfinite(stop)
    with np.errstate(invalid="ignore"):
        out = {"bounds not finite": ~finite, "before 0 s": start < 0, "stop not after start": stop <= start}
        kept = tally.keep("trials", len(start), out)
    rows = np.flatnonzero(kept)
    tally.add("trials out of order", int((np.diff(start[rows]) < 0).sum()))
    rows = rows[np.argsort(start[rows], kind="stable")]
    twice = np.append(start[rows][1:] == start[rows][:-1], False)
    tally.add("trials out: same start as the next", int(twice.sum()))
    tally.add("trials kept", -int(twice.sum()))
    rows = rows[~twice]
    if not len(rows):
        return empty_trials(), rows
    following = np.append(start[rows][1:], np.inf)
    tally.add("trials cut at the start of the next", int((stop[rows] > following).sum()))
    table = pd.DataFrame(
        {"start_s": start[rows], "stop_s": np.minimum(stop[rows], following), "usable": True, "source_index": rows}
    )
    return table, rows


def domain_without(span: tuple[float, float], gaps: np.ndarray) -> np.ndarray:
    """Half-open intervals `(I, 2)` of a span (s) that no gap `(G, 2)` (s, any order, may overlap) covers.

    Raises:
        ValueError: Nothing is left.
    """
    intervals, at = [], span[0]
    for start, stop in sorted((float(a), float(b)) for a, b in np.asarray(gaps, float).reshape(-1, 2)):
        if start > at:
            intervals.append((at, min(start, span[1])))
        at = max(at, stop)
        if at >= span[1]:
            break
    if at < span[1]:
        intervals.append((at, span[1]))
    kept = [(a, b) for a, b in intervals if b > a]
    if not kept:
        raise ValueError(f"invalid intervals cover all of {span[0]:.6g} to {span[1]:.6g} s; leave the session out")
    return np.array(kept)
