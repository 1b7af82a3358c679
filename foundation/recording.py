"""One recording in memory: spikes, units, covariates, trials and the intervals where data exist.

Knows nothing of bins, batches, files or torch. `foundation.corpus` puts recordings on disk, `foundation.binning` turns
stretches of them into counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["continuous", "categorical", "event"]
Scope = Literal["time", "trial"]
Role = Literal["behavior", "stimulus", "task"]

# Each part names a folder; hidden ones are those being written.
_ID = re.compile(r"[^\s/\\.][^\s/\\]*/[^\s/\\.][^\s/\\]*")
# They name files and columns.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")


class RecordingError(ValueError):
    """A recording that breaks a rule of the format; the message names the recording, the field and the cure."""


@dataclass(frozen=True)
class CovariateSpec:
    """What a behavior, stimulus or task variable is. Adding one touches only a recipe, never the library.

    Attributes:
        name: Identifier, unique within the recording.
        kind: `continuous` (real values), `categorical` (classes 0..num_classes-1) or `event` (times only).
        scope: `time` (own clock) or `trial` (one value per trial).
        num_classes: Number of classes of a categorical covariate, else 0.
        dim: Values per sample of a continuous covariate, else 1.
        resample: How time-scope samples become bins: `mean` of the samples in the bin (interpolated when none falls in
            it) or `last` (the value that holds at the end of the bin).
        unit: Physical unit, such as "rad/s".
        role: `behavior` (what the animal does), `stimulus` (what it is shown) or `task` (known before the trial).
        description: One sentence.
    """

    name: str
    kind: Kind
    scope: Scope
    num_classes: int = 0
    dim: int = 1
    resample: Literal["mean", "last"] = "mean"
    unit: str = ""
    role: Role = "behavior"
    description: str = ""

    def __post_init__(self) -> None:
        """Reject a specification that contradicts itself."""
        allowed = {
            "kind": ("continuous", "categorical", "event"),
            "scope": ("time", "trial"),
            "role": ("behavior", "stimulus", "task"),
            "resample": ("mean", "last"),
        }
        for key, options in allowed.items():
            if getattr(self, key) not in options:
                raise RecordingError(
                    f"covariate {self.name!r}: {key} is {getattr(self, key)!r}, expected one of {options}"
                )
        if not _NAME.fullmatch(self.name):
            raise RecordingError(
                f"covariate name {self.name!r}: expected at most 128 letters, digits and '_', starting with a letter"
            )
        if (self.kind == "categorical") != (self.num_classes >= 2):
            raise RecordingError(
                f"covariate {self.name!r}: num_classes is {self.num_classes} for kind {self.kind!r}; "
                "give at least 2 for categorical and 0 otherwise"
            )
        if self.kind == "event" and self.scope == "trial":
            raise RecordingError(f"covariate {self.name!r}: an event has scope 'time'; give its times")
        if self.dim < 1 or (self.dim > 1 and (self.kind != "continuous" or self.scope == "trial")):
            raise RecordingError(
                f"covariate {self.name!r}: dim is {self.dim}; only continuous covariates in time have several"
            )


@dataclass(frozen=True)
class Covariate:
    """Samples of one covariate.

    Attributes:
        spec: What the samples mean.
        values: `(M,)` or `(M, dim)` float32 for continuous, `(M,)` int64 for categorical, `(0,)` for events.
            Unobserved entries hold 0 and are never read.
        observed: `(M,)` bool; `(0,)` for events.
        times: `(M,)` float64 seconds, sorted; None for trial scope, whose M is the number of trials.
    """

    spec: CovariateSpec
    values: np.ndarray
    observed: np.ndarray
    times: np.ndarray | None = None

    @classmethod
    def continuous(cls, spec: CovariateSpec, values: np.ndarray, times: np.ndarray | None = None) -> Covariate:
        """Build from real values `(M,)` or `(M, dim)`; NaN means not observed."""
        values = np.asarray(values, dtype=np.float32)
        finite = np.isfinite(values)
        observed = finite if values.ndim == 1 else finite.all(axis=1)
        filled = np.where(observed if values.ndim == 1 else observed[:, None], values, np.float32(0))
        return cls(spec, filled, observed, None if times is None else np.asarray(times, dtype=np.float64))

    @classmethod
    def categorical(cls, spec: CovariateSpec, values: np.ndarray, times: np.ndarray | None = None) -> Covariate:
        """Build from classes `(M,)`; a negative value means not observed."""
        values = np.asarray(values, dtype=np.int64)
        observed = values >= 0
        return cls(spec, np.where(observed, values, 0), observed, None if times is None else np.asarray(times, float))

    @classmethod
    def events(cls, spec: CovariateSpec, times: np.ndarray) -> Covariate:
        """Build from event times `(M,)` in seconds, in any order."""
        return cls(spec, np.zeros(0, np.float32), np.zeros(0, bool), np.sort(np.asarray(times, dtype=np.float64)))


@dataclass(frozen=True)
class RecordingInfo:
    """Who was recorded, by whom, under which licence, and how the recording came to be.

    Attributes:
        recording_id: `"<dataset>/<session>"`.
        subject_id: The animal; held-out splits follow it.
        recipe: Name and version of the code that made the recording, such as "luo2025 1".
        source: Free text: DOI, file name, upstream version.
        licence: Licence of the data.
        min_bin_size_s: 0 for spike times; for sources that only have counts, their bin size. Such spikes stand at bin
            centers, and only whole multiples of this size are valid bins.
        species: Such as "rat".
        notes: What the recipe left out, and why.
        counts: What came in, was left out (by reason) and was kept, such as "units out: label below 1".
        splits: Splits that the source came with, by scope ("" without one) and role: intervals `[start, stop]` in s.
            Only the split `source` follows them (`foundation.splits.source_roles`).
    """

    recording_id: str
    subject_id: str
    recipe: str
    source: str = ""
    licence: str = ""
    min_bin_size_s: float = 0.0
    species: str = ""
    notes: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    splits: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """The part of `recording_id` before the slash."""
        return self.recording_id.split("/")[0]

    @property
    def session(self) -> str:
        """The part of `recording_id` after the slash."""
        return self.recording_id.split("/")[1]


@dataclass(frozen=True)
class Recording:
    """One session of one animal. Arrays may be read-only memory maps.

    Attributes:
        info: Identity and provenance.
        spike_times: `(K,)` float64 seconds on the session clock, sorted, equal times valid.
        spike_units: `(K,)` int32, row of each spike's unit in `units`.
        units: One row per unit: `unit_id` (unique), `region` ("" when unknown), and whatever the recipe knows.
        trials: One row per trial, sorted: `start_s`, `stop_s`, `usable` (False: kept but in no split role),
            `source_index` (0-based position in the source) and extras. May be empty.
        domain: `(I, 2)` float64 half-open intervals in seconds where data exist, sorted, disjoint.
        covariates: By name.
    """

    info: RecordingInfo
    spike_times: np.ndarray
    spike_units: np.ndarray
    units: pd.DataFrame
    trials: pd.DataFrame
    domain: np.ndarray
    covariates: dict[str, Covariate] = field(default_factory=dict)

    @property
    def num_units(self) -> int:
        """Number of units N."""
        return len(self.units)

    @property
    def duration_s(self) -> float:
        """Seconds inside the domain."""
        return float(np.sum(self.domain[:, 1] - self.domain[:, 0]))

    def spikes_between(self, start_s: float, stop_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Views of the times and units of the spikes in `[start_s, stop_s)`."""
        lo, hi = self.spike_times.searchsorted((start_s, stop_s))
        return self.spike_times[lo:hi], self.spike_units[lo:hi]

    def validate(self) -> Recording:
        """Return self, or raise `RecordingError` naming the first field that breaks the format."""
        _validate_identity(self)
        _validate_spikes(self)
        _validate_intervals(self)
        for name, covariate in self.covariates.items():
            _validate_covariate(self, name, covariate)
        return self


def empty_trials() -> pd.DataFrame:
    """The trials table of a recording without trials."""
    return pd.DataFrame(
        {
            "start_s": np.zeros(0),
            "stop_s": np.zeros(0),
            "usable": np.zeros(0, bool),
            "source_index": np.zeros(0, np.int64),
        }
    )


def _fail(recording: Recording, where: str, got: Any, expected: str) -> None:
    raise RecordingError(f"{recording.info.recording_id}: {where}: got {got}; expected {expected}")


def _validate_identity(r: Recording) -> None:
    for field_ in ("recording_id", "subject_id"):
        if not isinstance(getattr(r.info, field_), str):
            _fail(r, field_, repr(getattr(r.info, field_)), "text")
    if not _ID.fullmatch(r.info.recording_id) or ".." in r.info.recording_id:
        _fail(
            r, "recording_id", repr(r.info.recording_id), "'<dataset>/<session>' without spaces, '..' or a leading '.'"
        )
    if not r.info.subject_id:
        _fail(r, "subject_id", "an empty string", "the animal's name; splits follow it")
    if not (np.isfinite(r.info.min_bin_size_s) and r.info.min_bin_size_s >= 0):
        _fail(r, "min_bin_size_s", r.info.min_bin_size_s, "0 or the bin size of the source in seconds")
    for column in ("unit_id", "region"):
        if column not in r.units:
            _fail(r, "units", f"columns {list(r.units.columns)}", f"a column {column!r}")
    if not len(r.units):
        _fail(r, "units", "no unit", "at least one; leave the session out of the corpus")
    if r.units["unit_id"].duplicated().any():
        repeated = r.units["unit_id"][r.units["unit_id"].duplicated()].iloc[0]
        _fail(r, "units.unit_id", f"{repeated!r} twice", "unique ids")


def _validate_spikes(r: Recording) -> None:
    times, units = r.spike_times, r.spike_units
    if times.ndim != 1 or times.shape != units.shape:
        _fail(r, "spikes", f"times {times.shape} and units {units.shape}", "two vectors of one length")
    if not np.issubdtype(times.dtype, np.floating) or not np.issubdtype(units.dtype, np.integer):
        _fail(r, "spikes", f"dtypes {times.dtype} and {units.dtype}", "float seconds and integer unit rows")
    if not len(times):
        _fail(r, "spike_times", "no spike", "at least one; leave the session out of the corpus")
    if not np.isfinite(times).all():
        _fail(r, "spike_times", f"{int((~np.isfinite(times)).sum())} non-finite values", "finite seconds")
    if times[0] < 0 and times.min() < 0:
        _fail(r, "spike_times", f"a negative time ({times.min():.6g} s)", "seconds from the start of the session")
    if (times[1:] < times[:-1]).any():
        _fail(r, "spike_times", f"a decrease at row {int(np.argmax(times[1:] < times[:-1])) + 1}", "sorted times")
    if units.min() < 0 or units.max() >= len(r.units):
        _fail(r, "spike_units", f"rows {units.min()}..{units.max()}", f"rows 0..{len(r.units) - 1} of the units table")


def _validate_intervals(r: Recording) -> None:
    if r.domain.ndim != 2 or r.domain.shape[1] != 2 or not len(r.domain):
        _fail(r, "domain", f"shape {r.domain.shape}", "(I, 2) intervals in seconds, I >= 1")
    for column in ("start_s", "stop_s", "usable", "source_index"):
        if column not in r.trials:
            _fail(r, "trials", f"columns {list(r.trials.columns)}", f"a column {column!r}")
    trials = r.trials[["start_s", "stop_s"]].to_numpy(dtype=float)
    for name, intervals in (("domain", r.domain), ("trials", trials)):
        if not np.isfinite(intervals).all():
            _fail(r, name, "non-finite bounds", "finite seconds; drop intervals without bounds and note it")
        if (intervals < 0).any():
            _fail(r, name, f"a negative bound ({intervals.min():.6g} s)", "seconds from the start of the session")
        if (intervals[:, 1] <= intervals[:, 0]).any():
            row = int(np.argmax(intervals[:, 1] <= intervals[:, 0]))
            _fail(r, name, f"interval {row} = {intervals[row].tolist()}", "start < stop")
        overlap = intervals[1:, 0] < intervals[:-1, 1] - 1e-9
        if overlap.any():
            row = int(np.argmax(overlap)) + 1
            _fail(r, name, f"interval {row} starts before interval {row - 1} stops", "sorted, disjoint intervals")


def _validate_covariate(r: Recording, name: str, c: Covariate) -> None:
    where = f"covariates.{name}"
    if c.spec.name != name:
        _fail(r, where, f"a spec named {c.spec.name!r}", "the same name")
    if (c.times is None) != (c.spec.scope == "trial"):
        _fail(
            r, where, f"times {'missing' if c.times is None else 'given'}", "times for scope 'time', none for 'trial'"
        )
    if c.times is None and name in r.trials:
        _fail(r, where, "a column of that name in trials too", "another name for one of them; they share a table")
    if c.times is not None:
        if c.times.ndim != 1 or not np.isfinite(c.times).all():
            _fail(r, where, f"times of shape {c.times.shape} or non-finite", "a vector of finite seconds")
        if (c.times < 0).any():
            _fail(r, where, f"a negative time ({c.times.min():.6g} s)", "seconds from the start of the session")
        if (c.times[1:] < c.times[:-1]).any():
            _fail(r, where, "unsorted times", "sorted times")
    if c.spec.kind == "event":
        if len(c.values) or len(c.observed):
            _fail(r, where, f"{len(c.values)} values", "times only for an event")
        return
    rows = len(r.trials) if c.times is None else len(c.times)
    shape = (rows,) if c.spec.dim == 1 else (rows, c.spec.dim)
    if c.values.shape != shape or c.observed.shape != (rows,) or c.observed.dtype != bool:
        _fail(
            r,
            where,
            f"values {c.values.shape}, observed {c.observed.shape} {c.observed.dtype}",
            f"values {shape}, observed ({rows},) bool",
        )
    seen = c.values[c.observed]
    if c.spec.kind == "continuous":
        if not np.isfinite(seen).all():
            _fail(r, where, "non-finite observed values", "finite values; mark missing ones in `observed`")
    elif len(seen) and (
        not np.issubdtype(seen.dtype, np.integer) or seen.min() < 0 or seen.max() >= c.spec.num_classes
    ):
        _fail(r, where, f"classes {seen.min()}..{seen.max()} ({seen.dtype})", f"integers 0..{c.spec.num_classes - 1}")
