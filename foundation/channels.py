"""What a run reads and predicts: which recordings, cut how, and the covariates as channels of the model.

Normalizers come from train stretches of the pretraining sessions. Nothing here reads a spike or draws a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from foundation.corpus import Corpus
from foundation.recording import CovariateSpec
from foundation.splits import ROLES, SplitName, held_out_subjects, session_roles, stretches

# A window has at least so many bins.
MIN_BINS = 2


@dataclass
class DataConfig:
    """Which recordings, cut how.

    Attributes:
        corpus: Corpus folder.
        subjects: Pretraining animals; empty for all that are not held out.
        held_out: Animals that no pretraining window may touch.
        held_out_fraction: Without a list, hold out the animals whose identity hashes below this.
        inputs: Covariates the model reads; empty for all.
        targets: Covariates it predicts; empty for those of role `behavior`.
        bin_size_s: Seconds.
        window_s: Longest window, seconds.
        split: Rule within a session.
        fold: Fold of the interleaved rule.
    """

    corpus: str = ""
    subjects: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    held_out_fraction: float = 0.2
    inputs: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    bin_size_s: float = 0.02
    window_s: float = 2.0
    split: SplitName = "interleaved"
    fold: int = 0

    def __post_init__(self) -> None:
        """Reject bins and windows that hold nothing."""
        if not 0 < self.bin_size_s < np.inf:
            raise ValueError(f"data.bin_size_s is {self.bin_size_s}, expected a positive number of seconds")
        if not MIN_BINS - 1e-6 <= self.window_s / self.bin_size_s < np.inf:
            raise ValueError(
                f"data.window_s is {self.window_s}, expected at least {MIN_BINS} bins of {self.bin_size_s} s"
            )


@dataclass(frozen=True)
class Channel:
    """A covariate as the model sees it.

    Attributes:
        spec: Its meaning.
        is_input: Whether the model may read it.
        is_target: Whether the model predicts it.
        mean: `(dim,)` training mean of a continuous covariate, else 0.
        std: `(dim,)` training standard deviation, else 1.
    """

    spec: CovariateSpec
    is_input: bool = True
    is_target: bool = True
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def width(self) -> int:
        """Numbers per bin: classes, dimensions, or 1 for an event count."""
        return self.spec.num_classes if self.spec.kind == "categorical" else self.spec.dim


def channel_slices(channels: list[Channel]) -> list[slice]:
    """Where each channel lies among the V packed values of a bin."""
    edges = np.cumsum([0, *(channel.width for channel in channels)])
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def find_channels(
    corpus: Corpus, config: DataConfig, recording_ids: list[str], max_sessions: int = 12
) -> list[Channel]:
    """The channels of a corpus: specs merged by name, normalizers from train stretches of the given sessions only.

    Raises:
        ValueError: A name in `inputs` or `targets` that no recording has, or two recordings that disagree on a spec.
    """
    specs: dict[str, CovariateSpec] = {}
    for recording_id in recording_ids:
        for name, covariate in corpus[recording_id].covariates.items():
            if specs.setdefault(name, covariate.spec) != covariate.spec:
                raise ValueError(f"{recording_id}: covariate {name!r} differs from the same name in another session")
    for key in ("inputs", "targets"):
        if unknown := sorted(set(getattr(config, key)) - set(specs)):
            raise ValueError(f"data.{key}: no covariate {unknown} in {config.corpus}; there are {sorted(specs)}")
    channels = []
    for name, spec in specs.items():
        is_input = not config.inputs or name in config.inputs
        is_target = name in config.targets if config.targets else spec.role == "behavior"
        if is_input or is_target:
            channels.append(Channel(spec, is_input, is_target))
    step = max(1, len(recording_ids) // max_sessions)
    sampled = recording_ids[::step][:max_sessions]
    return [_with_normalizer(channel, corpus, config, sampled) for channel in channels]


def _with_normalizer(channel: Channel, corpus: Corpus, config: DataConfig, recording_ids: list[str]) -> Channel:
    if channel.spec.kind != "continuous":
        return channel
    total, square, number = np.zeros(channel.spec.dim), np.zeros(channel.spec.dim), 0
    for recording_id in recording_ids:
        recording = corpus[recording_id]
        covariate = recording.covariates.get(channel.spec.name)
        if covariate is None:
            continue
        rows = np.flatnonzero(session_roles(recording, config.split, config.fold) == ROLES["train"])
        values = covariate.values.reshape(len(covariate.values), -1).astype(float)
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
    if not number:
        return channel
    mean = total / number
    std = np.sqrt(np.maximum(square / number - mean**2, 0))
    std[std < 1e-6] = 1.0
    return Channel(channel.spec, channel.is_input, channel.is_target, tuple(mean.tolist()), tuple(std.tolist()))


def pretraining_subjects(corpus: Corpus, config: DataConfig) -> list[str]:
    """The animals that may be trained on.

    Raises:
        ValueError: An animal is listed both for pretraining and as held out, or none is left.
    """
    known = sorted(set(corpus.subjects.values()))
    held = config.held_out or held_out_subjects(known, config.held_out_fraction)
    if both := sorted(set(config.subjects) & set(held)):
        raise ValueError(f"data: {both} are in subjects and held out; an animal has one place")
    subjects = config.subjects or [subject for subject in known if subject not in held]
    if not subjects:
        raise ValueError(f"data: all animals of {config.corpus} are held out; lower data.held_out_fraction")
    return subjects
