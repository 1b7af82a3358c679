"""What the task offers an encoder, as smooth columns per bin: time courses, trial values over time, recent events.

The linear part that a classical encoding model has. Columns are made from covariate specs, never from names, for one
window at a time; nothing here is fitted and no spike is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foundation.channels import Channel, channel_slices
from foundation.sampling import STRUCTURE, Window

# Lags, in bins, of the windows in which events are counted: fine at first, then ever wider (to 400 ms at 20 ms).
EVENT_WINDOWS = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, 8), (9, 13), (14, 20))
# Time constants in seconds of the traces that the last event leaves.
EVENT_DECAYS_S = (0.02, 0.05, 0.15)
# Shifts, in bins, at which a continuous covariate is read beside the present.
BEHAVIOR_LAGS = (-10, -5, -2, 2, 5, 10)
NUM_FINE, NUM_COARSE = 13, 7
# A covariate of the trial with more classes is left to the trunk: each is seen too seldom to have a time course.
MOST_CLASSES = 32
# A covariate in time has at most so many columns: more classes are the frames of a movie, and neighbors share columns.
MOST_INDICATORS = 225


def hats(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Piecewise-linear bumps `(R, K)`: bump k is 1 at knot k and 0 at the others; constant beyond the outer knots."""
    return np.stack([np.interp(x, knots, row) for row in np.eye(len(knots))], axis=1)


def dense_knots(low: float, high: float, num: int) -> np.ndarray:
    """`num` knots from `low` to `high`, denser near `low`."""
    return np.concatenate([[low], low + np.geomspace((high - low) / 30, high - low, num - 1)])


def class_columns(num_classes: int) -> np.ndarray:
    """Columns of each class `(K, C)`: one each, or for very many, the frames of a movie, bumps over neighbors."""
    if num_classes <= MOST_INDICATORS:
        return np.eye(num_classes)
    return hats(np.arange(num_classes), np.linspace(0, num_classes - 1, MOST_INDICATORS))


@dataclass(frozen=True)
class TaskBasis:
    """Columns for the windows of a session.

    Attributes:
        channels: Of the model; only inputs are read.
        bin_size_s: Seconds.
        longest_s: Longest window among the train windows, seconds; sets the knots.
        is_cut: Whether many train windows end at that length, so that "cut off" is told apart from "ended".
    """

    channels: list[Channel]
    bin_size_s: float
    longest_s: float
    is_cut: bool

    @staticmethod
    def length_of(windows: Sequence[Window], bin_size_s: float) -> np.ndarray:
        """`(2,)` `longest_s` and `is_cut` (0 or 1) of some train windows."""
        bins = np.array([window.num_bins for window in windows])
        longest = int(bins.max())
        return np.array([longest * bin_size_s, float(0.05 < np.mean(bins == longest) < 0.95)])

    def blocks(
        self, covariates: np.ndarray, observed: np.ndarray, structure: np.ndarray
    ) -> list[tuple[float, np.ndarray]]:
        """Columns `(T, F_b)` of one window, each block with its prior size relative to the others.

        Time courses vary more than effects of trial history; sizes are meant for standardized columns.

        Args:
            covariates: `(T, V)` normalized values, as in `WindowReader.read`.
            observed: `(T, C)` bool.
            structure: `(T, len(STRUCTURE))`.
        """
        since, to_end = structure[:, STRUCTURE.index("since_start")], structure[:, STRUCTURE.index("to_end")]
        fine, coarse = (hats(since, dense_knots(self.bin_size_s, self.longest_s, n)) for n in (NUM_FINE, NUM_COARSE))
        fine_end, coarse_end = (self._end(to_end, since, n) for n in (NUM_FINE - 3, NUM_COARSE - 1))
        blocks = [(2.0, fine), (2.0, fine_end)]
        happened = np.zeros(len(since), bool)
        for c, (channel, where) in enumerate(zip(self.channels, channel_slices(self.channels))):
            num_classes, of_trial = channel.spec.num_classes, channel.spec.scope == "trial"
            if not channel.is_input or (of_trial and num_classes > MOST_CLASSES):
                continue
            values = np.where(observed[:, [c]], covariates[:, where], 0.0)
            if channel.spec.kind == "event":
                happened |= values[:, 0] > 0
                blocks.append((1.0, _recent(values[:, 0])))
            elif num_classes > MOST_CLASSES:
                blocks.append((1.0, values @ class_columns(num_classes)))
            elif not of_trial:
                blocks.append((1.0, _shifted(values, channel.spec.kind == "continuous")))
            else:
                contrast = values[:, 1:] - values[:, :1] if num_classes == 2 else values
                size = 0.5 if channel.spec.role == "task" else 1.0
                for k in range(contrast.shape[1]):
                    blocks += [(size, contrast[:, [k]] * coarse), (size, contrast[:, [k]] * coarse_end)]
        row = np.arange(len(since))
        last = np.maximum.accumulate(np.where(happened, row, 0))
        traces = [np.exp(-(row - last) * self.bin_size_s / decay) for decay in EVENT_DECAYS_S]
        return [*blocks, (1.0, np.stack(traces, axis=1))]

    def _end(self, to_end: np.ndarray, since: np.ndarray, num: int) -> np.ndarray:
        """Hats of the time to the end, those of windows of full length apart where both kinds are common."""
        block = hats(to_end, dense_knots(0.0, 0.75 * self.longest_s, num))[:, :-1]
        if not self.is_cut:
            return block
        is_full = float((since + to_end).max() > self.longest_s - 0.5 * self.bin_size_s)
        return np.concatenate([block * (1 - is_full), block * is_full], axis=1)


def _recent(values: np.ndarray) -> np.ndarray:
    """Events `(T,)` in lag windows, and how many so far: `(T, L + 1)`."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=float)])
    row = np.arange(len(values))
    windows = [total[np.maximum(row - near + 1, 0)] - total[np.maximum(row - far, 0)] for near, far in EVENT_WINDOWS]
    return np.stack([*windows, total[1:]], axis=1)


def _shifted(values: np.ndarray, is_continuous: bool) -> np.ndarray:
    """Values `(T, K)` and shifted copies; of continuous ones also their sizes and a saturated copy."""
    row = np.arange(len(values))
    shifts = [values[np.clip(row - lag, 0, len(values) - 1)] for lag in BEHAVIOR_LAGS]
    shapes = [np.abs(values), np.tanh(2 * values)] if is_continuous else []
    return np.concatenate([values, *shapes, *shifts], axis=1)
