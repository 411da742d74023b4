"""A chat model's questions that it is never sure of, and models to hand them on to."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from zip_introspect import (
    GenerationConfig,
    IntrospectiveLLM,
)
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, max_samples=4, seed=0)


EVERY: list[Any] = [f"question {number}" for number in range(60)]


with IntrospectiveLLM(SimulatedBackend(), CONFIG) as _llm:
    DOUBTED: list[Any] = [p for p, result in zip(EVERY, _llm.batch(EVERY), strict=True) if 0 < result.confidence < 1.0][
        :6
    ]


"""Some that the simulated model answers, though never surely."""


class CountedBackend(SimulatedBackend):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def advance(self, *args: Any) -> Any:
        self.calls += 1
        return super().advance(*args)


class Runs(BaseTracer):
    """Keeps the trees of runs."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


def solver(_: Any) -> str:
    return "ans 42"


def big() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("the answer is 42")] * 50))


def introspection(message: AIMessage) -> dict[str, Any]:
    found = message.response_metadata["introspection"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return dict(found)
