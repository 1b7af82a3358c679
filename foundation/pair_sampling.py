"""Exact draws of contrastive pairs over whole sessions: who is whose positive; knows labels and trials, no activity.

CEBRA's sampling (Schneider, Lee & Mathis 2023, methods), with what was wrong or slow in it mended: the nearest label is
found in sorted values or a k-d tree instead of a float32 table of all distances, ties are broken uniformly at random
instead of by the first index, differences in time are taken within a trial, and every draw follows from one generator.

Rows are counted through all sessions: row `first[s] + t` is bin t of session s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

QUERIES = ("time_delta", "delta", "nearest")
# Distances that agree to this relative precision are a tie: a step of a grid is not the same float everywhere.
_TIE = 1e-9


class LabelIndex:
    """Samples by label: nearest neighbors in O(log n) a query, equally near samples equally often."""

    def __init__(self, labels: np.ndarray) -> None:
        """Sort `(n, L)` finite labels once; with L = 0 all samples are equally near."""
        labels = labels.astype(np.float64) if labels.shape[1] else np.zeros((len(labels), 1))
        values, group, self._count = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
        self._group = group.ravel()
        self._order = np.argsort(self._group, kind="stable")
        self._first = np.cumsum(self._count) - self._count
        self._place = np.empty(len(labels), np.int64)
        self._place[self._order] = np.arange(len(labels)) - self._first[self._group[self._order]]
        self._values = values[:, 0] if values.shape[1] == 1 else None
        self._tree = cKDTree(values) if self._values is None else None

    def draw(self, queries: np.ndarray, rng: np.random.Generator, exclude: np.ndarray | None = None) -> np.ndarray:
        """One of the nearest samples of each query, uniformly among ties (distances equal to one part in 10^9).

        Args:
            queries: `(Q, L)`.
            rng: Breaks the ties.
            exclude: `(Q,)` a sample that must not be drawn, -1 for none.

        Returns:
            `(Q,)` indices of samples; -1 where the excluded one is the only one.
        """
        without = np.full(len(queries), -1) if exclude is None else exclude
        own = np.where(without >= 0, self._group[without], -1)
        wanted = 4
        while True:
            distance, group = self._neighbors(queries, wanted)
            members = np.where(np.isfinite(distance), self._count[group] - (group == own[:, None]), 0)
            distance = np.where(members > 0, distance, np.inf)
            best = distance.min(axis=1, keepdims=True)
            tied = (distance <= best * (1 + _TIE)) & (members > 0)
            # In a tree the next neighbor might be tied too: look further.
            if self._tree is None or wanted >= len(self._count) or not (tied[:, -1] | ~tied.any(axis=1)).any():
                break
            wanted *= 4
        members = np.where(tied, members, 0)
        ends = members.cumsum(axis=1)
        pick = (rng.random(len(queries)) * ends[:, -1]).astype(np.int64)
        column = np.minimum((pick[:, None] >= ends).sum(axis=1), ends.shape[1] - 1)
        each = np.arange(len(queries))
        chosen = group[each, column]
        within = pick - (ends - members)[each, column]
        within += (chosen == own) & (within >= self._place[without])
        return np.where(ends[:, -1] > 0, self._order[self._first[chosen] + np.where(ends[:, -1] > 0, within, 0)], -1)

    def _neighbors(self, queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and groups `(Q, K)` of the nearest distinct labels, infinite where there are fewer."""
        if self._values is None:
            assert self._tree is not None
            distance, group = self._tree.query(queries, k=np.arange(1, min(wanted, len(self._count)) + 1))
            return distance, group
        if queries.shape[1] == 0:
            queries = np.zeros((len(queries), 1))
        # Two on each side: the nearest may be excluded, and a tie has one value on either side.
        group = np.searchsorted(self._values, queries[:, 0])[:, None] + np.arange(-2, 2)
        inside = (group >= 0) & (group < len(self._values))
        group = np.where(inside, group, 0)
        return np.where(inside, np.abs(self._values[group] - queries), np.inf), group


@dataclass(frozen=True)
class SessionLabels:
    """What sampling knows of a session of T bins.

    Attributes:
        trial: `(T,)` integers; a change is a border that no time difference crosses.
        continuous: `(T, L)` float64, NaN where unknown; L may be 0.
        discrete: `(T,)` integers, negative where unknown; all 0 when there are no classes.
    """

    trial: np.ndarray
    continuous: np.ndarray
    discrete: np.ndarray


def first_rows(sessions: Sequence[SessionLabels]) -> np.ndarray:
    """`(S + 1,)` first row of each session, and the number of all rows."""
    return np.concatenate([[0], np.cumsum([len(session.trial) for session in sessions])])


def runs(trial: np.ndarray) -> np.ndarray:
    """`(T,)` number of the stretch of equal trial numbers that a bin is in."""
    return np.concatenate([[0], np.cumsum(trial[1:] != trial[:-1])]).astype(np.int64) if len(trial) else trial


def has_later(trial: np.ndarray, offset: int) -> np.ndarray:
    """`(T,)` whether bin t + offset is in the same trial."""
    later = np.zeros(len(trial), bool)
    if offset < len(trial):
        run = runs(trial)
        later[: len(trial) - offset] = run[offset:] == run[:-offset]
    return later


class TimePairs:
    """The positive of a bin is the bin `offset` later in its trial ("time-contrastive")."""

    def __init__(self, sessions: Sequence[SessionLabels], offset: int) -> None:
        self._offset = offset
        #: Rows that have a positive, of each session.
        self.candidates = [
            first + np.flatnonzero(has_later(session.trial, offset))
            for first, session in zip(first_rows(sessions), sessions)
        ]

    def positives(self, anchors: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The positive row of each anchor row `(A,)`; targets are not used, time does not cross sessions."""
        return anchors + self._offset


class LabelPairs:
    """The positive of a bin is a bin of the same class whose continuous label is nearest to a query label.

    Queries: "time_delta", the bin's label plus a difference of labels `offset` bins apart seen at a random place of any
    session; "delta", plus Gaussian noise; "nearest", the label itself, the bin itself excluded. Without continuous
    labels any bin of the class is as good ("discrete"); with both the mode is "mixed".
    """

    def __init__(
        self, sessions: Sequence[SessionLabels], *, query: str = "time_delta", delta: float = 0.1, offset: int = 1
    ) -> None:
        """Sort the labels of each session and class.

        Args:
            sessions: Labels; the same number L of continuous ones in each.
            query: One of `QUERIES`.
            delta: Standard deviation of the noise, in the labels' unit.
            offset: Bins.

        Raises:
            ValueError: Unknown query, or no difference in time to draw from.
        """
        if query not in QUERIES:
            raise ValueError(f"query {query!r}, expected one of {', '.join(QUERIES)}")
        self._query, self._delta = query, delta
        self._first = first_rows(sessions)
        known = [np.isfinite(s.continuous).all(axis=1) & (s.discrete >= 0) for s in sessions]
        #: Rows with all their labels, of each session.
        self.candidates = [first + np.flatnonzero(k) for first, k in zip(self._first, known)]
        classes, dense = np.unique(np.concatenate([s.discrete for s in sessions]), return_inverse=True)
        self._class = dense.ravel()
        self._continuous = np.concatenate([session.continuous for session in sessions])
        # Without continuous labels the class is the label, and one index a session holds all classes.
        self._is_discrete = self._continuous.shape[1] == 0
        self._labels = self._class[:, None].astype(np.float64) if self._is_discrete else self._continuous
        self._indices: list[tuple[int, np.ndarray, LabelIndex]] = []
        self._index_of = np.full((len(sessions), len(classes)), -1)
        self._place = np.full(len(self._class), -1)
        for s, rows in enumerate(self.candidates):
            present = np.unique(self._class[rows])
            for part in [present] if self._is_discrete else present[:, None]:
                inside = rows[np.isin(self._class[rows], part)]
                if len(inside):
                    self._index_of[s, part] = len(self._indices)
                    self._place[inside] = np.arange(len(inside))
                    self._indices.append((s, inside, LabelIndex(self._labels[inside])))
        self._steps = np.concatenate([_differences(session, k, offset) for session, k in zip(sessions, known)])
        if query == "time_delta" and not self._is_discrete and not len(self._steps):
            raise ValueError(
                f"no two labeled bins of a trial are {offset} bins apart, expected some for query 'time_delta'; "
                "use a smaller time_offset, or query='delta'"
            )

    def positives(self, anchors: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The positive row of each anchor.

        Args:
            anchors: `(A,)` rows.
            targets: `(A,)` session in which to look; where that has no bin of the class, the anchor's own.
            rng: Of the queries and ties.

        Returns:
            `(A,)` rows; the anchor itself if it is alone in its class.
        """
        own = np.searchsorted(self._first, anchors, side="right") - 1
        queries = self._labels[anchors]
        if not self._is_discrete and self._query == "time_delta":
            queries = queries + self._steps[rng.integers(len(self._steps), size=len(anchors))]
        elif not self._is_discrete and self._query == "delta":
            queries = queries + self._delta * rng.standard_normal(queries.shape)
        where = self._index_of[targets, self._class[anchors]]
        where = np.where(where < 0, self._index_of[own, self._class[anchors]], where)
        result = np.empty(len(anchors), np.int64)
        order = np.argsort(where, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(where[order])) + 1):
            session, rows, index = self._indices[where[part[0]]]
            exclude = None
            if self._query == "nearest":
                exclude = np.where(own[part] == session, self._place[anchors[part]], -1)
            found = index.draw(queries[part], rng, exclude)
            result[part] = np.where(found >= 0, rows[found], anchors[part])
        return result


def _differences(session: SessionLabels, known: np.ndarray, offset: int) -> np.ndarray:
    """`(n, L)` label differences of bins `offset` apart, both known and in one trial."""
    earlier = np.flatnonzero(has_later(session.trial, offset) & known)
    earlier = earlier[known[earlier + offset]]
    return session.continuous[earlier + offset] - session.continuous[earlier]


def draw_rows(candidates: Sequence[np.ndarray], number: int, rng: np.random.Generator) -> np.ndarray:
    """`(S, number)` rows, uniformly and with replacement from each session's candidates, whatever its length."""
    return np.stack([rows[rng.integers(len(rows), size=number)] for rows in candidates])


def draw_balanced(candidates: np.ndarray, classes: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """`(number,)` rows with every class equally often in expectation.

    Args:
        candidates: `(n,)` rows.
        classes: `(n,)` their classes.
        number: To draw.
        rng: Generator.
    """
    _, group, count = np.unique(classes, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    first = np.cumsum(count) - count
    which = rng.integers(len(count), size=number)
    return candidates[order[first[which] + (rng.random(number) * count[which]).astype(np.int64)]]
