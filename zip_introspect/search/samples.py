"""The samples of one prompt: what each has said, how it ended, and what the model expected of it on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zip_introspect.answers.extraction import AnswerExtractor, extract
from zip_introspect.backend.contract import Advanced
from zip_introspect.backend.detokenization import TextStream
from zip_introspect.events import Event, SampleAdvanced, SampleFinished
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid, lowest_reward
from zip_introspect.result import (
    Outlook,
    SampleFinish,
    SampleResult,
    Thought,
    ThoughtClosed,
    TokenConfidence,
    TracePoint,
    is_complete,
)
from zip_introspect.search.stopping import SampleText
from zip_introspect.search.thought_rules import ThoughtRules
from zip_introspect.search.thought_text import ThinkingText
from zip_introspect.search.token_confidence import ConfidenceTrace
from zip_introspect.search.trie import PrefixTrie
from zip_introspect.strategies import Finished

UNKNOWN = Outlook(math.nan, math.nan)
"""What strategies get where the model gives no joints; those that read them are refused before."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How tokens become texts and answers."""

    decode: Callable[[Sequence[int]], str]
    decode_stream: Callable[[], TextStream]
    extractor: AnswerExtractor
    stops: tuple[str, ...] = ()
    live: bool = False
    """Whether growing samples are decoded and reported."""
    thoughts: ThoughtRules | None = None
    """Where the model thinks before it answers."""

    def begun(self) -> SampleText | ThinkingText:
        """The text of a sample that begins."""
        if self.thoughts is not None:
            return self.thoughts.text(self.decode_stream(), self.stops)
        return SampleText(self.decode_stream(), self.stops)

    def answer(self, text: str) -> str | None:
        """The answer in a text; where a thought was taken off, that may need what closed it, such as `Answer:`."""
        found = extract(self.extractor, text)
        if found is None and text and self.thoughts is not None:
            return extract(self.extractor, self.thoughts.closing.text + text)
        return found


@dataclass(slots=True)
class Ending:
    """How a sample ended."""

    finish: SampleFinish
    value: float | None
    text: str
    answer: str | None
    thought: Thought | None = None

    @property
    def complete(self) -> bool:
        """Whether the sample may hold an answer."""
        return is_complete(self.finish, self.thought)


class Samples:
    """Takes in tokens and joints, and knows what became of every sample.

    Args:
        index: place of the prompt in its batch, for events.
        grid: of its joints; None where the model gives none.
        root: the joint's logits at the prompt, shape (B_V*B_T,); (0,) without a grid.
        smoothing: joints averaged along a path, W of eq. 27.
        longest: tokens of a sample, at which it is cut.
        window: tokens of a group whose confidences are averaged; 0 where the backend is not asked for any.
    """

    def __init__(
        self,
        index: int,
        grid: JointGrid | None,
        root: NDArray[np.floating],
        smoothing: int,
        longest: int,
        reading: Reading,
        window: int = 0,
    ) -> None:
        self.trie = PrefixTrie(_joints(root, grid), smoothing)
        self.longest = longest
        self.endings: dict[int, Ending] = {}
        self.just_finished: list[int] = []
        """Since they were last looked at."""
        self.expected = outlook(self.trie.root_joint, grid)
        self._index, self._grid, self._smoothing, self._reading = index, grid, smoothing, reading
        self._texts: dict[int, SampleText | ThinkingText] = {}
        """Of samples that are read while they grow: all if live, or if they may end at a stop string, or think."""
        self._traces: dict[int, list[TracePoint]] = {}
        self._window, self._confidences = window, dict[int, ConfidenceTrace]()

    def branch(self, leaf: int | None, count: int) -> list[int]:
        """Begin samples at the prompt, or where another one is; their numbers."""
        numbers = [self.trie.branch(leaf) for _ in range(count)]
        if self._reading.live or self._reading.stops or self._reading.thoughts:
            begun = self._reading.begun() if leaf is None else self._texts[leaf]
            self._texts |= {number: begun.fork() for number in numbers}
        if self._window:
            before = ConfidenceTrace(self._window) if leaf is None else self._confidences[leaf]
            self._confidences |= {number: before.fork() for number in numbers}
        return numbers

    def drop(self, samples: Sequence[int]) -> None:
        """End samples that nobody waits for."""
        for sample in samples:
            if self._reading.thoughts is None:
                self._texts.pop(sample, None)
            self.trie.set_status(sample, "dropped")

    def thinking_text(self, sample: int) -> ThinkingText:
        """The text of an unfinished sample of a model that thinks."""
        text = self._texts[sample]
        assert isinstance(text, ThinkingText), "the model was not asked with thinking"
        return text

    def close(self, sample: int, advanced: Advanced, by: ThoughtClosed) -> None:
        """Append what closes a sample's thought."""
        self.thinking_text(sample).close(advanced.tokens.tolist(), by)
        if advanced.non_finite:
            after = self.trie.joint(sample)
        else:
            after = np.asarray(_joints(advanced.joint_logits[-1:], self._grid)[0], np.float64)
        self.trie.force(sample, advanced.tokens, after)

    def outlook(self, sample: int) -> Outlook | None:
        """What is expected of a sample from where it is."""
        return outlook(self.trie.joint(sample), self._grid)

    def token_confidence(self, sample: int) -> TokenConfidence | None:
        """How sure the model was of a sample's tokens; None where the backend was not asked, or said none yet."""
        trace = self._confidences.get(sample)
        return trace.read() if trace else None

    def ended(self) -> list[Finished]:
        """The samples that ended, as strategies see them."""
        return [
            Finished(
                number,
                self.trie.length(number),
                known(ending.value),
                ending.complete,
                ending.answer,
                self.token_confidence(number),
            )
            for number, ending in sorted(self.endings.items())
        ]

    def trace(self, decision: int, sample: int, value: float, remaining: float) -> None:
        """Note what is expected of a sample at a decision."""
        point = TracePoint(decision, self.trie.length(sample), value, remaining)
        self._traces.setdefault(sample, []).append(point)

    def grow(self, sample: int, advanced: Advanced) -> list[Event]:
        """Append what a sample generated, cut at a stop string, and end it where it ends."""
        tokens, rows = advanced.tokens, advanced.joint_logits
        finish: SampleFinish | None = "stop" if advanced.finished else None
        growing = self._texts.get(sample)
        count = growing.grow(tokens.tolist()) if growing else None
        if count is not None:
            # The token that completes the stop string is terminal, as an end of sequence is: it has no joint.
            tokens, rows, finish = tokens[:count], rows[: count - 1], "stop_string"
        if self._window and advanced.confidences is not None:
            self._confidences[sample].grow(advanced.confidences[: len(tokens)])
        self.trie.extend(sample, tokens, _joints(rows[-self._smoothing :], self._grid))
        length = self.trie.length(sample)
        if finish is None and length >= self.longest:
            finish = "length"
        if finish is not None:
            return [self._end(sample, finish, length)]
        if growing is None or not self._reading.live or not len(tokens):
            return []
        thinking = growing.thinking if isinstance(growing, ThinkingText) else None
        return [SampleAdvanced(self._index, sample, growing.text, length, self.outlook(sample), thinking)]

    def _end(self, sample: int, finish: SampleFinish, length: int) -> SampleFinished:
        text, thought = self._text(sample, finish)
        complete, seen = is_complete(finish, thought), self.outlook(sample)
        value = seen.value if seen and complete else lowest_reward(self._grid) if seen else None
        answer = self._reading.answer(text) if complete else None
        self.endings[sample] = Ending(finish, value, text, answer, thought)
        self.just_finished.append(sample)
        self.trie.set_status(sample, "finished")
        return SampleFinished(self._index, sample, text, length, finish, value, answer)

    def _text(self, sample: int, finish: SampleFinish) -> tuple[str, Thought | None]:
        """The text of a sample that has ended, and what it thought."""
        grown = self._texts.pop(sample, None)
        if grown is None:
            return self._reading.decode(self.trie.path(sample).tolist()), None
        text = grown.text if finish == "stop_string" else grown.end()
        return text, grown.thought if isinstance(grown, ThinkingText) else None

    def results(self) -> tuple[SampleResult, ...]:
        """Every sample, in order of its number."""
        return tuple(self._result(number) for number in self.trie.leaves())

    def _result(self, number: int) -> SampleResult:
        ending, seen = self.endings.get(number), self.outlook(number)
        ids, growing = tuple(self.trie.path(number).tolist()), self._texts.get(number)
        if ending:
            text, thought = ending.text, ending.thought
        elif isinstance(growing, ThinkingText):
            text, thought = growing.text, growing.thought
        else:
            text, thought = self._reading.decode(ids), None
        return SampleResult(
            number=number,
            text=text,
            tokens=len(ids),
            token_ids=ids,
            status=self.trie.status(number),
            finish=ending.finish if ending else None,
            value=ending.value if ending else seen.value if seen else None,
            answer=ending.answer if ending else None,
            trace=tuple(self._traces.get(number, ())),
            parent=self.trie.parent(number),
            thought=thought,
            token_confidence=self.token_confidence(number),
        )


def _joints(logits: NDArray[np.floating], grid: JointGrid | None) -> NDArray[np.floating]:
    """The joints that logits (..., B_V*B_T) stand for; of no cells without a grid."""
    if grid is None or not len(logits):
        return np.empty((*logits.shape[:-1], *(grid.shape if grid else (0, 0))), np.float32)
    return joint.from_logits(logits, grid)


def known(value: float | None) -> float:
    """A value as strategies take it."""
    return UNKNOWN.value if value is None else value


def outlook(probabilities: NDArray[np.floating], grid: JointGrid | None) -> Outlook | None:
    """What a joint expects (eq. 8); None without a grid."""
    if grid is None:
        return None
    return Outlook(float(joint.expected_value(probabilities, grid)), float(joint.expected_length(probabilities, grid)))
