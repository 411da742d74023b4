"""What a generation may spend, and the ledger that holds the search to it.

Tokens, samples, depth and money are never exceeded, not by one token: the search asks the ledger how
many steps each sample may take before the backend takes them. Seconds are held by pacing: the steps of
a call shrink to what the slowest recent step leaves time for, and the first call is one step long. Plans
go by the typical pace: caution makes calls shorter, and changes no decision.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from zip_introspect.config import Settings
from zip_introspect.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from zip_introspect.shared_budget import Share

Limit = Literal["tokens", "depth", "seconds", "cost", "total"]
"""The limits that end a search; total is that of a `SharedBudget`. A limit on samples only narrows what a strategy may
propose."""

LIMITS: tuple[Limit, ...] = get_args(Limit)

_PLENTY = 1 << 53  # tokens or steps that no search reaches
_RECENT = 5  # calls whose paces make the typical one


class Budget(Settings):
    """Hard limits for one prompt; None is no limit.

    Raises:
        BudgetError: a limit that is zero or negative, or money without a price.
    """

    max_tokens: int | None = Field(None, gt=0, strict=True, description="Generated tokens of all samples together.")
    max_samples: int | None = Field(None, gt=0, strict=True, description="Samples started.")
    max_depth: int | None = Field(None, gt=0, strict=True, description="Serial steps: forward passes in a row.")
    max_seconds: float | None = Field(
        None, gt=0, description="Wall-clock seconds from the call on, waiting for other callers' work included."
    )
    max_cost: float | None = Field(None, gt=0, description="Money, in the currency of the prices.")
    price_per_token: float | None = Field(None, gt=0, description="Price of a generated token.")
    price_per_prompt_token: float = Field(0.0, ge=0, description="Price of a token of the prompt.")
    max_expected_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Of the budget's tokens, or of max_new_tokens where it limits neither them nor money. Where one "
        "sample is expected to take more, at the prompt, the question is handed on, or not begun. Needs a head.",
    )

    @classmethod
    def of(cls, value: Budget | int | None) -> Budget:
        """A budget from what `generate(budget=...)` takes: a `Budget`, an int (generated tokens) or None."""
        if value is None:
            return cls()
        if isinstance(value, Budget):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(max_tokens=value)
        raise BudgetError(
            f"budget is {value!r}; expected a Budget, a whole number of generated tokens, or None. "
            f"Write for example Budget(max_tokens=2_000, max_samples=8). A SharedBudget is for an IntrospectiveLLM "
            f"and its chat model; a ladder takes none."
        )

    def within(self, other: Budget) -> Budget:
        """The tighter of both on every limit, at these prices or, where there are none, at the other's."""
        limits = {
            name: min((item for item in (getattr(self, name), getattr(other, name)) if item is not None), default=None)
            for name in ("max_tokens", "max_samples", "max_depth", "max_seconds", "max_cost", "max_expected_share")
        }
        priced = other if self.price_per_token is None else self
        return priced.replace(**limits)

    def check_affords(self, prompt_tokens: int) -> None:
        """Refuse a prompt that leaves no money for a single generated token.

        Raises:
            BudgetError: it costs more than max_cost allows.
        """
        if self.max_cost is None or self.price_per_token is None:
            return
        least = prompt_tokens * self.price_per_prompt_token + self.price_per_token
        if least > self.max_cost:
            raise BudgetError(
                f"max_cost is {self.max_cost}, and the prompt of {prompt_tokens} tokens with one generated token "
                f"already costs {least:g}. Raise max_cost or shorten the prompt."
            )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_cost is not None and self.price_per_token is None:
            raise ValueError(f"max_cost={self.max_cost} needs price_per_token, the price of one generated token")
        return self

    @classmethod
    def _explain(cls, error: ValidationError) -> ConfigError:
        return BudgetError(f"budget refused: {super()._explain(error)}")


def affordable(budget: Budget, prompt_tokens: int, tokens: int) -> int | None:
    """Generated tokens that tokens and money allow beyond those of so many prompts and answers; None is no limit."""
    left = None if budget.max_tokens is None else max(0, budget.max_tokens - tokens)
    if budget.max_cost is None or budget.price_per_token is None:
        return left

    def costs(count: int) -> float:
        return prompt_tokens * budget.price_per_prompt_token + count * (budget.price_per_token or 0.0)

    afforded = int(max(0.0, min((budget.max_cost - costs(tokens)) / budget.price_per_token, _PLENTY)))
    # Division rounds either way: hold to the product, which is what is reported.
    if costs(tokens + afforded + 1) <= budget.max_cost:
        afforded += 1
    while afforded > 0 and costs(tokens + afforded) > budget.max_cost:
        afforded -= 1
    return afforded if left is None else min(left, afforded)


@dataclass(slots=True)
class Ledger:
    """What one search has spent of its budget."""

    budget: Budget
    prompt_tokens: int
    clock: Callable[[], float] = time.perf_counter
    started: float | None = None
    """When it was called for, by the clock; None is now."""
    part: Share | None = None
    """In a budget that is shared."""
    priced: bool = False
    """Whether its strategy weighs the price of a token, so that the shared budget need not be divided evenly."""
    tokens: int = 0
    samples: int = 0
    depth: int = 0
    begun: bool = False
    """Whether its prompt is paid for."""
    _slowest: float | None = None
    _paces: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def __post_init__(self) -> None:
        self.started = self.clock() if self.started is None else self.started
        self.budget.check_affords(self.prompt_tokens)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the call."""
        return self.clock() - (self.started or 0.0)

    @property
    def cost(self) -> float | None:
        """Money spent; None without prices."""
        if self.budget.price_per_token is None:
            return None
        return self._cost_of(self.tokens)

    @property
    def tokens_left(self) -> int | None:
        """Generated tokens that tokens and money still allow; None is no limit."""
        own = affordable(self.budget, self.prompt_tokens, self.tokens)
        common = self.part.tokens_left(self.priced) if self.part else None
        return common if own is None else own if common is None else min(own, common)

    @property
    def price(self) -> float:
        """Reward that a token of the shared budget costs; 0 without one."""
        return self.part.price if self.part and self.priced else 0.0

    @property
    def waits(self) -> bool:
        """Whether others have reserved all that is left of a shared budget, so that it has to be asked again.

        Not beyond its own limits: whose time is over does not wait.
        """
        return self.part is not None and self.part.waits and self._own_limit() is None

    def begin(self, most: int) -> bool:
        """Begin to draw on a shared budget, if there is one; whether it carries the prompt and a token.

        Args:
            most: tokens that the search could take at most.
        """
        self.begun = self.part is None or self.part.begin(self.prompt_tokens, most)
        return self.begun

    def close(self) -> None:
        """Give what is reserved of a shared budget back. Closing twice is harmless."""
        if self.part is not None:
            self.part.close()

    @property
    def depth_left(self) -> int | None:
        """Serial steps to plan with: what depth allows, and the clock at the typical pace of recent calls.

        None is no limit; a pace that is not known yet is none. The first call does not tell it, for that may hold what
        is done once (compiling, allocating); a slow one later is outvoted.
        """
        pace = statistics.median_low(self._paces) if self._paces else 0.0
        left = self.seconds_left
        return self._steps(left / pace if left is not None and pace else None)

    @property
    def samples_left(self) -> int | None:
        """Samples that may still be started; None is no limit."""
        return None if self.budget.max_samples is None else self.budget.max_samples - self.samples

    def exhausted(self) -> Limit | None:
        """The limit that allows not one more step, or None; none that is only waited for."""
        own = self._own_limit()
        if own is not None or self.part is None:
            return own
        with self.alone():
            return "total" if self.tokens_left == 0 and not self.part.waits else None

    def _own_limit(self) -> Limit | None:
        budget = self.budget
        if budget.max_tokens is not None and self.tokens >= budget.max_tokens:
            return "tokens"
        if budget.max_depth is not None and self.depth >= budget.max_depth:
            return "depth"
        if affordable(budget, self.prompt_tokens, self.tokens) == 0:
            return "cost"
        return "seconds" if self._cautious_depth == 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Wall-clock seconds until the deadline, negative beyond it; None is no limit."""
        return None if self.budget.max_seconds is None else self.budget.max_seconds - self.seconds

    def plan(self, wanted: Sequence[int]) -> list[int]:
        """Steps for each sample until the next decision, given those it wants, in order of priority.

        Depth caps each; tokens are shared evenly (what one cannot use goes to the others), the
        remainder to the first.
        """
        return self._shared(wanted, self.depth_left)

    def share(self, wanted: Sequence[int]) -> list[int]:
        """Of the steps of a plan, those of the next call: at the slowest recent pace they end in time.

        Of a shared budget, they are reserved until `spend`, or until the next share.
        """
        with self.alone():
            steps = self._shared(wanted, self._cautious_depth)
            if self.part is not None:
                self.part.reserve(sum(steps))
        return steps

    def lots(self, tokens: int, most: int) -> int:
        """Of `most` lots of so many tokens, how many can be taken; reserved as by `share`."""
        with self.alone():
            left = self.tokens_left
            count = most if left is None else min(most, left // tokens)
            if self.part is not None:
                self.part.reserve(count * tokens)
        return count

    def alone(self) -> AbstractContextManager[Any]:
        """Nobody else draws on a shared budget between looking at what is left of it and reserving that."""
        return nullcontext() if self.part is None else self.part.lock

    def spend(self, tokens: int, depth: int, seconds: float, steps: int | None = None) -> None:
        """Enter what one call of the backend took; `steps` are those of its whole batch, where it held others too."""
        self.tokens += tokens
        self.depth += depth
        if self.part is not None:
            self.part.settle(tokens)
        if depth:
            pace = seconds / max(depth, steps or 0)
            if self._slowest is None:  # the first call allocates: it counts only until there are others
                self._slowest = pace
                return
            # Decays, so that one slow call (a swap) does not stop the search for good.
            self._slowest = max(pace, 0.8 * self._slowest if self._paces else 0.0)
            self._paces.append(pace)

    @property
    def _cautious_depth(self) -> int | None:
        """Serial steps that are sure to be allowed: at the slowest recent pace, and one while there is none."""
        left = self.seconds_left
        if left is None:
            return self._steps(None)
        if not self._paces:  # of the first call alone nothing is sure
            return self._steps(max(left / self._slowest if self._slowest else 0.0, float(left > 0)))
        return self._steps(left / self._slowest if self._slowest else float(left > 0))

    def _steps(self, in_time: float | None) -> int | None:
        """The tighter of the steps that depth allows and those that time does."""
        left = None if self.budget.max_depth is None else self.budget.max_depth - self.depth
        if in_time is None:
            return left
        steps = max(0, int(min(in_time, _PLENTY)))
        return steps if left is None else min(left, steps)

    def _shared(self, wanted: Sequence[int], depth: int | None) -> list[int]:
        steps = [count if depth is None else min(count, depth) for count in wanted]
        left = self.tokens_left
        return steps if left is None else _fill(steps, left)

    def _cost_of(self, tokens: int) -> float:
        return self.prompt_tokens * self.budget.price_per_prompt_token + tokens * (self.budget.price_per_token or 0.0)


def _fill(wanted: Sequence[int], total: int) -> list[int]:
    """Split `total` evenly, none above what it wants."""
    given = [0] * len(wanted)
    open_places = [i for i, count in enumerate(wanted) if count > 0]
    while open_places and total >= len(open_places):
        each = total // len(open_places)
        for i in open_places:
            portion = min(wanted[i] - given[i], each)
            given[i] += portion
            total -= portion
        open_places = [i for i in open_places if given[i] < wanted[i]]
    for i in open_places[:total]:
        given[i] += 1
    return given
