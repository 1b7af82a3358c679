"""Every YAML under configs/ loads, says only what differs from the defaults, and the demo's trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import simulated_allen, simulated_ibl
from data_recipes import allen, ibl, luo2025
from data_recipes.simulated_task import SPECS
from eval.bwb_tasks import TASKS
from foundation.config import Config, load_config
from foundation.corpus import Corpus
from foundation.pretrain import pretrain
from foundation.recording import Recording

FOLDER = Path(__file__).resolve().parents[1] / "configs"
RUNS = sorted(FOLDER.glob("*.yaml"))


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name; the schemes, which a config replaces as a whole, are one value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        is_branch = isinstance(value, dict) and value and key != "schemes"
        found |= leaves(value, f"{prefix}{key}.") if is_branch else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_config_loads_and_repeats_no_default(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    said, defaults = leaves(yaml.safe_load(path.read_text())), leaves(dataclasses.asdict(Config()))
    repeated = [key for key, value in said.items() if key in defaults and defaults[key] == value]
    assert repeated == []
    assert len(path.read_text().splitlines()) <= 40
    assert not set(config.data.held_out) & set(config.data.subjects)
    # A mixture holds out by hash: its animals are not known beforehand.
    assert config.data.held_out or config.data.corpora


def names_of(config: Config) -> set[str]:
    """Every covariate that a config names."""
    contrastive = config.objective.contrastive
    lists = (config.data.inputs, config.data.targets, contrastive.continuous, contrastive.discrete)
    return {name for names in lists for name in names} | set(config.objective.covariates)


def test_the_demo_names_what_the_synthetic_recipe_makes() -> None:
    assert names_of(load_config(FOLDER / "demo.yaml")) <= set(SPECS)


@pytest.mark.real
def test_the_rat_config_names_what_its_recipe_makes(real_data: Path) -> None:
    config = load_config(FOLDER / "luo2025.yaml")
    source = real_data / "luo2025"
    jobs = luo2025.sessions(source if source.is_dir() else real_data)
    recording: Recording = luo2025.read(**next(iter(jobs.values())))
    assert names_of(config) <= set(recording.covariates)


@pytest.mark.parametrize("arm", ["luo2025_ndt", "luo2025_mtm"])
def test_an_arm_has_the_animals_cuts_network_and_steps_of_what_it_is_compared_with(arm: str) -> None:
    ours, theirs = load_config(FOLDER / "luo2025.yaml"), load_config(FOLDER / f"{arm}.yaml")
    assert dataclasses.replace(theirs.data, inputs=ours.data.inputs) == ours.data
    for name in ("seed", "model", "optim", "train", "finetune"):
        assert getattr(theirs, name) == getattr(ours, name)
    # Spikes alone are predicted, and no scheme asks for anything else.
    assert theirs.objective.covariate_scale == theirs.objective.time_contrast == theirs.objective.behavior_contrast == 0
    assert not {"behavior", "spikes_only", "within_behavior", "cross"} & set(theirs.objective.masking.schemes)


def test_the_joint_config_names_what_its_recipes_make(tmp_path: Path) -> None:
    config = load_config(FOLDER / "ibl_allen.yaml")
    simulated_ibl.write_session(tmp_path / "ibl", units_per_probe=30, num_trials=20)
    simulated_allen.write_session(tmp_path / "a/session_1.nwb", session_id=1, subject="1", num_units=20, minutes=4)
    for name, recipe in (("ibl", ibl), ("allen", allen)):
        (job,) = recipe.sessions(str(tmp_path / ("ibl" if name == "ibl" else "a"))).values()
        part = config.data.corpora[name]
        assert {*part.inputs, *part.targets} <= set(recipe.read(**job).covariates)
    listed = {name for part in config.data.corpora.values() for name in (*part.inputs, *part.targets)}
    assert names_of(config) <= listed


def test_the_bench_config_predicts_what_suite_1_asks_for() -> None:
    config = load_config(FOLDER / "brain_wide_bench.yaml")
    mapped = yaml.safe_load((FOLDER / "brainsets" / "brain_wide_bench.yaml").read_text())["covariates"]
    assert names_of(config) <= set(mapped)
    wanted = {task.covariate for task in TASKS.values() if task.suite == "ts1"}
    assert set(config.data.corpora["bwb"].targets) == wanted <= set(mapped)


def test_the_demo_config_trains(synthetic_corpus: Corpus, tmp_path: Path) -> None:
    overrides = ["train.steps=2", "train.windows_per_step=8", "train.val_windows=16", "data.held_out=[animal03]"]
    paths = [f"data.corpus={synthetic_corpus.path}", f"out={tmp_path / 'run'}"]
    model = pretrain(load_config(FOLDER / "demo.yaml", [*overrides, *paths]))
    assert (model / "model.safetensors").exists()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "model",
        "tensorboard",
    ]
