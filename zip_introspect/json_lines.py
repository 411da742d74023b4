"""JSONL files of others, which are not trusted: one object a line, none of them longer than memory likes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zip_introspect.errors import ZipIntrospectError

LONGEST = 1 << 20
"""Bytes of a line."""


def objects(file: Path, error: type[ZipIntrospectError]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a file, each with where it stands.

    Raises:
        error: a line that is too long, no JSON, or no object.
    """
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST + 1), b""), 1):
            where = f"line {number} of {file}"
            if len(line) > LONGEST:
                raise error(f"{where} has more than {LONGEST:,} bytes; expected one question a line")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as cause:
                raise error(f"{where} is not JSON: {cause}; expected one object a line") from cause
            if not isinstance(row, dict):
                raise error(f"{where} is a {type(row).__name__}; expected one object a line")
            yield where, row
