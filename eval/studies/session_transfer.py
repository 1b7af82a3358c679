"""Decoding a session with a decoder of other sessions: by one contrastive trunk, or by principal components aligned.

The decoder is fitted on the other sessions and never again. What is fitted on the new session is the way into their
space, from a given part of its training stretch; its test stretch is later and scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from eval.alignment_maps import linear_map, procrustes_map
from eval.consistency import label_bins
from eval.embedding_controls import pca_embedding, shuffled_labels, window_sums
from eval.embedding_decoders import Decoded, Distance, Kind, Split, decode_knn, split_in_time
from eval.plain_baselines import plain_baselines
from foundation.estimator import ContrastiveEmbedding
from foundation.session_arrays import SessionArrays

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
ALIGNMENTS: dict[str, Fit] = {"Procrustes": procrustes_map, "linear map": linear_map}
# Equal widths of each column of a continuous label, for the means that principal components are aligned by.
NUM_LABEL_BINS = 8
MIN_PER_BIN = 5


class Settings(Protocol):
    """What the fits need to know."""

    receptive_field: int
    output_dimension: int
    steps: int
    adapt_steps: int
    learning_rate: float
    unit_dropout: float


@dataclass(frozen=True)
class Recorded:
    """One session as a decoding task.

    Attributes:
        name: Of the recording.
        subject: Of the animal.
        activity: `(T, N)` counts of the rows that have the label.
        label: `(T,)` integers or floats, or `(T, L)` floats.
        stretch: `(T,)` numbers; windows do not cross a change.
        split: Train, validation and test rows, in this order in time.
    """

    name: str
    subject: str
    activity: np.ndarray
    label: np.ndarray
    stretch: np.ndarray
    split: Split

    @property
    def kind(self) -> Kind:
        """Integers are classes."""
        return "discrete" if np.issubdtype(self.label.dtype, np.integer) else "continuous"


def recorded(session: SessionArrays, label: str, where: np.ndarray | None = None) -> Recorded:
    """The rows of a session at which the label is known (and which `where` `(T,)` selects), split in time.

    Raises:
        ValueError: Fewer than 100 such rows.
    """
    values = np.asarray(session.labels[label])
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    discrete = values.dtype.kind in "iu"
    known = values >= 0 if discrete else np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    rows = np.flatnonzero(known if where is None else known & where)
    if len(rows) < 100:
        raise ValueError(f"{session.name}: {len(rows)} bins with {label!r}, expected at least 100")
    split = split_in_time(len(rows))
    gap = np.cumsum(np.diff(rows, prepend=rows[0]) > 1)
    keys = np.stack([np.asarray(session.trial)[rows], gap, split.stretch()])
    stretch = np.cumsum(np.any(np.diff(keys, axis=1, prepend=keys[:, :1]) != 0, axis=0))
    values = values[rows].astype(np.int64 if discrete else np.float64)
    return Recorded(session.name, session.subject, np.asarray(session.activity)[rows], values, stretch, split)


def early(session: Recorded, num_rows: int) -> np.ndarray:
    """The first rows of the training stretch; all of it for 0."""
    return session.split.train[: num_rows or None]


def joint_embedding(
    sessions: Sequence[Recorded], settings: Settings, seed: int, rows: Sequence[np.ndarray] | None = None
) -> ContrastiveEmbedding:
    """One trunk on `rows` of each session, by default their training stretches."""
    rows = [s.split.train for s in sessions] if rows is None else rows
    parts = [(s.activity[r], s.label[r], s.stretch[r]) for s, r in zip(sessions, rows)]
    activity, label, stretch = (list(part) for part in zip(*parts))
    return _estimator(sessions[0].kind, settings, seed).fit(activity, label, trial=stretch)


def transfer_joint(
    sources: Sequence[Recorded], target: Recorded, rows: np.ndarray, settings: Settings, seed: int
) -> np.ndarray:
    """Predictions for the target's test rows; one trunk and all read-ins are trained together, on `rows` of the target.

    The decoder is of the sources alone, as everywhere here.
    """
    sessions = [*sources, target]
    model = joint_embedding(sessions, settings, seed, [*(s.split.train for s in sources), rows])
    spaces = model.transform([s.activity for s in sessions], trial=[s.stretch for s in sessions])
    return decode_across(spaces, sessions, "cosine")


def transfer_contrastive(
    model: ContrastiveEmbedding,
    sources: Sequence[Recorded],
    target: Recorded,
    rows: np.ndarray,
    settings: Settings,
    seed: int,
    *,
    shuffled: bool = False,
) -> np.ndarray:
    """Predictions for the target's test rows; its read-in is adapted to the sources on `rows` and their labels.

    Args:
        model: From `joint_embedding`; a session is added to it.
        sources: The same as there.
        target: New session.
        rows: Of the target's training stretch.
        settings: Of the fits.
        seed: Of the shuffling.
        shuffled: Adapt to labels in random order, a control.
    """
    label = target.label[rows]
    if shuffled:
        (label,) = shuffled_labels([label], seed)
    model.adapt(target.activity[rows], label, trial=target.stretch[rows], max_iterations=settings.adapt_steps)
    spaces = [model.transform(s.activity, trial=s.stretch, session=k) for k, s in enumerate(sources)]
    spaces.append(model.transform(target.activity, trial=target.stretch, session=model.num_sessions_ - 1))
    return decode_across(spaces, [*sources, target], "cosine")


def transfer_components(
    sources: Sequence[Recorded], target: Recorded, rows: np.ndarray, settings: Settings, fit: Fit
) -> np.ndarray:
    """Predictions for the target's test rows from principal components, aligned to the first source by the labels.

    Components of each session are its own, of window sums; the map is fitted on their means per label bin (per class,
    or per cell of a grid over a continuous label), over training rows of both (after Gallego et al. 2020, Nature
    Neuroscience 23:260, which aligns trial averages).
    """
    sessions = [*sources, target]
    used = [*(s.split.train for s in sources), rows]
    spaces = [
        pca_embedding(window_sums(s.activity, settings.receptive_field, s.stretch), r, settings.output_dimension)
        for s, r in zip(sessions, used)
    ]
    codes = label_bins([s.label[r] for s, r in zip(sessions, used)], NUM_LABEL_BINS)
    size = 1 + max(int(code.max()) for code in codes)
    means = [_means(space[r], code, size) for space, code, r in zip(spaces, codes, used)]
    aligned = [spaces[0]]
    for space, mean in zip(spaces[1:], means[1:]):
        both = np.isfinite(mean[:, 0]) & np.isfinite(means[0][:, 0])
        if both.sum() < 2:
            # Too little of the new session to align it at all: as good as not aligned.
            aligned.append(space)
            continue
        aligned.append(fit(mean[both], means[0][both])(space))
    return decode_across(aligned, sessions, "euclidean")


def decode_across(spaces: Sequence[np.ndarray], sessions: Sequence[Recorded], distance: Distance) -> np.ndarray:
    """A kNN fitted on all sessions but the last (k on their validation rows), read at the last one's test rows."""
    first = np.concatenate([[0], np.cumsum([len(s.label) for s in sessions])])
    source = list(zip(first, sessions))[:-1]
    split = Split(
        np.concatenate([start + s.split.train for start, s in source]),
        np.concatenate([start + s.split.val for start, s in source]),
        first[-2] + sessions[-1].split.test,
    )
    labels = np.concatenate([s.label for s in sessions])
    return decode_knn(np.concatenate(spaces), labels, split, sessions[-1].kind, distance=distance).prediction


def decode_own(target: Recorded, rows: np.ndarray, settings: Settings, seed: int) -> dict[str, np.ndarray]:
    """What the same rows give without other sessions: predictions of the test rows by plain and contrastive decoders.

    The last fifth of `rows` chooses k and penalties.
    """
    cut = len(rows) - max(1, len(rows) // 5)
    split = Split(rows[:cut], rows[cut:], target.split.test)
    plain: dict[str, Decoded] = plain_baselines(
        target.activity,
        target.label,
        split,
        target.kind,
        receptive_field=settings.receptive_field,
        trial=target.stretch,
        dimensions=(settings.output_dimension,),
    )
    found = {f"own session: {name}": one.prediction for name, one in plain.items()}
    model = _estimator(target.kind, settings, seed)
    model.fit(target.activity[split.train], target.label[split.train], trial=target.stretch[split.train])
    space = model.transform(target.activity, trial=target.stretch)
    found["own session: contrastive + kNN"] = decode_knn(space, target.label, split, target.kind).prediction
    return found


def _estimator(kind: Kind, settings: Settings, seed: int) -> ContrastiveEmbedding:
    return ContrastiveEmbedding(
        mode="discrete" if kind == "discrete" else "behavior",
        output_dimension=settings.output_dimension,
        receptive_field=settings.receptive_field,
        max_iterations=settings.steps,
        learning_rate=settings.learning_rate,
        unit_dropout=settings.unit_dropout,
        random_state=seed,
    )


def _means(rows: np.ndarray, code: np.ndarray, size: int) -> np.ndarray:
    """Mean row `(size, D)` of each code, NaN where there are fewer than `MIN_PER_BIN`."""
    count = np.bincount(code, minlength=size)
    total = np.zeros((size, rows.shape[1]))
    np.add.at(total, code, rows)
    return np.where(count[:, None] >= MIN_PER_BIN, total / np.maximum(count, 1)[:, None], np.nan)
