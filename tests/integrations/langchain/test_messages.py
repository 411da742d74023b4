"""What goes in and what comes out: conversations, metadata and usage."""

from __future__ import annotations

import json
import operator
from functools import reduce

import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import add_usage

from langchain_zip_introspect import ChatIntrospective
from langchain_zip_introspect.messages import Introspection, to_prompt
from zip_introspect import IntrospectiveLLM, PromptError

QUESTION = "Solve 3*x+16=31"


def test_a_message_tells_what_the_model_knows_of_its_answer(abacus: ChatIntrospective) -> None:
    message = abacus.invoke(QUESTION, max_samples=4, seed=3)
    result = abacus.call(None, {}).llm.generate(QUESTION, max_samples=4, seed=3)
    data = message.response_metadata["introspection"]
    assert set(data) == set(Introspection.__annotations__) - {"running"}
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert message.text == result.text
    assert message.response_metadata["finish_reason"] == result.finish_reason == "stop"
    assert message.response_metadata["model_name"] == "demo"
    assert (data["answer"], data["confidence"]) == (result.answer, result.confidence)
    assert result.expected is not None
    assert (data["expected_confidence"], data["expected_remaining_tokens"]) == (
        result.expected.value,
        result.expected.remaining,
    )
    assert [sample["tokens"] for sample in data["samples"]] == [sample.tokens for sample in result.samples]
    assert [sample["number"] for sample in data["samples"] if sample["chosen"]] == [result.chosen]
    assert [decision["reason"] for decision in data["decisions"]] == [item.reason for item in result.decisions]
    assert data["decisions"][-1]["stop"] == data["stop_reason"]
    assert data["strategy"] == "zip_rc"
    assert data["escalation"] is None


def test_usage_counts_every_token_of_every_sample(chat: ChatIntrospective) -> None:
    with get_usage_metadata_callback() as counted:
        first = chat.invoke("a question", strategy="best_of_n", max_samples=3)
        second = chat.invoke("another", strategy="best_of_n", max_samples=3)
    usage, data = first.usage_metadata, first.response_metadata["introspection"]
    assert usage is not None
    assert usage["output_tokens"] == sum(sample["tokens"] for sample in data["samples"])
    chosen = next(sample["tokens"] for sample in data["samples"] if sample["chosen"])
    assert usage["output_token_details"] == {"chosen": chosen, "unchosen": usage["output_tokens"] - chosen}
    assert usage["input_tokens"] == len("a question")
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert counted.usage_metadata["simulated world"] == add_usage(first.usage_metadata, second.usage_metadata)


def test_chunks_merge_into_the_message(chat: ChatIntrospective) -> None:
    merged: AIMessageChunk = reduce(operator.add, chat.stream("a question", max_samples=1))
    whole = chat.invoke("a question", max_samples=1, interval=1)
    got, data = merged.response_metadata, whole.response_metadata
    running = got["introspection"].pop("running")
    assert [point["tokens"] for point in running] == list(range(1, len(running) + 1))
    for told in (got["introspection"], data["introspection"]):
        del told["seconds"]
    assert (merged.content, merged.usage_metadata, got) == (whole.content, whole.usage_metadata, data)
    assert merged.chunk_position == "last"


def test_conversations_go_through_the_chat_template() -> None:
    conversation: list[BaseMessage] = [
        SystemMessage("be brief"),
        HumanMessage(["a", {"type": "text", "text": "b"}]),
        AIMessage("c"),
        ChatMessage(content="d", role="user"),
    ]
    assert to_prompt(conversation) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"name": "add", "args": {}, "id": "1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([HumanMessage("q"), AIMessage("a")], "last message is from 'assistant'"),
        ([SystemMessage("only this")], "last message is from 'system'"),
        ([], "expected a string, or a list of messages"),
        ([HumanMessage("  ")], "no content"),
        ([HumanMessage([{"type": "text", "text": "what is this?"}, IMAGE])], "message 0, a HumanMessage, .*'image"),
        ([HumanMessage([{"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}])], "'audio'"),
        ([HumanMessage("q"), ToolMessage("5", tool_call_id="1")], "message 1 is a ToolMessage; expected a System"),
        ([FunctionMessage(content="5", name="add"), HumanMessage("q")], "message 0 is a FunctionMessage"),
        ([RemoveMessage(id="1"), HumanMessage("q")], "message 0 is a RemoveMessage"),
        ([HumanMessage("q"), AIMessage("", tool_calls=[CALL]), HumanMessage("r")], "message 1 .* tool calls"),
        ([HumanMessage("q"), BaseMessage(content="?", type="odd")], "message 1 is a BaseMessage"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_place_and_type(
    chat: ChatIntrospective, messages: list[AnyMessage], told: str
) -> None:
    with pytest.raises(PromptError, match=told):
        chat.invoke(messages)
    with pytest.raises(PromptError, match=told):
        next(chat.stream(messages))


def test_a_prompt_longer_than_the_context_is_refused(abacus: ChatIntrospective) -> None:
    with pytest.raises(PromptError, match=r"the context of .* holds"):
        abacus.invoke("1+" * 5000)


def test_the_models_own_tokenizer_counts(abacus: ChatIntrospective) -> None:
    backend = abacus.call(None, {}).llm.backend
    assert abacus.get_num_tokens(QUESTION) == len(backend.encode(QUESTION, chat=False))
    answered = abacus.invoke(QUESTION, max_tokens=1)
    assert answered.usage_metadata is not None
    assert abacus.get_num_tokens_from_messages([HumanMessage(QUESTION)]) == answered.usage_metadata["input_tokens"]


def test_the_embedded_model_on_llama_cpp_says_as_much() -> None:
    pytest.importorskip("llama_cpp")
    chat = ChatIntrospective(llm=IntrospectiveLLM.demo(backend="llama-cpp", threads=1))
    message = chat.invoke(QUESTION, max_samples=2)
    assert message.response_metadata["introspection"]["answer"] == "5"
    assert message.response_metadata["introspection"]["confidence"] > 0.9
