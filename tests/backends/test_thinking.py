"""Thoughts of models as they come: markers that are one token, special or not, or several; opened by the template."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.backends.conftest import config
from zip_introspect import ConfigError, IntrospectiveLLM, Thinking
from zip_introspect.introspection.grid import JointGrid

QUESTION = "Solve 3*x+5=35"
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "max_samples": 3, "strategy": "best_of_n", "interval": 4}
OPENED = "{{ '<|user|>' + messages[-1]['content'] + '<|end|><|assistant|><think>\\n' }}"
CLOSED = "{{ '<|user|>' + messages[-1]['content'] + '<|end|><|assistant|><think>\\n\\n</think>\\n\\n' }}"

Open = Callable[..., IntrospectiveLLM]


@pytest.fixture(scope="module", params=["transformers", "llama-cpp"])
def open_model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: PreTrainedTokenizerFast,
    grid: JointGrid,
) -> Open:
    """A model by how its tokenizer knows the markers, and its template."""
    backend = request.param
    if backend == "llama-cpp":
        pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")

    def opened(markers: str, template: str = OPENED) -> IntrospectiveLLM:
        own, folder = copy.deepcopy(tokenizer), tmp_path_factory.mktemp("thinking")
        if markers != "several":
            own.add_tokens([AddedToken(text, special=markers == "special") for text in ("<think>", "</think>")])
        own.chat_template = template
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config("qwen3", own)).eval()
        model.save_pretrained(folder)
        own.save_pretrained(folder)
        grid.save(folder)
        path: Path = folder
        if backend == "llama-cpp":
            from zip_introspect_llama_cpp.exporting.export import GgufExporter

            path = folder / "model.gguf"
            GgufExporter().export(folder, path, "f32")
        return IntrospectiveLLM.from_pretrained(path, backend=backend, threads=1)

    return opened


@pytest.mark.parametrize("markers", ["added", "special", "several"])
@pytest.mark.parametrize("by", ["count", "joint"])
def test_a_thought_that_the_prompt_has_opened_is_closed(open_model: Open, markers: str, by: Any) -> None:
    with open_model(markers) as llm:
        thinking = Thinking(budget=6, answer_budget=8, by=by, forced="\nso </think>\n\n", probe_interval=3)
        result = llm.generate(QUESTION, thinking=thinking, **SETTINGS)
    assert len(result.samples) == 3
    forced = 0
    for sample in result.samples:
        assert sample.thought is not None
        assert "think>" not in sample.text
        if sample.thought.closed is None:  # it came to its end before that
            assert sample.tokens <= 6
            continue
        forced += 1
        assert sample.thought.closed in ("count", "joint")
        assert sample.thought.text.endswith("\nso ")
        assert sample.text.startswith("\n\n")
        assert sample.finish in ("stop", "length")
    assert forced


def test_a_template_that_closes_it_leaves_nothing_to_think(open_model: Open) -> None:
    with open_model("added", CLOSED) as llm:
        result = llm.generate(QUESTION, thinking=Thinking(budget=3, answer_budget=8), **SETTINGS)
        plain = llm.generate(QUESTION, **SETTINGS)
    assert [sample.token_ids for sample in result.samples] == [sample.token_ids for sample in plain.samples]
    assert [sample.text for sample in result.samples] == [sample.text for sample in plain.samples]
    assert all(sample.thought is not None and sample.thought.tokens == 0 for sample in result.samples)


def test_what_closes_no_thought_is_refused(open_model: Open) -> None:
    with open_model("added") as llm, pytest.raises(ConfigError, match="does not hold the marker"):
        llm.generate(QUESTION, thinking=Thinking(forced="</thinking>"), **SETTINGS)
