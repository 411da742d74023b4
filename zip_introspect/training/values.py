"""Denoised values: what an intermediate head makes of a finished rollout replaces its realised reward (eq. 4)."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from zip_introspect.heads.targets import IGNORED
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training import chunked
from zip_introspect.training.batching import TokenBatches
from zip_introspect.training.dataset import JointCollator


def denoised_values(
    model: PreTrainedModel, dataset: Dataset, grid: JointGrid, *, pad_token_id: int, last: int = 8, tokens: int = 16_384
) -> NDArray[np.float64]:
    """The mean predicted reward over the last `last` prefixes of every rollout.

    Args:
        model: the intermediate model, trained on realised rewards; it is only read, never sampled from.
        dataset: rollouts (`training.dataset`).
        last: K, how many of the final positions are averaged.
        tokens: read at once, padding counted.

    Returns:
        shape (rows,), in the order of the dataset.
    """
    batches = list(TokenBatches(dataset["length"][:], tokens, seed=0))
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=JointCollator(grid, pad_token_id))
    out = np.empty(len(dataset))
    output, own = chunked.output_head(model), slice(grid.reserved.start, grid.reserved.stop)
    model.eval()
    with torch.inference_mode():
        for places, batch in zip(batches, tqdm(loader, desc="values", mininterval=1), strict=True):
            labelled = batch.pop("targets") != IGNORED
            # Of each row the positions from the `last`th of those that are labelled.
            late = labelled & (labelled.flip(1).cumsum(1).flip(1) <= last)
            inputs = {name: item.to(model.device) for name, item in batch.items()}
            with nullcontext() if output is None else chunked.passed_over(output):
                found = model(**inputs, use_cache=False).logits[late.to(model.device)]
            if output is None:
                found = found[:, own]
            else:
                found = functional.linear(
                    found.float(), output.weight[own].float(), None if output.bias is None else output.bias[own].float()
                )
            cells = found.float().cpu().numpy()
            predicted = joint.expected_value(joint.from_logits(cells, grid), grid)
            rows = late.nonzero()[:, 0].numpy()
            out[places] = np.bincount(rows, predicted) / np.bincount(rows)
    return out


def calibrated(
    values: NDArray[np.float64], finished: NDArray[np.bool_], rewards: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values that rise with those given and agree with what was realised; 0 for a rollout that was cut.

    Args:
        values, finished, rewards: shape (rollouts,).
    """
    found = np.zeros(len(values))
    found[finished] = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(values[finished], rewards[finished])
    return found


def startup_for(longest: int, length_bins: int) -> int:
    """Tokens of a start-up bin, a power of two, from which so many bins that double reach the longest rollout (A.1)."""
    startup = 1
    while startup * 2 ** (length_bins - 1) < longest:
        startup *= 2
    return startup


def fit_representatives(
    grid: JointGrid, values: NDArray[np.float64], rewards: NDArray[np.float64], lengths: NDArray[np.int64]
) -> JointGrid:
    """The grid with each bin represented by what was found in it, so that expectations (eq. 8) are calibrated.

    Args:
        values, rewards: shape (rollouts,), denoised values and realised rewards: a reward bin stands for the mean
            realised reward of the rollouts whose value falls in it, kept within the bin.
        lengths: shape (rollouts,), generated tokens: a length bin stands for the mean remaining length of their
            prefixes in it.

    A bin that fewer than 20 rollouts reach keeps its representative.
    """
    remaining = np.concatenate([np.arange(1, length + 1) for length in lengths])
    # Just inside their bins: two that were clipped to the edge between them would be equal.
    margin = 1e-3 * np.diff(grid.reward_edges)
    low, high = grid.reward_edges[:-1] + margin, grid.reward_edges[1:] - margin
    return JointGrid(
        reward_edges=grid.reward_edges,
        length_edges=grid.length_edges,
        reward_values=np.clip(_bin_means(grid.reward_bin(values), rewards, grid.reward_values), low, high),
        length_values=_bin_means(grid.length_bin(remaining), remaining, grid.length_values),
        reserved_token_ids=grid.reserved_token_ids,
    )


def _bin_means(
    bins: NDArray[np.int64], found: NDArray[np.float64] | NDArray[np.int64], default: NDArray[np.float64]
) -> NDArray[np.float64]:
    counts = np.bincount(bins, minlength=default.size)
    sums = np.bincount(bins, found, minlength=default.size)
    return np.where(counts >= 20, sums / np.maximum(counts, 1), default)
