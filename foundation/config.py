"""The whole configuration of a run: dataclasses owned by their modules. The run folder holds the resolved answer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from foundation.channels import DataConfig
from foundation.finetune import FinetuneConfig
from foundation.model_config import ModelConfig
from foundation.objectives import ObjectiveConfig
from foundation.optim import OptimConfig
from foundation.strict_yaml import from_dict, read_yaml
from foundation.train import TrainConfig


@dataclass
class Config:
    """Everything a run depends on.

    Attributes:
        name: Of the run; its folder is `runs/<name>` unless `out` says otherwise.
        out: Run folder.
        seed: Of weights, batches and masks.
        data: Recordings and windows.
        model: Size and layout.
        objective: Losses and masking.
        optim: Rates.
        train: Loop.
        finetune: Adaptation to new animals.
    """

    name: str = "run"
    out: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out or f"runs/{self.name}")


def load_config(
    path: str | Path | None, overrides: list[str] | None = None, start: dict[str, Any] | None = None
) -> Config:
    """Read a YAML file and apply `section.field=value` overrides.

    Args:
        path: The file; None for `start`.
        overrides: Applied last.
        start: What a model remembers of its config, by section.

    Raises:
        ValueError: Unknown key or wrong value, naming the key and what it accepts.
    """
    return from_dict(Config, read_yaml(path, overrides, start))


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
