"""Spikes and units of an IBL session: quality, place and region of the clusters of all probes; knows no behavior.

Cluster ids are the rows of `clusters.*.npy` and the column `cluster_id` of `clusters.metrics`; everything is joined on
them, never on the order of clusters that fired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from data_recipes.cleaning import Tally, check_seconds, numbers, silent_gaps, sort_spikes
from data_recipes.ibl_files import SessionFiles
from data_recipes.regions import PARCELLATIONS, map_acronyms
from data_recipes.runs import merge_runs

# Columns of upstream's metrics that are kept under their own names.
METRICS = (
    "label",
    "presence_ratio",
    "firing_rate",
    "amp_median",
    "noise_cutoff",
    "slidingRP_viol",
    "contamination",
    "drift",
)
# More clusters than any probe has: a table of all numbers up to the highest would fill the memory.
MAX_CLUSTER = 1_000_000


@dataclass(frozen=True)
class Quality:
    """Which clusters are units. A cluster without a metric fails the threshold on it.

    Attributes:
        min_label: Share of IBL's three single-unit criteria that must be met, 0 to 1; 0 takes all clusters.
        min_rate_hz: Spikes per second of the probe's recording, as counted here.
        min_presence: Presence ratio of the metrics, 0 to 1.
    """

    min_label: float = 1.0
    min_rate_hz: float = 0.0
    min_presence: float = 0.0

    def __post_init__(self) -> None:
        """Reject thresholds that no unit or every unit would pass by mistake."""
        for name in ("min_label", "min_presence"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"ibl: {name} is {value!r}, expected 0 to 1")
        if not isinstance(self.min_rate_hz, (int, float)) or not 0 <= self.min_rate_hz < math.inf:
            raise ValueError(f"ibl: min_rate_hz is {self.min_rate_hz!r}, expected a rate in Hz")


@dataclass(frozen=True)
class Probe:
    """What one probe recorded.

    Attributes:
        times: `(K,)` seconds, sorted, of the spikes of its units.
        rows: `(K,)` int32, row of each spike's unit in `units`.
        units: One row per unit.
        span: First and last spike of all its clusters, seconds.
        gaps: `(G, 2)` seconds in which none of its clusters fired, see `silent_gaps`.
    """

    times: np.ndarray
    rows: np.ndarray
    units: pd.DataFrame
    span: tuple[float, float]
    gaps: np.ndarray


def read_probe(files: SessionFiles, name: str, prefix: str, quality: Quality, regions: str, tally: Tally) -> Probe:
    """Read one probe.

    Args:
        files: Of the session.
        name: Of the probe, such as "probe00".
        prefix: Unit ids are `<prefix>/<probe>/<cluster id>`.
        quality: Which clusters to keep.
        regions: Parcellation of the column `region`.
        tally: Counts clusters in, out by reason, units without a region, and spikes.

    Raises:
        ValueError: Spikes that no cluster table can explain, or no time that is one.
    """
    where = f"{files.folder}: {name}"
    times = files.array(f"{name}/spikes.times", mapped=True)
    clusters = files.array(f"{name}/spikes.clusters", mapped=True)
    if times.shape != clusters.shape or not len(times):
        raise ValueError(f"{where}: spike times {times.shape} and clusters {clusters.shape}, expected one length > 0")
    low, high = clusters.min(), clusters.max()
    if clusters.dtype.kind not in "iu" or low < 0 or high > MAX_CLUSTER:
        raise ValueError(
            f"{where}: clusters {clusters.dtype} from {low} to {high}, expected whole numbers from 0 to {MAX_CLUSTER}"
        )
    # Those of the spikes whose times are times; as a rule all, and then without a copy.
    good, owners = times, clusters
    if not 0 <= times.min() <= times.max() < math.inf:
        valid = np.isfinite(times) & (times >= 0)
        good, owners = times[valid], clusters[valid]
    span = (float(good.min()), float(good.max())) if len(good) else (math.nan, math.nan)
    if not span[0] < span[1]:
        raise ValueError(f"{where}: spikes from {span[0]:.6g} to {span[1]:.6g} s, expected times in seconds")
    fired = np.bincount(owners, minlength=int(high) + 1)
    check_seconds(where, len(good), int((fired > 0).sum()), span[1] - span[0])
    falls = int((good[1:] < good[:-1]).sum())
    tally.add("spikes out of order", falls)
    gaps = silent_gaps(np.sort(good) if falls else good, tally)
    table = _cluster_table(files, name, fired, tally)
    rate = table["num_spikes"].to_numpy() / (span[1] - span[0])
    label, presence = table["label"].to_numpy(float), table["presence_ratio"].to_numpy(float)
    out = {"no spikes": table["num_spikes"].to_numpy() == 0}
    if quality.min_label > 0:
        out["no quality label"] = ~np.isfinite(label)
        # A third of three criteria is stored as 0.333...
        out[f"label below {quality.min_label:g}"] = label < quality.min_label - 1e-6
    if quality.min_rate_hz > 0:
        out[f"rate below {quality.min_rate_hz:g} Hz"] = rate < quality.min_rate_hz
    if quality.min_presence > 0:
        out[f"presence below {quality.min_presence:g}"] = ~(presence >= quality.min_presence)
    kept = tally.keep("units", len(table), out)
    units = table[kept].reset_index(drop=True)
    place = _places(files, name, units, regions, tally)
    units = pd.concat(
        [
            pd.DataFrame({"unit_id": [f"{prefix}/{name}/{c}" for c in units["cluster_id"]], "region": place["region"]}),
            pd.DataFrame({"probe": [name] * len(units)}, dtype=object),
            units.rename(columns={"depths": "depth_um"}).drop(columns=["channels", "num_spikes"]),
            pd.DataFrame({"rate_hz": rate[kept]}),
            place.drop(columns="region"),
        ],
        axis=1,
    )
    row_of = np.full(len(fired), -1, np.int32)
    row_of[units["cluster_id"]] = np.arange(len(units), dtype=np.int32)
    rows = row_of[clusters]
    mine = rows >= 0
    tally.add("spikes of clusters left out", len(mine) - int(mine.sum()))
    times, rows = np.asarray(times[mine]), rows[mine]
    if len(units):
        times, rows = sort_spikes(where, times, rows, tally)
    return Probe(times, rows, units, span, gaps)


def merge_probes(probes: list[Probe]) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """One train of spikes and one table of units from those of several probes; empties the list.

    Returns:
        Sorted times `(K,)`, unit rows `(K,)` int32, and units. Equal times keep the order of the probes.
    """
    units = pd.concat([probe.units for probe in probes], ignore_index=True)
    offset, runs = 0, []
    for probe in probes:
        runs.append((probe.times, np.add(probe.rows, offset, out=probe.rows)))
        offset += len(probe.units)
    probes.clear()
    times, rows = runs[0] if len(runs) == 1 else merge_runs([run[0] for run in runs], [run[1] for run in runs])
    return times, rows, units


def _cluster_table(files: SessionFiles, name: str, fired: np.ndarray, tally: Tally) -> pd.DataFrame:
    """One row per cluster that fired or that a table knows: id, spikes, channel, depth, uuid and metrics.

    A cluster without channel has -1; without depth or metrics, NaN.
    """
    where = f"{files.folder}: {name}"
    arrays = {
        key: files.array(f"{name}/clusters.{key}")
        for key in ("channels", "depths")
        if f"{name}/clusters.{key}" in files
    }
    if f"{name}/clusters.uuids" in files:
        uuids = files.table(f"{name}/clusters.uuids")
        if "uuids" not in uuids:
            raise ValueError(f"{files.folder / files.paths[f'{name}/clusters.uuids']}: no column 'uuids'")
        arrays["uuid"] = uuids["uuids"].astype(str).to_numpy()
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where}: clusters have {lengths} rows, expected one length; are the files of one revision?")
    metrics = _metrics(files, name, max(lengths.values(), default=len(fired)))
    ids = np.union1d(np.flatnonzero(fired), np.arange(max(lengths.values(), default=0)))
    ids = np.union1d(ids, metrics.index).astype(np.int64)
    tally.add("clusters fired but not in the metrics", int((~np.isin(np.flatnonzero(fired), metrics.index)).sum()))
    table = pd.DataFrame({"cluster_id": ids, "num_spikes": 0})
    counted = ids < len(fired)
    table.loc[counted, "num_spikes"] = fired[ids[counted]]
    for key in ("channels", "depths", "uuid"):
        missing = {"channels": -1, "depths": np.nan, "uuid": ""}[key]
        values = np.full(len(ids), missing, object if key == "uuid" else type(missing))
        if key in arrays:
            known = ids < len(arrays[key])
            found = arrays[key][ids[known]]
            if found.dtype.kind == "f":
                known[known], found = np.isfinite(found), found[np.isfinite(found)]
            values[known] = found
        table[key] = values
    return pd.concat([table, metrics.reindex(ids).reset_index(drop=True)], axis=1)


def _metrics(files: SessionFiles, name: str, num_clusters: int) -> pd.DataFrame:
    """The metrics by cluster id, with at least a label and a presence ratio; without the file, an empty table."""
    key = f"{name}/clusters.metrics"
    if key not in files:
        return pd.DataFrame(columns=["label", "presence_ratio"], index=pd.Index([], dtype=np.int64), dtype=float)
    table, where = files.table(key), str(files.folder / files.paths[key])
    if table.index.name == "cluster_id":
        table = table.reset_index()
    if "cluster_id" not in table and len(table) != num_clusters:
        raise ValueError(
            f"{where}: {len(table)} rows without `cluster_id` for {num_clusters} clusters; "
            "which row is which cluster cannot be told, so take a table with that column"
        )
    ids = numbers(where, table, "cluster_id") if "cluster_id" in table else np.arange(len(table), dtype=float)
    if len(np.unique(ids)) != len(ids) or not ((ids >= 0) & (ids <= MAX_CLUSTER) & (ids == np.floor(ids))).all():
        raise ValueError(f"{where}: `cluster_id` repeats or is missing, expected unique whole numbers from 0")
    metrics = {name: numbers(where, table, name) for name in METRICS if name in table}
    metrics = {name: np.full(len(ids), np.nan) for name in ("label", "presence_ratio")} | metrics
    return pd.DataFrame(metrics, index=pd.Index(ids.astype(np.int64)))


def _places(files: SessionFiles, name: str, units: pd.DataFrame, regions: str, tally: Tally) -> pd.DataFrame:
    """Region in every parcellation and, where the file has it, the position of each unit's peak channel."""
    found = [f"{name}/{obj}.brainLocationIds_ccf_2017" for obj in ("electrodeSites", "channels")]
    key = next((key for key in found if key in files), None)
    channels = units["channels"].to_numpy(np.int64)
    acronyms = np.full(len(units), "", dtype=object)
    table = {}
    if key is None:
        tally.add("units without a region: no histology", len(units))
    else:
        ids = files.array(key)
        placed = (channels >= 0) & (channels < len(ids))
        tally.add("units without a region: no channel", int((~placed).sum()))
        acronyms[placed] = _acronyms(ids[channels[placed]])
        unknown = placed & (acronyms == "")
        tally.add("units without a region: unknown atlas id", int(unknown.sum()))
        nowhere = placed & ~unknown & (map_acronyms(acronyms, "cosmos") == "")
        tally.add("units without a region: root, void or fibers", int(nowhere.sum()))
        if (position := key.replace("brainLocationIds_ccf_2017", "mlapdv")) in files:
            xyz, sites = np.full((len(units), 3), np.nan), files.array(position, columns=3)
            if len(sites) != len(ids):
                raise ValueError(
                    f"{files.folder / files.paths[position]}: {len(sites)} sites, {len(ids)} have a region"
                )
            xyz[placed] = sites[channels[placed]]
            table = {axis: xyz[:, k] for k, axis in enumerate(("ml_um", "ap_um", "dv_um"))}
    named = {f"region_{to}": map_acronyms(acronyms, to) for to in PARCELLATIONS} | {"region_allen": acronyms}
    return pd.DataFrame({"region": map_acronyms(acronyms, regions), **named, **table})


def _acronyms(atlas_ids: np.ndarray) -> np.ndarray:
    """Allen acronym of each id of either hemisphere; "" for ids that the ontology does not have."""
    known = _ontology()
    return np.array([known.get(abs(int(i)), "") if np.isfinite(i) else "" for i in atlas_ids], dtype=object)


@cache
def _ontology() -> dict[int, str]:
    from iblatlas.regions import BrainRegions  # a second to import

    regions = BrainRegions()
    return {abs(int(i)): str(a) for i, a in zip(regions.id, regions.acronym)}
