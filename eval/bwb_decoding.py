"""Suite 1 by a model of ours: behavior in the benchmark's seconds, from the spikes of that second alone.

Rows and trunk are those of the adapted model. Its convex decoding read-out (`foundation.decoding`) is fitted anew for
each task, because the seconds are not the trials that it was adapted to: on the train windows of the suite's own
split, its penalties chosen on the val windows. Licks, which are counts, get a Poisson regression on the same features.
"""

from __future__ import annotations

import copy

import numpy as np

from eval.bwb_export import windows_as_trials
from eval.bwb_tasks import BIN_S, STEPS, Task
from eval.bwb_windows import ts1_truth, ts1_windows
from foundation.channels import Channel
from foundation.decoder import Question, SessionDecoder, decoded, design
from foundation.decoding import DecodingConfig, fit_decoding
from foundation.decoding_features import segments
from foundation.mixture import renamed
from foundation.model import LOG_RATE_RANGE, FoundationModel
from foundation.poisson_ridge import choose_penalty
from foundation.recording import Recording
from foundation.sampling import Window, WindowReader
from foundation.sidecars import as_arrays
from foundation.training_data import TrainingData

# Of the Poisson regression, where a block of features has prior variance 1.
_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def target_channel(model: FoundationModel, recording: Recording, task: Task) -> Channel | None:
    """The channel that a model answers a task of suite 1 with; None where it was not trained to predict it."""
    name = model.config.names.get(recording.info.dataset, {}).get(task.covariate, task.covariate)
    return next((c for c in model.channels if c.spec.name == name and c.is_target), None)


def decode(
    model: FoundationModel, recording: Recording, task: Task, config: DecodingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """A model's answer to a task of suite 1 on the test windows of a session.

    Args:
        model: Adapted to the session; left as it is.
        recording: As prepared.
        task: Of suite 1, one that the model has a target for (`target_channel`).
        config: Of the read-out.

    Returns:
        `(N,)` upstream's number of each trial, and class logits `(N, K)`, or values `(N, 50)` in the units of the
        corpus (licks in Hz).

    Raises:
        ValueError: A bin size other than 20 ms, or a session without train, val or test windows of the task.
    """
    if abs(model.config.bin_size_s - BIN_S) > 1e-9:
        raise ValueError(
            f"{task.id}: the model has bins of {1000 * model.config.bin_size_s:g} ms, expected {1000 * BIN_S:g}; "
            "pretrain with data.bin_size_s=0.02"
        )
    channel = target_channel(model, recording, task)
    assert channel is not None, task.id
    key = recording.info.recording_id
    names = model.config.names.get(recording.info.dataset, {})
    reader = WindowReader({key: renamed(windows_as_trials(recording, task), names)}, model.channels, BIN_S)
    places = {role: ts1_windows(recording, task, role) for role in ("train", "val", "test")}
    if empty := [role for role, place in places.items() if not len(place.row)]:
        raise ValueError(f"{key}: no {' and no '.join(empty)} window of {task.id}; leave the task out here")
    windows = {
        role: [Window(key, float(start), STEPS, int(row)) for start, row in zip(place.start_s, place.row)]
        for role, place in places.items()
    }
    own = copy.copy(model)
    own.readouts = {}
    # A trace is told the labels that are decoded from the same second.
    labels = [c.spec for c in model.channels if task.kind == "value" and c.spec.scope == "trial"]
    told = [spec.name for spec in labels if spec.kind == "categorical"]
    data = TrainingData(reader, {key: windows["train"]}, {key: windows["val"]})
    fit_decoding(own, data, config, whole=[*told, channel.spec.name])
    if task.kind == "count":
        return places["test"].trial_id, _counts(own, reader, recording, task, channel, windows) / BIN_S
    found = list(decoded(own, reader, windows["test"], channel.spec.name))
    values = np.concatenate(found) if task.kind == "class" else np.stack(found)[..., 0]
    return places["test"].trial_id, values


def _counts(
    model: FoundationModel,
    reader: WindowReader,
    recording: Recording,
    task: Task,
    channel: Channel,
    windows: dict[str, list[Window]],
) -> np.ndarray:
    """Expected counts `(N, 50)` in the test windows, by Poisson regression on the features of the ridge."""
    question = Question(channel, False, BIN_S)
    arrays = as_arrays(model.readouts[recording.info.recording_id], question.prefix)
    truth = {role: ts1_truth(recording, task, role)["values"].reshape(-1, 1) for role in ("train", "val")}
    if not arrays:
        return np.full((len(windows["test"]), STEPS), truth["train"].mean())
    decoder = SessionDecoder([channel], BIN_S, as_arrays(model.readouts[recording.info.recording_id], "decode."))
    # Of a fit to this covariate alone, which is told no labels.
    own = {name.removeprefix(question.prefix): value for name, value in arrays.items()}
    features = {}
    for role, some in windows.items():
        parts = []
        for (part,) in segments(model, reader, some):
            rows = decoder.rows(question, part)
            parts.append(np.concatenate([np.ones((len(rows.course), 1)), rows.course, design(rows, own)], axis=1))
        features[role] = np.concatenate(parts)
    free = np.arange(features["train"].shape[1]) > 0
    choice = choose_penalty(
        features["train"], truth["train"], features["val"], truth["val"], _PENALTIES, penalized=free
    )
    log_rate = np.clip((features["test"] @ choice.weights)[:, 0], *LOG_RATE_RANGE)
    return np.asarray(np.exp(log_rate).reshape(-1, STEPS))
