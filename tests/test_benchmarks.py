"""The pieces of the benchmarks at tiny sizes: both sides get the same data, and the reference computes what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pretraining_step as step
from benchmarks import window_read
from benchmarks.neds_reference import NUM_MODALITIES, Neds, NedsBlock, NedsShape, step_flops
from foundation.binning import bin_spikes

UNITS = [9, 14, 11]
TINY = NedsShape(len(UNITS), 14, step.NUM_BINS, 16, 2, 2, 24, dropout=0.0, attention_dropout=0.0, token_dropout=0.0)
SMALL = replace(step.SHAPE, width=16, depth=1, heads=2, feed_forward=24, private_rank=2)


def test_both_sides_see_the_same_windows() -> None:
    batch, masks = step.make_items(UNITS, 1)[0]
    padded = step.to_neds(batch, masks, 14)
    first = 0
    for counts, units, size in zip(batch.spikes, UNITS, batch.sizes):
        window = slice(first, first + size)
        assert torch.equal(padded.spikes[window, :, :units], counts.float())
        assert not padded.spikes[window, :, units:].any()
        assert padded.num_units[window].tolist() == [units] * size
        first += size
    assert batch.sizes == [6, 5, 5]
    assert first == step.NUM_WINDOWS
    for w, scheme in enumerate(masks.schemes):
        assert padded.hidden[w, 0].all() == (scheme == "neural")
        assert padded.predicted[w, 0].any() == (scheme in ("neural", "within_neural", "cross"))
        assert padded.predicted[w, 1:].any() == (
            scheme in ("behavior", "within_behavior", "cross") and bool(padded.hidden[w, 1:].any())
        )
    labels = torch.eye(3)[padded.static[:, 1]]
    assert torch.equal(labels, batch.covariates[:, 7, 2:5])
    assert set(masks.schemes) <= set(step.SCHEMES)


def test_reference_block_equals_a_loop() -> None:
    torch.manual_seed(0)
    net = Neds(replace(TINY, num_bins=3)).double()
    block = net.blocks[0]
    assert isinstance(block, NedsBlock)
    length, width, heads, half = NUM_MODALITIES * 3, 16, 2, 4
    x = torch.randn(1, length, width, dtype=torch.float64)
    q, k, v = block.query_key_value(block.norms[0](x))[0].chunk(3, dim=1)
    mixed = torch.zeros(length, width, dtype=torch.float64)
    for h in range(heads):
        where = slice(h * 2 * half, (h + 1) * 2 * half)
        for i in range(length):
            score = torch.zeros(length, dtype=torch.float64)
            for j in range(length):
                # Rotating both by their bins turns the product by the difference of the bins, base 10000.
                angle = ((i % 3) - (j % 3)) * 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
                a, b = torch.complex(*q[i, where].view(2, half)), torch.complex(*k[j, where].view(2, half))
                score[j] = (a * b.conj() * torch.polar(torch.ones(half), angle)).real.sum() / (2 * half) ** 0.5
            mixed[i, where] = torch.softmax(score, 0) @ v[:, where]
    expected = x + block.project(mixed)
    expected = expected + block.feed(block.norms[1](expected))
    torch.testing.assert_close(block(x, net.cos, net.sin), expected, rtol=1e-5, atol=1e-6)


def test_reference_loss() -> None:
    """Padding, what is hidden, and absent sessions have no say."""
    torch.manual_seed(0)
    net = Neds(TINY)
    batch = step.to_neds(*step.make_items(UNITS[:2], 1)[0], 14)
    loss = net.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None for p in net.sessions[2].parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.sessions[0].parameters())
    with torch.no_grad():
        net.sessions[0].rates.bias[UNITS[0] :] += 5.0
        assert net.loss(batch) == loss
        before = net.states(batch)
        other = replace(batch, spikes=torch.where(batch.hidden[:, 0, :, None], 7.0, batch.spikes))
        assert torch.equal(net.states(other), before)


def test_flops_equal_a_counter() -> None:
    # Attention dropout, so that every product is one the counter knows; large enough that small maps do not matter.
    shape = NedsShape(len(UNITS), 150, step.NUM_BINS, 64, 2, 2, 128)
    net = Neds(shape)
    batch = step.to_neds(*step.make_items([140, 150, 130], 1)[0], 150)
    with FlopCounterMode(display=False) as counter:
        net.loss(batch).backward()
    assert counter.get_total_flops() == pytest.approx(step_flops(shape, step.NUM_WINDOWS), rel=0.02)


def test_our_step_has_masked_losses_only_unless_asked() -> None:
    items = step.make_items(UNITS[:2], 2)
    run = step.our_step(UNITS, items, SMALL)
    losses = [run(k) for k in range(2)]
    assert set(losses[0].terms) == {"loss", "spikes", "choice", "block", "wheel", "whisker"}
    assert all(np.isfinite(list(loss.terms.values())).all() for loss in losses)
    with_heads = step.our_step(UNITS, items, SMALL, contrast=0.02)(0)
    assert set(with_heads.terms) - set(losses[0].terms) == {"time_contrast", "behavior_contrast"}
    assert with_heads.terms["spikes"] == pytest.approx(losses[0].terms["spikes"], rel=1e-5)


def test_session_sizes_repeat() -> None:
    units = step.unit_counts(40)
    assert units[:16] == step.unit_counts(16)
    assert units[16:32] == units[:16]
    assert 600 < np.mean(units) < 730
    parts = step.session_parts(UNITS, step.LAYOUT)
    assert [tuple(part.unit_rows.shape) for part in parts.values()] == [(n, step.LAYOUT.num_columns) for n in UNITS]


def test_turns_alternate_and_leave_out_the_first() -> None:
    seen: list[tuple[str, int]] = []
    steps = {name: (lambda k, name=name: seen.append((name, k))) for name in ("a", "b")}
    took = step.take_turns(steps, 2, {"a": 2})
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 2), ("b", 2)]
    assert {name: len(value) for name, value in took.items()} == {"a": 2, "b": 2}


def test_window_readers_agree(tmp_path: Path) -> None:
    recording = window_read.poisson_recording(20, 5.0, 30.0, seed=3)
    assert len(recording.spike_times) == pytest.approx(20 * 5 * 30, rel=0.1)
    readers = window_read.our_readers(recording, tmp_path / "corpus")
    try:
        readers |= window_read.their_readers(recording, tmp_path / "h5")
    except ValueError as error:
        pytest.skip(str(error))
    for start in (0.0, 3.217, 27.9):
        expected = bin_spikes(recording, start, window_read.NUM_BINS, window_read.BIN_SIZE_S)
        for name, read in readers.items():
            assert np.array_equal(read(start), expected), name
    assert set(window_read.interleaved_us(readers, np.array([1.0, 2.0]), 2)) == set(readers)
