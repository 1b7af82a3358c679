"""Spoiled labels: what is spoiled and what is not, no leak of hidden or test labels, and a small sweep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.studies.label_sweeps import Config, sweep
from eval.studies.spoiled_labels import (
    HYBRID,
    KNN,
    OURS,
    PCA,
    PCA_FEW,
    SHUFFLED,
    TIME,
    Task,
    decode,
    few_bins,
    few_laps,
    late,
    noisy,
    shifted,
    whole_task,
)
from foundation.session_arrays import SessionArrays

MODELS = [OURS, HYBRID, TIME, SHUFFLED, PCA, PCA_FEW, KNN]
QUICK = Config(receptive_field=5, output_dimension=3, steps=3)


def rat(num_bins: int = 1200, num_units: int = 20, seed: int = 0) -> SessionArrays:
    """A rat that runs to and fro on a track of 1 m with place cells; a lap lasts 60 bins, more or less."""
    rng = np.random.default_rng(seed)
    phase = np.cumsum(rng.uniform(0.5, 1.5, num_bins)) / 60
    position = np.abs(phase % 2 - 1)
    center = np.linspace(0, 1, num_units)
    rates = 0.1 + 2 * np.exp(-((position[:, None] - center) ** 2) / 0.02)
    labels = {"position": position, "direction": (phase % 2 > 1).astype(np.int64)}
    counts = rng.poisson(rates).astype(np.float32)
    return SessionArrays("toy/rat", "rat", counts, labels, np.zeros(num_bins, np.int64), 0.025)


@pytest.fixture(scope="module")
def whole() -> tuple[Task, np.ndarray]:
    return whole_task(rat(), "position", "direction")


def test_the_whole_task_is_split_in_time(whole: tuple[Task, np.ndarray]) -> None:
    task, lap = whole
    rows = np.concatenate([task.split.train, task.split.val, task.split.test])
    assert np.array_equal(rows, np.arange(1200))
    assert np.array_equal(np.unique(task.stretch), [0, 1, 2])
    assert np.array_equal(task.given, rat().labels["position"])
    turns = np.flatnonzero(np.diff(rat().labels["direction"])) + 1
    borders = np.union1d(turns, [task.split.val[0], task.split.test[0]])
    assert np.array_equal(np.flatnonzero(np.diff(lap)) + 1, borders)


def test_rows_without_a_label_are_left_out() -> None:
    session = rat(300)
    session.labels["position"][40:60] = np.nan
    task, _ = whole_task(session, "position")
    assert len(task.truth) == 280
    assert np.isfinite(task.truth).all()
    with pytest.raises(ValueError, match=r"'direction' is int64 \(300,\), expected one float a bin"):
        whole_task(session, "direction")


def test_noise_spoils_what_is_given_and_not_the_truth(whole: tuple[Task, np.ndarray]) -> None:
    task, _ = whole
    noise = noisy(task, 2.0, seed=1)
    assert np.array_equal(noise.truth, task.truth)
    assert (noise.given - task.truth).std() == pytest.approx(2 * task.truth.std(), rel=0.1)
    assert np.array_equal(noise.given, noisy(task, 2.0, seed=1).given)
    assert not np.array_equal(noise.given, noisy(task, 2.0, seed=2).given)


@given(st.integers(2, 13), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_few_laps_are_whole_laps_before_the_test(number: int, seed: int) -> None:
    task, lap = whole_task(rat(), "position", "direction")
    few = few_laps(task, lap, number, seed)
    used = np.concatenate([few.split.train, few.split.val])
    assert len(np.unique(lap[used])) == number
    assert np.isin(lap, lap[used]).sum() == len(used)  # the whole of each lap
    assert not set(lap[few.split.train]) & set(lap[few.split.val])
    assert few.split.train.max() < few.split.val.min() <= used.max() < few.split.test.min()
    assert np.array_equal(few.recorded, np.arange(few.split.test.min()))


def test_more_laps_than_there_are_is_an_error(whole: tuple[Task, np.ndarray]) -> None:
    for number in (1, 500):
        with pytest.raises(ValueError, match=f"laps: got {number}, expected 2 to the"):
            few_laps(*whole, number, seed=0)


def test_few_bins_keep_a_share(whole: tuple[Task, np.ndarray]) -> None:
    task, _ = whole
    few = few_bins(task, 0.1, seed=0)
    assert len(few.split.train) == round(0.1 * len(task.split.train))
    assert set(few.split.train) < set(task.split.train)
    assert set(few.split.val) < set(task.split.val)
    assert np.array_equal(few.split.test, task.split.test)
    assert np.array_equal(few.recorded, task.split.train)


@given(st.integers(-40, 40))
@settings(deadline=None, max_examples=25)
def test_a_lag_moves_labels_within_a_stretch(bins: int) -> None:
    session = rat(400)
    trial = np.repeat([0, 1], [150, 250])
    task, _ = whole_task(replace(session, trial=trial), "position")
    lagged = late(task, bins)
    for before, after in (
        (task.split.train, lagged.split.train),
        (task.split.val, lagged.split.val),
        (task.split.test, lagged.split.test),
    ):
        expected = []
        for row in before:
            later = row + bins
            if 0 <= later < 400 and later in before and trial[later] == trial[row]:
                expected.append(row)
                assert lagged.given[row] == lagged.truth[row] == task.truth[later]
        assert after.tolist() == expected


def test_lags_longer_than_the_stretches_are_refused(whole: tuple[Task, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="leave too few rows"):
        late(whole[0], len(whole[0].split.val) - 5)


def test_shifted_labels_keep_their_course(whole: tuple[Task, np.ndarray]) -> None:
    task = shifted(whole[0], seed=0)
    (shift,) = [k for k in range(1200) if np.array_equal(np.roll(whole[0].truth, k), task.truth)]
    assert 300 <= shift <= 900
    assert np.array_equal(task.given, task.truth)


@pytest.mark.parametrize("model", MODELS)
def test_hidden_labels_and_those_of_the_test_change_nothing(model: str, whole: tuple[Task, np.ndarray]) -> None:
    few = few_laps(*whole, 5, seed=0)
    secret = np.ones(len(few.given), bool)
    secret[few.split.train] = secret[few.split.val] = False
    spoiled = replace(few, given=np.where(secret, 100.0, few.given))
    assert decode(spoiled, model, QUICK, seed=0) == decode(few, model, QUICK, seed=0)


@pytest.mark.parametrize("model", MODELS)
def test_who_uses_the_activity_of_unlabeled_laps(model: str, whole: tuple[Task, np.ndarray]) -> None:
    few = few_laps(*whole, 5, seed=0)
    activity = few.activity.copy()
    far = np.setdiff1d(few.recorded, np.concatenate([few.split.train, few.split.val]))
    # Not where a window of a labeled bin, or of the test, reaches.
    used = np.concatenate([few.split.train, few.split.val, few.split.test])
    far = far[np.abs(far[:, None] - used).min(axis=1) > QUICK.receptive_field]
    activity[far] = np.random.default_rng(0).poisson(3, activity[far].shape)
    changed = decode(replace(few, activity=activity), model, QUICK, seed=0) != decode(few, model, QUICK, seed=0)
    assert changed == (model in (HYBRID, TIME, PCA))


def test_place_cells_are_decoded_and_shifted_labels_are_not(whole: tuple[Task, np.ndarray]) -> None:
    config = Config(receptive_field=5, output_dimension=3, steps=60, learning_rate=1e-2)
    found = {model: decode(whole[0], model, config, seed=0)["r2"] for model in (OURS, SHUFFLED, PCA, KNN)}
    assert found[OURS] > 0.9
    assert found[KNN] > 0.9
    assert found[OURS] > found[SHUFFLED] + 0.05
    assert decode(shifted(whole[0], seed=0), KNN, config, seed=0)["r2"] < 0.3
    assert decode(noisy(whole[0], 2.0, seed=0), OURS, config, seed=0)["r2"] < found[OURS]


def test_a_small_sweep() -> None:
    config = Config(
        lap="direction", receptive_field=5, steps=2, seeds=[0, 1], noise=[1.0], laps=[4], missing=[0.1], lags_s=[0.25]
    )
    findings = sweep(rat(), config)
    rows = findings.tables[1].frame
    assert len(rows) == 2 * (6 + 3 + 3 + 6 + 4 + 3)
    again = sweep(rat(), replace(config, seeds=[0])).tables[1].frame
    assert again.equals(rows[rows["seed"] == 0].reset_index(drop=True))  # bit for bit
    summary = findings.tables[0].frame.set_index(["sweep", "level", "model"])
    own = rows[(rows["sweep"] == "noise") & (rows["model"] == OURS)]["r2"]
    assert summary.loc[("noise", 1.0, OURS), "r2"] == pytest.approx(own.mean())
    assert len(findings.figures[0].figure.axes) == 4
    with pytest.raises(ValueError, match="seeds is empty"):
        sweep(rat(), replace(config, seeds=[]))
