"""Evaluation of held-out animals, end to end on small synthetic animals: who may be scored, what is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval import held_out
from eval.adapted import find_models
from eval.baselines import Baseline, run_baselines, run_controls
from eval.details import read_details
from eval.examples import read_examples
from eval.leakage import leaks_of
from eval.predictions import read_prediction, write_prediction
from eval.probe_fits import fit_logistic
from eval.results import read_results
from eval.scoring import score
from eval.session_view import SessionView
from eval.statistics import per_session
from foundation.__main__ import main
from foundation.corpus import Corpus, write_manifest
from foundation.recording_folder import write_recording

SMALL = [
    "model.width=16",
    "model.depth=1",
    "model.feed_forward=32",
    "train.windows_per_step=8",
    "train.val_windows=16",
    "train.track=[]",
    "finetune.steps=4",
    "finetune.few_shot_steps=2",
    "finetune.full_steps=3",
    "finetune.windows_per_step=8",
    "finetune.val_every=2",
    "finetune.readout.coupling_penalties=[1000.0]",
    "finetune.readout.penalties=[100.0, 1000.0]",
    "finetune.readout.groups=3",
    "finetune.decoding.causal_bins=300",
]


@pytest.fixture(scope="module")
def runs(synthetic_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run without animal03, which it is adapted to, on all trials and on eight."""
    root = tmp_path_factory.mktemp("runs")
    config = root / "tiny.yaml"
    config.write_text(f"name: tiny\ndata: {{corpus: {synthetic_corpus.path}, held_out: [animal03]}}\n")
    assert main(["train", str(config), f"out={root / 'base'}", "train.steps=6", "train.val_every=3", *SMALL]) == 0
    for name, extra in (("new", []), ("few", ["--train-trials", "8"])):
        command = ["finetune", str(root / "base"), "--corpus", str(synthetic_corpus.path), "--subjects", "animal03"]
        assert (
            main([*command, "--out", str(root / name), "--tracks", "adapter", "full", "scratch", *extra, *SMALL]) == 0
        )
    return root


def finetuned(base: Path, corpus: Corpus, out: Path, subject: str, *extra: str) -> int:
    """Exit status of `foundation finetune` in its smallest form."""
    command = ["finetune", str(base), "--corpus", str(corpus.path), "--subjects", subject, "--out", str(out)]
    return main([*command, *extra, *SMALL])


def _evaluate(runs: Path, corpus: Corpus, out: Path, *extra: str, subject: str = "animal03") -> int:
    names = [str(runs / name) for name in ("new", "few")]
    command = ["evaluate", *names, "--corpus", str(corpus.path), "--subjects", subject, "--out", str(out)]
    return main([*command, "--tasks", "encode", "choice", "forecast", "--baselines", "quick", *extra])


def test_rows_carry_baseline_and_null_and_files_score_the_same(
    runs: Path, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    assert _evaluate(runs, synthetic_corpus, tmp_path) == 0
    table, provenance = read_results(tmp_path)
    assert provenance["held_out_subjects"] == ["animal03"]
    assert "animal03" not in provenance["pretraining_subjects"]
    mine = table[table["kind"] == "model"]
    assert set(mine["model"]) == {"tiny/adapter", "tiny/full", "tiny/scratch"}
    assert set(mine["train_trials"]) == {0, 8}
    assert mine["baseline_value"].notna().all()
    assert mine["null_value"].notna().all()
    view = SessionView.of(synthetic_corpus["synthetic/animal03_0"])
    files = sorted((tmp_path / "predictions").glob("animal03_0-*-interleaved-tiny_adapter-s0.npz"))
    assert len(files) == 3
    for path in files:
        prediction = read_prediction(path)
        again = score(prediction, view)
        for metric, value in again.items():
            row = mine[
                (mine["task"] == f"{prediction.task} {prediction.track}".strip())
                & (mine["model"] == "tiny/adapter")
                & (mine["train_trials"] == 0)
                & (mine["metric"] == metric)
            ]
            if np.isfinite(value.value):
                assert row["value"].item() == pytest.approx(value.value, abs=1e-9)


def test_a_session_is_searched_for_leaks_once_for_all_its_models(
    runs: Path, synthetic_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = find_models(runs / "new", ["animal03"])
    assert len({tuple(m.model.provenance["pretraining_subjects"]) for m in models}) == 2  # scratch has none
    searched: list[str] = []
    monkeypatch.setattr("eval.leakage.view_leaks", lambda view: searched.append(view.session) or [])
    assert not [leak for leak in leaks_of(models, synthetic_corpus) if leak.decided]
    assert searched == ["animal03_0"]


def test_folds_are_scored_each_in_its_own_trials_and_averaged(
    runs: Path, synthetic_corpus: Corpus, tmp_path: Path
) -> None:
    common = ["--corpus", str(synthetic_corpus.path), "--subjects", "animal03", "--out"]
    assert finetuned(runs / "base", synthetic_corpus, tmp_path / "f3", "animal03", "--fold", "3") == 0
    names = [str(runs / "new"), str(tmp_path / "f3")]
    tasks = ["--tasks", "choice", "encode", "region", "--baselines", "quick"]
    assert main(["evaluate", *names, *common, str(tmp_path / "out"), *tasks]) == 0
    table, provenance = read_results(tmp_path / "out")
    # Normalizers are of pretraining's fold, whatever the fold of the adaptation.
    assert provenance["forced"] == []
    assert not [text for text in provenance["leak_checks_undecided"] if "normalizer" in text]
    mine = table[(table["model"] == "tiny/adapter") & (table["metric"] == "auc") & (table["task"] == "choice")]
    assert mine["fold"].tolist() == [0, 3]
    for fold, file in ((0, "interleaved-tiny_adapter-s0"), (3, "interleaved-f3-tiny_adapter-s0")):
        prediction = read_prediction(tmp_path / "out" / "predictions" / f"animal03_0-choice-{file}.npz")
        assert prediction.fold == fold
        again = score(prediction, SessionView.of(synthetic_corpus["synthetic/animal03_0"], fold=fold))["auc"]
        assert mine[mine["fold"] == fold]["value"].item() == pytest.approx(again.value, abs=1e-9)
    # Baselines of each fold, on its own train trials; regions and what the page draws, of the first fold.
    assert set(table[(table["kind"] == "baseline") & (table["task"] == "choice")]["fold"]) == {0, 3}
    assert set(table[table["task"].str.startswith("region")]["fold"]) == {0}
    curves = read_details(tmp_path / "out").calibration
    line = [name for name in curves if name not in ("observed", "number")]
    assert not curves.duplicated(line).any()
    assert per_session(mine)["value"].item() == pytest.approx(mine["value"].mean())
    again = ["score", str(tmp_path / "out" / "predictions"), "--corpus", str(synthetic_corpus.path)]
    assert main([*again, "--out", str(tmp_path / "scored"), "--baselines", "none"]) == 0
    rows, _ = read_results(tmp_path / "scored")
    assert rows[(rows["model"] == "tiny/adapter") & (rows["metric"] == "auc")]["fold"].tolist() == [0, 3]


def test_files_of_other_tools_are_scored_as_our_models_are(
    runs: Path,
    synthetic_corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_controls(view: SessionView, task: str, track: str = "", **options: Any) -> dict[str, Baseline]:
        found = run_baselines(view, task, track, **options)
        return found | (run_controls(view, task, track) if task == "choice" else {})

    for module in ("held_out", "score_files"):
        monkeypatch.setattr(f"eval.{module}.run_baselines", with_controls)
    command = ["evaluate", str(runs / "new"), "--corpus", str(synthetic_corpus.path), "--subjects", "animal03"]
    command += ["--tasks", "choice", "forecast", "--baselines", "quick"]
    assert main([*command, "--out", str(tmp_path / "ours")]) == 0
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in (tmp_path / "ours" / "predictions").glob("*-tiny_adapter-*"):
        shutil.copy(path, theirs)
    score_them = ["score", str(theirs), "--corpus", str(synthetic_corpus.path), "--out"]
    assert main([*score_them, str(tmp_path / "scored"), "--baselines", "quick"]) == 0
    ours, scored = (read_results(tmp_path / name)[0] for name in ("ours", "scored"))
    ours = ours[ours["model"].eq("tiny/adapter") | ours["kind"].ne("model")]
    # What is predicted of a session broken on purpose is no prediction of the session.
    assert not list((tmp_path / "scored").rglob("*shuffled*")) + list((tmp_path / "ours").rglob("*shuffled*"))
    assert {"shuffled labels", "shuffled neurons"} <= set(scored["model"])
    columns = ["task", "model", "metric", "session"]
    together = ours.merge(scored, on=columns, how="outer", suffixes=("", "_again"))
    assert len(together) == len(ours) == len(scored)
    for name in ("value", "baseline_value", "null_value", "kind", "convention", "baseline", "null", "subject"):
        assert together[name].equals(together[f"{name}_again"]), name
    first, second = (read_details(tmp_path / name) for name in ("ours", "scored"))
    for name in ("units", "calibration"):
        tables = [getattr(one, name) for one in (first, second)]
        tables[0] = tables[0][~tables[0]["model"].isin(["tiny/full", "tiny/scratch"])].reset_index(drop=True)
        assert len(tables[0])
        pd.testing.assert_frame_equal(*tables)
    assert set(first.units["model"]) == {"tiny/adapter", "tiny/full", "tiny/scratch"}
    shown = [read_examples(tmp_path / name).failures for name in ("ours", "scored")]
    assert [one.note for one in shown[0]][-1] == "worst session"
    for mine, theirs_again in zip(*shown, strict=True):
        assert (mine.units, mine.baseline) == (theirs_again.units, theirs_again.baseline)
        np.testing.assert_array_equal(mine.rates, theirs_again.rates)
        np.testing.assert_array_equal(mine.baseline_rates, theirs_again.baseline_rates)
    assert main(["report", str(tmp_path / "scored"), "--out", str(tmp_path / "page.html")]) == 0
    assert "whether the animals are held out is for whoever made them to say" in (tmp_path / "page.html").read_text()
    prediction = read_prediction(next(theirs.iterdir()))
    for bad, message in (
        ({"session": "nobody"}, "expected a session of the corpus"),
        ({"split": "random"}, "expected interleaved or temporal"),
        ({"track": "E9"}, "with track 'E9'"),
    ):
        write_prediction(theirs / "bad.npz", replace(prediction, **bad))
        assert main([*score_them, str(tmp_path / "bad"), "--baselines", "none"]) == 2
        assert message in capsys.readouterr().err


def test_seeds_keep_their_own_prediction_files(runs: Path, synthetic_corpus: Corpus, tmp_path: Path) -> None:
    """Two models that differ in the seed alone, scored together: rows and files of both, baselines once."""
    other = tmp_path / "other"
    shutil.copytree(runs / "new", other)
    for path in (other / "animal03").glob("*/provenance.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 1}))
    command = ["evaluate", str(runs / "new"), str(other), "--corpus", str(synthetic_corpus.path)]
    command += ["--subjects", "animal03", "--tasks", "choice", "--baselines", "quick"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    table = read_results(tmp_path / "out")[0]
    assert set(table[table["kind"] == "model"]["seed"]) == {0, 1}
    assert not table.duplicated(["task", "model", "seed", "metric"]).any()
    names = sorted(path.name for path in (tmp_path / "out" / "predictions").glob("*tiny_adapter*"))
    assert [name[-6:] for name in names] == ["s0.npz", "s1.npz"]
    assert [read_prediction(tmp_path / "out" / "predictions" / name).seed for name in names] == [0, 1]
    same = ["evaluate", str(runs / "new"), str(runs / "new"), "--corpus", str(synthetic_corpus.path)]
    assert main([*same, "--subjects", "animal03", "--tasks", "choice", "--out", str(tmp_path / "twice")]) == 2


def test_two_evaluations_agree_bit_for_bit(runs: Path, synthetic_corpus: Corpus, tmp_path: Path) -> None:
    tables = []
    for name in ("one", "two"):
        assert _evaluate(runs, synthetic_corpus, tmp_path / name, "--baselines", "none") == 0
        tables.append(read_results(tmp_path / name)[0])
    assert tables[0].equals(tables[1])


def test_two_processes_and_a_resumed_one_write_the_same_rows(
    runs: Path, synthetic_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", str(runs / "new"), "--corpus", str(synthetic_corpus.path)]
    command += ["--subjects", "animal03", "--tasks", "choice", "--baselines", "none", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    launched = [sys.executable, "-m", "foundation", *command, str(tmp_path / "two")]
    other = subprocess.Popen(launched, cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 250
    while not (tmp_path / "two/.work").exists() and other.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert main([*command, str(tmp_path / "two")]) == 0
    assert other.wait(250) == 0
    done: list[str] = []

    def interrupted(*arguments: Any) -> Any:
        done.append(arguments[2])
        if len(done) == 2:
            raise KeyboardInterrupt
        return scores_of(*arguments)

    with monkeypatch.context() as patch:
        scores_of = held_out._session_scores
        patch.setattr(held_out, "_session_scores", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([*command, str(tmp_path / "three")])
    assert not (tmp_path / "three" / "results.parquet").exists()
    assert main([*command, str(tmp_path / "three")]) == 0
    tables = [read_results(tmp_path / name)[0] for name in ("one", "two", "three")]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_an_animal_of_the_pretraining_set_is_refused(
    runs: Path, synthetic_corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                *("finetune", str(runs / "base"), "--corpus", str(synthetic_corpus.path), "--subjects", "animal00"),
                *("--out", str(tmp_path / "seen"), "--tracks", "adapter", *SMALL),
            ]
        )
        == 2
    )
    assert "animal00" in capsys.readouterr().err
    # The same animal smuggled in: a model whose past names it.
    folder = runs / "new" / "animal03" / "adapter" / "provenance.json"
    honest = folder.read_text()
    past = json.loads(honest)
    past["pretraining_subjects"].append("animal03")
    try:
        folder.write_text(json.dumps(past))
        assert _evaluate(runs, synthetic_corpus, tmp_path / "refused") == 2
        assert "animal03 was in the pretraining" in capsys.readouterr().err
        assert not (tmp_path / "refused").exists()
        assert _evaluate(runs, synthetic_corpus, tmp_path / "forced", "--force", "--baselines", "none") == 0
        assert "animal03 was in the pretraining" in str(read_results(tmp_path / "forced")[1]["forced"])
    finally:
        folder.write_text(honest)


def test_a_test_trial_used_in_adaptation_is_refused(
    runs: Path, synthetic_corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs / "new" / "animal03" / "adapter" / "provenance.json"
    honest = folder.read_text()
    past = json.loads(honest)
    roles = past["adapted"]["synthetic/animal03_0"]["roles"]
    roles[roles.index(2)] = 0
    try:
        folder.write_text(json.dumps(past))
        assert _evaluate(runs, synthetic_corpus, tmp_path) == 2
        assert "test trials were used" in capsys.readouterr().err
    finally:
        folder.write_text(honest)


def test_region_rows_have_model_baseline_and_leak_meters(
    runs: Path, synthetic_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.probes.PROBES", {"logistic": fit_logistic})
    command = ["evaluate", str(runs / "new"), "--corpus", str(synthetic_corpus.path), "--subjects", "animal03"]
    assert main([*command, "--out", str(tmp_path), "--tasks", "region"]) == 0
    rows = read_results(tmp_path)[0]
    assert rows["task"].str.startswith(("region", "session_identity")).all()
    assert {task.split(" ")[1] for task in rows["task"] if task.startswith("region")} == {
        "group",
        "pooled",
        "transductive",
    }
    leaks = rows[rows["task"].str.startswith("session_identity")]
    assert set(leaks["kind"]) <= {"null"}
    expected = {"tiny/adapter", "tiny/adapter, adapter rows", "activity statistics", "rate only", "array index"}
    assert expected <= set(rows["model"])
    assert (rows["subject"] == "animal03").any()
    assert rows.loc[rows["metric"] == "macro_f1", "convention"].str.contains("over the regions present").all()


def test_regions_are_probed_for_every_seed_and_baselines_listed_once(
    runs: Path, synthetic_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.probes.PROBES", {"logistic": fit_logistic})

    def copied(name: str, **changed: Any) -> str:
        """The adapted model as if of another seed or pretrained run."""
        shutil.copytree(runs / "new" / "animal03" / "adapter", tmp_path / name / "animal03" / "adapter")
        past = tmp_path / name / "animal03" / "adapter" / "provenance.json"
        past.write_text(json.dumps(json.loads(past.read_text()) | changed))
        return str(tmp_path / name)

    def rows(*folders: str, out: str) -> pd.DataFrame:
        command = ["evaluate", *folders, "--corpus", str(synthetic_corpus.path), "--subjects", "animal03"]
        assert main([*command, "--out", str(tmp_path / out), "--tasks", "region", "--baselines", "quick"]) == 0
        return read_results(tmp_path / out)[0]

    one = rows(str(runs / "new"), out="one")
    seeds = rows(str(runs / "new"), copied("other_seed", seed=1), out="seeds")
    mine = seeds[seeds["model"] == "tiny/adapter"]
    assert len(mine) == 2 * (one["model"] == "tiny/adapter").sum()
    assert mine[mine["seed"] == 0]["value"].tolist() == mine[mine["seed"] == 1]["value"].tolist()
    for kind in ("baseline", "null"):
        listed, before = (t[(t["kind"] == kind) & ~t["task"].str.startswith("session")] for t in (seeds, one))
        assert len(listed) == len(before) > 0
    shutil.copytree(runs / "base", tmp_path / "base")
    left_out = rows(str(runs / "new"), copied("other_run", base=str(tmp_path / "base" / "model")), out="runs")
    assert set(left_out["subject"]) == {"animal03"}
    assert len(left_out) == len(one)
    command = ["evaluate", str(runs / "new"), str(tmp_path / "other_run"), "--corpus", str(synthetic_corpus.path)]
    command += ["--subjects", "animal03", "--tasks", "region", "--all-regions", "--out", str(tmp_path / "refused")]
    assert main(command) == 2
    assert not (tmp_path / "refused").exists()  # before anything is computed


def test_cell_types_are_probed_where_the_units_have_them(runs: Path, synthetic_corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for key in synthetic_corpus.ids:
        recording = synthetic_corpus[key]
        types = np.where(recording.units["region"].isin(["CA1", "TH"]), "narrow", "wide")
        write_recording(folder, replace(recording, units=recording.units.assign(cell_type=types)))
    write_manifest(folder)
    command = ["evaluate", str(runs / "new"), "--corpus", str(folder), "--subjects", "animal03"]
    assert main([*command, "--out", str(tmp_path), "--tasks", "cell_type", "--baselines", "quick"]) == 0
    rows = read_results(tmp_path)[0]
    assert rows["task"].str.startswith(("cell_type", "session_identity")).all()
    probed = rows[rows["task"].str.startswith("cell_type pooled") & rows["metric"].eq("macro_f1")]
    assert probed["convention"].str.contains("over the cell types present").all()
    assert {"tiny/adapter", "activity statistics", "activity statistics, forest"} <= set(probed["model"])
