"""Tables behind the scores: they agree with the scores, survive the disk, and name what fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.special

from eval.baselines import Baseline
from eval.calibration import (
    CalibrationCurve,
    calibration_curve,
    error_of,
    error_of_truth,
    pooled,
)
from eval.ceilings import psth_ceiling_of_units
from eval.details import Details, joined, read_details, task_details
from eval.failures import MIN_SPIKES, by_session, judged, worst_units
from eval.predictions import Prediction
from eval.report_examples import failure_examples
from eval.scoring import conditions, score, scored_rates
from eval.session_view import SessionView
from foundation.corpus import Corpus

IDS = ("synthetic/animal00_0", "synthetic/animal01_0")


@pytest.fixture(scope="module")
def views(synthetic_corpus: Corpus) -> dict[str, SessionView]:
    return {key: SessionView.of(synthetic_corpus[key]) for key in IDS}


def rates(view: SessionView, model: str, seed: int, noise: float) -> Prediction:
    """The mean rate of each unit, wrong by a factor of its own in each bin."""
    factor = np.exp(noise * np.random.default_rng(seed).normal(size=view.counts.shape))
    rate = view.train_mean() * factor
    return Prediction.of_rates(view, "encode", model, rate, np.ones(len(view.trial), bool), track="E2")


def labels(view: SessionView, model: str, seed: int) -> Prediction:
    truth = view.trial_covariates["choice"].values
    logit = 2.0 * truth - 1 + np.random.default_rng(seed).normal(0, 1.5, len(truth))
    return Prediction.of(view, "choice", model, trial=view.source_trial, logit=logit)


def details_of(views: dict[str, SessionView], corpus: Corpus, seeds: tuple[int, ...] = (0, 1)) -> Details:
    parts = []
    for key, view in views.items():
        for make in (lambda v, m, s: rates(v, m, s, 0.3 if m == "mine" else 0.2), labels):
            mine = [make(view, "mine", seed) for seed in seeds]
            fits = {
                "good": Baseline(make(view, "good", 10), "baseline", 0.1),
                "bad": Baseline(make(view, "bad", 11), "baseline", 0.2),
                "nothing": Baseline(make(view, "nothing", 12), "null", 0.0),
            }
            one = task_details(view, corpus[key].units, corpus.subjects[key], mine, fits, seeds=seeds)
            parts.append(json.loads(json.dumps(one.plain())))
    return joined(parts)


@pytest.fixture(scope="module")
def details(views: dict[str, SessionView], synthetic_corpus: Corpus) -> Details:
    return details_of(views, synthetic_corpus)


def test_units_and_conventions_put_together_are_the_scores(details: Details, views: dict[str, SessionView]) -> None:
    assert set(details.units["task"]) == {"encode E2"}
    for view in views.values():
        for model, seed in (("mine", 0), ("mine", 1), ("good", 10)):
            scores = score(rates(view, model, seed, 0.3 if model == "mine" else 0.2), view)
            units = details.units[details.units["session"] == view.session]
            units = units[units["seed"] == (seed if model == "mine" else 0)]
            each = units["bps" if model == "mine" else "baseline_bps"]
            assert each.mean() == pytest.approx(scores["bps_unit"].value)
            assert (each * units["spikes"]).sum() / units["spikes"].sum() == pytest.approx(scores["bps"].value)
            assert len(units) == scores["bps_unit"].n
            same = details.conventions[(details.conventions["session"] == view.session)]
            same = same[(same["model"] == model) & (same["seed"] == (seed if model == "mine" else 0))]
            value = same.set_index("name")["value"]
            assert value["bps, pooled, train null"] == pytest.approx(scores["bps"].value)
            assert value["bps, pooled, test null"] == pytest.approx(scores["bps_nlb"].value)
            assert value["bps, unit mean, train null"] == pytest.approx(scores["bps_unit"].value)
            assert value["D2, pooled, train null"] == pytest.approx(scores["d2"].value)
    assert set(details.units["baseline"]) == {"good"}
    assert set(details.conventions["model"]) == {"mine", "good"}


def test_units_carry_the_names_and_spikes_of_the_recording(
    details: Details, views: dict[str, SessionView], synthetic_corpus: Corpus
) -> None:
    for key, view in views.items():
        table = synthetic_corpus[key].units
        test = np.isin(view.trial, view.trials_in("test", full=True))
        for _, row in details.units[details.units["session"] == view.session].iterrows():
            assert row["unit_id"] == table["unit_id"].iloc[row["unit"]]
            assert row["region"] == table["region"].iloc[row["unit"]]
            column = view.unit.tolist().index(row["unit"])
            assert row["spikes"] == view.counts[test][:, column].sum()


def test_calibration_of_sessions_together_is_that_of_their_trials(
    details: Details, views: dict[str, SessionView]
) -> None:
    truth, logit = [], []
    for view in views.values():
        test = view.trials_in("test", full=True)
        test = test[view.trial_covariates["choice"].observed[test]]
        truth.append(view.trial_covariates["choice"].values[test])
        logit.append(labels(view, "mine", 0).arrays["logit"][test])
    part = details.calibration[(details.calibration["model"] == "mine") & (details.calibration["seed"] == 0)]
    got = pooled([CalibrationCurve(*part[["predicted", "observed", "number"]].to_numpy(float).T)])
    wanted = calibration_curve(np.concatenate(truth), np.concatenate(logit))
    for a, b in zip(got, wanted):
        np.testing.assert_allclose(a, b)
    assert error_of(got) == pytest.approx(error_of(calibration_curve(np.concatenate(truth), np.concatenate(logit))))
    assert set(details.calibration["model"]) == {"mine", "good"}


def test_each_model_is_paired_with_the_strongest_baseline(details: Details, views: dict[str, SessionView]) -> None:
    assert set(details.paired["baseline"]) == {"good"}
    assert len(details.paired) == 2 * 2 * len(views)  # tasks, seeds
    for view in views.values():
        part = details.paired[(details.paired["session"] == view.session) & (details.paired["task"] == "encode E2")]
        wanted = (
            score(rates(view, "mine", 1, 0.3), view)["bps"].value
            - score(rates(view, "good", 10, 0.2), view)["bps"].value
        )
        assert part.set_index("seed").loc[1, "difference"] == pytest.approx(wanted)


def test_error_of_true_probabilities_is_as_simulated() -> None:
    rng, found = np.random.default_rng(0), []
    probability = rng.uniform(0.05, 0.95, 400)
    logit = scipy.special.logit(probability)
    for _ in range(300):
        truth = (rng.random(400) < probability).astype(int)
        found.append(error_of(calibration_curve(truth, logit)))
    assert error_of_truth(calibration_curve(truth, logit)) == pytest.approx(np.mean(found), rel=0.05)


def test_ceilings_are_of_the_scored_rows_and_only_where_trials_repeat_conditions(
    details: Details, views: dict[str, SessionView], synthetic_corpus: Corpus
) -> None:
    for view in views.values():
        part = details.ceilings[details.ceilings["session"] == view.session].set_index("metric")["value"]
        scored = scored_rates(rates(view, "mine", 0, 0.3), view)
        trial = view.trial[scored.rows]
        direct = psth_ceiling_of_units(
            scored.counts, conditions(view)[trial], view.bin[scored.rows], trial, rng=np.random.default_rng(0)
        )
        assert part["psth_r2"] == pytest.approx(np.nanmean(direct))
        assert np.isfinite(part["bps"])
    assert len(details.ceilings) == 2 * len(views)
    view = next(iter(views.values()))
    bare = SessionView(**{**vars(view), "trial_covariates": {}})
    one = task_details(bare, synthetic_corpus[IDS[0]].units, "a", [rates(bare, "mine", 0, 0.3)], {}, seeds=[0])
    assert not len(one.ceilings)
    assert one.units["baseline_bps"].isna().all()
    assert not len(judged(one.units))


def test_tables_survive_the_disk_and_an_empty_one_replaces_an_old_one(details: Details, tmp_path: Path) -> None:
    details.write(tmp_path)
    back = read_details(tmp_path)
    for name in ("units", "calibration", "conventions", "ceilings", "paired"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(details, name))
    Details().write(tmp_path)
    assert not len(read_details(tmp_path).units)
    assert not len(read_details(tmp_path / "nothing").units)


def test_the_worst_are_furthest_below_and_sessions_are_pooled_as_scores_are(
    details: Details, views: dict[str, SessionView]
) -> None:
    table = judged(details.units)
    assert len(table) == len(details.units) / 2  # two seeds
    worst = worst_units(table, 5)
    enough = table[table["spikes"] >= MIN_SPIKES]
    assert worst["difference"].tolist() == sorted(enough["difference"])[:5]
    sessions = by_session(table)
    assert sessions["difference"].is_monotonic_increasing
    for view in views.values():
        mine = np.mean([score(rates(view, "mine", seed, 0.3), view)["bps"].value for seed in (0, 1)])
        good = score(rates(view, "good", 10, 0.2), view)["bps"].value
        row = sessions[sessions["session"] == view.session].iloc[0]
        assert row["difference"] == pytest.approx(mine - good)


def test_a_network_from_scratch_is_not_the_one_that_fails(details: Details) -> None:
    scratch = details.units.assign(model="net/scratch")
    assert not len(judged(scratch))
    assert set(judged(pd.concat([scratch, details.units]))["model"]) == {"mine"}


def test_failures_show_what_was_recorded_and_predicted(details: Details, views: dict[str, SessionView]) -> None:
    def read(session: str, task: str, split: str, model: str, seed: int | None) -> Prediction:
        assert (task, split) == ("encode E2", "interleaved")
        view = next(v for v in views.values() if v.session == session)
        if model == "mine":
            assert seed == 0
            return rates(view, model, 0, 0.3)
        assert (model, seed) == ("good", None)
        return rates(view, model, 10, 0.2)

    found = failure_examples(details.units, lambda key, split: views[key], read)
    worst = worst_units(judged(details.units))
    assert {(t.session, name.split(",")[0]) for t in found if t.note == "worst units" for name in t.units} == {
        (row["session"], f"unit {row['unit']}") for _, row in worst.iterrows()
    }
    assert found[-1].note == "worst session"
    assert found[-1].session == by_session(judged(details.units))["session"].iloc[0]
    for example in found:
        view = next(v for v in views.values() if v.session == example.session)
        test, column = (
            view.trials_in("test", full=True),
            view.unit.tolist().index(int(example.units[0].split()[1][:-1])),
        )
        assert len(example.condition) == len(test)
        for i, m in enumerate(test):
            rows = view.trial == m
            wanted = (view.counts[rows, column], *(p[rows, column] for p in _both(view)))
            for got, values in zip((example.counts, example.rates, example.baseline_rates), wanted):
                np.testing.assert_allclose(got[i, : rows.sum(), 0], values)
                assert np.isnan(got[i, rows.sum() :]).all()


def _both(view: SessionView) -> tuple[np.ndarray, np.ndarray]:
    mine, good = rates(view, "mine", 0, 0.3), rates(view, "good", 10, 0.2)
    return mine.arrays["rate"], good.arrays["rate"]
