"""Models opened by name: each once, different ones side by side, and never on the event loop of an async call."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from langchain_zip_introspect.shared_models import Wanted, open_shared
from zip_introspect import GenerationConfig, IntrospectiveLLM, JointGrid, ModelLoadError, PromptError
from zip_introspect.answers.extraction import after_marker
from zip_introspect.backend import discovery as backends
from zip_introspect.backend.discovery import ENTRY_POINT_GROUP
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.model_source import ModelSource
from zip_introspect.prompts import Message
from zip_introspect.testing.simulator import SimulatedBackend

PATIENCE = 60.0
"""Seconds after which a test that waits for something has failed."""


class World(SimulatedBackend):
    """A simulated world whose opening waits for its gate, and which remembers what was asked of it, and where."""

    gates: ClassVar[dict[str, threading.Event]] = {}
    """By model; those without one open at once."""
    begun: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    threads: ClassVar[set[str]] = set()
    """Where prompts were encoded and models opened."""
    fault: ClassVar[BaseException | None] = None

    @classmethod
    def open(cls, model: str | Path, *, grid: JointGrid | None = None, **options: Any) -> Self:
        World.begun.append((str(model), {**options, **({"grid": grid} if grid else {})}))
        World.threads.add(threading.current_thread().name)
        if (gate := World.gates.get(str(model))) is not None:
            assert gate.wait(PATIENCE), "nobody opened the gate"
        if World.fault is not None:
            raise World.fault
        return cls(int(str(model)))

    def encode(self, prompt: str | list[Message], *, chat: bool = True, **rest: Any) -> list[int]:  # type: ignore[override]
        World.threads.add(threading.current_thread().name)
        return super().encode(prompt, chat=chat, **rest)


class Other(World):
    """Another backend for the same worlds."""


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backends of a third party, found as all are."""
    points = [EntryPoint(name, f"{__name__}:{kind}", ENTRY_POINT_GROUP) for name, kind in KINDS.items()]
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.split(":")[1]])
    monkeypatch.setattr(backends, "entry_points", lambda **_: points)
    gc.collect()  # what other tests opened
    World.gates, World.begun, World.threads, World.fault = {}, [], set(), None
    yield
    for gate in World.gates.values():
        gate.set()


KINDS = {"other": "Other", "world": "World"}
MODELS: list[Any] = [ChatIntrospective, TextIntrospective, IntrospectiveRunnable]


def wanted(model: str, **fields: Any) -> Wanted:
    return Wanted(ModelSource(model, fields.pop("backend", "world"), fields))


def until(condition: Any) -> None:
    """Wait for what another thread does."""
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come to pass")


def test_two_models_load_side_by_side() -> None:
    World.gates = {"1": threading.Event(), "2": threading.Event()}
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(open_shared, wanted(name)) for name in "12")
        until(lambda: len(World.begun) == 2)
        World.gates["2"].set()
        assert second.result(PATIENCE).info.model == "simulated world"
        assert not first.done()
        World.gates["1"].set()
        assert first.result(PATIENCE) is not second.result()


def test_a_model_that_many_ask_for_at_once_is_opened_once() -> None:
    World.gates = {"1": threading.Event()}
    named = [wanted("1"), wanted("1", backend=World), wanted("1")]
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(open_shared, each) for each in named]
        until(lambda: World.begun)
        World.gates["1"].set()
        assert len({id(each.result(PATIENCE)) for each in asked}) == 1
    assert len(World.begun) == 1


def test_who_leaves_the_backend_open_shares_with_who_names_it() -> None:
    held = open_shared(wanted("1", backend="other"))
    assert open_shared(wanted("1", backend=None)) is held
    assert open_shared(wanted("1", backend="world")) is not held


def test_a_model_that_nobody_holds_is_let_go() -> None:
    open_shared(wanted("1"))
    gc.collect()
    open_shared(wanted("1"))
    assert len(World.begun) == 2


def test_an_opening_that_fails_is_told_to_all_who_wait_and_tried_again_by_the_next() -> None:
    World.gates, World.fault = {"1": threading.Event()}, ModelLoadError("it is truncated")
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(open_shared, wanted("1", backend=World)) for _ in range(3)]
        until(lambda: World.begun)
        World.gates["1"].set()
        for each in asked:
            with pytest.raises(ModelLoadError, match="truncated"):
                each.result(PATIENCE)
    tries, World.fault = len(World.begun), None
    assert open_shared(wanted("1", backend=World)).info
    assert len(World.begun) == tries + 1


def test_an_opening_that_is_interrupted_leaves_nobody_waiting() -> None:
    World.gates, World.fault = {"1": threading.Event()}, KeyboardInterrupt()
    with ThreadPoolExecutor(1) as threads:
        other = threading.Thread(target=World.gates["1"].set)

        def ask() -> IntrospectiveLLM:
            until(lambda: World.begun)
            other.start()
            return open_shared(wanted("1", backend=World))

        waiting = threads.submit(ask)
        with pytest.raises(KeyboardInterrupt):
            open_shared(wanted("1", backend=World))
        World.fault = None
        other.join()
        try:
            assert waiting.result(PATIENCE).info
        except ModelLoadError as error:
            assert "interrupted" in str(error)  # noqa: PT017 - which of the two depends on who was first
    assert open_shared(wanted("1", backend=World)).info


async def loading(task: asyncio.Task[Any]) -> None:
    """Wait until a task's model is being opened; that this runs at all shows the loop to be free."""
    while not World.begun:
        assert not task.done(), task.exception()
        await asyncio.sleep(0.005)


async def ask(model: Any, way: str, /, **kwargs: Any) -> Any:
    if way == "abatch":
        return (await model.abatch(["q"], **kwargs))[0]
    if way == "astream":
        return [piece async for piece in model.astream("q", **kwargs)][-1]
    if way == "agenerate":
        given = ["q"] if isinstance(model, TextIntrospective) else [[HumanMessage("q")]]
        return await model.agenerate(given, **kwargs)
    return await model.ainvoke("q", **kwargs)


WAYS = [(kind, way) for kind in MODELS for way in ("ainvoke", "abatch", "astream", "agenerate")]


@pytest.mark.parametrize(("kind", "way"), [pair for pair in WAYS if pair != (IntrospectiveRunnable, "agenerate")])
async def test_an_async_call_leaves_the_event_loop_free_while_a_model_loads(kind: Any, way: str) -> None:
    World.gates = {"1": threading.Event()}
    model = kind(llm=IntrospectiveLLM(World(), GenerationConfig(interval=4)))
    World.threads.clear()
    task = asyncio.create_task(ask(model, way, model="1", backend="world"))
    await loading(task)
    assert not task.done()
    World.gates["1"].set()
    assert await task
    assert threading.current_thread().name not in World.threads


async def test_a_model_made_within_a_loop_is_opened_by_its_first_call() -> None:
    World.gates = {"1": threading.Event()}
    chat = ChatIntrospective(model="1", backend="world")
    assert not World.begun
    task = asyncio.create_task(chat.ainvoke("q"))
    await loading(task)
    World.gates["1"].set()
    assert (await task).response_metadata["model_name"] == "1"
    assert threading.current_thread().name not in World.threads
    with pytest.raises(ValueError, match="alpha is 7"):
        ChatIntrospective(model="1", backend="world", alpha=7)
    with pytest.raises(ModelLoadError, match="no backend opens"):
        await ChatIntrospective(model="./no/such/model").ainvoke("q")
    assert ChatIntrospective(model="2", backend="world").invoke("q").text  # a blocking call may block


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_streams_of_events_open_a_model_beside_the_loop() -> None:
    found = [event async for event in ChatIntrospective(model="1", backend="world").astream_events("q", version="v2")]
    assert found[-1]["event"] == "on_chat_model_end"
    stream = await ChatIntrospective(model="2", backend="world").astream_events("q", version="v3")
    assert (await stream.output).text
    assert [model for model, _ in World.begun] == ["1", "2"]
    assert threading.current_thread().name not in World.threads


async def test_a_configured_model_is_opened_beside_the_loop() -> None:
    chat = ChatIntrospective(model="1", backend="world").configurable_fields(model=ConfigurableField("model"))
    World.gates = {"2": threading.Event()}
    task = asyncio.create_task(chat.ainvoke("q", {"configurable": {"model": "2"}}))
    await loading(task)
    World.gates["2"].set()
    assert (await task).response_metadata["model_name"] == "2"
    assert threading.current_thread().name not in World.threads


async def test_a_ladder_opens_and_encodes_beside_the_loop() -> None:
    chat = ChatIntrospective(llm=IntrospectiveLLM(World(), GenerationConfig(interval=4)))
    escalating = chat.with_escalation(lambda _: "ans 42", min_confidence=0.5)
    World.threads.clear()
    assert (await escalating.ainvoke("q")).text
    assert await escalating.abatch(["q", "r"])
    assert [chunk async for chunk in escalating.astream("q")]
    assert threading.current_thread().name not in World.threads


async def test_one_caller_who_is_cancelled_cancels_no_other() -> None:
    World.gates = {"1": threading.Event()}
    chat = ChatIntrospective(model="1", backend="world")
    first, second = (asyncio.create_task(chat.ainvoke("q")) for _ in range(2))
    await loading(first)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    World.gates["1"].set()
    assert (await second).text
    assert len(World.begun) == 1


async def test_a_call_whose_model_cannot_be_opened_is_a_run_that_failed() -> None:
    failed: list[BaseException] = []

    class Errors(BaseCallbackHandler):
        def on_llm_error(self, error: BaseException, **_: Any) -> None:
            failed.append(error)

    chat = ChatIntrospective(llm=IntrospectiveLLM(World()))
    with pytest.raises(ModelLoadError):
        await chat.ainvoke("q", {"callbacks": [Errors()]}, model="./no/such/model")
    assert [type(error) for error in failed] == [ModelLoadError]
    with pytest.raises(PromptError):
        await chat.ainvoke(" ", {"callbacks": [Errors()]})
    assert [type(error) for error in failed] == [ModelLoadError, PromptError]


def opened_with(asked: Any, /, **kwargs: Any) -> tuple[str, type, dict[str, Any]]:
    """The model, the backend and the options that a call ends up with."""
    llm = asked.call(None, kwargs).llm
    return llm.origin.model, type(llm.backend), dict(llm.origin.options)


@pytest.mark.parametrize("kind", MODELS)
def test_a_call_drops_nothing_that_it_does_not_name(kind: Any) -> None:
    model = kind(model="1", backend="world", backend_options={"a": 1, "b": 2})
    assert opened_with(model) == ("1", World, {"a": 1, "b": 2})
    assert opened_with(model, backend_options={"b": 3}) == ("1", World, {"a": 1, "b": 3})
    assert opened_with(model, model="2") == ("2", World, {"a": 1, "b": 2})
    assert opened_with(model, model="2", backend_options={"b": 3}) == ("2", World, {"a": 1, "b": 3})
    # Options are a backend's.
    assert opened_with(model, backend="other") == ("1", Other, {})
    assert opened_with(model, backend="other", backend_options={"c": 4}) == ("1", Other, {"c": 4})
    inferred = kind(model="1", backend_options={"a": 1})
    assert opened_with(inferred, backend_options={"b": 3}) == ("1", Other, {"a": 1, "b": 3})
    assert opened_with(inferred, backend="world") == ("1", World, {"a": 1})


def test_an_open_models_own_hold_for_the_same_model_with_other_options() -> None:
    grid = SimulatedBackend().grid
    extractor = after_marker("answer:")
    llm = IntrospectiveLLM.from_pretrained(
        "1", World, GenerationConfig(max_new_tokens=33, interval=4), grid=grid, extractor=extractor, a=1
    )
    llm.calibration = Calibration(method="temperature", temperature=2.0, examples=9)
    chat = ChatIntrospective(llm=llm)
    assert chat.call(None, {}).llm is llm
    assert chat.call(None, {"model": llm.origin.model if llm.origin else ""}).llm is llm
    changed = chat.call(None, {"backend_options": {"b": 2}}).llm
    assert changed is not llm
    assert changed.origin is not None
    assert dict(changed.origin.options) == {"grid": grid, "a": 1, "b": 2}
    assert (changed.extractor, changed.calibration, changed.config) == (extractor, llm.calibration, llm.config)
    assert chat.call(None, {"backend_options": {"b": 2}}).llm is changed
    another = chat.call(None, {"model": "2", "backend": "other"}).llm
    assert another.origin is not None
    assert dict(another.origin.options) == {}
    assert another.extractor is not extractor
    assert another.calibration is None


def test_a_model_that_somebody_closed_is_opened_again_for_those_who_named_it() -> None:
    chat = ChatIntrospective(model="1", backend="world")
    chat.call(None, {}).llm.close()
    assert chat.invoke("q").text
    assert len(World.begun) == 2
