"""Models of ours in Brain-Wide Bench: adapted in the source's own split, they predict from what the suite shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.simulated_bwb import SESSION, bench_session, planted
from eval.adapted import Adapted, breaches, find_models
from eval.bwb_checks import model_breaches
from eval.bwb_decoding import decode
from eval.bwb_export import build_of
from eval.bwb_files import decode_ids
from eval.bwb_models import models_of
from eval.bwb_rates import predict_rates
from eval.bwb_regions import region_files
from eval.bwb_scores import rate_scores
from eval.bwb_tasks import COSMOS, TASKS
from eval.bwb_windows import ts1_truth, ts2_truth, ts3_table
from eval.results import read_results
from foundation.__main__ import main
from foundation.channels import DataConfig, find_channels
from foundation.checkpoint import load_model
from foundation.config import Config
from foundation.corpus import Corpus, write_manifest
from foundation.decoding import DecodingConfig
from foundation.finetune import Assignment
from foundation.model import FoundationModel
from foundation.model_config import ModelConfig
from foundation.objectives import ObjectiveConfig
from foundation.optim import OptimConfig
from foundation.pretrain import provenance
from foundation.readout import ReadoutConfig
from foundation.recording import Recording
from foundation.recording_folder import write_recording
from foundation.sampling import WindowReader
from foundation.splits import NO_ROLE, ROLES, session_roles, source_roles
from foundation.train import TrainConfig, fit
from foundation.training_data import add_sessions, training_data

KEY = f"bwb/{SESSION}"
TARGETS = ["choice", "wheel_speed", "licking_rate"]
READOUT = ReadoutConfig(penalties=[100.0], coupling_penalties=[300.0], components=6, history_components=3)
DECODING = DecodingConfig(penalties=[0.01, 0.1, 1.0, 10.0])
# The read-outs of the protocol are not what the suites ask for; their settings are.
QUICK = [
    "finetune.steps=3",
    "finetune.val_every=3",
    "finetune.windows_per_step=8",
    "finetune.readout={enabled: false, penalties: [100.0], coupling_penalties: [300.0], components: 6}",
    "finetune.readout.history_components=3",
    "finetune.decoding={enabled: false, penalties: [0.01, 0.1, 1.0, 10.0]}",
]


@pytest.fixture(scope="module")
def session() -> Recording:
    """For evaluation, with few seconds of test in suite 2."""
    made = planted(bench_session())
    splits = made.info.splits | {"ts2": made.info.splits["ts2"] | {"test": [[65, 75], [180, 190]]}}
    return replace(made, info=replace(made.info, splits=splits))


@pytest.fixture(scope="module")
def corpus(session: Recording, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("bwb")
    write_recording(folder, session)
    for k in (1, 2):
        write_recording(folder, planted(bench_session(f"pre{k}", f"KS00{k}", k, evaluated=False), k))
    return write_manifest(folder)


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run, as far as a few steps go."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = DataConfig(corpus=str(corpus.path), held_out=["KS014"], inputs=TARGETS, targets=TARGETS, window_s=1.0)
    known = corpus.select(subjects=["KS001", "KS002"])
    channels = find_channels(known, data, known.ids)
    shape = ModelConfig(width=16, depth=1, heads=2, feed_forward=32, private_rank=2)
    model = FoundationModel.create(shape, channels, 0.02, 1.0, 0)
    windows = training_data(WindowReader(known, channels, 0.02), known.ids, 1.0, session_roles)
    add_sessions(model, windows, known.ids, 0)
    steps = TrainConfig(steps=12, windows_per_step=8, windows_per_session=4, val_every=12, val_windows=8, track=[])
    model = fit(model, windows, objective=ObjectiveConfig(), optim=OptimConfig(), train=steps, seed=0)
    model.provenance = provenance(Config(name="tiny", data=data), known, ["KS001", "KS002"])
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(run: Path, corpus: Corpus) -> dict[str, Path]:
    """Run folders of the animal for evaluation, by split."""
    folders = {}
    for suite in ("ts1", "ts2"):
        folders[suite] = run.parent / suite
        arguments = ["--corpus", str(corpus.path), "--subjects", "KS014", "--split", f"source:{suite}"]
        assert main(["finetune", str(run), *arguments, "--out", str(folders[suite]), *QUICK]) == 0
    return folders


def model_of(folder: Path) -> FoundationModel:
    return load_model(folder / "KS014" / "adapter")


def test_a_trial_has_the_role_of_the_interval_that_holds_it(session: Recording) -> None:
    bounds = session.trials[["start_s", "stop_s"]].to_numpy()
    # Edges within trials, of one role beside the other, and of one beside itself.
    odd = {"train": [[0.0, 63.5], [66.0, 80.0]], "test": [[63.5, 66.0], [80.0, 101.0], [101.0, 152.3]]}
    session = replace(session, info=replace(session.info, splits=session.info.splits | {"odd": odd}))
    for suite, splits in session.info.splits.items():
        found = session_roles(session, f"source:{suite}")
        for k, (start, stop) in enumerate(bounds):
            inside = [r for r, parts in splits.items() if any(a <= start and stop <= b for a, b in parts)]
            assert found[k] == (ROLES[inside[0]] if inside else NO_ROLE), (suite, k)
    assert {ROLES["train"], ROLES["val"], ROLES["test"], NO_ROLE} == set(session_roles(session, "source:ts2"))
    unusable = replace(session, trials=session.trials.assign(usable=np.arange(len(bounds)) != 3))
    assert session_roles(unusable, "source:ts1")[3] == NO_ROLE
    assert Assignment("source:ts1", train_trials=4).roles(session).tolist().count(ROLES["train"]) == 4


def test_a_split_that_the_source_does_not_bring_is_named(session: Recording) -> None:
    one = replace(session, info=replace(session.info, splits={"ts1": session.info.splits["ts1"]}))
    np.testing.assert_array_equal(source_roles(one, "source"), source_roles(session, "source:ts1"))
    for recording, split, match in (
        (session, "source", "there are: source:ts1, source:ts2"),
        (session, "source:ts3", "there are: source:ts1, source:ts2"),
        (replace(session, info=replace(session.info, splits={})), "source", "there are: none"),
        (session, "sauce", "expected interleaved, temporal, or source:NAME"),
    ):
        with pytest.raises(ValueError, match=match):
            session_roles(recording, split)


def test_adaptation_leaves_the_test_intervals_alone(
    adapted: dict[str, Path], corpus: Corpus, session: Recording
) -> None:
    for suite in ("ts1", "ts2"):
        used = model_of(adapted[suite]).provenance["adapted"][KEY]
        assert used["split"] == f"source:{suite}"
        assert used["roles"] == session_roles(session, f"source:{suite}").tolist()
        folder = adapted[suite] / "KS014" / "adapter"
        assert model_breaches(folder, {SESSION: session}, suite) == []  # type: ignore[arg-type]
    # The split of one suite trains on seconds that the other tests.
    wrong = model_breaches(adapted["ts1"] / "KS014" / "adapter", {SESSION: session}, "ts2")
    assert "of the test split were used" in wrong[0]
    assert "adapt with --split source:ts2" in wrong[0]
    # The protocol's own check knows the split too: an answer on a trial of another role is found.
    (model,) = find_models(adapted["ts1"], ["KS014"])
    assert breaches(model, corpus) == []
    past = copy.deepcopy(model.model.provenance)
    test = past["adapted"][KEY]["roles"].index(ROLES["test"])
    past["adapted"][KEY]["roles"][test] = ROLES["val"]
    model.model.provenance = past
    assert "test trials were used" in breaches(model, corpus)[0]


def scores_of(out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    rows, about = read_results(out)
    models = rows[rows["kind"] == "model"]
    return models.set_index(["task", "metric"]), about


def test_suite_1_from_the_command_line(
    adapted: dict[str, Path], corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", str(adapted["ts1"]), "--suite", "bwb-ts1", "--corpus", str(corpus.path), "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "left out: ts1-left_paw_speed (tiny/adapter has no target 'left_paw_speed')" in said
    rows, about = scores_of(out)
    assert set(rows["model"]) == {"tiny-adapter"}
    assert about["forced"] == []
    assert any("tiny-adapter/ts1-choice: seeds [0]" in gap for gap in about["not_a_full_submission"])
    # What was planted is found. Speed follows movement, whose onset its null is told; the mean scores 0.
    choice, wheel, licks = (
        rows.loc[key] for key in (("ts1-choice", "bacc"), ("ts1-wheel_speed", "r2"), ("ts1-licking_rate", "poisson_d2"))
    )
    assert choice["value"] > 0.9 > choice["null_value"]
    assert wheel["value"] > 0.15
    assert licks["value"] > 0.2 > licks["null_value"]
    # The same call again makes no prediction anew.
    file = next((out / "predictions").rglob("ts1-choice/*/seed_0.safetensors"))
    before = file.stat().st_mtime_ns
    assert main(command) == 0
    assert "predict" not in capsys.readouterr().err
    assert file.stat().st_mtime_ns == before


def test_suite_2_from_the_command_line(adapted: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--suite", "bwb-ts2", "--corpus", str(corpus.path), "--out", str(out), "--subjects", "KS014"]
    assert main(["evaluate", str(adapted["ts2"]), *arguments]) == 0
    rows, _ = scores_of(out)
    for metric in ("poisson_d2", "bps"):
        one = rows.loc["ts2-co_smoothing", metric]
        assert one["value"] > max(0.02, one["null_value"])
        one = rows.loc["ts2-forecasting", metric]
        assert one["value"] > one["null_value"]


def test_a_label_or_behavior_of_the_test_windows_changes_no_prediction(
    adapted: dict[str, Path], session: Recording
) -> None:
    model = model_of(adapted["ts1"])
    rng = np.random.default_rng(0)
    test = session.trials["start_s"].to_numpy() >= 140
    covariates = dict(session.covariates)
    choice = np.array(covariates["choice"].values)
    choice[test] = 1 - choice[test]
    covariates["choice"] = replace(covariates["choice"], values=choice)
    for name in ("wheel_speed", "licking_rate"):
        values = np.array(covariates[name].values)
        later = np.asarray(covariates[name].times) >= 140
        values[later] = rng.permutation(values[later])
        covariates[name] = replace(covariates[name], values=values)
    told = replace(session, covariates=covariates)
    for name in ("choice", "licking_rate"):
        task = TASKS[f"ts1-{name}"]
        np.testing.assert_array_equal(decode(model, told, task, DECODING)[1], decode(model, session, task, DECODING)[1])
    assert not np.array_equal(ts1_truth(told, task)["values"], ts1_truth(session, task)["values"])


def moved(recording: Recording, keep: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Recording:
    """The recording without the spikes `keep(times, units)` rejects."""
    kept = keep(recording.spike_times, recording.spike_units)
    assert not kept.all()
    return replace(recording, spike_times=recording.spike_times[kept], spike_units=recording.spike_units[kept])


def test_what_suite_2_hides_changes_no_prediction(adapted: dict[str, Path], session: Recording) -> None:
    model = model_of(adapted["ts2"])
    task = TASKS["ts2-co_smoothing"]
    starts, rate, units = predict_rates(model, session, task, READOUT)
    assert units.tolist() == [1, 5, 9]
    test = (session.spike_times[:, None] >= [65, 180]) & (session.spike_times[:, None] < [75, 190])
    silent = moved(session, lambda times, owner: ~(test.any(axis=1) & np.isin(owner, units)))
    blind = replace(
        silent,
        covariates={
            name: replace(c, values=np.where(c.times < 65, c.values, 0)) if c.times is not None and len(c.values) else c
            for name, c in silent.covariates.items()
        },
    )
    np.testing.assert_array_equal(predict_rates(model, blind, task, READOUT)[1], rate)
    # Of the visible units every spike of the test may count.
    deaf = moved(session, lambda times, owner: ~(test.any(axis=1) & (owner == 0)))
    assert not np.array_equal(predict_rates(model, deaf, task, READOUT)[1], rate)
    truth = ts2_truth(session, task)
    np.testing.assert_array_equal(starts, truth["window_timestamps"])
    mean = np.broadcast_to(truth["targets"].mean(axis=(0, 1)), rate.shape)
    ours, flat = (
        rate_scores(truth["targets"].reshape(-1, 3), np.log(one).reshape(-1, 3))["poisson_d2"] for one in (rate, mean)
    )
    assert ours > flat + 0.02


def test_a_forecast_knows_nothing_of_what_comes(adapted: dict[str, Path], session: Recording) -> None:
    model, task = model_of(adapted["ts2"]), TASKS["ts2-forecasting"]
    starts, rate, _ = predict_rates(model, session, task, READOUT)
    assert rate.shape == (len(starts), 5, 10)
    cut = 186.5
    later = moved(session, lambda times, owner: ~((times >= cut) & (times < 190)))
    changed = predict_rates(model, later, task, READOUT)[1]
    blind = starts + 0.9 <= cut
    assert 0 < blind.sum() < len(starts)
    np.testing.assert_array_equal(changed[blind], rate[blind])
    assert not np.array_equal(changed[~blind], rate[~blind])


def test_models_that_cannot_be_scored_are_named(
    adapted: dict[str, Path], run: Path, corpus: Corpus, session: Recording, tmp_path: Path, capsys: Any
) -> None:
    out = ["--corpus", str(corpus.path), "--out", str(tmp_path / "out")]
    ts1, ts2 = str(adapted["ts1"]), str(adapted["ts2"])
    for words, match in (
        ([ts1, "--suite", "bwb-ts2"], "adapt with --split source:ts2"),
        (["--suite", "bwb-ts1"], "expected runs of `foundation finetune` or --predictions"),
        ([str(run), "--suite", "bwb-ts1"], "no adapted model of ['KS014']"),
        ([ts1, "--suite", "bwb-ts1", "--subjects", "KS001"], "['KS001'] have no session for evaluation"),
        ([ts1, ts2, "--suite", "bwb-ts1", "--force"], "two models of one label and seed"),
        (["--suite", "bwb-ts1", "--predictions", str(tmp_path / "none")], "no such folder"),
        ([ts1, "--suite", "bwb-ts1", "--tasks", "choice"], "--tasks: not with --suite"),
        ([ts1, "--subjects", "KS014"], "was adapted in the split 'source:ts1', expected interleaved or temporal"),
        ([ts1], "--subjects is missing"),
        (["--subjects", "KS014"], "the run folder is missing"),
        (["--suite", "bwb-ts1", "--predictions", "x", "--subjects", "KS014"], "--subjects: no run to choose from"),
        ([ts1, "--subjects", "KS014", "--predictions", "x"], "--predictions: without --suite"),
    ):
        assert main(["evaluate", *words, *out]) == 2, words
        assert match in capsys.readouterr().err, words
    other = replace(session, units=session.units.assign(unit_id=[f"x{k}" for k in range(10)]))
    with pytest.raises(ValueError, match="the build"):
        models_of([adapted["ts1"]], {SESSION: other})
    model = model_of(adapted["ts1"])
    model.config.bin_size_s = 0.04
    for found in (
        lambda: decode(model, session, TASKS["ts1-choice"], DECODING),
        lambda: predict_rates(model, session, TASKS["ts2-forecasting"], READOUT),
    ):
        with pytest.raises(ValueError, match="bins of 40 ms, expected 20"):
            found()


def test_the_header_says_what_the_recipe_noted(session: Recording) -> None:
    noted = replace(session.info, notes="session.id: x; build: all_units; version: 0.1.0; not taken: licks.version")
    about = {"unit_filtering": "all_units", "dataset_version": "0.1.0"}
    assert build_of(replace(session, info=noted)) == about
    assert build_of(session) == {"unit_filtering": "selected_units"}


def test_an_adapter_whose_trials_are_not_on_record_is_a_breach(
    adapted: dict[str, Path], session: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(adapted["ts1"])
    model.provenance = model.provenance | {"adapted": {}}
    monkeypatch.setattr("eval.bwb_checks.load_model", lambda folder: model)
    assert "not on record" in model_breaches(Path("m"), {SESSION: session}, "ts1")[0]


def test_suite_3_from_the_command_line(adapted: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--suite", "bwb-ts3", "--corpus", str(corpus.path), "--out", str(out)]
    assert main(["evaluate", str(adapted["ts2"]), *arguments]) == 0
    rows, about = read_results(out)
    assert set(rows[rows["kind"] == "model"]["model"]) == {"tiny-adapter_single", "tiny-adapter_multi"}
    file = load_file(out / "predictions/tiny-adapter_single/ts3-unit_cosmos/seed_0.safetensors")
    assert decode_ids(file["entity_ids"]) == ts3_table([corpus[KEY]])["entity_id"].tolist()
    np.testing.assert_allclose(file["pred_proba"].sum(axis=1), 1, atol=1e-6)
    assert about["models"] == ["tiny-adapter_multi", "tiny-adapter_single"]


def test_regions_are_told_by_the_vectors_of_pretraining_units() -> None:
    """Vectors that hold the region and noise: equal to a regression written out, and right for unseen animals."""
    sessions = [bench_session(f"p{k}", f"KS00{k}", k, evaluated=False) for k in range(4)]
    test = bench_session(SESSION, "KS014", 9)
    rng = np.random.default_rng(0)

    def vectors(one: Recording) -> np.ndarray:
        number = [COSMOS.index(name) if name in COSMOS else 10 for name in one.units["region_cosmos"]]
        return np.eye(11)[number] @ code + 0.1 * rng.normal(size=(one.num_units, 6))

    code = rng.normal(size=(11, 6))
    known = {one.info.recording_id: vectors(one) for one in [*sessions, test]}

    def model(some: list[Recording]) -> Any:
        keys = [one.info.recording_id for one in some]
        adapters = SimpleNamespace(sessions=pd.DataFrame({"recording_id": keys}))
        return SimpleNamespace(adapters=adapters, readouts={}, adapter_rows=known.__getitem__)

    adapted = Adapted(Path("m"), "KS014", "adapter", model([test]))
    recordings = {one.info.session: one for one in [*sessions, test]}
    single, multi = region_files("m", 43, [adapted], model(sessions), recordings, {})
    table = ts3_table([test])
    assert decode_ids(single.tensors["entity_ids"]) == table["entity_id"].tolist()
    assert (single.tensors["pred_proba"].argmax(axis=1) == table["target"]).all()
    assert (single.label, multi.label) == ("m_single", "m_multi")
    assert not np.array_equal(single.tensors["pred_proba"], multi.tensors["pred_proba"])
    # The regions of evaluated units are read nowhere but to say who is scored.
    rows = ts3_rows(test)
    mixed = test.units["region_cosmos"].to_numpy(str)
    mixed[rows] = np.roll(mixed[rows], 1)
    told = recordings | {SESSION: replace(test, units=test.units.assign(region_cosmos=mixed))}
    again = region_files("m", 43, [adapted], model(sessions), told, {})[0]
    np.testing.assert_array_equal(again.tensors["pred_proba"], single.tensors["pred_proba"])
    x, y = [], []
    for one in sessions:
        keep = one.units["region_cosmos"].isin(COSMOS).to_numpy()
        x.append(known[one.info.recording_id][keep])
        y.append([COSMOS.index(name) for name in one.units["region_cosmos"][keep]])
    scaler = StandardScaler().fit(np.concatenate(x))
    fits = [
        LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(
            scaler.transform(np.concatenate(x)), np.concatenate(y)
        )
        for c in (1e-3, 1e-2, 1e-1, 1.0)
    ]
    found = [fit.predict_proba(scaler.transform(known[KEY][rows])) for fit in fits]
    seen = single.tensors["pred_proba"][:, fits[0].classes_]
    assert any(np.allclose(seen, one, atol=1e-6) for one in found)
    with pytest.raises(ValueError, match="no adapted model of 1 sessions"):
        region_files("m", 43, [], model(sessions), recordings, {})
    with pytest.raises(ValueError, match="fewer than two regions"):
        region_files("m", 43, [adapted], model([]), recordings, {})


def ts3_rows(recording: Recording) -> np.ndarray:
    """Rows of the units table that suite 3 scores, read off the ids."""
    ids = [f"{recording.info.session}/{name}" for name in recording.units["source_id"]]
    return np.array([ids.index(name) for name in ts3_table([recording])["entity_id"]])
