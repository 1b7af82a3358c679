"""The encoder against CEBRA's models with the same weights, and whole sessions against windows one by one."""

from __future__ import annotations

import cebra.models
import numpy as np
import pytest
import torch

from foundation.activity_windows import ActivityWindows
from foundation.offset_encoder import OffsetEncoder


def encoder(num_units: list[int], receptive_field: int = 10, seed: int = 0) -> OffsetEncoder:
    return OffsetEncoder(num_units, 8, receptive_field, 32, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("receptive_field", [1, 5, 10, 15, 20, 36])
def test_one_session_is_cebras_model(receptive_field: int) -> None:
    theirs = cebra.models.init(f"offset{receptive_field}-model", 40, 32, 8)
    ours = encoder([40], receptive_field)
    mine = [ours.read_ins[0], ours.biases[0], *(p for pair in zip(ours.trunk, ours.trunk_biases) for p in pair)]
    weights = list(theirs.parameters())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in weights)
    with torch.no_grad():
        for parameter, weight in zip(mine, weights, strict=True):
            shape = {1: lambda w: w, 2: lambda w: w.T[None], 3: lambda w: w.permute(2, 1, 0)}[weight.ndim]
            parameter.copy_(shape(weight))
        windows = torch.rand(50, 40, receptive_field)
        got = torch.nn.functional.normalize(ours(windows.permute(2, 0, 1), 0)[0], dim=1)
        torch.testing.assert_close(got, theirs(windows).reshape(50, 8), atol=1e-6, rtol=0)


def test_start_is_uniform_within_the_fan_in() -> None:
    weights = encoder([300]).read_ins[0].detach()
    bound = 1 / np.sqrt(600)
    assert weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("receptive_field", [1, 3, 4, 7, 10])
def test_whole_sessions_are_read_as_their_windows(receptive_field: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundation.activity_windows._PIECE_BINS", 16)
    rng = np.random.default_rng(0)
    trial = np.repeat(np.arange(9), rng.integers(1, 50, 9))
    activity = rng.poisson(1.0, (len(trial), 6)).astype(np.float32)
    windows = ActivityWindows([activity], [trial], receptive_field)
    model = encoder([6], receptive_field)
    with torch.no_grad():
        whole = torch.cat([model(piece, 0)[:, 0][places] for piece, places in windows.pieces(0)])
        single = model(windows.window(0, np.arange(len(trial))), 0)[0]
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=1e-5)


def test_windows_repeat_the_border_and_never_cross_it() -> None:
    activity = np.arange(12, dtype=np.float32)[:, None]
    trial = np.repeat([0, 1], 6)
    windows = ActivityWindows([activity], [trial], 4).window(0, np.array([0, 5, 6, 9]))
    assert windows[:, :, 0].T.tolist() == [[0, 0, 0, 1], [3, 4, 5, 5], [6, 6, 6, 7], [7, 8, 9, 10]]


def test_a_new_session_leaves_the_others_as_they_are() -> None:
    model = encoder([5])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.add_session(9, torch.Generator().manual_seed(1))
    assert model.read_ins[1].shape == (2, 9, 32)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(("receptive_field", "hidden"), [(0, 32), (2, 32), (10, 1)])
def test_impossible_sizes_are_errors(receptive_field: int, hidden: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        OffsetEncoder([5], 3, receptive_field, hidden, torch.Generator())
