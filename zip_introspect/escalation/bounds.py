"""How a model is held to a ladder's budget: by itself, or by what its rung says that a call of it can take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from zip_introspect.budget import Budget
from zip_introspect.errors import BudgetError, HeadError
from zip_introspect.result import Usage
from zip_introspect.search.request import TO_GET_ONE

if TYPE_CHECKING:
    from zip_introspect.escalation.rung import Rung

Needs = dict[str, float]
"""By the name of a limit of `Budget`: how much of it has to be left for a call. Others do not bind the model."""


class Bounds(Protocol):
    """One way to hold a model to a budget."""

    def check(self, rung: Rung, budget: Budget) -> None:
        """Refuse a budget that the model could not be held to, before any model is asked.

        Raises:
            BudgetError: the message names the limit, and what to give.
        """

    def needs(self, rung: Rung) -> Needs:
        """What has to be left for a call."""

    def granted(self, rung: Rung, left: Budget, timeout: float | None) -> Budget:
        """What of the rest of a budget a call may use, in at most `timeout` seconds."""

    def told(self, rung: Rung, usage: Usage, budget: Budget) -> Usage:
        """What a call used, where it may not say all of it."""

    def at_most(self, rung: Rung, granted: Budget) -> dict[str, Any]:
        """What a call that failed may have used: fields of `Usage`."""


class HeldByItself:
    """Of models that are given a budget with every call, and keep to it."""

    def check(self, rung: Rung, budget: Budget) -> None:
        if rung.max_cost is not None and rung.price_per_token is None and budget.price_per_token is None:
            raise BudgetError(f"max_cost of {rung.name!r} needs price_per_token, the price of one generated token")

    def needs(self, rung: Rung) -> Needs:
        return {"max_tokens": 1, "max_cost": 0.0, "max_seconds": 0.0, "max_depth": 1, "max_samples": 1}

    def granted(self, rung: Rung, left: Budget, timeout: float | None) -> Budget:
        own = Budget(max_tokens=rung.max_tokens, max_cost=rung.max_cost, price_per_token=left.price_per_token)
        left = left.within(own)
        if not _expects(rung):  # only a head could hold it to that
            left = left.replace(max_expected_share=None)
        return left if timeout is None else left.replace(max_seconds=timeout)

    def told(self, rung: Rung, usage: Usage, budget: Budget) -> Usage:
        return usage

    def at_most(self, rung: Rung, granted: Budget) -> dict[str, Any]:
        return {
            "generated_tokens": granted.max_tokens or 0,
            "depth": granted.max_depth or 0,
            "cost": granted.max_cost,
        }


class HeldByRung:
    """Of models that know nothing of budgets: they are asked where the most that a call can take is left."""

    def check(self, rung: Rung, budget: Budget) -> None:
        for limit, bound in (("max_tokens", rung.max_tokens), ("max_cost", rung.max_cost)):
            if getattr(budget, limit) is not None and bound is None:
                raise BudgetError(
                    f"the budget has {limit}={getattr(budget, limit)}, and nothing says how much a call of "
                    f"{rung.name!r} can take; give it as Rung(..., {limit}=...)"
                )

    def needs(self, rung: Rung) -> Needs:
        return {"max_tokens": rung.max_tokens or 0, "max_cost": rung.max_cost or 0.0, "max_seconds": 0.0}

    def granted(self, rung: Rung, left: Budget, timeout: float | None) -> Budget:
        return left

    def told(self, rung: Rung, usage: Usage, budget: Budget) -> Usage:
        if usage.generated_tokens or budget.max_tokens is None:
            return usage
        return replace(usage, generated_tokens=rung.max_tokens or 0)  # it does not say, so they may be spent

    def at_most(self, rung: Rung, granted: Budget) -> dict[str, Any]:
        return {"generated_tokens": rung.max_tokens or 0, "cost": rung.max_cost}


class HeldByItsRungs(HeldByItself):
    """Of a ladder within a ladder: each of its own rungs is held in its own way."""

    def __init__(self, rungs: tuple[Rung, ...]) -> None:
        self.rungs = rungs

    def check(self, rung: Rung, budget: Budget) -> None:
        super().check(rung, budget)
        price = budget.price_per_token if rung.price_per_token is None else rung.price_per_token
        granted = budget.within(Budget(max_tokens=rung.max_tokens, max_cost=rung.max_cost, price_per_token=price))
        for inner in self.rungs:
            inner.adapter.bounds.check(inner, granted)


def check_guard(first: Rung, budget: Budget) -> None:
    """Refuse a share to be held at the prompt, where the model that is asked first expects nothing there.

    Raises:
        HeadError: it has no head.
    """
    if budget.max_expected_share is not None and not _expects(first):
        raise HeadError(
            f"max_expected_share={budget.max_expected_share:g} needs what a head expects at the prompt, and "
            f"{first.name} has none; {TO_GET_ONE}, or leave it out of the budget"
        )


def _expects(rung: Rung) -> bool:
    """Whether a model, or the first of a ladder's, expects anything at a prompt."""
    bounds = rung.adapter.bounds
    return _expects(bounds.rungs[0]) if isinstance(bounds, HeldByItsRungs) else rung.adapter.expects
