"""What every backend must do when it refuses or fails: give back the room that it had taken for the call.

The fixture `backend` is one that was opened with a `max_sequences` of 8 or so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from zip_introspect.backend.contract import Backend, Prefilled, SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, PromptError

PROMPT = "Solve 3*x+5=35"
SAMPLED = SamplingParams(seed=7)


def room(backend: Backend, prompt: Prefilled) -> int:
    """How many sequences more a backend takes, found out by forking a prompt until it refuses."""
    made: list[SequenceId] = []
    try:
        while True:
            made += backend.fork(prompt.sequence, [len(made)], SAMPLED)
    except BackendError:
        return len(made)
    finally:
        backend.release(made)


class RoomConformance:
    """Tests of a backend with a limit of sequences: after every kind of failure it takes as many as before."""

    @pytest.fixture
    def prompt(self, backend: Backend) -> Iterator[Prefilled]:
        """A prompt, prefilled."""
        (made,) = backend.prefill([backend.encode(PROMPT)])
        yield made
        backend.release([made.sequence])

    def test_room_is_what_max_sequences_says(self, backend: Backend, prompt: Prefilled) -> None:
        assert backend.info.max_sequences is not None
        assert room(backend, prompt) == backend.info.max_sequences - 1
        assert room(backend, prompt) == backend.info.max_sequences - 1

    def test_a_prefill_that_is_refused_takes_no_room(self, backend: Backend, prompt: Prefilled) -> None:
        before, sound = room(backend, prompt), backend.encode(PROMPT)
        too_long = [sound[-1]] * (backend.info.max_context + 1)
        for prompts, error in (
            ([sound] * (before + 1), BackendError),
            ([sound, []], PromptError),
            ([sound, too_long], PromptError),
        ):
            with pytest.raises(error):
                backend.prefill(prompts)
            assert room(backend, prompt) == before

    def test_a_fork_that_is_refused_takes_no_room(self, backend: Backend, prompt: Prefilled) -> None:
        before = room(backend, prompt)
        for sequence, count in ((prompt.sequence, before + 1), (SequenceId(10**9), 1)):
            with pytest.raises(BackendError):
                backend.fork(sequence, range(count), SAMPLED)
            assert room(backend, prompt) == before

    def test_an_advance_that_is_refused_moves_nobody(self, backend: Backend, prompt: Prefilled) -> None:
        first, second, twin = backend.fork(prompt.sequence, [0, 1, 0], SAMPLED)
        before = room(backend, prompt)
        refused: list[Callable[[], object]] = [
            lambda: backend.advance([first, SequenceId(10**9)], [2, 2]),
            lambda: backend.advance([first, first], [2, 2]),
            lambda: backend.advance([first, second], [2]),
            lambda: backend.advance([first, second], [2, -1]),
            lambda: backend.advance([first, prompt.sequence], [2, 2]),
        ]
        for use in refused:
            with pytest.raises(BackendError):
                use()
            assert room(backend, prompt) == before
        one, other = backend.advance([first, twin], [3, 3])
        assert one.tokens.tolist() == other.tokens.tolist()
        backend.release([first, second, twin])

    def test_a_sequence_that_has_ended_holds_its_room_until_it_is_released(
        self, backend: Backend, prompt: Prefilled
    ) -> None:
        before = room(backend, prompt)
        for sample in range(40):
            (sequence,) = backend.fork(prompt.sequence, [sample], SAMPLED.replace(temperature=3.0))
            (run,) = backend.advance([sequence], [100])
            if run.finished:
                for use in (
                    lambda ended=sequence: backend.advance([ended], [1]),
                    lambda ended=sequence: backend.fork(ended, [0], SAMPLED),
                ):
                    with pytest.raises(BackendError, match="finished"):
                        use()
                assert room(backend, prompt) == before - 1
            backend.release([sequence])
        assert room(backend, prompt) == before
