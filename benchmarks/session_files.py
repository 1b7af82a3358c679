"""Sessions of any length and number of units in the files of four sources, each by the source's own writer.

For `benchmarks.prepare_session`, which needs files of a known size: every unit passes the default thresholds of the
recipes and fires at `RATE_HZ` on average, so that 60 minutes of 1,500 units are 20 million spikes. HDF5 is written as
the writers do when nothing is asked of them, without compression. Each function imports its own writer, of which
IBL's and Allen's take seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_recipes.simulated_task import simulate_trials

RATE_HZ = 3.7
CAMERA_HZ = 60.0
NUM_KEYPOINTS = 4
PROBES = 2


def write_ibl(folder: Path, minutes: float, num_units: int, seed: int = 0) -> None:
    """ALF files of two probes, trials, wheel and the left camera, and ONE's tables of them."""
    from benchmarks import simulated_ibl

    table = simulated_ibl.builtin_table()
    table["firing_rate"] *= RATE_HZ / table.loc[table["label"] == 1, "firing_rate"].mean()
    simulated_ibl.write_session(
        folder,
        unit_table=table,
        probes=PROBES,
        units_per_probe=num_units // PROBES,
        min_label=1.0,
        # A trial lasts about 2.9 s.
        num_trials=round(minutes * 60 / 2.9),
        seed=seed,
    )
    simulated_ibl.write_cache(folder)


def write_allen(folder: Path, minutes: float, num_units: int, seed: int = 0) -> None:
    """A Visual Coding session; two fifths of it are natural movie one."""
    from benchmarks import simulated_allen

    table = simulated_allen.built_in_units()
    table["firing_rate"] *= RATE_HZ / table["firing_rate"].mean()
    simulated_allen.write_session(
        folder / "session_1.nwb",
        session_id=1,
        subject="mouse",
        unit_table=table,
        num_units=num_units,
        minutes=minutes,
        num_repeats=round(0.8 * minutes),
        good_fraction=1.0,
        seed=seed,
    )


def write_nwb(folder: Path, minutes: float, num_units: int, seed: int = 0) -> None:
    """One units table, trials, a camera with keypoints, running speed and licks."""
    import pynwb
    from hdmf.common import VectorData, VectorIndex

    s = _session(minutes, num_units, seed)
    file = pynwb.NWBFile("simulated", "session", datetime(2024, 1, 1, tzinfo=UTC))
    file.subject = pynwb.file.Subject(subject_id="mouse", species="Mus musculus")
    spikes = VectorData(name="spike_times", description="times (s)", data=np.concatenate(s["trains"]))
    stops = VectorIndex(name="spike_times_index", data=np.cumsum([len(t) for t in s["trains"]]), target=spikes)
    quality = VectorData(name="quality", description="of sorting", data=["good"] * num_units)
    file.units = pynwb.misc.Units(
        name="units",
        description="sorted units",
        id=np.arange(num_units),
        columns=[quality, spikes, stops],
        colnames=["quality", "spike_times"],
    )
    for name in ("stimulus_time", "contrast", "choice"):
        file.add_trial_column(name, name)
    for row in s["trials"].to_dict("records"):
        file.add_trial(**row)
    module = file.create_processing_module("behavior", "behavior")
    module.add(pynwb.TimeSeries(name="running_speed", data=s["speed"], unit="cm/s", rate=CAMERA_HZ))
    module.add(pynwb.TimeSeries(name="pose", data=s["pose"], unit="pixels", timestamps=s["clock"]))
    module.add(pynwb.TimeSeries(name="licks", data=np.ones(len(s["licks"])), unit="n.a.", timestamps=s["licks"]))
    folder.mkdir(parents=True, exist_ok=True)
    with pynwb.NWBHDF5IO(str(folder / "session.nwb"), "w") as io:
        io.write(file)


def write_brainsets(folder: Path, minutes: float, num_units: int, seed: int = 0) -> None:
    """The same session as `write_nwb`, in the objects of torch_brain.

    Raises:
        ValueError: torch_brain is not installed.
    """
    try:
        from torch_brain import data as tb
    except ImportError as error:
        raise ValueError(f'torch_brain is not installed ({error}); run: pip install -e ".[bench]"') from None
    s = _session(minutes, num_units, seed)
    trials = s["trials"]
    data = tb.Data(
        brainset=tb.BrainsetDescription(
            id="bench", origin_version="1", derived_version="1", source="simulated", description="simulated"
        ),
        subject=tb.SubjectDescription(id="mouse", species="MUS_MUSCULUS"),
        session=tb.SessionDescription(id="session"),
        spikes=tb.IrregularTimeSeries(timestamps=s["times"], unit_index=s["rows"], domain="auto"),
        units=tb.ArrayDict(id=np.arange(num_units).astype("U")),
        trials=tb.Interval(
            start=trials["start_time"].to_numpy(),
            end=trials["stop_time"].to_numpy(),
            **{name: trials[name].to_numpy() for name in ("stimulus_time", "contrast", "choice")},
        ),
        running=tb.IrregularTimeSeries(timestamps=s["clock"], speed=s["speed"], domain="auto"),
        pose=tb.IrregularTimeSeries(timestamps=s["clock"], xy=s["pose"], domain="auto"),
        licks=tb.IrregularTimeSeries(timestamps=s["licks"], domain="auto"),
        domain=tb.Interval(0.0, minutes * 60),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "session.h5", "w") as file:
        data.to_hdf5(file)


def _session(minutes: float, num_units: int, seed: int) -> dict[str, Any]:
    """Spikes as `times`, `rows` and `trains`; `trials`; and a camera's `clock`, `speed` and `pose`; and `licks`."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.exponential(RATE_HZ, num_units) * minutes * 60) + 1
    trains = [np.sort(rng.uniform(0, minutes * 60, count)) for count in counts]
    times = np.concatenate(trains)
    order = np.argsort(times)
    trials, _ = simulate_trials(round(minutes * 60 / 2.9) - 2, rng)
    names = {"start_s": "start_time", "stop_s": "stop_time", "stimulus_s": "stimulus_time"}
    clock = np.arange(0, minutes * 60 - 1, 1 / CAMERA_HZ)
    return {
        "times": times[order],
        "rows": np.repeat(np.arange(num_units), counts)[order],
        "trains": trains,
        "trials": trials.rename(columns=names)[[*names.values(), "contrast", "choice"]],
        "clock": clock,
        "speed": np.abs(rng.normal(size=len(clock))),
        "pose": rng.normal(size=(len(clock), 2 * NUM_KEYPOINTS)),
        "licks": np.sort(rng.uniform(0, minutes * 60 - 1, round(60 * minutes))),
    }


WRITERS = {"ibl": write_ibl, "allen": write_allen, "brainsets": write_brainsets, "nwb": write_nwb}
