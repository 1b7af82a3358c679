"""Files of web servers and of the Hugging Face Hub, read through `requests`; writes none."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from foundation.remote_file import CHUNK, Changed, Interrupted, RemoteError, RemoteFile

# To connect, and between two pieces.
TIMEOUT_S = (10, 60)


class HttpStore:
    """Files of web servers."""

    def find(self, url: str) -> list[RemoteFile]:
        """The files that an index names, or the one file.

        Raises:
            RemoteError: A folder, or an index that is none.
        """
        path = urlsplit(url).path
        if path.endswith("/"):
            raise RemoteError(
                f"{url}: an HTTP folder cannot be listed; give a file, or a list of files as .txt or .json"
            )
        if not path.endswith((".txt", ".json")):
            return [self.stat(url)]
        addresses = _read_index(url, b"".join(self.chunks(self.stat(url), 0)[1]))
        if foreign := [address for address in addresses if urlsplit(address).scheme not in ("http", "https")]:
            raise RemoteError(f"{url}: names {foreign[0]!r}; an index over HTTP may only name HTTP addresses")
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self.stat, addresses))

    def stat(self, url: str) -> RemoteFile:
        """One file, by HEAD, or by asking for its first byte where HEAD is not allowed."""
        response = self._request("HEAD", url)
        if response.status_code in (400, 403, 405, 501) or "Content-Length" not in response.headers:
            response.close()
            response = self._request("GET", url, {"Range": "bytes=0-0"})
        with response:
            self._check(response, url)
            return self._described(response, url)

    def chunks(self, file: RemoteFile, start: int) -> tuple[int, Iterator[bytes]]:
        """See `Store`."""
        response = self._request("GET", file.url, {"Range": f"bytes={start}-"} if start else {})
        self._check(response, file.url)
        found = self._described(response, file.url)
        if (file.version and found.version != file.version) or found.size != file.size:
            response.close()
            raise Changed(f"{file.url}: changed on the server while it was read; run again")
        offset = 0
        if response.status_code == 206:
            offset = int(response.headers["Content-Range"].split()[1].split("-")[0])
        return offset, _read(response, file.url)

    def put(self, local: Path, url: str) -> None:
        """Not possible over HTTP."""
        raise RemoteError(f"{url}: files cannot be written over HTTP")

    def remove(self, url: str) -> None:
        """Not possible over HTTP."""
        raise RemoteError(f"{url}: files cannot be removed over HTTP")

    def _address(self, url: str) -> tuple[str, dict[str, str]]:
        return url, {}

    def _request(self, method: str, url: str, headers: dict[str, str] | None = None) -> Any:
        import requests

        address, login = self._address(url)
        # Not compressed on the way: sizes and ranges are those of the file.
        headers = {"Accept-Encoding": "identity", **login, **(headers or {})}
        try:
            return _session(os.getpid()).request(
                method, address, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=True
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Interrupted(f"{url}: {type(error).__name__}") from error
        except requests.RequestException as error:
            raise RemoteError(f"{url}: {error}") from error

    def _check(self, response: Any, url: str) -> None:
        status = response.status_code
        if status in (200, 206) and response.headers.get("Content-Encoding", "identity") == "identity":
            return
        response.close()
        if status in (404, 410):
            raise FileNotFoundError(f"{url}: not found on the server")
        if status in (408, 425, 429) or status >= 500:
            raise Interrupted(f"{url}: the server answers {status}")
        if status == 416:
            raise Changed(f"{url}: became shorter while it was read; run again")
        cure = "; log in, or ask for access" if status in (401, 403) else ""
        raise RemoteError(f"{url}: the server answers {status}, expected the file{cure}")

    def _described(self, response: Any, url: str) -> RemoteFile:
        # Large files of the Hub are elsewhere; the answer that says so describes them.
        headers: dict[str, str] = {}
        for answer in (response, *response.history):
            headers |= {key.lower(): value for key, value in answer.headers.items()}
        tag = headers.get("x-linked-etag") or response.headers.get("ETag") or response.headers.get("Last-Modified", "")
        tag = tag.removeprefix("W/").strip('"')
        if response.status_code == 206:
            total = response.headers["Content-Range"].rpartition("/")[2]
        else:
            total = headers.get("x-linked-size") or response.headers.get("Content-Length", "")
        size = int(total) if total.isdigit() else None
        checksum = f"sha256:{tag}" if "x-linked-etag" in headers and re.fullmatch("[0-9a-f]{64}", tag) else ""
        return RemoteFile(url, size, f"{size} {tag}" if tag and size is not None else "", checksum)


def split_hub_url(url: str) -> tuple[str, str | None, str]:
    """Repository, revision and path of `hf://datasets/USER/NAME[@REVISION][/path]`.

    Raises:
        RemoteError: Another form.
    """
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?", url)
    if not match:
        raise RemoteError(f"{url}: expected hf://datasets/USER/NAME, with @REVISION and /path where needed")
    # Branches such as refs/pr/1 are written refs%2Fpr%2F1.
    return match[1], match[2] and match[2].replace("%2F", "/"), (match[3] or "").strip("/")


class HubStore(HttpStore):
    """Files of datasets on the Hugging Face Hub."""

    def find(self, url: str) -> list[RemoteFile]:
        """The files of a dataset or of a folder in it."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        repo, revision, path = split_hub_url(url)
        root = f"hf://datasets/{repo}" + (f"@{revision.replace('/', '%2F')}" if revision else "")
        try:
            tree = HfApi().list_repo_tree(repo, path or None, recursive=True, revision=revision, repo_type="dataset")
            files = [entry for entry in tree if isinstance(entry, RepoFile)]
        except EntryNotFoundError:
            return [self.stat(url)]
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(f"{url}: no such dataset, or it is private; see `hf auth login`") from error
        return [
            RemoteFile(
                f"{root}/{entry.path}",
                entry.size,
                f"{entry.size} {entry.lfs.sha256 if entry.lfs else entry.blob_id}",
                f"sha256:{entry.lfs.sha256}" if entry.lfs else "",
            )
            for entry in files
        ]

    def _address(self, url: str) -> tuple[str, dict[str, str]]:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        repo, revision, path = split_hub_url(url)
        return hf_hub_url(repo, path, repo_type="dataset", revision=revision), build_hf_headers()


def _read_index(url: str, content: bytes) -> list[str]:
    try:
        if urlsplit(url).path.endswith(".txt"):
            listed = [line.partition("#")[0].strip() for line in content.decode().splitlines()]
        else:
            listed = json.loads(content)
        if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
            raise ValueError("entries that are not texts")
    except ValueError as error:
        raise RemoteError(f"{url}: not an index ({error}); expected a list of addresses") from None
    return [urljoin(url, entry) for entry in listed if entry]


def _read(response: Any, url: str) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    with response:
        try:
            while chunk := response.raw.read(CHUNK, decode_content=False):
                yield chunk
        except (HTTPError, OSError) as error:
            raise Interrupted(f"{url}: {type(error).__name__}") from error


@functools.cache
def _session(pid: int) -> Any:
    """One pool of connections per process: they do not survive a fork."""
    import requests

    return requests.Session()
