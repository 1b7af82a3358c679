"""Filters in time that sessions share: multi-session reduced-rank regression of labels and behavior on spikes.

After Zhang et al. 2025 (AISTATS, "Exploiting correlations across trials and behavioral sessions to improve neural
decoding"): what unit n of session i contributes in lag window w is (U_i V)[n, w], with weights U_i of the session and
a few filters V of all sessions. V is fitted on the train trials of other animals; to a new session it is a fixed basis,
and its U is a ridge or logistic regression like any other. Which sessions, and what comes of it, is for the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

RANKS = (1, 2, 4)
# Ridge penalty of the U of pretraining sessions, on standardized features, per row.
PENALTIES = (0.1, 1.0)
_ROUNDS = 10


@dataclass(frozen=True)
class Moments:
    """All that least squares has to know of N rows of one session, W windows of each of U units.

    Attributes:
        gram: `(W, U, W, U)` sums of products of features.
        cross: `(W, U)` sums of products with the target.
        num_rows: N.
    """

    gram: np.ndarray
    cross: np.ndarray
    num_rows: int

    @classmethod
    def of(cls, features: np.ndarray, target: np.ndarray) -> Moments:
        """Of `features` `(N, W, U)`, standardized, and a target `(N,)`, which is standardized here."""
        rows, windows, units = features.shape
        flat = features.reshape(rows, -1)
        y = _standard(target)
        gram = (flat.T @ flat).reshape(windows, units, windows, units)
        return cls(gram, (flat.T @ y).reshape(windows, units), rows)

    def products(self, weights: np.ndarray) -> np.ndarray:
        """`(r, W, r, W)` sums of products of what weights `(r, U)` make of each window."""
        return np.asarray(np.einsum("ru,wuxv,sv->rwsx", weights, self.gram, weights, optimize=True))

    def weights(self, filters: np.ndarray, penalty: float) -> np.ndarray:
        """U of the session, `(r, U)`, given `filters` `(r, W)`."""
        rank, units = len(filters), self.cross.shape[1]
        gram = np.einsum("rw,wuxv,sx->rusv", filters, self.gram, filters, optimize=True).reshape((rank * units,) * 2)
        ridge = penalty * self.num_rows * np.eye(rank * units)
        return np.linalg.solve(gram + ridge, (filters @ self.cross).ravel()).reshape(rank, units)


@dataclass(frozen=True)
class FewRows:
    """The same of a session with fewer rows than features: the rows, and ridge regression in its smaller form.

    Attributes:
        features: `(N, W, U)`, standardized.
        target: `(N,)`, standardized.
    """

    features: np.ndarray
    target: np.ndarray

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.target)

    @property
    def cross(self) -> np.ndarray:
        """`(W, U)` sums of products with the target."""
        return np.asarray(np.tensordot(self.target, self.features, axes=1))

    def products(self, weights: np.ndarray) -> np.ndarray:
        """As `Moments.products`."""
        made = np.einsum("nwu,ru->nrw", self.features, weights, optimize=True).reshape(self.num_rows, -1)
        shape = (len(weights), self.features.shape[1])
        return np.asarray((made.T @ made).reshape(*shape, *shape))

    def weights(self, filters: np.ndarray, penalty: float) -> np.ndarray:
        """As `Moments.weights`."""
        passed = filtered(self.features, filters)
        ridge = penalty * self.num_rows * np.eye(min(passed.shape))
        if passed.shape[1] <= len(passed):
            found = np.linalg.solve(passed.T @ passed + ridge, self.target @ passed)
        else:
            found = np.linalg.solve(passed @ passed.T + ridge, self.target) @ passed
        return np.asarray(found.reshape(len(filters), -1))


def summary_of(features: np.ndarray, target: np.ndarray) -> Moments | FewRows:
    """The smaller of the two for features `(N, W, U)`, standardized, and a target `(N,)`."""
    if len(features) >= features.shape[1] * features.shape[2]:
        return Moments.of(features, target)
    return FewRows(features, _standard(target))


def _standard(target: np.ndarray) -> np.ndarray:
    return np.asarray((target - target.mean()) / max(float(target.std()), 1e-9))


def shared_filters(sessions: Iterable[Moments | FewRows]) -> list[np.ndarray]:
    """Filters `(r, W)` with orthonormal rows, for every rank and penalty that there is.

    Alternating least squares, from the leading directions of the sessions' own full regressions, of the sum over
    sessions of |y - X W|^2 / N + penalty |W|^2 with W = U V. No round raises it.

    Args:
        sessions: At least one.
    """
    known = list(sessions)
    num_windows = len(known[0].cross)
    found = []
    for penalty in PENALTIES:
        whole = [session.weights(np.eye(num_windows), penalty) for session in known]
        directions = np.linalg.eigh(sum(w @ w.T for w in whole))[1][:, ::-1].T
        for rank in RANKS:
            if rank > num_windows:
                break
            filters = directions[:rank]
            for _ in range(_ROUNDS):
                filters = _improve(known, filters, penalty)
            found.append(filters)
    return found


def _improve(sessions: list[Moments | FewRows], filters: np.ndarray, penalty: float) -> np.ndarray:
    """One round: U of every session for these filters, then the best filters for these U, made orthonormal."""
    size = filters.size
    gram, cross = np.zeros((size, size)), np.zeros(filters.shape)
    for session in sessions:
        weights = session.weights(filters, penalty)
        part = session.products(weights)
        ridge = penalty * np.kron(weights @ weights.T, np.eye(filters.shape[1]))
        gram += part.reshape(size, size) / session.num_rows + ridge
        cross += weights @ session.cross.T / session.num_rows
    tiny = 1e-9 * np.trace(gram) / size + 1e-12
    better = np.linalg.solve(gram + tiny * np.eye(size), cross.ravel()).reshape(filters.shape)
    return np.linalg.qr(better.T)[0].T


def filtered(features: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """What the filters pass of `features` `(N, W, U)`, `(N, r * U)`."""
    return np.einsum("nwu,rw->nru", features, filters, optimize=True).reshape(len(features), -1)
