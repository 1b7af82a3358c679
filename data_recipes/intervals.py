"""Sets of intervals in time, and covariates that hold for as long as an interval lasts; reads no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_recipes.cleaning import Tally, trial_table
from data_recipes.mapping import covariate
from foundation.recording import Covariate


def union(intervals: np.ndarray) -> np.ndarray:
    """Sorted, disjoint intervals `(I, 2)` that cover what `intervals` (any order, may overlap) do."""
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    if not len(intervals):
        return np.zeros((0, 2))
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    first = np.append(True, intervals[1:, 0] > reach[:-1])
    return np.stack([intervals[first, 0], reach[np.append(np.flatnonzero(first)[1:] - 1, len(reach) - 1)]], axis=1)


def inside(times: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Which of `times` lie in `[start, stop)` of any of sorted, disjoint `intervals` `(I, 2)`."""
    row = intervals[:, 0].searchsorted(times, side="right") - 1
    return (row >= 0) & (times < np.append(intervals[:, 1], -np.inf)[row])


@dataclass(frozen=True)
class Seen:
    """Where a covariate is observed: in any of `within` (everywhere if that is None), and in none of `without`, s."""

    within: np.ndarray | None = None
    without: np.ndarray | None = None

    @classmethod
    def of(cls, entry: dict[str, Any], bounds: Callable[[str], np.ndarray]) -> Seen:
        """From `observed_in` and `unobserved_in` of an entry, each a name of intervals or a list of them.

        Args:
            entry: Of a covariate.
            bounds: Intervals `(I, 2)` of a name.
        """
        sets = []
        for key in ("observed_in", "unobserved_in"):
            names = names_in(entry, key)
            sets.append(union(np.concatenate([bounds(name) for name in names])) if names else None)
        return cls(*sets)

    def hidden(self, times: np.ndarray) -> np.ndarray:
        """At which of `times` `(M,)` it is not observed."""
        out = np.zeros(len(times), bool)
        if self.within is not None:
            out |= ~inside(times, self.within)
        if self.without is not None:
            out |= inside(times, self.without)
        return out


def names_in(entry: dict[str, Any], key: str) -> list[str]:
    """The names that an entry has at a key: none, one or a list."""
    names = entry.get(key, [])
    return list(names) if isinstance(names, list) else [names]


def state_covariate(
    where: str,
    name: str,
    entry: dict[str, Any],
    sets: list[np.ndarray],
    begin_s: float,
    tally: Tally,
    seen: Seen | None = None,
) -> Covariate:
    """Of one set of intervals, 0 outside and 1 inside; of several, the number of the set, not observed outside.

    Args:
        where: Named in errors.
        name: Of the covariate.
        entry: See `data_recipes.mapping`.
        sets: Each `(I, 2)` s, in any order.
        begin_s: From when on it is known that no interval holds.
        tally: Counts samples that are left out.
        seen: Where it is observed; None for everywhere.

    Raises:
        ValueError: Intervals of two sets overlap.
    """
    sets = [union(intervals[np.isfinite(intervals).all(axis=1)]) for intervals in sets]
    bounds = np.concatenate(sets)
    bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
    if (bounds[1:, 0] < bounds[:-1, 1]).any():
        raise ValueError(f"{where}: covariate {name!r}: intervals overlap, expected one state at a time")
    seen = seen or Seen()
    limits = [part.ravel() for part in (seen.within, seen.without) if part is not None]
    times = np.unique(np.concatenate([[begin_s], bounds.ravel(), *limits]))
    # Intervals are half-open: what holds at an edge holds until the next.
    values = np.full(len(times), 0 if len(sets) == 1 else -1)
    for number, intervals in enumerate(sets):
        values[inside(times, intervals)] = 1 if len(sets) == 1 else number
    entry = {"kind": "categorical", "num_classes": max(2, len(sets)), "missing": [-1]} | entry
    return covariate(where, name, entry, values, times, tally, seen.hidden(times))


def label_covariate(
    where: str, name: str, entry: dict[str, Any], bounds: np.ndarray, values: np.ndarray, tally: Tally
) -> Covariate:
    """A value for as long as its interval lasts, not observed between intervals.

    Args:
        where: Named in errors.
        name: Of the covariate.
        entry: See `data_recipes.mapping`.
        bounds: `(I, 2)` s, in any order; one that runs into the next is cut there and counted.
        values: `(I,)` numbers, booleans or text.
        tally: Counts intervals that are left out or cut.

    Raises:
        ValueError: Not one value an interval.
    """
    if values.ndim != 1 or len(values) != len(bounds):
        raise ValueError(
            f"{where}: covariate {name!r}: {values.shape} values of {len(bounds)} intervals, expected one each"
        )
    if {"observed_in", "unobserved_in"} & set(entry):
        raise ValueError(
            f"{where}: covariate {name!r}: is observed in its intervals, not in observed_in; leave that out"
        )
    own = Tally()
    table, rows = trial_table(bounds[:, 0], bounds[:, 1], own)
    tally.add(f"{name} intervals out", len(bounds) - len(rows))
    tally.add(
        f"{name} intervals cut at the start of the next", own.counts.get("trials cut at the start of the next", 0)
    )
    times = table[["start_s", "stop_s"]].to_numpy(float).ravel()
    entry = {"resample": "last"} | entry
    return covariate(where, name, entry, np.repeat(values[rows], 2), times, tally, np.tile([False, True], len(rows)))
