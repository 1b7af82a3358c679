"""Optimizers: AdamW for what is shared, row-wise Adam for adapters, one schedule for both.

Row-wise Adam updates only the rows of the sessions in the step, with that session's own step count, so rows of absent
sessions stay bit-identical and no gradient as large as the table exists (torch.optim.SparseAdam has one step count for
all rows and sorts indices that are contiguous here).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor
from torch.optim.adam import adam

from foundation.adapters import Adapters, SessionRows
from foundation.model import FoundationModel


@dataclass
class OptimConfig:
    """Rates and schedule.

    Attributes:
        lr: Peak rate of shared parameters.
        row_lr: Peak rate of adapter rows.
        weight_decay: Of shared matrices; norms, biases, embeddings and adapters have none.
        warmup_share: Share of the steps with a rising rate.
        floor: Rate at the end, relative to the peak (cosine in between).
        clip: Largest norm of the shared gradient.
        beta1: First-moment decay.
        beta2: Second-moment decay.
    """

    lr: float = 2.0e-3
    row_lr: float = 1.0e-2
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    floor: float = 0.02
    clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.98

    def __post_init__(self) -> None:
        """Reject rates and shares outside their range."""
        for name in ("lr", "row_lr", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("warmup_share", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, expected a number from 0 to 1")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, expected a number from 0 to below 1")


def rate_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate at `step` of `steps` relative to the peak: linear warm-up, then cosine down to `floor`."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def shared_optimizer(model: FoundationModel, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the shared parameters that require a gradient; only matrices of linear layers decay."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and not n.startswith("adapters.")]
    decays = [p for n, p in named if n.endswith(".weight") and p.ndim == 2]
    plain = [p for n, p in named if not (n.endswith(".weight") and p.ndim == 2)]
    groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    # The fused kernel takes no mixture of whole tensors and shards.
    fused = not any(isinstance(p, DTensor) for _, p in named)
    betas = config.beta1, config.beta2
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=1e-8, fused=fused, foreach=False)


class RowAdam:
    """Adam (Kingma & Ba 2015) on the rows of the sessions of a step, in place.

    Attributes:
        moments: First and second moments of unit rows and session rows, as large as the tables.
        steps: `(S,)` updates of each session so far.
    """

    def __init__(self, adapters: Adapters, config: OptimConfig) -> None:
        self.adapters = adapters
        self.config = config
        self.moments = {
            f"{table}_{order}": torch.zeros_like(getattr(adapters, table).detach())
            for table in ("unit_rows", "session_rows")
            for order in ("first", "second")
        }
        self.steps = torch.zeros(len(adapters.session_rows), dtype=torch.int64)

    @torch.no_grad()
    def step(self, rows: dict[str, SessionRows], lr: float) -> None:
        """Update the rows of the given sessions from their gradients."""
        tensors, grads, means, squares, counts = [], [], [], [], []
        for recording_id, leaf in rows.items():
            where = self._where(recording_id)
            for table, tensor in (("unit_rows", leaf.units), ("session_rows", leaf.session)):
                if tensor.grad is None:
                    continue
                tensors.append(tensor.detach())
                grads.append(tensor.grad)
                means.append(self.moments[f"{table}_first"][where[f"{table}_first"]])
                squares.append(self.moments[f"{table}_second"][where[f"{table}_second"]])
                # `adam` counts up what it is given, so each table gets a copy.
                counts.append(self.steps[where["steps"]][0].to(tensor))
            self.steps[where["steps"]] += 1
        if tensors:
            adam(
                tensors,
                grads,
                means,
                squares,
                [],
                counts,
                fused=True,
                amsgrad=False,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                lr=lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )

    def take(self, recording_ids: list[str]) -> dict[str, dict[str, torch.Tensor]]:
        """Copies of the moments and the step count of some sessions."""
        parts = {}
        for recording_id in recording_ids:
            where = self._where(recording_id)
            parts[recording_id] = {name: tensor[where[name]].cpu().clone() for name, tensor in self._tensors().items()}
        return parts

    def put(self, parts: dict[str, dict[str, torch.Tensor]]) -> None:
        """Restore what `take` returned.

        Raises:
            ValueError: It is of other tables.
        """
        for recording_id, part in parts.items():
            where = self._where(recording_id)
            for name, tensor in self._tensors().items():
                if part[name].shape != tensor[where[name]].shape:
                    raise ValueError(
                        f"optimizer state {name} of {recording_id} is {tuple(part[name].shape)}, "
                        f"expected {tuple(tensor[where[name]].shape)}; it belongs to another model"
                    )
                tensor[where[name]] = part[name].to(tensor)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**self.moments, "steps": self.steps}

    def _where(self, recording_id: str) -> dict[str, slice]:
        index, first, stop = self.adapters.span(recording_id)
        units, session = slice(first, stop), slice(index, index + 1)
        return {name: units if name.startswith("unit_rows") else session for name in self._tensors()}
