"""What belongs to a session: rows of packed tables, one row per unit and one per session.

A row holds, side by side, how a unit is read in, how it is read out (bias, slow drift, a shared part on the trunk's
state, and a private part on lagged spikes of the same session), so parameters grow by a few numbers a unit and adding
an animal changes no tensor name. The tables take no dense gradient: a step checks out the rows of its sessions as leaf
tensors that share the table's memory, and the optimizer updates just those in place. Names live in sidecars.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import pandas as pd
import torch
from torch import nn

# Numbers of the slow drift of a unit over the session; see `drift_basis`.
DRIFT_TERMS = 12

# Lag windows of the private read-out, in bins relative to the predicted bin, ends included.
LAG_WINDOWS = ((-5, -4), (-3, -2), (-1, -1), (0, 0), (1, 1), (2, 3), (4, 5))
NUM_LAGS = len(LAG_WINDOWS) + 1  # and the mean over all visible bins of the window
# Of those, the ones of a unit's own spikes: the summed near past and future, and the window mean.
NUM_OWN_LAGS = 3


@dataclass(frozen=True)
class RowLayout:
    """Where the parts of a unit's row lie, for trunk width D and private rank P."""

    width: int
    private_rank: int

    def slices(self) -> dict[str, slice]:
        """Column ranges by part."""
        parts = {
            "read_in": self.width,
            "read_out": self.width,
            "bias": 1,
            "drift": DRIFT_TERMS,
            "private_in": self.private_rank,
            "private_out": self.private_rank * NUM_LAGS,
            "own": NUM_OWN_LAGS,
        }
        edges = [0]
        for size in parts.values():
            edges.append(edges[-1] + size)
        return {name: slice(a, b) for name, (a, b) in zip(parts, pairwise(edges))}

    @property
    def num_columns(self) -> int:
        """Numbers per unit."""
        return self.slices()["own"].stop


@dataclass
class SessionRows:
    """The rows of one session (N units): leaves when checked out for training, plain views otherwise.

    Attributes:
        units: `(N, columns)`.
        session: `(1, D)`.
        center: `(N,)` mean of the square root of the unit's counts over train bins.
        layout: Where the parts lie.
    """

    units: torch.Tensor
    session: torch.Tensor
    center: torch.Tensor
    layout: RowLayout

    @cached_property
    def _parts(self) -> dict[str, torch.Tensor]:
        # One split has one gradient as large as the rows, where a slice per part would make one for each.
        slices = self.layout.slices()
        return dict(zip(slices, self.units.split([s.stop - s.start for s in slices.values()], dim=1)))

    def part(self, name: str) -> torch.Tensor:
        """`(N, size)` columns of one part."""
        return self._parts[name]


@dataclass
class SessionPart:
    """A session's share of the tables, on its own: what is added, moved between ranks, or taken out.

    Attributes:
        subject_id: The animal.
        unit_ids: Names of its N units.
        unit_rows: `(N, columns)`.
        session_row: `(D,)`.
        center: `(N,)`.
    """

    subject_id: str
    unit_ids: list[str]
    unit_rows: torch.Tensor
    session_row: torch.Tensor
    center: torch.Tensor


class Adapters(nn.Module):
    """The packed tables of all sessions.

    Attributes:
        unit_rows: `(U, columns)`, no gradient of its own.
        session_rows: `(S, D)`, no gradient of its own.
        unit_center: `(U,)` statistic, see `SessionRows.center`.
        units: One row per table row: `unit_id`, `recording_id`.
        sessions: One row per session: `recording_id`, `subject_id`, `first_row`, `num_units`.
    """

    def __init__(self, layout: RowLayout, num_units: int, num_sessions: int) -> None:
        super().__init__()
        self.layout = layout
        self.unit_rows = nn.Parameter(torch.empty(num_units, layout.num_columns), requires_grad=False)
        self.session_rows = nn.Parameter(torch.empty(num_sessions, layout.width), requires_grad=False)
        self.unit_center = nn.Parameter(torch.empty(num_units), requires_grad=False)
        self.units = pd.DataFrame({"unit_id": pd.Series(dtype=str), "recording_id": pd.Series(dtype=str)})
        self.sessions = pd.DataFrame(
            {
                "recording_id": pd.Series(dtype=str),
                "subject_id": pd.Series(dtype=str),
                "first_row": pd.Series(dtype=int),
                "num_units": pd.Series(dtype=int),
            }
        )
        self._ranges: dict[str, tuple[int, int, int]] = {}

    def set_names(self, units: pd.DataFrame, sessions: pd.DataFrame) -> None:
        """Attach the sidecars.

        Raises:
            ValueError: They do not describe the tables.
        """
        counts = sessions["num_units"].to_numpy(dtype=int)
        if len(units) != len(self.unit_rows) or len(sessions) != len(self.session_rows) or counts.sum() != len(units):
            raise ValueError(
                f"sidecars name {len(units)} units of {len(sessions)} sessions, the tables hold "
                f"{len(self.unit_rows)} of {len(self.session_rows)}; the model folder is mixed up, save it again"
            )
        self.units, self.sessions = units.reset_index(drop=True), sessions.reset_index(drop=True)
        self._ranges = {
            key: (index, int(first), int(first + count))
            for index, (key, first, count) in enumerate(zip(sessions["recording_id"], sessions["first_row"], counts))
        }

    def span(self, recording_id: str) -> tuple[int, int, int]:
        """Row of a session, and the first and the end of its unit rows.

        Raises:
            ValueError: The session has no adapter.
        """
        if recording_id not in self._ranges:
            raise ValueError(
                f"recording {recording_id!r} has no adapter in this model ({len(self._ranges)} sessions do); "
                "adapt it first: `foundation finetune`, or foundation.finetune.adapt(...)"
            )
        return self._ranges[recording_id]

    def rows(self, recording_id: str, *, leaf: bool = False) -> SessionRows:
        """The rows of a session as views of the tables; with `leaf`, tensors that collect a gradient."""
        index, first, stop = self.span(recording_id)
        units = self.unit_rows.detach()[first:stop]
        session = self.session_rows.detach()[index : index + 1]
        if leaf:
            units, session = units.requires_grad_(), session.requires_grad_()
        return SessionRows(units, session, self.unit_center.detach()[first:stop], self.layout)

    def append(self, parts: dict[str, SessionPart]) -> None:
        """Add sessions behind the others, whose rows stay bit-identical.

        Raises:
            ValueError: A session has an adapter already, or shapes disagree.
        """
        if known := sorted(set(parts) & set(self._ranges)):
            raise ValueError(f"recordings {known[:3]} have adapters already; leave them out, or start another model")
        if not parts:
            return  # empty columns would turn the sidecars' integers into floats
        for recording_id, part in parts.items():
            expected = (len(part.unit_ids), self.layout.num_columns)
            if tuple(part.unit_rows.shape) != expected or tuple(part.center.shape) != expected[:1]:
                raise ValueError(f"{recording_id}: rows {tuple(part.unit_rows.shape)}, expected {expected}")
        new = list(parts.values())
        self._set_tables(
            torch.cat([self.unit_rows.detach(), *(part.unit_rows.to(self.unit_rows) for part in new)]),
            torch.cat([self.session_rows.detach(), *(p.session_row.reshape(1, -1).to(self.session_rows) for p in new)]),
            torch.cat([self.unit_center.detach(), *(part.center.to(self.unit_center) for part in new)]),
        )
        counts = [len(part.unit_ids) for part in new]
        first = len(self.units)
        units = {
            "unit_id": [unit for part in new for unit in part.unit_ids],
            "recording_id": [key for key, part in parts.items() for _ in part.unit_ids],
        }
        sessions = {
            "recording_id": list(parts),
            "subject_id": [part.subject_id for part in new],
            "first_row": [first + sum(counts[:k]) for k in range(len(counts))],
            "num_units": counts,
        }
        self.set_names(
            pd.concat([self.units, pd.DataFrame(units)], ignore_index=True),
            pd.concat([self.sessions, pd.DataFrame(sessions)], ignore_index=True),
        )

    def take(self, recording_ids: list[str]) -> dict[str, SessionPart]:
        """Copies of what the tables hold of some sessions."""
        parts = {}
        for recording_id in recording_ids:
            index, first, stop = self.span(recording_id)
            parts[recording_id] = SessionPart(
                subject_id=str(self.sessions["subject_id"][index]),
                unit_ids=self.units["unit_id"][first:stop].tolist(),
                unit_rows=self.unit_rows.detach()[first:stop].clone(),
                session_row=self.session_rows.detach()[index].clone(),
                center=self.unit_center.detach()[first:stop].clone(),
            )
        return parts

    def keep(self, recording_ids: list[str]) -> None:
        """Drop all sessions but these."""
        parts = self.take(recording_ids)
        self._set_tables(self.unit_rows.detach()[:0], self.session_rows.detach()[:0], self.unit_center.detach()[:0])
        self.set_names(self.units[:0], self.sessions[:0])
        self.append(parts)

    def _set_tables(self, unit_rows: torch.Tensor, session_rows: torch.Tensor, unit_center: torch.Tensor) -> None:
        self.unit_rows = nn.Parameter(unit_rows.contiguous(), requires_grad=False)
        self.session_rows = nn.Parameter(session_rows.contiguous(), requires_grad=False)
        self.unit_center = nn.Parameter(unit_center.contiguous(), requires_grad=False)


def drift_basis(clock: torch.Tensor) -> torch.Tensor:
    """Slow functions `(B, DRIFT_TERMS)` of the position in the session `(B,)`, 0 to 1: 2 cos(pi k x) / k.

    The fall with k makes equal weights smooth: to a penalty, this is a random walk.
    """
    order = torch.arange(1, DRIFT_TERMS + 1, device=clock.device, dtype=clock.dtype)
    return 2 * torch.cos(torch.pi * clock[:, None] * order) / order


def lag_matrices(num_bins: int, device: torch.device) -> torch.Tensor:
    """`(len(LAG_WINDOWS), T, T)` 0/1 matrices; row t of matrix g marks the bins of lag window g around bin t."""
    offset = torch.arange(num_bins, device=device)[None, :] - torch.arange(num_bins, device=device)[:, None]
    return torch.stack([(offset >= first) & (offset <= last) for first, last in LAG_WINDOWS]).float()


def center_counts(spikes: torch.Tensor, hidden: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Square root of the counts minus the unit's mean, 0 where hidden; `(b, T, N)`.

    Centering makes a hidden count read as an average one, so hiding units or bins does not shift the sum.
    """
    return (spikes.to(center.dtype).sqrt() - center).mul_(~hidden)


def log_rates(
    rows: SessionRows,
    states: torch.Tensor,
    visible: torch.Tensor,
    num_visible: torch.Tensor,
    drift: torch.Tensor,
    lags: torch.Tensor,
) -> torch.Tensor:
    """Log expected counts per bin `(b, T, N)` of a session's units.

    log-rate = bias + drift·phi(clock) + read_out·state + private_out·lagged(private_in·spikes) + own·lagged(own spikes)

    Args:
        rows: The session's rows.
        states: `(b, T, D)` trunk states.
        visible: `(b, T, N)` from `center_counts`, 0 where hidden and past a window's end.
        num_visible: `(b,)` number of bins whose population is visible.
        drift: `(b, DRIFT_TERMS)`.
        lags: From `lag_matrices`.
    """
    slow = rows.part("bias")[:, 0] + drift @ rows.part("drift").T
    out = states @ rows.part("read_out").T + slow[:, None, :]
    latent = visible @ rows.part("private_in")
    out = out + lagged_features(latent, num_visible, lags) @ rows.part("private_out").T
    own, share = rows.part("own"), 1.0 / num_visible.clamp(min=1)
    near = torch.stack([lags[:3].sum(0), lags[4:].sum(0)])
    # One product for both bands; the unit's own present bin is never among them.
    past, coming = (near[:, None] @ visible).unbind(0)
    out = torch.addcmul(out, past, own[:, 0])
    out = torch.addcmul(out, coming, own[:, 1])
    return out + (visible.sum(dim=1) * share[:, None] * own[:, 2])[:, None, :]


def lagged_features(latent: torch.Tensor, num_visible: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
    """Sums of `(b, T, P)` over each lag window and their mean over the visible bins: `(b, T, NUM_LAGS * P)`."""
    batch, num_bins, rank = latent.shape
    lagged = (lags[:, None] @ latent).permute(1, 2, 0, 3)
    mean = latent.sum(dim=1) / num_visible.clamp(min=1)[:, None]
    return torch.cat([lagged, mean[:, None, None].expand(batch, num_bins, 1, rank)], dim=2).flatten(2)
