"""The decoding heads of an adapted session once more, as convex problems on the frozen trunk: labels and traces.

Per target covariate (categorical or continuous per trial, or continuous in time) and per question (`whole`: the whole
window is seen; `causal`: windows end at the bin asked for) three experts are averaged:

    head     the shared head, trained by gradients
    spikes   softmax or ridge regression on square-root spike counts in windows
    joint    the same on these counts and the trunk's states

A `whole` trace also reads the labels decoded from its trial's spikes, spread over time. Penalties are chosen on
validation trials; the experts count the same unless many of those trials prefer another mixture by more than two
standard errors.
Targets of other kinds stay with the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np
import scipy.special

from foundation.binning import bin_covariate
from foundation.decoder import Question, Rows, SessionDecoder, design, expert_answers, mixed, num_spikes
from foundation.decoding_features import RECENT_S, Segment, segments
from foundation.linear_decoders import ridge_path, softmax_path
from foundation.model import FoundationModel
from foundation.sampling import Window, WindowReader
from foundation.sidecars import as_tensors
from foundation.training_data import TrainingData

# Weights of (head, spikes, joint): equal ones, then all quarters of the simplex.
MIXES = [(1 / 3, 1 / 3, 1 / 3)] + [
    (a / 4, b / 4, 1 - (a + b) / 4) for a, b in product(range(5), repeat=2) if a + b <= 4
]
# A head trained on few trials is too sure of its labels.
TEMPERATURES = (1.0, 0.5, 0.25)
# Penalty of the time course that is taken off features and traces, in rows.
COURSE_PENALTY = 10.0
NUM_FOLDS = 5
# Numbers that the features of the rows may hold from which their moments and axes are taken; rows are thinned to that.
MAX_FEATURES = 1 << 27
# Fewer validation trials than this cannot tell mixtures apart (eight perfect answers of the head once did).
MIN_TRIALS = 50


@dataclass
class DecodingConfig:
    """The convex decoding read-out.

    Attributes:
        enabled: Whether to fit it; without it the heads answer.
        penalties: Grid of the penalty, where a block of features has prior variance 1.
        components: Principal components of the units that each window is reduced to, at most.
        causal_bins: Bins in the windows that causal fits read, roughly; cuts are thinned to that.
    """

    enabled: bool = True
    penalties: list[float] = field(default_factory=lambda: [10.0 ** (k / 2) for k in range(-6, 7)])
    components: int = 128
    causal_bins: int = 300_000


def fit_decoding(
    model: FoundationModel, data: TrainingData, config: DecodingConfig, whole: list[str] | None = None
) -> None:
    """Fit the decoding read-out of every session of `data`; arrays go into `model.readouts` as `decode.*`.

    A session without validation windows, and a target without two classes or any variance, stay with the heads.

    Args:
        model: Adapted.
        data: Its train and validation windows.
        config: Grid and sizes.
        whole: Answer these covariates from whole windows, and nothing else; by default all of them, causal too.
    """
    for recording_id, train in data.train.items():
        if data.val[recording_id]:
            arrays = _Fit(model, data.reader, (train, data.val[recording_id]), config).run(whole)
            model.readouts.setdefault(recording_id, {}).update(as_tensors(arrays))


class _Fit:
    """The fits of one session."""

    def __init__(
        self,
        model: FoundationModel,
        reader: WindowReader,
        windows: tuple[list[Window], list[Window]],
        config: DecodingConfig,
    ) -> None:
        self.model, self.reader, self.config = model, reader, config
        self.penalties = sorted(config.penalties, reverse=True)
        self.windows = [_whole(role, reader.bin_size_s) for role in windows]
        self.recording = reader.recording(windows[0][0].recording_id)
        longest = max(window.num_bins for window in self.windows[0]) * reader.bin_size_s
        self.session = SessionDecoder(model.channels, reader.bin_size_s, {"decode.longest_s": np.array(longest)})

    def run(self, whole: list[str] | None = None) -> dict[str, np.ndarray]:
        """All questions that the session has targets for, or those of `fit_decoding`."""
        asked = [q for q in self.session.questions if q.channel.spec.name in self.recording.covariates]
        if whole is not None:
            asked = [q for q in asked if not q.causal and q.channel.spec.name in whole]
        if asked:
            self.fit_whole([q for q in asked if not q.causal])
        if any(q.causal for q in asked):
            self.fit_causal([q for q in asked if q.causal])
        return self.session.arrays

    def fit_whole(self, asked: list[Question]) -> None:
        """Labels, then traces, which are told the labels that fits without their trial decode."""
        found = [
            [(w, part) for w, parts in enumerate(segments(self.model, self.reader, windows)) for part in parts]
            for windows in self.windows
        ]
        told = np.zeros((len(found[0]), 0))
        for question in asked:
            if not question.is_of_trial and not told.size:
                told = np.stack([self.session.labels(part) for _, part in found[0]])
                self.cross_fit(told, found[0], [q for q in asked if q.is_label and self.session.has(q)])
            lazy = [
                partial(self.each_rows, question, role, told if r == 0 and told.size else None)
                for r, role in enumerate(found)
            ]
            self.fit(question, *lazy)

    def each_rows(
        self, question: Question, found: list[tuple[int, Segment]], told: np.ndarray | None
    ) -> Iterator[Rows]:
        """Rows of one segment after the other: all of them with lags of all units would not fit into memory."""
        for i, (w, part) in enumerate(found):
            yield self.rows(question, w, part, None if told is None else told[i])

    def cross_fit(self, told: np.ndarray, found: list[tuple[int, Segment]], labels: list[Question]) -> None:
        """Replace the log odds `told` of train trials by those of fits without them, in place."""
        column = 0
        for question in labels:
            parts = [self.rows(question, w, part) for w, part in found]
            there = np.flatnonzero([len(part.target) > 0 for part in parts])
            rows = Rows.join(parts)
            own = {
                key: self.session.arrays[question.prefix + key]
                for key in ("mean", "course", "scale", "axes", "penalty")
                if question.prefix + key in self.session.arrays
            }
            x = design(rows, own)[:, : num_spikes(rows, own)]
            classes, label = rows.head.shape[1], rows.target[:, 0].astype(int)
            for fold in np.array_split(np.random.default_rng(0).permutation(len(label)), NUM_FOLDS):
                rest = np.setdiff1d(np.arange(len(label)), fold)
                if len(rest) and len(fold):
                    weights, constants = softmax_path(x[rest], label[rest], classes, [float(own["penalty"][0])])
                    logits = x[fold] @ weights[0] + constants[0]
                    told[there[fold], column : column + classes - 1] = logits[:, 1:] - logits[:, :1]
            column += classes - 1

    def fit_causal(self, asked: list[Question]) -> None:
        """Windows cut at every bin, or so many that they hold `causal_bins`; of labels and values of trials fewer."""
        lengths = [window.num_bins for role in self.windows for window in role]
        step = max(1, round(sum(n * n for n in lengths) / 2 / self.config.causal_bins))
        wide = max(1, round(RECENT_S / self.reader.bin_size_s / step))
        rows: list[dict[Question, list[Rows]]] = [{question: [] for question in asked} for _ in self.windows]
        for role, windows in enumerate(self.windows):
            cuts = [(w, k) for w, window in enumerate(windows) for k in range(1, window.num_bins // step + 1)]
            cut = [replace(windows[w], num_bins=k * step) for w, k in cuts]
            for (w, k), parts in zip(cuts, segments(self.model, self.reader, cut, last=True)):
                for question in asked:
                    if not question.is_of_trial or k % wide == 0:
                        rows[role][question].append(self.rows(question, w, parts[0]))
        for question in asked:
            if all(role[question] for role in rows):
                self.fit(question, *(partial(iter, role[question]) for role in rows))

    def rows(self, question: Question, trial: int, segment: Segment, labels: np.ndarray | None = None) -> Rows:
        """The rows of a segment whose target is observed."""
        target, observed = self.target(question, segment)
        rows = self.session.rows(question, segment, labels)
        return replace(rows, target=target, trial=np.full(len(target), trial)).pick(observed)

    def target(self, question: Question, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Target `(R, width)`, or of a trial its class or value `(1, 1)`, and whether it is observed `(R,)`."""
        covariate = self.recording.covariates[question.channel.spec.name]
        if question.is_of_trial:
            row = max(segment.row, 0)
            seen = segment.row >= 0 and bool(covariate.observed[row])
            return np.array([[covariate.values[row] if seen else 0]], float).reshape(1, 1), np.array([seen])
        size, num = self.reader.bin_size_s, len(segment.counts)
        skip = num - 1 if question.causal else 0
        start = segment.window.start_s + (segment.first + skip) * size
        values, observed = bin_covariate(covariate, start, num - skip, size)
        return values.reshape(num - skip, -1).astype(float), observed

    def fit(
        self, question: Question, train_rows: Callable[[], Iterator[Rows]], val_rows: Callable[[], Iterator[Rows]]
    ) -> None:
        """Both experts, each at its best penalty, and the mixture; nothing where there is nothing to learn.

        Args:
            question: What is asked.
            train_rows: Gives the rows to train on, in parts, as often as asked.
            val_rows: The same to validate on.
        """
        some, stride = _gather(train_rows(), MAX_FEATURES)
        if some is None or len(some.target) < 2:
            return
        own = _scaling(some, self.config.components)
        train, x = _designed(some, own) if stride == 1 else _each_designed(train_rows(), own)
        if not train.target.std(axis=0).all():
            return
        some, stride = _gather(val_rows(), MAX_FEATURES)
        if some is None or not len(some.target):
            return
        val, x_val = _designed(some, own) if stride == 1 else _each_designed(val_rows(), own)
        del some
        solve = _labels if question.is_label else _values
        loss = _log_loss if question.is_label else _squared_error
        best: list[tuple[float, np.ndarray, np.ndarray]] = []
        for num in (num_spikes(train, own), x.shape[1]):
            weights, constants, base = solve(x[:, :num], train, self.penalties)
            found = x_val[:, :num] @ weights + constants[:, None] + val.course @ base
            p = int(np.argmin([loss(one, val).mean() for one in found]))
            full = np.zeros((x.shape[1], weights.shape[2]))
            full[:num] = weights[p]
            best.append((self.penalties[p], full, constants[p]))
        own |= {"base": base, "penalty": np.array([b[0] for b in best])}
        own |= {"weights": np.stack([b[1] for b in best]), "constant": np.stack([b[2] for b in best])}
        self.session.arrays |= {question.prefix + key: value for key, value in own.items()}
        experts = expert_answers(own, x_val, val.course)
        grid = TEMPERATURES if question.is_label else TEMPERATURES[:1]
        temperature = min(grid, key=lambda t: float(loss(t * val.head, val).mean()))
        losses = np.stack([loss(mixed(np.array(mix), temperature * val.head, experts), val) for mix in MIXES])
        mix = np.array(MIXES[_choose(losses, val.trial)])
        self.session.arrays |= {f"{question.prefix}mix": mix, f"{question.prefix}temperature": np.array(temperature)}


def _gather(parts: Iterator[Rows], most: int) -> tuple[Rows | None, int]:
    """Every k-th row and k, the least power of two at which the lags of all units are at most so many numbers.

    Of the next part the rows one later are taken, so that trials of one length are not all seen in the same bins.
    """
    kept: list[Rows] = []
    keys: list[np.ndarray] = []
    stride, size = 1, 0
    for k, part in enumerate(parts):
        key = k + np.arange(len(part.target))
        keep = key % stride == 0
        kept.append(part if stride == 1 else part.pick(keep))
        keys.append(key[keep])
        size += kept[-1].spikes.size
        while size > most and sum(map(len, keys)) > 1:
            stride *= 2
            kept = [rows.pick(key % stride == 0) for rows, key in zip(kept, keys)]
            keys = [key[key % stride == 0] for key in keys]
            size = sum(rows.spikes.size for rows in kept)
    return (Rows.join(kept) if kept else None), stride


def _scaling(rows: Rows, components: int) -> dict[str, np.ndarray]:
    """Mean, time course, scale and, of more units than components, the principal axes of the features."""
    flat = rows.flat()
    own = {"mean": flat.mean(axis=0)}
    own["course"] = _course(rows, flat - own["mean"])
    spread = (flat - own["mean"] - rows.course @ own["course"]).std(axis=0)
    own["scale"] = np.where(spread > 1e-6, spread, np.inf)
    if rows.spikes.shape[2] > components:
        own["axes"] = _axes(rows, own, components)
    return own


def _designed(rows: Rows, own: dict[str, np.ndarray]) -> tuple[Rows, np.ndarray]:
    """The rows without what the design `(R, F)` is made of, and the design."""
    return replace(rows, spikes=rows.spikes[:0], states=rows.states[:0]), design(rows, own)


def _each_designed(parts: Iterator[Rows], own: dict[str, np.ndarray]) -> tuple[Rows, np.ndarray]:
    """The same of rows that do not fit into memory together."""
    found = [_designed(part, own) for part in parts]
    return Rows.join([rows for rows, _ in found]), np.concatenate([x for _, x in found])


def _choose(losses: np.ndarray, trial: np.ndarray) -> int:
    """Which row of losses `(C, R)` is least, or row 0 where the gain is within two standard errors over trials."""
    _, group = np.unique(trial, return_inverse=True)
    gain = np.stack([np.bincount(group, losses[0] - row) for row in losses])
    best, num = int(gain.sum(axis=1).argmax()), gain.shape[1]
    error = gain[best].std(ddof=1) * np.sqrt(num) if num >= MIN_TRIALS else np.inf
    return best if gain[best].sum() > 2 * error else 0


def _labels(x: np.ndarray, train: Rows, penalties: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    classes = train.head.shape[1]
    weights, constants = softmax_path(x, train.target[:, 0].astype(int), classes, penalties)
    return weights, constants, np.zeros((train.course.shape[1], classes))


def _values(x: np.ndarray, train: Rows, penalties: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = train.target.mean(axis=0)
    base = _course(train, train.target - mean)
    weights = ridge_path(x, train.target - mean - train.course @ base, penalties)
    return weights, np.repeat(mean[None], len(penalties), axis=0), base


def _log_loss(logits: np.ndarray, rows: Rows) -> np.ndarray:
    right = logits[np.arange(len(logits)), rows.target[:, 0].astype(int)]
    return np.asarray(scipy.special.logsumexp(logits, axis=1) - right)


def _squared_error(values: np.ndarray, rows: Rows) -> np.ndarray:
    return np.asarray(((values - rows.target) ** 2).sum(axis=1))


def _course(rows: Rows, values: np.ndarray) -> np.ndarray:
    """`(H, F)` course over time of centered values `(R, F)`."""
    gram = rows.course.T @ rows.course + COURSE_PENALTY * np.eye(rows.course.shape[1])
    return np.linalg.solve(gram, rows.course.T @ values)


def _axes(rows: Rows, own: dict[str, np.ndarray], most: int) -> np.ndarray:
    """`(N, C)` principal axes of the units, over rows and windows."""
    _, lags, units = rows.spikes.shape
    z = (rows.flat() - own["mean"] - rows.course @ own["course"]) / own["scale"]
    z = z[:, : lags * units].reshape(-1, units)
    return np.asarray(np.linalg.eigh(z.T @ z)[1][:, ::-1][:, :most])


def _whole(windows: list[Window], bin_size_s: float) -> list[Window]:
    """Windows that follow each other in one trial or stretch as one: so it is asked for."""
    joined: list[Window] = []
    for window in windows:
        last = joined[-1] if joined else None
        stop = last.start_s + last.num_bins * bin_size_s if last else np.inf
        if last and last.row == window.row and abs(window.start_s - stop) < 1e-6:
            joined[-1] = replace(last, num_bins=last.num_bins + window.num_bins)
        else:
            joined.append(window)
    return joined
