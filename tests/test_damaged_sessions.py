"""IBL and Allen sessions, damaged: each becomes a valid recording, or a ValueError that names the file.

Cases with a known consequence stand first; then files are damaged at random, by seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from benchmarks import simulated_allen, simulated_ibl
from data_recipes import allen, ibl
from data_recipes.cleaning import Tally, domain_without, numbers, series, silent_gaps, trial_table
from data_recipes.nwb_file import array, node, open_nwb, read_table, table_ids, text
from foundation.recording import CovariateSpec, Recording

ALF = Path("cortexlab", "Subjects", "KS014", "2024-01-15", "001", "alf")
PROBE = ALF / "probe00" / "pykilosort"
TRIALS, METRICS = ALF / "_ibl_trials.table.pqt", PROBE / "clusters.metrics.pqt"
WHEEL, POSITION = ALF / "_ibl_wheel.timestamps.npy", ALF / "_ibl_wheel.position.npy"
CAMERA, POSE = ALF / "_ibl_leftCamera.times.npy", ALF / "_ibl_leftCamera.dlc.pqt"
SCENES, FLASHES = "intervals/natural_scenes_presentations", "intervals/flashes_presentations"
RUNNING = "processing/running/running_speed/data"
EYE, FITS = "acquisition/EyeTracking", "processing/eye_tracking/pupil_ellipse_fits"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small session of each kind: "ibl", "coding" and "behavior"."""
    roots = {name: tmp_path_factory.mktemp(name) for name in ("ibl", "coding", "behavior")}
    simulated_ibl.write_session(roots["ibl"], units_per_probe=12, num_trials=15)
    for name in ("coding", "behavior"):
        simulated_allen.write_session(
            roots[name] / "session_1.nwb",
            session_id=1,
            subject="m1",
            num_units=12,
            minutes=1.2,
            num_repeats=1,
            behavior=name == "behavior",
            invalid=[(20.0, 21.5, ["EcephysProbe", "760000000", "probeA"])],
        )
    return roots


@pytest.fixture
def copy(sources: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a session that a test may damage."""

    def make(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return Path(shutil.copytree(sources[name], tmp_path / name))

    return make


def recipe(name: str) -> ModuleType:
    return ibl if name == "ibl" else allen


def read(name: str, root: Path, **options: Any) -> Recording:
    (job,) = recipe(name).sessions(str(root), **options).values()
    return recipe(name).read(**job)


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, edit(np.load(path)))


def change_table(path: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    edit(pd.read_parquet(path)).to_parquet(path)


def put(file: h5py.File, path: str, values: Any) -> None:
    """Replace a dataset and keep its attributes."""
    attributes = dict(file[path].attrs)
    del file[path]
    file[path] = values
    file[path].attrs.update(attributes)


def unwritten(file: h5py.File, path: str) -> None:
    """A dataset of 8 TB of which no byte was written."""
    attributes = dict(file[path].attrs)
    del file[path]
    file.create_dataset(path, shape=(10**12,), dtype="f8", chunks=(1000,)).attrs.update(attributes)


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.arange(3))


def header_of_terabytes(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})


# IBL


@pytest.mark.parametrize(
    ("path", "damage", "message"),
    [
        (WHEEL, archive, r"timestamps.npy: an archive of arrays \(.npz\)"),
        (WHEEL, header_of_terabytes, "timestamps.npy: truncated or not an .npy file"),
        (WHEEL, lambda p: change(p, lambda t: t.astype(str)), r"timestamps.npy: <U\d+ of shape .*expected numbers"),
        (WHEEL, lambda p: change(p, lambda t: t.astype(complex)), "expected numbers"),
        (WHEEL, lambda p: change(p, lambda t: np.array(1.0)), r"shape \(\), expected numbers of shape \(n,\)"),
        (CAMERA, lambda p: change(p, lambda t: np.stack([t, t])), r"expected numbers of shape \(n,\)"),
        (POSITION, lambda p: change(p, lambda x: x * 180 / np.pi), "in degrees or ticks"),
        (
            PROBE / "spikes.clusters.npy",
            lambda p: change(p, lambda c: np.where(c == c[0], 2**30, c)),
            "from .* to 1073741",
        ),
        (
            PROBE / "spikes.clusters.npy",
            lambda p: change(p, lambda c: c.astype("u8") + 2**63),
            "expected whole numbers",
        ),
        (PROBE / "spikes.times.npy", lambda p: change(p, lambda t: t * np.nan), "expected times in seconds"),
        (PROBE / "channels.mlapdv.npy", lambda p: change(p, lambda x: x[:5]), "5 sites, 384 have a region"),
        (PROBE / "channels.mlapdv.npy", lambda p: change(p, lambda x: x[:, :2]), r"expected numbers of shape \(n, 3\)"),
        (
            METRICS,
            lambda p: change_table(p, lambda t: t.assign(label=pd.Series([[1]] * len(t)))),
            "column 'label' holds object",
        ),
        (METRICS, lambda p: change_table(p, lambda t: t.assign(cluster_id="a")), "column 'cluster_id' holds object"),
        (METRICS, lambda p: change_table(p, lambda t: t.assign(cluster_id=0)), "`cluster_id` repeats"),
        (
            PROBE / "clusters.uuids.csv",
            lambda p: pd.read_csv(p).rename(columns={"uuids": "x"}).to_csv(p, index=False),
            "uuids.csv: no column 'uuids'",
        ),
        (TRIALS, lambda p: change_table(p, lambda t: t.assign(choice="left")), "table.pqt: column 'choice' .* 'left'"),
        (TRIALS, lambda p: change_table(p, lambda t: t.drop(columns="stimOn_times")), "take intervals=trial"),
        (
            TRIALS,
            lambda p: change_table(p, lambda t: t.assign(intervals_0=pd.to_datetime(t["intervals_0"]))),
            "column 'intervals_0' holds datetime64",
        ),
        (POSE, lambda p: change_table(p, lambda t: t.assign(paw_l_x="here")), "dlc.pqt: column 'paw_l_x'"),
    ],
)
def test_refused(copy: Callable[[str], Path], path: Path, damage: Callable[[Path], Any], message: str) -> None:
    root = copy("ibl")
    damage(root / path)
    with pytest.raises(ValueError, match=message):
        read("ibl", root)


def test_trial_tables_without_rows_or_ends(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    change_table(root / TRIALS, lambda t: t.drop(columns="intervals_1"))
    with pytest.raises(ValueError, match="no intervals_1, which intervals=trial needs; take intervals=aligned"):
        read("ibl", root, intervals="trial")
    change_table(root / TRIALS, lambda t: t.assign(stimOn_times=np.nan))
    recording = read("ibl", root)
    assert len(recording.trials) == 0
    assert recording.info.counts["trials out: bounds not finite"] == 15
    change_table(root / TRIALS, lambda t: t[:0])
    assert len(read("ibl", root).trials) == 0


def test_a_table_that_would_fill_the_memory(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    columns = {f"x{k}": np.broadcast_to(np.float32(0), 2**22) for k in range(3)}
    pd.DataFrame(columns).to_parquet(root / POSE)
    assert (root / POSE).stat().st_size < 2**20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_recipes.ibl_files._MAX_CELLS", 2**23)
        with pytest.raises(ValueError, match="4194304 rows of 3 columns are more than any session has"):
            read("ibl", root)


def test_metrics_whose_cluster_ids_are_the_index(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    expected = read("ibl", root).units
    change_table(root / METRICS, lambda t: t.sample(frac=1, random_state=0).set_index("cluster_id"))
    pd.testing.assert_frame_equal(read("ibl", root).units, expected)


def test_times_that_are_none(copy: Callable[[str], Path]) -> None:
    """A unit whose every time is NaN or infinite never fired; infinite times do not stretch the recording."""
    root = copy("ibl")
    before = read("ibl", root)
    unit = before.units[before.units["probe"] == "probe00"].iloc[0]
    clusters = np.load(root / PROBE / "spikes.clusters.npy")
    mine = clusters == unit["cluster_id"]
    change(root / PROBE / "spikes.times.npy", lambda t: np.where(mine, np.inf, t))
    after = read("ibl", root)
    assert unit["unit_id"] not in set(after.units["unit_id"])
    assert after.num_units == before.num_units - 1
    assert after.info.counts["units out: no spikes"] == before.info.counts["units out: no spikes"] + 1
    assert after.domain[-1, 1] <= before.domain[-1, 1]


def test_a_probe_without_spikes_is_missing(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    (root / PROBE / "spikes.clusters.npy").unlink()
    (job,) = ibl.sessions(root).values()
    assert "spikes of probe00" in ibl.plan(**job).missing
    recording = ibl.read(**job)
    assert set(recording.units["probe"]) == {"probe01"}
    assert "spikes of probe00" in recording.info.notes.split("missing: ")[1]


def test_channels_that_are_nan(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    change(root / PROBE / "clusters.channels.npy", lambda c: np.where(c == c.max(), np.nan, c))
    recording = read("ibl", root, min_label=0)
    assert recording.info.counts["units without a region: no channel"] >= 1


def test_spikes_that_stop_are_a_gap(copy: Callable[[str], Path]) -> None:
    """Ten seconds that a probe lost, and one time that is far away: neither is silence."""
    root = copy("ibl")
    times = np.load(root / PROBE / "spikes.times.npy")
    kept = (times < 12) | (times >= 22)
    for name in ("times", "clusters", "depths", "amps"):
        change(root / PROBE / f"spikes.{name}.npy", lambda values: values[kept])
    recording = read("ibl", root)
    (first, second) = recording.domain
    assert first[1] == np.nextafter(times[times < 12][-1], np.inf)
    assert second[0] == times[times >= 22][0]
    assert recording.info.counts["stretches without any spike out"] == 1
    assert recording.info.counts["seconds out: no spike of any unit"] in (9, 10)
    for probe in ("probe00", "probe01"):
        change(root / ALF / probe / "pykilosort" / "spikes.times.npy", lambda t: np.append(t[:-1], 500.0))
    recording = read("ibl", root)
    assert recording.domain[-1].tolist() == [500.0, np.nextafter(500.0, np.inf)]
    assert recording.duration_s < times[-1]


def test_one_wrong_time_of_the_wheel_is_left_out(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    before = read("ibl", root).covariates["wheel_velocity"]
    change(root / WHEEL, lambda t: np.append(t, [-1e7, 1e12]))
    change(root / POSITION, lambda x: np.append(x, [0.0, 0.0]))
    recording = read("ibl", root)
    assert recording.info.counts["wheel samples out: far from the spikes"] == 2
    np.testing.assert_array_equal(recording.covariates["wheel_velocity"].values, before.values)


def test_a_wheel_that_jumps(copy: Callable[[str], Path]) -> None:
    """One wrong position is a gap of 0.2 s, and the filter does not ring with it."""
    root = copy("ibl")
    before = read("ibl", root).covariates["wheel_velocity"]
    times = np.load(root / WHEEL)
    at = int(np.searchsorted(times, 20.0))
    change(root / POSITION, lambda x: np.where(np.arange(len(x)) == at, 1e9, x))
    recording = read("ibl", root)
    after = recording.covariates["wheel_velocity"]
    assert recording.info.counts["wheel gaps"] == 2
    lost = before.observed & ~after.observed
    assert before.times is not None
    assert 0.2 <= np.ptp(before.times[lost]) < 0.5
    np.testing.assert_allclose(after.values[~lost], before.values[~lost], atol=0.05)


def test_frames_out_of_order_have_no_speed(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    before = read("ibl", root)
    change(root / CAMERA, lambda t: np.concatenate([t[:100], t[100:200][::-1], t[200:]]))
    recording = read("ibl", root)
    speed = recording.covariates["paw_near_speed"]
    assert (speed.values[speed.observed] >= 0).all()
    assert 90 <= before.covariates["paw_near_speed"].observed.sum() - speed.observed.sum() <= 101
    assert recording.info.counts["whisker_energy samples out of order"] == 99


def test_a_paw_that_was_not_tracked_is_missing(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    change_table(root / POSE, lambda t: t.drop(columns="paw_l_y"))
    recording = read("ibl", root)
    assert {"paw_near", "paw_far"} & set(recording.covariates) == {"paw_near"}
    assert "paw_far of the left camera" in recording.info.notes
    assert "(paw_r)" in recording.covariates["paw_near"].spec.description


def test_contrasts_in_percent_are_not_observed(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    change_table(root / TRIALS, lambda t: t.assign(contrastLeft=t["contrastLeft"] * 100))
    left = read("ibl", root)
    table = pd.read_parquet(root / TRIALS)
    wrong = (table["contrastLeft"] > 1).to_numpy()
    assert left.info.counts["trials with a contrast outside of 0 to 1"] == wrong.sum() > 0
    assert np.array_equal(left.covariates["contrast_left"].observed, ~wrong)


def test_damaged_tables_of_one(copy: Callable[[str], Path]) -> None:
    root = copy("ibl")
    simulated_ibl.write_cache(root)
    for name, edit in {
        "sessions": lambda t: t.drop(columns="number"),
        "datasets": lambda t: t.drop(columns="rel_path"),
    }.items():
        path = root / f"{name}.pqt"
        whole = path.read_bytes()
        table, meta = simulated_ibl.parquet.load(path)
        simulated_ibl.parquet.save(path, edit(table), meta)
        with pytest.raises(ValueError, match="make_parquet_db makes them anew"):
            ibl.sessions(root)
        path.write_bytes(whole)
    assert len(ibl.sessions(root)) == 1


# Allen


@pytest.mark.parametrize(
    ("which", "damage", "message"),
    [
        ("coding", lambda f: unwritten(f, f"{SCENES}/frame"), "scenes_presentations/frame: .*declares 7450.6 GiB"),
        ("coding", lambda f: unwritten(f, "units/spike_times"), "spike_times: .*was the file written to its end"),
        ("coding", lambda f: put(f, f"{SCENES}/start_time", h5py.Empty("f8")), "no values, expected an array"),
        ("coding", lambda f: put(f, f"{SCENES}/start_time", 1.0), "start_time: no rows, expected 24 as in id"),
        ("coding", lambda f: put(f, f"{SCENES}/start_time", np.ones((24, 2))), "column 'start_time' holds object"),
        ("coding", lambda f: put(f, f"{SCENES}/stop_time", ["x"] * 24), "column 'stop_time' holds object, such as 'x'"),
        ("coding", lambda f: f.__delitem__(f"{SCENES}/start_time"), "no column 'start_time'"),
        ("coding", lambda f: f.__delitem__("intervals/invalid_times/stop_time"), "no column 'stop_time'"),
        ("coding", lambda f: put(f, "units/id", np.zeros(12, int)), "unit id 0 stands twice"),
        ("coding", lambda f: put(f, "units/snr", ["loud"] * 12), "column 'snr' holds object, such as 'loud'"),
        ("coding", lambda f: put(f, "units/spike_times_index", np.ones(12)), "expected whole numbers"),
        ("coding", lambda f: put(f, "units/spike_times_index", np.arange(3)), "12 units in id, 3 in spike_times_index"),
        (
            "coding",
            lambda f: put(f, RUNNING, np.zeros(len(f[RUNNING]), "S2")),
            "running_speed: values of type object, expected numbers",
        ),
        ("coding", lambda f: put(f, "units/spike_times", np.ones((20_000, 2))), "expected a vector of seconds"),
        ("coding", lambda f: put(f, f"{FITS}/width", ["wide"] * len(f[f"{FITS}/width"])), "column 'width'"),
        ("behavior", lambda f: put(f, f"{EYE}/pupil_tracking/width", np.ones(7)), "width: float64 of shape"),
        ("behavior", lambda f: f.__delitem__(f"{EYE}/pupil_tracking/area"), "area is not there"),
        (
            "behavior",
            lambda f: put(f, f"{EYE}/pupil_tracking/data", f[f"{EYE}/pupil_tracking/data"][:, 0]),
            "expected x and y",
        ),
        (
            "behavior",
            lambda f: put(f, "intervals/trials/start_time", f["intervals/trials/start_time"][:] + 1e4),
            "trials: .*another clock",
        ),
        ("behavior", lambda f: put(f, "general/subject/subject_id", ["a", "b"]), "expected one text"),
    ],
)
def test_refused_by_allen(
    copy: Callable[[str], Path], which: str, damage: Callable[[h5py.File], Any], message: str
) -> None:
    root = copy(which)
    with h5py.File(root / "session_1.nwb", "r+") as file:
        damage(file)
    with pytest.raises(ValueError, match=message) as caught:
        read(which, root)
    assert "session_1.nwb" in str(caught.value)


def test_tables_without_rows(copy: Callable[[str], Path]) -> None:
    root = copy("behavior")
    with h5py.File(root / "session_1.nwb", "r+") as file:
        for name in ("trials", "invalid_times", *(n for n in file["intervals"] if n.endswith("_presentations"))):
            for column in file[f"intervals/{name}"]:
                put(file, f"intervals/{name}/{column}", file[f"intervals/{name}/{column}"][:0])
    recording = read("behavior", root)
    assert len(recording.trials) == 0
    assert "stimulus_type" not in recording.covariates


def test_invalid_times_that_end_before_they_start(copy: Callable[[str], Path]) -> None:
    root = copy("coding")
    with h5py.File(root / "session_1.nwb", "r+") as file:
        file["intervals/invalid_times/stop_time"][:] = 12.0
    recording = read("coding", root)
    assert len(recording.domain) == 1
    assert recording.info.counts["invalid intervals out: stop not after start"] == 1


def test_units_whose_every_time_is_none(copy: Callable[[str], Path]) -> None:
    root = copy("coding")
    before = read("coding", root)
    with h5py.File(root / "session_1.nwb", "r+") as file:
        row = int(np.flatnonzero(file["units/id"][:] == before.units["allen_unit_id"].iloc[0])[0])
        stops = np.append(0, file["units/spike_times_index"][:])
        file["units/spike_times"][stops[row] : stops[row + 1]] = np.nan
    after = read("coding", root)
    assert after.units["allen_unit_id"].tolist() == before.units["allen_unit_id"].tolist()[1:]
    assert after.info.counts["spikes of units left out"] == stops[row + 1] - stops[row]


def test_numbers_written_as_text(copy: Callable[[str], Path]) -> None:
    """The AllenSDK writes the color of flashes as text."""
    root = copy("coding")
    before = read("coding", root).covariates["flash_polarity"]
    with h5py.File(root / "session_1.nwb", "r+") as file:
        colors = file[f"{FLASHES}/color"].asstr()[:].tolist()
        put(file, f"{FLASHES}/color", [float(color) for color in colors])
    recording = read("coding", root)
    np.testing.assert_array_equal(recording.covariates["flash_polarity"].values, before.values)
    assert before.observed.any()
    with h5py.File(root / "session_1.nwb", "r+") as file:
        put(file, f"{FLASHES}/color", ["red", "null", *colors[2:]])
    counts = read("coding", root).info.counts
    assert counts["flash_polarity blank"] == 2
    assert counts["flash_polarity samples out: not a number"] == 1


def test_light_is_a_covariate(copy: Callable[[str], Path]) -> None:
    root = copy("coding")
    start = np.array([30.0, 31.0, np.nan, 40.0])
    with h5py.File(root / "session_1.nwb", "r+") as file:
        table = file.create_group("processing/optotagging/optogenetic_stimulation")
        table.attrs.update({"neurodata_type": "TimeIntervals", "colnames": ["start_time", "stop_time", "level"]})
        for name, values in {
            "id": np.arange(4),
            "start_time": start,
            "stop_time": start + 0.01,
            "level": start / 10,
        }.items():
            table[name] = values
    recording = read("coding", root)
    light = recording.covariates["opto_level"]
    first = recording.domain[0, 0]
    assert light.times is not None
    assert light.times.tolist() == [first, 30.0, 30.01, 31.0, 31.01, 40.0, 40.01]
    np.testing.assert_allclose(light.values, [0, 3, 0, 3.1, 0, 4, 0], rtol=1e-6)
    assert recording.info.counts["light pulses out: bounds not rising"] == 1


def test_columns_that_are_not_there_are_counted(copy: Callable[[str], Path]) -> None:
    root = copy("coding")
    with h5py.File(root / "session_1.nwb", "r+") as file:
        del file[f"{SCENES}/frame"]
    recording = read("coding", root)
    assert "natural_scene" not in recording.covariates
    assert recording.info.counts["natural_scenes presentations without frame"] == 24


def test_a_damaged_file_does_not_stop_the_listing(copy: Callable[[str], Path]) -> None:
    root = copy("coding")
    whole = (root / "session_1.nwb").read_bytes()
    (root / "other.nwb").write_bytes(whole[: len(whole) // 3])
    assert list(allen.sessions(str(root))) == ["allen/other", "allen_visual_coding/1"]


def test_what_is_damaged_is_not_taken_for_absent(copy: Callable[[str], Path]) -> None:
    path = copy("coding") / "session_1.nwb"
    with h5py.File(path) as file:
        address = h5py.h5o.get_info(file["processing/running/running_speed"].id).addr
    raw = bytearray(path.read_bytes())
    raw[address : address + 16] = b"\xff" * 16
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"session_1.nwb.*(damaged|cannot be read)"):
        read("coding", path.parent)


def test_arrays_that_are_none(copy: Callable[[str], Path]) -> None:
    path = copy("coding") / "session_1.nwb"
    with h5py.File(path, "r+") as file:
        file["odd/none"] = h5py.Empty("f8")
        file["odd/large"] = 1.0
        unwritten(file, "odd/large")
        file["odd/id"] = np.zeros((2, 2))
    with open_nwb(path) as file:
        for name in ("none", "large"):
            with pytest.raises(ValueError, match="expected"):
                array(node(file, f"odd/{name}"))
        with pytest.raises(ValueError, match="a Group, expected an array"):
            array(file["odd"])
        with pytest.raises(ValueError, match="no vector id"):
            table_ids(file["odd"])
        with pytest.raises(ValueError, match="no vector id"):
            read_table(file["odd/none"])
        with pytest.raises(ValueError, match="expected one text"):
            text(file, "odd/id")


# What both clean with.


def test_silent_gaps_equal_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    for size, rate in ((5000, 200.0), (3000, 1.0), (40_000, 2000.0), (1, 1.0)):
        times = np.sort(rng.uniform(0, size / rate, size))
        times = np.concatenate([times, times[-1] + 60 + times[:1500], [times[-1] + 9000]])
        least = max(5.0, 100 * (times[-1] - times[0]) / len(times))
        naive = [[np.nextafter(a, np.inf), b] for a, b in pairwise(times) if b - a >= least]
        assert silent_gaps(times, Tally()).tolist() == naive
    assert silent_gaps(np.array([3.0]), Tally()).shape == (0, 2)


def test_small_tools_refuse_or_ignore_what_is_not_theirs() -> None:
    table = pd.DataFrame({"i": pd.array([1, None], "Int64"), "t": ["1.5", None], "b": [True, False], "w": ["a", 1]})
    assert numbers("x", table, "i").tolist()[0] == 1
    assert np.isnan(numbers("x", table, "i")[1])
    assert numbers("x", table, "t").tolist()[0] == 1.5
    assert numbers("x", table, "b").tolist() == [1, 0]
    for name, message in (("w", "such as 'a', not numbers"), ("z", r"no column 'z', expected it among \['i'")):
        with pytest.raises(ValueError, match=message):
            numbers("x", table, name)
    empty, rows = trial_table(np.zeros(0), np.zeros(0), Tally())
    assert len(empty) == len(rows) == 0
    assert domain_without((0.0, 10.0), np.array([[8.0, 4.0], [2.0, 3.0]])).tolist() == [[0, 2], [3, 10]]
    spec = CovariateSpec("x", "continuous", "time")
    with pytest.raises(ValueError, match=r"values \(3, 2\) at times \(3,\), expected 1 values a time"):
        series("here", spec, np.arange(3.0), np.zeros((3, 2)), Tally())


# At random.


def damage_bytes(path: Path, rng: np.random.Generator) -> None:
    raw = np.frombuffer(path.read_bytes(), np.uint8).copy()
    if rng.uniform() < 0.3:
        raw = raw[: rng.integers(len(raw) + 1)]
    else:  # as a rule in the head, where the format is
        at = rng.integers(0, min(len(raw), rng.choice([200, 4000, len(raw)])), rng.choice([1, 4, 20]))
        raw[at] = rng.integers(0, 256, len(at))
    path.write_bytes(raw.tobytes())


def damage_values(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The values with another shape, type, order or content."""
    wrong = np.array([np.nan, np.inf, -np.inf, -1.0, 1e9, 1e300, 0.0])
    kind = rng.integers(10)
    if kind == 0:
        return values[: rng.integers(len(values))] if values.ndim else values
    if kind == 1:
        return values[None] if rng.uniform() < 0.5 else np.stack([values, values], axis=-1)
    if kind == 2:
        return np.array(values.ravel()[0])
    if kind == 3:
        return values.astype("S6")
    if kind == 4:
        return rng.permutation(values) if values.ndim else values
    if kind == 5:
        return np.ones(values.shape, bool)
    if kind == 6:
        return np.concatenate([values, values]) if values.ndim else values
    if kind == 7 and values.dtype.kind in "iu":
        return values.astype(np.int64) * rng.choice([-1, 2**20, 2**40])
    if kind == 8:
        return values.astype(np.float64) * rng.choice([1000.0, -1.0, 1e-3])
    out = values.astype(np.float64)
    out.ravel()[rng.integers(out.size, size=rng.choice([1, 30]))] = rng.choice(wrong)
    return out


def damage_ibl(root: Path, rng: np.random.Generator) -> None:
    files = sorted(
        p for p in (root / ALF).rglob("*") if p.is_file() and not p.name.startswith(("spikes.amps", "ibl_trials"))
    )
    path = files[rng.integers(len(files))]
    if rng.uniform() < 0.4 or path.suffix == ".csv":
        damage_bytes(path, rng)
    elif path.suffix == ".npy":
        change(path, lambda values: damage_values(values, rng))
    else:
        table = pd.read_parquet(path)
        name = rng.choice(table.columns)
        values = np.resize(damage_values(table[name].to_numpy(), rng), len(table))
        (table.drop(columns=name) if rng.uniform() < 0.2 else table.assign(**{name: values})).to_parquet(path)


def damage_nwb(root: Path, rng: np.random.Generator) -> None:
    path = root / "session_1.nwb"
    if rng.uniform() < 0.4:
        return damage_bytes(path, rng)
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        used = [n for n in names if n.startswith(("units/", "intervals/", "processing/", "acquisition/", "general/e"))]
        name = used[rng.integers(len(used))]
        item, kind = file[name], rng.uniform()
        if kind < 0.1:
            del file[name]
        elif kind < 0.2 or isinstance(item, h5py.Group):
            attribute = rng.choice([*item.attrs, "conversion"])
            item.attrs[attribute] = [np.nan, "x", np.arange(3)][rng.integers(3)]
        elif item.dtype.kind in "iufb" and item.size:
            put(file, name, damage_values(item[()], rng))
        else:
            put(file, name, np.zeros(3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "cases"), [("ibl", 40), ("coding", 40), ("behavior", 25)])
def test_any_damage_gives_a_recording_or_an_error_that_names_the_file(
    copy: Callable[[str], Path], name: str, cases: int
) -> None:
    outcomes = []
    for seed in range(cases):
        root = copy(name)
        (damage_ibl if name == "ibl" else damage_nwb)(root, np.random.default_rng(seed))
        try:
            recording = read(name, root).validate()
        except ValueError as error:
            outcomes.append(("refused", str(root) in str(error) or "ibl:" in str(error), seed, str(error)))
            continue
        counts = recording.info.counts
        assert counts["spikes kept"] == len(recording.spike_times), f"seed {seed}"
        assert counts["units kept"] == recording.num_units == len(np.unique(recording.spike_units)), f"seed {seed}"
        out = sum(number for reason, number in counts.items() if reason.startswith("units out: "))
        assert counts["units in"] == counts["units kept"] + out, f"seed {seed}"
        outcomes.append(("kept", True, seed, ""))
    assert not [outcome for outcome in outcomes if not outcome[1]]
    assert 0.2 < np.mean([outcome[0] == "kept" for outcome in outcomes]) < 0.9
