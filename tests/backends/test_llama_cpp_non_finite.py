"""Non-finite logits under llama.cpp: what came before is kept, and nobody else is harmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.backends.conftest import assert_close
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendError, NonFiniteLogitsError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.conformance import BackendConformance

pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

import llama_cpp

from zip_introspect_llama_cpp import LlamaCppBackend
from zip_introspect_llama_cpp.exporting.export import GgufExporter

PROMPTS = BackendConformance.prompts
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(params=["qwen3", "lfm2"])
def fragile(
    request: pytest.FixtureRequest,
    make_model: Any,
    tokenizer: Any,
    grid: JointGrid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int | None], LlamaCppBackend]:
    """Opens a model in which every logit after one token is NaN; llama.cpp would refuse to load it."""
    load = llama_cpp.llama_model_load_from_file

    def unchecked(path: bytes, params: Any) -> Any:
        params.check_tensors = False
        return load(path, params)

    def open_(poison: int | None) -> LlamaCppBackend:
        model = make_model(request.param)
        if poison is not None:
            with torch.no_grad():
                model.get_input_embeddings().weight[poison] = torch.nan
        folder = tmp_path / str(poison)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        grid.save(folder)
        GgufExporter().export(folder, folder / "model.gguf", "f32")
        monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", unchecked)
        return LlamaCppBackend.open(folder / "model.gguf", threads=1, cells=1024)

    return open_


def test_nan_in_mid_run_keeps_what_came_before_and_stays_with_its_sample(fragile: Any) -> None:
    sound = fragile(None)
    prompt = sound.encode(PROMPTS[0])
    sampling = SamplingParams(temperature=2.0, seed=4)
    (start,) = sound.prefill([prompt])
    healthy = sound.advance(sound.fork(start.sequence, range(4), sampling), [12] * 4)
    sound.close()
    runs = [run.tokens.tolist() for run in healthy]
    others = {token for run in runs[1:] for token in run} | {*prompt, *runs[0][:2]}
    poisoned = next(token for token in runs[0][2:] if token not in others)
    place = runs[0].index(poisoned)
    backend = fragile(poisoned)
    (start,) = backend.prefill([prompt])
    sequences = backend.fork(start.sequence, range(4), sampling)
    found = backend.advance(sequences, [12] * 4)
    assert [run.non_finite for run in found] == [True, False, False, False]
    assert found[0].tokens.tolist() == runs[0][: place + 1]
    assert found[0].joint_logits.shape == (place, backend.grid.num_cells)
    assert [run.tokens.tolist() for run in found[1:]] == runs[1:]
    for one, other in zip(found[1:], healthy[1:], strict=True):
        assert_close(one.joint_logits, other.joint_logits)
    with pytest.raises(BackendError, match="came to logits that are not finite"):
        backend.advance(sequences[:1], [1])
    backend.close()


def test_nan_after_a_prompt_names_that_prompt_and_harms_no_other(fragile: Any) -> None:
    backend = fragile(7)
    good = [1, 2, 3, 4] * 20
    with pytest.raises(
        NonFiniteLogitsError, match=r"after prompt 1 \(3 tokens\) hold NaN or infinity; expected finite"
    ):
        backend.prefill([good, [1, 7, 3], good])
    assert backend.used_cells == 0
    (start,) = backend.prefill([good])
    assert np.isfinite(start.joint_logits).all()
    assert not any(run.non_finite for run in backend.advance(backend.fork(start.sequence, [0, 1], GREEDY), [8, 8]))
    backend.close()


def test_nan_after_a_given_token_is_its_sequences_alone(fragile: Callable[[int | None], LlamaCppBackend]) -> None:
    backend = fragile(7)
    (prompt,) = backend.prefill([backend.encode(PROMPTS[0])])
    first, second = backend.fork(prompt.sequence, [0, 0], GREEDY)
    broken, sound = backend.append([first, second], [[9, 7], [9]])
    assert (broken.tokens.tolist(), broken.non_finite, len(broken.joint_logits)) == ([9, 7], True, 0)
    assert not sound.non_finite
    (alone,) = backend.prefill([[*backend.encode(PROMPTS[0]), 9]])
    assert_close(sound.joint_logits[0], alone.joint_logits)
    with pytest.raises(BackendError, match="not finite"):
        backend.append([first], [[9]])
    backend.release([prompt.sequence, alone.sequence, first, second])
