"""One vector per unit that is comparable between animals: how its rate follows the task, and how it spikes beyond that.

The task is asked in silico. Contrasts of reference trials of the pretraining animals (a mean time course, classes of a
covariate, a slope, an event) are linear functionals of the weights of the encoding read-out (`foundation.encoding`),
whose features all sessions share; they are made once, with a prior over a unit's own history, and kept with the model.
What the read-out leaves is described by `foundation.spiking_statistics`. Only train windows are read, and no label,
position or order of the units. Covariates are known by their specs, never by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from foundation.binning import bin_spikes
from foundation.channels import channel_slices
from foundation.encoding import encoding_features, encoding_log_rates
from foundation.model import FoundationModel
from foundation.progress import Progress
from foundation.sampling import STRUCTURE, Window, WindowReader
from foundation.sidecars import as_arrays, as_tensors
from foundation.spiking_statistics import (
    coupling,
    dispersion,
    history_evidence,
    history_prior,
    history_weights,
    lag_edges,
)
from foundation.task_basis import MOST_CLASSES
from foundation.training_data import TrainingData, spread

# Windows of reference trials, seconds from the start and back from the end: of the time course, and of tuning.
START_S = (0.0, 0.06, 0.12, 0.18, 0.24, 0.32, 0.4, 0.5, 0.6, 0.8, 1.0)
TUNING_S = (0.0, 0.12, 0.24, 0.5, 1.0)
END_S = (0.0, 0.06, 0.12, 0.2, 0.3)
EVENT_LAGS_S = (0.04, 0.08, 0.12, 0.16, 0.24, 0.4)
# Reference windows at most.
MOST_WINDOWS = 2000
# Added to rates in Hz before the logarithm.
_LEAST_HZ = 0.05
# Names in `model.population`, and in `model.readouts` of a session.
PREFIX, FINGERPRINT = "fingerprint.", "fingerprint"


def learn_fingerprints(model: FoundationModel, data: TrainingData, *, shown: bool = False) -> None:
    """Make the functionals and the history prior of a pretrained model, and the fingerprints of its sessions.

    They go into `model.population` under `PREFIX`, and into `model.readouts`.

    Args:
        model: With the encoding read-outs of the sessions of `data` (`foundation.encoding.learn_population`).
        data: Train windows are read, validation windows are not.
        shown: Report progress.
    """
    train = {key: windows for key, windows in data.train.items() if windows}
    functionals = _reference_functionals(model, data.reader, spread(train, MOST_WINDOWS))
    progress = Progress("fingerprints", 0, len(train), shown, unit="session")
    columns, evidence = {}, {}
    for key, windows in train.items():
        columns[key], evidence[key] = _observe(model, data.reader, windows, functionals)
        progress.update()
    progress.close()
    precisions, linear = (np.concatenate(parts) for parts in zip(*evidence.values()))
    mean, covariance = history_prior(precisions, linear)
    kept = functionals | {"history_mean": mean, "history_covariance": covariance}
    model.population |= as_tensors({PREFIX + name: value for name, value in kept.items()})
    for key in train:
        model.readouts[key] |= as_tensors({FINGERPRINT: _joined(columns[key], evidence[key], mean, covariance)})


def fit_fingerprints(model: FoundationModel, data: TrainingData) -> None:
    """Fingerprints `(N, K)` of the sessions of `data` into `model.readouts`; none if the model learned no functionals.

    Args:
        model: With encoding read-outs of the sessions.
        data: Train windows are read, validation windows are not.
    """
    kept = {name.removeprefix(PREFIX): value for name, value in as_arrays(model.population, PREFIX).items()}
    if not kept:
        return
    mean, covariance = kept.pop("history_mean"), kept.pop("history_covariance")
    for key, windows in data.train.items():
        columns, evidence = _observe(model, data.reader, windows, kept)
        model.readouts[key] |= as_tensors({FINGERPRINT: _joined(columns, evidence, mean, covariance)})


def task_functionals(
    features: np.ndarray,
    step: np.ndarray,
    to_end: np.ndarray,
    values: Sequence[tuple[str, str, np.ndarray]],
    events: Sequence[np.ndarray],
    bin_size_s: float,
) -> dict[str, np.ndarray]:
    """What weights `w (F,)` predict on reference trials, as functionals: `f @ w` is a difference of mean log rates.

    Args:
        features: `(R, F)` standardized features of all bins of the reference windows.
        step: `(R,)` bin within the trial, -1 outside trials.
        to_end: `(R,)` bins to the end of the trial, 0 for the last, -1 outside trials.
        values: Kind, scope and values `(R,)` of each covariate that is no event, NaN where not observed.
        events: Per event covariate the events in each of L lag windows, `(R, L)`.
        bin_size_s: Seconds.

    Returns:
        `profile (K, F)`: mean course over trials, less the mean. `contrasts (K', F)`: of each covariate a class less
        the first class, or the slope per standard deviation; in windows of the trial for a covariate of the trial, over
        everything for one of time. `events (C, L, F)`: effect of an event in each lag window beyond the mean course.
    """
    profile = [features[rows].mean(axis=0, dtype=float) for rows in _windows(step, to_end, bin_size_s, START_S)]
    tuning, everywhere = _windows(step, to_end, bin_size_s, TUNING_S), [np.ones(len(step), bool)]
    contrasts: list[np.ndarray] = []
    for kind, scope, value in values:
        windows = tuning if scope == "trial" else everywhere
        if kind == "continuous":
            contrasts += [_slope(features, value, rows & np.isfinite(value)) for rows in windows]
            continue
        classes = np.unique(value[np.isfinite(value)])
        for other in classes[1:]:
            contrasts += [
                _contrast(features, rows & (value == other), rows & (value == classes[0])) for rows in windows
            ]
    width = features.shape[1]
    return {
        "profile": np.reshape(profile, (-1, width)) - features.mean(axis=0, dtype=float),
        "contrasts": np.reshape(contrasts, (-1, width)),
        "events": _event_effects(features, step, events),
    }


def task_response(weights: np.ndarray, functionals: dict[str, np.ndarray]) -> np.ndarray:
    """Signed mean course, sizes of contrasts, mean and range of event effects: `(N, K)` from weights `(F, N)`.

    Which side of the brain a probe is in flips the sign of left-right contrasts, so contrasts enter as sizes, and event
    covariates alike.
    """
    columns = [functionals["profile"] @ weights, np.abs(functionals["contrasts"] @ weights)]
    if len(functionals["events"]):
        effects = functionals["events"] @ weights
        columns += [effects.mean(axis=0), np.ptp(effects, axis=0)]
    return np.concatenate(columns).T


def _observe(
    model: FoundationModel, reader: WindowReader, train: list[Window], functionals: dict[str, np.ndarray]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Of one session: all columns but those of history, `(N, K)`, and the evidence of history."""
    key, size = train[0].recording_id, reader.bin_size_s
    arrays = as_arrays(model.readouts[key])
    log_rates = np.concatenate(list(encoding_log_rates(model, reader, train, arrays)))
    recording = reader.recording(key)
    counts = np.concatenate([bin_spikes(recording, w.start_s, w.num_bins, size) for w in train]).astype(float)
    rates, lengths = np.exp(log_rates), np.array([window.num_bins for window in train])
    columns = [
        task_response(arrays["encode.weights"], functionals),
        dispersion(counts, rates, lengths, size),
        coupling(counts, rates, lengths),
        np.log(counts.mean(axis=0) / size + _LEAST_HZ)[:, None],
    ]
    return np.concatenate(columns, axis=1), history_evidence(counts, log_rates, lengths, size)


def _joined(
    columns: np.ndarray, evidence: tuple[np.ndarray, np.ndarray], mean: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
    return np.concatenate([columns, history_weights(*evidence, mean, covariance)], axis=1)


def _reference_functionals(
    model: FoundationModel, reader: WindowReader, windows: dict[str, list[Window]]
) -> dict[str, np.ndarray]:
    """Functionals from windows of the pretraining sessions."""
    features, samples = [], []
    for key, chosen in windows.items():
        arrays = as_arrays(model.readouts[key])
        features += [z.astype(np.float32) for z in encoding_features(model, reader, chosen, arrays)]
        samples += [reader.read(window) for window in chosen]
    parts = ([sample[name] for sample in samples] for name in ("covariates", "observed", "structure"))
    covariates, observed, structure = (np.concatenate(part) for part in parts)
    inside = structure[:, STRUCTURE.index("in_trial")] > 0
    since, until = (structure[:, STRUCTURE.index(name)] / reader.bin_size_s for name in ("since_start", "to_end"))
    step, to_end = (np.where(inside, np.floor(bins), -1).astype(int) for bins in (since, until))
    lengths, values, events = np.array([len(z) for z in features]), [], []
    for c, (channel, where) in enumerate(zip(model.channels, channel_slices(model.channels))):
        if not channel.is_input or channel.spec.num_classes > MOST_CLASSES:
            continue
        found = covariates[:, where].astype(float)
        if channel.spec.kind == "event":
            events.append(_recent(np.where(observed[:, c], found[:, 0], 0.0), lengths, reader.bin_size_s))
            continue
        columns = found.argmax(axis=1)[:, None] if channel.spec.kind == "categorical" else found
        seen = observed[:, c]
        values += [(channel.spec.kind, channel.spec.scope, np.where(seen, column, np.nan)) for column in columns.T]
    return task_functionals(np.concatenate(features), step, to_end, values, events, reader.bin_size_s)


def _windows(step: np.ndarray, to_end: np.ndarray, bin_size_s: float, start_s: Sequence[float]) -> list[np.ndarray]:
    """Rows of each window from the start and to the end of trials; windows that no row is in are left out."""
    found = []
    for position, edges in ((step, start_s), (to_end, END_S)):
        for low, high in pairwise(edges):
            rows = (position >= round(low / bin_size_s)) & (position < round(high / bin_size_s))
            found += [rows] if rows.any() else []
    return found


def _contrast(features: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean over rows less the mean over other rows, `(F,)`; 0 where there are none."""
    if not rows.any() or not others.any():
        return np.zeros(features.shape[1])
    return features[rows].mean(axis=0, dtype=float) - features[others].mean(axis=0, dtype=float)


def _slope(features: np.ndarray, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Slope of features on values over some rows, per standard deviation of all values: `(F,)`."""
    x = values[rows] - values[rows].mean() if rows.any() else np.zeros(0)
    if not (square := (x**2).sum()) > 0:
        return np.zeros(features.shape[1])
    return np.asarray(x @ features[rows] / square * np.nanstd(values))


def _recent(events: np.ndarray, lengths: np.ndarray, bin_size_s: float) -> np.ndarray:
    """Events `(R,)` of the window in lag windows that end with the present bin: `(R, L)`."""
    row, first = np.arange(len(events)), np.repeat(np.cumsum(lengths) - lengths, lengths)
    total = np.concatenate([[0.0], np.cumsum(events)])
    edges = pairwise(lag_edges(EVENT_LAGS_S, bin_size_s))
    windows = [total[np.maximum(row + 1 - a, first)] - total[np.maximum(row + 1 - b, first)] for a, b in edges]
    return np.stack(windows, axis=1)


def _event_effects(features: np.ndarray, step: np.ndarray, events: Sequence[np.ndarray]) -> np.ndarray:
    """One regression on all lags of all event covariates, so that neighbors share no effect: `(C, L, F)`."""
    width = features.shape[1]
    if not events:
        return np.zeros((0, 1, width))
    beyond, x = _beyond_course(features, step), np.concatenate([_beyond_course(e, step) for e in events], axis=1)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += 1e-3 * np.trace(gram) / len(gram) + 1e-9
    return np.linalg.solve(gram, x.T @ beyond).reshape(len(events), -1, width)


def _beyond_course(values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Values `(R, K)` less their mean over rows of the same step."""
    order, number = np.argsort(step, kind="stable"), np.bincount(step + 1)
    out = np.array(values, dtype=float)
    for rows in np.split(order, np.cumsum(number)[:-1]):
        if len(rows):
            out[rows] -= out[rows].mean(axis=0)
    return out
