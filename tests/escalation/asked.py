"""Questions, and models that ladders ask in tests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from zip_introspect import EscalationPolicy, GenerationConfig, IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, max_samples=4)
NEVER_SURE = EscalationPolicy(min_confidence=1.0)
EVERY = [f"question {number}" for number in range(200)]
with IntrospectiveLLM(SimulatedBackend(), CONFIG) as _llm:
    PROMPTS = [prompt for prompt, result in zip(EVERY, _llm.batch(EVERY), strict=True) if 0 < result.confidence < 1.0][
        :12
    ]
"""Some that the simulated model answers, though never surely."""


def strong(prompt: Any) -> str:
    return "ans 42"


async def astrong(prompt: Any) -> str:
    await asyncio.sleep(0)
    return "ans 42"


def broken(prompt: Any) -> str:
    raise ConnectionError("the line is dead")


def nothing(prompt: Any) -> str:
    return str(next(iter([])))


def endless(prompt: Any) -> str:
    time.sleep(30)
    return "too late"


class Invoked:
    """What a ladder sees of a LangChain Runnable."""

    name = "runnable"

    def __init__(self) -> None:
        self.asked = self.running = self.most = 0

    def invoke(self, prompt: Any) -> str:
        return strong(prompt)

    async def ainvoke(self, prompt: Any) -> str:
        self.asked, self.running = self.asked + 1, self.running + 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.05)
        self.running -= 1
        if prompt == PROMPTS[1]:
            raise ValueError("not this one")
        return strong(prompt)
