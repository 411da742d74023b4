"""The command line, `zip-introspect`. It needs the extra `cli` (Typer and Rich)."""

from __future__ import annotations

import sys

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def main() -> None:
    """The console script. Exit codes: 0 done, 1 an error of ours, 2 wrong usage, 130 interrupted."""
    try:
        from zip_introspect.cli.app import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("rich", "typer"):
            raise
        print(
            f"error: the command line needs the package {package!r}, which is not installed. "
            'Install it with: pip install "zip-introspect[cli]"',
            file=sys.stderr,
        )
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    app(prog_name="zip-introspect")
