"""A folder of recordings with a manifest, here or behind a URL; `datasets.load_dataset` opens its files.

    corpus/
      manifest.json                          schema version, and for each recording its folder and the hash of its info
      recordings/<dataset>/<session>/        see `foundation.recording_folder`

It does not know how recordings are made (data_recipes) or used (sampling).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from foundation.durable import CorpusError, dump_json, read_json, sha256_of, write_atomic
from foundation.recording import Recording
from foundation.recording_folder import SCHEMA_VERSION, check_schema, read_recording
from foundation.remote_corpus import RemoteCorpus
from foundation.remote_file import is_url


class Corpus:
    """The recordings of a folder, opened when asked for and never before a fork.

    Iterating yields `Recording`s. A `Corpus` holds only paths, so it is cheap to copy into worker processes.
    """

    def __init__(self, path: Path, entries: dict[str, dict[str, str]], remote: RemoteCorpus | None = None) -> None:
        self.path = path
        self._entries = entries
        self._remote = remote

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Corpus:
        """Open a corpus folder, or a corpus behind a URL, whose recordings are fetched when first asked for.

        Args:
            path: Folder that holds `manifest.json`, or its URL, such as "hf://datasets/USER/NAME".
            verify: Also hash every file and compare; reads everything once.

        Raises:
            CorpusError: Missing or malformed manifest, other schema version, or (with `verify`) a changed file.
        """
        remote = RemoteCorpus.open(str(path)) if is_url(str(path)) else None
        path = Path(path) if remote is None else remote.folder
        manifest = read_json(path / "manifest.json", cure="run `foundation prepare` into this folder")
        check_schema(path / "manifest.json", manifest)
        entries = manifest.get("recordings")
        if not isinstance(entries, dict):
            raise CorpusError(f"{path / 'manifest.json'}: 'recordings' is missing; prepare the corpus again")
        for recording_id, entry in entries.items():
            fields = [entry.get(key) for key in ("subject_id", "info_sha256")] if isinstance(entry, dict) else [None]
            if not all(isinstance(value, str) for value in fields):
                raise CorpusError(f"{path / 'manifest.json'}: entry {recording_id!r} is {entry!r}; prepare it again")
        corpus = cls(path, dict(sorted(entries.items())), remote)
        if verify:
            for recording_id in corpus.ids:
                corpus.verify(recording_id)
        return corpus

    @property
    def ids(self) -> list[str]:
        """Recording ids, sorted."""
        return list(self._entries)

    @property
    def entries(self) -> dict[str, dict[str, str]]:
        """The manifest's entry of each recording id."""
        return dict(self._entries)

    @property
    def manifest_sha256(self) -> str:
        """Hash of the manifest, and through it of every byte of the corpus."""
        return sha256_of(self.path / "manifest.json")

    @property
    def subjects(self) -> dict[str, str]:
        """The animal of each recording id."""
        return {key: entry["subject_id"] for key, entry in self._entries.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Recording]:
        return (self[recording_id] for recording_id in self.ids)

    def __getitem__(self, recording_id: str) -> Recording:
        """Open one recording, memory-mapped and validated."""
        return read_recording(self.folder(recording_id))

    def folder(self, recording_id: str) -> Path:
        """The local folder of a recording."""
        if recording_id not in self._entries:
            near = [key for key in self.ids if recording_id.split("/")[-1][:4] in key][:3] or self.ids[:3]
            raise CorpusError(f"{self.path}: no recording {recording_id!r}; there are {len(self)}, such as {near}")
        if self._remote is not None:
            return self._remote.fetch(recording_id, self._entries[recording_id]["info_sha256"])
        return self.path / "recordings" / recording_id

    def select(self, subjects: list[str] | None = None, recordings: list[str] | None = None) -> Corpus:
        """The part of the corpus with these animals (and these recordings); an unknown name is an error."""
        for name, wanted, known in (
            ("subject", subjects, set(self.subjects.values())),
            ("recording", recordings, set(self.ids)),
        ):
            if unknown := sorted(set(wanted or ()) - known):
                raise CorpusError(f"{self.path}: no {name} {unknown}; there are {sorted(known)[:12]}")
        return self.restrict(
            {
                key
                for key, entry in self._entries.items()
                if (subjects is None or entry["subject_id"] in subjects) and (recordings is None or key in recordings)
            }
        )

    def restrict(self, keep: set[str]) -> Corpus:
        """The part of the corpus with these recordings; ids that it does not have are left alone."""
        return Corpus(self.path, {key: entry for key, entry in self._entries.items() if key in keep}, self._remote)

    def verify(self, recording_id: str) -> None:
        """Compare every file of a recording with its recorded hash.

        Raises:
            CorpusError: A file is missing, or differs from what was written.
        """
        folder = self.folder(recording_id)
        if sha256_of(folder / "info.json") != self._entries[recording_id]["info_sha256"]:
            raise CorpusError(f"{folder / 'info.json'}: hash differs from the manifest; prepare this recording again")
        files = read_json(folder / "info.json").get("files")
        if not isinstance(files, dict):
            raise CorpusError(f"{folder / 'info.json'}: 'files' is {files!r}; prepare this recording again")
        for name, digest in files.items():
            if not (folder / name).exists():
                raise CorpusError(f"{folder / name}: missing; prepare this recording again")
            if sha256_of(folder / name) != digest:
                raise CorpusError(f"{folder / name}: hash differs from info.json; prepare this recording again")


def write_manifest(path: str | Path) -> Corpus:
    """Write `manifest.json` from the recordings that are complete in the folder, and open the corpus."""
    path = Path(path)
    entries: dict[str, dict[str, str]] = {}
    # Also those of the old manifest: the list of a folder may be a minute old on a network file system.
    listed = {*(path / "recordings").glob("*/*/info.json"), *_listed_before(path)}
    for info_path in sorted(p for p in listed if p.exists()):
        if info_path.parent.name.startswith("."):
            # What a killed process was writing or taking away.
            continue
        recording_id = f"{info_path.parent.parent.name}/{info_path.parent.name}"
        info = read_json(info_path)
        check_schema(info_path, info)
        try:
            subject = info["info"]["subject_id"]
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{info_path}: names no subject ({error!r}); prepare this recording again") from None
        entries[recording_id] = {"subject_id": subject, "info_sha256": sha256_of(info_path)}
    write_atomic(path / "manifest.json", dump_json({"schema_version": SCHEMA_VERSION, "recordings": entries}))
    return Corpus.open(path)


def _listed_before(path: Path) -> list[Path]:
    try:
        entries = read_json(path / "manifest.json")["recordings"]
        return [path / "recordings" / recording_id / "info.json" for recording_id in entries]
    except (CorpusError, KeyError, TypeError):
        return []
