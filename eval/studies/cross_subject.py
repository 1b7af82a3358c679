"""Does a decoder carry over to a session it has not seen: motor cortex, velocity and target, each session in turn.

Train on the other sessions with one trunk, adapt the new session's first layer (or train it with the others), decode
with the decoder of the others, which is not recalibrated.
Says whether the sessions are of different animals; on those of one animal it is a transfer between sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import figure as mpl

from eval.doctor_axes import STYLE
from eval.embedding_decoders import scores
from eval.report_figures import ACCENT, FAINT
from eval.studies.session_transfer import (
    ALIGNMENTS,
    Recorded,
    decode_own,
    early,
    joint_embedding,
    recorded,
    transfer_components,
    transfer_contrastive,
    transfer_joint,
)
from eval.studies.study import Figure, Findings, Table
from foundation.corpus import Corpus
from foundation.progress import Progress
from foundation.session_arrays import SessionArrays, session_arrays

OURS, SHUFFLED = "joint trunk, adapted", "joint trunk, adapted to shuffled labels"
JOINT = "joint trunk, trained with it"
METRICS = {"continuous": "r2", "discrete": "balanced_accuracy"}
TITLES = {"r2": "R² (fraction)", "balanced_accuracy": "balanced accuracy (fraction)"}


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        corpus: Folder or URL of the sessions; all of its recordings take part.
        continuous: Covariate that is decoded in time, at all bins; none if empty.
        discrete: Classes that are decoded bin by bin; none if empty.
        phase: Categorical covariate that says at which bins `discrete` is decoded; none if empty.
        in_phase: Its value there.
        bin_size_s: Of the counts.
        receptive_field: Bins.
        output_dimension: Of embeddings and of principal components.
        steps: Of a fit from new weights.
        adapt_steps: Of adapting a session.
        learning_rate: Of fits from new weights.
        unit_dropout: Share of units silenced in each window of a step; with the steps chosen on validation rows of the
            first session.
        seeds: Each draws the start of every fit.
        budgets_s: How much of a new session's training stretch is used, in seconds of labeled bins; 0 is all.
    """

    corpus: str = "corpora/perich_miller"
    continuous: str = "cursor_velocity"
    discrete: str = "target"
    phase: str = "phase"
    in_phase: int = 1
    bin_size_s: float = 0.05
    receptive_field: int = 10
    output_dimension: int = 8
    steps: int = 1000
    adapt_steps: int = 300
    learning_rate: float = 1e-3
    unit_dropout: float = 0.3
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    budgets_s: list[float] = field(default_factory=lambda: [30.0, 0.0])


def run(config: Config) -> Findings:
    """Read all sessions and decode each with the others.

    Raises:
        ValueError: Fewer than two sessions, or a covariate that a session lacks.
    """
    corpus = Corpus.open(config.corpus)
    labels = [name for name in (config.continuous, config.discrete, config.phase) if name]
    return transfer([session_arrays(recording, config.bin_size_s, labels) for recording in corpus], config)


def transfer(sessions: list[SessionArrays], config: Config) -> Findings:
    """The study on given sessions; see `Config`."""
    if len(sessions) < 2 or not config.seeds:
        raise ValueError(f"got {len(sessions)} sessions and {len(config.seeds)} seeds, expected at least 2 and 1")
    tasks = {name: _task(sessions, name, config) for name in (config.continuous, config.discrete) if name}
    total = len(tasks) * len(sessions) * len(config.seeds) * len(config.budgets_s)
    progress = Progress("cross_subject", 0, total, shown=True, unit="transfer")
    rows = []
    for name, parts in tasks.items():
        for held_out, target in enumerate(parts):
            sources = [s for k, s in enumerate(parts) if k != held_out]
            for seed in config.seeds:
                model = joint_embedding(sources, config, seed)
                for budget in config.budgets_s:
                    used = early(target, round(budget / config.bin_size_s))
                    guesses = {
                        JOINT: transfer_joint(sources, target, used, config, seed),
                        OURS: transfer_contrastive(model, sources, target, used, config, seed),
                        SHUFFLED: transfer_contrastive(model, sources, target, used, config, seed, shuffled=True),
                        **{
                            f"principal components, {how}": transfer_components(sources, target, used, config, fit)
                            for how, fit in ALIGNMENTS.items()
                        },
                        **decode_own(target, used, config, seed),
                    }
                    metric = METRICS[target.kind]
                    for method, guess in guesses.items():
                        score = scores(target.label[target.split.test], guess, target.kind)[metric]
                        about = {"task": name, "session": target.name, "subject": target.subject, "budget_s": budget}
                        rows.append({**about, "method": method, "seed": seed, "metric": metric, "score": score})
                    progress.update()
    progress.close()
    return _findings(pd.DataFrame(rows), tasks, config)


def _task(sessions: list[SessionArrays], name: str, config: Config) -> list[Recorded]:
    if name == config.continuous or not config.phase:
        return [recorded(session, name) for session in sessions]
    return [
        recorded(session, name, np.asarray(session.labels[config.phase]).reshape(-1) == config.in_phase)
        for session in sessions
    ]


def _findings(rows: pd.DataFrame, tasks: dict[str, list[Recorded]], config: Config) -> Findings:
    parts = next(iter(tasks.values()))
    animals = sorted({part.subject for part in parts})
    keys = ["task", "metric", "budget_s", "method"]
    per_session = rows.groupby([*keys, "session", "subject"], sort=False)["score"].mean().reset_index()
    summary = per_session.groupby(keys, sort=False)["score"].agg(["mean", "min", "max", "size"]).reset_index()
    summary = summary.rename(columns={"mean": "score", "min": "lowest_session", "max": "highest_session"})
    summary = summary.rename(columns={"size": "sessions"})
    seeds = rows.groupby([*keys, "seed"], sort=False)["score"].mean().groupby(keys, sort=False)
    summary["seed_sd"] = seeds.std(ddof=1).to_numpy()
    about = (
        f"{len(parts)} sessions of {len(animals)} {'animal' if len(animals) == 1 else 'animals'}, each in turn; test: "
        "its "
        f"last fifth in time; {len(config.seeds)} seeds; bins of {config.bin_size_s:g} s"
    )
    return Findings(
        "A decoder for a session it has not seen" + (" (same animal)" if len(animals) == 1 else ""),
        "A decoder is fitted on the other sessions and never again. How well does it read a new session, once that "
        "session's activity has been brought into the space of the others: by a contrastive trunk that they share, or "
        "by "
        "aligning principal components?",
        [
            Table(
                "scores",
                f"Mean over sessions of the mean over seeds, lowest and highest session. Budget: labeled seconds of "
                "the "
                f"new session that are used, 0 for all of its training stretch. {about}.",
                summary,
            ),
            Table("scores_by_session", f"Every session and seed. {about}.", rows),
        ],
        [
            Figure(
                "transfer",
                f"Bars: means; points: sessions (means of seeds); the axis ends at -0.5. {about}.",
                _bars(per_session, config),
            )
        ],
        _remarks(summary, parts, animals, config),
    )


def _remarks(summary: pd.DataFrame, parts: list[Recorded], animals: list[str], config: Config) -> list[str]:
    sizes = ", ".join(f"{part.name.split('/')[-1]} ({part.activity.shape[1]} units)" for part in parts)
    remarks = [
        f"Sessions: {sizes}. "
        + (
            f"All are of one animal ({animals[0]}), so this is a transfer between days and sets of units, and shows "
            "nothing about other animals."
            if len(animals) == 1
            else f"Animals: {', '.join(animals)}."
        )
    ]
    for (task, budget), group in summary.groupby(["task", "budget_s"], sort=False):
        score = dict(zip(group["method"], group["score"]))
        aligned = max((m for m in score if m.startswith("principal components")), key=lambda m: score[m])
        own = max((m for m in score if m.startswith("own session")), key=lambda m: score[m])
        given = f"the first {budget:g} s" if budget else "all of its training stretch"
        remarks.append(
            f"{task}, given {given}: joint trunk {score[OURS]:.3f} adapted (to shuffled labels {score[SHUFFLED]:.3f}) "
            "and "
            f"{score[JOINT]:.3f} trained with the new session too; best "
            f"alignment of components {score[aligned]:.3f} ({aligned.split(', ')[1]}); best decoder of the session's "
            "own "
            f"{score[own]:.3f} ({own.removeprefix('own session: ')})."
        )
    remarks.append(
        "The session's own decoders are fitted to it and count as the upper bound, not as a competitor: the "
        "transferred "
        "decoder is not recalibrated. The best of several is named after the test scores are known, which flatters the "
        "baselines slightly. Adapting needs labels of the new session, as aligning by labels does."
    )
    return remarks


def _bars(per_session: pd.DataFrame, config: Config) -> mpl.Figure:
    panels = list(per_session.groupby(["task", "budget_s"], sort=False))
    with matplotlib.rc_context(STYLE):
        columns = len(config.budgets_s)
        rows = -(-len(panels) // columns)
        fig = mpl.Figure(figsize=(11, 0.3 * 10 * rows + 0.7 * rows), layout="constrained")
        axes = np.atleast_2d(fig.subplots(rows, columns, sharey=True, squeeze=False))
        for ax, ((task, budget), group) in zip(axes.ravel(), panels):
            order = list(dict.fromkeys(group["method"]))[::-1]
            for row, method in enumerate(order):
                values = group.loc[group["method"] == method, "score"]
                color = ACCENT if method in (OURS, JOINT) else FAINT if method == SHUFFLED else "#3b4f5d"
                ax.barh(row, values.mean(), color=color, height=0.7)
                ax.plot(values, np.full(len(values), row), ".", color="#ffffff", markersize=4)
            ax.set(yticks=range(len(order)), yticklabels=order, xlabel=TITLES[group["metric"].iloc[0]])
            given = f"first {budget:g} s of it" if budget else "all of its training stretch"
            ax.set_title(f"{task}; {given}", loc="left")
            ax.set_xlim(max(-0.5, min(0.0, group["score"].min())), 1)
            ax.tick_params(axis="y", length=0)
    return fig
