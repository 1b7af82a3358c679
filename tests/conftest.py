"""Fixtures shared by all tests: the real data, a small synthetic corpus, and a factory of hand-made recordings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from data_recipes.recipe import open_or_prepare
from foundation.corpus import Corpus
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingInfo

if TYPE_CHECKING:  # tests that do without torch load none
    from foundation.model import FoundationModel
    from foundation.training_data import TrainingData

# pytest-xdist brings the parallelism. Also for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """One thread per test process; torch is not imported for tests that do without."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real recordings; the test is skipped where it does not exist."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("FOUNDATION_REAL_DATA", default))
    if not path.is_dir():
        pytest.skip(f"real recordings not found in {path}; set FOUNDATION_REAL_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def synthetic_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """4 animals, 1 session each, 12 to 30 units, 60 trials."""
    out = tmp_path_factory.mktemp("synthetic_corpus")
    return open_or_prepare("synthetic", out, num_subjects=4, num_units=20, num_trials=60, seed=1)


@pytest.fixture
def tiny_recording() -> Callable[..., Recording]:
    """`tiny_recording(**fields)`: 3 units, 40 trials of 0.5 s, every kind of covariate; fields replace what is made."""
    return _tiny_recording


def _tiny_recording(session: str = "rat1_a", subject: str = "rat1", seed: int = 0, **fields: Any) -> Recording:
    rng = np.random.default_rng(seed)
    num_trials, stop = 40, 40.0
    start = np.arange(num_trials) * 1.0 + 0.25
    times = np.sort(rng.uniform(0, stop, 1200))
    clock = np.arange(0, stop, 0.02)
    position = rng.normal(size=(len(clock), 2)).astype(np.float32)
    position[10:20] = np.nan
    specs = {
        "speed": CovariateSpec("speed", "continuous", "time", unit="m/s"),
        "position": CovariateSpec("position", "continuous", "time", dim=2, unit="m"),
        "state": CovariateSpec("state", "categorical", "time", num_classes=3),
        "lick": CovariateSpec("lick", "event", "time"),
        "choice": CovariateSpec("choice", "categorical", "trial", num_classes=2),
        "contrast": CovariateSpec("contrast", "continuous", "trial", role="stimulus"),
        "block": CovariateSpec("block", "categorical", "trial", num_classes=3, role="task"),
    }
    choice = rng.integers(0, 2, num_trials)
    choice[3] = -1
    covariates = {
        "speed": Covariate.continuous(specs["speed"], rng.normal(size=len(clock)), clock),
        "position": Covariate.continuous(specs["position"], position, clock),
        "state": Covariate.categorical(specs["state"], rng.integers(0, 3, 100), np.sort(rng.uniform(0, stop, 100))),
        "lick": Covariate.events(specs["lick"], rng.uniform(0, stop, 50)),
        "choice": Covariate.categorical(specs["choice"], choice),
        "contrast": Covariate.continuous(specs["contrast"], np.where(np.arange(num_trials) % 9, rng.normal(), np.nan)),
        "block": Covariate.categorical(specs["block"], rng.integers(0, 3, num_trials)),
    }
    made = {
        "info": RecordingInfo(f"tiny/{session}", subject, "test 1"),
        "spike_times": times,
        "spike_units": rng.integers(0, 3, len(times)).astype(np.int32),
        "units": pd.DataFrame({"unit_id": [f"tiny/{session}/p/{i}" for i in range(3)], "region": ["CA1", "", "VISp"]}),
        "trials": pd.DataFrame(
            {
                "start_s": start,
                "stop_s": start + 0.5,
                "usable": np.arange(num_trials) != 7,
                "source_index": np.arange(num_trials),
            }
        ),
        "domain": np.array([[0.0, 20.0], [20.0, stop]]),
        "covariates": covariates,
    }
    return Recording(**(made | fields))


@dataclass
class World:
    """The synthetic corpus as a small model sees it: channels, reader, windows; and models and batches on demand."""

    corpus: Corpus
    config: Any
    channels: list[Any]
    reader: Any
    data: Any

    def model(self, seed: int = 0, sessions: list[str] | None = None, **shape: Any) -> Any:
        """A fresh model of width 16 with rows for the sessions (default: all)."""
        from foundation.model import FoundationModel
        from foundation.model_config import ModelConfig
        from foundation.training_data import add_sessions

        small = ModelConfig(**{"width": 16, "depth": 1, "heads": 2, "feed_forward": 32, "private_rank": 3} | shape)
        model = FoundationModel.create(small, self.channels, self.config.bin_size_s, self.config.window_s, seed)
        add_sessions(model, self.data, self.corpus.ids if sessions is None else sessions, seed)
        return model.eval()

    def lively_model(self, seed: int = 0, **shape: Any) -> Any:
        """A model in which everything acts on everything: all parameters and rows moved by noise of 0.15."""
        import torch

        model = self.model(seed, **shape)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
        return model

    def batch(self, per_session: int = 2, sessions: list[str] | None = None) -> Any:
        """Train windows of the sessions, some cut short so that the batch is ragged in time."""
        from dataclasses import replace

        windows = []
        for recording_id in self.corpus.ids if sessions is None else sessions:
            for i, window in enumerate(self.data.train[recording_id][:per_session]):
                windows.append(replace(window, num_bins=max(3, window.num_bins - 7 * (i % 3))))
        return self.reader.batch(windows)


@pytest.fixture(scope="session")
def world(synthetic_corpus: Corpus) -> World:
    """Windows of 0.6 s (30 bins) of all four synthetic animals."""
    from foundation.channels import DataConfig, find_channels
    from foundation.sampling import WindowReader
    from foundation.splits import session_roles
    from foundation.training_data import training_data

    config = DataConfig(corpus=str(synthetic_corpus.path), window_s=0.6)
    channels = find_channels(synthetic_corpus, config, synthetic_corpus.ids)
    reader = WindowReader(synthetic_corpus, channels, config.bin_size_s)
    data = training_data(reader, synthetic_corpus.ids, config.window_s, session_roles)
    return World(synthetic_corpus, config, channels, reader, data)


@pytest.fixture(scope="session")
def training_alone() -> Callable[[], AbstractContextManager[None]]:
    """A context in which pretraining ends with training: the prior and the fingerprints cost ten times as much."""

    @contextmanager
    def alone() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("learn_population", "learn_fingerprints"):
                patch.setattr(f"foundation.pretrain.{name}", lambda *_, **__: None)
            yield

    return alone


@pytest.fixture
def only_training(training_alone: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """For tests that ask of nothing but training."""
    with training_alone():
        yield


@pytest.fixture
def forked() -> Callable[..., None]:
    """`forked(do, folder, expected=0)` does something in two ranks forked from here, which costs no imports."""
    from benchmarks.faults import Work, start, wait

    def run(do: Callable[[Path], object], folder: Path, expected: int = 0) -> None:
        folder.mkdir()
        statuses = wait(start(Work("forked", do, lambda _: {}, 2), folder, None))
        assert statuses == [expected, expected], (folder / "said.txt").read_text()[-3000:]

    return run


@pytest.fixture
def break_windows(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], bool], float], None]:
    """`break_windows(is_broken, value)` puts a value that no recording can hold into the covariates of some windows."""
    from foundation.sampling import WindowReader

    original = WindowReader.batch

    def break_some(is_broken: Callable[[Any], bool], value: float) -> None:
        def batch(self: WindowReader, chosen: list[Any]) -> Any:
            made = original(self, chosen)
            for b, window in enumerate(made.windows):
                if is_broken(window):
                    made.covariates[b, 0] = value
            return made

        monkeypatch.setattr(WindowReader, "batch", batch)

    return break_some


@pytest.fixture(scope="session")
def tiny_run(synthetic_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a small model pretrained for 30 steps on animals 00 to 02; animal03 is held out."""
    from foundation.channels import DataConfig
    from foundation.config import Config
    from foundation.model_config import ModelConfig
    from foundation.pretrain import pretrain
    from foundation.train import TrainConfig

    folder = tmp_path_factory.mktemp("tiny_run") / "run"
    config = Config(
        out=str(folder),
        data=DataConfig(corpus=str(synthetic_corpus.path), held_out=["animal03"], window_s=0.6),
        model=ModelConfig(width=16, depth=1, heads=2, feed_forward=32, private_rank=3),
        train=TrainConfig(steps=30, windows_per_step=16, windows_per_session=8, val_every=15, val_windows=48, track=[]),
    )
    pretrain(config)
    return folder


@pytest.fixture(scope="session")
def pretrained(tiny_run: Path) -> FoundationModel:
    """The model of `tiny_run`; read only."""
    from foundation.checkpoint import load_model

    return load_model(tiny_run).eval()


@pytest.fixture(scope="session")
def pretrained_data(pretrained: FoundationModel, synthetic_corpus: Corpus) -> TrainingData:
    """Its windows."""
    from foundation.sampling import WindowReader
    from foundation.splits import session_roles
    from foundation.training_data import training_data

    reader = WindowReader(synthetic_corpus, pretrained.channels, pretrained.config.bin_size_s)
    return training_data(reader, list(pretrained.readouts), pretrained.config.window_s, session_roles)
