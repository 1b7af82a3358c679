"""What the convex read-out regresses on: trunk states, slow drift, and lagged or recent spikes of one session.

Numbers that belong to the session (principal components, the span of its train trials, the prior) are arrays that
travel with the model; nothing is fitted to labels here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundation.adapters import LAG_WINDOWS
from foundation.binning import bin_spikes
from foundation.model import FoundationModel
from foundation.predict import Answer
from foundation.recording import Recording
from foundation.sampling import Window, WindowReader
from foundation.splits import stretches
from foundation.task_basis import TaskBasis

NUM_COSINES = 20
# Seconds of the recent past that forecasting averages over, beside all that is known; and how fast its pull fades.
HISTORY_S = (0.1, 0.3)
FADE_S = 0.05


@dataclass
class SessionFeatures:
    """Features of one session's windows (T bins, N units, D states).

    Attributes:
        recording: The session.
        center: `(N,)` mean square root of the counts.
        bin_size_s: Seconds.
        arrays: `prior (D, D)`; `span (2,)` seconds of the train trials; `length (2,)` longest window and whether many
            are cut off there; `spread (N,)` of the root counts; `components (N, K)` and `history (N, H)` axes.
        reader: Opens the session.
    """

    recording: Recording
    center: np.ndarray
    bin_size_s: float
    arrays: dict[str, np.ndarray]
    reader: WindowReader

    @classmethod
    def fit(
        cls,
        model: FoundationModel,
        reader: WindowReader,
        recording_id: str,
        train: list[Window],
        prior: np.ndarray,
        num_components: int,
        num_history: int,
    ) -> SessionFeatures:
        """Principal axes of the train windows, of single bins and of whole-window means."""
        features = cls.of_arrays(model, reader, recording_id, {"prior": prior})
        bounds = stretches(features.recording)[[window.row for window in train]]
        roots = [np.sqrt(features.counts(window)) - features.center for window in train]
        basis = TaskBasis.of(model.channels, reader.bin_size_s, np.array([window.num_bins for window in train]))
        spread = np.maximum(np.concatenate(roots).std(axis=0), 1e-3)
        roots = [root / spread for root in roots]
        features.arrays |= {
            "length": np.array([basis.longest_s, float(basis.is_cut)]),
            "span": np.array([bounds[:, 0].min(), bounds[:, 1].max()]),
            "spread": spread,
            "components": _axes(np.concatenate(roots), num_components),
            "history": _axes(np.stack([root.mean(axis=0) for root in roots]), num_history),
        }
        return features

    @classmethod
    def of_arrays(
        cls, model: FoundationModel, reader: WindowReader, recording_id: str, arrays: dict[str, np.ndarray]
    ) -> SessionFeatures:
        """Features of a session whose arrays are known."""
        center = model.adapters.rows(recording_id).center.double().cpu().numpy()
        return cls(reader.recording(recording_id), center, reader.bin_size_s, arrays, reader)

    @property
    def num_states(self) -> int:
        """D."""
        return len(self.arrays["prior"])

    def counts(self, window: Window) -> np.ndarray:
        """`(T, N)` counts of a window, float64."""
        return bin_spikes(self.recording, window.start_s, window.num_bins, self.bin_size_s).astype(float)

    def shared(self, question: str, answer: Answer) -> np.ndarray:
        """`(T, F)` features that all units share: states and drift, and for two questions visible spikes."""
        parts = [answer.states.astype(float) @ self.arrays["prior"], self.drift(answer.window)]
        if question == "encode":
            parts.append(self.task(answer.window))
        elif question == "cosmooth":
            parts.append(_lagged(self.visible(answer) @ self.arrays["components"]))
        elif question == "forecast":
            recent = [mean @ self.arrays["history"] for mean in self.known(answer)]
            parts.append(np.repeat(np.concatenate(recent)[None], answer.window.num_bins, axis=0))
        return np.concatenate(parts, axis=1)

    def task(self, window: Window) -> np.ndarray:
        """`(T, B)` columns of the task basis."""
        return np.concatenate([block for _, block in self._task_blocks(window)], axis=1)

    def task_sizes(self, window: Window) -> np.ndarray:
        """`(B,)` prior size of each column of `task`, whatever the window."""
        return np.concatenate([np.full(block.shape[1], size) for size, block in self._task_blocks(window)])

    def _task_blocks(self, window: Window) -> list[tuple[float, np.ndarray]]:
        longest, is_cut = self.arrays["length"]
        basis = TaskBasis(self.reader.channels, self.bin_size_s, float(longest), bool(is_cut))
        sample = self.reader.read(window)
        return basis.blocks(sample["covariates"], sample["observed"], sample["structure"])

    def own(self, answer: Answer) -> np.ndarray:
        """`(T, N, O)` each unit's own recent means, and the same fading with the time since the last known bin."""
        recent = np.stack(self.known(answer), axis=1)
        hidden = answer.hidden.all(axis=1)
        ahead = np.arange(answer.window.num_bins) - np.flatnonzero(~hidden).max(initial=0)
        fade = np.exp(-np.maximum(ahead, 0) * self.bin_size_s / FADE_S)
        steady = np.repeat(recent[None], answer.window.num_bins, axis=0)
        return np.concatenate([steady, steady * fade[:, None, None]], axis=2)

    def visible(self, answer: Answer) -> np.ndarray:
        """`(T, N)` standardized root counts, 0 where hidden."""
        z = (np.sqrt(self.counts(answer.window)) - self.center) / self.arrays["spread"]
        return np.where(answer.hidden, 0.0, z)

    def known(self, answer: Answer) -> list[np.ndarray]:
        """Means `(N,)` over the most recent known bins and over all known bins."""
        seen = self.visible(answer)[~answer.hidden.all(axis=1)]
        if not len(seen):
            return [np.zeros(len(self.center))] * (len(HISTORY_S) + 1)
        spans = [max(1, round(span / self.bin_size_s)) for span in HISTORY_S]
        return [seen[-bins:].mean(axis=0) for bins in (*spans, len(seen))]

    def drift(self, window: Window) -> np.ndarray:
        """`(T, NUM_COSINES)` cosines cos(pi k x) / k of the place among the train trials, held beyond them."""
        low, high = self.arrays["span"]
        middle = window.start_s + 0.5 * window.num_bins * self.bin_size_s
        position = np.clip((middle - low) / max(high - low, 1e-9), 0, 1)
        order = np.arange(1, NUM_COSINES + 1)
        return np.repeat(np.cos(np.pi * order * position)[None] / order, window.num_bins, axis=0)


def _axes(rows: np.ndarray, most: int) -> np.ndarray:
    """`(N, K)` principal axes of rows `(R, N)`."""
    _, vectors = np.linalg.eigh(rows.T @ rows)
    return np.asarray(vectors[:, ::-1][:, :most])


def _lagged(latent: np.ndarray) -> np.ndarray:
    """Sums of `(T, K)` over the lag windows, each scaled to the size of one bin: `(T, L K)`."""
    bins = len(latent)
    total = np.concatenate([np.zeros((1, latent.shape[1])), np.cumsum(latent, axis=0)])
    row = np.arange(bins)
    sums = [
        (total[np.clip(row + last + 1, 0, bins)] - total[np.clip(row + first, 0, bins)]) / np.sqrt(last + 1 - first)
        for first, last in LAG_WINDOWS
    ]
    return np.concatenate(sums, axis=1)
