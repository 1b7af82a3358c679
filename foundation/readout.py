"""The read-out of an adapted session once more, as a convex problem on the frozen trunk.

After gradient adaptation, each unit's log-rate is fitted per question (encoding, co-smoothing, forecasting) by Poisson
ridge regression on the trunk states that this question leaves visible, a slow drift, and lagged principal components of
the visible spikes. States enter through the second moment of the pretrained read-out rows, which makes the ridge a
Gaussian prior learned from the pretraining animals. Penalty and the weight of the average with the gradient's own
read-out are chosen per session on validation trials; test trials are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from foundation.adapters import LAG_WINDOWS
from foundation.binning import bin_spikes
from foundation.model import LOG_RATE_RANGE, FoundationModel
from foundation.poisson_ridge import fit_poisson_ridge
from foundation.predict import Answer, Hide, answers, hide_future, hide_spikes, hide_units
from foundation.sampling import Window, WindowReader
from foundation.splits import stretches
from foundation.train import TrainingData

Question = Literal["encode", "cosmooth", "forecast"]
QUESTIONS: tuple[Question, ...] = ("encode", "cosmooth", "forecast")
# Forecasting is fitted with this share of each window known.
KNOWN_SHARE = 0.8
# Bins of the recent past that forecasting reads beside the mean over all that is known.
RECENT_BINS = 10
NUM_COSINES = 20
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class ReadoutConfig:
    """The convex read-out.

    Attributes:
        enabled: Whether to fit it.
        penalties: Grid of the ridge penalty.
        components: Principal components of the session's spikes, at most.
        groups: To fit co-smoothing, units are hidden in this many groups.
        twin_correlation: Units correlated more than this with a hidden unit are hidden with it (split clusters).
    """

    enabled: bool = True
    penalties: list[float] = field(default_factory=lambda: [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0])
    components: int = 24
    groups: int = 10
    twin_correlation: float = 0.2


def state_prior(base: FoundationModel) -> np.ndarray:
    """`(D, D)` symmetric root of the second moment of the pretrained read-out rows, of mean squared size 1.

    A ridge on weights of states times this root is a Gaussian prior with the pretrained rows' second moment. The
    identity for a model without sessions.
    """
    rows = base.adapters.unit_rows.detach()[:, base.adapters.layout.slices()["read_out"]].double().cpu().numpy()
    if not len(rows):
        return np.eye(base.shape.width)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    root = np.sqrt(np.maximum(values, 1e-4 * values.max()))
    return np.asarray((vectors * (root / np.sqrt(np.mean(root**2)))) @ vectors.T)


def fit_readouts(model: FoundationModel, data: TrainingData, config: ReadoutConfig, prior: np.ndarray) -> None:
    """Fit the convex read-out of every session of `data` and put it into `model.readouts`.

    Args:
        model: Adapted.
        data: Its train and validation windows.
        config: Grid and sizes.
        prior: From `state_prior` of the pretrained model.
    """
    for recording_id in data.train:
        train, val = data.train[recording_id], data.val[recording_id]
        session = _Session(model, data.reader, recording_id, train, config)
        arrays: dict[str, np.ndarray] = dict(session.arrays)
        for question in QUESTIONS:
            fitted = _fit_question(session, question, train, val or train, config, prior)
            arrays |= {f"{question}.{name}": value for name, value in fitted.items()}
        model.readouts[recording_id] = {k: torch.from_numpy(np.asarray(v, np.float32)) for k, v in arrays.items()}


def log_rates(
    model: FoundationModel,
    reader: WindowReader,
    windows: list[Window],
    question: Question,
    hide: Hide | None = None,
) -> Iterator[np.ndarray]:
    """Log expected counts `(T, N)` of windows of one session, by the read-out made for a question.

    Args:
        model: Adapted; without a convex read-out the gradient's own answers.
        reader: Opens the recordings.
        windows: Of one session.
        question: Which read-out.
        hide: What is hidden; by default as the question says (for `cosmooth` it has to be given).
    """
    hide = hide or {"encode": hide_spikes, "forecast": hide_future(KNOWN_SHARE)}[question]
    recording_id = windows[0].recording_id
    stored = model.readouts.get(recording_id)
    if stored is None:
        yield from (answer.log_rates for answer in answers(model, reader, windows, hide))
        return
    arrays = {key: value.double().numpy() for key, value in stored.items()}
    session = _Session(model, reader, recording_id, None, None, arrays)
    weights, mix = arrays[f"{question}.weights"], float(arrays[f"{question}.mix"])
    for answer in answers(model, reader, windows, hide):
        convex = session.features(question, answer, arrays) @ weights
        yield np.clip(mix * answer.log_rates + (1 - mix) * convex, *LOG_RATE_RANGE)


class _Session:
    """Features of one session: states, drift and principal components of what is visible."""

    def __init__(
        self,
        model: FoundationModel,
        reader: WindowReader,
        recording_id: str,
        train: list[Window] | None,
        config: ReadoutConfig | None,
        arrays: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.model, self.reader, self.recording_id = model, reader, recording_id
        self.recording = reader.recording(recording_id)
        self.center = model.adapters.rows(recording_id).center.double().cpu().numpy()
        if arrays is not None:
            self.arrays = arrays
            return
        assert train is not None
        assert config is not None
        roots = np.sqrt(np.concatenate([self.counts(window) for window in train])) - self.center
        values, vectors = np.linalg.eigh(roots.T @ roots / len(roots))
        keep = slice(-1, -1 - min(config.components, len(values)), -1)
        bounds = stretches(self.recording)[[window.row for window in train]]
        self.arrays = {
            # Unit variance for the first component; the others keep their share, so the ridge prefers the strong ones.
            "components": vectors[:, keep] / np.sqrt(max(values[-1], 1e-9)),
            "span": np.array([bounds[:, 0].min(), bounds[:, 1].max()]),
        }

    def counts(self, window: Window) -> np.ndarray:
        """`(T, N)` counts of a window, float64."""
        raw = bin_spikes(self.recording, window.start_s, window.num_bins, self.reader.bin_size_s)
        return raw.astype(float)

    def features(self, question: Question, answer: Answer, fitted: dict[str, np.ndarray]) -> np.ndarray:
        """`(T, F)` features of one window, a constant first; standardized as `fitted` says."""
        raw = self.raw_features(question, answer, fitted[f"{question}.prior"])
        scaled = (raw - fitted[f"{question}.mean"]) / fitted[f"{question}.scale"]
        return np.concatenate([np.ones((len(raw), 1)), scaled], axis=1)

    def raw_features(self, question: Question, answer: Answer, prior: np.ndarray) -> np.ndarray:
        """`(T, F)` features of one window before standardization."""
        parts = [answer.states.astype(float) @ prior, self.drift(answer.window)]
        if question != "encode":
            hidden = answer.hidden
            visible = np.where(hidden, 0.0, np.sqrt(self.counts(answer.window)) - self.center)
            latent = visible @ self.arrays["components"]
            parts.append(_lagged(latent) if question == "cosmooth" else _known(latent, np.asarray(hidden.all(axis=1))))
        return np.concatenate(parts, axis=1)

    def drift(self, window: Window) -> np.ndarray:
        """`(T, NUM_COSINES)` cosines of the position among the train trials, held beyond them; see `drift_basis`."""
        low, high = self.arrays["span"]
        middle = window.start_s + 0.5 * window.num_bins * self.reader.bin_size_s
        position = np.clip((middle - low) / max(high - low, 1e-9), 0, 1)
        order = np.arange(1, NUM_COSINES + 1)
        return np.repeat(np.cos(np.pi * order * position)[None] / order, window.num_bins, axis=0)


def _lagged(latent: np.ndarray) -> np.ndarray:
    """Sums over the lag windows and the window's mean, `(T, (L + 1) K)`."""
    bins = len(latent)
    total = np.concatenate([np.zeros((1, latent.shape[1])), np.cumsum(latent, axis=0)])
    row = np.arange(bins)
    sums = [
        total[np.clip(row + last + 1, 0, bins)] - total[np.clip(row + first, 0, bins)] for first, last in LAG_WINDOWS
    ]
    return np.concatenate([*sums, np.repeat(latent.mean(axis=0, keepdims=True), bins, axis=0)], axis=1)


def _known(latent: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Means over all known bins and over the most recent ones, `(T, 2 K)`."""
    known = latent[~hidden]
    if not len(known):
        return np.zeros((len(latent), 2 * latent.shape[1]))
    row = np.concatenate([known.mean(axis=0), known[-RECENT_BINS:].mean(axis=0)])
    return np.repeat(row[None], len(latent), axis=0)


def _fit_question(
    session: _Session,
    question: Question,
    train: list[Window],
    val: list[Window],
    config: ReadoutConfig,
    prior: np.ndarray,
) -> dict[str, np.ndarray]:
    """Weights `(F, N)` and how to standardize the features; penalty and mix chosen on `val`."""
    num_units = len(session.center)
    blocks = list(_blocks(session, question, train, val, config, prior))
    stacked = np.concatenate([block.train for block in blocks])
    mean, scale = stacked.mean(axis=0), _scales(stacked, len(prior))
    del stacked
    penalized = np.ones(len(mean) + 1, bool)
    penalized[0] = False
    weights = {penalty: np.zeros((len(mean) + 1, num_units)) for penalty in config.penalties}
    score = np.zeros((len(config.penalties), len(MIXES)))
    for block in blocks:
        features, checked = ((rows - mean) / scale for rows in (block.train, block.val))
        features = np.concatenate([np.ones((len(features), 1)), features], axis=1)
        checked = np.concatenate([np.ones((len(checked), 1)), checked], axis=1)
        start = None
        for p, penalty in sorted(enumerate(config.penalties), key=lambda item: -item[1]):
            start = fit_poisson_ridge(
                features, block.train_counts, penalty, penalized=penalized, init=start, tolerance=1e-6
            )
            weights[penalty][:, block.units] = start
            convex = checked @ start
            for m, mix in enumerate(MIXES):
                rate = np.clip(mix * block.val_own + (1 - mix) * convex, *LOG_RATE_RANGE)
                score[p, m] += float((block.val_counts * rate - np.exp(rate)).sum())
    best_penalty, best_mix = (int(i) for i in np.unravel_index(int(score.argmax()), score.shape))
    return {
        "weights": weights[config.penalties[best_penalty]],
        "mean": mean,
        "scale": scale,
        "prior": prior,
        "mix": np.array(MIXES[best_mix]),
        "penalty": np.array(config.penalties[best_penalty]),
    }


def _scales(features: np.ndarray, width: int) -> np.ndarray:
    """What features are divided by: one number for all states, one for all drift terms, each lagged component's own.

    The relative size of states and of drift terms is their prior.
    """
    deviation = features.std(axis=0)
    scale = np.maximum(deviation, 1e-6)
    scale[:width] = np.sqrt(np.mean(deviation[:width] ** 2)) + 1e-9
    scale[width : width + NUM_COSINES] = deviation[width : width + NUM_COSINES].max() + 1e-9
    return scale


@dataclass
class _Block:
    """Rows of one fit: features, counts and the model's own log-rates of `units`."""

    units: np.ndarray
    train: np.ndarray
    train_counts: np.ndarray
    val: np.ndarray
    val_counts: np.ndarray
    val_own: np.ndarray


def _blocks(
    session: _Session,
    question: Question,
    train: list[Window],
    val: list[Window],
    config: ReadoutConfig,
    prior: np.ndarray,
) -> Iterator[_Block]:
    everyone = np.arange(len(session.center))
    if question != "cosmooth":
        hide = hide_spikes if question == "encode" else hide_future(KNOWN_SHARE)
        yield _block(session, question, everyone, hide, train, val, prior)
        return
    alike = twins(np.concatenate([session.counts(window) for window in train]), config.twin_correlation)
    shuffled = np.random.default_rng(0).permutation(everyone)
    for group in np.array_split(shuffled, min(config.groups, len(everyone))):
        hidden = alike[group].any(axis=0)
        hidden[group] = True
        yield _block(session, question, group, hide_units(hidden), train, val, prior)


def _block(
    session: _Session,
    question: Question,
    units: np.ndarray,
    hide: Hide,
    train: list[Window],
    val: list[Window],
    prior: np.ndarray,
) -> _Block:
    parts: list[list[np.ndarray]] = [[], [], [], [], []]
    for where, windows in enumerate((train, val)):
        for answer in answers(session.model, session.reader, windows, hide):
            # Forecasting is fitted where it is asked: on the hidden end of the window.
            rows = answer.hidden.all(axis=1) if question == "forecast" else np.ones(answer.window.num_bins, bool)
            parts[2 * where].append(session.raw_features(question, answer, prior)[rows])
            parts[2 * where + 1].append(session.counts(answer.window)[rows][:, units])
            if where:
                parts[4].append(answer.log_rates[rows][:, units].astype(float))
    train_rows, train_counts, val_rows, val_counts, own = (np.concatenate(part) for part in parts)
    return _Block(units, train_rows, train_counts, val_rows, val_counts, own)


def twins(counts: np.ndarray, threshold: float) -> np.ndarray:
    """`(N, N)` bool: pairs of different units whose counts `(R, N)` correlate beyond the threshold."""
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(counts.T.astype(float)).reshape(counts.shape[1], -1))
    np.fill_diagonal(correlation, 0.0)
    return np.asarray(np.abs(correlation) > threshold)
