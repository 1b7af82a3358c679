"""What a remote file is, and what can be done with the files of one kind of address; does none of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# Bytes read at a time.
CHUNK = 1 << 20


class RemoteError(ValueError):
    """Something remote that cannot be had or be trusted; the message names it and the cure."""


class Changed(RemoteError):
    """The file is not the one it was a moment ago."""


class Interrupted(OSError):
    """A connection that broke or a server that is busy: worth another attempt."""


@dataclass(frozen=True)
class RemoteFile:
    """One remote file.

    Attributes:
        url: Where.
        size: Bytes; None when the server does not say.
        version: Changes when the file does; "" when the server gives nothing to tell it by.
        checksum: "sha256:..." or "md5:..." of the content, or "".
    """

    url: str
    size: int | None
    version: str
    checksum: str = ""


class Store(Protocol):
    """What can be done with the files of one kind of address."""

    def find(self, url: str) -> list[RemoteFile]:
        """The files of a folder, or the one file."""
        ...

    def stat(self, url: str) -> RemoteFile:
        """One file. FileNotFoundError when there is none."""
        ...

    def chunks(self, file: RemoteFile, start: int) -> tuple[int, Iterator[bytes]]:
        """The content from byte `start`, and the byte it really starts at: 0 from servers that know no ranges.

        Raises:
            Changed: It is no longer this version.
            Interrupted: Worth another attempt.
        """
        ...

    def put(self, local: Path, url: str) -> None:
        """Write a file, seen whole or not at all."""
        ...

    def remove(self, url: str) -> None:
        """Delete a file."""
        ...


def is_url(path: str) -> bool:
    """Whether it is an address rather than a local path."""
    return "://" in path
