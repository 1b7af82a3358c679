"""Neuron-identity contrast: the same unit in two windows gets like embeddings, other units of its population do not.

Decoupled InfoNCE (Yeh et al. 2022, arXiv 2110.06848) as in NuCLR (arXiv 2512.01199). Pure functions of embeddings;
which units and windows make a view is `foundation.unit_identity`'s.
"""

from __future__ import annotations

import torch


def neuron_identity_losses(
    first: torch.Tensor, second: torch.Tensor, pairs: torch.Tensor, temperature: float = 0.2
) -> torch.Tensor:
    """Loss of every unit that is in both views of one population, `(M,)`.

    With s the dot product, a and b the rows of unit i, and n = A + B - 2 negatives (every other unit of either view):

        L_i = (1 - s(x_a, y_b)) / tau + 1/2 [LSE_{j != b} s(x_a, y_j) / tau, over y and over the other x, - log n]
                                      + 1/2 [the same from y_b's side]

    The positive is not in the denominator, and units of other populations are no negatives: they may be the same kind
    of unit. The mean over the units of several populations weights each population by its matched units. Temperature
    divides every similarity; the released NuCLR code leaves it off those within a view, whose negatives then hardly
    count at tau = 0.2.

    Args:
        first: `(A, E)` unit-norm embeddings of the first view.
        second: `(B, E)` of the second view; its units may be others than the first's, but for the pairs.
        pairs: `(M, 2)` int64 rows in `first` and in `second` of the units that are in both.
        temperature: tau.

    Returns:
        `(M,)`; `(0,)` where there is no negative, since a unit alone can be told from nothing.

    Raises:
        ValueError: The temperature is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    num_negatives = len(first) + len(second) - 2
    if num_negatives <= 0 or not len(pairs):
        return first.new_zeros(0)
    a, b = pairs[:, 0], pairs[:, 1]
    x, y = first[a], second[b]
    agreement = (x * y).sum(dim=1)
    spread = _log_sum(x, first, a, second, b, temperature) + _log_sum(y, second, b, first, a, temperature)
    return (1 - agreement) / temperature + 0.5 * spread - torch.log(agreement.new_tensor(float(num_negatives)))


def _log_sum(
    anchors: torch.Tensor,
    own: torch.Tensor,
    row_in_own: torch.Tensor,
    other: torch.Tensor,
    row_in_other: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """LSE `(M,)` over all units of both views but the anchor itself."""
    similarity = anchors @ torch.cat([own, other]).T / temperature
    itself = torch.zeros_like(similarity, dtype=torch.bool)
    rows = torch.arange(len(anchors), device=anchors.device)
    itself[rows, row_in_own] = True
    itself[rows, len(own) + row_in_other] = True
    return torch.logsumexp(similarity.masked_fill(itself, -torch.inf), dim=1)
