"""Searches of the simulated world, as tests run and compare them."""

from __future__ import annotations

from collections.abc import Sequence

from zip_introspect.backend.contract import Backend
from zip_introspect.budget import Budget
from zip_introspect.config import GenerationConfig
from zip_introspect.events import SearchFailed, SearchFinished
from zip_introspect.result import GenerationResult
from zip_introspect.search import engine
from zip_introspect.search.request import Request


def request(text: str = "a problem", budget: Budget | None = None, **config: object) -> Request:
    settings = GenerationConfig(**{"interval": 4, "beta": 0.05, **config})
    return Request(tuple(text.encode()), settings, budget or Budget())


def results(backend: Backend, requests: Sequence[Request], **options: int) -> list[GenerationResult]:
    found: dict[int, GenerationResult] = {}
    for event in engine.run(backend, requests, **options):  # type: ignore[arg-type]
        if isinstance(event, SearchFailed):
            raise event.error
        if isinstance(event, SearchFinished):
            found[event.prompt] = event.result
    return [found[place] for place in range(len(requests))]


def untimed(result: GenerationResult) -> dict[str, object]:
    data = result.to_dict()
    del data["usage"]["seconds"]
    return data
