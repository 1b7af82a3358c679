"""Where a model fails: the units and sessions that are furthest below the strongest baseline. Draws and scores nothing.

Reads the table `units` of `eval.details`. The worst of many are partly the unluckiest of many: what is listed here is
where to look first, not an estimate of how bad they are.
"""

from __future__ import annotations

import pandas as pd

from eval.results import is_scratch

# Of a unit with fewer spikes in the scored rows a difference in bits per spike is mostly chance.
MIN_SPIKES = 100
NUM_UNITS = 8

_OF_UNIT = ["dataset", "subject", "session", "split", "task", "model", "baseline", "unit", "unit_id", "region"]


def judged(units: pd.DataFrame) -> pd.DataFrame:
    """Each unit's difference from the strongest baseline, of the first pretrained model in the first task and split.

    Args:
        units: Of `eval.details`, with encoding before other tasks of rates.

    Returns:
        One row per unit, averaged over seeds: what names it, `spikes`, `bps`, `baseline_bps` and `difference`; empty
        where no baseline was fitted.
    """
    if not len(units):
        return units
    units = units[units["baseline"].ne("") & ~units["model"].map(is_scratch)]
    if not len(units):
        return units
    first = units.iloc[0]
    for name in ("dataset", "task", "split", "model"):
        units = units[units[name] == first[name]]
    values = {"spikes": "first", "bps": "mean", "baseline_bps": "mean"}
    table = units.groupby(_OF_UNIT, sort=False, as_index=False).agg(values)
    return table.assign(difference=table["bps"] - table["baseline_bps"])


def worst_units(table: pd.DataFrame, most: int = NUM_UNITS) -> pd.DataFrame:
    """The units with the lowest difference, the worst first, of those with at least 100 spikes in the scored rows.

    Args:
        table: As from `judged`.
        most: How many.
    """
    if not len(table):
        return table
    return table[table["spikes"] >= MIN_SPIKES].nsmallest(most, "difference")


def by_session(table: pd.DataFrame) -> pd.DataFrame:
    """Sessions, the worst first: `session, subject, units, spikes, bps, baseline_bps, difference` pooled over units.

    Weighted by spikes, as units are in pooled bits per spike, so that `bps` is the score of the session.

    Args:
        table: As from `judged`.
    """
    rows = []
    for (session, subject), part in table.groupby(["session", "subject"], sort=False):
        means = {name: (part[name] * part["spikes"]).sum() / part["spikes"].sum() for name in ("bps", "baseline_bps")}
        row = {"session": session, "subject": subject, "units": len(part), "spikes": int(part["spikes"].sum()), **means}
        rows.append({**row, "difference": means["bps"] - means["baseline_bps"]})
    return pd.DataFrame(rows).sort_values("difference", ignore_index=True)
