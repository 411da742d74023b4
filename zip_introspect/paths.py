"""Paths as users write them: `~` is their home, which no shell expands in Python, in quotes or behind `=`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar, cast

P = TypeVar("P", bound=str | Path)


def expanded(path: P) -> P:
    """A path, or a name that may be one, with `~` or `~user` at its beginning replaced; others as they are."""
    found = os.path.expanduser(str(path))
    return cast(P, Path(found) if isinstance(path, Path) else found)
