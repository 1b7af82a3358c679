"""InfoNCE between embeddings, in memory that grows with the batch and not with its square; draws no pairs.

The loss is CEBRA's (Schneider, Lee & Mathis 2023, Nature 617:360; arXiv 2204.00673, eq. 1): the positive is not in the
denominator, and one set of reference samples serves all anchors. The symmetric loss is CLIP's (Radford et al. 2021,
arXiv 2103.00020, fig. 3), where the positive is.
"""

from __future__ import annotations

from typing import Any

import torch

SIMILARITIES = ("cosine", "euclidean")
# Logits held at a time: 4 MB, so that the passes over a chunk stay in the cache.
_CHUNK_LOGITS = 2**20


def info_nce(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    references: torch.Tensor,
    scale: torch.Tensor | float = 1.0,
    similarity: str = "cosine",
) -> torch.Tensor:
    """The loss of each anchor, nats.

    L_i = -phi(x_i, y_i+) + log sum_j exp phi(x_i, y_j-),
    phi(x, y) = x.y / tau ("cosine"; the vectors have unit length) or -|x - y|^2 / tau ("euclidean").

    Args:
        anchors: x `(A, D)`.
        positives: y+ `(A, D)`.
        references: y- `(R, D)`, common to all anchors.
        scale: 1 / tau; a tensor where it is learned.
        similarity: One of `SIMILARITIES`.

    Returns:
        `(A,)`. All embeddings equal give log R.

    Raises:
        ValueError: Unknown similarity.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity {similarity!r}, expected one of {', '.join(SIMILARITIES)}")
    if similarity == "euclidean":
        anchors, positives, references = _lift(anchors, True), _lift(positives, False), _lift(references, False)
    scale = torch.as_tensor(scale, dtype=anchors.dtype, device=anchors.device)
    return log_partition(anchors, references, scale) - scale * (anchors * positives).sum(dim=1)


def symmetric_info_nce(first: torch.Tensor, second: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """CLIP's loss of each pair `(A,)`, nats: row i of one set has to find row i of the other, both ways.

    Args:
        first: `(A, D)` of unit length, say of the activity.
        second: `(A, D)` of unit length, say of the behavior at the same moments.
        scale: 1 / tau.
    """
    scale = torch.as_tensor(scale, dtype=first.dtype, device=first.device)
    both = log_partition(first, second, scale) + log_partition(second, first, scale)
    return 0.5 * both - scale * (first * second).sum(dim=1)


def log_partition(anchors: torch.Tensor, references: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The log of sum_j exp(scale x_i.y_j) `(A,)` with exact gradients; no `(A, R)` matrix is ever held."""
    result: torch.Tensor = _LogPartition.apply(anchors, references, scale)
    return result


def _lift(rows: torch.Tensor, is_anchor: bool) -> torch.Tensor:
    """Vectors whose inner product is minus the squared distance: (2x, -1, -|x|^2) . (y, |y|^2, 1) = -|x - y|^2."""
    squares, ones = (rows * rows).sum(dim=1, keepdim=True), torch.ones_like(rows[:, :1])
    return torch.cat([2 * rows, -ones, -squares] if is_anchor else [rows, squares, ones], dim=1)


class _LogPartition(torch.autograd.Function):
    """Rows of logits are made, used and dropped chunk by chunk, and made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, anchors: torch.Tensor, references: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        result = anchors.new_empty(len(anchors))
        scaled = anchors * scale
        for rows in _chunks(anchors, references):
            result[rows] = torch.logsumexp(scaled[rows] @ references.T, dim=1)
        ctx.save_for_backward(anchors, references, scale, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        anchors, references, scale, result = ctx.saved_tensors
        (weight,) = gradients
        scaled = anchors * scale
        pulled = torch.empty_like(anchors)
        of_references = torch.zeros_like(references)
        for rows in _chunks(anchors, references):
            # Softmax times the weight of the row, in place.
            share = scaled[rows] @ references.T
            share.sub_(result[rows, None]).exp_().mul_(weight[rows, None])
            pulled[rows] = share @ references
            of_references.addmm_(share.T, scaled[rows])
        return pulled * scale, of_references, (pulled * anchors).sum().reshape(scale.shape)


def _chunks(anchors: torch.Tensor, references: torch.Tensor) -> list[slice]:
    size = max(1, _CHUNK_LOGITS // max(1, len(references)))
    return [slice(first, first + size) for first in range(0, len(anchors), size)]
