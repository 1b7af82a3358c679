"""The tasks of Brain-Wide Bench's three suites: what is predicted, where a corpus keeps it, which scores count.

Facts of brainbench-org/ibl-bwb (3c8cee9) and of its scorer, the package `ibl-bwb-eval` 0.1.0. Reads and scores nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Suite = Literal["ts1", "ts2", "ts3"]
Kind = Literal["class", "value", "count", "rates", "region"]

# Of `ibl-bwb-eval`; stamped into files, as its own writer does.
FORMAT_VERSION = "0.1.0"

BIN_S = 0.02
STEPS = 50  # of 20 ms: the scored second
FORECAST_STEPS = 5  # the last 100 ms of it
COSMOS = ("CB", "CNU", "CTXsp", "HB", "HPF", "HY", "Isocortex", "MB", "OLF", "TH")
# A submission has at least three of them, without a gap.
SEEDS = (43, 44, 45, 46, 47)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        suite: "ts1", "ts2" or "ts3".
        name: As upstream calls it.
        kind: Class logits, values (z-scored, or rad/s for the wheel), log of expected lick counts, log-rates of
            units, or probabilities of regions.
        metrics: That the package reports, the one that counts first.
        window: Suite 1: the intervals it is scored in.
        covariate: Suite 1: name in a corpus made with `configs/brainsets/brain_wide_bench.yaml`.
        order: Classes: upstream's number of each class of the covariate.
        counted: Suite 1, paws: the column of a window that says how many of its samples are confident.
    """

    suite: Suite
    name: str
    kind: Kind
    metrics: tuple[str, ...]
    window: str = ""
    covariate: str = ""
    order: tuple[int, ...] = ()
    counted: str = ""

    @property
    def id(self) -> str:
        """As folders and headers have it, such as "ts1-choice"."""
        return f"{self.suite}-{self.name}"

    @property
    def is_normalized(self) -> bool:
        """Whether the target is z-scored with mean and std of the train windows (pixels, but not the wheel's rad/s)."""
        return self.kind == "value" and self.name != "wheel_speed"


_CLASSES = ("bacc", "f1", "ap")
_VALUES = ("r2", "mae", "pearson")
_RATES = ("poisson_d2", "bps")
_MOVE = "movement_window"

TASKS = {
    task.id: task
    for task in (
        # Upstream codes right as 0 and left as 1.
        Task("ts1", "choice", "class", _CLASSES, "choice", "choice", (1, 0)),
        Task("ts1", "reward", "class", _CLASSES, "reward", "feedback", (0, 1)),
        Task("ts1", "stimulus_contrast", "class", _CLASSES, "stimulus_contrast", "stimulus_contrast", (0, 1, 2, 3, 4)),
        Task("ts1", "whisker_motion_energy", "value", _VALUES, _MOVE, "whisker_energy"),
        Task("ts1", "wheel_speed", "value", _VALUES, _MOVE, "wheel_speed"),
        Task("ts1", "right_paw_speed", "value", _VALUES, _MOVE, "right_paw_speed", (), "num_right_paw_confident"),
        Task("ts1", "left_paw_speed", "value", _VALUES, _MOVE, "left_paw_speed", (), "num_left_paw_confident"),
        Task("ts1", "licking_rate", "count", ("poisson_d2", "mae"), "licking_window", "licking_rate"),
        Task("ts2", "co_smoothing", "rates", _RATES),
        Task("ts2", "forecasting", "rates", _RATES),
        Task("ts3", "unit_cosmos", "region", ("macro/f1-score", "macro/precision", "macro/recall")),
    )
}


def task_of(task_id: str) -> Task:
    """The task of an id such as "ts1-choice".

    Raises:
        ValueError: No such task.
    """
    if task_id not in TASKS:
        raise ValueError(f"task is {task_id!r}, expected one of {', '.join(TASKS)}")
    return TASKS[task_id]


def suite_of(name: str) -> Suite:
    """The suite that a user names "bwb-ts1", "bwb-ts2" or "bwb-ts3".

    Raises:
        ValueError: Another name.
    """
    suites: tuple[Suite, ...] = ("ts1", "ts2", "ts3")
    for suite in suites:
        if name == f"bwb-{suite}":
            return suite
    raise ValueError(f"suite is {name!r}, expected bwb-ts1, bwb-ts2 or bwb-ts3")
