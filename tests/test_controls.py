"""Controls of decoding: what each breaks and keeps, and what a decoder scores on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from eval.baselines import run_baselines, run_controls, strongest
from eval.controls import broken_sessions, shifted_behavior, shuffled_labels, shuffled_neurons
from eval.scoring import score
from eval.session_rows import task_rows
from eval.session_view import RowCovariate, SessionView
from foundation.recording import Recording

TinyRecording = Callable[..., Recording]


@pytest.fixture(scope="module")
def coded() -> Callable[[TinyRecording], SessionView]:
    """Counts of 8 units in 120 trials of 25 bins: half of them fire for one choice, half for the other."""

    def make(tiny_recording: TinyRecording) -> SessionView:
        rng = np.random.default_rng(0)
        base, num = tiny_recording(), 120
        choice = rng.integers(0, 2, num)
        choice[:4] = -1
        start = np.arange(num) + 0.25
        spec = replace(base.covariates["choice"], values=np.maximum(choice, 0), observed=choice >= 0)
        view = SessionView.of(
            tiny_recording(
                units=base.units.loc[[0] * 8].assign(unit_id=[f"u{i}" for i in range(8)]),
                trials=base.trials.loc[[0] * num].assign(
                    start_s=start, stop_s=start + 0.5, usable=True, source_index=np.arange(num)
                ),
                domain=np.array([[0.0, num + 1.0]]),
                covariates={"choice": spec},
            )
        )
        prefers = (np.arange(8) % 2)[None] == np.maximum(choice, 0)[view.trial][:, None]
        return replace(view, counts=rng.poisson(np.where(prefers, 0.3, 0.1)).astype(np.uint8))

    return make


def test_each_control_breaks_one_thing_alone(
    coded: Callable[[TinyRecording], SessionView], tiny_recording: TinyRecording
) -> None:
    view = coded(tiny_recording)
    labels = shuffled_labels(view, "choice", 1)
    before, after = view.trial_covariates["choice"], labels.trial_covariates["choice"]
    np.testing.assert_array_equal(before.observed, after.observed)
    np.testing.assert_array_equal(before.values[~before.observed], after.values[~before.observed])
    for role in np.unique(view.roles):
        same = (view.roles == role) & before.observed
        assert sorted(before.values[same]) == sorted(after.values[same])
    assert 0.2 < np.mean(before.values != after.values) < 0.7
    assert labels.counts is view.counts

    neurons = shuffled_neurons(view, 1)
    np.testing.assert_array_equal(np.sort(neurons.counts, axis=1), np.sort(view.counts, axis=1))
    orders = set()
    for m in range(len(view.num_bins)):
        rows = view.trial == m
        mine, theirs = view.counts[rows].T.tolist(), neurons.counts[rows].T.tolist()
        assert sorted(mine) == sorted(theirs)
        orders.add(tuple(mine.index(column) for column in theirs))
    assert len(orders) > 100

    rows = np.arange(len(view.trial))
    timed = RowCovariate(before.spec, rows[:, None].astype(float), rows % 7 > 0)
    moved = shifted_behavior(replace(view, row_covariates={"speed": timed}), "speed", 1).row_covariates["speed"]
    np.testing.assert_array_equal(moved.observed, timed.observed)
    seen = rows[timed.observed]
    order = np.searchsorted(seen, moved.values[timed.observed, 0])
    (by,) = np.unique((np.arange(len(seen)) - order) % len(seen))
    assert len(seen) / 3 - 1 <= by <= 2 * len(seen) / 3 + 1
    np.testing.assert_array_equal(moved.values[~timed.observed], timed.values[~timed.observed])


def test_labels_and_neurons_shuffled_leave_a_decoder_at_chance(
    coded: Callable[[TinyRecording], SessionView], tiny_recording: TinyRecording
) -> None:
    view = coded(tiny_recording)
    found = run_baselines(view, "choice", effort="quick") | run_controls(view, "choice")
    assert found["shuffled labels"].kind == found["shuffled neurons"].kind == "control"
    auc = {name: score(one.prediction, one.session or view)["auc"].value for name, one in found.items()}
    assert auc["logistic"] > 0.95
    assert abs(auc["shuffled labels"] - 0.5) < 0.25
    assert abs(auc["shuffled neurons"] - 0.5) < 0.25
    rows = [row for row in task_rows(view, "rat", [], found, seeds=[]) if row.metric == "auc"]
    kinds = {row.model: row.kind for row in rows}
    assert kinds["shuffled labels"] == kinds["shuffled neurons"] == kinds["majority"] == "null"
    assert {row.model: row.value for row in rows}["shuffled labels"] == auc["shuffled labels"]
    assert {row.null for row in rows} <= {"", "majority", "stimulus"}
    assert strongest(found, "null") in ("majority", "stimulus")


def test_what_drifts_on_both_sides_is_decoded_from_shifted_behavior_too(
    coded: Callable[[TinyRecording], SessionView], tiny_recording: TinyRecording
) -> None:
    """A slow behavior and slow rates that have nothing to do with it; and a fast one that the spikes do follow."""
    view = coded(tiny_recording)
    rng = np.random.default_rng(0)
    phase = 6 * np.pi * np.arange(len(view.trial)) / len(view.trial)
    speed = tiny_recording().covariates["speed"].spec
    slow = rng.poisson(0.4 + 0.35 * np.sin(phase[:, None] + np.arange(8))).astype(np.uint8)
    fast = rng.normal(size=len(view.trial) // 5 + 1).repeat(5)[: len(view.trial)]
    led = rng.poisson(0.4 * np.exp(0.8 * fast[:, None] * np.where(np.arange(8) % 2, 1, -1))).astype(np.uint8)
    for counts, behavior, spurious in ((slow, np.cos(phase + 0.4), True), (led, fast, False)):
        covariate = RowCovariate(speed, behavior[:, None], np.ones(len(behavior), bool))
        session = replace(view, counts=counts, row_covariates={"speed": covariate})
        found = run_baselines(session, "decode_speed", "causal", effort="quick")
        found |= run_controls(session, "decode_speed", "causal")
        r2 = {name: score(one.prediction, one.session or session)["r2"].value for name, one in found.items()}
        assert r2["ridge"] > 0.3
        if spurious:
            assert r2["circular shift"] > 0.5 * r2["ridge"]
        else:
            assert max(r2["circular shift"], r2["shuffled neurons"]) < 0.1


def test_controls_work_wherever_the_task_does(
    coded: Callable[[TinyRecording], SessionView], tiny_recording: TinyRecording
) -> None:
    """A behavior that was filmed in the second half only, and a session of one unit."""
    view = coded(tiny_recording)
    late = np.arange(len(view.trial)) > len(view.trial) / 2
    behavior = RowCovariate(tiny_recording().covariates["speed"].spec, view.counts[:, :1].astype(float), late)
    found = broken_sessions(replace(view, row_covariates={"speed": behavior}), "speed")
    for session in found.values():
        np.testing.assert_array_equal(session.row_covariates["speed"].observed, late)
    alone = replace(view, counts=view.counts[:, :1], unit=view.unit[:1], region=view.region[:1])
    assert set(broken_sessions(alone, "choice")) == {"shuffled labels"}


def test_regions_permuted_are_a_control_of_the_tasks_of_regions(tiny_recording: TinyRecording) -> None:
    """Two regions, each with a life of its own: read from within; with the labels permuted, across as well."""
    rng = np.random.default_rng(0)
    base, num = tiny_recording(), 100
    start = np.arange(num) + 0.25
    view = SessionView.of(
        tiny_recording(
            units=base.units.loc[[0] * 24].assign(unit_id=[f"u{i}" for i in range(24)], region=["a", "b"] * 12),
            trials=base.trials.loc[[0] * num].assign(
                start_s=start, stop_s=start + 0.5, usable=True, source_index=np.arange(num)
            ),
            domain=np.array([[0.0, num + 1.0]]),
            covariates={},
        )
    )
    course = np.repeat(rng.normal(size=(len(view.trial) // 5, 2)), 5, axis=0)
    gain = np.exp(0.8 * course[:, (view.region == "b").astype(int)] - 0.3)
    view = replace(view, counts=rng.poisson(0.3 * gain).astype(np.uint8))
    bps = {}
    for task in ("intra_region", "inter_region"):
        found = run_baselines(view, task, "a")
        assert found["permuted regions"].kind == "control"
        for name in ("neurons", "permuted regions"):
            bps[task, name] = score(found[name].prediction, found[name].session or view)["bps"].value
    gap = bps["intra_region", "neurons"] - bps["inter_region", "neurons"]
    assert gap > 0.05
    assert abs(bps["intra_region", "permuted regions"] - bps["inter_region", "permuted regions"]) < gap / 2
    assert bps["inter_region", "permuted regions"] > bps["inter_region", "neurons"] + gap / 4


def test_a_label_that_is_a_stimulus_has_no_null_that_is_told_the_stimulus(
    coded: Callable[[TinyRecording], SessionView], tiny_recording: TinyRecording
) -> None:
    view = coded(tiny_recording)
    label = view.trial_covariates["choice"]
    shown = replace(label, spec=replace(label.spec, role="stimulus"))
    behavior = run_baselines(view, "choice", effort="quick")
    stimulus = run_baselines(replace(view, trial_covariates={"choice": shown}), "choice", effort="quick")
    assert set(behavior) - set(stimulus) == {"stimulus", "logistic_with_stimulus"}
    assert stimulus["logistic"].validation_loss == behavior["logistic"].validation_loss
    assert strongest(stimulus, "null") == "majority"
