"""Arrays of foreign `.npz` files: what NumPy wrote is read, all else refused, and nothing allocated on trust."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from foundation.array_file import ArrayFile


def _saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@given(
    st.dictionaries(
        st.text("abcxyz_.", min_size=1, max_size=5),
        npst.arrays(
            st.sampled_from(["f8", "f4", "i8", "u1", "?", "U4", "S3", "c8", ">i2"]),
            npst.array_shapes(min_dims=0, min_side=0),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_what_numpy_wrote_comes_back(arrays: dict[str, np.ndarray], compressed: bool) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)  # type: ignore[arg-type]
    buffer.seek(0)
    file = ArrayFile(buffer)  # type: ignore[arg-type]
    assert set(file.names) == set(arrays)
    for name, array in file.read().items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])


def test_fortran_order_is_kept(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez(tmp_path / "a.npz", array=array)
    np.testing.assert_array_equal(ArrayFile(tmp_path / "a.npz")["array"], array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an .npz file"),
        (b"PK\x05\x06", "not an .npz file"),
        (_saved(a=np.arange(3))[:-9], "not an .npz file"),
        (_saved(a=np.array([{}, []], dtype=object)), "'a' cannot be read: it holds Python objects"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ArrayFile(tmp_path / "a.npz").read()


def _with_header(header: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer, text = io.BytesIO(), header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000, 100000, 100000)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -1)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f8', 'fortran_order': False}",
        "__import__('os').system('true')",
    ],
)
def test_a_header_that_lies_costs_nothing(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.npz").write_bytes(_with_header(header, bytes(16)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="'a' cannot be read"):
        ArrayFile(tmp_path / "a.npz").read()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    size = 300 << 20
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},)}}"
    (tmp_path / "a.npz").write_bytes(_with_header(header, bytes(size), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="unpack to"):
        ArrayFile(tmp_path / "a.npz").read()


def test_a_missing_array_and_a_missing_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", b=np.zeros(1))
    with pytest.raises(ValueError, match=r"no array 'a'; the file has \['b'\]"):
        ArrayFile(tmp_path / "a.npz")["a"]
    with pytest.raises(FileNotFoundError):
        ArrayFile(tmp_path / "none.npz")
