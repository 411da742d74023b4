"""The house: one name for one thing, files of a size to read, and a plan of it that shows every room."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = sorted(
    file for folder in ("zip_introspect", "backends", "integrations") for file in (ROOT / folder).rglob("*.py")
)
MOST_LINES = 400


def test_no_public_class_has_the_name_of_another() -> None:
    places = defaultdict(list)
    for file in CODE:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(file.relative_to(ROOT)))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice


def test_no_file_is_too_long_to_read() -> None:
    files = [*CODE, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES}


def test_the_architecture_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "zip_introspect"
    rooms = {f"`{folder.parent.name}/`" for folder in package.glob("*/__init__.py")}
    rooms |= {f"`{file.stem}`" for file in package.glob("*.py") if not file.stem.startswith("__")}
    integration = ROOT / "integrations" / "langchain_zip_introspect"
    rooms |= {f"`{file.stem}`" for file in integration.glob("*.py") if not file.stem.startswith("__")}
    assert not {room for room in rooms if room not in page}
