"""Mappings: YAML that says which part of a source is what, and covariates made as their entries say; opens no source.

An entry of a covariate may hold, beside where its values lie (which each recipe defines):

    kind          continuous, categorical or event; from the values when not given: booleans and text are categorical
    classes       values in the order of their class numbers; makes it categorical. Any other value is an error
    num_classes   of numbers that are classes 0, 1, 2... already
    missing       values that mean "not observed", such as [-1]; NaN, infinite values and empty text always do
    circular      true for an angle in rad (or deg, if `unit` says so): it becomes two channels, its cosine and sine.
                  The mean of an angle within a bin is wrong where it wraps around, that of its cosine and sine is not
    observed_in, unobserved_in    intervals (or a list of such) outside or inside of which a series or a state is not
                  observed: who looked for ripples in sleep knows nothing of ripples elsewhere
    optional      true: a session that lacks it is read without it, and its notes say so
    role, unit, resample, description    as in `foundation.recording.CovariateSpec`
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_recipes.cleaning import Tally, events, series
from data_recipes.sources import SourceFile
from foundation.recording import Covariate, CovariateSpec, Kind

ABOUT = {"species", "licence", "source", "notes"}
COVARIATE = {
    *("kind", "classes", "num_classes", "missing", "circular", "optional", "observed_in", "unobserved_in"),
    *("role", "unit", "resample", "description"),
}
_DEGREES = {"deg", "degree", "degrees", "°"}


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The entries of a mapping, without those that are empty.

    Raises:
        ValueError: No such file, not YAML, or not a dictionary.
    """
    try:
        mapping = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as a mapping ({error}); see configs for examples") from None
    if not isinstance(mapping, dict):
        raise ValueError(f"{path}: got {mapping!r}, expected a mapping; see configs for examples")
    return {entry: value for entry, value in mapping.items() if value is not None}


def check_entries(where: str, entries: Any, known: set[str] | None = None, needed: Iterable[str] = ()) -> None:
    """Raise ValueError unless `entries` is a dictionary, all of whose keys are `known` and that has the `needed`."""
    if not isinstance(entries, dict):
        raise ValueError(f"{where}: got {entries!r}, expected entries out of {sorted(known or ())}")
    if known is not None and (unknown := sorted(set(map(str, entries)) - known)):
        raise ValueError(f"{where}: no entry {unknown}; there are {sorted(known)}")
    if lacking := [name for name in needed if name not in entries]:
        raise ValueError(f"{where}: {lacking} is missing; there are {sorted(map(str, entries))}")


def name_recording(dataset: str, session: str) -> str:
    """`"<dataset>/<session>"`, with spaces as "_".

    Raises:
        ValueError: A part names no folder, or one elsewhere, such as "../x".
    """
    parts = [re.sub(r"\s+", "_", str(part).strip()) for part in (dataset, session)]
    for what, part in zip(("dataset", "session"), parts):
        if not part or part.startswith(".") or ".." in part or re.search(r"[/\\\x00]", part):
            raise ValueError(
                f"{what} {part!r} is no name of a folder, expected one without '/', '\\', '..' or a leading '.'"
            )
    return "/".join(parts)


def jobs_of_files(
    files: Iterable[SourceFile], dataset: str | None, mapping: dict[str, Any] | None, cure: str, **more: Any
) -> dict[str, dict[str, Any]]:
    """Arguments of `read` by recording id, one session a file.

    Args:
        files: What was found.
        dataset: First part of the ids; that of the mapping, or else the name of a file's folder, when None.
        mapping: What `read` gets.
        cure: What to do about two files of one name.
        more: Further arguments of `read`.

    Raises:
        ValueError: Two files would make one recording, or a name is none of a folder.
    """
    jobs: dict[str, dict[str, Any]] = {}
    for file in files:
        folder = Path(file.path).absolute().parent.name
        name = name_recording(dataset or (mapping or {}).get("dataset") or folder, file.stem)
        if name in jobs:
            raise ValueError(f"{jobs[name]['path']} and {file.path} are both {name!r}; {cure}")
        about = {"path": file.path, "version": file.version, "size_bytes": file.size}
        jobs[name] = about | {"recording_id": name, "mapping": mapping} | more
    return jobs


def identifier(name: str) -> str:
    """A name that a covariate may have: letters, digits and "_", starting with a letter."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    return plain if plain[:1].isalpha() else f"x_{plain}"


def covariate(
    where: str,
    name: str,
    entry: dict[str, Any],
    values: np.ndarray,
    times: np.ndarray | None,
    tally: Tally,
    unobserved: np.ndarray | None = None,
) -> Covariate:
    """A covariate as its entry says.

    Args:
        where: Named in errors.
        name: Of the covariate.
        entry: See the head of this file; other keys are not looked at.
        values: `(M,)` or `(M, dim)` numbers, booleans or text; for events their times (s).
        times: `(M,)` seconds in any order; None for one value per trial, and for events.
        tally: Counts samples that are left out.
        unobserved: `(M,)` bool, samples that hold no observation whatever their value; None for none.

    Raises:
        ValueError: The values do not fit the entry.
    """
    where = f"{where}: covariate {name!r}"
    spec: dict[str, Any] = {key: entry[key] for key in ("role", "unit", "resample", "description") if key in entry}
    values = np.asarray(values)
    if times is None and {"observed_in", "unobserved_in"} & set(entry):
        raise ValueError(f"{where}: observed_in and unobserved_in are for series and states, not events or trials")
    if entry.get("kind") == "event":
        return events(CovariateSpec(name, "event", "time", **spec), _numbers(where, values), tally)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    missing = _missing(values, entry.get("missing", ()))
    if unobserved is not None:
        missing = missing | (unobserved if values.ndim == 1 else unobserved[:, None])
    kind: Kind = entry.get("kind") or (
        "categorical" if "classes" in entry or values.dtype.kind in "bOUS" else "continuous"
    )
    if kind == "categorical":
        classes, number = _classes(where, values, missing, entry)
        spec_of = CovariateSpec(name, kind, "trial" if times is None else "time", num_classes=number, **spec)
        values = classes
    else:
        values = np.where(missing, np.nan, _numbers(where, values))
        if entry.get("circular"):
            values, spec = _on_circle(where, values, times, spec)
        dim = 1 if values.ndim == 1 else values.shape[1]
        if values.ndim > 2 or (times is None and dim > 1):
            expected = "(trials,)" if times is None else "(M,) or (M, dim)"
            raise ValueError(f"{where}: values of shape {values.shape}, expected {expected}")
        spec_of = CovariateSpec(name, kind, "trial" if times is None else "time", dim=dim, **spec)
    if times is not None:
        return series(where, spec_of, times, values, tally)
    return (Covariate.categorical if kind == "categorical" else Covariate.continuous)(spec_of, values)


def _numbers(where: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where}: got values such as {values.ravel()[:1].tolist()}, expected numbers; give `classes`")
    return values.astype(np.float64, copy=False)


def _missing(values: np.ndarray, also: Iterable[Any]) -> np.ndarray:
    """Which values are not observed."""
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
    elif values.dtype.kind in "OUS":
        missing = (values == "") | (values != values)
    else:
        missing = np.zeros(values.shape, bool)
    for value in also:
        missing = missing | (values == value)
    return np.asarray(missing, bool)


def _classes(where: str, values: np.ndarray, missing: np.ndarray, entry: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Class numbers `(M,)`, -1 where not observed, and how many classes there are."""
    if values.ndim != 1:
        raise ValueError(f"{where}: got values of shape {values.shape}, expected one class a row")
    if "classes" in entry:
        found = np.full(len(values), -1, np.int64)
        for number, value in enumerate(entry["classes"]):
            found[values == value] = number
        if len(unknown := values[(found < 0) & ~missing]):
            got = sorted(set(map(str, unknown[:1000].tolist())))[:5]
            raise ValueError(
                f"{where}: values {got} are not among the classes {entry['classes']}; add them there or to `missing`"
            )
        return np.where(missing, -1, found), max(2, len(entry["classes"]))
    if values.dtype.kind not in "biuf":
        got = sorted(set(map(str, values[~missing].tolist())))
        raise ValueError(f"{where}: the values are text; name their `classes`, out of {got[:20]}")
    whole = np.where(missing, -1, values).astype(np.float64)
    if (whole != np.round(whole)).any() or (whole[~missing] < 0).any():
        raise ValueError(
            f"{where}: classes are {whole.min():g} to {whole.max():g}, expected 0, 1, 2...; give `classes`"
        )
    # Two files of one kind have one number of classes, whatever values each holds.
    number = int(entry.get("num_classes") or (2 if values.dtype.kind == "b" else 0))
    if number < 2 or whole.max(initial=0) >= number:
        raise ValueError(
            f"{where}: num_classes is {number}, classes go up to {whole.max(initial=0):g}; give num_classes"
        )
    return whole.astype(np.int64), number


def _on_circle(
    where: str, values: np.ndarray, times: np.ndarray | None, spec: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    if values.ndim != 1 or times is None:
        raise ValueError(f"{where}: circular: got shape {values.shape}, expected one angle per time, not per trial")
    angle = np.deg2rad(values) if str(spec.get("unit", "")).lower() in _DEGREES else values
    text = spec.get("description", "")
    return np.stack([np.cos(angle), np.sin(angle)], axis=1), spec | {
        "unit": "",
        "description": f"{text}{': ' if text else ''}cosine and sine of the angle",
    }
