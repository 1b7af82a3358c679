"""Predictions of this library in the files of Brain-Wide Bench; what cannot be exported is an error that says why.

Suite 1 is scored in windows of one second that are not the trials of the recording. `windows_as_trials` makes the
recording whose trials they are; views, models, baselines and prediction files of it export as they stand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from eval.bwb_files import SuiteFile, Tensors, encode_ids
from eval.bwb_tasks import BIN_S, COSMOS, STEPS, Task
from eval.bwb_windows import WINDOW_S, entity_ids, normalization, ts1_windows
from eval.metrics import RATE_FLOOR
from eval.predictions import TRACE_PREFIX, Prediction
from foundation.recording import Covariate, Recording

# How many units a region prediction is smoothed over, and how far along the probe they may be (upstream: NEMO's rule).
NEIGHBORS = 5
RADIUS_UM = 60.0
# As the recipe `brainsets` writes it into the notes of a recording.
_NOTED = {"unit_filtering": re.compile(r"build: (\w+)"), "dataset_version": re.compile(r"version: ([\w.]+)")}


def windows_as_trials(recording: Recording, task: Task) -> Recording:
    """The recording with the windows of a task of suite 1 as its trials, of all three roles.

    `source_index` of a trial is upstream's number of it, and the column `source_split_ts1` holds its role, so that a
    prediction of a view of this recording names the windows that are scored.

    Raises:
        ValueError: As `eval.bwb_windows.ts1_windows`.
    """
    parts = [ts1_windows(recording, task, role) for role in ("train", "val", "test")]
    roles = np.repeat(["train", "val", "test"], [len(part.row) for part in parts])
    row, start = (np.concatenate([getattr(part, key) for part in parts]) for key in ("row", "start_s"))
    order = np.argsort(start, kind="stable")
    row, start, roles = row[order], start[order], roles[order]
    trials = recording.trials.iloc[row].reset_index(drop=True)
    number = np.concatenate([part.trial_id for part in parts])[order]
    own: dict[str, Any] = {"start_s": start, "stop_s": start + WINDOW_S, "usable": True, "source_index": number}
    return replace(
        recording,
        trials=trials.assign(**own, source_split_ts1=roles),
        covariates={
            name: Covariate(c.spec, c.values[row], c.observed[row]) if c.times is None else c
            for name, c in recording.covariates.items()
        },
    ).validate()


def export_prediction(
    prediction: Prediction, recording: Recording, task: Task, label: str, metadata: Mapping[str, str] | None = None
) -> SuiteFile:
    """A prediction file of ours as one of suite 1.

    Args:
        prediction: Of a view of `windows_as_trials(recording, task)`: `choice` or `feedback` for classes,
            `decode_<covariate>` in 20 ms bins for what varies in time. It may hold more windows than those of the test.
        recording: As prepared, not the one with windows as trials.
        task: What it is exported as.
        label: Of the submission.
        metadata: Texts of the header, such as `unit_filtering`.

    Raises:
        ValueError: It cannot be exported; the message says why.
    """
    wanted = {"class": task.covariate, "value": f"{TRACE_PREFIX}{task.covariate}"}
    wanted["count"] = wanted["value"]
    if task.suite != "ts1":
        why = {
            "ts2": "windows overlap, and what was hidden is not in the file: give arrays to `export_rates`",
            "ts3": "it is one file over all sessions: give it to `export_regions`",
        }
        raise ValueError(f"{prediction.task} of {prediction.model!r} as {task.id}: {why[task.suite]}")
    if prediction.task != wanted[task.kind]:
        raise ValueError(f"{prediction.task} of {prediction.model!r} as {task.id}: expected {wanted[task.kind]!r}")
    if f"{prediction.dataset}/{prediction.session}" != recording.info.recording_id:
        raise ValueError(f"{prediction.session} as {task.id}: the recording is {recording.info.recording_id}")
    if task.kind == "class" and len(task.order) > 2:
        raise ValueError(
            f"{prediction.task} as {task.id}: a prediction file holds one number per trial, {len(task.order)} classes "
            "need as many; give logits to `export_labels`"
        )
    if task.kind != "class" and abs(prediction.bin_ms - 1000 * BIN_S) > 1e-9:
        raise ValueError(f"{prediction.task} as {task.id}: bins of {prediction.bin_ms} ms, expected {1000 * BIN_S:.0f}")
    number = ts1_windows(recording, task, "test").trial_id
    trial = prediction.arrays["trial"]
    if task.kind == "class":
        row = _positions(prediction.model, number.tolist(), trial.tolist())
        logit = prediction.arrays["logit"][row]
        logits = np.column_stack([np.zeros(len(logit)), logit])
        return export_labels(task, recording, label, prediction.seed, number, logits, metadata)
    keys = list(zip(trial.tolist(), prediction.arrays["bin"].tolist()))
    row = _positions(prediction.model, [(m, b) for m in number.tolist() for b in range(STEPS)], keys)
    values = prediction.arrays["value"][row].reshape(-1, STEPS)
    return export_traces(task, recording, label, prediction.seed, number, values, metadata)


def export_labels(
    task: Task,
    recording: Recording,
    label: str,
    seed: int,
    trial_id: np.ndarray,
    logits: np.ndarray,
    metadata: Mapping[str, str] | None = None,
) -> SuiteFile:
    """Class logits `(N, K)` of the windows of `trial_id (N,)`, classes as in the corpus (choice 0 is left)."""
    if task.kind != "class" or np.shape(logits) != (len(trial_id), len(task.order)):
        raise ValueError(
            f"{task.id}: logits {np.shape(logits)}, expected {(len(trial_id), len(task.order))} of a label"
        )
    theirs = np.zeros((len(logits), 1, len(task.order)), np.float32)
    theirs[:, 0, list(task.order)] = logits
    return _of_trials(task, recording, label, seed, trial_id, theirs, metadata)


def export_traces(
    task: Task,
    recording: Recording,
    label: str,
    seed: int,
    trial_id: np.ndarray,
    values: np.ndarray,
    metadata: Mapping[str, str] | None = None,
) -> SuiteFile:
    """Values `(N, 50)` in the units of the corpus, z-scored here where the task asks; licks in Hz, not their log."""
    values = np.asarray(values, dtype=float)
    if task.kind not in ("value", "count") or values.shape != (len(trial_id), STEPS):
        raise ValueError(f"{task.id}: values {values.shape}, expected {(len(trial_id), STEPS)} of a covariate in time")
    if task.kind == "count":
        if (values < 0).any():
            raise ValueError(f"{task.id}: a rate of {values.min():.3g} Hz, expected 0 or more, not its logarithm")
        values = np.log(np.maximum(values * BIN_S, RATE_FLOOR))
    elif scale := normalization(recording, task):
        values = (values - scale.mean) / scale.std
    return _of_trials(task, recording, label, seed, trial_id, values[..., None].astype(np.float32), metadata)


def export_rates(
    task: Task,
    recording: Recording,
    label: str,
    seed: int,
    window_start_s: np.ndarray,
    rate: np.ndarray,
    units: np.ndarray,
    metadata: Mapping[str, str] | None = None,
) -> SuiteFile:
    """Expected counts per bin `(W, T, U)` of the units at rows `units (U,)` of the recording, as log-rates in f16.

    Args:
        task: Of suite 2. T is 50 for co-smoothing, and for forecasting the last 5 bins of each window.
        recording: As prepared.
        label: Of the submission.
        seed: Of the model.
        window_start_s: `(W,)` exactly as `eval.bwb_windows.ts2_window_starts` gives them; files are aligned by them.
        rate: Expected counts, floored at 1e-9.
        units: Rows of the units table; for co-smoothing the held-out ones.
        metadata: Texts of the header.
    """
    rate = np.asarray(rate, dtype=float)
    if task.kind != "rates" or rate.shape[::2] != (len(window_start_s), len(units)):
        raise ValueError(f"{task.id}: rates {rate.shape}, expected ({len(window_start_s)}, T, {len(units)})")
    if not (np.isfinite(rate).all() and (rate >= 0).all()):
        raise ValueError(f"{task.id}: a rate is negative or not finite; expected counts per bin, not log-rates")
    ids = entity_ids(recording)
    tensors: Tensors = {
        "predictions": np.log(np.maximum(rate, RATE_FLOOR)).astype(np.float16),
        "window_timestamps": np.asarray(window_start_s, dtype=np.float64),
        "unit_ids": encode_ids([ids[row] for row in units]),
    }
    more = {"context_window": "1.0", "bin_size": str(BIN_S), **build_of(recording), **dict(metadata or {})}
    return SuiteFile(label, task.id, recording.info.session, seed, tensors, more).validate()


def export_regions(
    prediction: Prediction, recordings: Mapping[str, Recording], label: str, metadata: Mapping[str, str] | None = None
) -> SuiteFile:
    """A region prediction of ours as the file of suite 3.

    Args:
        prediction: Of task `region`; its classes are among the ten of Cosmos.
        recordings: By session.
        label: Of the submission; upstream ends it in `_single` or `_multi`.
        metadata: Texts of the header.

    Raises:
        ValueError: Not regions, a class that is none of the ten, or a session that is not given.
    """
    if prediction.task != "region":
        raise ValueError(f"{prediction.task} of {prediction.model!r}: expected task 'region'")
    classes = [str(name) for name in prediction.arrays["classes"]]
    if other := sorted(set(classes) - set(COSMOS)):
        raise ValueError(f"region of {prediction.model!r}: classes {other}, expected some of {COSMOS}")
    sessions = [str(name).split("/")[-1] for name in prediction.arrays["session_of_unit"]]
    if absent := sorted(set(sessions) - set(recordings)):
        raise ValueError(f"region of {prediction.model!r}: no recording of {absent[:3]}")
    names = {session: entity_ids(recordings[session]) for session in set(sessions)}
    ids = [names[session][int(unit)] for session, unit in zip(sessions, prediction.arrays["unit"])]
    probability = np.zeros((len(ids), len(COSMOS)), np.float32)
    probability[:, [COSMOS.index(name) for name in classes]] = prediction.arrays["prob"]
    return regions_file(label, prediction.seed, ids, probability, metadata)


def regions_file(
    label: str, seed: int, ids: list[str], probability: np.ndarray, metadata: Mapping[str, str] | None = None
) -> SuiteFile:
    """Probabilities `(M, 10)`, columns as `COSMOS`, of the units `ids` (`eval.bwb_windows.entity_ids`)."""
    tensors: Tensors = {"pred_proba": np.asarray(probability, dtype=np.float32), "entity_ids": encode_ids(ids)}
    return SuiteFile(label, "ts3-unit_cosmos", "", seed, tensors, dict(metadata or {})).validate()


def build_of(recording: Recording) -> dict[str, str]:
    """What the leaderboard asks of a header, as far as the recipe noted it: the build, and the version of the data."""
    found = {name: pattern.search(recording.info.notes) for name, pattern in _NOTED.items()}
    return {name: match[1] for name, match in found.items() if match}


def over_neighbors(probability: np.ndarray, depth_um: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """The multi-unit variant: of each unit the mean over the 5 nearest within 60 um of its probe, itself included.

    Args:
        probability: `(M, 10)`.
        depth_um: `(M,)` along the probe.
        probe: `(M,)` ids.
    """
    return np.stack([probability[near].mean(axis=0) for near in neighbors(depth_um, probe)])


def neighbors(depth_um: np.ndarray, probe: np.ndarray) -> list[np.ndarray]:
    """Rows of the 5 units nearest to each within 60 um of its probe, itself included."""
    found = []
    for i, depth in enumerate(depth_um):
        distance = np.abs(depth_um - depth)
        near = np.flatnonzero((probe == probe[i]) & (distance <= RADIUS_UM))
        # Upstream sorts with NumPy's default: among equal distances, as it does.
        found.append(near[np.argsort(distance[near])][:NEIGHBORS])
    return found


def _of_trials(
    task: Task,
    recording: Recording,
    label: str,
    seed: int,
    trial_id: np.ndarray,
    predictions: np.ndarray,
    metadata: Mapping[str, str] | None,
) -> SuiteFile:
    tensors: Tensors = {"predictions": predictions, "trial_id": np.asarray(trial_id, dtype=np.int64)}
    return SuiteFile(
        label, task.id, recording.info.session, seed, tensors, build_of(recording) | dict(metadata or {})
    ).validate()


def _positions(model: str, wanted: list[Any], given: list[Any]) -> np.ndarray:
    position = {key: row for row, key in enumerate(given)}
    if absent := [key for key in wanted if key not in position]:
        raise ValueError(
            f"{model!r}: {len(absent)} of {len(wanted)} scored windows or bins are missing, such as {absent[0]}; "
            "predict views of `windows_as_trials`"
        )
    return np.array([position[key] for key in wanted], dtype=int)
