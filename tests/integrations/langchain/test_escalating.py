"""chat.with_escalation: the ladder's decisions (tests/test_ladder.py has them all) as a Runnable among Runnables."""

from __future__ import annotations

import asyncio
import json
import operator
import pickle
import time
from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import ValidationError

from langchain_zip_introspect import ChatIntrospective, EscalatingChat
from tests.scripted import FaultyBackend, freed, unchanged
from zip_introspect import (
    Budget,
    BudgetError,
    ConfigError,
    EscalationError,
    EscalationPolicy,
    GenerationConfig,
    IntrospectiveLLM,
    PromptError,
    Rung,
)
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, max_samples=4, seed=0)
EVERY = [f"question {number}" for number in range(60)]
with IntrospectiveLLM(SimulatedBackend(), CONFIG) as _llm:
    DOUBTED = [p for p, result in zip(EVERY, _llm.batch(EVERY), strict=True) if 0 < result.confidence < 1.0][:6]
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


@pytest.fixture
def backend() -> CountedBackend:
    return CountedBackend()


@pytest.fixture
def chat(backend: CountedBackend) -> ChatIntrospective:
    return ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))


def solver(_: Any) -> str:
    return "ans 42"


def big() -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage("the answer is 42")] * 50))


def introspection(message: AIMessage) -> dict[str, Any]:
    found = message.response_metadata["introspection"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return dict(found)


def test_sure_answers_are_the_chat_models_own(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(solver, min_confidence=0.0)
    assert isinstance(escalating, EscalatingChat)
    for prompt in DOUBTED:
        own, same = chat.invoke(prompt), escalating.invoke(prompt)
        assert own.content == same.content
        assert own.usage_metadata == same.usage_metadata
        assert introspection(same)["escalation"] is None
        assert introspection(same)["samples"] == introspection(own)["samples"]


@pytest.mark.parametrize("stronger", [solver, RunnableLambda(solver), big(), big() | StrOutputParser()])
def test_doubtful_ones_go_to_a_stronger_runnable(chat: ChatIntrospective, stronger: Any) -> None:
    escalating = chat.with_escalation(Rung(stronger, name="strong", expected_reward=0.9), min_confidence=1.0)
    own = introspection(chat.invoke(DOUBTED[0]))
    for message in (escalating.invoke(DOUBTED[0]), asyncio.run(escalating.ainvoke(DOUBTED[0]))):
        found = introspection(message)
        assert (found["answer"], found["confidence"], found["finish_reason"]) == ("42", 0.9, "stop")
        assert found["expected_confidence"] == own["expected_confidence"]
        assert found["escalation"]["target"] == "strong"
        assert [item["outcome"] for item in found["escalation"]["attempts"]] == ["doubtful", "accepted"]
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] == sum(item["tokens"] for item in own["samples"])


def test_an_introspective_model_may_be_the_stronger_one(chat: ChatIntrospective) -> None:
    with IntrospectiveLLM.demo() as llm:
        for stronger in (llm, ChatIntrospective(llm=llm, seed=3)):
            message = chat.with_escalation(stronger, min_confidence=0.95).invoke("Solve 3*x+16=31")
            found = introspection(message)
            assert found["answer"] == "5"
            assert found["confidence"] >= 0.95
            assert found["escalation"]["attempts"][1]["confidence"] == found["confidence"]
            assert found["samples"]


def test_it_composes_binds_and_is_traced_with_a_run_for_every_model(chat: ChatIntrospective) -> None:
    prompt = ChatPromptTemplate.from_template("{question}")
    escalating = chat.with_escalation(RunnableLambda(solver, name="solver"), min_confidence=1.0)
    chain = prompt | escalating.bind(max_samples=1) | StrOutputParser()
    runs = Runs()
    assert chain.invoke({"question": DOUBTED[0]}, {"callbacks": [runs], "tags": ["mine"]}) == "ans 42"
    (root,) = runs.roots
    ladder = next(run for run in root.child_runs if run.name == "EscalatingChat")
    assert [run.name for run in ladder.child_runs] == ["ChatIntrospective", "solver"]
    assert all("mine" in (run.tags or []) for run in ladder.child_runs)
    small = ladder.child_runs[0]
    assert small.run_type == "llm"
    assert small.outputs is not None
    samples = small.outputs["generations"][0][0]["message"]["kwargs"]["response_metadata"]["introspection"]["samples"]
    assert len(samples) == 1


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
        yield AIMessageChunk([{"type": "reasoning", "reasoning": "hm", "index": 0}])
        yield AIMessageChunk("", tool_call_chunks=[tool_call_chunk(name="add", args="", id="1", index=0)])
        yield AIMessageChunk("", tool_call_chunks=[tool_call_chunk(args='{"a": 1}', index=0)])

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


def test_what_the_small_model_cannot_read_goes_to_one_that_may(chat: ChatIntrospective) -> None:
    image = HumanMessage([{"type": "text", "text": "what is it"}, {"type": "image", "url": "x.png"}])
    message = chat.with_escalation(solver, min_confidence=0.5).invoke([image])
    found = introspection(message)
    assert found["answer"] == "42"
    assert "image" in found["escalation"]["reason"]
    with pytest.raises(EscalationError, match="no model answered"):
        chat.with_escalation(min_confidence=0.5).invoke([image])


def test_nobody_is_sure_enough(chat: ChatIntrospective) -> None:
    def broken(_: Any) -> str:
        raise ConnectionError("dead")

    def slow(_: Any) -> str:
        time.sleep(30)
        return "late"

    own = chat.invoke(DOUBTED[0])
    best = chat.with_escalation(broken, Rung(slow, timeout=0.1), min_confidence=1.0)
    for message in (best.invoke(DOUBTED[0]), list(best.stream(DOUBTED[0]))[-1]):
        assert message.content == own.content
        assert [item["outcome"] for item in introspection(message)["escalation"]["attempts"]] == [
            "doubtful",
            "failed",
            "timeout",
        ]
        assert any("ConnectionError: dead" in warning for warning in introspection(message)["warnings"])
    silent = chat.with_escalation(min_confidence=1.0, otherwise="abstain").invoke(DOUBTED[0])
    assert (silent.content, introspection(silent)["finish_reason"]) == ("", "abstained")
    with pytest.raises(EscalationError, match="no model was sure enough") as caught:
        chat.with_escalation(min_confidence=1.0, otherwise="raise").invoke(DOUBTED[0])
    assert caught.value.partial.content == own.content


def test_the_chat_models_budget_is_the_ladders(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(Rung(solver, max_tokens=500), min_confidence=1.0)
    message = escalating.invoke(DOUBTED[0], budget=Budget(max_tokens=400))
    assert introspection(message)["finish_reason"] == "budget"
    assert introspection(message)["escalation"]["attempts"][1]["outcome"] == "skipped"
    assert escalating.invoke(DOUBTED[0], budget=5_000).content == "ans 42"
    with pytest.raises(BudgetError, match=r"max_tokens=400.*give it as Rung"):
        chat.with_escalation(solver, min_confidence=1.0).invoke(DOUBTED[0], budget=400)


def test_bad_settings_are_refused(chat: ChatIntrospective) -> None:
    with pytest.raises(ConfigError, match="policy and min_confidence were given"):
        chat.with_escalation(solver, policy=EscalationPolicy(min_confidence=0.5), min_confidence=0.5)
    with pytest.raises(ConfigError, match="nothing says when"):
        chat.with_escalation(solver)
    with pytest.raises(ConfigError, match="tools"):
        chat.with_escalation(solver, min_confidence=0.5).invoke(DOUBTED[0], tools=[])
    with pytest.raises(PromptError, match="last message is from 'assistant'"):
        chat.with_escalation(solver, min_confidence=0.5).invoke([HumanMessage("a"), AIMessage("b")])


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


def test_tool_calls_of_a_stronger_model_come_through(chat: ChatIntrospective) -> None:
    call = {"name": "search", "args": {"q": "x"}, "id": "1", "type": "tool_call"}
    reply = AIMessage("", tool_calls=[call], additional_kwargs={"more": 1})
    stronger = GenericFakeChatModel(messages=iter([reply]))
    message = chat.with_escalation(stronger, min_confidence=1.0).invoke(DOUBTED[0])
    assert message.tool_calls == [call]
    assert message.additional_kwargs == {"more": 1}
    assert introspection(message)["escalation"]["attempts"][1]["outcome"] == "accepted"


def test_a_ladder_within_a_ladder_keeps_its_account_and_is_not_streamed_before_it_is_judged(
    chat: ChatIntrospective,
) -> None:
    paid = Rung(big(), expected_reward=0.5, max_cost=1000.0)
    inner = chat.with_escalation(paid, min_confidence=0.97)
    outer = chat.with_escalation(inner, solver, min_confidence=0.97)
    message = outer.invoke(DOUBTED[0])
    assert message.content == "ans 42"
    attempts = introspection(message)["escalation"]["attempts"]
    assert [item["outcome"] for item in attempts] == ["doubtful", "doubtful", "accepted"]
    assert attempts[1]["usage"]["cost"] == introspection(message)["cost"] == 1000.0
    assert attempts[1]["usage"]["seconds"] > 0
    chunks = list(outer.stream(DOUBTED[0]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.content == "ans 42"
    assert whole.response_metadata["finish_reason"] == introspection(whole)["finish_reason"] == "stop"


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


def test_what_is_bound_to_a_local_chat_model_holds_and_it_keeps_its_own_budget(chat: ChatIntrospective) -> None:
    for stronger in (chat.bind(budget=5, seed=3), ChatIntrospective(llm=chat.llm, budget=5, seed=3)):
        message = chat.with_escalation(Rung(stronger, name="second"), min_confidence=1.0).invoke(DOUBTED[0])
        attempts = introspection(message)["escalation"]["attempts"]
        assert 0 < attempts[1]["usage"]["generated_tokens"] <= 5


def test_it_pickles_and_cannot_be_changed_halfway() -> None:
    with IntrospectiveLLM.demo() as llm:
        escalating = ChatIntrospective(llm=llm).with_escalation(Rung(solver, name="s"), min_confidence=0.999)
        again = pickle.loads(pickle.dumps(escalating))
        assert again._ladder.first is again.chat.llm
        assert again.invoke("Solve 3*x+16=31").content == escalating.invoke("Solve 3*x+16=31").content
        with pytest.raises(ValidationError, match="frozen"):
            escalating.policy = EscalationPolicy(min_confidence=0.1)
        again.chat.llm.close()


def test_a_graph_does_not_stream_what_is_still_to_be_judged(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(big(), min_confidence=1.0)

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [escalating.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    given = {"messages": [HumanMessage(DOUBTED[0])]}
    shown = [message.text for message, _ in graph.stream(given, stream_mode="messages")]  # type: ignore[arg-type]
    assert "".join(shown).startswith("the answer is 42")
    assert chat.invoke(DOUBTED[0]).text not in "".join(shown)
