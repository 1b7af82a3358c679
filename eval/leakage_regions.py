"""Whether a table of regions was shuffled: against the corpus by unit id, and against the order of units on the probe.

Regions are runs along a probe. Their order `kappa` is the share of neighbors of one region, less what a permutation
within the session gives, relative to what unbroken runs would give: 1 for runs, 0 at random. A session is compared with
sessions of its dataset in much the same regions, of pretraining where it is evaluated itself. It is found to be without
order when 95 % of these have one (of those that are large enough to show it), half of theirs would show in it (it would
exceed 99.9 % of its own permutations), and it has less than that half and does not exceed 99 % of them. So a true table
with half of the others' order is never accused, and 1 % of the shuffled ones are missed. Everything else is undecided:
one region, few units, sites in no order. Whole tables swapped between sessions that keep their ids are not seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.leak import Leak

DRAWS = 4000
P, WITHOUT, HALF = 1e-3, 1e-2, 0.5
# So many comparable sessions must show an order, and this share of those that could.
MIN_OTHERS, MOST = 3, 0.95
_NO_ORDER = "region table without order"


@dataclass(frozen=True)
class Order:
    """How regions lie along a probe.

    Attributes:
        kappa: 1 for unbroken runs, 0 at random.
        p: Share of permutations with at least this order.
        reach: Order that all but one in a thousand permutations stay below.
    """

    kappa: float
    p: float
    reach: float


def table_leaks(used: Mapping[str, pd.DataFrame], truth: Mapping[str, pd.DataFrame]) -> list[Leak]:
    """Units whose region differs from the corpus's; exact, by `unit_id`.

    Args:
        used: Units tables that a probe read, by recording id: `unit_id` and `region`.
        truth: Those of the corpus.
    """
    leaks = []
    for key, table in used.items():
        labels = table.set_index("unit_id")["region"]
        true = truth[key].set_index("unit_id")["region"].reindex(labels.index)
        both = (labels != "") & true.notna() & (true != "")
        if wrong := int((labels[both] != true[both]).sum()):
            where = f"{key}: {wrong} of {int(both.sum())} units"
            leaks.append(Leak.of("region table differs from the corpus", where, wrong / both.sum(), 0))
        if unknown := int(true.isna().sum()):
            where = f"{key}: {unknown} of {len(table)} units are not in the corpus"
            leaks.append(Leak.undecided("region table differs from the corpus", where, unknown, 0))
    return leaks


def order_leaks(tables: Mapping[str, pd.DataFrame], evaluated: Collection[str] = ()) -> list[Leak]:
    """Sessions whose regions lie along the probe as at random, though those of comparable sessions do not.

    Args:
        tables: Units tables by recording id, of pretraining and evaluation: `unit_id`, `region`, and `depth_um` if
            known; else the rows are taken to stand in the order of the probe. Where every table of a dataset has
            `region_given`, the areas before they were mapped, and these determine the region, the order is of areas:
            in coarse classes the runs of two probes whose units were merged may look like none.
        evaluated: Recording ids that are compared with the others only; none: every session with all others.
    """
    # Areas of all sessions of a dataset, or classes of all: their orders are compared.
    coarse = {key.split("/")[0] for key, table in tables.items() if not _has_areas(table)}
    orders = {key: region_order(table, areas=key.split("/")[0] not in coarse) for key, table in tables.items()}
    regions = {key: set(table["region"]) - {""} for key, table in tables.items()}
    leaks, silent = [], 0
    for key, mine in orders.items():
        others = [
            order
            for other, order in orders.items()
            if order is not None
            and other != key
            and not (key in evaluated and other in evaluated)
            and other.split("/")[0] == key.split("/")[0]
            and len(regions[key] & regions[other]) > len(regions[key] | regions[other]) / 2
        ]
        half = HALF * float(np.median([o.kappa for o in others if o.p < P] or [np.inf]))
        able = [o for o in others if o.reach < half]
        shown = [o for o in able if o.p < WITHOUT]
        can_tell = mine is not None and MIN_OTHERS <= len(shown) >= MOST * len(able) and mine.reach < half
        silent += not can_tell
        if mine is not None and can_tell and mine.p >= WITHOUT and mine.kappa < half:
            leaks.append(Leak.of(_NO_ORDER, f"{key}: order along the probe", mine.kappa, half))
    if silent:
        where = f"{silent} of {len(orders)} sessions have one region, few units, or no order to compare with"
        leaks.append(Leak.undecided(_NO_ORDER, where, len(orders) - silent, len(orders)))
    return leaks


def region_order(table: pd.DataFrame, draws: int = DRAWS, *, areas: bool = False) -> Order | None:
    """Order of the known regions along each probe; None where every permutation has the same, or of under four units.

    Args:
        table: `unit_id` (its third part is the probe), `region`, and `depth_um` if known.
        draws: Permutations within the session; seeded by the ids.
        areas: Of `region_given` instead of `region`, for the units whose region is known.
    """
    table = table[table["region"] != ""]
    region = table["region_given" if areas else "region"].to_numpy(str)
    if len(region) < 4 or len(set(region)) < 2:
        return None
    probe = table["unit_id"].str.split("/").str[2].fillna("").to_numpy(str)
    depth = table["depth_um"].to_numpy(float) if "depth_um" in table else np.arange(len(table), dtype=float)
    order = np.lexsort((depth, probe))
    code, probe = np.unique(region[order], return_inverse=True)[1], probe[order]
    neighbors = np.flatnonzero(probe[1:] == probe[:-1])
    if not len(neighbors):
        return None
    rng = np.random.default_rng(zlib.crc32("".join(table["unit_id"]).encode()))
    permuted = rng.permuted(np.tile(code, (draws, 1)), axis=1)
    null = (permuted[:, neighbors] == permuted[:, neighbors + 1]).mean(axis=1)
    if null.min() == null.max():
        return None
    found = float((code[neighbors] == code[neighbors + 1]).mean())
    runs = len(neighbors) - sum(len(set(code[probe == name])) - 1 for name in set(probe))
    span = max(runs / len(neighbors) - null.mean(), 1e-9)
    p = (1 + int((null >= found - 1e-12).sum())) / (1 + draws)
    reach = (np.quantile(null, 0.999) - null.mean()) / span
    return Order(float((found - null.mean()) / span), float(p), float(reach))


def _has_areas(table: pd.DataFrame) -> bool:
    """Whether areas are given that determine the regions that are known."""
    if "region_given" not in table:
        return False
    known = table[table["region"] != ""]
    return bool((known.groupby("region_given")["region"].nunique() <= 1).all())
