"""The llama.cpp backend after failures: it takes as many sequences as before, and holds as many slots and cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.backends.conftest import Exported
from zip_introspect.errors import BackendError
from zip_introspect.testing.room import RoomConformance

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

from zip_introspect_llama_cpp import LlamaCppBackend


class TestRoom(RoomConformance):
    @pytest.fixture(params=[64, 3], ids=["slots for all", "few slots"])
    def backend(self, request: pytest.FixtureRequest, exported: Exported) -> Iterator[LlamaCppBackend]:
        backend = LlamaCppBackend.open(exported(), threads=1, cells=2048, max_sequences=8, slots=request.param)
        yield backend
        backend.close()


@pytest.mark.parametrize("verb", ["decode", "_after_prompt"])
def test_a_prompt_that_fails_leaves_nothing_behind(
    verb: str, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LlamaCppBackend.open(exported(), threads=1, cells=256, slots=4)
    (kept,) = backend.prefill([[1, 2, 3]])
    owner: Any = backend._context if verb == "decode" else backend
    real, calls = getattr(owner, verb), iter(range(100))

    def fail(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise BackendError("no room")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, verb, fail)
        with pytest.raises(BackendError, match="no room"):
            backend.prefill([[1, 2, 3] * 50, [4, 5] * 40, [6] * 200])
    assert len(backend._residents) == 1
    assert len(backend._residents._free) == 4 - sum(sample.slot is not None for sample in backend._residents)
    backend.release([kept.sequence])
    assert backend.used_cells == 0
    assert len(backend._residents._free) == 4
    backend.close()
