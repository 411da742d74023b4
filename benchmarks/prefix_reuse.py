"""What a prompt costs whose beginning was computed before: `python benchmarks/prefix_reuse.py [MODEL] [--tokens 1500]`.

Two questions behind one long beginning, as agents send with every call: the seconds until the first token of the first
call, and of the second, and of a third one with keeping switched off. The default is the embedded model, whose context
holds some 1,000 tokens; of others, the first spare token is given, and every backend that opens the file is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.reporting import processor, table, write
from zip_introspect import IntrospectiveLLM, JointGrid
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL

LINE = "You are a careful assistant; rule {}: look at what was asked, use a tool where one helps, and say why. "
QUESTIONS = ("What is 3*x+5=35?", "And what of 2*x+1=7?")


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a directory or GGUF file (default: the embedded model)")
    parser.add_argument("--first-reserved", type=int, help="the first spare token id of a model without a grid")
    parser.add_argument("--tokens", type=int, default=None, help="of the beginning (default: 1500, embedded 600)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    names = [name for name, module in (("transformers", "torch"), ("llama-cpp", "llama_cpp")) if find_spec(module)]
    if options.model:
        names = ["llama-cpp" if options.model.endswith(".gguf") else "transformers"]
    length = options.tokens or (1500 if options.model else 600)
    grid = JointGrid.paper(first_reserved=options.first_reserved) if options.first_reserved else None
    rows: list[dict[str, Any]] = []
    for name in names:
        model = options.model or str(DEMO_GGUF if name == "llama-cpp" else DEMO_MODEL)
        settings: dict[str, Any] = {"grid": grid, "threads": options.threads}
        with (
            IntrospectiveLLM.from_pretrained(model, name, **settings) as llm,
            IntrospectiveLLM.from_pretrained(model, name, **settings, prefix_cache=0) as plain,
        ):
            rows.append({"backend": name, "model": Path(model).name, **measure(llm, plain, length, options.rounds)})
    print(f"{processor()}\n")
    header = ["backend", "model", "prompt", "first call, s", "second, s", "of the first", "taken over", "not kept, s"]
    told = [
        [
            row["backend"],
            row["model"],
            row["prompt_tokens"],
            *(f"{row[key]:.3f}" for key in ("first", "second", "ratio")),
            row["cached_tokens"],
            f"{row['plain']:.3f}",
        ]
        for row in rows
    ]
    print(table(header, told))
    write(options.out, {"device": processor(), "rows": rows})


def measure(llm: IntrospectiveLLM, plain: IntrospectiveLLM, length: int, rounds: int) -> dict[str, Any]:
    """Median seconds to the first token of each call, and the median ratio of each round."""
    seconds: dict[str, list[float]] = {"first": [], "second": [], "plain": []}
    first_token(llm, "a short one"), first_token(plain, "a short one")  # what is done once
    for number in range(rounds):
        beginning = long_text(llm, length, number)
        seconds["first"].append(first_token(llm, beginning + QUESTIONS[0])[0])
        later, result = first_token(llm, beginning + QUESTIONS[1])
        seconds["second"].append(later)
        seconds["plain"].append(first_token(plain, beginning + QUESTIONS[1])[0])
    found: dict[str, Any] = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [two / one for one, two in zip(seconds["first"], seconds["second"], strict=True)]
    usage = {"prompt_tokens": result.usage.prompt_tokens, "cached_tokens": result.usage.cached_tokens}
    return {**found, "ratio": statistics.median(ratios), **usage}


def long_text(llm: IntrospectiveLLM, tokens: int, number: int) -> str:
    """A text of about so many tokens, another one for each number."""
    line = LINE.format(0)
    count = max(1, tokens // llm.count_tokens(line, chat=False))
    return "".join(LINE.format(f"{number}.{place}") for place in range(count))


def first_token(llm: IntrospectiveLLM, prompt: str) -> tuple[float, Any]:
    """Seconds of a call that ends after one token, and its result."""
    begun = time.perf_counter()
    result = llm.generate(prompt, strategy="single", max_new_tokens=1)
    return time.perf_counter() - begun, result


if __name__ == "__main__":
    main()
