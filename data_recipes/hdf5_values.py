"""Values of HDF5 files that nobody vouches for: looked at before they are read, and every error names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data_recipes.nwb_file import array, node, refuse_unwritten


@contextmanager
def guarded(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong in the context is a ValueError that names `path`: damaged files make h5py raise anything."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ValueError(f"{path}: needs more memory than there is ({error}); read it on a larger machine") from error
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read ({type(error).__name__}: {error}), expected what its format says; is it damaged, "
            "or from another program? Fetch or write it again"
        ) from error


def dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    """The array at a path below `group`, whose values the file can hold.

    Raises:
        ValueError: Nothing there, a group, an array without values, or one that declares more than is stored.
    """
    item = node(group, path)
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        got = "no values" if isinstance(item, h5py.Dataset) else f"a {type(item).__name__}"
        raise ValueError(
            f"{group.file.filename}: {group.name.rstrip('/')}/{path}: got {'nothing' if item is None else got}, "
            "expected an array"
        )
    refuse_unwritten(item)
    return item


def values(group: h5py.Group, path: str) -> np.ndarray:
    """Numbers, booleans or text at a path, in this machine's order of bytes, which Arrow wants.

    Raises:
        ValueError: As of `dataset` and of `data_recipes.nwb_file.array`.
    """
    found = array(dataset(group, path))
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def seconds(group: h5py.Group, path: str) -> np.ndarray:
    """Times `(M,)` float64 s at a path, as they are.

    Raises:
        ValueError: Not a vector of numbers.
    """
    found = dataset(group, path)
    if found.dtype.kind not in "iuf" or found.ndim != 1:
        raise ValueError(
            f"{group.file.filename}: {found.name}: {found.shape} of type {found.dtype}, expected a vector of seconds"
        )
    return array(found).astype(np.float64, copy=False)
