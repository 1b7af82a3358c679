"""What several processes share: sessions by owner, gradients by sum, contrastive references by gathering."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed.nn
from accelerate import Accelerator
from torch.distributed.tensor import DTensor


def own_sessions(work: dict[str, int], num_ranks: int) -> list[list[str]]:
    """Sessions of each rank, so that the work is even: the heaviest first, each to the lightest rank."""
    owners: list[list[str]] = [[] for _ in range(num_ranks)]
    load = np.zeros(num_ranks)
    for recording_id in sorted(work, key=lambda key: (-work[key], key)):
        rank = int(load.argmin())
        owners[rank].append(recording_id)
        load[rank] += work[recording_id]
    return [sorted(sessions) for sessions in owners]


def sum_gradients(
    parameters: Iterable[torch.nn.Parameter], accelerator: Accelerator, flags: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum gradients over ranks in one flat all-reduce; a missing gradient counts as zero.

    Args:
        parameters: The same on all ranks; those in shards are left alone, as FSDP sums them.
        accelerator: Of the launch.
        flags: `(F,)` numbers that travel along, float32.

    Returns:
        The flags' sums over ranks.
    """
    gradients = []
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flags = torch.zeros(0, device=accelerator.device) if flags is None else flags
    flat = accelerator.reduce(torch.cat([*(gradient.flatten() for gradient in gradients), flags]), "sum")
    first = 0
    for gradient in gradients:
        gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
        first += gradient.numel()
    return flat[first:]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks, in rank order, with gradients back to their owners; ranks may hold different numbers."""
    world = torch.distributed.get_world_size()
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    torch.distributed.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padded = torch.nn.functional.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
    if rows.requires_grad:
        pieces = torch.distributed.nn.functional.all_gather(padded)
    else:
        pieces = [torch.empty_like(padded) for _ in range(world)]
        torch.distributed.all_gather(list(pieces), padded.contiguous())
    return torch.cat([piece[:size] for piece, size in zip(pieces, sizes)])
