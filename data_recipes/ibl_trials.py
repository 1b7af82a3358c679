"""Trials of an IBL session: their intervals, which of them are usable, and the covariates that have one value a trial.

What a session does not have stays away; nothing is filled with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_recipes.cleaning import Tally, check_clock, numbers, trial_table
from data_recipes.ibl_files import SessionFiles
from foundation.recording import Covariate, CovariateSpec, empty_trials

BEFORE_S, AFTER_S = 0.5, 1.5
INTERVALS = ("aligned", "trial")
P_LEFT = (0.2, 0.5, 0.8)
MIN_RT_S, MAX_RT_S = 0.08, 2.0
MUST_EXIST = ("stimOn_times", "choice", "feedback_times", "probabilityLeft", "firstMovement_times", "feedbackType")

_TRIAL_TIMES = {
    "stimOn_times": "stim_on_s",
    "stimOff_times": "stim_off_s",
    "goCue_times": "go_cue_s",
    "firstMovement_times": "first_movement_s",
    "response_times": "response_s",
    "feedback_times": "feedback_s",
}
_TRIAL_VALUES = ("choice", "contrastLeft", "contrastRight", "probabilityLeft", "feedbackType", "rewardVolume")

SPECS = {
    spec.name: spec
    for spec in (
        CovariateSpec(
            "choice",
            "categorical",
            "trial",
            num_classes=2,
            description="side reported with the wheel: 0 left (IBL +1), 1 right (IBL -1); no-go (IBL 0) unobserved",
        ),
        CovariateSpec(
            "block",
            "categorical",
            "trial",
            num_classes=3,
            role="task",
            description="probability of a stimulus on the left: 0.2, 0.5, 0.8",
        ),
        CovariateSpec(
            "contrast_left",
            "continuous",
            "trial",
            unit="1",
            role="stimulus",
            description="contrast of the grating on the left, 0 to 1; 0 when the stimulus is on the right",
        ),
        CovariateSpec(
            "contrast_right",
            "continuous",
            "trial",
            unit="1",
            role="stimulus",
            description="contrast of the grating on the right, 0 to 1; 0 when the stimulus is on the left",
        ),
        # The outcome is hidden with the behavior: with the stimulus it would tell the choice.
        CovariateSpec(
            "feedback", "categorical", "trial", num_classes=2, description="outcome of the choice: 0 error, 1 correct"
        ),
        CovariateSpec(
            "reward_volume", "continuous", "trial", unit="uL", description="water given in the trial, 0 after an error"
        ),
    )
}


@dataclass(frozen=True)
class TrialRules:
    """What a trial is and which of them are usable.

    Attributes:
        intervals: `aligned`: from 0.5 s before to 1.5 s after stimulus onset; `trial`: from start to end of the trial.
        bwm_trials: Only trials with the six events of the Brain Wide Map (`MUST_EXIST`) and 0.08 to 2 s from stimulus
            to first movement, as its `load_trials_and_mask` (IBL et al. 2025).
        exclude_nochoice: Without no-go trials.
        exclude_unbiased: Without trials of the 0.5 block.
    """

    intervals: str = "aligned"
    bwm_trials: bool = True
    exclude_nochoice: bool = False
    exclude_unbiased: bool = False

    def __post_init__(self) -> None:
        """Reject what does not exist."""
        if self.intervals not in INTERVALS:
            raise ValueError(f"ibl: intervals is {self.intervals!r}, expected one of {INTERVALS}")


def read_trials(
    files: SessionFiles, rules: TrialRules, span: tuple[float, float], tally: Tally
) -> tuple[pd.DataFrame, dict[str, Covariate], list[str]]:
    """Trials, the covariates of them, and what is missing.

    Args:
        files: Of the session.
        rules: What is a trial, and which are usable.
        span: Where the spikes are, seconds; trials that leave it are not usable.
        tally: Counts trials in, out and not usable by reason.

    Raises:
        ValueError: Columns of different lengths, or times on another clock.
    """
    raw = _trial_columns(files)
    missing: list[str] = []
    if not raw or "intervals_0" not in raw:
        return empty_trials(), {}, ["trials"]
    where = f"{files.folder}: trials"
    for name in ("intervals_0", *_TRIAL_TIMES):
        if name in raw:
            check_clock(f"{where}: {name}", raw[name], (0.0, span[1]))
    needed, other = ("intervals_1", "aligned") if rules.intervals == "trial" else ("stimOn_times", "trial")
    if needed not in raw:
        raise ValueError(f"{where}: no {needed}, which intervals={rules.intervals} needs; take intervals={other}")
    if rules.intervals == "trial":
        start, stop = raw["intervals_0"], raw["intervals_1"]
    else:
        start, stop = raw["stimOn_times"] - BEFORE_S, raw["stimOn_times"] + AFTER_S
    table, rows = trial_table(start, stop, tally)
    raw = {name: values[rows] for name, values in raw.items()}
    outside = (table["start_s"].to_numpy() < span[0]) | (table["stop_s"].to_numpy() > span[1])
    reasons = {"outside the recording": outside} | _reasons(raw, rules, missing)
    table["usable"] = tally.keep("usable trials", len(table), reasons)
    for name, column in _TRIAL_TIMES.items():
        if name in raw:
            table[column] = raw[name]
    covariates = {}
    for name, values in _trial_values(raw, tally).items():
        if values is None:
            missing.append(f"{name} of the trials")
        elif SPECS[name].kind == "categorical":
            covariates[name] = Covariate.categorical(SPECS[name], values)
        else:
            covariates[name] = Covariate.continuous(SPECS[name], values)
        if values is not None:
            tally.add(f"trials with {name} not observed", int((~covariates[name].observed).sum()))
    return table, covariates, missing


def _trial_columns(files: SessionFiles) -> dict[str, np.ndarray]:
    """Columns of the trial table, and of the arrays beside it, as float64; all of one length."""
    table = files.table("trials.table") if "trials.table" in files else pd.DataFrame()
    raw = {}
    for name in ("intervals_0", "intervals_1", *_TRIAL_TIMES, *_TRIAL_VALUES):
        if name in table:
            raw[name] = numbers(str(files.folder / files.paths["trials.table"]), table, name)
        elif f"trials.{name}" in files:
            raw[name] = files.array(f"trials.{name}").astype(np.float64)
    if "intervals_0" not in raw and "trials.intervals" in files:
        bounds = files.array("trials.intervals", columns=2).astype(np.float64)
        raw["intervals_0"], raw["intervals_1"] = bounds.T
    if len(sizes := {name: len(values) for name, values in raw.items()}) and len(set(sizes.values())) > 1:
        raise ValueError(f"{files.folder}: trials have columns of {sizes} rows, expected one length")
    return raw


def _reasons(raw: dict[str, np.ndarray], rules: TrialRules, missing: list[str]) -> dict[str, np.ndarray]:
    """By reason, which trials are not usable; criteria whose columns do not exist are named in `missing`."""
    reasons = {}
    if rules.bwm_trials:
        for name in MUST_EXIST:
            if name in raw:
                reasons[f"no {name}"] = ~np.isfinite(raw[name])
            else:
                missing.append(f"{name} (not applied as a criterion of trials)")
        if {"firstMovement_times", "stimOn_times"} <= set(raw):
            reaction = raw["firstMovement_times"] - raw["stimOn_times"]
            with np.errstate(invalid="ignore"):
                reasons[f"movement before {MIN_RT_S:g} s"] = reaction < MIN_RT_S
                reasons[f"movement after {MAX_RT_S:g} s"] = reaction > MAX_RT_S
    if rules.exclude_nochoice and "choice" in raw:
        reasons["no choice"] = raw["choice"] == 0
    if rules.exclude_unbiased and "probabilityLeft" in raw:
        reasons["unbiased block"] = np.isclose(raw["probabilityLeft"], 0.5)
    return reasons


def _trial_values(raw: dict[str, np.ndarray], tally: Tally) -> dict[str, np.ndarray | None]:
    """Values of the trial covariates, None for those that have no column; -1 or NaN is not observed."""
    found: dict[str, np.ndarray | None] = dict.fromkeys(
        ("choice", "block", "contrast_left", "contrast_right", "feedback", "reward_volume")
    )
    if (choice := raw.get("choice")) is not None:
        found["choice"] = np.select([choice == 1, choice == -1], [0, 1], -1)
    if (p_left := raw.get("probabilityLeft")) is not None:
        found["block"] = block = np.select([np.isclose(p_left, p) for p in P_LEFT], range(len(P_LEFT)), -1)
        tally.add("trials with another probability of left", int((np.isfinite(p_left) & (block < 0)).sum()))
    if (feedback := raw.get("feedbackType")) is not None:
        found["feedback"] = np.select([feedback == -1, feedback == 1], [0, 1], -1)
    if "contrastLeft" in raw and "contrastRight" in raw:
        left, right = raw["contrastLeft"], raw["contrastRight"]
        with np.errstate(invalid="ignore"):
            outside = (np.abs(left - 0.5) > 0.5) | (np.abs(right - 0.5) > 0.5)
        tally.add("trials with a contrast outside of 0 to 1", int(outside.sum()))
        # NaN means that the stimulus is on the other side; with NaN on both it is not known.
        known = (np.isfinite(left) | np.isfinite(right)) & ~outside
        found["contrast_left"] = np.where(known, np.nan_to_num(left), np.nan)
        found["contrast_right"] = np.where(known, np.nan_to_num(right), np.nan)
    found["reward_volume"] = raw.get("rewardVolume")
    return found
