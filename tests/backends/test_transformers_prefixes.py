"""Prompts of the transformers backend that begin alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.backends import kept_prefixes
from tests.backends.conftest import MakeModel
from tests.backends.kept_prefixes import SAMPLED, Step, check_alike
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.prefixes import PrefixConformance, beginning
from zip_introspect_transformers import TransformersBackend

ARCHITECTURES = ("qwen3", "llama", "mistral", "gemma3", "lfm2", "qwen3_next")


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


@settings(max_examples=25, deadline=None)
@given(
    steps=kept_prefixes.steps,
    room=st.sampled_from([None, 40_000, 0]),
    architecture=st.sampled_from(["qwen3", "gemma3", "lfm2"]),
)
def test_nothing_said_depends_on_what_is_kept(
    open_model: Any, steps: list[Step], room: int | None, architecture: str
) -> None:
    pair = open_model(architecture, max_state_bytes=room), open_model(architecture, prefix_cache=0)
    check_alike(*pair, steps)
    assert len(pair[0]._sequences) == len(pair[1]._sequences)
