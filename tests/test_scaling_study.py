"""The scaling study: which sessions each run sees, and the whole of it once on small synthetic animals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data_recipes.recipe import open_or_prepare
from eval.report import write_report
from eval.results import read_results
from eval.scaling import scalings
from eval.session_selection import data_amounts, session_distances, unit_profiles
from eval.studies.scaling import NEAREST, RANDOM, Config, plan, run
from foundation.config import Config as RunConfig
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


def test_what_cannot_be_planned_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"sizes \[1, 2, 5\] of 4 animals"):
        plan(Config(sizes=[1, 2, 5]), base(corpus), corpus)
    with pytest.raises(ValueError, match="expected 3 different numbers"):
        plan(Config(sizes=[1, 2, 2]), base(corpus), corpus)
    with pytest.raises(ValueError, match=r"data\.held_out is empty"):
        plan(Config(), base(corpus, ()), corpus)


def test_the_study_trains_evaluates_and_is_shown(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = [f"out={tmp_path / 'runs'}"]
    config = Config("", str(corpus.path), [*TINY, *out], [1, 2, 3], 2, [0], ["choice"])
    (tmp_path / "run.yaml").write_text("name: tiny\n")
    config = replace(config, run=str(tmp_path / "run.yaml"))
    found = run(config)
    runs = found.tables[-1].frame
    assert runs["animals"].tolist()[:3] == [1, 2, 3]
    assert runs["control"].tolist()[3:] == [NEAREST, RANDOM]
    assert runs["sessions"].tolist() == [2, 4, 6, 2, 2]
    folder = tmp_path / "runs-scaling"
    rows = pd.read_parquet(folder / "scaling.parquet")
    scaling = scalings(rows)["synthetic", "choice", "interleaved"]
    for point, name in zip((*scaling.points, *scaling.controls), runs["run"]):
        table, past = read_results(folder / name / "results")
        assert past["held_out_subjects"] == ["animal00"]
        assert len(past["pretraining_subjects"]) == runs.set_index("run")["animals"][name]
        auc = table[table["metric"] == "auc"]
        assert point.summary.sessions.mean == pytest.approx(auc["value"].mean())
        assert point.summary.sessions.n == 2
    assert found.tables[0].frame["mean"].tolist()[:3] == [p.summary.animals.mean for p in scaling.points]
    # What is there is not trained again.
    monkeypatch.setattr("eval.studies.scaling.pretrain", lambda config: pytest.fail("trained again"))
    again = run(config)
    pd.testing.assert_frame_equal(again.tables[0].frame, found.tables[0].frame)
    results = folder / runs["run"].iloc[2] / "results"
    page = write_report(folder, results, tmp_path / "page.html", folder / "scaling.parquet").read_text()
    assert "Choice, synthetic, interleaved: AUC" in page
    assert "random sessions, as much data" in page
