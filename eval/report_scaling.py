"""Scaling in the report: scores over the number of pretraining animals, from rows that a study kept; trains nothing."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pandas as pd

from eval.report_figures import figure_html
from eval.report_tables import interval_text, metric_name, number, table, task_name
from eval.scaling import Scaling, scaling_figure, scaling_table, scalings
from eval.statistics import Interval


def scaling_html(path: Path | None) -> str:
    """Figure and table of each task; a sentence where no rows were given.

    Args:
        path: Parquet file with the columns that `eval.scaling.scalings` asks for.

    Raises:
        ValueError: The file is missing or lacks a column, or the rows make no scaling.
    """
    if path is None:
        return (
            "<p>No runs with other numbers of pretraining animals were given. <code>foundation study "
            "configs/studies/scaling.yaml</code> makes them, <code>--scaling</code> shows them here.</p>"
        )
    if not path.is_file():
        raise ValueError(f"{path}: not found; expected the scaling.parquet of `foundation study .../scaling.yaml`")
    found = scalings(pd.read_parquet(path))
    figures = {_name(key): scaling_figure(scaling) for key, scaling in found.items()}
    caption = (
        "Filled marks: mean of the evaluated animals with its two-level 95 % interval (animals, then sessions). "
        "Dotted: each evaluated animal. Dashed: least squares on log2 of the number of animals. Open marks: selections "
        "of sessions, at the number of animals they are of. Seeds, each with animals of its own choice, averaged first."
    )
    tables = [_table(key, scaling) for key, scaling in found.items()]
    return f"{figure_html(figures, caption)}{''.join(tables)}"


def _table(key: tuple[str, str, str], scaling: Scaling) -> str:
    metric, gain, body = scaling.metric, scaling.slope, []
    animals = scaling.slope.n
    for _, row in scaling_table(scaling).iterrows():
        whole = Interval(row["mean"], row["low"], row["high"], animals)
        step = Interval(row["step"], row["step_low"], row["step_high"], animals)
        is_first = step.mean != step.mean
        error = "–" if row["sem"] != row["sem"] else f"± {number(row['sem'], metric)}"
        cells = [escape(row["label"]), str(row["num_animals"]), interval_text(whole, metric), str(row["seeds"]), error]
        cells.append("–" if is_first else interval_text(step, metric, signed=True))
        cells.append("–" if is_first else f"{row['positive']} of {row['sessions']}")
        body.append(("model", cells))
    told = (
        f"<strong>{escape(_name(key))}: {escape(metric_name(metric))}.</strong> Per doubling of the animals "
        f"{interval_text(gain, metric, signed=True)} ({animals} evaluated animals). The last columns compare, "
        "paired by session, with the line above; a selection of sessions with the most animals."
    )
    head = ["pretrained on", "animals", "mean of animal means [95 %]", "seeds", "SEM over seeds", "difference [95 %]"]
    return table(told, [*head, "sessions above 0"], body)


def _name(key: tuple[str, str, str]) -> str:
    dataset, task, split = key
    return f"{task_name(task)}, {dataset}, {split}"
