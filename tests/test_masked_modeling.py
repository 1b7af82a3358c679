"""Loss terms against naive loops over ragged batches, and their normalization against the scheme drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foundation.channels import Channel
from foundation.masking import MaskingConfig, Masks, draw_masks
from foundation.model import FoundationModel, Output
from foundation.objectives import KIND_WEIGHT, ObjectiveConfig, joint_loss
from foundation.objectives.masked_modeling import covariate_tallies, element_loss, spike_tally
from foundation.recording import CovariateSpec
from foundation.sampling import Batch

MIXED = ("neural", "behavior", "cross", "units", "within_behavior", "future", "intra_region")


@pytest.fixture
def forward(world: Any) -> tuple[FoundationModel, Batch, Masks, Output]:
    """A ragged batch in which every window has a scheme of its own."""
    model, batch = world.lively_model(), world.batch(6)
    masks = draw_masks(batch, model.channels, MaskingConfig(schemes=dict.fromkeys(MIXED, 1.0)), (5,))
    assert set(masks.schemes) == set(MIXED)
    with torch.no_grad():
        return model, batch, masks, model(batch, masks)


def naive_spikes(batch: Batch, masks: Masks, output: Output) -> tuple[np.ndarray, np.ndarray]:
    total, count = np.zeros(len(batch)), np.zeros(len(batch))
    w = 0
    for s, size in enumerate(batch.sizes):
        predicted = [i for i in range(size) if masks.spikes_predicted[w + i]]
        for at, i in enumerate(predicted):
            for t in range(batch.windows[w + i].num_bins):
                for u in range(batch.spikes[s].shape[2]):
                    if masks.spikes[s][i, t, u] and not masks.unscored[s][i, u]:
                        log_rate, k = float(output.log_rates[s][at, t, u]), int(batch.spikes[s][i, t, u])
                        total[w + i] += math.exp(log_rate) - k * log_rate
                        count[w + i] += k
        w += size
    return total, count


def naive_covariate(
    batch: Batch, masks: Masks, output: Output, channels: list[Channel], c: int, where: slice
) -> tuple[np.ndarray, np.ndarray]:
    spec, total, count = channels[c].spec, np.zeros(len(batch)), np.zeros(len(batch))
    for w, window in enumerate(batch.windows):
        if not masks.covariates_predicted[w]:
            continue
        seen_trials = set()
        for t in range(window.num_bins):
            if not (masks.covariates[w, t, c] and batch.observed[w, t, c]):
                continue
            at = t
            if spec.scope == "trial":
                at = int(batch.trial[w, t])
                if at in seen_trials:
                    continue
                seen_trials.add(at)
            prediction = output.covariates[c][w, at].double().numpy()
            value = batch.covariates[w, t, where].double().numpy()
            if spec.kind == "categorical":
                loss = math.log(np.exp(prediction).sum()) - prediction[value.argmax()]
            elif spec.kind == "event":
                loss = math.exp(prediction[0]) - value[0] * prediction[0]
            else:
                loss = np.mean((prediction - value) ** 2)
            total[w], count[w] = total[w] + loss, count[w] + 1
    return total, count


def test_the_spike_loss_is_the_poisson_loss_of_hidden_counts(
    forward: tuple[FoundationModel, Batch, Masks, Output],
) -> None:
    _, batch, masks, output = forward
    tally = spike_tally(output, batch, masks)
    total, count = naive_spikes(batch, masks, output)
    np.testing.assert_allclose(tally.total.numpy(), total, rtol=1e-4)
    np.testing.assert_allclose(tally.count.numpy(), count)
    assert (count > 0).sum() > 5


def test_covariate_losses_equal_naive_loops(forward: tuple[FoundationModel, Batch, Masks, Output]) -> None:
    model, batch, masks, output = forward
    tallies = covariate_tallies(output, batch, masks, model.channels)
    kinds = set()
    for c, (channel, where) in enumerate(zip(model.channels, model.slices)):
        if not channel.is_target:
            assert channel.spec.name not in tallies
            continue
        total, count = naive_covariate(batch, masks, output, model.channels, c, where)
        tally = tallies[channel.spec.name]
        np.testing.assert_allclose(tally.total.numpy(), total, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(tally.count.numpy(), count)
        assert count.sum() > 0
        kinds.add((channel.spec.kind, channel.spec.scope))
    assert kinds == {("categorical", "trial"), ("continuous", "time"), ("event", "time")}


def test_two_dimensions_are_one_mean_squared_error() -> None:
    channel = Channel(CovariateSpec("xy", "continuous", "time", dim=2))
    prediction, values = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]])
    assert element_loss(channel, prediction, values).tolist() == [[2.5]]


def test_a_target_that_is_no_input_is_scored_wherever_covariates_are_predicted(world: Any) -> None:
    model, batch = world.lively_model(), world.batch(6)
    c = next(i for i, channel in enumerate(model.channels) if channel.spec.name == "wheel_speed")
    model.channels[c] = replace(model.channels[c], is_input=False)
    masks = draw_masks(batch, model.channels, MaskingConfig(), (0,), "within_behavior")
    with torch.no_grad():
        tally = covariate_tallies(model(batch, masks), batch, masks, model.channels)["wheel_speed"]
    assert tally.count.tolist() == (batch.observed[..., c] & batch.valid).sum(dim=1).tolist()


def test_the_joint_loss_is_the_weighted_sum_of_means(forward: tuple[FoundationModel, Batch, Masks, Output]) -> None:
    model, batch, masks, output = forward
    config = ObjectiveConfig(spikes=0.7, covariates={"lick": 0.3}, covariate_scale=0.5, time_contrast=0)
    config = replace(config, behavior_contrast=0)
    with torch.no_grad():
        losses = joint_loss(model, batch, masks, config)
    total, count = naive_spikes(batch, masks, output)
    terms = {"spikes": (0.7, total.sum() / count.sum())}
    for c, (channel, where) in enumerate(zip(model.channels, model.slices)):
        if channel.is_target:
            total, count = naive_covariate(batch, masks, output, model.channels, c, where)
            weight = 0.3 if channel.spec.name == "lick" else KIND_WEIGHT[channel.spec.kind]
            terms[channel.spec.name] = (0.5 * weight, total.sum() / count.sum())
    for name, (_, value) in terms.items():
        assert losses.terms[name] == pytest.approx(value, rel=1e-4), name
    expected = sum(weight * value for weight, value in terms.values())
    assert float(losses.total) == pytest.approx(expected, rel=1e-4)
    assert losses.terms["loss"] == pytest.approx(expected, rel=1e-4)


def test_windows_that_hide_nothing_of_a_modality_do_not_dilute_its_loss(world: Any) -> None:
    model, batch = world.lively_model(), world.batch(6)
    config = ObjectiveConfig(time_contrast=0, behavior_contrast=0)
    neural = draw_masks(batch, model.channels, config.masking, (0,), "neural")
    with torch.no_grad():
        alone = joint_loss(model, batch, neural, config).terms
        # The first window decodes behavior instead; the spike loss becomes the mean over the others.
        mixed = draw_masks(batch, model.channels, config.masking, (0,), "neural")
        mixed.spikes_predicted[0] = False
        mixed.covariates_predicted[0] = True
        mixed.covariates[0] = True
        some = joint_loss(model, batch, mixed, config).terms
        output = model(batch, neural)
    total, count = naive_spikes(batch, neural, output)
    assert alone["spikes"] == pytest.approx(total.sum() / count.sum(), rel=1e-4)
    assert some["spikes"] == pytest.approx(total[1:].sum() / count[1:].sum(), rel=1e-4)
    assert alone["wheel_speed"] == 0.0
    assert some["wheel_speed"] > 0.0


def test_a_term_of_weight_zero_is_left_out(forward: tuple[FoundationModel, Batch, Masks, Output]) -> None:
    model, batch, masks, _ = forward
    with torch.no_grad():
        spikes = joint_loss(model, batch, masks, ObjectiveConfig(covariate_scale=0, time_contrast=0)).terms
        covariates = joint_loss(
            model, batch, masks, ObjectiveConfig(spikes=0, time_contrast=0, behavior_contrast=0)
        ).terms
    assert set(spikes) == {"loss", "spikes", "time_contrast", "behavior_contrast"}
    assert "spikes" not in covariates
    assert {"choice", "lick"} <= set(covariates)
