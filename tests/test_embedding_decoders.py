"""Decoders against scikit-learn's, on closed forms, and the plain baselines against the protocol's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from eval.embedding_decoders import (
    PENALTIES,
    Split,
    decode_knn,
    decode_logistic,
    decode_ridge,
    scores,
    split_in_time,
)
from eval.plain_baselines import plain_baselines

SPLIT = split_in_time(600)
KNOWN = np.concatenate([SPLIT.train, SPLIT.val])


def rows(seed: int = 0, width: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(600, width))


def test_split_in_time_is_in_order_and_complete() -> None:
    np.testing.assert_array_equal(np.concatenate([SPLIT.train, SPLIT.val, SPLIT.test]), np.arange(600))
    assert (len(SPLIT.train), len(SPLIT.val), len(SPLIT.test)) == (384, 96, 120)
    assert set(SPLIT.stretch().tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="empty stretch"):
        split_in_time(600, 0.5, 0.5)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_knn_regression_equals_scikit_learn(distance: str) -> None:
    x = rows()
    label = np.stack([x[:, 0] ** 2, x[:, 1]], axis=1) + 0.3 * rows(1, 2)
    sizes = (1, 3, 10, 30)
    found = decode_knn(x, label, SPLIT, "continuous", distance=distance, neighbors=sizes)  # type: ignore[arg-type]
    losses = {}
    for k in sizes:
        model = KNeighborsRegressor(k, metric=distance).fit(x[SPLIT.train], label[SPLIT.train])
        losses[k] = np.mean((model.predict(x[SPLIT.val]) - label[SPLIT.val]) ** 2)
    best = min(losses, key=losses.__getitem__)
    assert found.choice == {"k": best}
    assert found.validation_loss == pytest.approx(losses[best])
    expected = KNeighborsRegressor(best, metric=distance).fit(x[KNOWN], label[KNOWN]).predict(x[SPLIT.test])
    np.testing.assert_allclose(found.prediction, expected)


def test_knn_vote_equals_scikit_learn() -> None:
    x = rows(2)
    label = (x[:, 0] > 0) * 7 + (x[:, 1] > 1) * 2
    found = decode_knn(x, label, SPLIT, "discrete", distance="euclidean", neighbors=(5,))
    expected = KNeighborsClassifier(5).fit(x[KNOWN], label[KNOWN]).predict(x[SPLIT.test])
    np.testing.assert_array_equal(found.prediction, expected)


def test_validation_chooses_k_and_the_test_rows_do_not() -> None:
    x = rows(3)
    label = x[:, 0] + 2 * rows(4, 1)[:, 0]
    found = decode_knn(x, label, SPLIT, "continuous")
    changed = label.copy()
    changed[SPLIT.test] += 100
    again = decode_knn(x, changed, SPLIT, "continuous")
    np.testing.assert_array_equal(found.prediction, again.prediction)
    assert found.choice["k"] > 5


def test_circular_labels_are_averaged_on_the_circle() -> None:
    rng = np.random.default_rng(5)
    angle = rng.uniform(0, 2 * np.pi, 600)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.05 * rng.normal(size=(600, 2))
    for found in (decode_knn(x, angle, SPLIT, "circular"), decode_ridge(x, angle, SPLIT, "circular")):
        got = scores(angle[SPLIT.test], found.prediction, "circular")
        assert got["median_error"] < 0.06
        assert got["r2"] > 0.98
        assert found.prediction.shape == (120,)
    # Averaged as plain numbers, angles on either side of 0 would come out near pi.
    near = (angle < 0.3) | (angle > 2 * np.pi - 0.3)
    plain = decode_knn(x, angle, SPLIT, "continuous", neighbors=(25,)).prediction
    circle = decode_knn(x, angle, SPLIT, "circular", neighbors=(25,)).prediction
    truth = angle[SPLIT.test][near[SPLIT.test]]
    errors = [np.abs(np.angle(np.exp(1j * (p[near[SPLIT.test]] - truth)))).max() for p in (plain, circle)]
    assert errors[1] < 0.5 < errors[0]


def test_ridge_equals_scikit_learn() -> None:
    x = rows(6, 20)
    label = x @ rows(7, 20)[:20, :2] + rows(8, 2)
    found = decode_ridge(x, label, SPLIT, "continuous")

    def theirs(rows_of: np.ndarray, penalty: float) -> Ridge:
        centered = x[rows_of] - x[rows_of].mean(axis=0)
        return Ridge(alpha=penalty * len(rows_of) * (centered**2).mean()).fit(x[rows_of], label[rows_of])

    losses = [np.mean((theirs(SPLIT.train, p).predict(x[SPLIT.val]) - label[SPLIT.val]) ** 2) for p in PENALTIES]
    assert found.choice["penalty"] == PENALTIES[int(np.argmin(losses))]
    np.testing.assert_allclose(found.prediction, theirs(KNOWN, found.choice["penalty"]).predict(x[SPLIT.test]))


def test_logistic_equals_scikit_learn() -> None:
    x = rows(9)
    label = np.array([3, 5, 9])[(x @ rows(10)[:4, :3] + 0.2 * rows(11, 3)).argmax(axis=1)]
    found = decode_logistic(x, label, SPLIT)
    center, scale = x[KNOWN].mean(axis=0), x[KNOWN].std()
    strength = 1 / (found.choice["penalty"] * len(KNOWN) / 100)
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=2000).fit((x[KNOWN] - center) / scale, label[KNOWN])
    agree = (found.prediction == model.predict((x[SPLIT.test] - center) / scale)).mean()
    assert agree > 0.98
    assert scores(label[SPLIT.test], found.prediction, "discrete")["balanced_accuracy"] > 0.8
    assert set(found.prediction) <= {3, 5, 9}


def test_scores_equal_scikit_learn() -> None:
    truth = rows(12, 2) * [1, 4]
    guess = truth + rows(13, 2)
    got = scores(truth, guess, "continuous")
    assert got["r2"] == pytest.approx(r2_score(truth, guess))
    assert got["r2_weighted"] == pytest.approx(r2_score(truth, guess, multioutput="variance_weighted"))
    assert got["median_error"] == pytest.approx(np.median(np.sqrt(((truth - guess) ** 2).sum(axis=1))))
    label, vote = np.random.default_rng(0).integers(0, 4, (2, 300))
    assert scores(label, vote, "discrete")["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, vote))


def test_circular_score_is_zero_for_the_mean_direction_and_one_for_the_truth() -> None:
    angle = np.random.default_rng(1).vonmises(1.0, 2.0, 500)
    mean = np.angle(np.exp(1j * angle).mean())
    assert scores(angle, np.full(500, mean), "circular")["r2"] == pytest.approx(0, abs=1e-12)
    assert scores(angle, angle + 2 * np.pi, "circular")["r2"] == pytest.approx(1)


def test_label_without_relation_is_not_decoded() -> None:
    x, label = rows(14), rows(15, 1)[:, 0]
    assert scores(label[SPLIT.test], decode_knn(x, label, SPLIT, "continuous").prediction, "continuous")["r2"] < 0.05
    assert scores(label[SPLIT.test], decode_ridge(x, label, SPLIT, "continuous").prediction, "continuous")["r2"] < 0.05


def place_cells(seed: int, length: int = 600, units: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    place = 0.5 + 0.5 * np.sin(np.arange(length) / 15)
    centers = np.linspace(0, 1, units)
    return rng.poisson(1.5 * np.exp(-((place[:, None] - centers) ** 2) / 0.02)), place


def test_plain_baselines_decode_place_cells_and_never_see_test_bins() -> None:
    counts, place = place_cells(0)
    found = plain_baselines(counts, place, SPLIT, "continuous", dimensions=(3,))
    assert list(found) == ["PCA 3-d", "kNN on all units", "kNN, smoothed", "ridge on lags"]
    for name, one in found.items():
        assert scores(place[SPLIT.test], one.prediction, "continuous")["r2"] > 0.7, name
    # What is known before the test stretch does not move when the test stretch changes; nor does what lies past it.
    changed = counts.copy()
    changed[SPLIT.test] = place_cells(1)[0][SPLIT.test]
    again = plain_baselines(changed, place, SPLIT, "continuous", dimensions=(3,))
    assert [one.validation_loss for one in found.values()] == [one.validation_loss for one in again.values()]
    assert [one.choice for one in found.values()] == [one.choice for one in again.values()]


def test_windows_do_not_cross_trials() -> None:
    counts, place = place_cells(2)
    # No two distances are equal: which of two neighbors as near is taken depends on the order and the processor.
    counts = counts + 1e-3 * np.random.default_rng(3).random(counts.shape)
    trial = np.arange(600) // 50
    whole = plain_baselines(counts, place, SPLIT, "continuous", trial=trial, dimensions=(3,))
    order = np.concatenate([np.arange(50) + 50 * b for b in [1, 0, *range(2, 12)]])
    moved = plain_baselines(counts[order], place[order], SPLIT, "continuous", trial=trial[order], dimensions=(3,))
    for name in ("kNN on all units", "ridge on lags"):
        np.testing.assert_allclose(whole[name].prediction, moved[name].prediction, atol=1e-6)


@pytest.mark.real
@pytest.mark.parametrize(("name", "table"), [("buddy", (0.642, 0.691, 0.661)), ("achilles", (0.834, 0.881, 0.855))])
def test_the_baselines_reproduce_the_protocol(name: str, table: tuple[float, ...], real_data: Path) -> None:
    """Section 7: PCA 3-d, 8-d, kNN on all units; achilles with windows across laps, as there (kept apart: better)."""
    file = {"buddy": "buddy.npz", "achilles": "achilles_left_laps.npz"}[name]
    with np.load(real_data / "hippocampus_hc11" / file) as data:
        counts = data["spikes" if name == "buddy" else "activity"]
        position = data["position"].reshape(len(counts), -1)[:, 0].astype(float)
    split = split_in_time(len(counts))
    found = plain_baselines(counts, position, split, "continuous")
    got = {key: scores(position[split.test], one.prediction, "continuous")["r2"] for key, one in found.items()}
    for key, expected in zip(("PCA 3-d", "PCA 8-d", "kNN on all units"), table):
        assert got[key] == pytest.approx(expected, abs=0.04), key


def test_errors_say_what_to_do() -> None:
    x, label = rows(), rows(1, 1)[:, 0]
    with pytest.raises(ValueError, match="as many"):
        decode_knn(x, label[:5], SPLIT, "continuous")
    with pytest.raises(ValueError, match="not finite"):
        decode_ridge(x, np.where(label > 1, np.nan, label), SPLIT, "continuous")
    with pytest.raises(ValueError, match="expected integers"):
        decode_knn(x, label, SPLIT, "discrete")
    with pytest.raises(ValueError, match="expected continuous, circular or discrete"):
        decode_knn(x, label, SPLIT, "angle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cosine or euclidean"):
        decode_knn(x, label, SPLIT, "continuous", distance="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same shape"):
        scores(label, label[:, None], "continuous")
    with pytest.raises(ValueError, match="constant"):
        scores(np.ones(5), np.ones(5), "continuous")
    assert isinstance(SPLIT, Split)
