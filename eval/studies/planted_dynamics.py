"""Who recovers the eigenvalues of dynamics that sessions share, and what alignment by behavior has to do with it.

Simulated sessions only (`simulated_dynamics`); CANDY's question (NeurIPS 2025), with the controls that can refute it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge

from eval.embedding_controls import pca_embedding
from eval.studies.planted_dynamics_findings import (
    ALIGNED,
    JUDGED_BY_MOMENTS,
    JUDGED_BY_SYSTEM,
    OWN,
    REFERENCE,
    findings,
)
from eval.studies.simulated_dynamics import (
    Planted,
    eigenvalue_errors,
    lag_one,
    lag_two_over_one,
    shuffled_across,
    shuffled_within,
    simulate,
)
from eval.studies.study import Findings
from foundation.aligned_dynamics import AlignedDynamics
from foundation.estimator import ContrastiveEmbedding
from foundation.linear_dynamics import LinearDynamics
from foundation.progress import Progress

HELD_OUT = 0.25


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        seeds: Each draws states, maps, noise and the start of every method.
        observation_noises: Standard deviation per neuron; the signal's is about .7.
        num_neurons: Per session.
        num_trials: Per session; the last quarter is held out.
        num_bins: Per trial.
        behavior_noise: Standard deviation per column of behavior.
        behavior_columns: States that behavior shows; the planes of the two rotations are 0, 1 and 2, 3.
        hidden: Widths of encoders and decoders; empty for linear ones.
        steps: Of the methods that are trained by steps.
        refit_steps: In which a system is fitted to finished embeddings.
        rank_weight: Of the rank contrast.
        temperature: Of the rank contrast.
        rank_points: Of the rank contrast.
        learning_rate: Of encoders and decoders.
        trials_per_session: In a step.
        arms: Which of `ARMS` to run; the reference is always run.
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    observation_noises: list[float] = field(default_factory=lambda: [0.1, 0.5])
    num_neurons: list[int] = field(default_factory=lambda: [32, 36, 44, 48])
    num_trials: int = 160
    num_bins: int = 50
    behavior_noise: float = 0.1
    behavior_columns: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    hidden: list[int] = field(default_factory=list)
    steps: int = 400
    refit_steps: int = 150
    rank_weight: float = 1.0
    temperature: float = 1.0
    rank_points: int = 256
    learning_rate: float = 5e-3
    trials_per_session: int = 8
    arms: list[str] = field(default_factory=lambda: list(ARMS))


@dataclass(frozen=True)
class Found:
    """What a method made of all trials: latents per session `(trials, T, d)`, and its own eigenvalues if it has any."""

    latents: list[np.ndarray]
    eigenvalues: np.ndarray | None = None


# A method is given the activity of all trials, and the behavior of the first `n` trials of each session.
Method = Callable[[Planted, list[np.ndarray], int, Config, int], Found]


def _oracle(planted: Planted, behavior: list[np.ndarray], n: int, config: Config, seed: int) -> Found:
    return Found([x @ np.linalg.pinv(c).T for x, c in zip(planted.activity, planted.maps)])


def _pca(planted: Planted, behavior: list[np.ndarray], n: int, config: Config, seed: int) -> Found:
    latents = []
    for x in planted.activity:
        train = np.arange(x.shape[0] * x.shape[1]) < n * x.shape[1]
        latents.append(pca_embedding(x.reshape(-1, x.shape[2]), train, 4).reshape(*x.shape[:2], 4))
    return Found(latents)


def _ridge(planted: Planted, behavior: list[np.ndarray], n: int, config: Config, seed: int) -> Found:
    latents = []
    for x, y in zip(planted.activity, behavior):
        fit = Ridge(1.0).fit(x[:n].reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2]))
        latents.append(fit.predict(x.reshape(-1, x.shape[2])).reshape(*x.shape[:2], -1))
    return Found(latents)


def _behavior(planted: Planted, behavior: list[np.ndarray], n: int, config: Config, seed: int) -> Found:
    return Found(planted.behavior)


def _aligned(rank_weight: float | None = None, behavior_first: float = 0.5) -> Method:
    def method(planted: Planted, behavior: list[np.ndarray], n: int, config: Config, seed: int) -> Found:
        model = AlignedDynamics(
            latent_dimension=4,
            hidden=tuple(config.hidden),
            rank_weight=config.rank_weight if rank_weight is None else rank_weight,
            temperature=config.temperature,
            rank_points=config.rank_points,
            behavior_first=behavior_first,
            max_iterations=config.steps,
            refit_iterations=config.refit_steps,
            trials_per_session=config.trials_per_session,
            learning_rate=config.learning_rate,
            random_state=seed,
        )
        model.fit([list(x[:n]) for x in planted.activity], [list(y) for y in behavior])
        latents = [
            np.stack(list(model.transform(list(x), session=s, stage="encoded"))) for s, x in enumerate(planted.activity)
        ]
        return Found(latents, model.eigenvalues_)

    return method


def _info_nce(planted: Planted, behavior: list[np.ndarray], n: int, config: Config, seed: int) -> Found:
    model = ContrastiveEmbedding(
        mode="behavior",
        output_dimension=4,
        receptive_field=1,
        num_hidden_units=32,
        max_iterations=config.steps,
        batch_size=config.rank_points,
        learning_rate=3e-3,
        similarity="euclidean",
        query="delta",
        delta=config.behavior_noise,
        random_state=seed,
    )
    rows = [np.ascontiguousarray(x.reshape(-1, x.shape[2]), dtype=np.float32) for x in planted.activity]
    model.fit([x[: n * config.num_bins] for x in rows], [y.reshape(-1, y.shape[2]) for y in behavior])
    latents = [np.asarray(model.transform(x, session=s)).reshape(-1, config.num_bins, 4) for s, x in enumerate(rows)]
    seen = np.concatenate([x[:n] for x in latents])
    standard = (seen - seen.mean(axis=(0, 1))) / seen.std(axis=(0, 1))
    system = LinearDynamics(4, 4, torch.Generator().manual_seed(seed))
    system.fit(torch.from_numpy(standard).float(), max_iterations=config.refit_steps)
    return Found(latents, system.eigenvalues())


# Name: method, and whose behavior it is given.
ARMS: dict[str, tuple[Method, str]] = {
    "oracle: true maps": (_oracle, "own"),
    "behavior alone": (_behavior, "own"),
    "ridge to behavior": (_ridge, "own"),
    ALIGNED: (_aligned(), "own"),
    f"{ALIGNED}, behavior only": (_aligned(behavior_first=1.0), "own"),
    "InfoNCE, then system": (_info_nce, "own"),
    f"{ALIGNED}, rank weight 0": (_aligned(rank_weight=0.0), "own"),
    f"{ALIGNED}, behavior across": (_aligned(), "across"),
    f"{ALIGNED}, behavior within": (_aligned(), "within"),
    "ridge, behavior across": (_ridge, "across"),
    "InfoNCE, behavior across": (_info_nce, "across"),
    REFERENCE: (_pca, "own"),
}
SHUFFLES = {"own": lambda behavior, seed: behavior, "across": shuffled_across, "within": shuffled_within}


def run(config: Config) -> Findings:
    """Simulate, find latents and eigenvalues, and decode behavior over sessions, once per noise and seed.

    Raises:
        ValueError: An unknown arm, no seed or noise, or fewer than two sessions.
    """
    if unknown := sorted(set(config.arms) - set(ARMS)):
        raise ValueError(f"arms: got {unknown}, expected some of {sorted(ARMS)}")
    if not config.seeds or not config.observation_noises or len(config.num_neurons) < 2:
        raise ValueError("got no seed, no noise, or fewer than two sessions; expected one, one and two at least")
    arms = [name for name in ARMS if name in config.arms or name == REFERENCE]
    n = round(config.num_trials * (1 - HELD_OUT))
    progress = Progress(
        "planted_dynamics", 0, len(config.seeds) * len(config.observation_noises) * len(arms), shown=True
    )
    rows: list[dict[str, Any]] = []
    for noise in config.observation_noises:
        for seed in config.seeds:
            planted = simulate(
                config.num_neurons,
                config.num_trials,
                config.num_bins,
                noise,
                seed,
                behavior_noise=config.behavior_noise,
                behavior_columns=config.behavior_columns,
            )
            for name in arms:
                method, whose = ARMS[name]
                behavior = SHUFFLES[whose]([y[:n] for y in planted.behavior], seed)
                found = method(planted, behavior, n, config, seed)
                rows += _scored(name, found, planted, n, {"noise": noise, "seed": seed})
                progress.update(error=f"{rows[-1]['max_error']:.3f}")
    progress.close()
    size = f"{len(config.num_neurons)} sessions of {config.num_trials} trials of {config.num_bins} bins"
    return findings(pd.DataFrame(rows), size)


def _scored(name: str, found: Found, planted: Planted, n: int, about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every estimator of eigenvalues, from the first `n` trials; the system's last."""
    decoding = _decoding(found.latents, planted.state, n)
    train = [x[:n] for x in found.latents]
    estimates = {"lag 1": [lag_one(train)], JUDGED_BY_MOMENTS: [lag_two_over_one(train)]}
    if found.eigenvalues is not None:
        estimates[JUDGED_BY_SYSTEM] = [found.eigenvalues]
    rows = [(name, estimator, values) for estimator, values in estimates.items()]
    if name == REFERENCE:
        rows.append((OWN, "lag 1", [lag_one([x]) for x in train]))
        rows.append((OWN, JUDGED_BY_MOMENTS, [lag_two_over_one([x]) for x in train]))
    return [
        {"arm": arm, **about, "estimator": estimator, **_errors(values), **decoding, "found": np.concatenate(values)}
        for arm, estimator, values in rows
    ]


def _errors(found: list[np.ndarray]) -> dict[str, float]:
    """Largest and mean eigenvalue error, averaged over what was found (one per session, or one)."""
    errors = [np.full(4, np.nan) if len(values) < 4 else eigenvalue_errors(values) for values in found]
    return {"max_error": float(np.mean([e.max() for e in errors])), "mean_error": float(np.mean(errors))}


def _decoding(latents: list[np.ndarray], states: list[np.ndarray], n: int) -> dict[str, float]:
    """R2 of the planted state of held-out trials by a linear map fitted in the same session, and in another one."""

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, x.shape[2])

    own: list[float] = []
    across: list[float] = []
    for a in range(len(latents)):
        fit = Ridge(1e-3).fit(flat(latents[a][:n]), flat(states[a][:n]))
        for b in range(len(latents)):
            truth = flat(states[b][n:])
            error = np.square(truth - fit.predict(flat(latents[b][n:]))).sum()
            r2 = 1 - error / np.square(truth - truth.mean(axis=0)).sum()
            (own if a == b else across).append(float(r2))
    return {"r2_own": float(np.mean(own)), "r2_across": float(np.mean(across))}
