"""Prediction files (protocol, section 5): write, read and check them; `eval.scoring` scores them.

One `.npz` per session, task and split, without pickles, so that anyone's model can be scored.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.session_view import SessionView
from foundation.array_file import ArrayFile
from foundation.durable import write_atomic

RATE_TASKS = ("encode", "forecast", "cosmooth", "intra_region", "inter_region")
LABEL_TASKS = ("choice", "side", "feedback", "turn")
VALUE_TASKS = ("contrast",)
# A continuous behavior in time is decoded bin by bin: `evidence` of the protocol, or `decode_<covariate>`.
TRACE_PREFIX = "decode_"

# Arrays of each task's file, and their number of dimensions.
_TRACE_FIELDS = {"trial": 1, "bin": 1, "value": 1}
FIELDS: dict[str, dict[str, int]] = {
    **{task: {"trial": 1, "bin": 1, "unit": 1, "rate": 2} for task in RATE_TASKS},
    **{task: {"trial": 1, "logit": 1} for task in LABEL_TASKS},
    **{task: {"trial": 1, "value": 1} for task in VALUE_TASKS},
    "choice_t": {"trial": 1, "bin": 1, "logit": 1},
    "evidence": _TRACE_FIELDS,
    "region": {"classes": 1, "session_of_unit": 1, "unit": 1, "prob": 2},
}
_HEADER = ("task", "model", "dataset", "session", "split", "fold", "bin_ms", "track", "seed")
_OPTIONAL = ("track", "seed")


def fields_of(task: str) -> dict[str, int]:
    """Arrays of a task's file and their number of dimensions.

    Raises:
        ValueError: No such task.
    """
    if task in FIELDS:
        return FIELDS[task]
    if task.startswith(TRACE_PREFIX):
        return _TRACE_FIELDS
    raise ValueError(f"task is {task!r}, expected one of {sorted(FIELDS)} or {TRACE_PREFIX}<covariate>")


def traced(task: str) -> str | None:
    """The covariate that a task decodes bin by bin, or None."""
    return task.removeprefix(TRACE_PREFIX) if task == "evidence" or task.startswith(TRACE_PREFIX) else None


@dataclass(frozen=True)
class Prediction:
    """What one model says about one session; the content of one file.

    Attributes:
        task: A key of `FIELDS`, or `decode_<covariate>`.
        model: Name of the model.
        dataset: Dataset of the recording.
        session: Session of the recording; empty for `region`, which spans sessions.
        split: `interleaved` or `temporal`.
        fold: Of the interleaved split.
        bin_ms: Bin size in milliseconds.
        arrays: As `FIELDS` says. `trial` and `unit` are 0-based positions in the source, whatever order the model used.
        track: Which inputs the model had where a task has several, such as "E1", else "". Optional in files.
        seed: Of the model. Optional in files.
    """

    task: str
    model: str
    dataset: str
    session: str
    split: str
    fold: int
    bin_ms: float
    arrays: dict[str, np.ndarray]
    track: str = ""
    seed: int = 0

    @classmethod
    def of(cls, view: SessionView, task: str, model: str, *, track: str = "", **arrays: np.ndarray) -> Prediction:
        """A prediction with the identity of a view; `arrays` as in the file."""
        return cls(
            task,
            model,
            view.dataset,
            view.session,
            view.split,
            view.fold,
            view.bin_size_s * 1000,
            arrays,
            track,
        ).validate()

    @classmethod
    def of_rates(
        cls,
        view: SessionView,
        task: str,
        model: str,
        rate: np.ndarray,
        rows: np.ndarray,
        *,
        columns: np.ndarray | None = None,
        track: str = "",
    ) -> Prediction:
        """Expected counts per bin `(K, U)` for the rows `rows` `(R,)` bool of a view, units in the view's order.

        Args:
            view: The session.
            task: A task of rates.
            model: Name of the model.
            rate: `(K, U)`.
            rows: `(R,)` bool, K of them true.
            columns: `(U,)` which of the view's units; all of them by default.
            track: Of the task.
        """
        return cls.of(
            view,
            task,
            model,
            track=track,
            trial=view.source_row_trial[rows],
            bin=view.bin[rows],
            unit=view.unit if columns is None else view.unit[columns],
            rate=rate,
        )

    def validate(self) -> Prediction:
        """Return self, or raise ValueError naming the first array that is missing or has the wrong shape."""
        fields = fields_of(self.task)
        for name, ndim in fields.items():
            if name not in self.arrays:
                raise ValueError(f"{self.task} of {self.model!r}: array {name!r} is missing; give {fields}")
            array = self.arrays[name]
            if array.ndim != ndim:
                raise ValueError(f"{self.task} of {self.model!r}: {name} has shape {array.shape}, expected {ndim}-d")
            if name in ("trial", "bin", "unit") and not np.issubdtype(array.dtype, np.integer):
                raise ValueError(f"{self.task} of {self.model!r}: {name} is {array.dtype}, expected integers")
        rows = "unit" if self.task == "region" else "trial"
        per_row = [n for n in fields if n not in ("classes",) and not (n == "unit" and rows == "trial")]
        lengths = {name: len(self.arrays[name]) for name in per_row}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"{self.task} of {self.model!r}: lengths {lengths}, expected one length")
        columns = {"rate": "unit", "prob": "classes"}
        for name, other in columns.items():
            if name in fields and self.arrays[name].shape[1] != len(self.arrays[other]):
                raise ValueError(
                    f"{self.task} of {self.model!r}: {name} has {self.arrays[name].shape[1]} columns, "
                    f"expected one for each of {len(self.arrays[other])} in {other}"
                )
        return self


def file_name(
    session: str,
    task: str,
    split: str,
    model: str,
    seed: int | None = None,
    *,
    fold: int = 0,
    few_shot: tuple[int, int] = (0, 0),
) -> str:
    """What evaluation calls the file of a prediction in its folder `predictions`.

    Args:
        session: Of the prediction.
        task: With its track, as in result rows: "encode E2".
        split: Of the prediction.
        model: Of the prediction.
        seed: Of a model; baselines have none.
        fold: Of the prediction.
        few_shot: Train trials (0 for all) and draw.
    """
    shot = (f"-f{fold}" if fold else "") + (f"-k{few_shot[0]}-d{few_shot[1]}" if few_shot[0] else "")
    name = model.replace("/", "_").replace(" ", "_") + ("" if seed is None else f"-s{seed}")
    return f"{session}-{task.replace(' ', '')}-{split}{shot}-{name}.npz"


def write_prediction(path: str | Path, prediction: Prediction) -> None:
    """Write one `.npz` file, whole or not at all."""
    prediction.validate()
    header = {key: np.asarray(getattr(prediction, key)) for key in _HEADER}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **header, **prediction.arrays)  # type: ignore[arg-type]
    write_atomic(Path(path), buffer.getvalue())


def read_prediction(path: str | Path) -> Prediction:
    """Read and check one `.npz` file.

    Raises:
        ValueError: Not such a file, a pickled array, or a field that is missing or malformed.
    """
    content = ArrayFile(path).read()
    needed = [key for key in _HEADER if key not in _OPTIONAL]
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(f"{path}: {missing} missing, expected the 0-d fields {needed}")
    head = {key: content.pop(key) for key in _HEADER if key in content}
    try:
        return Prediction(
            task=str(head["task"]),
            model=str(head["model"]),
            dataset=str(head["dataset"]),
            session=str(head["session"]),
            split=str(head["split"]),
            fold=int(head["fold"]),
            bin_ms=float(head["bin_ms"]),
            arrays=content,
            track=str(head.get("track", "")),
            seed=int(head.get("seed", 0)),
        ).validate()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
