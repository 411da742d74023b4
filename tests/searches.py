"""Searches of the simulated world, as tests run and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zip_introspect.backend.contract import Backend
from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig
from zip_introspect.events import SearchFailed, SearchFinished
from zip_introspect.result import GenerationResult
from zip_introspect.search import continuous_batch
from zip_introspect.search.request import Checked, Request


def request(text: str = "a problem", budget: Budget | None = None, **config: Any) -> Request:
    settings = GenerationConfig(**{"interval": 4, "beta": 0.05, **config})
    return Request(tuple(text.encode()), settings, budget or Budget())


def outcomes(
    backend: Backend, requests: Sequence[Request | Checked], **options: Any
) -> list[GenerationResult | BaseException]:
    """What became of each request: a result or an error."""
    found: dict[int, GenerationResult | BaseException] = {}
    for event in continuous_batch.run(backend, requests, **options):
        if isinstance(event, SearchFailed):
            found[event.prompt] = event.error
        if isinstance(event, SearchFinished):
            found[event.prompt] = event.result
    return [found[place] for place in range(len(requests))]


def results(backend: Backend, requests: Sequence[Request | Checked], **options: Any) -> list[GenerationResult]:
    found: list[GenerationResult] = []
    for outcome in outcomes(backend, requests, **options):
        if isinstance(outcome, Exception):
            raise outcome
        found.append(outcome)  # type: ignore[arg-type]
    return found


def untimed(result: GenerationResult) -> dict[str, Any]:
    data = result.to_dict()
    del data["usage"]["seconds"]
    return data
