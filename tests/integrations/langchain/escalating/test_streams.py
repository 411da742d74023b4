from __future__ import annotations

import asyncio
import operator
from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph

from langchain_zip_introspect import ChatIntrospective
from tests.integrations.langchain.escalating.doubted import (
    CONFIG,
    DOUBTED,
    big,
    introspection,
    solver,
)
from tests.scripted import FaultyBackend, freed, unchanged
from zip_introspect import (
    IntrospectiveLLM,
    Rung,
)


def test_streams_hand_out_a_stronger_models_chunks_as_they_come(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(Rung(big(), expected_reward=0.9), min_confidence=1.0)

    async def collected() -> list[AIMessageChunk]:
        return [chunk async for chunk in escalating.astream(DOUBTED[0])]

    for chunks in (list(escalating.stream(DOUBTED[0])), asyncio.run(collected())):
        assert len([chunk for chunk in chunks if chunk.content]) > 3
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole = whole + chunk
        assert whole.content == "the answer is 42"
        assert [chunk.chunk_position for chunk in chunks if chunk.chunk_position] == ["last"]
        assert whole.usage_metadata == escalating.invoke(DOUBTED[0]).usage_metadata
        assert introspection(whole)["escalation"]["attempts"][1]["answer"] == "42"
    sure = list(chat.with_escalation(solver, min_confidence=0.0).stream(DOUBTED[0]))
    assert [chunk.content for chunk in sure if chunk.content] == [chat.invoke(DOUBTED[0]).content]


def test_a_stream_that_breaks_before_its_text_is_passed_over_and_after_it_is_not(chat: ChatIntrospective) -> None:
    def early(_: Iterator[Any]) -> Iterator[str]:
        raise ConnectionError("dead")
        yield ""

    def late(_: Iterator[Any]) -> Iterator[str]:
        yield "half an "
        raise ConnectionError("dead")

    passed = chat.with_escalation(RunnableGenerator(early), solver, min_confidence=1.0)
    assert "".join(chunk.text for chunk in passed.stream(DOUBTED[0])) == "ans 42"
    broken = chat.with_escalation(RunnableGenerator(late), solver, min_confidence=1.0).stream(DOUBTED[0])
    assert next(broken).text == "half an "
    with pytest.raises(ConnectionError):
        next(broken)


def test_streamed_tool_calls_and_reasoning_of_a_stronger_model_come_once(chat: ChatIntrospective) -> None:
    def calling(_: Iterator[Any]) -> Iterator[AIMessageChunk]:
        yield AIMessageChunk(content=[{"type": "reasoning", "reasoning": "hm", "index": 0}])
        yield AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name="add", args="", id="1", index=0)])
        yield AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(args='{"a": 1}', index=0)])

    escalating = chat.with_escalation(RunnableGenerator(calling), min_confidence=1.0)
    whole: AIMessageChunk = reduce(operator.add, escalating.stream(DOUBTED[0]))
    at_once = escalating.invoke(DOUBTED[0])
    assert whole.content == at_once.content == [{"type": "reasoning", "reasoning": "hm", "index": 0}]
    assert whole.tool_calls == at_once.tool_calls == [{"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}]


def test_events_say_when_a_question_is_handed_on(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(RunnableLambda(solver, name="solver"), min_confidence=1.0)

    async def collected() -> list[Any]:
        return [event async for event in escalating.astream_events(DOUBTED[0], version="v2")]

    events = asyncio.run(collected())
    kinds = [event["data"]["kind"] for event in events if event["event"] == "on_custom_event"]
    assert kinds[0] == "started"
    assert kinds[-1] == "handed_on"
    started = [event["name"] for event in events if event["event"].endswith("_start")]
    assert started == ["EscalatingChat", "ChatIntrospective", "solver"]


def test_streams_that_are_closed_leave_nothing_behind() -> None:
    backend = FaultyBackend(unchanged, pace=0.002)
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    escalating = chat.with_escalation(big(), min_confidence=1.0)
    stream = escalating.stream(DOUBTED[0])
    assert next(stream).text
    stream.close()  # type: ignore[attr-defined]

    async def left() -> None:
        chunks = escalating.astream(DOUBTED[0])
        assert (await anext(chunks)).text
        await chunks.aclose()  # type: ignore[attr-defined]

    asyncio.run(left())
    assert freed(backend)


def test_streamed_usage_adds_up_whoever_is_asked_first(chat: ChatIntrospective) -> None:
    def counted(_: Iterator[Any]) -> Iterator[AIMessageChunk]:
        usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
        yield from (AIMessageChunk(content="ans "), AIMessageChunk(content="42", usage_metadata=usage))

    def dead(_: Iterator[Any]) -> Iterator[AIMessageChunk]:
        usage = {"input_tokens": 100, "output_tokens": 1, "total_tokens": 101}
        yield AIMessageChunk(content="", usage_metadata=usage)
        raise ConnectionError("dead")

    better = Rung(RunnableGenerator(dead), expected_reward=0.99)
    escalating = chat.with_escalation(
        Rung(RunnableGenerator(counted), expected_reward=0.9), better, expected_utility=True
    )
    whole = None
    for chunk in escalating.stream(DOUBTED[0]):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    found = introspection(whole)
    assert [item["outcome"] for item in found["escalation"]["attempts"]][1:] == ["failed", "accepted"]
    told = [item["usage"] for item in found["escalation"]["attempts"]]
    assert told[2]["prompt_tokens"] == 7
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] == sum(item["prompt_tokens"] for item in told)
    assert whole.usage_metadata["output_tokens"] == sum(item["generated_tokens"] for item in told)


def test_a_graph_does_not_stream_what_is_still_to_be_judged(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(big(), min_confidence=1.0)

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [escalating.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    given = {"messages": [HumanMessage(DOUBTED[0])]}
    shown = [message.text for message, _ in graph.stream(given, stream_mode="messages")]  # type: ignore[call-overload]
    assert "".join(shown).startswith("the answer is 42")
    assert chat.invoke(DOUBTED[0]).text not in "".join(shown)
