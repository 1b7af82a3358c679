"""The figures of the frame study; draws what it is given and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import figure as mpl
from sklearn.manifold import TSNE

from eval.doctor_axes import STYLE
from eval.report_figures import FAINT, PALETTE
from eval.studies.frame_decoders import Showings, flat, frame_labels

COLORS = {
    "contrastive": PALETTE[0],
    "autoencoder": PALETTE[1],
    "components": PALETTE[2],
    "activity": PALETTE[3],
    "reference": FAINT,
}
MARKERS = {"contrastive": "o", "autoencoder": "s", "components": "D", "activity": "*", "reference": "P"}
FRAME_MAP = "plasma"
_SHORT = (("contrastive, ", ""), ("VAE, ", ""), ("VAE", "unguided"), (" of variance", ""), ("beta ", "β "))


def two_axes(table: pd.DataFrame) -> mpl.Figure:
    """Frame accuracy over neural R2, a numbered marker a latent, its name beside the axes.

    Args:
        table: Table `latents` of the study: `kind`, `latent`, `knn_exact`, `knn_exact_sd`, `r2_test`, `r2_test_sd`.
    """
    with matplotlib.rc_context(STYLE):
        shown = table[~table["kind"].isin(["reference", "activity"])].reset_index(drop=True)
        fig = mpl.Figure(figsize=(10, max(5.0, 0.21 * len(shown) + 1)), layout="constrained")
        ax, names = fig.subplots(1, 2, width_ratios=(1.7, 1))
        for number, (_, row) in enumerate(shown.iterrows()):
            color = COLORS[row["kind"]]
            x, y = row["r2_test"], row["knn_exact"]
            ax.errorbar(x, y, np.nan_to_num(row["knn_exact_sd"]), np.nan_to_num(row["r2_test_sd"]), color=color, lw=0.8)
            ax.plot(x, y, MARKERS[row["kind"]], color=color, markersize=6, markeredgecolor="#0a0f14")
            ax.annotate(str(number + 1), (x, y), (5, 4 if number % 2 else -9), textcoords="offset points", fontsize=7.5)
            at = 1 - (number + 0.5) / len(shown)
            text = row["latent"]
            for old, new in _SHORT if row["kind"] != "components" else ():
                text = text.replace(old, new)
            names.text(0.0, at, f"{number + 1}", color=color, fontsize=8, ha="right", va="center", fontweight="bold")
            names.text(0.04, at, f"{row['kind']}: {text}", fontsize=7.8, va="center")
        names.set_axis_off()
        # Activity read back from itself stands far to the right and says nothing; its frames are a line.
        for kind, line in (("reference", ax.axvline), ("activity", ax.axhline)):
            row = table[table["kind"] == kind].iloc[0]
            line(row["r2_test" if kind == "reference" else "knn_exact"], color=COLORS[kind], lw=0.9, ls="--")
        ax.axhline(0, color=FAINT, lw=0.5)
        ax.set(xlabel="Activity read back from the latent, R² (test showing)", ylabel="Exact frames, kNN (share)")
        ax.margins(x=0.08, y=0.08)
    return fig


def within_frames(predicted: Mapping[str, np.ndarray], num_frames: int) -> mpl.Figure:
    """Share of test frames decoded within k frames.

    Args:
        predicted: `(F,)` frames by name.
        num_frames: F.
    """
    reach = np.arange(min(91, num_frames))
    frame = np.arange(num_frames)
    with matplotlib.rc_context(STYLE):
        fig = mpl.Figure(figsize=(8.5, 4.6), layout="constrained")
        ax = fig.add_subplot()
        for color, (name, found) in zip(PALETTE, predicted.items()):
            error = np.abs(np.clip(np.round(found), 0, num_frames - 1) - frame)
            ax.plot(reach, [(error <= k).mean() for k in reach], color=color, label=name)
        off = np.abs(np.subtract.outer(frame, frame))
        ax.plot(reach, [(off <= k).mean() for k in reach], color=FAINT, ls="--", label="uniform guess")
        ax.axvline(30, color=FAINT, lw=0.6)
        ax.text(30.6, 0.02, "1 s", color=FAINT, fontsize=8)
        ax.set(xlabel="Frames off, at most", ylabel="Share of test frames", xlim=(0, reach[-1]), ylim=(0, 1.01))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def spaces(latents: Mapping[str, Showings], fit: np.ndarray, seed: int) -> mpl.Figure:
    """Three principal axes of the test showing of each latent, and t-SNE of activity.

    Args:
        latents: By name.
        fit: `(R, F, N)` activity for t-SNE.
        seed: Of t-SNE.
    """
    with matplotlib.rc_context(STYLE):
        panels = len(latents) + 1
        fig = mpl.Figure(figsize=(3.4 * panels, 3.9), layout="constrained")
        drawn = None
        for k, (name, showings) in enumerate(latents.items()):
            ax = fig.add_subplot(1, panels, k + 1, projection="3d")
            rows = _axes(flat(showings.fit), flat(showings.test))
            color = frame_labels(showings.test)
            drawn = ax.scatter(
                rows[:, 0], rows[:, 1], rows[:, 2], c=color, cmap=FRAME_MAP, s=4, linewidths=0, depthshade=False
            )
            ax.plot(*rows.T, color=FAINT, lw=0.25, alpha=0.6)
            ax.set_title(name, fontsize=8.5)
            ax.set(xticklabels=[], yticklabels=[], zticklabels=[])
            for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
                axis.pane.set_visible(False)
                axis._axinfo["grid"].update(color="#22303b", linewidth=0.5)
        ax = fig.add_subplot(1, panels, panels)
        rows = flat(fit)
        near = _axes(rows, rows, 50)
        at = TSNE(2, perplexity=min(30, len(near) // 4), random_state=seed, init="pca").fit_transform(near)
        drawn = ax.scatter(at[:, 0], at[:, 1], c=frame_labels(fit), cmap=FRAME_MAP, s=3, linewidths=0)
        ax.set(title=f"t-SNE of activity, {len(fit)} fit showings", xticks=[], yticks=[])
        ax.title.set_fontsize(8.5)
        bar = fig.colorbar(drawn, ax=ax, fraction=0.05)
        bar.set_label("Frame")
        bar.outline.set_visible(False)
    return fig


def first_raster(activity: np.ndarray) -> mpl.Figure:
    """Frames in which a unit of the first showing has a spike, quiet units at the top.

    Args:
        activity: `(R, F, N)`.
    """
    order = np.argsort(-activity.mean(axis=(0, 1)), kind="stable")
    frames, units = activity.shape[1:]
    with matplotlib.rc_context(STYLE):
        fig = mpl.Figure(figsize=(10, 4.6), layout="constrained")
        ax = fig.add_subplot()
        ax.imshow(
            (activity[0][:, order] > 0).T,
            aspect="auto",
            origin="lower",
            cmap="gray",
            interpolation="antialiased",
            extent=(0, frames / 30, 0, units),
        )
        ax.set(xlabel="Time in the movie (s)", ylabel="Unit, by mean rate (highest at the bottom)")
    return fig


def _axes(fit: np.ndarray, rows: np.ndarray, count: int = 3) -> np.ndarray:
    """Rows along the first principal axes of `fit`."""
    mean = fit.mean(axis=0)
    axes = np.linalg.eigh(np.cov((fit - mean).astype(float), rowvar=False))[1][:, ::-1][:, :count]
    return (rows - mean) @ axes
