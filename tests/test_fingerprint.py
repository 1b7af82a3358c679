"""Fingerprints: each statistic against a naive loop or a closed form, what they must not read, how they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.channels import DataConfig, find_channels
from foundation.checkpoint import load_model
from foundation.corpus import write_manifest
from foundation.encoding import encoding_features, encoding_log_rates, learn_population
from foundation.fingerprint import (
    FINGERPRINT,
    PREFIX,
    fit_fingerprints,
    learn_fingerprints,
    task_functionals,
    task_response,
)
from foundation.model import FoundationModel
from foundation.model_config import ModelConfig
from foundation.recording import Recording
from foundation.recording_folder import write_recording
from foundation.sampling import WindowReader
from foundation.spiking_statistics import (
    OWN_LAGS_S,
    coupling,
    dispersion,
    history_evidence,
    history_prior,
    history_weights,
    lag_edges,
)
from foundation.splits import ROLES, session_roles, stretches
from foundation.training_data import TrainingData, add_sessions, training_data

KEY = "synthetic/animal00_0"
BIN = 0.02


@pytest.fixture(scope="module")
def spikes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, expected counts and lengths of windows; the last unit is silent."""
    rng = np.random.default_rng(0)
    lengths = np.array([14, 30, 3, 25, 12])
    rates = rng.uniform(0.02, 0.8, (lengths.sum(), 4))
    counts = rng.poisson(rates * rng.gamma(2, 0.5, rates.shape)).astype(float)
    counts[:, 3], rates[:, 3] = 0, 1e-5
    return counts, rates, lengths


# -- spiking ----------------------------------------------------------------------------------------------------------


def test_dispersion_is_that_of_a_loop_over_blocks(spikes: tuple[np.ndarray, ...]) -> None:
    counts, rates, lengths = spikes
    found = dispersion(counts, rates, lengths, BIN)
    edges = np.cumsum([0, *lengths])
    for n in range(4):
        expected = [
            np.log(((counts[:, n] == k).sum() + 1) / (np.sum(np.exp(-rates[:, n]) * rates[:, n] ** k / f) + 1))
            for k, f in ((0, 1), (1, 1), (2, 2))
        ]
        few = sum(np.exp(-rates[:, n]) * rates[:, n] ** k / f for k, f in ((0, 1), (1, 1), (2, 2)))
        expected.append(np.log(((counts[:, n] >= 3).sum() + 1) / (np.sum(1 - few) + 1)))
        for size in (1, 3, 6, 12, None):
            blocks = []
            for a, b in pairwise(edges):
                step = size or b - a
                blocks += [slice(i, i + step) for i in range(a, b - step + 1, step)]
            seen = np.array([counts[block, n].sum() for block in blocks])
            mean = np.array([rates[block, n].sum() for block in blocks])
            expected.append(np.log(np.mean((seen - mean) ** 2) + 0.01) - np.log(mean.mean() + 0.01))
        expected.append(np.log((np.sum(seen == 0) + 1) / (np.exp(-mean).sum() + 1)))
        np.testing.assert_allclose(found[n], expected, atol=1e-9)


def test_poisson_spikes_have_no_dispersion_and_shared_gain_has() -> None:
    rng = np.random.default_rng(1)
    lengths = np.full(800, 25)
    rates = rng.uniform(0.1, 0.5, (lengths.sum(), 2))
    gain = np.repeat(rng.gamma(4, 0.25, len(lengths)), lengths)
    counts = np.stack([rng.poisson(rates[:, 0]), rng.poisson(rates[:, 1] * gain)], axis=1).astype(float)
    found = dispersion(counts, rates, lengths, BIN)
    # Sums over whole windows: variance of a sum of Poisson counts of mean m under a gain of variance v is m + v m^2.
    mean = rates[:, 1].reshape(800, 25).sum(axis=1)
    assert np.abs(found[0, 4:9]).max() < 0.15
    assert found[1, 8] == pytest.approx(np.log(np.mean(mean + 0.25 * mean**2) / mean.mean()), abs=0.15)


def test_coupling_is_that_of_a_loop_over_pairs(spikes: tuple[np.ndarray, ...]) -> None:
    counts, rates, lengths = spikes
    found = coupling(counts, rates, lengths)
    z = (counts - rates) / np.sqrt(np.maximum(rates, 1e-4))
    z = (z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-9)
    z[:, 3] = 0
    windows = np.split(z, np.cumsum(lengths)[:-1])

    def lagged(n: int, m: int, lag: int) -> float:
        """Mean of unit n now times unit m `lag` bins before."""
        return float(np.concatenate([w[lag:, n] * w[: len(w) - lag, m] for w in windows if len(w) > lag]).mean())

    sums = np.stack([w.sum(axis=0) / np.sqrt(len(w)) for w in windows])
    for n in range(4):
        rest = [m for m in range(4) if m != n]
        now = [np.mean(z[:, n] * z[:, m]) for m in rest]
        expected = [np.mean(now), np.std(now)]
        for lags in ((1,), (2, 3, 4)):
            expected.append(np.mean([sum(lagged(n, m, lag) for lag in lags) for m in rest]))
            expected.append(np.mean([sum(lagged(m, n, lag) for lag in lags) for m in rest]))
        with np.errstate(invalid="ignore"):
            trials = np.nan_to_num(np.corrcoef(sums.T))
        expected.append(np.mean([trials[n, m] for m in rest]))
        np.testing.assert_allclose(found[n], expected, atol=1e-9)


def test_one_unit_alone_has_no_coupling(spikes: tuple[np.ndarray, ...]) -> None:
    counts, rates, lengths = spikes
    assert np.array_equal(coupling(counts[:, :1], rates[:, :1], lengths), np.zeros((1, 7)))


def test_the_prior_of_history_is_recovered_from_simulated_units() -> None:
    """60 units whose past 20 ms inhibit and whose past 40 to 60 ms excite, with a spread over units."""
    rng = np.random.default_rng(2)
    lengths, num = np.full(30, 50), 60
    edges = lag_edges(OWN_LAGS_S, BIN)
    assert edges.tolist() == [0, 1, 2, 3, 5, 9, 14, 20]
    center = np.array([-0.8, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0])
    truth = center + 0.2 * rng.normal(size=(num, 7))
    log_rate = np.full(num, np.log(0.25))
    windows = []
    for length in lengths:
        window, residual = np.zeros((length, num)), np.zeros((length, num))
        for t in range(length):
            past = np.stack([residual[max(t - b, 0) : max(t - a, 0)].sum(axis=0) for a, b in pairwise(edges)])
            window[t] = rng.poisson(np.exp(np.minimum(log_rate + np.einsum("nl,ln->n", truth, past), 1.0)))
            residual[t] = window[t] - np.exp(log_rate)
        windows.append(window)
    counts = np.concatenate(windows)
    evidence = history_evidence(counts, np.broadcast_to(log_rate, counts.shape), lengths, BIN)
    mean, covariance = history_prior(*evidence)
    np.testing.assert_allclose(mean, center, atol=0.15)
    assert (np.sqrt(np.diag(covariance)) < 0.35).all()
    found = history_weights(*evidence, mean, covariance)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.85
    # Nearer to the truth than what the counts of each unit say alone.
    alone = history_weights(*evidence, np.zeros(7), 1e4 * np.eye(7))
    assert np.mean((found - truth) ** 2) < 0.9 * np.mean((alone - truth) ** 2)


# -- functionals ------------------------------------------------------------------------------------------------------


def test_functionals_are_differences_of_predicted_mean_log_rates() -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 40, 50)
    step = np.concatenate([np.arange(n) for n in lengths])
    to_end = np.concatenate([np.arange(n)[::-1] for n in lengths])
    trial = np.repeat(np.arange(50), lengths)
    features, weights = rng.normal(size=(len(step), 6)), rng.normal(size=(6, 3))
    choice = rng.integers(0, 3, 50).astype(float)[trial]
    choice[trial < 4] = np.nan
    contrast, speed = rng.normal(size=50)[trial], rng.normal(size=len(step))
    values = [("categorical", "trial", choice), ("continuous", "trial", contrast), ("continuous", "time", speed)]
    found = task_functionals(features, step, to_end, values, [], BIN)
    rates = features @ weights
    # 9 windows from the start hold bins of trials under 0.8 s, and 4 to the end; tuning has 4 and 4.
    assert found["profile"].shape == (13, 6)
    assert found["contrasts"].shape == (2 * 8 + 8 + 1, 6)
    early, last = (step >= 3) & (step < 6), to_end < 3
    profile, contrasts = found["profile"] @ weights, found["contrasts"] @ weights
    np.testing.assert_allclose(profile[1], rates[early].mean(axis=0) - rates.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(profile[9], rates[last].mean(axis=0) - rates.mean(axis=0), atol=1e-12)
    second = (step >= 6) & (step < 12)
    difference = rates[second & (choice == 2)].mean(axis=0) - rates[second & (choice == 0)].mean(axis=0)
    np.testing.assert_allclose(contrasts[8 + 1], difference, atol=1e-12)
    slope = np.polyfit(contrast[second], rates[second], 1)[0] * contrast.std()
    np.testing.assert_allclose(contrasts[16 + 1], slope, atol=1e-12)
    np.testing.assert_allclose(contrasts[24], np.polyfit(speed, rates, 1)[0] * speed.std(), atol=1e-12)
    response = task_response(weights, found)
    np.testing.assert_allclose(response, np.concatenate([profile, np.abs(contrasts)]).T, atol=1e-12)


def test_effects_of_events_are_those_that_the_features_were_made_with() -> None:
    rng = np.random.default_rng(4)
    step = np.tile(np.arange(30), 400)
    events = [rng.poisson(0.1, (len(step), 3)).astype(float) for _ in range(2)]
    course = np.sin(step / 5)[:, None] * np.ones(4)
    effects = rng.normal(size=(2, 3, 4))
    features = course + sum(e @ f for e, f in zip(events, effects))
    found = task_functionals(features, step, step[::-1], [], events, BIN)
    np.testing.assert_allclose(found["events"], effects, atol=0.02)
    response = task_response(np.eye(4), found)[:, len(found["profile"]) :]
    np.testing.assert_allclose(response[:, :3], effects.mean(axis=0).T, atol=0.02)
    np.testing.assert_allclose(response[:, 3:], np.abs(effects[0] - effects[1]).T, atol=0.02)


def test_without_trials_and_covariates_there_is_nothing_to_ask() -> None:
    features, outside = np.random.default_rng(5).normal(size=(40, 6)), np.full(40, -1)
    found = task_functionals(features, outside, outside, [], [], BIN)
    assert {name: len(f) for name, f in found.items()} == {"profile": 0, "contrasts": 0, "events": 0}
    assert task_response(np.ones((6, 5)), found).shape == (5, 0)


# -- in a model -------------------------------------------------------------------------------------------------------


def prints(model: FoundationModel, key: str = KEY) -> np.ndarray:
    return model.readouts[key][FINGERPRINT].numpy()


def test_pretraining_leaves_fingerprints_of_every_session(
    pretrained: FoundationModel, pretrained_data: TrainingData
) -> None:
    sizes = {prints(pretrained, key).shape[1] for key in pretrained.readouts}
    assert len(sizes) == 1
    for key in pretrained.readouts:
        found = prints(pretrained, key)
        assert found.dtype == np.float32
        assert len(found) == pretrained_data.reader.recording(key).num_units
        assert np.isfinite(found).all()
        assert (found.std(axis=0) > 0).mean() > 0.9
        assert np.array_equal(pretrained.unit_embeddings(key), found)
    assert {name for name in pretrained.population if name.startswith(PREFIX)} == {
        PREFIX + name for name in ("profile", "contrasts", "events", "history_mean", "history_covariance")
    }


def test_stored_columns_are_the_answers_to_the_functionals(
    pretrained: FoundationModel, pretrained_data: TrainingData
) -> None:
    arrays = {name: value.double().numpy() for name, value in pretrained.readouts[KEY].items()}
    windows = pretrained_data.train[KEY]
    z = np.concatenate(list(encoding_features(pretrained, pretrained_data.reader, windows, arrays)))
    rates = np.concatenate(list(encoding_log_rates(pretrained, pretrained_data.reader, windows, arrays)))
    np.testing.assert_allclose(arrays["encode.constant"] + z @ arrays["encode.weights"], rates, atol=1e-9)
    profile = pretrained.population[f"{PREFIX}profile"].double().numpy() @ arrays["encode.weights"]
    np.testing.assert_allclose(prints(pretrained)[:, : len(profile)], profile.T, rtol=1e-3, atol=1e-4)


def test_learning_is_repeatable_and_equals_fitting_one_session(
    pretrained: FoundationModel, pretrained_data: TrainingData
) -> None:
    again = load_model(pretrained.name_or_path)
    blind = TrainingData(pretrained_data.reader, pretrained_data.train, {key: [] for key in pretrained_data.train})
    learn_fingerprints(again, blind)
    for name, value in pretrained.population.items():
        assert torch.equal(value, again.population[name]), name
    assert np.array_equal(prints(pretrained), prints(again))
    fit_fingerprints(again, TrainingData(pretrained_data.reader, {KEY: pretrained_data.train[KEY]}, {KEY: []}))
    # The prior and the functionals were stored in single precision.
    np.testing.assert_allclose(prints(again), prints(pretrained), rtol=1e-3, atol=1e-4)


def test_spikes_of_test_trials_change_nothing(
    pretrained: FoundationModel, pretrained_data: TrainingData, tmp_path: Path
) -> None:
    recording = pretrained_data.reader.recording(KEY)
    roles, bounds = session_roles(recording), stretches(recording)
    last = np.maximum(bounds[:, 0].searchsorted(recording.spike_times, side="right") - 1, 0)
    inside = recording.spike_times < bounds[last, 1]
    drop = inside & np.isin(roles[last], (ROLES["test"], ROLES["val"]))
    assert drop.sum() > 100
    changed = replace(recording, spike_times=recording.spike_times[~drop], spike_units=recording.spike_units[~drop])
    write_recording(tmp_path, changed)
    reader = WindowReader(write_manifest(tmp_path), pretrained.channels, BIN)
    again = load_model(pretrained.name_or_path)
    fit_fingerprints(again, data_of(pretrained_data, KEY))
    before = prints(again).copy()
    fit_fingerprints(again, training_data(reader, [KEY], pretrained.config.window_s, session_roles))
    assert np.array_equal(prints(again), before)


def test_permuting_units_permutes_rows_and_a_silent_unit_is_finite(
    pretrained: FoundationModel, pretrained_data: TrainingData, tmp_path: Path
) -> None:
    again = load_model(pretrained.name_or_path)
    recording = pretrained_data.reader.recording(KEY)
    loud = recording.spike_units != 0
    silent = replace(recording, spike_times=recording.spike_times[loud], spike_units=recording.spike_units[loud])
    order = np.random.default_rng(6).permutation(recording.num_units)
    place = np.argsort(order)
    turned = replace(
        silent,
        spike_units=place[silent.spike_units].astype(np.int32),
        units=silent.units.iloc[order].reset_index(drop=True),
    )
    found = []
    stored = dict(again.readouts[KEY])
    for number, (made, units) in enumerate(((silent, np.arange(len(order))), (turned, order))):
        write_recording(tmp_path / str(number), made)
        reader = WindowReader(write_manifest(tmp_path / str(number)), pretrained.channels, BIN)
        again.readouts[KEY] = stored | {
            name: stored[name][..., units] for name in ("encode.constant", "encode.weights")
        }
        fit_fingerprints(again, training_data(reader, [KEY], pretrained.config.window_s, session_roles))
        found.append(prints(again))
    assert np.isfinite(found[0]).all()
    np.testing.assert_allclose(found[1], found[0][order], rtol=1e-4, atol=1e-5)


def test_fingerprints_are_saved_and_a_model_without_functionals_makes_none(
    pretrained: FoundationModel, pretrained_data: TrainingData, tmp_path: Path
) -> None:
    pretrained.save_pretrained(tmp_path)
    loaded = FoundationModel.from_pretrained(tmp_path)
    assert np.array_equal(loaded.unit_embeddings(KEY), prints(pretrained))
    del loaded.readouts[KEY][FINGERPRINT]
    loaded.population = {name: value for name, value in loaded.population.items() if not name.startswith(PREFIX)}
    fit_fingerprints(loaded, data_of(pretrained_data, KEY))
    assert FINGERPRINT not in loaded.readouts[KEY]
    assert np.array_equal(loaded.unit_embeddings(KEY), loaded.adapter_rows(KEY))


@pytest.mark.parametrize("kept", [(), ("speed", "state", "lick")])
def test_one_unit_without_trials_has_a_finite_fingerprint(
    tiny_recording: Callable[..., Recording], tmp_path: Path, kept: tuple[str, ...]
) -> None:
    recording = tiny_recording()
    alone = replace(
        recording,
        spike_units=np.zeros_like(recording.spike_units),
        units=recording.units.iloc[:1],
        trials=recording.trials.iloc[:0],
        covariates={name: recording.covariates[name] for name in kept},
    )
    write_recording(tmp_path, alone)
    corpus = write_manifest(tmp_path)
    channels = find_channels(corpus, DataConfig(), corpus.ids)
    model = FoundationModel.create(ModelConfig(width=16, depth=1, heads=2, feed_forward=16), channels, BIN, 1.0, 0)
    reader = WindowReader(corpus, channels, BIN)
    data = training_data(reader, corpus.ids, 1.0, lambda r: np.full(len(stretches(r)), ROLES["train"]))
    add_sessions(model, data, corpus.ids, 0)
    learn_population(model, data)
    learn_fingerprints(model, data)
    found = prints(model, corpus.ids[0])
    # Speed, two classes of state against the first, six lag windows of licks twice; 25 columns of spiking.
    assert found.shape == (1, 25 + (3 + 12 if kept else 0))
    assert np.isfinite(found).all()


def data_of(pretrained_data: TrainingData, key: str) -> TrainingData:
    return TrainingData(pretrained_data.reader, {key: pretrained_data.train[key]}, {key: []})
