"""Claims: one holder at a time whatever the processes do, freed by the end, the death or the silence of the holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundation import claims
from foundation.claims import claim, holder, try_claim

ROOT = Path(__file__).resolve().parents[1]

# Each of many processes takes the same claim over and over; while it has it, it alone may have the file `inside`. Some
# end by `done`, which takes the claims away and starts their numbers anew, some do not.
FIGHT = """
import os, random, sys, time
from pathlib import Path
from foundation.claims import claim
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
for k in range(rounds):
    with claim(folder, "d/work", poll_s=0) as held:
        if random.random() < float(sys.argv[3]):
            held.done()
        handle = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
        os.close(handle)
        with (folder / "log").open("a") as log:
            log.write("x")
        time.sleep(random.uniform(0, 0.002))
        (folder / "inside").unlink()
"""

TAKE_AND_SAY = """
import sys, time
from pathlib import Path
from foundation import claims
claims.HEARTBEAT_S = 0.1
held = claims.try_claim(Path(sys.argv[1]), "work")
with held:
    print("taken", flush=True)
    time.sleep(60)
"""

TAKE_OVER = """
import sys, time
from pathlib import Path
from foundation import claims
claims.EXPIRES_S = 0.5
while time.time() < float(sys.argv[2]):
    pass
held = claims.try_claim(Path(sys.argv[1]), "work")
print("won" if held is not None else "lost", flush=True)
if held is not None:
    with held:
        time.sleep(1.0)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_one_holder_then_the_next(tmp_path: Path) -> None:
    held = try_claim(tmp_path, "d/a")
    assert held is not None
    with held:
        assert held.is_held
        assert try_claim(tmp_path, "d/a") is None
        assert f"process {os.getpid()}" in str(holder(tmp_path, "d/a"))
        assert try_claim(tmp_path, "d/b") is not None
    assert holder(tmp_path, "d/a") is None
    again = try_claim(tmp_path, "d/a")
    assert again is not None
    with again:
        again.done()
    assert list((tmp_path / "d").glob("a.*")) == []


def test_an_error_frees_the_claim(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claim(tmp_path, "a"):
        raise KeyboardInterrupt
    assert holder(tmp_path, "a") is None


@pytest.mark.parametrize(("rounds", "share_done"), [(40, 0.0), (150, 0.6)])
def test_processes_never_hold_it_together(tmp_path: Path, rounds: int, share_done: float) -> None:
    fighters = [start(FIGHT, tmp_path, rounds, share_done) for _ in range(3)]
    assert [fighter.wait(timeout=60) for fighter in fighters] == [0, 0, 0]
    assert len((tmp_path / "log").read_text()) == 3 * rounds


def test_a_number_of_claims_that_were_removed_meanwhile_guards_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While we look at .0, which is free, the holder of .1 finishes, and another takes .0 anew: .1 is not for us."""
    first = try_claim(tmp_path, "work")
    assert first is not None
    with first:
        pass  # released
    second, is_free, taken = try_claim(tmp_path, "work"), claims._is_free, []
    assert second is not None
    assert second.path.name == "work.1"

    def meanwhile(path: Path) -> bool:
        free = is_free(path)
        monkeypatch.setattr(claims, "_is_free", is_free)
        with second:
            second.done()
        taken.append(try_claim(tmp_path, "work"))
        return free

    monkeypatch.setattr(claims, "_is_free", meanwhile)
    assert try_claim(tmp_path, "work") is None
    assert taken[0] is not None
    assert taken[0].path.name == "work.0"
    assert taken[0].is_held


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError("not supported")

    monkeypatch.setattr(os, "link", refused)
    held = try_claim(tmp_path, "work")
    assert held is not None
    with held:
        assert held.is_held
        assert try_claim(tmp_path, "work") is None
        assert f"process {os.getpid()}" in str(holder(tmp_path, "work"))
    again = try_claim(tmp_path, "work")
    assert again is not None
    assert again.path.name == "work.1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work.0", "work.1"]


def test_a_moment_without_the_file_server_does_not_stop_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, content = try_claim(tmp_path, "work"), claims._content
    failures: list[Path] = []
    assert held is not None
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.02)

    def away(path: Path) -> dict[str, str]:
        if len(failures) < 3:
            failures.append(path)
            raise OSError("stale file handle")
        return content(path)

    monkeypatch.setattr(claims, "_content", away)
    with held:
        os.utime(held.path, (1, 1))
        until = time.monotonic() + 20
        while held.path.stat().st_mtime == 1:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert len(failures) == 3


# Many jobs, each to be done once: whoever holds one looks whether it is done, does it, and says so.
SHARE = """
import os, sys
from pathlib import Path
from foundation.claims import claim
folder = Path(sys.argv[1])
for job in range(100):
    with claim(folder / "claims", f"job{job}", poll_s=0.0005) as held:
        if not (folder / f"done{job}").exists():
            with (folder / f"log{job}").open("a") as log:
                log.write("x")
            (folder / f"done{job}").touch()
        held.done()
"""


def test_each_job_is_done_once_and_nothing_is_left(tmp_path: Path) -> None:
    workers = [start(SHARE, tmp_path) for _ in range(3)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    assert [(tmp_path / f"log{job}").read_text() for job in range(100)] == ["x"] * 100
    assert [path.name for path in (tmp_path / "claims").iterdir()] == []


def test_a_killed_holder_on_this_machine_is_noticed_at_once(tmp_path: Path) -> None:
    process = start(TAKE_AND_SAY, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    assert try_claim(tmp_path, "work") is None
    process.kill()
    process.wait()
    held = try_claim(tmp_path, "work")
    assert held is not None
    assert held.path.name == "work.1"


def test_the_heartbeat_keeps_a_claim_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a process that sees no process of that number: on another node only the age counts."""
    monkeypatch.setattr(claims, "EXPIRES_S", 0.5)
    process = start(TAKE_AND_SAY, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    monkeypatch.setattr(claims, "_machine", lambda: "another node")
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        assert try_claim(tmp_path, "work") is None
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.8)
    held = try_claim(tmp_path, "work")
    assert held is not None
    process.kill()
    process.wait()


def test_an_expired_claim_is_taken_over_by_exactly_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_machine", lambda: "another node")
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        assert try_claim(folder, "work") is not None  # nobody touches it: its holder is dead
        os.utime(folder / "work.0", (1, time.time() - 10))
        begin = time.time() + 1.0
        fighters = [start(TAKE_OVER, folder, begin) for _ in range(3)]
        said = [fighter.communicate(timeout=60)[0].strip() for fighter in fighters]
        assert sorted(said) == ["lost", "lost", "won"]


def test_a_holder_that_was_stopped_for_long_learns_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = try_claim(tmp_path, "work")
    assert first is not None
    with first:
        os.utime(tmp_path / "work.0", (1, 1))
        second = try_claim(tmp_path, "work")
        assert second is not None
        assert not first.is_held
        first.done()
    with second:
        assert second.is_held  # the end of the first took nothing away
        assert try_claim(tmp_path, "work") is None


def test_ages_are_by_the_clock_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose clock runs a day ahead does not think that everybody is dead."""
    held = try_claim(tmp_path, "work")
    assert held is not None
    now = time.time()
    monkeypatch.setattr(claims, "_machine", lambda: "another node")
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    assert try_claim(tmp_path, "work") is None


def test_a_claim_that_was_never_filled_in_expires_by_age(tmp_path: Path) -> None:
    (tmp_path / "work.0").touch()
    assert try_claim(tmp_path, "work") is None
    assert holder(tmp_path, "work") == "somebody"
    os.utime(tmp_path / "work.0", (1, time.time() - claims.EXPIRES_S - 1))
    assert try_claim(tmp_path, "work") is not None
