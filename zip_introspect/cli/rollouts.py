"""`zip-introspect rollouts`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize
from rich.console import Console
from rich.table import Table

from zip_introspect.cli.arguments import path
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.cli.session import Examples, Instruction, System, TemplateOptions, open_llm, template_kwargs
from zip_introspect.config import SamplingParams
from zip_introspect.errors import BackendNotInstalledError, ConfigError, EvaluationDataError, PromptError
from zip_introspect.framing import Framing

if TYPE_CHECKING:
    from zip_introspect.evaluation.measures.energy import Energy
    from zip_introspect.evaluation.store.collecting import Collected
    from zip_introspect.evaluation.store.rollout_file import Question, QuestionRollouts
    from zip_introspect.llm import IntrospectiveLLM

_DATA, _SAMPLING = "Questions", "Sampling"


def rollouts(
    dataset: Annotated[
        str, typer.Argument(help="JSONL file, Hugging Face data set (name:configuration), abacus or abacus:TIER.")
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="The .parquet file to write.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Directory, .gguf file or hub id. (default: the embedded model)")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="The backend. (default: inferred from the model)")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Of each question.")] = 8,
    grader: Annotated[
        str | None,
        typer.Option(
            help="exact, numeric, math, regex:PATTERN, abacus or module:function. (default: exact, or abacus for it)"
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="(default: the only one, or test)", rich_help_panel=_DATA)] = None,
    limit: Annotated[int | None, typer.Option(help="Questions, at most.", rich_help_panel=_DATA)] = None,
    question_column: Annotated[
        str | None, typer.Option(help="(default: question, problem or prompt)", rich_help_panel=_DATA)
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="(default: answer, solution or target)", rich_help_panel=_DATA)
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="What results are broken down by.", rich_help_panel=_DATA)
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", rich_help_panel=_SAMPLING)] = None,
    top_p: Annotated[float | None, typer.Option(help="Smallest set of this mass.", rich_help_panel=_SAMPLING)] = None,
    top_k: Annotated[int | None, typer.Option(help="Most likely tokens.", rich_help_panel=_SAMPLING)] = None,
    min_p: Annotated[float | None, typer.Option(help="Of the most likely one.", rich_help_panel=_SAMPLING)] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one sample, at most.", rich_help_panel=_SAMPLING)
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Fixes the samples, and the questions of abacus.", rich_help_panel=_SAMPLING)
    ] = 0,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Samples that grow together.", rich_help_panel=_SAMPLING)
    ] = 256,
    hidden_every: Annotated[
        int | None,
        typer.Option(min=1, help="Keep hidden states at every so many tokens, for heads.", rich_help_panel=_DATA),
    ] = None,
    confidences: Annotated[
        bool, typer.Option("--confidences", help="Keep how sure the model is of each token.", rich_help_panel=_DATA)
    ] = False,
    system: System = None,
    examples: Examples = None,
    instruction: Instruction = None,
    template_option: TemplateOptions = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Sample every question of a data set, grade the samples, and store them with their joints for replays.

    An interrupted run keeps the questions that are done; the same command goes on from there.
    """
    with reporting(debug):
        collecting, datasets, graders, energy = _evaluation()
        check_writable(out)
        sys.path.append(os.getcwd())  # where a grader of one's own lies
        grade = graders.get(grader or ("abacus" if dataset.partition(":")[0] == "abacus" else "exact"))
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed}
        given = {name: value for name, value in sampling.items() if value is not None}
        SamplingParams(**given)  # settings are refused before a model is loaded for them
        options, framing = template_kwargs(template_option), Framing.of(system, examples, instruction)
        questions = datasets.load(
            dataset,
            question_column=question_column,
            answer_column=answer_column,
            group_column=group_column,
            split=split,
            limit=limit,
            seed=seed,
        )
        kept = {} if hidden_every is None else {"hidden_states": True}
        with open_llm(model, backend, **kept) as llm:
            _check_fits(llm, questions, options, framing)
            sampled = 0
            meter = energy.EnergyMeter()

            def watch(done: int, problem: QuestionRollouts) -> None:
                nonlocal sampled
                meter.update()
                once = {id(item): len(item.tokens) for item in problem.rollouts}  # greedy ones are stored many times
                sampled += sum(once.values())

            with meter:
                found = collecting.collect_to_file(
                    llm,
                    questions,
                    grade,
                    out,
                    samples=samples,
                    sampling=llm.config.sampling.replace(**given),
                    max_new_tokens=max_new_tokens,
                    concurrency=concurrency,
                    chat_template_kwargs=options,
                    framing=framing,
                    hidden_every=hidden_every,
                    confidences=confidences,
                    say=partial(typer.echo, err=True),
                    watch=watch,
                )
        summary = _summary(found, _energy(meter.energy, sampled))
        if as_json:
            typer.echo(json.dumps(summary, indent=2))
        else:
            _print(Console(), summary)


def _evaluation() -> tuple[Any, Any, Any, Any]:
    try:
        from zip_introspect.evaluation.measures import energy, graders
        from zip_introspect.evaluation.store import collecting, datasets
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"rollouts need the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[eval]"'
        ) from error
    return collecting, datasets, graders, energy


def check_writable(out: Path) -> None:
    """Refuse a name that no Parquet file can be written under, before any work is done for it."""
    if out.suffix != ".parquet" or out.is_dir():
        raise ConfigError(f"the output is {out}; expected the name of a .parquet file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ConfigError(f"{out.parent} is not a directory that can be written to; make it, or name another")


def _check_fits(llm: IntrospectiveLLM, questions: list[Question], options: dict[str, Any], framing: Framing) -> None:
    """Refuse a question that the context cannot hold before any is sampled, and two that the model reads as one."""
    given: dict[str, Any] = {"chat_template_kwargs": options} if options else {}
    seen: dict[tuple[int, ...], int] = {}
    for number, question in enumerate(questions, 1):
        tokens = tuple(llm.backend.encode(framing.put(question.text), **given))
        if len(tokens) >= llm.info.max_context:
            raise PromptError(
                f"question {number} has {len(tokens)} tokens, and the context of {llm.info.model} holds "
                f"{llm.info.max_context}, answer included. Leave it out or shorten it: {question.text[:80]!r}"
            )
        if (other := seen.setdefault(tokens, number)) != number:
            raise EvaluationDataError(
                f"questions {other} and {number} are the same tokens to {llm.info.model}; leave one of them out"
            )


def _energy(taken: Energy | None, tokens: int) -> dict[str, Any]:
    """What the tokens of this run took, where the machine tells it."""
    if taken is None or not tokens:
        return {}
    return {"energy": {**asdict(taken), "tokens": tokens, "joules_per_token": taken.joules / tokens}}


def _summary(found: Collected, energy: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": str(found.file),
        "bytes": found.file.stat().st_size,
        "model": found.model,
        "max_new_tokens": found.max_new_tokens,
        "groups": {group: asdict(counts) for group, counts in sorted(found.groups.items())},
        **energy,
    }


def _print(console: Console, summary: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("group", "questions", "samples", "right", "finished", "tokens a sample"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for group, counts in summary["groups"].items():
        samples = counts["samples"]
        table.add_row(
            group or "all",
            f"{counts['questions']:,}",
            f"{samples:,}",
            f"{counts['right'] / samples:.1%}",
            f"{counts['finished'] / samples:.1%}",
            f"{counts['tokens'] / samples:.1f}",
        )
    console.print(table)
    if (taken := summary.get("energy")) is not None:
        counted = " and ".join(taken["sources"])
        console.print(f"{taken['joules_per_token']:.3g} J a token by {counted}, whatever else the machine did included")
    size = filesize.decimal(summary["bytes"])
    console.print(f"{size} written to {summary['file']}", soft_wrap=True, markup=False)
