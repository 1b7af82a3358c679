"""Tasks of regions: who is predicted from whom, by baselines and models; planted regions, and their labels permuted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from eval import area_states, model_predictions
from eval.baselines import run_baselines, strongest, tasks_of
from eval.baselines_encoding import RateFit, neuron_fits, poisson_glm
from eval.design import standardize
from eval.metrics import pooled_bits_per_spike
from eval.scoring import score
from eval.session_view import SessionView
from eval.unit_folds import held_out_units, permuted_regions, predicted_regions, unit_folds, unit_tasks
from foundation.corpus import Corpus
from foundation.masking import window_shapes
from foundation.recording import Recording
from foundation.splits import NO_ROLE

if TYPE_CHECKING:
    from tests.conftest import World

TinyRecording = Callable[..., Recording]
TASKS = ("intra_region", "inter_region")


@pytest.fixture(scope="module")
def view(synthetic_corpus: Corpus) -> SessionView:
    """27 units of four regions, each with five or more."""
    return SessionView.of(synthetic_corpus["synthetic/animal03_0"])


def test_regions_follow_the_units_of_the_view(synthetic_corpus: Corpus, view: SessionView) -> None:
    units = synthetic_corpus["synthetic/animal03_0"].units
    assert [units["region"].iloc[i] for i in view.unit] == view.region.tolist()


@pytest.mark.parametrize("task", TASKS)
def test_folds_read_what_the_task_allows(view: SessionView, task: str) -> None:
    """A unit of unknown region, regions too small, and a unit with copies in its own and in another region."""
    region = view.region.copy()
    vis, ca1, mos, th = (np.flatnonzero(region == name) for name in ("VISp", "CA1", "MOs", "TH"))
    region[vis[0]] = ""
    region[th[4:]] = "other"
    counts = view.counts.copy()
    counts[:, ca1[0]] = counts[:, mos[0]] = counts[:, mos[1]]
    changed = replace(view, region=region, counts=counts)
    assert {name for name, _ in tasks_of(changed)} >= {*TASKS, "cosmooth"}
    folds = unit_folds(changed, task)
    held = np.concatenate([fold.held_out for fold in folds])
    assert sorted(held) == sorted([*vis[1:], *ca1, *mos])
    np.testing.assert_array_equal(held, held_out_units(changed, task))
    for fold in folds:
        (own,) = set(region[fold.held_out])
        read = set(fold.inputs.tolist())
        allowed = set(np.flatnonzero(region == own)) - set(fold.held_out)
        if task == "inter_region":
            assert set(fold.held_out) == set(np.flatnonzero(region == own))
            allowed = {i for i in range(len(region)) if region[i] not in ("", own)}
        copies = {int(ca1[0]), int(mos[0]), int(mos[1])}
        twins = copies if copies & set(fold.held_out) else set()
        # What else is taken away correlates with a held-out unit.
        c = np.nan_to_num(np.corrcoef(counts[view.rows_in("train")].T.astype(float)))
        twins |= {i for i in allowed if (np.abs(c[i, fold.held_out]) > 0.2).any()}
        assert read == allowed - twins
        assert allowed & twins or not copies & set(fold.held_out) or task == "intra_region"


def test_sessions_without_two_regions_have_no_such_task(view: SessionView, synthetic_corpus: Corpus) -> None:
    assert unit_tasks(view) == ("cosmooth", *TASKS)
    one = replace(view, region=np.where(view.region == "CA1", "CA1", ""))
    assert unit_tasks(one) == ("cosmooth",)
    few = SessionView.of(synthetic_corpus["synthetic/animal00_0"])  # four regions of four units
    assert unit_tasks(few) == ("cosmooth",)
    with pytest.raises(ValueError, match="no task 'inter_region'"):
        run_baselines(few, "inter_region", "a")
    with pytest.raises(ValueError, match="leave nothing to predict"):
        unit_folds(few, "inter_region")


def test_permuted_regions_keep_their_sizes(view: SessionView) -> None:
    region = np.where(np.arange(len(view.unit)) < 2, "", view.region)
    region[region == "TH"] = np.where(np.arange((region == "TH").sum()) < 2, "TH", "")
    mixed = permuted_regions(replace(view, region=region), 0)
    assert not np.array_equal(mixed.region, region)
    assert sorted(mixed.region) == sorted(region)
    # Regions too small to be predicted, and unknown ones, stay where they are, so that the same units are predicted.
    for name in ("", "TH"):
        np.testing.assert_array_equal(mixed.region == name, region == name)
    np.testing.assert_array_equal(mixed.region, permuted_regions(replace(view, region=region), 0).region)
    assert not np.array_equal(mixed.region, permuted_regions(replace(view, region=region), 1).region)


def test_baselines_of_regions_are_scored_and_blind_to_the_region_they_predict(view: SessionView) -> None:
    """Other spikes of the region on test trials change no prediction of its units; those of another region do."""
    view = replace(view, region=np.where(np.isin(view.region, ("MOs", "TH")), view.region, ""))
    test = view.rows_in("test")
    inside = view.region == "MOs"
    counts = {}
    for name, units in (("own", inside), ("other", ~inside)):
        counts[name] = view.counts.copy()
        counts[name][np.ix_(test, units)] += 2
    rates = {}
    for name, changed in (("plain", view), *((n, replace(view, counts=c)) for n, c in counts.items())):
        found = run_baselines(changed, "inter_region", "a", effort="quick")
        assert set(found) == {"train_mean", "neurons", "reduced_rank"}
        assert [one.kind for one in found.values()] == ["null", "baseline", "baseline"]
        where = np.isin(found["neurons"].prediction.arrays["unit"], view.unit[inside])
        assert where.sum() == inside.sum()
        rates[name] = [found[n].prediction.arrays["rate"][:, where] for n in ("neurons", "reduced_rank")]
    for plain, own, other in zip(rates["plain"], rates["own"], rates["other"]):
        np.testing.assert_array_equal(plain, own)
        assert not np.allclose(plain, other)
    best = run_baselines(view, "intra_region", "a")
    scores = score(best[strongest(best)].prediction, view)
    assert scores["bps_unit"].n == len(held_out_units(view, "intra_region"))
    assert {"within_d2", "within_d2_unit"} <= set(scores)


def _two_regions(tiny_recording: TinyRecording) -> SessionView:
    """Two regions of six units, each with a gain of its own that wanders from trial to trial and within it."""
    rng = np.random.default_rng(0)
    num_trials, num_units = 150, 12
    region = np.repeat(["A", "B"], num_units // 2)
    gain = rng.normal(size=(num_trials, 1, 2)) + 0.5 * rng.normal(size=(num_trials, 25, 2))
    counts = rng.poisson(0.3 * np.exp(0.45 * gain[:, :, np.repeat([0, 1], num_units // 2)]))
    start = np.arange(num_trials) + 0.25
    trial, bins, unit = np.nonzero(counts)
    repeat = counts[trial, bins, unit]
    times = np.repeat(start[trial] + (bins + 0.5) * 0.02, repeat)
    order = np.argsort(times, kind="stable")
    base = tiny_recording()
    return SessionView.of(
        tiny_recording(
            spike_times=times[order],
            spike_units=np.repeat(unit, repeat)[order].astype(np.int32),
            units=base.units.loc[[0] * num_units].assign(unit_id=[f"u{i}" for i in range(num_units)], region=region),
            trials=base.trials.loc[[0] * num_trials].assign(
                start_s=start, stop_s=start + 0.5, usable=True, source_index=np.arange(num_trials)
            ),
            domain=np.array([[0.0, num_trials + 1.0]]),
            covariates={},
        )
    )


def _bps(view: SessionView, fit: RateFit) -> float:
    test = view.rows_in("test")
    return pooled_bits_per_spike(fit.rate[test], view.counts[test], view.train_mean())


def test_a_region_with_a_life_of_its_own_is_seen_from_within_until_labels_are_permuted(
    tiny_recording: TinyRecording,
) -> None:
    view = _two_regions(tiny_recording)
    found = {}
    for name, seen in (("true", view), ("permuted", permuted_regions(view, 0))):
        fits = [neuron_fits(seen, task) for task in TASKS]
        found[name] = {kind: [_bps(seen, fit[kind]) for fit in fits] for kind in ("neurons", "reduced_rank")}
    for kind in ("neurons", "reduced_rank"):
        intra, inter = found["true"][kind]
        assert intra > 0.05
        assert inter < 0.01
        # Half of what is read is of the unit's own region now, in both tasks; across there is one unit more to read.
        assert -(intra - inter) / 2 < np.subtract(*found["permuted"][kind]) < 0.01
        assert min(found["permuted"][kind]) > 0.015


def test_reduced_rank_keeps_a_rank_and_reads_only_the_inputs(
    tiny_recording: TinyRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rank 1 all held-out units of a region share one time course, so that their log-rates are of rank one."""
    monkeypatch.setattr("eval.baselines_encoding.RANKS", (1,))
    view = _two_regions(tiny_recording)
    fit = neuron_fits(view, "inter_region")["reduced_rank"]
    for fold in unit_folds(view, "inter_region"):
        log_rate = np.log(fit.rate[:, fold.held_out])
        sizes = np.linalg.svd(log_rate - log_rate.mean(axis=0), compute_uv=False)
        assert sizes[1] < 1e-6 * sizes[0]


@pytest.mark.parametrize("task", TASKS)
def test_models_see_the_inputs_of_each_fold_and_nothing_else(
    world: World, view: SessionView, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, masks = "synthetic/animal03_0", []

    def fake(
        model: Any, reader: Any, windows: list[Any], question: str, hide: Any, offsets: list[np.ndarray]
    ) -> Iterator[np.ndarray]:
        assert (question, offsets) == ("cosmooth", [])
        shapes = window_shapes(reader.batch(windows[:1]), world.channels)
        masks.append(hide(shapes[0]).units)
        for window in windows:
            yield np.log(1.0 + np.tile(np.arange(len(view.unit)), (window.num_bins, 1)))

    monkeypatch.setattr(model_predictions, "log_rates", fake)
    monkeypatch.setattr(model_predictions, "cosmooth_offsets", lambda model, reader, windows: [])
    assert model_predictions.MODEL_TRACKS[task] == ("b",)
    found = model_predictions.predict_task(None, world.reader, key, view, task, "b", "m")  # type: ignore[arg-type]
    folds = unit_folds(view, task)
    assert len(masks) == len(folds)
    for mask, fold in zip(masks, folds):
        assert set(np.flatnonzero(~mask)) == set(view.unit[fold.inputs])
    np.testing.assert_allclose(found.arrays["rate"], np.tile(found.arrays["unit"] + 1.0, (len(found.arrays["bin"]), 1)))
    assert set(found.arrays["unit"]) == set(view.unit[held_out_units(view, task)])
    assert np.isfinite(score(found, view)["bps"].value)


def test_areas_are_read_from_states_that_do_not_see_them(
    world: World, view: SessionView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks are those of the folds; with known states the rates are those of the ridge fitted to them."""
    key, masks = "synthetic/animal03_0", []
    few = replace(view, region=np.where(np.isin(view.region, ("MOs", "TH")), view.region, ""))
    known = np.stack([np.sin(view.clock_s), np.sqrt(view.counts[:, 0])], axis=1)

    def fake(model: Any, reader: Any, windows: list[Any], hide: Any) -> Iterator[Any]:
        masks.append(hide(window_shapes(reader.batch(windows[:1]), world.channels)[0]).units)
        for window in windows:
            rows = view.trial == window.row
            assert window.num_bins == rows.sum()
            yield SimpleNamespace(states=known[rows])

    monkeypatch.setattr(area_states, "answers", fake)
    found = area_states.predict_area(None, world.reader, key, few, "m")  # type: ignore[arg-type]
    folds = unit_folds(few, "inter_region")
    assert [set(np.flatnonzero(~mask)) for mask in masks] == [set(few.unit[fold.inputs]) for fold in folds]
    features = np.where((few.roles != NO_ROLE)[few.trial][:, None], known, 0)
    expected = poisson_glm(few, standardize(features, few.rows_in("train")), units=folds[0].held_out)
    np.testing.assert_allclose(found.arrays["rate"][:, : len(folds[0].held_out)], expected.rate[few.rows_in("test")])
    assert np.isfinite(score(found, few)["d2"].value)


def test_nowhere_is_no_region(view: SessionView, synthetic_corpus: Corpus) -> None:
    recording = synthetic_corpus["synthetic/animal03_0"]
    region = np.where(recording.units["region"] == recording.units["region"].iloc[0], "root", recording.units["region"])
    rooted = SessionView.of(replace(recording, units=recording.units.assign(region=region)))
    assert "root" not in predicted_regions(rooted)
    assert (rooted.region == "").sum() == (region == "root").sum()
    for fold in unit_folds(rooted, "inter_region"):
        assert not (rooted.region[fold.inputs] == "").any()


def test_a_task_of_twins_alone_is_none(view: SessionView) -> None:
    """Units that share their region's bursts are twins: nothing of the region may be read, from outside it all."""
    rng = np.random.default_rng(0)
    burst = 4.0 * (rng.random((len(view.trial), 2)) < 0.2)
    region = np.array(["a", "b"])[np.arange(len(view.unit)) % 2]
    counts = rng.poisson(0.05 + burst[:, (region == "b").astype(int)]).astype(np.uint8)
    bursting = replace(view, region=region, counts=counts)
    assert unit_tasks(bursting) == ("cosmooth", "inter_region")
