"""Capture real runs of the embedded model for the README: `python docs/make_captures.py`.

Writes the session between README.md's markers, and one search as docs/figures/search.json and search.svg.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
QUESTION = "Solve x*x+7*x+45=189"
WIDTH = 100


def run(*arguments: str) -> str:
    """What `zip-introspect` writes on stdout, without a terminal."""
    command = [sys.executable, "-m", "zip_introspect", *arguments]
    environment = {**os.environ, "COLUMNS": str(WIDTH)}
    return subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    """Capture the session and the search."""
    session = "\n".join(line.rstrip() for line in run("demo").splitlines()).strip()
    readme = ROOT / "README.md"
    block = f"\n```text\n$ zip-introspect demo\n{session}\n```\n\n"
    text = re.sub(
        r"(<!-- session -->\n).*?(<!-- end -->)",
        lambda found: found[1] + block + found[2],
        readme.read_text(encoding="utf-8"),
        count=1,
        flags=re.DOTALL,
    )
    readme.write_text(text, encoding="utf-8")
    FIGURES.mkdir(exist_ok=True)
    search, figure = FIGURES / "search.json", FIGURES / "search.svg"
    search.write_text(run("ask", QUESTION, "--json"), encoding="utf-8")
    subprocess.run([sys.executable, ROOT / "docs" / "make_figure.py", search, figure], check=True)


if __name__ == "__main__":
    main()
