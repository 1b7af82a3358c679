"""The convex decoding read-out of a session, as arrays that travel with the model: what it predicts of windows.

Three experts are averaged: the shared head, a linear one on spikes, and a linear one on spikes and trunk states. They
are fitted in `foundation.decoding`; a covariate without a read-out is answered by the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foundation.channels import Channel
from foundation.decoding_features import Segment, elapsed, label_spikes, label_states, segments, trace_spikes
from foundation.model import FoundationModel
from foundation.sampling import Window, WindowReader
from foundation.sidecars import as_arrays

# Kind and scope of the covariates that a read-out is fitted for; others stay with the heads.
DECODED = (("categorical", "trial"), ("continuous", "trial"), ("continuous", "time"))


def decoded(
    model: FoundationModel, reader: WindowReader, windows: list[Window], name: str, *, causal: bool = False
) -> Iterator[np.ndarray]:
    """A target covariate of windows of one session, as `decoded_together` has it."""
    for found in decoded_together(model, reader, windows, [name], causal=causal):
        yield found[name]


def decoded_together(
    model: FoundationModel, reader: WindowReader, windows: list[Window], names: list[str], *, causal: bool = False
) -> Iterator[dict[str, np.ndarray]]:
    """Target covariates of windows of one session, from their spikes, by the read-out or else the head.

    Args:
        model: Adapted.
        reader: Opens the recording.
        windows: Of one session.
        names: The covariates.
        causal: Each window ends at the bin asked for; else it is a whole trial or stretch.

    Yields:
        By name: class logits, values in physical units, or log event counts, as the covariate's kind has it. Not
        causal: `(T, width)`, or `(K, width)` for the window's K trials. Causal: `(width,)` of the last bin or trial.
    """
    channels = {c.spec.name: c for c in model.channels}
    questions = {name: Question(channels[name], causal, reader.bin_size_s) for name in names}
    stored = model.readouts.get(windows[0].recording_id, {}) if windows else {}
    arrays = as_arrays(stored, "decode.")
    decoder = SessionDecoder(model.channels, reader.bin_size_s, arrays)
    for parts in segments(model, reader, windows, last=causal):
        out = {}
        for name, question in questions.items():
            asked = [part for part in parts if part.row >= 0 or causal or not question.is_of_trial]
            found = [decoder.predict(question, part) for part in asked]
            whole = np.concatenate(found) if found else np.zeros((0, channels[name].width))
            out[name] = found[0][-1] if causal else whole
        yield out


@dataclass(frozen=True)
class Question:
    """One covariate, causal or not; how its features are made of a segment."""

    channel: Channel
    causal: bool
    bin_size_s: float

    @property
    def prefix(self) -> str:
        """What the keys of its arrays begin with."""
        return f"decode.{self.channel.spec.name}.{'causal' if self.causal else 'whole'}."

    @property
    def is_of_trial(self) -> bool:
        """Whether it has one answer per trial."""
        return self.channel.spec.scope == "trial"

    @property
    def is_label(self) -> bool:
        """Whether the answer is a class."""
        return self.channel.spec.kind == "categorical"

    def spikes(self, segment: Segment) -> np.ndarray:
        """Features of the spikes `(R, L, N)`; R is 1, or the bins of an acausal trace."""
        make = label_spikes if self.is_of_trial else trace_spikes
        return make(segment, self.bin_size_s, self.causal)

    def states(self, segment: Segment) -> np.ndarray:
        """Features of the trunk `(R, S)`."""
        if self.is_of_trial:
            return label_states(segment, self.bin_size_s)
        return segment.states[-1:] if self.causal else segment.states

    def course(self, segment: Segment, longest_s: float) -> np.ndarray:
        """Time since the start `(R, H)`; `(R, 0)` for what a whole trial is asked."""
        if self.is_of_trial and not self.causal:
            return np.zeros((1, 0))
        return elapsed(segment, self.bin_size_s, longest_s, self.causal or self.is_of_trial)

    def head(self, segment: Segment) -> np.ndarray:
        """The head's answer `(R, W)`."""
        found = segment.heads[self.channel.spec.name]
        return found[None] if self.is_of_trial else found[-1:] if self.causal else found


@dataclass
class Rows:
    """Rows of one question: spikes `(R, L, N)`, labels told `(R, E)`, states, time course, head, target and trial."""

    spikes: np.ndarray
    told: np.ndarray
    states: np.ndarray
    course: np.ndarray
    head: np.ndarray
    target: np.ndarray
    trial: np.ndarray

    @classmethod
    def join(cls, parts: list[Rows]) -> Rows:
        """Rows of several parts, in order."""
        return cls(*(np.concatenate([getattr(part, key) for part in parts]) for key in cls.__dataclass_fields__))

    def pick(self, keep: np.ndarray | slice) -> Rows:
        """Some of the rows."""
        return Rows(*(getattr(self, key)[keep] for key in self.__dataclass_fields__))

    def flat(self) -> np.ndarray:
        """All features `(R, F)` as they are: spikes, labels told, states."""
        return np.concatenate([self.spikes.reshape(len(self.spikes), -1), self.told, self.states], axis=1)


class SessionDecoder:
    """The read-outs of one session as arrays: predictions of segments."""

    def __init__(self, channels: list[Channel], bin_size_s: float, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        targets = [c for c in channels if c.is_target and (c.spec.kind, c.spec.scope) in DECODED]
        self.questions = [Question(c, causal, bin_size_s) for c in targets for causal in (False, True)]
        # Labels first: a trace is told the labels of its trial.
        self.questions.sort(key=lambda question: not question.is_label)

    def has(self, question: Question) -> bool:
        """Whether it has a read-out."""
        return f"{question.prefix}mix" in self.arrays

    def rows(self, question: Question, segment: Segment, labels: np.ndarray | None = None) -> Rows:
        """Rows of a segment; `labels` `(E,)` of its trial, decoded here when missing."""
        course = question.course(segment, float(self.arrays["decode.longest_s"]))
        told = np.zeros((len(course), 0))
        if not question.is_of_trial and not question.causal:
            z = self.labels(segment) if labels is None else labels
            told = (np.concatenate([np.tanh(z / 2), z])[None, :, None] * course[:, None, :]).reshape(len(course), -1)
        head = question.head(segment)
        blank = np.zeros((len(head), 0))
        return Rows(question.spikes(segment), told, question.states(segment), course, head, blank, blank)

    def labels(self, segment: Segment) -> np.ndarray:
        """`(E,)` log odds of each label's classes against its first, from the spikes of the segment's trial alone."""
        found = [np.zeros(0)]
        for question in self.questions:
            if question.is_label and not question.causal and self.has(question):
                logits = self.experts(question, self.rows(question, segment))[0, 0]
                found.append((logits[1:] - logits[0]) * (segment.row >= 0))
        return np.concatenate(found)

    def experts(self, question: Question, rows: Rows) -> np.ndarray:
        """`(2, R, W)` predictions of the experts `spikes` and `joint`."""
        own = {k.removeprefix(question.prefix): v for k, v in self.arrays.items() if k.startswith(question.prefix)}
        return expert_answers(own, design(rows, own), rows.course)

    def predict(self, question: Question, segment: Segment) -> np.ndarray:
        """`(R, W)`: a row per bin, or one for the trial or the last bin."""
        if not self.has(question) or (question.is_of_trial and segment.row < 0):
            return question.head(segment)
        rows = self.rows(question, segment)
        mix, temperature = (self.arrays[question.prefix + key] for key in ("mix", "temperature"))
        return mixed(mix, temperature * rows.head, self.experts(question, rows))


def mixed(mix: np.ndarray, head: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """The weighted mean of the head and the two experts."""
    return np.asarray(mix[0] * head + mix[1] * experts[0] + mix[2] * experts[1])


def expert_answers(own: dict[str, np.ndarray], x: np.ndarray, course: np.ndarray) -> np.ndarray:
    """`(2, R, W)` from a read-out's arrays, the design `(R, F)` and the time course `(R, H)`."""
    base = own["constant"][:, None] + (course @ own["base"] if "base" in own else 0.0)
    return np.asarray(base + x @ own["weights"])


def design(rows: Rows, own: dict[str, np.ndarray]) -> np.ndarray:
    """`(R, F)` features: standardized, freed of the time course, units reduced to components, blocks of equal size."""
    x = (rows.flat() - own["mean"] - rows.course @ own["course"]) / own["scale"]
    _, lags, units = rows.spikes.shape
    ends = [0, lags * units, lags * units + rows.told.shape[1], x.shape[1]]
    blocks = [x[:, a:b] for a, b in pairwise(ends)]
    if "axes" in own:
        blocks[0] = (blocks[0].reshape(len(x), lags, units) @ own["axes"]).reshape(len(x), -1)
    return np.concatenate([block / np.sqrt(max(1, block.shape[1])) for block in blocks], axis=1)


def num_spikes(rows: Rows, own: dict[str, np.ndarray]) -> int:
    """Columns of the design before those of the states."""
    units = own["axes"].shape[1] if "axes" in own else rows.spikes.shape[2]
    return int(rows.spikes.shape[1] * units + rows.told.shape[1])
