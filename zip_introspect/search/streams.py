"""The events of one search, in a queue of the caller's own: who reads slowly delays nobody."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from zip_introspect.answers.extraction import AnswerExtractor
from zip_introspect.events import Event
from zip_introspect.result import GenerationResult
from zip_introspect.search.engine import LOOK_AFTER, Engine, Search
from zip_introspect.search.request import Checked


def stream(engine: Engine, checked: Checked, extractor: AnswerExtractor) -> Generator[Event, None, None]:
    """Begin to search, and tell on the way. Closing it frees the search's sequences at the next call of the backend.

    Raises:
        ZipIntrospectError: what the search failed with.
    """
    events: SimpleQueue[Event | None] = SimpleQueue()
    future = engine.search(Search(lambda: checked, extractor, events.put))
    future.add_done_callback(lambda _: events.put(None))
    reading = _read(engine, events, future)
    weakref.finalize(reading, future.cancel).atexit = False  # one that nobody ever reads of has no end of its own
    return reading


def _read(
    engine: Engine, events: SimpleQueue[Event | None], future: Future[GenerationResult]
) -> Generator[Event, None, None]:
    try:
        while True:
            try:
                event = events.get(timeout=LOOK_AFTER)
            except Empty:
                engine.check_there()
                continue
            if event is None:
                break
            yield event
    finally:
        future.cancel()
    future.result()


async def astream(
    engine: Engine, prepare: Callable[[], Checked], extractor: AnswerExtractor
) -> AsyncGenerator[Event, None]:
    """`stream`, awaited."""
    import asyncio  # costs a tenth of this package's import, and most programs never come here

    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

    def tell(event: Event | None) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    def end(_: Future[GenerationResult]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed, and nobody reads on
            tell(None)

    future = engine.search(Search(prepare, extractor, tell))
    future.add_done_callback(end)
    try:
        while (event := await events.get()) is not None:
            yield event
    finally:
        future.cancel()
    future.result()
