"""A thought lies beside the message, where LangChain looks for it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessageChunk

from langchain_zip_introspect import ChatIntrospective
from zip_introspect import IntrospectiveLLM
from zip_introspect.config import Thinking
from zip_introspect.errors import ConfigError
from zip_introspect.testing.simulator import SimulatedBackend

THINKING: dict[str, Any] = {"open": None, "close": "\nans", "budget": 5, "answer_budget": 3}


@pytest.fixture
def chat() -> ChatIntrospective:
    return ChatIntrospective(llm=IntrospectiveLLM(SimulatedBackend()), thinking=THINKING, seed=1, max_tokens=60)


def test_the_message_is_the_answer_and_its_reasoning_is_beside_it(chat: ChatIntrospective) -> None:
    message = chat.invoke("a problem")
    assert message.text.strip()
    assert set(message.additional_kwargs["reasoning_content"]) <= set("abcd")
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]
    assert (
        "reasoning_content"
        not in chat.invoke("a problem", thinking=Thinking(**{**THINKING, "open": "d"})).additional_kwargs
    )


@pytest.mark.parametrize("samples", [1, 4])
def test_streamed_pieces_make_the_message(chat: ChatIntrospective, samples: int) -> None:
    whole = chat.invoke("a problem", max_samples=samples)
    chunks = list(chat.stream("a problem", max_samples=samples))
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined += chunk
    assert isinstance(joined, AIMessageChunk)
    assert (joined.text, joined.additional_kwargs) == (whole.text, whole.additional_kwargs)
    if samples == 1:
        assert sum("reasoning_content" in chunk.additional_kwargs for chunk in chunks) > 1


def test_it_goes_where_the_settings_go(chat: ChatIntrospective) -> None:
    assert chat.identity["thinking"] == THINKING
    assert pickle.loads(pickle.dumps(chat.thinking)) == chat.thinking
    written = dumps(chat)
    assert '"answer_budget": 3' in written
    again: Any = loads(
        written.replace("simulated world", "demo").replace('"simulated"', "null"),
        allowed_objects=[ChatIntrospective],
        valid_namespaces=["langchain_zip_introspect"],
    )
    assert again.thinking == Thinking(**THINKING)
    with pytest.raises(ConfigError, match="budget is 0"):
        chat.invoke("a problem", thinking={"budget": 0})
    with pytest.raises(ConfigError, match="budget is 0"):
        ChatIntrospective(llm=chat.llm, thinking={"budget": 0})
