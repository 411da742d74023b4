"""Which rows of an output head were trained for a joint: those that are unlike the spare ones around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from zip_introspect.heads.spare_ids import SpareIds
from zip_introspect.introspection.grid import JointGrid

_FEWEST = 8
"""Rows beyond the grid from which it can be told what an untrained one looks like."""
_APART = 1.5
"""How much farther than those a trained row is from their mean."""
_LOOKED_AT = 4096


def look_trained(rows: NDArray[np.float32], untrained: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether rows are farther from the mean of untrained ones than nearly all of these are.

    Args:
        rows: shape (n, hidden size).
        untrained: shape (m, hidden size).
    """
    centre = untrained.mean(0)
    spread = np.quantile(np.linalg.norm(untrained - centre, axis=1), 0.95)
    size = float(np.linalg.norm(centre)) + float(np.finfo(np.float32).tiny)
    found = np.linalg.norm(rows - centre, axis=1) > _APART * spread + 1e-3 * size
    return np.asarray(found, dtype=np.bool_)


def doubt(
    grid: JointGrid, runs: Sequence[SpareIds], read: Callable[[Sequence[int]], NDArray[np.float32]]
) -> str | None:
    """What speaks against a grid: rows of it that look untrained, or spare rows beside it that look trained.

    Args:
        runs: spare ids of the model.
        read: rows of its output head.

    Returns:
        a sentence; None where nothing does, or where too few spare rows are left to tell.
    """
    inside = grid.reserved
    run = next((r for r in runs if r.first <= inside.start and inside.stop <= r.first + r.count), None)
    if run is None:
        return None
    before = range(run.first, inside.start)
    behind = range(inside.stop, min(run.first + run.count, inside.stop + _LOOKED_AT))
    # Farthest from the grid there are none of another, larger one.
    if max(len(before), len(behind)) < 2 * _FEWEST:
        return None
    beyond = behind if len(behind) >= len(before) else before[::-1]
    near, far = beyond[: len(beyond) // 2], beyond[len(beyond) // 2 :]
    untrained = read(far)
    idle = int((~look_trained(read(inside), untrained)).sum())
    busy = int(look_trained(read(near), untrained).sum())
    if idle == len(inside):
        return f"none of the rows {inside.start} to {inside.stop - 1} looks trained; is it another model's grid?"
    if idle > len(inside) // 20:
        return (
            f"{idle} of the grid's {len(inside)} rows look untrained, so that the model seems to be trained for a "
            f"smaller grid, or for one elsewhere"
        )
    if busy > len(near) // 20 and busy > 1:
        return (
            f"{busy} spare rows beside the grid's look trained too, so that the model seems to be trained for a larger "
            f"grid, or for one elsewhere"
        )
    return None
