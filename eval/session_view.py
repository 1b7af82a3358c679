"""One session as the evaluation sees it: trial-aligned rows of counts and covariates, with the role of every trial.

Models, baselines and the scorer all read the same view, so that rows, units, bins, split and null agree. It predicts
and scores nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np

from data_recipes.regions import known_regions
from foundation.binning import bin_covariate, bin_spikes, check_bin_size
from foundation.recording import CovariateSpec, Recording
from foundation.splits import NO_ROLE, ROLES, TRAIN, few_shot_roles, session_roles, stretches

# A trial that ends this close to a bin edge ends on it; times are doubles on a session clock of up to 1e4 s.
_EDGE_S = 1e-6


@dataclass(frozen=True)
class TrialCovariate:
    """A covariate of scope `trial`: values `(M,)` and observed `(M,)` bool."""

    spec: CovariateSpec
    values: np.ndarray
    observed: np.ndarray


@dataclass(frozen=True)
class RowCovariate:
    """A covariate of scope `time`: values `(R, dim)` per bin (events: their number) and observed `(R,)` bool."""

    spec: CovariateSpec
    values: np.ndarray
    observed: np.ndarray


@dataclass(frozen=True, eq=False)
class SessionView:
    """All bins of all trials of one session, M trials, R rows (one per trial and bin), U units.

    Units stand in an order drawn from the recording id, never in the source's, because depth order alone tells regions
    apart (protocol, section 0). A recording without trials is viewed in the stretches that stand in for them.

    Attributes:
        dataset: Of the recording.
        session: Of the recording.
        split: `interleaved` or `temporal`; of a model adapted elsewhere, a split of the source.
        fold: Of the interleaved split.
        bin_size_s: Seconds.
        unit: `(U,)` 0-based position of each unit in the source, in the order of the columns of `counts`.
        region: `(U,)` region of each unit, "" where unknown or "root". It says what a task hides; no model reads it.
        source_trial: `(M,)` 0-based position of each trial in the source.
        roles: `(M,)` TRAIN, VAL, TEST or NO_ROLE as used for fitting: few-shot draws applied.
        full_roles: `(M,)` the same before a few-shot draw. The null and the choice of scored units follow these.
        num_bins: `(M,)` whole bins of each trial; the rest of a trial is dropped.
        start_s: `(M,)` start of each trial on the session clock, seconds.
        trial: `(R,)` row of the trial in the per-trial arrays.
        bin: `(R,)` index of the bin in its trial.
        counts: `(R, U)` uint8 spikes.
        row_covariates: By name.
        trial_covariates: By name.
    """

    dataset: str
    session: str
    split: str
    fold: int
    bin_size_s: float
    unit: np.ndarray
    region: np.ndarray
    source_trial: np.ndarray
    roles: np.ndarray
    full_roles: np.ndarray
    num_bins: np.ndarray
    start_s: np.ndarray
    trial: np.ndarray
    bin: np.ndarray
    counts: np.ndarray
    row_covariates: dict[str, RowCovariate] = field(default_factory=dict)
    trial_covariates: dict[str, TrialCovariate] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        recording: Recording,
        *,
        bin_size_s: float = 0.02,
        split: str = "interleaved",
        fold: int = 0,
        few_shot: tuple[int, int] | None = None,
    ) -> SessionView:
        """View a recording.

        Args:
            recording: Any; without trials its stretches are the trials.
            bin_size_s: Bin size in seconds.
            split: See `foundation.splits.session_roles`.
            fold: Of the interleaved split.
            few_shot: `(K, draw)`: keep K train trials of that draw (`foundation.splits.few_shot_roles`).

        Raises:
            ValueError: A bin size that the recording does not allow, or more train trials asked for than there are.
        """
        check_bin_size(recording, bin_size_s)
        intervals = _clip(stretches(recording), recording.domain)
        full = np.where(
            intervals[:, 1] > intervals[:, 0] + bin_size_s - _EDGE_S, session_roles(recording, split, fold), NO_ROLE
        )
        session = recording.info.session
        roles = full if few_shot is None else few_shot_roles(full, few_shot[0], few_shot[1], session)
        num_bins = np.floor((intervals[:, 1] - intervals[:, 0] + _EDGE_S) / bin_size_s).astype(np.int64)
        trial = np.repeat(np.arange(len(intervals)), num_bins)
        row_bin = np.arange(len(trial)) - np.repeat(np.cumsum(num_bins) - num_bins, num_bins)
        order = np.random.default_rng(zlib.crc32(recording.info.recording_id.encode())).permutation(recording.num_units)
        counts = [
            bin_spikes(recording, start, bins, bin_size_s)[:, order] for start, bins in zip(intervals[:, 0], num_bins)
        ]
        has_trials = len(recording.trials) > 0
        source = recording.trials["source_index"].to_numpy(np.int64) if has_trials else np.arange(len(intervals))
        return cls(
            dataset=recording.info.dataset,
            session=session,
            split=split,
            fold=fold,
            bin_size_s=bin_size_s,
            unit=order,
            region=known_regions(recording.units["region"])[order],
            source_trial=source,
            roles=roles,
            full_roles=full,
            num_bins=num_bins,
            start_s=intervals[:, 0],
            trial=trial,
            bin=row_bin,
            counts=np.concatenate(counts),
            row_covariates=_row_covariates(recording, intervals[:, 0], num_bins, bin_size_s),
            trial_covariates={
                name: TrialCovariate(c.spec, c.values, c.observed)
                for name, c in recording.covariates.items()
                if c.spec.scope == "trial"
            },
        )

    @property
    def time_s(self) -> np.ndarray:
        """End of each bin since the start of its trial, `(R,)` seconds."""
        return (self.bin + 1) * self.bin_size_s

    @property
    def to_end_s(self) -> np.ndarray:
        """From the end of each bin to the end of the last bin of its trial, `(R,)` seconds."""
        return (self.num_bins[self.trial] - 1 - self.bin) * self.bin_size_s

    @property
    def clock_s(self) -> np.ndarray:
        """End of each bin on the session clock, `(R,)` seconds."""
        return self.start_s[self.trial] + self.time_s

    @property
    def source_row_trial(self) -> np.ndarray:
        """`(R,)` position in the source of each row's trial."""
        return self.source_trial[self.trial]

    def trials_in(self, role: str, *, full: bool = False) -> np.ndarray:
        """Rows of the per-trial arrays with a role ("train", "val", "test"); `full` ignores a few-shot draw."""
        return np.flatnonzero((self.full_roles if full else self.roles) == ROLES[role])

    def rows_in(self, role: str, *, full: bool = False) -> np.ndarray:
        """`(R,)` bool: rows of the trials with a role."""
        return (self.full_roles if full else self.roles)[self.trial] == ROLES[role]

    def train_mean(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Mean count per bin `(U,)` over the full train trials, restricted to `rows` `(R,)` bool when given."""
        keep = self.full_roles[self.trial] == TRAIN
        return self.counts[keep if rows is None else keep & rows].mean(axis=0, dtype=float)

    def first_row(self) -> np.ndarray:
        """`(M,)` row of each trial's first bin."""
        return np.cumsum(self.num_bins) - self.num_bins


def _clip(intervals: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Trials cut at the end of the data they start in; one that starts outside the data becomes empty."""
    piece = np.maximum(domain[:, 0].searchsorted(intervals[:, 0] + _EDGE_S, side="right") - 1, 0)
    inside = (intervals[:, 0] >= domain[piece, 0] - _EDGE_S) & (intervals[:, 0] < domain[piece, 1])
    stop = np.where(inside, np.minimum(intervals[:, 1], domain[piece, 1]), intervals[:, 0])
    return np.column_stack([intervals[:, 0], stop])


def _row_covariates(
    recording: Recording, start_s: np.ndarray, num_bins: np.ndarray, bin_size_s: float
) -> dict[str, RowCovariate]:
    table = {}
    for name, covariate in recording.covariates.items():
        if covariate.spec.scope != "time":
            continue
        parts = [bin_covariate(covariate, s, n, bin_size_s) for s, n in zip(start_s, num_bins)]
        values = np.concatenate([values for values, _ in parts])
        table[name] = RowCovariate(covariate.spec, values, np.concatenate([observed for _, observed in parts]))
    return table
