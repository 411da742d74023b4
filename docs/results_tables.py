"""The tables of the results page, from the report beside it: docs/results, as `make reproduce` and `take` leave it.

`python docs/results_tables.py build/results` takes over what the page shows of a report; `docs/make_tables.py` then
writes the tables.
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

from benchmarks.reporting import table

RESULTS = Path(__file__).parent / "results"
COLUMNS = (("0.1", "0.05"), ("0.1", "0.01"), ("1", "0.05"), ("1", "0.01"))
"""Alpha and beta."""
PAPER_MATCHED = {
    "ZIP-RC": ("92.2 (1.43)", "86.0 (1.35)", "74.1 (1.49)"),
    "majority vote": ("91.0 (1.40)", "83.8 (1.60)", "68.8 (1.70)"),
    "majority vote, length-pruned": ("88.0 (1.46)", "84.9 (1.70)", "70.6 (1.66)"),
    "weighted best of N, external model": ("91.0 (1.43)", "82.5 (1.53)", "67.8 (1.59)"),
    "weighted best of N, self-evaluation": ("91.6 (1.40)", "84.9 (1.60)", "71.1 (1.70)"),
    "reward pruning, over N": ("88.9 (1.33)", "85.8 (1.49)", "67.8 (1.27)"),
}
"""Table 2, all benchmarks together: percent, and cost."""
PAPER_PREDICTIONS = {
    "Qwen3-1.7B, paper": ("0.46", "0.91", "0.88", "0.82"),
    "LFM2-1.2B, paper": ("0.45", "0.91", "0.87", "0.69"),
    "LFM2-350M, paper": ("0.48", "0.80", "0.82", "0.87"),
    "Qwen3-1.7B, ZIP-RC-Lite, paper": ("0.63", "0.82", "0.71", "0.12"),
}
"""Tables 1 and 3."""
_FIGURES = ("total variation at the start", "F1 at 0.5", "accuracy at 0.5", "recall of incorrect at 0.5")


def read(name: str) -> list[list[str]]:
    """The rows of a table of the report."""
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def whole(name: str) -> str:
    """A table of the report as it is."""
    headings, *rows = read(name)
    return table(headings, rows)


def differences() -> str:
    """ZIP-RC less each strategy at equal cost, at some settings."""
    headings, columns = [], []
    for alpha, beta in COLUMNS:
        cost = next(row[6] for row in read(f"points_alpha_{alpha}") if row[:3] == ["ZIP-RC", f"beta {beta}", "all"])
        headings.append(f"alpha {alpha}, beta {beta} (cost {float(cost):.2f})")
        columns.append({row[1]: row[2] for row in read(f"differences_alpha_{alpha}") if row[0] == f"beta {beta}"})
    rows = [[rival, *(column[rival] for column in columns)] for rival in columns[0] if not rival.startswith("pass@k")]
    return table(["less", *headings], rows)


def matched() -> str:
    """Table 2: the paper's beside ours."""
    ours = {row[0]: f"{row[3]} ({row[2]})" for row in read("matched_alpha_0.1")}
    rows = [[name, *paper, ours[name]] for name, paper in PAPER_MATCHED.items()]
    return table(["", "Qwen3-1.7B", "LFM2-1.2B", "LFM2-350M", "embedded model"], rows)


def predictions() -> str:
    """Tables 1 and 3: the paper's beside ours."""
    rows = [[name, *figures] for name, figures in PAPER_PREDICTIONS.items()]
    for title, name in (("embedded model", "predictions"), ("embedded model, ZIP-RC-Lite", "predictions_lite")):
        found = {row[0]: row[1] for row in read(name)}
        rows.append([title, *(found[figure] for figure in _FIGURES)])
    return table(["", "total variation", "F1", "accuracy", "recall of wrong answers"], rows)


def compute() -> str:
    """What each group got of ZIP-RC at one beta: samples, and compute."""
    rows = []
    for alpha in ("0.1", "1"):
        found = [row for row in read(f"points_alpha_{alpha}") if row[:2] == ["ZIP-RC", "beta 0.05"] and row[2] != "all"]
        for figure, place in (("samples", 11), ("compute", 9)):
            rows.append([f"alpha {alpha}: {figure}", *(f"{float(row[place]):.1f}" for row in found)])
    return table(["", *(row[2] for row in found)], rows)


def take(folder: Path) -> None:
    """Copy what the page needs of a report: its page, tables and SVG figures."""
    for file in sorted(folder.iterdir()):
        if file.suffix in {".csv", ".md", ".svg"}:
            shutil.copy2(file, RESULTS / file.name)
    page = RESULTS / "report.md"
    page.write_text(page.read_text(encoding="utf-8").replace(".png)", ".svg)"), encoding="utf-8")


if __name__ == "__main__":
    take(Path(sys.argv[1]))
