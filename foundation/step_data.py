"""What a training step sees: the windows of one rank with their masks, made by step number in any process."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from foundation.masking import MaskingConfig, Masks, draw_masks
from foundation.sampling import Batch, Window, WindowReader, WindowSampler


def masked_batch(
    reader: WindowReader, windows: list[Window], masking: MaskingConfig, seed: tuple[int, ...]
) -> tuple[Batch, Masks]:
    """Read windows and draw their masks; a window's masks depend on the seed and on itself alone."""
    batch = reader.batch(windows)
    return batch, draw_masks(batch, reader.channels, masking, seed)


class StepData(Dataset[Any]):
    """Item k is the batch and the masks of step k, or None where the sessions of this rank have no window in it.

    Attributes:
        reader: Of the windows.
        sampler: Draws the global batch of a step.
        owned: Sessions of this rank.
        masking: Schemes.
        seed: Of the masks, with the step.
    """

    def __init__(
        self, reader: WindowReader, sampler: WindowSampler, owned: set[str], masking: MaskingConfig, seed: int
    ) -> None:
        self.reader, self.sampler, self.owned = reader, sampler, owned
        self.masking, self.seed = masking, seed

    def __getitem__(self, step: int) -> tuple[Batch, Masks] | None:
        windows = [w for w in self.sampler.batch_windows(step) if w.recording_id in self.owned]
        return masked_batch(self.reader, windows, self.masking, (self.seed, step)) if windows else None
