"""Stored rollouts: samples of many questions, with the joint at every token, in one Parquet file.

One row a rollout; rows of a question stand together, in the order of their samples:

- `problem` (int32): place of the question, from 0; `question`, `expected`, `group` (string): as it was asked, the right
  answer, and what results are broken down by, such as a tier;
- `prompt_tokens` (list of int32): the prompt as the model read it;
- `sample` (int32): number of the sample, from 0;
- `tokens` (list of int32), `text`, `answer` (string, null for none): what was generated, end of sequence included, and
  the answer found in it;
- `right`, `finished` (bool): whether the grader took it; false where it was cut at `max_new_tokens`;
- `joints` (list of fixed-size lists of float16): row t is the joint after t tokens, reward-major; there is none after
  an end of sequence;
- `external_score`, `self_score` (float32, null for none): of an external reward model and of the model as judge;
- `positions` (list of int32), `last`, `mean` (lists of fixed-size lists of float16), only where hidden states were
  kept: of which prefixes, by their tokens; the state behind the final norm there, and its mean since the prompt;
- `confidences` (list of fixed-size lists of 2 float16), only where they were kept: as `Advanced.confidences`, one a
  token.

Rollouts of a model without a head have no `joints`. The schema's metadata holds the grid, the model's name and
`max_new_tokens`, as JSON under the key `zip_introspect`; where they are known, the model's `parameters`, the `framing`
of the questions, and what scores cost (`external_cost`, `judgement_tokens`) too.
`datasets.load_dataset("parquet", ...)` reads the file too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zip_introspect.errors import ConfigError, EvaluationDataError, GridError
from zip_introspect.framing import NO_FRAMING, Framing
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid, lowest_reward
from zip_introspect.introspection.posterior import AnswerModel
from zip_introspect.paths import expanded
from zip_introspect.training.on_policy import HiddenRows

T = TypeVar("T")

FORMAT_VERSION = 1
_KEY = b"zip_introspect"
_PROBLEMS_AT_ONCE = 32
_STATES = ("last", "mean")
_CONFIDENCES = 2  # numbers a token, as in `Advanced`


@dataclass(frozen=True)
class Question:
    """What was asked, the right answer, and the group that its result counts in."""

    text: str
    expected: str
    group: str = ""


@dataclass(frozen=True)
class StoredRollout:
    """One sample of one question."""

    tokens: NDArray[np.int32]
    text: str
    answer: str | None
    right: bool
    finished: bool
    joints: NDArray[np.float16]
    """Shape (m + 1, B_V * B_T); m as in `Advanced`. (m + 1, 0) of a model without a head."""
    external_score: float | None = None
    self_score: float | None = None
    hidden: HiddenRows | None = None
    confidences: NDArray[np.float16] | None = None
    """Shape (tokens, 2), as in `Advanced`, where they were kept."""


@dataclass(frozen=True)
class QuestionRollouts:
    """A question and its rollouts, in the order of their samples."""

    question: Question
    prompt_tokens: tuple[int, ...]
    rollouts: tuple[StoredRollout, ...]


@dataclass(frozen=True)
class Rollouts:
    """Rollouts of many questions by one model."""

    grid: JointGrid | None
    """None of a model without a head."""
    model: str
    max_new_tokens: int
    problems: tuple[QuestionRollouts, ...]
    parameters: int | None = None
    """Of the model."""
    external_cost: float = 1.0
    """Tokens of the model that a token of the external one is worth: the ratio of their parameters (the 2N rule)."""
    judgement_tokens: int = 0
    """Tokens that a judge reads behind a sample: the question; the rest is cached."""
    hidden_size: int | None = None
    """Of the hidden states; None where none are kept."""
    framing: Framing = NO_FRAMING
    """How the questions were put."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that the samples depend on, by the names that a user knows them by; empty where it is not known."""
    confidences: bool = False
    """Whether the confidences of tokens are kept."""
    answers: AnswerModel | None = None
    """What is believed of answers, where that was learnt."""

    @property
    def joint_grid(self) -> JointGrid:
        """The grid of its joints.

        Raises:
            EvaluationDataError: the model had no head.
        """
        if self.grid is None:
            raise EvaluationDataError(f"{self.model} had no head: its rollouts hold no joints; expected some that do")
        return self.grid

    @property
    def cells(self) -> int:
        """Of a joint; 0 without a head."""
        return self.grid.num_cells if self.grid else 0

    def final_value(self, rollout: StoredRollout) -> float:
        """The expected reward at the last prefix; the lowest where the rollout was cut (eq. 26), or without a head."""
        if not rollout.finished or self.grid is None:
            return lowest_reward(self.grid)
        last = rollout.joints[-1].astype(np.float64).reshape(self.grid.shape)
        return float(joint.expected_value(last / last.sum(), self.grid))

    def check_same_samples(self, other: Rollouts) -> None:
        """See that another head's joints are of these very samples.

        Raises:
            EvaluationDataError: they are of others.
        """
        ours, theirs = (
            [(item.tokens.tolist(), item.right) for problem in found.problems for item in problem.rollouts]
            for found in (self, other)
        )
        if ours != theirs:
            raise EvaluationDataError(
                f"the samples of {other.model} are not those of {self.model}: make them with score --joints-of"
            )

    def save(self, path: str | Path, problems: Iterable[QuestionRollouts] | None = None) -> Path:
        """Write the file; it appears under its name when it is whole and on the disk.

        Args:
            problems: in place of its own; a stream of them is never in memory as a whole.
        """
        file = expanded(Path(path))
        about = {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "max_new_tokens": self.max_new_tokens,
            "grid": self.grid.to_metadata() if self.grid else None,
            "parameters": self.parameters,
            "external_cost": self.external_cost,
            "judgement_tokens": self.judgement_tokens,
            "hidden_size": self.hidden_size,
            "framing": self.framing.model_dump(mode="json"),
            "settings": dict(self.settings),
            "confidences": self.confidences,
            "answers": self.answers and self.answers.model_dump(mode="json"),
        }
        widths = self._widths
        schema = _schema(widths).with_metadata({_KEY: json.dumps(about)})
        part = file.with_name(file.name + ".part")
        stream, first = iter(self.problems if problems is None else problems), 0
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            while some := list(islice(stream, _PROBLEMS_AT_ONCE)):
                writer.write_batch(_batch(first, some, schema, widths))
                first += len(some)
        with part.open("rb+") as written:
            os.fsync(written.fileno())  # or a power failure could leave an empty file under the name
        return part.replace(file)

    @classmethod
    def load(cls, path: str | Path) -> Rollouts:
        """Read the file.

        Raises:
            EvaluationDataError: missing, no Parquet, of another schema or a newer version, or with rows that contradict
                each other.
        """
        file = expanded(Path(path))
        try:
            table = pq.read_table(file, memory_map=True)
        except FileNotFoundError:
            raise EvaluationDataError(f"{file} does not exist; make it with: zip-introspect rollouts") from None
        except (OSError, pa.ArrowException) as error:
            raise EvaluationDataError(f"{file} is not a readable Parquet file: {error}") from error
        about = _about(file, table.schema)
        try:
            grid = None if about["grid"] is None else JointGrid.from_metadata(about["grid"])
            model, limit = str(about["model"]), int(about["max_new_tokens"])
            parameters = None if about.get("parameters") is None else int(about["parameters"])
            external, judgement = float(about.get("external_cost", 1.0)), int(about.get("judgement_tokens", 0))
            size = None if about.get("hidden_size") is None else int(about["hidden_size"])
            framing, settings = Framing(**about.get("framing", {})), dict(about.get("settings", {}))
            confidences, told = bool(about.get("confidences", False)), about.get("answers")
            answers = AnswerModel(**told) if told else None
        except (KeyError, TypeError, ValueError, GridError, ConfigError) as error:
            raise EvaluationDataError(f"{file} says nothing usable of its model: {error}") from error
        found = cls(
            grid, model, limit, (), parameters, external, judgement, size, framing, settings, confidences, answers
        )
        expected = _schema(found._widths)
        if not table.schema.remove_metadata().equals(expected):
            raise EvaluationDataError(f"{file} has the columns {table.schema.names}; expected {expected.names}")
        return replace(found, problems=tuple(_problems(file, table, found._widths)))

    @property
    def _widths(self) -> dict[str, int]:
        """Numbers in a row of each column that holds arrays."""
        states = dict.fromkeys(_STATES, self.hidden_size or 0)
        widths = {"joints": self.cells, **states, "confidences": _CONFIDENCES if self.confidences else 0}
        return {name: width for name, width in widths.items() if width}


def _schema(widths: Mapping[str, int]) -> pa.Schema:
    tokens = pa.list_(pa.int32())
    arrays = {name: [pa.field(name, _rows_of(width), nullable=False)] for name, width in widths.items()}
    if "last" in widths:
        arrays["positions"] = [pa.field("positions", tokens, nullable=False)]
    return pa.schema(
        [
            pa.field("problem", pa.int32(), nullable=False),
            pa.field("question", pa.string(), nullable=False),
            pa.field("expected", pa.string(), nullable=False),
            pa.field("group", pa.string(), nullable=False),
            pa.field("prompt_tokens", tokens, nullable=False),
            pa.field("sample", pa.int32(), nullable=False),
            pa.field("tokens", tokens, nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("answer", pa.string()),
            pa.field("right", pa.bool_(), nullable=False),
            pa.field("finished", pa.bool_(), nullable=False),
            *arrays.get("joints", ()),
            pa.field("external_score", pa.float32()),
            pa.field("self_score", pa.float32()),
            *(column for name in ("positions", *_STATES, "confidences") for column in arrays.get(name, ())),
        ]
    )


def _rows_of(width: int) -> pa.DataType:
    return pa.list_(pa.list_(pa.float16(), width))


def _stacked(arrays: Sequence[NDArray[np.float16]], width: int) -> pa.Array:
    """A list column of rows of half-precision numbers, an array (n, width) a row."""
    flat = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float16)
    return pa.ListArray.from_arrays(
        pa.array(np.cumsum([0, *map(len, arrays)]).astype(np.int32)),
        pa.FixedSizeListArray.from_arrays(pa.array(flat), width),
    )


def _unstacked(batch: pa.RecordBatch, name: str, width: int) -> Iterator[NDArray[np.float16]]:
    """What `_stacked` was given, row by row."""
    column = batch.column(name)
    flat = column.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    offsets = column.offsets.to_numpy()
    return (flat[begin:end] for begin, end in pairwise(offsets))


def _batch(
    first: int, problems: Sequence[QuestionRollouts], schema: pa.Schema, widths: Mapping[str, int]
) -> pa.RecordBatch:
    rows = [
        (first + place, problem, sample, rollout)
        for place, problem in enumerate(problems)
        for sample, rollout in enumerate(problem.rollouts)
    ]
    stacked: dict[str, pa.Array] = {}
    if "joints" in widths:
        stacked["joints"] = _stacked([rollout.joints for *_, rollout in rows], widths["joints"])
    if "confidences" in widths:
        told = [_kept(rollout.confidences, "confidences") for *_, rollout in rows]
        stacked["confidences"] = _stacked(told, widths["confidences"])
    columns: dict[str, Any] = {
        "problem": [place for place, *_ in rows],
        "question": [problem.question.text for _, problem, *_ in rows],
        "expected": [problem.question.expected for _, problem, *_ in rows],
        "group": [problem.question.group for _, problem, *_ in rows],
        "prompt_tokens": [list(problem.prompt_tokens) for _, problem, *_ in rows],
        "sample": [sample for *_, sample, _ in rows],
        **{
            name: [getattr(rollout, name) for *_, rollout in rows]
            for name in ("tokens", "text", "answer", "right", "finished", "external_score", "self_score")
        },
    }
    if "last" in widths:
        kept = [_kept(rollout.hidden, "hidden states") for *_, rollout in rows]
        columns["positions"] = [states.positions for states in kept]
        stacked |= {name: _stacked([getattr(states, name) for states in kept], widths[name]) for name in _STATES}
    arrays = [stacked.get(name) or pa.array(columns[name], schema.field(name).type) for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _kept(found: T | None, what: str) -> T:
    if found is None:
        raise EvaluationDataError(f"a rollout has no {what}, and others do; collect all of them with the same")
    return found


def _about(file: Path, schema: pa.Schema) -> dict[str, Any]:
    try:
        about = json.loads((schema.metadata or {})[_KEY])
    except (KeyError, ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or about.get("format_version") != FORMAT_VERSION:
        raise EvaluationDataError(
            f"{file} holds no rollouts of format {FORMAT_VERSION}; make it with: zip-introspect rollouts"
        )
    return about


def _problems(file: Path, table: pa.Table, widths: Mapping[str, int]) -> Iterator[QuestionRollouts]:
    """The rows, question by question, each row's numbers checked against each other."""
    place = -1
    question: Question | None = None
    prompt: tuple[int, ...] = ()
    rollouts: list[StoredRollout] = []
    for batch in table.to_batches():
        plain = batch.drop_columns(list(widths)).to_pylist()
        columns = {name: _unstacked(batch, name, width) for name, width in widths.items()}
        for row in plain:
            own = {name: next(column) for name, column in columns.items()}
            if row["problem"] != place:
                if question is not None:
                    yield QuestionRollouts(question, prompt, tuple(rollouts))
                place, rollouts = row["problem"], []
                question = Question(row["question"], row["expected"], row["group"])
                prompt = tuple(row["prompt_tokens"])
            rollout = _rollout(row, own)
            rows = len(rollout.tokens) + (0 if rollout.finished else 1)
            if rollout.hidden is not None:
                _check_hidden(file, place, row["sample"], rows, rollout.hidden)
            if (told := rollout.confidences) is not None:
                _check_confidences(file, place, row["sample"], len(rollout.tokens), told)
            if len(rollout.joints) != rows or not len(rollout.tokens) or not np.isfinite(rollout.joints).all():
                raise EvaluationDataError(
                    f"{file}: sample {row['sample']} of problem {place} has {len(rollout.tokens)} tokens and "
                    f"{len(rollout.joints)} joints; expected {rows} finite ones, and at least one token"
                )
            rollouts.append(rollout)
    if question is None:
        raise EvaluationDataError(f"{file} holds no rollouts")
    yield QuestionRollouts(question, prompt, tuple(rollouts))


def _check_hidden(file: Path, place: int, sample: int, rows: int, hidden: HiddenRows) -> None:
    positions = hidden.positions
    sound = all(len(positions) == len(states) and np.isfinite(states).all() for states in (hidden.last, hidden.mean))
    rising = len(positions) and positions[0] == 0 and positions[-1] == rows - 1 and (np.diff(positions) > 0).all()
    if not (sound and rising):
        raise EvaluationDataError(
            f"{file}: sample {sample} of problem {place} has hidden states of the prefixes {positions.tolist()}; "
            f"expected rising ones from 0 to {rows - 1}, and finite states for each"
        )


def _check_confidences(file: Path, place: int, sample: int, tokens: int, told: NDArray[np.float16]) -> None:
    if len(told) != tokens or not np.isfinite(told).all() or not (told <= 0).all():
        raise EvaluationDataError(
            f"{file}: sample {sample} of problem {place} has {tokens} tokens and {len(told)} confidences; expected as "
            f"many, finite log-probabilities all of them"
        )


def _rollout(row: dict[str, Any], arrays: dict[str, NDArray[np.float16]]) -> StoredRollout:
    rows = len(row["tokens"]) + (0 if row["finished"] else 1)
    positions = row.get("positions")
    return StoredRollout(
        tokens=np.array(row["tokens"], dtype=np.int32),
        text=row["text"],
        answer=row["answer"],
        right=row["right"],
        finished=row["finished"],
        joints=arrays.get("joints", np.zeros((rows, 0), np.float16)),
        hidden=None if positions is None else HiddenRows(np.array(positions, np.int32), *(arrays[n] for n in _STATES)),
        external_score=row["external_score"],
        self_score=row["self_score"],
        confidences=arrays.get("confidences"),
    )
