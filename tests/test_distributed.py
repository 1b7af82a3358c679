"""Two processes give the updates of one, in a real launch over gloo. `--processes` is tested in test_cli."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from foundation.channels import DataConfig
from foundation.checkpoint import last_checkpoint, load_model, newest_checkpoint
from foundation.config import Config, dump_config
from foundation.corpus import Corpus
from foundation.masking import MaskingConfig, draw_masks
from foundation.model import FoundationModel
from foundation.model_config import ModelConfig
from foundation.objectives import ObjectiveConfig
from foundation.objectives.contrastive import ContrastiveConfig
from foundation.optim import OptimConfig
from foundation.pretrain import pretrain
from foundation.ranks import own_sessions
from foundation.sampling import WindowSampler
from foundation.train import TrainConfig, _Loop

pytestmark = pytest.mark.usefixtures("only_training")

ROOT = Path(__file__).resolve().parents[1]
TRAIN = TrainConfig(
    steps=6, windows_per_step=8, windows_per_session=4, val_every=3, val_windows=24, log_every=1, track=[]
)


def config_of(corpus: Corpus, out: Path) -> Config:
    """Few windows of few sessions, and a rare contrastive scheme, so that ranks often have nothing to add."""
    return Config(
        out=str(out),
        data=DataConfig(corpus=str(corpus.path), held_out=["animal03"], window_s=0.6),
        model=ModelConfig(width=16, depth=1, heads=2, feed_forward=32, private_rank=3),
        objective=ObjectiveConfig(
            masking=MaskingConfig(schemes={"spikes_only": 1.0, "neural": 3.0, "cross": 3.0}),
            time_contrast=0.1,
            behavior_contrast=0.1,
            contrastive=ContrastiveConfig(discrete=["choice"], anchors=4, references=6),
        ),
        # A large epsilon is not to be had, so a clip that always binds: it needs the norm of the summed gradient.
        optim=OptimConfig(clip=0.05),
        train=TRAIN,
    )


def launch(config: Path, *options: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", str(port)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *flags]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "-m", "foundation", "train", str(config), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the launcher and its ranks
        out, err = process.communicate()
        pytest.fail(f"the launch hung\n{err[-3000:]}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def close(a: FoundationModel, b: FoundationModel) -> None:
    assert a.adapters.sessions.equals(b.adapters.sessions)
    assert a.adapters.units.equals(b.adapters.units)
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values()):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def one(training_alone: Any, synthetic_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The run of one process."""
    config = config_of(synthetic_corpus, tmp_path_factory.mktemp("one"))
    with training_alone():
        pretrain(config)
    return config


def same_runs(here: Path, there: Path) -> None:
    """Both have the same log, model and checkpoint but for rounding."""
    logs = [rows(folder / "metrics.jsonl") for folder in (here, there)]
    assert [(row["step"], row["split"]) for row in logs[0]] == [(row["step"], row["split"]) for row in logs[1]]
    for row, other in zip(*logs):
        assert row.keys() == other.keys()
        for key in row.keys() - {"step", "split", "windows_per_s", "windows"}:
            assert other[key] == pytest.approx(row[key], rel=1e-4, abs=1e-5), key
    close(load_model(here), load_model(there))
    saved = [last_checkpoint(folder) for folder in (here, there)]
    assert saved[0] is not None
    assert saved[1] is not None
    close(saved[0][0], saved[1][0])
    assert saved[0][1]["rows"].keys() == saved[1][1]["rows"].keys()
    for key, moments in saved[0][1]["rows"].items():
        for name, tensor in moments.items():
            torch.testing.assert_close(saved[1][1]["rows"][key][name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_model_of_one(world: Any, one: Config, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(dump_config(replace(one, out=str(tmp_path / "two"))))
    done = launch(path, "--processes", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    same_runs(one.folder, tmp_path / "two")
    _check_that_ranks_were_idle(world, one)


def test_a_trunk_in_shards_gives_the_model_of_one_and_goes_on_with_one(
    one: Config, tmp_path: Path, forked: Callable[..., None]
) -> None:
    config = replace(one, out=str(tmp_path / "run"), train=replace(TRAIN, shard_trunk=True))
    update = _Loop.update

    def held_by_a_rank(self: _Loop, step: int, item: Any) -> Any:
        trunk = list(self.model.trunk.parameters())
        assert all(isinstance(p, DTensor) and p.to_local().numel() * 2 <= p.numel() + p.shape[-1] for p in trunk)
        if step == 3:
            raise SystemExit(3)
        return update(self, step, item)

    def until_step_3(_: Path) -> object:
        _Loop.update = held_by_a_rank  # type: ignore[method-assign]
        return pretrain(config)

    forked(until_step_3, tmp_path / "until step 3", expected=3)
    saved = newest_checkpoint(config.folder)
    assert saved is not None
    assert saved.step == 3
    shutil.copytree(config.folder, tmp_path / "alone")
    forked(lambda _: pretrain(config), tmp_path / "to the end")
    same_runs(one.folder, config.folder)
    done = last_checkpoint(config.folder)
    assert done is not None
    assert len(done[1]["generators"]) == 2
    alone = replace(config, out=str(tmp_path / "alone"))
    (tmp_path / "alone/config.yaml").write_text(dump_config(alone))
    pretrain(alone)
    same_runs(one.folder, tmp_path / "alone")


def test_spikes_alone_and_a_rank_without_a_window(
    synthetic_corpus: Corpus, tmp_path: Path, forked: Callable[..., None]
) -> None:
    """Nothing but the Poisson loss, which such a rank has nothing for: it joins all the same."""
    config = config_of(synthetic_corpus, tmp_path / "one")
    masking = MaskingConfig(schemes={"neural": 1.0})
    config.objective = ObjectiveConfig(covariate_scale=0, time_contrast=0, behavior_contrast=0, masking=masking)
    pretrain(config)
    two = replace(config, out=str(tmp_path / "two"))
    forked(lambda _: pretrain(two), tmp_path / "said")
    same_runs(config.folder, two.folder)


def test_a_window_of_one_rank_that_breaks_an_update_is_named_by_all(
    one: Config, tmp_path: Path, break_windows: Callable[..., None], forked: Callable[..., None]
) -> None:
    key = "synthetic/animal01_0"
    break_windows(lambda w: w.recording_id == key and w.start_s < 40, float("nan"))
    config = replace(one, out=str(tmp_path / "alone"))
    pretrain(config)
    both = replace(config, out=str(tmp_path / "run"), train=replace(TRAIN, shard_trunk=True))
    forked(lambda _: pretrain(both), tmp_path / "said")
    alone, two = (
        [row for row in rows(c.folder / "metrics.jsonl") if row["split"] == "left out"] for c in (config, both)
    )
    assert two == alone
    assert 0 < len(two) < TRAIN.steps
    assert all(text.startswith(key) for row in two for text in row["windows"])
    same_runs(config.folder, both.folder)


def _check_that_ranks_were_idle(world: Any, config: Config) -> None:
    """The test would mean little if every rank always had windows of every scheme."""
    ids = [key for key in world.corpus.ids if not key.startswith("synthetic/animal03")]
    train = {key: world.data.train[key] for key in ids}
    sampler = WindowSampler(train, TRAIN.windows_per_step, TRAIN.windows_per_session, 0, window_bins=30)
    owners = own_sessions({key: len(windows) for key, windows in train.items()}, 2)
    idle = without_pairs = 0
    for step in range(TRAIN.steps):
        schemes = []
        for mine in owners:
            windows = [w for w in sampler.batch_windows(step) if w.recording_id in mine]
            idle += not windows
            if windows:
                masks = draw_masks(world.reader.batch(windows), world.channels, config.objective.masking, (0, step))
                schemes.append("spikes_only" in masks.schemes)
        without_pairs += len(schemes) == 2 and any(schemes) and not all(schemes)
    assert idle > 0
    assert without_pairs > 0


def test_more_processes_than_sessions_are_refused(world: Any) -> None:
    rank = SimpleNamespace(num_processes=8, process_index=7, is_main_process=False, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="4 sessions for 8 processes"):
        _Loop(world.model(), world.data, ObjectiveConfig(), OptimConfig(), TRAIN, 0, None, "all", rank)
