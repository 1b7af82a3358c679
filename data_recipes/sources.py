"""Where recipes read from: files of a folder, here or behind a URL, and what a session would cost; reads no content.

A source that is not local is copied to a local file while its session is prepared, and kept when FOUNDATION_CACHE names
a folder. `foundation.stores` says what URLs there are; `file://` is one of them, a plain path is read in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from foundation.remote import find_files, local_copy
from foundation.remote_file import is_url


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
    """The files of a folder (or one file) that end in one of `suffixes`, sorted by path; hidden ones are left out.

    Over HTTP nobody can list a folder: give one file, or an index `.txt` or `.json` of addresses.

    Raises:
        ValueError: `source` is neither a folder nor such a file.
        FileNotFoundError: Nothing is there, behind a URL.
    """
    if is_url(source):
        return _list_remote(source, suffixes, recursive)
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
    """The file as a local path, for as long as the context lasts.

    Args:
        path: Local path or URL. A download that broke goes on where it stopped, in a later process too.
        version: Of the `SourceFile`; another version behind the URL is refused. Not looked at for a local path.

    Raises:
        ValueError: The remote file has changed, or cannot be had.
        FileNotFoundError: There is no such remote file.
    """
    if not is_url(path):
        yield Path(path)
        return
    with local_copy(path, version) as copy:
        yield copy


def _list_remote(source: str, suffixes: tuple[str, ...], recursive: bool) -> list[SourceFile]:
    files, root = [], unquote(source).rstrip("/") + "/"
    for file in find_files(source):
        path = unquote(urlsplit(file.url).path) if file.url.startswith("http") else file.url
        name = path.rsplit("/", 1)[-1]
        is_deep = not recursive and "/" in path.removeprefix(root) and path.startswith(root)
        if name.endswith(suffixes) and not name.startswith(".") and not is_deep:
            files.append(SourceFile(file.url, name, file.size or 0, file.version))
    if not files:
        raise ValueError(f"--source is {source}, which holds no file that ends in {' or '.join(suffixes)}")
    return files
