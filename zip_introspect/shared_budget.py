"""One budget that many calls draw on: the prompts of a batch, or the calls of an agent's run.

Each call has a share in it. Steps are reserved before the backend takes them and settled after, so that the total is
never exceeded, whoever draws at once. What is left is divided

- by worth among questions whose strategy weighs prices (`Strategy.priced`): a token has the price at which all of them
  want just what is left (`introspection.demand`); those that have not begun are taken for the mean of those that have;
- evenly among others: each may come to the same level, at which all just spend it. What one leaves is the others'.

Where prompts cost money, too, those to come are as many as it carries with what each is expected to take; a prompt
beyond them is not begun beside others, but waits for what these leave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Self
from weakref import WeakSet

import numpy as np

from zip_introspect.budget import Budget, affordable
from zip_introspect.errors import BudgetError
from zip_introspect.introspection.demand import PRICES, clearing_price
from zip_introspect.introspection.joint import Floats

_OF_ONE_PROMPT = ("max_samples", "max_depth", "max_expected_share")
_SOONEST = 1e-6  # seconds of a call for which none are left: it ends as one that is too late


class SharedBudget:
    """Limits for many calls together: what one spends, the next one lacks. Threads and models may share it.

    Args:
        limits: tokens, money and seconds for all; seconds count from the first call on. Its prices hold in every call.
        calls: how many are expected: what those to come will want is kept from those that run. A batch says by itself
            how many prompts it has.

    Raises:
        BudgetError: limits that hold for one prompt (`max_samples`, `max_depth`, `max_expected_share`), or none at all.
    """

    def __init__(self, limits: Budget | int, *, calls: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limits = Budget.of(limits)
        for name in _OF_ONE_PROMPT:
            if getattr(self.limits, name) is not None:
                raise BudgetError(f"{name} holds for one prompt and cannot be shared; give it as budget=Budget(...)")
        if all(limit is None for limit in (self.limits.max_tokens, self.limits.max_cost, self.limits.max_seconds)):
            raise BudgetError("a shared budget without a limit; give it max_tokens, max_cost or max_seconds")
        if isinstance(calls, bool) or not isinstance(calls, int) or calls < 0:
            raise BudgetError(
                f"calls is {calls!r}; expected how many calls will share the budget, 0 where that is open"
            )
        self._calls, self._clock = calls, clock
        self._started: float | None = None
        self._lock = threading.RLock()
        self._waiting: WeakSet[Share] = WeakSet()
        self._running: set[Share] = set()
        self._begun = self._tokens = self._prompt_tokens = self._reserved = 0
        self._withdrawn = 0
        """Calls that ended before they began."""
        self._wanted = np.zeros_like(PRICES)
        """Tokens that those who run want yet, at each price."""
        self._told, self._every = 0, np.zeros_like(PRICES)
        """How many questions have told what they want, and the sum of that at their prompts."""
        self._most = 0
        """Tokens that the greediest question so far could take."""
        self._ended = self._longest = 0
        """How many have ended, and the tokens that the longest took; one that was cut is taken for twice as long."""
        self._price: float | None = None
        """As last found; None is to be found."""

    @property
    def tokens(self) -> int:
        """Generated tokens so far."""
        return self._tokens

    @property
    def cost(self) -> float | None:
        """Money spent so far; None without prices."""
        price = self.limits.price_per_token
        if price is None:
            return None
        return self._prompt_tokens * self.limits.price_per_prompt_token + self._tokens * price

    @property
    def tokens_left(self) -> int | None:
        """Generated tokens that tokens and money still allow; None where neither is limited."""
        return self._left_after(0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, negative beyond it; None is no limit."""
        if self.limits.max_seconds is None:
            return None
        return self.limits.max_seconds - (0.0 if self._started is None else self._clock() - self._started)

    @property
    def price(self) -> float:
        """Reward that a token costs, since others want it; 0 where there is enough for all."""
        with self._lock:
            if self._price is None:
                self._price = self._found_price()
            return self._price

    def open(self, budget: Budget) -> Share:
        """The share of a call, from now on.

        Args:
            budget: the call's own limits.

        Raises:
            BudgetError: it has prices that are not the shared ones.
        """
        with self._lock:
            self._started = self._clock() if self._started is None else self._started
            share = Share(self, self._within(budget))
            self._waiting.add(share)
            return share

    def _within(self, budget: Budget) -> Budget:
        """A call's own limits, at the shared prices and within the seconds that are left."""
        changes: dict[str, Any] = {}
        if self.limits.price_per_token is not None:
            prices = {name: getattr(self.limits, name) for name in ("price_per_token", "price_per_prompt_token")}
            if budget.price_per_token is not None and any(getattr(budget, n) != p for n, p in prices.items()):
                raise BudgetError("the budget of a prompt and the shared one have different prices; give them in one")
            changes |= prices
        seconds = self.seconds_left
        if seconds is not None:
            changes["max_seconds"] = max(_SOONEST, min(seconds, budget.max_seconds or seconds))
        return budget.replace(**changes) if changes else budget

    def _left_after(self, prompt_tokens: int) -> int | None:
        """`tokens_left`, once a prompt of so many tokens is paid for."""
        return affordable(self.limits, self._prompt_tokens + prompt_tokens, self._tokens)

    def _unbegun(self) -> int:
        """How many questions are yet to begin."""
        return max(len(self._waiting), self._calls - self._begun - self._withdrawn)

    @property
    def _prompt(self) -> float:
        """What a prompt costs on average, in generated tokens; 0 where only those are limited, or none is known."""
        if self.limits.max_cost is None or not self._begun or not self.limits.price_per_token:
            return 0.0
        return self._prompt_tokens / self._begun * self.limits.price_per_prompt_token / self.limits.price_per_token

    def _to_come(self, left: float) -> float:
        """Questions yet to begin that so many tokens carry: with the prompt, and what each is then expected to take.

        That is what it wants at the highest price at which its surplus, the area under its demand above the price, pays
        for the prompt; where nobody tells, the most that one has taken so far.
        """
        unbegun, prompt = self._unbegun(), self._prompt
        if not prompt or not self._binds(left - unbegun * prompt):
            return unbegun
        if self._told:
            every = self._every / self._told
            areas = (every[1:] + every[:-1]) / 2 * np.diff(PRICES)
            surplus = np.append(np.cumsum(areas[::-1])[::-1], 0.0)
            dearest = int(np.flatnonzero(surplus >= PRICES * prompt)[-1])
            each = float(every[dearest])
            running = float(self._wanted[dearest]) + each * sum(share._wanted is None for share in self._running)
        elif self._longest:
            each = self._longest
            running = sum(max(0, self._longest - share.tokens) for share in self._running)
        else:
            return 0
        return min(unbegun, max(0, int((left - running) / (prompt + each))))

    def _plannable(self) -> float | None:
        """Tokens to divide: those left, less what the prompts that are still to come will cost."""
        left = self.tokens_left
        return None if left is None else max(0.0, left - self._to_come(left) * self._prompt)

    def _level(self, left: float) -> float:
        """Tokens to which each question may come, so that all together just spend what is left."""
        come = self._to_come(self.tokens_left or 0)
        return (left + sum(share.tokens for share in self._running)) / max(1, come + len(self._running))

    def _binds(self, left: float) -> bool:
        """Whether so many tokens may be too few for all that the questions could take."""
        return left < sum(share.most - share.tokens for share in self._running) + self._unbegun() * self._most

    def _found_price(self) -> float:
        left = self._plannable()
        if left is None or not self._told or not self._binds(left):
            return 0.0
        come = self._to_come(self.tokens_left or 0)
        return clearing_price(self._wanted + come * self._every / self._told, left)

    def __copy__(self) -> Self:
        return self  # a copy of whatever holds it draws on the same

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a shared budget lives in one process, and cannot be pickled: a copy could be spent once more")

    def __repr__(self) -> str:
        return f"SharedBudget({self.limits!r}, tokens={self._tokens}, price={self.price:.3g})"


class Share:
    """One call's part in a shared budget, made by `SharedBudget.open`.

    Attributes:
        budget: the call's own limits, at the shared prices.
        tokens: what it has generated.
        most: tokens that it could take at most, once that is known.
    """

    def __init__(self, shared: SharedBudget, budget: Budget) -> None:
        self.budget, self.tokens, self.most = budget, 0, 0
        self._shared, self._reserved = shared, 0
        self._begun = self._cut = self._closed = False
        self._owed = 0
        """Tokens of its prompt, where that could not be paid for yet."""
        self._wanted: Floats | None = None

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held by whoever looks at what is left of the total; may be taken again by who holds it."""
        return self._shared._lock

    @property
    def price(self) -> float:
        """Reward a token, as `SharedBudget.price`."""
        return self._shared.price

    @property
    def spent(self) -> bool:
        """Whether nothing is left of the total, for anybody."""
        return self._shared.tokens_left == 0

    @property
    def waits(self) -> bool:
        """Whether all that is left is reserved by others: what they do not take is left again after their call.

        Where its prompt could not be paid for, all beside that.
        """
        shared = self._shared
        with shared._lock:
            left = shared._left_after(self._owed)
            return left is not None and not self._closed and 0 < left <= shared._reserved - self._reserved

    def carried_beside(self, others: Iterable[Share | None]) -> bool:
        """Whether the money carries one more prompt and what follows; beside none of `others` it may always begin."""
        shared = self._shared
        with shared._lock:
            if not any(other is not None and other._shared is shared for other in others):
                return True
            left = shared.tokens_left
            if left is None or not shared._prompt or not shared._binds(left - shared._unbegun() * shared._prompt):
                return True
            known = shared._told or shared._ended  # twice as many at once, each time that more is known of them
            unknown = sum(share._wanted is None for share in shared._running)
            return unknown < known and shared._to_come(left) >= 1

    def begin(self, prompt_tokens: int, most: int) -> bool:
        """Take the prompt into account; whether there is enough for it and one token. If not, it may have to wait.

        Args:
            most: tokens that the call could take at most.
        """
        shared = self._shared
        with shared._lock:
            left = shared._left_after(prompt_tokens)
            if self._closed or (left is not None and left - shared._reserved < 1):
                self._owed = prompt_tokens
                return False
            shared._waiting.discard(self)
            self._begun, self._owed = True, 0
            shared._begun += 1
            shared._prompt_tokens += prompt_tokens
            shared._most, self.most = max(shared._most, most), most
            shared._running.add(self)
            shared._price = None
            return True

    def tokens_left(self, priced: bool) -> int | None:
        """Generated tokens that it may take from here: of all that nobody has reserved, or up to the even level."""
        shared = self._shared
        with shared._lock:
            left = shared.tokens_left
            if left is None:
                return None
            free = left - (shared._reserved - self._reserved)
            plannable = shared._plannable() or 0.0
            if not priced and shared._binds(plannable):
                free = min(free, int(shared._level(plannable)) - self.tokens)
                self._cut = free <= 0
            return max(0, free)

    def reserve(self, tokens: int) -> None:
        """Keep tokens for the next call of the backend, in place of those kept before."""
        shared = self._shared
        with shared._lock:
            shared._reserved += tokens - self._reserved
            self._reserved = tokens

    def settle(self, tokens: int) -> None:
        """Enter what a call of the backend generated; what was reserved beyond that is free again."""
        shared = self._shared
        with shared._lock:
            self.reserve(0)
            self.tokens += tokens
            shared._tokens += tokens
            shared._price = None

    def expect(self, wanted: Floats) -> None:
        """Tell how many tokens it wants yet, at each price (`introspection.demand`)."""
        shared = self._shared
        with shared._lock:
            if self._wanted is None:
                shared._every += wanted
                shared._told += 1
            else:
                shared._wanted -= self._wanted
            shared._wanted += wanted
            self._wanted, shared._price = wanted, None

    def close(self) -> None:
        """The call has ended, or never began. Closing twice is harmless."""
        shared = self._shared
        with shared._lock:
            if self._closed:
                return
            self._closed = True
            self.reserve(0)
            shared._withdrawn += not self._begun
            shared._ended += self._begun
            shared._longest = max(shared._longest, self.tokens * (1 + self._cut))
            shared._waiting.discard(self)
            shared._running.discard(self)
            if self._wanted is not None:
                shared._wanted -= self._wanted
            shared._price = None

    def withdraw(self) -> None:
        """Close it if it has not begun: what a running call reserved is given back only where it ends."""
        with self._shared._lock:
            if not self._begun:
                self.close()


def total_of(budget: Any, total: SharedBudget | Budget | int | None) -> SharedBudget | None:
    """The budget that a call draws on with others: a `budget` that is shared, or a `total_budget`; None without.

    Raises:
        BudgetError: both, or limits that cannot be shared.
    """
    if not isinstance(budget, SharedBudget):
        return total if total is None or isinstance(total, SharedBudget) else SharedBudget(total)
    if total is not None:
        raise BudgetError(
            "budget is a SharedBudget, and there is a total_budget too; give one of the two, and as budget the limits "
            "of each prompt"
        )
    return budget
