"""Batches of similar lengths in random order: little padding, and no drift from long to short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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


class TokenBatches(Sampler[list[int]]):
    """Batches that hold as many rows of similar lengths as fit a number of tokens, padding counted.

    A fixed number of rows would be sized for the longest ones, and waste the memory with all others. A row beyond the
    number has a batch of its own.

    Args:
        lengths: shape (rows,).
        tokens: of a batch, at most.
        processes: that share the batches; as many batches come for each, so that none waits for another.
    """

    def __init__(self, lengths: Sequence[int], tokens: int, *, seed: int, processes: int = 1) -> None:
        self._lengths, self._seed, self._epoch = np.asarray(lengths), seed, 0
        ends, widest = [0], 0
        for place, length in enumerate(np.sort(self._lengths), 1):
            widest = max(widest, int(length))
            if widest * (place - ends[-1]) > tokens and place - 1 > ends[-1]:
                ends.append(place - 1)
                widest = int(length)
        self._edges = [*ends, len(self._lengths)]
        self._count = self.all // processes * processes
        if not self._count:
            raise TrainingDataError(
                f"{len(self._lengths)} rows make {self.all} batches of {tokens} tokens, too few for "
                f"{processes} processes; expected more rows, smaller batches or fewer processes"
            )

    @property
    def sampler(self) -> TokenBatches:
        """Itself: accelerate tells the epoch to a batch sampler's sampler."""
        return self

    @property
    def all(self) -> int:
        """How many batches the rows make; up to `processes - 1` of them are left out of an epoch, others each time."""
        return len(self._edges) - 1

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        """Draw another order for another epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self._seed, self._epoch))
        order = np.lexsort((rng.random(len(self._lengths)), self._lengths))  # rows of one length change places
        for place in rng.permutation(self.all)[: self._count]:
            yield order[self._edges[place] : self._edges[place + 1]].tolist()


class _Epochs(TrainerCallback):
    """Tells batches their epoch: accelerate does not reach them where a resumed run skips what it has seen."""

    def __init__(self, batches: TokenBatches) -> None:
        self._batches = batches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._batches.set_epoch(int((state.epoch or 0.0) + 1e-6))


class LengthBatchingTrainer(Trainer):
    """A Trainer that batches rows of similar lengths in random order and weighs every trained token alike.

    The mean over each batch would weigh the tokens of short rows more, since they come together: a model
    would then learn that whatever ends a row early (giving up, a lucky guess) is likelier than it is.

    Its dataset has the columns `length` and `prompt_length`; the tokens between them are trained.

    Args:
        tokens_per_batch: on one device, padding counted; None takes the arguments' number of rows.

    Raises:
        TrainingDataError: a column is missing.
    """

    def __init__(self, *args: Any, tokens_per_batch: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_is_scaled_for_ga = True
        rows = self.train_dataset
        columns = rows.column_names if isinstance(rows, Dataset) else []
        if not isinstance(rows, Dataset) or not {"length", "prompt_length"} <= set(columns):
            raise TrainingDataError(
                f"train_dataset is {type(rows).__name__} with columns {columns}; "
                "expected a Dataset with `length` and `prompt_length`"
            )
        self._lengths = np.asarray(rows["length"])
        self._batches: TokenBatches | None = None
        rows_per_batch: float = self.args.train_batch_size
        if tokens_per_batch is not None:
            processes = self.accelerator.num_processes
            self._batches = TokenBatches(
                self._lengths.tolist(), tokens_per_batch, seed=self.args.seed, processes=processes
            )
            rows_per_batch = len(self._lengths) / self._batches.all
        trained = (self._lengths - np.asarray(rows["prompt_length"])).mean()
        self.usual_tokens = float(trained) * rows_per_batch * self.args.gradient_accumulation_steps
        """Trained tokens of an average update on one device: what a batch's summed loss is divided by."""
        if self._batches is not None:
            self.add_callback(_Epochs(self._batches))
        self._parts: dict[str, float] = {}
        self._noted = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The summed loss over `usual_tokens`."""
        total, outputs = self.summed_loss(model, inputs)
        loss = total / self.usual_tokens
        return (loss, outputs) if return_outputs else loss

    def summed_loss(self, model: nn.Module, inputs: dict[str, Tensor | Any]) -> tuple[Tensor, Any]:
        """A batch's loss, summed over its trained tokens, and the model's outputs."""
        outputs = model(**inputs, num_items_in_batch=1)
        return outputs.loss, outputs

    def note(self, **parts: Tensor) -> None:
        """Parts of a batch's summed loss, to be logged beside it; once a batch."""
        for name, part in parts.items():
            mean = part.detach().item() * self.args.gradient_accumulation_steps / self.usual_tokens
            self._parts[name] = self._parts.get(name, 0.0) + mean
        self._noted += 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the mean of each part of the loss to what the Trainer logs."""
        if self._noted:
            logs |= {name: round(total / self._noted, 5) for name, total in self._parts.items()}
            self._parts, self._noted = {}, 0
        super().log(logs, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's own, or one of batches by tokens."""
        if self._batches is None:
            return super().get_train_dataloader()
        rows: Any = self.train_dataset
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> ShuffledLengthSampler:
        return ShuffledLengthSampler(self._lengths.tolist(), self.args.train_batch_size, seed=self.args.seed)
