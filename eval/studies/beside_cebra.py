"""Our contrastive embedding beside the `cebra` package and the plain baselines on real recordings, held-out time.

Encoders are fitted on the training stretch alone, decoders choose k or the penalty on validation, the last stretch is
scored once. Says where contrast is worth its cost, and which of temperature, steps, width of the window or labels moves
it. Needs the `cebra` package for its rows and goes on without.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from eval.embedding_controls import shuffled_labels
from eval.embedding_decoders import Decoded, scores
from eval.embedding_figures import bars
from eval.studies.embedding_tasks import SMOOTHED, Task, baselines, decode_embedding, read_task, truth_of
from eval.studies.session_transfer import Recorded
from eval.studies.study import Figure, Findings, Table
from foundation.estimator import ContrastiveEmbedding
from foundation.progress import Progress

THEIRS, OURS, CHOSEN, NULL = (
    "cebra package",
    "ours, same settings",
    "ours, chosen on validation",
    "ours, shuffled labels",
)
METRIC = {"continuous": "r2", "discrete": "balanced_accuracy"}


@dataclass
class Variant:
    """Options of `ContrastiveEmbedding` in place of the common ones; None leaves one as it is.

    Attributes:
        temperature: tau.
        learn_temperature: Train tau from there.
        learning_rate: Of Adam.
        receptive_field: Bins.
        max_iterations: Steps.
        output_dimension: D.
        unit_dropout: Share of units silenced in each window of a step.
        noise: Look for the positive near the anchor's own label, at this standard deviation in those of the label,
            and not at a difference that the label makes elsewhere, which at the end of a lap is the whole track.
    """

    temperature: float = 1.0
    learn_temperature: bool = False
    learning_rate: float | None = None
    receptive_field: int | None = None
    max_iterations: int | None = None
    output_dimension: int | None = None
    unit_dropout: float = 0.0
    noise: float | None = None


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        tasks: By name.
        steps: Of every fit.
        receptive_field: Bins.
        learning_rate: Of Adam, both sides.
        batch_size: Both sides.
        seeds: Of the fits; the shuffled control has the first alone.
        variants: By name. Run with the first seed; the one that validation prefers there, with or without smoothing
            of the embedding in time, is "ours, chosen on validation" and runs with every seed.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    steps: int = 2000
    receptive_field: int = 10
    learning_rate: float = 3e-4
    batch_size: int = 512
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    variants: dict[str, Variant] = field(default_factory=dict)


def run(config: Config) -> Findings:
    """Read every recording and compare.

    Raises:
        ValueError: No task or seed, or a recording or covariate that is not there.
    """
    if not config.tasks or not config.seeds:
        raise ValueError(f"got {len(config.tasks)} tasks and {len(config.seeds)} seeds, expected at least 1 of each")
    return compare({name: (task, read_task(task)) for name, task in config.tasks.items()}, config)


def compare(tasks: dict[str, tuple[Task, Recorded]], config: Config) -> Findings:
    """All methods on given recordings."""
    each = len(config.seeds) * (2 + _has_cebra()) + 1 + len(config.variants)
    progress = Progress("beside_cebra", 0, len(tasks) * each, shown=True, unit="fit")
    rows = [row for name, (task, read) in tasks.items() for row in _task_rows(name, task, read, config, progress)]
    progress.close()
    return _findings(pd.DataFrame(rows), tasks, config)


def _has_cebra() -> bool:
    return importlib.util.find_spec("cebra") is not None


def _task_rows(name: str, task: Task, read: Recorded, config: Config, progress: Progress) -> list[Row]:
    """Scores of one task: plain baselines, both packages, the control, the variants and the one that is chosen."""
    truth, split = truth_of(task, read)
    metric = METRIC[read.kind]

    def row(method: str, seed: int, found: Decoded, **more: object) -> Row:
        score = scores(truth[split.test], found.prediction, read.kind)
        about = {"task": name, "method": method, "seed": seed, "metric": metric, "score": score[metric]}
        error = score.get("median_error", np.nan)
        return {**about, "median_error": error, "validation_loss": found.validation_loss, **more}

    def fit(method: str, embed: Method, seeds: list[int], options: Variant = Variant()) -> list[Row]:  # noqa: B008
        found = []
        for seed in seeds:
            begun = time.process_time()
            embedding = embed(task, read, config, options, seed)
            cpu_s = time.process_time() - begun
            progress.update()
            for reading, decoded in decode_embedding(embedding, task, read).items():
                found.append(row(method + reading, seed, decoded, fit=method, reading=reading, cpu_s=cpu_s))
        return found

    first, *others = config.seeds
    rows = [row(method, -1, found) for method, found in baselines(task, read).items()]
    ours = fit(OURS, _ours, config.seeds)
    for variant, options in config.variants.items():
        ours += fit(f"ours, {variant}", _ours, [first], options)
    best = min((one for one in ours if one["seed"] == first), key=lambda one: float(str(one["validation_loss"])))
    variant = str(best["fit"]).removeprefix("ours, ")
    if variant in config.variants:
        ours += fit(f"ours, {variant}", _ours, others, config.variants[variant])
    rows += ours
    rows += [
        {**one, "method": CHOSEN} for one in ours if (one["fit"], one["reading"]) == (best["fit"], best["reading"])
    ]
    rows += fit(THEIRS, _cebra, config.seeds) if _has_cebra() else []
    return rows + fit(NULL, _shuffled, [first])


Row = dict[str, object]
Method = Callable[[Task, Recorded, Config, Variant, int], np.ndarray]


def _ours(task: Task, read: Recorded, config: Config, variant: Variant, seed: int) -> np.ndarray:
    mode = "discrete" if read.kind == "discrete" else "behavior"
    settings: dict[str, object] = {
        "mode": mode,
        "output_dimension": task.output_dimension,
        "receptive_field": config.receptive_field,
        "max_iterations": config.steps,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "random_state": seed,
        **{name: value for name, value in asdict(variant).items() if value is not None and name != "noise"},
    }
    if variant.noise is not None:
        settings |= {"query": "delta", "delta": variant.noise * float(read.label[read.split.train].std())}
    model = ContrastiveEmbedding(**settings)  # type: ignore[arg-type]
    train = read.split.train
    model.fit(read.activity[train], read.label[train], trial=read.stretch[train])
    return np.asarray(model.transform(read.activity, trial=read.stretch))


def _shuffled(task: Task, read: Recorded, config: Config, variant: Variant, seed: int) -> np.ndarray:
    label = read.label.copy()
    label[read.split.train] = shuffled_labels([label[read.split.train]], seed)[0]
    return _ours(task, replace(read, label=label), config, variant, seed)


def _cebra(task: Task, read: Recorded, config: Config, variant: Variant, seed: int) -> np.ndarray:
    from cebra import CEBRA

    # It draws from the global generators, which are given back as they were.
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        model = CEBRA(
            model_architecture=f"offset{config.receptive_field}-model",
            conditional="time_delta",
            output_dimension=task.output_dimension,
            max_iterations=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            temperature=1.0,
            time_offsets=1,
            device="cpu",
        )
        train = read.split.train
        label = read.label[train] if read.kind == "discrete" else read.label[train].reshape(len(train), -1)
        model.fit(read.activity[train], label.astype(np.int64 if read.kind == "discrete" else np.float32))
        # Each stretch by itself: a window may not see the next one, as in ours.
        parts = [model.transform(read.activity[rows]) for rows in (train, read.split.val, read.split.test)]
    np.random.set_state(state)  # noqa: NPY002
    embedding = np.zeros((len(read.activity), task.output_dimension), np.float32)
    for rows, part in zip((train, read.split.val, read.split.test), parts):
        embedding[rows] = part
    return embedding


def _findings(rows: pd.DataFrame, tasks: dict[str, tuple[Task, Recorded]], config: Config) -> Findings:
    grouped = rows.groupby(["task", "method"], sort=False)
    summary = grouped.agg(
        metric=("metric", "first"), score=("score", "mean"), sd=("score", "std"), seeds=("score", "size"),
        median_error=("median_error", "mean"), cpu_s=("cpu_s", "mean"),
    ).reset_index()  # fmt: skip
    wide = summary.pivot(index="method", columns="task", values="score")[list(tasks)]
    wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False).index].reset_index()
    plain = rows[rows.seed < 0]
    remarks = []
    for name in tasks:
        mine = summary[summary.task == name].set_index("method")
        best = plain[plain.task == name].sort_values("validation_loss").iloc[0]
        chosen = mine.loc[CHOSEN]
        verdict = "ahead of" if chosen.score > best.score else "behind"
        which = rows[(rows.task == name) & (rows.method == CHOSEN)].iloc[0]
        text = (
            f"{name} ({mine.loc[OURS].metric}): ours {_number(mine, OURS)}, chosen on validation "
            f"({which.fit}{which.reading}) {_number(mine, CHOSEN)}, {verdict} the plain baseline that validation "
            f"prefers, {best.method} at {best.score:.3f}."
        )
        if THEIRS in mine.index:
            gap = mine.loc[OURS].score - mine.loc[THEIRS].score
            text += f" The cebra package: {_number(mine, THEIRS)}; our {gap:+.3f} is "
            spread = np.hypot(mine.loc[OURS].sd, mine.loc[THEIRS].sd)
            text += (
                "of one seed, and may be noise."
                if np.isnan(spread)
                else f"{'within' if abs(gap) <= 2 * spread else 'beyond'} seed noise (2 SD)."
            )
        remarks.append(text)
    remarks.append(
        "Every score is of one recording's last stretch; intervals over animals are not to be had from these data. SD "
        "is over seeds of the fit."
    )
    if THEIRS not in set(rows.method):
        remarks.append("The cebra package is not installed, so its rows are missing.")
    captions = {
        "scores": f"Mean over {len(config.seeds)} seeds; R2 of continuous labels, balanced accuracy of classes; "
        "encoders fitted on the first 64 % of the time, decoders tuned on the next 16 %, scored on the last 20 %.",
        "details": "Every task and method: mean and SD over seeds, median error in the label's unit, CPU s of fit "
        "and transform; smoothed: a Gaussian over the embedding in time, its width chosen on validation.",
        "fits": "Every fit.",
    }
    order = [
        method
        for method in (THEIRS, THEIRS + SMOOTHED, OURS, OURS + SMOOTHED, CHOSEN, NULL, *dict.fromkeys(plain.method))
        if method in set(rows.method)
    ]
    figures = []
    for name in tasks:
        shown = rows[(rows.task == name) & rows.method.isin(order)].sort_values(
            "method", key=lambda m: m.map(order.index)
        )
        what = "R² on held-out time" if shown.metric.iloc[0] == "r2" else "balanced accuracy on held-out time"
        figures.append(
            Figure(name.lower(), f"{name}: {captions['scores']}", bars(shown, "score", what, group="method"))
        )
    return Findings(
        title="Beside the cebra package and plain baselines",
        question="With the same window, dimension and steps, is our embedding as good as CEBRA's, and is either worth "
        "its cost beside principal components and nearest neighbors?",
        tables=[
            Table("scores", captions["scores"], wide),
            Table("details", captions["details"], summary),
            Table("fits", captions["fits"], rows),
        ],
        figures=figures,
        remarks=remarks,
    )


def _number(rows: pd.DataFrame, method: str) -> str:
    return f"{float(rows.score[method]):.3f} ± {float(rows.sd[method]):.3f}"
