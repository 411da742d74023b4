"""Weighted best-of-N: samples vote for their answers, each with a score (Li et al., 2023; section 6.1)."""

from __future__ import annotations

from typing import ClassVar

from zip_introspect.strategies.base import register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.selection import Selection


@register
class WeightedBestOfN(BestOfN):
    """The same samples as best-of-N; the answer with the largest sum of scores is chosen.

    A sample's score is its final value, which costs nothing. Evaluations can replay it with stored scores of an
    external reward model or of the model as its own judge, whose forward passes count in the cost.
    """

    name: ClassVar[str] = "weighted_best_of_n"
    selection: ClassVar[Selection] = "weighted_majority"
