"""Whatever fails on the way, a search gives back the sequences that it had taken before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.scripted import FullBackend
from tests.searches import outcomes, request
from zip_introspect.backend.contract import Prefilled
from zip_introspect.errors import BackendError, NonFiniteLogitsError
from zip_introspect.result import GenerationResult


@pytest.mark.parametrize("sound", [1, 2])
def test_prompts_that_are_computed_one_by_one_are_not_lost_when_a_later_one_fails(sound: int) -> None:
    class BadBatch(FullBackend):
        def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefilled]:
            if len(prompts) > 1:
                raise NonFiniteLogitsError("the logits after prompt 0 hold NaN")
            return super().prefill(prompts)

    backend = BadBatch("prefill", at=sound)
    found = outcomes(backend, [request(text) for text in "abc"])
    assert [isinstance(item, GenerationResult) for item in found] == [place < sound for place in range(3)]
    assert all("no room for another prefill" in str(item) for item in found[sound:])
    assert backend.held == 0


@pytest.mark.parametrize("strategy", ["best_of_n", "beam_search", "zip_rc"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_fork_that_fails_leaves_no_sequence_behind(strategy: str, at: int) -> None:
    backend = FullBackend("fork", at)
    found = outcomes(backend, [request(text, strategy=strategy) for text in "abc"])
    failed = [item for item in found if isinstance(item, BackendError)]
    assert failed
    assert all("no room for another fork" in str(error) and len(error.partial) == 1 for error in failed)
    assert backend.held == 0
