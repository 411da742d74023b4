"""What reading the joint costs: `python benchmarks/introspection_overhead.py`.

The same backend decodes with the reserved logits read and masked at every token, and with none of them read or masked:
what is drawn differs then, though not how long it takes. Rounds take turns, and the ratio is that of the medians of a
run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zip_introspect import IntrospectiveLLM, SamplingParams
from zip_introspect.backend import Backend
from zip_introspect.demo.problems import held_out


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=32, help="fewer than a sample takes, so that none ends")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in ("transformers", *(["llama-cpp"] if find_spec("llama_cpp") else [])):
        with IntrospectiveLLM.demo(backend=name) as llm:
            for samples in options.samples:
                speeds = measure(llm.backend, samples, options.steps, options.rounds)
                rows.append({"backend": name, "samples": samples, **speeds})
    print("| backend | samples | read, tokens/s | not read, tokens/s | ratio |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['backend']} | {row['samples']} | {row['read']:.0f} | {row['blind']:.0f} | {row['ratio']:.3f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(backend: Backend, samples: int, steps: int, rounds: int) -> dict[str, float]:
    """Median tokens a second, read and not read, and their ratio."""
    prompt = backend.encode(held_out(9, 5)[4].prompt)
    speeds: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(rounds + 1):
        for read in (True, False):
            blind(backend, not read)
            (root,) = backend.prefill([prompt])
            sequences = backend.fork(root.sequence, range(samples), SamplingParams(seed=seed))
            begun = time.perf_counter()
            drawn = backend.advance(sequences, [steps] * samples)
            seconds = time.perf_counter() - begun
            backend.release([root.sequence, *sequences])
            if seed:  # the first round warms up
                speeds[read].append(sum(len(item.tokens) for item in drawn) / seconds)
    blind(backend, False)
    seen, unseen = statistics.median(speeds[True]), statistics.median(speeds[False])
    return {"read": seen, "blind": unseen, "ratio": seen / unseen}


def blind(backend: Any, wanted: bool) -> None:
    """Let a backend read no reserved column, or all of them again."""
    first, last = backend.grid.first_reserved, backend.grid.reserved_token_ids[-1] + 1
    if backend.info.backend == "transformers":
        backend._decoder._first, backend._decoder._last = (last, last) if wanted else (first, last)
    else:
        backend._reserved = slice(last, last) if wanted else slice(first, last)


if __name__ == "__main__":
    main()
