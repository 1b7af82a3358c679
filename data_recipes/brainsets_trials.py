"""Trials, domain and splits of brainsets files; reads no spikes and no covariates."""

from __future__ import annotations

import itertools
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data_recipes import brainsets_file as tb
from data_recipes.cleaning import Tally, trial_table
from data_recipes.hdf5_values import values
from data_recipes.intervals import union
from data_recipes.nwb_file import node
from foundation.recording import empty_trials

# Without trials, roles are given to pieces of this length (`foundation.splits` has the same).
STRETCH_S = 10.0


def read_domain(file: h5py.File, spikes: str, tally: Tally) -> np.ndarray:
    """The file's domain `(I, 2)` s, or that of its spikes; what lies before 0 s is cut and counted.

    Raises:
        ValueError: None, none after 0 s, or bounds that are not finite.
    """
    group = tb.find(file, "domain") or tb.find(file, f"{spikes}.domain")
    if group is None:
        raise ValueError(f"{file.filename}: no domain, neither of the file nor of {spikes}; save it with torch_brain")
    domain = tb.bounds(group)
    if not np.isfinite(domain).all():
        raise ValueError(f"{file.filename}: domain {domain.tolist()[:3]}, expected finite seconds")
    tally.add("domain intervals cut at 0 s", int((domain[:, 0] < 0).sum()))
    domain = union(np.maximum(domain, 0))
    if not len(domain):
        raise ValueError(f"{file.filename}: its domain holds no time after 0 s; leave the session out")
    return domain


def read_trials(
    file: h5py.File, entry: dict[str, Any], domain: np.ndarray, tally: Tally
) -> tuple[pd.DataFrame, np.ndarray]:
    """The trials with all their columns of numbers or text, and the rows `(R,)` of the source that they are.

    Args:
        file: Open file.
        entry: `key` of the Interval (none: no trials), `usable` (its column of booleans), `windows` (object whose
            Intervals name their trials in `trial_index`).
        domain: `(I, 2)` s.
        tally: Counts trials in, out and cut.

    Raises:
        ValueError: Columns that are missing or do not fit.
    """
    if "key" not in entry:
        return _stretches(domain, tb.splits(file)), np.zeros(0, np.int64)
    group = tb.need(file, entry["key"])
    bounds = tb.bounds(group)
    table, rows = trial_table(bounds[:, 0], bounds[:, 1], tally)
    for name in tb.columns(group):
        if (read := tb.plain(group, name)) is None or read.ndim != 1:
            continue
        if len(read) != len(bounds):
            raise ValueError(f"{file.filename}: {entry['key']}.{name}: {len(read)} values of {len(bounds)} trials")
        table[f"source_{name}" if name in table else name] = read[rows]
    if "usable" in entry:
        if table.get(entry["usable"], pd.Series(dtype=float)).dtype != bool:
            raise ValueError(f"{file.filename}: {entry['key']} has no column of booleans {entry['usable']!r}")
        table["usable"] = table[entry["usable"]].to_numpy(bool)
        tally.add(f"trials not usable: not {entry['usable']}", int((~table["usable"]).sum()))
    for scope, roles in tb.splits(file).items():
        table[_column(scope)] = _roles(bounds[rows], roles)
    if "windows" in entry:
        table = pd.concat([table, _windows(file, entry, group, len(bounds), rows)], axis=1)
    return table, rows


def _column(scope: str) -> str:
    return f"source_split_{scope}" if scope else "source_split"


def _roles(trials: np.ndarray, roles: dict[str, np.ndarray]) -> list[str]:
    """The roles whose intervals each trial overlaps, joined by "+"."""
    overlaps = {}
    for role, intervals in roles.items():
        merged = union(intervals)
        # Intervals that end after the start of the trial and start before its end.
        overlaps[role] = merged[:, 0].searchsorted(trials[:, 1]) > merged[:, 1].searchsorted(trials[:, 0], side="right")
    order = [role for role in ("train", "val", "test") if role in overlaps]
    return ["+".join(role for role in order if overlaps[role][k]) for k in range(len(trials))]


def _stretches(domain: np.ndarray, splits: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Pieces of the domain that cross no edge of a split; an empty table where there are no splits."""
    if not splits:
        return empty_trials()
    edges = np.concatenate([v.ravel() for roles in splits.values() for v in roles.values()])
    pieces = []
    for start, stop in domain:
        cuts = np.unique(np.concatenate([[start, stop], edges[(edges > start) & (edges < stop)]]))
        for a, b in itertools.pairwise(cuts):
            points = np.linspace(a, b, int(np.ceil((b - a) / STRETCH_S)) + 1)
            pieces.append(np.stack([points[:-1], points[1:]], axis=1))
    bounds = np.concatenate(pieces)
    table = pd.DataFrame(
        {"start_s": bounds[:, 0], "stop_s": bounds[:, 1], "usable": True, "source_index": np.arange(len(bounds))}
    )
    for scope, roles in splits.items():
        table[_column(scope)] = _roles(bounds, roles)
    return table


def _windows(file: h5py.File, entry: dict[str, Any], trials: h5py.Group, num: int, rows: np.ndarray) -> pd.DataFrame:
    """For each Interval of an object, its start, stop and columns in the rows of the trials that it names."""
    index = node(trials, "trial_index")
    position = {int(k): i for i, k in enumerate(np.arange(num) if index is None else values(trials, "trial_index"))}
    out: dict[str, np.ndarray] = {}
    parent = tb.need(file, entry["windows"])
    for name, group in tb.objects(parent).items():
        where = f"{file.filename}: {entry['windows']}.{name}"
        if node(group, "trial_index") is None:
            raise ValueError(f"{where}: no trial_index, expected the number of the trial of each window")
        numbers = [int(k) for k in values(group, "trial_index")]
        if unknown := sorted(set(numbers) - set(position))[:5]:
            raise ValueError(f"{where}: trial_index {unknown}, expected numbers of the {num} trials")
        at = np.array([position[k] for k in numbers], dtype=int)
        bounds = tb.bounds(group)
        read = {"start_s": bounds[:, 0], "stop_s": bounds[:, 1]}
        shared = {"trial_index", *tb.columns(trials)}
        read |= {c: values(group, c) for c in tb.columns(group) if c not in shared}
        for column, samples in read.items():
            if samples.shape != (len(at),) or samples.dtype.kind not in "biuf":
                raise ValueError(f"{where}.{column}: {samples.shape} {samples.dtype}, expected a number a window")
            full = np.full(num, np.nan)
            full[at] = samples
            out[f"window_{name}_{column}"] = full[rows]
    return pd.DataFrame(out)
