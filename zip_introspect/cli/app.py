"""The commands, put together. One command a file."""

from __future__ import annotations

import typer

from zip_introspect.cli.answer import answer
from zip_introspect.cli.ask import ask
from zip_introspect.cli.attach import attach
from zip_introspect.cli.calibrate import calibrate
from zip_introspect.cli.demo import demo
from zip_introspect.cli.evaluate import evaluate, report
from zip_introspect.cli.export import attach_grid, export
from zip_introspect.cli.fit import fit
from zip_introspect.cli.inspect import inspect
from zip_introspect.cli.rollouts import rollouts
from zip_introspect.cli.score import score
from zip_introspect.cli.train import train
from zip_introspect.cli.version import version

app = typer.Typer(
    help="Ask language models that know how likely they are to be right and how many tokens they still need.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    ask,
    answer,
    inspect,
    demo,
    fit,
    attach,
    train,
    calibrate,
    rollouts,
    score,
    evaluate,
    report,
    attach_grid,
    version,
):
    app.command()(command)
app.add_typer(export, name="export")
