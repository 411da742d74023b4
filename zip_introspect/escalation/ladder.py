"""Ladder: a model that is sure of some answers, and stronger ones for the rest. The front door to escalation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from zip_introspect.budget import Budget
from zip_introspect.errors import BudgetError, ConfigError, EscalationError, PromptError, ZipIntrospectError
from zip_introspect.escalation import drivers
from zip_introspect.escalation.bounds import HeldByItsRungs
from zip_introspect.escalation.models import SIDE_BY_SIDE, Introspective, LocalModel, Model, adapted, check_first
from zip_introspect.escalation.plan import Call, EscalationPlan, Outcome
from zip_introspect.escalation.policy import EscalationPolicy
from zip_introspect.escalation.reply import Reply
from zip_introspect.escalation.rung import Rung
from zip_introspect.events import Event, SearchFinished
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.prompts import Prompt, check_batch, check_prompt
from zip_introspect.result import GenerationResult
from zip_introspect.threads import in_loop

Planned = tuple[Prompt, EscalationPlan | ZipIntrospectError]
"""A prompt of a batch, and its plan or what is wrong with it."""


class Ladder:
    """Answers with the first model that is sure enough, under one budget for all of them.

    It has the verbs of `IntrospectiveLLM`, and their results; `result.escalation` says who was asked and why. A model
    that fails or takes too long is passed over. Models are not closed with the ladder. A ladder may be a rung of
    another one, which weighs its answers and not its decisions.

    Args:
        first: answers what it is sure of: an `IntrospectiveLLM` or a ladder; a `Rung` around it may name it.
        stronger: models to hand on to, weakest first: each a `Rung`, or what `Rung(model=...)` takes.
        policy: when to hand on; or its fields as `criteria`, as in `Ladder(small, big, min_confidence=0.7)`.

    Raises:
        ConfigError: a rung that cannot be asked, or utilities to weigh without a stronger model, or without a reward or
            a cost of one.
        CalibrationError: the policy wants a level of error, and a model has no calibration for it.
    """

    calibration: Calibration | None = None
    """A ladder has none, so a level of error cannot be asked of it as a rung."""

    def __init__(
        self,
        first: IntrospectiveLLM | Ladder | Rung,
        *stronger: Any,
        policy: EscalationPolicy | None = None,
        **criteria: Any,
    ) -> None:
        if policy is not None and criteria:
            raise ConfigError(f"policy and {', '.join(criteria)} were given; expected one or the other")
        self.rungs = tuple(
            _numbered([model if isinstance(model, Rung) else Rung(model) for model in (first, *stronger)])
        )
        self.policy = policy = policy or EscalationPolicy(**criteria)
        if not self.rungs[0].adapter.knows_confidence:
            raise ConfigError(
                f"the first model is {first!r}; expected an IntrospectiveLLM, which knows how sure it is. In "
                f"LangChain, use ChatIntrospective(...).with_escalation(...)"
            )
        if policy.expected_utility:
            _check_utilities(self.rungs[1:])
        check_first(self.rungs[0].adapter, policy)
        self.thresholds = tuple(rung.adapter.threshold(policy) for rung in self.rungs)

    @property
    def first(self) -> Any:
        """The model that is asked first."""
        return self.rungs[0].model

    @property
    def lowest_reward(self) -> float:
        """The confidence that is reported where nobody answered: the first model's lowest reward."""
        return self.rungs[0].adapter.lowest_reward

    def plan(self, prompt: Prompt, budget: Budget | int | None = None) -> EscalationPlan:
        """The way of one prompt up this ladder, for drivers of their own.

        Raises:
            PromptError, BudgetError: as `generate`.
        """
        check_prompt(prompt)
        return EscalationPlan(self.rungs, self.policy, self.thresholds, prompt, Budget.of(budget))

    def generate(self, prompt: Prompt, *, budget: Budget | int | None = None, **settings: Any) -> GenerationResult:
        """Answer a prompt.

        Args:
            budget: for all models together.
            settings: further keyword arguments of `IntrospectiveLLM.generate`, for the first model; `chat` for all.

        Raises:
            PromptError, ConfigError, BudgetError: bad input, before any model runs.
            EscalationError: no model answered, or with `otherwise="raise"`, none was sure enough; `partial` holds the
                best answer.
        """
        _check_settings(settings)
        return self._result(drivers.drive(self.plan(prompt, budget).flow(), prompt, settings))

    async def agenerate(
        self, prompt: Prompt, *, budget: Budget | int | None = None, **settings: Any
    ) -> GenerationResult:
        """`generate`, awaited. Cancelling it stops the model that is being asked."""
        _check_settings(settings)
        return self._result(await drivers.adrive(self.plan(prompt, budget).flow(), prompt, settings))

    def stream(
        self, prompt: Prompt, *, budget: Budget | int | None = None, **settings: Any
    ) -> Generator[Event, None, None]:
        """Answer a prompt and report on the way: the events of each model, `HandedOn` between them, and one
        `SearchFinished` at the end. Closing it stops the model that is being asked.

        Raises:
            ZipIntrospectError: as `generate`.
        """
        _check_settings(settings)
        return self._events(drivers.stream(self.plan(prompt, budget).flow(), prompt, settings))

    async def astream(
        self, prompt: Prompt, *, budget: Budget | int | None = None, **settings: Any
    ) -> AsyncIterator[Event]:
        """`stream`, awaited."""
        _check_settings(settings)
        items = drivers.astream(self.plan(prompt, budget).flow(), prompt, settings)
        async with contextlib.aclosing(items):
            async for item in items:
                yield SearchFinished(0, self._result(item)) if isinstance(item, Outcome) else item

    def batch(
        self,
        prompts: Sequence[Prompt],
        *,
        budget: Budget | int | None = None,
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[Any]:
        """Answer many prompts beside each other: local models share their passes, Runnables are asked some at once,
        and functions about one prompt at a time, from a thread of the ladder's.

        Args:
            budget: for each prompt.
            return_exceptions: put the error of a prompt in its place instead of raising the first one.

        Raises:
            ZipIntrospectError: as `generate`.
        """
        plans = self._plans(prompts, budget, return_exceptions, settings)
        rooms = [rung.adapter.at_once for rung in self.rungs]
        return in_loop(lambda: self._side_by_side(plans, settings, rooms, return_exceptions))

    async def abatch(
        self,
        prompts: Sequence[Prompt],
        *,
        budget: Budget | int | None = None,
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[Any]:
        """`batch`, awaited; functions are asked about some prompts at once too."""
        plans = self._plans(prompts, budget, return_exceptions, settings)
        rooms = [rung.adapter.at_once and SIDE_BY_SIDE for rung in self.rungs]
        return await self._side_by_side(plans, settings, rooms, return_exceptions)

    def _plans(
        self, prompts: Sequence[Prompt], budget: Budget | int | None, return_exceptions: bool, settings: dict[str, Any]
    ) -> list[Planned]:
        """Each prompt with its plan, or with what is wrong with it."""
        check_batch(prompts)
        _check_settings(settings)
        planned: list[Planned] = []
        for place, prompt in enumerate(prompts):
            try:
                planned.append((prompt, self.plan(prompt, budget)))
            except (PromptError, ConfigError) as error:
                if not return_exceptions:
                    raise type(error)(f"prompt {place}: {error}") from None
                planned.append((prompt, error))
        return planned

    async def _side_by_side(
        self,
        planned: Sequence[Planned],
        settings: dict[str, Any],
        rooms: Sequence[int | None],
        return_exceptions: bool,
    ) -> list[Any]:
        """What becomes of each prompt; or the first error, once the others are done.

        Args:
            rooms: for each rung, how many calls of it run at once; None for any number.
        """
        import asyncio

        places = [asyncio.Semaphore(size or max(1, len(planned))) for size in rooms]

        async def ask(call: Call, prompt: Prompt, settings: Any) -> Reply:
            begun, allowed = time.perf_counter(), call.budget.max_seconds
            async with asyncio.timeout(allowed):  # waiting for its turn counts, where seconds do
                await places[call.place].acquire()
            try:
                if allowed is None:
                    call.begun = time.perf_counter()
                else:
                    left = max(allowed - (time.perf_counter() - begun), SOONEST)
                    call.budget = call.budget.replace(max_seconds=left)
                    call.timeout = left if call.timeout is None else min(call.timeout, left)
                return await call.model.aask(call, prompt, settings)
            finally:
                places[call.place].release()

        async def one(prompt: Prompt, plan: EscalationPlan | ZipIntrospectError) -> GenerationResult:
            if isinstance(plan, ZipIntrospectError):
                raise plan
            return self._result(await drivers.adrive(plan.flow(), prompt, settings, ask))

        outcomes = await asyncio.gather(*(one(*item) for item in planned), return_exceptions=True)
        for outcome in outcomes:
            kept = return_exceptions and isinstance(outcome, ZipIntrospectError)
            if isinstance(outcome, BaseException) and not kept:
                raise outcome
        return outcomes

    def _events(self, items: Generator[Any, None, None]) -> Generator[Event, None, None]:
        with contextlib.closing(items):
            for item in items:
                yield SearchFinished(0, self._result(item)) if isinstance(item, Outcome) else item

    def _result(self, outcome: Outcome) -> GenerationResult:
        """The result of a whole ladder: that of the model whose answer is taken, with the account of all of them.

        Raises:
            EscalationError: no answer, or none that is good enough where the policy raises.
        """
        known = [item.result for item in outcome.escalation.attempts if item.result] if outcome.escalation else []
        reply = outcome.reply
        if reply is not None and reply.result is not None:
            result = reply.result
        else:
            result = _spoken(reply or Reply(""), outcome, known[0] if known else None, self.lowest_reward)
        if reply is None and not outcome.raises:
            result = replace(result, finish_reason="abstained")
        elif outcome.out_of_budget:
            result = replace(result, finish_reason="budget")
        troubles = () if outcome.trouble is None else (outcome.trouble,)
        result = replace(
            result, usage=outcome.usage, escalation=outcome.escalation, warnings=(*result.warnings, *troubles)
        )
        if outcome.raises:
            raise EscalationError(outcome.trouble or "", result)
        return result


class NestedLadder(LocalModel):
    """A ladder within a ladder: it decides by its own policy, within what is left of the outer one's budget."""

    def __init__(self, ladder: Ladder, name: str) -> None:
        super().__init__(cast(Introspective, ladder), name, ladder.lowest_reward, expects=False)
        self.bounds = HeldByItsRungs(ladder.rungs)

    def limits(self, call: Call, settings: Mapping[str, Any]) -> dict[str, Any]:
        given = super().limits(call, settings)
        return {name: value for name, value in given.items() if name not in _OWN_CHOICE}


@adapted.register
def _(model: Ladder) -> Model:
    return NestedLadder(model, "ladder")


SOONEST = 1e-3
"""Seconds that a call has at least, of which its wait left none: it ends as one that is too late."""
_OWN_CHOICE = frozenset({"hand_on"})
"""What a ladder decides by its policy, and cannot be told by a caller."""


def _check_settings(settings: Mapping[str, Any]) -> None:
    check_not_shared(settings.get("total_budget"))
    for name in _OWN_CHOICE & settings.keys():
        raise ConfigError(f"{name} was given; a ladder decides by its policy. Give it to an IntrospectiveLLM.")


def check_not_shared(total: Any) -> None:
    """Refuse a budget for many questions, which not every model of a ladder could be held to.

    Raises:
        BudgetError: there is one.
    """
    if total is not None:
        raise BudgetError(
            f"total_budget is {total!r}, and a ladder takes none: give it the limits of each question as budget, or "
            f"ask an IntrospectiveLLM"
        )


def _spoken(reply: Reply, outcome: Outcome, known: GenerationResult | None, lowest: float) -> GenerationResult:
    """A result of a text that no sample of an `IntrospectiveLLM` stands for."""
    escalation = outcome.escalation
    who = escalation.target if escalation else None
    return GenerationResult(
        text=reply.text,
        answer=reply.answer,
        confidence=lowest if outcome.confidence is None else outcome.confidence,
        finish_reason="error" if not reply.text else "stop" if reply.complete else "length",
        usage=outcome.usage,
        decisions=(),
        samples=(),
        chosen=None,
        stop_reason="handed_on",
        stop_detail=f"{escalation.reason}; {f'{who} answered' if who else 'no answer is given'}" if escalation else "",
        expected=known.expected if known else None,
        strategy=known.strategy if known else "",
        selection=known.selection if known else "",
        seed=known.seed if known else 0,  # no search ran
        confidence_source=None,
    )


def _check_utilities(stronger: Sequence[Rung]) -> None:
    if not stronger:
        raise ConfigError("expected_utility=True, but there is no stronger model to hand on to; give the ladder one")
    for rung in stronger:
        if not rung.informed:
            raise ConfigError(
                f"expected_utility=True, but nothing is said of {rung.name!r}: always right and free, it would get "
                f"every question. Give Rung(..., expected_reward=..., cost=...)"
            )


def _numbered(rungs: list[Rung]) -> list[Rung]:
    """Rungs told apart by name, for what results say of them."""
    seen: dict[str, int] = {}
    told = []
    for rung in rungs:
        seen[rung.name] = number = seen.get(rung.name, 0) + 1
        told.append(rung if number == 1 else replace(rung, name=f"{rung.name} ({number})"))
    return told
