"""What a ladder is made of: the models to hand on to, when to hand on, and what each of them replies.

A model of a ladder is an `IntrospectiveLLM`, anything with `invoke` (every LangChain Runnable), or a function of the
prompt. Nothing of LangChain is imported: its messages are known by their attributes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from zip_introspect.answers.extraction import AnswerExtractor, canonical, default_extractor, extract
from zip_introspect.config import Settings
from zip_introspect.errors import CalibrationError, ConfigError, EscalationError
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.prompts import Prompt
from zip_introspect.result import GenerationResult, Record, Usage


class EscalationPolicy(Settings):
    """When a question is handed on, and what is given when no model is sure enough. Criteria add up: any one suffices.

    Raises:
        ConfigError: no criterion at all, or two that contradict each other.
    """

    min_confidence: float | None = Field(
        None, ge=0.0, le=1.0, description="Hand on answers whose confidence is below this."
    )
    max_error: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Hand on so that at most this share of the answers that are not is wrong: the threshold of the "
        "model's calibration for this level.",
    )
    expected_utility: bool = Field(
        False,
        description="Weigh handing on at every decision: the reward expected of a stronger model less its cost.",
    )
    min_prompt_confidence: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Hand on before the first token where less than this is expected at the prompt.",
    )
    otherwise: Literal["return_best", "abstain", "raise"] = Field(
        "return_best", description="Where no model is sure enough: the best answer with a warning, none, or an error."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        criteria = (self.min_confidence, self.max_error, self.min_prompt_confidence, self.expected_utility or None)
        if not any(item is not None for item in criteria):
            raise ValueError(
                "nothing says when to hand on; give min_confidence, max_error, min_prompt_confidence or "
                "expected_utility=True"
            )
        if self.min_confidence is not None and self.max_error is not None:
            raise ValueError("min_confidence and max_error are both thresholds on confidence; give one of them")
        return self

    def threshold(self, calibration: Calibration | None) -> float | None:
        """The confidence from which the first model's answers are taken; None where confidence does not decide.

        Raises:
            CalibrationError: `max_error` without a calibration, or at a level that no threshold holds.
        """
        if self.max_error is None:
            return self.min_confidence
        if calibration is None:
            raise CalibrationError(
                f"max_error={self.max_error:g} needs a calibration of the model, and it has none. Make one with: "
                f"zip-introspect calibrate QUESTIONS --model MODEL"
            )
        found = calibration.threshold(self.max_error)
        if found.confidence is None:
            raise CalibrationError(
                f"no threshold holds the error at {self.max_error:g} with a probability of {1 - found.delta:g}. Allow "
                f"a higher level, calibrate with more results, or give min_confidence"
            )
        return found.confidence


@dataclass(frozen=True, slots=True)
class Rung:
    """A model of a ladder, and what is known of it beforehand.

    Raises:
        ConfigError: a model that cannot be asked, or a number out of its range.
    """

    model: Any
    """An `IntrospectiveLLM`, anything with `invoke`, or a function of the prompt, `async` or not. Functions return
    text, a number, a message, or a `Reply`."""
    name: str = ""
    """In results and messages; where not given, the model's own name."""
    expected_reward: float | Callable[[Prompt], float] = 1.0
    """How likely it is to be right, the same for all prompts or a function of the prompt. What results report where the
    model itself reports no confidence: 1 unless you say otherwise."""
    cost: float = 0.0
    """What asking it costs, in units of the reward: at 0.2, it is asked only for answers worth 0.2 more."""
    timeout: float | None = None
    """Seconds after which the ladder goes on without it. A thread that still works on it is left behind; but an event
    loop that is closed waits for what runs in its own threads, such as Runnables that are not `async` themselves."""
    max_tokens: int | None = None
    """The most tokens it generates in a call. A budget of tokens needs it; an `IntrospectiveLLM` is held to it."""
    max_cost: float | None = None
    """The most money a call costs. A budget of money needs it; an `IntrospectiveLLM` is held to it."""
    price_per_token: float | None = None
    """Money for a generated token; of an `IntrospectiveLLM`, the budget's price where this is None."""
    price_per_prompt_token: float = 0.0
    extractor: AnswerExtractor = default_extractor
    """Finds the short answer in its text; an `IntrospectiveLLM` uses its own."""

    def __post_init__(self) -> None:
        if not (self.introspective or hasattr(self.model, "invoke") or callable(self.model)):
            raise ConfigError(
                f"a rung's model is {self.model!r}; expected an IntrospectiveLLM, a Runnable (anything with invoke) "
                f"or a function of the prompt"
            )
        if not self.name:
            object.__setattr__(self, "name", _name_of(self.model))
        for name in ("timeout", "max_tokens", "max_cost", "price_per_token"):
            value = getattr(self, name)
            if value is not None and _finite(value, self.name, name) <= 0:
                raise ConfigError(f"{name} of {self.name!r} is {value!r}; expected more than 0")
        if self.max_tokens is not None and not isinstance(self.max_tokens, int):
            raise ConfigError(f"max_tokens of {self.name!r} is {self.max_tokens!r}; expected a whole number")
        if _finite(self.price_per_prompt_token, self.name, "price_per_prompt_token") < 0:
            raise ConfigError(f"price_per_prompt_token of {self.name!r} is {self.price_per_prompt_token!r}; below 0")
        _finite(self.cost, self.name, "cost")
        if not callable(self.expected_reward):
            _finite(self.expected_reward, self.name)

    @property
    def introspective(self) -> bool:
        """Whether it is an `IntrospectiveLLM`, which holds a budget by itself and takes part in the utility."""
        return isinstance(self.model, IntrospectiveLLM)

    @property
    def informed(self) -> bool:
        """Whether anything is said of its reward or cost, as expected utilities need."""
        return callable(self.expected_reward) or self.expected_reward != 1.0 or self.cost != 0.0

    def reward(self, prompt: Prompt) -> float:
        """The reward expected of it for a prompt.

        Raises:
            ConfigError: `expected_reward` raised an error, or gave no finite number.
        """
        if not callable(self.expected_reward):
            return self.expected_reward
        try:
            value = self.expected_reward(prompt)
        except Exception as error:  # whatever a function of others raises
            raise ConfigError(
                f"expected_reward of {self.name!r} raised {type(error).__name__}: {error}; expected a number for every "
                f"prompt"
            ) from error
        return _finite(value, self.name)

    def money(self, reply: Reply) -> float | None:
        """What a reply cost: as it says itself, by its tokens and the prices, or the most it may have cost."""
        if reply.usage.cost is not None:
            return reply.usage.cost
        if self.price_per_token is None:
            return self.max_cost
        if not reply.usage.generated_tokens:  # it does not say how many
            return self.max_cost or 0.0
        spent = reply.usage.generated_tokens * self.price_per_token
        return spent + reply.usage.prompt_tokens * self.price_per_prompt_token


NOTHING_USED = Usage(prompt_tokens=0, generated_tokens=0, chosen_tokens=0, depth=0, seconds=0.0)


@dataclass(frozen=True, slots=True)
class Reply(Record):
    """What a model of a ladder said. Functions that know more than a text return one of these."""

    text: str
    answer: str | None = None
    """The short answer; None leaves it to the rung's extractor."""
    confidence: float | None = None
    """How likely it is to be right; None where nobody knows."""
    usage: Usage = field(default=NOTHING_USED)
    complete: bool = True
    """False for a text that was cut."""
    handed_on: bool = False
    """Whether it stopped before its end, since a stronger model is worth more."""
    tokens_saved: float | None = None
    samples: int = 0
    """How many it started."""
    reason: str = ""
    """Why it stopped."""
    result: GenerationResult | None = None

    @classmethod
    def of(cls, output: Any, extractor: AnswerExtractor = default_extractor) -> Reply:
        """From whatever a model returned: a reply, a result, a message, text or a number.

        Raises:
            EscalationError: anything else, or no text at all.
        """
        if isinstance(output, GenerationResult):
            return cls._of_result(output)
        if isinstance(output, Reply):
            reply = output
        elif isinstance(output, str) or (isinstance(output, numbers.Real) and not isinstance(output, bool)):
            reply = cls(str(output))
        elif hasattr(output, "content"):
            reply = cls._of_message(output)
        else:
            raise EscalationError(
                f"it returned a {type(output).__name__}; expected text, a number, a message or a Reply"
            )
        if reply.complete and not reply.text.strip() and not getattr(output, "tool_calls", None):
            raise EscalationError("it returned no text")
        sure = reply.confidence
        if sure is not None and not (isinstance(sure, numbers.Real) and math.isfinite(sure)):
            raise EscalationError(f"it returned a confidence of {sure!r}; expected a finite number, or None")
        answer = reply.answer
        if answer is not None and not isinstance(answer, str):
            raise EscalationError(f"it returned the answer {repr(answer)[:80]}; expected text, or None")
        found = extract(extractor, reply.text) if answer is None else canonical(answer) or None
        return replace(reply, answer=found)

    @classmethod
    def _of_result(cls, result: GenerationResult) -> Reply:
        last = result.decisions[-1] if result.decisions else None
        chosen = next((sample for sample in result.samples if sample.number == result.chosen), None)
        return cls(
            text=result.text,
            answer=result.answer,
            confidence=result.confidence,
            usage=result.usage,
            complete=chosen.finish in ("stop", "stop_string") if chosen else result.finish_reason == "stop",
            handed_on=result.finish_reason == "handed_on",
            tokens_saved=last.tokens_saved if last else None,
            samples=len(result.samples),
            reason=result.stop_detail,
            result=result,
        )

    @classmethod
    def _of_message(cls, message: Any) -> Reply:
        """A chat message as LangChain has it: `text` or `content`, `usage_metadata`, `response_metadata`."""
        text = getattr(message, "text", None)
        text = text if isinstance(text, str) else message.content
        if not isinstance(text, str):
            raise EscalationError(f"its message holds a {type(text).__name__}; expected text")
        used, about = _mapping(message, "usage_metadata"), _mapping(message, "response_metadata")
        own = about.get("introspection")
        own = own if isinstance(own, Mapping) else {}
        confidence = own.get("confidence")
        tokens = int(used.get("output_tokens") or 0)
        details = used.get("output_token_details") or {}
        finish = own.get("finish_reason", "stop")
        last = (own.get("decisions") or [{}])[-1]
        return cls(
            text=text,
            answer=own.get("answer"),
            confidence=confidence if isinstance(confidence, int | float) else None,
            usage=Usage(
                prompt_tokens=int(used.get("input_tokens") or 0),
                generated_tokens=tokens,
                chosen_tokens=int(details.get("chosen", tokens)),
                depth=own.get("depth", 0),
                seconds=own.get("seconds", 0.0),
                cost=own.get("cost"),
            ),
            samples=len(own.get("samples", ())),
            complete=own.get("complete", finish == "stop"),
            handed_on=finish == "handed_on",
            tokens_saved=last.get("tokens_saved"),
            reason=own.get("stop_detail", ""),
        )


def _mapping(message: Any, name: str) -> Mapping[str, Any]:
    value = getattr(message, name, None)
    return value if isinstance(value, Mapping) else {}


def _finite(value: Any, owner: str, name: str = "expected_reward") -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"{name} of {owner!r} is {value!r}; expected a finite number")
    return float(value)


def _name_of(model: Any) -> str:
    info = getattr(model, "info", None)
    for candidate in (getattr(info, "model", None), getattr(model, "name", None), getattr(model, "model", None)):
        if isinstance(candidate, str) and candidate:
            return candidate
    name = getattr(model, "__name__", None)
    return name if isinstance(name, str) and name != "<lambda>" else type(model).__name__
