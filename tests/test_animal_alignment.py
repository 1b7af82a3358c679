"""Planted animals that share a space, and what of an unseen one may be used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eval.studies.animal_alignment import (
    COMPONENTS,
    OWN,
    UNALIGNED,
    Animal,
    Config,
    align,
    condition_means,
    decode_others,
    own_components,
    procrustes_to_common,
    trial_features,
)
from foundation.session_arrays import SessionArrays
from foundation.splits import TEST, TRAIN, VAL, interleaved_roles

CONFIG = Config(
    held_out=["c"],
    bin_size_s=0.05,
    receptive_field=3,
    output_dimension=4,
    steps=120,
    adapt_steps=150,
    sessions_per_step=2,
    batch_size=64,
    learning_rate=5e-3,
    seeds=[0],
)


def animal(subject: str, seed: int, num_trials: int = 125, num_units: int = 24) -> Animal:
    """Trials of 12 to 20 bins in which a latent ramps to one of two sides; every session reads it with other units."""
    rng = np.random.default_rng(seed)
    choice = rng.integers(0, 2, num_trials)
    length = rng.integers(12, 21, num_trials)
    trial = np.repeat(np.arange(num_trials), length)
    place = np.concatenate([np.arange(n) for n in length])
    latent = np.stack([(2 * choice[trial] - 1) * place / 16, np.cos(place / 5)], axis=1)
    rates = np.exp(latent @ rng.normal(0, 0.6, (2, num_units)) - 1)
    data = SessionArrays(
        f"toy/{subject}{seed}", subject, rng.poisson(rates).astype(np.float32), {"choice": choice[trial]}, trial, 0.05
    )
    return Animal(data, trial, choice, place * 0.05, interleaved_roles(num_trials))


SESSIONS = [animal("a", 0), animal("a", 1), animal("b", 2), animal("c", 3)]


def test_an_unseen_animal_is_read_by_the_others_decoder() -> None:
    summary = align(SESSIONS, CONFIG).tables[0].frame.set_index("method")
    score = summary.balanced_accuracy
    assert score["hybrid"] > 0.85
    assert score["behavior"] > 0.85
    # Of one animal the sides may come to lie right by chance, so nothing is asked of the arm with shuffled choices.
    assert score[OWN] > 0.85
    assert score[COMPONENTS] > score[UNALIGNED]
    assert summary.consistency["hybrid"] > 0.5 > summary.consistency_permuted["hybrid"]


def test_nothing_of_the_test_trials_and_no_label_of_them_is_used() -> None:
    """Other choices on the held-out rat's test trials change its score and nothing that is fitted."""
    config = replace(CONFIG, output_dimension=2)
    target = SESSIONS[-1]
    components = own_components(target, config)
    wrong = replace(target, choice=np.where(target.role == TEST, 1 - target.choice, target.choice))
    assert np.array_equal(condition_means(components, target), condition_means(components, wrong))
    sessions = [*SESSIONS[:-1], target]
    aligned = procrustes_to_common([own_components(s, config) for s in sessions], sessions, 3)
    features = [trial_features(e, s, config) for e, s in zip(aligned, sessions)]
    guess = decode_others(features, sessions, 3)[0]
    assert np.array_equal(guess, decode_others(features, [*SESSIONS[:-1], wrong], 3)[0])
    # Nor the held-out rat's own training labels by the decoder.
    train = replace(target, choice=np.where(target.role == TRAIN, 1 - target.choice, target.choice))
    assert np.array_equal(guess, decode_others(features, [*SESSIONS[:-1], train], 3)[0])


def test_trial_features_are_means_over_the_trial_and_its_end() -> None:
    session = SESSIONS[0]
    rows = np.random.default_rng(0).random((len(session.trial), 3))
    features = trial_features(rows, session, CONFIG)
    for k in (0, 7, 124):
        mine = rows[session.trial == k]
        np.testing.assert_allclose(features[k], np.concatenate([mine.mean(axis=0), mine[-4:].mean(axis=0)]))


def test_roles_are_those_of_the_protocol() -> None:
    assert {TRAIN, VAL, TEST} <= set(SESSIONS[0].role.tolist())
    at = SESSIONS[0].bins(TEST)
    assert set(SESSIONS[0].trial[at].tolist()) == set(np.flatnonzero(SESSIONS[0].role == TEST).tolist())
