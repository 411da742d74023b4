"""Questions from a file, one a row: JSONL or Parquet, told apart by the name's ending."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zip_introspect import json_lines
from zip_introspect.errors import BackendNotInstalledError, ConfigError, ZipIntrospectError
from zip_introspect.prompts import Prompt, check_prompt

_COLUMNS = ("question", "problem", "prompt")
PARQUET = ".parquet"


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One question of a file."""

    id: str | int | float
    """As the file says, or else its place, from 0."""
    prompt: Prompt
    """A text, or messages that end in a question."""


def read(file: Path, question_column: str | None, id_column: str | None, limit: int | None) -> list[QuestionRow]:
    """The questions of a file, in its order. Repeated ones stay: each row has its answer.

    Args:
        question_column: None takes the first there is of question, problem and prompt.
        id_column: None takes `id`, where there is one.

    Raises:
        ConfigError: no such file or column, or a row that holds no question.
        BackendNotInstalledError: a Parquet file, and pyarrow is not installed.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is not a file; expected questions, one a row, as JSONL or .parquet")
    found: list[QuestionRow] = []
    rows = _parquet(file) if file.suffix == PARQUET else json_lines.objects(file, ConfigError)
    for number, (where, row) in enumerate(rows):
        if limit is not None and number == limit:
            break
        question_column = question_column or next((name for name in _COLUMNS if name in row), " or ".join(_COLUMNS))
        if question_column not in row:
            raise ConfigError(
                f"{where} has the columns {sorted(row)}; expected {question_column!r}. Name the one that holds the "
                f"question with --question-column"
            )
        if id_column is not None and id_column not in row:
            raise ConfigError(f"{where} has the columns {sorted(row)}, and no {id_column!r}; name another --id-column")
        given = row.get(id_column or "id")
        name = given if isinstance(given, str | int | float) and not isinstance(given, bool) else number
        if not _writable(name):
            raise ConfigError(f"{where} has an id that no file can hold: {name!r}; expected a text, or a finite number")
        prompt = row[question_column]
        try:
            check_prompt(prompt)
        except ZipIntrospectError as error:
            raise ConfigError(f"{where} holds no question in {question_column!r}: {error}") from None
        found.append(QuestionRow(name, prompt))
    if not found:
        raise ConfigError(f"{file} holds no questions; expected one a row")
    return found


def _writable(name: str | float) -> bool:
    try:
        return name.encode() is not None if isinstance(name, str) else math.isfinite(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def digest(rows: list[QuestionRow]) -> str:
    """What tells these questions from others."""
    told = json.dumps([[row.id, row.prompt] for row in rows], ensure_ascii=False)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def parquet_library() -> Any:
    """`pyarrow`, with its module for Parquet.

    Raises:
        BackendNotInstalledError: it is not installed; the message holds the pip command.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"Parquet files need the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[eval]", or use JSONL'
        ) from error
    return pyarrow


def _parquet(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    library = parquet_library()
    try:
        rows = library.parquet.read_table(str(file)).to_pylist()
    except (OSError, library.ArrowException) as error:
        raise ConfigError(f"{file} cannot be read as Parquet: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"row {number} of {file}", row
