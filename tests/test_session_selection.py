"""Planted likeness is found from train trials alone; random sets hold as much data; draws follow the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from eval.session_selection import (
    data_amounts,
    select_sessions,
    session_distances,
    train_only,
    unit_profiles,
)
from foundation.corpus import Corpus
from foundation.recording import Recording, empty_trials
from foundation.splits import TEST, TRAIN, VAL, few_shot_roles, session_roles


def planted(seed: int = 0) -> dict[str, np.ndarray]:
    """Units of 20 sessions of two kinds, "near" ones with the target's mean and spread; 20 to 60 units each."""
    rng = np.random.default_rng(seed)
    profiles = {"d/target": rng.normal(1.0, 0.5, (30, 6))}
    for k in range(20):
        mean, spread = (1.0, 0.5) if k % 4 == 0 else (1.5, 1.0)
        name = "near" if k % 4 == 0 else "far"
        profiles[f"d/{name}{k}"] = rng.normal(mean, spread, (int(rng.integers(20, 60)), 6))
    return profiles


@pytest.mark.parametrize("seed", range(5))
def test_planted_likeness(seed: int) -> None:
    distances = session_distances(planted(seed), ["d/target"])
    best = select_sessions(distances, 5, seed=seed).best
    assert all(key.startswith("d/near") for key in best)
    assert list(distances.values()) == sorted(distances.values())
    assert best == tuple(distances)[:5]


def test_order_of_units_and_scale_of_features_do_not_matter() -> None:
    rng, profiles = np.random.default_rng(0), planted()
    turned = {key: rng.permutation(values) * [1, 10, 100, 1e3, 1e-3, 5] for key, values in profiles.items()}
    first, second = (session_distances(p, ["d/target"]) for p in (profiles, turned))
    assert list(first) == list(second)
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-9)


def test_distance_is_close_to_the_wasserstein_distance() -> None:
    profiles = planted(3)
    found = session_distances(profiles, ["d/target"])
    scale = np.concatenate([v for key, v in profiles.items() if key != "d/target"]).std(axis=0)
    full = {
        key: np.mean([wasserstein_distance(*pair) for pair in zip((profiles["d/target"] / scale).T, (v / scale).T)])
        for key, v in profiles.items()
        if key != "d/target"
    }
    assert np.corrcoef(list(found.values()), [full[key] for key in found])[0, 1] > 0.97


def test_several_targets_count_alike() -> None:
    profiles = planted()
    both = session_distances(profiles, ["d/target", "d/near0"])
    alone = [
        session_distances({k: v for k, v in profiles.items() if k != o}, [t])
        for t, o in (("d/target", "d/near0"), ("d/near0", "d/target"))
    ]
    assert "d/near0" not in both
    for key, distance in both.items():
        assert distance == pytest.approx((alone[0][key] + alone[1][key]) / 2)


def test_random_sets_hold_as_much_data_and_follow_the_seed() -> None:
    rng = np.random.default_rng(0)
    distances = {f"d/{k:02d}": float(k) for k in range(30)}
    amounts = {key: float(rng.uniform(1, 20)) for key in distances}
    got = select_sessions(distances, 6, amounts=amounts, num_random=20, seed=3)
    assert got.best == tuple(f"d/{k:02d}" for k in range(6))
    assert got.amount == pytest.approx(sum(amounts[key] for key in got.best))
    assert len(set(got.random)) == 20
    for keys, amount in zip(got.random, got.random_amounts):
        assert len(set(keys)) == 6
        assert amount == pytest.approx(sum(amounts[key] for key in keys))
        assert 1 / 1.1 <= amount / got.amount <= 1.1
    assert got == select_sessions(dict(reversed(distances.items())), 6, amounts=amounts, num_random=20, seed=3)
    assert got.random != select_sessions(distances, 6, amounts=amounts, num_random=20, seed=4).random


def test_random_sets_without_amounts_are_uniform() -> None:
    distances = {f"d/{k}": float(k) for k in range(8)}
    counts = dict.fromkeys(distances, 0)
    for seed in range(400):
        for key in select_sessions(distances, 2, num_random=1, seed=seed).random[0]:
            counts[key] += 1
    # 100 expected, standard deviation sqrt(400 * 1/4 * 3/4) = 8.7.
    assert all(65 < number < 135 for number in counts.values())


def test_what_cannot_be_selected_is_refused() -> None:
    distances = {"d/a": 1.0, "d/b": 2.0, "d/c": 3.0}
    with pytest.raises(ValueError, match=r"4 sessions asked for, 3 candidates"):
        select_sessions(distances, 4)
    with pytest.raises(ValueError, match=r"no amount of data of \['d/c'\]"):
        select_sessions(distances, 1, amounts={"d/a": 1, "d/b": 1})
    with pytest.raises(ValueError, match=r"1 of 3 random sets"):
        select_sessions(distances, 1, amounts={"d/a": 1, "d/b": 10, "d/c": 100})
    with pytest.raises(ValueError, match=r"no profile of \['d/x'\]"):
        session_distances(planted(), ["d/x"])
    with pytest.raises(ValueError, match="not finite"):
        session_distances({"a": np.ones((2, 2)), "b": np.full((2, 2), np.nan)}, ["a"])


def test_profiles_of_a_target_read_its_train_trials_alone(synthetic_corpus: Corpus) -> None:
    """Spikes and covariates of all other trials may be anything."""
    recording = synthetic_corpus["synthetic/animal03_0"]
    roles = few_shot_roles(session_roles(recording), 16, 0, recording.info.session)
    bounds = recording.trials[["start_s", "stop_s"]].to_numpy()
    keep = np.zeros(len(recording.spike_times), bool)
    for start, stop in bounds[roles == TRAIN]:
        keep |= (recording.spike_times >= start) & (recording.spike_times < stop)
    assert 0 < keep.mean() < 0.5
    emptied = replace(recording, spike_times=recording.spike_times[keep], spike_units=recording.spike_units[keep])

    class Changed(dict):
        pass

    options = {"few_shot": (16, 0), "few_shot_of": ["synthetic/animal03_0"], "bin_size_s": 0.05}
    ids = ["synthetic/animal03_0", "synthetic/animal00_0"]
    full = unit_profiles(synthetic_corpus, ids, **options)
    less = unit_profiles(Changed({ids[0]: emptied, ids[1]: synthetic_corpus[ids[1]]}), ids, **options)
    for key in ids:
        np.testing.assert_array_equal(full[key], less[key])
    assert full[ids[0]].shape[1] == full[ids[1]].shape[1] > 20


def test_amounts_are_unit_seconds_of_train_trials(synthetic_corpus: Corpus) -> None:
    got = data_amounts(synthetic_corpus, synthetic_corpus.ids, "temporal")
    for key in synthetic_corpus.ids:
        r = synthetic_corpus[key]
        train = session_roles(r, "temporal") == TRAIN
        lengths = (r.trials["stop_s"] - r.trials["start_s"])[train]
        assert got[key] == pytest.approx(lengths.sum() * r.num_units)


def test_recordings_without_trials_keep_train_stretches(tiny_recording: Callable[..., Recording]) -> None:
    whole = tiny_recording(trials=empty_trials(), covariates={}, domain=np.array([[0.0, 200.0]]))
    got = train_only(whole).validate()
    roles = session_roles(whole)
    assert {TRAIN, VAL, TEST} <= set(roles.tolist())
    assert got.trials["usable"].tolist() == (roles == TRAIN).tolist()
    np.testing.assert_allclose(got.trials["stop_s"] - got.trials["start_s"], 10.0)
