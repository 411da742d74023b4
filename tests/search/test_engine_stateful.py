"""Random arrivals, cancellations, deadlines and faults: no sequence is left, no answer lost, no future unresolved.

Ten thousand steps against the simulated world, whose calls are let through one by one, so that requests overlap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.scripted import nan_in_the_last
from tests.searches import request, results, untimed
from zip_introspect.answers.extraction import default_extractor
from zip_introspect.backend.contract import Advanced, Prefilled, SequenceId
from zip_introspect.budget import Budget
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, PromptError
from zip_introspect.events import DecisionMade, Event, SampleAdvanced, SearchFinished, SearchStarted
from zip_introspect.result import GenerationResult
from zip_introspect.search import continuous_batch
from zip_introspect.search.engine import Engine, Job, Search
from zip_introspect.search.request import Checked, Request, check
from zip_introspect.testing.simulator import SimulatedBackend

LONG = 60.0
"""Seconds after which something hangs, on a machine however busy."""


class StormyBackend(SimulatedBackend):
    """Lets calls of `advance` through as they are permitted, and plays each fault that is due once."""

    def __init__(self, max_sequences: int) -> None:
        super().__init__(max_sequences=max_sequences)
        self.permits, self.free = threading.Semaphore(0), threading.Event()
        self.due: list[str] = []
        self.played = 0
        self.closed = False
        self.prompts: list[str] = []
        """Those that were computed, in order."""

    def play(self, fault: str) -> bool:
        if fault not in self.due:
            return False
        self.due.remove(fault)
        self.played += 1
        return True

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        self.prompts.extend(text for prompt in prompts if (text := bytes(prompt).decode()) not in self.prompts)
        if self.play("prefill"):
            raise BackendError("no prompt today")
        return super().prefill(prompts)

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        if self.play("fork"):
            raise ValueError("no fork today")
        return super().fork(sequence, samples, sampling)

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        while not self.free.is_set() and not self.permits.acquire(timeout=0.002):
            pass
        if self.play("advance"):
            raise MemoryError("no room today")
        made = super().advance(sequences, steps)
        return nan_in_the_last(made) if self.play("nan") else made

    def release(self, sequences: Sequence[SequenceId]) -> None:
        super().release(sequences)
        if self.play("release"):
            raise RuntimeError("released, and broken")

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def _raising(error: BaseException) -> Callable[[str], str | None]:
    def extractor(text: str) -> str | None:
        raise error

    return extractor


def _deaf(event: Event) -> None:
    raise RuntimeError("Event loop is closed")


EXTRACTORS: dict[str, tuple[Callable[[str], str | None], type[BaseException]]] = {
    "sound": (default_extractor, BackendError),
    "raises": (_raising(ValueError("what is this?")), ValueError),
    "exits": (_raising(SystemExit(3)), SystemExit),
    "stops": (_raising(StopIteration("over")), RuntimeError),
}
KINDS: list[dict[str, Any]] = [
    {"strategy": "zip_rc"},
    {"strategy": "zip_rc", "smoothing": 3, "interval": 7},
    {"strategy": "best_of_n", "max_samples": 3},
    {"strategy": "single", "interval": 16},
    {"strategy": "beam_search", "interval": 5},
    {"strategy": "majority_vote", "max_samples": 2, "seed": 5},
]
BUDGETS = [Budget(), Budget(), Budget(max_tokens=37), Budget(max_samples=2), Budget(max_depth=9)]
HURRIED = [Budget(max_seconds=1e-6), Budget(max_seconds=0.01, max_tokens=50), Budget(max_seconds=1e305)]


@dataclass(eq=False)
class Asked:
    """A request and what became of it."""

    wanted: Request
    search: Search
    extractor: str = "sound"
    faults_before: int = 0
    cancelled: bool = False
    deaf: bool = False
    events: list[Event] = field(default_factory=list)
    resolved: list[Future[Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def resolve(self, future: Future[GenerationResult]) -> None:
        self.resolved.append(future)
        self.ended.set()

    @property
    def text(self) -> str:
        return bytes(self.wanted.tokens).decode()


ALONE: dict[tuple[str, int], dict[str, Any]] = {}


def alone(wanted: Request, room: int) -> dict[str, Any]:
    """What a request comes to where nothing else runs."""
    key = (repr(wanted), room)
    if key not in ALONE:
        (found,) = results(SimulatedBackend(max_sequences=room), [wanted])
        ALONE[key] = untimed(found)
    return ALONE[key]


@settings(max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
class Storm(RuleBasedStateMachine):
    """Callers of one engine, in a storm."""

    @initialize(room=st.sampled_from([2, 3, 9, 30]), patience=st.sampled_from([0.25, 1e-4, 0.0]))
    def open(self, room: int, patience: float) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(continuous_batch, "PATIENCE", patience)  # how far calls are cut
        self.room, self.backend = room, StormyBackend(room)
        self.engine = Engine(self.backend)
        self.asked: list[Asked] = []
        self.calls: list[tuple[Job, int]] = []
        self.wait = True

    def _asked(self, kind: dict[str, Any], budget: Budget, tell: str = "", extractor: str = "sound") -> Asked:
        wanted = request(f"{len(self.asked)}", budget, **kind)
        if budget.max_seconds is None and extractor == "sound":
            alone(wanted, self.room)
        asked = Asked(wanted, Search(lambda: self._check(wanted)), extractor, deaf=tell == "deaf")
        asked.search.extractor = EXTRACTORS[extractor][0]
        asked.search.tell = {"": None, "deaf": _deaf, "reader": asked.events.append}[tell]
        asked.search.future.add_done_callback(asked.resolve)
        asked.faults_before = self.backend.played
        self.asked.append(asked)
        return asked

    def _check(self, wanted: Request) -> Checked:
        return check(wanted, self.backend)

    @rule(
        kind=st.sampled_from(KINDS),
        budget=st.sampled_from(BUDGETS + HURRIED),
        tell=st.sampled_from(["", "", "reader", "reader", "deaf"]),
        extractor=st.sampled_from(["sound"] * 5 + list(EXTRACTORS)),
    )
    def ask(self, kind: dict[str, Any], budget: Budget, tell: str, extractor: str) -> None:
        self.engine.search(self._asked(kind, budget, tell, extractor).search)

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), whole=st.booleans())
    def ask_many(self, kinds: list[dict[str, Any]], whole: bool) -> None:
        self.engine.search_all([self._asked(kind, Budget()).search for kind in kinds], whole)

    @rule(sound=st.integers(0, 2), after=st.integers(0, 2))
    def ask_many_of_which_one_is_unsound(self, sound: int, after: int) -> None:
        searches = [Search(lambda: self._check(request("sound"))) for _ in range(sound + 1 + after)]
        searches[sound].prepare = lambda: self._check(request(""))
        for future in self.engine.search_all(searches, whole=True):
            self._let(5)
            with pytest.raises(PromptError, match="no tokens"):
                future.result(LONG)

    @rule(number=st.integers(0, 99), fails=st.booleans())
    def call(self, number: int, fails: bool) -> None:
        call = Job(lambda: 1 // 0 if fails else number, Future())
        self.engine._bring(call)
        self.calls.append((call, -1 if fails else number))

    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        pending = [asked for asked in self.asked if not asked.search.future.done()]
        if pending:
            asked = pending[which % len(pending)]
            asked.cancelled = asked.search.future.cancel()

    @rule(fault=st.sampled_from(["advance", "prefill", "fork", "nan", "release"]))
    def fault(self, fault: str) -> None:
        self.backend.due.append(fault)

    @rule(calls=st.integers(1, 8))
    def let_through(self, calls: int) -> None:
        self._let(calls)
        time.sleep(0.0005)

    def _let(self, calls: int) -> None:
        for _ in range(calls):
            self.backend.permits.release()

    @rule(wait=st.booleans())
    def mean_to_wait_at_the_end(self, wait: bool) -> None:
        self.wait = wait

    @rule()
    def drain(self) -> None:
        """All answers come, and then nothing is held."""
        self.backend.free.set()
        for asked in self.asked:
            assert asked.ended.wait(LONG)
        self._nothing_is_held()
        self.backend.free.clear()
        self._look()

    def _nothing_is_held(self) -> None:
        latest = time.monotonic() + LONG
        while self.backend.held and time.monotonic() < latest:
            time.sleep(0.001)
        assert self.backend.held == 0

    def _look(self) -> None:
        for asked in self.asked:
            self._look_at(asked)
        for call, number in self.calls:
            error = call.future.exception(LONG)
            if isinstance(error, BackendError):
                assert self.backend.closed
            elif number < 0:
                assert isinstance(error, ZeroDivisionError)
            else:
                assert call.future.result() == number
        order = [asked.text for asked in self.asked]
        came = [int(text) for text in self.backend.prompts if text in order]
        assert came == sorted(came), "first come, first served"

    def _look_at(self, asked: Asked) -> None:
        future = asked.search.future
        assert future.done()
        assert len(asked.resolved) == 1
        if asked.cancelled or asked.deaf:
            return
        error = future.exception()
        if error is None:
            self._look_at_result(asked, future.result())
        else:
            self._look_at_error(asked, error)
        if asked.search.tell is not None:
            self._look_at_events(asked, asked.events)

    def _look_at_result(self, asked: Asked, result: GenerationResult) -> None:
        if asked.wanted.budget.max_seconds is None:
            if asked.extractor == "sound":
                assert untimed(result) == alone(asked.wanted, self.room)
        elif result.finish_reason == "budget" and not result.samples:
            assert "seconds" in result.stop_detail
        else:
            assert result.samples

    def _look_at_error(self, asked: Asked, error: BaseException) -> None:
        if isinstance(error, BackendError):
            assert self.backend.played > asked.faults_before or self.backend.closed
            if "open it again" not in str(error):
                (partial,) = error.partial
                assert partial.finish_reason == "error"
                assert partial.to_json()
        else:
            assert isinstance(error, EXTRACTORS[asked.extractor][1])

    def _look_at_events(self, asked: Asked, events: list[Event]) -> None:
        finished = [event for event in events if isinstance(event, SearchFinished)]
        if asked.search.future.exception() is None:
            assert finished == events[-1:]
            assert finished[0].result is asked.search.future.result()
            if finished[0].result.stop_detail.endswith("before its turn came"):
                assert len(events) == 1
                return
        else:
            assert not finished
        assert [isinstance(event, SearchStarted) for event in events] == [place == 0 for place in range(len(events))]
        decided = [event.decision.index for event in events if isinstance(event, DecisionMade)]
        assert decided == list(range(len(decided)))
        lengths: dict[int, int] = {}
        for event in events:
            if isinstance(event, SampleAdvanced):
                assert event.tokens > lengths.get(event.sample, 0)
                lengths[event.sample] = event.tokens

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        freed = self.engine.begin_to_close(self.wait)
        self.backend.free.set()
        freed.result(LONG)
        self._nothing_is_held()
        self._look()
        with pytest.raises(BackendError, match="closed; open it again"):
            self.engine.ask(int)
        self.patch.undo()


TestStorm = Storm.TestCase
