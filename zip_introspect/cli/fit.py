"""`zip-introspect fit`."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from zip_introspect.cli.arguments import path
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.cli.session import Examples, Instruction, System, TemplateOptions, open_llm, template_kwargs
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BackendNotInstalledError, ConfigError
from zip_introspect.framing import Framing

if TYPE_CHECKING:
    from zip_introspect.fitting.fit import Fitted

_DATA, _SAMPLING = "Questions", "Sampling"
_SUFFIX = ".safetensors"


def fit(
    model: Annotated[str, typer.Argument(help="Directory, .gguf file or hub id; it is left as it is.")],
    questions: Annotated[str, typer.Argument(help="As of rollouts: JSONL file, Hugging Face data set, or abacus.")],
    grader: Annotated[
        str, typer.Option(help="exact, numeric, math, regex:PATTERN, abacus or module:function.")
    ] = "exact",
    out: Annotated[Path, typer.Option("--out", "-o", parser=path, help="The head's file.")] = Path(
        "head.zip.safetensors"
    ),
    backend: Annotated[str | None, typer.Option(help="The backend. (default: inferred from the model)")] = None,
    samples: Annotated[int, typer.Option(min=2, help="Of each question.")] = 4,
    split: Annotated[str | None, typer.Option(help="(default: the only one, or test)", rich_help_panel=_DATA)] = None,
    limit: Annotated[int | None, typer.Option(help="Questions, at most.", rich_help_panel=_DATA)] = None,
    question_column: Annotated[
        str | None, typer.Option(help="(default: question, problem or prompt)", rich_help_panel=_DATA)
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="(default: answer, solution or target)", rich_help_panel=_DATA)
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the samples.", rich_help_panel=_SAMPLING)] = 0.8,
    top_p: Annotated[float, typer.Option(help="Smallest set of this mass.", rich_help_panel=_SAMPLING)] = 0.95,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of one sample, at most.", rich_help_panel=_SAMPLING)
    ] = 512,
    seed: Annotated[int, typer.Option(help="Fixes samples, folds and training.", rich_help_panel=_SAMPLING)] = 0,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Samples that grow together.", rich_help_panel=_SAMPLING)
    ] = 32,
    system: System = None,
    examples: Examples = None,
    instruction: Instruction = None,
    template_option: TemplateOptions = None,
    attachable: Annotated[
        bool,
        typer.Option("--attachable", help="A head that attach can write into the model: linear, of the last state."),
    ] = False,
    confidences: Annotated[
        bool, typer.Option("--confidences", help="Learn what --confidence-source tokens of ask means, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Sample a few questions, and say how long it takes.")] = (
        False
    ),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a head for a model: sample and grade questions, train on its hidden states, and replay every strategy.

    Rollouts are kept beside the head; an interrupted run goes on from there with the same command.
    """
    with reporting(debug):
        modules = _modules()
        if out.suffix != _SUFFIX or not out.parent.is_dir():
            raise ConfigError(f"--out is {out}; expected the name of a {_SUFFIX} file in a directory that exists")
        sys.path.append(os.getcwd())  # where a grader of one's own lies
        grade = modules.graders.get(grader)
        config = GenerationConfig(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
        framing, options = Framing.of(system, examples, instruction), template_kwargs(template_option)
        asked = modules.datasets.load(
            questions,
            question_column=question_column,
            answer_column=answer_column,
            split=split,
            limit=limit,
            seed=seed,
        )
        modules.watching.check(asked, grade)
        say = partial(typer.echo, err=True)
        how = {
            "samples": samples,
            "sampling": config.sampling,
            "max_new_tokens": max_new_tokens,
            "concurrency": concurrency,
            "chat_template_kwargs": options,
            "framing": framing,
            "confidences": confidences,
        }
        with open_llm(model, backend, hidden_states=True) as llm:
            file = out.with_suffix(".rollouts.parquet")
            try:
                rollouts = modules.collecting.collect(llm, asked, grade, file, how, dry_run=dry_run, say=say)
            except modules.watching.Stopped:
                return
            fingerprint = llm.backend.fingerprint()
        note = {"questions": questions, "grader": grader, "samples": samples}
        shape = {"inputs": ("last",), "candidates": modules.training.ATTACHABLE} if attachable else {}
        fitted = modules.fit.fit(rollouts, config, fingerprint=fingerprint, seed=seed, note=note, say=say, **shape)
        modules.file.save(fitted.head, out)
        report = out.with_suffix(".report.md")
        pictures = modules.pictures.draw(fitted, out.with_suffix(""))
        report.write_text(modules.report.text(fitted, out.name, pictures), encoding="utf-8")
        if as_json:
            typer.echo(json.dumps({"file": str(out), "report": str(report), **fitted.head.about.card}, indent=2))
        else:
            _print(Console(), fitted, out, report, model)


def _print(console: Console, fitted: Fitted, out: Path, report: Path, model: str) -> None:
    for line in fitted.said:
        console.print(Padding(Text(line), (0, 2)))
    console.print(f"{out}: {out.stat().st_size / 1e3:,.0f} kB; all figures in {report}", soft_wrap=True, markup=False)
    console.print(f"Try: zip-introspect ask --model {model} --head {out} QUESTION", soft_wrap=True, markup=False)


def _modules() -> Any:
    try:
        from zip_introspect.evaluation.measures import graders
        from zip_introspect.evaluation.store import datasets, watching
        from zip_introspect.fitting import collecting, fit, pictures, report, training
        from zip_introspect.heads import file
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"fitting a head needs the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[train,eval]"'
        ) from error
    return SimpleNamespace(
        collecting=collecting,
        datasets=datasets,
        file=file,
        fit=fit,
        graders=graders,
        pictures=pictures,
        report=report,
        training=training,
        watching=watching,
    )
