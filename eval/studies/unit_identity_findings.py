"""The tables, figures and words of the study of unit identity; computes no feature and fits nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from eval.statistics import animal_interval, session_interval
from eval.studies.study import Figure, Findings, Table
from eval.studies.unit_figures import bars

FULL, BLIND, UNTRAINED = "unit embedding", "no attention over units", "untrained encoder"
BOTH = "embedding + own spike train"
OWN, ISI, RATE, COUPLING = "own spike train", "rate + ISI", "rate only", "correlations with the others"
INDEX = "array index"


def means(rows: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Per animal over seeds first; then the mean of animals with its interval over animals, and the spread of seeds."""
    found = []
    for keys, part in rows.groupby(by, sort=False):
        row = dict(zip(by, keys))
        animals = part.groupby("subject")[columns].mean()
        for column in columns:
            interval = session_interval(animals[column].to_numpy(float))
            row |= {column: interval.mean, f"{column}_low": interval.low, f"{column}_high": interval.high}
            seeds = part.groupby(["seed", "subject"])[column].mean().groupby("seed").mean()
            row[f"{column}_sd"] = float(seeds.std(ddof=1)) if len(seeds) > 1 else np.nan
        found.append({**row, "animals": len(animals)})
    return pd.DataFrame(found)


def recognition_summary(known: pd.DataFrame) -> pd.DataFrame:
    """Mean of animal means with the two-level interval (animals, then their sessions)."""
    found = []
    for name, part in known.groupby("input", sort=False):
        sessions = part.groupby(["session", "subject"], sort=False)[["recognized", "chance", "units"]].mean()
        animals = sessions.index.get_level_values("subject")
        interval = animal_interval(sessions["recognized"].to_numpy(float), animals.to_numpy(str))
        found.append(
            {
                "input": name,
                "recognized": interval.mean,
                "recognized_low": interval.low,
                "recognized_high": interval.high,
                "chance": float(sessions["chance"].groupby(animals).mean().mean()),
                "animals": interval.n,
                "sessions": len(sessions),
                "units": int(sessions["units"].sum()),
            }
        )
    return pd.DataFrame(found)


def write_up(
    regions: pd.DataFrame, known: pd.DataFrame, training: pd.DataFrame, leaks: pd.DataFrame, units: pd.DataFrame
) -> Findings:
    """Tables, figures and remarks.

    Args:
        regions: A row per probe, input, animal and seed, with what `score_regions` returns and `averaged`.
        known: A row per input, session and seed: `subject`, `units`, `recognized`, `chance`.
        training: A row per trained model.
        leaks: Rows of `session_identity` with `input`.
        units: Units by probe, animal and class.
    """
    seeds = known["seed"].nunique()
    scores = ["macro_f1", "balanced_accuracy", "chance", "null_95"]
    ranked = regions[regions["averaged"]]
    summary = means(ranked, ["probe", "input"], scores)
    recognition = recognition_summary(known).sort_values("recognized", ascending=False, ignore_index=True)
    leaks = leaks.groupby(["input", "pairs"], sort=False)["balanced_accuracy"].mean().reset_index()
    per_animal = regions.groupby(["probe", "subject", "input"], sort=False)[[*scores, "num_units"]].mean().reset_index()
    figures = []
    for probe in regions["probe"].unique():
        part = summary[summary["probe"] == probe].sort_values("balanced_accuracy", ascending=False, ignore_index=True)
        if len(part):
            caption = (
                f"Probe {probe}: each animal left out in turn ({', '.join(_tested(ranked, probe))}), encoder and probe "
                f"trained on others; mean of animals, interval over animals, {seeds} seeds. Dashed: "
                "chance, and labels permuted within session (95th percentile)."
            )
            panels = {"balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro-F1"}
            lines = {"balanced_accuracy": "chance", "macro_f1": "null_95"}
            figures.append(Figure(f"regions_{probe}", caption, bars(part, panels, lines)))
    totals = recognition.iloc[0]
    caption = (
        f"Units recognized in the other half of their session, by encoders that never saw the animal: "
        f"{totals['units']} units, {totals['sessions']} sessions, {totals['animals']} animals, {seeds} seeds. Mean of "
        "animal means, two-level 95 % interval. Dashed: chance."
    )
    figures.append(
        Figure("recognized", caption, bars(recognition, {"recognized": "Recognized"}, {"recognized": "chance"}))
    )
    return Findings(
        title="Unit identity on real recordings",
        question=(
            "Does an encoder that only learned to recognize units describe those of animals it never saw: are they "
            "recognized at another time, and does the description tell their brain region?"
        ),
        tables=[
            Table("regions", "Mean of animals with at least 20 scored units; interval over animals.", summary),
            Table("recognition", caption, recognition),
            Table("regions_per_animal", "Mean over seeds; animals with fewer than 20 scored units too.", per_animal),
            Table("session_identity", "Two sessions told apart within a class, chance 0.5 (leak meter).", leaks),
            Table("units", "Units by animal and class; the rest is in no class.", units),
            Table("training", "Loss of the kept state on held-out time, and when it was kept.", training),
            Table("recognition_per_session", "Every session and seed.", known),
        ],
        figures=figures,
        remarks=_remarks(summary, recognition, leaks),
    )


def _tested(regions: pd.DataFrame, probe: str) -> list[str]:
    return sorted(set(regions.loc[regions["probe"] == probe, "subject"]))


def _remarks(summary: pd.DataFrame, recognition: pd.DataFrame, leaks: pd.DataFrame) -> list[str]:
    said = []
    for probe in summary["probe"].unique():
        part = summary[summary["probe"] == probe].set_index("input")["balanced_accuracy"]
        if len(part):
            told = ", ".join(
                f"{name} {part[name]:.2f}" for name in (FULL, BLIND, UNTRAINED, BOTH, OWN, ISI, RATE, INDEX)
            )
            said.append(f"Probe {probe}, balanced accuracy in animals left out: {told}.")
    share = recognition.set_index("input")["recognized"]
    told = ", ".join(f"{name} {value:.2f}" for name, value in share.items())
    said.append(f"Recognized in the other half: {told}; chance {recognition['chance'].iloc[0]:.3f}.")
    apart = leaks[leaks["pairs"] == "other animal"].set_index("input")["balanced_accuracy"]
    told = ", ".join(f"{name} {value:.2f}" for name, value in apart.items())
    said.append(
        f"Sessions of two animals are told apart within a class at {told} (chance 0.5): what is above is of the "
        "animal or the recording, not of the unit's class."
    )
    said.append(
        "Most animals hold one to three classes, so few animals can be scored and each class is confounded with who "
        "was recorded there; permuting labels within a session leaves sessions of one class as they are."
    )
    return said
