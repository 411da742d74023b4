"""A model small enough to make on the spot, with random weights: what it says is noise, all else is real."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from zip_introspect.demo.corpus import examples
from zip_introspect.demo.tokenizer import RESERVED, VOCABULARY_SIZE, train_tokenizer
from zip_introspect.introspection.grid import JointGrid


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()  # the variable that the command sets is read at import only
    folder: Path = tmp_path_factory.mktemp("tiny")
    tokenizer = train_tokenizer(
        text for example in examples(0, 500) for text in (example.messages[-1]["content"], example.completion)
    )
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=100_000,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    JointGrid.paper(VOCABULARY_SIZE - len(RESERVED), startup=16).save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def thinking_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with a chat template that reads enable_thinking and a date."""
    folder = tmp_path_factory.mktemp("thinking") / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(
        "{{ '<|system|>' + date if date is string else '' }}{% for message in messages %}<|user|>{{ message.content }}"
        "<|end|>{% endfor %}<|assistant|>{% if enable_thinking is false %}no thinking: {% endif %}"
    )
    return str(folder)
