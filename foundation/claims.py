"""A piece of work that exactly one process does, of many on many nodes that share a folder; does no work itself.

A claim is a file that its holder touches while it works, and that counts as abandoned when it was not touched for
`EXPIRES_S`. All ages are differences of two times of the file system, so the clocks of the nodes may disagree, and the
only operation that decides anything is the exclusive creation of a name (a hard link to a file that is whole already),
which is atomic on NFS too (no flock).

Claim files are numbered, `<name>.0`, `<name>.1`, ... An abandoned or released claim is taken over by creating the next
number, so of many that want it one succeeds, and a late one cannot take away what another has just taken. They are
removed, lowest first, once the work is done, and numbers then start anew: who has taken a number looks whether the one
before is still the one that it found free, and if not gives its own back. Every new holder must first look whether the
work is done. The whole folder may be removed when nobody works.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

# A claim that nobody touched for so long is abandoned. Far above the 60 s for which NFS may show old times.
EXPIRES_S = 300.0
HEARTBEAT_S = 20.0


class Claim:
    """The right to do one piece of work, as a context: alive from `__enter__` to `__exit__`.

    On leaving it is released: removed when `done` was called, else left to whoever wants it next.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path, self._token = path, token
        self._done = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def is_held(self) -> bool:
        """Whether nobody took it over meanwhile, which only happens to a process that was stopped for long."""
        return self._is_mine and not _next(self.path).exists()

    @property
    def _is_mine(self) -> bool:
        return _token(self.path) == self._token

    def done(self) -> None:
        """Say that the work is done and can be seen to be, so that no trace need remain."""
        self._done = True

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # a claim that cannot be released expires
            if not (self._done and self.is_held):
                if self._is_mine:
                    os.utime(self.path, (0, 0))  # free
                return
            for number in range(_number(self.path) + 1):
                self.path.with_suffix(f".{number}").unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if not self.is_held:
                    return
                os.utime(self.path)  # now, by the clock of the file system
            except OSError:
                continue  # a file server that is away for a moment


def try_claim(folder: Path, name: str) -> Claim | None:
    """Claim a piece of work; None while another process is at it.

    The caller must look once more whether the work is done: another may have finished it a moment ago.

    Args:
        folder: Where the claims are, made when missing; shared by all that might do the work.
        name: Of the work; slashes become folders.
    """
    path = folder / f"{name}.0"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": str(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": uuid.uuid4().hex,
    }
    before = None
    while True:
        if _create(path, json.dumps(content).encode()):
            if _number(path) == 0 or _token(_previous(path)) == before:
                return Claim(path, content["token"])
            # The work was done and its claims removed while we came here: this number guards nothing.
            path.unlink(missing_ok=True)
            path = folder / f"{name}.0"
            continue
        # First who it is, then whether it is free: not the other way round, as it may be replaced in between.
        before = _token(path)
        if not _is_free(path):
            return None
        path = _next(path)


def claim(folder: Path, name: str, poll_s: float = 1.0) -> Claim:
    """Claim a piece of work, waiting until whoever is at it has finished or is known to be dead."""
    while (found := try_claim(folder, name)) is None:
        time.sleep(poll_s)
    return found


def holder(folder: Path, name: str) -> str | None:
    """Who is at it, for messages: "host, process, since", or "somebody"; None when it is free."""
    path = folder / f"{name}.0"
    while path.exists():
        if not _is_free(path):
            with contextlib.suppress(FileNotFoundError):
                content = _content(path)
                return "{host}, process {pid}, since {since}".format(**content) if content else "somebody"
            return None
        path = _next(path)
    return None


def _create(path: Path, content: bytes) -> bool:
    """Make a file that is whole as soon as it is there; False when there is one of that name."""
    scratch = path.parent / f".{uuid.uuid4().hex}"
    try:
        scratch.write_bytes(content)
        try:
            os.link(scratch, path)
        except FileExistsError:
            # NFS repeats a request whose answer was lost: then what is there is ours.
            return scratch.stat().st_nlink > 1
        except OSError:
            # A file system without hard links: whole a moment later.
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
    finally:
        scratch.unlink(missing_ok=True)
    return True


def _is_free(path: Path) -> bool:
    """Whether a claim was released, or its holder is known to be dead, or silent for too long."""
    try:
        with path.open() as file:  # opening, not stat: NFS then asks the server for the times
            touched = os.fstat(file.fileno()).st_mtime
        content = _content(path)
    except FileNotFoundError:
        return False  # just removed as done; the next attempt finds out
    if content.get("machine") == _machine() and not _is_alive(int(content["pid"])):
        return True
    return touched == 0 or _file_system_time(path.parent) - touched > EXPIRES_S


def _content(path: Path) -> dict[str, str]:
    """What a claim says; {} when it is none, as of a process that died while writing: then its age decides.

    Raises:
        OSError: It is not there, or cannot be read now.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return {}
    known = isinstance(content, dict) and {"host", "machine", "pid", "since", "token"} <= set(content)
    return content if known else {}


def _token(path: Path) -> str | None:
    """What tells this claim from any other of its name; None when there is none."""
    try:
        return _content(path).get("token", "")
    except FileNotFoundError:
        return None


def _file_system_time(folder: Path) -> float:
    probe = folder / f".clock-{uuid.uuid4().hex}"
    try:
        with probe.open("xb") as file:
            os.utime(probe)
            return os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """This machine since it started, and the set of processes whose numbers mean something here (containers differ)."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _next(path: Path) -> Path:
    return path.with_suffix(f".{_number(path) + 1}")


def _previous(path: Path) -> Path:
    return path.with_suffix(f".{_number(path) - 1}")
