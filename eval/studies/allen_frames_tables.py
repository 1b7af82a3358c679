"""The tables of the frame study; puts results together and fits nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.studies.activity_decoder import NeuralR2
from eval.studies.frame_decoders import Decoded, Showings, chance, flat, frame_scores
from eval.studies.frame_latents import Latents, units_of_share
from eval.studies.frame_reads import BINS_PER_FRAME, Read
from eval.studies.movie_population import Population


@dataclass(frozen=True)
class OnBothAxes:
    """One latent, or what stands beside latents, scored on frames and on activity.

    Attributes:
        kind: As of `Latents`, or `activity` or `reference`.
        name: In words.
        num_units: Units it was made of.
        reads: Frames read from it.
        r2: Of the activity that was read back from it.
        latents: Where it comes from, if it was trained.
    """

    kind: str
    name: str
    num_units: int
    reads: Sequence[Read]
    r2: NeuralR2
    latents: Latents | None = None


def scores_by_seed(reads: list[Read], num_frames: int) -> pd.DataFrame:
    """A row for each read; nulls have draws for seeds."""
    frame = np.arange(num_frames)
    rows = [
        {
            "group": read.group,
            "input": read.input,
            "decoder": read.decoder,
            "seed": read.seed,
            **frame_scores(read.decoded.predicted, frame, num_frames),
            "train_exact": read.decoded.train_exact,
            "validation_exact": read.decoded.validation_exact,
            "setting": read.decoded.setting,
        }
        for read in reads
    ]
    rows.append({"group": "null", "input": "uniform guess", "decoder": "none", **chance(num_frames)})
    return pd.DataFrame(rows)


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds (nulls: draws), the spread of `exact`, and the rest of the first seed."""
    groups = scores.groupby(["group", "input", "decoder"], sort=False)
    numbers = ["exact", "within_1s", "mae", "rmse", "r2", "train_exact", "validation_exact"]
    table = groups[numbers].mean()
    table.insert(1, "sd", groups["exact"].std(ddof=1))
    for k, column in enumerate(("low", "high")):
        table.insert(2 + k, column, groups[column].first())
    table["n"] = groups.size()
    table["setting"] = groups["setting"].first()
    return table.reset_index()


def two_axes_table(axes: Sequence[OnBothAxes], num_frames: int) -> pd.DataFrame:
    """A row a latent, mean over seeds with the spread of the two headline numbers."""
    frame = np.arange(num_frames)
    rows = []
    for item in axes:
        row: dict[str, object] = {"kind": item.kind, "latent": item.name, "units": item.num_units}
        for read in item.reads:
            scores = frame_scores(read.decoded.predicted, frame, num_frames)
            if read.decoder in ("kNN", "logistic"):
                short = read.decoder.lower()
                row |= {f"{short}_{score}": scores[score] for score in ("exact", "within_1s", "mae")}
        row |= {"r2_validation": item.r2.validation, "r2_test": item.r2.test}
        row |= {"r2_test_centered": item.r2.test_centered}
        if item.latents is not None:
            own, course = item.latents.own_r2, item.latents.course
            row |= {"own_r2_validation": own[0], "own_r2_test": own[1], "own_r2_peak": course[0]}
            row |= {"own_r2_last": course[1], "setting": item.latents.setting}
        rows.append(row)
    table = pd.DataFrame(rows)
    groups = table.groupby(["kind", "latent"], sort=False)
    means = groups[[c for c in table.columns if c not in ("kind", "latent", "setting")]].mean()
    means.insert(2, "knn_exact_sd", groups["knn_exact"].std(ddof=1))
    means["r2_test_sd"] = groups["r2_test"].std(ddof=1)
    means["n"] = groups.size()
    means["setting"] = groups["setting"].first()
    return means.reset_index()


def turns_table(found: Mapping[str, Sequence[Decoded]], num_frames: int) -> pd.DataFrame:
    """Mean and spread over showings of what decoders said with each as the test, in the order of the showings."""
    rows = []
    for name, decoded in found.items():
        scores = pd.DataFrame([frame_scores(d.predicted, np.arange(num_frames), num_frames) for d in decoded])
        for column in ("exact", "within_1s", "mae"):
            values = scores[column]
            row = {"decoder": name, "score": column, "mean": values.mean(), "sd": values.std(ddof=1)}
            rows.append({**row, "least": values.min(), "most": values.max(), "last showing": values.iloc[-1]})
    return pd.DataFrame(rows)


def first_ten(reads: list[Read], seed: int) -> pd.DataFrame:
    """The first ten test frames, a row a decoder."""
    rows = []
    for read in reads:
        if read.group == "null" or read.seed not in (None, seed):
            continue
        row = {"input": read.input, "decoder": read.decoder}
        rows.append({**row, **{f"frame {k}": int(np.round(read.decoded.predicted[k])) for k in range(10)}})
    return pd.DataFrame(rows)


def facts_table(
    population: Population, activity: Showings, variance: np.ndarray, components: np.ndarray, share: float
) -> pd.DataFrame:
    """Sizes of the data, for rows 001-1 to 001-9 and 001-22 of the brief."""
    showings, frames, units = population.activity.shape
    raw = np.linalg.eigvalsh(np.cov(flat(activity.fit).astype(float), rowvar=False))[::-1]

    def needed(values: np.ndarray) -> int:
        return int(np.searchsorted(np.cumsum(values) / values.sum(), 0.9)) + 1

    facts = {
        "showings": showings,
        "frames of the movie": frames,
        "samples": showings * frames,
        "units drawn": population.num_drawn,
        "units kept, none silent in a showing": units,
        "fit, validation and test showings": f"{len(activity.fit)}, {len(activity.validation)}, {len(activity.test)}",
        "units with 90 % of the variance": len(units_of_share(activity.fit, 0.9)),
        "units with 95 % of the variance": len(units_of_share(activity.fit, 0.95)),
        "PCs for 90 % of the variance, z-scored units": needed(variance),
        "PCs for 90 % of the variance, units as they are": needed(raw),
        "components of the features": components.shape[1],
        "share of the features' variance in them": round(share, 3),
        "mean spikes a second": round(float(population.activity.mean()) * 30 * BINS_PER_FRAME, 2),
    }
    return pd.DataFrame({"what": list(facts), "value": [str(value) for value in facts.values()]})
