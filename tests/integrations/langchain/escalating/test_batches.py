from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_zip_introspect import ChatIntrospective
from tests.integrations.langchain.escalating.doubted import (
    CONFIG,
    DOUBTED,
    CountedBackend,
    introspection,
    solver,
)
from tests.scripted import FaultyBackend, freed, unchanged
from zip_introspect import (
    IntrospectiveLLM,
    PromptError,
    Rung,
)


def test_a_batch_asks_the_chat_model_about_all_inputs_together(
    chat: ChatIntrospective, backend: CountedBackend
) -> None:
    asked: list[Any] = []

    def strong(given: Any) -> str:
        asked.append(given)
        return "ans 42"

    escalating = chat.with_escalation(RunnableLambda(strong), min_confidence=1.0)
    alone = [escalating.invoke(prompt) for prompt in DOUBTED]
    one_by_one, backend.calls = backend.calls, 0
    together = escalating.batch(DOUBTED)
    assert backend.calls < one_by_one / 2
    for first, second in zip(alone, together, strict=True):
        assert first.usage_metadata == second.usage_metadata
        assert introspection(first)["answer"] == introspection(second)["answer"] == "42"
    assert len(asked) == 2 * len(DOUBTED)
    asynchronous = asyncio.run(escalating.abatch(DOUBTED, {"max_concurrency": 2}))
    assert [item.content for item in asynchronous] == [item.content for item in together]
    assert escalating.batch([]) == []


def test_one_bad_input_of_a_batch_keeps_its_error(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(solver, min_confidence=1.0)
    outputs = escalating.batch([DOUBTED[0], "", DOUBTED[1]], return_exceptions=True)
    assert [type(item) for item in outputs] == [AIMessage, PromptError, AIMessage]
    with pytest.raises(PromptError, match="empty"):
        escalating.batch([DOUBTED[0], ""])


def test_rewards_may_depend_on_the_question_in_a_batch_too(chat: ChatIntrospective) -> None:
    def reward(prompt: Any) -> float:
        return 2.0 if prompt == DOUBTED[1] else -1.0

    escalating = chat.with_escalation(Rung(solver, expected_reward=reward), expected_utility=True)
    outputs = escalating.batch(DOUBTED)
    assert [introspection(item)["escalation"] is not None for item in outputs] == [p == DOUBTED[1] for p in DOUBTED]
    assert introspection(outputs[1])["escalation"]["tokens_saved"] > 0


def test_a_cancelled_call_and_a_closed_stream_leave_nothing_running() -> None:
    backend = FaultyBackend(unchanged, pace=0.01)
    escalating = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG)).with_escalation(solver, min_confidence=1.0)

    async def cancelled() -> None:
        for work in (escalating.ainvoke(DOUBTED[0]), escalating.abatch(DOUBTED)):
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    assert freed(backend)


async def big_and_slow(given: Any) -> str:
    ASKED.append(given)
    await asyncio.sleep(2)
    return "ans 42"


ASKED: list[Any] = []


@pytest.mark.parametrize("after", [0.05, 0.6])
def test_a_cancelled_batch_asks_nobody_else_and_waits_for_nobody(after: float) -> None:
    backend = FaultyBackend(unchanged, pace=0.01)
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    escalating = chat.with_escalation(RunnableLambda(big_and_slow), min_confidence=1.0)
    ASKED.clear()

    async def cancelled() -> float:
        task = asyncio.ensure_future(escalating.abatch(DOUBTED))
        await asyncio.sleep(after)
        before = len(ASKED)
        begun = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ASKED) == before
        return time.perf_counter() - begun

    assert asyncio.run(cancelled()) < 1.0
    assert freed(backend)


def test_slow_models_are_left_behind_on_every_path(chat: ChatIntrospective) -> None:
    def slow(_: Any) -> str:
        time.sleep(3)
        return "late"

    escalating = chat.with_escalation(Rung(slow, timeout=0.1), solver, min_confidence=1.0)
    begun = time.perf_counter()
    messages = [
        escalating.invoke(DOUBTED[0]),
        asyncio.run(escalating.ainvoke(DOUBTED[0])),
        *escalating.batch(DOUBTED[:2]),
        list(escalating.stream(DOUBTED[0]))[-1],
    ]
    assert time.perf_counter() - begun < 2.5
    for message in messages:
        assert introspection(message)["escalation"]["attempts"][1]["outcome"] == "timeout"
        assert introspection(message)["answer"] == "42"


def test_a_batch_in_sync_code_asks_stronger_models_in_sync_code(chat: ChatIntrospective) -> None:
    used: list[str] = []

    async def asynchronous(_: Any) -> str:
        used.append("async")
        return "ans 42"

    def synchronous(_: Any) -> str:
        used.append("sync")
        return "ans 42"

    escalating = chat.with_escalation(RunnableLambda(synchronous, asynchronous), min_confidence=1.0)
    escalating.batch(DOUBTED[:2])
    asyncio.run(escalating.abatch(DOUBTED[:2]))
    assert used == ["sync", "sync", "async", "async"]
