"""Bootstraps against naive loops, enumerations, closed forms and simulated coverage; the claim rule case by case."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from eval.statistics import (
    Interval,
    Summary,
    animal_interval,
    block_interval,
    judge,
    paired_differences,
    per_session,
    seed_mean,
    session_interval,
    summarize,
    trial_blocks,
)

VALUES = np.array([0.3, -0.1, 0.7, 0.2, 0.9, 0.4, 0.5])
ANIMALS = np.array(["b", "a", "b", "c", "a", "c", "c"])


def test_session_interval_matches_the_exact_bootstrap_distribution() -> None:
    """All 4^4 resamples of four values give the exact quantiles."""
    values = np.array([0.1, 0.5, 0.6, 1.4])
    exact = np.array([np.mean(sample) for sample in product(values, repeat=4)])
    got = session_interval(values, seed=3, draws=200_000)
    assert got.mean == pytest.approx(values.mean())
    np.testing.assert_allclose([got.low, got.high], np.quantile(exact, [0.025, 0.975]), atol=0.026)
    assert got.n == 4


def test_session_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(size=30)
    scipy = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=1)
    got = session_interval(values, seed=2, draws=20_000)
    np.testing.assert_allclose([got.low, got.high], scipy.confidence_interval, atol=0.012)


def test_animal_interval_matches_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    groups = [VALUES[np.flatnonzero(name == ANIMALS)] for name in "abc"]
    means = []
    for _ in range(8_000):
        drawn = [groups[i] for i in rng.integers(0, 3, 3)]
        means.append(np.mean([rng.choice(group, len(group)).mean() for group in drawn]))
    got = animal_interval(VALUES, ANIMALS, seed=1, draws=20_000)
    assert got.mean == pytest.approx(np.mean([group.mean() for group in groups]))
    np.testing.assert_allclose([got.low, got.high], np.quantile(means, [0.025, 0.975]), atol=0.02)
    assert got.n == 3


def test_animal_interval_spread_has_the_closed_form() -> None:
    """Variance of the two-level bootstrap mean: (between + mean within / sessions) / animals, all plug-in variances."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(40, 1)) + rng.normal(size=(40, 6))
    expected = (table.mean(axis=1).var() + (table.var(axis=1) / 6).mean()) / 40
    got = animal_interval(table.ravel(), np.repeat([f"m{i}" for i in range(40)], 6), draws=20_000)
    assert (got.high - got.low) / (2 * 1.96) == pytest.approx(np.sqrt(expected), rel=0.04)


def test_one_animal_is_the_session_bootstrap() -> None:
    one = animal_interval(VALUES, ["a"] * 7, draws=100_000)
    sessions = session_interval(VALUES, draws=100_000)
    np.testing.assert_allclose([one.mean, one.low, one.high], [sessions.mean, sessions.low, sessions.high], atol=0.01)


def test_order_and_names_do_not_matter_and_the_seed_does() -> None:
    order = np.random.default_rng(1).permutation(7)
    first = animal_interval(VALUES, ANIMALS, draws=50_000)
    second = animal_interval(VALUES[order], ANIMALS[order], draws=50_000)
    np.testing.assert_allclose([first.low, first.high], [second.low, second.high], atol=0.01)
    assert session_interval(VALUES, seed=4) == session_interval(VALUES, seed=4)
    assert session_interval(VALUES, seed=4) != session_interval(VALUES, seed=5)


def test_constant_data_has_no_width() -> None:
    for got in (session_interval(np.full(5, 0.25)), animal_interval(np.full(5, 0.25), list("aabbc"))):
        assert (got.mean, got.low, got.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [[0.1, 0.2]]])
def test_values_that_cannot_be_averaged_are_refused(values: list) -> None:
    with pytest.raises(ValueError, match="expected a vector of at least one finite value"):
        session_interval(values)
    with pytest.raises(ValueError, match="2 animals for 1 session"):
        animal_interval([0.1], ["a", "b"])


def test_coverage_on_simulated_data() -> None:
    """95 % intervals hold the truth in about 95 % of simulated experiments, over sessions and over animals."""
    rng, hits, animal_hits, runs = np.random.default_rng(7), 0, 0, 300
    names = np.repeat(np.arange(25), 4).astype(str)
    for run in range(runs):
        got = session_interval(rng.normal(1, 2, 60), seed=run, draws=600)
        hits += got.low <= 1 <= got.high
        values = (1 + rng.normal(size=(25, 1)) + rng.normal(size=(25, 4))).ravel()
        got = animal_interval(values, names, seed=run, draws=600)
        animal_hits += got.low <= 1 <= got.high
    assert 0.91 <= hits / runs <= 0.98
    # Resampling within the drawn animals counts the spread of sessions twice, so this one is a little too wide.
    assert 0.91 <= animal_hits / runs <= 0.99


def rows(model: str, seeds: dict[tuple[str, int, int], float], **other: object) -> pd.DataFrame:
    """Result rows of one model from {(session, draw, seed): value}; the animal is the session's first letter."""
    lines = [
        {"subject": session[0], "session": session, "draw": draw, "seed": seed, "value": value}
        for (session, draw, seed), value in seeds.items()
    ]
    fixed = {"dataset": "d", "split": "interleaved", "task": "t", "metric": "m", "train_trials": 0, "fold": 0, **other}
    return pd.DataFrame(lines).assign(model=model, **fixed)


def test_seeds_are_averaged_within_draws_and_draws_within_sessions() -> None:
    table = rows("m", {("a1", 0, 0): 1, ("a1", 0, 1): 3, ("a1", 1, 0): 10, ("b1", 0, 0): 4})
    got = per_session(table)
    assert got.index.tolist() == ["a1", "b1"]
    assert got["value"].tolist() == [6.0, 4.0]
    assert got["subject"].tolist() == ["a", "b"]


def test_folds_are_repeats_of_a_session_as_draws_are() -> None:
    first = rows("m", {("a1", 0, 0): 1, ("a1", 0, 1): 3, ("b1", 0, 0): 5})
    table = pd.concat([first, rows("m", {("a1", 0, 0): 10}, fold=1), rows("m", {("b1", 0, 0): 7}, fold=4)])
    assert per_session(table)["value"].to_dict() == {"a1": 6.0, "b1": 6.0}


def test_session_means_leave_out_what_is_missing_and_are_those_of_pandas() -> None:
    rng = np.random.default_rng(3)
    keys = [(f"{'ab'[i % 2]}{i}", draw, seed) for i in range(5) for draw in range(3) for seed in range(2)]
    table = rows("m", {key: rng.normal() for key in keys}).assign(fold=rng.integers(0, 3, len(keys)))
    table.loc[rng.random(len(keys)) < 0.3, "value"] = np.nan
    by = ["subject", "session", "fold", "draw"]
    expected = table.groupby(by, sort=False)["value"].mean().groupby(["subject", "session"], sort=False).mean()
    got = per_session(table)
    np.testing.assert_allclose(got["value"], expected.dropna().droplevel("subject").reindex(got.index), rtol=1e-12)
    empty = per_session(table.assign(value=np.nan))
    assert len(empty) == 0
    assert list(empty) == ["subject", "value"]


def test_mixed_rows_are_refused() -> None:
    mixed = pd.concat([rows("m", {("a1", 0, 0): 1}), rows("other", {("a1", 0, 0): 2})])
    with pytest.raises(ValueError, match="several model"):
        per_session(mixed)


def test_pairs_follow_session_names_not_order() -> None:
    first = per_session(rows("x", {("a1", 0, 0): 1, ("a2", 0, 0): 2, ("b1", 0, 0): 3}))
    second = per_session(rows("y", {("b1", 0, 0): 10, ("a1", 0, 0): 20, ("a2", 0, 0): 30}))
    got = paired_differences(first, second)
    assert got["value"].to_dict() == {"a1": -19, "a2": -28, "b1": -7}
    with pytest.raises(ValueError, match=r"1 sessions are in only one.*b1"):
        paired_differences(first, second.drop("b1"))


def test_pairing_removes_what_the_sessions_share() -> None:
    rng = np.random.default_rng(0)
    shared = 10 * rng.normal(size=20)
    index = pd.Index([f"{'ab'[i % 2]}{i}" for i in range(20)], name="session")
    first = pd.DataFrame({"subject": [i[0] for i in index], "value": shared + 0.5}, index=index)
    second = first.assign(value=shared + 0.1 * rng.normal(size=20))
    got = summarize(paired_differences(first, second))
    assert 0.4 < got.sessions.low < got.sessions.high < 0.6
    assert session_interval(first["value"]).high - session_interval(first["value"]).low > 5


def test_summary_prints_every_animal() -> None:
    table = pd.DataFrame({"subject": ANIMALS, "value": VALUES}, index=list("stuvwxy"))
    got = summarize(table)
    assert list(got.per_animal) == ["b", "a", "c"]
    assert got.per_animal == pytest.approx({"b": 0.5, "a": 0.4, "c": 1.1 / 3})
    assert got.num_positive == 6
    assert got.sessions.mean == pytest.approx(VALUES.mean())


def test_seed_mean_and_its_standard_error() -> None:
    table = rows(
        "m", {("a1", 0, 0): 1, ("b1", 0, 0): 3, ("a1", 0, 1): 2, ("b1", 0, 1): 6, ("a1", 0, 2): 3, ("b1", 0, 2): 3}
    )
    got = seed_mean(table)
    assert (got.mean, got.num) == (3.0, 3)
    assert got.sem == pytest.approx(stats.sem([2, 4, 3]))
    assert np.isnan(seed_mean(table[table["seed"] == 0]).sem)
    with pytest.raises(ValueError, match=r"seeds \[0, 1, 2\] have other sessions"):
        seed_mean(table.iloc[:-1])


def test_coverage_with_few_animals_is_as_stated() -> None:
    """The docstring of `animal_interval` warns: three animals are few."""
    rng, hits, runs = np.random.default_rng(0), 0, 300
    names = np.repeat(np.arange(3), 3).astype(str)
    for run in range(runs):
        got = animal_interval((1 + rng.normal(size=(3, 1)) + rng.normal(size=(3, 3))).ravel(), names, run, draws=500)
        hits += got.low <= 1 <= got.high
    assert 0.80 <= hits / runs <= 0.90


def test_block_interval_knows_no_unit() -> None:
    rng = np.random.default_rng(3)
    difference, weight, block = rng.normal(size=40), rng.random(40) ** 4, np.arange(40) // 5
    one, tiny = (block_interval(s * difference, s * weight, block) for s in (1.0, 1e-12))
    np.testing.assert_allclose([tiny.mean, tiny.low, tiny.high], [one.mean, one.low, one.high])
    # Draws of blocks without weight are left out.
    assert np.isfinite(block_interval(difference, np.where(block == 0, weight, 0.0), block).high)


def test_block_interval_matches_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    block = rng.permutation(np.repeat(["x", "y", "z", "w"], [3, 8, 5, 4]))
    difference, weight = rng.normal(size=20), rng.gamma(2.0, size=20)
    sums = {name: (difference[block == name].sum(), weight[block == name].sum()) for name in set(block)}
    exact = [np.divide(*np.sum([sums[name] for name in drawn], axis=0)) for drawn in product(sums, repeat=4)]
    got = block_interval(difference, weight, block, seed=1, draws=100_000)
    assert got.mean == pytest.approx(difference.sum() / weight.sum())
    np.testing.assert_allclose([got.low, got.high], np.quantile(exact, [0.025, 0.975]), atol=0.02)
    assert got.n == 4


def test_blocks_cover_where_rows_do_not() -> None:
    """Rows of a trial share its fortune: resampling rows is far too sure of itself, resampling trials is not."""
    rng, runs, hits = np.random.default_rng(3), 200, {"rows": 0, "trials": 0}
    trial = np.repeat(np.arange(40), 20)
    for run in range(runs):
        difference = 0.3 + rng.normal(size=40)[trial] + rng.normal(size=800)
        for name, block in (("rows", np.arange(800)), ("trials", trial)):
            got = block_interval(difference, np.ones(800), block, run, draws=300)
            hits[name] += got.low <= 0.3 <= got.high
    assert 0.90 <= hits["trials"] / runs <= 0.98
    assert hits["rows"] / runs < 0.6


def test_blocks_of_trials_end_at_gaps() -> None:
    trial = np.array([3, 3, 4, 5, 6, 7, 20, 20, 21, 40])
    assert trial_blocks(trial, 2).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 4]
    order = np.random.default_rng(0).permutation(len(trial))
    assert trial_blocks(trial[order], 2).tolist() == trial_blocks(trial, 2)[order].tolist()
    assert trial_blocks(np.arange(10), 5).tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("difference", "weight", "message"),
    [([1.0, np.nan], [1, 1], "finite"), ([1.0, 2.0], [0, 0], "positive sum"), ([1.0], [1, 1], "one length")],
)
def test_rows_that_cannot_be_compared_are_refused(difference: list, weight: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_interval(difference, weight, [0, 1])


def summary(low: float, high: float, per_animal: dict[str, float], n: int = 7) -> Summary:
    interval = Interval((low + high) / 2, low, high, n)
    return Summary(interval, interval, per_animal, n)


@pytest.mark.parametrize(
    ("low", "high", "animals", "n", "seeds", "outcome", "reason"),
    [
        (0.1, 0.3, {"a": 0.2, "b": 0.1}, 7, 3, "claim", None),
        (0.1, 0.3, {"a": 0.2, "b": 0.1}, 7, 2, "unproven", "2 seeds, 3 are needed"),
        (0.1, 0.3, {"a": 0.2, "b": -0.1}, 7, 3, "unproven", "not above 0 in b"),
        (0.1, 0.3, {"a": 0.2, "b": 0.0}, 7, 3, "unproven", "not above 0 in b"),
        (-0.1, 0.3, {"a": 0.2, "b": 0.1}, 7, 3, "none", "the session interval is not above 0"),
        (0.0, 0.3, {"a": 0.2, "b": 0.1}, 7, 3, "none", "the session interval is not above 0"),
        (-0.3, -0.1, {"a": -0.2, "b": -0.1}, 7, 3, "below", "not above 0 in a, b"),
        (0.2, 0.2, {"a": 0.2}, 1, 3, "none", "a single value has no interval"),
        (-0.2, -0.2, {"a": -0.2}, 1, 1, "none", "1 seed, 3 are needed"),
    ],
)
def test_claim_rule(
    low: float, high: float, animals: dict[str, float], n: int, seeds: int, outcome: str, reason: str | None
) -> None:
    got = judge(summary(low, high, animals, n), seeds)
    assert got.outcome == outcome
    assert got.reasons == () if reason is None else reason in got.reasons
