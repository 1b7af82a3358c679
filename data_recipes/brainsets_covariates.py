"""Covariates of brainsets files: which there are without a mapping, and each as its entry says; reads no spikes."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from data_recipes import brainsets_file as tb
from data_recipes.cleaning import Tally, check_clock
from data_recipes.hdf5_values import seconds, values
from data_recipes.intervals import Seen, label_covariate, names_in, state_covariate
from data_recipes.mapping import COVARIATE, check_entries, covariate, identifier
from data_recipes.nwb_file import node
from foundation.recording import Covariate

ENTRY = COVARIATE | {"key", "observed"}
# More are channels of a recording system rather than a behavior.
MAX_CHANNELS = 16


def default_covariates(file: h5py.File, spikes: str, trials: str | None) -> dict[str, dict[str, Any]]:
    """Entries for all numbers of time series and trials, and for the times of trials.

    Raises:
        ValueError: Two of them would have one name.
    """
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, entry: dict[str, Any]) -> None:
        if (name := identifier(name)) in found:
            raise ValueError(
                f"{file.filename}: {found[name]['key']} and {entry['key']} are both {name!r}; give a mapping"
            )
        found[name] = entry

    for key, group in tb.objects(file).items():
        if key == spikes or tb.class_of(group) not in tb.SERIES:
            continue
        if not tb.columns(group):
            add(key, {"key": key, "kind": "event", "description": f"times of {key}"})
        for name in tb.columns(group):
            data = node(group, name)
            if data.dtype.kind in "biuf" and (data.ndim == 1 or (data.ndim == 2 and data.shape[1] <= MAX_CHANNELS)):
                # "wheel.wheel_speed" is "wheel_speed".
                own = name if name.startswith(key.rpartition(".")[2]) else f"{key}_{name}"
                add(own, {"key": f"{key}.{name}", "description": f"{key}.{name} of the source"})
    if trials is None:
        return found
    group = tb.need(file, trials)
    times = set(tb.time_keys(group))
    for name in tb.columns(group):
        data, key = node(group, name), f"{trials}.{name}"
        if data.dtype.kind not in "biuf" or data.ndim != 1 or name in ("trial_index", "is_valid"):
            continue
        about = {"key": key, "role": "task", "description": f"{key} of the source"}
        if name in times:
            add(name.removesuffix("s").removesuffix("_time"), about | {"kind": "event"})
        else:
            add(name, about)
    return found


def check_covariates(where: str, entries: Any) -> None:
    """Raise ValueError for an entry that does not exist, or has no key."""
    check_entries(where, entries)
    for name, entry in entries.items():
        check_entries(f"{where}: covariates.{name}", entry, ENTRY, ["key"])


def keys_of(entry: dict[str, Any]) -> list[str]:
    """Every key of the file that an entry of a covariate names."""
    return [key for part in ("key", "observed", "observed_in", "unobserved_in") for key in names_in(entry, part)]


def read_covariate(
    file: h5py.File,
    name: str,
    entry: dict[str, Any],
    trials: tuple[str | None, np.ndarray],
    domain: np.ndarray,
    span: tuple[float, float],
    tally: Tally,
) -> Covariate:
    """One covariate.

    Args:
        file: Open file.
        name: Of the covariate.
        entry: Of the mapping. Its `key` names an attribute of a time series; one of the trials; one of another
            Interval, which then holds from the start to the end of each interval; an Interval, for 1 inside and 0
            outside of it; or a list of Intervals, for the number of the one that holds. `observed` names booleans
            beside the samples.
        trials: Key of the trials, and the rows `(R,)` that are trials of the recording.
        domain: `(I, 2)` s.
        span: First and last spike, s.
        tally: Counts samples that are left out.

    Raises:
        ValueError: No such key, or the values do not fit the entry.
    """
    where, key = file.filename, entry["key"]
    seen = Seen.of(entry, lambda k: tb.bounds(tb.need(file, k)))
    if isinstance(key, list):
        sets = [tb.bounds(tb.need(file, k)) for k in key]
        return state_covariate(where, name, entry, sets, domain[0, 0], tally, seen)
    item = tb.need(file, key)
    if isinstance(item, h5py.Group):
        if tb.class_of(item) == "Interval":
            return state_covariate(where, name, entry, [tb.bounds(item)], domain[0, 0], tally, seen)
        if entry.get("kind") != "event" or node(item, "timestamps") is None:
            raise ValueError(f"{where}: {key} is an object with {tb.columns(item)}; name one of them")
        times = seconds(item, "timestamps")
        check_clock(f"{where}: {key}", times, span)
        return covariate(where, name, entry, times, None, tally)
    parent, _, own = key.rpartition(".")
    group = tb.need(file, parent) if parent else file
    if entry.get("kind") == "event":
        times = seconds(group, own)
        check_clock(f"{where}: {key}", times, span)
        return covariate(where, name, entry, times, None, tally)
    samples = values(group, own)
    if not samples.ndim:
        raise ValueError(f"{where}: {key} is one value, expected one a sample, an interval or a trial")
    if parent == trials[0]:
        return covariate(where, name, entry, samples[trials[1]], None, tally)
    if tb.class_of(group) == "Interval":
        return label_covariate(where, name, entry, tb.bounds(group), samples, tally)
    times, real = tb.clock(group, len(samples))
    check_clock(f"{where}: {key}", times, span)
    unobserved = np.zeros(len(times), bool) if real is None else ~real
    if "observed" in entry:
        flags = values(file, entry["observed"].replace(".", "/"))
        if flags.dtype != bool or flags.shape != times.shape:
            raise ValueError(f"{where}: {entry['observed']}: {flags.shape} {flags.dtype}, expected a boolean a sample")
        unobserved |= ~flags
    return covariate(where, name, entry, samples, times, tally, unobserved | seen.hidden(times))
