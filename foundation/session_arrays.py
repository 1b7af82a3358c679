"""A recording of a corpus as plain arrays, the form that the estimator takes; keeps no spike times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foundation.binning import bin_covariate, bin_spikes, check_bin_size
from foundation.recording import Recording


@dataclass(frozen=True)
class SessionArrays:
    """One session, binned.

    Attributes:
        name: Recording id.
        subject: Animal.
        activity: `(T, N)` float32 spike counts.
        labels: By name `(T,)` or `(T, L)`: float64 with NaN where not observed, or int64 classes, -1 likewise.
        trial: `(T,)` int64 number of the stretch that a bin is in: a trial, or an interval without a gap.
        bin_size_s: Width of a bin, s.
    """

    name: str
    subject: str
    activity: np.ndarray
    labels: dict[str, np.ndarray]
    trial: np.ndarray
    bin_size_s: float

    def take(self, bins: np.ndarray) -> SessionArrays:
        """The bins of a mask `(T,)` or of sorted indices; trials keep their numbers."""
        labels = {name: values[bins] for name, values in self.labels.items()}
        return replace(self, activity=self.activity[bins], labels=labels, trial=self.trial[bins])


def session_arrays(
    recording: Recording, bin_size_s: float, labels: Sequence[str] = (), *, within_trials: bool = False
) -> SessionArrays:
    """Bin a recording's spikes and covariates over its domain, or over its trials alone.

    Args:
        recording: One session.
        bin_size_s: Seconds.
        labels: Covariates; categorical ones become classes.
        within_trials: Only bins inside usable trials, numbered as the trials are.

    Raises:
        ValueError: A covariate the recording lacks, a bin size its source does not have, or no trials.
    """
    check_bin_size(recording, bin_size_s)
    name = recording.info.recording_id
    unknown = [label for label in labels if label not in recording.covariates]
    if unknown:
        raise ValueError(f"{name}: no covariate {unknown[0]!r}, expected one of {sorted(recording.covariates)}")
    if within_trials and not len(recording.trials):
        raise ValueError(f"{name}: has no trials, expected some; give within_trials=False")
    trials = recording.trials
    number = np.flatnonzero(trials["usable"].to_numpy(bool)) if within_trials else np.arange(len(recording.domain))
    intervals = trials[["start_s", "stop_s"]].to_numpy()[number] if within_trials else recording.domain
    parts: list[tuple[np.ndarray, ...]] = []
    for n, (start_s, stop_s) in zip(number.tolist(), intervals.tolist()):
        num_bins = int((stop_s - start_s) / bin_size_s + 1e-6)
        if num_bins:
            counts = bin_spikes(recording, start_s, num_bins, bin_size_s).astype(np.float32)
            values = [_label(recording, label, start_s, num_bins, bin_size_s) for label in labels]
            parts.append((counts, np.full(num_bins, n), *values))
    if not parts:
        raise ValueError(f"{name}: no interval holds a bin of {bin_size_s} s, expected longer ones; use smaller bins")
    activity, trial, *columns = (np.concatenate(column) for column in zip(*parts))
    subject = recording.info.subject_id
    return SessionArrays(name, subject, activity, dict(zip(labels, columns)), trial.astype(np.int64), bin_size_s)


def _label(recording: Recording, name: str, start_s: float, num_bins: int, bin_size_s: float) -> np.ndarray:
    """A covariate per bin: `(T,)`, or `(T, L)` if it has several dimensions; one of a trial in all of its bins."""
    covariate = recording.covariates[name]
    if covariate.spec.scope == "time":
        values, observed = bin_covariate(covariate, start_s, num_bins, bin_size_s)
    elif not len(recording.trials):
        dim = covariate.spec.dim
        values, observed = np.zeros((num_bins, dim)), np.zeros(num_bins, bool)
    else:
        centers = start_s + bin_size_s * (np.arange(num_bins) + 0.5)
        row = recording.trials["start_s"].to_numpy().searchsorted(centers, side="right") - 1
        inside = (row >= 0) & (centers < recording.trials["stop_s"].to_numpy()[row])
        values, observed = covariate.values[row].reshape(num_bins, -1), inside & covariate.observed[row]
    if covariate.spec.kind == "categorical":
        return np.where(observed, values[:, 0], -1).astype(np.int64)
    known = np.where(observed[:, None], values, np.nan).astype(np.float64)
    return known[:, 0] if known.shape[1] == 1 else known
