"""Which pretraining sessions are most like a new animal's, and as many at random: controls of "more animals help".

A model of all sessions may win because a few of them resemble the target, so it is compared with models of the k most
similar sessions and of k random ones with as much data. Of the target only train trials are read, as in adaptation;
likeness is judged from unlabeled unit statistics (or any vectors per unit, such as embeddings), whatever the number and
order of units. It trains nothing: the ids go into the config of a run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eval.region_evaluation import aligned
from eval.unit_features import unit_features
from foundation.corpus import Corpus
from foundation.recording import Recording
from foundation.splits import TRAIN, SplitName, few_shot_roles, session_roles, stretches

# Units of a session are compared as distributions, feature by feature, at these quantiles.
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# Random sessions hold as much data as the best ones, up to this factor; so many draws are tried.
SAME_AMOUNT, MOST_TRIES = 1.1, 20_000


@dataclass(frozen=True)
class Selection:
    """Sessions to pretrain on instead of all.

    Attributes:
        best: The k most similar recordings, the nearest first.
        random: Sets of k recordings each, sorted, that hold as much data.
        amount: Of `best`, in the unit that was given.
        random_amounts: Of each set in `random`.
    """

    best: tuple[str, ...]
    random: tuple[tuple[str, ...], ...]
    amount: float
    random_amounts: tuple[float, ...]


def train_only(
    recording: Recording, split: SplitName = "interleaved", fold: int = 0, few_shot: tuple[int, int] | None = None
) -> Recording:
    """The recording with its train trials (or stretches) as the only usable ones.

    Args:
        recording: Any.
        split: Rule within a session.
        fold: Of the interleaved rule.
        few_shot: `(K, draw)`: K train trials of that draw.

    Raises:
        ValueError: Fewer train trials than asked for.
    """
    roles = session_roles(recording, split, fold)
    if few_shot is not None:
        roles = few_shot_roles(roles, few_shot[0], few_shot[1], recording.info.session)
    if len(recording.trials):
        return replace(recording, trials=recording.trials.assign(usable=roles == TRAIN))
    bounds = stretches(recording)
    table = {"start_s": bounds[:, 0], "stop_s": bounds[:, 1], "usable": roles == TRAIN}
    return replace(recording, trials=pd.DataFrame(table).assign(source_index=np.arange(len(bounds))))


def unit_profiles(
    corpus: Corpus,
    recording_ids: Sequence[str],
    *,
    bin_size_s: float = 0.02,
    split: SplitName = "interleaved",
    fold: int = 0,
    few_shot: tuple[int, int] | None = None,
    few_shot_of: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Activity statistics `(N, F)` of the units of each session in its train trials (`eval.unit_features`).

    Args:
        corpus: Holds the sessions.
        recording_ids: Targets and candidates.
        bin_size_s: Seconds.
        split: Rule within a session.
        fold: Of the interleaved rule.
        few_shot: `(K, draw)` of the sessions in `few_shot_of`.
        few_shot_of: Recording ids, the targets.
    """
    chosen = {key: few_shot if key in few_shot_of else None for key in recording_ids}
    return aligned(
        {key: unit_features(train_only(corpus[key], split, fold, few), bin_size_s) for key, few in chosen.items()}
    )


def session_distances(profiles: Mapping[str, np.ndarray], targets: Sequence[str]) -> dict[str, float]:
    """How far each other session is from the targets, the nearest first.

    For each feature the difference between the quantiles of two sessions' units, in standard deviations of all
    candidates' units, and then the mean over quantiles and features: the mean Wasserstein-1 distance of the marginals,
    up to the tails. Several targets (the sessions of one animal) count alike.

    Args:
        profiles: `(N, F)` by recording id.
        targets: Recording ids among `profiles`.

    Raises:
        ValueError: A target without a profile, no candidate, or values that are not finite.
    """
    candidates = [key for key in profiles if key not in targets]
    if unknown := sorted(set(targets) - set(profiles)):
        raise ValueError(f"no profile of {unknown}; give one for every target")
    if not candidates or not targets:
        raise ValueError(f"{len(targets)} targets and {len(candidates)} candidates; expected one of each at least")
    if broken := [key for key, values in profiles.items() if not np.isfinite(values).all()]:
        raise ValueError(f"profiles of {broken[:3]} are not finite; mend them, or leave the sessions out")
    scale = np.concatenate([profiles[key] for key in candidates]).std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)
    summary = {key: np.quantile(values, QUANTILES, axis=0) / scale for key, values in profiles.items()}
    distances = {
        key: float(np.mean([np.abs(summary[key] - summary[target]).mean() for target in targets])) for key in candidates
    }
    return dict(sorted(distances.items(), key=lambda item: (item[1], item[0])))


def data_amounts(corpus: Corpus, recording_ids: Sequence[str], split: SplitName, fold: int = 0) -> dict[str, float]:
    """Unit-seconds of train trials of each session: what a model of spikes learns from."""
    amounts = {}
    for key in recording_ids:
        recording = corpus[key]
        bounds = stretches(recording)[session_roles(recording, split, fold) == TRAIN]
        amounts[key] = recording.num_units * float((bounds[:, 1] - bounds[:, 0]).sum())
    return amounts


def select_sessions(
    distances: Mapping[str, float],
    num_sessions: int,
    *,
    amounts: Mapping[str, float] | None = None,
    num_random: int = 3,
    seed: int = 0,
) -> Selection:
    """The most similar sessions, and random ones with as much data.

    Args:
        distances: Of the candidates, as from `session_distances`; no session of the target's animal among them.
        num_sessions: k.
        amounts: Data of each candidate, such as `data_amounts`; sets in `random` hold as much as `best` up to 10 %.
            None: sessions count alike.
        num_random: Sets to draw, all different.
        seed: Of the draws.

    Raises:
        ValueError: Fewer candidates than k, a candidate without an amount, or too few random sets with as much data.
    """
    keys = sorted(distances)
    if not 0 < num_sessions <= len(keys):
        raise ValueError(f"{num_sessions} sessions asked for, {len(keys)} candidates; ask for 1 to {len(keys)}")
    if amounts is not None and (missing := sorted(set(keys) - set(amounts))):
        raise ValueError(f"no amount of data of {missing[:3]}; give one for every candidate")
    size = np.array([1.0 if amounts is None else amounts[key] for key in keys])
    best = tuple(sorted(keys, key=lambda key: (distances[key], key))[:num_sessions])
    amount = float(size[[keys.index(key) for key in best]].sum())
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[str, ...], float] = {}
    for _ in range(MOST_TRIES):
        if len(drawn) == num_random:
            break
        chosen = np.sort(rng.choice(len(keys), num_sessions, replace=False))
        total = float(size[chosen].sum())
        if 1 / SAME_AMOUNT <= total / amount <= SAME_AMOUNT:
            drawn.setdefault(tuple(keys[i] for i in chosen), total)
    if len(drawn) < num_random:
        raise ValueError(
            f"{len(drawn)} of {num_random} random sets of {num_sessions} sessions hold as much data as the best ones "
            f"({amount:.4g}, within {SAME_AMOUNT - 1:.0%}); ask for fewer sets, another k, or compare by sessions"
        )
    return Selection(best, tuple(drawn), amount, tuple(drawn.values()))
