"""Whether a sample that still thinks had better answer now: eq. 17 to 19 of one prefix whose horizon does not prune it.

Planned pruning (eq. 25) moves what outlasts a horizon to the lowest reward. Of a sample whose thinking can be closed,
what outlasts the horizon is not lost: it is closed there, and worth what closing it is worth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.joint import on_grid


def gain_of_thinking_on(
    joint: ArrayLike,
    closed: ArrayLike,
    grid: JointGrid,
    *,
    alpha: float,
    price: float,
    closing: int,
    best: float | None = None,
    limit: int | None = None,
) -> float:
    """What going on is worth, at the best horizon, above closing the thought now; closing is right where it is <= 0.

    With Z the reward and L the remaining length of `joint`, and a horizon of h tokens::

        W       = E_closed[max(Z, best)] - price * (alpha * closing + 1 - alpha + E_closed[L])
        gain(h) = E[(max(Z, best) - W) 1{L <= h}] - price * E[min(L, h)]

    Args:
        joint: shape (B_V, B_T), of the sample as it is.
        closed: shape (B_V, B_T), of the sample with its thought closed.
        alpha: compute (1) against latency (0): all tokens of `closing` are computed, in one serial step.
        price: of a token, in reward: beta, normalised (eq. 28).
        closing: tokens that close the thought.
        best: the value that is to be beaten, of the best finished sample; None where there is none.
        limit: tokens that the sample may still take; horizons beyond it are none.

    Returns:
        the largest gain over the horizons at the grid's lengths; -inf where none is within the limit.

    Raises:
        GridError: joints of another shape.
    """
    going, ended = on_grid(joint, grid), on_grid(closed, grid)
    rewards, lengths = np.asarray(grid.reward_values), np.asarray(grid.length_values)
    rewards = rewards if best is None else np.maximum(rewards, best)
    worth = rewards @ ended.sum(-1) - price * (alpha * closing + 1.0 - alpha + ended.sum(-2) @ lengths)
    within = np.cumsum((rewards - worth) @ going)
    capped = np.minimum(lengths[:, None], lengths) * going.sum(-2)  # [h, l]
    gains = within - price * capped.sum(-1)
    allowed = gains if limit is None else gains[lengths <= limit]
    return float(allowed.max(initial=-np.inf))
