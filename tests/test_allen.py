"""The Allen recipe: equal to pynwb's reading of simulated sessions, and to what it says of bad input."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pynwb
import pytest
from iblatlas.regions import BrainRegions

from benchmarks.simulated_allen import write_session
from benchmarks.simulated_allen_session import IMAGE_TABLE
from data_recipes import allen
from data_recipes.allen_frames import frame_counts, frame_design, movie_runs
from data_recipes.allen_presentations import hold, image_number
from data_recipes.allen_stimuli import HELD, STIMULUS_NAMES, stimulus_of
from data_recipes.cleaning import Tally
from data_recipes.recipe import prepare
from data_recipes.regions import map_acronyms
from foundation.binning import bin_covariate
from foundation.corpus import Corpus
from foundation.recording import Covariate, Recording

EVERY_UNIT: dict[str, Any] = {
    **dict.fromkeys(("isi_violations", "amplitude_cutoff", "presence_ratio", "quality")),
    "valid_channels": False,
}
GAP = (60.0, 61.5, ["EcephysProbe", "760000000", "probeA"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One session of either data set, in the layouts of the AllenSDK's cache and of DANDI."""
    root = tmp_path_factory.mktemp("allen")
    write_session(
        root / "session_715093703" / "session_715093703.nwb",
        session_id=715093703,
        subject="699733573",
        num_units=40,
        minutes=2.5,
        num_repeats=3,
        invalid=[GAP, (150.0, 150.5, ["EcephysSession", "715093703", "stimulus"])],
        seed=0,
    )
    write_session(
        root / "sub-506940" / "sub-506940_ses-1044385384.nwb",
        session_id=1044385384,
        subject="Mäuschen-506940",
        num_units=40,
        minutes=2.5,
        behavior=True,
        seed=1,
    )
    return root


@pytest.fixture(scope="module")
def coding(folder: Path) -> Path:
    return folder / "session_715093703" / "session_715093703.nwb"


@pytest.fixture(scope="module")
def change(folder: Path) -> Path:
    return folder / "sub-506940" / "sub-506940_ses-1044385384.nwb"


def read(path: Path, **options: Any) -> Recording:
    (arguments,) = allen.sessions(str(path), **options).values()
    return allen.read(**arguments).validate()


@pytest.fixture(scope="module")
def coded(coding: Path) -> Recording:
    return read(coding)


@pytest.fixture(scope="module")
def ungapped(coding: Path) -> Recording:
    return read(coding, invalid="none")


@pytest.fixture(scope="module")
def changed(change: Path) -> Recording:
    return read(change)


@pytest.fixture
def edited(coding: Path, change: Path, tmp_path: Path) -> Callable[..., Path]:
    """`edited(function, behavior=False)`: a copy of a session after `function(h5py file)`."""

    def edit(function: Callable[[h5py.File], None], behavior: bool = False) -> Path:
        path = tmp_path / "edited.nwb"
        path.write_bytes((change if behavior else coding).read_bytes())
        with h5py.File(path, "r+") as file:
            function(file)
        return path

    return edit


def replace(file: h5py.File, path: str, values: Any) -> None:
    attributes = dict(file[path].attrs)
    del file[path]
    file[path] = values
    file[path].attrs.update(attributes)


# Round trips against pynwb


@pytest.mark.parametrize("which", ["coding", "change"])
def test_every_spike_is_that_of_pynwb(which: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(which)
    recording = read(path, **EVERY_UNIT)
    with pynwb.NWBHDF5IO(str(path), "r") as io:
        units = io.read().units.to_dataframe()
    assert recording.num_units == len(units) == 40
    assert len(recording.spike_times) == sum(map(len, units["spike_times"]))
    for row, unit in enumerate(recording.units["allen_unit_id"]):
        expected = np.sort(units.loc[unit, "spike_times"])
        np.testing.assert_array_equal(recording.spike_times[recording.spike_units == row], expected)


@pytest.mark.parametrize("which", ["coding", "change"])
def test_units_are_joined_to_electrodes_by_id(which: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(which)
    recording = read(path, **EVERY_UNIT, regions="allen")
    with pynwb.NWBHDF5IO(str(path), "r") as io:
        nwb = io.read()
        units, electrodes = nwb.units.to_dataframe(), nwb.electrodes.to_dataframe()
    assert not (electrodes.index.to_numpy()[:-1] < electrodes.index.to_numpy()[1:]).all(), "position must not do"
    peak = electrodes.loc[units["peak_channel_id"]]
    table = recording.units
    assert table["allen_unit_id"].tolist() == units.index.tolist()
    assert table["region_allen"].tolist() == peak["location"].tolist()
    assert table["depth_um"].tolist() == peak["probe_vertical_position"].tolist()
    assert table["probe"].tolist() == peak["group_name"].tolist()
    assert table["unit_id"].iloc[0].startswith(recording.info.recording_id + "/probeA/")
    labels = table["region_allen"]
    assert (table["region"] == labels.where(~labels.isin(["grey", "root"]), "")).all()
    assert recording.info.counts["units without a region"] == int(labels.isin(["grey", "root"]).sum()) > 0
    for name in ("snr", "isi_violations", "quality"):
        assert table[name].tolist() == units[name].tolist()


def test_running_and_pupil_are_those_of_pynwb(coding: Path, coded: Recording) -> None:
    with pynwb.NWBHDF5IO(str(coding), "r") as io:
        processing = io.read().processing
        running = processing["running"]["running_speed"]
        times, speed = np.asarray(running.timestamps), np.asarray(running.data)
        fits = processing["eye_tracking"]["pupil_ellipse_fits"].to_dataframe()
    _same(coded.covariates["running_speed"], times, speed)
    assert coded.covariates["running_speed"].spec.unit == "cm/s"
    _same(coded.covariates["pupil_width"], fits["timestamps"], 2 * fits["width"])
    _same(coded.covariates["pupil_height"], fits["timestamps"], 2 * fits["height"])
    _same(coded.covariates["pupil_area"], fits["timestamps"], np.pi * fits[["width", "height"]].max(axis=1) ** 2)
    _same(coded.covariates["pupil_position"], fits["timestamps"], fits[["center_x", "center_y"]])


def test_behavior_is_that_of_pynwb(change: Path, changed: Recording) -> None:
    with pynwb.NWBHDF5IO(str(change), "r") as io:
        nwb = io.read()
        running = nwb.processing["running"]["speed"]
        _same(changed.covariates["running_speed"], np.asarray(running.timestamps), np.asarray(running.data))
        licks = np.asarray(nwb.processing["licking"]["licks"].timestamps)
        rewards = np.asarray(nwb.processing["rewards"]["volume"].timestamps)
        pupil, blink = nwb.acquisition["EyeTracking"].pupil_tracking, nwb.acquisition["EyeTracking"].likely_blink
        closed, times = np.asarray(blink.data), np.asarray(pupil.timestamps)
        area, width = np.asarray(pupil.area), np.where(closed, np.nan, 2 * np.asarray(pupil.width))
        center = np.where(closed[:, None], np.nan, np.asarray(pupil.data))
    assert closed.any()
    for name, expected in (("pupil_area", area), ("pupil_width", width), ("pupil_position", center)):
        _same(changed.covariates[name], times, expected)
        assert (changed.covariates[name].observed == ~closed).all()
    np.testing.assert_array_equal(changed.covariates["lick"].times, np.sort(licks))
    np.testing.assert_array_equal(changed.covariates["reward"].times, rewards)


def test_trials_are_those_of_pynwb(change: Path, changed: Recording) -> None:
    with pynwb.NWBHDF5IO(str(change), "r") as io:
        expected = io.read().trials.to_dataframe()
    trials, outcome = changed.trials, changed.covariates["outcome"]
    assert trials["start_s"].tolist() == expected["start_time"].tolist()
    assert trials["stop_s"].tolist() == expected["stop_time"].tolist()
    assert trials["usable"].tolist() == (~expected["aborted"]).tolist()
    np.testing.assert_array_equal(trials["change_time_s"], expected["change_time_no_display_delay"])
    assert {len(set(trials["usable"])), len(set(expected["go"]))} == {2}, "the session has trials of every kind"
    for k, (_, row) in enumerate(expected.iterrows()):
        names = ["hit", "miss", "false_alarm", "correct_reject"]
        which = next((j for j, name in enumerate(names) if row[name]), None)
        assert outcome.observed[k] == (which is not None)
        assert which is None or outcome.values[k] == which
        assert changed.covariates["response"].observed[k] == (not row["aborted"])
        assert changed.covariates["response"].values[k] == (row["hit"] or row["false_alarm"])
        assert changed.covariates["go_trial"].observed[k] == (row["go"] or row["catch"])
        assert changed.covariates["go_trial"].values[k] == row["go"]
        assert changed.covariates["change_image"].values[k] == int(row["change_image_name"][2:5])
        assert trials["initial_image_name"][k] == row["initial_image_name"]


def test_every_presentation_holds_from_its_start_to_its_stop(coding: Path, coded: Recording) -> None:
    """Against pynwb's tables, asked at moments within and between presentations."""
    levels = {held.spec.name: (held.stimulus, held.columns, held.levels) for held in HELD}
    with pynwb.NWBHDF5IO(str(coding), "r") as io:
        tables = {k.removesuffix("_presentations"): t.to_dataframe() for k, t in io.read().intervals.items()}
    checked = 0
    for name, covariate in coded.covariates.items():
        if name not in levels:
            continue
        stimulus, columns, values = levels[name]
        table = tables[stimulus]
        source = pd.to_numeric(table[next(c for c in columns if c in table)], errors="coerce").to_numpy(float)
        start, stop = table["start_time"].to_numpy(), table["stop_time"].to_numpy()
        for row in range(len(table)):
            for moment in (start[row] + 1e-4, (start[row] + stop[row]) / 2, stop[row] - 1e-4):
                seen, value = _at(covariate, moment)
                expected = source[row]
                if name == "natural_scene" and expected == -1:
                    expected = 118
                elif values and not np.isnan(expected):
                    expected = values.index(expected)
                assert seen == (not np.isnan(expected))
                assert not seen or value == np.float32(expected)
                checked += 1
        after = stop[np.append(start[1:] - stop[:-1] > 0.01, True)] + 1e-3
        assert not any(_at(covariate, moment)[0] for moment in after)
    assert checked > 8000
    assert {n for n in coded.covariates if n in levels} >= {
        "natural_movie_one_frame",
        "natural_scene",
        "flash_polarity",
    }


def test_blocks_name_the_stimulus(coded: Recording, changed: Recording) -> None:
    frame, kind = coded.covariates["natural_movie_one_frame"], coded.covariates["stimulus_type"]
    assert frame.times is not None
    for moment in frame.times[frame.observed][::50]:
        assert _at(kind, moment + 1e-3) == (True, STIMULUS_NAMES.index("natural_movie_one"))
    assert _at(kind, 5.0) == (True, STIMULUS_NAMES.index("spontaneous"))
    images = changed.covariates["stimulus_type"]
    assert _at(images, 12.5) == (True, STIMULUS_NAMES.index("natural_images")), "gray between flashes is of the block"


def test_images_changes_and_omissions(change: Path, changed: Recording) -> None:
    with pynwb.NWBHDF5IO(str(change), "r") as io:
        table = io.read().intervals[f"{IMAGE_TABLE}_presentations"].to_dataframe()
    image = changed.covariates["image"]
    for _, row in table.iterrows():
        seen, value = _at(image, row["start_time"] + 0.1)
        assert seen == (not row["omitted"])
        assert not seen or value == int(row["image_name"][2:5])
        assert not _at(image, row["stop_time"] + 0.1)[0]
        assert _at(changed.covariates["task_active"], row["stop_time"] - 0.05) == (True, int(row["active"]))
    onsets = table["start_time"].to_numpy()
    np.testing.assert_array_equal(changed.covariates["image_change"].times, onsets[table["is_change"]])
    np.testing.assert_array_equal(changed.covariates["image_omission"].times, onsets[table["omitted"]])
    assert table["omitted"].any()
    assert [image_number(n) for n in ("im005_r", "im111", "omitted", "im118_r", "im0051", None)] == [
        5,
        111,
        -1,
        -1,
        -1,
        -1,
    ]


# Units


def test_default_thresholds_are_those_of_the_sdk(coding: Path, coded: Recording) -> None:
    with pynwb.NWBHDF5IO(str(coding), "r") as io:
        units = io.read().units.to_dataframe()
    query = "isi_violations <= 0.5 and amplitude_cutoff <= 0.1 and presence_ratio >= 0.95 and quality == 'good'"
    kept = units.query(query)
    assert coded.units["allen_unit_id"].tolist() == kept.index.tolist()
    counts = coded.info.counts
    out = sum(n for name, n in counts.items() if name.startswith("units out"))
    assert (counts["units in"], counts["units kept"], out) == (40, len(kept), 40 - len(kept))
    strict = read(coding, isi_violations=0.1, quality="none", amplitude_cutoff=0, presence_ratio=None)
    assert strict.units["allen_unit_id"].tolist() == units.query("isi_violations <= 0.1").index.tolist()


def test_units_that_cannot_be_judged(edited: Callable[..., Path]) -> None:
    def edit(file: h5py.File) -> None:
        file["units/isi_violations"][:2] = np.nan
        file["general/extracellular_ephys/electrodes/valid_data"][:20] = False
        del file["units/presence_ratio"]

    recording = read(edited(edit))
    assert recording.info.counts["units out: isi_violations missing"] == 2
    assert recording.info.counts["units kept without presence_ratio"] == 40
    assert recording.info.counts["units out: peak channel not valid"] >= 1
    with pytest.raises(ValueError, match=r"none of 40 units passes .*null switches one off"):
        read(edited(edit), amplitude_cutoff=1e-9)


def test_units_without_spikes_or_electrodes(edited: Callable[..., Path]) -> None:
    def edit(file: h5py.File) -> None:
        stops = file["units/spike_times_index"][:]
        stops[3] = stops[2]
        stops[0] = 0
        file["units/spike_times_index"][:] = stops
        file["units/peak_channel_id"][5] = 1
        electrodes = file["general/extracellular_ephys/electrodes"]
        for unit, acronym in ((20, ""), (30, "Nowhere")):
            channel = np.flatnonzero(electrodes["id"][:] == file["units/peak_channel_id"][unit])[0]
            electrodes["location"][channel] = acronym

    recording = read(edited(edit), **EVERY_UNIT)
    assert recording.info.counts["units out: no spikes"] == 2
    assert recording.info.counts["units kept"] == recording.num_units == 38
    assert np.unique(recording.spike_units).tolist() == list(range(38))
    lost = recording.units[recording.units["probe"] == "unknown"]
    assert lost["region"].tolist() == [""]
    assert recording.info.counts["units without an electrode"] == 1
    assert (recording.units.loc[recording.units["region_allen"].isin(["", "Nowhere"]), "region"] == "").all()
    assert "Nowhere" in set(recording.units["region_allen"])


def test_repeated_electrode_ids_are_refused(edited: Callable[..., Path]) -> None:
    def edit(file: h5py.File) -> None:
        file["general/extracellular_ephys/electrodes/id"][:] = 7

    with pytest.raises(ValueError, match="electrode id 7 stands twice"):
        read(edited(edit))


@pytest.mark.parametrize("to", ["allen", "beryl", "cosmos"])
def test_acronyms_map_as_in_iblatlas_and_keep_their_length(to: str) -> None:
    regions = BrainRegions()
    known = ["VISp", "VISp2/3", "CA1", "LGd", "SCig", "ZI", "CP", "DG-mo"]
    given = [*known, "grey", "root", "void", "", "xyz", "nan", "fiber tracts", "cc"]
    mapped = map_acronyms(given, to)
    assert mapped[: len(known)].tolist() == regions.acronym2acronym(known, mapping=to.capitalize()).tolist()
    assert mapped[len(known) :].tolist() == [""] * 8
    assert len(map_acronyms([], to)) == 0
    with pytest.raises(ValueError, match="no parcellation 'swanson'"):
        map_acronyms(known, "swanson")


# Time


def test_invalid_times_are_gaps(coding: Path, coded: Recording, ungapped: Recording) -> None:
    first, last = coded.spike_times[0], np.nextafter(coded.spike_times[-1], np.inf)
    everything = [[first, GAP[0]], [GAP[1], 150.0], [150.5, last]]
    np.testing.assert_array_equal(coded.domain, everything)
    np.testing.assert_array_equal(read(coding, invalid="probes").domain, [everything[0], [GAP[1], last]])
    np.testing.assert_array_equal(ungapped.domain, [[first, last]])
    assert ungapped.info.counts["invalid intervals out: not asked for"] == 2
    assert (np.diff(coded.spike_times) >= 0).all()


def test_bad_clocks_are_refused(edited: Callable[..., Path]) -> None:
    def spikes_ms(file: h5py.File) -> None:
        file["units/spike_times"][:] *= 1000

    def frames_ms(file: h5py.File) -> None:
        for name in ("start_time", "stop_time"):
            file[f"intervals/natural_movie_one_presentations/{name}"][:] *= 1000

    def running_samples(file: h5py.File) -> None:
        stamps = file["processing/running/running_speed/timestamps"]
        stamps[:] = 3e6 + np.arange(len(stamps))

    def all_invalid(file: h5py.File) -> None:
        file["intervals/invalid_times/start_time"][:] = 0
        file["intervals/invalid_times/stop_time"][:] = 1e5

    for edit, message in (
        (spikes_ms, "Hz per unit, expected"),
        (frames_ms, "natural_movie_one_presentations: .* on another clock"),
        (running_samples, "running_speed: .* in samples"),
        (all_invalid, "invalid intervals cover all"),
    ):
        with pytest.raises(ValueError, match=message):
            read(edited(edit))


def test_missing_values_are_kept_and_masked_or_left_out_and_counted(edited: Callable[..., Path]) -> None:
    def edit(file: h5py.File) -> None:
        table = file["intervals/natural_scenes_presentations"]
        table["start_time"][0] = np.nan
        table["stop_time"][1] = table["start_time"][1]
        table["frame"][2], table["frame"][3] = np.nan, 500.0
        order = np.arange(len(table["frame"]))[::-1]
        for name in ("start_time", "stop_time", "frame"):
            table[name][:] = table[name][:][order]
        running = file["processing/running/running_speed"]
        running["timestamps"][:120] -= 30
        running["timestamps"][300:360] = np.nan
        running["data"][1000:1010] = np.nan
        file["units/spike_times"][:3] = [np.nan, -1.0, np.inf]

    counts = (recording := read(edited(edit), **EVERY_UNIT)).info.counts
    assert counts["natural_scenes presentations out: bounds not finite"] == 1
    assert counts["natural_scenes presentations out: stop not after start"] == 1
    assert counts["natural_scenes presentations out of order"] > 10
    assert counts["natural_scene blank"] == 1
    assert counts["natural_scene samples out: not a known class"] == 1
    assert counts["running_speed samples out: before 0 s"] == 120
    assert counts["running_speed samples out: time not finite"] == 60
    assert (counts["spikes out: time not finite"], counts["spikes out: before 0 s"]) == (2, 1)
    running = recording.covariates["running_speed"]
    assert int((~running.observed).sum()) == 10
    # The second of running that is missing is not made up.
    assert not bin_covariate(running, 5.1, 5, 0.1)[1].any()
    assert bin_covariate(running, 8.0, 5, 0.1)[1].all()


def test_trials_with_nan_are_left_out(edited: Callable[..., Path]) -> None:
    def edit(file: h5py.File) -> None:
        file["intervals/trials/start_time"][2] = np.nan
        file["intervals/trials/stop_time"][4] = 0.0

    whole, recording = read(edited(lambda file: None, True)), read(edited(edit, True))
    kept = [k for k in range(len(whole.trials)) if k not in (2, 4)]
    assert recording.trials["source_index"].tolist() == kept
    assert recording.covariates["outcome"].values.tolist() == whole.covariates["outcome"].values[kept].tolist()
    assert recording.info.counts["trials out: bounds not finite"] == 1


def test_omitted_images_without_a_stop_are_kept(edited: Callable[..., Path], changed: Recording) -> None:
    def edit(file: h5py.File) -> None:
        table = file[f"intervals/{IMAGE_TABLE}_presentations"]
        stop = table["stop_time"][:]
        stop[table["omitted"][:]] = np.nan
        table["stop_time"][:] = stop
        # Booleans with gaps are written as numbers with NaN.
        replace(file, f"{table.name}/is_change", np.where(table["is_change"][:], 1.0, np.nan))

    recording = read(edited(edit, True))
    for name in ("image", "image_change", "image_omission", "task_active"):
        np.testing.assert_array_equal(recording.covariates[name].times, changed.covariates[name].times)
        np.testing.assert_array_equal(recording.covariates[name].observed, changed.covariates[name].observed)


def test_pupil_of_older_files_takes_the_clock_of_the_gaze(edited: Callable[..., Path], coded: Recording) -> None:
    def edit(file: h5py.File) -> None:
        fits = file["processing/eye_tracking/pupil_ellipse_fits"]
        clock = fits["timestamps"][:]
        del fits["timestamps"]
        fits.attrs["colnames"] = [n for n in fits.attrs["colnames"] if n != "timestamps"]
        file["processing/raw_gaze_mapping/eye_area/timestamps"] = clock

    def without(file: h5py.File) -> None:
        edit(file)
        del file["processing/raw_gaze_mapping"]

    assert (read(edited(edit)).covariates["pupil_area"].times == coded.covariates["pupil_area"].times).all()
    recording = read(edited(without))
    assert "pupil_area" not in recording.covariates
    assert recording.info.counts["pupil samples out: no clock"] > 1000


def test_what_is_missing_is_noted(edited: Callable[..., Path]) -> None:
    def edit(file: h5py.File) -> None:
        del file["processing/eye_tracking"], file["processing/running"], file["intervals/invalid_times"]

    recording = read(path := edited(edit))
    assert recording.info.notes == "missing: running speed, eye tracking"
    assert not {"running_speed", "pupil_area"} & set(recording.covariates)
    assert len(recording.domain) == 1
    (arguments,) = allen.sessions(str(path)).values()
    found = allen.plan(**arguments)
    assert found.missing == ["running speed", "eye tracking"]
    assert {"spikes", "electrodes", "natural_movie_one", "flashes"} <= set(found.present)
    assert found.size_bytes == path.stat().st_size


def test_unsafe_files_are_refused(edited: Callable[..., Path]) -> None:
    def external(file: h5py.File) -> None:
        del file["units/spike_times"]
        file["units/spike_times"] = h5py.ExternalLink("other.h5", "x")

    def objects(file: h5py.File) -> None:
        replace(file, "intervals/natural_scenes_presentations/frame", np.array([np.void(b"pickle")] * 3))

    def nobody(file: h5py.File) -> None:
        del file["general/subject/subject_id"]

    for edit, message in ((external, "another file"), (objects, "not read"), (nobody, "subject_id")):
        with pytest.raises(ValueError, match=message):
            read(edited(edit))


# Trials of stimuli, and frames


def test_trials_from_presentations(coding: Path, coded: Recording) -> None:
    assert not len(coded.trials)
    gratings = read(coding, trials="static_gratings").trials
    with pynwb.NWBHDF5IO(str(coding), "r") as io:
        table = io.read().intervals["static_gratings_presentations"].to_dataframe()
    np.testing.assert_allclose(gratings["start_s"], table["start_time"])
    showings = read(coding, trials="natural_movie_one").trials
    assert len(showings) == 3
    np.testing.assert_allclose(showings["stop_s"] - showings["start_s"], 900 * 2 / 59.95, atol=1e-6)
    assert read(coding, trials="dot_motion").info.counts["no dot_motion to make trials of"] == 1


def test_frame_counts_equal_a_naive_loop(coding: Path, ungapped: Recording) -> None:
    recording = ungapped
    with pynwb.NWBHDF5IO(str(coding), "r") as io:
        table = io.read().intervals["natural_movie_one_presentations"].to_dataframe()
    fine = frame_counts(recording, bins_per_frame=4)
    design = frame_design(recording, drop_silent=False)
    assert fine.activity.shape == (3, 3600, recording.num_units)
    assert design.activity.shape == (3, 900, recording.num_units)
    rng = np.random.default_rng(0)
    trains = [recording.spike_times[recording.spike_units == n] for n in range(recording.num_units)]
    for row in rng.integers(0, len(table), 150):
        repeat, frame = divmod(int(row), 900)
        start, stop = table["start_time"].iloc[row], table["stop_time"].iloc[row]
        edges = [start + (stop - start) * k / 4 for k in range(5)]
        for n, train in enumerate(trains):
            naive = [int(((train >= a - 1e-9) & (train < b - 1e-9)).sum()) for a, b in pairwise(edges)]
            assert fine.activity[repeat, 4 * frame : 4 * frame + 4, n].tolist() == naive
            assert design.activity[repeat, frame, n] == np.float32(np.mean(naive))
    np.testing.assert_array_equal(design.start_s.ravel(), table["start_time"])


def test_frame_design_leaves_out_what_it_says(ungapped: Recording, coded: Recording) -> None:
    """The gap of the domain lies in a showing; a silent unit goes only if asked to."""
    whole = frame_design(ungapped, drop_silent=False)
    design = frame_design(coded, drop_silent=False)
    assert design.counts["showings out: outside the domain"] + len(design.repeat) == 3
    for row, number in enumerate(design.repeat):
        np.testing.assert_array_equal(design.activity[row], whole.activity[number])
    silenced = ungapped
    inside = (silenced.spike_times >= whole.start_s[1, 0] - 1) & (silenced.spike_times < whole.start_s[1, -1] + 1)
    keep = ~(inside & (silenced.spike_units == 4))
    quiet = Recording(
        silenced.info,
        silenced.spike_times[keep],
        silenced.spike_units[keep],
        silenced.units,
        silenced.trials,
        silenced.domain,
        silenced.covariates,
    )
    dropped = frame_design(quiet)
    assert 4 not in dropped.units
    assert dropped.counts["units out: silent in a showing"] == silenced.num_units - len(dropped.units)
    assert len(frame_design(quiet, drop_silent=False).units) == silenced.num_units
    with pytest.raises(ValueError, match=r"no movie 'natural_movie_two'; it has \['natural_movie_one'\]"):
        frame_design(coded, "natural_movie_two")


def test_showings_of_a_movie() -> None:
    """Back to back, after a pause, cut off, and with a frame missing; against values written down."""
    spec = next(held.spec for held in HELD if held.spec.name == "natural_movie_one_frame")
    frames = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 2])
    start = np.array([0.0, 1, 2, 3, 4, 5, 10, 11, 20, 21])
    movie = hold("x", spec, start, start + 1, frames, Tally())
    assert movie.times is not None
    runs = movie_runs(movie)
    times = [(movie.times[a], movie.times[b]) for a, b in runs]
    assert times == [(0, 3), (3, 6), (10, 12), (20, 22)]
    assert [movie.values[a:b].tolist() for a, b in runs] == [[0, 1, 2], [0, 1, 2], [0, 1], [0, 2]]


def test_frames_can_be_decoded_from_simulated_units(ungapped: Recording) -> None:
    """Nearest neighbor from showings 1 and 2 to 3, within a second; a dozen visual units, so far above a guess only."""
    design = frame_design(ungapped)
    train, label = design.samples(slice(0, 2))
    test, truth = design.samples(slice(2, 3))
    kernel = np.ones(9) / 9

    def smooth(x: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(np.convolve, 0, np.sqrt(x), kernel, "same")

    a, b = smooth(train), smooth(test)
    guess = label[((a**2).sum(axis=1) - 2 * b @ a.T).argmin(axis=1)]
    near, by_chance = (np.abs(guess - truth) <= 30).mean(), (np.abs(guess - np.roll(truth, 450)) <= 30).mean()
    assert by_chance < 0.15
    assert near > max(0.2, 2 * by_chance)


# Sessions and corpora


def test_sessions_of_a_folder(folder: Path, tmp_path: Path) -> None:
    found = allen.sessions(str(folder))
    assert list(found) == ["allen_visual_coding/715093703", "allen_visual_behavior/1044385384"]
    assert allen.read(**found["allen_visual_behavior/1044385384"]).info.subject_id == "Mäuschen-506940"
    assert list(allen.sessions(str(folder), dataset="mine")) == ["mine/715093703", "mine/1044385384"]
    source = folder / "session_715093703" / "session_715093703.nwb"
    for name in ("a/x.nwb", "b/x.nwb", "c/probe_1_lfp.nwb", "c/sub-1_ses-2_probe-3_ecephys.nwb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(source.read_bytes())
    (tmp_path / "cut.nwb").write_bytes(source.read_bytes()[:5000])
    found = allen.sessions(str(tmp_path))
    assert list(found) == ["allen_visual_coding/715093703", "allen/cut"]
    assert allen.read(**found["allen_visual_coding/715093703"]).info.counts["files out: same session"] == 1
    with pytest.raises(ValueError, match="Fetch it again"):
        allen.read(**found["allen/cut"])
    with h5py.File(tmp_path / "b/x.nwb", "r+") as file:
        file["scratch_values"] = np.arange(10_000)
    with pytest.raises(ValueError, match="in two files that differ"):
        allen.read(**allen.sessions(str(tmp_path))["allen_visual_coding/715093703"])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (None, {}, "--source is missing"),
        ("no/such/folder", {}, "expected a folder"),
        (".", {"regions": "swanson"}, "regions is 'swanson'"),
        (".", {"trials": "movies"}, "trials is 'movies'"),
        (".", {"invalid": "some"}, "invalid is 'some'"),
        ("dandi:21", {}, "expected dandi:000021"),
        ("dandi:000003", {}, "dandiset 000003 is none of"),
    ],
)
def test_bad_options_are_refused(source: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allen.sessions(source, **options)


def test_prepare_and_open(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "session_1.nwb").write_bytes(b"not hdf5")
    done = prepare("allen", folder, tmp_path / "corpus")
    assert (len(done.written), done.failed) == (2, {})
    assert len(prepare("allen", folder, tmp_path / "corpus").skipped) == 2
    failed = prepare("allen", tmp_path / "bad", tmp_path / "corpus").failed
    assert "cannot be read as HDF5" in failed["allen/1"]
    recording = Corpus.open(tmp_path / "corpus")["allen_visual_coding/715093703"]
    direct = read(folder / "session_715093703" / "session_715093703.nwb")
    np.testing.assert_array_equal(recording.spike_times, direct.spike_times)
    assert recording.covariates["natural_movie_one_frame"].spec == direct.covariates["natural_movie_one_frame"].spec
    assert set(recording.units["region"]) <= {"Isocortex", "HPF", "TH", "MB", ""}


def test_stimulus_names_of_either_data_set() -> None:
    given = {
        "natural_movie_one_more_repeats": "natural_movie_one",
        "natural_movie_one_shuffled": "natural_movie_one_shuffled",
        "drifting_gratings_75_repeats": "drifting_gratings",
        "Natural_Images_Lum_Matched_set_ophys_H_2019": "natural_images",
        "gabor_20_deg_250ms": "gabors",
        "flash_250ms": "flashes",
        "invented": "other",
    }
    assert {name: stimulus_of(name) for name in given} == given


# DANDI


@pytest.fixture
def server(coding: Path) -> Iterator[SimpleNamespace]:
    """Serves the session at any address, whole or from a byte on."""
    content = coding.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first = int((self.headers["Range"] or "bytes=0-").split("=")[1].split("-")[0])
            self.send_response(206 if self.headers["Range"] else 200)
            self.send_header("Content-Length", str(len(content) - first))
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", '"version 7"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[first:])

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{httpd.server_port}", size=len(content))
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_dandi_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dandi", None)
    with pytest.raises(ValueError, match=r"pip install 'foundation\[dandi\]'"):
        allen.sessions("dandi:000021")


def test_dandi_sessions_are_listed_and_read(
    server: SimpleNamespace, coded: Recording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def asset(name: str) -> SimpleNamespace:
        return SimpleNamespace(path=name, get_content_url=lambda **_: f"{server.url}/blobs/6f3a")

    names = ["sub-1/sub-1_ses-715093703.nwb", "sub-1/sub-1_ses-715093703_probe-8_ecephys.nwb", "dandiset.yaml"]

    class Client:
        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def get_dandiset(self, name: str, version: str | None) -> SimpleNamespace:
            assert (name, version) == ("000021", "0.220126.1855")
            return SimpleNamespace(get_assets=lambda: map(asset, names))

    module = ModuleType("dandi.dandiapi")
    module.DandiAPIClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dandi", ModuleType("dandi"))
    monkeypatch.setitem(sys.modules, "dandi.dandiapi", module)
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path))
    ((name, arguments),) = allen.sessions("dandi:000021/0.220126.1855").items()
    assert name == "allen_visual_coding/715093703"
    assert allen.plan(**arguments).size_bytes == server.size
    np.testing.assert_array_equal(allen.read(**arguments).spike_times, coded.spike_times)


def test_a_file_behind_a_url_is_named_by_its_name(server: SimpleNamespace, coded: Recording) -> None:
    found = allen.sessions(f"{server.url}/sub-1_ses-9.nwb", dataset="mine")
    assert list(found) == ["mine/9"]
    np.testing.assert_array_equal(allen.read(**found["mine/9"]).spike_times, coded.spike_times)


def _same(covariate: Covariate, times: Any, values: Any) -> None:
    """Sample by sample, NaN not observed."""
    values = np.asarray(values, np.float32)
    np.testing.assert_array_equal(covariate.times, np.asarray(times))
    finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
    np.testing.assert_array_equal(covariate.observed, finite)
    np.testing.assert_array_equal(covariate.values[finite], values[finite])


def _at(covariate: Covariate, moment: float) -> tuple[bool, float]:
    """Whether the covariate is observed at a moment (s), and its value then."""
    assert covariate.times is not None
    row = int(covariate.times.searchsorted(moment, side="right")) - 1
    return (False, 0) if row < 0 else (bool(covariate.observed[row]), covariate.values[row])
