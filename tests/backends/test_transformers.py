"""The transformers backend: the conformance suite on each kind of cache, and what is its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerFast

from tests.backends.conftest import MakeModel, assert_close
from zip_introspect.backend.contract import SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, NonFiniteLogitsError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.conformance import BackendConformance
from zip_introspect.testing.room import RoomConformance
from zip_introspect_transformers import TransformersBackend
from zip_introspect_transformers.cache import states
from zip_introspect_transformers.sampling import TorchSampler

ARCHITECTURES = ("qwen3", "llama", "mistral", "gemma3", "lfm2", "qwen3_next")
GREEDY = SamplingParams(temperature=0.0)
PROMPTS = BackendConformance.prompts

Open = Callable[..., TransformersBackend]


@pytest.fixture(scope="module")
def open_model(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid) -> Open:
    def open_(architecture: str = "qwen3", **options: Any) -> TransformersBackend:
        return TransformersBackend.from_model(make_model(architecture), tokenizer, grid, **options)

    return open_


class TestConformance(BackendConformance):
    @pytest.fixture(params=ARCHITECTURES)
    def backend(self, request: pytest.FixtureRequest, open_model: Open) -> TransformersBackend:
        return open_model(request.param)


class TestConformanceWithoutHead(BackendConformance):
    """A model as anybody may have it: no grid, no reserved ids, no joints."""

    @pytest.fixture
    def backend(self, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> TransformersBackend:
        return TransformersBackend.from_model(make_model("qwen3"), tokenizer)


class TestConformanceUnderMemoryCap(BackendConformance):
    """With no memory for paused states each is evicted at once, and recomputed when it is needed."""

    @pytest.fixture(params=["qwen3", "lfm2"])
    def backend(self, request: pytest.FixtureRequest, open_model: Open) -> TransformersBackend:
        return open_model(request.param, max_state_bytes=0)


class TestConformanceWithoutLooking(BackendConformance):
    """As on a GPU, where the loop does not look at results before the end of the interval."""

    @pytest.fixture(params=["qwen3", "gemma3"])
    def backend(self, request: pytest.FixtureRequest, open_model: Open) -> TransformersBackend:
        backend = open_model(request.param)
        backend._decoder.looks = False
        return backend


class TestRoom(RoomConformance):
    @pytest.fixture(params=[None, 0], ids=["kept", "evicted"])
    def backend(self, request: pytest.FixtureRequest, open_model: Open) -> TransformersBackend:
        return open_model(max_sequences=8, max_state_bytes=request.param)


# Exactness


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_what_generate_gives(architecture: str, open_model: Open, make_model: MakeModel) -> None:
    backend, model = open_model(architecture), make_model(architecture)
    for text in PROMPTS:
        tokens = backend.encode(text)
        expected = model.generate(  # type: ignore[operator]
            torch.tensor([tokens]),
            max_new_tokens=40,
            do_sample=False,
            suppress_tokens=list(backend.reserved),
        )[0, len(tokens) :].tolist()
        (prompt,) = backend.prefill([tokens])
        sequences = backend.fork(prompt.sequence, [0], GREEDY)
        drawn: list[int] = []
        while len(drawn) < len(expected):
            drawn += _step(backend, sequences, 10)
        assert drawn == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_joints_of_a_mixed_batch_are_those_of_a_plain_pass(
    architecture: str, open_model: Open, make_model: MakeModel
) -> None:
    backend, model = open_model(architecture), make_model(architecture)
    prompts = [backend.encode(text) for text in PROMPTS]
    prefilled = backend.prefill(prompts)
    sequences = [backend.fork(prompt.sequence, [0], SamplingParams(seed=2))[0] for prompt in prefilled]
    results = backend.advance(sequences, [3, 30, 17])
    more = backend.advance(sequences[:2], [30, 2])
    for index, prompt in enumerate(prompts):
        parts = [results[index], *more[index : index + 1]]
        tokens = [token for run in parts for token in run.tokens.tolist()]
        rows = np.concatenate([prefilled[index].joint_logits[None], *(run.joint_logits for run in parts)])
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 :, backend.reserved.start :]
        assert_close(rows, logits[: len(rows)].numpy())


def _step(backend: TransformersBackend, sequences: list[SequenceId], steps: int) -> list[int]:
    (advanced,) = backend.advance(sequences, [steps])
    tokens: list[int] = advanced.tokens.tolist()
    return tokens


# Batches


def batch_sizes(backend: TransformersBackend) -> list[tuple[int, int]]:
    """Rows and columns of each forward pass from here on."""
    seen: list[tuple[int, int]] = []

    def note(module: torch.nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        seen.append(tuple(named["input_ids"].shape))

    backend._decoder.model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def test_a_prompt_is_computed_once(open_model: Open) -> None:
    backend = open_model()
    passes = batch_sizes(backend)
    tokens = backend.encode(PROMPTS[0])
    prompts = backend.prefill([tokens, tokens, tokens])
    assert passes == [(1, len(tokens))]
    sequences = [fork for prompt in prompts for fork in backend.fork(prompt.sequence, range(4), SamplingParams())]
    backend.advance(sequences, [3] * 12)
    assert passes[1:] == [(12, 1)] * 3


def test_prompts_of_like_lengths_share_a_pass(open_model: Open) -> None:
    backend = open_model(prefill_tokens=40)
    passes = batch_sizes(backend)
    backend.prefill([[token] * length for token, length in ((1, 9), (2, 10), (3, 8), (4, 30), (5, 10), (6, 2))])
    assert passes == [(1, 30), (4, 10), (1, 2)]


def test_all_samples_of_all_prompts_advance_in_one_batch(open_model: Open) -> None:
    backend = open_model()
    prompts = backend.prefill([backend.encode(text) for text in PROMPTS])
    sequences = [fork for prompt in prompts for fork in backend.fork(prompt.sequence, [0, 1], SamplingParams(seed=5))]
    passes = batch_sizes(backend)
    backend.advance(sequences, [2, 4, 4, 4, 4, 4])
    assert passes == [(6, 1), (6, 1), (5, 1), (5, 1)]


def test_padding_never_enters_a_state(open_model: Open) -> None:
    """Convolutions and linear attention would remember it, so their prompts share a pass at equal lengths only."""
    shapes = []
    for architecture in ("qwen3", "lfm2", "qwen3_next"):
        backend = open_model(architecture)
        shapes.append(batch_sizes(backend))
        backend.prefill([[1] * 7, [2] * 6, [3] * 7])
    assert shapes == [[(3, 7)], [(2, 7), (1, 6)], [(2, 7), (1, 6)]]


def test_caches_of_an_unknown_kind_advance_apart(open_model: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_model("gemma3")
    prompts = backend.prefill([backend.encode(text) for text in PROMPTS])

    def advance() -> list[list[int]]:
        sampling = SamplingParams(seed=3)
        sequences = [backend.fork(prompt.sequence, [0], sampling)[0] for prompt in prompts]
        runs = [backend.advance(sequences, steps) for steps in ([5, 3, 2], [4, 4, 4])]
        return [[*one.tokens.tolist(), *two.tokens.tolist()] for one, two in zip(*runs, strict=True)]

    together = advance()
    monkeypatch.setattr(states, "_JOINABLE", set())
    assert advance() == together


def test_an_unchanged_batch_is_not_rebuilt(open_model: Open) -> None:
    backend = open_model()
    (prompt,) = backend.prefill([backend.encode(PROMPTS[0])])
    sequences = backend.fork(prompt.sequence, [0, 1, 2], SamplingParams(seed=5))
    backend.advance(sequences, [2, 2, 2])
    state = backend._sequences[sequences[0]].state
    backend.advance(sequences[::-1], [2, 2, 2])
    assert backend._sequences[sequences[0]].state is state
    backend.release(sequences[:1])
    backend.advance(sequences[1:], [2, 2])
    assert backend._sequences[sequences[1]].state is not state


def test_rows_that_end_leave_the_batch(open_model: Open) -> None:
    backend = open_model()
    passes = batch_sizes(backend)
    (prompt,) = backend.prefill([backend.encode(PROMPTS[1])])
    sequences = backend.fork(prompt.sequence, range(64), SamplingParams(temperature=20.0, seed=1))
    results = backend.advance(sequences, [180] * 64)
    finished = sum(result.finished for result in results)
    assert 8 < finished < 64
    assert passes[1] == (64, 1)
    assert passes[-1][0] <= 64 - finished + 8


def test_released_rows_free_their_memory(open_model: Open) -> None:
    backend = open_model()
    (prompt,) = backend.prefill([backend.encode(PROMPTS[0])])
    sequences = backend.fork(prompt.sequence, range(16), SamplingParams(seed=5))
    backend.advance(sequences, [2] * 16)
    before = backend._sequences[sequences[0]].state
    backend.release(sequences[1:])
    after = backend._sequences[sequences[0]].state
    assert before is not None
    assert after is not None
    assert after.nbytes * 8 < before.nbytes


def test_eviction_takes_paused_states_and_loses_nothing(open_model: Open) -> None:
    free, capped = open_model(), open_model(max_state_bytes=0)
    runs = []
    for backend in (free, capped):
        (prompt,) = backend.prefill([backend.encode(PROMPTS[0])])
        sequences = backend.fork(prompt.sequence, range(4), SamplingParams(seed=6))
        first = backend.advance(sequences, [5] * 4)
        backend.pause(sequences)
        evicted = [backend._sequences[sequence].state is None for sequence in sequences]
        assert evicted == [backend is capped] * 4
        second = backend.advance(sequences, [5] * 4)
        runs.append([[*one.tokens.tolist(), *two.tokens.tolist()] for one, two in zip(first, second, strict=True)])
    assert runs[0] == runs[1]


def test_the_least_recently_used_goes_first(open_model: Open) -> None:
    backend = open_model()
    prompts = backend.prefill([[1] * 20, [2] * 4])  # too unlike to share a state
    older, newer = (backend.fork(prompt.sequence, [0], GREEDY)[0] for prompt in prompts)
    for sequence in (newer, older):
        backend.advance([sequence], [2])
    backend.release([prompt.sequence for prompt in prompts])
    kept = backend._sequences[older].state
    assert kept is not None
    backend._sequences._max_state_bytes = kept.nbytes
    backend.pause([older, newer])
    assert backend._sequences[newer].state is None
    assert backend._sequences[older].state is kept


def test_too_many_sequences_are_refused(open_model: Open) -> None:
    backend = open_model(max_sequences=4)
    (prompt,) = backend.prefill([[1, 2, 3]])
    assert len(backend.fork(prompt.sequence, range(3), GREEDY)) == 3
    with pytest.raises(BackendError, match=r"1 sequences more than the 4 that exist is over max_sequences=4. Release"):
        backend.fork(prompt.sequence, [3], GREEDY)


def test_a_prompt_must_be_forked_before_it_advances(open_model: Open) -> None:
    backend = open_model()
    (prompt,) = backend.prefill([[1, 2, 3]])
    with pytest.raises(BackendError, match="fork it first"):
        backend.advance([prompt.sequence], [1])


# What a GPU must not wait for


class _NoHostReads(TorchDispatchMode):
    """Fails on what copies a value to the host, and thereby waits for a GPU's queue."""

    READS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.READS, f"{func} would wait for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["qwen3", "mistral", "gemma3", "lfm2"])
@pytest.mark.parametrize("lengths", [(6, 6), (3, 9)], ids=["even", "padded"])
def test_nothing_is_read_back_within_an_interval(architecture: str, lengths: tuple[int, int], open_model: Open) -> None:
    backend = open_model(architecture)
    decoder = backend._decoder
    decoder.looks = False
    prompts = backend.prefill([[token] * length for token, length in enumerate(lengths, 1)])
    sampling = [
        SamplingParams(top_k=20, top_p=0.9, min_p=0.01, seed=1),
        GREEDY,
    ]
    sequences = [backend.fork(prompt.sequence, [0], how)[0] for prompt, how in zip(prompts, sampling, strict=True)]
    ((state, samples),) = backend._sequences.batches([backend._sequences[sequence] for sequence in sequences])
    assert state.padded == (len(set(lengths)) > 1)
    sampler = TorchSampler([sample.sampling or GREEDY for sample in samples], decoder.device)
    with _NoHostReads():  # type: ignore[no-untyped-call]
        alive, none, counts = torch.ones(2, dtype=torch.bool), torch.empty(2, 0), torch.ones(2, 1)
        uniforms = torch.rand(2, 12, dtype=torch.float64)
        span = decoder.run(state, sampler, uniforms, alive, none, counts, confident=True)
    assert span.count.tolist() == [12, 12]


# Failures


@pytest.fixture
def fragile(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid) -> TransformersBackend:
    """A backend whose model may be broken."""
    return TransformersBackend.from_model(make_model("qwen3"), tokenizer, grid)


def _poison(backend: TransformersBackend, token: int) -> None:
    """Make every logit after a token NaN."""
    with torch.no_grad():
        backend._decoder.model.get_input_embeddings().weight[token] = torch.nan  # type: ignore[operator]


def test_nan_in_mid_run_keeps_what_came_before(fragile: TransformersBackend) -> None:
    prompts = fragile.prefill([fragile.encode(PROMPTS[0])])
    sampling = SamplingParams(temperature=2.0, seed=4)
    reference = fragile.fork(prompts[0].sequence, [0, 1], sampling)
    healthy = fragile.advance(reference, [12, 12])
    runs = [run.tokens.tolist() for run in healthy]
    poisoned = next(token for token in runs[0][2:] if token not in runs[1] and token not in runs[0][:2])
    place = runs[0].index(poisoned)
    _poison(fragile, poisoned)
    sequences = fragile.fork(prompts[0].sequence, [0, 1], sampling)
    broken, sound = fragile.advance(sequences, [12, 12])
    assert broken.non_finite
    assert not broken.finished
    assert broken.tokens.tolist() == runs[0][: place + 1]
    assert broken.joint_logits.shape == (place, fragile.num_cells)
    assert_close(broken.joint_logits, healthy[0].joint_logits[:place])
    assert not sound.non_finite
    assert sound.tokens.tolist() == runs[1]
    with pytest.raises(BackendError, match="came to logits that are not finite"):
        fragile.advance(sequences[:1], [1])


def test_a_prompt_that_fails_leaves_nothing_behind(fragile: TransformersBackend) -> None:
    (kept,) = fragile.prefill([fragile.encode(PROMPTS[0])])
    expected = _step(fragile, fragile.fork(kept.sequence, [0], GREEDY), 6)
    held = len(fragile._sequences)
    _poison(fragile, 7)

    def fail(module: torch.nn.Module, arguments: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    for error, hook in ((NonFiniteLogitsError, None), (BackendError, fail)):
        handle = fragile._decoder.model.register_forward_pre_hook(hook) if hook else None
        with pytest.raises(error):
            fragile.prefill([[1, 2, 3] * 9, [1, 7, 3], [1, 2]])
        if handle:
            handle.remove()
        assert len(fragile._sequences) == held
    assert _step(fragile, fragile.fork(kept.sequence, [0], GREEDY), 6) == expected


def test_nan_after_a_prompt_is_an_error(fragile: TransformersBackend) -> None:
    _poison(fragile, 7)
    with pytest.raises(
        NonFiniteLogitsError, match=r"after prompt 1 \(3 tokens\) hold NaN or infinity; expected finite"
    ):
        fragile.prefill([[1, 2, 3], [1, 7, 3]])


def test_out_of_memory_loses_no_token(fragile: TransformersBackend) -> None:
    (prompt,) = fragile.prefill([fragile.encode(PROMPTS[0])])
    sampling = SamplingParams(seed=4)
    expected = [run.tokens.tolist() for run in fragile.advance(fragile.fork(prompt.sequence, [0, 1], sampling), [9, 9])]
    sequences = fragile.fork(prompt.sequence, [0, 1], sampling)
    first = fragile.advance(sequences, [4, 4])
    calls = iter(range(100))

    def fail(module: torch.nn.Module, arguments: Any) -> None:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("no memory")

    handle = fragile._decoder.model.register_forward_pre_hook(fail)
    with pytest.raises(BackendError, match=r"out of memory on cpu with 2 sequences at once. No token was lost."):
        fragile.advance(sequences, [5, 5])
    handle.remove()
    second = fragile.advance(sequences, [5, 5])
    assert [[*one.tokens, *two.tokens] for one, two in zip(first, second, strict=True)] == expected
