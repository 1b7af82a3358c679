"""The luo2025 recipe against the `.mat` files themselves, read with scipy without its conveniences."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from data_recipes.luo2025 import read, sessions
from foundation.binning import bin_covariate, bin_events, bin_spikes, check_bin_size
from foundation.recording import Recording
from foundation.splits import NO_ROLE, session_roles

# A small session, one with photostimulation, one with a letter after its date, one of the held-out animals.
SESSIONS = ["X046_2019_09_23", "T240_2020_10_05e", "T223_2019_12_13b", "T249_2020_02_11"]


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    path = real_data / "luo2025"
    if not path.is_dir():
        pytest.skip(f"{path} does not exist; it holds the luo2025 recordings")
    return path


def number(value: Any) -> float:
    """The number in a MATLAB 1x1."""
    return float(np.asarray(value).reshape(-1)[0])


def raw_trials(path: Path) -> tuple[list[Any], list[str]]:
    """Cells of 1x1 structs, as MATLAB wrote them."""
    raw = scipy.io.loadmat(path, squeeze_me=False, struct_as_record=True)
    trials, neurons = ([cell.reshape(-1)[0] for cell in raw[name].ravel()] for name in ("trials", "neurons"))
    return trials, [str(neuron["brainarea"].reshape(-1)[0]) for neuron in neurons]


def assert_trials_equal(recording: Recording, path: Path) -> None:
    trials, areas = raw_trials(path)
    assert recording.units["region"].tolist() == areas
    assert len(recording.trials) == len(trials)
    names = ("choice", "previous_answer", "gamma")
    choice, previous, gamma = (recording.covariates[name] for name in names)
    assert choice.observed.all()
    for k, trial in enumerate(trials):
        start, steps = number(trial["stereoclick_time_s"]), int(number(trial["ntimesteps"]))
        row = recording.trials.iloc[k]
        assert (row["start_s"], row["source_index"]) == (start, k)
        assert row["stop_s"] == pytest.approx(start + 0.01 * steps, abs=1e-9)
        counts = np.stack([np.asarray(train).ravel() for train in trial["spiketrains"].ravel()], axis=1)
        assert np.array_equal(bin_spikes(recording, start, steps, 0.01), counts)
        even = steps // 2
        summed = counts[: 2 * even].reshape(even, 2, -1).sum(axis=1)
        assert np.array_equal(bin_spikes(recording, start, even, 0.02), summed)
        assert choice.values[k] == number(trial["choice"])
        assert previous.values[k] == number(trial["previousanswer"])
        assert gamma.values[k] == np.float32(number(trial["gamma"]))
        stimulated = [number(trial[f"photostimulus_{side}_on_s"]) for side in ("incline", "decline")]
        assert row["usable"] == (not np.isfinite(stimulated).any())
        sides = [np.asarray(trial["clicktimes"][0, 0][side], float).ravel() for side in ("L", "R")]
        assert_clicks_equal(recording, start, steps, *sides)


def assert_clicks_equal(recording: Recording, start: float, steps: int, left: np.ndarray, right: np.ndarray) -> None:
    edges = 0.01 * np.arange(steps + 1)
    for name, clicks in (("click_left", left), ("click_right", right)):
        times = recording.covariates[name].times
        assert times is not None
        expected = [np.sum((clicks >= a - 1e-9) & (clicks < b - 1e-9)) for a, b in pairwise(edges)]
        assert bin_events(times, start, steps, 0.01).tolist() == expected
    evidence, observed = bin_covariate(recording.covariates["evidence"], start, steps, 0.01)
    expected = [np.sum(right < b - 1e-9) - np.sum(left < b - 1e-9) for b in edges[1:]]
    assert observed.all()
    assert evidence[:, 0].tolist() == expected


@pytest.mark.real
@pytest.mark.parametrize("session", SESSIONS)
def test_every_trial_equals_the_file(folder: Path, session: str) -> None:
    path = folder / f"{session}.mat"
    recording = read(str(path)).validate()
    assert recording.info.recording_id == f"luo2025/{path.stem}"
    assert recording.info.subject_id == path.stem[:4]
    assert_trials_equal(recording, path)
    check_bin_size(recording, 0.02)
    with pytest.raises(ValueError, match=r"0\.005"):
        check_bin_size(recording, 0.005)


@pytest.mark.real
def test_photostimulation_trials_are_kept_without_a_role(folder: Path) -> None:
    recording = read(str(folder / f"{SESSIONS[1]}.mat"))
    stimulated = ~recording.trials["usable"].to_numpy()
    assert 0 < stimulated.sum() < len(stimulated)
    assert (session_roles(recording)[stimulated] == NO_ROLE).all()
    assert f"{stimulated.sum()} photostimulation trials" in recording.info.notes


@pytest.mark.real
def test_all_sessions_are_found(folder: Path) -> None:
    jobs = sessions(folder)
    assert len(jobs) == len(list(folder.glob("*.mat"))) > 0
    assert all(arguments["path"].endswith(f"{key.split('/')[1]}.mat") for key, arguments in jobs.items())


def write_mat(path: Path, num_units: int, left: Any, right: Any, steps: int = 20) -> Path:
    """A file of two trials as MATLAB would write it."""
    rng = np.random.default_rng(0)
    trials = [
        {
            "index": 5 * k + 3,
            "choice": k % 2,
            "clicktimes": {"L": left, "R": right},
            "gamma": 0.5,
            "previousanswer": -1,
            "movementtime_s": 0.3,
            "stereoclick_time_s": 10.0 + 2 * k,
            "ntimesteps": steps,
            "baseline_hz": np.ones(num_units),
            "photostimulus_incline_on_s": np.nan,
            "photostimulus_decline_on_s": np.nan,
            "spiketrains": object_array([rng.poisson(0.5, 20).astype(np.uint8) for _ in range(num_units)]),
        }
        for k in range(2)
    ]
    neurons = [{"brainarea": "FOF", "neuronindex": i} for i in range(num_units)]
    scipy.io.savemat(path, {"trials": object_array(trials), "neurons": object_array(neurons)})
    return path


def object_array(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


@pytest.mark.parametrize("num_units", [1, 3])
@pytest.mark.parametrize(
    ("left", "right"), [(0.05, [0.1, 0.15]), ([], [0.1]), ([0.02, 0.04], []), ([0.1], [0.1])], ids=str
)
def test_one_click_no_click_and_one_unit(tmp_path: Path, num_units: int, left: Any, right: Any) -> None:
    """MATLAB makes a scalar of a single click, and of the only unit."""
    recording = read(str(write_mat(tmp_path / "A001_2020_01_01c.mat", num_units, left, right))).validate()
    assert recording.info.subject_id == "A001"
    assert recording.num_units == num_units
    assert recording.trials["source_index"].tolist() == [0, 1]
    rng = np.random.default_rng(0)
    for start in (10.0, 12.0):
        expected = np.stack([rng.poisson(0.5, 20) for _ in range(num_units)], axis=1)
        assert np.array_equal(bin_spikes(recording, start, 20, 0.01), expected)
        clicks = (np.atleast_1d(np.array(left, float)), np.atleast_1d(np.array(right, float)))
        assert_clicks_equal(recording, start, 20, *clicks)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "A001_2020_01_01.mat"
    path.write_bytes(b"not a MATLAB file")
    with pytest.raises(ValueError, match="not a luo2025 recording"):
        read(str(path))
    scipy.io.savemat(path, {"trials": 1})
    with pytest.raises(ValueError, match="not a luo2025 recording"):
        read(str(path))
    with pytest.raises(ValueError, match=r"trial 0: counts \(20, 3\), expected \(21, 3\)"):
        read(str(write_mat(path, 3, [0.1], [0.2], steps=21)))
    for source in (None, path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"expected the folder of the \.mat files"):
            sessions(source)
