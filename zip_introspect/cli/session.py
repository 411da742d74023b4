"""Opening a model and following one search, live where there is a terminal to show it on."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from zip_introspect.cli.arguments import path
from zip_introspect.cli.live import SearchView
from zip_introspect.config import check_template_kwargs
from zip_introspect.errors import BackendError, ConfigError
from zip_introspect.events import SearchFinished

if TYPE_CHECKING:
    from zip_introspect.llm import IntrospectiveLLM
    from zip_introspect.result import GenerationResult

_FRAMES_PER_SECOND = 8

TemplateOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--template-option",
        metavar="NAME=VALUE",
        help="For the chat template, such as enable_thinking=false; again for more. JSON where it is, else text.",
    ),
]


System = Annotated[
    str | None, typer.Option("--system", help="A system message before the question.", rich_help_panel="Framing")
]
Examples = Annotated[
    Path | None,
    typer.Option(
        "--examples",
        parser=path,
        help="Worked examples, as earlier turns of the chat: JSONL, a question and its answer a line.",
        rich_help_panel="Framing",
    ),
]
Instruction = Annotated[
    str | None, typer.Option("--instruction", help="Behind every question.", rich_help_panel="Framing")
]


ConfidenceFrom = Annotated[
    str | None,
    typer.Option(
        "--confidence-source",
        metavar="head|agreement|tokens",
        help="What the confidence rests on. (default: the strategy's own way, the head, or agreement)",
    ),
]


def template_kwargs(given: list[str] | None) -> dict[str, Any]:
    """What `--template-option` names, by name.

    Raises:
        ConfigError: no NAME=VALUE, a name twice, or one that is not free.
    """
    found: dict[str, Any] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise ConfigError(f"--template-option is {item!r}; expected NAME=VALUE, such as enable_thinking=false")
        if name in found:
            raise ConfigError(f"--template-option gives {name!r} twice; expected each name once")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    check_template_kwargs(found)
    return found


def open_llm(model: str | None, backend: str | None, **options: Any) -> IntrospectiveLLM:
    """The model of that name or path; the embedded one where none is named.

    Args:
        options: of `from_pretrained`, such as `head`.

    Raises:
        ZipIntrospectError: as `IntrospectiveLLM.from_pretrained`.
    """
    from zip_introspect.llm import IntrospectiveLLM

    if model is None or not sys.stderr.isatty():
        # Bars for loading and downloading are for people who wait for a large model. Frameworks read this at import.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if model is None:
        return IntrospectiveLLM.demo(backend=backend, **options)
    return IntrospectiveLLM.from_pretrained(model, backend=backend, **options)


def follow(llm: IntrospectiveLLM, prompt: str, console: Console | None, **settings: Any) -> GenerationResult:
    """Run one search to its end; with a console that is a terminal, show the samples while they grow.

    Args:
        settings: what `IntrospectiveLLM.stream` takes beside the prompt.
    """
    view = SearchView()
    live = console is not None and console.is_terminal
    shown = (
        Live(view, console=console, refresh_per_second=_FRAMES_PER_SECOND, transient=True) if live else nullcontext()
    )
    # An interrupt leaves the loop here: the live table ends and the samples are released before it goes on.
    with shown, closing(llm.stream(prompt, **settings)) as events:
        for event in events:
            if isinstance(event, SearchFinished):
                return event.result
            view.update(event)
    raise BackendError("the search ended without a result; this is a defect of the strategy or the backend")
