"""Embeddings and labels kept from a contrastive fit, for a new session to be aligned with; trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from foundation.activity_windows import ActivityWindows
from foundation.contrastive_model import ContrastiveModel, embed_rows
from foundation.label_arrays import LabelKind
from foundation.session_data import SessionData

_MAX_ROWS = 10_000


@dataclass(frozen=True)
class EmbeddingBank:
    """Random moments of the training sessions.

    Attributes:
        rows: `(M, D)` embeddings, not yet of unit length.
        labels: For each label, `(M,)` codes or `(M, L)` values.
    """

    rows: torch.Tensor
    labels: list[np.ndarray]

    @classmethod
    def keep(
        cls,
        model: ContrastiveModel,
        windows: ActivityWindows,
        labels: Sequence[Sequence[np.ndarray]],
        rng: np.random.Generator,
    ) -> Self:
        """Embed up to 10,000 moments of all sessions.

        Args:
            model: After its fit.
            windows: The sessions.
            labels: For each label, the array of each session.
            rng: Of the choice.
        """
        total = int(windows.first[-1])
        rows = np.sort(rng.choice(total, min(total, _MAX_ROWS), replace=False))
        with torch.no_grad():
            parts = [embed_rows(model, windows, part) for part in np.array_split(rows, max(1, len(rows) // 2048))]
        return cls(torch.cat(parts).cpu(), [np.concatenate(sessions)[rows] for sessions in labels])

    def beside(self, new: SessionData) -> SessionData:
        """One new session, and these moments as a second one whose every bin is a trial; it has no activity."""
        labels = [[own[0], kept] for own, kept in zip(new.labels, self.labels)]
        return SessionData(new.activity, [new.trial[0], np.arange(len(self.rows))], labels, new.kinds)

    def embedding(
        self, embed_new: Callable[[np.ndarray], torch.Tensor], length: int, device: str
    ) -> Callable[[np.ndarray], torch.Tensor]:
        """What embeds rows of `beside`: the first `length` by `embed_new`, the others as they were kept."""
        kept = self.rows.to(device)

        def embed(rows: np.ndarray) -> torch.Tensor:
            new, given = np.flatnonzero(rows < length), np.flatnonzero(rows >= length)
            known = kept[torch.from_numpy(rows[given] - length).to(device)]
            back = torch.from_numpy(np.argsort(np.concatenate([new, given]), kind="stable")).to(device)
            return torch.cat([embed_new(rows[new]), known])[back]

        return embed

    def tensors(self) -> dict[str, torch.Tensor]:
        """As a file keeps it."""
        return {"bank.rows": self.rows} | {
            f"bank.labels.{n}": torch.from_numpy(kept) for n, kept in enumerate(self.labels)
        }

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], kinds: Sequence[LabelKind], output_dimension: int
    ) -> Self:
        """Read what `tensors` gave.

        Raises:
            KeyError: A tensor is missing.
            ValueError: Embeddings and labels that do not fit each other.
        """
        rows = tensors["bank.rows"]
        labels = [tensors[f"bank.labels.{n}"].numpy() for n in range(len(kinds))]
        if rows.shape != (len(rows), output_dimension) or any(
            kept.shape != ((len(rows), kind.columns) if kind.columns else (len(rows),))
            for kept, kind in zip(labels, kinds)
        ):
            raise ValueError("kept embeddings and labels that do not fit each other")
        return cls(rows, labels)
