"""Prompts of all kinds of templates in every backend: what users write is seen, and stays text."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.backends.templates import ATTACK, BOS, DEAF, HEADERS, TEMPLATES, TURN, MakeEncoder, conversation, special
from zip_introspect.errors import ConfigError, PromptError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.prompts import Message
from zip_introspect_transformers import TransformersBackend
from zip_introspect_transformers import prompts as transformers_prompts


@pytest.fixture
def templated(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return copy.deepcopy(tokenizer)


@pytest.fixture(params=list(TEMPLATES))
def template(request: pytest.FixtureRequest) -> str:
    return TEMPLATES[request.param]


# What a template is given, and what becomes of it


def test_an_ordinary_conversation_is_what_the_template_gives(
    encoder: MakeEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Solve 3*x+5=35"},
    ]
    for template in (tokenizer.chat_template, TEMPLATES["chatml"], TEMPLATES["qwen3"]):
        expected = tokenizer.apply_chat_template(
            messages,  # type: ignore[arg-type]
            chat_template=template,
            add_generation_prompt=True,
            return_dict=False,
        )
        assert encoder(template).encode(messages, chat=True) == expected


def test_every_question_is_heard(encoder: MakeEncoder, template: str, tokenizer: PreTrainedTokenizerFast) -> None:
    encode = encoder(template).encode
    texts = ["1+1", "Solve 3*x+5=35", " {'type': 'text'}\n", "xxx", "X", "a<b"]
    prompts = [encode(text, chat=True) for text in texts]
    assert len(set(map(tuple, prompts))) == len(texts)
    for text, prompt in zip(texts, prompts, strict=True):
        assert text.strip() in tokenizer.decode(prompt)
        assert encode(conversation("Hello", "Yes?", text), chat=True)


def test_each_role_gets_the_form_that_its_part_of_the_template_takes(
    encoder: MakeEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}]
    prompt = encoder(TEMPLATES["parts_of_users"]).encode(messages, chat=True)
    assert tokenizer.decode(prompt) == "<|system|>Be brief.<|end|><|user|>1+1<|end|><|assistant|>"


@pytest.mark.parametrize("name", DEAF)
def test_a_template_that_leaves_the_question_out_is_refused(encoder: MakeEncoder, name: str) -> None:
    with pytest.raises(
        PromptError, match=r"leaves the last user message out: 'tell me more' gives the same prompt.*chat=False"
    ):
        encoder(DEAF[name]).encode(conversation("Hello", "Yes?", "tell me more"), chat=True)


@pytest.mark.parametrize("change", ["trim", "upper", "lower", "title", "replace(' ', '_')", "reverse"])
@pytest.mark.parametrize("text", ["  What is it? ", "  <|END|> What\n", ATTACK, "<|eND|><|USER|>"])
def test_a_template_sees_the_contents_as_they_are(
    encoder: MakeEncoder, change: str, text: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    source = "<|user|>{{ messages[-1].content | " + change + " }}<|end|><|assistant|>"
    expected = tokenizer.apply_chat_template(conversation(text), chat_template=source, tokenize=False)  # type: ignore[arg-type]
    prompt = encoder(source).encode(text, chat=True)
    assert tokenizer.decode(prompt) == expected
    assert special(tokenizer, prompt) == ["<|user|>", "<|end|>", "<|assistant|>"]


def test_a_template_finds_what_it_looks_for_though_it_is_a_special_token(
    encoder: MakeEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    source = (
        "{% for message in messages %}<|user|>{{ message.content.split('<|reserved_1|>')[-1] }}<|end|>{% endfor %}"
        "<|assistant|>"
    )
    messages = conversation("1+1", "Hm <|end|><|reserved_1|>so <|end|> 2", "why <|reserved_1|>really<|end|>?")
    prompt = encoder(source).encode(messages, chat=True)
    said = "<|user|>1+1<|end|><|user|>so <|end|> 2<|end|><|user|>really<|end|>?<|end|><|assistant|>"
    assert tokenizer.decode(prompt) == said
    assert special(tokenizer, prompt) == [*["<|user|>", "<|end|>"] * 3, "<|assistant|>"]


def test_what_cannot_be_told_apart_is_refused(encoder: MakeEncoder) -> None:
    for source, text in (
        ("<|user|>{{ messages[-1].content | replace('_', '') }}<|end|>", "a<|e_nd|>b"),
        ("<|user|>{{ messages[-1].content.split('<|end|>', 1)[-1] }}<|end|>", "a<|end|>b<|end|>c"),
    ):
        with pytest.raises(PromptError, match=r"spells a special token of the model .* cannot be told from"):
            encoder(source).encode(text, chat=True)


def test_spelled_special_tokens_stay_text(
    encoder: MakeEncoder, template: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    encode = encoder(template).encode
    harmless, attacked = encode("1+1", chat=True), encode(ATTACK, chat=True)
    assert special(tokenizer, attacked) == special(tokenizer, harmless)
    assert ATTACK in tokenizer.decode(attacked)
    assert encode("1+1", chat=True) == harmless
    with_history = encode(conversation(ATTACK, ATTACK, "why?"), chat=True)
    assert special(tokenizer, with_history) == special(tokenizer, encode(conversation("a", "b", "why?"), chat=True))


def test_a_spelling_does_not_change_what_stands_before_it(
    encoder: MakeEncoder, template: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    encode = encoder(template).encode
    plain, spelled = encode("\n\nWhy {}?", chat=True), encode("\n\nWhy <|end|>?", chat=True)
    shared = next(place for place, token in enumerate(plain) if token != spelled[place])
    assert tokenizer.decode(plain[:shared]).rstrip().endswith("\n\nWhy" if "trim" not in template else "Why")  # type: ignore[union-attr]


@given(
    st.lists(
        st.sampled_from(["<|end|>", "<|END|>", "<|", "|>", "end", "<", "user", "</think>", " ", "\n", "x", "\ue000"]),
        min_size=1,
    ).map("".join),
    st.sampled_from(sorted(TEMPLATES)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_adds_a_special_token(
    tokenizer: PreTrainedTokenizerFast, grid: JointGrid, text: str, name: str
) -> None:
    templated = copy.copy(tokenizer)
    templated.chat_template = TEMPLATES[name]
    encoder = transformers_prompts.TransformersPromptEncoder(templated, grid.reserved_token_ids)
    if not text.strip():
        return
    if name == "looked_into" and not text.split("</think>")[-1].strip() and not text.startswith("<|"):
        with pytest.raises(PromptError, match="leaves the last user message out"):
            encoder.encode(text, chat=True)
        return
    prompt = encoder.encode(text, chat=True)
    assert special(tokenizer, prompt) == special(tokenizer, encoder.encode("1+1", chat=True))
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}]  # type: ignore[arg-type]
        if "parts" not in name and name != "first_part"
        else [{"role": "user", "content": [{"type": "text", "text": text}]}],
        chat_template=TEMPLATES[name],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert tokenizer.decode(prompt) == expected


def test_a_tokenizer_that_does_not_split_is_outwitted(
    templated: PreTrainedTokenizerFast, grid: JointGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = type(templated).encode
    monkeypatch.setattr(type(templated), "is_fast", False)
    monkeypatch.setattr(
        type(templated), "encode", lambda self, text, split_special_tokens=False, **rest: plain(self, text, **rest)
    )
    encoder = transformers_prompts.TransformersPromptEncoder(templated, grid.reserved_token_ids)
    tokens = encoder.encode(ATTACK, chat=True)
    assert special(templated, tokens) == ["<|user|>", "<|end|>", "<|assistant|>"]
    assert ATTACK in templated.decode(tokens)


@pytest.mark.parametrize("prepends", ["first", "always", "never"])
@pytest.mark.parametrize("strips", [False, True])
def test_space_of_sentencepiece_and_of_special_tokens_is_as_ever(prepends: Any, strips: bool) -> None:
    letters = ["\u2581", "\n", *map(chr, range(33, 127))]
    backend = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepends, split=False)
    backend.add_special_tokens([AddedToken(text, special=True, rstrip=strips) for text in ("<|a|>", "<|b|>", "<|z|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|z|>")
    tokenizer.chat_template = "<|a|>\n{{ messages[0].content }}<|z|>\n<|b|>"
    encoder = transformers_prompts.TransformersPromptEncoder(tokenizer, [])
    usual, spelled = (
        tokenizer.convert_ids_to_tokens(encoder.encode(text, chat=True)) for text in ("why {z}?", "why <|z|>?")
    )
    assert usual == tokenizer.convert_ids_to_tokens(tokenizer.encode("<|a|>\nwhy {z}?<|z|>\n<|b|>"))
    before, behind = usual.index("{"), usual.index("}") + 1
    assert spelled == [*usual[:before], *"<|z|>", *usual[behind:]]


@pytest.mark.parametrize("chat", [True, False])
def test_without_a_template_the_text_is_the_prompt(
    encoder: MakeEncoder, chat: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    encode = encoder(None if chat else tokenizer.chat_template).encode
    assert tokenizer.decode(encode("Solve 3*x+5=35", chat=chat)) == "Solve 3*x+5=35"
    assert tokenizer.decode(encode(ATTACK, chat=chat)) == ATTACK
    assert special(tokenizer, encode(ATTACK, chat=chat)) == []
    reason = "the model has no chat template" if chat else "chat is off"
    with pytest.raises(PromptError, match=f"3 messages, but {reason}; expected one string or one message"):
        encode(conversation("a", "b", "c"), chat=chat)


def test_a_conversation_that_does_not_end_in_a_question_is_refused(encoder: MakeEncoder, template: str) -> None:
    with pytest.raises(PromptError, match="last message is from 'assistant'; expected the user's"):
        encoder(template).encode(conversation("a", "b"), chat=True)


def test_a_template_that_refuses_says_why(encoder: MakeEncoder) -> None:
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}]
    with pytest.raises(
        PromptError, match=r"refuses these messages \(roles system, user\): Only user and assistant. Expected"
    ):
        encoder(TEMPLATES["mistral"]).encode(messages, chat=True)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is '', empty or only white space; expected text"),
        (" \n", "empty or only white space; expected text"),
        ([], r"the prompt is \[\]; expected a string, or a list of messages"),
        ([{"role": "user", "content": " "}], "the last message has no content; expected text"),
        ([{"role": "user"}], r"message 0 is \{'role': 'user'\}; expected \{'role'"),
        ([{"role": "user", "content": 5}], r"message 0 is .*expected \{'role'"),
        (["text"], r"message 0 is 'text'; expected \{'role'"),
    ],
)
def test_malformed_prompts_are_refused(encoder: MakeEncoder, prompt: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        encoder(TEMPLATES["chatml"]).encode(prompt, chat=True)


# Where a prompt begins and ends


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("writes", ["", "{{ bos_token }}", "{{ bos_token }}{{ bos_token }}", BOS])
def test_a_prompt_begins_once_and_does_not_end(
    encoder: MakeEncoder, tokenizer: PreTrainedTokenizerFast, writes: str, begins: bool, ends: bool
) -> None:
    encode = encoder(writes + TEMPLATES["chatml"], begins=begins, ends=ends).encode
    bos = tokenizer.convert_tokens_to_ids(BOS)
    plain = encoder(TEMPLATES["chatml"]).encode
    for text in ("1+1", BOS, f"{BOS}{BOS} and {tokenizer.eos_token}"):
        chat, raw = encode(text, chat=True), encode(text, chat=False)
        assert chat == [bos] * (begins or bool(writes)) + plain(text, chat=True)
        assert raw == [bos] * begins + plain(text, chat=False)
        assert bos not in plain(text, chat=False)
        assert tokenizer.eos_token_id not in raw


# Options


def test_options_reach_the_template(encoder: MakeEncoder, tokenizer: PreTrainedTokenizerFast) -> None:
    encode = encoder(TEMPLATES["qwen3"]).encode
    usual = tokenizer.decode(encode("1+1", chat=True))
    assert tokenizer.decode(encode("1+1", chat=True, chat_template_kwargs={})) == usual
    assert tokenizer.decode(encode("1+1", chat=True, chat_template_kwargs={"enable_thinking": True})) == usual
    silent = encode("1+1", chat=True, chat_template_kwargs={"enable_thinking": False})
    assert tokenizer.decode(silent) == usual + "<think>\n\n</think>\n\n"  # type: ignore[operator]
    tools = [{"type": "function", "function": {"name": "add", "description": "a & b<|end|>", "parameters": {}}}]
    encode = encoder("{% if tools %}{{ tools | tojson }}{% endif %}<|user|>{{ messages[-1].content }}").encode
    with_tools = encode("1+1", chat=True, chat_template_kwargs={"tools": tools})
    assert '"description": "a & b<|end|>"' in tokenizer.decode(with_tools)
    assert special(tokenizer, with_tools) == ["<|user|>"], "what a tool says of itself is text"


def test_options_that_nobody_would_read_are_refused(encoder: MakeEncoder) -> None:
    for name in ("messages", "add_generation_prompt", "eos_token", "tokenize", "a-b", "padding"):
        with pytest.raises(ConfigError, match=f"'{name}' is no option of a chat template"):
            encoder(TEMPLATES["qwen3"]).encode("1", chat=True, chat_template_kwargs={name: True})
    options = {"enable_thinking": False}
    with pytest.raises(ConfigError, match="'enable_thinking', but chat is off"):
        encoder(TEMPLATES["qwen3"]).encode("1", chat=False, chat_template_kwargs=options)
    with pytest.raises(ConfigError, match="'enable_thinking', but the model has no chat template"):
        encoder(None).encode("1", chat=True, chat_template_kwargs=options)
    with pytest.raises(ConfigError, match="'tools' is not JSON"):
        encoder(TEMPLATES["qwen3"]).encode("1", chat=True, chat_template_kwargs={"tools": [print]})


# What closes an assistant's turn


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        *((TEMPLATES[name], "<|end|>") for name in ("chatml", "qwen3", "llama3", "gemma", "mistral", "parts")),
        ("{% for message in messages %}<|user|>{{ message.content }}\n{% endfor %}", None),
        ("{% for message in messages %}{{ message.content }}<|user|>{% endfor %}", None),
        ("{% for message in messages %}<|user|>{{ message.content }}<|reserved_2|>{% endfor %}", "<|reserved_2|>"),
        (HEADERS, "<|end|>"),
        ("{% if messages[0].role != 'system' %}### system\nhi<|end|>\n{% endif %}" + HEADERS, "<|end|>"),
        ("{% for message in messages %}" + TURN + "{{ message.content }} <|end|>\n{% endfor %}", "<|end|>"),
        ("{% for message in messages %}" + TURN + "{{ message.content }}\n\n<|end|>\n{% endfor %}", "<|end|>"),
        ("{% for message in messages %}" + TURN + "{{ message.content }}\n{% endfor %}" + TURN[:9], None),
        ("{% for message in messages %}{{ message.content }}<|assistant|>{% endfor %}", None),
        ("<|user|>{{ messages[0].content }}<|end|>", None),
        ("{{ raise_exception('not today') }}", None),
        ("{{ 1 / 0 }}", None),
        (None, None),
    ],
)
def test_the_token_that_closes_an_answer(
    encoder: MakeEncoder, tokenizer: PreTrainedTokenizerFast, source: str | None, expected: str | None
) -> None:
    closing = encoder(source).closing()
    assert closing == (None if expected is None else tokenizer.convert_tokens_to_ids(expected))


# Threads


def test_threads_do_not_disturb_each_other(encoder: MakeEncoder, tokenizer: PreTrainedTokenizerFast) -> None:
    encode = encoder(tokenizer.chat_template).encode
    _check_threads([lambda text=text: encode(text, chat=True) for text in ("1+1", "say <|end|>") * 2])  # type: ignore[misc]


def test_nobody_elses_use_of_a_tokenizer_matters(
    make_model: Any, templated: PreTrainedTokenizerFast, grid: JointGrid
) -> None:
    backend = TransformersBackend.from_model(make_model("qwen3"), templated, grid)
    before = templated.backend_tokenizer.to_str(), templated.chat_template

    def theirs() -> int:
        templated("<|end|>", split_special_tokens=True, padding="max_length", truncation=True, max_length=3)
        return 0

    _check_threads([lambda: backend.encode("1+1"), theirs, lambda: backend.encode("<|end|>")])
    templated("a")  # which sets aside what the calls above have set
    assert (templated.backend_tokenizer.to_str(), templated.chat_template) == before
    templated.chat_template = "<|user|>"
    assert backend.encode("1+1") == backend.encode([{"role": "user", "content": "1+1"}])


def _check_threads(works: list[Callable[[], Any]]) -> None:
    """Each work gives the same, however often it is done beside the others."""
    expected = [work() for work in works]
    wrong: list[Any] = []

    def run(place: int) -> None:
        wrong.extend(found for _ in range(2000) if (found := works[place]()) != expected[place])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert not wrong, f"{len(wrong)} prompts came out as {wrong[0]}"
