"""On-policy rollouts of any backend: many prompts, several samples each, finished ones replaced at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from zip_introspect.backend.contract import Backend, Prefilled, SequenceId
from zip_introspect.backend.streams import prompt_seed
from zip_introspect.config import SamplingParams
from zip_introspect.errors import NonFiniteLogitsError, TrainingDataError


@dataclass(frozen=True, slots=True)
class HiddenRows:
    """Hidden states of some prefixes of a rollout, in half precision."""

    positions: NDArray[np.int32]
    """Shape (p,), rising: generated tokens of each prefix, from 0, the prompt; the last that has a joint is among
    them."""
    last: NDArray[np.float16]
    """Shape (p, hidden size): after the prefix's last token, behind the final norm."""
    mean: NDArray[np.float16]
    """Shape (p, hidden size): of the states after the prompt and each token since."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished sample of one prompt."""

    prompt: int
    """The prompt's place in the list that was given."""
    sample: int
    prompt_tokens: NDArray[np.int32]
    tokens: NDArray[np.int32]
    """Shape (n,): the generated tokens, the end of sequence included."""
    joint_logits: NDArray[np.float32]
    """Shape (m + 1, B_V*B_T): row t describes the prefix of t generated tokens; m as in `Advanced`."""
    finished: bool
    """Whether it ended by itself; otherwise it was cut at the token limit."""
    hidden: HiddenRows | None = None
    confidences: NDArray[np.float32] | None = None
    """Shape (n, 2), as in `Advanced`, where `sampling` asked for them."""


class _States:
    """The hidden states of a rollout under way, of which every `every`th is kept, and the latest.

    Args:
        first: shape (hidden size,), after the prompt.
    """

    def __init__(self, first: NDArray[np.float32], every: int) -> None:
        self._every, self._count, self._sum = every, 0, np.zeros_like(first)
        self._kept: list[tuple[int, NDArray[np.float32], NDArray[np.float32]]] = []
        self.add(first[None])

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take in the states after further tokens, shape (n, hidden size)."""
        if len(rows) and self._kept and self._kept[-1][0] % self._every:
            self._kept.pop()  # the latest so far, which is not any more
        for left, row in enumerate(rows, 1 - len(rows)):
            self._sum += row
            if self._count % self._every == 0 or not left:
                self._kept.append((self._count, row, self._sum / np.float32(self._count + 1)))
            self._count += 1

    def kept(self) -> HiddenRows:
        """Those that are kept."""
        positions, last, mean = zip(*self._kept, strict=True)
        return HiddenRows(
            np.array(positions, np.int32), np.stack(last).astype(np.float16), np.stack(mean).astype(np.float16)
        )


@dataclass(slots=True)
class _Live:
    """A rollout under way: what it has said so far."""

    prompt: int
    sample: int
    tokens: list[NDArray[np.int32]]
    logits: list[NDArray[np.float32]]
    states: _States | None = None
    length: int = 0
    confidences: list[NDArray[np.float32]] = field(default_factory=list)


def collect(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    samples: int,
    sampling: SamplingParams,
    *,
    max_new_tokens: int,
    concurrency: int = 128,
    interval: int = 16,
    hidden_every: int | None = None,
) -> Generator[Rollout, None, None]:
    """Sample every prompt `samples` times; rollouts come in the order in which they end.

    Each prompt has random streams of its own, so that what is learnt of one prompt's luck is not that of all, and so
    that some of the prompts alone give the same rollouts as among the others.

    Args:
        prompts: token ids, one list a prompt.
        concurrency: rollouts advanced together, or those of one prompt where it has more; a finished one makes room
            for the next at the next interval.
        interval: tokens between two looks at which have finished.
        hidden_every: keep the hidden state at every so many tokens, and at the last.

    Raises:
        TrainingDataError: no prompts, counts below one, or hidden states of a model that was not opened for them.
        NonFiniteLogitsError, BackendError: from the backend.
    """
    if not prompts or min(samples, max_new_tokens, concurrency, interval, hidden_every or 1) < 1:
        raise TrainingDataError(
            f"got {len(prompts)} prompts, samples={samples}, max_new_tokens={max_new_tokens}, "
            f"concurrency={concurrency}, interval={interval}; expected at least one of each"
        )
    live: dict[SequenceId, _Live] = {}
    queue = iter(range(len(prompts)))
    exhausted = False
    try:
        while live or not exhausted:
            wanted = max((concurrency - len(live)) // samples, not live)
            starting = list(islice(queue, wanted))
            exhausted = exhausted or len(starting) < wanted
            if starting:
                live |= _start(backend, starting, prompts, samples, sampling, hidden_every)
            yield from _advance(backend, live, prompts, max_new_tokens, interval)
    finally:
        backend.release(list(live))


def _start(
    backend: Backend,
    starting: list[int],
    prompts: Sequence[Sequence[int]],
    samples: int,
    sampling: SamplingParams,
    hidden_every: int | None,
) -> dict[SequenceId, _Live]:
    roots: list[Prefilled] = backend.prefill([prompts[prompt] for prompt in starting])
    live: dict[SequenceId, _Live] = {}
    try:
        for prompt, root in zip(starting, roots, strict=True):
            own = sampling.replace(seed=prompt_seed(sampling.seed, prompts[prompt]))
            for sample, sequence in enumerate(backend.fork(root.sequence, range(samples), own)):
                states = None if hidden_every is None else _States(_hidden(root.hidden), hidden_every)
                live[sequence] = _Live(prompt, sample, [], [root.joint_logits[None]], states)
    except BaseException:
        backend.release(list(live))
        raise
    finally:
        backend.release([root.sequence for root in roots])
    return live


def _advance(
    backend: Backend,
    live: dict[SequenceId, _Live],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    interval: int,
) -> Iterator[Rollout]:
    sequences = list(live)
    steps = [min(interval, max_new_tokens - live[sequence].length) for sequence in sequences]
    ended: list[SequenceId] = []
    for sequence, step in zip(sequences, backend.advance(sequences, steps), strict=True):
        rollout = live[sequence]
        rollout.tokens.append(step.tokens)
        rollout.logits.append(step.joint_logits)
        rollout.length += len(step.tokens)
        if step.confidences is not None:
            rollout.confidences.append(step.confidences)
        if rollout.states is not None:
            rollout.states.add(_hidden(step.hidden))
        if step.non_finite:
            raise NonFiniteLogitsError(
                f"the logits of prompt {rollout.prompt}, sample {rollout.sample} became NaN or infinite after "
                f"{rollout.length} tokens; expected finite numbers. Check the weights, or load the model in float32."
            )
        if not (step.finished or rollout.length >= max_new_tokens or not len(step.tokens)):
            continue
        ended.append(sequence)
        yield Rollout(
            prompt=rollout.prompt,
            sample=rollout.sample,
            prompt_tokens=np.asarray(prompts[rollout.prompt], dtype=np.int32),
            tokens=np.concatenate(rollout.tokens),
            joint_logits=np.concatenate(rollout.logits),
            finished=step.finished,
            hidden=rollout.states.kept() if rollout.states else None,
            confidences=np.concatenate(rollout.confidences) if rollout.confidences else None,
        )
    for sequence in ended:
        del live[sequence]
    backend.release(ended)


def _hidden(states: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if states is None:
        raise TrainingDataError("the model gives no hidden states; open it with hidden_states=True")
    return states
