"""The trunk in shards: every rank holds a part of its weights, gradients and moments (FSDP2, Zhao et al. 2023).

For trunks that do not fit a device with their AdamW state; a step then gathers the weights of one block at a time.
Embeddings and heads stay whole on every rank, adapters stay with their owners.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from foundation.model import FoundationModel, new_trunk
from foundation.trunk import Trunk


def shard_trunk(trunk: Trunk, device: torch.device) -> None:
    """Split every block of a trunk over the ranks of the launch, in place.

    Args:
        trunk: The same on all ranks.
        device: Of this rank.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for module in [*trunk.blocks, trunk]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)  # the default of a root is another
    for module in _shards(trunk):
        # Losses are shares of a global mean already, so gradients add up; gloo has no scaled sum.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _shards(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Hold all weights on every rank, so that a forward pass needs no other; all ranks enter and leave together."""
    shards = _shards(module)
    for part in shards:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in shards:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def whole(tree: Any) -> Any:
    """A tree of tensors without shards; all ranks call it together."""
    return tree_map(lambda leaf: leaf.full_tensor() if isinstance(leaf, DTensor) else leaf, tree)


def whole_trunk(model: FoundationModel) -> Trunk:
    """The trunk of a model without shards: itself, or a copy; all ranks call it together."""
    if not _shards(model.trunk):
        return model.trunk
    with torch.device("meta"):  # draws nothing from the generator
        trunk = new_trunk(model.shape)
    trunk.load_state_dict(whole(model.trunk.state_dict()), assign=True)
    return trunk


def shard_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a tensor that all ranks have, split as a parameter is."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return tensor


def clip_gradients(parameters: Iterable[nn.Parameter], bound: float) -> torch.Tensor:
    """Scale gradients, in shards or not, to a norm of at most `bound`; returns the norm before."""
    parameters = list(parameters)
    sharded = [p for p in parameters if isinstance(p, DTensor)]
    if not sharded:
        return torch.nn.utils.clip_grad_norm_(parameters, bound)
    plain = [p for p in parameters if not isinstance(p, DTensor)]
    norms = [torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in (sharded, plain)]
    norm = torch.linalg.vector_norm(torch.stack(whole(norms)))
    for group in (sharded, plain):
        torch.nn.utils.clip_grads_with_norm_(group, bound, norm)
    return norm
