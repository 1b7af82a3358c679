"""Several corpora read as one, with covariates under the names that a model knows them by; trains and bins nothing.

A covariate of one corpus is not that of another because they have one name: `foundation.channels` asks the config.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from foundation.corpus import Corpus
from foundation.durable import CorpusError
from foundation.recording import Recording, RecordingError

# Dataset -> covariate of its recordings -> name that the model knows it by.
Names = Mapping[str, Mapping[str, str]]


@dataclass
class CorpusConfig:
    """One corpus of a mixture.

    Attributes:
        path: Corpus folder.
        weight: Its share of the windows of a step is this over the sum of all weights.
        inputs: Covariates of it that the model reads, by their new names; empty for all.
        targets: Covariates of it that the model predicts; empty for those of role `behavior`.
        rename: New names of its covariates.
    """

    path: str = ""
    weight: float = 1.0
    inputs: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject a weight that no share can be made of."""
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"data.corpora: weight is {self.weight} for {self.path!r}, expected a positive number")


class Mixture(Corpus):
    """Corpora by key, read as one corpus.

    Attributes:
        parts: The corpora.
        names: New names of covariates, by dataset.
    """

    def __init__(self, parts: Mapping[str, Corpus], names: Names | None = None) -> None:
        """Join corpora.

        Raises:
            CorpusError: A recording is in two of them.
        """
        self.parts, self.names = dict(parts), {key: dict(value) for key, value in (names or {}).items()}
        self._part_of: dict[str, str] = {}
        for key, corpus in self.parts.items():
            if twice := sorted(set(corpus.ids) & set(self._part_of)):
                raise CorpusError(f"{corpus.path}: {twice[:3]} are in corpus {self._part_of[twice[0]]!r} too; drop one")
            self._part_of |= dict.fromkeys(corpus.ids, key)
        entries = {key: entry for corpus in self.parts.values() for key, entry in corpus.entries.items()}
        super().__init__(Path(" + ".join(str(corpus.path) for corpus in self.parts.values())), entries)

    def part_of(self, recording_id: str) -> str:
        """The key of the corpus that holds a recording."""
        return self._part_of[recording_id]

    def folder(self, recording_id: str) -> Path:
        """The folder of a recording."""
        if recording_id not in self._part_of:
            return super().folder(recording_id)
        return self.parts[self._part_of[recording_id]].folder(recording_id)

    def __getitem__(self, recording_id: str) -> Recording:
        """Open one recording, its covariates renamed."""
        self.folder(recording_id)
        recording = self.parts[self._part_of[recording_id]][recording_id]
        return renamed(recording, self.names.get(recording.info.dataset, {}))

    def verify(self, recording_id: str) -> None:
        """Compare every file of a recording with its recorded hash."""
        self.folder(recording_id)
        self.parts[self._part_of[recording_id]].verify(recording_id)

    def restrict(self, keep: set[str]) -> Mixture:
        """The part of the mixture with these recordings."""
        return Mixture({key: corpus.restrict(keep) for key, corpus in self.parts.items()}, self.names)

    @property
    def manifest_sha256(self) -> str:
        """Hash of the manifests."""
        together = "".join(corpus.manifest_sha256 for corpus in self.parts.values())
        return hashlib.sha256(together.encode()).hexdigest()


def open_corpora(paths: list[str]) -> Corpus:
    """One corpus, or several as one."""
    corpora = {str(path): Corpus.open(path) for path in paths}
    return next(iter(corpora.values())) if len(corpora) == 1 else Mixture(corpora)


def known_as(corpus: Corpus, names: Names) -> Corpus:
    """The corpus with covariates under the names that a model knows them by; the same corpus without names."""
    if not names:
        return corpus
    return Mixture(corpus.parts if isinstance(corpus, Mixture) else {"": corpus}, names)


def names_by_dataset(parts: Mapping[str, Corpus], config: Mapping[str, CorpusConfig]) -> dict[str, dict[str, str]]:
    """New names of covariates for each dataset, which is how a new animal's recording is told from another's.

    Raises:
        ValueError: Two corpora hold the same dataset and rename it differently.
    """
    names: dict[str, dict[str, str]] = {}
    for key, corpus in parts.items():
        for dataset in sorted({recording_id.split("/")[0] for recording_id in corpus.ids}):
            if names.setdefault(dataset, config[key].rename) != config[key].rename:
                raise ValueError(
                    f"data.corpora.{key}.rename: dataset {dataset!r} is renamed otherwise in another corpus"
                )
    return {dataset: rename for dataset, rename in names.items() if rename}


def renamed(recording: Recording, names: Mapping[str, str]) -> Recording:
    """A recording with some covariates under new names; names that it does not have are left alone.

    Raises:
        RecordingError: Two covariates would have one name, or one that of a column of the trials.
    """
    if not any(name in recording.covariates for name in names):
        return recording
    covariates = {}
    for name, covariate in recording.covariates.items():
        new = names.get(name, name)
        if new in covariates:
            raise RecordingError(
                f"{recording.info.recording_id}: two covariates named {new!r} after rename {dict(names)}"
            )
        if new != name and covariate.times is None and new in recording.trials:
            raise RecordingError(f"{recording.info.recording_id}: rename {name!r}: the trials have a column {new!r}")
        covariates[new] = covariate if new == name else replace(covariate, spec=replace(covariate.spec, name=new))
    return replace(recording, covariates=covariates)
