"""IntrospectiveLLM: the front door. It checks what comes in, wires the rooms together, and keeps threads apart."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

from zip_introspect.answers.extraction import AnswerExtractor, after_marker, default_extractor
from zip_introspect.backend import counting
from zip_introspect.backend.contract import Backend, BackendInfo, Message
from zip_introspect.backend.discovery import InstalledBackends
from zip_introspect.budget import Budget, Ledger
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import (
    BackendError,
    BackendNotInstalledError,
    BudgetError,
    CalibrationError,
    ModelLoadError,
    PromptError,
    ZipIntrospectError,
)
from zip_introspect.events import Event, SearchFailed, SearchFinished
from zip_introspect.introspection import joint
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.model_source import DEMO_NAME, Origin
from zip_introspect.paths import expanded
from zip_introspect.prompts import Prompt, check_batch, check_prompt
from zip_introspect.result import GenerationResult, IntrospectionResult, Usage
from zip_introspect.search import engine
from zip_introspect.search.batch_results import Outcome, merge, one_each, raise_first
from zip_introspect.search.request import Checked, HandOn, Request, check
from zip_introspect.search.turns import Turns, in_thread

DEMO_MODEL = Path(__file__).parent / "demo" / "abacus"
DEMO_GGUF = DEMO_MODEL / "abacus-q8_0.gguf"
DEMO_CONFIG = GenerationConfig(max_new_tokens=640, beta=0.05)
"""The length that the embedded model was trained to; what it makes of other betas is in docs/results.md."""
DEMO_EXTRACTOR = after_marker(r"(?m)\bans\s+")
"""The embedded model ends its working with `ans 10`; where it declines, there is no answer."""
_DEMO_OPTIONS = {"threads": 1}
"""It is so small that a second thread mostly waits, and on a busy machine for long."""


class IntrospectiveLLM:
    """A model that samples adaptively and says how sure it is.

    Every call takes keyword overrides of the fields of `GenerationConfig`: `llm.generate(prompt, alpha=0.5, seed=3)`.
    One instance may be shared by threads and tasks: calls take turns, streams interleave interval by interval. All
    state in the backend is released whichever way a call ends.

    Args:
        backend: an open backend; `from_pretrained` opens one.
        config: the settings of calls that give none.
        extractor: finds the short answer in a sample's text, for results and votes; they take its canonical form.
        calibration: what a confidence means; results then have a `calibrated_confidence`.

    One that `from_pretrained` or `demo` opened can be pickled: what is written is where it came from, and unpickling
    opens it again.
    """

    origin: Origin | None = None
    """Where `from_pretrained` or `demo` found it; None for one made of an open backend."""

    def __init__(
        self,
        backend: Backend,
        config: GenerationConfig | None = None,
        *,
        extractor: AnswerExtractor = default_extractor,
        calibration: Calibration | None = None,
    ) -> None:
        self.backend = backend
        self.config = config or GenerationConfig()
        self.extractor = extractor
        self.calibration = calibration
        rewards = backend.grid.reward_values
        if calibration is not None and not (rewards[0] >= 0 and rewards[-1] <= 1):
            raise CalibrationError(
                f"the grid's rewards go from {rewards[0]:g} to {rewards[-1]:g}; a calibration needs confidences from 0 "
                f"to 1. Open the model without it."
            )
        self._turns = Turns()
        self._closed = False

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        backend: str | type[Backend] | None = None,
        config: GenerationConfig | None = None,
        *,
        grid: JointGrid | None = None,
        extractor: AnswerExtractor = default_extractor,
        **options: Any,
    ) -> Self:
        """Open a model from a directory, file or hub id. A calibration beside it is loaded with it.

        Args:
            backend: an installed backend's name or a backend class; None finds one that accepts the model.
            grid: in place of the one saved with the model.
            options: for the backend, such as `device` and `dtype`.

        Raises:
            BackendNotInstalledError: the message holds the pip command.
            ModelLoadError: missing, truncated or foreign files.
            GridError, ReservedTokensError: no grid, or one that does not fit the model.
            CalibrationError: a calibration beside the model that is malformed.
        """
        model = expanded(model)
        calibration = Calibration.beside(model)
        if backend is None:
            backend = InstalledBackends().infer(model)
        elif isinstance(backend, str):
            backend = InstalledBackends().load(backend)
        llm = cls(backend.open(model, grid=grid, **options), config, extractor=extractor, calibration=calibration)
        found = Path(model)
        llm.origin = Origin(
            str(found.resolve() if found.exists() else model), backend, {"grid": grid, **options} if grid else options
        )
        return llm

    @classmethod
    def demo(cls, config: GenerationConfig | None = None, *, backend: str | None = None, **options: Any) -> Self:
        """The embedded model, "abacus": it finds the whole x that solves an equation. Nothing is downloaded.

        Args:
            backend: `llama-cpp` opens the model as Q8_0 GGUF, any other its safetensors. None is the first of
                transformers and llama-cpp that is installed.
            options: for the backend; `threads` is 1 unless given.

        Raises:
            BackendNotInstalledError: the message holds the pip command.
            ModelLoadError: this installation lacks the model's files.
        """
        if backend is None:
            try:
                return cls.demo(config, backend="transformers", **options)
            except BackendNotInstalledError as error:
                try:
                    return cls.demo(config, backend="llama-cpp", **options)
                except BackendNotInstalledError:
                    raise error from None
        model = DEMO_GGUF if backend == "llama-cpp" else DEMO_MODEL
        file = model if backend == "llama-cpp" else model / "config.json"
        if not file.is_file():
            raise ModelLoadError(f"the embedded model is not here: expected {file}. Reinstall zip-introspect.")
        opening = {**_DEMO_OPTIONS, **options} if backend in ("transformers", "llama-cpp") else options
        llm = cls.from_pretrained(model, backend, config or DEMO_CONFIG, extractor=DEMO_EXTRACTOR, **opening)
        llm.origin = Origin(DEMO_NAME, backend, options)
        return llm

    @classmethod
    def open(cls, origin: Origin, config: GenerationConfig | None = None) -> Self:
        """Open a model where its origin says: `demo` for the name "demo", `from_pretrained` for any other.

        Raises:
            ZipIntrospectError: as these.
        """
        if origin.model == DEMO_NAME:
            return cls.demo(config, backend=origin.backend, **origin.options)
        return cls.from_pretrained(origin.model, origin.backend, config, **origin.options)

    @property
    def info(self) -> BackendInfo:
        """What the model is and can do."""
        return self.backend.info

    @property
    def closed(self) -> bool:
        """Whether the model has been freed."""
        return self._closed

    @property
    def grid(self) -> JointGrid:
        """The bins of its joints."""
        return self.backend.grid

    def generate(
        self,
        prompt: Prompt,
        *,
        budget: Budget | int | None = None,
        config: GenerationConfig | None = None,
        chat: bool = True,
        hand_on: HandOn | None = None,
        **overrides: Any,
    ) -> GenerationResult:
        """Answer a prompt.

        Args:
            prompt: a question, or messages that end in one.
            budget: a `Budget`, or a number of generated tokens; None is no limit.
            config: in place of the instance's own.
            chat: whether the chat template is applied.
            hand_on: the choice to leave the question to a stronger model; the result's `finish_reason` is then
                "handed_on". `Ladder` gives it, and asks that model.
            overrides: fields of `GenerationConfig`.

        Raises:
            PromptError, ConfigError, BudgetError: bad input, before the model runs.
            NonFiniteLogitsError: NaN or infinite logits in mid-run; `partial` holds the samples so far.
            BackendError: the backend failed, or is closed.
        """
        return self._complete_one(self._request(prompt, budget, config, chat, hand_on, overrides))

    async def agenerate(
        self,
        prompt: Prompt,
        *,
        budget: Budget | int | None = None,
        config: GenerationConfig | None = None,
        chat: bool = True,
        hand_on: HandOn | None = None,
        **overrides: Any,
    ) -> GenerationResult:
        """`generate` in a worker thread. Cancelling stops it at the next interval."""
        stop = threading.Event()

        def work() -> GenerationResult:  # to encode a long prompt takes time too
            return self._complete_one(self._request(prompt, budget, config, chat, hand_on, overrides), stop)

        return await in_thread(work, stop)

    def stream(
        self,
        prompt: Prompt,
        *,
        budget: Budget | int | None = None,
        config: GenerationConfig | None = None,
        chat: bool = True,
        hand_on: HandOn | None = None,
        **overrides: Any,
    ) -> Generator[Event, None, None]:
        """Answer a prompt and report on the way; the last event is `SearchFinished`. Closing it stops the search.

        Raises:
            ZipIntrospectError: as `generate`; bad input is refused at once, not at the first event.
        """
        return self._events(self._request(prompt, budget, config, chat, hand_on, overrides))

    async def astream(
        self,
        prompt: Prompt,
        *,
        budget: Budget | int | None = None,
        config: GenerationConfig | None = None,
        chat: bool = True,
        hand_on: HandOn | None = None,
        **overrides: Any,
    ) -> AsyncIterator[Event]:
        """`stream` with the work in a worker thread. Cancelling stops it at the next interval."""
        stop = threading.Event()
        request = await in_thread(lambda: self._request(prompt, budget, config, chat, hand_on, overrides), stop)
        events = self._events(request, stop)
        try:
            while (event := await in_thread(lambda: next(events, None), stop)) is not None:
                yield event
        finally:
            await in_thread(events.close, stop)

    @overload
    def batch(
        self, prompts: Sequence[Prompt], *, return_exceptions: Literal[False] = False, **settings: Any
    ) -> list[GenerationResult]: ...

    @overload
    def batch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool, **settings: Any
    ) -> list[GenerationResult | ZipIntrospectError]: ...

    def batch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool = False, **settings: Any
    ) -> list[GenerationResult] | list[GenerationResult | ZipIntrospectError]:
        """Answer many prompts; their samples share forward passes. Results come in the order of the prompts.

        Args:
            return_exceptions: put the error of a prompt in its place instead of raising the first one. Without it,
                bad input is refused before any prompt runs.
            settings: as the keyword arguments of `generate`. The budget holds for each prompt; `budget` and `hand_on`
                may be lists, one for each.

        Raises:
            ZipIntrospectError: as `generate`.
            NonFiniteLogitsError: `partial` holds one result for each prompt, in order.
        """
        requests, errors = self._requests(prompts, settings, return_exceptions)
        return merge(self._complete(list(requests.values()), None, return_exceptions), list(requests), errors)

    @overload
    async def abatch(
        self, prompts: Sequence[Prompt], *, return_exceptions: Literal[False] = False, **settings: Any
    ) -> list[GenerationResult]: ...

    @overload
    async def abatch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool, **settings: Any
    ) -> list[GenerationResult | ZipIntrospectError]: ...

    async def abatch(
        self, prompts: Sequence[Prompt], *, return_exceptions: bool = False, **settings: Any
    ) -> list[GenerationResult] | list[GenerationResult | ZipIntrospectError]:
        """`batch` in a worker thread. Cancelling stops it at the next interval."""
        stop = threading.Event()

        def work() -> list[Outcome]:
            requests, errors = self._requests(prompts, settings, return_exceptions)
            outcomes = self._complete(list(requests.values()), stop, return_exceptions)
            return merge(outcomes, list(requests), errors)

        return await in_thread(work, stop)

    def introspect(
        self, prompt: Prompt, *, config: GenerationConfig | None = None, chat: bool = True, **overrides: Any
    ) -> IntrospectionResult:
        """What the model expects of itself at a prompt, before a token is generated: one forward pass.

        Args:
            config: in place of the instance's own.
            chat: whether the chat template is applied.
            overrides: fields of `GenerationConfig`; of these, `chat_template_kwargs` matters.

        Raises:
            PromptError: an empty prompt, or one longer than the context.
            ConfigError: a bad setting.
            NonFiniteLogitsError: NaN or infinite logits.
        """
        request = self._request(prompt, None, config, chat, None, overrides).request
        with self._turns.hold():
            self._check_open()
            ledger = Ledger(request.budget, len(request.tokens))
            (prefilled,) = self.backend.prefill([request.tokens])
            self.backend.release([prefilled.sequence])
        probabilities = joint.from_logits(prefilled.reserved_logits, self.grid)
        return IntrospectionResult(
            joint=tuple(tuple(row) for row in probabilities.tolist()),
            confidence=float(joint.expected_value(probabilities, self.grid)),
            expected_tokens=float(joint.expected_length(probabilities, self.grid)),
            reward_values=tuple(self.grid.reward_values.tolist()),
            length_values=tuple(self.grid.length_values.tolist()),
            value_marginal=tuple(joint.value_marginal(probabilities).tolist()),
            length_marginal=tuple(joint.length_marginal(probabilities).tolist()),
            usage=Usage(len(request.tokens), 0, 0, 0, ledger.seconds),
        )

    def count_tokens(
        self,
        prompt: str | Sequence[Message],
        *,
        config: GenerationConfig | None = None,
        chat: bool = True,
        **overrides: Any,
    ) -> int:
        """Tokens of a text, or of any part of a conversation, whoever speaks last; an empty one has none.

        No model runs. A conversation that ends in a question counts what `generate` would prompt the model with;
        `zip_introspect.backend.counting` says how others are counted.

        Args:
            prompt: text, or messages.
            config: in place of the instance's own.
            chat: whether the chat template is applied.
            overrides: fields of `GenerationConfig`; of these, `chat_template_kwargs` matters.

        Raises:
            ConfigError: a bad setting.
            BackendError: the model is closed.
        """
        settings = (config or self.config).replace(**overrides)
        self._check_open()
        return counting.count(self.backend, prompt, chat=chat, options=settings.chat_template_kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise TypeError(
                "this model was made of an open backend, so it cannot be pickled; open it with "
                "IntrospectiveLLM.from_pretrained, and what is pickled is where it came from"
            )
        return _reopen, (type(self), self.origin, self.config, self.extractor, self.calibration)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a copy of whatever holds a model shares it, as threads do

    def as_runnable(self, **settings: Any) -> Any:
        """This model as a LangChain Runnable: prompts in, `GenerationResult` out.

        Args:
            settings: fields of `langchain_zip_introspect.IntrospectiveRunnable`, such as `alpha` and `budget`.

        Raises:
            BackendNotInstalledError: langchain-core is not installed; the message holds the pip command.
        """
        try:
            langchain = importlib.import_module("langchain_zip_introspect")
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError(
                f"a Runnable needs the module {error.name!r}, which is not installed. "
                'Install it with: pip install "zip-introspect[langchain]"'
            ) from error
        return langchain.IntrospectiveRunnable(llm=self, **settings)

    def close(self) -> None:
        """Free the model, once the call in progress has reached its end. Closing twice is harmless."""
        with self._turns.hold():
            if not self._closed:
                self._closed = True
                self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(
        self,
        prompt: Prompt,
        budget: Budget | int | None,
        config: GenerationConfig | None,
        chat: bool,
        hand_on: HandOn | None,
        overrides: dict[str, Any],
    ) -> Checked:
        settings = config or self.config
        settings = settings.replace(**overrides) if overrides else settings
        limits = Budget.of(budget)
        check_prompt(prompt)
        self._check_open()
        options = settings.chat_template_kwargs
        # Backends of others that know no options go on working for those who give none.
        given = {"chat_template_kwargs": options} if options else {}
        request = Request(tuple(self.backend.encode(prompt, chat=chat, **given)), settings, limits, hand_on)
        return check(request, self.info)

    def _requests(
        self, prompts: Sequence[Prompt], settings: dict[str, Any], return_exceptions: bool
    ) -> tuple[dict[int, Checked], dict[int, ZipIntrospectError]]:
        """The requests that can be run, and the errors of the others, by place."""
        check_batch(prompts)
        rest = dict(settings)
        budgets = one_each(rest.pop("budget", None), len(prompts), "budget")
        choices = one_each(rest.pop("hand_on", None), len(prompts), "hand_on")
        config, chat = rest.pop("config", None), rest.pop("chat", True)
        requests: dict[int, Checked] = {}
        errors: dict[int, ZipIntrospectError] = {}
        for place, prompt in enumerate(prompts):
            try:
                requests[place] = self._request(prompt, budgets[place], config, chat, choices[place], rest)
            except (PromptError, BudgetError) as error:
                if not return_exceptions:
                    raise type(error)(f"prompt {place}: {error}") from None
                errors[place] = error
        return requests, errors

    def _complete_one(self, request: Checked, stop: threading.Event | None = None) -> GenerationResult:
        (outcome,) = self._complete([request], stop)
        if isinstance(outcome, ZipIntrospectError):
            raise outcome
        return outcome

    def _complete(
        self,
        requests: Sequence[Checked],
        stop: threading.Event | None = None,
        return_exceptions: bool = False,
    ) -> list[Outcome]:
        """Run requests to their ends: a result or, if asked for, an error each."""
        outcomes: dict[int, Outcome] = {}
        run = engine.run(self.backend, requests, extractor=self.extractor)
        with self._turns.hold(stop), contextlib.closing(run) as events:
            self._check_open()
            for event in events:
                if stop is not None and stop.is_set():
                    raise BackendError("the call was cancelled")
                if isinstance(event, SearchFinished):
                    outcomes[event.prompt] = self._calibrated(event.result)
                elif isinstance(event, SearchFailed):
                    outcomes[event.prompt] = event.error
        ordered = [outcomes[place] for place in sorted(outcomes)]
        if not return_exceptions:
            raise_first(ordered)
        return ordered

    def _events(self, request: Checked, stop: threading.Event | None = None) -> Generator[Event, None, None]:
        """The events of one search; the model is held only while it works on the next one."""
        events = engine.run(self.backend, [request], extractor=self.extractor, live=True)
        try:
            while True:
                with self._turns.hold(stop):
                    self._check_open()
                    event = next(events, None)
                if event is None:
                    return
                if isinstance(event, SearchFailed):
                    raise event.error
                if isinstance(event, SearchFinished):
                    event = replace(event, result=self._calibrated(event.result))
                yield event
        finally:
            self._turns.leave(events)

    def _calibrated(self, result: GenerationResult) -> GenerationResult:
        if self.calibration is None:
            return result
        return replace(result, calibrated_confidence=float(self.calibration.apply(result.confidence)))

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("this model is closed; open it again with IntrospectiveLLM.from_pretrained")


def _reopen(
    kind: type[IntrospectiveLLM],
    origin: Origin,
    config: GenerationConfig,
    extractor: AnswerExtractor,
    calibration: Calibration | None,
) -> IntrospectiveLLM:
    llm = kind.open(origin, config)
    llm.extractor, llm.calibration = extractor, calibration
    return llm
