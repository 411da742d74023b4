"""Cancelled calls leave nothing behind, and threads that share a model do not disturb each other."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langchain_zip_introspect import ChatIntrospective
from tests.scripted import GatedBackend, freed
from zip_introspect import GenerationConfig, IntrospectiveLLM
from zip_introspect.backend.exporting import exporter
from zip_introspect.demo.embedded import DEMO_MODEL

CONFIG = GenerationConfig(interval=1, strategy="best_of_n", max_samples=2, seed=0)


async def test_a_thousand_cancelled_calls_leave_no_sequence_behind() -> None:
    backend = GatedBackend()
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    backend.gate.set()
    expected = chat.invoke("q").text
    rng = random.Random(7)
    for number in range(1000):
        backend.close_gate(after=rng.randrange(4))
        task = asyncio.create_task(chat.ainvoke(f"question {number}"))
        while not backend.reached.is_set():
            await asyncio.sleep(0)
        assert backend.held > 0
        task.cancel()
        backend.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert freed(backend)
    assert (await chat.ainvoke("q")).text == expected


async def test_cancelling_many_at_once_leaves_nothing_behind() -> None:
    backend = GatedBackend()
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    tasks = [asyncio.create_task(chat.ainvoke(f"question {number}")) for number in range(30)]
    while not backend.reached.is_set():
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    backend.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert freed(backend)


@pytest.mark.parametrize("backend", ["transformers", "llama-cpp"])
def test_threads_that_share_a_model_say_what_each_would_alone(backend: str, tmp_path: Path) -> None:
    model, options = "demo", dict[str, Any]()
    if backend == "llama-cpp":
        pytest.importorskip("llama_cpp")
        # In f32: sums over cells are rounded in their order, which depends on who else is there, and quantised weights
        # turn that into other tokens in a few of a hundred texts.
        model, options = str(tmp_path / "abacus.gguf"), {"threads": 1}
        exporter("gguf").export(DEMO_MODEL, Path(model), "f32")
    chat = ChatIntrospective(
        model=model, backend=backend, backend_options=options, max_samples=2, max_tokens=60, seed=0
    )
    prompts = [f"Solve {a}*x+16={a * 5 + 16}" for a in range(2, 6)]

    def ask(prompt: str) -> str:
        streamed = "".join(str(chunk.content) for chunk in chat.stream(prompt, max_samples=1, stream_interval=4))
        return f"{chat.invoke(prompt).text} / {streamed}"

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(ask, prompts)) == alone
