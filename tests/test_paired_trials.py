"""Two predictions on the same trials: the difference is that of their scores, and its blocks are of all test trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eval.paired_trials import paired_trials
from eval.predictions import Prediction
from eval.scoring import score
from eval.session_view import SessionView, TrialCovariate
from foundation.corpus import Corpus
from foundation.recording import CovariateSpec


@pytest.fixture(scope="module")
def view(synthetic_corpus: Corpus) -> SessionView:
    return SessionView.of(synthetic_corpus["synthetic/animal00_0"])


def prediction(view: SessionView, task: str, seed: int, noise: float) -> Prediction:
    """The truth (of rates, the mean) with noise."""
    rng = np.random.default_rng(seed)
    if task == "encode":
        rate = view.train_mean() * np.exp(noise * rng.normal(size=view.counts.shape))
        return Prediction.of_rates(view, task, "some", rate, np.ones(len(view.trial), bool), track="E2")
    if task == "choice":
        truth = view.trial_covariates["choice"].values
        return Prediction.of(
            view, task, "some", trial=view.source_trial, logit=2 * truth - 1 + rng.normal(0, noise, len(truth))
        )
    truth = view.row_covariates["wheel_speed"].values[:, 0]
    value = truth + noise * truth.std() * rng.normal(size=len(truth))
    return Prediction.of(view, task, "some", track="acausal", trial=view.source_row_trial, bin=view.bin, value=value)


@pytest.mark.parametrize(
    ("task", "metric", "sign", "noise"),
    [("encode", "bps", 1, 1.0), ("choice", "cross_entropy_bits", -1, 20.0), ("decode_wheel_speed", "r2", 1, 1.0)],
)
def test_the_gain_is_the_difference_of_the_scores(
    view: SessionView, task: str, metric: str, sign: int, noise: float
) -> None:
    good, bad = prediction(view, task, 0, 0.1), prediction(view, task, 1, noise)
    found = paired_trials(good, bad, view)
    assert found is not None
    assert found.metric == metric
    wanted = sign * (score(good, view)[metric].value - score(bad, view)[metric].value)
    assert found.gain.mean == pytest.approx(wanted, rel=1e-9)
    assert found.gain.low < found.gain.mean < found.gain.high
    assert found.gain.low > 0 or task == "choice"  # of few trials
    back = paired_trials(bad, good, view)
    assert back is not None
    assert back.gain.mean == pytest.approx(-wanted, rel=1e-9)
    # Test trials come in blocks of five.
    trials = len(view.trials_in("test", full=True))
    assert trials / 5 <= found.gain.n <= trials / 2


def test_trials_without_a_label_break_no_block(view: SessionView) -> None:
    choice = view.trial_covariates["choice"]
    observed = choice.observed & (np.arange(len(choice.observed)) % 2 == 0)
    half = replace(view, trial_covariates={"choice": replace(choice, observed=observed)})
    one = prediction(view, "choice", 0, 1.0)
    some, every = paired_trials(one, one, half), paired_trials(one, one, view)
    assert some is not None
    assert every is not None
    assert some.gain.n == every.gain.n


def test_a_value_per_trial_and_one_that_never_changes(view: SessionView) -> None:
    spec = CovariateSpec("contrast", "continuous", "trial")
    for values, varies in (
        (np.arange(len(view.source_trial)) / 7, True),
        (np.full(len(view.source_trial), 0.1), False),
    ):
        contrast = TrialCovariate(spec, values, np.ones(len(values), bool))
        other = replace(view, trial_covariates={"contrast": contrast})
        one, two = (
            Prediction.of(other, "contrast", "some", trial=view.source_trial, value=values + shift) for shift in (0, 1)
        )
        found, scores = paired_trials(one, two, other), score(one, other)
        assert (
            (found is not None) == np.isfinite(scores["r2"].value) == np.isfinite(scores["r_squared"].value) == varies
        )
        if found is not None:
            assert found.gain.mean == pytest.approx(1 - score(two, other)["r2"].value)


def test_nothing_to_gain_over_oneself(view: SessionView) -> None:
    one = prediction(view, "encode", 0, 0.5)
    found = paired_trials(one, one, view)
    assert found is not None
    assert found.gain.low == found.gain.mean == found.gain.high == 0


def test_a_mean_over_times_is_not_a_sum_over_trials(view: SessionView) -> None:
    one = Prediction.of(
        view, "choice_t", "some", trial=view.source_row_trial, bin=view.bin, logit=np.zeros(len(view.trial))
    )
    assert paired_trials(one, one, view) is None
