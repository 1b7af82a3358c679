"""What an NWB file offers: its tables of units and intervals, its time series and events, by path; reads no spikes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from data_recipes.hdf5_values import dataset, values
from data_recipes.nwb_file import column, column_names, node, ragged_stops, table_ids, type_of

# Not looked into: text of the format itself.
_SKIPPED = "specifications"


@dataclass
class Survey:
    """Paths of a file without a leading "/", in the order of the file.

    Attributes:
        units: Tables with spike times.
        intervals: Tables with a start and a stop time.
        series: Groups with data and a clock.
        events: Groups with times and no data, and tables of events (NWB 2.10).
        elsewhere: Links out of the file, which are not followed.
    """

    units: list[str] = field(default_factory=list)
    intervals: list[str] = field(default_factory=list)
    series: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


def survey(file: h5py.File) -> Survey:
    """Look through the whole file once, at names and types only."""
    links: dict[str, Any] = {}
    # Meets each group once, whatever circles a file has. Nothing may be raised while it runs.
    file.visititems_links(links.__setitem__)
    found = Survey()
    for path, link in links.items():
        if isinstance(link, h5py.ExternalLink):
            found.elsewhere.append(path)
        # What a soft link names is met where it lies.
        if not isinstance(link, h5py.HardLink) or path.startswith(_SKIPPED):
            continue
        group = file[path]
        if not isinstance(group, h5py.Group):
            continue
        if "spike_times" in group and "spike_times_index" in group:
            found.units.append(path)
        elif "start_time" in group and "stop_time" in group:
            found.intervals.append(path)
        elif "data" in group and ("timestamps" in group or "starting_time" in group):
            found.series.append(path)
        elif event_times(group) is not None:
            found.events.append(path)
    return found


def offers(file: h5py.File) -> str:
    """What the file holds, for messages."""
    found = survey(file)
    parts = [f"{kind} {paths}" for kind, paths in vars(found).items() if paths]
    return "; ".join(parts).replace("'", "") or "no units, intervals or series"


def need(file: h5py.File, path: str) -> h5py.Group | h5py.Dataset:
    """The group at a path.

    Raises:
        ValueError: There is none (the message lists what there is), or it lies in another file.
    """
    found = node(file, path)
    if found is None:
        raise ValueError(f"{file.filename}: no {path!r}; the file offers {offers(file)}")
    return found


def simple_column(table: h5py.Group, name: str) -> np.ndarray | None:
    """A column as `(R,)` numbers, booleans or text; None for references, objects and anything of several dimensions.

    Lists of text, such as the tags of epochs, are joined by ",".
    """
    data = node(table, name)
    text = isinstance(data, h5py.Dataset) and h5py.check_string_dtype(data.dtype) is not None
    if not isinstance(data, h5py.Dataset) or data.ndim != 1 or not (text or data.dtype.kind in "biuf"):
        return None
    if node(table, f"{name}_index") is None:
        return values(table, name)
    if not text or node(table, f"{name}_index_index") is not None:
        return None
    for part in (name, f"{name}_index"):
        dataset(table, part)
    return np.array([",".join(part) for part in column(table, name)], dtype=object)


def interval_bounds(table: h5py.Group, start: str = "start_time", stop: str = "stop_time") -> np.ndarray:
    """Starts and stops `(R, 2)` float64 s of a table of intervals, as they are.

    Raises:
        ValueError: Not such a table, or columns of two lengths.
    """
    bounds = [simple_column(table, name) if isinstance(table, h5py.Group) else None for name in (start, stop)]
    if any(b is None or b.dtype.kind not in "iuf" for b in bounds):
        raise ValueError(
            f"{table.file.filename}: {table.name} has no times {start} and {stop}, expected a table of intervals"
        )
    first, last = (np.asarray(b, np.float64) for b in bounds)
    if first.shape != last.shape:
        raise ValueError(
            f"{table.file.filename}: {table.name}: {len(first)} starts, {len(last)} stops, expected as many"
        )
    return np.stack([first, last], axis=1)


def electrode_column(file: h5py.File, units: h5py.Group, name: str) -> np.ndarray:
    """A column of the electrodes table for each unit `(N,)` text: that of its first electrode, "" for units without.

    Raises:
        ValueError: The units refer to no electrodes, or the electrodes have no such column.
    """
    rows, table = node(units, "electrodes"), None
    if rows is not None:
        target = rows.attrs.get("table")
        table = (
            file[target] if isinstance(target, h5py.Reference) else node(file, "general/extracellular_ephys/electrodes")
        )
    if table is None:
        raise ValueError(f"{file.filename}: {units.name} refers to no electrodes; it has {column_names(units)}")
    read, index = simple_column(table, name), values(units, "electrodes").astype(int)
    if read is None:
        raise ValueError(f"{file.filename}: the electrodes have no column {name!r}; they have {column_names(table)}")
    if len(index) and (index.min() < 0 or index.max() >= len(read)):
        raise ValueError(
            f"{file.filename}: {units.name}/electrodes: rows up to {index.max()} of {len(read)} electrodes"
        )
    if node(units, "electrodes_index") is None:
        first, present = np.arange(len(index)), np.ones(len(index), bool)
    else:
        stops = ragged_stops(units, "electrodes")
        first = np.concatenate([[0], stops[:-1]]).astype(int)
        present = stops > first
    out = np.full(len(table_ids(units)), "", dtype=object)
    if len(present) != len(out):
        raise ValueError(f"{file.filename}: {units.name}/electrodes: of {len(present)} units, expected {len(out)}")
    out[present] = [str(v) for v in read[index[first[present]]]]
    return out


def electrode_group_attribute(file: h5py.File, units: h5py.Group, name: str) -> np.ndarray:
    """`name` or `location` of each unit's electrode group `(N,)` text.

    Raises:
        ValueError: The units refer to no electrode groups, or to ones in another file.
    """
    data = node(units, "electrode_group")
    if data is None or h5py.check_ref_dtype(dataset(units, "electrode_group").dtype) is not h5py.Reference:
        raise ValueError(f"{file.filename}: {units.name} refers to no electrode group; it has {column_names(units)}")
    groups = [file[reference] if reference else None for reference in data[()]]
    if name == "name":
        return np.array(["" if g is None else (g.name or "").rpartition("/")[2] for g in groups], dtype=object)
    return np.array(["" if g is None else str(g.attrs.get(name, "")) for g in groups], dtype=object)


def event_times(group: h5py.Group) -> h5py.Dataset | None:
    """The times (s) of events or of a series with timestamps: a vector, or the column of an EventsTable."""
    found = node(group, "timestamps")
    if found is None:
        found = node(group, "timestamp")
    is_vector = isinstance(found, h5py.Dataset) and found.ndim == 1 and found.dtype.kind in "iuf"
    return found if is_vector else None


def series_type(series: h5py.Group) -> str:
    """The type of a series, such as "SpatialSeries"."""
    return type_of(series) or "TimeSeries"


def series_clock(series: h5py.Group) -> tuple[float, float, float, str]:
    """First and last time (s), samples per second, and "timestamps" or "rate" of a series.

    From its ends alone, if these are in order.

    Raises:
        ValueError: No samples, or no clock that can be read.
    """
    where = f"{series.file.filename}: {series.name}"
    if node(series, "data") is None:
        raise ValueError(f"{where}: no data, expected a TimeSeries with numbers in the file")
    if not (data := dataset(series, "data")).ndim:
        raise ValueError(f"{where}: data is one value, expected one a sample")
    if node(series, "timestamps") is None and node(series, "starting_time") is None:
        raise ValueError(f"{where}: no clock, expected timestamps or starting_time with a rate above 0")
    if node(series, "timestamps") is not None:
        stamps, ends = dataset(series, "timestamps"), event_times(series)
        if ends is None:
            raise ValueError(f"{where}: timestamps {stamps.shape} of type {stamps.dtype}, expected a vector of seconds")
        if not len(ends):
            return 0.0, 0.0, 0.0, "timestamps"
        first, last = float(ends[0]), float(ends[-1])
        if not last > first:
            times = values(series, "timestamps")
            times = times[np.isfinite(times)]
            first, last = (float(times.min()), float(times.max())) if len(times) else (0.0, 0.0)
        return first, last, (len(ends) - 1) / (last - first) if last > first else 0.0, "timestamps"
    start = dataset(series, "starting_time")
    given = start.attrs.get("rate", 0)
    rate = float(given) if isinstance(given, (int, float, np.number)) else 0.0
    if start.shape or start.dtype.kind not in "iuf" or not 0 < rate < np.inf:
        raise ValueError(f"{where}: no clock, expected timestamps or starting_time with a rate above 0, got {given!r}")
    first = float(start[()])
    return first, first + max(len(data) - 1, 0) / rate, rate, "rate"
