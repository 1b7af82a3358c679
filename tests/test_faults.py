"""A few faults of `benchmarks.faults` in real processes; the hundred are for whoever runs it by hand."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import cut_short

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_training_of_two_processes_goes_on_after_kills() -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "--kills", "2", "--processes", "2"]
    command += ["--seed", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["processes"] for one in found] == [2]
    assert sum(found[0]["faults"].values()) >= 2


def test_a_power_cut_shortens_the_newest_files(tmp_path: Path) -> None:
    for k in range(5):
        (tmp_path / f"{k}").write_bytes(bytes(100))
        os.utime(tmp_path / f"{k}", (k, k))
    (tmp_path / "said.txt").write_bytes(bytes(100))
    cut_short(tmp_path, random.Random(1))
    sizes = [(tmp_path / f"{k}").stat().st_size for k in range(5)]
    assert sizes[:2] == [100, 100]
    assert sizes[4] < 100
    assert (tmp_path / "said.txt").stat().st_size == 100
