"""A sequential variational autoencoder of the spikes of one session, in the manner of LFADS.

After Pandarinath et al. 2018 (Nature Methods 15:805): a bidirectional GRU reads a trial; a Gaussian posterior gives the
initial state of a second GRU, the generator, and small inputs to it in every bin; its factors make Poisson rates.
Trained as in Keshtkaran & Pandarinath 2019 (NeurIPS 32, coordinated dropout): the likelihood is that of counts which
the encoder has not seen. Which counts may be read, and which are asked for, is for the caller to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from eval.early_stopping import fit_early


@dataclass(frozen=True)
class VaeConfig:
    """Sizes and training; the defaults were chosen on validation trials of luo2025's rats T176 and T223.

    Attributes:
        hidden: Width of each direction of the encoder, and of the generator.
        initial: Numbers of the latent initial condition.
        inputs: Numbers of the latent input per bin; 0: the generator runs on its own.
        factors: Between generator and rates.
        dropout: Of the generator's states on the way to the factors.
        hidden_share: Of the readable counts that a training step hides from the encoder and asks for.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        batch_size: Trials per step.
        warm_up: Steps until the divergence from the prior has its full weight.
        max_epochs: At most.
        patience: Epochs without a better validation likelihood.
    """

    hidden: int = 64
    initial: int = 32
    inputs: int = 4
    factors: int = 12
    dropout: float = 0.3
    hidden_share: float = 0.3
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    batch_size: int = 32
    warm_up: int = 200
    max_epochs: int = 150
    patience: int = 15


@dataclass(frozen=True)
class PaddedTrials:
    """N trials of up to T bins and U units; beyond a trial's end counts are 0.

    Attributes:
        counts: `(N, T, U)`.
        num_bins: `(N,)`.
        known_bins: `(N,)` how many bins of each the encoder may read, >= 1.
    """

    counts: np.ndarray
    num_bins: np.ndarray
    known_bins: np.ndarray


class SequentialVae(nn.Module):
    """The networks; training is in `fit_sequential_vae`."""

    def __init__(self, num_units: int, config: VaeConfig, generator: torch.Generator) -> None:
        """Draw the weights; at first no log-rate is far from 0.

        Args:
            num_units: U.
            config: Sizes.
            generator: Of weights, dropout and samples.
        """
        super().__init__()
        self.config, self.random = config, generator
        with torch.random.fork_rng(devices=[]):  # what the layers draw at first is drawn anew below
            self.encoder = nn.GRU(num_units, config.hidden, batch_first=True, bidirectional=True)
            self.initial = nn.Linear(2 * config.hidden, 2 * config.initial)
            self.inputs = nn.Linear(2 * config.hidden, 2 * config.inputs) if config.inputs else None
            self.start = nn.Linear(config.initial, config.hidden)
            # A GRU needs an input of one number at least.
            self.generator = nn.GRU(max(config.inputs, 1), config.hidden, batch_first=True)
            self.factors = nn.Linear(config.hidden, config.factors, bias=False)
            self.read_out = nn.Linear(config.factors, num_units)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]), generator=generator)
            else:
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.read_out.weight *= 0.1

    def forward(self, counts: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors `(N, T, factors)` and the divergence of the posterior from the standard normal prior, a sum.

        Posteriors are sampled in training; in evaluation their means are taken.

        Args:
            counts: `(N, T, U)`, 0 where hidden.
            known: `(N,)` bins to read.
        """
        packed = pack_padded_sequence(counts, known, batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)
        states = pad_packed_sequence(states, batch_first=True, total_length=counts.shape[1])[0]
        initial, divergence = self._sample(self.initial(torch.cat([last[0], last[1]], dim=1)))
        inputs = counts.new_zeros(*counts.shape[:2], 1)
        if self.inputs is not None:
            # Where nothing is known the prior's mean, 0, is the input.
            inside = (torch.arange(counts.shape[1]) < known[:, None])[:, :, None]
            inputs, more = self._sample(self.inputs(states), inside)
            divergence = divergence + more
        hidden = self.generator(inputs, torch.tanh(self.start(initial))[None])[0]
        if self.training:
            kept = torch.rand(hidden.shape, generator=self.random) >= self.config.dropout
            hidden = hidden * kept / (1 - self.config.dropout)
        return self.factors(hidden), divergence

    def _sample(
        self, parameters: torch.Tensor, inside: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = parameters.chunk(2, dim=-1)
        log_variance = log_variance.clamp(-8, 4)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        value = mean
        if self.training:
            value = mean + torch.randn(mean.shape, generator=self.random) * (log_variance / 2).exp()
        if inside is not None:
            value, divergence = value * inside, divergence * inside
        return value, divergence.sum()


def fit_sequential_vae(
    trials: PaddedTrials,
    readable: np.ndarray,
    asked: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    *,
    seed: int,
    config: VaeConfig | None = None,
) -> list[np.ndarray]:
    """Factors `(N, T, factors)` for each of K questions, of one network that is trained on all at once.

    Each batch is of one question, drawn at random. Log-rates are about the logs of the train means.

    Args:
        trials: Of all roles; what is in test trials has no part in training.
        readable: `(K, U)` bool: units the encoder may read.
        asked: `(K, U)` bool: units whose likelihood on validation trials decides when to stop; over the bins that are
            not known, or over all where all are known.
        train: Indices of trials.
        val: Likewise.
        seed: Of everything random.
        config: Sizes and training.
    """
    config = config or VaeConfig()
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    counts = torch.as_tensor(trials.counts, dtype=torch.float32)
    units, asked_units = torch.as_tensor(readable), torch.as_tensor(asked)
    num_bins, known = torch.as_tensor(trials.num_bins), torch.as_tensor(trials.known_bins)
    bins = torch.arange(counts.shape[1])
    inside, shown = ((bins < length[:, None])[:, :, None] for length in (num_bins, known))
    mean = counts[train].sum(dim=(0, 1)) / num_bins[train].sum()
    # Read as they are but for the scale: a unit of 1 Hz and one of 50 Hz weigh about the same.
    offset, scale = mean.clamp(min=1e-4).log(), (mean + 0.01).rsqrt()
    network = SequentialVae(counts.shape[2], config, generator)
    keep = 1 - config.hidden_share

    def loss(batch: np.ndarray, step: int) -> torch.Tensor:
        question = int(rng.integers(len(units)))
        readable_here = (shown[batch] & units[question]).expand(counts[batch].shape)
        seen = readable_here & (torch.rand(readable_here.shape, generator=generator) < keep)
        factors, divergence = network(counts[batch] * scale * seen / keep, known[batch])
        log_rate = offset + network.read_out(factors)
        unseen = inside[batch] & ~seen
        error = (log_rate.exp() - counts[batch] * log_rate)[unseen].sum()
        # As if all counts had been asked for, so that the divergence keeps its weight.
        whole = inside[batch].sum() * counts.shape[2]
        return error / unseen.sum() + min(1.0, step / config.warm_up) * divergence / whole

    def factors_of(question: int, some: np.ndarray) -> torch.Tensor:
        seen = shown[some] & units[question]
        return network(counts[some] * scale * seen, known[some])[0]

    def validate() -> float:
        total = 0.0
        later = inside[val] & ~shown[val]
        wanted = later if later.any() else inside[val]
        for question in range(len(units)):
            log_rate, y = offset + network.read_out(factors_of(question, val)), counts[val]
            total += float(((log_rate.exp() - y * log_rate) * (wanted & asked_units[question])).sum())
        return total

    fit_early(
        network,
        loss,
        validate,
        np.asarray(train),
        rng,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_epochs=config.max_epochs,
        patience=config.patience,
    )

    with torch.no_grad():
        return [factors_of(question, np.arange(len(counts))).double().numpy() for question in range(len(units))]
