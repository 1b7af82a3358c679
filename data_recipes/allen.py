"""Allen Institute Neuropixels sessions: Visual Coding and Visual Behavior, from their NWB files with h5py.

Source: folders of the AllenSDK cache (`session_<id>/session_<id>.nwb`, `ecephys_session_<id>.nwb`), of DANDI 000021
(Visual Coding) and 000713 (Visual Behavior), any folder of such files, or `dandi:000021` to download them with the
`dandi` extra. Siegle et al. 2021, doi:10.1038/s41586-020-03171-x; portal.brain-map.org. The AllenSDK is not needed.

Which of the two it is is found from the content. Regions are those of the peak channel, joined by id. The domain runs
from the first to the last spike; `/intervals/invalid_times` are gaps of it.

What is not as it should be:
    not NWB 2, truncated, corrupt, links to other files, pickled values    the session is refused, whatever goes wrong
        becomes a ValueError that names the file
    sizes that the file cannot hold, text for numbers, another shape    refused
    files of a probe's LFP (`probe` or `_lfp` in the name)                  not listed
    the same session twice                        the first is read if all have one size, else the session is refused
    spikes, stimuli, trials or behavior not in seconds    refused
    spikes of a unit not finite or before 0 s     left out, counted
    no spike for 5 s and 100 expected             gap of the domain, counted; so one wrong late time adds nothing
    units without spikes, or above a threshold    left out, counted; a metric that is NaN fails, as in the AllenSDK
    peak channel not among the electrodes         unit kept, region "", counted
    unknown acronym, `grey`, `root`, none         unit kept, region "", counted; `region_allen` keeps the label
    presentations, trials with NaN or empty bounds    left out, counted; out of order: sorted, counted
    NaN in a column of a presentation (blank)     kept, not observed, counted; what is not known or no number likewise
    presentations without the column              counted
    samples before 0 s or at NaN                  left out, counted; NaN values are kept as not observed
    gaps of running speed                         no sample is made up; bins in gaps above 0.25 s are not observed
    blinks (`likely_blink`), no ellipse           kept, not observed
    no eye tracking, running, licks...            the recording is made without, and `missing` in its notes says so
    invalid times that leave nothing              refused; those that stop before they start: left out, counted
    light of optotagging                          kept, the covariate `opto_level` tells when
    one unit id twice                             refused
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data_recipes.allen_behavior import behavior_covariates, change_detection_trials
from data_recipes.allen_contents import dataset_of, parts
from data_recipes.allen_dandi import dandi_sessions, is_session, session_of
from data_recipes.allen_frames import movie_runs
from data_recipes.allen_presentations import COLUMNS, bounds, clean_presentations, stimulus_covariates
from data_recipes.allen_stimuli import STIMULI
from data_recipes.allen_units import UnitCriteria, unit_table
from data_recipes.cleaning import (
    Tally,
    check_seconds,
    domain_without,
    merge_trains,
    numbers,
    silent_gaps,
    trial_table,
)
from data_recipes.hdf5_values import guarded
from data_recipes.nwb_file import children, node, open_nwb, read_table, spike_trains, text
from data_recipes.regions import PARCELLATIONS
from data_recipes.sources import Plan, SourceFile, list_files, local_file
from foundation.recording import Covariate, Recording, RecordingInfo, empty_trials
from foundation.remote_file import is_url

VERSION = 2
INVALID = ("all", "probes", "none")
_OFF = (None, 0, False, "", "none", "None")


def sessions(
    source: str | None,
    dataset: str | None = None,
    regions: str = "cosmos",
    isi_violations: float | None = 0.5,
    amplitude_cutoff: float | None = 0.1,
    presence_ratio: float | None = 0.95,
    quality: str | None = "good",
    valid_channels: bool = True,
    trials: str = "auto",
    invalid: str = "all",
) -> dict[str, dict[str, Any]]:
    """The sessions of a folder, a file or a dandiset.

    Args:
        source: Folder, `.nwb` file, or `dandi:<id>[/<version>]`.
        dataset: First part of recording ids; None for `allen_visual_coding` or `allen_visual_behavior` by content.
        regions: Parcellation of the column `region`: `allen`, `beryl`, or `cosmos`, in which IBL and Allen agree.
        isi_violations: Units at most at this; `null` or 0 for any, as with the next four.
        amplitude_cutoff: Units at most at this.
        presence_ratio: Units at least at this.
        quality: Units of this quality.
        valid_channels: Only units whose peak channel is valid.
        trials: `auto` for the table of trials where there is one, `none`, or a stimulus such as `drifting_gratings`,
            whose presentations become trials (of a movie, each showing).
        invalid: Which `invalid_times` are gaps of the domain: `all`, `probes` (not those of the stimulus alone) or
            `none`. The AllenSDK masks one probe, where a gap takes all.

    Raises:
        ValueError: No such source, or an option that does not exist.
    """
    if regions not in PARCELLATIONS:
        raise ValueError(f"allen: regions is {regions!r}, expected one of {sorted(PARCELLATIONS)}")
    if invalid not in INVALID:
        raise ValueError(f"allen: invalid is {invalid!r}, expected one of {INVALID}")
    if trials not in ("auto", "none", *STIMULI.values()):
        raise ValueError(f"allen: trials is {trials!r}, expected auto, none or one of {sorted(STIMULI.values())}")
    if source is None:
        raise ValueError("allen: --source is missing, expected a folder of .nwb files or dandi:000021")
    limits = (isi_violations, amplitude_cutoff, presence_ratio, quality, valid_channels or None)
    criteria = UnitCriteria(*(None if limit in _OFF else limit for limit in limits))  # type: ignore[arg-type]
    options = {"criteria": asdict(criteria), "regions": regions, "trials": trials, "invalid": invalid}
    if source.startswith("dandi:"):
        found = dandi_sessions(source, dataset)
        return {key: {**file, **options} for key, file in found.items()}
    jobs: dict[str, dict[str, Any]] = {}
    for file in list_files(source, (".nwb",)):
        if not is_session(file.name):
            continue
        key = _recording_id(file, dataset)
        if key in jobs:
            jobs[key]["duplicates"][file.path] = file.size
        else:
            of_file = {"path": file.path, "version": file.version, "size": file.size}
            jobs[key] = {**of_file, "recording_id": key, "duplicates": {}, **options}
    return jobs


def plan(path: str, size: int = 0, **_: Any) -> Plan:
    """What a session would bring, from its metadata; of a file behind a URL, its size."""
    if is_url(path):
        return Plan(size)
    with guarded(path), open_nwb(path) as file:
        return Plan(size, *parts(file))


def read(
    path: str,
    recording_id: str,
    *,
    criteria: dict[str, Any],
    regions: str = "cosmos",
    trials: str = "auto",
    invalid: str = "all",
    duplicates: dict[str, int] | None = None,
    version: str = "",
    size: int = 0,
) -> Recording:
    """Read one session.

    Args:
        path: The NWB file, or the URL of one.
        recording_id: `"<dataset>/<session>"`.
        criteria: Attributes of `UnitCriteria`.
        regions: As in `sessions`.
        trials: As in `sessions`.
        invalid: As in `sessions`.
        duplicates: Other files of this session and their bytes.
        version: Of the file; changes when it does.
        size: Bytes, for `plan`.

    Raises:
        ValueError: The file is refused; see the top of this file.
    """
    tally = Tally()
    for other, other_size in (duplicates or {}).items():
        if other_size != size:
            raise ValueError(f"{recording_id} is in two files that differ, {path} and {other}; remove one")
        tally.add("files out: same session", 1)
    with local_file(path, version) as local, guarded(local), open_nwb(local) as file:
        units, rows = unit_table(file, recording_id, UnitCriteria(**criteria), regions, tally)
        spike_times, spike_units, units = _spikes(file, units, rows, tally)
        span = (float(spike_times[0]), float(np.nextafter(spike_times[-1], np.inf)))
        check_seconds(str(path), len(spike_times), len(units), span[1] - span[0])
        tables = {
            name.removesuffix("_presentations"): read_table(group, COLUMNS)
            for name, group in children(file, "intervals").items()
            if name.endswith("_presentations")
        }
        presentations = clean_presentations(str(path), tables, span, tally)
        covariates = {
            **stimulus_covariates(str(path), presentations, tally),
            **behavior_covariates(file, span, tally),
        }
        gaps = np.concatenate([_invalid_times(file, invalid, tally), silent_gaps(spike_times, tally)])
        if trials == "auto" and node(file, "intervals/trials") is not None:
            table, of_trials = change_detection_trials(file, span, tally)
            covariates |= of_trials
        elif trials in ("auto", "none"):
            table = empty_trials()
        else:
            table = _stimulus_trials(trials, presentations, covariates, tally)
        missing = parts(file)[1]
        return Recording(
            info=RecordingInfo(
                recording_id=recording_id,
                subject_id=_subject(file, path),
                recipe=f"allen {VERSION}",
                source=f"{Path(path).name}, Allen Institute; identifier {text(file, 'identifier')}",
                licence="Allen Institute Terms of Use; CC-BY-4.0 at DANDI",
                species="mouse",
                notes=f"missing: {', '.join(missing)}" if missing else "",
                counts=tally.counts,
            ),
            spike_times=spike_times,
            spike_units=spike_units,
            units=units,
            trials=table,
            domain=domain_without(span, gaps),
            covariates=covariates,
        ).validate()


def _spikes(
    file: h5py.File, units: pd.DataFrame, rows: np.ndarray, tally: Tally
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Sorted times, unit rows, and the units that have spikes."""
    trains = spike_trains(node(file, "units"), rows)
    silent = np.array([not ((train >= 0) & (train < np.inf)).any() for train in trains])
    tally.add("units out: no spikes", int(silent.sum()))
    tally.add("units kept", -int(silent.sum()))
    tally.add("spikes of units left out", sum(len(train) for train, out in zip(trains, silent) if out))
    times, owner = merge_trains(file.filename, [train for train, out in zip(trains, silent) if not out], tally)
    return times, owner, units[~silent].reset_index(drop=True)


def _invalid_times(file: h5py.File, which: str, tally: Tally) -> np.ndarray:
    """Gaps `(G, 2)` in s; tags of an interval are its type, the id of what it concerns and a label."""
    group = node(file, "intervals/invalid_times")
    if group is None:
        return np.zeros((0, 2))
    table, where = read_table(group, ("start_time", "stop_time", "tags")), f"{file.filename}: {group.name}"
    intervals = np.column_stack([numbers(where, table, name) for name in ("start_time", "stop_time")])
    rows = table["tags"] if "tags" in table else [np.zeros(0)] * len(table)
    tags = [[str(tag).lower() for tag in np.atleast_1d(row)] for row in rows]
    of_stimulus = np.array(["stimulus" in row for row in tags], dtype=bool)
    reasons = {
        "bounds not finite": ~np.isfinite(intervals).all(axis=1),
        "stop not after start": ~(intervals[:, 0] < intervals[:, 1]),
        "not asked for": np.full(len(table), which == "none") | (of_stimulus & (which == "probes")),
    }
    return intervals[tally.keep("invalid intervals", len(table), reasons)]


def _stimulus_trials(
    stimulus: str, presentations: dict[str, pd.DataFrame], covariates: dict[str, Covariate], tally: Tally
) -> pd.DataFrame:
    """Presentations of a stimulus as trials; a movie's are its showings from the first frame to the last."""
    if stimulus not in presentations:
        tally.add(f"no {stimulus} to make trials of", 1)
        return empty_trials()
    movie = covariates.get(f"{stimulus}_frame")
    if movie is None:
        return trial_table(*bounds(presentations[stimulus]), tally)[0]
    runs = movie_runs(movie)
    assert movie.times is not None
    return trial_table(movie.times[runs[:, 0]], movie.times[runs[:, 1]], tally)[0]


def _recording_id(file: SourceFile, dataset: str | None) -> str:
    """`"<dataset>/<session id>"`; "allen" and the name of a file that is behind a URL or cannot be read.

    `read` then says why.
    """
    session = session_of(file.name)
    if not is_url(file.path):
        try:
            with guarded(file.path), open_nwb(file.path) as opened:
                dataset = dataset or dataset_of(opened)
                session = text(opened, "general/session_id") or text(opened, "identifier") or session
        except ValueError:
            pass
    return f"{dataset or 'allen'}/{'_'.join(session.replace('/', ' ').split())}"


def _subject(file: h5py.File, path: str) -> str:
    subject = text(file, "general/subject/subject_id") or text(file, "general/subject/specimen_name")
    if not subject:
        raise ValueError(f"{path}: no general/subject/subject_id, expected the name of the animal; splits follow it")
    return subject
