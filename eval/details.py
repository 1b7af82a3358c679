"""What stands behind the scores of a session, as tables: every unit, bins of calibration, other conventions, ceilings.

Made where scores are made, from the same rows and units; the report shows them and computes none. One Parquet file each
in the results folder, of the full-data tracks alone. Columns of all: `dataset, subject, session, split, task`, and

    units         model, seed, unit (position in the source), unit_id, region, spikes (in the scored test rows), bps,
                  baseline, baseline_bps: bits/spike against the train mean
    calibration   model, kind, seed, predicted, observed, number: bins of `eval.calibration` that hold a test trial
    conventions   model, kind, seed, name, value, num_units, meaning: `eval.conventions`, in the units that are scored
    ceilings      metric, value, num_units: `eval.ceilings`, in the same rows and units
    paired        model, seed, baseline, metric, difference, low, high, blocks: `eval.paired_trials`, against the
                  strongest baseline on the same test trials
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval import metrics
from eval.baselines import Baseline, strongest
from eval.calibration import calibration_curve
from eval.ceilings import oracle_rates, psth_ceiling_of_units
from eval.conventions import conventions
from eval.paired_trials import paired_trials
from eval.predictions import LABEL_TASKS, RATE_TASKS, Prediction
from eval.psth import Cells
from eval.scoring import ScoredRates, scored_rates, scored_values
from eval.scoring import conditions as conditions_of
from eval.session_view import SessionView
from foundation.durable import write_atomic

# As JSON: table to column to values.
Plain = dict[str, dict[str, list[Any]]]


@dataclass(frozen=True)
class Details:
    """The tables; any may be empty, without columns."""

    units: pd.DataFrame = field(default_factory=pd.DataFrame)
    calibration: pd.DataFrame = field(default_factory=pd.DataFrame)
    conventions: pd.DataFrame = field(default_factory=pd.DataFrame)
    ceilings: pd.DataFrame = field(default_factory=pd.DataFrame)
    paired: pd.DataFrame = field(default_factory=pd.DataFrame)

    def plain(self) -> Plain:
        """As JSON can hold it."""
        return {name: {str(c): table[c].tolist() for c in table} for name, table in self._tables()}

    def of_task(self, dataset: str, task: str) -> Details:
        """The lines of one task."""

        def part(table: pd.DataFrame) -> pd.DataFrame:
            return table[(table["dataset"] == dataset) & (table["task"] == task)] if len(table) else table

        return Details(**{name: part(table) for name, table in self._tables()})

    def write(self, folder: Path) -> None:
        """Write one Parquet file per table, in place of any that is there."""
        for name, table in self._tables():
            sink = io.BytesIO()
            table.to_parquet(sink, index=False)
            write_atomic(folder / f"{name}.parquet", sink.getvalue())

    def _tables(self) -> list[tuple[str, pd.DataFrame]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self)]


def joined(parts: Iterable[Plain]) -> Details:
    """The tables of many pieces of work put together, in their order."""
    tables: dict[str, list[pd.DataFrame]] = {f.name: [] for f in fields(Details)}
    for part in parts:
        for name, columns in part.items():
            tables[name].append(pd.DataFrame(columns))
    held = {name: [table for table in each if len(table)] for name, each in tables.items()}
    return Details(**{name: pd.concat(each, ignore_index=True) for name, each in held.items() if each})


def read_details(folder: str | Path) -> Details:
    """Read what `Details.write` wrote; a table that is not there is empty."""
    paths = {f.name: Path(folder) / f"{f.name}.parquet" for f in fields(Details)}
    return Details(**{name: pd.read_parquet(path) for name, path in paths.items() if path.exists()})


def task_details(
    view: SessionView,
    units: pd.DataFrame,
    subject: str,
    predictions: Sequence[Prediction],
    classical: dict[str, Baseline],
    *,
    seeds: Sequence[int],
    with_session: bool = True,
) -> Details:
    """Details of one task of one session, of its models and of the strongest baseline (chosen on validation).

    Args:
        view: The session, with all train trials.
        units: Of the recording: `unit_id` and `region`.
        subject: Its animal.
        predictions: One per model, of one task and track; at least one.
        classical: From `eval.baselines.run_baselines`; may be empty.
        seeds: Of each model.
        with_session: Give what belongs to the session and not to a model too: the baseline's lines, and ceilings.

    Raises:
        ValueError: A prediction that lacks a scored row or unit.
    """
    task, named = predictions[0].task, {n for n, one in classical.items() if one.kind == "baseline"}
    against = strongest({name: classical[name] for name in named}) if named else ""
    about = {"dataset": view.dataset, "subject": subject, "session": view.session, "split": view.split}
    about["task"] = f"{task} {predictions[0].track}".strip()
    listed = [(one, "model", seed) for one, seed in zip(predictions, seeds, strict=True)]
    if with_session and against:
        listed.append((classical[against].prediction, "baseline", 0))
    pairs = [
        {**about, "model": one.model, "seed": seed, "baseline": against, **line}
        for one, seed in zip(predictions, seeds if against else [])
        for line in _paired(one, classical[against].prediction, view)
    ]
    paired = pd.DataFrame(pairs)
    if task in LABEL_TASKS:
        curves = [
            pd.DataFrame({**about, "model": one.model, "kind": kind, "seed": seed, **_curve(one, view)})
            for one, kind, seed in listed
        ]
        return Details(calibration=pd.concat(curves, ignore_index=True), paired=paired)
    if task not in RATE_TASKS:
        return Details(paired=paired)
    base = scored_rates(classical[against].prediction, view) if against else None
    scored = [(one, kind, seed, scored_rates(one, view)) for one, kind, seed in listed]
    each = [
        pd.DataFrame(
            {**about, "model": one.model, "seed": seed, **_units(rates, view, units)}
            | {"baseline": against, "baseline_bps": np.nan if base is None else _bps(base)}
        )
        for one, kind, seed, rates in scored
        if kind == "model"
    ]
    found = Details(units=pd.concat(each, ignore_index=True), paired=paired)
    if task != "encode":
        return found
    tables = [
        conventions(r.rate, r.counts, r.null, view.bin_size_s).assign(**about, model=one.model, kind=kind, seed=seed)
        for one, kind, seed, r in scored
    ]
    ceilings = pd.DataFrame([{**about, **row} for row in _ceilings(scored[0][3], view)] if with_session else [])
    return replace(found, conventions=pd.concat(tables, ignore_index=True), ceilings=ceilings)


def _curve(prediction: Prediction, view: SessionView) -> dict[str, np.ndarray]:
    scored = scored_values(prediction, view)
    return calibration_curve(scored.truth, scored.value)._asdict()


def _paired(prediction: Prediction, baseline: Prediction, view: SessionView) -> list[dict[str, Any]]:
    found = paired_trials(prediction, baseline, view)
    if found is None:
        return []
    gain = found.gain
    return [{"metric": found.metric, "difference": gain.mean, "low": gain.low, "high": gain.high, "blocks": gain.n}]


def _bps(scored: ScoredRates) -> np.ndarray:
    return metrics.bits_per_spike(scored.rate, scored.counts, scored.null)


def _units(scored: ScoredRates, view: SessionView, units: pd.DataFrame) -> dict[str, np.ndarray]:
    source = view.unit[scored.columns]
    table = units.iloc[source]
    return {
        "unit": source,
        "unit_id": table["unit_id"].to_numpy(str),
        "region": table["region"].to_numpy(str),
        "spikes": scored.counts.sum(axis=0).astype(np.int64),
        "bps": _bps(scored),
    }


def _ceilings(scored: ScoredRates, view: SessionView) -> list[dict[str, Any]]:
    """Of condition and time, where trials repeat conditions; none else."""
    trial, bins = view.trial[scored.rows], view.bin[scored.rows]
    condition = conditions_of(view)[trial]
    if len(Cells.of(condition, bins).size) < 2:
        return []
    # The draws of halves are the session's own and the same in every process.
    each = psth_ceiling_of_units(scored.counts, condition, bins, trial, rng=np.random.default_rng(0))
    each = each[np.isfinite(each)]
    oracle = oracle_rates(scored.counts, condition, bins, trial, scored.null)
    rows = [{"metric": "psth_r2", "value": float(each.mean()), "num_units": len(each)}] if len(each) else []
    bps = metrics.pooled_bits_per_spike(oracle.rate, scored.counts, scored.null)
    return [*rows, {"metric": "bps", "value": bps, "num_units": len(scored.columns)}]
