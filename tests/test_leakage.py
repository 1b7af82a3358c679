"""Planted leaks are caught, each by name, and clean animals give none; statistics against naive loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_recipes import synthetic
from eval.adapted import Adapted
from eval.leakage import Leak, LeakageError, Past, find_leaks, past_of, refuse
from eval.leakage_copies import (
    SHARED_SPIKES,
    prediction_leaks,
    shared_runs,
    spike_runs,
    trial_leaks,
    unit_leaks,
)
from eval.leakage_covariates import SPIKES, Question, covariate_leaks, summaries
from eval.leakage_regions import order_leaks, region_order
from eval.leakage_statistics import Normalizer, normalizer_leaks
from eval.predictions import Prediction
from eval.session_view import RowCovariate, SessionView, TrialCovariate
from eval.unit_folds import UnitFold, unit_folds
from foundation.channels import DataConfig, find_channels
from foundation.corpus import Corpus, write_manifest
from foundation.recording import CovariateSpec, Recording
from foundation.recording_folder import write_recording
from foundation.splits import ROLES, TEST, TRAIN, session_roles

TRAINED = ("synthetic/animal00_0", "synthetic/animal01_0", "synthetic/animal02_0")
SCORED = ("synthetic/animal03_0",)
READABLE = {"choice": ["contrast", "block"], SPIKES: ["wheel_speed", "lick"]}


def animal(number: int, seed: int) -> Recording:
    """A simulated animal of 160 trials whose units stand in the order of their regions, as along a probe."""
    r = synthetic.read(number, 0, 24, 160, seed)
    return reordered(r, np.argsort(r.units["region"].to_numpy(str), kind="stable"))


def reordered(r: Recording, order: np.ndarray) -> Recording:
    """The same units in another order, or some of them."""
    place = np.full(r.num_units, -1)
    place[order] = np.arange(len(order))
    keep = place[r.spike_units] >= 0
    units = r.units.iloc[order].reset_index(drop=True)
    units["unit_id"] = [f"{r.info.recording_id}/probe00/{i}" for i in range(len(order))]
    spike_units = place[r.spike_units[keep]].astype(np.int32)
    return replace(r, spike_times=r.spike_times[keep], spike_units=spike_units, units=units)


def renamed(r: Recording, session: str, subject: str) -> Recording:
    units = r.units.assign(unit_id=[f"synthetic/{session}/probe00/{i}" for i in range(r.num_units)])
    return replace(r, info=replace(r.info, recording_id=f"synthetic/{session}", subject_id=subject), units=units)


def corpus_of(folder: Path, recordings: list[Recording]) -> Corpus:
    for recording in recordings:
        write_recording(folder, recording.validate())
    return write_manifest(folder)


@pytest.fixture(scope="module")
def animals() -> list[Recording]:
    return [animal(number, seed=0) for number in range(4)]


@pytest.fixture(scope="module")
def clean(animals: list[Recording], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus_of(tmp_path_factory.mktemp("clean"), animals)


@pytest.fixture(scope="module")
def view(animals: list[Recording]) -> SessionView:
    return SessionView.of(animals[3])


def normalizers(corpus: Corpus) -> dict[str, Normalizer]:
    channels = find_channels(corpus, DataConfig(corpus=str(corpus.path)), list(TRAINED))
    return {c.spec.name: Normalizer(c.mean, c.std) for c in channels if c.spec.kind == "continuous"}


def whats(leaks: list[Leak]) -> list[str]:
    """What was certainly found."""
    return [leak.what for leak in leaks if leak.decided]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clean_animals_give_no_leak(seed: int, clean: Corpus, tmp_path: Path) -> None:
    corpus = clean if seed == 0 else corpus_of(tmp_path, [animal(number, seed) for number in range(4)])
    roles = {SCORED[0]: [session_roles(corpus[SCORED[0]])]}
    past = Past(TRAINED, SCORED, roles=roles, normalizers=normalizers(corpus), readable=READABLE)
    leaks = find_leaks(corpus, past)
    assert whats(leaks) == []
    refuse(leaks)


def test_all_leaks_are_named_at_once(clean: Corpus, tmp_path: Path) -> None:
    """An animal on both sides, adapted to its test trials, with regions from another order."""
    everything = np.full(160, TRAIN)
    table = clean[SCORED[0]].units
    wrong = table.assign(region=np.roll(table["region"].to_numpy(), 7))
    past = Past((*TRAINED, *SCORED), SCORED, roles={SCORED[0]: [everything]}, regions={SCORED[0]: wrong})
    leaks = find_leaks(clean, past)
    names = ["animal on both sides", "recording on both sides", "test trials in adaptation"]
    assert whats(leaks) == [*names, "region table differs from the corpus"]
    used = next(leak for leak in leaks if leak.what == "test trials in adaptation")
    assert used.number == int((session_roles(clean[SCORED[0]]) == TEST).sum())
    with pytest.raises(LeakageError, match=r"(?s)4 leaks.*animal03.*hold the animal out.*region table differs"):
        refuse(leaks)


def cut(r: Recording) -> Recording:
    """Two thirds of the units in another order, the first 60 % of the session, times from another start."""
    order = np.random.default_rng(0).permutation(r.num_units)[: 2 * r.num_units // 3]
    stop, shift, few = 0.6 * r.domain[-1, 1], 17.123456789, reordered(r, order)
    keep = few.spike_times < stop
    trials = few.trials[few.trials["stop_s"] < stop].reset_index(drop=True)
    trials = trials.assign(start_s=trials["start_s"] + shift, stop_s=trials["stop_s"] + shift)
    return replace(
        few,
        spike_times=few.spike_times[keep] + shift,
        spike_units=few.spike_units[keep],
        trials=trials,
        domain=np.array([[shift, stop + shift]]),
        covariates={},
    )


def other_sorting(r: Recording) -> Recording:
    """Another probe in the same session: the trials, and spikes that have nothing to do with it."""
    return replace(r, spike_times=np.sort(np.random.default_rng(1).uniform(*r.domain[0], len(r.spike_times))))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: r, "recording on both sides"),
        (cut, "recording on both sides"),
        (other_sorting, "trial clock on both sides"),
    ],
)
def test_an_animal_under_another_name(
    change: Callable[[Recording], Recording], what: str, animals: list[Recording], tmp_path: Path
) -> None:
    corpus = corpus_of(tmp_path, [*animals[1:], renamed(change(animals[3]), "mouse7_0", "mouse7")])
    leaks = find_leaks(corpus, Past((*TRAINED[1:], "synthetic/mouse7_0"), SCORED))
    assert whats(leaks) == [what]
    assert "synthetic/mouse7_0 = synthetic/animal03_0" in leaks[0].where


def test_spellings_and_names_of_sessions(animals: list[Recording], tmp_path: Path) -> None:
    """A second spelling is a leak; a session that is named like an animal of the other side only may be one."""
    corpus = corpus_of(tmp_path, [*animals[:3], renamed(animals[3], "animal00_9", "Animal-01")])
    leaks = find_leaks(corpus, Past(TRAINED, ("synthetic/animal00_9",)))
    assert whats(leaks) == ["animal spelled in two ways"]
    assert "'Animal-01' and 'animal01'" in leaks[0].where
    assert any("named after" in leak.what and "animal00_9" in leak.where for leak in leaks if not leak.decided)


@pytest.mark.parametrize("rate_hz", [5.0, 60.0])
@pytest.mark.parametrize("bin_s", [0.0, 0.01])
def test_runs_of_independent_neurons_do_not_repeat(rate_hz: float, bin_s: float, animals: list[Recording]) -> None:
    """Not even of sources that only have counts per 10 ms; and they survive a shift of a 20 kHz clock."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2):
        num = int(rate_hz * 240)
        times = np.concatenate([np.sort(rng.uniform(0, 240, num)) for _ in range(20)])
        times = np.floor(times / bin_s) * bin_s + bin_s / 2 if bin_s else np.round(times * 20_000) / 20_000
        order = np.argsort(times, kind="stable")
        units = np.repeat(np.arange(20), num)[order].astype(np.int32)
        found.append(replace(animals[0], spike_times=times[order], spike_units=units))
    assert shared_runs(spike_runs(found[0]), spike_runs(found[1])) < SHARED_SPIKES / 10
    moved = replace(found[0], spike_times=found[0].spike_times + 1234.56789 + rng.uniform(0, 1e-6, len(times)))
    if len(spike_runs(found[0])) >= 100:
        assert shared_runs(spike_runs(found[0]), spike_runs(moved)) > 0.95


def sample(corpus: Corpus, keys: tuple[str, ...], roles: tuple[str, ...], name: str) -> np.ndarray:
    """All observed samples of a covariate in trials of some roles, by a naive loop."""
    found = []
    for key in keys:
        r = corpus[key]
        c, role = r.covariates[name], session_roles(r)
        for m, (start, stop) in enumerate(r.trials[["start_s", "stop_s"]].to_numpy()):
            if role[m] in [ROLES[one] for one in roles]:
                inside = [m] if c.times is None else np.flatnonzero((c.times >= start) & (c.times < stop))
                found += [float(c.values[k]) for k in inside if c.observed[k]]
    return np.array(found)


@pytest.mark.parametrize(
    ("keys", "roles", "leaks"),
    [
        (TRAINED, ("train",), False),
        (TRAINED, ("train", "val"), False),
        (TRAINED, ("test",), True),
        (TRAINED, ("train", "test"), True),
        (TRAINED, ("train", "val", "test"), True),
        ((*TRAINED, *SCORED), ("train",), True),
        (SCORED, ("train",), True),
        (SCORED, ("test",), True),
    ],
)
def test_normalizers_of_test_rows(keys: tuple[str, ...], roles: tuple[str, ...], leaks: bool, clean: Corpus) -> None:
    for name in ("wheel_speed", "contrast"):
        values = sample(clean, keys, roles, name)
        for ddof in (0, 1):
            stored = {name: Normalizer((float(values.mean()),), (float(values.std(ddof=ddof)),))}
            found = normalizer_leaks(stored, clean, TRAINED, SCORED)
            assert whats(found) == ["statistic of test rows"] * leaks
            assert len(found) == leaks


def test_a_normalizer_of_unknown_origin_stays_undecided(clean: Corpus) -> None:
    found = normalizer_leaks({"wheel_speed": Normalizer((0.5,), (3.0,))}, clean, TRAINED, SCORED)
    assert [leak.decided for leak in found] == [False]


def test_own_train_rows_are_fair_where_they_are_named(clean: Corpus) -> None:
    values = sample(clean, SCORED, ("train",), "wheel_speed")
    stored = {"wheel_speed": Normalizer((float(values.mean()),), (float(values.std()),), SCORED)}
    assert normalizer_leaks(stored, clean, TRAINED, SCORED) == []


def with_trial_values(view: SessionView, values: np.ndarray, observed: np.ndarray | None = None) -> SessionView:
    spec = CovariateSpec("planted", "continuous", "trial", role="task")
    seen = np.ones(len(values), bool) if observed is None else observed
    one = TrialCovariate(spec, values, seen)
    return replace(view, trial_covariates={**view.trial_covariates, "planted": one})


def planted_trials(view: SessionView) -> dict[str, tuple[str | None, SessionView]]:
    """What should be found, and the view that holds it."""
    rng = np.random.default_rng(0)
    label = view.trial_covariates["choice"].values.astype(float)
    noise = rng.normal(size=len(label))
    test = view.full_roles == TEST
    away, later = "covariate gives the target away", "covariate knows the next trial"
    hidden = "covariate tells in test trials only"
    return {
        "a copy": (away, with_trial_values(view, label)),
        "a noisy copy": (away, with_trial_values(view, label + 0.2 * noise)),
        "a parity": (away, with_trial_values(view, 2.0 * rng.integers(0, 3, len(label)) + label)),
        "its gaps": (away, with_trial_values(view, noise, label > 0)),
        "the next one": (later, with_trial_values(view, np.append(label[1:], 0.0))),
        "in test trials only": (hidden, with_trial_values(view, np.where(test, label + 0.2 * noise, noise))),
        "reversed in test trials": (away, with_trial_values(view, np.where(test, 1 - label, label))),
        "the previous one": (None, with_trial_values(view, np.append(0.0, label[:-1]))),
        "noise": (None, with_trial_values(view, noise)),
    }


def test_covariates_that_encode_the_choice(view: SessionView) -> None:
    for name, (what, changed) in planted_trials(view).items():
        found = covariate_leaks(changed, "choice", ["planted"])
        if name == "reversed in test trials":
            assert whats(found) == ["covariate tells in test trials only"], name
        else:
            assert whats(found) == ([what] if what else []), name


def test_covariates_that_encode_a_behavior_in_time(view: SessionView) -> None:
    wheel = view.row_covariates["wheel_speed"]
    rng = np.random.default_rng(1)
    plants = {
        "scaled": (3 * wheel.values + 1, True),
        "later by 80 ms": (np.roll(wheel.values, 4, axis=0), True),
        "squared": ((wheel.values + 4) ** 2, True),
        "noise": (rng.normal(size=wheel.values.shape), False),
    }
    for name, (values, leaks) in plants.items():
        spec = CovariateSpec("planted", "continuous", "time", role="task")
        planted = RowCovariate(spec, values.astype(np.float32), wheel.observed)
        changed = replace(view, row_covariates={**view.row_covariates, "planted": planted})
        assert whats(covariate_leaks(changed, "wheel_speed", ["planted"])) == (
            ["covariate gives the target away"] * leaks
        ), name


def test_a_covariate_made_of_spikes(view: SessionView) -> None:
    """The population's count, half a bin smoothed, as a `stimulus`; real ones such as the wheel are no leak."""
    count = view.counts.sum(axis=1, dtype=float)
    spec = CovariateSpec("planted", "continuous", "time", role="stimulus")
    planted = RowCovariate(spec, np.sqrt(count)[:, None].astype(np.float32), np.ones(len(count), bool))
    changed = replace(view, row_covariates={**view.row_covariates, "planted": planted})
    found = covariate_leaks(changed, SPIKES, ["wheel_speed", "planted"])
    assert [(leak.what, leak.where.split()[-1]) for leak in found] == [("covariate gives the target away", "planted")]


def test_few_trials_and_unknown_names(view: SessionView) -> None:
    few = replace(view, full_roles=np.where(np.arange(160) < 50, view.full_roles, TRAIN))
    found = covariate_leaks(few, "choice", ["contrast"])
    assert [leak.decided for leak in found] == [False]
    with pytest.raises(ValueError, match=r"no covariate \['sound'\]"):
        covariate_leaks(view, "choice", ["sound"])


def test_summaries_against_a_naive_loop(view: SessionView) -> None:
    lick, asked = view.row_covariates["lick"], Question.of(view, "choice")
    found = summaries(view, "lick", asked)
    for m in (0, 5, 77):
        mine = lick.values[view.trial == m, 0]
        edges = [len(mine) * q // 4 for q in range(5)]
        means = [mine[a:b].mean() for a, b in pairwise(edges)]
        np.testing.assert_allclose(found[m, :7], [*means, mine.sum(), mine[0], mine[-1]], rtol=1e-6)
    rows = Question.of(view, "wheel_speed")
    found = summaries(view, "lick", rows)
    q = 700
    row, start = rows.row[q], view.first_row()[rows.trial[q]]
    last = start + view.num_bins[rows.trial[q]] - 1
    lags = [lick.values[min(max(row + lag, start), last), 0] for lag in (-25, -10, -5, -2, -1, 0, 1, 2, 5, 10, 25)]
    np.testing.assert_allclose(found[q, :12], [*lags, lick.values[start : row + 1, 0].sum()], rtol=1e-6)


def probe(key: str, seed: int) -> pd.DataFrame:
    """Forty to sixty units of four regions in order of depth, as luo2025's rats with Neuropixels in frontal cortex."""
    sizes = np.random.default_rng(seed).integers(10, 16, 4)
    region = np.repeat(["VISp", "CA1", "TH", "MOs"], sizes)
    return pd.DataFrame({"unit_id": [f"{key}/probe00/{i}" for i in range(len(region))], "region": region})


def shuffled(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    return table.assign(region=np.random.default_rng(seed).permutation(table["region"].to_numpy()))


PROBES = {key: probe(key, seed) for seed, key in enumerate((*TRAINED, *SCORED))}


def test_a_shuffled_region_table(clean: Corpus) -> None:
    """In the evaluated session, in a pretraining session, and labels passed between sessions."""
    assert order_leaks(PROBES) == []
    for key in (SCORED[0], TRAINED[1]):
        found = order_leaks({**PROBES, key: shuffled(PROBES[key])})
        assert [leak.where.split(":")[0] for leak in found if leak.decided] == [key]
    pool = np.random.default_rng(2).permutation(np.concatenate([t["region"] for t in PROBES.values()]))
    table = PROBES[SCORED[0]]
    wrong = {**PROBES, SCORED[0]: table.assign(region=pool[: len(table)])}
    assert whats(order_leaks(wrong, SCORED)) == ["region table without order"]
    assert "region table without order" in whats(find_leaks(clean, Past(TRAINED, SCORED, regions=wrong)))


def test_ordered_tables_are_not_accused_and_shuffled_ones_are() -> None:
    """Sixty simulated evaluated sessions of each sort."""
    before = {f"synthetic/a{i}_0": probe(f"synthetic/a{i}_0", i) for i in range(5)}
    after = {f"synthetic/b{i}_0": probe(f"synthetic/b{i}_0", 100 + i) for i in range(60)}
    assert whats(order_leaks({**before, **after}, list(after))) == []
    mixed = {key: shuffled(table, i) for i, (key, table) in enumerate(after.items())}
    assert len(whats(order_leaks({**before, **mixed}, list(mixed)))) >= 57


def test_runs_of_areas_count_where_coarse_classes_have_none() -> None:
    """Units of several probes that were merged into one list: neighbors of one area, the next ones of another class."""
    others = {key: probe(key, i) for i, key in enumerate(f"synthetic/a{i}_0" for i in range(5))}
    others = {key: table.assign(region_given=table["region"]) for key, table in others.items()}
    rng, table = np.random.default_rng(9), probe("synthetic/b_0", 9)
    area = np.arange(len(table)) // 2
    area = np.where(rng.random(len(table)) < 0.1, rng.permutation(area), area)
    classes = np.array(["VISp", "CA1", "TH", "MOs"])
    mine = table.assign(region_given=[f"area{k % 12}" for k in area], region=classes[area % 4])

    def accused(table: pd.DataFrame) -> bool:
        return bool(whats(order_leaks({**others, "synthetic/b_0": table}, ["synthetic/b_0"])))

    assert not accused(mine)
    assert accused(shuffled(mine.drop(columns="region_given")))
    # Labels that were shuffled after they were mapped no longer follow from the areas, which say nothing of them then.
    assert accused(shuffled(mine))


def test_areas_of_one_unit_each_are_in_any_order() -> None:
    table = pd.DataFrame({"unit_id": [f"d/s/p/{i}" for i in range(8)], "region": [f"X{i}" for i in range(8)]})
    assert region_order(table) is None


def test_scores_that_read_no_region_do_not_care(clean: Corpus) -> None:
    wrong = {**PROBES, SCORED[0]: shuffled(PROBES[SCORED[0]])}
    past = Past(TRAINED, SCORED, regions=wrong)
    assert "region table without order" in whats(find_leaks(clean, past))
    assert "region table without order" not in whats(find_leaks(clean, past, with_regions=False))


def test_where_sites_have_no_order_nothing_is_said() -> None:
    tables = {key: shuffled(table, seed) for seed, (key, table) in enumerate(PROBES.items())}
    assert [leak.decided for leak in order_leaks(tables, SCORED)] == [False]


def test_order_along_the_probe_by_depth_and_probe() -> None:
    """Kappa in closed form for six units on two probes that stand in no order in the table."""
    table = pd.DataFrame(
        {
            "unit_id": [f"d/s/p{p}/{i}" for i, p in enumerate("aababb")],
            "region": ["X", "X", "Y", "Y", "Y", "X"],
            "depth_um": [10.0, 30.0, 5.0, 20.0, 1.0, 9.0],
        }
    )
    # Probe a by depth: X (10), Y (20), X (30); probe b: Y (1), Y (5), X (9). Equal neighbors: 1 of 4.
    got = region_order(table, draws=20_000)
    assert got is not None
    chance = 2 / 5  # two of six units, three and three: P(equal) = (2 * 3 * 2) / (6 * 5)
    most = 1 - 2 / 4  # each probe has both regions, so at least one change each
    assert got.kappa == pytest.approx((1 / 4 - chance) / (most - chance), abs=0.15)
    assert region_order(table.assign(region="X")) is None


def test_a_trial_in_two_roles(animals: list[Recording], view: SessionView) -> None:
    """Spikes of a train trial stand in a test trial too, 3 ms later and without some of them."""
    assert trial_leaks(view) == []
    r = animals[3]
    starts = r.trials["start_s"].to_numpy()
    train, test = view.trials_in("train")[10], view.trials_in("test")[3]
    times, units = r.spikes_between(starts[train], starts[train] + 2.0)
    keep = (r.spike_times < starts[test]) | (r.spike_times >= starts[test] + 2.0)
    every = np.concatenate([r.spike_times[keep], times - starts[train] + starts[test]])
    order = np.argsort(every, kind="stable")
    copy = replace(
        r, spike_times=every[order], spike_units=np.concatenate([r.spike_units[keep], units])[order].astype(np.int32)
    )
    found = trial_leaks(SessionView.of(copy))
    assert whats(found) == ["trial in two roles"]
    assert f"{test} = {train}" in found[0].where


def test_twins_of_held_out_units(animals: list[Recording], view: SessionView) -> None:
    """A copy 20 ms later escapes the rule for twins in the same bin, and is found."""
    assert unit_leaks(view) == []
    r = animals[3]
    held = int(view.unit[0])
    mine = r.spike_units == held
    times = np.concatenate([r.spike_times, r.spike_times[mine] + 0.02])
    units = np.concatenate([r.spike_units, np.full(mine.sum(), r.num_units)]).astype(np.int32)
    order = np.argsort(times, kind="stable")
    table = pd.concat([r.units, r.units.iloc[[held]].assign(unit_id="synthetic/animal03_0/probe00/copy")])
    twin = replace(r, spike_times=times[order], spike_units=units[order], units=table.reset_index(drop=True))
    changed = SessionView.of(twin)
    columns = np.arange(len(changed.unit))
    here, there = (int(np.flatnonzero(changed.unit == u)[0]) for u in (held, r.num_units))
    fold = UnitFold(np.array([here]), np.delete(columns, here))
    found = unit_leaks(changed, [fold])
    assert whats(found) == ["twin units"]
    assert found[0].where.endswith(f"such as {held} from {r.num_units}")
    assert unit_leaks(changed, [UnitFold(np.array([here]), np.delete(columns, [here, there]))]) == []
    assert there not in unit_folds(view, "cosmooth")[0].held_out


def test_predictions_of_others_and_of_the_truth(view: SessionView) -> None:
    rng = np.random.default_rng(0)
    rows = view.rows_in("test")
    rate = rng.gamma(2.0, 0.1, (int(rows.sum()), len(view.unit)))

    def made(name: str, values: np.ndarray) -> Prediction:
        return Prediction.of_rates(view, "encode", name, values, rows)

    baseline = made("glm", rate)
    turned = rng.permutation(len(rate))
    moved = {**baseline.arrays, **{k: baseline.arrays[k][turned] for k in ("trial", "bin", "rate")}}
    copied = replace(made("mine", rate), arrays=moved)
    assert whats(prediction_leaks(copied, [baseline], view)) == ["prediction is that of another"]
    assert prediction_leaks(made("mine", 1.01 * rate), [baseline], view) == []
    flat = made("train_mean", np.tile(view.train_mean(), (len(rate), 1)))
    assert whats(prediction_leaks(made("mine", flat.arrays["rate"] * (1 + 1e-5)), [flat], view)) == [
        "prediction is that of another"
    ]
    truth = view.counts[rows] + 0.02 * rng.random(rate.shape)
    assert whats(prediction_leaks(made("mine", truth), [baseline, flat], view)) == ["prediction is the test data"]
    trials = view.trials_in("test")
    logit = rng.normal(size=len(trials))
    one, two = (Prediction.of(view, "choice", n, trial=view.source_trial[trials], logit=logit) for n in "ab")
    assert whats(prediction_leaks(one, [two], view)) == ["prediction is that of another"]


def test_past_of_a_model(world: Any, tmp_path: Path) -> None:
    """Provenance, normalizers and inputs of an adapted model; its own animal in pretraining is a leak."""
    model = world.model(sessions=["synthetic/animal03_0"])
    roles = session_roles(world.corpus["synthetic/animal03_0"])
    others = [key for key in world.corpus.ids if key != "synthetic/animal03_0"]
    channels = find_channels(world.corpus, world.config, others)
    model.channels[:] = channels
    used = {"split": "interleaved", "fold": 0, "train_trials": 0, "draw": 0, "roles": roles.tolist()}
    model.provenance = {
        "pretraining_subjects": ["animal00", "animal01", "animal02"],
        "pretraining_recordings": others,
        "adapted": {"synthetic/animal03_0": used},
    }
    adapted = Adapted(tmp_path, "animal03", "adapter", model)
    past = past_of([adapted], world.corpus)
    assert (past.pretraining, past.evaluated) == (tuple(others), ("synthetic/animal03_0",))
    assert set(past.readable[SPIKES]) == {c.spec.name for c in channels if c.is_input}
    assert whats(find_leaks(world.corpus, past)) == []
    model.provenance["pretraining_recordings"] = world.corpus.ids
    used["roles"] = np.where(roles == TEST, TRAIN, roles).tolist()
    found = whats(find_leaks(world.corpus, past_of([adapted], world.corpus)))
    assert found[:3] == ["animal on both sides", "recording on both sides", "test trials in adaptation"]
    second = Adapted(tmp_path, "animal03", "adapter", world.model(sessions=["synthetic/animal03_0"]))
    second.model.provenance = {**model.provenance, "adapted": {"synthetic/animal03_0": {**used, "fold": 1}}}
    with pytest.raises(ValueError, match="models of 2 splits"):
        past_of([adapted, second], world.corpus)
