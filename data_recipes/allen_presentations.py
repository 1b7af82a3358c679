"""Presentation tables of the Allen Neuropixels sessions as covariates in time; opens no file.

A value holds from the start of its presentation to the end; there a sample that is not observed keeps it from being
carried on. Tables of one stimulus are joined: `natural_movie_one_more_repeats` is `natural_movie_one`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_recipes.allen_stimuli import (
    ACTIVE,
    CHANGE,
    HELD,
    IMAGE,
    NUM_IMAGES,
    OMISSION,
    STIMULUS,
    STIMULUS_NAMES,
    Held,
    stimulus_of,
)
from data_recipes.cleaning import Tally, check_clock, numbers, series
from foundation.recording import Covariate, CovariateSpec

COLUMNS = {"start_time", "stop_time", "image_name", "is_change", "omitted", "active"}.union(*(h.columns for h in HELD))
# Stops and starts this near belong together (a tenth of a frame of the monitor), and presentations of one stimulus
# this near to one block (images flash every 0.75 s).
_SAME_S, _BLOCK_S = 0.002, 2.0


def image_number(name: object) -> int:
    """Class of an image name such as "im065_r" (65); -1 for "omitted", missing and unknown names."""
    found = re.match(r"im(\d{3})(?!\d)", str(name))
    return int(found[1]) if found and int(found[1]) < NUM_IMAGES else -1


def clean_presentations(
    where: str, tables: Mapping[str, pd.DataFrame], span: tuple[float, float], tally: Tally
) -> dict[str, pd.DataFrame]:
    """Presentations by stimulus, sorted by start.

    Rows without finite bounds, before 0 s, or that do not stop after their start are left out and counted; omitted
    images, which have no stop in some files, last the 0.25 s of the others.

    Args:
        where: Named in errors.
        tables: By name of the table without `_presentations`; columns of `COLUMNS` as far as present.
        span: First and last spike, s.
        tally: Counts.

    Raises:
        ValueError: The times of a table are on another clock.
    """
    joined: dict[str, list[pd.DataFrame]] = {}
    for name, table in tables.items():
        label = f"{where}: {name}_presentations"
        table = table.assign(**{column: numbers(label, table, column) for column in ("start_time", "stop_time")})
        check_clock(label, table["start_time"].to_numpy(), span)
        joined.setdefault(stimulus_of(name), []).append(table)
    out = {}
    for stimulus, parts in joined.items():
        table = pd.concat(parts, ignore_index=True)
        start, stop = table["start_time"].to_numpy(float), table["stop_time"].to_numpy(float)
        if "omitted" in table:
            stop = np.where(np.isnan(stop) & _true(table["omitted"]), start + 0.25, stop)
        finite = np.isfinite(start) & np.isfinite(stop)
        with np.errstate(invalid="ignore"):
            reasons = {"bounds not finite": ~finite, "before 0 s": start < 0, "stop not after start": stop <= start}
            kept = tally.keep(f"{stimulus} presentations", len(table), reasons)
        table = table.assign(stop_time=stop)[kept]
        tally.add(f"{stimulus} presentations out of order", int((table["start_time"].diff() < 0).sum()))
        out[stimulus] = table.sort_values("start_time", kind="stable", ignore_index=True)
    return {stimulus: table for stimulus, table in out.items() if len(table)}


def stimulus_covariates(where: str, presentations: Mapping[str, pd.DataFrame], tally: Tally) -> dict[str, Covariate]:
    """Every covariate that the presentations (of `clean_presentations`) give; see `HELD` and the specs above."""
    out = {}
    for held in HELD:
        table = presentations.get(held.stimulus)
        column = None if table is None else next((c for c in held.columns if c in table), None)
        if table is None:
            continue
        if column is None:
            tally.add(f"{held.stimulus} presentations without {held.columns[0]}", len(table))
            continue
        # The AllenSDK writes some of these numbers as text.
        found = pd.to_numeric(table[column].map(_scalar), errors="coerce").to_numpy(float)
        tally.add(f"{held.spec.name} samples out: not a number", int((np.isnan(found) & ~_blank(table[column])).sum()))
        values = _values(held, found, tally)
        if (values >= 0).any() if held.spec.num_classes else np.isfinite(values).any():
            out[held.spec.name] = hold(where, held.spec, *bounds(table), values, tally)
    images = presentations.get("natural_images")
    for column in ("image_name", "is_change", "active"):
        if images is not None and column not in images:
            tally.add(f"natural_images presentations without {column}", len(images))
    if images is not None and "image_name" in images:
        numbers = np.array([image_number(name) for name in images["image_name"]])
        omitted = _true(images["omitted"]) if "omitted" in images else (images["image_name"] == "omitted").to_numpy()
        tally.add("image samples out: no number in the name", int(((numbers < 0) & ~omitted).sum()))
        out["image"] = hold(where, IMAGE, *bounds(images), np.where(omitted, -1, numbers), tally)
        onsets = images["start_time"].to_numpy(float)
        if "is_change" in images:
            out["image_change"] = Covariate.events(CHANGE, onsets[_true(images["is_change"])])
        out["image_omission"] = Covariate.events(OMISSION, onsets[omitted])
        if "active" in images:
            start, stop = bounds(images)
            following = np.append(start[1:], np.inf)
            stop = np.where(following - stop < _BLOCK_S, following, stop)
            out["task_active"] = hold(where, ACTIVE, start, stop, _true(images["active"]).astype(int), tally)
    if presentations:
        out["stimulus_type"] = hold(where, STIMULUS, *blocks(presentations), tally)
    return out


def bounds(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops `(R,)` of a table, s."""
    return table["start_time"].to_numpy(float), table["stop_time"].to_numpy(float)


def blocks(presentations: Mapping[str, pd.DataFrame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, stops (s) and class in `STIMULUS_NAMES` of the blocks `(B,)` of one stimulus each, sorted."""
    starts, stops, kinds = [], [], []
    for stimulus, table in presentations.items():
        start, stop = bounds(table)
        first = np.flatnonzero(np.append(True, start[1:] - stop[:-1] > _BLOCK_S))
        starts.append(start[first])
        stops.append(stop[np.append(first[1:], len(stop)) - 1])
        kinds.append(np.full(len(first), STIMULUS_NAMES.index(stimulus)))
    start, stop, kind = np.concatenate(starts), np.concatenate(stops), np.concatenate(kinds)
    order = np.argsort(start, kind="stable")
    return start[order], stop[order], kind[order]


def hold(
    where: str, spec: CovariateSpec, start: np.ndarray, stop: np.ndarray, values: np.ndarray, tally: Tally
) -> Covariate:
    """A covariate whose value holds from each start to its stop, or to the next start if that is earlier.

    Args:
        where: Named in errors.
        spec: Scope `time`.
        start: `(R,)` seconds, sorted.
        stop: `(R,)` seconds.
        values: `(R,)` classes (-1 not observed) or reals (NaN not observed).
        tally: Counts.

    Returns:
        R samples at the starts, and one that is not observed at each stop that no start follows within 2 ms.
    """
    ends = np.append(start[1:] - stop[:-1] > _SAME_S, True)
    missing = -1 if spec.num_classes else np.nan
    times = np.concatenate([start, stop[ends]])
    values = np.concatenate([values, np.full(int(ends.sum()), missing)])
    order = np.argsort(times, kind="stable")
    return series(where, spec, times[order], values[order], tally)


def _values(held: Held, values: np.ndarray, tally: Tally) -> np.ndarray:
    """Classes (-1 not observed) or reals (NaN not observed) of a column; blank sweeps have NaN there."""
    spec = held.spec
    if not spec.num_classes:
        return values
    if held.levels:
        distance = np.abs(np.nan_to_num(values, nan=np.inf)[:, None] - np.array(held.levels))
        classes = np.where(distance.min(axis=1) < 1e-3, distance.argmin(axis=1), -1)
    else:
        whole = np.isfinite(values) & (values == np.round(values)) & (values >= 0) & (values < spec.num_classes)
        classes = np.where(whole, np.nan_to_num(values), -1).astype(np.int64)
        if spec.name == "natural_scene":
            classes[values == -1] = NUM_IMAGES
    tally.add(f"{spec.name} blank", int(np.isnan(values).sum()))
    tally.add(f"{spec.name} samples out: not a known class", int((np.isfinite(values) & (classes < 0)).sum()))
    return classes


def _scalar(value: object) -> object:
    """The value, or None for an array."""
    return value if np.ndim(value) == 0 else None  # type: ignore[arg-type]


def _blank(column: pd.Series) -> np.ndarray:
    """`(R,)` bool, where nothing was shown: NaN, or a word for it."""
    return (column.isna() | column.astype(str).str.lower().isin(["", "nan", "null", "none", "n/a"])).to_numpy()


def _true(column: pd.Series) -> np.ndarray:
    """`(R,)` bool of a column of booleans, or of numbers with NaN, as the AllenSDK writes booleans with gaps."""
    return (pd.to_numeric(column, errors="coerce").fillna(0) > 0).to_numpy()
