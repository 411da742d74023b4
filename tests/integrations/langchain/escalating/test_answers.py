"""chat.with_escalation: the ladder's decisions (tests/escalation has them all) as a Runnable among Runnables."""

from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from langchain_zip_introspect import ChatIntrospective, EscalatingChat
from tests.integrations.langchain.escalating.doubted import (
    CONFIG,
    DOUBTED,
    Runs,
    big,
    introspection,
    solver,
)
from tests.scripted import FaultyBackend, nan_in_the_last
from zip_introspect import (
    Budget,
    BudgetError,
    CalibrationError,
    ConfigError,
    EscalationError,
    EscalationPolicy,
    IntrospectiveLLM,
    PromptError,
    Rung,
)


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


def test_what_is_bound_to_a_local_chat_model_holds_and_it_keeps_its_own_budget(chat: ChatIntrospective) -> None:
    for stronger in (chat.bind(budget=5, seed=3), ChatIntrospective(llm=chat.llm, budget=5, seed=3)):
        message = chat.with_escalation(Rung(stronger, name="second"), min_confidence=1.0).invoke(DOUBTED[0])
        attempts = introspection(message)["escalation"]["attempts"]
        assert 0 < attempts[1]["usage"]["generated_tokens"] <= 5


def test_it_pickles_and_cannot_be_changed_halfway() -> None:
    with IntrospectiveLLM.demo() as llm:
        escalating = ChatIntrospective(llm=llm).with_escalation(Rung(solver, name="s"), min_confidence=0.999)
        again = pickle.loads(pickle.dumps(escalating))
        assert again._ladder.first.llm is again.chat.llm
        assert again.invoke("Solve 3*x+16=31").content == escalating.invoke("Solve 3*x+16=31").content
        with pytest.raises(ValidationError, match="frozen"):
            escalating.policy = EscalationPolicy(min_confidence=0.1)  # type: ignore[misc]
        again.chat.llm.close()


def test_what_a_model_had_when_it_broke_is_given_where_nobody_else_answers() -> None:
    def broken(_: Any) -> str:
        raise ConnectionError("dead")

    for at in range(2, 12):
        backend = FaultyBackend(nan_in_the_last, at=at)
        chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
        message = chat.with_escalation(Rung(broken, expected_reward=0.9), min_confidence=1.0).invoke(DOUBTED[0])
        found = introspection(message)
        if found["escalation"]["attempts"][0]["outcome"] == "failed" and message.content:
            assert found["samples"]
            assert found["confidence"] < 1.0
            assert any("NaN" in warning for warning in found["warnings"])
            return
    raise AssertionError("no breakdown with anything to give")


def test_a_budget_holds_within_a_ladder_in_a_ladder(chat: ChatIntrospective) -> None:
    bounded = chat.with_escalation(Rung(solver, max_tokens=10), min_confidence=1.0)
    for limit in (1, 20, 100, 1000):
        message = chat.with_escalation(bounded, min_confidence=1.0).invoke(DOUBTED[0], budget=limit)
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] <= limit
    unbounded = chat.with_escalation(chat.with_escalation(solver, min_confidence=1.0), min_confidence=1.0)
    with pytest.raises(BudgetError, match="give it as Rung"):
        unbounded.invoke(DOUBTED[0], budget=100)
    with pytest.raises(CalibrationError, match="needs a calibration"):
        chat.with_escalation(bounded, max_error=0.1)
