"""Columns of the task: which covariates have them, against values laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.channels import Channel
from foundation.recording import CovariateSpec
from foundation.sampling import STRUCTURE
from foundation.task_basis import BEHAVIOR_LAGS, MOST_CLASSES, MOST_INDICATORS, TaskBasis

NUM_BINS, SIZE = 30, 0.02


def blocks(spec: CovariateSpec, values: np.ndarray, observed: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """The blocks that a covariate adds to those of time."""
    structure = np.zeros((NUM_BINS, len(STRUCTURE)), np.float32)
    structure[:, 0] = SIZE * (np.arange(NUM_BINS) + 0.5)
    structure[:, 1] = structure[::-1, 0]
    found = TaskBasis([Channel(spec)], SIZE, NUM_BINS * SIZE, False).blocks(values, observed[:, None], structure)
    # Time from the start and to the end come first, traces of the last event last.
    return found[2:-1]


@pytest.mark.parametrize("kind", ["continuous", "categorical"])
def test_covariates_in_time_are_read_now_and_at_lags(kind: str) -> None:
    rng = np.random.default_rng(0)
    spec = CovariateSpec("a", kind, "time", num_classes=3 if kind == "categorical" else 0)  # type: ignore[arg-type]
    values = np.eye(3)[rng.integers(0, 3, NUM_BINS)] if kind == "categorical" else rng.normal(size=(NUM_BINS, 1))
    observed = rng.random(NUM_BINS) < 0.8
    ((size, block),) = blocks(spec, values, observed)
    assert size == 1.0
    seen = np.where(observed[:, None], values, 0)
    expected = [seen] if kind == "categorical" else [seen, np.abs(seen), np.tanh(2 * seen)]
    for lag in BEHAVIOR_LAGS:
        expected.append(np.array([seen[min(max(t - lag, 0), NUM_BINS - 1)] for t in range(NUM_BINS)]))
    assert np.allclose(block, np.concatenate(expected, axis=1))


def test_of_many_classes_those_of_the_trial_have_no_columns_and_frames_share_theirs() -> None:
    observed = np.ones(NUM_BINS, bool)
    observed[5] = False
    frame = np.arange(NUM_BINS) * 20
    for num_classes, columns in ((MOST_CLASSES, None), (MOST_CLASSES + 1, 0), (900, 0)):
        spec = CovariateSpec("image", "categorical", "trial", num_classes=num_classes)
        assert bool(blocks(spec, np.eye(num_classes)[frame % num_classes], observed)) == (columns is None)
    spec = CovariateSpec("image", "categorical", "time", num_classes=100)
    ((_, block),) = blocks(spec, np.eye(100)[frame % 100], observed)
    assert np.array_equal(block, np.eye(100)[frame % 100] * observed[:, None])
    spec = CovariateSpec("frame", "categorical", "time", num_classes=900)
    ((_, block),) = blocks(spec, np.eye(900)[frame], observed)
    width = 899 / (MOST_INDICATORS - 1)
    naive = [[max(0.0, 1 - abs(f - k * width) / width) for k in range(MOST_INDICATORS)] for f in frame]
    assert np.allclose(block, np.array(naive) * observed[:, None])
