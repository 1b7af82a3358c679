"""Pretraining: a fresh model over all sessions of the pretraining animals, in a run folder that resumes."""

from __future__ import annotations

import platform
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import foundation
from foundation.channels import corpus_groups, find_channels, open_data, pretraining_corpus
from foundation.checkpoint import RunError, best_model, save_folder
from foundation.config import Config, dump_config
from foundation.corpus import Corpus
from foundation.durable import write_atomic
from foundation.encoding import learn_population
from foundation.fingerprint import learn_fingerprints
from foundation.mixture import Mixture
from foundation.model import FoundationModel
from foundation.sampling import WindowReader
from foundation.splits import session_roles
from foundation.train import fit, make_accelerator
from foundation.training_data import add_sessions, training_data, with_train_windows


def pretrain(config: Config) -> Path:
    """Train a model on the pretraining animals of a config; the same call resumes after an interruption.

    Returns:
        The folder of the best model, `run/model`.

    Raises:
        RunError: The run folder belongs to another configuration.
    """
    folder = config.folder
    accelerator = make_accelerator(config.train, folder)
    if accelerator.is_main_process:
        claim_folder(folder, config)
    accelerator.wait_for_everyone()
    corpus = pretraining_corpus(open_data(config.data), config.data)

    size, window_s = config.data.bin_size_s, config.data.window_s
    roles = partial(session_roles, split=config.data.split, fold=config.data.fold)
    # Windows need no channels, and channels are of the sessions that have any.
    data = training_data(WindowReader(corpus, [], size), corpus.ids, window_s, roles)
    data.groups = corpus_groups(corpus, config.data)
    data = with_train_windows(data)
    corpus = corpus.select(recordings=list(data.train))
    channels = find_channels(corpus, config.data, corpus.ids)
    data.reader = WindowReader(corpus, channels, size)
    names = corpus.names if isinstance(corpus, Mixture) else None
    model = FoundationModel.create(config.model, channels, size, window_s, config.seed, names)
    add_sessions(model, data, corpus.ids, config.seed)
    model.provenance = provenance(config, corpus, sorted(set(corpus.subjects.values())))
    fit(
        model,
        data,
        objective=config.objective,
        optim=config.optim,
        train=config.train,
        seed=config.seed,
        folder=folder,
        accelerator=accelerator,
        label=f"pretrain {config.name}",
    )
    # The others need not wait for the rest, and a collective would not wait for ever.
    is_main = accelerator.is_main_process
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if is_main:
        best = best_model(folder)
        learn_population(best, data, shown=True)
        learn_fingerprints(best, data, shown=True)
        save_folder(folder / "model", best.save_pretrained)
    return folder / "model"


def provenance(config: Config, corpus: Corpus, subjects: list[str]) -> dict[str, Any]:
    """What evaluation needs to know of a model's past: animals, sessions, split, data hash, versions."""
    return {
        "name": config.name,
        "pretraining_subjects": subjects,
        "pretraining_recordings": corpus.ids,
        "held_out_sessions": config.data.held_out_sessions,
        "split": config.data.split,
        "fold": config.data.fold,
        "corpus_sha256": corpus.manifest_sha256,
        "seed": config.seed,
        "adapted": {},
        # What adaptation starts from where the run folder is not at hand.
        "settings": {"objective": asdict(config.objective), "finetune": asdict(config.finetune)},
        "versions": {
            "foundation": foundation.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def claim_folder(folder: Path, config: Config) -> None:
    """Write the resolved config into a run folder, or check that it is the same as the one there.

    Raises:
        RunError: It differs, and training has begun; a run that stopped before, as for a mistaken path, leaves nothing.
    """
    path, text = folder / "config.yaml", dump_config(config)
    held = path.read_text() if path.exists() else ""
    # The beginning of this very text is what a power cut leaves of it, not another config.
    if not text.startswith(held) and (folder / "metrics.jsonl").exists():
        changed = sorted(set(held.splitlines()) ^ set(text.splitlines()))
        raise RunError(
            f"{folder}: this run was started with another config (differs in {changed[:6]}); "
            "give another out=..., or remove the folder"
        )
    write_atomic(path, text.encode())
