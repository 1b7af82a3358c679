"""One linear dynamical system for many sessions: per-session encoders and decoders, aligned by behavior (CANDY).

The scikit-learn-like face of `foundation.linear_dynamics` and `foundation.objectives.rank_contrast`, written from
CANDY (NeurIPS 2025). Each session has its own encoder, neurons to d, and decoder, d to neurons; the system is shared.
Trained on whole trials; knows nothing of corpora or of the trunk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import nn

from foundation.linear_dynamics import LinearDynamics
from foundation.objectives.rank_contrast import rank_contrast
from foundation.session_networks import Padded, SessionNetworks, Trials, perceptron, positive
from foundation.tensor_file import read_tensors, write_tensors

# The learning rate falls to this share of its start: x.9 every 15 of 500 epochs, made smooth.
FINAL_RATE = 0.9 ** (500 / 15)
_FORMAT = "foundation.aligned_dynamics/1"

Stage = Literal["encoded", "filtered", "smoothed"]


class AlignedDynamics(BaseEstimator):
    """Latents of many sessions under one linear dynamical system.

    The loss of a step is the mean over sessions of the k-step prediction, sum_{k=1..horizon} of the mean squared error
    of decoder(C A^k x_{t|t}) at y_{t+k}, plus `behavior_weight` times the error of a linear read-out of behavior, plus
    `regularization` times the Frobenius norms of the weights; plus `rank_weight` times the rank contrast of random bins
    of all sessions. Activity and labels are z-scored, activity per neuron in its session, labels over all sessions.

    Args:
        latent_dimension: d, of the embeddings and of the state.
        hidden: Widths of the encoder; the decoder has them in reverse. Empty: linear maps.
        horizon: Bins ahead.
        rank_weight: Of the rank contrast; 0 leaves behavior out of the alignment.
        temperature: Of the rank contrast, in units of the typical distance of two embeddings. Low ones only see near
            neighbors, and leave sessions mirrored.
        rank_points: Bins in the rank contrast of a step.
        behavior_weight: Of the read-out of behavior.
        regularization: Of the norms of weights.
        behavior_first: Share of the steps, from the start, in which encoders learn from behavior alone, and the system
            and the decoders follow; 1 for all steps. Sessions that start as mirror images of each other can only
            turn over through a collapsed axis, which prediction forbids. Without labels there is no such time.
        max_iterations: Steps.
        refit_iterations: Steps at the end in which the system alone is fitted to the finished embeddings of all
            trials, by maximum likelihood; 0 for none. Prediction leaves the fast and weak modes far from converged
            when the sessions have long been aligned.
        trials_per_session: Trials of each session in a step.
        learning_rate: Of Adam at the start, for encoders, decoders and the read-out.
        system_learning_rate: The same for the few numbers of the system, which have the longest way to go.
        clip: Norm of the gradient of each network and of the system.
        max_singular_value: Cap on the singular values of A; None for none.
        random_state: Seed. Same seed and data, same latents, bit for bit on a CPU.

    Attributes:
        eigenvalues_: `(d,)` complex, of A, largest first.
        loss_: `(max_iterations,)`.
        dynamics_: The system.
    """

    def __init__(
        self,
        latent_dimension: int = 8,
        *,
        hidden: tuple[int, ...] = (64, 16),
        horizon: int = 4,
        rank_weight: float = 0.1,
        temperature: float = 1.0,
        rank_points: int = 512,
        behavior_weight: float = 0.0,
        regularization: float = 5e-3,
        behavior_first: float = 0.5,
        max_iterations: int = 1000,
        refit_iterations: int = 150,
        trials_per_session: int = 32,
        learning_rate: float = 2e-3,
        system_learning_rate: float = 2e-2,
        clip: float = 0.1,
        max_singular_value: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.latent_dimension = latent_dimension
        self.hidden = hidden
        self.horizon = horizon
        self.rank_weight = rank_weight
        self.temperature = temperature
        self.rank_points = rank_points
        self.behavior_weight = behavior_weight
        self.regularization = regularization
        self.behavior_first = behavior_first
        self.max_iterations = max_iterations
        self.refit_iterations = refit_iterations
        self.trials_per_session = trials_per_session
        self.learning_rate = learning_rate
        self.system_learning_rate = system_learning_rate
        self.clip = clip
        self.max_singular_value = max_singular_value
        self.random_state = random_state

    def fit(self, X: list[Any], y: list[Any] | None = None, *, trial: list[Any] | None = None) -> Self:
        """Learn the system and every session's encoder and decoder.

        Args:
            X: Sessions; each a list of trials `(T, N)`, or one `(T, N)` with `trial`. A row of NaN is a missing bin.
            y: Labels in the same form, `(T, L)` or `(T,)`, of one meaning in all sessions.
            trial: Per session `(T,)` numbers; a trial is a run of one number.

        Raises:
            ValueError: Lengths or widths that do not fit, NaN labels, options out of range, or weights without labels.
        """
        self._check_options(has_labels=y is not None)
        for name, given in (("X", X), ("y", y), ("trial", trial)):
            if given is not None and (not isinstance(given, list) or len(given) != len(X) or not given):
                raise ValueError(
                    f"{name}: got {type(given).__name__} of length {len(given)}, expected a list of sessions"
                )
        sessions = [
            Trials.of(x, y[s] if y else None, trial[s] if trial else None, f"session {s}") for s, x in enumerate(X)
        ]
        pooled = [labels for session in sessions for labels in session.labels or []]
        if len({labels.shape[1] for labels in pooled}) > 1:
            raise ValueError(
                f"labels are {sorted({v.shape[1] for v in pooled})} wide, expected one width in all sessions"
            )
        rows = np.concatenate(pooled) if pooled else np.zeros((1, 0))
        self.label_mean_, self.label_scale_ = rows.mean(axis=0), positive(rows.std(axis=0))
        generator = torch.Generator().manual_seed(self.random_state)
        d, width = self.latent_dimension, rows.shape[1]
        self.dynamics_ = LinearDynamics(d, d, generator)
        self.readout_ = perceptron([d, width], generator) if width else nn.Sequential()
        self.sessions_ = [SessionNetworks.of(session, tuple(self.hidden), d, generator) for session in sessions]
        self.anchors_ = torch.zeros(0, d), torch.zeros(0, width)
        data = [n.pad(session, self.label_mean_, self.label_scale_) for n, session in zip(self.sessions_, sessions)]
        self.loss_ = self._train(data, self.sessions_, [self.dynamics_, self.readout_], generator)
        with torch.no_grad():
            encoded = [n.encoder(item.activity) for n, item in zip(self.sessions_, data)]
        if width:
            self.anchors_ = self._drawn_points(data, encoded, generator)
        if self.refit_iterations:
            self.dynamics_.fit(*_one_batch(encoded, data), max_iterations=self.refit_iterations)
            if self.max_singular_value is not None:
                self.dynamics_.cap_singular_values(self.max_singular_value)
        return self

    def adapt(self, X: Any, y: Any | None = None, *, trial: Any | None = None) -> int:
        """Add a session: train its encoder and decoder while the system and the read-out stay as they are.

        Its rank contrast also runs against bins of the sessions of `fit`, kept for this.

        Args:
            X: The session, as one entry of `fit`'s.
            y: Its labels. Without them only the system aligns it, so up to maps that leave the system the same.
            trial: As in `fit`.

        Returns:
            The number of the session, for `transform`.

        Raises:
            ValueError: As `fit`, or labels of another width than there.
            NotFittedError: Before `fit`.
        """
        self._check_fitted()
        session = Trials.of(X, y, trial, "the new session")
        width = len(self.label_mean_)
        if session.labels is not None and session.labels[0].shape[1] != width:
            raise ValueError(f"labels are {session.labels[0].shape[1]} wide, expected {width} as in fit; give the same")
        generator = torch.Generator().manual_seed(self.random_state + 7919 * len(self.sessions_))
        networks = SessionNetworks.of(session, tuple(self.hidden), self.latent_dimension, generator)
        data = networks.pad(session, self.label_mean_, self.label_scale_)
        self._train([data], [networks], [], generator)
        self.sessions_.append(networks)
        return len(self.sessions_) - 1

    def transform(
        self, X: Any, *, session: int = 0, trial: Any | None = None, stage: Stage = "smoothed"
    ) -> np.ndarray | list[np.ndarray]:
        """Latents of one session.

        Args:
            X: One session, a list of trials or an array, with rows of NaN for missing bins.
            session: Its number, in the order of `fit`; `adapt` returns that of a new one.
            trial: As in `fit`, for an array.
            stage: `encoded` is the encoder's a_t (NaN in a missing bin); `filtered` is C E[x_t | y_1..t], which looks
                only back; `smoothed` is C E[x_t | all of the trial]. All three are in the space of a.

        Returns:
            `(T, d)` float32, or a list of such, as X is.

        Raises:
            ValueError: Unknown session or stage, or another number of neurons.
            NotFittedError: Before `fit`.
        """
        self._check_fitted()
        if stage not in get_args(Stage):
            raise ValueError(f"got stage {stage!r}, expected one of {get_args(Stage)}")
        if not 0 <= session < len(self.sessions_):
            raise ValueError(f"got session {session}, expected 0 to {len(self.sessions_) - 1}; adapt() adds one")
        networks, trials = self.sessions_[session], Trials.of(X, None, trial, f"session {session}")
        if (number := trials.activity[0].shape[1]) != len(networks.mean):
            raise ValueError(f"{number} neurons, expected {len(networks.mean)} as session {session} had in fit")
        with torch.no_grad():
            data = networks.pad(trials, self.label_mean_, self.label_scale_)
            encoded = networks.encoder(data.activity)
            latents = torch.where(data.mask[..., None], encoded, torch.nan)
            if stage != "encoded":
                filtered = self.dynamics_.filter(encoded, data.mask)
                beliefs = filtered.updated if stage == "filtered" else self.dynamics_.smooth(filtered)
                latents = beliefs.mean @ self.dynamics_.emission.T
        found = [latents[b, : len(part)].numpy() for b, part in enumerate(trials.activity)]
        return np.concatenate(found) if trials.is_array else found

    def predict(self, X: Any, *, session: int = 0, trial: Any | None = None) -> np.ndarray | list[np.ndarray]:
        """Behavior read out of the smoothed latents, in the units of the labels; needs `behavior_weight` above 0.

        Args:
            X: As in `transform`.
            session: As in `transform`.
            trial: As in `transform`.

        Raises:
            ValueError: No read-out was trained.
            NotFittedError: Before `fit`.
        """
        latents = self.transform(X, session=session, trial=trial)
        if not len(self.label_mean_) or not self.behavior_weight:
            raise ValueError("no read-out of behavior was trained; fit with labels and behavior_weight above 0")

        @torch.no_grad()
        def read(rows: np.ndarray) -> np.ndarray:
            return self.readout_(torch.from_numpy(rows)).numpy() * self.label_scale_ + self.label_mean_

        return [read(rows) for rows in latents] if isinstance(latents, list) else read(latents)

    @property
    def eigenvalues_(self) -> np.ndarray:
        """Eigenvalues `(d,)` of A, complex, largest first."""
        self._check_fitted()
        return self.dynamics_.eigenvalues()

    def save(self, path: str | Path) -> Path:
        """Write the fitted estimator to one safetensors file, whole or not at all; returns its path.

        Args:
            path: The file.
        """
        self._check_fitted()
        tensors = {
            "anchors": self.anchors_[0],
            "anchor_labels": self.anchors_[1],
            "loss": torch.from_numpy(self.loss_),
            "label_mean": torch.from_numpy(self.label_mean_),
            "label_scale": torch.from_numpy(self.label_scale_),
        }
        modules = {"dynamics": self.dynamics_, "readout": self.readout_}
        modules |= {f"session.{s}": networks for s, networks in enumerate(self.sessions_)}
        for name, module in modules.items():
            tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
        return write_tensors(Path(path), _FORMAT, self.get_params(), tensors)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Args:
            path: The file.

        Raises:
            ValueError: Missing, damaged, or something else.
        """
        options, tensors = read_tensors(Path(path), _FORMAT)
        model = cls(**{**options, "hidden": tuple(options["hidden"])})
        d, generator = model.latent_dimension, torch.Generator()

        def restored(module: nn.Module, name: str) -> Any:
            part = {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
            module.load_state_dict(part)
            return module

        model.label_mean_, model.label_scale_ = tensors["label_mean"].numpy(), tensors["label_scale"].numpy()
        model.anchors_, model.loss_ = (tensors["anchors"], tensors["anchor_labels"]), tensors["loss"].numpy()
        model.dynamics_ = restored(LinearDynamics(d, d), "dynamics.")
        width = len(model.label_mean_)
        model.readout_ = restored(perceptron([d, width], generator) if width else nn.Sequential(), "readout.")
        model.sessions_ = []
        while (mean := tensors.get(f"session.{len(model.sessions_)}.mean")) is not None:
            networks = SessionNetworks(len(mean), model.hidden, d, generator)
            model.sessions_.append(restored(networks, f"session.{len(model.sessions_)}."))
        return model

    def _train(
        self, data: list[Padded], networks: list[SessionNetworks], shared: list[nn.Module], generator: torch.Generator
    ) -> np.ndarray:
        """Train the sessions' networks and the shared modules; what is not among them stays. Loss of every step."""
        modules = [*shared, *(module for n in networks for module in (n.encoder, n.decoder))]
        trained = [list(module.parameters()) for module in modules]
        rates = [self.system_learning_rate if m is self.dynamics_ else self.learning_rate for m in modules]
        optimizer = torch.optim.Adam([{"params": p, "lr": rate} for p, rate in zip(trained, rates) if p])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: FINAL_RATE ** (step / self.max_iterations))
        aligned = data[0].labels.shape[2] and (self.rank_weight or self.behavior_weight)
        first = round(self.behavior_first * self.max_iterations) if aligned else 0
        losses = np.zeros(self.max_iterations, dtype=np.float32)
        for step in range(self.max_iterations):
            index = [torch.randperm(len(item.mask), generator=generator) for item in data]
            drawn = [item.take(i[: self.trials_per_session]) for item, i in zip(data, index)]
            loss = self._loss(drawn, networks, generator, joint=step >= first)
            optimizer.zero_grad()
            loss.backward()
            for parameters in trained:
                nn.utils.clip_grad_norm_(parameters, self.clip)
            optimizer.step()
            schedule.step()
            if self.max_singular_value is not None and shared:
                self.dynamics_.cap_singular_values(self.max_singular_value)
            losses[step] = loss.item()
        return losses

    def _loss(
        self, data: list[Padded], networks: list[SessionNetworks], generator: torch.Generator, joint: bool
    ) -> torch.Tensor:
        encoded = [n.encoder(item.activity) for n, item in zip(networks, data)]
        seen, mask = _one_batch(encoded if joint else [x.detach() for x in encoded], data)
        state = self.dynamics_.filter(seen, mask).updated.mean
        ahead = self.dynamics_.predict(state, self.horizon).split([len(item.mask) for item in data], dim=1)
        total = state.new_zeros(())
        for n, item, x, coming in zip(networks, data, encoded, ahead):
            total = total + _prediction_error(n.decoder(coming[:, :, : item.mask.shape[1]]), item)
            weights = [p for p in n.parameters() if p.ndim == 2]
            total = total + self.regularization * torch.stack([w.norm() for w in weights]).sum()
            if self.behavior_weight and item.labels.shape[2]:
                error = (self.readout_(x[item.mask]) - item.labels[item.mask]).square().mean()
                total = total + self.behavior_weight * error
        total = total / len(data)
        if self.rank_weight and data[0].labels.shape[2]:
            points, labels = self._drawn_points(data, encoded, generator)
            points, labels = torch.cat([points, self.anchors_[0]]), torch.cat([labels, self.anchors_[1]])
            total = total + self.rank_weight * rank_contrast(points, labels, self.temperature)
        return total

    def _drawn_points(
        self, data: list[Padded], encoded: list[torch.Tensor], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings and labels of `rank_points` observed bins of all sessions, without replacement."""
        points = torch.cat([x[item.mask] for x, item in zip(encoded, data)])
        labels = torch.cat([item.labels[item.mask] for item in data])
        drawn = torch.randperm(len(points), generator=generator)[: self.rank_points]
        return points[drawn], labels[drawn]

    def _check_options(self, has_labels: bool) -> None:
        for name in ("latent_dimension", "horizon", "max_iterations", "trials_per_session"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "system_learning_rate", "clip", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"got {name}={getattr(self, name)}, expected a number above 0")
        for name in ("rank_weight", "behavior_weight", "regularization"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"got {name}={getattr(self, name)}, expected 0 or more")
        if self.rank_points < 2:
            raise ValueError(f"got rank_points={self.rank_points}, expected at least 2")
        if not has_labels and (self.rank_weight or self.behavior_weight):
            raise ValueError("got no labels, expected y; or set rank_weight=0 and behavior_weight=0")
        if not 0 <= self.behavior_first <= 1:
            raise ValueError(f"got behavior_first={self.behavior_first}, expected a share from 0 to 1")

    def _check_fitted(self) -> None:
        if not hasattr(self, "sessions_"):
            raise NotFittedError("this AlignedDynamics is not fitted yet; call fit or load one")


def _one_batch(encoded: list[torch.Tensor], data: list[Padded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Trials of all sessions, which may differ in length, as one `(B, T, d)` with its mask `(B, T)`."""
    num_bins = max(item.mask.shape[1] for item in data)
    rows = [nn.functional.pad(x, (0, 0, 0, num_bins - x.shape[1])) for x in encoded]
    masks = [nn.functional.pad(item.mask, (0, num_bins - item.mask.shape[1])) for item in data]
    return torch.cat(rows), torch.cat(masks)


def _prediction_error(predicted: torch.Tensor, data: Padded) -> torch.Tensor:
    """Sum over k of the mean squared error of `(horizon, B, T, N)` predictions, made k bins before an observed one."""
    total = predicted.new_zeros(())
    for k, ahead in enumerate(predicted, start=1):
        error = (ahead[:, :-k] - data.activity[:, k:]).square().mean(dim=2)
        mask = data.mask[:, k:]
        total = total + (error * mask).sum() / mask.sum().clamp(min=1)
    return total
