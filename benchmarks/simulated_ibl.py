"""IBL sessions of a simulated mouse, in the files that ONE and brainbox read; simulates nothing that is not in them.

`benchmarks.simulated_units` makes units with the regions, rates and quality of a real table, and their spikes;
`data_recipes.simulated_task` makes the mouse. Files are written by ONE's own writers.

    python -m benchmarks.simulated_ibl FOLDER --subjects 3 --trials 200 --units 60
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from iblatlas.regions import BrainRegions
from iblutil.io import parquet
from one.alf.io import save_object_npy

from benchmarks.simulated_units import sample_units, simulate_spikes
from data_recipes.ibl_selection import session_uuid, tables_of_tree
from data_recipes.simulated_task import (
    P_LEFT,
    STEP_S,
    TASK_LATENTS,
    measured_behavior,
    simulate_trials,
    task_latents,
)
from foundation.recording import Covariate

NUM_CHANNELS = 384
CAMERA_HZ = {"left": 60.0, "right": 150.0, "body": 30.0}
ENCODER_RAD = 2 * np.pi / 4096
NOTHING_FIRED = 3
# Tracks of the built-in table: acronyms from the tip of the probe upwards, and their Cosmos divisions.
TRACKS = (
    (("PO", "TH"), ("LP", "TH"), ("DG-mo", "HPF"), ("CA1", "HPF"), ("VISa5", "Isocortex"), ("VISa2/3", "Isocortex")),
    (("MRN", "MB"), ("SCm", "MB"), ("SCs", "MB"), ("POST", "HPF"), ("VISp6a", "Isocortex"), ("VISp5", "Isocortex")),
    (("SI", "CNU"), ("CP", "CNU"), ("CP", "CNU"), ("MOs6a", "Isocortex"), ("MOs5", "Isocortex"), ("root", "root")),
)


def builtin_table(units_per_track: int = 300, seed: int = 0) -> pd.DataFrame:
    """A table of units with the columns of the real ones, for machines that have none of those.

    Returns:
        First index level: insertion; columns `channels`, `depths` (um), `firing_rate` (Hz), `label`, `acronym`,
        `cosmos_acronym`, `atlas_id`, `amp_median` (V), `slidingRP_viol`, `noise_cutoff`.
    """
    rng, regions = np.random.default_rng(seed), BrainRegions()
    tables = {}
    for number, track in enumerate(TRACKS):
        channels = np.sort(rng.integers(0, NUM_CHANNELS, units_per_track))
        acronyms, divisions = (np.array(names)[channels * len(track) // NUM_CHANNELS] for names in zip(*track))
        tables[f"track{number}"] = pd.DataFrame(
            {
                "channels": channels,
                "depths": 20.0 * (channels // 2),
                "firing_rate": rng.lognormal(1.0, 1.0, units_per_track),
                "label": rng.choice([0.0, 1 / 3, 2 / 3, 1.0], units_per_track, p=[0.2, 0.2, 0.2, 0.4]),
                "acronym": acronyms,
                "cosmos_acronym": divisions,
                "atlas_id": regions.acronym2id(acronyms),
                "amp_median": rng.lognormal(-9.5, 0.5, units_per_track),
                "slidingRP_viol": rng.integers(0, 2, units_per_track).astype(float),
                "noise_cutoff": rng.exponential(10, units_per_track),
            }
        )
    return pd.concat(tables)


def write_session(
    root: Path,
    *,
    lab: str = "cortexlab",
    subject: str = "KS014",
    date: str = "2024-01-15",
    number: int = 1,
    unit_table: pd.DataFrame | None = None,
    probes: int = 2,
    units_per_probe: int | None = None,
    min_label: float = 0.0,
    num_trials: int = 200,
    cameras: tuple[str, ...] = ("left",),
    seed: int = 0,
) -> Path:
    """Write one session; a mouse with all of its units needs about 3 s, one of 60 good units 1 s.

    Args:
        root: ONE's cache folder.
        lab: Lab.
        subject: The animal.
        date: ISO date.
        number: Of the session on that day.
        unit_table: Units to draw from, as `sample_units` takes them; None for `builtin_table`.
        probes: Each is one insertion of the table.
        units_per_probe: Clusters that fire; None for all of the insertion.
        min_label: Only clusters of at least this quality; 1 for good units.
        num_trials: About 2.9 s each.
        cameras: Out of `left`, `right` and `body`.
        seed: With subject, date and number it decides everything.

    Returns:
        The session's folder.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{subject} {date} {number}".encode())])
    table = builtin_table() if unit_table is None else unit_table
    table = table[table["label"] >= min_label]
    folder = Path(root, lab, "Subjects", subject, date, f"{number:03d}")
    alf = folder / "alf"
    alf.mkdir(parents=True, exist_ok=True)
    trials, paths = simulate_trials(num_trials, rng)
    num_steps = int((trials["stop_s"].max() + 5) / STEP_S)
    latents = task_latents(trials, paths, num_steps, rng)
    behavior = measured_behavior(trials, latents, num_steps, rng)
    _write_trials(alf, trials, rng)
    _write_wheel(alf, behavior["wheel_speed"], trials, rng)
    for camera in cameras:
        _write_camera(alf, camera, behavior["whisker_energy"], latents, rng)
    save_object_npy(alf, {"times": behavior["lick"].times}, "licks")
    named = dict(zip(TASK_LATENTS, latents.T))
    for probe in range(probes):
        _write_probe(alf / f"probe{probe:02d}" / "pykilosort", sample_units(table, rng, units_per_probe), named, rng)
    return folder


def write_cache(root: Path) -> None:
    """Write ONE's tables `sessions.pqt` and `datasets.pqt` of the sessions in `root`, with ids that do not change."""
    meta = {"date_created": "2024-01-15 12:00", "origin": "simulated"}
    for name, table in zip(("sessions", "datasets"), tables_of_tree(root)):
        parquet.save(Path(root, f"{name}.pqt"), table, meta)


def session_id(lab: str, subject: str, date: str, number: int) -> str:
    """The eid that `write_cache` gives to a session."""
    return session_uuid(f"{lab}/{subject}/{date}/{number:03d}")


def _write_trials(alf: Path, trials: pd.DataFrame, rng: np.random.Generator) -> None:
    """`_ibl_trials.table.pqt`: choice +1 is left; a contrast is NaN on the side without stimulus."""
    stimulus, movement = trials["stimulus_s"].to_numpy(), trials["movement_s"].to_numpy()
    choice, contrast = trials["choice"].to_numpy(), trials["contrast"].to_numpy()
    rewarded = trials["rewarded"].to_numpy(bool)
    # At zero contrast the reward tells the side.
    right = np.where(contrast != 0, contrast > 0, (choice == 1) == rewarded)
    response = np.where(choice < 0, stimulus + 1.4, movement + rng.uniform(0.05, 0.15, len(trials)))
    table = pd.DataFrame(
        {
            "intervals_0": trials["start_s"],
            "intervals_1": trials["stop_s"],
            "stimOn_times": stimulus,
            "stimOff_times": response + 1.0,
            "goCue_times": stimulus + 0.002,
            "firstMovement_times": movement,
            "response_times": response,
            "feedback_times": response + 0.001,
            "choice": np.select([choice == 0, choice == 1], [1, -1], 0),
            "contrastLeft": np.where(right, np.nan, np.abs(contrast)),
            "contrastRight": np.where(right, np.abs(contrast), np.nan),
            "probabilityLeft": P_LEFT[trials["block"].to_numpy()],
            "feedbackType": np.where(rewarded, 1, -1),
            "rewardVolume": np.where(rewarded, 1.5, 0.0),
        }
    )
    table.to_parquet(alf / "_ibl_trials.table.pqt")
    save_object_npy(alf, {"goCueTrigger_times": stimulus + 0.001}, "trials", namespace="ibl")


def _write_wheel(alf: Path, speed: Covariate, trials: pd.DataFrame, rng: np.random.Generator) -> None:
    """Samples only where the encoder counts: none while the wheel rests."""
    assert speed.times is not None
    times, step = speed.times, float(np.median(np.diff(speed.times)))
    trial = np.clip(np.searchsorted(trials["start_s"].to_numpy(), times, side="right") - 1, 0, None)
    direction = np.where(trials["choice"].to_numpy()[trial] == 0, -1.0, 1.0)
    position = np.round(np.cumsum(direction * speed.values * step) / ENCODER_RAD)
    moved = np.flatnonzero(np.diff(position, prepend=np.inf))
    wheel = {
        "timestamps": times[moved] + rng.uniform(0, step / 2, len(moved)),
        "position": position[moved] * ENCODER_RAD,
    }
    save_object_npy(alf, wheel, "wheel", namespace="ibl")


def _write_camera(alf: Path, camera: str, energy: Covariate, latents: np.ndarray, rng: np.random.Generator) -> None:
    """Frames, motion energy and paws of one camera; frames that the camera missed are in no file."""
    assert energy.times is not None
    times = np.arange(0.02, energy.times[-1], 1 / CAMERA_HZ[camera])
    frame = np.searchsorted(energy.times, times, side="right") - 1
    seen = energy.observed[frame]
    values = np.interp(times, energy.times[energy.observed], energy.values[energy.observed])[seen]
    times = times[seen]
    save_object_npy(alf, {"times": times}, f"{camera}Camera", namespace="ibl")
    # ONE's writer would change the case of these names.
    np.save(alf / f"{camera}Camera.ROIMotionEnergy.npy", values * rng.lognormal(0, 0.05, len(values)))
    movement = latents[(times / STEP_S).astype(int), TASK_LATENTS.index("movement")]
    paws = {}
    for paw, (x, y) in {"paw_l": (180.0, 260.0), "paw_r": (280.0, 250.0)}.items():
        paws[f"{paw}_x"] = x + 25 * movement + rng.normal(size=len(times))
        paws[f"{paw}_y"] = y - 15 * movement + rng.normal(size=len(times))
        paws[f"{paw}_likelihood"] = np.where(rng.uniform(size=len(times)) < 0.02, 0.4, 0.99)
    pd.DataFrame(paws).to_parquet(alf / f"_ibl_{camera}Camera.dlc.pqt")


def _write_probe(folder: Path, units: pd.DataFrame, latents: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Spikes, clusters and channels of one probe; some clusters of the tables never fired."""
    folder.mkdir(parents=True, exist_ok=True)
    trains = simulate_spikes(units, latents, STEP_S, rng)
    num_clusters = len(units) + NOTHING_FIRED
    ids = np.sort(rng.choice(num_clusters, len(units), replace=False))
    counts = [len(train) for train in trains]
    times = np.concatenate(trains)
    order = np.argsort(times, kind="stable")
    clusters = np.repeat(ids.astype(np.int32), counts)[order]
    table = units.reindex(np.searchsorted(ids, np.arange(num_clusters)).clip(max=len(units) - 1)).reset_index(drop=True)
    silent = ~np.isin(np.arange(num_clusters), ids)
    depths, amps = table["depths"].to_numpy(np.float32), table["amp_median"].to_numpy(np.float32)
    spikes = {"times": times[order], "clusters": clusters, "depths": depths[clusters], "amps": amps[clusters]}
    save_object_npy(folder, spikes, "spikes")
    channels = table["channels"].to_numpy(np.int64)
    save_object_npy(folder, {"channels": channels, "depths": depths, "amps": amps}, "clusters")
    uuids = [session_uuid(f"{folder.as_posix().split('Subjects/')[1]}/{i}") for i in range(num_clusters)]
    pd.DataFrame({"uuids": uuids}).to_csv(folder / "clusters.uuids.csv", index=False)
    duration = len(next(iter(latents.values()))) * STEP_S
    fired = np.bincount(clusters, minlength=num_clusters)
    metrics = pd.DataFrame(
        {
            "cluster_id": np.arange(num_clusters),
            "label": np.where(silent, 0.0, table["label"]),
            "presence_ratio": np.where(silent, 0.0, np.clip(fired / (duration / 10), 0, 1)),
            "firing_rate": fired / duration,
            "amp_median": amps,
            "noise_cutoff": table["noise_cutoff"],
            "slidingRP_viol": table["slidingRP_viol"],
        }
    )
    metrics.to_parquet(folder / "clusters.metrics.pqt")
    _write_channels(folder, units)


def _write_channels(folder: Path, units: pd.DataFrame) -> None:
    """Two columns of sites, 20 um apart; a site without unit lies where the next unit lies."""
    rows = np.arange(max(NUM_CHANNELS, int(units["channels"].max()) + 1))
    depth = 20.0 * (rows // 2)
    known, first = np.unique(units["channels"].to_numpy(np.int64), return_index=True)
    nearest = np.abs(rows[:, None] - known).argmin(axis=1)
    channels = {
        "mlapdv": np.stack([np.full(len(rows), -2200.0), np.full(len(rows), -2000.0), -4000 + depth], axis=1),
        "localCoordinates": np.stack([np.where(rows % 2, 59.0, 27.0), depth], axis=1),
        "rawInd": rows,
    }
    save_object_npy(folder, channels, "channels")
    # Not with ONE's writer, which would change the name.
    locations = units["atlas_id"].to_numpy(np.int64)[first][nearest]
    np.save(folder / "channels.brainLocationIds_ccf_2017.npy", locations)


def main() -> None:
    """Write sessions of several mice and ONE's tables of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--units", type=int, help="good units per probe; by default all clusters of an insertion")
    parser.add_argument("--unit-table", type=Path, help="parquet of real units")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    table = None if a.unit_table is None else pd.read_parquet(a.unit_table)
    for k in range(a.subjects):
        quality = {"units_per_probe": a.units, "min_label": 1.0} if a.units else {}
        written = write_session(
            a.root, subject=f"SIM_{k:03d}", unit_table=table, num_trials=a.trials, seed=a.seed, **quality
        )
        print(written)
    write_cache(a.root)


if __name__ == "__main__":
    main()
