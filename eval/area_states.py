"""Held-out areas after NeuroPaint: a region's spikes from what a model infers while the whole region is hidden.

The states under the mask of `inter_region` take the place of NeuroPaint's factors, and a Poisson ridge reads the
region's units from them: fitted on train trials, its penalty chosen on validation trials, scored on test trials, where
`d2` is NeuroPaint's deviance fraction explained. NeuroPaint infers areas that training never saw in the session; here
adaptation saw the region's train trials, as the read-outs of every task did. Both measure what the other regions tell
of this one, with read-outs fitted to it, not a prediction without any of its spikes.

Source: NeuroPaint, arXiv 2510.11924 (evaluation; there the GLM has no penalty, and 60 % of the test trials fit it).
"""

from __future__ import annotations

import numpy as np

from eval.baselines_encoding import poisson_glm
from eval.design import standardize
from eval.model_predictions import trial_window
from eval.predictions import Prediction
from eval.session_view import SessionView
from eval.unit_folds import unit_folds
from foundation.model import FoundationModel
from foundation.predict import answers, hide_units
from foundation.sampling import WindowReader
from foundation.splits import NO_ROLE


def predict_area(
    model: FoundationModel, reader: WindowReader, recording_id: str, view: SessionView, name: str
) -> Prediction:
    """Rates of all units of each region on the test trials, a prediction of `inter_region` in track b.

    Args:
        model: Adapted to the session.
        reader: Opens it, with the model's channels and bin size.
        recording_id: The session.
        view: The session as evaluation sees it.
        name: Of the model, for the file.
    """
    test = view.rows_in("test")
    used = (view.roles != NO_ROLE) & (view.num_bins >= 1)
    windows = [trial_window(view, recording_id, int(m), int(view.num_bins[m])) for m in np.flatnonzero(used)]
    columns, parts = [], []
    for fold in unit_folds(view, "inter_region"):
        hidden = np.ones(len(view.unit), bool)
        hidden[view.unit[fold.inputs]] = False
        states = np.concatenate([one.states for one in answers(model, reader, windows, hide_units(hidden))])
        features = np.zeros((len(view.trial), states.shape[1]))
        features[used[view.trial]] = states
        fit = poisson_glm(view, standardize(features, view.rows_in("train")), units=fold.held_out)
        columns.append(fold.held_out)
        parts.append(fit.rate[test])
    rate = np.concatenate(parts, axis=1)
    return Prediction.of_rates(view, "inter_region", name, rate, test, columns=np.concatenate(columns), track="b")
