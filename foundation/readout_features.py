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
        num_states: D.
        bin_size_s: Seconds.
        arrays: `span (2,)` seconds of the train trials; `length (2,)` of the task's columns (`TaskBasis.length_of`);
            and, where `add_axes` was called, `prior (D, D)`, `spread (N,)` of the root counts, `components (N, K)` and
            `history (N, H)` axes.
        reader: Opens the session.
    """

    recording: Recording
    center: np.ndarray
    num_states: int
    bin_size_s: float
    arrays: dict[str, np.ndarray]
    reader: WindowReader

    @classmethod
    def of_windows(
        cls, model: FoundationModel, reader: WindowReader, recording_id: str, train: list[Window], length: np.ndarray
    ) -> SessionFeatures:
        """What encoding needs: the span of the train windows, and the `length` that the task's columns are made for."""
        features = cls.of_arrays(model, reader, recording_id, {"length": length})
        bounds = stretches(features.recording)[[window.row for window in train]]
        features.arrays["span"] = np.array([bounds[:, 0].min(), bounds[:, 1].max()])
        return features

    @classmethod
    def of_arrays(
        cls, model: FoundationModel, reader: WindowReader, recording_id: str, arrays: dict[str, np.ndarray]
    ) -> SessionFeatures:
        """Features of a session whose arrays are known."""
        center = model.adapters.rows(recording_id).center.double().cpu().numpy()
        return cls(reader.recording(recording_id), center, model.shape.width, reader.bin_size_s, arrays, reader)

    def add_axes(self, train: list[Window], prior: np.ndarray, num_components: int, num_history: int) -> None:
        """What co-smoothing and forecasting need: principal axes of single bins and of window means, and a prior.

        Args:
            train: Train windows.
            prior: `(D, D)` root of a prior covariance of the weights of states.
            num_components: Axes of bins, at most.
            num_history: Axes of window means, at most.
        """
        roots = [np.sqrt(self.counts(window)) - self.center for window in train]
        spread = np.maximum(np.concatenate(roots).std(axis=0), 1e-3)
        roots = [root / spread for root in roots]
        self.arrays |= {
            "prior": prior,
            "spread": spread,
            "components": _axes(np.concatenate(roots), num_components),
            "history": _axes(np.stack([root.mean(axis=0) for root in roots]), num_history),
        }

    def counts(self, window: Window) -> np.ndarray:
        """`(T, N)` counts of a window, float64."""
        return bin_spikes(self.recording, window.start_s, window.num_bins, self.bin_size_s).astype(float)

    def shared(self, question: str, answer: Answer) -> np.ndarray:
        """`(T, F)` features that all units share: states and drift, and for two questions visible spikes."""
        states, drift = answer.states.astype(float), self.drift(answer.window)
        if question == "encode":
            return np.concatenate([states, drift, self.task(answer.window)], axis=1)
        if question == "cosmooth":
            spikes = _lagged(self.visible(answer) @ self.arrays["components"])
        else:
            recent = [mean @ self.arrays["history"] for mean in self.known(answer)]
            spikes = np.repeat(np.concatenate(recent)[None], answer.window.num_bins, axis=0)
        return np.concatenate([states @ self.arrays["prior"], drift, spikes], axis=1)

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
