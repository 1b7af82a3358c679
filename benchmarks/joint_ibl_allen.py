"""One model of simulated IBL and Allen mice, from files in the layouts of both to scores of a mouse of either.

    python -m benchmarks.joint_ibl_allen --tables UNIT_TABLES --out runs/joint_ibl_allen

The files are written by the upstream's writers (`simulated_ibl`, `simulated_allen`) with the units of real tables, then
everything goes through the command line as it would with real data. Simulated neurons say nothing about real ones: the
run shows that the parts fit, and that both mice are predicted above their nulls.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import pandas as pd

from benchmarks import simulated_allen, simulated_ibl
from foundation.__main__ import main as foundation

NUM_MICE = 6
HELD_OUT = {"ibl": "IBL_05", "allen": "900000005"}
METRICS = {"bps", "auc", "r2", "macro_f1"}
OPTIONS = ["train.steps=3000", "train.windows_per_step=48", "train.val_every=300", "train.val_windows=512"]


def write_sources(folder: Path, tables: Path | None, seed: int = 0) -> None:
    """Six IBL mice with two probes each, and six mice of Visual Coding; one session each."""
    ibl = None if tables is None else pd.read_parquet(tables / "clusters_bwm_147.pqt")
    allen = None if tables is None else pd.read_parquet(tables / "clusters_allen.pqt")
    for i in range(NUM_MICE):
        simulated_ibl.write_session(
            folder / "ibl",
            subject=f"IBL_{i:02d}",
            date=f"2024-01-{i + 1:02d}",
            unit_table=ibl,
            units_per_probe=350,
            num_trials=220,
            seed=seed + i,
        )
        simulated_allen.write_session(
            folder / "allen" / f"session_{800000000 + i}" / f"session_{800000000 + i}.nwb",
            session_id=800000000 + i,
            subject=f"{900000000 + i}",
            unit_table=allen,
            num_units=140,
            minutes=10.0,
            seed=seed + 100 + i,
        )
    simulated_ibl.write_cache(folder / "ibl")


def run(words: list[str]) -> None:
    """One command of the project, shown and timed."""
    print(f"$ foundation {' '.join(words)}", flush=True)
    start = time.perf_counter()
    if status := foundation(words):
        raise SystemExit(status)
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Write the files unless they are there, then prepare, train, adapt and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder of clusters_bwm_147.pqt and clusters_allen.pqt")
    parser.add_argument("--out", type=Path, default=Path("runs/joint_ibl_allen"))
    parser.add_argument("--config", type=Path, default=Path("configs/ibl_allen.yaml"))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    source = a.out / "source"
    if not source.exists():
        start = time.perf_counter()
        write_sources(source, a.tables, a.seed)
        print(f"{2 * NUM_MICE} sessions written in {time.perf_counter() - start:.0f} s", flush=True)
    corpora = {name: str(a.out / "corpora" / name) for name in ("ibl", "allen")}
    for name, corpus in corpora.items():
        run(["prepare", name, "--source", str(source / name), "--out", corpus, "--workers", "2"])
    base, new, results = (str(a.out / part) for part in ("base", "new", "results"))
    paths = [f"data.corpora.{name}.path={corpus}" for name, corpus in corpora.items()]
    held = f"data.held_out=[{', '.join(repr(name) for name in HELD_OUT.values())}]"
    run(["train", str(a.config), f"out={base}", f"seed={a.seed}", held, *paths, *OPTIONS])
    for name, animal in HELD_OUT.items():
        words = ["--corpus", corpora[name], "--subjects", animal]
        run(["finetune", base, *words, "--out", new, "--tracks", "adapter", "scratch"])
    run(["evaluate", new, "--corpus", *corpora.values(), "--subjects", *HELD_OUT.values(), "--out", results])
    run(["report", new, results, "--out", str(a.out / "report.html")])
    rows = pd.read_parquet(Path(results) / "results.parquet")
    shown = rows[(rows["kind"] == "model") & rows["metric"].isin(METRICS)]
    for (subject, task, metric), part in shown.groupby(["subject", "task", "metric"]):
        scores = {str(model).split("/")[-1]: f"{value:.3f}" for model, value in zip(part["model"], part["value"])}
        beside = f"baseline {part['baseline_value'].iloc[0]:.3f}  null {part['null_value'].iloc[0]:.3f}"
        print(f"{subject!s:12}{task!s:40}{metric!s:10}{scores}  {beside}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:.0f} MB")


if __name__ == "__main__":
    main()
