"""Slopes of simulated power laws, their coverage, paired steps and the control beside them, and the figure's data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from eval.scaling import fit_scaling, make_point, scaling_figure, scaling_table, slope_per_doubling
from eval.statistics import animal_interval

SIZES = (1, 2, 4, 8)


def rows(
    value: np.ndarray, animals: list[str], sessions: list[str], seeds: int = 1, noise: float = 0.0, rng_seed: int = 0
) -> pd.DataFrame:
    """Result rows of one model: the value of each session, with independent noise in each seed."""
    rng = np.random.default_rng(rng_seed)
    lines = [
        {"subject": a, "session": s, "seed": k, "draw": 0, "value": v + noise * rng.normal()}
        for k in range(seeds)
        for v, a, s in zip(value, animals, sessions)
    ]
    fixed = {"dataset": "d", "split": "interleaved", "task": "encode E2", "model": "m/adapter", "metric": "bps"}
    return pd.DataFrame(lines).assign(train_trials=0, fold=0, **fixed)


def law(rng: np.random.Generator, gain: float, num: int = 6, each: int = 3, noise: float = 0.01) -> list[pd.DataFrame]:
    """Scores 0.1 + gain · log2(animals), gains vary by animal, offsets of animals and sessions are common to all."""
    names = [f"a{i}" for i in range(num) for _ in range(each)]
    sessions = [f"{name}_{j}" for j, name in enumerate(names)]
    gains = np.repeat(gain + 0.01 * rng.normal(size=num), each)
    offset = 0.1 + np.repeat(0.1 * rng.normal(size=num), each) + 0.05 * rng.normal(size=num * each)
    return [
        rows(offset + gains * np.log2(size) + noise * rng.normal(size=len(offset)), names, sessions) for size in SIZES
    ]


def points(tables: list[pd.DataFrame]) -> list:
    return [make_point(table, size) for size, table in zip(SIZES, tables)]


def test_slope_of_an_exact_law() -> None:
    """0.02 per doubling in each session, whatever the sessions' own levels."""
    made = law(np.random.default_rng(0), 0.0, noise=0.0)
    exact = [table.assign(value=made[0]["value"].to_numpy() + 0.02 * np.log2(size)) for size, table in zip(SIZES, made)]
    got = slope_per_doubling(points(exact))
    assert (got.mean, got.low, got.high) == pytest.approx((0.02, 0.02, 0.02))
    assert got.n == 6


def test_slope_is_that_of_scipy_per_animal() -> None:
    tables = law(np.random.default_rng(1), 0.03)
    values = np.stack([table["value"] for table in tables])
    slopes = [stats.linregress(np.log2(SIZES), column).slope for column in values.T]
    expected = animal_interval(slopes, tables[0]["subject"].to_numpy(str), seed=4)
    got = slope_per_doubling(points(tables), seed=4)
    np.testing.assert_allclose([got.mean, got.low, got.high], [expected.mean, expected.low, expected.high], rtol=1e-9)


def test_power_law_of_the_error_is_positive_where_it_gains_and_flat_where_not() -> None:
    """Error 0.5 · n^-0.3 (a power law, no line in log n): the slope is above 0; without a law it includes 0."""
    rng = np.random.default_rng(2)
    base = law(rng, 0.0)
    power = [t.assign(value=t["value"] - 0.5 * size**-0.3) for size, t in zip(SIZES, base)]
    assert slope_per_doubling(points(power)).low > 0.05
    flat = slope_per_doubling(points(base))
    assert flat.low < 0 < flat.high


def test_coverage_of_the_slope() -> None:
    """Twelve animals, 95 % intervals: the true mean gain is inside in 88 to 98 % of 150 simulated studies."""
    rng, hits = np.random.default_rng(5), 0
    shape = points(law(rng, 0.02, num=12, each=2))
    for run in range(150):
        tables = law(rng, 0.02, num=12, each=2)
        drawn = [replace(p, sessions=t.set_index("session")[["subject", "value"]]) for p, t in zip(shape, tables)]
        got = slope_per_doubling(drawn, run, draws=300)
        hits += got.low <= 0.02 <= got.high
    assert 0.88 <= hits / 150 <= 0.98


def test_steps_are_paired_and_the_order_of_sessions_does_not_matter() -> None:
    tables = law(np.random.default_rng(3), 0.02, noise=0.001)
    turned = [t.sample(frac=1, random_state=k) for k, t in enumerate(tables)]
    got = fit_scaling(points(turned)[::-1], "bps")
    assert [p.num_animals for p in got.points] == list(SIZES)
    for k, step in enumerate(got.steps):
        difference = tables[k + 1]["value"].to_numpy() - tables[k]["value"].to_numpy()
        assert step.sessions.mean == pytest.approx(difference.mean())
        # Offsets of sessions (0.1) are common to both, so the paired interval is far narrower than either's.
        paired, alone = step.animals, got.points[k].summary.animals
        assert (paired.high - paired.low) < 0.3 * (alone.high - alone.low)


def test_controls_stand_beside_the_full_set() -> None:
    """Sessions that resemble the target do as well as all; random ones of as much data do not."""
    tables = law(np.random.default_rng(4), 0.03, noise=0.001)
    best = make_point(tables[-1].assign(value=tables[-1]["value"] + 0.001), 3, "best sessions")
    random = make_point(tables[1], 3, "random sessions")
    got = fit_scaling(points(tables), "bps", [best, random])
    assert got.against_all is not None
    assert got.against_all["best sessions"].animals.mean == pytest.approx(0.001)
    assert got.against_all["random sessions"].animals.high < 0
    table = scaling_table(got)
    assert table["label"].tolist() == [
        "1 animal",
        "2 animals",
        "4 animals",
        "8 animals",
        "best sessions",
        "random sessions",
    ]
    assert np.isnan(table["step"].iloc[0])
    assert table["step"].iloc[4] == pytest.approx(0.001)
    assert table["positive"].iloc[4] == table["sessions"].iloc[4] == 18
    np.testing.assert_allclose(table["mean"].iloc[:4], [p.summary.animals.mean for p in got.points])


def test_seeds_are_averaged_and_their_error_is_told() -> None:
    made = law(np.random.default_rng(0), 0.02)[0]
    many = rows(made["value"].to_numpy(), list(made["subject"]), list(made["session"]), seeds=5, noise=0.05)
    got = make_point(many, 4)
    means = many.groupby("seed")["value"].mean()
    assert got.num_seeds == 5
    assert got.sem == pytest.approx(stats.sem(means))
    assert got.summary.sessions.mean == pytest.approx(means.mean())


def test_what_is_no_scaling_is_refused() -> None:
    tables = law(np.random.default_rng(0), 0.02)
    with pytest.raises(ValueError, match=r"numbers of animals \[1, 2\]; expected at least 3"):
        fit_scaling(points(tables)[:2], "bps")
    with pytest.raises(ValueError, match="each once"):
        fit_scaling([*points(tables), points(tables)[0]], "bps")
    with pytest.raises(ValueError, match="only one of the two"):
        fit_scaling([*points(tables)[:3], make_point(tables[3].iloc[1:], 8)], "bps")
    with pytest.raises(ValueError, match="from scratch is a baseline"):
        make_point(tables[0], 0)


def test_figure_shows_every_animal_the_mean_the_line_and_the_controls() -> None:
    tables = law(np.random.default_rng(6), 0.02)
    got = fit_scaling(points(tables), "bps", [make_point(tables[1], 4, "best <b>sessions</b>")])
    fig = scaling_figure(got)
    names = [trace.name for trace in fig.data]
    assert names[:6] == [f"a{i}" for i in range(6)]
    assert "per doubling" in names[6]
    mean, control = fig.data[7], fig.data[8]
    np.testing.assert_allclose(mean.y, [p.summary.animals.mean for p in got.points])
    np.testing.assert_allclose(np.add(mean.y, mean.error_y.array), [p.summary.animals.high for p in got.points])
    assert (control.x, control.name) == ((pytest.approx(4 * 1.04),), "best &lt;b&gt;sessions&lt;/b&gt;")
    slope = np.polyfit(np.log2(SIZES), mean.y, 1)
    np.testing.assert_allclose(fig.data[6].y, np.polyval(slope, np.log2(SIZES)), rtol=1e-9)
    assert fig.layout.xaxis.type == "log"
