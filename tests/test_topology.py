"""Loops and components of planted shapes, and circular coordinates against the true angle."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.topology import (
    Persistence,
    betti_numbers,
    circular_coordinate,
    circular_correlation,
    count_features,
    longest_lives,
    persistence,
    subsample,
)

NUM_POINTS = 200


def planted(shape: str, seed: int, length: int = 1500, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Points `(T, 3)` and the angle `(T,)` around the (first) loop."""
    rng = np.random.default_rng(seed)
    angle, other = rng.uniform(0, 2 * np.pi, (2, length))
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    spread = rng.normal(size=(length, 3))
    if shape == "ring":
        points = ring + noise * spread
    elif shape == "two clusters":
        points = np.outer(np.where(rng.random(length) < 0.5, -3, 3), [1, 0, 0]) + 0.5 * spread
    elif shape == "sphere":
        points = spread / np.linalg.norm(spread, axis=1, keepdims=True)
    elif shape == "cloud":
        points = spread
    elif shape == "figure eight":
        points = ring + np.outer(np.where(other < np.pi, -1, 1), [1, 0, 0]) + noise * spread
    else:
        # Even over the area: the outer side of a torus has more of it.
        keep = rng.random(length) < (2 + np.cos(other)) / 3
        ring, angle, other = ring[keep], angle[keep], other[keep]
        points = np.stack([ring[:, 0] * (2 + np.cos(other)), ring[:, 1] * (2 + np.cos(other)), np.sin(other)], axis=1)
    return points, angle


@pytest.fixture(autouse=True)
def _ripser() -> None:
    pytest.importorskip("ripser")


def control_lives(points: np.ndarray, seed: int, num_points: int = NUM_POINTS) -> np.ndarray:
    """Longest lives of five clouds with the same marginals and no shape beyond them; of unit rows set back to such."""
    lives = []
    for draw in range(seed, seed + 5):
        cloud = np.random.default_rng(draw).permuted(points, axis=0)
        if np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-4):
            cloud /= np.maximum(np.linalg.norm(cloud, axis=1, keepdims=True), 1e-12)
        lives.append(longest_lives(persistence(cloud, draw, num_points)))
    return np.array(lives)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("shape", "loops"),
    [("ring", 1), ("two clusters", 0), ("sphere", 0), ("cloud", 0), ("figure eight", 2), ("torus", 2)],
)
def test_planted_shapes_have_their_loops(shape: str, loops: int, seed: int) -> None:
    """The torus needs a cloud without holes: more points to choose from, and more that are chosen.

    Components are judged below: column shuffles of two clusters are clusters themselves.
    """
    torus = shape == "torus"
    points, _ = planted(shape, seed, 5000 if torus else 1500)
    num_points = 350 if torus else NUM_POINTS
    found = persistence(points, seed, num_points)
    control = control_lives(points, seed, num_points)
    assert betti_numbers(found, control)[1] == loops


def test_two_clusters_are_two_components_against_a_featureless_control() -> None:
    found = persistence(planted("two clusters", 0)[0], 0, NUM_POINTS)
    control = control_lives(planted("cloud", 0)[0], 0)
    assert betti_numbers(found, control) == (2, 0)


def test_lives_do_not_depend_on_place_and_scale() -> None:
    points, _ = planted("ring", 3)
    found = persistence(points, 0, NUM_POINTS)
    moved = persistence(7 * points + [1, 2, 3], 0, NUM_POINTS)
    np.testing.assert_array_equal(found.landmarks, moved.landmarks)
    np.testing.assert_allclose(found.lives(1), moved.lives(1), atol=1e-5)
    assert found.h0.shape[1] == found.h1.shape[1] == 2


def test_a_regular_polygon_has_a_loop_of_known_life() -> None:
    """Of n points on a circle: born at the side, dead when the longest side of the best inscribed triangle is in."""
    n = 30
    angle = 2 * np.pi * np.arange(n) / n
    found = persistence(np.stack([np.cos(angle), np.sin(angle)], axis=1), trimmed=0.0)
    np.testing.assert_allclose(found.h1[0], [2 * np.sin(np.pi / n), np.sqrt(3)], rtol=1e-5)


def test_the_same_seed_gives_the_same_result() -> None:
    points, _ = planted("ring", 4)
    first, second = (persistence(points, 5, NUM_POINTS) for _ in range(2))
    np.testing.assert_array_equal(first.h1, second.h1)
    np.testing.assert_array_equal(circular_coordinate(first, points), circular_coordinate(second, points))
    assert not np.array_equal(first.landmarks, persistence(points, 6, NUM_POINTS).landmarks)


def test_subsample_trims_outliers_and_takes_farthest_points() -> None:
    points, _ = planted("ring", 6, noise=0.02)
    points[:30] += np.random.default_rng(0).normal(size=(30, 3)) * 5
    rows = subsample(points, 0, 100, trimmed=0.05)
    assert len(set(rows.tolist())) == 100
    assert not set(rows.tolist()) & set(range(30))
    # Greedy: no kept row is farther from the chosen than the chosen are from each other.
    cloud = points[rows]
    apart = np.linalg.norm(cloud[:, None] - cloud, axis=2)
    np.fill_diagonal(apart, np.inf)
    kept = subsample(points, 0, 10_000, trimmed=0.05)
    cover = np.linalg.norm(points[kept][:, None] - cloud, axis=2).min(axis=1).max()
    assert cover <= apart.min() + 1e-12
    assert len(subsample(np.zeros((20, 2)), 0, 8, trimmed=0.0)) == 8


def test_the_rule_for_counting() -> None:
    control = [0.1, 0.2, 0.3]
    assert count_features(np.array([1.0, 0.4, 0.1]), control) == 1
    assert count_features(np.array([1.0, 0.9, 0.1]), control) == 2
    assert count_features(np.array([1.0, 0.6, 0.55]), control) == 3
    assert count_features(np.array([0.25, 0.01]), control) == 0
    assert count_features(np.array([]), control) == 0
    assert count_features(np.array([1.0]), control) == 1
    assert count_features(0.9 ** np.arange(10), [0.0]) == 0
    with pytest.raises(ValueError, match="no control"):
        count_features(np.array([1.0]), [])


@pytest.mark.parametrize("dense_side", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_circular_coordinate_equals_the_true_angle(dense_side: bool, seed: int) -> None:
    """Of a ring tilted into five dimensions, up to sign and offset, for landmarks and for all other points."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 1500)
    if dense_side:
        angle = np.where(rng.random(1500) < 0.5, angle, rng.vonmises(1, 2, 1500)) % (2 * np.pi)
    plane = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = plane @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2] + 0.05 * rng.normal(size=(1500, 5))
    found = persistence(points, seed, NUM_POINTS)
    assert abs(circular_correlation(circular_coordinate(found, points), angle)) > 0.99
    unseen = rng.uniform(0, 2 * np.pi, 300)
    fresh = np.stack([np.cos(unseen), np.sin(unseen)], axis=1) @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]
    assert circular_coordinate(found, fresh).shape == (300,)


def test_coordinate_of_unseen_points_is_that_of_their_neighbors() -> None:
    points, angle = planted("ring", 7)
    found = persistence(points[:1000], 0, NUM_POINTS)
    both = circular_coordinate(found, points)
    assert abs(circular_correlation(both[1000:], angle[1000:])) > 0.99
    # One orientation for all of them.
    assert circular_correlation(both[:1000], angle[:1000]) * circular_correlation(both[1000:], angle[1000:]) > 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), length=st.integers(3, 12))
def test_circular_correlation_against_its_double_sum(seed: int, length: int) -> None:
    """Fisher and Lee 1983, equation 2.2."""
    a, b = np.random.default_rng(seed).uniform(0, 2 * np.pi, (2, length))
    i, j = np.triu_indices(length, 1)
    first, second = np.sin(a[i] - a[j]), np.sin(b[i] - b[j])
    expected = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())
    assert circular_correlation(a, b) == pytest.approx(expected)


def test_circular_correlation_ignores_offset_and_tells_direction() -> None:
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 1000)
    assert circular_correlation(angle, angle + 1.3) == pytest.approx(1)
    assert circular_correlation(angle, 0.4 - angle) == pytest.approx(-1)
    assert abs(circular_correlation(angle, np.random.default_rng(1).permutation(angle))) < 0.1


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = planted("ring", 8)
    with pytest.raises(ValueError, match="not all equal"):
        persistence(np.ones((10, 2)))
    with pytest.raises(ValueError, match="expected two"):
        circular_correlation(np.zeros(3), np.zeros(4))
    line = persistence(np.array([[0.0], [1.0], [3.0], [7.0], [15.0]]), trimmed=0.0)
    assert isinstance(line, Persistence)
    with pytest.raises(ValueError, match="no loop"):
        circular_coordinate(line, np.zeros((1, 1)))
    keep = builtins.__import__

    def without_ripser(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ripser":
            raise ImportError(name)
        return keep(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ripser)
    with pytest.raises(ValueError, match=r"foundation\[analysis\]"):
        persistence(points)
