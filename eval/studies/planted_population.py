"""Populations of planted unit types, half of which only the other units can give away; learns nothing.

Every unit's log rate is driven by an Ornstein-Uhlenbeck process of its time constant. A unit alone has one to itself; a
coupled unit mixes its own with one that all coupled units of its time constant share, by weights whose squares add up
to 1. The mixture has the law of either part (both are Gaussian with the same autocovariance), so no statistic of a
single spike train tells coupled from alone, nor how strongly coupled; the correlation with other units does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

TYPES = ("fast, alone", "fast, coupled", "slow, alone", "slow, coupled")


@dataclass(frozen=True)
class PlantedPopulation:
    """One population.

    Attributes:
        counts: `(T, N)` uint8 spikes per bin.
        kind: `(N,)` index into `TYPES`: 2 * slow + coupled.
        shared: `(N,)` share of the variance of a unit's drive that is shared, 0 for units alone.
    """

    counts: np.ndarray
    kind: np.ndarray
    shared: np.ndarray


def planted_population(
    units_per_type: int,
    duration_s: float,
    bin_size_s: float,
    time_constants_s: Sequence[float],
    shared: Sequence[float],
    gain: float,
    rate_hz: float,
    rng: np.random.Generator,
) -> PlantedPopulation:
    """Draw a population of `4 * units_per_type` Poisson units, all of the same mean rate.

    Args:
        units_per_type: Of each of the four types.
        duration_s: Length.
        bin_size_s: Bins of the counts and steps of the processes.
        time_constants_s: Of fast and of slow units.
        shared: Lowest and highest share of the shared process in the variance of a coupled unit's drive; uniform.
        gain: Standard deviation of log rates.
        rate_hz: Mean rate.
        rng: Source of all draws.
    """
    num_bins = round(duration_s / bin_size_s)
    drives, shares = [], []
    for time_constant_s in time_constants_s:
        common = _ornstein_uhlenbeck(num_bins, 1, bin_size_s / time_constant_s, rng)
        for coupled in (False, True):
            own = _ornstein_uhlenbeck(num_bins, units_per_type, bin_size_s / time_constant_s, rng)
            share = rng.uniform(shared[0], shared[1], units_per_type) if coupled else np.zeros(units_per_type)
            drives.append(np.sqrt(share) * common + np.sqrt(1 - share) * own)
            shares.append(share)
    rate = rate_hz * np.exp(gain * np.concatenate(drives, axis=1) - gain**2 / 2)
    counts = np.minimum(rng.poisson(rate * bin_size_s), 255).astype(np.uint8)
    order = rng.permutation(counts.shape[1])
    kind = np.repeat(np.arange(4), units_per_type)
    return PlantedPopulation(counts[:, order], kind[order], np.concatenate(shares)[order])


def _ornstein_uhlenbeck(num_bins: int, number: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary processes `(num_bins, number)` of variance 1; `step` is the bin relative to the time constant."""
    decay = np.exp(-step)
    noise = rng.normal(size=(num_bins, number))
    noise[1:] *= np.sqrt(1 - decay**2)
    return np.asarray(lfilter([1.0], [1.0, -decay], noise, axis=0))
