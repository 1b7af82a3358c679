"""The one training loop, on accelerate; pretraining starts it fresh, `foundation.finetune` with another start.

Every rank draws the same global batch and takes the windows of the sessions it owns. Shared gradients are summed over
ranks in one flat all-reduce, those of a sharded trunk block by block; adapter rows never travel but at checkpoints.
(DistributedDataParallel would hang when a
rank has no window in a step, and average where the losses here are already shares of a global mean.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from foundation.checkpoint import MetricsLog, RunError, best_model, load_checkpoint
from foundation.masking import Masks
from foundation.model import FoundationModel
from foundation.objectives import LossTerms, ObjectiveConfig
from foundation.optim import OptimConfig, RowAdam, rate_factor, shared_optimizer
from foundation.preemption import EXIT_STATUS, ignore_stop_requests, stop_requests
from foundation.progress import Progress
from foundation.rank_checkpoint import choose_checkpoint, restore_optimizers, save_ranks
from foundation.rank_loss import RankLoss
from foundation.ranks import own_sessions, sum_gradients
from foundation.sampling import Batch, WindowSampler
from foundation.sharding import clip_gradients, shard_trunk, whole_weights
from foundation.step_data import StepData
from foundation.training_data import TrainingData, spread

Trainable = Literal["all", "adapters"]
VALIDATION_STEP = 2**31
# So many updates in a row without a finite loss or gradient end a run.
MAX_SKIPPED = 10


@dataclass
class TrainConfig:
    """The loop.

    Attributes:
        steps: Updates.
        windows_per_step: Windows of all ranks together in an update.
        windows_per_session: Windows of one session in an update.
        temperature: Sessions are drawn with probability proportional to (windows)**temperature.
        val_every: Updates between validations; each writes a checkpoint.
        val_windows: At most this many validation windows.
        patience: Stop after this many validations without a better one; 0 never stops early.
        precision: `fp32`, or `bf16` autocast.
        shard_trunk: Of several processes each holds a part of the trunk's weights, gradients and moments (FSDP2),
            for trunks that do not fit a device.
        workers: Processes that read windows ahead; 0 reads in the training process.
        log_every: Updates between lines of the log.
        track: Trackers of accelerate, such as tensorboard or wandb.
    """

    steps: int = 3000
    windows_per_step: int = 64
    windows_per_session: int = 8
    temperature: float = 0.5
    val_every: int = 250
    val_windows: int = 1024
    patience: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    shard_trunk: bool = False
    workers: int = 0
    log_every: int = 10
    track: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        """Reject numbers that no loop can run on."""
        least = {"steps": 1, "windows_per_step": 1, "windows_per_session": 1, "val_every": 1, "log_every": 1}
        for name, bound in {**least, "val_windows": 1, "patience": 0, "workers": 0}.items():
            if getattr(self, name) < bound:
                raise ValueError(f"train.{name} is {getattr(self, name)}, expected at least {bound}")


def fit(
    model: FoundationModel,
    data: TrainingData,
    *,
    objective: ObjectiveConfig,
    optim: OptimConfig,
    train: TrainConfig,
    seed: int,
    folder: Path | None = None,
    trainable: Trainable = "all",
    accelerator: Accelerator | None = None,
    label: str = "train",
    log: Path | None = None,
) -> FoundationModel:
    """Train a model and return its best state by validation loss.

    Args:
        model: With rows for every session of `data`.
        data: Windows to train and validate on.
        objective: Losses.
        optim: Rates.
        train: The loop.
        seed: Of batches and masks.
        folder: Run folder for logs and checkpoints; training resumes from its last one. None keeps all in memory.
        trainable: `adapters` leaves trunk and heads bit-identical.
        accelerator: Of the launch; by default a new one.
        label: Of the progress bar.
        log: Where to write losses; by default `metrics.jsonl` in the run folder, if there is one.

    Raises:
        RunError: Ten updates in a row whose loss or gradient is not finite. A single one is left out, and its windows
            are named on stderr and in the log.
        SystemExit: SIGTERM came, in a run that has a folder: a checkpoint was written, and the same call goes on.
    """
    accelerator = accelerator or make_accelerator(train, folder)
    state: dict[str, Any] = {}
    if folder is not None and (chosen := choose_checkpoint(folder, accelerator)) is not None:
        model, state = load_checkpoint(chosen)
    loop = _Loop(model, data, objective, optim, train, seed, folder, trainable, accelerator)
    loop.restore(state, log or (folder / "metrics.jsonl" if folder is not None else None))
    loop.run(label)
    return loop.best()


class _Loop:
    """The state of one training run on one rank."""

    def __init__(
        self,
        model: FoundationModel,
        data: TrainingData,
        objective: ObjectiveConfig,
        optim: OptimConfig,
        train: TrainConfig,
        seed: int,
        folder: Path | None,
        trainable: Trainable,
        accelerator: Accelerator,
    ) -> None:
        self.accelerator, self.data, self.folder = accelerator, data, folder
        self.objective, self.optim, self.train, self.seed = objective, optim, train, seed
        work = {key: len(windows) for key, windows in data.train.items()}
        self.order = model.adapters.sessions["recording_id"].tolist()
        owners = own_sessions(work, accelerator.num_processes)
        mine = set(owners[accelerator.process_index])
        # Sessions without a train window ride along on the main process, so that no row is lost.
        self.owned = [k for k in self.order if k in mine or (k not in work and accelerator.is_main_process)]
        if not (mine if accelerator.num_processes > 1 else self.owned):
            raise ValueError(
                f"{len(self.order)} sessions for {accelerator.num_processes} processes; start at most one per session"
            )
        if accelerator.num_processes > 1:
            model.keep_sessions(self.owned)
        self.model = model.to(accelerator.device)
        if train.shard_trunk and accelerator.num_processes > 1:
            if folder is None:
                raise ValueError("train.shard_trunk is set and there is no run folder; give one, or leave it false")
            shard_trunk(self.model.trunk, accelerator.device)
        for parameter in self.model.shared_parameters():
            parameter.requires_grad_(trainable == "all")
        self.model.log_temperature.requires_grad_(trainable == "all" and model.shape.learn_temperature)
        self.shared = [p for p in self.model.shared_parameters() if p.requires_grad]
        self.adamw = shared_optimizer(self.model, optim) if self.shared else None
        self.row_adam = RowAdam(self.model.adapters, optim)
        self.sampler = WindowSampler(
            data.train,
            train.windows_per_step,
            train.windows_per_session,
            seed,
            train.temperature,
            window_bins=round(model.config.window_s / data.reader.bin_size_s),
            bin_size_s=data.reader.bin_size_s,
            groups=data.groups,
        )
        self.best_loss, self.stale, self.stopped = float("inf"), 0, False
        self.best_step: int | None = None
        self.best_parameters: dict[str, torch.Tensor] | None = None
        self.log = MetricsLog(None)
        self.first_step, self.skipped = 0, 0
        self.idle_window = next((w for windows in data.train.values() for w in windows if w.recording_id in mine), None)
        chosen = spread(data.val, train.val_windows)
        self.val_windows = {key: chosen[key] for key in self.owned if chosen.get(key)}
        self.losses = RankLoss(self.model, data.reader, objective, accelerator, train.precision)
        self.asked: Callable[[], bool] = lambda: False
        self.stopping = False

    def restore(self, state: dict[str, Any], log: Path | None) -> None:
        """Continue from a checkpoint's state; an empty one starts afresh."""
        step, rank = int(state.get("step", 0)), self.accelerator.process_index
        self.first_step = step
        if log is not None and self.accelerator.is_main_process:
            self.log = MetricsLog(log, state.get("log", ""))
        generators = state.get("generators", [])
        # Only dropout draws from torch's generator; a rank that did not exist before starts a stream of its own.
        if rank < len(generators):
            torch.set_rng_state(generators[rank])
        else:
            torch.manual_seed(self.seed + 1000 * rank + step)
        if state:
            self.best_loss, self.stale, self.stopped = state["best_loss"], state["stale"], state["stopped"]
            self.best_step = state["best_step"]
            if self.best_step is None:  # damaged: the next one is the best that there is
                self.best_loss = float("inf")
            restore_optimizers(state, self.owned, self.row_adam, self.adamw)

    def run(self, label: str) -> None:
        """Train from the present step to the last one."""
        with stop_requests() if self.folder is not None else nullcontext(lambda: False) as self.asked:
            self._run(label)

    def _run(self, label: str) -> None:
        start, steps = self.first_step, self.train.steps
        dataset = StepData(self.data.reader, self.sampler, set(self.owned), self.objective.masking, self.seed)
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=range(start, steps),
            num_workers=self.train.workers,
            prefetch_factor=4 if self.train.workers else None,
            worker_init_fn=ignore_stop_requests,
            # Its own: a loader draws a number when it starts, which a resumed run would take from dropout's stream.
            generator=torch.Generator(),
        )
        progress = Progress(label, start, steps, self.accelerator.is_main_process)
        begun, trained = time.perf_counter(), 0
        for step, item in zip(range(start, steps), iter(loader) if not self.stopped else ()):
            losses = self.update(step, item)
            trained += self.train.windows_per_step
            speed = trained / (time.perf_counter() - begun)
            if losses is not None:
                if (step + 1) % self.train.log_every == 0 or step + 1 == steps:
                    self.write({"step": step + 1, "split": "train", **losses.terms})
                progress.update(loss=f"{losses.terms['loss']:.4f}", windows_per_s=f"{speed:.0f}")
            due = (step + 1) % self.train.val_every == 0 or step + 1 == steps
            if due:
                self.validate(step + 1, speed)
                if self.stopped:
                    break
            if step + 1 < steps and self.stopping:
                self.stop(step + 1, label, is_saved=due)
        progress.close()

    def update(self, step: int, item: tuple[Batch, Masks] | None) -> LossTerms | None:
        """One update of shared parameters and of the rows of the sessions in the batch; None if it is left out."""
        self.model.train()
        rows = {}
        if item is not None:
            batch, masks = item[0].to(self.accelerator.device), item[1].to(self.accelerator.device)
            rows = {key: self.model.adapters.rows(key, leaf=True) for key in batch.recording_ids}
            losses = self.losses.train(batch, masks, rows, (self.seed, step))
        else:
            assert self.idle_window is not None
            losses = self.losses.idle(self.idle_window)
        losses.total.backward()
        own = [t.grad.sum() for leaf in rows.values() for t in (leaf.units, leaf.session) if t.grad is not None]
        finite = torch.stack([losses.total.detach(), *own]).isfinite().all()
        flags = torch.stack([~finite, torch.tensor(self.asked(), device=finite.device)]).float()
        if self.accelerator.num_processes > 1:
            flags = sum_gradients(self.shared, self.accelerator, flags)
        norm = clip_gradients(self.shared, self.optim.clip)
        broken, stopping = (flags > 0).tolist()
        self.stopping |= stopping
        if broken or not norm.isfinite():
            self.leave_out(step, item)
            return None
        factor = rate_factor(step, self.train.steps, self.optim)
        self.skipped = 0
        if self.adamw is not None:
            for group in self.adamw.param_groups:
                group["lr"] = self.optim.lr * factor
            self.adamw.step()
            self.adamw.zero_grad(set_to_none=True)
        self.row_adam.step(rows, self.optim.row_lr * factor)
        return losses

    def leave_out(self, step: int, item: tuple[Batch, Masks] | None) -> None:
        """Forget the gradients of an update that is not finite, and say which windows made it so."""
        for parameter in self.shared:
            parameter.grad = None
        seed = (self.seed, step)
        with whole_weights(self.model):
            broken = [w for w in (item[0].windows if item is not None else []) if not self.losses.is_finite(w, seed)]
        mine = [f"{w.recording_id} at {w.start_s:.3f} s" for w in broken]
        named = [text for part in gather_object([mine]) for text in part]
        if self.accelerator.is_main_process:
            what = f"windows that alone give no finite loss: {'; '.join(named) or 'none'}"
            print(f"step {step + 1}: the loss or its gradient is not finite, left out; {what}", file=sys.stderr)
            self.log.write({"step": step + 1, "split": "left out", "windows": named})
        self.skipped += 1
        if self.skipped == MAX_SKIPPED:
            raise RunError(
                f"{MAX_SKIPPED} updates in a row, up to step {step + 1}, whose loss or gradient is not finite; start "
                "again with another out=... and a lower optim.lr or optim.row_lr, or without the recordings that were "
                "named (the last checkpoint here is good)"
            )

    def validate(self, step: int, speed: float) -> None:
        """Measure the losses on the fixed validation windows and write a checkpoint."""
        with whole_weights(self.model):
            terms = self.losses.validation(self.val_windows, (self.seed, VALIDATION_STEP))
        better = terms["loss"] < self.best_loss
        self.best_loss = min(self.best_loss, terms["loss"])
        self.stale = 0 if better else self.stale + 1
        self.stopped = bool(self.train.patience and self.stale >= self.train.patience)
        rate = {"windows_per_s": round(speed, 2), "lr": self.optim.lr * rate_factor(step, self.train.steps, self.optim)}
        self.write({"step": step, "split": "val", **terms, **rate})
        if better:
            self.best_step = step
        if self.folder is not None:
            self.save(step)
        elif better:
            self.best_parameters = {name: value.clone() for name, value in self.model.state_dict().items()}

    def stop(self, step: int, label: str, *, is_saved: bool) -> None:
        """Save, unless that was just done, and end the process as SIGTERM would have."""
        if not is_saved:
            self.save(step)
        if self.accelerator.is_main_process:
            print(f"{label}: stopped by SIGTERM at step {step}, saved; the same command goes on", file=sys.stderr)
        self.accelerator.end_training()
        raise SystemExit(EXIT_STATUS)

    def save(self, step: int) -> None:
        """Write a checkpoint with the rows of all ranks."""
        assert self.folder is not None
        save_ranks(
            self.folder,
            step,
            self.model,
            self.row_adam,
            self.adamw,
            self.accelerator,
            owned=self.owned,
            order=self.order,
            best_step=self.best_step,
            best_loss=self.best_loss,
            stale=self.stale,
            stopped=self.stopped,
        )

    def write(self, row: dict[str, Any]) -> None:
        """Put a row into the log and to the trackers."""
        self.log.write(row)
        if self.accelerator.trackers:
            numbers = {f"{row['split']}/{k}": v for k, v in row.items() if k not in ("step", "split")}
            self.accelerator.log(numbers, step=row["step"])

    def best(self) -> FoundationModel:
        """The best model, with the rows of all ranks."""
        if self.folder is not None:
            self.accelerator.wait_for_everyone()
            return best_model(self.folder)
        if self.best_parameters is not None:
            self.model.load_state_dict(self.best_parameters)
        return self.model


def make_accelerator(train: TrainConfig, folder: Path | None) -> Accelerator:
    """An accelerator with the trackers asked for; every rank of a launch calls this once."""
    trackers = train.track if folder is not None else []
    accelerator = Accelerator(log_with=trackers or None, project_dir=str(folder) if folder is not None else None)
    if trackers:
        accelerator.init_trackers("tensorboard" if trackers == ["tensorboard"] else "foundation")
    return accelerator
