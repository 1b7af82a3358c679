"""Packed tables: parts, appended and kept rows, and log-rates against a naive loop over bins, units and lags."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from foundation.adapters import (
    DRIFT_TERMS,
    LAG_WINDOWS,
    NUM_LAGS,
    Adapters,
    RowLayout,
    SessionPart,
    SessionRows,
    center_counts,
    drift_basis,
    lag_matrices,
    log_rates,
)

LAYOUT = RowLayout(width=4, private_rank=2)


def part(num_units: int, seed: int, subject: str = "rat") -> SessionPart:
    generator = torch.Generator().manual_seed(seed)
    return SessionPart(
        subject_id=subject,
        unit_ids=[f"{seed}/{i}" for i in range(num_units)],
        unit_rows=torch.randn(num_units, LAYOUT.num_columns, generator=generator),
        session_row=torch.randn(LAYOUT.width, generator=generator),
        center=torch.rand(num_units, generator=generator),
    )


@pytest.fixture
def adapters() -> Adapters:
    tables = Adapters(LAYOUT, 0, 0)
    tables.append({"d/a": part(3, 1), "d/b": part(5, 2)})
    return tables


def test_a_row_holds_its_parts_side_by_side_and_nothing_else() -> None:
    slices = LAYOUT.slices()
    columns = [c for s in slices.values() for c in range(s.start, s.stop)]
    assert columns == list(range(LAYOUT.num_columns))
    sizes = {name: s.stop - s.start for name, s in slices.items()}
    assert sizes == {
        "read_in": 4,
        "read_out": 4,
        "bias": 1,
        "drift": DRIFT_TERMS,
        "private_in": 2,
        "private_out": 2 * NUM_LAGS,
        "own": 3,
    }


def test_rows_are_views_of_the_tables(adapters: Adapters) -> None:
    rows = adapters.rows("d/b", leaf=True)
    assert rows.units.is_leaf
    assert rows.units.requires_grad
    assert rows.session.requires_grad
    rows.units.detach()[1, 0] = 42.0
    assert adapters.unit_rows[4, 0] == 42.0
    for name, where in LAYOUT.slices().items():
        assert torch.equal(rows.part(name), adapters.unit_rows[3:8, where])
    assert not adapters.rows("d/b").units.requires_grad


def test_appending_leaves_old_rows_bit_identical(adapters: Adapters) -> None:
    before = adapters.take(["d/a", "d/b"])
    new = part(7, 3, "mouse")
    adapters.append({"d/c": new})
    after = adapters.take(["d/a", "d/b", "d/c"])
    for key, old in [*before.items(), ("d/c", new)]:
        assert torch.equal(after[key].unit_rows, old.unit_rows)
        assert torch.equal(after[key].session_row, old.session_row)
        assert torch.equal(after[key].center, old.center)
        assert after[key].unit_ids == old.unit_ids
    assert adapters.span("d/c") == (2, 8, 15)
    assert after["d/c"].subject_id == "mouse"


def test_keeping_some_sessions_drops_the_others(adapters: Adapters) -> None:
    kept = adapters.take(["d/b"])["d/b"]
    adapters.keep(["d/b"])
    assert adapters.unit_rows.shape == (5, LAYOUT.num_columns)
    assert torch.equal(adapters.take(["d/b"])["d/b"].unit_rows, kept.unit_rows)
    with pytest.raises(ValueError, match="has no adapter"):
        adapters.rows("d/a")
    adapters.keep([])
    assert len(adapters.unit_rows) == len(adapters.sessions) == 0
    adapters.append({"d/b": kept})
    assert adapters.sessions.dtypes[["first_row", "num_units"]].tolist() == [int, int]


def test_what_does_not_fit_is_refused(adapters: Adapters) -> None:
    with pytest.raises(ValueError, match="have adapters already"):
        adapters.append({"d/a": part(2, 5)})
    short = part(2, 5)
    short.unit_rows = short.unit_rows[:, :-1]
    with pytest.raises(ValueError, match="expected"):
        adapters.append({"d/z": short})
    with pytest.raises(ValueError, match="mixed up"):
        adapters.set_names(adapters.units[:-1], adapters.sessions)
    with pytest.raises(ValueError, match="mixed up"):
        adapters.set_names(adapters.units, adapters.sessions[:-1])
    assert len(adapters.units) == 8


def test_drift_basis_is_its_formula() -> None:
    clock = torch.tensor([0.0, 0.3, 1.0])
    got = drift_basis(clock)
    for b, x in enumerate(clock.tolist()):
        for k in range(1, DRIFT_TERMS + 1):
            assert got[b, k - 1] == pytest.approx(2 * math.cos(math.pi * k * x) / k, abs=1e-5)


def test_lag_matrices_mark_their_bins() -> None:
    got = lag_matrices(9, torch.device("cpu"))
    for g, (first, last) in enumerate(LAG_WINDOWS):
        for t in range(9):
            for s in range(9):
                assert got[g, t, s] == (first <= s - t <= last)


def test_center_counts_shows_hidden_counts_as_average_ones() -> None:
    spikes = torch.tensor([[[4, 9], [0, 1]]], dtype=torch.uint8)
    hidden = torch.tensor([[[False, True], [False, False]]])
    got = center_counts(spikes, hidden, torch.tensor([0.5, 2.0]))
    assert got.tolist() == [[[1.5, 0.0], [-0.5, -1.0]]]


def test_log_rates_equal_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    windows, bins, units, width, rank = 2, 9, 3, LAYOUT.width, LAYOUT.private_rank
    table = rng.normal(size=(units, LAYOUT.num_columns)).astype(np.float32)
    rows = SessionRows(torch.tensor(table), torch.zeros(1, width), torch.zeros(units), LAYOUT)
    states = rng.normal(size=(windows, bins, width)).astype(np.float32)
    visible = rng.normal(size=(windows, bins, units)).astype(np.float32)
    num_visible, clock = np.array([9, 4]), np.array([0.2, 0.9], np.float32)
    got = log_rates(
        rows,
        torch.tensor(states),
        torch.tensor(visible),
        torch.tensor(num_visible),
        drift_basis(torch.tensor(clock)),
        lag_matrices(bins, torch.device("cpu")),
    ).numpy()
    part = {name: table[:, where] for name, where in LAYOUT.slices().items()}
    for b in range(windows):
        for t in range(bins):
            for u in range(units):
                value = part["bias"][u, 0] + part["read_out"][u] @ states[b, t]
                value += sum(
                    part["drift"][u, k - 1] * 2 * np.cos(np.pi * k * clock[b]) / k for k in range(1, DRIFT_TERMS + 1)
                )
                for g, (first, last) in enumerate(LAG_WINDOWS):
                    inside = [s for s in range(bins) if first <= s - t <= last]
                    summed = visible[b, inside].sum(axis=0) @ part["private_in"]
                    value += part["private_out"][u, g * rank : (g + 1) * rank] @ summed
                mean = visible[b].sum(axis=0) / num_visible[b]
                value += part["private_out"][u, -rank:] @ (mean @ part["private_in"])
                past = [s for s in range(bins) if -5 <= s - t <= -1]
                coming = [s for s in range(bins) if 1 <= s - t <= 5]
                value += part["own"][u, 0] * visible[b, past, u].sum()
                value += part["own"][u, 1] * visible[b, coming, u].sum()
                value += part["own"][u, 2] * mean[u]
                assert got[b, t, u] == pytest.approx(value, abs=2e-4)


def test_names_travel_in_tables_not_in_tensors(adapters: Adapters) -> None:
    assert set(adapters.state_dict()) == {"unit_rows", "session_rows", "unit_center"}
    assert adapters.units["unit_id"].tolist()[:3] == ["1/0", "1/1", "1/2"]
    assert isinstance(adapters.sessions, pd.DataFrame)
