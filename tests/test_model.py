"""The model: what is hidden stays hidden, units have no order, batches have no effect, and disk changes no bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from foundation.masking import SCHEMES, MaskingConfig, Masks, draw_masks
from foundation.model import (
    READ_IN_STD,
    READ_OUT_STD,
    FoundationConfig,
    FoundationModel,
    ModelConfig,
    Output,
)
from foundation.sampling import Batch
from foundation.training_data import add_sessions

LAYOUTS = ("fused", "interleaved")


def copy_batch(batch: Batch) -> Batch:
    return replace(
        batch,
        spikes=[s.clone() for s in batch.spikes],
        covariates=batch.covariates.clone(),
        observed=batch.observed.clone(),
        structure=batch.structure.clone(),
    )


def run(model: FoundationModel, batch: Batch, masks: Masks) -> Output:
    with torch.no_grad():
        return model(batch, masks)


def same(a: Output, b: Output) -> bool:
    """Whether every prediction and state is bit-identical."""
    return (
        torch.equal(a.states, b.states)
        and all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a.log_rates, b.log_rates))
        and all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a.covariates, b.covariates))
    )


def value_columns(model: FoundationModel, per_channel: torch.Tensor) -> torch.Tensor:
    """`(..., C)` to `(..., V)`."""
    return per_channel.repeat_interleave(torch.tensor([c.width for c in model.channels]), dim=-1)


def scramble(model: FoundationModel, batch: Batch, masks: Masks, *, hidden: bool, what: str) -> Batch:
    """Other values of one kind wherever they are hidden (or, as a control, wherever they are not)."""
    rng = torch.Generator().manual_seed(5)
    changed = copy_batch(batch)
    if what == "spikes":
        for spikes, mask in zip(changed.spikes, masks.spikes):
            other = torch.randint(0, 30, spikes.shape, generator=rng).to(torch.uint8)
            spikes[mask == hidden] = other[mask == hidden]
    elif what == "structure":
        other = torch.randn(batch.structure.shape, generator=rng)
        changed.structure[masks.structure == hidden] = other[masks.structure == hidden]
    else:
        readable = torch.tensor([c.is_input for c in model.channels])
        where = (masks.covariates | ~readable) == hidden
        other = torch.randn(batch.covariates.shape, generator=rng)
        pick = value_columns(model, where)
        changed.covariates[pick] = other[pick]
        changed.observed[where] = torch.rand(batch.observed.shape, generator=rng)[where] < 0.5
    return changed


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_hidden_values_influence_nothing(world: Any, layout: str, scheme: str) -> None:
    model, batch = world.lively_model(layout=layout), world.batch(3)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (1,), scheme)
    answer = run(model, batch, masks)
    for what in ("spikes", "structure", "covariates"):
        assert same(run(model, scramble(model, batch, masks, hidden=True, what=what), masks), answer), what
        # The control: what is visible does influence the predictions, so the test above can fail.
        if scheme == ("neural" if what == "spikes" else "spikes_only"):
            continue  # nothing of it is visible
        if what == "covariates" and scheme == "behavior":
            continue
        assert not same(run(model, scramble(model, batch, masks, hidden=False, what=what), masks), answer), what


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_no_gradient_reaches_hidden_values(world: Any, layout: str, scheme: str) -> None:
    model, batch = world.lively_model(layout=layout), copy_batch(world.batch(3))
    masks = draw_masks(batch, model.channels, MaskingConfig(), (2,), scheme)
    batch.covariates.requires_grad_()
    batch.structure.requires_grad_()
    output = model(batch, masks)
    predictions = [p for p in (*output.log_rates, *output.covariates, output.states) if p is not None]
    sum((p**2).sum() for p in predictions).backward()
    hidden = value_columns(model, masks.covariates)
    assert batch.covariates.grad is not None
    assert batch.structure.grad is not None
    assert not batch.covariates.grad[hidden].any()
    assert not batch.structure.grad[masks.structure].any()
    assert torch.isfinite(batch.covariates.grad).all()
    if scheme in ("neural", "units", "within_neural"):
        assert batch.covariates.grad[~hidden].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_target_that_is_no_input_is_never_read(world: Any, layout: str) -> None:
    model = world.lively_model(layout=layout)
    c = next(i for i, channel in enumerate(model.channels) if channel.spec.name == "wheel_speed")
    model.channels[c] = replace(model.channels[c], is_input=False)
    batch = copy_batch(world.batch(2))
    masks = draw_masks(batch, model.channels, MaskingConfig(), (1,), "neural")
    answer = run(model, batch, masks)
    batch.covariates[..., model.slices[c]] += 3
    batch.observed[..., c] ^= True
    assert same(run(model, batch, masks), answer)


def test_a_trial_is_one_value_in_all_its_bins(world: Any) -> None:
    """Changing the hidden choice of whole trials, in every bin of them, changes no prediction."""
    model, batch = world.lively_model(), world.batch(3)
    c = next(i for i, channel in enumerate(model.channels) if channel.spec.name == "choice")
    for scheme in ("within_behavior", "cross", "behavior", "future"):
        masks = draw_masks(batch, model.channels, MaskingConfig(), (3,), scheme)
        changed, flipped = copy_batch(batch), 0
        for w in range(len(batch)):
            for trial in set(batch.trial[w].tolist()) - {-1}:
                bins = (batch.trial[w] == trial) & batch.valid[w]
                if masks.covariates[w, bins, c].any():
                    flipped += 1
                    values = changed.covariates[w, bins][:, model.slices[c]]
                    changed.covariates[w, bins.nonzero()[:, 0], model.slices[c]] = values.flip(-1)
        assert flipped, scheme
        assert same(run(model, changed, masks), run(model, batch, masks)), scheme


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", ["neural", "units", "future", "cross", "behavior"])
def test_permuting_units_with_their_rows_permutes_predictions(world: Any, layout: str, scheme: str) -> None:
    model, batch = world.lively_model(layout=layout), copy_batch(world.batch(2))
    masks = draw_masks(batch, model.channels, MaskingConfig(), (1,), scheme)
    answer = run(model, batch, masks)
    orders = []
    for s, key in enumerate(batch.recording_ids):
        order = torch.randperm(batch.spikes[s].shape[2], generator=torch.Generator().manual_seed(s))
        batch.spikes[s], masks.spikes[s] = batch.spikes[s][..., order], masks.spikes[s][..., order]
        _, first, stop = model.adapters.span(key)
        with torch.no_grad():
            for table in (model.adapters.unit_rows, model.adapters.unit_center):
                table[first:stop] = table[first:stop][order].clone()
        orders.append(order)
    moved = run(model, batch, masks)
    torch.testing.assert_close(moved.states, answer.states, atol=2e-5, rtol=1e-4)
    for order, here, there in zip(orders, moved.log_rates, answer.log_rates):
        if there is not None:
            torch.testing.assert_close(here, there[..., order], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", ["neural", "units", "future", "cross", "within_behavior"])
def test_a_window_alone_gets_the_answer_it_gets_in_a_batch(world: Any, layout: str, scheme: str) -> None:
    model, batch = world.lively_model(layout=layout), world.batch(3)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (4,), scheme)
    together, first = run(model, batch, masks), 0
    spikes = [row for part in masks.spikes for row in part]
    rates = [row for part, n in zip(together.log_rates, batch.sizes) for row in (part if part is not None else [0] * n)]
    for w, window in enumerate(batch.windows):
        alone = world.reader.batch([window])
        bins = window.num_bins
        mask = Masks(
            [spikes[w][None, :bins]],
            [torch.zeros(1, spikes[w].shape[1], dtype=torch.bool)],
            *(getattr(masks, name)[w : w + 1, :bins] for name in ("bins", "covariates", "structure")),
            masks.spikes_predicted[w : w + 1],
            masks.covariates_predicted[w : w + 1],
            [masks.schemes[w]],
        )
        single = run(model, alone, mask)
        torch.testing.assert_close(single.states[0], together.states[w, :bins], atol=2e-5, rtol=1e-4)
        if single.log_rates[0] is not None:
            torch.testing.assert_close(single.log_rates[0][0], rates[w][:bins], atol=2e-4, rtol=1e-4)
        for channel, here, there in zip(model.channels, single.covariates, together.covariates):
            if here is not None:
                shown = slice(bins) if channel.spec.scope == "time" else slice(here.shape[1])
                torch.testing.assert_close(here[0, shown], there[w, shown], atol=2e-5, rtol=1e-4)
        first += 1
    assert first == len(batch)


def test_windows_with_other_numbers_of_trials_have_finite_gradients(world: Any) -> None:
    model = world.lively_model()
    key = world.corpus.ids[0]
    trials = world.corpus[key].trials
    windows = world.data.train[key][:2]
    # From the end of a trial into the next one: two trials and the gap between them; and a window outside all trials.
    over = replace(windows[0], start_s=float(trials["stop_s"][3] - 0.2), num_bins=120)
    outside = replace(windows[0], start_s=float(trials["stop_s"][3] + 0.02), num_bins=8)
    batch = world.reader.batch([*windows, over, outside])
    assert batch.trial.max() == 1
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,), "behavior")
    output = model(batch, masks)
    sum(p.square().sum() for p in output.covariates if p is not None).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# -- weights ----------------------------------------------------------------------------------------------------------


def check_weights(model: FoundationModel) -> None:
    """Every parameter is finite, of the spread that its kind starts with."""
    width = model.shape.width
    fixed = {"value_embedding": 0.1, "mask_vectors": 0.02, "modality_vectors": 0.02, "pool_queries": 0.0}
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.abs().max() < 10, name
        last = name.split(".")[-1]
        if last in fixed:
            assert float(parameter.detach().std()) == pytest.approx(fixed[last], rel=0.4, abs=1e-8), name
        elif last == "weight" and parameter.ndim == 2:
            assert float(parameter.detach().std()) == pytest.approx(parameter.shape[1] ** -0.5, rel=0.35), name
        elif "norm" in name and last == "weight":
            assert (parameter == 1).all(), name
        elif last == "bias":
            assert not parameter.any(), name
    rows = model.adapters.unit_rows.detach()
    slices = model.adapters.layout.slices()
    assert float(rows[:, slices["read_in"]].std()) == pytest.approx(READ_IN_STD, rel=0.2)
    assert float(rows[:, slices["read_out"]].std()) == pytest.approx(READ_OUT_STD, rel=0.2)
    assert rows.shape[1] == model.adapters.layout.num_columns == slices["own"].stop
    assert width == model.config.model["width"]
    assert model.log_temperature.exp().tolist() == pytest.approx([0.1, 0.1])


def test_nothing_is_uninitialised(world: Any, tmp_path: Path) -> None:
    sessions = world.corpus.ids
    model = world.model(sessions=sessions[:2])
    check_weights(model)
    model.save_pretrained(tmp_path)
    loaded = FoundationModel.from_pretrained(tmp_path)
    check_weights(loaded)
    add_sessions(loaded, world.data, sessions[2:], seed=0)
    check_weights(loaded)


def test_rows_start_at_the_rates_of_train_windows(world: Any) -> None:
    from foundation.binning import bin_spikes

    model, key = world.model(), world.corpus.ids[1]
    windows = world.data.train[key]
    counts = np.concatenate([bin_spikes(world.corpus[key], w.start_s, w.num_bins, 0.02) for w in windows]).astype(float)
    rows = model.adapters.rows(key)
    np.testing.assert_allclose(rows.part("bias")[:, 0].exp().numpy(), np.maximum(counts.mean(0), 1e-4), rtol=1e-4)
    np.testing.assert_allclose(rows.center.numpy(), np.sqrt(counts).mean(axis=0), rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(world: Any) -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    one, other, third = world.model(seed=0), world.model(seed=0), world.model(seed=1)
    assert torch.equal(torch.rand(3), expected)
    for (name, a), b, c in zip(one.named_parameters(), other.parameters(), third.parameters()):
        assert torch.equal(a, b), name
        if name in ("value_embedding", "adapters.session_rows"):
            assert not torch.equal(a, c), name


def test_rows_of_a_session_do_not_depend_on_the_others(world: Any) -> None:
    all_of_them, one = world.model(), world.model(sessions=world.corpus.ids[2:3])
    key = world.corpus.ids[2]
    assert torch.equal(all_of_them.adapters.rows(key).units, one.adapters.rows(key).units)
    assert torch.equal(all_of_them.adapters.rows(key).session, one.adapters.rows(key).session)


# -- disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(world: Any, tmp_path: Path) -> tuple[FoundationModel, Path]:
    model = world.lively_model()
    model.provenance = {"pretraining_subjects": ["animal00"], "adapted": {"synthetic/animal01_0": {"roles": [0, 1]}}}
    model.readouts = {
        key: {"encode.weights": torch.randn(3, 4), "encode.mix": torch.tensor(0.5)} for key in world.corpus.ids[1:3]
    }
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_save_load_and_add_an_animal_change_no_old_output(world: Any, tmp_path: Path, layout: str) -> None:
    old, new = world.corpus.ids[:3], world.corpus.ids[3]
    model, batch = world.lively_model(layout=layout), world.batch(3, sessions=old)
    model.keep_sessions(old)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (1,))
    answer = run(model, batch, masks)
    model.save_pretrained(tmp_path)
    loaded = FoundationModel.from_pretrained(tmp_path).eval()
    assert same(run(loaded, batch, masks), answer)
    add_sessions(loaded, world.data, [new], seed=0)
    assert same(run(loaded, batch, masks), answer)
    loaded.save_pretrained(tmp_path / "more")
    again = FoundationModel.from_pretrained(tmp_path / "more").eval()
    assert again.adapters.sessions["recording_id"].tolist() == [*old, new]
    assert same(run(again, batch, masks), answer)


def test_everything_survives_the_disk(saved: tuple[FoundationModel, Path]) -> None:
    model, folder = saved
    assert isinstance(AutoConfig.from_pretrained(folder), FoundationConfig)
    loaded = AutoModel.from_pretrained(folder)
    assert isinstance(loaded, FoundationModel)
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values()):
        assert torch.equal(a, b), name
    assert loaded.channels == model.channels
    assert loaded.provenance == model.provenance
    assert loaded.shape == model.shape
    pd.testing.assert_frame_equal(loaded.adapters.units, model.adapters.units)
    pd.testing.assert_frame_equal(loaded.adapters.sessions, model.adapters.sessions)
    assert loaded.readouts.keys() == model.readouts.keys()
    for key, arrays in model.readouts.items():
        assert all(torch.equal(arrays[name], loaded.readouts[key][name]) for name in arrays)


def test_tensor_names_hold_no_unit_and_no_session(saved: tuple[FoundationModel, Path]) -> None:
    model, folder = saved
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {name for name in names if name.startswith("adapters.")} == {
        f"adapters.{table}" for table in ("unit_rows", "session_rows", "unit_center")
    }
    text = " ".join([*names, *load_file(folder / "readouts.safetensors"), (folder / "config.json").read_text()])
    for name in [*model.adapters.sessions["recording_id"], *model.adapters.sessions["subject_id"]]:
        assert name not in text
    # Another session adds rows, not names.
    model.keep_sessions(model.adapters.sessions["recording_id"].tolist()[:1])
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("name", ["units", "sessions"])
def test_a_truncated_sidecar_is_refused(saved: tuple[FoundationModel, Path], name: str) -> None:
    _, folder = saved
    pd.read_parquet(folder / f"{name}.parquet").iloc[:-1].to_parquet(folder / f"{name}.parquet", index=False)
    with pytest.raises(ValueError, match="mixed up"):
        FoundationModel.from_pretrained(folder)


def test_sidecars_of_another_model_are_refused(world: Any, saved: tuple[FoundationModel, Path], tmp_path: Path) -> None:
    _, folder = saved
    world.model(sessions=world.corpus.ids[:2]).save_pretrained(tmp_path / "other")
    for name in ("units.parquet", "sessions.parquet"):
        shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(ValueError, match="mixed up"):
        FoundationModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["units.parquet", "sessions.parquet", "provenance.json", "readouts.safetensors"])
def test_a_missing_sidecar_is_refused(saved: tuple[FoundationModel, Path], name: str) -> None:
    (saved[1] / name).unlink()
    with pytest.raises((ValueError, OSError), match=name):
        FoundationModel.from_pretrained(saved[1])


def test_dropped_sessions_take_their_readouts_with_them(saved: tuple[FoundationModel, Path], tmp_path: Path) -> None:
    model, _ = saved
    kept = next(iter(model.readouts))
    model.keep_sessions([kept])
    model.save_pretrained(tmp_path / "kept")
    assert list(FoundationModel.from_pretrained(tmp_path / "kept").readouts) == [kept]


def test_unit_embeddings_leave_out_rate_and_drift_and_the_session_s_own_basis(world: Any) -> None:
    model, key = world.lively_model(), world.corpus.ids[0]
    before = model.unit_embeddings(key)
    assert before.shape[0] == world.corpus[key].num_units
    slices, rank = model.adapters.layout.slices(), model.shape.private_rank
    with torch.no_grad():
        rows = model.adapters.unit_rows
        rows[:, slices["bias"]] += 1
        rows[:, slices["drift"]] += 1
    assert np.array_equal(model.unit_embeddings(key), before)
    # Another basis of the private part gives the same rates, so it must give the same embedding.
    turn = torch.linalg.qr(torch.randn(rank, rank, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        rows[:, slices["private_in"]] = rows[:, slices["private_in"]] @ turn
        out = rows[:, slices["private_out"]].view(len(rows), -1, rank)
        rows[:, slices["private_out"]] = (out @ turn).flatten(1)
    np.testing.assert_allclose(model.unit_embeddings(key), before, atol=1e-5)
    with torch.no_grad():
        rows[:, slices["read_in"]] += 1
    assert not np.allclose(model.unit_embeddings(key), before)


def test_a_layout_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.layout is 'stacked'"):
        ModelConfig(layout="stacked")  # type: ignore[arg-type]


def test_the_config_on_disk_is_plain_json(saved: tuple[FoundationModel, Path]) -> None:
    raw = json.loads((saved[1] / "config.json").read_text())
    assert raw["model_type"] == "foundation"
    assert raw["num_units"] == len(saved[0].adapters.units)
