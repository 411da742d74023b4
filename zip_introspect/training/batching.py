"""Batches of similar lengths in random order: little padding, and no drift from long to short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import Trainer

from zip_introspect.errors import TrainingDataError


class ShuffledLengthSampler(Sampler[int]):
    """Indices such that every `batch_size` in a row are of similar length, and the batches come in random order.

    Sorting within large groups alone would feed long rows first and short ones last, over and over; where
    length goes with the label, as it does for rollouts, training then swings with it.

    Args:
        lengths: shape (rows,).
        pool: batches that are drawn at random and sorted together.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int, pool: int = 50) -> None:
        self._lengths, self._batch_size, self._seed, self._pool = np.asarray(lengths), batch_size, seed, pool
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order for another epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._seed, self._epoch))
        order = rng.permutation(len(self._lengths))
        size = self._pool * self._batch_size
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        ordered = np.concatenate([pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools])
        batches = [ordered[start : start + self._batch_size] for start in range(0, len(ordered), self._batch_size)]
        # The last batch may be short; anywhere but at the end it would shift all that follow.
        whole = len(batches) - (len(batches[-1]) < self._batch_size)
        for place in (*rng.permutation(whole), *range(whole, len(batches))):
            yield from batches[place].tolist()


class LengthBatchingTrainer(Trainer):
    """A Trainer whose rows have a `length` column and come in `ShuffledLengthSampler`'s order."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> ShuffledLengthSampler:
        # Not the dataset that is handed in: the Trainer has already removed the column that the model does not take.
        rows = self.train_dataset
        if not isinstance(rows, Dataset) or "length" not in rows.column_names:
            raise TrainingDataError(
                f"train_dataset is {type(rows).__name__}; expected a Dataset with a column `length`"
            )
        return ShuffledLengthSampler(rows["length"][:], self.args.train_batch_size, seed=self.args.seed)
