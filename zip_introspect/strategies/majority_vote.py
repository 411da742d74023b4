"""Majority voting (self-consistency): N samples run to their ends and the most frequent answer is chosen."""

from __future__ import annotations

from typing import ClassVar

from zip_introspect.selection import Selection
from zip_introspect.strategies.base import register
from zip_introspect.strategies.best_of_n import BestOfN


@register
class MajorityVote(BestOfN):
    """The same samples as best-of-N; votes of extracted answers choose."""

    name: ClassVar[str] = "majority_vote"
    selection: ClassVar[Selection] = "majority"
