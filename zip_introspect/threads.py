"""Work in threads of our own: never in an executor of others, which whoever waits there would fill."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Work in a thread that does not keep the program alive, as those of an executor do."""
    from concurrent import futures

    future: Future[T] = futures.Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except StopIteration as error:  # a future cannot hold it
            future.set_exception(RuntimeError(f"it raised StopIteration: {error}"))
        except BaseException as error:  # noqa: BLE001 - it is the waiting thread's
            with contextlib.suppress(futures.InvalidStateError):
                future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def within(work: Callable[[], T], seconds: float | None) -> T:
    """Do work in this thread, or where it must not take longer, in one that can be left behind.

    Raises:
        TimeoutError: it took longer.
    """
    if seconds is None:
        return work()
    return in_thread(work).result(timeout=seconds)


def finished(output: Any) -> Any:
    """What an `async` function returns, where there is no loop to await it in."""
    if not inspect.isawaitable(output):
        return output
    import asyncio

    async def awaited() -> Any:
        return await output

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(awaited())
    return in_thread(lambda: asyncio.run(awaited())).result()  # as in notebooks: this thread's loop is running


def in_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a loop in a thread of its own, so that it may be done within a running loop too."""
    import asyncio
    from concurrent.futures import Future, ThreadPoolExecutor

    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def main() -> T:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(contextvars.copy_context().run, asyncio.run, main())
        try:
            return done.result()
        except BaseException:  # Ctrl-C: the work ends at its next interval, and then the thread
            loop, task = begun.result()
            if task is not None and not done.done():
                with contextlib.suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)
            raise
