"""What came of each prompt of a batch, and what was asked of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zip_introspect.errors import ConfigError, NonFiniteLogitsError, ZipIntrospectError
from zip_introspect.result import GenerationResult

Outcome = GenerationResult | ZipIntrospectError


def raise_first(outcomes: Sequence[Outcome]) -> None:
    """Raise the first error, with what all prompts have where it carries partial results."""
    error = next((outcome for outcome in outcomes if isinstance(outcome, ZipIntrospectError)), None)
    if isinstance(error, NonFiniteLogitsError):
        partial: list[GenerationResult] = []
        for outcome in outcomes:
            if isinstance(outcome, GenerationResult):
                partial.append(outcome)
            elif isinstance(outcome, NonFiniteLogitsError):
                partial.extend(outcome.partial)
        error.partial = partial
    if error is not None:
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


def merge(outcomes: Sequence[Outcome], places: list[int], errors: dict[int, ZipIntrospectError]) -> list[Any]:
    """Outcomes and the errors of prompts that never ran, in order."""
    merged: dict[int, Any] = {**errors, **dict(zip(places, outcomes, strict=True))}
    return [merged[place] for place in sorted(merged)]
