"""The estimator as scikit-learn, a lab with many sessions, and an unlucky user would try it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from foundation.activity_windows import ActivityWindows
from foundation.estimator import ContrastiveEmbedding, Head
from foundation.tensor_file import read_tensors, write_tensors

SMALL: dict[str, Any] = {"max_iterations": 6, "batch_size": 32, "output_dimension": 3, "receptive_field": 4}


@parametrize_with_checks(
    [ContrastiveEmbedding(**SMALL | {"receptive_field": 1}), ContrastiveEmbedding(**SMALL)],
    expected_failed_checks=lambda estimator: (
        {}
        if estimator.receptive_field == 1
        else {
            "check_methods_sample_order_invariance": "an embedding depends on the bins before and after",
            "check_methods_subset_invariance": "likewise",
        }
    ),
)
def test_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def ring(seed: int, length: int = 1500, units: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson counts `(T, N)` of units tuned to a position on a ring; position as cosine and sine, and its quadrant."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(rng.normal(0.05, 0.1, length)) % (2 * np.pi)
    rate = 2 * np.exp(2 * (np.cos(angle[:, None] - rng.uniform(0, 2 * np.pi, units)) - 1))
    position = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return rng.poisson(rate).astype(np.float32), position, (angle // (np.pi / 2)).astype(np.int64)


MODES: dict[str, Any] = {
    "time": "time",
    "behavior": "behavior",
    "discrete": "discrete",
    "mixed": "mixed",
    "hybrid": "hybrid",
    "rank": "rank",
    "clip": "clip",
    "heads": [Head("behavior", labels=(0,), dimensions=(0, 2)), Head("discrete", dimensions=(2, 3)), Head("time")],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [1, 3])
def test_same_seed_same_embedding_bit_for_bit_and_through_a_file(mode: str, number: int, tmp_path: Path) -> None:
    sessions = [ring(s, length=80 + 10 * s, units=5 + s) for s in range(number)]
    counts, position, quadrant = ([session[k] for session in sessions] for k in range(3))
    labels = {"discrete": [quadrant], "behavior": [position], "rank": [position]}.get(mode, [position, quadrant])
    if number == 1:
        counts, labels = counts[0], [label[0] for label in labels]

    def fit(seed: int) -> ContrastiveEmbedding:
        return ContrastiveEmbedding(MODES[mode], **SMALL, learn_temperature=True, random_state=seed).fit(
            counts, *labels
        )

    first, again, other = fit(3), fit(3), fit(4)
    a, b, c, d = (
        np.concatenate(e if isinstance(e, list) else [e])
        for e in (
            first.transform(counts),
            again.transform(counts),
            other.transform(counts),
            ContrastiveEmbedding.load(first.save(tmp_path / "embedding.safetensors")).transform(counts),
        )
    )
    assert np.array_equal(a, b)
    assert np.array_equal(first.loss_, again.loss_)
    assert not np.array_equal(a, c)
    assert np.array_equal(a, d)
    assert np.isfinite(a).all()
    assert len(first.loss_) == 6


def test_global_generators_are_neither_used_nor_moved() -> None:
    counts, position, _ = ring(0, 100, 6)
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = ContrastiveEmbedding("behavior", **SMALL).fit_transform(counts, position)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    torch.manual_seed(99)
    assert np.array_equal(first, ContrastiveEmbedding("behavior", **SMALL).fit_transform(counts, position))


def test_activity_is_neither_copied_nor_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 sessions are used where they lie, those that cannot be written to without a warning."""
    X, y, _ = ring(0, 200)
    kept, held = X.copy(), []
    make = ActivityWindows.__init__

    def spy(self: ActivityWindows, activity: list[np.ndarray], *rest: Any) -> None:
        held.append([np.shares_memory(X, part) for part in activity])
        make(self, activity, *rest)

    monkeypatch.setattr(ActivityWindows, "__init__", spy)
    first = ContrastiveEmbedding("behavior", random_state=0, **SMALL).fit(X, y).transform(X)
    assert held[0] == [True]
    np.testing.assert_array_equal(X, kept)
    X.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = ContrastiveEmbedding("behavior", random_state=0, **SMALL).fit(X, y).transform(X)
    np.testing.assert_array_equal(first, again)


def test_training_in_parts_is_training_at_once() -> None:
    counts, position, _ = ring(0, 200, 8)
    parts = ContrastiveEmbedding("hybrid", **SMALL).partial_fit(counts, position).partial_fit(counts, position)
    whole = ContrastiveEmbedding("hybrid", **SMALL | {"max_iterations": 12}).fit(counts, position)
    assert parts.n_iter_ == whole.n_iter_ == 12
    assert np.array_equal(parts.transform(counts), whole.transform(counts))
    # A second fit starts anew.
    assert np.array_equal(whole.fit(counts, position).transform(counts), clone(whole).fit_transform(counts, position))


def decode(train: np.ndarray, train_label: np.ndarray, test: np.ndarray, test_label: np.ndarray) -> float:
    return float(KNeighborsRegressor(15).fit(train, train_label).score(test, test_label))


TRAINED: dict[str, Any] = {"max_iterations": 150, "batch_size": 128, "output_dimension": 3, "learning_rate": 3e-3}


def test_sessions_share_a_space_and_a_new_one_joins_it() -> None:
    """A decoder of one session's embedding reads another's; with labels of one session shifted it cannot."""
    (a, pa, _), (b, pb, _), (c, pc, _) = ring(0), ring(1, 1200, 25), ring(2, 1000, 40)
    train, test = slice(0, 800), slice(800, None)
    options = TRAINED | {"max_iterations": 250}
    model = ContrastiveEmbedding("behavior", **options).fit([a[train], b[train]], [pa[train], pb[train]])
    ea = model.transform(a, session=0)
    assert decode(ea[train], pa[train], model.transform(b, session=1)[test], pb[test]) > 0.6
    weights = {name: value.clone() for name, value in model.model_.state_dict().items()}
    model.adapt(c[train], pc[train])
    assert model.num_sessions_ == 3
    assert model.num_units_ == [30, 25, 40]
    assert all(torch.equal(model.model_.state_dict()[name], value) for name, value in weights.items())
    assert np.array_equal(model.transform(a, session=0), ea)
    assert decode(ea[train], pa[train], model.transform(c, session=2)[test], pc[test]) > 0.6
    shifted = clone(model).fit([a[train], b[train]], [pa[train], np.roll(pb[train], 400, axis=0)])
    ea, eb = shifted.transform(a, session=0), shifted.transform(b, session=1)
    assert decode(ea[train], pa[train], eb[test], pb[test]) < 0.2


def test_score_is_positive_where_there_is_structure_and_nothing_where_there_is_none() -> None:
    counts, position, _ = ring(5, 2000)
    train, test = slice(0, 1500), slice(1500, None)
    model = ContrastiveEmbedding("behavior", **TRAINED).fit(counts[train], position[train])
    assert model.score(counts[test], position[test]) > 0.5
    assert model.score(counts[test], position[test]) == model.score(counts[test], position[test])
    shuffled = np.random.default_rng(0).permutation(position)
    null = ContrastiveEmbedding("behavior", **TRAINED).fit(counts[train], shuffled[train])
    assert null.score(counts[test], shuffled[test]) < 0.05
    # Two sessions are judged against the references of both, one against its own: no log2 S bits for nothing.
    twice = ContrastiveEmbedding("behavior", **TRAINED).fit([counts[train]] * 2, [position[train]] * 2)
    alone = twice.score(counts[test], position[test], session=1)
    both = twice.score([counts[test]] * 2, [position[test]] * 2)
    assert abs(alone - both) < 0.1


def test_time_mode_needs_no_labels_and_ignores_them() -> None:
    counts, position, _ = ring(0, 300, 6)
    plain = ContrastiveEmbedding("time", **SMALL).fit_transform(counts)
    assert np.array_equal(plain, ContrastiveEmbedding("time", **SMALL).fit_transform(counts, position))


def test_pipeline_and_grid_search() -> None:
    counts, position, _ = ring(0, 400, 12)
    pipeline = make_pipeline(
        StandardScaler(), ContrastiveEmbedding("behavior", **TRAINED | {"max_iterations": 60}), KNeighborsRegressor(5)
    )
    # A unit vector of one number says only on which side of the ring an animal is.
    grid = {"contrastiveembedding__output_dimension": [1, 3]}
    search = GridSearchCV(pipeline, grid, cv=KFold(2)).fit(counts, position)
    assert search.best_params_ == {"contrastiveembedding__output_dimension": 3}
    by_bits = GridSearchCV(ContrastiveEmbedding("behavior", **SMALL), {"learning_rate": [1e-9, 1e-2]}, cv=KFold(2))
    assert by_bits.fit(counts, position).best_params_ == {"learning_rate": 1e-2}


def test_absent_sessions_are_untouched() -> None:
    sessions = [ring(s, 100, 5 + s) for s in range(4)]
    counts, position = [s[0] for s in sessions], [s[1] for s in sessions]
    options = SMALL | {"max_iterations": 0, "sessions_per_step": 1}
    model = ContrastiveEmbedding("behavior", **options).fit(counts, position)
    before = [w.detach().clone() for w in model.model_.encoder.read_ins]
    model.set_params(max_iterations=1).partial_fit(counts, position)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.model_.encoder.read_ins)]
    assert sum(changed) == 1


def test_references_of_the_own_session_are_those_of_each_session_alone() -> None:
    """With a read-in each and no shared trunk step yet, the loss is the mean of the sessions' own losses."""
    from foundation.activity_windows import ActivityWindows
    from foundation.contrastive_model import embed_rows
    from foundation.objectives.info_nce import info_nce

    sessions = [ring(s, 60, 5) for s in range(2)]
    options = SMALL | {"max_iterations": 0}
    counts = [s[0] for s in sessions]
    model = ContrastiveEmbedding("time", **options, negatives="session").fit(counts)
    data = model._read(counts, (), None, reset=False)
    heads = model._heads(data)
    windows = ActivityWindows(data.activity, data.trial, 4)
    seen: list[np.ndarray] = []

    def embed(rows: np.ndarray) -> torch.Tensor:
        seen.append(rows)
        return embed_rows(model.model_, windows, rows)

    both = np.arange(2)
    got = heads.losses(embed, model.model_, np.random.default_rng(0), both, both, both).item()
    anchors, positives, references = np.split(seen[0], 3)
    expected = []
    for s in range(2):
        mine = slice(32 * s, 32 * (s + 1))
        x, y, z = (torch.nn.functional.normalize(embed(rows[mine]), dim=1) for rows in (anchors, positives, references))
        expected.append(info_nce(x, y, z).mean().item())
    assert got == pytest.approx(np.mean(expected), abs=1e-5)


def test_trials_are_not_crossed() -> None:
    """Junk in the neighboring trial changes nothing in this one."""
    counts, position, _ = ring(0, 120, 6)
    trial = np.repeat([0, 1, 2], 40)
    model = ContrastiveEmbedding("hybrid", **SMALL).fit(counts, position, trial=trial)
    junk = counts.copy()
    junk[40:80] = 1e3
    embedded, with_junk = model.transform(counts, trial=trial), model.transform(junk, trial=trial)
    assert np.array_equal(embedded[:40], with_junk[:40])
    assert np.array_equal(embedded[80:], with_junk[80:])
    assert not np.array_equal(model.transform(counts)[:40], model.transform(junk)[:40])


def test_bins_without_labels_help_the_time_head() -> None:
    counts, position, quadrant = ring(0, 400, 8)
    partly = position.copy()
    partly[100:] = np.nan
    unknown = np.where(np.arange(400) < 100, quadrant, -1)
    with pytest.raises(ValueError, match=r"label 0 of session 0 is NaN at 300 of 400 bins.*allow_missing_labels=True"):
        ContrastiveEmbedding("behavior", **SMALL).fit(counts, partly)
    for labels in ([partly], [unknown], [partly, unknown]):
        model = ContrastiveEmbedding("hybrid", **SMALL, allow_missing_labels=True).fit(counts, *labels)
        assert np.isfinite(model.loss_).all()


COUNTS, POSITION, QUADRANT = ring(0, 60, 4)
BAD: list[tuple[str, dict[str, Any], Any, list[Any], dict[str, Any]]] = [
    ("mode 'behaviour', expected one of time", {"mode": "behaviour"}, COUNTS, [POSITION], {}),
    ("mode 'behavior' needs float labels, got none", {"mode": "behavior"}, COUNTS, [], {}),
    ("mode 'discrete' needs integer or string labels, got float", {"mode": "discrete"}, COUNTS, [POSITION], {}),
    ("mode 'mixed' needs float and integer labels, got classes", {"mode": "mixed"}, COUNTS, [QUADRANT], {}),
    (
        "label 0 of session 0 has shape \\(59, 2\\), expected \\(60,\\)",
        {"mode": "behavior"},
        COUNTS,
        [POSITION[1:]],
        {},
    ),
    ("label 0 of session 0 has infinite values", {"mode": "behavior"}, COUNTS, [POSITION + np.inf], {}),
    ("label 0: got a ndarray, expected a list", {"mode": "behavior"}, [COUNTS, COUNTS], [POSITION], {}),
    (
        "label 0: got 1 of them, expected a list with one array for each of 2",
        {"mode": "behavior"},
        [COUNTS, COUNTS],
        [[POSITION]],
        {},
    ),
    ("label 0 has \\[1, 2\\] columns", {"mode": "behavior"}, [COUNTS, COUNTS], [[POSITION, POSITION[:, :1]]], {}),
    ("trial of session 0 has shape \\(59,\\)", {}, COUNTS, [], {"trial": np.zeros(59, int)}),
    ("similarity is 'dot', expected one of cosine, euclidean", {"similarity": "dot"}, COUNTS, [], {}),
    ("query is 'near', expected one of", {"query": "near"}, COUNTS, [], {}),
    ("negatives is 'global', expected one of", {"negatives": "global"}, COUNTS, [], {}),
    ("batch_size is 0, expected an integer of at least 1", {"batch_size": 0}, COUNTS, [], {}),
    ("temperature is -1, expected a positive number", {"temperature": -1}, COUNTS, [], {}),
    ("unit_dropout is 1, expected a share of units", {"unit_dropout": 1}, COUNTS, [], {}),
    ("receptive_field is 2, expected 1, 3, 4", {"receptive_field": 2}, COUNTS, [], {}),
    ("asks for label 1, but 1 were given", {"mode": [Head("behavior", labels=(1,))]}, COUNTS, [POSITION], {}),
    ("has weight nan, expected a positive number", {"mode": [Head("time", weight=math.nan)]}, COUNTS, [], {}),
    ("acts on dimensions 0 to 9, expected some of 0 to 3", {"mode": [Head("time", dimensions=(0, 9))]}, COUNTS, [], {}),
    ("session 0 has no bin that mode 'time' can start from", {"time_offset": 60}, COUNTS, [], {}),
    ("not finite from step", {"temperature": 1e-300, "similarity": "euclidean"}, COUNTS * 1e15, [], {}),
    ("Input session 1 contains NaN", {}, [COUNTS, COUNTS * np.nan], [], {}),
]


@pytest.mark.parametrize(("message", "options", "X", "labels", "more"), BAD, ids=[case[0][:40] for case in BAD])
def test_bad_input_is_named(message: str, options: dict[str, Any], X: Any, labels: list[Any], more: Any) -> None:
    with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
        ContrastiveEmbedding(**SMALL | options).fit(X, *labels, **more)


def test_wrong_sessions_after_the_fit_are_named(tmp_path: Path) -> None:
    model = ContrastiveEmbedding("discrete", **SMALL).fit([COUNTS, COUNTS[:, :3]], [QUADRANT, QUADRANT])
    with pytest.raises(ValueError, match="X has 4 units, expected 3 as session 1"):
        model.transform(COUNTS, session=1)
    with pytest.raises(ValueError, match="session 2, expected 0 to 1"):
        model.transform(COUNTS, session=2)
    with pytest.raises(ValueError, match=r"classes \['9'\], expected those of the first fit"):
        model.adapt(COUNTS, np.full(60, 9))
    with pytest.raises(ValueError, match="got 0 label arrays, expected 1"):
        model.adapt(COUNTS)
    assert model.num_sessions_ == 2
    with pytest.raises(ValueError, match="use adapt for a new session"):
        model.partial_fit([COUNTS, COUNTS], [QUADRANT, QUADRANT])
    path = model.save(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="no readable file"):
        ContrastiveEmbedding.load(path)
    with pytest.raises(ValueError, match="no readable file"):
        ContrastiveEmbedding.load(tmp_path / "absent")


def test_an_interrupted_adaptation_leaves_no_session_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ContrastiveEmbedding("behavior", **SMALL).fit(COUNTS, POSITION)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("foundation.estimator.train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.adapt(COUNTS, POSITION)
    assert model.num_sessions_ == 1
    assert len(model.model_.encoder.read_ins) == 1
    assert all(p.requires_grad for p in model.model_.encoder.parameters())
    assert model.adapt(COUNTS, POSITION, max_iterations=2).num_sessions_ == 2


def test_a_fit_that_fails_is_no_fit() -> None:
    model = ContrastiveEmbedding("behavior", **SMALL).fit(COUNTS, POSITION)
    model.set_params(learning_rate=1e30, max_iterations=20)
    with pytest.raises(ValueError, match="the loss is not finite from step"):
        model.fit(COUNTS, POSITION)
    with pytest.raises(NotFittedError):
        model.transform(COUNTS)


def test_silenced_units_are_silent_in_the_whole_window_and_the_others_louder() -> None:
    from foundation.activity_windows import ActivityWindows
    from foundation.contrastive_model import embed_rows

    counts = [ring(0, 40, 6)[0], ring(1, 50, 9)[0]]
    trials = [np.zeros(len(c), np.int64) for c in counts]
    model = ContrastiveEmbedding("time", **SMALL).fit(counts, trial=trials)
    windows = ActivityWindows(counts, trials, SMALL["receptive_field"])
    rows = np.array([55, 3, 80, 20])
    with torch.no_grad():
        found = embed_rows(model.model_, windows, rows, unit_dropout=0.25, rng=np.random.default_rng(5))
        rng = np.random.default_rng(5)
        for session, places in ((0, [1, 3]), (1, [0, 2])):
            bins = rows[places] - windows.first[session]
            kept = rng.random((2, counts[session].shape[1]), dtype=np.float32) >= 0.25
            assert 0 < kept.sum() < kept.size
            for place, bin_, keep in zip(places, bins, kept):
                window = windows.window(session, np.array([bin_])).clone()
                window[:, 0, ~keep] = 0
                expected = model.model_.encoder(window / 0.75, session)[0, 0]
                torch.testing.assert_close(found[place], expected, atol=1e-5, rtol=1e-5)


def test_silenced_units_keep_labels_from_being_learned_by_heart() -> None:
    counts, position, _ = ring(0, 800, 40)
    noise = np.random.default_rng(0).permutation(position)
    settings = SMALL | {"max_iterations": 150, "learning_rate": 1e-2, "batch_size": 128}

    def learned(dropout: float) -> tuple[ContrastiveEmbedding, float]:
        model = ContrastiveEmbedding("behavior", unit_dropout=dropout, query="nearest", **settings).fit(counts, noise)
        return model, model.score(counts, noise)

    plain, by_heart = learned(0.0)
    dropped, less = learned(0.5)
    assert by_heart > 0.05
    assert less < by_heart / 2
    again, _ = learned(0.5)
    assert (dropped.transform(counts) == again.transform(counts)).all()
    assert not (dropped.transform(counts) == plain.transform(counts)).all()


def test_labels_of_new_data_are_measured_as_those_of_the_fit() -> None:
    """An affine change of the labels that the fit saw changes nothing; one of new labels alone does."""
    counts, position, quadrant = ring(0, 300, 12)
    half = slice(0, 60)
    data = ContrastiveEmbedding("clip", **SMALL).fit(counts, position, quadrant)
    read = data._read(counts[half], (position[half], quadrant[half]), None, reset=False)
    targets = data._heads(read)._targets[0].numpy()
    indicators = np.eye(4)[quadrant]
    expected = np.concatenate([position, indicators], axis=1)
    np.testing.assert_allclose(targets, ((expected - expected.mean(0)) / expected.std(0))[half], rtol=1e-5, atol=1e-6)


def test_score_is_nothing_at_collapse_whatever_the_ties() -> None:
    counts, position, quadrant = ring(0, 300, 8)
    heads = [Head("rank", labels=(1,)), Head("clip", labels=(0,)), Head("behavior", labels=(0,)), Head("time")]
    for similarity in ("cosine", "euclidean"):
        model = ContrastiveEmbedding(heads, **SMALL, similarity=similarity).fit(counts, position, quadrant * 1.0)
        with torch.no_grad():
            for weight in [*model.model_.encoder.trunk.parameters(), *model.model_.label_encoders.parameters()]:
                weight.zero_()
            if similarity == "cosine":
                model.model_.encoder.trunk_biases[-1].fill_(1.0)
            else:
                model.model_.encoder.trunk_biases[-1].zero_()
        assert model.score(counts, position, quadrant * 1.0, num_batches=5) == pytest.approx(0, abs=1e-5)


def test_rank_adaptation_lands_among_the_kept_embeddings() -> None:
    (a, pa, _), (b, pb, _) = ring(0), ring(2, 1000, 40)
    train, test = slice(0, 700), slice(700, None)
    model = ContrastiveEmbedding("rank", **TRAINED | {"max_iterations": 80, "batch_size": 96}).fit(a, pa)
    model.adapt(b[train], pb[train], max_iterations=80)
    assert decode(model.transform(a), pa, model.transform(b, session=1)[test], pb[test]) > 0.6


def test_rank_and_clip_need_no_bins_in_a_row() -> None:
    for mode in ("rank", "clip"):
        model = ContrastiveEmbedding(mode, **SMALL).fit(COUNTS, POSITION, trial=np.arange(60))
        assert np.isfinite(model.loss_).all()


def test_balanced_draws_keep_unknown_bins_and_combinations_of_classes_apart() -> None:
    rng = np.random.default_rng(0)
    side, kind = rng.choice(2, 400, p=[0.9, 0.1]), rng.choice(2, 400, p=[0.2, 0.8])
    side[:200] = -1
    options = SMALL | {"batch_size": 6000, "max_iterations": 0, "balance_classes": True, "allow_missing_labels": True}
    counts = np.ones((400, 2))

    def drawn(mode: Any, *labels: np.ndarray) -> np.ndarray:
        model = ContrastiveEmbedding(mode, **options).fit(counts, *labels)
        heads = model._heads(model._read(counts, labels, None, reset=False))
        return heads._draw(heads._all, np.random.default_rng(0))

    shares = np.bincount(side[drawn("hybrid", side)] + 1) / 6000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    known = np.abs(side)
    rows = drawn([Head("discrete", labels=(0,)), Head("discrete", labels=(1,))], known, kind)
    np.testing.assert_allclose(np.bincount(known[rows] * 2 + kind[rows]) / 6000, 1 / 4, atol=0.03)


def test_a_learned_temperature_at_its_floor_may_rise_again() -> None:
    model = ContrastiveEmbedding("time", **SMALL, learn_temperature=True).fit(COUNTS).model_
    with torch.no_grad():
        model.log_scale.fill_(3.0)
    assert float(model.scale.detach()) == pytest.approx(10)
    model.bound_temperature()
    model.zero_grad()
    model.scale.backward()
    assert model.log_scale.grad is not None
    assert model.log_scale.grad.item() == pytest.approx(10)
    with pytest.raises(ValueError, match=r"temperature is 0.05, expected at least min_temperature"):
        ContrastiveEmbedding("time", **SMALL, learn_temperature=True, temperature=0.05).fit(COUNTS)


def test_the_temperature_is_told_and_moves_only_where_it_is_learned() -> None:
    options = SMALL | {"max_iterations": 30, "learning_rate": 1e-2, "temperature": 0.5}
    fixed = ContrastiveEmbedding("behavior", **options).fit(COUNTS, POSITION)
    learned = ContrastiveEmbedding("behavior", **options, learn_temperature=True).fit(COUNTS, POSITION)
    assert fixed.temperature_ == pytest.approx(0.5)
    assert 0.1 <= learned.temperature_ != pytest.approx(0.5, abs=1e-3)


def test_labels_and_options_as_other_libraries_hold_them(tmp_path: Path) -> None:
    words = np.array(["left", "right"])[QUADRANT % 2]
    expected = ContrastiveEmbedding("discrete", **SMALL).fit(COUNTS, words)
    for labels in (pd.Series(words, dtype=object), pd.Series(words).astype("category"), words.astype("S"), list(words)):
        model = ContrastiveEmbedding("discrete", **SMALL).fit(COUNTS, labels)
        assert np.array_equal(model.loss_, expected.loss_)
        assert ContrastiveEmbedding.load(model.save(tmp_path / "m")).label_kinds_ == expected.label_kinds_
    options = SMALL | {"output_dimension": np.int64(3), "learning_rate": np.float32(0.01)}
    model = ContrastiveEmbedding(Head("time", weight=2), **options).fit(COUNTS)
    again = ContrastiveEmbedding.load(model.save(tmp_path / "m"), device="cpu")
    assert np.array_equal(again.transform(COUNTS), model.transform(COUNTS))


def test_nothing_is_left_of_an_earlier_fit() -> None:
    model = ContrastiveEmbedding("time", **SMALL).fit(COUNTS)
    assert model.fit([COUNTS[:, :3]]).transform(COUNTS[:, :3]).shape == (60, 3)
    still = [w.detach().clone() for w in model.model_.parameters()]
    model.set_params(learning_rate=1e-30).partial_fit([COUNTS[:, :3]])
    assert all(torch.equal(a, b) for a, b in zip(still, model.model_.parameters()))
    with pytest.raises(ValueError, match="trial: got 0 of them, expected a list with one array for each session"):
        model.transform([COUNTS[:, :3]], trial=[])


TAMPERED: list[tuple[str, Any]] = [
    ("output_dimension", 10**9),
    ("num_hidden_units", 10**9),
    ("receptive_field", 10**9),
    ("num_units", [10**12]),
    ("num_units", [4, 4]),
    ("num_units", "a"),
    ("mode", [{"mode": "clip", "dimensions": []}]),
    ("mode", {"__class__": "os.system"}),
    ("kinds", [{"columns": 10**12, "classes": [], "center": [], "spread": []}]),
    ("kinds", [{"columns": 3, "classes": [], "center": [0.0] * 3, "spread": [1.0] * 3}]),
    ("steps", float("inf")),
    ("options", None),
]


@pytest.mark.parametrize(("name", "value"), TAMPERED, ids=[f"{name}-{str(v)[:20]}" for name, v in TAMPERED])
def test_a_tampered_header_is_refused_without_memory(name: str, value: Any, tmp_path: Path) -> None:
    path = ContrastiveEmbedding("clip", **SMALL | {"max_iterations": 1}).fit(COUNTS, POSITION).save(tmp_path / "m")
    about, tensors = read_tensors(path, "foundation.estimator/1")
    (about if name in about else about["options"])[name] = value
    write_tensors(path, "foundation.estimator/1", about, tensors)
    with pytest.raises(ValueError, match=r"does not hold what ContrastiveEmbedding\.save writes"):
        ContrastiveEmbedding.load(path)


def _fit_both(folder: Path) -> None:
    """Two models, of four heads on two sessions."""
    heads = [Head("behavior"), Head("time"), Head("rank"), Head("clip")]
    rng = np.random.default_rng(0)
    labels = [np.cumsum(rng.normal(0, 0.1, (100, 2)), axis=0) for _ in range(2)]
    counts = [rng.poisson(np.exp(y @ rng.normal(size=(2, n)))).astype(np.float32) for n, y in zip((5, 6), labels)]
    options = SMALL | {"max_iterations": 12, "learning_rate": 1e-2, "learn_temperature": True}
    for negatives in ("all", "session"):
        ContrastiveEmbedding(heads, **options, negatives=negatives).fit(counts, labels).save(folder / negatives)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, forked: Callable[..., None]) -> None:
    (tmp_path / "one").mkdir()
    _fit_both(tmp_path / "one")
    forked(_fit_both, tmp_path / "two")
    for negatives in ("all", "session"):
        one, two = (ContrastiveEmbedding.load(tmp_path / name / negatives) for name in ("one", "two"))
        np.testing.assert_allclose(two.loss_, one.loss_, atol=1e-4)
        for a, b in zip(one.model_.state_dict().values(), two.model_.state_dict().values()):
            torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
