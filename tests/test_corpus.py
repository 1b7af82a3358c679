"""Recordings on disk: what is written comes back bit for bit, whole or not at all, and every damage is seen."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation import recording_folder
from foundation.corpus import Corpus, write_manifest
from foundation.durable import CorpusError
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingError, RecordingInfo
from foundation.recording_folder import read_recording, write_recording

Tiny = Callable[..., Recording]
ROOT = Path(__file__).resolve().parents[1]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_equal(a: Recording, b: Recording) -> None:
    assert a.info == b.info
    for name in ("spike_times", "spike_units", "domain"):
        assert same_bits(getattr(a, name), getattr(b, name)), name
    pd.testing.assert_frame_equal(a.units, b.units, check_exact=True)
    pd.testing.assert_frame_equal(a.trials, b.trials, check_exact=True)
    assert list(a.covariates) == list(b.covariates)
    for name, one in a.covariates.items():
        other = b.covariates[name]
        assert one.spec == other.spec
        assert same_bits(one.values, other.values), name
        assert same_bits(one.observed, other.observed), name
        assert (one.times is None) == (other.times is None)
        if one.times is not None:
            assert other.times is not None
            assert same_bits(one.times, other.times), name


finite = st.floats(-1e6, 1e6, width=32)


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    """Any valid recording: sizes from one unit and no trial, every kind of covariate, any share unobserved."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_units, num_spikes, num_trials = draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(0, 6))
    edges = np.sort(rng.uniform(0, 50, 2 * num_trials))
    covariates = {}
    for k in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["continuous", "categorical", "event"]))
        scope = "time" if kind == "event" else draw(st.sampled_from(["time", "trial"]))
        dim = draw(st.integers(1, 3)) if (kind, scope) == ("continuous", "time") else 1
        spec = CovariateSpec(
            f"c{k}",
            kind,
            scope,
            num_classes=4 if kind == "categorical" else 0,
            dim=dim,
            resample=draw(st.sampled_from(["mean", "last"])),
            role=draw(st.sampled_from(["behavior", "stimulus", "task"])),
            unit=draw(st.text(max_size=5)),
            description=draw(st.text(max_size=8)),
        )
        rows = num_trials if scope == "trial" else draw(st.integers(0, 20))
        times = np.sort(rng.uniform(0, 50, rows)) if scope == "time" else None
        seen = rng.uniform(size=rows) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        if kind == "event":
            assert times is not None
            covariates[spec.name] = Covariate.events(spec, times)
        elif kind == "categorical":
            covariates[spec.name] = Covariate.categorical(spec, np.where(seen, rng.integers(0, 4, rows), -1), times)
        else:
            values = np.array(draw(st.lists(finite, min_size=rows * dim, max_size=rows * dim)), np.float32)
            values = values.reshape((rows, dim) if dim > 1 else (rows,))
            values[~seen] = np.nan
            covariates[spec.name] = Covariate.continuous(spec, values, times)
    return Recording(
        info=RecordingInfo(f"d/{draw(st.from_regex('[a-zé0-9_-]{1,8}', fullmatch=True))}", "rat", "test 1", notes="µ"),
        spike_times=np.sort(np.round(rng.uniform(0, 50, num_spikes), draw(st.integers(0, 9)))),
        spike_units=rng.integers(0, num_units, num_spikes).astype(np.int32),
        units=pd.DataFrame(
            {
                "unit_id": [f"u{i}" for i in range(num_units)],
                "region": rng.choice(["", "CA1"], num_units),
                "depth_um": rng.normal(size=num_units),
                "good": rng.uniform(size=num_units) < 0.5,
            }
        ),
        trials=pd.DataFrame(
            {
                "start_s": edges[::2],
                "stop_s": edges[1::2],
                "usable": rng.uniform(size=num_trials) < 0.5,
                "source_index": np.arange(num_trials),
            }
        ),
        domain=np.array([[0.0, 20.0], [20.0, 51.0]]),
        covariates=covariates,
    )


@given(recording=recordings())
@settings(max_examples=40, deadline=None)
def test_round_trip_is_bit_for_bit(recording: Recording) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = write_recording(root, recording)
        assert_equal(read_recording(folder), recording)
        corpus = write_manifest(root)
        assert corpus.ids == [recording.info.recording_id]
        corpus.verify(recording.info.recording_id)


def test_reading_maps_memory(tiny_recording: Tiny, tmp_path: Path) -> None:
    write_recording(tmp_path, tiny_recording())
    recording = write_manifest(tmp_path)["tiny/rat1_a"]
    for array in (recording.spike_times, recording.spike_units, recording.covariates["position"].values):
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_malformed_recording_leaves_nothing_on_disk(tiny_recording: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="spike_times"):
        write_recording(tmp_path, replace(tiny_recording(), spike_times=-np.ones(1200)))
    assert list(tmp_path.rglob("*")) == []


def test_failure_while_writing_leaves_nothing_or_the_old(
    tiny_recording: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, columns: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(recording_folder, "_write_arrow", fail)
        with pytest.raises(OSError, match="disk full"):
            write_recording(tmp_path, tiny_recording())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    write_recording(tmp_path, tiny_recording(seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(recording_folder, "_write_arrow", fail)
        with pytest.raises(OSError, match="disk full"):
            write_recording(tmp_path, tiny_recording(seed=2), overwrite=True)
    assert_equal(write_manifest(tmp_path)["tiny/rat1_a"], tiny_recording(seed=1))
    assert [path.name for path in (tmp_path / "recordings" / "tiny").iterdir()] == ["rat1_a"]


WRITE_UNTIL_KILLED = """
import os, signal, sys, time
from dataclasses import replace
import numpy as np
from foundation.recording_folder import read_recording, write_recording
for attempt, delay in enumerate(sys.argv[3:]):
    child = os.fork()
    if not child:
        r = read_recording(sys.argv[1])
        for k in range(100_000):
            units = np.full_like(r.spike_units, k % 3)
            write_recording(f"{sys.argv[2]}/{attempt}", replace(r, spike_units=units), overwrite=True)
    # The clock starts with the first write, however slowly the machine forks.
    while not os.path.exists(f"{sys.argv[2]}/{attempt}/recordings"):
        time.sleep(0.001)
    time.sleep(float(delay))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_kill_while_writing_leaves_no_half_recording(tiny_recording: Tiny, tmp_path: Path) -> None:
    """A process that replaces one recording over and over is killed at random moments; what is left is whole."""
    source = write_recording(tmp_path / "source", tiny_recording())
    delays = [f"{delay:.4f}" for delay in np.random.default_rng(0).uniform(0.05, 0.2, 12)]
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(source), str(tmp_path), *delays]
    subprocess.run(command, check=True, cwd=ROOT)
    found = 0
    for attempt in range(len(delays)):
        if not (tmp_path / str(attempt) / "recordings").exists():
            continue
        corpus = write_manifest(tmp_path / str(attempt))
        for recording_id in corpus.ids:
            corpus.verify(recording_id)
            assert len(np.unique(corpus[recording_id].spike_units)) == 1
            found += 1
    assert found >= 6


def test_existing_recording_is_only_replaced_when_asked(tiny_recording: Tiny, tmp_path: Path) -> None:
    write_recording(tmp_path, tiny_recording(seed=1))
    with pytest.raises(CorpusError, match="overwrite"):
        write_recording(tmp_path, tiny_recording(seed=2))
    write_recording(tmp_path, tiny_recording(seed=2), overwrite=True)
    assert_equal(write_manifest(tmp_path)["tiny/rat1_a"], tiny_recording(seed=2))


def test_folders_are_as_open_as_the_umask_allows(tiny_recording: Tiny, tmp_path: Path) -> None:
    """Others in the lab can read what one of them prepared."""
    before = os.umask(0o022)
    try:
        folder = write_recording(tmp_path, tiny_recording())
        write_manifest(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    for path in [*folder.iterdir(), tmp_path / "manifest.json"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_leftovers_of_a_killed_writer_are_no_recordings(tiny_recording: Tiny, tmp_path: Path) -> None:
    folder = write_recording(tmp_path, tiny_recording())
    folder.rename(folder.parent / ".writing-1-abc")
    assert write_manifest(tmp_path).ids == []


def test_verify_sees_one_flipped_byte_in_every_file(tiny_recording: Tiny, tmp_path: Path) -> None:
    folder = write_recording(tmp_path, tiny_recording())
    corpus = write_manifest(tmp_path)
    files = sorted(folder.iterdir())
    assert {"info.json", "spikes.arrow", "units.parquet", "trials.parquet", "domain.parquet"} < {f.name for f in files}
    rng = np.random.default_rng(0)
    for path in files:
        original = path.read_bytes()
        for at in (0, int(rng.integers(len(original))), len(original) - 1):
            damaged = bytearray(original)
            damaged[at] ^= 1
            path.write_bytes(bytes(damaged))
            with pytest.raises(CorpusError, match=path.name):
                corpus.verify("tiny/rat1_a")
        path.unlink()
        with pytest.raises(CorpusError, match=path.name):
            Corpus.open(tmp_path, verify=True)
        path.write_bytes(original)
    Corpus.open(tmp_path, verify=True)


@pytest.mark.parametrize("name", ["info.json", "spikes.arrow", "units.parquet", "trials.parquet", "domain.parquet"])
def test_truncated_file_is_an_error_with_a_cure(tiny_recording: Tiny, tmp_path: Path, name: str) -> None:
    folder = write_recording(tmp_path, tiny_recording())
    corpus = write_manifest(tmp_path)
    content = (folder / name).read_bytes()
    for size in (0, len(content) // 2):
        (folder / name).write_bytes(content[:size])
        with pytest.raises(CorpusError, match="prepare this recording again"):
            corpus["tiny/rat1_a"]
    (folder / name).unlink()
    with pytest.raises(CorpusError, match="prepare this recording again"):
        corpus["tiny/rat1_a"]


def test_other_schema_version_is_refused(tiny_recording: Tiny, tmp_path: Path) -> None:
    folder = write_recording(tmp_path, tiny_recording())
    write_manifest(tmp_path)
    for path in (tmp_path / "manifest.json", folder / "info.json"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"schema_version": 2}))
        with pytest.raises(CorpusError, match="schema version 2, this library reads 1"):
            Corpus.open(tmp_path)["tiny/rat1_a"]
        path.write_text(json.dumps(document))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"schema_version": 1}'])
def test_bad_manifest_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(CorpusError, match=r"manifest\.json"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize("entry", [None, 3, [], {}, {"subject_id": "a"}, {"subject_id": ["a"], "info_sha256": "0"}])
def test_an_entry_of_the_manifest_that_is_none_is_refused(tmp_path: Path, entry: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1, "recordings": {"tiny/a": entry}}))
    with pytest.raises(CorpusError, match=r"manifest\.json: entry 'tiny/a' is .*prepare"):
        Corpus.open(tmp_path)


def test_select_and_unknown_names(tiny_recording: Tiny, tmp_path: Path) -> None:
    for session, subject in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        write_recording(tmp_path, tiny_recording(session=session, subject=subject))
    corpus = write_manifest(tmp_path)
    assert corpus.subjects == {"tiny/a1": "a", "tiny/a2": "a", "tiny/b1": "b"}
    assert corpus.select(subjects=["a"]).ids == ["tiny/a1", "tiny/a2"]
    assert corpus.select(recordings=["tiny/b1"]).ids == ["tiny/b1"]
    assert [r.info.recording_id for r in corpus] == corpus.ids
    with pytest.raises(CorpusError, match="no subject"):
        corpus.select(subjects=["c"])
    with pytest.raises(CorpusError, match="tiny/a1"):
        corpus["tiny/a3"]


def sum_of_units(corpus: Corpus, recording_id: str) -> int:
    return int(corpus[recording_id].spike_units.sum())


def test_a_corpus_works_in_a_forked_process(synthetic_corpus: Corpus) -> None:
    expected = [sum_of_units(synthetic_corpus, key) for key in synthetic_corpus.ids]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        found = pool.map(sum_of_units, [synthetic_corpus] * len(expected), synthetic_corpus.ids)
        assert list(found) == expected


def test_a_corpus_works_in_a_fresh_process(synthetic_corpus: Corpus) -> None:
    """As in a spawned worker; by hand, since this module has no name that a spawned process could import."""
    expected = [sum_of_units(synthetic_corpus, key) for key in synthetic_corpus.ids]
    content = pickle.dumps(synthetic_corpus)
    assert len(content) < 10_000
    child = "import pickle, sys; c = pickle.load(sys.stdin.buffer); print([int(r.spike_units.sum()) for r in c])"
    done = subprocess.run([sys.executable, "-c", child], input=content, capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.decode().strip() == str(expected)


def test_datasets_opens_the_files(synthetic_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    recording_id = synthetic_corpus.ids[0]
    recording, folder = synthetic_corpus[recording_id], synthetic_corpus.folder(recording_id)
    loaded = datasets.load_dataset("arrow", data_files=str(folder / "spikes.arrow"), cache_dir=str(tmp_path))["train"]
    assert loaded.column_names == ["time_s", "unit"]
    # Not the "numpy" format of datasets, which turns float64 into float32.
    spikes = loaded.with_format("arrow")[:]
    assert same_bits(spikes["time_s"].to_numpy(), recording.spike_times)
    assert same_bits(spikes["unit"].to_numpy(), recording.spike_units)
    units = datasets.load_dataset("parquet", data_files=str(folder / "units.parquet"), cache_dir=str(tmp_path))["train"]
    assert units["unit_id"][:] == recording.units["unit_id"].tolist()
