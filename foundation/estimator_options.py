"""What the options of a contrastive estimator may be; the mode is read with the labels (`foundation.label_arrays`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from foundation.objectives.info_nce import SIMILARITIES
from foundation.pair_sampling import QUERIES


def check_options(options: Mapping[str, Any]) -> None:
    """Look at every number and name but the mode.

    Args:
        options: Arguments of `foundation.estimator.ContrastiveEmbedding`, by name.

    Raises:
        ValueError: One that cannot be; says what was expected.
    """
    for name, low in (
        ("output_dimension", 1),
        ("receptive_field", 1),
        ("num_hidden_units", 2),
        ("max_iterations", 0),
        ("batch_size", 1),
        ("time_offset", 1),
    ):
        value = options[name]
        if not isinstance(value, int | np.integer) or value < low:
            raise ValueError(f"{name} is {value!r}, expected an integer of at least {low}")
    for name in ("learning_rate", "temperature", "min_temperature", "delta"):
        value = options[name]
        if not isinstance(value, float | int | np.floating | np.integer) or not 0 < value < np.inf:
            raise ValueError(f"{name} is {value!r}, expected a positive number")
    dropout = options["unit_dropout"]
    if not isinstance(dropout, float | int | np.floating | np.integer) or not 0 <= dropout < 1:
        raise ValueError(f"unit_dropout is {dropout!r}, expected a share of units, at least 0 and below 1")
    for name, choices in (
        ("similarity", SIMILARITIES),
        ("query", QUERIES),
        ("negatives", ("all", "session")),
    ):
        if options[name] not in choices:
            raise ValueError(f"{name} is {options[name]!r}, expected one of {', '.join(choices)}")
    if options["learn_temperature"] and options["temperature"] < options["min_temperature"]:
        raise ValueError(
            f"temperature is {options['temperature']}, expected at least min_temperature "
            f"({options['min_temperature']}) where it is learned: a start below would stay there"
        )
    some = options["sessions_per_step"]
    if some is not None and (not isinstance(some, int | np.integer) or some < 1):
        raise ValueError(f"sessions_per_step is {some!r}, expected an integer of at least 1, or None for all")
