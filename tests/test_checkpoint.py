"""Checkpoints are whole or absent, the right ones are kept, and logs are cut back to what is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.checkpoint import (
    MetricsLog,
    RunError,
    best_model,
    last_checkpoint,
    load_model,
    save_checkpoint,
    save_folder,
)


def marked(world: Any, value: float) -> Any:
    model = world.model(sessions=world.corpus.ids[:1])
    with torch.no_grad():
        model.pool_queries.fill_(value)
    return model


def mark(model: Any) -> float:
    return float(model.pool_queries.detach()[0, 0])


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    save_folder(target, lambda folder: (folder / "a").write_text("1"))
    save_folder(target, lambda folder: (folder / "b").write_text("2"))
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_a_write_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    save_folder(target, lambda folder: (folder / "a").write_text("1"))

    def fail(folder: Path) -> None:
        (folder / "b").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_folder(target, fail)
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_best_and_last_are_kept_and_nothing_else(world: Any, tmp_path: Path) -> None:
    for step, better in ((1, True), (2, False), (3, True), (4, False), (5, False)):
        save_checkpoint(tmp_path, step, marked(world, step), {"value": step * 10}, is_best=better)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.json", "last.json", "step-00000003", "step-00000005"}
    assert mark(best_model(tmp_path)) == 3
    saved = last_checkpoint(tmp_path)
    assert saved is not None
    assert (mark(saved[0]), saved[1]) == (5, {"step": 5, "value": 50})


def test_a_kill_while_writing_leaves_the_checkpoint_before(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, marked(world, 1), {}, is_best=True)

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foundation.checkpoint.torch.save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, marked(world, 2), {}, is_best=True)
    monkeypatch.undo()
    saved = last_checkpoint(tmp_path)
    assert saved is not None
    assert (mark(saved[0]), saved[1]["step"], mark(best_model(tmp_path))) == (1, 1, 1)
    # A kill leaves a scratch folder or file, which the next checkpoint clears away.
    (tmp_path / "checkpoints/.step-00000002-abc").mkdir()
    (tmp_path / "checkpoints/.best.json-123-abc").write_text("{")
    save_checkpoint(tmp_path, 2, marked(world, 2), {}, is_best=False)
    names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.json", "last.json", "step-00000001", "step-00000002"}


def test_the_state_holds_no_code(world: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, marked(world, 1), {"x": torch.ones(2), "y": [1, "a"]}, is_best=True)
    state = torch.load(tmp_path / "checkpoints/step-00000001/state.pt", weights_only=True)
    assert state["y"] == [1, "a"]


def test_models_are_found_in_their_folders(world: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no model here"):
        load_model(tmp_path)
    with pytest.raises(RunError, match="no checkpoint yet"):
        best_model(tmp_path)
    assert last_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, marked(world, 1), {}, is_best=True)
    save_checkpoint(tmp_path, 2, marked(world, 2), {}, is_best=False)
    assert mark(load_model(tmp_path)) == 1
    marked(world, 3).save_pretrained(tmp_path / "model")
    assert mark(load_model(tmp_path / "model")) == mark(load_model(tmp_path)) == 3


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in range(1, 6):
        log.write({"step": step, "loss": step / 10})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # a kill in the middle of a line
    again = MetricsLog(path, 3)
    again.write({"step": 4, "loss": 9.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"step": 3, "loss": 0.3},
        {"step": 4, "loss": 9.0},
    ]
    MetricsLog(path, 0)
    assert path.read_text() == ""
    MetricsLog(None, 5).write({"step": 1})
