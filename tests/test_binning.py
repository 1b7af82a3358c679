"""Binning against naive loops in exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundation.binning import bin_covariate, bin_events, bin_spikes, check_bin_size
from foundation.recording import Covariate, CovariateSpec, Recording

Tiny = Callable[..., Recording]
EPS = Fraction(1, 10**9)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def grids(draw: st.DrawFn) -> tuple[float, int, float]:
    """Start (s), number of bins and bin size (s), as an hour-long session may have them."""
    bin_size_s = draw(st.sampled_from([0.001, 0.005, 0.01, 0.02, 0.025, 0.1, 1 / 3]))
    return draw(st.floats(0, 4000)), draw(st.integers(1, 12)), bin_size_s


@st.composite
def times_near(draw: st.DrawFn, start_s: float, num_bins: int, bin_size_s: float) -> np.ndarray:
    """Sorted times around a stretch, many of them exactly on edges of bins."""
    edge = st.integers(-2, num_bins + 2).map(lambda k: start_s + k * bin_size_s)
    inside = st.floats(-2.0, num_bins + 2.0).map(lambda k: start_s + (k + 0.0123) * bin_size_s)
    drawn = draw(st.lists(edge | inside, max_size=30))
    return np.sort(np.maximum(np.array(drawn, dtype=float), 0.0))


def naive_bin(time: float, start_s: float, bin_size_s: float) -> int:
    return floor((Fraction(time) - Fraction(start_s) + EPS) / Fraction(bin_size_s))


@given(data=st.data(), grid=grids())
@SETTINGS
def test_spikes_equal_a_loop(tiny_recording: Tiny, data: st.DataObject, grid: tuple[float, int, float]) -> None:
    start_s, num_bins, bin_size_s = grid
    times = data.draw(times_near(*grid))
    units = np.array([data.draw(st.integers(0, 2)) for _ in times], np.int32)
    expected = np.zeros((num_bins, 3), np.uint8)
    for time, unit in zip(times, units):
        k = naive_bin(time, start_s, bin_size_s)
        if 0 <= k < num_bins:
            expected[k, unit] += 1
    recording = tiny_recording(spike_times=times, spike_units=units)
    counts = bin_spikes(recording, start_s, num_bins, bin_size_s)
    assert counts.dtype == np.uint8
    assert counts.tolist() == expected.tolist()
    assert bin_events(times, start_s, num_bins, bin_size_s).tolist() == expected.sum(axis=1).tolist()


def test_counts_saturate(tiny_recording: Tiny) -> None:
    for number, expected in ((255, 255), (256, 255), (1000, 255)):
        recording = tiny_recording(spike_times=np.full(number, 1.5), spike_units=np.ones(number, np.int32))
        assert bin_spikes(recording, 1.0, 1, 1.0).tolist() == [[0, expected, 0]]


def test_busy_bins_count_like_quiet_ones(tiny_recording: Tiny) -> None:
    """More than 255 spikes of all units in a bin take another way than fewer do."""
    rng = np.random.default_rng(0)
    for number in (200, 2000):
        units = rng.integers(0, 3, number).astype(np.int32)
        times = np.sort(rng.uniform(0, 2, number))
        expected = np.array([np.histogram(times[units == u], bins=[0, 1, 2])[0] for u in range(3)]).T
        counts = bin_spikes(tiny_recording(spike_times=times, spike_units=units), 0.0, 2, 1.0)
        assert counts.tolist() == np.minimum(expected, 255).tolist()


def test_bins_add_up(tiny_recording: Tiny) -> None:
    """Coarse bins are sums of fine ones, and the whole session holds every spike once."""
    recording = tiny_recording()
    fine = bin_spikes(recording, 0.0, 4000, 0.01).astype(int)
    coarse = bin_spikes(recording, 0.0, 400, 0.1).astype(int)
    assert np.array_equal(fine.reshape(400, 10, 3).sum(axis=1), coarse)
    assert fine.sum(axis=0).tolist() == np.bincount(recording.spike_units).tolist()


def naive_covariate(
    covariate: Covariate, start_s: float, num_bins: int, bin_size_s: float, max_gap_s: float
) -> tuple[np.ndarray, np.ndarray]:
    spec, times = covariate.spec, covariate.times
    assert times is not None
    values = covariate.values.reshape(len(times), spec.dim).astype(np.float64)
    out, observed = np.zeros((num_bins, spec.dim)), np.zeros(num_bins, bool)
    where = [naive_bin(time, start_s, bin_size_s) for time in times]
    for k in range(num_bins):
        if spec.kind == "categorical" or spec.resample == "last":
            until = [i for i in range(len(times)) if where[i] <= k]
            if until and covariate.observed[until[-1]]:
                out[k], observed[k] = values[until[-1]], True
            continue
        inside = [i for i in range(len(times)) if where[i] == k and covariate.observed[i]]
        if inside:
            out[k], observed[k] = np.mean([values[i] for i in inside], axis=0), True
            continue
        center = start_s + (k + 0.5) * bin_size_s
        before = [i for i in range(len(times)) if covariate.observed[i] and times[i] < center]
        after = [i for i in range(len(times)) if covariate.observed[i] and times[i] >= center]
        if before and after and times[after[0]] - times[before[-1]] <= max(max_gap_s, 2 * bin_size_s) + 1e-9:
            i, j = before[-1], after[0]
            share = (center - times[i]) / (times[j] - times[i])
            out[k], observed[k] = (1 - share) * values[i] + share * values[j], True
    return out, observed


@given(data=st.data(), grid=grids(), kind=st.sampled_from(["mean", "last", "categorical"]), dim=st.integers(1, 2))
@SETTINGS
def test_covariates_equal_a_loop(data: st.DataObject, grid: tuple[float, int, float], kind: str, dim: int) -> None:
    times = data.draw(times_near(*grid))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    seen = rng.uniform(size=len(times)) < 0.8
    if kind == "categorical":
        spec = CovariateSpec("x", "categorical", "time", num_classes=5)
        covariate = Covariate.categorical(spec, np.where(seen, rng.integers(0, 5, len(times)), -1), times)
    else:
        spec = CovariateSpec("x", "continuous", "time", dim=dim, resample=kind)  # type: ignore[arg-type]
        values = np.where(seen[:, None], rng.normal(size=(len(times), dim)), np.nan)
        covariate = Covariate.continuous(spec, values if dim > 1 else values[:, 0], times)
    max_gap_s = data.draw(st.sampled_from([0.0, 0.05, 0.25]))
    values, observed = bin_covariate(covariate, *grid, max_gap_s=max_gap_s)
    expected, expected_observed = naive_covariate(covariate, *grid, max_gap_s=max_gap_s)
    assert values.shape == expected.shape
    assert values.dtype == np.float32
    assert observed.tolist() == expected_observed.tolist()
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_one_missing_bin_is_interpolated_wherever_it_stands() -> None:
    """Samples at bin centers, as many sources have: the two around a hole are two bins apart, but for rounding."""
    spec = CovariateSpec("x", "continuous", "time")
    for bin_size_s in (0.02, 0.025, 0.2, 1 / 3):
        times = bin_size_s * (np.arange(500) + 0.5)
        values = np.where(np.arange(500) % 3 == 1, np.nan, np.arange(500))
        binned, observed = bin_covariate(Covariate.continuous(spec, values, times), 0.0, 499, bin_size_s, max_gap_s=0)
        assert observed.all()
        np.testing.assert_allclose(binned[:, 0], np.arange(499), atol=1e-3)


def test_events_are_counted_and_always_observed() -> None:
    covariate = Covariate.events(CovariateSpec("lick", "event", "time"), np.array([0.1, 0.1, 0.35]))
    values, observed = bin_covariate(covariate, 0.0, 4, 0.1)
    assert values.tolist() == [[0], [2], [0], [1]]
    assert observed.all()


def test_a_value_of_the_future_is_never_read() -> None:
    spec = CovariateSpec("evidence", "continuous", "time", resample="last")
    covariate = Covariate.continuous(spec, np.array([1.0, 2.0]), np.array([0.05, 0.1]))
    values, observed = bin_covariate(covariate, 0.0, 3, 0.05)
    assert observed.tolist() == [False, True, True]
    assert values[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("bin_size_s", "finest", "valid"),
    [
        (0.02, 0.01, True),
        (0.01, 0.01, True),
        (0.07, 0.01, True),
        (0.1, 0.025, True),
        (0.005, 0.01, False),
        (0.015, 0.01, False),
        (0.02, 0.025, False),
        (0.0137, 0.0, True),
        (0.0, 0.0, False),
        (-0.01, 0.0, False),
        (float("nan"), 0.0, False),
        (float("inf"), 0.0, False),
    ],
)
def test_bin_sizes_that_the_source_cannot_give_are_refused(
    tiny_recording: Tiny, bin_size_s: float, finest: float, valid: bool
) -> None:
    recording = tiny_recording()
    recording = replace(recording, info=replace(recording.info, min_bin_size_s=finest))
    if valid:
        check_bin_size(recording, bin_size_s)
        return
    with pytest.raises(ValueError, match="tiny/rat1_a: bin size"):
        check_bin_size(recording, bin_size_s)
