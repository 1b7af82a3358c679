"""Result rows as a few lines of plain text, for the end of a command; `eval.report` has the page with its intervals."""

from __future__ import annotations

import pandas as pd

from eval.report_tables import headline
from eval.statistics import per_session

WIDTH = 14


def summary_lines(rows: pd.DataFrame) -> list[str]:
    """A line per task: the headline metric of every model, of its strongest baseline and of its null.

    Means over sessions, of seeds, folds and draws first. Models that are another's variant ("..., forest") are left
    to the page, and so is a task that only such models have.

    Args:
        rows: Result rows (`eval.results`).
    """
    rows = rows[rows["kind"].eq("model") & ~rows["model"].str.contains(", ")]
    models = list(dict.fromkeys(rows["model"]))
    # "luo2025/adapter" is "adapter" where all are of one run.
    short = {model: model.rpartition("/")[2] for model in models}
    names = [short[m] for m in models] if len(set(short.values())) == len(models) else models
    lines = [
        f"{'task':36s}{'metric':12s}" + "".join(f"{n[-WIDTH + 2 :]:>{WIDTH}s}" for n in (*names, "baseline", "null"))
    ]
    settings = rows.groupby(["dataset", "split", "train_trials"], sort=True)
    for (dataset, split, trials), part in settings:
        if len(settings) > 1:
            lines.append(f"{dataset}, {split}, {f'{trials} train trials' if trials else 'all train trials'}")
        for task, of_task in part.groupby("task", sort=False):
            metric = headline(of_task)
            chosen = of_task[of_task["metric"] == metric]
            by_model = [chosen[chosen["model"] == model] for model in models]
            first = next(found for found in by_model if len(found))
            scores = [_mean(found, "value") for found in by_model]
            beside = [_mean(first, column) for column in ("baseline_value", "null_value")]
            numbers = "".join(f"{'-' if v != v else format(v, '.3f'):>{WIDTH}s}" for v in (*scores, *beside))
            lines.append(f"{task!s:35.35s} {metric:12s}{numbers}")
    return lines


def _mean(rows: pd.DataFrame, column: str) -> float:
    return float(per_session(rows, column)["value"].mean()) if len(rows) else float("nan")
