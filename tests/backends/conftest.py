"""Small randomly initialised models of several architectures, a tokenizer and a grid for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3NextConfig,
)

from tests.backends.templates import BOS, MakeEncoder, with_added
from zip_introspect.backend.encoding import PromptEncoder
from zip_introspect.demo.corpus import examples
from zip_introspect.demo.tokenizer import train_tokenizer
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.testing.rounding import SMALL_MODEL, tolerance
from zip_introspect_transformers import prompts as transformers_prompts

WINDOW = 9  # far below the lengths that the tests reach

MakeModel = Callable[[str], PreTrainedModel]
Exported = Callable[..., Path]


def assert_close(found: Any, expected: Any) -> None:
    """Logits of a small model, in float32, are the same up to the order of sums."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(expected, SMALL_MODEL))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(
        text for example in examples(1, 2000) for text in (example.messages[-1]["content"], example.completion)
    )


@pytest.fixture(scope="session")
def grid(tokenizer: PreTrainedTokenizerFast) -> JointGrid:
    return JointGrid.paper(first_reserved=len(tokenizer) - 64)


@pytest.fixture(scope="session")
def make_model(tokenizer: PreTrainedTokenizerFast) -> MakeModel:
    """A model of an architecture, by its name: the same weights each time, in tensors of its own."""

    @cache
    def make(architecture: str) -> PreTrainedModel:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(architecture, tokenizer)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3)  # at its initial scale a model hardly looks at its context
        return model  # type: ignore[no-any-return]

    return lambda architecture: copy.deepcopy(make(architecture))


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    make_model: MakeModel,
    tokenizer: PreTrainedTokenizerFast,
    grid: JointGrid,
) -> Exported:
    """A GGUF file of a small model of an architecture, by its name, its type, and the special tokens not called so."""
    from zip_introspect_llama_cpp.exporting.export import GgufExporter

    root = tmp_path_factory.mktemp("gguf")

    def export(architecture: str = "qwen3", kind: str = "f32", added: tuple[str, ...] = (), head: bool = True) -> Path:
        name = "-".join((architecture, *("added" for _ in added[:1]), *([] if head else ["headless"])))
        folder, target = root / name, root / f"{name}-{kind}.gguf"
        if not folder.exists():
            make_model(architecture).save_pretrained(folder)
            (with_added(tokenizer, *added) if added else tokenizer).save_pretrained(folder)
            if head:
                grid.save(folder)
        if not target.exists():
            GgufExporter().export(folder, target, kind)
        return target

    return export


@pytest.fixture(scope="session")
def gguf_model(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A model in a GGUF file, open, by the special tokens that its file does not call so."""
    pytest.importorskip("llama_cpp", reason="the extra llama-cpp is not installed")
    from zip_introspect_llama_cpp import gguf_file
    from zip_introspect_llama_cpp.loading import LlamaModel
    from zip_introspect_llama_cpp.options import LlamaCppOptions

    @cache
    def opened(added: tuple[str, ...] = ()) -> LlamaModel:
        path: Path = request.getfixturevalue("exported")(added=added)
        return LlamaModel(path, gguf_file.read(path), LlamaCppOptions())

    return opened


@pytest.fixture(params=["transformers", "llama-cpp"])
def encoder(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast, grid: JointGrid) -> MakeEncoder:
    bos = tokenizer.convert_tokens_to_ids(BOS)

    def of_transformers(
        template: str | None, *, begins: bool = False, ends: bool = False, added: tuple[str, ...] = ()
    ) -> PromptEncoder:
        ours = with_added(tokenizer, *added) if added else copy.deepcopy(tokenizer)
        ours.chat_template = template
        ours.bos_token = BOS
        around = [f"{BOS} " * begins + "$A" + f" {ours.eos_token}" * ends]
        ours.backend_tokenizer.post_processor = TemplateProcessing(
            single=around[0], special_tokens=[(BOS, bos), (ours.eos_token, ours.eos_token_id)]
        )
        return transformers_prompts.TransformersPromptEncoder(ours, grid.reserved_token_ids)

    def of_llama_cpp(
        template: str | None, *, begins: bool = False, ends: bool = False, added: tuple[str, ...] = ()
    ) -> PromptEncoder:
        from zip_introspect_llama_cpp.loading import LlamaModel
        from zip_introspect_llama_cpp.prompts import LlamaCppPromptEncoder as Encoder

        class Templated(LlamaModel):
            """The file's model with another template."""

            def __init__(self) -> None:
                self.__dict__.update(request.getfixturevalue("gguf_model")(added).__dict__)
                self.bos, self.opening = bos, (bos,) * begins  # type: ignore[assignment]

            @property
            def template(self) -> str | None:
                return template

        return Encoder(Templated(), grid.reserved_token_ids)

    if request.param == "llama-cpp":
        request.getfixturevalue("gguf_model")
        return of_llama_cpp
    return of_transformers


def config(architecture: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    match architecture:
        case "qwen3":
            return Qwen3Config(num_hidden_layers=2, head_dim=8, tie_word_embeddings=False, **shared)
        case "llama":
            return LlamaConfig(num_hidden_layers=2, tie_word_embeddings=False, **shared)
        case "qwen3_tied":
            return Qwen3Config(num_hidden_layers=1, head_dim=8, tie_word_embeddings=True, **shared)
        case "llama3":
            scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            rope = {**scaling, "rope_theta": 100.0, "original_max_position_embeddings": 32}
            return LlamaConfig(num_hidden_layers=2, tie_word_embeddings=False, rope_parameters=rope, **shared)
        case "llama_linear":
            rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
            return LlamaConfig(num_hidden_layers=2, tie_word_embeddings=False, rope_parameters=rope, **shared)
        case "mistral":
            return MistralConfig(num_hidden_layers=2, sliding_window=WINDOW, tie_word_embeddings=False, **shared)
        case "gemma3":
            kinds = ["sliding_attention", "full_attention", "sliding_attention"]
            return Gemma3TextConfig(num_hidden_layers=3, head_dim=8, sliding_window=WINDOW, layer_types=kinds, **shared)
        case "lfm2":
            kinds = ["conv", "full_attention", "conv"]
            return Lfm2Config(num_hidden_layers=3, layer_types=kinds, tie_word_embeddings=False, **shared)
        case "qwen3_next":
            return Qwen3NextConfig(
                num_hidden_layers=2,
                head_dim=8,
                layer_types=["linear_attention", "full_attention"],
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                linear_num_key_heads=2,
                linear_num_value_heads=2,
                num_experts=2,
                num_experts_per_tok=1,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=16,
                tie_word_embeddings=False,
                **shared,
            )
    raise ValueError(f"no test model of architecture {architecture!r}")
