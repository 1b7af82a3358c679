"""Sessions at the edge of what exists are pretrained on, adapted to and scored, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_recipes import synthetic
from eval.results import read_results
from foundation.__main__ import main
from foundation.checkpoint import load_model
from foundation.corpus import Corpus, write_manifest
from foundation.recording import Recording
from foundation.recording_folder import write_recording
from tests.test_held_out import SMALL, finetuned

MANY = 600


def _units(recording: Recording, keep: np.ndarray) -> Recording:
    """The units `keep` alone; spikes of the others are gone."""
    new = np.cumsum(keep) - 1
    mine = keep[recording.spike_units]
    return replace(
        recording,
        spike_times=recording.spike_times[mine],
        spike_units=new[recording.spike_units[mine]].astype(np.int32),
        units=recording.units[keep].reset_index(drop=True),
    )


def one_unit(recording: Recording) -> Recording:
    """The busiest unit alone."""
    busiest = np.bincount(recording.spike_units, minlength=recording.num_units).argmax()
    return _units(recording, np.arange(recording.num_units) == busiest)


def many_units(recording: Recording) -> Recording:
    """Hundreds of units at 1 Hz."""
    rng, stop = np.random.default_rng(0), float(recording.domain[-1, 1])
    num = rng.poisson(MANY * stop)
    regions = recording.units["region"].to_numpy()[np.arange(MANY) % recording.num_units]
    return replace(
        recording,
        spike_times=np.sort(rng.uniform(0, stop, num)),
        spike_units=rng.integers(0, MANY, num).astype(np.int32),
        units=pd.DataFrame({"unit_id": [str(i) for i in range(MANY)], "region": regions}),
    )


def a_silent_unit(recording: Recording) -> Recording:
    """Unit 2 never fires."""
    mine = recording.spike_units != 2
    return replace(recording, spike_times=recording.spike_times[mine], spike_units=recording.spike_units[mine])


def three_trials(recording: Recording) -> Recording:
    """The first three trials."""
    covariates = {
        name: replace(one, values=one.values[:3], observed=one.observed[:3]) if one.spec.scope == "trial" else one
        for name, one in recording.covariates.items()
    }
    return replace(recording, trials=recording.trials.iloc[:3].reset_index(drop=True), covariates=covariates)


def no_behavior(recording: Recording) -> Recording:
    """No covariate is ever observed."""
    covariates = {}
    for name, one in recording.covariates.items():
        blank = replace(one, values=np.zeros_like(one.values), observed=np.zeros_like(one.observed))
        covariates[name] = (
            replace(blank, times=one.times[:0]) if one.spec.kind == "event" and one.times is not None else blank
        )
    return replace(recording, covariates=covariates)


EXTREMES: dict[str, Callable[[Recording], Recording]] = {
    change.__name__: change for change in (one_unit, many_units, a_silent_unit, three_trials, no_behavior)
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Of each kind a session to pretrain on and one of an animal that is held out, and two ordinary ones."""
    folder = tmp_path_factory.mktemp("corpus")

    def write(subject: int, name: str, change: Callable[[Recording], Recording]) -> None:
        made = change(synthetic.read(subject=subject, session=0, num_units=12, num_trials=60, seed=0))
        units = made.units.assign(unit_id=[f"extreme/{name}/{i}" for i in range(made.num_units)])
        info = replace(made.info, recording_id=f"extreme/{name}", subject_id=name)
        write_recording(folder, replace(made, info=info, units=units))

    for subject in (0, 1):
        write(subject, f"ordinary{subject}", lambda recording: recording)
    for k, (name, change) in enumerate(EXTREMES.items()):
        write(10 + k, name, change)
        write(20 + k, f"new_{name}", change)
    return write_manifest(folder)


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretrained on all kinds together."""
    root = tmp_path_factory.mktemp("run")
    held = ", ".join(f"new_{name}" for name in EXTREMES)
    (root / "extreme.yaml").write_text(f"name: extreme\ndata: {{corpus: {corpus.path}, held_out: [{held}]}}\n")
    options = [f"out={root / 'base'}", "train.steps=20", "train.val_every=10", *SMALL]
    assert main(["train", str(root / "extreme.yaml"), *options]) == 0
    return root / "base"


def test_all_kinds_are_pretrained_on_together(run: Path, corpus: Corpus) -> None:
    model = load_model(run)
    kept = {name for name in EXTREMES if name != "three_trials"} | {"ordinary0", "ordinary1"}
    assert set(model.provenance["pretraining_subjects"]) == kept
    assert set(model.adapters.sessions["recording_id"]) == {f"extreme/{name}" for name in kept}
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert "left out" not in (run / "metrics.jsonl").read_text()


EVERY = {"encode E2", "forecast"}
WITH_BEHAVIOR = EVERY | {"choice", "decode_wheel_speed causal", "decode_wheel_speed acausal"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one_unit", WITH_BEHAVIOR),  # no other unit to be told from
        ("a_silent_unit", WITH_BEHAVIOR | {"cosmooth b"}),
        ("no_behavior", EVERY | {"cosmooth b"}),
    ],
)
def test_each_kind_is_adapted_to_and_scored(
    run: Path, corpus: Corpus, tmp_path: Path, name: str, expected: set[str]
) -> None:
    assert finetuned(run, corpus, tmp_path / "new", f"new_{name}") == 0
    command = ["evaluate", str(tmp_path / "new"), "--corpus", str(corpus.path), "--subjects", f"new_{name}"]
    tasks = ["--tasks", "encode", "cosmooth", "forecast", "choice", "decode_wheel_speed", "--baselines", "quick"]
    assert main([*command, "--out", str(tmp_path / "out"), *tasks]) == 0
    rows, _ = read_results(tmp_path / "out")
    assert set(rows["task"]) == expected
    for task in expected:
        assert set(rows[rows["task"] == task]["kind"]) == {"model", "baseline", "null"}
    assert np.isfinite(rows["value"]).all()


def test_too_few_trials_for_a_split_are_refused_in_words(
    run: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetuned(run, corpus, tmp_path / "new", "new_three_trials") == 2
    assert "extreme/new_three_trials: no train window; the session is too short" in capsys.readouterr().err
    assert not list((tmp_path / "new").rglob("*.safetensors"))
