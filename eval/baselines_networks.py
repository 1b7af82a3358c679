"""Networks of one session as baselines: decoders of labels and behavior, and a sequential VAE that predicts spikes.

What a model of many sessions has to beat is also a network that saw only this one. The networks themselves, and what
a convex problem or a closed form gives, are elsewhere.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from eval.baselines_decoding import labels_of, trace_inputs, values_of
from eval.baselines_encoding import RateFit, poisson_glm
from eval.design import standardize
from eval.linear_fits import ScalarFit
from eval.scoring import forecast_rows, known_bins
from eval.sequential_vae import PaddedTrials, VaeConfig, fit_sequential_vae
from eval.session_mlp import mlp_fit
from eval.session_view import SessionView
from eval.trial_windows import WINDOW_SETS, window_rates
from eval.unit_folds import unit_folds

# Of the windows of a trial, those that a network is tried on.
_WINDOWS = ("halves", "quarters", "last 100, 200 ms and before")


def label_network(view: SessionView, name: str) -> ScalarFit:
    """Logits `(M,)` of a trial-scope label of two classes, from rates in windows of the trial."""
    target, train, val = labels_of(view, name)
    fits = [mlp_fit(rates, target, train, val, "label") for rates in _rates(view, train)]
    return min(fits, key=lambda fit: fit.validation_loss)


def value_network(view: SessionView, name: str) -> ScalarFit:
    """Values `(M,)` of a continuous trial-scope covariate, from rates in windows of the trial."""
    target, train, val = values_of(view, name)
    fits = [mlp_fit(rates, target, train, val, "value") for rates in _rates(view, train)]
    return min(fits, key=lambda fit: fit.validation_loss)


def _rates(view: SessionView, train: np.ndarray) -> list[np.ndarray]:
    return [standardize(window_rates(view, WINDOW_SETS[name]), train) for name in _WINDOWS]


def trace_network(view: SessionView, name: str, *, causal: bool) -> ScalarFit:
    """A continuous behavior in time `(R,)`, from the inputs of the Wiener decoder."""
    inputs = trace_inputs(view, name, causal=causal)
    train, val = np.flatnonzero(inputs.train), np.flatnonzero(inputs.val)
    return mlp_fit(inputs.neural, inputs.target, train, val, "value", seeds=(0,), batch_size=256)


def sequential_cosmooth(
    view: SessionView, task: str, offset: np.ndarray | None = None, *, seed: int = 0, config: VaeConfig | None = None
) -> RateFit:
    """Counts of held-out units from factors of the other units in the whole trial, as masked models read it.

    One network is trained on the questions of all folds; a Poisson ridge reads each fold's units from its factors.

    Args:
        view: The session.
        task: One of `eval.unit_folds.UNIT_TASKS`.
        offset: `(R, U)` log-rate of an encoding model: track (b). None: neurons only, track (a).
        seed: Of the network.
        config: Sizes and training.

    Returns:
        Rates of all units; those of units in no fold are NaN and are not to be written.
    """
    rate, loss = np.full(view.counts.shape, np.nan), 0.0
    for fold, factors in zip(unit_folds(view, task), _unit_factors(view, task, seed, config)):
        fit = poisson_glm(
            view,
            standardize(factors, view.rows_in("train")),
            units=fold.held_out,
            offset=None if offset is None else offset[:, fold.held_out],
        )
        rate[:, fold.held_out] = fit.rate
        loss += fit.validation_loss
    return RateFit(rate, loss)


# Tracks (a) and (b) of a task ask the same network.
@lru_cache(maxsize=1)
def _unit_factors(view: SessionView, task: str, seed: int, config: VaeConfig | None) -> list[np.ndarray]:
    """`(R, d)` of each fold."""
    folds = unit_folds(view, task)
    readable, asked = np.zeros((2, len(folds), len(view.unit)), bool)
    for k, fold in enumerate(folds):
        readable[k, fold.inputs], asked[k, fold.held_out] = True, True
    return _factors(view, view.num_bins, readable, asked, seed, config)


def sequential_forecast(
    view: SessionView, offset: np.ndarray, *, seed: int = 0, config: VaeConfig | None = None
) -> RateFit:
    """The last 20 % of each trial: the generator that was started by its first 80 % runs on.

    Args:
        view: The session.
        offset: `(R, U)` log-rate from everything but spikes.
        seed: Of the network.
        config: Sizes and training.
    """
    rows, every = forecast_rows(view), np.ones((1, len(view.unit)), bool)
    (factors,) = _factors(view, known_bins(view), every, every, seed, config)
    return poisson_glm(view, standardize(factors, view.rows_in("train") & rows), rows=rows, offset=offset)


def _factors(
    view: SessionView,
    known: np.ndarray,
    readable: np.ndarray,
    asked: np.ndarray,
    seed: int,
    config: VaeConfig | None,
) -> list[np.ndarray]:
    """`(R, d)` of each question; 0 in trials without a known bin (`known`, `(M,)`)."""
    trials = np.flatnonzero(known > 0)
    num_bins = view.num_bins[trials]
    inside, rows = np.arange(num_bins.max()) < num_bins[:, None], np.isin(view.trial, trials)
    counts = np.zeros((*inside.shape, view.counts.shape[1]), np.float32)
    counts[inside] = view.counts[rows]
    train, val = (np.flatnonzero(np.isin(trials, view.trials_in(role))) for role in ("train", "val"))
    padded = PaddedTrials(counts, num_bins, known[trials])
    found = []
    for factors in fit_sequential_vae(padded, readable, asked, train, val, seed=seed, config=config):
        found.append(np.zeros((len(view.trial), factors.shape[2])))
        found[-1][rows] = factors[inside]
    return found
