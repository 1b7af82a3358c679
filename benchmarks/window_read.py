"""Time to read a window of spikes from disk and bin it, beside torch_brain's on the same spikes; nothing else is read.

    python -m benchmarks.window_read [--quick]

A recording is written as a corpus and as torch_brain's HDF5. Ours is `bin_spikes` on the memory-mapped recording.
Theirs is what their documentation gives a sampler: `Dataset[DatasetIndex]`, then `BinSpikes` as its transform or the
function `bin_spikes` on the sample, whichever is faster. `ratio_lazy_slice` and `ratio_in_memory` go around their
`Dataset`: slicing the spikes of one lazy recording that is kept open, and of one that was loaded whole. CPU time of one
process and one thread, files in the page cache, sides interleaved, medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from foundation.binning import bin_spikes
from foundation.corpus import write_manifest
from foundation.recording import Recording, RecordingInfo, empty_trials
from foundation.recording_folder import write_recording
from foundation.sampling import Window, WindowReader

WINDOW_S, BIN_SIZE_S = 2.0, 0.02
NUM_BINS = round(WINDOW_S / BIN_SIZE_S)
RECORDING_ID = "bench/session"
Read = Callable[[float], np.ndarray]


def poisson_recording(num_units: int, rate_hz: float, duration_s: float, seed: int) -> Recording:
    """Homogeneous Poisson spikes of `num_units` units of `rate_hz` on average (rates are exponentially spread)."""
    rng = np.random.default_rng(seed)
    rates = rng.exponential(rate_hz, num_units)
    rates *= rate_hz * num_units / rates.sum()
    units = np.repeat(np.arange(num_units, dtype=np.int32), rng.poisson(rates * duration_s))
    times = rng.uniform(0, duration_s, len(units))
    order = np.argsort(times, kind="stable")
    return Recording(
        info=RecordingInfo(RECORDING_ID, "subject", "benchmark 1"),
        spike_times=times[order],
        spike_units=units[order],
        units=pd.DataFrame({"unit_id": [f"{RECORDING_ID}/p/{i}" for i in range(num_units)], "region": ""}),
        trials=empty_trials(),
        domain=np.array([[0.0, duration_s]]),
    )


def our_readers(recording: Recording, folder: Path) -> dict[str, Read]:
    """Our ways from a window's start (s) to counts `(T, N)`: the spikes alone, and a whole sample of `WindowReader`."""
    write_recording(folder, recording)
    reader = WindowReader(write_manifest(folder), [], BIN_SIZE_S)
    mapped = reader.recording(RECORDING_ID)
    return {
        "foundation": lambda start: bin_spikes(mapped, start, NUM_BINS, BIN_SIZE_S),
        "foundation_sample": lambda start: reader.read(Window(RECORDING_ID, start, NUM_BINS, 0))["spikes"],
    }


def their_readers(recording: Recording, folder: Path) -> dict[str, Read]:
    """torch_brain's ways, through `Dataset` and around it.

    Raises:
        ValueError: torch_brain is not installed.
    """
    try:
        from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries
        from torch_brain.datasets import Dataset, DatasetIndex
        from torch_brain.transforms import BinSpikes
        from torch_brain.utils.binning import bin_spikes as bin_theirs
    except ImportError as error:
        raise ValueError(f'torch_brain is not installed ({error}); run: pip install -e ".[bench]"') from None
    domain = Interval(0.0, float(recording.domain[0, 1]))
    spikes = IrregularTimeSeries(timestamps=recording.spike_times, unit_index=recording.spike_units, domain=domain)
    data = Data(spikes=spikes, units=ArrayDict(id=recording.units["unit_id"].to_numpy(dtype="U")), domain=domain)
    folder.mkdir(parents=True, exist_ok=True)
    data.save(folder / "session.h5")
    plain = Dataset(folder)
    transformed = Dataset(folder, transform=BinSpikes(BIN_SIZE_S, dtype=np.uint8))
    lazy, loaded = plain.get_recording("session"), Data.load(folder / "session.h5", lazy=False)

    def index(start: float) -> DatasetIndex:
        return DatasetIndex("session", start, start + WINDOW_S)

    def binned(spikes: IrregularTimeSeries) -> np.ndarray:
        return bin_theirs(spikes, recording.num_units, BIN_SIZE_S, dtype=np.uint8)

    return {
        "dataset_transform": lambda start: transformed[index(start)].spikes_binned.binned_counts,
        "dataset": lambda start: binned(plain[index(start)].spikes),
        "lazy_slice": lambda start: binned(lazy.spikes.slice(start, start + WINDOW_S)),
        "in_memory": lambda start: binned(loaded.spikes.slice(start, start + WINDOW_S)),
    }


def interleaved_us(readers: dict[str, Read], starts: np.ndarray, rounds: int) -> dict[str, float]:
    """Median over rounds of the CPU microseconds per window of each reader; every round times all of them in turn."""
    took: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds + 1):
        for name, read in readers.items():
            begun = time.process_time()
            for start in starts:
                read(start)
            took[name].append((time.process_time() - begun) / len(starts) * 1e6)
    # The first round warms caches and the allocator.
    return {name: float(np.median(values[1:])) for name, values in took.items()}


def measure(num_units: int, rate_hz: float, duration_s: float, num_windows: int, rounds: int) -> dict[str, object]:
    """All figures as one JSON-ready dictionary.

    Raises:
        ValueError: The two sides disagree on the counts of a window.
    """
    recording = poisson_recording(num_units, rate_hz, duration_s, seed=0)
    starts = np.random.default_rng(1).uniform(0, duration_s - WINDOW_S, num_windows)
    with tempfile.TemporaryDirectory() as scratch:
        readers = our_readers(recording, Path(scratch) / "corpus") | their_readers(recording, Path(scratch) / "h5")
        for start in starts[:20]:
            counts = [read(float(start)).astype(int) for read in readers.values()]
            if any((other != counts[0]).any() for other in counts[1:]):
                raise ValueError(f"counts of the window at {start} s differ between the libraries; nothing to compare")
        took = interleaved_us(readers, starts, rounds)
    ours, through_dataset = took["foundation"], min(took["dataset"], took["dataset_transform"])
    return {
        "us_per_window": round(ours, 1),
        "ratio_torch_brain": round(through_dataset / ours, 2),
        "ratio_lazy_slice": round(took["lazy_slice"] / ours, 2),
        "ratio_in_memory": round(took["in_memory"] / ours, 2),
        "us": {name: round(value, 1) for name, value in took.items()},
        "window": f"{WINDOW_S} s, {BIN_SIZE_S} s bins, {num_units} units at {rate_hz} Hz",
    }


def main() -> None:
    """Print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description="Window read against torch_brain.")
    parser.add_argument("--quick", action="store_true", help="fewer windows; a few seconds")
    quick = parser.parse_args().quick
    windows, rounds = (200, 7) if quick else (500, 15)
    print(json.dumps(measure(700, 5.0, 600.0 if quick else 3600.0, windows, rounds)))


if __name__ == "__main__":
    main()
