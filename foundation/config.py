"""The whole configuration of a run: dataclasses owned by their modules, strict YAML, dotted overrides.

Unknown keys, wrong types and bad values are errors that name the key; there is no interpolation and no inheritance
between files. The run folder holds the resolved answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from foundation.channels import DataConfig
from foundation.finetune import FinetuneConfig
from foundation.model_config import ModelConfig
from foundation.objectives import ObjectiveConfig
from foundation.optim import OptimConfig
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


def load_config(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply `section.field=value` overrides.

    Raises:
        ValueError: Unknown key or wrong value, naming the key and what it accepts.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise ValueError(f"config {path}: {error.strerror or error}; give the path of a YAML file") from None
        except yaml.YAMLError as error:
            raise ValueError(f"config {path}: not YAML ({_one_line(error)})") from None
    if not isinstance(raw, dict):
        raise ValueError(f"config {path}: got {type(raw).__name__}, expected sections such as 'data:' and 'model:'")
    for override in overrides or []:
        key, sign, value = override.partition("=")
        if not sign:
            raise ValueError(f"override {override!r}: expected section.field=value")
        try:
            _set(raw, key.split("."), yaml.safe_load(value), override)
        except yaml.YAMLError as error:
            raise ValueError(f"override {override!r}: not YAML ({_one_line(error)})") from None
    config = _build(Config, raw, "")
    assert isinstance(config, Config)
    return config


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _set(raw: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise ValueError(f"override {override!r}: {key!r} is a value, not a section")
    raw[keys[-1]] = value


def _build(cls: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"config {where or 'file'}: got {raw!r}, expected a section with keys")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    if unknown := sorted(str(key) for key in set(raw) - set(known)):
        raise ValueError(f"config {where or 'file'}: unknown key {unknown}; there are {known}")
    return cls(**{key: _convert(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in raw.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A YAML value as the annotated type; numbers written as strings ("1e-4") count as numbers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is typing.Literal:
        if value in args:
            return value
        raise ValueError(f"config {where}: got {value!r}, expected one of {list(args)}")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is list:
        if isinstance(value, list):
            return [_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    elif origin is dict:
        if isinstance(value, dict):
            return {str(key): _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                if math.isfinite(number := float(value)):
                    return number
    elif hint is str and isinstance(value, str):
        return value
    raise ValueError(f"config {where}: got {value!r}, expected {getattr(hint, '__name__', hint)}")
