"""A simulated mouse in an IBL-like task: blocks, stimuli, decisions, movements and their measurement; no neurons.

The mouse expects sides from those it has seen, decides by drift to a bound that starts at its expectation, then turns a
wheel. `data_recipes.synthetic` gives it neurons.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from foundation.recording import Covariate, CovariateSpec

# Latents and rates are constant within a step.
STEP_S = 0.005
BEFORE_S, AFTER_S = 0.5, 1.5
CONTRASTS = np.array([0.0, 0.0625, 0.125, 0.25, 1.0])
P_LEFT = np.array([0.2, 0.5, 0.8])
TASK_LATENTS = ("stimulus", "evidence", "movement", "belief", "arousal")

SPECS = {
    spec.name: spec
    for spec in (
        CovariateSpec(
            "contrast",
            "continuous",
            "trial",
            role="stimulus",
            description="contrast of the grating, negative on the left",
        ),
        CovariateSpec(
            "block", "categorical", "trial", num_classes=3, role="task", description="p(left) is 0.2, 0.5, 0.8"
        ),
        CovariateSpec("choice", "categorical", "trial", num_classes=2, description="0 left, 1 right; no-go unobserved"),
        CovariateSpec("wheel_speed", "continuous", "time", unit="rad/s", description="speed of the wheel"),
        CovariateSpec(
            "whisker_energy", "continuous", "time", unit="a.u.", description="motion energy of the whisker pad"
        ),
        CovariateSpec("lick", "event", "time", description="licks, mostly at the reward"),
    )
}


def simulate_trials(num_trials: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Blocks, stimuli, decisions and times of the trials; and the decision variable from the stimulus on `(R, T)`."""
    block = np.ones(num_trials, int)
    first, side = min(90, num_trials // 4), rng.integers(2)
    while first < num_trials:
        length = int(np.clip(20 + rng.exponential(20), 20, 60))
        block[first : first + length] = 2 * side
        first, side = first + length, 1 - side
    sign = np.where(rng.uniform(size=num_trials) < P_LEFT[block], -1, 1)
    contrast = sign * rng.choice(CONTRASTS, num_trials)
    # What the mouse expects: a leaky average of the sides it has seen before this trial.
    belief = lfilter([0.0, 0.15], [1.0, -0.85], sign)
    paths, choice, reaction = _decide(3.5 * np.tanh(3 * contrast), 0.35 * belief, rng)
    stimulus = 1.0 + BEFORE_S + np.cumsum(BEFORE_S + AFTER_S + rng.uniform(0.3, 1.5, num_trials))
    correct = np.where(contrast != 0, np.sign(contrast), sign) == 2 * choice - 1
    table = pd.DataFrame(
        {
            "start_s": stimulus - BEFORE_S,
            "stop_s": stimulus + AFTER_S,
            "usable": True,
            "source_index": np.arange(num_trials),
            "stimulus_s": stimulus,
            "movement_s": stimulus + reaction,
            "rewarded": correct & (choice >= 0),
            "belief": belief,
            "contrast": contrast,
            "block": block,
            "choice": choice,
        }
    )
    return table, paths


def _decide(
    drift: np.ndarray, start: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drift to a bound at -1 or 1 within 1.2 s.

    Returns:
        Paths `(R, T)`, choices (-1 none, 0 left, 1 right) and reaction times (s, NaN for none).
    """
    noise, steps = 1.4, int(1.2 / STEP_S)
    moves = drift[:, None] * STEP_S + noise * np.sqrt(STEP_S) * rng.normal(size=(len(drift), steps))
    path = start[:, None] + np.cumsum(moves, axis=1)
    crossed = np.abs(path) >= 1
    reached, hit = crossed.any(axis=1), crossed.argmax(axis=1)
    at = np.where(reached, hit, steps - 1)
    end = np.sign(path[np.arange(len(path)), at])
    after = np.arange(steps) > at[:, None]
    path = np.clip(np.where(after, end[:, None], path), -1, 1)
    # Most undecided trials end in a late guess, the others in no movement.
    no_go = ~reached & (rng.uniform(size=len(path)) < 0.3)
    choice = np.where(no_go, -1, (end > 0).astype(int))
    return path, choice, np.where(no_go, np.nan, 0.1 + at * STEP_S)


def task_latents(trials: pd.DataFrame, paths: np.ndarray, num_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Latents of the task `(T, 5)` float32, about unit size, in the order of `TASK_LATENTS`."""
    clock = STEP_S * np.arange(num_steps)
    task = {name: np.zeros(num_steps) for name in TASK_LATENTS}
    columns = (trials[name].to_numpy(float) for name in ("stimulus_s", "contrast", "belief"))
    for stimulus_s, contrast, belief, path in zip(*columns, paths):
        onset = int(stimulus_s / STEP_S)
        since = clock[onset : onset + 400] - stimulus_s - 0.05
        response = np.sign(contrast) * abs(contrast) ** 0.4
        task["stimulus"][onset : onset + 400] += np.where(since > 0, response * np.exp(-since / 0.25), 0)
        # The belief is updated between trials.
        task["belief"][onset - int((BEFORE_S + 0.3) / STEP_S) :] = 1.5 * belief
        decaying = np.concatenate([path, path[-1] * np.exp(-STEP_S * np.arange(200) / 0.2)])
        end = min(num_steps, onset + len(decaying))
        task["evidence"][onset:end] = decaying[: end - onset]
    starts = trials["movement_s"].dropna().to_numpy()
    restless = rng.uniform(0, num_steps * STEP_S, rng.poisson(0.15 * num_steps * STEP_S))
    for start in np.concatenate([starts, restless]):
        # A gamma-shaped push on the wheel, about 0.4 s long.
        onset = int(start / STEP_S)
        since = STEP_S * np.arange(min(160, num_steps - onset))
        task["movement"][onset : onset + 160] += rng.lognormal(0, 0.3) * (since / 0.1) * np.exp(1 - since / 0.1)
    task["arousal"] = oscillator(num_steps, 10.0, 0.0, rng).real
    return np.stack(list(task.values()), axis=1).astype(np.float32)


def oscillator(num_steps: int, decay_s: float, frequency_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Complex Ornstein-Uhlenbeck process `(T,)`; its parts have unit variance and decay in `decay_s`, turning."""
    keep = np.exp(STEP_S * (-1 / decay_s + 2j * np.pi * frequency_hz))
    noise = rng.normal(size=num_steps) + 1j * rng.normal(size=num_steps)
    noise[1:] *= np.sqrt(1 - abs(keep) ** 2)
    return np.asarray(lfilter([1.0], [1.0, -keep], noise))


def measured_behavior(
    trials: pd.DataFrame, latents: np.ndarray, num_steps: int, rng: np.random.Generator
) -> dict[str, Covariate]:
    """What an experimenter would have measured: noisy, each on its own clock, some of it missing."""
    clock = STEP_S * np.arange(num_steps)
    movement, arousal = latents[:, TASK_LATENTS.index("movement")], latents[:, TASK_LATENTS.index("arousal")]
    # The wheel follows the neurons by 60 ms.
    late = np.concatenate([np.zeros(12), movement[:-12]])
    jitter = np.abs(oscillator(num_steps, 0.1, 0.0, rng))
    speed = late * np.exp(0.2 * oscillator(num_steps, 0.2, 0.0, rng).real) * 2.5 + 0.1 * jitter
    whisker = np.exp(0.4 * arousal + 0.6 * np.minimum(late, 2) + 0.3 * oscillator(num_steps, 0.15, 0.0, rng).real)
    # A camera that drops out now and then.
    for start in rng.integers(0, num_steps, max(1, num_steps // 12_000)):
        whisker[start : start + int(1.5 / STEP_S)] = np.nan
    rewards = trials["movement_s"][trials["rewarded"]].to_numpy() + 0.15
    bouts = [t + np.cumsum(rng.gamma(20, 1 / 140, rng.integers(3, 8))) for t in rewards]
    licks = np.concatenate([*bouts, rng.uniform(0, clock[-1], rng.poisson(0.05 * clock[-1]))])
    return {
        "contrast": Covariate.continuous(SPECS["contrast"], trials["contrast"].to_numpy()),
        "block": Covariate.categorical(SPECS["block"], trials["block"].to_numpy()),
        "choice": Covariate.categorical(SPECS["choice"], trials["choice"].to_numpy()),
        "wheel_speed": Covariate.continuous(SPECS["wheel_speed"], speed[::2], clock[::2]),
        "whisker_energy": Covariate.continuous(SPECS["whisker_energy"], whisker[::4], clock[::4]),
        "lick": Covariate.events(SPECS["lick"], licks[licks < clock[-1]]),
    }
