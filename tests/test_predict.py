"""Answers under any mask: what is hidden is what was asked, order and units of values hold, batches have no effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foundation.masking import Shape, collate, window_shapes
from foundation.predict import (
    Hide,
    answers,
    hide_all_but_spikes,
    hide_behavior,
    hide_future,
    hide_spikes,
    hide_units,
)
from foundation.sampling import STRUCTURE, Window


@pytest.fixture
def windows(world: Any) -> list[Window]:
    """Of two sessions, of several lengths, in no order."""
    found = [replace(w, num_bins=30 - i) for ws in list(world.data.val.values())[:2] for i, w in enumerate(ws[:6])]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def shape_of(world: Any, bins: int = 10, units: int = 4) -> Shape:
    return Shape(bins, units, world.channels, np.zeros(bins, int))


def test_what_is_hidden_is_what_was_asked(world: Any) -> None:
    shape = shape_of(world)
    encoding = hide_spikes(shape)
    assert encoding.bins.all()
    assert not encoding.covariates.any()
    assert not encoding.structure.any()
    decoding = hide_behavior(shape)
    assert decoding.covariates.all()
    assert not decoding.bins.any()
    shown = {STRUCTURE[f] for f in range(len(STRUCTURE)) if not decoding.structure[:, f].any()}
    assert shown == {"since_start", "in_trial"}
    embedding = hide_all_but_spikes(shape)
    assert embedding.covariates.all()
    assert embedding.structure.all()
    assert not embedding.bins.any()
    units = np.array([True, False, False, True])
    cosmooth = hide_units(units)(shape)
    assert cosmooth.units.tolist() == units.tolist()
    assert not cosmooth.bins.any()
    assert not cosmooth.covariates.any()
    assert not cosmooth.structure.any()
    assert cosmooth.spikes_predicted
    assert not cosmooth.covariates_predicted


@pytest.mark.parametrize(("bins", "known"), [(10, 8), (11, 8), (4, 3), (5, 4), (25, 20)])
def test_the_future_is_the_last_fifth(world: Any, bins: int, known: int) -> None:
    hidden = hide_future(0.8)(shape_of(world, bins))
    assert hidden.bins.tolist() == [t >= known for t in range(bins)]
    for c, channel in enumerate(world.channels):
        if channel.spec.scope == "time":
            assert hidden.covariates[:, c].tolist() == hidden.bins.tolist()
        else:
            assert (hidden.covariates[:, c] == (channel.spec.role == "behavior")).all()


@pytest.mark.parametrize("hide", [hide_spikes, hide_behavior, hide_future(0.8)], ids=["spikes", "behavior", "future"])
def test_answers_come_in_order_and_whatever_the_batch(world: Any, windows: list[Window], hide: Hide) -> None:
    model = world.lively_model()
    found = [list(answers(model, world.reader, windows, hide, batch_windows=size)) for size in (1, 5, 64)]
    for i, window in enumerate(windows):
        for several in found:
            answer = several[i]
            assert answer.window == window
            assert answer.states.shape == (window.num_bins, 16)
            assert answer.hidden.shape[0] == window.num_bins
            np.testing.assert_allclose(answer.states, found[0][i].states, atol=2e-5)
            np.testing.assert_allclose(answer.log_rates, found[0][i].log_rates, atol=2e-4)
            assert answer.log_rates.shape[0] == window.num_bins
            if hide is hide_behavior:
                assert answer.log_rates.shape == (window.num_bins, 0)
            assert answer.hidden.all() == (hide is hide_spikes)


def test_covariates_come_in_physical_units(world: Any, windows: list[Window]) -> None:
    model = world.lively_model()
    batch = world.reader.batch(windows[:1])
    masks = collate(batch, [hide_behavior(s) for s in window_shapes(batch, model.channels)], ["asked"])
    with torch.no_grad():
        output = model(batch, masks)
    answer = next(answers(model, world.reader, windows[:1], hide_behavior))
    for channel, prediction in zip(model.channels, output.covariates):
        name = channel.spec.name
        if prediction is None:
            assert name not in answer.covariates
            continue
        expected = prediction[0].numpy()
        if channel.spec.kind == "continuous":
            expected = expected * channel.std[0] + channel.mean[0]
            assert channel.std[0] != 1
        np.testing.assert_allclose(answer.covariates[name], expected, rtol=1e-5)
    assert answer.covariates["choice"].shape == (1, 2)
    assert answer.covariates["lick"].shape == (windows[0].num_bins, 1)


def test_hidden_units_answer_from_the_others(world: Any, windows: list[Window]) -> None:
    """Co-smoothing a unit does not depend on that unit's spikes, and does on another's."""
    model = world.lively_model()
    mine = [w for w in windows if w.recording_id == windows[0].recording_id]
    num_units = world.corpus[mine[0].recording_id].num_units
    hidden = np.arange(num_units) == 2
    batch = world.reader.batch(mine)
    masks = collate(batch, [hide_units(hidden)(s) for s in window_shapes(batch, model.channels)], ["asked"] * len(mine))
    results = []
    for unit in (None, 2, 3):
        spikes = batch.spikes[0].clone()
        if unit is not None:
            spikes[..., unit] += 5
        with torch.no_grad():
            results.append(model(replace(batch, spikes=[spikes]), masks).log_rates[0][..., 2])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
