"""What confidence means after a search: `python benchmarks/searched_confidence.py build/abacus.parquet`.

Replays of stored rollouts, each question once; the calibration error is that of ten bins (ECE).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.reporting import table, write
from zip_introspect.config import GenerationConfig
from zip_introspect.evaluation.measures.metrics import expected_calibration_error
from zip_introspect.evaluation.replay.trials import Setting, played
from zip_introspect.evaluation.store.rollout_file import Rollouts


def main() -> None:
    """Print the table, and keep it as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rollouts", nargs="?", type=Path, default=Path("build/abacus.parquet"))
    parser.add_argument("--strategies", nargs="+", default=["zip_rc", "answer_posterior"], metavar="NAME")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 1.0], metavar="ALPHA")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.5, 0.1, 0.02, 0.005], metavar="BETA")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rollouts = Rollouts.load(options.rollouts)
    config = GenerationConfig(max_new_tokens=rollouts.max_new_tokens, max_samples=8)
    rows = []
    for name in options.strategies:
        for alpha in options.alphas:
            for beta in options.betas:
                found = played(rollouts, Setting(name, config.replace(strategy=name, alpha=alpha, beta=beta)))
                right = np.array([item.right for item in found])
                sure = np.array([item.confidence for item in found])
                error = expected_calibration_error(right, sure)
                rows.append((name, alpha, beta, float(right.mean()), float(sure.mean()), float(error)))
    headings = ["strategy", "alpha", "beta", "right", "mean confidence", "calibration error"]
    print(table(headings, [[name, f"{a:g}", f"{b:g}", *(f"{n:.3f}" for n in rest)] for name, a, b, *rest in rows]))
    write(options.out, {"rows": [dict(zip(headings, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
