"""The recipe `brainsets`: real and written files equal torch_brain's own reading, sample by sample; bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_recipes import brainsets
from data_recipes.brainsets_trials import STRETCH_S
from data_recipes.intervals import inside, union
from data_recipes.recipe import prepare
from foundation.binning import bin_covariate
from foundation.corpus import Corpus
from foundation.recording import Recording
from foundation.splits import STRETCH_S as SPLITS_STRETCH_S

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "brainsets"
Edit = Callable[..., Recording]


def read(path: Path, **options: Any) -> Recording:
    """The only session of a source."""
    ((name, job),) = brainsets.sessions(path, **options).items()
    recording = brainsets.read(**job)
    assert recording.info.recording_id == name
    return recording


def covered(intervals: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Naive: which times lie in any interval."""
    return np.array([any(a <= t < b for a, b in intervals) for t in times], dtype=bool)


@pytest.fixture(scope="session")
def tb() -> Any:
    return pytest.importorskip("torch_brain.data", reason="torch_brain, whose format this is, is not installed")


@pytest.fixture(scope="session")
def written(tb: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torch_brain's own writer with every kind of object; unit 2 is silent, a camera starts before 0 s."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0.5, 119.5, 4000))
    rows = rng.choice([0, 1, 3, 4], len(times))
    start = np.arange(0, 118, 4.0) + 0.5
    trials = tb.Interval(
        start=start,
        end=start + 3,
        go_cue_time=np.where(np.arange(len(start)) % 7, start + 1, np.nan),
        contrast=np.where(np.arange(len(start)) % 5, rng.uniform(size=len(start)), np.nan),
        correct=rng.random(len(start)) < 0.5,
        outcome=rng.choice(["hit", "miss"], len(start)),
        corners=rng.normal(size=(len(start), 4)),
    )
    camera = np.arange(-1, 119, 0.05)
    pose = rng.normal(size=(len(camera), 2))
    pose[5:9] = np.nan
    gappy = np.delete(np.arange(0, 100, 0.02), np.s_[1000:2000])
    data = tb.Data(
        brainset=tb.BrainsetDescription(
            id="tiny", origin_version="1", derived_version="2", source="here", description="a test"
        ),
        subject=tb.SubjectDescription(id="Mäuschen 7", species="MUS_MUSCULUS"),
        session=tb.SessionDescription(id="../x"),
        device=tb.DeviceDescription(id="probe"),
        spikes=tb.IrregularTimeSeries(
            timestamps=times, unit_index=rows, amplitude=rng.random(len(times)), domain="auto"
        ),
        units=tb.ArrayDict(
            id=np.array([f"group/{i}" for i in range(5)]),
            brain_region=np.array(["M1", "M1", "PMd", "PMd", "PMd"]),
            template=rng.random((5, 3)),
            quality=np.arange(5),
        ),
        trials=trials,
        pose=tb.IrregularTimeSeries(timestamps=camera, pose_xy=pose, sure=rng.random(len(camera)) < 0.8, domain="auto"),
        wheel=tb.RegularTimeSeries(sampling_rate=50.0, domain_start=2.0, speed=rng.random(5000)),
        whisker=tb.RegularTimeSeries.from_gappy_timeseries(gappy, sampling_rate=50.0, energy=rng.random(len(gappy))),
        licks=tb.IrregularTimeSeries(timestamps=np.sort(rng.uniform(1, 119, 50)), domain="auto"),
        still=tb.Interval(start=np.array([10.0, 40.0]), end=np.array([20.0, 50.0])),
        grating=tb.Interval(
            start=np.array([5.0, 8.0, 30.0]), end=np.array([8.0, 9.0, 33.0]), angle=np.array([0.0, 90.0, np.nan])
        ),
        domain=tb.Interval(np.array([0.0, 65.0]), np.array([60.0, 120.0])),
    )
    data.train_domain = tb.Interval(np.array([0.0, 65.0]), np.array([40.0, 90.0]))
    data.valid_domain = tb.Interval(np.array([45.0]), np.array([60.0]))
    data.test_domain = tb.Interval(np.array([94.0]), np.array([120.0]))
    path = tmp_path_factory.mktemp("brainsets") / "séance 1.h5"
    with h5py.File(path, "w") as file:
        data.to_hdf5(file)
    return path


@pytest.fixture
def edited(written: Path, tmp_path: Path) -> Edit:
    """`edited(change, **options)`: what is read from a copy after `change(file)`."""

    def edit(change: Callable[[h5py.File], Any], **options: Any) -> Recording:
        path = tmp_path / "session.h5"
        shutil.copy(written, path)
        with h5py.File(path, "r+") as file:
            change(file)
        return read(path, **options)

    return edit


def put(key: str, values: Any) -> Callable[[h5py.File], None]:
    """Replace an array."""

    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = values

    return change


def mapped(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def plain(written: Path) -> Recording:
    return read(written)


def test_spikes_and_covariates_are_those_of_torch_brain(plain: Recording, written: Path, tb: Any) -> None:
    with h5py.File(written) as file:
        data = tb.Data.from_hdf5(file, lazy=False)
    alive = [0, 1, 3, 4]
    np.testing.assert_array_equal(plain.spike_times, data.spikes.timestamps)
    np.testing.assert_array_equal(np.array(alive)[plain.spike_units], data.spikes.unit_index)
    assert list(plain.units["source_id"]) == [data.units.id[i] for i in alive]
    assert list(plain.units["region"]) == [data.units.brain_region[i] for i in alive]
    assert plain.units["quality"].tolist() == alive
    c = plain.covariates
    later = data.pose.timestamps >= 0
    np.testing.assert_array_equal(c["pose_xy"].times, data.pose.timestamps[later])
    pose = data.pose.pose_xy[later].astype(np.float32)
    np.testing.assert_array_equal(c["pose_xy"].observed, np.isfinite(pose).all(1))
    np.testing.assert_array_equal(c["pose_xy"].values, np.nan_to_num(pose))
    np.testing.assert_array_equal(c["pose_sure"].values, data.pose.sure[later])
    assert c["pose_sure"].spec.num_classes == 2
    np.testing.assert_array_equal(c["wheel_speed"].times, data.wheel.timestamps)
    np.testing.assert_array_equal(c["wheel_speed"].values, data.wheel.speed.astype(np.float32))
    np.testing.assert_array_equal(c["whisker_energy"].times, data.whisker.timestamps)
    np.testing.assert_array_equal(c["whisker_energy"].observed, data.whisker.index_mask())
    assert 0 < c["whisker_energy"].observed.mean() < 1
    real = data.whisker.index_mask()
    np.testing.assert_array_equal(c["whisker_energy"].values[real], data.whisker.energy[real].astype(np.float32))
    np.testing.assert_array_equal(c["licks"].times, data.licks.timestamps)
    np.testing.assert_array_equal(c["go_cue"].times, data.trials.go_cue_time[np.isfinite(data.trials.go_cue_time)])
    np.testing.assert_array_equal(c["contrast"].observed, np.isfinite(data.trials.contrast))
    np.testing.assert_array_equal(c["contrast"].values, np.nan_to_num(data.trials.contrast).astype(np.float32))
    np.testing.assert_array_equal(c["correct"].values, data.trials.correct)
    np.testing.assert_array_equal(plain.trials["start_s"], data.trials.start)
    np.testing.assert_array_equal(plain.trials["stop_s"], data.trials.end)
    assert plain.trials["outcome"].tolist() == data.trials.outcome.tolist()
    np.testing.assert_array_equal(plain.domain, np.stack([data.domain.start, data.domain.end], axis=1))


def test_nothing_is_dropped_silently(plain: Recording) -> None:
    counts, notes = plain.info.counts, plain.info.notes
    assert (counts["units in"], counts["units out: no spikes"], counts["units kept"]) == (5, 1, 4)
    assert counts["pose_xy samples out: before 0 s"] == 20
    assert counts["go_cue events out: time not finite"] == 5
    for left in ("spikes.amplitude", "units.template", "trials.corners", "still", "grating.angle"):
        assert left in notes, left
    for taken in ("outcome", "pose", "wheel", "licks", "unit_index"):
        assert taken not in notes, taken
    assert "session.id in the file: ../x" in notes
    assert plain.info.subject_id == "Mäuschen 7"
    assert plain.info.recording_id.endswith("/séance_1")
    assert plain.units["unit_id"][0] == f"{plain.info.recording_id}/probe/group.0"


def source_splits(recording: Recording) -> dict[str, dict[str, np.ndarray]]:
    """As arrays `(I, 2)` s."""
    return {s: {r: np.reshape(v, (-1, 2)) for r, v in roles.items()} for s, roles in recording.info.splits.items()}


def test_splits_of_the_source_are_kept(plain: Recording) -> None:
    splits = source_splits(plain)[""]
    assert {r: v.tolist() for r, v in splits.items()} == {
        "train": [[0, 40], [65, 90]],
        "val": [[45, 60]],
        "test": [[94, 120]],
    }
    for start, stop, role in plain.trials[["start_s", "stop_s", "source_split"]].itertuples(index=False):
        overlapping = [r for r in ("train", "val", "test") if any(a < stop and b > start for a, b in splits[r])]
        assert role == "+".join(overlapping), (start, stop)
    assert set(plain.trials["source_split"]) == {"train", "val", "test", ""}


def test_a_file_without_trials_is_cut_at_the_edges_of_its_splits(edited: Edit) -> None:
    recording = edited(lambda file: file.pop("trials"))
    assert STRETCH_S == SPLITS_STRETCH_S
    table, splits = recording.trials, source_splits(recording)[""]
    lengths = table["stop_s"] - table["start_s"]
    assert lengths.max() <= STRETCH_S + 1e-9
    assert lengths.sum() == pytest.approx(recording.duration_s)
    for role, intervals in splits.items():
        own = table[table["source_split"] == role]
        assert (own["stop_s"] - own["start_s"]).sum() == pytest.approx(np.diff(intervals).sum())
        assert covered(intervals, ((own["start_s"] + own["stop_s"]) / 2).to_numpy()).all()

    def bare(file: h5py.File) -> None:
        for name in ("trials", "train_domain", "valid_domain", "test_domain"):
            del file[name]

    assert len(edited(bare).trials) == 0


@pytest.mark.real
@pytest.mark.parametrize("session", ["c_20131003", "c_20131022", "c_20131023"])
def test_real_files_equal_torch_brain(real_data: Path, tb: Any, session: str) -> None:
    path = real_data / "perich_miller_brainsets" / f"{session}_center_out_reaching.h5"
    recording = read(path, mapping=CONFIGS / "perich_miller.yaml")
    with h5py.File(path) as file:
        data = tb.Data.from_hdf5(file, lazy=False)
        masks = {role: file[f"trials/{role}_mask"][:] for role in ("train", "valid", "test")}
    np.testing.assert_array_equal(recording.spike_times, data.spikes.timestamps)
    np.testing.assert_array_equal(recording.spike_units, data.spikes.unit_index)
    np.testing.assert_array_equal(recording.domain, [[data.domain.start[0], data.domain.end[0]]])
    assert set(recording.units["region"]) == {"M1"}
    hidden = np.stack([data.cursor_outlier_segments.start, data.cursor_outlier_segments.end], axis=1)
    outlier = covered(hidden, data.cursor.timestamps)
    assert 0 < outlier.mean() < 0.2
    for name, attribute in (("cursor_position", "pos"), ("cursor_velocity", "vel"), ("cursor_acceleration", "acc")):
        samples = recording.covariates[name]
        np.testing.assert_array_equal(samples.times, data.cursor.timestamps)
        np.testing.assert_array_equal(samples.observed, ~outlier)
        source = getattr(data.cursor, attribute)[~outlier].astype(np.float32)
        np.testing.assert_array_equal(samples.values[~outlier], source)
    np.testing.assert_array_equal(recording.trials["start_s"], data.trials.start)
    np.testing.assert_array_equal(recording.trials["usable"], data.trials.is_valid)
    for role, mask in masks.items():
        role = role.replace("valid", "val")
        mine = recording.trials["source_split"].str.split("+").map(lambda roles, role=role: role in roles)
        np.testing.assert_array_equal(mine, mask)
    splits = source_splits(recording)[""]
    for role, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        domain = getattr(data, f"{name}_domain")
        np.testing.assert_array_equal(splits[role], np.stack([domain.start, domain.end], axis=1))
    seen = recording.covariates["target"].observed
    np.testing.assert_array_equal(recording.covariates["target"].values[seen], data.trials.target_id[seen])
    result = np.array(["R", "F", "A", "I"])[recording.covariates["result"].values]
    np.testing.assert_array_equal(result, data.trials.result.astype(str))
    phase = recording.covariates["phase"]
    for number, part in enumerate((data.movement_phases.hold_period, data.movement_phases.reach_period)):
        for middle in (part.start + part.end) / 2:
            value, observed = bin_covariate(phase, middle, 1, 1e-3)
            assert (value[0, 0], observed[0]) == (number, True)


@pytest.mark.real
def test_real_files_as_a_user(real_data: Path, tmp_path: Path) -> None:
    done = prepare("brainsets", real_data / "perich_miller_brainsets", tmp_path)
    assert (len(done.written), done.failed) == (3, {})
    corpus = Corpus.open(tmp_path, verify=True)
    for recording in corpus:
        assert {"cursor_pos", "cursor_vel", "cursor_acc", "go_cue", "target_dir"} <= set(recording.covariates)
        assert recording.covariates["cursor_vel"].observed.all()
        assert source_splits(recording)[""]["test"].shape[1] == 2
    again = prepare("brainsets", real_data / "perich_miller_brainsets", tmp_path)
    assert (len(again.written), len(again.skipped)) == (0, 3)


MAPPING = """
dataset: tiny
subject: mouse 1
species: mouse
units: {region: {key: id, pattern: "(gr[a-z]*)/"}}
trials: {key: trials, usable: correct}
covariates:
  pose: {key: pose.pose_xy, observed: pose.sure, unobserved_in: [still], unit: cm}
  still: {key: still}
  where: {key: [still, grating], description: "0 still, 1 grating"}
  angle: {key: grating.angle, unit: deg, role: stimulus}
  outcome: {key: trials.outcome, classes: [miss, hit]}
  correct: {key: trials.correct}
  cue: {key: trials.go_cue_time, kind: event, role: stimulus}
  heading: {key: wheel.speed, circular: true, unit: deg}
  pupil: {key: pupil.size, optional: true}
"""


def test_a_mapping_chooses(written: Path, tmp_path: Path, tb: Any) -> None:
    recording = read(written, mapping=mapped(tmp_path, MAPPING))
    with h5py.File(written) as file:
        data = tb.Data.from_hdf5(file, lazy=False)
    assert (recording.info.subject_id, recording.info.species) == ("mouse 1", "mouse")
    assert set(recording.units["region"]) == {"group"}
    np.testing.assert_array_equal(recording.trials["usable"], data.trials.correct)
    assert recording.info.counts["trials not usable: not correct"] == (~data.trials.correct).sum()
    c = recording.covariates
    assert "not in the file: pupil" in recording.info.notes
    assert "pupil" not in c
    later = data.pose.timestamps >= 0
    times = data.pose.timestamps[later]
    expected = data.pose.sure[later] & ~covered(np.array([[10, 20], [40, 50]]), times)
    np.testing.assert_array_equal(c["pose"].observed, expected & np.isfinite(data.pose.pose_xy[later]).all(1))
    outcome = np.array(["miss", "hit"])[c["outcome"].values]
    np.testing.assert_array_equal(outcome, data.trials.outcome)
    # The values as they were, beside the classes.
    np.testing.assert_array_equal(recording.trials["source_outcome"], data.trials.outcome)
    angle = np.deg2rad(data.wheel.speed)
    np.testing.assert_allclose(c["heading"].values, np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-7)
    for at, inside_it in ((3.0, 0), (15.0, 1), (19.99, 1), (20.01, 0), (60.0, 0)):
        value, seen = bin_covariate(c["still"], at, 1, 1e-3)
        assert (value[0, 0], seen[0]) == (inside_it, True), at
    for at, state in ((3.0, None), (6.0, 1), (15.0, 0), (25.0, None), (31.0, 1), (60.0, None)):
        value, seen = bin_covariate(c["where"], at, 1, 1e-3)
        assert (value[0, 0] if seen[0] else None) == state, at
    for at, angle_at in ((3.0, None), (6.0, 0.0), (8.5, 90.0), (9.5, None), (31.0, None)):
        value, seen = bin_covariate(c["angle"], at, 1, 1e-3)
        assert (value[0, 0] if seen[0] else None) == angle_at, at


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense: 1", r"no entry \['nonsense'\]; there are"),
        ("units: {area: x}", r"units: no entry \['area'\]"),
        ("trials: {usable: is_valid}", r"trials: \['key'\] is missing"),
        ("covariates: {a: {key: pose.pose_xy, nuts: 1}}", r"covariates.a: no entry \['nuts'\]"),
        ("covariates: {a: {unit: cm}}", r"covariates.a: \['key'\] is missing"),
        ("- a list", "expected a mapping"),
        ("a: [", "cannot be read as a mapping"),
        ("covariates: {a: {key: pose.z}}", r"no 'pose.z'; the file offers .*pose \(IrregularTimeSeries: pose_xy sure"),
        ("covariates: {a: {key: pose}}", r"pose is an object with \['pose_xy', 'sure'\]"),
        ("covariates: {a: {key: grating.angle, classes: [0, 45]}}", r"values \['90.0'\] are not among the classes"),
        ("covariates: {a: {key: pose.pose_xy, observed: wheel.speed}}", "expected a boolean a sample"),
        ("covariates: {a: {key: pose.pose_xy, circular: true}}", "expected one angle per time"),
        ("{trials: {key: trials}, covariates: {a: {key: trials.outcome}}}", "name their `classes`"),
        ("{trials: {key: trials, usable: contrast}}", "no column of booleans 'contrast'"),
        ("{trials: {key: trials}, covariates: {a: {key: trials.corners}}}", r"expected \(trials,\)"),
        ("covariates: {a: {key: [still, domain]}}", "intervals overlap"),
        ("units: {region: cortex}", "units has no column 'cortex'; it has"),
        ("dataset: ../x", "dataset '../x' is no name of a folder"),
    ],
)
def test_mappings_that_do_not_fit(written: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(written, mapping=mapped(tmp_path, text))


def far(file: h5py.File) -> None:
    file["pose/pose_far"] = h5py.ExternalLink("elsewhere.h5", "/x")


def through(file: h5py.File) -> None:
    """A soft link that leaves the file by an external one."""
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as elsewhere:
        elsewhere["x"] = np.zeros(4000)
    file["pose/hidden"] = h5py.ExternalLink(str(other), "/")
    del file["spikes/timestamps"]
    file["spikes/timestamps"] = h5py.SoftLink("/pose/hidden/x")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(3,))
    del file["spikes/timestamps"]
    file.create_virtual_dataset("spikes/timestamps", layout)


def pickled(key: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.pop(key, None)
        file.create_dataset(key, (5,), dtype=h5py.vlen_dtype(np.uint8))

    return change


def milliseconds(*keys: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for key in keys:
            values = file[key][:] * 1000
            put(key, values)(file)

    return change


DOMAINS = ("domain/start", "domain/end")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("spikes/unit_index", np.full(4000, 5)), "unit_index 5 to 5, expected 0 to 4"),
        (put("spikes/unit_index", np.full(4000, -1)), "unit_index -1 to -1, expected 0 to 4"),
        (put("spikes/unit_index", np.full(4000, 2**40)), "expected 0 to 4, rows of the units table"),
        (put("spikes/unit_index", np.zeros(3999, int)), r"\(4000,\) timestamps and \(3999,\) unit_index"),
        (put("spikes/unit_index", np.zeros(4000)), "whole numbers unit_index"),
        (pickled("spikes/unit_index"), "whole numbers unit_index"),
        (lambda file: file.pop("spikes"), "no 'spikes'; the file offers"),
        (lambda file: file.pop("units"), "no 'units'; the file offers"),
        (put("units/id", np.array([b"a"] * 5)), "4 units share an id"),
        (put("units/id", np.array([b"a"] * 4)), "expected one length"),
        (put("pose/timestamps", np.arange(7.0)), r"samples at \(7,\) timestamps"),
        (put("wheel/speed", np.zeros(70)), "70 samples, but its domain holds 5000"),
        (milliseconds("spikes/timestamps"), "Are they in milliseconds"),
        (milliseconds("spikes/timestamps", *DOMAINS), "in milliseconds or samples"),
        (milliseconds("pose/timestamps"), "pose.pose_xy: .*Are they in milliseconds"),
        (milliseconds("trials/start", "trials/end"), "trials: .*Are they in milliseconds"),
        (milliseconds("trials/go_cue_time"), "trials.go_cue_time: .*Are they in milliseconds"),
        (put("domain/end", np.array([60.0, np.nan])), "expected finite seconds"),
        (put("trials/end", np.zeros(3)), "expected vectors of one length"),
        (put("trials/contrast", np.zeros(3)), "3 values of 30 trials"),
        (put("spikes/timestamps", np.full(4000, np.nan)), "no spike is left"),
        (far, "lies in another file"),
        (through, "lies in another file"),
        (virtual, "lies in another file"),
        (lambda file: file["subject"].attrs.modify("id", ""), "subject.id is empty, expected the animal's name"),
        (lambda file: file.attrs.modify("object", "nonsense"), "expected the attribute object = 'Data'"),
    ],
)
def test_refused(edited: Edit, change: Callable[[h5py.File], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edited(change)


def test_pickled_columns_are_named_and_not_read(edited: Edit) -> None:
    recording = edited(lambda file: [pickled(key)(file) for key in ("units/objects", "pose/objects", "trials/objects")])
    assert "objects" not in recording.units
    assert "objects" not in recording.trials
    for key in ("units.objects", "pose.objects", "trials.objects"):
        assert key in recording.info.notes


def test_pickled_values_that_are_asked_for_are_refused(edited: Edit, tmp_path: Path) -> None:
    mapping = mapped(tmp_path, "covariates: {a: {key: pose.objects}}")
    with pytest.raises(ValueError, match="pickled or opaque objects are not read"):
        edited(pickled("pose/objects"), mapping=mapping)


def test_a_file_that_holds_itself_is_read_once(edited: Edit, plain: Recording) -> None:
    def circle(file: h5py.File) -> None:
        file["brainset/all"] = file["/"]
        file["brainset/again"] = h5py.SoftLink("/")

    assert set(edited(circle).covariates) == set(plain.covariates)


def test_trials_in_any_order_and_spikes_of_any_time(edited: Edit, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        start, end = file["trials/start"][:], file["trials/end"][:]
        start[[3, 9]], end[[3, 9]] = start[[9, 3]], end[[9, 3]]
        end[5] += 2.5  # runs into the next
        start[7] = np.nan
        end[11] = start[11]
        times = file["spikes/timestamps"][:]
        times[:2], times[10] = (-3.0, np.nan), 100.0
        for key, values in (("trials/start", start), ("trials/end", end), ("spikes/timestamps", times)):
            put(key, values)(file)

    recording = edited(change)
    counts = recording.info.counts
    assert (np.diff(recording.trials["start_s"]) > 0).all()
    assert (np.diff(recording.spike_times) >= 0).all()
    assert recording.trials["source_index"].tolist()[:5] == [0, 1, 2, 9, 4]
    assert counts["trials out of order"] == 2
    assert counts["trials out: bounds not finite"] == 1
    assert counts["trials out: stop not after start"] == 1
    assert counts["trials cut at the start of the next"] == 1
    assert (counts["spikes out: time not finite"], counts["spikes out: before 0 s"]) == (1, 1)
    assert counts["spikes kept"] == len(recording.spike_times) == 3998
    # A value of a trial goes where its trial goes.
    with h5py.File(tmp_path / "session.h5") as file:
        contrast = file["trials/contrast"][:][recording.trials["source_index"]]
    np.testing.assert_array_equal(recording.covariates["contrast"].values, np.nan_to_num(contrast).astype(np.float32))


def test_a_negative_start_of_the_domain_is_cut(edited: Edit) -> None:
    recording = edited(put("domain/start", np.array([-5.0, 65.0])))
    np.testing.assert_array_equal(recording.domain, [[0, 60], [65, 120]])
    assert recording.info.counts["domain intervals cut at 0 s"] == 1


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_truncated(written: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.h5"
    content = written.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cannot be read as HDF5 .*unfinished"):
        read(path)


def test_another_format(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="expected the attribute object = 'Data'"):
        read(tmp_path / "other.h5")
    (tmp_path / "other.h5").write_text("text")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        read(tmp_path)
    with pytest.raises(ValueError, match="expected a folder or a file"):
        brainsets.sessions(tmp_path / "nothing")
    with pytest.raises(ValueError, match="--source is missing"):
        brainsets.sessions(None)


def test_two_files_of_one_name(written: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "data").mkdir(parents=True)
        shutil.copy(written, tmp_path / folder / "data" / "x.h5")
    with pytest.raises(ValueError, match="are both 'data/x'"):
        brainsets.sessions(tmp_path)
    assert list(brainsets.sessions(tmp_path / "a")) == ["data/x"]


def test_a_plan_says_what_is_there(written: Path, tmp_path: Path) -> None:
    (job,) = brainsets.sessions(written, mapping=mapped(tmp_path, MAPPING)).values()
    plan = brainsets.plan(**job)
    assert plan.size_bytes == written.stat().st_size
    assert plan.missing == ["pupil"]
    assert {"spikes", "units", "trials", "pose", "split train"} <= set(plan.present)
    assert brainsets.plan(**job | {"path": "s3://bucket/x.h5"}).size_bytes == plan.size_bytes


def test_intervals_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        start = rng.integers(0, 30, 6).astype(float)
        intervals = np.stack([start, start + rng.integers(0, 6, 6)], axis=1)
        merged = union(intervals)
        assert (merged[1:, 0] > merged[:-1, 1]).all()
        times = np.arange(-1, 40, 0.5)
        np.testing.assert_array_equal(inside(times, merged), covered(intervals, times))
    assert not inside(times, union(np.zeros((0, 2)))).any()


# --- Brain-Wide Bench -----------------------------------------------------------------------------------------------


def bench_file(tb: Any, path: Path, build: str, regime: str, seed: int = 0) -> Any:
    """A session in the layout of brainbench-org/ibl-bwb's pipeline.py (3c8cee9), written by torch_brain; see `Data`."""
    rng = np.random.default_rng(seed)
    num_units, num_trials, stop = (12 if build == "all_units" else 7), 80, 400.0
    times = np.sort(rng.uniform(1, stop, 12_000))
    start = np.arange(num_trials) * 4.8 + 5
    side, contrast = rng.integers(0, 2, num_trials), rng.integers(0, 5, num_trials)
    choice = np.where(rng.random(num_trials) < 0.1, 2, rng.integers(0, 2, num_trials))
    levels = np.array([0, 0.0625, 0.125, 0.25, 1.0])[contrast]
    stim, move, valid = start + 0.6, start + 1.1, choice != 2
    trials = tb.Interval(
        start=start,
        end=start + 4.5,
        stim_on_time=stim,
        go_cue_time=stim + 0.01,
        movement_onset_time=np.where(valid, move, np.nan),
        feedback_time=start + 1.6,
        choice=choice,
        reward=((choice == side) & valid).astype(int),
        block_prior=np.where(np.arange(num_trials) < 10, -1, rng.integers(0, 2, num_trials)),
        probability_left=rng.choice([0.2, 0.5, 0.8], num_trials),
        contrast_left=np.where(side == 1, levels, np.nan),
        contrast_right=np.where(side == 0, levels, np.nan),
        stimulus_side=side,
        stimulus_contrast=contrast,
        is_valid=valid,
        trial_index=np.arange(num_trials),
        timekeys=["start", "end", "stim_on_time", "go_cue_time", "movement_onset_time", "feedback_time"],
    )
    index = np.flatnonzero(valid)
    windows = tb.Data(
        choice=tb.Interval(start=move[index] - 1, end=move[index], choice=choice[index], trial_index=index),
        movement_window=tb.Interval(
            start=move[index],
            end=move[index] + 1,
            trial_index=index,
            num_left_paw_confident=rng.integers(0, 51, len(index)),
        ),
        domain=tb.Interval(start=start[index] - 1, end=start[index] + 3),
    )
    grid = 380 * 50
    left, right = rng.random(grid), rng.random(grid)
    units = tb.ArrayDict(
        id=np.array([f"uuid-{seed}-{i}" for i in range(num_units)]),
        probe_id=np.array(["pid-0"] * 3 + ["pid-1"] * (num_units - 3)),
        region_allen=np.array(["VISp6a"] * num_units),
        region_beryl=np.array(["VISp"] * num_units),
        region_cosmos=np.array(["Isocortex"] * num_units),
        label=np.linspace(0, 1, num_units),
        wf_template=rng.random((num_units, 8, 4)),
    )
    if build == "selected_units" and regime == "eval":
        units.ts2_co_smoothing_is_held_out_test = np.arange(num_units) == 2
        units.ts2_co_smoothing_is_held_out_val = np.arange(num_units) == 5
    regular = {"sampling_rate": 50.0, "domain_start": 10.0}
    domain = tb.Interval(times[0], times[-1])
    data = tb.Data(
        brainset=tb.BrainsetDescription(
            id="ibl_brain_wide_bench_2026",
            origin_version="0.0.1",
            derived_version="0.1.0",
            source="one-api",
            description="IBL",
            unit_filtering=build,
            unit_filters="",
            unit_filter_thresholds="",
        ),
        subject=tb.SubjectDescription(id=f"IBL_{seed:03d}", species="MUS_MUSCULUS"),
        session=tb.SessionDescription(id=path.stem),
        device=tb.DeviceDescription(id="lab", recording_tech="NEUROPIXELS_ARRAY"),
        lab="lab",
        spikes=tb.IrregularTimeSeries(
            timestamps=times,
            unit_index=rng.integers(0, num_units, len(times)),
            depth=times,
            amplitude=times,
            domain=domain,
        ),
        units=units,
        probes=tb.ArrayDict(id=np.array(["pid-0", "pid-1"]), name=np.array(["probe00", "probe01"])),
        trials=trials,
        task_aligned_intervals=windows,
        wheel=tb.RegularTimeSeries(**regular, wheel_pos=left, wheel_vel=left - 0.5, wheel_speed=np.abs(left - 0.5)),
        paws=tb.RegularTimeSeries(
            **regular,
            left_paw=np.stack([left, right], 1),
            left_paw_speed=left,
            right_paw_speed=right,
            is_left_paw_confident=rng.random(grid) < 0.7,
            is_right_paw_confident=rng.random(grid) < 0.7,
        ),
        licks=tb.RegularTimeSeries(**regular, licking_rate=50.0 * rng.integers(0, 2, grid)),
        behavior_qc=tb.Data(qc_behavior="PASS"),
        domain=domain,
    )
    if regime == "pretrain":
        data.pretrain_train_domain = tb.Interval(times[0], 300.0)
        data.pretrain_val_domain = tb.Interval(320.0, times[-1])
    else:
        data.ts1_train_domain, data.ts1_val_domain = tb.Interval(times[0], 150.0), tb.Interval(170.0, 230.0)
        data.ts1_test_domain = tb.Interval(250.0, times[-1])
        data.ts2_train_domain = tb.Interval(np.array([times[0], 200.0]), np.array([80.0, 280.0]))
        data.ts2_val_domain = tb.Interval(np.array([300.0]), np.array([350.0]))
        data.ts2_test_domain = tb.Interval(np.array([100.0, 370.0]), np.array([180.0, times[-1]]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data.to_hdf5(file)
    return data


@pytest.fixture(scope="session")
def bench(tb: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], Any]]:
    """A bucket as documented: both builds of one session for evaluation and one for pretraining."""
    root, written = tmp_path_factory.mktemp("bench"), {}
    for build in brainsets.BUILDS:
        for seed, regime in enumerate(("eval", "pretrain")):
            path = root / build / "ibl_brain_wide_bench_2026" / regime / f"eid-{regime}.h5"
            written[build, regime] = bench_file(tb, path, build, regime, seed)
    return root, written


BENCH = {"mapping": CONFIGS / "brain_wide_bench.yaml"}


@pytest.mark.parametrize("build", brainsets.BUILDS)
def test_brain_wide_bench(bench: Any, build: str, tmp_path: Path) -> None:
    root, written = bench
    done = prepare("brainsets", root, tmp_path, options=BENCH | {"build": build})
    assert done.failed == {}
    corpus = Corpus.open(tmp_path)
    assert corpus.ids == ["ibl_brain_wide_bench_2026/eid-eval", "ibl_brain_wide_bench_2026/eid-pretrain"]
    recording, data = corpus["ibl_brain_wide_bench_2026/eid-eval"], written[build, "eval"]
    np.testing.assert_array_equal(recording.spike_times, data.spikes.timestamps)
    np.testing.assert_array_equal(recording.spike_units, data.spikes.unit_index)
    first = f"{recording.info.recording_id}/pid-0/uuid-0-0"
    assert recording.units["unit_id"][0] == first
    assert recording.units[["region", "region_cosmos"]].iloc[0].tolist() == ["VISp6a", "Isocortex"]
    held_out = [c for c in recording.units if "held_out" in c]
    if build == "selected_units":
        for column in held_out:
            np.testing.assert_array_equal(recording.units[column], getattr(data.units, column))
        assert len(held_out) == 2
    else:
        assert held_out == []
    assert f"build: {build}; version: 0.1.0" in recording.info.notes
    c, t = recording.covariates, data.trials
    for mine, theirs in ((0, 1), (1, 0)):
        np.testing.assert_array_equal((c["choice"].values == mine) & c["choice"].observed, t.choice == theirs)
        np.testing.assert_array_equal(c["stimulus_side"].values == mine, t.stimulus_side == theirs)
    np.testing.assert_array_equal(c["choice"].observed, t.choice != 2)
    np.testing.assert_array_equal(np.array([0.2, 0.5, 0.8])[c["block"].values], t.probability_left)
    np.testing.assert_array_equal(c["feedback"].values, t.reward)
    np.testing.assert_array_equal(recording.trials["usable"], t.is_valid)
    np.testing.assert_array_equal(c["wheel_speed"].times, data.wheel.timestamps)
    np.testing.assert_array_equal(c["wheel_speed"].values, data.wheel.wheel_speed.astype(np.float32))
    np.testing.assert_array_equal(c["left_paw_speed"].observed, data.paws.is_left_paw_confident)
    assert "whisker_energy" not in c
    assert "not in the file: whisker_energy" in recording.info.notes
    np.testing.assert_array_equal(c["movement_onset"].times, t.movement_onset_time[t.is_valid])
    window = data.task_aligned_intervals.choice
    table = recording.trials.set_index("source_index").loc[window.trial_index]
    np.testing.assert_array_equal(table["window_choice_start_s"], window.start)
    np.testing.assert_array_equal(table["window_choice_stop_s"], window.end)
    assert recording.trials["window_choice_start_s"].notna().sum() == len(window.start)
    counts = data.task_aligned_intervals.movement_window.num_left_paw_confident
    np.testing.assert_array_equal(table["window_movement_window_num_left_paw_confident"], counts)
    splits = source_splits(recording)
    assert set(splits) == {"ts1", "ts2"}
    for scope, roles in splits.items():
        for role, intervals in roles.items():
            domain = getattr(data, f"{scope}_{role}_domain")
            np.testing.assert_array_equal(intervals, np.stack([domain.start, domain.end], axis=1))
            column = recording.trials[f"source_split_{scope}"].str.split("+").map(lambda r, role=role: role in r)
            overlap = [any(a < e and b > s for a, b in intervals) for s, e in zip(t.start, t.end)]
            np.testing.assert_array_equal(column, overlap)
    assert set(source_splits(corpus["ibl_brain_wide_bench_2026/eid-pretrain"])) == {"pretrain"}


def test_the_builds_of_brain_wide_bench_are_not_mixed(bench: Any) -> None:
    root, _ = bench
    with pytest.raises(ValueError, match="give build=all_units or build=selected_units"):
        brainsets.sessions(root, **BENCH)
    with pytest.raises(ValueError, match="expected one of"):
        brainsets.sessions(root, build="some_units")
    (job,) = brainsets.sessions(root / "all_units/ibl_brain_wide_bench_2026/eval").values()
    with pytest.raises(
        ValueError, match=r"label brainset\.unit_filtering is 'all_units', expected build 'selected_units'"
    ):
        brainsets.read(**job | {"build": "selected_units"})


def test_windows_name_their_trials(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    shutil.copy(bench[0] / "all_units/ibl_brain_wide_bench_2026/eval/eid-eval.h5", path)
    with h5py.File(path, "r+") as file:
        file["task_aligned_intervals/choice/trial_index"][0] = 999
    with pytest.raises(ValueError, match=r"trial_index \[999\], expected numbers of the 80 trials"):
        read(path, **BENCH)


def test_every_config_can_be_loaded() -> None:
    for path in CONFIGS.glob("*.yaml"):
        assert brainsets.load_mapping(path)["covariates"]
