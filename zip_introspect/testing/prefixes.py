"""What every backend must do where prompts begin alike: say the same as one that computes each of them from nothing.

The fixtures are `backend`, which may take over what it has computed before, and `plain`, of the same model, which does
not. Their context holds some 200 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zip_introspect.backend.contract import Backend, Prefilled, SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.testing import rounding

LENGTH = 60
"""Tokens that the prompts begin with."""
ENDINGS = ([7, 8, 9], [9], [8] * 40, [5, 6, 7, 8] * 5)
SAMPLED = SamplingParams(temperature=1.0, seed=7)


class PrefixConformance:
    """Tests of prompts that begin like others: released ones, living ones, and those of the same call."""

    sums: int = rounding.SMALL_MODEL
    roundoff: float = rounding.FLOAT32

    def test_a_released_prompt_may_be_taken_over(self, backend: Backend, plain: Backend) -> None:
        start = beginning(backend)
        self._said(backend, [start])
        for ending in (*ENDINGS, *ENDINGS):
            self._same(self._said(backend, [[*start, *ending]]), self._said(plain, [[*start, *ending]]))

    def test_the_same_prompt_again_computes_its_last_token_at_least(self, backend: Backend, plain: Backend) -> None:
        prompt = beginning(backend)
        for _ in range(3):
            (found,) = backend.prefill([prompt])
            assert 0 <= found.cached_tokens < len(prompt)
            backend.release([found.sequence])
            self._same(self._said(backend, [prompt]), self._said(plain, [prompt]))

    def test_living_prompts_and_those_of_one_call_share_beginnings(self, backend: Backend, plain: Backend) -> None:
        start = beginning(backend)
        prompts = [[*start, *ending] for ending in ENDINGS]
        living = backend.prefill(prompts)
        late = backend.prefill([[*start, 9, 9]])
        running = backend.fork(late[0].sequence, [0], SAMPLED)
        backend.advance(running, [10])
        self._same(_drawn(backend, living), self._said(plain, prompts))
        backend.release([*running, *(found.sequence for found in (*living, *late))])
        self._same(self._said(backend, prompts[::-1]), self._said(plain, prompts[::-1]))

    def test_what_is_kept_is_counted_and_is_no_sequence(self, backend: Backend) -> None:
        self._said(backend, [beginning(backend)])
        limit = backend.info.resident_tokens
        assert backend.info.kept_tokens >= 0
        assert limit is None or backend.info.kept_tokens <= limit

    def _said(self, backend: Backend, prompts: Sequence[Sequence[int]]) -> list[tuple[Prefilled, list[int]]]:
        """The joints of prompts, and what samples of them say; all are released."""
        made = backend.prefill(prompts)
        said = _drawn(backend, made)
        backend.release([found.sequence for found in made])
        return said

    def _same(
        self, found: Sequence[tuple[Prefilled, list[int]]], expected: Sequence[tuple[Prefilled, list[int]]]
    ) -> None:
        for (one, tokens), (other, wanted) in zip(found, expected, strict=True):
            tolerance = rounding.tolerance(other.joint_logits, self.sums, self.roundoff)
            np.testing.assert_allclose(one.joint_logits, other.joint_logits, atol=tolerance, rtol=0)
            assert tokens == wanted


def beginning(backend: Backend, count: int = LENGTH) -> list[int]:
    """Ordinary tokens, such as prompts begin with."""
    line = backend.encode("Solve 3*x+5=35, then 2*x+1=7 and so on", chat=False)
    return [*backend.encode("2"), *line * (count // len(line) + 1)][:count]


def _drawn(backend: Backend, made: Sequence[Prefilled]) -> list[tuple[Prefilled, list[int]]]:
    """Each prompt, and what two samples of it say."""
    said = []
    for prompt in made:
        samples: list[SequenceId] = backend.fork(prompt.sequence, [0, 1], SAMPLED)
        tokens = [token for run in backend.advance(samples, [12, 12]) for token in run.tokens.tolist()]
        backend.release(samples)
        said.append((prompt, tokens))
    return said
