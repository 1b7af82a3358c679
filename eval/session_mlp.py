"""Small networks of one session that read a label or a number from features of its spikes: a decoder without a trunk.

What a model that was trained on many sessions has to beat is a network that saw only this one. Fitted on train rows,
stopped early on validation rows; which features to give is for the caller to say.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from eval.early_stopping import fit_early
from eval.linear_fits import ScalarFit

WIDTH = 64
# Share of the features and of the hidden numbers that a training step hides.
DROPOUT = (0.3, 0.5)
WEIGHT_DECAY = 0.1


class SessionMlp(nn.Module):
    """Two hidden layers of GELU with dropout."""

    def __init__(self, num_features: int, generator: torch.Generator, width: int = WIDTH) -> None:
        """Draw the weights.

        Args:
            num_features: F.
            generator: Of the weights and of dropout.
            width: Of the hidden layers.
        """
        super().__init__()
        self.generator = generator
        self.first = _linear(num_features, width, generator)
        self.second = _linear(width, width, generator)
        self.last = _linear(width, 1, generator, gain=0.1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """One number per row, `(N, F)` to `(N,)`."""
        hidden = F.gelu(self.first(self._drop(features, DROPOUT[0])))
        hidden = F.gelu(self.second(self._drop(hidden, DROPOUT[1])))
        return self.last(self._drop(hidden, DROPOUT[1]))[:, 0]

    def _drop(self, values: torch.Tensor, share: float) -> torch.Tensor:
        """Dropout from the generator of the module, so that a run can be repeated whatever else draws numbers."""
        if not self.training:
            return values
        kept = torch.rand(values.shape, generator=self.generator) >= share
        return values * kept / (1 - share)


def _linear(inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp_fit(
    features: np.ndarray,
    target: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    kind: Literal["label", "value"],
    *,
    seeds: tuple[int, ...] = (0, 1),
    batch_size: int = 32,
) -> ScalarFit:
    """Mean logit (`label`) or value of a few networks, half of them stopped early on each half of the validation rows.

    The loss of a validation row is that of the networks which were stopped on the other half: the best epoch of many
    on a hundred trials looks far better there than it is, and the network would win every choice by validation loss.

    Args:
        features: `(N, F)`, standardized.
        target: `(N,)`; 0 or 1 for a label. What it holds beyond train and validation rows does not matter.
        train: Indices.
        val: Likewise, in order of time; a single one serves as both halves.
        kind: Log loss or squared error.
        seeds: Two networks each.
        batch_size: Rows per step.
    """
    x = torch.as_tensor(features, dtype=torch.float32)
    center, scale = (0.0, 1.0) if kind == "label" else (target[train].mean(), max(float(target[train].std()), 1e-9))
    y = torch.as_tensor((np.nan_to_num(target) - center) / scale, dtype=torch.float32)
    error = F.binary_cross_entropy_with_logits if kind == "label" else F.mse_loss
    halves = np.array_split(val, 2) if len(val) > 1 else [val, val]
    means, unseen = [], 0.0
    for k, (half, other) in enumerate((halves, halves[::-1])):
        outputs = []
        for seed in seeds:
            network = SessionMlp(features.shape[1], torch.Generator().manual_seed(2 * seed + k))
            fit_early(
                network,
                lambda batch, _: error(network(x[batch]), y[batch]),  # noqa: B023
                lambda: float(error(network(x[half]), y[half])),  # noqa: B023
                train,
                np.random.default_rng(2 * seed + k),
                batch_size=batch_size,
                learning_rate=2e-3,
                weight_decay=WEIGHT_DECAY,
                max_epochs=100,
                patience=5,
            )
            with torch.no_grad():
                outputs.append(network(x))
        mean = torch.stack(outputs).mean(dim=0)
        unseen += float(error(mean[other].double(), y[other].double())) * len(other)
        means.append(mean)
    value = torch.stack(means).mean(dim=0).double().numpy() * scale + center
    return ScalarFit(value, unseen / sum(map(len, halves)) * scale**2)
