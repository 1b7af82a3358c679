"""Windows of a trial that labels are read from: spikes, rates and means of any series of rows in them; no decoding."""

from __future__ import annotations

import numpy as np

from eval.session_view import SessionView

# Fractions of the trial, or seconds before its end.
WINDOW_SETS: dict[str, tuple[tuple[float, float], ...]] = {
    "whole": ((0.0, 1.0),),
    "halves": ((0.0, 0.5), (0.5, 1.0)),
    "quarters": ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
    "last 100 ms": ((-0.1, 0.0),),
    "last 200 ms": ((-0.2, 0.0),),
    "last 400 ms": ((-0.4, 0.0),),
    "last 100 ms and before": ((-0.1, 0.0), (-10.0, -0.1)),
    "last 100, 200 ms and before": ((-0.1, 0.0), (-0.3, -0.1), (-10.0, -0.3)),
}


def window_sums(
    view: SessionView, values: np.ndarray, windows: tuple[tuple[float, float], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each trial's windows, `(M, W, F)`, and their lengths in bins, `(M, W)`.

    Args:
        view: The session.
        values: `(R, F)`, one row per bin.
        windows: Pairs; both in 0..1: fractions of the trial; else seconds relative to its end, clipped to the trial.
    """
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=float)])
    first, num = view.first_row(), view.num_bins
    sums, lengths = [], []
    for low, high in windows:
        if low >= 0:
            start, stop = np.round(low * num), np.round(high * num)
        else:
            start, stop = num + np.round(low / view.bin_size_s), num + np.round(high / view.bin_size_s)
        start, stop = np.clip(start, 0, num).astype(np.int64), np.clip(stop, 0, num).astype(np.int64)
        stop = np.maximum(stop, start)
        sums.append(total[first + stop] - total[first + start])
        lengths.append(stop - start)
    return np.stack(sums, axis=1), np.stack(lengths, axis=1)


def window_means(view: SessionView, values: np.ndarray, windows: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Means over each trial's windows, `(M, W * F)`; 0 in a window without bins. Arguments as in `window_sums`."""
    sums, lengths = window_sums(view, values, windows)
    return np.asarray((sums / np.maximum(lengths, 1)[:, :, None]).reshape(len(sums), -1))


def window_spikes(view: SessionView, windows: tuple[tuple[float, float], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Spikes in each trial's windows and the seconds they were counted over, both `(M, W * U)`."""
    sums, lengths = window_sums(view, view.counts, windows)
    seconds = np.broadcast_to(lengths[:, :, None] * view.bin_size_s, sums.shape)
    return sums.reshape(len(sums), -1), seconds.reshape(len(sums), -1)


def window_rates(view: SessionView, windows: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Square roots of each trial's mean rates (Hz) in windows, `(M, W * U)`."""
    spikes, seconds = window_spikes(view, windows)
    return np.sqrt(spikes / np.maximum(seconds, view.bin_size_s))
