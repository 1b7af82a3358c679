"""Mean and standard deviation of a covariate over train stretches of pretraining sessions; reads no spike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foundation.corpus import Corpus
from foundation.recording import CovariateSpec
from foundation.splits import ROLES, SplitName, session_roles, stretches

# A covariate that two corpora share may differ between them by this factor in scale, or in mean by so many deviations.
MAX_SCALE_RATIO = 10.0

# Number of samples, their sum and their sum of squares, `(dim,)` each.
Moments = tuple[int, np.ndarray, np.ndarray]
Numbers = tuple[float, ...]


def find_normalizer(
    spec: CovariateSpec, corpus: Corpus, sampled: Mapping[str, list[str]], split: SplitName, fold: int
) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation, `(dim,)` each, over all sampled sessions; 0 and 1 where nothing was observed.

    Args:
        spec: A continuous covariate.
        corpus: Holds the sessions.
        sampled: Sessions to read, by corpus.
        split: Rule within a session.
        fold: Of the interleaved rule.

    Raises:
        ValueError: Two corpora whose values differ so much that their units must.
    """
    moments = {part: _moments(spec, corpus, ids, split, fold) for part, ids in sampled.items()}
    moments = {part: one for part, one in moments.items() if one[0]}
    if not moments:
        return (0.0,) * spec.dim, (1.0,) * spec.dim
    _check_scale(spec, moments)
    total, square = sum(one[1] for one in moments.values()), sum(one[2] for one in moments.values())
    mean, std = _mean_and_std((sum(one[0] for one in moments.values()), np.asarray(total), np.asarray(square)))
    std[std < 1e-6] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())


def _check_scale(spec: CovariateSpec, moments: Mapping[str, Moments]) -> None:
    scales = {part: _mean_and_std(one) for part, one in moments.items()}
    widest = np.max([std for _, std in scales.values()], axis=0)
    shown = {part: f"{mean.round(4).tolist()} +- {std.round(4).tolist()}" for part, (mean, std) in scales.items()}
    for part, (mean, std) in scales.items():
        for other, (elsewhere, _) in scales.items():
            far = (np.abs(mean - elsewhere) > MAX_SCALE_RATIO * widest) | (widest > MAX_SCALE_RATIO * std)
            if part != other and (far & (widest > 1e-6)).any():
                raise ValueError(
                    f"data.shared: {spec.name!r} is {shown[part]} in {part} and {shown[other]} in {other}, though both "
                    f"say {spec.unit or 'no unit'!r}; one of them is in another unit. Mend its recipe, or rename one"
                )


def _mean_and_std(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    number, total, square = moments
    mean = total / number
    return mean, np.sqrt(np.maximum(square / number - mean**2, 0))


def _moments(spec: CovariateSpec, corpus: Corpus, recording_ids: list[str], split: SplitName, fold: int) -> Moments:
    total, square, number = np.zeros(spec.dim), np.zeros(spec.dim), 0
    for recording_id in recording_ids:
        recording = corpus[recording_id]
        covariate = recording.covariates.get(spec.name)
        if covariate is None:
            continue
        rows = np.flatnonzero(session_roles(recording, split, fold) == ROLES["train"])
        values = covariate.values.reshape(len(covariate.values), spec.dim).astype(float)
        if covariate.times is None:
            chosen = np.zeros(len(values), bool)
            chosen[rows] = True
        else:
            bounds = stretches(recording)[rows]
            edges = covariate.times.searchsorted(bounds)
            marks = np.bincount(edges[:, 0], minlength=len(values) + 1) - np.bincount(
                edges[:, 1], minlength=len(values) + 1
            )
            chosen = np.cumsum(marks)[:-1] > 0
        seen = values[chosen & covariate.observed]
        total, square, number = total + seen.sum(0), square + (seen**2).sum(0), number + len(seen)
    return number, total, square
