"""The estimator on a planted rotation: what it recovers, that it repeats, forgets nothing and refuses what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from foundation.aligned_dynamics import AlignedDynamics, _prediction_error
from foundation.session_networks import Padded, Trials

SMALL = {
    "latent_dimension": 2,
    "hidden": (6,),
    "rank_points": 64,
    "max_iterations": 8,
    "refit_iterations": 3,
    "trials_per_session": 6,
    "horizon": 2,
}
PLANTED = 0.95 * np.exp(0.4j)


def planted(num_sessions: int = 2, num_trials: int = 10, num_bins: int = 20, seed: int = 0) -> tuple[list, list, list]:
    """Sessions of 9, 10... neurons that see one turning, decaying state; trials `(T, N)`, labels = states, states."""
    rng = np.random.default_rng(seed)
    turn = np.array([[PLANTED.real, -PLANTED.imag], [PLANTED.imag, PLANTED.real]])
    activity, states = [], []
    for s in range(num_sessions):
        z = np.zeros((num_trials, num_bins, 2))
        z[:, 0] = rng.normal(size=(num_trials, 2))
        for t in range(1, num_bins):
            z[:, t] = z[:, t - 1] @ turn.T + 0.3 * rng.normal(size=(num_trials, 2))
        x = z @ rng.normal(size=(2, 9 + s)) + 0.1 * rng.normal(size=(num_trials, num_bins, 9 + s))
        activity.append(list(x))
        states.append(list(z))
    return activity, states, states


@pytest.fixture(scope="module")
def fitted() -> tuple[AlignedDynamics, list, list]:
    x, y, _ = planted(num_sessions=3, num_trials=40)
    longer = {"hidden": (), "max_iterations": 200, "refit_iterations": 60, "learning_rate": 3e-2, "rank_points": 120}
    return AlignedDynamics(**{**SMALL, **longer, "rank_weight": 1.0, "behavior_weight": 0.1}).fit(x[:2], y[:2]), x, y


def cross_r2(model: AlignedDynamics, x: list, y: list, train: int, test: int) -> float:
    """R2 of states in one session by the least-squares map of another's latents."""
    design = {
        s: np.pad(np.concatenate(model.transform(x[s], session=s)), ((0, 0), (0, 1)), constant_values=1)
        for s in (train, test)
    }
    weights = np.linalg.lstsq(design[train], np.concatenate(y[train]), rcond=None)[0]
    target = np.concatenate(y[test])
    return 1 - ((target - design[test] @ weights) ** 2).sum() / ((target - target.mean(axis=0)) ** 2).sum()


def test_the_planted_rotation_is_found_and_sessions_are_aligned(fitted: tuple) -> None:
    model, x, y = fitted
    assert np.abs(model.eigenvalues_ - [PLANTED, PLANTED.conj()]).max() < 0.05
    assert cross_r2(model, x, y, 0, 1) > 0.9
    predicted = np.concatenate(model.predict(x[1], session=1))
    assert ((predicted - np.concatenate(y[1])) ** 2).mean() < 0.15 * np.concatenate(y[1]).var()


def test_a_new_session_is_aligned_without_touching_what_is_shared(fitted: tuple, tmp_path: Path) -> None:
    fit, x, y = fitted
    fit.save(tmp_path / "m.safetensors")
    model = AlignedDynamics.load(tmp_path / "m.safetensors")
    before = {k: v.clone() for k, v in model.dynamics_.state_dict().items()}
    kept = model.transform(x[0], session=0)
    assert model.adapt(x[2], y[2]) == 2
    assert all(torch.equal(v, before[k]) for k, v in model.dynamics_.state_dict().items())
    assert all(np.array_equal(a, b) for a, b in zip(kept, model.transform(x[0], session=0)))
    assert cross_r2(model, x, y, 0, 2) > 0.9


def options(**changes: Any) -> AlignedDynamics:
    return AlignedDynamics(**{**SMALL, **changes})


@pytest.mark.parametrize(
    "changes", [{}, {"behavior_first": 1.0}, {"behavior_weight": 0.5}, {"max_singular_value": 0.9}]
)
def test_same_seed_same_bits_whatever_the_global_seed(changes: dict) -> None:
    x, y, _ = planted()
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (must not matter)
        models.append(options(**changes).fit(x, y))
    assert np.array_equal(models[0].loss_, models[1].loss_)
    assert np.array_equal(models[0].eigenvalues_, models[1].eigenvalues_)
    assert all(np.array_equal(a, b) for a, b in zip(*(m.transform(x[1], session=1) for m in models)))
    other = options(**changes, random_state=1).fit(x, y)
    assert not np.array_equal(other.loss_, models[0].loss_)
    if "max_singular_value" in changes:
        assert np.linalg.svd(models[0].dynamics_.transition.detach())[1].max() <= 0.9 + 1e-6


def test_arrays_with_trial_numbers_are_lists_of_trials() -> None:
    x, y, _ = planted()
    x[0][3], y[0][3] = x[0][3][:7], y[0][3][:7]
    trial = [np.repeat(np.arange(len(s)), [len(t) for t in s]) for s in x]
    lists = options().fit(x, y)
    whole = [np.concatenate(s) for s in x]
    arrays = options().fit(whole, [np.concatenate(s) for s in y], trial=trial)
    assert np.array_equal(lists.loss_, arrays.loss_)
    found = arrays.transform(whole[0], session=0, trial=trial[0])
    assert found.shape == (len(whole[0]), 2)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.concatenate(lists.transform(x[0], session=0)))


def test_saved_is_loaded_the_same(tmp_path: Path) -> None:
    x, y, _ = planted()
    model = options(behavior_weight=0.1).fit(x, y)
    model.adapt(x[0], y[0])
    model.save(tmp_path / "a" / "m.safetensors")
    again = AlignedDynamics.load(tmp_path / "a" / "m.safetensors")
    assert again.get_params() == model.get_params()
    for stage in ("encoded", "filtered", "smoothed"):
        for s in range(3):
            a, b = (m.transform(x[s % 2], session=s, stage=stage) for m in (model, again))
            assert all(np.array_equal(p, q) for p, q in zip(a, b))
    assert all(np.array_equal(a, b) for a, b in zip(model.predict(x[0]), again.predict(x[0])))
    # And goes on the same.
    assert model.adapt(x[1], y[1]) == again.adapt(x[1], y[1]) == 3
    assert all(np.array_equal(a, b) for a, b in zip(*(m.transform(x[1], session=3) for m in (model, again))))
    unlabeled = options(rank_weight=0.0).fit(x)
    unlabeled.save(tmp_path / "u.safetensors")
    assert np.array_equal(AlignedDynamics.load(tmp_path / "u.safetensors").eigenvalues_, unlabeled.eigenvalues_)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="aligned_dynamics/1"):
        AlignedDynamics.load(tmp_path / "x.safetensors")


def test_missing_bins_are_bridged_and_their_place_in_a_trial_matters() -> None:
    x, y, _ = planted()
    holes = [[t.copy() for t in s] for s in x]
    for s in holes:
        for t in s:
            t[4:7] = np.nan
    model = options().fit(holes, y)
    assert np.isfinite(model.loss_).all()
    smoothed = model.transform(holes[0], session=0)
    assert all(np.isfinite(t).all() for t in smoothed)
    encoded = model.transform(holes[0], session=0, stage="encoded")
    assert all(np.isnan(t[4:7]).all() and np.isfinite(np.delete(t, [4, 5, 6], axis=0)).all() for t in encoded)


def test_filtered_looks_only_back_and_smoothed_does_not() -> None:
    x, y, _ = planted()
    model = options().fit(x, y)
    changed = [t.copy() for t in x[0]]
    changed[0][10] += 5
    for stage, reaches_back in (("filtered", False), ("smoothed", True)):
        a, b = (model.transform(v, session=0, stage=stage) for v in (x[0], changed))
        assert np.allclose(a[0][:10], b[0][:10]) is not reaches_back
        assert not np.allclose(a[0][10:], b[0][10:])
        assert np.array_equal(a[1], b[1])


def test_prediction_error_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    predicted, activity = rng.normal(size=(3, 4, 9, 5)), rng.normal(size=(4, 9, 5))
    mask = rng.random((4, 9)) < 0.6
    total = 0.0
    for k in (1, 2, 3):
        pairs = [(b, t) for b in range(4) for t in range(9 - k) if mask[b, t + k]]
        total += np.mean([np.mean((predicted[k - 1, b, t] - activity[b, t + k]) ** 2) for b, t in pairs])
    data = Padded(torch.from_numpy(activity), torch.from_numpy(mask), torch.zeros(4, 9, 0))
    assert _prediction_error(torch.from_numpy(predicted), data).item() == pytest.approx(total)


def test_while_behavior_comes_first_encoders_do_not_see_the_prediction() -> None:
    """Their gradient is that of the rank contrast alone."""
    x, y, _ = planted()
    few = [options(behavior_first=1.0, horizon=h, regularization=0.0).fit(x, y) for h in (1, 4)]
    assert all(np.array_equal(a, b) for a, b in zip(*(m.transform(x[0], stage="encoded") for m in few)))
    assert not np.array_equal(few[0].eigenvalues_, few[1].eigenvalues_)


def test_it_is_a_scikit_learn_estimator() -> None:
    model = options(rank_weight=0.3)
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        model.transform([np.zeros((3, 2))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0][0], y), "expected a list of sessions"),
        (lambda x, y: (x, y[:1]), "y: got list of length 1"),
        (lambda x, y: (x, None), "got no labels"),
        (lambda x, y: (x, [y[0], y[1][:-1]]), "session 1: 10 trials of activity"),
        (lambda x, y: (x, [y[0], [t[:, :1] for t in y[1]]]), "one width in all sessions"),
        (lambda x, y: (x, [y[0], [*y[1][:-1], y[1][0][:3]]]), "session 1: labels of shapes"),
        (lambda x, y: (x, [y[0], [*y[1][:-1], y[1][0] * np.nan]]), "session 1: 20 bins have NaN"),
        (lambda x, y: ([x[0], [*x[1][:-1], x[0][0]]], y), "session 1: trials of shapes"),
        (lambda x, y: ([x[0], [t * np.nan for t in x[1]]], y), "session 1: no bin is observed"),
        (lambda x, y: ([x[0], [np.where(np.eye(20, 10) > 0, np.nan, t) for t in x[1]]], y), "only some neurons"),
    ],
)
def test_wrong_data_is_refused(change: Any, message: str) -> None:
    x, y, _ = planted()
    with pytest.raises(ValueError, match=message):
        options().fit(*change(x, y))


@pytest.mark.parametrize(
    "changes",
    [
        {"horizon": 0},
        {"temperature": 0.0},
        {"rank_weight": -1.0},
        {"rank_points": 1},
        {"behavior_first": 1.5},
    ],
)
def test_wrong_options_are_refused(changes: dict) -> None:
    x, y, _ = planted()
    with pytest.raises(ValueError, match="got "):
        options(**changes).fit(x, y)


def test_wrong_questions_are_refused() -> None:
    x, y, _ = planted()
    model = options().fit(x, y)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        model.transform(x[0], session=2)
    with pytest.raises(ValueError, match="9 neurons, expected 10"):
        model.transform(x[0], session=1)
    with pytest.raises(ValueError, match="got stage 'raw'"):
        model.transform(x[0], stage="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no read-out"):
        model.predict(x[0])
    with pytest.raises(ValueError, match="labels are 1 wide, expected 2"):
        model.adapt(x[0], [t[:, :1] for t in y[0]])
    with pytest.raises(ValueError, match="drop `trial`"):
        Trials.of(x[0], None, [0], "here")
