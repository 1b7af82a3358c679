"""Several corpora in one run: names, shared covariates, shares of the windows, and a new animal of either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval.held_out import evaluate
from foundation.__main__ import main
from foundation.channels import DataConfig, corpus_groups, find_channels, open_data, pretraining_subjects
from foundation.checkpoint import load_model
from foundation.config import load_config
from foundation.corpus import Corpus, write_manifest
from foundation.durable import CorpusError
from foundation.mixture import CorpusConfig, Mixture, known_as, open_corpora, renamed
from foundation.model import FoundationModel
from foundation.model_config import ModelConfig
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingError
from foundation.recording_folder import write_recording
from foundation.sampling import WindowReader, WindowSampler
from foundation.splits import session_roles
from foundation.training_data import add_sessions, training_data, with_train_windows

Tiny = Callable[..., Recording]
SIZE = 0.02


def continuous(name: str, scale: float, seed: int = 0, **fields: Any) -> Covariate:
    times = np.arange(0, 40, 0.01)
    values = scale * np.abs(np.random.default_rng(seed).normal(size=len(times)))
    return Covariate.continuous(CovariateSpec(name, "continuous", "time", **fields), values, times)


@pytest.fixture
def corpora(tiny_recording: Tiny, tmp_path: Path) -> dict[str, Path]:
    """Two corpora: wheel in rad/s, lick; and a belt in cm/s, lick, an image."""
    lick = Covariate.events(CovariateSpec("lick", "event", "time"), np.array([3.0, 4.0]))
    image = Covariate.categorical(
        CovariateSpec("image", "categorical", "time", num_classes=4, role="stimulus"),
        np.array([0, 1, 2, 3]),
        np.array([0.0, 10.0, 20.0, 30.0]),
    )
    made: dict[str, Callable[[int], dict[str, Covariate]]] = {
        "mice": lambda seed: {"wheel": continuous("wheel", 2.0, seed, unit="rad/s"), "lick": lick},
        "rats": lambda seed: {"belt": continuous("belt", 3.0, seed, unit="rad/s"), "lick": lick, "image": image},
    }
    for corpus, covariates in made.items():
        for i in range(3):
            rng = np.random.default_rng([i, len(made)])
            times, rows = np.sort(rng.uniform(0, 40, 4800)), rng.integers(0, 3, 4800).astype(np.int32)
            recording = tiny_recording(
                session=f"{corpus}{i}", subject=f"{corpus}{i}", seed=i, spike_times=times, spike_units=rows
            )
            info = replace(recording.info, recording_id=f"{corpus}/{corpus}{i}")
            units = recording.units.assign(unit_id=[f"{corpus}/{i}/{u}" for u in range(3)])
            write_recording(tmp_path / corpus, replace(recording, info=info, units=units, covariates=covariates(i)))
        write_manifest(tmp_path / corpus)
    return {key: tmp_path / key for key in made}


def config(corpora: dict[str, Path], shared: list[str] | None = None, **parts: dict[str, Any]) -> DataConfig:
    given = {key: CorpusConfig(path=str(path), **parts.get(key, {})) for key, path in corpora.items()}
    return DataConfig(corpora=given, shared=shared or [], held_out=["rats2"])


ONE_NAME = {"mice": {"rename": {"wheel": "speed"}}, "rats": {"rename": {"belt": "speed"}}}


def test_a_mixture_reads_what_its_parts_read(corpora: dict[str, Path]) -> None:
    mixture = open_data(config(corpora))
    parts = {key: Corpus.open(path) for key, path in corpora.items()}
    assert isinstance(mixture, Mixture)
    assert mixture.ids == [f"{key}/{key}{i}" for key in ("mice", "rats") for i in range(3)]
    assert mixture.subjects == parts["mice"].subjects | parts["rats"].subjects
    for key in mixture.ids:
        part = parts[mixture.part_of(key)]
        assert np.array_equal(mixture[key].spike_times, part[key].spike_times)
        assert mixture.folder(key) == part.folder(key)
        mixture.verify(key)
    chosen = mixture.select(subjects=["mice1", "rats0"])
    assert chosen.ids == ["mice/mice1", "rats/rats0"]
    assert list(chosen["mice/mice1"].covariates) == ["wheel", "lick"]
    with pytest.raises(CorpusError, match=r"no subject \['cat'\]"):
        mixture.select(subjects=["cat"])
    with pytest.raises(CorpusError, match="no recording 'rats/none'"):
        mixture["rats/none"]
    with pytest.raises(CorpusError, match="are in corpus 'a' too"):
        Mixture({"a": parts["mice"], "b": parts["mice"]})
    assert mixture.manifest_sha256 not in (parts["mice"].manifest_sha256, parts["rats"].manifest_sha256)
    assert open_corpora([str(corpora["mice"])]).ids == parts["mice"].ids
    assert open_corpora([str(path) for path in corpora.values()]).ids == mixture.ids


def test_renaming_changes_names_and_nothing_else(corpora: dict[str, Path]) -> None:
    mixture = open_data(config(corpora, ["speed", "lick"], **ONE_NAME))
    plain = Corpus.open(corpora["rats"])
    got, expected = mixture["rats/rats1"].validate(), plain["rats/rats1"]
    assert list(got.covariates) == ["speed", "lick", "image"]
    assert got.covariates["speed"].spec == replace(expected.covariates["belt"].spec, name="speed")
    assert np.array_equal(got.covariates["speed"].values, expected.covariates["belt"].values)
    # A new animal's corpus, under the names of the model; other datasets keep theirs.
    assert isinstance(mixture, Mixture)
    assert list(known_as(plain, mixture.names)["rats/rats1"].covariates) == ["speed", "lick", "image"]
    assert known_as(plain, {}) is plain
    assert list(known_as(plain, {"dogs": {"belt": "speed"}})["rats/rats1"].covariates) == ["belt", "lick", "image"]
    with pytest.raises(RecordingError, match="two covariates named 'lick'"):
        renamed(expected, {"belt": "lick"})


def test_one_name_in_two_corpora_needs_a_decision(corpora: dict[str, Path]) -> None:
    undecided = config(corpora)
    mixture = open_data(undecided)
    with pytest.raises(ValueError, match=r"several corpora have \['lick'\].*`shared: \['lick'\]`.*rats_lick"):
        find_channels(mixture, undecided, mixture.ids)
    with pytest.raises(ValueError, match=r"data.shared: \['image'\] are not in two corpora"):
        find_channels(mixture, config(corpora, ["lick", "image"]), mixture.ids)
    apart = config(corpora, rats={"rename": {"lick": "rats_lick"}})
    names = [c.spec.name for c in find_channels(open_data(apart), apart, mixture.ids)]
    assert names == ["wheel", "lick", "belt", "rats_lick", "image"]


def test_each_corpus_has_its_own_inputs_and_targets(corpora: dict[str, Path]) -> None:
    own = config(corpora, ["lick"], mice={"targets": ["wheel", "lick"]}, rats={"inputs": ["lick", "belt"]})
    mixture = open_data(own)
    found = {c.spec.name: (c.is_input, c.is_target) for c in find_channels(mixture, own, mixture.ids)}
    assert found == {"wheel": (True, True), "lick": (True, True), "belt": (True, True)}
    disagree = config(corpora, ["lick"], mice={"targets": ["wheel"]})
    with pytest.raises(ValueError, match=r"'lick' differs between mice and rats in \(input, target\)"):
        find_channels(mixture, disagree, mixture.ids)
    unknown = config(corpora, ["lick"], mice={"inputs": ["image"]})
    with pytest.raises(ValueError, match=r"data.corpora.mice.inputs: no covariate \['image'\]"):
        find_channels(mixture, unknown, mixture.ids)


def test_shared_covariates_agree_on_unit_and_scale(corpora: dict[str, Path], tiny_recording: Tiny) -> None:
    shared = config(corpora, ["speed", "lick"], **ONE_NAME)
    mixture = open_data(shared)
    (speed,) = [c for c in find_channels(mixture, shared, mixture.ids) if c.spec.name == "speed"]
    seen = []
    for key in mixture.ids:
        recording = mixture[key]
        values, times = recording.covariates["speed"].values, recording.covariates["speed"].times
        assert times is not None
        for row in np.flatnonzero(session_roles(recording) == 0):
            start, stop = recording.trials[["start_s", "stop_s"]].to_numpy()[row]
            seen.append(values[(times >= start) & (times < stop)])
    every = np.concatenate(seen).astype(float)
    assert speed.mean[0] == pytest.approx(every.mean(), rel=1e-9)
    assert speed.std[0] == pytest.approx(every.std(), rel=1e-6)

    def rewrite(unit: str, scale: float) -> None:
        for i in range(3):
            recording = Corpus.open(corpora["rats"])[f"rats/rats{i}"]
            belt = continuous("belt", scale, unit=unit)
            write_recording(
                corpora["rats"], replace(recording, covariates=recording.covariates | {"belt": belt}), overwrite=True
            )
        write_manifest(corpora["rats"])

    rewrite("cm/s", 3.0)
    with pytest.raises(ValueError, match=r"'speed' differs between mice and rats in unit \('rad/s' and 'cm/s'\)"):
        find_channels(open_data(shared), shared, mixture.ids)
    rewrite("rad/s", 300.0)
    with pytest.raises(ValueError, match=r"both say 'rad/s'; one of them is in another unit"):
        find_channels(open_data(shared), shared, mixture.ids)


def test_names_may_be_exchanged(corpora: dict[str, Path]) -> None:
    swapped = config(corpora, ["lick"], rats={"rename": {"belt": "image", "image": "belt"}})
    mixture = open_data(swapped)
    plain, got = Corpus.open(corpora["rats"])["rats/rats0"], mixture["rats/rats0"]
    assert {name: covariate.spec.kind for name, covariate in got.covariates.items()} == {
        "image": "continuous",
        "lick": "event",
        "belt": "categorical",
    }
    assert np.array_equal(got.covariates["image"].values, plain.covariates["belt"].values)
    assert {c.spec.name for c in find_channels(mixture, swapped, mixture.ids)} == {"wheel", "lick", "image", "belt"}


def test_names_that_do_not_exist_are_refused(corpora: dict[str, Path], tiny_recording: Tiny) -> None:
    mistyped = config(corpora, ["lick"], rats={"rename": {"bellt": "speed"}})
    mixture = open_data(mistyped)
    with pytest.raises(ValueError, match=r"data.corpora.rats.rename: no covariate \['bellt'\].*there are \['belt'"):
        find_channels(mixture, mistyped, mixture.ids)
    with pytest.raises(ValueError, match=r"data.held_out: no subject \['rats9'\].*there are \['mice0'"):
        pretraining_subjects(mixture, replace(mistyped, held_out=["rats9"]))
    with pytest.raises(RecordingError, match="rename 'choice': the trials have a column 'usable'"):
        renamed(tiny_recording(), {"choice": "usable"})


def test_every_corpus_has_an_animal_to_train_on(corpora: dict[str, Path]) -> None:
    held = replace(config(corpora), held_out=["rats0", "rats1", "rats2"])
    with pytest.raises(ValueError, match=r"data.corpora.rats: none of its 3 animals is left"):
        pretraining_subjects(open_data(held), held)
    chosen = replace(config(corpora), subjects=["mice0", "mice1"])
    with pytest.raises(ValueError, match=r"data.corpora.rats: none of its 3 animals is left"):
        pretraining_subjects(open_data(chosen), chosen)


def test_one_animal_in_two_corpora_is_held_out_of_both(corpora: dict[str, Path], tiny_recording: Tiny) -> None:
    recording = tiny_recording(subject="mice0")
    units = recording.units.assign(unit_id=["x", "y", "z"])
    info = replace(recording.info, recording_id="rats/again")
    write_recording(corpora["rats"], replace(recording, info=info, units=units, covariates={}))
    write_manifest(corpora["rats"])
    held = replace(config(corpora), held_out=["mice0"])
    mixture = open_data(held)
    left = mixture.select(subjects=pretraining_subjects(mixture, held))
    assert left.ids == ["mice/mice1", "mice/mice2", "rats/rats0", "rats/rats1", "rats/rats2"]


def test_the_bin_size_must_suit_every_corpus(corpora: dict[str, Path]) -> None:
    recording = Corpus.open(corpora["rats"])["rats/rats1"]
    write_recording(
        corpora["rats"], replace(recording, info=replace(recording.info, min_bin_size_s=0.05)), overwrite=True
    )
    write_manifest(corpora["rats"])
    reader = WindowReader(open_data(config(corpora)), [], SIZE)
    with pytest.raises(ValueError, match=r"rats/rats1.*0\.05"):
        training_data(reader, ["mice/mice0", "rats/rats1"], 0.4, session_roles)


def test_a_corpus_without_train_windows_is_refused_by_name(corpora: dict[str, Path]) -> None:
    recording = Corpus.open(corpora["rats"])["rats/rats1"]
    unusable = replace(recording, trials=recording.trials.assign(usable=False))
    write_recording(corpora["rats"], unusable, overwrite=True)
    write_manifest(corpora["rats"])
    shared = config(corpora, ["speed", "lick"], **ONE_NAME)
    mixture = open_data(shared)
    channels = find_channels(mixture, shared, mixture.ids)
    data = training_data(WindowReader(mixture, channels, SIZE), mixture.ids, 0.4, session_roles)
    model = FoundationModel.create(ModelConfig(width=16, depth=1, heads=2, feed_forward=16), channels, SIZE, 0.4, 0)
    with pytest.raises(ValueError, match="rats/rats1: no train window"):
        add_sessions(model, data, mixture.ids, 0)
    groups = {name: (1.0, ids) for name, ids in (("mice", ["mice/mice0"]), ("rats", ["rats/rats1"]))}
    with pytest.raises(ValueError, match="rats/rats1: no train window"):
        with_train_windows(replace(data, groups=groups))
    left = with_train_windows(replace(data, groups={"all": (1.0, mixture.ids)}))
    assert "rats/rats1" not in left.train.keys() | left.val.keys() | set(left.groups["all"][1])
    assert left.train == {key: windows for key, windows in data.train.items() if windows}


def test_another_dataset_may_not_use_a_name_for_another_unit(corpora: dict[str, Path]) -> None:
    """A new animal, of a dataset that the config of the run did not know."""
    own = config(corpora, ["speed", "lick"], **ONE_NAME)
    mixture = open_data(own)
    channels = find_channels(mixture, own, mixture.ids)
    recording = Corpus.open(corpora["rats"])["rats/rats0"]
    covariates = {"speed": continuous("speed", 1.0, unit="cm/s")}
    info = replace(recording.info, recording_id="dogs/a")
    write_recording(corpora["rats"] / "dogs", replace(recording, info=info, covariates=covariates))
    reader = WindowReader(write_manifest(corpora["rats"] / "dogs"), channels, SIZE)
    with pytest.raises(ValueError, match=r"dogs/a: covariate 'speed' has unit 'cm/s', the model expects 'rad/s'"):
        reader.recording("dogs/a")


def test_a_covariate_without_a_sample_is_missing(corpora: dict[str, Path]) -> None:
    recording = Corpus.open(corpora["rats"])["rats/rats1"]
    spec = CovariateSpec("place", "continuous", "time", dim=2)
    empty = Covariate.continuous(spec, np.zeros((0, 2)), np.zeros(0))
    write_recording(corpora["rats"], replace(recording, covariates={"place": empty}), overwrite=True)
    write_manifest(corpora["rats"])
    own = config(corpora, ["lick"])
    mixture = open_data(own)
    channels = find_channels(mixture, own, mixture.ids)
    (at,) = [i for i, channel in enumerate(channels) if channel.spec.name == "place"]
    assert (channels[at].mean, channels[at].std) == ((0.0, 0.0), (1.0, 1.0))
    reader = WindowReader(mixture, channels, SIZE)
    batch = reader.batch(training_data(reader, ["rats/rats1"], 0.4, session_roles).train["rats/rats1"][:2])
    assert not batch.observed[..., at].any()


def test_shares_of_extreme_weights(corpora: dict[str, Path]) -> None:
    mixture = open_data(config(corpora))
    data = training_data(WindowReader(mixture, [], SIZE), mixture.ids, 0.4, session_roles)
    for mice, rats, share in ((1.7e308, 1.7e308, 0.5), (1e-300, 1e300, 1.0), (5e-324, 5e-324, 0.5)):
        extreme = config(corpora, mice={"weight": mice}, rats={"weight": rats})
        sampler = WindowSampler(data.train, 16, 4, seed=3, groups=corpus_groups(mixture, extreme))
        drawn = [w.recording_id.startswith("rats") for step in range(300) for w in sampler.batch_windows(step)]
        assert np.mean(drawn) == pytest.approx(share, abs=0.08)


def test_what_a_corpus_lacks_is_missing_not_zero(corpora: dict[str, Path]) -> None:
    shared = config(corpora, ["speed", "lick"], **ONE_NAME)
    mixture = open_data(shared)
    channels = find_channels(mixture, shared, mixture.ids)
    reader = WindowReader(mixture, channels, SIZE)
    data = training_data(reader, mixture.ids, 0.4, session_roles)
    batch = reader.batch([data.train["mice/mice0"][0], data.train["rats/rats0"][0]])
    observed = {c.spec.name: batch.observed[:, :, i].all(dim=1).tolist() for i, c in enumerate(channels)}
    assert observed == {"speed": [True, True], "lick": [True, True], "image": [False, True]}


def test_corpora_get_their_shares_of_the_windows(corpora: dict[str, Path]) -> None:
    weighted = config(corpora, ["lick"], mice={"weight": 1.0}, rats={"weight": 3.0})
    mixture = open_data(weighted).select(recordings=["mice/mice0", "mice/mice1", "mice/mice2", "rats/rats0"])
    reader = WindowReader(mixture, [], SIZE)
    data = training_data(reader, mixture.ids, 0.4, session_roles)
    groups = corpus_groups(mixture, weighted)
    assert groups["rats"] == (3.0, ["rats/rats0"])
    sampler = WindowSampler(data.train, 16, 4, seed=3, groups=groups)
    steps = [sampler.batch_windows(step) for step in range(600)]
    assert steps[5] == WindowSampler(data.train, 16, 4, seed=3, groups=groups).batch_windows(5)
    drawn = [w.recording_id for step in steps for w in step]
    # 2,400 draws of a session; 5 standard errors are 0.044.
    assert np.mean([key.startswith("rats") for key in drawn]) == pytest.approx(0.75, abs=0.044)
    mice = [drawn.count(f"mice/mice{i}") for i in range(3)]
    assert max(mice) < 1.3 * min(mice)


def test_a_run_on_two_corpora_adapts_to_an_animal_of_either(corpora: dict[str, Path], tmp_path: Path) -> None:

    path = tmp_path / "mix.yaml"
    path.write_text(
        f"""
out: {tmp_path / "run"}
data:
  corpora:
    mice: {{path: {corpora["mice"]}, rename: {{wheel: speed}}}}
    rats: {{path: {corpora["rats"]}, rename: {{belt: speed}}, weight: 2.0}}
  shared: [speed, lick]
  held_out: [mice2, rats2]
  window_s: 0.4
model: {{width: 16, depth: 1, heads: 2, feed_forward: 16, private_rank: 2}}
train: {{steps: 4, windows_per_step: 8, windows_per_session: 4, val_every: 4, track: []}}
finetune: {{steps: 3, windows_per_step: 8, readout: {{groups: 2}}, decoding: {{causal_bins: 300}}}}
"""
    )
    assert load_config(path).data.corpora["rats"].weight == 2.0
    assert main(["train", str(path)]) == 0
    model = load_model(tmp_path / "run")
    assert model.config.names == {"mice": {"wheel": "speed"}, "rats": {"belt": "speed"}}
    assert model.provenance["pretraining_subjects"] == ["mice0", "mice1", "rats0", "rats1"]
    for corpus, subject in (("mice", "mice2"), ("rats", "rats2")):
        words = ["--corpus", str(corpora[corpus]), "--subjects", subject]
        assert main(["finetune", str(tmp_path / "run"), *words, "--out", str(tmp_path / "new")]) == 0
        reader = WindowReader(known_as(Corpus.open(corpora[corpus]), model.config.names), model.channels, SIZE)
        data = training_data(reader, [f"{corpus}/{subject}"], 0.4, session_roles)
        speed = [c.spec.name for c in model.channels].index("speed")
        batch = reader.batch(data.train[f"{corpus}/{subject}"][:2])
        assert batch.observed[..., speed][batch.valid].all()
        assert batch.covariates.abs().sum() > 0
    runs, out = [tmp_path / "new"], tmp_path / "results"
    evaluate(runs, Corpus.open(corpora["rats"]), ["rats2"], out, tasks=["decode_speed"], baselines="quick")
    rows = pd.read_parquet(out / "results.parquet")
    assert set(rows["task"]) == {"decode_speed acausal", "decode_speed causal"}
    assert set(rows["dataset"]) == {"rats"}
    assert {"model", "baseline"} <= set(rows["kind"])
    # Everything else, of animals of both corpora at once, up to the page.
    both = [str(path) for path in corpora.values()]
    everything = ["evaluate", str(runs[0]), "--corpus", *both, "--subjects", "mice2", "rats2", "--baselines", "none"]
    assert main([*everything, "--out", str(tmp_path / "both")]) == 0
    rows = pd.read_parquet(tmp_path / "both" / "results.parquet")
    assert set(rows["subject"]) >= {"mice2", "rats2"}
    assert {"encode E2", "cosmooth b", "forecast", "decode_speed causal"} <= set(rows["task"])
    assert main(["report", str(runs[0]), str(tmp_path / "both"), "--out", str(tmp_path / "page.html")]) == 0
    assert "rats2" in (tmp_path / "page.html").read_text()
