"""Opening model directories and hub repositories without running any of their code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError
from pydantic import Field
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from zip_introspect.config import Settings
from zip_introspect.errors import ModelLoadError
from zip_introspect.introspection.grid import FILE_NAME, JointGrid
from zip_introspect.paths import expanded

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class TransformersOptions(Settings):
    """What `TransformersBackend.open` and `from_model` take beside the model."""

    device: str = Field("auto", description="A torch device; auto is cuda where there is one, else cpu.")
    dtype: str = Field("auto", description="A torch dtype's name; auto is float32 on cpu, the checkpoint's elsewhere.")
    attn_implementation: str | None = Field(
        None, description="As in transformers. flash_attention_2 reads its masks on the host, once a token."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of torch on the CPU while this model computes; None is torch's own number."
    )
    trust_remote_code: bool = Field(False, description="Whether code that comes with the model may run.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub repository.")
    max_context: int | None = Field(None, ge=2, description="Below what the model's config says; None takes that.")
    max_sequences: int | None = Field(None, ge=1, description="Unreleased sequences; None limits them by memory only.")
    max_state_bytes: int | None = Field(
        None, ge=0, description="Memory for states that are not advancing; beyond it they are evicted and recomputed."
    )
    prefix_cache: int = Field(
        4, ge=0, description="Released prompts whose states are kept for prompts that begin alike; 0 keeps none."
    )
    prefill_tokens: int = Field(8192, ge=1, description="Tokens of one shared prefill, padding included.")

    def resolved_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.device(self.device)
        except RuntimeError as error:
            raise ModelLoadError(f"device is {self.device!r}; expected auto, cpu, cuda or cuda:N") from error

    def resolved_dtype(self, device: torch.device) -> torch.dtype | str:
        if self.dtype == "auto":
            return torch.float32 if device.type == "cpu" else "auto"
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ModelLoadError(f"dtype is {self.dtype!r}; expected auto, float32, bfloat16 or float16")
        return dtype


def looks_openable(model: str | Path) -> bool:
    """A directory with config.json, or something spelled like a hub id that is not a file here."""
    path = expanded(Path(model))
    if path.exists():
        return path.is_dir() and (path / "config.json").is_file()
    return isinstance(model, str) and _HUB_ID.fullmatch(model) is not None and path.suffix != ".gguf"


def load(
    model: str | Path, grid: JointGrid | None, options: TransformersOptions
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, JointGrid | None]:
    """Model in evaluation mode on its device, tokenizer and grid; None where there is none with the model.

    Raises:
        ModelLoadError: missing, truncated or foreign files.
        GridError: a grid with the model that is malformed.
        ReservedTokensError: the grid does not fit the vocabulary.
    """
    device = options.resolved_device()
    dtype = options.resolved_dtype(device)
    if Path(model).exists():
        _check_directory(Path(model))
    elif not looks_openable(model):
        raise ModelLoadError(
            f"{str(model)!r} does not exist and is not a hub id; expected a directory with config.json and "
            f"*.safetensors, or a hub id such as owner/name. Check the path."
        )
    grid = grid or _find_grid(model, options)
    common: dict[str, Any] = {"trust_remote_code": options.trust_remote_code, "revision": options.revision or "main"}
    try:
        config = AutoConfig.from_pretrained(model, **common)
        rows = getattr(config.get_text_config(decoder=True), "vocab_size", None)
        if grid and rows is not None:
            grid.check_fits(int(rows))  # before gigabytes are read
        opened: Any = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=options.attn_implementation,
            output_loading_info=True,
            **common,
        )
        tokenizer = AutoTokenizer.from_pretrained(model, **common)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(f"{str(model)!r} does not fit into memory; try a smaller dtype or device='cpu'") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelLoadError(
            f"{str(model)!r} cannot be loaded as a causal language model: {_one_line(error)}. Expected config.json, "
            f"*.safetensors and the tokenizer's files of an architecture that transformers knows."
        ) from error
    loaded, report = opened
    _check_report(str(model), report)
    if not tokenizer.encode("1", add_special_tokens=False):
        raise ModelLoadError(f"{str(model)!r} has no tokenizer with it; expected tokenizer.json beside the weights")
    try:
        loaded = loaded.to(device)
    except (torch.OutOfMemoryError, RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"{str(model)!r} cannot be moved to {device}: {_one_line(error)}") from error
    return loaded.eval(), tokenizer, grid


def _check_directory(path: Path) -> None:
    if not path.is_dir():
        raise ModelLoadError(f"{path} is a file; this backend opens a directory with config.json and *.safetensors")
    config = path / "config.json"
    if not config.is_file():
        raise ModelLoadError(f"{path} has no config.json; expected a directory saved by save_pretrained")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{config} is not JSON, or is cut short: {error}") from error
    if not isinstance(content, dict) or "model_type" not in content:
        raise ModelLoadError(f"{config} names no model_type; expected a config.json of transformers")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ModelLoadError(
            f"{path} has no *.safetensors; only these are read, as other formats can run code. "
            f"Save the model again with save_pretrained(safe_serialization=True)."
        )
    _check_weights(weights)


def _check_weights(files: Iterable[Path]) -> None:
    for file in files:
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(
                f"{file} is truncated or is not a safetensors file ({_one_line(error)}). "
                f"It holds {file.stat().st_size} bytes; download or save it again."
            ) from error


def _find_grid(model: str | Path, options: TransformersOptions) -> JointGrid | None:
    if Path(model).is_dir():
        return JointGrid.beside(model)
    try:
        return JointGrid.load(hf_hub_download(str(model), FILE_NAME, revision=options.revision))
    except RemoteEntryNotFoundError:
        return None
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelLoadError(
            f"{str(model)!r} is no directory here and cannot be had from the hub: {_one_line(error)}. "
            f"Check the name, the connection, or whether you are logged in."
        ) from error


def _check_report(model: str, report: dict[str, Any]) -> None:
    missing, mismatched = sorted(report.get("missing_keys", ())), list(report.get("mismatched_keys", ()))
    if missing or mismatched:
        names = [*missing, *(str(item[0] if isinstance(item, tuple) else item) for item in mismatched)]
        raise ModelLoadError(
            f"the weights of {model!r} are not those of its config.json: {len(missing)} missing and "
            f"{len(mismatched)} of another shape, such as {names[0]}. Use the files of one and the same checkpoint."
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600]
