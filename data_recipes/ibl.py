"""International Brain Laboratory: Neuropixels during visual decisions, all probes of a session in one recording.

Source: ONE's cache folder, with sessions in `<lab>/Subjects/<subject>/<date>/<number>/alf`; the public database is
openalyx.internationalbrainlab.org (CC-BY 4.0). IBL et al. 2025, "A brain-wide map of neural activity during complex
behaviour". `mode=local` needs no network and writes nothing into the folder; `mode=remote` asks the database with your
own account and downloads what is read: a file that is there with the size of the table is not fetched again, so a
download that was interrupted is resumed by the same command.

Recordings are `<dataset>/<eid>`, units `<dataset>/<eid>/<probe>/<cluster id>`. Without ONE's tables the eid is made
from the folder's name and is not that of the public database. The domain is the time in which every probe recorded.
Left is 0 and right is 1 in `choice`: +1 of IBL's files turns a left stimulus to the center, -1 a right one.

What is not as it should be:
    truncated, corrupt or pickled file, text for numbers, another shape    the session is refused, whatever goes wrong
        becomes a ValueError that names the file or the folder
    sizes that the file cannot hold               refused before memory is taken
    spikes, trials, wheel, cameras, licks not in seconds    refused; wheel not in rad likewise
    a session without spikes                      not listed; refused if it was named by eid, pid or list
    no unit passes the thresholds                 refused
    cluster that never fired                      left out, counted
    cluster that fired but has no metrics         left out, counted; kept with min_label=0
    cluster tables of different lengths           refused: files of different sortings
    metrics in another order, or with rows missing    joined by cluster id
    a probe without spikes beside one that has them   left out, `missing` says so
    spikes at NaN, infinity, before 0 s, out of order    left out and counted; sorted and counted
    no spike of a probe for 5 s and 100 expected  gap of the domain, counted; so one wrong late time adds nothing
    probe without histology                       units kept, region "", counted
    root, void, fibers, unknown atlas ids         units kept, region "", counted; `region_allen` keeps the acronym
    probes that recorded at different times       domain is what they share; none: refused
    no wheel, camera, licks, trials               the recording is made without, `missing` in its notes says so
    more camera times than frames                 the first times are left out, counted
    fewer camera times than frames                that covariate is missing, its frames counted
    wheel gap, wheel that jumps                   not observed, counted, if the wheel stands elsewhere afterwards
    wheel or camera at NaN, before 0 s, out of order    left out and counted; sorted and counted; no speed backwards
    wheel 10 minutes away from the spikes         left out, counted
    NaN in trial values, contrast not 0 to 1      not observed, counted; NaN in trial bounds: trial left out, counted
    trials without a row                          no trials
    trials out of order                           sorted, counted
    criteria of usable trials without a column    not applied, `missing` says so
    two task folders in one session               the one with the larger trial table
    eid twice in a list                           taken once
    one subject, date and number twice            refused
    eid of a list that is not in the tables       warned of
    subject names with accents                    kept, in one Unicode form
    subject folders that ONE does not take (spaces)    warned of
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from one.alf.exceptions import ALFError

from data_recipes.cleaning import Tally, domain_without
from data_recipes.hdf5_values import guarded
from data_recipes.ibl_behavior import CAMERAS, read_behavior
from data_recipes.ibl_files import Dataset, SessionFiles, choose_files, file_version, parse_datasets
from data_recipes.ibl_probes import Quality, merge_probes, read_probe
from data_recipes.ibl_selection import Selection, Session, connect, select
from data_recipes.ibl_trials import TrialRules, read_trials
from data_recipes.regions import PARCELLATIONS
from data_recipes.sources import Plan
from foundation.recording import Recording, RecordingInfo

VERSION = 2
MODES = ("local", "remote")
EXPECTED = {
    "trials": ("trials.table", "trials.intervals"),
    "wheel": ("wheel.position",),
    "licks": ("licks.times",),
}


def sessions(
    source: str | Path | None,
    mode: str = "local",
    tag: str | None = None,
    subject: str | list[str] | None = None,
    lab: str | list[str] | None = None,
    eid: str | list[str] | None = None,
    pid: str | list[str] | None = None,
    list: str | None = None,
    dataset: str = "ibl",
    sorter: str | None = None,
    min_label: float = 1.0,
    min_rate_hz: float = 0.0,
    min_presence: float = 0.0,
    regions: str = "cosmos",
    camera: str | list[str] = "left",
    pose: bool = True,
    intervals: str = "aligned",
    bwm_trials: bool = True,
    exclude_nochoice: bool = False,
    exclude_unbiased: bool = False,
) -> dict[str, dict[str, Any]]:
    """The sessions that meet all that was asked for.

    Args:
        source: ONE's cache folder; also where remote mode downloads to.
        mode: `local`, or `remote` with an account of the public database.
        tag: Data release, such as "2023_12_bwm_release"; its tables are fetched in remote mode and kept in
            `<source>/<tag>`.
        subject: One name or several.
        lab: One name or several.
        eid: Sessions.
        pid: Insertions; a session then consists of these probes.
        list: Text, CSV or parquet file of eids or pids, such as a freeze of the Brain Wide Map.
        dataset: First part of the recording ids.
        sorter: Folder of the spike sorting; by default `iblsorter`, else `pykilosort`, else the probe's folder.
        min_label: Least quality label of a unit: 1 all three criteria met, 0 every cluster.
        min_rate_hz: Least mean rate of a unit.
        min_presence: Least presence ratio of a unit.
        regions: Parcellation of the column `region`: `cosmos` (in which IBL and Allen agree), `beryl` or `allen`; the
            units have `region_cosmos`, `region_beryl` and `region_allen` all the same.
        camera: One camera or several of `left`, `right`, `body`; the first gives `whisker_energy`.
        pose: Whether to read paws and pupil.
        intervals: `aligned`: trials from 0.5 s before to 1.5 s after the stimulus; `trial`: from start to end.
        bwm_trials: Trials that fail the criteria of the Brain Wide Map are not usable.
        exclude_nochoice: Nor are no-go trials.
        exclude_unbiased: Nor are trials of the 0.5 block.

    Raises:
        ValueError: An option that does not exist, no such session, or no account.
    """
    if mode not in MODES:
        raise ValueError(f"ibl: mode is {mode!r}, expected one of {MODES}")
    if source is None:
        raise ValueError("ibl: --source is missing, expected ONE's cache folder")
    if regions not in PARCELLATIONS:
        raise ValueError(f"ibl: regions is {regions!r}, expected one of {sorted(PARCELLATIONS)}")
    cameras = _several(camera) or []
    if unknown := sorted(set(cameras) - set(CAMERAS)):
        raise ValueError(f"ibl: camera is {unknown}, expected some of {CAMERAS}")
    quality = asdict(Quality(min_label, min_rate_hz, min_presence))
    rules = asdict(TrialRules(intervals, bwm_trials, exclude_nochoice, exclude_unbiased))
    selection = Selection(tag, _several(subject), _several(lab), _several(eid), _several(pid), list)
    root, jobs = Path(source), {}
    for session, probes in select(root, mode == "remote", selection):
        datasets = parse_datasets(session.datasets)
        if mode == "local":
            datasets = _on_disk(root / session.path, datasets)
        files = choose_files(datasets, cameras, pose, sorter, probes)
        if not selection.named and not any(key.endswith("/spikes.times") for key in files):
            continue
        jobs[f"{dataset}/{session.eid}"] = {
            "root": str(root),
            "remote": mode == "remote",
            "recording_id": f"{dataset}/{session.eid}",
            "session": _about(session),
            "files": {key: file.rel_path for key, file in files.items()},
            "size_bytes": sum(file.size for file in files.values()),
            "version": file_version(files.values()),
            "quality": quality,
            "rules": rules,
            "regions": regions,
            "cameras": cameras,
            "pose": pose,
        }
    if not jobs:
        raise ValueError(f"ibl: none of the sessions in {root} that meet {selection} has spikes")
    return jobs


def plan(
    files: dict[str, str], size_bytes: int, cameras: list[str], pose: bool, session: dict[str, Any], **_: Any
) -> Plan:
    """What a session would bring and cost, from ONE's tables."""
    there = SessionFiles(Path(session["path"]), files)
    present, missing = [*there.probes], [f"spikes of {probe}" for probe in there.probes_without_spikes]
    missing += [] if there.probes or missing else ["spikes"]
    for probe in there.probes:
        placed = any(f"{probe}/{obj}.brainLocationIds_ccf_2017" in files for obj in ("channels", "electrodeSites"))
        (present if placed else missing).append(f"histology of {probe}")
        if f"{probe}/clusters.metrics" not in files:
            missing.append(f"quality metrics of {probe}")
    for name, keys in EXPECTED.items():
        (present if any(key in files for key in keys) else missing).append(name)
    for camera in cameras:
        (present if f"{camera}Camera.ROIMotionEnergy" in files else missing).append(f"{camera} camera")
        if pose and camera != "body":
            tracked = any(f"{camera}Camera.{tracker}" in files for tracker in ("dlc", "lightningPose"))
            (present if tracked else missing).append(f"pose of the {camera} camera")
    return Plan(size_bytes, present, missing)


def read(
    root: str,
    remote: bool,
    recording_id: str,
    session: dict[str, Any],
    files: dict[str, str],
    quality: dict[str, float],
    rules: dict[str, Any],
    regions: str,
    cameras: list[str],
    pose: bool,
    size_bytes: int = 0,
    version: str = "",
) -> Recording:
    """Read one session; in remote mode download first what is not there.

    Args:
        root: ONE's cache folder.
        remote: Whether to download.
        recording_id: `"<dataset>/<eid>"`.
        session: `eid`, `lab`, `subject`, `date`, `number` and `path`.
        files: By name, paths in the session's folder.
        quality: Fields of `Quality`.
        rules: Fields of `TrialRules`.
        regions: Parcellation of the column `region`.
        cameras: Such as ["left"].
        pose: Whether to read paws and pupil.
        size_bytes: Not used here.
        version: Not used; it changes with the files, so that the session is prepared again.

    Raises:
        ValueError: As the description of this module says.
    """
    here = SessionFiles(Path(root, session["path"]), files)
    where = f"{recording_id} ({session['path']})"
    if not here.probes:
        raise ValueError(f"{where}: no spikes (spikes.times and spikes.clusters of one revision); leave it out")
    if remote:
        _download(root, session["eid"], files)
    with guarded(here.folder):
        tally = Tally()
        probes = [read_probe(here, name, recording_id, Quality(**quality), regions, tally) for name in here.probes]
        start, stop = max(p.span[0] for p in probes), min(p.span[1] for p in probes)
        if not start < stop:
            raise ValueError(
                f"{where}: probes recorded at {[p.span for p in probes]} s, no time in common; give one by pid"
            )
        notes = [f"{len(probes)} probes: {', '.join(here.probes)}"]
        if (lost := max(p.span[1] - p.span[0] for p in probes) - (stop - start)) > 5:
            notes.append(f"{lost:.0f} s in which not every probe recorded are outside the domain")
        gaps = np.concatenate([p.gaps for p in probes])
        times, rows, units = merge_probes(probes)
        if not len(units):
            raise ValueError(
                f"{where}: no unit passes the thresholds ({tally.counts}); see min_label, min_rate_hz, min_presence"
            )
        trials, trial_covariates, missing = read_trials(here, TrialRules(**rules), (start, stop), tally)
        covariates, absent = read_behavior(here, cameras, pose, stop, tally)
        absent += [f"spikes of {probe}" for probe in here.probes_without_spikes]
        if missing := missing + absent:
            notes.append(f"missing: {', '.join(missing)}")
            tally.add("kinds of data missing", len(missing))
        return Recording(
            info=RecordingInfo(
                recording_id=recording_id,
                subject_id=session["subject"],
                recipe=f"ibl {VERSION}",
                source=f"IBL session {session['eid']}, {session['path']}; {_sortings(here)}",
                licence="CC-BY-4.0",
                species="mouse",
                notes="; ".join(notes),
                counts=tally.counts,
            ),
            spike_times=times,
            spike_units=rows,
            units=units,
            trials=trials,
            domain=domain_without((start, float(np.nextafter(stop, np.inf))), gaps),
            covariates={**trial_covariates, **covariates},
        ).validate()


def _several(names: str | list[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else [str(name) for name in names]


def _about(session: Session) -> dict[str, Any]:
    return {name: getattr(session, name) for name in ("eid", "lab", "subject", "date", "number", "path")}


def _on_disk(folder: Path, datasets: list[Dataset]) -> list[Dataset]:
    """The datasets whose files are there, with the size and age that these have now."""
    there = []
    for dataset in datasets:
        path = folder / dataset.rel_path
        if path.is_file():
            status = path.stat()
            there.append(replace(dataset, size=status.st_size, version=str(status.st_mtime_ns)))
    return there


def _download(root: str, eid: str, files: dict[str, str]) -> None:
    """Fetch the files that are not there with the size of ONE's table; hashes are not computed, which takes minutes."""
    try:
        connect(root).load_datasets(eid, [*files.values()], download_only=True, check_hash=False)
    except (ALFError, OSError) as error:
        raise ValueError(f"ibl: {eid}: not all files came ({type(error).__name__}); the same command goes on") from None


def _sortings(files: SessionFiles) -> str:
    """Where the spikes of each probe come from."""
    return ", ".join(str(Path(files.paths[f"{probe}/spikes.times"]).parent) for probe in files.probes)
