"""Spike scores and R2 from sums that are fed in chunks of rows and added, to the same bits whatever the chunks.

What is exact: a term of each entry (its log likelihood, its squared error) is a double as in `eval.metrics`; these
doubles are added without rounding, as whole numbers of 2^-1088, so that chunks, ranks and resumed parts may come in any
number and order. A sum is rounded once, when a score is asked for. The array functions round at each addition and agree
to about 1e-12. Bits are those of one kind of machine: another libm may differ in the last bit of a logarithm.

The fields are whole numbers alone: `dataclasses.asdict` of an object is JSON, and its keyword arguments bring it back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Self

import numpy as np
import scipy.special

from eval.metrics import RATE_FLOOR, checked_rates

# The last bit of the smallest double is 2^-1074; a limb is 32 bits, so that 2^31 rows of them fit 64.
_LIMB = 32
_ONE_BITS = 34 * _LIMB
_ONE = 1 << _ONE_BITS


def exact_sums(values: np.ndarray) -> tuple[int, ...]:
    """Sum of each column of `values (R, D)` in units of 2^-1088, without any rounding.

    Raises:
        ValueError: A value is not finite.
    """
    rest = np.array(values, dtype=float)
    if not np.isfinite(rest).all():
        raise ValueError(f"{int((~np.isfinite(rest)).sum())} values to be added are not finite; every one must be")
    totals = [0] * rest.shape[1]
    while rest.size and (largest := float(np.abs(rest).max())) > 0:
        power = _LIMB * ((int(np.frexp(largest)[1]) - 1) // _LIMB)
        limb = np.trunc(np.ldexp(rest, -power))
        # Towards 0, so that what remains are the lower bits of the same double, and the difference is exact.
        rest -= np.ldexp(limb, power)
        for column, total in enumerate(limb.astype(np.int64).sum(axis=0).tolist()):
            totals[column] += total << _ONE_BITS + power
    return tuple(totals)


def _rounded(total: int) -> float:
    """The double nearest to a sum."""
    return float(Fraction(total, _ONE))


def _array(totals: tuple[int, ...]) -> np.ndarray:
    return np.array([_rounded(total) for total in totals])


@dataclass(frozen=True)
class _Sums:
    """A number of rows, and exact sums over them of D columns, in units of 2^-1088."""

    rows: int

    def __post_init__(self) -> None:
        """Lists, as they come from JSON, become tuples."""
        for name in self._columns():
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def _columns(self) -> list[str]:
        return [f.name for f in fields(self) if f.name != "rows"]

    def __add__(self, other: Self) -> Self:
        """The sums over the rows of both; the order does not matter."""
        if type(self) is not type(other):
            return NotImplemented
        added = {}
        for name in self._columns():
            mine, theirs = getattr(self, name), getattr(other, name)
            if len(mine) != len(theirs):
                raise ValueError(f"sums of {len(mine)} and {len(theirs)} columns, expected those of the same columns")
            added[name] = tuple(a + b for a, b in zip(mine, theirs))
        return replace(self, rows=self.rows + other.rows, **added)


@dataclass(frozen=True)
class PoissonSums(_Sums):
    """What the spike scores of `eval.metrics` need to know of rates and counts; they take the null afterwards.

    Attributes:
        rows: Bins.
        spikes: Of each unit.
        log_likelihood: `sum y ln(rate) - rate` of each unit, rates floored at 1e-9.
        saturated: The same of rates that equal the counts.
    """

    spikes: tuple[int, ...]
    log_likelihood: tuple[int, ...]
    saturated: tuple[int, ...]

    @classmethod
    def of(cls, rate: np.ndarray, counts: np.ndarray) -> PoissonSums:
        """Sums of a chunk, `rate` and `counts` `(R, U)`; R may be 0.

        Raises:
            ValueError: As `eval.metrics.poisson_log_likelihood`.
        """
        rate, counts = checked_rates(rate, counts)
        return cls(
            len(counts),
            exact_sums(counts),
            exact_sums(counts * np.log(rate) - rate),
            exact_sums(scipy.special.xlogy(counts, counts) - counts),
        )

    @property
    def mean_count(self) -> np.ndarray:
        """Spikes per bin `(U,)` in these rows: as `null_rate`, the test-mean null."""
        return np.array([float(Fraction(total, _ONE * self.rows)) for total in self.spikes])

    def _null(self, null_rate: np.ndarray) -> np.ndarray:
        rate = np.maximum(null_rate, RATE_FLOOR)
        return np.asarray(_array(self.spikes) * np.log(rate) - self.rows * rate)

    def bits_per_spike(self, null_rate: np.ndarray) -> np.ndarray:
        """As `eval.metrics.bits_per_spike`, `(U,)`."""
        spikes, gain = _array(self.spikes), _array(self.log_likelihood) - self._null(null_rate)
        return np.divide(gain, spikes * np.log(2), out=np.full(len(spikes), np.nan), where=spikes > 0)

    def pooled_bits_per_spike(self, null_rate: np.ndarray) -> float:
        """As `eval.metrics.pooled_bits_per_spike`."""
        gain = _rounded(sum(self.log_likelihood)) - self._null(null_rate).sum()
        return float(gain / (_rounded(sum(self.spikes)) * np.log(2)))

    def d2(self, null_rate: np.ndarray) -> float:
        """As `eval.metrics.d2`, pooled over units."""
        saturated = _rounded(sum(self.saturated))
        deviance, null = saturated - _rounded(sum(self.log_likelihood)), saturated - self._null(null_rate).sum()
        return float(1 - deviance / null)

    def d2_of_units(self, null_rate: np.ndarray) -> np.ndarray:
        """As `eval.metrics.d2_of_units`, `(U,)`."""
        null = _array(self.saturated) - self._null(null_rate)
        deviance = _array(self.saturated) - _array(self.log_likelihood)
        return np.asarray(1 - np.divide(deviance, null, out=np.full(len(null), np.nan), where=null > 0))


@dataclass(frozen=True)
class R2Sums(_Sums):
    """What R2 needs to know of truth and prediction. Squares are kept whole, so a large mean costs no digits.

    Attributes:
        rows: Of each column.
        truth: Sum of the truth in each column.
        truth_squared: Of its squares.
        error_squared: Of the squares of truth minus prediction.
    """

    truth: tuple[int, ...]
    truth_squared: tuple[int, ...]
    error_squared: tuple[int, ...]

    @classmethod
    def of(cls, truth: np.ndarray, value: np.ndarray) -> R2Sums:
        """Sums of a chunk, `truth` and `value` `(R, D)`; R may be 0.

        Raises:
            ValueError: Shapes differ, or an entry is not finite or beyond 1e150.
        """
        truth, value = np.asarray(truth, dtype=float), np.asarray(value, dtype=float)
        if truth.ndim != 2 or truth.shape != value.shape:
            raise ValueError(f"truth {truth.shape} and prediction {value.shape}; expected one shape (rows, columns)")
        return cls(len(truth), exact_sums(truth), _exact_squares(truth), _exact_squares(truth - value))

    def r2_of_columns(self) -> np.ndarray:
        """As `eval.metrics.r2_of_columns`, `(D,)`."""
        return np.array([1 - float(e / t) if t else np.nan for e, t in zip(*self._errors())])

    def r2_uniform(self) -> float:
        """As `eval.metrics.r2_uniform`; ValueError where no column varies."""
        self._some(any(self._errors()[1]))
        return float(np.nanmean(self.r2_of_columns()))

    def r2_variance_weighted(self) -> float:
        """As `eval.metrics.r2_variance_weighted`; ValueError where no column varies."""
        errors, totals = self._errors()
        self._some(any(totals))
        return 1 - float(sum(e for e, t in zip(errors, totals) if t) / sum(totals))

    def r2(self) -> float:
        """As `eval.metrics.r2`, all entries pooled about one mean; ValueError where they are all equal."""
        total = sum(self.truth_squared) - Fraction(sum(self.truth) ** 2, _ONE * max(1, self.rows * len(self.truth)))
        self._some(total != 0)
        return 1 - float(sum(self.error_squared) / total)

    def _errors(self) -> tuple[list[Fraction], list[Fraction]]:
        """SSE and SST of each column in units of 2^-1088; SST of a constant column is 0."""
        mean_part = [Fraction(t**2, _ONE * max(1, self.rows)) for t in self.truth]
        return [Fraction(e) for e in self.error_squared], [s - m for s, m in zip(self.truth_squared, mean_part)]

    def _some(self, varies: bool) -> None:
        if not varies:
            raise ValueError("R2: the truth is constant, expected at least two different values")


def _exact_squares(values: np.ndarray) -> tuple[int, ...]:
    """Sum of squares of each column, not even the squares being rounded (Dekker 1971; for values from 1e-140)."""
    if values.size and not np.abs(values).max() <= 1e150:
        raise ValueError("values that are not finite, or beyond 1e150, whose squares no double can hold")
    square = values * values
    factor = (2.0**27 + 1) * values
    high = factor - (factor - values)
    low = values - high
    rounding = ((high * high - square) + 2 * high * low) + low * low
    return tuple(a + b for a, b in zip(exact_sums(square), exact_sums(rounding)))
