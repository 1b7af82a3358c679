"""Plain arrays and `.npz` files become recordings, mistakes become messages, real files come out as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes.array_clock import PSEUDO_GAP_S
from data_recipes.arrays import load_mapping, read, sessions
from data_recipes.from_arrays import recording_from_arrays
from data_recipes.recipe import prepare
from foundation.binning import bin_covariate, bin_spikes
from foundation.corpus import Corpus
from foundation.recording import Recording
from foundation.splits import stretches

MAPPINGS = Path(__file__).resolve().parents[1] / "configs" / "arrays"
RNG = np.random.default_rng(0)
TIMES = RNG.uniform(0, 60, 900)
UNITS = RNG.integers(0, 3, 900)
COUNTS = RNG.poisson(0.3, (300, 4))
TRIAL_COUNTS = RNG.poisson(0.3, (12, 4, 20))
START = np.arange(20) * 2.5 + 1


def from_times(**fields: Any) -> Recording:
    return recording_from_arrays("lab/day1", "mouse1", **({"spike_times": TIMES, "spike_units": UNITS} | fields))


def from_counts(**fields: Any) -> Recording:
    return recording_from_arrays("lab/day1", "mouse1", **({"counts": COUNTS, "bin_size_s": 0.02} | fields))


def from_trials(**fields: Any) -> Recording:
    axes = ("trial", "unit", "bin")
    return recording_from_arrays(
        "lab/day1", "mouse1", **({"counts": TRIAL_COUNTS, "bin_size_s": 0.02, "axes": axes} | fields)
    )


def test_spike_times_in_any_order() -> None:
    recording = from_times(
        units={"region": np.array(["CA1", "CA1", "TH"]), "depth_um": np.arange(3.0)},
        trial_start_s=START,
        trial_stop_s=START + 2,
        covariates={"speed": (np.arange(10.0)[::-1], np.arange(10)[::-1]), "choice": np.arange(20) % 2},
        specs={"speed": {"unit": "m/s"}, "choice": {"role": "task"}},
        species="mouse",
    )
    order = np.argsort(TIMES)
    assert np.array_equal(recording.spike_times, TIMES[order])
    assert np.array_equal(recording.spike_units, UNITS[order])
    assert recording.units.columns.tolist() == ["unit_id", "region", "depth_um"]
    assert recording.units["region"].tolist() == ["CA1", "CA1", "TH"]
    assert recording.domain.tolist() == [[0, 60]]
    assert recording.info.min_bin_size_s == 0
    assert recording.info.species == "mouse"
    speed, choice = recording.covariates["speed"], recording.covariates["choice"]
    assert (speed.spec.kind, speed.spec.scope, speed.spec.unit) == ("continuous", "time", "m/s")
    assert speed.values.tolist() == list(range(10))
    assert (choice.spec.kind, choice.spec.scope, choice.spec.role, choice.spec.num_classes) == (
        "categorical",
        "trial",
        "task",
        2,
    )
    assert np.array_equal(stretches(recording)[:, 0], START)


def test_a_recording_that_starts_late_has_no_empty_beginning() -> None:
    assert from_times(spike_times=TIMES + 3600).domain.tolist() == [[3600, 3660]]


@given(
    num_bins=st.integers(1, 20),
    num_units=st.integers(1, 4),
    bin_size_s=st.sampled_from([0.005, 0.01, 0.02, 0.025, 1 / 30]),
    seed=st.integers(0, 999),
)
@settings(deadline=None)
def test_counts_come_back(num_bins: int, num_units: int, bin_size_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.4, (num_bins, num_units))
    counts[0, 0] += 1
    for array, axes in ((counts, ("bin", "unit")), (counts.T.astype(float), ("unit", "bin"))):
        recording = from_counts(counts=array, axes=axes, bin_size_s=bin_size_s)
        assert np.array_equal(bin_spikes(recording, 0.0, num_bins, bin_size_s), counts)
        assert recording.info.min_bin_size_s == bin_size_s
        assert len(recording.trials) == 0


@given(
    axes=st.permutations(["trial", "bin", "unit"]),
    start=st.none() | st.floats(0, 5000),
    bin_size_s=st.sampled_from([0.005, 0.01, 1 / 30]),
    seed=st.integers(0, 999),
)
@settings(deadline=None)
def test_counts_per_trial_come_back(axes: list[str], start: float | None, bin_size_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.5, (5, 7, 3))
    counts[0, 0, 0] += 1
    array = counts.transpose([["trial", "bin", "unit"].index(axis) for axis in axes])
    starts = None if start is None else start + np.array([0, 1, 3, 4, 10.0])
    position = rng.normal(size=(5, 7)).astype(np.float32)
    recording = from_trials(
        counts=array,
        axes=tuple(axes),
        bin_size_s=bin_size_s,
        trial_start_s=starts,
        covariates={"position": position, "choice": np.array([0, 1, -1, 1, 0])},
    )
    trials = recording.trials["start_s"].to_numpy()
    expected = np.arange(5) * (7 * bin_size_s + PSEUDO_GAP_S) if starts is None else starts
    assert np.array_equal(trials, expected)
    assert ("not known" in recording.info.notes) == (starts is None)
    assert np.array_equal(recording.domain, stretches(recording))
    for k, begin in enumerate(trials):
        assert np.array_equal(bin_spikes(recording, begin, 7, bin_size_s), counts[k])
        values, observed = bin_covariate(recording.covariates["position"], begin, 7, bin_size_s)
        assert observed.all()
        assert np.array_equal(values[:, 0], position[k])
    assert recording.covariates["choice"].observed.tolist() == [True, True, False, True, True]


def test_labels_make_trials() -> None:
    label = np.repeat([3, -1, 7, 3, -1], [100, 50, 30, 20, 100])
    recording = from_counts(trial_label=label)
    expected = np.array([[0, 100], [150, 180], [180, 200]]) * 0.02
    assert np.allclose(stretches(recording), expected)
    assert np.allclose(recording.domain, expected)
    assert "runs of one label" in recording.info.notes
    assert np.array_equal(bin_spikes(recording, 0.0, 300, 0.02), np.where(label[:, None] < 0, 0, COUNTS))
    with pytest.raises(ValueError, match="spike_times: got no spike"):
        from_counts(trial_label=np.full(300, -1))


def test_covariates_per_bin_and_events() -> None:
    values = np.stack([np.arange(300.0), np.where(np.arange(300) == 7, np.nan, 1.0)], axis=1)
    recording = from_counts(
        covariates={
            "xy": values,
            "state": np.arange(300) % 3,
            "lick": np.array([5.0, 1.0]),
            "flag": np.arange(300) > 9,
            "gain": (np.array([1.0, np.nan, 0.0]), np.array([0.0, 1.0, 2.0])),
        },
        specs={"lick": {"kind": "event"}, "gain": {"kind": "categorical", "num_classes": 4}},
    )
    xy, observed = bin_covariate(recording.covariates["xy"], 0.0, 300, 0.02)
    assert observed.all()
    assert np.flatnonzero(~recording.covariates["xy"].observed).tolist() == [7]
    assert np.array_equal(xy[8:], values[8:].astype(np.float32))
    assert recording.covariates["state"].spec.num_classes == 3
    assert recording.covariates["lick"].times is not None
    assert recording.covariates["lick"].times.tolist() == [1, 5]
    assert recording.covariates["flag"].spec.num_classes == 2
    assert recording.covariates["gain"].observed.tolist() == [True, False, True]
    assert recording.covariates["gain"].spec.num_classes == 4


MISTAKES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("nothing", from_times, {"spike_times": None}, "got neither, give spike_times or counts"),
    ("both", from_times, {"counts": COUNTS}, "got both"),
    ("milliseconds", from_times, {"spike_times": TIMES * 1000}, "in milliseconds or samples"),
    ("samples", from_times, {"spike_times": (TIMES * 30_000).astype(int)}, "in milliseconds or samples"),
    ("bins in hours", from_counts, {"bin_size_s": 0.02 / 3600}, "in milliseconds or samples"),
    ("bins in milliseconds", from_counts, {"bin_size_s": 20}, "in milliseconds or samples"),
    ("lengths", from_times, {"spike_units": UNITS[1:]}, r"spike_times \(900,\) and spike_units \(899,\)"),
    ("no units", from_times, {"spike_units": None}, "no spike_units"),
    ("float units", from_times, {"spike_units": UNITS.astype(float)}, "expected integer rows"),
    ("unit beyond", from_times, {"units": {"region": np.array(["A", "B"])}}, r"got 0\.\.2, expected rows 0\.\.1"),
    ("one-based", from_times, {"spike_units": UNITS - 1}, r"got -1\.\.1"),
    ("cluster ids", from_times, {"spike_units": UNITS * 40}, r"np\.unique\(ids, return_inverse=True\)\[1\]"),
    ("NaN", from_times, {"spike_times": np.where(UNITS == 1, np.nan, TIMES)}, "spike_times: .* are NaN or infinite"),
    ("negative", from_times, {"spike_times": TIMES - 5}, "spike_times: got a negative time"),
    ("empty", from_times, {"spike_times": TIMES[:0], "spike_units": UNITS[:0]}, "0 of 0"),
    ("unit columns", from_counts, {"units": {"region": np.array(["A"])}}, r"units\.region: got shape \(1,\)"),
    ("half of the trials", from_times, {"trial_start_s": START}, "20 trial_start_s and none trial_stop_s"),
    ("NaN trial", from_times, {"trial_start_s": START, "trial_stop_s": START * np.nan}, "trial_stop_s: .* NaN"),
    (
        "trials overlap",
        from_times,
        {"trial_start_s": START, "trial_stop_s": START + 4},
        "starts before interval 0 stops",
    ),
    ("trials unsorted", from_times, {"trial_start_s": START[::-1], "trial_stop_s": START[::-1] + 1}, "sorted"),
    ("negative counts", from_counts, {"counts": -COUNTS}, "counts hold NaN, negative"),
    ("rates as counts", from_counts, {"counts": COUNTS * 0.7}, "fractional values"),
    ("NaN counts", from_counts, {"counts": np.full((9, 2), np.nan)}, "counts hold NaN"),
    ("no bin size", from_counts, {"bin_size_s": None}, "bin_size_s is None"),
    ("axes unnamed", from_counts, {"counts": TRIAL_COUNTS}, r"counts of shape \(12, 4, 20\) with axes"),
    ("axes unknown", from_counts, {"axes": ("time", "neuron")}, "name the axes"),
    ("starts of other trials", from_trials, {"trial_start_s": START}, r"trial_start_s: got shape \(20,\)"),
    ("stops of cut trials", from_trials, {"trial_stop_s": START}, "leave them out"),
    ("labels of other bins", from_counts, {"trial_label": np.zeros(3)}, r"trial_label of shape \(3,\)"),
    ("values without times", from_times, {"covariates": {"x": np.zeros(7)}}, "'x': shape .* fits neither"),
    ("times of other values", from_times, {"covariates": {"x": (np.zeros(7), np.zeros(8))}}, "expected 8 rows"),
    (
        "NaN in times",
        from_times,
        {"covariates": {"x": (np.zeros(2), np.array([0, np.nan]))}},
        r"covariates\.x: .*non-fin",
    ),
    ("infinite", from_counts, {"covariates": {"x": np.full(300, np.inf)}}, "'x': infinite"),
    ("names", from_counts, {"covariates": {"x": np.full(300, "left")}}, "turn names into classes"),
    (
        "classes",
        from_counts,
        {"covariates": {"x": np.full(300, 0.5)}, "specs": {"x": {"kind": "categorical"}}},
        "whole",
    ),
    ("class beyond", from_counts, {"covariates": {"x": np.arange(300)}, "specs": {"x": {"num_classes": 2}}}, r"0\.\.1"),
    ("bad name", from_counts, {"covariates": {"wheel speed": np.zeros(300)}}, "covariate name 'wheel speed'"),
    ("spec of nothing", from_counts, {"specs": {"speed": {"unit": "m"}}}, r"specs for \['speed'\]"),
]


@pytest.mark.parametrize(("make", "fields", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistakes_are_explained(make: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_equal_numbers_of_trials_and_bins_need_a_scope() -> None:
    fields: dict[str, Any] = {"trial_start_s": np.arange(300) / 50, "trial_stop_s": np.arange(300) / 50 + 0.02}
    with pytest.raises(ValueError, match="fits both 300 trials and 300 bins"):
        from_counts(**fields, covariates={"x": np.zeros(300)})
    made = from_counts(**fields, covariates={"x": np.zeros(300)}, specs={"x": {"scope": "trial"}})
    assert made.covariates["x"].times is None


def save(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


PLAIN: dict[str, Any] = {
    "subject": "mouse1",
    "spike_times": TIMES,
    "spike_units": UNITS,
    "region": np.array(["A", "B", "B"]),
    "trial_start_s": START,
    "trial_stop_s": START + 2,
    "behavior_speed": np.zeros(600),
    "behavior_speed_times": np.arange(600) / 10,
    "behavior_choice": np.arange(20) % 2,
    "stimulus_contrast": np.linspace(-1, 1, 20),
    "event_lick": np.array([3.0, 4.0]),
}


def test_a_folder_without_mapping(tmp_path: Path) -> None:
    folder = tmp_path / "my lab"
    save(folder / "day1.npz", **PLAIN)
    axes = np.array("trial unit bin")
    save(folder / "day2.npz", subject="mouse2", counts=TRIAL_COUNTS, bin_size_s=0.02, counts_axes=axes)
    prepared = prepare("arrays", folder, tmp_path / "corpus")
    assert prepared.failed == {}
    corpus = Corpus.open(tmp_path / "corpus", verify=True)
    assert corpus.subjects == {"my_lab/day1": "mouse1", "my_lab/day2": "mouse2"}
    recording = corpus["my_lab/day1"]
    found = {name: (c.spec.kind, c.spec.scope, c.spec.role) for name, c in recording.covariates.items()}
    assert found == {
        "speed": ("continuous", "time", "behavior"),
        "choice": ("categorical", "trial", "behavior"),
        "contrast": ("continuous", "trial", "stimulus"),
        "lick": ("event", "time", "behavior"),
    }
    assert np.array_equal(recording.spike_times, np.sort(TIMES))
    assert recording.units["region"].tolist() == ["A", "B", "B"]
    assert len(corpus["my_lab/day2"].trials) == 12
    assert prepare("arrays", folder, tmp_path / "corpus").written == []
    save(folder / "day2.npz", subject="mouse3", counts=TRIAL_COUNTS, bin_size_s=0.02, counts_axes=axes)
    assert prepare("arrays", folder, tmp_path / "corpus").written == ["my_lab/day2"]
    assert Corpus.open(tmp_path / "corpus").subjects["my_lab/day2"] == "mouse3"


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    save(tmp_path / "lab" / "a.npz", **(PLAIN | {"spike_times": TIMES * 1000}))
    save(tmp_path / "lab" / "b.npz", **{key: value for key, value in PLAIN.items() if key != "subject"})
    ragged = np.array([[1.0], [1.0, 2.0]], dtype=object)
    save(tmp_path / "lab" / "c.npz", **(PLAIN | {"spike_times": ragged}))
    (tmp_path / "lab" / "d.npz").write_bytes(b"no zip file")
    np.save(tmp_path / "lab" / "e.npy", TIMES)
    (tmp_path / "lab" / "e.npy").rename(tmp_path / "lab" / "e.npz")
    save(tmp_path / "lab" / "f.npz", **PLAIN)
    prepared = prepare("arrays", tmp_path / "lab", tmp_path / "corpus")
    assert prepared.written == ["lab/f"]
    assert "milliseconds" in prepared.failed["lab/a"]
    assert "no array 'subject'; the file has" in prepared.failed["lab/b"]
    assert "'spike_times' cannot be read: it holds Python objects" in prepared.failed["lab/c"]
    assert "not an .npz file" in prepared.failed["lab/d"]
    assert "not an .npz file" in prepared.failed["lab/e"]


def write_mapping(path: Path, **entries: Any) -> Path:
    path.write_text(yaml.safe_dump({"dataset": "lab", "subject": "m", "spikes": {"counts": "c"}} | entries))
    return path


def test_a_mapping_beside_the_file_and_one_for_all(tmp_path: Path) -> None:
    flags = {"l": np.array([1, 0, 0]), "r": np.array([0, 1, 0])}
    names = np.array(["left", "", "right"])
    save(tmp_path / "a.npz", c=np.ones((3, 2, 9), int), bin=0.01, names=names, xy=np.zeros((27, 2)), **flags)
    spikes = {"counts": "c", "axes": ["trial", "unit", "bin"], "bin_size_s": "bin"}
    covariates = {
        "turn": {"key": ["l", "r"], "kind": "categorical", "role": "stimulus"},
        "side": {"key": "names", "classes": ["left", "right"]},
        "both": {"key": ["xy[1]", "xy[0]"], "unit": "m"},
        "more": {"key": ["l", "r"], "combine": "larger"},
        "by": {"key": ["l", "r"], "combine": "difference", "role": "stimulus"},
    }
    write_mapping(tmp_path / "a.yaml", spikes=spikes, covariates=covariates, licence="CC-BY-4.0")
    (job,) = sessions(tmp_path).values()
    recording = read(**job)
    assert recording.info.recording_id == "lab/a"
    assert recording.info.licence == "CC-BY-4.0"
    assert recording.covariates["turn"].values.tolist() == [0, 1, 0]
    assert recording.covariates["turn"].observed.tolist() == [True, True, False]
    assert recording.covariates["side"].values.tolist() == [0, 0, 1]
    assert recording.covariates["side"].observed.tolist() == [True, False, True]
    assert recording.covariates["both"].values.shape == (27, 2)
    assert recording.covariates["more"].values.tolist()[:2] == [0, 1]
    assert recording.covariates["more"].observed.tolist() == [True, True, False]
    assert recording.covariates["by"].values.tolist() == [1, -1, 0]
    assert recording.covariates["by"].spec.kind == "continuous"
    bad = write_mapping(tmp_path / "bad.yaml", covariates={"x": {"key": "l", "combine": "larger"}})
    with pytest.raises(ValueError, match="expected difference or larger of two arrays"):
        sessions(tmp_path / "a.npz", mapping=bad)
    other = write_mapping(tmp_path / "other.yaml", spikes=spikes, dataset="elsewhere")
    assert list(sessions(tmp_path / "a.npz", mapping=other)) == ["elsewhere/a"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"subjects": "m"}, r"the mapping: no entry \['subjects'\]; there are .*'subject'"),
        ({"spikes": {"time": "t"}}, r"spikes: no entry \['time'\]"),
        ({"spikes": None}, "spikes: got None"),
        ({"trials": {"begin": "t"}}, "trials: no entry"),
        ({"units": "region"}, "units: got 'region'"),
        ({"units": {"region": "region"}, "regions": {"parcellation": "atlas"}}, "expected a parcellation of"),
        ({"regions": {"parcellation": "cosmos"}}, "an array of region names under units"),
        (
            {"units": {"region": "region"}, "regions": {"parcellation": "cosmos", "leave_out": "HY"}},
            "lists of names leave_out",
        ),
        (
            {"units": {"region": "region"}, "regions": {"parcellation": "cosmos", "doubted_sessions": "a"}},
            "doubted_sessions",
        ),
        ({"units": {"region": "region"}, "regions": {"map": "cosmos"}}, "regions"),
        ({"covariates": {"x": {"key": "x", "scale": 2}}}, r"covariates\.x: no entry \['scale'\]"),
        ({"covariates": {"x": {"kind": "continuous"}}}, r"covariates\.x: key is None"),
        ({"covariates": {"x": {"key": [1, 2]}}}, r"covariates\.x: key is \[1, 2\]"),
        ({"subject_key": "s"}, "one of 'subject'"),
    ],
)
def test_a_wrong_mapping_names_the_entry(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_mapping(write_mapping(tmp_path / "m.yaml", **entries))


def test_mappings_that_do_not_fit_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", c=COUNTS, s=np.arange(300) % 3, l=np.ones(300), r=np.ones(300))
    spikes = {"counts": "c", "bin_size_s": 0.02}
    for covariate, message in (
        ({"key": "q"}, "no array 'q'; the file has"),
        ({"key": "c[4]"}, r"c\[4\]: the array has shape \(300, 4\)"),
        ({"key": "s", "classes": [0, 1]}, r"values \[2\] are not among the classes \[0, 1\]"),
        ({"key": ["l", "r"], "kind": "categorical"}, r"more than one of \['l', 'r'\] is set in row 0"),
    ):
        mapping = load_mapping(write_mapping(tmp_path / "m.yaml", spikes=spikes, covariates={"x": covariate}))
        with pytest.raises(ValueError, match=message):
            read(str(path), "lab/a", mapping)
    for text in ("[", "- a", ""):
        (tmp_path / "m.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"m\.yaml"):
            load_mapping(tmp_path / "m.yaml")
    for source in (None, tmp_path / "nothing", tmp_path / "m.yaml"):
        with pytest.raises(ValueError, match=r"expected an \.npz file or a folder"):
            sessions(source)


def real(real_data: Path, source: str, mapping: str) -> list[tuple[np.lib.npyio.NpzFile, Recording]]:
    if not (real_data / source).exists():
        pytest.skip(f"{real_data / source} does not exist")
    jobs = sessions(real_data / source, mapping=MAPPINGS / mapping)
    return [(np.load(job["path"], allow_pickle=False), read(**job).validate()) for job in list(jobs.values())[:3]]


@pytest.mark.real
def test_steinmetz(real_data: Path) -> None:
    for raw, recording in real(real_data, "steinmetz2019_subset", "steinmetz2019.yaml"):
        counts = raw["spikes"]
        starts = recording.trials["start_s"].to_numpy()
        assert np.array_equal(starts, raw["time"][:, 0])
        for k in range(0, len(counts), 20):
            assert np.array_equal(bin_spikes(recording, starts[k], 40, 0.01), counts[k].T)
        assert len(recording.spike_times) == counts.sum()
        assert recording.info.subject_id == str(raw["subject"])
        assert recording.units["region_given"].tolist() == raw["unit_area"].tolist()
        doubted = recording.info.recording_id == "steinmetz2019/session17"
        assert (
            set(recording.units["region"]) <= {""}
            if doubted
            else set(recording.units["region"]) <= {"", "Isocortex", "HPF", "TH", "MB", "CNU", "CTXsp", "OLF"}
        )
        assert (recording.units["region"][recording.units["region_given"] == "CA1"] == "HPF").all()
        c = recording.covariates
        assert np.array_equal(c["contrast_left"].values, raw["contrast_left"])
        assert np.array_equal(c["contrast_right"].values, raw["contrast_right"])
        assert np.array_equal(2 * c["feedback"].values - 1, raw["feedback_type"])
        for position, key in enumerate(("turned_left", "turned_right")):
            assert np.array_equal(c["turn"].observed & (c["turn"].values == position), raw[key])
        assert not (c["turn"].observed & raw["no_turn"]).any()
        assert np.array_equal(c["turn"].observed, raw["turned_left"] | raw["turned_right"])
        assert np.array_equal(c["contrast"].values, raw["contrast_right"] - raw["contrast_left"])
        assert np.array_equal(c["side"].observed, raw["contrast_left"] != raw["contrast_right"])
        assert np.array_equal(c["side"].values[c["side"].observed], (c["contrast"].values > 0)[c["side"].observed])
        assert recording.info.min_bin_size_s == 0.01


def test_regions_in_a_parcellation(tmp_path: Path) -> None:
    given = np.array(["VISp2/3", "ZI", "CA1", "root", "nowhere"])
    spikes = {"spike_times": np.arange(10.0), "spike_units": np.arange(10) % 5}
    np.savez(tmp_path / "a.npz", subject="m", area=given, **spikes)
    (tmp_path / "a.yaml").write_text(
        "{subject_key: subject, spikes: {times: spike_times, units: spike_units}, units: {region: area}, "
        "regions: {parcellation: cosmos, leave_out: [HY]}}"
    )
    (job,) = sessions(tmp_path / "a.npz").values()
    units = read(**job).units
    assert units["region"].tolist() == ["Isocortex", "", "HPF", "", ""]
    assert units["region_given"].tolist() == given.tolist()
    text = (tmp_path / "a.yaml").read_text()
    (tmp_path / "a.yaml").write_text(text.replace("leave_out: [HY]", "doubted_sessions: [a]"))
    (job,) = sessions(tmp_path / "a.npz").values()
    units = read(**job).units
    assert set(units["region"]) == {""}
    assert units["region_given"].tolist() == given.tolist()
    (tmp_path / "a.yaml").write_text(text.replace("leave_out: [HY]", "doubted_sessions: [7]"))
    with pytest.raises(ValueError, match="lists of names"):
        sessions(tmp_path / "a.npz")


@pytest.mark.real
def test_luo2020(real_data: Path) -> None:
    for raw, recording in real(real_data, "luo2020_chronic", "luo2020_chronic.yaml"):
        assert np.array_equal(recording.spike_times, raw["spike_times"])
        assert np.array_equal(recording.spike_units, raw["spike_units"])
        assert recording.units["region"].tolist() == raw["unit_area"].tolist()
        assert recording.info.session == str(raw["session"])
        assert recording.info.subject_id == str(raw["subject"])
        assert recording.covariates == {}
        assert recording.duration_s == pytest.approx(raw["spike_times"].max(), abs=1)


@pytest.mark.real
def test_hippocampus(real_data: Path) -> None:
    ((raw, buddy),) = real(real_data, "hippocampus_hc11/buddy.npz", "hippocampus_buddy.yaml")
    assert np.array_equal(bin_spikes(buddy, 0.0, 6577, 0.025), raw["spikes"])
    position, observed = bin_covariate(buddy.covariates["position"], 0.0, 6577, 0.025)
    assert observed.all()
    assert np.array_equal(position[:, 0], raw["position"][:, 0])
    assert np.array_equal(1 - buddy.covariates["direction"].values, raw["position"][:, 1])
    ((raw, achilles),) = real(real_data, "hippocampus_hc11/achilles_left_laps.npz", "hippocampus_achilles.yaml")
    assert len(achilles.trials) == 42
    for k, (start, stop) in enumerate(stretches(achilles)):
        rows = raw["lap"] == k
        assert round((stop - start) / 0.025) == rows.sum()
        assert np.array_equal(bin_spikes(achilles, start, rows.sum(), 0.025), raw["activity"][rows])
        assert np.array_equal(
            bin_covariate(achilles.covariates["position"], start, rows.sum(), 0.025)[0][:, 0], raw["position"][rows]
        )


def test_an_array_without_a_meaning_is_refused_not_dropped(tmp_path: Path) -> None:
    """`choice` in place of `behavior_choice` once prepared a recording without it."""
    times = np.arange(1, 60, 0.1)
    path = tmp_path / "mine.npz"
    np.savez(path, subject="m", spike_times=times, spike_units=np.zeros(len(times), int), choice=np.ones(3))
    with pytest.raises(ValueError, match=r"\['choice'\].*behavior_<name>"):
        read(path=str(path), recording_id="own/mine", mapping=None, file_version="")


def test_a_source_named_by_another_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab").mkdir()
    rng = np.random.default_rng(0)
    times, units = np.sort(rng.uniform(0, 60, 400)), np.resize(np.arange(3), 400)
    np.savez(tmp_path / "lab" / "day1.npz", subject="mouse1", spike_times=times, spike_units=units)
    monkeypatch.chdir(tmp_path)
    assert prepare("arrays", "lab", tmp_path / "corpus").written == ["lab/day1"]
    assert prepare("arrays", tmp_path / "lab", tmp_path / "corpus").skipped == ["lab/day1"]


def test_a_handful_of_spikes_says_nothing_about_units_of_time() -> None:
    recording = recording_from_arrays("lab/day1", "m", counts=np.array([[3]]), bin_size_s=0.005)
    assert recording.spike_times.tolist() == [0.0025] * 3
    with pytest.raises(ValueError, match="Are times or bin_size_s in milliseconds"):
        recording_from_arrays("lab/day1", "m", counts=np.array([[30]]), bin_size_s=0.005)
