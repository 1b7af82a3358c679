"""Unit embeddings learned from activity alone: training, embedding and saving of a `UnitEncoder` by neuron identity.

Populations are arrays of counts; no region, position or label is asked for, and the order of units is drawn anew for
every view. What is kept is the state with the lowest loss on held-out time. Loss: `foundation.objectives`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import nn

from foundation.objectives.neuron_identity import neuron_identity_losses
from foundation.optim import OptimConfig, rate_factor
from foundation.strict_yaml import from_dict
from foundation.tensor_file import read_tensors, write_tensors
from foundation.unit_encoder import UnitEncoder, UnitEncoderConfig
from foundation.unit_views import ViewConfig, Views, checked_counts, draw_views

_TRAIN, _VALIDATE = 0, 1
_FORMAT = "foundation.unit_identity/1"


@dataclass
class UnitIdentityConfig:
    """Views, training and shape.

    Attributes:
        encoder: Shape of the network.
        views: Windows and subsets of units; `window_bins` a multiple of `encoder.patch_bins`.
        populations: Pairs of views in a step, each of another population while there are any.
        steps: Updates.
        temperature: Of the loss.
        held_out: Share of each population's time, its end, in which the loss chooses the state to keep.
        validate_every: Steps between two looks at held-out time.
        validation_draws: Pairs of views per population in each look, the same every time.
        optim: Rate, schedule, weight decay and clipping; `row_lr` is not used.
        seed: Of weights, views and dropout.
    """

    encoder: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    populations: int = 4
    steps: int = 1000
    temperature: float = 0.2
    held_out: float = 0.2
    validate_every: int = 100
    validation_draws: int = 2
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject what cannot be drawn."""
        if self.views.window_bins % self.encoder.patch_bins:
            raise ValueError(
                f"views.window_bins is {self.views.window_bins}, expected a multiple of encoder.patch_bins "
                f"({self.encoder.patch_bins})"
            )
        if not 0 < self.held_out < 1 or self.temperature <= 0:
            raise ValueError(
                f"held_out {self.held_out}, temperature {self.temperature}; expected a share between 0 and 1, and a "
                "number above 0"
            )
        for name in ("populations", "steps", "validate_every", "validation_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")


class UnitIdentity:
    """Learns one embedding per unit such that a unit is told from the others of its population at another time.

    Attributes:
        config: As given.
        encoder: The network.
        history: After `fit`, per look at held-out time: `(step, training loss since the last look, held-out loss)`.
    """

    def __init__(self, config: UnitIdentityConfig | None = None) -> None:
        self.config = config or UnitIdentityConfig()
        self._begin()

    def _begin(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.encoder = UnitEncoder(self.config.encoder).eval()
        self.history: list[tuple[int, float, float]] = []

    def fit(self, populations: Sequence[np.ndarray]) -> UnitIdentity:
        """Train anew on populations, each from its own first to its own last bin.

        A population whose part for training (or for held-out time) is shorter than two windows has no share in it.

        Args:
            populations: Counts `(T, N)` each, all of one bin size; T and N may differ.

        Raises:
            ValueError: Arrays that are no counts, or none that holds two views of training and of held-out time.
        """
        config, least = self.config, 2 * self.config.views.window_bins
        counts = [checked_counts(population) for population in populations]
        parts = [np.split(c, [round(len(c) * (1 - config.held_out))]) for c in counts]
        train, held_out = ([part[k] for part in parts if len(part[k]) >= least] for k in (_TRAIN, _VALIDATE))
        looks = [
            draw_views(part, config.views, np.random.default_rng([config.seed, _VALIDATE, k, draw]))
            for k, part in enumerate(held_out)
            for draw in range(config.validation_draws)
        ]
        looks = [views for views in looks if views.comparable]
        if not train or not looks:
            longest = max((len(c) for c in counts), default=0)
            raise ValueError(
                f"the longest of {len(counts)} populations has {longest} bins; its training time and its held-out time "
                f"({config.held_out:g}) must hold two views of {config.views.window_bins} bins, with spikes of two "
                "units; give longer recordings, or fewer views.window_bins"
            )
        self._begin()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._train(train, looks)
        return self

    def transform(self, population: np.ndarray) -> np.ndarray:
        """Embeddings `(N, width)` float32 of the units of a population: means over the windows in which a unit fires.

        Windows follow one another, and the last ends with the recording. All units of a window are seen together.

        Args:
            population: Counts `(T, N)` of the bin size trained on.

        Raises:
            ValueError: No counts, fewer bins than a window, or a unit without a spike.
        """
        counts, width = checked_counts(population), self.config.views.window_bins
        if len(counts) < width:
            raise ValueError(f"{len(counts)} bins, expected at least one window of {width}")
        if silent := np.flatnonzero(~counts.any(axis=0)).tolist():
            raise ValueError(f"units {silent[:5]} ({len(silent)} in all) have no spike; leave them out")
        total, number = np.zeros((counts.shape[1], self.config.encoder.width)), np.zeros(counts.shape[1])
        for start in [*range(0, len(counts) - width, width), len(counts) - width]:
            window = counts[start : start + width].T
            active = window.any(axis=1)
            if active.any():
                with torch.no_grad():
                    found = self.encoder(torch.from_numpy(window[active].astype(np.float32)), [int(active.sum())])
                total[active] += found.numpy()
                number += active
        return (total / number[:, None]).astype(np.float32)

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings `(N, width)` of one population to the unit-norm vectors by which its units are recognized.

        Returns:
            `(N, identity_dimension)` float32.
        """
        with torch.no_grad():
            given = torch.from_numpy(np.asarray(embeddings, dtype=np.float32))
            return self.encoder.project(given, [len(given)]).numpy()

    def save(self, path: str | Path) -> None:
        """Write weights and config as one safetensors file, whole or not at all."""
        about = {"config": asdict(self.config), "history": self.history}
        write_tensors(Path(path), _FORMAT, about, self.encoder.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> UnitIdentity:
        """Read what `save` wrote.

        Raises:
            ValueError: No such file, or of something else.
        """
        document, tensors = read_tensors(Path(path), _FORMAT)
        try:
            config = from_dict(UnitIdentityConfig, document["config"])
            # Shapes first, without memory: a damaged header may ask for any size.
            if config.encoder.temporal_blocks + 2 * config.encoder.joint_blocks > len(tensors):
                raise ValueError("more blocks than there are tensors in the file")
            model = cls.__new__(cls)
            model.config = config
            with torch.device("meta"):
                model.encoder = UnitEncoder(config.encoder).eval()
            model.encoder.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
            model.history = [(int(step), float(train), float(held)) for step, train, held in document["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: not what UnitIdentity.save writes ({what}); save it again") from None
        return model

    def _train(self, train: list[np.ndarray], looks: list[Views]) -> None:
        config, encoder = self.config, self.encoder
        optimizer = _optimizer(encoder, config.optim)
        best, kept, losses = np.inf, encoder.state_dict(), []
        for step in range(config.steps):
            rng = np.random.default_rng([config.seed, _TRAIN, step])
            chosen = np.resize(rng.permutation(len(train)), config.populations)
            views = [draw_views(train[k], config.views, rng) for k in chosen]
            if views := [pair for pair in views if pair.comparable]:
                for group in optimizer.param_groups:
                    group["lr"] = config.optim.lr * rate_factor(step, config.steps, config.optim)
                encoder.train()
                loss = self._losses(views).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(encoder.parameters(), config.optim.clip)
                optimizer.step()
                losses.append(loss.item())
            if (step + 1) % config.validate_every and step + 1 < config.steps:
                continue
            encoder.eval()
            with torch.no_grad():
                # Pair by pair, so that memory does not grow with the number of populations.
                held_out = torch.cat([self._losses([pair]) for pair in looks]).mean().item()
            self.history.append((step + 1, float(np.mean(losses)) if losses else np.nan, held_out))
            losses = []
            if held_out < best:
                best, kept = held_out, {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        encoder.load_state_dict(kept)

    def _losses(self, views: list[Views]) -> torch.Tensor:
        """`(M,)` losses of the matched units of all pairs of views."""
        halves = [half for view in views for half in view.counts]
        sizes = [len(half) for half in halves]
        embeddings = self.encoder(torch.from_numpy(np.concatenate(halves)), sizes)
        vectors = self.encoder.project(embeddings, sizes).split(sizes)
        temperature = self.config.temperature
        return torch.cat(
            [
                neuron_identity_losses(first, second, torch.from_numpy(view.pairs), temperature)
                for first, second, view in zip(vectors[::2], vectors[1::2], views)
            ]
        )


def recognized(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which units are their own nearest neighbor at another time, `(N,)`; the mean's chance is 1 / N.

    By Euclidean distance, which for unit-norm vectors is the order of cosines. Mean of both directions; a tie among k
    counts 1 / k.

    Args:
        first: `(N, D)` vectors of the units at one time.
        second: `(N, D)` of the same units at another.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise ValueError(f"vectors {first.shape} and {second.shape}, expected the same units twice, (N, D)")
    distance = cdist(first.astype(np.float64), second.astype(np.float64))
    hits = np.zeros(len(first))
    for matrix in (distance, distance.T):
        nearest = matrix <= matrix.min(axis=1, keepdims=True) + 1e-12
        hits += np.diagonal(nearest) / nearest.sum(axis=1) / 2
    return hits


def _optimizer(encoder: UnitEncoder, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; only matrices decay."""
    parameters = list(encoder.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim == 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim != 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))
