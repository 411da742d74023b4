"""Nothing of ours waits in the event loop's default executor, which name resolution and file access need."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, strategy="best_of_n", max_samples=2, seed=0)
CALLS = 50


@pytest.mark.parametrize("kind", [ChatIntrospective, TextIntrospective, IntrospectiveRunnable])
@pytest.mark.parametrize("way", ["ainvoke", "astream", "abatch"])
def test_calls_end_while_the_default_executor_is_blocked(kind: type[Any], way: str) -> None:
    runnable = kind(llm=IntrospectiveLLM(SimulatedBackend(), CONFIG))
    gate = threading.Event()

    async def ask(number: int) -> None:
        if way == "astream":
            async for _ in runnable.astream(f"question {number}"):
                pass
        elif way == "abatch":
            await runnable.abatch([f"question {number}", "another"])
        else:
            await runnable.ainvoke(f"question {number}")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        blocked = loop.run_in_executor(None, gate.wait)
        try:
            await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(CALLS))), 60)
        finally:
            gate.set()
            await blocked

    asyncio.run(main())
