"""A variational autoencoder of population activity, with or without a head that guides its latents; decodes no frames.

Three linear layers in, 128 Gaussian latents, two layers out, LeakyReLU between them; squared error plus beta times the
Kullback-Leibler divergence (Kingma & Welling 2014; beta: Higgins et al. 2017), beta rising linearly from 0 over the
first epochs. The brief names no scale: here the squared error is a mean over z-scored units, the divergence a mean over
latents, and the loss of the head comes in with weight 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from eval.studies.frame_decoders import Showings, flat, frame_labels

BATCH = 256
LEARNING_RATE = 1e-3
ANNEALED = 0.25  # of the epochs

Guide = Literal["none", "features", "frame"]


@dataclass(frozen=True)
class VaeConfig:
    """One variant.

    Attributes:
        beta: Weight of the divergence, once annealed.
        guide: What the head predicts from the latents: nothing, features of the frame (squared error, mean over
            features) or the frame itself (cross entropy).
        dropout: On the latents before the head.
        num_latents: Latents.
        hidden: Width of the hidden layers.
        epochs: Over the fit showings, at most.
        patience: Stop after this many epochs without a better one.
    """

    beta: float = 0.05
    guide: Guide = "none"
    dropout: float = 0.0
    num_latents: int = 128
    hidden: int = 128
    epochs: int = 200
    patience: int = 30


@dataclass(frozen=True)
class VaeFit:
    """A trained variant.

    Attributes:
        latents: Means of the latents of every showing.
        reconstruction: Activity read back from them, in the units of the input.
        validation_r2: Neural R2 of the validation showings after each epoch that was run.
        epoch: The epoch kept, 0-based.
    """

    latents: Showings
    reconstruction: Showings
    validation_r2: np.ndarray
    epoch: int


class GuidedVae(nn.Module):
    """Activity `(B, N)` to latents to activity, and to what the head predicts."""

    def __init__(self, num_units: int, num_guide: int, config: VaeConfig) -> None:
        super().__init__()
        hidden, latents = config.hidden, config.num_latents
        self.encoder = nn.Sequential(
            nn.Linear(num_units, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, 2 * latents),
        )
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.LeakyReLU(), nn.Linear(hidden, num_units))
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(latents, num_guide)) if num_guide else None

    def encode(self, activity: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance `(B, latents)`."""
        mean, log_variance = self.encoder(activity).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1), `(B, latents)` nats; Kingma & Welling 2014, appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def neural_r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """R2 of every unit over all rows, mean over the units that vary; the definition of scikit-learn's `r2_score`.

    Args:
        true: `(R, F, N)`.
        predicted: The same shape.
    """
    true, predicted = flat(true).astype(float), flat(predicted)
    total = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    varies = total > 0
    return float((1 - ((true - predicted) ** 2).sum(axis=0)[varies] / total[varies]).mean())


def fit_vae(activity: Showings, features: np.ndarray | None, config: VaeConfig, seed: int) -> VaeFit:
    """Train a variant on the fit showings and keep the epoch with the lowest validation loss after annealing.

    The validation loss is that of reconstruction and head, from the means of the latents, without the divergence.

    Args:
        activity: `(R, F, N)` by role.
        features: `(F, G)` for the guide `features`, of about unit variance; else None.
        config: The variant.
        seed: Of weights, batches and noise; same seed, same fit.

    Raises:
        ValueError: Guide `features` without features, or features for another guide.
    """
    if (features is not None) != (config.guide == "features"):
        raise ValueError(f"guide {config.guide!r} with features {'given' if features is not None else 'missing'}")
    rows = flat(activity.fit)
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    scaled = activity.map(lambda a: ((a - mean) / scale).astype(np.float32))
    x, y = (torch.from_numpy(flat(a)) for a in (scaled.fit, scaled.validation))
    num_frames = activity.fit.shape[1]
    num_guide = {"none": 0, "frame": num_frames, "features": 0 if features is None else features.shape[1]}[config.guide]
    frame, frame_y = (torch.from_numpy(frame_labels(a)) for a in (scaled.fit, scaled.validation))
    spread = (y - y.mean(0)).square().sum(0)
    varies = spread > 0
    target = None if features is None else torch.from_numpy(features.astype(np.float32))

    def guided(head: Tensor, of_frame: Tensor) -> Tensor:
        return cross_entropy(head, of_frame) if target is None else mse_loss(head, target[of_frame])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GuidedVae(x.shape[1], num_guide, config)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        annealed = max(1, round(ANNEALED * config.epochs))
        best, best_epoch, kept, curve = np.inf, -1, {}, []
        for epoch in range(config.epochs):
            beta = config.beta * min(1.0, epoch / annealed)
            model.train()
            for batch in torch.randperm(len(x)).split(BATCH):
                mu, log_variance = model.encode(x[batch])
                latent = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
                loss = mse_loss(model.decoder(latent), x[batch]) + beta * divergence(mu, log_variance).mean()
                if model.head is not None:
                    loss = loss + guided(model.head(latent), frame[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                mu = model.encode(y)[0]
                back = model.decoder(mu)
                loss = mse_loss(back, y) + (guided(model.head(mu), frame_y) if model.head is not None else 0)
            curve.append(float((1 - (back - y).square().sum(0)[varies] / spread[varies]).mean()))
            if epoch >= min(annealed, config.epochs - 1) and float(loss) < best:
                best, best_epoch = float(loss), epoch
                kept = {name: value.clone() for name, value in model.state_dict().items()}
            if kept and epoch - best_epoch >= config.patience:
                break
        if not kept:
            raise ValueError(f"the loss of a VAE with {config} is not finite after annealing; give a larger beta")
        model.load_state_dict(kept)

    def through(change: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        def run(showings: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return change(torch.from_numpy(flat(showings))).numpy().reshape(*showings.shape[:2], -1)

        return run

    latents = scaled.map(through(lambda rows: model.encode(rows)[0]))
    back = latents.map(through(model.decoder)).map(lambda a: a * scale + mean)
    return VaeFit(latents, back, np.array(curve), best_epoch)
