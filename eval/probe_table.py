"""Units of many animals as one table for the region probe, and who trains and who is tested; fits nothing."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

# A region counts in an animal with at least this many units there.
MIN_UNITS_OF_CLASS = 3
# An animal enters a mean, and is left out while a penalty is chosen, with at least so many units.
MIN_UNITS_AVERAGED = 20


@dataclass(frozen=True)
class ProbeTable:
    """One row per unit with a known region, sessions one after the other, units of a session in random order.

    Attributes:
        features: `(M, D)` float64.
        region: `(M,)` names.
        subject: `(M,)` animals.
        session: `(M,)` recording ids.
        unit: `(M,)` 0-based position of the unit in the source. For output and the leak meter; never a feature.
    """

    features: np.ndarray
    region: np.ndarray
    subject: np.ndarray
    session: np.ndarray
    unit: np.ndarray

    def where(self, mask: np.ndarray) -> ProbeTable:
        """The rows of a mask `(M,)`."""
        return ProbeTable(
            self.features[mask], self.region[mask], self.subject[mask], self.session[mask], self.unit[mask]
        )


@dataclass(frozen=True)
class Fold:
    """Train a probe on some animals, test it on others.

    Attributes:
        protocol: `group` (leave one animal out inside a group; the main score) or `pooled`.
        group: Name of the group, made of its regions.
        train: Animals.
        test: Animals.
        classes: Regions on both sides, sorted.
    """

    protocol: str
    group: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: tuple[str, ...]


def probe_table(
    embeddings: Mapping[str, np.ndarray], units: Mapping[str, pd.DataFrame], subjects: Mapping[str, str]
) -> ProbeTable:
    """Stack the units with a region, permuted within each session by a seed made of the recording id.

    Raises:
        ValueError: Ids, shapes or widths that do not fit, values that are not finite, or no unit with a region.
    """
    parts = []
    for key in sorted(embeddings):
        if key not in units or key not in subjects:
            raise ValueError(f"{key}: has vectors but no units table or subject; give all three for every recording")
        vectors, region = np.asarray(embeddings[key], dtype=np.float64), units[key]["region"].to_numpy(str)
        if vectors.ndim != 2 or len(vectors) != len(region):
            raise ValueError(f"{key}: vectors of shape {vectors.shape}, expected ({len(region)}, D), one row per unit")
        if not np.isfinite(vectors).all():
            raise ValueError(f"{key}: {int((~np.isfinite(vectors)).sum())} values are not finite; mend them first")
        source = units[key].get("source_index", pd.Series(range(len(region)))).to_numpy(np.int64)
        order = np.random.default_rng(zlib.crc32(key.encode())).permutation(len(region))
        order = order[region[order] != ""]
        names = [np.full(len(order), name) for name in (subjects[key], key)]
        parts.append(ProbeTable(vectors[order], region[order], names[0], names[1], source[order]))
    if widths := sorted({part.features.shape[1] for part in parts})[1:]:
        raise ValueError(f"recordings have vectors of other widths ({widths}); give every unit the same dimensions")
    if not sum(len(part.region) for part in parts):
        raise ValueError("no unit has a region; the probe needs units tables with a filled 'region'")
    fields = ("features", "region", "subject", "session", "unit")
    return ProbeTable(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def derive_groups(table: ProbeTable) -> list[list[str]]:
    """Groups of animals recorded in much the same regions.

    An animal joins the first group with every member of which it shares at least two regions and more than half of the
    regions that either has; animals left alone are in no group.
    """
    regions = {name: frequent_regions(table.region[table.subject == name]) for name in sorted(set(table.subject))}
    groups: list[list[str]] = []
    for name, mine in regions.items():
        for group in groups:
            shared = [(len(mine & regions[other]), len(mine | regions[other])) for other in group]
            if all(both >= 2 and both > either / 2 for both, either in shared):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def group_folds(table: ProbeTable, groups: Sequence[Sequence[str]]) -> list[Fold]:
    """Leave one animal out inside each group, on the regions that both sides have.

    Raises:
        ValueError: A group names an animal that is not in the table.
    """
    folds = []
    for group in groups:
        if unknown := sorted(set(group) - set(table.subject)):
            raise ValueError(f"groups name {unknown}; the animals are {sorted(set(table.subject))}")
        for left_out in group:
            rest = tuple(name for name in group if name != left_out)
            fold = _fold(table, "group", rest, (left_out,))
            if len(fold.classes) >= 2:
                folds.append(fold)
    return folds


def pooled_folds(table: ProbeTable, train_subjects: Sequence[str]) -> list[Fold]:
    """Train on the pretraining animals, test on all others; empty where nobody is left or nothing is shared."""
    train = tuple(name for name in train_subjects if name in table.subject)
    test = tuple(sorted(set(table.subject) - set(train)))
    if not train or not test:
        return []
    fold = _fold(table, "pooled", train, test)
    return [fold] if len(fold.classes) >= 2 else []


def frequent_regions(region: np.ndarray, at_least: int = MIN_UNITS_OF_CLASS) -> set[str]:
    """Names that occur often enough."""
    names, numbers = np.unique(region, return_counts=True)
    return set(names[numbers >= at_least].tolist())


def _fold(table: ProbeTable, protocol: str, train: Sequence[str], test: Sequence[str]) -> Fold:
    both = [frequent_regions(table.region[np.isin(table.subject, side)]) for side in (train, test)]
    classes = tuple(sorted(both[0] & both[1]))
    return Fold(protocol, "/".join(classes), tuple(train), tuple(test), classes)
