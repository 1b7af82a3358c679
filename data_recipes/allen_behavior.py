"""Running, pupil, licks, rewards, light and trials of the Allen Neuropixels sessions; no spikes, nothing on the screen.

Visual Coding and Visual Behavior hold these in different places; what a file has not is not in the recording.
"""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd

from data_recipes.allen_presentations import image_number
from data_recipes.allen_stimuli import NUM_IMAGES
from data_recipes.cleaning import Tally, check_clock, events, numbers, series, trial_table
from data_recipes.nwb_file import array, node, read_series, read_table, series_times
from foundation.recording import Covariate, CovariateSpec

RUNNING = ("processing/running/running_speed", "processing/running/speed")
ELLIPSES = "processing/eye_tracking/pupil_ellipse_fits"
EYE = "acquisition/EyeTracking"
EVENTS = {"lick": "processing/licking/licks", "reward": "processing/rewards/volume"}
_FITS = ("center_x", "center_y", "width", "height")
LIGHT = "processing/optotagging/optogenetic_stimulation"
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
            "opto_level",
            "continuous",
            "time",
            resample="last",
            unit="V",
            role="stimulus",
            description="light on the brain (optotagging) by the input of its source, 0 without; it makes spikes",
        ),
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
    """Running speed, pupil, licks, rewards and light, as far as the file has them.

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
        out["running_speed"] = series(f"{file.filename}: {group.name}", SPECS["running_speed"], times, speed, tally)
    for name, values in _pupil(file, tally).items():
        times, samples = values
        check_clock(f"{file.filename}: pupil", times, span)
        out[name] = series(f"{file.filename}: pupil", SPECS[name], times, samples, tally)
    for name, path in EVENTS.items():
        group = node(file, path)
        if group is not None:
            times = read_series(group)[0]
            check_clock(f"{file.filename}: {path}", times, span)
            out[name] = events(SPECS[name], times, tally)
    if (group := node(file, LIGHT)) is not None:
        out["opto_level"] = _light(group, span, tally)
    return out


def _light(group: h5py.Group, span: tuple[float, float], tally: Tally) -> Covariate:
    """The level that holds from the start of each pulse to its stop, 0 elsewhere."""
    where, table = f"{group.file.filename}: {group.name}", read_table(group, ("start_time", "stop_time", "level"))
    start, stop, level = (numbers(where, table, name) for name in ("start_time", "stop_time", "level"))
    check_clock(where, start, span)
    with np.errstate(invalid="ignore"):
        kept = tally.keep(
            "light pulses", len(table), {"bounds not rising": ~((start < stop) & np.isfinite(stop - start))}
        )
    times = np.concatenate([[span[0]], stop[kept], start[kept]])
    values = np.concatenate([np.zeros(1 + int(kept.sum())), level[kept]])
    order = np.argsort(times, kind="stable")
    return series(where, SPECS["opto_level"], times[order], values[order], tally)


def _pupil(file: h5py.File, tally: Tally) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times (s) and values of the pupil's covariates; NaN in blinks and where no ellipse was fitted.

    Both data sets store half the width and height of the ellipse; the area is that of the circle about it, as the
    AllenSDK computes it (`compute_circular_area`).
    """
    table, eye = node(file, ELLIPSES), node(file, EYE)
    if table is not None:
        fits = read_table(table, (*_FITS, "timestamps"))
        fits = pd.DataFrame({n: numbers(f"{file.filename}: {ELLIPSES}", fits, n) for n in (*_FITS, *fits.columns)})
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
        half_width, half_height, area = (_vector(pupil, name, times) for name in ("width", "height", "area"))
        if node(eye, "likely_blink") is not None:
            closed = _vector(node(eye, "likely_blink"), "data", times) > 0
            if center.shape != (len(times), 2):
                raise ValueError(f"{file.filename}: {pupil.name}: data {center.shape}, expected x and y")
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


def _vector(group: h5py.Group, name: str, times: np.ndarray) -> np.ndarray:
    """Numbers `(T,)` that belong to the times `(T,)`."""
    data = node(group, name)
    where = f"{group.file.filename}: {group.name}/{name}"
    if data is None:
        raise ValueError(f"{where} is not there, expected a number for each of {len(times)} times")
    values = array(data)
    if values.shape != times.shape or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: {values.dtype} of shape {values.shape}, expected a number for each of {times.shape}"
        )
    return values


def change_detection_trials(
    file: h5py.File, span: tuple[float, float], tally: Tally
) -> tuple[pd.DataFrame, dict[str, Covariate]]:
    """Trials of the change detection task and their covariates; aborted ones are kept and not usable.

    Args:
        file: Open NWB file with `intervals/trials`.
        span: First and last spike, s.
        tally: Counts trials.

    Raises:
        ValueError: Another clock, or a column that does not hold numbers.
    """
    flags = ("go", "catch", *OUTCOMES, "aborted", "auto_rewarded")
    times = ("change_time", "change_time_no_display_delay", "change_time_with_display_delay")
    names = ("initial_image_name", "change_image_name")
    source = read_table(node(file, "intervals/trials"), ("start_time", "stop_time", *flags, *times, *names))
    where = f"{file.filename}: intervals/trials"
    start, stop = (numbers(where, source, name) for name in ("start_time", "stop_time"))
    check_clock(where, start, span)
    trials, rows = trial_table(start, stop, tally)
    source = source.iloc[rows].reset_index(drop=True)
    flag = {n: numbers(where, source, n) > 0 if n in source else np.zeros(len(rows), bool) for n in flags}
    for name in flags:
        trials[name] = flag[name]
    change = next((name for name in times if name in source), None)
    trials["change_time_s"] = numbers(where, source, change) if change else np.nan
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
