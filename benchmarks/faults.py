"""Kill training, preparation and evaluation at random moments; the same command has to go on as if nothing had been.

    python -m benchmarks.faults [--kills 100] [--processes 1] [--what train prepare evaluate] [--seed 0]

Each work is done once without faults. Then it is started again and again in fresh folders and stopped at random
moments, up to three times before it may end:

    SIGKILL     of all its processes
    a rank      SIGKILL of one process of several; the others have to end by themselves
    SIGTERM     of all its processes: a checkpoint is written, the exit status is 143
    power cut   SIGKILL, and the newest files that lie in the folder are cut short
    disk full   from a random moment on nothing larger than 4 KiB can be written

What is there in the end is compared with what is there without faults, byte for byte but for clock times. Processes are
forked from this one, which has the libraries imported, so that a kill costs a second and not twenty. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from data_recipes.recipe import open_or_prepare
from eval.held_out import evaluate
from foundation import claims
from foundation.channels import DataConfig
from foundation.config import Config
from foundation.corpus import Corpus
from foundation.finetune import FinetuneConfig, finetune
from foundation.model_config import ModelConfig
from foundation.preemption import EXIT_STATUS
from foundation.pretrain import pretrain
from foundation.readout import ReadoutConfig
from foundation.train import TrainConfig

FAULTS = ("SIGKILL", "SIGTERM", "power cut", "disk full")
MAX_FAULTS = 3
SIZES = {"num_subjects": 4, "num_units": 12, "num_trials": 40}
# Bytes; every array file is larger, every file that tells of a claim is smaller.
FULL_DISK = 4096
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Work:
    """Something that is done in a folder, and what of the folder has to be the same in the end.

    Attributes:
        name: Of the work.
        do: Does it.
        outcome: What it left, without what depends on the clock.
        ranks: Processes that do it together.
    """

    name: str
    do: Callable[[Path], object]
    outcome: Callable[[Path], dict[str, Any]]
    ranks: int = 1


def training(corpus: Corpus, ranks: int) -> Work:
    """Pretraining with a checkpoint every second step, so that many a kill falls into the writing of one."""
    model = ModelConfig(width=16, depth=1, heads=2, feed_forward=32, private_rank=3, dropout=0.1)
    train = TrainConfig(
        steps=24, windows_per_step=8, windows_per_session=4, val_every=2, val_windows=24, log_every=1, track=[]
    )
    data = DataConfig(corpus=str(corpus.path), held_out=["animal03"], window_s=0.6)

    def outcome(folder: Path) -> dict[str, Any]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            row.pop("windows_per_s", None)
        return {"log": rows, "model": (folder / "model/model.safetensors").read_bytes()}

    def do(folder: Path) -> object:
        return pretrain(Config(out=str(folder), data=data, model=model, train=train))

    return Work("train", do, outcome, ranks)


def preparing() -> Work:
    """Preparation of the synthetic corpus; its hashes are in the manifest."""

    def outcome(folder: Path) -> dict[str, Any]:
        corpus = Corpus.open(folder / "corpus")
        for recording_id in corpus.ids:
            corpus.verify(recording_id)
        return {"manifest": corpus.manifest_sha256}

    return Work("prepare", lambda folder: open_or_prepare("synthetic", folder / "corpus", **SIZES), outcome)


def evaluating(corpus: Corpus, adapted: Path) -> Work:
    """Evaluation of an adapted model with baselines."""

    def do(folder: Path) -> object:
        tasks = ["encode", "choice", "forecast"]
        return evaluate([adapted], corpus, ["animal03"], folder / "results", tasks=tasks, baselines="quick")

    return Work("evaluate", do, lambda f: {"rows": (f / "results/results.parquet").read_bytes()})


def start(work: Work, folder: Path, fault: str | None) -> list[int]:
    """Fork the processes of a work; with a full disk, large files cannot be written by them from some moment on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(work.ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        status = 1
        try:
            _become_rank(rank, work.ranks, port, folder, fault)
            work.do(folder)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # whatever happened, even in printing it, the child must not go on in the parent's code
    return children


def _become_rank(rank: int, ranks: int, port: int, folder: Path, fault: str | None) -> None:
    """Make of a forked process a rank of a launch that says what it says into a file."""
    os.environ |= {"ACCELERATE_USE_CPU": "1"}
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that forked
    if ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
    # A claim that a power cut made unreadable is abandoned after five minutes: here sooner, far above a heartbeat.
    claims.EXPIRES_S, claims.HEARTBEAT_S = 10.0, 0.5
    said = os.open(folder / "said.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if fault == "disk full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK, FULL_DISK)))


def wait(children: list[int], patience_s: float = PATIENCE_S) -> list[int]:
    """Exit statuses, negative for a signal.

    Raises:
        TimeoutError: One does not end; all are killed.
    """
    statuses, deadline = dict.fromkeys(children, -999), time.monotonic() + patience_s
    while -999 in statuses.values():
        for child in [c for c, status in statuses.items() if status == -999]:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                statuses[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for child in [c for c, status in statuses.items() if status == -999]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            raise TimeoutError(f"{patience_s:.0f} s after a fault a process still runs")
        time.sleep(0.005)
    return list(statuses.values())


def strike(children: list[int], folder: Path, fault: str, rng: random.Random) -> list[int]:
    """Let a fault happen to running processes, and wait for their end."""
    several = len(children) > 1 and rng.random() < 0.5
    if fault == "disk full":
        for child in children:
            os.kill(child, signal.SIGUSR1)
    else:
        number = signal.SIGTERM if fault == "SIGTERM" else signal.SIGKILL
        struck = rng.sample(children, 1) if several and fault == "SIGKILL" else children
        for child in struck:
            os.kill(child, number)
    statuses = wait(children)
    if fault == "power cut":
        cut_short(folder, rng)
    return statuses


def _is_stop(statuses: list[int], folder: Path) -> bool:
    """Whether SIGTERM ended training as it should: saved, or before it could be caught or after there was need to."""
    if set(statuses) == {EXIT_STATUS}:
        return "saved; the same command goes on" in (folder / "said.txt").read_text()
    is_training = bool(list(folder.glob("checkpoints/step-*"))) and not (folder / "model").exists()
    return set(statuses) <= {EXIT_STATUS, 0, -signal.SIGTERM} and not (
        is_training and set(statuses) == {-signal.SIGTERM}
    )


def is_writing(folder: Path) -> bool:
    """Whether something half written lies in a folder; processes may be renaming while we look."""
    try:
        return any(p.name.startswith(".") and p.name != ".work" for p in folder.rglob("*"))
    except FileNotFoundError:
        return True


def cut_short(folder: Path, rng: random.Random) -> None:
    """Cut the one to three newest files of a folder to a random length, as if they had not reached the disk."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "said.txt"]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)[-rng.randint(1, 3) :]:
        with path.open("r+b") as file:
            file.truncate(rng.randrange(path.stat().st_size + 1))


def compare(work: Work, kills: int, seed: int) -> dict[str, Any]:
    """Do a work with and without faults until so many have happened; what came of it, and how long it took.

    Raises:
        AssertionError: With faults something else is left in the end than without.
    """
    rng, counts, inside = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        begun = time.perf_counter()
        if any(wait(start(work, whole, None))):
            raise AssertionError(f"{work.name}: fails without a fault:\n{(whole / 'said.txt').read_text()[-3000:]}")
        usual = time.perf_counter() - begun
        expected, runs = work.outcome(whole), 0
        begun = time.perf_counter()
        while counts.total() < kills:
            folder = Path(scratch) / f"run{runs}"
            folder.mkdir()
            runs += 1
            for _ in range(rng.randint(1, MAX_FAULTS)):
                fault = rng.choice([f for f in FAULTS if f != "SIGTERM" or work.name == "train"])
                children = start(work, folder, fault)
                time.sleep(rng.uniform(0, usual))
                inside += is_writing(folder)
                statuses = strike(children, folder, fault, rng)
                if fault == "SIGTERM" and not _is_stop(statuses, folder):
                    raise AssertionError(f"SIGTERM: {statuses}\n{(folder / 'said.txt').read_text()[-3000:]}")
                counts[fault] += 1
            if any(wait(start(work, folder, None))):
                raise AssertionError(f"{work.name}: does not go on:\n{(folder / 'said.txt').read_text()[-3000:]}")
            found = work.outcome(folder)
            if differs := [name for name in expected if found[name] != expected[name]]:
                raise AssertionError(f"{work.name}: {differs} differ after {dict(counts)}, seed {seed}, {folder}")
            shutil.rmtree(folder)
        return {
            "work": work.name,
            "processes": work.ranks,
            "faults": dict(counts),
            "while writing": inside,
            "runs": runs,
            "seconds": round(time.perf_counter() - begun, 1),
        }


def adapted_model(corpus: Corpus, folder: Path) -> Path:
    """A model of animal03, made in a process of its own: this one must not have used a thread pool before it forks."""

    def do(folder: Path) -> object:
        from foundation.checkpoint import load_model

        work = training(corpus, 1)
        work.do(folder / "base")
        quick = ReadoutConfig(coupling_penalties=[1000.0], penalties=[100.0], groups=3)
        config = replace(FinetuneConfig(steps=4, windows_per_step=8, val_every=2), readout=quick)
        base = load_model(folder / "base")
        return finetune(base, corpus, ["animal03"], folder / "new", config, Config().objective, base_path="")

    if any(wait(start(Work("adapt", do, lambda _: {}), folder, None))):
        raise AssertionError(f"cannot adapt:\n{(folder / 'said.txt').read_text()[-3000:]}")
    return folder / "new"


def main() -> None:
    """Run what is asked for, print a line each, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--what", nargs="+", choices=("train", "prepare", "evaluate"), default=["train"])
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        corpus = open_or_prepare("synthetic", Path(scratch) / "corpus", **SIZES)
        works = [training(corpus, ranks) for ranks in a.processes] if "train" in a.what else []
        works += [preparing()] if "prepare" in a.what else []
        if "evaluate" in a.what:
            (Path(scratch) / "adapted").mkdir()
            works.append(evaluating(corpus, adapted_model(corpus, Path(scratch) / "adapted")))
        for work in works:
            found.append(compare(work, a.kills, a.seed))
            print(found[-1], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
