"""The hippocampus study on planted place cells: what it must find, its tables, figures and sentences, its errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eval.studies.hippocampus import Config, study
from eval.studies.hippocampus_arms import (
    BOTH,
    CONTRASTIVE,
    SHUFFLED_LABELS,
    SHUFFLED_NEURONS,
    Arm,
    arms_of,
    embed,
    read_track,
)
from eval.studies.hippocampus_words import CONSTANT
from eval.studies.study import Findings, write_findings
from foundation.session_arrays import SessionArrays

OPTIONS: dict[str, Any] = {
    "output_dimension": 3,
    "receptive_field": 10,
    "max_iterations": 5,
    "batch_size": 64,
    "learning_rate": 3e-4,
    "time_offset": 10,
    "temperature": 1.0,
}


def rat(seed: int = 0, length: int = 1600, units: int = 24, lap_bins: int = 120) -> SessionArrays:
    """A rat that runs forth and back; every unit has a place field in one direction."""
    rng = np.random.default_rng(seed)
    # Laps of slightly different speed.
    cycle = np.cumsum(rng.normal(1, 0.3, length).clip(0.2)) / lap_bins % 1
    field = np.arange(units) / units
    apart = np.abs((cycle[:, None] - field + 0.5) % 1 - 0.5)
    counts = rng.poisson(0.8 * np.exp(-0.5 * (apart / 0.06) ** 2) + 0.02)
    labels = {
        "position": 1.6 * np.where(cycle < 0.5, 2 * cycle, 2 - 2 * cycle),
        "direction": (cycle >= 0.5).astype(np.int64),
    }
    return SessionArrays("rat/0", "rat", counts.astype(np.float32), labels, np.zeros(length, np.int64), 0.025)


@pytest.fixture(scope="module")
def config() -> Config:
    # As few steps as these learn too little by heart for silenced units to be of use.
    return Config(
        seeds=[0, 1],
        steps=80,
        batch_size=128,
        learning_rate=4e-3,
        unit_dropout=0.0,
        num_points=100,
        partitions=2,
        synthetic=False,
    )


@pytest.fixture(scope="module")
def findings(config: Config) -> Findings:
    pytest.importorskip("ripser")
    return study(rat(), config)


@pytest.mark.slow
def test_planted_place_cells_are_found(findings: Findings) -> None:
    tables = {table.name: table.frame for table in findings.tables}
    r2 = tables["decoding"].set_index("arm")["position_r2"]
    error = tables["decoding"].set_index("arm")["median_error_cm"]
    assert r2[BOTH] > 0.85
    assert r2[SHUFFLED_NEURONS] < 0.1
    assert r2[CONSTANT] < 0.05
    assert error[BOTH] < 15 < error[CONSTANT]
    accuracy = tables["decoding"].set_index("arm")["direction_accuracy"]
    assert accuracy["direction"] > 0.9
    assert accuracy[SHUFFLED_NEURONS] < 0.65
    shape = tables["topology"].set_index("arm")[["components", "loops"]]
    for arm, expected in ((BOTH, [1, 1]), ("direction", [2, 0]), ("position", [1, 0])):
        np.testing.assert_array_equal(shape.loc[arm], [expected] * 2, err_msg=arm)
    circular = tables["circular_coordinate"].set_index("arm")
    assert (circular.loc[[BOTH], "circular_correlation"] > 0.9).all()
    np.testing.assert_allclose(circular.loc[[BOTH], "turns"], 1, atol=1e-6)
    sides = circular.loc[[BOTH], ["rank_correlation_forth", "rank_correlation_back"]].to_numpy()
    np.testing.assert_allclose(np.sort(sides, axis=1), [[-1, 1]] * 2)
    assert "forth and back run against each other in 100% of the seeds" in findings.remarks[-1]
    alike = tables["consistency"].groupby("comparison")[["held_out", "permuted"]].mean()
    assert alike.loc[f"runs: {BOTH}", "held_out"] > 0.7
    assert alike.loc[f"pseudo-subjects: {BOTH}, linear", "held_out"] > 0.6
    assert alike.loc[f"pseudo-subjects: {BOTH}, linear", "permuted"] < 0.2


@pytest.mark.slow
def test_the_findings_are_complete_and_can_be_written(findings: Findings, tmp_path: Any) -> None:
    names = [figure.name for figure in findings.figures]
    assert names == [
        "position_r2",
        "embeddings",
        "position_error",
        "trajectory",
        "consistency_matrices",
        "persistence",
        "lifespans",
        "circular",
        "losses",
    ]
    rows = next(table.frame for table in findings.tables if table.name == "decoding_by_seed")
    assert len(rows) == 2 * len(CONTRASTIVE) + 1 + 4 + 1
    assert write_findings(findings, tmp_path / "out", {"config": {}}).is_file()
    r2 = rows.groupby("arm")["position_r2"].mean()
    assert f"R2 {r2[BOTH]:.3f}" in findings.remarks[0]
    verdict = r2[BOTH] > max(r2[name] for name in ("PCA", "PCA 8-d", "kNN on all units", "ridge on lags"))
    assert ("That is above" in findings.remarks[0]) == verdict


def test_an_encoder_sees_the_train_stretch_only() -> None:
    session = rat(1, length=600, units=8)
    track = read_track(session, "position", "direction", 0.2, 0.16)
    other = session.activity.copy()
    other[track.split.test] = rat(2, length=600, units=8).activity[track.split.test]
    labels = {name: np.where(np.arange(600) < len(track.split.train), v, v[::-1]) for name, v in session.labels.items()}
    changed = read_track(replace(session, activity=other, labels=labels), "position", "direction", 0.2, 0.16)
    for arm in (*CONTRASTIVE, Arm("PCA", "plain")):
        first, second = embed(track, arm, OPTIONS, 0), embed(changed, arm, OPTIONS, 0)
        seen = np.concatenate([track.split.train, track.split.val])
        np.testing.assert_array_equal(first.points[seen], second.points[seen], err_msg=arm.name)
        np.testing.assert_array_equal(first.loss, second.loss)
        assert first.points.shape == (600, 3)
    assert not np.array_equal(first.points[track.split.test], second.points[track.split.test])


def test_shuffled_arms_are_shuffled_and_seeded() -> None:
    track = read_track(rat(3, length=600, units=8), "position", "direction", 0.2, 0.16)
    arms = {arm.name: arm for arm in arms_of(track, [])}
    plain, labels, neurons = (embed(track, arms[n], OPTIONS, 1) for n in (BOTH, SHUFFLED_LABELS, SHUFFLED_NEURONS))
    assert not np.array_equal(plain.loss, labels.loss)
    assert not np.array_equal(plain.loss, neurons.loss)
    np.testing.assert_array_equal(labels.points, embed(track, arms[SHUFFLED_LABELS], OPTIONS, 1).points)


def test_a_session_with_one_direction_has_the_arms_that_make_sense() -> None:
    session = rat(4, length=600, units=8)
    session = replace(session, labels={"position": session.labels["position"]})
    track = read_track(session, "position", "", 0.2, 0.16)
    names = [arm.name for arm in arms_of(track, ["PCA"])]
    assert names == ["position", "time", "hybrid", SHUFFLED_LABELS, SHUFFLED_NEURONS, "PCA"]
    assert track.columns(("position",)).shape == (600, 1)
    assert track.angle().max() == pytest.approx(2 * np.pi)


def test_angle_runs_forth_and_back_through_one_cycle() -> None:
    track = read_track(rat(5), "position", "direction", 0.2, 0.16)
    angle = track.angle()
    steps = np.angle(np.exp(1j * np.diff(angle)))
    assert (steps > 0).mean() > 0.98
    np.testing.assert_array_equal(track.columns(("position", "direction")).sum(axis=1), track.position + 1)


def test_errors_say_what_to_do(config: Config) -> None:
    session = rat(6, length=600, units=8)
    with pytest.raises(ValueError, match="at least 1 and 2"):
        study(session, replace(config, seeds=[]))
    with pytest.raises(ValueError, match="expected some of"):
        study(session, replace(config, plain=["LFADS"]))
    place = session.labels["position"].copy()
    place[5] = np.nan
    with pytest.raises(ValueError, match="1 bins without position"):
        read_track(replace(session, labels=session.labels | {"position": place}), "position", "direction", 0.2, 0.16)
    way = session.labels["direction"] + 1
    with pytest.raises(ValueError, match="expected 0 and 1"):
        read_track(replace(session, labels=session.labels | {"direction": way}), "position", "direction", 0.2, 0.16)
