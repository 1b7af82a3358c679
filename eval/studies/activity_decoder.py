"""Activity read back from latents by a small network: how much of the population a latent still holds; no latents made.

The other axis of the frame study: latents that tell frames apart need not tell what the neurons did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from eval.studies.frame_decoders import Showings, flat, smoothed
from eval.studies.guided_vae import neural_r2

HIDDEN, BATCH, LEARNING_RATE, EPOCHS, PATIENCE = 128, 256, 1e-3, 100, 5


@dataclass(frozen=True)
class NeuralR2:
    """How much of the activity was predicted, mean over units.

    Attributes:
        validation: R2 of the validation showings.
        test: R2 of the test showing.
        test_centered: The same after each unit's mean over the showing is taken from activity and prediction, so that
            rates that drifted between showings do not count.
    """

    validation: float
    test: float
    test_centered: float


def read_back(latents: Showings, activity: Showings, seed: int) -> NeuralR2:
    """Activity of every unit from latents, by a network of three linear layers.

    Trained on the fit showings by squared error on z-scored units; the epoch is the best on the validation showings,
    whose R2 is therefore slightly too high.

    Args:
        latents: `(R, F, D)` by role.
        activity: `(R, F, N)` by role, of the same showings.
        seed: Of weights and batches.
    """
    inputs, outputs = (_scaled(s) for s in (latents, activity))
    x, target = torch.from_numpy(flat(inputs.fit)), torch.from_numpy(flat(outputs.fit))
    validation = torch.from_numpy(flat(inputs.validation))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN),
            nn.LeakyReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(),
            nn.Linear(HIDDEN, target.shape[1]),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        best, best_epoch, tested = -np.inf, 0, outputs.test
        for epoch in range(EPOCHS):
            for batch in torch.randperm(len(x)).split(BATCH):
                loss = mse_loss(model(x[batch]), target[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                found = neural_r2(outputs.validation, model(validation).numpy().reshape(outputs.validation.shape))
                if found > best:
                    tested = model(torch.from_numpy(flat(inputs.test))).numpy().reshape(outputs.test.shape)
                    best, best_epoch = found, epoch
            if epoch - best_epoch >= PATIENCE:
                break
    return NeuralR2(best, neural_r2(outputs.test, tested), neural_r2(_centered(outputs.test), _centered(tested)))


def from_frame_alone(activity: Showings, smoothing: Sequence[float]) -> NeuralR2:
    """Activity from each unit's mean response to each frame in the fit showings.

    What the movie alone gives, without any activity of the showing that is predicted. The filter over frames is the
    best on the validation showings.

    Args:
        activity: `(R, F, N)` by role.
        smoothing: Standard deviations (frames) to choose from; 0 for none.
    """
    mean = activity.fit.mean(axis=0, dtype=float)
    smooth = [smoothed(mean, width)[None] for width in smoothing]
    scores = [neural_r2(activity.validation, np.repeat(m, len(activity.validation), axis=0)) for m in smooth]
    best = int(np.argmax(scores))
    test = neural_r2(activity.test, smooth[best])
    return NeuralR2(scores[best], test, neural_r2(_centered(activity.test), _centered(smooth[best])))


def _centered(showings: np.ndarray) -> np.ndarray:
    return showings - showings.mean(axis=1, keepdims=True)


def _scaled(showings: Showings) -> Showings:
    rows = flat(showings.fit)
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    return showings.map(lambda a: ((a - mean) / scale).astype(np.float32))
