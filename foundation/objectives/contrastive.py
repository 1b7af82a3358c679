"""Contrastive alignment: moments near in time, or alike in behavior, get alike embeddings.

The loss is that of `foundation.objectives.info_nce`. Pairs are taken among the bins that are in the batch
anyway, of all its sessions and animals. Only windows of scheme `spikes_only` take part:
elsewhere an embedding could copy the label it is compared by, or the clock.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from foundation.channels import Channel, channel_slices
from foundation.masking import Masks
from foundation.model import FoundationModel, Output
from foundation.objectives.info_nce import info_nce
from foundation.objectives.masked_modeling import Tally
from foundation.sampling import Batch


@dataclass
class ContrastiveConfig:
    """Pairs of the two heads.

    Attributes:
        continuous: Time-scope or trial-scope continuous covariates whose nearness makes a positive.
        discrete: Categorical covariates that must agree. With `continuous` too, the mode is CEBRA's "mixed".
        time_offset_s: Distance in time of the positive of the time head.
        anchors: Anchor bins per window.
        references: Reference bins per window; the positives and negatives.
    """

    continuous: list[str] = field(default_factory=list)
    discrete: list[str] = field(default_factory=list)
    time_offset_s: float = 0.1
    anchors: int = 8
    references: int = 16


def nearest_reference(
    labels: np.ndarray,
    classes: np.ndarray,
    window: np.ndarray,
    pool_labels: np.ndarray,
    pool_classes: np.ndarray,
    pool_window: np.ndarray,
    shift: np.ndarray,
    tie: np.ndarray,
) -> np.ndarray:
    """The positive of each anchor among the references of other windows: same classes, nearest label.

    As in CEBRA's "time delta" sampling the query is the anchor's label plus a label change `shift` seen elsewhere; ties
    (always, for discrete labels alone) are broken uniformly at random, where CEBRA takes the first.

    Args:
        labels: `(A, L)` continuous labels of the anchors; L may be 0.
        classes: `(A, M)` integer classes; M may be 0.
        window: `(A,)` which window each anchor is from.
        pool_labels: `(R, L)`.
        pool_classes: `(R, M)`.
        pool_window: `(R,)`.
        shift: `(A, L)`.
        tie: `(A,)` uniform numbers in [0, 1).

    Returns:
        `(A,)` index of the reference, -1 where none is allowed.
    """
    if not len(pool_window):
        return np.full(len(window), -1)
    distance = ((labels + shift)[:, None, :] - pool_labels[None]) ** 2
    total = distance.sum(axis=2)
    allowed = (classes[:, None, :] == pool_classes[None]).all(axis=2) & (window[:, None] != pool_window[None])
    total = np.where(allowed, total, np.inf)
    best = total.min(axis=1, keepdims=True, initial=np.inf)
    tied = (total <= best) & allowed
    number = tied.sum(axis=1)
    rank = np.minimum((tie * number).astype(int), np.maximum(number - 1, 0))
    index = (np.cumsum(tied, axis=1) > rank[:, None]).argmax(axis=1)
    return np.where(number > 0, index, -1)


@dataclass
class Pairs:
    """Anchors and references of a batch, as flat indices `window * T + bin`, in window order.

    Attributes:
        anchor: `(A,)` anchors of both heads.
        later: `(A,)` bin `time_offset_s` later, -1 where the window ends before.
        reference: `(R,)`.
        key: `(R,)` sort key that is the same whatever rank the window is on.
        anchor_key: `(A,)`.
        tie: `(A,)` uniform numbers.
    """

    anchor: np.ndarray
    later: np.ndarray
    reference: np.ndarray
    key: np.ndarray
    anchor_key: np.ndarray
    tie: np.ndarray


def draw_pairs(batch: Batch, masks: Masks, config: ContrastiveConfig, seed: tuple[int, ...]) -> Pairs:
    """Draw anchor and reference bins from the windows of scheme `spikes_only`.

    A window's draw depends on its stretch and on how many windows of that came before, on no other session.
    """
    num_bins = batch.valid.shape[1]
    offset = max(1, round(config.time_offset_s / batch.bin_size_s))
    parts: list[tuple[np.ndarray, ...]] = []
    seen: dict[tuple[str, int], int] = {}
    for w, window in enumerate(batch.windows):
        if masks.schemes[w] != "spikes_only":
            continue
        again = seen[window.recording_id, window.row] = seen.get((window.recording_id, window.row), -1) + 1
        rng = np.random.default_rng([*seed, zlib.crc32(window.recording_id.encode()), window.row, again])
        key = int(rng.integers(2**62))
        anchors = rng.integers(window.num_bins, size=config.anchors)
        references = rng.integers(window.num_bins, size=config.references)
        later = np.where(anchors + offset < window.num_bins, w * num_bins + anchors + offset, -1)
        parts.append(
            (
                w * num_bins + anchors,
                later,
                w * num_bins + references,
                np.full(config.references, key),
                np.full(config.anchors, key),
                rng.random(config.anchors),
            )
        )
    columns = [np.concatenate(column) for column in zip(*parts)] if parts else [np.zeros(0, np.int64)] * 6
    return Pairs(*columns)


Gather = Callable[[torch.Tensor], torch.Tensor]


def contrastive_losses(
    model: FoundationModel,
    output: Output,
    batch: Batch,
    masks: Masks,
    config: ContrastiveConfig,
    seed: tuple[int, ...],
    gather: Gather = lambda rows: rows,
) -> dict[str, Tally]:
    """Loss and number of pairs of the time head and the behavior head.

    Args:
        model: Holds the projections.
        output: States of the batch.
        batch: The windows; labels come from its covariates, hidden from the model or not.
        masks: Only windows of scheme `spikes_only` take part.
        config: Pairs and labels.
        seed: Of this step.
        gather: Concatenates rows over ranks with gradients; references are shared by all ranks.
    """
    pairs = draw_pairs(batch, masks, config, seed)
    device = output.states.device
    states = output.states.flatten(0, 1)
    anchor = torch.from_numpy(pairs.anchor).to(device)
    reference = torch.from_numpy(pairs.reference).to(device)
    labels = _labels(batch, model.channels, config)
    pool_facts = np.concatenate([labels[pairs.reference], pairs.key.view(np.float64)[:, None]], axis=1)
    pool = gather(torch.from_numpy(pool_facts).to(device))
    order = torch.from_numpy(np.argsort(pool[:, -1].cpu().numpy().view(np.int64), kind="stable")).to(device)
    facts = pool[order].cpu().numpy()
    losses = {}
    for index, head in enumerate(("time", "behavior")):
        keys = gather(model.project(states[reference], head))[order]
        query = model.project(states[anchor], head)
        scale = torch.exp(-model.log_temperature[index])
        if head == "time":
            later = torch.from_numpy(pairs.later).to(device)
            use = later >= 0
            positives = model.project(states[later.clamp(min=0)], head)
        else:
            chosen = _behavior_positives(labels[pairs.anchor], facts, pairs, len(config.continuous))
            positive = torch.from_numpy(chosen).to(device)
            use = positive >= 0
            positives = keys[positive.clamp(min=0)] if len(keys) else query
        if not len(keys) or not len(query):
            # The keys stay in the graph: the backward pass of `gather` is a collective that every rank has to join.
            losses[head] = Tally((states.sum() + keys.sum())[None] * 0.0, torch.zeros(1, device=device))
            continue
        loss = info_nce(query, positives, keys, scale)
        losses[head] = Tally(loss * use, use.float())
    return losses


def _labels(batch: Batch, channels: list[Channel], config: ContrastiveConfig) -> np.ndarray:
    """`(B * T, L + M)` float64: continuous labels, then classes; NaN where not observed."""
    names = [channel.spec.name for channel in channels]
    columns = []
    for name in [*config.continuous, *config.discrete]:
        if name not in names:
            raise ValueError(f"objective.contrastive: no covariate {name!r} among the model's channels {names}")
        c = names.index(name)
        values = batch.covariates[..., channel_slices(channels)[c]].flatten(0, 1).cpu().numpy().astype(np.float64)
        value = values.argmax(axis=1).astype(np.float64) if name in config.discrete else values[:, 0]
        columns.append(np.where(batch.observed[..., c].flatten().cpu().numpy(), value, np.nan))
    return np.stack(columns, axis=1) if columns else np.zeros((batch.valid.numel(), 0))


def _behavior_positives(labels: np.ndarray, facts: np.ndarray, pairs: Pairs, num_continuous: int) -> np.ndarray:
    pool, pool_window = facts[:, :-1], facts[:, -1].view(np.int64) if facts.size else np.zeros(0, np.int64)
    if not pool.shape[1] or not len(pool):
        return np.full(len(labels), -1)
    known, pool_known = np.isfinite(labels).all(axis=1), np.isfinite(pool).all(axis=1)
    if not pool_known.any():
        return np.full(len(labels), -1)
    # A label change seen elsewhere: the difference of two neighboring references, chosen by the anchor's own number.
    steps = np.diff(np.nan_to_num(pool[:, :num_continuous]), axis=0, append=np.nan_to_num(pool[:1, :num_continuous]))
    same = np.append(pool_window[1:] == pool_window[:-1], False)
    shifts = steps[same & pool_known & np.append(pool_known[1:], False)]
    if not len(shifts):
        shifts = np.zeros((1, num_continuous))
    shift = 0.5 * shifts[(pairs.tie * 7919 % 1 * len(shifts)).astype(int)]
    index = nearest_reference(
        np.nan_to_num(labels[:, :num_continuous]),
        labels[:, num_continuous:],
        pairs.anchor_key,
        np.where(pool_known[:, None], np.nan_to_num(pool[:, :num_continuous]), 1e9),
        np.where(pool_known[:, None], pool[:, num_continuous:], -1),
        pool_window,
        shift,
        pairs.tie,
    )
    return np.where(known, index, -1)
