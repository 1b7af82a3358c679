"""Result rows of one task of one session: models beside the baselines and nulls that were fitted on the same trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.baselines import Baseline, strongest
from eval.predictions import Prediction
from eval.results import ResultRow
from eval.scoring import Score, score
from eval.session_view import SessionView


def task_rows(
    view: SessionView,
    subject: str,
    predictions: Sequence[Prediction],
    classical: dict[str, Baseline],
    *,
    seeds: Sequence[int],
    few_shot: tuple[int, int] = (0, 0),
    list_baselines: bool = True,
) -> list[ResultRow]:
    """Rows of models, after those of the baselines and nulls.

    Args:
        view: The session.
        subject: Its animal.
        predictions: One per model, of one task and track.
        classical: From `eval.baselines.run_baselines` for that task and track; empty where none were fitted.
        seeds: Of each model.
        few_shot: Train trials (0 for all) and draw.
        list_baselines: Give rows of the baselines too; false where they have been listed before.

    Returns:
        Rows with a finite value, each with what the strongest baseline and null (chosen on validation) have there.

    Raises:
        ValueError: A prediction that lacks a scored row or unit.
    """
    named = {name: one for name, one in classical.items() if one.kind != "reference"}
    kinds = {one.kind for one in named.values()}
    against = strongest(named) if "baseline" in kinds else ""
    null = strongest(named, "null") if "null" in kinds else ""
    scores = {name: score(one.prediction, one.session or view) for name, one in named.items()}
    listed: list[tuple[str, str, int, dict[str, Score]]] = [
        (name, "null" if one.kind == "control" else one.kind, 0, scores[name])
        for name, one in named.items()
        if list_baselines
    ]
    listed += [(one.model, "model", seed, score(one, view)) for one, seed in zip(predictions, seeds, strict=True)]
    head = predictions[0] if predictions else next(iter(named.values())).prediction
    return [
        ResultRow(
            dataset=view.dataset,
            subject=subject,
            session=view.session,
            split=view.split,
            task=f"{head.task} {head.track}".strip(),
            model=name,
            kind=kind,
            train_trials=few_shot[0],
            draw=few_shot[1],
            seed=seed,
            metric=metric,
            convention=value.convention,
            value=value.value,
            n=int(value.n),
            baseline=against if name != against else "",
            baseline_value=_value(scores, against, metric) if name != against else None,
            null=null if name != null else "",
            null_value=_value(scores, null, metric) if name != null else None,
            higher_is_better=not metric.startswith("cross_entropy"),
            fold=view.fold,
        )
        for name, kind, seed, metrics in listed
        for metric, value in metrics.items()
        if np.isfinite(value.value)
    ]


def _value(scores: dict[str, dict[str, Score]], name: str, metric: str) -> float | None:
    found = scores.get(name, {}).get(metric)
    return found.value if found is not None and np.isfinite(found.value) else None
