"""The text model and the runnable: the same results, in other clothes."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from langchain_zip_introspect.streaming import EVENT_NAME
from zip_introspect import BackendNotInstalledError, IntrospectiveLLM, PromptError

QUESTION = "Solve 3*x+16=31"


class Ends(BaseCallbackHandler):
    def __init__(self) -> None:
        self.infos: list[dict[str, Any]] = []

    def on_llm_end(self, response: Any, **_: Any) -> None:
        self.infos += [generations[0].generation_info for generations in response.generations]


def test_a_text_model_gives_text_and_keeps_the_introspection(llm: IntrospectiveLLM) -> None:
    text = TextIntrospective(llm=llm)
    (generation,), (other,) = text.generate(["q", "r"]).generations
    result = llm.generate("q", chat=False)
    assert generation.text == text.invoke("q") == result.text
    assert other.text == llm.generate("r", chat=False).text
    info = generation.generation_info
    assert info is not None
    assert info["introspection"]["confidence"] == result.confidence
    assert info["usage_metadata"]["output_tokens"] == result.usage.generated_tokens
    assert json.loads(json.dumps(info)) == info


def test_a_completion_goes_without_the_chat_template_unless_asked(abacus: ChatIntrospective) -> None:
    llm = abacus.call(None, {}).llm
    settings: dict[str, Any] = {"max_tokens": 30, "max_samples": 1, "seed": 0}
    plain = TextIntrospective(llm=llm, **settings)
    assert plain.invoke(QUESTION) == llm.generate(QUESTION, chat=False, max_new_tokens=30, max_samples=1).text
    templated = TextIntrospective(llm=llm, chat=True, seed=0)
    assert templated.invoke(QUESTION) == plain.invoke(QUESTION, chat=True, max_tokens=640, max_samples=8)
    assert templated.invoke(QUESTION).endswith("ans 5")


@pytest.mark.parametrize("settings", [{}, {"max_samples": 1}])
async def test_a_text_model_streams(llm: IntrospectiveLLM, settings: dict[str, Any]) -> None:
    text, ends = TextIntrospective(llm=llm, **settings), Ends()
    pieces = list(text.stream("q", {"callbacks": [ends]}))
    assert "".join(pieces) == text.invoke("q")
    assert [piece async for piece in text.astream("q")] == pieces
    assert (len(pieces) > 3) == bool(settings)
    assert len(ends.infos[0]["introspection"].get("running", [])) == (len(pieces) - 1)
    assert ends.infos[0]["usage_metadata"]["output_tokens"] > 0
    names = [e["name"] async for e in text.astream_events("q", version="v2") if e["event"] == "on_custom_event"]
    assert bool(names) != bool(settings)


async def test_a_text_model_in_a_chain(llm: IntrospectiveLLM) -> None:
    chain = PromptTemplate.from_template("what is {x}?") | TextIntrospective(llm=llm)
    expected = llm.generate("what is 5?", chat=False).text
    assert chain.invoke({"x": 5}) == await chain.ainvoke({"x": 5}) == expected
    assert chain.batch([{"x": 5}, {"x": 6}])[0] == expected


@pytest.mark.parametrize(
    "given",
    [
        "q",
        [HumanMessage("q")],
        PromptTemplate.from_template("q").invoke({}),
        ChatPromptTemplate.from_messages([("user", "q")]).invoke({}),
    ],
)
async def test_a_runnable_gives_the_full_result(llm: IntrospectiveLLM, given: Any) -> None:
    runnable = IntrospectiveRunnable(llm=llm)
    expected = llm.generate("q")
    for result in (runnable.invoke(given), await runnable.ainvoke(given), *runnable.stream(given)):
        assert (result.text, result.samples, result.decisions) == (expected.text, expected.samples, expected.decisions)


async def test_a_runnable_reports_progress(llm: IntrospectiveLLM) -> None:
    runnable = IntrospectiveRunnable(llm=llm)
    every = [event async for event in runnable.astream_events("q", version="v2")]
    events: list[Any] = [event for event in every if event["event"] == "on_custom_event"]
    assert {event["name"] for event in events} == {EVENT_NAME}
    assert events[0]["data"]["kind"] == "started"
    assert {event["run_id"] for event in events} == {every[0]["run_id"]}
    assert every[-1]["data"]["output"].text == llm.generate("q").text

    class Kinds(BaseCallbackHandler):
        seen: list[str] = []  # noqa: RUF012

        def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            self.seen.append(data["kind"])

    handler = Kinds()
    assert runnable.invoke("q", {"callbacks": [handler]}).text == llm.generate("q").text
    assert handler.seen == [event["data"]["kind"] for event in events]


def test_a_runnable_refuses_what_is_no_question(llm: IntrospectiveLLM) -> None:
    runnable = IntrospectiveRunnable(llm=llm)
    for given, message in [
        (" ", "white space"),
        ([HumanMessage("q"), AIMessage("a")], "last message"),
        (7, "expected"),
    ]:
        with pytest.raises(PromptError, match=message):
            runnable.invoke(given)  # type: ignore[arg-type]


def test_a_model_becomes_a_runnable(llm: IntrospectiveLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    result = llm.as_runnable(alpha=0.5, max_samples=2).invoke("question 1")
    assert result.samples == llm.generate("question 1", alpha=0.5, max_samples=2).samples
    monkeypatch.setitem(sys.modules, "langchain_zip_introspect", None)
    with pytest.raises(BackendNotInstalledError, match=r'pip install "zip-introspect\[langchain\]"'):
        llm.as_runnable()
