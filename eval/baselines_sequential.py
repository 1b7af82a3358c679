"""Co-smoothing and forecasts of a session by a sequential VAE: slow baselines, tens of CPU seconds each, for who asks.

In co-smoothing the network reads the other units over the whole trial, as masked models do: more than the t-5 .. t+5
of the classical baselines.
"""

from __future__ import annotations

import numpy as np

from eval.baselines_encoding import RateFit, poisson_glm, validation_loss
from eval.design import standardize
from eval.scoring import FORECAST_KNOWN, cosmooth_folds, forecast_rows
from eval.sequential_vae import PaddedTrials, VaeConfig, fit_sequential_vae
from eval.session_view import SessionView


def sequential_cosmooth(
    view: SessionView, offset: np.ndarray | None = None, *, seed: int = 0, config: VaeConfig | None = None
) -> RateFit:
    """Counts of held-out units from the other units, all folds by one network that is trained on all of them.

    Args:
        view: The session.
        offset: `(R, U)` log-rate of an encoding model: track (b). None: neurons only, track (a).
        seed: Of the network.
        config: Sizes and training.

    Returns:
        Rates of all units; those of units in no fold are NaN and are not to be written.
    """
    folds = cosmooth_folds(view)
    readable, asked = np.zeros((2, len(folds), len(view.unit)), bool)
    for k, fold in enumerate(folds):
        readable[k, fold.inputs], asked[k, fold.held_out] = True, True
    trials = np.flatnonzero(view.num_bins > 0)
    padded = _pad(view, trials, _log_mean(view), view.num_bins)
    train, val = (np.flatnonzero(np.isin(trials, view.trials_in(role))) for role in ("train", "val"))
    answer = fit_sequential_vae(padded, readable, asked, train, val, seed=seed, config=config)
    rate, loss = np.full(view.counts.shape, np.nan), 0.0
    inside = np.arange(padded.counts.shape[1]) < padded.num_bins[:, None]
    for k, fold in enumerate(folds):
        factors, direct = (found[inside] for found in answer(k))
        fit = poisson_glm(
            view,
            standardize(factors, view.rows_in("train")),
            units=fold.held_out,
            offset=None if offset is None else offset[:, fold.held_out],
        )
        rate[:, fold.held_out] = fit.rate
        loss += fit.validation_loss
        print(k, fit.validation_loss, validation_loss(view, direct, units=fold.held_out), fit.weights.std())
    return RateFit(rate, loss)


def sequential_forecast(
    view: SessionView, offset: np.ndarray, *, seed: int = 0, config: VaeConfig | None = None
) -> RateFit:
    """The last 20 % of each trial from its first 80 %: the generator runs on.

    Args:
        view: The session.
        offset: `(R, U)` log-rate from everything but spikes.
        seed: Of the network.
        config: Sizes and training.
    """
    known = np.floor(FORECAST_KNOWN * view.num_bins + 1e-9).astype(np.int64)
    trials = np.flatnonzero(known > 0)
    padded = _pad(view, trials, _log_mean(view), known)
    train, val = (np.flatnonzero(np.isin(trials, view.trials_in(role))) for role in ("train", "val"))
    every = np.ones((1, len(view.unit)), bool)
    answer = fit_sequential_vae(padded, every, every, train, val, seed=seed, config=config)
    # A trial too short for a known bin has factors of 0.
    inside = np.arange(padded.counts.shape[1]) < padded.num_bins[:, None]
    found, direct = answer(0)
    factors = np.zeros((len(view.trial), found.shape[2]))
    factors[np.isin(view.trial, trials)] = found[inside]
    rows = forecast_rows(view)
    print("direct",validation_loss(view,direct[inside],rows))
    return poisson_glm(view, standardize(factors, view.rows_in("train") & rows), rows=rows, offset=offset)


def _log_mean(view: SessionView) -> np.ndarray:
    mean = view.counts[view.rows_in("train")].mean(axis=0, dtype=float)
    return np.broadcast_to(np.log(np.maximum(mean, 1e-4)), view.counts.shape)


def _pad(view: SessionView, trials: np.ndarray, offset: np.ndarray, known: np.ndarray) -> PaddedTrials:
    num_bins = view.num_bins[trials]
    inside = np.arange(num_bins.max()) < num_bins[:, None]
    rows = np.isin(view.trial, trials)
    counts, offsets = np.zeros((2, *inside.shape, view.counts.shape[1]), np.float32)
    counts[inside], offsets[inside] = view.counts[rows], offset[rows]
    return PaddedTrials(counts, offsets, num_bins, known[trials])
