"""The rules of a recording: what is refused, and that the message names the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundation.recording import Covariate, CovariateSpec, Recording, RecordingError, RecordingInfo, empty_trials

Tiny = Callable[..., Recording]


def test_tiny_recording_is_valid(tiny_recording: Tiny) -> None:
    recording = tiny_recording()
    assert recording.validate() is recording
    assert recording.num_units == 3
    assert recording.duration_s == 40
    assert (recording.info.dataset, recording.info.session) == ("tiny", "rat1_a")


def edit(array: np.ndarray, where: Any, value: Any) -> np.ndarray:
    changed = np.array(array)
    changed[where] = value
    return changed


def with_info(**fields: Any) -> Callable[[Recording], Recording]:
    return lambda r: replace(r, info=replace(r.info, **fields))


def with_covariate(name: str, **fields: Any) -> Callable[[Recording], Recording]:
    def change(r: Recording) -> Recording:
        made = {k: v(getattr(r.covariates[name], k)) if callable(v) else v for k, v in fields.items()}
        return replace(r, covariates=r.covariates | {name: replace(r.covariates[name], **made)})

    return change


MALFORMED: list[tuple[str, str, Callable[[Recording], Recording]]] = [
    ("id without slash", "recording_id", with_info(recording_id="tiny")),
    ("id with two slashes", "recording_id", with_info(recording_id="a/b/c")),
    ("id that leaves the folder", "recording_id", with_info(recording_id="../b")),
    ("id of a hidden folder", "recording_id", with_info(recording_id="a/.b")),
    ("id with a line end", "recording_id", with_info(recording_id="a/b\n")),
    ("id with a space", "recording_id", with_info(recording_id="a/b c")),
    ("no subject", "subject_id", with_info(subject_id="")),
    ("negative bin", "min_bin_size_s", with_info(min_bin_size_s=-0.01)),
    ("NaN bin", "min_bin_size_s", with_info(min_bin_size_s=float("nan"))),
    ("no region", "units", lambda r: replace(r, units=r.units.drop(columns="region"))),
    ("no unit", "units", lambda r: replace(r, units=r.units.iloc[:0])),
    ("same unit twice", "units.unit_id", lambda r: replace(r, units=r.units.assign(unit_id=["a", "b", "a"]))),
    ("lengths", "spikes", lambda r: replace(r, spike_units=r.spike_units[:-1])),
    ("two-dimensional", "spikes", lambda r: replace(r, spike_times=r.spike_times[:, None])),
    ("float units", "spikes", lambda r: replace(r, spike_units=r.spike_units.astype(float))),
    ("integer times", "spikes", lambda r: replace(r, spike_times=r.spike_times.astype(int))),
    ("no spike", "spike_times", lambda r: replace(r, spike_times=r.spike_times[:0], spike_units=r.spike_units[:0])),
    ("NaN time", "spike_times", lambda r: replace(r, spike_times=edit(r.spike_times, 5, np.nan))),
    ("infinite time", "spike_times", lambda r: replace(r, spike_times=edit(r.spike_times, -1, np.inf))),
    ("negative time", "spike_times", lambda r: replace(r, spike_times=r.spike_times - 1)),
    ("unsorted", "spike_times", lambda r: replace(r, spike_times=r.spike_times[::-1].copy())),
    ("unit beyond", "spike_units", lambda r: replace(r, spike_units=edit(r.spike_units, 9, 3))),
    ("unit below", "spike_units", lambda r: replace(r, spike_units=edit(r.spike_units, 9, -1))),
    ("no domain", "domain", lambda r: replace(r, domain=np.zeros((0, 2)))),
    ("domain of three columns", "domain", lambda r: replace(r, domain=np.zeros((1, 3)))),
    ("empty interval", "domain", lambda r: replace(r, domain=np.array([[0.0, 0.0]]))),
    ("NaN interval", "domain", lambda r: replace(r, domain=np.array([[0.0, np.nan]]))),
    ("negative interval", "domain", lambda r: replace(r, domain=np.array([[-1.0, 2.0]]))),
    ("overlap", "domain", lambda r: replace(r, domain=np.array([[0.0, 2.0], [1.0, 3.0]]))),
    ("no usable", "trials", lambda r: replace(r, trials=r.trials.drop(columns="usable"))),
    ("unsorted trials", "trials", lambda r: replace(r, trials=r.trials.iloc[::-1])),
    ("trial backwards", "trials", lambda r: replace(r, trials=r.trials.assign(stop_s=r.trials["start_s"]))),
    ("name differs", "covariates.other", lambda r: replace(r, covariates={"other": r.covariates["choice"]})),
    ("trial with times", "covariates.choice", with_covariate("choice", times=np.arange(40.0))),
    ("time without times", "covariates.speed", with_covariate("speed", times=None)),
    ("unsorted samples", "covariates.speed", with_covariate("speed", times=lambda t: t[::-1].copy())),
    ("NaN sample time", "covariates.speed", with_covariate("speed", times=lambda t: edit(t, 3, np.nan))),
    ("negative sample time", "covariates.speed", with_covariate("speed", times=lambda t: t - 1)),
    ("too few values", "covariates.speed", with_covariate("speed", values=lambda v: v[:-1])),
    ("dimension", "covariates.position", with_covariate("position", values=lambda v: v[:, :1])),
    ("observed as numbers", "covariates.speed", with_covariate("speed", observed=lambda o: o.astype(int))),
    ("observed NaN", "covariates.speed", with_covariate("speed", values=lambda v: edit(v, 3, np.nan))),
    ("class beyond", "covariates.choice", with_covariate("choice", values=lambda v: edit(v, 0, 2))),
    ("class below", "covariates.block", with_covariate("block", values=lambda v: edit(v, 0, -1))),
    ("class as float", "covariates.block", with_covariate("block", values=lambda v: v.astype(float))),
    ("event with values", "covariates.lick", with_covariate("lick", values=np.zeros(50, np.float32))),
    (
        "column and covariate",
        "covariates.choice",
        lambda r: replace(r, trials=r.trials.assign(choice=0)),
    ),
]


@pytest.mark.parametrize(("field", "change"), [m[1:] for m in MALFORMED], ids=[m[0] for m in MALFORMED])
def test_malformed_recording_is_refused(
    tiny_recording: Tiny, field: str, change: Callable[[Recording], Recording]
) -> None:
    with pytest.raises(RecordingError) as caught:
        change(tiny_recording()).validate()
    assert f" {field}: got " in str(caught.value)
    assert "; expected " in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "binary"},
        {"scope": "session"},
        {"role": "output"},
        {"resample": "nearest"},
        {"name": "2fast"},
        {"name": "wheel speed"},
        {"kind": "categorical"},
        {"kind": "categorical", "num_classes": 1},
        {"num_classes": 2},
        {"kind": "event", "scope": "trial"},
        {"dim": 0},
        {"dim": 2, "scope": "trial"},
        {"dim": 2, "kind": "categorical", "num_classes": 2},
    ],
)
def test_contradictory_spec_is_refused(fields: dict[str, Any]) -> None:
    base: dict[str, Any] = {"name": "speed", "kind": "continuous", "scope": "time"}
    CovariateSpec(**base)
    with pytest.raises(RecordingError, match="covariate"):
        CovariateSpec(**(base | fields))


@given(
    data=st.data(),
    fault=st.sampled_from(["swap", "nan", "unit", "negative"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_bad_spike_anywhere_is_found(tiny_recording: Tiny, data: st.DataObject, fault: str) -> None:
    recording = tiny_recording()
    row = data.draw(st.integers(1, len(recording.spike_times) - 1))
    if fault == "swap":
        bad = replace(
            recording, spike_times=edit(recording.spike_times, [row - 1, row], recording.spike_times[[row, row - 1]])
        )
    elif fault == "nan":
        bad = replace(recording, spike_times=edit(recording.spike_times, row, np.nan))
    elif fault == "negative":
        bad = replace(recording, spike_times=edit(recording.spike_times, row, -1e-3))
    else:
        unit = data.draw(st.integers(-(2**31), -1) | st.integers(3, 2**31 - 1))
        bad = replace(recording, spike_units=edit(recording.spike_units, row, unit))
    with pytest.raises(RecordingError, match="spike_"):
        bad.validate()


def test_constructors_turn_missing_values_into_masks() -> None:
    spec = CovariateSpec("x", "continuous", "time", dim=2)
    values = np.array([[1, 2], [np.nan, 3], [4, np.inf]])
    covariate = Covariate.continuous(spec, values, np.arange(3))
    assert covariate.observed.tolist() == [True, False, False]
    assert covariate.values.tolist() == [[1, 2], [0, 0], [0, 0]]
    classes = Covariate.categorical(CovariateSpec("y", "categorical", "trial", num_classes=3), np.array([2, -1, 0]))
    assert classes.observed.tolist() == [True, False, True]
    assert classes.values.tolist() == [2, 0, 0]
    assert classes.times is None
    events = Covariate.events(CovariateSpec("z", "event", "time"), np.array([3.0, 1.0, 2.0]))
    assert events.times is not None
    assert events.times.tolist() == [1, 2, 3]


def test_spikes_between_is_half_open_and_keeps_equal_times() -> None:
    times = np.array([0.0, 1.0, 1.0, 2.0])
    recording = Recording(
        RecordingInfo("a/b", "s", "test 1"),
        times,
        np.array([0, 1, 0, 1], np.int32),
        pd.DataFrame({"unit_id": ["u", "v"], "region": ""}),
        empty_trials(),
        np.array([[0.0, 3.0]]),
    ).validate()
    found, units = recording.spikes_between(1.0, 2.0)
    assert found.tolist() == [1, 1]
    assert units.tolist() == [1, 0]
    assert np.shares_memory(found, times)
