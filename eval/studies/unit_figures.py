"""The figures of the two studies of unit embeddings; draws what it is given and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import figure as mpl

from eval.doctor_axes import STYLE
from eval.report_figures import FAINT, PALETTE


def bars(table: pd.DataFrame, panels: Mapping[str, str], chance: Mapping[str, float | str | None]) -> mpl.Figure:
    """A panel per score, a bar per input with its interval, and where chance is.

    Args:
        table: A row per input: `input`, and of each score its mean, `<score>_low` and `<score>_high`.
        panels: Title of each score.
        chance: Of each score: a number, a column with a number per input, or None.
    """
    with matplotlib.rc_context(STYLE):
        fig = mpl.Figure(figsize=(3.0 + 2.7 * len(panels), 0.42 * len(table) + 1.3), layout="constrained")
        axes = np.atleast_1d(fig.subplots(1, len(panels), sharey=True))
        place = np.arange(len(table))[::-1]
        colors = [PALETTE[k % len(PALETTE)] for k in range(len(table))]
        for ax, (score, title) in zip(axes, panels.items()):
            mean = table[score].to_numpy(float)
            ax.barh(place, mean, color=colors, height=0.62, alpha=0.85)
            low, high = (table[f"{score}_{end}"].to_numpy(float) for end in ("low", "high"))
            ax.hlines(place, low, high, color="#e6edf3", lw=1.4)
            for y, value, end in zip(place, mean, high):
                if np.isfinite(value):
                    place_of = (max(end, value), y)
                    ax.annotate(f"{value:.2f}", place_of, (4, 0), textcoords="offset points", va="center", fontsize=7.5)
            level = chance[score]
            if isinstance(level, str):
                ax.vlines(table[level].to_numpy(float), place - 0.4, place + 0.4, color=FAINT, lw=1.2, ls="--")
            elif level is not None:
                ax.axvline(level, color=FAINT, lw=1.0, ls="--")
            ax.set_xlim(0, 1.18 * max(np.nanmax(high), level if isinstance(level, float) else 0.0))
            ax.set_title(title, fontsize=9)
            ax.tick_params(labelsize=8)
            ax.locator_params(axis="x", nbins=4)
            ax.grid(axis="y", visible=False)
        axes[0].set_yticks(place, table["input"].tolist())
        return fig


def confusions(counts: Mapping[str, np.ndarray], names: Sequence[str]) -> mpl.Figure:
    """A panel per input: where the units of each true class (rows) are put, as shares of the row.

    Args:
        counts: `(K, K)` by input.
        names: Of the K classes.
    """
    with matplotlib.rc_context(STYLE):
        fig = mpl.Figure(figsize=(1.8 + 2.8 * len(counts), 4.0), layout="constrained")
        axes = np.atleast_1d(fig.subplots(1, len(counts), sharey=True))
        for ax, (title, matrix) in zip(axes, counts.items()):
            share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            ax.imshow(share, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            for (row, column), value in np.ndenumerate(share):
                ax.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                    color="#0a0f14" if value > 0.6 else "#e6edf3",
                )  # fmt: skip
            ax.set_title(title, fontsize=9)
            ax.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
            ax.set_yticks(range(len(names)), names, fontsize=8)
            ax.set_xlabel("told", fontsize=8)
            ax.grid(visible=False)
        axes[0].set_ylabel("planted", fontsize=8)
        return fig
