"""Whether a stored mean and standard deviation were fitted on test rows: both are made again from every set of rows.

An exact test without chance: the sets are sessions (those the normalizer says it read, all of pretraining, with or
without the evaluated ones, or these alone) times roles. The set that reproduces the numbers is the one that was used.
Numbers that no set reproduces (another estimator, a random draw of rows) stay undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from eval.leak import Leak
from foundation.corpus import Corpus
from foundation.recording import Recording
from foundation.splits import NO_ROLE, TEST, TRAIN, VAL, SplitName, session_roles, stretches

# In standard deviations, and in log standard deviation. A set must also fit clearly better than the train rows.
TOLERANCE, BETTER = 1e-3, 0.2
_ROLE_NAMES = {TRAIN: "train", VAL: "val", TEST: "test", NO_ROLE: "unused"}
_WHAT = "statistic of test rows"


@dataclass(frozen=True)
class Normalizer:
    """A stored mean and standard deviation, and the sessions it says they came from.

    Attributes:
        mean: `(dim,)`.
        std: `(dim,)`.
        sources: Recording ids; empty for all of pretraining.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sources: tuple[str, ...] = ()


# Number of samples, sum and sum of squares `(dim,)`, from the mean of the first samples for precision.
_Moments = tuple[int, np.ndarray, np.ndarray]


def normalizer_leaks(
    stored: Mapping[str, Normalizer],
    corpus: Corpus,
    pretraining: Sequence[str],
    evaluated: Sequence[str],
    split: SplitName = "interleaved",
    fold: int = 0,
) -> list[Leak]:
    """Covariates whose stored statistic is that of rows it must not know.

    Train and validation rows of pretraining sessions may be used; test rows may not, nor any row of an evaluated
    session that the normalizer does not name among its sources.

    Args:
        stored: By name of the covariate.
        corpus: Holds the sessions.
        pretraining: Recording ids.
        evaluated: Recording ids.
        split: Rule within a session.
        fold: Of the interleaved rule.
    """
    keys = list(dict.fromkeys([*pretraining, *evaluated, *(k for one in stored.values() for k in one.sources)]))
    moments: dict[str, dict[tuple[str, int], _Moments]] = {name: {} for name in stored}
    for key in keys:
        recording = corpus[key]
        roles = session_roles(recording, split, fold)
        for name in stored:
            if name in recording.covariates:
                shift = np.asarray(stored[name].mean)
                for role in _ROLE_NAMES:
                    moments[name][key, role] = _moments(recording, name, roles == role, shift)
    return list(
        chain.from_iterable(_judge(name, stored[name], moments[name], pretraining, evaluated) for name in stored)
    )


def _judge(
    name: str,
    stored: Normalizer,
    moments: dict[tuple[str, int], _Moments],
    pretraining: Sequence[str],
    evaluated: Sequence[str],
) -> list[Leak]:
    named = stored.sources or tuple(pretraining)
    sessions = {
        "its sources": tuple(named),
        "all of pretraining": tuple(pretraining),
        "pretraining and evaluated sessions": tuple(dict.fromkeys([*named, *evaluated])),
        "all sessions": tuple(dict.fromkeys([*pretraining, *evaluated])),
        "evaluated sessions": tuple(evaluated),
    }
    allowed: dict[str, float] = {}
    forbidden: dict[str, float] = {}
    for words, keys in sessions.items():
        own = set(keys) <= set(named) | set(pretraining)
        for roles in chain.from_iterable(combinations(_ROLE_NAMES, n) for n in range(1, 5)):
            distance = _distance(
                stored, [moments[key, role] for key in keys for role in roles if (key, role) in moments]
            )
            fits = allowed if own and set(roles) <= {TRAIN, VAL} else forbidden
            fits[f"{' + '.join(_ROLE_NAMES[r] for r in roles)} rows of {words}"] = distance
    clean, leaky = min(allowed.values()), min(forbidden, key=lambda words: forbidden[words])
    if clean <= max(forbidden[leaky] / BETTER, 1e-6) and clean <= TOLERANCE:
        return []
    if forbidden[leaky] <= TOLERANCE:
        return [Leak.of(_WHAT, f"{name}: that of the {leaky}", clean, TOLERANCE)]
    where = f"{name}: stored mean and deviation are those of no set of rows; nearest the {leaky}"
    return [Leak.undecided(_WHAT, where, min(clean, forbidden[leaky]), TOLERANCE)]


def _distance(stored: Normalizer, parts: list[_Moments]) -> float:
    """Largest difference over dimensions, of means in deviations and of log deviations; infinite without samples."""
    number = sum(part[0] for part in parts)
    if number < 2:
        return float("inf")
    total, square = sum(part[1] for part in parts) / number, sum(part[2] for part in parts) / number
    variance = np.maximum(square - total**2, 0)
    # Constant columns are stored with a deviation of 1, as `foundation.normalizers` does.
    std = np.where(np.sqrt(variance) < 1e-6, 1.0, np.sqrt(variance))
    logs = np.log(np.asarray(stored.std) / std)
    # Some divide by n - 1.
    spread = min(np.max(np.abs(logs - unbiased)) for unbiased in (0.0, 0.5 * np.log(number / (number - 1))))
    return float(max(np.max(np.abs(total) / std), spread))


def _moments(recording: Recording, name: str, chosen: np.ndarray, shift: np.ndarray) -> _Moments:
    """Of the observed samples of a covariate, less `shift`, in the stretches `chosen` `(M,)` bool."""
    covariate = recording.covariates[name]
    values = covariate.values.reshape(len(covariate.observed), -1)
    if covariate.times is None:
        rows = chosen
    else:
        bounds = covariate.times.searchsorted(stretches(recording)[chosen])
        rows = np.zeros(len(values), bool)
        for start, stop in bounds:
            rows[start:stop] = True
    seen = values[rows & covariate.observed].astype(float) - shift
    return len(seen), seen.sum(axis=0), (seen**2).sum(axis=0)
