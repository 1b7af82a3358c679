"""The recipe `nwb`: real and written files equal pynwb's own reading, sample by sample; the listing; bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pynwb
import pytest
import yaml
from pynwb.behavior import BehavioralEpochs, BehavioralEvents, CompassDirection, Position

from data_recipes import nwb
from data_recipes.nwb_listing import describe
from data_recipes.recipe import prepare
from foundation.binning import bin_covariate
from foundation.corpus import Corpus
from foundation.recording import Recording

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "nwb"
SECONDS = 120.0
# pynwb of what files made before it hold.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:UserWarning")
Edit = Callable[..., Recording]
Edited = tuple[Edit, Path]


def read(source: Path, **options: Any) -> Recording:
    """The only session of a source."""
    ((name, job),) = nwb.sessions(source, **options).items()
    recording = nwb.read(**job)
    assert recording.info.recording_id == name
    return recording


def mapped(folder: Path, text: str) -> Path:
    path = folder / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of pynwb's own writer with one of everything."""
    rng = np.random.default_rng(0)
    file = pynwb.NWBFile("a test", "id-1", datetime(2024, 1, 1, tzinfo=UTC), session_id="../x")
    file.subject = pynwb.file.Subject(subject_id="Mäuschen 7", species="Mus musculus")
    device = file.create_device("probe")
    groups = [file.create_electrode_group(f"shank {k}", "", f"area{k}", device) for k in range(2)]
    for k in range(6):
        file.add_electrode(group=groups[k // 3], location=["VISp", "VISp", "CA1", "CA1", "DG", "DG"][k])
    add_units(file, rng)
    add_trials(file, rng)
    file.add_epoch(5.0, 40.0, ["rest"])
    file.add_epoch(40.0, 90.0, ["task"])
    file.add_invalid_time_interval(50.0, 55.0)
    add_behavior(file, rng)
    path = tmp_path_factory.mktemp("nwb") / "séance 1.nwb"
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def train(rng: np.random.Generator, num: int) -> np.ndarray:
    return np.sort(rng.uniform(0.5, SECONDS - 0.5, num))


def add_units(file: pynwb.NWBFile, rng: np.random.Generator) -> None:
    """Five units, of which 2 is silent and 4 has no electrode; two more in another table, with ids 0 and 1 as well."""
    file.add_unit_column("quality", "of sorting")
    file.add_unit_column("snr", "ratio")
    for k in range(5):
        file.add_unit(
            spike_times=train(rng, 0 if k == 2 else 400 + 50 * k),
            electrodes=[k, k + 1] if k < 4 else [],
            quality=["good", "mua", "good", "noise", "good"][k],
            snr=float(k),
            waveform_mean=rng.random(4),
        )
    more = pynwb.misc.Units(name="more_units", description="of another sorter")
    more.add_column("area", "where")
    for k in range(2):
        more.add_unit(spike_times=train(rng, 300), area=f"X{k}")
    file.create_processing_module("ecephys", "").add(more)


def add_trials(file: pynwb.NWBFile, rng: np.random.Generator) -> None:
    for name in ("choice", "contrast", "correct", "go_cue_time", "kind"):
        file.add_trial_column(name, name)
    file.add_trial_column("touches", "a list of each trial", index=True)
    for k in range(25):
        start = 2 + 4.5 * k
        file.add_trial(
            start,
            start + 3,
            choice=["left", "right", "none"][k % 3],
            contrast=np.nan if k % 5 == 0 else rng.random(),
            correct=bool(k % 2),
            go_cue_time=start + 0.5,
            kind=k % 4,
            touches=[1.0] * (k % 3),
        )


def add_behavior(file: pynwb.NWBFile, rng: np.random.Generator) -> None:
    module = file.create_processing_module("behavior", "")
    speed = rng.integers(-100, 100, 5000).astype(np.int16)
    module.add(
        pynwb.TimeSeries(
            "running_speed", data=speed, unit="cm/s", rate=50.0, starting_time=3.0, conversion=0.1, offset=2.0
        )
    )
    clock = np.arange(-1, SECONDS, 0.04)
    pupil = rng.normal(size=(len(clock), 3))
    pupil[7:11, 1] = np.nan
    module.add(pynwb.TimeSeries("pupil", data=pupil, unit="unknown", timestamps=clock))
    head = np.mod(np.cumsum(rng.normal(size=len(clock)) * 0.2), 2 * np.pi)
    compass = CompassDirection(name="CompassDirection")
    compass.create_spatial_series("head", data=head, unit="radians", reference_frame="", timestamps=clock)
    module.add(compass)
    position = Position(name="Position")
    for axis in "xy":
        position.create_spatial_series(axis, rng.normal(size=500), unit="meters", reference_frame="", rate=5.0)
    file.add_acquisition(position)
    rewards = pynwb.event.EventsTable(name="rewards", description="drops")
    for time in train(rng, 9):
        rewards.add_event(timestamp=time)
    file.add_events_table(rewards)
    licks = BehavioralEvents(name="licks")
    licks.create_timeseries("lick", data=np.ones(30), unit="n.a.", timestamps=train(rng, 30))
    module.add(licks)
    epochs = BehavioralEpochs(name="epochs_of_behavior")
    epochs.create_interval_series("still", data=[1, -1, 1, -1], timestamps=[10.0, 20.0, 30.0, 35.0])
    module.add(epochs)
    electrodes = file.create_electrode_table_region([0, 1], "two")
    file.add_acquisition(
        pynwb.ecephys.ElectricalSeries("lfp", data=rng.normal(size=(50, 2)), electrodes=electrodes, rate=1000.0)
    )
    file.add_acquisition(pynwb.TimeSeries("sync", data=np.zeros(3000), unit="V", rate=30_000.0))
    file.add_acquisition(pynwb.TimeSeries("wide", data=np.zeros((10, 17)), unit="V", rate=1.0))
    file.add_acquisition(pynwb.misc.AnnotationSeries("notes", data=["a", "b"], timestamps=[1.0, 2.0]))


@pytest.fixture(scope="session")
def plain(written: Path) -> Recording:
    return read(written)


@pytest.fixture(scope="session")
def upstream(written: Path) -> Any:
    with pynwb.NWBHDF5IO(str(written), "r") as io:
        yield io.read()


@pytest.fixture
def edited(written: Path, tmp_path: Path) -> Edit:
    """`edited(change, **options)`: what is read from a copy after `change(file)`."""

    def edit(change: Callable[[h5py.File], Any], **options: Any) -> Recording:
        path = tmp_path / "session.nwb"
        shutil.copy(written, path)
        with h5py.File(path, "r+") as file:
            change(file)
        return read(path, **options)

    return edit


def put(key: str, values: Any) -> Callable[[h5py.File], None]:
    """Replace an array, keep its attributes."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[key].attrs)
        del file[key]
        file[key] = values
        file[key].attrs.update(attributes)

    return change


def spikes_of(recording: Recording, unit: int) -> np.ndarray:
    return recording.spike_times[recording.spike_units == unit]


def test_spikes_and_units_are_those_of_pynwb(plain: Recording, upstream: Any) -> None:
    alive = [0, 1, 3, 4]
    assert plain.num_units == 4
    for row, unit in enumerate(alive):
        np.testing.assert_array_equal(spikes_of(plain, row), upstream.units["spike_times"][unit])
    assert (np.diff(plain.spike_times) >= 0).all()
    assert plain.units["region"].tolist() == ["VISp", "VISp", "CA1", ""]
    assert plain.units["probe"].tolist() == ["shank 0", "shank 0", "shank 1", ""]
    assert plain.units["unit_id"].tolist()[:2] == [f"{plain.info.recording_id}/shank_0/{i}" for i in (0, 1)]
    assert plain.units["quality"].tolist() == [upstream.units["quality"][i] for i in alive]
    assert plain.units["snr"].tolist() == [float(i) for i in alive]


def test_series_are_those_of_pynwb(plain: Recording, upstream: Any) -> None:
    c, behavior = plain.covariates, upstream.processing["behavior"]
    speed = behavior["running_speed"]
    np.testing.assert_array_equal(c["running_speed"].values, speed.get_data_in_units().astype(np.float32))
    np.testing.assert_allclose(c["running_speed"].times, speed.get_timestamps(), rtol=0, atol=1e-9)
    assert c["running_speed"].spec.unit == "cm/s"
    pupil = behavior["pupil"]
    later = pupil.timestamps[:] >= 0
    assert (c["pupil"].spec.dim, plain.info.counts["pupil samples out: before 0 s"]) == (3, 25)
    np.testing.assert_array_equal(c["pupil"].times, pupil.timestamps[:][later])
    seen = np.isfinite(pupil.data[:][later]).all(axis=1)
    np.testing.assert_array_equal(c["pupil"].observed, seen)
    np.testing.assert_array_equal(c["pupil"].values[seen], pupil.data[:][later][seen].astype(np.float32))
    head = behavior["CompassDirection"]["head"].data[:][later]
    np.testing.assert_allclose(c["head"].values, np.stack([np.cos(head), np.sin(head)], axis=1), atol=1e-7)
    for axis in "xy":
        source = upstream.acquisition["Position"][axis]
        np.testing.assert_array_equal(c[f"Position_{axis}"].values, source.data[:].astype(np.float32))
        assert c[f"Position_{axis}"].spec.unit == "m"
    np.testing.assert_array_equal(c["lick"].times, behavior["licks"]["lick"].timestamps[:])
    np.testing.assert_array_equal(c["rewards"].times, upstream.events["rewards"]["timestamp"][:])
    for at, state in ((5.0, None), (15.0, 1), (25.0, 0), (32.0, 1), (36.0, 0)):
        value, observed = bin_covariate(c["still"], at, 1, 1e-3)
        assert (value[0, 0] if observed[0] else None) == state, at


def test_trials_are_those_of_pynwb(plain: Recording, upstream: Any) -> None:
    trials, source = plain.trials, upstream.trials.to_dataframe()
    np.testing.assert_array_equal(trials["start_s"], source["start_time"])
    np.testing.assert_array_equal(trials["stop_s"], source["stop_time"])
    # Text stays a column of the trials, numbers are covariates of the trial.
    assert trials["choice"].tolist() == source["choice"].tolist()
    c = plain.covariates
    np.testing.assert_array_equal(c["contrast"].observed, source["contrast"].notna())
    np.testing.assert_array_equal(c["contrast"].values, source["contrast"].fillna(0).to_numpy(np.float32))
    np.testing.assert_array_equal(c["correct"].values, source["correct"])
    assert (c["correct"].spec.num_classes, c["correct"].spec.role) == (2, "task")
    np.testing.assert_array_equal(c["kind"].values, source["kind"])
    np.testing.assert_array_equal(c["go_cue"].times, source["go_cue_time"])


def test_domain_is_whole_seconds_without_invalid_times(plain: Recording, written: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(plain.domain, [[0, 50], [55, 120]])
    assert plain.info.counts["invalid intervals taken out of the domain"] == 1
    chosen = read(written, mapping=mapped(tmp_path, "domain: intervals/epochs"))
    np.testing.assert_array_equal(chosen.domain, [[5, 50], [55, 90]])


def test_nothing_is_dropped_silently(plain: Recording, written: Path) -> None:
    counts, notes = plain.info.counts, plain.info.notes
    assert (counts["units in"], counts["units out: no spikes"], counts["units kept"]) == (5, 1, 4)
    assert counts["spikes in"] == counts["spikes kept"] == len(plain.spike_times)
    for left in (
        *("units/waveform_mean", "units/electrodes", "processing/ecephys/more_units", "intervals/trials/touches"),
        *("acquisition/lfp (ElectricalSeries)", "acquisition/sync (30000 Hz)", "acquisition/wide (shape (10, 17))"),
        *("acquisition/notes (AnnotationSeries)", "intervals/epochs"),
    ):
        assert left in notes, left
    for taken in ("running_speed", "pupil", "snr", "choice"):
        assert taken not in notes, taken
    assert (plain.info.subject_id, plain.info.species) == ("Mäuschen 7", "Mus musculus")
    assert plain.info.recording_id == f"{written.parent.name}/séance_1"


MAPPING = """
dataset: lab
species: mouse
units:
- {path: units, region: electrode_group.location, probe: electrode_group.name, keep: {quality: [good, mua]}}
- {path: processing/ecephys/more_units, region: area}
trials: {path: intervals/trials, usable: correct}
covariates:
  where: {path: [acquisition/Position/x, acquisition/Position/y], unit: m}
  pupil: {path: processing/behavior/pupil, channels: [2, 0]}
  head: {path: /processing/behavior/CompassDirection/head, unit: rad}
  epoch: {path: intervals/epochs, column: tags, classes: [rest, task], role: task}
  phase: {path: [intervals/invalid_times, intervals/epochs]}
  invalid: {path: intervals/invalid_times, unobserved_in: intervals/epochs}
  speed: {path: processing/behavior/running_speed, observed_in: [intervals/invalid_times, intervals/epochs]}
  choice: {path: intervals/trials, column: choice, classes: [left, right], missing: [none]}
  kind: {path: intervals/trials, column: kind, kind: categorical, num_classes: 4}
  start: {path: intervals/trials, column: start_time, kind: event}
  whisker: {path: processing/behavior/whisker, optional: true}
"""


def test_a_mapping_chooses(edited: Edit, tmp_path: Path, upstream: Any) -> None:
    def change(file: h5py.File) -> None:
        put("intervals/invalid_times/start_time", np.array([92.0]))(file)
        put("intervals/invalid_times/stop_time", np.array([95.0]))(file)
        # pynwb wrote no electrode groups of units.
        references = [file["general/extracellular_ephys"][f"shank {k % 2}"].ref for k in range(5)]
        file["units"].create_dataset("electrode_group", data=references, dtype=h5py.ref_dtype)
        file["units"].attrs["colnames"] = [*file["units"].attrs["colnames"], "electrode_group"]

    recording = edited(change, mapping=mapped(tmp_path, MAPPING))
    assert recording.info.recording_id == "lab/session"
    counts = recording.info.counts
    assert (counts["units in"], counts["units out: quality not good or mua"], counts["units out: no spikes"]) == (
        7,
        1,
        1,
    )
    assert recording.units["region"].tolist() == ["area0", "area1", "area0", "X0", "X1"]
    ids = [unit.removeprefix("lab/session/") for unit in recording.units["unit_id"]]
    assert ids == ["shank_0/0", "shank_1/1", "shank_0/4", "more_units/0", "more_units/1"]
    more = upstream.processing["ecephys"]["more_units"]
    for row, expected in enumerate([*(upstream.units["spike_times"][k] for k in (0, 1, 4)), *more["spike_times"][:]]):
        np.testing.assert_array_equal(spikes_of(recording, row), expected)
    c = recording.covariates
    x, y = (upstream.acquisition["Position"][axis].data[:].astype(np.float32) for axis in "xy")
    np.testing.assert_array_equal(c["where"].values, np.stack([x, y], axis=1))
    pupil = upstream.processing["behavior"]["pupil"]
    later = pupil.timestamps[:] >= 0
    np.testing.assert_array_equal(c["pupil"].values, pupil.data[:][later][:, [2, 0]].astype(np.float32))
    assert c["head"].spec.dim == 1
    for at, epoch in ((2.0, None), (6.0, 0), (39.9, 0), (40.1, 1), (91.0, None)):
        value, observed = bin_covariate(c["epoch"], at, 1, 1e-3)
        assert (value[0, 0] if observed[0] else None) == epoch, at
    for at, phase in ((2.0, None), (60.0, 1), (91.0, None), (93.0, 0), (96.0, None)):
        value, observed = bin_covariate(c["phase"], at, 1, 1e-3)
        assert (value[0, 0] if observed[0] else None) == phase, at
    for at, invalid in ((2.0, 0), (5.0, None), (60.0, None), (91.0, 0), (93.0, 1), (95.1, 0)):
        value, observed = bin_covariate(c["invalid"], at, 1, 1e-3)
        assert (value[0, 0] if observed[0] else None) == invalid, at
    at = c["speed"].times
    np.testing.assert_array_equal(c["speed"].observed, ((at >= 5) & (at < 90)) | ((at >= 92) & (at < 95)))
    source = upstream.trials.to_dataframe()
    np.testing.assert_array_equal(c["choice"].observed, source["choice"] != "none")
    np.testing.assert_array_equal(
        np.array(["left", "right"])[c["choice"].values[c["choice"].observed]],
        source["choice"][source["choice"] != "none"],
    )
    assert recording.trials["source_choice"].tolist() == source["choice"].tolist()
    np.testing.assert_array_equal(c["kind"].values, source["kind"])
    np.testing.assert_array_equal(c["start"].times, source["start_time"])
    np.testing.assert_array_equal(recording.trials["usable"], source["correct"])
    assert "not in the file: whisker" in recording.info.notes


def test_the_proposed_mapping_runs_as_it_is(written: Path, tmp_path: Path) -> None:
    text = describe(str(written))
    for line in (
        "#   units: 5 units (1 without spikes)",
        "#   intervals/epochs: 2 rows, 5 to 90 s; columns tags (rest, task)",
        "#   processing/behavior/running_speed: TimeSeries (5000,), 50 Hz by rate, 3 to 102.98 s, unit 'cm/s'",
        "#   acquisition/sync: TimeSeries (3000,), 3e+04 Hz by rate, 0 to 0.0999667 s, unit 'V'; not in the mapping",
    ):
        assert line in text, line
    recording = read(written, mapping=mapped(tmp_path, text))
    # Everything that is read without a mapping, and text as classes.
    default = read(written)
    assert set(recording.covariates) == {*default.covariates, "choice", "epochs"}
    assert recording.covariates["choice"].spec.num_classes == 3
    assert recording.units["region"].tolist() == default.units["region"].tolist()


@pytest.mark.real
def test_real_files_equal_pynwb(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "head_direction_nwb"
    recording = read(folder, mapping=CONFIGS / "head_direction.yaml", ending="_units.nwb")
    with pynwb.NWBHDF5IO(str(folder / "A2929-200711_units.nwb"), "r") as io:
        file = io.read()
        for unit in range(15):
            np.testing.assert_array_equal(spikes_of(recording, unit), file.units["spike_times"][unit])
        assert recording.units["region"].tolist() == list(file.units["location"][:])
        head = file.acquisition["CompassDirection"]["ry"]
        c = recording.covariates
        np.testing.assert_array_equal(c["head_direction"].times, head.timestamps[:])
        angle = np.arctan2(c["head_direction"].values[:, 1], c["head_direction"].values[:, 0]) % (2 * np.pi)
        difference = np.abs(angle - head.data[:])
        assert np.minimum(difference, 2 * np.pi - difference).max() < 1e-6
        for channel, axis in enumerate("xz"):
            source = file.acquisition["Position"][axis].data[:].astype(np.float32)
            np.testing.assert_array_equal(c["position"].values[:, channel], source)
        ripples = file.intervals["sleep_ripples"].to_dataframe()
        np.testing.assert_array_equal(c["ripple_peak"].times, file.acquisition["sleep_ripples"].timestamps[:])
        middles = (ripples["start_time"] + ripples["stop_time"]) / 2
        assert all(bin_covariate(c["ripple"], middle, 1, 1e-4)[0][0, 0] == 1 for middle in middles)
        assert bin_covariate(c["ripple"], 599.9, 1, 1e-3)[1][0]
        assert not bin_covariate(c["ripple"], 600.1, 1, 1e-3)[1][0]
        for at, state in ((1.0, 0), (599.0, 0), (600.5, 1), (1199.0, 1)):
            value, observed = bin_covariate(c["state"], at, 1, 1e-3)
            assert (value[0, 0], observed[0]) == (state, True)
    # The file of position has no units; the session that is spread over two files is not put together.
    done = prepare("nwb", folder, tmp_path, options={"mapping": mapped(tmp_path, describe(str(folder)))})
    assert [name.split("/")[1] for name in done.written] == ["A2929-200711_units"]
    ((failed, error),) = done.failed.items()
    assert failed.endswith("_position")
    assert "no 'units'; the file offers intervals" in error
    opened = Corpus.open(tmp_path)[done.written[0]]
    assert set(opened.covariates) >= {"CompassDirection_ry", "Position_x", "epochs", "sleep_ripples"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense: 1", r"no entry \['nonsense'\]; there are"),
        ("units: {region: x}", r"units: \['path'\] is missing"),
        ("units: [{path: units, area: x}]", r"units: no entry \['area'\]"),
        ("trials: {path: intervals/trials, begin: x}", r"trials: no entry \['begin'\]"),
        ("covariates: {a: {path: x, nuts: 1}}", r"covariates.a: no entry \['nuts'\]"),
        ("covariates: {a: {column: x}}", r"covariates.a: \['path'\] is missing"),
        ("- a list", "expected a mapping"),
        ("dataset: ../x", "dataset '../x' is no name of a folder"),
        ("units: {path: more}", r"no 'more'; the file offers units \[processing/ecephys/more_units, units\]"),
        ("units: {path: intervals/trials}", "no spike times of units; it has"),
        ("units: {path: units, region: cortex}", "units has no column 'cortex' of text or numbers; it has"),
        ("units: {path: units, region: electrodes.depth}", "the electrodes have no column 'depth'; they have"),
        ("units: {path: units, region: electrode_group.location}", "refers to no electrode group"),
        ("units: {path: units, keep: {quality: superb}}", r"none of 5 units is left: .*quality not superb"),
        ("units: {path: units, keep: {kind: x}}", "keep: no column 'kind'"),
        ("units: [{path: units}, {path: units}]", "names two units, expected one; give `probe`"),
        ("trials: {path: units}", "has no times start_time and stop_time"),
        ("trials: {path: intervals/trials, usable: contrast}", "no column of booleans 'contrast'"),
        ("covariates: {a: {path: acquisition}}", "no data, expected a TimeSeries"),
        ("covariates: {a: {path: intervals/epochs, column: tags}}", r"name their `classes`, out of \['rest', 'task'\]"),
        (
            "covariates: {a: {path: processing/behavior/pupil, kind: event, observed_in: intervals/epochs}}",
            "are for series and states, not events or trials",
        ),
        ("covariates: {a: {path: intervals/epochs, column: x}}", "no column 'x' of a number or text a row"),
        ("covariates: {a: {path: processing/behavior/pupil, channels: 3}}", r"expected channels \[3\]"),
        ("covariates: {a: {path: processing/behavior/pupil, circular: true}}", "expected one angle per time"),
        ("covariates: {a: {path: processing/behavior/pupil, kind: classes}}", "kind is 'classes', expected one of"),
        ("covariates: {a: {path: processing/behavior/pupil, role: x}}", "role is 'x', expected one of"),
        (
            "covariates: {a: {path: [acquisition/Position/x, processing/behavior/running_speed]}}",
            "must be vectors at the times of acquisition/Position/x",
        ),
    ],
)
def test_mappings_that_do_not_fit(written: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(written, mapping=mapped(tmp_path, text))


def far(key: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = h5py.ExternalLink("elsewhere.nwb", f"/{key}")

    return change


def through(file: h5py.File) -> None:
    """A soft link that leaves the file by an external one."""
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as elsewhere:
        elsewhere["x"] = np.zeros(2100)
    file["scratch/hidden"] = h5py.ExternalLink(str(other), "/")
    del file["units/spike_times"]
    file["units/spike_times"] = h5py.SoftLink("/scratch/hidden/x")


def pickled(key: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        attributes, size = dict(file[key].attrs), len(file[key])
        del file[key]
        file.create_dataset(key, (size,), dtype=h5py.vlen_dtype(np.uint8)).attrs.update(attributes)

    return change


def milliseconds(*keys: str) -> Callable[[h5py.File], None]:
    return lambda file: [put(key, file[key][:] * 1000)(file) for key in keys]


PUPIL = "processing/behavior/pupil"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (milliseconds("units/spike_times"), "in milliseconds or samples"),
        (milliseconds(f"{PUPIL}/timestamps"), "pupil: .*Are they in milliseconds"),
        (milliseconds("intervals/trials/start_time", "intervals/trials/stop_time"), "trials: .*in milliseconds"),
        (milliseconds("intervals/trials/go_cue_time"), "go_cue_time: .*in milliseconds"),
        (put(f"{PUPIL}/timestamps", np.arange(9.0)), r"samples at \(9,\) times"),
        (put("units/spike_times_index", np.array([400, 850, 850, 800, 9999])), "expected rising ends"),
        (put("units/electrodes", np.full(8, 77)), "rows up to 77 of 6 electrodes"),
        (put("units/id", np.zeros(5, int)), "names two units"),
        (put("units/id", np.arange(4)), "4 units in id, 5 in spike_times_index"),
        (put("intervals/trials/stop_time", np.zeros(3)), "25 starts, 3 stops"),
        (put("intervals/trials/contrast", np.zeros(3)), "3 values of 25 trials"),
        (put("units/spike_times", np.full(2100, np.nan)), "no spike is left"),
        (pickled("units/spike_times"), "expected a vector of numbers"),
        (far("units"), "no units, expected a table with spike times"),
        (far("units/spike_times"), "lies in another file"),
        (through, "lies in another file"),
        (far(f"{PUPIL}/timestamps"), "lies in another file"),
        (lambda file: file.pop("general/subject"), "general/subject/subject_id is empty, expected the animal's name"),
        (lambda file: file.attrs.pop("nwb_version"), "expected NWB 2"),
    ],
)
def test_refused(edited: Edit, change: Callable[[h5py.File], Any], message: str) -> None:
    def without_more(file: h5py.File) -> None:
        del file["processing/ecephys"]
        change(file)

    with pytest.raises(ValueError, match=message):
        edited(without_more)


def test_what_lies_in_another_file_is_named_and_not_followed(edited: Edit, tmp_path: Path) -> None:
    recording = edited(far(PUPIL))
    assert f"in other files, not followed: {PUPIL}" in recording.info.notes
    assert "pupil" not in recording.covariates
    with pytest.raises(ValueError, match="lies in another file"):
        edited(far(PUPIL), mapping=mapped(tmp_path, f"covariates: {{a: {{path: {PUPIL}}}}}"))


def test_pickled_columns_are_named_and_not_read(edited: Edit, tmp_path: Path) -> None:
    change = pickled("intervals/trials/contrast")
    recording = edited(change)
    assert "intervals/trials/contrast" in recording.info.notes
    assert "contrast" not in recording.covariates
    text = "{trials: {path: intervals/trials}, covariates: {a: {path: intervals/trials, column: contrast}}}"
    with pytest.raises(ValueError, match="no column 'contrast' of a number or text"):
        edited(change, mapping=mapped(tmp_path, text))


def test_a_file_that_holds_itself_is_read_once(edited: Edit, plain: Recording) -> None:
    def circle(file: h5py.File) -> None:
        file["scratch/all"] = file["/"]
        file["scratch/again"] = h5py.SoftLink("/")

    assert set(edited(circle).covariates) == set(plain.covariates)


def test_trials_in_any_order_and_spikes_of_any_time(edited: Edit, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        start, stop = file["intervals/trials/start_time"][:], file["intervals/trials/stop_time"][:]
        start[[3, 9]], stop[[3, 9]] = start[[9, 3]], stop[[9, 3]]
        stop[5] += 2.5
        start[7] = np.nan
        stop[11] = start[11]
        spikes = file["units/spike_times"][:]
        first = int(file["units/spike_times_index"][0])
        spikes[:first] = -1.0  # all of unit 0
        spikes[first] = np.nan
        spikes[first + 1], spikes[first + 2] = 90.0, 80.0
        for key, values in (
            ("intervals/trials/start_time", start),
            ("intervals/trials/stop_time", stop),
            ("units/spike_times", spikes),
        ):
            put(key, values)(file)

    recording = edited(change)
    counts = recording.info.counts
    assert (np.diff(recording.trials["start_s"]) > 0).all()
    assert recording.trials["source_index"].tolist()[:5] == [0, 1, 2, 9, 4]
    assert (counts["trials out of order"], counts["trials cut at the start of the next"]) == (2, 1)
    assert counts["trials out: bounds not finite"] == counts["trials out: stop not after start"] == 1
    assert (np.diff(recording.spike_times) >= 0).all()
    assert (counts["spikes out: time not finite"], counts["spikes out: before 0 s"]) == (1, 400)
    # A unit all of whose spikes are left out has none.
    assert (counts["units out: no spike after 0 s"], counts["units kept"], recording.num_units) == (1, 3, 3)
    assert set(np.unique(recording.spike_units)) == {0, 1, 2}
    with h5py.File(tmp_path / "session.nwb") as file:
        contrast = file["intervals/trials/contrast"][:][recording.trials["source_index"]]
    np.testing.assert_array_equal(recording.covariates["contrast"].values, np.nan_to_num(contrast).astype(np.float32))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_truncated(written: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.nwb"
    content = written.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cannot be read as HDF5 .*unfinished"):
        read(path)
    with pytest.raises(ValueError, match=r"cannot be read as HDF5 .*unfinished"):
        describe(str(path))


def test_another_source(written: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.nwb", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="an HDF5 file that is not NWB, expected NWB 2"):
        read(tmp_path)
    with pytest.raises(ValueError, match="expected a folder or a file"):
        nwb.sessions(tmp_path / "nothing")
    with pytest.raises(ValueError, match="--source is missing"):
        nwb.sessions(None)
    for folder in ("a", "b"):
        (tmp_path / folder / "data").mkdir(parents=True)
        shutil.copy(written, tmp_path / folder / "data" / "x.nwb")
    with pytest.raises(ValueError, match="are both 'data/x'"):
        nwb.sessions(tmp_path)


def test_a_plan_says_what_is_there(written: Path, tmp_path: Path) -> None:
    (job,) = nwb.sessions(written, mapping=mapped(tmp_path, MAPPING)).values()
    plan = nwb.plan(**job)
    assert (plan.size_bytes, plan.missing) == (written.stat().st_size, ["whisker"])
    assert {"units", "trials", "where", "choice"} <= set(plan.present)
    assert nwb.plan(**job | {"path": "s3://bucket/x.nwb"}).size_bytes == plan.size_bytes
    (job,) = nwb.sessions(written).values()
    assert nwb.plan(**job).missing == []
    with h5py.File(shutil.copy(written, tmp_path / "x.nwb"), "r+") as file:
        del file["general/subject"]
    (job,) = nwb.sessions(tmp_path / "x.nwb").values()
    assert nwb.plan(**job).missing == ["subject"]


def test_every_config_can_be_loaded() -> None:
    for path in CONFIGS.glob("*.yaml"):
        assert nwb.load_mapping(path)["covariates"]
    # The example of every entry does name every entry.
    every = yaml.safe_load((CONFIGS / "every_entry.yaml").read_text())
    used = {key for entry in every["covariates"].values() for key in entry}
    assert used == nwb.COVARIATE_ENTRY
    assert set(every) == nwb.MAPPING
    assert {key for entry in every["units"] for key in entry} == nwb.UNITS
