"""Batches share forward passes, and still every input is a run of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from typing import Any
from uuid import UUID

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from langchain_zip_introspect import ChatIntrospective, IntrospectiveRunnable, TextIntrospective
from tests.scripted import FaultyBackend, GatedBackend, freed, nan_in_the_last, out_of_memory, unchanged
from zip_introspect import (
    BackendError,
    Budget,
    BudgetError,
    ConfigError,
    GenerationConfig,
    GenerationResult,
    IntrospectiveLLM,
    NonFiniteLogitsError,
    PromptError,
    SharedBudget,
)
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05, strategy="best_of_n", max_samples=2, seed=0)
PROMPTS = ["a", "b", "c", "d"]
IMAGE = HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])


class Runs(BaseCallbackHandler):
    """What became of each run."""

    def __init__(self) -> None:
        self.started: dict[UUID, tuple[str, list[str], dict[str, Any]]] = {}
        self.ended: dict[UUID, str] = {}
        self.failed: dict[UUID, BaseException] = {}

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        self.started[run_id] = (str(messages[0][-1].content), tags or [], metadata or {})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        self.ended[run_id] = response.generations[0][0].text

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.failed[run_id] = error


def counting(pace: float = 0.0) -> FaultyBackend:
    return FaultyBackend(unchanged, at=-1, pace=pace)


KINDS: list[type[Any]] = [ChatIntrospective, TextIntrospective, IntrospectiveRunnable]


def text(output: Any) -> str:
    return output if isinstance(output, str) else str(getattr(output, "text", output))


async def batched(way: str, runnable: Runnable[Any, Any], *args: Any, **kwargs: Any) -> list[Any]:
    return await runnable.abatch(*args, **kwargs) if way == "abatch" else runnable.batch(*args, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_a_batch_shares_forward_passes_and_says_the_same(kind: type[Any], way: str) -> None:
    backend = counting(pace=0.02)
    runnable = kind(llm=IntrospectiveLLM(backend, CONFIG))
    alone = [text(runnable.invoke(prompt)) for prompt in PROMPTS]
    sequential, backend.calls = backend.calls, 0
    together = await batched(way, runnable, PROMPTS)
    assert [text(output) for output in together] == alone
    assert backend.calls <= sequential / 2
    assert freed(backend)


def test_a_batch_of_typed_results(llm: IntrospectiveLLM) -> None:
    results = IntrospectiveRunnable(llm=llm).batch(PROMPTS)
    assert all(isinstance(result, GenerationResult) for result in results)
    assert [result.samples for result in results] == [result.samples for result in llm.batch(PROMPTS)]


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_every_input_is_a_run_with_its_own_config(llm: IntrospectiveLLM, way: str) -> None:
    chat = ChatIntrospective(llm=llm, tags=["all"])
    handlers = [Runs() for _ in PROMPTS]
    configs: list[RunnableConfig] = [
        {"callbacks": [handler], "tags": [f"tag-{prompt}"], "metadata": {"prompt": prompt}}
        for handler, prompt in zip(handlers, PROMPTS, strict=True)
    ]
    outputs = await batched(way, chat, PROMPTS, configs)
    for handler, prompt, output in zip(handlers, PROMPTS, outputs, strict=True):
        ((run, (asked, tags, metadata)),) = handler.started.items()
        assert asked == prompt
        assert set(tags) == {"all", f"tag-{prompt}"}
        assert metadata["prompt"] == prompt
        assert handler.ended == {run: output.text}
        assert output.id is not None
        assert str(run) in output.id


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_a_chain_batches_too(way: str) -> None:
    backend = counting(pace=0.02)
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | ChatIntrospective(
        llm=IntrospectiveLLM(backend, CONFIG)
    )
    alone = [chain.invoke({"q": prompt}).text for prompt in PROMPTS]
    sequential, backend.calls = backend.calls, 0
    assert [out.text for out in await batched(way, chain, [{"q": prompt} for prompt in PROMPTS])] == alone
    assert backend.calls <= sequential / 2


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_what_is_in_the_cache_is_not_computed_again(way: str) -> None:
    backend = counting()
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG), cache=InMemoryCache())
    first = await batched(way, chat, ["a", "b"])
    prefills = backend.calls
    again = await batched(way, chat, ["a", "b"])
    assert backend.calls == prefills
    assert [out.text for out in again] == [out.text for out in first]
    mixed = await batched(way, chat, ["b", "c", "a"])
    assert backend.calls > prefills
    assert [mixed[2].text, mixed[0].text] == [out.text for out in first]
    assert chat.invoke("c").text == mixed[1].text


def test_different_settings_do_not_share_cache_entries(llm: IntrospectiveLLM) -> None:
    cache = InMemoryCache()
    plain = ChatIntrospective(llm=llm, cache=cache)
    other = ChatIntrospective(llm=IntrospectiveLLM(llm.backend, llm.config.replace(seed=9)), cache=cache)
    assert plain.invoke("q").response_metadata["introspection"]["seed"] == 0
    assert other.invoke("q").response_metadata["introspection"]["seed"] == 9
    assert plain.invoke("q", seed=5).response_metadata["introspection"]["seed"] == 5


def test_the_rate_limiter_is_asked_for_each_input(llm: IntrospectiveLLM) -> None:
    class Counter(InMemoryRateLimiter):
        asked = 0

        async def aacquire(self, *, blocking: bool = True) -> bool:
            self.asked += 1
            return True

    limiter = Counter()
    ChatIntrospective(llm=llm, rate_limiter=limiter).batch(PROMPTS)
    assert limiter.asked == len(PROMPTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_one_bad_prompt_of_many(kind: type[Any], way: str, llm: IntrospectiveLLM) -> None:
    runnable, inputs = kind(llm=llm), ["a", " ", "c"]
    outputs = await batched(way, runnable, inputs, return_exceptions=True)
    assert [type(output) for output in outputs] == [type(outputs[0]), PromptError, type(outputs[0])]
    assert [text(outputs[0]), text(outputs[2])] == [text(runnable.invoke(prompt)) for prompt in ["a", "c"]]
    with pytest.raises(PromptError, match="expected text to answer"):
        await batched(way, runnable, inputs)


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_an_image_in_one_of_many(way: str, llm: IntrospectiveLLM) -> None:
    handler = Runs()
    inputs = [[HumanMessage("a")], [IMAGE], [HumanMessage("c")]]
    outputs = await batched(way, ChatIntrospective(llm=llm), inputs, {"callbacks": [handler]}, return_exceptions=True)
    assert isinstance(outputs[1], PromptError)
    assert len(handler.started) == 3
    assert (len(handler.ended), list(handler.failed.values())) == (2, [outputs[1]])
    with pytest.raises(PromptError, match="message 0, a HumanMessage"):
        await batched(way, ChatIntrospective(llm=llm), inputs, {"callbacks": [Runs()]})


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_a_model_that_fails_for_one_prompt_answers_the_others(way: str) -> None:
    backend = FaultyBackend(nan_in_the_last)
    handler = Runs()
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    outputs = await batched(way, chat, ["a", "b"], {"callbacks": [handler]}, return_exceptions=True)
    first, second = sorted(outputs, key=lambda output: isinstance(output, Exception))
    assert first.text
    assert isinstance(second, NonFiniteLogitsError)
    assert (len(handler.ended), len(handler.failed)) == (1, 1)
    assert freed(backend)


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_a_model_that_fails_for_all_closes_every_run(way: str) -> None:
    class Full(SimulatedBackend):
        def advance(self, *_: Any) -> Any:
            return out_of_memory([])

    backend, handler = Full(), Runs()
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    with pytest.raises(BackendError, match="no room"):
        await batched(way, chat, PROMPTS, {"callbacks": [handler]})
    assert set(handler.started) == set(handler.failed)
    assert freed(backend)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_empty_batch(kind: type[Any], llm: IntrospectiveLLM) -> None:
    assert kind(llm=llm).batch([]) == []
    assert await kind(llm=llm).abatch([]) == []


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_bad_settings_are_refused_before_anything_runs(way: str) -> None:
    backend, handler = counting(), Runs()
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG))
    refused: list[dict[str, Any]] = [{"temperature": -1}, {"tools": []}]
    for settings in refused:
        with pytest.raises(ConfigError):
            await batched(way, chat, PROMPTS, {"callbacks": [handler]}, return_exceptions=True, **settings)
    assert not handler.started
    assert not backend.calls


def test_settings_of_a_batch_hold_for_all(llm: IntrospectiveLLM) -> None:
    outputs = ChatIntrospective(llm=llm).batch(PROMPTS, stop=["ans"], max_samples=3, strategy="best_of_n")
    assert all("ans" not in output.text for output in outputs)
    assert {len(output.response_metadata["introspection"]["samples"]) for output in outputs} == {3}


async def test_max_concurrency_bounds_how_many_run_together() -> None:
    most = 0

    class Watched(FaultyBackend):
        def advance(self, *arguments: Any) -> Any:
            nonlocal most
            most = max(most, self.held)
            return super().advance(*arguments)

    chat = ChatIntrospective(llm=IntrospectiveLLM(Watched(unchanged, at=-1, pace=0.02), CONFIG))
    together = [out.text for out in await chat.abatch(PROMPTS)]
    assert most > 6, "more than two prompts with two samples each"
    most = 0
    assert [out.text for out in await chat.abatch(PROMPTS, {"max_concurrency": 2})] == together
    assert most <= 6


async def test_cancelling_a_batch_closes_every_run_and_releases_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, handler = GatedBackend(), Runs()
    llm = IntrospectiveLLM(backend, CONFIG)
    chat = ChatIntrospective(llm=llm)
    asked: list[Any] = []
    agenerate = llm.agenerate

    async def noted(prompt: Any, **settings: Any) -> Any:
        asked.append(prompt)
        return await agenerate(prompt, **settings)

    monkeypatch.setattr(llm, "agenerate", noted)
    task = asyncio.create_task(chat.abatch(PROMPTS, {"callbacks": [handler]}))
    while not (backend.reached.is_set() and len(asked) == len(PROMPTS)):  # the gate is shut, so none has ended
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(handler.started) == set(handler.failed)
    backend.gate.set()
    assert freed(backend)
    assert chat.invoke("a").text


async def test_events_of_a_batch_are_streamed_as_each_ends(llm: IntrospectiveLLM) -> None:
    chat = ChatIntrospective(llm=llm)

    async def both(_: Any) -> list[str]:
        return [out.text for out in await chat.abatch(["a", "b"])]

    events = [event async for event in RunnableLambda(both).astream_events("go", version="v2")]
    streamed = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
    assert sorted(streamed) == sorted(out.text for out in chat.batch(["a", "b"]))


async def test_a_sync_batch_within_a_running_loop(llm: IntrospectiveLLM) -> None:
    assert [out.text for out in ChatIntrospective(llm=llm).batch(["a"])] == [llm.generate("a").text]


def test_an_interrupted_batch_stops_at_the_next_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = counting(pace=0.02)
    chat = ChatIntrospective(llm=IntrospectiveLLM(backend, CONFIG.replace(interval=1)))

    class Interrupted(futures.ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(*args, **kwargs)
            wait = future.result

            def result(timeout: float | None = None) -> Any:
                while backend.calls < 2:
                    threading.Event().wait(0.005)
                monkeypatch.setattr(future, "result", wait)
                raise KeyboardInterrupt

            monkeypatch.setattr(future, "result", result)
            return future

    with monkeypatch.context() as patched:
        patched.setattr(futures, "ThreadPoolExecutor", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            chat.batch(PROMPTS)
    assert backend.calls < 20
    assert freed(backend)
    assert chat.batch(["a"])[0].text


def test_a_total_budget_is_for_all_inputs_together() -> None:
    with IntrospectiveLLM(SimulatedBackend(), CONFIG) as llm:
        chat = ChatIntrospective(llm=llm)
        answers = chat.batch([f"question {number}" for number in range(12)], total_budget=Budget(max_tokens=90))
        used = [answer.usage_metadata["output_tokens"] for answer in answers]
        assert 0 < sum(used) <= 90
        ample = chat.batch(PROMPTS, total_budget=100_000)
        free = chat.batch(PROMPTS)
        assert [answer.content for answer in ample] == [answer.content for answer in free]


async def test_calls_of_a_run_share_a_budget() -> None:
    shared = SharedBudget(60)
    with IntrospectiveLLM(SimulatedBackend(), CONFIG) as llm:
        chat = ChatIntrospective(llm=llm, budget=shared)
        first = chat.invoke("one")
        more = await chat.abatch(PROMPTS, total_budget=None)
        used = [answer.usage_metadata["output_tokens"] for answer in (first, *more)]
        assert sum(used) == shared.tokens <= 60
        assert "budget" not in chat.to_json()["kwargs"]  # what is left of it cannot be written
        own = ChatIntrospective(llm=llm).invoke("two", budget=shared)
        assert own.usage_metadata is not None
        assert own.usage_metadata["output_tokens"] <= 60 - sum(used)
        with pytest.raises(BudgetError, match="give one of the two"):
            chat.invoke("three", total_budget=SharedBudget(5))
        # LangChain calls the model once for each input of these, which would give each of them a total of its own.
        with pytest.raises(BudgetError, match="give SharedBudget"):
            chat.generate([[HumanMessage("one")], [HumanMessage("two")]], total_budget=5)
        with pytest.raises(BudgetError, match="give SharedBudget"):
            list(chat.batch_as_completed(["one", "two"], total_budget=5))
        with pytest.raises(BudgetError, match="a ladder takes none"):
            chat.with_escalation(lambda prompt: "42", min_confidence=0.5).invoke("four")
