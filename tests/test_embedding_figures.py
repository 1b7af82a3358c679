"""Figures hold what they were given: points, bars, labels; and render on the background of the house."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from eval.consistency import between_runs
from eval.embedding_figures import (
    MAX_POINTS,
    Coloring,
    bars,
    circular_against_position,
    consistency_matrices,
    decoded_trajectory,
    embedding_3d,
    lifespans,
    loss_curves,
    persistence_diagrams,
)
from eval.topology import Persistence


def rendered(fig: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def check(fig: Figure) -> None:
    """The corner is the background, and something stands out from it."""
    pixels = rendered(fig)
    background = np.round(255 * np.array(to_rgba("#0a0f14")))
    np.testing.assert_array_equal(pixels[0, 0], background)
    assert (np.abs(pixels.astype(float) - background).max(axis=2) > 100).mean() > 0.001


@pytest.fixture
def coloring() -> Coloring:
    position = np.tile(np.concatenate([np.linspace(0, 1.6, 50), np.linspace(1.6, 0, 50)]), 60)
    return Coloring(position, "position (m)", np.tile(np.repeat([0, 1], 50), 60))


def cloud(seed: int, loops: int) -> Persistence:
    rng = np.random.default_rng(seed)
    h0 = np.stack([np.zeros(40), np.append(np.sort(rng.uniform(0.05, 0.3, 39)), np.inf)], axis=1)
    birth = rng.uniform(0.2, 0.4, 20)
    h1 = np.stack([birth, birth + rng.uniform(0.01, 0.1, 20)], axis=1)
    h1[:loops, 1] += 1.2
    points = rng.normal(size=(40, 3))
    return Persistence(np.arange(40), points, np.zeros(3), 1.0, h0, h1, [])


def test_3d_embeddings_color_positions_by_direction(coloring: Coloring) -> None:
    angle = np.where(coloring.way == 0, coloring.values, 3.2 - coloring.values) / 3.2 * 2 * np.pi
    ring = np.stack([np.cos(angle), np.sin(angle), 0.1 * np.sin(3 * angle)], axis=1)
    fig = embedding_3d({"position + direction": ring, "a 2-D embedding": ring[:, :2]}, coloring)
    check(fig)
    titles = [ax.get_title() for ax in fig.axes if ax.get_title()]
    assert titles == ["position + direction", "a 2-D embedding"]
    points = fig.axes[0].collections[0]
    assert len(points.get_offsets()) == MAX_POINTS
    labels = {ax.get_ylabel() for ax in fig.axes}
    assert {"position (m), rightward", "position (m), leftward"} <= labels
    # One position, two directions: two colors; and darker at the start of the track than at its end.
    start = coloring.rgba(np.array([0, 99]))
    assert np.abs(start[0] - start[1]).max() > 0.2
    assert coloring.rgba(np.array([0]))[0, :3].sum() < coloring.rgba(np.array([49]))[0, :3].sum()
    plain = Coloring(coloring.values, "time (s)")
    assert plain.rgba(np.arange(5)).shape == (5, 4)


def test_consistency_matrices_write_every_held_out_score() -> None:
    rng = np.random.default_rng(0)
    runs = [rng.normal(size=(100, 3)) for _ in range(3)]
    train = np.arange(100) < 50
    found = between_runs([runs[0], runs[0], runs[2]], train, ~train, permutations=2)
    fig = consistency_matrices({"position": found})
    check(fig)
    written = [text.get_text() for text in fig.axes[0].texts]
    assert written == [f"{v:.2f}" for v in found.held_out[~np.eye(3, dtype=bool)]]
    assert f"mean {found.mean():.2f}" in fig.axes[0].get_title()


def test_persistence_figures_show_all_bars_and_the_control() -> None:
    found = {"ring": cloud(0, 1), "shuffled": cloud(1, 0)}
    fig = persistence_diagrams(found, control=0.3)
    check(fig)
    components, loops = fig.axes[0].collections
    np.testing.assert_allclose(np.asarray(loops.get_offsets()), found["ring"].h1)
    assert len(components.get_offsets()) == 39
    fig = lifespans(found, {0: 0.4, 1: 0.3}, longest=5)
    check(fig)
    widths = [bar.get_width() for bar in fig.axes[0].patches]
    np.testing.assert_allclose(widths, [*found["ring"].lives(0)[:5], *found["ring"].lives(1)[:5]])


def test_decoded_trajectory_breaks_the_line_where_time_jumps() -> None:
    time = np.concatenate([np.arange(50), np.arange(80, 130)]) * 0.025
    truth = np.sin(time)
    fig = decoded_trajectory(time, truth, {"ours": truth, "PCA": truth + 0.1}, "position", "m")
    check(fig)
    assert len(fig.axes) == 2
    assert np.isnan(fig.axes[0].lines[1].get_ydata()).sum() == 1


def test_bars_have_the_mean_and_a_point_per_seed() -> None:
    rows = [("ours", "contrast", 0.8), ("ours", "contrast", 0.9), ("PCA", "plain", 0.6), ("shuffled", "null", -0.2)]
    scores = pd.DataFrame(rows, columns=["arm", "family", "r2"])
    fig = bars(scores, "r2", "held-out R²", reference={"published": 0.7})
    check(fig)
    ax = fig.axes[0]
    assert [patch.get_width() for patch in ax.patches[:3]] == pytest.approx([0.85, 0.6, -0.2])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.8, 0.9])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ours", "PCA", "shuffled"]


def test_loss_curves_are_averaged_and_none_is_lost() -> None:
    rng = np.random.default_rng(0)
    losses = {"a": [6 - np.linspace(0, 1, 1000) + rng.normal(size=1000)] * 2, "b": [np.full(1000, 6.0)]}
    fig = loss_curves(losses, chance=np.log(512))
    check(fig)
    lines = fig.axes[0].lines
    assert len(lines) == 4
    assert len(lines[0].get_xdata()) == 100
    assert np.mean(lines[0].get_ydata()) == pytest.approx(np.mean(losses["a"][0]))


def test_circular_coordinate_is_drawn_over_two_cycles(coloring: Coloring) -> None:
    angle = np.where(coloring.way == 0, coloring.values, 3.2 - coloring.values) / 3.2 * 2 * np.pi
    fig = circular_against_position({"position + direction": angle % (2 * np.pi)}, coloring)
    check(fig)
    drawn = [line for line in fig.axes[0].lines if len(line.get_xdata()) > 10]
    assert sum(len(line.get_xdata()) for line in drawn) == 2 * len(angle)
