"""Time and memory to prepare one long session with four recipes, beside the upstream's reader on the same files.

    python -m benchmarks.prepare_session [--quick] [--recipes ibl allen brainsets nwb] [--folder KEPT]

60 minutes of 1,500 units, about 20 million spikes. `read` is the recipe's reading into memory, with all spikes in the
order of time, cleaned and counted; `prepare` also validates, writes, hashes and syncs to disk. The upstream's reader
(`benchmarks.upstream_readers`) brings the same spikes, trials and covariates into memory, as it keeps them: by unit or
by probe where these are separate in the file, unchecked, and with ONE's check of hashes switched off. All sides must
hold the same spikes, or there is no table.

Every measurement is a process of its own: wall time of the work without imports, files in the page cache; the peak is
that of the resident memory, pages of mapped files among it, up to the end of the work, and after the imports alone.
Sides take turns; medians over the rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

# Heavy imports are those of the processes that measure: Linux counts what their parent holds into their peaks.
if TYPE_CHECKING:
    from benchmarks.upstream_readers import Parts, Read

SIDES = ("read", "prepare", "upstream")
RECIPES = ("ibl", "allen", "brainsets", "nwb")
FULL, QUICK = (60.0, 1500, 3), (5.0, 200, 1)


@dataclass(frozen=True)
class Measurement:
    """One side, once.

    Attributes:
        seconds: Wall time of the work.
        peak_mb: Most resident memory of the process until the work was done.
        imports_mb: The same before the work began.
        spikes: Number of spikes.
        digest: Of the times of every unit's spikes; the same for the same spikes.
    """

    seconds: float
    peak_mb: float
    imports_mb: float
    spikes: int
    digest: str


@dataclass(frozen=True)
class Row:
    """One recipe, in the columns of the table; the ratio is of the upstream's time to `read_s`."""

    recipe: str
    file_mb: float
    spikes: int
    read_s: float
    prepare_s: float
    peak_mb: float
    imports_mb: float
    upstream_s: float
    upstream_peak_mb: float
    ratio: float


def measure(side: str, recipe: str, source: Path) -> Measurement:
    """Time one side of a recipe on the files in `source`, in this process, which should be a fresh one."""
    warnings.simplefilter("ignore")  # ONE has much to say about simulated files
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        work = _work(side, recipe, source, Path(out))
        _into_page_cache(source)
        imports_mb, begun = _peak_mb(), time.perf_counter()
        spikes = work()
        seconds, peak_mb = time.perf_counter() - begun, _peak_mb()
        parts = spikes()
        return Measurement(seconds, peak_mb, imports_mb, sum(len(times) for times, _ in parts), digest(parts))


def digest(parts: Parts) -> str:
    """A hash of the spikes of all units that depends neither on their order nor on the order and names of the units.

    The bits of the times of a unit are added up as whole numbers, which is exact in any order.
    """
    import numpy as np

    sums = []
    for times, rows in parts:
        of_unit = np.zeros(int(np.max(rows, initial=0)) + 1, np.uint64)
        np.add.at(of_unit, rows, np.ascontiguousarray(times, np.float64).view(np.uint64))
        sums.append(of_unit[of_unit > 0])
    return hashlib.sha256(np.sort(np.concatenate(sums)).tobytes()).hexdigest()


def compare(recipe: str, folder: Path, rounds: int, run: Callable[..., Any]) -> Row:
    """Measure all sides of one recipe on the files in `folder / recipe`.

    Args:
        recipe: Of `RECIPES`.
        folder: Holds the files; corpora are written into it and removed again.
        rounds: Measurements of each side.
        run: Calls a function in a process of its own.

    Raises:
        ValueError: The sides hold different spikes.
    """
    source = folder / recipe
    took: dict[str, list[Measurement]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            took[side].append(run(measure, side, recipe, source))
    found = {side: {(m.spikes, m.digest[:12]) for m in all_of} for side, all_of in took.items()}
    if len(set.union(*found.values())) > 1:
        raise ValueError(f"{recipe}: the sides hold different spikes ({found}); nothing to compare")
    seconds = {side: median(m.seconds for m in all_of) for side, all_of in took.items()}
    return Row(
        recipe=recipe,
        file_mb=sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) / 1e6,
        spikes=took["read"][0].spikes,
        read_s=seconds["read"],
        prepare_s=seconds["prepare"],
        peak_mb=median(m.peak_mb for m in took["prepare"]),
        imports_mb=median(m.imports_mb for m in took["prepare"]),
        upstream_s=seconds["upstream"],
        upstream_peak_mb=median(m.peak_mb for m in took["upstream"]),
        ratio=seconds["upstream"] / seconds["read"],
    )


def table(rows: list[Row]) -> str:
    """The rows as text with one line of names."""
    lines = [list(Row.__annotations__)]
    for row in rows:
        values = asdict(row).values()
        lines.append([f"{v:.{0 if v >= 100 else 2}f}" if isinstance(v, float) else str(v) for v in values])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def write_files(recipe: str, folder: Path, minutes: float, num_units: int) -> None:
    """Write the files of a recipe into `folder / recipe`, whole or not at all."""
    from benchmarks.session_files import WRITERS

    scratch = folder / f".writing-{recipe}"
    shutil.rmtree(scratch, ignore_errors=True)
    WRITERS[recipe](scratch, minutes, num_units)
    scratch.rename(folder / recipe)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of this module returns in a fresh interpreter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _work(side: str, recipe: str, source: Path, out: Path) -> Read:
    """What is to be timed, with all its imports done."""
    if side == "upstream":
        from benchmarks.upstream_readers import READERS

        return READERS[recipe](source)
    from data_recipes.recipe import list_sessions, prepare, recipe_module
    from foundation.corpus import Corpus

    module = recipe_module(recipe)
    if recipe in ("ibl", "allen"):
        import iblatlas.regions  # noqa: F401 - imported by these recipes when they first need it
    ((recording_id, job),) = list_sessions(recipe, source, {}).items()

    def read_spikes() -> Callable[[], Parts]:
        recording = module.read(**job)
        return lambda: [(recording.spike_times, recording.spike_units)]

    def prepare_spikes() -> Callable[[], Parts]:
        if failed := prepare(recipe, source, out, workers=1).failed:
            raise ValueError(f"{recipe}: {failed}")

        def spikes() -> Parts:
            recording = Corpus.open(out)[recording_id]
            return [(recording.spike_times, recording.spike_units)]

        return spikes

    return read_spikes if side == "read" else prepare_spikes


def _into_page_cache(folder: Path) -> None:
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            while file.read(2**22):
                pass


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Write the files that are not there, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 minutes of 200 units, once; some seconds a recipe")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those that are; else temporary")
    parser.add_argument("--rounds", type=int, help="measurements of each side")
    a = parser.parse_args()
    minutes, num_units, rounds = QUICK if a.quick else FULL
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(a.folder or scratch) / f"{minutes:.0f}min_{num_units}units"
        folder.mkdir(parents=True, exist_ok=True)
        for recipe in a.recipes:
            if not (folder / recipe).exists():
                in_own_process(write_files, recipe, folder, minutes, num_units)
        print(f"{minutes:.0f} minutes, {num_units} units; {_load()}", flush=True)
        rows = [compare(recipe, folder, a.rounds or rounds, in_own_process) for recipe in a.recipes]
        print(f"{table(rows)}\n{_load()}")


if __name__ == "__main__":
    main()
