"""InfoNCE against CEBRA's losses and gradients, a plain loop and closed forms; memory against the square."""

from __future__ import annotations

import math

import cebra.models.criterions as criterions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.objectives import info_nce as module
from foundation.objectives.info_nce import info_nce, symmetric_info_nce


def points(seed: int, *numbers: int, dim: int = 5, unit: bool = True) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, dim, generator=generator, dtype=torch.double) for n in numbers]
    return [(torch.nn.functional.normalize(r, dim=1) if unit else r).requires_grad_() for r in rows]


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("learned", [False, True])
def test_loss_and_gradients_are_those_of_cebra(temperature: float, similarity: str, learned: bool) -> None:
    inputs = points(0, 40, 40, 70, unit=similarity == "cosine")
    name = f"{'Learnable' if learned else 'Fixed'}{similarity.title()}InfoNCE"
    criterion = getattr(criterions, name)(temperature).double()
    theirs = criterion(*inputs)[0]
    parameters = list(criterion.parameters())
    expected = torch.autograd.grad(theirs, [*inputs, *parameters])
    # Theirs is rounded to single precision when it is made.
    start = parameters[0].detach().clone() if learned else torch.tensor(-math.log(temperature), dtype=torch.double)
    log_scale = start.requires_grad_()
    ours = info_nce(*inputs, log_scale.exp(), similarity).mean()
    got = torch.autograd.grad(ours, [*inputs, log_scale])
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, check_dtype=False)


def test_single_precision_agrees_with_cebra_too() -> None:
    inputs = [p.detach().float().requires_grad_() for p in points(1, 64, 64, 128)]
    theirs = criterions.FixedCosineInfoNCE(0.1)(*inputs)[0]
    expected = torch.autograd.grad(theirs, inputs)
    ours = info_nce(*inputs, 10.0).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for a, b in zip(torch.autograd.grad(ours, inputs), expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    anchors=st.integers(1, 9),
    references=st.integers(1, 9),
    chunk=st.integers(1, 20),
    similarity=st.sampled_from(module.SIMILARITIES),
)
def test_loss_is_that_of_a_loop_whatever_the_chunk(anchors: int, references: int, chunk: int, similarity: str) -> None:
    x, y, z = points(anchors * 31 + references, anchors, anchors, references, unit=False)
    scale = 0.7

    def phi(a: torch.Tensor, b: torch.Tensor) -> float:
        value = a @ b if similarity == "cosine" else -((a - b) ** 2).sum()
        return value.item() * scale

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_LOGITS", chunk)
        loss = info_nce(x, y, z, scale, similarity)
        loss.sum().backward()
    for i in range(anchors):
        expected = -phi(x[i], y[i]) + math.log(sum(math.exp(phi(x[i], z[j])) for j in range(references)))
        assert loss[i].item() == pytest.approx(expected, abs=1e-9)
    pulled = [p.grad.clone() for p in (x, y, z) if p.grad is not None]
    for p in (x, y, z):
        p.grad = None
    logits = x @ z.T if similarity == "cosine" else -((x[:, None] - z[None]) ** 2).sum(2)
    positive = (x * y).sum(1) if similarity == "cosine" else -((x - y) ** 2).sum(1)
    (torch.logsumexp(logits * scale, 1) - positive * scale).sum().backward()
    for got, p in zip(pulled, (x, y, z)):
        torch.testing.assert_close(got, p.grad)


def test_gradients_by_differences() -> None:
    x, y, z = points(3, 4, 4, 6, unit=False)
    scale = torch.tensor(0.8, dtype=torch.double, requires_grad=True)
    for similarity in module.SIMILARITIES:
        assert torch.autograd.gradcheck(lambda *a, s=similarity: info_nce(*a, s), (x, y, z, scale))
    assert torch.autograd.gradcheck(symmetric_info_nce, (x, y, scale))


def test_symmetric_loss_is_two_cross_entropies() -> None:
    x, y, _ = points(4, 12, 12, 1)
    logits = x @ y.T / 0.2
    target = torch.arange(12)
    expected = 0.5 * (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    )
    assert symmetric_info_nce(x, y, 5.0).mean().item() == pytest.approx(expected.item())


def test_collapse_costs_the_log_of_the_references() -> None:
    same = torch.ones(8, 3)
    loss = info_nce(same, same, torch.ones(32, 3), 2.0).mean().item()
    assert loss == pytest.approx(math.log(32), abs=1e-6)


def test_memory_does_not_grow_with_the_square() -> None:
    """8,192 anchors and references: the matrix alone would be 256 MB. Torch's own allocations, by its profiler."""
    x = torch.nn.functional.normalize(torch.randn(8192, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    x.requires_grad_()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        info_nce(x, x.detach(), x.detach(), 1.0).mean().backward()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 0 < peak < 32 * 2**20


def test_an_unknown_similarity_is_an_error() -> None:
    x, y, z = points(5, 3, 3, 3)
    with pytest.raises(ValueError, match="similarity 'dot', expected one of cosine, euclidean"):
        info_nce(x, y, z, 1.0, "dot")
