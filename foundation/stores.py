"""Remote files where they are: over HTTP, on the Hugging Face Hub, in S3, and wherever fsspec looks; keeps no copy.

https://host/file.nwb                 one file; nobody can list an HTTP folder, so several are given as an index:
https://host/index.txt                one address a line, relative to the index or whole; # starts a comment
https://host/index.json               a list of addresses, or of {"url", "size", "version", "sha256"}
hf://datasets/USER/NAME[@REVISION]/path   the Hub, with the login of `hf auth login` where there is one
s3://bucket/path                      anonymous; with the user's AWS credentials where that is refused
memory://, file://, gs:// ...         what the installed fsspec opens
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

CHUNK = 1 << 20
TIMEOUT_S = (10, 60)


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


def is_url(path: str) -> bool:
    """Whether it is an address rather than a local path."""
    return "://" in path


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
                f"{url}: an HTTP folder cannot be listed; give a file, or an index .txt or .json of files"
            )
        if not path.endswith((".txt", ".json")):
            return [self.stat(url)]
        content = b"".join(self.chunks(self.stat(url), 0)[1])
        entries = _index_entries(url, content)
        for entry in entries:
            if urlsplit(entry.url).scheme not in ("http", "https"):
                raise RemoteError(f"{url}: names {entry.url!r}; an index over HTTP may only name HTTP addresses")
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda e: e if e.size is not None and e.version else self._filled(e), entries))

    def _filled(self, entry: RemoteFile) -> RemoteFile:
        return replace(self.stat(entry.url), checksum=entry.checksum)

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
        raise RemoteError(f"{url}: files cannot be written over HTTP; push to hf://, s3:// or a folder")

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

        repo, revision, path = split_hub_url(url)
        root = f"hf://datasets/{repo}" + (f"@{revision.replace('/', '%2F')}" if revision else "")
        try:
            tree = HfApi().list_repo_tree(repo, path or None, recursive=True, revision=revision, repo_type="dataset")
            files = [entry for entry in tree if hasattr(entry, "blob_id")]
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

    def put(self, local: Path, url: str) -> None:
        """Not one by one: the Hub takes commits; see `foundation.push`."""
        raise RemoteError(f"{url}: use `foundation push`")

    def _address(self, url: str) -> tuple[str, dict[str, str]]:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        repo, revision, path = split_hub_url(url)
        address = hf_hub_url(repo, path, repo_type="dataset", revision=revision, endpoint=constants.ENDPOINT)
        return address, build_hf_headers()


class S3Store:
    """Objects in S3."""

    def find(self, url: str) -> list[RemoteFile]:
        """The objects below a prefix, or the one object."""
        bucket, key = _split_s3(url)
        prefix = f"{key.rstrip('/')}/" if key else ""

        def pages(client: Any) -> list[RemoteFile]:
            listed = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            objects = [entry for page in listed for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
            return [RemoteFile(f"s3://{bucket}/{o['Key']}", o["Size"], _s3_version(o["Size"], o)) for o in objects]

        found: list[RemoteFile] = self._call(url, pages)
        return found or [self.stat(url)]

    def stat(self, url: str) -> RemoteFile:
        """One object, by HEAD."""
        bucket, key = _split_s3(url)
        head = self._call(url, lambda client: client.head_object(Bucket=bucket, Key=key))
        tag = head["ETag"].strip('"')
        # The tag of an object in one piece is its MD5, but for keys of KMS.
        is_md5 = re.fullmatch("[0-9a-f]{32}", tag) and "kms" not in head.get("ServerSideEncryption", "")
        size = int(head["ContentLength"])
        return RemoteFile(url, size, _s3_version(size, head), f"md5:{tag}" if is_md5 else "")

    def chunks(self, file: RemoteFile, start: int) -> tuple[int, Iterator[bytes]]:
        """See `Store`."""
        bucket, key = _split_s3(file.url)
        ranges = {"Range": f"bytes={start}-"} if start else {}
        answer = self._call(file.url, lambda client: client.get_object(Bucket=bucket, Key=key, **ranges))
        if file.version.split()[-1:] != [answer["ETag"].strip('"')]:
            answer["Body"].close()
            raise Changed(f"{file.url}: changed while it was read; run again")
        return start if "ContentRange" in answer else 0, _read_s3(answer["Body"], file.url)

    def put(self, local: Path, url: str) -> None:
        """Write an object, in parts when large."""
        bucket, key = _split_s3(url)
        self._call(url, lambda client: client.upload_file(str(local), bucket, key), signed=True)

    def _call(self, url: str, action: Callable[[Any], Any], signed: bool = False) -> Any:
        import botocore.exceptions as errors

        try:
            return action(_s3_client(os.getpid(), signed))
        except errors.NoCredentialsError as error:
            raise RemoteError(f"{url}: not public, and no AWS credentials were found (`aws configure`)") from error
        except errors.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status in (401, 403) and not signed:
                return self._call(url, action, signed=True)
            if status == 404:
                raise FileNotFoundError(f"{url}: not found in S3") from error
            if status == 416:
                raise Changed(f"{url}: became shorter while it was read; run again") from error
            if status == 429 or status >= 500:
                raise Interrupted(f"{url}: {error}") from error
            raise RemoteError(f"{url}: {error}") from error
        except errors.HTTPClientError as error:
            raise Interrupted(f"{url}: {error}") from error
        except errors.BotoCoreError as error:
            raise RemoteError(f"{url}: {error}") from error


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
        return [self._described(self._fs.unstrip_protocol(name), info) for name, info in sorted(found.items())]

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

    def _described(self, url: str, info: dict[str, Any]) -> RemoteFile:
        if info.get("type") == "directory":
            raise FileNotFoundError(f"{url}: a folder, expected a file")
        tags = (
            info.get(key) for key in ("etag", "ETag", "md5Hash", "mtime", "last_modified", "LastModified", "created")
        )
        tag = next((str(tag) for tag in tags if tag), "")
        return RemoteFile(url, info["size"], f"{info['size']} {tag}" if tag else "")


def _index_entries(url: str, content: bytes) -> list[RemoteFile]:
    try:
        if urlsplit(url).path.endswith(".txt"):
            lines = [line.partition("#")[0].strip() for line in content.decode().splitlines()]
            return [RemoteFile(urljoin(url, line), None, "") for line in lines if line]
        entries = json.loads(content)
        if not isinstance(entries, list):
            raise ValueError(f"got a {type(entries).__name__}")
        entries = [{"url": entry} if isinstance(entry, str) else dict(entry) for entry in entries]
        return [
            RemoteFile(
                urljoin(url, str(entry["url"])),
                int(entry["size"]) if "size" in entry else None,
                str(entry.get("version", "")),
                f"sha256:{entry['sha256']}" if "sha256" in entry else "",
            )
            for entry in entries
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise RemoteError(
            f"{url}: not an index ({error}); expected a list of addresses, see foundation.stores"
        ) from None


def _read(response: Any, url: str) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    with response:
        try:
            while chunk := response.raw.read(CHUNK, decode_content=False):
                yield chunk
        except (HTTPError, OSError) as error:
            raise Interrupted(f"{url}: {type(error).__name__}") from error


def _read_s3(body: Any, url: str) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError, HTTPClientError
    from urllib3.exceptions import HTTPError

    try:
        while chunk := body.read(CHUNK):
            yield chunk
    except (BotoCoreError, HTTPClientError, HTTPError, OSError) as error:
        raise Interrupted(f"{url}: {type(error).__name__}") from error
    finally:
        body.close()


def _split_s3(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise RemoteError(f"{url}: expected s3://bucket/path")
    return bucket, key


def _s3_version(size: int, answer: dict[str, Any]) -> str:
    return f"{size} " + answer["ETag"].strip('"')


@functools.cache
def _session(pid: int) -> Any:
    """One pool of connections per process: they do not survive a fork."""
    import requests

    return requests.Session()


@functools.cache
def _s3_client(pid: int, signed: bool) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(retries={"max_attempts": 3, "mode": "standard"}, connect_timeout=10, read_timeout=60)
    return boto3.client("s3", config=config if signed else config.merge(Config(signature_version=UNSIGNED)))
