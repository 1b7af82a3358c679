"""Unit identity: views as stated, seeds, held-out time, embeddings, retrieval, files; and what the studies stand on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr

from eval.spike_train_features import rate_and_isi, spike_train_features
from eval.studies import planted_units, unit_identity
from eval.studies.planted_population import PlantedPopulation, planted_population
from eval.unit_recognition import coupling_features, own_train_features, stability_whitening
from foundation.corpus import Corpus
from foundation.optim import OptimConfig
from foundation.recording import Recording
from foundation.splits import stretches
from foundation.tensor_file import read_tensors, write_tensors
from foundation.unit_encoder import UnitEncoderConfig
from foundation.unit_identity import UnitIdentity, UnitIdentityConfig, recognized
from foundation.unit_views import ViewConfig, draw_views, recorded_counts


def config(**fields: object) -> UnitIdentityConfig:
    encoder = UnitEncoderConfig(patch_bins=10, width=16, heads=2, identity_dimension=8, dropout=0.0)
    views = ViewConfig(window_bins=50, max_distance_bins=150, max_units=16)
    given = {"encoder": encoder, "views": views, "steps": 12, "validate_every": 4, **fields}
    return UnitIdentityConfig(**given)  # type: ignore[arg-type]


def population(num_units: int = 12, num_bins: int = 600, seed: int = 0) -> np.ndarray:
    """Units of different rates and bursts, so that they can be told apart."""
    rng = np.random.default_rng(seed)
    rate = np.linspace(0.1, 1.2, num_units)
    burst = np.repeat(rng.gamma(0.5, 2.0, (num_bins // 10, num_units)), 10, axis=0)
    return rng.poisson(rate * np.where(np.arange(num_units) % 2, burst, 1.0)).astype(np.uint8)


def test_views_are_windows_of_the_population_as_promised() -> None:
    """Each row is found in the population, at one start per view; shares, distances and pairs are as stated."""
    counts = population(20, 400)
    counts[:, 3] = 0
    views_config = ViewConfig(window_bins=50, max_distance_bins=120, min_kept=0.5, max_units=16)
    sizes, distances = [], []
    for seed in range(30):
        views = draw_views(counts, views_config, np.random.default_rng(seed))
        starts, units = [], []
        for half in views.counts:
            assert half.any(axis=1).all()
            sizes.append(len(half))
            found = [
                [n for n in range(20) if (counts[s : s + 50, n] == half[row]).all()]
                for s in range(351)
                if any((counts[s : s + 50, n] == half[0]).all() for n in range(20))
                for row in range(len(half))
            ]
            assert all(len(names) == 1 for names in found)
            units.append([names[0] for names in found])
            starts.append(next(s for s in range(351) if (counts[s : s + 50, units[-1][0]] == half[0]).all()))
        distances.append(abs(starts[0] - starts[1]))
        assert {3} not in [set(units[0]), set(units[1])]
        assert [units[0][a] for a, _ in views.pairs] == [units[1][b] for _, b in views.pairs]
        assert {units[0][a] for a, _ in views.pairs} == set(units[0]) & set(units[1])
    assert min(sizes) >= 7
    assert max(sizes) <= 16
    assert min(distances) >= 50
    assert max(distances) <= 120
    assert max(distances) > 100


def test_views_follow_the_generator_alone_and_not_the_order_of_units() -> None:
    counts = population()
    one, two = (draw_views(counts, ViewConfig(50, 150), np.random.default_rng(5)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one.counts, two.counts))
    assert (one.pairs == two.pairs).all()
    # Rows are in random order: unit k is in no place more often than in another.
    places = [np.argsort(draw_views(counts, ViewConfig(50, 150, 1.0), np.random.default_rng(s)).pairs[:, 0])[0]
              for s in range(200)]  # fmt: skip
    assert np.bincount(places, minlength=12).max() < 45


def test_training_learns_and_is_the_same_bit_for_bit() -> None:
    populations = [population(seed=s) for s in range(3)]
    state = torch.random.get_rng_state()
    one = UnitIdentity(config(encoder=UnitEncoderConfig(10, 16, 2, identity_dimension=8, dropout=0.1))).fit(populations)
    assert (torch.random.get_rng_state() == state).all()
    torch.rand(7)
    two = UnitIdentity(one.config).fit(populations)
    again = two.fit(populations)
    first = one.transform(populations[0])
    assert first.tobytes() == two.transform(populations[0]).tobytes() == again.transform(populations[0]).tobytes()
    assert one.history == two.history
    assert one.history[-1][2] < one.history[0][2]
    other = UnitIdentity(config(seed=1)).fit(populations)
    assert not np.allclose(other.transform(populations[0]), first)


def test_units_are_recognized_at_another_time_in_a_population_never_seen() -> None:
    model = UnitIdentity(config(steps=50, validate_every=50)).fit([population(num_bins=1200, seed=s) for s in range(4)])
    unseen = population(num_bins=1200, seed=99)
    halves = unseen[:600], unseen[600:]
    before = UnitIdentity(config())
    learned, chance = (recognized(*(m.project(m.transform(h)) for h in halves)).mean() for m in (model, before))
    assert learned > 4 / 12
    assert learned > chance


def test_the_state_with_the_lowest_held_out_loss_is_kept() -> None:
    """At a rate far too high the later states are worse; what is kept has the best loss in the history."""
    populations = [population(seed=s) for s in range(2)]
    # Training that diverges depends on the last bit, and so on the processor: at one of these the last state is worse.
    for rate in (0.3, 0.5, 1.0, 3.0):
        given = config(optim=OptimConfig(lr=rate, warmup_share=0.7), steps=24, validate_every=4)
        model = UnitIdentity(given).fit(populations)
        losses = [held_out for _, _, held_out in model.history]
        best = int(np.argmin(losses))
        if best < len(losses) - 1:
            break
    assert best < len(losses) - 1
    looks = [
        draw_views(p[480:], given.views, np.random.default_rng([0, 1, k, draw]))
        for k, p in enumerate(populations)
        for draw in range(2)
    ]
    with torch.no_grad():
        kept = torch.cat([model._losses([pair]) for pair in looks]).mean().item()
    assert kept == pytest.approx(losses[best], abs=1e-6)


def test_held_out_time_reaches_no_gradient() -> None:
    """Other spikes in the last fifth: the same weights at every step, so the same training losses."""
    one, two = population(), population()
    two[480:] = population(seed=7)[480:]
    histories = [UnitIdentity(config()).fit([p]).history for p in (one, two)]
    assert [h[1] for h in histories[0]] == [h[1] for h in histories[1]]
    assert [h[2] for h in histories[0]] != [h[2] for h in histories[1]]


def test_transform_is_the_mean_over_the_windows_in_which_a_unit_fires() -> None:
    model, counts = UnitIdentity(config()), population(num_bins=120)
    counts[50:, 2] = 0
    counts[0, 2] = 1
    found = model.transform(counts)
    assert found.shape == (12, 16)
    assert found.dtype == np.float32
    sums, number = np.zeros((12, 16)), np.zeros(12)
    for start in (0, 50, 70):
        units = [n for n in range(12) if counts[start : start + 50, n].any()]
        with torch.no_grad():
            part = model.encoder(torch.tensor(counts[start : start + 50, units].T.astype(np.float32)), [len(units)])
        sums[units] += part.numpy()
        number[units] += 1
    assert number[2] == 1
    np.testing.assert_allclose(found, sums / number[:, None], atol=1e-5)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(model.transform(counts[:, order]), found[order], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.project(found), axis=1), 1, rtol=1e-5)
    assert model.transform(counts[:, :1]).shape == (1, 16)


def test_saved_and_loaded_models_are_the_same(tmp_path: Path) -> None:
    model = UnitIdentity(config(steps=5, validate_every=5)).fit([population()])
    model.save(tmp_path / "units.safetensors")
    loaded = UnitIdentity.load(tmp_path / "units.safetensors")
    assert loaded.config == model.config
    assert loaded.history == model.history
    assert loaded.transform(population()).tobytes() == model.transform(population()).tobytes()
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"no safetensors")
    for name in ("other", "junk", "absent"):
        with pytest.raises(ValueError, match=r"foundation\.unit_identity/1"):
            UnitIdentity.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(("name", "value"), [("width", 2**40), ("joint_blocks", 10**12), ("identity_dimension", 5)])
def test_a_tampered_header_is_refused_without_memory(name: str, value: int, tmp_path: Path) -> None:
    path = tmp_path / "units.safetensors"
    UnitIdentity(config()).save(path)
    document, tensors = read_tensors(path, "foundation.unit_identity/1")
    document["config"]["encoder"][name] = value
    write_tensors(path, "foundation.unit_identity/1", document, tensors)
    with pytest.raises(ValueError, match=r"not what UnitIdentity\.save writes"):
        UnitIdentity.load(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((600, 0)), "expected numbers"),
        (np.full((600, 3), np.nan), "not finite"),
        (np.full((600, 3), -1), "0 or more"),
        (population(num_bins=200), "fewer views.window_bins"),
        (np.ones((600, 1)), "two units"),
        (np.array([["a"]]), "expected numbers"),
    ],
)
def test_populations_that_cannot_be_learned_from_are_refused(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnitIdentity(config()).fit([bad])


def test_a_unit_without_spikes_cannot_be_embedded() -> None:
    counts = population()
    counts[:, 4] = 0
    with pytest.raises(ValueError, match=r"units \[4\]"):
        UnitIdentity(config()).transform(counts)
    with pytest.raises(ValueError, match="one window of 50"):
        UnitIdentity(config()).transform(counts[:49])


def test_settings_that_contradict_themselves_are_refused() -> None:
    for wrong in ({"held_out": 1.0}, {"temperature": 0.0}, {"steps": 0}, {"views": ViewConfig(55, 100)}):
        with pytest.raises(ValueError, match=r"expected"):
            config(**wrong)
    for values in ((50, 40), (0, 100), (50, 100, 0.0), (50, 100, 0.5, 1)):
        with pytest.raises(ValueError, match="expected"):
            ViewConfig(*values)


def test_recognition_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(9, 3))
    two = one + 0.7 * rng.normal(size=(9, 3))
    hits = np.zeros(9)
    for a, b in ((one, two), (two, one)):
        for n in range(9):
            hits[n] += 0.5 * (int(np.argmin([((a[n] - b[k]) ** 2).sum() for k in range(9)])) == n)
    np.testing.assert_array_equal(recognized(one, two), hits)
    assert 0 < hits.mean() < 1
    np.testing.assert_allclose(recognized(np.ones((5, 2)), np.ones((5, 2))), 0.2)
    with pytest.raises(ValueError, match="same units"):
        recognized(one, two[:4])


def test_recorded_counts_join_the_usable_trials(tiny_recording: Callable[..., Recording]) -> None:
    recording = tiny_recording()
    counts = recorded_counts(recording, 0.02)
    usable = recording.trials["usable"].to_numpy(bool)
    assert counts.shape == (25 * usable.sum(), 3)
    expected = np.zeros(3, int)
    for start, stop in stretches(recording)[usable]:
        _, units = recording.spikes_between(start - 1e-9, stop - 1e-9)
        expected += np.bincount(units, minlength=3)
    assert (counts.sum(axis=0) == expected).all()


def test_spike_train_features_of_a_poisson_train_say_nothing_but_the_rate() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 2000, 20_000))
    values, names = spike_train_features(times, np.zeros(20_000, int), 1, 2000.0)
    found = dict(zip(names, values[0]))
    assert found["log_rate"] == pytest.approx(np.log(10.01))
    assert found["isi_quantile_0.5"] == pytest.approx(np.log(np.log(2) / 10), abs=0.03)
    assert found["isi_cv"] == pytest.approx(0, abs=0.03)
    assert found["isi_lv"] == pytest.approx(1, abs=0.03)
    for name, value in found.items():
        if name.startswith(("autocorrelogram", "isi_below")):
            assert abs(value) < 0.15, name
    assert abs(found["fano_1s"]) < 0.15


def test_spike_train_features_see_only_the_unit_itself() -> None:
    rng = np.random.default_rng(1)
    times, units = np.sort(rng.uniform(0, 100, 900)), rng.integers(0, 4, 900)
    values, names = spike_train_features(times, units, 5, 100.0)
    assert values.shape == (5, len(names))
    assert np.isfinite(values).all()
    for unit in range(5):
        alone = times[units == unit]
        np.testing.assert_array_equal(
            values[unit], spike_train_features(alone, np.zeros(len(alone), int), 1, 100.0)[0][0]
        )
    assert names[rate_and_isi(names)[0]] == "log_rate"
    assert not any(name.startswith(("fano", "auto")) for name in (names[k] for k in rate_and_isi(names)))
    with pytest.raises(ValueError, match="sorted"):
        spike_train_features(times[::-1], units, 5, 100.0)


def planted(seed: int, **fields: object) -> PlantedPopulation:
    given: dict[str, object] = {
        "units_per_type": 20,
        "duration_s": 400.0,
        "bin_size_s": 0.02,
        "time_constants_s": (0.1, 1.0),
        "shared": (0.5, 1.0),
        "gain": 1.0,
        "rate_hz": 12.0,
        **fields,
    }
    return planted_population(**given, rng=np.random.default_rng(seed))  # type: ignore[arg-type]


def test_planted_units_are_as_variable_and_as_slow_as_their_law_says_whether_coupled_or_not() -> None:
    """Moments of a log-normal Cox process: mean m, and autocovariance m^2 (exp(g^2 rho) - 1) and Poisson noise."""
    own, bins = [], 5
    for seed in range(4):
        population = planted(seed)
        blocks = population.counts.reshape(-1, bins, 80).sum(axis=1).astype(float)
        for unit in range(80):
            x = blocks[:, unit]
            lagged = np.mean((x[:-1] - x.mean()) * (x[1:] - x.mean()))
            own.append((population.kind[unit], x.mean(), x.var(), lagged))
    found = pd.DataFrame(own, columns=["kind", "mean", "var", "lagged"]).groupby("kind").mean()
    np.testing.assert_allclose(found["mean"], 12 * 0.1, rtol=0.12)
    for time_constant, kinds in ((0.1, (0, 1)), (1.0, (2, 3))):
        rho = np.exp(np.exp(-0.02 * np.arange(2 * bins) / time_constant)) - 1
        # Covariance of two blocks of 5 bins: sum over pairs of bins.
        covariance = [
            0.24**2 * sum(rho[abs(lag * bins + i - j)] for i in range(bins) for j in range(bins)) for lag in (0, 1)
        ]
        for kind in kinds:
            assert found.loc[kind, "var"] == pytest.approx(covariance[0] + 1.2, rel=0.15)
            assert found.loc[kind, "lagged"] == pytest.approx(covariance[1], rel=0.25)


def test_planted_coupling_shows_in_correlations_and_grows_with_the_shared_part() -> None:
    population = planted(0, duration_s=200.0)
    counts = population.counts.reshape(-1, 10, 80).sum(axis=1).astype(float)
    correlation = np.corrcoef(counts.T)
    np.fill_diagonal(correlation, np.nan)
    for kind in range(4):
        mine = population.kind == kind
        within = np.nanmean(correlation[np.ix_(mine, mine)])
        assert (within > 0.15) == (kind % 2 == 1)
        assert (population.shared[mine] > 0).all() == (kind % 2 == 1)
    coupled = population.kind == 3
    strength = np.nanmean(correlation[np.ix_(coupled, coupled)], axis=1)
    assert spearmanr(strength, population.shared[coupled]).statistic > 0.8
    same = planted(0, duration_s=200.0)
    assert (same.counts == population.counts).all()
    assert (planted(1, duration_s=200.0).counts != population.counts).any()


def test_whitening_makes_change_white_and_recognizes_by_what_is_stable() -> None:
    """One stable column among loud wandering ones: unwhitened distance is lost in them."""
    rng = np.random.default_rng(0)
    identity = rng.normal(size=(2, 60, 1))
    first, second = (
        [
            np.concatenate([who + 0.02 * rng.normal(size=(60, 1)), 30 * rng.normal(size=(60, 3))], axis=1)
            for who in identity
        ]
        for _ in range(2)
    )
    whitening = stability_whitening(first, second)
    change = np.concatenate([(a - b) @ whitening for a, b in zip(first, second)])
    np.testing.assert_allclose(np.cov(change.T), np.eye(4), atol=0.05)
    assert recognized(first[0], second[0]).mean() < 0.1
    assert recognized(first[0] @ whitening, second[0] @ whitening).mean() > 0.4


def test_features_of_counts_are_those_of_their_spikes_and_do_not_follow_the_order_of_units() -> None:
    counts = population(num_bins=2000)
    values, names = own_train_features(counts, 0.02)
    np.testing.assert_allclose(values[:, names.index("log_rate")], np.log(counts.sum(axis=0) / 40 + 0.01), rtol=1e-12)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(own_train_features(counts[:, order], 0.02)[0], values[order])
    coupling = coupling_features(counts, 0.02)
    np.testing.assert_allclose(coupling_features(counts[:, order], 0.02), coupling[order], atol=1e-10)


TINY = {
    "encoder": UnitEncoderConfig(patch_bins=25, width=16, heads=2, temporal_blocks=1, joint_blocks=1, dropout=0.0),
    "views": ViewConfig(window_bins=100, max_distance_bins=300),
    "steps": 3,
    "validate_every": 3,
}


def test_the_study_of_planted_units_reports_every_input_and_its_controls() -> None:
    study = planted_units.Config(
        train_populations=2,
        test_populations=2,
        units_per_type=5,
        duration_s=40,
        seeds=[0],
        model=UnitIdentityConfig(**TINY),
    )
    findings = planted_units.run(study)
    table = findings.tables[0].frame.set_index("input")
    assert {planted_units.FULL, planted_units.BLIND, planted_units.ISI, "unit embedding, labels permuted"} <= set(
        table.index
    )
    # The time constant is in the own spike train, the coupling is not.
    assert table.loc["rate + ISI", "time_constant"] > 0.8
    assert table.loc["own train + correlations", "coupling"] > table.loc["rate + ISI", "coupling"]
    assert table.loc[planted_units.FULL, "recognized_coupled"] <= 1
    with pytest.raises(ValueError, match="two time constants"):
        planted_units.Config(time_constants_s=[0.1])


def test_the_study_of_recordings_never_trains_on_the_rats_that_it_scores(
    synthetic_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    animals = sorted(set(synthetic_corpus.subjects.values()))
    study = unit_identity.Config(
        corpus=str(synthetic_corpus.path),
        held_out=[animals[:2], animals[2:]],
        probes={"coarse": {"CA1": "hippocampus", "VISp": "cortex", "MOs": "cortex", "TH": "thalamus"}},
        seeds=[0],
        model=UnitIdentityConfig(**TINY),
    )
    seen = []
    fit = UnitIdentity.fit

    def watched(model: UnitIdentity, populations: list[np.ndarray]) -> UnitIdentity:
        seen.append({hashlib.sha256(p.tobytes()).hexdigest() for p in populations})
        return fit(model, populations)

    monkeypatch.setattr(UnitIdentity, "fit", watched)
    findings = unit_identity.run(study)
    assert len(seen) == 4
    for number, group in enumerate(study.held_out):
        mine = {
            hashlib.sha256(session.counts.tobytes()).hexdigest()
            for session in unit_identity._sessions(study).values()
            if session.subject in group
        }
        for hashes in seen[2 * number : 2 * number + 2]:
            assert hashes
            assert not hashes & mine
    tables = {table.name: table.frame for table in findings.tables}
    scored = tables["regions_per_animal"]
    assert set(scored["subject"]) == set(animals)
    assert {"unit embedding", "rate only", "array index", "own spike train"} <= set(scored["input"])
    assert tables["recognition"]["sessions"].eq(4).all()
    assert tables["recognition"]["recognized"].between(0, 1).all()
    with pytest.raises(ValueError, match="held_out names"):
        unit_identity.run(replace(study, held_out=[["nobody"]]))
    with pytest.raises(ValueError, match="each animal once"):
        replace(study, held_out=[["a", "a"]])
