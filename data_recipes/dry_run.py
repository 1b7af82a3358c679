"""What `prepare` would do and about what it would cost, as text; reads no spikes and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data_recipes.recipe import list_sessions, recipe_module
from data_recipes.sources import Plan
from data_recipes.stamps import Cost, is_current, read_cost
from foundation.claims import holder

# Used until a session of the recipe is in the corpus.
MEASURED = Cost(seconds=3.5, bytes_read=248_600_000, bytes_written=249_400_000)
MEASURED_ON = "20 million spikes in an .npz file on a local disk, one core, November 2026; without downloads"


@dataclass(frozen=True)
class Estimate:
    """What is still to come.

    Attributes:
        seconds: With all workers.
        bytes_written: Room on disk.
        basis: What the figures rest on.
    """

    seconds: float
    bytes_written: float
    basis: str


def describe(
    recipe: str,
    source: str | Path | None,
    out: str | Path,
    *,
    options: dict[str, Any] | None = None,
    workers: int = 1,
    limit: int | None = None,
) -> str:
    """One line per session (size, state, what is present and missing), totals, and an estimate of time and disk.

    A recipe without `plan` only lists ids and states.

    Raises:
        ValueError: Unknown recipe or option, or a source that holds no session.
    """
    module, out = recipe_module(recipe), Path(out)
    jobs = list_sessions(recipe, source, options or {}, limit)
    lines, states, plans = [], {}, {}
    for recording_id, arguments in jobs.items():
        states[recording_id] = _state(out, recording_id, module, arguments)
        line = f"  {recording_id}  {states[recording_id]}"
        if hasattr(module, "plan"):
            try:
                plans[recording_id] = module.plan(**arguments)
                line += _plan_text(plans[recording_id])
            except (ValueError, OSError, KeyError) as error:
                line += f"  cannot be planned ({error})"
        lines.append(line)
    todo = [recording_id for recording_id in jobs if states[recording_id] != "done"]
    lines.append(
        f"{len(jobs)} sessions, {_size(sum(plan.size_bytes for plan in plans.values()))} to read: "
        f"{len(jobs) - len(todo)} done, {len(todo)} to do"
        if plans
        else f"{len(jobs)} sessions: {len(jobs) - len(todo)} done, {len(todo)} to do"
    )
    if todo:
        costs = [cost for key in jobs if (cost := read_cost(out, key, module)) is not None]
        estimate = estimate_cost([plans[key].size_bytes if key in plans else None for key in todo], costs, workers)
        lines.append(
            f"about {_duration(estimate.seconds)} with {workers} workers and {_size(estimate.bytes_written)} on disk "
            f"(from {estimate.basis})"
            if estimate
            else "no estimate: the recipe gives no sizes; prepare a few with --limit and ask again"
        )
    return "\n".join(lines)


def estimate_cost(sizes: list[int | None], costs: list[Cost], workers: int) -> Estimate | None:
    """Time and disk for sessions of these sizes (None when not known).

    In proportion to size by the sessions already prepared, else in proportion to their number, else by `MEASURED`.
    Sessions run in parallel, but none is split: the time is at least that of the largest.

    Returns:
        None when neither sizes nor prepared sessions are known.
    """
    known = [cost for cost in costs if cost.bytes_read]
    basis = costs
    if known or (not costs and any(sizes)):
        basis = known or [MEASURED]
        read = sum(cost.bytes_read for cost in basis)
        # A session whose size is not known counts as a mean one.
        given = [float(size) for size in sizes if size]
        mean = sum(given) / len(given) if given else read / len(basis)
        amounts = np.array([float(size or mean) for size in sizes]) / read
    elif costs:
        amounts = np.full(len(sizes), 1 / len(basis))
    else:
        return None
    seconds = amounts * sum(cost.seconds for cost in basis)
    return Estimate(
        seconds=max(float(seconds.sum()) / max(1, min(workers, len(sizes))), float(seconds.max())),
        bytes_written=float(amounts.sum()) * sum(cost.bytes_written for cost in basis),
        basis=f"{len(basis)} sessions prepared here" if costs else MEASURED_ON,
    )


def _state(out: Path, recording_id: str, module: ModuleType, arguments: dict[str, Any]) -> str:
    if is_current(out, recording_id, module, arguments):
        return "done"
    if (who := holder(out / "claims", recording_id)) is not None:
        return f"being prepared by {who}"
    return "changed" if (out / "recordings" / recording_id).exists() else "to do"


def _plan_text(plan: Plan) -> str:
    text = f"  {_size(plan.size_bytes)}"
    if plan.present:
        text += f"  {', '.join(plan.present)}"
    if plan.missing:
        text += f"  missing: {', '.join(plan.missing)}"
    return text


def _size(num_bytes: float) -> str:
    power = 0 if num_bytes < 1 else min(4, int(np.log10(num_bytes)) // 3)
    return f"{num_bytes / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
