"""What the cameras of an IBL session measured: motion energy, paws, pupil; knows no trials and no wheel."""

from __future__ import annotations

import numpy as np

from data_recipes.cleaning import Tally, check_clock, numbers, series
from data_recipes.ibl_files import SessionFiles
from foundation.recording import Covariate, CovariateSpec

# Below this likelihood a tracked point counts as not seen, as in brainbox.io.one.SessionLoader.load_pose.
MIN_LIKELIHOOD = 0.9
# In the image of either side camera paw_r is the paw that is near and paw_l the one that
# is far, as in `check_paw_close_nan` of `ibllib.qc.dlc`; they are not the mouse's right and left.
_PAWS = {"paw_r": "paw_near", "paw_l": "paw_far"}


def camera_covariates(
    files: SessionFiles, camera: str, first: bool, pose: bool, end_s: float, tally: Tally
) -> tuple[dict[str, Covariate], list[str]]:
    """The covariates of one camera, and what is missing.

    More times than frames: the first times are left out, since a video may start late (as SessionLoader). Fewer times
    than frames: which frame is which cannot be told, the data are left out and counted.

    Args:
        files: Of the session.
        camera: `left`, `right` or `body`.
        first: Whether covariates go without the camera's name.
        pose: Whether to read paws and pupil.
        end_s: Last spike, seconds.
        tally: Counts frames and samples left out.

    Raises:
        ValueError: Times that lie outside the recording.
    """
    name = f"{camera}Camera"
    if f"{name}.times" not in files:
        return {}, [f"{camera} camera"]
    times = files.array(f"{name}.times").astype(np.float64)
    check_clock(f"{files.folder}: {name}", times, (0.0, end_s))
    suffix = "" if first else f"_{camera}"
    made: list[tuple[CovariateSpec, np.ndarray]] = []
    missing = []
    if f"{name}.ROIMotionEnergy" in files:
        made.append((_energy_spec(camera, suffix), files.array(f"{name}.ROIMotionEnergy").astype(np.float64)))
    else:
        missing.append(f"motion energy of the {camera} camera")
    if pose and camera != "body":
        found = _paws(files, name, camera, suffix)
        there = {spec.name for spec, _ in found}
        missing += [f"{paw} of the {camera} camera" for paw in _PAWS.values() if f"{paw}{suffix}" not in there]
        made += found
        pupil = _pupil(files, name, camera, suffix)
        missing += [] if pupil else [f"pupil of the {camera} camera"]
        made += pupil
    covariates = {}
    for spec, values in made:
        extra = len(times) - len(values)
        if extra < 0 or not len(values):
            tally.add(f"{spec.name} frames out: fewer times than frames", len(values))
            missing.append(f"{spec.name} ({len(times)} times, {len(values)} frames)")
            continue
        tally.add(f"{spec.name} times out: more times than frames", extra)
        clock = times[extra:]
        if spec.name.endswith("_speed"):
            with np.errstate(invalid="ignore", divide="ignore"):
                step = np.linalg.norm(np.diff(values, axis=0, prepend=np.nan), axis=1)
                elapsed = np.diff(clock, prepend=np.nan)
                values = np.where(elapsed > 0, step / elapsed, np.nan)
        covariates[spec.name] = series(f"{files.folder}: {name}", spec, clock, values, tally)
    return covariates, missing


def _energy_spec(camera: str, suffix: str) -> CovariateSpec:
    if camera == "body":
        return CovariateSpec(
            "body_energy", "continuous", "time", unit="a.u.", description="motion energy of the body, body camera"
        )
    return CovariateSpec(
        f"whisker_energy{suffix}",
        "continuous",
        "time",
        unit="a.u.",
        description=f"motion energy of the whisker pad, {camera} camera",
    )


def _paws(files: SessionFiles, name: str, camera: str, suffix: str) -> list[tuple[CovariateSpec, np.ndarray]]:
    """Positions `(F, 2)` of the paws, twice: as they are, and to become speeds once the clock is known."""
    tracker = next((t for t in ("lightningPose", "dlc") if f"{name}.{t}" in files), None)
    if tracker is None:
        return []
    table, made = files.table(f"{name}.{tracker}"), []
    for source, paw in _PAWS.items():
        columns = [f"{source}_{part}" for part in ("x", "y", "likelihood")]
        if not set(columns) <= set(table.columns):
            continue
        path = str(files.folder / files.paths[f"{name}.{tracker}"])
        values = np.column_stack([numbers(path, table, column) for column in columns])
        seen = values[:, 2] >= MIN_LIKELIHOOD
        position = np.where(seen[:, None], values[:, :2], np.nan)
        about = f"the {paw.removeprefix('paw_')} paw ({source}) in the image of the {camera} camera, by {tracker}"
        made += [
            (
                CovariateSpec(
                    f"{paw}{suffix}", "continuous", "time", dim=2, unit="px", description=f"position of {about}"
                ),
                position,
            ),
            (
                CovariateSpec(
                    f"{paw}{suffix}_speed", "continuous", "time", unit="px/s", description=f"speed of {about}"
                ),
                position,
            ),
        ]
    return made


def _pupil(files: SessionFiles, name: str, camera: str, suffix: str) -> list[tuple[CovariateSpec, np.ndarray]]:
    if f"{name}.features" not in files:
        return []
    table = files.table(f"{name}.features")
    if "pupilDiameter_smooth" not in table:
        return []
    about = f"smoothed diameter of the pupil, {camera} camera"
    spec = CovariateSpec(f"pupil_diameter{suffix}", "continuous", "time", unit="px", description=about)
    path = str(files.folder / files.paths[f"{name}.features"])
    return [(spec, numbers(path, table, "pupilDiameter_smooth"))]
