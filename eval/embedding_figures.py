"""Figures of embeddings: 3-D, consistency, barcodes, decoding, losses, circular coordinates. Computes no score.

Matplotlib without pyplot; colors of the report on its background. Every function returns one figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from eval.consistency import Consistency
from eval.doctor_axes import STYLE
from eval.report_figures import ACCENT, BACKGROUND, FAINT, PALETTE, TEXT
from eval.topology import Persistence

HOUSE = STYLE | {"figure.facecolor": BACKGROUND, "axes.facecolor": BACKGROUND, "savefig.facecolor": BACKGROUND}
WAYS = tuple(
    LinearSegmentedColormap.from_list(name, colors)
    for name, colors in (
        ("forth", ["#1d5c80", ACCENT, "#f1fff8"]),
        ("back", ["#8c2f55", "#ff8a50", "#fff2b0"]),
    )
)
"""Position in either direction of running: dark at the start of the track, light at its end."""
SCORE = LinearSegmentedColormap.from_list("score", ["#16222c", "#2b6f7c", ACCENT, "#e9fff6"])
PANE = (0.06, 0.09, 0.12, 1.0)
MAX_POINTS = 4000


@dataclass(frozen=True)
class Coloring:
    """What the points of a figure are colored by.

    Attributes:
        values: `(T,)` continuous label.
        label: Its name and unit, for the colorbar.
        way: `(T,)` 0 or 1, the direction that chooses the colormap; None for one colormap.
        ways: Names of the two.
    """

    values: np.ndarray
    label: str
    way: np.ndarray | None = None
    ways: tuple[str, str] = ("rightward", "leftward")

    def rgba(self, rows: np.ndarray) -> np.ndarray:
        """Colors `(R, 4)` of some rows."""
        scaled = self.norm()(self.values[rows])
        if self.way is None:
            return np.asarray(WAYS[0](scaled))
        return np.where(self.way[rows, None] == 0, WAYS[0](scaled), WAYS[1](scaled))

    def norm(self) -> Normalize:
        """The scale of the colorbar."""
        return Normalize(float(self.values.min()), float(self.values.max()))


def house(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the style of the house."""

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(HOUSE):
            return draw(*args, **kwargs)

    return drawn


@house
def embedding_3d(embeddings: Mapping[str, np.ndarray], coloring: Coloring, columns: int = 4) -> Figure:
    """One panel per embedding `(T, 3)`, in order, all colored by the same label; at most 4,000 points each.

    Args:
        embeddings: By title. Of more than 3 dimensions the first three are shown.
        coloring: Of the T rows.
        columns: Panels in a row.
    """
    columns = min(columns, len(embeddings))
    rows = -(-len(embeddings) // columns)
    fig = _figure(3.1 * columns + 0.9, 3.3 * rows)
    shown = np.unique(np.linspace(0, len(coloring.values) - 1, MAX_POINTS).astype(int))
    colors = coloring.rgba(shown)
    axes = []
    for k, (name, points) in enumerate(embeddings.items()):
        ax: Any = fig.add_subplot(rows, columns, k + 1, projection="3d")
        x, y, z = (points[shown, d] if d < points.shape[1] else np.zeros(len(shown)) for d in range(3))
        ax.scatter(x, y, z, c=colors, s=2.5, linewidths=0, depthshade=False)
        # Without axis names, panels need equal scales to show a shape.
        ax.set_box_aspect([1, 1, 1])
        ax.set_title(name, pad=0)
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.set_pane_color(PANE)
            axis.set_ticklabels([])
            axis._axinfo["grid"].update(color="#22303b", linewidth=0.5)
            axis.line.set_color("#33424e")
            axis._axinfo["tick"].update(inward_factor=0, outward_factor=0)
        axes.append(ax)
    names = coloring.ways if coloring.way is not None else ("",)
    for cmap, name in list(zip(WAYS, names))[::-1]:
        bar = fig.colorbar(ScalarMappable(coloring.norm(), cmap), ax=axes, shrink=0.75, pad=0.01, aspect=35)
        bar.set_label(f"{coloring.label}{', ' if name else ''}{name}")
        bar.outline.set_visible(False)
    return fig


@house
def consistency_matrices(found: Mapping[str, Consistency]) -> Figure:
    """Held-out score of every ordered pair, one panel per comparison; below the name the mean and the permuted mean."""
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    # Room for a number in every cell.
    side = max(2.7, 0.4 * max(len(one.names) for one in found.values()))
    fig = _figure(side * columns + 0.8, (side + 0.6) * rows)
    axes = []
    for k, (name, one) in enumerate(found.items()):
        ax = fig.add_subplot(rows, columns, k + 1)
        # What is worse than the mean is as bad as the mean in color; the number tells.
        ax.imshow(np.clip(one.held_out, 0, 1), cmap=SCORE, vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(one.held_out):
            if np.isfinite(value):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=_on(value))
        ax.set_title(f"{name}\nmean {one.mean():.2f}, permuted {np.nanmean(one.permuted):.2f}".replace(": ", ":\n", 1))
        ax.set_xticks(range(len(one.names)), one.names, rotation=30, ha="right")
        ax.set_yticks(range(len(one.names)), one.names)
        ax.tick_params(length=0)
        if k >= len(found) - columns:
            ax.set_xlabel("mapped to")
        if k % columns == 0:
            ax.set_ylabel("mapped from")
        ax.spines[:].set_visible(False)
        axes.append(ax)
    bar = fig.colorbar(ScalarMappable(Normalize(0, 1), SCORE), ax=axes, shrink=0.6, pad=0.02, aspect=30)
    bar.set_label("held-out R²")
    bar.outline.set_visible(False)
    return fig


@house
def persistence_diagrams(found: Mapping[str, Persistence], control: float | None = None, columns: int = 4) -> Figure:
    """Birth and death of components and loops, one panel per cloud.

    Args:
        found: By title.
        control: Life that a loop must exceed, drawn as a line parallel to the diagonal.
        columns: Panels in a row.
    """
    columns = min(columns, len(found))
    rows = -(-len(found) // columns)
    fig = _figure(2.8 * columns, 3.1 * rows)
    most = max(float(p.h1.max(initial=0)) for p in found.values())
    most = 1.08 * max([most, *(float(p.lives(0).max(initial=0)) for p in found.values())])
    for k, (name, one) in enumerate(found.items()):
        ax = fig.add_subplot(rows, columns, k + 1)
        ax.plot([0, most], [0, most], color=FAINT, linewidth=0.8)
        if control is not None:
            ax.plot([0, most - control], [control, most], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        finite = one.h0[np.isfinite(one.h0[:, 1])]
        ax.scatter(
            finite[:, 0],
            finite[:, 1],
            s=9,
            color=PALETTE[1],
            linewidths=0,
            alpha=0.7,
            label="H0, components",
            clip_on=False,
        )
        ax.scatter(one.h1[:, 0], one.h1[:, 1], s=14, color=ACCENT, linewidths=0, label="H1, loops")
        ax.set(xlim=(0, most), ylim=(0, most), aspect="equal", title=name)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        if k % columns == 0:
            ax.set_ylabel("death (radius, scaled)")
        if k >= len(found) - columns:
            ax.set_xlabel("birth (radius, scaled)")
        if k == 0:
            ax.legend(loc="lower right", handletextpad=0.1)
    return fig


@house
def lifespans(
    found: Mapping[str, Persistence], control: Mapping[int, float], longest: int = 8, columns: int = 4
) -> Figure:
    """Lives of the longest bars of H0 and H1, one panel per cloud; dashed, what they must exceed.

    Args:
        found: By title.
        control: For 0 and 1 the life that a bar must exceed, the 95th percentile of the controls.
        longest: Bars of each dimension.
        columns: Panels in a row.
    """
    columns = min(columns, len(found))
    rows = -(-len(found) // columns)
    fig = _figure(2.8 * columns + 0.4, 2.6 * rows)
    most = 1.05 * max([*control.values(), *(float(p.lives(d).max(initial=0)) for p in found.values() for d in (0, 1))])
    for k, (name, one) in enumerate(found.items()):
        ax = fig.add_subplot(rows, columns, k + 1)
        for dimension, color in ((0, PALETTE[1]), (1, ACCENT)):
            top = dimension * (longest + 1)
            lives = one.lives(dimension)[:longest]
            ax.barh(top + np.arange(len(lives)), lives, color=color, height=0.7)
            ax.vlines(
                control[dimension], top - 0.6, top + longest - 0.4, color=TEXT, linewidth=1, linestyle=(0, (3, 2))
            )
        ax.set(xlim=(0, most), ylim=(2 * longest + 0.6, -0.8), title=name)
        middle = (longest - 1) / 2
        ax.set_yticks(
            [middle, middle + longest + 1],
            ["H0" if k % columns else "components, H0", "H1" if k % columns else "loops, H1"],
        )
        ax.tick_params(axis="y", length=0)
        if k >= len(found) - columns:
            ax.set_xlabel("life (radius, scaled)")
    return fig


@house
def decoded_trajectory(
    time_s: np.ndarray, truth: np.ndarray, decoded: Mapping[str, np.ndarray], label: str, unit: str
) -> Figure:
    """Decoded label against the truth over held-out time, one row per decoder.

    Args:
        time_s: `(R,)`.
        truth: `(R,)`.
        decoded: `(R,)` by name.
        label: Name of the label.
        unit: Of the label.
    """
    fig = Figure(figsize=(10, 1.25 * len(decoded) + 0.6), layout="constrained")
    for k, (name, values) in enumerate(decoded.items()):
        ax = fig.add_subplot(len(decoded), 1, k + 1)
        ax.plot(time_s, values, ".", color=PALETTE[1] if k else ACCENT, markersize=2.2)
        # Where time jumps, no line.
        jumps = np.flatnonzero(np.diff(time_s) > 3 * np.median(np.diff(time_s))) + 1
        ax.plot(np.insert(time_s, jumps, np.nan), np.insert(truth, jumps, np.nan), color=TEXT, linewidth=1)
        ax.set_title(name, loc="left")
        ax.set_ylabel(unit)
        ax.margins(x=0.005)
        if k < len(decoded) - 1:
            ax.set_xticklabels([])
    ax.set_xlabel(f"time (s); {label}: line true, dots decoded")
    return fig


@house
def bars(
    scores: pd.DataFrame, value: str, label: str, group: str = "arm", reference: Mapping[str, float] | None = None
) -> Figure:
    """One bar per group, its mean, with a point for every row (seed, animal); in the order of the rows.

    Args:
        scores: Columns `group` and `value`; optional `family`, which chooses the color.
        value: Column.
        label: Axis title, with its unit.
        group: Column.
        reference: Named values that are drawn as lines across.
    """
    groups = list(dict.fromkeys(scores[group]))
    family = dict(zip(scores[group], scores["family"])) if "family" in scores else dict.fromkeys(groups, "")
    colors = {name: (ACCENT, "#5f7484", PALETTE[1])[k % 3] for k, name in enumerate(dict.fromkeys(family.values()))}
    fig = Figure(figsize=(8.6, 0.36 * len(groups) + 1.1), layout="constrained")
    ax = fig.add_subplot()
    for row, name in enumerate(groups):
        values = scores.loc[scores[group] == name, value].to_numpy(float)
        ax.barh(row, values.mean(), color=colors[family[name]], height=0.68)
        ax.plot(values, np.full(len(values), row), "o", color="#ffffff", markersize=3, alpha=0.9, clip_on=False)
        place = max(0.0, float(values.max()), float(values.mean()))
        told = f"{values.mean():.3f}" if abs(values.mean()) < 2 else f"{values.mean():.1f}"
        ax.annotate(told, (place, row), (7, 0), textcoords="offset points", va="center", fontsize=8)
    for name, at in (reference or {}).items():
        ax.axvline(at, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.annotate(name, (at, -0.75), ha="center", va="bottom", fontsize=8, color=FAINT)
    for name, color in colors.items():
        if name:
            ax.barh(0, 0, color=color, label=name)
    if any(colors):
        fig.legend(loc="outside upper right", ncols=len(colors))
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set(yticks=range(len(groups)), yticklabels=groups, xlabel=label)
    ax.set_ylim(len(groups) - 0.5, -0.75)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.08)
    return fig


@house
def loss_curves(losses: Mapping[str, Sequence[np.ndarray]], chance: float | None = None) -> Figure:
    """Training loss of every arm, one line per seed, averaged over 1 % of the steps.

    Args:
        losses: Per arm, one `(steps,)` per seed, nats.
        chance: Loss of a collapsed embedding.
    """
    fig = Figure(figsize=(7.2, 3.6), layout="constrained")
    ax = fig.add_subplot()
    for k, (name, runs) in enumerate(losses.items()):
        for run, values in enumerate(runs):
            width = max(1, len(values) // 100)
            whole = np.asarray(values)[: len(values) // width * width].reshape(-1, width)
            at = width * (np.arange(len(whole)) + 0.5)
            ax.plot(at, whole.mean(axis=1), color=PALETTE[k % len(PALETTE)], label=None if run else name, alpha=0.85)
    if chance is not None:
        ax.axhline(chance, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), label="collapsed")
    ax.set(xlabel="step", ylabel="training loss (nats)")
    ax.margins(x=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


@house
def circular_against_position(angles: Mapping[str, np.ndarray], coloring: Coloring, columns: int = 4) -> Figure:
    """Circular coordinate against position, one panel per embedding; two cycles, so that no line breaks at 2 pi.

    Args:
        angles: `(T,)` radians in [0, 2 pi), by title.
        coloring: Position, and the direction of running.
        columns: Panels in a row.
    """
    columns = min(columns, len(angles))
    rows = -(-len(angles) // columns)
    fig = _figure(3.1 * columns + 0.4, 3.2 * rows + 0.3)
    way = np.zeros(len(coloring.values), dtype=int) if coloring.way is None else coloring.way
    for k, (name, angle) in enumerate(angles.items()):
        ax = fig.add_subplot(rows, columns, k + 1)
        for direction, color in ((0, ACCENT), (1, "#ff8a50")):
            here = way == direction
            for cycle in (0, 2 * np.pi):
                ax.plot(coloring.values[here], angle[here] + cycle, ".", color=color, markersize=1.6, alpha=0.6)
            if coloring.way is not None and k == 0:
                ax.plot([], [], "o", color=color, markersize=4, label=coloring.ways[direction])
        ax.axhline(2 * np.pi, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set(title=name, xlabel=coloring.label, ylim=(0, 4 * np.pi))
        ax.set_yticks([0, np.pi, 2 * np.pi, 3 * np.pi, 4 * np.pi], ["0", "π", "2π = 0", "π", "2π"])
        if k % columns == 0:
            ax.set_ylabel("circular coordinate (rad)")
    if coloring.way is not None:
        fig.legend(loc="outside upper right", ncols=2)
    return fig


def _figure(width: float, height: float) -> Figure:
    """Inches; with room between panels and at the edge, where 3-D axes and titles of two lines need it."""
    room = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.12, hspace=0.06, wspace=0.04)
    return Figure(figsize=(width, height), layout=room)


def _on(value: float) -> str:
    """Ink that can be read on the color of a value between 0 and 1."""
    return "#0a0f14" if value > 0.45 else TEXT
