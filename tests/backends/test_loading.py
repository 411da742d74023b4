"""Opening models: what is well, and what is missing, truncated, foreign or hostile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.backends.conftest import MakeModel, assert_close
from zip_introspect.backend.discovery import InstalledBackends
from zip_introspect.config import SamplingParams
from zip_introspect.errors import ConfigError, ModelLoadError, PromptError, ReservedTokensError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_transformers import TransformersBackend


@pytest.fixture(scope="module")
def saved(
    make_model: MakeModel,
    tokenizer: PreTrainedTokenizerFast,
    grid: JointGrid,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("saved")
    make_model("qwen3").save_pretrained(path)
    tokenizer.save_pretrained(path)
    grid.save(path)
    return path


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(directory: Path, name: str = "config.json", **changes: Any) -> None:
    file = directory / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_saved_model_is_what_it_was(saved: Path, make_model: MakeModel, grid: JointGrid) -> None:
    backend = TransformersBackend.open(saved)
    assert backend.grid == grid
    assert backend.info.architecture == "Qwen3ForCausalLM"
    assert backend.info.dtype == "float32"
    assert backend.info.max_context == 256
    assert backend.info.parameters == make_model("qwen3").num_parameters()
    tokens = backend.encode("Solve 3*x+5=35")
    (prompt,) = backend.prefill([tokens])
    with torch.no_grad():
        expected = make_model("qwen3")(torch.tensor([tokens])).logits[0, -1, grid.first_reserved :]
    assert_close(prompt.joint_logits, expected.numpy())


def test_it_is_found_by_its_entry_point(saved: Path) -> None:
    assert InstalledBackends().load("transformers") is TransformersBackend
    assert InstalledBackends().infer(saved) is TransformersBackend


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "gpt2"])
def test_hub_ids_are_accepted(name: str) -> None:
    assert TransformersBackend.accepts(name)


@pytest.mark.parametrize("name", ["model.gguf", "owner/model.gguf", "./model", "a/b/c", "", "https://host/model"])
def test_other_names_are_not_accepted(name: str) -> None:
    assert not TransformersBackend.accepts(name)


def test_directories_without_config_are_not_accepted(tmp_path: Path) -> None:
    assert not TransformersBackend.accepts(tmp_path)
    assert not TransformersBackend.accepts(tmp_path / "missing")


def test_options_are_heeded(saved: Path) -> None:
    options: dict[str, Any] = {
        "dtype": "bfloat16",
        "device": "cpu",
        "attn_implementation": "eager",
        "max_context": 50,
        "threads": 1,
    }
    backend = TransformersBackend.open(saved, **options)
    assert backend.info.dtype == "bfloat16"
    assert backend.info.max_context == 50
    (prompt,) = backend.prefill([backend.encode("2")])
    (sequence,) = backend.fork(prompt.sequence, [0], SamplingParams())
    (advanced,) = backend.advance([sequence], [5])
    assert advanced.tokens.size


def test_threads_are_its_own_and_nobody_elses(saved: Path) -> None:
    before = torch.get_num_threads()
    backend = TransformersBackend.open(saved, threads=before + 2)
    assert torch.get_num_threads() == before
    seen: list[int] = []
    model = backend._decoder.model
    model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    (prompt,) = backend.prefill([backend.encode("2")])
    backend.advance(backend.fork(prompt.sequence, [0], SamplingParams()), [2])
    assert set(seen) == {before + 2}
    assert torch.get_num_threads() == before
    with pytest.raises(PromptError):
        backend.prefill([[]])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"devise": "cpu"}, ConfigError, "devise"),
        ({"threads": 0}, ConfigError, "threads is 0"),
        ({"device": "abacus"}, ModelLoadError, "device is 'abacus'; expected auto, cpu, cuda"),
        ({"dtype": "int8"}, ModelLoadError, "dtype is 'int8'; expected auto, float32"),
        ({"attn_implementation": "none_such"}, ModelLoadError, "cannot be loaded"),
    ],
)
def test_wrong_options_are_refused(saved: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TransformersBackend.open(saved, **options)


def test_a_missing_path_is_named() -> None:
    with pytest.raises(ModelLoadError, match=r"'./no/such/model' does not exist and is not a hub id; expected a dir"):
        TransformersBackend.open("./no/such/model")


def test_a_file_is_not_a_directory(directory: Path) -> None:
    with pytest.raises(ModelLoadError, match="is a file; this backend opens a directory"):
        TransformersBackend.open(directory / "config.json")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_named(directory: Path, share: float) -> None:
    file = directory / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelLoadError, match=r"model.safetensors is truncated or is not a safetensors file .*again"):
        TransformersBackend.open(directory)


def test_foreign_weights_are_named(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"PK\x03\x04 this is a zip" * 100)
    with pytest.raises(ModelLoadError, match="truncated or is not a safetensors file"):
        TransformersBackend.open(directory)


def test_pickled_weights_are_not_read(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"no \*.safetensors; only these are read.*safe_serialization"):
        TransformersBackend.open(directory)


def test_weights_of_another_model_are_refused(directory: Path) -> None:
    change_config(directory, num_hidden_layers=3, layer_types=["full_attention"] * 3)
    with pytest.raises(ModelLoadError, match=r"not those of its config.json: \d+ missing and 0 of another shape"):
        TransformersBackend.open(directory)


def test_weights_of_another_shape_are_refused(directory: Path) -> None:
    change_config(directory, intermediate_size=40)
    with pytest.raises(ModelLoadError, match=r"cannot be loaded|of another shape"):
        TransformersBackend.open(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "qw', "config.json is not JSON, or is cut short"),
        ("[]", "names no model_type"),
        ('{"model_type": "none_such"}', "cannot be loaded as a causal language model"),
        ('{"model_type": "vit"}', "cannot be loaded as a causal language model"),
    ],
)
def test_a_broken_config_is_named(directory: Path, content: str, message: str) -> None:
    (directory / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match=message):
        TransformersBackend.open(directory)


def test_a_missing_config_is_named(directory: Path) -> None:
    (directory / "config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"has no config.json; expected a directory saved by save_pretrained"):
        TransformersBackend.open(directory)


def test_code_that_comes_with_a_model_does_not_run(directory: Path) -> None:
    trace = directory / "it_ran"
    (directory / "modeling_evil.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Evil: ...\n")
    change_config(
        directory,
        model_type="evil",
        auto_map={"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"},
    )
    with pytest.raises(ModelLoadError, match="trust_remote_code"):
        TransformersBackend.open(directory)
    assert not trace.exists()


def test_a_model_without_a_grid_has_no_head(directory: Path, grid: JointGrid) -> None:
    (directory / "zip_introspect.json").unlink()
    assert TransformersBackend.open(directory).grid is None
    assert TransformersBackend.open(directory, grid=grid).grid == grid


def test_a_grid_beyond_the_vocabulary_is_refused(saved: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    wide = JointGrid.paper(first_reserved=len(tokenizer) - 10)
    message = rf"output head has {len(tokenizer)} rows.* needs ids {len(tokenizer) - 10}\.\.{len(tokenizer) + 53}"
    with pytest.raises(ReservedTokensError, match=message):
        TransformersBackend.open(saved, grid=wide)


def test_a_grid_over_the_end_token_is_refused(saved: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    over = JointGrid.paper(first_reserved=tokenizer.eos_token_id - 3)
    with pytest.raises(ReservedTokensError, match=f"ends its sequences with token {tokenizer.eos_token_id}"):
        TransformersBackend.open(saved, grid=over)


def test_a_missing_tokenizer_is_named(directory: Path) -> None:
    for file in (*directory.glob("tokenizer*"), *directory.glob("special*")):
        file.unlink()
    with pytest.raises(ModelLoadError, match=r"has no tokenizer with it; expected tokenizer.json"):
        TransformersBackend.open(directory)


# Where a text ends


def test_all_that_a_model_says_of_its_ends_counts(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    own, user = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|user|>")
    change_config(directory, eos_token_id=user)
    change_config(directory, "generation_config.json", eos_token_id=[5, user])
    assert TransformersBackend.open(directory).info.eos_token_ids == tuple(sorted({5, user, own}))
    change_config(directory, "generation_config.json", eos_token_id=[])
    assert TransformersBackend.open(directory).info.eos_token_ids == tuple(sorted({user, own}))


def test_the_token_that_closes_an_answer_ends_it(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    change_config(directory, eos_token_id=user)
    change_config(directory, "generation_config.json", eos_token_id=user)
    change_config(directory, "tokenizer_config.json", eos_token="<|user|>")
    closing = tokenizer.convert_tokens_to_ids("<|end|>")
    assert TransformersBackend.open(directory).info.eos_token_ids == tuple(sorted({user, closing}))
    (directory / "chat_template.jinja").write_text("<|user|>{{ messages[-1].content }}<|assistant|>")
    assert TransformersBackend.open(directory).info.eos_token_ids == (user,)


@pytest.mark.parametrize("end", [-1, 10**6, [3, -1], "</s>", True, 2.0])
def test_an_end_that_is_no_token_is_refused(directory: Path, end: object, make_model: MakeModel) -> None:
    rows = make_model("qwen3").config.vocab_size
    change_config(directory, "generation_config.json", eos_token_id=end)
    with pytest.raises(ModelLoadError, match=rf"end of sequence; expected ids from 0 to {rows - 1}|cannot be loaded"):
        TransformersBackend.open(directory)


def test_a_model_without_an_end_is_refused(directory: Path) -> None:
    change_config(directory, eos_token_id=None)
    change_config(directory, "generation_config.json", eos_token_id=[])
    change_config(directory, "tokenizer_config.json", eos_token=None)
    (directory / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    with pytest.raises(ModelLoadError, match="names no end-of-sequence token in the generation config, the config"):
        TransformersBackend.open(directory)


def test_the_default_of_a_config_that_says_nothing_is_no_end(
    directory: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=1
    )
    assert config.eos_token_id not in tokenizer.added_tokens_decoder
    grid = JointGrid.load(directory)
    backend = TransformersBackend.from_model(LlamaForCausalLM(config), tokenizer, grid)
    assert backend.info.eos_token_ids == (tokenizer.eos_token_id,)


def test_a_closing_token_among_the_reserved_is_refused(directory: Path) -> None:
    template = "{% for message in messages %}<|user|>{{ message.content }}<|reserved_2|>{% endfor %}"
    (directory / "chat_template.jinja").write_text(template)
    with pytest.raises(ReservedTokensError, match="ends its sequences with token"):
        TransformersBackend.open(directory)
