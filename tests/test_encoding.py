"""The encoding read-out: its optimum, what the population teaches it, and what it must not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.checkpoint import load_model
from foundation.encoding import PSEUDO_UNITS, STRENGTH, fit_encoding, learn_population, stored_prior
from foundation.fingerprint import learn_fingerprints
from foundation.model import FoundationModel
from foundation.predict import answers, hide_spikes
from foundation.readout import log_rates
from foundation.readout_features import SessionFeatures
from foundation.training_data import TrainingData
from foundation.weight_prior import fit_weights, session_prior

KEY = "synthetic/animal00_0"


def rows(model: FoundationModel, pretrained_data: TrainingData, key: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = {name: value.double().numpy() for name, value in model.readouts[key].items()}
    features = SessionFeatures.of_arrays(model, pretrained_data.reader, key, arrays)
    found = list(answers(model, pretrained_data.reader, pretrained_data.train[key], hide_spikes))
    x = np.concatenate([features.shared("encode", answer) for answer in found])
    return x, np.concatenate([features.counts(answer.window) for answer in found])


def test_pretraining_leaves_a_prior_and_a_read_out_of_every_session(
    pretrained: FoundationModel, pretrained_data: TrainingData
) -> None:
    prior = stored_prior(pretrained)
    assert prior is not None
    assert np.linalg.eigvalsh(prior.covariance).min() > 0
    assert set(pretrained.readouts) == set(pretrained.adapters.sessions["recording_id"])
    rates = np.concatenate(list(log_rates(pretrained, pretrained_data.reader, pretrained_data.val[KEY], "encode")))
    direct = np.concatenate(
        [a.log_rates for a in answers(pretrained, pretrained_data.reader, pretrained_data.val[KEY], hide_spikes)]
    )
    assert not np.allclose(rates, direct)


def test_the_stored_weights_are_the_optimum(pretrained: FoundationModel, pretrained_data: TrainingData) -> None:
    x, counts = rows(pretrained, pretrained_data, KEY)
    arrays = {name: value.double().numpy() for name, value in pretrained.readouts[KEY].items()}
    prior = stored_prior(pretrained)
    assert prior is not None
    own = session_prior(prior, fit_weights(prior, x, counts), PSEUDO_UNITS)
    z, inverse = own.standardize(x), np.linalg.inv(own.covariance)

    def loss(weights: np.ndarray) -> np.ndarray:
        rate = arrays["encode.constant"] + z @ weights
        away = weights - own.center[:, None]
        return (np.exp(rate) - counts * rate).sum(axis=0) + STRENGTH / 2 * np.einsum("fn,fg,gn->n", away, inverse, away)

    best, rng = loss(arrays["encode.weights"]), np.random.default_rng(0)
    for _ in range(20):
        step = own.root @ rng.normal(size=arrays["encode.weights"].shape) * 0.3
        assert (loss(arrays["encode.weights"] + step) > best).all()


def test_learning_reads_no_validation_window_and_is_repeatable(
    pretrained: FoundationModel, pretrained_data: TrainingData
) -> None:
    blind = TrainingData(pretrained_data.reader, pretrained_data.train, {key: [] for key in pretrained_data.train})
    again = load_model(pretrained.name_or_path)
    learn_population(again, blind)
    learn_fingerprints(again, blind)
    for name, value in pretrained.population.items():
        assert torch.equal(value, again.population[name]), name
    for key, arrays in pretrained.readouts.items():
        assert all(torch.equal(value, again.readouts[key][name]) for name, value in arrays.items()), key


def test_the_prior_survives_saving_and_a_new_start(pretrained: FoundationModel, tmp_path: Path) -> None:
    pretrained.save_pretrained(tmp_path)
    loaded = FoundationModel.from_pretrained(tmp_path)
    loaded.keep_sessions([])
    assert not loaded.readouts
    for name, value in pretrained.population.items():
        assert torch.equal(value, loaded.population[name])


def test_units_with_hardly_a_spike_teach_no_prior(
    pretrained: FoundationModel, pretrained_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(pretrained.name_or_path)
    monkeypatch.setattr("foundation.encoding.MIN_SPIKES", 10**9)
    learn_population(model, pretrained_data)
    prior = stored_prior(model)
    assert prior is not None
    assert not prior.center.any()
    assert np.isfinite(model.readouts[KEY]["encode.weights"]).all()


def test_a_model_without_a_prior_starts_from_sizes_set_by_hand(tiny_run: Path, pretrained_data: TrainingData) -> None:
    bare = load_model(tiny_run)
    with_prior = fit_encoding(bare, pretrained_data.reader, KEY, pretrained_data.train[KEY])
    bare.population = {}
    without = fit_encoding(bare, pretrained_data.reader, KEY, pretrained_data.train[KEY])
    assert np.isfinite(without["encode.weights"]).all()
    assert not np.allclose(with_prior["encode.constant"], without["encode.constant"])
