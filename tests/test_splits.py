"""Splits against an independent reading of the protocol, section 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.recording import Recording, empty_trials
from foundation.splits import (
    NO_ROLE,
    TEST,
    TRAIN,
    VAL,
    few_shot_roles,
    held_out_subjects,
    interleaved_roles,
    session_roles,
    stretches,
    temporal_roles,
)

Tiny = Callable[..., Recording]
names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=10)


def naive_interleaved(num_trials: int, fold: int) -> list[str]:
    """Protocol, section 1: sizes of blocks as numpy.array_split makes them, written out."""
    num_blocks = 5 * max(1, round(num_trials / 125))
    short, longer = divmod(num_trials, num_blocks)
    names: list[str] = []
    for j in range(num_blocks):
        role = {(1 + fold) % 5: "test", (3 + fold) % 5: "val"}.get(j % 5, "train")
        names += [role] * (short + 1 if j < longer else short)
    out = list(names)
    for i, name in enumerate(names):
        neighbors = [names[k] for k in (i - 2, i - 1, i + 1, i + 2) if 0 <= k < num_trials]
        if name == "train" and any(n != "train" for n in neighbors):
            out[i] = "none"
    return out


def naive_temporal(num_trials: int) -> list[str]:
    train = ["train"] * round(0.6 * num_trials)
    val = ["val"] * (round(0.8 * num_trials) - len(train))
    for part in (train, val):
        for k in range(min(5, len(part))):
            part[-1 - k] = "none"
    return train + val + ["test"] * (num_trials - len(train) - len(val))


def words(roles: np.ndarray) -> list[str]:
    return [{TRAIN: "train", VAL: "val", TEST: "test", NO_ROLE: "none"}[int(role)] for role in roles]


@given(num_trials=st.integers(0, 1500), fold=st.integers(0, 4))
def test_interleaved_equals_the_protocol(num_trials: int, fold: int) -> None:
    assert words(interleaved_roles(num_trials, fold)) == naive_interleaved(num_trials, fold)


@given(num_trials=st.integers(0, 1500))
def test_temporal_equals_the_protocol(num_trials: int) -> None:
    assert words(temporal_roles(num_trials)) == naive_temporal(num_trials)


@pytest.mark.parametrize("num_trials", [125, 250, 497, 600])
def test_shares_are_those_of_the_protocol(num_trials: int) -> None:
    roles = interleaved_roles(num_trials)
    assert abs((roles == TEST).mean() - 0.2) < 0.01
    assert abs((roles == VAL).mean() - 0.2) < 0.01
    assert 0.51 <= (roles == TRAIN).mean() <= 0.55
    tested = np.sum([interleaved_roles(num_trials, fold) == TEST for fold in range(5)], axis=0)
    assert (tested == 1).all()


@given(num_trials=st.integers(100, 1000), num_train=st.sampled_from([16, 32, 64, 128]), draw=st.integers(0, 5))
def test_few_shot_keeps_what_it_should(num_trials: int, num_train: int, draw: int) -> None:
    roles = interleaved_roles(num_trials)
    if num_train > (roles == TRAIN).sum():
        with pytest.raises(ValueError, match="train trials asked for"):
            few_shot_roles(roles, num_train, draw, "a")
        return
    few = few_shot_roles(roles, num_train, draw, "a")
    assert np.array_equal(few == TEST, roles == TEST)
    assert (few == TRAIN).sum() == num_train
    assert (few == VAL).sum() == min(max(8, num_train // 3), (roles == VAL).sum())
    assert (roles[few == TRAIN] == TRAIN).all()
    assert (roles[few == VAL] == VAL).all()
    assert np.array_equal(few, few_shot_roles(roles, num_train, draw, "a"))
    if num_train > 16:
        fewer = few_shot_roles(roles, 16, draw, "a")
        assert (few[fewer == TRAIN] == TRAIN).all()
        assert (few[fewer == VAL] == VAL).all()


def test_few_shot_draws_differ_between_draws_and_sessions() -> None:
    roles = interleaved_roles(500)
    drawn = {tuple(few_shot_roles(roles, 16, draw, session)) for draw in range(3) for session in ("a", "b")}
    assert len(drawn) == 6


@given(subjects=st.lists(names, unique=True, max_size=30), extra=names, fraction=st.floats(0, 1))
def test_an_animal_is_held_out_whoever_the_others_are(subjects: list[str], extra: str, fraction: float) -> None:
    held = set(held_out_subjects(subjects, fraction))
    assert held <= set(subjects)
    for subject in subjects:
        assert (subject in held) == (held_out_subjects([subject], fraction) == [subject])
    assert set(held_out_subjects([*subjects, extra], fraction)) - {extra} == held - {extra}
    assert held_out_subjects(subjects[::-1] * 2, fraction) == sorted(held)


def test_held_out_share_and_salt() -> None:
    subjects = [f"mouse{i}" for i in range(4000)]
    held = held_out_subjects(subjects, 0.2)
    assert abs(len(held) / 4000 - 0.2) < 0.03
    assert set(held_out_subjects(subjects, 0.1)) < set(held)
    assert held_out_subjects(subjects, 0.2, salt="other") != held
    assert held_out_subjects(subjects, 0.0) == []
    assert held_out_subjects(subjects, 1.0) == sorted(subjects)
    with pytest.raises(ValueError, match="fraction"):
        held_out_subjects(subjects, 20)


def test_unusable_trials_have_no_role_and_move_no_other(tiny_recording: Tiny) -> None:
    recording = tiny_recording()
    roles = session_roles(recording)
    full = interleaved_roles(40)
    usable = recording.trials["usable"].to_numpy()
    assert roles[~usable].tolist() == [NO_ROLE]
    assert np.array_equal(roles[usable], full[usable])
    assert np.array_equal(session_roles(recording, "temporal")[usable], temporal_roles(40)[usable])
    with pytest.raises(ValueError, match="split is 'random'"):
        session_roles(recording, "random")  # type: ignore[arg-type]


@given(
    gaps=st.lists(st.tuples(st.floats(0, 30), st.floats(0.5, 200)), min_size=1, max_size=5),
)
def test_stretches_tile_the_domain(gaps: list[tuple[float, float]]) -> None:
    bounds = np.cumsum(np.array(gaps).ravel())
    domain = bounds.reshape(-1, 2)
    recording = make_without_trials(domain)
    pieces = stretches(recording)
    lengths = pieces[:, 1] - pieces[:, 0]
    assert np.isclose(lengths.sum(), (domain[:, 1] - domain[:, 0]).sum())
    assert (lengths > 0).all()
    assert lengths.max() <= 15.0 + 1e-6
    for start, stop in pieces:
        assert ((domain[:, 0] <= start) & (stop <= domain[:, 1])).any()
    assert len(session_roles(recording)) == len(pieces)


def make_without_trials(domain: np.ndarray) -> Recording:
    import pandas as pd

    from foundation.recording import RecordingInfo

    units = pd.DataFrame({"unit_id": ["a"], "region": [""]})
    info = RecordingInfo("a/b", "s", "test 1")
    return Recording(info, np.array([1.0]), np.zeros(1, np.int32), units, empty_trials(), domain)


def test_trials_are_the_stretches(tiny_recording: Tiny) -> None:
    recording = tiny_recording()
    assert np.array_equal(stretches(recording), recording.trials[["start_s", "stop_s"]].to_numpy())
