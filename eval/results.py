"""Scores on disk: one row per session, task, model and metric, with the baseline and null it has to beat.

Knows nothing of how a score is computed (eval.metrics), averaged (eval.statistics) or shown (eval.report).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from foundation.durable import read_json, write_atomic

SCHEMA_VERSION = 2
SPLITS = ("interleaved", "temporal")
KINDS = ("model", "baseline", "null")
# First word of tasks about units, scored once per animal or once in all.
UNIT_PROBES = ("region", "cell_type", "session_identity")


def is_scratch(model: str) -> bool:
    """Whether a model, in whichever variant (behind ", "), is a network without pretraining."""
    return model.partition(", ")[0].endswith("/scratch")


def scratch_of(model: str) -> str:
    """Name of the same network and variant without pretraining."""
    name, comma, variant = model.partition(", ")
    return f"{name.rsplit('/', 1)[0]}/scratch{comma}{variant}"


# What makes a row the only one of its sort.
KEY = ("dataset", "subject", "session", "split", "fold", "task", "model", "train_trials", "draw", "seed", "metric")

_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True)
class ResultRow:
    """One score of one model on one session.

    Attributes:
        dataset: Such as "luo2025".
        subject: The animal; "all" for a score pooled over animals.
        session: The session. Scores that exist once per animal (regions) or once in all name the animal, or "pooled".
        split: "interleaved" or "temporal".
        task: Such as "encode", "cosmooth", "choice"; those of `UNIT_PROBES` are about units, not sessions.
        model: Such as "foundation/adapter", "foundation/scratch", "glm", "train mean". A name that ends in "/scratch"
            is the same network without pretraining.
        kind: "model", "baseline" or "null" (a leak meter is a null).
        train_trials: Trials of the session that the model was fitted on in the few-shot track; 0 means all.
        draw: Which random draw of few-shot trials.
        seed: Seed of the model.
        metric: Such as "bps". The first metric written for a task is its headline.
        convention: One sentence that says exactly how the metric is computed.
        value: The score, finite.
        n: Number of things scored (trials, bins, units).
        baseline: Name of the strongest baseline, by validation; "" when none applies.
        baseline_value: Its score on the same session, draw, task and metric; None when none applies.
        null: Name of the strongest null; "" when none applies.
        null_value: Its score on the same session, draw, task and metric; None when none applies.
        higher_is_better: False for losses.
        fold: Of the interleaved split. Several of a session are averaged, as draws are.
    """

    dataset: str
    subject: str
    session: str
    split: str
    task: str
    model: str
    kind: str
    train_trials: int
    draw: int
    seed: int
    metric: str
    convention: str
    value: float
    n: int
    baseline: str = ""
    baseline_value: float | None = None
    null: str = ""
    null_value: float | None = None
    higher_is_better: bool = True
    fold: int = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """The values of `KEY`."""
        return tuple(getattr(self, name) for name in KEY)

    def validate(self) -> ResultRow:
        """Return self, or raise ValueError naming the row and the field that is wrong."""
        for name in ("dataset", "subject", "session", "task", "model", "metric", "convention"):
            if not getattr(self, name):
                self._fail(name, "an empty string", "a name (for the convention, one sentence)")
        for name, options in (("split", SPLITS), ("kind", KINDS)):
            if getattr(self, name) not in options:
                self._fail(name, repr(getattr(self, name)), f"one of {options}")
        for name in ("train_trials", "draw", "n", "fold"):
            if getattr(self, name) < 0:
                self._fail(name, getattr(self, name), "0 or more")
        if not math.isfinite(self.value):
            self._fail("value", self.value, "a finite score; leave out what cannot be scored, and say so")
        for name in ("baseline", "null"):
            value = getattr(self, f"{name}_value")
            if bool(getattr(self, name)) != (value is not None):
                self._fail(f"{name}_value", value, f"a score exactly when `{name}` is named ({getattr(self, name)!r})")
            if value is not None and not math.isfinite(value):
                self._fail(f"{name}_value", value, "a finite score")
        return self

    def _fail(self, where: str, got: Any, expected: str) -> None:
        row = " ".join(f"{name}={value}" for name, value in zip(KEY, self.key))
        raise ValueError(f"result row ({row}): {where} is {got}; expected {expected}")


def write_results(folder: str | Path, rows: Iterable[ResultRow], provenance: dict[str, Any]) -> Path:
    """Write `results.parquet` and `results.json` into a folder.

    Args:
        folder: Made when missing.
        rows: In the order in which tasks, models and metrics should be shown.
        provenance: What can be said as JSON about model, data and code; `eval.report` lists the keys it knows.

    Returns:
        The folder.

    Raises:
        ValueError: No row, a row that breaks a rule, or two rows with one key.
    """
    folder, rows = Path(folder), [row.validate() for row in rows]
    if not rows:
        raise ValueError(f"{folder}: no result row; expected at least one")
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        if row.key in seen:
            row._fail("key", "there twice", "one row per key; give repeats another draw or seed")
        seen.add(row.key)
    schema = pa.schema([(f.name, _ARROW[str(f.type).removesuffix(" | None")]) for f in fields(ResultRow)])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([plain(row) for row in rows], schema=schema), sink)
    document = {
        "schema_version": SCHEMA_VERSION,
        "num_rows": len(rows),
        "parquet_sha256": hashlib.sha256(sink.getvalue()).hexdigest(),
        "provenance": provenance,
    }
    # The rows first: a reader that meets the new rows with the old document sees it by the hash.
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / "results.parquet", sink.getvalue())
    write_atomic(folder / "results.json", text.encode())
    return folder


def read_results(folder: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what `write_results` wrote.

    Returns:
        One row per score with the columns of `ResultRow` (missing baseline and null values are NaN), and the
        provenance.

    Raises:
        ValueError: A file is missing, of another schema version, or the two do not belong together.
    """
    folder = Path(folder)
    document = read_json(folder / "results.json", cure=f"run the evaluation into {folder}")
    try:
        data = (folder / "results.parquet").read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: not found; run the evaluation into {folder}") from None
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{folder / 'results.json'}: schema version {document.get('schema_version')!r}, this library reads "
            f"{SCHEMA_VERSION}; run the evaluation again"
        )
    if hashlib.sha256(data).hexdigest() != document.get("parquet_sha256"):
        raise ValueError(f"{folder / 'results.parquet'}: hash differs from results.json; run the evaluation again")
    provenance = document.get("provenance")
    if not isinstance(provenance, dict):
        raise ValueError(f"{folder / 'results.json'}: no object 'provenance'; run the evaluation again")
    return pq.read_table(io.BytesIO(data)).to_pandas(), provenance


def plain(row: ResultRow) -> dict[str, Any]:
    """The row with Python numbers in place of NumPy's, which Arrow would refuse or widen and JSON does not know."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in asdict(row).items()}
