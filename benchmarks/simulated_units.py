"""Units with the regions, rates and counts of real tables, and spikes that follow given latents; no file format.

The tables are the per-unit quality tables of the IBL Brain Wide Map and of Allen Visual Coding; `simulated_ibl` and
`simulated_allen` put what is made here into the files of either.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_recipes.simulated_task import oscillator

# Standard deviation of the loadings of a region's units (Cosmos) on each latent; 0.1 where nothing is said.
COUPLING: dict[str, dict[str, float]] = {
    "Isocortex": {"stimulus": 0.6, "evidence": 0.2, "movement": 0.4, "belief": 0.2},
    "HPF": {"belief": 0.3, "arousal": 0.5},
    "TH": {"stimulus": 0.8, "arousal": 0.3},
    "MB": {"movement": 0.9, "evidence": 0.4},
    "HB": {"movement": 0.7},
    "CNU": {"evidence": 0.6, "movement": 0.5},
    "CB": {"movement": 0.6, "stimulus": 0.2},
    "HY": {"arousal": 0.7},
    "OLF": {"arousal": 0.3},
    "CTXsp": {"belief": 0.3},
}
# Decay (s) and frequency (Hz) of the latent that only a region's units share.
DYNAMICS = {
    "Isocortex": (0.05, 0.0),
    "HPF": (0.5, 7.0),
    "TH": (0.25, 12.0),
    "MB": (0.1, 0.0),
    "HB": (0.1, 4.0),
    "CNU": (0.6, 0.0),
    "CB": (0.02, 0.0),
    "HY": (2.0, 0.0),
    "OLF": (0.3, 3.0),
    "CTXsp": (1.0, 0.0),
}
PRIVATE_COUPLING = 0.5
# The IBL table has 27 clusters with two spikes within a moment, and so with rates of up to 60 kHz.
MOST_HZ = 150.0


def sample_units(table: pd.DataFrame, rng: np.random.Generator, num_units: int | None = None) -> pd.DataFrame:
    """The units of one insertion (or session) of a table, drawn at random.

    Args:
        table: First index level: insertion or session; columns `acronym`, `cosmos_acronym`, `firing_rate` (Hz),
            `label` (0 to 1), `depths` (um), `channels`, `amp_median` (V), `atlas_id`...
        rng: Random generator.
        num_units: Draw this many of its units, without replacement if there are as many; None for all.

    Returns:
        Its rows in the order of depth, with a fresh index.
    """
    groups = table.index.get_level_values(0)
    chosen = table[groups == rng.choice(groups.unique().to_numpy())]
    if num_units is not None:
        chosen = chosen.iloc[rng.choice(len(chosen), num_units, replace=num_units > len(chosen))]
    return chosen.sort_values("depths", kind="stable").reset_index(drop=True)


def simulate_spikes(
    units: pd.DataFrame, latents: Mapping[str, np.ndarray], step_s: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Poisson spike trains whose log rates are random mixtures of latents; the strength of each is the region's.

    Args:
        units: Columns `cosmos_acronym` and `firing_rate` (Hz), the mean rate that each unit gets.
        latents: By name, `(T,)` at steps of `step_s`, about unit size; `stimulus_0`, `stimulus_1`... each couple as
            `stimulus` does.
        step_s: Seconds.
        rng: Random generator.

    Returns:
        Spike times in seconds per unit, sorted; units of very low rate may have none.
    """
    names, stacked = list(latents), np.stack(list(latents.values())).astype(np.float32)
    num_steps = stacked.shape[1]
    regions = units["cosmos_acronym"].astype(str).to_numpy()
    private = {
        r: oscillator(num_steps, *DYNAMICS[r], rng).real.astype(np.float32) for r in np.unique(regions) if r in DYNAMICS
    }
    edges = step_s * np.arange(num_steps + 1)
    trains = []
    for region, rate_hz in zip(regions, np.minimum(units["firing_rate"].to_numpy(float), MOST_HZ)):
        scale = np.array([COUPLING.get(region, {}).get(name.split("_")[0], 0.1) for name in names])
        log_rate = (scale * rng.normal(size=len(names))) @ stacked
        if region in private:
            log_rate = log_rate + PRIVATE_COUPLING * rng.normal() * private[region]
        modulation = np.exp(log_rate.astype(np.float64))
        integral = np.concatenate([[0.0], np.cumsum(modulation)]) * (rate_hz * step_s / modulation.mean())
        trains.append(np.sort(np.interp(rng.uniform(0, integral[-1], rng.poisson(integral[-1])), integral, edges)))
    return trains
