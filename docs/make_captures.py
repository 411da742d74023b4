"""Capture real runs of the embedded model for the README: `python docs/make_captures.py`.

Writes the session and the measured results (docs/embedded-model-figures.json) between README.md's markers, and one
search as docs/figures/search.json and search.svg.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from zip_introspect.demo.recipe.report import summary

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
QUESTION = "Which x solves 9*x+25=3*x+97?"
WIDTH = 100


def run(*arguments: str) -> str:
    """What `zip-introspect` writes on stdout, without a terminal."""
    command = [sys.executable, "-m", "zip_introspect", *arguments]
    environment = {**os.environ, "COLUMNS": str(WIDTH)}
    return subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


def results() -> str:
    """The README's results, of docs/embedded-model-figures.json."""
    figures = json.loads((ROOT / "docs" / "embedded-model-figures.json").read_text(encoding="utf-8"))
    return f"\n{summary(figures)}\n\n"


def fill(text: str, name: str, block: str) -> str:
    """The text with a block between its markers `<!-- name -->` and `<!-- end -->`."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda found: found[1] + block + found[2], text, count=1, flags=re.DOTALL)


def main() -> None:
    """Capture the session and the search."""
    session = "\n".join(line.rstrip() for line in run("demo", "--backend", "transformers").splitlines()).strip()
    readme = ROOT / "README.md"
    block = f"\n```text\n$ zip-introspect demo\n{session}\n```\n\n"
    text = fill(readme.read_text(encoding="utf-8"), "session", block)
    readme.write_text(fill(text, "results", results()), encoding="utf-8")
    FIGURES.mkdir(exist_ok=True)
    search, figure = FIGURES / "search.json", FIGURES / "search.svg"
    search.write_text(run("ask", QUESTION, "--json"), encoding="utf-8")
    subprocess.run([sys.executable, ROOT / "docs" / "make_figure.py", search, figure], check=True)


if __name__ == "__main__":
    main()
