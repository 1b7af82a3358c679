"""Counts of a population's units to one embedding per unit, equivariant to their order; knows no region and no session.

After NuCLR (arXiv 2512.01199): patches in time of each unit, temporal blocks over the patches of a unit, then blocks of
attention over the units at each patch, without position, followed by temporal ones. Differences: plain GELU blocks of
`foundation.trunk`, rotary positions on queries and keys only, no dropout of attention probabilities, and projections
relative to the mean of the population.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from foundation.trunk import SHORTEST_PERIOD_S, Block, rotary_angles


@dataclass
class UnitEncoderConfig:
    """Shape of the encoder.

    Attributes:
        patch_bins: Bins of a patch, the token of a unit.
        width: Of tokens and unit embeddings.
        heads: Of attention.
        temporal_blocks: Blocks over the patches of each unit, before units see one another.
        joint_blocks: Pairs of a block over units and a block over patches.
        feed_forward: Hidden width of a block, relative to `width`.
        dropout: On residual branches.
        identity_dimension: Width of the projection that the loss compares.
        attend_units: False takes the attention over units away: each unit attends to itself alone there, with the same
            parameters everywhere. The ablation that shows what is known from the population.
    """

    patch_bins: int = 50
    width: int = 64
    heads: int = 4
    temporal_blocks: int = 1
    joint_blocks: int = 2
    feed_forward: int = 2
    dropout: float = 0.1
    identity_dimension: int = 64
    attend_units: bool = True

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        for name in ("patch_bins", "width", "heads", "feed_forward", "identity_dimension"):
            if getattr(self, name) < 1:
                raise ValueError(f"encoder.{name} is {getattr(self, name)}, expected 1 or more")
        if self.temporal_blocks < 0 or self.joint_blocks < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"encoder: {self.temporal_blocks} temporal and {self.joint_blocks} joint blocks with dropout "
                f"{self.dropout}; expected no negative number, and a dropout from 0 to below 1"
            )
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"encoder.width is {self.width} with {self.heads} heads; expected an even width per head")


class UnitEncoder(nn.Module):
    """Populations of any size to unit embeddings; populations are neither padded nor mixed."""

    def __init__(self, config: UnitEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width

        def blocks(number: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(width, config.heads, config.feed_forward * width, config.dropout) for _ in range(number)
            )

        self.embed = nn.Linear(config.patch_bins, width)
        self.temporal = blocks(config.temporal_blocks)
        self.over_units = blocks(config.joint_blocks)
        self.over_patches = blocks(config.joint_blocks)
        self.norm = nn.LayerNorm(width)
        self.projector = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.identity_dimension)
        )

    def forward(self, counts: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Embeddings of the units of several populations.

        Args:
            counts: `(U, T)` spikes per bin of all units, population after population; T a multiple of `patch_bins`.
            sizes: Units of each population; they sum to U.

        Returns:
            `(U, width)`.

        Raises:
            ValueError: Shapes that do not fit.
        """
        num_units, num_bins = counts.shape
        if num_bins % self.config.patch_bins or not num_bins:
            raise ValueError(f"{num_bins} bins, expected a multiple of patch_bins ({self.config.patch_bins})")
        if sum(sizes) != num_units:
            raise ValueError(f"populations of {list(sizes)} units for {num_units} rows of counts")
        tokens = self.embed(counts.unflatten(1, (-1, self.config.patch_bins)))
        cos, sin = self._positions(tokens)
        for block in self.temporal:
            tokens = block(tokens, cos, sin, None)
        for over_units, over_patches in zip(self.over_units, self.over_patches):
            tokens = over_patches(self._across(over_units, tokens, sizes), cos, sin, None)
        return self.norm(tokens).mean(dim=1)

    def project(self, embeddings: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Embeddings `(U, width)` to the unit-norm vectors `(U, identity_dimension)` that the loss compares.

        What the units of a population have in common is taken out first (NuCLR keeps it): it tells none from another,
        and as long as it dominates, all vectors agree, where the loss hardly has a slope.
        """
        centered = torch.cat([part - part.mean(dim=0, keepdim=True) for part in embeddings.split(list(sizes))])
        return F.normalize(self.projector(centered), dim=1)

    def _across(self, block: nn.Module, tokens: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """A block over the units at each patch, tokens `(U, P, width)`."""
        still = tokens.new_ones(()), tokens.new_zeros(())  # no rotation: units have no position
        if not self.config.attend_units:
            return block(tokens.flatten(0, 1)[:, None], *still, None).view_as(tokens)
        parts = [block(part.transpose(0, 1), *still, None).transpose(0, 1) for part in tokens.split(list(sizes))]
        return torch.cat(parts)

    def _positions(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary angles whose shortest period is two patches; in seconds, many would fall on whole turns."""
        place = torch.arange(tokens.shape[1], device=tokens.device)[None] * (SHORTEST_PERIOD_S / 2)
        return rotary_angles(place, self.config.width // self.config.heads)
