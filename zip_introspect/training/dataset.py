"""Rollouts as training rows: Parquet on disk, and the joint's target at every prefix (eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from numpy.typing import NDArray

from zip_introspect.errors import TrainingDataError
from zip_introspect.heads.targets import IGNORED, RewardCost
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.paths import expanded

COLUMNS = {"input_ids", "prompt_length", "length", "reward"}
ROLLOUTS = {"prompt_tokens", "tokens", "right", "finished"}
"""Columns by which stored rollouts are known."""
_ROWS_AT_ONCE = 1024


def row(prompt_tokens: Sequence[int], tokens: Sequence[int], reward: float, **extra: Any) -> dict[str, Any]:
    """One rollout as a row: all token ids, how many are the prompt's, and the reward of the whole in [0, 1]."""
    ids = [int(token) for token in (*prompt_tokens, *tokens)]
    return {"input_ids": ids, "prompt_length": len(prompt_tokens), "length": len(ids), "reward": float(reward), **extra}


def save(rows: Iterable[Mapping[str, Any]], path: Path) -> Dataset:
    """Write rows to a Parquet file, whole or not at all."""
    path, dataset = expanded(path), Dataset.from_list([dict(item) for item in rows])
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(partial)
    partial.replace(path)
    return dataset


def load(path: Path) -> Dataset:
    """Read rows from a Parquet file; of rollouts, as `zip-introspect rollouts` writes them, what training needs.

    Raises:
        TrainingDataError: not Parquet, a column missing, a reward outside [0, 1], a length that is not that of the
            tokens, or a prompt without a completion.
    """
    file = expanded(Path(path))
    try:
        columns = set(pq.read_schema(file).names)
        table = _of_rollouts(file) if columns >= ROLLOUTS else pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise TrainingDataError(
            f"{file} is not a readable Parquet file: {error}. Collect the rollouts again."
        ) from error
    return check(Dataset(table), str(path))


def _of_rollouts(file: Path) -> pa.Table:
    """The rows of stored rollouts, array by array: as Python lists they would fill the memory."""
    parts = []
    for batch in pq.ParquetFile(file).iter_batches(_ROWS_AT_ONCE, columns=sorted(ROLLOUTS)):
        prompts, tokens = batch["prompt_tokens"], batch["tokens"]
        own = pc.list_value_length(prompts)
        lengths = pc.add(own, pc.list_value_length(tokens))
        offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int32)
        # Prompt and tokens of each row one after the other: rows of twice as many lists, put in order by their places.
        lists = pa.concat_arrays([prompts, tokens])
        order = np.arange(2 * len(batch)).reshape(2, -1).T.reshape(-1)
        ids = lists.take(pa.array(order)).flatten().cast(pa.int32())
        parts.append(
            pa.table(
                {
                    "input_ids": pa.ListArray.from_arrays(pa.array(offsets), ids),
                    "prompt_length": own.cast(pa.int64()),
                    "length": lengths.cast(pa.int64()),
                    "reward": batch["right"].cast(pa.int8()).cast(pa.float64()),
                    "finished": batch["finished"],
                }
            )
        )
    if not parts:
        raise TrainingDataError(f"{file} holds no rollouts; expected one or more")
    return pa.concat_tables(parts)


def check(dataset: Dataset, name: str) -> Dataset:
    """The dataset itself, if training can use it.

    Raises:
        TrainingDataError: as `load`.
    """
    missing = COLUMNS - set(dataset.column_names)
    if missing or not len(dataset):
        raise TrainingDataError(
            f"{name} has {len(dataset)} rows and columns {sorted(dataset.column_names)}; "
            f"expected at least one row and the columns {sorted(COLUMNS)}"
        )
    rewards = np.asarray(dataset["reward"], dtype=np.float64)
    if not ((rewards >= 0) & (rewards <= 1)).all():
        raise TrainingDataError(f"{name} has rewards from {rewards.min()} to {rewards.max()}; expected 0 to 1")
    ids = dataset.with_format("arrow")[:]["input_ids"]
    lengths = np.asarray(pc.list_value_length(ids))
    other = np.flatnonzero(lengths != np.asarray(dataset["length"]))
    if other.size:
        place = int(other[0])
        raise TrainingDataError(
            f"{name}, row {place}: length is {dataset['length'][place]}, and there are {lengths[place]} token ids; "
            f"expected the number of all of them. Files of the authors' code count otherwise: read them with "
            f"zip_introspect.training.authors"
        )
    prompts = np.asarray(dataset["prompt_length"])
    wrong = np.flatnonzero((prompts < 1) | (prompts >= lengths))
    if wrong.size:
        raise TrainingDataError(
            f"{name}, row {wrong[0]}: prompt_length is {prompts[wrong[0]]} of {lengths[wrong[0]]} tokens; "
            f"expected at least one token of prompt and one of completion"
        )
    return dataset


def largest_id(dataset: Dataset) -> int:
    """The largest token id of all rows."""
    return int(pc.max(pc.list_flatten(dataset.with_format("arrow")[:]["input_ids"])).as_py())


def without(dataset: Dataset, ids: range) -> Dataset:
    """The rows that hold none of these token ids."""
    holding: set[int] = set()
    before = 0
    for chunk in dataset.with_format("arrow")[:]["input_ids"].chunks:
        values = pc.list_flatten(chunk)
        inside = pc.and_(pc.greater_equal(values, ids.start), pc.less(values, ids.stop))
        holding |= {before + place for place in pc.list_parent_indices(chunk).filter(inside).to_pylist()}
        before += len(chunk)
    return dataset if not holding else dataset.select([place for place in range(len(dataset)) if place not in holding])


def shortened(dataset: Dataset, longest: int) -> Dataset:
    """Rows of at most `longest` tokens, of which those of longer rows still have as many before them as they had.

    Rows whose prompt alone is as long are left out. How many tokens lie beyond a row's end is in its column `beyond`.

    Raises:
        TrainingDataError: nothing is left.
    """
    rows = dataset.select(np.flatnonzero(np.asarray(dataset["prompt_length"]) < longest))
    if not len(rows):
        raise TrainingDataError(f"no prompt is shorter than {longest} tokens; expected a larger length limit")

    def cut(row: dict[str, Any]) -> dict[str, Any]:
        beyond = max(row["length"] - longest, 0)
        return {"input_ids": row["input_ids"][:longest], "length": row["length"] - beyond, "beyond": beyond}

    found: Dataset = rows.map(cut, keep_in_memory=True)
    return found


def targets(grid: JointGrid, prompt_length: int, length: int, reward: float, beyond: int = 0) -> NDArray[np.int64]:
    """The joint's target cell at every position of a rollout (eq. 6), as a flat index b * B_T + l.

    Position i is labelled with the remaining length of the prefix that ends there, end of sequence included.
    Positions before the prompt's end, and the last token, where nothing remains, are ignored.

    Args:
        beyond: tokens behind these that were cut off.

    Returns:
        shape (length,).

    Raises:
        TrainingDataError: the reward is NaN, which as a target's outcome would be one that nobody knows.
    """
    if math.isnan(reward):
        raise TrainingDataError("the reward is NaN; expected a number from 0 to 1. Leave the rollout out, or grade it")
    labels = np.full(length, IGNORED, dtype=np.int64)
    positions = np.arange(prompt_length - 1, length - (not beyond))
    remaining = length + beyond - 1 - positions
    labels[positions] = RewardCost(grid=grid).labels(np.stack([np.full(len(remaining), reward), remaining], axis=-1))
    return labels


def pad(rows: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, shape (rows, longest), padded on the right."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


@dataclass(frozen=True)
class JointCollator:
    """Pads rows on the right and adds the joint's targets."""

    grid: JointGrid
    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad([item["input_ids"] for item in rows], self.pad_token_id)
        labels = np.full(batch["input_ids"].shape, IGNORED, dtype=np.int64)
        for i, item in enumerate(rows):
            length = len(item["input_ids"])
            labels[i, :length] = targets(
                self.grid, item["prompt_length"], length, item["reward"], item.get("beyond", 0)
            )
        return {**batch, "targets": torch.from_numpy(labels)}
