"""Runs on disk: checkpoints that are whole or absent, the best and the last of them, and the log of losses.

run/config.yaml  metrics.jsonl  tensorboard/
run/checkpoints/step-00000500/{model/, state.pt}      state: step, optimizers, random state (no code, weights_only)
run/checkpoints/{last,best}.json                      which step is which
run/model/                                            the best model, once training is over
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from foundation.durable import write_atomic
from foundation.model import FoundationModel


class RunError(ValueError):
    """A run folder that cannot be used; the message says what to do."""


def save_folder(target: Path, write: Any) -> None:
    """Call `write(scratch)` on an empty folder and put it in place of `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(scratch)
        for path in sorted(scratch.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".old-{target.name}-", dir=target.parent)) / "old"
            os.replace(target, old)
        os.replace(scratch, target)
        if old is not None:
            shutil.rmtree(old.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def save_checkpoint(run: Path, step: int, model: FoundationModel, state: dict[str, Any], *, is_best: bool) -> None:
    """Write a checkpoint, point `last` (and `best`) at it, and drop those that nothing points at."""

    def write(folder: Path) -> None:
        model.save_pretrained(folder / "model")
        torch.save({"step": step, **state}, folder / "state.pt")

    folder = run / "checkpoints"
    save_folder(folder / _name(step), write)
    if is_best:
        _point(folder / "best.json", step)
    _point(folder / "last.json", step)
    keep = {_name(s) for s in (_pointed(folder / "best.json"), _pointed(folder / "last.json")) if s is not None}
    for path in folder.iterdir():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith("."):
            path.unlink(missing_ok=True)  # what a killed process was writing


def last_checkpoint(run: Path) -> tuple[FoundationModel, dict[str, Any]] | None:
    """The newest checkpoint's model and state, or None in a new run."""
    step = _pointed(run / "checkpoints" / "last.json")
    if step is None:
        return None
    folder = run / "checkpoints" / _name(step)
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    return FoundationModel.from_pretrained(folder / "model"), state


def best_model(run: Path) -> FoundationModel:
    """The best checkpoint's model."""
    step = _pointed(run / "checkpoints" / "best.json")
    if step is None:
        raise RunError(f"{run}: no checkpoint yet; run `foundation train` to its first validation")
    return FoundationModel.from_pretrained(run / "checkpoints" / _name(step) / "model")


def load_model(path: str | Path) -> FoundationModel:
    """A model from a model folder, or the best one of a run folder.

    Raises:
        RunError: There is no model there.
    """
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
    path = Path(path)
    folders = [path, path / "model", *sorted((path / subject).glob("*"))]
    for folder in folders:
        if (folder / "model.safetensors").exists():
            model = FoundationModel.from_pretrained(folder)
            if recording_id in model.adapters.sessions["recording_id"].tolist():
                return model
    raise RunError(f"{path}: no model here has an adapter for {recording_id}; run `foundation finetune` on {subject}")


class MetricsLog:
    """`metrics.jsonl`: one JSON object per line, cut back to the checkpoint on resume."""

    def __init__(self, path: Path | None, resume_step: int) -> None:
        self.path = path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists() and resume_step:
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (ValueError, KeyError):
                    break  # the line a kill cut short
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _point(path: Path, step: int) -> None:
    write_atomic(path, json.dumps({"step": step}).encode())


def _pointed(path: Path) -> int | None:
    return int(json.loads(path.read_text())["step"]) if path.exists() else None
