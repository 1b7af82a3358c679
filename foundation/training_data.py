"""The windows a training run draws from, and the adapter rows that its sessions start with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from foundation.binning import bin_spikes
from foundation.model import FoundationModel
from foundation.recording import Recording
from foundation.sampling import Window, WindowReader, session_windows


@dataclass
class TrainingData:
    """Windows by session and the reader that opens them.

    Attributes:
        reader: Opens the recordings.
        train: Windows to train on.
        val: Windows to validate on.
        groups: For a mixture of corpora, the weight and the sessions of each.
    """

    reader: WindowReader
    train: dict[str, list[Window]]
    val: dict[str, list[Window]]
    groups: dict[str, tuple[float, list[str]]] = field(default_factory=dict)


def spread(windows: dict[str, list[Window]], most: int) -> dict[str, list[Window]]:
    """At most `most` windows, the same share of every session, evenly spaced."""
    total = sum(len(value) for value in windows.values())
    if total <= most:
        return windows
    chosen = {}
    for key, value in windows.items():
        count = max(1, round(len(value) * most / total)) if value else 0
        chosen[key] = [value[i] for i in np.linspace(0, len(value) - 1, count).round().astype(int)]
    return chosen


def training_data(
    reader: WindowReader, recording_ids: list[str], window_s: float, roles: Callable[[Recording], np.ndarray]
) -> TrainingData:
    """Train and validation windows of sessions.

    Args:
        reader: Opens the recordings.
        recording_ids: Sessions.
        window_s: Longest window, seconds.
        roles: Gives a recording's roles per trial or stretch.
    """
    windows: dict[str, dict[str, list[Window]]] = {"train": {}, "val": {}}
    for recording_id in recording_ids:
        recording = reader.recording(recording_id)
        given = roles(recording)
        windows["train"][recording_id] = session_windows(recording, given, "train", reader.bin_size_s, window_s)
        windows["val"][recording_id] = session_windows(recording, given, "val", reader.bin_size_s, window_s)
    return TrainingData(reader, windows["train"], windows["val"])


def with_train_windows(data: TrainingData) -> TrainingData:
    """Leave out the sessions in which nothing can be trained on, and name them on stderr.

    Raises:
        ValueError: None is left, in all or of one corpus of a mixture.
    """
    short = [key for key, windows in data.train.items() if not windows]
    if not short:
        return data
    why = "no train window; the session is too short, or all trials are unusable"
    print("".join(f"{key}: left out, {why}\n" for key in short), end="", file=sys.stderr)
    groups = {name: (weight, [key for key in ids if key not in short]) for name, (weight, ids) in data.groups.items()}
    if len(short) == len(data.train) or not all(ids for _, ids in groups.values()):
        raise ValueError(f"{', '.join(short[:6])}: {why}")
    train, val = ({key: value for key, value in part.items() if key not in short} for part in (data.train, data.val))
    return TrainingData(data.reader, train, val, groups)


def add_sessions(model: FoundationModel, data: TrainingData, recording_ids: list[str], seed: int) -> None:
    """Give sessions rows, whose statistics come from their train windows only.

    Raises:
        ValueError: A session has no train window.
    """
    parts = {}
    for recording_id in recording_ids:
        windows = data.train[recording_id]
        if not windows:
            raise ValueError(f"{recording_id}: no train window; the session is too short, or all trials are unusable")
        recording = data.reader.recording(recording_id)
        total, roots, bins = np.zeros(recording.num_units), np.zeros(recording.num_units), 0
        for window in windows:
            counts = bin_spikes(recording, window.start_s, window.num_bins, data.reader.bin_size_s)
            total, roots = total + counts.sum(axis=0), roots + np.sqrt(counts).sum(axis=0)
            bins += window.num_bins
        names = recording.units["unit_id"].tolist()
        subject = recording.info.subject_id
        parts[recording_id] = model.new_part(recording_id, subject, names, total / bins, roots / bins, seed)
    model.add_parts(parts)
