"""The files of the authors' training code (rohinmanvi/ZIP-RC): their rollouts, read and written.

Their Parquet holds `input_ids` (prompt and response), `prompt_token_ids`, `response`, `length` (generated tokens, where
ours counts all), `correct`, `value` and `finished`. They leave the last id out when they count what remains, so a
remaining length of theirs is ours less one: `JointGrid.released` has the edges that give their labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from zip_introspect.errors import TrainingDataError
from zip_introspect.paths import expanded
from zip_introspect.training.dataset import check, row

Reward = Literal["correct", "value"]
LONGEST = 32_768
"""Tokens of a row, the last one not counted, at which theirs are cut."""

_TOKENS = ("input_ids", "prompt_token_ids")
_log = logging.getLogger(__name__)


def wrote(path: Path) -> bool:
    """Whether a file is one of theirs."""
    try:
        return set(_TOKENS) <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return False  # it is told by whoever reads it


def load(path: str | Path, reward: Reward = "correct", *, longest: int = LONGEST) -> Dataset:
    """Their rollouts as training rows.

    Args:
        reward: the column that is learnt: `correct`, 0 or 1, or `value`, which an intermediate model gave.
        longest: cut rows there, as theirs are.

    Where the reward is null, a rollout that was cut is worth 0, as it is to their code; one that ended was not graded,
    and is left out, with a warning.

    Raises:
        TrainingDataError: no Parquet, a column missing, or a row that cannot be learnt from; the message names it.
    """
    file = expanded(Path(path))
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise TrainingDataError(f"{file} is not a readable Parquet file: {error}") from error
    missing = {*_TOKENS, reward} - set(table.column_names)
    if missing or not table.num_rows:
        raise TrainingDataError(
            f"{file} has {table.num_rows} rows and the columns {sorted(table.column_names)}; expected "
            f"{sorted(missing)} too, and at least one row"
        )
    columns = [name for name in (*_TOKENS, reward, "length", "finished") if name in table.column_names]
    rows, ungraded = [], []
    for place, item in enumerate(table.select(columns).to_pylist()):
        if item[reward] is None and item.get("finished", True):
            ungraded.append(place)
            continue
        rows.append(_row(file, place, item, reward, longest))
    if ungraded:
        said = "%d rows of %s have no %s and are left out, the first of them %d"
        _log.warning(said, len(ungraded), file, reward, ungraded[0])
    if not rows:
        raise TrainingDataError(f"no row of {file} has a {reward}; expected graded rollouts")
    return check(Dataset.from_list(rows), str(file))


def save(rows: Iterable[Mapping[str, Any]], path: str | Path, reward: Reward = "correct") -> Path:
    """Write training rows as their code reads them: whole or not at all."""
    file = expanded(Path(path))
    found = [
        {
            "input_ids": list(item["input_ids"]),
            "prompt_token_ids": list(item["input_ids"][: item["prompt_length"]]),
            "label_positions": list(range(item["prompt_length"], item["length"])),
            "length": item["length"] - item["prompt_length"],
            "finished": bool(item.get("finished", True)),
            reward: float(item["reward"]),
        }
        for item in rows
    ]
    if not found:
        raise TrainingDataError(f"there are no rows to write to {file}; expected one or more")
    partial = file.with_name(file.name + ".part")
    pq.write_table(pa.Table.from_pylist(found), partial)
    return partial.replace(file)


def _row(file: Path, place: int, item: Mapping[str, Any], reward: Reward, longest: int) -> dict[str, Any]:
    def refuse(column: str, expected: str) -> TrainingDataError:
        said = repr(item[column])
        return TrainingDataError(f"{file}, row {place}: {column} is {said[:80]}; expected {expected}")

    for column in _TOKENS:
        if not isinstance(item[column], list) or not all(isinstance(token, int) for token in item[column]):
            raise refuse(column, "a list of token ids")
    ids, prompt = item["input_ids"], item["prompt_token_ids"]
    if ids[: len(prompt)] != prompt:
        raise refuse("prompt_token_ids", "what input_ids begins with")
    if len(ids) <= len(prompt) or not prompt:
        raise refuse("input_ids", "a prompt and at least one token of a response behind it")
    given = item.get("length")
    if given is not None and given != len(ids) - len(prompt):
        raise refuse("length", f"the {len(ids) - len(prompt)} tokens behind the prompt")
    value = 0.0 if item[reward] is None else item[reward]
    if not isinstance(value, bool | int | float) or not np.isfinite(value) or not 0 <= value <= 1:
        raise refuse(reward, "a number from 0 to 1")
    kept = ids[: longest + 1]
    if len(kept) <= len(prompt):
        raise refuse("prompt_token_ids", f"a prompt within the {longest} tokens at which rows are cut")
    return row(prompt, kept[len(prompt) :], float(value), finished=bool(item.get("finished", True)))
