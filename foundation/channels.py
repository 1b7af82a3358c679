"""What a run reads and predicts: which recordings, cut how, and the covariates as channels of the model.

Normalizers are found in `foundation.normalizers`. Nothing here reads a spike or draws a window.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise

import numpy as np

from foundation.corpus import Corpus
from foundation.mixture import CorpusConfig, Mixture, names_by_dataset
from foundation.normalizers import find_normalizer
from foundation.recording import CovariateSpec
from foundation.splits import SplitName, held_out_subjects

# A window has at least so many bins.
MIN_BINS = 2


@dataclass
class DataConfig:
    """Which recordings, cut how.

    Attributes:
        corpus: Corpus folder or URL.
        corpora: Instead of one corpus several, by a name of your choice.
        shared: Covariates that several corpora have and that mean the same: one head for all.
        subjects: Pretraining animals; empty for all that are not held out.
        recordings: Of these animals only these recordings; empty for all.
        held_out: Animals that no pretraining window may touch.
        held_out_sessions: Recordings that no pretraining window may touch, of animals that are pretrained on.
        held_out_fraction: Without a list, hold out the animals whose identity hashes below this.
        inputs: Covariates the model reads; empty for all.
        targets: Covariates it predicts; empty for those of role `behavior`.
        bin_size_s: Seconds.
        window_s: Longest window, seconds.
        split: Rule within a session.
        fold: Fold of the interleaved rule.
    """

    corpus: str = ""
    corpora: dict[str, CorpusConfig] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    held_out_sessions: list[str] = field(default_factory=list)
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


def open_data(config: DataConfig) -> Corpus:
    """The corpus of a config, or its mixture of corpora.

    Raises:
        ValueError: Neither or both are given, or a dataset is renamed in two ways.
    """
    if bool(config.corpus) == bool(config.corpora):
        got = "both" if config.corpus else "neither"
        raise ValueError(f"data: got {got}, give data.corpus (one folder) or data.corpora (several, by name)")
    if not config.corpora:
        return Corpus.open(config.corpus)
    if config.inputs or config.targets:
        raise ValueError("data.inputs and data.targets: with data.corpora, list them under each corpus")
    parts = {key: Corpus.open(part.path) for key, part in config.corpora.items()}
    return Mixture(parts, names_by_dataset(parts, config.corpora))


def corpus_groups(corpus: Corpus, config: DataConfig) -> dict[str, tuple[float, list[str]]]:
    """Of each corpus of a mixture its weight and its recordings; empty for a single corpus."""
    if not isinstance(corpus, Mixture):
        return {}
    return {key: (config.corpora[key].weight, part.ids) for key, part in corpus.parts.items()}


def find_channels(
    corpus: Corpus, config: DataConfig, recording_ids: list[str], max_sessions: int = 12
) -> list[Channel]:
    """The channels of a corpus: specs merged by name, normalizers from train stretches of the given sessions only.

    In a mixture a name that several corpora have is one channel only if `data.shared` lists it. Such corpora must agree
    on kind, classes, dimension, unit and use, and their values on the order of magnitude.

    Args:
        corpus: As made by `open_data`.
        config: Which covariates, and how the sessions are split.
        recording_ids: Sessions of pretraining.
        max_sessions: Read the statistics of this many sessions of each corpus, evenly spaced.

    Raises:
        ValueError: A name in `inputs`, `targets`, `rename` or `shared` that no recording has; two recordings that
            disagree on a spec; a name that two corpora have without sharing it, or share without agreement.
    """
    found: dict[str, dict[str, CovariateSpec]] = {}
    for recording_id in recording_ids:
        part = corpus.part_of(recording_id) if isinstance(corpus, Mixture) else ""
        for name, covariate in corpus[recording_id].covariates.items():
            first = found.setdefault(name, {}).setdefault(part, covariate.spec)
            if differs := _differences(first, covariate.spec):
                raise ValueError(
                    f"{recording_id}: covariate {name!r} differs in {differs} from the same name in another session"
                )
    _check_names(config, found)
    channels = []
    for name, specs in found.items():
        uses = {part: _use(config.corpora[part] if part else config, spec) for part, spec in specs.items()}
        _check_shared(name, specs, uses)
        is_input, is_target = next(iter(uses.values()))
        if is_input or is_target:
            channels.append(Channel(next(iter(specs.values())), is_input, is_target))
    sampled = {}
    for part in {part: None for specs in found.values() for part in specs}:
        ids = [key for key in recording_ids if not isinstance(corpus, Mixture) or corpus.part_of(key) == part]
        sampled[part] = ids[:: max(1, len(ids) // max_sessions)][:max_sessions]
    for i, channel in enumerate(channels):
        if channel.spec.kind == "continuous":
            mean, std = find_normalizer(channel.spec, corpus, sampled, config.split, config.fold)
            channels[i] = replace(channel, mean=mean, std=std)
    return channels


def _use(config: DataConfig | CorpusConfig, spec: CovariateSpec) -> tuple[bool, bool]:
    """Whether a covariate is read, and whether it is predicted."""
    is_target = spec.name in config.targets if config.targets else spec.role == "behavior"
    return not config.inputs or spec.name in config.inputs, is_target


def _differences(first: CovariateSpec, second: CovariateSpec) -> list[str]:
    """Fields other than the description in which two specs differ."""
    left, right = asdict(first), asdict(second)
    return [
        f"{key} ({left[key]!r} and {right[key]!r})" for key in left if key != "description" and left[key] != right[key]
    ]


def _check_names(config: DataConfig, found: dict[str, dict[str, CovariateSpec]]) -> None:
    for part, one in config.corpora.items() or [("", config)]:
        known = {name for name, specs in found.items() if part in specs}
        where = f"data.corpora.{part}" if part else "data"
        for key in ("inputs", "targets"):
            if unknown := sorted(set(getattr(one, key)) - known):
                raise ValueError(f"{where}.{key}: no covariate {unknown} in {_path(one)}; there are {sorted(known)}")
        renamed = one.rename if isinstance(one, CorpusConfig) else {}
        if unknown := sorted(old for old, new in renamed.items() if new not in known):
            raise ValueError(f"{where}.rename: no covariate {unknown} in {_path(one)}; there are {sorted(known)}")
    several = {name for name, specs in found.items() if len(specs) > 1}
    if alone := sorted(set(config.shared) - several):
        raise ValueError(f"data.shared: {alone} are not in two corpora; those that are: {sorted(several)}")
    if undecided := sorted(several - set(config.shared)):
        name = undecided[0]
        part = list(found[name])[-1]
        raise ValueError(
            f"data: several corpora have {undecided}. If they mean the same, write `shared: {undecided}`; if not, "
            f"rename them in all but one, such as data.corpora.{part}.rename: {{{name}: {part}_{name}}}"
        )


def _path(config: DataConfig | CorpusConfig) -> str:
    return config.path if isinstance(config, CorpusConfig) else config.corpus


def _check_shared(name: str, specs: dict[str, CovariateSpec], uses: dict[str, tuple[bool, bool]]) -> None:
    first = next(iter(specs))
    for part, spec in specs.items():
        differs = _differences(specs[first], spec)
        if uses[part] != uses[first]:
            differs.append(f"(input, target) ({uses[first]} and {uses[part]})")
        if differs:
            raise ValueError(
                f"data.shared: {name!r} differs between {first} and {part} in {', '.join(differs)}; make the recipes "
                "agree, or rename one"
            )


def pretraining_corpus(corpus: Corpus, config: DataConfig) -> Corpus:
    """The recordings that may be trained on.

    Raises:
        ValueError: As `pretraining_subjects` says, a held-out session that does not exist, or nothing is left.
    """
    subjects = pretraining_subjects(corpus, config)
    if unknown := sorted(set(config.held_out_sessions) - set(corpus.ids)):
        raise ValueError(
            f"data.held_out_sessions: no recording {unknown[:6]} in {corpus.path}; ids are like {corpus.ids[0]}"
        )
    chosen = [key for key in config.recordings or corpus.ids if key not in config.held_out_sessions]
    left = corpus.select(subjects=subjects, recordings=chosen)
    if not left.ids:
        raise ValueError(
            f"data: of the pretraining animals {subjects[:6]} no recording is left by data.recordings "
            f"({len(config.recordings)} named) and data.held_out_sessions ({len(config.held_out_sessions)} named)"
        )
    return left


def pretraining_subjects(corpus: Corpus, config: DataConfig) -> list[str]:
    """The animals that may be trained on.

    Raises:
        ValueError: An animal is listed both for pretraining and as held out, one that is held out does not exist, or
            none is left, of any of several corpora.
    """
    known = sorted(set(corpus.subjects.values()))
    if unknown := sorted(set(config.held_out) - set(known)):
        raise ValueError(f"data.held_out: no subject {unknown} in {corpus.path}; there are {known[:12]}")
    held = config.held_out or held_out_subjects(known, config.held_out_fraction)
    if both := sorted(set(config.subjects) & set(held)):
        raise ValueError(f"data: {both} are in subjects and held out; an animal has one place")
    subjects = config.subjects or [subject for subject in known if subject not in held]
    if not subjects:
        raise ValueError(f"data: all animals of {corpus.path} are held out; lower data.held_out_fraction")
    for key, part in corpus.parts.items() if isinstance(corpus, Mixture) else ():
        if not set(part.subjects.values()) & set(subjects):
            raise ValueError(
                f"data.corpora.{key}: none of its {len(set(part.subjects.values()))} animals is left for pretraining; "
                "drop this corpus, or hold out others"
            )
    return subjects
