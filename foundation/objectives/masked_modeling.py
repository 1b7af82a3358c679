"""Masked modeling: negative log-likelihood of what was hidden, per modality.

Spikes: Poisson. Continuous covariates: squared error of normalized values. Categorical: cross-entropy. Events: Poisson.
Sums and counts are returned per window, so that they can be normalized over all ranks and split by scheme.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from foundation.channels import Channel, channel_slices
from foundation.masking import Masks
from foundation.model import Output
from foundation.sampling import Batch


@dataclass
class Tally:
    """A modality's loss in one batch: `(B,)` summed loss and `(B,)` what it is divided by."""

    total: torch.Tensor
    count: torch.Tensor


def spike_tally(output: Output, batch: Batch, masks: Masks) -> Tally:
    """Poisson negative log-likelihood (nats, without log k!) of hidden counts, counted per hidden spike."""
    device = output.states.device
    total = torch.zeros(len(batch), device=device)
    count = torch.zeros(len(batch), device=device)
    first = 0
    parts = zip(batch.spikes, masks.spikes, masks.unscored, output.log_rates, batch.sizes)
    for spikes, hidden, unscored, rates, size in parts:
        if rates is not None:
            local = first + masks.spikes_predicted[first : first + size].nonzero()[:, 0]
            pick = local - first
            target, mask = spikes[pick].to(rates.dtype), hidden[pick] & ~unscored[pick][:, None]
            loss = (rates.exp() - target * rates).masked_fill(~mask, 0.0)
            total = total.index_add(0, local, loss.sum(dim=(1, 2)))
            count = count.index_add(0, local, (target * mask).sum(dim=(1, 2)))
        first += size
    return Tally(total, count)


def covariate_tallies(output: Output, batch: Batch, masks: Masks, channels: list[Channel]) -> dict[str, Tally]:
    """The loss of each target channel, per hidden and observed bin (time scope) or trial (trial scope)."""
    tallies = {}
    for c, (channel, where) in enumerate(zip(channels, channel_slices(channels))):
        prediction = output.covariates[c]
        if prediction is None:
            continue
        values = batch.covariates[..., where]
        # A target that is no input is always unseen, so it is predicted wherever hiding could have shown it.
        hidden = masks.covariates[..., c] if channel.is_input else batch.valid
        wanted = hidden & batch.observed[..., c] & masks.covariates_predicted[:, None]
        if channel.spec.scope == "trial":
            trial = torch.arange(prediction.shape[1], device=prediction.device)
            inside = (batch.trial[:, :, None] == trial) & wanted[:, :, None]
            # All bins of a trial hold the same value: take it from its first bin.
            index = inside.to(torch.uint8).argmax(dim=1)
            values = values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))
            wanted = inside.any(dim=1)
        loss = element_loss(channel, prediction, values)
        tallies[channel.spec.name] = Tally((loss * wanted).sum(dim=1), wanted.sum(dim=1).to(loss.dtype))
    return tallies


def element_loss(channel: Channel, prediction: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Loss per element `(B, M)` of predictions and values `(B, M, width)`."""
    if channel.spec.kind == "categorical":
        return F.cross_entropy(prediction.flatten(0, 1).float(), values.argmax(-1).flatten(), reduction="none").view(
            values.shape[:2]
        )
    if channel.spec.kind == "event":
        rate = prediction[..., 0].float().clamp(-14, 5)
        return rate.exp() - values[..., 0] * rate
    return (prediction.float() - values).square().mean(-1)
