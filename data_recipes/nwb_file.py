"""NWB 2 files read with h5py: tables, ragged columns, time series and spike times; knows no dataset and no recording.

h5py because it is a hundred times quicker than pynwb on these files and needs none of the extensions they were written
with. Everything is read through `node`, which follows no link out of the file. What is refused, always with a
ValueError that says got, expected, cure: a truncated or corrupt file, HDF5 that is not NWB 2, links to other files and
data stored in other files, columns of pickled, opaque or otherwise unreadable objects, and datasets that declare more
values than the file can hold.

Layout: NWB 2 core, https://nwb-schema.readthedocs.io (DynamicTable, VectorData, VectorIndex, TimeSeries, Units).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

# Chunks that adjacent reads share are decompressed once.
_CHUNK_CACHE_BYTES = 64 * 2**20
# A dataset above this size that declares this many times what it stores was not written, or means to fill the memory;
# gzip, the tightest of HDF5's own filters, reaches 1032 to 1.
_LARGE_BYTES, _MAX_RATIO = 2**28, 1100


@contextmanager
def open_hdf5(path: str | Path, what: str, **options: Any) -> Iterator[h5py.File]:
    """The HDF5 file, open for reading as long as the context lasts.

    Args:
        path: The file.
        what: What it should be, for the error.
        options: Of `h5py.File`.

    Raises:
        ValueError: No such file, truncated or corrupt (now or while it is read).
    """
    try:
        with h5py.File(path, "r", **options) as file:
            yield file
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cannot be read as HDF5 ({error}), expected a complete {what}; is the download unfinished? "
            "Fetch it again"
        ) from error


@contextmanager
def open_nwb(path: str | Path) -> Iterator[h5py.File]:
    """The file, open for reading as long as the context lasts.

    Raises:
        ValueError: As `open_hdf5`, or not NWB 2.
    """
    with open_hdf5(path, "NWB file", rdcc_nbytes=_CHUNK_CACHE_BYTES) as file:
        if "nwb_version" not in file.attrs:
            got = "an NWB 1 file" if "nwb_version" in file else "an HDF5 file that is not NWB"
            raise ValueError(f"{path}: {got}, expected NWB 2 (the attribute nwb_version at its root)")
        yield file


def node(parent: h5py.Group, path: str) -> Any:
    """The group or dataset at a path below `parent`, or None where there is none.

    Raises:
        ValueError: The path leads into another file, or the data are stored in one.
    """
    at = parent
    for name in path.strip("/").split("/"):
        link = at.get(name, getlink=True) if isinstance(at, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(_outside(parent, path, link.filename))
        try:
            at = at[name]
        except KeyError as error:
            if isinstance(link, h5py.SoftLink):
                return None
            # Not to be taken for absent.
            raise ValueError(f"{parent.file.filename}: {path} is damaged ({error}); fetch the file again") from error
        # A soft link may pass through an external one.
        if at.file.filename != parent.file.filename:
            raise ValueError(_outside(parent, path, at.file.filename))
    if isinstance(at, h5py.Dataset) and (at.external or at.is_virtual):
        raise ValueError(_outside(parent, path, at.external[0][0] if at.external else "a virtual dataset"))
    return at


def children(parent: h5py.Group, path: str, neurodata_type: str | None = None) -> dict[str, Any]:
    """Groups and datasets at `path` by name, of one `neurodata_type` if given; empty where there is no such group."""
    group = node(parent, path) if path.strip("/") else parent
    if not isinstance(group, h5py.Group):
        return {}
    found = {name: node(group, name) for name in group}
    return {k: v for k, v in found.items() if v is not None and neurodata_type in (None, type_of(v))}


def type_of(item: Any) -> str:
    """The `neurodata_type` of a group or dataset, "" without one."""
    return _decoded(item.attrs.get("neurodata_type", ""))


def text(parent: h5py.Group, path: str, default: str = "") -> str:
    """A scalar string dataset, such as `general/subject/subject_id`; `default` where there is none."""
    item = node(parent, path)
    if not isinstance(item, h5py.Dataset):
        return default
    if item.size != 1:
        raise ValueError(f"{item.file.filename}: {item.name}: shape {item.shape}, expected one text")
    return _decoded(array(item).reshape(())).strip()


def array(dataset: h5py.Dataset, rows: slice | None = None) -> np.ndarray:
    """Values of a dataset: numbers, booleans, or strings as an object array of `str`.

    Args:
        dataset: Any shape.
        rows: Of the first axis; None for all.

    Raises:
        ValueError: Neither numbers, booleans nor strings (pickled or opaque objects, references, compounds), no values
            at all, or more than the file can hold.
    """
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        got = "no values" if isinstance(dataset, h5py.Dataset) else f"a {type(dataset).__name__}"
        raise ValueError(f"{dataset.file.filename}: {dataset.name}: {got}, expected an array")
    if rows is None:
        refuse_unwritten(dataset)
    where = () if rows is None else rows
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr(errors="replace")[where], dtype=object)
    if dataset.dtype.kind not in "biuf":
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name}: values of type {dataset.dtype}, expected numbers, booleans or "
            "strings; pickled or opaque objects are not read"
        )
    return np.asarray(dataset[where])


def refuse_unwritten(dataset: h5py.Dataset) -> None:
    """Raise ValueError for a large dataset of which the file holds next to nothing: it would fill the memory."""
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > max(_LARGE_BYTES, _MAX_RATIO * stored):
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name}: shape {dataset.shape} declares {dataset.nbytes / 2**30:.1f} GiB "
            f"and {stored / 2**20:.1f} MiB are stored, expected all of it; was the file written to its end?"
        )


def column_names(table: h5py.Group) -> list[str]:
    """Columns of a DynamicTable, without `id` and the `_index` of ragged ones."""
    listed = [_decoded(name) for name in np.atleast_1d(table.attrs.get("colnames", []))]
    return [name for name in listed if node(table, name) is not None]


def table_ids(table: h5py.Group) -> np.ndarray:
    """The `id` `(R,)` of a DynamicTable's rows."""
    ids = node(table, "id") if isinstance(table, h5py.Group) else None
    if not isinstance(ids, h5py.Dataset) or ids.ndim != 1:
        raise ValueError(f"{table.file.filename}: {table.name} has no vector id, expected an NWB table")
    return array(ids)


def column(table: h5py.Group, name: str) -> np.ndarray:
    """One column of a DynamicTable `(R, ...)`; a ragged one as an object array `(R,)` of arrays.

    Raises:
        ValueError: No such column, an index that does not fit its data, or values that are refused by `array`.
    """
    data = node(table, name)
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"{table.file.filename}: {table.name} has no column {name!r}; it has {column_names(table)}")
    if node(table, f"{name}_index") is None:
        return array(data)
    stops = ragged_stops(table, name)
    values = array(data)
    out = np.empty(len(stops), object)
    for row, (start, stop) in enumerate(zip(np.concatenate([[0], stops[:-1]]), stops)):
        out[row] = values[start:stop]
    return out


def ragged_stops(table: h5py.Group, name: str) -> np.ndarray:
    """Where each row of a ragged column ends in its data, `(R,)` int64.

    Raises:
        ValueError: The column is not ragged, is ragged twice, or its index decreases or passes the end of the data.
    """
    index = node(table, f"{name}_index")
    where = f"{table.file.filename}: {table.name}/{name}"
    if index is None or node(table, f"{name}_index_index") is not None:
        raise ValueError(f"{where}: expected one value index {name}_index, got {'none' if index is None else 'two'}")
    stops, data = array(index), node(table, name)
    if stops.ndim != 1 or stops.dtype.kind not in "iu" or not isinstance(data, h5py.Dataset) or not data.shape:
        raise ValueError(
            f"{where}_index: {stops.dtype} of shape {stops.shape}, expected whole numbers beside their data"
        )
    stops, size = stops.astype(np.int64), len(data)
    if len(stops) and ((np.diff(stops, prepend=0) < 0).any() or stops[-1] > size):
        raise ValueError(f"{where}_index: rows end at up to {stops.max()} of {size} values, expected rising ends")
    return stops


def read_table(table: h5py.Group, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """A DynamicTable (such as TimeIntervals) with its `id` as index, rows in the order of the file.

    Args:
        table: Group of the table.
        columns: Those to read, left out where the file has them not; None for all but compounds and references (such
            as `timeseries`) and twice ragged ones.

    Raises:
        ValueError: A column is refused by `array`, or columns differ in length.
    """
    present = column_names(table)
    wanted = [n for n in present if _plain(table, n)] if columns is None else [n for n in columns if n in present]
    ids = table_ids(table)
    out: dict[str, Any] = {}
    for name in wanted:
        values = column(table, name)
        if values.shape[:1] != ids.shape:
            got = len(values) if values.ndim else "no"
            raise ValueError(f"{table.file.filename}: {table.name}/{name}: {got} rows, expected {len(ids)} as in id")
        out[name] = values if values.ndim == 1 else list(values)
    return pd.DataFrame(out, index=pd.Index(ids, name="id"))


def read_series(series: h5py.Group) -> tuple[np.ndarray, np.ndarray]:
    """Times `(T,)` float64 s and values `(T, ...)` of a TimeSeries, in its unit (conversion and offset applied).

    Times are the `timestamps`, or else `starting_time` + k / `rate`.

    Raises:
        ValueError: No data, no clock, or two lengths.
    """
    where = f"{series.file.filename}: {series.name}"
    data = node(series, "data")
    if not isinstance(data, h5py.Dataset) or not data.shape:
        raise ValueError(f"{where}: no data, expected a TimeSeries with numbers in the file")
    values = array(data)
    conversion, offset = float(data.attrs.get("conversion", 1.0)), float(data.attrs.get("offset", 0.0))
    if (conversion, offset) != (1.0, 0.0):
        values = values * conversion + offset
    return series_times(series, len(values)), values


def series_times(series: h5py.Group, num_samples: int) -> np.ndarray:
    """Times `(T,)` float64 s of the `num_samples` samples of a TimeSeries; see `read_series`."""
    where = f"{series.file.filename}: {series.name}"
    stamps, start = node(series, "timestamps"), node(series, "starting_time")
    if stamps is not None:
        times = array(stamps).astype(np.float64, copy=False)
    elif start is not None and float(start.attrs.get("rate", 0)) > 0:
        times = float(array(start)) + np.arange(num_samples) / float(start.attrs["rate"])
    else:
        raise ValueError(f"{where}: no clock, expected timestamps or starting_time with a rate above 0")
    if times.shape != (num_samples,):
        raise ValueError(f"{where}: {num_samples} samples at {times.shape} times, expected one time a sample")
    return times


def read_spikes(units: h5py.Group, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Spike times of units, one unit after the other, read once and without a second copy.

    Args:
        units: The Units table.
        rows: Positions `(N,)` of units in the table, rising; None for all.

    Returns:
        Times `(K,)` float64 s, and the number of spikes `(N,)` int64 of each unit.

    Raises:
        ValueError: No spike times, or as in `ragged_stops`.
    """
    data = node(units, "spike_times")
    if data is None:
        raise ValueError(f"{units.file.filename}: {units.name} has no spike_times; it has {column_names(units)}")
    stops = ragged_stops(units, "spike_times")
    if (num := len(table_ids(units))) != len(stops):
        raise ValueError(f"{units.file.filename}: {units.name}: {num} units in id, {len(stops)} in spike_times_index")
    if data.dtype.kind not in "iuf" or data.ndim != 1:
        raise ValueError(
            f"{units.file.filename}: {data.name}: {data.dtype} of shape {data.shape}, expected a vector of seconds"
        )
    refuse_unwritten(data)
    rows = np.arange(len(stops)) if rows is None else np.asarray(rows, np.int64)
    assert (np.diff(rows) > 0).all(), "rows must rise"
    starts, stops = np.concatenate([[0], stops[:-1]])[rows], stops[rows]
    counts = stops - starts
    times = np.empty(int(counts.sum()), np.float64)
    # Units that follow one another in the file are read in one piece.
    breaks = np.flatnonzero(starts[1:] != stops[:-1]) + 1
    at = 0
    for piece in np.split(np.arange(len(rows)), breaks):
        if not len(piece) or stops[piece[-1]] == starts[piece[0]]:
            continue
        first, last = int(starts[piece[0]]), int(stops[piece[-1]])
        data.read_direct(times, np.s_[first:last], np.s_[at : at + last - first])
        at += last - first
    return times, counts


def spike_trains(units: h5py.Group, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """Spike times (s) of each unit, as views of what `read_spikes` reads."""
    times, counts = read_spikes(units, rows)
    return np.split(times, np.cumsum(counts)[:-1]) if len(counts) else []


def _plain(table: h5py.Group, name: str) -> bool:
    """Whether `read_table` takes this column when no columns are named."""
    data = node(table, name)
    if not isinstance(data, h5py.Dataset) or (data.dtype.kind == "V" and data.dtype.names is not None):
        return False
    return h5py.check_ref_dtype(data.dtype) is None and node(table, f"{name}_index_index") is None


def _decoded(value: Any) -> str:
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _outside(parent: h5py.Group, path: str, target: str) -> str:
    return (
        f"{parent.file.filename}: {parent.name.rstrip('/')}/{path} lies in another file ({target}), expected data in "
        "this one; links out of the file are not followed. Export it with its links resolved"
    )
