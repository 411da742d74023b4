"""What every backend must do with tokens that it is given: go on as if it had drawn them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from zip_introspect.backend.contract import Backend, Prefilled, SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError
from zip_introspect.testing import rounding

SAMPLED = SamplingParams(temperature=1.0, seed=7)
SAMPLES = 4


class AppendConformance:
    """Tests of `Backend.append` and `Backend.spell`."""

    sums: int = rounding.SMALL_MODEL
    roundoff: float = rounding.FLOAT32
    prompts: tuple[str, ...] = ("Solve 3*x+5=35", "2")
    said: tuple[str, ...] = ("so", "\n\nSo it is: ", "</think>\n\n")
    """Texts with which a sample may go on."""

    @pytest.fixture
    def prefilled(self, backend: Backend) -> Iterator[list[Prefilled]]:
        """The prompts, prefilled together."""
        made = backend.prefill([backend.encode(prompt) for prompt in self.prompts])
        yield made
        backend.release([prompt.sequence for prompt in made])

    def test_what_is_spelt_says_the_text(self, backend: Backend) -> None:
        for text in self.said:
            tokens = backend.spell(text)
            assert backend.decode(tokens) == text
            assert set(backend.reserved).isdisjoint(tokens)

    def test_appended_tokens_are_as_drawn_ones(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        """Several of several prompts in one call, each as many as it had drawn, and from then on the same."""
        drawn, twins = self._drawn(backend, prefilled)
        self._go_on_alike(backend, drawn, twins)

    def test_paused_sequences_and_forks_go_on_alike(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        drawn, twins = self._drawn(backend, prefilled)
        backend.pause([*drawn, *twins])
        branches, others = (
            [backend.fork(sequence, [place % SAMPLES], SAMPLED)[0] for place, sequence in enumerate(some)]
            for some in (drawn, twins)
        )
        backend.release([*drawn, *twins])
        self._go_on_alike(backend, branches, others)

    def test_paused_sequences_take_tokens(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        first, second = (backend.fork(prefilled[0].sequence, [0], SAMPLED)[0] for _ in range(2))
        (begun, _), (more,) = backend.advance([first, second], [3, 3]), backend.advance([first], [2])
        assert not begun.finished, "choose another seed: the sample ended before it could go on"
        if not more.finished:
            backend.pause([second])
            backend.release([prefilled[0].sequence])
            (given,) = backend.append([second], [more.tokens.tolist()])
            self._same(given.joint_logits, more.joint_logits[-1:])
            self._go_on_alike(backend, [first], [second])
        backend.release([first, second])

    def test_what_is_given_was_not_drawn_and_so_has_no_confidence(
        self, backend: Backend, prefilled: list[Prefilled]
    ) -> None:
        if not backend.info.confidences:
            pytest.skip("the backend reports no confidences")
        (sequence,) = backend.fork(prefilled[0].sequence, [0], SAMPLED.replace(confidences=True))
        (given,) = backend.append([sequence], [backend.spell(self.said[0])])
        (drawn,) = backend.advance([sequence], [2])
        assert given.confidences is None
        assert drawn.confidences is not None
        assert drawn.confidences.shape == (len(drawn.tokens), 2)
        backend.release([sequence])

    def test_they_end_at_the_context(self, backend: Backend) -> None:
        limit = backend.info.max_context
        if limit > 4096:
            pytest.skip(f"a context of {limit} tokens takes long to fill; open the model with a max_context of 256")
        token = backend.encode(self.prompts[0])[-1]
        (prompt,) = backend.prefill([[token] * (limit - 3)])
        (sequence,) = backend.fork(prompt.sequence, [0], SAMPLED)
        with pytest.raises(BackendError, match=f"context of {limit}"):
            backend.append([sequence], [[token] * 4])
        (given,) = backend.append([sequence], [[token] * 3])
        assert given.joint_logits.shape == (1, backend.num_cells)
        (nothing,) = backend.advance([sequence], [1])
        assert not nothing.tokens.size
        backend.release([prompt.sequence, sequence])

    def test_what_is_never_said_is_refused(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        info, fine = backend.info, backend.spell(self.said[0])
        first, second, other = backend.fork(prefilled[0].sequence, [0, 1, 1], SAMPLED)
        wrong: list[list[int]] = [
            [],
            [info.eos_token_ids[0]],
            [-1],
            [info.vocab_size],
            *[[i] for i in backend.reserved],
        ]
        for tokens in wrong[:6]:
            with pytest.raises(BackendError, match="expected"):
                backend.append([first, second], [fine, tokens])
        with pytest.raises(BackendError, match="twice"):
            backend.append([first, first], [fine, fine])
        with pytest.raises(BackendError, match="expected one for each"):
            backend.append([first, second], [fine])
        with pytest.raises(BackendError, match="fork it first"):
            backend.append([prefilled[0].sequence], [fine])
        self._go_on_alike(backend, [second], [other])  # nothing has changed
        backend.release([first, second, other])
        with pytest.raises(BackendError, match="released"):
            backend.append([first], [fine])

    def _drawn(self, backend: Backend, prefilled: list[Prefilled]) -> tuple[list[SequenceId], list[SequenceId]]:
        """Sequences that drew 1 to 6 tokens, and others that were given them."""
        forks = [[backend.fork(prompt.sequence, range(SAMPLES), SAMPLED) for prompt in prefilled] for _ in range(2)]
        drawn, twins = ([sequence for some in forked for sequence in some] for forked in forks)
        runs = backend.advance(drawn, [1 + place % 6 for place in range(len(drawn))])
        going = [place for place, run in enumerate(runs) if not run.finished]
        assert len(going) > len(prefilled), "choose another seed: too many samples have ended"
        for place in {*range(len(runs))} - {*going}:
            backend.release([drawn[place], twins[place]])
        given = backend.append([twins[place] for place in going], [runs[place].tokens.tolist() for place in going])
        for place, found in zip(going, given, strict=True):
            assert found.tokens.tolist() == runs[place].tokens.tolist()
            assert not found.finished
            assert not found.non_finite
            self._same(found.joint_logits, runs[place].joint_logits[-1:])
        return [drawn[place] for place in going], [twins[place] for place in going]

    def _go_on_alike(self, backend: Backend, first: list[SequenceId], second: list[SequenceId]) -> None:
        """Both draw the same, and are released."""
        expected, found = (backend.advance(some, [6] * len(some)) for some in (first, second))
        for one, other in zip(expected, found, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            self._same(other.joint_logits, one.joint_logits)
        backend.release([*first, *second])

    def _same(self, found: np.ndarray, expected: np.ndarray) -> None:
        allowed = rounding.tolerance(expected, self.sums, self.roundoff)
        np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)
