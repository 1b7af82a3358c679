"""Files that appear whole or not at all, and that are known by their hash; knows nothing of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


class CorpusError(ValueError):
    """A corpus on disk that cannot be trusted; the message names the file and the cure."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.parent / f".{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        with scratch.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hash of a file's content.

    Raises:
        CorpusError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error}); prepare this recording again") from None


def read_json(path: Path, cure: str = "prepare the corpus again") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CorpusError: Missing, not JSON, or no object; the message ends in the cure.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorpusError(f"{path}: not found; {cure}") from None
    except (ValueError, OSError) as error:
        raise CorpusError(f"{path}: not readable as JSON ({error}); {cure}") from None
    if not isinstance(document, dict):
        raise CorpusError(f"{path}: got a {type(document).__name__}, expected a JSON object; {cure}")
    return document


def dump_json(document: dict[str, Any]) -> bytes:
    """An object as JSON, the same bytes for the same object."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
