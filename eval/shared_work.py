"""Pieces of work with results in JSON, done once each by any number of processes on one folder, and resumed; no work.

The same command started again after a crash, or at once on many nodes (`foundation.claims`), does what is not done yet.
What is kept between is removed as soon as everything is finished, so that a later command starts anew.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foundation.claims import claim, holder, try_claim
from foundation.durable import write_atomic

_POLL_S = 0.5


def share_work(
    folder: Path,
    identity: str,
    pieces: Mapping[str, Callable[[], Any]],
    finish: Callable[[dict[str, Any]], None],
) -> None:
    """Do all pieces, together with whoever else does, and return when everything is finished.

    Args:
        folder: For claims and results, made when missing; nothing else lives in it.
        identity: What the work depends on, as text: results of other work are not used.
        pieces: By name; each returns what JSON can hold, the same in every process.
        finish: Called once, by one of the processes, with all results in the order of `pieces`.

    Raises:
        ValueError: Other processes do other work in the folder.
    """
    run = _join(folder, identity)
    pending = dict(pieces)
    while pending:
        before = len(pending)
        for name, work in list(pending.items()):
            if _result(folder, name).exists() or _do(folder, name, work):
                del pending[name]
        if pending and len(pending) == before:
            if _current(folder).get("run") != run:
                return
            time.sleep(_POLL_S)
    with claim(folder / "claims", "finish", _POLL_S) as held:
        if _current(folder).get("run") == run:
            finish({name: json.loads(_result(folder, name).read_bytes()) for name in pieces})
            write_atomic(folder / "run.json", b"{}")
            shutil.rmtree(folder / "results", ignore_errors=True)
        held.done()


def _do(folder: Path, name: str, work: Callable[[], Any]) -> bool:
    """Do a piece unless somebody is at it; whether its result is there."""
    held = try_claim(folder / "claims", name)
    if held is None:
        return False
    with held:
        # It may have been finished between the look and the claim, and the whole run with it.
        if _current(folder) and not _result(folder, name).exists():
            write_atomic(_result(folder, name), json.dumps(work()).encode())
        held.done()
    return _result(folder, name).exists()


def _join(folder: Path, identity: str) -> str:
    """The run in progress, or a new one where there is none or where a dead one did other work."""
    with claim(folder / "claims", "start", _POLL_S) as held:
        found = _current(folder)
        if found.get("identity") != identity:
            if found and (who := _somebody(folder)):
                raise ValueError(f"{folder}: {who} does other work here; wait for it, or choose another folder")
            shutil.rmtree(folder / "results", ignore_errors=True)
            found = {"identity": identity, "run": uuid.uuid4().hex}
            write_atomic(folder / "run.json", json.dumps(found).encode())
        held.done()
    return found["run"]


def _current(folder: Path) -> dict[str, str]:
    """The run in progress; {} when there is none."""
    try:
        found = json.loads((folder / "run.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _somebody(folder: Path) -> str | None:
    """Who is at a piece."""
    claims = folder / "claims"
    names = {str(path.relative_to(claims).with_suffix("")) for path in claims.rglob("*.*") if path.is_file()}
    return next((who for name in sorted(names - {"start"}) if (who := holder(claims, name))), None)


def _result(folder: Path, name: str) -> Path:
    return folder / "results" / f"{name}.json"
