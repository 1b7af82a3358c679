"""The convex read-out: fits against scikit-learn, choices on validation rows, and blindness to what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import PoissonRegressor

from foundation.checkpoint import load_model
from foundation.corpus import Corpus, write_manifest
from foundation.decoding import DecodingConfig
from foundation.finetune import FinetuneConfig, adapt
from foundation.model import LOG_RATE_RANGE, FoundationModel
from foundation.objectives import ObjectiveConfig
from foundation.predict import Hide, answers, hide_future, hide_spikes, hide_units
from foundation.readout import KNOWN_SHARE, MIXES, Question, ReadoutConfig, log_rates, state_prior, twins
from foundation.readout_features import SessionFeatures
from foundation.recording_folder import write_recording
from foundation.sampling import Window, WindowReader
from foundation.splits import session_roles
from foundation.training_data import TrainingData, training_data

KEY = "synthetic/animal03_0"
CONFIG = ReadoutConfig(
    penalties=[30.0, 300.0], coupling_penalties=[300.0], components=5, history_components=3, groups=2
)


@pytest.fixture(scope="module")
def model(tiny_run: Path, synthetic_corpus: Corpus) -> FoundationModel:
    config = FinetuneConfig(
        steps=20, windows_per_step=16, val_every=10, readout=CONFIG, decoding=DecodingConfig(enabled=False)
    )
    return adapt(load_model(tiny_run), synthetic_corpus, [KEY], config, ObjectiveConfig()).eval()


@pytest.fixture(scope="module")
def data(model: FoundationModel, synthetic_corpus: Corpus) -> TrainingData:
    reader = WindowReader(synthetic_corpus, model.channels, model.config.bin_size_s)
    return training_data(reader, [KEY], model.config.window_s, session_roles)


def arrays_of(model: FoundationModel) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.readouts[KEY].items()}


def design(
    model: FoundationModel, data: TrainingData, windows: list[Window], question: Question, hide: Hide
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardized features, counts, and the gradient's own log-rates, all bins of the windows stacked."""
    arrays = arrays_of(model)
    features = SessionFeatures.of_arrays(model, data.reader, KEY, arrays)
    found = list(answers(model, data.reader, windows, hide))
    x = np.concatenate([features.shared(question, answer) for answer in found])
    x = (x - arrays[f"{question}.mean"]) / arrays[f"{question}.scale"]
    counts = np.concatenate([features.counts(answer.window) for answer in found])
    return x, counts, np.concatenate([answer.log_rates for answer in found])


def objective(x: np.ndarray, y: np.ndarray, offset: np.ndarray, constant: float, w: np.ndarray, p: float) -> float:
    rate = offset + constant + x @ w
    return float((np.exp(rate) - y * rate).sum() + 0.5 * p * w @ w)


def gap_to_scikit_learn(
    x: np.ndarray, y: np.ndarray, offset: np.ndarray, constant: float, w: np.ndarray, penalty: float
) -> float:
    """Penalized nats per spike that scikit-learn's fit of the same problem is better by."""
    exposure = np.exp(offset)
    theirs = PoissonRegressor(alpha=penalty / exposure.sum(), tol=1e-8, max_iter=2000)
    theirs.fit(x, y / exposure, sample_weight=exposure)
    best = objective(x, y, offset, float(theirs.intercept_), theirs.coef_, penalty)
    return (objective(x, y, offset, constant, w, penalty) - best) / max(1.0, y.sum())


def test_cosmoothing_equals_a_direct_fit_on_the_encoding(model: FoundationModel, data: TrainingData) -> None:
    arrays, num_units = arrays_of(model), len(model.adapters.units)
    offset = np.concatenate(list(log_rates(model, data.reader, data.train[KEY], "encode")))
    features = SessionFeatures.of_arrays(model, data.reader, KEY, arrays)
    counts = np.concatenate([features.counts(window) for window in data.train[KEY]])
    alike = twins(counts, CONFIG.twin_correlation)
    group = np.array_split(np.random.default_rng(0).permutation(num_units), CONFIG.groups)[0]
    hidden = alike[group].any(axis=0)
    hidden[group] = True
    x, _, _ = design(model, data, data.train[KEY], "cosmooth", hide_units(hidden))
    for unit in group[:3]:
        constant, weights = float(arrays["cosmooth.constant"][0, unit]), arrays["cosmooth.weights"][:, unit]
        gap = gap_to_scikit_learn(x, counts[:, unit], offset[:, unit], constant, weights, 300.0)
        assert abs(gap) < 1e-3


def test_penalty_and_mix_are_the_best_on_validation_trials(model: FoundationModel, data: TrainingData) -> None:
    arrays = arrays_of(model)
    hide = hide_future(KNOWN_SHARE)
    features = SessionFeatures.of_arrays(model, data.reader, KEY, arrays)
    counts, gradient, convex = [], [], []
    for answer in answers(model, data.reader, data.val[KEY], hide):
        keep = answer.hidden.all(axis=1)
        x = (features.shared("forecast", answer) - arrays["forecast.mean"]) / arrays["forecast.scale"]
        own = (features.own(answer) - arrays["forecast.own_mean"]) / arrays["forecast.own_scale"]
        rate = arrays["forecast.constant"] + x @ arrays["forecast.weights"]
        rate = rate + np.einsum("tno,on->tn", own, arrays["forecast.own_weights"])
        counts.append(features.counts(answer.window)[keep])
        gradient.append(answer.log_rates[keep])
        convex.append(np.clip(rate, *LOG_RATE_RANGE)[keep])
    truth, head, fit = (np.concatenate(parts) for parts in (counts, gradient, convex))
    mixed = [np.clip(mix * head + (1 - mix) * fit, *LOG_RATE_RANGE) for mix in MIXES]
    scores = [float((truth * rate - np.exp(rate)).sum()) for rate in mixed]
    assert float(arrays["forecast.mix"]) == MIXES[int(np.argmax(scores))]
    assert float(arrays["forecast.penalty"]) in CONFIG.penalties
    got = [
        r[a.hidden.all(axis=1)]
        for r, a in zip(
            log_rates(model, data.reader, data.val[KEY], "forecast", hide),
            answers(model, data.reader, data.val[KEY], hide),
        )
    ]
    np.testing.assert_allclose(np.concatenate(got), mixed[int(np.argmax(scores))], atol=1e-5)


def test_the_read_out_beats_the_mean_rate_on_validation_trials(model: FoundationModel, data: TrainingData) -> None:
    features = SessionFeatures.of_arrays(model, data.reader, KEY, arrays_of(model))
    train, val = (np.concatenate([features.counts(w) for w in windows[KEY]]) for windows in (data.train, data.val))
    null = np.log(np.maximum(train.mean(axis=0), 1e-4))
    hidden = np.arange(train.shape[1]) % 2 == 0
    for question, hide in (("encode", None), ("cosmooth", hide_units(hidden))):
        rate = np.concatenate(list(log_rates(model, data.reader, data.val[KEY], question, hide)))
        units = hidden if question == "cosmooth" else np.ones(len(hidden), bool)
        gain = (val * (rate - null) - np.exp(rate) + np.exp(null))[:, units].sum() / val[:, units].sum()
        assert gain > 0.005, question


def with_other_spikes(corpus: Corpus, folder: Path, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Corpus:
    """The session with two of three marked spikes gone; `change(times, units)` marks them."""
    recording: Any = corpus[KEY]
    units, times = np.array(recording.spike_units), np.asarray(recording.spike_times)
    marked = change(times, units)
    drop = marked & (np.arange(len(times)) % 3 > 0)
    changed = replace(recording, spike_times=times[~drop], spike_units=units[~drop])
    write_recording(folder, changed)
    return write_manifest(folder)


def test_encoding_is_blind_to_spikes(
    model: FoundationModel, data: TrainingData, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    other = with_other_spikes(synthetic_corpus, tmp_path, lambda times, units: np.ones(len(times), bool))
    reader = WindowReader(other, model.channels, model.config.bin_size_s)
    windows = data.val[KEY][:8]
    for here, there in zip(*(log_rates(model, r, windows, "encode") for r in (data.reader, reader))):
        assert np.array_equal(here, there)


def test_cosmoothing_is_blind_to_hidden_units(
    model: FoundationModel, data: TrainingData, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    hidden = np.arange(len(model.adapters.units)) < 4
    windows, results = data.val[KEY][:8], []
    for name, which in (("hidden", hidden), ("shown", ~hidden)):
        other = with_other_spikes(synthetic_corpus, tmp_path / name, lambda t, units, which=which: which[units])
        reader = WindowReader(other, model.channels, model.config.bin_size_s)
        results.append(list(log_rates(model, reader, windows, "cosmooth", hide_units(hidden))))
    answer = list(log_rates(model, data.reader, windows, "cosmooth", hide_units(hidden)))
    assert all(np.array_equal(a[:, hidden], b[:, hidden]) for a, b in zip(answer, results[0]))
    assert not all(np.array_equal(a[:, hidden], b[:, hidden]) for a, b in zip(answer, results[1]))


def test_forecasting_is_blind_to_the_future(
    model: FoundationModel, data: TrainingData, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    windows = [window for window in data.val[KEY] if window.num_bins == 30][:6]
    results = []
    for name in ("future", "past"):

        def change(times: np.ndarray, units: np.ndarray, name: str = name) -> np.ndarray:
            marked = np.zeros(len(times), bool)
            for window in windows:
                edge = window.start_s + 24 * 0.02
                stop = window.start_s + 30 * 0.02
                low, high = (edge, stop) if name == "future" else (window.start_s, edge)
                marked |= (times >= low - 1e-9) & (times < high - 1e-9)
            return marked

        other = with_other_spikes(synthetic_corpus, tmp_path / name, change)
        reader = WindowReader(other, model.channels, model.config.bin_size_s)
        results.append(list(log_rates(model, reader, windows, "forecast", hide_future(KNOWN_SHARE))))
    answer = list(log_rates(model, data.reader, windows, "forecast"))
    assert all(np.array_equal(a[24:], b[24:]) for a, b in zip(answer, results[0]))
    assert not all(np.array_equal(a[24:], b[24:]) for a, b in zip(answer, results[1]))


def test_a_saved_read_out_gives_the_same_predictions(
    model: FoundationModel, data: TrainingData, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded, windows = FoundationModel.from_pretrained(tmp_path), data.val[KEY][:5]
    hidden = np.arange(len(model.adapters.units)) < 4
    questions: list[tuple[Question, Hide | None]] = [
        ("encode", None),
        ("cosmooth", hide_units(hidden)),
        ("forecast", None),
    ]
    for question, hide in questions:
        for here, there in zip(*(log_rates(m, data.reader, windows, question, hide) for m in (model, loaded))):
            assert np.array_equal(here, there), question


def test_without_a_convex_read_out_the_model_answers_itself(tiny_run: Path, data: TrainingData, world: Any) -> None:
    base = load_model(tiny_run)
    base.readouts = {}
    windows = world.data.val["synthetic/animal00_0"][:4]
    direct = list(answers(base, world.reader, windows, hide_spikes))
    for answer, rate in zip(direct, log_rates(base, world.reader, windows, "encode")):
        assert np.array_equal(answer.log_rates, rate)


def test_the_prior_is_the_root_of_the_rows_second_moment(tiny_run: Path) -> None:
    base = load_model(tiny_run)
    rows = base.adapters.unit_rows[:, base.adapters.layout.slices()["read_out"]].detach().double().numpy()
    root = state_prior(base)
    np.testing.assert_allclose(root, root.T, atol=1e-12)
    moment = rows.T @ rows / len(rows)
    ratio = np.linalg.eigvalsh(root @ root) / np.maximum(np.linalg.eigvalsh(moment), 1e-4 * np.linalg.norm(moment, 2))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert np.mean(np.linalg.eigvalsh(root) ** 2) == pytest.approx(1.0)
    base.keep_sessions([])
    assert np.array_equal(state_prior(base), np.eye(16))


def test_twins_are_pairs_that_correlate() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (400, 5)).astype(float)
    counts[:, 3] = counts[:, 1] + rng.poisson(0.2, 400)
    counts[:, 4] = 1.0  # silent units correlate with none
    found = twins(counts, 0.5)
    for i in range(5):
        for j in range(5):
            r = 0.0 if 4 in (i, j) or i == j else np.corrcoef(counts[:, i], counts[:, j])[0, 1]
            assert found[i, j] == (abs(r) > 0.5)
    assert found[1, 3]
