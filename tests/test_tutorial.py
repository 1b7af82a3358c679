"""The tutorial as it stands, on real recordings that it is about, with fewer sessions and steps than a reader takes."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from eval.results import read_results
from foundation.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/tutorial.md").read_text().replace("\\\n", "")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)
FILES = ("T264_2021_01_14", "X046_2019_09_23", "X062_2020_03_19")
FEWER = {
    "train": ["train.steps=20", "train.windows_per_step=16", "train.val_windows=32"],
    "finetune": [
        *(
            "finetune.steps=5",
            "finetune.val_every=5",
            "finetune.readout.enabled=false",
            "finetune.decoding.enabled=false",
        )
    ],
}


@pytest.mark.slow
def test_the_tutorial_runs(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clicks").mkdir()
    for name in FILES:
        shutil.copy(real_data / "luo2025" / f"{name}.mat", tmp_path / "clicks")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    commands = [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("foundation ")]
    assert [command.split()[1] for command in commands] == [
        *("prepare", "doctor", "train", "finetune", "evaluate", "report", "embed")
    ]
    for command in commands:
        words = shlex.split(command)[1:]
        assert main([*words, *FEWER.get(words[0], [])]) == 0, command
    assert (tmp_path / "doctor/index.html").exists()
    assert (tmp_path / "X062.html").exists()
    # The lines of the table that the tutorial shows and explains.
    shown = [line for _, block in BLOCKS for line in block.splitlines() if re.search(r"\d\.\d{3} +\d\.\d{3}$", line)]
    tasks = {task.split()[0] for task in read_results(tmp_path / "results/X062")[0]["task"]}
    assert {line.split()[0] for line in shown} == {"choice", "encode", "region"} <= tasks
    (code,) = [block for language, block in BLOCKS if language == "python"]
    names: dict[str, np.lib.npyio.NpzFile] = {}
    exec(code, names)
    # Rows of units are longer where read-outs give them fingerprints, which are left out here.
    assert str(names["found"]["states"].shape) in code
    assert len(names["found"]["units"]) == 41
