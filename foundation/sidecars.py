"""What lies beside a model's weights on disk: names of units and sessions, convex read-outs, provenance.

Names are never in tensor names, so adding an animal breaks no checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file

from foundation.adapters import Adapters
from foundation.durable import write_atomic

# Key of the arrays in the read-outs' file that are no session's; sessions are numbered.
_POPULATION = "population"


def save(
    folder: Path,
    adapters: Adapters,
    readouts: dict[str, dict[str, torch.Tensor]],
    population: dict[str, torch.Tensor],
    provenance: dict[str, Any],
) -> None:
    """Write the sidecars of a model into its folder."""
    adapters.units.to_parquet(folder / "units.parquet", index=False)
    adapters.sessions.to_parquet(folder / "sessions.parquet", index=False)
    index = {key: str(k) for k, key in enumerate(adapters.sessions["recording_id"])}
    flat = {
        f"{index[key]}/{name}": array.contiguous() for key, arrays in readouts.items() for name, array in arrays.items()
    }
    flat |= {f"{_POPULATION}/{name}": array.contiguous() for name, array in population.items()}
    save_file(flat, folder / "readouts.safetensors")
    write_atomic(folder / "provenance.json", json.dumps(provenance, indent=1, sort_keys=True).encode())


def load(
    path: str, adapters: Adapters
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor], dict[str, Any]]:
    """Read-outs, population arrays and provenance of a model folder or Hub repository; names go into `adapters`.

    Raises:
        ValueError: A sidecar is missing, or does not describe the tables.
    """
    adapters.set_names(*(pd.read_parquet(_find(path, f"{name}.parquet")) for name in ("units", "sessions")))
    sessions = adapters.sessions["recording_id"].tolist()
    readouts: dict[str, dict[str, torch.Tensor]] = {}
    population: dict[str, torch.Tensor] = {}
    for key, array in load_file(_find(path, "readouts.safetensors")).items():
        index, name = key.split("/", 1)
        owner = population if index == _POPULATION else readouts.setdefault(sessions[int(index)], {})
        owner[name] = array
    return readouts, population, json.loads(_find(path, "provenance.json").read_text())


def as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Named arrays as the model keeps them."""
    return {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in arrays.items()}


def as_arrays(tensors: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, np.ndarray]:
    """The same back, in double precision; only names that begin with `prefix`, which is kept."""
    return {name: value.double().cpu().numpy() for name, value in tensors.items() if name.startswith(prefix)}


def _find(path: str, name: str) -> Path:
    found = cached_file(path, name)
    if found is None:
        raise ValueError(f"{path}: no {name} beside the weights; save the model again with save_pretrained")
    return Path(found)
