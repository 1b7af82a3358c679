"""Classifiers of the unit probes: linear, a random forest and a small network, all balanced over classes.

Penalties are chosen on training units alone, by leaving their animals (or sessions) out. Knows no test unit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from eval.probe_table import MIN_UNITS_AVERAGED, ProbeTable, frequent_regions

# Inverse penalties, strongest first, and those where none can be chosen.
_STRENGTHS, _MLP_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0), (0.1, 1.0, 10.0)
DEFAULT_STRENGTH, _DEFAULT_MLP_STRENGTH = 0.1, 1.0
# The network is costly: its penalty is chosen on so many of the inner folds.
_MLP_FOLDS, _MLP_WIDTH = 3, 32
Folds = list[tuple[np.ndarray, np.ndarray]]


def fit_logistic(train: ProbeTable, seed: int = 0) -> ClassifierMixin:
    """StandardScaler and class-balanced logistic regression, its C chosen by leaving training animals out.

    The smallest C within one standard error of the best (Breiman et al. 1984): weak penalties win inside a set of
    similar animals and lose on one that differs. Where fewer than two training animals are large enough to be left out,
    sessions are left out in five folds instead; where that fails too, C is 0.1.
    """
    return _chosen(train, inner_folds(train), _linear, _STRENGTHS, DEFAULT_STRENGTH, seed)


def fit_mlp(train: ProbeTable, seed: int = 0) -> ClassifierMixin:
    """StandardScaler and a network of one hidden layer of 32 rectified units, its penalty chosen as in `fit_logistic`.

    Full-batch L-BFGS, as the sets are small; classes weigh alike.
    """
    return _chosen(train, inner_folds(train)[:_MLP_FOLDS], _mlp, _MLP_STRENGTHS, _DEFAULT_MLP_STRENGTH, seed)


def fit_forest(train: ProbeTable, seed: int = 0) -> ClassifierMixin:
    """Random forest, classes balanced in every tree."""
    forest = RandomForestClassifier(
        n_estimators=300, min_samples_leaf=3, class_weight="balanced_subsample", random_state=seed
    )
    return forest.fit(train.features, train.region)


PROBES: dict[str, Callable[[ProbeTable, int], ClassifierMixin]] = {
    "logistic": fit_logistic,
    "forest": fit_forest,
    "mlp": fit_mlp,
}


def inner_folds(train: ProbeTable) -> Folds:
    """Row indices to fit and to test on while choosing hyper-parameters: by animal, else by session, else none."""

    def usable(fit: np.ndarray, test: np.ndarray) -> bool:
        tested = frequent_regions(train.region[test])
        return (
            len(test) >= MIN_UNITS_AVERAGED and len(tested) >= 2 and tested <= frequent_regions(train.region[fit], 10)
        )

    by_animal, by_session = [], []
    if len(set(train.subject)) > 1:
        by_animal = list(LeaveOneGroupOut().split(train.features, groups=train.subject))
    if (num := min(5, len(set(train.session)))) > 1:
        by_session = list(GroupKFold(num).split(train.features, groups=train.session))
    for folds in (by_animal, by_session):
        kept = [(fit, test) for fit, test in folds if usable(fit, test)]
        if len(kept) >= 2:
            return kept
    return []


def logistic(strength: float, seed: int) -> ClassifierMixin:
    """StandardScaler and class-balanced logistic regression with C = `strength`, not fitted."""
    probe = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, random_state=seed)
    return make_pipeline(StandardScaler(), probe)


def _linear(features: np.ndarray, label: np.ndarray, strength: float, seed: int) -> ClassifierMixin:
    return logistic(strength, seed).fit(features, label)


def _mlp(features: np.ndarray, label: np.ndarray, strength: float, seed: int) -> ClassifierMixin:
    network = MLPClassifier((_MLP_WIDTH,), solver="lbfgs", alpha=1 / strength, max_iter=300, random_state=seed)
    with warnings.catch_warnings():
        # 300 steps are a stopping rule here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        weight = compute_sample_weight("balanced", label)
        return make_pipeline(StandardScaler(), network).fit(features, label, mlpclassifier__sample_weight=weight)


def _chosen(
    train: ProbeTable,
    folds: Folds,
    fit: Callable[[np.ndarray, np.ndarray, float, int], ClassifierMixin],
    strengths: tuple[float, ...],
    default: float,
    seed: int,
) -> ClassifierMixin:
    """A fit with the first of `strengths` whose macro-F1 over the folds is within one standard error of the best."""
    if len(folds) < 2:
        return fit(train.features, train.region, default, seed)
    scores = []
    for strength in strengths:
        fold_scores = []
        for rows, test in folds:
            probe = fit(train.features[rows], train.region[rows], strength, seed)
            truth, answer = train.region[test], probe.predict(train.features[test])
            fold_scores.append(f1_score(truth, answer, labels=np.unique(truth), average="macro", zero_division=0))
        scores.append(fold_scores)
    mean, error = np.mean(scores, axis=1), np.std(scores, axis=1, ddof=1) / np.sqrt(len(folds))
    best = int(mean.argmax())
    chosen = int(np.argmax(mean >= mean[best] - error[best]))
    return fit(train.features, train.region, strengths[chosen], seed)
