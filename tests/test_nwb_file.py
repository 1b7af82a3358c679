"""Reading NWB with h5py: equal to pynwb, and refuses what it says it refuses."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pynwb
import pytest

from data_recipes.nwb_file import (
    array,
    children,
    column,
    column_names,
    node,
    open_nwb,
    read_series,
    read_spikes,
    read_table,
    spike_trains,
    text,
    type_of,
)

TRAINS = [np.array([0.1, 0.5, 2.25]), np.zeros(0), np.array([0.2]), np.array([1.0, 1.5, 3.0, 4.0])]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four units, one of them silent, a table with every kind of column, and series of either clock."""
    path = tmp_path_factory.mktemp("nwb") / "täst.nwb"
    nwb = pynwb.NWBFile("a session", "id 1", datetime(2020, 1, 1, tzinfo=UTC))
    nwb.subject = pynwb.file.Subject(subject_id="Mäuschen 7", species="Mus musculus")
    nwb.add_unit_column("quality", "of the unit")
    for k, train in enumerate(TRAINS):
        nwb.add_unit(spike_times=train, quality=["good", "noise"][k % 2], id=100 + k)
    regular = pynwb.TimeSeries(
        name="regular",
        data=np.arange(6, dtype=np.int16),
        unit="V",
        starting_time=2.0,
        rate=4.0,
        conversion=0.5,
        offset=1.0,
    )
    stamped = pynwb.TimeSeries(name="stamped", data=np.eye(3), unit="m", timestamps=[0.1, 0.3, 0.2])
    linked = pynwb.TimeSeries(name="linked", data=[1.0, 2.0, 3.0], unit="m", timestamps=stamped)
    for series in (regular, stamped, linked):
        nwb.add_acquisition(series)
    trials = [(0.0, 1.0, "a", True, ["x", "y"]), (1.0, 2.0, "ü", False, []), (2.0, np.nan, "", True, ["z"])]
    nwb.add_trial_column("word", "text")
    nwb.add_trial_column("flag", "boolean")
    nwb.add_trial_column("words", "ragged text", index=True)
    for start, stop, word, flag, words in trials:
        nwb.add_trial(start_time=start, stop_time=stop, word=word, flag=flag, words=words, timeseries=stamped)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def test_spikes_equal_those_of_pynwb(source: Path) -> None:
    with pynwb.NWBHDF5IO(str(source), "r") as io, open_nwb(source) as file:
        units = io.read().units
        expected = [np.asarray(units["spike_times"][k]) for k in range(len(units))]
        found = spike_trains(file["units"])
    assert len(found) == len(expected) == 4
    for mine, theirs, written in zip(found, expected, TRAINS):
        np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(mine, written)


@pytest.mark.parametrize("rows", [[], [1], [0, 3], [0, 1, 2], [2, 3]])
def test_spikes_of_some_units(source: Path, rows: list[int]) -> None:
    with open_nwb(source) as file:
        times, counts = read_spikes(file["units"], np.array(rows, int))
    assert counts.tolist() == [len(TRAINS[r]) for r in rows]
    np.testing.assert_array_equal(times, np.concatenate([TRAINS[r] for r in rows] + [np.zeros(0)]))


def test_table_equals_that_of_pynwb(source: Path) -> None:
    with pynwb.NWBHDF5IO(str(source), "r") as io, open_nwb(source) as file:
        expected = io.read().trials.to_dataframe().drop(columns="timeseries")
        found = read_table(file["intervals/trials"])
        assert "timeseries" in column_names(file["intervals/trials"])
    assert [list(w) for w in found.pop("words")] == [list(w) for w in expected.pop("words")] == [["x", "y"], [], ["z"]]
    pd.testing.assert_frame_equal(found, expected[found.columns], check_dtype=False)
    assert found["flag"].dtype == bool


def test_series_equal_those_of_pynwb(source: Path) -> None:
    with pynwb.NWBHDF5IO(str(source), "r") as io, open_nwb(source) as file:
        acquisition = io.read().acquisition
        for name in ("regular", "stamped", "linked"):
            times, values = read_series(file[f"acquisition/{name}"])
            np.testing.assert_array_equal(times, acquisition[name].get_timestamps())
            np.testing.assert_allclose(values, acquisition[name].get_data_in_units(), rtol=0, atol=0)
    assert times.tolist() == [0.1, 0.3, 0.2]


def test_names_and_types(source: Path) -> None:
    with open_nwb(source) as file:
        assert text(file, "general/subject/subject_id") == "Mäuschen 7"
        assert text(file, "general/nothing", "none") == "none"
        assert set(children(file, "acquisition", "TimeSeries")) == {"regular", "stamped", "linked"}
        assert children(file, "no/such/group") == {}
        assert type_of(node(file, "units")) == "Units"
        assert node(file, "units/spike_times/deeper") is None
        with pytest.raises(ValueError, match=r"no column 'depth'; it has \['quality', 'spike_times'\]"):
            column(file["units"], "depth")


def _copy(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copy.nwb"
    path.write_bytes(source.read_bytes())
    return path


def test_truncated_missing_and_foreign_files_are_refused(source: Path, tmp_path: Path) -> None:
    whole = source.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1000):
        cut = tmp_path / f"cut{size}.nwb"
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="Fetch it again"), open_nwb(cut) as file:
            spike_trains(file["units"])
    with pytest.raises(ValueError, match="no such file"), open_nwb(tmp_path / "absent.nwb"):
        pass
    with h5py.File(tmp_path / "other.nwb", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="not NWB, expected NWB 2"), open_nwb(tmp_path / "other.nwb"):
        pass
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    with pytest.raises(ValueError, match="an NWB 1 file"), open_nwb(tmp_path / "old.nwb"):
        pass


def test_corrupt_chunks_are_refused(source: Path, tmp_path: Path) -> None:
    path = _copy(source, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["units/spike_times"]
        data = np.random.default_rng(0).uniform(size=8)
        packed = file["units"].create_dataset("spike_times", data=data, chunks=(8,), compression="gzip", shuffle=False)
        offset = packed.id.get_chunk_info(0).byte_offset
    raw = bytearray(path.read_bytes())
    raw[offset : offset + 16] = b"\xff" * 16
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="cannot be read as HDF5"), open_nwb(path) as file:
        spike_trains(file["units"])


def test_links_out_of_the_file_are_refused(source: Path, tmp_path: Path) -> None:
    path, other = _copy(source, tmp_path), tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["folder/data"] = np.arange(3.0)
    with h5py.File(path, "r+") as file:
        file["acquisition/direct"] = h5py.ExternalLink("other.h5", "folder/data")
        file["acquisition/folder"] = h5py.ExternalLink("other.h5", "folder")
        file["acquisition/through"] = h5py.SoftLink("/acquisition/folder/data")
        file["acquisition/gone"] = h5py.ExternalLink("no_such.h5", "x")
        file["acquisition/dangling"] = h5py.SoftLink("/nothing")
        raw = [(str(tmp_path / "raw.bin"), 0, 24)]
        file["acquisition"].create_dataset("outside", shape=(3,), dtype="f8", external=raw)
        layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
        layout[:] = h5py.VirtualSource(str(other), "folder/data", shape=(3,))
        file["acquisition"].create_virtual_dataset("virtual", layout)
    with open_nwb(path) as file:
        for name in ("direct", "folder/data", "through", "gone", "outside", "virtual"):
            with pytest.raises(ValueError, match="lies in another file"):
                node(file, f"acquisition/{name}")
        assert node(file, "acquisition/dangling") is None


def test_pickled_and_opaque_values_are_refused(source: Path, tmp_path: Path) -> None:
    path = _copy(source, tmp_path)
    blob = np.frombuffer(pickle.dumps({"a": 1}), np.uint8)
    with h5py.File(path, "r+") as file:
        group = file["intervals/trials"]
        group["opaque"] = np.array([np.void(blob.tobytes())] * 3)
        ragged = group.create_dataset("ragged", (3,), dtype=h5py.vlen_dtype(np.uint8))
        ragged[:] = [blob] * 3
        for name in ("opaque", "ragged"):
            group.attrs["colnames"] = [*group.attrs["colnames"], name]
    with open_nwb(path) as file:
        for name in ("opaque", "ragged"):
            with pytest.raises(ValueError, match="pickled or opaque objects are not read"):
                array(file[f"intervals/trials/{name}"])
            with pytest.raises(ValueError, match="expected numbers, booleans or strings"):
                read_table(file["intervals/trials"], [name])


def test_indices_that_do_not_fit_are_refused(source: Path, tmp_path: Path) -> None:
    for stops in ([3, 3, 2, 8], [3, 3, 4, 9]):
        path = _copy(source, tmp_path)
        with h5py.File(path, "r+") as file:
            index = file["units/spike_times_index"]
            index[...] = stops
        with open_nwb(path) as file, pytest.raises(ValueError, match="expected rising ends"):
            spike_trains(file["units"])
    path = _copy(source, tmp_path)
    with h5py.File(path, "r+") as file:
        file["units/spike_times_index_index"] = [4]
        del file["acquisition/stamped/timestamps"]
        file["acquisition/stamped/timestamps"] = np.arange(4.0)
        del file["acquisition/regular/starting_time"]
        del file["intervals/trials/word"]
        file["intervals/trials/word"] = ["a"]
    with open_nwb(path) as file:
        with pytest.raises(ValueError, match="got two"):
            spike_trains(file["units"])
        with pytest.raises(ValueError, match=r"3 samples at \(4,\) times"):
            read_series(file["acquisition/stamped"])
        with pytest.raises(ValueError, match="no clock"):
            read_series(file["acquisition/regular"])
        with pytest.raises(ValueError, match="1 rows, expected 3"):
            read_table(file["intervals/trials"], ["word"])


def test_table_in_another_file_is_refused_with_its_cure(source: Path, tmp_path: Path) -> None:
    path = _copy(source, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["units/spike_times"]
        file["units/spike_times"] = h5py.ExternalLink("elsewhere.h5", "x")
    with open_nwb(path) as file, pytest.raises(ValueError, match="Export it with its links resolved"):
        read_spikes(file["units"])
