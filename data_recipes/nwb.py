"""Any NWB 2 file, one session each, as it is or through a mapping; sessions spread over several files are not joined.

    foundation prepare nwb --source DIR --list > my.yaml          what a file offers, and a mapping of it to edit
    foundation prepare nwb --source DIR --out corpora/mine mapping=my.yaml

Without a mapping: the table `units` (or else every table with spike times), `intervals/trials` with its columns
(numbers as covariates of role `task`, times such as `go_cue_time` as events), and as covariates of role `behavior`
every series of 1 or 2 dimensions, up to 16 channels and 2 kHz that is not neural data (below 2 Hz as events), other
tables of intervals (0 outside, 1 inside), and events. What is not taken is named in the notes, text among it:
numbering its classes needs a mapping, or files that lack one would number them differently. A mapping chooses;
`configs/nwb` shows every entry and `data_recipes.mapping` says what those of a covariate mean. Angles of a
`CompassDirection` become cosine and sine (`circular: true`), as the mean of an angle within a bin is wrong where it
wraps around; in a mapping without `circular` they stay in rad.

Values are in the unit of the file (conversion and offset applied), times on its clock, from timestamps or rate. The
domain runs from the first spike or trial to the last, in whole seconds, or is the table that `domain` names, without
`intervals/invalid_times`. The region of a unit is a column of its own, of its first electrode (`electrodes.location`)
or of its electrode group (`electrode_group.location`). A session whose position lies in one file and whose units in
another is not put together: the file without units is refused, the other is read without position.

The name of a recording is that of its file, never of text in the file. What happens to bad input:

    truncated or corrupt file, another format, NWB 1        refused
    links to other files                                    refused where asked for; else not followed, in the notes
    pickled or opaque objects, no values at all             refused where asked for, else named in the notes
    series without samples or a clock (a rate of 0)         refused where asked for, else named in the notes
    arrays that declare more values than the file stores    refused where asked for, else named in the notes
    no units, or none with spikes                           refused; the message lists what the file offers
    rows of spike_times_index or electrodes out of range    refused
    times in milliseconds or samples                        refused, from the rate of the units or the span of the times
    no subject_id                                           refused; `subject` in a mapping gives it
    ids of units that several tables share                  refused; `probe` tells them apart
    two files of one name, in two folders                   refused; choose a folder or an `ending`
    spike times not finite or negative                      left out and counted
    units without spikes, or that `keep` turns down         left out and counted
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
import pandas as pd

from data_recipes.cleaning import (
    Tally,
    check_clock,
    check_seconds,
    count_spikes,
    domain_without,
    merge_trains,
    trial_table,
)
from data_recipes.hdf5_values import guarded
from data_recipes.intervals import names_in, union
from data_recipes.mapping import ABOUT, COVARIATE, check_entries, jobs_of_files, load_yaml
from data_recipes.nwb_covariates import read_covariate
from data_recipes.nwb_file import column_names, node, open_nwb, text
from data_recipes.nwb_listing import propose, why_not
from data_recipes.nwb_survey import Survey, interval_bounds, need, simple_column, survey
from data_recipes.nwb_units import UNITS, read_units
from data_recipes.sources import Plan, list_files, local_file
from foundation.recording import Recording, RecordingInfo, empty_trials

VERSION = 1
MAPPING = ABOUT | {"dataset", "subject", "units", "trials", "domain", "covariates"}
COVARIATE_ENTRY = COVARIATE | {"path", "column", "channels"}
TRIALS = {"path", "start", "stop", "usable"}
INVALID = "intervals/invalid_times"


def sessions(
    source: str | Path | None,
    mapping: str | Path | None = None,
    dataset: str | None = None,
    ending: str = ".nwb",
) -> dict[str, dict[str, Any]]:
    """The `.nwb` files of a folder and its subfolders, or one file; opens none.

    Args:
        source: Folder, file or URL.
        mapping: YAML file that says what is what, for all files.
        dataset: First part of the recordings' ids; that of the mapping, or else the folder's name, when not given.
        ending: Of the file names to take, such as "_ecephys.nwb".

    Raises:
        ValueError: No such folder or file, a mapping that cannot be understood, or two files of one name.
    """
    if source is None:
        raise ValueError("nwb: --source is missing, expected a folder of .nwb files, or one")
    entries = None if mapping is None else load_mapping(mapping)
    cure = "give one of the folders as --source, or an `ending` of the file names"
    return jobs_of_files(list_files(str(source), (ending,)), dataset, entries, cure)


def read(
    path: str, version: str, size_bytes: int, recording_id: str, mapping: dict[str, Any] | None = None
) -> Recording:
    """Read one session.

    Args:
        path: Local file or URL.
        version: Of the file.
        size_bytes: Of the file; not used here.
        recording_id: `"<dataset>/<session>"`.
        mapping: What `load_mapping` returns; None for the default of this recipe.

    Raises:
        ValueError: See the head of this file.
    """
    tally = Tally()
    with local_file(path, version) as local, guarded(local), open_nwb(local) as file:
        found = survey(file)
        m = propose(file, found, classes=False) if mapping is None else mapping
        units, trains = read_units(file, _unit_entries(m), recording_id, tally)
        times, rows = merge_trains(path, trains, tally)
        del trains
        # A unit may have had only spikes that are left out.
        alive = count_spikes(rows, len(units)) > 0
        if not alive.all():
            tally.add("units out: no spike after 0 s", int((~alive).sum()))
            tally.add("units kept", -int((~alive).sum()))
            units, rows = units[alive].reset_index(drop=True), (np.cumsum(alive, dtype=np.int32) - 1)[rows]
        span = (float(times[0]), float(times[-1]))
        check_seconds(path, len(times), len(units), max(span[1] - span[0], 1.0))
        entry = m.get("trials", {})
        trials, trial_rows = _trials(file, entry, span, tally)
        domain = _domain(file, m, np.concatenate([span, trials[["start_s", "stop_s"]].to_numpy(float).ravel()]), tally)
        wanted, covariates, absent = m.get("covariates", {}), {}, []
        for name, e in wanted.items():
            if e.get("optional") and any(node(file, p) is None for p in names_in(e, "path")):
                absent.append(name)
                continue
            about = (entry.get("path"), trial_rows)
            covariates[name] = read_covariate(file, name, e, about, domain[0, 0], span, tally)
        for name, covariate in covariates.items():
            if covariate.times is None and name in trials:
                # One name, one column: the source's own values stay where the covariate holds classes.
                same = set(wanted[name]) <= {"path", "column", "role", "description", "unit"}
                trials = trials.drop(columns=name) if same else trials.rename(columns={name: f"source_{name}"})
        return Recording(
            info=RecordingInfo(
                recording_id,
                _subject(file, m),
                recipe=f"nwb {VERSION}",
                source=str(m.get("source") or f"{Path(path).name}, {text(file, 'identifier')}"),
                licence=str(m.get("licence", "")),
                species=str(m.get("species") or text(file, "general/subject/species")),
                notes=_notes(file, found, m, absent),
                counts=tally.counts,
            ),
            spike_times=times,
            spike_units=rows,
            units=units,
            trials=trials,
            domain=domain,
            covariates=covariates,
        ).validate()


def plan(path: str, version: str, size_bytes: int, recording_id: str, mapping: dict[str, Any] | None = None) -> Plan:
    """What a session would bring; of a file behind a URL only its size is known.

    Raises:
        ValueError: The file cannot be read.
    """
    if "://" in path:
        return Plan(size_bytes)
    with guarded(path), open_nwb(path) as file:
        m = propose(file, survey(file), classes=False) if mapping is None else mapping
        parts = [("units", u["path"]) for u in _unit_entries(m)] or [("units", "units")]
        parts += [("trials", m["trials"]["path"])] if "trials" in m else []
        for name, entry in m.get("covariates", {}).items():
            parts += [(name, p) for p in names_in(entry, "path")]
        missing = {name for name, where in parts if node(file, where) is None}
        missing |= set() if m.get("subject") or text(file, "general/subject/subject_id") else {"subject"}
        present = dict.fromkeys(name for name, _ in parts if name not in missing)
        return Plan(size_bytes, list(present), sorted(missing))


def load_mapping(path: str | Path) -> dict[str, Any]:
    """Read a mapping and check its entries.

    Raises:
        ValueError: Not YAML, or an entry that does not exist; the message names the ones that do.
    """
    mapping = load_yaml(path)
    check_entries(str(path), mapping, MAPPING)
    for entry in _unit_entries(mapping):
        check_entries(f"{path}: units", entry, UNITS, ["path"])
        check_entries(f"{path}: units.keep", entry.get("keep", {}))
    check_entries(f"{path}: trials", mapping.get("trials", {"path": ""}), TRIALS, ["path"])
    check_entries(f"{path}: covariates", mapping.get("covariates", {}))
    for name, entry in mapping.get("covariates", {}).items():
        check_entries(f"{path}: covariates.{name}", entry, COVARIATE_ENTRY, ["path"])
    return mapping


def _unit_entries(mapping: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of the tables of units, of which there may be one or several."""
    units = mapping.get("units", {"path": "units"})
    return units if isinstance(units, list) else [units]


def _subject(file: h5py.File, mapping: dict[str, Any]) -> str:
    subject = str(mapping.get("subject") or text(file, "general/subject/subject_id"))
    if not subject:
        raise ValueError(
            f"{file.filename}: general/subject/subject_id is empty, expected the animal's name; give `subject` in a "
            "mapping (splits follow it)"
        )
    return subject


def _trials(
    file: h5py.File, entry: dict[str, Any], span: tuple[float, float], tally: Tally
) -> tuple[pd.DataFrame, np.ndarray]:
    """The trials with their columns of numbers or text, and the rows `(R,)` of the source that they are."""
    if "path" not in entry:
        return empty_trials(), np.zeros(0, np.int64)
    source = need(file, entry["path"])
    columns = (entry.get("start", "start_time"), entry.get("stop", "stop_time"))
    bounds = interval_bounds(source, *columns)
    where = f"{file.filename}: {entry['path']}"
    check_clock(where, bounds.ravel(), span)
    table, rows = trial_table(bounds[:, 0], bounds[:, 1], tally)
    for name in column_names(source):
        values = None if name in columns else simple_column(source, name)
        if values is None:
            continue
        if len(values) != len(bounds):
            raise ValueError(f"{where}/{name}: {len(values)} values of {len(bounds)} trials, expected one each")
        table[f"source_{name}" if name in table else name] = values[rows]
    if "usable" in entry:
        flags = table.get(entry["usable"])
        if flags is None or flags.dtype.kind not in "biu" or not flags.isin([0, 1]).all():
            raise ValueError(f"{where} has no column of booleans {entry['usable']!r}; it has {column_names(source)}")
        table["usable"] = flags.to_numpy(bool)
        tally.add(f"trials not usable: not {entry['usable']}", int((~table["usable"]).sum()))
    return table, rows


def _domain(file: h5py.File, mapping: dict[str, Any], times: np.ndarray, tally: Tally) -> np.ndarray:
    """Where data exist `(I, 2)` s; half-open, so a whole second is added after the last of `times`."""
    gaps = np.zeros((0, 2))
    if node(file, INVALID) is not None:
        gaps = union(interval_bounds(need(file, INVALID)))
        tally.add("invalid intervals taken out of the domain", len(gaps))
    if "domain" not in mapping:
        return domain_without((float(np.floor(times.min())), float(np.floor(times.max())) + 1), gaps)
    chosen = union(np.maximum(interval_bounds(need(file, mapping["domain"])), 0))
    if not len(chosen):
        raise ValueError(f"{file.filename}: {mapping['domain']} holds no interval after 0 s, expected the domain")
    between = np.stack([np.append(0, chosen[:, 1]), np.append(chosen[:, 0], chosen[-1, 1] + 1)], axis=1)
    return domain_without((float(chosen[0, 0]), float(chosen[-1, 1])), np.concatenate([gaps, between]))


def _notes(file: h5py.File, found: Survey, mapping: dict[str, Any], absent: list[str]) -> str:
    """What is not taken, and why."""
    covariates = list(mapping.get("covariates", {}).values())
    taken = {p for e in covariates for key in ("path", "observed_in", "unobserved_in") for p in names_in(e, key)}
    columns = {(e["path"], e["column"]) for e in covariates if "column" in e}
    tables = [e["path"].strip("/") for e in _unit_entries(mapping)]
    trials = mapping.get("trials", {}).get("path", "").strip("/")
    taken |= {*tables, trials, str(mapping.get("domain", "")), INVALID}
    taken = {p.strip("/") for p in taken}
    left = []
    for path in (*found.units, *found.intervals, *found.series, *found.events):
        if path not in taken:
            reason = why_not(file, path) if path in found.series else ""
            left.append(f"{path} ({reason})" if reason else path)
        elif path in (*tables, trials):
            group = need(file, path)
            names = [n for n in column_names(group) if n != "spike_times" and simple_column(group, n) is None]
            left += [f"{path}/{n}" for n in names if (path, n) not in columns]
    parts = [str(mapping.get("notes", ""))]
    parts += [f"not in the file: {', '.join(absent)}"] if absent else []
    parts += [f"not taken: {', '.join(left)}"] if left else []
    parts += [f"in other files, not followed: {', '.join(found.elsewhere)}"] if found.elsewhere else []
    return "; ".join(filter(None, parts))
