"""One model, many callers: threads take turns, tasks work beside the event loop, and who is cancelled does not wait."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from zip_introspect.errors import BackendError

_POLL = 0.05  # seconds between looks at a cancellation while waiting for the model

T = TypeVar("T")


class Turns:
    """The lock on a model, and the searches that were left while another caller held it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._left: deque[Generator[Any, None, None]] = deque()

    @contextlib.contextmanager
    def hold(self, stop: threading.Event | None = None) -> Iterator[None]:
        """Hold the model.

        Raises:
            BackendError: `stop` was set while this waited.
        """
        while not self._lock.acquire(timeout=-1 if stop is None else _POLL):
            if stop is not None and stop.is_set():
                raise BackendError("the call was cancelled before its turn came")
        try:
            yield
        finally:
            self._lock.release()
            self._sweep()

    def leave(self, search: Generator[Any, None, None]) -> None:
        """Close a search, now or, where another caller holds the model, when that ends its turn."""
        self._left.append(search)
        self._sweep()

    def _sweep(self) -> None:
        while self._left and self._lock.acquire(blocking=False):
            try:
                while self._left:
                    self._left.popleft().close()
            finally:
                self._lock.release()


async def in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run blocking work beside the event loop. A cancellation sets `stop`, and waits until the work has ended."""
    import asyncio  # costs a tenth of this package's import, and most programs never come here

    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller hears of
        raise
