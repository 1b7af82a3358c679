"""The files of one IBL session: which of its datasets are read, in which revision, and reading them; no sessions.

ALF names are `<collection>/#<revision>#/_<namespace>_<object>.<attribute>.<extension>`, as `one.alf.spec` describes.
Arrays are read here and not by ONE, whose reader unpickles object arrays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from one.alf.path import rel_path_parts
from pyarrow.parquet import read_metadata

SORTERS = ("iblsorter", "pykilosort", "")
_PROBE = re.compile(r"alf/(?P<probe>probe\w+?)(?:/(?P<sorter>[^/]+))?")
_SPIKES = ("spikes.times", "spikes.clusters")
_PROBE_FILES = {
    *_SPIKES,
    "clusters.channels",
    "clusters.depths",
    "clusters.metrics",
    "clusters.uuids",
    "channels.brainLocationIds_ccf_2017",
    "channels.mlapdv",
    "electrodeSites.brainLocationIds_ccf_2017",
    "electrodeSites.mlapdv",
}
_TASK_OBJECTS = {"trials", "wheel"}
_EXTENSIONS = ("pqt", "npy", "csv")
# Constant columns take no room in a file, and all of it in memory.
_MAX_CELLS = 2**30
_CURE = "download it again, or leave the session out"


@dataclass(frozen=True)
class Dataset:
    """One row of ONE's datasets table, its path taken apart.

    Attributes:
        rel_path: Relative to the session.
        size: Bytes.
        version: Changes when the file does.
        default: Whether ONE's table calls its revision the default one; None where it does not say.
        collection: Such as "alf/probe00/pykilosort".
        revision: Such as "2024-05-06"; "" for none.
        name: `<object>.<attribute>`.
        extension: Such as "npy".
    """

    rel_path: str
    size: int
    version: str
    default: bool | None
    collection: str
    revision: str
    name: str
    extension: str

    @property
    def rank(self) -> tuple[bool, str, int]:
        """Among files of one name the highest is taken: the default revision, else the last; tables before arrays."""
        return bool(self.default), self.revision, -_EXTENSIONS.index(self.extension)


def parse_datasets(table: pd.DataFrame) -> list[Dataset]:
    """The datasets of a session that could be read: `alf` collections, known extensions, no manual curation.

    Args:
        table: ONE's datasets of the session: `rel_path`, `file_size`, `hash` and, if known, `default_revision`.
    """
    found = []
    defaults = table["default_revision"] if "default_revision" in table else [None] * len(table)
    for rel_path, size, file_hash, default in zip(table["rel_path"], table["file_size"], table["hash"], defaults):
        if not rel_path.startswith("alf/") or not rel_path.endswith(_EXTENSIONS):
            continue
        parts = rel_path_parts(rel_path, as_dict=True, assert_valid=False)
        if not parts or not parts["object"] or parts["extra"] or parts["namespace"] not in (None, "", "ibl"):
            continue
        name = "_".join(filter(None, (parts["attribute"], parts["timescale"])))
        found.append(
            Dataset(
                rel_path,
                0 if pd.isna(size) else int(size),
                "" if pd.isna(file_hash) else str(file_hash),
                None if pd.isna(default) else bool(default),
                parts["collection"] or "",
                parts["revision"] or "",
                f"{parts['object']}.{name}",
                parts["extension"],
            )
        )
    return found


def choose_files(
    datasets: Iterable[Dataset], cameras: list[str], pose: bool, sorter: str | None, probes: list[str] | None
) -> dict[str, Dataset]:
    """What `read` will read of a session.

    Spike times and clusters come from one revision; every other file from its own default, or else last, revision.

    Args:
        datasets: Those of the session.
        cameras: Such as ["left"].
        pose: Whether to read what was tracked in the videos.
        sorter: Folder of the spike sorting; None for the first of `SORTERS` that a probe has.
        probes: Such as ["probe00"]; None for all.

    Returns:
        By `<object>.<attribute>`, for probes `<probe>/<object>.<attribute>`.
    """
    video = {"times", "ROIMotionEnergy"} | ({"dlc", "lightningPose", "features"} if pose else set())
    wanted = {"licks.times"} | {f"{camera}Camera.{attribute}" for camera in cameras for attribute in video}
    by_probe: dict[str, dict[str, list[Dataset]]] = {}
    tasks: dict[str, list[Dataset]] = {}
    files: dict[str, Dataset] = {}
    for dataset in datasets:
        probe = _PROBE.fullmatch(dataset.collection)
        if probe and dataset.name in _PROBE_FILES and (probes is None or probe["probe"] in probes):
            by_probe.setdefault(probe["probe"], {}).setdefault(probe["sorter"] or "", []).append(dataset)
        elif dataset.name.split(".")[0] in _TASK_OBJECTS and re.fullmatch(r"alf(/task_\d+)?", dataset.collection):
            tasks.setdefault(dataset.collection, []).append(dataset)
        elif dataset.collection == "alf" and dataset.name in wanted:
            _take(files, dataset.name, dataset)
    for dataset in tasks[_main_task(tasks)] if tasks else []:
        _take(files, dataset.name, dataset)
    for probe_name, sortings in sorted(by_probe.items()):
        # Sites do not depend on the sorting, and may lie beside it.
        for dataset in sortings.get("", []):
            if dataset.name.startswith("electrodeSites"):
                _take(files, f"{probe_name}/{dataset.name}", dataset)
        for dataset in _sorting(sortings, sorter):
            _take(files, f"{probe_name}/{dataset.name}", dataset)
    return files


def _take(files: dict[str, Dataset], key: str, dataset: Dataset) -> None:
    if key not in files or dataset.rank > files[key].rank:
        files[key] = dataset


def _main_task(tasks: dict[str, list[Dataset]]) -> str:
    """`alf`, or of several tasks of one session the one with the largest trial table."""
    size = {name: max([d.size for d in group if d.name == "trials.table"], default=0) for name, group in tasks.items()}
    return "alf" if "alf" in tasks else max(sorted(tasks), key=lambda name: size[name])


def _sorting(sortings: dict[str, list[Dataset]], sorter: str | None) -> list[Dataset]:
    """Files of one spike sorting of a probe, with spikes of one revision only.

    Without a whole sorting, what there is of one without its spikes, so that the probe is known to be missing.
    """
    others = sorted(set(sortings) - set(SORTERS), key=len)
    for name in [*SORTERS, *others] if sorter is None else [sorter]:
        group = sortings.get(name, [])
        times, clusters = ({d.revision: d for d in group if d.name == spikes} for spikes in _SPIKES)
        if both := [revision for revision in times if revision in clusters]:
            revision = max(both, key=lambda r: times[r].rank)
            return [d for d in group if d.name not in _SPIKES or d.revision == revision]
    return [d for group in sortings.values() for d in group if d.name not in _SPIKES]


@dataclass(frozen=True)
class SessionFiles:
    """The chosen files of one session, on this machine.

    Attributes:
        folder: Of the session.
        paths: Relative to it, by the keys of `choose_files`.
    """

    folder: Path
    paths: dict[str, str]

    def __contains__(self, key: str) -> bool:
        return key in self.paths

    @property
    def probes(self) -> list[str]:
        """Names of the probes that have spikes, sorted."""
        return sorted(key.split("/")[0] for key in self.paths if key.endswith("/spikes.times"))

    @property
    def probes_without_spikes(self) -> list[str]:
        """Names of the probes of which only other files are there, sorted."""
        return sorted({key.split("/")[0] for key in self.paths if "/" in key} - set(self.probes))

    def array(self, key: str, mapped: bool = False, columns: int = 1) -> np.ndarray:
        """The numbers of an `.npy` file: `(n,)`, also of a single column, or `(n, columns)`.

        Args:
            key: Of `choose_files`.
            mapped: As a read-only memory map.
            columns: Expected.

        Raises:
            ValueError: Truncated, not an `.npy` file, pickled Python objects, another shape, or not numbers.
        """
        path = self.folder / self.paths[key]
        try:
            # Mapped in either case: a header that declares more than the file holds must not take the memory for it.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # the header is text that NumPy parses, and damage to it raises nearly anything
            if "Python objects" in str(error):
                raise ValueError(f"{path}: holds pickled Python objects, which are not read; save numbers") from None
            raise ValueError(f"{path}: truncated or not an .npy file ({error}); {_CURE}") from None
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: an archive of arrays (.npz), expected one array (.npy); {_CURE}")
        if columns == 1 and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.dtype.kind not in "biuf" or not array.ndim or array.shape[1:] != (columns,)[: columns > 1]:
            shape = "(n,)" if columns == 1 else f"(n, {columns})"
            raise ValueError(
                f"{path}: {array.dtype} of shape {array.shape}, expected numbers of shape {shape}; {_CURE}"
            )
        return array if mapped else np.array(array)

    def table(self, key: str) -> pd.DataFrame:
        """The table of a `.pqt` or `.csv` file.

        Raises:
            ValueError: Truncated, or neither.
        """
        path = self.folder / self.paths[key]
        try:
            if path.suffix == ".csv":
                return pd.read_csv(path)
            about = read_metadata(path)
            if about.num_rows * about.num_columns > _MAX_CELLS:
                raise ValueError(f"{about.num_rows} rows of {about.num_columns} columns are more than any session has")
            return pd.read_parquet(path)
        except Exception as error:  # Arrow and pandas raise nearly anything on damaged metadata
            raise ValueError(f"{path}: truncated or not a table ({error}); {_CURE}") from None


def file_version(files: Iterable[Dataset]) -> str:
    """Changes when one of the files does, or when other files are chosen."""
    text = "\n".join(sorted(f"{d.rel_path} {d.size} {d.version}" for d in files))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
