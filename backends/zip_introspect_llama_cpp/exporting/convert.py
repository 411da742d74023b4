"""From a checkpoint of transformers to one GGUF file: weights, tokenizer, chat template and grid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from zip_introspect.backend.encoding import end_ids
from zip_introspect.errors import ModelLoadError
from zip_introspect.introspection.grid import JointGrid
from zip_introspect_llama_cpp.attaching import add_grid
from zip_introspect_llama_cpp.exporting.architectures import (
    ARCHITECTURES,
    Architecture,
    Tensor,
    rope_factors,
    write_common_keys,
)

TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q5_1": (GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_FLOATS = ("F32", "F16", "BF16")
OTHERWISE = (
    "Convert it with llama.cpp's own convert_hf_to_gguf.py, then run: zip-introspect attach-grid FILE.gguf grid.json"
)

# How llama.cpp names the ways in which byte-level tokenizers split a text, by the pattern that spells them out,
# and whether it takes a word that is a token as one whatever the merges say.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _CONTRACTIONS + r"\p{N}" + _REST: ("qwen2", False),
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: ("llama-bpe", True),
}


def convert(model: Path, target: Path, kind: str, grid: JointGrid | None = None) -> None:
    """Write a checkpoint of one of `architectures.ARCHITECTURES` as GGUF.

    Args:
        kind: one of TYPES, for two-dimensional weights; all others stay in float32.
        grid: in place of the one in the directory. There need be none.

    Raises:
        ModelLoadError: files that are not whole, or something that llama.cpp would compute differently.
        GridError, ReservedTokensError: a grid that is malformed, or does not fit.
    """
    if kind not in TYPES:
        raise ModelLoadError(f"type is {kind!r}; expected one of {', '.join(TYPES)}")
    config, architecture = _configuration(model)
    grid = grid or JointGrid.beside(model)
    if grid:
        grid.check_fits(int(config.vocab_size), _eos_ids(model, config))
    partial = target.with_suffix(".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[architecture.arch], use_temp_file=True)
    try:
        architecture.check(config)
        _write(writer, model, config, architecture, grid, kind)
        partial.replace(target)
    except (ModelLoadError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"{model} cannot be exported: {' '.join(str(error).split())}. {OTHERWISE}") from error
    finally:
        writer.close()
        with suppress(OSError):
            partial.unlink()


def _configuration(model: Path) -> tuple[Any, Architecture]:
    if not (model / "config.json").is_file():
        raise ModelLoadError(f"{model} has no config.json; expected a directory saved by save_pretrained")
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoadError(f"{model}/config.json is of no model that transformers knows: {error}") from error
    name = (config.architectures or ["none"])[0]
    if name not in ARCHITECTURES:
        raise ModelLoadError(f"{model} is a {name}; this exporter knows {', '.join(ARCHITECTURES)}. {OTHERWISE}")
    return config, ARCHITECTURES[name]


def _eos_ids(model: Path, config: Any) -> list[int]:
    """The ends of sequence; the core's `encoding` has the rule. A file's chat template says its own when opened."""
    files = [model / name for name in ("generation_config.json", "config.json")]
    named = {
        file.name: json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") for file in files if file.is_file()
    }
    named["the tokenizer"] = AutoTokenizer.from_pretrained(model).eos_token_id
    if not any(named.values()):
        named[type(config).__name__] = config.eos_token_id
    return list(end_ids(named, int(config.vocab_size)))


def _write(
    writer: GGUFWriter, model: Path, config: Any, architecture: Architecture, grid: JointGrid | None, kind: str
) -> None:
    places, feed_forward = _places(model, config, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model.resolve().name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(TYPES[kind][1])
    write_common_keys(writer, config, feed_forward)
    architecture.keys(writer, config)
    _write_tokenizer(writer, model, config, grid)
    if grid:
        add_grid(writer, grid)
    if (factors := rope_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    with tqdm(total=len(places), desc="tensors", disable=None) as progress:
        for file in _files(model):
            for name in (name for name in file.keys() if name in places):  # noqa: SIM118, not a mapping
                weights = np.ascontiguousarray(file.get_tensor(name).to(torch.float32).numpy())
                weights = architecture.lay_out(name, weights, config)
                stored = _stored_type(places[name], weights, TYPES[kind][0])
                writer.add_tensor(places[name], gguf.quants.quantize(weights, stored), raw_dtype=stored)
                progress.update()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()


def _places(model: Path, config: Any, architecture: Architecture) -> tuple[dict[str, str], int]:
    """llama.cpp's name of every tensor of a checkpoint that is whole, and the width of its feed-forward layers."""
    names = gguf.get_tensor_name_map(architecture.arch, config.num_hidden_layers)
    with torch.device("meta"):
        expected = {
            name: list(item.shape) for name, item in AutoModelForCausalLM.from_config(config).state_dict().items()
        }
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    places: dict[str, str] = {}
    feed_forward = 0
    for file in _files(model):
        for name in file.keys():  # noqa: SIM118, not a mapping
            if name not in expected and name != "lm_head.weight" and not name.endswith("rotary_emb.inv_freq"):
                raise ModelLoadError(f"its tensor {name} is not one of its architecture's; is it quantised?")
            if name not in expected:
                continue
            part = file.get_slice(name)
            if part.get_shape() != expected[name] or part.get_dtype() not in _FLOATS:
                raise ModelLoadError(
                    f"its tensor {name} is {part.get_dtype()} of shape {part.get_shape()}; expected one of "
                    f"{', '.join(_FLOATS)} of shape {expected[name]}"
                )
            known = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if known is None:
                raise ModelLoadError(f"llama.cpp has no place for its tensor {name}")
            places[name] = known
            if known.endswith("ffn_gate.weight"):
                feed_forward = part.get_shape()[0]
    if missing := sorted(expected.keys() - places.keys()):
        raise ModelLoadError(f"{len(missing)} tensors are missing from its *.safetensors, such as {missing[0]}")
    return places, feed_forward


def _files(model: Path) -> Iterator[Any]:
    """The opened safetensors files of a checkpoint, one at a time."""
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise ModelLoadError(f"{model} has no *.safetensors")
    for path in files:
        try:
            with safe_open(str(path), framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(f"{path} is truncated or is not a safetensors file ({error})") from error


def _stored_type(name: str, tensor: Tensor, wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """Vectors and convolutions stay in float32, as llama.cpp wants them; rows that no block fits go to float16."""
    if tensor.ndim < 2 or "shortconv.conv" in name:
        return GGMLQuantizationType.F32
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    return GGMLQuantizationType.F16 if tensor.shape[-1] % block else wanted


def _write_tokenizer(writer: GGUFWriter, model: Path, config: Any, grid: JointGrid | None) -> None:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(content))
    spelled = {number: text for text, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    reserved = set(grid.reserved_token_ids if grid else ())
    tokens, kinds = [], []
    for number in range(int(config.vocab_size)):
        tokens.append(spelled.get(number, f"[PAD{number}]"))
        if number not in spelled:
            kinds.append(TokenType.UNUSED)
        elif number in reserved or (number in added and added[number].special):
            kinds.append(TokenType.CONTROL)
        else:
            kinds.append(TokenType.USER_DEFINED if number in added else TokenType.NORMAL)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]])
    ends = _eos_ids(model, config)
    ends.sort(key=lambda number: number != tokenizer.eos_token_id)  # the first is what chat templates call eos_token
    if not 1 <= len(ends) <= 3:
        raise ModelLoadError(f"it ends its sequences with tokens {ends}; a GGUF file names one to three")
    for add, number in zip(
        (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False
    ):
        add(number)
    for add, named in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if named is not None:
            add(named)
    around = tokenizer.encode("a")
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and around[0] == tokenizer.bos_token_id)
    template = tokenizer.chat_template
    if template:
        writer.add_chat_template(template["default"] if isinstance(template, dict) else template)


def _split_name(content: dict[str, Any]) -> str:
    """llama.cpp's name of a tokenizer's way to split a text."""
    kind = content["model"]
    if kind["type"] != "BPE" or kind.get("byte_fallback"):
        raise ModelLoadError("its tokenizer is no byte-level BPE")
    normalizer = (content.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # llama.cpp normalises nothing; text that people type is NFC already
        raise ModelLoadError(f"its tokenizer normalises texts by {normalizer}, which llama.cpp does not")
    parts = content["pre_tokenizer"] or {}
    parts = parts.get("pretokenizers", [parts])
    if any(part.get("add_prefix_space") for part in parts):
        raise ModelLoadError("its tokenizer puts a space before every text, which llama.cpp's byte-level one does not")
    if len(parts) == 1 and parts[0].get("type") == "ByteLevel" and parts[0].get("use_regex"):
        return "gpt-2"
    for part in parts:
        name, ignores_merges = _SPLITS.get(part.get("pattern", {}).get("Regex", ""), ("", False))
        if name and bool(kind.get("ignore_merges")) == ignores_merges:
            return name
    raise ModelLoadError("its tokenizer splits texts in a way that is not known here by llama.cpp's name for it")
