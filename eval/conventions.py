"""One set of predicted rates scored under the conventions in use, to show that their numbers do not compare."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from eval import metrics

FAST_HZ, SLOW_HZ = 5.0, 2.0

_BITS = "Bits gained over the null / spikes"
_MEAN = "a unit's mean count in the {} rows."


class Convention(NamedTuple):
    """A name, the score, how many units it rests on, and what exactly was computed."""

    name: str
    value: float
    num_units: int
    meaning: str


def conventions(rate: np.ndarray, counts: np.ndarray, null_train: np.ndarray, bin_size_s: float) -> pd.DataFrame:
    """Score one prediction under ten conventions.

    Args:
        rate: `(R, U)` expected count per bin.
        counts: `(R, U)` spikes per bin of the test rows.
        null_train: `(U,)` mean count per bin of the train rows. The test mean is that of `counts`.
        bin_size_s: For the rates in Hz, which are those of the test rows.

    Returns:
        The columns of `Convention`, one row each: `bps, pooled, test null` is that of the Neural Latents Benchmark,
        `bps, unit mean, test null` that of NEDS and MtM, `bps, pooled, train null` our `bps`. The value is NaN where a
        convention has no unit; a unit without spikes counts in what is pooled, not in averages over units.

    Raises:
        ValueError: A rate is negative or not finite, shapes disagree, or no unit has a spike.
    """
    rate, counts = np.asarray(rate, dtype=float), np.asarray(counts, dtype=float)
    if not counts.any():
        raise ValueError(f"conventions: counts {counts.shape} hold no spike; expected at least one")
    nulls = {"test": counts.mean(axis=0), "train": np.asarray(null_train, dtype=float)}
    hz = nulls["test"] / bin_size_s
    units = {"": hz >= 0, f", units > {FAST_HZ:g} Hz": hz > FAST_HZ, f", units < {SLOW_HZ:g} Hz": hz < SLOW_HZ}

    def pooled(null: str, which: str = "") -> Convention:
        keep = units[which]
        score = metrics.pooled_bits_per_spike(rate[:, keep], counts[:, keep], nulls[null][keep]) if keep.any() else None
        meaning = f"{_BITS}, both summed over {_named(which)} before the ratio; null: {_MEAN.format(null)}"
        return _convention(f"bps, pooled{which}, {null} null", score, int(keep.sum()), meaning)

    def unitwise(null: str, average: Literal["mean", "median"], which: str = "") -> Convention:
        keep = units[which] & (hz > 0)
        each = metrics.bits_per_spike(rate[:, keep], counts[:, keep], nulls[null][keep])
        score = None if not keep.any() else each.mean() if average == "mean" else np.median(each)
        meaning = f"{_BITS} of each unit, then the {average} over {_named(which)}; null: {_MEAN.format(null)}"
        return _convention(f"bps, unit {average}{which}, {null} null", score, int(keep.sum()), meaning)

    _, fast, slow = units
    d2_units = metrics.d2_of_units(rate, counts, nulls["train"])[hz > 0]
    d2_units = d2_units[np.isfinite(d2_units)]
    share = "1 - Poisson deviance / that of the null"
    rows = [
        pooled("test"),
        pooled("train"),
        unitwise("test", "mean"),
        unitwise("train", "mean"),
        unitwise("test", "median"),
        pooled("test", fast),
        unitwise("test", "mean", fast),
        unitwise("test", "mean", slow),
        _convention(
            "D2, pooled, train null",
            metrics.d2(rate, counts, nulls["train"]),
            len(hz),
            f"{share}, both summed over all units before the ratio; null: {_MEAN.format('train')}",
        ),
        _convention(
            "D2, unit mean, train null",
            float(d2_units.mean()) if len(d2_units) else None,
            len(d2_units),
            f"{share} of each unit, then the mean over all units; null: {_MEAN.format('train')}",
        ),
    ]
    return pd.DataFrame(rows)


def _named(which: str) -> str:
    return f"those{which.removeprefix(', units')} in the test rows" if which else "all units"


def _convention(name: str, value: float | None, num_units: int, meaning: str) -> Convention:
    return Convention(name, float("nan") if value is None else float(value), num_units, meaning)
