"""Suite 2 by a model of ours: rates of hidden units, or of the last 100 ms, from the spikes of that second alone.

Neither behavior nor the task is shown, which the protocol's own co-smoothing reads: states see visible spikes only, and
the read-out (`foundation.readout.fit_spikes_alone`) is fitted to that question on the train seconds of the suite's
split, its penalty chosen on the val seconds. Where in the session a second lies is known.
"""

from __future__ import annotations

import copy

import numpy as np

from eval.bwb_tasks import BIN_S, FORECAST_STEPS, STEPS, Task
from eval.bwb_windows import WINDOW_S, ts2_intervals, ts2_units, ts2_window_starts
from foundation.mixture import renamed
from foundation.model import FoundationModel
from foundation.predict import Hide, hide_future, hide_units, spikes_alone
from foundation.readout import Question, ReadoutConfig, fit_spikes_alone, log_rates, state_prior
from foundation.recording import Recording
from foundation.sampling import Window, WindowReader
from foundation.sidecars import as_arrays, as_tensors
from foundation.training_data import spread

# Seconds that a read-out is fitted on and chosen on, at most; and how many are answered at a time.
MOST_TRAIN, MOST_VAL, _AT_ONCE = 2000, 1000, 512
_KNOWN = 1 - FORECAST_STEPS / STEPS


def predict_rates(
    model: FoundationModel, recording: Recording, task: Task, config: ReadoutConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A model's answer to a task of suite 2 on the test windows of a session.

    Args:
        model: Adapted to the session; left as it is.
        recording: As prepared.
        task: Of suite 2.
        config: Of the read-out.

    Returns:
        `(W,)` starts of the windows, expected counts `(W, T, U)` float32, and the rows `(U,)` of the scored units.

    Raises:
        ValueError: A bin size other than 20 ms, or a session without a second of train, val or test.
    """
    if abs(model.config.bin_size_s - BIN_S) > 1e-9:
        raise ValueError(
            f"{task.id}: the model has bins of {1000 * model.config.bin_size_s:g} ms, expected {1000 * BIN_S:g}; "
            "pretrain with data.bin_size_s=0.02"
        )
    key, units = recording.info.recording_id, ts2_units(recording, task)
    names = model.config.names.get(recording.info.dataset, {})
    reader = WindowReader({key: renamed(recording, names)}, model.channels, BIN_S)
    starts = {role: _seconds(ts2_intervals(recording, role)) for role in ("train", "val")}
    starts["test"] = np.concatenate([np.zeros(0), *map(ts2_window_starts, ts2_intervals(recording, "test"))])
    if empty := [role for role, at in starts.items() if not len(at)]:
        raise ValueError(f"{key}: no second of {' and none of '.join(empty)} in suite 2; leave the session out")
    windows = {role: [Window(key, float(at), STEPS, 0) for at in some] for role, some in starts.items()}
    few = [spread({key: windows[role]}, most)[key] for role, most in (("train", MOST_TRAIN), ("val", MOST_VAL))]
    # Of the pretraining units where adaptation fitted read-outs, which keep it; else of the session's own.
    stored = as_arrays(model.readouts.get(key, {}))
    prior = stored["prior"] if "prior" in stored else state_prior(model)
    question: Question = "forecast" if task.name == "forecasting" else "cosmooth"
    own = copy.copy(model)
    if question == "forecast":
        hide: Hide = hide_future(_KNOWN)
        found = fit_spikes_alone(model, reader, (few[0], few[1]), config, prior, known_share=_KNOWN)
    else:
        held_out = np.isin(np.arange(recording.num_units), units)
        hide = hide_units(held_out)
        found = fit_spikes_alone(model, reader, (few[0], few[1]), config, prior, held_out=held_out)
    own.readouts = {key: as_tensors(found)}
    steps = FORECAST_STEPS if question == "forecast" else STEPS
    rate = np.empty((len(starts["test"]), steps, len(units)), np.float32)
    for first in range(0, len(rate), _AT_ONCE):
        some = windows["test"][first : first + _AT_ONCE]
        for k, log_rate in enumerate(log_rates(own, reader, some, question, spikes_alone(hide))):
            rate[first + k] = np.exp(log_rate[-steps:, units])
    return starts["test"], rate, units


def _seconds(intervals: np.ndarray) -> np.ndarray:
    """Starts `(W,)` of seconds that cover intervals `(I, 2)`, spread evenly; intervals under a second have none."""
    parts = [np.zeros(0)]
    for start, stop in intervals:
        if stop - start >= WINDOW_S:
            parts.append(np.linspace(start, stop - WINDOW_S, int(np.ceil((stop - start) / WINDOW_S - 1e-6))))
    return np.concatenate(parts)
