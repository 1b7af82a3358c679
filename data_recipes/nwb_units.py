"""Units of NWB files, of one table or several, and their spikes; knows no trials and no covariates."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pandas as pd

from data_recipes.cleaning import Tally
from data_recipes.hdf5_values import dataset
from data_recipes.nwb_file import column_names, ragged_stops, spike_trains, table_ids
from data_recipes.nwb_survey import electrode_column, electrode_group_attribute, need, offers, simple_column

UNITS = {"path", "region", "probe", "keep"}


def read_units(
    file: h5py.File, entries: list[dict[str, Any]], recording_id: str, tally: Tally
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """The units that have spikes, with all columns that hold one number or text a unit, and their spikes.

    Args:
        file: Open file.
        entries: For each table its `path`, where `region` and `probe` stand (a column, or one of the electrodes or the
            electrode group: "electrodes.location", "electrode_group.name"), and `keep`: values, or lists of them, that
            a column must have, such as {quality: good}.
        recording_id: First two parts of each unit's id.
        tally: Counts units in, out and kept.

    Returns:
        The units, and the spike times (s) of each.

    Raises:
        ValueError: No such table or column, no unit left, or ids that units of several tables share.
    """
    if not entries:
        raise ValueError(
            f"{file.filename}: no units, expected a table with spike times; the file offers {offers(file)}"
        )
    tables, trains = [], []
    for entry in entries:
        units = need(file, entry["path"])
        where = f"{file.filename}: {entry['path']}"
        if not isinstance(units, h5py.Group):
            raise ValueError(f"{where}: got values, expected a table of units")
        out = {
            f"{name} not {_text(wanted)}": ~_has(units, name, wanted) for name, wanted in entry.get("keep", {}).items()
        }
        if "spike_times_index" not in units:
            raise ValueError(f"{where}: no spike times of units; it has {column_names(units)}")
        for name in ("id", "spike_times_index", "spike_times"):
            if (found := dataset(units, name)).ndim != 1 or found.dtype.kind not in "iuf":
                raise ValueError(f"{where}/{name}: {found.shape} of type {found.dtype}, expected a vector of numbers")
        sizes = np.diff(ragged_stops(units, "spike_times"), prepend=0)
        if (num := len(table_ids(units))) != len(sizes):
            raise ValueError(f"{where}: {num} units in id, {len(sizes)} in spike_times_index, expected as many")
        kept = tally.keep("units", len(sizes), out | {"no spikes": sizes == 0})
        table = _table(file, units, entry, recording_id, len(entries) > 1)
        tables.append(table[kept])
        trains += spike_trains(units, np.flatnonzero(kept))
    table = pd.concat(tables, ignore_index=True)
    if not len(table):
        raise ValueError(f"{file.filename}: none of {tally.counts.get('units in', 0)} units is left: {tally.counts}")
    if table["unit_id"].duplicated().any():
        raise ValueError(
            f"{file.filename}: {table['unit_id'][table['unit_id'].duplicated()].iloc[0]!r} names two units, expected "
            "one; give `probe`, or one table only"
        )
    return table, trains


def _table(file: h5py.File, units: h5py.Group, entry: dict[str, Any], recording_id: str, several: bool) -> pd.DataFrame:
    ids = [str(i) for i in table_ids(units)]
    name = entry["path"].strip("/").rpartition("/")[2]
    probes = (
        _attribute(file, units, entry["probe"]) if "probe" in entry else np.full(len(ids), name if several else "probe")
    )
    regions = _attribute(file, units, entry["region"]) if "region" in entry else np.full(len(ids), "", dtype=object)
    regions[np.isin(regions, ["None", "nan", "unknown"])] = ""
    out: dict[str, Any] = {
        "unit_id": [f"{recording_id}/{_flat(p)}/{i}" for p, i in zip(probes, ids)],
        "region": regions,
        "probe": probes,
    }
    out |= {"table": entry["path"]} if several else {}
    for column in column_names(units):
        values = None if column == "spike_times" else simple_column(units, column)
        if values is not None:
            if len(values) != len(ids):
                raise ValueError(f"{file.filename}: {units.name}/{column}: {len(values)} values of {len(ids)} units")
            out[f"source_{column}" if column in out else column] = values
    return pd.DataFrame(out)


def _attribute(file: h5py.File, units: h5py.Group, name: str) -> np.ndarray:
    """A column of the units `(N,)` as text, or of their electrodes or electrode group."""
    if name.startswith("electrodes."):
        return electrode_column(file, units, name.partition(".")[2])
    if name.startswith("electrode_group."):
        return electrode_group_attribute(file, units, name.partition(".")[2])
    values = simple_column(units, name)
    if values is None:
        raise ValueError(
            f"{file.filename}: {units.name} has no column {name!r} of text or numbers; it has {column_names(units)}"
        )
    return np.array([str(value) for value in values.tolist()], dtype=object)


def _has(units: h5py.Group, name: str, wanted: Any) -> np.ndarray:
    values = simple_column(units, name)
    if values is None:
        raise ValueError(f"{units.file.filename}: {units.name}: keep: no column {name!r}; it has {column_names(units)}")
    return np.isin(values, wanted if isinstance(wanted, list) else [wanted])


def _text(wanted: Any) -> str:
    return " or ".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)


def _flat(name: str) -> str:
    # A slash would make an id look like a path of more parts.
    return "_".join(str(name).replace("/", ".").split()) or "probe"
