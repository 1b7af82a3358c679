"""The shared transformer trunk: `(B, L, D)` to `(B, L, D)`, pre-norm, rotary positions in seconds.

It knows nothing of sessions, units or modalities. Attention runs through PyTorch's scaled dot product; dropout acts on
the residual branches only (dropping attention probabilities costs 2.7x on a CPU, and SDPA then loses its fast path).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

# Rotary periods in seconds: from a bin or two to well beyond a window.
SHORTEST_PERIOD_S = 0.05
LONGEST_PERIOD_S = 20.0


def rotary_angles(times_s: torch.Tensor, head_width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `(B, L, 1, 1, head_width / 2)` of rotary embeddings at times in seconds `(B, L)`.

    Su et al. 2021 (arXiv 2104.09864), with periods spaced geometrically in seconds rather than in tokens, so that bin
    size and window length may change after training.
    """
    pairs = head_width // 2
    exponent = torch.linspace(0, 1, pairs, device=times_s.device, dtype=torch.float32)
    frequency = 2 * math.pi / (SHORTEST_PERIOD_S * (LONGEST_PERIOD_S / SHORTEST_PERIOD_S) ** exponent)
    angle = times_s.float()[:, :, None, None, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs of `(B, L, ..., heads, head_width)`, halves of the last axis, by the angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residuals."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.expand = nn.Linear(width, feed_forward)
        self.contract = nn.Linear(feed_forward, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`(B, L, D)` to `(B, L, D)`; `mask` `(B, 1, 1, L)` True where a key may be attended to."""
        batch, length, width = x.shape
        heads = self.query_key_value(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        # Rotated together and as they lie in memory, then viewed as (B, heads, L, head_width).
        turned, value = heads.split([2, 1], dim=2)
        query, key = rotate(turned, cos, sin).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value[:, :, 0].transpose(1, 2), attn_mask=mask)
        x = x + self.dropout(self.project(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.contract(F.gelu(self.expand(self.norm_feed(x)))))


class Trunk(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(self, width: int, depth: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"model.width is {width} with {heads} heads; expected an even width per head")
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head_width = width // heads

    def forward(self, tokens: torch.Tensor, times_s: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """States of tokens.

        Args:
            tokens: `(B, L, D)`.
            times_s: `(B, L)` seconds.
            valid: `(B, L)` bool; tokens that are not valid are attended to by none.
        """
        cos, sin = rotary_angles(times_s, self.head_width)
        # No mask when nothing is padded: SDPA's fastest path.
        mask = None if bool(valid.all()) else valid[:, None, None, :]
        for block in self.blocks:
            tokens = block(tokens, cos, sin, mask)
        return self.norm(tokens)
