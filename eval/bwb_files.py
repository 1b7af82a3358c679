"""Prediction and ground-truth files of Brain-Wide Bench: safetensors, written whole or not at all, read with checks.

    <root>/<label>/<task id>/<recording>/seed_<n>.safetensors    suites 1 and 2
    <root>/<label>/<task id>/seed_<n>.safetensors                suite 3, whose units are scored in one pool
    <root>/<task id>/[<recording>/]ground_truth.safetensors

What `ibl-bwb-eval` 0.1.0 reads (its `predictions.py` and `scoring`):

    kind            prediction                                  ground truth
    class           predictions (N, 1, K) f32 logits            values (N, 1) i64; both trial_id (N,) i64
    value, count    predictions (N, 50, 1) f32; log of counts   values (N, 50, 1); paws: mask (N, 50) bool; trial_id
    rates           predictions (W, T, U) f16 log-rates         targets (W, T, U); both window_timestamps (W,) f64,
                                                                unit_ids (U, width) u8, ASCII padded with NUL
    region          pred_proba (M, 10) f32                      targets (M,) i64; both entity_ids (M, width) u8

Its scorers drop what the two files do not share, take units in the order in which they stand, and leave out a file that
fails. Here a missing row, a repeated one or other units are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eval.bwb_tasks import COSMOS, FORMAT_VERSION, STEPS, Task, task_of
from foundation.durable import write_atomic

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_SEED_FILE = re.compile(r"seed_(\d+)\.safetensors")
TRUTH = "ground_truth.safetensors"
Tensors = dict[str, np.ndarray]
_Form = tuple[tuple[int | str, ...], str]


@dataclass(frozen=True)
class SuiteFile:
    """What one model says of one task and session, for one seed.

    Attributes:
        label: Of the submission; a folder.
        task: Id, such as "ts1-choice".
        recording_id: Session (eid); "" in suite 3.
        seed: Of the model.
        tensors: As the table above has it.
        metadata: More texts of the header, such as `unit_filtering` and `dataset_version`, which the leaderboard asks.
    """

    label: str
    task: str
    recording_id: str
    seed: int
    tensors: Tensors
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """For messages."""
        return "/".join(filter(None, (self.label, self.task, self.recording_id, f"seed_{self.seed}")))

    def path(self, root: str | Path) -> Path:
        """Where the file belongs."""
        folders = [self.label, self.task, *([self.recording_id] if self.recording_id else [])]
        return Path(root).joinpath(*folders, f"seed_{self.seed}.safetensors")

    def validate(self) -> SuiteFile:
        """Return self, or raise ValueError naming the first thing the scorer could not use."""
        task = task_of(self.task)
        for name, part in (("label", self.label), ("recording_id", self.recording_id)):
            if not _PART.fullmatch(part) and not (name == "recording_id" and task.suite == "ts3" and not part):
                raise ValueError(
                    f"{self.where}: {name} is {part!r}, expected a folder name of letters, digits, _ . + -"
                )
        if task.suite == "ts3" and self.recording_id:
            raise ValueError(
                f"{self.where}: recording_id is {self.recording_id!r}; suite 3 is one file over all sessions"
            )
        if self.seed < 0:
            raise ValueError(f"{self.where}: seed is {self.seed}, expected 0 or more")
        check_tensors(self.where, task, self.tensors, truth=False)
        labels = self.metadata.get("label_names", ",".join(COSMOS))
        if task.kind == "region" and labels != ",".join(COSMOS):
            raise ValueError(f"{self.where}: label_names {labels}, expected {','.join(COSMOS)}, in this order")
        return self


def write_suite_prediction(root: str | Path, file: SuiteFile) -> Path:
    """Write one prediction file under `root`.

    Returns:
        Its path.

    Raises:
        ValueError: Tensors or names that the scorer could not use.
    """
    file.validate()
    header = {"label": file.label, "task": file.task, "seed": str(file.seed), "ibl_bwb_eval_version": FORMAT_VERSION}
    header |= {"recording_id": file.recording_id} if file.recording_id else {"label_names": ",".join(COSMOS)}
    path = file.path(root)
    write_atomic(path, save(_contiguous(file.tensors), {**file.metadata, **header}))
    return path


def read_suite_prediction(path: str | Path) -> SuiteFile:
    """Read and check one prediction file; shapes are checked before any tensor is read.

    Raises:
        ValueError: Not such a file, damaged, or its header or tensors are not those of its task.
    """
    path = Path(path)
    tensors, header = _read(path)
    missing = [key for key in ("label", "task", "seed") if key not in header]
    if missing or not header["seed"].isdecimal():
        raise ValueError(
            f"{path}: {missing or 'seed'} missing or no number in its header, expected label, task and seed"
        )
    known = ("label", "task", "seed", "recording_id", "ibl_bwb_eval_version")
    rest = {key: text for key, text in header.items() if key not in known}
    file = SuiteFile(
        header["label"], header["task"], header.get("recording_id", ""), int(header["seed"]), tensors, rest
    )
    try:
        return file.validate()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def prediction_files(root: str | Path, suite: str) -> Iterator[Path]:
    """Prediction files of a suite under a folder, sorted; other suites' are passed over.

    Raises:
        ValueError: A file whose header cannot be read.
    """
    for path in sorted(Path(root).rglob("seed_*.safetensors")):
        if _SEED_FILE.fullmatch(path.name) and header_of(path).get("task", "").startswith(f"{suite}-"):
            yield path


def write_ground_truth(root: str | Path, task: Task, recording_id: str, tensors: Tensors) -> Path:
    """Write the truth of a task and session under `root`, in the layout of the package."""
    path = truth_path(root, task, recording_id)
    check_tensors(str(path), task, tensors, truth=True)
    header = {"task": task.id, "ibl_bwb_eval_version": FORMAT_VERSION}
    header |= {"label_names": ",".join(COSMOS)} if task.kind == "region" else {"recording_id": recording_id}
    write_atomic(path, save(_contiguous(tensors), header))
    return path


def read_ground_truth(root: str | Path, task: Task, recording_id: str) -> Tensors:
    """The tensors that predictions of a task and session are scored against.

    Raises:
        ValueError: Missing, damaged, or not of this task.
    """
    path = truth_path(root, task, recording_id)
    if not path.exists():
        raise ValueError(f"{path}: no ground truth; make it from a corpus, or leave these predictions out")
    tensors, header = _read(path)
    if task.kind == "region" and header.get("label_names") != ",".join(COSMOS):
        raise ValueError(f"{path}: label_names {header.get('label_names')}, expected {','.join(COSMOS)}")
    check_tensors(str(path), task, tensors, truth=True)
    return tensors


def truth_path(root: str | Path, task: Task, recording_id: str) -> Path:
    """Where the truth of a task and session lies."""
    return Path(root).joinpath(task.id, *([] if task.kind == "region" else [recording_id]), TRUTH)


def encode_ids(ids: list[str]) -> np.ndarray:
    """Ids as `(n, width)` uint8, ASCII, shorter ones padded with NUL.

    Raises:
        ValueError: None, an empty one, or one that is not printable ASCII.
    """
    if not ids or any(not text or not (text.isascii() and text.isprintable()) for text in ids):
        raise ValueError(f"ids {ids[:3]}, expected at least one, each of printable ASCII")
    return np.array(ids, dtype=bytes).view(np.uint8).reshape(len(ids), -1)


def decode_ids(table: np.ndarray) -> list[str]:
    """What `encode_ids` made.

    Raises:
        ValueError: Not printable ASCII, or an id is empty or there twice.
    """
    ids = [bytes(row).rstrip(b"\0").decode("latin-1") for row in np.ascontiguousarray(table)]
    if any(not text or not (text.isascii() and text.isprintable()) for text in ids) or len(set(ids)) != len(ids):
        raise ValueError("ids of units: expected printable ASCII padded with NUL, each once")
    return ids


def check_tensors(where: str, task: Task, tensors: Tensors, *, truth: bool) -> None:
    """Raise ValueError naming the first tensor that is missing or of the wrong shape, type or value."""
    sizes: dict[str, int] = {}
    for name, (shape, kinds) in _layout(task, truth).items():
        if name not in tensors:
            raise ValueError(f"{where}: no tensor {name!r}, there are {sorted(tensors)}")
        array = tensors[name]
        wanted = tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in shape)
        fits = array.ndim == len(shape) and all(isinstance(a, str) or a == b for a, b in zip(wanted, array.shape))
        if not fits or array.dtype.kind not in kinds or 0 in array.shape:
            raise ValueError(f"{where}: {name} is {array.dtype} {array.shape}, expected kind {kinds} {wanted}")
        sizes |= {axis: n for axis, n in zip(shape, array.shape) if isinstance(axis, str)}
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{where}: {name} has {int((~np.isfinite(array)).sum())} values that are not finite")
    for name in ("trial_id", "window_timestamps"):
        if name in tensors and len(np.unique(tensors[name])) != len(tensors[name]):
            raise ValueError(f"{where}: {name} has a value twice, expected each once")
    for name in ("unit_ids", "entity_ids"):
        if name in tensors:
            decode_ids(tensors[name])
    low, high = {"class": (0, len(task.order)), "region": (0, len(COSMOS))}.get(task.kind, (0, np.inf))
    labels = (
        tensors.get("targets", tensors.get("values", np.zeros(1))) if truth and task.kind != "value" else np.zeros(1)
    )
    if (labels < low).any() or (labels >= high).any():
        raise ValueError(f"{where}: a target from {labels.min()} to {labels.max()}, expected {low} to below {high}")


def _layout(task: Task, truth: bool) -> dict[str, _Form]:
    """Of each tensor its shape, names where any size will do (one name, one size), and the kinds of its dtype."""
    if task.kind == "region":
        scored: _Form = (("M",), "iu") if truth else (("M", len(COSMOS)), "f")
        return {"entity_ids": (("M", "width"), "u"), "targets" if truth else "pred_proba": scored}
    if task.kind == "rates":
        scored = (("W", "T", "U"), "fiu" if truth else "f")
        ids: _Form = (("U", "width"), "u")
        return {"window_timestamps": (("W",), "f"), "unit_ids": ids, "targets" if truth else "predictions": scored}
    forms: dict[str, _Form] = {"trial_id": (("N",), "iu")}
    if task.kind == "class":
        shape: tuple[int | str, ...] = ("N", 1) if truth else ("N", 1, len(task.order))
    else:
        shape = ("N", STEPS, 1)
    forms["values" if truth else "predictions"] = (shape, "fiu" if truth else "f")
    return forms | ({"mask": (("N", STEPS), "b")} if truth and task.counted else {})


def header_of(path: Path) -> dict[str, str]:
    """The texts in the header of a file.

    Raises:
        ValueError: Not a safetensors file, or damaged.
    """
    try:
        with safe_open(str(path), "np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: got no readable safetensors file ({error}); write it again") from None


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
    header = header_of(path)
    try:
        with safe_open(str(path), "np") as file:
            # The library has compared every offset with the size of the file: nothing larger than it is allocated.
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its tensors cannot be read ({error}); write it again") from None


def _contiguous(tensors: Tensors) -> Tensors:
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}
