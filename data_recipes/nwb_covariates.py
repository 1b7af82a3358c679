"""Covariates of NWB files, each as its entry in a mapping says; reads no spikes."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from data_recipes.cleaning import Tally, check_clock
from data_recipes.hdf5_values import dataset, seconds
from data_recipes.intervals import Seen, label_covariate, state_covariate
from data_recipes.mapping import covariate
from data_recipes.nwb_file import column_names, node, read_series, series_times
from data_recipes.nwb_survey import event_times, interval_bounds, need, series_clock, series_type, simple_column
from foundation.recording import Covariate


def read_covariate(
    file: h5py.File,
    name: str,
    entry: dict[str, Any],
    trials: tuple[str | None, np.ndarray],
    begin_s: float,
    span: tuple[float, float],
    tally: Tally,
) -> Covariate:
    """One covariate.

    Args:
        file: Open file.
        name: Of the covariate.
        entry: Of the mapping. Its `path` names a time series (of which `channels` chooses columns); a table of
            intervals, whose `column` holds from the start to the end of each (with kind event: at those times), or
            without a column 1 inside and 0 outside; several such tables, for the number of the one that holds; several
            series of one clock, as channels; or events. Columns of the trials are covariates of the trial.
        trials: Path of the trials, and the rows `(R,)` that are trials of the recording.
        begin_s: Start of the domain.
        span: First and last spike, s.
        tally: Counts samples that are left out.

    Raises:
        ValueError: No such path, or the values do not fit the entry.
    """
    path, where = entry["path"], f"{file.filename}"
    seen = Seen.of(entry, lambda p: interval_bounds(need(file, p)))
    if isinstance(path, list) and "start_time" in need(file, path[0]):
        sets = [interval_bounds(need(file, p)) for p in path]
        return state_covariate(where, name, entry, sets, begin_s, tally, seen)
    if isinstance(path, list):
        times, values = _stacked(file, path)
        check_clock(f"{where}: {path}", times, span)
        return covariate(where, name, entry, values, times, tally, seen.hidden(times))
    group = need(file, path)
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{where}: {path} holds values alone, expected a time series or a table; name its group")
    if "start_time" in group or "column" in entry:
        return _of_table(where, name, entry, group, trials, begin_s, span, tally, seen)
    if entry.get("kind") == "event":
        # A series, whose values are not asked for, or events.
        stamps = event_times(group)
        if node(group, "data") is None and stamps is None:
            raise ValueError(f"{where}: {path} has no times, expected timestamps of events; it has {sorted(group)}")
        if node(group, "data") is not None:
            times = _times(group)
        else:
            times = seconds(group, "timestamps" if "timestamps" in group else "timestamp")
        check_clock(f"{where}: {path}", times, span)
        return covariate(where, name, entry, times, None, tally)
    times, values = _samples(group)
    check_clock(f"{where}: {path}", times, span)
    if series_type(group) == "IntervalSeries":
        # Positive where an interval of that number starts, negative where it ends.
        values = np.maximum(values, 0).astype(np.int64)
        entry = {"kind": "categorical", "num_classes": max(2, int(values.max(initial=0)) + 1)} | entry
    if "channels" in entry:
        channels = np.array(entry["channels"], dtype=int).reshape(-1)
        if values.ndim != 2 or channels.min() < 0 or channels.max() >= values.shape[1]:
            raise ValueError(f"{where}: {path}: shape {values.shape}, expected channels {channels.tolist()}")
        values = values[:, channels]
    return covariate(where, name, entry, values, times, tally, seen.hidden(times))


def _times(series: h5py.Group) -> np.ndarray:
    """Times `(M,)` s of a series."""
    series_clock(series)  # refuses what cannot be read
    return series_times(series, len(dataset(series, "data")))


def _samples(series: h5py.Group) -> tuple[np.ndarray, np.ndarray]:
    """Times `(M,)` s and values `(M, ...)` of a series."""
    if not isinstance(series, h5py.Group):
        raise ValueError(f"{series.file.filename}: {series.name} holds values alone, expected a time series")
    series_clock(series)
    return read_series(series)


def _stacked(file: h5py.File, paths: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Times `(M,)` s and values `(M, channels)` of several series of one clock."""
    read = [_samples(need(file, p)) for p in paths]
    for path, (times, values) in zip(paths, read):
        if values.ndim != 1 or not np.array_equal(times, read[0][0]):
            raise ValueError(
                f"{file.filename}: {path}: shape {values.shape}, {len(times)} times; series that are put together must "
                f"be vectors at the times of {paths[0]}"
            )
    return read[0][0], np.stack([values for _, values in read], axis=1)


def _of_table(
    where: str,
    name: str,
    entry: dict[str, Any],
    table: h5py.Group,
    trials: tuple[str | None, np.ndarray],
    begin_s: float,
    span: tuple[float, float],
    tally: Tally,
    seen: Seen,
) -> Covariate:
    path = entry["path"]
    if "column" not in entry:
        bounds = interval_bounds(table)
        check_clock(f"{where}: {path}", bounds.ravel(), span)
        if entry.get("kind") == "event":
            return covariate(where, name, entry, bounds[:, 0], None, tally)
        return state_covariate(where, name, entry, [bounds], begin_s, tally, seen)
    values = simple_column(table, entry["column"])
    if values is None:
        raise ValueError(
            f"{where}: {path} has no column {entry['column']!r} of a number or text a row; it has {column_names(table)}"
        )
    if entry.get("kind") == "event":
        check_clock(f"{where}: {path}/{entry['column']}", np.asarray(values, float), span)
        return covariate(where, name, entry, values, None, tally)
    if trials[0] is not None and path.strip("/") == trials[0].strip("/"):
        return covariate(where, name, entry, values[trials[1]], None, tally)
    bounds = interval_bounds(table)
    check_clock(f"{where}: {path}", bounds.ravel(), span)
    return label_covariate(where, name, entry, bounds, values, tally)
