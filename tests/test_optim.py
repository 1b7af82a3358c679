"""Row-wise Adam against torch.optim.Adam per session, untouched rows, and the schedule against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from foundation.masking import MaskingConfig, draw_masks
from foundation.objectives import ObjectiveConfig, joint_loss
from foundation.optim import OptimConfig, RowAdam, rate_factor, shared_optimizer

CONFIG = OptimConfig(row_lr=0.03)


def random_gradients(model: Any, keys: list[str], seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    rows = {key: model.adapters.rows(key, leaf=True) for key in keys}
    for leaf in rows.values():
        leaf.units.grad = torch.randn(leaf.units.shape, generator=generator)
        leaf.session.grad = torch.randn(leaf.session.shape, generator=generator)
    return rows


def test_each_session_gets_an_adam_of_its_own(world: Any) -> None:
    model = world.model()
    keys = world.corpus.ids
    twins = {
        key: [torch.nn.Parameter(t.clone()) for t in (model.adapters.rows(key).units, model.adapters.rows(key).session)]
        for key in keys
    }
    adams = {
        key: torch.optim.Adam(tensors, lr=0.03, betas=(CONFIG.beta1, CONFIG.beta2)) for key, tensors in twins.items()
    }
    row_adam = RowAdam(model.adapters, CONFIG)
    for step in range(12):
        # Sessions come at different frequencies, so their step counts differ.
        present = [key for i, key in enumerate(keys) if step % (i + 1) == 0]
        rows = random_gradients(model, present, step)
        for key in present:
            for parameter, gradient in zip(twins[key], (rows[key].units.grad, rows[key].session.grad)):
                parameter.grad = gradient.clone()
            adams[key].step()
        row_adam.step(rows, 0.03)
    for key in keys:
        torch.testing.assert_close(model.adapters.rows(key).units, twins[key][0].detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(model.adapters.rows(key).session, twins[key][1].detach(), atol=1e-6, rtol=1e-5)
    assert row_adam.steps.tolist() == [12, 6, 4, 3]


def test_rows_of_absent_sessions_stay_bit_identical(world: Any) -> None:
    model = world.model()
    row_adam = RowAdam(model.adapters, CONFIG)
    row_adam.step(random_gradients(model, world.corpus.ids, 0), 0.03)
    absent, present = world.corpus.ids[1:], world.corpus.ids[:1]
    parts, moments = model.adapters.take(absent), row_adam.take(absent)
    batch = world.batch(3, sessions=present)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,))
    rows = {key: model.adapters.rows(key, leaf=True) for key in batch.recording_ids}
    joint_loss(model, batch, masks, ObjectiveConfig(), rows=rows).total.backward()
    before = model.adapters.rows(present[0]).units.clone()
    row_adam.step(rows, 0.03)
    assert not torch.equal(model.adapters.rows(present[0]).units, before)
    for key in absent:
        after, state = model.adapters.take([key])[key], row_adam.take([key])[key]
        assert torch.equal(after.unit_rows, parts[key].unit_rows)
        assert torch.equal(after.session_row, parts[key].session_row)
        assert all(torch.equal(state[name], moments[key][name]) for name in state)
    # No gradient as large as a table was made.
    assert model.adapters.unit_rows.grad is None


def test_moments_are_taken_and_put_back(world: Any) -> None:
    model = world.model()
    row_adam = RowAdam(model.adapters, CONFIG)
    row_adam.step(random_gradients(model, world.corpus.ids[:2], 0), 0.03)
    parts = row_adam.take(world.corpus.ids)
    other = RowAdam(world.model().adapters, CONFIG)
    other.put(parts)
    assert torch.equal(other.steps, row_adam.steps)
    assert all(torch.equal(other.moments[name], row_adam.moments[name]) for name in other.moments)
    wrong = {world.corpus.ids[0]: {name: t[:-1] for name, t in parts[world.corpus.ids[0]].items()}}
    with pytest.raises(ValueError, match="belongs to another model"):
        other.put(wrong)


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_schedule_is_warm_up_then_cosine(steps: int) -> None:
    config = OptimConfig(warmup_share=0.2, floor=0.1)
    warmup = max(1, round(0.2 * steps))
    for step in range(steps + 5):
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            progress = min(1.0, (step - warmup) / max(1, steps - warmup))
            expected = 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
        assert rate_factor(step, steps, config) == pytest.approx(expected)
    factors = [rate_factor(step, steps, config) for step in range(steps + 1)]
    assert max(factors) == pytest.approx(1.0)
    if steps > 1:
        assert factors[-1] == pytest.approx(0.1)


def test_only_matrices_of_layers_decay(world: Any) -> None:
    model = world.model()
    decays, plain = shared_optimizer(model, CONFIG).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    decaying = {names[id(p)] for p in decays["params"]}
    others = {names[id(p)] for p in plain["params"]}
    assert decays["weight_decay"] == CONFIG.weight_decay
    assert plain["weight_decay"] == 0
    assert all(name.endswith(".weight") and "norm" not in name for name in decaying)
    assert {"mask_vectors", "value_embedding", "pool_queries", "trunk.norm.weight"} <= others
    assert not any(name.startswith("adapters.") for name in decaying | others)
    assert "log_temperature" not in others  # not trained unless asked for
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert decaying | others == trained
