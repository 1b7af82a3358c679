"""Sessions held out of pretraining, of animals that are in it: adapted, scored, and named for what they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_recipes.recipe import open_or_prepare
from eval.adapted import find_models
from eval.baselines_shared import OtherSessions
from eval.leakage import leaks_of
from eval.report import write_report
from eval.results import read_results
from eval.session_view import SessionView
from foundation.__main__ import main
from foundation.channels import DataConfig, pretraining_corpus
from foundation.checkpoint import load_model
from foundation.corpus import Corpus, write_manifest
from foundation.finetune import new_sessions
from foundation.recording_folder import write_recording
from tests.test_held_out import SMALL, finetuned

OUT = "synthetic/animal01_1"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three animals, two sessions each."""
    out = tmp_path_factory.mktemp("corpus")
    sizes = {"num_subjects": 3, "sessions_per_subject": 2, "num_units": 14, "num_trials": 50}
    return open_or_prepare("synthetic", out, **sizes)


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretrained on all but one session of animal01, and on nothing of animal02."""
    root = tmp_path_factory.mktemp("run")
    data = f"{{corpus: {corpus.path}, held_out: [animal02], held_out_sessions: [{OUT}]}}"
    (root / "tiny.yaml").write_text(f"name: tiny\ndata: {data}\n")
    options = [f"out={root / 'base'}", "train.steps=4", "train.val_every=2", *SMALL]
    assert main(["train", str(root / "tiny.yaml"), *options]) == 0
    return root / "base"


def test_no_window_of_a_held_out_session_is_pretrained_on(run: Path, corpus: Corpus) -> None:
    base = load_model(run)
    expected = ["synthetic/animal00_0", "synthetic/animal00_1", "synthetic/animal01_0"]
    assert base.provenance["pretraining_recordings"] == expected
    assert list(base.adapters.sessions["recording_id"]) == expected
    assert new_sessions(base, corpus, "animal01") == [OUT]
    assert new_sessions(base, corpus, "animal00") == []
    assert new_sessions(base, corpus, "animal02") == ["synthetic/animal02_0", "synthetic/animal02_1"]
    view = SessionView.of(corpus[OUT])
    assert OtherSessions.beside(view, corpus, base.provenance).recording_ids == tuple(expected)


def test_a_held_out_session_is_scored_and_the_page_says_that_its_animal_is_known(
    run: Path, corpus: Corpus, tmp_path: Path
) -> None:
    assert finetuned(run, corpus, tmp_path / "new", "animal01") == 0
    (adapted,) = find_models(tmp_path / "new", ["animal01"])
    assert adapted.knows_animal
    assert list(adapted.model.adapters.sessions["recording_id"]) == [OUT]
    assert not [leak for leak in leaks_of([adapted], corpus) if leak.decided]
    command = ["evaluate", str(tmp_path / "new"), "--corpus", str(corpus.path), "--subjects", "animal01"]
    tasks = ["--tasks", "choice", "region", "--baselines", "quick", "--out", str(tmp_path / "out")]
    assert main([*command, *tasks]) == 0
    rows, provenance = read_results(tmp_path / "out")
    # Of regions too, the units of the held-out session are the test, and not those of the animal's other session.
    probed = rows[rows["task"].str.startswith("region") & (rows["subject"] == "animal01")]
    assert 0 < probed["n"].max() <= corpus[OUT].num_units
    assert set(rows[rows["task"] == "choice"]["session"]) == {"animal01_1"}
    assert np.isfinite(rows["value"]).all()
    assert (provenance["held_out_subjects"], provenance["known_subjects"]) == ([], ["animal01"])
    assert provenance["title"] == "tiny on held-out sessions"
    assert provenance["forced"] == []
    page = write_report(tmp_path / "new", tmp_path / "out", tmp_path / "page.html").read_text()
    assert "Held-out sessions, known animals." in page
    assert "Forced evaluation" not in page


def test_a_session_that_was_pretrained_on_is_refused(
    run: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetuned(run, corpus, tmp_path / "new", "animal00") == 2
    assert "animal00 was pretrained on, and none of its sessions" in capsys.readouterr().err
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_what_was_pretrained_on_under_another_name_is_still_a_leak(run: Path, corpus: Corpus, tmp_path: Path) -> None:
    """The detector does not believe the config: a copy of the held-out session was among the pretraining sessions."""
    assert finetuned(run, corpus, tmp_path / "new", "animal01") == 0
    (adapted,) = find_models(tmp_path / "new", ["animal01"])
    shutil.copytree(corpus.path, tmp_path / "copied")
    original = corpus[OUT]
    info = replace(original.info, recording_id="synthetic/animal00_9", subject_id="animal00")
    units = original.units.assign(unit_id=[f"copy/{k}" for k in range(original.num_units)])
    write_recording(tmp_path / "copied", replace(original, info=info, units=units))
    copied = write_manifest(tmp_path / "copied")
    past = adapted.model.provenance
    adapted.model.provenance = {**past, "pretraining_recordings": [*past["pretraining_recordings"], info.recording_id]}
    assert [str(leak) for leak in leaks_of([adapted], copied) if leak.decided and info.recording_id in str(leak)]


def test_names_that_do_not_exist_and_corpora_that_are_empty_are_errors(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"held_out_sessions: no recording .*rat.* ids are like synthetic/animal00_0"):
        pretraining_corpus(corpus, DataConfig(held_out=["animal02"], held_out_sessions=["rat"]))
    named = ["synthetic/animal01_0"]
    with pytest.raises(ValueError, match=r"no recording is left by data.recordings \(1 named\)"):
        pretraining_corpus(corpus, DataConfig(held_out=["animal02"], recordings=named, held_out_sessions=named))
    left = pretraining_corpus(corpus, DataConfig(held_out=["animal02"], held_out_sessions=corpus.ids[:2]))
    assert set(left.subjects.values()) == {"animal01"}
