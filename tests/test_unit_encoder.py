"""The unit encoder: equivariant to the order of units, populations apart, a unit alone works, the ablation is blind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foundation.unit_encoder import UnitEncoder, UnitEncoderConfig

SMALL = {"patch_bins": 5, "width": 16, "heads": 2, "identity_dimension": 8}


def encoder(seed: int = 0, **fields: object) -> UnitEncoder:
    torch.manual_seed(seed)
    return UnitEncoder(UnitEncoderConfig(**{**SMALL, **fields})).eval()  # type: ignore[arg-type]


def counts(number: int, seed: int = 0, bins: int = 20) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).poisson(0.5, (number, bins)).astype(np.float32))


@pytest.mark.parametrize("attend_units", [True, False])
def test_permuting_units_permutes_their_embeddings(attend_units: bool) -> None:
    model, x = encoder(attend_units=attend_units), counts(23)
    order = torch.from_numpy(np.random.default_rng(1).permutation(23))
    with torch.no_grad():
        straight, permuted = model(x, [23]), model(x[order], [23])
    assert straight.shape == (23, 16)
    assert (straight[order] - permuted).abs().max() < 1e-5
    assert straight.std(dim=0).min() > 1e-3


@pytest.mark.parametrize("sizes", [[7, 1, 12], [1, 1], [3]])
def test_populations_of_any_size_do_not_see_one_another(sizes: list[int]) -> None:
    """No padding: together they are what each is alone."""
    model, x = encoder(), counts(sum(sizes))
    with torch.no_grad():
        together = model(x, sizes)
        alone = torch.cat([model(part, [len(part)]) for part in x.split(sizes)])
    assert (together - alone).abs().max() < 1e-5


def test_units_are_seen_through_attention_alone() -> None:
    """Another unit's spikes change an embedding with the attention over units, and not without it."""
    x = counts(6)
    other = x.clone()
    other[5] = counts(1, seed=9)[0]
    with torch.no_grad():
        for attend_units, changes in ((True, True), (False, False)):
            model = encoder(attend_units=attend_units)
            difference = (model(x, [6]) - model(other, [6]))[:5].abs().max()
            assert (difference > 1e-4) == changes


def test_the_ablation_has_the_same_parameters_and_is_a_population_of_one() -> None:
    full, blind = encoder(), encoder(attend_units=False)
    assert {k: v.shape for k, v in full.state_dict().items()} == {k: v.shape for k, v in blind.state_dict().items()}
    x = counts(4)
    with torch.no_grad():
        assert (blind(x, [4]) - full(x, [1, 1, 1, 1])).abs().max() < 1e-5


def test_every_parameter_learns() -> None:
    model = encoder().train()
    model.project(model(counts(9), [5, 4]), [5, 4])[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_order_of_patches_matters() -> None:
    x = counts(4)
    with torch.no_grad():
        turned = encoder()(x.unflatten(1, (4, 5)).flip(1).flatten(1), [4])
        assert (encoder()(x, [4]) - turned).abs().max() > 1e-4


def test_projections_have_unit_norm_and_leave_out_what_a_population_has_in_common() -> None:
    model = encoder()
    with torch.no_grad():
        vectors = model(counts(5), [2, 3])
        found = model.project(vectors, [2, 3])
        moved = model.project(torch.cat([vectors[:2] + 3.0 * vectors[0], vectors[2:]]), [2, 3])
        permuted = model.project(vectors[[1, 0, 4, 2, 3]], [2, 3])
    np.testing.assert_allclose(found.norm(dim=1).numpy(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(moved.numpy(), found.numpy(), atol=1e-4)
    np.testing.assert_allclose(permuted.numpy(), found[[1, 0, 4, 2, 3]].numpy(), atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of patch_bins"):
        encoder()(counts(3, bins=21), [3])
    with pytest.raises(ValueError, match="3 rows of counts"):
        encoder()(counts(3), [2])
    with pytest.raises(ValueError, match="even width per head"):
        UnitEncoderConfig(width=30, heads=4)
    with pytest.raises(ValueError, match="dropout"):
        UnitEncoderConfig(dropout=1.0)
