"""Labels as users give them to the estimator, checked and brought into the form that pairs are drawn from.

A label is an array with one row per bin: floats are continuous, integers, booleans and strings are classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundation.contrastive_heads import LABELED, PAIRED, Head
from foundation.pair_sampling import SessionLabels

MODES = ("time", "behavior", "discrete", "mixed", "hybrid", "rank", "clip")


@dataclass(frozen=True)
class LabelKind:
    """What one of the label arrays is.

    Attributes:
        columns: L of continuous labels, 0 for classes.
        classes: The values of a class label, in the order of their codes.
        center: Mean of each column, or share of each class, in the bins of the first fit whose label is known.
        spread: Their standard deviation; 1 where that is 0.
    """

    columns: int
    classes: list[Any]
    center: list[float]
    spread: list[float]


def read_labels(
    given: Sequence[Sequence[Any]],
    lengths: Sequence[int],
    *,
    kinds: Sequence[LabelKind] | None,
    as_continuous: bool,
    allow_missing: bool,
) -> tuple[list[list[np.ndarray]], list[LabelKind]]:
    """Check label arrays of some sessions.

    Args:
        given: For each label, one array per session, `(T,)` or `(T, L)`.
        lengths: T of each session.
        kinds: What they have to be, None at the first sight of them.
        as_continuous: Take integers as numbers, for a mode that knows no classes.
        allow_missing: NaN, or an integer class below 0, means unknown.

    Returns:
        For each label and session `(T, L)` float64, or `(T,)` int64 codes with -1 for unknown; and what they are.

    Raises:
        ValueError: Wrong length, shape, type or number of labels, missing labels, or a class not seen before.
    """
    if kinds is not None and len(given) != len(kinds):
        raise ValueError(f"got {len(given)} label arrays, expected {len(kinds)} as in the first fit")
    arrays: list[list[np.ndarray]] = []
    found: list[LabelKind] = []
    for number, sessions in enumerate(given):
        known = kinds[number] if kinds is not None else None
        values = [_plain(np.asarray(values)) for values in sessions]
        for s, (array, length) in enumerate(zip(values, lengths)):
            if array.ndim not in (1, 2) or len(array) != length or not array.size:
                raise ValueError(
                    f"label {number} of session {s} has shape {array.shape}, expected ({length},) or ({length}, L): "
                    "one row for each row of X"
                )
        continuous = known.columns > 0 if known else as_continuous or all(a.dtype.kind == "f" for a in values)
        if continuous:
            arrays.append([_numbers(a, f"label {number} of session {s}", allow_missing) for s, a in enumerate(values)])
            widths = {a.shape[1] for a in arrays[-1]} | ({known.columns} if known else set())
            if len(widths) > 1:
                raise ValueError(f"label {number} has {sorted(widths)} columns, expected the same in all sessions")
            rows = np.concatenate(arrays[-1])
            found.append(known or LabelKind(widths.pop(), [], *_moments(rows[np.isfinite(rows).all(axis=1)])))
        else:
            codes, kind = _classes(values, f"label {number}", known, allow_missing)
            arrays.append(codes)
            found.append(kind)
    return arrays, found


def resolve_heads(mode: str | Head | Sequence[Head], kinds: Sequence[LabelKind]) -> list[Head]:
    """The heads of a mode, with the labels that each uses.

    Raises:
        ValueError: Unknown mode, or labels that the mode needs and that were not given.
    """
    if isinstance(mode, str):
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}, expected one of {', '.join(MODES)}, or a list of Head")
        heads = [Head("labels"), Head("time")] if mode == "hybrid" else [Head(mode)]
    else:
        heads = [mode] if isinstance(mode, Head) else list(mode)
        if not heads or not all(isinstance(head, Head) for head in heads):
            raise ValueError(f"mode {mode!r}, expected one of {', '.join(MODES)}, or a list of Head")
    result = []
    for head in heads:
        if head.mode not in (*PAIRED, *LABELED, "labels"):
            raise ValueError(
                f"mode {head.mode!r} of a Head, expected one of {', '.join(dict.fromkeys(PAIRED + LABELED))}"
            )
        if not 0 < head.weight < np.inf:
            raise ValueError(f"{head} has weight {head.weight}, expected a positive number")
        used = range(len(kinds)) if head.labels is None else head.labels
        if any(not 0 <= n < len(kinds) for n in used):
            raise ValueError(
                f"{head} asks for label {', '.join(map(str, used))}, but {len(kinds)} were given, counted from 0"
            )
        numbers = [n for n in used if kinds[n].columns]
        classes = [n for n in used if not kinds[n].columns]
        name = head.mode
        if name == "labels":
            name = "mixed" if numbers and classes else "behavior" if numbers else "discrete"
        wanted = {
            "time": [],
            "behavior": numbers,
            "rank": numbers,
            "discrete": classes,
            "mixed": numbers + classes,
            "clip": numbers + classes,
        }[name]
        got = _describe([kinds[n] for n in used])
        if (name in LABELED and not wanted) or (name == "mixed" and not (numbers and classes)):
            needs = {"behavior": "float", "rank": "float", "discrete": "integer or string", "clip": "float or integer"}
            raise ValueError(
                f"mode {name!r} needs {needs.get(name, 'float and integer')} labels, got {got}: pass them "
                "after X (floats are continuous, integers and strings are classes)"
            )
        result.append(Head(name, tuple(wanted), head.dimensions, head.weight))
    return result


def head_labels(
    head: Head, arrays: list[list[np.ndarray]], kinds: Sequence[LabelKind], trial: Sequence[np.ndarray]
) -> list[SessionLabels]:
    """The labels of each session as a head uses them: its continuous columns, and one class for each combination.

    Heads "rank" and "clip" compare whole label vectors, so their columns are brought to unit variance over the bins of
    the first fit (new data are measured by the same rule), and classes become indicator columns.
    """
    used = head.labels or ()
    columns = [arrays[n] for n in used if kinds[n].columns]
    codes = [(arrays[n], len(kinds[n].classes)) for n in used if not kinds[n].columns]
    if head.mode in ("rank", "clip"):
        columns, codes = [_standardized(arrays[n], kinds[n]) for n in used], []
    result = []
    for s, borders in enumerate(trial):
        empty = np.zeros((len(borders), 0))
        discrete = np.zeros(len(borders), np.int64)
        for values, number in codes:
            unknown = (discrete < 0) | (values[s] < 0)
            discrete = np.where(unknown, -1, discrete * number + values[s])
        result.append(SessionLabels(borders, np.concatenate([empty, *(c[s] for c in columns)], axis=1), discrete))
    return result


def _plain(array: np.ndarray) -> np.ndarray:
    """Strings as NumPy's, from the bytes of a file or the objects of pandas; all else as it is."""
    is_text = array.dtype.kind == "S" or (array.dtype.kind == "O" and all(isinstance(v, str) for v in array.flat))
    return array.astype(str) if is_text else array


def _numbers(array: np.ndarray, name: str, allow_missing: bool) -> np.ndarray:
    try:
        values = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} has type {array.dtype}, expected numbers") from None
    if np.isinf(values).any():
        raise ValueError(f"{name} has infinite values, expected finite numbers")
    if np.isnan(values).any() and not allow_missing:
        raise ValueError(
            f"{name} is NaN at {int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum())} of {len(values)} "
            "bins, expected numbers: leave these bins out, or set allow_missing_labels=True (they then take part only "
            "in time heads and as references)"
        )
    return values.reshape(len(values), -1)


def _classes(
    values: list[np.ndarray], name: str, known: LabelKind | None, allow_missing: bool
) -> tuple[list[np.ndarray], LabelKind]:
    for s, array in enumerate(values):
        if array.dtype.kind not in "iubUS" or (array.ndim == 2 and array.shape[1] != 1):
            raise ValueError(
                f"{name} of session {s} has type {array.dtype} and shape {array.shape}, expected one column of "
                "integers or strings (classes), in every session alike; continuous labels are floats in every session"
            )
    flat = [array.reshape(-1) for array in values]
    if len({"number" if a.dtype.kind in "iub" else "text" for a in flat}) > 1:
        raise ValueError(f"{name} is of numbers in some sessions and of strings in others, expected one of them")
    observed = [a >= 0 if allow_missing and a.dtype.kind == "i" else np.ones(len(a), bool) for a in flat]
    classes = known.classes if known else np.unique(np.concatenate([a[o] for a, o in zip(flat, observed)])).tolist()
    code = {value: number for number, value in enumerate(classes)}
    result = []
    for array, seen in zip(flat, observed):
        unseen = sorted({str(v) for v in array[seen].tolist() if v not in code})
        if unseen:
            raise ValueError(f"{name} has classes {unseen[:5]}, expected those of the first fit: {classes[:20]}")
        result.append(np.array([code[v] if s else -1 for v, s in zip(array.tolist(), seen)], np.int64))
    codes = np.concatenate(result)
    share = np.bincount(codes[codes >= 0], minlength=len(classes)) / max(1, int((codes >= 0).sum()))
    # Of an indicator, whose columns would not fit into memory for many classes.
    spread = np.sqrt(share * (1 - share))
    return result, known or LabelKind(0, classes, share.tolist(), np.where(spread > 0, spread, 1.0).tolist())


def _moments(rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of columns; 0 and 1 where there is nothing to measure."""
    if not len(rows):
        return [0.0] * rows.shape[1], [1.0] * rows.shape[1]
    spread = rows.std(axis=0)
    return rows.mean(axis=0).tolist(), np.where(spread > 0, spread, 1.0).tolist()


def _standardized(sessions: list[np.ndarray], kind: LabelKind) -> list[np.ndarray]:
    if not kind.columns:
        identity = np.eye(len(kind.classes))
        sessions = [np.where(codes[:, None] < 0, np.nan, identity[codes]) for codes in sessions]
    return [(values - np.array(kind.center)) / np.array(kind.spread) for values in sessions]


def _describe(kinds: Sequence[LabelKind]) -> str:
    return ", ".join("float" if kind.columns else "classes" for kind in kinds) or "none"
