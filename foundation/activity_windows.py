"""The activity of sessions, read in windows around bins that do not cross trials; knows no labels.

A window that would reach over the border of its trial repeats the first or last bin, in training as in reading out, so
that every bin has an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from foundation.pair_sampling import runs

# Bins embedded at once when a whole session is read.
_PIECE_BINS = 8192


class ActivityWindows:
    """Sessions of counts, and for each bin the first and last bin of its trial.

    Attributes:
        first: `(S + 1,)` first row of each session, as in `foundation.pair_sampling`.
    """

    def __init__(
        self, activity: list[np.ndarray], trial: list[np.ndarray], receptive_field: int, device: str = "cpu"
    ) -> None:
        """Move sessions `(T, N)` with trials `(T,)` to a device."""
        self._device = device
        self._before, self._after = receptive_field // 2, receptive_field - 1 - receptive_field // 2
        # Copied only where they have to be; PyTorch warns of arrays that cannot be written to.
        self._activity = [torch.as_tensor(np.require(a, np.float32, ["C", "W"]), device=device) for a in activity]
        self._borders = [_borders(t) for t in trial]
        self.first = np.concatenate([[0], np.cumsum([len(a) for a in activity])])

    def window(self, session: int, bins: np.ndarray) -> torch.Tensor:
        """Counts `(receptive_field, M, N)` around M bins of a session."""
        steps = np.arange(-self._before, self._after + 1)[:, None]
        low, high = self._borders[session]
        index = np.clip(bins[None] + steps, low[bins], high[bins])
        return self._take(session, index)

    def pieces(self, session: int) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """The whole session as sequences `(t, 1, N)`, with the places of the bins' embeddings in what they become.

        Bins come in order. A sequence holds many trials, padded; the embeddings between two of them are not used.
        """
        low, _ = self._borders[session]
        starts = np.flatnonzero(np.arange(len(low)) == low) if len(low) else np.zeros(0, np.int64)
        ends = np.append(starts[1:], len(low))
        index: list[np.ndarray] = []
        places: list[np.ndarray] = []
        length = 0
        for start, end in zip(starts.tolist(), ends.tolist()):
            for begin in range(start, end, _PIECE_BINS):
                stop = min(begin + _PIECE_BINS, end)
                index.append(np.clip(np.arange(begin - self._before, stop + self._after), start, end - 1))
                places.append(length + np.arange(stop - begin))
                length += len(index[-1])
                if length >= _PIECE_BINS:
                    yield self._take(session, np.concatenate(index)[:, None]), np.concatenate(places)
                    index, places, length = [], [], 0
        if index:
            yield self._take(session, np.concatenate(index)[:, None]), np.concatenate(places)

    def _take(self, session: int, index: np.ndarray) -> torch.Tensor:
        return self._activity[session][torch.from_numpy(index).to(self._device)]


def _borders(trial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last bin of each bin's trial, `(T,)` each."""
    run = runs(trial)
    start = np.searchsorted(run, run, side="left")
    return start, np.searchsorted(run, run, side="right") - 1
