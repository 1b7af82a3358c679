"""Which units are predicted from which: co-smoothing, and after MtM within a region and across regions.

`cosmooth`: a tenth of the units at a time from all others. `intra_region`: a tenth of a region from the rest of it.
`inter_region`: a whole region from all others, NeuroPaint's held-out area. Counts and region labels are read to say
which units are hidden; a label is no model's input. Fits nothing.

Sources: Zhang et al. 2024, "Towards a universal translator for neural dynamics" (MtM, arXiv 2407.14668);
NeuroPaint, arXiv 2510.11924.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from eval.session_view import SessionView

REGION_TASKS = ("intra_region", "inter_region")
UNIT_TASKS = ("cosmooth", *REGION_TASKS)
COSMOOTH_FOLDS, COSMOOTH_SHARE, COSMOOTH_TWIN = 5, 0.1, 0.2
# A region is predicted with at least so many units, those of a region in so many parts.
MIN_REGION_UNITS, INTRA_FOLDS = 5, 10


class UnitFold(NamedTuple):
    """Columns of `view.counts`: `held_out` are predicted from `inputs`; their twins are in neither."""

    held_out: np.ndarray
    inputs: np.ndarray


def unit_tasks(view: SessionView) -> tuple[str, ...]:
    """Those of `UNIT_TASKS` that a session has: co-smoothing takes two units, the others two regions of five units.

    Where all that a task of regions could read are twins of what it hides, the session does not have it.

    With a single region `intra_region` would be `cosmooth`, so that it needs a second one too.
    """
    if len(view.unit) < 2:
        return ()
    if len(predicted_regions(view)) < 2:
        return UNIT_TASKS[:1]
    return tuple(task for task in UNIT_TASKS if task == "cosmooth" or _folds(view, task))


def unit_folds(view: SessionView, task: str) -> list[UnitFold]:
    """Folds of a task; no unit is held out in two.

    A unit whose counts correlate above 0.2 in absolute value with a held-out unit's, over the full train rows, is taken
    from the inputs of that fold: the two may be one cell that the sorter split. Units of unknown region are neither
    predicted nor read in tasks of regions: they may be of the region in question.

    Args:
        view: The session.
        task: One of `UNIT_TASKS`.

    Raises:
        ValueError: No unit is left to be predicted, or none to be read.
    """
    if not (folds := _folds(view, task)):
        raise ValueError(
            f"{view.session}: {len(view.unit)} units in regions {sorted(set(view.region))} leave nothing to predict or "
            f"to read in {task}; leave the session out"
        )
    return folds


def held_out_units(view: SessionView, task: str) -> np.ndarray:
    """Columns of `view.counts` that a task predicts, in the order of its folds."""
    return np.concatenate([fold.held_out for fold in unit_folds(view, task)])


def predicted_regions(view: SessionView) -> list[str]:
    """Known regions with at least five units."""
    names, numbers = np.unique(view.region[view.region != ""], return_counts=True)
    return [str(name) for name in names[numbers >= MIN_REGION_UNITS]]


def permuted_regions(view: SessionView, seed: int) -> SessionView:
    """The control of the tasks of regions: the same session, its region labels dealt out anew among the same units.

    Every region keeps its number of units, so that what is read stays as much; only where it sits is lost. A gap
    between `intra_region` and `inter_region` that is one of regions is gone in this view.

    Args:
        view: The session.
        seed: Of the permutation.
    """
    inside = np.flatnonzero(np.isin(view.region, predicted_regions(view)))
    region = view.region.copy()
    region[inside] = np.random.default_rng(seed).permutation(region[inside])
    return replace(view, region=region)


def _folds(view: SessionView, task: str) -> list[UnitFold]:
    parts = {"cosmooth": _tenths, "intra_region": _within, "inter_region": _across}[task](view)
    twin = _twins(view) if parts else np.zeros((0, 0), bool)
    folds = [UnitFold(held, np.setdiff1d(read[~twin[held][:, read].any(axis=0)], held)) for held, read in parts]
    return [fold for fold in folds if len(fold.inputs)]


def _tenths(view: SessionView) -> list[tuple[np.ndarray, np.ndarray]]:
    """Held-out columns and those that may be read: five times another tenth of the view's (random) order."""
    units = np.arange(len(view.unit))
    num = max(1, round(COSMOOTH_SHARE * len(units)))
    return [(held, units) for k in range(COSMOOTH_FOLDS) if len(held := units[k * num : (k + 1) * num])]


def _within(view: SessionView) -> list[tuple[np.ndarray, np.ndarray]]:
    members = [np.flatnonzero(view.region == name) for name in predicted_regions(view)]
    return [(held, own) for own in members for held in np.array_split(own, min(INTRA_FOLDS, len(own)))]


def _across(view: SessionView) -> list[tuple[np.ndarray, np.ndarray]]:
    regions = predicted_regions(view)
    return [
        (np.flatnonzero(view.region == name), np.flatnonzero((view.region != name) & (view.region != "")))
        for name in regions
    ]


def _twins(view: SessionView) -> np.ndarray:
    """`(U, U)` bool: counts that correlate too much over the full train rows."""
    counts = view.counts[view.rows_in("train", full=True)].astype(float)
    spread = counts.std(axis=0)
    z = (counts - counts.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.asarray(np.abs(z.T @ z) / len(z) > COSMOOTH_TWIN)
