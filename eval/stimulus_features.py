"""What is known of a trial without its spikes, as features of linear decoders; fits nothing."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from eval.design import standardize
from eval.session_view import SessionView


def stimulus_features(view: SessionView, *, until: np.ndarray | None = None) -> np.ndarray:
    """What is known of a trial without its spikes, `(M, F)`, standardized on train trials and scaled by a prior.

    Stimulus events: totals, differences between two kinds (also in quarters of the trial, as tanh and as a ratio);
    trial-scope stimulus and task covariates; the trial's index, and its number of bins.

    Args:
        view: The session.
        until: `(M,)` bins of each trial that may be read. Trial-scope stimuli (summaries of the whole trial) and the
            trial's length are then left out. None: all of it.
    """
    events = {
        n: c.values[:, 0] for n, c in view.row_covariates.items() if (c.spec.kind, c.spec.role) == ("event", "stimulus")
    }
    first, num = view.first_row(), view.num_bins if until is None else np.minimum(until, view.num_bins)
    details, columns = [np.arange(len(num)).astype(float)], []
    if until is None:
        details.append(num.astype(float))
    totals = {name: np.concatenate([[0.0], np.cumsum(v, dtype=float)]) for name, v in events.items()}
    details += [t[first + num] - t[first] for t in totals.values()]
    for one, other in combinations(totals.values(), 2):
        edges = [first + np.round(q * num).astype(np.int64) for q in (0, 0.25, 0.5, 0.75, 1)]
        quarters = [(one[b] - one[a]) - (other[b] - other[a]) for a, b in pairwise(edges)]
        both = one[edges[-1]] - one[edges[0]] + other[edges[-1]] - other[edges[0]]
        difference = np.sum(quarters, axis=0)
        details += quarters
        columns += [difference, np.tanh(difference / 3), np.tanh(difference / 8), difference / np.maximum(both, 1)]
    for covariate in view.trial_covariates.values():
        role, classes = covariate.spec.role, covariate.spec.num_classes
        if role == "behavior" or (role == "stimulus" and until is not None and events):
            continue
        values = np.where(covariate.observed, covariate.values, 0)
        columns += list(np.eye(classes)[values.astype(np.int64)].T) if classes > 2 else [values.astype(float)]
    scaled = standardize(np.stack(details + columns, axis=1), view.trials_in("train"))
    # The sums say nearly all; index, length, totals and quarters must earn more to count as much.
    return scaled * np.where(np.arange(scaled.shape[1]) < len(details), 0.3, 1.0)
