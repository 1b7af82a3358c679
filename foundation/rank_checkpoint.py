"""Checkpoints of all ranks together: one is chosen for all, each takes its part, and the parts are saved as one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from foundation.adapters import SessionPart
from foundation.checkpoint import Checkpoint, RunError, newest_checkpoint, remove_newer, save_checkpoint
from foundation.model import FoundationModel
from foundation.optim import RowAdam
from foundation.sharding import shard_like, whole, whole_trunk


def choose_checkpoint(folder: Path, accelerator: Accelerator) -> Checkpoint | None:
    """The checkpoint to go on from, chosen by the main process: others may see a shared folder as it was before.

    Raises:
        RunError: On all ranks.
    """
    found: list[Checkpoint | str | None] = [None]
    if accelerator.is_main_process:
        try:
            newest = newest_checkpoint(folder)
            if newest is not None:
                remove_newer(newest)
            found = [newest]
        except RunError as error:
            found = [str(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if isinstance(found[0], str):
        raise RunError(found[0])
    return found[0]


def restore_optimizers(
    state: dict[str, Any], owned: list[str], row_adam: RowAdam, adamw: torch.optim.AdamW | None
) -> None:
    """Take a rank's part of a checkpoint's moments, in shards where the parameters are.

    Args:
        state: As `save_ranks` made it.
        owned: Sessions of this rank.
        row_adam: Of their rows.
        adamw: Of the shared parameters, if they are trained.
    """
    row_adam.put({key: state["rows"][key] for key in owned})
    if adamw is not None:
        parameters = [p for group in adamw.param_groups for p in group["params"]]
        for index, moments in state["adamw"]["state"].items():
            moments |= {name: shard_like(value, parameters[index]) for name, value in moments.items()}
        adamw.load_state_dict(state["adamw"])


def save_ranks(
    folder: Path,
    step: int,
    model: FoundationModel,
    row_adam: RowAdam,
    adamw: torch.optim.AdamW | None,
    accelerator: Accelerator,
    *,
    owned: list[str],
    order: list[str],
    best_step: int | None,
    **marks: Any,
) -> None:
    """Write a checkpoint with the rows and moments of all ranks; all call it together.

    Args:
        folder: Of the run.
        step: Updates made.
        model: Of this rank.
        row_adam: Of its rows.
        adamw: Of the shared parameters, if they are trained.
        accelerator: Of the launch.
        owned: Sessions of this rank.
        order: All sessions, as the model is to hold them.
        best_step: Of the best checkpoint, this one included; None where none is known.
        **marks: Numbers to keep beside.
    """
    gathered = gather_object([(model.adapters.take(owned), row_adam.take(owned), torch.get_rng_state())])
    trunk, shared = whole_trunk(model), whole(adamw.state_dict() if adamw is not None else {})
    if accelerator.is_main_process:
        parts: dict[str, SessionPart] = {}
        rows: dict[str, dict[str, torch.Tensor]] = {}
        for part, moments, _ in gathered:
            parts |= part
            rows |= moments
        if accelerator.num_processes > 1:
            model = copy.deepcopy(model, {id(model.trunk): trunk})
            model.keep_sessions([])
            model.add_parts({key: parts[key] for key in order})
        state = {
            "adamw": shared,
            "rows": {key: rows[key] for key in order},
            "generators": [generator for _, _, generator in gathered],
            **marks,
        }
        save_checkpoint(folder, step, model, state, best_step=best_step)
    accelerator.wait_for_everyone()
