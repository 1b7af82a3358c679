"""HDF5 files of brainsets, torch_brain and temporaldata, read with h5py; knows no dataset and no recording.

A file is a tree of objects (`Data`, `ArrayDict`, `Interval`, `IrregularTimeSeries`, `RegularTimeSeries`) whose class
stands in the attribute `object`. A key such as "cursor.vel" names the attribute `vel` of the object `cursor`, as in
`Data.get_nested_attribute`. Layout as written by `to_hdf5` of temporaldata 0.1 and torch_brain.data 0.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_recipes.hdf5_values import guarded, seconds, values
from data_recipes.nwb_file import node, open_hdf5

SERIES = ("IrregularTimeSeries", "RegularTimeSeries")
# What upstream adds to every object for its own use: masks of the split domains, an index of the times.
_UPSTREAM = re.compile(r"(train|valid|val|test)_mask|timestamp_indices_1s|domain")
_SPLIT = re.compile(r"(?:(\w+)_)?(train|valid|val|test)_domain")


@contextmanager
def open_brainset(path: str | Path) -> Iterator[h5py.File]:
    """The file, open for reading as long as the context lasts.

    Raises:
        ValueError: No such file, truncated or corrupt (now or while it is read), or not of this format.
    """
    with guarded(path), open_hdf5(path, "file of brainsets", locking=False) as file:
        if class_of(file) != "Data":
            got = "an NWB file" if "nwb_version" in file.attrs else "an HDF5 file without it"
            raise ValueError(
                f"{path}: got {got}, expected the attribute object = 'Data' at the root, as brainsets and "
                "torch_brain write it; for NWB use the recipe nwb"
            )
        yield file


def class_of(item: object) -> str:
    """The class of an object of the file, such as "Interval"; "" for arrays."""
    return _text(item.attrs.get("object", "")) if isinstance(item, h5py.Group) else ""


def attribute(file: h5py.Group, key: str, default: str = "") -> str:
    """A text of the metadata, such as "subject.id"; `default` where there is none."""
    group, _, name = key.rpartition(".")
    at = node(file, group.replace(".", "/")) if group else file
    return default if not isinstance(at, h5py.Group) or name not in at.attrs else _text(at.attrs[name]).strip()


def find(file: h5py.File, key: str) -> h5py.Group | h5py.Dataset | None:
    """The object or array of a key such as "cursor.vel"; None where there is none.

    Raises:
        ValueError: The key leads into another file.
    """
    return node(file, key.replace(".", "/"))


def need(file: h5py.File, key: str) -> h5py.Group | h5py.Dataset:
    """The object or array of a key.

    Raises:
        ValueError: There is none; the message lists what the file offers.
    """
    found = find(file, key)
    if found is None:
        raise ValueError(f"{file.filename}: no {key!r}; the file offers {offers(file)}")
    return found


def objects(file: h5py.Group) -> dict[str, h5py.Group]:
    """All objects of a file, or of a `Data` in it, by key, but for `Data`, domains and splits.

    Raises:
        ValueError: One lies in another file.
    """
    links: dict[str, Any] = {}
    # Meets each group once, whatever circles a file has. Nothing may be raised while it runs.
    file.visititems_links(links.__setitem__)
    found: dict[str, h5py.Group] = {}
    for path, link in links.items():
        above, _, name = path.rpartition("/")
        # What a soft link names is met where it lies.
        if name == "domain" or _SPLIT.fullmatch(name) or isinstance(link, h5py.SoftLink):
            continue
        child = node(file, path)
        parent = node(file, above) if above else file
        if class_of(parent) == "Data" and class_of(child) not in ("", "Data"):
            found[path.replace("/", ".")] = child
    return found


def columns(group: h5py.Group) -> list[str]:
    """The attributes of an object that are data: not its clock, its domain, or masks of the splits."""
    clock = {"Interval": ("start", "end"), "IrregularTimeSeries": ("timestamps",)}.get(class_of(group), ())
    return [
        n for n in group if n not in clock and not _UPSTREAM.fullmatch(n) and isinstance(node(group, n), h5py.Dataset)
    ]


def plain(group: h5py.Group, name: str) -> np.ndarray | None:
    """An attribute of an object as numbers, booleans or text; None for anything else, such as pickled objects."""
    data = node(group, name)
    if not isinstance(data, h5py.Dataset) or data.shape is None:
        return None
    if not (data.dtype.kind in "biufS" or h5py.check_string_dtype(data.dtype)):
        return None
    return values(group, name)


def offers(file: h5py.File) -> str:
    """What the file holds, for messages."""
    return ", ".join(
        f"{key} ({class_of(group)}: {' '.join(columns(group)) or 'times only'})" for key, group in objects(file).items()
    )


def time_keys(group: h5py.Group) -> list[str]:
    """Columns of an `Interval` that are times (s): those that upstream shifts with the clock, and those called so."""
    listed = {_text(name) for name in np.atleast_1d(group.attrs.get("timekeys", []))}
    return [n for n in columns(group) if n in listed or re.search(r"_times?$", n)]


def bounds(group: h5py.Group) -> np.ndarray:
    """Starts and ends `(I, 2)` float64 s of an `Interval`, as they are.

    Raises:
        ValueError: Not an `Interval`, or starts and ends differ in number.
    """
    where = f"{group.file.filename}: {group.name}"
    if not isinstance(group, h5py.Group) or node(group, "start") is None or node(group, "end") is None:
        raise ValueError(f"{where}: got {class_of(group) or 'an array'}, expected an Interval with start and end")
    start, end = seconds(group, "start"), seconds(group, "end")
    if start.shape != end.shape:
        raise ValueError(f"{where}: start {start.shape} and end {end.shape}, expected vectors of one length")
    return np.stack([start, end], axis=1)


def clock(group: h5py.Group, num_samples: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Times `(M,)` float64 s of a time series, and which samples are real `(M,)` (None: all).

    A regular series with gaps stores fill values there, and its domain says where (torch_brain's `index_mask`).

    Raises:
        ValueError: No clock, or one of another length.
    """
    where = f"{group.file.filename}: {group.name}"
    if class_of(group) == "IrregularTimeSeries":
        times = seconds(group, "timestamps")
        if times.shape != (num_samples,):
            raise ValueError(f"{where}: {num_samples} samples at {times.shape} timestamps, expected one time a sample")
        return times, None
    if node(group, "domain") is None:
        raise ValueError(f"{where}: no domain, expected that of a {class_of(group) or 'time series'}")
    rate, domain = float(group.attrs.get("sampling_rate", 0)), bounds(node(group, "domain"))
    if class_of(group) != "RegularTimeSeries" or not 0 < rate < np.inf or not len(domain):
        raise ValueError(f"{where}: {class_of(group)} at {rate:g} Hz, expected a time series with a rate above 0")
    if not np.isfinite(domain).all():
        raise ValueError(f"{where}: domain {domain.tolist()[:3]}, expected finite seconds")
    times = domain[0, 0] + np.arange(num_samples, dtype=np.float64) / rate
    expected = round((domain[-1, 1] - domain[0, 0]) * rate)
    if abs(expected - num_samples) > 1:
        raise ValueError(f"{where}: {num_samples} samples, but its domain holds {expected} at {rate:g} Hz")
    if len(domain) == 1:
        return times, None
    real = np.zeros(num_samples + 1, np.int64)
    np.add.at(real, np.round((domain - domain[0, 0]) * rate).astype(int)[:, 0].clip(0, num_samples), 1)
    np.add.at(real, np.round((domain - domain[0, 0]) * rate).astype(int)[:, 1].clip(0, num_samples), -1)
    return times, real.cumsum()[:num_samples] > 0


def splits(file: h5py.File) -> dict[str, dict[str, np.ndarray]]:
    """The intervals `(I, 2)` s of the source's own splits, by scope ("" without one) and role.

    `train_domain`, `valid_domain`, `test_domain`; in Brain-Wide Bench with a scope before it, `ts1_train_domain`. The
    role `valid` is called `val` here.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    # In the order of the roles, not of the alphabet.
    for name in sorted(file, key=lambda name: ("test" in name, "val" in name)):
        match = _SPLIT.fullmatch(name)
        if match and class_of(group := node(file, name)) == "Interval":
            role = "val" if match[2] == "valid" else match[2]
            found.setdefault(match[1] or "", {})[role] = intervals = bounds(group)
            if not np.isfinite(intervals).all():
                raise ValueError(f"{file.file.filename}: {name} has bounds that are not finite, expected seconds")
    return found


def _text(value: object) -> str:
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    value = "" if isinstance(value, h5py.Empty) else value
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
