"""Draws against brute force, against CEBRA's own where that is unbiased, and its bias where it is not."""

from __future__ import annotations

import cebra.distributions as theirs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from foundation.pair_sampling import (
    LabelIndex,
    LabelPairs,
    SessionLabels,
    TimePairs,
    draw_balanced,
    draw_rows,
    has_later,
    runs,
)


def session(
    continuous: np.ndarray | None = None, discrete: np.ndarray | None = None, trial: np.ndarray | None = None
) -> SessionLabels:
    length = len(continuous if continuous is not None else discrete)  # type: ignore[arg-type]
    return SessionLabels(
        np.zeros(length, np.int64) if trial is None else trial,
        np.zeros((length, 0)) if continuous is None else continuous.reshape(length, -1).astype(float),
        np.zeros(length, np.int64) if discrete is None else discrete,
    )


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 40),
    columns=st.integers(0, 3),
    values=st.integers(1, 6),
    own=st.booleans(),
)
def test_draws_are_among_the_nearest_of_brute_force(seed: int, size: int, columns: int, values: int, own: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, values, (size, columns)) * 0.1
    queries = rng.integers(-1, values + 1, (50, columns)) * 0.1 + rng.choice([0.0, 0.05], (50, columns))
    exclude = rng.integers(-1, size, 50) if own else None
    drawn = LabelIndex(labels).draw(queries, rng, exclude)
    for q, (query, got) in enumerate(zip(queries, drawn)):
        distance = np.sqrt(((labels - query) ** 2).sum(axis=1))
        if exclude is not None and exclude[q] >= 0:
            distance[exclude[q]] = np.inf
        nearest = np.flatnonzero(np.isfinite(distance) & (distance <= distance.min() * (1 + 1e-9) + 1e-15))
        assert got in nearest if len(nearest) else got == -1


@pytest.mark.parametrize("columns", [0, 1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_ties_are_broken_uniformly(columns: int, own: bool) -> None:
    """On a coarse grid, half of the queries halfway between its points: every nearest sample is as likely."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (60, columns)) * 1.0
    query = np.full((1, columns), 0.5)
    without = 5 if own else -1
    distance = ((labels - query) ** 2).sum(axis=1)
    distance[without if own else slice(0, 0)] = np.inf
    nearest = np.flatnonzero(distance <= distance.min() + 1e-12)
    draws = LabelIndex(labels).draw(np.repeat(query, 40_000, axis=0), rng, np.full(40_000, without))
    counts = np.bincount(draws, minlength=60)
    assert counts.sum() == counts[nearest].sum()
    assert stats.chisquare(counts[nearest]).pvalue > 1e-4


def test_a_grid_in_floats_has_ties() -> None:
    """0.3 lies halfway between 0.2 and 0.4 although |0.3 - 0.2| and |0.4 - 0.3| differ in the last digit."""
    assert abs(0.3 - 0.2) != abs(0.4 - 0.3)
    draws = LabelIndex(np.array([[0.2], [0.4]])).draw(np.full((1000, 1), 0.3), np.random.default_rng(0))
    assert 400 < draws.sum() < 600


def test_time_delta_draws_are_cebras_where_labels_are_distinct() -> None:
    """The same distribution of positives, by a chi-square test of two samples over 40 stretches of the label."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((400, 1)), axis=0)
    torch.manual_seed(0)
    distribution = theirs.TimedeltaDistribution(torch.from_numpy(walk).float(), time_delta=3)
    anchors = rng.integers(400, size=60_000)
    expected = distribution.sample_conditional(torch.from_numpy(anchors)).numpy()
    pairs = LabelPairs([session(walk)], query="time_delta", offset=3)
    got = pairs.positives(anchors, np.zeros(len(anchors), np.int64), rng)
    stretch = np.argsort(np.argsort(walk[:, 0])) // 10
    table = np.stack([np.bincount(stretch[rows], minlength=40) for rows in (got, expected)])
    assert stats.chi2_contingency(table).pvalue > 1e-3
    # And the same change of label between anchor and positive.
    assert stats.ks_2samp(walk[got, 0] - walk[anchors, 0], walk[expected, 0] - walk[anchors, 0]).pvalue > 1e-3


def test_delta_draws_are_cebras() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((500, 2))
    torch.manual_seed(0)
    distribution = theirs.DeltaNormalDistribution(torch.from_numpy(labels).float(), delta=0.1)
    anchors = rng.integers(500, size=30_000)
    expected = distribution.sample_conditional(torch.from_numpy(anchors)).numpy()
    got = LabelPairs([session(labels)], query="delta", delta=0.1).positives(anchors, np.zeros(30_000, int), rng)
    for d in range(2):
        assert (
            stats.ks_2samp(labels[got, d] - labels[anchors, d], labels[expected, d] - labels[anchors, d]).pvalue > 1e-3
        )


def test_discrete_draws_are_cebras() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(3, 300, p=[0.7, 0.2, 0.1])
    torch.manual_seed(0)
    distribution = theirs.DiscreteEmpirical(torch.from_numpy(classes))
    anchors = rng.integers(300, size=60_000)
    expected = distribution.sample_conditional(torch.from_numpy(classes[anchors])).numpy()
    got = LabelPairs([session(discrete=classes)]).positives(anchors, np.zeros(60_000, int), rng)
    assert (classes[got] == classes[anchors]).all()
    table = np.stack([np.bincount(rows, minlength=300) for rows in (got, expected)])
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_repeated_labels_show_cebras_bias_and_not_ours() -> None:
    """A position that repeats in ten laps: theirs takes all positives from the first lap, ours from all alike."""
    rng = np.random.default_rng(0)
    track = np.tile(np.arange(100) / 100, 10)[:, None]
    torch.manual_seed(0)
    distribution = theirs.TimedeltaDistribution(torch.from_numpy(track).float(), time_delta=1)
    anchors = rng.integers(1000, size=5000)
    first_lap = distribution.sample_conditional(torch.from_numpy(anchors)).numpy() < 100
    assert first_lap.mean() > 0.95
    got = LabelPairs([session(track)]).positives(anchors, np.zeros(5000, int), rng)
    assert stats.chisquare(np.bincount(got // 100, minlength=10)).pvalue > 1e-3


def test_mixed_positives_are_of_the_class_and_the_nearest_in_it() -> None:
    rng = np.random.default_rng(2)
    labels, classes = rng.random((200, 1)), rng.integers(0, 3, 200)
    pairs = LabelPairs([session(labels, classes)], query="nearest")
    anchors = np.arange(200)
    got = pairs.positives(anchors, np.zeros(200, int), rng)
    for anchor, row in zip(anchors, got):
        others = np.flatnonzero((classes == classes[anchor]) & (np.arange(200) != anchor))
        assert row == others[np.abs(labels[others, 0] - labels[anchor, 0]).argmin()]


def test_positives_are_in_the_target_session_unless_it_lacks_the_class() -> None:
    rng = np.random.default_rng(3)
    first = session(rng.random(50), rng.integers(0, 2, 50))
    second = session(rng.random(30), np.zeros(30, np.int64))
    pairs = LabelPairs([first, second], query="nearest")
    anchors = np.repeat(np.arange(50), 20)
    targets = np.tile([0, 1], 500)
    got = pairs.positives(anchors, targets, rng)
    can = (targets == 0) | (first.discrete[anchors] == 0)
    assert ((got >= 50) == (targets == 1))[can].all()
    assert (got[~can] < 50).all()
    assert (got != anchors).all()
    # The nearest of the class in the other session.
    across = can & (targets == 1)
    distance = np.abs(first.continuous[anchors[across], 0][:, None] - second.continuous[None, :, 0])
    assert (got[across] - 50 == distance.argmin(axis=1)).all()


def test_time_positives_stay_in_their_trial() -> None:
    trial = np.repeat([0, 1, 0, 2], [5, 3, 4, 1])
    pairs = TimePairs([session(discrete=np.zeros(13, int), trial=trial)] * 2, offset=2)
    assert pairs.candidates[0].tolist() == [0, 1, 2, 5, 8, 9]
    assert pairs.candidates[1].tolist() == [13, 14, 15, 18, 21, 22]
    assert pairs.positives(np.array([0, 18]), np.array([1, 0]), np.random.default_rng(0)).tolist() == [2, 20]
    assert runs(trial).tolist() == np.repeat([0, 1, 2, 3], [5, 3, 4, 1]).tolist()
    assert not has_later(trial, 20).any()


def test_label_changes_do_not_cross_trials() -> None:
    """The label jumps by 10 between trials and by .1 within: no positive may be 10 away."""
    labels = np.concatenate([10 * k + 0.1 * np.arange(20) for k in range(5)])
    pairs = LabelPairs([session(labels, trial=np.repeat(np.arange(5), 20))], query="time_delta", offset=2)
    rng = np.random.default_rng(0)
    anchors = rng.integers(100, size=2000)
    assert np.abs(labels[pairs.positives(anchors, np.zeros(2000, int), rng)] - labels[anchors]).max() < 0.21


def test_bins_without_a_label_are_neither_anchors_nor_positives() -> None:
    labels = np.where(np.arange(40) % 3 == 0, np.nan, np.arange(40.0))
    pairs = LabelPairs([session(labels)], query="delta", delta=5.0)
    assert pairs.candidates[0].tolist() == np.flatnonzero(np.isfinite(labels)).tolist()
    rng = np.random.default_rng(0)
    got = pairs.positives(rng.choice(pairs.candidates[0], 500), np.zeros(500, int), rng)
    assert np.isfinite(labels[got]).all()


def test_rows_are_drawn_alike_from_sessions_of_any_length() -> None:
    rng = np.random.default_rng(0)
    rows = draw_rows([np.arange(3), np.arange(3, 1000)], 4000, rng)
    assert rows.shape == (2, 4000)
    assert stats.chisquare(np.bincount(rows[0])).pvalue > 1e-3
    classes = np.repeat([0, 1], [990, 10])
    balanced = draw_balanced(np.arange(1000), classes, 20_000, rng)
    assert 0.48 < classes[balanced].mean() < 0.52


def test_same_seed_same_draws_and_errors_name_the_cure() -> None:
    labels = session(np.random.default_rng(0).random((80, 2)), np.arange(80) % 2)
    draws = [
        LabelPairs([labels]).positives(np.arange(80), np.zeros(80, int), np.random.default_rng(7)) for _ in range(2)
    ]
    assert (draws[0] == draws[1]).all()
    with pytest.raises(ValueError, match="query 'closest', expected one of time_delta, delta, nearest"):
        LabelPairs([labels], query="closest")
    with pytest.raises(ValueError, match="use a smaller time_offset"):
        LabelPairs([labels], offset=80)
