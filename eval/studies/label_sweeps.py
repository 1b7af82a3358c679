"""How far an embedding trained with labels can be pushed: noisy, missing, late labels, and few laps; one session.

Every level is compared with plain baselines that have the same rows and labels. The decoder has no better labels than
the embedding: only the test stretch is scored against the true ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import figure as mpl

from eval.doctor_axes import STYLE
from eval.report_figures import PALETTE
from eval.studies.spoiled_labels import (
    HYBRID,
    KNN,
    OURS,
    PCA,
    PCA_FEW,
    SHUFFLED,
    TIME,
    Task,
    decode,
    few_bins,
    few_laps,
    late,
    noisy,
    shifted,
    whole_task,
)
from eval.studies.study import Figure, Findings, Table
from foundation.corpus import Corpus
from foundation.progress import Progress
from foundation.session_arrays import SessionArrays, session_arrays

AXES = {
    "noise": "standard deviation of the noise (label's own = 1)",
    "laps": "laps with labels",
    "missing": "share of bins with a label, at random",
    "lag": "label later than activity (s)",
}


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        corpus: Folder or URL.
        recording: Its id.
        label: Continuous covariate that is learned and decoded.
        unit: Of the label, for the figures.
        lap: Categorical covariate a change of which begins another lap; with none, laps are the trials.
        bin_size_s: Of the counts.
        receptive_field: Bins, of the encoder and of the baselines.
        output_dimension: Of embeddings and of the PCA.
        steps: Of every fit.
        learning_rate: Of every fit; on the validation stretch of buddy 3e-4 and 1e-3 were far behind at as many steps.
        unit_dropout: Share of units silenced in each window of a step; chosen on buddy's validation stretch
            (`beside_cebra_changes.yaml`). Without it few labels are learned by heart.
        delta: Of positive pairs, standard deviation of the label difference, in the label's own. Differences in time,
            the estimator's default, do not exist where labels are missing at random.
        seeds: Each draws noise, laps and the start of every fit.
        noise: Levels, Gaussian noise on the labels in their standard deviations.
        laps: Levels, numbers of laps drawn from those of train and validation.
        missing: Levels, shares of bins that keep their label.
        lags_s: Levels, seconds.
    """

    corpus: str = "corpora/hc11"
    recording: str = "hc11/buddy"
    label: str = "position"
    unit: str = "m"
    lap: str = ""
    bin_size_s: float = 0.025
    receptive_field: int = 10
    output_dimension: int = 8
    steps: int = 400
    learning_rate: float = 3e-3
    unit_dropout: float = 0.5
    delta: float = 0.1
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    noise: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    laps: list[int] = field(default_factory=lambda: [2, 6, 16])
    missing: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.2])
    lags_s: list[float] = field(default_factory=lambda: [-1.0, -0.5, -0.25, 0.25, 0.5, 1.0])


def run(config: Config) -> Findings:
    """Read the session and sweep.

    Raises:
        ValueError: No such recording or label, no seed, or more laps than there are.
    """
    corpus = Corpus.open(config.corpus)
    labels = [config.label, *([config.lap] if config.lap else [])]
    return sweep(session_arrays(corpus[config.recording], config.bin_size_s, labels), config)


def sweep(session: SessionArrays, config: Config) -> Findings:
    """All sweeps on one session; see `Config` for the levels."""
    whole, lap = whole_task(session, config.label, config.lap)
    if not config.seeds:
        raise ValueError("seeds is empty, expected at least one number")
    levels = len(config.noise) + 3 * len(config.laps) + 2 * len(config.missing) + len(config.lags_s)
    progress = Progress("label_sweeps", 0, len(config.seeds) * (5 + levels), shown=True, unit="fit")
    rows: list[dict[str, object]] = []
    for seed in config.seeds:
        tasks = [("whole", 0.0, whole, [OURS, HYBRID, TIME, SHUFFLED, PCA, KNN])]
        tasks += [("shifted", 0.0, shifted(whole, seed), [OURS, PCA, KNN])]
        tasks += [("noise", level, noisy(whole, level, seed), [OURS, PCA, KNN]) for level in config.noise]
        tasks += [
            ("laps", level, few_laps(whole, lap, level, seed), [OURS, HYBRID, TIME, PCA, PCA_FEW, KNN])
            for level in config.laps
        ]
        tasks += [
            ("missing", level, few_bins(whole, level, seed), [OURS, HYBRID, PCA, KNN]) for level in config.missing
        ]
        tasks += [
            ("lag", level, late(whole, round(level / config.bin_size_s)), [OURS, PCA, KNN]) for level in config.lags_s
        ]
        for name, level, task, models in tasks:
            for model in models:
                found = decode(task, model, config, seed)
                rows.append({"sweep": name, "level": level, "model": model, "seed": seed, **found})
                if model.startswith("ours"):
                    progress.update(r2=f"{found['r2']:.3f}")
    progress.close()
    return _findings(pd.DataFrame(rows), session.name, whole, lap, config)


def _findings(rows: pd.DataFrame, name: str, whole: Task, lap: np.ndarray, config: Config) -> Findings:
    keys = ["sweep", "level", "model"]
    summary = rows.groupby(keys, sort=False)[["r2", "median_error"]].agg(["mean", "std"])
    summary.columns = pd.Index(["r2", "r2_sd", "median_error", "median_error_sd"])
    summary = summary.reset_index()
    before = np.concatenate([whole.split.train, whole.split.val])
    num_laps = len(np.unique(lap[before]))
    about = (
        f"{name}, last {len(whole.split.test) * config.bin_size_s:.0f} s held out, "
        f"{len(before) * config.bin_size_s:.0f} s "
        f"before it in {num_laps} laps; {len(config.seeds)} seeds"
    )
    return Findings(
        "Labels that are noisy, missing, late or few",
        f"What happens to a contrastive embedding of {name} when the labels it learns {config.label} from get worse, "
        "and "
        "is it still worth having beside plain principal components and a nearest-neighbor decoder?",
        [
            Table(
                "scores",
                f"Held-out {config.label}: R2 and median error ({config.unit}), mean and SD. {about}.",
                summary,
            ),
            Table("scores_by_seed", f"The same, seed by seed. {about}.", rows),
        ],
        [
            Figure(
                "sweeps",
                f"Held-out R2 of {config.label}. Lines: mean of seeds; points: seeds; dotted: labels shifted in time, "
                "best "
                f"of the three decoders. {about}.",
                _lines(rows, num_laps),
            )
        ],
        _remarks(summary, config),
    )


def _remarks(summary: pd.DataFrame, config: Config) -> list[str]:
    r2 = summary.set_index(["sweep", "level", "model"])["r2"].sort_index()
    whole, plain = r2["whole", 0.0], max(r2["whole", 0.0][PCA], r2["whole", 0.0][KNN])
    remarks = [
        f"With all labels: behavior {whole[OURS]:.3f}, hybrid {whole[HYBRID]:.3f}, time {whole[TIME]:.3f}, best plain "
        f"baseline {plain:.3f}; an encoder trained on shuffled labels still reaches {whole[SHUFFLED]:.3f}, since a "
        "decoder "
        "on any smooth function of the activity finds position there: only what is above it is owed to the labels."
    ]
    for sweep, values in (("noise", config.noise), ("laps", config.laps), ("missing", config.missing)):
        wins = [level for level in values if r2[sweep, level][OURS] > max(r2[sweep, level][PCA], r2[sweep, level][KNN])]
        remarks.append(
            f"{AXES[sweep].capitalize()}: the behavior embedding is above both plain baselines at {len(wins)} of "
            f"{len(values)} levels{' (' + ', '.join(f'{level:g}' for level in wins) + ')' if wins else ''}, in the "
            "mean of "
            f"{len(config.seeds)} seeds."
        )
    if config.lags_s:
        lags = {0.0: whole[OURS]} | {level: r2["lag", level][OURS] for level in config.lags_s}
        best = max(lags, key=lambda level: lags[level])
        remarks.append(
            f"Lag: best at {best:g} s ({lags[best]:.3f}; {lags[0.0]:.3f} at 0 s). Levels of the lag have slightly "
            "different test rows, as those without a label so much later are dropped."
        )
    remarks.append(
        "Missing labels: behavior mode leaves the bins out, hybrid mode uses them for the time head and as negatives. "
        "One "
        "session and one animal: the seeds say how stable the fit is, not how general the finding."
    )
    return remarks


def _lines(rows: pd.DataFrame, num_laps: int) -> mpl.Figure:
    whole = {"noise": 0.0, "laps": float(num_laps), "missing": 1.0, "lag": 0.0}
    chance = rows[rows["sweep"] == "shifted"].groupby("model")["r2"].mean().max()
    models = [m for m in (OURS, HYBRID, TIME, PCA, PCA_FEW, KNN) if m in set(rows["model"])]
    with matplotlib.rc_context(STYLE):
        fig = mpl.Figure(figsize=(10.5, 7), layout="constrained")
        axes = fig.subplots(2, 2)
        for ax, (sweep, title) in zip(axes.ravel(), AXES.items()):
            part = rows[rows["sweep"] == sweep]
            at_whole = rows[rows["sweep"].eq("whole") & rows["model"].isin(set(part["model"]))]
            part = pd.concat([part, at_whole.assign(level=whole[sweep])])
            for k, model in enumerate(models):
                own = part[part["model"] == model]
                if own.empty:
                    continue
                mean = own.groupby("level")["r2"].mean()
                style = "--" if model in (PCA, PCA_FEW, KNN) else "-"
                ax.plot(mean.index, mean, style, color=PALETTE[k], label=model)
                ax.plot(own["level"], own["r2"], ".", color=PALETTE[k], markersize=3.5)
            ax.axhline(chance, color="#8496a3", linestyle=":")
            ax.set(xlabel=title, ylabel="held-out R²", ylim=(min(-0.25, chance - 0.05), 1))
            if sweep in ("laps", "missing"):
                ax.set_xscale("log")
                ticks = sorted(part["level"].unique())
                ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                ax.minorticks_off()
        handles, labels = axes[0, 1].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=3)
    return fig
