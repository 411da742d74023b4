"""Text as it comes, confidence on the way, and progress as custom events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END, START, StateGraph

from langchain_zip_introspect import ChatIntrospective, TextIntrospective
from langchain_zip_introspect.settings import Settled
from langchain_zip_introspect.streaming import EVENT_NAME, Pieces, settled
from tests.scripted import FaultyBackend, freed, unchanged
from zip_introspect import Budget, GenerationConfig, IntrospectiveLLM, PromptError
from zip_introspect.events import SampleAdvanced, SearchFinished
from zip_introspect.result import GenerationResult, Outlook, Usage
from zip_introspect.testing.simulator import SimulatedBackend

ALPHABET = "ab€🙂\n"


def finished(text: str) -> SearchFinished:
    usage, outlook = Usage(1, 1, 1, 1, 0.0), Outlook(0.5, 1.0)
    result = GenerationResult(text, None, 0.5, "stop", usage, (), (), 0, "finished", "", outlook, "single", "value", 0)
    return SearchFinished(0, result)


@given(
    text=st.text(ALPHABET, max_size=12),
    cuts=st.lists(st.integers(0, 40)),
    stops=st.lists(st.text("ab€", min_size=1, max_size=3), max_size=3),
)
def test_what_was_streamed_is_the_text_whatever_the_pieces(text: str, cuts: list[int], stops: list[str]) -> None:
    raw = text.encode()
    places = [found for stop in stops if (found := text.find(stop)) >= 0]
    final = text[: min(places)] if places else text
    config = GenerationConfig(strategy="single", stop=tuple(stops))
    reader = Pieces(Settled(IntrospectiveLLM(SimulatedBackend()), "m", Budget(), config, 1))
    streamed = ""
    for cut in sorted(cuts):
        seen = raw[:cut].decode(errors="replace")
        if any(stop in seen for stop in stops) or cut >= len(raw):
            break  # the search has ended the sample by now
        piece = reader.read(SampleAdvanced(0, 0, seen, cut, Outlook(0.5, 1.0)))
        assert piece is not None
        streamed += piece.text
        assert final.startswith(streamed)
    last = reader.read(finished(final))
    assert last is not None
    assert streamed + last.text == final


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("abc", (), 3),
        ("ab\ufffd\ufffd", (), 2),
        ("a\ufffdb", (), 3),
        ("answer: EN", ("END",), 8),
        ("aab", ("abab",), 1),
        ("x", ("END", "xy"), 0),
    ],
)
def test_what_may_still_change_is_held_back(text: str, stops: tuple[str, ...], kept: int) -> None:
    assert settled(text, stops) == kept


@pytest.mark.parametrize("settings", [{"strategy": "single"}, {"max_samples": 1}, {"budget": {"max_samples": 1}}])
def test_one_sample_streams_text_with_its_running_confidence(chat: ChatIntrospective, settings: dict[str, Any]) -> None:
    chunks = list(chat.stream("a question", **settings))
    whole = chat.invoke("a question", **settings)
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content
    assert len(chunks) > 3
    for count, chunk in enumerate(chunks[:-1], 1):
        (point,) = chunk.response_metadata["introspection"]["running"]
        assert point["tokens"] == count
        assert 0.0 <= point["confidence"] <= 1.0
        assert point["expected_remaining_tokens"] >= 1.0
        assert chunk.usage_metadata is None
    assert chunks[-1].usage_metadata == whole.usage_metadata


def test_the_chunks_of_a_stream_can_be_larger(chat: ChatIntrospective) -> None:
    sizes = [
        c.response_metadata["introspection"].get("running") for c in chat.stream("q", max_samples=1, stream_interval=5)
    ]
    assert [points[0]["tokens"] for points in sizes if points] == [5 * (i + 1) for i in range(len(sizes) - 1)]


def test_a_stop_string_is_never_streamed(abacus: ChatIntrospective) -> None:
    question = "Solve 3*x+16=31"
    chunks = list(abacus.stream(question, stop=["ok"], strategy="single"))
    text = "".join(str(chunk.content) for chunk in chunks)
    assert text == abacus.invoke(question, stop=["ok"], strategy="single").content
    assert "ok" not in text
    assert "ok" in str(abacus.invoke(question, strategy="single").content)


def test_several_samples_stream_one_chunk(chat: ChatIntrospective) -> None:
    (chunk,) = chat.stream("a question")
    assert chunk.content == chat.invoke("a question").content
    assert chunk.chunk_position == "last"


async def custom_events(runnable: Runnable[Any, Any], given: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    every = [dict(event) async for event in runnable.astream_events(given, version="v2")]
    return [event for event in every if event["event"] == "on_custom_event"], every


def check(events: list[dict[str, Any]], every: list[dict[str, Any]]) -> None:
    (run,) = [event["run_id"] for event in every if event["event"] == "on_chat_model_start"]
    assert {(event["name"], event["run_id"]) for event in events} == {(EVENT_NAME, run)}
    assert [event["data"]["kind"] for event in events][:2] == ["started", "decision"]
    assert {event["data"]["kind"] for event in events} >= {"advanced", "sample_finished"}
    (end,) = [event for event in every if event["event"] == "on_chat_model_end"]
    told = end["data"]["output"].response_metadata["introspection"]["decisions"]
    assert [e["data"]["decision"]["reason"] for e in events if e["data"]["kind"] == "decision"] == [
        decision["reason"] for decision in told
    ]


async def test_progress_arrives_as_custom_events(chat: ChatIntrospective) -> None:
    check(*await custom_events(chat, "a question"))


async def test_progress_of_a_chain(chat: ChatIntrospective) -> None:
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | chat | StrOutputParser()
    events, every = await custom_events(chain, {"q": "a question"})
    check(events, every)
    (top,) = [event["run_id"] for event in every if event["parent_ids"] == [] and event["event"] == "on_chain_start"]
    assert all(top in event["parent_ids"] for event in events)


class State(TypedDict):
    question: str
    answer: str


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_progress_of_a_node_in_a_graph(chat: ChatIntrospective, way: str) -> None:
    def work(state: State) -> dict[str, str]:
        if way == "invoke":
            return {"answer": str(chat.invoke(state["question"]).content)}
        return {"answer": "".join(str(chunk.content) for chunk in chat.stream(state["question"]))}

    async def awork(state: State) -> dict[str, str]:
        if way == "ainvoke":
            return {"answer": str((await chat.ainvoke(state["question"])).content)}
        return {"answer": "".join([str(chunk.content) async for chunk in chat.astream(state["question"])])}

    graph = StateGraph(State)
    graph.add_node("ask", awork if way.startswith("a") else work)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    app = graph.compile()
    events, every = await custom_events(app, {"question": "a question", "answer": ""})
    check(events, every)
    assert (
        app.invoke({"question": "a question", "answer": ""})["answer"] == chat.invoke("a question").content
        if not way.startswith("a")
        else True
    )


class Listener(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any, list[str], dict[str, Any]]] = []
        self.tokens: list[str] = []

    def on_custom_event(
        self, name: str, data: Any, *, run_id: Any, tags: Any = None, metadata: Any = None, **_: Any
    ) -> None:
        self.events.append((data["kind"], run_id, tags, metadata))

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(str(token))


def test_listeners_of_the_model_and_of_the_call_hear_of_progress(llm: IntrospectiveLLM) -> None:
    own, given = Listener(), Listener()
    chat = ChatIntrospective(llm=llm, callbacks=[own], tags=["mine"])
    config: RunnableConfig = {"callbacks": [given], "tags": ["yours"], "metadata": {"user": 7}}
    list(chat.stream("a question", config))
    assert [event[0] for event in own.events] == [event[0] for event in given.events]
    assert len(own.events) > 3
    kind, _, tags, metadata = given.events[0]
    assert kind == "started"
    assert set(tags) == {"mine", "yours"}
    assert metadata["user"] == 7


def test_what_is_streamed_within_does_not_leak_into_the_consumer(
    chat: ChatIntrospective, llm: IntrospectiveLLM
) -> None:
    outer, inner = Listener(), Listener()
    for _ in chat.stream("q", {"callbacks": [outer]}, max_samples=1):
        list(chat.stream("r", {"callbacks": [inner]}))
    assert outer.events == []
    assert inner.events
    assert len({event[1] for event in inner.events}) > 1


def test_closing_a_stream_stops_it(chat: ChatIntrospective, backend: SimulatedBackend) -> None:
    choices: list[dict[str, Any]] = [{"max_samples": 1}, {}]
    for settings in choices:
        chunks = chat.stream("a question", **settings)
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        assert freed(backend)
    assert chat.invoke("a question").content


@pytest.mark.parametrize("kind", [ChatIntrospective, TextIntrospective])
async def test_closing_an_async_stream_stops_it(
    kind: type[ChatIntrospective | TextIntrospective], llm: IntrospectiveLLM, backend: SimulatedBackend
) -> None:
    chunks: AsyncIterator[Any] = kind(llm=llm).astream("a question", max_samples=1)
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    assert freed(backend)


@pytest.mark.parametrize("several", [False, True])
async def test_cancelling_an_async_stream_stops_it(several: bool) -> None:
    backend = FaultyBackend(unchanged, at=-1, pace=0.01)
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend), interval=1, max_samples=4 if several else 1)

    async def read() -> None:
        async for _ in chat.astream("a question"):
            pass

    task = asyncio.create_task(read())
    while backend.calls < 2:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert freed(backend)


def test_bad_input_to_a_stream_closes_the_run(chat: ChatIntrospective) -> None:
    class Errors(BaseCallbackHandler):
        seen: list[BaseException] = []  # noqa: RUF012

        def on_llm_error(self, error: BaseException, **_: Any) -> None:
            self.seen.append(error)

    handler = Errors()
    with pytest.raises(PromptError):
        list(chat.stream(" ", {"callbacks": [handler]}))
    assert [type(error) for error in handler.seen] == [PromptError]


def test_a_callback_that_listens_for_tokens_hears_them_in_invoke(llm: IntrospectiveLLM) -> None:
    listener = Listener()
    chat: BaseChatModel = ChatIntrospective(llm=llm, streaming=True, max_samples=1)
    message = chat.invoke("a question", {"callbacks": [listener]})
    assert "".join(listener.tokens) == message.content
    text = TextIntrospective(llm=llm, max_samples=1)
    listener.tokens.clear()
    assert "".join(text.stream("a question", {"callbacks": [listener]})) == "".join(listener.tokens)
