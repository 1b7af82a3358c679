"""Are moments of unseen animals embedded where those of other animals are: one trunk over all sessions, rats held out.

The trunk sees the training animals alone. A held-out session gets a read-in from its own training trials; the decoder
of choice is fitted on the training animals and never on the held-out one ("without recalibration").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from eval.alignment_maps import procrustes_map
from eval.consistency import Consistency, between_sessions
from eval.embedding_controls import pca_embedding, window_sums
from eval.embedding_decoders import Split, decode_logistic, scores
from eval.embedding_figures import bars, consistency_matrices
from eval.statistics import animal_interval, session_interval
from eval.studies.study import Figure, Findings, Table
from foundation.corpus import Corpus
from foundation.estimator import ContrastiveEmbedding, Head
from foundation.progress import Progress
from foundation.session_arrays import SessionArrays, session_arrays
from foundation.splits import TEST, TRAIN, VAL, session_roles

TIME_BINS = 5
LAST_S = 0.2
OWN, COMPONENTS, UNALIGNED = (
    "own decoder, all units",
    "principal components, Procrustes",
    "principal components, unaligned",
)
SHUFFLED = "hybrid, choices shuffled"
ARMS: dict[str, list[Head]] = {
    "hybrid": [Head("mixed"), Head("time")],
    "behavior": [Head("mixed")],
    "time": [Head("time")],
    SHUFFLED: [Head("mixed"), Head("time")],
}


@dataclass
class Config:
    """Settings of the study.

    Attributes:
        corpus: Folder or URL.
        held_out: Animals that the trunk does not see.
        label: Categorical covariate of the trials.
        bin_size_s: Of the counts.
        receptive_field: Bins.
        output_dimension: Of embeddings and principal components.
        steps: Of the trunk's training.
        adapt_steps: Of each held-out session's read-in.
        sessions_per_step: Of the trunk's training.
        batch_size: Anchors per session and step.
        learning_rate: Of the trunk's training; three times that for read-ins.
        unit_dropout: Share of units silenced in each window of a step.
        seeds: Of the fits.
    """

    corpus: str = "corpora/luo2025"
    held_out: list[str] = field(default_factory=lambda: ["T249", "T264", "X046"])
    label: str = "choice"
    bin_size_s: float = 0.02
    receptive_field: int = 10
    output_dimension: int = 8
    steps: int = 1000
    adapt_steps: int = 300
    sessions_per_step: int = 16
    batch_size: int = 64
    learning_rate: float = 1e-3
    unit_dropout: float = 0.0
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


@dataclass(frozen=True)
class Animal:
    """One session of trials.

    Attributes:
        data: Bins of its usable trials with a known label.
        trial: `(T,)` 0 ... K-1.
        choice: `(K,)` classes.
        time_s: `(T,)` since the start of the trial.
        role: `(K,)` of `foundation.splits`.
    """

    data: SessionArrays
    trial: np.ndarray
    choice: np.ndarray
    time_s: np.ndarray
    role: np.ndarray

    def bins(self, *roles: int) -> np.ndarray:
        """`(T,)` whether a bin is in a trial of these roles."""
        return np.isin(self.role, roles)[self.trial]


def run(config: Config) -> Findings:
    """Read the corpus and align.

    Raises:
        ValueError: A held-out animal that is not there, or too few animals.
    """
    corpus = Corpus.open(config.corpus)
    animals = set(corpus.subjects.values())
    missing = sorted(set(config.held_out) - animals)
    if missing or len(animals - set(config.held_out)) < 2 or not config.held_out or not config.seeds:
        raise ValueError(
            f"held_out {config.held_out} of animals {sorted(animals)}, expected at least one of them, two others, and "
            "a seed"
        )
    sessions = []
    for recording in corpus:
        data = session_arrays(recording, config.bin_size_s, [config.label], within_trials=True)
        data = data.take(np.asarray(data.labels[config.label]) >= 0)
        rows, first, trial = np.unique(data.trial, return_index=True, return_inverse=True)
        time_s = (np.arange(len(trial)) - first[trial]) * config.bin_size_s
        choice = np.asarray(data.labels[config.label])[first]
        sessions.append(Animal(data, trial, choice, time_s, session_roles(recording)[rows]))
    return align(sessions, config)


def align(sessions: list[Animal], config: Config) -> Findings:
    """The study on given sessions, of which those of held-out animals come to stand last."""
    known = [s for s in sessions if s.data.subject not in config.held_out]
    new = [s for s in sessions if s.data.subject in config.held_out]
    everyone = [*known, *new]
    rows: list[dict[str, object]] = []
    found: dict[str, Consistency] = {}

    def score(method: str, seed: int, embeddings: Sequence[np.ndarray]) -> None:
        features = [trial_features(e, s, config) for e, s in zip(embeddings, everyone)]
        for target, guess in zip(new, decode_others(features, everyone, len(known))):
            rows.append(_row(method, seed, target, guess))
        if seed in (-1, config.seeds[0]):
            found[method] = consistency(embeddings, everyone)

    components = [own_components(s, config) for s in everyone]
    score(UNALIGNED, -1, components)
    score(COMPONENTS, -1, procrustes_to_common(components, everyone, len(known)))
    for target in new:
        features = trial_features(np.sqrt(window_sums(target.data.activity, 1)), target, config)
        rows.append(_row(OWN, -1, target, decode_others([features], [target], 0)[0]))
    progress = Progress("animal_alignment", 0, len(ARMS) * len(config.seeds), shown=True, unit="trunk")
    for seed in config.seeds:
        for arm, heads in ARMS.items():
            score(arm, seed, contrastive_embeddings(arm, heads, known, new, config, seed))
            progress.update()
    progress.close()
    return _findings(pd.DataFrame(rows), found, everyone, len(known), config)


def contrastive_embeddings(
    arm: str, heads: list[Head], known: list[Animal], new: list[Animal], config: Config, seed: int
) -> list[np.ndarray]:
    """Embeddings of all bins of all sessions: a trunk of the known ones, a read-in for each new one."""
    model = ContrastiveEmbedding(
        heads,
        output_dimension=config.output_dimension,
        receptive_field=config.receptive_field,
        max_iterations=config.steps,
        batch_size=config.batch_size,
        sessions_per_step=config.sessions_per_step,
        learning_rate=config.learning_rate,
        unit_dropout=config.unit_dropout,
        random_state=seed,
    )
    rng = np.random.default_rng([seed, 5])

    def inputs(session: Animal) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        at = session.bins(TRAIN)
        choice = session.choice.copy()
        if arm == SHUFFLED:
            train = session.role == TRAIN
            choice[train] = rng.permutation(choice[train])
        return session.data.activity[at], session.time_s[at], choice[session.trial[at]], session.trial[at]

    activity, time_s, choice, trial = (list(part) for part in zip(*map(inputs, known)))
    model.fit(activity, time_s, choice, trial=trial)
    # One session at a time: as many anchors as the trunk had in a step.
    model.set_params(batch_size=config.batch_size * min(config.sessions_per_step, 4))
    for session in new:
        x, seconds, side, borders = inputs(session)
        model.adapt(x, seconds, side, trial=borders, max_iterations=config.adapt_steps)
    return [
        model.transform(session.data.activity, trial=session.trial, session=k)
        for k, session in enumerate([*known, *new])
    ]


def own_components(session: Animal, config: Config) -> np.ndarray:
    """Principal components `(T, D)` of window sums, of the training trials; zeros where there are fewer units."""
    sums = window_sums(session.data.activity, config.receptive_field, session.trial)
    number = min(config.output_dimension, sums.shape[1])
    components = pca_embedding(sums, np.flatnonzero(session.bins(TRAIN)), number)
    return np.pad(components, ((0, 0), (0, config.output_dimension - number)))


def procrustes_to_common(components: list[np.ndarray], sessions: list[Animal], num_known: int) -> list[np.ndarray]:
    """Rotate, scale and shift each session's components so that its condition means fit those of the known animals.

    Conditions are choice by time in the trial, means over training trials; the template is the mean of the aligned
    known sessions, found in five rounds from the first (generalized Procrustes analysis, Gower 1975).
    """
    means = [condition_means(c, s) for c, s in zip(components, sessions)]
    template = means[0]
    for _ in range(5):
        aligned = [procrustes_map(m, template)(m) for m in means[:num_known]]
        template = np.mean(aligned, axis=0)
        template /= np.linalg.norm(template) / np.linalg.norm(means[0])
    return [procrustes_map(m, template)(c) for m, c in zip(means, components)]


def condition_means(rows: np.ndarray, session: Animal) -> np.ndarray:
    """`(2 * TIME_BINS, D)` means over the training bins of each choice and stretch of the trial."""
    code, at = conditions(session), session.bins(TRAIN)
    return np.stack([rows[at & (code == c)].mean(axis=0) for c in range(2 * TIME_BINS)])


def conditions(session: Animal) -> np.ndarray:
    """`(T,)` choice by fifth of a second since the trial began, the last one open."""
    stretch = np.minimum((session.time_s / 0.2).astype(int), TIME_BINS - 1)
    return session.choice[session.trial] * TIME_BINS + stretch


def trial_features(rows: np.ndarray, session: Animal, config: Config) -> np.ndarray:
    """`(K, 2 D)` means over the bins of each trial, and over its last 200 ms."""
    last = max(1, round(LAST_S / config.bin_size_s))
    left = np.bincount(session.trial)[session.trial] - np.round(session.time_s / config.bin_size_s).astype(int)
    parts = []
    for at in (np.ones(len(rows), bool), left <= last):
        sums = np.zeros((len(session.choice), rows.shape[1]))
        np.add.at(sums, session.trial[at], rows[at])
        parts.append(sums / np.bincount(session.trial[at], minlength=len(session.choice))[:, None])
    return np.concatenate(parts, axis=1)


def decode_others(features: list[np.ndarray], sessions: list[Animal], num_known: int) -> list[np.ndarray]:
    """Guesses for the test trials of each new session: a logistic regression on the known ones' trials.

    With no known session it is fitted on the new session's own training trials.
    """
    guesses = []
    for target in range(num_known, len(sessions)):
        used = [*range(num_known), target] if num_known else [target]
        roles = [np.where(sessions[k].role == TEST, -1, sessions[k].role) for k in used[:-1]]
        # Of a new session only the test trials count, unless it has to teach itself.
        own = sessions[target].role
        role = np.concatenate([*roles, np.where(own == TEST, TEST, -1) if num_known else own])
        split = Split(*(np.flatnonzero(role == part) for part in (TRAIN, VAL, TEST)))
        stacked = np.concatenate([features[k] for k in used])
        choice = np.concatenate([sessions[k].choice for k in used])
        guesses.append(decode_logistic(stacked, choice, split).prediction)
    return guesses


def consistency(embeddings: Sequence[np.ndarray], sessions: list[Animal]) -> Consistency:
    """Between animals, one session each (that of the most units), aligned by choice and time in the trial."""
    chosen: dict[str, int] = {}
    for k, session in enumerate(sessions):
        best = chosen.get(session.data.subject)
        if best is None or session.data.activity.shape[1] > sessions[best].data.activity.shape[1]:
            chosen[session.data.subject] = k
    parts = [sessions[k] for k in chosen.values()]
    return between_sessions(
        [embeddings[k] for k in chosen.values()],
        [[s.choice[s.trial], np.minimum((s.time_s / 0.05).astype(int), 19)] for s in parts],
        [s.bins(TRAIN) for s in parts],
        [s.bins(TEST) for s in parts],
        min_count=5,
        names=list(chosen),
        control="permute",
    )


def _row(method: str, seed: int, target: Animal, guess: np.ndarray) -> dict[str, object]:
    score = scores(target.choice[target.role == TEST], guess, "discrete")["balanced_accuracy"]
    about = {"method": method, "seed": seed, "session": target.data.name, "subject": target.data.subject}
    return {**about, "balanced_accuracy": score, "trials": int((target.role == TEST).sum())}


def _findings(
    rows: pd.DataFrame, found: dict[str, Consistency], sessions: list[Animal], num_known: int, config: Config
) -> Findings:
    order = ["hybrid", "behavior", "time", SHUFFLED, COMPONENTS, UNALIGNED, OWN]
    table, per = [], rows.groupby(["method", "session", "subject"], sort=False).balanced_accuracy.mean().reset_index()
    for method in order:
        part = per[per.method == method]
        sessions_of, animals_of = (
            session_interval(part.balanced_accuracy.to_numpy()),
            animal_interval(part.balanced_accuracy.to_numpy(), part.subject.to_numpy()),
        )
        each = part.groupby("subject").balanced_accuracy.mean().to_dict()
        seeds = rows[rows.method == method].groupby("seed").balanced_accuracy.mean()
        between = found.get(method)
        table.append(
            {
                "method": method,
                "balanced_accuracy": sessions_of.mean,
                "sessions_95": f"{sessions_of.low:.3f} to {sessions_of.high:.3f}",
                "animals_95": f"{animals_of.low:.3f} to {animals_of.high:.3f}",
                **each,
                "sd_of_seeds": float(seeds.std()) if len(seeds) > 1 else np.nan,
                "consistency": between.mean() if between else np.nan,
                "consistency_permuted": float(np.nanmean(between.permuted)) if between else np.nan,
            }
        )
    summary = pd.DataFrame(table)
    remarks = []
    for arm in ("behavior", "hybrid"):
        for name in (COMPONENTS, SHUFFLED):
            ours, other = (per[per.method == m].set_index("session") for m in (arm, name))
            gap = (ours.balanced_accuracy - other.balanced_accuracy).dropna()
            interval = session_interval(gap.to_numpy())
            signs = sorted({str(a) for a, g in gap.groupby(ours.subject).mean().items() if g <= 0})
            remarks.append(
                f"{arm} - {name}: {interval.mean:+.3f} balanced accuracy ({interval.low:+.3f} to {interval.high:+.3f} "
                f"over {len(gap)} sessions); "
                + ("the same sign in every held-out rat." if not signs else f"not above 0 in {', '.join(signs)}.")
            )
    remarks += [
        "Reading in a held-out session uses the choices of its training trials (but for `time`, which uses none); "
        "only the decoder is not fitted to it. The time arm has nothing that could tell it left from right.",
        "The sessions of luo2025 were chosen by its authors for task-modulated units, and choice is nearly motor at "
        "the end of a trial: absolute numbers are optimistic for every method.",
    ]
    caption = (
        f"Choice on the test trials of {len(sessions) - num_known} sessions of {len(config.held_out)} held-out rats, "
        f"decoder of {num_known} sessions of other rats ({OWN}: of the session's own training trials). Intervals: 95 % "
        f"bootstrap over sessions, and over animals then sessions; mean of {len(config.seeds)} seeds. Consistency: R2 "
        "of a linear map between the condition means of animals, one session each, on held-out trials, first seed."
    )
    shown = per.assign(order=per.method.map(order.index)).sort_values("order")
    return Findings(
        title="One space for many animals",
        question="Can a decoder trained on other rats read an unseen rat's choice, once that rat has its own read-in "
        "into the shared trunk, and are the rats' embeddings alike?",
        tables=[Table("summary", caption, summary), Table("sessions", "Every session and seed.", rows)],
        figures=[
            Figure("choice", caption, bars(shown, "balanced_accuracy", "balanced accuracy of choice", group="method")),
            Figure(
                "consistency",
                "Held-out R2 of a linear map from the row's animal to the column's; first seed.",
                consistency_matrices({m: found[m] for m in order if m in found}),
            ),
        ],
        remarks=remarks,
    )
