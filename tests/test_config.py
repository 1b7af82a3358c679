"""Strict YAML: what is wrong is an error that names the key, what is right survives a dump."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.config import Config, dump_config, load_config


def fields(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted name and type of every field of a tree of dataclasses."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= fields(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = hint
    return found


FIELDS = fields(Config)


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(None) == load_config(tmp_path / "empty.yaml") == Config()


def test_a_dumped_config_loads_as_itself(tmp_path: Path) -> None:
    overrides = ["data.held_out=[T249, '007']", "model.layout=interleaved", "objective.masking.schemes={neural: 2}"]
    config = load_config(None, [*overrides, "finetune.readout.penalties=[1, 2.5]", "objective.covariates.choice=0.3"])
    assert config.data.held_out == ["T249", "007"]
    assert config.objective.masking.schemes == {"neural": 2.0}
    assert config.objective.covariates == {"choice": 0.3}
    assert config.finetune.readout.penalties == [1.0, 2.5]
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert dump_config(load_config(path)) == dump_config(config)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: {steps: 7, val_every: 3}\nseed: 4\n")
    config = load_config(tmp_path / "c.yaml", ["train.steps=9", "seed=5"])
    assert (config.train.steps, config.train.val_every, config.seed) == (9, 3, 5)


@pytest.mark.parametrize("text", ["1e-4", "'1e-4'", "1.0e-4", "0.0001"])
def test_numbers_that_yaml_reads_as_text_are_numbers(text: str) -> None:
    assert load_config(None, [f"optim.lr={text}"]).optim.lr == 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stpes=3", r"train.*unknown key.*stpes.*steps"),
        ("trian.steps=3", r"unknown key.*trian.*train"),
        ("train.steps=many", r"train\.steps.*'many'.*int"),
        ("train.steps=3.5", r"train\.steps.*3\.5.*int"),
        ("train.steps=true", r"train\.steps.*True.*int"),
        ("train=3", r"train.*section"),
        ("train.steps.more=3", r"train\.steps.*'more'.*int"),
        ("optim.lr=fast", r"optim\.lr.*'fast'.*float"),
        ("model.layout=stacked", r"model\.layout.*'stacked'.*fused"),
        ("model.learn_temperature=1", r"model\.learn_temperature.*bool"),
        ("data.held_out=T249", r"data\.held_out.*'T249'"),
        ("data.held_out=[1]", r"data\.held_out\[0\].*1.*str"),
        ("finetune.tracks=[frozen]", r"finetune\.tracks\[0\].*'frozen'.*adapter"),
        ("objective.masking.schemes={neurla: 1}", "no scheme.*neurla"),
        ("train.steps", "section.field=value"),
        ("data.subjects=[a", "data.subjects"),
        ("train.steps=0", r"train\.steps"),
        ("train.steps=-1", r"train\.steps"),
        ("train.windows_per_step=0", r"train\.windows_per_step"),
        ("train.windows_per_session=0", r"train\.windows_per_session"),
        ("train.val_every=0", r"train\.val_every"),
        ("train.log_every=0", r"train\.log_every"),
        ("train.workers=-1", r"train\.workers"),
        ("data.bin_size_s=0", r"data\.bin_size_s"),
        ("data.bin_size_s=.nan", r"data\.bin_size_s"),
        ("data.window_s=0.01", r"data\.window_s"),
        ("optim.lr=.nan", r"optim\.lr"),
        ("optim.row_lr=-0.1", r"optim\.row_lr"),
        ("optim.beta1=1.0", r"optim\.beta1"),
        ("model.width=0", r"model\.width"),
        ("model.heads=0", r"model\.heads"),
        ("model.dropout=1.5", r"model\.dropout"),
        ("model.temperature=0", r"model\.temperature"),
        ("objective.masking.bin_share=1.5", r"masking\.bin_share"),
        ("objective.masking.schemes={neural: .nan}", r"masking\.schemes"),
    ],
)
def test_what_is_wrong_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_config(None, [override])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "expected sections"), ("a: [1", "not YAML"), ("data: 3", "section")]
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ValueError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def of_type(hint: Any, value: Any) -> bool:
    """Whether a value is what an annotation says, bools being no numbers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in args
    if origin is list:
        return isinstance(value, list) and all(of_type(args[0], item) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(k, str) and of_type(args[1], v) for k, v in value.items())
    return type(value) is hint


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(FIELDS)), value=anything)
def test_any_value_is_refused_or_has_the_type_of_its_field(name: str, value: Any, tmp_path_factory: Any) -> None:
    """Malformed values never pass silently: each field holds its type or `load_config` raises ValueError."""
    raw: dict[str, Any] = {}
    section = raw
    *path, last = name.split(".")
    for key in path:
        section = section.setdefault(key, {})
    section[last] = value
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    try:
        file.write_text(yaml.safe_dump(raw))
    except yaml.YAMLError:
        return
    try:
        config: Any = load_config(file)
    except ValueError:
        return
    for key in name.split("."):
        config = getattr(config, key)
    assert of_type(FIELDS[name], config)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30))
def test_any_override_text_is_refused_or_understood(text: str) -> None:
    for override in (text, f"train.steps={text}", f"{text}=3", f"data.subjects={text}"):
        try:
            load_config(None, [override])
        except ValueError:
            continue
