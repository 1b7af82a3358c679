"""How the libraries of four sources read a session into memory; for `benchmarks.prepare_session`, which times them.

Each function imports its library, opens what is not part of a session, and returns the function that reads one: spikes
of all units, trials, and every covariate that the recipe reads too. What that one returns holds all of it, and gives
the spikes, in parts of times and unit numbers, when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Parts = list[tuple[np.ndarray, np.ndarray]]
Read = Callable[[], Callable[[], Parts]]


def ibl(folder: Path) -> Read:
    """ONE and brainbox: SpikeSortingLoader for each probe, SessionLoader for the rest."""
    from brainbox.io.one import SessionLoader, SpikeSortingLoader
    from iblatlas.regions import BrainRegions
    from one.api import One

    one = One(cache_dir=folder, mode="local")
    # ONE would hash every file that its tables have a hash of, for about a second each.
    one._cache["datasets"]["hash"] = None
    (eid,) = one.search()

    def read() -> Callable[[], Parts]:
        atlas, probes = SimpleNamespace(regions=BrainRegions()), []
        for collection in one.list_collections(eid, filename="spikes*"):
            loader = SpikeSortingLoader(eid=eid, pname=collection.split("/")[1], one=one, atlas=atlas)
            spikes, clusters, channels = loader.load_spike_sorting()
            probes.append((spikes, loader.merge_clusters(spikes, clusters, channels)))
        session = SessionLoader(one=one, eid=eid)
        session.load_trials()
        session.load_wheel()
        session.load_motion_energy(views=["left"])
        session.load_pose(views=["left"])
        session.load_licks()
        held = (probes, session)
        return lambda: [(spikes["times"], spikes["clusters"]) for spikes, _ in held[0]]

    return read


def nwb(folder: Path) -> Read:
    """pynwb: the vector of spike times in one piece, every table of intervals and every series."""
    import pynwb
    from hdmf.common import DynamicTable

    def read() -> Callable[[], Parts]:
        with pynwb.NWBHDF5IO(str(next(folder.glob("*.nwb"))), "r") as io:
            file = io.read()
            # What `units["spike_times"][k]` gives, without an access to the file for each unit.
            ends = file.units["spike_times"].data[:]
            trains = np.split(file.units["spike_times"].target.data[:], ends[:-1])
            series: dict[str, Any] = {}
            tables = {"units": file.units.to_dataframe(exclude={"spike_times"})}
            for item in file.objects.values():
                if isinstance(item, pynwb.TimeSeries):
                    series[item.name] = (item.data[:], item.get_timestamps()[:])
                elif isinstance(item, DynamicTable) and item is not file.units:
                    tables[item.name] = item.to_dataframe()
        held = (trains, tables, series)
        return lambda: [(train, np.zeros(len(train), int)) for train in held[0]]

    return read


def brainsets(folder: Path) -> Read:
    """torch_brain: the whole object, materialized."""
    import h5py
    from torch_brain.data import Data

    def read() -> Callable[[], Parts]:
        with h5py.File(next(folder.glob("*.h5"))) as file:
            data = Data.from_hdf5(file, lazy=False)
        return lambda: [(data.spikes.timestamps, data.spikes.unit_index)]

    return read


READERS = {"ibl": ibl, "allen": nwb, "brainsets": brainsets, "nwb": nwb}
