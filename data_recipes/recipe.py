"""What a recipe is, and `prepare`, which runs one over all sessions of a source.

A recipe is a module with two functions:

    sessions(source, **options) -> dict[str, dict]    recording_id -> keyword arguments of `read`; reads no spikes
    read(**arguments) -> Recording                    one session, whole

a constant `VERSION`, raised whenever `read` changes what it returns, and for sources that are large or far away

    plan(**arguments) -> Plan                         what one session would bring and cost, for a dry run
"""

from __future__ import annotations

import importlib
import inspect
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from foundation.corpus import Corpus, write_atomic, write_manifest, write_recording

RECIPES = {
    "synthetic": "data_recipes.synthetic",
    "luo2025": "data_recipes.luo2025",
    "arrays": "data_recipes.arrays",
    "ibl": "data_recipes.ibl",
    "allen": "data_recipes.allen",
    "brainsets": "data_recipes.brainsets",
    "nwb": "data_recipes.nwb",
}


@dataclass
class Prepared:
    """What `prepare` did: recording ids written and left alone, and the error of each that failed."""

    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def recipe_module(name: str) -> ModuleType:
    """Import a recipe by name.

    Raises:
        ValueError: No recipe of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {sorted(RECIPES)}")
    return importlib.import_module(RECIPES[name])


def prepare(
    recipe: str,
    source: str | Path | None,
    out: str | Path,
    *,
    options: dict[str, Any] | None = None,
    workers: int = 1,
    on_session: Callable[[str, int, int], None] = lambda recording_id, done, total: None,
) -> Prepared:
    """Turn every session of a source into a recording of the corpus at `out`.

    Sessions that are there already, made by the same version of the recipe from the same arguments, are left alone. A
    session that fails leaves nothing behind and does not stop the others.

    Args:
        recipe: A key of `RECIPES`.
        source: Folder or file of the source; None for recipes that need none.
        out: Corpus folder, made when missing.
        options: Keyword arguments of the recipe's `sessions`.
        workers: Processes.
        on_session: Called after each session with its id, the number done and the total.

    Returns:
        What was written, skipped, and failed with which error.

    Raises:
        ValueError: Unknown recipe or option, or a source that holds no session.
    """
    module, out = recipe_module(recipe), Path(out)
    jobs = _list_sessions(module, recipe, source, options or {})
    prepared = Prepared()
    pending = {}
    for recording_id, arguments in jobs.items():
        if _stamp_path(out, recording_id).exists() and _is_current(out, recording_id, module, arguments):
            prepared.skipped.append(recording_id)
        else:
            pending[recording_id] = arguments
    for done, (recording_id, error) in enumerate(_run(recipe, pending, out, workers), start=1):
        if error is None:
            prepared.written.append(recording_id)
        else:
            prepared.failed[recording_id] = error
        on_session(recording_id, done, len(pending))
    if prepared.written or prepared.skipped or Path(out, "manifest.json").exists():
        write_manifest(out)
    return prepared


def open_or_prepare(recipe: str, out: str | Path, **options: Any) -> Corpus:
    """Prepare a recipe that needs no source and open the corpus; for demos and tests."""
    prepared = prepare(recipe, None, out, options=options)
    if prepared.failed:
        raise ValueError(f"{recipe}: {prepared.failed}")
    return Corpus.open(out)


def _list_sessions(
    module: ModuleType, recipe: str, source: str | Path | None, options: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    known = [p for p in inspect.signature(module.sessions).parameters if p != "source"]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"recipe {recipe!r} has no option {unknown}; it has {known}")
    jobs = module.sessions(None if source is None else str(source), **options)
    if not jobs:
        raise ValueError(f"recipe {recipe!r} found no session in {source}; see `foundation prepare {recipe} --help`")
    return dict(jobs)


def _run(recipe: str, pending: dict[str, dict[str, Any]], out: Path, workers: int) -> Iterator[tuple[str, str | None]]:
    if workers <= 1 or len(pending) <= 1:
        for recording_id, arguments in pending.items():
            yield recording_id, _prepare_one(recipe, recording_id, arguments, out)
        return
    # Spawned, not forked: a parent that holds threads (Arrow's pool) must not be copied.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(pending)), mp_context=context) as pool:
        futures = {pool.submit(_prepare_one, recipe, key, args, out): key for key, args in pending.items()}
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], future.result() if error is None else f"{type(error).__name__}: {error}"


def _prepare_one(recipe: str, recording_id: str, arguments: dict[str, Any], out: Path) -> str | None:
    """Write one recording; the error as text, or None."""
    try:
        module = recipe_module(recipe)
        recording = module.read(**arguments)
        if recording.info.recording_id != recording_id:
            raise ValueError(f"`read` returned {recording.info.recording_id!r}, `sessions` promised {recording_id!r}")
        write_recording(out, recording, overwrite=True)
        stamp = json.dumps(_stamp(module, arguments), sort_keys=True)
        write_atomic(_stamp_path(out, recording_id), stamp.encode())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _stamp(module: ModuleType, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe": module.__name__,
        "version": module.VERSION,
        "arguments": json.loads(json.dumps(arguments, default=str)),
    }


def _stamp_path(out: Path, recording_id: str) -> Path:
    return out / "recordings" / recording_id / "prepared.json"


def _is_current(out: Path, recording_id: str, module: ModuleType, arguments: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(_stamp_path(out, recording_id).read_text()) == _stamp(module, arguments))
    except ValueError:
        return False
