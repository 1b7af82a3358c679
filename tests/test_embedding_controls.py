"""Controls: each keeps and kills what it says; window sums against a loop; plain embeddings see train rows only."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from eval.embedding_controls import (
    pca_embedding,
    shifted_labels,
    shuffled_labels,
    shuffled_neurons,
    tsne_embedding,
    umap_embedding,
    window_sums,
)


def slow_counts(seed: int = 0, length: int = 500, units: int = 6) -> np.ndarray:
    """Units that share a slow rate."""
    rng = np.random.default_rng(seed)
    rate = 3 + 2.5 * np.sin(np.arange(length) / 20)
    return rng.poisson(rate[:, None], (length, units)).astype(float)


def lag_one(column: np.ndarray) -> float:
    return float(np.corrcoef(column[1:], column[:-1])[0, 1])


def test_shuffled_labels_keep_rows_together() -> None:
    position, way = np.arange(100.0), np.arange(100)
    first, second = shuffled_labels([position, way], seed=3)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), position)
    assert abs(lag_one(first)) < 0.3
    np.testing.assert_array_equal(first, shuffled_labels([position, way], seed=3)[0])
    assert not np.array_equal(first, shuffled_labels([position, way], seed=4)[0])


@settings(max_examples=40, deadline=None)
@given(length=st.integers(4, 80), seed=st.integers(0, 500), share=st.floats(0.05, 0.5))
def test_shifted_labels_move_at_least_as_far_as_asked(length: int, seed: int, share: float) -> None:
    least = max(1, int(share * length))
    moved = shifted_labels([np.arange(length), np.stack([np.arange(length)] * 2, axis=1)], seed, least)
    offset = (np.arange(length) - moved[0]) % length
    assert len(set(offset.tolist())) == 1
    assert least <= offset[0] <= length - least
    np.testing.assert_array_equal(moved[0], moved[1][:, 0])


def test_shuffled_neurons_kill_what_units_share() -> None:
    counts = slow_counts()
    shared = np.corrcoef(counts.T)[np.triu_indices(6, 1)].mean()
    for how, keeps_course in (("shift", True), ("permute", False)):
        moved = shuffled_neurons(counts, seed=1, how=how)
        np.testing.assert_array_equal(np.sort(moved, axis=0), np.sort(counts, axis=0))
        course = np.mean([lag_one(c) for c in moved.T])
        assert (course > 0.3) == keeps_course, how
    permuted = shuffled_neurons(counts, seed=1, how="permute")
    assert shared > 0.4
    assert abs(np.corrcoef(permuted.T)[np.triu_indices(6, 1)].mean()) < 0.1
    assert counts.base is None
    np.testing.assert_array_equal(counts, slow_counts())


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), field=st.integers(1, 11), seed=st.integers(0, 99))
def test_window_sums_against_a_loop(lengths: list[int], field: int, seed: int) -> None:
    trial = np.repeat(np.arange(len(lengths)) % 2, lengths)
    counts = np.random.default_rng(seed).integers(0, 5, (len(trial), 3)).astype(float)
    found = window_sums(counts, field, trial)
    start = 0
    for length in lengths:
        for t in range(length):
            offsets = np.arange(-(field // 2), field - field // 2)
            rows = start + np.clip(t + offsets, 0, length - 1)
            np.testing.assert_allclose(found[start + t], counts[rows].sum(axis=0), atol=1e-9)
        start += length


def test_pca_equals_scikit_learn_and_ignores_held_out_rows() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(200, 5)) @ np.diag([5, 4, 3, 2, 1])
    train = np.arange(200) < 150
    found = pca_embedding(features, train, 3)
    theirs = PCA(3).fit(features[train]).transform(features)
    np.testing.assert_allclose(np.abs(found), np.abs(theirs), atol=1e-9)
    other = features.copy()
    other[~train] *= 100
    np.testing.assert_array_equal(pca_embedding(other, train, 3)[train], found[train])


def clusters(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, 240)
    rows = 8 * np.eye(3, 10)[group] + rng.normal(size=(240, 10))
    return rows, group, np.arange(240) < 180


@pytest.mark.slow
@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_neighbor_embeddings_place_held_out_rows_by_activity(method: str) -> None:
    if method == "umap":
        pytest.importorskip("umap")
    embed = {"umap": umap_embedding, "tsne": tsne_embedding}[method]
    rows, group, train = clusters()
    found = embed(rows, train, 2, seed=0)
    centers = np.stack([found[train & (group == g)].mean(axis=0) for g in range(3)])
    nearest = ((found[~train, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == group[~train]).mean() > 0.95
    # The same seed, other held-out rows: the train rows stay where they were, bit for bit.
    changed = rows.copy()
    changed[~train] = rows[train][: (~train).sum()]
    np.testing.assert_array_equal(embed(changed, train, 2, seed=0)[train], found[train])


def test_tsne_puts_a_copy_of_a_train_row_in_its_place() -> None:
    rows, _, train = clusters(1)
    rows[~train] = rows[train][: (~train).sum()]
    found = tsne_embedding(rows, train, 2, seed=0)
    np.testing.assert_allclose(found[~train], found[train][: (~train).sum()], rtol=1e-6, atol=1e-6)


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = slow_counts()
    with pytest.raises(ValueError, match="shift or permute"):
        shuffled_neurons(counts, 0, how="rotate")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 1 to 5"):
        shifted_labels([np.arange(10)], 0, 6)
    with pytest.raises(ValueError, match="as long"):
        shuffled_labels([np.arange(10), np.arange(9)], 0)
    with pytest.raises(ValueError, match="as many"):
        window_sums(counts, 10, np.zeros(3))
    with pytest.raises(ValueError, match="components of 6"):
        pca_embedding(counts, np.ones(len(counts), bool), 7)
    keep = builtins.__import__

    def without_umap(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "umap":
            raise ImportError(name)
        return keep(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_umap)
    with pytest.raises(ValueError, match=r"foundation\[analysis\]"):
        umap_embedding(counts, np.ones(len(counts), bool), 2, 0)
