"""Counting any part of a conversation, whatever the template thinks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zip_introspect import BackendError, ConfigError, GenerationConfig, IntrospectiveLLM, PromptError
from zip_introspect.backend.counting import text_tokens
from zip_introspect.prompts import Message, check_no_template, check_prompt
from zip_introspect.testing.simulator import SimulatedBackend

START, FRAME, ANSWER = "^", "<>;", ">>"
"""What the templates below write before a conversation, around a message, and where an answer begins."""


class Templated(SimulatedBackend):
    """One token a byte, and a chat template: one that takes all turns, or one that wants them in alternation."""

    def __init__(self, template: str | None = "any") -> None:
        super().__init__()
        self.template = template

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        check_prompt(prompt)
        if self.template is None or not chat:
            check_no_template(chat_template_kwargs, "none is applied")
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        if self.template is None or not chat:
            if len(messages) > 1:
                raise PromptError("no template")
            return list(f"{START}{messages[0]['content']}".encode())
        roles = [message["role"] for message in messages]
        if self.template == "alternating" and roles != (["user", "assistant"] * len(roles))[: len(roles)]:
            raise PromptError("out of turn")
        turns = [f"{FRAME[0]}{message['content']}{FRAME[1:]}" for message in messages]
        options = [f"{name}={value}" for name, value in (chat_template_kwargs or {}).items()]
        return list("".join([START, *options, *turns, ANSWER]).encode())


def said(*turns: str) -> list[Message]:
    """Messages from texts that begin with a letter for their role."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [Message(role=roles[turn[0]], content=turn[1:]) for turn in turns]


ANY, ALTERNATING, BARE = (IntrospectiveLLM(Templated(kind)) for kind in ("any", "alternating", None))
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
TURNS = st.lists(st.builds(Message, role=ROLES, content=st.text("xy \n", max_size=6)), max_size=6)


@given(TURNS)
def test_a_template_that_takes_all_turns_counts_what_it_writes(messages: list[Message]) -> None:
    written = sum(len(FRAME) + len(message["content"]) for message in messages)
    expected = len(START) + written + len(ANSWER) if messages else 0
    assert ANY.count_tokens(messages) == expected


@given(TURNS)
def test_one_message_more_never_counts_less(messages: list[Message]) -> None:
    for llm in (ANY, ALTERNATING, BARE):
        counts = [llm.count_tokens(messages[:end]) for end in range(len(messages) + 1)]
        assert all(fewer <= more for fewer, more in pairwise(counts))


@given(TURNS, st.integers(0, 6))
def test_parts_count_at_least_as_much_as_the_whole(messages: list[Message], cut: int) -> None:
    for llm in (ANY, BARE):  # of what a template refuses, each message counts the template's own tokens
        whole = llm.count_tokens(messages)
        assert whole <= llm.count_tokens(messages[:cut]) + llm.count_tokens(messages[cut:])
        assert whole >= sum(len(message["content"]) for message in messages if message["content"].strip())


@pytest.mark.parametrize("llm", [ANY, ALTERNATING])
def test_a_question_counts_as_it_is_asked(llm: IntrospectiveLLM) -> None:
    asked = said("uone", "atwo", "uthree")
    assert llm.count_tokens(asked) == len(llm.backend.encode(asked))
    assert llm.count_tokens("one") == len(llm.backend.encode("one"))
    assert llm.count_tokens("one", chat=False) == len(llm.backend.encode("one", chat=False))


def test_what_the_template_refuses_counts_as_its_messages_do_alone() -> None:
    count = ALTERNATING.count_tokens
    one = len(START + FRAME + ANSWER)
    assert count(said("uone", "utwo")) == 2 * one + len("onetwo")
    assert count(said("sone")) == count(said("uone")) == one + 3
    assert count(said("atwo", "uone")) == 2 * one + len("onetwo")
    # In turn, though not ending in a question: the next question's turn cannot be told from the rest.
    assert count(said("uone", "atwo")) == len(START + 3 * FRAME + ANSWER + "onetwo")


def test_without_a_template_each_message_is_a_text() -> None:
    assert BARE.count_tokens(said("sbe brief", "uone", "atwo")) == 3 * len(START) + len("be briefonetwo")
    assert BARE.count_tokens(said("uone", "a")) == 2 * len(START) + len("one")


@pytest.mark.parametrize("text", ["", " ", " \n\t"])
def test_white_space_is_counted_for_what_it_adds(text: str) -> None:
    for llm in (ANY, BARE):
        assert llm.count_tokens(text, chat=False) == len(text)
        assert text_tokens(llm.backend, text) == list(text.encode())
    assert ANY.count_tokens(text) == (len(START + FRAME + text + ANSWER) if text else 0)


def test_what_the_template_is_told_counts_too() -> None:
    talk, told = said("sbe brief", "uone", "atwo"), {"think": False}
    plain, longer = ANY.count_tokens(talk), ANY.count_tokens(talk, chat_template_kwargs=told)
    assert longer == plain + len("think=False")
    assert ANY.count_tokens(talk, config=GenerationConfig(chat_template_kwargs=told)) == longer
    assert ALTERNATING.count_tokens(talk, chat_template_kwargs=told) == ALTERNATING.count_tokens(talk) + 3 * 11
    with pytest.raises(ConfigError, match="none is applied"):
        BARE.count_tokens(talk, chat_template_kwargs=told)


def test_a_closed_model_counts_nothing() -> None:
    llm = IntrospectiveLLM(Templated())
    llm.close()
    with pytest.raises(BackendError, match="closed"):
        llm.count_tokens("one")


def test_the_embedded_model_counts_what_its_template_writes() -> None:
    transformers = pytest.importorskip("zip_introspect_transformers")
    assert transformers
    with IntrospectiveLLM.demo(backend="transformers") as llm:
        tokenizer: Any = llm.backend._prompts._tokenizer  # type: ignore[attr-defined]
        talk = said("sBe brief.", "uSolve 3*x+16=31", "aans 5", "uSolve x+4=12", "aans 8")
        for end in range(1, len(talk) + 1):
            for part in (talk[:end], talk[:end][::-1], talk[end - 1 :]):
                written = tokenizer.apply_chat_template(part, add_generation_prompt=True, return_dict=False)
                assert llm.count_tokens(part) == len(written)
        assert llm.count_tokens("Solve 3*x+16=31") == llm.introspect("Solve 3*x+16=31").usage.prompt_tokens
