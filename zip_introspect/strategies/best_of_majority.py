"""Best-of-Majority (Di et al., 2025, arXiv 2510.03199): frequency first, then reward; one answer, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from zip_introspect.answers.extraction import key
from zip_introspect.config import Settings
from zip_introspect.strategies.base import Finished, Verdict, register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.selection import Selection


class BestOfMajorityOptions(Settings):
    """What Best-of-Majority takes beside the config."""

    share: float = Field(0.25, ge=0.0, le=1.0, description="Of the samples, that an answer needs to be a candidate.")
    answers: int = Field(1, ge=1, description="Different answers given, at most, the best first: the k of pass@k.")


@register
class BestOfMajority(BestOfN):
    """The same samples as best-of-N; of the answers that a share of them give, those of the highest value are chosen.

    An answer's value is that of its best sample. Samples that were cut, or have no answer, give none; where no answer
    has its share, the most frequent ones are the candidates. With `answers` above 1 it is the paper's pass@k form: the
    result's `submitted` names a sample of each answer, and an evaluation counts it right where one of them is. It knows
    no right answer, as `pass_at_k` does, but has several guesses. The paper derives the share from how well the model
    covers right answers; here it is given.
    """

    name: ClassVar[str] = "best_of_majority"
    selection: ClassVar[Selection] = "value"
    Options: ClassVar[type[Settings]] = BestOfMajorityOptions
    options: BestOfMajorityOptions

    def verdict(self, finished: Sequence[Finished]) -> Verdict | None:
        """The best samples of the best answers; None where no sample has an answer."""
        given: dict[str, list[Finished]] = {}
        for sample in finished:
            if sample.complete and sample.answer is not None:
                given.setdefault(key(sample.answer), []).append(sample)
        if not given:
            return None
        # Compared as products: a share such as 0.3 is no float.
        least = min(self.options.share * len(finished), max(map(len, given.values()))) - 1e-9
        best = [max(samples, key=_by_value) for samples in given.values() if len(samples) >= least]
        first, *others = sorted(best, key=_by_value, reverse=True)[: self.options.answers]
        return Verdict(first.sample, first.value, "head", tuple(sample.sample for sample in others))


def _by_value(sample: Finished) -> tuple[float, int]:
    return sample.value, -sample.sample
