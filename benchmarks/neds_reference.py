"""NEDS's computation, written from its published description to be timed; it is not trained here and reads no data.

Zhang et al. 2025 (arXiv 2504.08201): five modalities of 100 bins are 500 tokens; every session owns an MLP that embeds
its spikes, padded to the largest session, small MLPs for the behaviors, and linear heads; a pre-norm transformer with
rotary positions reads the tokens with attention and residual dropout .4; AdamW updates all parameters. Where the
description leaves room, the quicker way is taken: one projection for query, key and value, each session's windows
together, attention through `scaled_dot_product_attention`, the fused optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

# Spikes, two labels with their number of classes, two continuous behaviors.
STATIC_CLASSES = (2, 3)
NUM_CONTINUOUS = 2
NUM_MODALITIES = 1 + len(STATIC_CLASSES) + NUM_CONTINUOUS


@dataclass(frozen=True)
class NedsShape:
    """Sizes: S sessions padded to N units, T bins, width H."""

    num_sessions: int
    num_units: int
    num_bins: int = 100
    width: int = 256
    depth: int = 5
    heads: int = 8
    feed_forward: int = 512
    dropout: float = 0.4
    attention_dropout: float = 0.4
    token_dropout: float = 0.2


@dataclass
class NedsBatch:
    """B windows of S' sessions in order, prepared beforehand.

    Attributes:
        sessions: Index of each of the S' sessions.
        sizes: Windows of each.
        spikes: `(B, T, N)` float32 counts, 0 where padded.
        num_units: `(B,)` real units.
        static: `(B, 2)` int64 labels.
        continuous: `(B, T, 2)` float32.
        hidden: `(B, M, T)` bool, tokens replaced by the mask vector; modalities: spikes, static, continuous.
        predicted: `(B, M, T)` bool, hidden tokens that enter the loss.
    """

    sessions: list[int]
    sizes: list[int]
    spikes: torch.Tensor
    num_units: torch.Tensor
    static: torch.Tensor
    continuous: torch.Tensor
    hidden: torch.Tensor
    predicted: torch.Tensor


class SessionModules(nn.Module):
    """What NEDS keeps per session: embedders of each modality and heads."""

    def __init__(self, shape: NedsShape) -> None:
        super().__init__()
        units, width, bins = shape.num_units, shape.width, shape.num_bins
        self.spikes = nn.Sequential(nn.Linear(units, 2 * units), nn.Softsign(), nn.Linear(2 * units, width))
        self.static = nn.ModuleList(
            nn.Sequential(nn.Linear(1, 2 * bins), nn.Unflatten(1, (bins, 2)), nn.Softsign(), nn.Linear(2, width))
            for _ in STATIC_CLASSES
        )
        self.continuous = nn.ModuleList(
            nn.Sequential(nn.Linear(1, 2), nn.Softsign(), nn.Linear(2, width)) for _ in range(NUM_CONTINUOUS)
        )
        self.session_vectors = nn.Parameter(torch.randn(NUM_MODALITIES, 1, width) * 0.02)
        self.rates = nn.Linear(width, units)
        self.pool = nn.Parameter(torch.full((len(STATIC_CLASSES), bins), 1.0 / bins))
        self.labels = nn.ModuleList(nn.Linear(width, classes) for classes in STATIC_CLASSES)
        self.values = nn.ModuleList(nn.Linear(width, 1) for _ in range(NUM_CONTINUOUS))

    def embed(self, spikes: torch.Tensor, static: torch.Tensor, continuous: torch.Tensor) -> torch.Tensor:
        """Tokens `(b, M, T, H)` of one session, without positions."""
        parts = [self.spikes(spikes)]
        parts += [embed(static[:, k : k + 1].float()) for k, embed in enumerate(self.static)]
        parts += [embed(continuous[..., k : k + 1]) for k, embed in enumerate(self.continuous)]
        return torch.stack(parts, dim=1)

    def predict(self, states: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """From states `(b, M, T, H)`: log-rates `(b, T, N)`, logits `(b, classes)` and values `(b, T)` per behavior."""
        first = 1 + len(STATIC_CLASSES)
        logits = [
            head(torch.einsum("t,bth->bh", weight, states[:, 1 + k]))
            for k, (weight, head) in enumerate(zip(self.pool, self.labels))
        ]
        return (
            self.rates(states[:, 0]),
            logits,
            [head(states[:, first + k])[..., 0] for k, head in enumerate(self.values)],
        )


class NedsBlock(nn.Module):
    """Pre-norm block; rotary angles of the bin index."""

    def __init__(self, shape: NedsShape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.attention_dropout = shape.heads, shape.attention_dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, shape.feed_forward), nn.GELU(), nn.Linear(shape.feed_forward, width))
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """`(B, L, H)` to `(B, L, H)`."""
        batch, length, width = x.shape
        heads = self.query_key_value(self.norms[0](x)).view(batch, length, 3, self.heads, -1)
        turned, value = heads.split([2, 1], dim=2)
        first, second = turned.chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        query, key = turned.permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value[:, :, 0].transpose(1, 2), dropout_p=dropout)
        x = x + self.dropout(self.project(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.feed(self.norms[1](x)))


class Neds(nn.Module):
    """All sessions' modules around one trunk. Weights start as PyTorch's, not NEDS's: that changes no cost."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, shape: NedsShape) -> None:
        super().__init__()
        self.shape = shape
        self.sessions = nn.ModuleList(SessionModules(shape) for _ in range(shape.num_sessions))
        self.mask_vector = nn.Parameter(torch.randn(shape.width) * 0.02)
        self.modality_vectors = nn.Parameter(torch.randn(NUM_MODALITIES, 1, shape.width) * 0.02)
        self.position_vectors = nn.Parameter(torch.randn(NUM_MODALITIES, shape.num_bins, shape.width) * 0.02)
        self.token_dropout = nn.Dropout(shape.token_dropout)
        self.blocks = nn.ModuleList(NedsBlock(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        pairs = shape.width // shape.heads // 2
        angle = torch.arange(shape.num_bins)[:, None] * 10000.0 ** (-torch.arange(pairs) / pairs)
        self.register_buffer("cos", angle.cos().repeat(NUM_MODALITIES, 1)[:, None, None])
        self.register_buffer("sin", angle.sin().repeat(NUM_MODALITIES, 1)[:, None, None])

    def _present(self, batch: NedsBatch) -> list[tuple[SessionModules, slice]]:
        """The modules of each session of a batch and where its windows are."""
        edges = pairwise([0, *accumulate(batch.sizes)])
        return [(cast(SessionModules, self.sessions[k]), slice(a, b)) for k, (a, b) in zip(batch.sessions, edges)]

    def states(self, batch: NedsBatch) -> torch.Tensor:
        """Trunk states `(B, M, T, H)`."""
        present = self._present(batch)
        tokens = torch.cat([own.embed(batch.spikes[w], batch.static[w], batch.continuous[w]) for own, w in present])
        vectors = torch.stack([own.session_vectors for own, _ in present])
        vectors = vectors.repeat_interleave(torch.tensor(batch.sizes), dim=0)
        tokens = torch.where(batch.hidden[..., None], self.mask_vector, tokens)
        tokens = tokens + (self.modality_vectors + self.position_vectors) + vectors
        x = self.token_dropout(tokens).flatten(1, 2)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x).view(tokens.shape)

    def loss(self, batch: NedsBatch) -> torch.Tensor:
        """Poisson + cross-entropy + squared error, each a mean over the hidden elements of its modality."""
        states = self.states(batch)
        made = [own.predict(states[w]) for own, w in self._present(batch)]
        log_rates = torch.cat([rates for rates, _, _ in made])
        real = torch.arange(self.shape.num_units) < batch.num_units[:, None]
        wanted = batch.predicted[:, 0, :, None] & real[:, None, :]
        poisson = F.poisson_nll_loss(log_rates, batch.spikes, reduction="none")
        total = (poisson * wanted).sum() / wanted.sum().clamp(min=1)
        for k in range(len(STATIC_CLASSES)):
            wanted = batch.predicted[:, 1 + k].any(dim=1)
            error = F.cross_entropy(
                torch.cat([logits[k] for _, logits, _ in made]), batch.static[:, k], reduction="none"
            )
            total = total + (error * wanted).sum() / wanted.sum().clamp(min=1)
        for k in range(NUM_CONTINUOUS):
            wanted = batch.predicted[:, 1 + len(STATIC_CLASSES) + k]
            error = (torch.cat([values[k] for _, _, values in made]) - batch.continuous[..., k]) ** 2
            total = total + (error * wanted).sum() / wanted.sum().clamp(min=1)
        return total

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW with weight decay on everything; sessions without a window in the step have no gradient."""
        return torch.optim.AdamW(self.parameters(), lr=2e-4, weight_decay=0.01, eps=1e-8, fused=True)


def step_flops(shape: NedsShape, num_windows: int) -> float:
    """Floating-point operations of the matrix products of one update; the backward pass counts twice the forward.

    Trunk, per token and layer: 4 H^2 + 2 H F multiply-adds of linear maps and 2 L H of attention. Session modules, per
    bin: 2 N^2 + 2 N H read in (whose input needs no gradient: one forward less in the backward) and N H read out.
    """
    units, width, tokens = shape.num_units, shape.width, NUM_MODALITIES * shape.num_bins
    layer = 4 * width**2 + 2 * width * shape.feed_forward + 2 * tokens * width
    trunk = 3 * shape.depth * layer * tokens
    session = (2 * 2 * units**2 + 3 * 2 * units * width + 3 * units * width) * shape.num_bins
    return 2.0 * num_windows * (trunk + session)
