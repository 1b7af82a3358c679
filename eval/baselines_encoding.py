"""Classical predictions of spikes: encoding, co-smoothing and forecasting (protocol, section 3); decoding is elsewhere.

All are Poisson ridge regressions fitted on train trials, one penalty for all units of a session, chosen on validation
trials: a penalty for each unit alone follows the noise of a few hundred validation spikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.ndimage

from eval.design import (
    at_bin,
    drift_features,
    event_features,
    standardize,
    task_features,
    window_mean,
    window_sum,
)
from eval.scoring import forecast_rows, known_bins
from eval.session_view import SessionView
from eval.unit_folds import unit_folds
from foundation.poisson_ridge import choose_penalty, log_rate

PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
RANKS = (1, 2, 4, 8, 16)
PSTH_WIDTHS_S = (0.02, 0.04, 0.08, 0.16)
# Weight of a pseudo-trial at the unit's mean rate in a PSTH, so that a bin that few trials reach is not a wild guess.
_PSTH_TRIALS = 5.0
# Lag windows, in bins, of co-smoothing: (nearest, farthest), negative ahead; together t-5 .. t+5.
COSMOOTH_WINDOWS = ((4, 5), (2, 3), (1, 1), (0, 0), (-1, -1), (-3, -2), (-5, -4))
# How far back, in seconds, forecasting reads spikes, and how many principal components of them.
HISTORY_S = (0.04, 0.1, 0.2, 0.4)
NUM_COMPONENTS = 12


@dataclass(frozen=True)
class RateFit:
    """Expected counts per bin `(R, U)` on every row of a view, and their validation loss (nats, lower is better)."""

    rate: np.ndarray
    validation_loss: float
    weights: np.ndarray | None = None


def validation_loss(
    view: SessionView, rate: np.ndarray, rows: np.ndarray | None = None, units: np.ndarray | None = None
) -> float:
    """Poisson negative log likelihood of the validation rows (within `rows`), summed over units (or `units`)."""
    keep = view.rows_in("val") if rows is None else view.rows_in("val") & rows
    y, r = view.counts[keep].astype(float), np.maximum(rate[keep], 1e-9)
    if units is not None:
        y, r = y[:, units], r[:, units]
    return float((r - y * np.log(r)).sum())


def poisson_glm(
    view: SessionView,
    features: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    units: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    penalties: tuple[float, ...] = PENALTIES,
) -> RateFit:
    """Poisson ridge on `features` `(R, F)` and an intercept.

    Args:
        view: The session.
        features: Scaled as the prior says; not standardized here.
        rows: `(R,)` bool: fit and validate on these only. Rates are returned for all.
        units: Columns of the counts to predict; all by default.
        offset: `(R, len(units))` log-rate.
        penalties: Grid.
    """
    keep = np.ones(len(features), bool) if rows is None else rows
    train, val = view.rows_in("train") & keep, view.rows_in("val") & keep
    counts = view.counts if units is None else view.counts[:, units]
    x = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    choice = choose_penalty(
        x[train],
        counts[train],
        x[val],
        counts[val],
        penalties,
        per_unit=False,
        offset=None if offset is None else offset[train],
        validation_offset=None if offset is None else offset[val],
        penalized=np.arange(x.shape[1]) > 0,
    )
    rate = np.exp(log_rate(x, choice.weights, offset))
    return RateFit(rate, float(choice.validation_loss.sum(axis=1).min()), choice.weights[1:])


def psth(view: SessionView, condition: np.ndarray | None = None) -> RateFit:
    """Mean count of the train trials in each bin since trial start, smoothed in time; width by validation.

    Args:
        view: The session.
        condition: `(M,)` integers; trials of one condition share a PSTH. None: all trials do.
    """
    label = np.zeros(len(view.num_bins), np.int64) if condition is None else np.asarray(condition, np.int64)
    train, length = view.rows_in("train"), int(view.num_bins.max())
    mean = view.counts[train].mean(axis=0, dtype=float)
    cell = label[view.trial] * length + view.bin
    cells = (label.max() + 1) * length
    trials = np.bincount(cell[train], minlength=cells).astype(float).reshape(-1, length, 1)
    total = np.stack([np.bincount(cell[train], w, minlength=cells) for w in view.counts[train].T.astype(float)], axis=1)
    total = total.reshape(-1, length, len(mean))
    fits = []
    for width_s in PSTH_WIDTHS_S:
        smooth = [
            scipy.ndimage.gaussian_filter1d(a, width_s / view.bin_size_s, axis=1, mode="constant")
            for a in (total, trials)
        ]
        rates = (smooth[0] + _PSTH_TRIALS * mean) / (smooth[1] + _PSTH_TRIALS)
        rate = rates.reshape(cells, -1)[cell]
        fits.append(RateFit(rate, validation_loss(view, rate)))
    return min(fits, key=lambda fit: fit.validation_loss)


def reduced_rank(
    view: SessionView,
    shared: np.ndarray,
    own: np.ndarray,
    weights: np.ndarray,
    *,
    units: np.ndarray | None = None,
    offset: np.ndarray | None = None,
) -> RateFit:
    """A GLM with a part of its features confined to a few time courses that units share; rank by validation.

    The time courses are the leading singular vectors of the full GLM's log-rate by `shared`, units weighted by the
    square root of their rate (the precision of a log-rate); on them and on `own` the units are fitted anew.

    Args:
        view: The session.
        shared: `(R, F)` features of the full GLM, such as those of the task.
        own: `(R, K)` features, which keep full rank, such as drift.
        weights: `(F, U)` of the full GLM for `shared`.
        units: Columns of the counts to predict; all by default.
        offset: `(R, U)` log-rate.
    """
    train = view.rows_in("train")
    counts = view.counts if units is None else view.counts[:, units]
    log_rates = (shared @ weights) * np.sqrt(counts[train].mean(axis=0, dtype=float))
    directions = np.linalg.svd(log_rates[train] - log_rates[train].mean(axis=0), full_matrices=False)[2]
    fits: list[RateFit] = []
    for rank in RANKS:
        if rank > len(directions):
            break
        course = log_rates @ directions[:rank].T
        course = (course - course[train].mean(axis=0)) / max(float(course[train, 0].std()), 1e-9)
        # 4 puts the first time course on the scale of a whole block of task features.
        fits.append(poisson_glm(view, np.concatenate([4 * course, own], axis=1), units=units, offset=offset))
        if len(fits) > 1 and fits[-1].validation_loss > fits[-2].validation_loss:
            break
    return min(fits, key=lambda fit: fit.validation_loss)


def ensemble(view: SessionView, first: RateFit, second: RateFit) -> RateFit:
    """Geometric mean of two rates."""
    rate = np.sqrt(first.rate * second.rate)
    return RateFit(rate, validation_loss(view, rate))


# Encoding with track E2 and co-smoothing (b) of a session share it.
@lru_cache(maxsize=1)
def encoding_fits(view: SessionView, *, to_end: bool) -> dict[str, RateFit]:
    """The GLM, its reduced-rank form and their ensemble, with the inputs of track E2 (`to_end`) or E1."""
    drift, task = drift_features(view), task_features(view, to_end=to_end)
    glm = poisson_glm(view, np.concatenate([task, drift], axis=1))
    assert glm.weights is not None
    low = reduced_rank(view, task, drift, glm.weights[: task.shape[1]])
    return {"glm": glm, "reduced_rank_glm": low, "glm_ensemble": ensemble(view, glm, low)}


def encoding_nulls(view: SessionView, *, to_end: bool) -> dict[str, RateFit]:
    """Train mean, time PSTH, drift alone, and the GLM without the trial-scope behaviors (the choice)."""
    train = view.rows_in("train")
    mean = np.broadcast_to(view.counts[train].mean(axis=0, dtype=float), view.counts.shape)
    drift = drift_features(view)
    nulls = {
        "train_mean": RateFit(mean, validation_loss(view, mean)),
        "time_psth": psth(view),
        "drift": poisson_glm(view, drift),
    }
    behaviors = [name for name, c in view.trial_covariates.items() if c.spec.role == "behavior"]
    if behaviors:
        task = task_features(view, to_end=to_end, without=behaviors)
        nulls["glm_without_" + "_".join(behaviors)] = poisson_glm(view, np.concatenate([task, drift], axis=1))
    return nulls


def condition_psths(view: SessionView) -> dict[str, RateFit]:
    """A PSTH for every categorical trial-scope behavior (the choice PSTH); trials without the label share one."""
    return {
        f"{name}_psth": psth(view, np.where(c.observed, c.values + 1, 0))
        for name, c in view.trial_covariates.items()
        if c.spec.role == "behavior" and c.spec.kind == "categorical"
    }


def neuron_fits(view: SessionView, task: str, offset: np.ndarray | None = None) -> dict[str, RateFit]:
    """Counts of held-out units from counts of others in the same trial, t-5 .. t+5, fold by fold of `eval.unit_folds`.

    `neurons` is a ridge; in tasks of regions `reduced_rank` reads the same through a few time courses that the held-out
    units share.

    Args:
        view: The session.
        task: One of `eval.unit_folds.UNIT_TASKS`.
        offset: `(R, U)` log-rate of an encoding model: track (b). None: neurons only, track (a).

    Returns:
        Rates of all units; those of units in no fold are NaN and are not to be written.
    """
    names = ("neurons",) if task == "cosmooth" else ("neurons", "reduced_rank")
    train = view.rows_in("train")
    first = view.first_row()[view.trial]
    last = first + view.num_bins[view.trial] - 1
    counts = np.sqrt(view.counts.astype(float))
    windows = np.stack([window_mean(counts, first, last, near, far) for near, far in COSMOOTH_WINDOWS], axis=2)
    rates, losses = {name: np.full(view.counts.shape, np.nan) for name in names}, dict.fromkeys(names, 0.0)
    for fold in unit_folds(view, task):
        block = standardize(windows[:, fold.inputs].reshape(len(train), -1), train)
        units, known = fold.held_out, None if offset is None else offset[:, fold.held_out]
        fits = {"neurons": poisson_glm(view, block, units=units, offset=known)}
        if "reduced_rank" in names:
            weights = fits["neurons"].weights
            assert weights is not None
            fits["reduced_rank"] = reduced_rank(view, block, block[:, :0], weights, units=units, offset=known)
        for name, fit in fits.items():
            rates[name][:, units] = fit.rate
            losses[name] += fit.validation_loss
    return {name: RateFit(rates[name], losses[name]) for name in names}


def forecast_fits(view: SessionView) -> dict[str, RateFit]:
    """Last 20 % of each trial: `held` (the last 400 ms go on), `no_spikes`, and `neurons` on top of the latter.

    `neurons` reads, at the end of the known 80 %, principal components of all units' rates in a few windows, and the
    unit's own rates in them, the latter also fading with the time since then.
    """
    rows = forecast_rows(view)
    train = view.rows_in("train") & rows
    known = known_bins(view)
    events = {name: c.values[:, 0] for name, c in view.row_covariates.items() if c.spec.kind == "event"}
    leave_out = [*view.row_covariates, *(n for n, c in view.trial_covariates.items() if c.spec.role == "behavior")]
    task = task_features(view, to_end=True, without=leave_out)
    blocks = [task, drift_features(view)]
    if events:
        blocks.append(standardize(at_bin(view, event_features(view, events), known), train))
    no_spikes = poisson_glm(view, np.concatenate(blocks, axis=1), rows=rows)
    history = _histories(view, known)
    mean = view.counts[train].mean(axis=0, dtype=float)
    held = (history[-2] * HISTORY_S[-1] + mean * 0.1) / (HISTORY_S[-1] + 0.1)
    neurons = _forecast_neurons(view, rows, known, history, np.log(np.maximum(no_spikes.rate, 1e-9)))
    return {"held": RateFit(held, validation_loss(view, held, rows)), "no_spikes": no_spikes, "neurons": neurons}


def _histories(view: SessionView, known: np.ndarray) -> list[np.ndarray]:
    """Mean counts per bin `(R, U)` of the last `HISTORY_S` seconds, then of all, of the known part of each trial."""
    first = view.first_row()[view.trial]
    counts = view.counts.astype(float)
    out = []
    for span_s in (*HISTORY_S, np.inf):
        bins = len(counts) if np.isinf(span_s) else max(1, round(span_s / view.bin_size_s))
        number = np.minimum(bins, np.maximum(known, 1))[view.trial][:, None]
        out.append(at_bin(view, window_sum(counts, first, 0, bins - 1), known) / number)
    return out


def _forecast_neurons(
    view: SessionView, rows: np.ndarray, known: np.ndarray, history: list[np.ndarray], offset: np.ndarray
) -> RateFit:
    train, val = view.rows_in("train") & rows, view.rows_in("val") & rows
    shared = standardize(np.concatenate(np.sqrt(history), axis=1), train)
    axes = np.linalg.svd(shared[train], full_matrices=False)[2][:NUM_COMPONENTS]
    components = shared @ axes.T
    components = 2 * components / max(float(components[train, 0].std()), 1e-9)
    fading = np.exp(-(view.bin - known[view.trial]) * view.bin_size_s / 0.05)[:, None]
    num_units, losses, paths = view.counts.shape[1], np.zeros((len(PENALTIES), view.counts.shape[1])), []
    for u in range(num_units):
        own = np.sqrt(np.stack([h[:, u] for h in history], axis=1))
        own = standardize(np.concatenate([own, own * fading], axis=1), train)
        x = np.concatenate([np.ones((len(own), 1)), components, own], axis=1)
        fits = [
            choose_penalty(
                x[train],
                view.counts[train, u : u + 1],
                x[val],
                view.counts[val, u : u + 1],
                [penalty],
                offset=offset[train, u : u + 1],
                validation_offset=offset[val, u : u + 1],
                penalized=np.arange(x.shape[1]) > 0,
            )
            for penalty in PENALTIES
        ]
        losses[:, u] = [float(fit.validation_loss[0, 0]) for fit in fits]
        paths.append([log_rate(x, fit.weights, offset[:, u : u + 1])[:, 0] for fit in fits])
    best = int(np.argmin(losses.sum(axis=1)))
    return RateFit(np.exp(np.stack([path[best] for path in paths], axis=1)), float(losses[best].sum()))
