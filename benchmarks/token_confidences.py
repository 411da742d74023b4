"""What confidences of tokens cost: `python benchmarks/token_confidences.py [MODEL] [--device cuda]`.

The same backend decodes the same tokens with their confidences reported and without. Rounds take turns, and so does
which of the two goes first; the ratio is the median of each round's ratio. A small model's step is short and its
vocabulary too, so the second table tells what one step's confidences take of a large vocabulary, on random logits: to
be held against a step of the model that has one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import device_name, table, write
from zip_introspect import IntrospectiveLLM, SamplingParams
from zip_introspect.backend.confidences import token_confidences
from zip_introspect.backend.contract import Backend
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL
from zip_introspect.demo.problems import held_out


def main() -> None:
    """Print the tables, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", help="a directory or GGUF file (default: the embedded model, every backend)"
    )
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32, help="fewer than a sample takes, so that none ends")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--vocabulary", type=int, default=152_064, help="of the random logits")
    parser.add_argument("--device", default="auto", help="of transformers: auto is cuda where there is one, else cpu")
    parser.add_argument("--dtype", default="auto", help="of transformers")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    large: list[dict[str, Any]] = []
    names = [name for name, module in (("transformers", "torch"), ("llama-cpp", "llama_cpp")) if find_spec(module)]
    if options.model:
        names = ["llama-cpp" if options.model.endswith(".gguf") else "transformers"]
    for name in names:
        settings: dict[str, Any] = {"threads": options.threads} if options.threads else {}
        if name == "transformers":
            settings |= {"device": options.device, "dtype": options.dtype}
        model = options.model or str(DEMO_GGUF if name == "llama-cpp" else DEMO_MODEL)
        with IntrospectiveLLM.from_pretrained(model, name, **settings) as llm:
            told = {"backend": name, "device": device_name(llm.info), "samples": options.samples}
            speeds = measure(llm.backend, options.samples, options.steps, options.rounds)
            rows.append({**told, "model": Path(model).name, "vocabulary": llm.info.vocab_size, **speeds})
            step = with_torch if name == "transformers" else with_numpy
            seconds = timed(step(options.samples, options.vocabulary, llm.info.device), options.rounds)
            large.append({**told, "vocabulary": options.vocabulary, "seconds": seconds})
    print(
        table(
            ["backend", "model", "device", "samples", "reported, tokens/s", "not reported, tokens/s", "ratio"],
            [
                [
                    *(row[key] for key in ("backend", "model", "device", "samples")),
                    f"{row['told']:,.0f}",
                    f"{row['silent']:,.0f}",
                    f"{row['ratio']:.3f}",
                ]
                for row in rows
            ],
        )
    )
    print()
    print(
        table(
            ["backend", "vocabulary", "samples", "ms a step"],
            [
                [row["backend"], f"{row['vocabulary']:,}", row["samples"], f"{1000 * row['seconds']:.2f}"]
                for row in large
            ],
        )
    )
    write(options.out, {"rows": rows, "large": large})


def measure(backend: Backend, samples: int, steps: int, rounds: int) -> dict[str, float]:
    """Median tokens a second, with confidences and without, and the median of their ratio in a round."""
    prompt = backend.encode(held_out(9, 5)[4].prompt)
    speeds: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(rounds + 1):
        for told in (True, False) if seed % 2 else (False, True):
            (root,) = backend.prefill([prompt])
            sampling = SamplingParams(seed=seed, confidences=told)
            sequences = backend.fork(root.sequence, range(samples), sampling)
            begun = time.perf_counter()
            drawn = backend.advance(sequences, [steps] * samples)
            seconds = time.perf_counter() - begun
            backend.release([root.sequence, *sequences])
            if seed:  # the first round warms up
                speeds[told].append(sum(len(item.tokens) for item in drawn) / seconds)
    ratio = statistics.median(told / silent for told, silent in zip(speeds[True], speeds[False], strict=True))
    return {"told": statistics.median(speeds[True]), "silent": statistics.median(speeds[False]), "ratio": ratio}


def with_torch(samples: int, vocabulary: int, device: str) -> Callable[[], Any]:
    """A step's confidences as the transformers backend computes them, up to their arrival on the host."""
    import torch  # a llama.cpp installation has none

    from zip_introspect_transformers.sampling import token_confidences as computed

    logits = torch.from_numpy(_logits(samples, vocabulary)).to(device)
    drawn = logits.argmax(-1)
    return lambda: computed(logits, drawn, 0).cpu()


def with_numpy(samples: int, vocabulary: int, device: str) -> Callable[[], Any]:
    """A step's confidences as the llama.cpp backend computes them."""
    logits = _logits(samples, vocabulary)
    drawn = logits.argmax(-1).tolist()
    return lambda: token_confidences(logits, drawn)


def timed(step: Callable[[], Any], rounds: int) -> float:
    """Median seconds, the first call left out."""
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def _logits(samples: int, vocabulary: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (3 * np.random.default_rng(0).normal(size=(samples, vocabulary))).astype(np.float32)


if __name__ == "__main__":
    main()
