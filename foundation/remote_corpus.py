"""Recordings of a corpus behind a URL, fetched one by one into a local cache when first asked for; parses no recording.

Nothing that comes is trusted: names must be plain, and every file must have the hash that the manifest gives through
`info.json`. In the cache a recording is a folder named after that hash, which appears whole and never changes, so runs
of different versions of a corpus share it, and it may be deleted when no run uses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from foundation.claims import claim
from foundation.http_store import split_hub_url
from foundation.remote import cache_folder, download, read_bytes
from foundation.remote_file import RemoteError

# Far above any real one: 459 sessions make a manifest of 80 KB.
MAX_JSON_BYTES = 64 << 20
MAX_FILES = 10_000
AT_ONCE = 4

_NAME = re.compile(r"[^\s/\\.][^\s/\\]{0,254}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteCorpus:
    """Where a corpus is and where its recordings are kept; holds no connection, so it may be copied to workers.

    Attributes:
        url: The corpus; on the Hub with the commit, so that what is read belongs together.
        folder: Local folder that holds its manifest.
        recordings: Local folder of the recordings.
    """

    url: str
    folder: Path
    recordings: Path

    @classmethod
    def open(cls, url: str) -> RemoteCorpus:
        """Fetch the manifest.

        Raises:
            RemoteError: No manifest there, or not one.
        """
        name, cache = re.sub(r"[^\w-]+", "_", url.rstrip("/").split("/")[-1])[:60], cache_folder()
        url = _pinned(url.rstrip("/"))
        try:
            content = read_bytes(f"{url}/manifest.json", MAX_JSON_BYTES)
        except FileNotFoundError as error:
            raise RemoteError(f"{url}: no corpus here ({error}); see `foundation push`") from error
        entries = _parsed(f"{url}/manifest.json", content).get("recordings")
        for recording_id, entry in entries.items() if isinstance(entries, dict) else [("", None)]:
            parts = recording_id.split("/")
            if not (
                len(parts) == 2
                and all(map(_is_plain, parts))
                and isinstance(entry, dict)
                and isinstance(entry.get("subject_id"), str)
                and _SHA256.fullmatch(str(entry.get("info_sha256")))
            ):
                raise RemoteError(f"{url}/manifest.json: entry {recording_id!r} is not one of a corpus; refused")
        folder = cache / "corpora" / f"{name}-{hashlib.sha256(content).hexdigest()[:20]}"
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".manifest-{os.getpid()}"
        scratch.write_bytes(content)
        os.replace(scratch, folder / "manifest.json")
        return cls(url, folder, cache / "recordings")

    def fetch(self, recording_id: str, info_sha256: str) -> Path:
        """The local folder of a recording, downloaded when it is not there yet; several processes may ask at once.

        Raises:
            RemoteError: What is there differs from the manifest, or has names that no corpus has.
        """
        target = self.recordings / recording_id / info_sha256[:20]
        place = quote(recording_id) if self.url.startswith("http") else recording_id
        if target.exists():
            return target
        with claim(self.recordings.parent / "claims", f"{recording_id}/{info_sha256[:20]}", poll_s=0.1) as held:
            if not target.exists():
                self._download(f"{self.url}/recordings/{place}", target, info_sha256)
            held.done()
        return target

    def _download(self, url: str, target: Path, info_sha256: str) -> None:
        # The name is the same for whoever comes next, who goes on where a killed process stopped.
        scratch = target.with_name(f".{target.name}")
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            content = read_bytes(f"{url}/info.json", MAX_JSON_BYTES)
        except FileNotFoundError as error:
            raise RemoteError(f"{url}/info.json: missing, but the manifest names it; push the corpus again") from error
        if hashlib.sha256(content).hexdigest() != info_sha256:
            raise RemoteError(
                f"{url}/info.json: hash differs from the manifest. If the corpus was pushed anew meanwhile, open it "
                "again; otherwise it is damaged, push it again"
            )
        files = _parsed(f"{url}/info.json", content).get("files")
        if not isinstance(files, dict) or not 0 < len(files) <= MAX_FILES:
            raise RemoteError(f"{url}/info.json: 'files' is not a list of files; refused")
        for name, digest in files.items():
            if not _is_plain(name) or name == "info.json" or not _SHA256.fullmatch(str(digest)):
                raise RemoteError(f"{url}/info.json: file {name!r} is not a plain name with a hash; refused")

        def get(name: str) -> None:
            if not (scratch / name).exists():
                try:
                    download(f"{url}/{name}", scratch / name, checksum=f"sha256:{files[name]}")
                except FileNotFoundError as error:
                    raise RemoteError(f"{url}/{name}: missing, though info.json names it; push again") from error

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(get, files))
        (scratch / "info.json").write_bytes(content)
        os.replace(scratch, target)


def _pinned(url: str) -> str:
    """The URL of this very commit on the Hub; other URLs as they are."""
    if not url.startswith("hf://"):
        return url
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repo, revision, path = split_hub_url(url)
    try:
        commit = HfApi().repo_info(repo, repo_type="dataset", revision=revision).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise RemoteError(f"{url}: no such dataset or revision, or it is private; see `hf auth login`") from error
    except Exception as error:  # of whichever HTTP library the installed version uses
        raise RemoteError(f"{url}: the Hub cannot be reached ({type(error).__name__}: {error})") from error
    return f"hf://datasets/{repo}@{commit}" + (f"/{path}" if path else "")


def _is_plain(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and ".." not in name and name.isprintable()


def _parsed(url: str, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"{url}: not readable as JSON ({error}); push the corpus again") from None
    if not isinstance(document, dict):
        raise RemoteError(f"{url}: got a {type(document).__name__}, expected a JSON object; push the corpus again")
    return document
