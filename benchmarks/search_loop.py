"""Our loop against transformers' own: `python benchmarks/search_loop.py [MODEL] [--device cuda --dtype bfloat16]`.

Eight samples of one prompt, and eight each of eight prompts, with the same model on the same device in the same type:
`IntrospectiveLLM` with best-of-8, which reads a joint at every token, against `generate(num_return_sequences=8)`, which
reads none. Both draw from all tokens but the reserved ones at temperature 1, with no other filter, stop at the end of
a sample or at `--tokens`, and give texts. Tokens are those up to each sample's end. Rounds take turns, and so does who
goes first; the ratio is the median of each round's ratio.
On a GPU the memory bandwidth bounds both: all weights are read once a step, so steps a second are at most bandwidth
over bytes; that bound is printed too, by the bandwidth of a copy. It means little for weights that fit into a cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.reporting import device_name, table, write
from zip_introspect import IntrospectiveLLM
from zip_introspect.demo.embedded import DEMO_MODEL
from zip_introspect.demo.problems import held_out

SAMPLES = 8


def main() -> None:
    """Print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(DEMO_MODEL), help="a directory (default: the embedded model)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU, for both")
    parser.add_argument("--tokens", type=int, default=128, help="of a sample, at most")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    options = parser.parse_args()
    prompts = [problem.prompt for problem in held_out(9, SAMPLES)]
    llm = IntrospectiveLLM.from_pretrained(
        options.model, "transformers", device=options.device, dtype=options.dtype, threads=options.threads
    )
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    model = model.to(options.device).eval()
    rows = []
    for count in (1, SAMPLES):
        asked = prompts[:count]
        contestants: dict[str, Callable[[int], int]] = {
            "ours": partial(ours, llm, asked, options.tokens),
            "transformers": partial(theirs, model, tokenizer, llm, asked, options.tokens),
        }
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for seed in range(options.rounds + 1):
            for name in sorted(contestants, reverse=bool(seed % 2)):
                begun = time.perf_counter()
                tokens = contestants[name](seed)
                if seed:  # the first round warms up
                    speeds[name].append(tokens / (time.perf_counter() - begun))
        found = {name: statistics.median(values) for name, values in speeds.items()}
        ratio = statistics.median(one / other for one, other in zip(*speeds.values(), strict=True))
        rows.append({"prompts": count, "samples": count * SAMPLES, **found, "ratio": ratio})
    device = device_name(llm.info)
    if llm.info.device == "cpu":
        device += f", {torch.get_num_threads()} threads"
    print(f"{Path(options.model).name}, {llm.info.parameters / 1e6:.1f}M parameters, {options.dtype}, {device}\n")
    header = ["prompts", "samples", "ours, tokens/s", "transformers, tokens/s", "ratio"]
    told = [
        [row["prompts"], row["samples"], f"{row['ours']:,.0f}", f"{row['transformers']:,.0f}", f"{row['ratio']:.2f}"]
        for row in rows
    ]
    print(table(header, told))
    weights = sum(item.numel() * item.element_size() for item in model.parameters())
    steps = bandwidth(options.device) / weights
    print(f"\nthe bound of memory: {steps:,.0f} steps/s, so {steps * SAMPLES:,.0f} tokens/s for {SAMPLES} samples")
    figures = {"model": Path(options.model).name, "dtype": options.dtype, "device": device, "rows": rows}
    write(options.out, {**figures, "bound_steps_per_second": steps})


def bandwidth(device: str) -> float:
    """Bytes a second, of copying 256 MB on a device: each is read and written."""
    source = torch.ones(1 << 26, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(6):
        begun = time.perf_counter()
        target.copy_(source)
        float(target[-1])  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return 2 * source.numel() * source.element_size() / min(seconds)


def ours(llm: IntrospectiveLLM, prompts: Sequence[str], limit: int, seed: int) -> int:
    """Tokens of best-of-8."""
    settings: dict[str, Any] = {"strategy": "best_of_n", "max_samples": SAMPLES, "max_new_tokens": limit, "seed": seed}
    return sum(result.usage.generated_tokens for result in llm.batch(prompts, **settings))


def theirs(model: Any, tokenizer: Any, llm: IntrospectiveLLM, prompts: Sequence[str], limit: int, seed: int) -> int:
    """Tokens of `generate`, up to the end of each sample; the settings are named, for a model brings its own."""
    torch.manual_seed(seed)
    ids = [llm.backend.encode(prompt) for prompt in prompts]
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        output = model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,  # transformers' own default is 50
            top_p=1.0,
            repetition_penalty=1.0,
            num_return_sequences=SAMPLES,
            max_new_tokens=limit,
            suppress_tokens=list(llm.grid.reserved_token_ids),
            eos_token_id=list(llm.info.eos_token_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
    made = output[:, batch["input_ids"].shape[1] :].tolist()
    tokenizer.batch_decode(made, skip_special_tokens=True)
    ends = set(llm.info.eos_token_ids)
    return sum(next((place + 1 for place, token in enumerate(row) if token in ends), len(row)) for row in made)


if __name__ == "__main__":
    main()
