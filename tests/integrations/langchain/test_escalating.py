"""chat.with_escalation: the ladder's decisions (tests/test_ladder.py has them all) as a Runnable among Runnables."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from langchain_zip_introspect import ChatIntrospective, EscalatingChat
from tests.scripted import FaultyBackend, unchanged
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
from zip_introspect.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, max_samples=4)
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
        assert introspection(first)["samples" if "samples" in introspection(first) else "answer"]
    assert len(asked) == 2 * len(DOUBTED)
    asynchronous = asyncio.run(escalating.abatch(DOUBTED, {"max_concurrency": 2}))
    assert [item.content for item in asynchronous] == [item.content for item in together]
    assert escalating.batch([]) == []


def test_one_bad_input_of_a_batch_keeps_its_error(chat: ChatIntrospective) -> None:
    escalating = chat.with_escalation(solver, min_confidence=1.0)
    outputs = escalating.batch([DOUBTED[0], "", DOUBTED[1]], return_exceptions=True)
    assert [type(item) for item in outputs] == [AIMessage, PromptError, AIMessage]
    with pytest.raises(PromptError, match="no content"):
        escalating.batch([DOUBTED[0], ""])


def test_rewards_may_depend_on_the_question_in_a_batch_too(chat: ChatIntrospective) -> None:
    def reward(prompt: Any) -> float:
        return 2.0 if prompt[-1]["content"] == DOUBTED[1] else -1.0

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
    assert backend.held == 0
