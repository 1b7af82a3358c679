"""A few faults of `benchmarks.faults` in real processes; the hundred are for whoever runs it by hand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks.faults import compare, cut_short, training
from foundation.corpus import Corpus


@pytest.mark.slow
def test_training_of_two_processes_goes_on_after_kills(synthetic_corpus: Corpus, only_training: None) -> None:
    found = compare(training(synthetic_corpus, 2), 2, 1)  # raises where the end is not the same
    assert found["processes"] == 2
    assert sum(found["faults"].values()) >= 2


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
