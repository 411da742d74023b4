"""The README's figures are those of docs/embedded-model-figures.json, of which the page of figures is made."""

from __future__ import annotations

import json
from pathlib import Path

from zip_introspect.demo.recipe.report import page, summary

ROOT = Path(__file__).parents[2]


def test_the_pages_say_what_was_measured() -> None:
    figures = json.loads((ROOT / "docs" / "embedded-model-figures.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "embedded-model-figures.md").read_text(encoding="utf-8") == page(figures)
    assert summary(figures) in (ROOT / "README.md").read_text(encoding="utf-8")
