"""Simulated Allen Neuropixels sessions in the layout of the AllenSDK's writer, written with pynwb; no real animal.

Group and column names are those of `allensdk.brain_observatory.ecephys.write_nwb` (Visual Coding) and of
`BehaviorEcephysSession.to_nwb` (Visual Behavior). What is shown and done is made in `simulated_allen_session`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pynwb
from hdmf.common import DynamicTable, VectorData, VectorIndex
from pynwb.epoch import TimeIntervals

from benchmarks.simulated_allen_eye import add_eye_series
from benchmarks.simulated_allen_session import Session, simulate_session
from benchmarks.simulated_units import sample_units

_CHANNELS = 384
_UNITS_PER_PROBE = 350
# Regions of the built-in table from the tip up, as on a probe through visual cortex: acronym, division, rate (Hz).
_BUILT_IN = (
    ("APN", "MB", 14.0),
    ("LP", "TH", 8.0),
    ("LGd", "TH", 10.0),
    ("grey", "void", 5.0),
    ("DG", "HPF", 4.0),
    ("CA1", "HPF", 5.0),
    ("VISp", "Isocortex", 7.0),
    ("VISl", "Isocortex", 7.0),
    ("VISp", "Isocortex", 9.0),
    ("root", "void", 3.0),
)


def built_in_units(num_units: int = 200, seed: int = 0) -> pd.DataFrame:
    """A unit table of one insertion, of the columns of the real ones that are used here."""
    rng = np.random.default_rng(seed)
    rows = [_BUILT_IN[k * len(_BUILT_IN) // num_units] for k in range(num_units)]
    return pd.DataFrame(
        {
            "acronym": [row[0] for row in rows],
            "cosmos_acronym": [row[1] for row in rows],
            "firing_rate": [row[2] for row in rows] * rng.lognormal(0, 0.5, num_units),
            "depths": np.linspace(20, 3800, num_units).round(-1),
            "channels": np.linspace(0, _CHANNELS - 1, num_units).astype(int),
        },
        index=pd.MultiIndex.from_product([["built-in"], range(num_units)]),
    )


def write_session(
    path: str | Path,
    *,
    session_id: int,
    subject: str,
    unit_table: pd.DataFrame | None = None,
    num_units: int = 100,
    minutes: float = 8.0,
    num_repeats: int = 10,
    behavior: bool = False,
    good_fraction: float = 0.6,
    invalid: Iterable[tuple[float, float, list[str]]] = (),
    eye_tracking: bool = True,
    seed: int = 0,
) -> Path:
    """Simulate a session and write it as the AllenSDK would.

    Args:
        path: The `.nwb` file to write; folders are made.
        session_id: Its identifier.
        subject: Name of the animal.
        unit_table: Real unit table (see `benchmarks.simulated_units.sample_units`); None for `built_in_units`.
        num_units: Units over all probes, good and bad.
        minutes: Length. Movie one takes `num_repeats / 2` of these, and should leave some.
        num_repeats: Showings of natural movie one (Visual Coding), 30 s each.
        behavior: Write a Visual Behavior session (change detection) in place of a Visual Coding one.
        good_fraction: Probability of a unit to pass the default thresholds of the recipe.
        invalid: Invalid times: start and stop (s) and tags (type, id, label).
        eye_tracking: Whether there is any.
        seed: Same seed, same file content.

    Returns:
        `path`.
    """
    rng = np.random.default_rng(seed)
    units = _sample_probes(unit_table if unit_table is not None else built_in_units(), num_units, good_fraction, rng)
    session = simulate_session(units, minutes, num_repeats, behavior, rng)
    nwb = pynwb.NWBFile(
        session_description="Data and metadata for an Ecephys session",
        identifier=str(session_id),
        session_id=str(session_id),
        session_start_time=datetime(2019, 1, 1, tzinfo=UTC),
        institution="Allen Institute",
        subject=pynwb.file.Subject(subject_id=subject, species="Mus musculus", age="P120D", sex="M"),
    )
    _add_units(nwb, units, session.trains, rng)
    stimulus = nwb.create_processing_module("stimulus", "Stimulus Times processing")
    onsets = np.sort(np.concatenate([table["start_time"] for table in session.presentations.values()]))
    stimulus.add(pynwb.TimeSeries(name="timestamps", data=onsets, timestamps=onsets, unit="s"))
    for name, table in session.presentations.items():
        nwb.add_time_intervals(_intervals(f"{name}_presentations", table, stimulus["timestamps"]))
    invalid = list(invalid)
    if invalid:
        times = TimeIntervals(name="invalid_times")
        for start, stop, tags in invalid:
            times.add_interval(start_time=start, stop_time=stop, tags=tags)
        nwb.invalid_times = times
    _add_running(nwb, session, behavior)
    if eye_tracking:
        (add_eye_series if behavior else _add_ellipse_fits)(nwb, session.pupil)
    if behavior:
        _add_task(nwb, session)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def _sample_probes(table: pd.DataFrame, num_units: int, good_fraction: float, rng: np.random.Generator) -> pd.DataFrame:
    """Units of as many insertions as it takes, with probe, channel and quality."""
    sizes = [len(part) for part in np.array_split(np.arange(num_units), -(-num_units // _UNITS_PER_PROBE))]
    parts = [sample_units(table, rng, size).assign(probe=k) for k, size in enumerate(sizes)]
    units = pd.concat(parts, ignore_index=True)
    good = rng.uniform(size=num_units) < good_fraction
    # Bad units break one of the three thresholds, some in no metric at all.
    broken = np.where(good, -1, rng.integers(0, 4, num_units))
    size = num_units
    units["isi_violations"] = np.where(broken == 0, rng.uniform(0.6, 5, size), rng.uniform(0, 0.45, size))
    units["amplitude_cutoff"] = np.where(broken == 1, rng.uniform(0.11, 0.5, size), rng.uniform(0, 0.09, size))
    units["presence_ratio"] = np.where(broken == 2, rng.uniform(0.3, 0.94, size), rng.uniform(0.96, 1, size))
    units["quality"] = np.where(broken == 3, "noise", "good")
    units["snr"] = rng.lognormal(1, 0.4, size)
    units["firing_rate"] = units["firing_rate"].clip(0.1, 60)
    return units


def _add_units(nwb: pynwb.NWBFile, units: pd.DataFrame, trains: list[np.ndarray], rng: np.random.Generator) -> None:
    """Probes, electrodes and units; ids are unique in the session and in no order, as the real ones."""
    for name in ("probe_vertical_position", "probe_horizontal_position", "probe_id", "local_index", "valid_data"):
        nwb.add_electrode_column(name, name.replace("_", " "))
    channel_id = np.zeros(len(units), int)
    for probe in range(int(units["probe"].max()) + 1):
        rows = np.flatnonzero(units["probe"] == probe)
        name, first = f"probe{chr(ord('A') + probe)}", 850_000_000 + 10_000 * probe
        device = nwb.create_device(name=name, description="Neuropixels 1.0 Probe", manufacturer="imec")
        group = nwb.create_electrode_group(
            name=name, description="Ecephys Electrode Group", location="See electrode locations", device=device
        )
        channels = units["channels"].to_numpy()[rows].astype(int) % _CHANNELS
        channel_id[rows] = first + 2 * channels
        where = dict(zip(channels, units["acronym"].to_numpy()[rows]))
        # Only channels that are some unit's peak: the others play no part here. Out of order on purpose.
        for channel in rng.permutation(np.unique(channels)):
            nwb.add_electrode(
                id=int(first + 2 * channel),
                x=8000.0 + channel,
                y=4000.0 - 10 * channel,
                z=6000.0,
                location=str(where[channel]),
                filtering="AP band: 500 Hz high-pass",
                group=group,
                probe_vertical_position=int(20 * (channel // 2 + 1)),
                probe_horizontal_position=int(11 + 16 * (channel % 4)),
                probe_id=760_000_000 + probe,
                local_index=int(channel),
                valid_data=True,
            )
    metrics = ("quality", "isi_violations", "amplitude_cutoff", "presence_ratio", "firing_rate", "snr")
    columns = [VectorData(name=name, description="metric", data=units[name].to_numpy()) for name in metrics]
    columns.append(VectorData(name="peak_channel_id", description="id of the electrode", data=channel_id))
    spikes = VectorData(name="spike_times", description="times (s)", data=np.concatenate(trains))
    stops = np.cumsum([len(train) for train in trains])
    nwb.units = pynwb.misc.Units(
        name="units",
        description="sorted units",
        id=950_000_000 + rng.permutation(len(units)),
        columns=[*columns, spikes, VectorIndex(name="spike_times_index", data=stops, target=spikes)],
        colnames=[*metrics, "peak_channel_id", "spike_times"],
    )


def _intervals(name: str, table: pd.DataFrame, timestamps: pynwb.TimeSeries) -> TimeIntervals:
    """A presentation table; short ones also get `tags` and `timeseries`, which the AllenSDK gives all (slow)."""
    description = "Presentation times and stimuli details"
    extra = [c for c in table if c not in ("start_time", "stop_time")]
    if len(table) > 20:
        columns = [VectorData(name=c, description=c, data=table[c].to_numpy()) for c in table]
        return TimeIntervals(name=name, description=description, columns=columns, colnames=list(table))
    out = TimeIntervals(name=name, description=description)
    for column in extra:
        out.add_column(name=column, description=column)
    for row in table.to_dict("records"):
        out.add_interval(**{str(k): v for k, v in row.items()}, tags=["stimulus_time_interval"], timeseries=timestamps)
    return out


def _add_running(nwb: pynwb.NWBFile, session: Session, behavior: bool) -> None:
    module = nwb.create_processing_module("running", "running speed data")
    times, speed = session.running["time"].to_numpy(), session.running["speed"].to_numpy()
    name = "speed" if behavior else "running_speed"
    module.add(pynwb.TimeSeries(name=name, timestamps=times, data=speed, unit="cm/s"))
    if not behavior:
        stops = np.append(times[1:], times[-1] + 1 / 60)
        ends = pynwb.TimeSeries(
            name="running_speed_end_times", data=np.full(len(times), np.nan), timestamps=stops, unit="cm/s"
        )
        module.add(ends)


def _add_ellipse_fits(nwb: pynwb.NWBFile, pupil: pd.DataFrame) -> None:
    """Visual Coding: a table of half widths and heights."""
    fits = pupil[["center_x", "center_y", "height", "phi", "width"]].assign(timestamps=pupil["time"])
    module = nwb.create_processing_module("eye_tracking", "Eye tracking processing module")
    module.add(DynamicTable.from_dataframe(df=fits, name="pupil_ellipse_fits"))


def _add_task(nwb: pynwb.NWBFile, session: Session) -> None:
    """Licks, rewards and trials."""
    licks = pynwb.TimeSeries(name="licks", data=np.arange(len(session.licks)), timestamps=session.licks, unit="N/A")
    nwb.create_processing_module("licking", "Licking behavior processing module").add(licks)
    volume = np.full(len(session.rewards), 0.007)
    rewards = nwb.create_processing_module("rewards", "Licking behavior processing module")
    rewards.add(pynwb.TimeSeries(name="volume", data=volume, timestamps=session.rewards, unit="mL"))
    given = np.zeros(len(session.rewards), bool)
    rewards.add(pynwb.TimeSeries(name="autorewarded", data=given, timestamps=session.rewards, unit="mL"))
    trials = session.trials
    for column in trials.columns.drop(["start_time", "stop_time", "lick_times"]):
        nwb.add_trial_column(column, column)
    nwb.add_trial_column("lick_times", "licks of the trial", index=True)
    for row in trials.to_dict("records"):
        nwb.add_trial(**{str(k): v for k, v in row.items()})
