"""The read-out of an adapted session once more, as a convex problem on the frozen trunk.

After gradient adaptation, each unit's log-rate is fitted per question (encoding, co-smoothing, forecasting) by Poisson
ridge regression on the trunk states that this question leaves visible, the slow drift, and lagged principal components
of the visible spikes; the penalty is chosen per session on validation trials, and the result is averaged in log-rate
with the gradient's own read-out, with a weight also chosen there. Train and validation trials only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from foundation.adapters import DRIFT_TERMS
from foundation.model import FoundationModel
from foundation.poisson_ridge import fit_poisson_ridge
from foundation.predict import Answer, Hide, answers, hide_future, hide_spikes, hide_units
from foundation.sampling import Window
from foundation.train import TrainingData

Question = Literal["encode", "cosmooth", "forecast"]
QUESTIONS: tuple[Question, ...] = ("encode", "cosmooth", "forecast")
# Lag windows in bins for co-smoothing, ends included; forecasting reads means over what is known.
LAGS = ((-5, -4), (-3, -2), (-1, -1), (0, 0), (1, 1), (2, 3), (4, 5))
KNOWN_SHARE = 0.8


@dataclass
class ReadoutConfig:
    """The convex read-out.

    Attributes:
        enabled: Whether to fit it.
        penalties: Grid of the ridge penalty.
        components: Principal components of the session's spikes, at most.
        groups: Units are hidden in this many groups to fit co-smoothing.
    """

    enabled: bool = True
    penalties: list[float] = field(default_factory=lambda: [1.0, 10.0, 100.0, 1000.0])
    components: int = 24
    groups: int = 10


def fit_readouts(model: FoundationModel, data: TrainingData, config: ReadoutConfig) -> None:
    """Fit."""
