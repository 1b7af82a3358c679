"""Simulated V1 units that watch natural movie one, as an NWB file in the layout of the AllenSDK's writer.

Holds what the frame study reads (units, electrodes, presentations) and nothing else; `benchmarks.simulated_allen` makes
whole sessions. `python -m benchmarks.simulated_movie FOLDER` writes `session_1.nwb` and `features.npy`, then
`foundation study configs/studies/allen_frames.yaml source=FOLDER features=FOLDER/features.npy` reads them.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pynwb
from hdmf.common import VectorData, VectorIndex
from pynwb.epoch import TimeIntervals

from eval.studies.movie_features import stand_in
from eval.studies.simulated_v1 import simulated_v1
from foundation.recording import Recording

_FIRST_CHANNEL, _FIRST_UNIT = 850_000_000, 950_000_000


def write_movie_session(path: str | Path, recording: Recording, session_id: int) -> Path:
    """Write the units and the showings of a recording with `natural_movie_one_frame`.

    Args:
        path: The `.nwb` file; folders are made.
        recording: As from `eval.studies.simulated_v1`; `units` needs `region_allen`.
        session_id: Its identifier.

    Returns:
        `path`.
    """
    nwb = pynwb.NWBFile(
        session_description="Data and metadata for an Ecephys session",
        identifier=str(session_id),
        session_id=str(session_id),
        session_start_time=datetime(2019, 1, 1, tzinfo=UTC),
        institution="Allen Institute",
        subject=pynwb.file.Subject(subject_id=recording.info.subject_id, species="Mus musculus", age="P120D", sex="M"),
    )
    for name in ("probe_vertical_position", "probe_id", "local_index", "valid_data"):
        nwb.add_electrode_column(name, name.replace("_", " "))
    device = nwb.create_device(name="probeA", description="Neuropixels 1.0 Probe", manufacturer="imec")
    group = nwb.create_electrode_group(
        name="probeA", description="Ecephys Electrode Group", location="See electrode locations", device=device
    )
    # A channel a unit, since only the place of its peak matters here.
    for row, region in enumerate(recording.units["region_allen"].astype(str)):
        nwb.add_electrode(
            id=_FIRST_CHANNEL + row,
            x=8000.0,
            y=500.0,
            z=8000.0,
            location=region,
            filtering="AP band: 500 Hz high-pass",
            group=group,
            probe_vertical_position=20 * row,
            probe_id=760_000_000,
            local_index=row,
            valid_data=True,
        )
    number = recording.num_units
    order = np.argsort(recording.spike_units, kind="stable")
    stops = np.cumsum(np.bincount(recording.spike_units, minlength=number))
    spikes = VectorData(name="spike_times", description="times (s)", data=recording.spike_times[order])
    metrics = {
        "quality": np.full(number, "good"),
        "isi_violations": np.zeros(number),
        "amplitude_cutoff": np.full(number, 0.01),
        "presence_ratio": np.full(number, 0.99),
        "peak_channel_id": _FIRST_CHANNEL + np.arange(number),
    }
    columns = [VectorData(name=name, description="metric", data=data) for name, data in metrics.items()]
    nwb.units = pynwb.misc.Units(
        name="units",
        description="sorted units",
        id=_FIRST_UNIT + np.arange(number),
        columns=[*columns, spikes, VectorIndex(name="spike_times_index", data=stops, target=spikes)],
        colnames=[*metrics, "spike_times"],
    )
    movie = recording.covariates["natural_movie_one_frame"]
    assert movie.times is not None
    shown = np.flatnonzero(movie.observed)
    table = {
        "start_time": movie.times[shown],
        "stop_time": movie.times[shown + 1],
        "frame": movie.values[shown].astype(float),
    }
    nwb.add_time_intervals(
        TimeIntervals(
            name="natural_movie_one_presentations",
            description="Presentation times and stimuli details",
            columns=[VectorData(name=name, description=name, data=data) for name, data in table.items()],
            colnames=list(table),
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def main() -> None:
    """Write a session and the features that its units follow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--units", type=int, default=800)
    parser.add_argument("--showings", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    features = stand_in(900, given.seed)
    recording = simulated_v1(features, given.units, given.showings, given.seed)
    print(write_movie_session(given.folder / "session_1.nwb", recording, session_id=1))
    np.save(given.folder / "features.npy", features)


if __name__ == "__main__":
    main()
