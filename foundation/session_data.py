"""The arrays that users give to the estimator: one session or a list, with trials and labels; checked, not changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_array

from foundation.label_arrays import LabelKind, read_labels


@dataclass
class SessionData:
    """Some sessions.

    Attributes:
        activity: `(T, N)` float32 each.
        trial: `(T,)` int64 each.
        labels: For each label, `(T, L)` float64 or `(T,)` int64 codes of each session.
        kinds: What each label is.
    """

    activity: list[np.ndarray]
    trial: list[np.ndarray]
    labels: list[list[np.ndarray]]
    kinds: list[LabelKind]


def is_sessions(X: Any) -> bool:
    """Whether X is a list of sessions, `(T, N)` each, and not one session as nested lists."""
    return isinstance(X, list | tuple) and len(X) > 0 and all(np.ndim(x) == 2 for x in X)


def read_activity(X: Any, trial: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One session's activity `(T, N)` float32 and trials `(T,)`; no trials given is one trial.

    Raises:
        ValueError: Not two-dimensional, not finite, or trials that are not one integer per bin.
    """
    activity = check_array(X, dtype="numeric", input_name=name).astype(np.float32, copy=False)
    if trial is None:
        return activity, np.zeros(len(activity), np.int64)
    borders = np.asarray(trial)
    if borders.shape != (len(activity),) or borders.dtype.kind not in "iub":
        raise ValueError(
            f"trial of {name} has shape {borders.shape} and type {borders.dtype}, expected ({len(activity)},) integers"
        )
    return activity, borders.astype(np.int64)


def read_sessions(
    X: Sequence[Any],
    labels: Sequence[Any],
    trial: Sequence[Any] | None,
    *,
    kinds: Sequence[LabelKind] | None,
    uses_labels: bool,
    as_continuous: bool,
    allow_missing: bool,
) -> SessionData:
    """Check a list of sessions.

    Args:
        X: Activity `(T, N)` of each.
        labels: For each label, a list with one array per session.
        trial: One array per session, or None.
        kinds: As in `foundation.label_arrays.read_labels`; so `as_continuous` and `allow_missing`.
        uses_labels: Whether labels are read at all.
        as_continuous: Take integers as numbers.
        allow_missing: Unknown labels are no error.

    Raises:
        ValueError: Numbers of sessions, or shapes, that do not fit.
    """
    for what, given in [("trial", trial), *((f"label {n}", values) for n, values in enumerate(labels))]:
        if given is None or (what != "trial" and not uses_labels):
            continue
        if not isinstance(given, list | tuple) or len(given) != len(X):
            got = f"{len(given)} of them" if isinstance(given, list | tuple) else f"a {type(given).__name__}"
            raise ValueError(f"{what}: got {got}, expected a list with one array for each of {len(X)} sessions")
    read = [read_activity(x, None if trial is None else trial[s], f"session {s}") for s, x in enumerate(X)]
    activity, borders = [a for a, _ in read], [b for _, b in read]
    arrays, found = read_labels(
        labels if uses_labels else [],
        [len(a) for a in activity],
        kinds=kinds,
        as_continuous=as_continuous,
        allow_missing=allow_missing,
    )
    return SessionData(activity, borders, arrays, found)
