"""Files of brainsets and NWB, and folders of a corpus, damaged at random by seed: valid, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_recipes import brainsets, nwb
from data_recipes.hdf5_values import guarded
from data_recipes.nwb_listing import describe
from foundation.corpus import Corpus, write_manifest
from foundation.recording import CovariateSpec, Recording, RecordingError
from foundation.recording_folder import read_recording, write_recording

Tiny = Callable[..., Recording]
TEXT = h5py.string_dtype()
CASES = 40


def write_brainset(path: Path) -> None:
    """All that the recipe looks at, in 80 s of 3 units."""
    rng = np.random.default_rng(0)
    start = np.arange(0.5, 78, 4.0)
    objects: dict[str, tuple[str, dict[str, Any]]] = {
        "spikes": (
            "IrregularTimeSeries",
            {"timestamps": np.sort(rng.uniform(0, 80, 900)), "unit_index": rng.integers(0, 3, 900)},
        ),
        "units": ("ArrayDict", {"id": np.array(["a", "b", "c"], object), "quality": np.arange(3)}),
        "trials": ("Interval", {"start": start, "end": start + 3, "go_time": start + 1, "side": np.arange(20) % 2}),
        "pose": ("IrregularTimeSeries", {"timestamps": np.arange(0, 80, 0.1), "xy": rng.normal(size=(800, 2))}),
        "wheel": ("RegularTimeSeries", {"speed": rng.normal(size=800)}),
        "wheel/domain": ("Interval", {"start": [0.0], "end": [80.0]}),
        "domain": ("Interval", {"start": [0.0], "end": [80.0]}),
        "train_domain": ("Interval", {"start": [0.0], "end": [50.0]}),
    }
    with h5py.File(path, "w") as file:
        file.attrs["object"] = "Data"
        for name, (kind, columns) in objects.items():
            group = file.create_group(name)
            group.attrs["object"] = kind
            for column, content in columns.items():
                group[column] = content
        file["wheel"].attrs["sampling_rate"] = 10.0
        file.create_group("subject").attrs.update(object="Data", id="m1", species="MUS")


def write_nwb(path: Path) -> None:
    """The same as NWB, with electrodes."""
    rng = np.random.default_rng(0)
    start = np.arange(0.5, 78, 4.0)
    tables: dict[str, dict[str, Any]] = {
        "general/extracellular_ephys/electrodes": {"location": np.array(["CA1", "DG"], object)},
        "units": {
            "spike_times": np.concatenate([np.sort(rng.uniform(0, 80, 300)) for _ in range(3)]),
            "spike_times_index": np.array([300, 600, 900], np.uint32),
            "electrodes": np.array([0, 1, 1]),
            "quality": np.array(["good", "mua", "good"], object),
        },
        "intervals/trials": {
            "start_time": start,
            "stop_time": start + 3,
            "go_time": start + 1,
            "side": np.arange(20) % 2,
            "kind": np.array(["x", "y"] * 10, object),
        },
        "intervals/epochs": {"start_time": [0.0, 40.0], "stop_time": [40.0, 80.0]},
    }
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        file["identifier"], file["general/subject/subject_id"] = "i", "m1"
        for name, columns in tables.items():
            group = file.create_group(name)
            group.attrs["colnames"] = np.array([c for c in columns if not c.endswith("_index")], object)
            group["id"] = np.arange({"units": 3, "intervals/trials": 20}.get(name, 2))
            for column, content in columns.items():
                group[column] = content
        for name, rate in (("processing/behavior/speed", 10.0), ("processing/behavior/pose", 0.0)):
            group = file.create_group(name)
            group.attrs["neurodata_type"] = "TimeSeries"
            group["data"] = rng.normal(size=800 if rate else (800, 2))
            group["data"].attrs.update(conversion=2.0, unit="cm/s")
            if rate:
                group["starting_time"] = 0.0
                group["starting_time"].attrs["rate"] = rate
            else:
                group["timestamps"] = np.arange(0, 80, 0.1)


def numeric(item: h5py.Dataset) -> np.ndarray:
    found = np.atleast_1d(item[()])
    return found if found.dtype.kind in "biuf" else np.arange(len(found), dtype=float)


def some(found: np.ndarray, value: float, rng: np.random.Generator) -> np.ndarray:
    found = found.astype(float)
    found.reshape(-1)[rng.integers(0, found.size, min(3, found.size)) if found.size else []] = value
    return found


# What takes the place of an array: of its numbers, as arguments of `create_dataset`.
ARRAYS: list[Callable[[np.ndarray, np.random.Generator], dict[str, Any]]] = [
    lambda a, rng: {"data": a[:0]},
    lambda a, rng: {"data": 1.0},
    lambda a, rng: {"data": h5py.Empty("f8")},
    lambda a, rng: {"data": h5py.Empty(TEXT)},
    lambda a, rng: {"data": a[..., None]},
    lambda a, rng: {"data": a[:-1]},
    lambda a, rng: {"data": np.concatenate([a, a])},
    lambda a, rng: {"data": a[::-1]},
    lambda a, rng: {"data": np.zeros_like(a)},
    lambda a, rng: {"data": a * 1000},
    lambda a, rng: {"data": a.astype(float) - 50},
    lambda a, rng: {"data": a.astype(">f8")},
    lambda a, rng: {"data": a.astype("f2")},
    lambda a, rng: {"data": a.astype("c16")},
    lambda a, rng: {"data": a.astype(bool)},
    lambda a, rng: {"data": np.full(len(a), b"\xff\xfe", "S2")},
    lambda a, rng: {"data": np.full(len(a), "ü☃/..", object), "dtype": TEXT},
    lambda a, rng: {"data": np.full(len(a), np.void(b"pickled!"))},
    lambda a, rng: {"data": np.zeros(len(a), [("a", "f8"), ("b", "i4")])},
    lambda a, rng: {"shape": len(a), "dtype": h5py.ref_dtype},
    lambda a, rng: {"shape": len(a), "dtype": h5py.vlen_dtype("f8")},
    lambda a, rng: {"shape": 10**12, "dtype": "f8", "chunks": (1024,)},
    lambda a, rng: {"shape": (10**6, 10**6), "dtype": "i4", "chunks": (10, 100)},
    lambda a, rng: {"shape": 100, "dtype": "f8", "external": [("/etc/passwd", 0, 800)]},
    lambda a, rng: {"data": some(a, float(rng.choice([np.nan, np.inf, -1, 1e300, 1e18, 2**31])), rng)},
]
# What takes the place of an array or a group.
LINKS: list[Callable[[h5py.File, str], Any]] = [
    lambda file, path: h5py.SoftLink("/nowhere"),
    lambda file, path: h5py.SoftLink(f"/{path}"),
    lambda file, path: h5py.SoftLink("/"),
    lambda file, path: h5py.ExternalLink("/etc/passwd", "/a"),
    lambda file, path: file["/"],
    lambda file, path: np.dtype("f8"),
    lambda file, path: np.arange(5.0),
    lambda file, path: None,
]
ATTRIBUTES = [0, -1, np.nan, "", "Interval", "RegularTimeSeries", b"\xff", np.zeros(0), np.arange(3.0), 1e308, True]
ATTRIBUTES += [np.array(["id", "start_time"], object), np.void(b"abc"), h5py.Empty("f8")]


def damage(path: Path, rng: np.random.Generator) -> None:
    """One or two faults: of the bytes, of an array, of a link, or of an attribute."""
    if rng.random() < 0.15:
        raw = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 40))):
            raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        path.write_bytes(raw[: int(rng.integers(len(raw)))] if rng.random() < 0.5 else raw)
        return
    with h5py.File(path, "r+") as file:
        for _ in range(int(rng.choice([1, 1, 2]))):
            items: list[str] = []
            file.visit(items.append)
            at = str(rng.choice(items))
            item, kind = file[at], rng.random()
            if kind < 0.25:
                names = [*item.attrs] or ["object"]
                item.attrs[str(rng.choice(names))] = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
            elif kind < 0.45 or not isinstance(item, h5py.Dataset) or item.shape is None:
                new = LINKS[rng.integers(len(LINKS))](file, at)
                del file[at]
                if new is not None:
                    file[at] = new
            else:
                with np.errstate(all="ignore"):
                    arguments = ARRAYS[rng.integers(len(ARRAYS))](numeric(item), rng)
                del file[at]
                file.create_dataset(at, **arguments)


def refusal(ask: Callable[[], Any]) -> str | None:
    """What the ValueError says, if there is one; nothing else may be raised."""
    try:
        ask()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("recipe", "write", "name"), [(brainsets, write_brainset, "s.h5"), (nwb, write_nwb, "s.nwb")])
def test_damaged_at_random(recipe: ModuleType, write: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    whole, path, out = tmp_path / "whole" / name, tmp_path / "damaged" / name, tmp_path / "out"
    for folder in (whole.parent, path.parent):
        folder.mkdir()
    write(whole)
    ((_, job),) = recipe.sessions(whole).items()
    plain = recipe.read(**job)
    assert len(plain.units) == 3
    assert len(plain.trials) == 20
    assert len(plain.covariates) >= 4
    outcomes = {"read": 0, "refused": 0}
    for seed in range(CASES):
        shutil.copy(whole, path)
        damage(path, np.random.default_rng([seed, 7]))
        ((_, job),) = recipe.sessions(path).items()
        asked: list[Callable[[], Any]] = [lambda job=job: recipe.plan(**job)]  # type: ignore[misc]
        asked += [lambda: describe(str(path))] if recipe is nwb else []
        for ask in asked:
            message = refusal(ask)
            assert message is None or name in message, f"seed {seed}"
        message = refusal(lambda job=job: recipe.read(**job))  # type: ignore[misc]
        assert message is None or name in message, f"seed {seed}"
        outcomes["refused" if message else "read"] += 1
        if message is None and seed % 5 == 0:
            recording = recipe.read(**job)
            back = read_recording(write_recording(out, recording, overwrite=True))
            assert np.array_equal(back.spike_times, recording.spike_times)
    assert min(outcomes.values()) > CASES // 5


@pytest.mark.parametrize(("recipe", "write", "name"), [(brainsets, write_brainset, "s.h5"), (nwb, write_nwb, "s.nwb")])
def test_an_array_that_declares_more_than_is_stored_is_not_allocated(
    recipe: ModuleType, write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    with h5py.File(path, "r+") as file:
        for part in ("spikes/timestamps", "units/spike_times"):
            if part in file:
                del file[part]
                file.create_dataset(part, shape=10**12, dtype="f8", chunks=(1024,))
    ((_, job),) = recipe.sessions(path).items()
    with pytest.raises(ValueError, match=r"shape \(1000000000000,\) declares .* GiB"):
        recipe.read(**job)


def test_a_clock_whose_ends_are_no_times_does_not_make_events_of_a_series(tmp_path: Path) -> None:
    path = tmp_path / "s.nwb"
    for ends in (np.nan, -3.0):
        write_nwb(path)
        with h5py.File(path, "r+") as file:
            file["processing/behavior/pose/timestamps"][-1] = ends
        ((_, job),) = nwb.sessions(path).items()
        pose = nwb.read(**job).covariates["pose"]
        assert pose.spec.kind == "continuous"
        assert len(pose.values) == 799


def test_a_series_without_a_clock_is_named_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.nwb"
    write_nwb(path)
    with h5py.File(path, "r+") as file:
        file["processing/behavior/speed/starting_time"].attrs["rate"] = 0.0
    ((_, job),) = nwb.sessions(path).items()
    recording = nwb.read(**job)
    assert "speed" not in recording.covariates
    assert "processing/behavior/speed (/processing/behavior/speed: no clock, expected" in recording.info.notes
    assert "not in the mapping: /processing/behavior/speed: no clock" in describe(str(path))


@pytest.mark.parametrize("error", [KeyError("x"), SystemError("x"), MemoryError("8 TiB"), ValueError("not a number")])
def test_whatever_goes_wrong_names_the_file(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="some file"), guarded(tmp_path / "some file"):
        raise error


def replaced(document: Any, rng: np.random.Generator) -> Any:
    """JSON with one value exchanged or taken out."""
    values = [None, 0, -1.5, "", "ü☃", [], {}, [1], {"a": 1}, True, 2**70, "../x", float("nan"), [[0, 1]]]
    if isinstance(document, dict) and document and rng.random() < 0.9:
        key = str(rng.choice(sorted(document)))
        if rng.random() < 0.2:
            return {k: v for k, v in document.items() if k != key}
        return document | {key: replaced(document[key], rng)}
    if isinstance(document, list) and document and rng.random() < 0.8:
        at = int(rng.integers(len(document)))
        return [*document[:at], replaced(document[at], rng), *document[at + 1 :]]
    return values[rng.integers(len(values))]


def changed(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """A table with one column of other values, or fewer columns or rows."""
    at, rows = int(rng.integers(table.num_columns)), table.num_rows
    name = table.column_names[at]
    columns: list[list[Any]] = [[None] * rows, ["x"] * rows, [float("nan")] * rows, [[1.0]] * rows, [2**62] * rows]
    kind = int(rng.integers(len(columns) + 3))
    if kind < len(columns):
        return table.set_column(at, name, pa.array(columns[kind]))
    return [table.drop_columns([name]), table.slice(0, rows // 2), pa.concat_tables([table, table])][
        kind - len(columns)
    ]


def test_a_corpus_damaged_at_random(tiny_recording: Tiny, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "damaged"
    for session in ("a", "b"):
        write_recording(whole, tiny_recording(session=session, subject=session))
    write_manifest(whole)
    outcomes = {"read": 0, "refused": 0}
    for seed in range(CASES):
        rng = np.random.default_rng([seed, 3])
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = files[rng.integers(len(files))] if rng.random() < 0.5 else folder / "recordings/tiny/a/info.json"
        if rng.random() < 0.3:
            raw = bytearray(path.read_bytes())
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(raw[: int(rng.integers(len(raw)))] if rng.random() < 0.5 else raw)
        elif path.suffix == ".json":
            path.write_text(json.dumps(replaced(json.loads(path.read_text()), rng)))
        elif path.suffix == ".parquet":
            pq.write_table(changed(pq.read_table(path), rng), path)
        else:
            with pa.OSFile(str(path)) as source:
                table = changed(pa.ipc.open_file(source).read_all(), rng)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        asked: list[Callable[[], Any]] = [
            lambda: [recording.validate() for recording in Corpus.open(folder)],
            lambda: Corpus.open(folder, verify=True),
            lambda: write_manifest(folder),
        ]
        for ask in asked:
            message = refusal(ask)
            assert message is None or str(folder) in message, f"seed {seed}"
            outcomes["refused" if message else "read"] += 1
    assert min(outcomes.values()) > CASES // 5


def test_names_that_no_file_can_have_are_refused() -> None:
    with pytest.raises(RecordingError, match="at most 128 letters"):
        CovariateSpec("q" * 129, "event", "time")
