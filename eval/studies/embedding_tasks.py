"""A label of a recording as a decoding task, of bins or trials, split in time; plain baselines on the same rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from eval.embedding_controls import pca_embedding
from eval.embedding_decoders import Decoded, Split, decode_knn, decode_logistic, decode_smoothed_knn, split_in_time
from eval.plain_baselines import plain_baselines
from eval.studies.session_transfer import Recorded, recorded
from foundation.corpus import Corpus
from foundation.session_arrays import session_arrays

SMOOTHED = ", smoothed"


@dataclass
class Task:
    """One label of one recording.

    Attributes:
        corpus: Folder or URL.
        recording: Its id.
        label: Covariate that is learned from and decoded.
        bin_size_s: Of the counts.
        output_dimension: Of the embedding and the largest PCA.
        phase: Categorical covariate that must have the value `in_phase`, if not empty.
        in_phase: That value.
        across_trials: Let windows cross trials, as the cebra package does: where trials end at a place, as laps do, a
            window that stops at the border would tell the place.
        by_trial: Decode trials, from the mean over their bins, and use no bins between trials.
    """

    corpus: str
    recording: str
    label: str
    bin_size_s: float = 0.025
    output_dimension: int = 8
    phase: str = ""
    in_phase: int = 1
    across_trials: bool = False
    by_trial: bool = False


def read_task(task: Task) -> Recorded:
    """The rows of a recording that a task uses, split in time; by whole trials where it decodes these."""
    names = [task.label, *([task.phase] if task.phase else [])]
    recording = Corpus.open(task.corpus)[task.recording]
    session = session_arrays(recording, task.bin_size_s, names, within_trials=task.by_trial)
    if task.across_trials:
        session = replace(session, trial=np.zeros_like(session.trial))
    if not task.by_trial:
        where = np.asarray(session.labels[task.phase]).reshape(-1) == task.in_phase if task.phase else None
        return recorded(session, task.label, where)
    label = np.asarray(session.labels[task.label])
    session = session.take(label >= 0)
    trial = np.unique(session.trial, return_inverse=True)[1]
    cut = split_in_time(int(trial.max()) + 1)
    train, val, test = (np.flatnonzero(np.isin(trial, part)) for part in (cut.train, cut.val, cut.test))
    split = Split(train, val, test)
    return Recorded(session.name, session.subject, session.activity, label[label >= 0], trial, split)


def truth_of(task: Task, read: Recorded) -> tuple[np.ndarray, Split]:
    """What is decoded, and its split: of bins, or of trials."""
    if not task.by_trial:
        return read.label, read.split
    return trial_means(read.label[:, None], read)[:, 0].astype(np.int64), trial_split(read)


def decode_embedding(embedding: np.ndarray, task: Task, read: Recorded) -> dict[str, Decoded]:
    """Decode `(T, D)`: neighbors of bins as they are ("") and ", smoothed"; or logistic regression on trials ("")."""
    if task.by_trial:
        label, split = truth_of(task, read)
        return {"": decode_logistic(trial_means(embedding, read), label, split)}
    about = (read.label, read.split, read.kind)
    return {
        "": decode_knn(embedding, *about),
        SMOOTHED: decode_smoothed_knn(embedding, *about, trial=read.stretch),
    }


def baselines(task: Task, read: Recorded) -> dict[str, Decoded]:
    """What any embedding must beat, by name."""
    dimensions = tuple(sorted({3, task.output_dimension}))
    if not task.by_trial:
        return plain_baselines(
            read.activity, read.label, read.split, read.kind, trial=read.stretch, dimensions=dimensions
        )
    label, split = truth_of(task, read)
    counts = np.sqrt(trial_means(read.activity, read))
    components = {f"PCA {d}-d": pca_embedding(counts, split.train, d) for d in dimensions}
    features = {**components, "logistic on all units": counts}
    return {name: decode_logistic(values, label, split) for name, values in features.items()}


def trial_means(rows: np.ndarray, read: Recorded) -> np.ndarray:
    """`(K, D)` means over the bins of each trial."""
    sums = np.zeros((read.stretch.max() + 1, rows.shape[1]))
    np.add.at(sums, read.stretch, rows)
    return sums / np.bincount(read.stretch)[:, None]


def trial_split(read: Recorded) -> Split:
    """The split of bins as one of trials."""
    return Split(*(np.unique(read.stretch[rows]) for rows in (read.split.train, read.split.val, read.split.test)))
