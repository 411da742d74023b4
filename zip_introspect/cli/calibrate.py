"""`zip-introspect calibrate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from zip_introspect.answers.extraction import conclusion, same
from zip_introspect.cli.arguments import path
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.cli.seed import parse_seed
from zip_introspect.cli.session import (
    ConfidenceFrom,
    Examples,
    Instruction,
    System,
    TemplateOptions,
    open_llm,
    template_kwargs,
)
from zip_introspect.config import GenerationConfig
from zip_introspect.errors import BackendNotInstalledError, CalibrationError
from zip_introspect.framing import NO_FRAMING, Framing
from zip_introspect.introspection.calibration import Calibration

_LONGEST_LINE = 1 << 20


def calibrate(
    results: Annotated[
        Path,
        typer.Argument(
            parser=path,
            help='JSONL of {"confidence": 0.8, "right": true}, or of {"question": ..., "answer": ...}; or the Parquet '
            "file of rollouts, several a question, which tells what to believe of answers (answer_posterior).",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Answers the questions. (default: the embedded model)")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="The backend. (default: inferred from the model)")] = None,
    head: Annotated[str | None, typer.Option(help="A head's file, hub id, or name.")] = None,
    strategy: Annotated[str | None, typer.Option(help="How the questions are answered, as in ask.")] = None,
    confidence_source: ConfidenceFrom = None,
    method: Annotated[str, typer.Option(help="isotonic, or temperature for fewer than some hundred results.")] = (
        "isotonic"
    ),
    level: Annotated[
        list[float] | None,
        typer.Option(help="Share of wrong answers to allow; again for more. (default: 0.01 0.05 0.1)"),
    ] = None,
    delta: Annotated[float, typer.Option(help="Probability that a level does not hold.")] = 0.1,
    out: Annotated[
        Path | None,
        typer.Option(parser=path, help="File or directory. (default: beside the model, or the results)"),
    ] = None,
    seed: Annotated[
        int, typer.Option(parser=parse_seed, metavar="INTEGER|random", help="Fixes the answers; random draws one.")
    ] = 0,
    system: System = None,
    examples: Examples = None,
    instruction: Instruction = None,
    template_option: TemplateOptions = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit what a confidence means to results whose correctness is known, and choose thresholds for levels of error."""
    with reporting(debug):
        calibrating = _calibrating()
        if results.suffix == ".parquet":
            without = {
                "--head": head,
                "--strategy": strategy,
                "--confidence-source": confidence_source,
                "--level": level,
            }
            if unused := ", ".join(name for name, value in without.items() if value):
                raise CalibrationError(f"rollouts tell what to believe of answers, for which {unused} says nothing")
            _believe(results, out or _beside(model, results), as_json)
            return
        levels = level or calibrating.LEVELS
        calibrating.check(method, levels, delta)
        settings: dict[str, Any] = {"seed": seed, "chat_template_kwargs": template_kwargs(template_option)}
        if (framing := Framing.of(system, examples, instruction)) != NO_FRAMING:
            settings["framing"] = framing
        rows = list(_rows(results))
        if "confidence" in rows[0]:
            confidences, right = _labelled(rows, results)
        else:
            settings |= {} if strategy is None else {"strategy": strategy}
            settings |= {} if confidence_source is None else {"confidence_source": confidence_source}
            # Settings are refused before a model is loaded for them.
            GenerationConfig(**{name: value for name, value in settings.items() if name != "framing"})
            confidences, right = _answered(rows, results, model, backend, head, settings)
        found = calibrating.fit(confidences, right, method, levels=levels, delta=delta)
        if confidence_source == "tokens":
            found = found.replace(source="tokens")
        file = found.save(out or _beside(model, results))
        if as_json:
            typer.echo(json.dumps({"file": str(file), **found.model_dump(mode="json")}, indent=2))
        else:
            _print(Console(), found, sum(right) / len(right), file)


def _believe(rollouts: Path, out: Path, as_json: bool) -> None:
    """Learn what to believe of answers, and say it."""
    from zip_introspect.evaluation.store.rollout_file import Rollouts
    from zip_introspect.fitting import believing

    found = believing.fit(Rollouts.load(rollouts))
    file = found.save(out)
    if as_json:
        typer.echo(json.dumps({"file": str(file), **found.model_dump(mode="json")}, indent=2))
        return
    for name, value in found.model_dump().items():
        typer.echo(f"{name:<9} {value:.3f}")
    typer.echo(f"What answer_posterior believes of answers. Written to {file}")


def _beside(model: str | None, results: Path) -> Path:
    beside = path(model or "")
    return beside if model and beside.is_dir() else beside.parent if beside.is_file() else results.parent


def _calibrating() -> Any:
    try:
        from zip_introspect.evaluation.measures import calibrating
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(
            f"calibrating needs the module {error.name!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[eval]"'
        ) from error
    return calibrating


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, at least one."""
    if not file.is_file():
        raise CalibrationError(f"{file} is not a file; expected JSONL with one result or question a line")
    empty = True
    with file.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), ""), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CalibrationError(
                    f"line {number} of {file} is not JSON: {error}. Expected JSONL, one result or question a line."
                ) from error
            if not isinstance(row, dict):
                raise CalibrationError(f"line {number} of {file} is a {type(row).__name__}; expected an object")
            empty = False
            yield row
    if empty:
        raise CalibrationError(f"{file} is empty; expected one result or question a line")


def _labelled(rows: list[dict[str, Any]], file: Path) -> tuple[list[float], list[bool]]:
    for number, row in enumerate(rows, 1):
        confidence, right = row.get("confidence"), row.get("right")
        if isinstance(confidence, bool) or not isinstance(confidence, int | float) or right not in (0, 1):
            raise CalibrationError(
                f'result {number} of {file} is {json.dumps(row)[:200]}; expected "confidence", a number, and "right", '
                "true or false"
            )
    return [float(row["confidence"]) for row in rows], [bool(row["right"]) for row in rows]


def _answered(
    rows: list[dict[str, Any]],
    file: Path,
    model: str | None,
    backend: str | None,
    head: str | None,
    settings: dict[str, Any],
) -> tuple[list[float], list[bool]]:
    """Let a model answer questions, and compare what it says with the answers that are known."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("question"), str) or not isinstance(row.get("answer"), str | int | float):
            raise CalibrationError(
                f'question {number} of {file} is {json.dumps(row)[:200]}; expected "question", a text, and "answer"'
            )
    with open_llm(model, backend, **({} if head is None else {"head": head})) as llm:
        found = llm.batch([row["question"] for row in rows], **settings)
    known = [conclusion(str(row["answer"])) or str(row["answer"]) for row in rows]
    right = [same(item.answer, answer) for item, answer in zip(found, known, strict=True)]
    return [item.confidence for item in found], right


def _print(console: Console, found: Calibration, right: float, file: Path) -> None:
    kind = f"temperature {found.temperature:.3f}" if found.method == "temperature" else "isotonic"
    console.print(f"{found.examples:,} results, {right:.1%} of them right; {kind}")
    table = Table(box=None, pad_edge=False)
    for heading in ("wrong answers, at most", "answer from confidence", "questions answered"):
        table.add_column(heading, justify="right")
    for item in found.thresholds:
        chosen = "none holds it" if item.confidence is None else f"{item.confidence:.4f}"
        table.add_row(f"{item.level:.1%}", chosen, f"{item.answered:.1%}")
    console.print(table)
    console.print(f"Each level holds with a probability of {1 - found.thresholds[0].delta:.0%}. Written to {file}")
