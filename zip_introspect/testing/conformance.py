"""What every backend must do, as tests that run against any of them.

Subclass in a test module of your own, beside a fixture `backend` (module scope keeps it quick):

    @pytest.fixture(scope="module")
    def backend():
        return MyBackend.open("some small model")

    class TestMyBackend(BackendConformance): ...

The tests release what they make. They need a model of any quality, a randomly initialised one too, whose context
holds some 200 tokens beyond the prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

import numpy as np
import pytest
from numpy.typing import NDArray

from zip_introspect.backend.contract import Advanced, Backend, Prefilled, SequenceId
from zip_introspect.config import COLDEST, SamplingParams
from zip_introspect.errors import BackendError, ConfigError, PromptError
from zip_introspect.testing import rounding
from zip_introspect.testing.appending import AppendConformance
from zip_introspect.testing.confidences import ConfidenceConformance
from zip_introspect.testing.texts import TextConformance

SAMPLED = SamplingParams(temperature=1.0, seed=7)
GREEDY = SamplingParams(temperature=0.0)
FILTERS = (
    SamplingParams(temperature=100.0, seed=1),
    SamplingParams(temperature=100.0, top_k=5, seed=2),
    SamplingParams(temperature=5.0, top_p=0.9, seed=3),
    SamplingParams(temperature=5.0, min_p=0.01, seed=4),
    SamplingParams(temperature=2.0, top_k=50, top_p=0.95, min_p=0.001, seed=5),
)


class BackendConformance(TextConformance, AppendConformance, ConfidenceConformance):
    """Tests of the contract in `zip_introspect.backend.contract`."""

    sums: int = rounding.SMALL_MODEL
    """Terms added one after another on the way to a logit, as `rounding.tolerance` counts them."""
    roundoff: float = rounding.FLOAT32
    """Of the coarsest numbers that the backend adds."""
    prompts: tuple[str, ...] = (
        "Solve 3*x+5=35",
        "2",
        "What is it that makes 4*(x+2)=x*x+1 true, and why would it be so?",
    )
    """Texts of clearly different lengths."""
    special_spellings: tuple[str, ...] = ("<|reserved_0|>", "<|end|>", "<|im_end|>", "<|endoftext|>", "</s>", "<eos>")
    """Texts that a user may type and that some tokenizer takes for a token."""

    @pytest.fixture
    def prefilled(self, backend: Backend) -> Iterator[list[Prefilled]]:
        """The prompts, prefilled together."""
        made = backend.prefill([backend.encode(prompt) for prompt in self.prompts])
        yield made
        backend.release([prompt.sequence for prompt in made])

    # What a backend says of itself

    def test_info_is_consistent(self, backend: Backend) -> None:
        info = backend.info
        assert info.vocab_size > 0
        assert info.max_context > 0
        assert info.parameters > 0
        assert all((info.backend, info.architecture, info.device))
        assert all(0 <= token < info.vocab_size for token in info.eos_token_ids)
        if backend.grid and backend.reserved:
            backend.grid.check_fits(info.vocab_size, info.eos_token_ids)

    # Text

    def test_encode_gives_token_ids(self, backend: Backend) -> None:
        reserved = set(backend.reserved)
        for prompt in self.prompts:
            tokens = backend.encode(prompt)
            assert tokens
            assert all(isinstance(token, int) and 0 <= token < backend.info.vocab_size for token in tokens)
            assert reserved.isdisjoint(tokens)

    def test_a_string_is_one_user_message(self, backend: Backend) -> None:
        for prompt in self.prompts:
            assert backend.encode(prompt) == backend.encode([{"role": "user", "content": prompt}])

    def test_bare_text_comes_back(self, backend: Backend) -> None:
        for prompt in self.prompts:
            assert backend.decode(backend.encode(prompt, chat=False)).strip() == prompt

    def test_special_tokens_are_left_out_of_text(self, backend: Backend) -> None:
        tokens = backend.encode(self.prompts[0], chat=False)
        assert backend.decode([*tokens, *backend.info.eos_token_ids]) == backend.decode(tokens)

    @pytest.mark.parametrize("chat", [True, False])
    def test_text_that_spells_a_special_token_stays_text(self, backend: Backend, chat: bool) -> None:
        plain = backend.encode("before  after", chat=chat)
        special = {*backend.info.eos_token_ids, *backend.reserved}
        for spelling in self.special_spellings:
            tokens = backend.encode(f"before {spelling} after", chat=chat)
            assert [token for token in tokens if token in special] == [token for token in plain if token in special]
            assert spelling in backend.decode(tokens)

    def test_prompts_begin_alike_and_once(self, backend: Backend) -> None:
        raw = [backend.encode(text, chat=False) for text in ("2", "Solve", "What")]
        opening = [alike[0] for alike in takewhile(lambda some: len(set(some)) == 1, zip(*raw, strict=False))]
        for text in ("2", "Solve", *self.special_spellings):
            for tokens in (backend.encode(text, chat=chat) for chat in (True, False)):
                assert tokens[: len(opening)] == opening
                assert not opening or tokens[len(opening) : 2 * len(opening)] != opening

    def test_nothing_ends_a_raw_prompt(self, backend: Backend) -> None:
        for text in (*self.prompts, *self.special_spellings):
            assert backend.encode(text, chat=False)[-1] not in backend.info.eos_token_ids

    def test_threads_encode_what_one_encodes(self, backend: Backend) -> None:
        texts = [*self.prompts, *(f"before {spelling} after" for spelling in self.special_spellings)] * 20
        expected = [backend.encode(text) for text in texts]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(backend.encode, texts)) == expected

    def test_options_of_a_template_that_is_not_applied_are_refused(self, backend: Backend) -> None:
        with pytest.raises(ConfigError, match="expected none"):
            backend.encode(self.prompts[0], chat=False, chat_template_kwargs={"enable_thinking": False})

    @pytest.mark.parametrize("prompt", ["", "  \n", [], [{"role": "user", "content": ""}], [{"role": "user"}]])
    def test_nothing_to_answer_is_refused(self, backend: Backend, prompt: str) -> None:
        with pytest.raises(PromptError, match="expected"):
            backend.encode(prompt)

    @pytest.mark.parametrize("chat", [True, False])
    def test_text_that_is_not_unicode_is_refused(self, backend: Backend, chat: bool) -> None:
        for text in ("half a \ud83d pair", "\udc80 of a byte"):
            with pytest.raises(PromptError, match="surrogate pair; expected Unicode"):
                backend.encode([{"role": "user", "content": text}], chat=chat)

    # Prompts

    def test_prefill_gives_the_joint_of_the_prompt(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        for prompt, text in zip(prefilled, self.prompts, strict=True):
            assert prompt.joint_logits.shape == (backend.num_cells,)
            assert prompt.joint_logits.dtype == np.float32
            assert np.isfinite(prompt.joint_logits).all()
            (alone,) = backend.prefill([backend.encode(text)])
            backend.release([alone.sequence])
            self._assert_close(alone.joint_logits, prompt.joint_logits)

    def test_prefill_of_nothing(self, backend: Backend) -> None:
        assert backend.prefill([]) == []

    def test_an_empty_prompt_is_refused(self, backend: Backend) -> None:
        with pytest.raises(PromptError, match="no tokens"):
            backend.prefill([[]])

    def test_a_prompt_over_the_context_is_refused(self, backend: Backend) -> None:
        token = backend.encode(self.prompts[0])[-1]
        with pytest.raises(PromptError, match=str(backend.info.max_context)):
            backend.prefill([[token] * (backend.info.max_context + 1)])

    # Advancing

    def test_advanced_is_well_formed(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        sequences = [sequence for prompt in prefilled for sequence in backend.fork(prompt.sequence, range(4), SAMPLED)]
        steps = [1 + index % 7 for index in range(len(sequences))]
        for advanced, asked in zip(backend.advance(sequences, steps), steps, strict=True):
            self._check(backend, advanced, asked)
        backend.release(sequences)

    def test_no_steps_are_no_tokens(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        assert backend.advance([], []) == []
        sequences = backend.fork(prefilled[0].sequence, [0, 1], SAMPLED)
        nothing, something = backend.advance(sequences, [0, 3])
        self._check(backend, nothing, 0)
        assert something.tokens.size
        backend.release(sequences)

    def test_joints_are_those_of_a_fresh_prompt(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        """The joint read beside others, at any length, is that of a plain pass over prompt and tokens."""
        sequences = [prompt_sequence for prompt in prefilled for prompt_sequence in self._forks(backend, prompt, 1)]
        runs = self._advance_unevenly(backend, sequences)
        for text, (tokens, rows) in zip(self.prompts, runs, strict=True):
            prompt = backend.encode(text)
            prefixes = [[*prompt, *tokens[: end + 1]] for end in range(len(rows))]
            fresh = backend.prefill(prefixes)
            backend.release([prefix.sequence for prefix in fresh])
            for row, prefix in zip(rows, fresh, strict=True):
                self._assert_close(row, prefix.joint_logits)
        backend.release(sequences)

    def test_finished_sequences_end_with_end_of_sequence(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        sequences = backend.fork(prefilled[1].sequence, range(16), SamplingParams(temperature=3.0, seed=11))
        results = backend.advance(sequences, [150] * len(sequences))
        for sequence, advanced in zip(sequences, results, strict=True):
            self._check(backend, advanced, 150)
            if advanced.finished:
                with pytest.raises(BackendError, match="finished"):
                    backend.advance([sequence], [1])
            else:
                assert advanced.tokens.size == 150
        backend.release(sequences)

    def test_a_sequence_stops_at_the_context(self, backend: Backend) -> None:
        limit = backend.info.max_context
        if limit > 4096:
            pytest.skip(f"a context of {limit} tokens takes long to fill; open the model with a max_context of 256")
        token = backend.encode(self.prompts[0])[-1]
        (prompt,) = backend.prefill([[token] * (limit - 3)])
        (sequence,) = backend.fork(prompt.sequence, [0], GREEDY)
        (advanced,) = backend.advance([sequence], [10])
        assert advanced.finished or advanced.tokens.size == 3
        if not advanced.finished:
            (nothing,) = backend.advance([sequence], [10])
            assert nothing.tokens.size == 0
            assert not nothing.finished
        backend.release([prompt.sequence, sequence])

    @pytest.mark.parametrize("sampling", FILTERS, ids=lambda sampling: f"seed{sampling.seed}")
    def test_reserved_tokens_are_never_drawn(
        self, backend: Backend, prefilled: list[Prefilled], sampling: SamplingParams
    ) -> None:
        sequences = backend.fork(prefilled[0].sequence, range(24), sampling)
        drawn = {token for run in backend.advance(sequences, [12] * 24) for token in run.tokens.tolist()}
        backend.release(sequences)
        assert drawn
        assert drawn.isdisjoint(backend.reserved)

    @pytest.mark.parametrize(
        "sampling",
        [
            SamplingParams(top_k=1),
            SamplingParams(top_p=1e-6),
            SamplingParams(min_p=1.0),
            SamplingParams(temperature=1e-46),
            SamplingParams(temperature=COLDEST),
        ],
        ids=["top_k", "top_p", "min_p", "below the coldest", "coldest"],
    )
    def test_the_tightest_filter_is_greedy(
        self, backend: Backend, prefilled: list[Prefilled], sampling: SamplingParams
    ) -> None:
        assert self._run(backend, prefilled[0], 3, sampling, 12) == self._run(backend, prefilled[0], 0, GREEDY, 12)

    # Streams

    def test_a_seed_fixes_the_tokens(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        first, again = (self._run(backend, prefilled[0], 5, SAMPLED, 20) for _ in range(2))
        assert first == again

    def test_samples_and_seeds_differ(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        hot = SamplingParams(temperature=10.0, seed=7)
        runs = {
            tuple(self._run(backend, prefilled[0], sample, hot.replace(seed=seed), 20))
            for sample in range(3)
            for seed in (0, 1, -1)
        }
        assert len(runs) == 9

    def test_greedy_ignores_the_stream(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        first = self._run(backend, prefilled[2], 0, GREEDY, 12)
        assert first == self._run(backend, prefilled[2], 9, GREEDY.replace(seed=99), 12)

    def test_tokens_do_not_depend_on_what_runs_beside(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        mixed = [SAMPLED, GREEDY, *FILTERS]
        sequences = [
            backend.fork(prompt.sequence, [sample], sampling)[0]
            for prompt in prefilled
            for sample, sampling in enumerate(mixed)
        ]
        together = backend.advance(sequences, [17] * len(sequences))
        alone = [
            self._run(backend, prompt, sample, sampling, 17)
            for prompt in prefilled
            for sample, sampling in enumerate(mixed)
        ]
        assert [run.tokens.tolist() for run in together] == alone
        backend.release(sequences)

    def test_tokens_do_not_depend_on_the_intervals(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        sequences = [sequence for prompt in prefilled for sequence in self._forks(backend, prompt, 2)]
        runs = self._advance_unevenly(backend, sequences)
        for index, (tokens, _) in enumerate(runs):
            assert tokens == self._run(backend, prefilled[index // 2], index % 2, SAMPLED, len(tokens))
        backend.release(sequences)

    # Pausing, forking and releasing

    def test_a_paused_sequence_goes_on_where_it_was(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        sequences = self._forks(backend, prefilled[0], 3)
        runs = [[run.tokens.tolist()] for run in backend.advance(sequences, [5, 5, 5])]
        ends = backend.info.eos_token_ids
        going = [index for index in range(3) if len(runs[index][0]) == 5 and runs[index][0][-1] not in ends]
        backend.pause([sequences[index] for index in going[1:]])
        for chosen in (going[:1], going):
            for index, run in zip(
                chosen, backend.advance([sequences[i] for i in chosen], [4] * len(chosen)), strict=True
            ):
                runs[index].append(run.tokens.tolist())
                if run.finished:
                    going = [other for other in going if other != index]
        for sample, parts in enumerate(runs):
            tokens = [token for part in parts for token in part]
            assert tokens == self._run(backend, prefilled[0], sample, SAMPLED, len(tokens))
        backend.release(sequences)

    def test_a_fork_in_the_middle_takes_state_and_step_along(
        self, backend: Backend, prefilled: list[Prefilled]
    ) -> None:
        (origin,) = self._forks(backend, prefilled[0], 1)
        (head,) = backend.advance([origin], [4])
        assert not head.finished, "choose another seed: the sample ended before it could be forked"
        twin, other = backend.fork(origin, [0, 1], SAMPLED)
        (forked,) = backend.advance([twin], [6])
        first, second = backend.advance([origin, other], [6, 6])
        assert forked.tokens.tolist() == first.tokens.tolist()
        self._assert_close(forked.joint_logits, first.joint_logits)
        assert second.tokens.size
        backend.release([origin, twin, other])

    def test_releasing_a_prompt_leaves_its_samples(self, backend: Backend) -> None:
        (prompt,) = backend.prefill([backend.encode(self.prompts[0])])
        expected = self._run(backend, prompt, 0, SAMPLED, 9)
        sequences = self._forks(backend, prompt, 3)
        backend.release([prompt.sequence, sequences[1], sequences[2]])
        (run,) = backend.advance(sequences[:1], [9])
        assert run.tokens.tolist() == expected
        backend.release(sequences)

    def test_a_released_sequence_is_refused(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        (sequence,) = self._forks(backend, prefilled[0], 1)
        backend.release([sequence])
        backend.release([sequence, SequenceId(10**9)])
        for use in (
            lambda: backend.advance([sequence], [1]),
            lambda: backend.fork(sequence, [0], SAMPLED),
            lambda: backend.pause([sequence]),
        ):
            with pytest.raises(BackendError, match="released"):
                use()

    def test_mismatched_steps_are_refused(self, backend: Backend, prefilled: list[Prefilled]) -> None:
        sequences = self._forks(backend, prefilled[0], 2)
        with pytest.raises(BackendError, match="expected"):
            backend.advance(sequences, [1])
        with pytest.raises(BackendError, match="twice"):
            backend.advance([sequences[0], sequences[0]], [1, 1])
        backend.release(sequences)

    def _assert_close(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        allowed = rounding.tolerance(expected, self.sums, self.roundoff)
        np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)

    def _forks(self, backend: Backend, prompt: Prefilled, count: int) -> list[SequenceId]:
        return backend.fork(prompt.sequence, range(count), SAMPLED)

    def _run(self, backend: Backend, prompt: Prefilled, sample: int, sampling: SamplingParams, steps: int) -> list[int]:
        (sequence,) = backend.fork(prompt.sequence, [sample], sampling)
        (advanced,) = backend.advance([sequence], [steps])
        backend.release([sequence])
        tokens: list[int] = advanced.tokens.tolist()
        return tokens

    def _advance_unevenly(
        self, backend: Backend, sequences: Sequence[SequenceId]
    ) -> list[tuple[list[int], NDArray[np.float32]]]:
        """Tokens and rows of sequences that advance by different steps, a changing part of them at a time."""
        done: list[list[Advanced]] = [[] for _ in sequences]
        random = np.random.default_rng(3)
        for _ in range(6):
            open_ones = [index for index, parts in enumerate(done) if not (parts and parts[-1].finished)]
            chosen = [index for index in open_ones if random.random() < 0.7]
            steps = random.integers(1, 6, len(chosen)).tolist()
            for index, advanced in zip(chosen, backend.advance([sequences[i] for i in chosen], steps), strict=True):
                done[index].append(advanced)
        empty = np.zeros((0, backend.num_cells), dtype=np.float32)
        return [
            (
                [token for part in parts for token in part.tokens.tolist()],
                np.concatenate([empty, *(part.joint_logits for part in parts)]),
            )
            for parts in done
        ]

    def _check(self, backend: Backend, advanced: Advanced, asked: int) -> None:
        tokens, rows = advanced.tokens, advanced.joint_logits
        assert tokens.dtype == np.int32
        assert tokens.ndim == 1
        assert tokens.size <= asked
        assert rows.dtype == np.float32
        assert rows.shape == (tokens.size - advanced.finished, backend.num_cells)
        assert np.isfinite(rows).all()
        assert not advanced.non_finite
        ends = [index for index, token in enumerate(tokens.tolist()) if token in backend.info.eos_token_ids]
        assert ends == ([tokens.size - 1] if advanced.finished else [])
        assert advanced.finished or tokens.size == asked
