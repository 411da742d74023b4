"""Best-of-N: N samples run to their ends and the one with the highest value is chosen (eq. 1)."""

from __future__ import annotations

from typing import ClassVar

from zip_introspect.strategies.base import MetaAction, MetaState, Strategy, all_finished, register
from zip_introspect.strategies.selection import Selection


@register
class BestOfN(Strategy):
    """Starts `max_samples` samples at once and continues every one until it ends."""

    name: ClassVar[str] = "best_of_n"
    selection: ClassVar[Selection] = "value"

    def decide(self, state: MetaState) -> MetaAction:
        """All unfinished samples, and new ones until N were started."""
        new = max(0, min(self.samples_at_most() - state.started, state.room))
        run = tuple(leaf.sample for leaf in state.leaves)
        if not run and not new:
            return all_finished(state.started)
        return MetaAction(run=run, new=new, reason=f"{self.samples_at_most()} samples run to their ends")
