"""`zip-introspect ask`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from zip_introspect import strategies
from zip_introspect.budget import Budget
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.cli.seed import SEED_HELP, parse_seed
from zip_introspect.cli.session import (
    ConfidenceFrom,
    Examples,
    Instruction,
    System,
    TemplateOptions,
    follow,
    open_llm,
    template_kwargs,
)
from zip_introspect.cli.summary import print_summary
from zip_introspect.config import GenerationConfig, Thinking
from zip_introspect.framing import NO_FRAMING, Framing

_SEARCH, _SAMPLING, _THINKING = "Search", "Sampling", "Thinking"


def ask(
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from stdin.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Directory, .gguf file or hub id. (default: the embedded model)")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="The backend. (default: inferred from the model)")] = None,
    head: Annotated[
        str | None,
        typer.Option(help="A head's file, hub id, or name. (default: the model's own)"),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Generated tokens of all samples together, at most.", rich_help_panel=_SEARCH)
    ] = None,
    max_expected_share: Annotated[
        float | None,
        typer.Option(
            help="Do not begin where one sample is expected to take more than this share of the budget, or of "
            "--max-new-tokens without one.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help=f"One of those {strategies.listed()}.", rich_help_panel=_SEARCH)
    ] = None,
    max_samples: Annotated[int | None, typer.Option(help="Samples, at most.", rich_help_panel=_SEARCH)] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Compute (1) against latency (0) in the cost.", rich_help_panel=_SEARCH)
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Cost against reward.", rich_help_panel=_SEARCH)] = None,
    interval: Annotated[int | None, typer.Option(help="Tokens between two decisions.", rich_help_panel=_SEARCH)] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one sample, at most.", rich_help_panel=_SAMPLING)
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", rich_help_panel=_SAMPLING)] = None,
    seed: Annotated[
        int | None,
        typer.Option(parser=parse_seed, metavar="INTEGER|random", help=SEED_HELP, rich_help_panel=_SAMPLING),
    ] = None,
    thinking_budget: Annotated[
        int | None,
        typer.Option(help="Tokens of a thought, at most; then it is closed.", rich_help_panel=_THINKING),
    ] = None,
    answer_budget: Annotated[
        int | None,
        typer.Option(help="Tokens kept for the answer of each sample.", rich_help_panel=_THINKING),
    ] = None,
    think_by: Annotated[
        str | None,
        typer.Option(help="What closes a thought: count, joint or never.", rich_help_panel=_THINKING),
    ] = None,
    think_open: Annotated[
        str | None,
        typer.Option(
            help="What opens a thought; '' where a sample thinks from its first token. (default: <think>)",
            rich_help_panel=_THINKING,
        ),
    ] = None,
    think_close: Annotated[
        str | None, typer.Option(help="What closes it. (default: </think>)", rich_help_panel=_THINKING)
    ] = None,
    system: System = None,
    examples: Examples = None,
    instruction: Instruction = None,
    template_option: TemplateOptions = None,
    confidence_source: ConfidenceFrom = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Ask a question: watch the samples, then see the answer, how sure the model is, and what it cost."""
    settings: dict[str, Any] = {
        "strategy": strategy,
        "max_samples": max_samples,
        "alpha": alpha,
        "beta": beta,
        "interval": interval,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "confidence_source": confidence_source,
    }
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    thinking: dict[str, Any] = {
        "budget": thinking_budget,
        "answer_budget": answer_budget,
        "by": think_by,
        "open": think_open,
        "close": think_close,
    }
    thinking = {name: value for name, value in thinking.items() if value is not None}
    with reporting(debug):
        options = template_kwargs(template_option)
        if options:
            given["chat_template_kwargs"] = options
        if thinking:
            given["thinking"] = Thinking(**{**thinking, **({"open": None} if think_open == "" else {})})
        question = sys.stdin.read().strip() if prompt == "-" else prompt
        console = None if as_json else Console()
        limits = Budget.of(budget).replace(max_expected_share=max_expected_share)
        config = GenerationConfig(**given)  # settings are refused before a model is loaded for them
        strategies.chosen(config, joints=True)
        framing = Framing.of(system, examples, instruction)
        if framing != NO_FRAMING:
            given["framing"] = framing
        llm = open_llm(model, backend, **({} if head is None else {"head": head}))
        result = follow(llm, question, console, budget=limits, **given)
        if console is None:
            typer.echo(result.to_json(indent=2))
        else:
            print_summary(console, result)
