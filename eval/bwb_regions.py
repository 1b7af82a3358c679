"""Suite 3 by models of ours: the region of each unit of an unseen animal, from its vector and those of pretraining.

Vectors of pretraining units come from the pretrained model, those of an evaluated animal from the model adapted to it:
fingerprints (`foundation.fingerprint`) where every session has one, else adapter rows. A balanced logistic regression
is fitted on pretraining animals alone, its penalty chosen by leaving some of these out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.adapted import Adapted
from eval.bwb_export import over_neighbors, regions_file
from eval.bwb_files import SuiteFile
from eval.bwb_tasks import COSMOS
from eval.bwb_windows import is_evaluated, scored_units, ts3_table
from foundation.fingerprint import FINGERPRINT
from foundation.model import FoundationModel
from foundation.recording import Recording

_C = (1e-3, 1e-2, 1e-1, 1.0)
_FOLDS = 5


def region_files(
    label: str,
    seed: int,
    models: Sequence[Adapted],
    base: FoundationModel,
    recordings: Mapping[str, Recording],
    metadata: Mapping[str, str],
) -> list[SuiteFile]:
    """The files of suite 3: each unit by itself, `<label>_single`, and the mean over its neighbors, `<label>_multi`.

    Args:
        label: Of the submission.
        seed: Of the models.
        models: Adapted, one for each animal for evaluation.
        base: The pretrained model that they came from.
        recordings: By session, those of pretraining too.
        metadata: Texts of the header.

    Raises:
        ValueError: A session for evaluation without a model, or fewer than two regions among units of pretraining.
    """
    owner: dict[str, FoundationModel] = dict.fromkeys(base.adapters.sessions["recording_id"], base)
    for adapted in models:
        owner |= dict.fromkeys(adapted.model.adapters.sessions["recording_id"], adapted.model)
    test = [one for one in recordings.values() if is_evaluated(one)]
    if absent := sorted(one.info.recording_id for one in test if one.info.recording_id not in owner):
        raise ValueError(
            f"{label}: no adapted model of {len(absent)} sessions for evaluation, such as {absent[0]}; suite 3 scores "
            "all in one pool: run `foundation finetune` on their animals, or keep these sessions out of the corpus"
        )
    train = [one for one in recordings.values() if not is_evaluated(one) and one.info.recording_id in owner]
    used = [one.info.recording_id for one in (*train, *test)]
    with_prints = all(FINGERPRINT in owner[key].readouts.get(key, {}) for key in used)

    def vectors(some: Sequence[Recording]) -> np.ndarray:
        keys = [one.info.recording_id for one in some]
        found = [owner[key].unit_embeddings(key) if with_prints else owner[key].adapter_rows(key) for key in keys]
        return np.concatenate([rows[scored_units(one)] for rows, one in zip(found, some)]).astype(float)

    known = ts3_table(train) if train else None
    if known is None or known["target"].nunique() < 2:
        raise ValueError(
            f"{label}: fewer than two regions among units of the pretrained model's own sessions in the corpus; give "
            "the corpus it was pretrained on, or --base for another pretrained run"
        )
    probe = _fit(vectors(train), known["target"].to_numpy(int), known["subject"].to_numpy(str))
    table = ts3_table(test)
    probability = np.zeros((len(table), len(COSMOS)))
    probability[:, probe.classes_] = probe.predict_proba(vectors(test))
    ids = list(table["entity_id"])
    near = over_neighbors(
        probability, table["depth"].to_numpy(float), (table["session"] + table["probe"]).to_numpy(str)
    )
    return [
        regions_file(f"{label}_single", seed, ids, probability, metadata),
        regions_file(f"{label}_multi", seed, ids, near, metadata),
    ]


def _fit(features: np.ndarray, target: np.ndarray, subject: np.ndarray) -> Pipeline:
    """The logistic regression, C the best by macro-F1 on animals left out; 0.1 where there are too few of them."""
    folds = min(_FOLDS, len(set(subject)))
    splits = list(GroupKFold(folds).split(features, groups=subject)) if folds > 1 else []
    splits = [(fit, test) for fit, test in splits if len(set(target[fit])) > 1]

    def score(strength: float) -> float:
        found = [
            (target[test], _logistic(strength).fit(features[fit], target[fit]).predict(features[test]))
            for fit, test in splits
        ]
        truth, answer = (np.concatenate(parts) for parts in zip(*found))
        return float(f1_score(truth, answer, average="macro", zero_division=0))

    best = max(_C, key=score) if splits else 0.1
    return _logistic(best).fit(features, target)


def _logistic(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000))
