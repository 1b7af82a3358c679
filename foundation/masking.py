"""Which values of a window are hidden and which are predicted: one pure function per scheme.

Five are those of NEDS (Zhang et al. 2025, arXiv 2504.08201): neural, behavior, within-modality for each side,
cross-modality. `units` and `future` train co-smoothing and forecasting, `spikes_only` what embeddings are made from.
`intra_region` and `inter_region` are those of MtM (Zhang et al. 2024, arXiv 2407.14668), not drawn by default. A
trial-scope value is hidden as a whole: it never shows in another bin of its trial. Nothing touches model or data.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from foundation.channels import Channel
from foundation.sampling import STRUCTURE, Batch, Window


@dataclass
class MaskingConfig:
    """How windows are masked.

    Attributes:
        schemes: Relative frequency of each scheme of `SCHEMES`; a scheme that is absent is never drawn.
        bin_share: Share of bins hidden by the random-bin schemes.
        unit_share: Largest share of units hidden by `units`; the share is uniform from 0.05 to this.
        future_share: Largest share of bins hidden by `future`; uniform from 0.05 to this.
        region_share: Share of the units of a region hidden by `intra_region`.
        trial_share: Probability that a random-bin scheme hides a trial-scope value.
    """

    schemes: dict[str, float] = field(
        default_factory=lambda: {
            "neural": 1.0,
            "behavior": 1.0,
            "spikes_only": 1.0,
            "within_neural": 1.0,
            "within_behavior": 1.0,
            "cross": 1.0,
            "units": 1.0,
            "future": 1.0,
        }
    )
    bin_share: float = 0.3
    unit_share: float = 0.4
    future_share: float = 0.4
    region_share: float = 0.3
    trial_share: float = 0.5

    def __post_init__(self) -> None:
        """Reject unknown schemes, weights that cannot be drawn from, and shares outside 0 to 1."""
        if unknown := sorted(set(self.schemes) - set(SCHEMES)):
            raise ValueError(f"masking.schemes: no scheme {unknown}; there are {sorted(SCHEMES)}")
        if not all(weight >= 0 for weight in self.schemes.values()) or not 0 < sum(self.schemes.values()) < np.inf:
            raise ValueError(f"masking.schemes: weights {self.schemes}, expected non-negative with a positive sum")
        for name in ("bin_share", "unit_share", "future_share", "region_share", "trial_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name} is {getattr(self, name)}, expected a number from 0 to 1")


@dataclass(frozen=True)
class Shape:
    """What a scheme may know of a window.

    Attributes:
        num_bins: T.
        num_units: N.
        channels: Of the model.
        trial: `(T,)` of each bin.
        regions: `(N,)` units of one number are of one region, -1 unknown; None: all unknown.
    """

    num_bins: int
    num_units: int
    channels: list[Channel]
    trial: np.ndarray
    regions: np.ndarray | None = None


@dataclass
class Hidden:
    """What is hidden of one window, and what of that is predicted.

    Attributes:
        bins: `(T,)` bool, spikes of all units hidden.
        units: `(N,)` bool, the unit hidden in all bins.
        covariates: `(T, C)` bool.
        structure: `(T, F)` bool, features of `STRUCTURE` hidden.
        spikes_predicted: Hidden spikes enter the loss.
        covariates_predicted: Hidden covariates enter the loss.
        unscored: `(N,)` bool, hidden units that do not enter the loss.
    """

    bins: np.ndarray
    units: np.ndarray
    covariates: np.ndarray
    structure: np.ndarray
    unscored: np.ndarray
    spikes_predicted: bool = False
    covariates_predicted: bool = False


def _nothing(shape: Shape) -> Hidden:
    return Hidden(
        bins=np.zeros(shape.num_bins, bool),
        units=np.zeros(shape.num_units, bool),
        covariates=np.zeros((shape.num_bins, len(shape.channels)), bool),
        structure=np.zeros((shape.num_bins, len(STRUCTURE)), bool),
        unscored=np.zeros(shape.num_units, bool),
    )


def neural(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """Encoding: all spikes hidden and predicted from everything else."""
    hidden = _nothing(shape)
    hidden.bins[:] = True
    hidden.spikes_predicted = True
    return hidden


def behavior(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """Decoding: everything but spikes and the time since the trial's start hidden; targets predicted."""
    hidden = spikes_only(shape, rng, config)
    hidden.structure[:, [STRUCTURE.index("since_start"), STRUCTURE.index("in_trial")]] = False
    return hidden


def spikes_only(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """Everything but spikes hidden, trial structure and session clock included; targets predicted."""
    hidden = _nothing(shape)
    hidden.covariates[:] = True
    hidden.structure[:] = True
    hidden.covariates_predicted = True
    return hidden


def within_neural(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """Random bins of the whole population hidden and predicted; covariates visible."""
    hidden = _nothing(shape)
    hidden.bins[:] = _some(rng.random(shape.num_bins) < config.bin_share, rng)
    hidden.spikes_predicted = True
    return hidden


def within_behavior(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """Random bins of each behavior hidden, independently, and predicted; spikes visible."""
    hidden = _nothing(shape)
    for c, channel in enumerate(shape.channels):
        if channel.is_target:
            hidden.covariates[:, c] = rng.random(shape.num_bins) < config.bin_share
    _hide_whole_trials(hidden, shape, rng, config)
    hidden.covariates_predicted = True
    return hidden


def cross(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """The same random bins hidden in every modality, and predicted in every modality."""
    hidden = _nothing(shape)
    hidden.bins[:] = _some(rng.random(shape.num_bins) < config.bin_share, rng)
    hidden.covariates[:] = hidden.bins[:, None]
    _hide_whole_trials(hidden, shape, rng, config)
    hidden.spikes_predicted = hidden.covariates_predicted = True
    return hidden


def units(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """Co-smoothing: a random share of the units hidden for the whole window and predicted."""
    hidden = _nothing(shape)
    share = rng.uniform(0.05, max(0.05, config.unit_share))
    hidden.units[:] = _some(rng.random(shape.num_units) < share, rng)
    hidden.spikes_predicted = True
    return hidden


def future(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """Forecasting: no spike and no stimulus or behavior of the last bins is visible; their spikes are predicted.

    What the animal does in the trial (trial-scope behavior) is hidden too; what was known before it is not.
    """
    hidden = _nothing(shape)
    share = rng.uniform(0.05, max(0.05, config.future_share))
    hide_future(hidden, shape, max(1, round(share * shape.num_bins)))
    hidden.spikes_predicted = True
    return hidden


def intra_region(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """All units outside a random region hidden, and some inside, which alone are predicted; `units` without regions."""
    found = _regions(shape, least=2)
    if not len(found):
        return units(shape, rng, config)
    hidden = _nothing(shape)
    inside = np.flatnonzero(shape.regions == rng.choice(found))
    hidden.units[:] = hidden.unscored[:] = True
    chosen = _some(rng.random(len(inside)) < config.region_share, rng)
    hidden.units[inside], hidden.unscored[inside] = chosen, False
    hidden.spikes_predicted = True
    return hidden


def inter_region(shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> Hidden:
    """All units of a random region hidden and predicted from the others; `units` where there is no other."""
    found = _regions(shape, least=1)
    if not len(found) or (shape.regions == found[0]).all():
        return units(shape, rng, config)
    hidden = _nothing(shape)
    hidden.units[:] = shape.regions == rng.choice(found)
    hidden.spikes_predicted = True
    return hidden


def _regions(shape: Shape, least: int) -> np.ndarray:
    """Known regions with at least so many units."""
    if shape.regions is None:
        return np.zeros(0, np.int64)
    numbers, counts = np.unique(shape.regions[shape.regions >= 0], return_counts=True)
    return numbers[counts >= least]


def hide_future(hidden: Hidden, shape: Shape, num_bins: int) -> None:
    """Hide the last `num_bins` bins of a window, and trial-scope behavior, in place."""
    hidden.bins[-num_bins:] = True
    hidden.covariates[-num_bins:] = True
    for c, channel in enumerate(shape.channels):
        if channel.spec.scope == "trial":
            hidden.covariates[:, c] = channel.spec.role == "behavior"


SCHEMES: dict[str, Callable[[Shape, np.random.Generator, MaskingConfig], Hidden]] = {
    "neural": neural,
    "behavior": behavior,
    "spikes_only": spikes_only,
    "within_neural": within_neural,
    "within_behavior": within_behavior,
    "cross": cross,
    "units": units,
    "future": future,
    "intra_region": intra_region,
    "inter_region": inter_region,
}


def _some(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask, with one random entry set when none is: a scheme without a target would be wasted work."""
    if len(mask) and not mask.any():
        mask[rng.integers(len(mask))] = True
    return mask


def _hide_whole_trials(hidden: Hidden, shape: Shape, rng: np.random.Generator, config: MaskingConfig) -> None:
    """Replace bin-wise hiding of trial-scope channels by a coin per trial."""
    for c, channel in enumerate(shape.channels):
        if channel.spec.scope == "trial":
            coins = rng.random(int(shape.trial.max(initial=-1)) + 2) < config.trial_share
            candidate = channel.is_target or hidden.bins.any()
            hidden.covariates[:, c] = coins[shape.trial + 1] & (shape.trial >= 0) & candidate


@dataclass
class Masks:
    """The hidden values of a batch, as tensors (names and shapes as in `Batch`).

    Attributes:
        spikes: S tensors `(b_s, T, N_s)` bool, True where a count is hidden.
        bins: `(B, T)` bool, True where the whole population is hidden.
        covariates: `(B, T, C)` bool.
        structure: `(B, T, F)` bool.
        unscored: S tensors `(b_s, N_s)` bool, units whose hidden counts do not enter the loss.
        spikes_predicted: `(B,)` bool, hidden spikes of the window enter the loss.
        covariates_predicted: `(B,)` bool.
        schemes: Name of each window's scheme.
    """

    spikes: list[torch.Tensor]
    unscored: list[torch.Tensor]
    bins: torch.Tensor
    covariates: torch.Tensor
    structure: torch.Tensor
    spikes_predicted: torch.Tensor
    covariates_predicted: torch.Tensor
    schemes: list[str]

    def to(self, device: torch.device) -> Masks:
        """The masks on another device."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()}
        for name in ("spikes", "unscored"):
            moved[name] = [tensor.to(device) for tensor in getattr(self, name)]
        return Masks(**moved)


def window_shapes(batch: Batch, channels: list[Channel]) -> list[Shape]:
    """The shape of each window of a batch, in order."""
    trial = batch.trial.cpu().numpy()
    regions = [numbers for numbers, size in zip(batch.regions, batch.sizes) for _ in range(size)]
    return [
        Shape(window.num_bins, len(regions[i]), channels, trial[i, : window.num_bins], regions[i])
        for i, window in enumerate(batch.windows)
    ]


def collate(batch: Batch, hidden: list[Hidden], schemes: list[str]) -> Masks:
    """Stack what is hidden of each window; bins past a window's end are neither hidden nor visible."""
    num, longest = batch.valid.shape
    bins = np.zeros((num, longest), bool)
    covariates = np.zeros((num, longest, batch.observed.shape[2]), bool)
    structure = np.zeros((num, longest, len(STRUCTURE)), bool)
    for i, h in enumerate(hidden):
        bins[i, : len(h.bins)], covariates[i, : len(h.bins)] = h.bins, h.covariates
        structure[i, : len(h.bins)] = h.structure
    spikes, unscored, first = [], [], 0
    for size in batch.sizes:
        unscored.append(torch.from_numpy(np.stack([h.unscored for h in hidden[first : first + size]])))
        units = np.stack([h.units for h in hidden[first : first + size]])
        whole = torch.from_numpy(bins[first : first + size, :, None] | units[:, None, :])
        spikes.append(whole & batch.valid[first : first + size, :, None].cpu())
        first += size
    return Masks(
        spikes=spikes,
        unscored=unscored,
        bins=torch.from_numpy(bins),
        covariates=torch.from_numpy(covariates),
        structure=torch.from_numpy(structure),
        spikes_predicted=torch.tensor([h.spikes_predicted for h in hidden]),
        covariates_predicted=torch.tensor([h.covariates_predicted for h in hidden]),
        schemes=schemes,
    )


def draw_masks(
    batch: Batch, channels: list[Channel], config: MaskingConfig, seed: tuple[int, ...], scheme: str | None = None
) -> Masks:
    """Draw a scheme and its mask for every window.

    Args:
        batch: The windows.
        channels: Of the model.
        config: Frequencies and shares.
        seed: With a window's stretch, and how many windows of that came before, it determines the window's mask,
            whatever other stretches are in the batch or on this rank.
        scheme: Use this scheme for all windows instead of drawing one.
    """
    names = list(config.schemes)
    weights = np.array([config.schemes[name] for name in names])
    hidden, chosen = [], []
    seen: dict[tuple[str, int], int] = {}
    for window, shape in zip(batch.windows, window_shapes(batch, channels)):
        key = (window.recording_id, window.row)
        seen[key] = seen.get(key, -1) + 1
        rng = np.random.default_rng([*seed, *_identity(window), seen[key]])
        name = scheme or names[rng.choice(len(names), p=weights / weights.sum())]
        hidden.append(SCHEMES[name](shape, rng, config))
        chosen.append(name)
    return collate(batch, hidden, chosen)


def _identity(window: Window) -> tuple[int, int]:
    return zlib.crc32(window.recording_id.encode()), window.row
