"""Cost of one pretraining update: beside NEDS's computation, and as the number of sessions grows.

    python -m benchmarks.pretraining_step [--quick]

Both sides update on the same 16 two-second windows of 16 sessions (fp32, one thread, width 256, 5 layers, 8 heads,
feed-forward 512, masks of the five NEDS schemes, masked losses only), optimizers included; batches and masks are made
beforehand, so reading and masking are in neither figure. Times are CPU seconds, sides interleaved in one process,
medians. Ours runs `foundation.train`'s own update. The reference is `benchmarks.neds_reference`; it counts only if with
attention dropout 0 it reaches half of the matrix-product ceiling measured in the same run. Growth is measured with
models of 10, 90 and 1,000 sessions on one and the same batch: time in one process, peak memory in one process each.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.neds_reference import Neds, NedsBatch, NedsShape, step_flops
from foundation.adapters import RowLayout, SessionPart
from foundation.corpus import Corpus
from foundation.masking import Masks, MaskingConfig, draw_masks
from foundation.model import FoundationModel, ModelConfig
from foundation.objectives import ObjectiveConfig
from foundation.optim import OptimConfig
from foundation.recording import CovariateSpec
from foundation.sampling import STRUCTURE, Batch, Channel, Window, WindowReader
from foundation.train import TrainConfig, TrainingData, _Loop

NUM_BINS, BIN_SIZE_S, NUM_WINDOWS = 100, 0.02, 16
SCHEMES = {name: 1.0 for name in ("neural", "behavior", "within_neural", "within_behavior", "cross")}
CHANNELS = [
    Channel(CovariateSpec("choice", "categorical", "trial", num_classes=2)),
    Channel(CovariateSpec("block", "categorical", "trial", num_classes=3)),
    Channel(CovariateSpec("wheel", "continuous", "time")),
    Channel(CovariateSpec("whisker", "continuous", "time")),
]
SHAPE = ModelConfig(width=256, depth=5, heads=8, feed_forward=512)
Step = Callable[[int], object]


def unit_counts(num_sessions: int) -> list[int]:
    """Units of each session: 16 draws around 668, the mean of NEDS's sessions, over and over."""
    drawn = np.clip(np.random.default_rng(0).normal(668, 60, NUM_WINDOWS), 100, None).astype(int).tolist()
    return [drawn[k % NUM_WINDOWS] for k in range(num_sessions)]


def session_id(index: int) -> str:
    """Name of a session; names sort as their indices do."""
    return f"bench/{index:05d}"


def make_batch(units: list[int], num_windows: int, seed: int) -> Batch:
    """Windows of Poisson counts (5 Hz on average) and random covariates, spread evenly over the given sessions."""
    rng = np.random.default_rng(seed)
    owner = np.sort(np.arange(num_windows) % len(units))
    sizes = np.bincount(owner, minlength=len(units))
    rates = [rng.exponential(5 * BIN_SIZE_S, n).astype(np.float32) for n in units]
    spikes = [
        torch.from_numpy(np.minimum(rng.poisson(rate, (size, NUM_BINS, len(rate))), 255).astype(np.uint8))
        for rate, size in zip(rates, sizes)
    ]
    labels = [np.eye(c.spec.num_classes)[rng.integers(c.spec.num_classes, size=num_windows)] for c in CHANNELS[:2]]
    steady = np.concatenate(labels, axis=1)[:, None].repeat(NUM_BINS, axis=1)
    values = np.concatenate([steady, rng.normal(size=(num_windows, NUM_BINS, 2))], axis=2).astype(np.float32)
    return Batch(
        windows=[Window(session_id(k), 2.0 * i, NUM_BINS, i) for i, k in enumerate(owner)],
        recording_ids=[session_id(k) for k in range(len(units))],
        sizes=sizes.tolist(),
        spikes=spikes,
        covariates=torch.from_numpy(values),
        observed=torch.ones(num_windows, NUM_BINS, len(CHANNELS), dtype=torch.bool),
        structure=torch.from_numpy(rng.normal(size=(num_windows, NUM_BINS, len(STRUCTURE))).astype(np.float32)),
        trial=torch.zeros(num_windows, NUM_BINS, dtype=torch.int64),
        valid=torch.ones(num_windows, NUM_BINS, dtype=torch.bool),
        clock=torch.from_numpy(rng.random(num_windows).astype(np.float32)),
        bin_size_s=BIN_SIZE_S,
    )


def make_items(units: list[int], count: int) -> list[tuple[Batch, Masks]]:
    """Batches with masks of the five NEDS schemes."""
    batches = [make_batch(units, NUM_WINDOWS, seed) for seed in range(count)]
    return [(batch, draw_masks(batch, CHANNELS, MaskingConfig(SCHEMES), (k,))) for k, batch in enumerate(batches)]


def to_neds(batch: Batch, masks: Masks, num_units: int) -> NedsBatch:
    """The same windows and masks, padded over units."""
    num_windows = len(batch)
    spikes = torch.zeros(num_windows, NUM_BINS, num_units)
    first = 0
    for counts, size in zip(batch.spikes, batch.sizes):
        spikes[first : first + size, :, : counts.shape[2]] = counts
        first += size
    own = [counts.shape[2] for counts, size in zip(batch.spikes, batch.sizes) for _ in range(size)]
    hidden = torch.cat([masks.bins[:, None], masks.covariates.transpose(1, 2)], dim=1)
    predicted = hidden.clone()
    predicted[:, 0] &= masks.spikes_predicted[:, None]
    predicted[:, 1:] &= masks.covariates_predicted[:, None, None]
    return NedsBatch(
        sessions=[int(key.split("/")[1]) for key in batch.recording_ids],
        sizes=batch.sizes,
        spikes=spikes,
        num_units=torch.tensor(own),
        static=torch.stack([batch.covariates[:, 0, :2].argmax(-1), batch.covariates[:, 0, 2:5].argmax(-1)], dim=1),
        continuous=batch.covariates[..., 5:],
        hidden=hidden,
        predicted=predicted,
    )


def our_step(units: list[int], items: list[tuple[Batch, Masks]], shape: ModelConfig, contrast: float = 0.0) -> Step:
    """An update of a new model with these sessions; `contrast` weighs both contrastive heads."""
    model = FoundationModel.create(shape, CHANNELS, BIN_SIZE_S, NUM_BINS * BIN_SIZE_S, seed=0)
    layout = RowLayout(shape.width, shape.private_rank)
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for k, number in enumerate(units):
        rows = torch.randn(number, layout.num_columns, generator=generator).mul_(0.02)
        names = [f"{session_id(k)}/{i}" for i in range(number)]
        parts[session_id(k)] = SessionPart(f"subject{k}", names, rows, torch.zeros(shape.width), torch.full((number,), 0.1))
    model.add_parts(parts)
    objective = ObjectiveConfig(time_contrast=contrast, behavior_contrast=contrast, masking=MaskingConfig(SCHEMES))
    objective.contrastive.continuous, objective.contrastive.discrete = ["wheel"], ["choice"]
    reader = WindowReader(Corpus(Path(), {}), CHANNELS, BIN_SIZE_S)
    data = TrainingData(reader, {key: [Window(key, 0.0, NUM_BINS, 0)] for key in parts}, {})
    train = TrainConfig(steps=100_000, windows_per_step=NUM_WINDOWS, windows_per_session=1, track=[])
    loop = _Loop(
        model, data, objective, OptimConfig(), train, 0, None, "all", Accelerator(cpu=True)
    )
    return lambda k: loop.update(k, items[k % len(items)])


def neds_step(units: list[int], items: list[tuple[Batch, Masks]], attention_dropout: float) -> Step:
    """An update of the reference."""
    torch.manual_seed(0)
    shape = NedsShape(len(units), max(units), NUM_BINS, attention_dropout=attention_dropout)
    model = Neds(shape)
    optimizer = model.optimizer()
    batches = [to_neds(batch, masks, shape.num_units) for batch, masks in items]

    def step(k: int) -> None:
        model.loss(batches[k % len(batches)]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
