"""Whether stated levels of error hold for the embedded model: `python benchmarks/calibration_splits.py`.

Answers to held-out problems are split at random into calibration and test halves, again and again. For each
level: in how many splits the error of the answered test questions is above it, and what share is answered.
"""

from __future__ import annotations

import argparse

import numpy as np

from zip_introspect import IntrospectiveLLM
from zip_introspect.demo.problems import held_out
from zip_introspect.evaluation.measures.calibrating import LEVELS, fit
from zip_introspect.evaluation.measures.metrics import expected_calibration_error


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=4000)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--strategy", default="single")
    parser.add_argument("--backend", default=None)
    options = parser.parse_args()
    problems = held_out(1, options.problems)
    with IntrospectiveLLM.demo(backend=options.backend) as llm:
        results = llm.batch([problem.prompt for problem in problems], strategy=options.strategy, seed=2)
    confidences = np.array([result.confidence for result in results])
    right = np.array([problem.grade(result.text) for problem, result in zip(problems, results, strict=True)], float)
    rng = np.random.default_rng(0)
    errors: list[list[float]] = []
    answered: list[list[float]] = []
    gaps = []
    for _ in range(options.splits):
        order = rng.permutation(len(problems))
        known, new = order[: len(order) // 2], order[len(order) // 2 :]
        found = fit(confidences[known], right[known], delta=options.delta)
        gaps.append(
            [
                expected_calibration_error(right[new], values)
                for values in (confidences[new], found.apply(confidences[new]))
            ]
        )
        lowest = [np.inf if item.confidence is None else item.confidence for item in found.thresholds]
        chosen = [confidences[new] >= value for value in lowest]
        errors.append([float(1 - right[new][inside].mean()) if inside.any() else 0.0 for inside in chosen])
        answered.append([float(inside.mean()) for inside in chosen])
    before, after = np.mean(gaps, axis=0)
    print(f"{len(problems):,} problems, {right.mean():.1%} right by {options.strategy}")
    print(f"{options.splits} splits, delta {options.delta}")
    print(f"calibration error (ECE) {before:.4f} before, {after:.4f} after isotonic calibration")
    print("| wrong answers, at most | splits above it | mean error | questions answered |")
    print("|---|---|---|---|")
    for place, level in enumerate(LEVELS):
        wrong = np.array(errors)[:, place]
        share = np.array(answered)[:, place]
        print(f"| {level:.0%} | {(wrong > level).sum()} of {len(wrong)} | {wrong.mean():.2%} | {share.mean():.1%} |")


if __name__ == "__main__":
    main()
