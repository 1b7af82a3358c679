"""Sources behind URLs: listed, downloaded whole, continued after a break, refused when they changed or came damaged."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import numpy as np
import pytest

from data_recipes.sources import list_files, local_file
from foundation import remote, s3_store
from foundation.http_store import HubStore, split_hub_url
from foundation.remote import download
from foundation.remote_file import RemoteError
from foundation.stores import store_of

CONTENT = np.random.default_rng(0).bytes(3_000_001)


class FileServer:
    """A web server on this machine that can misbehave.

    Attributes:
        files: Content by path.
        requests: (method, path, range) of each request.
        cuts: Each of the next answers breaks off after so many bytes.
        statuses: Each of the next answers is only this status.
        on_get: Called before each GET with its number.
        ranges: Whether the server knows ranges.
        heads: Whether it answers HEAD.
        tags: Whether it gives an ETag.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.on_get: Callable[[int], None] = lambda number: None
        self.ranges = self.heads = self.tags = True
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                owner.answer(self)

            def do_GET(self) -> None:
                owner.on_get(sum(method == "GET" for method, _, _ in owner.requests))
                owner.answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path, asked = unquote(urlsplit(handler.path).path), handler.headers.get("Range", "")
        self.requests.append((handler.command, path, asked))
        if handler.command == "GET" and self.statuses:
            self.refuse(handler, self.statuses.pop(0))
            return
        if path not in self.files or (handler.command == "HEAD" and not self.heads):
            self.refuse(handler, 404 if path not in self.files else 405)
            return
        content, start = self.files[path], 0
        body = content
        if asked and self.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first)
            body = content[start : int(last) + 1 if last else None]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        if self.tags:
            handler.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            if self.cuts:
                body = body[: self.cuts.pop(0)]
                handler.close_connection = True
            handler.wfile.write(body)

    def refuse(self, handler: http.server.BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def gets(self, path: str) -> list[str]:
        return [asked for method, where, asked in self.requests if (method, where) == ("GET", path)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "WAIT_S", 0.001)
    made = FileServer()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads go that are not kept."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(remote.tempfile, "tempdir", str(folder))
    monkeypatch.delenv("FOUNDATION_CACHE", raising=False)
    return folder


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_local_files_are_listed_and_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.nwb", "a.nwb", ".hidden.nwb", "c.txt", "sub/d.nwb"):
        (tmp_path / name).write_bytes(b"12")
    assert [file.name for file in list_files(str(tmp_path), (".nwb",))] == ["a.nwb", "b.nwb", "d.nwb"]
    assert [file.name for file in list_files(str(tmp_path), (".nwb",), recursive=False)] == ["a.nwb", "b.nwb"]
    (one,) = list_files(str(tmp_path / "a.nwb"), (".nwb",))
    assert (one.size, one.stem) == (2, "a")
    os.utime(tmp_path / "a.nwb", (1, 1))
    assert list_files(str(tmp_path / "a.nwb"), (".nwb",))[0].version != one.version
    with local_file(one.path, one.version) as path:
        assert path == tmp_path / "a.nwb"
    assert path.exists()
    with pytest.raises(ValueError, match=r"expected a folder or a file that ends in \.nwb"):
        list_files(str(tmp_path / "c.txt"), (".nwb",))


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_folders_of_fsspec(scheme: str, tmp_path: Path, scratch: Path) -> None:
    root = f"memory://{tmp_path.name}" if scheme == "memory" else f"file://{tmp_path}/data"
    fs, path = fsspec.core.url_to_fs(root)
    for name in ("b.nwb", "a.nwb", ".hidden.nwb", "c.txt", "sub/d e.nwb"):
        fs.makedirs(f"{path}/sub", exist_ok=True)
        fs.pipe_file(f"{path}/{name}", CONTENT[: 1000 + len(name)])
    files = list_files(root, (".nwb",))
    assert [(file.name, file.size) for file in files] == [("a.nwb", 1005), ("b.nwb", 1005), ("d e.nwb", 1011)]
    assert [file.name for file in list_files(root, (".nwb",), recursive=False)] == ["a.nwb", "b.nwb"]
    assert list_files(f"{root}/a.nwb", (".nwb",)) == files[:1]
    for file in files:
        with local_file(file.path, file.version) as local:
            assert local.name == file.name
            assert local.read_bytes() == CONTENT[: file.size]
        assert not local.exists()
    assert left_in(scratch) == []
    fs.pipe_file(f"{path}/a.nwb", b"another")
    with pytest.raises(ValueError, match="changed since it was listed"), local_file(files[0].path, files[0].version):
        pass
    with pytest.raises(FileNotFoundError):
        list_files(f"{root}/nothing", (".nwb",))
    with pytest.raises(ValueError, match="holds no file that ends in"):
        list_files(root, (".h5",))


def test_http_one_file_and_an_index(server: FileServer) -> None:
    server.files = {
        "/d/a b.nwb": b"aa",
        "/d/c.nwb": b"ccc",
        "/d/index.txt": b"# two sessions\na%20b.nwb\nc.nwb  # the second\nnotes.txt\n",
        "/d/notes.txt": b"",
        "/list.json": json.dumps(["d/c.nwb", f"{server.url}/d/a%20b.nwb"]).encode(),
    }
    (one,) = list_files(f"{server.url}/d/a%20b.nwb", (".nwb",))
    assert (one.name, one.size, one.stem) == ("a b.nwb", 2, "a b")
    for index in ("d/index.txt", "list.json"):
        files = list_files(f"{server.url}/{index}", (".nwb",))
        assert [file.name for file in files] == ["a b.nwb", "c.nwb"]
        assert files[0] == one
    with local_file(one.path, one.version) as local:
        assert local.read_bytes() == b"aa"
        assert local.name == "a b.nwb"
    with pytest.raises(ValueError, match="an HTTP folder cannot be listed; give a file, or a list"):
        list_files(f"{server.url}/d/", (".nwb",))
    for bad in (b"{", b'{"a": 1}', b"[1]", b'["file:///etc/passwd"]'):
        server.files["/bad.json"] = bad
        with pytest.raises(RemoteError, match=r"bad\.json"):
            list_files(f"{server.url}/bad.json", (".nwb",))
    with pytest.raises(FileNotFoundError):
        list_files(f"{server.url}/d/x.nwb", (".nwb",))


def test_a_broken_connection_goes_on_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    server.files = {"/a": CONTENT}
    server.cuts = [1_200_000, 700_000]
    server.statuses = [503]
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    ranges = server.gets("/a")
    assert ranges[:2] == ["", ""]
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in ranges[2:]]
    assert len(starts) == 2
    assert 0 < starts[0] <= 1_200_000 < starts[1] <= 1_900_000 or starts[0] < starts[1]
    assert left_in(tmp_path) == ["a"]


def test_a_killed_download_is_continued_by_the_next_process(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"/a": CONTENT}
    server.cuts = [2_000_000]
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with pytest.raises(RemoteError, match="no success in 1 attempts"):
        download(f"{server.url}/a", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (part,) = tmp_path.glob(".a.*.part")
    size = part.stat().st_size
    assert size > 500_000
    download(f"{server.url}/a", tmp_path / "a")
    assert server.gets("/a")[-1] == f"bytes={size}-"
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_file_that_changes_between_two_attempts_starts_anew(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"/a": CONTENT}
    server.cuts = [2_000_000]
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with pytest.raises(RemoteError):
        download(f"{server.url}/a", tmp_path / "a")
    server.files["/a"] = CONTENT[::-1]
    download(f"{server.url}/a", tmp_path / "a")
    assert server.gets("/a")[-1] == ""
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]
    assert left_in(tmp_path) == ["a"]


def test_a_file_that_changes_during_the_download(server: FileServer, tmp_path: Path) -> None:
    """Between asking for its version and its bytes, and between two pieces."""
    other = CONTENT[::-1]
    (listed,) = list_files(f"{server.url}/a", ("a",)) if server.files.update({"/a": CONTENT}) is None else ()

    def change(number: int) -> None:
        if number == 1:
            server.files["/a"] = other

    server.on_get = change
    server.cuts = [1_000_000]
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == other
    with pytest.raises(RemoteError, match="changed since it was listed"):
        download(f"{server.url}/a", tmp_path / "b", version=listed.version)


def test_a_server_without_ranges(server: FileServer, tmp_path: Path) -> None:
    server.files, server.ranges = {"/a": CONTENT}, False
    server.cuts = [2_000_000, 2_500_000]
    download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(server.gets("/a")) == 3


def test_a_server_without_head_or_tags(server: FileServer, tmp_path: Path) -> None:
    """Without a tag nothing tells whether the file is the same, so nothing is continued."""
    server.files, server.heads, server.tags = {"/a": CONTENT}, False, False
    server.cuts = [2_000_000]
    found = download(f"{server.url}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (found.size, found.version) == (len(CONTENT), "")
    assert not any(asked.startswith("bytes=1") or asked.startswith("bytes=2") for asked in server.gets("/a"))


def test_wrong_content_is_refused_and_not_kept(server: FileServer, tmp_path: Path) -> None:
    server.files = {"/a": CONTENT}
    sha = hashlib.sha256(CONTENT).hexdigest()
    download(f"{server.url}/a", tmp_path / "a", checksum=f"sha256:{sha}")
    with pytest.raises(RemoteError, match=r"sha256 is .*, expected 0000"):
        download(f"{server.url}/a", tmp_path / "b", checksum="sha256:" + "0" * 64)
    assert left_in(tmp_path) == ["a"]


@pytest.mark.parametrize(("status", "error"), [(404, FileNotFoundError), (403, RemoteError), (401, RemoteError)])
def test_errors_of_the_server(server: FileServer, tmp_path: Path, status: int, error: type[Exception]) -> None:
    server.files = {"/a": b"x"}
    server.statuses = [status]
    with pytest.raises(error, match="/a"):
        download(f"{server.url}/a", tmp_path / "a")


def test_no_room_is_said_before_the_download(server: FileServer, tmp_path: Path, monkeypatch: Any) -> None:
    server.files = {"/a": CONTENT}
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(RemoteError, match="make room"):
        download(f"{server.url}/a", tmp_path / "a")
    assert server.gets("/a") == []


def test_a_cache_folder_keeps_what_came(
    server: FileServer, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"/a.nwb": CONTENT}
    (file,) = list_files(f"{server.url}/a.nwb", (".nwb",))
    for _ in range(2):
        with local_file(file.path, file.version):
            pass
    assert len(server.gets("/a.nwb")) == 2
    assert left_in(scratch) == []
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        with local_file(file.path, file.version) as local:
            assert local.read_bytes() == CONTENT
        assert local.exists()
    assert len(server.gets("/a.nwb")) == 3
    server.files["/a.nwb"] = b"new"
    (new,) = list_files(f"{server.url}/a.nwb", (".nwb",))
    with local_file(new.path, new.version) as other:
        assert other.read_bytes() == b"new"
        assert local.read_bytes() == CONTENT


def test_threads_that_want_one_file_get_it_one_after_the_other(server: FileServer, scratch: Path) -> None:
    server.files = {"/a.nwb": CONTENT}
    (file,) = list_files(f"{server.url}/a.nwb", (".nwb",))
    good: list[bool] = []

    def use() -> None:
        with local_file(file.path, file.version) as local:
            time.sleep(0.02)
            good.append(local.read_bytes() == CONTENT)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 3
    assert left_in(scratch) == []


class FakeS3(FileServer):
    """The few calls of S3 that are used; private buckets want a signature."""

    private = False

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        if self.private and "Authorization" not in handler.headers:
            self.send(handler, 403, b"<Error><Code>AccessDenied</Code></Error>")
        elif handler.command == "PUT":
            body = handler.rfile.read(int(handler.headers["Content-Length"]))
            if "aws-chunked" in handler.headers.get("Content-Encoding", ""):
                length, _, rest = body.partition(b"\r\n")
                body = rest[: int(length.split(b";")[0], 16)]
            self.files[unquote(parts.path)] = body
            self.send(handler, 200, b"", {"ETag": '"x"'})
        elif "list-type" in query:
            prefix = query["prefix"][0]
            keys = sorted(key for key in self.files if key.startswith(f"{parts.path.rstrip('/')}/{prefix}"))
            listed = "".join(
                f"<Contents><Key>{key.removeprefix('/bucket/')}</Key><Size>{len(self.files[key])}</Size>"
                f'<ETag>"{hashlib.md5(self.files[key]).hexdigest()}"</ETag></Contents>'
                for key in keys
            )
            space = "http://s3.amazonaws.com/doc/2006-03-01/"
            self.send(handler, 200, f"<ListBucketResult xmlns='{space}'>{listed}</ListBucketResult>".encode())
        else:
            super().answer(handler)

    def send(self, handler: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        handler.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeS3]:
    made = FakeS3()
    monkeypatch.setattr(remote, "WAIT_S", 0.001)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", made.url)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    s3_store._s3_client.cache_clear()
    handler = made._server.RequestHandlerClass
    monkeypatch.setattr(handler, "do_PUT", lambda self: made.answer(self), raising=False)
    yield made
    s3_store._s3_client.cache_clear()
    made.close()


def test_s3_is_read_anonymously_and_continued(s3: FakeS3, tmp_path: Path) -> None:
    s3.files = {"/bucket/d/a.nwb": CONTENT, "/bucket/d/sub/b.nwb": b"b", "/bucket/dd/c.nwb": b"c"}
    files = list_files("s3://bucket/d", (".nwb",))
    assert [(file.path, file.size) for file in files] == [
        ("s3://bucket/d/a.nwb", len(CONTENT)),
        ("s3://bucket/d/sub/b.nwb", 1),
    ]
    assert [file.name for file in list_files("s3://bucket/d", (".nwb",), recursive=False)] == ["a.nwb"]
    assert list_files("s3://bucket/d/a.nwb", (".nwb",)) == files[:1]
    s3.cuts = [2_000_000]
    with local_file(files[0].path, files[0].version) as local:
        assert local.read_bytes() == CONTENT
    assert s3.gets("/bucket/d/a.nwb")[-1].startswith("bytes=")
    s3.files["/bucket/d/a.nwb"] = b"another"
    with pytest.raises(RemoteError, match="changed"), local_file(files[0].path, files[0].version):
        pass
    with pytest.raises(FileNotFoundError):
        list_files("s3://bucket/nothing", (".nwb",))


def test_s3_checks_the_content(s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ETag of an object in one piece is its MD5; a bit that flips on the way is seen."""
    s3.files = {"/bucket/a": CONTENT}
    true_md5 = hashlib.md5

    def flipped(content: bytes) -> Any:
        return true_md5(content[:-1] + b"?")

    monkeypatch.setattr(hashlib, "md5", flipped)
    with pytest.raises(RemoteError, match="md5 is"):
        download("s3://bucket/a", tmp_path / "a")


def test_s3_that_is_not_public_needs_credentials(s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.files, s3.private = {"/bucket/a": CONTENT}, True
    with pytest.raises(RemoteError, match="aws configure"):
        download("s3://bucket/a", tmp_path / "a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    s3_store._s3_client.cache_clear()
    download("s3://bucket/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    (tmp_path / "b").write_bytes(b"12345")
    store_of("s3://bucket/b").put(tmp_path / "b", "s3://bucket/x/b")
    assert s3.files["/bucket/x/b"] == b"12345"


def test_hub_addresses(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert split_hub_url("hf://datasets/u/n") == ("u/n", None, "")
    assert split_hub_url("hf://datasets/u/n@refs%2Fpr%2F1/a/b.nwb") == ("u/n", "refs/pr/1", "a/b.nwb")
    for bad in ("hf://u/n", "hf://datasets/u", "hf://spaces/u/n/x"):
        with pytest.raises(RemoteError, match="expected hf://datasets/USER/NAME"):
            split_hub_url(bad)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    server.files = {"/datasets/u/n/resolve/main/a b.nwb": CONTENT}
    server.cuts = [1_500_000]
    assert isinstance(store_of("hf://datasets/u/n"), HubStore)
    download("hf://datasets/u/n/a b.nwb", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_unknown_kinds_of_address_are_refused() -> None:
    for url in ("gopher://x/y", "no such://x"):
        with pytest.raises(ValueError, match=re.escape(url)):
            list_files(url, (".nwb",))
