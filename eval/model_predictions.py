"""A model's answers to the tasks of the protocol, in the form that the scorer reads. Fits nothing, scores nothing.

Every answer is one forward pass under the mask that leaves visible what the task allows; causal answers are passes over
the trial cut off at the bin in question, so that neither later spikes nor the trial's length can reach them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from eval.predictions import LABEL_TASKS, RATE_TASKS, VALUE_TASKS, Prediction, traced
from eval.scoring import FORECAST_KNOWN, target_rows
from eval.session_view import SessionView
from eval.unit_folds import UNIT_TASKS, unit_folds
from foundation.decoder import decoded, decoded_together
from foundation.model import FoundationModel
from foundation.predict import hide_future, hide_units
from foundation.readout import cosmooth_offsets, log_rates
from foundation.sampling import Window, WindowReader

# Tracks that a bidirectional model can answer honestly; E1 and units from units alone are not offered.
MODEL_TRACKS = {"encode": ("E2",), **dict.fromkeys(UNIT_TASKS, ("b",))}


def predict_task(
    model: FoundationModel, reader: WindowReader, recording_id: str, view: SessionView, task: str, track: str, name: str
) -> Prediction:
    """The model's prediction for the test trials of a session.

    Args:
        model: Adapted to the session.
        reader: Opens it, with the model's channels and bin size.
        recording_id: The session.
        view: The session as evaluation sees it.
        task: Such as "encode".
        track: Of the task; see `MODEL_TRACKS`.
        name: Of the model, for the file.
    """
    trials = view.trials_in("test", full=True)
    trials = trials[view.num_bins[trials] >= 1]
    windows = [trial_window(view, recording_id, int(m), int(view.num_bins[m])) for m in trials]
    if task in RATE_TASKS:
        return _rates(model, reader, view, windows, trials, task, track, name)
    if task in LABEL_TASKS:
        logits = np.array([_logit(found[0]) for found in decoded(model, reader, windows, task)])
        return Prediction.of(view, task, name, trial=view.source_trial[trials], logit=logits)
    if task in VALUE_TASKS:
        values = np.array([found[0, 0] for found in decoded(model, reader, windows, task)])
        return Prediction.of(view, task, name, trial=view.source_trial[trials], value=values)
    rows = np.flatnonzero(np.isin(view.trial, trials) & target_rows(view, task))
    if track == "acausal":
        found = dict(zip(trials, decoded(model, reader, windows, traced(task) or "")))
        values = np.array([found[m][b, 0] for m, b in zip(view.trial[rows], view.bin[rows])])
    elif task == "choice_t":
        ends = decoded(model, reader, _cut_windows(view, recording_id, rows), "choice", causal=True)
        values = np.array([_logit(end) for end in ends])
    else:
        values = _causal_traces(model, reader, recording_id, view)[traced(task) or ""][rows]
    field = "logit" if task == "choice_t" else "value"
    arrays = {"trial": view.source_row_trial[rows], "bin": view.bin[rows], field: values}
    return Prediction.of(view, task, name, track=track, **arrays)


# The behaviors in time of a session are read from the same windows, one for each bin: by far the most costly question.
@lru_cache(maxsize=1)
def _causal_traces(
    model: FoundationModel, reader: WindowReader, recording_id: str, view: SessionView
) -> dict[str, np.ndarray]:
    """`(R,)` first dimension of every behavior in time that the model decodes, NaN where none is asked for."""
    names = [c.spec.name for c in model.channels if c.is_target and c.spec.name in view.row_covariates]
    names = [name for name in names if view.row_covariates[name].spec.kind == "continuous"]
    asked = np.any([view.row_covariates[name].observed for name in names], axis=0)
    rows = np.flatnonzero(view.rows_in("test", full=True) & asked)
    out = {name: np.full(len(view.trial), np.nan) for name in names}
    ends = decoded_together(model, reader, _cut_windows(view, recording_id, rows), names, causal=True)
    for row, end in zip(rows, ends):
        for name, value in end.items():
            out[name][row] = value[0]
    return out


def _cut_windows(view: SessionView, recording_id: str, rows: np.ndarray) -> list[Window]:
    """For each row the bins of its trial up to it."""
    return [trial_window(view, recording_id, int(m), int(b) + 1) for m, b in zip(view.trial[rows], view.bin[rows])]


def trial_window(view: SessionView, recording_id: str, trial: int, num_bins: int) -> Window:
    """The first `num_bins` bins of a trial (row of the view's per-trial arrays)."""
    return Window(recording_id, float(view.start_s[trial]), num_bins, trial)


def _rates(
    model: FoundationModel,
    reader: WindowReader,
    view: SessionView,
    windows: list[Window],
    trials: np.ndarray,
    task: str,
    track: str,
    name: str,
) -> Prediction:
    rows = np.isin(view.trial, trials)
    if task == "encode":
        found = np.concatenate(list(log_rates(model, reader, windows, "encode")))[:, view.unit]
        return Prediction.of_rates(view, task, name, np.exp(found), rows, track=track)
    if task == "forecast":
        hide = hide_future(FORECAST_KNOWN)
        found = np.concatenate(list(log_rates(model, reader, windows, "forecast", hide)))[:, view.unit]
        keep = target_rows(view, task)[rows]
        chosen = np.flatnonzero(rows)[keep]
        mask = np.zeros(len(rows), bool)
        mask[chosen] = True
        return Prediction.of_rates(view, task, name, np.exp(found[keep]), mask)
    columns, parts, offsets = [], [], cosmooth_offsets(model, reader, windows)
    for fold in unit_folds(view, task):
        hidden = np.ones(len(view.unit), bool)
        hidden[view.unit[fold.inputs]] = False  # all that the task does not let it read, in the model's order
        # The read-out was fitted with random groups of units hidden, and is asked here with whole regions hidden too.
        found = np.concatenate(list(log_rates(model, reader, windows, "cosmooth", hide_units(hidden), offsets)))
        parts.append(found[:, view.unit[fold.held_out]])
        columns.append(fold.held_out)
    rate = np.exp(np.concatenate(parts, axis=1))
    return Prediction.of_rates(view, task, name, rate, rows, columns=np.concatenate(columns), track=track)


def _logit(logits: np.ndarray) -> float:
    """Log odds of class 1 of two."""
    return float(logits[1] - logits[0])
