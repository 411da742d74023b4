"""Whether a question is left at its prompt, before a token of it is paid for."""

from __future__ import annotations

from zip_introspect.result import StopReason
from zip_introspect.search.request import Request
from zip_introspect.strategies import MetaAction, MetaState


def begun(action: MetaAction, state: MetaState, request: Request, longest: int) -> MetaAction:
    """What a strategy begins with, unless the joint at the prompt says to leave.

    Args:
        longest: tokens that a sample may take.
    """
    below = request.hand_on.below if request.hand_on else None
    if below is not None and state.root_value < below:
        reason = f"{state.root_value:.3f} is expected at the prompt, below {below:g}"
        return _leave("handed_on", reason, action, state)
    share = request.budget.max_expected_share
    whole = longest if state.tokens_left is None else state.tokens_left
    if share is not None and state.root_remaining > share * whole:
        reason = (
            f"one sample is expected to take {state.root_remaining:.0f} tokens, more than a share of {share:g} of "
            f"{'a sample' if state.tokens_left is None else 'the budget'}'s {whole}"
        )
        return _leave("budget" if request.hand_on is None else "handed_on", reason, action, state)
    return action


def _leave(stop: StopReason, reason: str, action: MetaAction, state: MetaState) -> MetaAction:
    """The end, in place of what the strategy would have begun with."""
    one_each = state.root_remaining * action.new
    saved = action.utility.expected_compute if action.utility else one_each
    return MetaAction(stop=stop, reason=reason, utility=action.utility, tokens_saved=saved)
