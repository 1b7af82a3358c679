"""Components and loops of a point cloud by persistent cohomology, and circular coordinates along its longest loop.

ripser computes H0 and H1 of a Vietoris-Rips filtration. H2 is out of reach by design: on 800 points it does not end in
useful time. Own code: subsampling, the rules of what counts, circular coordinates (de Silva, Morozov and
Vejdemo-Johansson 2011, Discrete Comput. Geom. 45:737).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from sklearn.neighbors import NearestNeighbors

PRIME = 47
NUM_POINTS = 800
TRIMMED = 0.05
GAP = 2.0
CONTROL_LEVEL = 0.95
MAX_COUNTED = 4
LIFE_SHARE = 0.3
"""Where in the loop's life its cocycle is smoothed."""


@dataclass(frozen=True)
class Persistence:
    """Barcode of M landmark points, centered and scaled to a root mean square distance of 1 from their mean.

    Attributes:
        landmarks: `(M,)` rows of the cloud.
        points: `(M, D)` the landmarks, scaled.
        center: `(D,)` and
        scale: what was subtracted, and then divided by.
        h0: `(M, 2)` birth and death of components; one of them never dies (inf).
        h1: `(K, 2)` birth and death of loops.
        cocycles: K arrays `(E, 3)`: vertex, vertex, value modulo `PRIME`.
    """

    landmarks: np.ndarray
    points: np.ndarray
    center: np.ndarray
    scale: float
    h0: np.ndarray
    h1: np.ndarray
    cocycles: list[np.ndarray]

    def lives(self, dimension: int) -> np.ndarray:
        """Death minus birth of H0 (0) or H1 (1), longest first; without the component that never dies."""
        bars = self.h0 if dimension == 0 else self.h1
        life = bars[:, 1] - bars[:, 0]
        return np.sort(life[np.isfinite(life)])[::-1]


def subsample(points: np.ndarray, seed: int, num_points: int = NUM_POINTS, trimmed: float = TRIMMED) -> np.ndarray:
    """Rows `(M,)`, sorted: the sparsest share is trimmed, then farthest points are taken from a random start.

    A row's sparseness is its distance to the neighbor of rank 1 % of the rows (at least 5). Random rows instead of
    farthest ones leave holes that hide the two loops of a planted torus.

    Args:
        points: `(T, D)`.
        seed: Of the first point.
        num_points: Most rows.
        trimmed: Share that is left out.
    """
    rank = min(len(points) - 1, max(5, len(points) // 100))
    sparseness = NearestNeighbors(n_neighbors=rank + 1).fit(points).kneighbors(points)[0][:, -1]
    kept = np.argsort(sparseness, kind="stable")[: max(2, round((1 - trimmed) * len(points)))]
    cloud = points[kept]
    chosen = [int(np.random.default_rng(seed).integers(len(kept)))]
    nearest = np.full(len(kept), np.inf)
    while len(chosen) < min(num_points, len(kept)):
        nearest = np.minimum(nearest, ((cloud - cloud[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
    return np.sort(kept[chosen])


def persistence(
    points: np.ndarray, seed: int = 0, num_points: int = NUM_POINTS, trimmed: float = TRIMMED
) -> Persistence:
    """H0 and H1 of at most `num_points` points of the cloud.

    Args:
        points: `(T, D)`.
        seed: Of the subsample.
        num_points: Most points; time grows with about the third power.
        trimmed: Share of outliers that is left out, see `subsample`.

    Raises:
        ValueError: ripser is not installed, or the points are not a cloud.
    """
    try:
        from ripser import ripser
    except ImportError as error:
        raise ValueError('topology needs ripser: pip install "foundation[analysis]"') from error
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or len(points) < 3 or not np.isfinite(points).all() or (points == points[0]).all():
        raise ValueError(f"points {points.shape}, expected (T, D), finite, T >= 3 and not all equal")
    landmarks = subsample(points, seed, num_points, trimmed)
    chosen = points[landmarks]
    center = chosen.mean(axis=0)
    scale = float(np.sqrt(((chosen - center) ** 2).sum(axis=1).mean())) or 1.0
    chosen = (chosen - center) / scale
    found = ripser(chosen, maxdim=1, coeff=PRIME, do_cocycles=True)
    return Persistence(landmarks, chosen, center, scale, found["dgms"][0], found["dgms"][1], found["cocycles"][1])


def longest_lives(found: Persistence) -> tuple[float, float]:
    """Longest finite H0 and longest H1 life; 0 where there is none."""
    return tuple(float(np.append(found.lives(d), 0.0).max()) for d in (0, 1))  # type: ignore[return-value]


def count_features(lives: np.ndarray, control: Sequence[float] | np.ndarray) -> int:
    """How many bars stand out: the rule that was fixed before any data was seen.

    The smallest n such that the n-th longest life is at least twice the next and above the 95th percentile of the
    longest lives of the controls; 0 where there is no such n up to 4. One loop: n = 1.

    Args:
        lives: `(K,)`, in any order.
        control: Longest life of each control.

    Raises:
        ValueError: No control.
    """
    if not len(control):
        raise ValueError("no control lives; give the longest life of at least one shuffled cloud")
    least = float(np.quantile(control, CONTROL_LEVEL))
    ordered = np.append(np.sort(lives)[::-1], np.zeros(MAX_COUNTED + 1))
    for n in range(1, MAX_COUNTED + 1):
        if ordered[n - 1] <= least:
            return 0
        if ordered[n - 1] >= GAP * ordered[n]:
            return n
    return 0


def betti_numbers(found: Persistence, control: np.ndarray) -> tuple[int, int]:
    """Components and loops of a cloud by `count_features`, against controls `(C, 2)` of longest H0 and H1 lives."""
    return 1 + count_features(found.lives(0), control[:, 0]), count_features(found.lives(1), control[:, 1])


def circular_coordinate(found: Persistence, points: np.ndarray, neighbors: int = 8) -> np.ndarray:
    """Angle `(T,)` in [0, 2 pi) along the longest loop, for landmarks and all other points.

    The cocycle, on the edges that exist early in the loop's life, is lifted to the integers and made smooth by least
    squares; the solution is the angle of each landmark in turns. Other points get the circular mean of their nearest
    landmarks, weighted by a kernel that falls to 0 at the next one.

    Args:
        found: Of the cloud.
        points: `(T, D)` in the coordinates of the cloud (not scaled).
        neighbors: Landmarks that place a point.

    Raises:
        ValueError: The cloud has no loop, or its cocycle does not lift to the integers.
    """
    if not len(found.h1):
        raise ValueError("the cloud has no loop, and so no circular coordinate")
    longest = int((found.h1[:, 1] - found.h1[:, 0]).argmax())
    birth, death = found.h1[longest]
    turns = _smooth_cocycle(found.points, found.cocycles[longest], birth + LIFE_SHARE * (death - birth))
    placed = (np.asarray(points, dtype=float) - found.center) / found.scale
    size = min(neighbors + 1, len(found.points))
    distance, index = NearestNeighbors(n_neighbors=size).fit(found.points).kneighbors(placed)
    weight = np.maximum(1 - distance[:, :-1] / np.maximum(distance[:, -1:], 1e-12), 0) + 1e-9
    mean = (weight * np.exp(2j * np.pi * turns[index[:, :-1]])).sum(axis=1)
    return np.angle(mean) % (2 * np.pi)


def _smooth_cocycle(points: np.ndarray, cocycle: np.ndarray, radius: float) -> np.ndarray:
    """Turns `(M,)`, modulo 1, whose differences along edges up to `radius` are nearest to whole numbers + cocycle.

    Edges count inversely to the square root of their ends' degrees. Where all count the same, as in the paper, the
    angle hardly moves through dense stretches: on a planted ring with a dense side its correlation fell to .67.
    """
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    edge = distance <= radius
    first, second = np.nonzero(np.triu(edge, k=1))
    value = np.zeros(distance.shape)
    lifted = np.where(cocycle[:, 2] > PRIME // 2, cocycle[:, 2] - PRIME, cocycle[:, 2])
    value[cocycle[:, 0], cocycle[:, 1]] = lifted
    value[cocycle[:, 1], cocycle[:, 0]] = -lifted
    value[~edge] = 0
    _check_lift(value, edge)
    degree = edge.sum(axis=1)
    weight = 1 / np.sqrt(degree[first] * degree[second])
    entries = np.concatenate([-weight, weight])
    places = np.tile(np.arange(len(first)), 2), np.concatenate([first, second])
    difference = scipy.sparse.csr_matrix((entries, places), (len(first), len(points)))
    # The minimum over f of the weighted ||alpha + df|| is harmonic: the angle changes evenly, and a loop's sum stays a
    # whole number. A vertex's angle is its f, up to sign and offset.
    alpha = weight * value[first, second]
    return np.asarray(scipy.sparse.linalg.lsqr(difference, -alpha, atol=1e-10, btol=1e-10)[0] % 1.0)


def _check_lift(value: np.ndarray, edge: np.ndarray) -> None:
    """Over the integers the values around every triangle must sum to 0, not only modulo the prime."""
    for i in np.flatnonzero((value != 0).any(axis=1)):
        near = np.flatnonzero(edge[i])
        triangle = value[i, near][:, None] + value[np.ix_(near, near)] - value[i, near][None, :]
        if (np.abs(triangle[edge[np.ix_(near, near)]]) > 0.5).any():
            raise ValueError("the cocycle does not lift to the integers; draw another subsample (seed)")


def circular_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """T-linear association of two angles `(T,)` in [-1, 1], whatever their offset; -1 where one runs backwards.

    Fisher and Lee 1983 (Biometrika 70:327), equation 2.4 in sums. It does not ask for a mean direction, which uniform
    angles lack.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"angles {a.shape} and {b.shape}, expected two (T,)")
    n = len(a)
    product = (np.cos(a) @ np.cos(b)) * (np.sin(a) @ np.sin(b)) - (np.cos(a) @ np.sin(b)) * (np.sin(a) @ np.cos(b))
    spread = [n**2 - np.cos(2 * x).sum() ** 2 - np.sin(2 * x).sum() ** 2 for x in (a, b)]
    power = spread[0] * spread[1]
    return 0.0 if power <= 0 else float(4 * product / np.sqrt(power))
