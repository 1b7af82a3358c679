"""The doctor against naive loops, and against recordings broken on purpose in every way that it knows."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from data_recipes.luo2025 import read as read_luo2025
from eval.doctor import DamagedCorpus, choose_pages, examine
from eval.doctor_alignment import Alignment, align, components
from eval.doctor_axes import seconds_inside
from eval.doctor_checks import CURES, alignment_findings, findings_of
from eval.doctor_clock import Clock, time_signals
from eval.doctor_facts import facts_of, inside_domain, observed_share, silent_units, unit_intervals
from eval.doctor_page import page
from foundation.corpus import Corpus, write_manifest
from foundation.durable import CorpusError
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingInfo, empty_trials
from foundation.recording_folder import write_recording

Tiny = Callable[..., Recording]
STOP_S = 240.0


def simulate(session: str = "a", subject: str = "rat1", seed: int = 0, delay_s: float = 0.0) -> Recording:
    """12 units with a refractory period of 2 ms whose rates follow the speed of the animal `delay_s` later."""
    rng = np.random.default_rng(seed)
    step = 0.01
    clock = np.arange(0, STOP_S, step)
    speed = np.exp(gaussian_filter1d(rng.normal(size=len(clock)), 8) * 4)
    gains = rng.uniform(-1.5, 1.5, 12)
    seen = np.log(np.roll(speed, round(delay_s / step)))
    times, units = [], []
    for unit, gain in enumerate(gains):
        fired = clock[rng.random(len(clock)) < 12 * step * np.exp(gain * seen)] + rng.uniform(0, step - 0.002)
        times.append(fired)
        units.append(np.full(len(fired), unit))
    order = np.argsort(np.concatenate(times), kind="stable")
    start = np.arange(40) * 5.5 + rng.uniform(1, 3, 40)
    specs = {
        "speed": CovariateSpec("speed", "continuous", "time", unit="m/s"),
        "choice": CovariateSpec("choice", "categorical", "trial", num_classes=2),
        "lick": CovariateSpec("lick", "event", "time"),
    }
    trials = {"start_s": start, "stop_s": start + 2, "usable": True, "source_index": np.arange(40)}
    name = f"sim/{session}"
    return Recording(
        RecordingInfo(name, subject, "test 1", counts={"units in": 14, "units out: noise": 2, "units kept": 12}),
        np.concatenate(times)[order],
        np.concatenate(units)[order].astype(np.int32),
        pd.DataFrame({"unit_id": [f"{name}/{u}" for u in range(12)], "region": ["CA1"] * 6 + ["VISp"] * 5 + [""]}),
        pd.DataFrame(trials),
        np.array([[0.0, STOP_S]]),
        {
            "speed": Covariate.continuous(specs["speed"], speed, clock),
            "choice": Covariate.categorical(specs["choice"], rng.integers(0, 2, 40)),
            "lick": Covariate.events(specs["lick"], rng.uniform(0, STOP_S, 150)),
        },
    ).validate()


@pytest.fixture(scope="module")
def healthy() -> Recording:
    return simulate()


def checks(recording: Recording) -> set[str]:
    return {finding.check for finding in findings_of(recording.validate(), facts_of(recording))}


def with_covariate(recording: Recording, name: str, **fields: Any) -> Recording:
    changed = replace(recording.covariates[name], **fields)
    return replace(recording, covariates=recording.covariates | {name: changed})


def write(root: Path, *recordings: Recording) -> Path:
    for recording in recordings:
        write_recording(root, recording)
    write_manifest(root)
    return root


# Numbers against naive loops.


def test_the_profile_is_the_sum_of_squared_correlations(healthy: Recording) -> None:
    clock = Clock.of(healthy)
    assert clock.mask.tolist() == [True] * 4800 + [False] * 40  # what a lag shifts out of the domain, nothing meets
    x = components(healthy, clock)[clock.mask].astype(float)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(x.shape[1]), atol=1e-3)
    kind, values, seen = time_signals(healthy, clock)["speed"]
    y = clock.high_pass(values, seen)[clock.mask, 0].astype(float)
    found = next(a for a in align(healthy) if a.signal == "speed")
    assert kind == "behavior"
    for row in (0, 17, 40, 43, 80):
        shift = round(found.lags_s[row] / clock.bin_size_s)
        pairs = [(x[t + shift], y[t]) for t in range(len(y)) if 0 <= t + shift < len(y)]
        correlation = sum(a * b for a, b in pairs) / np.sqrt(len(pairs) * len(y))
        assert found.profile[row] == pytest.approx((correlation**2).sum(), rel=0.02, abs=2e-5)


@pytest.mark.parametrize("delay_s", [-0.5, 0.0, 0.3])
def test_the_lag_is_the_delay_of_the_spikes(delay_s: float) -> None:
    found = next(a for a in align(simulate(delay_s=delay_s)) if a.signal == "speed")
    assert found.lag_s == pytest.approx(delay_s, abs=0.051)
    assert found.related
    assert found.z > 30


def test_bins_of_a_domain_in_pieces_cross_no_gap(healthy: Recording) -> None:
    cut = replace(healthy, domain=np.array([[1.0, 2.02], [2.5, 3.0], [90.0, 90.03], [100.0, 101.0]]))
    clock = Clock.of(cut)
    assert clock.num_bins.tolist() == [20, 10, 20]
    times = np.random.default_rng(0).uniform(0, 102, 5000)
    for t, b in zip(times, clock.bins(times)):
        expected = -1
        for start, first, num in zip(clock.start_s, clock.first, clock.num_bins):
            if start <= t < start + num * 0.05:
                expected = first + int((t - start) / 0.05)
        assert b == expected
    assert clock.mask.sum() == 50
    assert clock.first[2] - (clock.first[1] + 10) == 40  # 2 s of empty bins in the gap of 97 s


def test_the_spike_table_is_a_histogram(healthy: Recording) -> None:
    clock, column = Clock.of(healthy), np.array([0, 1, -1] * 4)
    table = clock.table(healthy.spike_times, healthy.spike_units, column, 2)
    edges = 0.05 * np.arange(4801) - 1e-9
    for k in range(2):
        mine = healthy.spike_times[column[healthy.spike_units] == k]
        np.testing.assert_array_equal(table[:4800, k], np.histogram(mine, edges)[0])
    assert not table[4800:].any()


def test_intervals_silence_and_domain_against_loops(healthy: Recording) -> None:
    expected = [np.diff(healthy.spike_times[healthy.spike_units == u]) for u in range(12)]
    np.testing.assert_allclose(np.sort(unit_intervals(healthy)), np.sort(np.concatenate(expected)))
    counts = np.ones((10, 3), int)
    counts[2:8, 1] = 0
    counts[[0, 1, 2, 5, 6, 7, 9], 2] = 0
    assert silent_units(counts, np.ones(10)).tolist() == [False, True, False]
    domain = np.array([[1.0, 2.0], [4.0, 4.5], [6.0, 9.0]])
    assert inside_domain(np.array([0.5, 1.0, 3.0, 4.2, 8.9, 9.1]), domain).tolist() == [0, 1, 0, 1, 1, 0]
    edges = np.array([0.0, 1.5, 4.1, 7.0, 10.0])
    fine = (np.arange(100_000) + 0.5) / 10_000
    covered = inside_domain(fine, domain)
    naive = [covered[(fine >= a) & (fine < b)].sum() / 10_000 for a, b in pairwise(edges)]
    np.testing.assert_allclose(seconds_inside(edges, domain), naive, atol=1e-3)


def test_observed_share_follows_gaps_and_clocks_that_stop() -> None:
    points = np.linspace(0, 100, 1001)
    continuous = CovariateSpec("x", "continuous", "time")
    times = np.concatenate([np.arange(0, 40, 0.1), np.arange(60, 100.1, 0.1)])
    assert observed_share(Covariate.continuous(continuous, times, times), points) == pytest.approx(0.8, abs=0.01)
    slow = np.arange(0, 100, 0.5)
    assert observed_share(Covariate.continuous(continuous, slow, slow), points) < 0.6
    state = CovariateSpec("s", "categorical", "time", num_classes=2)
    changes = np.arange(0, 50, 1.0)
    held = Covariate.categorical(state, np.arange(50) % 2, changes)
    assert observed_share(held, points) == pytest.approx(0.59, abs=0.02)
    # States that last long hold all the while, and end where a sample says that nothing is known.
    rare = Covariate.categorical(state, np.array([0, 1, 0, -1, 0, 1]), np.array([0.0, 0.2, 0.4, 50.0, 90.0, 90.2]))
    assert observed_share(rare, points) == pytest.approx(0.522, abs=0.005)
    nothing = Covariate.continuous(continuous, np.full(5, np.nan), np.arange(5.0))
    assert observed_share(nothing, points) == 0


# Each finding, from a recording that is healthy but for one thing.


def test_healthy_recordings_raise_no_alarm(healthy: Recording, synthetic_corpus: Corpus) -> None:
    assert checks(healthy) == set()
    for recording in synthetic_corpus:
        assert checks(recording) == set()


def test_real_recordings_raise_no_alarm(real_data: Path) -> None:
    files = sorted((real_data / "luo2025").glob("*.mat"))
    if not files:
        pytest.skip(f"no luo2025 files in {real_data}")
    sources = [path for path in files if path.stem in ("T249_2020_02_11", "X046_2019_10_01")]
    for path in sources:
        recording = read_luo2025(str(path))
        assert checks(recording) == set()
        assert any(a.related for a in facts_of(recording).alignments)


def shifted(r: Recording, seconds: float, factor: float = 1.0) -> Recording:
    times = r.covariates["speed"].times
    assert times is not None
    times = times * factor + seconds
    kept = times >= 0
    c = r.covariates["speed"]
    return with_covariate(r, "speed", times=times[kept], values=c.values[kept], observed=c.observed[kept])


def shuffled(r: Recording) -> Recording:
    other = simulate(seed=7).covariates
    return replace(r, covariates=r.covariates | {"speed": other["speed"]})


def lost(r: Recording) -> Recording:
    kept = (r.spike_units > 1) | (r.spike_times < 60)
    return replace(r, spike_times=r.spike_times[kept], spike_units=r.spike_units[kept])


def doubled(r: Recording, every: int, gap_s: float) -> Recording:
    times = np.concatenate([r.spike_times, r.spike_times[::every] + gap_s])
    order = np.argsort(times, kind="stable")
    return replace(
        r, spike_times=times[order], spike_units=np.concatenate([r.spike_units, r.spike_units[::every]])[order]
    )


def trials_with(r: Recording, **columns: Any) -> Recording:
    return replace(r, trials=r.trials.assign(**columns))


BROKEN: dict[str, tuple[Callable[[Recording], Recording], set[str]]] = {
    "0.5 s late": (lambda r: shifted(r, 0.5), {"behavior displaced from spikes"}),
    "0.5 s early": (lambda r: shifted(r, -0.5), {"behavior displaced from spikes"}),
    "30 s late": (lambda r: shifted(r, 30.0), {"behavior fits elsewhere"}),
    "milliseconds": (
        lambda r: shifted(replace(r, covariates={"speed": r.covariates["speed"]}), 0.0, 1000.0),
        {"covariate outside of the domain"},
    ),
    "another session": (shuffled, {"behavior unrelated to spikes"}),
    "units lost": (lost, {"units fall silent"}),
    "sorted twice": (lambda r: doubled(r, 20, 5e-5), {"spikes counted twice"}),
    "multi-unit": (lambda r: doubled(r, 12, 1e-3), {"refractory violations"}),
    "domain too short": (
        lambda r: replace(r, domain=np.array([[0.0, 214.0]])),
        {"spikes outside of the domain", "trials outside of the domain"},
    ),
    "label never varies": (
        lambda r: with_covariate(r, "choice", values=np.ones(40, np.int64)),
        {"covariate constant"},
    ),
    "never observed": (
        lambda r: with_covariate(r, "choice", observed=np.zeros(40, bool)),
        {"covariate never observed"},
    ),
    "no event": (lambda r: with_covariate(r, "lick", times=np.zeros(0)), {"covariate never observed"}),
    "clock stops": (
        lambda r: with_covariate(r, "speed", observed=r.covariates["speed"].times < 150),
        {"covariate covers little of the domain"},
    ),
    "no usable trial": (lambda r: trials_with(r, usable=False), {"no usable trial"}),
    "one endless trial": (
        lambda r: replace(
            r,
            trials=r.trials.assign(stop_s=r.trials["start_s"] + np.where(np.arange(40) == 39, 6.0, 0.1)),
        ),
        {"uneven trials"},
    ),
    "times in milliseconds": (
        lambda r: replace(
            r,
            spike_times=r.spike_times * 1000,
            domain=r.domain * 1000,
            trials=r.trials.assign(start_s=r.trials["start_s"] * 1000, stop_s=r.trials["stop_s"] * 1000),
            covariates={},
        ),
        {"implausible rates", "implausible trials"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_and_nothing_else(name: str, healthy: Recording) -> None:
    breaks, expected = BROKEN[name]
    assert checks(breaks(healthy)) == expected
    assert expected <= set(CURES)


def test_a_drifting_clock_is_found() -> None:
    recording = shifted(simulate(), 0.0, 1.0015)
    drift = [a.drift_s for a in align(recording) if a.signal == "speed"]
    assert drift[0] == pytest.approx(-0.0015 * STOP_S / 2, abs=0.06)
    assert "behavior drifts against spikes" in checks(recording)


def test_units_with_hardly_a_spike(healthy: Recording) -> None:
    kept = (healthy.spike_units > 3) | (np.arange(len(healthy.spike_times)) < 30)
    sparse = replace(healthy, spike_times=healthy.spike_times[kept], spike_units=healthy.spike_units[kept])
    assert checks(sparse) == {"units with hardly a spike"}


# The corpus.


def test_text_counts_and_width(tmp_path: Path, healthy: Recording) -> None:
    corpus = write(tmp_path / "c", healthy, simulate("b", "rat2", 1))
    text = examine(corpus, max_pages=0)
    assert not (corpus / "doctor").exists()
    assert max(map(len, text.splitlines())) <= 120
    assert "2 recordings of 2 animals, all files as written" in text
    assert "units: in 28; out: noise 4; kept 24" in text
    assert "CA1 12, VISp 10, (unknown) 2" in text
    assert "no warnings" in text
    spikes = (len(healthy.spike_times) + len(simulate("b", "rat2", 1).spike_times)) / 1e6
    assert re.search(rf"^all +2 +24 +{spikes:.3g} M +0.13 +80 +80 ", text, re.MULTILINE)


def test_what_shows_only_between_recordings(tmp_path: Path, healthy: Recording) -> None:
    copy = replace(healthy, info=replace(healthy.info, recording_id="sim/copy", subject_id="Rat-1"))
    other = simulate("other", "other", 1)
    spec = replace(other.covariates["speed"].spec, unit="cm/s")
    other = with_covariate(other, "speed", spec=spec)
    corpus = write(tmp_path / "c", healthy, copy, other, simulate("more", "more", 2))
    write_recording(corpus, simulate("late", "rat9", 3))
    text = examine(corpus, max_pages=0)
    for expected in (
        "! same spikes twice\n    sim/a = sim/copy",
        "! animals spelled in several ways\n    'Rat-1', 'rat1'",
        "! session names as animals\n    2 of 4 recordings",
        "! one covariate, several meanings\n    speed: continuous per time, m/s in 3 (sim/a); continuous",
        "! not in the manifest\n    sim/late",
    ):
        assert expected in text


def test_one_session_off_the_others_is_named(tmp_path: Path) -> None:
    recordings = [simulate(f"s{k}", f"rat{k % 2}", k, 0.4 if k == 3 else 0.1) for k in range(6)]
    text = examine(write(tmp_path / "c", *recordings), max_pages=0)
    found = text.split("! lag unlike the other recordings\n")[1].splitlines()[0]
    assert re.match(r" +sim/s3: .*speed: \+0\.(40|45) s, median of 6 recordings \+0\.1", found)


def test_every_damaged_recording_is_listed_and_the_healthy_ones_are_examined(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", *(simulate(name, name, k) for k, name in enumerate("abcd")))
    folder = corpus / "recordings" / "sim"
    spikes = bytearray((folder / "a" / "spikes.arrow").read_bytes())
    spikes[len(spikes) // 2] ^= 1
    (folder / "a" / "spikes.arrow").write_bytes(spikes)
    (folder / "b" / "trials.parquet").unlink()
    (folder / "d" / "info.json").write_text("{}")
    with pytest.raises(DamagedCorpus) as caught:
        examine(corpus, out=tmp_path / "pages")
    message = str(caught.value)
    assert message.startswith("3 of 4 recordings are damaged")
    for part in ("sim/a: ", "spikes.arrow: hash differs", "trials.parquet: missing", "sim/d: ", "cure: "):
        assert part in message
    assert "3 DAMAGED" in caught.value.text
    assert re.search(r"^c +1 +12 ", caught.value.text, re.MULTILINE)
    assert (tmp_path / "pages" / "sim--c.html").exists()
    with pytest.raises(CorpusError, match="not found"):
        examine(tmp_path / "nothing")


def test_pages_go_to_findings_first_and_then_to_every_animal() -> None:
    recordings = [simulate(f"s{k}", f"rat{k // 3}", k) for k in range(6)]
    facts = [facts_of(r) for r in recordings]
    findings = {f.recording_id: findings_of(r, f) for r, f in zip(recordings, facts)}
    findings["sim/s5"] = [findings_of(lost(recordings[5]), facts_of(lost(recordings[5])))[0]]
    assert choose_pages(facts, findings, 3) == ["sim/s0", "sim/s3", "sim/s5"]


# Pages of every kind of recording.


def rewritten(r: Recording, **fields: Any) -> Recording:
    return replace(r, **fields).validate()


def many_kinds(tiny: Tiny, healthy: Recording) -> dict[str, Recording]:
    rng = np.random.default_rng(0)
    clock = np.arange(0, STOP_S, 0.4)
    images = CovariateSpec("image", "categorical", "time", num_classes=900, role="stimulus")
    pcs = (
        CovariateSpec("pcs $", "continuous", "time", dim=9)
        if False
        else CovariateSpec("pcs", "continuous", "time", dim=9)
    )
    starts = np.arange(0, STOP_S, 0.24)
    counts = replace(healthy.info, min_bin_size_s=0.01)
    one = healthy.spike_units == 3
    return {
        "every kind of covariate": tiny(),
        "one unit and nothing but spikes": rewritten(
            healthy,
            spike_times=healthy.spike_times[one],
            spike_units=np.zeros(int(one.sum()), np.int32),
            units=healthy.units.iloc[:1],
            trials=empty_trials(),
            covariates={},
        ),
        "counts in 1,000 pieces": rewritten(
            healthy,
            info=counts,
            spike_times=np.round(healthy.spike_times / 0.01 - 0.5) * 0.01 + 0.005,
            domain=np.column_stack([starts, starts + 0.2]),
        ),
        "900 images, 9 dimensions, no event": rewritten(
            healthy,
            covariates={
                "image": Covariate.categorical(images, rng.integers(0, 900, len(clock)), clock),
                "pcs": Covariate.continuous(pcs, rng.normal(size=(len(clock), 9)), clock),
                "lick": Covariate.events(CovariateSpec("lick", "event", "time"), np.zeros(0)),
                "gone": Covariate.continuous(CovariateSpec("gone", "continuous", "time"), np.zeros(0), np.zeros(0)),
            },
        ),
        "a second long, one spike": rewritten(
            tiny(),
            spike_times=np.array([0.5]),
            spike_units=np.zeros(1, np.int32),
            domain=np.array([[0.0, 1.0]]),
        ),
    }


def test_pages_of_every_kind_are_whole_small_and_self_contained(tiny_recording: Tiny, healthy: Recording) -> None:
    for name, recording in many_kinds(tiny_recording, healthy).items():
        facts = facts_of(recording)
        html = page(recording, facts, findings_of(recording, facts))
        assert len(html) < 1_500_000, name
        assert not re.search(r"(src|href)=\"(?!#|data:|index\.html)", html), name
        assert "<script" not in html
        images = re.findall(r"data:image/webp;base64,([^\"]+)", html)
        assert len(images) >= 3, name
        for data in images:
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            assert pixels.shape[1] > 300, name
            assert len(np.unique(pixels @ np.array([1, 256, 65536]))) > 20, name


def test_the_index_links_the_pages(tmp_path: Path, healthy: Recording) -> None:
    corpus = write(tmp_path / "c", healthy, simulate("b", "rat2", 1))
    text = examine(corpus, recordings=["sim/a"])
    index = (corpus / "doctor" / "index.html").read_text()
    assert 'href="sim--a.html"' in index
    assert "sim--b.html" not in index
    assert "1 recording of 1 animal" in text
    assert (corpus / "doctor" / "sim--a.html").stat().st_size < 1_500_000
    # The folder of the pages is no recording.
    assert write_manifest(corpus).ids == ["sim/a", "sim/b"]


def found_in(signal: str, lag_s: float, z: float) -> Alignment:
    curve = np.zeros(3)
    return Alignment(signal, "behavior", lag_s, z, 0.0, 0.1, 1.0, np.nan, np.nan, False, 0.0, curve, curve, (0.0, 0.0))


@pytest.mark.parametrize(
    ("wheel", "lick", "is_displaced"),
    [
        ((0.0, 80.0), (-0.4, 20.0), False),  # licks come late while the wheel is in place
        ((0.0, 80.0), (-0.8, 20.0), True),
        ((-0.4, 80.0), (-0.4, 20.0), True),
        ((0.0, 15.0), (-0.4, 20.0), True),  # the surer of the two is the displaced one
    ],
)
def test_a_slow_behavior_beside_one_in_place_is_no_alarm(
    wheel: tuple[float, float], lick: tuple[float, float], is_displaced: bool
) -> None:
    checks = [finding.check for finding in alignment_findings([found_in("wheel", *wheel), found_in("lick", *lick)])]
    assert checks == (["behavior displaced from spikes"] if is_displaced else [])
