"""The option that fixes a result, or leaves it to chance."""

from __future__ import annotations

import typer

from zip_introspect.config import fresh_seed

SEED_HELP = "Fixes the result; random draws one, which the result names."


def parse_seed(given: str | int) -> int:
    """A seed from the command line: a whole number, or `random` for a fresh one."""
    if given == "random":
        return fresh_seed()
    try:
        return int(given)
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no seed; expected a whole number, or random") from None
