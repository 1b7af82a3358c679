"""A bounded, seeded part of `benchmarks.fuzz`: damaged files of every reader are read or refused, and soon."""

from __future__ import annotations

import random
import time
import zlib
from pathlib import Path

import pytest

from benchmarks.fuzz import TARGETS, Target, mutated

NUMBER = {"ibl": 20, "allen": 20, "checkpoint": 30}


@pytest.mark.parametrize("name", sorted(TARGETS))
@pytest.mark.filterwarnings("ignore")  # what NumPy says of numbers without meaning
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    target: Target = TARGETS[name](tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    target.read(tmp_path)
    rng, seeds = random.Random(zlib.crc32(name.encode())), target.seeds()
    for _ in range(NUMBER.get(name, 60)):
        data, begun = mutated(rng.choice(seeds), rng), time.monotonic()
        target.run(data)
        assert time.monotonic() - begun < 20, data[:100]
    if name != "state":  # which rewrites the hash
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_mutation_changes_the_content_and_keeps_the_file() -> None:
    rng = random.Random(0)
    changed = [mutated(b"\x03" + bytes(range(50)), rng) for _ in range(200)]
    assert {data[:1] for data in changed} == {b"\x03"}
    assert sum(data[1:] != bytes(range(50)) for data in changed) > 150
