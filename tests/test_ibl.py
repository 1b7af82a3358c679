"""IBL sessions come out as ONE and brainbox read them, and every kind of bad file has its stated consequence."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from brainbox.io.one import SessionLoader, SpikeSortingLoader
from iblatlas.regions import BrainRegions
from iblutil.io import parquet
from one.alf.cache import make_parquet_db
from one.alf.io import load_object
from one.api import One

from benchmarks.simulated_ibl import session_id, write_cache, write_session
from data_recipes import ibl, ibl_selection
from data_recipes.cleaning import Tally
from data_recipes.ibl_files import SessionFiles
from data_recipes.ibl_lists import read_list
from data_recipes.ibl_probes import Probe, merge_probes
from data_recipes.ibl_selection import Selection, select
from data_recipes.ibl_trials import TrialRules, read_trials
from data_recipes.recipe import prepare
from foundation.binning import bin_covariate
from foundation.corpus import Corpus
from foundation.recording import Recording

SESSION = {"lab": "cortexlab", "subject": "KS014", "date": "2024-01-15", "number": 1}
EID = session_id(**SESSION)
ALF = Path("cortexlab", "Subjects", "KS014", "2024-01-15", "001", "alf")
PROBE = ALF / "probe00" / "pykilosort"
TRIALS, WHEEL, CAMERA = "_ibl_trials.table.pqt", "_ibl_wheel.timestamps.npy", "_ibl_leftCamera.times.npy"

# Of upstream's readers: the simulated tables say nothing of default revisions.
pytestmark = pytest.mark.filterwarnings("ignore::one.alf.exceptions.ALFWarning")

Folder = Callable[[], Path]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ONE cache with tables: one mouse, one session, two probes of 40 clusters, 50 trials. Read only."""
    root = tmp_path_factory.mktemp("one")
    write_session(root, **SESSION, units_per_probe=40, num_trials=50)
    write_cache(root)
    return root


@pytest.fixture
def folder(cache: Path, tmp_path: Path) -> Folder:
    """A copy of the session that a test may damage, without tables."""

    def copy() -> Path:
        shutil.copytree(cache, tmp_path / "one", ignore=shutil.ignore_patterns("sessions.pqt", "datasets.pqt"))
        return tmp_path / "one"

    return copy


@pytest.fixture(scope="module")
def recording(cache: Path) -> Recording:
    return read(cache)


def read(root: Path, **options: Any) -> Recording:
    (job,) = ibl.sessions(root, **options).values()
    return ibl.read(**job).validate()


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, edit(np.load(path)))


def change_table(path: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    edit(pd.read_parquet(path)).to_parquet(path)


# What comes out is what upstream's own readers return.


def test_spikes_and_regions_are_those_of_the_spike_sorting_loader(cache: Path, recording: Recording) -> None:
    one, regions = One(cache_dir=cache, mode="local"), BrainRegions()
    good = 0
    for probe in ("probe00", "probe01"):
        loader = SpikeSortingLoader(eid=EID, pname=probe, one=one, atlas=SimpleNamespace(regions=regions))
        spikes, clusters, channels = loader.load_spike_sorting()
        clusters = loader.merge_clusters(spikes, clusters, channels)
        for cluster in np.flatnonzero(clusters["label"] == 1):
            row = recording.units.index[recording.units["unit_id"] == f"ibl/{EID}/{probe}/{cluster}"]
            train = spikes["times"][spikes["clusters"] == cluster]
            if not len(train):
                assert not len(row)
                continue
            unit = recording.units.loc[row[0]]
            assert np.array_equal(recording.spike_times[recording.spike_units == row[0]], train)
            assert unit["region_allen"] == clusters["acronym"][cluster]
            cosmos = regions.acronym2acronym(clusters["acronym"][cluster], mapping="Cosmos")[0]
            assert unit["region"] == unit["region_cosmos"] == ("" if cosmos in ("root", "void") else cosmos)
            assert unit["depth_um"] == clusters["depths"][cluster]
            assert unit["uuid"] == clusters["uuids"][cluster]
            assert unit["firing_rate"] == clusters["firing_rate"][cluster]
            assert unit["ap_um"] == pytest.approx(clusters["y"][cluster] * 1e6)
            good += 1
    assert good == recording.num_units > 10
    assert recording.units["region"].nunique() > 2


def test_every_spike_of_every_cluster(cache: Path) -> None:
    recording = read(cache, min_label=0, regions="allen")
    expected = []
    for probe in ("probe00", "probe01"):
        spikes = load_object(cache / ALF / probe / "pykilosort", "spikes")
        expected += [(t, f"ibl/{EID}/{probe}/{c}") for t, c in zip(spikes["times"], spikes["clusters"])]
    ids = recording.units["unit_id"].to_numpy()
    assert sorted(zip(recording.spike_times, ids[recording.spike_units])) == sorted(expected)
    counts = recording.info.counts
    assert counts["units in"] == 86
    assert counts["units out: no spikes"] == 86 - counts["units kept"] >= 6
    known = recording.units["region"] != ""
    assert (recording.units["region"] == recording.units["region_allen"])[known].all()


def test_behavior_is_that_of_the_session_loader(cache: Path) -> None:
    recording = read(cache, intervals="trial", bwm_trials=False)
    loader = SessionLoader(one=One(cache_dir=cache, mode="local"), eid=EID)
    loader.load_trials()
    loader.load_wheel()
    loader.load_motion_energy(views=["left"])
    loader.load_pose(views=["left"])
    loader.load_licks()
    trials, table = loader.trials, recording.trials
    assert np.array_equal(table["start_s"], trials["intervals_0"])
    assert np.array_equal(table["first_movement_s"], trials["firstMovement_times"], equal_nan=True)
    assert np.array_equal(table["stim_on_s"], trials["stimOn_times"])
    covariates = recording.covariates
    choice = np.where(covariates["choice"].observed, 1 - 2 * covariates["choice"].values, 0)
    assert np.array_equal(choice, trials["choice"])
    assert np.array_equal(np.array([0.2, 0.5, 0.8])[covariates["block"].values], trials["probabilityLeft"])
    for side in ("Left", "Right"):
        assert np.allclose(covariates[f"contrast_{side.lower()}"].values, trials[f"contrast{side}"].fillna(0))
    assert np.array_equal(2 * covariates["feedback"].values - 1, trials["feedbackType"])
    # Correct means that the side of the stimulus was reported.
    sure = covariates["choice"].observed & (trials["feedbackType"] == 1)
    assert np.array_equal(covariates["choice"].values[sure], trials["contrastLeft"].isna()[sure])
    wheel = loader.wheel.iloc[::5]
    late = wheel["times"].to_numpy() >= 0
    assert np.allclose(covariates["wheel_velocity"].times, wheel["times"][late], atol=1e-4)
    assert np.allclose(covariates["wheel_velocity"].values, wheel["velocity"][late], atol=1e-4)
    assert np.array_equal(covariates["wheel_speed"].values, np.abs(covariates["wheel_velocity"].values))
    energy = loader.motion_energy["leftCamera"]
    assert np.array_equal(covariates["whisker_energy"].times, energy["times"])
    assert np.array_equal(covariates["whisker_energy"].values, energy["whiskerMotionEnergy"].astype(np.float32))
    paw = loader.pose["leftCamera"][["paw_r_x", "paw_r_y"]].to_numpy()
    assert np.array_equal(covariates["paw_near"].observed, np.isfinite(paw).all(axis=1))
    assert np.array_equal(covariates["paw_near"].values, np.nan_to_num(paw).astype(np.float32))
    assert np.array_equal(covariates["lick"].times, loader.licks["times"])


def test_usable_trials_are_those_of_the_brain_wide_map(folder: Folder) -> None:
    root = folder()

    def spoil(t: pd.DataFrame) -> pd.DataFrame:
        t.loc[[3, 4], "feedback_times"] = np.nan
        t.loc[7, "firstMovement_times"] = t.loc[7, "stimOn_times"] + 0.05
        t.loc[8, "firstMovement_times"] = t.loc[8, "stimOn_times"] + 2.5
        t.loc[9, "probabilityLeft"] = np.nan
        return t

    change_table(root / ALF / TRIALS, spoil)
    trials = pd.read_parquet(root / ALF / TRIALS)
    # The published query of paper-brain-wide-map's load_trials_and_mask.
    query = "(firstMovement_times - stimOn_times < 0.08) | (firstMovement_times - stimOn_times > 2.0)"
    events = ("stimOn_times", "choice", "feedback_times", "probabilityLeft", "firstMovement_times", "feedbackType")
    query += "".join(f" | {event}.isnull()" for event in events)
    recording = read(root)
    assert np.array_equal(recording.trials["usable"], ~trials.eval(query))
    assert recording.info.counts["usable trials out: no feedback_times"] == 2
    assert recording.info.counts["usable trials out: movement before 0.08 s"] == 1
    stricter = read(root, exclude_nochoice=True, exclude_unbiased=True)
    unbiased = trials.eval(f"{query} | choice == 0 | probabilityLeft == 0.5")
    assert np.array_equal(stricter.trials["usable"], ~unbiased)
    assert len(stricter.trials) == 50
    assert read(root, bwm_trials=False).trials["usable"].all()
    assert np.allclose(recording.trials["start_s"], trials["stimOn_times"] - 0.5)
    assert np.allclose(recording.trials["stop_s"], trials["stimOn_times"] + 1.5)


def test_a_corpus_as_a_user_makes_it(cache: Path, folder: Folder, tmp_path: Path, recording: Recording) -> None:
    root, out = folder(), tmp_path / "corpus"
    assert prepare("ibl", root, out).written == [f"ibl/{EID}"]
    stored = Corpus.open(out)[f"ibl/{EID}"]
    assert np.array_equal(stored.spike_times, recording.spike_times)
    assert stored.info.subject_id == "KS014"
    assert stored.info.counts == recording.info.counts
    assert prepare("ibl", root, out).skipped == [f"ibl/{EID}"]
    change(root / ALF / "licks.times.npy", lambda t: t[1:])
    assert prepare("ibl", root, out).written == [f"ibl/{EID}"]
    with pytest.raises(ValueError, match=r"no option .'camra'."):
        prepare("ibl", root, out, options={"camra": 1})


def test_plan_tells_cost_and_gaps(folder: Folder) -> None:
    root = folder()
    (root / ALF / "leftCamera.ROIMotionEnergy.npy").unlink()
    (root / ALF / "probe01" / "pykilosort" / "channels.brainLocationIds_ccf_2017.npy").unlink()
    (job,) = ibl.sessions(root).values()
    plan = ibl.plan(**job)
    paths = [root / job["session"]["path"] / path for path in job["files"].values()]
    assert plan.size_bytes == sum(path.stat().st_size for path in paths)
    assert {"probe00", "probe01", "histology of probe00", "trials", "wheel", "licks"} <= set(plan.present)
    assert plan.missing == ["histology of probe01", "left camera"]


# Which sessions.


@pytest.fixture(scope="module")
def colony(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sessions of three mice in two labs, one mouse with a name that is not ASCII, without tables."""
    root = tmp_path_factory.mktemp("colony")
    small = {"units_per_probe": 4, "num_trials": 4, "min_label": 1.0}
    write_session(root, **SESSION, **small)
    write_session(root, **SESSION | {"date": "2024-01-16"}, **small)
    write_session(root, **SESSION | {"subject": "Zoë-1"}, **small)
    write_session(root, **SESSION | {"lab": "danlab", "subject": "DY_1"}, **small, probes=1)
    bare = write_session(root, **SESSION | {"subject": "training"}, **small, probes=1)
    shutil.rmtree(bare / "alf" / "probe00")
    return root


def subjects(root: Path, **options: Any) -> list[str]:
    return sorted(job["session"]["subject"] for job in ibl.sessions(root, **options).values())


def test_selection(colony: Path, tmp_path: Path) -> None:
    before = sorted(colony.rglob("*"))
    assert subjects(colony) == ["DY_1", "KS014", "KS014", "Zoë-1"]
    assert sorted(colony.rglob("*")) == before  # nothing is written into the cache
    assert subjects(colony, subject="KS014") == ["KS014", "KS014"]
    assert subjects(colony, subject=["DY_1", "Zoë-1"]) == ["DY_1", "Zoë-1"]
    assert subjects(colony, lab="danlab") == ["DY_1"]
    assert list(ibl.sessions(colony, eid=[EID, EID], dataset="bwm")) == [f"bwm/{EID}"]
    with pytest.raises(ValueError, match=r"no session in .* meets"):
        ibl.sessions(colony, subject="nobody")
    other = session_id(**SESSION | {"lab": "danlab", "subject": "DY_1"})
    (tmp_path / "eids.txt").write_text(f"{EID}\n# a comment\n{other}\n{EID}\n")
    (tmp_path / "header.csv").write_text(f",subject,eid\n0,KS014,{EID}\n1,DY_1,{other}\n")
    for name in ("eids.txt", "header.csv"):
        assert subjects(colony, list=str(tmp_path / name)) == ["DY_1", "KS014"]
    (tmp_path / "bad.txt").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'eid' or 'pid'"):
        read_list(str(tmp_path / "bad.txt"))
    absent = "00000000-0000-4000-8000-000000000000"
    with pytest.warns(UserWarning, match="1 sessions asked for are not in"):
        assert subjects(colony, eid=[EID, absent]) == ["KS014"]


def test_insertions_choose_probes(colony: Path, tmp_path: Path) -> None:
    freeze = pd.DataFrame({"pid": ["p1"], "eid": [EID], "probe_name": ["probe01"], "subject": ["KS014"]})
    freeze.to_parquet(tmp_path / "freeze.pqt")
    (job,) = ibl.sessions(colony, list=str(tmp_path / "freeze.pqt")).values()
    assert set(ibl.read(**job).units["probe"]) == {"probe01"}
    with pytest.raises(ValueError, match="1 insertions are in no table"):
        ibl.sessions(colony, pid="p1")
    root = tmp_path / "tables"
    shutil.copytree(colony, root)
    write_cache(root)
    index = pd.MultiIndex.from_tuples([(EID, EID.replace("0", "1"))], names=["eid", "id"])
    meta = {"date_created": "2024-01-15 12:00", "origin": "test"}
    parquet.save(root / "insertions.pqt", pd.DataFrame({"name": ["probe00"]}, index=index), meta)
    (job,) = ibl.sessions(root, pid=EID.replace("0", "1")).values()
    assert SessionFiles(root, job["files"]).probes == ["probe00"]


def test_ids_of_tables_and_release(colony: Path, tmp_path: Path) -> None:
    root = tmp_path / "one"
    shutil.copytree(colony, root)
    make_parquet_db(root)
    eids = {str(eid) for eid in One(cache_dir=root, mode="local").search()}
    assert {key.split("/")[1] for key in ibl.sessions(root)} < eids
    with pytest.raises(ValueError, match=r"no tables of the release '2023_Q4' .* mode=remote"):
        ibl.sessions(root, tag="2023_Q4")
    (root / "2023_Q4").mkdir()
    for name in ("sessions", "datasets"):
        (root / f"{name}.pqt").rename(root / "2023_Q4" / f"{name}.pqt")
    assert subjects(root, tag="2023_Q4") == ["DY_1", "KS014", "KS014", "Zoë-1"]
    (root / "sessions.pqt").write_bytes(b"PAR1 broken")
    (root / "datasets.pqt").write_bytes(b"PAR1 broken")
    with pytest.raises(ValueError, match="make_parquet_db makes them anew"):
        ibl.sessions(root)


def test_sources_that_hold_nothing(tmp_path: Path, colony: Path) -> None:
    with pytest.raises(ValueError, match="expected ONE's cache folder"):
        ibl.sessions(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="give mode=remote to download"):
        ibl.sessions(tmp_path)
    with pytest.raises(ValueError, match=r"none of the sessions .* has spikes"):
        ibl.sessions(colony, subject="training")
    training = session_id(**SESSION | {"subject": "training"})
    (job,) = ibl.sessions(colony, eid=training).values()
    assert ibl.plan(**job).missing[0] == "spikes"
    with pytest.raises(ValueError, match="no spikes"):
        ibl.read(**job)


def test_a_session_that_is_there_twice_is_refused(folder: Folder) -> None:
    root = folder()
    shutil.copytree(root / "cortexlab", root / "otherlab")
    with pytest.raises(ValueError, match=r"KS014 2024-01-15 1 is there as .*cortexlab.*otherlab.*select one"):
        ibl.sessions(root)
    assert subjects(root, lab="otherlab") == ["KS014"]


def test_trees_without_labs(cache: Path, tmp_path: Path, recording: Recording) -> None:
    for parts, lab in ((("Subjects",), "mylab"), ((), "")):
        root = tmp_path / str(len(parts)) / "mylab"
        shutil.copytree(cache / "cortexlab" / "Subjects", root.joinpath(*parts))
        (job,) = ibl.sessions(root).values()
        assert job["session"]["lab"] == lab
        assert np.array_equal(ibl.read(**job).spike_times, recording.spike_times)


def test_names_in_unicode(colony: Path, folder: Folder) -> None:
    (job,) = ibl.sessions(colony, subject=unicodedata.normalize("NFD", "Zoë-1")).values()
    recording = ibl.read(**job).validate()
    assert recording.info.subject_id == unicodedata.normalize("NFC", "Zoë-1")
    root = folder()
    shutil.copytree(root / "cortexlab" / "Subjects" / "KS014", root / "cortexlab" / "Subjects" / "my mouse")
    with pytest.warns(UserWarning, match=r"subjects \['my mouse'\] .* rename their folders"):
        assert subjects(root) == ["KS014"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "cloud"}, "mode is 'cloud'"),
        ({"min_label": 2}, "min_label is 2, expected 0 to 1"),
        ({"min_rate_hz": "5"}, "min_rate_hz is '5'"),
        ({"regions": "swanson"}, "regions is 'swanson'"),
        ({"camera": ["left", "top"]}, "camera is \\['top'\\]"),
        ({"intervals": "whole"}, "intervals is 'whole'"),
    ],
)
def test_options_that_do_not_exist(cache: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ibl.sessions(cache, **options)


# Remote, against a folder that plays the server.


class Server(One):
    """ONE with an account, whose downloads are copies from another folder; the rest is upstream's own code."""

    def __init__(self, cache_dir: Path, server: Path) -> None:
        super().__init__(cache_dir=cache_dir, mode="local", tables_dir=server)
        self.server, self.mode, self._web_client, self.fetched = server, "remote", True, []

    def pid2eid(self, pid: str) -> tuple[Any, Any]:
        return (EID, "probe01") if pid == "known" else (None, None)

    def list_datasets(self, eid: Any = None, **options: Any) -> Any:
        if eid == "unknown":
            raise OSError("404")
        return super().list_datasets(eid, **options)

    def load_cache(self, tables_dir: Any = None, clobber: bool = True, tag: str | None = None) -> Any:
        if tag is None:
            return super().load_cache(tables_dir, clobber)
        shutil.copytree(self.server, Path(self.cache_dir, tag), ignore=shutil.ignore_patterns("cortexlab"))
        return None

    def _download_datasets(self, dsets: pd.DataFrame, **_: Any) -> list[Path]:
        paths = []
        for _index, row in dsets.iterrows():
            path = Path(self.cache_dir, row["session_path"], row["rel_path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(self.server, row["session_path"], row["rel_path"]), path)
            self.fetched.append(row["rel_path"])
            paths.append(path)
        return paths


def test_remote_downloads_what_is_read_and_resumes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recording: Recording
) -> None:
    server = Server(tmp_path, cache)
    monkeypatch.setattr(ibl, "connect", lambda root: server)
    monkeypatch.setattr(ibl_selection, "connect", lambda root: server)
    with pytest.raises(ValueError, match="the whole database"):
        ibl.sessions(tmp_path, mode="remote")
    (job,) = ibl.sessions(tmp_path, mode="remote", subject="KS014").values()
    assert not server.fetched
    assert ibl.plan(**job).missing == []
    read_once = ibl.read(**job)
    assert np.array_equal(read_once.spike_times, recording.spike_times)
    assert set(server.fetched) == set(job["files"].values())
    assert not any("spikes.amps" in path for path in server.fetched)
    server.fetched.clear()
    ibl.read(**job)
    assert server.fetched == []
    broken = tmp_path / job["session"]["path"] / job["files"]["probe00/spikes.times"]
    broken.write_bytes(broken.read_bytes()[:1000])
    (tmp_path / job["session"]["path"] / job["files"]["wheel.position"]).unlink()
    assert np.array_equal(ibl.read(**job).spike_times, recording.spike_times)
    assert set(server.fetched) == {job["files"]["probe00/spikes.times"], job["files"]["wheel.position"]}


def test_remote_by_release_and_insertion(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tmp_path, cache)
    monkeypatch.setattr(ibl_selection, "connect", lambda root: server)
    (job,) = ibl.sessions(tmp_path, mode="remote", tag="2023_Q4", subject="KS014").values()
    assert SessionFiles(tmp_path, job["files"]).probes == ["probe00", "probe01"]
    (again,) = ibl.sessions(tmp_path, mode="remote", pid="known").values()
    assert SessionFiles(tmp_path, again["files"]).probes == ["probe01"]
    with pytest.raises(ValueError, match="unknown is not in the database"):
        ibl.sessions(tmp_path, mode="remote", eid="unknown")
    # With the tables of the release there, but none of its files.
    with pytest.raises(ValueError, match="none of the sessions"):
        ibl.sessions(tmp_path, tag="2023_Q4")


def test_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ALYX_LOGIN", "ALYX_PASSWORD", "ALYX_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def refuse(**account: Any) -> None:
        raise OSError(f"refused {account}")

    ibl_selection.connect.cache_clear()
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ValueError, match=r"no connection .* needs your own account .*ONE.setup.*mode=local"):
        ibl.sessions(tmp_path, mode="remote", subject="KS014")
    monkeypatch.setenv("ALYX_LOGIN", "someone")
    monkeypatch.setenv("ALYX_PASSWORD", "secret-word")
    monkeypatch.setattr("one.api.OneAlyx", refuse)
    with pytest.raises(ValueError, match="no connection") as caught:
        ibl.sessions(tmp_path, mode="remote", subject="KS014")
    assert "secret-word" not in str(caught.value)
    assert caught.value.__suppress_context__


# Spikes and units that are not as they should be.


@pytest.mark.parametrize(
    ("path", "damage", "message"),
    [
        (PROBE / "spikes.times.npy", lambda p: p.write_bytes(p.read_bytes()[:-100]), "spikes.times.npy: truncated"),
        (PROBE / "spikes.clusters.npy", lambda p: p.write_bytes(b""), "spikes.clusters.npy: truncated"),
        (PROBE / "clusters.metrics.pqt", lambda p: p.write_bytes(p.read_bytes()[:500]), "metrics.pqt: truncated"),
        (ALF / TRIALS, lambda p: p.write_bytes(b"no table"), "trials.table.pqt: truncated or not a table"),
        (
            ALF / "_ibl_wheel.position.npy",
            lambda p: np.save(p, np.array([{}, 1], object), allow_pickle=True),
            "position.npy: holds pickled Python objects",
        ),
        (PROBE / "spikes.times.npy", lambda p: change(p, lambda t: t * 1000), "Are times .* in milliseconds"),
        (ALF / TRIALS, lambda p: change_table(p, lambda t: t * 1000), "trials: .*in milliseconds"),
        (ALF / WHEEL, lambda p: change(p, lambda t: t * 1000), "wheel: .* in milliseconds"),
        (ALF / CAMERA, lambda p: change(p, lambda t: t * 1000), "leftCamera: .* in milliseconds"),
        (PROBE / "spikes.times.npy", lambda p: change(p, lambda t: t[:-1]), "expected one length"),
        (PROBE / "spikes.clusters.npy", lambda p: change(p, lambda c: c - 5), "expected whole numbers from 0"),
        (PROBE / "clusters.depths.npy", lambda p: change(p, lambda d: d[:-3]), "files of one revision"),
        (
            PROBE / "clusters.metrics.pqt",
            lambda p: change_table(p, lambda t: t.drop(columns="cluster_id")[:-2]),
            "rows without `cluster_id`",
        ),
        (ALF / "_ibl_wheel.position.npy", lambda p: change(p, lambda t: t[:-1]), "wheel: .*expected one length"),
    ],
)
def test_refused(folder: Folder, path: Path, damage: Callable[[Path], Any], message: str) -> None:
    root = folder()
    damage(root / path)
    with pytest.raises(ValueError, match=message):
        read(root)


def test_clusters_are_joined_by_id(folder: Folder, recording: Recording) -> None:
    root = folder()
    clusters = np.load(root / PROBE / "spikes.clusters.npy")
    lost, kept = recording.units["cluster_id"][recording.units["probe"] == "probe00"].to_numpy()[[0, 1]]

    def shuffle(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["cluster_id"] != lost].sample(frac=1, random_state=1)

    change_table(root / PROBE / "clusters.metrics.pqt", shuffle)
    other = read(root)
    expected = recording.units[recording.units["unit_id"] != f"ibl/{EID}/probe00/{lost}"].reset_index(drop=True)
    pd.testing.assert_frame_equal(other.units, expected)
    assert other.info.counts["clusters fired but not in the metrics"] == 1
    assert other.info.counts["units out: no quality label"] == 1
    everything = read(root, min_label=0)
    row = everything.units.index[everything.units["unit_id"] == f"ibl/{EID}/probe00/{lost}"][0]
    assert (everything.spike_units == row).sum() == (clusters == lost).sum()
    assert np.isnan(everything.units["label"][row])
    # A cluster beyond every table is still a cluster.
    change(root / PROBE / "spikes.clusters.npy", lambda c: np.where(c == kept, 1000, c))
    beyond = read(root, min_label=0).units.set_index("unit_id").loc[f"ibl/{EID}/probe00/1000"]
    assert beyond["region"] == beyond["uuid"] == ""
    assert np.isnan(beyond["depth_um"])


def test_thresholds_count_what_goes(cache: Path) -> None:
    everything = read(cache, min_label=0).units
    few = read(cache, min_label=0, min_rate_hz=3.0)
    assert few.num_units == (everything["rate_hz"] >= 3).sum() < len(everything)
    assert few.info.counts["units out: rate below 3 Hz"] == len(everything) - few.num_units
    assert np.allclose(everything["rate_hz"], everything["firing_rate"], rtol=0.02)
    third = read(cache, min_label=0.666, min_presence=0.5).units
    assert len(third) == ((everything["label"] > 0.6) & (everything["presence_ratio"] >= 0.5)).sum()
    with pytest.raises(ValueError, match=r"no unit passes the thresholds .*see min_label"):
        read(cache, min_rate_hz=10_000)


def test_places_that_are_not_known(folder: Folder) -> None:
    root = folder()
    (root / ALF / "probe01" / "pykilosort" / "channels.brainLocationIds_ccf_2017.npy").unlink()

    def edit(ids: np.ndarray) -> np.ndarray:
        ids[:100] = 997  # root
        ids[100:150] = 123456789  # in no ontology
        ids[150:200] = 1009  # fiber tracts
        ids[200:] = -382  # CA1 of the left hemisphere
        return ids

    change(root / PROBE / "channels.brainLocationIds_ccf_2017.npy", edit)
    recording = read(root, min_label=0)
    first = recording.units[recording.units["probe"] == "probe00"]
    channels = np.load(root / PROBE / "clusters.channels.npy")[first["cluster_id"]]
    expected = np.select([channels < 100, channels < 150, channels < 200], ["root", "", "fiber tracts"], "CA1")
    assert first["region_allen"].tolist() == expected.tolist()
    assert set(first["region"]) == {"", "HPF"}
    assert (first["region_beryl"] == np.where(channels < 200, "", "CA1")).all()
    assert (recording.units["region"][recording.units["probe"] == "probe01"] == "").all()
    counts = recording.info.counts
    assert counts["units without a region: no histology"] == (recording.units["probe"] == "probe01").sum()
    assert counts["units without a region: unknown atlas id"] == (expected == "").sum()
    assert counts["units without a region: root, void or fibers"] == np.isin(expected, ["root", "fiber tracts"]).sum()


def test_spikes_before_zero_not_finite_and_out_of_order(folder: Folder, recording: Recording) -> None:
    root = folder()

    def edit(times: np.ndarray) -> np.ndarray:
        times[0], times[5] = -0.5, np.nan
        times[[100, 200]] = times[[200, 100]]
        return times

    change(root / PROBE / "spikes.times.npy", edit)
    other = read(root, min_label=0)
    assert other.info.counts["spikes out: before 0 s"] == 1
    assert other.info.counts["spikes out: time not finite"] == 1
    assert (np.diff(other.spike_times) >= 0).all()
    assert other.domain[0, 0] < 1


def test_probes_that_share_only_a_part(folder: Folder) -> None:
    root = folder()
    spikes = root / ALF / "probe01" / "pykilosort"
    times = np.load(spikes / "spikes.times.npy")
    for name in ("times", "clusters", "amps", "depths"):
        change(spikes / f"spikes.{name}.npy", lambda values: values[(times > 20) & (times < 90)])
    recording = read(root)
    assert np.allclose(recording.domain, [[20, 90]], atol=0.1)
    assert "not every probe recorded" in recording.info.notes
    outside = recording.info.counts["usable trials out: outside the recording"]
    assert outside == ((recording.trials["start_s"] < 20) | (recording.trials["stop_s"] > 90)).sum() > 0
    change(spikes / "spikes.times.npy", lambda values: values + 10_000)
    with pytest.raises(ValueError, match="no time in common"):
        read(root)


def test_merging_is_sorting() -> None:
    rng = np.random.default_rng(0)
    probes = []
    for size in (50, 0, 80, 1):
        times = np.sort(rng.integers(0, 40, size) / 4.0)
        units = pd.DataFrame({"unit_id": [f"{size}/{k}" for k in range(3)]})
        probes.append(Probe(times, rng.integers(0, 3, size).astype(np.int32), units, (0.0, 10.0), np.zeros((0, 2))))
    times = np.concatenate([p.times for p in probes])
    rows = np.concatenate([p.rows + 3 * k for k, p in enumerate(probes)])
    order = np.argsort(times, kind="stable")
    merged_times, merged_rows, units = merge_probes(probes)
    assert np.array_equal(merged_times, times[order])
    assert np.array_equal(merged_rows, rows[order])
    assert len(units) == 12


def test_revisions_and_collections(folder: Folder, recording: Recording) -> None:
    root = folder()
    new = root / PROBE / "#2024-05-06#"
    new.mkdir()
    for path in (root / PROBE).glob("*.*"):
        if path.is_file():
            shutil.copy(path, new)
    change(new / "spikes.times.npy", lambda t: t + 0.001)
    # A newer revision of the times alone is half a sorting.
    (root / PROBE / "#2025-01-01#").mkdir()
    shutil.copy(new / "spikes.times.npy", root / PROBE / "#2025-01-01#")
    (job,) = ibl.sessions(root).values()
    for name in ("spikes.times", "spikes.clusters", "clusters.metrics", "channels.mlapdv"):
        assert "#2024-05-06#" in job["files"][f"probe00/{name}"]
    first = ibl.read(**job)
    assert np.array_equal(np.unique(first.units["unit_id"]), np.unique(recording.units["unit_id"]))
    assert "#2024-05-06#" in first.info.source
    # The tables say that the old one is the default.
    write_cache(root)
    table, meta = parquet.load(root / "datasets.pqt")
    table["default_revision"] = ~table["rel_path"].str.contains("#")
    parquet.save(root / "datasets.pqt", table, meta)
    assert np.array_equal(read(root).spike_times, recording.spike_times)
    # Without a sorter's folder, and with a newer sorter beside.
    shutil.move(root / ALF / "probe01" / "pykilosort", root / "moved")
    for path in (root / "moved").iterdir():
        shutil.move(path, root / ALF / "probe01")
    shutil.copytree(root / PROBE, root / ALF / "probe00" / "iblsorter")
    (root / "sessions.pqt").unlink()
    (job,) = ibl.sessions(root).values()
    assert job["files"]["probe00/spikes.times"].startswith("alf/probe00/iblsorter")
    assert job["files"]["probe01/spikes.times"] == "alf/probe01/spikes.times.npy"
    (job,) = ibl.sessions(root, sorter="pykilosort").values()
    assert SessionFiles(root, job["files"]).probes == ["probe00"]


# Trials and behavior that are not as they should be.


def test_trials_with_nan_and_out_of_order(folder: Folder, recording: Recording) -> None:
    root = folder()

    def edit(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[2, "stimOn_times"] = np.nan
        table.loc[4, ["contrastLeft", "contrastRight"]] = np.nan
        table.loc[5, "choice"] = np.nan
        table.loc[6, "probabilityLeft"] = 0.65
        table["rewardVolume"] = table["rewardVolume"].mask(table.index == 7)
        return table.sample(frac=1, random_state=0)

    change_table(root / ALF / TRIALS, edit)
    other = read(root)
    source = pd.read_parquet(root / ALF / TRIALS)
    assert other.trials["start_s"].is_monotonic_increasing
    assert len(other.trials) == 49
    rows = other.trials["source_index"].to_numpy()
    assert np.array_equal(other.trials["stim_on_s"], source["stimOn_times"].to_numpy()[rows])
    old = np.isin(recording.trials["start_s"], other.trials["start_s"])
    unseen = {"choice": 5, "block": 6, "contrast_left": 4, "contrast_right": 4, "reward_volume": 7}
    for name in ("choice", "block", "contrast_left", "contrast_right", "feedback", "reward_volume"):
        observed = recording.covariates[name].observed.copy()
        if name in unseen:
            observed[unseen[name]] = False
        assert np.array_equal(other.covariates[name].observed, observed[old])
        values = np.where(observed, recording.covariates[name].values, 0)[old]
        assert np.array_equal(other.covariates[name].values, values)
    counts = other.info.counts
    assert counts["trials out: bounds not finite"] == 1
    assert counts["trials out of order"] > 5
    assert counts["trials with another probability of left"] == 1


def test_trials_in_arrays_or_not_at_all(folder: Folder, recording: Recording) -> None:
    root = folder()
    table = pd.read_parquet(root / ALF / TRIALS)
    for name in ("stimOn_times", "choice", "contrastLeft", "contrastRight"):
        np.save(root / ALF / f"_ibl_trials.{name}.npy", table[name].to_numpy())
    np.save(root / ALF / "_ibl_trials.intervals.npy", table[["intervals_0", "intervals_1"]].to_numpy())
    (root / ALF / TRIALS).unlink()
    other = read(root)
    assert np.array_equal(other.trials["start_s"], recording.trials["start_s"])
    assert np.array_equal(other.covariates["choice"].values, recording.covariates["choice"].values)
    assert "block" not in other.covariates
    assert "block of the trials" in other.info.notes
    assert "firstMovement_times (not applied" in other.info.notes
    change(root / ALF / "_ibl_trials.choice.npy", lambda c: c[:-1])
    with pytest.raises(ValueError, match="trials have columns of"):
        read(root)
    for path in (root / ALF).glob("_ibl_trials*"):
        path.unlink()
    bare = read(root)
    assert len(bare.trials) == 0
    assert "missing: trials" in bare.info.notes
    assert "choice" not in bare.covariates


def test_aligned_windows_do_not_overlap(tmp_path: Path) -> None:
    start = np.array([1.0, 2.2, 6.0])
    table = pd.DataFrame({"intervals_0": start, "intervals_1": start + 1, "stimOn_times": start + 0.4})
    table.to_parquet(tmp_path / "t.pqt")
    tally = Tally()
    files = SessionFiles(tmp_path, {"trials.table": "t.pqt"})
    trials, covariates, missing = read_trials(files, TrialRules(bwm_trials=False), (0.0, 9.0), tally)
    assert np.allclose(trials[["start_s", "stop_s"]], [[0.9, 2.1], [2.1, 4.1], [5.9, 7.9]])
    assert tally.counts["trials cut at the start of the next"] == 1
    assert not covariates
    assert "choice of the trials" in missing


def test_two_tasks_in_one_session(folder: Folder, recording: Recording) -> None:
    root = folder()
    for task in ("task_00", "task_01"):
        (root / ALF / task).mkdir()
        for path in (root / ALF).glob("_ibl_*s*.*"):
            if path.name.startswith(("_ibl_trials", "_ibl_wheel")):
                shutil.copy(path, root / ALF / task)
    for path in (*(root / ALF).glob("_ibl_trials*"), *(root / ALF).glob("_ibl_wheel*")):
        path.unlink()
    change_table(root / ALF / "task_00" / TRIALS, lambda t: t[["intervals_0", "intervals_1"]][:5])
    assert len(read(root).trials) == len(recording.trials)


def test_cameras(cache: Path, folder: Folder, recording: Recording) -> None:
    root = folder()
    original = recording.covariates["whisker_energy"]
    # The video started late: more times than frames.
    change(root / ALF / "leftCamera.ROIMotionEnergy.npy", lambda e: e[7:])
    late = read(root)
    assert np.array_equal(late.covariates["whisker_energy"].times, original.times[7:])
    assert np.array_equal(late.covariates["whisker_energy"].values, original.values[7:])
    assert late.info.counts["whisker_energy times out: more times than frames"] == 7
    # Frames without a time.
    change(root / ALF / CAMERA, lambda t: t[100:])
    short = read(root)
    assert "whisker_energy" not in short.covariates
    assert short.info.counts["whisker_energy frames out: fewer times than frames"] == len(original.times) - 7
    assert "whisker_energy (" in short.info.notes
    # No camera, and cameras that were not recorded.
    (root / ALF / CAMERA).unlink()
    none = read(root, camera=["left", "body"])
    assert "left camera, body camera" in none.info.notes
    assert not {"whisker_energy", "paw_far", "body_energy"} & set(none.covariates)
    assert "paw_far" not in read(cache, pose=False).covariates


def test_several_cameras(tmp_path: Path) -> None:
    write_session(
        tmp_path, **SESSION, units_per_probe=5, min_label=1.0, num_trials=4, cameras=("left", "right", "body")
    )
    names = read(tmp_path, camera=["right", "left", "body"]).covariates
    assert {"whisker_energy", "whisker_energy_left", "body_energy", "paw_far", "paw_far_left"} <= set(names)
    assert "right camera" in names["whisker_energy"].spec.description
    assert len(names["whisker_energy"].times) > 2 * len(names["whisker_energy_left"].times)


def test_paw_speed_and_pupil(folder: Folder, recording: Recording) -> None:
    root = folder()
    frames = len(recording.covariates["whisker_energy"].times)
    diameter = np.where(np.arange(frames) % 9, 30.0, np.nan)
    pd.DataFrame({"pupilDiameter_smooth": diameter}).to_parquet(root / ALF / "_ibl_leftCamera.features.pqt")
    covariates = read(root).covariates
    assert np.array_equal(covariates["pupil_diameter"].observed, np.isfinite(diameter))
    paw, speed = covariates["paw_far"], covariates["paw_far_speed"]
    for k in range(1, 300):
        both = paw.observed[k] and paw.observed[k - 1]
        assert speed.observed[k] == both
        if both:
            distance = np.hypot(*(paw.values[k] - paw.values[k - 1]))
            assert speed.values[k] == pytest.approx(distance / (paw.times[k] - paw.times[k - 1]), rel=1e-3)


def test_wheel_gaps(folder: Folder, recording: Recording) -> None:
    root = folder()
    times, position = (np.load(root / ALF / f"_ibl_wheel.{name}.npy") for name in ("timestamps", "position"))
    # The wheel rests from 30 to 35 s; from 60 to 64 s it turns and nothing is recorded.
    rests = (times > 30) & (times < 35)
    rest = np.flatnonzero(rests)
    position[rest[-1] + 1 :] -= position[rest[-1] + 1] - position[rest[0] - 1]
    lost = (times > 60) & (times < 64)
    position[times >= 64] += 1.0
    kept = ~rests & ~lost
    np.save(root / ALF / WHEEL, np.append(times[kept], [np.nan, times[5], -2.0]))
    np.save(root / ALF / "_ibl_wheel.position.npy", np.append(position[kept], [0.0, 0.0, position[0]]))
    other = read(root)
    speed = other.covariates["wheel_speed"]
    values, observed = bin_covariate(speed, 31.0, 150, 0.02)
    assert observed.all()
    assert np.abs(values).max() < 0.05
    assert not bin_covariate(speed, 60.0, 200, 0.02)[1].any()
    assert bin_covariate(speed, 65.0, 100, 0.02)[1].all()
    counts = other.info.counts
    assert counts["wheel gaps"] == 1
    assert counts["wheel samples out: not finite"] == 1
    assert counts["wheel samples out: same time as another"] == 1
    assert counts["wheel_velocity samples out: before 0 s"] > 300
    assert speed.times[0] >= 0
    np.save(root / ALF / WHEEL, times[:3])
    np.save(root / ALF / "_ibl_wheel.position.npy", position[:3])
    assert "wheel (3 samples)" in read(root).info.notes


def test_licks_before_zero(folder: Folder, recording: Recording) -> None:
    root = folder()
    change(root / ALF / "licks.times.npy", lambda t: np.append(t, [-1.0, np.nan]))
    other = read(root)
    assert np.array_equal(other.covariates["lick"].times, recording.covariates["lick"].times)
    assert other.info.counts["lick events out: before 0 s"] == 1
    (root / ALF / "licks.times.npy").unlink()
    assert "lick" not in read(root).covariates


# The simulated sessions.


def test_simulated_sessions_depend_on_their_seed(tmp_path: Path, cache: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        folder = write_session(tmp_path / str(seed), **SESSION, units_per_probe=40, num_trials=50, seed=seed)
        for name in ("probe00/pykilosort/spikes.times.npy", "_ibl_wheel.position.npy"):
            a, b = np.load(cache / ALF / name), np.load(folder / "alf" / name)
            assert np.array_equal(a, b) == same


def test_simulated_units_of_a_real_table(real_data: Path, tmp_path: Path) -> None:
    table = pd.read_parquet(real_data / "unit_tables" / "clusters_bwm_147.pqt")
    write_session(tmp_path, **SESSION, unit_table=table, units_per_probe=30, min_label=1.0, num_trials=10)
    recording = read(tmp_path)
    assert 40 <= recording.num_units <= 60
    assert set(recording.units["region_allen"]) <= set(table["acronym"])
    wanted, _ = select(tmp_path, False, Selection())[0]
    assert wanted.eid == EID
