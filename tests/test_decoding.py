"""The convex decoding read-out: fits against scikit-learn, features against loops, blindness to what it predicts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from eval.baselines import tasks_of
from eval.model_predictions import predict_task
from eval.scoring import score
from eval.session_view import SessionView
from foundation.binning import bin_covariate
from foundation.checkpoint import load_model
from foundation.corpus import Corpus, write_manifest
from foundation.decoder import Rows, decoded
from foundation.decoding import DecodingConfig, _gather, fit_decoding
from foundation.decoding_features import LAGS_S, Segment, label_spikes, segments, trace_spikes
from foundation.finetune import Assignment, FinetuneConfig, adapt
from foundation.linear_decoders import ridge_path, softmax_path
from foundation.model import FoundationModel
from foundation.objectives import ObjectiveConfig
from foundation.predict import answers, hide_behavior
from foundation.readout import ReadoutConfig
from foundation.recording import Covariate, CovariateSpec, Recording
from foundation.recording_folder import write_recording
from foundation.sampling import Window, WindowReader
from foundation.splits import ROLES, session_roles
from foundation.training_data import TrainingData, add_sessions, training_data

KEY = "synthetic/animal03_0"
CONFIG = DecodingConfig(penalties=[100.0, 1.0, 0.01], components=64, causal_bins=20_000)
TARGETS = ("choice", "wheel_speed", "whisker_energy")


@pytest.fixture(scope="module")
def adapted(tiny_run: Path, synthetic_corpus: Corpus) -> FoundationModel:
    """Adapted, with rows but without read-outs."""
    quick = ReadoutConfig(enabled=False)
    none = DecodingConfig(enabled=False)
    config = FinetuneConfig(steps=15, windows_per_step=16, val_every=15, readout=quick, decoding=none)
    return adapt(load_model(tiny_run), synthetic_corpus, [KEY], config, ObjectiveConfig()).eval()


def data_of(
    model: FoundationModel, corpus: Corpus, key: str = KEY, roles: Callable[[Recording], np.ndarray] = session_roles
) -> TrainingData:
    reader = WindowReader(corpus, model.channels, model.config.bin_size_s)
    return training_data(reader, [key], model.config.window_s, roles)


@pytest.fixture(scope="module")
def model(adapted: FoundationModel, synthetic_corpus: Corpus) -> FoundationModel:
    fit_decoding(adapted, data_of(adapted, synthetic_corpus), CONFIG)
    return adapted


def trial_windows(corpus: Corpus, role: str) -> list[Window]:
    recording = corpus[KEY]
    trials = recording.trials[["start_s", "stop_s"]].to_numpy(dtype=float)
    rows = np.flatnonzero(session_roles(recording) == ROLES[role])
    return [Window(KEY, float(a), int((b - a) / 0.02 + 1e-6), int(row)) for row, (a, b) in zip(rows, trials[rows])]


def ask(model: FoundationModel, corpus: Corpus, windows: list[Window], name: str, causal: bool = False) -> np.ndarray:
    reader = WindowReader(corpus, model.channels, model.config.bin_size_s)
    return np.concatenate([np.atleast_2d(found) for found in decoded(model, reader, windows, name, causal=causal)])


def changed(folder: Path, recording: Recording) -> Corpus:
    write_recording(folder, recording)
    return write_manifest(folder)


def with_other_behavior(corpus: Corpus, folder: Path, rows: np.ndarray) -> Corpus:
    """The targets of some trials replaced."""
    recording = corpus[KEY]
    bounds = recording.trials[["start_s", "stop_s"]].to_numpy(dtype=float)[rows]
    covariates = dict(recording.covariates)
    for name in TARGETS:
        covariate = covariates[name]
        values = np.array(covariate.values)
        if covariate.times is None:
            values[rows] = 1 - values[rows]
        else:
            inside = ((covariate.times[:, None] >= bounds[:, 0]) & (covariate.times[:, None] < bounds[:, 1])).any(
                axis=1
            )
            values[inside] = 7.0 - values[inside]
        covariates[name] = replace(covariate, values=values)
    return changed(folder, replace(recording, covariates=covariates))


@pytest.mark.parametrize("num_rows", [12, 200])
def test_ridge_equals_scikit_learn(num_rows: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(num_rows, 30)), rng.normal(size=(num_rows, 2))
    for penalty, weights in zip((100.0, 0.1), ridge_path(x, y, [100.0, 0.1])):
        expected = Ridge(alpha=penalty, fit_intercept=False).fit(x, y).coef_.T
        np.testing.assert_allclose(weights, expected, atol=1e-8)


@pytest.mark.parametrize(("num_rows", "num_classes"), [(20, 2), (200, 2), (200, 3)])
def test_softmax_regression_equals_scikit_learn(num_rows: int, num_classes: int) -> None:
    rng = np.random.default_rng(1)
    x, label = rng.normal(size=(num_rows, 30)), rng.integers(0, num_classes, num_rows)
    weights, constants = softmax_path(x, label, num_classes, [10.0, 1.0])
    for penalty, w, c in zip((10.0, 1.0), weights, constants):
        # Of two classes scikit-learn fits the difference, whose penalty is half as large.
        theirs = LogisticRegression(C=(2 if num_classes == 2 else 1) / penalty, tol=1e-8, max_iter=5000).fit(x, label)
        logits = x @ w + c
        mine = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(mine, theirs.predict_proba(x), atol=3e-3)


def segment_of(counts: np.ndarray) -> Segment:
    return Segment(Window("x", 0.0, len(counts), 0), 0, 0, 0, counts, np.zeros((len(counts), 2)), {})


def test_spike_features_equal_a_loop() -> None:
    counts = np.random.default_rng(2).poisson(1.0, (40, 3)).astype(float)
    found = trace_spikes(segment_of(counts), 0.02, causal=False)
    for t in (0, 5, 39):
        spans = [(round(a / 0.02), round(b / 0.02)) for a, b in LAGS_S]
        back = [sum((counts[t - k] for k in range(a, b) if t >= k), np.zeros(3)) for a, b in spans]
        ahead = [sum((counts[t + k] for k in range(a, b) if t + k < 40), np.zeros(3)) for a, b in spans[1:]]
        running, rest = counts[: t + 1].sum(axis=0), counts[t:].sum(axis=0)
        expected = [*np.sqrt(back), np.sqrt(running), running, *np.sqrt(ahead), np.sqrt(rest)]
        np.testing.assert_allclose(found[t], expected)
        causal = trace_spikes(segment_of(counts[: t + 1]), 0.02, causal=True)
        np.testing.assert_allclose(causal[0], expected[: len(spans) + 2])
    label = label_spikes(segment_of(counts), 0.02, causal=False)[0]
    np.testing.assert_allclose(label[0] ** 2, counts.mean(axis=0) / 0.02)
    np.testing.assert_allclose(label[5] ** 2, counts[-5:].mean(axis=0) / 0.02)


def test_every_target_has_both_questions(model: FoundationModel) -> None:
    keys = model.readouts[KEY]
    for name in TARGETS:
        for when in ("whole", "causal"):
            assert f"decode.{name}.{when}.mix" in keys
            assert float(keys[f"decode.{name}.{when}.mix"].sum()) == pytest.approx(1, abs=1e-6)


def test_a_mixture_of_the_head_alone_is_the_head(
    model: FoundationModel, synthetic_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = trial_windows(synthetic_corpus, "test")
    reader = WindowReader(synthetic_corpus, model.channels, model.config.bin_size_s)
    heads = [answer.covariates for answer in answers(model, reader, windows, hide_behavior)]
    monkeypatch.setitem(model.readouts, KEY, {})
    for name in TARGETS:
        expected = np.concatenate([head[name] for head in heads])
        np.testing.assert_allclose(ask(model, synthetic_corpus, windows, name), expected, atol=1e-5)
        expected = np.stack([head[name][-1] for head in heads])
        np.testing.assert_allclose(ask(model, synthetic_corpus, windows, name, causal=True), expected, atol=1e-5)


def test_a_trace_that_lies_in_the_spikes_is_found(
    model: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spikes of the busiest unit in the last 100 ms, called wheel speed; the head cannot know."""
    recording = synthetic_corpus[KEY]
    busiest = np.bincount(recording.spike_units).argmax()
    spikes = recording.spike_times[recording.spike_units == busiest]
    speed = recording.covariates["wheel_speed"]
    assert speed.times is not None
    counts = np.searchsorted(spikes, speed.times) - np.searchsorted(spikes, speed.times - 0.1)
    covariates = dict(recording.covariates) | {"wheel_speed": Covariate.continuous(speed.spec, counts, speed.times)}
    corpus = changed(tmp_path, replace(recording, covariates=covariates))
    monkeypatch.setitem(model.readouts, KEY, {})
    fit_decoding(model, data_of(model, corpus), CONFIG)
    windows = trial_windows(corpus, "test")
    found = corpus[KEY].covariates["wheel_speed"]
    truth = np.concatenate([bin_covariate(found, w.start_s, w.num_bins, 0.02)[0] for w in windows]).reshape(-1, 1)
    ends = truth[np.cumsum([w.num_bins for w in windows]) - 1]
    for causal, there in ((False, truth), (True, ends)):
        value = ask(model, corpus, windows, "wheel_speed", causal=causal)
        assert np.mean((value - there) ** 2) < 0.6 * there.var()


def test_a_value_of_each_trial_is_decoded_and_scored(tiny_run: Path, synthetic_corpus: Corpus, tmp_path: Path) -> None:
    """The root of the busiest unit's rate in the trial, called contrast; the network's head was not trained."""
    recording = synthetic_corpus[KEY]
    spikes = recording.spike_times[recording.spike_units == np.bincount(recording.spike_units).argmax()]
    start, stop = recording.trials[["start_s", "stop_s"]].to_numpy(dtype=float).T
    rate = (np.searchsorted(spikes, stop) - np.searchsorted(spikes, start)) / (stop - start)
    contrast = Covariate.continuous(CovariateSpec("contrast", "continuous", "trial"), np.sqrt(rate))
    corpus = changed(tmp_path, replace(recording, covariates={"contrast": contrast}))
    model, data, _ = tiny_model(tiny_run, corpus)
    fit_decoding(model, data, CONFIG)
    assert {"decode.contrast.whole.mix", "decode.contrast.causal.mix"} <= model.readouts[KEY].keys()
    view = SessionView.of(corpus[KEY])
    assert ("contrast", "") in tasks_of(view)
    model.readouts[KEY]["decode.contrast.whole.mix"] = torch.tensor([0.0, 0.5, 0.5])
    found = predict_task(model, data.reader, KEY, view, "contrast", "", "ours")
    assert score(found, view)["r2"].value > 0.5
    windows = trial_windows(corpus, "test")
    ends = ask(model, corpus, windows, "contrast", causal=True)
    assert ends.shape == (len(windows), 1)


def test_causal_answers_do_not_see_later_spikes(
    model: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    window = trial_windows(synthetic_corpus, "test")[2]
    recording = synthetic_corpus[KEY]
    cut = window.start_s + 12 * model.config.bin_size_s
    units = np.array(recording.spike_units)
    later = recording.spike_times >= cut
    units[later] = (units[later] + 5) % recording.num_units
    other = changed(tmp_path, replace(recording, spike_units=units))
    for name in TARGETS:
        early = replace(window, num_bins=12)
        mine, theirs = (ask(model, corpus, [early], name, causal=True) for corpus in (synthetic_corpus, other))
        np.testing.assert_array_equal(mine, theirs)
        mine, theirs = (ask(model, corpus, [window], name) for corpus in (synthetic_corpus, other))
        assert np.abs(mine - theirs).max() > 1e-4


def test_test_labels_reach_neither_fit_nor_prediction(
    model: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    rows = session_roles(synthetic_corpus[KEY]) == ROLES["test"]
    other = with_other_behavior(synthetic_corpus, tmp_path, rows)
    windows = trial_windows(synthetic_corpus, "test")
    for name in TARGETS:
        for causal in (False, True):
            mine, theirs = (ask(model, corpus, windows, name, causal) for corpus in (synthetic_corpus, other))
            np.testing.assert_array_equal(mine, theirs)
    before = dict(model.readouts[KEY])
    fit_decoding(model, data_of(model, other), CONFIG)
    after = model.readouts[KEY]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_train_labels_do_matter(model: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path) -> None:
    rows = session_roles(synthetic_corpus[KEY]) == ROLES["train"]
    before = dict(model.readouts[KEY])
    fit_decoding(model, data_of(model, with_other_behavior(synthetic_corpus, tmp_path, rows)), CONFIG)
    after, model.readouts[KEY] = model.readouts[KEY], before
    for name in TARGETS:
        assert not torch.equal(before[f"decode.{name}.whole.weights"], after[f"decode.{name}.whole.weights"])


def test_it_is_saved_and_loaded(model: FoundationModel, synthetic_corpus: Corpus, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = FoundationModel.from_pretrained(tmp_path).eval()
    windows = trial_windows(synthetic_corpus, "val")
    for name in TARGETS:
        for causal in (False, True):
            mine, theirs = (ask(m, synthetic_corpus, windows, name, causal) for m in (model, loaded))
            np.testing.assert_array_equal(mine, theirs)


def test_windows_of_several_trials_and_of_none(model: FoundationModel, synthetic_corpus: Corpus) -> None:
    trials = synthetic_corpus[KEY].trials[["start_s", "stop_s"]].to_numpy(dtype=float)
    size = model.config.bin_size_s
    start = trials[4, 0]
    both = Window(KEY, start, int((trials[5, 1] - start) / size), 4)
    assert ask(model, synthetic_corpus, [both], "choice").shape == (2, 2)
    assert ask(model, synthetic_corpus, [both], "wheel_speed").shape == (both.num_bins, 1)
    reader = WindowReader(synthetic_corpus, model.channels, size)
    parts = next(segments(model, reader, [both]))
    assert [part.row for part in parts if part.row >= 0] == [4, 5]
    assert sum(len(part.counts) for part in parts) == both.num_bins
    gap = Window(KEY, float(trials[4, 1] + size), 4, 4)
    if gap.start_s + 4 * size <= trials[5, 0]:
        assert ask(model, synthetic_corpus, [gap], "choice").shape == (0, 2)
        assert ask(model, synthetic_corpus, [gap], "wheel_speed").shape == (4, 1)
        assert np.isfinite(ask(model, synthetic_corpus, [gap], "choice", causal=True)).all()


def test_units_beyond_the_components_are_reduced(model: FoundationModel, synthetic_corpus: Corpus) -> None:
    before = dict(model.readouts[KEY])
    fit_decoding(model, data_of(model, synthetic_corpus), replace(CONFIG, components=4))
    assert model.readouts[KEY]["decode.choice.whole.axes"].shape[1] == 4
    assert np.isfinite(ask(model, synthetic_corpus, trial_windows(synthetic_corpus, "test"), "wheel_speed")).all()
    model.readouts[KEY] = before


def tiny_model(
    tiny_run: Path, corpus: Corpus, roles: Callable[[Recording], np.ndarray] = session_roles
) -> tuple[FoundationModel, TrainingData, str]:
    """A model for a hand-made recording of other covariates."""
    from foundation.channels import DataConfig, find_channels

    base = load_model(tiny_run)
    key = corpus.ids[0]
    channels = find_channels(corpus, DataConfig(bin_size_s=0.02), [key])
    model = FoundationModel.create(base.shape, channels, 0.02, 1.0, 0).eval()
    data = data_of(model, corpus, key, roles)
    add_sessions(model, data, [key], 0)
    return model, data, key


def test_a_recording_without_trials(tiny_run: Path, tiny_recording: Callable[..., Recording], tmp_path: Path) -> None:
    made = tiny_recording()
    covariates = {name: made.covariates[name] for name in ("position", "lick")}
    spec = CovariateSpec("choice", "categorical", "trial", num_classes=2)
    covariates["choice"] = Covariate.categorical(spec, np.zeros(0, int))
    no_trials = made.trials.iloc[:0]
    corpus = changed(tmp_path, replace(made, trials=no_trials, covariates=covariates))
    # Four stretches of ten seconds.
    roles = np.array([ROLES["train"], ROLES["train"], ROLES["val"], ROLES["test"]], np.int8)
    model, data, key = tiny_model(tiny_run, corpus, lambda _: roles)
    fit_decoding(model, data, CONFIG)
    assert "decode.position.whole.mix" in model.readouts[key]
    assert not any("lick" in name for name in model.readouts[key])
    window = data.val[key][0]
    assert next(decoded(model, data.reader, [window], "position")).shape == (window.num_bins, 2)
    assert next(decoded(model, data.reader, [window], "position", causal=True)).shape == (2,)
    assert next(decoded(model, data.reader, [window], "lick")).shape == (window.num_bins, 1)


def test_targets_that_cannot_be_learned_stay_with_the_head(
    tiny_run: Path, tiny_recording: Callable[..., Recording], tmp_path: Path
) -> None:
    made = tiny_recording()
    spec = CovariateSpec("choice", "categorical", "trial", num_classes=2)
    same = Covariate.categorical(spec, np.ones(40, int))
    corpus = changed(tmp_path, replace(made, covariates=dict(made.covariates) | {"choice": same}))
    model, data, key = tiny_model(tiny_run, corpus)
    fit_decoding(model, data, CONFIG)
    names = {name.split(".")[1] for name in model.readouts[key]}
    assert names == {"longest_s", "speed", "position"}
    window = data.val[key][0]
    answer = next(answers(model, data.reader, [window], hide_behavior))
    np.testing.assert_allclose(next(decoded(model, data.reader, [window], "choice")), answer.covariates["choice"])
    data.val[key] = []
    model.readouts.clear()
    fit_decoding(model, data, CONFIG)
    assert not model.readouts


def test_adaptation_on_few_trials_fits_it(tiny_run: Path, synthetic_corpus: Corpus) -> None:
    quick = ReadoutConfig(penalties=[100.0], coupling_penalties=[300.0], components=4, history_components=2, groups=2)
    config = FinetuneConfig(few_shot_steps=3, windows_per_step=8, readout=quick, decoding=CONFIG)
    assignment = Assignment(train_trials=8)
    model = adapt(load_model(tiny_run), synthetic_corpus, [KEY], config, ObjectiveConfig(), assignment=assignment)
    assert {"encode.weights", "decode.wheel_speed.causal.mix"} <= model.readouts[KEY].keys()
    assert np.isfinite(ask(model, synthetic_corpus, trial_windows(synthetic_corpus, "test"), "wheel_speed")).all()
    config = replace(config, decoding=replace(CONFIG, enabled=False))
    model = adapt(load_model(tiny_run), synthetic_corpus, [KEY], config, ObjectiveConfig(), assignment=assignment)
    assert not any(key.startswith("decode.") for key in model.readouts[KEY])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 60))
def test_rows_are_thinned_evenly_to_what_fits(sizes: list[int], most: int) -> None:
    number = np.arange(sum(sizes), dtype=float)[:, None]
    key = np.concatenate([k + np.arange(size) for k, size in enumerate(sizes)])
    parts = [
        Rows(np.zeros((len(part), 1, 2)), part, part, part, part, part, part[:, 0])
        for part in np.split(number, np.cumsum(sizes)[:-1])
    ]
    kept, stride = _gather(iter(parts), most)
    assert kept is not None
    assert kept.target[:, 0].tolist() == number[key % stride == 0, 0].tolist()
    assert kept.spikes.size <= most or len(kept.target) == 1
    assert stride == 1 or 2 * (key % (stride // 2) == 0).sum() > most


def test_trials_of_one_length_are_thinned_to_every_bin() -> None:
    parts = [Rows(np.zeros((16, 1, 8)), *[np.arange(16.0)[:, None]] * 6) for _ in range(64)]
    kept, stride = _gather(iter(parts), 1024)
    assert kept is not None
    assert stride == 8
    assert set(kept.target[:, 0]) == set(range(16))


def test_a_read_out_of_more_than_memory_holds_is_almost_the_same(
    model: FoundationModel, synthetic_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only moments and axes are taken from fewer rows; the fit is of all of them."""
    few = copy.deepcopy(model)
    monkeypatch.setattr("foundation.decoding.MAX_FEATURES", 100_000)
    fit_decoding(few, data_of(few, synthetic_corpus), replace(CONFIG, components=8))
    monkeypatch.undo()
    all_rows = copy.deepcopy(model)
    fit_decoding(all_rows, data_of(all_rows, synthetic_corpus), replace(CONFIG, components=8))
    name = "decode.wheel_speed.whole.mean"
    assert not torch.equal(few.readouts[KEY][name], all_rows.readouts[KEY][name])
    windows = trial_windows(synthetic_corpus, "test")
    one, other = (ask(m, synthetic_corpus, windows, "wheel_speed") for m in (few, all_rows))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99  # axes of an eighth of the rows
