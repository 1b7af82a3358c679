"""Damaged and hostile files for every reader: each has to be read, or refused with a ValueError, within seconds.

    python -m benchmarks.fuzz TARGET... [--seconds 60] [--seed 0]        # mutations guided by coverage, with atheris
    python -m benchmarks.fuzz TARGET... --random 1000                    # without

An input is the number of a file of the target and its new content; the other files stay as they are. Starting points
are the files of a small valid folder. Anything but a ValueError or an OSError, a read that takes longer than ten
seconds, and more than 4 GiB of memory are findings; they are printed once per place and counted. `pip install atheris`
first: it is no dependency, and has no wheel for every Python.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SLOW_S = 10
MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class Target:
    """A reader and a folder that it reads.

    Attributes:
        folder: Valid files.
        files: Those of them that are changed, relative to the folder.
        read: Reads the folder.
    """

    folder: Path
    files: list[str]
    read: Callable[[Path], object]

    def seeds(self) -> list[bytes]:
        """The valid files as inputs."""
        return [bytes([k]) + (self.folder / name).read_bytes() for k, name in enumerate(self.files)]

    def run(self, data: bytes) -> None:
        """Read the folder with one file replaced, and put it back.

        Raises:
            Exception: What the reader raises, but for ValueError and OSError.
        """
        path = self.folder / self.files[data[0] % len(self.files) if data else 0]
        whole = path.read_bytes()
        try:
            path.write_bytes(data[1:])
            self.read(self.folder)
        except (ValueError, OSError):
            pass
        finally:
            path.write_bytes(whole)


def _config(root: Path) -> Target:
    shutil.copy(Path(__file__).parents[1] / "configs/ibl_allen.yaml", root / "a.yaml")
    shutil.copy(Path(__file__).parents[1] / "configs/luo2025_mtm.yaml", root / "b.yaml")

    def read(folder: Path) -> object:
        from foundation.config import load_config

        return [load_config(folder / name) for name in ("a.yaml", "b.yaml")]

    return Target(root, ["a.yaml", "b.yaml"], read)


def _mappings(root: Path) -> Target:
    configs = Path(__file__).parents[1] / "configs"
    sources = {"a": "arrays/steinmetz2019.yaml", "n": "nwb/head_direction.yaml", "b": "brainsets/brain_wide_bench.yaml"}
    for name, source in sources.items():
        shutil.copy(configs / source, root / f"{name}.yaml")

    def read(folder: Path) -> object:
        from data_recipes import arrays, brainsets, nwb

        readers = {"a": arrays.load_mapping, "n": nwb.load_mapping, "b": brainsets.load_mapping}
        for name, load in readers.items():
            load(folder / f"{name}.yaml")
        return None

    return Target(root, [f"{name}.yaml" for name in sources], read)


def _arrays(root: Path) -> Target:
    import numpy as np

    rng, start = np.random.default_rng(0), np.arange(20) * 2.0
    np.savez(
        root / "mine.npz",
        subject="mouse1",
        spike_times=np.sort(rng.uniform(0, 40, 300)),
        spike_units=rng.integers(0, 4, 300),
        trial_start_s=start,
        trial_stop_s=start + 1,
        behavior_choice=rng.integers(0, 2, 20),
        behavior_speed=rng.normal(size=400),
        behavior_speed_times=np.arange(400) * 0.1,
        region=np.array(["CA1", "", "TH", "CA1"]),
    )

    def read(folder: Path) -> object:
        from data_recipes import arrays

        return [arrays.read(**job) for job in arrays.sessions(folder / "mine.npz").values()]

    return Target(root, ["mine.npz"], read)


def _recording(root: Path) -> Target:
    from data_recipes.recipe import open_or_prepare

    corpus = open_or_prepare("synthetic", root / "corpus", num_subjects=1, num_units=8, num_trials=6)
    folder = corpus.folder(corpus.ids[0])
    files = [str(path.relative_to(root)) for path in sorted((root / "corpus").rglob("*")) if path.is_file()]

    def read(root: Path) -> object:
        from foundation.corpus import Corpus
        from foundation.recording_folder import read_recording

        read_recording(folder)  # as `prepare` and `doctor` do, whatever the hashes say
        return [Corpus.open(root / "corpus")[key] for key in Corpus.open(root / "corpus").ids]

    return Target(root, files, read)


def _prediction(root: Path) -> Target:
    import numpy as np

    from eval.predictions import Prediction, write_prediction

    arrays = {"trial": np.arange(9), "bin": np.arange(9), "unit": np.arange(3), "rate": np.ones((9, 3))}
    write_prediction(root / "a.npz", Prediction("encode", "m", "d", "s", "interleaved", 0, 20.0, arrays))
    logits = {"trial": np.arange(9), "logit": np.zeros(9)}
    write_prediction(root / "b.npz", Prediction("choice", "m", "d", "s", "interleaved", 0, 20.0, logits))

    def read(folder: Path) -> object:
        from eval.predictions import read_prediction

        return [read_prediction(folder / name) for name in ("a.npz", "b.npz")]

    return Target(root, ["a.npz", "b.npz"], read)


def _model(root: Path) -> Target:
    _tiny_run(root)
    files = [str(path.relative_to(root)) for path in sorted((root / "run/model").rglob("*")) if path.is_file()]

    def read(folder: Path) -> object:
        from foundation.checkpoint import load_model

        return load_model(folder / "run/model")

    return Target(root, [name for name in files if not name.endswith("README.md")], read)


def _checkpoint(root: Path) -> Target:
    _tiny_run(root)
    files = [str(path.relative_to(root)) for path in sorted((root / "run/checkpoints").rglob("*")) if path.is_file()]

    def read(folder: Path) -> object:
        from foundation.checkpoint import last_checkpoint

        return last_checkpoint(folder / "run")

    return Target(root, files, read)


def _state(root: Path) -> Target:
    """The pickle-free state of a checkpoint, its hash made to fit."""
    _tiny_run(root)
    newest = max((root / "run/checkpoints").glob("step-*"))

    def read(folder: Path) -> object:
        from foundation.checkpoint import last_checkpoint
        from foundation.durable import sha256_of

        path = newest / "checkpoint.json"
        about = json.loads(path.read_text())
        about["files"]["state.pt"] = sha256_of(newest / "state.pt")
        path.write_text(json.dumps(about))
        return last_checkpoint(folder / "run")

    return Target(root, [str((newest / "state.pt").relative_to(root))], read)


def _tiny_run(root: Path) -> None:
    from data_recipes.recipe import open_or_prepare
    from foundation.channels import DataConfig
    from foundation.config import Config
    from foundation.model_config import ModelConfig
    from foundation.pretrain import pretrain
    from foundation.train import TrainConfig

    corpus = open_or_prepare("synthetic", root / "corpus", num_subjects=2, num_units=8, num_trials=30)
    model = ModelConfig(width=8, depth=1, heads=2, feed_forward=8, private_rank=2)
    train = TrainConfig(steps=2, windows_per_step=4, val_every=1, val_windows=8, track=[])
    data = DataConfig(corpus=str(corpus.path), held_out=["animal01"], window_s=0.4)
    pretrain(Config(out=str(root / "run"), data=data, model=model, train=train))


def _results(root: Path) -> Target:
    from eval.results import ResultRow, write_results

    row = ResultRow("d", "a", "s", "interleaved", "choice", "m", "model", 0, 0, 0, "auc", "AUC", 0.5, 9)
    write_results(root, [row], {"title": "t"})

    def read(folder: Path) -> object:
        from eval.results import read_results

        return read_results(folder)

    return Target(root, ["results.parquet", "results.json"], read)


def _source(recipe: str, root: Path) -> Target:
    """A session of a minute or less in the files of a source."""
    from benchmarks import session_files

    write = {
        "nwb": session_files.write_nwb,
        "brainsets": session_files.write_brainsets,
        "allen": session_files.write_allen,
        "ibl": session_files.write_ibl,
    }[recipe]
    (root / "source").mkdir()
    write(root / "source", 1.0 if recipe in ("ibl", "allen") else 0.4, 4)
    files = [str(path.relative_to(root)) for path in sorted((root / "source").rglob("*")) if path.is_file()]

    def read(folder: Path) -> object:
        from data_recipes.recipe import list_sessions, recipe_module

        jobs = list_sessions(recipe, folder / "source", {})
        return [recipe_module(recipe).read(**job) for job in jobs.values()]

    return Target(root, files, read)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "config": _config,
    "mappings": _mappings,
    "arrays": _arrays,
    "recording": _recording,
    "prediction": _prediction,
    "results": _results,
    "model": _model,
    "checkpoint": _checkpoint,
    "state": _state,
    **{recipe: functools.partial(_source, recipe) for recipe in ("nwb", "brainsets", "allen", "ibl")},
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """An input with one to four random changes; the number of the file is kept."""
    body = bytearray(data[1:])
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(("flip", "byte", "cut", "insert", "repeat", "zero", "number"))
        at = rng.randrange(len(body) + 1)
        size = rng.randint(1, 16)
        if kind == "flip" and at < len(body):
            body[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and at < len(body):
            body[at] = rng.randrange(256)
        elif kind == "cut":
            del body[at : at + size if rng.random() < 0.8 else None]
        elif kind == "insert":
            body[at:at] = rng.randbytes(size)
        elif kind == "repeat":
            body[at:at] = body[max(0, at - size) : at] * rng.randint(1, 4)
        elif kind == "zero":
            body[at : at + size] = bytes(len(body[at : at + size]))
        elif kind == "number":
            big = rng.choice((0, 1, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            body[at : at + 8] = big.to_bytes(8, "little")
    return data[:1] + bytes(body)


class Findings:
    """What a reader must not raise, by the place in our code where it came from."""

    def __init__(self, run: Callable[[bytes], None]) -> None:
        self.run, self.count, self.inputs = run, collections.Counter[str](), 0

    def __call__(self, data: bytes) -> None:
        """Run one input; a finding is printed the first time."""
        self.inputs += 1
        signal.alarm(SLOW_S)
        try:
            self.run(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if f.filename.startswith(f"{ROOT}/") and f.filename != __file__]
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
            key = f"{type(error).__name__} at {place}"
            self.count[key] += 1
            if self.count[key] == 1:
                print(f"{key}: {str(error)[:300]} (input of {len(data)} bytes)", file=sys.stderr, flush=True)
        finally:
            signal.alarm(0)


def _too_slow(*_: Any) -> None:
    raise TooSlow(f"longer than {SLOW_S} s")


class TooSlow(Exception):
    """Not a TimeoutError, which is an OSError and would pass for a refusal."""


def fuzz(name: str, seconds: float, number: int, seed: int) -> dict[str, Any]:
    """Fuzz one target; with a `number` by random changes, else for so long by coverage, in a process of its own."""
    fast = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=fast) as scratch:
        (root := Path(scratch) / "root").mkdir()
        target = TARGETS[name](root)
        target.read(root)  # valid files are no finding, and imports no part of the first input's time
        signal.signal(signal.SIGALRM, _too_slow)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
        findings, begun = Findings(target.run), time.process_time()
        if number:
            rng, seeds = random.Random(seed), target.seeds()
            for data in seeds:
                findings(data)
            for _ in range(number):
                findings(mutated(rng.choice(seeds), rng))
        else:
            _guided(target, findings, seconds, seed, Path(scratch))
        used_s = time.process_time() - begun
    found = {"target": name, "inputs": findings.inputs, "cpu_s": round(used_s, 1), "findings": dict(findings.count)}
    print(json.dumps(found), flush=True)
    return found


def _guided(target: Target, findings: Findings, seconds: float, seed: int, scratch: Path) -> None:
    import atheris

    (seeds := scratch / "seeds").mkdir()
    for k, data in enumerate(target.seeds()):
        (seeds / f"{k}").write_bytes(data)
    end = time.process_time() + seconds
    largest = max(len(data) for data in target.seeds())

    def one(data: bytes) -> None:
        if time.process_time() > end:
            print(json.dumps({"inputs": findings.inputs, "findings": dict(findings.count)}), flush=True)
            shutil.rmtree(scratch, ignore_errors=True)
            os._exit(0)  # libFuzzer never returns
        findings(data)

    options = [
        sys.argv[0],
        f"-seed={seed + 1}",
        f"-max_len={2 * largest}",
        "-timeout=60",
        "-rss_limit_mb=0",
        str(seeds),
    ]
    atheris.Setup(options, one)
    atheris.Fuzz()


def main() -> None:
    """Fuzz the targets asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of each target")
    parser.add_argument("--random", type=int, default=0, help="so many random inputs of each target instead")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    for name in TARGETS if "all" in a.targets else a.targets:
        child = os.fork()  # a limit on memory is for good, and libFuzzer never returns
        if not child:
            if a.random:
                fuzz(name, 0, a.random, a.seed)
                os._exit(0)
            import atheris

            with atheris.instrument_imports(include=["foundation", "data_recipes", "eval"]):
                fuzz(name, a.seconds, 0, a.seed)
        print(f"{name}: {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)


if __name__ == "__main__":
    main()
