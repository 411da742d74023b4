"""Whatever callers ask of one model at once shares its forward passes, and none of them waits for another's reading."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.scripted import GatedBackend
from zip_introspect import BackendError, Budget, GenerationConfig, GenerationResult, IntrospectiveLLM, SearchFinished
from zip_introspect.backend.contract import Advanced, SequenceId
from zip_introspect.search.engine import Job
from zip_introspect.testing.simulator import SimulatedBackend

CONFIG = GenerationConfig(interval=4, beta=0.05)
PROMPTS = [f"question {number}" for number in range(12)]


class PacedBackend(SimulatedBackend):
    """A serial step takes so many seconds, for however many sequences."""

    def __init__(self, pace: float, max_sequences: int | None = None) -> None:
        super().__init__(max_sequences=max_sequences)
        self.pace, self.calls = pace, 0

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        self.calls += 1
        time.sleep(self.pace * max(steps))
        return super().advance(sequences, steps)


def until(condition: Any) -> bool:
    """Whether something comes true, on a machine however busy."""
    deadline = time.monotonic() + 30.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return bool(condition())


def in_threads(works: Sequence[Any]) -> list[Any]:
    """What calls at once, each in a thread of its own, come to."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


async def test_tasks_share_the_passes_of_one_batch() -> None:
    backend = PacedBackend(0.002)
    llm = IntrospectiveLLM(backend, CONFIG)
    together = await llm.abatch(PROMPTS)
    calls, backend.calls = backend.calls, 0
    found = await asyncio.gather(*(llm.agenerate(prompt) for prompt in PROMPTS))
    assert [out.samples for out in found] == [out.samples for out in together]
    assert backend.calls <= 2 * calls, "one by one they would take twelve times as many"


def test_threads_share_the_passes_of_one_batch() -> None:
    backend = PacedBackend(0.002)
    llm = IntrospectiveLLM(backend, CONFIG)
    together = llm.batch(PROMPTS)
    calls, backend.calls = backend.calls, 0
    found = in_threads([lambda prompt=prompt: llm.generate(prompt) for prompt in PROMPTS])
    assert [out.samples for out in found] == [out.samples for out in together]
    assert backend.calls <= 2 * calls


def test_streams_and_batches_and_calls_share_them_too() -> None:
    backend = GatedBackend()
    llm = IntrospectiveLLM(backend, CONFIG.replace(strategy="best_of_n"))
    backend.gate.set()
    alone = llm.generate("a").samples
    backend.close_gate(after=0)
    held: list[int] = []
    advance = backend.advance

    def noting(*given: Any) -> list[Advanced]:
        held.append(backend.held)
        time.sleep(0.02)  # a stream begins once its prompt is known to be sound: a round later than the others
        return advance(*given)

    backend.advance = noting  # type: ignore[assignment, method-assign]
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(llm.generate, "a")
        assert backend.reached.wait(30)
        second, third = pool.submit(lambda: list(llm.stream("b"))), pool.submit(llm.batch, ["c", "d"])
        assert until(lambda: llm._engine._inbox.qsize() >= 2)
        backend.gate.set()
        assert first.result().samples == alone
        assert len(second.result()) > len(third.result()) == 2
    assert 3 * 9 < max(held) <= 4 * 9


def test_waiting_counts_in_the_seconds_of_a_budget() -> None:
    backend = GatedBackend(max_sequences=9)
    llm = IntrospectiveLLM(backend, CONFIG.replace(strategy="best_of_n"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(llm.generate, "first")
        assert backend.reached.wait(30)
        second = pool.submit(llm.generate, "second", budget=Budget(max_seconds=0.05))
        assert until(lambda: llm._engine._inbox.qsize() == 1)
        time.sleep(0.06)
        backend.gate.set()
        late = second.result()
    assert (late.finish_reason, late.stop_reason, late.samples) == ("budget", "budget", ())
    assert late.stop_detail == "the budget's limit on seconds is reached before its turn came"
    assert late.usage.seconds >= 0.05
    assert late.usage.prompt_tokens == 6
    assert first.result().finish_reason == "stop"


def test_many_callers_with_a_deadline_are_back_soon_after_it() -> None:
    backend = PacedBackend(0.004)
    llm = IntrospectiveLLM(backend, CONFIG.replace(strategy="best_of_n"))
    begun = time.perf_counter()
    budget = Budget(max_seconds=0.5)
    found = in_threads([lambda n=n: llm.generate(f"question {n}", budget=budget) for n in range(64)])
    assert time.perf_counter() - begun < 8.0, "one after another they would take half a minute"
    assert {out.finish_reason for out in found} <= {"budget", "stop"}
    assert any(out.samples for out in found)
    assert until(lambda: backend.held == 0)


def test_an_endless_deadline_is_none() -> None:
    llm = IntrospectiveLLM(SimulatedBackend(), CONFIG)
    alone = [llm.generate(prompt) for prompt in PROMPTS]
    ample = llm.batch(PROMPTS, budget=Budget(max_seconds=1e307))
    assert [out.samples for out in ample] == [out.samples for out in alone]


def test_who_reads_a_stream_slowly_delays_nobody() -> None:
    backend = SimulatedBackend()
    llm = IntrospectiveLLM(backend, CONFIG)
    alone = [event.kind for event in llm.stream("slow")]
    slow = llm.stream("slow")
    kinds = [next(slow).kind]
    assert llm.generate("quick").finish_reason == "stop"
    assert until(lambda: backend.held == 0), "the slow one's search has ended, too, though nobody reads"
    assert kinds + [event.kind for event in slow] == alone


async def test_a_slow_reader_of_an_async_stream_delays_nobody() -> None:
    backend = SimulatedBackend()
    llm = IntrospectiveLLM(backend, CONFIG)
    slow = llm.astream("slow")
    await anext(slow)
    assert (await llm.agenerate("quick")).finish_reason == "stop"
    assert until(lambda: backend.held == 0), "though the loop stands still"
    events = [event async for event in slow]
    assert isinstance(events[-1], SearchFinished)


def test_a_stream_that_is_closed_frees_its_sequences() -> None:
    backend = PacedBackend(0.02)
    llm = IntrospectiveLLM(backend, CONFIG.replace(strategy="best_of_n", interval=1))
    events = llm.stream("q")
    assert next(events).kind == "started"
    events.close()
    assert until(lambda: backend.held == 0)
    assert backend.calls < 5


class NoExecutor(ThreadPoolExecutor):
    def submit(self, *given: Any, **more: Any) -> Future[Any]:
        raise AssertionError("somebody waits in the loop's own executor")


async def test_nothing_waits_in_the_executor_of_the_loop() -> None:
    asyncio.get_running_loop().set_default_executor(NoExecutor())
    llm = IntrospectiveLLM(SimulatedBackend(), CONFIG)
    one, many = await asyncio.gather(llm.agenerate("a"), llm.abatch(["b", "c"]))
    assert [out.finish_reason for out in (one, *many)] == ["stop"] * 3
    assert [event async for event in llm.astream("d")]


async def test_the_loop_turns_while_the_model_is_at_work() -> None:
    backend = GatedBackend()
    llm = IntrospectiveLLM(backend, CONFIG)
    first = asyncio.create_task(llm.agenerate("first"))
    while not backend.reached.is_set():
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(llm.agenerate(prompt)) for prompt in PROMPTS]
    stream = llm.astream("stream")
    others.append(asyncio.create_task(anext(stream)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    for task in others:
        task.cancel()
    assert all(isinstance(out, asyncio.CancelledError) for out in await asyncio.gather(*others, return_exceptions=True))
    assert not backend.gate.is_set(), "all this happened within one call of the backend"
    backend.gate.set()
    assert (await first).finish_reason == "stop"
    assert until(lambda: backend.held == 0)


def test_an_extractor_that_asks_its_own_model_is_an_error_and_not_a_deadlock() -> None:
    backend, other = SimulatedBackend(), IntrospectiveLLM(SimulatedBackend(), CONFIG)
    llm = IntrospectiveLLM(backend, CONFIG, extractor=lambda text: llm.generate(text).answer)
    with pytest.raises(BackendError, match="asked from within its own search") as caught:
        llm.generate("q")
    assert caught.value.partial[0].samples
    llm.extractor = lambda text: other.generate(text or "nothing").answer
    assert llm.generate("q").answer is not None
    assert backend.held == 0


def test_a_callback_of_a_future_that_asks_the_model_is_told_so_too() -> None:
    llm = IntrospectiveLLM(SimulatedBackend(), CONFIG)
    told: list[BackendError] = []

    def ask(_: Future[int]) -> None:
        with pytest.raises(BackendError, match="from within") as caught:
            llm.generate("q")
        told.append(caught.value)

    gate = threading.Event()
    asked: Future[int] = Future()
    llm._engine._bring(Job(lambda: int(gate.wait(30)), asked))
    future = asked
    future.add_done_callback(ask)
    gate.set()
    assert future.result(30) == 1
    assert until(lambda: told)


def test_ten_thousand_requests_wait_without_burden() -> None:
    backend = SimulatedBackend()
    llm = IntrospectiveLLM(backend, CONFIG.replace(strategy="single", interval=64))
    seconds: list[float] = []
    for count in (300, 3_000):
        begun = time.perf_counter()
        assert all(isinstance(out, GenerationResult) for out in llm.batch(["q"] * count))
        seconds.append((time.perf_counter() - begun) / count)
    assert seconds[1] < 3 * seconds[0], "what waits costs the others little"
    assert not llm._engine._searches
    assert backend.held == 0
