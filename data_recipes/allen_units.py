"""Units of the Allen Neuropixels sessions: quality, probe, place and region; reads tables, no spikes."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np
import pandas as pd

from data_recipes.cleaning import Tally, numbers
from data_recipes.nwb_file import node, read_table
from data_recipes.regions import map_acronyms

# Metrics of the units table that are kept; those the file has not are left out.
METRICS = (
    "quality",
    "firing_rate",
    "snr",
    "isi_violations",
    "amplitude_cutoff",
    "presence_ratio",
    "d_prime",
    "nn_hit_rate",
    "waveform_duration",
)
LIMITS = ("isi_violations", "amplitude_cutoff", "presence_ratio")
_CHANNEL = ("location", "group_name", "probe_id", "probe_vertical_position", "valid_data", "x", "y", "z")
_RENAMED = {"probe_vertical_position": "depth_um", "x": "ccf_ap_um", "y": "ccf_dv_um", "z": "ccf_lr_um"}


@dataclass(frozen=True)
class UnitCriteria:
    """Which units to keep; the defaults of the recipe are those of the AllenSDK. None switches one off.

    Attributes:
        isi_violations: At most this.
        amplitude_cutoff: At most this.
        presence_ratio: At least this.
        quality: Value of the column `quality`.
        valid_channels: Leave out units whose peak channel is marked as not valid.
    """

    isi_violations: float | None = 0.5
    amplitude_cutoff: float | None = 0.1
    presence_ratio: float | None = 0.95
    quality: str | None = "good"
    valid_channels: bool = True


def unit_table(
    file: h5py.File, prefix: str, criteria: UnitCriteria, regions: str, tally: Tally
) -> tuple[pd.DataFrame, np.ndarray]:
    """The units that meet the criteria, and their rows in the file.

    A metric that is NaN fails its threshold, as in the AllenSDK; a threshold whose column the file has not is not
    applied, and counted.

    Args:
        file: Open NWB file.
        prefix: `"<dataset>/<session>"`, of unit ids.
        criteria: Thresholds.
        regions: A parcellation of `data_recipes.regions`.
        tally: Counts units in, out by reason, and without a region.

    Returns:
        The table of `Recording.units` with `region`, `region_allen` (as in the file), `probe`, `allen_unit_id`,
        `depth_um` (from the tip), CCF coordinates in um and `METRICS`; and positions `(N,)` in the units table.

    Raises:
        ValueError: No units table, or no unit is left.
    """
    group = node(file, "units")
    if group is None:
        raise ValueError(f"{file.filename}: no table of units, expected spikes; is it the LFP file of a probe?")
    table, where = read_table(group, ("peak_channel_id", *METRICS)), f"{file.filename}: {group.name}"
    if table.index.has_duplicates:
        raise ValueError(
            f"{where}: unit id {table.index[table.index.duplicated()][0]} stands twice, expected unique ids"
        )
    channels = _channels(file, table, tally)
    out: dict[str, np.ndarray] = {}
    for name in LIMITS:
        limit = getattr(criteria, name)
        if limit and name in table:
            values = numbers(where, table, name)
            out[f"{name} missing"] = np.isnan(values)
            above = name != "presence_ratio"
            with np.errstate(invalid="ignore"):
                reason = f"{name} {'above' if above else 'below'} {limit:g}"
                out[reason] = values > limit if above else values < limit
        elif limit:
            tally.add(f"units kept without {name}", len(table))
    if criteria.quality is not None and "quality" in table:
        out[f"quality is not {criteria.quality}"] = (table["quality"].astype(str) != criteria.quality).to_numpy()
    if criteria.valid_channels and "valid_data" in channels:
        # A channel that is not in the table of electrodes (NaN) says nothing against the unit.
        valid = pd.to_numeric(channels["valid_data"], errors="coerce").fillna(1).to_numpy()
        out["peak channel not valid"] = valid == 0
    rows = np.flatnonzero(tally.keep("units", len(table), out))
    if not len(rows):
        raise ValueError(
            f"{file.filename}: none of {len(table)} units passes the criteria ({tally.counts}); see the options "
            f"{', '.join(LIMITS)}, quality and valid_channels (null switches one off), or leave the session out"
        )
    table, channels = table.iloc[rows], channels.iloc[rows]
    acronyms = channels["location"].fillna("").astype(str).to_numpy() if "location" in channels else [""] * len(rows)
    region = map_acronyms(acronyms, regions)
    tally.add("units without a region", int((region == "").sum()))
    probe = _probe_names(channels)
    units = pd.DataFrame(
        {
            "unit_id": [f"{prefix}/{p}/{unit}" for p, unit in zip(probe, table.index)],
            "region": region,
            "region_allen": np.asarray(acronyms, dtype=object),
            "probe": probe,
            "allen_unit_id": table.index.to_numpy(),
        }
    )
    for name, to in _RENAMED.items():
        if name in channels:
            units[to] = numbers(f"{file.filename}: electrodes", channels, name)
    for name in METRICS:
        if name in table:
            units[name] = table[name].astype(str).to_numpy() if name == "quality" else numbers(where, table, name)
    return units, rows


def _channels(file: h5py.File, table: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """The peak channel of each unit, found by id; rows of NaN where the electrodes table has it not."""
    electrodes = node(file, "general/extracellular_ephys/electrodes")
    if electrodes is None or "peak_channel_id" not in table:
        tally.add("units without an electrode", len(table))
        return pd.DataFrame(index=table.index)
    channels = read_table(electrodes, _CHANNEL)
    if channels.index.has_duplicates:
        # Ids that are not ids (0 to 383 on every probe) would place units on the wrong probe.
        repeated = channels.index[channels.index.duplicated()][0]
        raise ValueError(f"{file.filename}: electrode id {repeated} stands twice, expected ids unique in the session")
    ids = numbers(f"{file.filename}: units", table, "peak_channel_id")
    tally.add("units without an electrode", int((~np.isin(ids, channels.index.to_numpy(float))).sum()))
    return channels.set_index(channels.index.astype(float)).reindex(ids)


def _probe_names(channels: pd.DataFrame) -> list[str]:
    for name in ("group_name", "probe_id"):
        if name in channels:
            known = channels[name].notna().to_numpy()
            texts = [str(int(v)) if isinstance(v, (float, np.floating)) else str(v) for v in channels[name].fillna(-1)]
            return [t.replace("/", "_") if k else "unknown" for t, k in zip(texts, known)]
    return ["unknown"] * len(channels)
