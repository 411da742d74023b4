"""The engine: one thread owns an open model, and the requests of all callers share its forward passes.

Nothing else touches the backend or its tokenizer, so nothing else needs a lock. Callers hand in requests and wait on
futures; who cancels one is gone by the next call of the backend. The thread starts with the first request, ends with
the engine, and never keeps a program from ending.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from zip_introspect.answers.extraction import AnswerExtractor, default_extractor
from zip_introspect.backend.contract import Backend
from zip_introspect.errors import BackendError
from zip_introspect.events import Event, SearchFailed, SearchFinished
from zip_introspect.result import GenerationResult
from zip_introspect.search.continuous_batch import ContinuousBatch, Entry
from zip_introspect.search.request import Checked

T = TypeVar("T")

INTAKE = 0.02
"""Seconds between two calls of the backend for what callers bring: a thousand prompts are not encoded at one go."""
LOOK_AFTER = 1.0
"""Seconds of waiting, after which one looks whether there is still something to wait for."""
AT_EXIT = 10.0
"""Seconds that a program waits for the calls in progress when it ends."""
CLOSED = "this model is closed; open it again with IntrospectiveLLM.from_pretrained"


@dataclass(eq=False)
class Job:
    """Something to do on the engine's thread, and the future that holds what came of it."""

    work: Callable[[], Any]
    future: Future[Any]
    prefills: bool = False


@dataclass(eq=False)
class Search:
    """A request to search: made on the engine's thread, where prompts are encoded.

    Args:
        prepare: the request, checked; what it raises is the caller's.
        tell: is given every event but `SearchFailed` on the engine's thread, and must not wait; an error of its own
            cancels the search. What a search failed with is the future's alone, so that the end is told once.
        index: the prompt's place in the caller's batch.
    """

    prepare: Callable[[], Checked]
    extractor: AnswerExtractor = default_extractor
    tell: Callable[[Event], None] | None = None
    index: int = 0
    future: Future[GenerationResult] = field(default_factory=Future)


@dataclass(eq=False)
class Together:
    """Searches that begin only if all of them can: what is wrong with one is told to all."""

    searches: list[Search]
    prepared: list[Checked] = field(default_factory=list)


Brought = Job | Search | Together
Inbox = SimpleQueue["tuple[Engine, Brought | None] | None"]
"""What is brought, with the engine, which lives on until it is done; None when nobody holds that any more."""


class Engine:
    """Runs the searches of all callers on one backend.

    Args:
        backend: an open one, which from now on nothing else touches.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._batch = ContinuousBatch(backend)
        self._searches: dict[Entry, Search] = {}
        self._inbox: Inbox = SimpleQueue()
        self._brought: deque[Brought] = deque()
        self._deferred: list[Brought] = []
        """What waits for the place of a sequence."""
        self._books = threading.RLock()
        """Held to put something into the inbox, never while the model works. A signal's handler may close the model."""
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._closed = self._at_once = self._silent = False
        """Nothing more is brought; what runs is not waited for; nobody is told."""
        self._freed: Future[None] = Future()

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked any more: it was closed, or its thread did not come along into this process."""
        return self._closed or self._forked

    def ask(self, work: Callable[[], T], *, prefills: bool = False) -> T:
        """Do something on the thread that owns the model, between two calls of the backend, and wait for it.

        Args:
            prefills: whether it takes the place of a sequence meanwhile, and so waits until there is one.

        Raises:
            BackendError: the model is closed, or was left behind by a fork.
        """
        future: Future[T] = Future()
        self._bring(Job(work, future, prefills))
        return self.wait(future)

    def search(self, search: Search) -> Future[GenerationResult]:
        """Search a prompt; cancelling the future frees its sequences at the next call of the backend.

        Raises:
            BackendError: the model is closed, or was left behind by a fork.
        """
        self._bring(search)
        return search.future

    def search_all(self, searches: list[Search], whole: bool) -> list[Future[GenerationResult]]:
        """Search many prompts.

        Args:
            whole: begin only when all are known to be sound.

        Raises:
            BackendError: the model is closed, or was left behind by a fork.
        """
        for item in [Together(searches)] if whole and searches else searches:
            self._bring(item)
        return [search.future for search in searches]

    def close(self, wait: bool = True) -> None:
        """Free the model. Closing twice is harmless.

        Args:
            wait: for what runs to end; otherwise it ends at the next call of the backend, with what it has.
        """
        freed = self.begin_to_close(wait)
        if threading.current_thread() is not self._thread:
            freed.result()
            if self._thread is not None and not self._forked:
                self._thread.join()  # it has nothing left to do but to end

    def begin_to_close(self, wait: bool, silent: bool = False) -> Future[None]:
        """`close`, and a future that is done when the model has been freed.

        Args:
            silent: leave those who wait for results waiting: they are about to end with the program.
        """
        if self._forked:  # the model is the parent's, and so may be whoever holds the lock
            self._closed = True
            return _done()
        with self._books:
            first, self._closed = not self._closed, True
            self._at_once, self._silent = self._at_once or not wait, self._silent or silent
            if self._thread is None:
                if first:
                    _settle(self._freed, self.backend.close)
            elif not self._freed.done():
                self._inbox.put((self, None))
        return self._freed

    @property
    def _forked(self) -> bool:
        return self._thread is not None and self._process != os.getpid()

    def _bring(self, item: Brought) -> None:
        if self._forked:
            raise BackendError(
                f"this model was used in process {self._process}, and its thread did not come along into process "
                f"{os.getpid()}, which was forked from that; open the model anew, or start processes by 'spawn'"
            )
        if threading.current_thread() is self._thread:
            raise BackendError(
                "a model was asked from within its own search, by an extractor or a strategy, and would wait for "
                "itself; ask another one, or ask when the search is over"
            )
        with self._books:
            if self._closed:
                raise BackendError(CLOSED)
            if self._thread is None:
                self._start()
            self._inbox.put((self, item))
            if self._freed.done():  # a signal's handler closed the model just now
                raise BackendError(CLOSED)

    def wait(self, future: Future[T]) -> T:
        """The result, for a caller without an event loop; an interrupted one does not want it any more."""
        try:
            while True:
                try:
                    return future.result(LOOK_AFTER)
                except TimeoutError:
                    if future.done():
                        raise
                    self.check_there()
        except BaseException:
            future.cancel()
            raise

    def check_there(self) -> None:
        """Refuse to wait for a model that ended without a word, or is another process's; raises `BackendError`."""
        if self._forked or (self._silent and self._freed.done()):
            raise BackendError(CLOSED)

    def _start(self) -> None:
        self._process, inbox = os.getpid(), self._inbox
        gone = weakref.ref(self, lambda _: inbox.put(None))
        thread = threading.Thread(target=_serve, args=(inbox, gone), name="zip-introspect engine", daemon=True)
        thread.start()  # it may be that the process can have no more of them
        self._thread = thread
        _running[self._thread] = weakref.ref(self)
        atexit.unregister(_end_all)
        atexit.register(_end_all)  # last, and so before what the backend's libraries do at the end

    def work(self, item: Brought | None) -> bool:
        """Do what was brought, and all that comes meanwhile; whether the engine goes on to live."""
        self._receive(item)
        while self._closed or self._busy:
            if self._closed and (self._at_once or not self._busy):
                self._end()
                return False
            self._round()
        return True

    @property
    def _busy(self) -> bool:
        return bool(self._brought or self._deferred or self._batch or not self._inbox.empty())

    def _round(self) -> None:
        try:
            self._take_in()
            self._leave_cancelled()
            for entry, event in self._batch.round():
                self._tell(entry, event)
        except BaseException as error:  # noqa: BLE001 - whatever it is, no caller is left waiting for ever
            self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        for entry, event in self._batch.fail_all(error):
            self._tell(entry, event)
        for search in self._searches.values():  # one that had left, and was not told
            _fail(search.future, error)
        self._searches.clear()

    def _receive(self, item: Brought | None) -> None:
        if item is not None:
            self._brought.append(item)
        with contextlib.suppress(Empty):
            while (received := self._inbox.get_nowait()) is not None:
                if received[1] is not None:
                    self._brought.append(received[1])

    def _take_in(self) -> None:
        """What callers have brought, for a moment."""
        self._brought.extendleft(reversed(self._deferred))
        self._deferred.clear()
        begun = time.perf_counter()
        while time.perf_counter() - begun < INTAKE:
            self._receive(None)
            if not self._brought:
                return
            self._take(self._brought.popleft())

    def _take(self, item: Brought) -> None:
        if isinstance(item, Together):
            self._take_together(item)
        elif item.future.cancelled():
            return
        elif isinstance(item, Job):
            if item.prefills and not self._batch.has_room():
                self._deferred.append(item)
            else:
                _settle(item.future, item.work)
        else:
            with failing(item.future):
                self._join(item, item.prepare())

    def _take_together(self, item: Together) -> None:
        """Prepare one of them, and go on with the next one after what is due meanwhile."""
        if all(search.future.cancelled() for search in item.searches):
            return
        with failing(*(search.future for search in item.searches)):
            item.prepared.append(item.searches[len(item.prepared)].prepare())
            if len(item.prepared) < len(item.searches):
                self._brought.appendleft(item)
                return
            for search, checked in zip(item.searches, item.prepared, strict=True):
                self._join(search, checked)

    def _join(self, search: Search, checked: Checked) -> None:
        entry = Entry(checked, search.index, search.extractor, live=search.tell is not None)
        self._batch.join(entry)
        self._searches[entry] = search

    def _leave_cancelled(self) -> None:
        for entry, search in list(self._searches.items()):
            if search.future.cancelled():
                del self._searches[entry]
                self._batch.leave(entry)

    def _tell(self, entry: Entry, event: Event) -> None:
        search = self._searches[entry]
        if isinstance(event, SearchFailed):
            del self._searches[entry]
            _fail(search.future, event.error)
            return
        if search.tell is not None:
            try:
                search.tell(event)
            except BaseException:  # noqa: BLE001 - an event loop that has ended: nobody listens any more
                search.future.cancel()
        if isinstance(event, SearchFinished):
            del self._searches[entry]
            _resolve(search.future, event.result)

    def _end(self) -> None:
        if not self._silent:
            self._fail_all(BackendError("the model was closed before the search had ended"))
            self._receive(None)
            for item in (*self._deferred, *self._brought):
                for future in [s.future for s in item.searches] if isinstance(item, Together) else [item.future]:
                    _fail(future, BackendError(CLOSED))
            self._brought.clear()
        _settle(self._freed, self.backend.close)


@contextlib.contextmanager
def failing(*futures: Future[Any]) -> Iterator[None]:
    """Give an error raised within to whoever waits for a future."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - it is the waiting caller's
        for future in futures:
            _fail(future, error)


def _fail(future: Future[Any], error: BaseException) -> None:
    told = error
    if isinstance(error, StopIteration):  # neither a coroutine nor a future of asyncio can raise it
        told = RuntimeError(f"it raised StopIteration: {error}")
        told.__cause__ = error
    with contextlib.suppress(InvalidStateError):  # cancelled a moment ago
        future.set_exception(told)


def _resolve(future: Future[Any], result: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled a moment ago
        future.set_result(result)


def _settle(future: Future[T], work: Callable[[], T]) -> None:
    with failing(future):
        _resolve(future, work())


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


def _serve(inbox: Inbox, _: weakref.ref[Engine]) -> None:
    """The engine's thread, until nobody holds the engine: while it waits, only what is brought to it does."""
    while (received := inbox.get()) is not None:
        engine, item = received
        if not engine.work(item):
            return
        del engine, item, received


_running: weakref.WeakKeyDictionary[threading.Thread, weakref.ref[Engine]] = weakref.WeakKeyDictionary()


def _end_all() -> None:
    """At the end of the program: what still runs ends at the next call of its backend, so that none is cut off."""
    latest = time.monotonic() + AT_EXIT
    running = list(_running.items())
    for engine in [reference() for _, reference in running]:
        if engine is not None:
            engine.begin_to_close(wait=False, silent=True)
    for thread, _ in running:  # a call that goes on for ever keeps no program from ending
        thread.join(max(0.0, latest - time.monotonic()))
