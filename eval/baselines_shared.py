"""Decoders of one session that borrow filters in time from the sessions of pretraining animals.

The least that training on many sessions should give; a model of many sessions has to give more. A session's own
decoders, and how the filters are found, are elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from eval.baselines_decoding import labels_of, trace_inputs
from eval.design import standardize
from eval.linear_fits import ScalarFit, logistic, ridge
from eval.session_view import SessionView
from eval.shared_filters import filtered, shared_filters, summary_of
from eval.trial_windows import WINDOW_SETS, window_rates
from foundation.corpus import Corpus

# Of so many sessions, evenly spaced, and so many units of each: the filters are a few dozen numbers, and what they
# are found from grows with the square of the units.
MAX_SESSIONS, MAX_UNITS = 24, 256
_LABEL_WINDOWS = (*WINDOW_SETS["quarters"], *WINDOW_SETS["last 100, 200 ms and before"])


@dataclass(frozen=True)
class OtherSessions:
    """Recordings of pretraining animals, split as the session that is scored; their train trials are read.

    Attributes:
        corpus: Holds them.
        recording_ids: Of the sessions.
        bin_size_s: Seconds.
        split: `interleaved` or `temporal`.
        fold: Of the interleaved split.
    """

    corpus: Corpus
    recording_ids: tuple[str, ...]
    bin_size_s: float
    split: str
    fold: int

    @classmethod
    def beside(cls, view: SessionView, corpus: Corpus, past: dict[str, Any]) -> OtherSessions:
        """Sessions of the corpus that a model was pretrained on, by its provenance, binned and split as a view is."""
        animals, out = past["pretraining_subjects"], past.get("held_out_sessions", [])
        ids = [key for key in corpus.ids if corpus.subjects[key] in animals and key not in out]
        return cls(corpus, tuple(ids[:: -(-len(ids) // MAX_SESSIONS) or 1]), view.bin_size_s, view.split, view.fold)

    def views(self) -> Iterator[SessionView]:
        """One after the other, opened when asked for, with the units that fire most in the train trials."""
        for recording_id in self.recording_ids:
            recording = self.corpus[recording_id]
            view = SessionView.of(recording, bin_size_s=self.bin_size_s, split=self.split, fold=self.fold)
            busiest = np.sort(np.argsort(-view.train_mean(), kind="stable")[:MAX_UNITS])
            columns = {name: getattr(view, name)[busiest] for name in ("unit", "region")}
            yield replace(view, counts=view.counts[:, busiest], **columns)


def shared_label(view: SessionView, name: str, others: OtherSessions) -> ScalarFit | None:
    """Logits `(M,)` of a label of two classes; the filters by validation. None where no other session has the label."""
    label, train, val = labels_of(view, name)
    block = _trial_block(view, train)
    fits = [
        logistic(standardize(filtered(block, filters), train), label, train, val)
        for filters in _label_filters(others, name)
    ]
    return min(fits, key=lambda fit: fit.validation_loss, default=None)


def shared_trace(view: SessionView, name: str, others: OtherSessions, *, causal: bool) -> ScalarFit | None:
    """Values `(R,)` of a behavior in time; the filters by validation. None where no other session has the behavior."""
    inputs = trace_inputs(view, name, causal=causal)
    lagged, fits = _by_window(inputs.lagged, view), []
    for filters in _trace_filters(others, name, causal):
        neural = standardize(filtered(lagged, filters), inputs.train)
        features = np.concatenate([neural, 3 * inputs.time], axis=1)
        fits.append(ridge(features, inputs.target, inputs.train, inputs.val))
    return min(fits, key=lambda fit: fit.validation_loss, default=None)


@lru_cache(maxsize=8)
def _label_filters(others: OtherSessions, name: str) -> list[np.ndarray]:
    found = []
    for view in others.views():
        covariate = view.trial_covariates.get(name)
        if covariate is not None and covariate.spec.num_classes == 2:
            train = view.trials_in("train")
            train = train[covariate.observed[train]]
            if len(np.unique(covariate.values[train])) == 2:
                found.append(summary_of(_trial_block(view, train)[train], covariate.values[train].astype(float)))
    return shared_filters(found) if found else []


@lru_cache(maxsize=8)
def _trace_filters(others: OtherSessions, name: str, causal: bool) -> list[np.ndarray]:
    found = []
    for view in others.views():
        behavior = view.row_covariates.get(name)
        if behavior is not None and (view.rows_in("train") & behavior.observed).any():
            inputs = trace_inputs(view, name, causal=causal)
            rows = inputs.train
            # What the time in trial tells is no matter of spikes.
            rest = inputs.target - ridge(inputs.time, inputs.target, rows, rows, penalties=(1.0,)).value
            found.append(summary_of(_by_window(inputs.lagged, view)[rows], rest[rows]))
    return shared_filters(found) if found else []


def _trial_block(view: SessionView, train: np.ndarray) -> np.ndarray:
    """`(M, W, U)`, standardized on train trials."""
    return _by_window(standardize(window_rates(view, _LABEL_WINDOWS), train), view)


def _by_window(block: np.ndarray, view: SessionView) -> np.ndarray:
    """`(N, W * U)` to `(N, W, U)`."""
    return block.reshape(len(block), -1, len(view.unit))
