"""Leak meter of the unit probes: whether a vector of a unit tells which session it was recorded in."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from eval.probe_fits import DEFAULT_STRENGTH, logistic
from eval.probe_table import ProbeTable


def session_identity(table: ProbeTable, seed: int = 0, max_pairs: int = 30) -> pd.DataFrame:
    """Leak meter: can a unit's session be told from its features, region held constant?

    For pairs of sessions with at least 10 units of one region each, a logistic probe tells the two apart within that
    region (5-fold cross-validated balanced accuracy, chance 0.5). At 0.5 between animals the features carry nothing but
    the unit; the higher it is, the more of a pooled score can be won by recognizing the animal and thereby its regions.

    Args:
        table: Features to meter.
        seed: Of the draw of pairs and of the folds.
        max_pairs: Pairs drawn of each kind.

    Returns:
        Rows `same animal` and `other animal`: mean `balanced_accuracy`, `num_pairs` (0: NaN, nothing to compare).
    """
    rng = np.random.default_rng(seed)
    pairs: dict[str, list[tuple[str, str, str]]] = {"same animal": [], "other animal": []}
    animal = dict(zip(table.session.tolist(), table.subject.tolist()))
    for region in np.unique(table.region):
        names, numbers = np.unique(table.session[table.region == region], return_counts=True)
        for a, b in combinations(names[numbers >= 10].tolist(), 2):
            pairs["same animal" if animal[a] == animal[b] else "other animal"].append((region, a, b))
    rows = []
    for kind, all_pairs in pairs.items():
        drawn = rng.permutation(len(all_pairs))[:max_pairs]
        scores = [_tell_apart(table, *all_pairs[int(k)], seed=seed) for k in drawn]
        mean = float(np.mean(scores)) if scores else np.nan
        rows.append({"pairs": kind, "balanced_accuracy": mean, "chance": 0.5, "num_pairs": len(scores)})
    return pd.DataFrame(rows)


def _tell_apart(table: ProbeTable, region: str, a: str, b: str, *, seed: int) -> float:
    rows = table.where((table.region == region) & np.isin(table.session, (a, b)))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    answer = cross_val_predict(logistic(DEFAULT_STRENGTH, seed), rows.features, rows.session, cv=folds)
    return float(balanced_accuracy_score(rows.session, answer))
