"""The loop of a contrastive fit, in one process or all of an `accelerate launch`; knows neither pairs nor sessions."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import trange

from foundation.ranks import sum_gradients

#: This rank's share of each head's loss `(H,)`, from the generator of the step and (rank, number of ranks).
Losses = Callable[[np.random.Generator, tuple[int, int]], torch.Tensor]


def train(
    losses: Losses,
    optimizer: torch.optim.Optimizer,
    weights: torch.Tensor,
    steps: range,
    generator: Callable[[int], np.random.Generator],
    verbose: bool = False,
) -> np.ndarray:
    """Minimize the weighted sum of losses.

    Args:
        losses: Of a step. All ranks draw the same pairs and score their share, so that a run does not depend on the
            number of ranks but for rounding.
        optimizer: Holds the parameters that are trained.
        weights: `(H,)`.
        steps: Numbers of the steps.
        generator: Of a step, by its number.
        verbose: Show a progress bar.

    Returns:
        `(len(steps),)` the loss over all ranks, nats.

    Raises:
        ValueError: The loss is not finite.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator(cpu=weights.device.type == "cpu") if world > 1 else None
    rank = accelerator.process_index if accelerator else 0
    history = torch.zeros(len(steps), device=weights.device)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place in trange(len(steps), disable=not verbose, desc="contrastive"):
        loss = weights @ losses(generator(steps[place]), (rank, world))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if accelerator:
            sum_gradients(trained, accelerator)
        optimizer.step()
        history[place] = loss.detach()
    if accelerator:
        history = accelerator.reduce(history, "sum")
    finite = torch.isfinite(history)
    if not finite.all():
        raise ValueError(
            f"the loss is not finite from step {steps[int((~finite).nonzero()[0])]} on, expected a number; scale the "
            "activity, or use a smaller learning_rate or a larger temperature"
        )
    return history.cpu().numpy()
