"""The weights of a contrastive fit: encoder, temperature, embeddings of labels; draws nothing and scores nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from foundation.activity_windows import ActivityWindows
from foundation.offset_encoder import OffsetEncoder


class ContrastiveModel(nn.Module):
    """Encoder, temperature, and an embedding of labels for each "clip" head."""

    def __init__(
        self,
        encoder: OffsetEncoder,
        temperature: float,
        label_widths: Sequence[int],
        output_dimensions: Sequence[int],
        generator: torch.Generator,
        *,
        learn_temperature: bool,
        min_temperature: float,
    ) -> None:
        """New weights.

        Args:
            encoder: Of the activity.
            temperature: tau at the start.
            label_widths: Columns of the labels of each clip head.
            output_dimensions: Dimensions of each clip head.
            generator: Of the weights.
            learn_temperature: Train tau.
            min_temperature: What a learned tau cannot fall below.
        """
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn_temperature)
        self._max_log_scale = -math.log(min_temperature) if learn_temperature else math.inf
        hidden = encoder.num_hidden_units
        self.label_encoders = nn.ModuleList()
        for width, output in zip(label_widths, output_dimensions):
            layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, output))
            for parameter in layers.parameters():
                bound = 1 / math.sqrt(parameter.shape[-1] if parameter.ndim > 1 else hidden)
                parameter.data = (torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound
            self.label_encoders.append(layers)

    @property
    def scale(self) -> torch.Tensor:
        """1 / tau."""
        return self.log_scale.clamp(max=self._max_log_scale).exp()

    def bound_temperature(self) -> None:
        """Bring a tau that a step took below its minimum back to it: there it has a gradient and may rise again."""
        with torch.no_grad():
            self.log_scale.clamp_(max=self._max_log_scale)


def embed_rows(
    model: ContrastiveModel,
    windows: ActivityWindows,
    rows: np.ndarray,
    read_ins: Sequence[int] | None = None,
    *,
    unit_dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> torch.Tensor:
    """Embeddings `(M, D)` of rows of any sessions, not yet of unit length; the trunk runs once for all.

    Args:
        model: Holds the encoder.
        windows: The sessions.
        rows: `(M,)`.
        read_ins: Read-in of each session of `windows`, where that is not its number.
        unit_dropout: Share of units that are silenced in each window, drawn for each; the others are scaled up.
        rng: Of the units that are silenced.
    """
    session = np.searchsorted(windows.first, rows, side="right") - 1
    order = np.argsort(session, kind="stable")
    states = []
    for part in np.split(order, np.flatnonzero(np.diff(session[order])) + 1):
        s = int(session[part[0]])
        window = windows.window(s, rows[part] - windows.first[s])
        if unit_dropout and rng is not None:
            kept = rng.random(window.shape[1:], dtype=np.float32) >= unit_dropout
            window = window * (torch.from_numpy(kept).to(window.device) / (1 - unit_dropout))
        states.append(model.encoder.read_in(window, s if read_ins is None else read_ins[s]))
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    embedded = model.encoder.embed(torch.cat(states, dim=1) if len(states) > 1 else states[0])[0]
    return embedded[torch.from_numpy(back).to(embedded.device)]


def unit_parts(rows: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Embeddings `(M, D)` of unit length: each span by itself where spans divide D, the whole where they overlap."""
    parts = sorted(set(spans))
    if any(stop > start for (_, stop), (start, _) in pairwise(parts)):
        return functional.normalize(rows, dim=1)
    result = rows.clone()
    for start, stop in parts:
        result[:, start:stop] = functional.normalize(rows[:, start:stop], dim=1)
    return result
