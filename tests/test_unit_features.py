"""Unit features: equivariant to the order of units, blind to names and unusable trials, right on a naive loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from data_recipes.luo2025 import read
from eval import probes
from eval.region_evaluation import aligned
from eval.unit_features import rate_only, trial_counts, unit_features
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingInfo
from foundation.splits import stretches

BIN = 0.02


def make(num_units: int = 6, num_trials: int = 60, seed: int = 0) -> Recording:
    """Poisson units of several rates; unit 0 prefers choice 1, unit 1 follows the events, 2 and 3 share their rate."""
    rng = np.random.default_rng(seed)
    start = np.cumsum(rng.uniform(1.5, 2.0, num_trials))
    stop = start + BIN * rng.integers(20, 50, num_trials)
    choice = rng.integers(0, 2, num_trials)
    times, units, events = [], [], []
    for k in range(num_trials):
        steps = round((stop[k] - start[k]) / BIN)
        rate = np.tile(np.linspace(8, 30, num_units), (steps, 1))
        rate[:, 0] *= 0.5 + 1.5 * choice[k]
        event = rng.random(steps) < 0.15
        rate[:, 1:2] *= (1 + 4 * event)[:, None]
        if num_units > 3:
            rate[:, 2:4] *= rng.gamma(1.0, 1.0, (steps, 1))
        counts = rng.poisson(rate * BIN)
        rows, cols = np.nonzero(counts)
        times.append(np.repeat(start[k] + (rows + 0.5) * BIN, counts[rows, cols]))
        units.append(np.repeat(cols, counts[rows, cols]))
        events.append(start[k] + (np.flatnonzero(event) + 0.5) * BIN)
    trials = pd.DataFrame({"start_s": start, "stop_s": stop, "usable": True, "source_index": np.arange(num_trials)})
    return Recording(
        RecordingInfo("set/s", "animal", "test 1"),
        np.concatenate(times),
        np.concatenate(units).astype(np.int32),
        pd.DataFrame({"unit_id": [f"u{i}" for i in range(num_units)], "region": "r"}),
        trials,
        trials[["start_s", "stop_s"]].to_numpy(),
        {
            "choice": Covariate.categorical(CovariateSpec("choice", "categorical", "trial", num_classes=2), choice),
            "click": Covariate.events(CovariateSpec("click", "event", "time"), np.concatenate(events)),
        },
    ).validate()


def column(recording: Recording, name: str) -> np.ndarray:
    features, names = unit_features(recording, BIN)
    return features[:, names.index(name)]


def test_permuting_units_permutes_rows_and_nothing_else():
    recording = make()
    order = np.random.default_rng(1).permutation(recording.num_units)
    permuted = replace(
        recording,
        spike_units=np.argsort(order)[recording.spike_units].astype(np.int32),
        units=recording.units.iloc[order].reset_index(drop=True),
    )
    np.testing.assert_allclose(unit_features(permuted)[0], unit_features(recording)[0][order], atol=1e-5)


def test_names_and_regions_are_not_read():
    recording = make()
    renamed = replace(
        recording, units=pd.DataFrame({"unit_id": list("fedcba"), "region": list("xyzxyz"), "depth": 1.0})
    )
    np.testing.assert_array_equal(unit_features(renamed)[0], unit_features(recording)[0])


def test_spikes_outside_usable_trials_do_not_count():
    recording = make()
    usable = np.arange(len(recording.trials)) % 3 > 0
    trials = recording.trials.assign(usable=usable)
    marked = replace(recording, trials=trials)
    inside = np.zeros(len(recording.spike_times), bool)
    for start, stop in trials.loc[usable, ["start_s", "stop_s"]].to_numpy():
        inside |= (recording.spike_times >= start) & (recording.spike_times < stop)
    assert 0 < inside.sum() < len(inside)
    kept = replace(marked, spike_times=recording.spike_times[inside], spike_units=recording.spike_units[inside])
    np.testing.assert_array_equal(unit_features(marked)[0], unit_features(kept)[0])


def test_rates_counts_and_autocorrelogram_equal_a_naive_loop():
    recording = make(num_units=3, num_trials=12)
    tc = trial_counts(recording, BIN)
    per_trial = []
    for start, stop in stretches(recording):
        counts = np.zeros((round((stop - start) / BIN), 3))
        for time, unit in zip(recording.spike_times, recording.spike_units):
            if start <= time < stop:
                counts[int((time - start) / BIN), unit] += 1
        per_trial.append(counts)
    np.testing.assert_array_equal(tc.counts, np.concatenate(per_trial))
    mean = np.concatenate(per_trial).mean(axis=0)
    np.testing.assert_allclose(rate_only(recording, BIN)[:, 0], mean / BIN)
    pairs = [(c[i], c[i + 1]) for c in per_trial for i in range(len(c) - 1)]
    expected = np.log((sum(a * b for a, b in pairs) + 1) / (len(pairs) * mean**2 + 1))
    np.testing.assert_allclose(column(recording, "autocorrelogram_0.02s"), expected, atol=1e-5)


def test_planted_properties_stand_out():
    recording = make(num_trials=120)
    assert column(recording, "choice_start_0.12s").argmax() == 0
    assert column(recording, "events_0s").argmax() == 1
    assert set(np.argsort(column(recording, "coupling"))[-2:]) == {2, 3}
    fano = column(recording, "fano_0.02s")
    assert fano[2:4].min() > fano[4:].max()


def test_one_unit_silent_units_and_no_covariates_stay_finite():
    for recording in (make(num_units=1), replace(make(), covariates={})):
        assert np.isfinite(unit_features(recording)[0]).all()
    recording = make()
    loud = recording.spike_units != 4
    silent = replace(recording, spike_times=recording.spike_times[loud], spike_units=recording.spike_units[loud])
    assert np.isfinite(unit_features(silent)[0]).all()


def test_no_usable_trial_is_an_error():
    recording = make()
    with pytest.raises(ValueError, match="no usable trial"):
        unit_features(replace(recording, trials=recording.trials.assign(usable=False)))


@pytest.mark.real
def test_real_regions_beat_their_nulls(real_data):
    vectors, units, rates, subjects = {}, {}, {}, {}
    paths = [path for rat in ("T219", "T240") for path in sorted((real_data / "luo2025").glob(f"{rat}_*.mat"))[:4]]
    for path in paths:
        recording = read(str(path))
        key = recording.info.recording_id
        vectors[key], units[key], rates[key] = unit_features(recording)[0], recording.units, rate_only(recording)
        subjects[key] = recording.info.subject_id
    scores = probes.probe_regions(
        vectors, units, subjects, rates=rates, groups=[["T219", "T240"]], thorough=False
    ).scores
    rows = scores[(scores["input"] == "features") & (scores["probe"] == "logistic")]
    assert len(rows) == 2
    assert (rows["macro_f1"] > rows["null_95"]).any()


def test_sessions_with_other_covariates_are_aligned_by_name() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    found = aligned({"a": (a, ["rate", "lick"]), "b": (b, ["image", "rate"])})
    assert np.array_equal(found["a"], np.column_stack([a, np.full(3, b[:, 0].mean())]))
    assert np.array_equal(found["b"], np.column_stack([b[:, 1], np.full(2, a[:, 1].mean()), b[:, 0]]))
    same = aligned({"a": (a, ["x", "y"]), "b": (b, ["x", "y"])})
    assert np.array_equal(same["a"], a)
    assert np.array_equal(same["b"], b)
