"""What the report draws beside scores, made from adapted models: single trials, decoded traces, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from eval.examples import ConfusionExample, EmbeddingExample, Examples, TrialExample, write_examples
from eval.failures import by_session, judged, worst_units
from eval.model_predictions import trial_window
from eval.predictions import Prediction
from eval.scoring import scored_rates
from eval.session_view import SessionView
from foundation.corpus import Corpus
from foundation.embed import embed
from foundation.model import FoundationModel
from foundation.predict import answers, hide_behavior
from foundation.readout import log_rates
from foundation.sampling import WindowReader

NUM_TRIALS, NUM_UNITS, NUM_POINTS, SESSION_UNITS = 60, 8, 4000, 4

Shown = tuple[str, str, FoundationModel, dict[str, SessionView]]


def make_examples(
    out: Path, shown: list[Shown], corpus: Corpus, confusions: list[ConfusionExample], failures: list[TrialExample]
) -> Path:
    """Write `examples.npz`.

    Args:
        out: Results folder.
        shown: Name, animal, model and views by recording id; the first recording of each animal is drawn.
        corpus: Holds the recordings.
        confusions: Drawn as they are.
        failures: The same, as from `failure_examples`.
    """
    trials = [_trials(*one, corpus) for one in shown]
    points = [_points(model, views, corpus, subject) for _, subject, model, views in shown]
    embeddings = [_embedding(points)] if points else []
    return write_examples(out, Examples(trials=trials, embeddings=embeddings, confusions=confusions, failures=failures))


def failure_examples(
    units: pd.DataFrame,
    view_of: Callable[[str, str], SessionView],
    read: Callable[[str, str, str, str, int | None], Prediction],
) -> list[TrialExample]:
    """Test trials of the worst units and of the worst session, with what model and baseline predicted for them.

    Args:
        units: Of `eval.details`.
        view_of: Recording id and split to the session.
        read: Session, task (with track), split, model and seed (none for a baseline) to its prediction.
    """
    table = judged(units)
    if not len(table):
        return []
    worst = worst_units(table)
    session = by_session(table)["session"].iloc[0]
    busiest = table[table["session"] == session].nlargest(SESSION_UNITS, "spikes")
    chosen = [("worst units", part) for _, part in worst.groupby("session", sort=False)]
    return [_failure(units, part, note, view_of, read) for note, part in (*chosen, ("worst session", busiest))]


def _failure(
    units: pd.DataFrame,
    part: pd.DataFrame,
    note: str,
    view_of: Callable[[str, str], SessionView],
    read: Callable[[str, str, str, str, int | None], Prediction],
) -> TrialExample:
    """Of the units in `part`, rows of one session."""
    row = part.iloc[0]
    seed = int(units.loc[(units["model"] == row["model"]) & (units["session"] == row["session"]), "seed"].iloc[0])
    view = view_of(f"{row['dataset']}/{row['session']}", row["split"])
    about = (row["session"], row["task"], row["split"])
    scored = scored_rates(read(*about, row["model"], seed), view)
    base = scored_rates(read(*about, row["baseline"], None), view)
    source = view.unit[scored.columns].tolist()
    columns = [source.index(unit) for unit in part["unit"]]
    trial, bins = view.trial[scored.rows], view.bin[scored.rows]
    chosen = np.unique(trial)
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, NUM_TRIALS).astype(int))]
    keep = np.isin(trial, chosen)
    at = (np.searchsorted(chosen, trial[keep]), bins[keep])
    arrays = []
    for values in (scored.counts, scored.rate, base.rate):
        array = np.full((len(chosen), int(bins[keep].max()) + 1, len(columns)), np.nan)
        array[at] = values[keep][:, columns]
        arrays.append(array)
    return TrialExample(
        session=row["session"],
        subject=row["subject"],
        model=row["model"],
        bin_size_s=view.bin_size_s,
        units=[
            f"unit {unit}" + (f", {region}" if region else "") for unit, region in zip(part["unit"], part["region"])
        ],
        condition=condition_names(view, chosen),
        counts=arrays[0],
        rates=arrays[1],
        baseline=row["baseline"],
        baseline_rates=arrays[2],
        note=note,
    )


def _trials(
    name: str, subject: str, model: FoundationModel, views: dict[str, SessionView], corpus: Corpus
) -> TrialExample:
    recording_id, view = next(iter(views.items()))
    reader = WindowReader(corpus, model.channels, model.config.bin_size_s)
    test = view.trials_in("test", full=True)
    chosen = test[np.linspace(0, len(test) - 1, min(NUM_TRIALS, len(test))).round().astype(int)]
    windows = [trial_window(view, recording_id, int(m), int(view.num_bins[m])) for m in chosen]
    busiest = np.argsort(-view.counts.sum(axis=0))[:NUM_UNITS]
    longest = int(view.num_bins[chosen].max())
    shape = (len(chosen), longest, len(busiest))
    counts, rates = np.full(shape, np.nan), np.full(shape, np.nan)
    decoded = list(answers(model, reader, windows, hide_behavior))
    first = view.first_row()
    traces: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for i, (m, found) in enumerate(zip(chosen, log_rates(model, reader, windows, "encode"))):
        bins = int(view.num_bins[m])
        counts[i, :bins] = view.counts[first[m] : first[m] + bins][:, busiest]
        rates[i, :bins] = np.exp(found[:, view.unit[busiest]])
    for channel in model.channels:
        # A model of several corpora predicts what this recording may not have.
        covariate = view.row_covariates.get(channel.spec.name)
        if covariate is not None and channel.is_target and channel.spec.kind == "continuous":
            true, predicted = np.full(shape[:2], np.nan), np.full(shape[:2], np.nan)
            for i, m in enumerate(chosen):
                rows = slice(first[m], first[m] + int(view.num_bins[m]))
                true[i, : view.num_bins[m]] = np.where(covariate.observed[rows], covariate.values[rows, 0], np.nan)
                predicted[i, : view.num_bins[m]] = decoded[i].covariates[channel.spec.name][:, 0]
            traces[f"{channel.spec.name} ({channel.spec.unit or 'a.u.'})"] = (true, predicted)
    return TrialExample(
        session=view.session,
        subject=subject,
        model=name,
        bin_size_s=view.bin_size_s,
        units=[f"unit {u}" for u in view.unit[busiest]],
        condition=condition_names(view, chosen),
        counts=counts,
        rates=rates,
        traces=traces,
    )


def condition_names(view: SessionView, trials: np.ndarray) -> list[str]:
    """Class of the first two-class trial covariate, or one condition for all."""
    for name, covariate in view.trial_covariates.items():
        if covariate.spec.kind == "categorical":
            return [
                f"{name} {int(v)}" if o else "unknown"
                for v, o in zip(covariate.values[trials], covariate.observed[trials])
            ]
    return ["all trials"] * len(trials)


def _points(
    model: FoundationModel, views: dict[str, SessionView], corpus: Corpus, subject: str
) -> dict[str, np.ndarray]:
    recording_id, view = next(iter(views.items()))
    test = view.trials_in("test", full=True)
    windows = [trial_window(view, recording_id, int(m), int(view.num_bins[m])) for m in test]
    found = embed(model, corpus, recording_id, windows)
    rows = np.isin(view.trial, test)
    labels: dict[str, np.ndarray] = {
        "time in trial (s)": view.time_s[rows],
        "animal": np.full(int(rows.sum()), subject),
    }
    for name, trial_covariate in view.trial_covariates.items():
        values = np.where(trial_covariate.observed, trial_covariate.values, np.nan)[view.trial[rows]]
        categorical = trial_covariate.spec.kind == "categorical"
        labels[name] = np.array([f"{v:.0f}" for v in values]) if categorical else values.astype(float)
    for name, covariate in view.row_covariates.items():
        if covariate.spec.kind == "continuous":
            labels[name] = covariate.values[rows, 0].astype(float)
    keep = np.linspace(0, len(found.behavior) - 1, min(NUM_POINTS, len(found.behavior))).round().astype(int)
    return {"behavior": found.behavior[keep], **{name: values[keep] for name, values in labels.items()}}


def _embedding(points: list[dict[str, np.ndarray]]) -> EmbeddingExample:
    """Behavior-aligned embeddings of all animals on their three common principal components."""
    share = max(1, NUM_POINTS // len(points))
    points = [{key: value[:: max(1, len(value) // share)] for key, value in one.items()} for one in points]
    stacked = np.concatenate([one["behavior"] for one in points])
    _, _, axes = np.linalg.svd(stacked - stacked.mean(axis=0), full_matrices=False)
    labels = set.intersection(*(set(one) for one in points)) - {"behavior"}
    first = [name for name in points[0] if name in labels]
    return EmbeddingExample(
        name="behavior-aligned embedding from spikes alone, 3 principal components, test trials",
        points=(stacked - stacked.mean(axis=0)) @ axes[:3].T,
        labels={name: np.concatenate([one[name] for one in points]) for name in first},
    )
