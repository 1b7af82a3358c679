"""A session of whole trials as padded tensors, and the encoder and decoder that belong to it; no training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Trials:
    """One session, trial by trial, as given.

    Attributes:
        activity: Trials `(T_i, N)`, float64; a row of NaN is a missing bin.
        labels: Trials `(T_i, L)`, float64, without NaN; None if there are none.
        is_array: Whether the session was given as one array.
    """

    activity: list[np.ndarray]
    labels: list[np.ndarray] | None
    is_array: bool

    @classmethod
    def of(cls, x: Any, y: Any | None, trial: Any | None, name: str) -> Trials:
        """Check a session, and cut it into trials.

        Args:
            x: A list of trials `(T, N)`, or one `(T, N)`.
            y: Labels in the same form, `(T, L)` or `(T,)`; None for none.
            trial: `(T,)` integers, if `x` is one array; default one trial. A trial is a run of one number.
            name: Of the session, for errors.

        Raises:
            ValueError: Lengths or widths that do not fit, NaN labels, bins of which a part is NaN, or nothing observed.
        """
        if isinstance(x, Sequence):
            if trial is not None:
                raise ValueError(f"{name}: a list of trials and trial numbers; expected one of them, so drop `trial`")
            if y is not None and (not isinstance(y, Sequence) or len(y) != len(x)):
                raise ValueError(f"{name}: {len(x)} trials of activity but labels are not a list of as many arrays")
            activity = [np.asarray(part, dtype=np.float64) for part in x]
            labels = None if y is None else [_columns(part) for part in y]
        else:
            whole = np.asarray(x, dtype=np.float64)
            number = np.zeros(len(whole), dtype=np.int64) if trial is None else np.asarray(trial)
            if number.shape != whole.shape[:1] or (y is not None and len(y) != len(whole)):
                raise ValueError(f"{name}: activity {whole.shape} with other lengths of labels or trial numbers")
            edges = np.flatnonzero(np.diff(number)) + 1
            activity = np.split(whole, edges)
            labels = None if y is None else np.split(_columns(y), edges)
        shapes = [part.shape for part in activity]
        if not shapes or any(len(s) != 2 or not s[0] or s[1] != shapes[0][-1] for s in shapes):
            raise ValueError(f"{name}: trials of shapes {shapes[:4]}, expected at least one, all (T, N) with one N")
        if labels is not None:
            found = [part.shape for part in labels]
            if any(a[0] != b[0] or b[1] != found[0][1] for a, b in zip(shapes, found)):
                raise ValueError(
                    f"{name}: labels of shapes {found[:4]} for trials of {shapes[:4]}; expected (T, L) each"
                )
            if bad := sum(int((~np.isfinite(part)).any(axis=1).sum()) for part in labels):
                raise ValueError(f"{name}: {bad} bins have NaN or infinite labels; leave these bins or trials out")
        missing = [np.isnan(part) for part in activity]
        if any(
            (gap.any(axis=1) != gap.all(axis=1)).any() or np.isinf(part).any() for gap, part in zip(missing, activity)
        ):
            raise ValueError(
                f"{name}: bins in which only some neurons are NaN, or infinite; a missing bin is NaN in all"
            )
        if all(gap.all() for gap in missing):
            raise ValueError(f"{name}: no bin is observed")
        return cls(activity, labels, not isinstance(x, Sequence))


@dataclass(frozen=True)
class Padded:
    """Trials of one session as tensors, 0 where nothing was observed.

    Attributes:
        activity: `(B, T, N)` z-scores.
        mask: `(B, T)` where a bin was observed.
        labels: `(B, T, L)` z-scores; L may be 0.
    """

    activity: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def take(self, index: torch.Tensor) -> Padded:
        """Some of the trials."""
        return Padded(self.activity[index], self.mask[index], self.labels[index])


class SessionNetworks(nn.Module):
    """Encoder `(..., N)` to `(..., d)` and decoder back, of one session, and the z-scoring of its activity."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, num_neurons: int, hidden: tuple[int, ...], dimension: int, generator: torch.Generator) -> None:
        """Xavier weights, zero biases, leaky ReLU between (CANDY).

        Args:
            num_neurons: N.
            hidden: Widths of the encoder between N and d; the decoder has them in reverse.
            dimension: d.
            generator: Of the weights.
        """
        super().__init__()
        widths = [num_neurons, *hidden, dimension]
        self.encoder = perceptron(widths, generator)
        self.decoder = perceptron(widths[::-1], generator)
        self.register_buffer("mean", torch.zeros(num_neurons))
        self.register_buffer("scale", torch.ones(num_neurons))

    @classmethod
    def of(cls, trials: Trials, hidden: tuple[int, ...], dimension: int, generator: torch.Generator) -> SessionNetworks:
        """Untrained networks with the z-scoring of some trials."""
        seen = np.concatenate(trials.activity)
        seen = seen[~np.isnan(seen[:, 0])]
        networks = cls(seen.shape[1], hidden, dimension, generator)
        networks.mean.copy_(torch.from_numpy(seen.mean(axis=0)))
        networks.scale.copy_(torch.from_numpy(positive(seen.std(axis=0))))
        return networks

    def pad(self, trials: Trials, label_mean: np.ndarray, label_scale: np.ndarray) -> Padded:
        """Tensors of trials, z-scored.

        Args:
            trials: Of this session's neurons.
            label_mean: `(L,)`.
            label_scale: `(L,)`.
        """
        parts = trials.activity
        shape = len(parts), max(len(part) for part in parts)
        activity = torch.zeros(*shape, len(self.mean))
        mask = torch.zeros(shape, dtype=torch.bool)
        labels = torch.zeros(*shape, len(label_mean) if trials.labels is not None else 0)
        for b, part in enumerate(parts):
            observed = torch.from_numpy(~np.isnan(part[:, 0]))
            values = (torch.from_numpy(part).float() - self.mean) / self.scale
            activity[b, : len(part)] = torch.where(observed[:, None], values, 0.0)
            mask[b, : len(part)] = observed
            if trials.labels is not None:
                labels[b, : len(part)] = torch.from_numpy((trials.labels[b] - label_mean) / label_scale)
        return Padded(activity, mask, labels)


def perceptron(widths: list[int], generator: torch.Generator) -> nn.Sequential:
    """Linear maps with leaky ReLU between them, Xavier weights and zero biases.

    Args:
        widths: Of the input, the hidden layers and the output.
        generator: Of the weights.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1])


def positive(scale: np.ndarray) -> np.ndarray:
    """Standard deviations to divide by: 1 for what does not vary."""
    return np.where(scale > 1e-8, scale, 1.0)


def _columns(labels: Any) -> np.ndarray:
    array = np.asarray(labels, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array
