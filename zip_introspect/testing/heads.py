"""What every backend must do with a head that is laid over a model: give the joints that it makes of hidden states.

The fixture `backend` is one that was opened with `head=random_head(...)` and `hidden_states=True`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from zip_introspect.backend.contract import Advanced, Backend, Prefilled
from zip_introspect.config import SamplingParams
from zip_introspect.errors import HeadError
from zip_introspect.heads.head import Head
from zip_introspect.heads.network import Input
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing import rounding

PROMPTS = ("Solve 3*x+5=35", "What is it that makes 4*(x+2)=x*x+1 true, and why would it be so?")
SAMPLED = SamplingParams(temperature=1.0, seed=7)


def random_head(hidden_size: int, inputs: tuple[Input, ...] = ("last", "mean"), hidden: int = 0) -> Head:
    """A head that nobody trained.

    Args:
        hidden: units of its hidden layer; 0 makes it linear.
    """
    rng, grid = np.random.default_rng(0), JointGrid.paper(0, num_reward_bins=3, num_length_bins=4)
    sizes = [len(inputs) * hidden_size, *([hidden] if hidden else []), grid.num_cells]
    weights: dict[str, NDArray[np.floating]] = {}
    for place, (width, out) in enumerate(pairwise(sizes)):
        weights[f"{place}.weight"] = rng.normal(size=(out, width)) / np.sqrt(width)
        weights[f"{place}.bias"] = rng.normal(size=out)
    return Head.of(grid, weights, hidden_size=hidden_size, inputs=inputs)


class HeadConformance:
    """Tests of hidden states, and of the joints that a head makes of them on whatever way a sequence took."""

    sums: int = rounding.SMALL_MODEL
    roundoff: float = rounding.FLOAT16
    """Hidden states may come in half precision."""

    @pytest.fixture
    def prefilled(self, backend: Backend) -> Iterator[list[Prefilled]]:
        """The prompts, prefilled together."""
        made = backend.prefill([backend.encode(prompt) for prompt in PROMPTS])
        yield made
        backend.release([prompt.sequence for prompt in made])

    def test_what_it_says_of_itself(self, backend: Backend) -> None:
        assert backend.head is not None
        assert backend.grid == backend.head.grid
        assert backend.info.hidden_size == backend.head.about.hidden_size
        assert not backend.reserved

    def test_a_model_knows_its_own_fingerprint(self, backend: Backend) -> None:
        taken = backend.fingerprint()
        assert taken.rows.shape == (len(taken.token_ids), backend.info.hidden_size)
        assert taken.compare(backend.fingerprint(taken.token_ids)) == ()
        with pytest.raises(HeadError, match="token"):
            backend.fingerprint([backend.info.vocab_size])

    def test_joints_are_what_the_head_makes_of_hidden_states(
        self, backend: Backend, prefilled: list[Prefilled]
    ) -> None:
        """Whole, in parts, paused, forked on the way, and beside others that end elsewhere."""
        first, second = prefilled
        whole, cut = (backend.fork(prompt.sequence, [3], SAMPLED)[0] for prompt in (first, second))
        parts = [backend.advance([whole, cut], [9, 4])]
        backend.pause([cut])
        parts.append(backend.advance([whole], [1]))
        runs = {whole: [part[0] for part in parts], cut: [parts[0][1]]}
        if not runs[cut][-1].finished:
            (branch,) = backend.fork(cut, [8], SAMPLED)
            runs[branch] = list(runs[cut])
            for sequence, more in zip((branch, cut), backend.advance([branch, cut], [3, 6]), strict=True):
                runs[sequence].append(more)
            backend.release([branch])
        for sequence, run in runs.items():
            self._check(backend, first if sequence == whole else second, run)
        backend.release([whole, cut])

    def test_given_tokens_are_read_as_drawn_ones(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        first, second, twin = backend.fork(prefilled[0].sequence, [3, 4, 3], SAMPLED)
        drawn = backend.advance([first, second], [5, 3])
        given = backend.append([twin], [drawn[0].tokens.tolist()])
        runs = backend.advance([first, twin], [4, 4])
        for expected, found in ((drawn[0], given[0]), (runs[0], runs[1])):
            assert expected.hidden is not None
            assert found.hidden is not None
            rows = expected.joint_logits[-len(found.joint_logits) :]
            np.testing.assert_allclose(found.joint_logits, rows, atol=self._tolerance(rows), rtol=0)
            states = expected.hidden[-len(found.hidden) :]
            np.testing.assert_allclose(found.hidden, states, atol=self._tolerance(states), rtol=0)
        assert runs[0].tokens.tolist() == runs[1].tokens.tolist()
        backend.release([first, second, twin])

    def test_hidden_states_are_those_of_the_prefix(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        prompt = backend.encode(PROMPTS[0])
        (sequence,) = backend.fork(prefilled[0].sequence, [0], SAMPLED)
        (run,) = backend.advance([sequence], [6])
        tokens = run.tokens[: len(run.joint_logits)].tolist()
        prefixes = backend.prefill([[*prompt, *tokens[: place + 1]] for place in range(len(tokens))])
        found = np.stack([prefix.hidden for prefix in prefixes if prefix.hidden is not None])
        assert run.hidden is not None
        np.testing.assert_allclose(run.hidden, found, atol=self._tolerance(found), rtol=0)
        backend.release([sequence, *(prefix.sequence for prefix in prefixes)])

    def _check(self, backend: Backend, prompt: Prefilled, runs: Sequence[Advanced]) -> None:
        assert backend.head is not None
        assert prompt.hidden is not None
        states = [prompt.hidden[None], *(run.hidden for run in runs if run.hidden is not None)]
        last = np.concatenate(states)
        assert all(run.hidden is not None and len(run.hidden) == len(run.joint_logits) for run in runs)
        means = last.cumsum(0) / np.arange(1, len(last) + 1)[:, None]
        expected = backend.head.logits(last, means)
        found = np.concatenate([prompt.joint_logits[None], *(run.joint_logits for run in runs)])
        np.testing.assert_allclose(found, expected, atol=self._tolerance(expected), rtol=0)

    def _tolerance(self, numbers: NDArray[np.floating]) -> float:
        # Of what is summed in float32, only the states themselves are rounded to half precision.
        coarse = 4 * self.roundoff * float(np.abs(numbers).max(initial=0.0))
        return coarse + rounding.tolerance(numbers, self.sums)
