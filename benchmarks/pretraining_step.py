"""Cost of one pretraining update, beside NEDS's computation and as sessions grow; reading and masking are in neither.

    python -m benchmarks.pretraining_step [--quick]

Both sides update on the same prepared batches: 16 two-second windows of 16 sessions, fp32, one thread, width 256, 5
layers, 8 heads, feed-forward 512, masks of the five NEDS schemes, masked losses only, optimizers included. Ours is
`foundation.train`'s own update with the library's defaults (no dropout); `dropout` is with NEDS's residual dropout.
The reference is `benchmarks.neds_reference`; it counts only if with attention dropout 0 it reaches half of the
matrix-product ceiling measured in the same rounds. Figures are CPU seconds; sides take turns within a round, and ratios
are medians over rounds. Growth is that of models of 10, 90 and 1,000 sessions on one batch of 10 sessions: time in
turns in one process, peak memory in a process each.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.neds_reference import Neds, NedsBatch, NedsShape, step_flops
from foundation.adapters import RowLayout, SessionPart
from foundation.channels import Channel
from foundation.corpus import Corpus
from foundation.masking import MaskingConfig, Masks, draw_masks
from foundation.model import FoundationModel
from foundation.model_config import ModelConfig
from foundation.objectives import ObjectiveConfig
from foundation.optim import OptimConfig
from foundation.recording import CovariateSpec
from foundation.sampling import STRUCTURE, Batch, Window, WindowReader
from foundation.train import TrainConfig, _Loop
from foundation.training_data import TrainingData

NUM_BINS, BIN_SIZE_S, NUM_WINDOWS = 100, 0.02, 16
SCHEMES = dict.fromkeys(("neural", "behavior", "within_neural", "within_behavior", "cross"), 1.0)
CHANNELS = [
    Channel(CovariateSpec("choice", "categorical", "trial", num_classes=2)),
    Channel(CovariateSpec("block", "categorical", "trial", num_classes=3)),
    Channel(CovariateSpec("wheel", "continuous", "time")),
    Channel(CovariateSpec("whisker", "continuous", "time")),
]
SHAPE = ModelConfig(width=256, depth=5, heads=8, feed_forward=512)
LAYOUT = RowLayout(SHAPE.width, SHAPE.private_rank)
NUM_SESSIONS = (10, 90, 1000)
Step = Callable[[int], object]
Item = tuple[Batch, Masks]


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
        regions=[np.full(part.shape[2], -1) for part in spikes],
    )


def make_items(units: list[int], count: int) -> list[Item]:
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


def session_parts(units: list[int], layout: RowLayout) -> dict[str, SessionPart]:
    """New rows of every session, cut from one table: freed small pieces would stay resident."""
    table = torch.randn(sum(units), layout.num_columns, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    parts = {}
    for k, (number, rows) in enumerate(zip(units, table.split(units))):
        names = [f"{session_id(k)}/{i}" for i in range(number)]
        center = torch.full((number,), 0.1)
        parts[session_id(k)] = SessionPart(f"subject{k}", names, rows, torch.zeros(layout.width), center)
    return parts


def our_step(units: list[int], items: list[Item], shape: ModelConfig, contrast: float = 0.0) -> Step:
    """An update of a new model with these sessions; `contrast` weighs both contrastive heads."""
    model = FoundationModel.create(shape, CHANNELS, BIN_SIZE_S, NUM_BINS * BIN_SIZE_S, seed=0)
    model.add_parts(session_parts(units, model.adapters.layout))
    objective = ObjectiveConfig(time_contrast=contrast, behavior_contrast=contrast, masking=MaskingConfig(SCHEMES))
    objective.contrastive.continuous, objective.contrastive.discrete = ["wheel"], ["choice"]
    train = TrainConfig(steps=10_000, windows_per_step=NUM_WINDOWS, windows_per_session=1, track=[])
    windows = {session_id(k): [Window(session_id(k), 0.0, NUM_BINS, 0)] for k in range(len(units))}
    data = TrainingData(WindowReader(Corpus(Path(), {}), CHANNELS, BIN_SIZE_S), windows, {})
    loop = _Loop(model, data, objective, OptimConfig(), train, 0, None, "all", Accelerator(cpu=True))
    return lambda k: loop.update(k, items[k % len(items)])


def neds_step(units: list[int], items: list[Item], attention_dropout: float) -> Step:
    """An update of the reference."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Neds(NedsShape(len(units), max(units), NUM_BINS, attention_dropout=attention_dropout))
    optimizer = model.optimizer()
    batches = [to_neds(batch, masks, max(units)) for batch, masks in items]

    def step(k: int) -> None:
        model.loss(batches[k % len(batches)]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ceiling_step(size: int = 2048) -> Step:
    """A product of two square fp32 matrices, `2 size**3` operations."""
    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    return lambda k: left @ right


def take_turns(steps: dict[str, Step], rounds: int, repeats: dict[str, int]) -> dict[str, np.ndarray]:
    """CPU seconds `(rounds,)` of each step; round k gives every side item k, after one round that is not counted."""
    took: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(rounds + 1):
        for name, step in steps.items():
            number = repeats.get(name, 1) if k else 1
            begun = time.process_time()
            for _ in range(number):
                step(k)
            took[name].append((time.process_time() - begun) / number)
    return {name: np.array(values[1:]) for name, values in took.items()}


def compare(rounds: int) -> dict[str, Any]:
    """Our layouts beside the reference."""
    units = unit_counts(NUM_WINDOWS)
    items = make_items(units, rounds + 1)
    steps = {
        "neds_attn0": neds_step(units, items, attention_dropout=0.0),
        "ceiling": ceiling_step(),
        "fused": our_step(units, items, SHAPE),
        "fused_dropout": our_step(units, items, replace(SHAPE, dropout=0.4)),
        "fused_contrast": our_step(units, items, SHAPE, contrast=0.02),
        "interleaved": our_step(units, items, replace(SHAPE, layout="interleaved")),
    }
    repeats = {"ceiling": 5, "fused": 4, "fused_dropout": 2, "fused_contrast": 4}
    took = take_turns(steps, rounds, repeats)
    # The slowest side by far, and the clearest ratio: fewer rounds of its own, beside the fused layout again.
    slow = {"neds": neds_step(units, items, attention_dropout=0.4), "fused": steps["fused"]}
    slow_took = take_turns(slow, max(2, rounds // 3), repeats)
    flops = step_flops(NedsShape(len(units), max(units)), NUM_WINDOWS)
    share = float(np.median(flops / took["neds_attn0"] / (2 * 2048**3 / took["ceiling"])))

    def ratio(fast: str) -> float:
        return round(float(np.median(took["neds_attn0"] / took[fast])), 2)

    seconds = {"neds": slow_took["neds"]} | {name: value for name, value in took.items() if name != "ceiling"}
    medians = {name: float(np.median(value)) for name, value in seconds.items()}
    return {
        "ratio_fused": round(float(np.median(slow_took["neds"] / slow_took["fused"])), 2),
        "ratio_fused_attn0": ratio("fused"),
        "ratio_interleaved_attn0": ratio("interleaved"),
        "ratio_fused_dropout_attn0": ratio("fused_dropout"),
        "reference_counts": share >= 0.5,
        "reference_share_of_ceiling": round(share, 3),
        "ceiling_gflops": round(2e-9 * 2048**3 / float(np.median(took["ceiling"])), 1),
        "contrastive_percent": round(100 * float(np.median(took["fused_contrast"] / took["fused"])) - 100, 1),
        "cpu_s": {name: round(value, 3) for name, value in medians.items()},
        "windows_per_cpu_s": {name: round(NUM_WINDOWS / value, 1) for name, value in medians.items()},
    }


def growth(rounds: int) -> dict[str, Any]:
    """Time and memory at 10, 90 and 1,000 sessions, on the same batches of the first ten."""
    items = make_items(unit_counts(NUM_SESSIONS[0]), rounds + 1)
    steps = {str(number): our_step(unit_counts(number), items, SHAPE) for number in NUM_SESSIONS}
    took = take_turns(steps, rounds, dict.fromkeys(steps, 2))
    few, many = (str(number) for number in (NUM_SESSIONS[0], NUM_SESSIONS[-1]))
    return {
        "growth_1000_over_10": round(float(np.median(took[many] / took[few])), 3),
        "cpu_s_by_sessions": {name: round(float(np.median(value)), 3) for name, value in took.items()},
    }


def memory_growth() -> dict[str, Any]:
    """Peak memory of a process that builds a model and updates it; 12 bytes are a parameter and its two moments."""
    peaks, parameters = {}, {}
    for number in NUM_SESSIONS:
        command = [sys.executable, "-m", "benchmarks.pretraining_step", "--peak", str(number)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[number] = int(answer.split()[-1])
        parameters[number] = sum(unit_counts(number)) * LAYOUT.num_columns + number * LAYOUT.width
    few, many = NUM_SESSIONS[0], NUM_SESSIONS[-1]
    added = 12 * (parameters[many] - parameters[few])
    return {
        "memory_growth": round((peaks[many] - peaks[few]) / added, 3),
        "peak_mb": {str(number): round(peak / 1e6) for number, peak in peaks.items()},
        "adapter_parameters": {str(number): count for number, count in parameters.items()},
    }


def peak_bytes(num_sessions: int, updates: int = 3) -> int:
    """Peak resident memory of this process after building a model of `num_sessions` and updating it."""
    step = our_step(unit_counts(num_sessions), make_items(unit_counts(NUM_SESSIONS[0]), updates), SHAPE)
    for k in range(updates):
        step(k)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description="Cost of a pretraining update against NEDS's computation.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; under 5 minutes on 2 cores")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(peak_bytes(arguments.peak))
        return
    # Memory first: a child's peak starts from the pages it shares with its parent.
    figures = memory_growth()
    figures = compare(5 if arguments.quick else 15) | growth(5 if arguments.quick else 21) | figures
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
