"""A new animal: the same loop with another start.

Each animal is adapted on its own from the pretrained weights. Track `adapter` fits only what belongs to its sessions
(trunk and heads stay bit-identical), `full` goes on from there with everything at a lower rate, and `scratch` trains
the same network on that animal alone, as the control. Afterwards the read-out is fitted once more as a convex problem
(`foundation.readout`).
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator

from foundation.checkpoint import RunError, load_model, save_folder
from foundation.corpus import Corpus
from foundation.decoding import DecodingConfig, fit_decoding
from foundation.fingerprint import fit_fingerprints
from foundation.mixture import known_as
from foundation.model import FoundationModel
from foundation.objectives import ObjectiveConfig
from foundation.optim import OptimConfig
from foundation.readout import ReadoutConfig, fit_readouts, state_prior
from foundation.recording import Recording
from foundation.sampling import WindowReader
from foundation.splits import few_shot_roles, session_roles
from foundation.train import TrainConfig, fit
from foundation.training_data import TrainingData, add_sessions, training_data, with_train_windows

Track = Literal["adapter", "full", "scratch"]


@dataclass
class FinetuneConfig:
    """Adaptation to a new animal.

    Attributes:
        tracks: Which of `adapter`, `full` and `scratch`.
        steps: Updates of the adapter (of everything, for `scratch`).
        full_steps: Further updates of track `full`.
        few_shot_steps: Updates instead of `steps` when the train trials are counted; nothing stops early then.
        row_lr: Rate of adapter rows.
        lr: Rate of shared weights in track `full`.
        scratch_lr: Rate of shared weights in track `scratch`.
        windows_per_step: Windows in an update.
        val_every: Updates between validations.
        patience: Validations without a better one before stopping; 0 never stops early.
        readout: The convex read-out.
        decoding: The same for behavior, fitted beside it.
    """

    tracks: list[Track] = field(default_factory=lambda: ["adapter"])
    steps: int = 300
    full_steps: int = 150
    few_shot_steps: int = 150
    row_lr: float = 1.0e-2
    lr: float = 3.0e-4
    scratch_lr: float = 2.0e-3
    windows_per_step: int = 64
    val_every: int = 25
    patience: int = 4
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


@dataclass(frozen=True)
class Assignment:
    """Which trials an adaptation may use: a split, and for few-shot the number of train trials and the draw.

    The split is one of the protocol, or "source:NAME" of the recordings themselves (`foundation.splits.session_roles`).
    """

    split: str = "interleaved"
    fold: int = 0
    train_trials: int = 0
    draw: int = 0

    def roles(self, recording: Recording) -> np.ndarray:
        """Roles `(M,)` of a recording's trials.

        Raises:
            ValueError: No such split, or fewer train trials than asked for.
        """
        roles = session_roles(recording, self.split, self.fold)
        if not self.train_trials:
            return roles
        return few_shot_roles(roles, self.train_trials, self.draw, recording.info.session)


def adapt(
    base: FoundationModel,
    corpus: Corpus,
    recording_ids: list[str],
    config: FinetuneConfig,
    objective: ObjectiveConfig,
    *,
    track: Track = "adapter",
    assignment: Assignment | None = None,
    seed: int = 0,
    start: FoundationModel | None = None,
    log: Path | None = None,
) -> FoundationModel:
    """A model for the sessions of one new animal; `base` is left as it is.

    Args:
        base: Pretrained.
        corpus: Holds the sessions.
        recording_ids: Sessions of one animal.
        config: Adaptation.
        objective: Losses, as in pretraining.
        track: What is trained.
        assignment: Which trials; by default all train trials of the interleaved split.
        seed: Of new rows, batches and masks.
        start: For track `full`, the result of track `adapter` on the same trials; adapted here when missing.
        log: Where to write the losses.

    Raises:
        ValueError: Several animals, an animal of the pretraining set, or a session without train windows.
    """
    assignment = assignment or Assignment()
    subjects = {corpus.subjects[recording_id] for recording_id in recording_ids}
    if len(subjects) != 1:
        raise ValueError(f"adapt: got animals {sorted(subjects)}; adapt each on its own, so that none informs another")
    (subject,) = subjects
    known = sorted(set(recording_ids) - set(new_sessions(base, corpus, subject)))
    if known and track != "scratch":
        raise ValueError(
            f"adapt: {subject} was pretrained on, and {known[:3]} were not held out (data.held_out_sessions)"
        )
    reader = WindowReader(known_as(corpus, base.config.names), base.channels, base.config.bin_size_s)
    data = with_train_windows(training_data(reader, recording_ids, base.config.window_s, assignment.roles))
    recording_ids = list(data.train)
    if track == "full":
        model = start or adapt(
            base, corpus, recording_ids, config, objective, assignment=assignment, seed=seed, log=None
        )
        model = copy.deepcopy(model)
    else:
        model = _fresh(base, track, seed)
        add_sessions(model, data, recording_ids, seed)
    few = assignment.train_trials > 0
    steps = {"full": config.full_steps}.get(track, config.few_shot_steps if few else config.steps)
    train = TrainConfig(
        steps=steps,
        windows_per_step=config.windows_per_step,
        windows_per_session=max(8, config.windows_per_step // len(recording_ids)),
        val_every=steps if few else config.val_every,
        patience=0 if few else config.patience,
        track=[],
    )
    optim = OptimConfig(lr=config.scratch_lr if track == "scratch" else config.lr, row_lr=config.row_lr)
    model = fit(
        model,
        data,
        objective=objective,
        optim=optim,
        train=train,
        seed=seed,
        trainable="adapters" if track == "adapter" else "all",
        accelerator=Accelerator(),
        label=f"{track} {subject}",
        log=log,
    )
    if config.readout.enabled:
        fit_readouts(model, data, config.readout, state_prior(model if track == "scratch" else base))
        fit_fingerprints(model, data)
    if config.decoding.enabled:
        fit_decoding(model, data, config.decoding)
    model.provenance = _provenance(base, corpus, data, assignment, track, seed, config)
    return model


def finetune(
    run: FoundationModel,
    corpus: Corpus,
    subjects: list[str],
    out: Path,
    config: FinetuneConfig,
    objective: ObjectiveConfig,
    *,
    assignment: Assignment | None = None,
    seed: int = 0,
    base_path: str = "",
) -> list[Path]:
    """Adapt to several animals, each on its own; one model folder per animal and track, `out/<subject>/<track>`.

    A folder that holds a model of the same arguments already is left alone, so the same call goes on after a stop.

    Args:
        run: Pretrained.
        corpus: Holds the animals' sessions.
        subjects: Animals.
        out: Folder of this adaptation.
        config: Adaptation.
        objective: Losses.
        assignment: Which trials.
        seed: Of new rows, batches and masks.
        base_path: Where `run` lies, for provenance and the region probe.

    Raises:
        RunError: A folder holds a model made otherwise.
    """
    assignment = assignment or Assignment()
    # Without the tracks: another may be added to a folder later.
    settings = {name: value for name, value in asdict(config).items() if name != "tracks"}
    request: dict[str, Any] = {"assignment": asdict(assignment), "finetune": settings, "seed": seed}
    request |= {"base": base_path, "objective": asdict(objective)}
    folders = []
    for subject in subjects:
        ids = new_sessions(run, corpus, subject)
        if not ids:
            raise ValueError(
                f"{subject} was pretrained on, and none of its sessions in this corpus was held out; adapt to an "
                "animal of data.held_out, or to a session of data.held_out_sessions"
            )
        adapted = None
        for track in config.tracks:
            folder = out / subject / track
            folders.append(folder)
            if (folder / "request.json").exists():
                held, wanted = json.loads((folder / "request.json").read_text()), json.loads(json.dumps(request))
                if differs := sorted(key for key in held if held[key] != wanted.get(key)):
                    raise RunError(f"{folder}: holds a model made with other settings {differs}; give another --out")
                adapted = load_model(folder) if track == "adapter" else adapted
                continue
            log = out / subject / f"{track}.metrics.jsonl"
            options: dict[str, Any] = {"track": track, "assignment": assignment, "seed": seed, "log": log}
            model = adapt(run, corpus, ids, config, objective, start=adapted, **options)
            model.provenance["base"] = base_path
            adapted = model if track == "adapter" else adapted
            save_folder(folder, partial(_save, model, request))
    return folders


def new_sessions(base: FoundationModel, corpus: Corpus, subject: str) -> list[str]:
    """Recordings of an animal that a model may be adapted to: all of a new animal, else those that were held out."""
    past = base.provenance
    ids = [key for key, animal in corpus.subjects.items() if animal == subject]
    if subject not in past["pretraining_subjects"]:
        return ids
    return [key for key in ids if key in past.get("held_out_sessions", [])]


def _save(model: FoundationModel, request: dict[str, Any], folder: Path) -> None:
    model.save_pretrained(folder)
    (folder / "request.json").write_text(json.dumps(request, indent=1))


def _fresh(base: FoundationModel, track: Track, seed: int) -> FoundationModel:
    """The pretrained weights without sessions, or new ones for the control from scratch."""
    if track == "scratch":
        size, window_s = base.config.bin_size_s, base.config.window_s
        return FoundationModel.create(base.shape, base.channels, size, window_s, seed, base.config.names)
    model = copy.deepcopy(base)
    model.keep_sessions([])
    return model


def _provenance(
    base: FoundationModel,
    corpus: Corpus,
    data: TrainingData,
    assignment: Assignment,
    track: Track,
    seed: int,
    config: FinetuneConfig,
) -> dict[str, Any]:
    """The base model's past, and per session the role that each trial had here."""
    past = base.provenance if track != "scratch" else {**base.provenance, "pretraining_subjects": []}
    adapted = {
        key: {**asdict(assignment), "roles": assignment.roles(data.reader.recording(key)).tolist()}
        for key in data.train
    }
    return {**past, "track": track, "adaptation_seed": seed, "adapted": adapted}
