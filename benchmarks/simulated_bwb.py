"""Sessions in the shape in which the recipe `brainsets` leaves those of Brain-Wide Bench, for tests and timings.

`bench_session` fires at random; `planted` replaces its spikes by ones that follow behavior and a common latent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from eval.bwb_tasks import COSMOS
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingInfo

SESSION = "5ec72172-3901-4771-8777-6e9490ca51fc"
_STEP_S = 0.02


def bench_session(
    session: str = SESSION, subject: str = "KS014", seed: int = 0, *, evaluated: bool = True
) -> Recording:
    """A session in the shape in which the recipe leaves one: 40 trials of 5 s, 10 units of all regions, every task."""
    rng = np.random.default_rng(seed)
    num, start = 40, 5.0 + 5.0 * np.arange(40)
    side, contrast = rng.integers(0, 2, num), rng.integers(0, 5, num)
    stim, move, feedback = start + 1.1, start + 1.1 + rng.uniform(0.1, 0.4, num), start + 1.9
    right = np.where(rng.random(num) < 0.6 + 0.08 * contrast, side, 1 - side)
    spec: dict[str, Any] = {"scope": "trial", "kind": "categorical"}
    grid = np.arange(0, 215 * 50) / 50 + 1.0037
    stop = start[-1] + 5
    speed = np.abs(np.convolve(rng.normal(size=len(grid)), np.ones(9) / 3, "same"))
    after = grid - move[np.clip(move.searchsorted(grid) - 1, 0, None)]
    speed += 2 * np.exp(-np.abs(after - 0.3) / 0.2)
    traces = {"wheel_speed": speed, "whisker_energy": 100 + 20 * speed, "left_paw_speed": 7 * speed}
    traces |= {"right_paw_speed": 5 * speed[::-1], "licking_rate": 50.0 * rng.poisson(0.15, len(grid))}
    units = 10
    rates = rng.uniform(3, 15, units)
    times = [np.sort(rng.uniform(1, stop + 1, rng.poisson(rate * stop))) for rate in rates]
    spikes, owner = np.concatenate(times), np.repeat(np.arange(units), [len(t) for t in times])
    order = np.argsort(spikes, kind="stable")
    covariates = {
        "choice": Covariate.categorical(CovariateSpec("choice", num_classes=2, **spec), right),
        "feedback": Covariate.categorical(CovariateSpec("feedback", num_classes=2, **spec), (right == side) * 1),
        "stimulus_side": Covariate.categorical(CovariateSpec("stimulus_side", num_classes=2, **spec), side),
        "stimulus_contrast": Covariate.categorical(CovariateSpec("stimulus_contrast", num_classes=5, **spec), contrast),
        "block": Covariate.categorical(CovariateSpec("block", num_classes=3, **spec), np.arange(num) // 14),
        "stimulus_on": Covariate.events(CovariateSpec("stimulus_on", "event", "time"), stim),
        "movement_onset": Covariate.events(CovariateSpec("movement_onset", "event", "time"), move),
        "feedback_onset": Covariate.events(CovariateSpec("feedback_onset", "event", "time"), feedback),
    }
    for name, values in traces.items():
        made = Covariate.continuous(CovariateSpec(name, "continuous", "time"), values, grid)
        seen = rng.random(len(grid)) < 0.8 if "paw" in name else np.ones(len(grid), bool)
        covariates[name] = replace(made, observed=seen)
    windows = {"stimulus_contrast": stim - 0.9, "choice": move - 1, "reward": feedback, "licking_window": feedback}
    table = {"start_s": start, "stop_s": start + 5, "usable": True, "source_index": np.arange(num)}
    table |= {"trial_index": np.arange(num)}
    for name, at in (windows | {"movement_window": move}).items():
        missing = np.where(np.arange(num) == 33, np.nan, at)  # a trial that is not valid
        table |= {f"window_{name}_start_s": missing, f"window_{name}_stop_s": missing + 1}
    for paw in ("left", "right"):
        table[f"window_movement_window_num_{paw}_paw_confident"] = np.where(np.arange(num) == 30, 0.0, 40.0)
    splits = {
        "ts1": {"train": [[0, 90]], "val": [[90, 140]], "test": [[140, stop]]},
        "ts2": {"train": [[0, 60], [100, 130]], "val": [[135, 160]], "test": [[65, 95], [180, stop]]},
    }
    return Recording(
        info=RecordingInfo(
            f"bwb/{session}",
            subject,
            "brainsets 1",
            notes="build: selected_units",
            splits=splits if evaluated else {"pretrain": {"train": [[0, 200]], "val": [[200, stop]]}},
        ),
        spike_times=spikes[order],
        spike_units=owner[order].astype(np.int32),
        units=pd.DataFrame(
            {
                "unit_id": [f"bwb/{session}/pid/{k}" for k in range(units)],
                "source_id": [f"uuid-{k:04d}" for k in range(units)],
                "region": "VISp",
                "region_cosmos": [*COSMOS[:7], "root", *COSMOS[8:]],
                "probe_id": ["pid-0"] * 6 + ["pid-1"] * 4,
                "depths": 20.0 * np.arange(units),
                "qc_neural": ["PASS"] * 8 + ["WARNING"] * 2,
                "qc_neural_alignment": "PASS",
                "label": 1.0,
                "firing_rate": rates,
                "ts2_co_smoothing_is_held_out_test": np.arange(units) % 4 == 1,
                "ts2_co_smoothing_is_held_out_val": np.arange(units) % 4 == 2,
            }
        ),
        trials=pd.DataFrame(table),
        domain=np.array([[0.5, stop + 1.5]]),
        covariates=covariates,
    ).validate()


def planted(recording: Recording, seed: int = 0) -> Recording:
    """The session with spikes of some 10 to 60 Hz that follow wheel speed, licks, the coming choice, and a latent.

    Every unit follows the latent, which is independent of behavior; later rows of the units table fire more.
    """
    rng = np.random.default_rng([seed, 1])
    units = recording.num_units
    stop = float(recording.domain[-1, 1])
    time = np.arange(1.0, stop - 0.5, _STEP_S)

    def at(name: str) -> np.ndarray:
        covariate = recording.covariates[name]
        values = np.interp(time, np.asarray(covariate.times), covariate.values)
        return np.asarray((values - values.mean()) / values.std())

    latent = np.convolve(rng.normal(size=len(time)), np.exp(-np.arange(40) / 10), "same")
    onset = np.asarray(recording.covariates["movement_onset"].times)
    coming = np.clip(onset.searchsorted(time), 0, len(onset) - 1)
    near = (onset[coming] - time > 0) & (onset[coming] - time < 1)
    choice = near * (2.0 * recording.covariates["choice"].values[coming] - 1)
    signals = np.stack([latent / latent.std(), at("wheel_speed"), at("licking_rate"), choice])
    weights = rng.normal(0, [[0.1], [0.6], [0.4], [0.4]], (4, units))
    weights[0] += 0.5
    base = 10 * (60 / 10) ** (np.arange(units) / (units - 1))
    counts = rng.poisson(np.minimum(base * np.exp((weights.T @ signals).T - 0.4), 150) * _STEP_S)
    row, unit = np.nonzero(counts)
    many = counts[row, unit]
    times = np.repeat(time[row], many) + rng.uniform(0, _STEP_S, many.sum())
    order = np.argsort(times, kind="stable")
    return replace(
        recording,
        spike_times=times[order],
        spike_units=np.repeat(unit, many)[order].astype(np.int32),
        units=recording.units.assign(firing_rate=counts.sum(axis=0) / (len(time) * _STEP_S)),
    ).validate()
