"""The region probe: planted regions are found, absent ones are not, nothing of the tested animal is fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from eval import probes
from eval.probe_fits import fit_forest, fit_logistic, fit_mlp
from eval.probe_table import ProbeTable, derive_groups, group_folds, probe_table
from eval.probes import (
    Found,
    pooling,
    predict_folds,
    predict_known_animals,
    probe_regions,
    score_folds,
    transductive_folds,
)
from eval.region_scores import RegionPrediction, macro_f1_of_draws, score_regions
from eval.session_identity import session_identity

SESSIONS = {f"set/{animal}_{k}": animal for animal in "ABCD" for k in range(2)}


def planted(effect: float = 2.0, session_shift: float = 0.0, num: int = 40, seed: int = 0):
    """Two groups of animals: A, B with regions p, q; C, D with x, y, z. Stored in depth order; one unit unlabeled."""
    rng = np.random.default_rng(seed)
    place = {name: effect * rng.normal(size=6) for name in "pqxyz"}
    vectors, units, rates = {}, {}, {}
    for key, animal in SESSIONS.items():
        names = list("pq" if animal in "AB" else "xyz")
        region = np.sort(rng.choice(names, num))
        region[-1] = ""
        shift = session_shift * rng.normal(size=6)
        vectors[key] = np.stack([place.get(r, np.zeros(6)) for r in region]) + rng.normal(size=(num, 6)) + shift
        units[key] = pd.DataFrame({"unit_id": [f"{key}/{i}" for i in range(num)], "region": region})
        rates[key] = rng.gamma(2.0, 2.0, num)
    return vectors, units, rates


@pytest.fixture(scope="module", autouse=True)
def _one_quick_probe():
    """The forest has tests of its own; growing it for every control takes most of a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "PROBES", {"logistic": fit_logistic})
        yield


@pytest.fixture(scope="module")
def result(_one_quick_probe):
    vectors, units, rates = planted()
    return probe_regions(vectors, units, SESSIONS, rates=rates, train_subjects=["A", "C"])


def scores_of(result, name, protocol="group"):
    rows = result.scores[(result.scores["input"] == name) & (result.scores["protocol"] == protocol)]
    assert len(rows)
    return rows


def test_planted_regions_are_recovered_in_every_animal(result):
    rows = scores_of(result, "features")
    assert set(rows["subject"]) == set("ABCD")
    assert (rows["macro_f1"] > 0.85).all()
    assert (rows["p"] < 0.01).all()
    assert ((rows["low"] <= rows["macro_f1"]) & (rows["macro_f1"] <= rows["high"])).all()


def test_controls_without_information_are_at_chance_and_stored_order_is_not(result):
    for name in ("rate only", "array index"):
        rows = scores_of(result, name)
        assert abs(rows["balanced_accuracy"].mean() - rows["chance"].mean()) < 0.08, name
    assert scores_of(result, "stored index")["balanced_accuracy"].mean() > 0.85


def test_pooled_tests_only_the_animals_that_were_not_trained_on(result):
    # B's regions are known from A and D's from C; all five are on offer.
    rows = scores_of(result, "features", "pooled")
    assert set(rows["subject"]) == {"B", "D", "all"}
    assert rows["held_out"].all()
    assert set(rows["group"]) == {"p/q/x/y/z"}
    assert len(result.summary(held_out_only=True)) < len(result.scores)


def test_without_planted_regions_the_score_is_at_chance():
    vectors, units, rates = planted(effect=0.0, seed=3)
    rows = scores_of(probe_regions(vectors, units, SESSIONS, rates=rates, thorough=False), "features")
    assert abs(rows["balanced_accuracy"].mean() - rows["chance"].mean()) < 0.08


def test_same_seed_same_numbers(result):
    vectors, units, rates = planted()
    again = probe_regions(vectors, units, SESSIONS, rates=rates, train_subjects=["A", "C"])
    pd.testing.assert_frame_equal(again.scores, result.scores)
    pd.testing.assert_frame_equal(again.session_identity, result.session_identity)


@pytest.mark.parametrize("fit", [fit_logistic, fit_forest, fit_mlp])
def test_a_units_prediction_does_not_depend_on_other_units_of_the_tested_animal(fit):
    vectors, units, _ = planted()
    table = probe_table(vectors, units, SESSIONS)
    folds = [fold for fold in group_folds(table, [["A", "B"]]) if fold.test == ("B",)]
    tested = np.flatnonzero(table.subject == "B")
    changed = table.features.copy()
    changed[tested[1:]] = 1e3
    before = predict_folds(table, folds, fit, 0)
    after = predict_folds(replace(table, features=changed), folds, fit, 0)
    np.testing.assert_array_equal(before.prob[0], after.prob[0])
    assert not np.array_equal(before.prob[1:], after.prob[1:])


def test_labels_of_the_tested_animal_do_not_reach_the_fit():
    vectors, units, _ = planted()
    table = probe_table(vectors, units, SESSIONS)
    (fold,) = [fold for fold in group_folds(table, [["A", "B"]]) if fold.test == ("B",)]
    swapped = table.region.copy()
    swapped[table.subject == "B"] = np.where(table.region[table.subject == "B"] == "p", "q", "p")
    one = predict_folds(table, [fold], fit_logistic, 0)
    two = predict_folds(replace(table, region=swapped), [fold], fit_logistic, 0)
    np.testing.assert_array_equal(one.prob, two.prob)


def test_table_is_permuted_and_keeps_the_source_position():
    vectors, units, _ = planted()
    key = "set/A_0"
    units[key]["source_index"] = np.arange(len(units[key]))[::-1]
    table = probe_table(vectors, units, SESSIONS)
    rows = table.where(table.session == key)
    assert (np.diff(rows.unit) < 0).any()
    assert (np.diff(rows.unit) > 0).any()
    np.testing.assert_array_equal(rows.features, vectors[key][len(units[key]) - 1 - rows.unit])
    assert "" not in table.region


def test_scores_equal_scikit_learn_and_the_fast_null_too():
    rng = np.random.default_rng(0)
    truth, answer = rng.integers(3, size=(20, 30)), rng.integers(4, size=(20, 30))
    fast = macro_f1_of_draws(truth, answer, np.arange(3), 4)
    slow = [f1_score(t, a, labels=np.arange(3), average="macro") for t, a in zip(truth, answer)]
    np.testing.assert_allclose(fast, slow, rtol=1e-12)
    classes = ("a", "b", "c")
    region, prob = np.array(classes)[truth[0]], rng.random((30, 3))
    session, unit = np.repeat(["set/s", "set/t"], 15), np.arange(30)
    row, counts = score_regions(
        RegionPrediction(np.array(classes), session, unit, prob), region, session, unit, classes
    )
    said = np.array(classes)[prob.argmax(axis=1)]
    assert row["macro_f1"] == pytest.approx(f1_score(region, said, average="macro"))
    assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(region, said))
    assert counts.to_numpy().sum() == 30


def test_the_null_permutes_inside_sessions():
    # One region per session: nothing can be permuted, so a perfect score is no evidence at all.
    region, session = np.repeat(["a", "b"], 10), np.repeat(["set/s", "set/t"], 10)
    prob = np.eye(2)[(region == "b").astype(int)]
    prediction = RegionPrediction(np.array(["a", "b"]), session, np.arange(20), prob)
    row, _ = score_regions(prediction, region, session, np.arange(20), ("a", "b"))
    assert (row["macro_f1"], row["null_95"], row["p"]) == (1, 1, 1)


def test_a_fold_of_two_protocols_is_fitted_once():
    vectors, units, _ = planted()
    table = probe_table(vectors, units, SESSIONS)
    folds = group_folds(table, [["A", "B"]])
    fitted = []

    def counting(train, seed):
        fitted.append(set(train.subject))
        return fit_logistic(train, seed)

    known = {}
    first = predict_folds(table, folds, counting, 0, known)
    again = predict_folds(table, [replace(fold, protocol="pooled") for fold in folds], counting, 0, known)
    other = predict_folds(table, [replace(fold, train=("A", "B")) for fold in folds[:1]], counting, 0, known)
    assert fitted == [{"B"}, {"A"}, {"A", "B"}]
    np.testing.assert_array_equal(first.prob, again.prob)
    assert not np.array_equal(other.prob, first.prob[: len(other.prob)])


def test_a_missing_unit_is_an_error_and_further_rows_are_ignored():
    vectors, units, _ = planted()
    table = probe_table(vectors, units, SESSIONS)
    folds = group_folds(table, [["A", "B"]])
    whole = predict_folds(table, folds, fit_logistic, 0)
    extra = RegionPrediction(
        whole.classes,
        np.append(whole.session_of_unit, "other"),
        np.append(whole.unit, 0),
        np.vstack([whole.prob, [[np.nan, 1]]]),
    )
    assert score_folds(extra, table, folds)[0][0] == score_folds(whole, table, folds)[0][0]
    cut = RegionPrediction(whole.classes, whole.session_of_unit[1:], whole.unit[1:], whole.prob[1:])
    with pytest.raises(ValueError, match="1 scored units have no prediction"):
        score_folds(cut, table, folds)


def test_groups_follow_the_regions_that_animals_share():
    # The animals of luo2025: FOF/dStr/vStr shares only half of the regions with dStr/vStr/M1.
    regions = {"T": "mPFC dmFC", "U": "mPFC dmFC", "V": "dStr vStr M1", "W": "dStr vStr M1", "X": "FOF dStr vStr"}
    regions["Y"] = regions["X"]
    units = {f"set/{k}": pd.DataFrame({"region": r.split() * 3}) for k, r in regions.items()}
    vectors = {key: np.zeros((len(table), 1)) for key, table in units.items()}
    table = probe_table(vectors, units, {f"set/{k}": k for k in regions})
    assert derive_groups(table) == [["T", "U"], ["V", "W"], ["X", "Y"]]


def test_session_identity_meter_sees_a_shift_of_whole_sessions():
    for shift, low, high in ((0.0, 0.4, 0.62), (3.0, 0.9, 1.0)):
        vectors, units, _ = planted(session_shift=shift)
        meter = session_identity(probe_table(vectors, units, SESSIONS))
        assert list(meter["pairs"]) == ["same animal", "other animal"]
        assert meter["balanced_accuracy"].between(low, high).all(), (shift, meter)


def test_the_leak_meter_is_read_of_every_input_but_the_indices(result):
    assert set(result.session_identity["input"]) == {"features", "rate only"}
    alone = result.session_identity[result.session_identity["input"] == "features"].drop(columns="input")
    vectors, units, _ = planted()
    pd.testing.assert_frame_equal(alone, session_identity(probe_table(vectors, units, SESSIONS)))


def test_the_network_finds_what_no_line_separates():
    """Exclusive or of two features; and, with ten times the units of one class, it calls both as often."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    x = x[np.abs(x).min(axis=1) > 0.2]
    region = np.where((x > 0).sum(axis=1) == 1, "p", "q")
    keep = (region == "p") | (rng.random(len(x)) < 0.1)
    x, region = x[keep], region[keep]
    half = np.arange(len(x)) % 2 == 0
    names = np.full(half.sum(), "A"), np.full(half.sum(), "set/A_0")
    train = ProbeTable(x[half], region[half], *names, np.arange(half.sum()))
    recall = {}
    for fit in (fit_logistic, fit_mlp):
        probe = fit(train, 0)
        recall[fit] = balanced_accuracy_score(region[~half], probe.predict(x[~half]))
        np.testing.assert_array_equal(probe.predict_proba(x[~half]), fit(train, 0).predict_proba(x[~half]))
    assert recall[fit_logistic] < 0.65
    assert recall[fit_mlp] > 0.85


def test_known_animals_are_another_question():
    """Each animal writes its regions along an axis of its own: legible only to a probe that knows the animal."""
    rng = np.random.default_rng(0)
    vectors, units = {}, {}
    for key, animal in SESSIONS.items():
        region = rng.choice(["p", "q"], 40)
        vectors[key] = rng.normal(size=(40, 6))
        vectors[key][:, "ABCD".index(animal)] += np.where(region == "p", 2.0, -2.0)
        units[key] = pd.DataFrame({"region": region})
    table = probe_table(vectors, units, SESSIONS)
    folds = transductive_folds(table)
    assert [fold.test for fold in folds] == [("A",), ("B",), ("C",), ("D",)]
    known = score_folds(predict_known_animals(table, folds[0].classes, fit_logistic), table, folds)
    assert min(row["balanced_accuracy"] for row, _ in known) > 0.75
    folds = group_folds(table, [["A", "B", "C", "D"]])
    never_seen = score_folds(predict_folds(table, folds, fit_logistic), table, folds)
    assert np.mean([row["balanced_accuracy"] for row, _ in never_seen]) < 0.62


def test_known_animals_are_predicted_unit_by_unit_from_others():
    """A fit never holds the units it answers for, every unit is answered once, and noise says nothing."""
    vectors, units, _ = planted(effect=0.0)
    table = probe_table(vectors, units, SESSIONS)
    inside = table.where(np.isin(table.region, ("p", "q")))
    asked = []

    class Probe:
        classes_ = np.array(["p", "q"])

        def __init__(self, train):
            self.train = {tuple(row) for row in train.features}

        def predict_proba(self, features):
            assert not self.train & {tuple(row) for row in features}
            assert len(self.train) + len(features) == len(inside.unit)
            asked.extend(tuple(row) for row in features)
            return np.tile([0.25, 0.75], (len(features), 1))

    found = predict_known_animals(table, ("p", "q"), lambda train, seed: Probe(train), 0)
    assert sorted(asked) == sorted(tuple(row) for row in inside.features)
    assert found.prob.tolist() == [[0.25, 0.75]] * len(inside.unit)
    np.testing.assert_array_equal(found.unit, inside.unit)
    real = predict_known_animals(table, ("p", "q"), fit_logistic, 0)
    assert abs(np.mean((real.prob[:, 1] > 0.5) == (inside.region == "q")) - 0.5) < 0.1


def test_neighbors_on_the_probe_are_averaged():
    """Against a loop; on another probe, farther than 60 um, or at an unknown depth nobody is a neighbor."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(0, 300, 20)
    depth[4] = np.nan
    probe = np.where(np.arange(20) % 4 == 0, "x", "y")
    prob = rng.random((20, 3))
    prediction = RegionPrediction(np.array(list("abc")), np.full(20, "s"), np.arange(20)[::-1], prob)
    places = {("s", int(unit)): (depth[i], probe[i]) for i, unit in enumerate(prediction.unit)}
    found = pooling(prediction, places) @ prediction.prob
    for i in range(20):
        near = sorted((abs(depth[j] - depth[i]), j) for j in range(20) if probe[j] == probe[i] and j != 4)
        rows = [j for distance, j in near if distance <= 60][:5] if i != 4 else [4]
        np.testing.assert_allclose(found[i], prob[rows].mean(axis=0))


def test_regions_in_bands_of_depth_are_read_better_with_neighbors(monkeypatch):
    monkeypatch.setattr(probes, "session_identity", lambda table, seed: pd.DataFrame())
    everything = planted(effect=0.4, num=60)
    vectors, units, rates = ({key: value for key, value in of.items() if key[4] in "AB"} for of in everything)
    for key, table in units.items():
        table["unit_id"] = [f"{key}/probe0/{i}" for i in range(60)]
        table["depth_um"] = 20.0 * np.arange(60)
    scores = probe_regions(vectors, units, SESSIONS, rates=rates, groups=[["A", "B"]]).scores
    mean = scores[scores["input"] == "features"].groupby(["protocol", "reading"])["macro_f1"].mean()
    assert mean["group", "multi"] > mean["group", "single"] + 0.05
    depth = scores[(scores["input"] == "depth only") & (scores["reading"] == "single")]
    assert (depth["macro_f1"] > 0.85).all()
    noise = scores[(scores["input"] == "rate only") & (scores["protocol"] == "group")]
    assert abs(noise["balanced_accuracy"].mean() - 0.5) < 0.15


def test_a_known_animals_neighbors_are_not_asked(monkeypatch):
    """They were predicted by fits that knew the unit's label, and would give it back."""
    monkeypatch.setattr(probes, "session_identity", lambda table, seed: pd.DataFrame())
    vectors, units, rates = planted(num=30)
    for key, table in units.items():
        table["unit_id"] = [f"{key}/probe0/{i}" for i in range(30)]
        table["depth_um"] = np.where(np.arange(30) == 3, np.nan, 20.0 * np.arange(30))
    scores = probe_regions(vectors, units, SESSIONS, rates=rates).scores
    assert set(scores[scores["protocol"] == "transductive"]["reading"]) == {"single"}
    assert set(scores[scores["protocol"] == "group"]["reading"]) == {"single", "multi"}
    assert "depth only" in set(scores["input"])


def test_the_null_of_neighbors_is_as_wide_as_what_they_share():
    """Probabilities of pure noise, two regions in bands: above the 95th percentile in about one of 20 draws."""
    region = np.repeat(["p", "q"], 30)
    session, unit = np.full(60, "s"), np.arange(60)
    places = {("s", i): (20.0 * i, "probe") for i in range(60)}
    above = []
    for seed in range(80):
        prob = np.random.default_rng(seed).random((60, 2))
        prediction = RegionPrediction(np.array(["p", "q"]), session, unit, prob)
        row, _ = score_regions(prediction, region, session, unit, ("p", "q"), 0, pooling(prediction, places))
        above.append(row["macro_f1"] > row["null_95"])
        assert row["num_units"] == 60
    assert np.mean(above) < 0.11


def test_inputs_that_were_seen_are_not_fitted_again(monkeypatch: pytest.MonkeyPatch):
    """As the baselines of several seeds; what they answer is the same as by a fit."""
    vectors, units, rates = planted()
    others = {"statistics": {key: value[:, :2] for key, value in vectors.items()}}
    moved = {key: value + 1 for key, value in vectors.items()}
    seen: dict[str, Found] = {}
    options = {"rates": rates, "baselines": others, "seen": seen}
    first = probe_regions(vectors, units, SESSIONS, **options)
    fresh = probe_regions(moved, units, SESSIONS, rates=rates, baselines=others)
    fitted: list[int] = []

    def counting(train: ProbeTable, seed: int):
        fitted.append(train.features.shape[1])
        return fit_logistic(train, seed)

    monkeypatch.setattr(probes, "PROBES", {"logistic": counting})
    again = probe_regions(vectors, units, SESSIONS, **options)
    assert not fitted
    pd.testing.assert_frame_equal(again.scores, first.scores)
    pd.testing.assert_frame_equal(again.session_identity, first.session_identity)
    other = probe_regions(moved, units, SESSIONS, **options)
    pd.testing.assert_frame_equal(other.scores, fresh.scores)
    assert set(fitted) == {vectors["set/A_0"].shape[1]}
    count = len(seen)
    units["set/A_0"]["region"] = units["set/A_0"]["region"].to_numpy()[::-1]
    probe_regions(vectors, units, SESSIONS, **options)
    assert len(seen) > count


def test_errors_name_the_recording_and_the_cure():
    vectors, units, rates = planted()
    for broken, message in ((vectors["set/A_0"][:-1], "one row per unit"), (vectors["set/A_0"] * np.nan, "not finite")):
        with pytest.raises(ValueError, match=message):
            probe_table({**vectors, "set/A_0": broken}, units, SESSIONS)
    with pytest.raises(ValueError, match="do not overlap"):
        probe_regions(vectors, units, SESSIONS, rates=rates, groups=[["A", "B"], ["B", "A"]])
    with pytest.raises(ValueError, match="groups name"):
        probe_regions(vectors, units, SESSIONS, rates=rates, groups=[["A", "nobody"]])
