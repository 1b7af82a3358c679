"""The conventions against naive loops, and the example that shows how far they lie apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter1d

from eval import metrics
from eval.conventions import conventions


def _simulated(seed: int) -> dict[str, np.ndarray]:
    """4 conditions of 100 bins, 200 log-normal units with median 4 Hz; 20 trials a condition to fit a PSTH, 20 to test.

    The example of the reference fixes that much. Strength and smoothness of the tuning and the kernel that smooths the
    PSTH, which it leaves open, are such that true rates and PSTH score about what is written there when pooled.
    """
    rng = np.random.default_rng(seed)
    base = 4 * np.exp(rng.standard_normal(200)) * 0.02
    tuning = gaussian_filter1d(rng.standard_normal((4, 100, 200)), 6.0, axis=1)
    rate = np.exp(0.355 * tuning / tuning.std())
    rate *= base / rate.mean(axis=(0, 1))
    train, test = (rng.poisson(np.broadcast_to(rate, (20, 4, 100, 200))) for _ in range(2))
    psth = gaussian_filter1d(train.mean(axis=0), 4.0, axis=1, mode="nearest")
    every = (np.broadcast_to(one, test.shape).reshape(-1, 200) for one in (psth, rate, test))
    return {**dict(zip(("psth", "oracle", "counts"), every)), "null": train.mean(axis=(0, 1, 2))}


def test_one_prediction_has_many_scores() -> None:
    """The example of the reference: its figures in mean over 3 seeds, and their order in each."""
    tables, oracles = [], []
    for seed in range(3):
        made = _simulated(seed)
        tables.append(conventions(made["psth"], made["counts"], made["null"], 0.02).set_index("name")["value"])
        oracles.append(conventions(made["oracle"], made["counts"], made["null"], 0.02).set_index("name")["value"])
    expected = {
        "bps, pooled, test null": (0.0545, 0.006),
        "bps, pooled, train null": (0.0558, 0.006),
        "bps, unit mean, test null": (0.0045, 0.015),
        "bps, unit median, test null": (0.0424, 0.006),
        "bps, unit mean, units > 5 Hz, test null": (0.0636, 0.006),
        "bps, unit mean, units < 2 Hz, test null": (-0.13, 0.06),
        "D2, pooled, train null": (0.0204, 0.003),
    }
    mean, oracle = pd.concat(tables, axis=1).mean(axis=1), pd.concat(oracles, axis=1).mean(axis=1)
    for name, (value, tolerance) in expected.items():
        assert mean[name] == pytest.approx(value, abs=tolerance), name
    gap = mean["bps, pooled, train null"] - mean["bps, pooled, test null"]
    assert gap == pytest.approx(0.0013, abs=0.0006)
    for table in tables:
        order = [
            table["bps, unit mean, units < 2 Hz, test null"],
            table["bps, unit mean, test null"],
            table["D2, pooled, train null"],
            table["bps, unit median, test null"],
            table["bps, pooled, test null"],
            table["bps, pooled, train null"],
            table["bps, unit mean, units > 5 Hz, test null"],
        ]
        assert order == sorted(order)
    # Nothing is wrong with slow units under the true rates: what fails is the estimate.
    assert oracle["bps, pooled, test null"] == pytest.approx(0.0874, abs=0.006)
    assert oracle["bps, unit mean, test null"] == pytest.approx(0.0876, abs=0.006)
    assert oracle["bps, unit mean, test null"] == pytest.approx(oracle["bps, pooled, test null"], abs=0.004)


def test_each_row_equals_the_metric_that_it_names() -> None:
    rng = np.random.default_rng(4)
    hz = np.array([0.5, 1.5, 3.0, 8.0, 20.0, 0.0])
    rate = hz * 0.02 * rng.uniform(0.5, 1.5, (4000, 6)) + 1e-4
    counts = rng.poisson(hz * 0.02, (4000, 6))
    null = np.maximum(counts[:2000].mean(axis=0), 1e-3)
    table = conventions(rate, counts, null, 0.02).set_index("name")
    test = counts.mean(axis=0)
    seen, fast, slow = [0, 1, 2, 3, 4], [3, 4], [0, 1]
    each = metrics.bits_per_spike(rate, counts, test)
    value = {
        "bps, pooled, test null": metrics.pooled_bits_per_spike(rate, counts, test),
        "bps, pooled, train null": metrics.pooled_bits_per_spike(rate, counts, null),
        "bps, unit mean, test null": each[seen].mean(),
        "bps, unit mean, train null": metrics.bits_per_spike(rate, counts, null)[seen].mean(),
        "bps, unit median, test null": np.median(each[seen]),
        "bps, pooled, units > 5 Hz, test null": metrics.pooled_bits_per_spike(
            rate[:, fast], counts[:, fast], test[fast]
        ),
        "bps, unit mean, units > 5 Hz, test null": each[fast].mean(),
        "bps, unit mean, units < 2 Hz, test null": each[slow].mean(),
        "D2, pooled, train null": metrics.d2(rate, counts, null),
        "D2, unit mean, train null": metrics.d2_of_units(rate, counts, null)[seen].mean(),
    }
    assert list(table.index) == list(value)
    for name, one in value.items():
        assert table.loc[name, "value"] == pytest.approx(one), name
    assert table["num_units"].tolist() == [6, 6, 5, 5, 5, 2, 2, 2, 6, 5]
    assert table["meaning"].nunique() == 10


def test_a_convention_without_units_has_no_value_and_no_spikes_are_an_error() -> None:
    rng = np.random.default_rng(5)
    counts = rng.poisson(0.06, (500, 3))
    table = conventions(np.full((500, 3), 0.06), counts, np.full(3, 0.06), 0.02).set_index("name")
    assert table["value"].isna().sum() == 3
    assert (table.loc[table["value"].isna(), "num_units"] == 0).all()
    assert table.loc["bps, pooled, train null", "value"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="hold no spike"):
        conventions(np.ones((5, 3)), np.zeros((5, 3)), np.ones(3), 0.02)
