"""Transfer between sessions: what may be used of the new one, planted sessions that must, and a small study."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eval.alignment_maps import linear_map, procrustes_map
from eval.embedding_decoders import scores
from eval.studies.cross_subject import OURS, SHUFFLED, Config, transfer
from eval.studies.session_transfer import (
    ALIGNMENTS,
    Recorded,
    decode_across,
    decode_own,
    early,
    joint_embedding,
    recorded,
    transfer_components,
    transfer_contrastive,
    transfer_joint,
)
from foundation.session_arrays import SessionArrays

CONFIG = Config(receptive_field=3, output_dimension=4, steps=100, adapt_steps=100, learning_rate=5e-3, seeds=[0])
QUICK = replace(CONFIG, steps=3, adapt_steps=3)


def monkey(session: int, num_bins: int = 900, num_units: int = 30) -> SessionArrays:
    """Units tuned to the direction of a velocity that wanders; every session has other units."""
    rng = np.random.default_rng(session)
    angle = np.cumsum(rng.normal(0, 0.4, num_bins))
    velocity = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    preferred = rng.uniform(0, 2 * np.pi, num_units)
    rates = 0.8 * np.exp(1.2 * np.cos(angle[:, None] - preferred))
    target = np.where(rng.random(num_bins) < 0.1, -1, (angle // (np.pi / 2)).astype(np.int64) % 4)
    labels = {"cursor_velocity": velocity, "target": target, "phase": (np.arange(num_bins) // 30) % 2}
    counts = rng.poisson(rates).astype(np.float32)
    subject = "m" if session < 2 else "n"
    return SessionArrays(f"toy/s{session}", subject, counts, labels, np.zeros(num_bins, np.int64), 0.05)


@pytest.fixture(scope="module")
def sessions() -> list[Recorded]:
    return [recorded(monkey(k), "cursor_velocity") for k in range(3)]


def test_recorded_keeps_labeled_rows_and_borders() -> None:
    session = monkey(0)
    where = session.labels["phase"] == 1
    task = recorded(session, "target", where)
    rows = np.flatnonzero(where & (session.labels["target"] >= 0))
    assert np.array_equal(task.activity, session.activity[rows])
    assert np.array_equal(task.label, session.labels["target"][rows])
    assert task.kind == "discrete"
    borders = (np.diff(rows) > 1) | (np.diff(task.split.stretch()) != 0)
    assert np.array_equal(np.diff(task.stretch) != 0, borders)
    assert task.split.train.max() < task.split.val.min() < task.split.val.max() < task.split.test.min()
    with pytest.raises(ValueError, match="toy/s0: 0 bins with 'target', expected at least 100"):
        recorded(session, "target", np.zeros(900, bool))


def test_early_rows_are_the_first_of_the_training_stretch(sessions: list[Recorded]) -> None:
    assert np.array_equal(early(sessions[0], 50), sessions[0].split.train[:50])
    assert np.array_equal(early(sessions[0], 0), sessions[0].split.train)


def predict(sessions: list[Recorded], rows: np.ndarray, method: str) -> np.ndarray:
    *sources, target = sessions
    if method in ALIGNMENTS:
        return transfer_components(sources, target, rows, QUICK, ALIGNMENTS[method])
    if method == "together":
        return transfer_joint(sources, target, rows, QUICK, 0)
    return transfer_contrastive(joint_embedding(sources, QUICK, 0), sources, target, rows, QUICK, 0)


@pytest.mark.parametrize("method", ["adapted", "together", *ALIGNMENTS])
def test_no_label_of_the_new_session_beyond_the_given_rows_is_used(method: str, sessions: list[Recorded]) -> None:
    rows = early(sessions[2], 200)
    label = sessions[2].label.copy()
    label[200:] = 50.0
    spoiled = [*sessions[:2], replace(sessions[2], label=label)]
    assert np.array_equal(predict(sessions, rows, method), predict(spoiled, rows, method))
    label[:200] = sessions[2].label[:200][::-1]
    assert not np.array_equal(predict(sessions, rows, method), predict(spoiled, rows, method))


@pytest.mark.parametrize("method", ["adapted", "together", *ALIGNMENTS])
def test_no_test_label_of_a_source_is_used(method: str, sessions: list[Recorded]) -> None:
    label = sessions[1].label.copy()
    label[sessions[1].split.test] = 50.0
    spoiled = [sessions[0], replace(sessions[1], label=label), sessions[2]]
    rows = early(sessions[2], 200)
    assert np.array_equal(predict(sessions, rows, method), predict(spoiled, rows, method))


def test_own_decoders_use_the_given_rows_alone(sessions: list[Recorded]) -> None:
    target, rows = sessions[0], early(sessions[0], 300)
    label, activity = target.label.copy(), target.activity.copy()
    label[300:] = 50.0
    activity[310 : target.split.test[0]] = 9.0
    # Beyond the reach of a window, and of the widest smoothing, of the rows used.
    before = decode_own(target, rows, QUICK, 0)
    after = decode_own(replace(target, label=label), rows, QUICK, 0)
    for name in before:
        assert np.array_equal(before[name], after[name]), name


def test_decode_across_is_a_nearest_neighbor_of_the_sources() -> None:
    rng = np.random.default_rng(0)
    sessions = [recorded(monkey(k, 150), "cursor_velocity") for k in range(2)]
    spaces = [rng.normal(size=(150, 3)) for _ in sessions]
    known = np.concatenate([sessions[0].split.train, sessions[0].split.val])
    guess = decode_across(spaces, sessions, "euclidean")
    distance = np.linalg.norm(spaces[1][sessions[1].split.test][:, None] - spaces[0][known], axis=2)
    order = distance.argsort(axis=1)
    fits = [np.allclose(guess, sessions[0].label[known][order[:, :k]].mean(axis=1)) for k in range(1, 100)]
    assert sum(fits) == 1


def test_components_of_the_same_units_in_another_order_align(sessions: list[Recorded]) -> None:
    """One population recorded twice: both maps must undo whatever the components do."""
    first = sessions[0]
    order = np.random.default_rng(5).permutation(first.activity.shape[1])
    second = replace(first, activity=first.activity[:, order])
    for fit in (procrustes_map, linear_map):
        guess = transfer_components([first], second, early(second, 0), CONFIG, fit)
        assert scores(second.label[second.split.test], guess, "continuous")["r2"] > 0.7


def test_planted_sessions_transfer_and_shuffled_labels_do_not(sessions: list[Recorded]) -> None:
    *sources, target = sessions
    rows = early(target, 0)
    model = joint_embedding(sources, CONFIG, 0)
    truth = target.label[target.split.test]

    def r2(guess: np.ndarray) -> float:
        return scores(truth, guess, "continuous")["r2"]

    ours = r2(transfer_contrastive(model, sources, target, rows, CONFIG, 0))
    assert ours > 0.7
    assert r2(transfer_joint(sources, target, rows, CONFIG, 0)) > 0.7
    # A ring put down at a random angle is right by luck now and then, so no single shuffle says anything.
    few = replace(CONFIG, adapt_steps=30)
    shuffled = [r2(transfer_contrastive(model, sources, target, rows, few, seed, shuffled=True)) for seed in range(5)]
    assert np.mean(shuffled) < 0.2
    assert r2(transfer_components(sources, target, rows, CONFIG, linear_map)) > 0.6


def test_a_small_study() -> None:
    config = replace(QUICK, budgets_s=[8.0, 0.0])
    made = [monkey(k, 500, 12) for k in range(3)]
    findings = transfer(made, config)
    rows = findings.tables[1].frame
    assert set(rows["task"]) == {"cursor_velocity", "target"}
    per_task = rows.groupby("task")["method"].nunique()
    assert len(rows) == 2 * 3 * 2 * per_task["target"]
    assert {OURS, SHUFFLED} < set(rows["method"])
    assert "Animals: m, n." in findings.remarks[0]
    assert "same animal" not in findings.title
    alone = transfer(made[:2], replace(config, seeds=[0], discrete="", budgets_s=[0.0]))
    assert "same animal" in alone.title
    assert "nothing about other animals" in alone.remarks[0]
    again = transfer(made[:2], replace(config, seeds=[0], discrete="", budgets_s=[0.0]))
    assert alone.tables[1].frame.equals(again.tables[1].frame)  # bit for bit
    with pytest.raises(ValueError, match="got 1 sessions"):
        transfer(made[:1], config)
