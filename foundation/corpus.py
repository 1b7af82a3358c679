"""A folder of recordings: written atomically, checked by hash, memory-mapped, opened by `datasets.load_dataset`.

    corpus/
      manifest.json                          schema version, and for each recording its folder and the hash of its info
      recordings/<dataset>/<session>/
        info.json                            identity, covariate specs, and the hash of every other file
        spikes.arrow                         time_s float64, unit int32 (Arrow IPC, uncompressed, one batch)
        units.parquet trials.parquet domain.parquet
        covariate-<name>.arrow               time_s, value, observed; trial-scope values are nullable trial columns

It does not know how recordings are made (data_recipes) or used (sampling).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from foundation.recording import Covariate, CovariateSpec, Recording, RecordingError, RecordingInfo

SCHEMA_VERSION = 1


class CorpusError(ValueError):
    """A corpus on disk that cannot be trusted; the message names the file and the cure."""


class Corpus:
    """The recordings of a folder, opened when asked for and never before a fork.

    Iterating yields `Recording`s. A `Corpus` holds only paths, so it is cheap to copy into worker processes.
    """

    def __init__(self, path: Path, entries: dict[str, dict[str, str]]) -> None:
        self.path = path
        self._entries = entries

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Corpus:
        """Open a corpus folder.

        Args:
            path: Folder that holds `manifest.json`.
            verify: Also hash every file and compare; reads everything once.

        Raises:
            CorpusError: Missing or malformed manifest, other schema version, or (with `verify`) a changed file.
        """
        path = Path(path)
        manifest = _read_json(path / "manifest.json", cure="run `foundation prepare` into this folder")
        _check_schema(path / "manifest.json", manifest)
        entries = manifest.get("recordings")
        if not isinstance(entries, dict):
            raise CorpusError(f"{path / 'manifest.json'}: 'recordings' is missing; prepare the corpus again")
        corpus = cls(path, dict(sorted(entries.items())))
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
        return _sha256(self.path / "manifest.json")

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
        """The folder of a recording."""
        if recording_id not in self._entries:
            near = [key for key in self.ids if recording_id.split("/")[-1][:4] in key][:3] or self.ids[:3]
            raise CorpusError(f"{self.path}: no recording {recording_id!r}; there are {len(self)}, such as {near}")
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
        return Corpus(self.path, {key: entry for key, entry in self._entries.items() if key in keep})

    def verify(self, recording_id: str) -> None:
        """Compare every file of a recording with its recorded hash.

        Raises:
            CorpusError: A file is missing, or differs from what was written.
        """
        folder = self.folder(recording_id)
        if _sha256(folder / "info.json") != self._entries[recording_id]["info_sha256"]:
            raise CorpusError(f"{folder / 'info.json'}: hash differs from the manifest; prepare this recording again")
        for name, digest in _read_json(folder / "info.json")["files"].items():
            if not (folder / name).exists():
                raise CorpusError(f"{folder / name}: missing; prepare this recording again")
            if _sha256(folder / name) != digest:
                raise CorpusError(f"{folder / name}: hash differs from info.json; prepare this recording again")


def write_manifest(path: str | Path) -> Corpus:
    """Write `manifest.json` from the recordings that are complete in the folder, and open the corpus."""
    path = Path(path)
    entries = {}
    for info_path in sorted((path / "recordings").glob("*/*/info.json")):
        if info_path.parent.name.startswith("."):
            # What a killed process was writing or taking away.
            continue
        recording_id = f"{info_path.parent.parent.name}/{info_path.parent.name}"
        info = _read_json(info_path)
        _check_schema(info_path, info)
        entries[recording_id] = {"subject_id": info["info"]["subject_id"], "info_sha256": _sha256(info_path)}
    write_atomic(path / "manifest.json", _dump({"schema_version": SCHEMA_VERSION, "recordings": entries}))
    return Corpus.open(path)


def write_recording(root: str | Path, recording: Recording, *, overwrite: bool = False) -> Path:
    """Validate a recording and put it into a corpus folder, whole or not at all.

    Args:
        root: The corpus folder; `write_manifest` makes the recording visible.
        recording: What to write.
        overwrite: Replace a recording of the same id; otherwise that is an error.

    Raises:
        RecordingError: The recording breaks the format.
        CorpusError: It exists already.
    """
    recording.validate()
    target = Path(root) / "recordings" / recording.info.recording_id
    if target.exists() and not overwrite:
        raise CorpusError(f"{target}: exists; pass overwrite=True to replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkdtemp: that folder would be closed to everyone else in the lab.
    unique = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    scratch, old = target.parent / f".writing-{unique}", target.parent / f".old-{unique}"
    scratch.mkdir()
    try:
        _write_files(scratch, recording)
        if target.exists():
            # A folder cannot be replaced in one step; out of the way whole, so that a kill leaves no half of it.
            os.replace(target, old)
        os.replace(scratch, target)
        _fsync(target.parent)
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def read_recording(folder: str | Path) -> Recording:
    """Open one recording folder, memory-mapped and validated.

    Raises:
        CorpusError: A file is missing or cannot be read.
        RecordingError: The content breaks the format.
    """
    folder = Path(folder)
    raw = _read_json(folder / "info.json", cure="prepare this recording again")
    _check_schema(folder / "info.json", raw)
    try:
        info = RecordingInfo(**raw["info"])
        specs = [CovariateSpec(**spec) for spec in raw["covariates"]]
        trials = pq.read_table(folder / "trials.parquet")
        spikes = _map_arrow(folder / "spikes.arrow")
        covariates = {spec.name: _read_covariate(folder, spec, trials) for spec in specs}
        recording = Recording(
            info=info,
            spike_times=spikes["time_s"],
            spike_units=spikes["unit"],
            units=pq.read_table(folder / "units.parquet").to_pandas(),
            trials=trials.drop_columns([s.name for s in specs if s.scope == "trial"]).to_pandas(),
            domain=pq.read_table(folder / "domain.parquet").to_pandas().to_numpy(dtype=float),
            covariates=covariates,
        )
    except (KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise CorpusError(f"{folder}: cannot be read ({error}); prepare this recording again") from error
    try:
        return recording.validate()
    except RecordingError as error:
        raise RecordingError(f"{folder}: {error}") from None


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
    _fsync(path.parent)


def _write_files(folder: Path, r: Recording) -> None:
    trials = pa.Table.from_pandas(r.trials, preserve_index=False)
    for c in r.covariates.values():
        if c.times is None:
            trials = trials.append_column(c.spec.name, pa.array(c.values, mask=~c.observed))
            continue
        columns: dict[str, Any] = {"time_s": np.asarray(c.times, np.float64)}
        if c.spec.kind != "event":
            flat = pa.array(np.ascontiguousarray(c.values).reshape(-1))
            columns["value"] = flat if c.spec.dim == 1 else pa.FixedSizeListArray.from_arrays(flat, c.spec.dim)
            columns["observed"] = c.observed.astype(np.uint8)
        _write_arrow(folder / f"covariate-{c.spec.name}.arrow", columns)
    spikes = {"time_s": np.asarray(r.spike_times, np.float64), "unit": np.asarray(r.spike_units, np.int32)}
    _write_arrow(folder / "spikes.arrow", spikes)
    pq.write_table(trials, folder / "trials.parquet")
    pq.write_table(pa.Table.from_pandas(r.units, preserve_index=False), folder / "units.parquet")
    domain = pd.DataFrame(r.domain, columns=["start_s", "stop_s"])
    pq.write_table(pa.Table.from_pandas(domain, preserve_index=False), folder / "domain.parquet")
    for path in folder.iterdir():
        _fsync(path)
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    document = {
        "schema_version": SCHEMA_VERSION,
        "info": asdict(r.info),
        "num_units": r.num_units,
        "num_spikes": len(r.spike_times),
        "duration_s": r.duration_s,
        "covariates": [asdict(c.spec) for c in r.covariates.values()],
        "files": files,
    }
    write_atomic(folder / "info.json", _dump(document))


def _read_covariate(folder: Path, spec: CovariateSpec, trials: pa.Table) -> Covariate:
    if spec.scope == "trial":
        column = trials.column(spec.name).combine_chunks()
        observed = np.asarray(column.is_valid())
        dtype = np.float32 if spec.kind == "continuous" else np.int64
        values = np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False), dtype=dtype)
        return Covariate(spec, values, observed)
    columns = _map_arrow(folder / f"covariate-{spec.name}.arrow")
    if spec.kind == "event":
        return Covariate(spec, np.zeros(0, np.float32), np.zeros(0, bool), columns["time_s"])
    values = columns["value"] if spec.dim == 1 else columns["value"].reshape(-1, spec.dim)
    return Covariate(spec, values, columns["observed"].astype(bool), columns["time_s"])


def _write_arrow(path: Path, columns: dict[str, Any]) -> None:
    table = pa.table(columns).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))


def _map_arrow(path: Path) -> dict[str, np.ndarray]:
    """The columns of an Arrow file as NumPy views of the page cache (list columns flattened)."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    arrays = {}
    for name in table.column_names:
        chunks = table.column(name).chunks
        if len(chunks) > 1:
            raise pa.ArrowInvalid(f"{path}: column {name} is split into {len(chunks)} batches, expected 1")
        array = chunks[0] if chunks else pa.array([], table.schema.field(name).type)
        arrays[name] = (array.flatten() if pa.types.is_fixed_size_list(array.type) else array).to_numpy()
    return arrays


def _check_schema(path: Path, document: dict[str, Any]) -> None:
    if document.get("schema_version") != SCHEMA_VERSION:
        raise CorpusError(
            f"{path}: schema version {document.get('schema_version')!r}, this library reads {SCHEMA_VERSION}; "
            "prepare the corpus again"
        )


def _read_json(path: Path, cure: str = "prepare the corpus again") -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorpusError(f"{path}: not found; {cure}") from None
    except (ValueError, OSError) as error:
        raise CorpusError(f"{path}: not readable as JSON ({error}); {cure}") from None
    if not isinstance(document, dict):
        raise CorpusError(f"{path}: got a {type(document).__name__}, expected a JSON object; {cure}")
    return document


def _dump(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error}); prepare this recording again") from None


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
