"""What every recipe does to raw arrays before they are a recording: order, count, leave out. Opens no file.

Nothing is left out silently: a `Tally` counts what came in, what was left out and why, and becomes
`RecordingInfo.counts`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_recipes.runs import merge_runs
from foundation.recording import Covariate, CovariateSpec, empty_trials

# A mean rate of the units outside of this says that times or bins are not in seconds.
PLAUSIBLE_HZ = (0.05, 500.0)
FEW_SPIKES = 30
# See `silent_gaps`.
SILENCE_S, SILENCE_SPIKES = 5.0, 100
# Merging runs that are shorter on average takes longer than sorting all spikes.
_SPIKES_PER_RUN = 512
_CHUNK = 2**20
_NO_SPIKE = "{}: no spike is left; see the thresholds of the recipe, or leave the session out"


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
    """Raise ValueError when the mean rate of the units shows that spike times are not in seconds.

    A handful of spikes within a moment shows nothing.
    """
    rate = num_spikes / max(num_units * duration_s, 1e-9)
    too_high = rate > PLAUSIBLE_HZ[1] and num_spikes >= FEW_SPIKES
    if num_spikes and (too_high or rate < PLAUSIBLE_HZ[0]):
        raise ValueError(
            f"{where}: {num_spikes} spikes of {num_units} units in {duration_s:.6g} s are {rate:.3g} Hz per unit, "
            f"expected {PLAUSIBLE_HZ[0]:g} to {PLAUSIBLE_HZ[1]:g}. Are times or bin_size_s in milliseconds or samples? "
            "Give seconds, and leave silent units out"
        )


def check_clock(where: str, times: np.ndarray, span: tuple[float, float]) -> None:
    """Raise ValueError when most of `times` (s) lie outside the span (s) of the spikes."""
    finite = np.isfinite(times)
    if not finite.all():
        times = times[finite]
    inside = (times >= span[0]) & (times <= span[1])
    if len(times) and inside.mean() < 0.5:
        raise ValueError(
            f"{where}: {int((~inside).sum())} of {len(times)} times lie outside the {span[0]:.6g} to {span[1]:.6g} s "
            f"of the spikes (they run from {times.min():.6g} to {times.max():.6g}). Are they in milliseconds, in "
            "samples, or on another clock? Give seconds on the clock of the spikes"
        )


def merge_trains(where: str, trains: list[np.ndarray], tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """One spike train per unit (s, any order) as sorted times `(K,)` float64 and unit rows `(K,)` int32.

    Times that are not finite or lie before 0 are left out and counted. Equal times keep the order of the units. No
    spike is copied but into the result, unless its train has to be cleaned or sorted.

    Raises:
        ValueError: No spike is left.
    """
    times, rows = [], []
    for row, train in enumerate(trains):
        train = np.asarray(train, np.float64).ravel()
        kept = _usable(train, tally)
        if not kept.all():
            train = train[kept]
        times.append(np.sort(train) if (train[1:] < train[:-1]).any() else train)
        rows.append(np.broadcast_to(np.int32(row), len(train)))
    if not any(map(len, times)):
        raise ValueError(_NO_SPIKE.format(where))
    return merge_runs(times, rows)


def sort_spikes(where: str, times: np.ndarray, rows: np.ndarray, tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """Sorted times `(K,)` float64 and unit rows `(K,)` int32 of spikes in any order.

    Times that are not finite or lie before 0 are left out and counted.

    Raises:
        ValueError: The two have not one length, or no spike is left.
    """
    times, rows = np.asarray(times, np.float64), np.asarray(rows)
    if times.ndim != 1 or times.shape != rows.shape:
        raise ValueError(f"{where}: spike times {times.shape} and units {rows.shape}, expected vectors of one length")
    kept = _usable(times, tally)
    if not kept.all():
        times, rows = times[kept], rows[kept]
    if not len(times):
        raise ValueError(_NO_SPIKE.format(where))
    falls = np.flatnonzero(times[1:] < times[:-1]) + 1
    if 0 < len(falls) <= len(times) // _SPIKES_PER_RUN:
        return merge_runs(np.split(times, falls), np.split(rows, falls))
    if len(falls):
        order = np.argsort(times, kind="stable")
        times, rows = times[order], rows[order]
    return times, rows.astype(np.int32, copy=False)


def _usable(times: np.ndarray, tally: Tally) -> np.ndarray:
    """Which spike times can be kept, counting them."""
    with np.errstate(invalid="ignore"):
        return tally.keep("spikes", len(times), {"time not finite": ~np.isfinite(times), "before 0 s": times < 0})


def count_spikes(rows: np.ndarray, num_units: int) -> np.ndarray:
    """Spikes `(N,)` int64 of each unit; `np.bincount` of all rows at once would widen them to 8 bytes each."""
    counts = np.zeros(num_units, np.int64)
    for start in range(0, len(rows), _CHUNK):
        counts += np.bincount(rows[start : start + _CHUNK], minlength=num_units)
    return counts


def silent_gaps(times: np.ndarray, tally: Tally) -> np.ndarray:
    """Stretches `(G, 2)` s without a spike of any unit, too long for chance: the data were lost, or a time is wrong.

    A stretch counts when it lasts 5 s and 100 spikes would be expected in it at the mean rate of all units.

    Args:
        times: `(K,)` seconds of all units, sorted and finite.
        tally: Counts the stretches, and their whole seconds.
    """
    if len(times) < 2 or times[-1] <= times[0]:
        return np.zeros((0, 2))
    least = max(SILENCE_S, SILENCE_SPIKES * (times[-1] - times[0]) / len(times))
    # Every thousandth spike first: a long stretch lies between two of these that are as far apart.
    at = np.append(np.arange(0, len(times) - 1, 1000), len(times) - 1)
    gaps = []
    for first in np.flatnonzero(np.diff(times[at]) >= least):
        part = times[at[first] : at[first + 1] + 1]
        gaps += [(np.nextafter(part[k], np.inf), part[k + 1]) for k in np.flatnonzero(np.diff(part) >= least)]
    tally.add("stretches without any spike out", len(gaps))
    tally.add("seconds out: no spike of any unit", int(sum(stop - start for start, stop in gaps)))
    return np.array(gaps).reshape(-1, 2)


def numbers(where: str, table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as `(R,)` float64; what is missing is NaN, and text that is a number is one.

    Raises:
        ValueError: No such column, or values that are not numbers.
    """
    if name not in table:
        raise ValueError(f"{where}: no column {name!r}, expected it among {[str(c) for c in table.columns]}")
    try:
        column = pd.to_numeric(table[name]) if table[name].dtype.kind not in "Mmc" else table[name]
        if column.dtype.kind in "biuf":
            return column.to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError):  # text, lists
        pass
    raise ValueError(
        f"{where}: column {name!r} holds {table[name].dtype}, such as {table[name].iloc[0]!r}, not numbers"
    )


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
    if times.ndim != 1 or values.shape != times.shape + (spec.dim,)[: spec.dim > 1]:
        raise ValueError(
            f"{where}: {spec.name}: values {values.shape} at times {times.shape}, expected {spec.dim} values a time"
        )
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where}: {spec.name}: values of type {values.dtype}, expected numbers")
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
    twice = np.append(start[rows][1:] == start[rows][:-1], False)[: len(rows)]
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

    A gap that does not stop after its start covers nothing.

    Raises:
        ValueError: Nothing is left.
    """
    intervals, at = [], span[0]
    for start, stop in sorted((float(a), float(b)) for a, b in np.asarray(gaps, float).reshape(-1, 2) if b > a):
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
