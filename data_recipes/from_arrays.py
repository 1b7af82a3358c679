"""NumPy arrays in memory become a `Recording`: spike times, counts per bin, or counts per trial; opens no file.

Example:
    recording = recording_from_arrays(
        "mylab/day1", "mouse1", spike_times=t, spike_units=u, units={"region": areas},
        trial_start_s=start, trial_stop_s=stop, covariates={"speed": (speed, speed_times), "choice": choice},
    )
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from data_recipes.array_clock import Clock, bin_clock, spike_clock, trial_clock
from data_recipes.cleaning import check_seconds
from foundation.recording import Covariate, CovariateSpec, Recording, RecordingInfo, Scope, empty_trials


def recording_from_arrays(
    recording_id: str,
    subject_id: str,
    *,
    spike_times: np.ndarray | None = None,
    spike_units: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    axes: tuple[str, ...] = ("bin", "unit"),
    bin_size_s: float | None = None,
    trial_start_s: np.ndarray | None = None,
    trial_stop_s: np.ndarray | None = None,
    trial_label: np.ndarray | None = None,
    units: Mapping[str, np.ndarray] | None = None,
    covariates: Mapping[str, np.ndarray | tuple[np.ndarray, np.ndarray]] | None = None,
    specs: Mapping[str, Mapping[str, Any]] | None = None,
    **about: Any,
) -> Recording:
    """Make a recording of plain arrays, and validate it.

    Args:
        recording_id: `"<dataset>/<session>"`.
        subject_id: The animal; held-out splits follow it.
        spike_times: `(K,)` seconds from the start of the session, in any order.
        spike_units: `(K,)` row of each spike's unit, 0..N-1.
        counts: Instead of spike times: whole numbers, `(bins, units)`, or three axes as `axes` says.
        axes: Names of the axes of `counts`, out of `trial`, `bin` and `unit`.
        bin_size_s: Bin size of `counts` in seconds. Spikes are put at bin centers; finer bins are refused later on.
        trial_start_s: `(R,)` seconds. For counts per trial: the start of each trial's first bin; without it the trials
            are laid out one after another, `PSEUDO_GAP_S` apart.
        trial_stop_s: `(R,)` seconds; not for counts per trial.
        trial_label: For counts in `(bins, units)`: `(T,)` number of the trial of each bin. Every run of one number is a
            trial, and is taken not to touch the next in time; runs of a negative number are left out.
        units: Columns of the units table, each `(N,)`; `region` is the one that is known to the library.
        covariates: Values by name; a pair is values and their times in seconds. Without times, the length says whether
            they are one per trial or one per bin (`(trials, bins)` for counts per trial). NaN, and a negative class,
            mean not observed. For events, their times.
        specs: By name, fields of `CovariateSpec` that the values do not tell: `role`, `unit`, `kind="event"`,
            `scope`... By default whole numbers are categorical, others continuous, and the role is behavior.
        about: Other fields of `RecordingInfo`: source, licence, species, notes.

    Raises:
        ValueError: The arrays contradict each other, or cannot be in seconds; the message says which and what to do.
    """
    units = {name: np.asarray(column) for name, column in (units or {}).items()}
    given = _vector(recording_id, "trial_start_s", trial_start_s), _vector(recording_id, "trial_stop_s", trial_stop_s)
    if (counts is None) == (spike_times is None):
        raise ValueError(f"{recording_id}: got {'neither' if counts is None else 'both'}, give spike_times or counts")
    if counts is not None:
        times, rows, num_units, clock = _from_counts(recording_id, counts, axes, bin_size_s, *given, trial_label)
    else:
        times, rows, clock = _from_times(recording_id, spike_times, spike_units, *given)
        num_units = max((len(column) for column in units.values()), default=0) or _num_units(recording_id, rows)
    for name, column in units.items():
        if column.shape != (num_units,):
            raise ValueError(f"{recording_id}: units.{name}: got shape {column.shape}, expected ({num_units},)")
    if rows.size and (rows.min() < 0 or rows.max() >= num_units):
        raise ValueError(
            f"{recording_id}: spike_units: got {rows.min()}..{rows.max()}, expected rows 0..{num_units - 1} of the "
            "unit arrays; for cluster ids use np.unique(ids, return_inverse=True)[1]"
        )
    check_seconds(recording_id, len(times), num_units, float(np.sum(clock.domain[:, 1] - clock.domain[:, 0])))
    unit_ids = [f"{recording_id}/probe/{i}" for i in range(num_units)]
    notes = "; ".join(text for text in (about.pop("notes", ""), clock.note) if text)
    specs = specs or {}
    made = {
        name: _covariate(f"{recording_id}: covariate {name!r}", name, samples, dict(specs.get(name, {})), clock)
        for name, samples in (covariates or {}).items()
    }
    if unknown := sorted(set(specs) - set(made)):
        raise ValueError(f"{recording_id}: specs for {unknown}, but the covariates are {sorted(made)}")
    return Recording(
        info=RecordingInfo(
            recording_id,
            subject_id,
            recipe=about.pop("recipe", "arrays"),
            min_bin_size_s=float(bin_size_s or 0),
            notes=notes,
            **about,
        ),
        spike_times=times,
        spike_units=rows.astype(np.int32),
        units=pd.DataFrame({"unit_id": unit_ids, "region": np.full(num_units, "", dtype=object)} | units),
        trials=_trials_table(clock.trials),
        domain=clock.domain,
        covariates=made,
    ).validate()


def _from_times(
    where: str,
    spike_times: np.ndarray | None,
    spike_units: np.ndarray | None,
    start: np.ndarray | None,
    stop: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, Clock]:
    times, rows = np.asarray(spike_times, float), np.asarray(spike_units)
    if spike_units is None or times.ndim != 1 or times.shape != rows.shape:
        got = "no spike_units" if spike_units is None else f"spike_times {times.shape} and spike_units {rows.shape}"
        raise ValueError(f"{where}: got {got}, expected two vectors of one length")
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"{where}: spike_units: got dtype {rows.dtype}, expected integer rows of the unit arrays")
    if not len(times) or not np.isfinite(times).all():
        raise ValueError(
            f"{where}: spike_times: {int((~np.isfinite(times)).sum())} of {len(times)} are NaN or infinite"
        )
    order = np.argsort(times, kind="stable")
    return times[order], rows[order], spike_clock(where, times, start, stop)


def _from_counts(
    where: str,
    counts: np.ndarray,
    axes: tuple[str, ...],
    bin_size_s: float | None,
    start: np.ndarray | None,
    stop: np.ndarray | None,
    label: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, int, Clock]:
    counts = np.asarray(counts)
    expected = {2: {"bin", "unit"}, 3: {"trial", "bin", "unit"}}.get(counts.ndim, set())
    if len(axes) != counts.ndim or set(axes) != expected:
        raise ValueError(
            f"{where}: counts of shape {counts.shape} with axes {list(axes)}; name the axes in their order, such as "
            "['bin', 'unit'] or ['trial', 'unit', 'bin']"
        )
    if bin_size_s is None or not 0 < bin_size_s < np.inf:
        raise ValueError(f"{where}: bin_size_s is {bin_size_s}, expected the bin size of the counts in seconds")
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts != np.round(counts)).any():
        raise ValueError(f"{where}: counts hold NaN, negative or fractional values, expected whole numbers of spikes")
    order = [axes.index(name) for name in ("trial", "bin", "unit") if name in axes]
    counts = counts.transpose(order).astype(np.int64)
    bins_per_trial = counts.shape[1] if counts.ndim == 3 else 0
    if counts.ndim == 3:
        if stop is not None or label is not None:
            raise ValueError(f"{where}: trial_stop_s and trial_label do not go with counts per trial; leave them out")
        clock = trial_clock(where, counts.shape[0], bins_per_trial, bin_size_s, start)
        counts = counts.reshape(-1, counts.shape[2])
    else:
        clock = bin_clock(where, len(counts), bin_size_s, start, stop, label)
        if label is not None:
            counts[np.asarray(label) < 0] = 0
    assert clock.centers is not None
    bins, rows = np.nonzero(counts)
    repeat = counts[bins, rows]
    return np.repeat(clock.centers[bins], repeat), np.repeat(rows, repeat), counts.shape[1], clock


def _covariate(where: str, name: str, samples: Any, fields: dict[str, Any], clock: Clock) -> Covariate:
    values, times = samples if isinstance(samples, tuple) else (samples, None)
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{where}: got {values.dtype} values, expected numbers; turn names into classes 0, 1, 2...")
    if fields.get("kind") == "event":
        return Covariate.events(CovariateSpec(name, **{"scope": "time", **fields}), values)
    kind = fields.pop("kind", "continuous" if values.dtype.kind == "f" else "categorical")
    scope: Scope = fields.pop("scope", None) or _scope(where, values, times, clock)
    if scope == "time" and times is None:
        values, times = _on_bins(where, values, clock)
    rows = len(clock.trials) if times is None else len(times)
    if values.ndim not in (1, 2) or len(values) != rows:
        raise ValueError(f"{where}: got values of shape {values.shape}, expected {rows} rows, one per {scope}")
    if times is not None:
        times = np.asarray(times, float)
        order = np.argsort(times, kind="stable")
        values, times = values[order], times[order]
    if np.isinf(values).any():
        raise ValueError(f"{where}: infinite values; use NaN for what was not observed")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if kind != "categorical":
        dim = 1 if values.ndim == 1 else values.shape[1]
        return Covariate.continuous(CovariateSpec(name, kind, scope, **{"dim": dim, **fields}), values, times)
    classes = np.where(np.isnan(values), -1, values)
    if classes.ndim != 1 or (classes != np.round(classes)).any():
        raise ValueError(f"{where}: got values of shape {classes.shape}, expected a vector of whole numbers as classes")
    fields.setdefault("num_classes", max(2, int(classes.max(initial=0)) + 1))
    return Covariate.categorical(CovariateSpec(name, kind, scope, **fields), classes.astype(np.int64), times)


def _on_bins(where: str, values: np.ndarray, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
    """Values one per bin, and the bins' times."""
    if clock.bins_per_trial and values.shape[:2] == (len(clock.trials), clock.bins_per_trial):
        values = values.reshape(-1, *values.shape[2:])
    if clock.centers is None or len(values) != len(clock.centers):
        raise ValueError(f"{where}: got values of shape {values.shape} in time; give their times, or one row per bin")
    return values, clock.centers


def _scope(where: str, values: np.ndarray, times: np.ndarray | None, clock: Clock) -> Scope:
    if times is not None:
        return "time"
    num_trials, num_bins = len(clock.trials), 0 if clock.centers is None else len(clock.centers)
    trial_shape = (num_trials, clock.bins_per_trial)
    per_bin = 0 < num_bins == len(values) or (clock.bins_per_trial > 0 and values.shape[:2] == trial_shape)
    per_trial = 0 < num_trials == len(values) and values.ndim == 1
    if per_bin == per_trial:
        raise ValueError(
            f"{where}: shape {values.shape} fits {'both' if per_bin else 'neither'} {num_trials} trials "
            f"{'and' if per_bin else 'nor'} {num_bins} bins; give its times, or its scope"
        )
    return "time" if per_bin else "trial"


def _trials_table(trials: np.ndarray) -> pd.DataFrame:
    if not len(trials):
        return empty_trials()
    return pd.DataFrame(
        {"start_s": trials[:, 0], "stop_s": trials[:, 1], "usable": True, "source_index": np.arange(len(trials))}
    )


def _vector(where: str, name: str, values: np.ndarray | None) -> np.ndarray | None:
    if values is None:
        return None
    vector = np.asarray(values, float)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"{where}: {name}: got shape {vector.shape} or NaN, expected a vector of finite seconds")
    return vector


def _num_units(where: str, rows: np.ndarray) -> int:
    """Number of units when no unit array tells it."""
    num, active = int(rows.max(initial=0)) + 1, len(np.unique(rows))
    if active < num / 2:
        raise ValueError(
            f"{where}: spike_units: rows up to {num - 1}, but only {active} units have spikes. If these are cluster "
            "ids, use np.unique(ids, return_inverse=True)[1]; if not, give an array of `units`"
        )
    return num
