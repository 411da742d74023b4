"""Continuous batching: requests join between two calls of the backend, share every forward pass, leave when they end.

Each round is one decision for every request that is due one, then one call of `Backend.advance` for the samples of all.
A call may be shorter than what was decided: it ends in time for whoever has a deadline, is due a decision, or waits to
join. What is left comes in the next call, before another decision, so that no decision depends on who shares a call.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from zip_introspect.answers.extraction import AnswerExtractor, default_extractor
from zip_introspect.backend.contract import Advanced, Backend, Prefilled
from zip_introspect.errors import BackendError
from zip_introspect.events import DecisionMade, Event, SearchFailed, SearchFinished, SearchStarted
from zip_introspect.result import GenerationResult
from zip_introspect.search.batch_results import nothing
from zip_introspect.search.prompt_search import Move, PromptSearch, failure
from zip_introspect.search.request import Checked, Request, check
from zip_introspect.search.samples import Reading

CONCURRENCY = 64
"""Requests that run at once; more of them wait."""
PATIENCE = 0.5
"""Seconds that a call may take: somebody may wait to join, or may have gone."""
FLOCK = 0.01
"""Seconds of the first call after idleness: callers come in flocks, and those behind the first need not wait long."""
FIRST = 16
"""Steps of a call, at most, while nobody knows how long one takes."""
_WAIT = 1e-3  # seconds, for what another model's call leaves of a budget
_SPENT = "the shared budget is spent"
WORTH = 6
"""A call takes so many times as long as the round around it, where it can: short calls are mostly overhead."""


@dataclass(eq=False)
class Entry:
    """A request in the batch. Its events name it by `index`, its place in the caller's own batch."""

    checked: Checked
    index: int = 0
    extractor: AnswerExtractor = default_extractor
    live: bool = False
    """Whether growing samples are decoded and reported."""
    search: PromptSearch | None = None
    """None while it waits."""


Told = tuple[Entry, Event]
Turn = tuple[Entry, PromptSearch, list[Move]]


class ContinuousBatch:
    """The requests that run and those that wait, first come, first served.

    Args:
        backend: nothing else may touch it while this is in use.
        concurrency: how many requests run at once.
    """

    def __init__(self, backend: Backend, concurrency: int = CONCURRENCY) -> None:
        self._backend, self._concurrency = backend, concurrency
        self._waiting: deque[Entry] = deque()
        self._running: list[Entry] = []
        self._pace: tuple[float, int] | None = None
        """Seconds a step of the last call, and for how many sequences."""
        self._overhead = 0.0
        """Seconds that a round takes beside its call."""
        self._prefill_pace = 0.0
        """Seconds a token of the last prompts that were computed."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def __iter__(self) -> Iterator[Entry]:
        yield from self._running
        yield from self._waiting

    def has_room(self) -> bool:
        """Whether the backend surely has room for one sequence more."""
        most = self._backend.info.max_sequences
        return most is None or sum(min(item.checked.sequences, most) for item in self._running) < most

    def join(self, entry: Entry) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(entry)

    def leave(self, entry: Entry) -> None:
        """Drop a request, and give its sequences back; one that has left already is passed over."""
        if entry in self._running:
            self._running.remove(entry)
        elif entry in self._waiting:
            self._waiting.remove(entry)
        if entry.search is not None:
            entry.search.release()
        entry.checked.ledger.close()

    def clear(self) -> None:
        """Drop all requests."""
        for entry in list(self):
            self.leave(entry)

    def round(self) -> Iterator[Told]:
        """Let requests in, decide for those that are due it, and advance all; yields what there is to tell."""
        begun, idle = time.perf_counter(), not self._running
        yield from self._give_up_waiting()
        yield from self._admit()
        turns: list[Turn] = []
        for entry in list(self._running):
            yield from self._decide(entry, turns)
        if turns:
            yield from self._advance(turns, begun, FLOCK if idle else PATIENCE)
        elif any(entry.checked.ledger.waits for entry in self):
            time.sleep(_WAIT)  # another model has reserved the rest of a budget that it shares with this one

    def fail_all(self, error: BaseException) -> Iterator[Told]:
        """End all requests, each with the samples that it has."""
        yield from self._fail_each(list(self), error)

    def _give_up_waiting(self) -> Iterator[Told]:
        """End those whose time, or whose shared budget, is over before their turn came."""
        for entry, what in [(entry, what) for entry in self._waiting if (what := _too_late(entry))]:
            yield self._give_up(entry, what)

    def _give_up(self, entry: Entry, what: str) -> Told:
        self.leave(entry)
        detail = f"{what} before its turn came"
        return entry, SearchFinished(entry.index, nothing(entry.checked, self._backend.grid, "budget", detail))

    def _admit(self) -> Iterator[Told]:
        """Start as many waiting requests as there is room for; their prompts are computed in one batch.

        Those who wait for what others have reserved of a shared budget keep their place, and nobody waits behind them.
        """
        joining: list[Entry] = []
        late: list[Entry] = []
        for entry in list(self._waiting):
            ledger = entry.checked.ledger
            if ledger.waits:
                continue
            if not self._fits(joining, entry):
                break
            present = (other.checked.ledger.part for other in (*self._running, *joining))
            if ledger.part is not None and not ledger.part.carried_beside(present):
                continue  # its prompt is not paid for while nothing would be left to answer it with
            with ledger.alone():
                begins, waits = entry.checked.begin(), ledger.waits
            if begins:
                self._waiting.remove(entry)
                joining.append(entry)
            elif not waits:
                late.append(entry)
        self._running.extend(joining)  # and so sure to be released
        for entry in late:
            yield self._give_up(entry, _SPENT)
        if not joining:
            return
        begun = time.perf_counter()
        made = _prefill(self._backend, [entry.checked.request for entry in joining])
        tokens = sum(len(entry.checked.request.tokens) for entry in joining)
        self._prefill_pace = (time.perf_counter() - begun) / tokens
        told: list[Told] = []  # once every search has its sequences, and so is sure to release them
        for entry, prefilled in zip(joining, made, strict=True):
            try:
                if isinstance(prefilled, BaseException):
                    raise failure(prefilled)
                entry.search = self._begin(entry, prefilled)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is this request's alone
                if isinstance(prefilled, Prefilled):
                    self._backend.release([prefilled.sequence])
                if isinstance(error, BackendError):
                    error.partial = [self._nothing(entry, str(error))]
                told.extend(self._fail(entry, error))
            else:
                expected = entry.search.samples.expected
                told.append((entry, SearchStarted(entry.index, _tokens(entry), expected, entry.checked.strategy.name)))
        yield from told

    def _begin(self, entry: Entry, prefilled: Prefilled) -> PromptSearch:
        backend, stops = self._backend, entry.checked.request.config.stop
        thoughts = entry.checked.thoughts
        reading = Reading(backend.decode, backend.decode_stream, entry.extractor, stops, entry.live, thoughts)
        return PromptSearch(entry.index, entry.checked, prefilled, backend, reading)

    def _fits(self, joining: Sequence[Entry], entry: Entry) -> bool:
        """Whether a request may start beside those that run and those that are about to."""
        present = [*self._running, *joining]
        if not present:
            return True
        if len(present) >= self._concurrency:
            return False
        info = self._backend.info
        sequences = sum(item.checked.sequences for item in present) + entry.checked.sequences
        if any(limit is not None and sequences > limit for limit in (info.max_sequences, info.resident_sequences)):
            return False
        if info.resident_tokens is not None:
            held = sum(item.search.held_tokens if item.search else _tokens(item) for item in present)
            room_to_grow = sum(item.checked.samples_at_once * item.checked.request.config.interval for item in present)
            if held + room_to_grow + _tokens(entry) > info.resident_tokens:
                return False
        # Those who run wait for a prompt to be computed: one at a time, if it takes long.
        prompts = sum(map(_tokens, joining))
        return not (self._running and prompts and (prompts + _tokens(entry)) * self._prefill_pace > PATIENCE)

    def _decide(self, entry: Entry, turns: list[Turn]) -> Iterator[Told]:
        search = entry.search
        assert search is not None
        try:
            decision, moves = search.decide()
            result = None if moves or search.waits else search.result()
        except BaseException as error:  # noqa: BLE001 - a strategy's, or a grader's: this request's alone
            yield from self._fail(entry, self._with_samples(entry, error))
            return
        if decision is not None:
            yield entry, DecisionMade(search.index, decision)
        if result is None:
            if moves:
                turns.append((entry, search, moves))
            return
        try:
            self.leave(entry)
        finally:  # its result is there, whatever becomes of its sequences
            yield entry, SearchFinished(search.index, result)

    def _advance(self, turns: list[Turn], begun: float, patience: float) -> Iterator[Told]:
        """One call of the backend for all."""
        sequences = sum(len(moves) for *_, moves in turns)
        most = self._steps(turns, sequences, patience)
        turns = [(entry, search, search.shorten(moves, most)) for entry, search, moves in turns]
        everyone = [move for *_, moves in turns for move in moves]
        started = time.perf_counter()
        try:
            results = self._backend.advance([move.sequence for move in everyone], [move.steps for move in everyone])
        except BaseException as error:  # noqa: BLE001 - whatever fails here fails for all who share the call
            yield from self._fail_each([entry for entry, *_ in turns], error)
            return
        seconds = time.perf_counter() - started
        steps = max(len(result.tokens) for result in results)
        self._pace = seconds / max(steps, 1), sequences
        place = 0
        for entry, search, moves in turns:
            mine: list[Advanced] = results[place : place + len(moves)]
            place += len(moves)
            try:
                events = search.absorb(moves, mine, seconds, steps)
            except BaseException as error:  # noqa: BLE001 - its logits, its extractor: this request's alone
                yield from self._fail(entry, self._with_samples(entry, error))
            else:
                for event in events:
                    yield entry, event
        self._overhead = time.perf_counter() - begun - seconds

    def _steps(self, turns: Sequence[Turn], sequences: int, patience: float) -> int:
        """Serial steps of the next call: it ends where most of what runs is due a decision.

        Those who are due earlier wait for it, by one interval of their own at most, and from then on are due together.
        """
        wanted = sorted(
            ((max(move.steps for move in moves), len(moves), entry) for entry, _, moves in turns),
            key=lambda item: item[0],
        )
        longest = wanted[-1][0]
        left = [search.ledger.seconds_left for _, search, _ in turns]
        hurry = min((seconds for seconds in left if seconds is not None), default=math.inf)
        if self._pace is None:
            return min(longest, FIRST) if hurry == math.inf else 1
        pace = self._pace[0] * max(1.0, sequences / self._pace[1])
        if not pace:
            return longest
        due = itertools.accumulate(count for _, count, _ in wanted)
        most = next(steps for (steps, *_), count in zip(wanted, due, strict=True) if 2 * count >= sequences)
        patient = min(steps + entry.checked.request.config.interval for steps, _, entry in wanted)
        steps = max(min(most, patient), math.ceil(WORTH * self._overhead / pace))
        return max(1, int(min(steps, longest, max(1.0, patience / pace), hurry / pace)))

    def _fail_each(self, entries: Sequence[Entry], error: BaseException) -> Iterator[Told]:
        told = failure(error)
        for entry in entries:
            own = BackendError(str(told), [self._partial(entry, str(told))])
            own.__cause__ = told.__cause__ or told
            yield from self._fail(entry, own)

    def _fail(self, entry: Entry, error: BaseException) -> Iterator[Told]:
        with contextlib.suppress(BaseException):  # what failed before is what is told
            self.leave(entry)
        yield entry, SearchFailed(entry.index, error)

    def _with_samples(self, entry: Entry, error: BaseException) -> BaseException:
        if isinstance(error, BackendError) and not error.partial:
            error.partial = [self._partial(entry, str(error))]
        return error

    def _partial(self, entry: Entry, detail: str) -> GenerationResult:
        """What a request has that fails: without its samples, where their texts cannot be told either."""
        if entry.search is not None:
            with contextlib.suppress(BaseException):
                return entry.search.broken_off(detail)
        return self._nothing(entry, detail)

    def _nothing(self, entry: Entry, detail: str) -> GenerationResult:
        return nothing(entry.checked, self._backend.grid, "error", detail)


def run(
    backend: Backend,
    requests: Sequence[Request | Checked],
    *,
    extractor: AnswerExtractor = default_extractor,
    live: bool = False,
    concurrency: int = CONCURRENCY,
) -> Generator[Event, None, None]:
    """Search every prompt in this thread; one `SearchFinished` or `SearchFailed` each.

    Closing the iterator ends the search and releases every sequence, as every other way out does.

    Args:
        live: yield `SampleAdvanced` too; each sample is decoded as it grows.

    Raises:
        PromptError, ConfigError, BudgetError, BackendError: as `check`, before the model runs.
    """
    checked = [item if isinstance(item, Checked) else check(item, backend) for item in requests]
    batch = ContinuousBatch(backend, concurrency)
    for index, item in enumerate(checked):
        batch.join(Entry(item, index, extractor, live))
    try:
        while batch:
            for _, event in batch.round():
                yield event
    finally:
        batch.clear()


def _tokens(entry: Entry) -> int:
    return len(entry.checked.request.tokens)


def _too_late(entry: Entry) -> str | None:
    """What is over; None where it may still begin."""
    ledger = entry.checked.ledger
    if ledger.part is not None and ledger.part.spent:
        return _SPENT
    if ledger.budget.max_seconds is not None and ledger.exhausted() == "seconds":
        return "the budget's limit on seconds is reached"
    return None


def _prefill(backend: Backend, requests: Sequence[Request]) -> list[Prefilled | BaseException]:
    """Prompts in one batch; one by one where that fails, so that only those fail that have to."""
    try:
        return list(backend.prefill([request.tokens for request in requests]))
    except BaseException as error:  # noqa: BLE001 - told to those whose prompt it was
        if len(requests) == 1:
            return [error]
    return [made for request in requests for made in _prefill(backend, [request])]
