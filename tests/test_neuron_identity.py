"""The neuron-identity loss: a naive loop, gradients, the temperature in both views, populations kept apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from foundation.objectives.neuron_identity import neuron_identity_losses


def unit_vectors(number: int, seed: int, width: int = 5) -> torch.Tensor:
    return F.normalize(torch.randn(number, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def naive(x: torch.Tensor, y: torch.Tensor, pairs: list[tuple[int, int]], tau: float) -> list[float]:
    """Equation by equation, in Python floats."""

    def s(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float(p) * float(q) for p, q in zip(a, b))

    losses = []
    for a, b in pairs:
        total = (1 - s(x[a], y[b])) / tau
        for anchor in (x[a], y[b]):
            terms = [s(anchor, y[j]) / tau for j in range(len(y)) if j != b]
            terms += [s(anchor, x[j]) / tau for j in range(len(x)) if j != a]
            total += 0.5 * (math.log(sum(math.exp(t) for t in terms)) - math.log(len(terms)))
        losses.append(total)
    return losses


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.1, 0.2, 1.0]), st.integers(0, 99))
def test_equals_a_naive_loop(num_first: int, num_second: int, tau: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, min(num_first, num_second) + 1))
    rows = np.stack([rng.permutation(num_first)[:number], rng.permutation(num_second)[:number]], axis=1)
    x, y = unit_vectors(num_first, seed), unit_vectors(num_second, seed + 100)
    found = neuron_identity_losses(x, y, torch.from_numpy(rows), tau)
    if num_first == num_second == 1:
        assert found.shape == (0,)
    else:
        np.testing.assert_allclose(found.numpy(), naive(x, y, rows.tolist(), tau), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    pairs = torch.tensor([[0, 2], [3, 1]])
    x, y = unit_vectors(4, 0).requires_grad_(), unit_vectors(3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: neuron_identity_losses(a, b, pairs, 0.2), (x, y))


def test_known_value_of_orthogonal_units() -> None:
    """Both views the same basis: agreement 1, every negative 0, so the loss is 0 whatever the number of units."""
    for number in (2, 5):
        basis = torch.eye(5, dtype=torch.float64)[:number]
        same = torch.arange(number)[:, None].expand(-1, 2)
        assert neuron_identity_losses(basis, basis, same, 0.2).abs().max() < 1e-12
    # All vectors one: every negative at 1 / tau. Collapse costs 1 / tau.
    one = torch.ones(4, 1, dtype=torch.float64)
    collapsed = neuron_identity_losses(one, one, torch.arange(4)[:, None].expand(-1, 2), 0.2)
    np.testing.assert_allclose(collapsed.numpy(), 5.0)


def test_temperature_divides_the_similarities_within_a_view_too() -> None:
    """Unit 0 is alone in the second view, so every negative is in the first; upstream would give 0.9, not 4.5."""
    first = torch.tensor([[1.0, 0.0], [0.9, math.sqrt(1 - 0.81)]], dtype=torch.float64)
    second = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = neuron_identity_losses(first, second, torch.tensor([[0, 0]]), 0.2)
    assert loss.item() == pytest.approx(0.9 / 0.2)


def test_a_unit_alone_has_no_loss_but_a_gradient_of_zero() -> None:
    alone = unit_vectors(1, 0).requires_grad_()
    other = unit_vectors(2, 1).requires_grad_()
    losses = torch.cat(
        [
            neuron_identity_losses(alone, alone, torch.tensor([[0, 0]])),
            neuron_identity_losses(other, other, torch.tensor([[0, 0], [1, 1]])),
        ]
    )
    assert len(losses) == 2
    losses.mean().backward()
    assert other.grad is not None
    assert alone.grad is None or not alone.grad.any()
    with pytest.raises(ValueError, match="above 0"):
        neuron_identity_losses(alone, alone, torch.tensor([[0, 0]]), 0.0)
