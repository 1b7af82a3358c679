"""Rank contrast for continuous behavior: moments whose behavior differs more have embeddings that lie farther apart.

Rank-N-Contrast (Zha et al. 2023, NeurIPS; arXiv 2210.01189) in the form of CANDY (NeurIPS 2025), on points of all
sessions together. Knows nothing of sessions, samplers or encoders.
"""

from __future__ import annotations

from typing import Any

import torch

# Rows of the n x n distance matrix that are in memory at a time.
CHUNK_ROWS = 256


def rank_contrast(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 0.2,
    *,
    scale_free: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """Mean over ordered pairs (i, j) of how badly j's place in i's ranking by behavior is kept by the embeddings.

        L = -1/(n (n-1)) sum_i sum_{j != i} log( exp(s_ij / tau) / sum_{k != i, d_ik >= d_ij} exp(s_ik / tau) )

    with d_ij = ||y_i - y_j||_1 and s_ij = -||x_i - x_j||_2 / r. As published r = 1, and then the loss falls without
    end as embeddings in the right order are blown up. Here r is the root-mean-square distance of all pairs, so that
    scaling, shifting or rotating the embeddings changes nothing, and the temperature has one meaning for all data:
    the share of the typical distance that counts. Of equal label distances each is in the denominator of the other;
    they are compared exactly, in float64.

    Costs O(n^2 (log n + D + L)) in time, and O(n chunk_rows) in memory: the gradient is found in the same pass.

    Args:
        embeddings: `(n, D)`, at least two.
        labels: `(n, L)` behavior, all known. Its columns are added up, so bring them to one scale before.
        temperature: tau, above 0.
        scale_free: Whether r is the root-mean-square distance (else 1, as published).
        chunk_rows: Rows treated at a time; changes the memory, and rounding only in the last digits.

    Returns:
        Scalar. log((n-1)!) / (n-1) when all embeddings are equal and no label distances are.

    Raises:
        ValueError: Shapes that do not fit, fewer than two points, NaN or infinite labels, or temperature <= 0.
    """
    if embeddings.ndim != 2 or labels.ndim != 2 or len(embeddings) != len(labels) or len(labels) < 2:
        raise ValueError(
            f"got embeddings {tuple(embeddings.shape)} and labels {tuple(labels.shape)}; expected (n, D) and (n, L) "
            "with n >= 2; give one row of labels per embedding"
        )
    if not torch.isfinite(labels).all():
        bad = int((~torch.isfinite(labels)).any(dim=1).sum())
        raise ValueError(f"{bad} of {len(labels)} rows of labels are NaN or infinite, expected none; leave them out")
    if not temperature > 0:
        raise ValueError(f"got temperature {temperature}, expected a number above 0")
    if scale_free:
        # The mean squared distance of all ordered pairs is twice the unbiased total variance.
        centered = embeddings - embeddings.mean(dim=0)
        mean_square = 2 * centered.square().sum() / (len(centered) - 1)
        embeddings = centered * mean_square.clamp(min=torch.finfo(mean_square.dtype).tiny).rsqrt()
    return _RankContrast.apply(embeddings, labels.detach().double(), float(temperature), chunk_rows)


class _RankContrast(torch.autograd.Function):
    """The loss as published; forward works out the gradient too, so no n x n matrix waits for backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, labels: torch.Tensor, temperature: float, chunk_rows: int) -> torch.Tensor:
        n = len(x)
        total, gradient = x.new_zeros(()), torch.zeros_like(x)
        for start in range(0, n, chunk_rows):
            rows = slice(start, min(start + chunk_rows, n))
            distance = torch.cdist(x[rows], x, compute_mode="donot_use_mm_for_euclid_dist")
            label_distance = torch.cdist(labels[rows], labels, p=1)
            own = torch.arange(rows.stop - rows.start, device=x.device)
            # A point is no neighbor of itself: last in its own row, and of no weight.
            label_distance[own, own + start] = -1.0
            loss, slope = _ranked_rows(-distance / temperature, label_distance)
            total = total + loss
            # d s_ij / d x_i = -(x_i - x_j) / (||x_i - x_j|| tau); 0 where two points coincide.
            pull = torch.where(distance > 0, -slope / (temperature * distance), 0.0)
            gradient[rows] += pull.sum(dim=1, keepdim=True) * x[rows] - pull @ x
            gradient += pull.sum(dim=0)[:, None] * x - pull.T @ x[rows]
        pairs = n * (n - 1)
        ctx.save_for_backward(gradient / pairs)
        return total / pairs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, output_gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return output_gradient * gradient, None, None, None


def _ranked_rows(similarity: torch.Tensor, label_distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss of some rows, and its gradient in `similarity` (R, n); the entry at label distance -1 is left out."""
    farthest_first = -label_distance
    key, order = farthest_first.sort(dim=1)
    key, order = key[:, :-1].contiguous(), order[:, :-1]
    sorted_similarity = similarity.gather(1, order)
    # Column of the last (first) entry with the same label distance: ties are all in, or all out.
    last = torch.searchsorted(key, key, right=True) - 1
    first = torch.searchsorted(key, key)
    denominator = sorted_similarity.logcumsumexp(dim=1).gather(1, last)
    # Entry k is in the denominators of every j at least as near in behavior: sum_j exp(s_k - denominator_j).
    reverse = (-denominator).flip(1).logcumsumexp(dim=1).flip(1).gather(1, first)
    slope = torch.zeros_like(similarity).scatter_(1, order, (sorted_similarity + reverse).exp() - 1)
    return (denominator - sorted_similarity).sum(), slope
