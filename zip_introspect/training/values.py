"""Denoised values: what an intermediate head makes of a finished rollout replaces its realised reward (eq. 4)."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from zip_introspect.heads.targets import IGNORED
from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.training.dataset import JointCollator


def denoised_values(
    model: PreTrainedModel, dataset: Dataset, grid: JointGrid, *, pad_token_id: int, last: int = 8, batch_size: int = 64
) -> NDArray[np.float64]:
    """The mean predicted reward over the last `last` prefixes of every rollout.

    Args:
        model: the intermediate model, trained on realised rewards; it is only read, never sampled from.
        dataset: rollouts (`training.dataset`).
        last: K, how many of the final positions are averaged.

    Returns:
        shape (rows,), in the order of the dataset.
    """
    order = np.argsort([-length for length in dataset["length"]])
    loader = DataLoader(
        dataset.select(order), batch_size=batch_size, collate_fn=JointCollator(grid, pad_token_id), shuffle=False
    )
    values: list[float] = []
    cells = grid.num_reward_bins * grid.num_length_bins
    model.eval()
    with torch.inference_mode():
        for batch in tqdm(loader, desc="values"):
            labels = batch.pop("targets")
            inputs = {name: item.to(model.device) for name, item in batch.items()}
            logits = model(**inputs, use_cache=False).logits[..., grid.first_reserved : grid.first_reserved + cells]
            for reserved, row_labels in zip(logits.float().cpu().numpy(), labels.numpy(), strict=True):
                positions = np.flatnonzero(row_labels != IGNORED)[-last:]
                predictions = joint.expected_value(joint.from_logits(reserved[positions], grid), grid)
                values.append(float(predictions.mean()))
    out = np.empty(len(values))
    out[order] = values
    return out


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
