"""A frozen model and a recording give embeddings: per bin from spikes alone, and per unit.

Every bin of the domain is embedded with covariates and trial structure hidden, so an embedding never contains the
behavior it is later compared with.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foundation.channels import MIN_BINS
from foundation.corpus import Corpus
from foundation.durable import write_atomic
from foundation.mixture import known_as
from foundation.model import FoundationModel
from foundation.predict import answers, hide_all_but_spikes
from foundation.sampling import Window, WindowReader


@dataclass(frozen=True)
class Embedding:
    """Embeddings of a recording (P bins, D trunk width, E contrastive size, N units).

    Attributes:
        recording_id: Which.
        time_s: `(P,)` centers of the bins, seconds.
        states: `(P, D)` trunk states.
        behavior: `(P, E)` behavior-aligned embedding, unit length.
        time: `(P, E)` time-contrastive embedding, unit length.
        unit_id: `(N,)` names.
        units: `(N, columns)` fingerprints of the units (`foundation.fingerprint`), or where the model made none their
            adapter rows.
    """

    recording_id: str
    time_s: np.ndarray
    states: np.ndarray
    behavior: np.ndarray
    time: np.ndarray
    unit_id: np.ndarray
    units: np.ndarray


def embed(model: FoundationModel, corpus: Corpus, recording_id: str, windows: list[Window] | None = None) -> Embedding:
    """Embed a recording.

    Args:
        model: With rows for the recording (pretrained on it, or adapted).
        corpus: Holds it.
        recording_id: Which.
        windows: Only these; by default the whole domain in windows of the model's length.

    Raises:
        ValueError: The model has no adapter for it.
    """
    model.adapters.span(recording_id)
    reader = WindowReader(known_as(corpus, model.config.names), model.channels, model.config.bin_size_s)
    chosen = windows or domain_windows(reader, recording_id, model.config.window_s)
    found = list(answers(model, reader, chosen, hide_all_but_spikes))
    size = reader.bin_size_s
    states = np.concatenate([answer.states for answer in found])
    with torch.no_grad():
        tensor = torch.from_numpy(states).to(model.device)
        projected = {head: model.project(tensor, head).cpu().numpy() for head in ("behavior", "time")}
    return Embedding(
        recording_id=recording_id,
        time_s=np.concatenate([a.window.start_s + size * (np.arange(a.window.num_bins) + 0.5) for a in found]),
        states=states,
        behavior=projected["behavior"],
        time=projected["time"],
        unit_id=reader.recording(recording_id).units["unit_id"].to_numpy(dtype=str),
        units=model.unit_embeddings(recording_id),
    )


def domain_windows(reader: WindowReader, recording_id: str, window_s: float) -> list[Window]:
    """Consecutive windows over the whole domain; a remainder under `MIN_BINS` bins is left out."""
    most = round(window_s / reader.bin_size_s)
    windows = []
    for row, (start, stop) in enumerate(reader.recording(recording_id).domain):
        bins = int(np.floor((stop - start) / reader.bin_size_s + 1e-6))
        for first in range(0, bins, most):
            if (length := min(most, bins - first)) >= MIN_BINS:
                windows.append(Window(recording_id, float(start + first * reader.bin_size_s), length, row))
    return windows


def write_embedding(folder: Path, embedding: Embedding) -> Path:
    """Write `<dataset>--<session>.npz` (no pickles), whole or not at all."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in vars(embedding).items()}
    np.savez_compressed(buffer, **arrays)
    path = folder / f"{embedding.recording_id.replace('/', '--')}.npz"
    write_atomic(path, buffer.getvalue())
    return path
