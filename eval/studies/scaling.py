"""Does a new animal gain from more pretraining animals, or from a few sessions that are like its own?

Every run is pretraining, adaptation and evaluation as on the command line, on 1, 2, 4 ... animals and on selections of
sessions, with the same number of steps. Runs are kept and gone on with; the rows of all go to `scaling.parquet`, which
`foundation report --scaling` shows.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from eval.embedding_figures import house
from eval.held_out import evaluate
from eval.report_figures import ACCENT, FAINT, PALETTE, metric_title
from eval.report_tables import number, task_name
from eval.results import read_results
from eval.scaling import MIN_SIZES, Scaling, scaling_table, scalings
from eval.session_selection import data_amounts, select_sessions, session_distances, unit_profiles
from eval.statistics import Interval
from eval.studies.study import Figure, Findings, Table
from foundation.channels import pretraining_corpus
from foundation.checkpoint import load_model
from foundation.config import Config as RunConfig
from foundation.config import load_config
from foundation.corpus import Corpus
from foundation.durable import write_atomic
from foundation.finetune import Assignment, finetune
from foundation.pretrain import claim_folder, pretrain

NEAREST, RANDOM = "nearest sessions", "random sessions, as much data"


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        run: YAML file of a pretraining run that lists its held-out animals; runs go to its folder with `-scaling`.
        corpus: Its data, one corpus.
        overrides: Of the run, `section.field=value`.
        sizes: Numbers of pretraining animals, three at least.
        control_sessions: Sessions in each selection; 0 leaves the control out.
        seeds: Of the runs; each has its own order of animals and its own random sessions.
        tasks: Which are evaluated.
    """

    run: str = "configs/luo2025.yaml"
    corpus: str = "corpora/luo2025"
    overrides: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=lambda: [1, 2, 4, 6])
    control_sessions: int = 16
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    tasks: list[str] = field(default_factory=lambda: ["encode", "cosmooth", "choice"])


@dataclass(frozen=True)
class Run:
    """One pretraining.

    Attributes:
        name: Of its folder.
        seed: Of everything in it.
        control: Of the selection of sessions, "" where all sessions of the animals are in.
        recordings: What it is pretrained on.
    """

    name: str
    seed: int
    control: str
    recordings: tuple[str, ...]


def run(config: Config) -> Findings:
    """Plan, train and compare.

    Raises:
        ValueError: No held-out animal is listed, or numbers of animals or sessions that there are not.
    """
    base = load_config(config.run, [f"data.corpus={config.corpus}", *config.overrides])
    folder = Path(f"{base.folder}-scaling")
    corpus = Corpus.open(config.corpus)
    tables, about = [], []
    amounts = data_amounts(corpus, corpus.ids, base.data.split, base.data.fold)
    for one in plan(config, base, corpus):
        animals = len({corpus.subjects[key] for key in one.recordings})
        rows = scores(base, corpus, one, folder / one.name, config.tasks)
        tables.append(rows.assign(num_animals=animals, control=one.control))
        hours = sum(amounts[key] for key in one.recordings) / 3600
        row = {"run": one.name, "seed": one.seed, "animals": animals, "sessions": len(one.recordings)}
        about.append({**row, "unit_hours": hours, "control": one.control})
    rows = pd.concat(tables, ignore_index=True)
    sink = io.BytesIO()
    rows.to_parquet(sink, index=False)
    write_atomic(folder / "scaling.parquet", sink.getvalue())
    return findings(scalings(rows), pd.DataFrame(about), base.train.steps)


def plan(config: Config, base: RunConfig, corpus: Corpus) -> list[Run]:
    """What every run is pretrained on.

    Args:
        config: Of the study.
        base: Of the runs.
        corpus: Holds their animals and the held-out ones.

    Raises:
        ValueError: As `run`.
    """
    held = base.data.held_out
    if not held:
        raise ValueError(f"{config.run}: data.held_out is empty; list the animals that the runs are evaluated on")
    candidates = pretraining_corpus(corpus, base.data).ids
    animals = sorted({corpus.subjects[key] for key in candidates})
    sizes = sorted(set(config.sizes))
    if len(sizes) < MIN_SIZES or sizes[0] < 1 or sizes[-1] > len(animals) or not config.seeds:
        raise ValueError(
            f"sizes {config.sizes} of {len(animals)} animals, seeds {config.seeds}; expected {MIN_SIZES} different "
            f"numbers from 1 to {len(animals)}, and a seed"
        )
    runs = []
    for seed in config.seeds:
        order = np.random.default_rng([seed, 11]).permutation(animals).tolist()
        for size in sizes:
            chosen = tuple(key for key in candidates if corpus.subjects[key] in order[:size])
            runs.append(Run(f"{size}-animals-s{seed}", seed, "", chosen))
    if not config.control_sessions:
        return runs
    targets = [key for key in corpus.ids if corpus.subjects[key] in held]
    split, fold = base.data.split, base.data.fold
    profiles = unit_profiles(corpus, [*targets, *candidates], bin_size_s=base.data.bin_size_s, split=split, fold=fold)
    selection = select_sessions(
        session_distances(profiles, targets),
        config.control_sessions,
        amounts=data_amounts(corpus, candidates, split, fold),
        num_random=len(config.seeds),
    )
    for seed, random in zip(config.seeds, selection.random, strict=True):
        runs.append(Run(f"nearest-s{seed}", seed, NEAREST, selection.best))
        runs.append(Run(f"random-s{seed}", seed, RANDOM, random))
    return runs


def scores(base: RunConfig, corpus: Corpus, one: Run, folder: Path, tasks: list[str]) -> pd.DataFrame:
    """Result rows of one run on the held-out animals; what was trained before is not trained again.

    Args:
        base: Of all runs.
        corpus: Its data.
        one: The run.
        folder: Of the run.
        tasks: To evaluate.

    Raises:
        RunError: The folder holds a run of other settings.
    """
    data = replace(base.data, recordings=list(one.recordings))
    config = replace(
        base, out=str(folder), seed=one.seed, data=data, finetune=replace(base.finetune, tracks=["adapter"])
    )
    model = folder / "model"
    claim_folder(folder, config)
    if not (model / "model.safetensors").exists():
        pretrain(config)
    finetune(
        load_model(model),
        corpus.select(subjects=data.held_out),
        data.held_out,
        folder / "new",
        config.finetune,
        config.objective,
        assignment=Assignment(data.split, data.fold),
        seed=one.seed,
        base_path=str(model),
    )
    evaluate([folder / "new"], corpus, data.held_out, folder / "results", tasks=tasks, baselines="none")
    return read_results(folder / "results")[0]


def findings(found: dict[tuple[str, str, str], Scaling], runs: pd.DataFrame, steps: int) -> Findings:
    """Tables, figures and words of given scalings.

    Args:
        found: From `eval.scaling.scalings`.
        runs: One row per run.
        steps: Of each pretraining.
    """
    tables, figures, remarks = [], [], []
    for (dataset, task, split), scaling in found.items():
        name = "".join(c if c.isalnum() else "_" for c in f"scaling_{task}".lower())
        seeds = sorted({point.num_seeds for point in scaling.points})
        caption = (
            f"{task_name(task)}, {dataset}, {split}: {metric_title(scaling.metric)}, mean of {scaling.slope.n} animals "
            f"that no run has seen, two-level 95 % interval; {'/'.join(map(str, seeds))} seeds, each with animals of "
            "its own choice."
        )
        tables.append(Table(f"{name}_table", caption, scaling_table(scaling)))
        figures.append(Figure(name, f"{caption} Thin: each animal. Diamonds: selections of sessions.", _curve(scaling)))
        remarks.append(f"{task_name(task)}: {_text(scaling.slope, scaling.metric)} per doubling of the animals.")
        remarks += [
            f"{task_name(task)}: {label} minus {scaling.points[-1].label}: {_text(gap.animals, scaling.metric)}, above "
            f"0 in {gap.num_positive} of {gap.sessions.n} sessions."
            for label, gap in (scaling.against_all or {}).items()
        ]
    remarks += [
        f"Every run has {steps} steps, whatever its data: this is more animals at equal compute. More animals are also "
        "more data; the two selections hold equal amounts of it, and differ in how like the new animals' they are "
        "(judged from unlabeled unit statistics of their train trials).",
        "With 3 evaluated animals a nominal 95 % two-level interval holds the truth in 85 % of simulated studies.",
    ]
    return Findings(
        title="Scaling over animals",
        question="Does a new animal gain from more pretraining animals, or from a few sessions that are like its own?",
        tables=[*tables, Table("runs", "Every pretraining; unit-hours of its train trials.", runs)],
        figures=figures,
        remarks=remarks,
    )


@house
def _curve(scaling: Scaling) -> Drawing:
    """Score over the number of animals: mean with interval, each animal, fitted line, selections beside it."""
    drawing = Drawing(figsize=(8.5, 4.2), layout="constrained")
    axes = drawing.add_subplot()
    x = [point.num_animals for point in scaling.points]
    for k, animal in enumerate(scaling.points[0].summary.per_animal):
        y = [point.summary.per_animal[animal] for point in scaling.points]
        axes.plot(x, y, ":", color=PALETTE[(k + 1) % len(PALETTE)], linewidth=1.2, label=animal)
    wholes = [point.summary.animals for point in scaling.points]
    center = np.log2(x) - np.log2(x).mean()
    line = np.mean([w.mean for w in wholes]) + scaling.slope.mean * center
    axes.plot(x, line, "--", color=FAINT, linewidth=1, label="per doubling " + _text(scaling.slope, scaling.metric))
    axes.errorbar(x, [w.mean for w in wholes], _bars(wholes), fmt="o", color=ACCENT, capsize=3, label="mean of animals")
    for k, control in enumerate(scaling.controls):
        whole, color = control.summary.animals, PALETTE[(k + 5) % len(PALETTE)]
        # Beside each other where they are of as many animals.
        place = control.num_animals * 1.04 ** (k + 1)
        axes.errorbar(
            [place], [whole.mean], _bars([whole]), fmt="D", mfc="none", color=color, capsize=3, label=control.label
        )
    axes.set_xscale("log", base=2)
    ticks = sorted({*x, *(control.num_animals for control in scaling.controls)})
    axes.set_xticks(ticks, labels=[str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("pretraining animals")
    axes.set_ylabel(metric_title(scaling.metric))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    return drawing


def _bars(intervals: list[Interval]) -> np.ndarray:
    return np.array([[one.mean - one.low, one.high - one.mean] for one in intervals]).T


def _text(interval: Interval, metric: str) -> str:
    low, high = number(interval.low, metric, signed=True), number(interval.high, metric, signed=True)
    return f"{number(interval.mean, metric, signed=True)} [{low}, {high}]"
