"""The read-out of an adapted session once more, as convex problems on the frozen trunk.

After gradient adaptation, each unit's log-rate is fitted per question by Poisson ridge regression:

    encode      on the trunk states that hidden spikes leave, drift and the task (`foundation.encoding`)
    cosmooth    with that as an offset, on states that see the other units, drift, and those units' lagged counts
    forecast    on states that see the known bins, drift, and recent rates of the population and of the unit itself

A read-out without `encode` is one of spikes alone (`fit_spikes_alone`): no behavior, no trial, no task.

In the last two, states enter through the second moment of the pretrained read-out rows, which makes the ridge a
Gaussian prior learned from the pretraining animals; penalty and the weight of the average with the gradient's own
read-out are chosen per session on validation trials. Test trials are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from foundation.encoding import encoding_log_rates, fit_encoding
from foundation.model import LOG_RATE_RANGE, FoundationModel
from foundation.poisson_newton import SharedCurvature
from foundation.poisson_ridge import fit_poisson_ridge
from foundation.predict import Answer, Hide, answers, hide_future, hide_spikes, hide_units, spikes_alone
from foundation.readout_features import NUM_COSINES, SessionFeatures
from foundation.sampling import Window, WindowReader
from foundation.sidecars import as_arrays, as_tensors
from foundation.training_data import TrainingData
from foundation.weight_prior import TOLERANCE

Question = Literal["encode", "cosmooth", "forecast"]
# Forecasting is fitted with this share of each window known.
KNOWN_SHARE = 0.8
# Prior standard deviation of the drift relative to that of the states.
DRIFT_SIZE = 4.0
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class ReadoutConfig:
    """The convex read-out.

    Attributes:
        enabled: Whether to fit it.
        penalties: Grid of the ridge penalty of forecasting.
        coupling_penalties: The same of co-smoothing.
        components: Principal components of the session's spikes that co-smoothing reads, at most.
        history_components: The same for forecasting.
        groups: To fit co-smoothing, units are hidden in this many groups.
        twin_correlation: Units correlated more than this with a hidden unit are hidden with it (split clusters).
    """

    enabled: bool = True
    penalties: list[float] = field(default_factory=lambda: [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0])
    coupling_penalties: list[float] = field(default_factory=lambda: [300.0, 1000.0, 3000.0])
    components: int = 96
    history_components: int = 24
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
    for recording_id, train in data.train.items():
        arrays = fit_encoding(model, data.reader, recording_id, train)
        fit = _Fit(model, data.reader, recording_id, (train, data.val[recording_id] or train), config, prior, arrays)
        model.readouts[recording_id] = as_tensors(fit.run())


def fit_spikes_alone(
    model: FoundationModel,
    reader: WindowReader,
    windows: tuple[list[Window], list[Window]],
    config: ReadoutConfig,
    prior: np.ndarray,
    *,
    held_out: np.ndarray | None = None,
    known_share: float | None = None,
) -> dict[str, np.ndarray]:
    """Co-smoothing of some units, or forecasting, from spikes and the place in the session alone.

    Args:
        model: With rows for the session.
        reader: Opens it.
        windows: Of one session, to train on and to validate on.
        config: Grid and sizes.
        prior: From `state_prior` of the pretrained model.
        held_out: `(N,)` bool, units that are hidden and predicted: co-smoothing.
        known_share: Share of each window that is known: forecasting of all units.

    Returns:
        Arrays that `log_rates` reads from `model.readouts`, for question `cosmooth` or `forecast`; give it the same
        mask, such as `spikes_alone(hide_units(held_out))`.
    """
    recording_id = windows[0][0].recording_id
    bounds = [(window.start_s, window.start_s + window.num_bins * reader.bin_size_s) for window in windows[0]]
    arrays = {"span": np.array([min(a for a, _ in bounds), max(b for _, b in bounds)])}
    fit = _Fit(model, reader, recording_id, windows, config, prior, arrays)
    if held_out is not None:
        fit.fit("cosmooth", [(np.flatnonzero(held_out), spikes_alone(hide_units(held_out)))])
    if known_share is not None:
        fit.fit("forecast", [(np.arange(fit.num_units), spikes_alone(hide_future(known_share)))])
    return fit.arrays


def log_rates(
    model: FoundationModel,
    reader: WindowReader,
    windows: list[Window],
    question: Question,
    hide: Hide | None = None,
    offsets: Sequence[np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """Log expected counts `(T, N)` of windows of one session, by the read-out made for a question.

    Args:
        model: Adapted; without a convex read-out the gradient's own answers.
        reader: Opens the recordings.
        windows: Of one session.
        question: Which read-out.
        hide: What is hidden; by default as the question says (for `cosmooth` it has to be given).
        offsets: From `cosmooth_offsets`, for whoever asks `cosmooth` of the same windows many times.
    """
    hide = hide or {"encode": hide_spikes, "forecast": hide_future(KNOWN_SHARE)}[question]
    stored = model.readouts.get(windows[0].recording_id, {})
    if f"{question}.weights" not in stored:
        yield from (answer.log_rates for answer in answers(model, reader, windows, hide))
        return
    arrays = as_arrays(stored)
    if question == "encode":
        yield from encoding_log_rates(model, reader, windows, arrays)
        return
    features = SessionFeatures.of_arrays(model, reader, windows[0].recording_id, arrays)
    if question == "cosmooth" and offsets is None:
        offsets = cosmooth_offsets(model, reader, windows)
    mix = float(arrays[f"{question}.mix"])
    for answer, offset in zip(answers(model, reader, windows, hide), offsets or [np.zeros(())] * len(windows)):
        convex = offset + _apply(features, question, answer, arrays)
        yield np.clip(mix * answer.log_rates + (1 - mix) * convex, *LOG_RATE_RANGE)


def cosmooth_offsets(model: FoundationModel, reader: WindowReader, windows: list[Window]) -> list[np.ndarray]:
    """Log-rates `(T, N)` that co-smoothing starts from; empty for a model whose read-out has no encoding."""
    arrays = as_arrays(model.readouts.get(windows[0].recording_id, {}))
    return list(encoding_log_rates(model, reader, windows, arrays)) if "encode.weights" in arrays else []


def _apply(features: SessionFeatures, question: Question, answer: Answer, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Log-rates `(T, N)` of the convex fit alone, without an offset."""
    shared = features.shared(question, answer)
    shared = (shared - arrays[f"{question}.mean"]) / arrays[f"{question}.scale"]
    out = arrays[f"{question}.constant"] + shared @ arrays[f"{question}.weights"]
    if question == "forecast":
        own = (features.own(answer) - arrays["forecast.own_mean"]) / arrays["forecast.own_scale"]
        out = out + np.einsum("tno,on->tn", own, arrays["forecast.own_weights"])
    return np.asarray(out)


@dataclass
class _Rows:
    """Rows of one role: shared features, own features, counts, offset and the model's own log-rates of some units."""

    shared: np.ndarray
    own: np.ndarray
    counts: np.ndarray
    offset: np.ndarray
    gradient: np.ndarray


class _Fit:
    """The fits of one session."""

    def __init__(
        self,
        model: FoundationModel,
        reader: WindowReader,
        recording_id: str,
        windows: tuple[list[Window], list[Window]],
        config: ReadoutConfig,
        prior: np.ndarray,
        arrays: dict[str, np.ndarray],
    ) -> None:
        self.model, self.reader, self.config = model, reader, config
        self.windows, self.arrays = windows, arrays
        self.features = SessionFeatures.of_arrays(model, reader, recording_id, self.arrays)
        self.features.add_axes(windows[0], prior, config.components, config.history_components)
        self.num_units = len(self.features.center)

    def run(self) -> dict[str, np.ndarray]:
        """Both questions; co-smoothing starts from encoding."""
        encoded = [list(encoding_log_rates(self.model, self.reader, w, self.arrays)) for w in self.windows]
        self.fit("cosmooth", list(self.groups()), encoded)
        self.fit("forecast", [(np.arange(self.num_units), hide_future(KNOWN_SHARE))])
        return self.arrays

    def groups(self) -> Iterator[tuple[np.ndarray, Hide]]:
        """Groups of units with the mask that hides them and their twins."""
        counts = np.concatenate([self.features.counts(window) for window in self.windows[0]])
        alike = twins(counts, self.config.twin_correlation)
        shuffled = np.random.default_rng(0).permutation(self.num_units)
        for group in np.array_split(shuffled, min(self.config.groups, self.num_units)):
            hidden = np.asarray(alike[group].any(axis=0))
            hidden[group] = True
            yield group, hide_units(hidden)

    def fit(
        self,
        question: Question,
        groups: list[tuple[np.ndarray, Hide]],
        offsets: list[list[np.ndarray]] | None = None,
    ) -> None:
        """Fit one question group by group; penalty and mix are the session's, chosen on validation rows."""
        grid = self.config.coupling_penalties if question == "cosmooth" else self.config.penalties
        penalties = sorted(grid, reverse=True)
        score = np.zeros((len(penalties), len(MIXES)))
        weights: list[dict[str, np.ndarray]] = [{} for _ in penalties]
        for units, hide in groups:
            train, val = (self.rows(question, units, hide, role, offsets) for role in (0, 1))
            self.standardize(question, train)
            for p, solution in enumerate(self.solve(question, train, penalties)):
                for name, value in solution.items():
                    full = weights[p].setdefault(name, np.zeros((len(value), self.num_units)))
                    full[:, units] = value
                convex = np.clip(self.rate(question, val, solution), *LOG_RATE_RANGE)
                for m, mix in enumerate(MIXES):
                    rate = np.clip(mix * val.gradient + (1 - mix) * convex, *LOG_RATE_RANGE)
                    score[p, m] += float((val.counts * rate - np.exp(rate)).sum())
        best, mixed = (int(i) for i in np.unravel_index(int(score.argmax()), score.shape))
        self.arrays |= {f"{question}.{name}": value for name, value in weights[best].items()}
        self.arrays |= {f"{question}.mix": np.array(MIXES[mixed]), f"{question}.penalty": np.array(penalties[best])}

    def rows(
        self, question: Question, units: np.ndarray, hide: Hide, role: int, offsets: list[list[np.ndarray]] | None
    ) -> _Rows:
        """Features and targets of `units` on the train (0) or validation (1) windows."""
        shared, own, counts, offset, gradient = [], [], [], [], []
        for w, answer in enumerate(answers(self.model, self.reader, self.windows[role], hide)):
            # Forecasting is fitted where it is asked: on the hidden end of the window.
            keep = answer.hidden.all(axis=1) if question == "forecast" else np.ones(answer.window.num_bins, bool)
            shared.append(self.features.shared(question, answer)[keep])
            own.append(self.features.own(answer)[keep] if question == "forecast" else np.zeros((keep.sum(), 0, 0)))
            counts.append(self.features.counts(answer.window)[keep][:, units])
            offset.append(offsets[role][w][keep][:, units] if offsets else np.zeros((keep.sum(), len(units))))
            gradient.append(answer.log_rates[keep][:, units].astype(float))
        return _Rows(*(np.concatenate(parts) for parts in (shared, own, counts, offset, gradient)))

    def standardize(self, question: Question, train: _Rows) -> None:
        """Remember how features are standardized; that of the first group serves the others."""
        if f"{question}.mean" in self.arrays:
            return
        self.arrays[f"{question}.mean"] = train.shared.mean(axis=0)
        self.arrays[f"{question}.scale"] = _scales(question, train.shared, self.features.num_states)
        if question == "forecast":
            self.arrays["forecast.own_mean"] = train.own.mean(axis=0)
            self.arrays["forecast.own_scale"] = np.maximum(train.own.std(axis=0), 1e-6)

    def design(self, question: Question, rows: _Rows) -> np.ndarray:
        """A constant and the standardized shared features."""
        scaled = (rows.shared - self.arrays[f"{question}.mean"]) / self.arrays[f"{question}.scale"]
        return np.concatenate([np.ones((len(scaled), 1)), scaled], axis=1)

    def own(self, rows: _Rows) -> np.ndarray:
        """Standardized own features `(R, N, O)`."""
        return np.asarray((rows.own - self.arrays["forecast.own_mean"]) / self.arrays["forecast.own_scale"])

    def solve(self, question: Question, train: _Rows, penalties: list[float]) -> Iterator[dict[str, np.ndarray]]:
        """Solutions from the largest penalty to the smallest, each started from the one before."""
        shared = self.design(question, train)
        num_shared = shared.shape[1]
        if question != "forecast":
            free, start = np.arange(num_shared) > 0, None
            profile = np.exp(train.offset).sum(axis=1)
            curvature = SharedCurvature.of(shared, profile, free)
            for penalty in penalties:
                start = fit_poisson_ridge(
                    shared,
                    train.counts,
                    penalty,
                    offset=train.offset,
                    penalized=free,
                    init=start,
                    tolerance=TOLERANCE,
                    curvature=curvature,
                )
                yield {"constant": start[:1], "weights": start[1:]}
            return
        own = self.own(train)
        free = np.arange(num_shared + own.shape[2]) > 0
        # Unit by unit: the designs of all units at once would be hundreds of times the recording.
        path = np.empty((len(penalties), len(free), self.num_units))
        for u in range(self.num_units):
            design, start = np.concatenate([shared, own[:, u]], axis=1), None
            for p, penalty in enumerate(penalties):
                start = fit_poisson_ridge(
                    design, train.counts[:, u : u + 1], penalty, penalized=free, init=start, tolerance=TOLERANCE
                )
                path[p, :, u] = start[:, 0]
        for weights in path:
            yield {"constant": weights[:1], "weights": weights[1:num_shared], "own_weights": weights[num_shared:]}

    def rate(self, question: Question, rows: _Rows, solution: dict[str, np.ndarray]) -> np.ndarray:
        """Log-rates of a solution."""
        out = rows.offset + self.design(question, rows) @ np.concatenate([solution["constant"], solution["weights"]])
        if question == "forecast":
            out = out + np.einsum("rno,on->rn", self.own(rows), solution["own_weights"])
        return np.asarray(out)


def _scales(question: Question, features: np.ndarray, num_states: int) -> np.ndarray:
    """What features are divided by: one number per block, since sizes within a block are its prior.

    Lagged counts are standardized per unit already, and their axes are orthogonal, so a ridge on them is one on units.
    """
    deviation = features.std(axis=0)
    scale = np.ones(len(deviation))
    scale[:num_states] = np.sqrt(np.mean(deviation[:num_states] ** 2)) + 1e-9
    drift = slice(num_states, num_states + NUM_COSINES)
    # Slow drift is common and large: its prior is wide.
    scale[drift] = deviation[drift].max() / DRIFT_SIZE + 1e-9
    if question == "forecast":
        scale[drift.stop :] = deviation[drift.stop :].max() / 2 + 1e-9
    return scale


def twins(counts: np.ndarray, threshold: float) -> np.ndarray:
    """`(N, N)` bool: pairs of different units whose counts `(R, N)` correlate beyond the threshold."""
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(counts.T.astype(float)).reshape(counts.shape[1], -1))
    np.fill_diagonal(correlation, 0.0)
    return np.asarray(np.abs(correlation) > threshold)
