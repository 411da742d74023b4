"""Tokens a second under llama.cpp, as ratios in one run: `python benchmarks/llama_cpp_throughput.py [MODEL.gguf]`.

Three loops draw the same number of tokens from the same file, in turns. Rates are medians of the rounds, ratios are
medians of each round's ratio:

- ours: `LlamaCppBackend`, reserved logits and all, in calls of 16 steps;
- bare: the same low-level calls in a Python loop, with llama.cpp's own sampler, and no introspection;
- high-level: `llama_cpp.Llama`, one sample, as most people use it.

End-of-sequence tokens are passed over by all, so that all do the same work, on weights laid out alike and with flash
attention. Last comes what 32 samples of a long prompt hold in cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import llama_cpp
import numpy as np

from zip_introspect.config import SamplingParams
from zip_introspect.demo.embedded import DEMO_GGUF
from zip_introspect_llama_cpp import LlamaCppBackend
from zip_introspect_llama_cpp.options import LlamaCppOptions, usable_cores

PROMPT = "Solve x*x+7*x+45=189"
INTERVAL, CELLS = 16, 16_384


_usual_params = llama_cpp.llama_model_default_params


def model_params() -> llama_cpp.llama_model_params:
    """llama.cpp's defaults, but the layout of weights that the backend chooses on this machine."""
    params = _usual_params()
    params.use_extra_bufts = LlamaCppOptions().resolved_repack()
    return params


class Bare:
    """Decoding and sampling with nothing between Python and llama.cpp."""

    def __init__(self, model: str, threads: int, sequences: int) -> None:
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), model_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = CELLS, sequences + 1, True
        params.n_threads = params.n_threads_batch = threads
        params.no_perf, params.flash_attn_type = True, llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)
        self.sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        llama_cpp.llama_sampler_chain_add(self.sampler, llama_cpp.llama_sampler_init_dist(7))

    def run(self, prompt: list[int], samples: int, steps: int) -> int:
        """Draw tokens of each sample; how many that were."""
        memory = llama_cpp.llama_get_memory(self.context)
        llama_cpp.llama_memory_clear(memory, True)
        self._add([(token, place, 0) for place, token in enumerate(prompt)], last_only=True)
        for sequence in range(1, samples):
            llama_cpp.llama_memory_seq_cp(memory, 0, sequence, 0, len(prompt))
        first = len(prompt) - 1
        tokens = [llama_cpp.llama_sampler_sample(self.sampler, self.context, first) for _ in range(samples)]
        for step in range(steps):
            self._add([(token, len(prompt) + step, sequence) for sequence, token in enumerate(tokens)])
            if step + 1 < steps:
                tokens = [llama_cpp.llama_sampler_sample(self.sampler, self.context, i) for i in range(samples)]
        return steps * samples

    def _add(self, items: list[tuple[int, int, int]], *, last_only: bool = False) -> None:
        batch = self.batch
        batch.n_tokens = len(items)
        for i, (token, place, sequence) in enumerate(items):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, place, 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = not last_only or i == len(items) - 1
        if llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")


def ours(backend: LlamaCppBackend, prompt: list[int], samples: int, steps: int) -> int:
    """The same through the backend."""
    (prefilled,) = backend.prefill([prompt])
    sequences = backend.fork(prefilled.sequence, range(samples), SamplingParams(seed=7))
    count = 0
    for _ in range(steps // INTERVAL):
        count += sum(len(run.tokens) for run in backend.advance(sequences, [INTERVAL] * samples))
    backend.release([prefilled.sequence, *sequences])
    return count


def high_level(model: llama_cpp.Llama, prompt: list[int], steps: int) -> int:
    """The same through llama-cpp-python's own generator."""
    model.reset()
    count = 0
    for _ in model.generate(prompt, top_k=0, top_p=1.0, min_p=0.0, temp=1.0, repeat_penalty=1.0):
        if count == steps:  # the token that needs no step is not counted
            break
        count += 1
    return count


def rates(loops: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Tokens a second of each loop in each round; they take turns, so that a busy machine is busy for all."""
    found: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            count = loop()
            if turn:  # the first round warms up
                found[name].append(count / (time.perf_counter() - start))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(DEMO_GGUF), type=str)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=192, help=f"tokens a sample, a multiple of {INTERVAL}")
    options = parser.parse_args()
    threads = usable_cores()
    backend = LlamaCppBackend.open(options.model, cells=CELLS, threads=threads, flash_attention=True)
    prompt = backend.encode(PROMPT)
    backend._info = dataclasses.replace(backend.info, eos_token_ids=(-1,))
    bare = Bare(options.model, threads, 32)
    llama_cpp.llama_cpp.llama_model_default_params = model_params  # the wrapper has no option for it
    wrapped = llama_cpp.Llama(options.model, n_ctx=CELLS, n_threads=threads, flash_attn=True, verbose=False)
    print(
        f"{Path(options.model).name}, {backend.info.parameters / 1e6:.1f} million parameters, {threads} threads, "
        f"{options.steps} tokens a sample, {options.rounds} rounds"
    )
    for samples in (1, 8, 32):
        loops: dict[str, Callable[[], int]] = {
            "ours": partial(ours, backend, prompt, samples, options.steps),
            "bare": partial(bare.run, prompt, samples, options.steps),
        }
        if samples == 1:
            loops["high-level"] = partial(high_level, wrapped, prompt, options.steps)
        found = rates(loops, options.rounds)
        texts = [f"{name} {statistics.median(values):,.0f} tokens/s" for name, values in found.items()]
        for name in list(loops)[1:]:
            ratio = statistics.median(one / other for one, other in zip(found["ours"], found[name], strict=True))
            texts.append(f"ours / {name} = {ratio:.2f}")
        print(f"{samples:3d} samples: {', '.join(texts)}", flush=True)
    longest = backend.info.max_context - INTERVAL
    (long,) = backend.prefill([np.resize(prompt, min(1000, longest)).tolist()])
    sequences = backend.fork(long.sequence, range(32), SamplingParams(seed=1))
    backend.advance(sequences, [INTERVAL] * 32)
    size = min(1000, longest)
    apart = 32 * (size + INTERVAL)
    print(
        f"cells of 32 samples of a {size}-token prompt after {INTERVAL} tokens each: {backend.used_cells} "
        f"({size} + 32 x {INTERVAL} = {size + 32 * INTERVAL}; with a prompt each it would be {apart})"
    )


if __name__ == "__main__":
    main()
