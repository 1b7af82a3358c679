"""Brain-Wide Bench: files, windows, exports, scores and nulls, against the package, torch_brain and naive loops.

`STORED` is what `ibl-bwb-eval` 0.1.0 (torch 2.10.0, Python 3.11) says of the files of `written(seed=7)`. To make it
again, and to run the package live, name an interpreter that has it:

    FOUNDATION_BWB_PYTHON=bwb/bin/python pytest tests/test_brain_wide_bench.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from benchmarks.simulated_bwb import SESSION, bench_session
from eval.adapted import ProvenanceError
from eval.bwb_checks import animal_breaches, model_breaches, seconds_of_test_used, submission_gaps
from eval.bwb_export import (
    export_labels,
    export_prediction,
    export_rates,
    export_regions,
    export_traces,
    over_neighbors,
    regions_file,
    windows_as_trials,
)
from eval.bwb_files import (
    SuiteFile,
    decode_ids,
    encode_ids,
    read_ground_truth,
    read_suite_prediction,
    write_ground_truth,
    write_suite_prediction,
)
from eval.bwb_nulls import region_nulls, session_nulls
from eval.bwb_package import largest_difference, score_with_package
from eval.bwb_scores import FileScore, over_seeds, rate_scores, score_folder, score_one, score_tensors
from eval.bwb_suite import evaluate_suite
from eval.bwb_tasks import COSMOS, STEPS, TASKS, suite_of, task_of
from eval.bwb_windows import (
    make_ground_truth,
    normalization,
    split_intervals,
    ts1_truth,
    ts1_windows,
    ts2_intervals,
    ts2_truth,
    ts2_window_starts,
    ts3_table,
)
from eval.predictions import Prediction, write_prediction
from eval.results import read_results
from eval.session_view import SessionView
from foundation.corpus import Corpus, write_manifest
from foundation.recording import Covariate, Recording
from foundation.recording_folder import write_recording
from foundation.splits import ROLES

TOLERANCE = 2e-5  # the package sums in single precision


def random_files(seed: int) -> list[tuple[SuiteFile, dict[str, np.ndarray]]]:
    """A prediction and its truth for every task, from a seed alone; rows in other orders, and more than are scored."""
    rng = np.random.default_rng(seed)
    found = []
    ids = [f"{SESSION}/{k:08d}" for k in range(30)]
    for task in TASKS.values():
        n = 30
        trial = rng.permutation(200)[:n].astype(np.int64)
        shuffled = rng.permutation(n)
        if task.kind == "region":
            target = rng.integers(0, len(COSMOS) - 1, n)  # one class is never true
            prob = rng.dirichlet(np.ones(len(COSMOS)), n).astype(np.float32)
            prob[np.arange(n), target] += 0.3
            truth = {"targets": target, "entity_ids": encode_ids(ids)}
            mine = {"pred_proba": prob[shuffled], "entity_ids": encode_ids([ids[k] for k in shuffled])}
            found.append((SuiteFile("model_single", task.id, "", 43, mine), truth))
            continue
        if task.kind == "rates":
            steps, units = (5 if task.name == "forecasting" else STEPS), 6
            log_rate = rng.normal(-1.5, 0.7, (n, steps, units)).astype(np.float16)
            counts = rng.poisson(np.exp(log_rate.astype(float))).astype(np.float32)
            counts[..., 5] = 0  # a silent unit
            starts = 10 + np.sort(rng.permutation(5000)[:n]) * 0.02
            unit_ids = encode_ids(ids[:units])
            truth = {"targets": counts, "window_timestamps": starts, "unit_ids": unit_ids}
            mine = {"predictions": log_rate[shuffled], "window_timestamps": starts[shuffled], "unit_ids": unit_ids}
        elif task.kind == "class":
            num = len(task.order)
            label = rng.integers(0, max(2, num - 1), n)  # of five classes the last is never true
            logits = rng.normal(size=(n, 1, num)).astype(np.float32)
            logits[np.arange(n), 0, label] += 0.8
            truth = {"trial_id": trial, "values": label[:, None]}
            mine = {"trial_id": trial[shuffled], "predictions": logits[shuffled]}
        else:
            latent = rng.normal(size=(n, STEPS, 1))
            count = task.kind == "count"
            values = rng.poisson(np.exp(latent - 2)) if count else latent + 0.5 * rng.normal(size=latent.shape)
            truth = {"trial_id": trial, "values": values.astype(np.float32)}
            truth |= {"mask": rng.random((n, STEPS)) < 0.7} if task.counted else {}
            predicted = (latent - 2 if count else 0.8 * latent).astype(np.float32)
            extra = np.concatenate([predicted[shuffled], predicted[:3] + 9])
            mine = {"trial_id": np.append(trial[shuffled], [997, 998, 999]), "predictions": extra}
        found.append((SuiteFile("model", task.id, SESSION, 43, mine), truth))
    return found


def written(root: Path, seed: int = 7) -> tuple[Path, Path]:
    """Folders of `random_files`: predictions and truths."""
    for file, truth in random_files(seed):
        write_suite_prediction(root / "predictions", file)
        write_ground_truth(root / "truth", task_of(file.task), file.recording_id, truth)
    return root / "predictions", root / "truth"


def package_python() -> str:
    python = os.environ.get("FOUNDATION_BWB_PYTHON")
    if not python:
        pytest.skip("FOUNDATION_BWB_PYTHON names no interpreter that has ibl-bwb-eval")
    return python


@pytest.fixture(scope="module")
def session() -> Recording:
    return bench_session()


@pytest.fixture
def choice() -> SuiteFile:
    return next(file for file, _ in random_files(7) if file.task == "ts1-choice")


def test_our_scores_are_those_that_the_package_gave(tmp_path: Path) -> None:
    predictions, truth = written(tmp_path, seed=7)
    ours = [one for suite in ("ts1", "ts2", "ts3") for one in score_folder(predictions, truth, suite)]
    assert {one.task for one in ours} == set(TASKS) == set(STORED)
    for one in ours:
        assert one.scores == pytest.approx(STORED[one.task], abs=TOLERANCE), one.task


def test_the_package_run_live_gives_the_stored_scores_and_ours(tmp_path: Path) -> None:
    python = package_python()
    predictions, truth = written(tmp_path, seed=7)
    others = written(tmp_path / "other", seed=8)
    for suite in ("ts1", "ts2", "ts3"):
        found = score_with_package(python, suite, predictions, truth)
        for (_, task, _, _), scores in found.scores.items():
            finite = {name: value for name, value in scores.items() if np.isfinite(value)}
            assert finite == pytest.approx(STORED[task or "ts3-unit_cosmos"], abs=1e-6), task
    ours = score_folder(*others, "ts2")
    assert largest_difference(ours, score_with_package(python, "ts2", *others))[0] < TOLERANCE
    with pytest.raises(ValueError, match="one of the two only"):
        largest_difference([replace(ours[0], scores={"bps": 0.1})], score_with_package(python, "ts2", *others))


def test_an_interpreter_without_the_package_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give an interpreter"):
        score_with_package(tmp_path / "python", "ts1", tmp_path, tmp_path)


@pytest.mark.parametrize("task_id", list(TASKS))
def test_files_come_back_as_they_were_written(tmp_path: Path, task_id: str) -> None:
    (file, truth) = next(pair for pair in random_files(3) if pair[0].task == task_id)
    file = replace(file, metadata={"unit_filtering": "all_units", "dataset_version": "0.1.0"})
    path = write_suite_prediction(tmp_path, file)
    middle = [SESSION] if task_id != "ts3-unit_cosmos" else []
    assert path == tmp_path.joinpath(file.label, task_id, *middle, "seed_43.safetensors")
    back = read_suite_prediction(path)
    assert (back.label, back.task, back.recording_id, back.seed) == (file.label, task_id, file.recording_id, 43)
    assert file.metadata.items() <= back.metadata.items()
    for name, array in file.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], array)
        assert back.tensors[name].dtype == array.dtype
    write_ground_truth(tmp_path, task_of(task_id), SESSION, truth)
    read = read_ground_truth(tmp_path, task_of(task_id), SESSION)
    assert all(np.array_equal(read[name], array) for name, array in truth.items())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40), min_size=1, unique=True
    )
)
def test_ids_come_back(ids: list[str]) -> None:
    table = encode_ids(ids)
    assert table.dtype == np.uint8
    assert table.shape == (len(ids), max(map(len, ids)))
    assert decode_ids(table) == ids


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: replace(f, label="../away"), "label"),
        (lambda f: replace(f, recording_id="a/b"), "recording_id"),
        (lambda f: replace(f, seed=-1), "seed"),
        (lambda f: replace(f, task="choice"), "expected one of"),
        (lambda f: replace(f, tensors={"trial_id": f.tensors["trial_id"]}), "no tensor 'predictions'"),
        (lambda f: with_tensor(f, "predictions", f.tensors["predictions"][:, :, :1]), "predictions is"),
        (lambda f: with_tensor(f, "predictions", f.tensors["predictions"][:-1]), "predictions is"),
        (lambda f: with_tensor(f, "predictions", f.tensors["predictions"] * np.nan), "not finite"),
        (lambda f: with_tensor(f, "trial_id", f.tensors["trial_id"] * 0), "twice"),
        (lambda f: with_tensor(f, "trial_id", f.tensors["trial_id"].astype(float)), "trial_id is"),
    ],
)
def test_a_file_the_scorer_could_not_use_is_not_written(
    tmp_path: Path, choice: SuiteFile, change: Any, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        write_suite_prediction(tmp_path, change(choice))
    assert not list(tmp_path.rglob("*"))


def with_tensor(file: SuiteFile, name: str, array: np.ndarray) -> SuiteFile:
    return replace(file, tensors=file.tensors | {name: array})


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, choice: SuiteFile) -> None:
    path = write_suite_prediction(tmp_path, choice)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in [0, 4, 9, 100, len(whole) - 1, *rng.integers(1, len(whole), 20)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"seed_43\.safetensors"):
            read_suite_prediction(path)
    path.write_bytes((2**40).to_bytes(8, "little") + whole[8:])  # a header longer than the file
    with pytest.raises(ValueError, match="no readable"):
        read_suite_prediction(path)
    save_file(choice.tensors, path)  # no header texts
    with pytest.raises(ValueError, match="header"):
        read_suite_prediction(path)
    regions = next(file for file, _ in random_files(7) if file.task == "ts3-unit_cosmos")
    with pytest.raises(ValueError, match="label_names"):
        write_suite_prediction(tmp_path, replace(regions, metadata={"label_names": ",".join(reversed(COSMOS))}))


def test_what_the_package_would_leave_out_is_an_error(choice: SuiteFile) -> None:
    for file, truth in random_files(7):
        kind = task_of(file.task).kind
        rows = {"region": "entity_ids", "rates": "window_timestamps"}.get(kind, "trial_id")
        # One scored row is missing.
        key = truth[rows][0]
        keep = ~np.all(file.tensors[rows].reshape(len(file.tensors[rows]), -1) == np.ravel(key), axis=1)
        cut = {name: a[keep] if len(a) == len(keep) and name != "unit_ids" else a for name, a in file.tensors.items()}
        with pytest.raises(ValueError, match="1 of 30 scored rows or units are missing"):
            score_tensors(replace(file, tensors=cut), truth)
        # Columns in another order are put in order by their ids; the package would score them as they stand.
        if kind == "rates":
            turned = file.tensors | {"predictions": file.tensors["predictions"][..., ::-1]}
            turned |= {"unit_ids": file.tensors["unit_ids"][::-1]}
            assert score_tensors(replace(file, tensors=turned), truth) == score_tensors(file, truth)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 5))
def test_rate_scores_equal_a_loop_over_units(seed: int, rows: int, units: int) -> None:
    rng = np.random.default_rng(seed)
    log_rate = rng.normal(-1, 1, (rows, units))
    counts = rng.poisson(np.exp(rng.normal(-1, 1, (rows, units))))
    d2, gain, spikes = [], 0.0, 0
    for u in range(units):
        y, mean = counts[:, u], counts[:, u].mean()
        if not y.any():
            continue
        model = sum(np.exp(f) - n * f for f, n in zip(log_rate[:, u], y))
        null = sum(mean - n * np.log(mean) for n in y)
        best = sum(n - (n * np.log(n) if n else 0) for n in y)
        gain, spikes = gain + null - model, spikes + y.sum()
        if y.min() < y.max():
            d2.append(1 - (model - best) / (null - best))
    scores = rate_scores(counts, log_rate)
    assert scores.get("poisson_d2") == (pytest.approx(np.mean(d2)) if d2 else None)
    assert scores.get("bps") == (pytest.approx(gain / spikes / np.log(2)) if spikes else None)


def test_means_over_seeds_cut_at_zero_first() -> None:
    values = {(43, "a"): -0.5, (43, "b"): 0.4, (44, "a"): 0.2, (44, "b"): 0.6}
    found = [FileScore("m", "ts1-wheel_speed", s, seed, {"r2": v, "mae": v}, 1) for (seed, s), v in values.items()]
    table = over_seeds(found)["m", "ts1-wheel_speed"]
    assert table["r2"] == pytest.approx((0.3, 0.1, 2))  # seeds 0.2 and 0.4
    assert table["mae"] == pytest.approx((0.175, 0.225, 2))
    assert over_seeds(found[:1])["m", "ts1-wheel_speed"]["r2"] == (0.0, None, 1)


def test_windows_follow_the_source(session: Recording) -> None:
    for name, start in (("choice", "choice"), ("reward", "reward"), ("wheel_speed", "movement_window")):
        windows = ts1_windows(session, TASKS[f"ts1-{name}"], "test")
        at = session.trials[f"window_{start}_start_s"].to_numpy()
        naive = [k for k in range(40) if k != 33 and at[k] >= 140 and at[k] + 1 <= 205]
        assert windows.trial_id.tolist() == naive
        np.testing.assert_array_equal(windows.start_s, at[naive])
    assert 30 not in ts1_windows(session, TASKS["ts1-left_paw_speed"], "test").trial_id  # no confident sample
    with pytest.raises(ValueError, match="prepare the corpus"):
        ts1_windows(replace(session, covariates={}), TASKS["ts1-choice"], "test")
    with pytest.raises(ValueError, match="expected a session for evaluation"):
        split_intervals(bench_session(evaluated=False), "ts1", "test")


def test_a_gap_in_the_samples_takes_the_window_out(session: Recording) -> None:
    task = TASKS["ts1-whisker_motion_energy"]
    windows = ts1_windows(session, task, "test")
    covariate = session.covariates["whisker_energy"]
    assert covariate.times is not None
    hole = (covariate.times < windows.start_s[2] + 0.3) | (covariate.times > windows.start_s[2] + 0.4)
    cut = Covariate(covariate.spec, covariate.values[hole], covariate.observed[hole], covariate.times[hole])
    holed = replace(session, covariates=session.covariates | {"whisker_energy": cut})
    assert ts1_windows(holed, task, "test").trial_id.tolist() == np.delete(windows.trial_id, 2).tolist()


def test_truth_in_time_equals_a_loop(session: Recording) -> None:
    for name in ("left_paw_speed", "wheel_speed", "licking_rate"):
        task = TASKS[f"ts1-{name}"]
        truth, windows = ts1_truth(session, task), ts1_windows(session, task, "test")
        c = session.covariates[task.covariate]
        assert c.times is not None
        if task.counted:
            train = ts1_windows(session, task, "train").start_s
            inside = np.any([(c.times >= a) & (c.times < a + 1) for a in train], axis=0) & c.observed
            mean, std = c.values[inside].astype(float).mean(), c.values[inside].astype(float).std()
        else:
            mean, std = 0.0, 50.0 if task.kind == "count" else 1.0
        for k, start in enumerate(windows.start_s):
            inside = (c.times >= start) & (c.times < start + 1)
            assert inside.sum() == STEPS
            np.testing.assert_allclose(truth["values"][k, :, 0], (c.values[inside] - mean) / std, rtol=2e-6, atol=2e-6)
            if task.counted:
                np.testing.assert_array_equal(truth["mask"][k], c.observed[inside])
    assert normalization(session, TASKS["ts1-wheel_speed"]) is None
    label = ts1_truth(session, TASKS["ts1-choice"])
    ours = session.covariates["choice"].values[label["trial_id"]]
    np.testing.assert_array_equal(label["values"][:, 0], 1 - ours)  # upstream: right 0, left 1


def test_windows_of_suite_two_are_those_of_torch_brain_to_the_last_bit(session: Recording) -> None:
    samplers = pytest.importorskip("torch_brain.samplers", reason="torch_brain, whose windows these are")
    data = pytest.importorskip("torch_brain.data")
    binning = pytest.importorskip("torch_brain.utils.binning")
    intervals = ts2_intervals(session, "test")
    sampler = samplers.SequentialFixedWindowSampler(
        sampling_intervals={"x": data.Interval(intervals[:, 0], intervals[:, 1])}, window_length=1.0, step=0.02
    )
    theirs = [index.start for index in sampler]
    truth = ts2_truth(session, TASKS["ts2-co_smoothing"])
    assert truth["window_timestamps"].tolist() == theirs
    spikes = data.IrregularTimeSeries(
        timestamps=session.spike_times.copy(),
        unit_index=session.spike_units.astype(int),
        domain=data.Interval(0.0, 210.0),
    )
    held = np.flatnonzero(session.units["ts2_co_smoothing_is_held_out_test"])
    forecast = ts2_truth(session, TASKS["ts2-forecasting"])["targets"]
    for k in [0, 1, 57, len(theirs) - 1, *np.flatnonzero(np.diff(theirs) > 0.5)[:3]]:
        counts = binning.bin_spikes(spikes.slice(theirs[k], theirs[k] + 1), session.num_units, 0.02)
        np.testing.assert_array_equal(truth["targets"][k], counts[:, held])
        np.testing.assert_array_equal(forecast[k], counts[-5:])
    assert decode_ids(truth["unit_ids"]) == [f"{SESSION}/uuid-{k:04d}" for k in held]


def test_samples_are_those_that_torch_brain_slices(session: Recording) -> None:
    data = pytest.importorskip("torch_brain.data", reason="torch_brain, whose slices these are")
    task = TASKS["ts1-wheel_speed"]
    c = session.covariates["wheel_speed"]
    assert c.times is not None
    series = data.RegularTimeSeries(sampling_rate=50.0, domain_start=float(c.times[0]), speed=c.values)
    truth = ts1_truth(session, task)
    for k, start in enumerate(ts1_windows(session, task, "test").start_s):
        np.testing.assert_array_equal(truth["values"][k, :, 0], series.slice(start, start + 1).speed)


def test_a_short_last_step_gets_a_window_of_its_own() -> None:
    starts = ts2_window_starts(np.array([3.0, 4.047]))
    np.testing.assert_allclose(starts, [3.0, 3.02, 3.04, 3.047])
    assert len(ts2_window_starts(np.array([3.0, 3.9]))) == 0


def test_our_prediction_files_export_to_perfect_scores(session: Recording, tmp_path: Path) -> None:
    make_ground_truth([session], "ts1", tmp_path)
    for name, task_name in (("choice", "choice"), ("reward", "feedback")):
        task = TASKS[f"ts1-{name}"]
        view = SessionView.of(windows_as_trials(session, task))
        label = view.trial_covariates[task_name].values
        made = Prediction.of(view, task_name, "oracle", trial=view.source_trial, logit=np.where(label == 1, 2.0, -1.0))
        file = export_prediction(made, session, task, "oracle")
        assert file.metadata["unit_filtering"] == "selected_units"
        assert score_one(file, tmp_path).scores["bacc"] == 1.0
        wrong = replace(made, arrays=made.arrays | {"logit": -made.arrays["logit"]})
        assert score_one(export_prediction(wrong, session, task, "oracle"), tmp_path).scores["bacc"] == 0.0
        missing = replace(made, arrays={key: value[:-1] for key, value in made.arrays.items()})
        with pytest.raises(ValueError, match="scored windows or bins are missing"):
            export_prediction(missing, session, task, "oracle")
    for name in ("wheel_speed", "whisker_motion_energy", "left_paw_speed", "licking_rate"):
        task = TASKS[f"ts1-{name}"]
        view = SessionView.of(windows_as_trials(session, task))
        values = view.row_covariates[task.covariate].values[:, 0]
        made = Prediction.of(
            view, f"decode_{task.covariate}", "oracle", trial=view.source_row_trial, bin=view.bin, value=values
        )
        scores = score_one(export_prediction(made, session, task, "oracle"), tmp_path).scores
        # A view's bin takes the one sample in it; where a confident paw has gaps, only confident ones are scored.
        assert scores["poisson_d2" if name == "licking_rate" else "r2"] == pytest.approx(1, abs=1e-4), name


def test_what_cannot_be_exported_says_why(session: Recording) -> None:
    view = SessionView.of(windows_as_trials(session, TASKS["ts1-choice"]))
    label = Prediction.of(view, "choice", "m", trial=view.source_trial, logit=np.zeros(len(view.source_trial)))
    rate = np.ones((len(view.trial), 10))
    rates = Prediction.of_rates(view, "cosmooth", "m", rate, np.ones(len(view.trial), bool))
    for prediction, task, match in (
        (rates, "ts2-co_smoothing", "windows overlap"),
        (label, "ts1-reward", "expected 'feedback'"),
        (replace(label, task="stimulus_contrast"), "ts1-stimulus_contrast", "one number per trial"),
        (replace(label, session="other"), "ts1-choice", "the recording is"),
        (rates, "ts3-unit_cosmos", "export_regions"),
    ):
        with pytest.raises(ValueError, match=match):
            export_prediction(prediction, session, TASKS[task], "m")
    with pytest.raises(ValueError, match="not its logarithm"):
        export_traces(TASKS["ts1-licking_rate"], session, "m", 0, np.arange(2), -np.ones((2, STEPS)))
    with pytest.raises(ValueError, match="not log-rates"):
        export_rates(TASKS["ts2-forecasting"], session, "m", 0, np.arange(2.0), -np.ones((2, 5, 10)), np.arange(10))
    with pytest.raises(ValueError, match="logits"):
        export_labels(TASKS["ts1-choice"], session, "m", 0, np.arange(2), np.zeros((2, 5)))


def test_rates_and_regions_export(session: Recording, tmp_path: Path) -> None:
    make_ground_truth([session], "ts2", tmp_path)
    make_ground_truth([session], "ts3", tmp_path)
    task = TASKS["ts2-co_smoothing"]
    truth = ts2_truth(session, task)
    held = np.flatnonzero(session.units["ts2_co_smoothing_is_held_out_test"])
    file = export_rates(task, session, "oracle", 0, truth["window_timestamps"], truth["targets"], held)
    assert score_one(file, tmp_path).scores["poisson_d2"] == pytest.approx(1, abs=2e-3)  # logs in half precision
    table = ts3_table([session])
    assert len(table) == 7  # one in root, two on a probe with a warning
    fields = {"classes": np.array(COSMOS), "session_of_unit": np.full(10, f"bwb/{SESSION}"), "unit": np.arange(10)}
    prob = np.eye(len(COSMOS))[np.arange(10) % len(COSMOS)]
    made = Prediction("region", "m", "bwb", "", "interleaved", 0, 20.0, {**fields, "prob": prob}).validate()
    scores = score_one(export_regions(made, {SESSION: session}, "m_single"), tmp_path).scores
    assert scores["macro/recall"] == pytest.approx(0.7)  # perfect on seven of the ten classes
    with pytest.raises(ValueError, match="expected some of"):
        export_regions(
            replace(made, arrays=made.arrays | {"classes": np.array([*COSMOS[:9], "M1"])}), {SESSION: session}, "m"
        )


def test_the_mean_over_neighbors_equals_a_loop() -> None:
    rng = np.random.default_rng(2)
    depth, probe, prob = rng.uniform(0, 300, 40), rng.choice(["a", "b"], 40), rng.dirichlet(np.ones(10), 40)
    found = over_neighbors(prob, depth, probe)
    for i in range(40):
        ordered = sorted((abs(depth[j] - depth[i]), j) for j in range(40) if probe[j] == probe[i])
        near = [j for d, j in ordered if d <= 60][:5]
        np.testing.assert_allclose(found[i], np.mean([prob[j] for j in near], axis=0))


def test_nulls_score_what_they_should(session: Recording, tmp_path: Path) -> None:
    make_ground_truth([session], "ts1", tmp_path)
    scores = {}
    for name in ("choice", "stimulus_contrast", "wheel_speed", "licking_rate"):
        nulls, best = session_nulls(session, TASKS[f"ts1-{name}"])
        assert best in nulls
        scores[name] = {null: score_one(file, tmp_path).scores for null, file in nulls.items()}
    assert scores["choice"]["null mean"]["bacc"] == 0.5
    assert set(scores["choice"]) == {"null mean", "null trial structure", "null stimulus"}
    assert "null stimulus" not in scores["stimulus_contrast"]
    assert -0.1 < scores["wheel_speed"]["null mean"]["r2"] <= 0
    # The wheel moves after the movement's onset: the course in the window knows it, the mean does not.
    assert scores["wheel_speed"]["null trial structure"]["r2"] > 0.2
    assert -0.1 < scores["licking_rate"]["null mean"]["poisson_d2"] <= 1e-6


def test_nulls_of_rates_are_train_means(session: Recording, tmp_path: Path) -> None:
    # Spikes that follow the stimulus, so that trial structure has something to tell.
    on = session.covariates["stimulus_on"].times
    assert on is not None
    extra = np.sort((on[:, None] + np.linspace(0.05, 0.1, 6)).ravel())
    times, owner = (
        np.concatenate([session.spike_times, extra]),
        np.concatenate([session.spike_units, np.full(len(extra), 1)]),
    )
    order = np.argsort(times, kind="stable")
    told = replace(session, spike_times=times[order], spike_units=owner[order].astype(np.int32))
    make_ground_truth([told], "ts2", tmp_path)
    for name in ("co_smoothing", "forecasting"):
        nulls, _ = session_nulls(told, TASKS[f"ts2-{name}"])
        mean, structure = (score_one(nulls[n], tmp_path).scores for n in ("null mean", "null trial structure"))
        assert -0.05 < mean["poisson_d2"] <= 0
        assert -0.05 < mean["bps"] <= 0
        assert structure["poisson_d2"] > mean["poisson_d2"]
        assert structure["bps"] > 0.01
        log_rate = nulls["null mean"].tensors["predictions"]
        assert (log_rate == log_rate[:1, :1]).all()


def test_region_nulls_refuse_an_animal_on_both_sides(session: Recording) -> None:
    train, test = ts3_table([bench_session("p", "KS001", 1, evaluated=False)]), ts3_table([session])
    assert len(train) == 9  # of pretraining a probe with a warning stays
    nulls = region_nulls(train, test)
    assert {"null mean", "null rate", "null rate and depth", "null rate multi"} <= set(nulls)
    with pytest.raises(ValueError, match="in pretraining and in evaluation"):
        region_nulls(train.assign(subject="KS014"), test)


def test_test_trials_that_adaptation_used_are_found(session: Recording) -> None:
    roles = np.full(40, ROLES["train"])
    start = session.trials["start_s"].to_numpy()
    roles[start + 5 > 140] = ROLES["test"]
    assert seconds_of_test_used(session, roles, "ts1") == 0
    roles[29] = ROLES["val"]  # 150 to 155 s
    assert seconds_of_test_used(session, roles, "ts1") == pytest.approx(5)
    assert seconds_of_test_used(session, roles, "ts2") == pytest.approx(30)  # 65 to 95 s are train of suite 1
    with pytest.raises(ValueError, match="another version"):
        seconds_of_test_used(session, roles[:-1], "ts1")
    assert animal_breaches({"a": session, "b": bench_session("b", evaluated=False)}) == [
        "KS014 is in pretraining and in evaluation"
    ]


def test_the_command_scores_files_of_ours_and_theirs(session: Recording, tmp_path: Path) -> None:
    write_recording(tmp_path / "corpus", session)
    write_recording(tmp_path / "corpus", bench_session("pretrained", "KS001", 1, evaluated=False))
    corpus = write_manifest(tmp_path / "corpus")
    task = TASKS["ts1-choice"]
    view = SessionView.of(windows_as_trials(session, task))
    logit = np.random.default_rng(0).normal(size=len(view.source_trial))
    ours = Prediction.of(view, "choice", "mine/adapter", trial=view.source_trial, logit=logit)
    write_prediction(tmp_path / "given" / "choice.npz", ours)
    wheel = ts1_truth(session, TASKS["ts1-wheel_speed"])
    for seed in (43, 44, 45):
        rng = np.random.default_rng(seed)
        values = wheel["values"][..., 0] + rng.normal(0, 0.1, wheel["values"].shape[:2])
        file = export_traces(TASKS["ts1-wheel_speed"], session, "theirs", seed, wheel["trial_id"], values)
        write_suite_prediction(tmp_path / "given", file)
    scorer = os.environ.get("FOUNDATION_BWB_PYTHON")
    options: dict[str, Any] = {"scorer": Path(scorer)} if scorer else {}
    evaluate_suite("bwb-ts1", [tmp_path / "given"], corpus, tmp_path / "out", **options)
    rows, provenance = read_results(tmp_path / "out")
    models = rows[rows["kind"] == "model"]
    assert set(models["model"]) == {"mine-adapter", "theirs"}
    assert set(models["subject"]) == {"KS014"}
    assert sorted(models[models["metric"] == "r2"]["seed"]) == [43, 44, 45]
    assert (models[models["metric"] == "r2"]["value"] > 0.9).all()
    assert models["null_value"].notna().sum() >= 6
    assert {"null mean", "null trial structure", "null stimulus"} == set(rows[rows["kind"] == "null"]["model"])
    assert provenance["over_seeds"]["theirs/ts1-wheel_speed"]["r2"][2] == 3
    assert any("mine-adapter/ts1-choice: seeds [0]" in gap for gap in provenance["not_a_full_submission"])
    if scorer:
        assert all(one["largest_difference"] < 1e-5 for one in provenance["package"])
    with pytest.raises(ValueError, match="expected bwb-ts1"):
        suite_of("ts1")


@pytest.mark.parametrize("suite", ["ts2", "ts3"])
def test_the_command_scores_the_other_suites(session: Recording, tmp_path: Path, suite: str) -> None:
    write_recording(tmp_path / "corpus", session)
    write_recording(tmp_path / "corpus", bench_session("pretrained", "KS001", 1, evaluated=False))
    corpus = write_manifest(tmp_path / "corpus")
    if suite == "ts2":
        task = TASKS["ts2-forecasting"]
        truth = ts2_truth(session, task)
        rate = np.broadcast_to(truth["targets"].mean(axis=(0, 1)), truth["targets"].shape)
        file = export_rates(task, session, "flat", 43, truth["window_timestamps"], rate, np.arange(10))
    else:
        table = ts3_table([session])
        file = regions_file("oracle_single", 43, list(table["entity_id"]), np.eye(len(COSMOS))[table["target"]])
    write_suite_prediction(tmp_path / "given", file)
    scorer = os.environ.get("FOUNDATION_BWB_PYTHON")
    evaluate_suite(
        f"bwb-{suite}", [tmp_path / "given"], corpus, tmp_path / "out", scorer=Path(scorer) if scorer else None
    )
    rows, provenance = read_results(tmp_path / "out")
    found = rows[rows["kind"] == "model"].set_index("metric")["value"]
    if suite == "ts2":
        # The test mean itself, but for logs in half precision.
        assert found["bps"] == pytest.approx(0, abs=1e-4)
        assert found["poisson_d2"] == pytest.approx(0, abs=1e-4)
    else:
        assert found["macro/f1-score"] == pytest.approx(0.7)
        assert "null rate and depth multi" in set(rows["model"])
    assert rows[rows["kind"] == "model"]["null_value"].notna().all()
    if scorer:
        assert all(one["largest_difference"] < 1e-4 for one in provenance["package"])


def test_what_a_model_saw_is_checked(session: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"roles": [ROLES["train"]] * 40}
    past = {"pretraining_subjects": ["KS014", "KS001"], "adapted": {f"elsewhere/{SESSION}": used, "other/x": used}}
    adapters = SimpleNamespace(sessions={"recording_id": [*past["adapted"]]})
    monkeypatch.setattr(
        "eval.bwb_checks.load_model", lambda folder: SimpleNamespace(provenance=past, adapters=adapters)
    )
    told = model_breaches(tmp_path, {SESSION: session}, "ts1")
    assert "KS014 was in the pretraining" in told[0]
    assert "65.0 s of the test split" in told[1]  # 140 s to the end of the last trial at 205 s
    assert len(model_breaches(tmp_path, {SESSION: session}, "ts3")) == 1


def test_an_animal_on_both_sides_is_refused_or_stamped(session: Recording, tmp_path: Path) -> None:
    write_recording(tmp_path / "corpus", session)
    write_recording(tmp_path / "corpus", bench_session("twin", evaluated=False))
    corpus: Corpus = write_manifest(tmp_path / "corpus")
    truth = ts1_truth(session, TASKS["ts1-choice"])
    logits = np.eye(2)[1 - truth["values"][:, 0]]
    write_suite_prediction(
        tmp_path / "given", export_labels(TASKS["ts1-choice"], session, "m", 43, truth["trial_id"], logits)
    )
    with pytest.raises(ProvenanceError, match="KS014 is in pretraining"):
        evaluate_suite("bwb-ts1", [tmp_path / "given"], corpus, tmp_path / "out")
    evaluate_suite("bwb-ts1", [tmp_path / "given"], corpus, tmp_path / "out", force=True)
    assert read_results(tmp_path / "out")[1]["forced"] == ["KS014 is in pretraining and in evaluation"]


def test_a_full_submission_has_no_gaps(session: Recording) -> None:
    truth = ts1_truth(session, TASKS["ts1-choice"])
    about = {"unit_filtering": "all_units", "dataset_version": "0.1.0"}

    def files(seeds: tuple[int, ...], **more: str) -> list[SuiteFile]:
        tensors = {"trial_id": truth["trial_id"], "predictions": np.zeros((len(truth["trial_id"]), 1, 2), np.float32)}
        return [SuiteFile("m", "ts1-choice", SESSION, seed, tensors, about | more) for seed in seeds]

    assert submission_gaps(files((43, 44, 45)), {SESSION: session}) == []
    assert "expected at least 3" in submission_gaps(files((43, 45, 46)), {SESSION: session})[0]
    other = bench_session("other", seed=3)
    assert "1 sessions, such as other" in submission_gaps(files((43, 44, 45)), {SESSION: session, "other": other})[0]


def test_tensors_in_the_file_are_what_the_package_reads(tmp_path: Path, choice: SuiteFile) -> None:
    path = write_suite_prediction(tmp_path, choice)
    assert set(load_file(path)) == {"predictions", "trial_id"}


STORED: dict[str, dict[str, float]] = {
    "ts1-choice": {
        "ap": 0.8033831,
        "bacc": 0.6339285,
        "f1": 0.6329255,
    },
    "ts1-left_paw_speed": {
        "mae": 0.4196424,
        "pearson": 0.896011,
        "r2": 0.7741016,
    },
    "ts1-licking_rate": {
        "mae": 2.227118,
        "poisson_d2": 0.2383944,
    },
    "ts1-reward": {
        "ap": 0.6818233,
        "bacc": 0.5666667,
        "f1": 0.5542857,
    },
    "ts1-right_paw_speed": {
        "mae": 0.4273502,
        "pearson": 0.8912057,
        "r2": 0.7637382,
    },
    "ts1-stimulus_contrast": {
        "ap": 0.4994684,
        "bacc": 0.3474026,
        "f1": 0.3542857,
    },
    "ts1-wheel_speed": {
        "mae": 0.4274958,
        "pearson": 0.9013225,
        "r2": 0.7769297,
    },
    "ts1-whisker_motion_energy": {
        "mae": 0.4261438,
        "pearson": 0.8955182,
        "r2": 0.7730436,
    },
    "ts2-co_smoothing": {
        "bps": 0.3139669,
        "poisson_d2": 0.1405709,
    },
    "ts2-forecasting": {
        "bps": 0.3893099,
        "poisson_d2": 0.1857296,
    },
    "ts3-unit_cosmos": {
        "CB/f1-score": 0.8888889,
        "CB/precision": 0.8,
        "CB/recall": 1,
        "CNU/f1-score": 1,
        "CNU/precision": 1,
        "CNU/recall": 1,
        "CTXsp/f1-score": 0.8,
        "CTXsp/precision": 1,
        "CTXsp/recall": 0.6666667,
        "HB/f1-score": 1,
        "HB/precision": 1,
        "HB/recall": 1,
        "HPF/f1-score": 1,
        "HPF/precision": 1,
        "HPF/recall": 1,
        "HY/f1-score": 1,
        "HY/precision": 1,
        "HY/recall": 1,
        "Isocortex/f1-score": 0.8,
        "Isocortex/precision": 0.6666667,
        "Isocortex/recall": 1,
        "MB/f1-score": 0.9090909,
        "MB/precision": 1,
        "MB/recall": 0.8333333,
        "OLF/f1-score": 0.8,
        "OLF/precision": 1,
        "OLF/recall": 0.6666667,
        "TH/f1-score": 0,
        "TH/precision": 0,
        "TH/recall": 0,
        "macro/f1-score": 0.819798,
        "macro/precision": 0.8466667,
        "macro/recall": 0.8166667,
    },
}
