"""The baselines and nulls of every task of the protocol (section 3), as predictions for the one scorer.

The fits themselves are in `baselines_encoding`, `baselines_decoding`, `baselines_networks` and `baselines_shared`.
Which baseline is the one to beat is decided by validation loss alone; nothing here looks at a test trial.
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
from eval.baselines_networks import (
    label_network,
    sequential_cosmooth,
    sequential_forecast,
    trace_network,
    value_network,
)
from eval.baselines_shared import OtherSessions, shared_label, shared_trace
from eval.controls import broken_sessions
from eval.predictions import LABEL_TASKS, RATE_TASKS, TRACE_PREFIX, VALUE_TASKS, Prediction, traced
from eval.scoring import target_rows
from eval.session_view import SessionView
from eval.unit_folds import REGION_TASKS, UNIT_TASKS, held_out_units, permuted_regions, unit_tasks

# `baseline`: the inputs a model has in this task. `null`: fewer. `reference`: more; printed, never the one to beat.
# `control`: a baseline on a session broken on purpose; listed with the nulls, never the one to beat either.
Kind = Literal["baseline", "null", "reference", "control"]

# How much is fitted. `quick`: what a convex problem or a closed form gives; `standard`: also a small network per label
# and behavior; `all`: also a sequential VAE of the spikes, which costs about as much as everything else, and decoders
# that borrow from pretraining sessions.
Effort = Literal["none", "quick", "standard", "all"]

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
    """One prediction of one session by a baseline or null.

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


def run_baselines(
    view: SessionView,
    task: str,
    track: str = "",
    *,
    effort: Effort = "standard",
    others: OtherSessions | None = None,
) -> dict[str, Baseline]:
    """Fit the baselines and nulls of one task on a session's train trials, tuned on its validation trials.

    Args:
        view: The session; few-shot views give few-shot baselines.
        task: A task of `tasks_of(view)`.
        track: One of `tracks_of(task)`.
        effort: How much to fit.
        others: Sessions of pretraining animals, for the baselines that borrow from them.

    Returns:
        By name, empty for the effort `none`; score each with
        `eval.scoring.score(baseline.prediction, baseline.session or view)`.

    Raises:
        ValueError: A task or track that this session does not have.
    """
    if (task, track) not in tasks_of(view):
        raise ValueError(f"{view.session}: no task {task!r} with track {track!r}; there are {tasks_of(view)}")
    if effort == "none":
        return {}
    if task in RATE_TASKS:
        rates = _rate_fits(view, task, track, effort)
        out = {name: _of_rate(view, task, track, name, fit) for name, fit in rates.items()}
        return out | (_permuted_regions(view, task, track) if effort != "quick" else {})
    if task == "choice_t":
        return {n: _of_rows(view, task, track, n, "logit", fit) for n, fit in choice_in_time_fits(view).items()}
    found = _scalar_fits(view, task, track, effort, others)
    out = {name: _of_scalar(view, task, track, name, fit) for name, fit in found.items()}
    return out if effort == "quick" else out | run_controls(view, task, track)


def run_controls(view: SessionView, task: str, track: str = "") -> dict[str, Baseline]:
    """The regularized linear decoder of one task, fitted and scored on each of `eval.controls.broken_sessions`.

    Args:
        view: The session.
        task: One that decodes a label, a number or a behavior in time.
        track: One of `tracks_of(task)`.
    """
    out = {}
    for name, broken in broken_sessions(view, traced(task) or task).items():
        control = _of_scalar(broken, task, track, name, _linear_fit(broken, task, track))
        out[name] = replace(control, kind="control", session=broken)
    return out


def strongest(baselines: dict[str, Baseline], kind: Kind = "baseline") -> str:
    """Name of the baseline (or null) with the lowest validation loss: the one a model is compared with.

    Raises:
        ValueError: None of that kind.
    """
    names = [name for name, baseline in baselines.items() if baseline.kind == kind]
    if not names:
        raise ValueError(f"no {kind} among {sorted(baselines)}")
    return min(names, key=lambda name: baselines[name].validation_loss)


def _scalar_fits(
    view: SessionView, task: str, track: str, effort: Effort, others: OtherSessions | None
) -> dict[str, ScalarFit]:
    """Baselines and nulls of a task whose target is one label or number a trial or bin."""
    networks = effort != "quick"
    if (name := traced(task)) is not None:
        causal = track == "causal"
        found = trace_fits(view, name, causal=causal)
        if networks:
            found["mlp"] = trace_network(view, name, causal=causal)
        if effort == "all" and others is not None:
            trace = shared_trace(view, name, others, causal=causal)
            found |= {} if trace is None else {"shared_rank_ridge": trace}
        return found
    found = value_fits(view, task) if task in VALUE_TASKS else label_fits(view, task)
    if networks:
        found["mlp"] = value_network(view, task) if task in VALUE_TASKS else label_network(view, task)
    if effort == "all" and others is not None and task in LABEL_TASKS:
        label = shared_label(view, task, others)
        found |= {} if label is None else {"shared_rank_logistic": label}
    return found


def _linear_fit(view: SessionView, task: str, track: str) -> ScalarFit:
    """The regularized linear decoder of a task alone."""
    if (name := traced(task)) is not None:
        return trace_fit(view, name, causal=track == "causal")
    return value_fit(view, task) if task in VALUE_TASKS else label_fit(view, task)


def _permuted_regions(view: SessionView, task: str, track: str) -> dict[str, Baseline]:
    """The control of the tasks of regions: the ridge where labels of regions say nothing; empty for other tasks."""
    if task not in REGION_TASKS:
        return {}
    permuted = permuted_regions(view, seed=0)
    if task not in unit_tasks(permuted):
        return {}
    # Rates of the GLM do not depend on regions.
    offset = None if track == "a" else _log(encoding_fits(view, to_end=True)["glm_ensemble"].rate)
    one = _of_rate(permuted, task, track, "permuted regions", neuron_fits(permuted, task, offset)["neurons"])
    return {"permuted regions": replace(one, kind="control", session=permuted)}


def _rate_fits(view: SessionView, task: str, track: str, effort: Effort) -> dict[str, RateFit]:
    if task == "encode":
        to_end = track == "E2"
        return {
            **encoding_fits(view, to_end=to_end),
            **condition_psths(view),
            **encoding_nulls(view, to_end=to_end),
        }
    if task in UNIT_TASKS:
        return _unit_fits(view, task, track, effort)
    fits = forecast_fits(view)
    if effort == "all":
        fits["sequential_vae"] = sequential_forecast(view, _log(fits["no_spikes"].rate))
    return fits


def _unit_fits(view: SessionView, task: str, track: str, effort: Effort) -> dict[str, RateFit]:
    train = view.rows_in("train")
    mean = np.broadcast_to(view.counts[train].mean(axis=0, dtype=float), view.counts.shape)
    fits = {"train_mean": RateFit(mean, 0.0)}
    if track == "a":
        fits |= neuron_fits(view, task)
        if effort == "all":
            fits["sequential_vae"] = sequential_cosmooth(view, task)
    else:
        fits["glm_alone"] = encoding_fits(view, to_end=True)["glm_ensemble"]
        offset = _log(fits["glm_alone"].rate)
        fits |= {f"{name}_on_glm": fit for name, fit in neuron_fits(view, task, offset).items()}
        if effort == "all":
            fits["sequential_vae_on_glm"] = sequential_cosmooth(view, task, offset)
    held = held_out_units(view, task)
    only = np.full(view.counts.shape, np.nan)
    out = {}
    for name, fit in fits.items():
        rate = only.copy()
        rate[:, held] = fit.rate[:, held]
        out[name] = RateFit(rate, validation_loss(view, rate, units=held))
    return out


def _log(rate: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(rate, 1e-9)))


def _of_scalar(view: SessionView, task: str, track: str, name: str, fit: ScalarFit) -> Baseline:
    if traced(task) is not None:
        return _of_rows(view, task, track, name, "value", fit)
    return _of_trials(view, task, name, "value" if task in VALUE_TASKS else "logit", fit)


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
