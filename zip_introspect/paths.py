"""Paths as users write them: `~` is their home, which no shell expands in Python, in quotes or behind `=`; and files
known again without reading all of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar, cast

P = TypeVar("P", bound=str | Path)


def expanded(path: P) -> P:
    """A path, or a name that may be one, with `~` or `~user` at its beginning replaced; others as they are."""
    found = os.path.expanduser(str(path))
    return cast(P, Path(found) if isinstance(path, Path) else found)


_READ = 1 << 20


def digest(file: Path) -> str:
    """Of a file's size, its beginning and its end: where a description of all is, or what training changes.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        begins, size = stream.read(_READ), stream.seek(0, 2)
        stream.seek(max(size - _READ, 0))
        return f"{size} {hashlib.sha256(begins + stream.read()).hexdigest()[:16]}"
