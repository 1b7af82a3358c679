"""The guided autoencoder and the network that reads activity back: closed forms, planted latents, seeds, no leaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from eval.studies.activity_decoder import from_frame_alone, read_back
from eval.studies.frame_decoders import Showings, by_role, decode_knn, flat, frame_labels
from eval.studies.guided_vae import VaeConfig, VaeFit, divergence, fit_vae, neural_r2

FRAMES, UNITS, LATENTS = 80, 24, 4
SMALL = VaeConfig(beta=0.001, num_latents=8, hidden=64, epochs=100)
QUICK = replace(SMALL, epochs=4)


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    """Latents `(F, 4)` behind the activity, the same in every showing."""
    return np.random.default_rng(1).normal(size=(FRAMES, LATENTS))


@pytest.fixture(scope="module")
def activity(source: np.ndarray) -> Showings:
    """Ten showings of linear mixtures of the latents, with noise of half their size."""
    rng = np.random.default_rng(2)
    clean = source @ rng.normal(size=(LATENTS, UNITS))
    clean /= clean.std(axis=0)
    noisy = clean + 0.5 * rng.normal(size=(10, FRAMES, UNITS))
    return by_role((3 + 2 * noisy).astype(np.float32), 2)


@pytest.fixture(scope="module")
def plain(activity: Showings) -> VaeFit:
    return fit_vae(activity, None, SMALL, seed=0)


def test_divergence_is_the_integral() -> None:
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(2, 30))
    at = np.linspace(-25, 25, 20001)[:, None]
    own, prior = norm(mean, np.exp(0.5 * log_variance)), norm(0, 1)
    expected = np.trapezoid(own.pdf(at) * (own.logpdf(at) - prior.logpdf(at)), at[:, 0], axis=0)
    found = divergence(torch.from_numpy(mean), torch.from_numpy(log_variance))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_neural_r2_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, 20, 5))
    predicted = true + rng.normal(size=true.shape)
    assert neural_r2(true, predicted) == pytest.approx(r2_score(flat(true), flat(predicted)))
    # A unit that never varies has no R2 and does not count.
    assert neural_r2(np.dstack([true, np.ones((3, 20))]), np.dstack([predicted, np.zeros((3, 20))])) == pytest.approx(
        r2_score(flat(true), flat(predicted))
    )


def test_it_keeps_planted_latents_as_well_as_principal_components(activity: Showings, plain: VaeFit) -> None:
    pca = PCA(LATENTS).fit(flat(activity.fit))
    rows = pca.inverse_transform(pca.transform(flat(activity.test)))
    linear = neural_r2(activity.test, rows.reshape(activity.test.shape))
    assert linear > 0.7
    assert neural_r2(activity.test, plain.reconstruction.test) > linear - 0.06
    assert plain.latents.fit.shape == (7, FRAMES, 8)
    assert plain.latents.test.shape == (1, FRAMES, 8)


def test_a_large_beta_leaves_nothing(activity: Showings) -> None:
    found = fit_vae(activity, None, replace(SMALL, beta=100.0, epochs=40), seed=0)
    assert np.abs(found.latents.test).max() < 0.1
    assert abs(neural_r2(activity.test, found.reconstruction.test)) < 0.05


def test_features_guide_the_latents() -> None:
    """Two latents for two features in a few units and two stronger things in many: guidance decides which are kept."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(FRAMES, 2))
    nuisance = rng.normal(size=(10, FRAMES, 2))
    mixed = np.concatenate(
        [nuisance @ rng.normal(size=(2, 20)), np.repeat(features[None] @ rng.normal(size=(2, 6)), 10, axis=0)], axis=2
    )
    given = by_role((mixed + 0.1 * rng.normal(size=mixed.shape)).astype(np.float32), 2)
    config = replace(SMALL, num_latents=2, beta=0.01, epochs=50)

    def held(found: VaeFit) -> float:
        target = [features[frame_labels(a)] for a in (found.latents.fit, found.latents.test)]
        model = LinearRegression().fit(flat(found.latents.fit), target[0])
        return float(r2_score(target[1], model.predict(flat(found.latents.test))))

    assert held(fit_vae(given, None, config, seed=0)) < 0.2
    assert held(fit_vae(given, features, replace(config, guide="features"), seed=0)) > 0.5


def test_the_frame_guides_the_latents_and_memorizes(activity: Showings) -> None:
    found = fit_vae(activity, None, replace(SMALL, guide="frame", dropout=0.2, epochs=50), seed=0)
    knn = decode_knn(found.latents, [1])
    assert (knn.predicted == np.arange(FRAMES)).mean() > 0.5


def test_same_seed_same_fit_and_no_global_state(activity: Showings) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (fit_vae(activity, None, QUICK, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(again.latents.test, first.latents.test)
    np.testing.assert_array_equal(again.validation_r2, first.validation_r2)
    assert not np.array_equal(other.latents.test, first.latents.test)


def test_the_test_showing_has_no_say(activity: Showings) -> None:
    changed = Showings(activity.fit, activity.validation, activity.test[:, ::-1] * 5)
    found, other = (fit_vae(given, None, QUICK, seed=0) for given in (activity, changed))
    np.testing.assert_array_equal(other.latents.fit, found.latents.fit)
    assert other.epoch == found.epoch
    first, second = (read_back(found.latents, a, seed=0) for a in (activity, changed))
    assert first.validation == second.validation
    assert first.test != second.test


def test_the_kept_epoch_is_after_annealing_and_stops_in_time(activity: Showings) -> None:
    found = fit_vae(activity, None, replace(SMALL, beta=1e-6, epochs=80, patience=3, hidden=128), seed=0)
    assert 20 <= found.epoch < len(found.validation_r2)
    assert len(found.validation_r2) - 1 - found.epoch <= 3


def test_read_back_of_planted_latents(activity: Showings, source: np.ndarray) -> None:
    latents = activity.map(lambda a: np.repeat(source[None], len(a), axis=0).astype(np.float32))
    ceiling = from_frame_alone(activity, [0])
    found = read_back(latents, activity, seed=0)
    # Signal of variance 1, noise of .25 in what is predicted and of .25 / 7 in the mean that predicts it.
    assert ceiling.test == pytest.approx(1 - 0.25 * (1 + 1 / 7) / 1.25, abs=0.03)
    assert found.test > ceiling.test - 0.05
    assert found == read_back(latents, activity, seed=0)
    noise = activity.map(lambda a: np.random.default_rng(len(a)).normal(size=(*a.shape[:2], 4)).astype(np.float32))
    assert read_back(noise, activity, seed=0).test < 0.02


def test_centered_r2_forgives_a_drift_of_the_mean(activity: Showings) -> None:
    drifted = Showings(activity.fit, activity.validation, activity.test + 10)
    found, before = from_frame_alone(drifted, [0]), from_frame_alone(activity, [0])
    assert found.test < 0 < before.test
    assert found.test_centered == pytest.approx(before.test_centered, abs=1e-4)


def test_guide_and_features_must_agree(activity: Showings, source: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features missing"):
        fit_vae(activity, None, replace(SMALL, guide="features"), seed=0)
    with pytest.raises(ValueError, match="features given"):
        fit_vae(activity, source, SMALL, seed=0)
