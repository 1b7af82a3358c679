"""One recording as a folder: written whole or not at all, checked by hash, memory-mapped.

    info.json                              identity, covariate specs, and the hash of every other file
    spikes.arrow                           time_s float64, unit int32 (Arrow IPC, uncompressed, one batch)
    units.parquet trials.parquet domain.parquet
    covariate-<name>.arrow                 time_s, value, observed; trial-scope values are nullable trial columns

`foundation.corpus` keeps many of them.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from foundation.durable import CorpusError, dump_json, fsync, read_json, sha256_of, write_atomic
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingError, RecordingInfo

SCHEMA_VERSION = 1


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
        fsync(target.parent)
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
    raw = read_json(folder / "info.json", cure="prepare this recording again")
    check_schema(folder / "info.json", raw)
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
        return recording.validate()
    except RecordingError as error:
        raise RecordingError(f"{folder}: {error}") from None
    except Exception as error:  # what Arrow and pandas raise for content that is not ours has no limits
        raise CorpusError(
            f"{folder}: cannot be read ({type(error).__name__}: {error}); prepare this recording again"
        ) from error


def check_schema(path: Path, document: dict[str, Any]) -> None:
    """Raise CorpusError when a document was not written in this schema."""
    if document.get("schema_version") != SCHEMA_VERSION:
        raise CorpusError(
            f"{path}: schema version {document.get('schema_version')!r}, this library reads {SCHEMA_VERSION}; "
            "prepare the corpus again"
        )


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
        fsync(path)
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    document = {
        "schema_version": SCHEMA_VERSION,
        "info": asdict(r.info),
        "num_units": r.num_units,
        "num_spikes": len(r.spike_times),
        "duration_s": r.duration_s,
        "covariates": [asdict(c.spec) for c in r.covariates.values()],
        "files": files,
    }
    write_atomic(folder / "info.json", dump_json(document))


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
