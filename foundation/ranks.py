"""What several processes share: sessions by owner, gradients by sum, contrastive references by gathering."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed.nn
from accelerate import Accelerator


def own_sessions(work: dict[str, int], num_ranks: int) -> list[list[str]]:
    """Sessions of each rank, so that the work is even: the heaviest first, each to the lightest rank."""
    owners: list[list[str]] = [[] for _ in range(num_ranks)]
    load = np.zeros(num_ranks)
    for recording_id in sorted(work, key=lambda key: (-work[key], key)):
        rank = int(load.argmin())
        owners[rank].append(recording_id)
        load[rank] += work[recording_id]
    return [sorted(sessions) for sessions in owners]


def sum_gradients(parameters: Iterable[torch.nn.Parameter], accelerator: Accelerator) -> None:
    """Sum gradients over ranks in one flat all-reduce; a missing gradient counts as zero."""
    parameters = list(parameters)
    if not parameters:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    flat = accelerator.reduce(flat, "sum")
    first = 0
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_(flat[first : first + parameter.numel()].view_as(parameter))
        first += parameter.numel()


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
