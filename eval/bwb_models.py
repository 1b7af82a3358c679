"""Adapted models of ours as submissions to Brain-Wide Bench: which they are, and their prediction files, one by one.

A file that the same model made of the same corpus is left alone, so a call that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator

import foundation
from eval.adapted import Adapted, find_models
from eval.bwb_decoding import decode, target_channel
from eval.bwb_export import build_of, export_labels, export_rates, export_traces
from eval.bwb_files import SuiteFile, header_of, write_suite_prediction
from eval.bwb_rates import predict_rates
from eval.bwb_regions import region_files
from eval.bwb_tasks import Suite, Task
from eval.bwb_windows import is_evaluated, tasks_in
from foundation.checkpoint import load_model
from foundation.durable import sha256_of
from foundation.finetune import FinetuneConfig
from foundation.recording import Recording
from foundation.strict_yaml import from_dict

# Key of a file's header: who made it, of what.
_MADE_BY = "made_by"


def models_of(
    runs: Sequence[Path], evaluated: Mapping[str, Recording], subjects: Sequence[str] | None = None
) -> list[Adapted]:
    """The models of some runs for animals of the evaluation, in the order of the runs.

    Args:
        runs: Folders made by `foundation finetune`.
        evaluated: Sessions for evaluation.
        subjects: Animals; by default those that a run has models of.

    Raises:
        ValueError: A run has no model of such an animal, an animal is not evaluated, or a model's units are not those
            of the corpus.
    """
    animals = sorted({one.info.subject_id for one in evaluated.values()})
    if unknown := sorted(set(subjects or ()) - set(animals)):
        raise ValueError(f"--subjects: {unknown} have no session for evaluation, there are {animals[:12]}")
    found = []
    for run in runs:
        there = [name for name in subjects or animals if subjects or (run / name).is_dir()]
        if not there:
            raise ValueError(f"{run}: no adapted model of {animals[:5]}; run `foundation finetune ... --out {run}`")
        found += find_models(run, there)
    for adapted in found:
        for recording_id in adapted.model.adapters.sessions["recording_id"]:
            one = evaluated.get(recording_id.split("/")[-1])
            _, first, stop = adapted.model.adapters.span(recording_id)
            mine = adapted.model.adapters.units["unit_id"][first:stop].tolist()
            if one is not None and mine != one.units["unit_id"].tolist():
                raise ValueError(
                    f"{adapted.folder}: {len(mine)} units of {recording_id}, the corpus has {one.num_units} or others; "
                    "give the corpus (the build) that the model was adapted to"
                )
    return found


def write_predictions(
    suite: Suite,
    models: Sequence[Adapted],
    recordings: Mapping[str, Recording],
    out: Path,
    *,
    corpus_sha256: str,
    base: str | None = None,
) -> list[Path]:
    """Write what models say of a suite: the label is the model's name and track, the seed that of its adaptation.

    Args:
        suite: Which.
        models: From `models_of`.
        recordings: By session; suite 3 reads those of pretraining too.
        out: Folder of predictions.
        corpus_sha256: Of the corpus' manifest.
        base: Suite 3: the pretrained run; by default the one that the models remember.

    Returns:
        The files.

    Raises:
        ValueError: A session that lacks what a task needs, or two models with one label, session and seed.
    """
    jobs = _region_jobs(models, recordings, base) if suite == "ts3" else _session_jobs(suite, models, recordings)
    paths = [path for job in jobs for path in job.paths(out)]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(
            f"{twice[0].relative_to(out)}: two models of one label and seed; adapt with another --seed, or give one"
        )
    for job in jobs:
        made_by = job.made_by(corpus_sha256)
        if all(path.exists() and header_of(path).get(_MADE_BY) == made_by for path in job.paths(out)):
            continue
        print(
            f"predict {job.task_id} of {job.session or 'all sessions'} by {_label(job.models[0])}",
            file=sys.stderr,
            flush=True,
        )
        for file in job.make({_MADE_BY: made_by}):
            write_suite_prediction(out, file)
    return paths


@dataclass(frozen=True)
class _Job:
    """What one or several models answer in one go: the file of one task and session, or those of suite 3.

    Attributes:
        models: Of one label and seed.
        task_id: Such as "ts1-choice".
        session: "" in suite 3.
        folders: Of all models that it reads.
        make: Predicts, given texts for the header.
    """

    models: Sequence[Adapted]
    task_id: str
    session: str
    folders: Sequence[Path]
    make: Callable[[Mapping[str, str]], list[SuiteFile]]

    def paths(self, out: Path) -> list[Path]:
        """Where its files belong."""
        label, seed = _label(self.models[0]), _seed(self.models[0])
        labels = [label] if self.session else [f"{label}_single", f"{label}_multi"]
        return [SuiteFile(name, self.task_id, self.session, seed, {}).path(out) for name in labels]

    def made_by(self, corpus_sha256: str) -> str:
        """Hash of the models' files, the corpus and the version."""
        files = [p for part in self.folders for f in (part, part / "model") for p in sorted(f.glob("*")) if p.is_file()]
        parts = [foundation.__version__, corpus_sha256, *map(sha256_of, files)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _session_jobs(suite: Suite, models: Sequence[Adapted], recordings: Mapping[str, Recording]) -> list[_Job]:
    jobs, unanswered = [], set()
    for adapted in models:
        for recording_id in adapted.model.adapters.sessions["recording_id"]:
            recording = recordings.get(recording_id.split("/")[-1])
            if recording is None:
                continue
            for task in tasks_in(recording, suite):
                if suite == "ts1" and target_channel(adapted.model, recording, task) is None:
                    unanswered.add(f"{task.id} ({adapted.name} has no target {task.covariate!r})")
                    continue
                make = partial(_predict, adapted, recording, task)
                jobs.append(_Job([adapted], task.id, recording.info.session, [adapted.folder], make))
    if unanswered:
        print(f"left out: {'; '.join(sorted(unanswered))}; list it in data.targets of pretraining", file=sys.stderr)
    return jobs


def _predict(adapted: Adapted, recording: Recording, task: Task, about: Mapping[str, str]) -> list[SuiteFile]:
    """One task of suite 1 or 2 on one session."""
    # Windows of suite 2 stand a bin apart: thousands of passes where adaptation had hundreds.
    model, request = adapted.model.to(Accelerator().device), adapted.folder / "request.json"
    label, seed = _label(adapted), _seed(adapted)
    # As the model was adapted.
    config = from_dict(FinetuneConfig, json.loads(request.read_text())["finetune"] if request.exists() else {})
    if task.suite == "ts1":
        about = {"inputs": "spikes of the scored second"} | dict(about)
        trial_id, values = decode(model, recording, task, config.decoding)
        export = export_labels if task.kind == "class" else export_traces
        return [export(task, recording, label, seed, trial_id, values, about)]
    about = {"inputs": "visible spikes of the second, its place in the session"} | dict(about)
    starts, rate, units = predict_rates(model, recording, task, config.readout)
    return [export_rates(task, recording, label, seed, starts, rate, units, about)]


def _region_jobs(models: Sequence[Adapted], recordings: Mapping[str, Recording], base: str | None) -> list[_Job]:
    groups: dict[tuple[str, int], list[Adapted]] = {}
    for adapted in models:
        # Vectors are comparable with those of pretraining units on the pretrained trunk alone.
        if adapted.track == "adapter":
            groups.setdefault((_label(adapted), _seed(adapted)), []).append(adapted)
    jobs = []
    for (label, seed), group in groups.items():
        path = base or group[0].model.provenance.get("base")
        if not path:
            raise ValueError(f"{label}: the models do not say what they came from; give --base, a pretrained run")
        make = partial(_predict_regions, label, seed, group, recordings, path)
        jobs.append(_Job(group, "ts3-unit_cosmos", "", [*(one.folder for one in group), Path(path)], make))
    return jobs


def _predict_regions(
    label: str,
    seed: int,
    models: Sequence[Adapted],
    recordings: Mapping[str, Recording],
    base: str,
    about: Mapping[str, str],
) -> list[SuiteFile]:
    """Suite 3, all animals at once."""
    build = build_of(next(one for one in recordings.values() if is_evaluated(one)))
    return region_files(label, seed, models, load_model(base), recordings, build | dict(about))


def _label(adapted: Adapted) -> str:
    """Name and track as a folder's name, with the number of trials of a few-shot adaptation."""
    used = next(iter(adapted.model.provenance["adapted"].values()))
    few = f"-k{used['train_trials']}-d{used['draw']}" if used["train_trials"] else ""
    return adapted.name.replace("/", "-").replace(" ", "_") + few


def _seed(adapted: Adapted) -> int:
    """Of the adaptation."""
    return int(adapted.model.provenance.get("adaptation_seed", 0))
