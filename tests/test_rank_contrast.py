"""Rank contrast against a triple loop and finite differences; ties, chunks, and what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.objectives.rank_contrast import rank_contrast


def drawn(n: int, seed: int = 0, dimension: int = 3, num_labels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dimension, generator=generator, dtype=torch.double),
        torch.randn(n, num_labels, generator=generator, dtype=torch.double),
    )


def naive(x: np.ndarray, y: np.ndarray, temperature: float, scale_free: bool) -> float:
    """The formula of CANDY, term by term."""
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    distance = {(i, j): math.sqrt(sum((x[i] - x[j]) ** 2)) for i, j in pairs}
    r = math.sqrt(sum(d * d for d in distance.values()) / len(pairs)) if scale_free else 1.0
    apart = {(i, j): sum(abs(y[i] - y[j])) for i, j in pairs}
    total = 0.0
    for i, j in pairs:
        others = [k for k in range(n) if k != i and apart[i, k] >= apart[i, j]]
        denominator = sum(math.exp(-distance[i, k] / r / temperature) for k in others)
        total += -distance[i, j] / r / temperature - math.log(denominator)
    return -total / len(pairs)


@pytest.mark.parametrize("scale_free", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("levels", [0, 3], ids=["distinct", "ties"])
def test_loss_is_that_of_the_triple_loop(scale_free: bool, temperature: float, levels: int) -> None:
    x, y = drawn(17)
    if levels:
        y = torch.randint(levels, y.shape, generator=torch.Generator().manual_seed(1)).double()
    ours = rank_contrast(x, y, temperature, scale_free=scale_free)
    assert ours.item() == pytest.approx(naive(x.numpy(), y.numpy(), temperature, scale_free), rel=1e-10)


def naive_graph(x: torch.Tensor, y: torch.Tensor, temperature: float) -> torch.Tensor:
    """As published, for autograd: a Boolean (n, n, n) table of who is in which denominator."""
    n = len(x)
    off = ~torch.eye(n, dtype=torch.bool)
    gap = (x[:, None] - x[None]).square().sum(-1)
    s = -torch.where(off, gap, 1.0).sqrt() / temperature
    d = torch.cdist(y, y, p=1)
    member = (d[:, None, :] >= d[:, :, None]) & off[:, None, :]
    denominator = torch.where(member, s[:, None, :], -torch.inf).logsumexp(dim=2)
    return (denominator - s)[off].mean()


@pytest.mark.parametrize("levels", [0, 2])
def test_gradient_is_that_of_autograd(levels: int) -> None:
    x, y = drawn(30)
    if levels:
        y = torch.randint(levels, y.shape, generator=torch.Generator().manual_seed(1)).double()
    x.requires_grad_()
    expected = torch.autograd.grad(naive_graph(x, y, 0.3), x)[0]
    found = torch.autograd.grad(rank_contrast(x, y, 0.3, scale_free=False), x)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scale_free", [True, False])
def test_gradient_is_that_of_finite_differences(scale_free: bool) -> None:
    x, y = drawn(9)
    y[3], y[5] = y[1], y[2]
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda e: 3 * rank_contrast(e, y, 0.2, scale_free=scale_free, chunk_rows=4), x)


def test_chunks_agree() -> None:
    x, y = drawn(53)
    x.requires_grad_()
    whole = rank_contrast(x, y, chunk_rows=53)
    expected = torch.autograd.grad(whole, x)[0]
    for rows in (1, 7, 52, 1000):
        loss = rank_contrast(x, y, chunk_rows=rows)
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 24),
    seed=st.integers(0, 2**20),
    scale=st.floats(1e-3, 1e3),
    levels=st.sampled_from([0, 2, 5]),
    temperature=st.floats(0.05, 3.0),
)
def test_scale_shift_rotation_and_order_change_nothing(
    n: int, seed: int, scale: float, levels: int, temperature: float
) -> None:
    x, y = drawn(n, seed)
    if levels:
        y = torch.randint(levels, y.shape, generator=torch.Generator().manual_seed(seed)).double()
    generator = torch.Generator().manual_seed(seed + 1)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.double))[0]
    order = torch.randperm(n, generator=generator)
    loss = rank_contrast(x, y, temperature)
    torch.testing.assert_close(rank_contrast((scale * x @ rotation + 2.0)[order], y[order], temperature), loss)
    # Only the order of label distances matters, and a pair's own term is never negative.
    torch.testing.assert_close(rank_contrast(x, 4 * y, temperature), loss)
    assert loss >= 0


def test_published_loss_depends_on_scale_and_ours_prefers_order() -> None:
    y = torch.linspace(0, 1, 40, dtype=torch.double)[:, None]
    shuffled = y[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    published = [rank_contrast(c * y, y, 0.2, scale_free=False).item() for c in (1, 8)]
    assert published[1] < 0.7 * published[0]
    ours = [rank_contrast(c * y, y, 0.2).item() for c in (1, 8)]
    assert ours[0] == pytest.approx(ours[1])
    assert ours[0] < 0.8 * rank_contrast(shuffled, y, 0.2).item()


def test_collapse_has_the_value_of_its_closed_form_and_a_finite_gradient() -> None:
    _, y = drawn(12)
    x = torch.zeros(12, 3, dtype=torch.double, requires_grad=True)
    loss = rank_contrast(x, y)
    assert loss.item() == pytest.approx(math.lgamma(12) / 11)
    assert torch.isfinite(torch.autograd.grad(loss, x)[0]).all()


def test_equal_labels_are_one_tie() -> None:
    """All in every denominator: plain log-softmax over the others."""
    x, _ = drawn(8)
    s = -torch.cdist(x, x)
    s.fill_diagonal_(-torch.inf)
    off = ~torch.eye(8, dtype=torch.bool)
    expected = -(s.log_softmax(dim=1)[off]).mean()
    torch.testing.assert_close(rank_contrast(x, torch.ones(8, 1), 1.0, scale_free=False), expected)


def test_float32_stays_close_and_keeps_its_type() -> None:
    x, y = drawn(300)
    single = rank_contrast(x.float(), y.float(), 0.1)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(rank_contrast(x, y, 0.1).item(), rel=1e-5)


def test_a_far_point_does_not_overflow() -> None:
    x, y = drawn(20)
    x = torch.cat([x, x[:1] + 1e4]).requires_grad_()
    y = torch.cat([y, y[:1] + 9])
    loss = rank_contrast(x, y, 1e-3, scale_free=False)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, x)[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((5, 1), torch.nan)}, "5 of 5 rows of labels are NaN"),
        ({"labels": torch.zeros(4, 1)}, "one row of labels per embedding"),
        ({"labels": torch.zeros(5)}, "expected \\(n, D\\) and \\(n, L\\)"),
        ({"temperature": 0.0}, "temperature 0.0, expected a number above 0"),
        ({"embeddings": torch.zeros(1, 2), "labels": torch.zeros(1, 1)}, "n >= 2"),
    ],
)
def test_errors_say_what_is_wrong(change: dict, message: str) -> None:
    arguments = {"embeddings": torch.zeros(5, 2), "labels": torch.arange(5.0)[:, None], **change}
    with pytest.raises(ValueError, match=message):
        rank_contrast(**arguments)
