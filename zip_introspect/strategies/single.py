"""One sample, run to its end: plain decoding, seen through the same loop."""

from __future__ import annotations

from typing import ClassVar

from zip_introspect.strategies.base import register
from zip_introspect.strategies.best_of_n import BestOfN


@register
class Single(BestOfN):
    """Best-of-1, whatever `max_samples` says."""

    name: ClassVar[str] = "single"
    needs_joints: ClassVar[bool] = False

    def samples_at_most(self) -> int:
        """One."""
        return 1
