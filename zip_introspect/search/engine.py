"""The loop: strategies propose, the backend advances every prompt's samples in one batch, the tries grow.

Each round is one decision for every running prompt, then one call of `Backend.advance` for all of them; a limit of
seconds may part the steps of a decision among several calls. A sample that ends within an interval is seen at the
interval's end, since the backend returns once a call: the decision that its ending calls for comes then, at most
`interval` - 1 steps late.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence

from zip_introspect.answers.extraction import AnswerExtractor, default_extractor
from zip_introspect.backend.contract import Advanced, Backend, BackendInfo, Prefilled
from zip_introspect.budget import Ledger
from zip_introspect.errors import BackendError, NonFiniteLogitsError
from zip_introspect.events import DecisionMade, Event, SearchFailed, SearchFinished, SearchStarted
from zip_introspect.result import GenerationResult, Outlook, Usage
from zip_introspect.search.prompt_search import Move, PromptSearch
from zip_introspect.search.request import Checked, Request, check

DEFAULT_CONCURRENCY = 64


def run(
    backend: Backend,
    requests: Sequence[Request | Checked],
    *,
    extractor: AnswerExtractor = default_extractor,
    live: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
) -> Generator[Event, None, None]:
    """Search every prompt, up to `concurrency` of them in lockstep; one `SearchFinished` or `SearchFailed` each.

    Closing the iterator ends the search and releases every sequence, as every other way out does.

    Args:
        live: yield `SampleAdvanced` too; each sample is decoded as it grows.

    Raises:
        PromptError, ConfigError, BudgetError: as `check`, before the model runs.
        BackendError: the backend failed for all; non-finite logits fail their own prompt only.
    """
    checked = [item if isinstance(item, Checked) else check(item, backend.info) for item in requests]
    waiting = deque(enumerate(checked))
    running: list[PromptSearch] = []
    try:
        while waiting or running:
            yield from _admit(backend, waiting, running, extractor, live, concurrency)
            turns: list[tuple[PromptSearch, list[Move]]] = []
            for search in list(running):
                decision, moves = search.decide()
                if decision is not None:
                    yield DecisionMade(search.index, decision)
                if moves:
                    turns.append((search, moves))
                    continue
                running.remove(search)
                search.release()
                yield SearchFinished(search.index, search.result())
            yield from _advance(backend, turns, running)
    finally:
        for search in running:
            search.release()


def _advance(
    backend: Backend, turns: Sequence[tuple[PromptSearch, list[Move]]], running: list[PromptSearch]
) -> Iterator[Event]:
    """One call of the backend for all prompts; those that meet non-finite logits leave `running`."""
    everyone = [move for _, moves in turns for move in moves]
    if not everyone:
        return
    begun = time.perf_counter()
    results = backend.advance([move.sequence for move in everyone], [move.steps for move in everyone])
    seconds = time.perf_counter() - begun
    steps = max(len(result.tokens) for result in results)
    place = 0
    for search, moves in turns:
        mine: list[Advanced] = results[place : place + len(moves)]
        place += len(moves)
        try:
            yield from search.absorb(moves, mine, seconds, steps)
        except NonFiniteLogitsError as error:
            running.remove(search)
            search.release()
            yield SearchFailed(search.index, error)


def _admit(
    backend: Backend,
    waiting: deque[tuple[int, Checked]],
    running: list[PromptSearch],
    extractor: AnswerExtractor,
    live: bool,
    concurrency: int,
) -> Iterator[Event]:
    """Start as many waiting prompts as there is room for; their prompts are computed in one batch."""
    if not waiting:
        return
    places, room = _places(backend.info, waiting[0][1], concurrency)
    batch = [waiting.popleft() for _ in range(min(len(waiting), max(0, places - len(running))))]
    if not batch:
        return
    ledgers = [Ledger(checked.request.budget, len(checked.request.tokens)) for _, checked in batch]
    events: list[Event] = []
    made = _prefill(backend, [(index, checked.request) for index, checked in batch])
    # Every search is in `running`, and so sure to be released, before the first event is handed out.
    for (index, checked), ledger, prefilled in zip(batch, ledgers, made, strict=True):
        try:
            if isinstance(prefilled, NonFiniteLogitsError):
                raise prefilled
            search = PromptSearch(index, checked, ledger, prefilled, backend, extractor, room=room, live=live)
        except NonFiniteLogitsError as error:
            backend.release([prefilled.sequence] if isinstance(prefilled, Prefilled) else [])
            error.partial = [_nothing(checked, ledger, backend, str(error))]
            events.append(SearchFailed(index, error))
        except BaseException:
            backend.release([item.sequence for item in made if isinstance(item, Prefilled)])
            raise
        else:
            running.append(search)
            prompt, config = checked.request.tokens, checked.request.config
            events.append(SearchStarted(index, len(prompt), search.expected, config.strategy))
    yield from events


def _nothing(checked: Checked, ledger: Ledger, backend: Backend, reason: str) -> GenerationResult:
    """What there is of a prompt that failed before its first token."""
    lowest = float(backend.grid.reward_values[0])
    request, strategy = checked.request, checked.strategy
    return GenerationResult(
        text="",
        answer=None,
        confidence=lowest,
        finish_reason="error",
        usage=Usage(len(request.tokens), 0, 0, 0, ledger.seconds, ledger.cost),
        decisions=(),
        samples=(),
        chosen=None,
        stop_reason="error",
        stop_detail=reason,
        expected=Outlook(lowest, 0.0),
        strategy=strategy.name,
        selection=request.config.selection or strategy.selection,
        seed=request.config.sampling.seed,
    )


def _places(info: BackendInfo, checked: Checked, concurrency: int) -> tuple[int, int | None]:
    """How many prompts may run at once, and how many samples each of them may have in the backend."""
    most = info.max_sequences
    if most is not None and most < 2:
        raise BackendError(
            f"the backend holds {most} sequences at once; a search needs 2, the prompt's and one sample's. "
            f"Open the model with a larger max_sequences."
        )
    wanted = checked.samples_at_once + 1
    limits = [limit // wanted for limit in (most, info.resident_sequences) if limit is not None]
    places = max(1, min([concurrency, *limits]))
    return places, None if most is None else most // places - 1


def _prefill(backend: Backend, batch: Sequence[tuple[int, Request]]) -> Sequence[Prefilled | NonFiniteLogitsError]:
    """Prompts in one batch; one by one where some have non-finite logits, so that the others go on."""
    prompts = [request.tokens for _, request in batch]
    try:
        return backend.prefill(prompts)
    except NonFiniteLogitsError as error:
        if len(batch) == 1:
            return [error]
    made: list[Prefilled | NonFiniteLogitsError] = []
    try:
        for item in batch:
            made += _prefill(backend, [item])
    except BaseException:
        backend.release([prefilled.sequence for prefilled in made if isinstance(prefilled, Prefilled)])
        raise
    return made
