"""Where an engine cannot begin, or ends under those who wait: nobody hangs, and what was accepted is done."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from tests.search.test_engine import until
from zip_introspect import BackendError, Budget, IntrospectiveLLM
from zip_introspect.backend.contract import Advanced, SequenceId
from zip_introspect.testing.simulator import SimulatedBackend


class Slow(SimulatedBackend):
    """Calls take `seconds` a step; the first one more."""

    seconds = 0.05
    first = 0.0
    calls = 0

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        self.calls += 1
        time.sleep(self.first if self.calls == 1 and self.first else self.seconds * max(steps, default=0))
        return super().advance(sequences, steps)


def test_a_thread_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with IntrospectiveLLM(SimulatedBackend()) as llm:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(RuntimeError, match="can't start"):
                llm.generate("q")
        assert llm.generate("q").text


def test_introspecting_waits_for_a_place_beside_a_search_that_takes_all() -> None:
    llm = IntrospectiveLLM(Slow(max_sequences=9))
    busy = threading.Thread(target=lambda: llm.generate("q", strategy="majority_vote", max_samples=8))
    busy.start()
    assert until(lambda: getattr(llm.backend, "held", 0) == 9)
    assert 0 <= llm.introspect("another").confidence <= 1
    busy.join()
    llm.close()


def test_a_slow_first_call_does_not_end_a_search_that_has_time() -> None:
    backend = Slow()
    backend.seconds, backend.first = 0.001, 0.6
    with IntrospectiveLLM(backend) as llm:
        result = llm.generate("q", budget=Budget(max_seconds=1.2))
    assert result.usage.generated_tokens > 8


def test_nobody_waits_long_for_a_first_call() -> None:
    backend = Slow()
    backend.seconds = 0.02
    with IntrospectiveLLM(backend) as llm:
        first = threading.Thread(target=lambda: llm.generate("a", strategy="single", interval=256))
        first.start()
        assert until(lambda: backend.calls > 0)
        begun = time.perf_counter()
        llm.generate("b", strategy="single", budget=Budget(max_seconds=0.2))
        assert time.perf_counter() - begun < 3
        first.join()


def test_a_stream_runs_whether_or_not_it_is_read_and_ends_with_whoever_holds_it() -> None:
    backend = Slow()
    llm = IntrospectiveLLM(backend)
    stream = llm.stream("q", interval=1)
    assert until(lambda: backend.calls > 1)
    del stream
    gc.collect()
    assert until(lambda: backend.held == 0)
    accepted = llm.stream("q", max_samples=1)
    llm.close()
    assert list(accepted)


def test_copies_share_a_model() -> None:
    llm = IntrospectiveLLM(SimulatedBackend())
    assert copy.copy(llm) is copy.deepcopy(llm) is llm


AT_EXIT = """
import atexit, time
from zip_introspect import BackendError, IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend

class Slow(SimulatedBackend):
    def advance(self, sequences, steps):
        time.sleep(.05)
        return super().advance(sequences, steps)

@atexit.register
def read():
    try:
        print(len(list(stream)))
    except BackendError as error:
        print("refused:", error)

stream = IntrospectiveLLM(Slow()).stream("q", interval=1)
next(stream)
"""

FORKED = """
import os, time
from zip_introspect import BackendError, IntrospectiveLLM
from zip_introspect.testing.simulator import SimulatedBackend

stream = IntrospectiveLLM(SimulatedBackend()).stream("q", interval=1)
next(stream)
if (child := os.fork()) == 0:
    try:
        while True:
            next(stream)
    except BackendError as error:
        print("refused:", error, flush=True)
    except StopIteration:
        print("refused: it was all there", flush=True)
    os._exit(0)
os.waitpid(child, 0) if child else None
"""


@pytest.mark.parametrize("program", [AT_EXIT, FORKED], ids=["exit", "fork"])
def test_reading_on_of_what_has_gone_is_refused(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout, done.stderr


def test_a_closed_model_refuses_at_once() -> None:
    llm = IntrospectiveLLM(SimulatedBackend())
    llm.close()
    with pytest.raises(BackendError, match="closed"):
        llm.introspect("q")
