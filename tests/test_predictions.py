"""Prediction files: round trips, what is refused, and scores that do not depend on the order a model worked in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multinomial
from sklearn.metrics import r2_score, roc_auc_score

from eval import metrics
from eval.predictions import Prediction, read_prediction, write_prediction
from eval.psth import Cells, given_the_sums, residuals
from eval.scoring import conditions, forecast_rows, score, target_rows
from eval.session_view import SessionView
from eval.unit_folds import unit_folds
from foundation.corpus import Corpus
from foundation.recording import Covariate, CovariateSpec, Recording

TinyRecording = Callable[..., Recording]


@pytest.fixture(scope="module")
def view(synthetic_corpus: Corpus) -> SessionView:
    return SessionView.of(synthetic_corpus[synthetic_corpus.ids[0]])


def _rates(view: SessionView, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, 0.05, view.counts.shape) + 0.01


def test_round_trip_is_exact(view: SessionView, tmp_path: Path) -> None:
    rows = np.ones(len(view.trial), bool)
    written = Prediction.of_rates(view, "encode", "mine", _rates(view), rows, track="E2")
    write_prediction(tmp_path / "p.npz", written)
    read = read_prediction(tmp_path / "p.npz")
    assert replace(read, arrays={}) == replace(written, arrays={})
    for name, array in written.arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)
    assert score(read, view) == score(written, view)


def test_rate_scores_equal_the_metrics_by_hand(view: SessionView) -> None:
    rate = _rates(view)
    scores = score(Prediction.of_rates(view, "encode", "m", rate, np.ones(len(view.trial), bool)), view)
    train, test = (np.isin(view.trial, np.flatnonzero(view.roles == role)) for role in (0, 2))
    spikes = view.counts[train].sum(axis=0, dtype=float), view.counts[test].sum(axis=0, dtype=float)
    keep = (spikes[0] >= 50) & (spikes[1] >= 10)
    y, r = view.counts[test][:, keep].astype(float), rate[test][:, keep]
    null = view.counts[train][:, keep].mean(axis=0)
    assert scores["bps"].value == pytest.approx(metrics.pooled_bits_per_spike(r, y, null))
    assert scores["bps"].n == y.sum()
    assert scores["bps_nlb"].value == pytest.approx(metrics.pooled_bits_per_spike(r, y, y.mean(axis=0)))
    each = metrics.bits_per_spike(r, y, null)
    assert scores["bps_unit"].value == pytest.approx(each.mean())
    assert scores["bps_unit"].n == keep.sum()
    assert scores["frac_units_positive"].value == pytest.approx((each > 0).mean())
    assert next(iter(scores)) == "bps"
    assert scores["trial_r2"].value == pytest.approx(r2_score(y, r))
    assert scores["trial_r2"].n == keep.sum()


def test_psth_scores_equal_a_loop_over_the_conditions_of_the_recording(
    synthetic_corpus: Corpus, view: SessionView
) -> None:
    """Choice and block are categorical, contrast is not: a condition is a pair of them."""
    recording = synthetic_corpus[synthetic_corpus.ids[0]]
    choice, block = (recording.covariates[name].values for name in ("choice", "block"))
    rate = _rates(view)
    scores = score(Prediction.of_rates(view, "encode", "m", rate, np.ones(len(view.trial), bool)), view)
    train, test = (np.isin(view.trial, np.flatnonzero(view.roles == role)) for role in (0, 2))
    keep = (view.counts[train].sum(axis=0, dtype=float) >= 50) & (view.counts[test].sum(axis=0, dtype=float) >= 10)
    truth, value = [], []
    for c in range(2):
        for b in range(3):
            alike = test & (choice[view.trial] == c) & (block[view.trial] == b)
            for k in range(view.num_bins.max()):
                rows = alike & (view.bin == k)
                if rows.sum() >= 4:
                    truth.append(view.counts[rows][:, keep].mean(axis=0))
                    value.append(rate[rows][:, keep].mean(axis=0))
    varies = np.ptp(truth, axis=0) > 0
    truth, value = np.array(truth)[:, varies], np.array(value)[:, varies]
    assert len(truth) >= 100
    assert scores["psth_r2"].value == pytest.approx(r2_score(truth, value))
    assert scores["psth_r2"].n == scores["psth_r2_weighted"].n == varies.sum()
    weighted = r2_score(truth, value, multioutput="variance_weighted")
    assert scores["psth_r2_weighted"].value == pytest.approx(weighted)


def test_within_condition_scores_are_those_of_the_multinomial_over_the_trials_of_a_condition() -> None:
    """Against scipy's, in a loop over cells and units; and condition means, the true ones even, score 0."""
    rng = np.random.default_rng(0)
    condition, bins = np.repeat(rng.integers(-1, 2, 30), 4), np.tile(np.arange(4), 30)
    mean = rng.gamma(2, 0.5, (3, 4, 2))[condition, bins]
    gain = np.repeat(rng.gamma(2, 0.5, (30, 1)), 4, axis=0)
    counts = rng.poisson(mean * gain).astype(float)
    rate = mean * gain**0.5
    cells = Cells.of(condition, bins)
    likelihood = np.zeros((3, 2))
    residual = []
    for c, b in np.unique(np.stack([condition, bins], axis=1), axis=0):
        rows = (condition == c) & (bins == b)
        if c < 0 or rows.sum() < 4:
            continue
        residual.append([x[rows] - x[rows].mean(axis=0) for x in (counts, rate)])
        for u in range(2):
            y = counts[rows, u]
            for k, shares in enumerate((rate[rows, u], np.ones(len(y)), y)):
                if y.sum():
                    likelihood[k, u] += multinomial.logpmf(y, y.sum(), shares / shares.sum())
    found, saturated = likelihood[:2], likelihood[2]
    fitted, truth, null = given_the_sums(rate, counts, cells)
    for name, of in (("d2", metrics.d2), ("units", metrics.d2_of_units)):
        lost = saturated - found if name == "units" else (saturated - found).sum(axis=1)
        np.testing.assert_allclose(of(fitted, truth, null), 1 - lost[0] / lost[1], atol=1e-6)
    assert metrics.d2(fitted, truth, null) > 0.05
    for flat in (mean, np.full(mean.shape, 0.7)):
        fitted, truth, null = given_the_sums(flat, counts, cells)
        assert metrics.d2(fitted, truth, null) == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(residuals(flat, cells), 0, atol=1e-12)
    expected = [np.concatenate([pair[k] for pair in residual]) for k in (0, 1)]
    ours = [residuals(x, cells) for x in (counts, rate)]
    np.testing.assert_allclose(metrics.r2_of_columns(*ours), r2_score(*expected, multioutput="raw_values"))


def test_within_condition_scores_of_a_session(view: SessionView) -> None:
    """Conditions of the recording, scored units, test trials alone; a PSTH of the train trials scores nothing."""
    every = np.ones(len(view.trial), bool)
    found = conditions(view)
    psth = np.full(view.counts.shape, 0.1)
    train = view.rows_in("train")
    for c in range(found.max() + 1):
        for b in range(view.num_bins.max()):
            alike = (found[view.trial] == c) & (view.bin == b)
            if (alike & train).any():
                psth[alike] = view.counts[alike & train].mean(axis=0) + 0.01
    scores = score(Prediction.of_rates(view, "encode", "m", psth, every), view)
    for name in ("within_d2", "within_d2_unit", "within_r2"):
        assert scores[name].value == pytest.approx(0, abs=1e-6)
    assert scores["within_d2_unit"].n == scores["bps_unit"].n
    oracle = 0.5 * psth + 0.5 * (view.counts + 0.01)
    for name, one in score(Prediction.of_rates(view, "encode", "m", oracle, every), view).items():
        if name.startswith("within"):
            assert one.value > 0.3, name


def test_a_unit_that_fires_alike_in_all_trials_of_its_cells_does_not_count_within_conditions(view: SessionView) -> None:
    """Its null explains all there is, and a share of nothing would drown the others."""
    cells = conditions(view)[view.trial] * 1000 + view.bin
    test, every = view.rows_in("test"), np.ones(len(view.trial), bool)
    counts = view.counts.copy()
    counts[:, 0] = (cells % 7 == 0) & (conditions(view)[view.trial] >= 0)
    flat = replace(view, counts=counts)
    rate = 0.5 * counts + 0.1 + 0.02 * np.random.default_rng(0).random(counts.shape)
    assert counts[test, 0].sum() >= 10
    scores = score(Prediction.of_rates(flat, "encode", "m", rate, every), flat)
    assert scores["within_d2_unit"].n == scores["bps_unit"].n - 1
    assert 0.3 < scores["within_d2_unit"].value < 1


def test_conditions_are_trials_alike_in_what_is_categorical(tiny_recording: TinyRecording) -> None:
    view = SessionView.of(tiny_recording())
    choice, block = (view.trial_covariates[name] for name in ("choice", "block"))
    found = conditions(view)
    seen = choice.observed & block.observed
    assert not seen.all()
    np.testing.assert_array_equal(found == -1, ~seen)
    for i in np.flatnonzero(seen):
        alike = seen & (choice.values == choice.values[i]) & (block.values == block.values[i])
        np.testing.assert_array_equal(found == found[i], alike)
    bare = SessionView.of(tiny_recording(covariates={}))
    assert (conditions(bare) == -1).all()
    rate = np.full(bare.counts.shape, 0.1)
    scores = score(Prediction.of_rates(bare, "encode", "m", rate, np.ones(len(bare.trial), bool)), bare)
    assert "psth_r2" not in scores
    assert np.isfinite(scores["trial_r2"].value)


def test_order_and_extra_rows_do_not_matter(view: SessionView) -> None:
    rate, rng = _rates(view), np.random.default_rng(1)
    plain = score(Prediction.of_rates(view, "encode", "m", rate, np.ones(len(view.trial), bool)), view)
    rows, columns = rng.permutation(len(view.trial)), rng.permutation(len(view.unit))
    shuffled = Prediction.of(
        view,
        "encode",
        "m",
        trial=np.append(view.source_row_trial[rows], 9999),
        bin=np.append(view.bin[rows], 0),
        unit=view.unit[columns],
        rate=np.append(rate[np.ix_(rows, columns)], np.full((1, len(columns)), np.nan), axis=0),
    )
    for name, one in score(shuffled, view).items():
        assert one.value == pytest.approx(plain[name].value, rel=1e-12)


def test_missing_doubled_and_non_finite_are_errors(view: SessionView) -> None:
    test = view.rows_in("test")
    whole = Prediction.of_rates(view, "encode", "m", _rates(view)[test], test)
    a = whole.arrays

    def without(**arrays: np.ndarray) -> Prediction:
        return replace(whole, arrays={**a, **arrays})

    with pytest.raises(ValueError, match=r"1 of \d+ scored row \(trial, bin\)s missing"):
        score(without(trial=a["trial"][1:], bin=a["bin"][1:], rate=a["rate"][1:]), view)
    with pytest.raises(ValueError, match="units missing"):
        score(without(unit=a["unit"][:-3], rate=a["rate"][:, :-3]), view)
    with pytest.raises(ValueError, match="more than once"):
        score(without(**{k: np.append(a[k], a[k][:1], axis=0) for k in ("trial", "bin", "rate")}), view)
    bad = a["rate"].copy()
    bad[3, :] = np.nan
    with pytest.raises(ValueError, match="non-finite"):
        score(without(rate=bad), view)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"session": "other"}, "session"),
        ({"split": "temporal"}, "split"),
        ({"fold": 3}, "fold 3"),
        ({"bin_ms": 10.0}, "10.0 ms"),
        ({"task": "guess"}, "expected one of"),
    ],
)
def test_another_identity_is_refused(view: SessionView, change: dict[str, object], message: str) -> None:
    test = view.rows_in("test")
    prediction = Prediction.of_rates(view, "encode", "m", _rates(view)[test], test)
    with pytest.raises(ValueError, match=message):
        score(replace(prediction, **change), view)  # type: ignore[arg-type]


def test_malformed_files_are_refused(view: SessionView, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        read_prediction(path)
    np.savez(path, task=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="holds Python objects"):
        read_prediction(path)
    np.savez(path, task="encode")
    with pytest.raises(ValueError, match="'model'"):
        read_prediction(path)
    head = {"task": "choice", "model": "m", "dataset": "d", "session": "s", "split": "interleaved", "fold": 0}
    np.savez(path, **head, bin_ms=20, trial=np.arange(3))
    with pytest.raises(ValueError, match="'logit' is missing"):
        read_prediction(path)
    np.savez(path, **head, bin_ms=20, trial=np.arange(3), logit=np.zeros(2))
    with pytest.raises(ValueError, match="expected one length"):
        read_prediction(path)
    np.savez(path, **head, bin_ms=20, trial=np.arange(3.0), logit=np.zeros(3))
    with pytest.raises(ValueError, match="expected integers"):
        read_prediction(path)


def test_labels_are_scored_where_they_are_observed(tiny_recording: TinyRecording) -> None:
    view = SessionView.of(tiny_recording(), fold=4)
    choice = view.trial_covariates["choice"]
    trials = view.trials_in("test")
    assert 3 in trials
    seen = trials[choice.observed[trials]]
    logit = np.random.default_rng(0).normal(size=len(seen))
    scores = score(Prediction.of(view, "choice", "m", trial=view.source_trial[seen], logit=logit), view)
    assert scores["auc"].value == pytest.approx(roc_auc_score(choice.values[seen], logit))
    assert scores["auc"].n == len(seen) == len(trials) - 1
    with pytest.raises(ValueError, match="no covariate 'side'"):
        score(Prediction.of(view, "side", "m", trial=view.source_trial[seen], logit=logit), view)


def test_choice_in_time_and_evidence(tiny_recording: TinyRecording) -> None:
    clock = np.arange(0, 40, 0.02)
    spec = CovariateSpec("evidence", "continuous", "time", resample="last")
    rng = np.random.default_rng(0)
    made = tiny_recording()
    evidence = Covariate.continuous(spec, rng.normal(size=len(clock)).cumsum(), clock)
    view = SessionView.of(tiny_recording(covariates={**made.covariates, "evidence": evidence}))
    rows = view.rows_in("test") & target_rows(view, "choice_t")
    np.testing.assert_array_equal(np.unique(view.bin[rows]), [4, 9, 14, 19, 24])
    keys = {"trial": view.source_row_trial[rows], "bin": view.bin[rows]}
    truth = view.trial_covariates["choice"].values[view.trial[rows]]
    scores = score(Prediction.of(view, "choice_t", "m", **keys, logit=2.0 * truth - 1), view)
    assert scores["auc"].value == scores["auc_300ms"].value == 1.0
    every = view.rows_in("test")
    keys = {"trial": view.source_row_trial[every], "bin": view.bin[every]}
    values = view.row_covariates["evidence"].values[every, 0].astype(float)
    scores = score(Prediction.of(view, "evidence", "m", **keys, value=values), view)
    assert scores["r2"].value == scores["r_squared"].value == pytest.approx(1)
    assert scores["partial_r2"].value == pytest.approx(1)


def test_forecast_is_trained_and_scored_on_the_last_fifth(view: SessionView) -> None:
    rows = forecast_rows(view)
    for m in np.flatnonzero(view.num_bins)[:20]:
        n = view.num_bins[m]
        assert rows[view.trial == m].sum() == n - int(0.8 * n + 1e-9)
    test = rows & view.rows_in("test")
    mean = np.broadcast_to(view.train_mean(rows), view.counts.shape)
    scores = score(Prediction.of_rates(view, "forecast", "m", mean[test], test), view)
    assert scores["bps"].value == pytest.approx(0, abs=1e-12)


def test_cosmooth_folds_are_disjoint_and_without_twins(tiny_recording: TinyRecording, view: SessionView) -> None:
    folds = unit_folds(view, "cosmooth")
    held = np.concatenate([fold.held_out for fold in folds])
    assert len(folds) == 5
    assert len(np.unique(held)) == len(held) == 5 * round(0.1 * len(view.unit))
    # A unit whose spikes repeat another's is in no fold of that one.
    made = tiny_recording()
    copy = np.where(made.spike_units == 1, 0, made.spike_units)
    times = np.concatenate([made.spike_times, made.spike_times[copy == 0]])
    units = np.concatenate([copy, np.ones((copy == 0).sum(), np.int32)])
    order = np.argsort(times, kind="stable")
    twins = SessionView.of(tiny_recording(spike_times=times[order], spike_units=units[order]))
    for fold in unit_folds(twins, "cosmooth"):
        held_out, inputs = set(twins.unit[fold.held_out]), set(twins.unit[fold.inputs])
        assert not held_out & inputs
        assert not (held_out & {0, 1} and inputs & {0, 1})
    columns = np.sort(held)[::-1]
    test = view.rows_in("test")
    rate = np.tile(view.train_mean()[columns], (int(test.sum()), 1))
    keys = {"trial": view.source_row_trial[test], "bin": view.bin[test]}
    only = Prediction.of(view, "cosmooth", "m", **keys, unit=view.unit[columns], rate=rate)
    assert score(only, view)["bps"].value == pytest.approx(0, abs=1e-12)
