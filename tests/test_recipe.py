"""`prepare`: does each session once, on however many nodes, again when something changed, and survives failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_recipes import recipe as recipe_module
from data_recipes.dry_run import MEASURED, describe, estimate_cost
from data_recipes.recipe import RECIPES, open_or_prepare, prepare
from data_recipes.sources import Plan
from data_recipes.stamps import Cost, read_cost
from foundation import corpus as corpus_module
from foundation.claims import try_claim
from foundation.corpus import Corpus, write_manifest
from foundation.recording import Recording
from foundation.recording_folder import write_recording

Tiny = Callable[..., Recording]
ROOT = Path(__file__).resolve().parents[1]
SMALL = {"num_subjects": 3, "num_units": 8, "num_trials": 10}


def content(folder: Path, stamps: bool = True) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and (stamps or path.name != "prepared.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def fake(tiny_recording: Tiny, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A recipe named `fake` whose sessions are made by `fake.made[session]()`."""
    module = ModuleType("fake_recipe")
    module.VERSION = 1  # type: ignore[attr-defined]
    module.made = {name: lambda name=name: tiny_recording(session=name) for name in ("a", "b", "c")}  # type: ignore[attr-defined]

    def sessions(source: Path | None, *, gain: float = 1.0) -> dict[str, dict[str, Any]]:
        return {f"tiny/{name}": {"name": name, "gain": gain} for name in module.made}

    module.sessions = sessions  # type: ignore[attr-defined]
    module.read = lambda name, gain: module.made[name]()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_recipe", module)
    monkeypatch.setitem(RECIPES, "fake", "fake_recipe")
    return module


def test_what_is_done_is_left_alone(tmp_path: Path) -> None:
    first = prepare("synthetic", None, tmp_path, options=SMALL)
    assert first.written == [f"synthetic/animal{i:02d}_0" for i in range(3)]
    before = content(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "recordings").rglob("*")}
    second = prepare("synthetic", None, tmp_path, options=SMALL)
    assert second.written == []
    assert second.skipped == first.written
    assert content(tmp_path) == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "recordings").rglob("*")}
    more = prepare("synthetic", None, tmp_path, options=SMALL | {"num_subjects": 4})
    assert more.written == ["synthetic/animal03_0"]
    assert len(Corpus.open(tmp_path, verify=True)) == 4


def test_other_options_prepare_again(tmp_path: Path) -> None:
    prepare("synthetic", None, tmp_path, options=SMALL)
    assert len(prepare("synthetic", None, tmp_path, options=SMALL | {"seed": 1}).written) == 3
    again = open_or_prepare("synthetic", tmp_path / "direct", **(SMALL | {"seed": 1}))
    assert content(tmp_path / "recordings", stamps=False) == content(again.path / "recordings", stamps=False)


def test_parallel_equals_serial_byte_for_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare("synthetic", None, tmp_path / "serial", options=SMALL)
    done = prepare(
        "synthetic",
        None,
        tmp_path / "parallel",
        options=SMALL,
        workers=2,
        on_session=lambda recording_id, number, total: seen.append((number, total)),
    )
    assert sorted(done.written) == [f"synthetic/animal{i:02d}_0" for i in range(3)]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert content(tmp_path / "serial", stamps=False) == content(tmp_path / "parallel", stamps=False)


def test_failed_sessions_are_listed_and_leave_nothing(fake: Any, tiny_recording: Tiny, tmp_path: Path) -> None:
    def unreadable() -> Recording:
        raise OSError("no such probe")

    fake.made["a"] = unreadable
    fake.made["b"] = lambda: replace(tiny_recording(session="b"), spike_times=-tiny_recording().spike_times)
    fake.made["d"] = lambda: tiny_recording(session="e")
    prepared = prepare("fake", None, tmp_path)
    assert prepared.written == ["tiny/c"]
    assert set(prepared.failed) == {"tiny/a", "tiny/b", "tiny/d"}
    assert prepared.failed["tiny/a"] == "OSError: no such probe"
    assert "spike_times: got a negative time" in prepared.failed["tiny/b"]
    assert "'tiny/e'" in prepared.failed["tiny/d"]
    assert [path.name for path in (tmp_path / "recordings" / "tiny").iterdir()] == ["c"]
    assert Corpus.open(tmp_path, verify=True).ids == ["tiny/c"]
    fake.made["a"] = lambda: tiny_recording(session="a")
    again = prepare("fake", None, tmp_path)
    assert (again.written, again.skipped, sorted(again.failed)) == (["tiny/a"], ["tiny/c"], ["tiny/b", "tiny/d"])


def test_nothing_but_failures_makes_no_corpus(fake: Any, tmp_path: Path) -> None:
    def unreadable() -> Recording:
        raise OSError("no such probe")

    fake.made = dict.fromkeys(fake.made, unreadable)
    assert len(prepare("fake", None, tmp_path).failed) == 3
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(ValueError, match="no such probe"):
        open_or_prepare("fake", tmp_path)


def test_a_new_version_or_a_damaged_stamp_prepares_again(fake: Any, tmp_path: Path) -> None:
    prepare("fake", None, tmp_path)
    assert prepare("fake", None, tmp_path).written == []
    fake.VERSION = 2
    assert len(prepare("fake", None, tmp_path).written) == 3
    (tmp_path / "recordings" / "tiny" / "a" / "prepared.json").write_text("{")
    (tmp_path / "recordings" / "tiny" / "b" / "prepared.json").unlink()
    assert prepare("fake", None, tmp_path).written == ["tiny/a", "tiny/b"]


def test_interrupt_leaves_whole_recordings(fake: Any, tiny_recording: Tiny, tmp_path: Path) -> None:
    def interrupted() -> Recording:
        raise KeyboardInterrupt

    fake.made["b"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        prepare("fake", None, tmp_path)
    fake.made["b"] = lambda: tiny_recording(session="b")
    rest = prepare("fake", None, tmp_path)
    assert (rest.skipped, rest.written) == (["tiny/a"], ["tiny/b", "tiny/c"])
    assert len(Corpus.open(tmp_path, verify=True)) == 3


def test_unknown_names_are_refused(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe 'synthetik'; there are .*'synthetic'"):
        prepare("synthetik", None, tmp_path)
    with pytest.raises(ValueError, match=r"no option \['gian'\]; it has \['gain'\]"):
        prepare("fake", None, tmp_path, options={"gian": 2})
    fake.made = {}
    with pytest.raises(ValueError, match="found no session"):
        prepare("fake", None, tmp_path)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_keeps_the_protocol(name: str) -> None:
    module = recipe_module.recipe_module(name)
    assert isinstance(module.VERSION, int)
    assert module.sessions.__doc__
    assert module.read.__doc__


def test_a_limit_takes_the_first_sessions(fake: Any, tmp_path: Path) -> None:
    assert prepare("fake", None, tmp_path, limit=2).written == ["tiny/a", "tiny/b"]
    rest = prepare("fake", None, tmp_path)
    assert (rest.skipped, rest.written) == (["tiny/a", "tiny/b"], ["tiny/c"])


def test_a_stamp_says_what_a_session_cost(fake: Any, tmp_path: Path) -> None:
    fake.plan = lambda name, gain: Plan(1234)
    prepare("fake", None, tmp_path)
    cost = read_cost(tmp_path, "tiny/a", fake)
    assert cost is not None
    files = [path for path in (tmp_path / "recordings/tiny/a").iterdir() if path.name != "prepared.json"]
    assert cost.bytes_written == sum(path.stat().st_size for path in files)
    assert cost.bytes_read == 1234
    assert 0 < cost.seconds < 10
    # What it cost does not make it another recording; a stamp of an older release has no cost.
    stamp = tmp_path / "recordings/tiny/a/prepared.json"
    document = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({key: value for key, value in document.items() if key != "cost"}))
    assert read_cost(tmp_path, "tiny/a", fake) is None
    assert prepare("fake", None, tmp_path).written == []


def test_a_session_that_another_process_is_at_is_left_or_waited_for(
    fake: Any, tiny_recording: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = try_claim(tmp_path / "claims", "tiny/b")
    assert held is not None
    with held:
        first = prepare("fake", None, tmp_path, wait=False)
        assert first.written == ["tiny/a", "tiny/c"]
        assert f"process {os.getpid()}" in first.claimed["tiny/b"]
        assert Corpus.open(tmp_path).ids == ["tiny/a", "tiny/c"]
        assert "tiny/b  being prepared by" in describe("fake", None, tmp_path)

        # The other one finishes while this one waits.
        def finish(seconds: float) -> None:
            other = prepare("fake", None, tmp_path / "other")
            os.replace(tmp_path / "other/recordings/tiny/b", tmp_path / "recordings/tiny/b")
            assert other.failed == {}
            held.done()
            held.__exit__(None, None, None)

        monkeypatch.setattr(recipe_module.time, "sleep", finish)
        second = prepare("fake", None, tmp_path)
    assert (second.written, second.elsewhere, second.claimed) == ([], ["tiny/b"], {})
    assert len(Corpus.open(tmp_path, verify=True)) == 3


# A node of a cluster: prepares 12 sessions of 0.1 s, and says when it begins and ends each.
NODE = """
import os, signal, sys, time
from pathlib import Path
from types import ModuleType
sys.path.insert(0, {root!r})
from data_recipes import RECIPES
from data_recipes import recipe as recipe_module
from foundation.recording_folder import read_recording
from dataclasses import replace

out, mode = Path({out!r}), sys.argv[1]

def say(word, name):
    with (out.parent / "log").open("a") as log:
        log.write(f"{{word}} {{name}} {{os.getpid()}}\\n")

def sessions(source):
    return {{f"tiny/s{{k:02d}}": {{"name": f"s{{k:02d}}"}} for k in range(12)}}

def read(name):
    say("begin", name)
    if mode == "stuck" and name == "s03":
        time.sleep(1000)
    if mode == "killed" and name == "s03":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    recording = read_recording({tiny!r})
    say("end", name)
    return replace(recording, info=replace(recording.info, recording_id=f"tiny/{{name}}"))

module = ModuleType("node_recipe")
module.VERSION, module.sessions, module.read = 1, sessions, read
sys.modules["node_recipe"] = module
RECIPES["node"] = "node_recipe"
recipe_module.POLL_S = 0.1

if __name__ == "__main__":
    done = recipe_module.prepare("node", None, out, workers=int(sys.argv[2]))
    print(len(done.written), len(done.elsewhere), len(done.skipped), sorted(done.failed), flush=True)
"""


@pytest.fixture
def node(tiny_recording: Tiny, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`node(mode, workers)` starts a process that prepares into `tmp_path / "out"`."""
    tiny = write_recording(tmp_path / "tiny", tiny_recording())
    script = tmp_path / "node.py"
    script.write_text(NODE.format(root=str(ROOT), out=str(tmp_path / "out"), tiny=str(tiny)).replace("\\\\", "\\"))

    def start(mode: str = "fine", workers: int = 1) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), mode, str(workers)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def said(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out.strip().split(maxsplit=3)


def begun(log: Path) -> list[str]:
    return [line.split()[1] for line in log.read_text().splitlines() if line.startswith("begin")]


def test_three_nodes_share_the_work(node: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    counts = [said(process) for process in [node() for _ in range(3)]]
    assert sum(int(count[0]) for count in counts) == 12
    assert all(sum(map(int, count[:3])) == 12 for count in counts)
    assert sorted(begun(tmp_path / "log")) == [f"s{k:02d}" for k in range(12)]  # each once
    assert len(Corpus.open(tmp_path / "out", verify=True)) == 12
    assert [path for path in (tmp_path / "out/claims").rglob("*") if path.is_file()] == []


def test_a_node_that_is_killed_is_replaced(node: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    stuck = node("stuck")
    until = time.monotonic() + 60
    while not (tmp_path / "log").exists() or "begin s03" not in (tmp_path / "log").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    others = [node(), node()]
    time.sleep(0.5)
    stuck.kill()
    stuck.communicate()
    counts = [said(process) for process in others]
    assert sorted(int(a) + int(b) + int(c) for a, b, c, _ in counts) == [12, 12]
    assert sorted(begun(tmp_path / "log")) == sorted([*(f"s{k:02d}" for k in range(12)), "s03"])
    assert len(Corpus.open(tmp_path / "out", verify=True)) == 12


def test_a_worker_that_is_killed_costs_its_session_only(
    node: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """As by the kernel for memory: once with two at a time, once alone, then it is given up."""
    written, elsewhere, _, failed = said(node("killed", 2))
    # The other worker goes with it, maybe right after it has written a session and before it could say so.
    assert (int(written) + int(elsewhere), failed) == (11, "['tiny/s03']")
    assert begun(tmp_path / "log").count("s03") == 2
    assert len(Corpus.open(tmp_path / "out", verify=True)) == 11


def test_a_pool_that_breaks_while_sessions_are_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Breaking(ThreadPoolExecutor):
        def __init__(self, workers: int, mp_context: Any) -> None:
            super().__init__(workers)

        def submit(self, *arguments: Any, **named: Any) -> Any:
            calls.append(len(calls))
            if len(calls) == 2:
                raise recipe_module.BrokenProcessPool
            return super().submit(*arguments, **named)

    monkeypatch.setattr(recipe_module, "ProcessPoolExecutor", Breaking)
    done = prepare("synthetic", None, tmp_path, options=SMALL, workers=2)
    assert (len(done.written), done.failed, len(calls)) == (3, {}, 4)


def test_the_manifest_is_complete_whatever_the_order(
    tiny_recording: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lists, B writes a recording and its manifest, A writes its manifest; then A's list is older than B's."""
    for session in ("a", "b"):
        write_recording(tmp_path, tiny_recording(session=session))
    write_atomic = corpus_module.write_atomic

    def interrupted(path: Path, data: bytes) -> None:
        monkeypatch.setattr(corpus_module, "write_atomic", write_atomic)
        write_recording(tmp_path, tiny_recording(session="c"))
        # B would write its manifest now, but waits for the claim that A has.
        assert try_claim(tmp_path / "claims", "manifest") is None
        write_atomic(path, data)

    monkeypatch.setattr(corpus_module, "write_atomic", interrupted)
    recipe_module._write_whole_manifest(tmp_path)
    recipe_module._write_whole_manifest(tmp_path)  # B's turn
    assert Corpus.open(tmp_path).ids == ["tiny/a", "tiny/b", "tiny/c"]


def test_a_listing_that_is_old_loses_nothing(tiny_recording: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    """A network file system may show a folder as it was; what the manifest named and is there stays."""
    for session in ("a", "b"):
        write_recording(tmp_path, tiny_recording(session=session))
    write_manifest(tmp_path)
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [p for p in glob(self, pattern) if "/b/" not in str(p)])
    assert write_manifest(tmp_path).ids == ["tiny/a", "tiny/b"]


def test_dry_run_lists_and_writes_nothing(fake: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no estimate: the recipe gives no sizes" in describe("fake", None, out)
    fake.plan = lambda name, gain: Plan(2_000_000, ["spikes", "wheel"], ["left camera"] if name == "b" else [])
    text = describe("fake", None, out, workers=2).splitlines()
    assert text[0] == "  tiny/a  to do  2 MB  spikes, wheel"
    assert text[1] == "  tiny/b  to do  2 MB  spikes, wheel  missing: left camera"
    assert text[3] == "3 sessions, 6 MB to read: 0 done, 3 to do"
    assert "from 20 million spikes in an .npz file" in text[4]
    assert not out.exists()

    prepare("fake", None, out, limit=1)
    text = describe("fake", None, out, workers=2).splitlines()
    assert text[0].startswith("  tiny/a  done")
    assert "1 done, 2 to do" in text[3]
    assert "from 1 sessions prepared here" in text[4]
    prepare("fake", None, out)
    assert len(describe("fake", None, out).splitlines()) == 4

    def unreadable(name: str, gain: float) -> Plan:
        raise ValueError("not a session")

    fake.plan, fake.VERSION = unreadable, 2
    assert "tiny/a  changed  cannot be planned (not a session)" in describe("fake", None, out)


def test_estimates() -> None:
    """Worked by hand: 2 s and 50 bytes per 100 bytes read."""
    costs = [Cost(3.0, 150, 75), Cost(1.0, 50, 25)]
    estimate = estimate_cost([100, 100, 200, None], costs, workers=2)
    assert estimate is not None
    mean = 400 / 3  # what the one of unknown size counts
    assert estimate.seconds == pytest.approx((400 + mean) * 0.02 / 2)
    assert estimate.bytes_written == pytest.approx((400 + mean) * 0.5)
    # No session is split over workers.
    assert estimate_cost([1000, 10], costs, workers=8).seconds == pytest.approx(20)  # type: ignore[union-attr]
    # Without sizes by number, without prepared sessions by what was measured once, without either not at all.
    by_number = estimate_cost([None] * 10, [Cost(2.0, 0, 7), Cost(4.0, 0, 9)], workers=1)
    assert by_number is not None
    assert (by_number.seconds, by_number.bytes_written) == (pytest.approx(30), pytest.approx(80))
    fresh = estimate_cost([MEASURED.bytes_read] * 4, [], workers=2)
    assert fresh is not None
    assert fresh.seconds == pytest.approx(2 * MEASURED.seconds)
    assert estimate_cost([None], [], workers=1) is None


def test_459_sessions_are_planned_quickly(fake: Any, tmp_path: Path) -> None:
    fake.made = dict.fromkeys((f"s{k}" for k in range(459)), None)
    fake.plan = lambda name, gain: Plan(10**9, ["spikes"], [])
    begun = time.perf_counter()
    text = describe("fake", None, tmp_path, workers=16)
    assert time.perf_counter() - begun < 3
    assert "459 sessions, 459 GB to read: 0 done, 459 to do" in text
