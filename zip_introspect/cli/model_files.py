"""What a model's files say about it, read without loading its weights and without its framework."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from zip_introspect.backend.encoding import end_ids
from zip_introspect.backend.exporting import exporter
from zip_introspect.errors import BackendNotInstalledError, GridError, HeadError, ModelLoadError, ReservedTokensError
from zip_introspect.heads.checkpoint import EMBEDDING, OUTPUT, Checkpoint, json_of, weight_files
from zip_introspect.heads.spare_ids import SpareIds, find_runs
from zip_introspect.heads.trained_rows import doubt
from zip_introspect.introspection.grid import FILE_NAME, JointGrid
from zip_introspect.paths import expanded

MIN_BINS, MAX_BINS = 2, 8  # on each axis of a proposed grid; 8 x 8 is the paper's (A.1)

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Weights:
    """What the headers of the model's files say."""

    files: int
    bytes: int
    parameters: int
    dtypes: tuple[str, ...]
    head_rows: int | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its files describe it. None is what they do not say."""

    model: str
    architecture: str
    layers: int | None
    hidden_size: int | None
    max_context: int | None
    head_rows: int
    """Rows of the output head: token ids are below it."""
    tokens: int | None
    """Tokens of the tokenizer."""
    eos_token_ids: tuple[int, ...]
    chat_template: bool
    runs: tuple[SpareIds, ...]
    """Longest first."""
    weights: Weights | None
    grid: JointGrid | None
    problems: tuple[str, ...]
    """What keeps the model from being used, one sentence each."""
    names: dict[int, str] | None = None
    """The tokenizer's tokens by id."""

    @property
    def proposal(self) -> JointGrid | None:
        """The largest grid that the longest run of reserved ids holds, up to the paper's; None where none fits."""
        if not self.runs:
            return None
        sizes = range(MIN_BINS, MAX_BINS + 1)
        fitting = [(v, t) for v in sizes for t in sizes if v * t <= self.runs[0].count]
        if not fitting:
            return None
        rewards, lengths = max(fitting, key=lambda size: (size[0] * size[1], min(size), size[1]))
        return JointGrid.paper(self.runs[0].first, num_reward_bins=rewards, num_length_bins=lengths)


def locate(model: str) -> Path:
    """The directory of a model; for a hub id, one with its small files, downloaded without the weights.

    Raises:
        ModelLoadError: no such directory, or the hub has no such model or cannot be reached.
        BackendNotInstalledError: a hub id without the package that asks the hub.
    """
    path = Path(expanded(model))
    if model and path.is_dir():
        return path
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise ModelLoadError(f"{model!r} does not exist; expected a model's directory or a hub id. Check the path.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"{model!r} is no directory here, and asking the hub needs the module {error.name!r}. "
            'Install it with: pip install "zip-introspect[transformers]"'
        ) from error
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelLoadError(
            f"{model!r} is no directory here, and the hub did not give it: {reason}. Check the name and the connection."
        ) from error


def read(model: str) -> ModelFacts:
    """Read a model's files.

    Raises:
        ModelLoadError: no such model, or files that are no model's.
    """
    file = Path(expanded(model))
    if file.is_file():
        return _read_file(model, file)
    folder = locate(model)
    config = _read_json(folder / "config.json")
    if config is None:
        raise ModelLoadError(f"{folder} has no config.json; expected a model as save_pretrained writes it.")
    text_config = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    weights = _read_weights(folder)
    head_rows = (weights.head_rows if weights else None) or _whole(text_config.get("vocab_size"))
    if head_rows is None:
        raise ModelLoadError(f"{folder / 'config.json'} gives no vocab_size; is it a language model's?")
    tokenizer_config = _read_json(folder / "tokenizer_config.json") or {}
    names = _token_names(folder)
    eos, unusable = _eos_token_ids(folder, {**config, **text_config}, tokenizer_config, names, head_rows)
    grid, problems = _read_grid(folder, head_rows, eos)
    return ModelFacts(
        model=model,
        architecture=", ".join(config.get("architectures") or []) or str(config.get("model_type", "unknown")),
        layers=_whole(text_config.get("num_hidden_layers", text_config.get("n_layer"))),
        hidden_size=_whole(text_config.get("hidden_size", text_config.get("n_embd"))),
        max_context=_whole(text_config.get("max_position_embeddings", text_config.get("n_positions"))),
        head_rows=head_rows,
        tokens=None if names is None else len(names),
        eos_token_ids=eos,
        chat_template="chat_template" in tokenizer_config or (folder / "chat_template.jinja").exists(),
        runs=() if names is None else find_runs(names, head_rows, eos),
        weights=weights,
        grid=grid,
        problems=(*unusable, *problems, *(weights.problems if weights else ())),
        names=names,
    )


def trained_otherwise(model: Path, facts: ModelFacts, grid: JointGrid) -> str | None:
    """What the rows of a model's output head say against a grid; None where they cannot be read, or say nothing."""

    def rows(ids: Sequence[int]) -> NDArray[np.float32]:
        if model.is_dir():
            return Checkpoint(model).heads[0].read(ids)
        return exporter("gguf").output_rows(model, ids)

    if not model.exists():
        return None  # a hub id, of which no weights are here
    try:
        return doubt(grid, facts.runs, rows)
    except (ModelLoadError, HeadError, BackendNotInstalledError):
        return None


def _read_file(model: str, file: Path) -> ModelFacts:
    """A model that is one file, as the package that writes such files reads it."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelLoadError(
                f"{model!r} is a file, and not a GGUF one; expected a model's directory, with config.json in it, "
                "a .gguf file or a hub id."
            )
    reader = exporter("gguf")
    said = reader.describe(file)
    grid, problems = _fitting(lambda: reader.grid(file), said.rows, said.eos_token_ids)
    return ModelFacts(
        model=model,
        architecture=said.architecture,
        layers=said.layers,
        hidden_size=said.hidden_size,
        max_context=said.max_context,
        head_rows=said.rows,
        tokens=len(said.tokens),
        eos_token_ids=said.eos_token_ids,
        chat_template=said.chat_template,
        runs=find_runs(said.tokens, said.rows, said.eos_token_ids),
        weights=Weights(1, said.bytes, said.parameters, said.dtypes, said.rows, ()),
        grid=grid,
        problems=problems,
    )


def _token_names(folder: Path) -> dict[int, str] | None:
    content = _read_json(folder / "tokenizer.json")
    if content is None:
        return None
    try:
        vocabulary = content["model"]["vocab"]
        pairs = (
            vocabulary.items() if isinstance(vocabulary, dict) else ((item[0], i) for i, item in enumerate(vocabulary))
        )
        names = {int(id_): str(name) for name, id_ in pairs}
        names.update({int(item["id"]): str(item["content"]) for item in content.get("added_tokens") or []})
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelLoadError(f"{folder / 'tokenizer.json'} is not a tokenizer's file: {error!r}") from error
    return names


def _eos_token_ids(
    folder: Path,
    configs: dict[str, Any],
    tokenizer_config: dict[str, Any],
    names: dict[int, str] | None,
    head_rows: int,
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ids that end a text, and what is wrong with them. Their tokens in the chat template are not looked for."""
    spelled = tokenizer_config.get("eos_token")
    spelled = spelled.get("content") if isinstance(spelled, dict) else spelled
    named = {
        "generation_config.json": (_read_json(folder / "generation_config.json") or {}).get("eos_token_id"),
        "config.json": configs.get("eos_token_id"),
        "the tokenizer": [number for number, name in (names or {}).items() if name == spelled],
    }
    if not any(said not in (None, []) for said in named.values()):
        return (), ()
    try:
        return end_ids(named, head_rows), ()
    except ModelLoadError as error:
        return (), (str(error),)


def _read_grid(folder: Path, head_rows: int, eos: tuple[int, ...]) -> tuple[JointGrid | None, tuple[str, ...]]:
    there = (folder / FILE_NAME).exists()
    return _fitting(lambda: JointGrid.load(folder) if there else None, head_rows, eos)


def _fitting(
    load: Callable[[], JointGrid | None], head_rows: int, eos: tuple[int, ...]
) -> tuple[JointGrid | None, tuple[str, ...]]:
    """A model's grid, and what is wrong with it."""
    try:
        grid = load()
    except GridError as error:
        return None, (str(error),)
    try:
        if grid is not None:
            grid.check_fits(head_rows, eos)
    except ReservedTokensError as error:
        return grid, (str(error),)
    return grid, ()


def _read_weights(folder: Path) -> Weights | None:
    try:
        files = weight_files(folder)
    except ModelLoadError:
        files = sorted(folder.glob("*.safetensors"))
    if not any(folder.glob("*.safetensors")):  # of a model on the hub, which was not downloaded
        return None
    problems: list[str] = []
    shapes: dict[str, list[int]] = {}
    dtypes: set[str] = set()
    for file in files:
        try:
            header = _read_header(file)
        except ModelLoadError as error:
            problems.append(str(error))
            continue
        shapes.update({name: shape for name, (shape, _) in header.items()})
        dtypes.update(kind for _, kind in header.values())
    heads = [shape for name, shape in shapes.items() if OUTPUT.fullmatch(name) and shape]
    embeddings = [shape for name, shape in shapes.items() if EMBEDDING.fullmatch(name) and shape]
    return Weights(
        files=len(files),
        bytes=sum(file.stat().st_size for file in files if file.exists()),
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        dtypes=tuple(sorted(dtypes)),
        head_rows=next((shape[0] for shape in heads + embeddings), None),
        problems=tuple(problems),
    )


def _read_header(file: Path) -> dict[str, tuple[list[int], str]]:
    """The shape and the number type of each tensor of a safetensors file, whose header is checked against its size."""
    if not file.exists():
        raise ModelLoadError(f"{file} is missing, though the index names it; download it again")
    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (found.get_shape(), found.get_dtype()) for name, found in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{file} is cut short or not a safetensors file ({error}); download it again") from error


def _read_json(file: Path) -> dict[str, Any] | None:
    return json_of(file) if file.exists() else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
