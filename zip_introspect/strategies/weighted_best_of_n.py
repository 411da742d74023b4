"""Weighted best-of-N: samples vote for their answers, each with a score (Li et al., 2023; section 6.1)."""

from __future__ import annotations

from typing import ClassVar

from zip_introspect.selection import Selection
from zip_introspect.strategies.base import register
from zip_introspect.strategies.best_of_n import BestOfN


@register
class WeightedBestOfN(BestOfN):
    """The same samples as best-of-N; the answer with the largest sum of scores is chosen.

    The score is the one of the `scorer` that the model was given: an external reward model or the generator's own
    judgement, whose forward passes count in the cost. Without one it is the sample's final value, which is free.
    """

    name: ClassVar[str] = "weighted_best_of_n"
    selection: ClassVar[Selection] = "weighted_majority"
