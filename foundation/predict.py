"""A model's answers on windows of recordings: rates, covariates, states and embeddings as NumPy arrays.

What is hidden is given by a function of the window, so every question (encoding, decoding, co-smoothing, forecasting,
embedding) is the same forward pass under another mask. No gradient, no fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from foundation.masking import Hidden, MaskingConfig, Shape, behavior, collate, neural, spikes_only, window_shapes
from foundation.masking import hide_future as _hide_future
from foundation.model import FoundationModel, Output
from foundation.sampling import Batch, Window, WindowReader

Hide = Callable[[Shape], Hidden]

_CONFIG = MaskingConfig()
_RNG = np.random.default_rng(0)  # `neural` and `behavior` draw nothing from it


def hide_spikes(shape: Shape) -> Hidden:
    """Encoding: all spikes hidden."""
    return neural(shape, _RNG, _CONFIG)


def hide_behavior(shape: Shape) -> Hidden:
    """Decoding: everything but spikes and the time since the trial's start hidden."""
    return behavior(shape, _RNG, _CONFIG)


def hide_all_but_spikes(shape: Shape) -> Hidden:
    """Embedding: everything but spikes hidden."""
    return spikes_only(shape, _RNG, _CONFIG)


def hide_units(units: np.ndarray) -> Hide:
    """Co-smoothing: units `(N,)` bool hidden, everything else visible."""

    def hide(shape: Shape) -> Hidden:
        hidden = neural(shape, _RNG, _CONFIG)
        hidden.bins[:] = False
        hidden.units[:] = units
        return hidden

    return hide


def hide_future(share_known: float) -> Hide:
    """Forecasting: of n bins the first floor(share_known * n) are known."""

    def hide(shape: Shape) -> Hidden:
        hidden = neural(shape, _RNG, _CONFIG)
        hidden.bins[:] = False
        known = int(np.floor(share_known * shape.num_bins + 1e-9))
        _hide_future(hidden, shape, shape.num_bins - known)
        return hidden

    return hide


def spikes_alone(hide: Hide) -> Hide:
    """The same question, asked of spikes alone: covariates and trial structure are hidden as well."""

    def hidden(shape: Shape) -> Hidden:
        found = hide(shape)
        found.covariates[:] = found.structure[:] = True
        return found

    return hidden


@dataclass
class Answer:
    """The forward pass of one window (T bins, N units), on the CPU.

    Attributes:
        window: Which.
        states: `(T, D)`.
        log_rates: `(T, N)` log expected counts per bin; empty when spikes were not asked for.
        covariates: Per target channel name, `(T, width)` for time scope or `(K, width)` per trial for trial scope:
            values in physical units, class logits, or log event counts.
        hidden: `(T, N)` bool, which counts were hidden.
    """

    window: Window
    states: np.ndarray
    log_rates: np.ndarray
    covariates: dict[str, np.ndarray]
    hidden: np.ndarray


@torch.no_grad()
def answers(
    model: FoundationModel, reader: WindowReader, windows: list[Window], hide: Hide, batch_windows: int = 64
) -> Iterator[Answer]:
    """Run windows through a model, in the order given within each recording.

    Args:
        model: With rows for the windows' sessions.
        reader: Opens the recordings, with the model's channels and bin size.
        windows: Any.
        hide: What is hidden of each.
        batch_windows: Windows in a forward pass; the result does not depend on it but for rounding.
    """
    model.eval()
    # Windows of one session and of like length share a batch, so little is padded.
    order = sorted(range(len(windows)), key=lambda i: (windows[i].recording_id, windows[i].num_bins))
    done: dict[int, Answer] = {}
    for first in range(0, len(order), batch_windows):
        chosen = order[first : first + batch_windows]
        batch = reader.batch([windows[i] for i in chosen])
        hidden = [hide(shape) for shape in window_shapes(batch, model.channels)]
        masks = collate(batch, hidden, ["asked"] * len(hidden))
        output = model(batch.to(model.device), masks.to(model.device))
        for i, answer in zip(chosen, _split(model, batch, masks.spikes, output)):
            done[i] = answer
    yield from (done[i] for i in range(len(windows)))


def _split(model: FoundationModel, batch: Batch, hidden: list[torch.Tensor], output: Output) -> Iterator[Answer]:
    states = output.states.float().cpu().numpy()
    covariates = [None if c is None else c.float().cpu().numpy() for c in output.covariates]
    window = 0
    for session, size in enumerate(batch.sizes):
        rates = output.log_rates[session]
        for local in range(size):
            bins = batch.windows[window].num_bins
            values = {}
            for channel, prediction in zip(model.channels, covariates):
                if prediction is not None:
                    raw = prediction[window, :bins] if channel.spec.scope == "time" else prediction[window]
                    continuous = channel.spec.kind == "continuous"
                    values[channel.spec.name] = raw * np.array(channel.std) + channel.mean if continuous else raw
            yield Answer(
                window=batch.windows[window],
                states=states[window, :bins],
                log_rates=np.zeros((bins, 0)) if rates is None else rates[local, :bins].float().cpu().numpy(),
                covariates=values,
                hidden=hidden[session][local, :bins].numpy(),
            )
            window += 1
