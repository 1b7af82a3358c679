"""Sums in chunks: equal to `math.fsum` and to the array functions, and to themselves bit for bit in any order."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from eval import metrics
from eval.metric_sums import PoissonSums, R2Sums, exact_sums

DOUBLES = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(float, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12), elements=DOUBLES))
def test_a_sum_is_that_of_fsum_and_of_fractions(values: np.ndarray) -> None:
    for total, column in zip(exact_sums(values), values.T, strict=True):
        assert Fraction(total, 1 << 1088) == sum(map(Fraction, column.tolist()), Fraction(0))
        assert float(Fraction(total, 1 << 1088)) == math.fsum(column)


def test_sums_are_exact_at_both_ends_of_the_doubles() -> None:
    tiny, huge = 5e-324, np.finfo(float).max
    values = np.array([[tiny, huge, 1.0], [tiny, huge, 1e-300], [-3 * tiny, -huge, -1.0]])
    got = [float(Fraction(total, 1 << 1088)) for total in exact_sums(values)]
    assert got == [-tiny, huge, 1e-300]
    with pytest.raises(ValueError, match=r"1 values .* not finite"):
        exact_sums(np.array([[np.inf]]))


def _cut(rows: int, cuts: list[int], order: list[int]) -> list[slice]:
    edges = [0, *sorted(c % (rows + 1) for c in cuts), rows]
    pieces = [slice(a, b) for a, b in pairwise(edges)]
    return [pieces[i % len(pieces)] for i in np.argsort(np.resize(order, len(pieces)), kind="stable")]


CUTS = st.lists(st.integers(0, 10_000), max_size=9)
ORDER = st.lists(st.integers(0, 100), min_size=1, max_size=10)


@settings(max_examples=60, deadline=None)
@given(CUTS, ORDER, st.integers(0, 2**32 - 1), st.booleans())
def test_any_chunks_in_any_order_give_the_same_bits(cuts: list[int], order: list[int], seed: int, left: bool) -> None:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, 0.3, (97, 3))
    counts = rng.poisson(rate)
    truth = rng.normal(1e3, 1, (97, 3)) * [1.0, 1e-8, 1e8]
    value = truth + rng.normal(size=truth.shape) * [0.3, 1e-8, 1e7]
    whole = PoissonSums.of(rate, counts), R2Sums.of(truth, value)
    pieces = _cut(97, cuts, order)
    for one, parts in zip(
        whole, ([PoissonSums.of(rate[p], counts[p]) for p in pieces], [R2Sums.of(truth[p], value[p]) for p in pieces])
    ):
        # From one end, from the other, or as two halves.
        middle = len(parts) // 2 if left else 0
        halves = [p for p in (parts[:middle], parts[middle:]) if p]
        totals = []
        for half in halves:
            total = half[0]
            for part in half[1:]:
                total = part + total if left else total + part  # type: ignore[operator]
            totals.append(total)
        merged = totals[0] if len(totals) == 1 else totals[1] + totals[0]  # type: ignore[operator]
        assert merged == one
    null = np.full(3, 0.1)
    again = PoissonSums.of(rate[::-1], counts[::-1])
    assert again.pooled_bits_per_spike(null) == whole[0].pooled_bits_per_spike(null)


@pytest.mark.parametrize("seed", range(5))
def test_spike_scores_are_those_of_the_arrays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(2, 0.1, (3000, 7)) * rng.lognormal(0, 1, 7)
    counts = rng.poisson(rate)
    counts[:, 6] = 0
    rate[0, 0] = 0.0
    train = counts.mean(axis=0) * rng.uniform(0.7, 1.4, 7)
    train[6] = 0.02
    sums = PoissonSums.of(rate[:1000], counts[:1000]) + PoissonSums.of(rate[1000:], counts[1000:])
    assert (sums.rows, sums.mean_count.tolist()) == (3000, (counts.sum(axis=0) / 3000).tolist())
    for null in (train, np.append(sums.mean_count[:6], 0.01)):
        args = rate, counts, null
        np.testing.assert_allclose(sums.bits_per_spike(null), metrics.bits_per_spike(*args), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(sums.d2_of_units(null), metrics.d2_of_units(*args), rtol=1e-11, atol=1e-13)
        assert sums.pooled_bits_per_spike(null) == pytest.approx(metrics.pooled_bits_per_spike(*args), abs=1e-13)
        assert sums.d2(null) == pytest.approx(metrics.d2(*args), abs=1e-12)
    one = PoissonSums.of(rate[:, [1]], counts[:, [1]])
    theirs = sk.d2_tweedie_score(counts[:, 1], rate[:, 1], power=1)
    assert one.d2(one.mean_count) == pytest.approx(theirs, abs=1e-12)
    assert one.d2_of_units(one.mean_count)[0] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_r2_is_that_of_the_arrays_and_of_scikit_learn(offset: float) -> None:
    rng = np.random.default_rng(3)
    truth = offset + rng.normal(size=(500, 4)) * [1, 2, 3, 0.1]
    value = truth + rng.normal(size=(500, 4)) * [0.5, 3, 1, 0.05]
    sums = R2Sums.of(truth[:123], value[:123]) + R2Sums.of(truth[123:], value[123:])
    np.testing.assert_allclose(sums.r2_of_columns(), sk.r2_score(truth, value, multioutput="raw_values"), atol=1e-12)
    assert sums.r2_uniform() == pytest.approx(metrics.r2_uniform(truth, value), abs=1e-12)
    assert sums.r2_variance_weighted() == pytest.approx(
        sk.r2_score(truth, value, multioutput="variance_weighted"), abs=1e-12
    )
    assert sums.r2() == pytest.approx(metrics.r2(truth, value), abs=1e-12)


def test_r2_keeps_its_digits_beside_a_large_mean() -> None:
    """Sums of squares in doubles would lose all of them: the variance is 1e-20 of the squared mean."""
    rng = np.random.default_rng(0)
    truth = 1e9 + np.round(rng.normal(size=(200, 1)) * 2**10) / 2**13
    value = truth + np.round(rng.normal(size=(200, 1)) * 2**9) / 2**13
    t, v = ([Fraction(x) for x in a[:, 0].tolist()] for a in (truth, value))
    mean = sum(t, Fraction(0)) / 200
    exact = 1 - sum((a - b) ** 2 for a, b in zip(t, v)) / sum((a - mean) ** 2 for a in t)
    assert R2Sums.of(truth, value).r2_of_columns()[0] == pytest.approx(float(exact), abs=1e-15)
    naive = (truth**2).sum() - truth.sum() ** 2 / 200
    assert abs(naive / float(sum((a - mean) ** 2 for a in t)) - 1) > 0.1


def test_constant_columns_have_no_r2() -> None:
    truth = np.column_stack([np.full(30, 0.1), np.arange(30.0)])
    sums = R2Sums.of(truth, truth + 1)
    assert np.isnan(sums.r2_of_columns()[0])
    assert sums.r2_uniform() == sums.r2_of_columns()[1] == pytest.approx(metrics.r2_uniform(truth, truth + 1))
    assert sums.r2_variance_weighted() == pytest.approx(metrics.r2_variance_weighted(truth, truth + 1))
    constant = R2Sums.of(truth[:, :1], truth[:, :1])
    for score in (constant.r2, constant.r2_uniform, constant.r2_variance_weighted):
        with pytest.raises(ValueError, match="constant"):
            score()


def test_parts_survive_json_and_empty_chunks_add_nothing() -> None:
    rng = np.random.default_rng(1)
    rate = rng.gamma(2, 0.1, (50, 3))
    sums = PoissonSums.of(rate, rng.poisson(rate))
    assert PoissonSums(**json.loads(json.dumps(asdict(sums)))) == sums
    assert sums + PoissonSums.of(np.zeros((0, 3)), np.zeros((0, 3))) == sums
    both = R2Sums.of(rate, rate + 1)
    assert R2Sums(**json.loads(json.dumps(asdict(both)))) == both
    assert R2Sums.of(np.zeros((0, 3)), np.zeros((0, 3))) + both == both


def test_what_does_not_belong_together_is_refused() -> None:
    three, two = (PoissonSums.of(np.ones((4, n)), np.ones((4, n))) for n in (3, 2))
    with pytest.raises(ValueError, match="3 and 2 columns"):
        _ = three + two
    with pytest.raises(TypeError):
        _ = three + R2Sums.of(np.ones((4, 3)), np.ones((4, 3)))  # type: ignore[operator]
    with pytest.raises(ValueError, match="log-rates"):
        PoissonSums.of(-np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="beyond 1e150"):
        R2Sums.of(np.full((2, 1), 1e200), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"expected one shape"):
        R2Sums.of(np.zeros((2, 1)), np.zeros((2, 2)))
