"""What the text of a growing sample costs: `python benchmarks/streaming.py [--tokens 2048 --interval 16]`.

Every interval a sample's text is asked for: piece by piece, as a search does, without and with stop strings to look
for; and, to compare, by decoding the whole sample anew each time. No model runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.reporting import processor, table, write
from zip_introspect import IntrospectiveLLM
from zip_introspect.backend.contract import Backend
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL
from zip_introspect.search.stopping import SampleText

TEXT = "def add(a, b):\n    return a + b  # 日本語 — naïve 🙂\n\nSolve 3*x+16=31: x = 5.\n"
STOPS = ("</answer>", "\nQuestion:")


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a directory or GGUF file (default: the embedded model)")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--interval", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    names = [name for name, module in (("transformers", "torch"), ("llama-cpp", "llama_cpp")) if find_spec(module)]
    if options.model:
        names = ["llama-cpp" if options.model.endswith(".gguf") else "transformers"]
    rows: list[dict[str, Any]] = []
    for name in names:
        model = options.model or str(DEMO_GGUF if name == "llama-cpp" else DEMO_MODEL)
        with IntrospectiveLLM.from_pretrained(model, name) as llm:
            seconds = measure(llm.backend, options.tokens, options.interval, options.rounds)
            rows.append({"backend": name, "model": Path(model).name, "device": processor(), **seconds})
    print(f"{options.tokens} tokens, text every {options.interval}\n")
    header = ["backend", "model", "device", "pieces, ms", "and stop strings, ms", "anew, ms"]
    told = [
        [
            row["backend"],
            row["model"],
            row["device"],
            *(f"{1000 * row[key]:.1f}" for key in ("pieces", "stops", "anew")),
        ]
        for row in rows
    ]
    print(table(header, told))
    write(options.out, {"tokens": options.tokens, "interval": options.interval, "rows": rows})


def measure(backend: Backend, tokens: int, interval: int, rounds: int) -> dict[str, float]:
    """Median seconds of all intervals together, for each way."""
    line = backend.encode(TEXT, chat=False)
    ids = (line * (tokens // len(line) + 1))[:tokens]
    ways: dict[str, Callable[[], str]] = {
        "pieces": lambda: grown(SampleText(backend.decode_stream()), ids, interval),
        "stops": lambda: grown(SampleText(backend.decode_stream(), STOPS), ids, interval),
        "anew": lambda: [backend.decode(ids[: end + interval]) for end in range(0, tokens, interval)][-1],
    }
    if len({way() for way in ways.values()}) != 1:  # warms up, too
        raise SystemExit("the ways give different texts")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def grown(text: SampleText, ids: Sequence[int], interval: int) -> str:
    """The text of tokens that come an interval at a time."""
    for start in range(0, len(ids), interval):
        text.grow(ids[start : start + interval])
    return text.end()


if __name__ == "__main__":
    main()
