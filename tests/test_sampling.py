"""Windows lie where they may, batches are pure functions of seed and step, and values equal naive loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader, Dataset

from foundation.binning import bin_covariate, bin_spikes
from foundation.channels import MIN_BINS, DataConfig, channel_slices, find_channels, pretraining_subjects
from foundation.corpus import Corpus, write_manifest
from foundation.recording import Covariate, Recording, empty_trials
from foundation.recording_folder import write_recording
from foundation.sampling import STRUCTURE, Batch, Window, WindowReader, WindowSampler, session_windows
from foundation.splits import ROLES, session_roles, stretches

Tiny = Callable[..., Recording]


def corpus_of(folder: Path, *recordings: Recording) -> Corpus:
    for recording in recordings:
        write_recording(folder, recording)
    return write_manifest(folder)


def reader_of(corpus: Corpus, **config: Any) -> WindowReader:
    data = DataConfig(corpus=str(corpus.path), **config)
    return WindowReader(corpus, find_channels(corpus, data, corpus.ids), data.bin_size_s)


def sampler_of(sizes: dict[str, int], **options: Any) -> WindowSampler:
    windows = {key: [Window(key, float(i), 10, i) for i in range(n)] for key, n in sizes.items()}
    return WindowSampler(windows, **{"windows_per_step": 8, "windows_per_session": 4, "seed": 3} | options)


# -- the sampler ------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    one, other = sampler_of({"a": 9, "b": 30, "c": 5}), sampler_of({"a": 9, "b": 30, "c": 5})
    straight = [one.batch_windows(step) for step in range(12)]
    assert [other.batch_windows(step) for step in reversed(range(12))] == straight[::-1]
    otherwise = sampler_of({"a": 9, "b": 30, "c": 5}, seed=4)
    assert straight != [otherwise.batch_windows(step) for step in range(12)]
    assert len({str(windows) for windows in straight}) == 12


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_sessions_are_drawn_by_their_number_of_windows_to_the_temperature(temperature: float) -> None:
    sizes = {"a": 10, "b": 40, "c": 160}
    sampler = sampler_of(sizes, windows_per_step=4, temperature=temperature)
    drawn = [sampler.batch_windows(step)[0].recording_id for step in range(3000)]
    weights = np.array(list(sizes.values()), float) ** temperature
    observed = np.array([drawn.count(key) for key in sizes])
    assert stats.chisquare(observed, 3000 * weights / weights.sum()).pvalue > 0.01


def test_a_step_holds_distinct_windows_where_there_are_enough() -> None:
    sampler = sampler_of({"a": 6, "b": 2, "c": 50})
    for step in range(50):
        windows = sampler.batch_windows(step)
        assert len(windows) == 8
        for key in ("a", "c"):
            mine = [w for w in windows if w.recording_id == key]
            assert len(set(mine)) == len(mine)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no session has a window"):
        sampler_of({"a": 0})


class Batches(Dataset[Batch]):
    def __init__(self, reader: WindowReader, sampler: WindowSampler) -> None:
        self.reader, self.sampler = reader, sampler

    def __getitem__(self, step: int) -> Batch:
        return self.reader.batch(self.sampler.batch_windows(step))


def test_a_worker_process_gives_the_same_batches(world: Any) -> None:
    sampler = WindowSampler(world.data.train, 6, 3, 0, window_bins=30)
    batches = [
        list(DataLoader(Batches(world.reader, sampler), batch_size=None, sampler=range(3), num_workers=workers))
        for workers in (0, 1)
    ]
    for here, there in zip(*batches):
        assert here.windows == there.windows
        assert all(torch.equal(a, b) for a, b in zip(here.spikes, there.spikes))
        for name in ("covariates", "observed", "structure", "trial", "valid", "clock"):
            assert torch.equal(getattr(here, name), getattr(there, name)), name


# -- where windows lie ------------------------------------------------------------------------------------------------


def inside_domain(window: Window, recording: Recording, bin_size_s: float) -> bool:
    stop = window.start_s + window.num_bins * bin_size_s
    return any(a - 1e-9 <= window.start_s and stop <= b + 1e-6 for a, b in recording.domain)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_windows_lie_inside_their_stretch_role_and_domain(tiny_recording: Tiny, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.floats(0.3, 39.7), min_size=0, max_size=8, unique=True))
    edges = np.array([0.0, *sorted(cuts), 40.0])
    domain = np.stack([edges[:-1], edges[1:]], axis=1)
    domain[:, 1] -= 0.1 * np.minimum(1, domain[:, 1] - domain[:, 0])
    recording = tiny_recording(domain=domain)
    if data.draw(st.booleans()):
        recording = replace(recording, trials=empty_trials(), covariates={})
    bin_size_s = data.draw(st.sampled_from([0.01, 0.02, 0.05]))
    window_s = data.draw(st.sampled_from([0.1, 0.3, 2.0]))
    roles, bounds = session_roles(recording), stretches(recording)
    for role, code in ROLES.items():
        windows = session_windows(recording, roles, role, bin_size_s, window_s)
        spans = []
        for window in windows:
            stop = window.start_s + window.num_bins * bin_size_s
            assert roles[window.row] == code
            assert bounds[window.row, 0] - 1e-9 <= window.start_s
            assert stop <= bounds[window.row, 1] + 1e-6
            assert inside_domain(window, recording, bin_size_s)
            assert MIN_BINS <= window.num_bins <= round(window_s / bin_size_s)
            spans.append((window.start_s, stop))
        spans.sort()
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spans))
        # Nothing is left out but remainders under MIN_BINS bins.
        left = sum(
            max(0.0, min(b, bounds[row, 1]) - max(a, bounds[row, 0]))
            for row in np.flatnonzero(roles == code)
            for a, b in recording.domain
        ) - sum(b - a for a, b in spans)
        pieces = (roles == code).sum() + len(recording.domain)
        assert -1e-6 <= left <= pieces * MIN_BINS * bin_size_s


def test_a_stretch_shorter_than_the_window_is_a_window_of_its_own_length(tiny_recording: Tiny) -> None:
    recording = tiny_recording()
    windows = session_windows(recording, session_roles(recording), "train", 0.02, 2.0)
    assert {window.num_bins for window in windows} == {25}
    assert [window.row for window in windows] == np.flatnonzero(session_roles(recording) == 0).tolist()


def test_jittered_windows_stay_inside_stretch_and_domain(tiny_recording: Tiny) -> None:
    # Trial 0 is broken by a gap of the domain; a window may lie on either side of it, never across.
    trials = pd.DataFrame(
        {"start_s": [0.0, 12.0], "stop_s": [10.0, 31.0], "usable": True, "source_index": [0, 1], "x": 0.0}
    )
    recording = tiny_recording(trials=trials, covariates={}, domain=np.array([[0.0, 4.0], [6.5, 40.0]]))
    windows = session_windows(recording, np.zeros(2, np.int8), "train", 0.02, 1.0)
    key = recording.info.recording_id
    sampler = WindowSampler({key: windows}, 8, 8, 0, window_bins=50)
    starts = []
    for step in range(200):
        for window in sampler.batch_windows(step):
            assert inside_domain(window, recording, 0.02), window
            stop = window.start_s + window.num_bins * 0.02
            assert trials["start_s"][window.row] - 1e-9 <= window.start_s
            assert stop <= trials["stop_s"][window.row] + 1e-6
            starts.append(window.start_s)
    grid = np.array(starts) / 1.0
    assert np.mean(np.abs(grid - grid.round()) < 1e-6) < 0.2  # the point of jitter: windows start anywhere
    long = np.array([s for s in starts if s >= 12.0])
    assert stats.kstest(long, "uniform", args=(12.0, 18.0)).pvalue > 0.01


def test_held_out_animals_are_in_no_window(world: Any) -> None:
    known = sorted(set(world.corpus.subjects.values()))
    for held in ([known[0]], known[1:3]):
        config = replace(world.config, held_out=held)
        subjects = pretraining_subjects(world.corpus, config)
        assert sorted([*subjects, *held]) == known
        assert not set(world.corpus.select(subjects=subjects).subjects.values()) & set(held)
    with pytest.raises(ValueError, match="one place"):
        pretraining_subjects(world.corpus, DataConfig(subjects=known, held_out=known[:1]))
    with pytest.raises(ValueError, match="all animals"):
        pretraining_subjects(world.corpus, DataConfig(held_out_fraction=1.0))


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(0, 0.9))
def test_held_out_fraction_follows_identity(world: Any, fraction: float) -> None:
    known = set(world.corpus.subjects.values())
    try:
        subjects = pretraining_subjects(world.corpus, DataConfig(held_out_fraction=fraction))
    except ValueError:
        return
    # A larger share holds out the same animals and more.
    more = DataConfig(held_out_fraction=min(0.95, fraction + 0.3))
    try:
        fewer = pretraining_subjects(world.corpus, more)
    except ValueError:
        return
    assert set(fewer) <= set(subjects) <= known


# -- what a window holds ----------------------------------------------------------------------------------------------


def test_a_window_equals_a_naive_reading(tiny_recording: Tiny, tmp_path: Path) -> None:
    recording = tiny_recording()
    reader = reader_of(corpus_of(tmp_path, recording))
    window = Window("tiny/rat1_a", 3.1, 120, 0)  # over several trials and the gaps between them, unobserved choice
    got = reader.read(window)
    size, trials = 0.02, recording.trials
    slices = channel_slices(reader.channels)
    for t in range(window.num_bins):
        center = window.start_s + (t + 0.5) * size
        rows = [r for r in range(len(trials)) if trials["start_s"][r] <= center < trials["stop_s"][r]]
        row = rows[0] if rows else None
        first = next(r for r in range(len(trials)) if trials["stop_s"][r] > window.start_s)
        assert got["trial"][t] == (-1 if row is None else row - first)
        facts = dict(zip(STRUCTURE, got["structure"][t]))
        assert facts["in_trial"] == (row is not None)
        clock = (window.start_s + 60 * size - 0.25) / (39.75 - 0.25)
        assert facts["session_clock"] == pytest.approx(2 * clock - 1, abs=1e-6)
        if row is not None:
            assert facts["since_start"] == pytest.approx(center - trials["start_s"][row], abs=1e-6)
            assert facts["to_end"] == pytest.approx(trials["stop_s"][row] - center, abs=1e-6)
            last = center + size > trials["stop_s"][row] - size / 2
            assert facts["last_bin"] == last
        for c, (channel, where) in enumerate(zip(reader.channels, slices)):
            covariate = recording.covariates[channel.spec.name]
            if covariate.times is None:
                seen = row is not None and bool(covariate.observed[row])
                raw = covariate.values[row] if seen else None
            else:
                values, observed = bin_covariate(covariate, window.start_s, window.num_bins, size)
                seen, raw = bool(observed[t]), values[t]
            assert got["observed"][t, c] == seen
            if not seen:
                expected = np.zeros(channel.width)
            elif channel.spec.kind == "categorical":
                expected = np.eye(channel.width)[int(np.ravel(raw)[0])]
            elif channel.spec.kind == "event":
                expected = np.ravel(raw)
            else:
                expected = (np.ravel(raw) - channel.mean) / channel.std
            np.testing.assert_allclose(got["covariates"][t, where], expected, atol=1e-5)
    assert np.array_equal(got["spikes"], bin_spikes(recording, window.start_s, 120, size))


def test_batches_group_sessions_and_pad_in_time_only(world: Any) -> None:
    rng = np.random.default_rng(0)
    windows = [replace(w, num_bins=int(rng.integers(2, 31))) for ws in world.data.train.values() for w in ws[:4]]
    windows = [windows[i] for i in rng.permutation(len(windows))]
    batch = world.reader.batch(windows)
    assert batch.recording_ids == sorted({w.recording_id for w in windows})
    assert sorted(map(str, batch.windows)) == sorted(map(str, windows))
    first = 0
    for key, size, spikes in zip(batch.recording_ids, batch.sizes, batch.spikes):
        recording = world.corpus[key]
        assert spikes.shape == (size, 30, recording.num_units)
        for i in range(size):
            window = batch.windows[first + i]
            assert window.recording_id == key
            bins = window.num_bins
            assert np.array_equal(spikes[i, :bins].numpy(), bin_spikes(recording, window.start_s, bins, 0.02))
            alone = world.reader.read(window)
            for name in ("covariates", "observed", "structure", "trial"):
                row = getattr(batch, name)[first + i]
                assert np.array_equal(row[:bins].numpy(), alone[name]), name
                assert (row[bins:] == (-1 if name == "trial" else 0)).all()
            assert not spikes[i, bins:].any()
            assert batch.valid[first + i].tolist() == [t < bins for t in range(30)]
        first += size


# -- channels ---------------------------------------------------------------------------------------------------------


def test_normalizers_are_those_of_train_stretches(tiny_recording: Tiny, tmp_path: Path) -> None:
    recording = tiny_recording()
    config = DataConfig(targets=["speed", "position", "contrast"])
    corpus = corpus_of(tmp_path / "one", recording)
    channels = {c.spec.name: c for c in find_channels(corpus, config, corpus.ids)}
    roles, bounds = session_roles(recording), stretches(recording)
    changed = {}
    for name in ("speed", "position", "contrast"):
        covariate = recording.covariates[name]
        times = np.arange(len(roles)) if covariate.times is None else covariate.times
        train = np.zeros(len(times), bool)
        for row in np.flatnonzero(roles == 0):
            if covariate.times is None:
                train[row] = True
            else:
                train |= (times >= bounds[row, 0]) & (times < bounds[row, 1])
        seen = covariate.values.reshape(len(times), -1)[train & covariate.observed]
        np.testing.assert_allclose(channels[name].mean, seen.mean(axis=0), atol=1e-5)
        # Where nothing varies, nothing is scaled.
        deviation = seen.astype(float).std(axis=0)
        np.testing.assert_allclose(channels[name].std, np.where(deviation < 1e-6, 1, deviation), rtol=1e-4)
        values = covariate.values.copy()
        values[~train] += 100
        changed[name] = replace(covariate, values=values)
    other = corpus_of(tmp_path / "two", replace(recording, covariates=recording.covariates | changed))
    assert find_channels(other, config, other.ids) == list(channels.values())


def test_inputs_and_targets_choose_channels(tiny_recording: Tiny, tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, tiny_recording())
    default = {c.spec.name: (c.is_input, c.is_target) for c in find_channels(corpus, DataConfig(), corpus.ids)}
    assert default["choice"] == (True, True)
    assert default["contrast"] == default["block"] == (True, False)
    config = DataConfig(inputs=["contrast"], targets=["speed"])
    chosen = {c.spec.name: (c.is_input, c.is_target) for c in find_channels(corpus, config, corpus.ids)}
    assert chosen == {"contrast": (True, False), "speed": (False, True)}
    for key in ("inputs", "targets"):
        with pytest.raises(ValueError, match=rf"data.{key}: no covariate \['wheel'\]"):
            find_channels(corpus, DataConfig(**{key: ["wheel"]}), corpus.ids)


def test_sessions_that_disagree_on_a_covariate_are_refused(tiny_recording: Tiny, tmp_path: Path) -> None:
    recording = tiny_recording()
    spec = replace(recording.covariates["choice"].spec, num_classes=3)
    other = tiny_recording(session="rat2_a", subject="rat2")
    choice = Covariate.categorical(spec, np.arange(40) % 3)
    other = replace(other, covariates=other.covariates | {"choice": choice})
    corpus = corpus_of(tmp_path, recording, other)
    with pytest.raises(ValueError, match="'choice' differs"):
        find_channels(corpus, DataConfig(), corpus.ids)
    # A new animal whose third class the model does not know: written silently, it would land in the next channel.
    channels = find_channels(corpus, DataConfig(), ["tiny/rat1_a"])
    with pytest.raises(ValueError, match="choice"):
        WindowReader(corpus, channels, 0.02).read(Window("tiny/rat2_a", 0.3, 20, 0))


def test_a_bin_finer_than_the_source_is_refused(tiny_recording: Tiny, tmp_path: Path) -> None:
    recording = tiny_recording()
    corpus = corpus_of(tmp_path, replace(recording, info=replace(recording.info, min_bin_size_s=0.01)))
    with pytest.raises(ValueError, match="whole multiple"):
        reader_of(corpus, bin_size_s=0.005).recording("tiny/rat1_a")
