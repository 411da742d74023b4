"""What came of each prompt of a batch, of one that never ran too, and what was asked of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zip_introspect.errors import BackendError, BudgetError, ConfigError, PromptError
from zip_introspect.introspection.grid import JointGrid, lowest_reward
from zip_introspect.result import GenerationResult, Outlook, StopReason, Usage
from zip_introspect.search.request import Checked, Preparation


def raise_first(outcomes: Sequence[GenerationResult | BaseException]) -> None:
    """Raise the first error, with what all prompts have where it carries partial results."""
    error = next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)
    if isinstance(error, BackendError):
        partial: list[GenerationResult] = []
        for outcome in outcomes:
            if isinstance(outcome, GenerationResult):
                partial.append(outcome)
            elif isinstance(outcome, BackendError):
                partial.extend(outcome.partial)
        error.partial = partial
    if error is not None:
        raise error


def of_prompt(place: int, prepare: Callable[[], Checked], all_of_it: Sequence[Preparation]) -> Checked:
    """A request of a batch that begins only as a whole; an error of its prompt or budget says which prompt it was."""
    try:
        return prepare()
    except BaseException as error:
        for each in all_of_it:
            each.withdraw()
        if isinstance(error, PromptError | BudgetError):
            raise type(error)(f"prompt {place}: {error}") from None
        raise


def refuse(error: Exception) -> Checked:
    """What prepares a prompt of a batch that was refused before."""
    raise error


def one_each(given: Any, count: int, name: str) -> list[Any]:
    """A setting for each prompt, from one for all or a list.

    Raises:
        ConfigError: a list of another length.
    """
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        raise ConfigError(
            f"{name} is a list of {len(given)} for {count} prompts; expected one for each, or one for all"
        )
    return given


def nothing(checked: Checked, grid: JointGrid | None, stop: StopReason, detail: str) -> GenerationResult:
    """What there is of a prompt that ended before its first token."""
    request, strategy, ledger = checked.request, checked.strategy, checked.ledger
    source = request.config.confidence_source or ("head" if grid else "agreement")
    cost = ledger.cost if ledger.begun or ledger.cost is None else 0.0  # a prompt that is not computed costs nothing
    lowest = lowest_reward(grid if source == "head" else None)
    return GenerationResult(
        text="",
        answer=None,
        confidence=lowest,
        finish_reason="budget" if stop == "budget" else "error",
        usage=Usage(len(request.tokens), 0, 0, 0, ledger.seconds, cost),
        decisions=(),
        samples=(),
        chosen=None,
        stop_reason=stop,
        stop_detail=detail,
        expected=Outlook(lowest_reward(grid), 0.0) if grid else None,
        strategy=strategy.name,
        selection=request.config.selection or strategy.selection,
        seed=request.config.sampling.seed,
        confidence_source=source,
        warnings=checked.warnings,
    )
