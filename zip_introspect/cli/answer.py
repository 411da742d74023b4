"""`zip-introspect answer`."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from zip_introspect import strategies
from zip_introspect.budget import Budget
from zip_introspect.cli import question_rows
from zip_introspect.cli.answer_rows import AnswerRows, Row
from zip_introspect.cli.arguments import path
from zip_introspect.cli.question_rows import QuestionRow
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.cli.session import Examples, Instruction, System, TemplateOptions, open_llm, template_kwargs
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BackendError, ConfigError
from zip_introspect.framing import NO_FRAMING, Framing
from zip_introspect.llm import IntrospectiveLLM
from zip_introspect.result import GenerationResult
from zip_introspect.shared_budget import SharedBudget

_DATA, _LIMITS, _SEARCH, _SAMPLING = "Questions", "Budget", "Search", "Sampling"


def answer(
    questions: Annotated[
        Path, typer.Argument(parser=path, help="JSONL, or a .parquet file: a question a row, or messages.")
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="The file to write: JSONL, or .parquet.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Directory, .gguf file or hub id. (default: the embedded model)")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="The backend. (default: inferred from the model)")] = None,
    head: Annotated[str | None, typer.Option(help="A head's file, hub id, or name. (default: the model's own)")] = None,
    question_column: Annotated[
        str | None, typer.Option(help="(default: question, problem or prompt)", rich_help_panel=_DATA)
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="(default: id, or else the row's number from 0)", rich_help_panel=_DATA)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions, at most.", rich_help_panel=_DATA)] = None,
    total_tokens: Annotated[
        int | None, typer.Option(min=1, help="Generated tokens of all questions together.", rich_help_panel=_LIMITS)
    ] = None,
    total_cost: Annotated[
        float | None, typer.Option(help="Money for all questions together; needs a price.", rich_help_panel=_LIMITS)
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Generated tokens of each question.", rich_help_panel=_LIMITS)
    ] = None,
    price_per_token: Annotated[
        float | None, typer.Option(help="Of a generated token.", rich_help_panel=_LIMITS)
    ] = None,
    price_per_prompt_token: Annotated[
        float, typer.Option(min=0.0, help="Of a token of a prompt.", rich_help_panel=_LIMITS)
    ] = 0.0,
    strategy: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(strategies.names())}.", rich_help_panel=_SEARCH)
    ] = None,
    max_samples: Annotated[int | None, typer.Option(help="Of a question, at most.", rich_help_panel=_SEARCH)] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Compute (1) against latency (0) in the cost.", rich_help_panel=_SEARCH)
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Cost against reward.", rich_help_panel=_SEARCH)] = None,
    interval: Annotated[int | None, typer.Option(help="Tokens between two decisions.", rich_help_panel=_SEARCH)] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one sample, at most.", rich_help_panel=_SAMPLING)
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", rich_help_panel=_SAMPLING)] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes the answers.", rich_help_panel=_SAMPLING)] = None,
    system: System = None,
    examples: Examples = None,
    instruction: Instruction = None,
    template_option: TemplateOptions = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Answer a file of questions, under one budget if you like, with confidences and costs.

    An interrupted run keeps the rows that are done; the same command goes on from there. A row that fails holds its
    error, and the others go on. With --total-tokens or --total-cost, a token has the price at which all questions
    together just spend the total: easy ones stop early, hopeless ones are left.
    """
    settings = {
        "strategy": strategy,
        "max_samples": max_samples,
        "alpha": alpha,
        "beta": beta,
        "interval": interval,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    with reporting(debug):
        # Everything is refused before a model is loaded for it.
        if options := template_kwargs(template_option):
            given["chat_template_kwargs"] = options
        strategies.chosen(GenerationConfig(**given), joints=True)
        framing = Framing.of(system, examples, instruction)
        each = Budget(max_tokens=budget, price_per_token=price_per_token, price_per_prompt_token=price_per_prompt_token)
        total = each.replace(max_tokens=total_tokens, max_cost=total_cost)
        if out.exists() and questions.exists() and out.samefile(questions):
            raise ConfigError(f"{out} holds the questions; name another file for the answers")
        rows = question_rows.read(questions, question_column, id_column, limit)
        kept = AnswerRows(
            out,
            {
                "questions": question_rows.digest(rows),
                "model": model,
                "backend": backend,
                "head": head,
                "framing": framing.model_dump(mode="json"),
                "budget": each.model_dump(mode="json"),
                **given,
            },
        )
        if framing != NO_FRAMING:
            given["framing"] = framing
        begun = time.perf_counter()
        _say(f"{len(kept.done)} of {len(rows)} rows are done already" if kept.done else "")
        try:
            with open_llm(model, backend, **({} if head is None else {"head": head})) as llm:
                _answer(llm, rows, kept, each, total, given)
        except BaseException:
            kept.close()
            if kept.done:
                _say(f"{len(kept.done)} of {len(rows)} rows are kept in {kept.folder}; the same command goes on")
            raise
        spent = kept.spent()
        kept.finish(len(rows))
        summary = _summary(out, [kept.done[place] for place in range(len(rows))], spent, time.perf_counter() - begun)
        if as_json:
            typer.echo(json.dumps(summary, indent=2))
        else:
            _print(Console(), summary)
        if summary["failed"] == len(rows):
            raise BackendError(f"every question failed; the first with: {kept.done[0]['error']}")


def _answer(
    llm: IntrospectiveLLM,
    rows: list[QuestionRow],
    kept: AnswerRows,
    each: Budget,
    total: Budget,
    settings: dict[str, Any],
) -> None:
    """Answer what is not done yet, within what earlier parts of the run have left of the total."""
    tokens, cost = kept.spent()
    left = {
        name: limit - spent
        for name, limit, spent in (("max_tokens", total.max_tokens, tokens), ("max_cost", total.max_cost, cost))
        if limit is not None
    }
    if any(limit <= 0 for limit in left.values()):
        for place in range(len(rows)):
            if place not in kept.done:
                kept.add(place, _row(rows[place]))
        return
    places = [place for place in range(len(rows)) if place not in kept.done or _wanted(kept.done[place])]
    shared = SharedBudget(total.replace(**left)) if left else None
    limits: dict[str, Any] = {"budget": each} if shared is None else {"budget": each, "total_budget": shared}
    prompts = [rows[place].prompt for place in places]
    if not prompts:
        return
    found = llm.batch_as_completed(prompts, return_exceptions=True, **limits, **settings)
    console = Console(stderr=True)
    try:
        with closing(found), Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("answering", total=len(rows), completed=len(kept.done))
            for number, outcome in found:
                place = places[number]
                kept.add(place, _row(rows[place], outcome))
                if shared is not None:
                    kept.note_spent(tokens + shared.tokens, cost + (shared.cost or 0.0))
                progress.advance(task)
    finally:
        if shared is not None:
            kept.note_spent(tokens + shared.tokens, cost + (shared.cost or 0.0))


def _wanted(row: Row) -> bool:
    """Whether a row has no answer since a total was spent: a higher one may pay for it."""
    return row["finish_reason"] == "budget" and not row["complete"]


def _row(question: QuestionRow, outcome: GenerationResult | Exception | None = None) -> Row:
    """What is written of a question; without an outcome, it was left since the total was spent."""
    row: Row = {
        "id": question.id,
        "question": question.prompt,
        "answer": None,
        "text": "",
        "confidence": None,
        "calibrated_confidence": None,
        "confidence_source": None,
        "finish_reason": "budget",
        "complete": False,
        "samples": 0,
        "prompt_tokens": 0,
        "tokens": 0,
        "cost": None,
        "seconds": 0.0,
        "error": None,
    }
    if isinstance(outcome, Exception):
        return {**row, "finish_reason": "error", "error": f"{type(outcome).__name__}: {outcome}"}
    if outcome is None:
        return row
    usage = outcome.usage
    return {
        **row,
        "answer": outcome.answer,
        "text": outcome.text,
        "confidence": outcome.confidence,
        "calibrated_confidence": outcome.calibrated_confidence,
        "confidence_source": outcome.confidence_source,
        "finish_reason": outcome.finish_reason,
        "complete": outcome.complete,
        "samples": len(outcome.samples),
        "prompt_tokens": usage.prompt_tokens,
        "tokens": usage.generated_tokens,
        "cost": usage.cost,
        "seconds": round(usage.seconds, 6),
    }


def _summary(out: Path, rows: list[Row], spent: tuple[int, float], seconds: float) -> dict[str, Any]:
    """What it all came to; seconds are this run's."""
    answered = [row for row in rows if row["complete"]]
    failed = [row for row in rows if row["error"] is not None]
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    sure = [row["confidence"] for row in answered if row["confidence"] is not None]
    return {
        "file": str(out),
        "questions": len(rows),
        "answered": len(answered),
        "left": len(rows) - len(answered) - len(failed),
        "failed": len(failed),
        "mean_confidence": sum(sure) / len(sure) if sure else None,
        "tokens": max(spent[0], sum(row["tokens"] for row in rows)),
        "samples": sum(row["samples"] for row in rows),
        "cost": max(spent[1], sum(costs)) if costs else None,
        "seconds": seconds,
    }


def _print(console: Console, summary: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    confidence, cost = summary["mean_confidence"], summary["cost"]
    cells = {
        "questions": f"{summary['questions']:,}",
        "answered": f"{summary['answered']:,}",
        "left": f"{summary['left']:,}",
        "failed": f"{summary['failed']:,}",
        "mean confidence": "" if confidence is None else f"{confidence:.2f}",
        "tokens": f"{summary['tokens']:,}",
        "cost": "" if cost is None else f"{cost:g}",
        "seconds": f"{summary['seconds']:.1f}",
    }
    shown = {name: cell for name, cell in cells.items() if cell}
    for name in shown:
        table.add_column(name, justify="right")
    table.add_row(*shown.values())
    console.print(table)
    console.print(f"written to {summary['file']}", soft_wrap=True, markup=False)


def _say(text: str) -> None:
    if text:
        typer.echo(text, err=True)
