"""The same run with 1, 2 and 4 processes, and one that changes their number on the way: how far apart do they end?

    python -m benchmarks.processes

Sessions are uneven and as many as the largest number of processes, so that ranks are often without a window. Printed is
the largest difference, relative to the size of what differs, of training losses, validation losses, shared parameters
and adapter rows from the run of one process, with the trunk whole on every rank or in shards. The last line is one
JSON object.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.faults import Work, start, wait
from data_recipes.recipe import open_or_prepare
from foundation import train
from foundation.channels import DataConfig
from foundation.checkpoint import newest_checkpoint
from foundation.config import Config
from foundation.model_config import ModelConfig
from foundation.objectives import ObjectiveConfig
from foundation.objectives.contrastive import ContrastiveConfig
from foundation.pretrain import pretrain
from foundation.train import TrainConfig

# Processes of each stretch of a run, and the step it goes to.
CHANGES = [(2, 8), (4, 16), (1, 24)]
PLANS = {"2": [(2, 24)], "4": [(4, 24)], "2, then 4, then 1": CHANGES}
SHARDED = {"2, trunk in shards": [(2, 24)], "4, trunk in shards": [(4, 24)], "2, then 4, then 1, in shards": CHANGES}


def run(config: Config, folder: Path, plan: list[tuple[int, int]]) -> None:
    """Train along a plan; each stretch is stopped where the next begins, by asking for no more steps than that."""
    folder.mkdir()
    for ranks, step in plan:

        def do(folder: Path, step: int = step) -> object:
            steps = config.train.steps
            original = train._Loop.update

            def update(self: Any, at: int, item: Any) -> Any:
                if at == step < steps:
                    raise SystemExit(0)
                return original(self, at, item)

            train._Loop.update = update  # type: ignore[method-assign, assignment]
            return pretrain(replace(config, out=str(folder / "run")))

        if any(wait(start(Work("train", do, lambda _: {}, ranks), folder, None))):
            raise AssertionError(f"{ranks} processes:\n{(folder / 'said.txt').read_text()[-3000:]}")
        saved = newest_checkpoint(folder / "run")
        assert saved is not None
        state = torch.load(saved.folder / "state.pt", weights_only=True)
        if (saved.step, len(state["generators"])) != (step, ranks):
            raise AssertionError(f"{ranks} processes up to step {step}: a checkpoint of another launch, {saved}")


def outcome(folder: Path) -> dict[str, torch.Tensor]:
    """Losses, parameters and rows of a run."""
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    tensors = load_file(folder / "run/model/model.safetensors")
    shared = torch.cat([t.flatten() for name, t in sorted(tensors.items()) if not name.startswith("adapters.")])
    adapters = torch.cat([t.flatten() for name, t in sorted(tensors.items()) if name.startswith("adapters.")])
    return {
        "training losses": torch.tensor([row["loss"] for row in rows if row["split"] == "train"]),
        "validation losses": torch.tensor([row["loss"] for row in rows if row["split"] == "val"]),
        "shared parameters": shared,
        "adapter rows": adapters,
    }


def main() -> None:
    """Compare all plans with one process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = open_or_prepare("synthetic", Path(scratch) / "corpus", num_subjects=5, num_units=20, num_trials=40)
        config = Config(
            data=DataConfig(corpus=str(corpus.path), held_out=["animal04"], window_s=0.6),
            model=ModelConfig(width=16, depth=2, heads=2, feed_forward=32, private_rank=3),
            objective=ObjectiveConfig(contrastive=ContrastiveConfig(discrete=["choice"])),
            train=TrainConfig(
                steps=24, windows_per_step=8, windows_per_session=4, val_every=8, val_windows=48, log_every=1, track=[]
            ),
        )
        run(config, Path(scratch) / "one", [(1, 24)])
        one, found = outcome(Path(scratch) / "one"), {}
        for k, (name, plan) in enumerate((PLANS | SHARDED).items()):
            sharded = replace(config, train=replace(config.train, shard_trunk=name in SHARDED))
            run(sharded, Path(scratch) / f"plan{k}", plan)
            other = outcome(Path(scratch) / f"plan{k}")
            found[name] = {key: float((other[key] - v).abs().max() / v.abs().max()) for key, v in one.items()}
            print(f"{name:30s}" + "".join(f"  {key} {value:.1e}" for key, value in found[name].items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
