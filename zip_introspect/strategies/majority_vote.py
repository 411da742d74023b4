"""Majority voting (self-consistency): N samples run to their ends and the most frequent answer is chosen."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from zip_introspect.config import Settings
from zip_introspect.strategies.base import MetaAction, MetaState, dropping, register
from zip_introspect.strategies.best_of_n import BestOfN
from zip_introspect.strategies.selection import Selection


class MajorityVoteOptions(Settings):
    """What majority voting takes beside the config."""

    max_length: int | None = Field(
        None,
        ge=1,
        description="Samples of so many tokens are discarded at the next decision; None keeps all.",
    )


@register
class MajorityVote(BestOfN):
    """The same samples as best-of-N; votes of extracted answers choose.

    With `max_length`, samples that grow longer are discarded: the paper's MV with length-based pruning (section 6.1).
    """

    name: ClassVar[str] = "majority_vote"
    selection: ClassVar[Selection] = "majority"
    needs_joints: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = MajorityVoteOptions
    options: MajorityVoteOptions

    def decide(self, state: MetaState) -> MetaAction:
        """All unfinished samples that are not too long, and new ones until N were started."""
        limit = self.options.max_length
        long = tuple(leaf.sample for leaf in state.leaves if limit is not None and leaf.length >= limit)
        return dropping(super().decide(state), long, f"longer than {limit} tokens")
