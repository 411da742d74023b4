"""`zip-introspect version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, entry_points
from importlib.metadata import version as installed

import typer

from zip_introspect.backend.discovery import ENTRY_POINT_GROUP

_NAMED = ("numpy", "pydantic", "torch", "transformers", "safetensors")


def version() -> None:
    """Show the versions of the library, of what it runs on, and the backends that are announced."""
    typer.echo(f"zip-introspect {installed('zip-introspect')}")
    typer.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _NAMED:
        try:
            typer.echo(f"{name} {installed(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} is not installed")
    names = sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    typer.echo(f"backends: {', '.join(names) or 'none'}")
