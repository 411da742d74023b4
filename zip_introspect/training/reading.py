"""The rollouts of a training, and the grid that they are labelled with: refused before a step where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from zip_introspect.errors import TrainingDataError
from zip_introspect.heads.spare_ids import first_of
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import authors, opening
from zip_introspect.training import dataset as rows
from zip_introspect.training.recipe import Recipe

_READ = ("input_ids", "prompt_length", "length", "reward", "finished", "beyond")


def read(recipe: Recipe, found: opening.Opened, file: Path, say: Callable[[str], None]) -> tuple[Dataset, JointGrid]:
    """The rollouts, and the grid at rows that the model has or is given.

    Raises:
        TrainingDataError: another model's rollouts, all alike, none that ended, longer than the context, or of lengths
            that the grid does not tell apart.
        ReservedTokensError: the recipe's rows are not there to be had.
    """
    data, model = load(file), found.model
    count, ends, first = opening.rows_of(model), opening.end_ids_of(found), recipe.grid.first_reserved
    if first is None:
        names = {number: token for token, number in found.tokenizer.get_vocab().items()}
        first = first_of(names, count, ends, recipe.grid.cells)
    if first is None:
        first = max(count, 1 + max(names, default=-1))  # appended, behind what the tokenizer has
    lengths = np.asarray(data["length"]) - np.asarray(data["prompt_length"])
    grid = recipe.grid.over(int(lengths.max()), first)
    if (largest := rows.largest_id(data)) >= count:
        raise TrainingDataError(
            f"{file} holds the token id {largest}, and the model has those below {count}; expected rollouts of this "
            f"model"
        )
    opening.grow(model, grid.reserved.stop)
    grid.check_fits(opening.rows_of(model), ends)
    kept = rows.without(data, grid.reserved)
    if len(kept) < len(data):  # rows that stand for nothing could be drawn until now
        say(f"{len(data) - len(kept)} rollouts that hold a token to be reserved are left out")
    rewards = np.asarray(kept["reward"])
    if not len(kept) or rewards.min() == rewards.max():
        raise TrainingDataError(
            f"all {len(kept)} rollouts in {file} have the same reward; there is nothing to learn without some right "
            f"and some wrong ones"
        )
    if not finished(kept).any():
        raise TrainingDataError(f"no rollout in {file} came to its end, so that none has a value; expected longer ones")
    _check_context(kept, found, file, recipe.training.max_length)
    _check_bins(kept, grid, file, say)
    kept = kept.select_columns([name for name in _READ if name in kept.column_names])
    if recipe.training.max_length is not None:
        kept = rows.shortened(kept, recipe.training.max_length)
    where = "appended to the output head" if grid.reserved.stop > count else "that stand for nothing"
    say(f"the joint has the rows {grid.reserved.start} to {grid.reserved.stop - 1}, {where}")
    return kept, grid


def load(file: Path) -> Dataset:
    """Rollouts of ours or the authors', or training rows; raises as `dataset.load` and `authors.load`."""
    return (authors if authors.wrote(file) else rows).load(file)


def finished(data: Dataset) -> NDArray[np.bool_]:
    """Which rollouts ended by themselves; all where nothing is said of it."""
    return np.asarray(data["finished"] if "finished" in data.column_names else np.ones(len(data)), dtype=bool)


def _check_context(data: Dataset, found: opening.Opened, file: Path, limit: int | None) -> None:
    lengths = np.asarray(data["length"])
    held = getattr(found.model.config.get_text_config(), "max_position_embeddings", None)
    if held and min(limit or lengths.max(), lengths.max()) > held:
        row = int(lengths.argmax())
        raise TrainingDataError(
            f"{file}, row {row}: length is {lengths[row]}, and the model's context holds {held} tokens. Leave such "
            f"rows out, or read them up to there: --set training.max_length={held}"
        )


def _check_bins(data: Dataset, grid: JointGrid, file: Path, say: Callable[[str], None]) -> None:
    longest = int((np.asarray(data["length"]) - np.asarray(data["prompt_length"])).max())
    last = int(grid.length_bin([longest])[0])
    if not last:
        raise TrainingDataError(
            f"no rollout in {file} is longer than the grid's first length bin, of {grid.length_edges[1]:g} tokens: "
            f"they have at most {longest}. Set grid.startup or grid.length_edges to what tells them apart"
        )
    if (unused := grid.num_length_bins - 1 - last) > 0:
        say(f"the last {unused} of {grid.num_length_bins} length bins never occur: no rollout is as long")
