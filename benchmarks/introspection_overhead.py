"""What reading the joint costs: `python benchmarks/introspection_overhead.py [MODEL] [--device cuda]`.

The same backend decodes with the reserved logits read and masked at every token (with `--head`: a head computed from
the hidden state), and with nothing read or masked: what is drawn differs then, though not how long it takes. Rounds
take turns, and so does which of the two goes first; the ratio is the median of each round's ratio.
Where the machine tells its energy (RAPL, NVML), joules a token are given too, of both ways together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.reporting import device_name, table, write
from zip_introspect import IntrospectiveLLM, SamplingParams
from zip_introspect.backend.contract import Backend
from zip_introspect.demo.embedded import DEMO_GGUF, DEMO_MODEL
from zip_introspect.demo.problems import held_out
from zip_introspect.evaluation.measures.energy import EnergyMeter
from zip_introspect.heads.head import Head
from zip_introspect.heads.readout import Readout
from zip_introspect.testing.heads import random_head


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", help="a directory or GGUF file (default: the embedded model, every backend)"
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=32, help="fewer than a sample takes, so that none ends")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--device", default="auto", help="of transformers: auto is cuda where there is one, else cpu")
    parser.add_argument("--dtype", default="auto", help="of transformers")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU")
    parser.add_argument("--head", help="a head's file, or random: an untrained MLP of 64 units")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    names = [name for name, module in (("transformers", "torch"), ("llama-cpp", "llama_cpp")) if find_spec(module)]
    if options.model:
        names = ["llama-cpp" if options.model.endswith(".gguf") else "transformers"]
    for name in names:
        settings: dict[str, Any] = {"threads": options.threads} if options.threads else {}
        if name == "transformers":
            settings |= {"device": options.device, "dtype": options.dtype}
        model = options.model or str(DEMO_GGUF if name == "llama-cpp" else DEMO_MODEL)
        if options.head:
            settings["head"] = _untrained(model, name, settings) if options.head == "random" else options.head
        with IntrospectiveLLM.from_pretrained(model, name, **settings) as llm:
            told = {
                "backend": name,
                "model": Path(model).name,
                "dtype": llm.info.dtype,
                "device": device_name(llm.info),
            }
            for samples in options.samples:
                with EnergyMeter() as meter:
                    speeds = measure(llm.backend, samples, options.steps, options.rounds)
                if meter.energy is not None:
                    tokens = 2 * (options.rounds + 1) * samples * options.steps
                    speeds["joules_per_token"] = meter.energy.joules / tokens
                rows.append({**told, "samples": samples, **speeds})
    energy = ["joules a token"] if all("joules_per_token" in row for row in rows) else []
    print(
        table(
            ["backend", "model", "device", "samples", "read, tokens/s", "not read, tokens/s", "ratio", *energy],
            [
                [
                    *(row[key] for key in ("backend", "model", "device", "samples")),
                    f"{row['read']:,.0f}",
                    f"{row['blind']:,.0f}",
                    f"{row['ratio']:.3f}",
                    *([f"{row['joules_per_token']:.3g}"] if energy else []),
                ]
                for row in rows
            ],
        )
    )
    write(options.out, {"rows": rows})


def measure(backend: Backend, samples: int, steps: int, rounds: int) -> dict[str, float]:
    """Median tokens a second, read and not read, and the median of their ratio in a round."""
    prompt = backend.encode(held_out(9, 5)[4].prompt)
    speeds: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(rounds + 1):
        for read in (True, False) if seed % 2 else (False, True):
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
    ratio = statistics.median(seen / unseen for seen, unseen in zip(speeds[True], speeds[False], strict=True))
    return {"read": statistics.median(speeds[True]), "blind": statistics.median(speeds[False]), "ratio": ratio}


def blind(backend: Any, wanted: bool) -> None:
    """Let a backend read no joints and no hidden states, or all of them again."""
    seeing = backend.__dict__.setdefault("seeing", _seen(backend))
    reading = seeing["reading"]
    last = reading.reserved.stop
    backend.grid, backend.head = (None, None) if wanted else (seeing["grid"], seeing["head"])
    read = Readout(range(last, last)) if wanted else reading
    if backend.info.backend == "transformers":
        decoder = backend._decoder
        decoder.reading, decoder._first, decoder._last = read, read.reserved.start, read.reserved.stop
        decoder._head, decoder._watched = (None, None) if wanted else (seeing["computed"], seeing["watched"])
    else:
        backend._context.read_hidden(False)  # before its size is gone, by which it is known
        backend._reading, backend._context.hidden_size = read, 0 if wanted else seeing["size"]


def _seen(backend: Any) -> dict[str, Any]:
    """What a backend reads, to be given back to it."""
    about = {"grid": backend.grid, "head": backend.head}
    if backend.info.backend == "transformers":
        decoder = backend._decoder
        return {**about, "reading": decoder.reading, "computed": decoder._head, "watched": decoder._watched}
    return {**about, "reading": backend._reading, "size": backend._context.hidden_size}


def _untrained(model: str, name: str, settings: dict[str, Any]) -> Head:
    """An MLP of 64 units that fits a model."""
    with IntrospectiveLLM.from_pretrained(model, name, **settings) as llm:
        return random_head(llm.info.hidden_size or 0, ("last", "mean"), 64)


if __name__ == "__main__":
    main()
