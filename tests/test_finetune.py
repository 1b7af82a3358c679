"""Adaptation: the trunk is left alone, the animal is alone, only its own train and validation trials count."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundation.adapters import SessionPart
from foundation.checkpoint import RunError, find_adapted, load_model
from foundation.corpus import Corpus, write_manifest
from foundation.decoding import DecodingConfig
from foundation.finetune import Assignment, FinetuneConfig, adapt, finetune
from foundation.masking import MaskingConfig
from foundation.model import FoundationModel
from foundation.objectives import ObjectiveConfig
from foundation.optim import OptimConfig
from foundation.predict import answers, hide_spikes
from foundation.readout import ReadoutConfig
from foundation.recording import Recording
from foundation.recording_folder import write_recording
from foundation.sampling import WindowReader
from foundation.splits import NO_ROLE, ROLES, session_roles
from foundation.train import TrainConfig, fit
from foundation.training_data import add_sessions, training_data

KEY = "synthetic/animal03_0"
READOUT = ReadoutConfig(penalties=[100.0], coupling_penalties=[300.0], components=6, history_components=3, groups=2)
QUICK = FinetuneConfig(
    steps=6,
    full_steps=3,
    few_shot_steps=6,
    windows_per_step=16,
    val_every=3,
    patience=0,
    readout=READOUT,
    decoding=DecodingConfig(causal_bins=300),
)
NO_READOUT = replace(QUICK, readout=replace(READOUT, enabled=False), decoding=DecodingConfig(enabled=False))
OBJECTIVE = ObjectiveConfig()


@pytest.fixture(scope="module")
def base(tiny_run: Path) -> FoundationModel:
    return load_model(tiny_run)


@pytest.fixture(scope="module")
def adapted(base: FoundationModel, synthetic_corpus: Corpus) -> FoundationModel:
    return adapt(base, synthetic_corpus, [KEY], QUICK, OBJECTIVE)


def same_tensors(a: FoundationModel, b: FoundationModel) -> bool:
    pairs = [(a.state_dict(), b.state_dict()), *((a.readouts.get(k, {}), b.readouts.get(k, {})) for k in a.readouts)]
    return all(x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x) for x, y in pairs)


def shared(model: FoundationModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith("adapters.")}


def with_other_trials(corpus: Corpus, folder: Path, change: np.ndarray) -> Corpus:
    """The corpus of one animal, spikes and behavior of the marked trials replaced."""
    recording: Recording = corpus[KEY]
    rng = np.random.default_rng(7)
    bounds = recording.trials[["start_s", "stop_s"]].to_numpy(dtype=float)[change]

    def inside(times: np.ndarray) -> np.ndarray:
        return np.asarray(((times[:, None] >= bounds[:, 0]) & (times[:, None] < bounds[:, 1])).any(axis=1))

    units = np.array(recording.spike_units)
    marked = inside(recording.spike_times)
    units[marked] = rng.integers(0, recording.num_units, marked.sum())
    covariates = {}
    for name, covariate in recording.covariates.items():
        if covariate.spec.kind == "event":
            covariates[name] = replace(covariate, times=covariate.times[~inside(covariate.times)])
            continue
        values = np.array(covariate.values)
        where = change if covariate.times is None else inside(covariate.times)
        values[where] = rng.permutation(values[where])
        covariates[name] = replace(covariate, values=values)
    write_recording(folder, replace(recording, spike_units=units, covariates=covariates))
    return write_manifest(folder)


def test_the_adapter_track_leaves_every_shared_tensor_bit_identical(
    base: FoundationModel, adapted: FoundationModel
) -> None:
    assert shared(adapted).keys() == shared(base).keys()
    for name, value in shared(base).items():
        assert torch.equal(shared(adapted)[name], value), name
    assert adapted.adapters.sessions["recording_id"].tolist() == [KEY]
    assert adapted.readouts.keys() == {KEY}


def test_the_base_is_left_as_it_is(base: FoundationModel, tiny_run: Path, adapted: FoundationModel) -> None:
    assert same_tensors(base, load_model(tiny_run))
    assert base.provenance["adapted"] == {}
    assert KEY in adapted.provenance["adapted"]


def test_the_rows_were_trained(base: FoundationModel, synthetic_corpus: Corpus, adapted: FoundationModel) -> None:
    fresh = copy.deepcopy(base)
    reader = WindowReader(synthetic_corpus, base.channels, base.config.bin_size_s)
    data = training_data(reader, [KEY], base.config.window_s, session_roles)
    add_sessions(fresh, data, [KEY], 0)
    assert not torch.equal(fresh.adapters.rows(KEY).units, adapted.adapters.rows(KEY).units)
    assert torch.equal(fresh.adapters.rows(KEY).center, adapted.adapters.rows(KEY).center)


def test_other_tracks_train_the_trunk(base: FoundationModel, synthetic_corpus: Corpus) -> None:
    for track in ("full", "scratch"):
        model = adapt(base, synthetic_corpus, [KEY], NO_READOUT, OBJECTIVE, track=track)
        assert not torch.equal(model.trunk.norm.weight, base.trunk.norm.weight)
        assert model.provenance["track"] == track
        assert model.provenance["pretraining_subjects"] == (
            [] if track == "scratch" else base.provenance["pretraining_subjects"]
        )
    # The control from scratch does not depend on the pretrained weights.
    other = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert same_tensors(model, adapt(other, synthetic_corpus, [KEY], NO_READOUT, OBJECTIVE, track="scratch"))


def test_an_animal_is_adapted_alone(base: FoundationModel, synthetic_corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="each on its own"):
        adapt(base, synthetic_corpus, [KEY, "synthetic/animal00_0"], QUICK, OBJECTIVE)
    with pytest.raises(ValueError, match="pretrained on"):
        adapt(base, synthetic_corpus, ["synthetic/animal00_0"], QUICK, OBJECTIVE)


def test_test_trials_change_nothing(
    base: FoundationModel, synthetic_corpus: Corpus, adapted: FoundationModel, tmp_path: Path
) -> None:
    """Rows, convex read-out and statistics are bit-identical whatever happened in test trials and in unused ones."""
    roles = session_roles(synthetic_corpus[KEY])
    unused = (roles == ROLES["test"]) | (roles == NO_ROLE)
    other = with_other_trials(synthetic_corpus, tmp_path / "unused", unused)
    assert same_tensors(adapt(base, other, [KEY], QUICK, OBJECTIVE), adapted)
    # The control: train trials do matter.
    other = with_other_trials(synthetic_corpus, tmp_path / "train", roles == ROLES["train"])
    assert not same_tensors(adapt(base, other, [KEY], QUICK, OBJECTIVE), adapted)


def test_few_shot_uses_its_trials_and_no_other(base: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path) -> None:
    assignment = Assignment(train_trials=8, draw=1)
    roles = assignment.roles(synthetic_corpus[KEY])
    assert (roles == ROLES["train"]).sum() == 8
    full = session_roles(synthetic_corpus[KEY])
    assert (full[roles == ROLES["train"]] == ROLES["train"]).all()
    assert (full[roles == ROLES["val"]] == ROLES["val"]).all()
    model = adapt(base, synthetic_corpus, [KEY], QUICK, OBJECTIVE, assignment=assignment)
    used = np.isin(roles, [ROLES["train"], ROLES["val"]])
    other = with_other_trials(synthetic_corpus, tmp_path, ~used)
    assert same_tensors(model, adapt(base, other, [KEY], QUICK, OBJECTIVE, assignment=assignment))
    assert model.provenance["adapted"][KEY]["roles"] == roles.tolist()
    assert model.provenance["adapted"][KEY]["train_trials"] == 8
    with pytest.raises(ValueError, match="ask for fewer"):
        adapt(base, synthetic_corpus, [KEY], QUICK, OBJECTIVE, assignment=Assignment(train_trials=1000))


def test_the_same_call_goes_on_where_it_stopped(
    base: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(NO_READOUT, tracks=["adapter", "full", "scratch"])
    corpus = synthetic_corpus.select(subjects=["animal03"])
    whole = finetune(base, corpus, ["animal03"], tmp_path / "whole", config, OBJECTIVE)

    import foundation.finetune as module

    def stop(*args: Any, track: str = "adapter", **kwargs: Any) -> FoundationModel:
        if track == "full":
            raise KeyboardInterrupt
        return adapt(*args, track=track, **kwargs)

    monkeypatch.setattr(module, "adapt", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(base, corpus, ["animal03"], tmp_path / "stopped", config, OBJECTIVE)
    assert [p.name for p in (tmp_path / "stopped/animal03").iterdir() if p.is_dir()] == ["adapter"]
    monkeypatch.setattr(module, "adapt", adapt)
    kept = (tmp_path / "stopped/animal03/adapter/model.safetensors").stat().st_mtime_ns
    again = finetune(base, corpus, ["animal03"], tmp_path / "stopped", config, OBJECTIVE)
    assert (tmp_path / "stopped/animal03/adapter/model.safetensors").stat().st_mtime_ns == kept
    for here, there in zip(again, whole):
        assert here.relative_to(tmp_path / "stopped") == there.relative_to(tmp_path / "whole")
        assert same_tensors(load_model(here), load_model(there))
    with_later = [replace(config, tracks=[track]) for track in ("adapter", "full", "scratch")]
    for one in with_later:  # a track may be added to the folder later
        finetune(base, corpus, ["animal03"], tmp_path / "later", one, OBJECTIVE)
    for there in whole:
        assert same_tensors(load_model(tmp_path / "later" / there.relative_to(tmp_path / "whole")), load_model(there))
    with pytest.raises(RunError, match="other settings"):
        finetune(base, corpus, ["animal03"], tmp_path / "stopped", replace(config, steps=7), OBJECTIVE)
    with pytest.raises(RunError, match="other settings"):
        finetune(base, corpus, ["animal03"], tmp_path / "stopped", config, OBJECTIVE, seed=1)


@pytest.mark.parametrize("what", ["base", "objective"])
def test_a_model_of_another_base_or_objective_is_not_taken_for_this_one(
    base: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path, what: str
) -> None:
    corpus = synthetic_corpus.select(subjects=["animal03"])
    finetune(base, corpus, ["animal03"], tmp_path, NO_READOUT, OBJECTIVE, base_path="runs/one")
    other = replace(OBJECTIVE, spikes=0.5) if what == "objective" else OBJECTIVE
    path = "runs/two" if what == "base" else "runs/one"
    with pytest.raises(RunError, match=f"other settings.*{what}"):
        finetune(base, corpus, ["animal03"], tmp_path, NO_READOUT, other, base_path=path)


def test_an_adapted_model_is_found_by_its_recording(
    base: FoundationModel, synthetic_corpus: Corpus, tiny_run: Path, tmp_path: Path
) -> None:
    corpus = synthetic_corpus.select(subjects=["animal03"])
    folder = finetune(base, corpus, ["animal03"], tmp_path, NO_READOUT, OBJECTIVE)[0]
    assert json.loads((folder / "request.json").read_text())["seed"] == 0
    assert same_tensors(find_adapted(tmp_path, KEY, "animal03"), load_model(folder))
    assert len(find_adapted(tiny_run, "synthetic/animal00_0", "animal00").adapters.sessions) == 3
    with pytest.raises(RunError, match="foundation finetune"):
        find_adapted(tiny_run, KEY, "animal03")


def test_permuting_units_permutes_what_adaptation_finds(
    base: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    """The place of a unit in the array is no input: units moved together with their first rows end as they would."""
    recording = synthetic_corpus[KEY]
    order = np.random.default_rng(3).permutation(recording.num_units)
    place = np.argsort(order)
    moved = replace(
        recording,
        spike_units=place[recording.spike_units].astype(np.int32),
        units=recording.units.iloc[order].reset_index(drop=True),
    )
    write_recording(tmp_path, moved)
    corpora = [synthetic_corpus, write_manifest(tmp_path)]
    # The scheme `units` hides by place, which is a random choice of units, so it is left out.
    schemes = {"neural": 1.0, "behavior": 1.0, "cross": 1.0, "future": 1.0, "spikes_only": 1.0}
    objective = ObjectiveConfig(masking=MaskingConfig(schemes=schemes))
    found = []
    first: SessionPart | None = None
    for corpus in corpora:
        reader = WindowReader(corpus, base.channels, base.config.bin_size_s)
        data = training_data(reader, [KEY], base.config.window_s, session_roles)
        model = copy.deepcopy(base)
        model.keep_sessions([])
        add_sessions(model, data, [KEY], 0)
        if first is None:
            first = model.adapters.take([KEY])[KEY]
        else:
            assert torch.allclose(model.adapters.take([KEY])[KEY].center, first.center[order])
            model.adapters.unit_rows.data.copy_(first.unit_rows[order])
        train = TrainConfig(steps=5, windows_per_step=8, val_every=5, track=[])
        fit(model, data, objective=objective, optim=OptimConfig(), train=train, seed=0, trainable="adapters")
        found.append(list(answers(model, reader, data.val[KEY][:10], hide_spikes)))
    for here, there in zip(*found):
        np.testing.assert_allclose(there.log_rates, here.log_rates[:, order], atol=2e-3)
        np.testing.assert_allclose(there.states, here.states, atol=2e-3)
