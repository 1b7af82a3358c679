"""HDF5 recordings of brainsets, torch_brain and temporaldata, among them Brain-Wide Bench; not their samplers or tasks.

    foundation prepare brainsets --source DIR --out corpora/monkeys mapping=configs/brainsets/perich_miller.yaml
    foundation prepare brainsets --source s3://brain-wide-bench/brainsets/ --out corpora/bwb
        mapping=configs/brainsets/brain_wide_bench.yaml build=selected_units

Without a mapping: `spikes`, `units` and `trials` are read by these names; every attribute of every other time series
becomes a covariate of role `behavior` (integers are numbers, booleans are classes 0 and 1), every number of a trial a
covariate of the trial, every time of a trial (`go_cue_time`) an event. What is not taken is named in the notes: text
(numbering its classes needs a mapping, or files that lack one would number them differently), arrays of more than two
dimensions or 16 channels, other intervals, and attributes of single spikes. A mapping chooses names, roles, units and
classes; `configs/brainsets` has examples, `load_mapping` lists the entries.

Kept as it is in the file: the domain; spikes outside of it; trials (`is_valid` becomes `usable`) and their columns;
columns of units; and the source's own splits: exactly in `info.splits`, per trial in the column
`source_split` (`source_split_ts1`... where they have a scope): the role whose domain the trial overlaps, "train+val"
where there are two, "" where there is none. Without trials, the domain is cut into stretches of at most
10 s that cross no edge of a split, and these stand in for trials. Evaluation lists of units (Brain-Wide Bench:
`ts2_co_smoothing_is_held_out_test` and `_val`) are columns of the units, and with `trials: {windows: ...}` the
windows in which a task is scored are columns of the trials.

The name of a recording is made from folder and file names, never from text in the file. What happens to bad input:

    truncated or corrupt file, another format               refused
    link to another file, data stored in another file       refused
    pickled, opaque or other objects, no values at all      refused where they are asked for, else named in the notes
    arrays that declare more values than the file stores    refused
    bounds of domains or splits that are not finite         refused
    unit_index out of range, or not one for each spike      refused
    times in milliseconds or samples                        refused, from the rate of the units or the span of the times
    two files of one name (two builds, two folders)         refused: choose a `build` or a folder
    a build other than `build` in the file's own label      refused
    spike times not finite or negative                      left out and counted
    units without spikes                                    left out and counted; ids of units must be unique
    trials out of order, overlapping, without bounds        sorted; cut at the next start; left out; all counted
    NaN in trials and series                                kept as not observed
    samples before 0 s                                      left out and counted (a camera may start before the spikes)
    more or fewer values than timestamps                    refused
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_recipes import brainsets_file as tb
from data_recipes.brainsets_covariates import check_covariates, default_covariates, keys_of, read_covariate
from data_recipes.brainsets_trials import read_domain, read_trials
from data_recipes.brainsets_units import read_spikes, read_units
from data_recipes.cleaning import Tally, check_clock, check_seconds, count_spikes
from data_recipes.mapping import ABOUT, check_entries, jobs_of_files, load_yaml
from data_recipes.sources import Plan, SourceFile, list_files, local_file
from foundation.recording import Recording, RecordingInfo

VERSION = 1
# Of Brain-Wide Bench: without and with the quality filters that its suites 2 and 3 require.
BUILDS = ("all_units", "selected_units")
MAPPING = ABOUT | {"dataset", "subject", "spikes", "units", "trials", "covariates"}


def sessions(
    source: str | Path | None, mapping: str | Path | None = None, build: str | None = None, dataset: str | None = None
) -> dict[str, dict[str, Any]]:
    """The `.h5` files of a folder and its subfolders, or one file; opens none.

    Args:
        source: Folder, file or URL.
        mapping: YAML file that says what is what, for all files.
        build: Of Brain-Wide Bench, `all_units` or `selected_units`; also checked against each file's own label.
        dataset: First part of the recordings' ids; that of the mapping, or else the folder's name, when not given.

    Raises:
        ValueError: No such folder or file, a mapping that cannot be understood, or two files of one name.
    """
    if source is None:
        raise ValueError("brainsets: --source is missing, expected a folder of .h5 files, or one")
    if build is not None and build not in BUILDS:
        raise ValueError(f"brainsets: build is {build!r}, expected one of {BUILDS}")
    entries = None if mapping is None else load_mapping(mapping)
    files = list_files(str(source), (".h5", ".hdf5"))
    of_builds = [f for f in files if set(BUILDS) & _folders(f)]
    if build is not None and of_builds:
        files = [f for f in of_builds if build in _folders(f)]
    cure = "give build=all_units or build=selected_units where they are two builds, or one of the folders as --source"
    return jobs_of_files(files, dataset, entries, cure, build=build)


def read(
    path: str,
    version: str,
    size_bytes: int,
    recording_id: str,
    mapping: dict[str, Any] | None = None,
    build: str | None = None,
) -> Recording:
    """Read one session.

    Args:
        path: Local file or URL.
        version: Of the file.
        size_bytes: Of the file; not used here.
        recording_id: `"<dataset>/<session>"`.
        mapping: What `load_mapping` returns; None for the default of this recipe.
        build: Refuse a file whose label is another.

    Raises:
        ValueError: See the head of this file.
    """
    tally = Tally()
    with local_file(path, version) as local, tb.open_brainset(local) as file:
        m = _default_mapping(file) if mapping is None else mapping
        _check_build(file, build)
        units = read_units(file, m.get("units", {}), recording_id)
        domain = read_domain(file, m.get("spikes", "spikes"), tally)
        times, rows = read_spikes(file, m.get("spikes", "spikes"), len(units), domain, tally)
        kept = tally.keep("units", len(units), {"no spikes": count_spikes(rows, len(units)) == 0})
        if not kept.all():
            rows = (np.cumsum(kept, dtype=np.int32) - 1)[rows]
        duration = float(np.sum(domain[:, 1] - domain[:, 0]))
        check_seconds(str(path), len(times), int(kept.sum()), duration)
        span = (float(times[0]), float(times[-1]))
        entry = m.get("trials", {})
        trials, trial_rows = read_trials(file, entry, domain, tally)
        check_clock(f"{path}: {entry.get('key')}", trials["start_s"].to_numpy(float), span)
        wanted = m.get("covariates", {})
        absent = {
            n: e for n, e in wanted.items() if e.get("optional") and any(tb.find(file, k) is None for k in keys_of(e))
        }
        covariates = {
            name: read_covariate(file, name, e, (entry.get("key"), trial_rows), domain, span, tally)
            for name, e in wanted.items()
            if name not in absent
        }
        for name, covariate in covariates.items():
            if covariate.times is None and name in trials:
                # One name, one column: the source's own values stay where the covariate holds classes.
                same = set(wanted[name]) <= {"key", "role", "description", "unit"}
                trials = trials.drop(columns=name) if same else trials.rename(columns={name: f"source_{name}"})
        return Recording(
            info=RecordingInfo(
                recording_id,
                str(m.get("subject") or _subject(file)),
                recipe=f"brainsets {VERSION}",
                source=str(m.get("source") or _source(file, path)),
                licence=str(m.get("licence", "")),
                species=str(m.get("species") or tb.attribute(file, "subject.species").replace("_", " ").lower()),
                notes=_notes(file, recording_id.split("/")[1], m, absent),
                counts=tally.counts,
                splits={s: {r: v.tolist() for r, v in roles.items()} for s, roles in tb.splits(file).items()},
            ),
            spike_times=times,
            spike_units=rows,
            units=units[kept].reset_index(drop=True),
            trials=trials,
            domain=domain,
            covariates=covariates,
        ).validate()


def plan(
    path: str,
    version: str,
    size_bytes: int,
    recording_id: str,
    mapping: dict[str, Any] | None = None,
    build: str | None = None,
) -> Plan:
    """What a session would bring; of a file behind a URL only its size is known.

    Raises:
        ValueError: The file cannot be read.
    """
    if "://" in path:
        return Plan(size_bytes)
    with tb.open_brainset(path) as file:
        m = _default_mapping(file) if mapping is None else mapping
        parts = {"spikes": [m.get("spikes", "spikes")], "units": ["units"]}
        parts |= {"trials": [m["trials"]["key"]]} if "key" in m.get("trials", {}) else {}
        parts |= {name: keys_of(entry) for name, entry in m.get("covariates", {}).items()}
        missing = [name for name, keys in parts.items() if any(tb.find(file, key) is None for key in keys)]
        missing += [] if m.get("subject") or tb.attribute(file, "subject.id") else ["subject"]
        splits = [
            f"split {scope} {role}".replace("  ", " ") for scope, roles in tb.splits(file).items() for role in roles
        ]
        return Plan(size_bytes, [name for name in parts if name not in missing] + splits, missing)


def load_mapping(path: str | Path) -> dict[str, Any]:
    """Read a mapping and check its entries. Keys such as "cursor.vel" name an attribute of an object of the file.

        dataset, subject, species, licence, source, notes    texts, else those of the file (dataset: of its folder)
        spikes          key of the spikes (default "spikes")
        units           id, probe, region: columns of the units; region: {key: column, pattern: regular expression}
        trials          key of the trials; usable: its column of booleans; windows: object with the windows of tasks
        covariates      by name: key (`brainsets_covariates.read_covariate` says of what), observed: booleans beside the
                        samples, and the entries that the head of `data_recipes.mapping` lists

    Raises:
        ValueError: Not YAML, or an entry that does not exist; the message names the ones that do.
    """
    mapping = load_yaml(path)
    check_entries(str(path), mapping, MAPPING)
    check_entries(f"{path}: units", mapping.get("units", {}), {"id", "probe", "region"})
    check_entries(f"{path}: trials", mapping.get("trials", {"key": ""}), {"key", "usable", "windows"}, ["key"])
    if isinstance(region := mapping.get("units", {}).get("region", ""), dict):
        check_entries(f"{path}: units.region", region, {"key", "pattern"}, ["key", "pattern"])
    check_covariates(str(path), mapping.get("covariates", {}))
    return mapping


def _folders(file: SourceFile) -> set[str]:
    return set(Path(file.path).parts[:-1])


def _default_mapping(file: h5py.File) -> dict[str, Any]:
    trials = "trials" if tb.class_of(tb.find(file, "trials")) == "Interval" else None
    entry = {} if trials is None else {"key": trials}
    if trials and (valid := tb.plain(tb.need(file, trials), "is_valid")) is not None and valid.dtype == bool:
        entry["usable"] = "is_valid"
    return {"spikes": "spikes", "trials": entry, "covariates": default_covariates(file, "spikes", trials)}


def _check_build(file: h5py.File, build: str | None) -> None:
    label = tb.attribute(file, "brainset.unit_filtering")
    if build is not None and label != build:
        raise ValueError(
            f"{file.filename}: its label brainset.unit_filtering is {label!r}, expected build {build!r}; give its own"
        )


def _subject(file: h5py.File) -> str:
    subject = tb.attribute(file, "subject.id")
    if not subject:
        raise ValueError(
            f"{file.filename}: subject.id is empty, expected the animal's name; give `subject` in a mapping"
        )
    return subject


def _source(file: h5py.File, path: str) -> str:
    about = (tb.attribute(file, f"brainset.{key}") for key in ("id", "derived_version", "origin_version", "source"))
    return ", ".join([*filter(None, about), Path(path).name])


def _notes(file: h5py.File, name: str, m: dict[str, Any], absent: dict[str, Any]) -> str:
    """What is not taken and what is missing."""
    trials, entry = m.get("trials", {}).get("key"), m.get("covariates", {})
    taken = {key for e in entry.values() for key in keys_of(e)} | {m.get("trials", {}).get("windows")}
    left = []
    for key, group in tb.objects(file).items():
        whole = key in taken or key.rpartition(".")[0] in taken
        tables = key in ("units", trials)
        for name in tb.columns(group):
            flat = tables and getattr(tb.plain(group, name), "ndim", 0) == 1
            used = f"{key}.{name}" in taken or flat or (key == m.get("spikes", "spikes") and name == "unit_index")
            left += [] if whole or used else [f"{key}.{name}"]
        # Intervals and events that nothing refers to.
        left += [key] if not (whole or tables or tb.columns(group)) else []
    parts = [str(m.get("notes", ""))]
    session = tb.attribute(file, "session.id")
    parts += [f"session.id in the file: {session}"] if session not in ("", name) else []
    label = tb.attribute(file, "brainset.unit_filtering")
    parts += [f"build: {label}"] if label else []
    derived = tb.attribute(file, "brainset.derived_version")
    parts += [f"version: {derived}"] if derived else []
    parts += [f"not in the file: {', '.join(absent)}"] if absent else []
    parts += [f"not taken: {', '.join(left)}"] if left else []
    return "; ".join(filter(None, parts))
