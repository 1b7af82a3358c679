"""The command line: help is quick and shows examples, errors are one line and status 2, verbs run end to end."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_recipes import RECIPES
from foundation.__main__ import main
from foundation.checkpoint import load_model
from foundation.claims import try_claim
from foundation.config import Config, dump_config
from foundation.corpus import Corpus

SMALL = ["num_subjects=2", "num_units=8", "num_trials=10"]
ROOT = Path(__file__).resolve().parents[1]
VERBS = ("prepare", "train", "finetune", "embed", "evaluate", "report", "doctor", "study", "push", "demo")
HEAVY = ("torch", "transformers", "pandas", "numpy", "pyarrow", "sklearn", "accelerate", "matplotlib")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom foundation.__main__ import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"sys.exit([name for name in {HEAVY} if name in sys.modules] or 0)"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    took = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert re.search(rf"^    {verb} ", done.stdout, re.MULTILINE), verb
    assert took < 3  # 0.1 s alone; generous for a loaded machine


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"example:\n\s+(accelerate launch -m )?foundation {verb}", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no.yaml"], "no.yaml"),
        (["train", "{config}", "train.stpes=3"], "stpes"),
        (["train", "{config}", "train.steps=[1"], "not YAML"),
        (["train", "{config}", "data.corpus=nowhere"], "nowhere"),
        (["train", "{broken}"], "not YAML"),
        (["train", "{config}", "--processes", "3"], "3 processes asked for, 1 started"),
        (["prepare", "nothing", "--out", "{tmp}"], "no recipe 'nothing'"),
        (["prepare", "synthetic", "--out", "{tmp}", "num_rats=3"], "num_rats"),
        (["finetune", "{tmp}", "--corpus", "{corpus}", "--subjects", "animal03", "--out", "{tmp}"], "no model here"),
        (["finetune", "{run}", "--corpus", "{corpus}", "--subjects", "animal09", "--out", "{tmp}"], "animal09"),
        (["finetune", "{run}", "--corpus", "{corpus}", "--subjects", "animal00", "--out", "{tmp}"], "pretrained on"),
        (["embed", "{run}", "--corpus", "{corpus}", "--recording", "synthetic/x", "--out", "{tmp}"], "synthetic/x"),
        (
            ["embed", "{run}", "--corpus", "{corpus}", "--recording", "synthetic/animal03_0", "--out", "{tmp}"],
            "foundation finetune",
        ),
        (["prepare", "synthetic"], "--out is missing"),
        (["prepare", "nothing", "--options"], "no recipe 'nothing'"),
        (["prepare", "luo2025", "--list", "--source", "{tmp}"], "--list is for `foundation prepare nwb"),
        (
            ["prepare", "nwb", "--out", "{tmp}", "--source", "http://localhost/folder/"],
            "an HTTP folder cannot be listed",
        ),
        (["prepare", "nwb", "--out", "{tmp}", "--source", "memory://nothing"], "memory://nothing"),
        (["push", "{tmp}", "file://{tmp}/far"], "foundation prepare"),
        (["push", "{corpus}", "hf://datasets/me"], "expected hf://datasets/USER/NAME"),
        (["push", "{corpus}", "https://localhost/x"], "https://localhost/x"),
        (["push", "{corpus}", "gopher://x"], "gopher://x"),
        (["train", "{config}", "data.corpus=memory://nothing"], "no corpus here"),
        (["doctor", "memory://nothing"], "no corpus here"),
        (["doctor", "{tmp}"], "foundation prepare"),
        (["doctor", "{corpus}", "a=b"], "takes no overrides"),
        (["study", "no.yaml"], "no.yaml"),
        (["study", "{config}"], "expected `study:` to be one of"),
        (["study", "{config}", "study=nothing"], "got study 'nothing'"),
    ],
)
def test_errors_of_the_user_are_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tiny_run: Path,
    synthetic_corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "c.yaml").write_text(f"out: {tmp_path / 'out'}\ntrain: {{steps: 2}}\n")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2\n")
    places = {
        "config": tmp_path / "c.yaml",
        "broken": tmp_path / "broken.yaml",
        "tmp": tmp_path,
        "run": tiny_run,
        "corpus": synthetic_corpus.path,
    }
    capsys.readouterr()
    assert main([text.format(**places) for text in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert said.startswith(f"foundation {arguments[0]}: ")
    assert len(said.splitlines()) == 1, said


def test_unknown_options_are_refused(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["train", "c.yaml", "--step=3"],
        ["train"],
        ["fly"],
        ["embed", str(tiny_run)],
        ["prepare", "synthetic", "num_trials", "--out", "corpus"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err


def test_a_process_ends_with_the_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "foundation", "doctor", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_prepare_and_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "corpus"
    command = ["prepare", "synthetic", "--out", str(out), "--workers", "1", "num_subjects=2", "num_trials=30"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "synthetic/animal01_0  to do" in said
    assert "2 sessions: 0 done, 2 to do" in said
    assert not out.exists()
    assert main([*command, "--limit", "1"]) == 0
    assert "1 written, 0 there already" in capsys.readouterr().out
    assert main([*command, "--dry-run"]) == 0
    assert "from 1 sessions prepared here" in capsys.readouterr().out
    assert main(command) == 0
    assert "1 written, 1 there already" in capsys.readouterr().out
    assert main(command) == 0
    assert "0 written, 2 there already" in capsys.readouterr().out
    assert main(["doctor", str(out), "--no-page"]) == 0
    said = capsys.readouterr().out
    assert "2 recordings of 2 animals" in said
    assert "animal01" in said
    (out / "recordings/synthetic/animal01_0/spikes.arrow").write_bytes(b"x")
    assert main(["doctor", str(out), "--no-page"]) == 2
    assert "spikes.arrow" in capsys.readouterr().err


def test_recipes_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    text = capsys.readouterr().out
    for name, module in RECIPES.items():
        about = (importlib.import_module(module).__doc__ or "").splitlines()[0]
        assert re.search(rf"^  {name} +{re.escape(about)}$", text, re.MULTILINE), name
        assert main(["prepare", name, "--options"]) == 0
        assert about in capsys.readouterr().out
    assert main(["prepare", "synthetic", "--options"]) == 0
    assert re.search(r"^options: .*num_subjects=\d+", capsys.readouterr().out, re.MULTILINE)


def test_sessions_that_others_are_at_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = try_claim(tmp_path / "claims", "synthetic/animal01_0")
    assert held is not None
    with held:
        assert main(["prepare", "synthetic", "--out", str(tmp_path), "--no-wait", "--workers", "1", *SMALL]) == 0
    said = capsys.readouterr().out
    assert "1 written, 0 there already, 1 still being prepared by others" in said
    assert f"synthetic/animal01_0: {socket.gethostname()}, process {os.getpid()}" in said


def test_push_and_train_from_there(
    synthetic_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model trained on a corpus behind a URL is the one trained on the folder, bit for bit."""
    monkeypatch.setenv("FOUNDATION_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/far"
    assert main(["push", str(synthetic_corpus.path), url]) == 0
    assert "4 sent, 0 there already" in capsys.readouterr().out
    assert main(["push", str(synthetic_corpus.path), url]) == 0
    assert "0 sent, 4 there already" in capsys.readouterr().out
    (tmp_path / "c.yaml").write_text("seed: 1\n")
    small = ["model.width=16", "model.depth=1", "model.heads=2", "model.private_rank=2", "data.window_s=0.6"]
    quick = ["train.steps=3", "train.windows_per_step=8", "train.val_windows=16", "train.track=[]"]
    weights = []
    for name, corpus in (("near", str(synthetic_corpus.path)), ("far", url)):
        data = [f"data.corpus={corpus}", "data.held_out=[animal03]", f"out={tmp_path / name}-run"]
        assert main(["train", str(tmp_path / "c.yaml"), *small, *quick, *data]) == 0
        weights.append((tmp_path / f"{name}-run/model/model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert not (tmp_path / "cache/recordings/synthetic/animal03_0").exists()  # held out, so not fetched
    assert main(["doctor", url, "--no-page"]) == 0
    assert (tmp_path / "cache/recordings/synthetic/animal03_0").exists()


def test_train_finetune_and_embed(synthetic_corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, new, embeddings = tmp_path / "run", tmp_path / "new", tmp_path / "embeddings"
    (tmp_path / "c.yaml").write_text(dump_config(Config(out=str(run))))
    corpus = str(synthetic_corpus.path)
    small = ["model.width=16", "model.depth=1", "model.heads=2", "model.private_rank=2", "data.window_s=0.6"]
    quick = ["train.steps=3", "train.windows_per_step=8", "train.val_windows=16", "train.track=[]"]
    data = [f"data.corpus={corpus}", "data.held_out=[animal03]"]
    assert main(["train", str(tmp_path / "c.yaml"), "seed=5", *small, *quick, *data]) == 0
    assert f"model: {run / 'model'}" in capsys.readouterr().out
    assert load_model(run).shape.width == 16

    few = ["finetune.few_shot_steps=3", "finetune.windows_per_step=8", "finetune.readout.enabled=false"]
    few += ["finetune.decoding.causal_bins=300"]
    arguments = ["--corpus", corpus, "--subjects", "animal03", "--out", str(new), "--train-trials", "6", "--draw", "1"]
    # Overrides may stand anywhere, also behind an option that takes several values.
    arguments[4:4] = few[:1]
    assert main(["finetune", str(run), *arguments, *few[1:]]) == 0
    assert f"model: {new / 'animal03' / 'adapter'}" in capsys.readouterr().out
    model = load_model(new / "animal03/adapter")
    used = model.provenance["adapted"]["synthetic/animal03_0"]
    assert (used["train_trials"], used["draw"], used["roles"].count(0)) == (6, 1, 6)
    assert model.provenance["base"] == str(run)
    # Controls of several pretraining seeds would be one and the same if the seed did not come along.
    assert model.provenance["adaptation_seed"] == 5
    log = [json.loads(line) for line in (new / "animal03/adapter.metrics.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3

    arguments = ["--corpus", corpus, "--recording", "synthetic/animal03_0", "--out", str(embeddings)]
    assert main(["embed", str(new), *arguments]) == 0
    with np.load(embeddings / "synthetic--animal03_0.npz") as stored:
        assert np.isfinite(stored["states"]).all()
        assert stored["states"].shape == (len(stored["time_s"]), 16)
