"""Models opened by name: shared within the process, each opened once, and different ones side by side."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from zip_introspect.backend.discovery import InstalledBackends
from zip_introspect.demo.embedded import first_installed
from zip_introspect.errors import ModelLoadError
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.model_source import DEMO_NAME, ModelSource
from zip_introspect.paths import expanded
from zip_introspect.threads import in_thread

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that is asked for by name."""

    origin: ModelSource
    like: IntrospectiveLLM | None = None
    """The same model with other options: its settings, extractor and calibration hold for the one that is opened."""

    @property
    def key(self) -> Key:
        """Equal for those that may share one open model."""
        path = Path(expanded(self.origin.model))
        with contextlib.suppress(OSError):
            path = path.resolve() if path.exists() else path
        options = (f"{name}={value!r}" for name, value in sorted(self.origin.options.items()))
        return (str(path), str(self.origin.backend), *options, self.like)

    def resolved(self) -> Wanted:
        """With the backend that opens it, so that one who names it and one who leaves it open share the model.

        Raises:
            ModelLoadError, BackendNotInstalledError: as `IntrospectiveLLM.from_pretrained`.
        """
        backend = self.origin.backend
        if backend is None:
            named = self.origin.model == DEMO_NAME
            backend = first_installed() if named else InstalledBackends().infer(self.origin.model)
        elif isinstance(backend, str) and self.origin.model != DEMO_NAME:
            backend = InstalledBackends().load(backend)
        return replace(self, origin=replace(self.origin, backend=backend))

    def open(self) -> IntrospectiveLLM:
        """Open it, shared with nobody.

        Raises:
            ZipIntrospectError: as `IntrospectiveLLM.open`.
        """
        if self.like is None:
            return IntrospectiveLLM.open(self.origin)
        llm = type(self.like).open(self.origin, self.like.config)
        llm.extractor, llm.calibration = self.like.extractor, self.like.calibration
        return llm


_opened: WeakValueDictionary[Key, IntrospectiveLLM] = WeakValueDictionary()
_opening: dict[Key, Future[IntrospectiveLLM]] = {}
_books = threading.Lock()
"""Held to look into these two, never while a model loads."""


def open_shared(wanted: Wanted) -> IntrospectiveLLM:
    """The model that is wanted: whoever wants the same one while it is in use, or being opened, gets the same object.

    Raises:
        ZipIntrospectError: as `IntrospectiveLLM.open`; all who wait hear of it, and the next one tries again.
    """
    future, mine = _begin(wanted.key)
    if mine:
        _open(wanted, future)
    return future.result()


async def aopen_shared(wanted: Wanted) -> IntrospectiveLLM:
    """`open_shared` beside the event loop. A model whose caller is cancelled is opened to its end all the same."""
    future, mine = _begin(wanted.key)
    if mine:
        in_thread(lambda: _open(wanted, future))
    return await asyncio.wrap_future(future)


def _begin(key: Key) -> tuple[Future[IntrospectiveLLM], bool]:
    """What will be the model, and whether the caller is the one who has to open it."""
    with _books:
        if (future := _opening.get(key)) is not None:
            return future, False
        future = Future()
        future.set_running_or_notify_cancel()  # from now on no one who waits can cancel it for the others
        if (llm := _opened.get(key)) is not None and not llm.closed:
            future.set_result(llm)
            return future, False
        _opening[key] = future
        return future, True


def _open(wanted: Wanted, future: Future[IntrospectiveLLM]) -> None:
    error: BaseException | None = None
    try:
        exact = wanted.resolved()
        llm = wanted.open() if exact.key == wanted.key else open_shared(exact)
    except BaseException as raised:  # noqa: BLE001 - it is raised again, here or where the future is waited for
        error = raised
    with _books:
        del _opening[wanted.key]
        if error is None:
            _opened[wanted.key] = llm
    if error is None:
        future.set_result(llm)
    elif isinstance(error, Exception):
        future.set_exception(error)
    else:
        future.set_exception(ModelLoadError(f"opening {wanted.origin.model!r} was interrupted; open it again"))
        raise error
