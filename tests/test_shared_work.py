"""Shared work: every piece once, whatever the number of processes, what dies and what is started again."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval.shared_work import share_work
from foundation.claims import claim

WORKER = """
import sys, time
from pathlib import Path
from eval.shared_work import share_work

root = Path(sys.argv[1])

def piece(n):
    (root / f"started-{n}").open("a").write("x")
    if sys.argv[2] == "dies" and n == 2:
        raise SystemExit(9)
    time.sleep(0.05)
    return {"n": n, "third": n / 3}

def finish(found):
    (root / "finished").open("a").write(repr(found))

share_work(root / "work", "same", {f"a/{n}": (lambda n=n: piece(n)) for n in range(8)}, finish)
"""
EXPECTED = {f"a/{n}": {"n": n, "third": n / 3} for n in range(8)}


def worker(root: Path, kind: str = "lives") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(root), kind], cwd=Path(__file__).parents[1])


def starts(root: Path) -> list[int]:
    return [len((root / f"started-{n}").read_text()) for n in range(8)]


def test_two_processes_do_each_piece_once_and_finish_once(tmp_path: Path) -> None:
    both = [worker(tmp_path), worker(tmp_path)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert starts(tmp_path) == [1] * 8 or (tmp_path / "finished").read_text() == repr(EXPECTED) * 2
    assert (tmp_path / "finished").read_text().startswith(repr(EXPECTED))


def test_what_was_done_before_a_death_is_not_done_again(tmp_path: Path) -> None:
    assert worker(tmp_path, "dies").wait(60) == 9
    assert not (tmp_path / "finished").exists()
    assert worker(tmp_path).wait(60) == 0
    assert starts(tmp_path) == [1, 1, 2, 1, 1, 1, 1, 1]
    assert (tmp_path / "finished").read_text() == repr(EXPECTED)


def test_a_later_call_and_other_work_start_anew(tmp_path: Path) -> None:
    calls: list[str] = []

    def work(name: str) -> str:
        calls.append(name)
        return name

    found: list[dict[str, Any]] = []
    pieces = {name: partial(work, name) for name in "ba"}
    for _ in range(2):
        share_work(tmp_path, "one", pieces, found.append)
    assert calls == ["b", "a"] * 2
    assert [list(f.items()) for f in found] == [[("b", "b"), ("a", "a")]] * 2

    def breaks() -> str:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        share_work(tmp_path, "one", {**pieces, "c": breaks}, found.append)
    share_work(tmp_path, "two", pieces, found.append)
    assert calls == ["b", "a"] * 4


def test_other_work_in_progress_is_an_error(tmp_path: Path) -> None:
    def breaks() -> str:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        share_work(tmp_path, "one", {"other": breaks}, print)
    begun = time.monotonic()
    with claim(tmp_path / "claims", "piece"), pytest.raises(ValueError, match="does other work here"):
        share_work(tmp_path, "two", {"piece": str}, print)
    assert time.monotonic() - begun < 20
