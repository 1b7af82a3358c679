"""Simulated animals doing an IBL-like task, with the truth kept; says nothing about how real neurons are tuned.

The animals and their behavior are those of `data_recipes.simulated_task`. Each unit fires as an inhomogeneous Poisson
process whose log rate is a random mixture of latents: five of the task and two private to its region, all at the scale
of real single trials. Every animal has its own mixture, all share the dynamics.

A region shows in what its units couple to (`COUPLING`) and in the time course of its private latents (`DYNAMICS`), and
not in firing rates: those are drawn from one distribution, and each unit's mean is set after its modulation is known.
`truth` returns latents, loadings and rates. They are in no recording, where a model could read them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_recipes.simulated_task import (
    STEP_S,
    TASK_LATENTS,
    measured_behavior,
    oscillator,
    simulate_trials,
    task_latents,
)
from foundation.recording import Recording, RecordingInfo

VERSION = 1

# Standard deviation of the loadings on each task latent.
COUPLING = {
    "VISp": (0.9, 0.05, 0.2, 0.0, 0.25),
    "CA1": (0.0, 0.05, 0.3, 0.3, 0.25),
    "MOs": (0.1, 0.35, 0.6, 0.2, 0.25),
    "TH": (0.3, 0.05, 0.8, 0.0, 0.35),
}
# Decay time in seconds and frequency in Hz of the two latents private to a region.
DYNAMICS = {"VISp": (0.04, 0.0), "CA1": (0.5, 7.0), "MOs": (0.6, 0.0), "TH": (0.25, 12.0)}
PRIVATE_COUPLING = 0.5
DRIFT_SD = 0.15


def sessions(
    source: str | Path | None = None,
    *,
    num_subjects: int = 6,
    sessions_per_subject: int = 1,
    num_units: int = 40,
    num_trials: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The sessions of some simulated animals.

    Args:
        source: Must be None; nothing is read.
        num_subjects: Animals, named `animal00`, `animal01`...
        sessions_per_subject: Sessions of each; every session has units of its own.
        num_units: Units of a session, plus or minus 40 %, at least 8.
        num_trials: Trials of a session, about 3 s each.
        seed: Another seed, other animals.

    Raises:
        ValueError: A source, or a number that is not positive.
    """
    if source is not None:
        raise ValueError(f"synthetic: got source {source}, expected none; nothing is read, leave it out")
    sizes = {
        "num_subjects": num_subjects,
        "sessions_per_subject": sessions_per_subject,
        "num_units": num_units,
        "num_trials": num_trials,
    }
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"synthetic: {name} is {size!r}, expected a whole number of at least 1")
    return {
        f"synthetic/animal{subject:02d}_{session}": {
            "subject": subject,
            "session": session,
            "num_units": num_units,
            "num_trials": num_trials,
            "seed": seed,
        }
        for subject in range(num_subjects)
        for session in range(sessions_per_subject)
    }


def read(subject: int, session: int, num_units: int, num_trials: int, seed: int) -> Recording:
    """Simulate one session; arguments as made by `sessions`."""
    world = truth(subject, session, num_units, num_trials, seed)
    rng = _streams(subject, session, seed)["spikes"]
    times, units = draw_spikes(world["rates_hz"], STEP_S, rng)
    name = f"animal{subject:02d}_{session}"
    num = len(world["regions"])
    return Recording(
        info=RecordingInfo(
            recording_id=f"synthetic/{name}",
            subject_id=f"animal{subject:02d}",
            recipe=f"synthetic {VERSION}",
            source=f"simulated, seed {seed}",
            licence="Apache-2.0",
            species="simulated mouse",
        ),
        spike_times=times,
        spike_units=units,
        units=pd.DataFrame(
            {"unit_id": [f"synthetic/{name}/probe00/{i}" for i in range(num)], "region": world["regions"]}
        ),
        trials=world["trials"],
        domain=np.array([[0.0, len(world["rates_hz"]) * STEP_S]]),
        covariates=world["covariates"],
    )


def truth(subject: int, session: int, num_units: int, num_trials: int, seed: int) -> dict[str, Any]:
    """What `read` draws the spikes of a session from; same arguments, same result.

    Returns:
        `step_s`; `latent_names` (K); `latents` (T, K) float32 at the steps of the session; `loadings` (K, N);
        `log_rate_drift` (T, N) float32; `rates_hz` (T, N) float32; `regions` (N); and the `trials` and `covariates` of
        the recording.
    """
    rngs = _streams(subject, session, seed)
    trials, paths = simulate_trials(num_trials, rngs["task"])
    num_steps = int(np.ceil((trials["stop_s"].iloc[-1] + 1.0) / STEP_S))
    latents, names = _latents(task_latents(trials, paths, num_steps, rngs["latents"]), rngs["latents"])
    regions, loadings = _loadings(num_units, names, rngs["units"])
    drift = DRIFT_SD * _slow_drift(num_steps, len(regions), rngs["units"])
    modulation = np.exp(latents @ loadings + drift)
    # Median 6 Hz, from 1 to 30; dividing by the mean of the modulation keeps the mean rate free of the region.
    mean_hz = np.clip(np.exp(rngs["units"].normal(np.log(6), 0.8, len(regions))), 1, 30)
    rates = np.minimum(modulation * (mean_hz / modulation.mean(axis=0)), 200).astype(np.float32)
    return {
        "step_s": STEP_S,
        "latent_names": names,
        "latents": latents,
        "loadings": loadings,
        "log_rate_drift": drift,
        "rates_hz": rates,
        "regions": regions,
        "trials": trials.drop(columns=["contrast", "block", "choice", "belief"]),
        "covariates": measured_behavior(trials, latents, num_steps, rngs["behavior"]),
    }


def draw_spikes(rates_hz: np.ndarray, step_s: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Exact draw from independent Poisson processes with piecewise constant rates, by inverting the integrated rate.

    Args:
        rates_hz: `(T, N)`.
        step_s: Seconds per row.
        rng: Random generator.

    Returns:
        Sorted times `(K,)` float64 in seconds and units `(K,)` int32.
    """
    edges = step_s * np.arange(len(rates_hz) + 1)
    times = []
    for rate in rates_hz.T.astype(np.float64):
        integral = np.concatenate([[0.0], np.cumsum(rate) * step_s])
        times.append(np.interp(rng.uniform(0, integral[-1], rng.poisson(integral[-1])), integral, edges))
    units = np.repeat(np.arange(len(times), dtype=np.int32), [len(train) for train in times])
    every = np.concatenate(times)
    order = np.argsort(every, kind="stable")
    return every[order], units[order]


def _streams(subject: int, session: int, seed: int) -> dict[str, np.random.Generator]:
    names = ("task", "latents", "units", "behavior", "spikes")
    return dict(zip(names, np.random.default_rng([seed, subject, session]).spawn(len(names))))


def _latents(task: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """The task latents `(T, 5)` and two private to each region: `(T, K)` float32, and their names."""
    private = [oscillator(len(task), *DYNAMICS[region], rng) for region in DYNAMICS]
    parts = np.stack([part for pair in private for part in (pair.real, pair.imag)], axis=1)
    names = [*TASK_LATENTS, *(f"{region}_{part}" for region in DYNAMICS for part in (0, 1))]
    return np.concatenate([task, parts.astype(np.float32)], axis=1), names


def _slow_drift(num_steps: int, num_units: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth unit-variance wander of each unit `(T, N)` float32, a knot every 60 s."""
    knots = rng.normal(size=(int(num_steps * STEP_S / 60) + 2, num_units))
    where = STEP_S * np.arange(num_steps) / 60
    return np.stack([np.interp(where, np.arange(len(knots)), k) for k in knots.T], axis=1).astype(np.float32)


def _loadings(num_units: int, names: list[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Region of each unit `(N,)`, in random order, and loadings `(K, N)` float32."""
    num = max(8, round(num_units * rng.uniform(0.6, 1.4)))
    regions = rng.permutation(np.resize(list(COUPLING), num))
    scale = np.zeros((len(names), num))
    for region, task in COUPLING.items():
        here = regions == region
        scale[: len(task), here] = np.array(task)[:, None]
        scale[names.index(f"{region}_0"), here] = PRIVATE_COUPLING
        scale[names.index(f"{region}_1"), here] = PRIVATE_COUPLING
    return regions, (scale * rng.normal(size=scale.shape)).astype(np.float32)
