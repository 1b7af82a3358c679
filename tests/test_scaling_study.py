"""The scaling study: which sessions each run sees, and the one of them on small synthetic animals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_recipes.recipe import open_or_prepare
from eval.report_scaling import scaling_html
from eval.results import read_results
from eval.scaling import scalings
from eval.session_selection import data_amounts, session_distances, unit_profiles
from eval.studies import scaling as study
from eval.studies.scaling import NEAREST, RANDOM, Config, Run, plan, run, scores
from eval.studies.study import write_findings
from foundation.checkpoint import RunError
from foundation.config import Config as RunConfig
from foundation.config import load_config
from foundation.corpus import Corpus

TINY = [
    "data.held_out=[animal00]",
    "data.window_s=0.6",
    "model.width=16",
    "model.depth=1",
    "model.feed_forward=32",
    "train.steps=2",
    "train.val_every=1",
    "train.windows_per_step=8",
    "train.val_windows=8",
    "train.track=[]",
    "finetune.steps=2",
    "finetune.windows_per_step=8",
    "finetune.val_every=1",
    "finetune.readout.enabled=false",
    "finetune.decoding.enabled=false",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """5 animals with 2 short sessions each."""
    out = tmp_path_factory.mktemp("scaling_corpus")
    return open_or_prepare("synthetic", out, num_subjects=5, sessions_per_subject=2, num_units=8, num_trials=40, seed=2)


def base(corpus: Corpus, held: tuple[str, ...] = ("animal00",)) -> RunConfig:
    config = RunConfig()
    return replace(config, data=replace(config.data, corpus=str(corpus.path), held_out=list(held)))


def test_sets_of_animals_are_nested_and_never_hold_an_unseen_one(corpus: Corpus) -> None:
    runs = plan(Config(sizes=[4, 1, 2], seeds=[0, 1, 2], control_sessions=0), base(corpus), corpus)
    assert len(runs) == len({one.name for one in runs}) == 9
    seen = {}
    for one in runs:
        animals = {corpus.subjects[key] for key in one.recordings}
        assert "animal00" not in animals
        assert one.name.startswith(f"{len(animals)}-")
        assert set(one.recordings) == {key for key in corpus.ids if corpus.subjects[key] in animals}
        seen[one.seed, len(animals)] = animals
    for seed in range(3):
        assert seen[seed, 1] < seen[seed, 2] < seen[seed, 4]
    assert len({frozenset(seen[seed, 2]) for seed in range(3)}) > 1


def test_selections_are_the_nearest_and_as_much_at_random(corpus: Corpus) -> None:
    runs = plan(Config(sizes=[1, 2, 4], seeds=[0, 1], control_sessions=3), base(corpus), corpus)
    targets = [key for key in corpus.ids if corpus.subjects[key] == "animal00"]
    amounts = data_amounts(corpus, corpus.ids, "interleaved")
    near = [one for one in runs if one.control == NEAREST]
    random = [one for one in runs if one.control == RANDOM]
    assert len(near) == len(random) == 2
    distances = session_distances(unit_profiles(corpus, corpus.ids), targets)
    for one in near:
        assert list(one.recordings) == list(distances)[:3]
    total = sum(amounts[key] for key in near[0].recordings)
    for one in random:
        assert not set(one.recordings) & set(targets)
        assert sum(amounts[key] for key in one.recordings) == pytest.approx(total, rel=0.11)
    assert random[0].recordings != random[1].recordings


def test_held_out_sessions_of_known_animals_are_in_no_run(corpus: Corpus) -> None:
    config = base(corpus)
    config.data.held_out_sessions = ["synthetic/animal01_1"]
    usual = plan(Config(sizes=[1, 2, 3], control_sessions=0), base(corpus), corpus)
    assert any("synthetic/animal01_1" in run.recordings for run in usual)
    runs = plan(Config(sizes=[1, 2, 3], control_sessions=4), config, corpus)
    assert not any("synthetic/animal01_1" in run.recordings for run in runs)


def test_what_cannot_be_planned_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"sizes \[1, 2, 5\] of 4 animals"):
        plan(Config(sizes=[1, 2, 5]), base(corpus), corpus)
    with pytest.raises(ValueError, match="expected 3 different numbers"):
        plan(Config(sizes=[1, 2, 2]), base(corpus), corpus)
    with pytest.raises(ValueError, match=r"data\.held_out is empty"):
        plan(Config(), base(corpus, ()), corpus)


def test_a_run_sees_its_sessions_alone_and_is_not_trained_twice(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, [f"data.corpus={corpus.path}", *TINY])
    one = Run("one", 3, "", ("synthetic/animal02_1",))
    rows = scores(config, corpus, one, tmp_path / "one", ["choice"])
    table, past = read_results(tmp_path / "one" / "results")
    assert past["pretraining_subjects"] == ["animal02"]
    trained = json.loads((tmp_path / "one" / "model" / "provenance.json").read_text())
    assert trained["pretraining_recordings"] == ["synthetic/animal02_1"]
    assert set(rows["subject"]) == {"animal00"}
    assert set(rows["session"]) == {"animal00_0", "animal00_1"}
    assert set(rows["seed"]) == {3}
    assert set(rows["model"]) == {"run/adapter"}
    monkeypatch.setattr(study, "pretrain", lambda config: pytest.fail("trained again"))
    monkeypatch.setattr(study, "evaluate", lambda *args, **options: None)
    pd.testing.assert_frame_equal(scores(config, corpus, one, tmp_path / "one", ["choice"]), table)
    with pytest.raises(RunError, match="another config"):
        scores(config, corpus, replace(one, recordings=corpus.ids[4:5]), tmp_path / "one", ["choice"])


def test_the_rows_of_all_runs_become_points_controls_and_a_page(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: 0.7 for one animal, 0.05 more per doubling, 0.02 more for what the selections hold."""
    (tmp_path / "run.yaml").write_text("name: tiny\n")
    overrides = ["data.held_out=[animal00]", f"out={tmp_path / 'runs'}"]
    config = Config(str(tmp_path / "run.yaml"), str(corpus.path), overrides, [1, 2, 4], 3, [0, 1], ["choice"])
    folders = []

    def planted(base: RunConfig, corpus: Corpus, one: Run, folder: Path, tasks: list[str]) -> pd.DataFrame:
        folders.append(folder)
        value = 0.7 + 0.05 * np.log2(len({corpus.subjects[k] for k in one.recordings})) + 0.02 * bool(one.control)
        return pd.DataFrame(
            {
                **{"dataset": "synthetic", "subject": "animal00", "session": ["animal00_0", "animal00_1"]},
                **{"split": "interleaved", "task": tasks[0], "model": "tiny/adapter", "kind": "model"},
                **{"train_trials": 0, "draw": 0, "fold": 0, "seed": one.seed, "metric": "auc"},
                "value": value + 0.01 * np.array([-1, 1]) + 0.001 * one.seed,
            }
        )

    monkeypatch.setattr(study, "scores", planted)
    found = run(config)
    assert folders[0] == tmp_path / "runs-scaling" / "1-animals-s0"
    table = found.tables[0].frame
    assert table["label"].tolist() == ["1 animal", "2 animals", "4 animals", NEAREST, RANDOM]
    np.testing.assert_allclose(table["mean"][:3], [0.7005, 0.7505, 0.8005])
    np.testing.assert_allclose(table["step"][1:3], 0.05)
    assert table["seeds"].tolist() == [2] * 5
    runs = found.tables[-1].frame
    assert runs["sessions"].tolist() == [2, 4, 8, 2, 4, 8, 3, 3, 3, 3]
    assert any("+0.050 [+0.050, +0.050] per doubling" in text for text in found.remarks)
    write_findings(found, tmp_path / "findings", {"config": {}})
    # The same rows on the report page.
    rows = tmp_path / "runs-scaling" / "scaling.parquet"
    scaling = scalings(pd.read_parquet(rows))["synthetic", "choice", "interleaved"]
    assert scaling.slope.mean == pytest.approx(0.05)
    html = scaling_html(rows)
    assert "Choice, synthetic, interleaved: AUC" in html
    assert "random sessions, as much data" in html
    assert "+0.050" in html
    with pytest.raises(ValueError, match=r"not found; expected the scaling\.parquet"):
        scaling_html(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no column"):
        scalings(pd.read_parquet(rows).drop(columns="control"))
