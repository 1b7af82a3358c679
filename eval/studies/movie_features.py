"""Features of the frames of a movie: the user's own from a file, or a documented stand-in; runs no vision model.

The brief labels frames by DINO features (Caron et al. 2021). Their weights are not part of this package and the movie
is not in the NWB files, so features come as `(F, D)` in a `.npy` file; without one, smooth random ones stand in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

STAND_IN_WIDTH = 768
# A Gaussian process over frames: most of its variance changes within half a second, so that some 32 components hold
# most of it as in the brief, and a part of it within 0.1 s. Widths of the filters in frames.
_SLOW, _FAST, _FAST_SHARE = 12.0, 3.0, 0.1


@dataclass(frozen=True)
class MovieFeatures:
    """Features of a movie.

    Attributes:
        values: `(F, D)` float64, centered and divided by one number so that the mean variance of a column is 1.
        source: What they are, in words, for the findings.
    """

    values: np.ndarray
    source: str

    def components(self, count: int) -> tuple[np.ndarray, float]:
        """The first principal components `(F, count)`, scaled to a mean variance of 1, and their share of variance."""
        left, size, _ = np.linalg.svd(self.values, full_matrices=False)
        count = min(count, len(size))
        scores = left[:, :count] * size[:count]
        return scores / np.sqrt(scores.var(axis=0).mean()), float((size[:count] ** 2).sum() / (size**2).sum())


def movie_features(path: str | None, num_frames: int, seed: int) -> MovieFeatures:
    """Features from a file, or the stand-in.

    Args:
        path: `.npy` of shape `(num_frames, D)`; None for the stand-in.
        num_frames: F frames of the movie.
        seed: Of the stand-in; another seed is another movie.

    Raises:
        ValueError: No such file, another shape, or values that are not finite.
    """
    if path is None:
        return MovieFeatures(
            _scaled(stand_in(num_frames, seed)),
            f"no DINO: a random smooth stand-in ({STAND_IN_WIDTH}-d Gaussian process over frames, seed {seed})",
        )
    if not Path(path).is_file():
        raise ValueError(f"features={path}: no such file, expected a .npy of ({num_frames}, D) features of the frames")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"features={path}: not a .npy array of numbers ({error})") from None
    if values.ndim != 2 or len(values) != num_frames or values.dtype.kind not in "fiu":
        raise ValueError(f"features={path}: got {values.dtype} {values.shape}, expected real numbers ({num_frames}, D)")
    if not np.isfinite(values).all():
        raise ValueError(f"features={path}: {int((~np.isfinite(values)).sum())} values are not finite; expected none")
    if (values == values[0]).all():
        raise ValueError(f"features={path}: every frame has the same features; expected some that differ")
    return MovieFeatures(_scaled(values.astype(float)), f"features of the file {Path(path).name} {values.shape}")


def stand_in(num_frames: int, seed: int) -> np.ndarray:
    """Random features `(num_frames, 768)` that change smoothly in time."""
    rng = np.random.default_rng([65, seed])
    slow, fast = (
        gaussian_filter1d(rng.normal(size=(num_frames, STAND_IN_WIDTH)), width, axis=0) for width in (_SLOW, _FAST)
    )
    return np.sqrt(1 - _FAST_SHARE) * slow / slow.std() + np.sqrt(_FAST_SHARE) * fast / fast.std()


def _scaled(values: np.ndarray) -> np.ndarray:
    centered = values - values.mean(axis=0)
    return centered / np.sqrt(centered.var(axis=0).mean())
