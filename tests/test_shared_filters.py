"""Multi-session reduced-rank regression: closed forms, a minimum that nothing near betters, what a new animal gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from eval.baselines import Effort, run_baselines
from eval.baselines_shared import OtherSessions, shared_label, shared_trace
from eval.linear_fits import ridge
from eval.metrics import r2
from eval.session_view import SessionView
from eval.shared_filters import PENALTIES, RANKS, FewRows, Moments, filtered, shared_filters, summary_of
from foundation.corpus import Corpus


def _session(rows: int, units: int, rng: np.random.Generator, filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features that are correlated over windows, and a target that reads them through the filters, with noise."""
    windows = filters.shape[1]
    features = rng.normal(size=(rows, windows, units)) + 0.7 * rng.normal(size=(rows, 1, units))
    target = filtered(features, filters) @ rng.normal(size=len(filters) * units) + 2 * rng.normal(size=rows)
    return features / features.std(axis=0), target


def test_weights_are_a_ridge_on_filtered_features() -> None:
    rng = np.random.default_rng(0)
    filters = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    features, target = _session(80, 5, rng, filters)
    loop = np.stack([sum(f[w] * features[:, w, u] for w in range(6)) for f in filters for u in range(5)], axis=1)
    np.testing.assert_allclose(filtered(features, filters), loop, atol=1e-12)
    y = (target - target.mean()) / target.std()
    theirs = Ridge(alpha=0.3 * 80, fit_intercept=False).fit(loop, y).coef_
    np.testing.assert_allclose(Moments.of(features, target).weights(filters, 0.3).ravel(), theirs, atol=1e-10)


def test_few_rows_give_what_their_moments_give() -> None:
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(2, 6))
    data = [_session(rows, units, rng, truth) for rows, units in ((30, 8), (47, 12), (48, 8))]
    sums, rows = [Moments.of(*one) for one in data], [summary_of(*one) for one in data]
    assert [type(one) for one in rows] == [FewRows, FewRows, Moments]
    filters = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    for one, other in zip(sums, rows):
        np.testing.assert_allclose(other.cross, one.cross, atol=1e-9)
        weights = one.weights(filters, 0.3)
        np.testing.assert_allclose(other.weights(filters, 0.3), weights, atol=1e-9)
        np.testing.assert_allclose(other.products(weights), one.products(weights), atol=1e-9)
    for one, other in zip(shared_filters(sums), shared_filters(rows)):
        np.testing.assert_allclose(other.T @ other, one.T @ one, atol=1e-6)


def test_of_white_features_the_filters_are_singular_vectors() -> None:
    rng = np.random.default_rng(1)
    sessions, sides = [], []
    for units, rows in ((5, 100), (3, 50)):
        eye = np.eye(4 * units).reshape(4, units, 4, units)
        cross = rng.normal(size=(4, units)) * rows
        sessions.append(Moments(rows * eye, cross, rows))
        sides.append(cross / rows)
    best = np.linalg.svd(np.concatenate(sides, axis=1))[0]
    found = shared_filters(sessions)
    assert [len(f) for f in found] == [*RANKS] * len(PENALTIES)
    for filters in found:
        rank = len(filters)
        np.testing.assert_allclose(filters.T @ filters, best[:, :rank] @ best[:, :rank].T, atol=1e-6)


def test_nothing_near_is_better() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(2, 6))
    data = [_session(200, units, rng, truth) for units in (4, 7, 5)]

    def penalized(filters: np.ndarray, penalty: float) -> float:
        total = 0.0
        for features, target in data:
            y = (target - target.mean()) / target.std()
            x = filtered(features, filters)
            weights = Ridge(alpha=penalty * len(y), fit_intercept=False, solver="cholesky").fit(x, y).coef_
            total += float(np.mean((y - x @ weights) ** 2) + penalty * weights @ weights)
        return total

    found = shared_filters([Moments.of(*one) for one in data])
    for filters, penalty in zip(found, np.repeat(PENALTIES, len(RANKS))):
        least = penalized(filters, penalty)
        np.testing.assert_allclose(filters @ filters.T, np.eye(len(filters)), atol=1e-10)
        for size in (0.03, 0.3):
            for _ in range(5):
                other = np.linalg.qr((filters + size * rng.normal(size=filters.shape)).T)[0].T
                assert penalized(other, penalty) > least - 1e-5


def test_a_new_session_of_few_rows_gains() -> None:
    rng = np.random.default_rng(3)
    truth = np.exp(-np.arange(8) / 2)[None]
    others = [Moments.of(*_session(400, 12, rng, truth)) for _ in range(4)]
    features, target = _session(560, 12, rng, truth)
    train, val, test = np.split(np.arange(560), [50, 80])
    own = ridge(features.reshape(560, -1), target, train, val)
    fits = [ridge(filtered(features, filters), target, train, val) for filters in shared_filters(others)]
    with_filters = min(fits, key=lambda fit: fit.validation_loss)
    assert r2(target[test], with_filters.value[test]) > r2(target[test], own.value[test]) + 0.1


def test_baselines_borrow_from_train_trials_of_the_others_alone(
    synthetic_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = SessionView.of(synthetic_corpus["synthetic/animal03_0"])
    others = OtherSessions.beside(view, synthetic_corpus, {"pretraining_subjects": ["animal00", "animal01"]})
    assert others.recording_ids == ("synthetic/animal00_0", "synthetic/animal01_0")
    label, trace = shared_label(view, "choice", others), shared_trace(view, "wheel_speed", others, causal=True)
    assert label is not None
    assert trace is not None
    known = view.row_covariates["wheel_speed"].observed
    target, test = view.row_covariates["wheel_speed"].values[:, 0], view.rows_in("test") & known
    assert r2(target[test], trace.value[test]) > 0.1
    efforts: tuple[Effort, ...] = ("quick", "all")
    for effort in efforts:
        found = run_baselines(view, "choice", effort=effort, others=others)
        assert ("shared_rank_logistic" in found) == (effort == "all")
    nobody = OtherSessions.beside(view, synthetic_corpus, {"pretraining_subjects": []})
    assert nobody.recording_ids == ()
    assert shared_label(view, "choice", nobody) is None
    views = list(others.views())

    def damaged(self: OtherSessions) -> list[SessionView]:
        counts = [v.counts + 9 * ~v.rows_in("train")[:, None] for v in views]
        return [replace(v, counts=c.astype(np.uint8)) for v, c in zip(views, counts)]

    monkeypatch.setattr(OtherSessions, "views", damaged)
    again = replace(others, recording_ids=("other", "key"))
    for before, after in (
        (label, shared_label(view, "choice", again)),
        (trace, shared_trace(view, "wheel_speed", again, causal=True)),
    ):
        assert after is not None
        np.testing.assert_allclose(after.value, before.value, rtol=1e-9)


def test_of_large_sessions_the_busiest_units_are_read(
    synthetic_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = SessionView.of(synthetic_corpus["synthetic/animal00_0"])
    monkeypatch.setattr("eval.baselines_shared.MAX_UNITS", 5)
    others = OtherSessions.beside(view, synthetic_corpus, {"pretraining_subjects": ["animal00"]})
    (few,) = others.views()
    assert few.counts.shape == (len(view.trial), 5)
    np.testing.assert_array_equal(few.counts, view.counts[:, np.isin(view.unit, few.unit)])
    spikes = view.counts[view.rows_in("train")].sum(axis=0)
    assert spikes[np.isin(view.unit, few.unit)].min() >= spikes[~np.isin(view.unit, few.unit)].max()
