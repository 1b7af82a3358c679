"""Contrastive embeddings with scikit-learn's manners: fit, transform, score, adapt to a new session, save, load.

One session or many; many share one trunk and keep a read-in each (`foundation.offset_encoder`). With one session,
`receptive_field=10` and the defaults of the loss this is CEBRA's model and objective (Schneider, Lee & Mathis 2023,
Nature 617:360; see the README on its patent), with exact sampling.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from foundation.activity_windows import ActivityWindows
from foundation.contrastive_fit import Losses, train
from foundation.contrastive_heads import Head, Heads, Pairing
from foundation.contrastive_model import ContrastiveModel, embed_rows, unit_parts
from foundation.embedding_bank import EmbeddingBank
from foundation.estimator_options import check_options
from foundation.label_arrays import LabelKind, head_labels, resolve_heads
from foundation.offset_encoder import OffsetEncoder
from foundation.session_data import SessionData, is_sessions, read_activity, read_sessions
from foundation.tensor_file import read_tensors, write_tensors

__all__ = ["ContrastiveEmbedding", "Head"]

_FORMAT = "foundation.estimator/1"


class ContrastiveEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embed neural activity so that moments that are alike lie together.

    Args:
        mode: "time", "behavior" (continuous labels), "discrete", "mixed" (both), "hybrid" (labels and time), "rank",
            "clip", or a list of `Head` for several label sets on parts of the embedding.
        output_dimension: D.
        receptive_field: Bins that an embedding sees, centered: 1, 3, 4, 5 ...
        num_hidden_units: Width of the encoder.
        max_iterations: Steps of a fit.
        batch_size: Anchors, and references, per session and step.
        learning_rate: Of Adam.
        similarity: "cosine" (embeddings on the sphere) or "euclidean".
        temperature: tau.
        learn_temperature: Train tau, from that start.
        min_temperature: What a learned tau cannot fall below.
        time_offset: Bins between a moment and its positive in time, and of label differences.
        query: Where the positive of a continuous label is looked for: "time_delta" (the label plus a difference in
            time seen elsewhere), "delta" (plus noise), "nearest" (the nearest other bin).
        delta: Standard deviation of that noise, in the labels' unit.
        negatives: "all" sessions' references, or those of the anchor's own "session".
        unit_dropout: Share of units silenced at random in each window of a step, against learning the labels of the
            training bins by heart.
        balance_classes: Draw anchors and references with every class equally often.
        allow_missing_labels: Bins with NaN labels, or integer labels below 0, are used without their label.
        sessions_per_step: Random sessions in each step; None for all.
        random_state: Seed of weights and draws.
        device: Of torch.
        verbose: Show a progress bar.

    Attributes:
        loss_: `(iterations,)` sum of the heads' losses, nats.
        num_units_: N of each session.
        num_sessions_: Sessions with a read-in, adapted ones included.
        temperature_: tau after training.

    Example:
        >>> model = ContrastiveEmbedding("behavior", output_dimension=3, max_iterations=2000)
        >>> embedding = model.fit(counts, position).transform(counts)           # one session
        >>> model.fit([counts_a, counts_b], [position_a, position_b])           # two, aligned, one trunk
        >>> model.adapt(counts_c, position_c).transform(counts_c, session=2)    # a new animal
    """

    model_: ContrastiveModel
    heads_: list[Head]
    label_kinds_: list[LabelKind]
    num_units_: list[int]
    num_sessions_: int
    n_iter_: int
    seed_: int

    def __init__(
        self,
        mode: str | Head | Sequence[Head] = "time",
        *,
        output_dimension: int = 8,
        receptive_field: int = 10,
        num_hidden_units: int = 32,
        max_iterations: int = 2000,
        batch_size: int = 512,
        learning_rate: float = 3e-4,
        similarity: str = "cosine",
        temperature: float = 1.0,
        learn_temperature: bool = False,
        min_temperature: float = 0.1,
        time_offset: int = 1,
        query: str = "time_delta",
        delta: float = 0.1,
        negatives: str = "all",
        unit_dropout: float = 0.0,
        balance_classes: bool = False,
        allow_missing_labels: bool = False,
        sessions_per_step: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.mode = mode
        self.output_dimension = output_dimension
        self.receptive_field = receptive_field
        self.num_hidden_units = num_hidden_units
        self.max_iterations = max_iterations
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.similarity = similarity
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.min_temperature = min_temperature
        self.time_offset = time_offset
        self.query = query
        self.delta = delta
        self.negatives = negatives
        self.unit_dropout = unit_dropout
        self.balance_classes = balance_classes
        self.allow_missing_labels = allow_missing_labels
        self.sessions_per_step = sessions_per_step
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *more_labels: Any, trial: Any = None) -> Self:
        """Train from new weights.

        Args:
            X: Activity `(T, N)`, or a list of such, one per session.
            y: Labels `(T,)` or `(T, L)`, floats or classes; a list of such for a list of sessions. Mode "time" uses
                none.
            *more_labels: Further labels, as y.
            trial: `(T,)` integers; receptive fields and time differences do not cross a change. A list for a list.

        Raises:
            ValueError: Unknown option, or data that do not fit each other; the message says what to do.
        """
        self._forget()
        try:
            return self.partial_fit(X, y, *more_labels, trial=trial)
        except BaseException:
            self._forget()  # half a fit is none
            raise

    def partial_fit(self, X: Any, y: Any = None, *more_labels: Any, trial: Any = None) -> Self:
        """Train for another `max_iterations` steps, on the same sessions or on other data of theirs."""
        check_options(self.get_params(deep=False))
        fresh = not hasattr(self, "model_")
        data = self._read(X, (y, *more_labels), trial, reset=fresh)
        if fresh:
            self._start(data)
        elif [a.shape[1] for a in data.activity] != self.num_units_:
            raise ValueError(
                f"got sessions of {[a.shape[1] for a in data.activity]} units, expected {self.num_units_} as in the "
                "first fit; use adapt for a new session"
            )
        heads = self._heads(data)
        windows = ActivityWindows(data.activity, data.trial, self.receptive_field, self.device)
        everyone = np.arange(len(data.activity))

        def losses(rng: np.random.Generator, ranks: tuple[int, int]) -> torch.Tensor:
            self.model_.bound_temperature()
            chosen = everyone
            if self.sessions_per_step is not None and self.sessions_per_step < len(everyone):
                chosen = np.sort(rng.choice(everyone, self.sessions_per_step, replace=False))

            def embed(rows: np.ndarray) -> torch.Tensor:
                return embed_rows(self.model_, windows, rows, unit_dropout=self.unit_dropout, rng=rng)

            return heads.losses(embed, self.model_, rng, chosen, chosen, chosen, ranks)

        if not hasattr(self, "_optimizer"):
            self._optimizer = torch.optim.Adam(
                [p for p in self.model_.parameters() if p.requires_grad], lr=self.learning_rate
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate  # may have been set anew
        steps = range(self.n_iter_, self.n_iter_ + self.max_iterations)
        self.loss_ = self._train(losses, self._optimizer, steps, purpose=1)
        self.n_iter_ += self.max_iterations
        self._bank = EmbeddingBank.keep(self.model_, windows, data.labels, self._rng(4, 0))
        return self

    def fit_transform(self, X: Any, y: Any = None, *more_labels: Any, trial: Any = None) -> Any:
        """`fit`, then the embeddings of the same data."""
        return self.fit(X, y, *more_labels, trial=trial).transform(X, trial=trial)

    def transform(self, X: Any, *, trial: Any = None, session: int = 0) -> Any:
        """Embeddings `(T, D)` float32, or a list of such for a list of all training sessions.

        Args:
            X: Activity.
            trial: As in `fit`.
            session: Whose read-in to use, in the order of `fit`, then of `adapt`.

        Raises:
            ValueError: Not the units, or not the sessions, of the fit.
        """
        check_is_fitted(self, "model_")
        if is_sessions(X):
            if len(X) > self.num_sessions_:
                raise ValueError(f"got {len(X)} sessions, expected at most {self.num_sessions_}")
            trials = trial if trial is not None else [None] * len(X)
            if not isinstance(trials, list | tuple) or len(trials) != len(X):
                raise ValueError(f"trial: got {len(trials)} of them, expected a list with one array for each session")
            return [self.transform(x, trial=t, session=s) for s, (x, t) in enumerate(zip(X, trials))]
        activity, borders = self._read_one(X, trial, session)
        windows = ActivityWindows([activity], [borders], self.receptive_field, self.device)
        with torch.no_grad():
            parts = [self.model_.encoder(piece, session)[:, 0][places] for piece, places in windows.pieces(0)]
            embedded = torch.cat(parts)
            spans = [head.dimensions or (0, self.output_dimension) for head in self.heads_]
            return (unit_parts(embedded, spans) if self.similarity == "cosine" else embedded).cpu().numpy()

    def score(
        self, X: Any, y: Any = None, *more_labels: Any, trial: Any = None, session: int = 0, num_batches: int = 50
    ) -> float:
        """Goodness of fit in bits on data that may be held out: how far the loss is below that of a constant.

        (C - L) / log 2, averaged over heads, with C the loss of the same draws when all embeddings are equal: log R
        with R references an anchor (Schneider et al. 2025, arXiv 2502.12977), in mode "rank" by the ties of the labels.
        0 means collapse. Pairs are drawn within the given data alone, by the estimator's seed.

        Args:
            X: Activity of one session, or a list of all.
            y: Labels.
            *more_labels: Further labels.
            trial: As in `fit`.
            session: Whose read-in to use for one session.
            num_batches: Draws to average.
        """
        check_is_fitted(self, "model_")
        ids = list(range(len(X))) if is_sessions(X) else [session]
        data = self._read(X, (y, *more_labels), trial, reset=False, sessions=ids)
        heads = self._heads(data)
        windows = ActivityWindows(data.activity, data.trial, self.receptive_field, self.device)
        everyone = np.arange(len(ids))

        def embed(rows: np.ndarray) -> torch.Tensor:
            return embed_rows(self.model_, windows, rows, ids)

        def collapsed(rows: np.ndarray) -> torch.Tensor:
            return torch.zeros(len(rows), self.output_dimension, device=self.device)

        with torch.no_grad():
            chance, losses = (
                torch.stack(
                    [
                        heads.losses(how, self.model_, self._rng(2, batch), everyone, everyone, everyone)
                        for batch in range(num_batches)
                    ]
                )
                for how in (collapsed, embed)
            )
        return float((chance - losses).mean()) / math.log(2)

    def adapt(
        self,
        X: Any,
        y: Any = None,
        *more_labels: Any,
        trial: Any = None,
        max_iterations: int = 500,
        learning_rate: float | None = None,
    ) -> Self:
        """Add a session: train its read-in alone, everything else as it is.

        Labeled heads look for positives among the kept embeddings of the training sessions, or rank the new moments
        among them, so that the new session comes to lie where they do.

        Args:
            X: Activity `(T, N)` of the new session.
            y: Labels, as in `fit`.
            *more_labels: Further labels.
            trial: As in `fit`.
            max_iterations: Steps.
            learning_rate: Default: 3 times that of the fit, as only the first layer moves.

        Returns:
            Itself; the session's number is `num_sessions_ - 1`.
        """
        check_is_fitted(self, "model_")
        if is_sessions(X):
            raise ValueError("got a list of sessions, expected one (T, N) array; call adapt for each")
        session = self.num_sessions_
        data = self._read(X, (y, *more_labels), trial, reset=False, sessions=[None])
        generator = torch.Generator().manual_seed(self.seed_ + 1 + session)
        heads = self._heads(self._bank.beside(data))
        windows = ActivityWindows(data.activity, data.trial, self.receptive_field, self.device)
        self.model_.encoder.add_session(data.activity[0].shape[1], generator)
        frozen = {p: p.requires_grad for p in self.model_.parameters()}
        own = [self.model_.encoder.read_ins[session], self.model_.encoder.biases[session]]

        def losses(rng: np.random.Generator, ranks: tuple[int, int]) -> torch.Tensor:
            def embed_new(rows: np.ndarray) -> torch.Tensor:
                return embed_rows(self.model_, windows, rows, [session], unit_dropout=self.unit_dropout, rng=rng)

            embed = self._bank.embedding(embed_new, len(data.trial[0]), self.device)
            return heads.losses(embed, self.model_, rng, np.array([0]), np.array([1]), np.array([0, 1]), ranks)

        try:
            for parameter in frozen:
                parameter.requires_grad_(any(parameter is p for p in own))
            optimizer = torch.optim.Adam(own, lr=learning_rate or 3 * self.learning_rate)
            self.adapt_loss_ = self._train(losses, optimizer, range(max_iterations), purpose=3 + session)
        except BaseException:
            self.model_.encoder.drop_last_session()
            raise
        finally:
            for parameter, required in frozen.items():
                parameter.requires_grad_(required)
        self.num_units_ = [*self.num_units_, data.activity[0].shape[1]]
        self.num_sessions_ += 1
        self.__dict__.pop("_optimizer", None)
        return self

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: weights, kept embeddings, options; nothing that runs when read."""
        check_is_fitted(self, "model_")
        options = self.get_params(deep=False) | {"random_state": self.seed_}
        if not isinstance(self.mode, str):
            heads = [self.mode] if isinstance(self.mode, Head) else self.mode
            options["mode"] = [dataclasses.asdict(head) for head in heads]
        about = {
            "options": options,
            "num_units": self.num_units_,
            "kinds": [dataclasses.asdict(kind) for kind in self.label_kinds_],
            "steps": self.n_iter_,
        }
        tensors = {f"model.{name}": value for name, value in self.model_.state_dict().items()}
        tensors |= {**self._bank.tensors(), "loss": torch.from_numpy(self.loss_)}
        return write_tensors(Path(path), _FORMAT, about, tensors)

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None) -> Self:
        """Read what `save` wrote; training it on starts with fresh moments of Adam.

        Args:
            path: File.
            device: Of torch; that of the fit by default.

        Raises:
            ValueError: Not such a file, or a damaged one.
        """
        about, tensors = read_tensors(Path(path), _FORMAT)
        try:
            options = about["options"]
            if not isinstance(options["mode"], str):
                options["mode"] = [_head(**head) for head in options["mode"]]
            self = cls(**options | ({} if device is None else {"device": device}))
            check_options(self.get_params(deep=False))
            # Shapes first, without memory: a damaged header may ask for any size. A trunk has rf / 2 layers or fewer.
            if self.receptive_field > 2 * len(tensors) + 2:
                raise ValueError(f"receptive_field {self.receptive_field} is more than the layers in the file")
            self.seed_, self.n_iter_ = int(options["random_state"]), int(about["steps"])
            self.label_kinds_ = [LabelKind(**kind) for kind in about["kinds"]]
            with torch.device("meta"):
                self._build(about["num_units"])
            weights = {name[6:]: value.float() for name, value in tensors.items() if name.startswith("model.")}
            self.model_.load_state_dict(weights, assign=True)
            self._bank = EmbeddingBank.from_tensors(tensors, self.label_kinds_, self.output_dimension)
            self.loss_ = tensors["loss"].numpy()
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path}: does not hold what ContrastiveEmbedding.save writes ({' '.join(str(error).split())[:200]}); "
                "expected a file of this version"
            ) from None
        self.model_.to(self.device)
        if len(self.num_units_) == 1:
            self.n_features_in_ = self.num_units_[0]
        return self

    @property
    def temperature_(self) -> float:
        """The similarity's temperature after training."""
        check_is_fitted(self, "model_")
        return float(1.0 / self.model_.scale.detach())

    @property
    def _n_features_out(self) -> int:
        return self.output_dimension

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # float32 whatever goes in
        return tags

    def _forget(self) -> None:
        for name in ("model_", "_optimizer", "n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)

    def _start(self, data: SessionData) -> None:
        given = self.random_state
        is_seed = isinstance(given, int | np.integer)
        self.seed_ = int(given) if is_seed else int(check_random_state(given).randint(2**31 - 1))  # type: ignore[arg-type]
        self.label_kinds_ = data.kinds
        self._build([a.shape[1] for a in data.activity])
        self.model_.to(self.device)
        self.n_iter_ = 0

    def _build(self, num_units: list[int]) -> None:
        """New weights for sessions of these sizes, not yet on the device."""
        self.heads_ = resolve_heads(self.mode, self.label_kinds_)
        for head in self.heads_:
            low, high = head.dimensions or (0, self.output_dimension)
            if not 0 <= low < high <= self.output_dimension:
                raise ValueError(
                    f"{head} acts on dimensions {low} to {high}, expected some of 0 to {self.output_dimension}"
                )
        generator = torch.Generator().manual_seed(self.seed_)
        clips = [head for head in self.heads_ if head.mode == "clip"]
        widths = [
            sum(self.label_kinds_[n].columns or len(self.label_kinds_[n].classes) for n in head.labels or ())
            for head in clips
        ]
        spans = [head.dimensions or (0, self.output_dimension) for head in clips]
        encoder = OffsetEncoder(
            num_units, self.output_dimension, self.receptive_field, self.num_hidden_units, generator
        )
        self.model_ = ContrastiveModel(
            encoder,
            self.temperature,
            widths,
            [high - low for low, high in spans],
            generator,
            learn_temperature=self.learn_temperature,
            min_temperature=self.min_temperature,
        )
        self.num_units_, self.num_sessions_ = list(num_units), len(num_units)

    def _rng(self, purpose: int, step: int) -> np.random.Generator:
        """A generator for each step, so that training can go on where it stopped."""
        return np.random.default_rng([self.seed_, purpose, step])

    def _train(self, losses: Losses, optimizer: torch.optim.Optimizer, steps: range, purpose: int) -> np.ndarray:
        weights = torch.tensor([head.weight for head in self.heads_], dtype=torch.float32, device=self.device)
        return train(losses, optimizer, weights, steps, lambda step: self._rng(purpose, step), self.verbose)

    def _heads(self, data: SessionData) -> Heads:
        pairing = Pairing(
            self.batch_size,
            self.similarity,
            self.negatives,
            self.query,
            self.delta,
            self.time_offset,
            self.balance_classes,
        )
        labels = [head_labels(head, data.labels, data.kinds, data.trial) for head in self.heads_]
        heads = Heads(self.heads_, labels, pairing, self.output_dimension, self.device)
        heads.check([f"session {s}" for s in range(len(data.activity))])
        return heads

    def _read(
        self, X: Any, labels: Sequence[Any], trial: Any, *, reset: bool, sessions: Sequence[int | None] | None = None
    ) -> SessionData:
        """Check sessions and labels; `sessions` are their numbers in the fit, None for a new one."""
        if not is_sessions(X):
            # Sets or checks n_features_in_ and feature names.
            same = sessions is None or (list(sessions) == [0] and self.num_sessions_ == 1)
            X = validate_data(self, X, reset=reset, ensure_min_samples=2, dtype="numeric") if same else X
            X, trial = [X], None if trial is None else [trial]
            labels = [[array] for array in labels if array is not None]
        else:
            labels = [array for array in labels if array is not None]
        data = read_sessions(
            X,
            labels,
            trial,
            kinds=None if reset else self.label_kinds_,
            uses_labels=self.mode != "time",
            as_continuous=isinstance(self.mode, str) and self.mode in ("behavior", "rank"),
            allow_missing=self.allow_missing_labels,
        )
        for array, session in zip(data.activity, sessions or []):
            if session is not None:
                self._check_session(array, session)
        return data

    def _read_one(self, X: Any, trial: Any, session: int) -> tuple[np.ndarray, np.ndarray]:
        if session == 0 and self.num_sessions_ == 1:
            X = validate_data(self, X, reset=False, dtype="numeric")
        activity, borders = read_activity(X, trial, "X")
        self._check_session(activity, session)
        return activity, borders

    def _check_session(self, activity: np.ndarray, session: int) -> None:
        if not 0 <= session < self.num_sessions_:
            raise ValueError(f"session {session}, expected 0 to {self.num_sessions_ - 1}")
        if activity.shape[1] != self.num_units_[session]:
            raise ValueError(
                f"X has {activity.shape[1]} units, expected {self.num_units_[session]} as session {session} of the fit"
            )


def _head(mode: str, labels: list[int] | None, dimensions: list[int] | None, weight: float) -> Head:
    """A head as JSON keeps it."""
    span = None if dimensions is None else (int(dimensions[0]), int(dimensions[1]))
    return Head(mode, None if labels is None else tuple(labels), span, weight)
