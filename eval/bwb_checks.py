"""What forbids a score of Brain-Wide Bench, and what the leaderboard would refuse; reads no prediction's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.bwb_files import SuiteFile
from eval.bwb_tasks import Suite, task_of
from eval.bwb_windows import is_evaluated, split_intervals, tasks_in
from foundation.checkpoint import load_model
from foundation.recording import Recording
from foundation.splits import ROLES, stretches

_MIN_SEEDS = 3


def animal_breaches(recordings: Mapping[str, Recording]) -> list[str]:
    """Animals with sessions of both kinds in a corpus, in words."""
    sides: dict[str, set[bool]] = {}
    for one in recordings.values():
        sides.setdefault(one.info.subject_id, set()).add(is_evaluated(one))
    return [f"{animal} is in pretraining and in evaluation" for animal, both in sorted(sides.items()) if len(both) > 1]


def model_breaches(folder: Path, evaluated: Mapping[str, Recording], suite: Suite) -> list[str]:
    """What of a model's past forbids scoring it, in words: an animal of the evaluation, or a second of its test split.

    Args:
        folder: A model of ours, pretrained or adapted.
        evaluated: Sessions for evaluation.
        suite: Whose split; suite 3 splits by animal, and trials of its sessions may be adapted to.
    """
    model = load_model(folder)
    past: dict[str, Any] = model.provenance
    problems = [
        f"{animal} was in the pretraining of {folder}"
        for animal in sorted({one.info.subject_id for one in evaluated.values()} & set(past["pretraining_subjects"]))
    ]
    if suite == "ts3":
        return problems
    adapted = past.get("adapted", {})
    for recording_id in [*adapted, *(key for key in model.adapters.sessions["recording_id"] if key not in adapted)]:
        one = evaluated.get(recording_id.split("/")[-1])
        if one is None:
            continue
        if recording_id not in adapted:
            problems.append(f"{recording_id} has an adapter in {folder} whose trials are not on record")
        elif seconds := seconds_of_test_used(one, np.array(adapted[recording_id]["roles"]), suite):
            problems.append(
                f"{recording_id}: {seconds:.1f} s of the test split were used in adapting {folder} "
                f"(adapt with --split source:{suite})"
            )
    return problems


def seconds_of_test_used(recording: Recording, roles: np.ndarray, suite: Suite) -> float:
    """Seconds of a suite's test split that lie in trials with the role train or val.

    Raises:
        ValueError: Not one role for each trial.
    """
    bounds = stretches(recording)
    if len(roles) != len(bounds):
        raise ValueError(
            f"{recording.info.recording_id}: {len(roles)} roles of {len(bounds)} trials; the model was adapted to "
            "another version of the recording, so what it saw cannot be told"
        )
    fitted = bounds[np.isin(roles, (ROLES["train"], ROLES["val"]))]
    return float(
        sum(
            np.maximum(np.minimum(fitted[:, 1], stop) - np.maximum(fitted[:, 0], start), 0).sum()
            for start, stop in split_intervals(recording, suite, "test")
        )
    )


def submission_gaps(files: Sequence[SuiteFile], evaluated: Mapping[str, Recording]) -> list[str]:
    """What the leaderboard would refuse: sessions or seeds that are missing, header fields, the wrong build."""
    gaps = []
    groups: dict[tuple[str, str], list[SuiteFile]] = {}
    for file in files:
        groups.setdefault((file.label, file.task), []).append(file)
    for (label, task_id), group in sorted(groups.items()):
        task, where = task_of(task_id), f"{label}/{task_id}"
        by_session: dict[str, set[int]] = {}
        for file in group:
            by_session.setdefault(file.recording_id, set()).add(file.seed)
        needed = (
            {s for s, one in evaluated.items() if task in tasks_in(one, task.suite)} if task.suite != "ts3" else {""}
        )
        if absent := sorted(needed - set(by_session)):
            gaps.append(f"{where}: no prediction of {len(absent)} sessions, such as {absent[0]}")
        seeds = sorted(set.union(*by_session.values()))
        if any(own != set(seeds) for own in by_session.values()):
            gaps.append(f"{where}: sessions with different seeds")
        if len(seeds) < _MIN_SEEDS or seeds != list(range(seeds[0], seeds[0] + len(seeds))):
            gaps.append(f"{where}: seeds {seeds}, expected at least {_MIN_SEEDS} without a gap")
        if missing := sorted({"unit_filtering", "dataset_version"} - set(group[0].metadata)):
            gaps.append(f"{where}: no {' and '.join(missing)} in the header")
        elif task.suite != "ts1" and group[0].metadata["unit_filtering"] != "selected_units":
            gaps.append(f"{where}: unit_filtering is {group[0].metadata['unit_filtering']}, expected selected_units")
    return gaps
