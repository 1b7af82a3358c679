"""The joint loss as one rank computes it: in the run's precision, as a share of means over all ranks, and by sessions.

Training takes every rank through the same collectives in every step, so a rank without a window still has its part in
them (`idle`). Validation and the search for a window that breaks a loss need none.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from foundation.adapters import SessionRows
from foundation.masking import Masks
from foundation.model import FoundationModel
from foundation.objectives import LossTerms, ObjectiveConfig, joint_loss
from foundation.objectives.masked_modeling import Tally
from foundation.ranks import gather_rows
from foundation.sampling import Batch, Window, WindowReader
from foundation.step_data import masked_batch


class RankLoss:
    """Losses of windows of the sessions that a rank owns."""

    def __init__(
        self,
        model: FoundationModel,
        reader: WindowReader,
        objective: ObjectiveConfig,
        accelerator: Accelerator,
        precision: str,
    ) -> None:
        self.model, self.reader, self.objective = model, reader, objective
        self.accelerator, self.precision = accelerator, precision

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _batch(self, windows: list[Window], seed: tuple[int, ...]) -> tuple[Batch, Masks]:
        batch, masks = masked_batch(self.reader, windows, self.objective.masking, seed)
        return batch.to(self.accelerator.device), masks.to(self.accelerator.device)

    def train(
        self, batch: Batch, masks: Masks, rows: dict[str, SessionRows] | None, seed: tuple[int, ...]
    ) -> LossTerms:
        """This rank's share of the loss of a step; all ranks call it, or `idle`, together."""
        many = self.accelerator.num_processes > 1
        with self._autocast():
            return joint_loss(
                self.model,
                batch,
                masks,
                self.objective,
                rows=rows,
                seed=seed,
                reduce=(lambda total: self.accelerator.reduce(total, "sum")) if many else (lambda total: total),
                gather=gather_rows if many else (lambda rows: rows),
            )

    def idle(self, window: Window) -> LossTerms:
        """Take part in the collectives of a step in which this rank has no window, with any of its windows."""
        batch, masks = self._batch([window], (0,))
        batch.covariates.zero_()  # of which nothing may come, not even if they are not finite
        masks.spikes_predicted[:] = False
        masks.covariates_predicted[:] = False
        masks.schemes = ["none"]
        return self.train(batch, masks, None, (0,))

    @torch.no_grad()
    def is_finite(self, window: Window, seed: tuple[int, ...]) -> bool:
        """Whether the loss of one window, by itself and on this rank, is finite."""
        self.model.eval()
        batch, masks = self._batch([window], seed)
        with self._autocast():
            losses = joint_loss(self.model, batch, masks, self.objective, seed=seed)
        return bool(losses.total.isfinite())

    @torch.no_grad()
    def validation(self, windows: dict[str, list[Window]], seed: tuple[int, ...]) -> dict[str, float]:
        """Mean of each term over windows of all ranks, and of each modality by masking scheme.

        One session at a time and without gathering, so the number of ranks and the batch size do not matter.

        Args:
            windows: By session, those of this rank.
            seed: Of the masks and pairs.
        """
        self.model.eval()
        sums: dict[str, np.ndarray] = {}
        weights: dict[str, float] = {}
        for recording_id, chosen in windows.items():
            batch, masks = self._batch(chosen, seed)
            schemes, lost = np.array(masks.schemes), set[str]()

            def add(
                name: str, weight: float, tally: Tally, schemes: np.ndarray = schemes, lost: set[str] = lost
            ) -> None:
                weights[name] = weight
                pair = torch.stack([tally.total, tally.count]).double().cpu().numpy()
                if not np.isfinite(pair).all():
                    lost.add(name)
                sums[name] = sums.get(name, 0) + pair.sum(axis=1)
                if not name.endswith("_contrast"):
                    for scheme in np.unique(schemes):
                        key = f"{name}/{scheme}"
                        sums[key] = sums.get(key, 0) + pair[:, schemes == scheme].sum(axis=1)

            with self._autocast():
                joint_loss(self.model, batch, masks, self.objective, seed=seed, on_tally=add)
            if lost:
                print(f"validation of {recording_id}: {', '.join(sorted(lost))} not finite", file=sys.stderr)
        total: dict[str, np.ndarray] = {}
        for part, part_weights in gather_object([(sums, weights)]):
            weights |= part_weights
            for name, value in part.items():
                total[name] = total.get(name, 0) + value
        means = {name: float(value[0] / value[1]) for name, value in sorted(total.items()) if value[1]}
        return {"loss": sum(weight * means.get(name, 0.0) for name, weight in sorted(weights.items())), **means}
