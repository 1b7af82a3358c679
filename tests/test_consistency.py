"""Consistency against CEBRA's score in sample, SciPy's Procrustes, closed forms and a loop over label bins."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.alignment_maps import map_score, procrustes_map
from eval.consistency import between_runs, between_sessions, label_bins


def rotation(rng: np.random.Generator, width: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(width, width)))[0]


def halves(length: int) -> tuple[np.ndarray, np.ndarray]:
    train = np.arange(length) < length // 2
    return train, ~train


def noisy(seed: int, length: int = 400, widths: tuple[int, ...] = (3, 5, 3)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(length, 2))
    return [common @ rng.normal(size=(2, w)) + 0.5 * rng.normal(size=(length, w)) for w in widths]


def test_in_sample_linear_equals_cebra() -> None:
    metrics = pytest.importorskip("cebra.integrations.sklearn.metrics")
    runs = noisy(0)
    train, test = halves(400)
    theirs, pairs, _ = metrics.consistency_score([r[train] for r in runs], between="runs")
    ours = between_runs(runs, train, test, permutations=1)
    for score, (i, j) in zip(theirs, pairs):
        assert ours.in_sample[int(i), int(j)] == pytest.approx(score, abs=1e-6)
    assert np.isnan(np.diag(ours.held_out)).all()
    assert len(ours.table()) == len(pairs)


def test_bin_means_equal_those_of_cebra() -> None:
    """Equal widths over the pooled range; CEBRA leaves out the greatest label, so it is left out here as well."""
    helpers = pytest.importorskip("cebra.integrations.sklearn.helpers")
    rng = np.random.default_rng(1)
    labels = [rng.uniform(0, 1, 500), rng.uniform(0.2, 1.1, 300)]
    rows = [rng.normal(size=(500, 3)), rng.normal(size=(300, 3))]
    theirs = helpers.align_embeddings(rows, labels, normalize=False, n_bins=9)
    codes = label_bins(labels, 8)
    greatest = max(label.max() for label in labels)
    for array, label, code, aligned in zip(rows, labels, codes, theirs):
        keep = label < greatest
        for b, expected in enumerate(aligned):
            if (code[keep] == b).any():
                np.testing.assert_allclose(array[keep][code[keep] == b].mean(axis=0), expected)


def test_in_sample_procrustes_equals_scipy() -> None:
    runs = noisy(2, widths=(3, 3))
    train, test = halves(400)
    ours = between_runs(runs, train, test, method="procrustes", permutations=1)
    assert ours.in_sample[0, 1] == pytest.approx(1 - scipy.spatial.procrustes(runs[1][train], runs[0][train])[2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), width=st.integers(1, 5))
def test_a_rotated_scaled_shifted_copy_is_fully_consistent(seed: int, scale: float, width: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(60, width))
    second = scale * first @ rotation(rng, width) + rng.normal(size=width)
    for method in ("linear", "procrustes"):
        found = between_runs([first, second], *halves(60), method=method, permutations=1)
        np.testing.assert_allclose(found.held_out[[0, 1], [1, 0]], 1, atol=1e-9)


def test_procrustes_does_not_stretch_single_axes_but_linear_does() -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(size=(2000, 2))
    second = first * [1.0, 3.0]
    train, test = halves(2000)
    assert between_runs([first, second], train, test, permutations=1).held_out[0, 1] == pytest.approx(1)
    found = between_runs([first, second], train, test, method="procrustes", permutations=1).held_out[0, 1]
    # Axes 1 and 3 with one scale s = (1 + 3) / 2: error 2, total 10.
    assert found == pytest.approx(0.8, abs=0.02)


def test_a_narrow_embedding_maps_into_a_wider_one_and_back() -> None:
    rng = np.random.default_rng(4)
    plane = rng.normal(size=(100, 2))
    wide = plane @ rotation(rng, 5)[:2] * 0.3
    found = between_runs([plane, wide], *halves(100), method="procrustes", permutations=1)
    np.testing.assert_allclose(found.held_out[[0, 1], [1, 0]], 1, atol=1e-9)
    assert procrustes_map(plane, wide)(plane).shape == (100, 5)


def test_independent_noise_is_not_consistent_held_out_although_it_is_in_sample() -> None:
    rng = np.random.default_rng(5)
    runs = [rng.normal(size=(80, 30)) for _ in range(2)]
    found = between_runs(runs, *halves(80), permutations=5)
    assert found.in_sample[0, 1] > 0.6
    assert found.held_out[0, 1] < 0.05
    many = between_runs([rng.normal(size=(20000, 3)) for _ in range(2)], *halves(20000), permutations=2)
    assert abs(many.held_out[0, 1]) < 0.01


def test_the_permuted_control_is_near_zero_where_the_score_is_high() -> None:
    found = between_runs(noisy(6, 2000), *halves(2000), permutations=10)
    assert np.nanmin(found.held_out) > 0.3
    assert np.nanmax(found.permuted) < 0.1


def test_in_sample_is_vacuous_where_there_are_no_more_bins_than_dimensions() -> None:
    """Eight directions, eight dimensions, embeddings without any relation: 1 in sample, permuted as well."""
    rng = np.random.default_rng(7)
    labels = [rng.integers(0, 8, 800) for _ in range(2)]
    runs = [rng.normal(size=(800, 8)) for _ in range(2)]
    masks = [halves(800)[0]] * 2, [halves(800)[1]] * 2
    found = between_sessions(runs, labels, *masks, permutations=4)
    assert found.in_sample[0, 1] == pytest.approx(1)
    np.testing.assert_allclose(found.permuted_in_sample[:, 0, 1], 1)
    assert found.held_out[0, 1] < 0.1
    assert found.table()["in_sample_vacuous"].all()
    assert (found.rows[0, 1], found.scored[0, 1]) == (8, 8)


def session(seed: int, length: int, width: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A ring in `width` dimensions run through in both directions, with its angle and direction."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(rng.normal(0.05, 0.05, length)) % (2 * np.pi)
    way = rng.integers(0, 2, length)
    code = np.stack([np.cos(angle), np.sin(angle), way * 1.0], axis=1)
    rows = np.pad(code, ((0, 0), (0, width - 3))) @ rotation(rng, width) + 0.3 * rng.normal(size=(length, width))
    return rows, [angle, way]


def test_sessions_of_different_length_align_by_two_labels() -> None:
    made = [session(s, n, w) for s, (n, w) in enumerate([(3000, 3), (4000, 4), (3500, 3)])]
    rows, labels = [m[0] for m in made], [m[1] for m in made]
    masks = [halves(len(r)) for r in rows]
    train, test = [m[0] for m in masks], [m[1] for m in masks]
    options = {"num_bins": 20, "names": ["a", "b", "c"], "permutations": 5, "control": "permute"}
    found = between_sessions(rows, labels, train, test, **options)
    assert np.nanmin(found.held_out[:, [0, 2]]) > 0.9
    assert np.nanmax(found.permuted) < 0.1
    assert found.rows[0, 1] == 40
    same = between_sessions(rows, labels, train, test, **options)
    np.testing.assert_array_equal(found.permuted, same.permuted)


def test_between_sessions_against_a_loop() -> None:
    made = [session(s, 600, 3) for s in range(2)]
    rows, labels = [m[0] for m in made], [m[1] for m in made]
    train, test = halves(600)
    found = between_sessions(rows, labels, [train] * 2, [test] * 2, num_bins=6, permutations=1)
    codes = label_bins(labels, 6)
    means: list[list[np.ndarray]] = []
    for mask in (train, test):
        common = [c for c in range(12) if all((code[mask] == c).any() for code in codes)]
        means.append([np.array([r[mask][c[mask] == b].mean(axis=0) for b in common]) for r, c in zip(rows, codes)])
    design = np.column_stack([means[0][0], np.ones(len(means[0][0]))])
    weights = np.linalg.lstsq(design, means[0][1], rcond=None)[0]
    predicted = np.column_stack([means[1][0], np.ones(len(means[1][0]))]) @ weights
    assert found.held_out[0, 1] == pytest.approx(map_score(means[1][1], predicted, "linear"))


def test_errors_say_what_to_do() -> None:
    runs = noisy(8, 100)
    train, test = halves(100)
    with pytest.raises(ValueError, match="at least 2"):
        between_runs(runs[:1], train, test)
    with pytest.raises(ValueError, match="between_sessions"):
        between_runs([runs[0], runs[1][:50]], train, test)
    with pytest.raises(ValueError, match="held-out time"):
        between_runs(runs, train, train)
    with pytest.raises(ValueError, match="expected one of"):
        between_runs(runs, train, test, method="cca")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shift or permute"):
        between_runs(runs[:1] * 2, train, test, control="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected bool"):
        between_runs(runs, train.astype(int), test)
    label = np.linspace(0, 1, 100)
    with pytest.raises(ValueError, match="discrete"):
        between_sessions(runs[:2], [label, np.arange(100)], [train] * 2, [test] * 2)
    with pytest.raises(ValueError, match="not finite"):
        between_sessions(runs[:2], [label, np.where(label > 0.5, np.nan, label)], [train] * 2, [test] * 2)
    with pytest.raises(ValueError, match="as many"):
        between_sessions(runs[:2], [label, label[:60]], [train] * 2, [test] * 2)
