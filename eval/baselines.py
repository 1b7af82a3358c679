"""The classical baselines and nulls of every task of the protocol (section 3), as predictions for the one scorer.

The fits themselves are in `baselines_encoding` and `baselines_decoding`. Which baseline is the one to beat is decided
by validation loss alone; nothing here looks at a test trial.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eval.baselines_decoding import (
    ScalarFit,
    choice_in_time_fits,
    label_fit,
    label_fits,
    trace_fit,
    trace_fits,
    value_fit,
    value_fits,
)
from eval.baselines_encoding import (
    RateFit,
    condition_psths,
    encoding_fits,
    encoding_nulls,
    forecast_fits,
    neuron_fits,
    validation_loss,
)
from eval.controls import broken_sessions
from eval.predictions import LABEL_TASKS, RATE_TASKS, TRACE_PREFIX, VALUE_TASKS, Prediction, traced
from eval.scoring import target_rows
from eval.session_view import SessionView
from eval.unit_folds import UNIT_TASKS, held_out_units, unit_tasks

# `baseline`: the inputs a model has in this task. `null`: fewer. `reference`: more; printed, never the one to beat.
# `control`: a baseline on a session broken on purpose; listed with the nulls, never the one to beat either.
Kind = Literal["baseline", "null", "reference", "control"]

# Tracks of the tasks that have several: what may be read at test time.
TRACKS: dict[str, tuple[str, ...]] = {
    "encode": ("E1", "E2"),
    **dict.fromkeys(UNIT_TASKS, ("a", "b")),
}
_TRACE_TRACKS = ("causal", "acausal")
_NULLS = {
    "majority",
    "stimulus",
    "train_mean",
    "time_psth",
    "drift",
    "time",
    "true_choice_by_time",
    "no_spikes",
    "held",
}


@dataclass(frozen=True)
class Baseline:
    """One classical prediction of one session.

    Attributes:
        prediction: Test rows; `prediction.model` is the name.
        kind: `baseline`, `null`, `reference` or `control`.
        validation_loss: On the validation trials, lower is better; comparable within a task and track only.
        session: What a control is fitted and scored on; None: the session itself.
    """

    prediction: Prediction
    kind: Kind
    validation_loss: float
    session: SessionView | None = None


def tasks_of(view: SessionView) -> list[tuple[str, str]]:
    """Tasks and tracks that a recording has the covariates for, in the protocol's order; "" where none."""
    trial = {n for n, c in view.trial_covariates.items() if c.observed.any()}
    names = [t for t in LABEL_TASKS if t in trial and view.trial_covariates[t].spec.num_classes == 2]
    names += ["choice_t"] if "choice" in names else []
    names += [t for t in VALUE_TASKS if t in trial and view.trial_covariates[t].spec.kind == "continuous"]
    for name, covariate in view.row_covariates.items():
        if covariate.spec.kind == "continuous" and covariate.spec.role == "behavior" and covariate.observed.any():
            names.append(name if name == "evidence" else f"{TRACE_PREFIX}{name}")
    names += [t for t in RATE_TASKS if t not in UNIT_TASKS or t in unit_tasks(view)]
    return [(task, track) for task in names for track in tracks_of(task)]


def tracks_of(task: str) -> tuple[str, ...]:
    """Tracks of a task; ("",) for one without."""
    return _TRACE_TRACKS if traced(task) is not None else TRACKS.get(task, ("",))


def run_baselines(view: SessionView, task: str, track: str = "") -> dict[str, Baseline]:
    """Fit the baselines and nulls of one task on a session's train trials, tuned on its validation trials.

    Args:
        view: The session; few-shot views give few-shot baselines.
        task: A task of `tasks_of(view)`.
        track: One of `tracks_of(task)`.

    Returns:
        By name; score each with `eval.scoring.score(baseline.prediction, baseline.session or view)`.

    Raises:
        ValueError: A task or track that this session does not have.
    """
    if (task, track) not in tasks_of(view):
        raise ValueError(f"{view.session}: no task {task!r} with track {track!r}; there are {tasks_of(view)}")
    if task == "encode":
        to_end = track == "E2"
        fits = {
            **encoding_fits(view, to_end=to_end),
            **condition_psths(view),
            **encoding_nulls(view, to_end=to_end),
        }
        return {name: _of_rate(view, task, track, name, fit) for name, fit in fits.items()}
    if task in UNIT_TASKS:
        return {name: _of_rate(view, task, track, name, fit) for name, fit in _unit_fits(view, task, track).items()}
    if task == "forecast":
        return {name: _of_rate(view, task, track, name, fit) for name, fit in forecast_fits(view).items()}
    if task == "choice_t":
        return {n: _of_rows(view, task, track, n, "logit", fit) for n, fit in choice_in_time_fits(view).items()}
    if (name := traced(task)) is not None:
        fits_of_rows = trace_fits(view, name, causal=track == "causal")
        return {
            **{key: _of_rows(view, task, track, key, "value", fit) for key, fit in fits_of_rows.items()},
            **{
                key: _control(_of_rows(v, task, track, key, "value", trace_fit(v, name, causal=track == "causal")), v)
                for key, v in broken_sessions(view, name).items()
            },
        }
    fits_of_trials, alone, field = (
        (value_fits, value_fit, "value") if task in VALUE_TASKS else (label_fits, label_fit, "logit")
    )
    return {
        **{key: _of_trials(view, task, key, field, fit) for key, fit in fits_of_trials(view, task).items()},
        **{
            key: _control(_of_trials(v, task, key, field, alone(v, task)), v)
            for key, v in broken_sessions(view, task).items()
        },
    }


def strongest(baselines: dict[str, Baseline], kind: Kind = "baseline") -> str:
    """Name of the baseline (or null) with the lowest validation loss: the one a model is compared with.

    Raises:
        ValueError: None of that kind.
    """
    names = [name for name, baseline in baselines.items() if baseline.kind == kind]
    if not names:
        raise ValueError(f"no {kind} among {sorted(baselines)}")
    return min(names, key=lambda name: baselines[name].validation_loss)


def _unit_fits(view: SessionView, task: str, track: str) -> dict[str, RateFit]:
    train = view.rows_in("train")
    mean = np.broadcast_to(view.counts[train].mean(axis=0, dtype=float), view.counts.shape)
    fits = {"train_mean": RateFit(mean, 0.0)}
    if track == "a":
        fits |= neuron_fits(view, task)
    else:
        fits["glm_alone"] = encoding_fits(view, to_end=True)["glm_ensemble"]
        on_glm = neuron_fits(view, task, np.log(np.maximum(fits["glm_alone"].rate, 1e-9)))
        fits |= {f"{name}_on_glm": fit for name, fit in on_glm.items()}
    held = held_out_units(view, task)
    only = np.full(view.counts.shape, np.nan)
    out = {}
    for name, fit in fits.items():
        rate = only.copy()
        rate[:, held] = fit.rate[:, held]
        out[name] = RateFit(rate, validation_loss(view, rate, units=held))
    return out


def _control(one: Baseline, session: SessionView) -> Baseline:
    return replace(one, kind="control", session=session)


def _kind(name: str) -> Kind:
    if name.endswith("_with_stimulus"):
        return "reference"
    return "null" if name in _NULLS or name.startswith("glm_without") or name == "glm_alone" else "baseline"


def _of_rate(view: SessionView, task: str, track: str, name: str, fit: RateFit) -> Baseline:
    rows = view.rows_in("test") & target_rows(view, task)
    columns = np.flatnonzero(np.isfinite(fit.rate[rows]).all(axis=0)) if task in UNIT_TASKS else None
    rate = fit.rate[rows] if columns is None else fit.rate[rows][:, columns]
    prediction = Prediction.of_rates(view, task, name, rate, rows, columns=columns, track=track)
    return Baseline(prediction, _kind(name), fit.validation_loss)


def _of_rows(view: SessionView, task: str, track: str, name: str, field: str, fit: ScalarFit) -> Baseline:
    rows = view.rows_in("test") & target_rows(view, task)
    arrays = {"trial": view.source_row_trial[rows], "bin": view.bin[rows], field: fit.value[rows]}
    return Baseline(Prediction.of(view, task, name, track=track, **arrays), _kind(name), fit.validation_loss)


def _of_trials(view: SessionView, task: str, name: str, field: str, fit: ScalarFit) -> Baseline:
    trials = view.trials_in("test")
    arrays = {"trial": view.source_trial[trials], field: fit.value[trials]}
    return Baseline(Prediction.of(view, task, name, **arrays), _kind(name), fit.validation_loss)
