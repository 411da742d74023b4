"""Beam search over values: at every interval the weakest prefixes give way to branches of the strongest."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from zip_introspect.config import Settings
from zip_introspect.strategies.base import Leaf, MetaAction, MetaState, Strategy, all_finished, register
from zip_introspect.strategies.selection import Selection


class BeamSearchOptions(Settings):
    """What beam search takes beside the config, whose `interval` is the number of tokens between two prunings."""

    width: int = Field(4, ge=1, description="Unfinished prefixes kept at once.")
    drop: int = Field(2, ge=0, description="Prefixes dropped, and branched anew, at every interval.")

    @model_validator(mode="after")
    def _consistent(self) -> BeamSearchOptions:
        if self.drop >= self.width:
            raise ValueError(f"drop={self.drop} leaves nothing of a width of {self.width}")
        return self


@register
class BeamSearch(Strategy):
    """`width` samples; at every interval the `drop` of the lowest expected reward (eq. 8) are dropped, and as many of
    the highest are branched at their ends, each once. A finished sample gives its place up; the best finished one is
    chosen.
    """

    name: ClassVar[str] = "beam_search"
    selection: ClassVar[Selection] = "value"
    needs_forks: ClassVar[bool] = True
    Options: ClassVar[type[Settings]] = BeamSearchOptions
    options: BeamSearchOptions

    def decide(self, state: MetaState) -> MetaAction:
        """The beam for the next interval."""
        if not state.started:
            new = min(self.options.width, state.room)
            return MetaAction(new=new, reason=f"a beam of {new} begins")
        if not state.leaves:
            return all_finished(len(state.finished))
        ranked = sorted(state.leaves, key=_promise)
        turns = min(self.options.drop, len(ranked) // 2, state.room)
        kept, weak = ranked[: len(ranked) - turns], ranked[len(ranked) - turns :]
        return MetaAction(
            run=tuple(leaf.sample for leaf in kept),
            forks=tuple((leaf.sample, 1) for leaf in kept[:turns]),
            drop=tuple(leaf.sample for leaf in weak),
            reason=f"{turns} of {len(ranked)} prefixes give way to copies of the most promising",
        )

    def samples_at_most(self) -> int:
        """Branches count as samples: as many as intervals allow."""
        intervals = -(-self.config.max_new_tokens // self.config.interval)
        return self.options.width + self.options.drop * intervals

    def samples_at_once(self) -> int:
        """The beam, and its branches before what they replace is released."""
        return self.options.width + self.options.drop


def _promise(leaf: Leaf) -> tuple[float, float, int]:
    return -leaf.value, leaf.remaining, leaf.sample
