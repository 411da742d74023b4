"""What confidences of tokens tell of right and wrong samples: `python benchmarks/token_signals.py ROLLOUTS.parquet`.

The rollouts were collected with `--confidences`. For every signal: the probability that a right sample has more of it
than a wrong one (AUROC), over all samples that came to their end, and over the pairs of one question.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import table, write
from zip_introspect.errors import EvaluationDataError
from zip_introspect.evaluation.measures.metrics import auroc, auroc_within
from zip_introspect.evaluation.store.rollout_file import Rollouts
from zip_introspect.result import TokenConfidence
from zip_introspect.search.token_confidence import ConfidenceTrace


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rollouts", type=Path)
    parser.add_argument("--window", type=int, default=64, help="tokens of a group")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    rollouts = Rollouts.load(options.rollouts)
    problems, right, signals = read(rollouts, options.window)
    rows: list[dict[str, Any]] = []
    for name, values in signals.items():
        within, pairs = auroc_within(problems, right, values)
        rows.append({"signal": name, "auroc": auroc(right, values), "within": within, "pairs": pairs})
    print(f"{len(right):,} samples of {len(rollouts.problems):,} questions, {np.mean(right):.1%} of them right")
    print(
        table(
            ["signal", "AUROC", "within a question"],
            [[row["signal"], f"{row['auroc']:.3f}", f"{row['within']:.3f}"] for row in rows],
        )
    )
    write(options.out, {"window": options.window, "samples": len(right), "rows": rows})


def read(rollouts: Rollouts, window: int) -> tuple[list[int], list[bool], dict[str, list[float]]]:
    """Of every sample that came to its end: its question, whether it is right, and each signal."""
    problems: list[int] = []
    right: list[bool] = []
    signals: dict[str, list[float]] = {field.name: [] for field in fields(TokenConfidence)}
    if rollouts.grid:
        signals["value"] = []
    for place, problem in enumerate(rollouts.problems):
        for rollout in problem.rollouts:
            if rollout.confidences is None:
                raise EvaluationDataError("the rollouts hold no confidences; collect them with --confidences")
            if not rollout.finished:
                continue
            trace = ConfidenceTrace(window)
            trace.grow(rollout.confidences)
            found = trace.read()
            assert found is not None, "a stored sample has a token"
            told = asdict(found) | ({"value": rollouts.final_value(rollout)} if rollouts.grid else {})
            for name, value in told.items():
                signals[name].append(value)
            problems.append(place)
            right.append(rollout.right)
    return problems, right, signals


if __name__ == "__main__":
    main()
