"""The loop: every objective and scheme trains alone, resumed runs equal uninterrupted ones bit for bit."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_recipes.recipe import open_or_prepare
from foundation.channels import DataConfig
from foundation.checkpoint import RunError, best_model, last_checkpoint, load_model, newest_checkpoint
from foundation.config import Config
from foundation.corpus import Corpus
from foundation.masking import SCHEMES, MaskingConfig, draw_masks
from foundation.model import FoundationModel
from foundation.model_config import ModelConfig
from foundation.objectives import ObjectiveConfig, joint_loss
from foundation.objectives.contrastive import ContrastiveConfig
from foundation.optim import OptimConfig
from foundation.pretrain import claim_folder, pretrain
from foundation.ranks import own_sessions
from foundation.sampling import Window, WindowReader
from foundation.train import TrainConfig, _Loop, fit
from foundation.training_data import spread

SMALL = ModelConfig(width=16, depth=1, heads=2, feed_forward=32, private_rank=3)
QUICK = TrainConfig(
    steps=4, windows_per_step=8, windows_per_session=4, val_every=4, val_windows=24, log_every=1, track=[]
)
ONLY_SPIKES = ObjectiveConfig(covariate_scale=0, time_contrast=0, behavior_contrast=0)


def train_here(world: Any, model: FoundationModel | None = None, **options: Any) -> FoundationModel:
    given = {"objective": ObjectiveConfig(), "optim": OptimConfig(), "train": QUICK, "seed": 0}
    return fit(model if model is not None else world.model(), world.data, **(given | options))


def rows(path: Path) -> list[dict[str, Any]]:
    """Lines of a log without what depends on the clock."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "windows_per_s"} for line in lines]


def same_tensors(a: FoundationModel, b: FoundationModel) -> bool:
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values())
    )


def config_of(corpus: Corpus, out: Path, **fields: Any) -> Config:
    held_out = sorted(set(corpus.subjects.values()))[-1:]
    data = DataConfig(corpus=str(corpus.path), held_out=held_out, window_s=0.6)
    return replace(Config(out=str(out), data=data, model=SMALL, train=QUICK), **fields)


# -- what trains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("layout", ["fused", "interleaved"])
def test_every_scheme_trains_alone(world: Any, scheme: str, layout: str) -> None:
    objective = ObjectiveConfig(masking=MaskingConfig(schemes={scheme: 1.0}))
    model = world.model(layout=layout)
    before = copy.deepcopy(model)
    after = train_here(world, model, objective=objective, train=replace(QUICK, steps=2, val_every=2))
    assert all(torch.isfinite(p).all() for p in after.parameters())
    assert not torch.equal(after.adapters.unit_rows, before.adapters.unit_rows)
    assert not torch.equal(after.trunk.blocks[0].expand.weight, before.trunk.blocks[0].expand.weight)


@pytest.mark.parametrize("name", ["spikes", "covariates", "time", "behavior"])
def test_every_objective_trains_alone(world: Any, tmp_path: Path, name: str) -> None:
    nothing = ObjectiveConfig(spikes=0, covariate_scale=0, time_contrast=0, behavior_contrast=0)
    objective = {
        "spikes": replace(nothing, spikes=1.0),
        "covariates": replace(nothing, covariate_scale=1.0),
        "time": replace(nothing, time_contrast=1.0),
        "behavior": replace(nothing, behavior_contrast=1.0, contrastive=ContrastiveConfig(discrete=["choice"])),
    }[name]
    before = world.model()
    after = train_here(world, copy.deepcopy(before), objective=objective, log=tmp_path / "log")
    assert not same_tensors(before, after)
    terms = {key.split("/")[0] for row in rows(tmp_path / "log") for key in row} - {"step", "split", "loss", "lr"}
    expected = {
        "spikes": {"spikes"},
        "covariates": {"choice", "wheel_speed", "whisker_energy", "lick"},
        "time": {"time_contrast", "behavior_contrast"},
        "behavior": {"time_contrast", "behavior_contrast"},
    }[name]
    assert terms == expected
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path / "log"))


def test_the_loss_falls(world: Any, tmp_path: Path) -> None:
    standing = OptimConfig(lr=0.0, row_lr=0.0, weight_decay=0.0)
    train_here(world, train=replace(QUICK, steps=1, val_every=1, val_windows=200), optim=standing, log=tmp_path / "0")
    train = replace(QUICK, steps=150, windows_per_step=16, val_every=50, val_windows=200)
    train_here(world, train=train, log=tmp_path / "1")
    before, after = (rows(tmp_path / name)[-1] for name in "01")
    for name, least in {"loss": 0.05, "spikes": 0.01, "wheel_speed": 0.05, "lick": 0.03, "time_contrast": 0.1}.items():
        assert after[name] < before[name] - least, (name, before[name], after[name])


def test_validation_is_split_by_scheme_for_modalities_alone(world: Any, tmp_path: Path) -> None:
    # 8 windows per session, one of them of the scheme with 8 anchors: as many pairs as windows must not confuse.
    train_here(world, train=replace(QUICK, val_windows=32), log=tmp_path / "log")
    last = rows(tmp_path / "log")[-1]
    assert {"spikes/neural", "wheel_speed/behavior", "time_contrast"} <= set(last)
    assert not [key for key in last if "contrast/" in key]
    assert "spikes/behavior" not in last


def test_worker_processes_change_nothing(world: Any) -> None:
    assert same_tensors(train_here(world), train_here(world, train=replace(QUICK, workers=1)))


def test_bf16_trains(world: Any, tmp_path: Path) -> None:
    half = train_here(world, train=replace(QUICK, precision="bf16", steps=8), log=tmp_path / "half")
    full = train_here(world, train=replace(QUICK, steps=8), log=tmp_path / "full")
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in half.parameters())
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("half", "full")]
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert not same_tensors(half, full)


def test_frozen_trunk_stays_bit_identical(world: Any) -> None:
    model = world.lively_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = train_here(world, model, trainable="adapters")
    for name, value in after.state_dict().items():
        changes = name in ("adapters.unit_rows", "adapters.session_rows")
        assert torch.equal(value, before[name]) != changes, name


@pytest.mark.parametrize("clip", [1e-4, 1e9])
def test_the_shared_gradient_is_clipped(world: Any, monkeypatch: pytest.MonkeyPatch, clip: float) -> None:
    norms = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train_here(world, optim=OptimConfig(clip=clip))
    assert len(norms) == QUICK.steps
    assert max(norms) <= clip * 1.001
    assert (max(norms) > 1e-3) == (clip > 1)


def test_training_stops_early_and_returns_the_best(world: Any, tmp_path: Path) -> None:
    # At a rate that destroys the model the first validation stays the best.
    train = replace(QUICK, steps=40, val_every=2, patience=3)
    optim = OptimConfig(lr=3.0, row_lr=3.0, warmup_share=0.5)
    log = tmp_path / "run" / "metrics.jsonl"
    model = train_here(world, train=train, optim=optim, folder=tmp_path / "run")
    val = [row for row in rows(log) if row["split"] == "val"]
    losses = [row["loss"] for row in val]
    best = int(np.argmin(losses))
    assert len(val) < 20
    assert len(val) == best + 1 + 3
    found = newest_checkpoint(tmp_path / "run")
    assert found is not None
    assert found.best_step == val[best]["step"]
    # Called again, nothing more is trained.
    again = train_here(world, train=train, optim=optim, folder=tmp_path / "run")
    assert same_tensors(model, again)
    assert [row for row in rows(log) if row["split"] == "val"] == val


def test_in_memory_and_on_disk_give_the_same_model(world: Any, tmp_path: Path) -> None:
    assert same_tensors(train_here(world), train_here(world, folder=tmp_path))


# -- resuming ---------------------------------------------------------------------------------------------------------


# Dropout draws from a generator, whose state has to come back too.
STOPPED: dict[str, Any] = {"model": replace(SMALL, dropout=0.2), "train": replace(QUICK, steps=12, val_every=3)}


@pytest.fixture(scope="module")
def whole(training_alone: Any, synthetic_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with training_alone():
        pretrain(config_of(synthetic_corpus, folder, **STOPPED))
    return folder


@pytest.mark.usefixtures("only_training")
@pytest.mark.parametrize("stop", [0, 5, 9])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    synthetic_corpus: Corpus, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    original = _Loop.update

    def update(self: _Loop, step: int, item: Any) -> Any:
        if step == stop:
            raise KeyboardInterrupt
        return original(self, step, item)

    torch.manual_seed(4)  # what else happened in the process does not matter
    monkeypatch.setattr(_Loop, "update", update)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config_of(synthetic_corpus, tmp_path / "stopped", **STOPPED))
    monkeypatch.setattr(_Loop, "update", original)
    assert not (tmp_path / "stopped/model").exists()
    torch.rand(17)
    pretrain(config_of(synthetic_corpus, tmp_path / "stopped", **STOPPED))
    assert rows(tmp_path / "stopped/metrics.jsonl") == rows(whole / "metrics.jsonl")
    assert same_tensors(load_model(tmp_path / "stopped"), load_model(whole))
    states = []
    for folder in (tmp_path / "stopped", whole):
        saved = last_checkpoint(folder)
        assert saved is not None
        states.append(saved)
    assert same_tensors(states[0][0], states[1][0])
    for key in ("rows", "generators", "adamw"):
        here, there = (torch.utils._pytree.tree_leaves(state[1][key]) for state in states)
        assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(here, there))


@pytest.mark.usefixtures("only_training")
@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 5])
def test_sigterm_saves_and_ends_and_the_run_goes_on_as_if_it_had_not(
    synthetic_corpus: Corpus,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
) -> None:
    """Between validations, and in the step of one. Kills from outside: `tests/test_faults.py`."""
    original, before = _Loop.update, signal.getsignal(signal.SIGTERM)

    def update(self: _Loop, at: int, item: Any) -> Any:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, at, item)

    monkeypatch.setattr(_Loop, "update", update)
    with pytest.raises(SystemExit) as ended:
        pretrain(config_of(synthetic_corpus, tmp_path / "stopped", **STOPPED))
    assert ended.value.code == 128 + signal.SIGTERM
    saved = newest_checkpoint(tmp_path / "stopped")
    assert saved is not None
    assert saved.step == step + 1
    assert f"stopped by SIGTERM at step {saved.step}, saved; the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(_Loop, "update", original)
    pretrain(config_of(synthetic_corpus, tmp_path / "stopped", **STOPPED))
    assert rows(tmp_path / "stopped/metrics.jsonl") == rows(whole / "metrics.jsonl")
    assert same_tensors(load_model(tmp_path / "stopped"), load_model(whole))


def test_readers_do_not_hear_the_sigterm_of_the_whole_job(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SLURM sends it to every process; one that died of it would take the run along before it has saved."""
    original, struck = _Loop.update, []

    def update(self: _Loop, at: int, item: Any) -> Any:
        if at == 2:
            readers = multiprocessing.active_children()
            struck.extend(reader.pid for reader in readers)
            for number in [*struck, os.getpid()]:
                os.kill(number, signal.SIGTERM)
            time.sleep(0.5)
            assert all(reader.is_alive() for reader in readers)
        return original(self, at, item)

    monkeypatch.setattr(_Loop, "update", update)
    with pytest.raises(SystemExit) as ended:
        train_here(world, train=replace(QUICK, steps=40, val_every=40, workers=1), folder=tmp_path)
    assert ended.value.code == 128 + signal.SIGTERM
    assert struck
    saved = newest_checkpoint(tmp_path)
    assert saved is not None
    assert saved.step == 3


def test_a_lost_best_checkpoint_is_replaced_by_the_next_best(world: Any, tmp_path: Path) -> None:
    """At a rate that destroys the model the first validation is the best; it is lost, and a later one follows it."""
    train = replace(QUICK, steps=8, val_every=2)
    optim = OptimConfig(lr=3.0, row_lr=3.0, warmup_share=0.5)
    train_here(world, train=replace(train, steps=6), optim=optim, folder=tmp_path)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.best_step) == (6, 2)
    (found.best_folder / "state.pt").write_bytes(b"")
    train_here(world, train=train, optim=optim, folder=tmp_path)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.best_step == 8


@pytest.mark.usefixtures("only_training")
def test_another_config_in_the_same_folder_is_refused(synthetic_corpus: Corpus, tmp_path: Path) -> None:
    config = config_of(synthetic_corpus, tmp_path / "run")
    pretrain(config)
    written = (tmp_path / "run/config.yaml").read_text()
    before = load_model(tmp_path / "run")
    with pytest.raises(RunError, match="another config"):
        pretrain(replace(config, seed=1))
    # What stopped before it trained, as for a mistaken path, holds nothing that could be lost.
    mistaken = replace(config, out=str(tmp_path / "new"), data=replace(config.data, corpus=str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"manifest\.json: not found"):
        pretrain(mistaken)
    claim_folder(tmp_path / "new", replace(config, out=str(tmp_path / "new")))
    assert "none" not in (tmp_path / "new/config.yaml").read_text()
    assert (tmp_path / "run/config.yaml").read_text() == written
    (tmp_path / "run/config.yaml").write_text(written[: len(written) // 2])  # as a power cut may leave it
    pretrain(config)
    assert (tmp_path / "run/config.yaml").read_text() == written
    assert same_tensors(load_model(tmp_path / "run"), before)
    assert yaml.safe_load(written)["train"]["steps"] == QUICK.steps


# -- losses that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_without_a_finite_loss_is_left_out_and_its_window_named(
    world: Any, tmp_path: Path, break_windows: Callable[..., None], capsys: pytest.CaptureFixture[str], value: float
) -> None:
    key = world.corpus.ids[0]
    break_windows(lambda w: w.recording_id == key and w.start_s < 40, value)
    model = train_here(world, train=replace(QUICK, steps=12, val_every=6), folder=tmp_path)
    lines = rows(tmp_path / "metrics.jsonl")
    left_out = [line for line in lines if line["split"] == "left out"]
    assert 0 < len(left_out) < 12
    for line in left_out:
        assert line["windows"]
        for text in line["windows"]:
            session, _, start = text.partition(" at ")
            assert session == key
            assert float(start.removesuffix(" s")) < 40
    trained = {line["step"] for line in lines if line["split"] == "train"}
    assert trained | {line["step"] for line in left_out} == set(range(1, 13))
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert "left out; windows that alone give no finite loss: " + left_out[0]["windows"][0] in capsys.readouterr().err


def test_a_run_that_diverges_ends_and_keeps_its_last_checkpoint(
    world: Any, tmp_path: Path, break_windows: Callable[..., None]
) -> None:
    train = replace(QUICK, steps=40, val_every=2)
    train_here(world, train=replace(train, steps=2), folder=tmp_path)
    break_windows(lambda w: True, float("nan"))
    with pytest.raises(RunError, match=r"10 updates in a row, up to step 12, .* not finite; start again"):
        train_here(world, train=replace(train, val_every=20), folder=tmp_path)
    saved = last_checkpoint(tmp_path)
    assert saved is not None
    assert saved[1]["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in saved[0].state_dict().values())


def test_a_validation_loss_that_is_not_finite_is_named_and_never_the_best(
    world: Any, tmp_path: Path, break_windows: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    key = world.corpus.ids[1]
    held = {w.start_s for w in world.data.val[key]}
    break_windows(lambda w: w.recording_id == key and w.start_s in held, float("nan"))
    train_here(world, folder=tmp_path)
    said = capsys.readouterr().err
    assert f"validation of {key}: " in said
    assert all(f"validation of {other}" not in said for other in world.corpus.ids if other != key)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.best_step is None


# -- who is trained on ------------------------------------------------------------------------------------------------


def test_a_held_out_animal_has_no_influence(tmp_path: Path) -> None:
    """Models are bit-identical whatever the held-out animal did; only the hash of the corpus tells."""
    from data_recipes import synthetic
    from foundation.corpus import write_manifest
    from foundation.recording_folder import write_recording

    options = {"num_subjects": 3, "num_units": 10, "num_trials": 40, "seed": 2}
    models = []
    for name in ("one", "two"):
        corpus = open_or_prepare("synthetic", tmp_path / name / "corpus", **options)
        if name == "two":
            other = synthetic.read(subject=2, session=0, num_units=14, num_trials=30, seed=99)
            write_recording(corpus.path, other, overwrite=True)
            corpus = write_manifest(corpus.path)
        config = config_of(corpus, tmp_path / name / "run")
        assert config.data.held_out == ["animal02"]
        models.append(FoundationModel.from_pretrained(pretrain(config)))
    assert same_tensors(*models)
    assert all(torch.equal(models[0].population[name], value) for name, value in models[1].population.items())
    for key, arrays in models[1].readouts.items():
        assert all(torch.equal(models[0].readouts[key][name], value) for name, value in arrays.items())
    assert all("fingerprint" in arrays for arrays in models[1].readouts.values())
    assert models[1].population
    for model in models:
        assert model.provenance["pretraining_subjects"] == ["animal00", "animal01"]
        assert set(model.adapters.sessions["subject_id"]) == {"animal00", "animal01"}
        assert not any("animal02" in key for key in model.provenance["pretraining_recordings"])
    assert models[0].channels == models[1].channels
    assert models[0].provenance["corpus_sha256"] != models[1].provenance["corpus_sha256"]


def test_test_trials_have_no_influence(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every window that is read in training lies in a train or validation trial."""
    from foundation.splits import ROLES, session_roles

    read: list[Window] = []
    original = WindowReader.read
    monkeypatch.setattr(WindowReader, "read", lambda self, w: (read.append(w), original(self, w))[1])
    train_here(world)
    roles = {key: session_roles(world.corpus[key]) for key in world.corpus.ids}
    found = {int(roles[w.recording_id][w.row]) for w in read}
    assert found == {ROLES["train"], ROLES["val"]}
    for window in read:
        trial = world.corpus[window.recording_id].trials.iloc[window.row]
        assert trial["start_s"] - 1e-9 <= window.start_s
        assert window.start_s + 0.02 * window.num_bins <= trial["stop_s"] + 1e-6


# -- parts ------------------------------------------------------------------------------------------------------------


def test_sessions_are_shared_out_evenly() -> None:
    work = {f"s{i}": int(n) for i, n in enumerate(np.random.default_rng(0).integers(10, 200, 40))}
    for ranks in (1, 2, 7):
        owners = own_sessions(work, ranks)
        assert sorted(key for mine in owners for key in mine) == sorted(work)
        loads = [sum(work[key] for key in mine) for mine in owners]
        assert max(loads) - min(loads) <= max(work.values())


def test_validation_windows_are_spread_over_sessions() -> None:
    windows = {key: [Window(key, float(i), 5, i) for i in range(n)] for key, n in {"a": 100, "b": 50, "c": 0}.items()}
    chosen = spread(windows, 30)
    assert [len(chosen[key]) for key in "abc"] == [20, 10, 0]
    assert chosen["a"][0].row == 0
    assert chosen["a"][-1].row == 99
    assert spread(windows, 150) == windows


def test_the_best_model_is_that_of_the_best_step(world: Any, tmp_path: Path) -> None:
    train = replace(QUICK, steps=9, val_every=3)
    model = train_here(world, folder=tmp_path, train=train)
    losses = {row["step"]: row["loss"] for row in rows(tmp_path / "metrics.jsonl") if row["split"] == "val"}
    found = newest_checkpoint(tmp_path)
    assert found is not None
    best = found.best_step
    assert best == min(losses, key=losses.__getitem__)
    assert same_tensors(model, best_model(tmp_path))
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert {f"step-{step:08d}" for step in (best, 6, 9)} <= kept
    assert len(kept) <= 3


def losses_and_gradients(world: Any, device: str, precision: torch.dtype) -> tuple[list[float], torch.Tensor]:
    """The joint loss of one batch of all schemes, and the gradient of the shared parameters."""
    model, batch = world.lively_model().to(device), world.batch(4)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,))
    objective = ObjectiveConfig(contrastive=ContrastiveConfig(discrete=["choice"]))
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        losses = joint_loss(model, batch.to(torch.device(device)), masks.to(torch.device(device)), objective)
    losses.total.backward()
    gradients = [p.grad.flatten().cpu() for p in model.shared_parameters() if p.grad is not None]
    return list(losses.terms.values()), torch.cat(gradients)


def test_bf16_gives_the_losses_and_gradients_of_fp32_within_a_bound(world: Any) -> None:
    """The bound that docs/objective.md states; the gradient of one batch, as a vector."""
    losses, gradient = losses_and_gradients(world, "cpu", torch.float32)
    half, other = losses_and_gradients(world, "cpu", torch.bfloat16)
    np.testing.assert_allclose(half, losses, rtol=0.01)
    assert float((gradient - other).norm() / gradient.norm()) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_an_accelerator_gives_the_losses_and_gradients_of_the_cpu(
    world: Any, precision: torch.dtype, tolerance: float
) -> None:
    losses, gradient = losses_and_gradients(world, "cpu", torch.float32)
    there, other = losses_and_gradients(world, "cuda", precision)
    np.testing.assert_allclose(there, losses, rtol=tolerance, atol=tolerance)
    assert float((gradient - other).norm() / gradient.norm()) < 2 * tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_on_an_accelerator_repeats(world: Any, tmp_path: Path, precision: str) -> None:
    train = replace(QUICK, precision=precision, steps=8)
    losses = []
    for name in ("one", "two"):
        model = train_here(world, folder=tmp_path / name, train=train)
        assert all(torch.isfinite(p).all() for p in model.parameters())
        losses.append([row["loss"] for row in rows(tmp_path / name / "metrics.jsonl")])
    np.testing.assert_allclose(*losses, rtol=1e-2)
