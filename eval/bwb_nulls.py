"""What Brain-Wide Bench's tasks score without the neurons in question: the rows that a model has to beat.

Fitted on the suite's own train windows, options chosen on its val windows, never on test:

    suite 1   "null mean": train mean, or the share of each class;
              "null trial structure": the mean course in the window over train trials; for classes a logistic regression
              on block, number of the trial, and choice, outcome and stimulus of the trial before;
              "null stimulus" (choice, reward): the same with side and contrast of the trial's own stimulus
    suite 2   "null mean": train mean of each unit;
              "null trial structure": its mean course since the last of stimulus, movement and feedback
    suite 3   "null mean": share of each region; "null rate" and "null rate and depth": logistic regressions on the
              units of pretraining animals
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from eval.bwb_export import over_neighbors, regions_file
from eval.bwb_files import SuiteFile, Tensors, encode_ids
from eval.bwb_scores import class_scores, rate_scores, score_tensors
from eval.bwb_tasks import BIN_S, COSMOS, FORECAST_STEPS, SEEDS, STEPS, Task
from eval.bwb_windows import (
    entity_ids,
    ts1_truth,
    ts1_windows,
    ts2_intervals,
    ts2_truth,
    ts2_units,
    ts2_window_starts,
)
from eval.metrics import RATE_FLOOR
from foundation.binning import bin_spikes
from foundation.recording import Recording

MEAN, STRUCTURE, STIMULUS = "null mean", "null trial structure", "null stimulus"
_C = (0.01, 0.1, 1.0, 10.0)
# Bins over which a mean course is smoothed, and how many bins of the mean rate are added to each of its bins.
_SMOOTH = (1, 5, 15)
_PRIOR = (3.0, 30.0, 300.0)
_PHASE_BINS = 150
Predict = Callable[[str], SuiteFile]


def session_nulls(recording: Recording, task: Task) -> tuple[dict[str, SuiteFile], str]:
    """Null predictions of the test windows of a session, by name, and the name of the best on its val windows.

    Raises:
        ValueError: The session lacks what the task needs, or has no train window.
    """
    fit = {"ts1": _ts1, "ts2": _ts2}[task.suite]
    named = fit(recording, task)
    truth = ts1_truth(recording, task, "val") if task.suite == "ts1" else ts2_truth(recording, task, "val")
    headline = task.metrics[0]
    on_val = {name: score_tensors(predict("val"), truth)[0].get(headline, -np.inf) for name, predict in named.items()}
    return {name: predict("test") for name, predict in named.items()}, max(on_val, key=lambda name: on_val[name])


def region_nulls(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, SuiteFile]:
    """Null predictions of suite 3, by name, alone and averaged over neighbors ("... multi").

    Args:
        train: `eval.bwb_windows.ts3_table` of sessions of pretraining.
        test: The same of sessions for evaluation.

    Raises:
        ValueError: An animal is in both, or fewer than two regions to learn.
    """
    if both := sorted(set(train["subject"]) & set(test["subject"])):
        raise ValueError(f"suite 3: animals {both} in pretraining and in evaluation; hold them out")
    if train["target"].nunique() < 2:
        raise ValueError("suite 3: fewer than two regions among units of pretraining; give their sessions too")
    found = {MEAN: np.tile(np.bincount(train["target"], minlength=len(COSMOS)) / len(train), (len(test), 1))}
    for name, columns in (("null rate", ["firing_rate"]), ("null rate and depth", ["firing_rate", "depth"])):
        inputs = [
            frame[columns].assign(firing_rate=np.log(frame["firing_rate"])).to_numpy(float) for frame in (train, test)
        ]
        # Balanced, as the score is a mean over classes; splines, because regions lie in bands of depth.
        model = make_pipeline(
            SplineTransformer(6, knots="quantile"),
            StandardScaler(),
            LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000),
        )
        found[name] = np.zeros((len(test), len(COSMOS)))
        found[name][:, np.unique(train["target"])] = model.fit(inputs[0], train["target"]).predict_proba(inputs[1])
    depth, probe = test["depth"].to_numpy(float), (test["session"] + test["probe"]).to_numpy(str)
    pooled = {f"{name} multi": over_neighbors(prob, depth, probe) for name, prob in found.items() if name != MEAN}
    ids = list(test["entity_id"])
    return {name: regions_file(folder_of(name), SEEDS[0], ids, prob) for name, prob in (found | pooled).items()}


def folder_of(name: str) -> str:
    """A name as the label of a submission."""
    return name.replace(" ", "_")


def _ts1(recording: Recording, task: Task) -> dict[str, Predict]:
    train = ts1_truth(recording, task, "train")
    if not len(train["trial_id"]):
        raise ValueError(f"{recording.info.recording_id}: no train window of {task.id}; leave the task out here")
    if task.kind == "class":
        return _class_nulls(recording, task, train["values"][:, 0].astype(int))
    seen = train["mask"][..., None] if "mask" in train else np.ones(train["values"].shape, bool)
    count = seen.sum(axis=0)
    mean = float(train["values"][seen].mean())
    # A step without a confident sample gets the mean.
    course = np.where(count > 0, (train["values"] * seen).sum(axis=0) / np.maximum(count, 1), mean)
    courses = {MEAN: np.full((STEPS, 1), mean), STRUCTURE: course}
    if task.kind == "count":
        courses = {name: np.log(np.maximum(one, RATE_FLOOR)) for name, one in courses.items()}

    def predict(name: str, role: str) -> SuiteFile:
        number = ts1_windows(recording, task, role).trial_id
        values = np.tile(courses[name], (len(number), 1, 1)).astype(np.float32)
        return _file(recording, task, name, {"predictions": values, "trial_id": number})

    return {name: (lambda role, name=name: predict(name, role)) for name in courses}  # type: ignore[misc]


def _class_nulls(recording: Recording, task: Task, labels: np.ndarray) -> dict[str, Predict]:
    num = len(task.order)
    share = np.bincount(labels, minlength=num) / len(labels)
    tables = {STRUCTURE: _structure(recording)}
    if task.name != "stimulus_contrast":
        tables[STIMULUS] = np.column_stack([tables[STRUCTURE], _stimulus(recording)])
    rows = ts1_windows(recording, task, "train").row
    fitted = {name: _logistic(recording, task, table, rows, labels) for name, table in tables.items()}

    def predict(name: str, role: str) -> SuiteFile:
        windows = ts1_windows(recording, task, role)
        probability = np.tile(share, (len(windows.row), 1))
        if name != MEAN and len(fitted[name].classes_) > 1:
            probability = np.zeros_like(probability)
            probability[:, fitted[name].classes_] = fitted[name].predict_proba(tables[name][windows.row])
        logits = np.log(np.maximum(probability, 1e-6))[:, None].astype(np.float32)
        return _file(recording, task, name, {"predictions": logits, "trial_id": windows.trial_id})

    return {name: (lambda role, name=name: predict(name, role)) for name in (MEAN, *fitted)}  # type: ignore[misc]


def _logistic(recording: Recording, task: Task, table: np.ndarray, rows: np.ndarray, labels: np.ndarray):  # type: ignore[no-untyped-def]
    """Balanced logistic regression, C chosen on val windows."""
    val = ts1_windows(recording, task, "val").row
    truth = ts1_truth(recording, task, "val")["values"][:, 0].astype(int)
    best, highest = None, -np.inf
    if len(np.unique(labels)) < 2:
        return _OneClass()
    for strength in _C:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(table[rows], labels)
        logits = np.full((len(val), len(task.order)), -30.0)
        logits[:, model.classes_] = model.predict_log_proba(table[val])
        score = class_scores(truth, logits)["bacc"] if len(val) else 0.0
        if score > highest:
            best, highest = model, score
    return best


class _OneClass:
    """Stands where the train windows hold one class: no regression, the shares answer."""

    classes_ = np.zeros(1, int)


def _structure(recording: Recording) -> np.ndarray:
    """Of each trial `(R, F)`: its place in the session, its block, and the trial before it."""
    num = len(recording.trials)
    place = np.linspace(-1, 1, num)
    before = [_one_hot(recording, name) for name in ("choice", "feedback", "stimulus_side", "stimulus_contrast")]
    shifted = np.vstack([np.zeros((1, sum(b.shape[1] for b in before))), np.column_stack(before)[:-1]])
    win_stay = shifted[:, :2] * shifted[:, [3]] if shifted.shape[1] > 3 else np.zeros((num, 0))
    return np.column_stack([place, place**2, _one_hot(recording, "block"), shifted, win_stay])


def _stimulus(recording: Recording) -> np.ndarray:
    """Side by contrast of each trial's own stimulus, and by block, `(R, F)`."""
    side, contrast = _one_hot(recording, "stimulus_side"), _one_hot(recording, "stimulus_contrast")
    block = _one_hot(recording, "block")
    shown = (side[:, :, None] * contrast[:, None]).reshape(len(side), -1)
    return np.column_stack([shown, (side[:, :, None] * block[:, None]).reshape(len(side), -1)])


def _one_hot(recording: Recording, name: str) -> np.ndarray:
    """Classes of a covariate of the trials `(R, K)`, 0 where it is not observed; `(R, 0)` without it."""
    covariate = recording.covariates.get(name)
    if covariate is None:
        return np.zeros((len(recording.trials), 0))
    return np.eye(covariate.spec.num_classes)[covariate.values.astype(int)] * covariate.observed[:, None]


def _ts2(recording: Recording, task: Task) -> dict[str, Predict]:
    units = np.arange(recording.num_units)
    parts = []
    for interval in ts2_intervals(recording, "train"):
        bins = int(np.floor((interval[1] - interval[0]) / BIN_S + 1e-6))
        if bins:
            parts.append(
                (interval[0] + BIN_S * (np.arange(bins) + 0.5), bin_spikes(recording, interval[0], bins, BIN_S))
            )
    if not parts:
        raise ValueError(f"{recording.info.recording_id}: no train interval of suite 2; leave it out")
    times, counts = np.concatenate([t for t, _ in parts]), np.concatenate([c for _, c in parts]).astype(float)
    mean = np.maximum(counts.mean(axis=0), RATE_FLOOR)
    cell = _phase(recording, times)
    spikes = np.zeros((3, _PHASE_BINS, len(units)))
    np.add.at(spikes.reshape(-1, len(units)), cell, counts)
    seen = np.bincount(cell, minlength=3 * _PHASE_BINS).reshape(3, _PHASE_BINS).astype(float)

    def course(width: int, prior: float) -> np.ndarray:
        kernel = np.ones(width)
        smooth = np.apply_along_axis(np.convolve, 1, spikes, kernel, "same")
        bins = np.apply_along_axis(np.convolve, 1, seen, kernel, "same")[..., None]
        return ((smooth + prior * mean) / (bins + prior)).reshape(-1, len(units))

    on_val = ts2_truth(recording, task, "val")
    scored = ts2_units(recording, task, "val")
    centers = _centers(on_val["window_timestamps"], task)
    target = on_val["targets"].reshape(-1, len(scored))
    at = _phase(recording, centers.ravel())
    options = [(width, prior) for width in _SMOOTH for prior in _PRIOR]
    best = max(
        options,
        key=lambda option: rate_scores(target, np.log(course(*option)[at][:, scored])).get("poisson_d2", -np.inf),
    )
    tables = {MEAN: np.tile(mean, (3 * _PHASE_BINS, 1)), STRUCTURE: course(*best)}

    def predict(name: str, role: str) -> SuiteFile:
        chosen = ts2_units(recording, task, role)
        starts = np.concatenate([ts2_window_starts(interval) for interval in ts2_intervals(recording, role)])
        centers = _centers(starts, task)
        log_rate = np.log(tables[name])[:, chosen].astype(np.float16)[_phase(recording, centers.ravel())]
        ids = entity_ids(recording)
        tensors: Tensors = {
            "predictions": log_rate.reshape(*centers.shape, len(chosen)),
            "window_timestamps": starts,
            "unit_ids": encode_ids([ids[k] for k in chosen]),
        }
        return _file(recording, task, name, tensors)

    return {name: (lambda role, name=name: predict(name, role)) for name in tables}  # type: ignore[misc]


def _centers(starts: np.ndarray, task: Task) -> np.ndarray:
    """Centers `(W, T)` s of the scored bins of windows."""
    steps = np.arange(STEPS)[-FORECAST_STEPS:] if task.name == "forecasting" else np.arange(STEPS)
    return np.asarray(starts[:, None] + BIN_S * (steps + 0.5))


def _phase(recording: Recording, times: np.ndarray) -> np.ndarray:
    """Cell `(M,)` of each time: which of stimulus, movement and feedback was last, and the bins since, up to 3 s."""
    since = np.full((3, len(times)), np.inf)
    for k, name in enumerate(("stimulus_on", "movement_onset", "feedback_onset")):
        covariate = recording.covariates.get(name)
        events = np.zeros(0) if covariate is None or covariate.times is None else covariate.times
        row = events.searchsorted(times, side="right") - 1
        if len(events):
            since[k] = np.where(row >= 0, times - events[np.maximum(row, 0)], np.inf)
    last = since.argmin(axis=0)
    bins = np.minimum(since.min(axis=0) / BIN_S, _PHASE_BINS - 1).astype(int)
    return np.asarray(last * _PHASE_BINS + bins)


def _file(recording: Recording, task: Task, name: str, tensors: Tensors) -> SuiteFile:
    return SuiteFile(folder_of(name), task.id, recording.info.session, SEEDS[0], tensors).validate()
