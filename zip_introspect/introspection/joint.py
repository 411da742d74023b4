"""The joint distribution over reward bin and remaining-length bin: from logits, and what is read from it.

A joint has shape (..., B_V, B_T), reward-major, and sums to 1 over its last two axes. Every function here is pure,
works over any leading axes, and returns float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zip_introspect.errors import ConfigError, GridError, NonFiniteLogitsError
from zip_introspect.introspection.grid import JointGrid

Floats = NDArray[np.float64]


def from_logits(logits: ArrayLike, grid: JointGrid) -> Floats:
    """The joint that reserved logits stand for: their softmax (eq. 5).

    Args:
        logits: shape (..., V) over the whole vocabulary, or (..., B_V*B_T) over the reserved tokens alone.

    Returns:
        shape (..., B_V, B_T).

    Raises:
        GridError: the last axis is neither the reserved tokens nor a vocabulary that holds them.
        NonFiniteLogitsError: a logit is NaN or infinite.
    """
    array = np.asarray(logits)
    size = array.shape[-1] if array.ndim else 0
    if size != grid.num_cells:
        reserved = grid.reserved
        if not reserved or size <= reserved[-1]:
            named = f"the reserved ids {reserved[0]}..{reserved[-1]}" if reserved else "reserved ids, which it has not"
            raise GridError(
                f"logits of shape {array.shape}; expected a last axis of the grid's {grid.num_cells} cells, or of a "
                f"vocabulary that holds {named}"
            )
        array = array[..., reserved.start : reserved.stop]
    cells = array.astype(np.float64)
    finite = np.isfinite(cells)
    if not finite.all():
        bad = int(cells.size - finite.sum())
        raise NonFiniteLogitsError(
            f"{bad} of {cells.size} joint logits are NaN or infinite. The model's numbers overflowed: "
            f"check the weights, or load the model in a wider dtype such as float32."
        )
    # Shifted by the maximum, the largest exponential is 1: no overflow, and a sum of at least 1.
    weights = np.exp(cells - cells.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights.reshape(*array.shape[:-1], *grid.shape), dtype=np.float64)


def value_marginal(joint: ArrayLike) -> Floats:
    """The distribution over reward bins, shape (..., B_V) (eq. 7)."""
    return np.asarray(_joint(joint).sum(axis=-1), dtype=np.float64)


def length_marginal(joint: ArrayLike) -> Floats:
    """The distribution over remaining-length bins, shape (..., B_T) (eq. 7)."""
    return np.asarray(_joint(joint).sum(axis=-2), dtype=np.float64)


def expected_value(joint: ArrayLike, grid: JointGrid) -> Floats:
    """The expected reward, shape (...) (eq. 8).

    Raises:
        GridError: the joint is not on this grid.
    """
    return np.asarray(value_marginal(on_grid(joint, grid)) @ grid.reward_values, dtype=np.float64)


def expected_length(joint: ArrayLike, grid: JointGrid) -> Floats:
    """The expected number of tokens still to come, shape (...) (eq. 8).

    Raises:
        GridError: the joint is not on this grid.
    """
    return np.asarray(length_marginal(on_grid(joint, grid)) @ grid.length_values, dtype=np.float64)


def cap(joint: ArrayLike, horizon: ArrayLike) -> Floats:
    """The joint of a sample that is dropped when it outlasts a horizon (eq. 25, 26).

    Args:
        joint: shape (..., B_V, B_T).
        horizon: the last length bin allowed, 0-based; one for all, or any shape that broadcasts to (...).

    Returns:
        the same shape: mass beyond the horizon lies in reward bin 0 of the horizon's own bin.

    Raises:
        GridError: a horizon that is not a length bin.
    """
    array = _joint(joint)
    bins = array.shape[-1]
    last = np.asarray(horizon)
    if not np.issubdtype(last.dtype, np.integer) or (last.size and (last.min() < 0 or last.max() >= bins)):
        raise GridError(f"horizon {horizon!r} is not a length bin; expected whole numbers 0..{bins - 1}")
    last = np.broadcast_to(last, array.shape[:-2])
    kept = np.arange(bins) <= last[..., None]
    capped = np.where(kept[..., None, :], array, 0.0)
    pruned = np.where(kept[..., None, :], 0.0, array).sum(axis=(-2, -1))
    capped[..., 0, :] += pruned[..., None] * (np.arange(bins) == last[..., None])
    return np.asarray(capped, dtype=np.float64)


def smooth(joints: ArrayLike, window: int) -> Floats:
    """The mean of the last `window` joints of one path (eq. 27); of all of them where the path is shorter.

    Args:
        joints: shape (t, B_V, B_T), the joints at the successive prefixes of one path, in order.

    Returns:
        shape (B_V, B_T).

    Raises:
        ConfigError: a window below 1.
        GridError: no joints.
    """
    if window < 1:
        raise ConfigError(f"the smoothing window is {window}; expected 1 (no smoothing) or more")
    array = _joint(joints)
    if array.ndim != 3 or not array.shape[0]:
        raise GridError(f"joints of shape {array.shape}; expected (t, B_V, B_T) with one joint or more")
    return np.asarray(array[-window:].mean(axis=0), dtype=np.float64)


def on_grid(joint: ArrayLike, grid: JointGrid) -> Floats:
    """The joint as float64, once its shape is seen to be the grid's.

    Raises:
        GridError: the last two axes are not (B_V, B_T).
    """
    array = np.asarray(joint, dtype=np.float64)
    if array.shape[-2:] != grid.shape:
        raise GridError(
            f"a joint of shape {array.shape}; expected (..., {grid.num_reward_bins}, {grid.num_length_bins})"
        )
    return array


def _joint(joint: ArrayLike) -> Floats:
    array = np.asarray(joint, dtype=np.float64)
    if array.ndim < 2:
        raise GridError(f"a joint of shape {array.shape}; expected (..., B_V, B_T)")
    return array
