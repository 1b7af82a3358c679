"""What a recording in a corpus was prepared from and at what cost; prepares nothing.

The stamp is `prepared.json` in the folder of the recording, outside its hashes: it names paths of the machine that
prepared it, and does not travel with the corpus.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from foundation.durable import write_atomic


@dataclass(frozen=True)
class Cost:
    """What preparing a session took.

    Attributes:
        seconds: Of one process.
        bytes_read: Size of its sources as the recipe's `plan` gives it; 0 when it has none.
        bytes_written: Size of the recording.
    """

    seconds: float
    bytes_read: int
    bytes_written: int


def is_current(out: Path, recording_id: str, module: ModuleType, arguments: dict[str, Any]) -> bool:
    """Whether the recording is there, made by this version of the recipe from these arguments."""
    found = _read(out, recording_id)
    return {key: value for key, value in found.items() if key != "cost"} == _origin(module, arguments)


def write_stamp(out: Path, recording_id: str, module: ModuleType, arguments: dict[str, Any], cost: Cost) -> None:
    """Say that the recording is done."""
    document = _origin(module, arguments) | {"cost": asdict(cost)}
    write_atomic(_path(out, recording_id), json.dumps(document, sort_keys=True).encode())


def read_cost(out: Path, recording_id: str, module: ModuleType) -> Cost | None:
    """What preparing the recording took, by any version of the recipe; None when nobody wrote it down."""
    found = _read(out, recording_id)
    if found.get("recipe") != module.__name__:
        return None
    try:
        return Cost(**found["cost"])
    except (KeyError, TypeError):
        return None


def _origin(module: ModuleType, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe": module.__name__,
        "version": module.VERSION,
        "arguments": json.loads(json.dumps(arguments, default=str)),
    }


def _path(out: Path, recording_id: str) -> Path:
    return out / "recordings" / recording_id / "prepared.json"


def _read(out: Path, recording_id: str) -> dict[str, Any]:
    try:
        document = json.loads(_path(out, recording_id).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
