"""One safetensors file with what it is in its header; nothing in it runs when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from foundation.durable import write_atomic

_KEY = "foundation"


def write_tensors(path: Path, kind: str, about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Write tensors and a JSON object; the file appears whole or not at all.

    Args:
        path: File.
        kind: Name and version of the format.
        about: JSON object.
        tensors: By name.
    """
    # NumPy's scalars are written as Python's.
    header = {_KEY: json.dumps({"kind": kind, "about": about}, default=lambda scalar: scalar.item())}
    write_atomic(path, safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, header))
    return path


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The JSON object and the tensors of a file.

    Raises:
        ValueError: Missing, damaged, or of another kind.
    """
    try:
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            found, about = header["kind"], dict(header["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: got no readable file ({what}), expected one of kind {kind}; save it again") from None
    if found != kind:
        raise ValueError(f"{path}: got a file of kind {found!r}, expected {kind!r}")
    return about, tensors
