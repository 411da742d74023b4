"""Many prompts in one call: their searches share forward passes, and may share one budget."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Literal, cast, overload

from zip_introspect.answers.extraction import AnswerExtractor
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BudgetError, PromptError, ZipIntrospectError
from zip_introspect.prompts import Prompt, check_batch
from zip_introspect.result import GenerationResult
from zip_introspect.search.batch_results import of_prompt, one_each, raise_first, refuse
from zip_introspect.search.engine import LOOK_AFTER, Engine, Search
from zip_introspect.search.request import CallSettings, Preparation, settled
from zip_introspect.shared_budget import total_of

Completed = tuple[int, "GenerationResult | ZipIntrospectError"]
"""A prompt's place, and what came of it."""


class BatchCalls(ABC):
    """The calls of `IntrospectiveLLM` that take many prompts."""

    config: GenerationConfig
    extractor: AnswerExtractor
    _engine: Engine

    @overload
    def batch(
        self, prompts: Sequence[Prompt], *, return_exceptions: Literal[False] = False, **settings: Any
    ) -> list[GenerationResult]: ...

    @overload
    def batch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool, **settings: Any
    ) -> list[GenerationResult | ZipIntrospectError]: ...

    def batch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool = False, **settings: Any
    ) -> list[GenerationResult] | list[GenerationResult | ZipIntrospectError]:
        """Answer many prompts; their samples share forward passes. Results come in the order of the prompts.

        Args:
            return_exceptions: put the error of a prompt in its place instead of raising the first one. Without it,
                bad input is refused before any prompt runs.
            settings: as the keyword arguments of `generate`. `budget` holds for each prompt, `total_budget` for all of
                them together; `budget` and `hand_on` may be lists, one for each.

        Raises:
            ZipIntrospectError: as `generate`.
            NonFiniteLogitsError: `partial` holds one result for each prompt, in order.
        """
        futures = self._begin(prompts, settings, return_exceptions)
        try:
            outcomes = [future.exception() or future.result() for future in futures]
        finally:
            _cancel(futures)
        return self._all(outcomes, return_exceptions)

    @overload
    async def abatch(
        self, prompts: Sequence[Prompt], *, return_exceptions: Literal[False] = False, **settings: Any
    ) -> list[GenerationResult]: ...

    @overload
    async def abatch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool, **settings: Any
    ) -> list[GenerationResult | ZipIntrospectError]: ...

    async def abatch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool = False, **settings: Any
    ) -> list[GenerationResult] | list[GenerationResult | ZipIntrospectError]:
        """`batch`, awaited. Cancelling it frees what it holds at the next call of the backend."""
        import asyncio

        futures = self._begin(prompts, settings, return_exceptions)
        awaited = [asyncio.wrap_future(future) for future in futures]
        return self._all(await asyncio.gather(*awaited, return_exceptions=True), return_exceptions)

    def batch_as_completed(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool = False, **settings: Any
    ) -> Generator[Completed, None, None]:
        """`batch`, each result as soon as it is there, with the place of its prompt. Closing it stops the others.

        Raises:
            ZipIntrospectError: as `batch`; bad input is refused at once, not at the first result.
        """
        futures = self._begin(prompts, settings, return_exceptions)
        done: SimpleQueue[int] = SimpleQueue()
        for place, future in enumerate(futures):
            future.add_done_callback(partial(_note, done, place))
        reading = self._completed(futures, done, return_exceptions)
        weakref.finalize(reading, _cancel, futures).atexit = False  # one that nobody reads of has no end of its own
        return reading

    async def abatch_as_completed(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool = False, **settings: Any
    ) -> AsyncGenerator[Completed, None]:
        """`batch_as_completed`, awaited. Closing or cancelling it stops the others."""
        import asyncio

        futures = self._begin(prompts, settings, return_exceptions)

        async def one(place: int, future: Future[GenerationResult]) -> tuple[int, Any]:
            return place, (await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True))[0]

        tasks = [asyncio.ensure_future(one(*item)) for item in enumerate(futures)]
        try:
            for task in asyncio.as_completed(tasks):
                place, outcome = await task
                yield place, self._all([outcome], return_exceptions)[0]
        finally:
            for task in tasks:
                task.cancel()
            _cancel(futures)

    def _completed(
        self, futures: Sequence[Future[GenerationResult]], done: SimpleQueue[int], return_exceptions: bool
    ) -> Generator[Completed, None, None]:
        try:
            for _ in futures:
                place = self._next_of(done)
                outcome = futures[place].exception() or futures[place].result()
                yield place, self._all([outcome], return_exceptions)[0]
        finally:
            _cancel(futures)

    def _next_of(self, done: SimpleQueue[int]) -> int:
        while True:
            try:
                return done.get(timeout=LOOK_AFTER)
            except Empty:
                self._engine.check_there()

    def _begin(
        self, prompts: Sequence[Prompt], settings: dict[str, Any], return_exceptions: bool
    ) -> list[Future[GenerationResult]]:
        """Start a search for each prompt; without `return_exceptions`, once all are known to be sound."""
        check_batch(prompts)
        budgets = one_each(settings.get("budget"), len(prompts), "budget")
        choices = one_each(settings.get("hand_on"), len(prompts), "hand_on")
        settled(cast(CallSettings, settings), self.config)  # bad ones are no prompt's in particular
        total = total_of(None, settings.get("total_budget"))
        searches: list[Search] = []
        preparations: list[Preparation] = []
        try:
            for place, (prompt, budget, hand_on) in enumerate(zip(prompts, budgets, choices, strict=True)):
                own = cast(CallSettings, {**settings, "budget": budget, "total_budget": total, "hand_on": hand_on})
                try:
                    preparation = self._prepare(prompt, own)
                except (PromptError, BudgetError) as error:
                    preparation = Preparation(partial(refuse, error))
                preparations.append(preparation)
                prepare = preparation if return_exceptions else partial(of_prompt, place, preparation, preparations)
                searches.append(Search(prepare, self.extractor, index=place))
                searches[-1].future.add_done_callback(preparation.withdraw)
            return self._engine.search_all(searches, whole=not return_exceptions)
        except BaseException:
            _cancel([search.future for search in searches])
            raise

    def _all(self, outcomes: Sequence[Any], return_exceptions: bool) -> list[Any]:
        found = [self._calibrated(item) if isinstance(item, GenerationResult) else item for item in outcomes]
        if not return_exceptions:
            raise_first(found)
        return found

    @abstractmethod
    def _prepare(self, prompt: Prompt, settings: CallSettings) -> Preparation: ...

    @abstractmethod
    def _calibrated(self, result: GenerationResult) -> GenerationResult: ...


def _note(done: SimpleQueue[int], place: int, _: Future[GenerationResult]) -> None:
    done.put(place)


def _cancel(futures: Sequence[Future[GenerationResult]]) -> None:
    for future in futures:
        future.cancel()
