"""Checkpoints are whole or absent, the right ones are kept, and logs are cut back to what is resumed."""

from __future__ import annotations

import json
import shutil
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
    newest_checkpoint,
    remove_newer,
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


def save(world: Any, run: Path, steps: list[tuple[int, int]]) -> None:
    """Checkpoints of (step, best step), each with a log of as many lines as steps."""
    for step, best in steps:
        (run / "metrics.jsonl").write_text("".join(f'{{"step": {k + 1}}}\n' for k in range(step)))
        save_checkpoint(run, step, marked(world, step), {"value": step * 10, "best_loss": 1.0}, best_step=best)


def names(run: Path) -> set[str]:
    return {p.name for p in (run / "checkpoints").iterdir()}


def test_the_last_two_and_the_best_of_each_are_kept_and_nothing_else(world: Any, tmp_path: Path) -> None:
    save(world, tmp_path, [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3)])
    assert names(tmp_path) == {"step-00000003", "step-00000004", "step-00000005"}
    assert mark(best_model(tmp_path)) == 3
    saved = last_checkpoint(tmp_path)
    assert saved is not None
    assert (mark(saved[0]), saved[1]["step"], saved[1]["value"], saved[1]["best_step"]) == (5, 5, 50, 3)
    assert saved[1]["log"].splitlines() == [f'{{"step": {k}}}' for k in range(1, 6)]
    save(world, tmp_path, [(6, 6)])
    # Were 6 lost, 5 would need its best, 3.
    assert names(tmp_path) == {"step-00000003", "step-00000005", "step-00000006"}


FILES = ["state.pt", "metrics.jsonl", "checkpoint.json", "model/model.safetensors", "model/config.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["half", "empty", "gone", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, how: str
) -> None:
    save(world, tmp_path, [(1, 1), (2, 2), (3, 3)])
    path = tmp_path / "checkpoints/step-00000003" / file
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "flipped": bytes(changed)}[how])
    saved = last_checkpoint(tmp_path)
    assert saved is not None
    assert (mark(saved[0]), saved[1]["step"], saved[1]["best_step"]) == (2, 2, 2)
    assert mark(best_model(tmp_path)) == 2
    said = capsys.readouterr().err
    assert "step-00000003: damaged" in said
    assert file.rpartition("/")[2] in said or file == "checkpoint.json"
    # It is gone when the run goes on, so that the one gone on from stays among the last two, whatever is saved next.
    found = newest_checkpoint(tmp_path)
    assert found is not None
    remove_newer(found)
    assert names(tmp_path) == {"step-00000002"}
    save(world, tmp_path, [(3, 3)])
    assert names(tmp_path) == {"step-00000002", "step-00000003"}
    assert mark(best_model(tmp_path)) == 3


def test_a_lost_best_checkpoint_does_not_stop_a_run(
    world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(world, tmp_path, [(1, 1), (2, 1), (3, 1)])
    (tmp_path / "checkpoints/step-00000001/state.pt").write_bytes(b"")
    saved = last_checkpoint(tmp_path)
    assert saved is not None
    assert (saved[1]["step"], saved[1]["best_step"]) == (3, None)
    assert "the best checkpoint is damaged" in capsys.readouterr().err
    assert mark(best_model(tmp_path)) == 3


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_anew(world: Any, tmp_path: Path) -> None:
    save(world, tmp_path, [(1, 1), (2, 2)])
    for step in (1, 2):
        (tmp_path / f"checkpoints/step-0000000{step}/state.pt").write_bytes(b"")
    with pytest.raises(RunError, match="all 2 checkpoints are damaged"):
        last_checkpoint(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints/step-00000002")
    assert last_checkpoint(tmp_path) is None  # the only one there was: nothing more is lost by starting anew


def test_a_kill_while_writing_leaves_the_checkpoint_before(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(world, tmp_path, [(1, 1)])

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foundation.checkpoint.torch.save", killed)
    with pytest.raises(KeyboardInterrupt):
        save(world, tmp_path, [(2, 2)])
    monkeypatch.undo()
    saved = last_checkpoint(tmp_path)
    assert saved is not None
    assert (mark(saved[0]), saved[1]["step"], mark(best_model(tmp_path))) == (1, 1, 1)
    # A kill leaves a scratch folder or file, which the next checkpoint clears away.
    (tmp_path / "checkpoints/.step-00000002-abc").mkdir()
    (tmp_path / "checkpoints/.file-123-abc").write_text("{")
    save(world, tmp_path, [(2, 1)])
    assert names(tmp_path) == {"step-00000001", "step-00000002"}


def test_the_state_holds_no_code(world: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, marked(world, 1), {"x": torch.ones(2), "y": [1, "a"]}, best_step=1)
    state = torch.load(tmp_path / "checkpoints/step-00000001/state.pt", weights_only=True)
    assert state["y"] == [1, "a"]


def test_models_are_found_in_their_folders(world: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no model here"):
        load_model(tmp_path)
    with pytest.raises(RunError, match="no checkpoint yet"):
        best_model(tmp_path)
    assert last_checkpoint(tmp_path) is None
    save(world, tmp_path, [(1, 1), (2, 1)])
    assert mark(load_model(tmp_path)) == 1
    marked(world, 3).save_pretrained(tmp_path / "model")
    assert mark(load_model(tmp_path / "model")) == mark(load_model(tmp_path)) == 3


def test_a_log_goes_on_from_what_its_checkpoint_holds(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')  # a kill in the middle of a line
    log = MetricsLog(path, '{"step": 1}\n')
    log.write({"step": 2, "loss": 9.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2, "loss": 9.0}]
    MetricsLog(path)
    assert path.read_text() == ""
    MetricsLog(None).write({"step": 1})
