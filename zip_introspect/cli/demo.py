"""`zip-introspect demo`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from zip_introspect.backend.discovery import InstalledBackends
from zip_introspect.cli.reporting import AsJson, Debug, reporting
from zip_introspect.cli.seed import SEED_HELP, parse_seed
from zip_introspect.cli.session import follow, open_llm
from zip_introspect.cli.summary import print_summary
from zip_introspect.errors import BackendNotInstalledError

QUESTIONS: tuple[tuple[str, str], ...] = (
    ("1 of 5: one step", "What x makes 3*x+16=31 true?"),
    ("2 of 5: larger numbers", "Solve 8*x-13=283"),
    ("3 of 5: a bracket", "Find x: 9*(x+5)+19=127"),
    ("4 of 5: x on both sides", "Which x solves 9*x+25=3*x+97?"),
    ("5 of 5: a square", "Solve x*x+7*x+45=189"),
    ("one to doubt: no whole number fits", "Solve x*x+8*x+16=223"),
)
"""A title and a question each; training never saw these equations."""


def demo(
    seed: Annotated[int, typer.Option(parser=parse_seed, metavar="INTEGER|random", help=SEED_HELP)] = 0,
    backend: Annotated[
        str | None, typer.Option(help="The backend. (default: llama-cpp where it is installed, as it starts quickest)")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Ask the embedded model an equation of each difficulty, and one that it should not be sure of."""
    with reporting(debug):
        console = None if as_json else Console()
        llm = open_llm(None, backend or _quickest())
        results = []
        for title, question in QUESTIONS:
            if console is not None:
                console.rule(Text(title), align="left", style="dim")
                console.print(Text(question, style="bold"))
            result = follow(llm, question, console, seed=seed)
            if console is None:
                results.append({"title": title, "prompt": question, "result": result.to_dict()})
            else:
                print_summary(console, result)
                console.print()
        if console is None:
            typer.echo(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False))


def _quickest() -> str | None:
    """llama.cpp where it is installed; else None, the usual backend."""
    try:
        InstalledBackends().load("llama-cpp")
    except BackendNotInstalledError:
        return None
    return "llama-cpp"
