"""One question's way up a ladder: whom to ask next, under which budget, and whose answer to take.

The plan asks nobody itself: it is a generator of calls that is sent the replies. Whoever drives it (`drivers`) holds no
policy, so all front doors decide alike.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from zip_introspect.budget import Budget
from zip_introspect.errors import (
    BackendError,
    BudgetError,
    ConfigError,
    EscalationError,
    HeadError,
    NonFiniteLogitsError,
    PromptError,
)
from zip_introspect.escalation.bounds import check_guard
from zip_introspect.escalation.models import HandedOut, Model
from zip_introspect.escalation.policy import EscalationPolicy
from zip_introspect.escalation.reply import NOTHING_USED, Reply
from zip_introspect.escalation.rung import Rung
from zip_introspect.prompts import Prompt
from zip_introspect.result import Attempt, AttemptOutcome, EscalationResult, Usage
from zip_introspect.search.request import HandOn


@dataclass(slots=True)
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
    begun: float
    """By the plan's clock; a driver that has to wait first says when it was over."""

    @property
    def model(self) -> Model:
        """The rung's."""
        return self.rung.adapter


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a ladder made of a question."""

    reply: Reply | None
    """The reply that is taken; None where there is none, or where the ladder abstains."""
    place: int | None
    """Whose it is."""
    first: Reply | None
    """The first model's, if it has said anything."""
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


Flow = Generator[Call, Reply, Outcome]
"""Yields whom to ask, is sent the reply or thrown the error, and returns what is made of them."""


class EscalationPlan:
    """Whom to ask about one question, given what came of asking so far.

    Args:
        thresholds: of each rung, the confidence from which its answers are taken; None takes all.
        clock: seconds.

    Raises:
        BudgetError: a limit that one of the rungs could not be held to.
        HeadError: `max_expected_share`, where the first model has no head.
        ConfigError: an `expected_reward` that is no finite number.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        policy: EscalationPolicy,
        thresholds: Sequence[float | None],
        prompt: Prompt,
        budget: Budget,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        for rung in rungs:
            rung.adapter.bounds.check(rung, budget)
        check_guard(rungs[0], budget)
        self._rungs, self._policy, self._thresholds, self._budget = rungs, policy, thresholds, budget
        self._rewards = [rung.reward(prompt) for rung in rungs]
        self._clock = clock
        self._untried = list(range(len(rungs)))
        self._attempts: list[Attempt] = []
        self._replies: dict[int, Reply] = {}
        self._accepted: int | None = None
        self._doubt = ""
        self._saved: float | None = None
        self._samples = 0
        self._asked_again = False

    def flow(self) -> Flow:
        """Ask until the question is settled, or nobody is left. It can be run once.

        Raises:
            BudgetError: the first model cannot be held to its limits.
            ConfigError: it refused its settings: bad input, not a failure to pass over.
            Exception: what came after a part of the answer was handed out.
        """
        while (call := self._next()) is not None:
            try:
                reply = yield call
            except HandedOut as broken:
                raise broken.error from None
            except Exception as error:  # whatever a model of others raises, the ladder goes on
                if isinstance(error, ConfigError) and call.place == 0 and not call.reason:
                    raise
                self._failed(call, error, self._clock() - call.begun)
            else:
                self._replied(call, reply, self._clock() - call.begun)
        return self._outcome()

    def _next(self) -> Call | None:
        while self._untried and self._accepted is None:
            place = self._preferred()
            self._untried.remove(place)
            refusal = self._refusal(place)
            if refusal is None:
                return self._call(place, self._doubt)
            self._record(place, "skipped", refusal, NOTHING_USED)
        return self._first_after_all()

    def _replied(self, call: Call, reply: Reply, seconds: float) -> None:
        usage = replace(reply.usage, seconds=reply.usage.seconds or seconds, cost=call.rung.money(reply))
        usage = call.model.bounds.told(call.rung, usage, self._budget)
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

    def _failed(self, call: Call, error: Exception, seconds: float) -> None:
        """Go on without a model that raised an error. What it may have used up counts as used."""
        if isinstance(error, BudgetError):  # what is left does not carry a single token
            self._record(call.place, "skipped", f"the budget has too little left: {error}", NOTHING_USED)
            return
        partial = _partial(error)
        if partial is not None and isinstance(error, (NonFiniteLogitsError, EscalationError)):
            usage = partial.usage
        elif isinstance(error, (PromptError, ConfigError, HeadError)):  # refused before it began
            usage = replace(NOTHING_USED, seconds=seconds)
        else:  # of what a backend did in the call that failed, nothing is known
            usage = replace(NOTHING_USED, seconds=seconds, **call.model.bounds.at_most(call.rung, call.budget))
        if partial is not None:
            self._samples += partial.samples
            if partial.text.strip():
                self._replies.setdefault(call.place, partial)
        late = isinstance(error, TimeoutError) and call.timeout is not None and seconds >= 0.9 * call.timeout
        reason = f"it took longer than {call.timeout:g} seconds" if late else _said(error)
        self._record(call.place, "timeout" if late else "failed", reason, usage)
        self._doubt = f"{call.rung.name} {'timed out' if late else 'failed'}"

    def _outcome(self) -> Outcome:
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
            first=self._replies.get(0),
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
        granted = rung.adapter.bounds.granted(rung, left, timeout)
        choice = None if alone else self._hand_on(rung.adapter.expects)
        return Call(place, rung, reason, granted, timeout, choice, self._clock())

    def _hand_on(self, expects: bool) -> HandOn | None:
        """The choice that a search gets: what the rungs above are worth, and when to leave at the prompt.

        Args:
            expects: whether the model knows anything at the prompt.
        """
        if not self._untried and self._policy.otherwise == "return_best":
            return None
        return HandOn(worth=self._best_worth(), below=self._policy.min_prompt_confidence if expects else None)

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
        rung, spent = self._rungs[place], self._spent
        for limit, need in rung.adapter.bounds.needs(rung).items():
            allowed, used = getattr(self._budget, limit), spent[limit]
            left = None if allowed is None else allowed - used
            if left is not None and (left < need * (1 - _ROUNDING) or left <= 0 < used):
                return f"the budget of {allowed:g} {_UNITS[limit]} has {max(0, allowed - used):g} left"
        return None

    def _left(self, rung: Rung) -> Budget:
        """The budget less what is spent, of the limits that bind a rung and at its prices."""
        left: dict[str, float | None] = dict.fromkeys(_UNITS)
        for limit in rung.adapter.bounds.needs(rung):
            allowed = getattr(self._budget, limit)
            left[limit] = None if allowed is None else allowed - self._spent[limit]
        if rung.price_per_token is None:
            return self._budget.replace(**left)
        prices = {"price_per_token": rung.price_per_token, "price_per_prompt_token": rung.price_per_prompt_token}
        return self._budget.replace(**left, **prices)

    @property
    def _spent(self) -> dict[str, float]:
        """Of each limit of a budget."""
        usage = self._usage
        return {
            "max_tokens": usage.generated_tokens,
            "max_cost": usage.cost or 0.0,
            "max_seconds": usage.seconds,
            "max_depth": usage.depth,
            "max_samples": self._samples,
        }

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
            cached_tokens=sum(item.cached_tokens for item in used),
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


_ROUNDING = 1e-9
"""Of sums of money, which are no whole numbers."""
_UNITS = {
    "max_tokens": "tokens",
    "max_cost": "money",
    "max_seconds": "seconds",
    "max_depth": "serial steps",
    "max_samples": "samples",
}
"""What each limit of a budget counts."""


def _partial(error: Exception) -> Reply | None:
    """What a model had when it failed."""
    partial = error.partial if isinstance(error, EscalationError) else None
    if isinstance(error, BackendError) and error.partial:
        partial = error.partial[0]
    with contextlib.suppress(EscalationError):  # it holds no text
        return None if partial is None else Reply.of(partial)
    return None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
