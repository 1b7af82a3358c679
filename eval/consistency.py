"""How alike embeddings are between runs, and between sessions or animals: held out in time, beside a permuted control.

A map is fitted on train rows and scored on other time. The in-sample score, which CEBRA reports, stands beside it: it
says nothing where there are no more rows than dimensions. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from eval.alignment_maps import Method, linear_map, map_score, procrustes_map

Labels = np.ndarray | Sequence[np.ndarray]
Control = Literal["shift", "permute"]

MIN_SHIFT = 0.1
"""Least circular shift of the permuted control, as a share of the rows."""


@dataclass(frozen=True)
class Consistency:
    """Scores of all ordered pairs of n embeddings; row = the one that is mapped, column = the one it is mapped to.

    Attributes:
        names: n names.
        method: `linear` (mean R2 over dimensions) or `procrustes` (R2 of all dimensions pooled).
        held_out: `(n, n)` score on other time than the map was fitted on; NaN on the diagonal, and for a pair with
            fewer than two rows in common.
        in_sample: `(n, n)` score on the rows of the fit.
        permuted: `(P, n, n)` as `held_out`, after P shifts or permutations of the first embedding (runs) or its labels.
        permuted_in_sample: `(P, n, n)` as `in_sample`.
        rows: `(n, n)` rows that the map was fitted on: bins of time, or label bins.
        scored: `(n, n)` rows that it was scored on.
        dimensions: Of the n embeddings. Where `rows` <= `dimensions` + 1, `in_sample` is 1 whatever the data.
    """

    names: tuple[str, ...]
    method: Method
    held_out: np.ndarray
    in_sample: np.ndarray
    permuted: np.ndarray
    permuted_in_sample: np.ndarray
    rows: np.ndarray
    scored: np.ndarray
    dimensions: tuple[int, ...]

    def mean(self) -> float:
        """Mean held-out score of all ordered pairs."""
        return float(np.nanmean(self.held_out))

    def table(self) -> pd.DataFrame:
        """One row per ordered pair, with the mean and the 95th percentile of the permuted control."""
        out = []
        for i, j in _pairs(len(self.names)):
            null = self.permuted[:, i, j]
            out.append(
                {
                    "source": self.names[i],
                    "target": self.names[j],
                    "method": self.method,
                    "held_out": self.held_out[i, j],
                    "permuted": null.mean(),
                    "permuted_95": np.quantile(null, 0.95),
                    "in_sample": self.in_sample[i, j],
                    "permuted_in_sample": self.permuted_in_sample[:, i, j].mean(),
                    "rows": self.rows[i, j],
                    "rows_scored": self.scored[i, j],
                    "in_sample_vacuous": bool(self.rows[i, j] <= self.dimensions[i] + 1),
                }
            )
        return pd.DataFrame(out)


def between_runs(
    embeddings: Sequence[np.ndarray],
    train: np.ndarray,
    test: np.ndarray,
    *,
    method: Method = "linear",
    names: Sequence[str] | None = None,
    control: Control = "shift",
    permutations: int = 20,
    seed: int = 0,
) -> Consistency:
    """Consistency of embeddings of the same bins of time.

    Args:
        embeddings: n arrays `(T, D)`; D may differ.
        train: `(T,)` bool, where the map is fitted.
        test: `(T,)` bool, other time, where it is scored. With windows of several bins leave a gap.
        method: `linear` or `procrustes`.
        names: n names; default 0, 1, ...
        control: `shift` rolls the first embedding in time and keeps its slowness; `permute` destroys that too.
        permutations: Draws of the control per pair, of train and of test rows apart.
        seed: Of the control.

    Raises:
        ValueError: Fewer than two embeddings, lengths that differ, or train and test that overlap or are too short.
    """
    arrays = _checked(embeddings)
    train, test = _masks(train, len(arrays[0])), _masks(test, len(arrays[0]))
    if any(len(a) != len(arrays[0]) for a in arrays):
        raise ValueError(
            f"runs of {[len(a) for a in arrays]} bins; between_runs compares the same bins, so give equal lengths or "
            "align sessions by labels with between_sessions"
        )
    _disjoint(train, test, "embeddings")

    def rows(i: int, j: int, rng: np.random.Generator | None) -> tuple[np.ndarray, ...]:
        parts = []
        for mask in (train, test):
            first = arrays[i][mask]
            parts += [first if rng is None else _disturb(first, control, rng), arrays[j][mask]]
        return tuple(parts)

    return _all_pairs(arrays, rows, method, names, permutations, seed)


def between_sessions(
    embeddings: Sequence[np.ndarray],
    labels: Sequence[Labels],
    train: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
    *,
    num_bins: int = 100,
    min_count: int = 1,
    method: Method = "linear",
    names: Sequence[str] | None = None,
    control: Control = "shift",
    permutations: int = 20,
    seed: int = 0,
) -> Consistency:
    """Consistency of embeddings of different sessions or animals: of their mean embeddings per label bin.

    A pair is fitted on the label bins that both visit in their train time, from means over that time, and scored on
    those that both visit in their held-out time, from means over that.

    Args:
        embeddings: n arrays `(T_s, D)`.
        labels: Per session `(T_s,)` or `(T_s, L)`, or a list of such. Integers are discrete: every combination of
            values is a bin of its own. Floats are cut per column into equal widths over the range of all sessions.
        train: Per session `(T_s,)` bool.
        test: Per session `(T_s,)` bool, other time.
        num_bins: Of each continuous column.
        min_count: Samples below which a session's bin is left out.
        method: `linear` or `procrustes`.
        names: n names; default 0, 1, ...
        control: `shift` rolls the first session's labels in time; `permute` draws them in any order. Labels that repeat
            with a period (laps of one length) survive a shift as a turned copy; permute those.
        permutations: Draws of the control per pair, within train and within test rows.
        seed: Of the control.

    Raises:
        ValueError: Numbers or lengths that do not match, labels that are not finite, train and test that overlap.
    """
    arrays = _checked(embeddings)
    if not len(arrays) == len(labels) == len(train) == len(test):
        raise ValueError(
            f"{len(arrays)} embeddings, {len(labels)} labels, {len(train)} train and {len(test)} test masks; "
            "expected one of each per session"
        )
    codes = label_bins(labels, num_bins)
    roles = []
    for s, (array, code) in enumerate(zip(arrays, codes)):
        if len(code) != len(array):
            raise ValueError(
                f"session {s}: {len(code)} labels for {len(array)} bins of the embedding; expected as many"
            )
        roles.append((_masks(train[s], len(array)), _masks(test[s], len(array))))
        _disjoint(*roles[-1], f"session {s}")
    size = 1 + max(int(code.max()) for code in codes)
    means = [[_bin_means(a[m], c[m], size, min_count) for m in role] for a, c, role in zip(arrays, codes, roles)]

    def rows(i: int, j: int, rng: np.random.Generator | None) -> tuple[np.ndarray, ...]:
        parts = []
        for part, mask in enumerate(roles[i]):
            first = means[i][part]
            if rng is not None:
                first = _bin_means(arrays[i][mask], _disturb(codes[i][mask], control, rng), size, min_count)
            second = means[j][part]
            both = np.isfinite(first[:, 0]) & np.isfinite(second[:, 0])
            parts += [first[both], second[both]]
        return tuple(parts)

    return _all_pairs(arrays, rows, method, names, permutations, seed)


def label_bins(labels: Sequence[Labels], num_bins: int) -> list[np.ndarray]:
    """Bin number `(T_s,)` of every sample, common to all sessions.

    Args:
        labels: As of `between_sessions`.
        num_bins: Equal widths of each continuous column, from the least to the greatest value of all sessions.

    Raises:
        ValueError: Sessions with different columns, or values that are not finite.
    """
    sessions = [_columns(label) for label in labels]
    shapes = {tuple(np.issubdtype(c.dtype, np.integer) for c in columns) for columns in sessions}
    if len(shapes) > 1:
        raise ValueError(
            "sessions differ in the number of label columns or in which of them are integers (discrete); "
            f"got {sorted(shapes)} (True = discrete), expected the same for all"
        )
    parts = []
    for column in zip(*sessions):
        pooled = np.concatenate(column)
        if not np.isfinite(pooled).all():
            raise ValueError(f"{int((~np.isfinite(pooled)).sum())} labels are not finite; leave those samples out")
        if np.issubdtype(pooled.dtype, np.integer):
            parts.append([np.unique(pooled).searchsorted(c) for c in column])
        else:
            edges = np.linspace(pooled.min(), pooled.max(), num_bins + 1)[1:-1]
            parts.append([np.digitize(c, edges) for c in column])
    joint = [np.stack(columns, axis=1) for columns in zip(*parts)]
    code = np.unique(np.concatenate(joint), axis=0, return_inverse=True)[1].reshape(-1)
    return np.split(code, np.cumsum([len(j) for j in joint])[:-1])


def _all_pairs(
    arrays: list[np.ndarray],
    rows: Callable[[int, int, np.random.Generator | None], tuple[np.ndarray, ...]],
    method: Method,
    names: Sequence[str] | None,
    permutations: int,
    seed: int,
) -> Consistency:
    """`rows(i, j, rng)` gives source and target of the fit, then of the score; with a generator, permuted."""
    maps = {"linear": linear_map, "procrustes": procrustes_map}
    if method not in maps:
        raise ValueError(f"method {method!r}, expected one of {sorted(maps)}")
    n = len(arrays)
    names = tuple(map(str, range(n))) if names is None else tuple(names)
    if len(names) != n:
        raise ValueError(f"{len(names)} names for {n} embeddings; expected one each")
    rng = np.random.default_rng(seed)
    scores = np.full((2, 1 + permutations, n, n), np.nan)
    counts = np.zeros((2, n, n), dtype=np.int64)
    for i, j in _pairs(n):
        for draw in range(1 + permutations):
            source, target, new_source, new_target = rows(i, j, rng if draw else None)
            if draw == 0:
                counts[:, i, j] = len(source), len(new_source)
            if min(len(source), len(new_source)) < 2:
                continue
            fitted = maps[method](source, target)
            scores[:, draw, i, j] = (
                map_score(new_target, fitted(new_source), method),
                map_score(target, fitted(source), method),
            )
    (held_out, in_sample), null = scores[:, 0], scores[:, 1:]
    dimensions = tuple(a.shape[1] for a in arrays)
    return Consistency(names, method, held_out, in_sample, null[0], null[1], counts[0], counts[1], dimensions)


def _pairs(n: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(n) for j in range(n) if i != j)


def _disturb(rows: np.ndarray, control: Control, rng: np.random.Generator) -> np.ndarray:
    if control == "permute":
        return rng.permutation(rows)
    if control != "shift":
        raise ValueError(f"control {control!r}, expected shift or permute")
    least = max(1, int(MIN_SHIFT * len(rows)))
    return np.roll(rows, int(rng.integers(least, max(least + 1, len(rows) - least + 1))), axis=0)


def _bin_means(rows: np.ndarray, code: np.ndarray, size: int, min_count: int) -> np.ndarray:
    """Mean embedding per bin `(size, D)`; NaN where there are fewer than `min_count` samples."""
    count = np.bincount(code, minlength=size)
    sums = np.stack([np.bincount(code, column, minlength=size) for column in rows.T], axis=1)
    enough = (count >= max(1, min_count))[:, None]
    return np.divide(sums, count[:, None], out=np.full(sums.shape, np.nan), where=enough)


def _columns(label: Labels) -> list[np.ndarray]:
    arrays = [label] if isinstance(label, np.ndarray) else [np.asarray(part) for part in label]
    return [column for array in arrays for column in np.atleast_2d(array.T)]


def _checked(embeddings: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [np.asarray(e, dtype=float) for e in embeddings]
    if len(arrays) < 2:
        raise ValueError(f"{len(arrays)} embedding; consistency compares at least 2")
    for i, array in enumerate(arrays):
        if array.ndim != 2 or not np.isfinite(array).all():
            raise ValueError(f"embedding {i} has shape {array.shape} or values that are not finite; expected (T, D)")
    return arrays


def _masks(mask: np.ndarray, length: int) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (length,):
        raise ValueError(f"mask of {mask.dtype} {mask.shape}, expected bool ({length},)")
    return mask


def _disjoint(train: np.ndarray, test: np.ndarray, who: str) -> None:
    if (both := int((train & test).sum())) or min(train.sum(), test.sum()) < 2:
        raise ValueError(
            f"{who}: {train.sum()} train and {test.sum()} test samples, {both} of them in both; expected at least 2 of "
            "each and none in both, since the score is for held-out time"
        )
