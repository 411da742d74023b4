"""Cancelled calls leave nothing behind, and threads that share a model do not disturb each other."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_zip_introspect import ChatIntrospective
from tests.scripted import FaultyBackend, unchanged
from zip_introspect import GenerationConfig, IntrospectiveLLM

CONFIG = GenerationConfig(interval=1, strategy="best_of_n", max_samples=2)


async def test_a_thousand_cancelled_calls_leave_no_sequence_behind() -> None:
    backend = FaultyBackend(unchanged, at=-1, pace=0.0005)
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    expected = chat.invoke("q").text
    rng = random.Random(7)
    cancelled = within = 0
    for number in range(1000):
        begun = backend.calls
        task = asyncio.create_task(chat.ainvoke(f"question {number}"))
        while backend.calls == begun:
            await asyncio.sleep(0)
        if rng.random() < 0.2:
            await asyncio.sleep(0.002)
        within += backend.held > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled += 1
        assert backend.held == 0
    assert cancelled == 1000
    assert within > 900
    assert (await chat.ainvoke("q")).text == expected


async def test_cancelling_many_at_once_leaves_nothing_behind() -> None:
    backend = FaultyBackend(unchanged, at=-1, pace=0.002)
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    tasks = [asyncio.create_task(chat.ainvoke(f"question {number}")) for number in range(30)]
    while not backend.calls:
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert backend.held == 0


@pytest.mark.parametrize("backend", ["transformers", "llama-cpp"])
def test_threads_that_share_a_model_say_what_each_would_alone(backend: str) -> None:
    options: dict[str, Any] = {}
    if backend == "llama-cpp":
        pytest.importorskip("llama_cpp")
        options = {"threads": 1}
    chat = ChatIntrospective(model="demo", backend=backend, backend_options=options, max_samples=2, max_tokens=60)
    prompts = [f"Solve {a}*x+16={a * 5 + 16}" for a in range(2, 6)]

    def ask(prompt: str) -> str:
        streamed = "".join(str(chunk.content) for chunk in chat.stream(prompt, max_samples=1, stream_interval=4))
        return f"{chat.invoke(prompt).text} / {streamed}"

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(ask, prompts)) == alone
