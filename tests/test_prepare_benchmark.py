"""The benchmark of preparing a session: it runs, both sides hold the same spikes, and other spikes are noticed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmarks.prepare_session import QUICK, SIDES, Measurement, Row, compare, digest

ROOT = Path(__file__).resolve().parents[1]


def test_quick_run(tmp_path: Path) -> None:
    """As a user would, since every measurement is a process that starts from the command's own."""
    words = ["-m", "benchmarks.prepare_session", "--quick", "--recipes", "nwb", "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    about, names, values, _ = done.stdout.splitlines()
    assert names.split() == list(Row.__annotations__)
    row = dict(zip(names.split(), values.split(), strict=True))
    assert about.startswith("5 minutes, 200 units; load ")
    assert row.pop("recipe") == "nwb"
    figures = {name: float(value) for name, value in row.items()}
    assert all(math.isfinite(value) and value > 0 for value in figures.values()), figures
    assert figures["peak_mb"] > figures["imports_mb"]
    (path,) = (tmp_path / "5min_200units" / "nwb").iterdir()
    with h5py.File(path) as file:
        assert len(file["units/spike_times"]) == figures["spikes"]
        assert len(file["units/spike_times_index"]) == QUICK[1]
    # The files are kept, the corpora are not.
    assert [p.name for p in path.parent.parent.iterdir()] == ["nwb"]


def test_a_digest_is_of_the_spikes_of_units() -> None:
    rng = np.random.default_rng(0)
    times, rows = rng.uniform(0, 100, 500), rng.integers(0, 9, 500)
    expected = digest([(times, rows)])
    order = rng.permutation(500)
    assert digest([(times[order], (8 - rows)[order].astype(np.int32))]) == expected
    trains = [times[rows == unit] for unit in range(9)]
    assert digest([(train, np.zeros(len(train), int)) for train in (*trains, np.zeros(0))]) == expected
    other = rows.copy()
    other[3] = (other[3] + 1) % 9
    assert digest([(times, other)]) != expected
    assert digest([(np.nextafter(times, 1), rows)]) != expected
    assert digest([(times[1:], rows[1:])]) != expected


def test_sides_must_agree_and_medians_are_taken(tmp_path: Path) -> None:
    (tmp_path / "nwb").mkdir()
    (tmp_path / "nwb" / "file").write_bytes(bytes(1_500_000))
    seconds = {"read": [1.0, 9.0, 2.0], "prepare": [4.0, 5.0, 3.0], "upstream": [8.0, 6.0, 7.0]}
    asked: list[str] = []

    def fake(upstream: str) -> Callable[..., Any]:
        def run(_: Any, side: str, recipe: str, source: Path) -> Measurement:
            assert (recipe, source) == ("nwb", tmp_path / "nwb")
            asked.append(side)
            took = seconds[side][(len(asked) - 1) // 3 % 3]
            return Measurement(took, 100 + took, 50.0, 7, upstream if side == "upstream" else "same")

        return run

    row = compare("nwb", tmp_path, 3, fake("same"))
    assert row == Row("nwb", 1.5, 7, 2.0, 4.0, 104.0, 50.0, 7.0, 107.0, 3.5)
    assert asked == [*SIDES] * 3
    with pytest.raises(ValueError, match="nwb: the sides hold different spikes"):
        compare("nwb", tmp_path, 1, fake("other"))
