"""A corpus behind a URL: pushed whole, fetched one recording at a time, refused when anything is not what it says."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import yaml

from foundation import push as push_module
from foundation import remote, remote_corpus
from foundation.corpus import Corpus, write_manifest
from foundation.dataset_card import dataset_card
from foundation.push import push
from foundation.recording import Recording
from foundation.recording_folder import write_recording
from foundation.remote_file import RemoteError

Tiny = Callable[..., Recording]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAIT_S", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def corpus(tiny_recording: Tiny, tmp_path: Path) -> Corpus:
    """Three recordings of two animals."""
    for seed, (session, subject) in enumerate((("a1", "a"), ("a2", "a"), ("b1", "b"))):
        write_recording(tmp_path / "local", tiny_recording(session, subject, seed))
    return write_manifest(tmp_path / "local")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/x" if request.param == "memory" else f"file://{tmp_path}/far/x"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Address of a plain web server (no ranges) over `tmp_path / "www"`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def same(a: Recording, b: Recording) -> bool:
    return a.info == b.info and np.array_equal(a.spike_times, b.spike_times) and a.trials.equals(b.trials)


def fetched(cache: Path) -> list[str]:
    return sorted(f"{p.parts[-4]}/{p.parts[-3]}" for p in (cache / "recordings").glob("*/*/*/info.json"))


def files_at(url: str) -> set[str]:
    fs, path = fsspec.core.url_to_fs(url)
    return {name.removeprefix(path).lstrip("/") for name in fs.find(path)}


def test_pushed_and_read_one_by_one(corpus: Corpus, url: str, cache: Path) -> None:
    pushed = push(corpus, url)
    assert (len(pushed.sent), pushed.unchanged, pushed.removed) == (3, [], [])
    far = Corpus.open(url)
    assert far.ids == corpus.ids
    assert far.subjects == corpus.subjects
    assert far.manifest_sha256 == corpus.manifest_sha256
    assert fetched(cache) == []
    assert same(far["tiny/a2"], corpus["tiny/a2"])
    assert fetched(cache) == ["tiny/a2"]
    assert all(same(recording, corpus[recording.info.recording_id]) for recording in far.select(subjects=["a"]))
    assert fetched(cache) == ["tiny/a1", "tiny/a2"]
    Corpus.open(url, verify=True)
    assert [p for p in cache.rglob("*") if p.name.endswith(".part") or p.name.startswith(".")] == []
    assert not far["tiny/a1"].spike_times.flags.owndata  # a memory map, as for a local corpus


def test_a_recording_is_fetched_once_and_needs_no_network_then(corpus: Corpus, url: str) -> None:
    push(corpus, url)
    far = Corpus.open(url)
    first = far["tiny/a1"].spike_times.copy()
    fs, path = fsspec.core.url_to_fs(url)
    fs.rm(path, recursive=True)
    assert np.array_equal(far["tiny/a1"].spike_times, first)
    with pytest.raises(RemoteError, match=r"info\.json: missing, but the manifest names it"):
        far["tiny/a2"]


def test_only_what_changed_is_sent(corpus: Corpus, tiny_recording: Tiny, url: str, monkeypatch: Any) -> None:
    push(corpus, url)
    assert push(corpus, url).sent == []
    old = Corpus.open(url)
    write_recording(corpus.path, tiny_recording("a2", "a", 9), overwrite=True)
    write_recording(corpus.path, tiny_recording("c1", "c", 4))
    changed = write_manifest(corpus.path)
    pushed = push(changed, url)
    assert (pushed.sent, pushed.unchanged) == (["tiny/c1", "tiny/a2"], ["tiny/a1", "tiny/b1"])
    new = Corpus.open(url)
    assert all(same(recording, changed[recording.info.recording_id]) for recording in new)
    # A reader of the old manifest still gets what it names, or is told.
    assert same(old["tiny/b1"], corpus["tiny/b1"])
    with pytest.raises(RemoteError, match=r"hash differs from the manifest\. If the corpus was pushed anew"):
        old["tiny/a2"]


def test_the_manifest_goes_last(corpus: Corpus, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that breaks anywhere leaves no corpus, or the old one; the next one sends only what is missing."""
    store = type(remote.store_of(url))
    put, sent = store.put, []

    def break_at(number: int) -> None:
        def breaking(self: Any, local: Path, where: str) -> None:
            if len(sent) == number:
                raise OSError("the line is dead")
            sent.append(where)
            put(self, local, where)

        monkeypatch.setattr(store, "put", breaking)

    per_recording = len(list((corpus.path / "recordings/tiny/a1").iterdir()))
    for number in (0, 3, per_recording + 2, 3 * per_recording + 1):
        where = f"{url}/{number}"
        sent.clear()
        break_at(number)
        with pytest.raises(OSError, match="the line is dead"):
            push(corpus, where)
        with pytest.raises(RemoteError, match="no corpus here"):
            Corpus.open(where)
        sent.clear()
        break_at(-1)
        push(corpus, where)
        assert sent[-1] == f"{where}/manifest.json"
        assert len(sent) == (3 - number // per_recording) * per_recording + 2
        assert len(Corpus.open(where, verify=True)) == 3


def test_recordings_are_dropped_only_when_asked(corpus: Corpus, url: str) -> None:
    push(corpus, url)
    shutil.rmtree(corpus.path / "recordings/tiny/b1")
    smaller = write_manifest(corpus.path)
    with pytest.raises(ValueError, match=r"holds 1 recordings that .* such as tiny/b1; give --delete"):
        push(smaller, url)
    assert len(Corpus.open(url)) == 3
    assert push(smaller, url, delete=True).removed == ["tiny/b1"]
    assert Corpus.open(url).ids == ["tiny/a1", "tiny/a2"]
    assert not any("b1" in name for name in files_at(url))


def test_nothing_of_the_machine_travels(corpus: Corpus, url: str) -> None:
    (corpus.path / "recordings/tiny/a1/prepared.json").write_text('{"arguments": {"path": "/home/me"}}')
    push(corpus, url)
    assert not any("prepared" in name or "claims" in name for name in files_at(url))


def test_a_damaged_corpus_is_not_pushed(corpus: Corpus, url: str) -> None:
    path = corpus.path / "recordings/tiny/b1/spikes.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"spikes\.arrow: hash differs"):
        push(corpus, url)
    assert files_at(url) == set()


def test_a_part_of_a_remote_corpus_cannot_be_pushed(corpus: Corpus, url: str) -> None:
    push(corpus, url)
    with pytest.raises(ValueError, match="not a corpus on disk"):
        push(Corpus.open(url), f"{url}-again")


def damaged(corpus: Corpus, www: Path, change: Callable[[Path], None]) -> None:
    """Serve a corpus whose files are changed so that all hashes above the change still agree."""
    shutil.rmtree(www, ignore_errors=True)
    shutil.copytree(corpus.path, www)
    change(www / "recordings/tiny/a1")


def rehash(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change info.json, and the manifest with it, as whoever owns the repository can."""
    info = json.loads((folder / "info.json").read_text())
    change(info)
    (folder / "info.json").write_text(json.dumps(info))
    manifest = json.loads((folder.parents[2] / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "info.json").read_bytes()).hexdigest()
    manifest["recordings"]["tiny/a1"]["info_sha256"] = digest
    (folder.parents[2] / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..\\x", ".hidden", "a/b", "", "x" * 300, "a\x00b", "info.json"])
def test_names_that_would_leave_the_folder_are_refused(
    corpus: Corpus, web: str, tmp_path: Path, cache: Path, name: str
) -> None:
    def change(folder: Path) -> None:
        rehash(folder, lambda info: info["files"].update({name: "0" * 64}))

    damaged(corpus, tmp_path / "www", change)
    before = {path for path in tmp_path.rglob("*") if cache not in path.parents and path != cache}
    with pytest.raises(RemoteError, match="not a plain name with a hash; refused"):
        Corpus.open(web)["tiny/a1"]
    assert {path for path in tmp_path.rglob("*") if cache not in path.parents and path != cache} == before


@pytest.mark.parametrize("recording_id", ["../../x/y", "..", "a/../b", "/etc/x", "a/.b", "a/b/c", "b c/d", ""])
def test_ids_that_would_leave_the_cache_are_refused(
    corpus: Corpus, web: str, tmp_path: Path, recording_id: str
) -> None:
    def change(folder: Path) -> None:
        manifest = json.loads((folder.parents[2] / "manifest.json").read_text())
        manifest["recordings"][recording_id] = manifest["recordings"]["tiny/a1"]
        (folder.parents[2] / "manifest.json").write_text(json.dumps(manifest))

    damaged(corpus, tmp_path / "www", change)
    with pytest.raises(RemoteError, match="is not one of a corpus; refused"):
        Corpus.open(web)


def bad_byte(folder: Path) -> None:
    content = bytearray((folder / "spikes.arrow").read_bytes())
    content[-10] ^= 1
    (folder / "spikes.arrow").write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad_byte, r"spikes\.arrow: sha256 is"),
        (lambda folder: (folder / "spikes.arrow").unlink(), r"spikes\.arrow: missing, but info\.json names it|again"),
        (lambda folder: (folder / "info.json").write_text("{}"), r"info\.json: hash differs from the manifest"),
        (lambda folder: (folder / "info.json").unlink(), r"info\.json: missing"),
        (lambda folder: rehash(folder, lambda info: info.pop("files")), "'files' is not a list of files"),
        (lambda folder: rehash(folder, lambda info: info.update(files={"x": "sha"})), "not a plain name with a hash"),
        (lambda folder: rehash(folder, lambda info: info.update(schema_version=9)), "schema version 9"),
    ],
)
def test_other_content_is_refused(
    corpus: Corpus, web: str, tmp_path: Path, cache: Path, change: Callable[[Path], None], message: str
) -> None:
    damaged(corpus, tmp_path / "www", change)
    far = Corpus.open(web)
    with pytest.raises(ValueError, match=message):
        far["tiny/a1"]
    assert same(far["tiny/b1"], corpus["tiny/b1"])
    # Put right, it is read, without an open of anything else again.
    if "schema" not in message and "list" not in message and "plain" not in message:
        damaged(corpus, tmp_path / "www", lambda folder: None)
        assert same(far["tiny/a1"], corpus["tiny/a1"])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"recordings": 3}', '{"recordings": {"a/b": 3}}', "[" * 99999]
)
def test_a_manifest_that_is_none_is_refused(web: str, tmp_path: Path, content: str) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/manifest.json").write_text(content)
    with pytest.raises(RemoteError, match=r"manifest\.json"):
        Corpus.open(web)


def test_an_absurdly_large_manifest_is_not_downloaded(web: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/manifest.json").write_bytes(b"x" * 2000)
    monkeypatch.setattr(remote_corpus, "MAX_JSON_BYTES", 1000)
    with pytest.raises(RemoteError, match="2000 bytes, expected at most 1000"):
        Corpus.open(web)


def test_a_broken_fetch_goes_on(corpus: Corpus, web: str, tmp_path: Path, monkeypatch: Any) -> None:
    """What had come whole is not fetched again, by whichever process comes next."""
    damaged(corpus, tmp_path / "www", lambda folder: (folder / "units.parquet").rename(folder / "away"))
    far = Corpus.open(web)
    with pytest.raises(RemoteError, match=r"units\.parquet: missing"):
        far["tiny/a1"]
    folder = tmp_path / "www/recordings/tiny/a1"
    (folder / "away").rename(folder / "units.parquet")
    asked: list[str] = []
    download = remote.download

    def counted(address: str, *arguments: Any, **options: Any) -> Any:
        asked.append(address.rsplit("/", 1)[-1])
        return download(address, *arguments, **options)

    monkeypatch.setattr(remote_corpus, "download", counted)
    assert same(far["tiny/a1"], corpus["tiny/a1"])
    assert asked == ["units.parquet"]


READ_ALL = """
import pickle, sys
corpus = pickle.load(sys.stdin.buffer)
print([int(recording.spike_units.sum()) for recording in corpus])
"""


def test_processes_that_ask_at_once_fetch_each_recording_once(
    corpus: Corpus, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Counting(http.server.SimpleHTTPRequestHandler):
        def log_message(self, template: str, *arguments: Any) -> None:
            if self.command == "GET":
                asked.append(self.path)

    handler = functools.partial(Counting, directory=str(corpus.path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    far = Corpus.open(f"http://127.0.0.1:{server.server_port}")
    content = pickle.dumps(far)
    assert len(content) < 10_000
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READ_ALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ
        )
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write(content)
        reader.stdin.close()
    expected = str([int(recording.spike_units.sum()) for recording in corpus])
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.read().decode().strip() == expected
        assert reader.wait(timeout=60) == 0
    server.shutdown()
    server.server_close()
    spikes = sorted(path for path in asked if path.endswith("spikes.arrow"))
    assert spikes == [f"/recordings/tiny/{name}/spikes.arrow" for name in ("a1", "a2", "b1")]
    assert [path for path in (cache / "claims").rglob("*") if path.is_file()] == []


class FakeApi:
    """The Hub as far as `HfApi` shows it: files by repository, and the commits that made them."""

    repositories: dict[str, dict[str, bytes]] = {}  # noqa: RUF012 one Hub for all clients
    commits: list[list[str]] = []  # noqa: RUF012
    folder: Path

    def create_repo(self, repo: str, *, repo_type: str, private: bool | None, exist_ok: bool) -> None:
        assert (repo_type, exist_ok) == ("dataset", True)
        self.repositories.setdefault(repo, {".gitattributes": b""})

    def hf_hub_download(self, repo: str, name: str, *, repo_type: str, revision: str | None) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        if name not in self.repositories.get(repo, {}):
            raise EntryNotFoundError("404")
        path = self.folder / "downloaded"
        path.write_bytes(self.repositories[repo][name])
        return str(path)

    def create_commit(
        self, repo: str, operations: list[Any], *, commit_message: str, repo_type: str, revision: str | None
    ) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        assert commit_message
        assert repo_type == "dataset"
        files = self.repositories[repo]
        for operation in operations:
            if isinstance(operation, CommitOperationAdd):
                with operation.as_file() as file:
                    files[operation.path_in_repo] = file.read()
            else:
                assert isinstance(operation, CommitOperationDelete)
                assert operation.is_folder
                for name in [name for name in files if name.startswith(operation.path_in_repo)]:
                    del files[name]
        self.commits.append([operation.path_in_repo for operation in operations])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    import huggingface_hub

    FakeApi.repositories, FakeApi.commits, FakeApi.folder = {}, [], tmp_path
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return FakeApi


def test_the_hub_gets_commits_of_whole_recordings(
    corpus: Corpus, tiny_recording: Tiny, hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "COMMIT_RECORDINGS", 2)
    push(corpus, "hf://datasets/me/rats")
    files = hub.repositories["me/rats"]
    assert [len({name.split("/")[2] for name in commit if "/" in name}) for commit in hub.commits] == [2, 1]
    assert hub.commits[-1][-2:] == ["README.md", "manifest.json"]
    assert not any("manifest" in name for commit in hub.commits[:-1] for name in commit)
    for path in (corpus.path / "recordings").rglob("*.*"):
        assert files[str(path.relative_to(corpus.path))] == path.read_bytes()
    assert push(corpus, "hf://datasets/me/rats").sent == []

    # One that changed comes with the manifest that names it: readers of the main branch see old or new.
    write_recording(corpus.path, tiny_recording("a2", "a", 9), overwrite=True)
    for name in ("c1", "c2", "c3"):
        write_recording(corpus.path, tiny_recording(name, "c", 3))
    shutil.rmtree(corpus.path / "recordings/tiny/b1")
    hub.commits.clear()
    pushed = push(write_manifest(corpus.path), "hf://datasets/me/rats", delete=True)
    assert pushed.sent == ["tiny/c1", "tiny/c2", "tiny/c3", "tiny/a2"]
    whole = [[name.split("/")[2] for name in commit if name.endswith("info.json")] for commit in hub.commits]
    assert whole == [["c1", "c2"], ["c3"], ["a2"]]
    assert {"recordings/tiny/b1/", "recordings/tiny/a2/info.json", "manifest.json"} <= set(hub.commits[-1])
    assert not any("/b1/" in name for name in files)


def test_commits_are_limited_in_bytes_too(corpus: Corpus, hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "COMMIT_BYTES", 1)
    push(corpus, "hf://datasets/me/rats")
    assert len(hub.commits) == 3


def test_the_hub_wants_a_dataset_of_its_own(corpus: Corpus, hub: type[FakeApi]) -> None:
    for bad in ("hf://me/rats", "hf://datasets/rats", "hf://datasets/me/rats/folder"):
        with pytest.raises(RemoteError, match="expected hf://datasets/USER/NAME"):
            push(corpus, bad)
    assert hub.commits == []


def test_a_corpus_on_the_hub_is_read_at_one_commit(
    corpus: Corpus, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class Api:
        def repo_info(self, repo: str, *, repo_type: str, revision: str | None) -> Any:
            assert (repo, repo_type, revision) == ("me/rats", "dataset", None)
            return type("Info", (), {"sha": "c0ffee"})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    template = web + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    shutil.copytree(corpus.path, tmp_path / "www/datasets/me/rats/resolve/c0ffee")
    far = Corpus.open("hf://datasets/me/rats")
    assert all(same(recording, corpus[recording.info.recording_id]) for recording in far)
    assert far.path.name.startswith("rats-")


def test_the_card_says_what_there_is(corpus: Corpus, tiny_recording: Tiny) -> None:
    text = dataset_card(corpus, "rats")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "other"
    assert "state no licence" in text
    assert {config["config_name"] for config in front["configs"]} == {"units", "trials"}
    hours = sum(recording.duration_s for recording in corpus) / 3600
    spikes = sum(len(recording.spike_times) for recording in corpus)
    assert f"| tiny | 2 | 3 | {hours:.1f} | 9 | {spikes} |" in text


def test_datasets_opens_what_was_pushed(
    corpus: Corpus, tiny_recording: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the configurations of the card, also where recordings have other columns."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    def load(name: str) -> Any:
        return datasets.load_dataset(str(tmp_path / "far"), name, cache_dir=str(tmp_path / "hf"))["train"]

    push(corpus, f"file://{tmp_path}/far")
    assert load("units")["unit_id"][:] == [name for r in corpus for name in r.units["unit_id"]]
    spikes = datasets.load_dataset(
        "arrow", data_files=f"{tmp_path}/far/recordings/*/*/spikes.arrow", cache_dir=str(tmp_path / "hf")
    )["train"].with_format("arrow")[:]
    assert np.array_equal(spikes["time_s"].to_numpy(), np.concatenate([r.spike_times for r in corpus]))
    assert load("trials").num_rows == 120
    other = tiny_recording("z1", "z", 5)
    other.trials["light"] = True
    write_recording(corpus.path, other)
    push(write_manifest(corpus.path), f"file://{tmp_path}/far")
    assert load("trials-tiny").num_rows == 120
    assert load("trials-tiny-2").column_names[-8:].count("light") == 1
    assert load("units").num_rows == 12
