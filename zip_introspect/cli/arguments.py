"""How the command line reads what has no type of its own."""

from __future__ import annotations

from pathlib import Path

from zip_introspect.paths import expanded


def path(given: str) -> Path:
    """A path, as `zip_introspect.paths` reads it."""
    return Path(expanded(given))
