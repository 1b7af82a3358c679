"""InfoNCE against CEBRA's, positives against brute force, and who takes part in which pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from foundation.masking import MaskingConfig, draw_masks
from foundation.objectives.contrastive import (
    ContrastiveConfig,
    contrastive_losses,
    draw_pairs,
    nearest_reference,
)

CONFIG = ContrastiveConfig(continuous=["wheel_speed"], discrete=["choice"])


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31), labels=st.integers(0, 2), classes=st.integers(0, 2), size=st.integers(0, 12))
def test_the_positive_is_the_nearest_of_another_window(seed: int, labels: int, classes: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = 9
    label, pool_label = rng.integers(0, 4, (anchors, labels)).astype(float), rng.integers(0, 4, (size, labels)) * 1.0
    kind, pool_kind = rng.integers(0, 2, (anchors, classes)), rng.integers(0, 2, (size, classes))
    window, pool_window = rng.integers(0, 3, anchors), rng.integers(0, 3, size)
    shift, tie = rng.integers(-1, 2, (anchors, labels)) * 1.0, rng.random(anchors)
    got = nearest_reference(label, kind, window, pool_label, pool_kind, pool_window, shift, tie)
    for a in range(anchors):
        allowed = [
            (float(((label[a] + shift[a] - pool_label[r]) ** 2).sum()), r)
            for r in range(size)
            if window[a] != pool_window[r] and (kind[a] == pool_kind[r]).all()
        ]
        nearest = [r for distance, r in allowed if distance == min(allowed)[0]]
        assert got[a] == (nearest[min(int(tie[a] * len(nearest)), len(nearest) - 1)] if nearest else -1)


def test_ties_are_broken_uniformly() -> None:
    rng = np.random.default_rng(0)
    anchors, references = 6000, 10
    pool_kind = np.arange(references)[:, None] % 2
    got = nearest_reference(
        np.zeros((anchors, 0)),
        np.zeros((anchors, 1), int),
        np.zeros(anchors, int),
        np.zeros((references, 0)),
        pool_kind,
        np.ones(references, int),
        np.zeros((anchors, 0)),
        rng.random(anchors),
    )
    counts = np.bincount(got, minlength=references)
    assert not counts[pool_kind[:, 0] == 1].any()
    assert stats.chisquare(counts[pool_kind[:, 0] == 0]).pvalue > 0.01


def test_only_windows_that_show_spikes_alone_take_part(world: Any) -> None:
    batch = world.batch(4)
    masks = draw_masks(batch, world.channels, MaskingConfig(), (0,), "spikes_only")
    masks.schemes = ["spikes_only" if w % 3 else "neural" for w in range(len(batch))]
    pairs = draw_pairs(batch, masks, CONFIG, (1,))
    bins = batch.valid.shape[1]
    used = {w for w in range(len(batch)) if w % 3}
    for flat in (pairs.anchor, pairs.reference, pairs.later[pairs.later >= 0]):
        assert {int(i) // bins for i in flat} == used
        assert batch.valid.flatten()[flat].all()
    assert len(pairs.anchor) == len(used) * CONFIG.anchors
    assert len(pairs.reference) == len(used) * CONFIG.references
    later = pairs.later >= 0
    assert (pairs.later[later] - pairs.anchor[later] == 5).all()  # 0.1 s of 20-ms bins
    assert (pairs.later[later] // bins == pairs.anchor[later] // bins).all()
    ends = np.array([batch.windows[i // bins].num_bins for i in pairs.anchor])
    assert np.array_equal(later, pairs.anchor % bins + 5 < ends)


def test_a_window_draws_its_pairs_whatever_else_is_in_the_batch(world: Any) -> None:
    full = world.reader.batch([ws[i] for ws in world.data.train.values() for i in (0, 5, 9)])
    masks = draw_masks(full, world.channels, MaskingConfig(), (0,), "spikes_only")
    pairs, bins = draw_pairs(full, masks, CONFIG, (1,)), full.valid.shape[1]
    window = full.windows[5]
    alone = world.reader.batch([window])
    few = draw_pairs(alone, draw_masks(alone, world.channels, MaskingConfig(), (0,), "spikes_only"), CONFIG, (1,))
    mine = pairs.anchor // bins == 5
    assert np.array_equal(pairs.anchor[mine] % bins, few.anchor)
    assert np.array_equal(pairs.tie[mine], few.tie)
    assert set(pairs.key[pairs.reference // bins == 5]) == set(few.key)


def naive_losses(world: Any, model: Any, batch: Any, masks: Any, seed: tuple[int, ...]) -> dict[str, list[float]]:
    """Both heads by loops; positives of the behavior head from an exhaustive search without a label change."""
    with torch.no_grad():
        states = model(batch, masks).states.flatten(0, 1)
        embedded = {head: model.project(states, head).double().numpy() for head in ("time", "behavior")}
    pairs, bins = draw_pairs(batch, masks, CONFIG, seed), batch.valid.shape[1]
    names = [channel.spec.name for channel in model.channels]
    c = names.index("choice")
    choice = batch.covariates[..., model.slices[c]].argmax(-1).flatten().numpy()
    known = batch.observed[..., c].flatten().numpy()
    losses: dict[str, list[float]] = {"time": [], "behavior": []}
    order = np.argsort(pairs.key, kind="stable")
    reference = pairs.reference[order]
    for a, anchor in enumerate(pairs.anchor):
        for head in losses:
            if head == "time":
                positive = pairs.later[a]
            else:
                allowed = [
                    r for r in reference if r // bins != anchor // bins and known[r] and choice[r] == choice[anchor]
                ]
                usable = known[anchor] and allowed
                positive = allowed[min(int(pairs.tie[a] * len(allowed)), len(allowed) - 1)] if usable else -1
            if positive >= 0:
                e = embedded[head]
                negative = np.exp(e[reference] @ e[anchor] / 0.1)
                losses[head].append(float(np.log(negative.sum()) - e[anchor] @ e[positive] / 0.1))
    return losses


def test_losses_equal_naive_loops_over_pairs(world: Any) -> None:
    model, batch = world.lively_model(), world.batch(4)
    # One whole session without choices: its anchors have no positive, its references are none.
    c = [channel.spec.name for channel in model.channels].index("choice")
    batch.observed[: batch.sizes[0], :, c] = False
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,), "spikes_only")
    discrete = replace(CONFIG, continuous=[])
    with torch.no_grad():
        model.log_temperature.fill_(float(np.log(0.1)))
        got = contrastive_losses(model, model(batch, masks), batch, masks, discrete, (3,))
    expected = naive_losses(world, model, batch, masks, (3,))
    for head, values in expected.items():
        assert int(got[head].count.sum()) == len(values) > 10
        assert float(got[head].total.sum()) == pytest.approx(sum(values), rel=1e-4)
    assert not got["behavior"].count[: batch.sizes[0] * CONFIG.anchors].any()


def test_no_window_of_the_scheme_gives_a_loss_of_zero(world: Any) -> None:
    model, batch = world.lively_model(), world.batch(1)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,), "neural")
    tallies = contrastive_losses(model, model(batch, masks), batch, masks, CONFIG, (0,)).values()
    for tally in tallies:
        assert float(tally.total.detach().sum()) == float(tally.count.sum()) == 0.0
    sum(tally.total.sum() for tally in tallies).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_without_labels_only_the_time_head_has_pairs(world: Any) -> None:
    model, batch = world.lively_model(), world.batch(2)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,), "spikes_only")
    tallies = contrastive_losses(model, model(batch, masks), batch, masks, ContrastiveConfig(), (0,))
    assert float(tallies["time"].count.sum()) > 0
    assert float(tallies["behavior"].count.sum()) == 0


def test_an_unknown_label_is_refused(world: Any) -> None:
    model, batch = world.lively_model(), world.batch(1)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,), "spikes_only")
    with pytest.raises(ValueError, match="no covariate 'speed'"):
        contrastive_losses(model, model(batch, masks), batch, masks, ContrastiveConfig(continuous=["speed"]), (0,))


def test_training_on_one_label_brings_alike_moments_together(world: Any) -> None:
    """Forty steps on the behavior head alone, discrete choice: alike choices become more alike than others."""
    model = world.lively_model()
    batch = world.batch(12)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,), "spikes_only")
    config = ContrastiveConfig(discrete=["choice"], anchors=16)
    optimizer = torch.optim.Adam(model.shared_parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        tally = contrastive_losses(model, model(batch, masks), batch, masks, config, (step,))["behavior"]
        loss = tally.total.sum() / tally.count.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.12
