"""One way in which a score is not of what it claims to be, with its number and cure; finds none (`eval.leakage`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from eval.adapted import ProvenanceError

CURES = {
    "animal on both sides": "hold the animal out of pretraining, or score another one",
    "animal spelled in two ways": "give one spelling in the recipe, then split by animal again",
    "session named after an animal of the other side": "if it is that animal, mend `subject_id`; else ignore this",
    "recording on both sides": "one recording under two names: take it out of pretraining or out of the evaluation",
    "trial clock on both sides": "two recordings of one session (another probe, another sorting): keep them together",
    "test trials in adaptation": "adapt again with the roles of the split that is scored",
    "trial in two roles": "a trial that is stored twice: drop the copy in the recipe, and prepare again",
    "twin units": "leave the twins of a held-out unit out of the inputs, also those shifted by some bins",
    "statistic of test rows": "fit means and standard deviations on train rows of pretraining sessions only",
    "covariate gives the target away": "hide it where this target is decoded, or mend how the recipe makes it",
    "covariate knows the next trial": "it is filled from the future: shift it in the recipe, or hide it",
    "covariate tells in test trials only": "made differently in train and test trials: mend the recipe, or drop it",
    "region table differs from the corpus": "read regions by `unit_id` from the corpus, in no other order",
    "region table without order": "labels lie along the probe as at random: join them to units by id, not by row",
    "prediction is that of another": "one file under two names: write the model's own predictions",
    "prediction is the test data": "the target reached the model's inputs: check what is hidden at test time",
}


class LeakageError(ProvenanceError):
    """Leaks that forbid a score; the message lists all of them."""


@dataclass(frozen=True)
class Leak:
    """A finding of the leakage detector.

    Attributes:
        what: A key of `CURES`.
        where: Recordings, covariates or units, in words.
        number: What was measured.
        threshold: What it was measured against.
        cure: What to do.
        decided: False where the data cannot tell: `number` then is what there was, `threshold` what it takes.
    """

    what: str
    where: str
    number: float
    threshold: float
    cure: str
    decided: bool = True

    @classmethod
    def of(cls, what: str, where: str, number: float, threshold: float) -> Leak:
        """A leak, with its cure from `CURES`."""
        return cls(what, where, float(number), float(threshold), CURES[what])

    @classmethod
    def undecided(cls, what: str, where: str, number: float, needed: float) -> Leak:
        """A check that could not be made; `where` says why."""
        return cls(what, where, float(number), float(needed), CURES[what], decided=False)

    def __str__(self) -> str:
        sign = "" if self.decided else "undecided: "
        return f"{sign}{self.what}: {self.where} ({self.number:.4g}, threshold {self.threshold:.4g}). {self.cure}"


def refuse(leaks: Iterable[Leak]) -> None:
    """Raise with every leak that is certain; what is undecided passes.

    Raises:
        LeakageError: There is one.
    """
    if sure := [str(leak) for leak in leaks if leak.decided]:
        raise LeakageError("\n  ".join([f"{len(sure)} leak{'s' if len(sure) > 1 else ''}:", *sure]))
