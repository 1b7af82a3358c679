"""Merging sorted trains equals a stable sort of all spikes, and what `cleaning` builds on it equals plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from data_recipes.cleaning import Tally, count_spikes, merge_trains, sort_spikes
from data_recipes.runs import merge_runs


def runs_of(rng: np.random.Generator, sizes: list[int], clock_hz: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sorted runs on a clock so coarse that many times are equal, each of several units."""
    times = [np.sort(rng.integers(0, round(20 * clock_hz), size)) / clock_hz for size in sizes]
    return times, [rng.integers(0, 5, size).astype(np.int32) for size in sizes]


@pytest.mark.parametrize("sizes", [[7], [0, 3, 0], [1, 1, 1], [500, 0, 4000, 63, 64, 65], [200] * 40])
@pytest.mark.parametrize("clock_hz", [3.0, 1000.0, 30_000.0])
@pytest.mark.parametrize("block", [1, 64, 300, 2**18])
def test_merging_is_a_stable_sort(sizes: list[int], clock_hz: float, block: int) -> None:
    times, rows = runs_of(np.random.default_rng(len(sizes)), sizes, clock_hz)
    order = np.argsort(np.concatenate(times), kind="stable")
    merged, merged_rows = merge_runs(times, rows, block)
    assert (merged.dtype, merged_rows.dtype) == (np.float64, np.int32)
    np.testing.assert_array_equal(merged, np.concatenate(times)[order])
    np.testing.assert_array_equal(merged_rows, np.concatenate(rows)[order])


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 5e-324, 0.0, 1e-300],  # the smallest numbers there are
        [1e15, 0.0, 1e-9, 1e15],
        [3600.0, np.nextafter(3600, 0), np.nextafter(3600, np.inf), 3600.0],
        [2.0] * 10,
    ],
)
def test_times_that_are_not_spread_evenly(values: list[float]) -> None:
    runs = [np.sort(values[:2]), np.sort(values[2:])]
    rows = [np.zeros(len(runs[0]), np.int32), np.ones(len(runs[1]), np.int32)]
    order = np.argsort(np.concatenate(runs), kind="stable")
    merged, merged_rows = merge_runs(runs, rows)
    np.testing.assert_array_equal(merged, np.concatenate(runs)[order])
    np.testing.assert_array_equal(merged_rows, np.concatenate(rows)[order])


@pytest.mark.parametrize("num_runs", [1, 2, 30, 20_000])
def test_sorting_runs_and_disorder_alike(num_runs: int) -> None:
    """From one run, which stays as it is, over few long ones to spikes in no order."""
    rng = np.random.default_rng(num_runs)
    times = np.concatenate([np.sort(part) for part in np.array_split(rng.integers(0, 9999, 40_000) / 500, num_runs)])
    rows = rng.integers(0, 7, len(times))
    dirty = times.copy()
    dirty[[5, 17]] = np.nan, -1.0
    for values, out in ((times, 0), (dirty, 2)):
        kept = values >= 0
        order = np.argsort(values[kept], kind="stable")
        tally = Tally()
        found, units = sort_spikes("here", values, rows, tally)
        np.testing.assert_array_equal(found, values[kept][order])
        np.testing.assert_array_equal(units, rows[kept][order])
        assert tally.counts["spikes in"] - tally.counts["spikes kept"] == out


def test_trains_of_units() -> None:
    rng = np.random.default_rng(0)
    trains = [rng.integers(0, 999, size) / 8 for size in (300, 0, 1, 50)]
    trains[3][[0, 1, 2]] = np.nan, np.inf, -0.5
    given = [train.copy() for train in trains]
    tally = Tally()
    times, rows = merge_trains("here", trains, tally)
    expected = sorted((t, k) for k, train in enumerate(trains) for t in train if np.isfinite(t) and t >= 0)
    assert list(zip(times, rows)) == expected
    assert tally.counts == {
        "spikes in": 351,
        "spikes out: time not finite": 2,
        "spikes out: before 0 s": 1,
        "spikes kept": 348,
    }
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(trains, given))
    np.testing.assert_array_equal(count_spikes(rows, 6), np.bincount(rows, minlength=6))
    for nothing in ([], [np.zeros(0)], [np.array([np.nan, -1.0])]):
        with pytest.raises(ValueError, match="here: no spike is left"):
            merge_trains("here", nothing, Tally())


def test_counting_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_recipes.cleaning._CHUNK", 7)
    rows = np.random.default_rng(0).integers(0, 4, 100).astype(np.int32)
    np.testing.assert_array_equal(count_spikes(rows, 5), np.bincount(rows, minlength=5))
