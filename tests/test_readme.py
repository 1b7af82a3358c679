"""What the README and docs/ show must exist: commands parse, files are there, Python runs."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from data_recipes import summaries
from foundation.__main__ import OVERRIDE, VERBS, main
from foundation.arguments import build_parser
from foundation.corpus import Corpus

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text().replace("\\\n", "") for path in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```(\w*)\n(.*?)```", page, flags=re.DOTALL)]
COMMANDS = [
    line.split("#")[0].strip()
    for _, block in BLOCKS
    for line in block.splitlines()
    if re.match(r"(accelerate launch -m )?foundation ", line)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    words = shlex.split(command.removeprefix("accelerate launch -m "))
    arguments = build_parser(summaries()).parse_args([word for word in words[1:] if not OVERRIDE.match(word)])
    assert arguments.verb in VERBS
    for word in words:
        # Other YAML files are the reader's own.
        if (path := word.rpartition("=")[2]).startswith("configs/"):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_compiles_and_its_imports_exist(code: str) -> None:
    compile(code, "README.md", "exec")
    for line in code.splitlines():
        if line.startswith(("from ", "import ")):
            exec(line, {})


def test_the_api_page_names_what_exists() -> None:
    names = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)
    assert len(names) > 10
    for name in names:
        module, _, attribute = name.rpartition(".")
        if (ROOT / name.replace(".", "/")).with_suffix(".py").exists() or (ROOT / name.replace(".", "/")).is_dir():
            assert import_module(name).__doc__
        else:
            assert getattr(import_module(module), attribute).__doc__


def test_set_up_is_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "setup", "test-gpu"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"\b(DEMO_OUTPUT|RESULTS|TODO|TBD)\b", README)


def test_your_own_recording_is_one_file(tmp_path: Path) -> None:
    """The README's `np.savez` line and the command behind it, as they stand."""
    code = next(block for language, block in BLOCKS if language == "python" and "np.savez" in block)
    start = np.arange(0, 60, 3.0)
    rng = np.random.default_rng(0)
    names = {"np": np, "t": np.sort(rng.uniform(0, 60, 4000)), "u": rng.integers(0, 8, 4000)}
    names |= {"a": start, "b": start + 2, "c": rng.integers(0, 2, len(start))}
    exec(code.replace('"mine.npz"', repr(str(tmp_path / "mine.npz"))), names)
    assert main(["prepare", "arrays", "--source", str(tmp_path / "mine.npz"), "--out", str(tmp_path / "corpus")]) == 0
    (recording,) = Corpus.open(tmp_path / "corpus")
    assert recording.info.subject_id == "mouse1"
    assert len(recording.trials) == len(start)
    assert set(recording.covariates) == {"choice"}
