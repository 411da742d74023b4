"""Questions with known answers: of a file, of a data set on the Hugging Face hub, or of the embedded model's task."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zip_introspect import json_lines
from zip_introspect.answers.extraction import boxed, first_of, hashes, marked
from zip_introspect.demo.equations import TIERS
from zip_introspect.demo.problems import held_out, training_mix
from zip_introspect.errors import BackendNotInstalledError, EvaluationDataError
from zip_introspect.evaluation.store.rollout_file import Question
from zip_introspect.paths import expanded

QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "solution", "target")

_ABACUS = "abacus"
_ABACUS_QUESTIONS = 500
_TRAINING = "training"
_ABACUS_TRAINING = 6000
_ABACUS_OF_A_TIER = 300  # the easiest tier has no more than some 450 that no training has seen
_BUILDERS = {".parquet": "parquet", ".csv": "csv"}
_SUFFIXES = (*_BUILDERS, ".jsonl", ".json")

_conclusion = first_of(boxed, hashes, marked)
_log = logging.getLogger(__name__)

_Row = tuple[str, Mapping[str, Any]]
"""Where it stands, for messages, and its columns."""


def load(
    source: str | Path,
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    group_column: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Question]:
    """Read distinct questions, in the order of their source; of a question that is repeated, the first is kept.

    Of an answer that ends in a conclusion (`#### 72`, `\\boxed{72}`, `the answer is 72`) that is what is expected.

    Args:
        source: a JSONL file with one question a line; a .parquet or .csv file, a directory, or a name on the Hugging
            Face hub with its configuration after a colon (`openai/gsm8k:main`), all through `datasets`; `abacus` or
            `abacus:3` for held-out equations of all tiers, or of one, for the embedded model; `abacus:training` for
            those that it may learn from.
        question_column, answer_column: None takes the first there is of `QUESTION_COLUMNS` and `ANSWER_COLUMNS`.
        group_column: what results are broken down by; None has one group, and of abacus the tiers.
        split: None is the only one, or `test`.
        limit: questions, at most; None is all, and of abacus 500, or 300 of one tier, or 6,000 for training.
        seed: of the equations.

    Raises:
        EvaluationDataError: no such source, split or column, a line or a value that cannot be read, or no questions.
        BackendNotInstalledError: `datasets` is needed; the message holds the pip command.
    """
    if limit is not None and limit < 1:
        raise EvaluationDataError(f"limit is {limit}; expected 1 or more, or none for all questions")
    name, _, detail = str(source).partition(":")
    if name == _ABACUS:
        return _abacus(detail, limit, seed)
    file = Path(expanded(source))
    of_lines = file.is_file() and file.suffix not in _BUILDERS
    rows = json_lines.objects(file, EvaluationDataError) if of_lines else _table(str(source), file, split)
    return _questions(rows, str(source), question_column, answer_column, group_column, limit)


def _abacus(tier: str, limit: int | None, seed: int) -> list[Question]:
    if tier == _TRAINING:
        wanted = limit or _ABACUS_TRAINING
        mix = training_mix(seed, 2 * wanted)  # some of it is no equation, or one that came before
        distinct = {p.prompt: Question(p.prompt, p.answer, f"tier {p.tier}") for p in mix if p.tier}
        return list(distinct.values())[:wanted]
    if tier and tier not in map(str, TIERS):
        raise EvaluationDataError(
            f"abacus has no tier {tier!r}; expected abacus, abacus:{_TRAINING}, or abacus: and one of {TIERS}"
        )
    tiers = (int(tier),) if tier else TIERS
    most = _ABACUS_OF_A_TIER * len(tiers)
    if limit is not None and limit > most:
        raise EvaluationDataError(f"limit is {limit}; expected at most {most}: abacus has few equations held out")
    found = held_out(seed, limit or min(_ABACUS_QUESTIONS, most), tiers)
    return [Question(problem.prompt, problem.answer, f"tier {problem.tier}") for problem in found]


def _table(source: str, file: Path, split: str | None) -> Iterator[_Row]:
    """The rows of whatever `datasets` can open."""
    if not file.exists() and (file.suffix in _SUFFIXES or source.startswith((".", "/", "~"))):
        raise EvaluationDataError(f"{source} does not exist; expected a file, a directory or a data set's name")
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"{source} is read with the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[train]", or give a JSONL file'
        ) from error
    try:
        if file.is_file():
            found = load_dataset(_BUILDERS[file.suffix], data_files=str(file), streaming=True)
        elif file.exists():
            found = load_dataset(str(file), streaming=True)
        else:
            name, _, configuration = source.partition(":")
            found = load_dataset(name, configuration or None)
        chosen = _split(source, list(found), split)
        for number, row in enumerate(found[chosen], 1):
            yield f"row {number} of {source}, split {chosen}", row
    except EvaluationDataError:
        raise
    except Exception as error:  # pyarrow, datasets, the hub and the file system each raise their own
        raise EvaluationDataError(
            f"datasets cannot open {source}: {error}. Check the name, its configuration (name:configuration) and the "
            "network, or give a local file."
        ) from error


def _split(source: str, names: list[str], wanted: str | None) -> str:
    chosen = wanted or (names[0] if len(names) == 1 else "test")
    if chosen not in names:
        raise EvaluationDataError(f"{source} has no split {chosen!r}; expected one of {names}")
    return chosen


def _questions(
    rows: Iterator[_Row], source: str, question: str | None, answer: str | None, group: str | None, limit: int | None
) -> list[Question]:
    found: dict[str, Question] = {}
    repeated: list[str] = []
    for where, row in rows:
        if not found:
            question = _column(row, question, QUESTION_COLUMNS, "question", where)
            answer = _column(row, answer, ANSWER_COLUMNS, "answer", where)
        assert question is not None
        assert answer is not None
        text = _text(row, question, where)
        if text in found:
            repeated.append(where)
            continue
        expected = _text(row, answer, where)
        found[text] = Question(text, _conclusion(expected) or expected, _text(row, group, where) if group else "")
        if len(found) == limit:
            break
    if repeated:
        _log.warning("%d repeated questions are left out, the first of them %s", len(repeated), repeated[0])
    if not found:
        raise EvaluationDataError(f"{source} holds no questions; expected one object a line, or one question a row")
    return list(found.values())


def _column(row: Mapping[str, Any], given: str | None, defaults: tuple[str, ...], what: str, where: str) -> str:
    name = next((name for name in ([given] if given else defaults) if name in row), None)
    if name is None:
        raise EvaluationDataError(
            f"{where} has the columns {sorted(row)}; expected {given or ' or '.join(defaults)!r}. "
            f"Name the one that holds the {what}: --{what}-column, or {what}_column"
        )
    return name


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    """A cell as text: without space around it, and not empty."""
    if column not in row:
        raise EvaluationDataError(f"{where} has the columns {sorted(row)}, and no {column!r}; give every row one")
    cell = row[column]
    readable = isinstance(cell, str | int) or (isinstance(cell, float) and math.isfinite(cell))
    text = str(int(cell) if isinstance(cell, float) and readable and cell.is_integer() else cell).strip()
    if not readable or not text:
        raise EvaluationDataError(
            f"{column!r} in {where} is {repr(cell)[:80]}; expected a text or a number. Mend it, or name another column"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EvaluationDataError(
            f"{column!r} in {where} holds half a character (a lone surrogate) at {error.start}; mend or remove it"
        ) from error
    return text
