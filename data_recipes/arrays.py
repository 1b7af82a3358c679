"""Your own recordings: one `.npz` file per session, read as they are or through a short mapping; no other file format.

Without a mapping these keys are read (`data_recipes.from_arrays` says what they mean):

    subject                                     name of the animal
    spike_times, spike_units                    or counts, bin_size_s and, with trials, counts_axes ("trial unit bin")
    trial_start_s, trial_stop_s, trial_label    optional
    region                                      optional, one name per unit
    behavior_<name>, stimulus_<name>, task_<name>    covariates; with <key>_times, on a clock of their own
    event_<name>                                times of events

A mapping is a YAML file that says which key is what: `mapping=...` for all files, or `<session>.yaml` beside
`<session>.npz`. The examples in `configs/arrays` show every entry. The name of the file is the session's name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_recipes.from_arrays import recording_from_arrays
from data_recipes.regions import PARCELLATIONS, map_acronyms
from foundation.array_file import ArrayFile
from foundation.recording import Recording

VERSION = 1

ABOUT = {"species", "licence", "source", "notes"}
SPIKES = {"times", "units", "counts", "axes", "bin_size_s"}
TRIALS = {"start_s", "stop_s", "label"}
ABOUT_VALUES = {"key", "times", "classes", "combine"}
COVARIATE = ABOUT_VALUES | {"kind", "scope", "role", "unit", "num_classes", "resample", "description"}
COMBINE = ("difference", "larger")
MAPPING = ABOUT | {"dataset", "subject", "subject_key", "spikes", "trials", "units", "regions", "covariates"}
REGIONS = {"parcellation", "leave_out", "doubted_sessions"}


def sessions(source: str | Path | None, mapping: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The `.npz` files of a folder, or one file.

    Args:
        source: Folder or file.
        mapping: YAML file that says which key is what, for all files.

    Raises:
        ValueError: No such folder or file, or a mapping that cannot be understood.
    """
    source = None if source is None else Path(source)
    if source is None or not (source.is_dir() or (source.suffix == ".npz" and source.is_file())):
        raise ValueError(f"arrays: --source is {source}, expected an .npz file or a folder of such files")
    jobs = {}
    for path in sorted(source.glob("*.npz")) if source.is_dir() else [source]:
        beside = path.with_suffix(".yaml")
        chosen = Path(mapping) if mapping else beside if beside.is_file() else None
        entries = None if chosen is None else load_mapping(chosen)
        dataset = (entries or {}).get("dataset") or re.sub(r"\s+", "_", path.resolve().parent.name)
        status = path.stat()
        jobs[f"{dataset}/{path.stem}"] = {
            "path": str(path),
            "recording_id": f"{dataset}/{path.stem}",
            "mapping": entries,
            "file_version": f"{status.st_size} {status.st_mtime_ns}",
        }
    return jobs


def read(path: str, recording_id: str, mapping: dict[str, Any] | None, file_version: str = "") -> Recording:
    """Read one session.

    Args:
        path: `.npz` file.
        recording_id: `"<dataset>/<session>"`.
        mapping: What `load_mapping` returns; None for the default keys.
        file_version: Not used; it changes with the file, so that a new export of a session is prepared again.

    Raises:
        ValueError: Keys are missing, or the arrays contradict each other.
    """
    arrays = _Arrays(path)
    m = default_mapping(arrays.names) if mapping is None else mapping
    if mapping is None:
        _refuse_unread(path, arrays.names, m)
    subject = str(m["subject"]) if "subject" in m else str(arrays[m.get("subject_key", "subject")])
    spikes, trials = m["spikes"], m.get("trials", {})
    covariates, specs = {}, {}
    for name, entry in m.get("covariates", {}).items():
        values = _values(f"{path}: covariate {name!r}", arrays, entry)
        covariates[name] = (values, arrays[entry["times"]]) if "times" in entry else values
        specs[name] = {key: value for key, value in entry.items() if key not in ABOUT_VALUES}
    bin_size_s = spikes.get("bin_size_s")
    axes = spikes.get("axes", ("bin", "unit"))
    start = arrays.get(trials.get("start_s"))
    units = {column: arrays[key] for column, key in m.get("units", {}).items()}
    if "regions" in m:
        units |= _regions(recording_id, units["region"], **m["regions"])
    return recording_from_arrays(
        recording_id,
        subject,
        spike_times=arrays.get(spikes.get("times")),
        spike_units=arrays.get(spikes.get("units")),
        counts=arrays.get(spikes.get("counts")),
        axes=tuple(str(arrays[axes]).split() if isinstance(axes, str) else axes),
        bin_size_s=float(arrays[bin_size_s]) if isinstance(bin_size_s, str) else bin_size_s,
        # The time of every bin of every trial is a common form of the start.
        trial_start_s=start[:, 0] if start is not None and start.ndim == 2 else start,
        trial_stop_s=arrays.get(trials.get("stop_s")),
        trial_label=arrays.get(trials.get("label")),
        units=units,
        covariates=covariates,
        specs=specs,
        recipe=f"arrays {VERSION}",
        source=str(m.get("source", "")) or Path(path).name,
        **{key: str(m[key]) for key in ABOUT - {"source"} if key in m},
    )


def load_mapping(path: Path) -> dict[str, Any]:
    """Read a mapping and check its entries.

    Raises:
        ValueError: Not YAML, or an entry that does not exist; the message names the ones that do.
    """
    try:
        mapping = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as a mapping ({error}); see configs/arrays for examples") from None
    _check(path, "the mapping", mapping, MAPPING)
    mapping = {entry: value for entry, value in mapping.items() if value is not None}
    _check(path, "spikes", mapping.get("spikes"), SPIKES)
    _check(path, "trials", mapping.get("trials", {}), TRIALS)
    _check(path, "units", mapping.get("units", {}))
    _check(path, "covariates", mapping.get("covariates", {}))
    if "regions" in mapping:
        _check(path, "regions", mapping["regions"], REGIONS)
        asked = mapping["regions"].get("parcellation")
        lists = [mapping["regions"].get(entry, []) for entry in ("leave_out", "doubted_sessions")]
        are_names = all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in lists)
        is_known = isinstance(asked, str) and asked in PARCELLATIONS
        if not is_known or not are_names or "region" not in mapping.get("units", {}):
            raise ValueError(
                f"{path}: regions: got {mapping['regions']!r}, expected a parcellation of {sorted(PARCELLATIONS)}, "
                "perhaps lists of names leave_out and doubted_sessions, and an array of region names under units"
            )
    for name, entry in mapping.get("covariates", {}).items():
        _check(path, f"covariates.{name}", entry, COVARIATE)
        keys = entry.get("key")
        if not keys or not all(isinstance(key, str) for key in (keys if isinstance(keys, list) else [keys])):
            raise ValueError(f"{path}: covariates.{name}: key is {keys!r}, expected the name of an array, or a list")
        how = entry.get("combine")
        if how is not None and (how not in COMBINE or not isinstance(keys, list) or len(keys) != 2):
            raise ValueError(
                f"{path}: covariates.{name}: combine {how!r} of {keys!r}; expected {' or '.join(COMBINE)} of two arrays"
            )
    if ("subject" in mapping) == ("subject_key" in mapping):
        raise ValueError(f"{path}: give one of 'subject' (a name) and 'subject_key' (the array that holds it)")
    return mapping


def _regions(
    recording_id: str,
    given: np.ndarray,
    parcellation: str,
    leave_out: Iterable[str] = (),
    doubted_sessions: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Columns of the units table: regions in a parcellation of the Allen ontology, and as they were given.

    A session whose labels are doubted has no regions, only what was given.
    """
    region = map_acronyms(given, parcellation)
    unknown = np.isin(region, list(leave_out)) | (recording_id.split("/")[1] in doubted_sessions)
    return {"region": np.where(unknown, "", region).astype(str), "region_given": given}


def default_mapping(names: list[str]) -> dict[str, Any]:
    """The mapping of a file that follows the naming of this module, from its keys."""
    present = set(names)

    def keep(entries: dict[str, str]) -> dict[str, str]:
        return {entry: key for entry, key in entries.items() if key in present}

    covariates: dict[str, dict[str, str]] = {}
    for key in names:
        role, _, name = key.partition("_")
        if role == "event":
            covariates[name] = {"key": key, "kind": "event"}
        elif role in ("behavior", "stimulus", "task") and not (key.endswith("_times") and key[:-6] in present):
            covariates[name] = {"key": key, "role": role} | keep({"times": f"{key}_times"})
    spikes = {"times": "spike_times", "units": "spike_units", "counts": "counts", "axes": "counts_axes"}
    return {
        "spikes": keep(spikes | {"bin_size_s": "bin_size_s"}),
        "trials": keep({"start_s": "trial_start_s", "stop_s": "trial_stop_s", "label": "trial_label"}),
        "units": keep({"region": "region"}),
        "covariates": covariates,
    }


def _refuse_unread(path: str, names: list[str], mapping: dict[str, Any]) -> None:
    """Raise ValueError when a file has arrays that its names give no meaning, so that none is dropped silently."""
    covariates = [key for entry in mapping["covariates"].values() for name, key in entry.items() if name != "role"]
    read = {"subject", *covariates, *(key for part in ("spikes", "trials", "units") for key in mapping[part].values())}
    if unread := sorted(set(names) - read):
        raise ValueError(
            f"{path}: arrays {unread} have names without a meaning here; call a covariate behavior_<name>, "
            "stimulus_<name>, task_<name> or event_<name>, or give a mapping (see configs/arrays/)"
        )


class _Arrays:
    """The arrays of one `.npz` file, read when asked for; a missing or unreadable one is a `ValueError` with a cure."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = ArrayFile(path)
        self.names = self._file.names

    def __getitem__(self, key: str) -> np.ndarray:
        """The array of a key; `name[2]` is column 2 of the array `name`."""
        match = re.fullmatch(r"(.+)\[(\d+)\]", key)
        name = match[1] if match else key
        if name not in self.names:
            raise ValueError(
                f"{self.path}: no array {name!r}; the file has {sorted(self.names)}. "
                f"Save one named {name!r}, or say in a mapping which array holds it (see configs/arrays/)"
            )
        array = self._file[name]
        if match is None:
            return array
        if array.ndim != 2 or int(match[2]) >= array.shape[1]:
            raise ValueError(f"{self.path}: {key}: the array has shape {array.shape}, expected a column {match[2]}")
        return array[:, int(match[2])]

    def get(self, key: str | None) -> np.ndarray | None:
        """The array of a key, or None without a key."""
        return None if key is None else self[key]


def _values(where: str, arrays: _Arrays, entry: dict[str, Any]) -> np.ndarray:
    """Values of a covariate: one array; several as columns, for classes as one flag each; or two combined.

    Combined, `difference` is the first less the second, and `larger` says which of the two is: 0 or 1, or not observed
    where they are equal.
    """
    key = entry["key"]
    if isinstance(key, str):
        values = arrays[key]
        if "classes" in entry:
            return _classes(where, values, entry["classes"])
        return values.astype(np.int64) if values.dtype == bool else values
    columns = np.stack([arrays[name] for name in key], axis=-1)
    if "combine" in entry:
        difference = columns[..., 0].astype(float) - columns[..., 1]
        if entry["combine"] == "difference":
            return difference
        return np.where(difference > 0, 0, np.where(difference < 0, 1, -1))
    if entry.get("kind") != "categorical":
        return columns
    flags = columns != 0
    if (flags.sum(axis=-1) > 1).any():
        raise ValueError(f"{where}: more than one of {key} is set in row {int((flags.sum(axis=-1) > 1).argmax())}")
    return np.where(flags.any(axis=-1), flags.argmax(axis=-1), -1)


def _classes(where: str, values: np.ndarray, classes: list[Any]) -> np.ndarray:
    """Position of each value in `classes`; NaN and empty text are -1, which means not observed."""
    found = np.full(values.shape, -1, np.int64)
    for position, value in enumerate(classes):
        found[values == value] = position
    missing = values != values if values.dtype.kind == "f" else values == "" if values.dtype.kind == "U" else False
    if unknown := np.unique(values[(found < 0) & ~np.asarray(missing)]).tolist():
        raise ValueError(f"{where}: values {unknown[:5]} are not among the classes {classes}")
    return found


def _check(path: Path, where: str, entries: Any, known: set[str] | None = None) -> None:
    if not isinstance(entries, dict):
        raise ValueError(
            f"{path}: {where}: got {entries!r}, expected entries{f' out of {sorted(known)}' if known else ''}"
        )
    if known and (unknown := sorted(set(map(str, entries)) - known)):
        raise ValueError(f"{path}: {where}: no entry {unknown}; there are {sorted(known)}")
