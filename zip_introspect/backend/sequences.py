"""The books that every backend keeps: which sequences exist, where each is in its stream, what may be asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.contract import BackendInfo, SequenceId
from zip_introspect.backend.streams import uniforms
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, PromptError

_READ_AHEAD = 256


@dataclass(eq=False)
class Sample:
    """A sequence that can go on: its tokens and its place in the random stream."""

    tokens: list[int]
    """The prompt's and the generated ones."""
    sampling: SamplingParams | None = None
    """None for a prompt that was not forked."""
    sample: int = 0
    step: int = 0
    ended: str = ""
    """Why it cannot go on; empty while it can."""
    paused: bool = False
    last_used: int = 0
    _ahead: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), init=False, repr=False)
    _ahead_from: int = field(default=0, init=False, repr=False)

    @property
    def idle(self) -> bool:
        """Whether nobody is advancing it."""
        return self.paused or self.sampling is None or self.step == 0

    @property
    def confident(self) -> bool:
        """Whether it asks for the confidences of its tokens."""
        return self.sampling is not None and self.sampling.confidences

    def draws(self, count: int) -> NDArray[np.float64]:
        """The uniforms of its next steps, shape (count,); none are needed where it takes the likeliest token."""
        if self.sampling is None or self.sampling.greedy:
            return np.zeros(count)
        start = self.step - self._ahead_from
        if start < 0 or start + count > len(self._ahead):
            # To open a stream takes longer than to read it, so it is read far ahead.
            self._ahead = uniforms(self.sampling.seed, self.sample, self.step, max(count, _READ_AHEAD))
            self._ahead_from, start = self.step, 0
        return self._ahead[start : start + count]


S = TypeVar("S", bound=Sample)


class Sequences(Generic[S]):
    """All unreleased sequences of a backend, by id."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._samples: dict[SequenceId, S] = {}
        self._ids = count()
        self._clock = count(1)

    def __iter__(self) -> Iterator[S]:
        return iter(self._samples.values())

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, sequence: SequenceId) -> S:
        try:
            return self._samples[sequence]
        except KeyError:
            raise BackendError(
                f"sequence {sequence} is unknown: it was released or never made. Prefill or fork another."
            ) from None

    def add(self, sample: S) -> SequenceId:
        """Take a sample in, as the last used."""
        identity = SequenceId(next(self._ids))
        self._samples[identity] = sample
        self.touch(sample)
        return identity

    def touch(self, sample: S) -> None:
        """Mark a sample as the last used."""
        sample.paused, sample.last_used = False, next(self._clock)

    def pop(self, sequences: Iterable[SequenceId]) -> list[S]:
        """Forget sequences, unknown ones passed over; those that were known."""
        found = [self._samples.pop(sequence, None) for sequence in sequences]
        return [sample for sample in found if sample is not None]

    def clear(self) -> None:
        """Forget all."""
        self._samples.clear()

    def check_room(self, wanted: int) -> None:
        """Raise `BackendError` where so many sequences more are over the limit."""
        if self._limit is not None and len(self) + wanted > self._limit:
            raise BackendError(
                f"{wanted} sequences more than the {len(self)} that exist is over max_sequences={self._limit}. "
                f"Release some, or open the model with a higher max_sequences."
            )

    def forkable(self, sequence: SequenceId, copies: int) -> S:
        """The sample of a sequence that is to be forked so many times.

        Raises:
            BackendError: released, ended, or no room.
        """
        origin = self[sequence]
        if origin.ended:
            raise BackendError(f"sequence {sequence} {origin.ended}, so it has no state to fork; fork an unended one")
        self.check_room(copies)
        return origin

    def advanceable(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[S]:
        """The samples of sequences that are to advance, as the last used.

        Raises:
            BackendError: released, ended, a bare prompt, named twice, or not one number of steps each.
        """
        if len(sequences) != len(steps):
            raise BackendError(f"{len(sequences)} sequences with {len(steps)} numbers of steps; expected one for each")
        if len(set(sequences)) != len(sequences):
            raise BackendError("a sequence is named twice; expected each once. Fork it to go on from it twice.")
        samples = [self[sequence] for sequence in sequences]
        for sequence, sample, asked in zip(sequences, samples, steps, strict=True):
            if asked < 0:
                raise BackendError(f"sequence {sequence} was given {asked} steps; expected 0 or more")
            if sample.ended:
                raise BackendError(f"sequence {sequence} {sample.ended} and cannot go on; leave it out")
            if sample.sampling is None:
                raise BackendError(f"sequence {sequence} is a prompt without a sample number; fork it first")
        for sample in samples:
            self.touch(sample)
        return samples

    def appendable(
        self, sequences: Sequence[SequenceId], tokens: Sequence[Sequence[int]], info: BackendInfo, reserved: range
    ) -> list[S]:
        """The samples of sequences that are to go on with given tokens, as the last used.

        Raises:
            BackendError: as `Backend.append`.
        """
        for sequence, given in zip(sequences, tokens, strict=False):
            if not len(given):
                raise BackendError(f"no tokens were given for sequence {sequence}; expected at least one")
            for token in given:
                if not 0 <= token < info.vocab_size or token in reserved or token in info.eos_token_ids:
                    raise BackendError(
                        f"token {token} cannot be appended to sequence {sequence}; expected 0 to "
                        f"{info.vocab_size - 1}, no reserved id and no end of sequence"
                    )
            held = len(self[sequence].tokens)
            if held + len(given) > info.max_context:
                raise BackendError(
                    f"{len(given)} tokens after the {held} of sequence {sequence} are more than the context of "
                    f"{info.max_context} holds; append fewer"
                )
        return self.advanceable(sequences, [len(given) for given in tokens])


def draws(samples: Sequence[Sample], steps: Sequence[int]) -> NDArray[np.float64]:
    """Uniforms of shape (samples, largest number of steps): each row's from its own stream, from its own step on."""
    table = np.zeros((len(samples), max(steps)))
    for row, (sample, wanted) in enumerate(zip(samples, steps, strict=True)):
        table[row, :wanted] = sample.draws(wanted)
    return table


def check_tokens(prompts: Sequence[Sequence[int]], info: BackendInfo) -> None:
    """Refuse prompts that a model cannot take.

    Raises:
        PromptError: no tokens, too many for the context, or ids outside the vocabulary.
    """
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise PromptError(f"prompt {number} has no tokens; expected at least one")
        if len(prompt) >= info.max_context:
            raise PromptError(
                f"prompt {number} has {len(prompt)} tokens, but the context holds {info.max_context}, answer "
                f"included; expected at most {info.max_context - 1}. Shorten it."
            )
        lowest, highest = min(prompt), max(prompt)
        if lowest < 0 or highest >= info.vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise PromptError(
                f"prompt {number} holds token {wrong}; expected 0 to {info.vocab_size - 1}. "
                f"Encode it with this model's tokenizer."
            )
