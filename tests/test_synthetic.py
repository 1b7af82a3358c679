"""The synthetic animals are what they claim: truth kept, regions in dynamics and not in rates, behavior in spikes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_recipes import synthetic
from data_recipes.synthetic import COUPLING, DYNAMICS, draw_spikes, read, sessions, truth
from foundation.binning import bin_covariate, bin_spikes
from foundation.recording import Recording
from foundation.splits import TEST, TRAIN, interleaved_roles

ARGUMENTS = {"subject": 0, "session": 0, "num_units": 40, "num_trials": 150, "seed": 3}


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    return truth(**ARGUMENTS)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return read(**ARGUMENTS).validate()


@pytest.fixture(scope="module")
def animals(recording: Recording) -> list[Recording]:
    return [recording, *(read(**(ARGUMENTS | {"subject": subject})) for subject in range(1, 7))]


def leave_one_out(animals: list[Recording], features: list[np.ndarray]) -> float:
    """Balanced accuracy for the region of units of animals that the classifier has not seen."""
    labels = [r.units["region"].to_numpy() for r in animals]
    predicted = []
    for left_out in range(len(animals)):
        train = [i for i in range(len(animals)) if i != left_out]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
        model.fit(np.concatenate([features[i] for i in train]), np.concatenate([labels[i] for i in train]))
        predicted.append(model.predict(features[left_out]))
    return float(balanced_accuracy_score(np.concatenate(labels), np.concatenate(predicted)))


def test_same_arguments_same_recording(recording: Recording) -> None:
    again = read(**ARGUMENTS)
    assert np.array_equal(again.spike_times, recording.spike_times)
    assert np.array_equal(again.spike_units, recording.spike_units)
    for name, covariate in recording.covariates.items():
        assert np.array_equal(covariate.values, again.covariates[name].values)
    for other in ({"seed": 4}, {"subject": 1}, {"session": 1}):
        assert read(**(ARGUMENTS | other)).spike_times[:50].tolist() != recording.spike_times[:50].tolist()


def test_truth_is_what_the_recording_was_made_of(world: dict[str, Any], recording: Recording) -> None:
    """Latents explain the rates; by the time-rescaling theorem the spikes are drawn from these rates."""
    log_rate = world["latents"] @ world["loadings"] + world["log_rate_drift"]
    rates = world["rates_hz"]
    offset = np.log(rates) - log_rate
    free = rates < 199
    for unit in range(rates.shape[1]):
        assert np.ptp(offset[free[:, unit], unit]) < 1e-3
    assert recording.units["region"].tolist() == world["regions"].tolist()
    assert recording.trials.equals(world["trials"])
    for name, covariate in recording.covariates.items():
        assert np.array_equal(covariate.values, world["covariates"][name].values)
    edges = world["step_s"] * np.arange(len(rates) + 1)
    assert recording.duration_s == pytest.approx(edges[-1])
    p_values, flat_p_values = [], []
    for unit in range(recording.num_units):
        integral = np.concatenate([[0.0], np.cumsum(rates[:, unit].astype(float)) * world["step_s"]])
        times = recording.spike_times[recording.spike_units == unit]
        intervals = np.diff(np.interp(times, edges, integral))
        p_values.append(stats.kstest(intervals, "expon").pvalue)
        assert abs(len(times) - integral[-1]) < 5 * np.sqrt(integral[-1])
        flat_p_values.append(stats.kstest(np.diff(times) * len(times) / edges[-1], "expon").pvalue)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    # The same test sees that constant rates are wrong.
    assert stats.kstest(flat_p_values, "uniform").pvalue < 1e-9


def test_draw_spikes_is_poisson_within_and_across_steps() -> None:
    rates = np.array([[10.0, 0.0], [100.0, 50.0]])
    draws = [draw_spikes(rates, 0.5, np.random.default_rng(seed)) for seed in range(400)]
    counts = np.array([[np.sum((u == n) & (t // 0.5 == k)) for n in (0, 1) for k in (0, 1)] for t, u in draws])
    expected = np.array([5.0, 50.0, 0.0, 25.0])
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=4 * np.sqrt(50 / 400))
    np.testing.assert_allclose(counts.var(axis=0, ddof=1), expected, rtol=0.35)
    inside = np.concatenate([t[(u == 0) & (t >= 0.5)] for t, u in draws])
    assert stats.kstest(inside, stats.uniform(0.5, 0.5).cdf).pvalue > 1e-3


def test_no_latent_is_in_the_recording(world: dict[str, Any], recording: Recording) -> None:
    assert set(recording.covariates) == {"contrast", "block", "choice", "wheel_speed", "whisker_energy", "lick"}
    hidden = {"belief", "evidence", "rates_hz", *world["latent_names"]}
    assert not hidden & (set(recording.trials) | set(recording.units) | set(recording.covariates))


def test_trials_are_ibl_like(recording: Recording) -> None:
    contrast, block = recording.covariates["contrast"].values, recording.covariates["block"].values
    choice = recording.covariates["choice"]
    assert set(np.abs(contrast)) == {0.0, 0.0625, 0.125, 0.25, 1.0}
    assert set(block) == {0, 1, 2}
    left = {b: np.mean(contrast[(block == b) & (contrast != 0)] < 0) for b in (0, 2)}
    assert left[2] - left[0] > 0.35
    strong = choice.observed & (np.abs(contrast) == 1)
    assert np.mean((contrast > 0)[strong] == choice.values[strong]) > 0.9
    weak = choice.observed & (np.abs(contrast) == 0.0625)
    assert 0.4 < np.mean((contrast > 0)[weak] == choice.values[weak]) < 0.9
    gaps = recording.trials["start_s"].to_numpy()[1:] - recording.trials["stop_s"].to_numpy()[:-1]
    assert gaps.min() > 0.2
    assert recording.covariates["wheel_speed"].values.min() >= 0
    assert not recording.covariates["whisker_energy"].observed.all()


def test_rates_are_realistic_and_equal_across_regions(animals: list[Recording]) -> None:
    rates = [np.bincount(r.spike_units, minlength=r.num_units) / r.duration_s for r in animals]
    assert np.concatenate(rates).min() > 0.5
    assert np.concatenate(rates).max() < 35
    regions = np.concatenate([r.units["region"] for r in animals])
    groups = [np.concatenate(rates)[regions == region] for region in COUPLING]
    assert stats.kruskal(*groups).pvalue > 0.01


def autocorrelations(recording: Recording, bin_size_s: float = 0.02, num_lags: int = 40) -> np.ndarray:
    counts = bin_spikes(recording, 0.0, int(recording.duration_s / bin_size_s), bin_size_s).astype(float)
    counts -= counts.mean(axis=0)
    lagged = [(counts[lag:] * counts[:-lag]).mean(axis=0) for lag in range(1, num_lags + 1)]
    return np.stack(lagged, axis=1) / counts.var(axis=0)[:, None]


def test_region_shows_in_dynamics_and_not_in_rate(animals: list[Recording]) -> None:
    rate = [np.log(np.bincount(r.spike_units, minlength=r.num_units) / r.duration_s)[:, None] for r in animals]
    in_trials = [
        np.log(0.1 + np.mean([bin_spikes(r, s, 1, 2.0)[0] for s in r.trials["start_s"]], axis=0))[:, None]
        for r in animals
    ]
    rate_only = leave_one_out(animals, [np.concatenate(pair, axis=1) for pair in zip(rate, in_trials)])
    position = [np.linspace(0, 1, r.num_units)[:, None] for r in animals]
    dynamics = leave_one_out(animals, [autocorrelations(r) for r in animals])
    assert rate_only < 0.36
    assert leave_one_out(animals, position) < 0.36
    assert dynamics > 0.5


def test_private_latents_have_the_planted_time_course(world: dict[str, Any]) -> None:
    step = world["step_s"]
    for region, (decay_s, frequency_hz) in DYNAMICS.items():
        latent = world["latents"][:, world["latent_names"].index(f"{region}_0")].astype(float)
        for lag in (2, 8, 20):
            found = np.mean(latent[lag:] * latent[:-lag]) / np.mean(latent**2)
            planted = np.exp(-lag * step / decay_s) * np.cos(2 * np.pi * frequency_hz * lag * step)
            assert found == pytest.approx(planted, abs=0.12)


def trial_counts(recording: Recording, bin_size_s: float = 0.1) -> np.ndarray:
    starts = recording.trials["start_s"]
    return np.stack([bin_spikes(recording, s, round(2.0 / bin_size_s), bin_size_s) for s in starts]).astype(float)


def each(animals: list[Recording]) -> Iterator[tuple[Recording, np.ndarray, np.ndarray, np.ndarray]]:
    for recording in animals:
        roles = interleaved_roles(len(recording.trials))
        yield recording, trial_counts(recording), roles == TRAIN, roles == TEST


def test_choice_can_be_read_from_single_trials_but_not_perfectly(animals: list[Recording]) -> None:
    scores = []
    for recording, counts, train, test in each(animals):
        choice = recording.covariates["choice"]
        features = counts[:, 5:].reshape(len(counts), -1)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=300))
        model.fit(features[train & choice.observed], choice.values[train & choice.observed])
        rows = test & choice.observed
        scores.append(roc_auc_score(choice.values[rows], model.decision_function(features[rows])))
    assert 0.75 < np.mean(scores) < 0.99


def test_wheel_speed_can_be_read_and_predicts_spikes(animals: list[Recording]) -> None:
    decoded, encoded = [], []
    for recording, counts, train, test in each(animals):
        wheel = recording.covariates["wheel_speed"]
        speed = np.stack([bin_covariate(wheel, s, 20, 0.1)[0][:, 0] for s in recording.trials["start_s"]])
        x = [counts[rows].reshape(-1, counts.shape[2]) for rows in (train, test)]
        y = [np.log(0.2 + speed[rows].ravel()) for rows in (train, test)]
        decoded.append(RidgeCV(np.logspace(0, 5, 6)).fit(x[0], y[0]).score(x[1], y[1]))
        lags = [np.stack([np.roll(v.reshape(-1, 20), k, axis=1).ravel() for k in (-1, 0, 1)], axis=1) for v in y]
        predicted = RidgeCV(np.logspace(0, 5, 6)).fit(lags[0], x[0]).predict(lags[1])
        unit_r2 = 1 - ((x[1] - predicted) ** 2).sum(axis=0) / ((x[1] - x[0].mean(axis=0)) ** 2).sum(axis=0)
        encoded.append(unit_r2.mean())
    assert 0.15 < np.mean(decoded) < 0.9
    assert np.mean(encoded) > 0.01


def test_units_share_more_than_behavior(animals: list[Recording]) -> None:
    """Other units predict a unit beyond what task and wheel do, so there is something for co-smoothing to find."""
    gains = []
    for recording, counts, train, test in each(animals[:4]):
        task = np.stack([recording.covariates[name].values for name in ("contrast", "choice")], axis=1)
        task = np.concatenate([task, np.ones((len(task), 1))], axis=1)
        behavior = np.einsum("rk,tb->rtkb", task, np.eye(20)).reshape(len(counts), 20, -1)
        wheel = recording.covariates["wheel_speed"]
        speed = np.stack([bin_covariate(wheel, s, 20, 0.1)[0] for s in recording.trials["start_s"]])
        behavior = np.concatenate([behavior, speed], axis=2)
        for fold in range(3):
            hidden = np.arange(recording.num_units) % 3 == fold
            scores = []
            for features in (behavior, np.concatenate([behavior, counts[:, :, ~hidden]], axis=2)):
                x = [features[rows].reshape(-1, features.shape[2]) for rows in (train, test)]
                y = [counts[rows][:, :, hidden].reshape(len(v), -1) for rows, v in zip((train, test), x)]
                model = make_pipeline(StandardScaler(), Ridge(1000.0)).fit(x[0], y[0])
                scores.append(r2_score(y[1], model.predict(x[1]), multioutput="raw_values"))
            gains.extend(scores[1] - scores[0])
    assert np.mean(gains) > 0.01
    assert stats.wilcoxon(gains, alternative="greater").pvalue < 1e-6


def test_sessions_lists_what_it_is_asked_for() -> None:
    jobs = sessions(num_subjects=2, sessions_per_subject=3, num_units=9)
    assert list(jobs) == [f"synthetic/animal0{i}_{k}" for i in range(2) for k in range(3)]
    small = read(**(jobs["synthetic/animal01_2"] | {"num_trials": 1}))
    assert small.info.recording_id == "synthetic/animal01_2"
    assert small.info.subject_id == "animal01"
    assert len(small.trials) == 1
    with pytest.raises(ValueError, match="num_trials is 0"):
        sessions(num_trials=0)
    with pytest.raises(ValueError, match="expected none"):
        sessions(synthetic.Path("somewhere"))
