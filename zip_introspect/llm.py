"""IntrospectiveLLM: the front door. It checks what comes in, and hands it to the engine that owns the model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from zip_introspect.answers.extraction import AnswerExtractor, default_extractor
from zip_introspect.backend import counting
from zip_introspect.backend.contract import Backend, BackendInfo, joint_grid
from zip_introspect.backend.discovery import InstalledBackends, integration
from zip_introspect.batch_calls import BatchCalls
from zip_introspect.config import GenerationConfig
from zip_introspect.demo import embedded
from zip_introspect.events import Event, SearchFinished
from zip_introspect.heads.head import Head
from zip_introspect.introspection.calibration import Calibration
from zip_introspect.introspection.grid import JointGrid
from zip_introspect.introspection.posterior import AnswerModel
from zip_introspect.model_source import DEMO_NAME, ModelSource
from zip_introspect.paths import expanded
from zip_introspect.prompts import Message, Prompt
from zip_introspect.result import GenerationResult, IntrospectionResult
from zip_introspect.search import streams
from zip_introspect.search.at_prompt import introspect
from zip_introspect.search.confidence import calibrated, calibration_of
from zip_introspect.search.engine import Engine, Search
from zip_introspect.search.request import CallSettings, Preparation, prepared, settled


class IntrospectiveLLM(BatchCalls):
    """A model that samples adaptively and says how sure it is.

    Every call takes keyword overrides of the fields of `GenerationConfig`: `llm.generate(prompt, alpha=0.5, seed=3)`.
    One instance may be shared by threads and tasks: whatever they ask at once shares every forward pass. All state in
    the backend is released whichever way a call ends. One thread of its own owns the backend from the first call on.

    Args:
        backend: an open backend; `from_pretrained` opens one.
        config: the settings of calls that give none; None takes those that its head recommends, at a balanced price.
        extractor: finds the short answer in a sample's text, for results and votes; they take its canonical form.
        calibration: what a confidence means, in place of what its head says; it gives a `calibrated_confidence`.

    One that `from_pretrained` or `demo` opened can be pickled: what is written is where it came from, and unpickling
    opens it again.
    """

    origin: ModelSource | None = None
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
        recommended = backend.head.about.config() if backend.head else None
        self.config = config or recommended or GenerationConfig()
        self.extractor = extractor
        self._calibration = calibration
        if calibration is not None and backend.grid is not None:
            calibration.check_fits(backend.grid)
        self._engine = Engine(backend)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        backend: str | type[Backend] | None = None,
        config: GenerationConfig | None = None,
        *,
        grid: JointGrid | None = None,
        head: str | Path | Head | None = None,
        extractor: AnswerExtractor = default_extractor,
        **options: Any,
    ) -> Self:
        """Open a model from a directory, file or hub id. What was learnt of it is loaded with it from beside it: what a
        confidence means, and what is believed of answers.

        Args:
            backend: an installed backend's name or a backend class; None finds one that accepts the model.
            grid: in place of the one saved with the model.
            head: what gives its joints: a head's file or hub id, or the name of one that ships with this package.
            options: for the backend, such as `device` and `dtype`.

        Raises:
            BackendNotInstalledError: the message holds the pip command.
            ModelLoadError: missing, truncated or foreign files.
            GridError, ReservedTokensError: a grid that is malformed, or does not fit the model.
            HeadError: a head that cannot be read, or is another model's.
            CalibrationError: a malformed file beside the model that says what confidences mean, or of answers.
        """
        model = expanded(model)
        calibration = Calibration.beside(model)
        if backend is None:
            backend = InstalledBackends().infer(model)
        elif isinstance(backend, str):
            backend = InstalledBackends().load(backend)
        options |= {name: value for name, value in {"grid": grid, "head": head}.items() if value is not None}
        answers = AnswerModel.beside(model)
        opened = backend.open(model, **options)
        opened.answers = answers
        llm = cls(opened, config, extractor=extractor, calibration=calibration)
        found = Path(model)
        llm.origin = ModelSource(str(found.resolve() if found.exists() else model), backend, options)
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
        name = backend or embedded.first_installed()
        llm = cls.from_pretrained(
            embedded.located(name),
            name,
            config or embedded.DEMO_CONFIG,
            extractor=embedded.DEMO_EXTRACTOR,
            **embedded.opened_with(name, options),
        )
        llm.origin = ModelSource(DEMO_NAME, name, options)
        return llm

    @classmethod
    def open(cls, origin: ModelSource, config: GenerationConfig | None = None) -> Self:
        """Open a model where its origin says: `demo` for the name "demo", `from_pretrained` for any other."""
        if origin.model == DEMO_NAME:
            return cls.demo(config, backend=origin.backend, **origin.options)
        return cls.from_pretrained(origin.model, origin.backend, config, **origin.options)

    @property
    def info(self) -> BackendInfo:
        """What the model is and can do."""
        return self.backend.info

    @property
    def closed(self) -> bool:
        """Whether it can be asked no more: it was freed, or is another process's, from which this one was forked."""
        return self._engine.closed

    @property
    def grid(self) -> JointGrid:
        """The bins of its joints.

        Raises:
            HeadError: it has no head, and gives none.
        """
        return joint_grid(self.backend)

    @property
    def calibration(self) -> Calibration | None:
        """What a confidence means: as given, or as its head says of searches with its settings."""
        return self._calibration or calibration_of(self.backend, self.config)

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        self._calibration = calibration

    @property
    def has_head(self) -> bool:
        """Whether it gives joints; without, samples that agree are its confidence."""
        return self.backend.grid is not None

    def generate(self, prompt: Prompt, **settings: Unpack[CallSettings]) -> GenerationResult:
        """Answer a prompt.

        Args:
            prompt: a question, or messages that end in one.
            settings: see `CallSettings`: `budget`, `config`, `chat`, `hand_on`, and fields of `GenerationConfig`.

        Raises:
            PromptError, ConfigError, BudgetError: bad input, before the model runs.
            NonFiniteLogitsError: NaN or infinite logits in mid-run; `partial` holds the samples so far.
            BackendError: the backend failed, or is closed; `partial` holds the samples so far.
        """
        with self._prepare(prompt, settings) as prepare:
            return self._calibrated(self._engine.wait(self._engine.search(Search(prepare, self.extractor))))

    async def agenerate(self, prompt: Prompt, **settings: Unpack[CallSettings]) -> GenerationResult:
        """`generate`, awaited. Cancelling it frees what it holds at the next call of the backend."""
        import asyncio  # costs a tenth of this package's import, and most programs never come here

        with self._prepare(prompt, settings) as prepare:
            search = Search(prepare, self.extractor)
            return self._calibrated(await asyncio.wrap_future(self._engine.search(search)))

    def stream(self, prompt: Prompt, **settings: Unpack[CallSettings]) -> Generator[Event, None, None]:
        """Answer a prompt and report on the way; the last event is `SearchFinished`. Closing it stops the search.

        The search goes on whether or not its events are read.

        Raises:
            ZipIntrospectError: as `generate`; bad input is refused at once, not at the first event.
        """
        prepare = self._prepare(prompt, settings)
        try:
            return self._read(streams.stream(self._engine, self._engine.ask(prepare), self.extractor))
        except BaseException:
            prepare.withdraw()
            raise

    async def astream(self, prompt: Prompt, **settings: Unpack[CallSettings]) -> AsyncIterator[Event]:
        """`stream`, awaited. Cancelling it frees what it holds at the next call of the backend."""
        with self._prepare(prompt, settings) as prepare:
            async with contextlib.aclosing(streams.astream(self._engine, prepare, self.extractor)) as events:
                async for event in events:
                    yield self._told(event)

    def introspect(self, prompt: Prompt, **settings: Unpack[CallSettings]) -> IntrospectionResult:
        """What the model expects of itself at a prompt, before a token is generated: one forward pass.

        Of the settings of `generate`, `chat`, `config`, `framing` and `chat_template_kwargs` matter.

        Raises:
            PromptError: an empty prompt, or one longer than the context.
            ConfigError: a bad setting.
            HeadError: the model has no head.
            NonFiniteLogitsError: NaN or infinite logits.
        """
        with self._prepare(prompt, settings) as prepare:
            return self._engine.ask(lambda: introspect(self.backend, prepare()), prefills=True)

    def count_tokens(self, prompt: str | Sequence[Message], **settings: Unpack[CallSettings]) -> int:
        """Tokens of a text, or of any part of a conversation, whoever speaks last; an empty one has none.

        No model runs. A conversation that ends in a question counts what `generate` would prompt the model with;
        `zip_introspect.backend.counting` says how others are counted. Of the settings of `generate`, `chat`, `config`
        and `chat_template_kwargs` matter.

        Raises:
            ConfigError: a bad setting.
            BackendError: the model is closed.
        """
        options = settled(settings, self.config).chat_template_kwargs
        chat = settings.get("chat", True)
        return self._engine.ask(lambda: counting.count(self.backend, prompt, chat=chat, options=options))

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a text, without the chat template.

        Raises:
            BackendError: the model is closed.
        """
        return self._engine.ask(lambda: counting.text_tokens(self.backend, text))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise TypeError(
                "this model was made of an open backend, so it cannot be pickled; open it with "
                "IntrospectiveLLM.from_pretrained, and what is pickled is where it came from"
            )
        return _reopen, (type(self), self.origin, self.config, self.extractor, self._calibration)

    def __copy__(self) -> Self:
        return self  # a copy of whatever holds a model shares it, as threads do

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def as_runnable(self, **settings: Any) -> Any:
        """This model as a LangChain Runnable: prompts in, `GenerationResult` out.

        Args:
            settings: fields of `langchain_zip_introspect.IntrospectiveRunnable`, such as `alpha` and `budget`.

        Raises:
            BackendNotInstalledError: langchain-core is not installed; the message holds the pip command.
        """
        return integration("langchain")(llm=self, **settings)

    def close(self, wait: bool = True) -> None:
        """Free the model. Closing twice is harmless.

        Args:
            wait: for the calls in progress to end; otherwise they end at the next interval, and raise a `BackendError`
                whose `partial` holds what they have.
        """
        self._engine.close(wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, prompt: Prompt, settings: CallSettings) -> Preparation:
        return prepared(prompt, settings, self.config, self.backend)

    def _read(self, begun: Generator[Event, None, None]) -> Generator[Event, None, None]:
        with contextlib.closing(begun) as events:
            for event in events:
                yield self._told(event)

    def _calibrated(self, result: GenerationResult) -> GenerationResult:
        return calibrated(result, self._calibration)

    def _told(self, event: Event) -> Event:
        return replace(event, result=self._calibrated(event.result)) if isinstance(event, SearchFinished) else event


def _reopen(
    kind: type[IntrospectiveLLM],
    origin: ModelSource,
    config: GenerationConfig,
    extractor: AnswerExtractor,
    calibration: Calibration | None,
) -> IntrospectiveLLM:
    llm = kind.open(origin, config)
    llm.extractor, llm.calibration = extractor, calibration
    return llm
