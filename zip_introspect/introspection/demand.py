"""What a question will take at a price of a token: the demand from which the price of a common budget is found.

A question is taken as a search with recall (Weitzman, 1979): its samples are draws, each of which ends at some reward
after some tokens. At q reward a token another draw is worth its price while the best so far lies below the reservation
value v(q), where E[(Z - v)+] = q E[L]; so a question is drawn from until that is reached, and one whose reservation
value lies below the lowest reward is left. With p = P(Z >= v), at most n draws are (1 - (1 - p)^n) / p on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from zip_introspect.introspection import joint
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.joint import Floats

PRICES: Floats = np.concatenate([[0.0], np.geomspace(1e-7, 10.0, 97)])
"""Reward a token: the points at which demand is told. The last is above what any question is worth."""
PRICES.setflags(write=False)


def demand(
    root: ArrayLike,
    grid: JointGrid,
    draws: int,
    *,
    running: ArrayLike = (),
    finished_values: Sequence[float] = (),
    own_price: float = 0.0,
) -> Floats:
    """Tokens that a question is expected to take yet, at each of `PRICES`: shape (P,), falling.

    Where nothing is finished, an answer is owed: the question's own price does not count against its first draw.

    Args:
        root: shape (B_V, B_T), the joint of a new sample.
        draws: new samples that may be started, at most.
        running: shape (n, B_V, B_T), the joints of the samples that have begun.
        finished_values: of the samples that are complete.
        own_price: reward that a token costs beside the price, of the question's own beta.

    Raises:
        GridError: joints of another shape.
    """
    begun = np.asarray(running, dtype=np.float64).reshape(-1, *grid.shape)
    lowest = float(grid.reward_values[0])
    best = max([*finished_values, lowest])
    prices = PRICES if not len(finished_values) else PRICES + own_price
    taken, unsettled = np.zeros_like(PRICES), np.ones_like(PRICES)
    new = _Draw.of(joint.on_grid(root, grid), grid, prices, best)
    for one in begun:
        draw = _Draw.of(one, grid, prices, best)
        goes_on = draw.reservation > best
        taken += goes_on * draw.tokens
        unsettled *= 1.0 - goes_on * draw.above(np.maximum(new.reservation, best))
    if draws:
        settled = np.clip(new.above(np.maximum(new.reservation, best)), 1e-9, 1.0 - 1e-9)
        number = -np.expm1(draws * np.log1p(-settled)) / settled
        taken += unsettled * (new.reservation > best) * number * new.tokens
    return np.asarray(np.minimum.accumulate(taken), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Draw:
    """A sample as something to be opened at a price: each field for every price, shape (P, ...)."""

    reservation: Floats
    """What has to be in hand for it not to be worth its price, up to its best horizon (eq. 25); -inf for nothing."""
    tokens: Floats
    """That it takes up to that horizon."""
    rewards: Floats
    """Shape (P, B_V): the chance to end there at each reward."""
    values: Floats

    @classmethod
    def of(cls, one: Floats, grid: JointGrid, prices: Floats, best: float) -> _Draw:
        """What a joint makes of it, beside the best value in hand: its horizon is that of the highest utility."""
        values = np.asarray(grid.reward_values, dtype=np.float64)
        rewards = one.cumsum(axis=-1).T  # (H, B_V): to have ended by a horizon
        bins = np.arange(len(rewards))
        tokens = np.asarray(grid.length_values)[np.minimum.outer(bins, bins)] @ one.sum(axis=0)
        utility = (rewards @ np.maximum(values - best, 0.0))[:, None] - np.outer(tokens, prices)  # (H, P)
        at = len(bins) - 1 - utility[::-1].argmax(axis=0)  # of equals the longest
        gains = rewards @ np.maximum(values[None, :] - values[:, None], 0.0).T  # (H, B_V): E[(Z - v)+], falling with v
        cost, reservation = prices * tokens[at], np.empty_like(prices)
        for h in set(at.tolist()):
            inside = at == h
            reservation[inside] = np.interp(cost[inside], gains[h, ::-1], values[::-1])
        return cls(np.where(cost < gains[at, 0], reservation, -np.inf), tokens[at], rewards[at], values)

    def above(self, bound: Floats) -> Floats:
        """The chance that it ends at a bound or above, shape (P,)."""
        return np.asarray(((self.values >= bound[:, None]) * self.rewards).sum(axis=-1))


def clearing_price(wanted: ArrayLike, left: float) -> float:
    """The price at which so many tokens are wanted as are left; 0 where they suffice without one.

    Args:
        wanted: shape (P,), tokens at each of `PRICES`, falling.
        left: tokens.
    """
    curve = np.asarray(wanted, dtype=np.float64)
    if curve[0] <= left:
        return 0.0
    place = 1 + int(np.argmax(curve[1:] <= left)) if curve[-1] <= left else len(curve) - 1
    if place == 1:
        return float(PRICES[1])
    before, after = curve[place - 1], curve[place]
    share = float((before - left) / (before - after)) if before > after else 1.0
    low, high = PRICES[place - 1], PRICES[place]
    return float(low + min(max(share, 0.0), 1.0) * (high - low))
