"""The trunk: attention against a naive one in complex numbers, positions in seconds, padding without effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foundation.trunk import LONGEST_PERIOD_S, SHORTEST_PERIOD_S, Block, Trunk, rotary_angles, rotate


@pytest.fixture
def trunk() -> Trunk:
    torch.manual_seed(0)
    return Trunk(width=16, depth=2, heads=2, feed_forward=32, dropout=0.0).eval()


def run(trunk: Trunk, tokens: torch.Tensor, times: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return trunk(tokens, times, torch.ones_like(times, dtype=torch.bool) if valid is None else valid)


def test_rotation_is_multiplication_by_unit_complex_numbers() -> None:
    times = torch.tensor([[0.0, 0.013, 1.7]])
    x = torch.randn(1, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = (angle[:, :, 0] for angle in rotary_angles(times, 8))
    got = rotate(x, cos, sin).numpy()
    periods = np.geomspace(SHORTEST_PERIOD_S, LONGEST_PERIOD_S, 4)
    number = x[..., :4].numpy() + 1j * x[..., 4:].numpy()
    turned = number * np.exp(2j * math.pi * times.numpy()[:, :, None, None] / periods)
    np.testing.assert_allclose(got, np.concatenate([turned.real, turned.imag], axis=-1), atol=2e-4)


def test_a_block_equals_naive_attention() -> None:
    torch.manual_seed(1)
    block = Block(width=8, heads=2, feed_forward=12, dropout=0.0).eval()
    x, times = torch.randn(1, 5, 8), torch.tensor([[0.0, 0.02, 0.05, 0.3, 0.9]])
    mask = torch.tensor([True, True, False, True, True])
    with torch.no_grad():
        got = block(x, *rotary_angles(times, 4), mask[None, None, None])[0].numpy()
        normed = block.norm_attention(x)[0].numpy()
        weight = block.query_key_value.weight.numpy()
    periods = np.geomspace(SHORTEST_PERIOD_S, LONGEST_PERIOD_S, 2)
    turn = np.exp(2j * math.pi * times[0].numpy()[:, None] / periods)
    mixed = np.zeros((5, 8))
    for head in range(2):
        query, key, value = (
            (normed @ weight.T)[:, part * 8 + head * 4 : part * 8 + (head + 1) * 4] for part in range(3)
        )
        query, key = ((a[:, :2] + 1j * a[:, 2:]) * turn for a in (query, key))
        score = (query @ key.conj().T).real / math.sqrt(4)
        score[:, ~mask.numpy()] = -np.inf
        weights = np.exp(score - score.max(axis=1, keepdims=True))
        mixed[:, head * 4 : (head + 1) * 4] = weights / weights.sum(axis=1, keepdims=True) @ value
    with torch.no_grad():
        after = x[0] + block.project(torch.tensor(mixed, dtype=torch.float32))
        expected = after + block.contract(torch.nn.functional.gelu(block.expand(block.norm_feed(after))))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_positions_are_seconds_not_token_numbers(trunk: Trunk) -> None:
    tokens = torch.randn(2, 10, 16)
    coarse = 0.04 * torch.arange(10).expand(2, 10)
    at_coarse = run(trunk, tokens, coarse)
    # The same moments on a grid of half the bin size, every other bin empty.
    fine, valid = torch.randn(2, 20, 16), torch.zeros(2, 20, dtype=torch.bool)
    fine[:, ::2], valid[:, ::2] = tokens, True
    at_fine = run(trunk, fine, 0.02 * torch.arange(20).expand(2, 20), valid)[:, ::2]
    torch.testing.assert_close(at_fine, at_coarse, atol=1e-5, rtol=1e-5)
    # Only differences in time count, and they do.
    torch.testing.assert_close(run(trunk, tokens, coarse + 3.0), at_coarse, atol=1e-4, rtol=1e-4)
    assert (run(trunk, tokens, coarse / 2) - at_coarse).abs().max() > 1e-2


def test_padding_has_no_effect(trunk: Trunk) -> None:
    tokens, times = torch.randn(3, 12, 16), 0.02 * torch.arange(12).expand(3, 12)
    valid = torch.arange(12) < torch.tensor([[12], [7], [3]])
    padded = run(trunk, tokens, times, valid)
    for row, bins in enumerate((12, 7, 3)):
        alone = run(trunk, tokens[row : row + 1, :bins], times[row : row + 1, :bins])
        torch.testing.assert_close(padded[row, :bins], alone[0], atol=1e-5, rtol=1e-5)
    changed = tokens.masked_fill(~valid[..., None], 1e3)
    assert torch.equal(run(trunk, changed, times, valid)[valid], padded[valid])


def test_order_of_tokens_has_no_effect_when_times_go_with_them(trunk: Trunk) -> None:
    tokens, times = torch.randn(1, 12, 16), 0.02 * torch.arange(12)[None]
    order = torch.randperm(12)
    torch.testing.assert_close(
        run(trunk, tokens[:, order], times[:, order]), run(trunk, tokens, times)[:, order], atol=1e-5, rtol=1e-5
    )


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    trunk = Trunk(16, 1, 2, 32, dropout=0.5)
    tokens, times, valid = torch.randn(1, 5, 16), torch.arange(5.0)[None], torch.ones(1, 5, dtype=torch.bool)
    assert not torch.equal(trunk(tokens, times, valid), trunk(tokens, times, valid))
    trunk.eval()
    assert torch.equal(trunk(tokens, times, valid), trunk(tokens, times, valid))


@pytest.mark.parametrize(("width", "heads"), [(10, 3), (6, 2)])
def test_a_width_that_heads_cannot_share_is_refused(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match="even width per head"):
        Trunk(width, 1, heads, 8, 0.0)
