"""Remote files where they are: over HTTP, on the Hugging Face Hub, in S3, and wherever fsspec looks; keeps no copy.

https://host/file.nwb                 one file; nobody can list an HTTP folder, so several are given as an index:
https://host/index.txt                one address a line, relative to the index or whole; # starts a comment
https://host/index.json               a list of addresses, or of {"url", "size", "version", "sha256"}
hf://datasets/USER/NAME[@REVISION]/path   the Hub, with the login of `hf auth login` where there is one
s3://bucket/path                      anonymous; with the user's AWS credentials where that is refused
memory://, file://, gs:// ...         what the installed fsspec opens
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from foundation.http_store import HttpStore, HubStore
from foundation.remote_file import CHUNK, Changed, RemoteError, RemoteFile, Store
from foundation.s3_store import S3Store


def store_of(url: str) -> Store:
    """The store that an address belongs to.

    Raises:
        RemoteError: No installed library opens such addresses.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return HttpStore()
    if scheme == "hf":
        return HubStore()
    if scheme == "s3":
        return S3Store()
    return FsspecStore(url)


class FsspecStore:
    """Files of any file system that fsspec knows."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, _ = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise RemoteError(f"{url}: cannot be opened ({error})") from error

    def find(self, url: str) -> list[RemoteFile]:
        """The files below a folder, or the one file."""
        path = self._fs._strip_protocol(url)
        if self._fs.isfile(path):
            return [self.stat(url)]
        found = self._fs.find(path, detail=True)
        if not found and not self._fs.isdir(path):
            raise FileNotFoundError(f"{url}: not found")
        root = path.rstrip("/")
        # Addresses as the user writes them, not as the library does (memory:///).
        return [self._described(url.rstrip("/") + name.removeprefix(root), info) for name, info in found.items()]

    def stat(self, url: str) -> RemoteFile:
        """One file."""
        try:
            return self._described(url, self._fs.info(self._fs._strip_protocol(url)))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{url}: not found") from error

    def chunks(self, file: RemoteFile, start: int) -> tuple[int, Iterator[bytes]]:
        """See `Store`."""
        self._fs.invalidate_cache()
        if self.stat(file.url).version != file.version:
            raise Changed(f"{file.url}: changed while it was read; run again")

        def read() -> Iterator[bytes]:
            with self._fs.open(self._fs._strip_protocol(file.url), "rb") as opened:
                opened.seek(start)
                while chunk := opened.read(CHUNK):
                    yield chunk

        return start, read()

    def put(self, local: Path, url: str) -> None:
        """Write a file; on a local disk under another name first."""
        path = self._fs._strip_protocol(url)
        self._fs.makedirs(self._fs._parent(path), exist_ok=True)
        if "file" not in (self._fs.protocol, *self._fs.protocol):
            self._fs.put_file(str(local), path)
            return
        scratch = Path(path).with_name(f".{Path(path).name}-{os.getpid()}")
        shutil.copyfile(local, scratch)
        os.replace(scratch, path)

    def remove(self, url: str) -> None:
        """Delete a file."""
        self._fs.rm_file(self._fs._strip_protocol(url))

    def _described(self, url: str, info: dict[str, Any]) -> RemoteFile:
        if info.get("type") == "directory":
            raise FileNotFoundError(f"{url}: a folder, expected a file")
        tags = (
            info.get(key) for key in ("etag", "ETag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
        )
        # The same time is a date in one answer of a library and a number in another.
        tag = next((str(tag.timestamp() if isinstance(tag, datetime) else tag) for tag in tags if tag), "")
        return RemoteFile(url, info["size"], f"{info['size']} {tag}" if tag else "")
