"""What a contrastive fit is trained on: heads draw pairs, rows are embedded once, each head scores its part.

A head says which moments count as alike (a mode), by which labels, on which dimensions of the embedding. Hybrid
training is two heads, several label sets are several heads (as in CEBRA's multi-objective training, Schneider et al.
2025, arXiv 2502.12977). Checks nothing that `foundation.estimator` has checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from foundation.contrastive_model import ContrastiveModel
from foundation.objectives.info_nce import info_nce, symmetric_info_nce
from foundation.objectives.rank_contrast import rank_contrast
from foundation.pair_sampling import LabelPairs, SessionLabels, TimePairs, draw_balanced, draw_rows
from foundation.ranks import gather_rows

PAIRED = ("time", "behavior", "discrete", "mixed")
LABELED = ("behavior", "discrete", "mixed", "rank", "clip")


@dataclass(frozen=True)
class Head:
    """One objective.

    Attributes:
        mode: "time": a moment and the one `time_offset` later are alike. "behavior", "discrete", "mixed": moments
            with alike labels (`foundation.pair_sampling.LabelPairs`). "rank": the order of distances of the labels is
            that of the embeddings (`rank_contrast`). "clip": the activity and an embedding of its own labels find
            each other (`symmetric_info_nce`).
        labels: Which of the label arrays given to `fit` it uses, counted from 0; all that fit the mode by default.
        dimensions: First and last (exclusive) dimension of the embedding it acts on; all by default.
        weight: Of its loss.
    """

    mode: str
    labels: tuple[int, ...] | None = None
    dimensions: tuple[int, int] | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Pairing:
    """How pairs are drawn and compared: the options that all heads share.

    Attributes:
        batch_size: Anchors, and references, per session and step.
        similarity: "cosine" or "euclidean".
        negatives: "all" references of the step, or those of the anchor's own "session".
        query: Of `LabelPairs`.
        delta: Of `LabelPairs`.
        time_offset: Bins.
        balance_classes: Anchors and references with every class equally often.
    """

    batch_size: int
    similarity: str = "cosine"
    negatives: str = "all"
    query: str = "time_delta"
    delta: float = 0.1
    time_offset: int = 1
    balance_classes: bool = False


class Heads:
    """The heads of a fit on given sessions, ready to draw and to be scored."""

    def __init__(
        self,
        heads: Sequence[Head],
        sessions: Sequence[Sequence[SessionLabels]],
        pairing: Pairing,
        output_dimension: int,
        device: str,
    ) -> None:
        """Build the samplers.

        Args:
            heads: The heads.
            sessions: For each head, the labels of each session as that head uses them.
            pairing: Options.
            output_dimension: D.
            device: Of the labels that losses use.

        Raises:
            ValueError: A session without a bin that can be an anchor.
        """
        self.heads, self.pairing = list(heads), pairing
        self.slices = [slice(*(head.dimensions or (0, output_dimension))) for head in heads]
        self._samplers: list[TimePairs | LabelPairs] = []
        for head, labels in zip(heads, sessions):
            # "rank" and "clip" draw anchors alone: they need no label differences in time.
            query = pairing.query if head.mode in PAIRED else "nearest"
            options = {"query": query, "delta": pairing.delta, "offset": pairing.time_offset}
            is_time = head.mode == "time"
            self._samplers.append(
                TimePairs(labels, pairing.time_offset) if is_time else LabelPairs(labels, **options)  # type: ignore[arg-type]
            )
        # Heads whose anchors differ only at the ends of trials share them: fewer rows to embed. Where labels are
        # missing, each head has its own.
        self._anchors = [sampler.candidates for sampler in self._samplers]
        full = [np.arange(len(labels.trial)) for labels in sessions[0]]
        missing = any(
            len(rows) < len(bins)
            for head, sets in zip(heads, self._anchors)
            if head.mode != "time"
            for rows, bins in zip(sets, full)
        )
        self._shared = not missing
        if self._shared and len(heads) > 1:
            common = self._anchors[0]
            for others in self._anchors[1:]:
                common = [np.intersect1d(a, b, assume_unique=True) for a, b in zip(common, others)]
            self._anchors = [common] * len(heads)
        first = np.concatenate([[0], np.cumsum([len(bins) for bins in full])])
        self._all = [start + bins for start, bins in zip(first, full)]
        # One class for each combination of the heads' classes; heads without classes say 0 everywhere.
        codes = np.stack([np.concatenate([s.discrete for s in labels]) for labels in sessions])
        self._classes = np.unique(codes, axis=1, return_inverse=True)[1].ravel()
        self._targets = [
            torch.as_tensor(np.concatenate([session.continuous for session in labels]), dtype=torch.float32).to(device)
            for labels in sessions
        ]

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError for a session that has no anchor in some head."""
        for head, anchors in zip(self.heads, self._anchors):
            for name, rows in zip(names, anchors):
                if not len(rows):
                    raise ValueError(
                        f"{name} has no bin that mode {head.mode!r} can start from, expected some: give labels there, "
                        "a smaller time_offset, or longer trials"
                    )

    def losses(
        self,
        embed: Callable[[np.ndarray], torch.Tensor],
        model: ContrastiveModel,
        rng: np.random.Generator,
        anchors_of: np.ndarray,
        targets_of: np.ndarray,
        references_of: np.ndarray,
        ranks: tuple[int, int] = (0, 1),
    ) -> torch.Tensor:
        """This rank's share of each head's loss `(H,)`, nats; the shares of all ranks add up to the mean.

        Args:
            embed: Embeddings of rows.
            model: Temperature and label encoders.
            rng: The same on all ranks.
            anchors_of: `(S,)` sessions whose bins are anchors.
            targets_of: Sessions that hold the positives of labeled heads.
            references_of: Sessions that hold the references.
            ranks: Own rank and their number, which divides the batch size.
        """
        rank, world = ranks
        if self.pairing.batch_size % world:
            raise ValueError(f"batch_size is {self.pairing.batch_size}, expected a multiple of the {world} processes")

        def own(rows: np.ndarray, num_sessions: int) -> np.ndarray:
            # All ranks draw the same and each embeds its columns: the pairs do not depend on the number of ranks.
            return rows.reshape(num_sessions, -1)[:, rank::world].ravel()

        drawn: list[np.ndarray] = []
        for number, candidates in enumerate(self._anchors):
            fresh = not (number and self._shared)
            drawn.append(self._draw([candidates[s] for s in anchors_of], rng) if fresh else drawn[0])
        positives = []
        for head, sampler, anchors in zip(self.heads, self._samplers, drawn):
            others = np.zeros(0, np.int64)
            if head.mode in PAIRED:
                targets = rng.permutation(np.resize(targets_of, len(anchors)))
                others = own(sampler.positives(anchors, targets, rng), len(anchors_of))
            elif head.mode == "rank":
                # Points of sessions that are no anchors are ranked too, or new ones could lie anywhere beside them.
                beside = [sampler.candidates[s] for s in np.setdiff1d(targets_of, anchors_of)]
                beside = [rows for rows in beside if len(rows)]
                others = own(self._draw(beside, rng), len(beside)) if beside else others
            positives.append(others)
        references = own(self._draw([self._all[s] for s in references_of], rng), len(references_of))
        drawn = [own(anchors, len(anchors_of)) for anchors in drawn]
        anchor_sets = drawn[:1] if self._shared else drawn
        parts = [*anchor_sets, *positives, references]
        pieces = list(torch.split(embed(np.concatenate(parts)), [len(part) for part in parts]))
        reference = pieces.pop()
        if world > 1:
            reference = _by_session(gather_rows(reference), world, len(references_of))
        embedded = [pieces[0] if self._shared else pieces[number] for number in range(len(self.heads))]
        clip = iter(model.label_encoders)
        losses = []
        for number, (head, dims, target, x, y) in enumerate(
            zip(self.heads, self.slices, self._targets, embedded, pieces[len(anchor_sets) :])
        ):
            if head.mode in PAIRED:
                loss = self._info_nce(x[:, dims], y[:, dims], reference[:, dims], model.scale, len(anchors_of))
                losses.append(loss.sum() / (len(x) * world))
                continue
            labels = target[torch.from_numpy(np.concatenate([drawn[number], positives[number]])).to(target.device)]
            x = self._unit(torch.cat([x, y])[:, dims])
            if world > 1:
                x, labels = gather_rows(x), gather_rows(labels)
            if head.mode == "rank":
                losses.append(rank_contrast(x, labels) / world)
            else:
                losses.append(symmetric_info_nce(x, self._unit(next(clip)(labels)), model.scale).mean() / world)
        return torch.stack(losses)

    def _unit(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.normalize(rows, dim=-1) if self.pairing.similarity == "cosine" else rows

    def _info_nce(
        self, x: torch.Tensor, y: torch.Tensor, references: torch.Tensor, scale: torch.Tensor, num_sessions: int
    ) -> torch.Tensor:
        x, y, references = self._unit(x), self._unit(y), self._unit(references)
        if self.pairing.negatives == "all":
            return info_nce(x, y, references, scale, self.pairing.similarity)
        chunks = zip(x.chunk(num_sessions), y.chunk(num_sessions), references.chunk(num_sessions))
        return torch.cat([info_nce(*chunk, scale, self.pairing.similarity) for chunk in chunks])

    def _draw(self, candidates: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        if not self.pairing.balance_classes:
            return draw_rows(candidates, self.pairing.batch_size, rng).ravel()
        size = self.pairing.batch_size
        return np.concatenate([draw_balanced(rows, self._classes[rows], size, rng) for rows in candidates])


def _by_session(rows: torch.Tensor, world: int, num_sessions: int) -> torch.Tensor:
    """Gathered references `(world * S * B', D)`, rank by rank, in the order of sessions."""
    return rows.reshape(world, num_sessions, -1, rows.shape[1]).transpose(0, 1).reshape(-1, rows.shape[1])
