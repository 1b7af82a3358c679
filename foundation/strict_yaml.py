"""Strict YAML into dataclasses, with dotted overrides; knows none of them.

Unknown keys, wrong types and bad values are errors that name the key; there is no interpolation and no inheritance
between files.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


def read_yaml(
    path: str | Path | None, overrides: list[str] | None = None, start: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The mapping in a YAML file (`None`: `start`, or an empty one) with `section.field=value` overrides applied.

    Raises:
        ValueError: The file cannot be read, is no YAML mapping, or an override is malformed.
    """
    raw: dict[str, Any] = copy.deepcopy(start or {})
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
            # Nothing behind the sign is an empty text; YAML would read null.
            _set(raw, key.split("."), yaml.safe_load(value) if value else "", override)
        except yaml.YAMLError as error:
            raise ValueError(f"override {override!r}: not YAML ({_one_line(error)})") from None
    return raw


def from_dict(cls: type[T], raw: Any, where: str = "") -> T:
    """A dataclass from plain values, checked against its annotations.

    Args:
        cls: The dataclass; its fields may be dataclasses themselves.
        raw: As from `read_yaml`.
        where: Dotted key of `raw`, for the messages.

    Raises:
        ValueError: Unknown key or wrong value, naming the key and what it accepts.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"config {where or 'file'}: got {raw!r}, expected a section with keys")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(typing.cast(type, cls))]
    if unknown := sorted(str(key) for key in set(raw) - set(known)):
        raise ValueError(f"config {where or 'file'}: unknown key {unknown}; there are {known}")
    return cls(**{key: _convert(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in raw.items()})


def _set(raw: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise ValueError(f"override {override!r}: {key!r} is a value, not a section")
    raw[keys[-1]] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A YAML value as the annotated type; numbers written as strings ("1e-4") count as numbers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
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
