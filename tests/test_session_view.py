"""The session view against loops over the recording, for hand-made, synthetic and real sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from data_recipes import luo2025
from eval.session_view import SessionView
from foundation.corpus import Corpus
from foundation.recording import Recording, empty_trials
from foundation.splits import NO_ROLE, TEST, TRAIN, VAL, few_shot_roles, session_roles

TinyRecording = Callable[..., Recording]


def test_counts_and_covariates_equal_a_loop_over_spikes_and_events(tiny_recording: TinyRecording) -> None:
    recording = tiny_recording()
    view = SessionView.of(recording, bin_size_s=0.02)
    assert view.counts.shape == (40 * 25, 3)
    lick = recording.covariates["lick"].times
    assert lick is not None
    rng = np.random.default_rng(0)
    for row in rng.choice(len(view.trial), 60, replace=False):
        start = recording.trials["start_s"][view.trial[row]] + view.bin[row] * 0.02
        for column in range(3):
            inside = (recording.spike_times >= start - 1e-9) & (recording.spike_times < start + 0.02 - 1e-9)
            expected = int((recording.spike_units[inside] == view.unit[column]).sum())
            assert view.counts[row, column] == expected
        assert (
            view.row_covariates["lick"].values[row, 0] == ((lick >= start - 1e-9) & (lick < start + 0.02 - 1e-9)).sum()
        )
        assert view.time_s[row] == pytest.approx((view.bin[row] + 1) * 0.02)
        assert view.clock_s[row] == pytest.approx(start + 0.02)
        assert view.to_end_s[row] == pytest.approx((24 - view.bin[row]) * 0.02)
    assert view.row_covariates["position"].values.shape == (1000, 2)
    assert set(view.trial_covariates) == {"choice", "contrast", "block"}
    assert not view.trial_covariates["choice"].observed[3]
    np.testing.assert_array_equal(view.bin[view.first_row()], 0)


def test_units_are_permuted_by_the_recording_id_alone(tiny_recording: TinyRecording, synthetic_corpus: Corpus) -> None:
    for recording in synthetic_corpus:
        view = SessionView.of(recording)
        np.testing.assert_array_equal(np.sort(view.unit), np.arange(recording.num_units))
        assert (view.unit != np.arange(recording.num_units)).any()
        np.testing.assert_array_equal(view.unit, SessionView.of(recording, split="temporal", bin_size_s=0.05).unit)
    orders = {tuple(SessionView.of(tiny_recording(session=f"s{i}")).unit) for i in range(20)}
    assert len(orders) == 6


def test_roles_follow_the_splits_and_the_null_ignores_a_few_shot_draw(tiny_recording: TinyRecording) -> None:
    recording = tiny_recording()
    view = SessionView.of(recording, fold=2)
    np.testing.assert_array_equal(view.roles, session_roles(recording, "interleaved", 2))
    assert view.roles[7] == NO_ROLE
    for role, number in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        np.testing.assert_array_equal(view.trials_in(role), np.flatnonzero(view.roles == number))
        np.testing.assert_array_equal(view.rows_in(role), view.roles[view.trial] == number)
    few = SessionView.of(recording, fold=2, few_shot=(4, 1))
    np.testing.assert_array_equal(few.roles, few_shot_roles(view.roles, 4, 1, recording.info.session))
    assert len(few.trials_in("train")) == 4
    np.testing.assert_array_equal(few.trials_in("train", full=True), view.trials_in("train"))
    np.testing.assert_array_equal(few.train_mean(), view.counts[view.rows_in("train")].mean(axis=0))
    with pytest.raises(ValueError, match="ask for fewer"):
        SessionView.of(recording, few_shot=(1000, 0))


def test_a_trial_stops_with_the_data_and_one_outside_has_no_role(tiny_recording: TinyRecording) -> None:
    recording = tiny_recording(domain=np.array([[0.0, 10.35], [12.0, 40.0]]))
    view = SessionView.of(recording)
    assert view.num_bins[10] == 5
    assert view.num_bins[11] == 0
    assert view.roles[11] == NO_ROLE
    assert (np.delete(view.num_bins, [10, 11]) == 25).all()


def test_stretches_stand_in_for_trials(tiny_recording: TinyRecording) -> None:
    recording = tiny_recording(trials=empty_trials(), covariates={})
    view = SessionView.of(recording, bin_size_s=0.05)
    assert len(view.num_bins) == 4
    assert view.counts.sum() == len(recording.spike_times)
    np.testing.assert_array_equal(view.roles, session_roles(recording))


def test_bins_finer_than_the_source_are_refused(real_data: Path) -> None:
    path = real_data / "luo2025" / "X046_2019_10_01.mat"
    if not path.exists():
        pytest.skip(f"{path} not found")
    recording = luo2025.read(str(path))
    with pytest.raises(ValueError, match="whole multiple"):
        SessionView.of(recording, bin_size_s=0.005)
    view = SessionView.of(recording)
    raw = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["trials"]
    for m in (0, 17, 191):
        bins = raw[m].ntimesteps // 2
        counts = np.stack([np.atleast_1d(train) for train in raw[m].spiketrains], axis=1)[: 2 * bins]
        expected = counts.reshape(bins, 2, -1).sum(axis=1)[:, view.unit]
        np.testing.assert_array_equal(view.counts[view.trial == m], expected)
