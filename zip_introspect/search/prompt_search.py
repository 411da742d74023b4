"""The search for one prompt: its trie, ledger and strategy, between two calls of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zip_introspect.answers.extraction import AnswerExtractor, extract
from zip_introspect.backend.contract import Advanced, Backend, Prefilled, SequenceId
from zip_introspect.backend.streams import prompt_seed
from zip_introspect.budget import Ledger
from zip_introspect.errors import BackendError, NonFiniteLogitsError
from zip_introspect.events import Event, SampleAdvanced, SampleFinished
from zip_introspect.introspection import joint
from zip_introspect.result import (
    Decision,
    FinishReason,
    GenerationResult,
    Outlook,
    SampleFinish,
    SampleResult,
    StopReason,
    TracePoint,
    Usage,
)
from zip_introspect.search.request import Checked, HandOn
from zip_introspect.search.stopping import SampleText, sound
from zip_introspect.search.trie import PrefixTrie
from zip_introspect.strategies import Finished, Leaf, MetaAction, MetaState
from zip_introspect.strategies.selection import Candidate, Selection, select


@dataclass(frozen=True, slots=True)
class Move:
    """A sample and the steps it is to take in the next call of the backend."""

    sample: int
    sequence: SequenceId
    steps: int


@dataclass(slots=True)
class Ending:
    """How a sample ended."""

    finish: SampleFinish
    value: float
    text: str
    answer: str | None


class PromptSearch:
    """Asks a strategy what to do, holds it to the budget, and takes in what the backend generated.

    Args:
        index: place of the prompt in its batch.
        room: how many of the prompt's samples may exist in the backend at once; None is no limit.
        live: whether growing samples are decoded and reported.
    """

    def __init__(
        self,
        index: int,
        checked: Checked,
        ledger: Ledger,
        prefilled: Prefilled,
        backend: Backend,
        extractor: AnswerExtractor,
        *,
        room: int | None = None,
        live: bool = False,
    ) -> None:
        request = checked.request
        self.index, self.config, self.ledger = index, request.config, ledger
        self._backend, self._grid, self._extractor, self._live, self._room = (
            backend,
            backend.grid,
            extractor,
            live,
            room,
        )
        self._root = prefilled.sequence
        self._prompt_tokens = len(request.tokens)
        sampling = request.config.sampling
        self._seed, self._sampling = sampling.seed, sampling.replace(seed=prompt_seed(sampling.seed, request.tokens))
        self._hand_on = request.hand_on or HandOn()
        self._max_new = min(request.config.max_new_tokens, backend.info.max_context - self._prompt_tokens)
        self._checked, self._strategy = checked, checked.strategy
        root_joint = joint.from_logits(prefilled.reserved_logits, self._grid)
        self._trie = PrefixTrie(root_joint, request.config.smoothing)
        self.expected = self._outlook(self._trie.root_joint)
        self._sequences: dict[int, SequenceId] = {}
        self._texts: dict[int, SampleText] = {}
        """Of samples that are read while they grow: all if live, or if they may end at a stop string."""
        self._running: tuple[int, ...] = ()
        self._rest: dict[int, int] = {}
        self._endings: dict[int, Ending] = {}
        self._just_finished: list[int] = []
        self._traces: dict[int, list[TracePoint]] = {}
        self._decisions: list[Decision] = []
        self._stop: tuple[StopReason, str] | None = None

    @property
    def selection(self) -> Selection:
        """How the final sample is chosen."""
        return self.config.selection or self._strategy.selection

    def decide(self) -> tuple[Decision | None, list[Move]]:
        """Take the next decision and prepare the backend for it; no moves means that the search has ended.

        Without a decision: the last one holds, as the call that followed it was cut short to be in time.
        """
        if moves := self._going_on():
            return None, moves
        state = self._state()
        for leaf in state.leaves:
            self._trace(leaf.sample, leaf.length, leaf.value, leaf.remaining)
        for sample in self._just_finished:
            self._trace(sample, self._trie.length(sample), self._endings[sample].value, 0.0)
        action = self._strategy.decide(state)
        below = self._hand_on.below
        if below is not None and not self._decisions and state.root_value < below:
            action = self._leave(action, state)
        limit = self.ledger.exhausted()
        # Where no step is left, what a strategy says of going on is not a choice.
        if limit is not None and action.stop in (None, "utility"):
            action = MetaAction(
                stop="budget", reason=f"the budget's limit on {limit} is reached", utility=action.utility
            )
        planned = self._planned(action, state)
        steps = self.ledger.share(planned)
        if action.stop is None and not any(steps):
            action = MetaAction(stop="budget", reason="the budget allows no further step", utility=action.utility)
        if action.stop is not None:
            return self._end(action.stop, action, state), []
        decision, moves = self._run(action, steps, state)
        taken = (count for count, step in zip(planned, steps, strict=True) if step)  # as the moves, in their order
        self._rest = {move.sample: count - move.steps for move, count in zip(moves, taken, strict=True)}
        return decision, moves

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
            events.extend(self._grow(move.sample, result))
            if result.non_finite and move.sample not in self._endings:
                broken.append(move.sample)
        if broken:
            raise self._non_finite(broken)
        return events

    def release(self) -> None:
        """Give every sequence of this prompt back to the backend."""
        sequences = [self._root, *self._sequences.values()]
        self._sequences.clear()
        self._backend.release(sequences)

    def result(self) -> GenerationResult:
        """The outcome, once `decide` has ended the search."""
        stop_reason, detail = self._stop or ("error", "the search was interrupted")
        samples = tuple(self._sample_result(number) for number in self._trie.leaves())
        candidates = [
            Candidate(sample.number, sample.value, sample.finish in ("stop", "stop_string"), sample.answer)
            for sample in samples
            if sample.tokens
        ]
        chosen = select(candidates, self.selection, self._sampling.seed)
        best = samples[chosen.number] if chosen else None
        complete = chosen is not None and chosen.complete
        finish: FinishReason = "stop"
        if stop_reason in ("error", "budget", "handed_on"):
            finish = stop_reason
        if finish == "stop" and not complete:
            finish = "length"
        return GenerationResult(
            text=best.text if best else "",
            answer=best.answer if best else None,
            confidence=best.value if best and complete else float(self._grid.reward_values[0]),
            finish_reason=finish,
            usage=Usage(
                prompt_tokens=self._prompt_tokens,
                generated_tokens=self.ledger.tokens,
                chosen_tokens=best.tokens if best else 0,
                depth=self.ledger.depth,
                seconds=self.ledger.seconds,
                cost=self.ledger.cost,
            ),
            decisions=tuple(self._decisions),
            samples=samples,
            chosen=best.number if best else None,
            stop_reason=stop_reason,
            stop_detail=detail,
            expected=self.expected,
            strategy=self._strategy.name,
            selection=self.selection,
            seed=self._seed,
            warnings=tuple(self._warnings(complete)),
        )

    def _state(self) -> MetaState:
        tokens_left = self.ledger.tokens_left
        budget_left = [left for left in (tokens_left, self.ledger.depth_left) if left is not None]
        limit = min(self._max_new, *budget_left) if budget_left else self._max_new
        leaves = []
        for number in self._trie.leaves("active", "paused"):
            smoothed = self._trie.joint(number)
            outlook, length = self._outlook(smoothed), self._trie.length(number)
            at_most = min(limit, self._max_new - length)
            running = number in self._running
            leaves.append(Leaf(number, length, smoothed, outlook.value, outlook.remaining, at_most, running))
        ended = [
            Finished(number, self._trie.length(number), ending.value, ending.finish != "length")
            for number, ending in sorted(self._endings.items())
        ]
        return MetaState(
            decision=len(self._decisions),
            grid=self._grid,
            config=self.config,
            prompt_tokens=self._prompt_tokens,
            root_joint=self._trie.root_joint,
            root_value=self.expected.value,
            root_remaining=self.expected.remaining,
            leaves=tuple(leaves),
            finished=tuple(ended),
            started=len(self._trie),
            room=self._room_for_new(),
            limit=limit,
            tokens_left=tokens_left,
            hand_on=self._hand_on.worth,
        )

    def _leave(self, action: MetaAction, state: MetaState) -> MetaAction:
        """Hand on at the prompt, in place of what the strategy would have begun with."""
        one_each = state.root_remaining * action.new
        return MetaAction(
            stop="handed_on",
            reason=f"{state.root_value:.3f} is expected at the prompt, below {self._hand_on.below:g}",
            utility=action.utility,
            tokens_saved=action.utility.expected_compute if action.utility else one_each,
        )

    def _room_for_new(self) -> int:
        rooms = [self._checked.samples_at_most - len(self._trie)]
        if self._room is not None:
            rooms.append(self._room - len(self._sequences))
        if self.ledger.samples_left is not None:
            rooms.append(self.ledger.samples_left)
        return max(0, min(rooms))

    def _going_on(self) -> list[Move]:
        """What is left of the last decision's steps, for the samples that have not ended."""
        rest = {sample: count for sample, count in self._rest.items() if count and sample in self._sequences}
        steps = [] if self.ledger.exhausted() else self.ledger.share(list(rest.values()))
        moves = [
            Move(sample, self._sequences[sample], count) for sample, count in zip(rest, steps, strict=False) if count
        ]
        self._rest = {sample: count - step for (sample, count), step in zip(rest.items(), steps, strict=False)}
        return moves

    def _planned(self, action: MetaAction, state: MetaState) -> list[int]:
        """Steps until the next decision, for `action.run`, then the copies of `action.forks`, then the new samples."""
        left = {leaf.sample: self._max_new - leaf.length for leaf in state.leaves}
        copies = [sample for sample, count in action.forks for _ in range(count)]
        wanted = [left[sample] for sample in (*action.run, *copies)] + [self._max_new] * action.new
        room = len(copies) + action.new
        if room > state.room:
            raise ValueError(f"strategy {self._strategy.name} asked for {room} samples where {state.room} may start")
        return self.ledger.plan([min(self.config.interval, count) for count in wanted])

    def _run(self, action: MetaAction, steps: list[int], state: MetaState) -> tuple[Decision, list[Move]]:
        """Put a meta-action into the backend: pause, branch, and say who moves how far."""
        served = list(zip(action.run, steps, strict=False))
        run = [sample for sample, count in served if count]
        moves = [Move(sample, self._sequences[sample], count) for sample, count in served if count]
        paused = [sample for sample in self._running if sample not in run and sample in self._sequences]
        self._backend.pause([self._sequences[sample] for sample in paused if sample not in action.drop])
        for sample in paused:
            self._trie.set_status(sample, "paused")
        place = len(action.run)
        forked: list[tuple[int, int]] = []
        for sample, count in action.forks:
            numbers = self._branch(sample, [n for n in steps[place : place + count] if n], moves)
            forked.extend((sample, number) for number in numbers)
            place += count
        started = self._branch(None, [count for count in steps[place:] if count], moves)
        self._drop(action.drop)
        for sample in run:
            self._trie.set_status(sample, "active")
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
        numbers = [self._trie.branch(leaf) for _ in steps]
        parent = self._root if leaf is None else self._sequences[leaf]
        sequences = self._backend.fork(parent, numbers, self._sampling)
        self._sequences.update(zip(numbers, sequences, strict=True))
        self._texts |= self._begun_texts(leaf, numbers)
        self.ledger.samples += len(numbers)
        moves.extend(Move(*move) for move in zip(numbers, sequences, steps, strict=True))
        return numbers

    def _begun_texts(self, leaf: int | None, numbers: Sequence[int]) -> dict[int, SampleText]:
        """The texts of new samples, which go on from that of the leaf they left."""
        if not (self._live or self.config.stop):
            return {}
        begun = SampleText(self._backend.decode_stream(), self.config.stop) if leaf is None else self._texts[leaf]
        return {number: begun.fork() for number in numbers}

    def _drop(self, samples: Sequence[int]) -> None:
        self._backend.release([self._sequences.pop(sample) for sample in samples if sample in self._sequences])
        for sample in samples:
            self._texts.pop(sample, None)
            self._trie.set_status(sample, "dropped")

    def _end(self, stop: StopReason, action: MetaAction, state: MetaState) -> Decision:
        dropped = self._trie.leaves("active", "paused")
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
            finished=tuple(sorted(self._just_finished)),
            outlooks=tuple((leaf.sample, Outlook(leaf.value, leaf.remaining)) for leaf in state.leaves),
            stop=action.stop,
            reason=action.reason,
            utility=action.utility,
            forked=tuple(forked),
            tokens_saved=action.tokens_saved,
        )
        self._just_finished = []
        self._decisions.append(decision)
        return decision

    def _grow(self, sample: int, advanced: Advanced) -> list[Event]:
        """Append what a sample generated, cut at a stop string, and end it where it ends."""
        tokens, rows = advanced.tokens, advanced.reserved_logits
        finish: SampleFinish | None = "stop" if advanced.finished else None
        growing = self._texts.get(sample)
        count = growing.grow(tokens.tolist()) if growing else None
        if count is not None:
            # The token that completes the stop string is terminal, as an end of sequence is: it has no joint.
            tokens, rows, finish = tokens[:count], rows[: count - 1], "stop_string"
        recent = rows[-self.config.smoothing :]
        shape = (0, *self._grid.shape)
        joints = joint.from_logits(recent, self._grid) if len(recent) else np.empty(shape, np.float32)
        self._trie.extend(sample, tokens, joints)
        length = self._trie.length(sample)
        if finish is None and length >= self._max_new:
            finish = "length"
        if finish is None:
            if growing is None or not self._live or not len(tokens):
                return []
            outlook = self._outlook(self._trie.joint(sample))
            return [SampleAdvanced(self.index, sample, growing.text, length, outlook)]
        value = float(self._grid.reward_values[0])
        if finish != "length":
            value = self._outlook(self._trie.joint(sample)).value
        text = self._text(sample, finish)
        answer = extract(self._extractor, text) if finish != "length" else None
        self._endings[sample] = Ending(finish, value, text, answer)
        self._just_finished.append(sample)
        self._trie.set_status(sample, "finished")
        self._backend.release([self._sequences.pop(sample)])
        return [SampleFinished(self.index, sample, text, length, finish, value, answer)]

    def _text(self, sample: int, finish: SampleFinish) -> str:
        """The text of a sample that has ended."""
        grown = self._texts.pop(sample, None)
        if grown is None:
            return self._backend.decode(self._trie.path(sample).tolist())
        return grown.text if finish == "stop_string" else grown.end()

    def _outlook(self, probabilities: np.ndarray) -> Outlook:
        return Outlook(
            float(joint.expected_value(probabilities, self._grid)),
            float(joint.expected_length(probabilities, self._grid)),
        )

    def _trace(self, sample: int, length: int, value: float, remaining: float) -> None:
        point = TracePoint(len(self._decisions), length, value, remaining)
        self._traces.setdefault(sample, []).append(point)

    def _sample_result(self, number: int) -> SampleResult:
        ending = self._endings.get(number)
        ids = tuple(self._trie.path(number).tolist())
        text = ending.text if ending else self._backend.decode(ids)
        return SampleResult(
            number=number,
            text=text,
            tokens=len(ids),
            token_ids=ids,
            status=self._trie.status(number),
            finish=ending.finish if ending else None,
            value=ending.value if ending else self._outlook(self._trie.joint(number)).value,
            answer=ending.answer if ending else None,
            trace=tuple(self._traces.get(number, ())),
            parent=self._trie.parent(number),
        )

    def _warnings(self, complete: bool) -> list[str]:
        warnings = list(self._checked.warnings)
        if not complete:
            warnings.append("no sample finished: the text is incomplete and its confidence is the lowest reward")
        cut = any(ending.finish == "length" for ending in self._endings.values())
        if cut and self._max_new < self.config.max_new_tokens:
            warnings.append(
                f"samples were cut at {self._max_new} tokens, where the context of {self._backend.info.max_context} "
                f"ends, before max_new_tokens={self.config.max_new_tokens}"
            )
        return warnings

    def _non_finite(self, broken: list[int]) -> NonFiniteLogitsError:
        kept = [f"{number} ({self._trie.length(number)} tokens)" for number in self._trie.leaves()]
        names = ", ".join(map(str, broken))
        message = (
            f"the model's logits became NaN or infinite in sample {names} of prompt {self.index}. Kept in `partial`: "
            f"samples {', '.join(kept)}. Check the weights, or load the model in float32 or bfloat16."
        )
        self._stop = "error", f"non-finite logits in sample {names}"
        return NonFiniteLogitsError(message, [self.result()])
