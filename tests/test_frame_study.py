"""The frame study: decoders against naive loops and scikit-learn, roles of showings, nulls, NWB in, findings out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.simulated_allen import write_session
from benchmarks.simulated_movie import write_movie_session
from eval.studies import allen_frames
from eval.studies.frame_decoders import (
    Showings,
    by_role,
    chance,
    decode_bayes,
    decode_knn,
    decode_lasso,
    decode_logistic,
    flat,
    frame_labels,
    frame_scores,
    in_window,
    leave_one_out,
)
from eval.studies.frame_latents import Arm, Contrast, Labels, contrastive, principal_components, units_of_share
from eval.studies.frame_reads import Grids, baselines, nulls
from eval.studies.movie_features import movie_features, stand_in
from eval.studies.movie_population import Population, recorded_population, simulated_population
from eval.studies.simulated_v1 import simulated_v1
from eval.studies.study import write_findings

FRAMES = 90


@pytest.fixture(scope="module")
def population() -> Population:
    """A movie of 3 s and units enough to tell its frames somewhat."""
    return simulated_population(stand_in(FRAMES, 0), 150, 6, seed=0)


@pytest.fixture(scope="module")
def activity(population: Population) -> Showings:
    return by_role(population.activity, 2)


def exact(predicted: np.ndarray) -> float:
    return float((predicted == np.arange(len(predicted))).mean())


@given(st.integers(2, 60), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_chance_is_that_of_many_guesses(num_frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = np.tile(np.arange(num_frames), 4000 // num_frames + 1)
    found = frame_scores(rng.integers(0, num_frames, len(frame)), frame, num_frames)
    expected = chance(num_frames)
    assert found["exact"] == pytest.approx(expected["exact"], abs=0.05)
    assert found["within_1s"] == pytest.approx(expected["within_1s"], abs=0.06)
    assert found["mae"] == pytest.approx(expected["mae"], rel=0.15)


def test_chance_of_the_movie_is_that_of_the_brief() -> None:
    assert chance(900)["exact"] == 1 / 900
    assert chance(900)["mae"] == pytest.approx(300, abs=0.01)


def test_scores_of_known_errors() -> None:
    frame = np.arange(100)
    found = frame_scores(frame + np.where(frame < 50, 0, 31), frame, 200)
    assert found["exact"] == 0.5
    assert found["within_1s"] == 0.5
    assert found["mae"] == 15.5
    assert found["rmse"] == pytest.approx(np.sqrt(0.5 * 31**2))
    assert found["low"] <= 0.5 <= found["high"]
    # A regression is rounded and held to the movie for the accuracies, not for its errors.
    real = frame_scores(np.array([-7.0, 1.2, 250.0]), np.array([0, 1, 199]), 200)
    assert real["exact"] == 1
    assert real["mae"] == pytest.approx((7 + 0.2 + 51) / 3)


def test_roles(population: Population) -> None:
    found = by_role(population.activity, 2)
    assert (len(found.fit), len(found.validation), len(found.test)) == (3, 2, 1)
    np.testing.assert_array_equal(found.test[0], population.activity[-1])
    np.testing.assert_array_equal(flat(found.train)[: 2 * FRAMES], flat(population.activity[:2]))
    np.testing.assert_array_equal(frame_labels(found.validation), np.tile(np.arange(FRAMES), 2))
    for wrong in (0, 5, 6):
        with pytest.raises(ValueError, match="validation showings of 6"):
            by_role(population.activity, wrong)


def test_every_showing_is_the_test_once_in_order(population: Population) -> None:
    seen = []

    def decode(showings: Showings) -> None:
        seen.append((showings.test[0, 0, 0], len(showings.fit), len(showings.validation)))

    marked = np.arange(6.0)[:, None, None] * np.ones((6, FRAMES, 1))
    leave_one_out(marked, decode, 2)  # type: ignore[arg-type]
    assert seen == [(float(k), 3, 2) for k in range(6)]


def test_knn_is_that_of_scikit_learn(activity: Showings) -> None:
    found = decode_knn(activity, [1])
    metric = found.setting.split(", ")[1]
    model = KNeighborsClassifier(1, metric=metric, algorithm="brute")
    model.fit(flat(activity.train), frame_labels(activity.train))
    np.testing.assert_array_equal(found.predicted, model.predict(flat(activity.test)))


def test_knn_votes_as_a_loop_does() -> None:
    rng = np.random.default_rng(0)
    showings = by_role(rng.normal(size=(6, 12, 3)).astype(np.float32), 1)
    found = decode_knn(showings, [4])
    metric = found.setting.split(", ")[1]
    rows, labels = flat(showings.train), frame_labels(showings.train)
    for row, said in zip(flat(showings.test), found.predicted):
        far = 1 - rows @ row / np.linalg.norm(rows, axis=1) if metric == "cosine" else ((rows - row) ** 2).sum(axis=1)
        near = [int(labels[k]) for k in np.argsort(far, kind="stable")[:4]]
        most = max(near.count(label) for label in near)
        assert said == next(label for label in near if near.count(label) == most)


def test_bayes_is_a_loop_over_poisson_likelihoods(activity: Showings) -> None:
    counts = activity.map(lambda a: 4 * a[:, :30, :20])
    found = decode_bayes(counts, [0])
    train = counts.train
    mean = train.mean(axis=0, dtype=float)
    for count, said in zip(flat(counts.test), found.predicted):
        likelihood = []
        for frame in range(30):
            rate = (len(train) * mean[frame] + 0.5 * mean.mean(axis=0)) / (len(train) + 0.5) + 1e-6
            likelihood.append(poisson.logpmf(np.round(count), rate).sum())
        assert said == int(np.argmax(likelihood))


def test_windows_are_those_of_a_loop() -> None:
    showings = np.random.default_rng(0).normal(size=(2, 23, 3)).astype(np.float32)
    for width in (1, 2, 5, 10):
        for r, t in ((0, 0), (1, 3), (0, 11), (1, 22)):
            first, stop = max(0, t - width // 2), min(23, t + width - width // 2)
            np.testing.assert_allclose(in_window(showings, width)[r, t], showings[r, first:stop].sum(axis=0), atol=1e-5)


@pytest.mark.parametrize(
    "decode",
    [
        lambda s: decode_knn(s, [1, 5]),
        lambda s: decode_bayes(s, [0, 2]),
        lambda s: decode_logistic(s, [1e-3, 1], 5),
        lambda s: decode_lasso(s, [0.1, 3]),
    ],
)
def test_settings_are_chosen_without_the_test_showing(activity: Showings, decode) -> None:  # type: ignore[no-untyped-def]
    some = activity.map(lambda a: a[:, :40, :30])
    other = Showings(some.fit, some.validation, some.test[:, ::-1] * 3)
    first, second = decode(some), decode(other)
    assert (first.setting, first.validation_exact) == (second.setting, second.validation_exact)
    np.testing.assert_equal(first.train_exact, second.train_exact)
    assert not np.array_equal(first.predicted, second.predicted)


def test_logistic_memorizes_and_lasso_shrinks_to_the_mean(activity: Showings) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_logistic(activity, [1.0], 30).train_exact > 0.95
        lasso = decode_lasso(activity, [1e4])
    np.testing.assert_allclose(lasso.predicted, (FRAMES - 1) / 2)


def test_subsets_are_the_fewest_units_of_a_share() -> None:
    rng = np.random.default_rng(0)
    fit = rng.normal(size=(3, 50, 12)) * rng.lognormal(0, 1, 12)
    variance = flat(fit).var(axis=0)
    for share in (0.5, 0.9, 0.95):
        chosen = units_of_share(fit, share)
        assert variance[chosen].sum() >= share * variance.sum()
        assert variance[chosen].sum() - variance[chosen].min() < share * variance.sum()
        assert variance[chosen].min() >= np.delete(variance, chosen).max()
    assert len(units_of_share(fit, 1.0)) == 12
    with pytest.raises(ValueError, match="share of variance 0"):
        units_of_share(fit, 0)


def test_components_are_those_of_scikit_learn(activity: Showings) -> None:
    found, variance = principal_components(activity, 5)
    rows = flat(activity.fit)
    scale = np.maximum(rows.std(axis=0), 1e-6)
    pca = PCA(5).fit((rows - rows.mean(axis=0)) / scale)
    expected = pca.transform((flat(activity.test) - rows.mean(axis=0)) / scale)
    signs = np.sign((expected * flat(found.test)).sum(axis=0))
    np.testing.assert_allclose(flat(found.test) * signs, expected, atol=2e-2)
    np.testing.assert_allclose(variance[:5], pca.explained_variance_, rtol=1e-4)


def test_decoders_beat_the_nulls(population: Population, activity: Showings) -> None:
    grids = Grids(neighbors=[1, 5], costs=[1e-3], logistic_iterations=5, alphas=[1.0], smoothing=[2.0], null_draws=3)
    reads = baselines(activity, population.elapsed_s, 2, grids)
    score = {(r.input, r.decoder): exact(np.round(r.decoded.predicted)) for r in reads}
    assert score["elapsed time, no neuron", "kNN"] == 1
    assert score["all units, 1 frame", "naive Bayes"] > 0.1
    assert score["all units, 10 frames", "naive Bayes"] > 0.1
    null = [r for r in nulls(activity, grids, np.random.default_rng(0)) if r.decoder == "naive Bayes"]
    assert len(null) == 6
    for kind in ("labels shifted", "neurons shuffled"):
        found = [exact(r.decoded.predicted) for r in null if r.input.endswith(kind)]
        # 270 frames at a chance of 1/90 give 3, as they come in runs with a heavy tail.
        assert np.mean(found) < 0.05


def test_contrastive_latents_are_seeded_and_blind_to_the_test(activity: Showings) -> None:
    components = stand_in(FRAMES, 0)[:, :3]
    sizes = Contrast(dimension=4, iterations=15, batch_size=64)
    kinds: tuple[Labels, ...] = ("features", "frame", "time")
    for labels in kinds:
        arm = Arm(labels, 3)
        first, _ = contrastive(activity, components, arm, sizes, 0.5, seed=0)
        changed = Showings(activity.fit, activity.validation, activity.test[:, ::-1])
        second, _ = contrastive(changed, components, arm, sizes, 0.5, seed=0)
        np.testing.assert_array_equal(first.showings.fit, second.showings.fit)
        assert first.showings.test.shape == (1, FRAMES, 4)
    with pytest.raises(ValueError):
        contrastive(activity, components, arm, sizes, 0.5, seed=0, shift=[1])


def test_features_of_a_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 6)) * [5, 1, 1, 1, 1, 1] + 3
    np.save(tmp_path / "ok.npy", values)
    found = movie_features(str(tmp_path / "ok.npy"), 20, 0)
    assert "ok.npy" in found.source
    assert np.isclose(found.values.var(axis=0).mean(), 1)
    scores, share = found.components(2)
    pca = PCA(2).fit(values)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())
    assert np.abs(np.corrcoef(scores[:, 0], pca.transform(values)[:, 0])[0, 1]) == pytest.approx(1)
    assert movie_features(None, 20, 0).source.startswith("no DINO")
    for name, wrong, match in (
        ("short", values[:10], "expected real numbers"),
        ("nan", np.where(values > 4, np.nan, values), "not finite"),
        ("same", np.ones((20, 3)), "same features"),
    ):
        np.save(tmp_path / f"{name}.npy", wrong)
        with pytest.raises(ValueError, match=match):
            movie_features(str(tmp_path / f"{name}.npy"), 20, 0)
    (tmp_path / "text.npy").write_text("no array")
    for name in ("text", "missing"):
        with pytest.raises(ValueError, match=f"{name}.npy"):
            movie_features(str(tmp_path / f"{name}.npy"), 20, 0)


def test_a_file_in_the_allen_layout_is_the_simulated_recording(tmp_path: Path) -> None:
    """Two sessions become one population, whose units are those written, bit for bit."""
    features = stand_in(900, 0)
    recordings = [simulated_v1(features, 12, 3, seed) for seed in (0, 1)]
    for seed, recording in enumerate(recordings):
        write_movie_session(tmp_path / f"session_{seed + 1}.nwb", recording, session_id=seed + 1)
    write_session(tmp_path / "session_9.nwb", session_id=9, subject="other", num_units=20, minutes=1.5, num_repeats=2)
    found = recorded_population(str(tmp_path), "natural_movie_one", "VISp", 100, 3, seed=0)
    expected = [simulated_population(features, 12, 3, seed) for seed in (0, 1)]
    np.testing.assert_array_equal(found.activity, np.concatenate([p.activity for p in expected], axis=2))
    assert found.num_drawn == 24
    assert found.source.startswith("2 sessions")
    assert len(found.left_out) == 1
    assert "2 complete showings of 3" in found.left_out[0]
    drawn = recorded_population(str(tmp_path), "natural_movie_one", "VISp", 7, 3, seed=0)
    assert drawn.num_drawn == 7
    with pytest.raises(ValueError, match="no session of use for natural_movie_one in VISl"):
        recorded_population(str(tmp_path), "natural_movie_one", "VISl", 7, 3, seed=0)


def test_the_study_writes_what_it_promises(tmp_path: Path) -> None:
    config = allen_frames.Config(
        units=50,
        showings=5,
        seeds=[0],
        frames=60,
        components=[3, 5],
        epochs=2,
        contrast=Contrast(dimension=4, iterations=3, batch_size=32),
        temperatures=[0.5],
        grids=Grids([1, 3], [1e-3], 2, [1.0], [1.0], null_draws=1),
    )
    findings = allen_frames.run(config)
    tables = {table.name: table.frame for table in findings.tables}
    assert set(tables) >= {"claims", "frames", "latents", "population", "first_ten", "every_showing"}
    latents = tables["latents"].set_index("latent")
    assert len(latents) == 2 + 12 + 6 + 2
    # Every latent stands on both axes.
    trained = latents[latents["kind"] != "reference"]
    assert trained[["knn_exact", "knn_mae", "r2_validation", "r2_test"]].notna().all(axis=None)
    units = latents["units"].to_dict()
    assert units["VAE, beta 0.05, 90% of variance"] < units["VAE, beta 0.05, all units"]
    frames = tables["frames"]
    assert set(frames["group"]) == {"baseline", "components", "autoencoder", "contrastive", "null", "reference"}
    assert frames.loc[frames["input"] == "uniform guess", "exact"].item() == 1 / 60
    assert set(tables["claims"]["holds"]) <= {"yes", "no", "in part"}
    assert len(tables["claims"]) >= 20
    assert [f"frame {k}" for k in range(10)] == list(tables["first_ten"].columns[2:])
    assert "no animal" in findings.remarks[0]
    assert "stand-in" in findings.remarks[0]
    page = write_findings(findings, tmp_path, {"config": {}})
    assert {f"{f.name}.png" for f in findings.figures} <= {path.name for path in page.parent.iterdir()}
    again = {table.name: table.frame for table in allen_frames.run(config).tables}
    for name in ("frames", "latents"):
        pd.testing.assert_frame_equal(again[name], tables[name], check_exact=True)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"seeds": []}, "a seed or more"),
        ({"frames": 901}, "50 to 900 frames"),
        ({"showings": 3, "validation": 2}, "validation showings of 3"),
        ({"temperatures": []}, "temperatures"),
        ({"source": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_cannot_be(wrong: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        allen_frames.run(allen_frames.Config(**wrong))
