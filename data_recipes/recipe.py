"""What a recipe is, and `prepare`, which runs one over all sessions of a source.

A recipe is a module with two functions:

    sessions(source, **options) -> dict[str, dict]    recording_id -> keyword arguments of `read`; reads no spikes
    read(**arguments) -> Recording                    one session, whole

a constant `VERSION`, raised whenever `read` changes what it returns, and for sources that are large or far away

    plan(**arguments) -> Plan                         what one session would bring and cost, for a dry run

Many processes on many nodes may prepare one corpus at once: each session is claimed by one of them
(`foundation.claims`), and each adds to the manifest what it finds.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from data_recipes import RECIPES
from data_recipes.stamps import Cost, is_current, write_stamp
from foundation.claims import claim, holder, try_claim
from foundation.corpus import Corpus, write_manifest
from foundation.durable import CorpusError
from foundation.recording_folder import write_recording

# How often to look whether the sessions that others are at are done.
POLL_S = 5.0

# What became of a session, with the error when it failed.
Outcome = tuple[Literal["written", "elsewhere", "claimed", "failed"], str]
Jobs = dict[str, dict[str, Any]]


@dataclass
class Prepared:
    """What `prepare` did.

    Attributes:
        written: Recording ids.
        skipped: Those that were there already.
        elsewhere: Those that other processes prepared meanwhile.
        claimed: Those that others were still at, and who; only without `wait`.
        failed: The error of each that failed.
    """

    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    claimed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def recipe_module(name: str) -> ModuleType:
    """Import a recipe by name.

    Raises:
        ValueError: No recipe of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {sorted(RECIPES)}")
    return importlib.import_module(RECIPES[name])


def explain(name: str) -> str:
    """What a recipe reads and which `name=value` options it takes, from its own docstrings.

    Raises:
        ValueError: No recipe of that name.
    """
    module = recipe_module(name)
    options = [p for p in inspect.signature(module.sessions).parameters.values() if p.name != "source"]
    given = "  ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in options)
    parts = [inspect.getdoc(module), f"options: {given or 'none'}", inspect.getdoc(module.sessions)]
    return "\n\n".join(part for part in parts if part)


def list_sessions(recipe: str, source: str | Path | None, options: dict[str, Any], limit: int | None = None) -> Jobs:
    """The sessions of a source: recording ids and the arguments of `read`.

    Args:
        recipe: A key of `RECIPES`.
        source: Folder, file or URL.
        options: Keyword arguments of the recipe's `sessions`.
        limit: Only the first so many.

    Raises:
        ValueError: Unknown recipe or option, or a source that holds no session.
    """
    module = recipe_module(recipe)
    known = [p for p in inspect.signature(module.sessions).parameters if p != "source"]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"recipe {recipe!r} has no option {unknown}; it has {known}")
    # Whole paths, so that the same source named otherwise makes the same recordings.
    if source is not None:
        source = str(Path(source).resolve() if Path(source).exists() else source)
    jobs = module.sessions(source, **options)
    if not jobs:
        raise ValueError(f"recipe {recipe!r} found no session in {source}; see `foundation prepare {recipe} --options`")
    return dict(list(jobs.items())[:limit])


def prepare(
    recipe: str,
    source: str | Path | None,
    out: str | Path,
    *,
    options: dict[str, Any] | None = None,
    workers: int = 1,
    limit: int | None = None,
    wait: bool = True,
    on_session: Callable[[str, int, int], None] = lambda recording_id, done, total: None,
) -> Prepared:
    """Turn every session of a source into a recording of the corpus at `out`.

    Sessions that are there already, made by the same version of the recipe from the same arguments, are left alone. A
    session that fails leaves nothing behind and does not stop the others. One that another process is at, here or on
    another node, is passed over; at the end its process is waited for, or its work taken over should it have died.

    Args:
        recipe: A key of `RECIPES`.
        source: Folder, file or URL of the source; None for recipes that need none.
        out: Corpus folder, made when missing.
        options: Keyword arguments of the recipe's `sessions`.
        workers: Processes. Each holds one session at a time.
        limit: Only the first so many sessions.
        wait: Stay until the sessions that other processes are at are done.
        on_session: Called after each session with its id, the number done and the total.

    Returns:
        What became of each session.

    Raises:
        ValueError: Unknown recipe or option, or a source that holds no session.
    """
    module, out = recipe_module(recipe), Path(out)
    jobs = list_sessions(recipe, source, options or {}, limit)
    prepared = Prepared(skipped=[key for key, arguments in jobs.items() if is_current(out, key, module, arguments)])
    pending = {key: arguments for key, arguments in jobs.items() if key not in set(prepared.skipped)}
    todo, total, done = pending, len(pending), 0
    while todo:
        for recording_id, (kind, text) in _run(recipe, todo, out, workers):
            if kind == "claimed":
                continue
            pending.pop(recording_id)
            done += 1
            if kind == "failed":
                prepared.failed[recording_id] = text
            else:
                getattr(prepared, kind).append(recording_id)
            on_session(recording_id, done, total)
        todo = _next_free(pending, out) if wait else {}
    prepared.claimed = {key: holder(out / "claims", key) or "somebody" for key in pending}
    if prepared.written or prepared.skipped or prepared.elsewhere or Path(out, "manifest.json").exists():
        _write_whole_manifest(out)
    return prepared


def open_or_prepare(recipe: str, out: str | Path, **options: Any) -> Corpus:
    """Prepare a recipe that needs no source and open the corpus; for demos and tests."""
    prepared = prepare(recipe, None, out, options=options)
    if prepared.failed:
        raise ValueError(f"{recipe}: {prepared.failed}")
    return Corpus.open(out)


def _next_free(pending: Jobs, out: Path) -> Jobs:
    """Wait until at least one of the sessions that others were at is nobody's, and return those."""
    while pending:
        if free := {key: arguments for key, arguments in pending.items() if holder(out / "claims", key) is None}:
            return free
        time.sleep(POLL_S)
    return {}


def _run(recipe: str, pending: Jobs, out: Path, workers: int) -> Iterator[tuple[str, Outcome]]:
    if workers <= 1 or len(pending) <= 1:
        for recording_id, arguments in list(pending.items()):
            yield recording_id, _prepare_one(recipe, recording_id, arguments, out)
        return
    left = dict(pending)
    while left:
        for recording_id, outcome in _run_pool(recipe, dict(left), out, min(workers, len(left))):
            left.pop(recording_id)
            yield recording_id, outcome
        # A worker was killed, as a rule for memory, and took the pool with it. With fewer at a time there is more for
        # each; when the only one was killed, it was by the session that it had.
        if left and workers <= 1:
            recording_id = next(iter(left))
            left.pop(recording_id)
            yield recording_id, ("failed", "the process was killed; the session may need more memory than there is")
        workers //= 2
        workers = max(1, workers)


def _run_pool(recipe: str, pending: Jobs, out: Path, workers: int) -> Iterator[tuple[str, Outcome]]:
    """Outcomes as they come; those that a broken pool leaves without one are missing."""
    # Spawned, not forked: a parent that holds threads (Arrow's pool) must not be copied.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {}
        # A worker may die before all sessions are handed out.
        with contextlib.suppress(BrokenProcessPool):
            for key, args in pending.items():
                futures[pool.submit(_prepare_one, recipe, key, args, out)] = key
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                continue
            except Exception as error:
                yield futures[future], ("failed", f"{type(error).__name__}: {error}")
    finally:
        # After Ctrl-C the sessions that have not begun must not begin.
        pool.shutdown(cancel_futures=True)


def _prepare_one(recipe: str, recording_id: str, arguments: dict[str, Any], out: Path) -> Outcome:
    """Write one recording, if nobody else is at it."""
    try:
        held = try_claim(out / "claims", recording_id)
        if held is None:
            return "claimed", ""
        with held:
            module = recipe_module(recipe)
            if is_current(out, recording_id, module, arguments):
                held.done()
                return "elsewhere", ""
            started = time.perf_counter()
            recording = module.read(**arguments)
            if recording.info.recording_id != recording_id:
                raise ValueError(
                    f"`read` returned {recording.info.recording_id!r}, `sessions` promised {recording_id!r}"
                )
            if not held.is_held:
                return "claimed", ""
            folder = write_recording(out, recording, overwrite=True)
            size = module.plan(**arguments).size_bytes if hasattr(module, "plan") else 0
            written = sum(path.stat().st_size for path in folder.iterdir())
            cost = Cost(round(time.perf_counter() - started, 3), size, written)
            write_stamp(out, recording_id, module, arguments, cost)
            held.done()
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "written", ""


def _write_whole_manifest(out: Path) -> None:
    """Write the manifest, one process at a time: whoever is last has seen what all before it have written."""
    with claim(out / "claims", "manifest") as held:
        for attempt in range(5):
            try:
                write_manifest(out)
                break
            except CorpusError:
                if attempt == 4:
                    raise
                time.sleep(0.5)  # another process is replacing a recording at this moment
        held.done()
