"""`foundation prepare nwb --list`: what an NWB file offers, and a mapping of it that runs as it is."""

from __future__ import annotations

import re
from typing import Any

import h5py
import numpy as np
import yaml

from data_recipes.hdf5_values import dataset, guarded, values
from data_recipes.mapping import identifier
from data_recipes.nwb_file import column_names, node, open_nwb, ragged_stops, table_ids, text
from data_recipes.nwb_survey import (
    Survey,
    event_times,
    interval_bounds,
    need,
    series_clock,
    series_type,
    simple_column,
    survey,
)
from data_recipes.sources import SourceFile, list_files, local_file

# More channels or samples are a recording of the brain, of the muscles or of a device rather than a behavior.
MAX_CHANNELS, MAX_HZ = 16, 2000.0
# Fewer samples than this say when something happened; between them there is nothing to interpolate.
MIN_HZ = 2.0
MAX_CLASSES = 12
NEURAL = {
    *("ElectricalSeries", "SpikeEventSeries", "RoiResponseSeries", "TwoPhotonSeries", "OnePhotonSeries"),
    *("ImageSeries", "ImageMaskSeries", "IndexSeries", "OpticalSeries", "AnnotationSeries", "DecompositionSeries"),
    *("CurrentClampSeries", "VoltageClampSeries", "CurrentClampStimulusSeries", "VoltageClampStimulusSeries"),
}
REGION_COLUMNS = ("region", "brain_region", "location", "brain_area", "area", "structure_acronym", "acronym")
PROBE_COLUMNS = ("probe", "probe_name", "probe_id", "insertion")
UNITS = {"radians": "rad", "radian": "rad", "degrees": "deg", "degree": "deg", "meters": "m", "meter": "m"}
UNITS |= {"metres": "m", "seconds": "s", "second": "s", "volts": "V", "unknown": "", "n/a": "", "na": "", "no unit": ""}


def describe(source: str, ending: str = ".nwb") -> str:
    """What a NWB file offers, as comments, and below them a mapping of it as YAML.

    The whole text may be saved and given as `mapping=`.

    Args:
        source: File, folder or URL; of several files, the first that has units is shown.
        ending: Of the file names to look at.

    Raises:
        ValueError: No such file, or one that cannot be read.
    """
    files = list_files(source, (ending,))
    if not files:
        raise ValueError(f"nwb: --source is {source}, expected a folder with {ending} files, or one")
    for candidate in files:
        with local_file(candidate.path, candidate.version) as local, guarded(local), open_nwb(local) as file:
            if survey(file).units:
                return _describe(file, candidate, len(files) - 1)
    with local_file(files[0].path, files[0].version) as local, guarded(local), open_nwb(local) as file:
        return _describe(file, files[0], len(files) - 1)


def propose(file: h5py.File, found: Survey, classes: bool = True) -> dict[str, Any]:
    """A mapping of all units, trials and behavior that a file has.

    Args:
        file: Open file.
        found: Its survey.
        classes: Number the text that trials and intervals hold. Another file may hold other text, so the default
            reading, which has no mapping that is the same for all files, does not.
    """
    mapping: dict[str, Any] = {}
    tables = ["units"] if "units" in found.units else found.units
    mapping["units"] = [{"path": path} | _unit_entries(file, path) for path in tables]
    trials = "intervals/trials" if "intervals/trials" in found.intervals else None
    if trials:
        mapping["trials"] = {"path": trials}
    named: dict[str, dict[str, Any]] = {}
    if trials:
        named |= _of_trials(file, trials, classes)
    for path in found.intervals:
        if path not in (trials, "intervals/invalid_times"):
            _add(named, path, _of_intervals(file, path, classes))
    for path in found.series:
        _add(named, path, _of_series(file, path))
    for path in found.events:
        _add(named, path, {"path": path, "kind": "event"})
    mapping["covariates"] = named
    return mapping


def why_not(file: h5py.File, path: str) -> str:
    """Why `propose` leaves a series out; "" if it does not."""
    series = need(file, path)
    kind = series_type(series)
    if kind in NEURAL:
        return kind
    # What lies in another file is refused rather than left out.
    for part in ("data", "timestamps"):
        node(series, part)
    try:
        data, rate = dataset(series, "data"), series_clock(series)[2]
    except ValueError as error:
        return str(error).removeprefix(f"{file.filename}: ")
    if data.dtype.kind not in "biuf":
        return f"values of type {data.dtype}"
    if data.ndim > 2 or (data.ndim == 2 and not 0 < data.shape[1] <= MAX_CHANNELS):
        return f"shape {data.shape}"
    if not len(data):
        return "empty"
    return f"{rate:.0f} Hz" if rate > MAX_HZ else ""


def _describe(file: h5py.File, source: SourceFile, num_more: int) -> str:
    found = survey(file)
    lines = [f"{source.name}: NWB {file.attrs['nwb_version']}, {source.size / 2**20:.1f} MiB"]
    lines += [f"({num_more} more files)"] if num_more else []
    about = ("identifier", "session_description", "general/subject/subject_id", "general/subject/species")
    lines += [f"{path}: {text(file, path)}" for path in about]
    for title, entries in _sections(file, found):
        lines += ["", title, *(f"  {entry}" for entry in entries)] if entries else []
    lines += ["", "mapping; remove what you do not want, see configs/nwb for all entries"]
    mapping = propose(file, found)
    if "subject" not in mapping and not text(file, "general/subject/subject_id"):
        lines.append("THE FILE DOES NOT NAME ITS ANIMAL: replace `subject`, splits follow it")
        mapping = {"subject": source.stem, **mapping}
    comments = "\n".join(f"# {line}".rstrip() for line in lines)
    return f"{comments}\n{yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=110)}"


def _unit_entries(file: h5py.File, path: str) -> dict[str, str]:
    """Where the region and the probe of the units of a table stand."""
    table = need(file, path)
    names, entries = column_names(table), {}
    for entry, own, of_electrode, of_group in (
        ("region", REGION_COLUMNS, "location", "location"),
        ("probe", PROBE_COLUMNS, "group_name", "name"),
    ):
        plain = [name for name in own if name in names and simple_column(table, name) is not None]
        electrodes = node(file, "general/extracellular_ephys/electrodes")
        if plain:
            entries[entry] = plain[0]
        elif "electrodes" in names and electrodes is not None and of_electrode in column_names(electrodes):
            entries[entry] = f"electrodes.{of_electrode}"
        elif "electrode_group" in names:
            entries[entry] = f"electrode_group.{of_group}"
    return entries


def _of_trials(file: h5py.File, path: str, classes: bool) -> dict[str, dict[str, Any]]:
    table, named = need(file, path), {}
    for name in column_names(table):
        values = simple_column(table, name)
        if values is None or name in ("start_time", "stop_time"):
            continue
        entry: dict[str, Any] = {"path": path, "column": name, "role": "task"}
        if re.search(r"_times?$", name) and values.dtype.kind == "f":
            named[identifier(re.sub(r"_times?$", "", name))] = entry | {"kind": "event"}
        elif values.dtype.kind in "biuf":
            named[identifier(name)] = entry
        elif classes and (labels := _labels(values)):
            named[identifier(name)] = entry | {"classes": labels}
    return named


def _of_intervals(file: h5py.File, path: str, classes: bool) -> dict[str, Any] | None:
    """Epochs by their text where it has classes, else inside or outside; None for one interval without text."""
    table = need(file, path)
    role = "stimulus" if "stim" in path or "presentation" in path else "task" if path.endswith("epochs") else "behavior"
    for name in column_names(table):
        values = simple_column(table, name)
        if values is not None and values.dtype.kind == "O" and len(labels := _labels(values)) > 1:
            return {"path": path, "column": name, "classes": labels, "role": role} if classes else None
    return {"path": path, "role": role} if len(table_ids(table)) > 1 else None


def _of_series(file: h5py.File, path: str) -> dict[str, Any] | None:
    if why_not(file, path):
        return None
    series = need(file, path)
    data = dataset(series, "data")
    raw = data.attrs.get("unit", "")
    raw = raw.decode() if isinstance(raw, bytes) else str(raw)
    unit = UNITS.get(raw.strip().lower(), raw.strip())
    entry: dict[str, Any] = {"path": path, "role": "stimulus" if path.startswith("stimulus") else "behavior"}
    if series_type(series) == "IntervalSeries":
        most = np.abs(np.nan_to_num(values(series, "data"))).max()
        return entry | {"kind": "categorical", "num_classes": max(2, int(most) + 1)}
    if series_clock(series)[2] < MIN_HZ and node(series, "timestamps") is not None:
        return entry | {"kind": "event"}
    above = path.split("/")[-2:-1]
    if unit in ("rad", "deg") and data.ndim == 1 and "CompassDirection" in (*above, series_type(series)):
        entry["circular"] = True
    return entry | ({"unit": unit} if unit else {})


def _add(named: dict[str, dict[str, Any]], path: str, entry: dict[str, Any] | None) -> None:
    """Under the last part of its path, or as much of it as makes the name its own."""
    if entry is None:
        return
    parts = [
        p for p in path.split("/") if p not in ("acquisition", "processing", "intervals", "stimulus", "presentation")
    ]
    start = len(parts) - 1
    # "Position/x" and "CompassDirection/rx" mean little without the first part.
    if start and re.fullmatch(r"(?i)[a-z]{1,2}\d?|data|series|timeseries|spatial_?series", parts[-1]):
        start -= 1
    while start > 0 and identifier("_".join(parts[start:])) in named:
        start -= 1
    name = identifier("_".join(parts[start:]))
    named[name if name not in named else identifier(path)] = entry


def _labels(values: np.ndarray) -> list[str]:
    """The texts in a column, if they are few enough to be classes."""
    labels = sorted({str(value) for value in values} - {""})
    return labels if 0 < len(labels) <= MAX_CLASSES else []


def _sections(file: h5py.File, found: Survey) -> list[tuple[str, list[str]]]:
    units = []
    for path in found.units:
        table, stops = need(file, path), ragged_stops(need(file, path), "spike_times")
        times = values(table, "spike_times")
        span = (float(np.max(times)) - float(np.min(times))) if len(times) else 0.0
        rate = len(times) / max(len(stops) * span, 1e-9) if span else 0.0
        silent = int((np.diff(stops, prepend=0) == 0).sum())
        units.append(
            f"{path}: {len(stops)} units ({silent} without spikes), {len(times)} spikes in {span:.1f} s, {rate:.2f} Hz"
            f"; {_columns(table)}"
        )
    intervals = []
    for path in found.intervals:
        table = need(file, path)
        start, stop = interval_bounds(table).T
        span_s = f"{np.nanmin(start):.6g} to {np.nanmax(stop):.6g} s" if len(start) else "empty"
        intervals.append(f"{path}: {len(start)} rows, {span_s}; {_columns(table)}")
    series = []
    for path in found.series:
        group, reason = need(file, path), why_not(file, path)
        line = f"{path}: {series_type(group)}"
        try:
            data, (first, last, rate, clock) = dataset(group, "data"), series_clock(group)
            line += f" {data.shape}, {rate:.4g} Hz by {clock}, {first:.6g} to {last:.6g} s"
            line += f", unit {data.attrs.get('unit', '')!r}"
        except ValueError:
            pass  # the reason says it
        series.append(line + (f"; not in the mapping: {reason}" if reason else ""))
    clocks = {path: event_times(need(file, path)) for path in found.events}
    events = [f"{path}: {len(times)} times" for path, times in clocks.items() if times is not None]
    return [
        ("units", units),
        ("intervals", intervals),
        ("series", series),
        ("events", events),
        ("in other files, not read", found.elsewhere),
    ]


def _columns(table: h5py.Group) -> str:
    own = ("spike_times", "start_time", "stop_time")
    return "columns " + (", ".join(_column(table, n) for n in column_names(table) if n not in own) or "none of its own")


def _column(table: h5py.Group, name: str) -> str:
    values = simple_column(table, name)
    if values is None:
        return f"{name} (ragged, wide or references)"
    if values.dtype.kind == "O" and (labels := _labels(values)):
        return f"{name} ({', '.join(labels)})"
    return f"{name} ({values.dtype})" if values.dtype.kind != "O" else f"{name} (text)"
