"""Columns of the baselines for covariates in time, against loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from eval.design import task_features
from eval.session_view import SessionView
from foundation.recording import Covariate, CovariateSpec, Recording
from foundation.task_basis import MOST_CLASSES, MOST_INDICATORS

LAGS = (2, 5, 10)


def view_with(recording: Recording, num_classes: int, seed: int = 0) -> tuple[SessionView, np.ndarray]:
    """A view whose only covariate has a new class every 20 ms, and the covariate's block of columns."""
    times = np.arange(0, 40, 0.02)
    classes = np.random.default_rng(seed).integers(0, num_classes, len(times))
    spec = CovariateSpec("frame", "categorical", "time", num_classes=num_classes, resample="last", role="stimulus")
    covariate = Covariate.categorical(spec, classes, times)
    view = SessionView.of(replace(recording, covariates={"frame": covariate}), bin_size_s=0.02)
    bare = SessionView.of(replace(recording, covariates={}), bin_size_s=0.02)
    both, without = (task_features(v, to_end=False) for v in (view, bare))
    assert np.allclose(both[:, : without.shape[1]], without)
    return view, both[:, without.shape[1] :]


def test_few_classes_have_columns_for_the_recent_past(tiny_recording: Callable[..., Recording]) -> None:
    view, block = view_with(tiny_recording(), 4)
    assert block.shape[1] == 4 * (1 + len(LAGS))
    classes, train = view.row_covariates["frame"].values[:, 0], view.rows_in("train")
    first = view.first_row()[view.trial]
    for j, lag in enumerate((0, *LAGS)):
        for k in range(4):
            raw = np.array([classes[max(r - lag, first[r])] == k for r in range(len(classes))], float)
            assert np.allclose(block[:, 4 * j + k], (raw - raw[train].mean()) / raw[train].std())


def test_frames_of_a_movie_share_columns_with_their_neighbors(tiny_recording: Callable[..., Recording]) -> None:
    _, many = view_with(tiny_recording(), MOST_CLASSES + 1)
    assert many.shape[1] == MOST_CLASSES + 1
    view, block = view_with(tiny_recording(), 900)
    assert block.shape[1] == MOST_INDICATORS
    frame, train = view.row_covariates["frame"].values[:, 0].astype(float), view.rows_in("train")
    knot = 100
    at = knot * 899 / (MOST_INDICATORS - 1)
    raw = np.maximum(0, 1 - np.abs(frame - at) / (899 / (MOST_INDICATORS - 1)))
    assert raw[train].std() > 0
    assert np.allclose(block[:, knot], (raw - raw[train].mean()) / raw[train].std())
