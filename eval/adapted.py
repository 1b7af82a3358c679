"""Adapted models on disk, and what their past allows them to be scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.session_view import SessionView
from foundation.checkpoint import load_model
from foundation.corpus import Corpus
from foundation.model import FoundationModel
from foundation.splits import ROLES


class ProvenanceError(ValueError):
    """A score that would not be of a held-out animal or trial."""


@dataclass(frozen=True)
class Adapted:
    """One adapted model: its folder, animal, track and the run it belongs to."""

    folder: Path
    subject: str
    track: str
    model: FoundationModel

    @property
    def is_few_shot(self) -> bool:
        """Whether its train trials were counted."""
        return any(used["train_trials"] for used in self.model.provenance["adapted"].values())

    @property
    def fold(self) -> int:
        """Of the interleaved split; an adaptation has one for all its sessions."""
        return min(int(used["fold"]) for used in self.model.provenance["adapted"].values())

    @property
    def knows_animal(self) -> bool:
        """Whether other sessions of its animal were in pretraining: then new sessions are scored, not a new animal."""
        return self.subject in self.model.provenance["pretraining_subjects"]

    @property
    def name(self) -> str:
        """Such as "luo2025/adapter"."""
        return f"{self.model.provenance.get('name', 'foundation')}/{self.track}"


def find_models(run: Path, subjects: list[str]) -> list[Adapted]:
    """The adapted models of some animals in a run folder.

    Raises:
        ValueError: An animal has none.
    """
    found = []
    for subject in subjects:
        folders = [path.parent for path in sorted((run / subject).glob("*/model.safetensors"))]
        if not folders:
            raise ValueError(f"{run / subject}: no adapted model; run `foundation finetune ... --subjects {subject}`")
        found += [Adapted(folder, subject, folder.name, load_model(folder)) for folder in folders]
    return found


def breaches(adapted: Adapted, corpus: Corpus) -> list[str]:
    """What of a model's past forbids scoring it on its animal, in words."""
    past = adapted.model.provenance
    problems = []
    if adapted.knows_animal and not set(past["adapted"]) <= set(past.get("held_out_sessions", [])):
        problems.append(f"{adapted.subject} was in the pretraining of {adapted.folder}")
    for recording_id in adapted.model.adapters.sessions["recording_id"]:
        used = past["adapted"].get(recording_id)
        if used is None:
            problems.append(f"{recording_id} has an adapter in {adapted.folder} whose trials are not on record")
            continue
        view = view_of(corpus, recording_id, adapted)
        roles = np.array(used["roles"])
        test = view.trials_in("test", full=True)
        if len(roles) != len(view.full_roles) or np.isin(roles[test], (ROLES["train"], ROLES["val"])).any():
            problems.append(f"{recording_id}: test trials were used in adapting {adapted.folder}")
    return problems


def view_of(corpus: Corpus, recording_id: str, adapted: Adapted) -> SessionView:
    """A recording in the split, fold and few-shot draw that a model was adapted in."""
    used = adapted.model.provenance["adapted"][recording_id]
    few = (int(used["train_trials"]), int(used["draw"])) if used["train_trials"] else None
    return SessionView.of(
        corpus[recording_id],
        bin_size_s=adapted.model.config.bin_size_s,
        split=used["split"],
        fold=used["fold"],
        few_shot=few,
    )
