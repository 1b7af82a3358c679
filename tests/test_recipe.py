"""`prepare`: does each session once, does it again when something changed, and survives the sessions that fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_recipes import recipe as recipe_module
from data_recipes.recipe import RECIPES, open_or_prepare, prepare
from foundation.corpus import Corpus
from foundation.recording import Recording

Tiny = Callable[..., Recording]
SMALL = {"num_subjects": 3, "num_units": 8, "num_trials": 10}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fake(tiny_recording: Tiny, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A recipe named `fake` whose sessions are made by `fake.made[session]()`."""
    module = ModuleType("fake_recipe")
    module.VERSION = 1  # type: ignore[attr-defined]
    module.made = {name: lambda name=name: tiny_recording(session=name) for name in ("a", "b", "c")}  # type: ignore[attr-defined]

    def sessions(source: Path | None, *, gain: float = 1.0) -> dict[str, dict[str, Any]]:
        return {f"tiny/{name}": {"name": name, "gain": gain} for name in module.made}

    module.sessions = sessions  # type: ignore[attr-defined]
    module.read = lambda name, gain: module.made[name]()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_recipe", module)
    monkeypatch.setitem(RECIPES, "fake", "fake_recipe")
    return module


def test_what_is_done_is_left_alone(tmp_path: Path) -> None:
    first = prepare("synthetic", None, tmp_path, options=SMALL)
    assert first.written == [f"synthetic/animal{i:02d}_0" for i in range(3)]
    before = content(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "recordings").rglob("*")}
    second = prepare("synthetic", None, tmp_path, options=SMALL)
    assert second.written == []
    assert second.skipped == first.written
    assert content(tmp_path) == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "recordings").rglob("*")}
    more = prepare("synthetic", None, tmp_path, options=SMALL | {"num_subjects": 4})
    assert more.written == ["synthetic/animal03_0"]
    assert len(Corpus.open(tmp_path, verify=True)) == 4


def test_other_options_prepare_again(tmp_path: Path) -> None:
    prepare("synthetic", None, tmp_path, options=SMALL)
    assert len(prepare("synthetic", None, tmp_path, options=SMALL | {"seed": 1}).written) == 3
    again = open_or_prepare("synthetic", tmp_path / "direct", **(SMALL | {"seed": 1}))
    assert content(tmp_path / "recordings") == content(again.path / "recordings")


def test_parallel_equals_serial_byte_for_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare("synthetic", None, tmp_path / "serial", options=SMALL)
    done = prepare(
        "synthetic",
        None,
        tmp_path / "parallel",
        options=SMALL,
        workers=2,
        on_session=lambda recording_id, number, total: seen.append((number, total)),
    )
    assert sorted(done.written) == [f"synthetic/animal{i:02d}_0" for i in range(3)]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert content(tmp_path / "serial") == content(tmp_path / "parallel")


def test_failed_sessions_are_listed_and_leave_nothing(fake: Any, tiny_recording: Tiny, tmp_path: Path) -> None:
    def unreadable() -> Recording:
        raise OSError("no such probe")

    fake.made["a"] = unreadable
    fake.made["b"] = lambda: replace(tiny_recording(session="b"), spike_times=-tiny_recording().spike_times)
    fake.made["d"] = lambda: tiny_recording(session="e")
    prepared = prepare("fake", None, tmp_path)
    assert prepared.written == ["tiny/c"]
    assert set(prepared.failed) == {"tiny/a", "tiny/b", "tiny/d"}
    assert prepared.failed["tiny/a"] == "OSError: no such probe"
    assert "spike_times: got a negative time" in prepared.failed["tiny/b"]
    assert "'tiny/e'" in prepared.failed["tiny/d"]
    assert [path.name for path in (tmp_path / "recordings" / "tiny").iterdir()] == ["c"]
    assert Corpus.open(tmp_path, verify=True).ids == ["tiny/c"]
    fake.made["a"] = lambda: tiny_recording(session="a")
    again = prepare("fake", None, tmp_path)
    assert (again.written, again.skipped, sorted(again.failed)) == (["tiny/a"], ["tiny/c"], ["tiny/b", "tiny/d"])


def test_nothing_but_failures_makes_no_corpus(fake: Any, tmp_path: Path) -> None:
    def unreadable() -> Recording:
        raise OSError("no such probe")

    fake.made = dict.fromkeys(fake.made, unreadable)
    assert len(prepare("fake", None, tmp_path).failed) == 3
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(ValueError, match="no such probe"):
        open_or_prepare("fake", tmp_path)


def test_a_new_version_or_a_damaged_stamp_prepares_again(fake: Any, tmp_path: Path) -> None:
    prepare("fake", None, tmp_path)
    assert prepare("fake", None, tmp_path).written == []
    fake.VERSION = 2
    assert len(prepare("fake", None, tmp_path).written) == 3
    (tmp_path / "recordings" / "tiny" / "a" / "prepared.json").write_text("{")
    (tmp_path / "recordings" / "tiny" / "b" / "prepared.json").unlink()
    assert prepare("fake", None, tmp_path).written == ["tiny/a", "tiny/b"]


def test_interrupt_leaves_whole_recordings(fake: Any, tiny_recording: Tiny, tmp_path: Path) -> None:
    def interrupted() -> Recording:
        raise KeyboardInterrupt

    fake.made["b"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        prepare("fake", None, tmp_path)
    fake.made["b"] = lambda: tiny_recording(session="b")
    rest = prepare("fake", None, tmp_path)
    assert (rest.skipped, rest.written) == (["tiny/a"], ["tiny/b", "tiny/c"])
    assert len(Corpus.open(tmp_path, verify=True)) == 3


def test_unknown_names_are_refused(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe 'synthetik'; there are .*'synthetic'"):
        prepare("synthetik", None, tmp_path)
    with pytest.raises(ValueError, match=r"no option \['gian'\]; it has \['gain'\]"):
        prepare("fake", None, tmp_path, options={"gian": 2})
    fake.made = {}
    with pytest.raises(ValueError, match="found no session"):
        prepare("fake", None, tmp_path)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_keeps_the_protocol(name: str) -> None:
    module = recipe_module.recipe_module(name)
    assert isinstance(module.VERSION, int)
    assert module.sessions.__doc__
    assert module.read.__doc__
