"""A corpus sent to the Hugging Face Hub, to S3 or to a folder, as it is on disk; `Corpus.open(url)` reads it there.

Only recordings whose hash differs from those in the manifest there are sent. The manifest goes last, so a reader finds
the old corpus or the new one: recordings that the old manifest does not name are sent first, those it names and that
changed come right before the new manifest (on the Hub with it, in one commit, when they fit in one), and a reader that
falls into the time between sees by the hashes that a recording is not the one its manifest means.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.corpus import Corpus
from foundation.dataset_card import dataset_card
from foundation.http_store import split_hub_url
from foundation.remote import read_bytes
from foundation.remote_corpus import MAX_JSON_BYTES
from foundation.remote_file import Interrupted, RemoteError
from foundation.stores import store_of

# One commit to the Hub takes at most so much: more makes it slow, and one that fails costs all of it.
COMMIT_RECORDINGS = 50
COMMIT_BYTES = 2_000_000_000

# Recording id -> place in the corpus -> local file.
Files = dict[str, dict[str, Path]]


@dataclass
class Pushed:
    """Recording ids that were sent, were there already, and were taken away."""

    sent: list[str]
    unchanged: list[str]
    removed: list[str]


def push(
    corpus: Corpus,
    url: str,
    *,
    private: bool = False,
    delete: bool = False,
    on_recording: Callable[[str, int, int], None] = lambda recording_id, done, total: None,
) -> Pushed:
    """Send a corpus, with a dataset card.

    Args:
        corpus: A whole corpus on disk.
        url: `hf://datasets/USER/NAME`, with the user's own login (`hf auth login`), or a folder that
            `foundation.stores` can write: `s3://bucket/path`, `file:///path`.
        private: Make a new dataset on the Hub private.
        delete: Take away the recordings there that this corpus does not have; otherwise that is an error.
        on_recording: Called after each recording with its id, the number sent and the total.

    Raises:
        ValueError: The corpus is damaged or not a local one, or would drop recordings, or the target cannot be written.
    """
    if not all((corpus.path / "recordings" / recording_id / "info.json").exists() for recording_id in corpus.ids):
        raise ValueError(f"{corpus.path}: not a corpus on disk; push the folder that `foundation prepare` made")
    url = url.rstrip("/")
    target = _Hub(url, private) if url.startswith("hf://") else _Files(url)
    old = target.entries()
    gone = sorted(set(old) - set(corpus.ids))
    if gone and not delete:
        raise ValueError(
            f"{url} holds {len(gone)} recordings that {corpus.path} does not, such as {gone[0]}; "
            "give --delete to remove them there"
        )
    differing = [key for key, entry in corpus.entries.items() if old.get(key, {}) != entry]
    # Those that no reader knows of come first.
    order = sorted(differing, key=lambda key: (key in old, key))
    result = Pushed(order, [key for key in corpus.ids if key not in set(order)], gone)
    for recording_id in order:
        corpus.verify(recording_id)
    with tempfile.TemporaryDirectory() as folder:
        card = Path(folder) / "README.md"
        card.write_text(dataset_card(corpus, url.rsplit("/", 1)[-1]))
        last = {"README.md": card, "manifest.json": corpus.path / "manifest.json"}
        new, replaced = (
            {key: _files(corpus, key) for key in order if (key in old) == known} for known in (False, True)
        )
        for done, recording_id in enumerate(target.send(new, replaced, last, gone), start=1):
            on_recording(recording_id, done, len(order))
    return result


class _Files:
    """A folder of some store."""

    def __init__(self, url: str) -> None:
        if url.startswith("http"):
            raise RemoteError(f"{url}: nothing can be written over HTTP; push to hf://datasets/..., s3:// or a folder")
        self._url, self._store = url, store_of(url)

    def entries(self) -> dict[str, Any]:
        try:
            return _entries(self._url, read_bytes(f"{self._url}/manifest.json", MAX_JSON_BYTES))
        except FileNotFoundError:
            return {}

    def send(self, new: Files, replaced: Files, last: dict[str, Path], gone: list[str]) -> Iterator[str]:
        try:
            for recording_id, files in [*new.items(), *replaced.items()]:
                if not self._has(files):
                    for name, path in files.items():
                        self._store.put(path, f"{self._url}/{name}")
                yield recording_id
            for name, path in last.items():
                self._store.put(path, f"{self._url}/{name}")
            for recording_id in gone:
                for file in self._store.find(f"{self._url}/recordings/{recording_id}"):
                    self._store.remove(file.url)
        except Interrupted as error:
            raise RemoteError(f"{error}; run again, what was sent is not sent twice") from error

    def _has(self, files: dict[str, Path]) -> bool:
        """Whether an earlier push that was stopped has sent this recording: info.json goes last."""
        name, path = list(files.items())[-1]
        try:
            return read_bytes(f"{self._url}/{name}", MAX_JSON_BYTES) == path.read_bytes()
        except (FileNotFoundError, RemoteError):
            return False


class _Hub:
    """A dataset on the Hub."""

    def __init__(self, url: str, private: bool) -> None:
        from huggingface_hub import HfApi

        self._url, self._api = url, HfApi()
        self._repo, self._revision, path = split_hub_url(url)
        if path:
            raise RemoteError(f"{url}: expected hf://datasets/USER/NAME; a corpus is a dataset of its own")
        self._private = private

    def entries(self) -> dict[str, Any]:
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

        try:
            path = self._api.hf_hub_download(self._repo, "manifest.json", repo_type="dataset", revision=self._revision)
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, though it only says that we are offline
            raise RemoteError(f"{self._url}: the Hub cannot be reached ({str(error).splitlines()[0]})") from error
        except (EntryNotFoundError, RepositoryNotFoundError):
            return {}
        return _entries(self._url, Path(path).read_bytes())

    def send(self, new: Files, replaced: Files, last: dict[str, Path], gone: list[str]) -> Iterator[str]:
        from huggingface_hub import CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        try:
            self._api.create_repo(self._repo, repo_type="dataset", private=self._private or None, exist_ok=True)
            # Those that the old manifest names too come with the new one, if they fit in one commit.
            batches = _batches(new) + _batches(replaced)
            for batch in batches[:-1]:
                self._commit(_added(batch), f"Add {len(batch)} recordings")
                yield from batch
            removed = [CommitOperationDelete(f"recordings/{key}/", is_folder=True) for key in gone]
            final = batches[-1] if batches else {}
            self._commit([*_added(final), *removed, *_added({"": last})], f"Manifest; {len(final)} recordings")
            yield from final
        except (LocalTokenNotFoundError, HfHubHTTPError) as error:
            raise RemoteError(f"{self._url}: {str(error).splitlines()[0]}; log in with `hf auth login`") from error

    def _commit(self, operations: list[Any], message: str) -> None:
        self._api.create_commit(
            self._repo, operations, commit_message=message, repo_type="dataset", revision=self._revision
        )


def _files(corpus: Corpus, recording_id: str) -> dict[str, Path]:
    """The files of a recording by their place in the corpus; info.json, which names the others, last."""
    folder = corpus.folder(recording_id)
    names = [*json.loads((folder / "info.json").read_bytes())["files"], "info.json"]
    return {f"recordings/{recording_id}/{name}": folder / name for name in names}


def _batches(recordings: Files) -> list[Files]:
    """Recordings in order, cut into what one commit takes."""
    batches: list[Files] = []
    size = 0
    for recording_id, files in recordings.items():
        more = sum(path.stat().st_size for path in files.values())
        if not batches or len(batches[-1]) == COMMIT_RECORDINGS or size + more > COMMIT_BYTES:
            batches.append({})
            size = 0
        batches[-1][recording_id] = files
        size += more
    return batches


def _added(recordings: Files) -> list[Any]:
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(name, str(path)) for files in recordings.values() for name, path in files.items()]


def _entries(url: str, content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content)["recordings"])
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteError(f"{url}/manifest.json: not a manifest ({error}); give another target, or remove it") from None
