"""Ladder: a model that is sure of some answers, and stronger ones for the rest. The front door to escalation."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import replace
from typing import Any

from zip_introspect.budget import Budget
from zip_introspect.errors import ConfigError, EscalationError, PromptError, ZipIntrospectError
from zip_introspect.escalation.drivers import Heard, aask, aask_many, ask, ask_many, limits, take_in, watching
from zip_introspect.escalation.plan import Call, Climb, Outcome
from zip_introspect.escalation.policy import EscalationPolicy, Reply, Rung
from zip_introspect.events import Event, HandedOn, SearchFinished
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.prompts import Prompt, check_batch, check_prompt
from zip_introspect.result import GenerationResult, Outlook


class Ladder:
    """Answers with the first model that is sure enough, under one budget for all of them.

    It has the verbs of `IntrospectiveLLM`, and their results; `result.escalation` says who was asked and why. A model
    that fails or takes too long is passed over. Models are not closed with the ladder.

    Args:
        first: answers what it is sure of; a `Rung` around it may name it.
        stronger: models to hand on to, weakest first: each a `Rung`, or what `Rung(model=...)` takes.
        policy: when to hand on; or its fields as `criteria`, as in `Ladder(small, big, min_confidence=0.7)`.

    Raises:
        ConfigError: a rung that cannot be asked, or utilities to weigh without a stronger model, or without a reward or
            a cost of one.
        CalibrationError: the policy wants a level of error, and a model has no calibration for it.
    """

    def __init__(
        self,
        first: IntrospectiveLLM | Rung,
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
        if not self.rungs[0].introspective:
            raise ConfigError(
                f"the first model is {first!r}; expected an IntrospectiveLLM, which knows how sure it is. In "
                f"LangChain, use ChatIntrospective(...).with_escalation(...)"
            )
        if policy.expected_utility:
            _check_utilities(self.rungs[1:])
        self.thresholds = tuple(
            policy.threshold(rung.model.calibration) if rung.introspective else policy.min_confidence
            for rung in self.rungs
        )

    @property
    def first(self) -> IntrospectiveLLM:
        """The model that is asked first."""
        model: IntrospectiveLLM = self.rungs[0].model
        return model

    def climb(self, prompt: Prompt, budget: Budget | int | None = None) -> Climb:
        """The way of one prompt up this ladder, for drivers of their own.

        Raises:
            PromptError, BudgetError: as `generate`.
        """
        check_prompt(prompt)
        return Climb(self.rungs, self.policy, self.thresholds, prompt, Budget.of(budget))

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
        climb = self.climb(prompt, budget)
        while call := climb.next():
            with watching(climb, call) as watch:
                watch.reply = ask(call, prompt, settings)
        return self._result(climb.outcome())

    async def agenerate(
        self, prompt: Prompt, *, budget: Budget | int | None = None, **settings: Any
    ) -> GenerationResult:
        """`generate` beside the event loop. Cancelling it stops the model that is being asked."""
        climb = self.climb(prompt, budget)
        while call := climb.next():
            with watching(climb, call) as watch:
                watch.reply = await aask(call, prompt, settings)
        return self._result(climb.outcome())

    def stream(
        self, prompt: Prompt, *, budget: Budget | int | None = None, **settings: Any
    ) -> Generator[Event, None, None]:
        """Answer a prompt and report on the way: the events of each model, `HandedOn` between them, and one
        `SearchFinished` at the end. Closing it stops the model that is being asked.

        Raises:
            ZipIntrospectError: as `generate`.
        """
        return self._events(self.climb(prompt, budget), prompt, settings)

    async def astream(
        self, prompt: Prompt, *, budget: Budget | int | None = None, **settings: Any
    ) -> AsyncIterator[Event]:
        """`stream` beside the event loop."""
        climb = self.climb(prompt, budget)
        while call := climb.next():
            if call.reason:
                yield HandedOn(0, call.rung.name, call.reason)
            with watching(climb, call) as watch:
                if not call.rung.introspective:
                    watch.reply = await aask(call, prompt, settings)
                    continue
                events = call.rung.model.astream(prompt, **limits(call, settings))
                async with contextlib.aclosing(events):
                    async for event in events:
                        if isinstance(event, SearchFinished):
                            watch.reply = Reply.of(event.result)
                        else:
                            yield event
        yield SearchFinished(0, self._result(climb.outcome()))

    def batch(
        self,
        prompts: Sequence[Prompt],
        *,
        budget: Budget | int | None = None,
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[Any]:
        """Answer many prompts: each model is asked about all that reach it at once, in the order of the ladder.

        Models with a `batch` of their own are asked with it, unless they have a timeout; functions one after another.

        Args:
            budget: for each prompt.
            return_exceptions: put the error of a prompt in its place instead of raising the first one.

        Raises:
            ZipIntrospectError: as `generate`.
        """
        climbs, outcomes = self._climbs(prompts, budget, return_exceptions)
        while calls := _due(climbs):
            for group in _groups(calls):
                heard = ask_many([calls[i] for i in group], [prompts[i] for i in group], settings)
                _absorb(group, climbs, calls, heard, outcomes if return_exceptions else None)
        return self._outcomes(climbs, outcomes, return_exceptions)

    async def abatch(
        self,
        prompts: Sequence[Prompt],
        *,
        budget: Budget | int | None = None,
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[Any]:
        """`batch` beside the event loop; functions run beside each other too."""
        climbs, outcomes = self._climbs(prompts, budget, return_exceptions)
        while calls := _due(climbs):
            for group in _groups(calls):
                heard = await aask_many([calls[i] for i in group], [prompts[i] for i in group], settings)
                _absorb(group, climbs, calls, heard, outcomes if return_exceptions else None)
        return self._outcomes(climbs, outcomes, return_exceptions)

    def _events(self, climb: Climb, prompt: Prompt, settings: dict[str, Any]) -> Generator[Event, None, None]:
        while call := climb.next():
            if call.reason:
                yield HandedOn(0, call.rung.name, call.reason)
            with watching(climb, call) as watch:
                if not call.rung.introspective:
                    watch.reply = ask(call, prompt, settings)
                    continue
                with contextlib.closing(call.rung.model.stream(prompt, **limits(call, settings))) as events:
                    for event in events:
                        if isinstance(event, SearchFinished):
                            watch.reply = Reply.of(event.result)
                        else:
                            yield event
        yield SearchFinished(0, self._result(climb.outcome()))

    def _climbs(
        self, prompts: Sequence[Prompt], budget: Budget | int | None, return_exceptions: bool
    ) -> tuple[dict[int, Climb], dict[int, ZipIntrospectError]]:
        """The climbs of prompts that can be asked, and the errors of the others, by place."""
        check_batch(prompts)
        climbs: dict[int, Climb] = {}
        errors: dict[int, ZipIntrospectError] = {}
        for place, prompt in enumerate(prompts):
            try:
                climbs[place] = self.climb(prompt, budget)
            except (PromptError, ConfigError) as error:
                if not return_exceptions:
                    raise type(error)(f"prompt {place}: {error}") from None
                errors[place] = error
        return climbs, errors

    def _outcomes(
        self, climbs: dict[int, Climb], errors: dict[int, ZipIntrospectError], return_exceptions: bool
    ) -> list[Any]:
        outcomes: dict[int, GenerationResult | ZipIntrospectError] = dict(errors)
        for place, climb in climbs.items():
            try:
                outcomes[place] = self._result(climb.outcome())
            except EscalationError as error:
                if not return_exceptions:
                    raise
                outcomes[place] = error
        return [outcomes[place] for place in sorted(outcomes)]

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
            result = _spoken(reply or Reply(""), outcome, known[0] if known else None, self.first)
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


def _spoken(
    reply: Reply, outcome: Outcome, known: GenerationResult | None, first: IntrospectiveLLM
) -> GenerationResult:
    """A result of a text that no sample of an `IntrospectiveLLM` stands for."""
    escalation = outcome.escalation
    lowest = float(first.grid.reward_values[0])
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
        expected=known.expected if known else Outlook(lowest, 0.0),
        strategy=known.strategy if known else first.config.strategy,
        selection=known.selection if known else str(first.config.selection or ""),
        seed=known.seed if known else first.config.seed or 0,  # no search ran
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


def _absorb(
    group: list[int],
    climbs: dict[int, Climb],
    calls: dict[int, Call],
    heard: Sequence[Heard],
    errors: dict[int, ZipIntrospectError] | None,
) -> None:
    """Tell each prompt's climb what came of its call; bad input is the prompt's own error, where errors are kept."""
    for place, (outcome, seconds) in zip(group, heard, strict=True):
        try:
            take_in(climbs[place], calls[place], outcome, seconds)
        except ConfigError as error:
            if errors is None:
                raise
            errors[place] = error
            del climbs[place]


def _due(climbs: dict[int, Climb]) -> dict[int, Call]:
    return {place: call for place, climb in climbs.items() if (call := climb.next())}


def _groups(calls: dict[int, Call]) -> list[list[int]]:
    """The places of prompts, by the rung that is asked about them."""
    rungs = sorted({call.place for call in calls.values()})
    return [[place for place, call in calls.items() if call.place == rung] for rung in rungs]
