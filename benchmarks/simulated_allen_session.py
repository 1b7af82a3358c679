"""What a simulated mouse of the Allen Institute sees and does, and its spikes; writes no file (see `simulated_allen`).

Neurons follow latents of the picture on the screen (for natural movie one a smooth function of the frame, the same in
every showing and every animal), of running and of arousal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from benchmarks.simulated_units import simulate_spikes
from data_recipes.simulated_task import STEP_S, oscillator

_FRAME_S = 2 / 59.95
_NUM_LATENTS = 10
# The same pictures for every animal; what they do to neurons is each animal's own.
_PICTURES_SEED = 65
_IMAGES = tuple(f"im{k:03d}_r" for k in (12, 36, 44, 47, 78, 83, 111, 115))
IMAGE_TABLE = "Natural_Images_Lum_Matched_set_ophys_G_2019"


@dataclass
class Session:
    """One session; times in seconds.

    Attributes:
        presentations: By stimulus name; `start_time`, `stop_time` and parameters.
        trains: Spike times of each unit.
        running: `time`, `speed` (cm/s).
        pupil: `time`, half `width` and `height`, `center_x`, `center_y` (px), `phi` (rad), `blink`.
        licks: Times.
        rewards: Times.
        trials: Of the change detection task, in the columns of the AllenSDK.
    """

    presentations: dict[str, pd.DataFrame]
    trains: list[np.ndarray]
    running: pd.DataFrame
    pupil: pd.DataFrame
    licks: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rewards: np.ndarray = field(default_factory=lambda: np.zeros(0))
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)


def simulate_session(
    units: pd.DataFrame, minutes: float, num_repeats: int, behavior: bool, rng: np.random.Generator
) -> Session:
    """A session of these units (`cosmos_acronym`, `firing_rate` in Hz); arguments as in `write_session`."""
    licks, rewards, trials = np.zeros(0), np.zeros(0), pd.DataFrame()
    if behavior:
        presentations, trials, licks, rewards = _change_detection(60 * minutes, rng)
    else:
        presentations = _visual_coding(60 * minutes, num_repeats, rng)
    duration = max(table["stop_time"].max() for table in presentations.values()) + 5
    num_steps = int(duration / STEP_S)
    clock = STEP_S * np.arange(num_steps)
    arousal = oscillator(num_steps, 20.0, 0.0, rng).real
    running = np.maximum(0, 0.8 * arousal + 0.8 * oscillator(num_steps, 1.5, 0.0, rng).real)
    latents = {f"stimulus_{k}": row for k, row in enumerate(_pictures(presentations, num_steps))}
    # Neurons lead the wheel by 50 ms and follow the screen by as much.
    latents |= {"movement": np.roll(running, -10), "arousal": arousal}
    wheel = np.arange(0, duration - 1, 1 / 60)
    speed = np.interp(wheel, clock, 12 * running) + 0.3 * rng.normal(size=len(wheel))
    eye = np.arange(0, duration - 1, 1 / 60) + 0.004
    radius = 30 + 6 * np.interp(eye, clock, arousal) + 0.3 * rng.normal(size=len(eye))
    blink = np.zeros(len(eye), bool)
    for start in rng.integers(0, len(eye), max(1, int(duration / 20))):
        blink[start : start + 9] = True
    pupil = pd.DataFrame(
        {
            "time": eye,
            "width": np.where(blink, np.nan, radius),
            "height": np.where(blink, np.nan, 0.95 * radius),
            "center_x": 320 + 8 * np.interp(eye, clock, oscillator(num_steps, 3.0, 0.0, rng).real),
            "center_y": 240 + 4 * np.interp(eye, clock, oscillator(num_steps, 3.0, 0.0, rng).real),
            "phi": rng.normal(0, 0.1, len(eye)),
            "blink": blink,
        }
    )
    trains = simulate_spikes(units, latents, STEP_S, rng)
    return Session(presentations, trains, pd.DataFrame({"time": wheel, "speed": speed}), pupil, licks, rewards, trials)


def _visual_coding(duration_s: float, num_repeats: int, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Movie one in two blocks; what is left of the session goes to the other stimuli, with gray between blocks."""
    movie_s = num_repeats * 900 * _FRAME_S
    other = max(duration_s - movie_s - 40, 30) / 5
    block, at, gray = 0, 10.0, [(0.5, 10.0)]
    parts: dict[str, list[pd.DataFrame]] = {}
    plan = [("drifting_gratings", 3.0, 2.0), ("natural_movie_one", _FRAME_S, _FRAME_S), ("static_gratings", 0.25, 0.25)]
    plan += [("flashes", 2.0, 0.25), ("natural_movie_one", _FRAME_S, _FRAME_S), ("natural_scenes", 0.25, 0.25)]
    shown = [num_repeats - num_repeats // 2, num_repeats // 2]
    for name, period, on in plan:
        number = 900 * shown.pop(0) if name == "natural_movie_one" else max(2, int(other / period))
        start = at + period * np.arange(number)
        table = pd.DataFrame({"start_time": start, "stop_time": start + on, "stimulus_name": name})
        for column, values in _parameters(name, number, rng).items():
            table[column] = values
        if number:
            parts.setdefault(name, []).append(table.assign(stimulus_block=float(block)))
            gray.append((float(start[-1] + on), float(start[-1] + on + 5)))
            at, block = gray[-1][1], block + 1
    start, stop = np.array(gray).T
    spontaneous = pd.DataFrame({"start_time": start, "stop_time": stop, "stimulus_name": "spontaneous"})
    tables = {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}
    return {**tables, "spontaneous": spontaneous.assign(stimulus_block=-1.0)}


def _parameters(name: str, number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of a stimulus; blank sweeps are NaN, and some numbers are text, as in the real files."""
    if name == "natural_movie_one":
        return {"frame": np.arange(number) % 900.0}
    if name == "natural_scenes":
        return {"frame": rng.integers(-1, 118, number).astype(float)}
    if name == "flashes":
        return {"color": rng.choice(np.array(["-1.0", "1.0"], dtype=object), number)}
    blank = rng.uniform(size=number) < 0.05
    if name == "drifting_gratings":
        columns = {"orientation": 45.0 * rng.integers(0, 8, number), "contrast": np.full(number, 0.8)}
        columns["temporal_frequency"] = rng.choice([1.0, 2.0, 4.0, 8.0, 15.0], number)
    else:
        columns = {"orientation": 30.0 * rng.integers(0, 6, number)}
        columns["spatial_frequency"] = rng.choice([0.02, 0.04, 0.08, 0.16, 0.32], number)
    columns = {k: np.where(blank, np.nan, v) for k, v in columns.items()}
    if name == "static_gratings":
        phase = rng.choice(np.array(["0.0", "0.25", "0.5", "0.75"], dtype=object), number)
        columns["phase"] = np.where(blank, "N/A", phase).astype(object)
    return columns


def _change_detection(
    duration_s: float, rng: np.random.Generator
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, np.ndarray, np.ndarray]:
    """Images every 0.75 s that change at times, licks; then the same images replayed without the spout."""
    trials, rows, licks, rewards = [], [], [], []
    at, image = 10.0, 0
    while at < 0.6 * duration_s:
        aborted = rng.uniform() < 0.2
        flashes = int(np.clip(4 + rng.geometric(0.3), 5, 12)) if not aborted else int(rng.integers(2, 5))
        kind = "aborted" if aborted else ("catch" if rng.uniform() < 0.15 else "go")
        following = int(rng.choice([k for k in range(len(_IMAGES)) if k != image])) if kind == "go" else image
        change = at + 0.75 * (flashes - 2) if not aborted else np.nan
        licked = aborted or rng.uniform() < (0.75 if kind == "go" else 0.15)
        of_trial = [at + 0.75 * flashes - 0.4] if aborted else [change + rng.uniform(0.25, 0.6)] if licked else []
        of_trial = [t + 0.14 * k for t in of_trial for k in range(1 if aborted else 5)]
        for k in range(flashes):
            changed = kind == "go" and k >= flashes - 2
            omitted = not changed and k and rng.uniform() < 0.05
            rows.append(
                (
                    at + 0.75 * k,
                    "omitted" if omitted else _IMAGES[following if changed else image],
                    kind == "go" and k == flashes - 2,
                )
            )
        outcome = {("go", True): "hit", ("go", False): "miss", ("catch", True): "false_alarm"}.get(
            (kind, licked), "aborted" if aborted else "correct_reject"
        )
        flags = {n: n == outcome for n in ("hit", "miss", "false_alarm", "correct_reject", "aborted")}
        flags |= {"go": kind == "go", "catch": kind == "catch", "auto_rewarded": False}
        trials.append(
            {
                "start_time": at,
                "stop_time": at + 0.75 * flashes,
                "initial_image_name": _IMAGES[image],
                "change_image_name": _IMAGES[following],
                "change_time_no_display_delay": change,
                "lick_times": of_trial,
                **flags,
            }
        )
        licks += of_trial
        rewards += of_trial[:1] if outcome == "hit" else []
        at, image = at + 0.75 * flashes, following
    onset = np.array([row[0] for row in rows])
    names = np.array([row[1] for row in rows], dtype=object)
    table = pd.DataFrame({"start_time": onset, "stop_time": onset + 0.25, "image_name": names})
    table = table.assign(is_change=[row[2] for row in rows], omitted=names == "omitted", active=True)
    replay = table[table["start_time"] + at + 30 < duration_s].copy()
    replay[["start_time", "stop_time"]] += at + 30 - 10
    images = pd.concat([table, replay.assign(active=False)], ignore_index=True)
    images = images.assign(stimulus_name=IMAGE_TABLE, stimulus_block=np.where(images["active"], 0, 2))
    start, stop = np.array([(0.5, 10.0), (at, at + 20)]).T
    gray = pd.DataFrame({"start_time": start, "stop_time": stop, "stimulus_name": "spontaneous"})
    tables = {IMAGE_TABLE: images, "spontaneous": gray.assign(stimulus_block=1, active=False)}
    return tables, pd.DataFrame(trials), np.array(licks), np.array(rewards)


def _pictures(presentations: dict[str, pd.DataFrame], num_steps: int) -> np.ndarray:
    """Latents `(_NUM_LATENTS, T)` of what is on the screen, 50 ms late; 0 for gray."""
    rng = np.random.default_rng(_PICTURES_SEED)
    movie = gaussian_filter1d(rng.normal(size=(900, _NUM_LATENTS)), 5, axis=0, mode="wrap")
    movie /= movie.std(axis=0)
    pictures = rng.normal(size=(1000, _NUM_LATENTS))
    out = np.zeros((num_steps, _NUM_LATENTS), np.float32)
    for name, table in presentations.items():
        if name == "spontaneous":
            continue
        column = next(c for c in ("frame", "image_name", "color", "orientation") if c in table)
        codes = pd.factorize(table[column], sort=True)[0]
        values = movie[table["frame"].to_numpy(int)] if name == "natural_movie_one" else pictures[codes + 1]
        values = np.where((table[column] == "omitted").to_numpy()[:, None], 0, values)
        edges = ((table[["start_time", "stop_time"]].to_numpy() + 0.05) / STEP_S).astype(int)
        for (first, last), value in zip(edges, values):
            out[first:last] = value
    return 0.6 * out.T
