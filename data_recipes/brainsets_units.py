"""Units and spikes of brainsets files; knows no trials and no covariates."""

from __future__ import annotations

import re
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data_recipes import brainsets_file as tb
from data_recipes.cleaning import Tally, check_clock, sort_spikes
from data_recipes.hdf5_values import dataset
from data_recipes.nwb_file import node

REGION_COLUMNS = ("region", "brain_region", "area", "acronym", "location")


def read_units(file: h5py.File, entry: dict[str, Any], recording_id: str) -> pd.DataFrame:
    """One row per unit, with all columns of the source that hold one number or text a unit.

    Args:
        file: Open file.
        entry: `id`, `probe` and `region` name columns; `region` may be {key: column, pattern: regular expression whose
            first group is the region}.
        recording_id: First two parts of each unit's id.

    Raises:
        ValueError: No units, columns of several lengths, a column that is not there, or ids that are not unique.
    """
    group = tb.need(file, "units")
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{file.filename}: units is a {type(group).__name__}, expected an object with columns")
    read = {name: values for name in tb.columns(group) if (values := tb.plain(group, name)) is not None}
    lengths = {name: len(values) for name, values in read.items() if values.ndim}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{file.filename}: units has columns of lengths {lengths}, expected one length")
    num = next(iter(lengths.values()))

    def column(name: str) -> np.ndarray:
        if name not in read or read[name].ndim != 1:
            raise ValueError(f"{file.filename}: units has no column {name!r}; it has {sorted(read)}")
        return np.array([str(value) for value in read[name].tolist()], dtype=object)

    ids = column(entry["id"]) if "id" in entry else column("id") if "id" in read else np.arange(num).astype(str)
    probe = entry.get("probe") or next((name for name in ("probe_id", "probe") if name in read), None)
    probes = column(probe) if probe else np.full(num, "probe", dtype=object)
    region = entry.get("region") or next((name for name in REGION_COLUMNS if name in read), None)
    if isinstance(region, dict):
        matches = [re.search(region["pattern"], text) for text in column(region["key"])]
        regions = np.array([m[1] if m else "" for m in matches], dtype=object)
    else:
        regions = column(region) if region else np.full(num, "", dtype=object)
    regions[np.isin(regions, ["None", "nan"])] = ""
    # A slash in an id would make it look like a path of four parts.
    unit_ids = [f"{recording_id}/{p}/{i}".replace(" ", "_") for p, i in zip(_flat(probes), _flat(ids))]
    if len(set(unit_ids)) < num:
        raise ValueError(
            f"{file.filename}: {num - len(set(unit_ids))} units share an id, expected unique ones; name `id`"
        )
    table = {"unit_id": unit_ids, "region": regions}
    table |= {f"source_{n}" if n in ("id", *table) else n: v for n, v in read.items() if v.ndim == 1}
    return pd.DataFrame(table)


def read_spikes(
    file: h5py.File, key: str, num_units: int, domain: np.ndarray, tally: Tally
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted times `(K,)` s and rows `(K,)` int32 of the units table.

    Raises:
        ValueError: No spikes, `unit_index` out of range, or times that do not lie in the domain.
    """
    group, where = tb.need(file, key), f"{file.filename}: {key}"
    if not isinstance(group, h5py.Group) or node(group, "timestamps") is None or node(group, "unit_index") is None:
        got = sorted(group) if isinstance(group, h5py.Group) else "an array"
        raise ValueError(f"{where}: expected timestamps (s) and whole numbers unit_index, got {got}")
    stamps, index = dataset(group, "timestamps"), dataset(group, "unit_index")
    if stamps.dtype.kind not in "fiu" or index.dtype.kind not in "iu" or stamps.ndim != 1:
        raise ValueError(
            f"{where}: timestamps {stamps.shape} {stamps.dtype}, unit_index {index.dtype}, expected vectors of seconds "
            "and of whole numbers unit_index"
        )
    # HDF5 converts while it reads, and clips: no second copy, and what is out of range stays so.
    times, rows = stamps.astype(np.float64)[()], index.astype(np.int32)[()]
    if times.shape != rows.shape:
        raise ValueError(f"{where}: {times.shape} timestamps and {rows.shape} unit_index, expected one length")
    if len(rows) and (rows.min() < 0 or rows.max() >= num_units):
        raise ValueError(
            f"{where}: unit_index {rows.min()} to {rows.max()}, expected 0 to {num_units - 1}, rows of the units table"
        )
    check_clock(where, times, (float(domain[0, 0]), float(domain[-1, 1])))
    return sort_spikes(where, times, rows, tally)


def _flat(names: np.ndarray) -> list[str]:
    return [str(name).replace("/", ".") for name in names]
