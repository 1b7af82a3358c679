"""The arrays of an `.npz` file that anybody may have written: read one by one, or refused in words.

No pickle is opened, and nothing is allocated on the word of a header: an array has to be as large as the archive says
that it is, and an archive that unpacks to far more than it holds is refused.
"""

from __future__ import annotations

import lzma
import math
import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

# An array may be larger than this only if it is not this many times as large as its part of the file.
_LARGE, _RATIO = 256 << 20, 250
_BROKEN = (
    *(ValueError, KeyError, TypeError, SyntaxError, TokenError, EOFError, OSError, OverflowError, RuntimeError),
    MemoryError,
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)


class ArrayFile:
    """An open `.npz` file.

    Attributes:
        path: Of the file.
        names: Of its arrays.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file.

        Raises:
            ValueError: It is no `.npz` file.
            FileNotFoundError: There is none.
        """
        self.path = str(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise
        except _BROKEN as error:
            raise ValueError(f"{path}: not an .npz file ({error}); write it with np.savez") from None
        self._members = {info.filename.removesuffix(".npy"): info for info in self._archive.infolist()}
        self.names = list(self._members)
        size = self._archive.fp.seek(0, 2)  # type: ignore[union-attr]
        if sum(info.compress_size for info in self._members.values()) > size:
            raise ValueError(
                f"{path}: not an .npz file (its parts say they are larger than it); write it with np.savez"
            )

    def __getitem__(self, name: str) -> np.ndarray:
        """An array.

        Raises:
            ValueError: There is none of that name, it is damaged, it holds Python objects, or it is not as large as it
                says.
        """
        if name not in self._members:
            raise ValueError(f"{self.path}: no array {name!r}; the file has {sorted(self.names)}")
        try:
            with self._archive.open(self._members[name]) as file:
                self._check(name, file)
            with self._archive.open(self._members[name]) as file:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except _BROKEN as error:
            raise ValueError(f"{self.path}: array {name!r} cannot be read: {error}") from None

    def read(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {name: self[name] for name in self.names}

    def _check(self, name: str, file: IO[bytes]) -> None:
        """Raise ValueError unless the header fits to the size of the array in the archive."""
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f".npy format {version}, expected one of {list(readers)}; write it with np.savez")
        shape, _, dtype = readers[version](file)
        if dtype.hasobject:
            raise ValueError(
                "it holds Python objects, which are not read; save numbers or text, and concatenate ragged lists into "
                "one array with an index"
            )
        info = self._members[name]
        held = info.file_size - file.tell()
        if math.prod(shape) * dtype.itemsize != held or min(shape, default=0) < 0:
            raise ValueError(f"its header says shape {shape} of {dtype}, but {held} bytes follow")
        if info.file_size > max(_LARGE, _RATIO * info.compress_size):
            raise ValueError(f"{info.compress_size} bytes of the file unpack to {info.file_size}; save it uncompressed")
