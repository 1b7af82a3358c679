"""Gradient descent on train rows that keeps the weights of the best validation epoch; for networks of one session."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn


def fit_early(
    module: nn.Module,
    loss: Callable[[np.ndarray, int], torch.Tensor],
    validate: Callable[[], float],
    rows: np.ndarray,
    rng: np.random.Generator,
    *,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    max_epochs: int,
    patience: int,
) -> float:
    """AdamW in shuffled batches; stops `patience` epochs after the best one and goes back to its weights.

    Args:
        module: Trained in place; in evaluation mode at the end.
        loss: Of a batch of rows, given how many steps there have been.
        validate: Loss that early stopping watches, called in evaluation mode without gradients.
        rows: `(N,)` train rows.
        rng: Order of the rows.
        batch_size: Rows per step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, on matrices only.
        max_epochs: At most.
        patience: Epochs without a better validation loss.

    Returns:
        The best validation loss.
    """
    optimizer = torch.optim.AdamW(_groups(module.parameters(), weight_decay), lr=learning_rate)
    best, kept, since, steps = float("inf"), _copy(module), 0, 0
    for _ in range(max_epochs):
        module.train()
        for batch in np.array_split(rng.permutation(rows), max(1, round(len(rows) / batch_size))):
            optimizer.zero_grad()
            value = loss(batch, steps)
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            steps += 1
        module.eval()
        with torch.no_grad():
            current = validate()
        if current < best:
            best, kept, since = current, _copy(module), 0
        else:
            since += 1
            if since >= patience:
                break
    module.load_state_dict(kept)
    module.eval()
    return best


def _copy(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    all_of_them = list(parameters)
    return [
        {"params": [p for p in all_of_them if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in all_of_them if p.ndim <= 1], "weight_decay": 0.0},
    ]
