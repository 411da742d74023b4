"""The embedded model under llama.cpp against transformers in float32: `python benchmarks/llama_cpp_agreement.py`.

For each type of GGUF: how far reserved logits and joints are apart on held-out problems, how many greedy texts are the
same, and how many of the problems one sample solves, the same random numbers for all.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from scipy.stats import binomtest

from zip_introspect import IntrospectiveLLM
from zip_introspect.backend.exporting import exporter
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.demo.problems import Problem, held_out
from zip_introspect.evaluation.measures.agreement import agreement


def solved(llm: IntrospectiveLLM, problems: list[Problem]) -> str:
    """The share of problems that one sample solves, with its 95% interval (Wilson)."""
    results = llm.batch([problem.prompt for problem in problems], strategy="single", max_new_tokens=640, seed=1)
    right = sum(problem.grade(result.text) for problem, result in zip(problems, results, strict=True))
    low, high = binomtest(right, len(problems)).proportion_ci(method="wilson")
    return f"{right / len(problems):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="*", default=["f32", "f16", "q8_0", "q4_0"])
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--compared", type=int, default=50, help="problems whose logits are compared")
    options = parser.parse_args()
    problems = held_out(0, options.problems)
    print("| type | reserved logits | joints | total variation | greedy texts the same | one sample solves |")
    print("|---|---|---|---|---|---|")
    with IntrospectiveLLM.demo(backend="transformers") as exact, tempfile.TemporaryDirectory() as folder:
        prompts = [exact.backend.encode(problem.prompt) for problem in problems[: options.compared]]
        print(f"| transformers, float32 | | | | | {solved(exact, problems)} |", flush=True)
        for kind in options.types:
            file = Path(folder) / f"abacus-{kind}.gguf"
            exporter("gguf").export(DEMO_MODEL, file, kind)
            with IntrospectiveLLM.from_pretrained(file) as llm:
                found = agreement(exact.backend, llm.backend, prompts, steps=256)
                same = f"{found.same_texts} of {len(prompts)}"
                print(
                    f"| {kind} | {found.logits:.1e} | {found.joints:.1e} | {found.total_variation:.4f} | {same} | "
                    f"{solved(llm, problems)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
