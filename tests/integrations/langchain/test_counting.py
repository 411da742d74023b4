"""trim_messages and its like: any part of a conversation is counted, through every door."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    get_buffer_string,
    trim_messages,
)

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from tests.backend.test_counting import ALTERNATING, ANY, BARE
from zip_introspect import IntrospectiveLLM

CALL: Any = {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}
IMAGE = {"type": "image", "url": "https://example.org/x.png"}
TALK: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage("Solve 3*x+16=31"),
    AIMessage([{"type": "reasoning", "reasoning": "subtract, then divide"}, {"type": "text", "text": "ans 5"}]),
    HumanMessage("Solve x+4=12"),
    AIMessage("", tool_calls=[CALL]),
    ToolMessage("8", tool_call_id="1"),
    AIMessage("ans 8"),
    HumanMessage([{"type": "text", "text": "Solve x+1=2"}, IMAGE]),
]


@pytest.mark.parametrize("llm", [ANY, ALTERNATING, BARE])
def test_every_part_of_a_conversation_is_counted(llm: IntrospectiveLLM) -> None:
    for model in (ChatIntrospective(llm=llm), TextIntrospective(llm=llm), TextIntrospective(llm=llm, chat=True)):
        count = model.get_num_tokens_from_messages
        assert count([]) == 0
        for end in range(len(TALK) + 1):
            for begin in range(end):
                part = TALK[begin:end]
                assert count(part) >= sum(len(message.text) for message in part)
                assert count(part[::-1]) >= sum(len(message.text) for message in part)


CASES = [(llm, way, partial) for llm in (ANY, BARE) for way in ("first", "last") for partial in (False, True)]


# Of what a template refuses, no more can be said: "last" counts it backwards, which the template may take.
@pytest.mark.parametrize(("llm", "strategy", "partial"), [*CASES, (ALTERNATING, "first", False)])
@given(
    turns=st.lists(st.tuples(st.sampled_from(["human", "ai", "system"]), st.text("xy\n", max_size=9)), max_size=6),
    limit=st.integers(0, 60),
)
def test_what_is_trimmed_fits(
    llm: IntrospectiveLLM, strategy: Any, partial: bool, turns: list[tuple[str, str]], limit: int
) -> None:
    kinds: dict[str, type[BaseMessage]] = {"human": HumanMessage, "ai": AIMessage, "system": SystemMessage}
    chat = ChatIntrospective(llm=llm)
    talk = [kinds[kind](text) for kind, text in turns]
    kept = trim_messages(talk, max_tokens=limit, token_counter=chat, strategy=strategy, allow_partial=partial)
    assert chat.get_num_tokens_from_messages(kept) <= limit


def test_the_embedded_models_conversations_are_trimmed(abacus: ChatIntrospective) -> None:
    talk = [message for message in TALK if not isinstance(message, ToolMessage)]
    count = abacus.get_num_tokens_from_messages
    for limit in range(0, count(talk) + 20, 7):
        for options in ({}, {"include_system": True}, {"start_on": "human"}, {"end_on": "ai"}, {"allow_partial": True}):
            kept = trim_messages(talk, max_tokens=limit, token_counter=abacus, **options)
            system = count(talk[:1]) if "include_system" in options else 0
            assert count(kept) <= max(limit, system)
            if options == {"end_on": "ai"}:
                assert not kept or isinstance(kept[-1], AIMessage)
    assert trim_messages(talk, max_tokens=count(talk), token_counter=abacus) == talk
    assert len(trim_messages(talk, max_tokens=40, token_counter=abacus)) in range(1, len(talk))


def test_a_question_counts_what_its_answer_reports(abacus: ChatIntrospective) -> None:
    asked = [SystemMessage("Be brief."), HumanMessage("Solve 3*x+16=31")]
    counted = abacus.get_num_tokens_from_messages(asked)
    used = abacus.invoke(asked, max_tokens=1).usage_metadata
    assert used is not None
    assert counted == used["input_tokens"]


def test_a_text_model_counts_the_text_that_it_is_asked_with() -> None:
    talk: list[BaseMessage] = [HumanMessage("q"), AIMessage(["a", IMAGE]), RemoveMessage(id="1")]
    written = get_buffer_string([HumanMessage("q"), AIMessage("a")])
    for chat in (False, True):
        text = TextIntrospective(llm=ANY, chat=chat)
        assert text.get_num_tokens_from_messages(talk) == len(ANY.backend.encode(written, chat=chat))
        assert text.get_num_tokens_from_messages([RemoveMessage(id="1")]) == 0


def test_tools_and_their_results_count_as_text(chat: ChatIntrospective) -> None:
    count = ChatIntrospective(llm=ANY).get_num_tokens_from_messages
    frame = count([AIMessage("")])
    assert count([AIMessage("", tool_calls=[CALL])]) == frame + len('{"name": "add", "args": {"a": 1}}')
    assert count([ToolMessage("8", tool_call_id="1", artifact=[1] * 99)]) == frame + 1
    assert count([FunctionMessage(content="8", name="add")]) == frame + 1
    assert count([ChatMessage(content="8", role="critic")]) == frame + 1
    assert count([RemoveMessage(id="1")]) == 0
    assert count([HumanMessage([IMAGE])]) == count([HumanMessage("")])
    with pytest.raises(NotImplementedError, match="calls no tools"):
        chat.get_num_tokens_from_messages([HumanMessage("q")], tools=[CALL])


@pytest.mark.parametrize("kind", [ChatIntrospective, TextIntrospective, IntrospectiveRunnable])
def test_any_text_has_its_tokens(kind: Any) -> None:
    model = kind(llm=ANY)
    for text in ("", " ", "\n\n", "text"):
        assert len(model.get_token_ids(text)) == len(text) + (1 if text.strip() else 0)
    if kind is not IntrospectiveRunnable:
        assert model.get_num_tokens("") == 0
        assert model.get_num_tokens(" ") == 1
        words = kind(llm=ANY, custom_get_token_ids=lambda text: [0] * len(text.split()))
        assert words.get_num_tokens("two words") == 2
        assert words.get_num_tokens_from_messages([HumanMessage("two words"), AIMessage("one")]) == 5  # with the roles


def test_a_ladder_counts_as_its_chat_model_does() -> None:
    chat = ChatIntrospective(llm=ANY)
    escalating = chat.with_escalation(lambda _: "ans 42", min_confidence=0.5)
    assert escalating.get_num_tokens("text") == chat.get_num_tokens("text")
    assert escalating.get_num_tokens_from_messages(TALK) == chat.get_num_tokens_from_messages(TALK)
    kept = trim_messages(TALK, max_tokens=60, token_counter=escalating)  # type: ignore[call-overload]
    assert kept == trim_messages(TALK, max_tokens=60, token_counter=chat)
