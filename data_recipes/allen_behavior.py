"""Running, pupil, licks, rewards and change-detection trials of the Allen Neuropixels sessions; no spikes, no stimuli.

Visual Coding and Visual Behavior hold these in different places; what a file has not is not in the recording.
"""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd

from data_recipes.allen_presentations import image_number
from data_recipes.allen_stimuli import NUM_IMAGES
from data_recipes.cleaning import Tally, check_clock, events, series, trial_table
from data_recipes.nwb_file import array, node, read_series, read_table, series_times
from foundation.recording import Covariate, CovariateSpec

RUNNING = ("processing/running/running_speed", "processing/running/speed")
ELLIPSES = "processing/eye_tracking/pupil_ellipse_fits"
EYE = "acquisition/EyeTracking"
EVENTS = {"lick": "processing/licking/licks", "reward": "processing/rewards/volume"}
OUTCOMES = ("hit", "miss", "false_alarm", "correct_reject")
SPECS = {
    spec.name: spec
    for spec in (
        CovariateSpec("running_speed", "continuous", "time", unit="cm/s", description="speed on the running wheel"),
        CovariateSpec(
            "pupil_area",
            "continuous",
            "time",
            unit="px^2",
            description="area of the circle about the fitted ellipse of the pupil; not observed in blinks",
        ),
        CovariateSpec("pupil_width", "continuous", "time", unit="px", description="full width of the pupil's ellipse"),
        CovariateSpec("pupil_height", "continuous", "time", unit="px", description="full height of the ellipse"),
        CovariateSpec(
            "pupil_position", "continuous", "time", dim=2, unit="px", description="center of the pupil in the image"
        ),
        CovariateSpec("lick", "event", "time", description="licks at the reward spout"),
        CovariateSpec("reward", "event", "time", role="task", description="water rewards, earned and given"),
        CovariateSpec(
            "go_trial",
            "categorical",
            "trial",
            num_classes=2,
            role="task",
            description="1 change of image, 0 sham change",
        ),
        CovariateSpec(
            "response",
            "categorical",
            "trial",
            num_classes=2,
            description="1 licked after the change or sham change, 0 did not; aborted trials are not observed",
        ),
        CovariateSpec(
            "outcome",
            "categorical",
            "trial",
            num_classes=4,
            description="0 hit, 1 miss, 2 false alarm, 3 correct reject",
        ),
        CovariateSpec(
            "initial_image",
            "categorical",
            "trial",
            num_classes=NUM_IMAGES,
            role="stimulus",
            description="image before the change, by the number in its name",
        ),
        CovariateSpec(
            "change_image",
            "categorical",
            "trial",
            num_classes=NUM_IMAGES,
            role="stimulus",
            description="image after the change, by the number in its name",
        ),
    )
}


def behavior_covariates(file: h5py.File, span: tuple[float, float], tally: Tally) -> dict[str, Covariate]:
    """Running speed, pupil, licks and rewards, as far as the file has them.

    Args:
        file: Open NWB file.
        span: First and last spike, s; a clock of which most lies outside is refused.
        tally: Counts samples left out.

    Raises:
        ValueError: Another clock, or values and times of different lengths.
    """
    out = {}
    group = next((found for path in RUNNING if (found := node(file, path)) is not None), None)
    if group is not None:
        times, speed = read_series(group)
        check_clock(f"{file.filename}: {group.name}", times, span)
        out["running_speed"] = series(group.name, SPECS["running_speed"], times, speed, tally)
    for name, values in _pupil(file, tally).items():
        times, samples = values
        check_clock(f"{file.filename}: pupil", times, span)
        out[name] = series("pupil", SPECS[name], times, samples, tally)
    for name, path in EVENTS.items():
        group = node(file, path)
        if group is not None:
            times = series_times(group, len(node(group, "data")))
            check_clock(f"{file.filename}: {path}", times, span)
            out[name] = events(SPECS[name], times, tally)
    return out


def _pupil(file: h5py.File, tally: Tally) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times (s) and values of the pupil's covariates; NaN in blinks and where no ellipse was fitted.

    Both data sets store half the width and height of the ellipse; the area is that of the circle about it, as the
    AllenSDK computes it (`compute_circular_area`).
    """
    table, eye = node(file, ELLIPSES), node(file, EYE)
    if table is not None:
        fits = read_table(table, ("center_x", "center_y", "width", "height", "timestamps")).astype(float)
        # Older files keep the clock of the camera only with the gaze that was mapped from it.
        clock = node(file, "processing/raw_gaze_mapping/eye_area")
        if "timestamps" not in fits and clock is None:
            tally.add("pupil samples out: no clock", len(fits))
            return {}
        times = fits["timestamps"].to_numpy() if "timestamps" in fits else series_times(clock, len(fits))
        center = fits[["center_x", "center_y"]].to_numpy()
        half_width, half_height = fits["width"].to_numpy(), fits["height"].to_numpy()
        area = np.pi * np.maximum(half_width, half_height) ** 2
    elif eye is not None and node(eye, "pupil_tracking") is not None:
        pupil = node(eye, "pupil_tracking")
        times, center = read_series(pupil)
        half_width, half_height, area = (array(node(pupil, name)) for name in ("width", "height", "area"))
        blink = node(eye, "likely_blink/data")
        if blink is not None:
            closed = array(blink) > 0
            half_width, half_height, area = (np.where(closed, np.nan, v) for v in (half_width, half_height, area))
            center = np.where(closed[:, None], np.nan, center)
    else:
        return {}
    return {
        "pupil_area": (times, area),
        "pupil_width": (times, 2 * half_width),
        "pupil_height": (times, 2 * half_height),
        "pupil_position": (times, center),
    }


def change_detection_trials(file: h5py.File, tally: Tally) -> tuple[pd.DataFrame, dict[str, Covariate]]:
    """Trials of the change detection task and their covariates; aborted ones are kept and not usable.

    Args:
        file: Open NWB file with `intervals/trials`.
        tally: Counts trials.
    """
    flags = ("go", "catch", *OUTCOMES, "aborted", "auto_rewarded")
    times = ("change_time", "change_time_no_display_delay", "change_time_with_display_delay")
    names = ("initial_image_name", "change_image_name")
    source = read_table(node(file, "intervals/trials"), ("start_time", "stop_time", *flags, *times, *names))
    trials, rows = trial_table(source["start_time"].to_numpy(float), source["stop_time"].to_numpy(float), tally)
    source = source.iloc[rows].reset_index(drop=True)
    flag = {name: source[name].to_numpy(float) > 0 if name in source else np.zeros(len(rows), bool) for name in flags}
    for name in flags:
        trials[name] = flag[name]
    change = next((name for name in times if name in source), None)
    trials["change_time_s"] = source[change].to_numpy(float) if change else np.nan
    for name in names:
        trials[name] = source[name].astype(str) if name in source else ""
    trials["usable"] = ~flag["aborted"]
    tally.add("trials not usable: aborted", int(flag["aborted"].sum()))
    outcome = np.full(len(rows), -1)
    for k, name in enumerate(OUTCOMES):
        outcome[flag[name]] = k
    licked = np.array([1, 0, 1, 0, -1])[outcome]
    values = {
        "go_trial": np.where(flag["go"], 1, np.where(flag["catch"], 0, -1)),
        "response": licked,
        "outcome": outcome,
        "initial_image": np.array([image_number(n) for n in trials["initial_image_name"]], dtype=int),
        "change_image": np.array([image_number(n) for n in trials["change_image_name"]], dtype=int),
    }
    return trials, {name: Covariate.categorical(SPECS[name], v) for name, v in values.items()}
