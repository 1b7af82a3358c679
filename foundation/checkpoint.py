"""Runs on disk: checkpoints that are whole or absent, the best and the last of them, and the log of losses.

run/config.yaml  metrics.jsonl  tensorboard/
run/checkpoints/step-00000500/{model/, state.pt, metrics.jsonl, checkpoint.json}
    state.pt            optimizers, random state (no code, weights_only)
    metrics.jsonl       the log so far
    checkpoint.json     step, the best step so far, and the hash of every file: a folder that it does not fit is damaged
run/model/                                            the best model, once training is over

The last two checkpoints are kept, and the best that each of them knows of: where the newest is damaged, as a power cut
may leave it, the run goes on from the one before as if it had stopped there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foundation.durable import CorpusError, dump_json, fsync, read_json, sha256_of, write_atomic
from foundation.model import FoundationModel


class RunError(ValueError):
    """A run folder that cannot be used; the message says what to do."""


def save_folder(target: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(scratch)` on an empty folder and put it in place of `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(scratch)
        for path in (*sorted(scratch.rglob("*")), scratch):
            fsync(path)
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".old-{target.name}-", dir=target.parent)) / "old"
            os.replace(target, old)
        os.replace(scratch, target)
        fsync(target.parent)
        if old is not None:
            shutil.rmtree(old.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is as it was written.

    Attributes:
        folder: Where it lies.
        step: Updates made.
        best_step: Of the best checkpoint then; None where that one is damaged.
    """

    folder: Path
    step: int
    best_step: int | None

    @property
    def best_folder(self) -> Path:
        """Of the best checkpoint, or of this one where the best is lost."""
        return self.folder if self.best_step is None else self.folder.with_name(_name(self.best_step))


def save_checkpoint(
    run: Path, step: int, model: FoundationModel, state: dict[str, Any], *, best_step: int | None
) -> None:
    """Write a checkpoint, and drop those that are no longer needed.

    Args:
        run: Run folder; what its `metrics.jsonl` holds by now is part of the checkpoint.
        step: Updates made.
        model: With all sessions.
        state: Tensors, numbers and names.
        best_step: Of the best checkpoint, this one included; None where none is known.
    """
    log = run / "metrics.jsonl"

    def write(folder: Path) -> None:
        model.save_pretrained(folder / "model")
        torch.save(state, folder / "state.pt")
        (folder / "metrics.jsonl").write_bytes(log.read_bytes() if log.exists() else b"")
        about = {"step": step, "best_step": best_step, "files": _hashes(folder)}
        (folder / "checkpoint.json").write_bytes(dump_json(about))

    folder = run / "checkpoints"
    save_folder(folder / _name(step), write)
    before = max((s for s in _steps(folder) if s < step), default=None)
    kept = [step, best_step]
    if before is not None:
        kept += [before, _best_of(folder / _name(before))]
    names = {_name(s) for s in kept if s is not None}
    for path in folder.iterdir():
        if path.name not in names:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or folder, as far as that is possible: what somebody has open on NFS stays until the next time."""
    with contextlib.suppress(OSError):
        if not path.name.startswith("."):
            # Under a hidden name first, so that what a kill leaves half removed is no checkpoint.
            path = path.rename(path.with_name(f".old-{path.name}-{uuid.uuid4().hex[:8]}"))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest checkpoint that is as it was written, or None in a new run; damaged ones are named on stderr.

    Raises:
        RunError: There are several, all damaged.
    """
    folder = run / "checkpoints"
    steps = sorted(_steps(folder), reverse=True)
    for step in steps:
        if (damage := _damage(folder / _name(step))) is not None:
            after = "going on from the checkpoint before" if len(steps) > 1 else "it was the only one: starting anew"
            print(f"{folder / _name(step)}: damaged ({damage}); {after}", file=sys.stderr)
            continue
        best = _best_of(folder / _name(step))
        if best not in (None, step) and (damage := _damage(folder / _name(best))) is not None:
            print(f"{folder / _name(best)}: the best checkpoint is damaged ({damage})", file=sys.stderr)
            best = None
        return Checkpoint(folder / _name(step), step, best)
    if len(steps) > 1:
        raise RunError(f"{run}: all {len(steps)} checkpoints are damaged; restore one, or remove the folder to start")
    return None


def remove_newer(found: Checkpoint) -> None:
    """Remove the checkpoints after one that is gone on from: all are damaged, and none may count among the last two."""
    for step in _steps(found.folder.parent):
        if step > found.step:
            _remove(found.folder.with_name(_name(step)))


def last_checkpoint(run: Path) -> tuple[FoundationModel, dict[str, Any]] | None:
    """`load_checkpoint` of the newest intact checkpoint, or None in a new run."""
    found = newest_checkpoint(run)
    return None if found is None else load_checkpoint(found)


def load_checkpoint(found: Checkpoint) -> tuple[FoundationModel, dict[str, Any]]:
    """A checkpoint's model and state, with `step`, `best_step` and `log`.

    Raises:
        RunError: The state cannot be read.
    """
    try:
        state = torch.load(found.folder / "state.pt", weights_only=True, map_location="cpu")
    except Exception as error:  # whatever torch's unpickler of tensors raises on what is none
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RunError(
            f"{found.folder / 'state.pt'}: cannot be read, though its hash fits ({said}); "
            f"remove {found.folder} to go on from the checkpoint before"
        ) from None
    state |= {"step": found.step, "best_step": found.best_step, "log": (found.folder / "metrics.jsonl").read_text()}
    return FoundationModel.from_pretrained(found.folder / "model"), state


def best_model(run: Path) -> FoundationModel:
    """The best checkpoint's model; where that is damaged, the newest one's.

    Raises:
        RunError: There is no checkpoint.
    """
    found = newest_checkpoint(run)
    if found is None:
        raise RunError(f"{run}: no checkpoint yet; run `foundation train` to its first validation")
    return FoundationModel.from_pretrained(found.best_folder / "model")


def load_model(path: str | Path) -> FoundationModel:
    """A model from a model folder, the best one of a run folder, or one of the Hub ("hf://USER/NAME").

    Raises:
        RunError: There is no model there.
    """
    if str(path).startswith("hf://"):
        return FoundationModel.from_pretrained(str(path).removeprefix("hf://"))
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "model.safetensors").exists():
            return FoundationModel.from_pretrained(folder)
    if (path / "checkpoints").exists():
        return best_model(path)
    raise RunError(f"{path}: no model here; expected a folder made by `foundation train` or save_pretrained")


def find_adapted(path: str | Path, recording_id: str, subject: str) -> FoundationModel:
    """The model that has an adapter for a recording, in a model, run or adaptation folder.

    Raises:
        RunError: None has.
    """
    if str(path).startswith("hf://"):
        model = load_model(path)
        if recording_id in model.adapters.sessions["recording_id"].tolist():
            return model
    path = Path(path)
    folders = [path, path / "model", *sorted((path / subject).glob("*"))]
    for folder in folders:
        if (folder / "model.safetensors").exists():
            model = FoundationModel.from_pretrained(folder)
            if recording_id in model.adapters.sessions["recording_id"].tolist():
                return model
    raise RunError(f"{path}: no model here has an adapter for {recording_id}; run `foundation finetune` on {subject}")


class MetricsLog:
    """`metrics.jsonl`: one JSON object per line; a run that goes on starts from the lines of its checkpoint."""

    def __init__(self, path: Path | None, kept: str = "") -> None:
        self.path = path
        if path is not None:
            write_atomic(path, kept.encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, damaged ones included."""
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*")]
    return [int(name) for name in names if name.isdecimal()]


def _hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _best_of(folder: Path) -> int | None:
    """What a checkpoint says is the best step; None where it cannot be read."""
    try:
        best = read_json(folder / "checkpoint.json").get("best_step")
    except CorpusError:
        return None
    return best if isinstance(best, int) else None


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        about = read_json(folder / "checkpoint.json", cure="it was not written to its end")
        found = _hashes(folder)
    except CorpusError as error:
        return str(error)
    found.pop("checkpoint.json", None)
    expected = about.get("files")
    step = about.get("step")
    if not isinstance(step, int) or folder.name != _name(step):
        return f"checkpoint.json is of step {step}"
    if not isinstance(expected, dict) or not expected:
        return "checkpoint.json names no files"
    differs = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"{', '.join(differs)} not as written" if differs else None
