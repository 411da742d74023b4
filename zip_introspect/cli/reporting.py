"""How a command ends badly: one line on stderr and an exit code, the traceback only where it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from zip_introspect.cli import EXIT_ERROR, EXIT_INTERRUPTED
from zip_introspect.cli.text import one_line
from zip_introspect.errors import ZipIntrospectError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON on stdout, and nothing else.")]


@contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Turn what goes wrong inside into one line and an exit code, unless `debug`."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, ZipIntrospectError)
        what = str(error) if known else f"{type(error).__name__}: {error}. This is a defect; --debug shows where."
        typer.echo(f"error: {one_line(what)}", err=True)
        raise typer.Exit(EXIT_ERROR) from None
