"""Faults of chat ladders that were found: what a stream says is what `invoke` says."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_zip_introspect import ChatIntrospective
from zip_introspect import ConfigError, HeadError, IntrospectiveLLM, Ladder, Rung
from zip_introspect.escalation.reply import Reply
from zip_introspect.result import Usage
from zip_introspect.testing.simulator import SimulatedBackend


@pytest.fixture
def chat() -> ChatIntrospective:
    return ChatIntrospective(llm=IntrospectiveLLM(SimulatedBackend()), strategy="single", seed=0)


def merged(ladder: Any) -> Any:
    whole = None
    for chunk in ladder.stream("q"):
        whole = chunk if whole is None else whole + chunk
    return whole


def about(message: Any) -> tuple[Any, ...]:
    told = message.response_metadata["introspection"]
    used = message.usage_metadata
    return message.text, told["confidence"], used["input_tokens"], used["output_tokens"]


@pytest.mark.parametrize("sure", [0.1, 0.95])
def test_a_reply_is_judged_and_counted_in_a_stream_too(chat: ChatIntrospective, sure: float) -> None:
    used = Usage(prompt_tokens=11, generated_tokens=222, chosen_tokens=222, depth=0, seconds=0.5)
    known = Reply("ans 999", confidence=sure, usage=used)
    ladder = chat.with_escalation(lambda messages: known, lambda messages: "ans 38", min_confidence=0.99)
    assert about(merged(ladder)) == about(ladder.invoke("q"))


def test_two_answers_are_never_glued_together(chat: ChatIntrospective) -> None:
    blank = chat.with_escalation(RunnableLambda(lambda messages: "  "), lambda messages: "other", min_confidence=1.0)
    assert merged(blank).text == blank.invoke("q").text == "other"

    def refusing(text: str) -> str:
        raise ValueError("no answer can be read")

    long: Any = RunnableLambda(lambda messages: AIMessage("A long answer. "))
    ladder = chat.with_escalation(Rung(long, extractor=refusing), lambda messages: "other", min_confidence=1.0)
    assert ladder.invoke("q").text == "other"
    with pytest.raises(ValueError, match="no answer can be read"):
        merged(ladder)


def test_what_cannot_be_asked_or_followed_is_refused(chat: ChatIntrospective) -> None:
    blind = ChatIntrospective(llm=IntrospectiveLLM(SimulatedBackend(head=False)))
    with pytest.raises(HeadError, match="needs what a head expects"):
        blind.with_escalation(lambda messages: "other", min_prompt_confidence=0.9)
    inner = Ladder(IntrospectiveLLM(SimulatedBackend()), lambda prompt: "ans 1", min_confidence=0.9)
    with pytest.raises(ConfigError, match="expected an IntrospectiveLLM, a Runnable"):
        chat.with_escalation(inner, min_confidence=0.9)
