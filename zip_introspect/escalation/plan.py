"""One question's way up a ladder: whom to ask next, under which budget, and whose answer to take.

A climb asks nobody itself. Whoever drives it (threads, tasks, LangChain) asks as `next` says and tells it what came of
it, so that all of them decide alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zip_introspect.budget import Budget
from zip_introspect.errors import BudgetError, NonFiniteLogitsError
from zip_introspect.escalation.policy import NOTHING_USED, EscalationPolicy, Reply, Rung
from zip_introspect.prompts import Prompt
from zip_introspect.result import Attempt, AttemptOutcome, EscalationResult, Usage
from zip_introspect.search.request import HandOn


@dataclass(frozen=True, slots=True)
class Call:
    """A model to ask, and the limits it is asked under."""

    place: int
    """Of the rung in the ladder, from 0."""
    rung: Rung
    reason: str
    """Why it is asked; "" for the first, which always is."""
    budget: Budget
    """What is left, at the rung's prices."""
    timeout: float | None
    """Seconds, for a model that does not hold budgets itself."""
    hand_on: HandOn | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a ladder made of a question."""

    reply: Reply | None
    """The reply that is taken; None where there is none, or where the ladder abstains."""
    place: int | None
    """Whose it is."""
    confidence: float | None
    """Of the best reply: as its model reports it, or the reward expected of that model."""
    usage: Usage
    """Of all attempts together."""
    escalation: EscalationResult | None
    """None where the first model was asked alone, and was sure enough."""
    trouble: str | None
    """Why no answer is good enough: a warning, or with `raises` an error's message."""
    raises: bool
    out_of_budget: bool
    """Whether a model was not asked for want of budget."""


class Climb:
    """Whom to ask about one question, given what came of asking so far.

    Args:
        thresholds: of each rung, the confidence from which its answers are taken; None takes all.

    Raises:
        BudgetError: a limit that one of the rungs could not be held to.
        ConfigError: an `expected_reward` that is no finite number.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        policy: EscalationPolicy,
        thresholds: Sequence[float | None],
        prompt: Prompt,
        budget: Budget,
    ) -> None:
        for rung in rungs:
            _check_bounds(rung, budget)
        self._rungs, self._policy, self._thresholds, self._budget = rungs, policy, thresholds, budget
        self._rewards = [rung.reward(prompt) for rung in rungs]
        self._untried = list(range(len(rungs)))
        self._attempts: list[Attempt] = []
        self._replies: dict[int, Reply] = {}
        self._accepted: int | None = None
        self._doubt = ""
        self._saved: float | None = None
        self._samples = 0
        self._asked_again = False

    def next(self) -> Call | None:
        """The next model to ask; None where the question is settled, or nobody is left.

        Raises:
            BudgetError: the first model cannot be held to its limits.
        """
        while self._untried and self._accepted is None:
            place = self._preferred()
            self._untried.remove(place)
            refusal = self._refusal(place)
            if refusal is None:
                return self._call(place, self._doubt)
            self._record(place, "skipped", refusal, NOTHING_USED)
        return self._first_after_all()

    def replied(self, call: Call, reply: Reply, seconds: float) -> None:
        """Take in what a model said, and the seconds it took."""
        usage = replace(reply.usage, seconds=reply.usage.seconds or seconds, cost=call.rung.money(reply))
        if not (usage.generated_tokens or call.rung.introspective) and self._budget.max_tokens is not None:
            usage = replace(usage, generated_tokens=call.rung.max_tokens or 0)  # it does not say, so they may be spent
        self._samples += reply.samples
        self._replies[call.place] = reply
        doubt = self._doubt_about(call.place, reply)
        outcome: AttemptOutcome = "accepted" if doubt is None else "handed_on" if reply.handed_on else "doubtful"
        if doubt is None:
            self._accepted = call.place
        else:
            self._doubt = doubt
        if call.place == 0:
            self._saved = reply.tokens_saved if reply.handed_on else None
        self._record(call.place, outcome, doubt or "its answer is taken", usage, reply)

    def failed(self, call: Call, error: Exception, seconds: float) -> None:
        """Take in that a model raised an error. What it may have used up counts as used."""
        if isinstance(error, BudgetError):  # what is left does not carry a single token
            self._record(call.place, "skipped", f"the budget has too little left: {error}", NOTHING_USED)
            return
        partial = error.partial[0] if isinstance(error, NonFiniteLogitsError) and error.partial else None
        if partial is None:
            usage = replace(NOTHING_USED, seconds=seconds, **self._at_most(call))
        else:
            usage = partial.usage
            self._samples += len(partial.samples)
            self._replies.setdefault(call.place, Reply.of(partial))
        late = isinstance(error, TimeoutError) and call.timeout is not None and seconds >= 0.9 * call.timeout
        reason = f"it took longer than {call.timeout:g} seconds" if late else _said(error)
        self._record(call.place, "timeout" if late else "failed", reason, usage)
        self._doubt = f"{call.rung.name} {'timed out' if late else 'failed'}"

    def _at_most(self, call: Call) -> dict[str, Any]:
        """What a call that failed may have used of the limits that there are."""
        if not call.rung.introspective:
            return {"generated_tokens": call.rung.max_tokens or 0, "cost": call.rung.max_cost}
        left = call.budget
        return {"generated_tokens": left.max_tokens or 0, "depth": left.max_depth or 0, "cost": left.max_cost}

    def outcome(self) -> Outcome:
        """What to give, once `next` is None."""
        place = self._accepted
        if place is None:
            place = max(self._replies, key=self._rank, default=None)
        trouble = None if self._accepted is not None else self._trouble(place)
        abstains = trouble is not None and self._policy.otherwise == "abstain"
        reply = None if place is None or abstains else self._replies[place]
        usage = self._usage
        alone = self._accepted == 0 and len(self._attempts) == 1
        return Outcome(
            reply=reply,
            place=None if reply is None else place,
            confidence=None if place is None else self._confidence(place),
            usage=replace(usage, chosen_tokens=reply.usage.chosen_tokens if reply else 0),
            escalation=None if alone else self._escalation(None if reply is None else place),
            trouble=trouble,
            raises=trouble is not None and (self._policy.otherwise == "raise" or not self._replies),
            out_of_budget=self._accepted is None and any(item.outcome == "skipped" for item in self._attempts),
        )

    def _preferred(self) -> int:
        """The next rung, or where utilities are weighed, the untried one that is worth most."""
        if not self._attempts or not self._policy.expected_utility:
            return self._untried[0]
        return max(self._untried, key=lambda place: (self._worth(place), -place))

    def _worth(self, place: int) -> float:
        return self._rewards[place] - self._rungs[place].cost

    def _doubt_about(self, place: int, reply: Reply) -> str | None:
        """Why a reply is not taken, or None."""
        if reply.handed_on:
            return reply.reason or "it handed the question on"
        if not reply.complete:
            return "its answer is incomplete"
        if reply.confidence is None:
            return None
        threshold = self._thresholds[place]
        if threshold is not None and reply.confidence < threshold:
            return f"its confidence is {reply.confidence:.3f}, below {threshold:g}"
        worth = self._best_worth()
        if worth is not None and worth > reply.confidence:
            return f"handing on is worth {worth:.3f}, more than its confidence of {reply.confidence:.3f}"
        return None

    def _best_worth(self) -> float | None:
        """What handing on is worth, over the models that may still be asked."""
        if not self._policy.expected_utility:
            return None
        return max((self._worth(place) for place in self._untried if self._refusal(place) is None), default=None)

    def _call(self, place: int, reason: str, alone: bool = False) -> Call:
        rung, left = self._rungs[place], self._left(self._rungs[place])
        timeout = min((item for item in (rung.timeout, left.max_seconds) if item is not None), default=None)
        if rung.introspective and timeout is not None:
            left = left.replace(max_seconds=timeout)
        return Call(place, rung, reason, left, timeout, None if alone else self._hand_on())

    def _hand_on(self) -> HandOn | None:
        """The choice that a search gets: what the rungs above are worth, and when to leave at the prompt."""
        if not self._untried and self._policy.otherwise == "return_best":
            return None
        return HandOn(worth=self._best_worth(), below=self._policy.min_prompt_confidence)

    def _first_after_all(self) -> Call | None:
        """The first model once more, where it stopped for a stronger one and none of these answered."""
        first = self._replies.get(0)
        if self._asked_again or first is None or not first.handed_on or self._policy.otherwise != "return_best":
            return None
        if any(reply.complete for reply in self._replies.values()) or self._refusal(0) is not None:
            return None
        self._asked_again = True
        return self._call(0, "no stronger model answered", alone=True)

    def _refusal(self, place: int) -> str | None:
        """Why the budget does not allow a rung to be asked, or None."""
        rung = self._rungs[place]
        spent = self._usage
        needs = (
            ("tokens", self._budget.max_tokens, spent.generated_tokens, 1 if rung.introspective else rung.max_tokens),
            ("money", self._budget.max_cost, spent.cost or 0.0, 0.0 if rung.introspective else rung.max_cost),
            ("seconds", self._budget.max_seconds, spent.seconds, 0.0),
            ("serial steps", self._budget.max_depth if rung.introspective else None, spent.depth, 1),
            ("samples", self._budget.max_samples if rung.introspective else None, self._samples, 1),
        )
        for name, limit, used, need in needs:
            if limit is not None and (limit - used < (need or 0) or limit - used <= 0 < used):
                return f"the budget of {limit:g} {name} has {max(0, limit - used):g} left"
        return None

    def _left(self, rung: Rung) -> Budget:
        """The budget less what is spent, at a rung's prices."""
        budget, spent = self._budget, self._usage
        price = budget.price_per_token if rung.price_per_token is None else rung.price_per_token
        prompt_price = budget.price_per_prompt_token if rung.price_per_token is None else rung.price_per_prompt_token
        left = Budget(
            max_tokens=None if budget.max_tokens is None else budget.max_tokens - spent.generated_tokens,
            max_seconds=None if budget.max_seconds is None else budget.max_seconds - spent.seconds,
            max_cost=None if budget.max_cost is None else budget.max_cost - (spent.cost or 0.0),
            price_per_token=price,
            price_per_prompt_token=prompt_price,
        )
        if not rung.introspective:
            return left
        left = left.replace(
            max_samples=None if budget.max_samples is None else budget.max_samples - self._samples,
            max_depth=None if budget.max_depth is None else budget.max_depth - spent.depth,
        )
        return left.within(Budget(max_tokens=rung.max_tokens, max_cost=rung.max_cost, price_per_token=price))

    @property
    def _usage(self) -> Usage:
        used = [attempt.usage for attempt in self._attempts]
        costs = [item.cost for item in used if item.cost is not None]
        return Usage(
            prompt_tokens=sum(item.prompt_tokens for item in used),
            generated_tokens=sum(item.generated_tokens for item in used),
            chosen_tokens=0,
            depth=sum(item.depth for item in used),
            seconds=sum(item.seconds for item in used),
            cost=sum(costs) if costs else None,
        )

    def _record(
        self, place: int, outcome: AttemptOutcome, reason: str, usage: Usage, reply: Reply | None = None
    ) -> None:
        attempt = Attempt(self._rungs[place].name, outcome, reason, usage)
        if reply is not None:
            attempt = replace(
                attempt, text=reply.text, answer=reply.answer, confidence=reply.confidence, result=reply.result
            )
        self._attempts.append(attempt)

    def _confidence(self, place: int) -> float:
        said = self._replies[place].confidence
        return self._rewards[place] if said is None else said

    def _rank(self, place: int) -> tuple[bool, float, int]:
        """Complete replies first, then the surest, then the strongest model's."""
        return self._replies[place].complete, self._confidence(place), place

    def _trouble(self, place: int | None) -> str:
        if place is None:
            failures = "; ".join(f"{item.target}: {item.reason}" for item in self._attempts)
            return f"no model answered. {failures}"
        best = f"the best answer is {self._rungs[place].name}'s, with a confidence of {self._confidence(place):.3f}"
        reasons = "; ".join(f"{item.target} {item.outcome}: {item.reason}" for item in self._attempts)
        return f"no model was sure enough; {best} ({reasons})"

    def _escalation(self, place: int | None) -> EscalationResult:
        target = None if place is None else self._rungs[place].name
        return EscalationResult(target, self._attempts[0].reason, tuple(self._attempts), self._saved)


def _check_bounds(rung: Rung, budget: Budget) -> None:
    """Refuse a ladder that could not be held to its budget, before any model is asked."""
    if rung.introspective:
        if rung.max_cost is not None and rung.price_per_token is None and budget.price_per_token is None:
            raise BudgetError(f"max_cost of {rung.name!r} needs price_per_token, the price of one generated token")
        return
    for limit, bound in (("max_tokens", rung.max_tokens), ("max_cost", rung.max_cost)):
        if getattr(budget, limit) is not None and bound is None:
            raise BudgetError(
                f"the budget has {limit}={getattr(budget, limit)}, and nothing says how much a call of {rung.name!r} "
                f"can take; give it as Rung(..., {limit}=...)"
            )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
