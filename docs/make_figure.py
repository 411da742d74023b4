"""Draw one search as a timeline: `python docs/make_figure.py search.json search.svg`.

The JSON is what `zip-introspect ask --json` writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from zip_introspect.evaluation.reporting.drawing import save
from zip_introspect.evaluation.reporting.timeline import timeline


def main() -> None:
    """Read the JSON, write the picture."""
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/make_figure.py SEARCH.json FIGURE.svg")
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    save(timeline(result), Path(sys.argv[2]).with_suffix(""), ["svg"])


if __name__ == "__main__":
    main()
