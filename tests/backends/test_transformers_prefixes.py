"""Prompts of the transformers backend that begin alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.backends.conftest import MakeModel
from zip_introspect.backend.contract import SequenceId
from zip_introspect.config import SamplingParams
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.prefixes import PrefixConformance, beginning
from zip_introspect_transformers import TransformersBackend

ARCHITECTURES = ("qwen3", "llama", "mistral", "gemma3", "lfm2", "qwen3_next")
SAMPLED = SamplingParams(seed=3)


@pytest.fixture(scope="module")
def open_model(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid) -> Any:
    def open_(architecture: str = "qwen3", **options: Any) -> TransformersBackend:
        return TransformersBackend.from_model(make_model(architecture), tokenizer, grid, **options)

    return open_


class TestPrefixes(PrefixConformance):
    @pytest.fixture(params=ARCHITECTURES)
    def architecture(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(params=[None, 0, 60_000], ids=["kept", "none kept", "few kept"])
    def backend(self, request: pytest.FixtureRequest, architecture: str, open_model: Any) -> TransformersBackend:
        backend: TransformersBackend = open_model(architecture, max_state_bytes=request.param)
        return backend

    @pytest.fixture
    def plain(self, architecture: str, open_model: Any) -> TransformersBackend:
        backend: TransformersBackend = open_model(architecture, prefix_cache=0)
        return backend


def test_what_is_taken_over_is_all_that_can_be(open_model: Any) -> None:
    for architecture, expected in (("qwen3", 60), ("gemma3", None), ("lfm2", 0)):
        backend = open_model(architecture)
        start = beginning(backend)
        backend.release([found.sequence for found in backend.prefill([[*start, 1, 2]])])
        assert backend.info.kept_tokens == 62
        (found,) = backend.prefill([[*start, 3, 4]])
        if expected is not None:
            assert found.cached_tokens == expected, architecture
        backend.release([found.sequence])
        (longer,) = backend.prefill([[*start, 1, 2, 5]])
        assert longer.cached_tokens == 62, "a whole one, whatever the kind of state"
        backend.release([longer.sequence])


def test_prompts_of_one_call_share_one_pass_over_their_beginning(
    open_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_model()
    start = beginning(backend)
    read: list[tuple[int, int]] = []
    real = backend._decoder._forward

    def watched(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(tuple(ids.shape))  # type: ignore[arg-type]
        found: torch.Tensor = real(ids, *rest)
        return found

    monkeypatch.setattr(backend._decoder, "_forward", watched)
    made = backend.prefill([[*start, 1, 2, number] for number in range(9)])
    assert read == [(1, 63), (8, 1)]
    assert [found.cached_tokens for found in made] == [0, *[62] * 8]
    backend.release([found.sequence for found in made])


def test_memory_goes_to_living_states_first(open_model: Any) -> None:
    backend = open_model(max_state_bytes=0)
    start = beginning(backend)
    backend.release([found.sequence for found in backend.prefill([start])])
    assert backend.info.kept_tokens == 0


def test_a_call_without_memory_is_tried_again_without_what_is_kept(
    open_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_model()
    backend.release([found.sequence for found in backend.prefill([beginning(backend)])])
    real = backend._decoder._forward

    def full(*arguments: Any) -> torch.Tensor:
        if backend._sequences.kept:
            raise torch.OutOfMemoryError("no room")
        found: torch.Tensor = real(*arguments)
        return found

    monkeypatch.setattr(backend._decoder, "_forward", full)
    (found,) = backend.prefill([[9] * 40])
    (sample,) = backend.fork(found.sequence, [0], SAMPLED)
    assert backend.advance([sample], [3])[0].tokens.size
    backend.release([found.sequence, sample])


COMMON = [[4] * 40, [4] * 30 + [5] * 20, [6] * 35]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["prefill", "fork", "advance", "release"]), st.integers(0, 99), st.integers(1, 5)),
        max_size=25,
    ),
    room=st.sampled_from([None, 40_000, 0]),
    architecture=st.sampled_from(["qwen3", "gemma3", "lfm2"]),
)
def test_nothing_said_depends_on_what_is_kept(
    open_model: Any, steps: list[tuple[str, int, int]], room: int | None, architecture: str
) -> None:
    pair = open_model(architecture, max_state_bytes=room), open_model(architecture, prefix_cache=0)
    living: list[tuple[SequenceId, SequenceId]] = []
    prompts: set[tuple[SequenceId, SequenceId]] = set()
    for verb, number, count in steps:
        if verb == "prefill":
            tokens = [
                [*COMMON[(number + each) % 3], *range(1, 1 + (number + each) % 4)] for each in range(count % 3 + 1)
            ]
            made = [
                tuple(found.sequence for found in both) for both in zip(*(b.prefill(tokens) for b in pair), strict=True)
            ]
            living += made
            prompts |= set(made)
        elif living:
            chosen = living[number % len(living)]
            if verb == "fork":
                forks = [b.fork(one, range(count), SAMPLED) for b, one in zip(pair, chosen, strict=True)]
                living += list(zip(*forks, strict=True))
            elif verb == "advance" and chosen not in prompts:
                runs = [b.advance([one], [count])[0] for b, one in zip(pair, chosen, strict=True)]
                assert runs[0].tokens.tolist() == runs[1].tokens.tolist()
                if runs[0].finished:
                    living.remove(chosen)
            elif verb == "release":
                living.remove(chosen)
                for b, one in zip(pair, chosen, strict=True):
                    b.release([one])
    for b, ids in zip(pair, zip(*living, strict=True), strict=False):
        b.release(ids)
    assert len(pair[0]._sequences) == len(pair[1]._sequences)
