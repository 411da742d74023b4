"""Pass@k: the oracle's bound. An evaluation counts it as right where any of its samples is."""

from __future__ import annotations

from typing import ClassVar

from zip_introspect.strategies.base import register
from zip_introspect.strategies.best_of_n import BestOfN


@register
class PassAtK(BestOfN):
    """The samples of best-of-N. The choice is left to an oracle that knows the right answer, so it is a bound, not a
    method; outside of evaluations the sample of the highest value is given.
    """

    name: ClassVar[str] = "pass_at_k"
    needs_joints: ClassVar[bool] = False
    oracle: ClassVar[bool] = True
