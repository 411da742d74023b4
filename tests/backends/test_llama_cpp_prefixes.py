"""Prompts of the llama.cpp backend that begin alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends import kept_prefixes
from tests.backends.conftest import Exported
from tests.backends.kept_prefixes import SAMPLED, Step, check_alike
from zip_introspect.testing.prefixes import PrefixConformance, beginning

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

from zip_introspect_llama_cpp import LlamaCppBackend

ROOMS: dict[str, dict[str, int]] = {
    "ample": {"cells": 4096},
    "few cells": {"cells": 256},
    "few slots": {"cells": 4096, "slots": 3},
}


@pytest.fixture(scope="session")
def open_model(exported: Exported) -> Any:
    opened: dict[Any, LlamaCppBackend] = {}

    def open_(architecture: str = "qwen3", **options: Any) -> LlamaCppBackend:
        key = (architecture, *sorted(options.items()))
        if key not in opened:
            opened[key] = LlamaCppBackend.open(exported(architecture), threads=1, **{"cells": 4096, **options})
        return opened[key]

    return open_


class TestPrefixes(PrefixConformance):
    @pytest.fixture(params=["qwen3", "llama", "lfm2"])
    def architecture(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture(params=ROOMS)
    def backend(self, request: pytest.FixtureRequest, architecture: str, open_model: Any) -> LlamaCppBackend:
        backend: LlamaCppBackend = open_model(architecture, **ROOMS[request.param])
        return backend

    @pytest.fixture
    def plain(self, architecture: str, open_model: Any) -> LlamaCppBackend:
        backend: LlamaCppBackend = open_model(architecture, prefix_cache=0)
        return backend


def test_what_is_taken_over_is_all_that_can_be(exported: Exported) -> None:
    for architecture, expected in (("qwen3", 60), ("lfm2", 0)):
        backend = LlamaCppBackend.open(exported(architecture), threads=1, cells=1024)
        start = beginning(backend)
        backend.release([found.sequence for found in backend.prefill([[*start, 1, 2]])])
        assert (backend.used_cells, backend.info.kept_tokens, backend.info.resident_tokens) == (0, 62, 1024)
        (found,) = backend.prefill([[*start, 3, 4]])
        assert found.cached_tokens == expected
        assert backend.info.kept_tokens == 62 - expected, "what both hold is the living one's"
        backend.release([found.sequence])
        (longer,) = backend.prefill([[*start, 1, 2, 5]])
        assert longer.cached_tokens == 62, "a whole one, whatever the kind of state"
        backend.close()


def test_prompts_of_one_call_compute_their_beginning_once(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LlamaCppBackend.open(exported(), threads=1, cells=1024)
    start = beginning(backend)
    real, computed = backend._context.decode, []

    def watched(tokens: Any, *rest: Any) -> Any:
        computed.append(len(tokens))
        return real(tokens, *rest)

    monkeypatch.setattr(backend._context, "decode", watched)
    made = backend.prefill([[*start, 1, 2, number] for number in range(9)])
    assert computed == [63, 8]
    assert [found.cached_tokens for found in made] == [0, *[62] * 8]
    assert backend.used_cells == 62 + 9
    backend.release([found.sequence for found in made])
    assert backend.used_cells == 0
    assert backend.info.kept_tokens == 62 + 4
    backend.close()


def test_kept_prompts_give_way_to_every_living_sequence(exported: Exported) -> None:
    backend = LlamaCppBackend.open(exported(), threads=1, cells=256, slots=4)
    backend.release([found.sequence for found in backend.prefill([[number] * 60 for number in (1, 2, 3, 4)])])
    assert backend.info.kept_tokens == 240
    (found,) = backend.prefill([[5] * 100])
    samples = backend.fork(found.sequence, range(3), SAMPLED)
    assert all(run.tokens.size for run in backend.advance(samples, [40] * 3))
    assert backend.info.kept_tokens == 0
    backend.release([found.sequence, *samples])
    assert backend.info.kept_tokens == 100
    assert len(backend._residents._free) == 3
    backend.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=kept_prefixes.steps,
    room=st.sampled_from(sorted(ROOMS)),
    architecture=st.sampled_from(["qwen3", "lfm2"]),
)
def test_nothing_said_depends_on_what_is_kept(open_model: Any, steps: list[Step], room: str, architecture: str) -> None:
    pair = open_model(architecture, **ROOMS[room]), open_model(architecture, prefix_cache=0)
    check_alike(*pair, steps)
    for backend in pair:
        kept = len(backend._residents.kept)
        assert backend.used_cells == 0
        assert len(backend._residents._free) == backend._context.slots - kept
