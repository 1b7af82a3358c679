"""Controls of decoding: sessions with one thing broken on purpose, on which the same decoder is fitted and scored.

    shuffled labels    labels of trials permuted among the trials of their role
    circular shift     a behavior in time moved around the session by a third to two thirds of it, so that it keeps its
                       own slow course: what drifts on both sides can be decoded from it as well
    shuffled neurons   the neurons permuted anew in every trial: what is left is how much they fire together

What a decoder scores there it owes to none of its neurons' relation to the label. Fits nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eval.session_view import SessionView


def broken_sessions(view: SessionView, covariate: str, seed: int = 0) -> dict[str, SessionView]:
    """The session in each of its controls, by name.

    Args:
        view: The session.
        covariate: What is decoded, of either scope.
        seed: Of permutations and shift.
    """
    if covariate in view.row_covariates:
        shifted = {"circular shift": shifted_behavior(view, covariate, seed)}
    else:
        shifted = {"shuffled labels": shuffled_labels(view, covariate, seed)}
    # One unit cannot be told from another anyway.
    return shifted | ({"shuffled neurons": shuffled_neurons(view, seed)} if view.counts.shape[1] > 1 else {})


def shuffled_labels(view: SessionView, name: str, seed: int = 0) -> SessionView:
    """Values of a trial covariate permuted among the observed trials of one role; their shares stay."""
    rng, covariate = np.random.default_rng(seed), view.trial_covariates[name]
    values = covariate.values.copy()
    for role in np.unique(view.full_roles):
        trials = np.flatnonzero((view.full_roles == role) & covariate.observed)
        values[trials] = values[rng.permutation(trials)]
    return replace(view, trial_covariates={**view.trial_covariates, name: replace(covariate, values=values)})


def shifted_behavior(view: SessionView, name: str, seed: int = 0) -> SessionView:
    """A covariate in time, rolled by a random third to two thirds of the rows where it was observed, among these."""
    covariate = view.row_covariates[name]
    seen, values = np.flatnonzero(covariate.observed), covariate.values.copy()
    by = int(np.random.default_rng(seed).integers(len(seen) // 3, 2 * len(seen) // 3 + 1))
    values[seen] = np.roll(values[seen], by, axis=0)
    return replace(view, row_covariates={**view.row_covariates, name: replace(covariate, values=values)})


def shuffled_neurons(view: SessionView, seed: int = 0) -> SessionView:
    """Units permuted anew in each trial, all bins of a trial alike."""
    rng, counts = np.random.default_rng(seed), view.counts.copy()
    for first, size in zip(view.first_row().tolist(), view.num_bins.tolist()):
        counts[first : first + size] = counts[first : first + size, rng.permutation(counts.shape[1])]
    return replace(view, counts=counts)
