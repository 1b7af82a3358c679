"""What an IBL mouse did, in time: wheel, licks, and what the cameras measured; knows no trials and no spikes.

What a session does not have stays away; nothing is filled with zeros.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, sosfiltfilt

from data_recipes.cleaning import Tally, check_clock, events, series
from data_recipes.ibl_files import SessionFiles
from data_recipes.ibl_video import camera_covariates
from foundation.recording import Covariate, CovariateSpec

CAMERAS = ("left", "right", "body")
# Wheel: as brainbox.io.one.SessionLoader.load_wheel, of which every fifth sample is kept (200 Hz, above twice 20 Hz).
WHEEL_HZ, WHEEL_EVERY, WHEEL_CORNER_HZ, WHEEL_ORDER = 1000, 5, 20, 8
# The encoder is silent while the wheel rests. Only a pause that ends elsewhere than it began has lost samples.
WHEEL_GAP_S, WHEEL_GAP_RAD, WHEEL_GAP_MARGIN_S = 0.1, 0.05, 0.1
# More than the encoder counts between two samples, and faster than mice turn the wheel.
WHEEL_JUMP_RAD, WHEEL_MAX_RAD_S = 1.0, 100.0
# Samples further than this from the spikes are left out: one wrong time would be interpolated to for hours, or years.
WHEEL_MARGIN_S = 600.0

SPECS = {
    spec.name: spec
    for spec in (
        CovariateSpec(
            "wheel_velocity",
            "continuous",
            "time",
            unit="rad/s",
            description="angular velocity of the wheel, low-passed at 20 Hz; counterclockwise is positive",
        ),
        CovariateSpec(
            "wheel_speed", "continuous", "time", unit="rad/s", description="absolute angular velocity of the wheel"
        ),
        CovariateSpec("lick", "event", "time", description="licks at the spout, from the videos"),
    )
}


def read_behavior(
    files: SessionFiles, cameras: list[str], pose: bool, end_s: float, tally: Tally
) -> tuple[dict[str, Covariate], list[str]]:
    """The covariates in time, and what is missing.

    Args:
        files: Of the session.
        cameras: The first of them gives `whisker_energy`, others `whisker_energy_<camera>`; `body` gives `body_energy`.
        pose: Whether paws and pupil are read.
        end_s: Last spike; clocks that lie beyond are refused.
        tally: Counts samples left out.
    """
    covariates, missing = _wheel(files, end_s, tally)
    for number, camera in enumerate(cameras):
        found, absent = camera_covariates(files, camera, number == 0, pose, end_s, tally)
        covariates.update(found)
        missing += absent
    if "licks.times" in files:
        times = files.array("licks.times").astype(np.float64)
        check_clock(f"{files.folder}: licks", times, (0.0, end_s))
        covariates["lick"] = events(SPECS["lick"], times, tally)
    else:
        missing.append("licks")
    return covariates, missing


def _wheel(files: SessionFiles, end_s: float, tally: Tally) -> tuple[dict[str, Covariate], list[str]]:
    """Velocity and speed of the wheel at 200 Hz; not observed where samples were lost."""
    if "wheel.timestamps" not in files or "wheel.position" not in files:
        return {}, ["wheel"]
    where = f"{files.folder}: wheel"
    times = files.array("wheel.timestamps").astype(np.float64)
    position = files.array("wheel.position").astype(np.float64)
    if times.shape != position.shape:
        raise ValueError(f"{where}: timestamps {times.shape} and positions {position.shape}, expected one length")
    check_clock(where, times, (0.0, end_s))
    kept = np.isfinite(times) & np.isfinite(position)
    tally.add("wheel samples out: not finite", int((~kept).sum()))
    times, position = times[kept], position[kept]
    near = (times > -WHEEL_MARGIN_S) & (times < end_s + WHEEL_MARGIN_S)
    tally.add("wheel samples out: far from the spikes", int((~near).sum()))
    times, position = times[near], position[near]
    tally.add("wheel samples out of order", int((times[1:] < times[:-1]).sum()))
    times, first = np.unique(times, return_index=True)
    tally.add("wheel samples out: same time as another", len(position) - len(first))
    position = position[first]
    # The filter needs some periods of its corner frequency.
    if len(times) < 2 or times[-1] - times[0] < 10 / WHEEL_CORNER_HZ:
        return {}, [f"wheel ({len(times)} samples)"]
    step = np.diff(position)
    jumps = np.abs(step) > WHEEL_JUMP_RAD
    lost = ((np.diff(times) > WHEEL_GAP_S) & (np.abs(step) > WHEEL_GAP_RAD)) | jumps
    tally.add("wheel gaps", int(lost.sum()))
    if jumps.any():
        # The filter would ring with them for seconds.
        position = np.append(0.0, np.cumsum(np.where(jumps, 0.0, step)))
    clock, velocity = wheel_velocity(times, position)
    if (np.abs(velocity) > WHEEL_MAX_RAD_S).mean() > 1e-3:
        raise ValueError(
            f"{where}: turns at {np.abs(velocity).max():.3g} rad/s, expected below {WHEEL_MAX_RAD_S:g}. Are positions "
            "in degrees or ticks? Give rad"
        )
    for start, stop in zip(times[:-1][lost], times[1:][lost]):
        lo, hi = clock.searchsorted((start - WHEEL_GAP_MARGIN_S, stop + WHEEL_GAP_MARGIN_S))
        velocity[lo:hi] = np.nan
    return {
        "wheel_velocity": series(where, SPECS["wheel_velocity"], clock, velocity, tally),
        "wheel_speed": series(where, SPECS["wheel_speed"], clock, np.abs(velocity), Tally()),
    }, []


def wheel_velocity(times: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and velocities (rad/s) at 200 Hz from the irregular samples of the encoder.

    Linear interpolation to 1 kHz, zero-phase Butterworth low-pass (20 Hz, order 8), difference: the numbers of
    `interpolate_position` and `velocity_filtered` of `brainbox.behavior.wheel`, whose import takes seconds.

    Args:
        times: `(M,)` seconds, increasing.
        position: `(M,)` rad.
    """
    clock = np.arange(times[0], times[-1], 1 / WHEEL_HZ)
    low_pass = butter(WHEEL_ORDER, 2 * WHEEL_CORNER_HZ / WHEEL_HZ, output="sos")
    velocity = np.diff(sosfiltfilt(low_pass, np.interp(clock, times, position)), prepend=np.nan) * WHEEL_HZ
    velocity[0] = 0.0
    return clock[::WHEEL_EVERY], velocity[::WHEEL_EVERY].copy()
