"""The search for one prompt: its samples, ledger and strategy, between two calls of the backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from zip_introspect.backend.contract import Advanced, Backend, Prefilled, SequenceId
from zip_introspect.backend.streams import prompt_seed
from zip_introspect.errors import BackendError, NonFiniteLogitsError, ZipIntrospectError
from zip_introspect.events import Event
from zip_introspect.result import Decision, GenerationResult, Outlook, StopReason
from zip_introspect.search.leaving import begun
from zip_introspect.search.outcome import outcome
from zip_introspect.search.request import Checked, HandOn
from zip_introspect.search.samples import UNKNOWN, Reading, Samples, known, outlook
from zip_introspect.search.stopping import sound
from zip_introspect.search.thinking import ThoughtKeeper
from zip_introspect.strategies import Leaf, MetaAction, MetaState


@dataclass(frozen=True, slots=True)
class Move:
    """A sample and the steps it is to take in the next call of the backend."""

    sample: int
    sequence: SequenceId
    steps: int


def failure(error: BaseException) -> BaseException:
    """What to tell of an error that a call of the backend ended with."""
    if isinstance(error, ZipIntrospectError):
        return error
    told = BackendError(f"the backend failed: {type(error).__name__}: {error}. `partial` holds what was generated.")
    told.__cause__ = error
    return told


@contextlib.contextmanager
def _by_the_backend() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        told = failure(error)
        if told is error:
            raise
        raise told from error


class PromptSearch:
    """Asks a strategy what to do, holds it to the budget, and takes in what the backend generated.

    Args:
        index: place of the prompt in its batch.
        reading: how its tokens become texts and answers.
    """

    def __init__(self, index: int, checked: Checked, prefilled: Prefilled, backend: Backend, reading: Reading) -> None:
        request = checked.request
        self.index, self.ledger = index, checked.ledger
        self._checked, self._strategy, self._config = checked, checked.strategy, request.config
        self._backend, self._grid = backend, backend.grid
        self._root, self._cached = prefilled.sequence, prefilled.cached_tokens
        self._prompt_tokens = len(request.tokens)
        sampling = request.config.sampling
        self._sampling = sampling.replace(
            seed=prompt_seed(sampling.seed, request.tokens), confidences=checked.confidences
        )
        self._hand_on = request.hand_on or HandOn()
        longest = min(request.config.max_new_tokens, backend.info.max_context - self._prompt_tokens)
        window = request.config.confidence_window if checked.confidences else 0
        self.samples = Samples(
            index, self._grid, prefilled.joint_logits, request.config.smoothing, longest, reading, window
        )
        most = backend.info.max_sequences
        self._room = None if most is None else min(checked.sequences, most) - 1 - checked.spare
        self._sequences: dict[int, SequenceId] = {}
        self._thoughts: ThoughtKeeper | None = None
        if checked.thoughts is not None:
            self._thoughts = ThoughtKeeper(
                checked.thoughts, request.config, self._sampling, backend, self.samples, self.ledger, self._sequences
            )
        self._running: tuple[int, ...] = ()
        self._rest: dict[int, int] = {}
        self._decisions: list[Decision] = []
        self._stop: tuple[StopReason, str] | None = None
        self._chosen: tuple[MetaAction, MetaState] | None = None
        """What a strategy chose while others reserved what it takes: it is not asked again."""
        self.waits = False
        """Whether others have reserved all that is left of a shared budget: it is asked again after their call."""
        self._priced(self._state())

    @property
    def held_tokens(self) -> int:
        """Tokens whose states the backend may have to hold for it, those of the prompt included."""
        return self._prompt_tokens + sum(self.samples.trie.length(sample) for sample in self._sequences)

    def decide(self) -> tuple[Decision | None, list[Move]]:
        """Take the next decision and prepare the backend for it; no moves means that the search has ended.

        Without a decision: the last one holds, as the call that followed it was cut short to be in time; or it `waits`.

        Raises:
            NonFiniteLogitsError: after a thought was closed; the error holds what there is.
        """
        self.waits = self.ledger.waits
        if self.waits:
            return None, []
        if self._chosen is None:
            if moves := self._going_on():
                return None, moves
            self.waits = any(self._rest.values()) and self.ledger.waits
            if self.waits:
                return None, []
            action, state = self._choose()
        else:
            action, state = self._within_budget(self._chosen[0]), self._chosen[1]
            self._chosen = None
        with self.ledger.alone():
            planned = self._planned(action, state)
            steps = self.ledger.share(planned)
            self.waits = action.stop is None and not any(steps) and self.ledger.waits
        if self.waits:
            self._chosen = action, state
            return None, []
        if action.stop is None and not any(steps):
            action = MetaAction(stop="budget", reason="the budget allows no further step", utility=action.utility)
        if action.stop is not None:
            return self._end(action.stop, action, state), []
        decision, moves = self._run(action, steps, state)
        taken = (count for count, step in zip(planned, steps, strict=True) if step)  # as the moves, in their order
        self._rest = {move.sample: count - move.steps for move, count in zip(moves, taken, strict=True)}
        return decision, moves

    def _choose(self) -> tuple[MetaAction, MetaState]:
        """Ask the strategy, and close the thoughts that are due it."""
        if self._thoughts is not None:
            with _by_the_backend():
                broken = self._thoughts.close(self._running)
            self._check_finite(broken)
        state = self._priced(self._state())
        place = len(self._decisions)
        if self._grid:
            for leaf in state.leaves:
                self.samples.trace(place, leaf.sample, leaf.value, leaf.remaining)
            for sample in self.samples.just_finished:
                self.samples.trace(place, sample, known(self.samples.endings[sample].value), 0.0)
        action = self._strategy.decide(state)
        if not self._decisions:
            action = begun(action, state, self._checked.request, self.samples.longest)
        action = self._within_budget(action)
        if self._thoughts is not None:
            with _by_the_backend():
                action, broken = self._thoughts.last_call(action, self._config.interval)
            self._check_finite(broken)
        return action, state

    def _within_budget(self, action: MetaAction) -> MetaAction:
        limit = self.ledger.exhausted()
        # Where no step is left, what a strategy says of going on is not a choice.
        if limit is not None and action.stop in (None, "utility"):
            total = limit == "total"
            reason = "its part of the shared budget is spent" if total else f"the budget's limit on {limit} is reached"
            return MetaAction(stop="budget", reason=reason, utility=action.utility)
        return action

    def absorb(self, moves: Sequence[Move], results: Sequence[Advanced], seconds: float, steps: int) -> list[Event]:
        """Take in what the backend generated for `moves` in a call that took so many seconds and serial steps.

        Raises:
            BackendError: a sample neither grew nor ended, so that the search would never end.
            NonFiniteLogitsError: a sample met NaN or infinite logits; the error holds what there is.
        """
        counts = [len(result.tokens) for result in results]
        self.ledger.spend(sum(counts), max(counts, default=0), seconds, steps)
        events: list[Event] = []
        broken: list[int] = []
        for move, result in zip(moves, map(sound, results), strict=True):
            if not (len(result.tokens) or result.finished or result.non_finite):
                raise BackendError(
                    f"backend {self._backend.info.backend} gave no token for sample {move.sample} of prompt "
                    f"{self.index}, which may take {move.steps}; expected at least one, or its end"
                )
            if self._sampling.confidences and result.confidences is None:
                raise BackendError(
                    f"backend {self._backend.info.backend} gave no confidences for the tokens of sample {move.sample}, "
                    f"though its info says that it reports them; expected `Advanced.confidences`"
                )
            events.extend(self.samples.grow(move.sample, result))
            if move.sample in self.samples.endings:
                self._release([move.sample])
            elif result.non_finite:
                broken.append(move.sample)
        self._check_finite(broken)
        return events

    def release(self) -> None:
        """Give every sequence of this prompt back to the backend, and what it reserved of a shared budget."""
        self.ledger.close()
        sequences = [self._root, *self._sequences.values()]
        self._sequences.clear()
        self._backend.release(sequences)

    def shorten(self, moves: Sequence[Move], steps: int) -> list[Move]:
        """Moves of at most so many steps; what is left of them comes in the next call, before another decision."""
        for move in moves:
            self._rest[move.sample] = self._rest.get(move.sample, 0) + max(0, move.steps - steps)
        return [replace(move, steps=min(move.steps, steps)) for move in moves]

    def result(self) -> GenerationResult:
        """The outcome, once `decide` has ended the search, or of what there is when it was broken off."""
        stop: tuple[StopReason, str] = self._stop or ("error", "the search was interrupted")
        return outcome(self._checked, self.samples, stop, self._decisions, self._backend, self._cached)

    def broken_off(self, detail: str) -> GenerationResult:
        """What there is when something fails: every sample, whole or not."""
        self._stop = "error", detail
        return self.result()

    def _state(self) -> MetaState:
        tokens_left = self.ledger.tokens_left
        budget_left = [left for left in (tokens_left, self.ledger.depth_left) if left is not None]
        longest, trie = self.samples.longest, self.samples.trie
        limit = min(longest, *budget_left) if budget_left else longest
        leaves = []
        for number in trie.leaves("active", "paused"):
            smoothed, length = trie.joint(number), trie.length(number)
            seen, at_most = outlook(smoothed, self._grid) or UNKNOWN, min(limit, longest - length)
            running, sure = number in self._running, self.samples.token_confidence(number)
            leaves.append(Leaf(number, length, smoothed, seen.value, seen.remaining, at_most, running, sure))
        expected = self.samples.expected or UNKNOWN
        return MetaState(
            decision=len(self._decisions),
            bins=self._grid,
            config=self._config,
            prompt_tokens=self._prompt_tokens,
            root_joint=trie.root_joint,
            root_value=expected.value,
            root_remaining=expected.remaining,
            leaves=tuple(leaves),
            finished=tuple(self.samples.ended()),
            started=len(trie),
            room=self._room_for_new(),
            limit=limit,
            tokens_left=tokens_left,
            hand_on=self._hand_on.worth,
            price=self.ledger.price,
        )

    def _priced(self, state: MetaState) -> MetaState:
        """The state with the price of a token, once a shared budget knows how many this question wants."""
        part = self.ledger.part
        if part is None or not self.ledger.priced or self._grid is None:
            return state
        part.expect(self._strategy.demand(state))
        return replace(state, price=part.price)

    def _room_for_new(self) -> int:
        rooms = [self._checked.samples_at_most - len(self.samples.trie)]
        if self._room is not None:
            rooms.append(self._room - len(self._sequences))
        if self.ledger.samples_left is not None:
            rooms.append(self.ledger.samples_left)
        return max(0, min(rooms))

    def _going_on(self) -> list[Move]:
        """What is left of the last decision's steps, for the samples that have not ended."""
        rest = {sample: count for sample, count in self._rest.items() if count and sample in self._sequences}
        if not rest:
            self._rest = {}
            return []
        steps = [] if self.ledger.exhausted() else self.ledger.share(list(rest.values()))
        moves = [
            Move(sample, self._sequences[sample], count) for sample, count in zip(rest, steps, strict=False) if count
        ]
        self._rest = {sample: count - step for (sample, count), step in zip(rest.items(), steps, strict=False)}
        return moves

    def _planned(self, action: MetaAction, state: MetaState) -> list[int]:
        """Steps until the next decision, for `action.run`, then the copies of `action.forks`, then the new samples."""
        longest = self.samples.longest
        # A negative step would fail everyone in the same call.
        left = {leaf.sample: max(0, longest - self.samples.trie.length(leaf.sample)) for leaf in state.leaves}
        copies = [sample for sample, count in action.forks for _ in range(count)]
        wanted = [left[sample] for sample in (*action.run, *copies)] + [longest] * action.new
        room = len(copies) + action.new
        if room > state.room:
            raise ValueError(f"strategy {self._strategy.name} asked for {room} samples where {state.room} may start")
        if self._thoughts is not None:
            starts = [*action.run, *copies, *[None] * action.new]
            wanted = [self._thoughts.steps(sample, count) for sample, count in zip(starts, wanted, strict=True)]
        return self.ledger.plan([min(self._config.interval, count) for count in wanted])

    def _run(self, action: MetaAction, steps: list[int], state: MetaState) -> tuple[Decision, list[Move]]:
        """Put a meta-action into the backend: pause, branch, and say who moves how far."""
        served = list(zip(action.run, steps, strict=False))
        run = [sample for sample, count in served if count]
        moves = [Move(sample, self._sequences[sample], count) for sample, count in served if count]
        paused = [sample for sample in self._running if sample not in run and sample in self._sequences]
        with _by_the_backend():
            self._backend.pause([self._sequences[sample] for sample in paused if sample not in action.drop])
        for sample in paused:
            self.samples.trie.set_status(sample, "paused")
        place = len(action.run)
        forked: list[tuple[int, int]] = []
        for sample, count in action.forks:
            numbers = self._branch(sample, [n for n in steps[place : place + count] if n], moves)
            forked.extend((sample, number) for number in numbers)
            place += count
        started = self._branch(None, [count for count in steps[place:] if count], moves)
        if action.drop:
            self._drop(action.drop)
        for sample in run:
            self.samples.trie.set_status(sample, "active")
        was_running = set(self._running)
        self._running = tuple(move.sample for move in moves)
        return self._record(
            action,
            state,
            started=started,
            forked=forked,
            continued=[sample for sample in run if sample in was_running],
            resumed=[sample for sample in run if sample not in was_running],
            paused=[sample for sample in paused if sample not in action.drop],
            dropped=list(action.drop),
        ), moves

    def _branch(self, leaf: int | None, steps: list[int], moves: list[Move]) -> list[int]:
        if not steps:
            return []
        numbers = self.samples.branch(leaf, len(steps))
        parent = self._root if leaf is None else self._sequences[leaf]
        with _by_the_backend():
            sequences = self._backend.fork(parent, numbers, self._sampling)
        self._sequences.update(zip(numbers, sequences, strict=True))
        self.ledger.samples += len(numbers)
        moves.extend(Move(*move) for move in zip(numbers, sequences, steps, strict=True))
        return numbers

    def _drop(self, samples: Sequence[int]) -> None:
        self._release(samples)
        self.samples.drop(samples)

    def _release(self, samples: Sequence[int]) -> None:
        """Give the sequences of samples back that have one."""
        with _by_the_backend():
            self._backend.release([self._sequences.pop(sample) for sample in samples if sample in self._sequences])

    def _end(self, stop: StopReason, action: MetaAction, state: MetaState) -> Decision:
        dropped = self.samples.trie.leaves("active", "paused")
        self._drop(dropped)
        self._stop = stop, action.reason
        return self._record(action, state, dropped=dropped)

    def _record(
        self,
        action: MetaAction,
        state: MetaState,
        *,
        started: Sequence[int] = (),
        continued: Sequence[int] = (),
        paused: Sequence[int] = (),
        resumed: Sequence[int] = (),
        dropped: Sequence[int] = (),
        forked: Sequence[tuple[int, int]] = (),
    ) -> Decision:
        decision = Decision(
            index=len(self._decisions),
            tokens=self.ledger.tokens,
            depth=self.ledger.depth,
            started=tuple(started),
            continued=tuple(continued),
            paused=tuple(paused),
            resumed=tuple(resumed),
            dropped=tuple(dropped),
            finished=tuple(sorted(self.samples.just_finished)),
            outlooks=tuple((leaf.sample, Outlook(leaf.value, leaf.remaining)) for leaf in state.leaves if self._grid),
            stop=action.stop,
            reason=action.reason,
            utility=action.utility,
            forked=tuple(forked),
            tokens_saved=action.tokens_saved,
        )
        self.samples.just_finished = []
        self._decisions.append(decision)
        return decision

    def _check_finite(self, broken: list[int]) -> None:
        """Raise `NonFiniteLogitsError` where the logits of samples are not."""
        if not broken:
            return
        kept = [f"{number} ({self.samples.trie.length(number)} tokens)" for number in self.samples.trie.leaves()]
        names = ", ".join(map(str, broken))
        message = (
            f"the model's logits became NaN or infinite in sample {names} of prompt {self.index}. Kept in `partial`: "
            f"samples {', '.join(kept)}. Check the weights, or load the model in float32 or bfloat16."
        )
        raise NonFiniteLogitsError(message, [self.broken_off(f"non-finite logits in sample {names}")])
