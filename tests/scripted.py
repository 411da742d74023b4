"""A backend that plays faults on purpose, over the simulated world."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zip_introspect.backend.contract import Advanced, Prefilled, SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError
from zip_introspect.prompts import Message
from zip_introspect.testing.simulator import SimulatedBackend


class FaultyBackend(SimulatedBackend):
    """At call number `at` of `advance` (from 0), `fault` changes what comes back, or raises."""

    def __init__(self, fault: Callable[[list[Advanced]], list[Advanced]], at: int = 1, pace: float = 0.0) -> None:
        super().__init__()
        self.fault, self.at, self.pace, self.calls = fault, at, pace, 0

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        time.sleep(self.pace)
        results = super().advance(sequences, steps)
        call, self.calls = self.calls, self.calls + 1
        return self.fault(results) if call == self.at else results


class GatedBackend(SimulatedBackend):
    """At call number `at` of `advance` it sets `reached`, and computes nothing before `gate` is set."""

    def __init__(self, max_sequences: int | None = None) -> None:
        super().__init__(max_sequences=max_sequences)
        self.at = self.calls = 0
        self.reached, self.gate = threading.Event(), threading.Event()

    def advance(self, sequences: Sequence[SequenceId], steps: Sequence[int]) -> list[Advanced]:
        call, self.calls = self.calls, self.calls + 1
        if call == self.at:
            self.reached.set()
            assert self.gate.wait(60), "nobody opened the gate"
        return super().advance(sequences, steps)

    def close_gate(self, after: int) -> None:
        """Stop at the call that follows `after` more."""
        self.at = self.calls + after
        self.reached.clear()
        self.gate.clear()


def freed(backend: SimulatedBackend) -> bool:
    """Whether nothing is left of calls that were given up: the engine drops them after the call in progress."""
    deadline = time.monotonic() + 10.0
    while backend.held and time.monotonic() < deadline:
        time.sleep(0.005)
    return backend.held == 0


def unchanged(results: list[Advanced]) -> list[Advanced]:
    """No fault at all, for tests of timing."""
    return results


def nan_in_the_last(results: list[Advanced]) -> list[Advanced]:
    """The last sequence meets NaN logits after its first new token."""
    sound = results[-1]
    return [*results[:-1], Advanced(sound.tokens[:1], sound.joint_logits[:1], False, non_finite=True)]


def nan_in_the_joint(results: list[Advanced]) -> list[Advanced]:
    """Reserved logits are NaN though the others are sound."""
    return [Advanced(r.tokens, np.full_like(r.joint_logits, np.nan), r.finished) for r in results]


def stalled(results: list[Advanced]) -> list[Advanced]:
    """Nothing grows and nothing ends."""
    return [Advanced(r.tokens[:0], r.joint_logits[:0], finished=False) for r in results]


def out_of_memory(results: list[Advanced]) -> list[Advanced]:
    """The whole call fails."""
    raise MemoryError("no room")


class SeedRecorder(SimulatedBackend):
    """Remembers the seed of every fork."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        self.seeds.append(sampling.seed)
        return super().fork(sequence, samples, sampling)


class FullBackend(SimulatedBackend):
    """Has no room for what it is asked at call number `at`, from 0, of `prefill` or `fork`, and from then on."""

    def __init__(self, verb: str, at: int) -> None:
        super().__init__()
        self.verb, self.at, self.calls = verb, at, 0

    def _count(self, verb: str) -> None:
        if verb == self.verb:
            self.calls += 1
            if self.calls > self.at:
                raise BackendError(f"no room for another {verb}")

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
        self._count("prefill")
        return super().prefill(prompts)

    def fork(self, sequence: SequenceId, samples: Sequence[int], sampling: SamplingParams) -> list[SequenceId]:
        self._count("fork")
        return super().fork(sequence, samples, sampling)


class TemplatedBackend(SimulatedBackend):
    """Its chat template is a question and the options in the order of their names."""

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        chat: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        text = bytes(super().encode(prompt, chat=chat)).decode()
        return list(f"{text} {sorted((chat_template_kwargs or {}).items())}".encode())


class OlderBackend(SimulatedBackend):
    """One that was written before templates had options."""

    def encode(self, prompt: str | Sequence[Message], *, chat: bool = True) -> list[int]:  # type: ignore[override]
        return super().encode(prompt, chat=chat)
