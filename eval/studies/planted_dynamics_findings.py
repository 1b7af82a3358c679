"""Tables, figures and remarks of the study of planted dynamics, from one row per arm, noise, seed and estimator."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import figure as mpl
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from eval.embedding_figures import HOUSE
from eval.report_figures import ACCENT, FAINT, PALETTE
from eval.studies.simulated_dynamics import transition
from eval.studies.study import Figure, Findings, Table
from foundation.linear_dynamics import sorted_eigenvalues

ALIGNED = "AlignedDynamics"
REFERENCE = "PCA, pooled unaligned"
OWN = "PCA, each session alone"
JUDGED_BY_SYSTEM = "system"
JUDGED_BY_MOMENTS = "lag 2 / lag 1"
# How many times below unaligned PCA the error is to be.
TARGET = 5.0


def findings(scores: pd.DataFrame, size: str) -> Findings:
    """What the scores say.

    Args:
        scores: Columns arm, noise, seed, estimator, max_error, mean_error, r2_own, r2_across, and found, the
            eigenvalues themselves.
        size: Of the simulation, in words.
    """
    groups = scores.groupby(["noise", "arm", "estimator"], sort=False)
    table = groups[["max_error", "mean_error", "r2_own", "r2_across"]].mean().reset_index()
    table.insert(4, "sd", groups["max_error"].std(ddof=1).to_numpy())
    best = table[table["arm"] == REFERENCE].groupby("noise")[["max_error", "mean_error"]].min()
    for kind in ("max", "mean"):
        table[f"times_below_{kind}"] = table["noise"].map(best[f"{kind}_error"]) / table[f"{kind}_error"]
    main = _judged(table)
    num = f"{scores['seed'].nunique()} seeds, {size}"
    return Findings(
        "Dynamics that sessions share",
        "Sessions share two rotations (.97 per bin by .25 rad, .93 by .60), each behind neurons of its own. Who finds "
        "the eigenvalues, does alignment by behavior matter for it, and does a decoder of the state carry over?",
        [
            Table(
                "eigenvalues",
                "Distance of the eigenvalues found from the planted ones, best assignment: largest and mean of four, "
                "mean and sd over seeds. Arms that learn a system are judged by it, others by the lag-2 / lag-1 "
                "covariances. times_below: against unaligned PCA, by the better of its two estimators. R2: planted "
                f"state of held-out trials by a linear map fitted in the same (own) or another session. {num}.",
                main,
            ),
            Table("eigenvalues_all", f"The same for every estimator. {num}.", table),
            Table("by_seed", f"Seed by seed. {num}.", scores.drop(columns="found")),
        ],
        [
            Figure(
                "errors", f"Largest eigenvalue error, and R2 of the state over sessions. Points: {num}.", _dots(scores)
            ),
            Figure(
                "complex_plane",
                f"Planted eigenvalues (rings) and those found, lowest noise, all seeds, upper half. {num}.",
                _planes(scores),
            ),
        ],
        _remarks(main),
    )


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every arm the rows of the estimator it is judged by."""
    learned = set(rows.loc[rows["estimator"] == JUDGED_BY_SYSTEM, "arm"])
    by = [JUDGED_BY_SYSTEM if arm in learned else JUDGED_BY_MOMENTS for arm in rows["arm"]]
    return rows[rows["estimator"] == by].reset_index(drop=True)


def _remarks(main: pd.DataFrame) -> list[str]:
    remarks = []
    for noise, rows in main.groupby("noise"):
        arms = rows.set_index("arm")
        for name in (ALIGNED, f"{ALIGNED}, behavior across", f"{ALIGNED}, rank weight 0"):
            if name in arms.index:
                most, mean, error, over = arms.loc[
                    name, ["times_below_max", "times_below_mean", "max_error", "r2_across"]
                ].astype(float)
                remarks.append(
                    f"Noise {noise}, {name}: largest error {error:.3f}, {most:.1f} times below unaligned PCA (mean "
                    f"error {mean:.1f} times; the target is {TARGET:g} times); R2 over sessions {over:.2f}."
                )
    return [
        *remarks,
        "Eigenvalues do not depend on the basis, so a session needs no other to find its own: PCA of each session "
        "alone does. Alignment is what lets sessions be pooled in one system, and what lets a decoder carry over.",
        "`behavior alone` and `ridge to behavior` are the plain ways: where behavior shows the whole state, they need "
        "no joint model.",
    ]


def _planes(scores: pd.DataFrame) -> mpl.Figure:
    rows = _judged(scores[scores["noise"] == scores["noise"].min()])
    arms = list(dict.fromkeys(rows["arm"]))
    planted, columns = sorted_eigenvalues(transition()), 5
    with matplotlib.rc_context(HOUSE):
        fig = mpl.Figure(figsize=(12, 2.3 * -(-len(arms) // columns)), layout="constrained")
        axes = fig.subplots(-(-len(arms) // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax in axes[len(arms) :]:
            ax.set_axis_off()
        angle = np.linspace(0, np.pi, 100)
        for ax, arm in zip(axes, arms):
            ax.plot(np.cos(angle), np.sin(angle), color=FAINT, linewidth=0.5)
            for values in rows.loc[rows["arm"] == arm, "found"]:
                ax.plot(values.real, values.imag, ".", color=ACCENT, markersize=5, alpha=0.8)
            ax.plot(planted.real, planted.imag, "o", mfc="none", mec="#ffffff", mew=0.8, markersize=9)
            ax.set(xlim=(0.3, 1.12), ylim=(-0.06, 0.66), aspect="equal")
            ax.set_title(arm.replace(", ", ",\n"), fontsize=8.5)
        for ax in axes[::columns]:
            ax.set_ylabel("imaginary")
        for ax in axes[max(0, len(arms) - columns) : len(arms)]:
            ax.set_xlabel("real")
            ax.tick_params(labelbottom=True)
    return fig


def _dots(scores: pd.DataFrame) -> mpl.Figure:
    rows = _judged(scores)
    order = list(dict.fromkeys(rows["arm"]))[::-1]
    noises = sorted(rows["noise"].unique())
    with matplotlib.rc_context(HOUSE):
        fig = mpl.Figure(figsize=(11, 0.36 * len(order) + 1.3), layout="constrained")
        left, right = fig.subplots(1, 2, sharey=True)
        for c, noise in enumerate(noises):
            part = rows[rows["noise"] == noise]
            at = np.array([order.index(arm) for arm in part["arm"]]) + 0.24 * ((len(noises) - 1) / 2 - c)
            for ax, values in ((left, part["max_error"]), (right, part["r2_across"].clip(lower=-1))):
                ax.plot(values, at, "o", color=PALETTE[c % len(PALETTE)], markersize=3.5, alpha=0.9, clip_on=False)
            left.plot([], [], "o", color=PALETTE[c % len(PALETTE)], markersize=4, label=f"observation noise {noise:g}")
        left.set_xscale("log")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        left.xaxis.set_minor_locator(NullLocator())
        left.set(xlabel="largest eigenvalue error", yticks=range(len(order)), yticklabels=order)
        right.set(xlabel="R² of the state, decoder of another session (below -1: at -1)", xlim=(-1, 1))
        right.axvline(0, color=FAINT, linewidth=0.6)
        for ax in (left, right):
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", color=FAINT, linewidth=0.2)
        fig.legend(loc="outside upper center", ncols=len(noises))
    return fig
