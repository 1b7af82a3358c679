"""Tables and sentences of the hippocampus study; every sentence is computed, and turns where the numbers turn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from eval.consistency import Consistency
from eval.studies.hippocampus_arms import SHUFFLED_LABELS, SHUFFLED_NEURONS
from eval.studies.study import Table

CONSTANT = "median of the train time"


def remarks(
    decoding: pd.DataFrame, alike: Mapping[str, Consistency], topology: pd.DataFrame, circular: pd.DataFrame, main: str
) -> list[str]:
    """A sentence or two on decoding, controls, consistency, topology and the circular coordinate.

    Args:
        decoding: Rows of arms and seeds.
        alike: Consistency by comparison.
        topology: Rows of arms and seeds.
        circular: Rows of arms and seeds that are rings; may be empty.
        main: Arm with all labels.
    """
    found = [
        _best(decoding, main),
        _controls(decoding),
        _repeats(alike, main),
        *_partitions(alike, main),
        _loops(topology),
    ]
    if len(circular):
        found.append(_cycle(circular))
    return found


def _best(decoding: pd.DataFrame, main: str) -> str:
    r2, error = _means(decoding, "position_r2"), _means(decoding, "median_error_cm")
    plain = {name: r2[name] for name in dict.fromkeys(decoding.loc[decoding["family"] == "plain", "arm"])}
    spread = float(decoding.loc[decoding["arm"] == main, "position_r2"].std(ddof=1))
    best = max(plain, key=plain.__getitem__)
    rival = max((name for name in plain if name != "kNN, smoothed"), key=plain.__getitem__)
    return (
        f"Position from the {main} embedding: R2 {r2[main]:.3f}"
        + (f" (sd over seeds {spread:.3f})" if np.isfinite(spread) else "")
        + f", median error {error[main]:.1f} cm. That is {'above' if r2[main] > r2[rival] else 'not above'} the best "
        f"plain decoder with the same window, {rival} ({r2[rival]:.3f}, {error[rival]:.1f} cm); the best of all plain "
        f"ones is {best} ({r2[best]:.3f}, {error[best]:.1f} cm)."
    )


def _means(decoding: pd.DataFrame, column: str) -> dict[str, float]:
    return {str(name): float(value) for name, value in decoding.groupby("arm", sort=False)[column].mean().items()}


def _controls(decoding: pd.DataFrame) -> str:
    r2, error = _means(decoding, "position_r2"), _means(decoding, "median_error_cm")
    return (
        f"Controls: with shuffled labels R2 {r2[SHUFFLED_LABELS]:.3f} ({error[SHUFFLED_LABELS]:.1f} cm), what activity "
        "gives away through an encoder that was told nothing; shuffled neurons leave "
        f"{r2[SHUFFLED_NEURONS]:.3f} ({error[SHUFFLED_NEURONS]:.1f} cm); a constant misses by {error[CONSTANT]:.1f} cm."
    )


def _repeats(alike: Mapping[str, Consistency], main: str) -> str:
    runs = {name.removeprefix("runs: "): one for name, one in alike.items() if name.startswith("runs: ")}
    if main not in runs:
        return "One seed: consistency between runs was not measured."
    one = runs[main]
    shuffled = runs[SHUFFLED_LABELS]
    return (
        f"Between runs the {main} embedding repeats with a held-out R2 of {one.mean():.3f} (in sample "
        f"{np.nanmean(one.in_sample):.3f}, shifted in time {np.nanmean(one.permuted):.3f}); with shuffled labels it is "
        f"{shuffled.mean():.3f} held out and {np.nanmean(shuffled.in_sample):.3f} in sample: consistency alone "
        + ("does not show that labels were learned." if shuffled.mean() > 0.5 * one.mean() else "tells the two apart.")
    )


def _partitions(alike: Mapping[str, Consistency], main: str) -> list[str]:
    out = []
    for method in ("linear", "procrustes"):
        ours = alike[f"pseudo-subjects: {main}, {method}"]
        text = (
            f"Pseudo-subjects (disjoint neurons of one rat), {method}: {main} {ours.mean():.3f} held out, "
            f"{np.nanmean(ours.in_sample):.3f} in sample, {np.nanmean(ours.permuted):.3f} permuted"
        )
        plain = alike.get(f"pseudo-subjects: PCA, {method}")
        if plain is not None:
            text += f"; PCA {plain.mean():.3f}, {np.nanmean(plain.in_sample):.3f}, {np.nanmean(plain.permuted):.3f}"
        out.append(text + ".")
    return out


def _loops(topology: pd.DataFrame) -> str:
    parts = []
    for name, rows in topology.groupby("arm", sort=False):
        loops = "/".join(map(str, rows["loops"]))
        components = "/".join(map(str, rows["components"]))
        parts.append(f"{name} {components} and {loops}")
    return (
        "Components and loops by the rule that was fixed beforehand, one number per seed: " + "; ".join(parts) + ". "
        "Embeddings that were given position and direction take the shape of the labels; time and plain ones were told "
        "of none."
    )


def _cycle(circular: pd.DataFrame) -> str:
    parts, along = [], []
    sides = [column for column in map(str, circular) if column.startswith("rank_correlation_")]
    for name, rows in circular.groupby("arm", sort=False):
        ranks = rows[sides].to_numpy()
        monotonic = "monotonic" if np.abs(ranks).min() > 0.99 else "not quite monotonic"
        text = f"{name} {rows['circular_correlation'].mean():.2f}, {monotonic} in position"
        if len(sides) > 1:
            apart = ranks[:, 0] * ranks[:, 1] < 0
            text += f", forth and back run against each other in {apart.mean():.0%} of the seeds"
            along += [] if apart.all() else [str(name)]
        parts.append(text)
    told = f"Circular coordinate of rings: correlation with the cycle forth and back, and course: {'; '.join(parts)}."
    if along:
        told += f" Where forth and back run the same way ({', '.join(along)}), the loop is not the cycle of running."
    return told


def tables(
    num_train: int,
    num_test: int,
    num_points: int,
    decoding: pd.DataFrame,
    alike: Mapping[str, Consistency],
    topology: pd.DataFrame,
    circular: pd.DataFrame,
) -> list[Table]:
    """All tables, with what their columns mean.

    Args:
        num_train: Bins that encoders saw.
        num_test: Bins that are scored.
        num_points: Landmarks of the topology.
        decoding: Rows of arms and seeds.
        alike: Consistency by comparison.
        topology: Rows of arms and seeds.
        circular: Rows of arms and seeds that are rings; may be empty.
    """
    pairs = pd.concat([one.table().assign(comparison=name) for name, one in alike.items()], ignore_index=True)
    found = [
        Table(
            "decoding",
            "Position and direction by kNN, k chosen on validation; mean over seeds. Scored on the last "
            f"{num_test:,} bins; encoders saw the first {num_train:,}. `bits`: goodness of fit, 0 = collapsed. Plain "
            "decoders have the same rows and window; only `kNN, smoothed` sees a wider stretch of time.",
            _summary(decoding),
        ),
        Table("decoding_by_seed", "The same, seed by seed. `choice`: what validation chose.", decoding),
        Table(
            "consistency",
            "R2 of one embedding from another, map fitted on the train stretch, scored on the test stretch; "
            "`permuted`: after shifts (runs) or permutations (pseudo-subjects) in time, mean and 95th percentile of 20 "
            "draws; `in_sample`: scored where it was fitted. Pseudo-subjects: disjoint neurons of one rat, aligned by "
            "20 bins of position in each direction.",
            pairs[["comparison", *pairs.columns.drop("comparison")]],
        ),
        Table(
            "topology",
            f"Persistent cohomology of {num_points} points of time that no encoder saw. Loops: the smallest n such "
            "that the n-th longest life is twice the next and above the 95th percentile of shuffled labels (`needed`); "
            "components likewise, by the gaps between them. A ring has one of each.",
            topology,
        ),
    ]
    if len(circular):
        about = "Circular coordinate of rings (one component, one loop) against the place in the cycle forth and back."
        found.append(Table("circular_coordinate", about, circular))
    return found


def _summary(decoding: pd.DataFrame) -> pd.DataFrame:
    metrics = [c for c in decoding if c not in ("arm", "family", "seed", "choice")]
    groups = decoding.groupby(["arm", "family"], sort=False)
    out = groups[metrics].mean()
    out["position_r2_sd"] = groups["position_r2"].std(ddof=1)
    out["seeds"] = groups.size()
    return out.reset_index()
