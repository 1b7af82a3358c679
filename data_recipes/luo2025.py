"""Rat Neuropixels during Poisson-clicks decisions: the public `.mat` files of Luo, Kim et al. 2025.

Source: github.com/Brody-Lab/decision_dynamics_commitment, `data/processed_data/recordings/` (Apache-2.0); paper
PMID 37904994, raw data doi:10.5061/dryad.sj3tx96dm. The files hold spike counts in 10-ms bins from the stereo click of
each trial to just before movement (at most 1 s), so spikes stand at bin centers, the domain is the union of the trials,
and bins must be whole multiples of 10 ms.

Kept as they are: every trial, in stored order. Photostimulation trials (T240) are kept and marked unusable. Not kept:
`baseline_hz` and `neuronindex`, which the evaluation protocol does not allow as inputs. Region labels are in the units
table, where no model reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
from scipy.io.matlab import MatReadError

from foundation.recording import Covariate, CovariateSpec, Recording, RecordingInfo

VERSION = 1
BIN_S = 0.01

SPECS = {
    spec.name: spec
    for spec in (
        CovariateSpec("click_left", "event", "time", role="stimulus", description="clicks from the left speaker"),
        CovariateSpec("click_right", "event", "time", role="stimulus", description="clicks from the right speaker"),
        CovariateSpec(
            "evidence",
            "continuous",
            "time",
            resample="last",
            unit="clicks",
            role="behavior",
            description="running number of right minus left clicks since the stereo click, at the end of the bin",
        ),
        CovariateSpec("choice", "categorical", "trial", num_classes=2, description="0 left, 1 right"),
        CovariateSpec(
            "previous_answer",
            "continuous",
            "trial",
            role="task",
            description="correct side of the previous trial: -1 left, 1 right, 0 none",
        ),
        CovariateSpec(
            "gamma", "continuous", "trial", role="stimulus", description="log ratio of right to left click rates"
        ),
    )
}


def sessions(source: str | Path | None) -> dict[str, dict[str, Any]]:
    """The `.mat` files of a folder.

    Raises:
        ValueError: `source` is not a folder.
    """
    if source is None or not Path(source).is_dir():
        raise ValueError(f"luo2025: --source is {source}, expected the folder of the .mat files")
    return {f"luo2025/{path.stem}": {"path": str(path)} for path in sorted(Path(source).glob("*.mat"))}


def read(path: str) -> Recording:
    """Read one session.

    Args:
        path: `<rat>_<yyyy_mm_dd>[letter].mat`.

    Raises:
        ValueError: A field is missing or counts and trial lengths disagree.
    """
    name = Path(path).stem
    try:
        # squeeze_me turns a single click into a scalar; np.atleast_1d below undoes that.
        raw = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
        trials, neurons = np.atleast_1d(raw["trials"]), np.atleast_1d(raw["neurons"])
    except (KeyError, ValueError, TypeError, NotImplementedError, OSError, MatReadError) as error:
        raise ValueError(f"{path}: not a luo2025 recording ({error}); expected a MATLAB v5 file") from error
    start = np.array([trial.stereoclick_time_s for trial in trials], dtype=float)
    steps = np.array([trial.ntimesteps for trial in trials], dtype=int)
    times, units = _spikes(path, trials, start, steps, len(neurons))
    photostimulus = np.array(
        [np.isfinite([t.photostimulus_incline_on_s, t.photostimulus_decline_on_s]).any() for t in trials]
    )
    table = pd.DataFrame(
        {
            "start_s": start,
            "stop_s": start + steps * BIN_S,
            "usable": ~photostimulus,
            "source_index": np.arange(len(trials)),
            "movement_time_s": np.array([t.movementtime_s for t in trials], dtype=float),
        }
    )
    region = [str(neuron.brainarea) for neuron in neurons]
    return Recording(
        info=RecordingInfo(
            recording_id=f"luo2025/{name}",
            subject_id=name.split("_")[0],
            recipe=f"luo2025 {VERSION}",
            source=f"{Path(path).name}, Brody-Lab/decision_dynamics_commitment; PMID 37904994",
            licence="Apache-2.0",
            min_bin_size_s=BIN_S,
            species="rat",
            notes=f"{int(photostimulus.sum())} photostimulation trials marked unusable",
        ),
        spike_times=times,
        spike_units=units,
        units=pd.DataFrame({"unit_id": [f"luo2025/{name}/probe/{i}" for i in range(len(neurons))], "region": region}),
        trials=table,
        domain=table[["start_s", "stop_s"]].to_numpy(),
        covariates=_covariates(trials, start),
    )


def _spikes(
    path: str, trials: np.ndarray, start: np.ndarray, steps: np.ndarray, num_units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Spike times at bin centers, sorted, and unit rows."""
    times, units = [], []
    for k, trial in enumerate(trials):
        trains = [trial.spiketrains] if num_units == 1 else trial.spiketrains
        counts = np.stack([np.atleast_1d(train) for train in trains], axis=1).astype(np.int64)
        if counts.shape != (steps[k], num_units):
            raise ValueError(f"{path}: trial {k}: counts {counts.shape}, expected {(int(steps[k]), num_units)}")
        bins, rows = np.nonzero(counts)
        repeat = counts[bins, rows]
        times.append(np.repeat(start[k] + (bins + 0.5) * BIN_S, repeat))
        units.append(np.repeat(rows, repeat))
    return np.concatenate(times), np.concatenate(units).astype(np.int32)


def _covariates(trials: np.ndarray, start: np.ndarray) -> dict[str, Covariate]:
    left = [np.atleast_1d(t.clicktimes.L).astype(float) + s for t, s in zip(trials, start)]
    right = [np.atleast_1d(t.clicktimes.R).astype(float) + s for t, s in zip(trials, start)]
    times, evidence = [], []
    for k, begin in enumerate(start):
        clicks = np.concatenate([[begin], left[k], right[k]])
        steps = np.concatenate([[0], -np.ones(len(left[k])), np.ones(len(right[k]))])
        order = np.argsort(clicks, kind="stable")
        times.append(clicks[order])
        evidence.append(np.cumsum(steps[order]))
    return {
        "click_left": Covariate.events(SPECS["click_left"], np.concatenate(left)),
        "click_right": Covariate.events(SPECS["click_right"], np.concatenate(right)),
        "evidence": Covariate.continuous(SPECS["evidence"], np.concatenate(evidence), np.concatenate(times)),
        "choice": Covariate.categorical(SPECS["choice"], np.array([t.choice for t in trials])),
        "previous_answer": Covariate.continuous(
            SPECS["previous_answer"], np.array([t.previousanswer for t in trials], dtype=float)
        ),
        "gamma": Covariate.continuous(SPECS["gamma"], np.array([t.gamma for t in trials], dtype=float)),
    }
