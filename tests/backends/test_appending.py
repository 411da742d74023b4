"""Tokens given to the transformers backend where something fails; that they are as drawn ones is in the suites."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.backends.conftest import MakeModel, assert_close
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_transformers import TransformersBackend

GIVEN = [[9, 8], [5]]
SAMPLING = SamplingParams(seed=4)


@pytest.fixture
def backend(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid) -> TransformersBackend:
    return TransformersBackend.from_model(make_model("qwen3"), tokenizer, grid)


def test_a_failure_between_two_groups_takes_the_first_one_back(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prompt,) = backend.prefill([backend.encode("Solve 3*x+5=35")])
    whole, sequences = (backend.fork(prompt.sequence, [0, 1], SAMPLING) for _ in range(2))
    expected = [given.joint_logits for given in backend.append(whole, GIVEN)]
    onward = [run.tokens.tolist() for run in backend.advance(whole, [5, 5])]
    real, calls = backend._decoder.read_further, iter(range(100))

    def fail(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise BackendError("no room")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backend._decoder, "read_further", fail)
        with pytest.raises(BackendError, match="no room"):
            backend.append(sequences, GIVEN)
    for found, wanted in zip(backend.append(sequences, GIVEN), expected, strict=True):
        assert_close(found.joint_logits, wanted)
    assert [run.tokens.tolist() for run in backend.advance(sequences, [5, 5])] == onward


def test_nan_after_a_given_token_is_its_sequences_alone(backend: TransformersBackend) -> None:
    with torch.no_grad():
        backend._decoder.model.get_input_embeddings().weight[8] = torch.nan  # type: ignore[operator]
    (prompt,) = backend.prefill([backend.encode("Solve 3*x+5=35")])
    first, second = backend.fork(prompt.sequence, [0, 1], SAMPLING)
    broken, sound = backend.append([first, second], GIVEN)
    assert (broken.tokens.tolist(), broken.non_finite, len(broken.joint_logits)) == ([9, 8], True, 0)
    assert not sound.non_finite
    with pytest.raises(BackendError, match="not finite"):
        backend.append([first], [[9]])
    assert len(backend.advance([second], [3])[0].tokens)
