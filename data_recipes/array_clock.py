"""Where in time plain arrays stand: the trials, the domain and the centers of bins; knows nothing of their content."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Between trials whose real times are not known.
PSEUDO_GAP_S = 1.0


@dataclass
class Clock:
    """Where in time the arrays stand: trials `(R, 2)` s, domain `(I, 2)` s, and for counts the bin centers `(T,)` s."""

    trials: np.ndarray
    domain: np.ndarray
    centers: np.ndarray | None = None
    bins_per_trial: int = 0
    note: str = ""


def spike_clock(where: str, times: np.ndarray, start: np.ndarray | None, stop: np.ndarray | None) -> Clock:
    """The clock of spike times (s): one interval of whole seconds around all spikes and trials."""
    trials = _trials(where, start, stop)
    bounds = np.concatenate([times, trials.ravel()])
    # The domain is half-open, so a spike at its end would be outside.
    return Clock(trials, np.array([[np.floor(bounds.min()), np.floor(bounds.max()) + 1]]))


def trial_clock(where: str, num_trials: int, num_bins: int, bin_size_s: float, start: np.ndarray | None) -> Clock:
    """The clock of counts per trial: the domain is the trials, laid out with gaps when their starts are not known."""
    note = ""
    if start is None:
        start = np.arange(num_trials) * (num_bins * bin_size_s + PSEUDO_GAP_S)
        note = f"trial times are not known; trials are laid out {PSEUDO_GAP_S:g} s apart"
    if start.shape != (num_trials,):
        raise ValueError(f"{where}: trial_start_s: got shape {start.shape}, expected ({num_trials},) as in counts")
    trials = np.stack([start, start + num_bins * bin_size_s], axis=1)
    centers = start[:, None] + bin_size_s * (np.arange(num_bins) + 0.5)
    return Clock(trials, trials, centers.ravel(), num_bins, note)


def bin_clock(
    where: str,
    num_bins: int,
    bin_size_s: float,
    start: np.ndarray | None,
    stop: np.ndarray | None,
    label: np.ndarray | None,
) -> Clock:
    """The clock of counts per bin: one interval, or the runs of non-negative labels as trials and domain."""
    centers = bin_size_s * (np.arange(num_bins) + 0.5)
    if label is None:
        return Clock(_trials(where, start, stop), np.array([[0.0, num_bins * bin_size_s]]), centers)
    label = np.asarray(label)
    if label.shape != (num_bins,) or start is not None or stop is not None:
        raise ValueError(f"{where}: trial_label of shape {label.shape}, expected ({num_bins},) and no trial_start_s")
    cuts = np.concatenate([[0], np.flatnonzero(label[1:] != label[:-1]) + 1, [num_bins]])
    runs = np.stack([cuts[:-1], cuts[1:]], axis=1)[label[cuts[:-1]] >= 0] * bin_size_s
    return Clock(runs, runs, centers, note="trials are runs of one label, taken not to touch in time")


def _trials(where: str, start: np.ndarray | None, stop: np.ndarray | None) -> np.ndarray:
    """Trials `(R, 2)` in seconds; none if neither bound is given."""
    if start is None and stop is None:
        return np.zeros((0, 2))
    if start is None or stop is None or len(start) != len(stop):
        got = ["none" if bound is None else len(bound) for bound in (start, stop)]
        raise ValueError(f"{where}: got {got[0]} trial_start_s and {got[1]} trial_stop_s, expected as many of both")
    return np.stack([start, stop], axis=1)
