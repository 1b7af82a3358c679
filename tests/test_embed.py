"""Embeddings cover the domain, see spikes alone, and are written without pickles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foundation.corpus import Corpus, write_manifest, write_recording
from foundation.embed import domain_windows, embed, write_embedding
from foundation.recording import Covariate
from foundation.sampling import WindowReader


def test_every_bin_of_the_domain_is_embedded(world: Any) -> None:
    model, key = world.lively_model(), world.corpus.ids[0]
    found = embed(model, world.corpus, key)
    recording = world.corpus[key]
    bins = int(np.floor(recording.duration_s / 0.02 + 1e-6))
    assert bins - 2 < len(found.time_s) <= bins
    np.testing.assert_allclose(np.diff(found.time_s), 0.02, atol=1e-6)
    assert found.time_s[0] == pytest.approx(0.01)
    assert found.states.shape == (len(found.time_s), 16)
    for projected in (found.behavior, found.time):
        assert projected.shape == (len(found.time_s), 16)
        np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1, atol=1e-5)
    assert found.unit_id.tolist() == recording.units["unit_id"].tolist()
    assert np.array_equal(found.units, model.unit_embeddings(key))


def test_intervals_of_the_domain_are_cut_one_by_one(tiny_recording: Any, tmp_path: Path) -> None:
    recording = tiny_recording(domain=np.array([[0.0, 1.5], [3.0, 3.03], [10.0, 12.1]]))
    write_recording(tmp_path, recording)
    reader = WindowReader(write_manifest(tmp_path), [], 0.02)
    windows = domain_windows(reader, "tiny/rat1_a", 1.0)
    assert [(w.start_s, w.num_bins) for w in windows] == [
        (0.0, 50),
        (1.0, 25),
        (10.0, 50),
        (11.0, 50),
        (12.0, 5),
    ]


def test_an_embedding_does_not_contain_behavior_or_trials(world: Any, tmp_path: Path) -> None:
    """Another behavior and other trials, the same spikes: the same embedding, bit for bit."""
    model, key = world.lively_model(), world.corpus.ids[0]
    recording = world.corpus[key]
    rng = np.random.default_rng(0)
    changed: dict[str, Covariate] = {}
    for name, covariate in recording.covariates.items():
        if covariate.spec.kind == "event":
            changed[name] = replace(covariate, times=np.sort(rng.uniform(0, 50, 30)))
        else:
            changed[name] = replace(covariate, values=rng.permutation(covariate.values))
    trials = recording.trials.assign(stop_s=recording.trials["stop_s"] - 0.3)
    write_recording(tmp_path, replace(recording, covariates=changed, trials=trials))
    other = write_manifest(tmp_path)
    one, two = embed(model, world.corpus, key), embed(model, other, key)
    assert np.array_equal(one.states, two.states)
    assert np.array_equal(one.behavior, two.behavior)
    assert np.array_equal(one.time, two.time)


def test_an_embedding_survives_the_disk_without_pickle(world: Any, tmp_path: Path) -> None:
    found = embed(world.lively_model(), world.corpus, world.corpus.ids[1], world.data.val[world.corpus.ids[1]][:3])
    path = write_embedding(tmp_path, found)
    assert path.name == "synthetic--animal01_0.npz"
    with np.load(path, allow_pickle=False) as stored:
        for name, value in vars(found).items():
            assert np.array_equal(stored[name], value), name


def test_a_session_without_adapter_is_refused(world: Any, synthetic_corpus: Corpus) -> None:
    model = world.model(sessions=world.corpus.ids[:1])
    with pytest.raises(ValueError, match="foundation finetune"):
        embed(model, synthetic_corpus, world.corpus.ids[1])
