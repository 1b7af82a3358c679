"""The synthetic benchmark: its generator against an inverse and moments, its references, and a small study."""

from __future__ import annotations

import numpy as np
import pytest

from eval.studies.simulated_latent import mixing, moments, simulate
from eval.studies.synthetic_latent import CEILING, ORACLE, Config, reconstruction, references, run

SMALL = Config(num_samples=2500, num_neurons=40, seeds=[3], steps=120, batch_size=256, learning_rate=5e-3)


def unmix(x: np.ndarray, num_neurons: int, rng: np.random.Generator) -> np.ndarray:
    """The inverse of `mixing`, block after block from the end, with weights drawn in the same order."""
    half = num_neurons // 2
    shapes = [(half, half // 2), (half // 2, half // 2), (half // 2, num_neurons)]
    steps: list[list[np.ndarray] | np.ndarray] = []
    for block in range(4):
        for _ in range(2):
            bounds = [np.sqrt(6 / sum(shape)) for shape in shapes]
            steps.append([rng.uniform(-b, b, shape) for b, shape in zip(bounds, shapes)])
        if block < 3:
            steps.append(rng.permutation(num_neurons))
    for step in reversed(steps):
        if isinstance(step, np.ndarray):
            x = x[:, np.argsort(step)]
            continue
        moved, kept = x[:, :half], x[:, half:]
        hidden = np.maximum(np.maximum(kept @ step[0], 0) @ step[1], 0) @ step[2]
        moved = (moved - hidden[:, half:]) * np.exp(-0.1 * np.tanh(hidden[:, :half]))
        x = np.concatenate([kept, moved], axis=1)
    return x


def test_the_mixing_loses_nothing() -> None:
    latent = np.random.default_rng(0).normal(size=(50, 2)) * 3
    mixed = mixing(latent, 20, np.random.default_rng(1))
    back = unmix(mixed, 20, np.random.default_rng(1))
    np.testing.assert_allclose(back[:, :2], latent, atol=1e-9)
    np.testing.assert_allclose(back[:, 2:], 0, atol=1e-9)
    assert np.ptp(mixed, axis=0).min() > 0  # every neuron depends on the latent


def test_latents_have_the_published_moments() -> None:
    data = simulate(60_000, 4, seed=0)
    for low in np.arange(0, 2 * np.pi, 0.2):
        near = (data.label >= low) & (data.label < low + 0.02)
        wave = abs(np.sin(low + 0.01))
        scale = np.sqrt([0.6 - 0.3 * wave, 0.3 * wave])
        error = np.sqrt(1 / near.sum())
        np.testing.assert_allclose(
            data.latent[near].mean(axis=0), [low + 0.01, 2 * np.sin(low + 0.01)], atol=5 * error * scale.max() + 0.02
        )
        np.testing.assert_allclose(data.latent[near].std(axis=0), scale, rtol=5 * error / np.sqrt(2) + 0.1)


def test_counts_are_poisson_and_seeded() -> None:
    data = simulate(20_000, 10, seed=4)
    assert data.rates.min() >= np.exp(-2.2)
    assert data.rates.max() <= np.exp(2.2)
    dispersion = ((data.counts - data.rates) ** 2 / data.rates).mean(axis=0)
    np.testing.assert_allclose(dispersion, 1, atol=0.08)
    again, other = simulate(20_000, 10, seed=4), simulate(20_000, 10, seed=5)
    for name in ("label", "latent", "rates", "counts"):
        assert np.array_equal(getattr(data, name), getattr(again, name))
        assert not np.array_equal(getattr(data, name), getattr(other, name))


@pytest.mark.parametrize("number", [0, 2, 7])
def test_neurons_come_in_halves(number: int) -> None:
    with pytest.raises(ValueError, match=f"num_neurons is {number}, expected an even number from 4"):
        simulate(10, number, 0)


def test_reconstruction_is_linear_and_held_out() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(400, 2))
    image = latent @ rng.normal(size=(2, 5)) + 3
    assert reconstruction(image, latent, 300) == pytest.approx(1)
    assert reconstruction(rng.permutation(image), latent, 300) < 0.1
    assert reconstruction(np.concatenate([image[:300], rng.permutation(image[300:])]), latent, 300) < -0.3
    assert np.isnan(reconstruction(np.full((400, 2), np.nan), latent, 300))


def test_references_against_a_loop() -> None:
    data = simulate(120, 6, seed=2)
    found = references(data, 100)
    guess = np.zeros((20, 2))
    for row in range(20):
        weight = np.array(
            [np.prod(rate ** data.counts[100 + row].astype(float) * np.exp(-rate)) for rate in data.rates[:100]]
        )
        guess[row] = (weight / weight.sum()) @ data.latent[:100]
    truth = data.latent[100:]

    def r2(value: np.ndarray) -> float:
        return float(np.mean(1 - ((truth - value) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)))

    assert found[CEILING] == pytest.approx(r2(guess))
    assert found[ORACLE] == pytest.approx(r2(moments(data.label[100:])[0]))


def test_labels_help_and_shuffled_ones_do_not() -> None:
    methods = ["ours, behavior", "ours, shuffled labels", "PCA"]
    findings = run(Config(**{**vars(SMALL), "methods": methods}))
    r2 = findings.tables[0].frame.set_index("method")["r2"]
    assert r2[CEILING] > r2["ours, behavior"] > r2["ours, shuffled labels"] + 0.1
    assert r2["ours, behavior"] > r2["PCA"]
    assert [figure.name for figure in findings.figures] == ["reconstruction", "embeddings"]
    assert list(findings.tables[0].frame["seeds"]) == [1] * 5


def test_the_same_seed_gives_the_same_scores() -> None:
    few = Config(**{**vars(SMALL), "num_samples": 500, "steps": 5, "methods": ["ours, behavior", "PCA", "t-SNE"]})
    first, again = run(few).tables[1].frame, run(few).tables[1].frame
    assert first["r2"].tolist() == again["r2"].tolist()  # bit for bit


def test_upstream_is_scored_beside_ours() -> None:
    pytest.importorskip("cebra")
    few = {**vars(SMALL), "steps": 5, "methods": ["ours, behavior", "cebra, behavior"]}
    frame = run(Config(**few)).tables[0].frame.set_index("method")
    assert np.isfinite(frame.loc["cebra, behavior", "r2"])
    assert frame.loc["cebra, behavior", "published"] == 0.9205


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"methods: got \['ICA'\], expected some of"):
        run(Config(methods=["ICA"]))
    with pytest.raises(ValueError, match="at least one seed"):
        run(Config(seeds=[]))
