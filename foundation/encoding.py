"""The encoding read-out: each unit's log-rate as a linear function of the frozen trunk's states, drift and the task.

Spikes are hidden, so states say what behavior and time tell. Weights have a Gaussian prior (`foundation.weight_prior`)
that is learned from the pretraining units and kept with the model; the units of a session move it a little towards
what they share. Nothing is chosen on validation trials. Other questions start from here (`foundation.readout`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from foundation.model import LOG_RATE_RANGE, FoundationModel
from foundation.predict import answers, hide_spikes
from foundation.progress import Progress
from foundation.readout_features import NUM_COSINES, SessionFeatures
from foundation.sampling import Window, WindowReader
from foundation.sidecars import as_arrays, as_tensors
from foundation.task_basis import TaskBasis
from foundation.training_data import TrainingData, spread
from foundation.weight_prior import WeightPrior, fit_weights, learned_prior, session_prior

# Prior precision against the learned one's: bins of a trial are not independent, and the prior is not quite Gaussian.
STRENGTH = 2.5
# So many units of the population outweigh those of the session in its own prior.
PSEUDO_UNITS = 60.0
# The prior that learning starts from, and that a model without one uses: standard deviation of the weight of a state,
# and relative to it those of drift (slow, common, large) and of the task (it only mends what the states miss).
STATE_STD, DRIFT_SIZE, TASK_SIZE = 1000**-0.5, 6.0, 0.3
# Learning: rounds, and what it looks at.
ROUNDS, MOST_SESSIONS, MOST_WINDOWS, MIN_SPIKES = 2, 100, 20_000, 50


def fit_encoding(
    model: FoundationModel, reader: WindowReader, recording_id: str, train: list[Window]
) -> dict[str, np.ndarray]:
    """The arrays of a session's encoding read-out.

    Args:
        model: With rows for the session.
        reader: Opens it.
        recording_id: The session.
        train: Its train windows; nothing else is read.
    """
    known = model.population.get("length")
    length = TaskBasis.length_of(train, reader.bin_size_s) if known is None else known.double().cpu().numpy()
    features = SessionFeatures.of_windows(model, reader, recording_id, train, length)
    rows, counts = _rows(model, features, train)
    prior = stored_prior(model) or _starting_prior(model.shape.width, features.task_sizes(train[0]), [rows])
    own = session_prior(prior, fit_weights(prior, rows, counts), PSEUDO_UNITS)
    found = fit_weights(own, rows, counts, STRENGTH)
    return features.arrays | {
        "encode.mean": own.mean,
        "encode.scale": own.scale,
        "encode.constant": found.constant[None],
        "encode.weights": found.weights,
    }


def encoding_log_rates(
    model: FoundationModel, reader: WindowReader, windows: list[Window], arrays: dict[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Log expected counts `(T, N)` of windows of one session, from what `fit_encoding` found."""
    for z in encoding_features(model, reader, windows, arrays):
        yield np.clip(arrays["encode.constant"] + z @ arrays["encode.weights"], *LOG_RATE_RANGE)


def encoding_features(
    model: FoundationModel, reader: WindowReader, windows: list[Window], arrays: dict[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Standardized features `(T, F)` of windows of one session, which its weights multiply."""
    features = SessionFeatures.of_arrays(model, reader, windows[0].recording_id, arrays)
    for answer in answers(model, reader, windows, hide_spikes):
        yield (features.shared("encode", answer) - arrays["encode.mean"]) / arrays["encode.scale"]


def learn_population(model: FoundationModel, data: TrainingData, *, shown: bool = False) -> None:
    """Learn the prior from a pretrained model's own sessions, keep it in `model.population`, and fit their read-outs.

    Args:
        model: With rows for the sessions of `data`.
        data: Train windows are read, validation windows are not.
        shown: Report progress.
    """
    model.population, model.readouts = {}, {}
    keys = [key for key, windows in data.train.items() if windows]
    few = [keys[i] for i in np.linspace(0, len(keys) - 1, min(len(keys), MOST_SESSIONS)).round().astype(int)]
    windows = spread({key: data.train[key] for key in few}, MOST_WINDOWS)
    length = TaskBasis.length_of([window for part in windows.values() for window in part], data.reader.bin_size_s)
    progress = Progress("population prior", 0, len(few) + len(keys), shown, unit="session")
    samples, sizes = [], np.zeros(0)
    for key in few:
        features = SessionFeatures.of_windows(model, data.reader, key, windows[key], length)
        rows, counts = _rows(model, features, windows[key])
        samples.append((rows.astype(np.float32), counts[:, counts.sum(axis=0) >= MIN_SPIKES]))
        sizes = features.task_sizes(windows[key][0])
        progress.update()
    prior = _starting_prior(model.shape.width, sizes, [rows for rows, _ in samples])
    samples = [(rows, counts) for rows, counts in samples if counts.shape[1]]
    for _ in range(ROUNDS if samples else 0):
        prior = learned_prior(prior, [fit_weights(prior, rows, counts) for rows, counts in samples])
    model.population = as_tensors(vars(prior) | {"length": length})
    for key in keys:
        model.readouts[key] = as_tensors(fit_encoding(model, data.reader, key, data.train[key]))
        progress.update()
    progress.close()


def stored_prior(model: FoundationModel) -> WeightPrior | None:
    """The prior that was learned with a model, if one was."""
    names = [part.name for part in fields(WeightPrior)]
    if not model.population.keys() >= set(names):
        return None
    found = as_arrays(model.population)
    return WeightPrior(**{name: found[name] for name in names})


def _starting_prior(width: int, task_sizes: np.ndarray, rows: list[np.ndarray]) -> WeightPrior:
    """Independent weights of sizes set by hand, on features standardized over `rows`.

    States and drift keep the proportions that they have among themselves; columns of the task are standardized.
    """
    num = sum(len(part) for part in rows)
    mean = sum(part.sum(axis=0, dtype=float) for part in rows) / num
    deviation = np.sqrt(sum(((part - mean) ** 2).sum(axis=0, dtype=float) for part in rows) / num)
    states, drift = slice(0, width), slice(width, width + NUM_COSINES)
    scale = np.where(deviation > 1e-6, deviation, np.inf)
    scale[states] = np.sqrt(np.mean(deviation[states] ** 2)) + 1e-9
    scale[drift] = 1.0
    size = np.concatenate([np.ones(width), np.full(NUM_COSINES, DRIFT_SIZE), TASK_SIZE * task_sizes])
    return WeightPrior(mean, scale, np.zeros(len(mean)), np.diag(STATE_STD * size))


def _rows(model: FoundationModel, features: SessionFeatures, windows: list[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Features `(R, F)` and counts `(R, N)` of all bins of some windows."""
    found = [
        (features.shared("encode", answer), features.counts(answer.window))
        for answer in answers(model, features.reader, windows, hide_spikes)
    ]
    return np.concatenate([x for x, _ in found]), np.concatenate([counts for _, counts in found])
