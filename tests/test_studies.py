"""Studies: strict configs, findings written whole with their provenance, and a page that stands alone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.util
import io
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure as Drawing
from PIL import Image

from eval.studies import STUDIES, study
from eval.studies.study import Figure, Findings, Table, inputs_of, load_study, run_study, write_findings
from foundation.__main__ import main
from foundation.corpus import Corpus

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs/studies").glob("*.yaml"))


@dataclass
class Config:
    source: str = ""
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    noise: float = 0.5


def run(config: Config) -> Findings:
    rng = np.random.default_rng(config.seeds[0])
    frame = pd.DataFrame({"model": ["<ours>", "chance"], "r2": [1 - config.noise, np.nan], "n": [10, 20000]})
    drawing = Drawing(figsize=(3, 2))
    drawing.add_subplot().plot(rng.normal(size=5))
    table, figure = Table("scores", "R2 & more", frame), Figure("line", "A line", drawing)
    return Findings("A tiny study", "Is 1 < 2?", [table], [figure], ["Yes, 1 < 2."])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YAML file of a study that is known only here."""
    monkeypatch.setitem(STUDIES, "tiny", "tiny_study")
    monkeypatch.setitem(sys.modules, "tiny_study", SimpleNamespace(Config=Config, run=run))  # type: ignore[misc]
    (tmp_path / "data.npz").write_bytes(b"data")
    path = tmp_path / "mine.yaml"
    path.write_text(f"study: tiny\nsource: {tmp_path / 'data.npz'}\nnoise: 0.25\n")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_repeats_no_default(path: Path) -> None:
    name, module, _ = load_study(path)
    said = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "study"}
    # Not of an instance: some studies cannot be asked nothing.
    defaults = {
        f.name: f.default if f.default is not dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(module.Config)
        if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
    }
    assert [key for key, value in said.items() if key in defaults and defaults[key] == value] == []
    assert name in path.stem
    assert len(path.read_text().splitlines()) <= 40


def test_every_study_with_a_file_has_a_config_and_the_other_way_round() -> None:
    there = {name for name, module in STUDIES.items() if importlib.util.find_spec(module)}
    assert {yaml.safe_load(path.read_text())["study"] for path in CONFIGS} == there


def test_one_command_writes_the_findings(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", str(config), "seeds=[7]"]) == 0
    out = Path("results/studies/mine")
    assert f"study: {out / 'index.html'}" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["findings.json", "index.html", "line.png", "scores.csv"]
    written = json.loads((out / "findings.json").read_text())
    assert written["provenance"]["study"] == "tiny"
    assert written["provenance"]["config"] == {"source": str(tmp_path / "data.npz"), "seeds": [7], "noise": 0.25}
    assert written["provenance"]["inputs"] == {str(tmp_path / "data.npz"): hashlib.sha256(b"data").hexdigest()}
    assert written["provenance"]["versions"]["numpy"] == np.__version__
    assert written["tables"][0]["rows"] == [["<ours>", 0.75, 10], ["chance", None, 20000]]
    frame = pd.read_csv(out / "scores.csv")
    pd.testing.assert_frame_equal(frame, run(Config(noise=0.25)).tables[0].frame)
    with Image.open(out / "line.png") as image:
        assert image.size == (480, 320)


def test_the_page_stands_alone_and_says_everything(config: Path, tmp_path: Path) -> None:
    html = run_study(config, out=tmp_path / "out").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "<script" not in html
    for text in ("A tiny study", "Is 1 &lt; 2?", "Yes, 1 &lt; 2.", "&lt;ours&gt;", "R2 &amp; more", "A line"):
        assert text in html
    for text in ("0.75", "20000", "noise: 0.25", hashlib.sha256(b"data").hexdigest(), "#0a0f14", "#64dcc8"):
        assert text in html
    (image,) = re.findall(r"data:image/png;base64,([^\"]+)", html)
    assert base64.b64decode(image) == (tmp_path / "out/line.png").read_bytes()


def test_the_same_findings_are_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_findings(run(Config()), tmp_path / name, {"config": {"seeds": [0]}})
    for file in ("findings.json", "index.html", "line.png", "scores.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_what_earlier_findings_left_goes_and_nothing_else(tmp_path: Path) -> None:
    findings = run(Config())
    write_findings(findings, tmp_path / "out", {})
    (tmp_path / "out/notes.txt").write_text("mine")
    renamed = dataclasses.replace(findings, tables=[Table("other", "", findings.tables[0].frame)], figures=[])
    write_findings(renamed, tmp_path / "out", {})
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"findings.json", "index.html", "other.csv", "notes.txt"}


def test_a_crash_leaves_no_findings_that_look_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_findings(run(Config()), tmp_path / "out", {})

    def fails(path: Path, data: bytes) -> None:
        if path.suffix == ".png":
            raise OSError("disk full")
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(study, "write_atomic", fails)
        with pytest.raises(OSError, match="disk full"):
            write_findings(run(Config(noise=0)), tmp_path / "out", {})
    assert not (tmp_path / "out/findings.json").exists()
    write_findings(run(Config(noise=0)), tmp_path / "out", {})
    assert (tmp_path / "out/findings.json").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nose=1"], r"unknown key \['nose'\]; there are \['source', 'seeds', 'noise'\]"),
        (["noise=loud"], "config noise: got 'loud', expected float"),
        (["seeds=3"], "config seeds: got 3"),
        (["study=nothing"], "got study 'nothing', expected `study:` to be one of .*'tiny'"),
    ],
)
def test_wrong_configs_are_refused(config: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_study(config, overrides)


def test_folders_of_other_things_are_refused_before_the_work(config: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"full: holds other files and no findings\.json"):
        run_study(config, ["seeds=[]"], out=tmp_path / "full")  # with no seed the study itself would fail
    with pytest.raises(ValueError, match="is a file"):
        run_study(config, ["seeds=[]"], out=config)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([Table("../x", "", pd.DataFrame({"a": [1]}))], "expected a name of lower-case"),
        ([Table("a", "", pd.DataFrame({"a": [1]}))] * 2, "'a' names 2 tables"),
        ([Table("a", "", pd.DataFrame({"a": [1]}, index=["row"]))], "reset_index"),
    ],
)
def test_tables_that_cannot_be_written_are_refused(tables: list[Table], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Findings("t", "q", tables)


def test_a_figure_is_not_named_as_a_table() -> None:
    table = Table("a", "", pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="'a' names 2 tables and figures"):
        Findings("t", "q", [table], [Figure("a", "", Drawing())])


def test_inputs_are_hashed_and_a_corpus_by_its_manifest(synthetic_corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "folder/deep/a").write_bytes(b"1")
    manifest = synthetic_corpus.path / "manifest.json"
    config = Config(source=str(synthetic_corpus.path))
    assert inputs_of(config) == {str(manifest): hashlib.sha256(manifest.read_bytes()).hexdigest()}
    before = inputs_of(Config(source=str(tmp_path / "folder")))
    (tmp_path / "folder/deep/a").write_bytes(b"2")
    after = inputs_of(Config(source=str(tmp_path / "folder")))
    assert before.keys() == after.keys() == {str(tmp_path / "folder")}
    assert before != after
    assert inputs_of(Config(source="s3://bucket/x")) == inputs_of(Config(source="name")) == {}


def test_images_are_as_dark_as_they_were_drawn(tmp_path: Path) -> None:
    drawing = Drawing(figsize=(1, 1), facecolor="#0f161d")
    write_findings(Findings("t", "q", figures=[Figure("dark", "", drawing)]), tmp_path, {})
    image = np.asarray(Image.open(io.BytesIO((tmp_path / "dark.png").read_bytes())).convert("RGB"))
    assert (image == (0x0F, 0x16, 0x1D)).all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_overrides_that_the_head_of_a_config_names_are_understood(path: Path) -> None:
    """Commented commands are run by nobody else before a user does."""
    for line in re.findall(r"^\s*#(.*)", path.read_text(), flags=re.MULTILINE):
        if "prepare" not in line:
            words = [word.rstrip(".;") for word in line.split() if re.match(r"[a-z_][\w.]*=", word)]
            load_study(path, words)


def test_nothing_behind_the_sign_is_an_empty_text() -> None:
    path = next(path for path in CONFIGS if path.stem == "hippocampus")
    assert load_study(path, ["direction="])[2].direction == ""
