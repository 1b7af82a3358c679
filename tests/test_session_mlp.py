"""The network of one session: learns what no line can, is stopped in time, repeats itself bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from eval.early_stopping import fit_early
from eval.linear_fits import log_loss, logistic, ridge
from eval.metrics import auc, r2
from eval.session_mlp import SessionMlp, mlp_fit

TRAIN, VAL, TEST = np.arange(400), np.arange(400, 600), np.arange(600, 1000)


def test_reads_a_product_that_no_line_can() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 4))
    label = (x[:, 0] * x[:, 1] + 0.2 * rng.normal(size=1000) > 0).astype(np.int64)
    fit = mlp_fit(x, label, TRAIN, VAL, "label", seeds=(0,), batch_size=64)
    assert auc(label[TEST], fit.value[TEST]) > 0.9
    assert auc(label[TEST], logistic(x, label, TRAIN, VAL).value[TEST]) < 0.6
    # Two networks together are better than each alone on the half that it was not stopped on.
    assert 1 < fit.validation_loss / log_loss(fit.value[VAL], label[VAL]) < 1.3
    value = 30 * x[:, 0] * x[:, 1] + 500
    fit = mlp_fit(x, value, TRAIN, VAL, "value", seeds=(0,), batch_size=64)
    assert r2(value[TEST], fit.value[TEST]) > 0.5
    assert r2(value[TEST], ridge(x, value, TRAIN, VAL).value[TEST]) < 0.1
    assert 1 < fit.validation_loss / np.mean((fit.value[VAL] - value[VAL]) ** 2) < 1.3


def test_costs_little_where_there_is_only_noise_and_little_where_a_line_is_right() -> None:
    """Wide features and few trials: early stopping and dropout must keep what a tuned linear decoder has."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, 150))
    noise = rng.integers(0, 2, 1000)
    assert mlp_fit(x, noise, TRAIN[:80], VAL, "label", seeds=(0,)).validation_loss < 0.72
    label = (x @ rng.normal(size=150) / 12 + 0.5 * rng.normal(size=1000) > 0).astype(np.int64)
    fit, line = mlp_fit(x, label, TRAIN, VAL, "label", batch_size=64), logistic(x, label, TRAIN, VAL)
    assert log_loss(fit.value[TEST], label[TEST]) < log_loss(line.value[TEST], label[TEST]) + 0.03


def test_a_row_is_judged_by_networks_that_were_stopped_on_other_rows() -> None:
    """Half of the validation labels are turned around: what was stopped on one half fails on the other."""
    x = np.random.default_rng(4).normal(size=(1000, 3))
    label = (x[:, 0] > 0).astype(np.int64)
    label[VAL[100:]] = 1 - label[VAL[100:]]
    assert mlp_fit(x, label, TRAIN, VAL, "label", seeds=(0,), batch_size=64).validation_loss > 1


def test_same_seed_same_bits_and_no_test_labels() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=60)
    other = y.copy()
    other[40:] = np.nan
    state = torch.get_rng_state()
    first = mlp_fit(x, y, np.arange(20), np.arange(20, 40), "value", seeds=(3,))
    torch.rand(7)
    again = mlp_fit(x, other, np.arange(20), np.arange(20, 40), "value", seeds=(3,))
    np.testing.assert_array_equal(first.value, again.value)
    assert not np.array_equal(first.value, mlp_fit(x, y, np.arange(20), np.arange(20, 40), "value", seeds=(4,)).value)
    torch.set_rng_state(state)


def test_early_stopping_goes_back_to_the_best_epoch() -> None:
    """Validation that worsens from the third epoch on: the weights of the second come back, `patience` epochs later."""
    network = SessionMlp(3, torch.Generator().manual_seed(0))
    x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(40)
    seen: list[tuple[float, torch.Tensor]] = []

    def validate() -> float:
        assert not network.training
        value = abs(len(seen) - 1) + 0.5
        seen.append((value, network.first.weight.clone()))
        return value

    best = fit_early(
        network,
        lambda batch, _: F.mse_loss(network(x[batch]), y[batch]),
        validate,
        np.arange(40),
        np.random.default_rng(0),
        batch_size=10,
        learning_rate=1e-2,
        weight_decay=0.0,
        max_epochs=50,
        patience=4,
    )
    assert best == 0.5
    assert len(seen) == 2 + 4
    torch.testing.assert_close(network.first.weight, seen[1][1], rtol=0, atol=0)
    assert not torch.equal(seen[1][1], seen[2][1])
