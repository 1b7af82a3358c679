"""Remote files as local ones: downloaded in pieces, continued after a break, checked, and renamed when whole.

Files are kept under the folder in the environment variable FOUNDATION_CACHE; `local_copy` without it keeps none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from foundation.claims import claim
from foundation.remote_file import Changed, Interrupted, RemoteError, RemoteFile, Store
from foundation.stores import store_of

# Attempts in a row that bring nothing; one that brings a byte starts the count again.
ATTEMPTS = 5
WAIT_S = 1.0


def download(url: str, target: Path, *, version: str = "", checksum: str = "", limit: int | None = None) -> RemoteFile:
    """Download a file; one process at a time for one target.

    What has come is in a hidden `.part` file beside the target, named after the version of the remote file. A later
    call continues there when the remote file is still that version, from the start when the server knows no ranges.

    Args:
        url: See `foundation.stores`.
        target: Local file; its folder is made.
        version: Expected `RemoteFile.version`; "" for whatever is there.
        checksum: "sha256:..." or "md5:..." of the content; "" for the one that the store gives, if any.
        limit: Refuse a file of more bytes.

    Returns:
        What was downloaded.

    Raises:
        RemoteError: Another version, size or checksum; no room; or the connection keeps breaking.
        FileNotFoundError: No such file.
    """
    store = store_of(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    failures, size_before = 0, -1
    while True:
        part = None
        try:
            file = store.stat(url)
            if version and file.version != version:
                raise RemoteError(f"{url}: changed since it was listed ({file.version!r}, was {version!r}); run again")
            if limit is not None and (file.size or 0) > limit:
                raise RemoteError(f"{url}: {file.size} bytes, expected at most {limit}; this is not a corpus")
            part = _part(target, file.version)
            _append(store, file, part)
            _check(file, part, checksum or file.checksum)
        except (Interrupted, Changed) as error:
            size = part.stat().st_size if part is not None and part.exists() else 0
            failures, size_before = (0 if size > size_before >= 0 else failures + 1), size
            if failures >= ATTEMPTS:
                raise RemoteError(f"{url}: no success in {ATTEMPTS} attempts ({error}); run again") from error
            time.sleep(WAIT_S * 2**failures)
        else:
            os.replace(part, target)
            return file


def find_files(url: str) -> list[RemoteFile]:
    """The files of a remote folder, or of an index over HTTP, or the one file; sorted by address.

    Raises:
        RemoteError: It cannot be listed.
        FileNotFoundError: Nothing there.
    """
    for attempt in range(ATTEMPTS):
        try:
            return sorted(store_of(url).find(url), key=lambda file: file.url)
        except Interrupted as error:
            reason = error
            time.sleep(WAIT_S * 2**attempt)
    raise RemoteError(f"{url}: gave up after {ATTEMPTS} attempts ({reason})") from reason


@contextmanager
def local_copy(url: str, version: str = "") -> Iterator[Path]:
    """A remote file as a local path, for as long as the context lasts; longer where FOUNDATION_CACHE names a folder.

    Without such a folder a file is removed after use, and processes that want the same one use it one after the other.
    """
    cache = os.environ.get("FOUNDATION_CACHE")
    root = Path(cache).expanduser() / "files" if cache else _scratch_folder()
    name = Path(unquote(urlsplit(url).path)).name or "file"
    key = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:20]
    target = root / key / name
    if cache and version and target.exists():
        yield target
        return
    with claim(root, f"{key}.claim", poll_s=0.1) as held:
        if not (cache and version and target.exists()):
            download(url, target, version=version)
        held.done()
        if not cache:
            try:
                yield target
            finally:
                shutil.rmtree(target.parent)
            return
    yield target


def read_bytes(url: str, limit: int) -> bytes:
    """The content of a small file.

    Raises:
        RemoteError: More than `limit` bytes, or the connection keeps breaking.
        FileNotFoundError: No such file.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file"
        download(url, target, limit=limit)
        return target.read_bytes()


def cache_folder() -> Path:
    """Where remote corpora are kept: FOUNDATION_CACHE, else `foundation` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "foundation"
    return Path(os.environ.get("FOUNDATION_CACHE", default)).expanduser()


def _part(target: Path, version: str) -> Path:
    """Where the download of this version goes on; parts of other versions are removed."""
    part = target.with_name(f".{target.name}.{hashlib.sha256(version.encode()).hexdigest()[:12]}.part")
    for other in target.parent.glob(f".{target.name}.*.part"):
        if other != part or not version:
            other.unlink()
    return part


def _append(store: Store, file: RemoteFile, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    if file.size is not None:
        if have > file.size:
            part.unlink()
            have = 0
        free = shutil.disk_usage(part.parent).free
        if file.size - have > free:
            raise RemoteError(f"{file.url}: {file.size - have} bytes to come, {free} free in {part.parent}; make room")
        if have == file.size > 0:
            return
    start, chunks = store.chunks(file, have)
    if start not in (0, have):
        raise RemoteError(f"{file.url}: the server sends from byte {start}, asked for {have}")
    with part.open("r+b" if have else "wb") as out:
        out.seek(start)
        out.truncate()
        for chunk in chunks:
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())


def _check(file: RemoteFile, part: Path, checksum: str) -> None:
    size = part.stat().st_size
    if file.size is not None and size < file.size:
        raise Interrupted(f"{file.url}: {size} of {file.size} bytes came")
    if file.size is not None and size > file.size:
        part.unlink()
        raise RemoteError(f"{file.url}: {size} bytes came, expected {file.size}; run again")
    if checksum:
        kind, _, expected = checksum.partition(":")
        with part.open("rb") as opened:
            found = hashlib.file_digest(opened, kind).hexdigest()
        if found != expected:
            part.unlink()
            raise RemoteError(f"{file.url}: {kind} is {found[:12]}..., expected {expected[:12]}...; it is damaged")


def _scratch_folder() -> Path:
    """A folder of this user's for downloads that are removed after use."""
    folder = Path(tempfile.gettempdir()) / f"foundation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RemoteError(f"{folder}: belongs to somebody else; name a folder in FOUNDATION_CACHE")
    return folder
