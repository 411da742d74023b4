"""Confidences of tokens under both backends are those of a log-softmax, computed anew from every prefix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tests.backends.conftest import Exported, MakeModel
from zip_introspect.backend.confidences import TOP_K, token_confidences
from zip_introspect.backend.contract import Backend
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.confidences import TOLD, ConfidenceConformance
from zip_introspect_transformers import TransformersBackend


class TestTransformers(ConfidenceConformance):
    @pytest.fixture(params=[("qwen3", True), ("qwen3", False), ("gemma3", True)], ids=str)
    def backend(
        self,
        request: pytest.FixtureRequest,
        make_model: MakeModel,
        tokenizer: PreTrainedTokenizerFast,
        grid: JointGrid,
    ) -> TransformersBackend:
        architecture, head = request.param
        return TransformersBackend.from_model(make_model(architecture), tokenizer, grid if head else None)

    def logits(self, backend: Backend, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Of one plain forward pass of the model's own modules."""
        assert isinstance(backend, TransformersBackend)
        with torch.inference_mode():
            found: NDArray[np.float32] = backend._decoder.model(torch.tensor([tokens])).logits[0, -1].numpy()
        return found


class TestTransformersWithoutLooking(TestTransformers):
    """As on a GPU."""

    @pytest.fixture
    def backend(
        self, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, grid: JointGrid
    ) -> TransformersBackend:
        backend = TransformersBackend.from_model(make_model("llama"), tokenizer, grid)
        backend._decoder.looks = False
        return backend


class TestLlamaCpp(ConfidenceConformance):
    @pytest.fixture(params=[True, False], ids=["head", "none"])
    def backend(self, request: pytest.FixtureRequest, exported: Exported) -> Backend:
        pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
        from zip_introspect_llama_cpp import LlamaCppBackend

        return LlamaCppBackend.open(exported(head=request.param), threads=1, cells=4096)

    @pytest.fixture(autouse=True)
    def _twin_of_the_file(self, make_model: MakeModel) -> None:
        self._twin = make_model("qwen3")

    def logits(self, backend: Backend, tokens: Sequence[int]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = self._twin(torch.tensor([tokens])).logits[0, -1].numpy()
        return found


def test_samples_whose_budgets_differ_may_ask_or_not(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """A batch from which those that ask leave first, and one from which the others do."""
    backend = TransformersBackend.from_model(make_model("qwen3"), tokenizer)
    silent = TOLD[0].replace(confidences=False)
    for steps in ([3, 40], [40, 3]):
        prompt = backend.prefill([[1, 2, 3]])[0].sequence
        told, quiet = (backend.fork(prompt, [0], own)[0] for own in (TOLD[0], silent))
        first, second = backend.advance([told, quiet], steps)
        assert first.confidences is not None
        assert len(first.confidences) == len(first.tokens)
        assert second.confidences is None
        backend.release([prompt, told, quiet])


def test_broken_logits_leave_the_confidences_of_what_was_drawn(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("qwen3")
    backend = TransformersBackend.from_model(model, tokenizer)
    (prompt,) = backend.prefill([[1, 2, 3]])
    (sequence,) = backend.fork(prompt.sequence, [0], TOLD[0])
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    (run,) = backend.advance([sequence], [5])
    assert run.non_finite
    assert run.confidences is not None
    assert run.confidences.shape == (len(run.tokens), 2)
    assert np.isfinite(run.confidences).all()


@pytest.mark.parametrize("padding", [0, 6000], ids=["small", "large"])
@given(st.integers(1, 200), st.integers(0, 30), st.floats(0.01, 40.0), st.integers(0, 2**32 - 1))
def test_numpy_finds_what_a_sorted_softmax_does(
    padding: int, tokens: int, reserved: int, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sampled = tokens + padding
    logits = np.full((3, sampled + reserved), -np.inf, np.float32)
    logits[:, :sampled] = rng.normal(size=(3, sampled)) * spread
    before, drawn = logits.copy(), rng.integers(sampled, size=3).tolist()
    found = token_confidences(logits, drawn)
    assert np.array_equal(logits, before)
    assert found.dtype == np.float32
    logs = logits[:, :sampled].astype(np.float64)
    logs -= np.logaddexp.reduce(logs, axis=-1, keepdims=True)
    likeliest = np.sort(logs, axis=-1)[:, -TOP_K:].mean(-1)
    expected = np.stack([logs[np.arange(3), drawn], likeliest], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
