"""What the report draws beside scores: single trials, PSTHs, decoded traces, embeddings, confusions, in one `.npz`.

Schema of `examples.npz` (no pickled objects). Entries count from 0 without gaps; strings are unicode arrays.

    trials<i>.session .subject .model ()    trials<i>.bin_size_s ()     trials<i>.units (U,)   trials<i>.condition (R,)
    trials<i>.counts (R, T, U)              recorded spikes per bin, NaN past the end of the trial
    trials<i>.rates (R, T, U)               predicted expected spikes per bin, NaN past the end of the trial
    trials<i>.trace_names (C,)              decoded covariates with their unit, such as "evidence (clicks)"
    trials<i>.traces (C, 2, R, T)           true, predicted; NaN past the end of the trial
    failure<i>.<as trials>, .baseline () .baseline_rates (R, T, U) .note ()     where a model fails, beside a baseline
    embedding<i>.name () .points (P, 3) .label_names (L,)   and   embedding<i>.label<k> (P,) numbers or strings
    confusion<i>.name () .classes (K,) .counts (K, K)       rows: true class, columns: predicted class
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundation.array_file import ArrayFile
from foundation.durable import write_atomic

FILE_NAME = "examples.npz"


@dataclass(frozen=True)
class TrialExample:
    """Some test trials of one session: R trials of up to T bins, U units, C decoded covariates.

    Attributes:
        session: Name.
        subject: The animal.
        model: Which model predicted.
        bin_size_s: Seconds.
        units: `(U,)` names; pick a few.
        condition: `(R,)` label of each trial, such as "left".
        counts: `(R, T, U)` recorded spikes per bin, NaN past the end of the trial.
        rates: `(R, T, U)` predicted expected spikes per bin, same NaNs.
        traces: Covariate (with its unit in the name) to true and predicted values, each `(R, T)`, NaN past the end.
        baseline: Which baseline stands beside the model; "" where none does.
        baseline_rates: `(R, T, U)` what it predicted.
        note: Why these units are shown.
    """

    session: str
    subject: str
    model: str
    bin_size_s: float
    units: list[str]
    condition: list[str]
    counts: np.ndarray
    rates: np.ndarray
    traces: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    baseline: str = ""
    baseline_rates: np.ndarray | None = None
    note: str = ""

    def __post_init__(self) -> None:
        """Reject arrays that do not fit together."""
        shape = np.shape(self.counts)
        expected = (len(self.condition), shape[1] if len(shape) == 3 else 0, len(self.units))
        if shape != expected or np.shape(self.rates) != expected:
            raise ValueError(
                f"example {self.session}: counts {shape} and rates {np.shape(self.rates)}; expected (R, T, U) with "
                f"R = {expected[0]} conditions and U = {expected[2]} unit names"
            )
        if 0 in expected or np.isnan(self.counts).all():
            raise ValueError(f"example {self.session}: counts {shape} without data; leave the session out")
        if not (np.isnan(self.counts) == np.isnan(self.rates)).all():
            raise ValueError(
                f"example {self.session}: counts and rates end at different bins; put NaN at the same ones"
            )
        if self.baseline_rates is not None and np.shape(self.baseline_rates) != shape:
            raise ValueError(
                f"example {self.session}: rates of {self.baseline!r} {np.shape(self.baseline_rates)}, expected {shape}"
            )
        for name, pair in self.traces.items():
            if np.shape(pair) != (2, *expected[:2]):
                raise ValueError(
                    f"example {self.session}: trace {name!r} {np.shape(pair)}, expected {(2, *expected[:2])}"
                )


@dataclass(frozen=True)
class EmbeddingExample:
    """Points in three dimensions, with what they may be colored by.

    Attributes:
        name: What is embedded, such as "trunk states, 3 principal components".
        points: `(P, 3)` finite.
        labels: Name (with its unit) to `(P,)` numbers or strings, such as "time in trial (s)", "choice", "animal".
    """

    name: str
    points: np.ndarray
    labels: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        """Reject arrays that do not fit together."""
        points = np.asarray(self.points, dtype=float)
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
            raise ValueError(f"embedding {self.name!r}: points {points.shape}, expected (P, 3) finite numbers, P >= 1")
        for name, values in self.labels.items():
            if np.shape(values) != (len(points),):
                raise ValueError(
                    f"embedding {self.name!r}: label {name!r} {np.shape(values)}, expected ({len(points)},)"
                )
        if not self.labels:
            raise ValueError(f"embedding {self.name!r}: no label; give at least one to color the points by")


@dataclass(frozen=True)
class ConfusionExample:
    """A confusion matrix.

    Attributes:
        name: What was classified, such as "region, six classes pooled".
        classes: `(K,)` names.
        counts: `(K, K)` number of cases; rows: true class, columns: predicted class.
    """

    name: str
    classes: list[str]
    counts: np.ndarray

    def __post_init__(self) -> None:
        """Reject a matrix that does not fit its classes."""
        size = len(self.classes)
        if np.shape(self.counts) != (size, size):
            raise ValueError(f"confusion {self.name!r}: counts {np.shape(self.counts)}, expected ({size}, {size})")


@dataclass(frozen=True)
class Examples:
    """Everything in one `examples.npz`; any part may be empty."""

    trials: list[TrialExample] = field(default_factory=list)
    embeddings: list[EmbeddingExample] = field(default_factory=list)
    confusions: list[ConfusionExample] = field(default_factory=list)
    failures: list[TrialExample] = field(default_factory=list)


def write_examples(folder: str | Path, examples: Examples) -> Path:
    """Write `examples.npz` into the results folder and return its path."""
    arrays: dict[str, Any] = {}
    kinds = [("trials", t, i) for i, t in enumerate(examples.trials)]
    for kind, t, i in [*kinds, *(("failure", t, i) for i, t in enumerate(examples.failures))]:
        names = list(t.traces)
        traces = np.asarray([t.traces[name] for name in names], np.float32).reshape(-1, 2, *t.counts.shape[:2])
        parts = {"session": t.session, "subject": t.subject, "model": t.model, "bin_size_s": t.bin_size_s}
        parts |= {"units": np.array(t.units, str), "condition": np.array(t.condition, str)}
        parts |= {"counts": np.asarray(t.counts, np.float32), "rates": np.asarray(t.rates, np.float32)}
        parts |= {"trace_names": np.array(names, str), "traces": traces}
        if t.baseline_rates is not None:
            parts |= {"baseline": t.baseline, "baseline_rates": np.asarray(t.baseline_rates, np.float32)}
        arrays |= {f"{kind}{i}.{key}": value for key, value in ({**parts, "note": t.note}).items()}
    for i, e in enumerate(examples.embeddings):
        arrays[f"embedding{i}.name"] = e.name
        arrays[f"embedding{i}.points"] = np.asarray(e.points, np.float32)
        arrays[f"embedding{i}.label_names"] = np.array(list(e.labels), str)
        for k, values in enumerate(e.labels.values()):
            values = np.asarray(values)
            arrays[f"embedding{i}.label{k}"] = values if values.dtype.kind in "fiub" else values.astype(str)
    for i, c in enumerate(examples.confusions):
        arrays[f"confusion{i}.name"] = c.name
        arrays[f"confusion{i}.classes"] = np.array(c.classes, str)
        arrays[f"confusion{i}.counts"] = np.asarray(c.counts, np.int64)
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    path = Path(folder) / FILE_NAME
    write_atomic(path, sink.getvalue())
    return path


def read_examples(folder: str | Path) -> Examples:
    """Read `examples.npz` of a results folder; empty `Examples` when there is none.

    Raises:
        ValueError: The file does not follow the schema.
    """
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return Examples()
    arrays = ArrayFile(path).read()
    try:
        return Examples(
            trials=[_trial(arrays, f"trials{i}.") for i in range(_count(arrays, "trials", "session"))],
            embeddings=[_embedding(arrays, f"embedding{i}.") for i in range(_count(arrays, "embedding", "name"))],
            confusions=[_confusion(arrays, f"confusion{i}.") for i in range(_count(arrays, "confusion", "name"))],
            failures=[_trial(arrays, f"failure{i}.") for i in range(_count(arrays, "failure", "session"))],
        )
    except KeyError as error:
        raise ValueError(f"{path}: no array {error}; write it with eval.examples.write_examples") from None


def _count(arrays: dict[str, np.ndarray], kind: str, part: str) -> int:
    return sum(key.startswith(kind) and key.endswith(f".{part}") for key in arrays)


def _trial(arrays: dict[str, np.ndarray], prefix: str) -> TrialExample:
    names, traces = arrays[prefix + "trace_names"].tolist(), arrays[prefix + "traces"]
    return TrialExample(
        session=str(arrays[prefix + "session"]),
        subject=str(arrays[prefix + "subject"]),
        model=str(arrays[prefix + "model"]),
        bin_size_s=float(arrays[prefix + "bin_size_s"]),
        units=arrays[prefix + "units"].tolist(),
        condition=arrays[prefix + "condition"].tolist(),
        counts=arrays[prefix + "counts"],
        rates=arrays[prefix + "rates"],
        traces={name: (traces[k, 0], traces[k, 1]) for k, name in enumerate(names)},
        baseline=str(arrays.get(prefix + "baseline", "")),
        baseline_rates=arrays.get(prefix + "baseline_rates"),
        note=str(arrays.get(prefix + "note", "")),
    )


def _embedding(arrays: dict[str, np.ndarray], prefix: str) -> EmbeddingExample:
    names = arrays[prefix + "label_names"].tolist()
    labels = {name: arrays[f"{prefix}label{k}"] for k, name in enumerate(names)}
    return EmbeddingExample(str(arrays[prefix + "name"]), arrays[prefix + "points"], labels)


def _confusion(arrays: dict[str, np.ndarray], prefix: str) -> ConfusionExample:
    return ConfusionExample(
        str(arrays[prefix + "name"]), arrays[prefix + "classes"].tolist(), arrays[prefix + "counts"]
    )
