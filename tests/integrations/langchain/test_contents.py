"""What is read of LangChain's messages: the rules are complete, and every door keeps to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    content,
)
from langchain_core.prompt_values import ImagePromptValue

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from langchain_zip_introspect.contents import ROLES, RULES, countable
from langchain_zip_introspect.messages import to_prompt
from zip_introspect import IntrospectiveLLM, PromptError

REASONING = {"type": "reasoning", "reasoning": "let me think"}
IMAGE = {"type": "image", "url": "https://example.org/x.png"}
CALL: Any = {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}
PROVIDERS = [None, "openai", "anthropic", "google_genai", "google_vertexai", "bedrock", "bedrock_converse", "groq", "x"]


def kinds(union: Any) -> set[str]:
    """The types of the blocks of a union."""
    if members := get_args(union):
        return set().union(*map(kinds, members))
    return set(get_args(get_type_hints(union)["type"]))


def test_every_block_of_langchain_has_a_rule() -> None:
    known = content.KNOWN_BLOCK_TYPES | kinds(content.ContentBlock) | kinds(content.Annotation)
    assert known >= {"text", "reasoning", "video", "server_tool_result", "citation", "non_standard"}
    assert known - set(RULES) == set(), "langchain-core has blocks that no rule is written for; see docs/langchain.md"


def test_the_documentation_names_every_rule() -> None:
    page = (Path(__file__).parents[3] / "docs" / "langchain.md").read_text(encoding="utf-8")
    rows = {name: row for row in page.splitlines() if row.startswith("| ") for name in re.findall("`(.+?)`", row)}
    for kind, rule in RULES.items():
        told = rows[kind].rsplit("|", 2)[1]
        assert rule in told or kind in ("non_standard", "text-plain"), kind  # whose rule depends on what they hold
    assert {"ToolMessage", "FunctionMessage", "RemoveMessage"} <= {kind for kind in rows if "refused" in rows[kind]}


def test_every_type_of_message_has_a_rule() -> None:
    plain = {kind for member in get_args(get_args(AnyMessage)[0]) for kind in [get_args(member)[0]]}
    assert {HumanMessage, ToolMessage, AIMessageChunk} <= plain
    assert {kind for kind in plain if not any(issubclass(kind, known) for known in ROLES)} == set()


def answer(blocks: list[Any], provider: str | None = None, **fields: Any) -> list[BaseMessage]:
    about = {"model_provider": provider} if provider else {}
    return [HumanMessage("q"), AIMessage(blocks, response_metadata=about, **fields), HumanMessage("r")]


LEFT_OUT: list[dict[str, Any]] = [
    REASONING,
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I think"}]},
    {"type": "thinking", "thinking": "hm", "signature": "s"},
    {"type": "redacted_thinking", "data": "AAAA"},
    {"type": "reasoning_content", "reasoning_content": {"text": "hm", "signature": "s"}},
    {"type": "server_tool_call", "id": "1", "name": "web_search", "args": {"query": "x"}},
    {"type": "server_tool_call_chunk", "id": "1", "name": "web_search", "args": "{"},
    {"type": "server_tool_result", "tool_call_id": "1", "status": "success", "output": "found"},
    {"type": "non_standard", "value": {"type": "redacted_thinking", "data": "AAAA"}},
    {"type": "non_standard", "value": {"type": "non_standard", "value": {"type": "thinking", "thinking": "hm"}}},
]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("block", LEFT_OUT, ids=lambda block: str(block["type"]))
def test_what_led_to_an_answer_is_left_out_of_it(block: dict[str, Any], provider: str | None) -> None:
    told = to_prompt(answer([block, {"type": "text", "text": "the answer "}, "is 5"], provider))
    assert [message["content"] for message in told] == ["q", "the answer is 5", "r"]


@pytest.mark.parametrize(
    ("provider", "block"),
    [
        ("anthropic", {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}),
        ("anthropic", {"type": "web_search_tool_result", "tool_use_id": "1", "content": []}),
        ("openai", {"type": "web_search_call", "id": "1", "status": "completed"}),
        ("openai", {"type": "code_interpreter_call", "id": "1", "code": "1+1", "outputs": []}),
        ("google_genai", {"type": "executable_code", "executable_code": "1+1"}),
    ],
)
def test_what_a_provider_ran_is_left_out_in_its_own_words(provider: str, block: dict[str, Any]) -> None:
    assert to_prompt(answer([block, "5"], provider))[1]["content"] == "5"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        (["a", "b"], "ab"),
        ([{"type": "text", "text": "a", "annotations": [{"type": "citation", "url": "u"}]}, " b"], "a b"),
        ([{"text": "a"}, {"cachePoint": {"type": "default"}}], "a"),
        ([{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": ", no"}], "a, no"),
        (["see ", {"type": "text-plain", "text": "a note", "title": "T", "mime_type": "text/plain"}, "end"],
         "see \n\nT\na note\n\nend"),
        ([{"type": "file", "source_type": "text", "url": "a note", "mime_type": "text/plain"}, "?"], "a note\n\n?"),
        ([{"type": "document", "source": {"type": "text", "data": "a note", "media_type": "text/plain"}}], "a note"),
        ([], ""),
    ],
)  # fmt: skip
def test_text_is_read_whoever_wrote_it(blocks: list[Any], text: str, provider: str | None) -> None:
    assert to_prompt(answer(blocks, provider))[1]["content"] == text
    assert to_prompt([HumanMessage(blocks)])[0]["content"] == text


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("block", "named"),
    [
        (IMAGE, "image"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}, "image"),
        ({"type": "image_url", "image_url": "https://example.org/x.png"}, "image_url"),
        ({"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"}, "image"),
        ({"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}, "audio"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
        ({"type": "video", "url": "https://example.org/x.mp4"}, "video"),
        ({"type": "file", "base64": "AAAA", "mime_type": "application/pdf"}, "file"),
        ({"type": "text-plain", "url": "https://example.org/x.txt", "mime_type": "text/plain"}, "text-plain"),
        ({"type": "tool_call", "id": "", "name": "add", "args": {}}, "tool_call"),
        ({"type": "tool_use", "id": "1", "name": "add", "input": {}}, "tool_"),
        ({"type": "tool_result", "tool_use_id": "1", "content": "5"}, "tool_result"),
        ({"type": "text"}, "text"),
        ({"type": "text", "text": None}, "text"),
        ({"type": "novelty", "x": 1}, "novelty"),
        ({"type": "non_standard", "value": {"type": "novelty"}}, "novelty"),
        ({"type": "non_standard", "value": {}}, "non_standard"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_take_is_refused_by_name(block: dict[str, Any], named: str, provider: str | None) -> None:
    for messages in (answer(["a", block], provider), [HumanMessage(["a", block])]):
        place = 1 if len(messages) > 1 else 0
        with pytest.raises(PromptError, match=f"message {place}, a .*Message, holds a block of type '{named}"):
            to_prompt(messages)


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_calls": [CALL]},
        {"invalid_tool_calls": [{"name": "add", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}]},
        {"additional_kwargs": {"tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}]}},
        {"additional_kwargs": {"function_call": {"name": "add", "arguments": "{}"}}},
    ],
)
def test_tool_calls_are_refused_however_they_are_written(fields: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="message 1 is an AIMessage with tool calls"):
        to_prompt([HumanMessage("q"), AIMessage("", **fields), HumanMessage("r")])


def test_what_is_beside_the_content_is_not_read() -> None:
    told = to_prompt([
        HumanMessage("q", additional_kwargs={"lc_source": "summary"}),
        AIMessage("5", additional_kwargs={"reasoning_content": "let me think", "refusal": None}),
        HumanMessage("r"),
    ])  # fmt: skip
    assert [message["content"] for message in told] == ["q", "5", "r"]


@pytest.mark.parametrize("kind", [ChatIntrospective, IntrospectiveRunnable])
def test_a_history_with_reasoning_in_it_is_answered_as_without(llm: IntrospectiveLLM, kind: Any) -> None:
    model = kind(llm=llm, seed=0)
    with_it = model.invoke([*answer([REASONING, "5"])])
    assert with_it.text == model.invoke([HumanMessage("q"), AIMessage("5"), HumanMessage("r")]).text


async def test_a_turn_after_a_stronger_models_reasoning_is_the_small_models_again(chat: ChatIntrospective) -> None:
    asked: list[Any] = []

    def strong(given: Any) -> AIMessage:
        asked.append(given)
        return AIMessage([REASONING, {"type": "text", "text": "ans 42"}])

    escalating = chat.with_escalation(strong, min_confidence=1.1e-9)
    history: list[BaseMessage] = [HumanMessage("q"), strong("q"), HumanMessage("and now?")]
    asked.clear()
    for message in (
        escalating.invoke(history),
        await escalating.ainvoke(history),
        escalating.batch([history])[0],
        list(escalating.stream(history))[-1],
    ):
        found = message.response_metadata["introspection"]
        attempts = found["escalation"]["attempts"] if found["escalation"] else []
        assert "failed" not in [attempt["outcome"] for attempt in attempts]
        assert found["samples"]


def test_a_text_model_reads_conversations_by_the_same_rules(llm: IntrospectiveLLM) -> None:
    text = TextIntrospective(llm=llm, seed=0)
    expected = llm.generate("Human: q\nAI: 5\nHuman: r", chat=False, seed=0).text
    assert text.invoke(answer([REASONING, "5"])) == expected
    assert "".join(text.stream(answer([{"type": "output_text", "text": "5"}]))) == expected
    images: list[Any] = [[HumanMessage(["what is it?", IMAGE])], ImagePromptValue(image_url={"url": "https://x/y.png"})]
    for given in images:
        with pytest.raises(PromptError, match="message 0, a HumanMessage, holds a block"):
            text.invoke(given)
        with pytest.raises(PromptError, match="message 0, a HumanMessage, holds a block"):
            next(text.stream(given))
    tools: list[BaseMessage] = [
        AIMessage([{**CALL}], tool_calls=[CALL]),
        ToolMessage("5", tool_call_id="1", artifact={"rows": 9}),
    ]
    written = f"AI: {[CALL]}\nTool: 5"
    assert text.invoke(tools) == llm.generate(written, chat=False, seed=0).text


def test_what_is_counted_holds_tools_too() -> None:
    messages: list[BaseMessage] = [
        SystemMessage("be brief"),
        HumanMessage(["what is it? ", IMAGE]),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("5", tool_call_id="1", artifact={"rows": 9}),
        AIMessage([REASONING, "five"]),
    ]
    assert countable(messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is it? "},
        {"role": "assistant", "content": '{"name": "add", "args": {"a": 1}}'},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "five"},
    ]
