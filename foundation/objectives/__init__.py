"""The joint loss: masked modeling and contrastive alignment, weighted as the config says.

An objective is a function from a forward pass to summed losses and counts; adding one is one file and one line in
`joint_loss`. Sums are divided by counts over all ranks, so gradients of the ranks add up to those of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from foundation.adapters import SessionRows
from foundation.masking import MaskingConfig, Masks
from foundation.model import FoundationModel
from foundation.objectives.contrastive import ContrastiveConfig, Gather, contrastive_losses
from foundation.objectives.masked_modeling import Tally, covariate_tallies, spike_tally
from foundation.sampling import Batch

# Weight of a covariate's loss where the config names none.
KIND_WEIGHT = {"categorical": 0.15, "continuous": 0.05, "event": 0.05}


@dataclass
class ObjectiveConfig:
    """Weights of the losses; 0 leaves an objective out.

    Attributes:
        spikes: Poisson loss per hidden spike.
        covariates: Weight by name; others take that of their kind (`KIND_WEIGHT`).
        covariate_scale: Multiplies every covariate weight; 0 leaves them all out.
        time_contrast: Weight of the time-contrastive head.
        behavior_contrast: Weight of the behavior-aligned head.
        masking: Schemes and shares.
        contrastive: Pairs.
    """

    spikes: float = 1.0
    covariates: dict[str, float] = field(default_factory=dict)
    covariate_scale: float = 1.0
    time_contrast: float = 0.02
    behavior_contrast: float = 0.02
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)


@dataclass
class LossTerms:
    """`total` with a gradient (this rank's share of the global loss), and the global value of each term."""

    total: torch.Tensor
    terms: dict[str, float]


def joint_loss(
    model: FoundationModel,
    batch: Batch,
    masks: Masks,
    config: ObjectiveConfig,
    *,
    rows: dict[str, SessionRows] | None = None,
    seed: tuple[int, ...] = (0,),
    reduce: Gather = lambda total: total,
    gather: Gather = lambda rows: rows,
    on_tally: Callable[[str, float, Tally], None] = lambda name, weight, tally: None,
) -> LossTerms:
    """The weighted sum of all objectives on one batch.

    Args:
        model: The model.
        batch: Windows of this rank.
        masks: What is hidden.
        config: Weights.
        rows: Rows checked out for training.
        seed: Of this step, for the contrastive pairs.
        reduce: Sums a tensor over ranks (no gradient needed).
        gather: Concatenates rows over ranks, with gradients.
        on_tally: Sees the name, weight and tally of each term (per window for modalities), for validation.
    """
    output = model(batch, masks, rows)
    tallies: dict[str, tuple[float, Tally]] = {}
    if config.spikes:
        tallies["spikes"] = config.spikes, spike_tally(output, batch, masks)
    if config.covariate_scale:
        kinds = {channel.spec.name: channel.spec.kind for channel in model.channels}
        for name, tally in covariate_tallies(output, batch, masks, model.channels).items():
            weight = config.covariates.get(name, KIND_WEIGHT[kinds[name]])
            tallies[name] = config.covariate_scale * weight, tally
    if config.time_contrast or config.behavior_contrast:
        weights = {"time": config.time_contrast, "behavior": config.behavior_contrast}
        for head, tally in contrastive_losses(model, output, batch, masks, config.contrastive, seed, gather).items():
            tallies[f"{head}_contrast"] = weights[head], tally
    for name, (weight, tally) in tallies.items():
        on_tally(name, weight, tally)
    sums = torch.stack([torch.stack([tally.total.sum(), tally.count.sum()]) for _, tally in tallies.values()])
    global_sums = reduce(sums.detach())
    means = sums[:, 0] / global_sums[:, 1].clamp(min=1.0)
    weights_of = sums.new_tensor([weight for weight, _ in tallies.values()])
    values = global_sums[:, 0] / global_sums[:, 1].clamp(min=1.0)
    terms = dict(zip(tallies, values.tolist()))
    # The states stay in the graph: every rank has to join the collectives of the backward pass, whatever its windows
    # leave to predict.
    total = (weights_of * means).sum() + 0.0 * output.states.sum()
    return LossTerms(total, {"loss": float(weights_of @ values), **terms})
