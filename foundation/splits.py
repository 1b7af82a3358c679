"""Who is held out, and which trials or stretches of a session play which role.

Animals: by hash of their identity. Within a session: contiguous blocks with a gap (protocol, section 1). Nothing here
reads spikes.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Literal

import numpy as np

from foundation.recording import Recording

SplitName = Literal["interleaved", "temporal"]
# A split that a source came with: "source:ts1" is "ts1" of `RecordingInfo.splits`, "source" the only one there.
SOURCE = "source"
TRAIN, VAL, TEST, NO_ROLE = 0, 1, 2, -1
ROLES = {"train": TRAIN, "val": VAL, "test": TEST}

# A session without trials is cut into stretches of this length, which then stand in for trials.
STRETCH_S = 10.0
# A trial may reach so far out of an interval; both are doubles on one clock.
_EDGE_S = 1e-6


def held_out_subjects(subjects: list[str], fraction: float, salt: str = "foundation") -> list[str]:
    """The animals to hold out: those whose identity hashes below `fraction`, whatever the others are.

    Args:
        subjects: Subject ids.
        fraction: Expected share in [0, 1].
        salt: Another salt, another choice.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"held-out fraction is {fraction}, expected a number from 0 to 1")

    def position(subject: str) -> float:
        digest = hashlib.sha256(f"{salt}/{subject}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    return sorted(subject for subject in set(subjects) if position(subject) < fraction)


def interleaved_roles(num_trials: int, fold: int = 0) -> np.ndarray:
    """Roles `(num_trials,)` int8 of contiguous blocks, interleaved (protocol, section 1, main split).

    5·max(1, round(n/125)) blocks; block j is test if j % 5 == (1+fold) % 5, val if j % 5 == (3+fold) % 5. The two train
    trials on each side of a test or val block have no role.
    """
    num_blocks = 5 * max(1, round(num_trials / 125))
    roles = np.full(num_trials, TRAIN, np.int8)
    for j, block in enumerate(np.array_split(np.arange(num_trials), num_blocks)):
        if j % 5 == (1 + fold) % 5:
            roles[block] = TEST
        elif j % 5 == (3 + fold) % 5:
            roles[block] = VAL
    near = np.zeros(num_trials, bool)
    for shift in (1, 2):
        near[shift:] |= roles[:-shift] != TRAIN
        near[:-shift] |= roles[shift:] != TRAIN
    roles[near & (roles == TRAIN)] = NO_ROLE
    return roles


def temporal_roles(num_trials: int) -> np.ndarray:
    """Roles `(num_trials,)` int8: first 60 % train, next 20 % val, last 20 % test; last 5 of train and val dropped."""
    first, second = round(0.6 * num_trials), round(0.8 * num_trials)
    roles = np.full(num_trials, TEST, np.int8)
    roles[:second] = VAL
    roles[:first] = TRAIN
    roles[max(0, first - 5) : first] = NO_ROLE
    roles[max(first, second - 5) : second] = NO_ROLE
    return roles


def few_shot_roles(roles: np.ndarray, num_train: int, draw: int, session: str) -> np.ndarray:
    """Keep `num_train` random train trials and max(8, num_train // 3) random val trials; test stays whole.

    Args:
        roles: `(num_trials,)` full roles.
        num_train: K of the protocol.
        draw: Which of the random draws, from 0.
        session: Name of the session; with `draw` it seeds the choice, so every model sees the same trials.

    Raises:
        ValueError: The session has fewer than `num_train` train trials.
    """
    train, val = np.flatnonzero(roles == TRAIN), np.flatnonzero(roles == VAL)
    if num_train > len(train):
        raise ValueError(f"{session}: {num_train} train trials asked for, {len(train)} exist; ask for fewer")
    rng = np.random.default_rng([zlib.crc32(session.encode()), draw])
    # Permutations first, so that a smaller K is a subset of a larger one in the same draw.
    kept_train = rng.permutation(train)[:num_train]
    kept_val = rng.permutation(val)[: max(8, num_train // 3)]
    few = np.where(roles == TEST, TEST, NO_ROLE).astype(np.int8)
    few[kept_train] = TRAIN
    few[kept_val] = VAL
    return few


def stretches(recording: Recording) -> np.ndarray:
    """Intervals `(M, 2)` in seconds that roles are given to: the trials, or equal pieces of the domain without trials.

    Trials are clipped to the domain by the sampler, not here, so that row m is always trial m.
    """
    if len(recording.trials):
        return recording.trials[["start_s", "stop_s"]].to_numpy(dtype=float)
    pieces = []
    for start, stop in recording.domain:
        cuts = np.append(np.arange(start, stop, STRETCH_S), stop)
        if len(cuts) > 2 and cuts[-1] - cuts[-2] < STRETCH_S / 2:
            cuts = np.delete(cuts, -2)
        pieces.append(np.stack([cuts[:-1], cuts[1:]], axis=1))
    return np.concatenate(pieces)


def source_intervals(recording: Recording, split: str) -> dict[str, np.ndarray]:
    """Intervals `(I, 2)` in seconds of each role in a split that the source came with, in any order.

    Args:
        recording: Any.
        split: "source:NAME", or "source" where there is one.

    Raises:
        ValueError: The recording does not bring it, several and none is named, or a role is none of train, val, test.
    """
    splits = recording.info.splits
    known = ", ".join(f"{SOURCE}:{scope}" if scope else SOURCE for scope in sorted(splits)) or "none"
    _, named, scope = split.partition(":")
    if not named and len(splits) == 1:
        scope = next(iter(splits))
    if scope not in splits:
        raise ValueError(
            f"{recording.info.recording_id}: no split {split!r} of its source, there are: {known}; name one of them, "
            "or split by interleaved or temporal"
        )
    if unknown := sorted(set(splits[scope]) - set(ROLES)):
        raise ValueError(f"{recording.info.recording_id}: split {split!r} has {unknown}, expected roles of {[*ROLES]}")
    return {role: np.asarray(parts, dtype=float).reshape(-1, 2) for role, parts in splits[scope].items()}


def source_roles(recording: Recording, split: str) -> np.ndarray:
    """Roles `(M,)` int8 in a split of the source: that of the interval which holds the whole trial, else none.

    Raises:
        ValueError: As `source_intervals`.
    """
    bounds = stretches(recording)
    roles = np.full(len(bounds), NO_ROLE, np.int8)
    for role, intervals in source_intervals(recording, split).items():
        for start, stop in intervals:
            roles[(bounds[:, 0] >= start - _EDGE_S) & (bounds[:, 1] <= stop + _EDGE_S)] = ROLES[role]
    return roles


def session_roles(recording: Recording, split: str = "interleaved", fold: int = 0) -> np.ndarray:
    """Roles `(M,)` int8 of a session's trials (or stretches), with unusable trials in no role.

    Args:
        recording: Any.
        split: "interleaved" or "temporal" (protocol, section 1), or one that the source came with (`source_intervals`).
        fold: Of the interleaved split.

    Raises:
        ValueError: No such split.
    """
    if split == "interleaved":
        roles = interleaved_roles(len(stretches(recording)), fold)
    elif split == "temporal":
        roles = temporal_roles(len(stretches(recording)))
    elif split.partition(":")[0] == SOURCE:
        roles = source_roles(recording, split)
    else:
        raise ValueError(f"split is {split!r}, expected interleaved, temporal, or source:NAME for one of the source's")
    if len(recording.trials):
        roles = np.where(recording.trials["usable"].to_numpy(bool), roles, NO_ROLE).astype(np.int8)
    return roles
