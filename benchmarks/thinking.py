"""What an answer's share of few tokens is worth: `python benchmarks/thinking.py [--questions 100]`.

The embedded model writes its working and then `ans N`. Held-out questions get one sample of few tokens each: cut where
they end, its working closed in time for an answer (count), or where the joint says that working on is not worth it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

from benchmarks.reporting import processor, table, write
from zip_introspect import IntrospectiveLLM, Thinking
from zip_introspect.demo.problems import Problem, held_out

MARKERS: dict[str, Any] = {"open": None, "close": "\nans", "forced": "\ngive up\nans"}
"""After `give up` it has learnt to name its best guess."""


def measure(
    llm: IntrospectiveLLM, problems: list[Problem], by: Literal["count", "joint", "never"], most: int, beta: float
) -> dict[str, Any]:
    """How often the questions were answered, and rightly, and what that took."""
    thinking = Thinking(**MARKERS, by=by, answer_budget=6)
    found = llm.batch(
        [problem.prompt for problem in problems], strategy="single", max_new_tokens=most, thinking=thinking, beta=beta
    )
    right = [
        result.answer is not None and result.answer == str(problem.answer)
        for problem, result in zip(problems, found, strict=True)
    ]
    return {
        "max_new_tokens": most,
        "by": by,
        "answered": sum(result.answer is not None for result in found) / len(found),
        "right": sum(right) / len(found),
        "confidence": sum(result.confidence for result in found) / len(found),
        "tokens": sum(result.usage.generated_tokens for result in found) / len(found),
    }


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--max-new-tokens", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--beta", type=float, default=0.1, help="the price by which the joint closes")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    problems = held_out(0, options.questions)
    with IntrospectiveLLM.demo() as llm:
        rows = [
            measure(llm, problems, by, most, options.beta)
            for most in options.max_new_tokens
            for by in ("never", "count", "joint")
        ]
    print(f"{processor()}, {options.questions} questions\n")
    shown = [
        [
            row["max_new_tokens"],
            row["by"],
            *(f"{row[name]:.2f}" for name in ("answered", "right", "confidence")),
            f"{row['tokens']:.0f}",
        ]
        for row in rows
    ]
    print(table(["max_new_tokens", "by", "answered", "right", "confidence", "tokens"], shown))
    write(options.out, {"questions": options.questions, "beta": options.beta, "rows": rows})


if __name__ == "__main__":
    main()
