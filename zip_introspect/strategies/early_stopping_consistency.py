"""Early-stopping self-consistency (Li et al., 2024, arXiv 2401.10480): samples in windows, until a window agrees."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from zip_introspect.answers.extraction import key
from zip_introspect.config import Settings
from zip_introspect.strategies.base import Finished, MetaAction, MetaState, Strategy, all_finished, register
from zip_introspect.strategies.selection import Selection


class EarlyStoppingOptions(Settings):
    """What early stopping takes beside the config."""

    window: int = Field(5, ge=2, description="Samples that have to agree.")


@register
class EarlyStoppingConsistency(Strategy):
    """Samples are drawn `window` at a time, until all of a window have the same answer or `max_samples` are drawn; the
    votes of all choose.

    It needs no joints. The next window begins once the last one cannot agree any more, since it will be drawn in any
    case: the samples are those of one window after another, in fewer serial steps. A sample without an answer agrees
    with none; where a whole window has none, nor any before it, the question is none that votes can settle.
    """

    name: ClassVar[str] = "early_stopping_consistency"
    selection: ClassVar[Selection] = "majority"
    needs_joints: ClassVar[bool] = False
    Options: ClassVar[type[Settings]] = EarlyStoppingOptions
    options: EarlyStoppingOptions

    def decide(self, state: MetaState) -> MetaAction:
        """All unfinished samples, and the next window once it is sure to be drawn."""
        width, started = self.options.window, state.started
        begun = max(0, started - 1) // width * width
        last = [sample for sample in state.finished if sample.sample >= begun]
        said = {_answer(sample) for sample in last}
        voted = any(_answer(sample) is not None for sample in state.finished)
        run = tuple(leaf.sample for leaf in state.leaves)
        silent = None in said and not voted and all(sample.complete for sample in last)
        if len(last) == width and not run:
            if len(said) == 1 and None not in said:
                return MetaAction(stop="finished", reason=f"all {width} samples of a window agree")
            if silent:
                return MetaAction(stop="finished", reason=f"none of {started} samples has an answer to vote for")
        divided = len(said) > 1 or (None in said and not silent)
        until = min(begun + (2 if divided else 1) * width, self.samples_at_most())
        new = max(0, min(until - started, state.room))
        if not run and not new:
            return all_finished(started)
        return MetaAction(run=run, new=new, reason=f"no window of {width} has agreed yet, of {started} samples")

    def samples_at_once(self) -> int:
        """A window, and what is left of those before it."""
        return min(self.samples_at_most(), 2 * self.options.window)


def _answer(sample: Finished) -> str | None:
    """What it votes for."""
    return key(sample.answer) if sample.complete and sample.answer is not None else None
