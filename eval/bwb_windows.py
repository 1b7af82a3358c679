"""The windows in which Brain-Wide Bench scores a recording, and the truth there; predicts nothing.

For recordings made by the recipe `brainsets` with `configs/brainsets/brain_wide_bench.yaml`: windows of tasks are
columns of the trials, splits are in `info.splits`, the list of held-out units is a column of the units. The rules are
those of brainbench-org/ibl-bwb (3c8cee9: `ts1_dataset.py`, `ts2_dataset.py`, `ts3/protocol.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data_recipes.intervals import union
from eval.bwb_files import Tensors, encode_ids, write_ground_truth
from eval.bwb_tasks import BIN_S, COSMOS, FORECAST_STEPS, STEPS, TASKS, Task
from foundation.binning import bin_spikes
from foundation.recording import Covariate, Recording

WINDOW_S = BIN_S * STEPS
# Start of a window and a sample on the same grid may differ by this much (torch_brain's own tolerance).
_EDGE_S = 1e-9


@dataclass(frozen=True)
class Windows:
    """One second each, of one task and role, in the order of the session.

    Attributes:
        start_s: `(N,)` seconds on the session clock.
        row: `(N,)` row of the trial in the recording's table.
        trial_id: `(N,)` int64, upstream's number of the trial.
    """

    start_s: np.ndarray
    row: np.ndarray
    trial_id: np.ndarray


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation that z-score a target."""

    mean: float
    std: float


def is_evaluated(recording: Recording) -> bool:
    """Whether a session is one of the benchmark's 29 for evaluation, by the splits that it brings."""
    return "ts1" in recording.info.splits or "ts2" in recording.info.splits


def split_intervals(recording: Recording, suite: str, role: str) -> np.ndarray:
    """Intervals `(I, 2)` s of a role ("train", "val", "test") in a suite's own split.

    Raises:
        ValueError: The recording does not bring that split.
    """
    splits = recording.info.splits.get(suite, {})
    if role not in splits:
        raise ValueError(
            f"{recording.info.recording_id}: no {role} of suite {suite}, there are splits "
            f"{sorted(recording.info.splits)}; expected a session for evaluation of ibl_brain_wide_bench_2026"
        )
    return union(np.asarray(splits[role], dtype=float).reshape(-1, 2))


def ts1_windows(recording: Recording, task: Task, role: str) -> Windows:
    """Windows of a task of suite 1: those wholly in the split and the data, with samples in every bin.

    Args:
        recording: A session for evaluation.
        task: Of suite 1.
        role: "train", "val" or "test".

    Raises:
        ValueError: The session lacks the split, the windows or the covariate (it may have failed quality control).
    """
    trials, key = recording.trials, f"window_{task.window}"
    if f"{key}_start_s" not in trials or task.covariate not in recording.covariates:
        raise ValueError(
            f"{recording.info.recording_id}: no windows of {task.window!r} or no covariate {task.covariate!r}; leave "
            f"{task.id} out here, or prepare the corpus with configs/brainsets/brain_wide_bench.yaml"
        )
    start = trials[f"{key}_start_s"].to_numpy(float)
    keep = np.isfinite(start) & _inside(start, split_intervals(recording, "ts1", role))
    keep &= _inside(start, recording.domain)
    if task.counted:
        keep &= trials[f"{key}_{task.counted}"].to_numpy(float) > 0
    covariate = recording.covariates[task.covariate]
    if task.kind == "class":
        keep &= covariate.observed
    else:
        rows = np.flatnonzero(keep)
        first, whole = _samples(covariate, start[rows])
        if not task.counted:
            whole[whole] = [covariate.observed[k : k + STEPS].all() for k in first[whole]]
        keep[rows[~whole]] = False
    row = np.flatnonzero(keep)
    number = trials["trial_index" if "trial_index" in trials else "source_index"].to_numpy(np.int64)
    return Windows(start[row], row, number[row])


def normalization(recording: Recording, task: Task) -> Normalization | None:
    """What z-scores a target, from all (paws: all confident) samples of the train windows; None for one left as it is.

    Upstream computes them in doubles, a corpus keeps floats: z-scores agree to about 1e-6.
    """
    if not task.is_normalized:
        return None
    covariate = recording.covariates[task.covariate]
    windows = ts1_windows(recording, task, "train")
    index = _samples(covariate, windows.start_s)[0][:, None] + np.arange(STEPS)
    seen = covariate.values[index][covariate.observed[index]].astype(float)
    if not len(seen):
        raise ValueError(f"{recording.info.recording_id}: no sample of {task.covariate} in train windows; leave it out")
    return Normalization(float(seen.mean()), max(float(seen.std()), 1e-8))


def ts1_truth(recording: Recording, task: Task, role: str = "test") -> Tensors:
    """The truth of a task of suite 1 in the layout of `eval.bwb_files`."""
    windows = ts1_windows(recording, task, role)
    covariate = recording.covariates[task.covariate]
    if task.kind == "class":
        values = np.array(task.order, np.int64)[covariate.values[windows.row].astype(int)]
        return {"trial_id": windows.trial_id, "values": values[:, None]}
    index = _samples(covariate, windows.start_s)[0][:, None] + np.arange(STEPS)
    values = covariate.values[index].astype(float)
    if task.kind == "count":
        values = np.rint(values * BIN_S)
    if scale := normalization(recording, task):
        values = (values - scale.mean) / scale.std
    times = (np.asarray(covariate.times)[index] - windows.start_s[:, None]).astype(np.float32)
    truth = {"trial_id": windows.trial_id, "values": values[..., None].astype(np.float32), "timestamps": times}
    return truth | ({"mask": covariate.observed[index]} if task.counted else {})


def ts2_intervals(recording: Recording, role: str) -> np.ndarray:
    """Intervals `(I, 2)` s of suite 2: of each trial what its windows span, cut to the split.

    Raises:
        ValueError: The recording does not bring that split, or no windows.
    """
    columns = [str(name) for name in recording.trials if str(name).startswith("window_")]
    starts = recording.trials[[name for name in columns if name.endswith("_start_s")]].to_numpy(float)
    stops = recording.trials[[name for name in columns if name.endswith("_stop_s")]].to_numpy(float)
    known = np.isfinite(starts).any(axis=1) if starts.size else np.zeros(0, bool)
    if not known.any():
        raise ValueError(f"{recording.info.recording_id}: no windows of tasks; prepare it with a mapping that has them")
    spans = np.column_stack([np.nanmin(starts[known], axis=1), np.nanmax(stops[known], axis=1)])
    parts = [
        (max(a, x), min(b, y))
        for a, b in split_intervals(recording, "ts2", role)
        for x, y in spans[(spans[:, 0] < b) & (spans[:, 1] > a)]
    ]
    return np.array(sorted(parts), dtype=float).reshape(-1, 2)


def ts2_window_starts(interval: np.ndarray) -> np.ndarray:
    """Starts `(W,)` s of the one-second windows of an interval: one each bin, and one that ends with it.

    To the last bit those of torch_brain's `SequentialFixedWindowSampler` on this machine, because files are aligned by
    equality of these doubles. `torch.arange` without vector instructions differs in the last bit of 2 % of them: make
    predictions and truth on the same kind of CPU.
    """
    start, stop = float(interval[0]), float(interval[1])
    grid = torch.arange(start, stop, BIN_S, dtype=torch.float64).numpy()
    grid = grid[grid + WINDOW_S <= stop]
    return np.append(grid, stop - WINDOW_S) if len(grid) and grid[-1] + WINDOW_S < stop else grid


def ts2_units(recording: Recording, task: Task, role: str = "test") -> np.ndarray:
    """Rows `(U,)` of the units that are scored: the held-out ones, or all.

    Raises:
        ValueError: The recording lacks the list of held-out units; it is in the build `selected_units` alone.
    """
    if task.name == "forecasting":
        return np.arange(recording.num_units)
    column = f"ts2_co_smoothing_is_held_out_{role}"
    if column not in recording.units:
        raise ValueError(
            f"{recording.info.recording_id}: units have no column {column}; prepare it with build=selected_units"
        )
    return np.flatnonzero(recording.units[column].to_numpy(bool))


def ts2_truth(recording: Recording, task: Task, role: str = "test") -> Tensors:
    """The truth of a task of suite 2; windows stand a bin apart, so this is 50 times the size of the counts."""
    units = ts2_units(recording, task, role)
    starts, parts = [], []
    for interval in ts2_intervals(recording, role):
        at = ts2_window_starts(interval)
        if not len(at):
            continue
        bins = round((interval[1] - interval[0]) / BIN_S) + STEPS
        counts = bin_spikes(recording, float(interval[0]), bins, BIN_S)[:, units]
        on_grid = np.abs(at - interval[0] - BIN_S * np.arange(len(at))) < _EDGE_S
        for k, start in enumerate(at):
            window = counts[k : k + STEPS] if on_grid[k] else bin_spikes(recording, start, STEPS, BIN_S)[:, units]
            parts.append(window[-FORECAST_STEPS:] if task.name == "forecasting" else window)
        starts.append(at)
    if not parts:
        raise ValueError(f"{recording.info.recording_id}: no second of suite 2 in {role}; leave it out")
    ids = [entity_ids(recording)[row] for row in units]
    return {
        "targets": np.stack(parts).astype(np.float32),
        "window_timestamps": np.concatenate(starts),
        "unit_ids": encode_ids(ids),
    }


def entity_ids(recording: Recording) -> list[str]:
    """Upstream's ids of the units: session and own id, such as "<eid>/<uuid>"."""
    column = "source_id" if "source_id" in recording.units else "unit_id"
    return [f"{recording.info.session}/{own}" for own in recording.units[column]]


def scored_units(recording: Recording) -> np.ndarray:
    """Rows `(M,)` of the units that suite 3 scores, or trains on in a session of pretraining.

    Quality of probe and alignment passed (pretraining: quality of probe not failed), label 1, more than 1 Hz, a region
    of the ten.

    Raises:
        ValueError: The units lack a column that this needs.
    """
    units = recording.units
    needed = ("region_cosmos", "qc_neural", "qc_neural_alignment", "label", "firing_rate")
    if missing := [name for name in needed if name not in units]:
        raise ValueError(f"{recording.info.recording_id}: units have no {missing}; expected a file of Brain-Wide Bench")
    probe = units["qc_neural"].astype(str)
    keep = (probe == "PASS") if is_evaluated(recording) else (probe != "FAIL")
    keep &= units["qc_neural_alignment"].astype(str) == "PASS"
    keep &= (units["label"] == 1.0) & (units["firing_rate"] > 1.0) & units["region_cosmos"].isin(COSMOS)
    return np.flatnonzero(keep.to_numpy(bool))


def ts3_table(recordings: Iterable[Recording]) -> pd.DataFrame:
    """One row per scored unit: `entity_id`, `target`, `session`, `subject`, `probe`, `depth` um, `firing_rate` Hz."""
    parts = []
    for recording in recordings:
        rows, units = scored_units(recording), recording.units
        ids = entity_ids(recording)
        parts.append(
            pd.DataFrame(
                {
                    "entity_id": [ids[k] for k in rows],
                    "target": [COSMOS.index(name) for name in units["region_cosmos"].iloc[rows]],
                    "session": recording.info.session,
                    "subject": recording.info.subject_id,
                    "probe": units["probe_id"].iloc[rows].astype(str).to_numpy(),
                    "depth": units["depths"].iloc[rows].to_numpy(float),
                    "firing_rate": units["firing_rate"].iloc[rows].to_numpy(float),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def make_ground_truth(recordings: Iterable[Recording], suite: str, root: str | Path) -> list[Path]:
    """Write the truth of a suite for the sessions for evaluation among some recordings; tasks they lack are left out.

    Args:
        recordings: Any number; sessions of pretraining are passed over.
        suite: "ts1", "ts2" or "ts3".
        root: Folder of truths.

    Returns:
        The files.

    Raises:
        ValueError: No session for evaluation.
    """
    chosen = [recording for recording in recordings if is_evaluated(recording)]
    if not chosen:
        raise ValueError("no session for evaluation of Brain-Wide Bench in the corpus; prepare its folder eval")
    paths = []
    if suite == "ts3":
        table = ts3_table(chosen)
        tensors = {"targets": table["target"].to_numpy(np.int64), "entity_ids": encode_ids(list(table["entity_id"]))}
        return [write_ground_truth(root, TASKS["ts3-unit_cosmos"], "", tensors)]
    for recording in chosen:
        for task in tasks_in(recording, suite):
            truth = ts1_truth(recording, task) if suite == "ts1" else ts2_truth(recording, task)
            paths.append(write_ground_truth(root, task, recording.info.session, truth))
    return paths


def tasks_in(recording: Recording, suite: str) -> list[Task]:
    """Tasks of suite 1 or 2 that a session has test windows of; behavior that failed quality control is not in it."""
    tasks = [task for task in TASKS.values() if task.suite == suite]
    if suite == "ts2":
        return tasks
    return [
        task
        for task in tasks
        if task.covariate in recording.covariates
        and f"window_{task.window}_start_s" in recording.trials
        and len(ts1_windows(recording, task, "test").row)
    ]


def _inside(start: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """`(N,)` bool: windows that lie wholly in one of the sorted disjoint intervals."""
    at = np.nan_to_num(start, nan=-1.0)
    piece = np.maximum(intervals[:, 0].searchsorted(at + 1e-6, side="right") - 1, 0)
    return (at >= intervals[piece, 0] - 1e-6) & (at + WINDOW_S <= intervals[piece, 1] + 1e-6)


def _samples(covariate: Covariate, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First sample of each window `(N,)`, and whether 50 follow without a gap `(N,)` bool."""
    times = covariate.times
    assert times is not None, covariate.spec.name
    first = times.searchsorted(start - _EDGE_S)
    last = first + STEPS - 1
    there = last < len(times)
    span = times[np.minimum(last, len(times) - 1)] - start
    return first, there & (span < WINDOW_S - _EDGE_S)
