"""Poisson neurons driven by a known 2-D latent behind a circular label: the generator of CEBRA's synthetic benchmark.

The equations are those of Zhou & Wei 2020 (pi-VAE, arXiv 2011.04798), which Schneider, Lee & Mathis 2023 (CEBRA, Nature
617:360) use; written anew, and seeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

NUM_BLOCKS = 4


@dataclass(frozen=True)
class Simulation:
    """Synthetic neurons with all that is behind them.

    Attributes:
        label: `(T,)` radians, in [0, 2 pi).
        latent: `(T, 2)`.
        rates: `(T, N)` expected counts.
        counts: `(T, N)` float32.
    """

    label: np.ndarray
    latent: np.ndarray
    rates: np.ndarray
    counts: np.ndarray


def simulate(num_samples: int, num_neurons: int, seed: int) -> Simulation:
    """Draw labels, latents, a mixing and spikes.

    u ~ U[0, 2 pi);  z | u ~ N((u, 2 sin u), diag(.6 - .3 |sin u|, .3 |sin u|));
    rates = exp(2.2 tanh f(z, 0, ..., 0));  x ~ Poisson(rates), with f the random bijection `mixing`.

    Args:
        num_samples: T.
        num_neurons: N.
        seed: Of everything.

    Raises:
        ValueError: N is odd or below 4.
    """
    rng = np.random.default_rng(seed)
    label = rng.uniform(0, 2 * np.pi, num_samples)
    mean, variance = moments(label)
    latent = mean + np.sqrt(variance) * rng.normal(size=mean.shape)
    rates = np.exp(2.2 * np.tanh(mixing(latent, num_neurons, rng)))
    return Simulation(label, latent, rates, rng.poisson(rates).astype(np.float32))


def moments(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance, both `(T, 2)`, of the latent given labels `(T,)`."""
    wave = np.abs(np.sin(label))
    return np.stack([label, 2 * np.sin(label)], axis=1), np.stack([0.6 - 0.3 * wave, 0.3 * wave], axis=1)


def mixing(latent: np.ndarray, num_neurons: int, rng: np.random.Generator) -> np.ndarray:
    """A random injection of latents `(T, 2)` into `(T, N)`: zeros are appended and a RealNVP bijection is applied.

    Four blocks of two affine couplings (Dinh, Sohl-Dickstein & Bengio 2017), (a, b) -> (b exp(.1 tanh s(a)) + t(a), a),
    where (s, t) is a random ReLU network of two layers of N / 4 units, weights uniform within
    sqrt(6 / (fan in + fan out)), no biases; a random permutation stands between blocks.

    Raises:
        ValueError: N is odd or below 4.
    """
    if num_neurons % 2 or num_neurons < 4:
        raise ValueError(f"num_neurons is {num_neurons}, expected an even number from 4: couplings act on halves")
    half = num_neurons // 2
    widths = [half, half // 2, half // 2, num_neurons]
    x = np.concatenate([latent, np.zeros((len(latent), num_neurons - latent.shape[1]))], axis=1)
    for block in range(NUM_BLOCKS):
        for _ in range(2):
            kept, moved = x[:, :half], x[:, half:]
            hidden = kept
            for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
                bound = np.sqrt(6 / (fan_in + fan_out))
                hidden = hidden @ rng.uniform(-bound, bound, (fan_in, fan_out))
                hidden = np.maximum(hidden, 0) if layer < 2 else hidden
            moved = moved * np.exp(0.1 * np.tanh(hidden[:, :half])) + hidden[:, half:]
            x = np.concatenate([moved, kept], axis=1)
        if block < NUM_BLOCKS - 1:
            x = x[:, rng.permutation(num_neurons)]
    return x
